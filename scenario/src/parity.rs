//! Do the backends agree? A number of a backend that computes something else may not win a route.
//!
//! The reference decodes greedily; every other backend is fed the same tokens, so that one disagreement does not breed
//! others. At every position all scores are compared. A different greedy token counts unless the reference's own two
//! best scores are closer than twice the tolerance: then either choice is right.

use crate::{
    ParitySpec, ScenarioError,
    random::{Random, tokens},
};
use phase_core::{Arm, BoxError, CacheSpec, DType, Logits, Model, PromptBatch, TokenId};
use serde::{Deserialize, Serialize};

/// Schema of `parity.json`.
pub const PARITY_SCHEMA: &str = "phase.parity/1";

/// The agreement check of one run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Parity {
    /// [`PARITY_SCHEMA`].
    pub schema: String,
    /// The run.
    pub run_id: String,
    /// What was compared.
    pub spec: ParitySpec,
    /// One entry for each backend and process of the run.
    pub checks: Vec<ParityCheck>,
}

/// How one backend compared.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ParityCheck {
    /// Who was checked.
    pub backend: Arm,
    /// The process of the run, from 0.
    pub segment: u32,
    /// Against whom.
    pub reference: Option<Arm>,
    /// The outcome.
    pub verdict: ParityVerdict,
    /// Largest absolute difference of a score; absent when none could be compared or one was not a number.
    pub max_abs_diff: Option<f64>,
    /// What was allowed.
    pub tolerance: Option<f64>,
    /// Rows of scores compared.
    pub rows_compared: u64,
    /// Greedy tokens that differ, near ties apart.
    pub tokens_different: u64,
    /// Greedy tokens that differ where the reference's two best scores are within twice the tolerance.
    pub near_ties: u64,
    /// What is wrong, in words; empty when nothing is.
    pub why: String,
}

/// The outcome of the agreement check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ParityVerdict {
    /// Within the tolerance, same tokens.
    Agrees,
    /// Not so.
    Differs,
    /// It could not be run.
    Failed,
    /// The others were compared with it.
    Reference,
}

impl Parity {
    pub(crate) fn new(run_id: &str, spec: &ParitySpec) -> Self {
        Self { schema: PARITY_SCHEMA.to_owned(), run_id: run_id.to_owned(), spec: spec.clone(), checks: Vec::new() }
    }

    /// Whether every check of this backend went well, and there was one.
    pub fn passed(&self, backend: &Arm) -> bool {
        let mut checks = self.checks.iter().filter(|c| c.backend == *backend).peekable();
        checks.peek().is_some() && checks.all(|c| matches!(c.verdict, ParityVerdict::Agrees | ParityVerdict::Reference))
    }
}

/// The scores of one backend at every compared position, and the tokens fed between them.
#[derive(Debug)]
pub(crate) struct Transcript {
    scores: Vec<Logits>,
    fed: Vec<Vec<TokenId>>,
}

/// Runs the check's calls. Without `follow` the model's own greedy tokens are fed.
pub(crate) fn transcript<M: Model>(
    model: &mut M,
    spec: &ParitySpec,
    seed: u64,
    text: &[TokenId],
    follow: Option<&Transcript>,
) -> Result<Transcript, BoxError> {
    let backend = model.info().backend.clone();
    let wrap = |e: M::Error| BoxError::new(backend.clone(), e);
    let mut cache = model.allocate(CacheSpec { batch: spec.batch, capacity: spec.prompt_tokens + spec.decode_steps }).map_err(wrap)?;
    let vocab = model.info().vocab;
    let prompt = tokens(&mut Random::new(seed, "parity"), spec.batch * spec.prompt_tokens, vocab, text);
    let prompt = PromptBatch::new(&prompt, spec.batch).map_err(|e| BoxError::new(backend.clone(), e))?;
    let mut out = Transcript { scores: vec![Logits::new()], fed: Vec::new() };
    model.prefill(&mut cache, prompt, &mut out.scores[0]).map_err(wrap)?;
    for step in 0..spec.decode_steps {
        let next = match follow {
            Some(reference) => reference.fed[step].clone(),
            None => out.scores[step].argmax(),
        };
        let mut scores = Logits::new();
        model.decode(&mut cache, &next, &mut scores).map_err(wrap)?;
        out.scores.push(scores);
        out.fed.push(next);
    }
    Ok(out)
}

/// The allowed difference for a dtype.
pub(crate) fn tolerance(spec: &ParitySpec, dtype: DType) -> Result<f64, ScenarioError> {
    spec.tolerance.get(&dtype).copied().ok_or_else(|| ScenarioError::plan(format!("the parity check has no tolerance for {dtype}")))
}

