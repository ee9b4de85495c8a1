//! Doing what the plan says.

use super::{
    Busy, Extent, Load, LoadError, Plan, Pulses, Step, Test,
    analysis::{Period, period},
};
use crate::{Condition, ReadingKind, Recording, Sampler, SamplerCost, SamplerError, SamplerPlan, Source};
use phase_core::{Clock, Timestamp};
use serde::{Deserialize, Serialize};
use std::{sync::Arc, time::Duration};

/// What was done in one stretch of sampling, and what the sources said.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Part {
    /// One a source.
    pub recordings: Vec<Recording>,
    /// The steps, with their pulses as they came out.
    pub steps: Vec<Done>,
}

/// A step that was done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Done {
    /// The step.
    pub step: Step,
    /// Its pulses.
    pub busy: Vec<Busy>,
    /// T7: what the device's counter gained over it, rest included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counted: Option<Counted>,
    /// T7: what the sampler took of a core meanwhile, where there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sampler: Option<SamplerCost>,
}

/// What a counter gained from one of its updates to another.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Counted {
    /// From this update to the other, seconds.
    pub seconds: f64,
    /// The difference.
    pub joules: f64,
}

/// Everything a calibration recorded.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Measurements {
    /// What the load was.
    pub load: String,
    /// T1, then T2 to T6, T8 and the sweep.
    pub parts: Vec<Part>,
    /// T7: its steps; what was read meanwhile is of no interest.
    pub perturbation: Vec<Done>,
}

/// Why a calibration did not come to its end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CalibrationError {
    /// The load.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The sampler.
    #[error(transparent)]
    Sampler(#[from] SamplerError),
    /// There is nothing to calibrate.
    #[error("no source to calibrate")]
    NoSource,
}

impl Part {
    /// A part of which everything is known.
    pub const fn new(recordings: Vec<Recording>, steps: Vec<Done>) -> Self {
        Self { recordings, steps }
    }
}

impl Measurements {
    /// Measurements of which everything is known.
    pub const fn new(load: String, parts: Vec<Part>, perturbation: Vec<Done>) -> Self {
        Self { load, parts, perturbation }
    }
}

impl Done {
    /// A step and its pulses.
    pub const fn new(step: Step, busy: Vec<Busy>) -> Self {
        Self { step, busy, counted: None, sampler: None }
    }
}

/// The sources and conditions of one stretch of sampling.
pub type Sources = (Vec<Box<dyn Source>>, Vec<Box<dyn Condition>>);

/// Runs T1 to T8 on `load`, sampling what `sources` opens anew for each stretch. Takes about four minutes, short about two.
///
/// `progress` is told what comes next. Nothing is judged here: [`analyse`](super::analyse) does that.
///
/// # Errors
/// [`CalibrationError`].
pub fn calibrate(
    clock: &Arc<dyn Clock>,
    sources: &mut dyn FnMut() -> Sources,
    load: &mut dyn Load,
    plan: SamplerPlan,
    extent: Extent,
    progress: &mut dyn FnMut(&str),
) -> Result<Measurements, CalibrationError> {
    let mut sampled = |load: &mut dyn Load, steps: &[Step]| -> Result<Part, CalibrationError> {
        let (sources, conditions) = sources();
        if sources.is_empty() {
            return Err(CalibrationError::NoSource);
        }
        let sampler = Sampler::start(Arc::clone(clock), sources, conditions, plan)?;
        let steps = run_steps(&**clock, load, steps, MARGIN)?;
        // The last edge has to reach the slowest sensor.
        std::thread::sleep(MARGIN);
        Ok(Part { recordings: sampler.stop()?, steps })
    };
    let first = Plan::first();
    let about = if extent == Extent::Short { "two" } else { "four" };
    progress(&format!("T1 period: {:.0} s, of about {about} minutes in all", first.seconds()));
    let first = sampled(load, &first.steps)?;
    let periods: Vec<f64> = periods(&first).into_iter().flatten().map(|p| p.mean_s).collect();
    let rest = Plan::rest(&periods, extent);
    let perturbation = Plan::perturbation();
    progress(&format!("T2 to T6, T8: {:.0} s, of {:.0} s left", rest.seconds(), rest.seconds() + perturbation.seconds()));
    let rest = sampled(load, &rest.steps)?;
    progress(&format!("T7 perturbation: {:.0} s, the last", perturbation.seconds()));
    let mut counter = sources().0.into_iter().find(|s| s.kind() == ReadingKind::Counter);
    let mut done = Vec::new();
    for step in &perturbation.steps {
        let one = std::slice::from_ref(step);
        let pace = match step.test {
            Test::Polled => Some(plan),
            Test::Paced => Some(SamplerPlan::default().with_capacity(plan.capacity)),
            _ => None,
        };
        let start = |plan| {
            let (sources, conditions) = sources();
            Sampler::start(Arc::clone(clock), sources, conditions, plan)
        };
        let sampler = pace.map(start).transpose()?;
        let before = counter.as_mut().and_then(|c| update(&**clock, &mut **c));
        let mut steps = run_steps(&**clock, load, one, MARGIN)?;
        std::thread::sleep(MARGIN);
        let after = counter.as_mut().and_then(|c| update(&**clock, &mut **c));
        if let (Some((from, first)), Some((to, last))) = (before, after) {
            let counted = Counted { seconds: to.since(from).as_secs_f64(), joules: (last - first) / 1e3 };
            steps.iter_mut().for_each(|d| d.counted = Some(counted));
        }
        if let Some(sampler) = sampler {
            let cost = sampler.stop()?.first().and_then(|r| r.lateness.cost);
            steps.iter_mut().for_each(|d| d.sampler = cost);
        }
        done.append(&mut steps);
    }
    Ok(Measurements { load: load.name().to_owned(), parts: vec![first, rest], perturbation: done })
}

