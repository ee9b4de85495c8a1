//! Traffic, classification, route, warm-up, measurement: the way of a request, with this run's numbers.

use crate::{
    card::{Card, Standing},
    cold::{FirstCall, worst},
    figure::{count, digits, plural},
};
use phase_policy::Workload;
use serde::Serialize;
use std::collections::BTreeMap;

/// One step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Step {
    /// Its name.
    pub name: &'static str,
    /// Its number or word.
    pub head: String,
    /// What is behind it.
    pub detail: String,
}

pub(crate) fn steps(card: &Card, requests: &[Workload], first_calls: &[FirstCall], calls: Option<[u64; 3]>, cells: usize) -> Vec<Step> {
    let step = |name, head: String, detail: String| Step { name, head, detail };
    let n = requests.len();
    let mut classes: BTreeMap<String, usize> = BTreeMap::new();
    let mut routes: BTreeMap<&str, usize> = BTreeMap::new();
    for d in &card.decisions {
        *classes.entry(d.class.to_string()).or_default() += 1;
        *routes.entry(&d.route.backend).or_default() += 1;
    }
    let with = |standing| card.decisions.iter().filter(|d| d.route.standing == standing).count();
    let list = |map: Vec<(String, usize)>| map.into_iter().map(|(name, n)| format!("{n} {name}")).collect::<Vec<_>>().join(", ");
    let batches: Vec<_> = requests.iter().map(|d| d.batch).collect();
    let prompts: Vec<_> = requests.iter().map(|d| d.prompt_tokens).collect();
    let span = |values: &[usize]| match (values.iter().min(), values.iter().max()) {
        (Some(a), Some(b)) if a == b => a.to_string(),
        (Some(a), Some(b)) => format!("{a}\u{2013}{b}"),
        _ => "-".to_owned(),
    };
    let warm = first_calls.iter().filter(|c| c.warm_pool).count();
    let warmup = worst(first_calls).map_or_else(
        || step("warm up", "no_data".to_owned(), "no first call of a fresh process was measured".to_owned()),
        |w| {
            let times = digits(w.ratio.unwrap_or(0.0));
            let need = if warm > 0 {
                format!("{warm} {} a warm pool", if warm == 1 { "path needs" } else { "paths need" })
            } else {
                "no path needs a warm pool".to_owned()
            };
            step("warm up", format!("{times}\u{d7}"), format!("worst first call against steady: {} {}; {need}", w.arm, w.phase))
        },
    );
    let measured = match calls {
        Some([calls, failed, blocks]) => step(
            "measure and audit",
            format!("{} calls", count(calls)),
            format!("{failed} failed, in {blocks} {}; {cells} cells under one seal", plural(usize::try_from(blocks).unwrap_or(2), "block")),
        ),
        None => step("measure and audit", format!("{cells} cells"), "under the policy's digest; the events are in its runs".to_owned()),
    };
    let head = |map: &BTreeMap<&str, usize>| {
        map.iter().max_by_key(|(_, n)| **n).map_or_else(|| "default-safe".to_owned(), |(name, _)| (*name).to_owned())
    };
    let traffic = step(
        "traffic",
        format!("{n} {}", plural(n, "request shape")),
        format!("batch {}, prompt {} tokens", span(&batches), span(&prompts)),
    );
    if card.no_policy.is_some() {
        let none = |name| step(name, "nothing".to_owned(), "there is no policy".to_owned());
        return vec![traffic, none("classify"), none("route"), warmup, measured];
    }
    vec![
        traffic,
        step(
            "classify",
            format!("{} {}", classes.len(), if classes.len() == 1 { "class" } else { "classes" }),
            list(classes.into_iter().collect()),
        ),
        step(
            "route",
            head(&routes),
            format!(
                "{}; {} faster, {} ties, {} undecided, {} by default",
                list(routes.into_iter().map(|(a, n)| (a.to_owned(), n)).collect()),
                with(Standing::Faster),
                with(Standing::Tie),
                with(Standing::Undecided),
                with(Standing::Default)
            ),
        ),
        warmup,
        measured,
    ]
}
