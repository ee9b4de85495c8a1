//! A decision in words. Allocates; not for the request path.

use super::{
    Choice, Decision, Limits,
    estimate::{Basis, Estimate},
};
use crate::{
    rules::{Class, Reason, Warmth},
    validity::BackendValidity,
};
use phase_core::Shape;
use std::fmt;

/// Renders a [`Decision`] for a person: what, why, from which evidence.
#[derive(Clone, Copy, Debug)]
pub struct Explanation<'d, 'r>(&'d Decision<'r>);

impl<'r> Decision<'r> {
    /// The decision in words, with numbers, units and the evidence behind them.
    pub fn explain(&self) -> Explanation<'_, 'r> {
        Explanation(self)
    }
}

impl Explanation<'_, '_> {
    /// For a terminal: the same in lines of 80 columns.
    pub fn wrapped(&self) -> String {
        let mut text = String::new();
        for line in self.to_string().lines() {
            // Writing to a string can't fail.
            let _ = crate::policy::wrap(&mut text, line);
        }
        text
    }
}

impl fmt::Display for Explanation<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let d = self.0;
        let w = d.workload;
        writeln!(
            f,
            "Request: batch {}, {} prompt tokens, {} new tokens: {}{}.",
            w.batch,
            w.prompt_tokens,
            w.new_tokens,
            d.class,
            Because(d)
        )?;
        writeln!(f, "Route: {}.", Reasoned(&d.route))?;
        match d.limits {
            Limits::Unset => {}
            Limits::Kept => writeln!(f, "Limits {}: kept.", d.router.slo())?,
            Limits::Missed => writeln!(f, "Limits {}: may be missed, and nothing that runs is known to keep them.", d.router.slo())?,
            Limits::NotKnown => writeln!(f, "Limits {}: nothing is known, too little was measured here.", d.router.slo())?,
        }
        match d.cold_limits() {
            Limits::Unset => {}
            Limits::Kept => writeln!(f, "Limits on cold requests {}: kept.", d.router.cold_slo())?,
            Limits::Missed => writeln!(f, "Limits on cold requests {}: may be missed, warm it first.", d.router.cold_slo())?,
            Limits::NotKnown => {
                writeln!(f, "Limits on cold requests {}: nothing is known, too little was measured cold.", d.router.cold_slo())?;
            }
        }
        match d.predicted() {
            Some(p) => {
                let mode = |compiled| if compiled { " compiled" } else { "" };
                write!(f, "Predicted on {}: prefill{} {}", d.route.backend, mode(d.compile.prefill), Time(&p.prefill))?;
                if let Some(step) = &p.decode_step {
                    let (steps, mode) = (p.decode_steps, mode(d.compile.decode));
                    write!(f, ", {steps}{mode} decode steps of {}, together {}", Time(step), Time(&p.total))?;
                }
                writeln!(f, ". Sampling and streaming are not in it.")?;
            }
            None => writeln!(f, "Predicted: nothing, there is no measurement to predict from.")?,
        }
        for (name, choice) in [("Prefill", &d.prefill()), ("Decode", &d.decode())] {
            writeln!(f, "{name} by itself: {}{}.", Reasoned(choice), Bucket(choice.bucket))?;
        }
        if d.rest != super::Rest::Unset {
            writeln!(f, "Rest of {}: {}.", d.route.backend, d.rest)?;
        }
        self.warmup(f)?;
        let compile = d.compile;
        let word = |yes: bool| if yes { "yes" } else { "no" };
        writeln!(f, "Compile prefill: {}, {}.", word(compile.prefill), compile.reason)?;
        writeln!(
            f,
            "Compile decode: {}, {}{}.",
            word(compile.decode),
            compile.decode_reason,
            if compile.decode { "" } else { "; it stays eager" }
        )?;
        writeln!(f, "Energy: {}.", d.energy())?;
        self.changes(f)?;
        self.evidence(f)
    }
}

impl Explanation<'_, '_> {
    fn warmup(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (phase, warmth) in [("prefill", self.0.warmup().prefill), ("decode", self.0.warmup().decode)] {
            match warmth {
                Warmth::Measured { cold_ns, ratio, n, required } => {
                    let must = if required { "must be warm before it is routed to" } else { "warm it where the first call matters" };
                    writeln!(
                        f,
                        "Warm-up: the first {phase} on {} takes {}, {ratio:.1} times a steady one (n = {n}); {must}.",
                        self.0.route.backend,
                        Nanos(cold_ns)
                    )?;
                }
                Warmth::NotMeasured => {
                    writeln!(f, "Warm-up: no cold {phase} on {} was measured in this bucket.", self.0.route.backend)?;
                }
            }
        }
        Ok(())
    }

    fn changes(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(validity) = self.0.router.validity() else { return Ok(()) };
        for (backend, state) in &validity.backends {
            if let BackendValidity::Changed(mismatch) = state {
                writeln!(f, "Changed since the measurement of {backend}: {mismatch}.")?;
            }
        }
        Ok(())
    }

    fn evidence(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let policy = self.0.router.policy();
        for arm in self.0.sides.iter().flatten().flat_map(|side| &side.arms).flatten() {
            let cell = &policy.cells()[arm.cell];
            let median = cell.time.map_or(f64::NAN, |t| t.median_ns);
            writeln!(
                f,
                "Evidence: {}: median {}, n = {}, {} blocks, boundary {}.",
                cell.key.id(),
                Nanos(median),
                cell.n,
                cell.blocks.len(),
                cell.boundary
            )?;
        }
        let runs = if policy.runs().is_empty() { "runs not named".to_owned() } else { format!("runs {}", policy.runs().join(", ")) };
        let short = policy.digest().get(..16).unwrap_or_default();
        write!(f, "Policy {short}, {runs}.")
    }
}