/// The next update of a counter, millijoules: read every millisecond for up to a second.
fn update(clock: &dyn Clock, counter: &mut dyn Source) -> Option<(Timestamp, f64)> {
    let mut value = || {
        let mut found = None;
        counter.read(&mut |v| found = Some(v.reading.value())).ok()?;
        found
    };
    let first = value()?;
    for _ in 0..1000 {
        std::thread::sleep(Duration::from_millis(1));
        let next = value()?;
        if next > first {
            return Some((clock.now(), next));
        }
    }
    None
}

/// T1 of each source.
pub(super) fn periods(part: &Part) -> Vec<Option<Period>> {
    let busy = part.steps.iter().flat_map(|d| &d.busy).max_by_key(|b| b.end.since(b.start));
    let of = |r: &Recording| busy.and_then(|b| period(&r.samples, b.start.as_nanos(), b.end.as_nanos()));
    part.recordings.iter().map(of).collect()
}

/// Has `load` do `steps`, one after the other; the first begins no earlier than `margin` from now. A step with a phase
/// begins on a grid of its period, shifted by it.
///
/// # Errors
/// The load's.
pub fn run_steps(clock: &dyn Clock, load: &mut dyn Load, steps: &[Step], margin: Duration) -> Result<Vec<Done>, LoadError> {
    let mut done = Vec::with_capacity(steps.len());
    let mut free = clock.now().as_nanos() + nanos(margin);
    for step in steps {
        let earliest = free + nanos(Duration::from_secs_f64(step.rest_s));
        let period = nanos(step.period()).max(1);
        let start = match step.phase {
            Some(phase) => earliest.next_multiple_of(period) + nanos(step.period().mul_f64(phase)),
            None => earliest,
        };
        let pulses = Pulses {
            start: Timestamp::from_nanos(start),
            period: step.period(),
            busy: Duration::from_secs_f64(step.busy_s),
            count: step.count,
            level: step.level,
        };
        let busy = load.pulses(&pulses)?;
        free = clock.now().as_nanos();
        done.push(Done::new(*step, busy));
    }
    Ok(done)
}

fn nanos(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}

const MARGIN: Duration = Duration::from_millis(300);

#[cfg(test)]
mod tests {
    use super::*;
    use phase_core::ManualClock;

    /// A load on a clock that it moves itself.
    #[derive(Debug)]
    struct Instant(Arc<ManualClock>);

    impl Load for Instant {
        fn name(&self) -> &str {
            "instant"
        }

        fn pulses(&mut self, p: &Pulses) -> Result<Vec<Busy>, LoadError> {
            let at = |k: u32| Timestamp::from_nanos(p.start.as_nanos() + nanos(p.period * k));
            self.0.advance(at(p.count).since(self.0.now()));
            Ok((0..p.count).map(|k| Busy { start: at(k), end: Timestamp::from_nanos(at(k).as_nanos() + nanos(p.busy)), work: 1 }).collect())
        }
    }

    #[test]
    fn steps_begin_where_their_phase_says() {
        let clock = Arc::new(ManualClock::default());
        clock.advance(Duration::from_millis(1234));
        let plan = Plan::rest(&[0.1], Extent::Short);
        let steps: Vec<_> = plan.steps.into_iter().filter(|s| s.test == Test::Phase).collect();
        let done = run_steps(&*clock, &mut Instant(Arc::clone(&clock)), &steps, MARGIN).unwrap();
        for d in &done {
            let start = d.busy[0].start.as_nanos();
            assert_eq!(start % 100_000_000, nanos(Duration::from_secs_f64(0.1 * d.step.phase.unwrap())));
            assert_eq!(d.busy.len(), d.step.count as usize);
        }
        assert!(done.windows(2).all(|w| w[1].busy[0].start.since(w[0].busy.last().unwrap().end) >= Duration::from_millis(200)));
    }
}