/// A check that compared nothing.
pub(crate) fn bare(backend: &Arm, segment: u32, verdict: ParityVerdict, why: impl Into<String>) -> ParityCheck {
    ParityCheck {
        backend: backend.clone(),
        segment,
        reference: None,
        verdict,
        max_abs_diff: None,
        tolerance: None,
        rows_compared: 0,
        tokens_different: 0,
        near_ties: 0,
        why: why.into(),
    }
}

/// Compares position by position, row by row.
pub(crate) fn judge(check: ParityCheck, ours: &Transcript, reference: &Transcript, tolerance: f64) -> ParityCheck {
    let mut check = ParityCheck { tolerance: Some(tolerance), verdict: ParityVerdict::Differs, ..check };
    let mut worst = 0.0_f64;
    for (a, b) in ours.scores.iter().zip(&reference.scores) {
        if (a.batch(), a.vocab()) != (b.batch(), b.vocab()) {
            check.why = format!("{} rows of {} scores where the reference has {} of {}", a.batch(), a.vocab(), b.batch(), b.vocab());
            return check;
        }
        for (row, (x, y)) in a.rows().zip(b.rows()).enumerate() {
            if x.iter().chain(y).any(|v| !v.is_finite()) {
                check.why = format!("a score of row {row} is not a finite number");
                return check;
            }
            check.rows_compared += 1;
            worst = x.iter().zip(y).map(|(p, q)| f64::from(p - q).abs()).fold(worst, f64::max);
            if phase_core::argmax(x) != phase_core::argmax(y) {
                if margin(y) <= 2.0 * tolerance { check.near_ties += 1 } else { check.tokens_different += 1 }
            }
        }
    }
    check.max_abs_diff = Some(worst);
    match (worst <= tolerance, check.tokens_different) {
        _ if check.rows_compared == 0 => check.why = "nothing was compared".to_owned(),
        (true, 0) => check.verdict = ParityVerdict::Agrees,
        (true, n) => check.why = format!("{n} greedy tokens differ"),
        (false, n) => check.why = format!("scores differ by up to {worst:.4}, {tolerance} is allowed; {n} greedy tokens differ"),
    }
    check
}

/// How far the best score is ahead of the second.
fn margin(row: &[f32]) -> f64 {
    let (mut best, mut second) = (f32::NEG_INFINITY, f32::NEG_INFINITY);
    for v in row {
        if *v > best {
            (best, second) = (*v, best);
        } else {
            second = second.max(*v);
        }
    }
    f64::from(best) - f64::from(second)
}

#[cfg(test)]
mod tests {
    use super::*;
    use phase_core::BackendId;

    fn scores(rows: &[[f32; 3]]) -> Transcript {
        let mut logits = Logits::new();
        logits.reset(rows.len(), 3).copy_from_slice(&rows.concat());
        Transcript { scores: vec![logits], fed: Vec::new() }
    }

    fn check(ours: &[[f32; 3]], theirs: &[[f32; 3]]) -> ParityCheck {
        judge(bare(&Arm::from(BackendId::new("x")), 0, ParityVerdict::Failed, ""), &scores(ours), &scores(theirs), 0.1)
    }

    #[test]
    fn verdicts_follow_scores_and_tokens() {
        let agrees = check(&[[1.0, 2.0, 3.05]], &[[1.0, 2.0, 3.0]]);
        assert_eq!((agrees.verdict, agrees.rows_compared), (ParityVerdict::Agrees, 1));
        assert!(check(&[[1.0, 2.0, 3.2]], &[[1.0, 2.0, 3.0]]).why.contains("0.2000"));
        let tie = check(&[[1.0, 3.06, 3.0]], &[[1.0, 3.0, 3.01]]);
        assert_eq!((tie.verdict, tie.near_ties), (ParityVerdict::Agrees, 1));
    }

    #[test]
    fn nonsense_never_agrees() {
        for ours in [[f32::NAN, 2.0, 3.0], [f32::INFINITY, 2.0, 3.0]] {
            let got = check(&[ours], &[[1.0, 2.0, 3.0]]);
            assert_eq!((got.verdict, got.max_abs_diff), (ParityVerdict::Differs, None));
        }
        assert_eq!(check(&[[1.0; 3], [1.0; 3]], &[[1.0; 3]]).verdict, ParityVerdict::Differs);
        assert_eq!(check(&[], &[]).verdict, ParityVerdict::Differs);
    }

    #[test]
    fn a_backend_without_a_check_has_not_passed() {
        let spec = crate::ScenarioSet::built_in("s0").unwrap().parity.unwrap();
        let mut parity = Parity::new("r", &spec);
        let id = Arm::from(BackendId::new("x"));
        assert!(!parity.passed(&id));
        parity.checks.push(bare(&id, 0, ParityVerdict::Reference, ""));
        assert!(parity.passed(&id));
        parity.checks.push(bare(&id, 1, ParityVerdict::Failed, "out of memory"));
        assert!(!parity.passed(&id));
    }
}
