//! The decision card: what the policy answers for the requests that were measured, and why.

use crate::figure::{Ratio, plural};
use phase_policy::{Choice, Class, Decision, Reason, Router, Workload};
use serde::Serialize;

/// The decisions of one policy.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Card {
    /// Who gets ties and doubts; `None` when there is no policy.
    pub default_safe: Option<String>,
    /// Why no policy can be made; `None` when there is one.
    pub no_policy: Option<String>,
    /// Digest of the policy.
    pub policy: Option<String>,
    /// Half-width of the region of practical equivalence.
    pub rope: f64,
    /// Confidence of the ratios.
    pub confidence: f64,
    /// One row for each request, by class.
    pub decisions: Vec<DecisionRow>,
}

/// How sure a route is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Standing {
    /// Measured to be faster by more than the region of equivalence.
    Faster,
    /// Surely no difference that matters: default-safe.
    Tie,
    /// The interval crosses an edge of the region: default-safe.
    Undecided,
    /// Nothing to compare, or something forbids it: default-safe.
    Default,
}

impl Standing {
    /// The word shown.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Faster => "faster",
            Self::Tie => "tie",
            Self::Undecided => "undecided",
            Self::Default => "by default",
        }
    }
}

/// A backend chosen for one thing, and why.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Alone {
    /// Who.
    pub backend: String,
    /// How sure.
    pub standing: Standing,
    /// Its time over the other's, where there is a number.
    pub ratio: Option<Ratio>,
    /// The other.
    pub against: Option<String>,
    /// The reason in a few words.
    pub why: String,
}

/// One request and where it goes.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct DecisionRow {
    /// Its class.
    pub class: Class,
    /// Sequences.
    pub batch: usize,
    /// Prompt tokens of each.
    pub prompt_tokens: usize,
    /// New tokens of each.
    pub new_tokens: usize,
    /// Predicted share of decode in phase time.
    pub decode_fraction: Option<f64>,
    /// Predicted time of the request on its route, in milliseconds: value and bounds.
    pub predicted_ms: Option<f64>,
    /// Lower and upper end of that prediction.
    pub predicted_interval_ms: Option<[f64; 2]>,
    /// The route.
    pub route: Alone,
    /// Who prefills best by itself.
    pub prefill: Alone,
    /// Who decodes best by itself; `None` where the request has no decode step.
    pub decode: Option<Alone>,
    /// Ids of the cells behind the decision.
    pub evidence: Vec<String>,
}

impl Alone {
    pub(crate) fn of(choice: &Choice<'_>) -> Self {
        let (standing, ratio, why) = reason(&choice.reason);
        Self { backend: choice.backend.to_string(), standing, ratio, against: choice.against.map(ToString::to_string), why }
    }
}

impl Card {
    /// A card without a policy.
    pub(crate) fn without(why: String) -> Self {
        let constants = phase_policy::constants::Constants::default();
        let (rope, confidence) = (constants.rope, constants.confidence);
        Self { default_safe: None, no_policy: Some(why), policy: None, rope, confidence, decisions: Vec::new() }
    }

    pub(crate) fn of(router: &Router, requests: &[Workload]) -> Self {
        let policy = router.policy();
        let mut decisions: Vec<_> = requests.iter().map(|request| row(&router.decide(request))).collect();
        decisions.sort_by_key(|d| (d.class.to_string(), d.batch, d.prompt_tokens, d.new_tokens));
        Self {
            default_safe: Some(policy.default_safe().to_string()),
            no_policy: None,
            policy: Some(policy.digest().to_owned()),
            rope: policy.constants().rope,
            confidence: policy.constants().confidence,
            decisions,
        }
    }
}

fn row(decision: &Decision<'_>) -> DecisionRow {
    let Workload { batch, prompt_tokens, new_tokens, .. } = decision.workload;
    let predicted = decision.predicted();
    DecisionRow {
        class: decision.class,
        batch,
        prompt_tokens,
        new_tokens,
        decode_fraction: decision.decode_fraction,
        predicted_ms: predicted.map(|p| p.total.ns / 1e6),
        predicted_interval_ms: predicted.and_then(|p| p.total.interval).map(|i| [i.low / 1e6, i.high / 1e6]),
        route: Alone::of(&decision.route),
        prefill: Alone::of(&decision.prefill()),
        decode: (new_tokens > 1).then(|| Alone::of(&decision.decode())),
        evidence: decision.evidence(),
    }
}

fn reason(reason: &Reason) -> (Standing, Option<Ratio>, String) {
    let default = |words: String| (Standing::Default, None, words);
    match reason {
        Reason::Winner { ratio } => (Standing::Faster, Some((*ratio).into()), "measured faster".to_owned()),
        Reason::Tie { ratio } => (Standing::Tie, Some((*ratio).into()), "no difference that matters".to_owned()),
        Reason::Ambiguous { ratio } => (Standing::Undecided, Some((*ratio).into()), "the interval crosses the tie region".to_owned()),
        Reason::TooFewBlocks { blocks, needed } => default(format!("{blocks} common {}, {needed} needed", plural(*blocks, "block"))),
        Reason::Failures { failed, calls } => default(format!("{failed} of {calls} calls of the other failed")),
        Reason::ContextsDiffer { ours, theirs } => default(format!("measured at contexts {ours} and {theirs}")),
        Reason::NotSteady { unsteady, judged } => default(format!("{unsteady} of {judged} blocks not steady")),
        Reason::NoCell => default("not measured".to_owned()),
        Reason::NoEnergy => default("energy counts and was not measured".to_owned()),
        Reason::OnlyBackend => default("only one measured".to_owned()),
        Reason::NotLive => default("not running".to_owned()),
        Reason::OutsideEnvelope(outside) => default(outside.to_string()),
        Reason::BoundaryChanged => default("boundary changed".to_owned()),
        Reason::KeepsLimits => default("keeps the limits".to_owned()),
        Reason::Incumbent { .. } => default("has the route".to_owned()),
        _ => default("see the policy".to_owned()),
    }
}