/// Why the class is what it is.
struct Because<'d, 'r>(&'d Decision<'r>);

impl fmt::Display for Because<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let constants = self.0.router.policy().constants();
        let share = |f: &mut fmt::Formatter<'_>, share: f64| write!(f, "; decode is predicted to take {:.0}% of phase time", share * 100.0);
        match self.0.class {
            Class::DecodeHeavy if self.0.workload.new_tokens >= constants.decode_heavy_new_tokens => {
                write!(f, ", because it generates {} tokens or more", constants.decode_heavy_new_tokens)?;
            }
            Class::DecodeHeavy => {
                write!(f, ", because decode takes more than {:.0}% of phase time", constants.decode_heavy_fraction * 100.0)?;
            }
            Class::PrefillHeavy => write!(f, ", because it is batched and generates at most {} tokens", constants.minimal_new_tokens)?,
            Class::Mixed => {}
        }
        self.0.decode_fraction.map_or(Ok(()), |v| share(f, v))
    }
}

/// A choice with its reason.
struct Reasoned<'c, 'r>(&'c Choice<'r>);

impl fmt::Display for Reasoned<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Choice { backend, against, reason, .. } = self.0;
        let against = against.map_or("another", |id| id.as_str());
        match reason {
            Reason::Winner { ratio } => write!(f, "{backend}, measured faster: its time over that of {against} is {ratio}"),
            Reason::Tie { ratio } => write!(f, "{backend}, by default: a tie, its time over that of {against} is {ratio}"),
            Reason::Ambiguous { ratio } => write!(f, "{backend}, by default: undecided, its time over that of {against} is {ratio}"),
            Reason::TooFewBlocks { blocks, needed } => {
                write!(f, "{backend}, by default: {against} shares {blocks} measured blocks with it, a comparison takes {needed}")
            }
            Reason::Failures { failed, calls } => write!(f, "{backend}, by default: {against} failed {failed} of {calls} calls"),
            Reason::ContextsDiffer { ours, theirs } => {
                write!(f, "{backend}, by default: {against} was measured at context {ours}, it at {theirs}")
            }
            Reason::Cooled { extra_ns } => {
                write!(f, "{backend}, by default: {against} is cold, and its first calls take {} more", Nanos(*extra_ns))
            }
            Reason::Misplaced { share } => {
                write!(
                    f,
                    "{backend}, by default: the runtime's records of {against} or of the default show {:.0}% on another device",
                    share * 100.0
                )
            }
            Reason::NotSteady { unsteady, judged } => {
                write!(f, "{backend}, by default: it or {against} slowed down or never settled in {unsteady} of {judged} blocks")
            }
            Reason::NoCell => write!(f, "{backend}, by default: it was not measured here, so nothing can be called better"),
            Reason::NoEnergy => write!(f, "{backend}, by default: energy counts, and was not measured on it and on {against}"),
            Reason::Incumbent { ratio } => {
                write!(f, "{backend}, which has the route: {against} would take {ratio:.3} of it, which is not enough to change")
            }
            Reason::KeepsLimits => write!(f, "{backend}, because it keeps the limits by upper bounds, and {against} is not known to"),
            Reason::OnlyBackend => write!(f, "{backend}, by default: no other backend that runs was measured here"),
            Reason::NotLive => write!(f, "{backend}, by default, although it does not run here: nothing that runs is known to be better"),
            Reason::OutsideEnvelope(outside) => write!(f, "{backend}, by default: {outside}"),
            Reason::BoundaryChanged => {
                write!(f, "{backend}, by default: {against} no longer runs under the boundary it was measured under")
            }
        }
    }
}

struct Bucket(Option<Shape>);

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(Shape { batch, new_tokens, context: 0 }) => write!(f, " (bucket: batch {batch}, {new_tokens} tokens)"),
            Some(Shape { batch, context, .. }) => {
                write!(f, " (bucket: batch {batch}, context {context} to {})", context.saturating_mul(2) - 1)
            }
            None => Ok(()),
        }
    }
}

struct Time<'e>(&'e Estimate);

impl fmt::Display for Time<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Estimate { ns, interval, basis, .. } = self.0;
        write!(f, "{}", Nanos(*ns))?;
        if let Some(i) = interval {
            write!(f, " [{}, {} at {:.0}%]", Nanos(i.low), Nanos(i.high), i.confidence * 100.0)?;
        }
        f.write_str(match basis {
            Basis::Measured => "",
            Basis::Interpolated => " (interpolated)",
            Basis::Nearest => " (nearest measured length)",
            Basis::Scaled => " (scaled per token)",
        })
    }
}

/// Nanoseconds in the unit that reads best.
pub(crate) struct Nanos(pub(crate) f64);

impl fmt::Display for Nanos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            ns if ns < 1e3 => write!(f, "{ns:.0} ns"),
            ns if ns < 1e6 => write!(f, "{:.2} us", ns / 1e3),
            ns if ns < 1e9 => write!(f, "{:.2} ms", ns / 1e6),
            ns => write!(f, "{:.2} s", ns / 1e9),
        }
    }
}
