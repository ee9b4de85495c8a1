//! Measuring what a device can do at most, at once or beside a run.

use super::{CeilingKind, CeilingRate, Ceilings};
use crate::ScenarioError;
use phase_core::Clock;
use std::fmt;

/// Why a load could not be run.
pub type CeilingFailure = Box<dyn std::error::Error + Send + Sync>;

/// Something to be done as fast as it goes.
///
/// It is done in parts, each timed alone, because others take a processor away for milliseconds at a time: short parts are
/// often left alone, a long whole never. A part must be long against the clock's step and against starting threads.
#[non_exhaustive]
pub struct CeilingLoad<'a> {
    /// What, in words.
    pub what: String,
    /// What it tells the rate of.
    pub of: CeilingKind,
    /// Bytes or operations of all parts.
    pub work: f64,
    /// How many parts it has.
    pub parts: usize,
    /// How often a block does all of it; more than once where the first time finds a cold cache.
    pub passes: u32,
    /// Done before each part, and not timed.
    pub before: Option<Box<dyn FnMut() + 'a>>,
    /// Does the part of that number, from 0, and returns when it is done.
    pub run: Box<dyn FnMut(usize) -> Result<(), CeilingFailure> + 'a>,
}

impl<'a> CeilingLoad<'a> {
    /// A load of one part, done once a block.
    pub fn new(what: impl Into<String>, of: CeilingKind, work: f64, run: impl FnMut(usize) -> Result<(), CeilingFailure> + 'a) -> Self {
        Self { what: what.into(), of, work, parts: 1, passes: 1, before: None, run: Box::new(run) }
    }

    /// Does something untimed before each part, such as waking threads.
    #[must_use]
    pub fn after(mut self, before: impl FnMut() + 'a) -> Self {
        self.before = Some(Box::new(before));
        self
    }

    /// Splits it into parts (at least one), and sets how often a block does them all (at least once).
    #[must_use]
    pub fn in_parts(mut self, parts: usize, passes: u32) -> Self {
        (self.parts, self.passes) = (parts.max(1), passes.max(1));
        self
    }
}

impl fmt::Debug for CeilingLoad<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CeilingLoad")
            .field("what", &self.what)
            .field("work", &self.work)
            .field("parts", &self.parts)
            .finish_non_exhaustive()
    }
}

type Describe<'a> = Box<dyn Fn(Vec<CeilingRate>) -> Result<Ceilings, ScenarioError> + 'a>;

/// Measures ceilings a block at a time, so that the blocks can lie between those of a run: what else goes on at a machine
/// slows both, and a ceiling of one moment is none of the next.
pub struct CeilingMeter<'a> {
    loads: Vec<(CeilingLoad<'a>, Times)>,
    describe: Describe<'a>,
    between: Option<Box<dyn FnMut() + 'a>>,
}

/// Seconds that a load took.
#[derive(Clone, Debug, Default)]
struct Times {
    passes: Vec<f64>,
    fastest_parts: Vec<f64>,
}

impl fmt::Debug for CeilingMeter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CeilingMeter").field("loads", &self.loads).finish_non_exhaustive()
    }
}

impl<'a> CeilingMeter<'a> {
    /// Of `loads`; `describe` makes a document of their rates.
    pub fn new(loads: Vec<CeilingLoad<'a>>, describe: impl Fn(Vec<CeilingRate>) -> Result<Ceilings, ScenarioError> + 'a) -> Self {
        Self { loads: loads.into_iter().map(|load| (load, Times::default())).collect(), describe: Box::new(describe), between: None }
    }

    /// Does something after the warm-up and after every block, such as giving memory back.
    #[must_use]
    pub fn between_blocks(mut self, between: impl FnMut() + 'a) -> Self {
        self.between = Some(Box::new(between));
        self
    }

    /// Runs every load once unrecorded: threads start, memory and code come into reach.
    ///
    /// # Errors
    /// [`ScenarioError::Ceilings`] where a load fails.
    pub fn warm_up(&mut self) -> Result<(), ScenarioError> {
        let warm = |load: &mut CeilingLoad<'_>| {
            (0..load.parts).try_for_each(|part| {
                load.prepare();
                load.part(part)
            })
        };
        let warmed = self.loads.iter_mut().try_for_each(|(load, _)| warm(load));
        self.between.iter_mut().for_each(|between| between());
        warmed
    }

    /// Runs every load, one after the other.
    ///
    /// # Errors
    /// [`ScenarioError::Ceilings`] where a load fails.
    pub fn block(&mut self, clock: &dyn Clock) -> Result<(), ScenarioError> {
        self.block_with(clock, &mut |_, _, _| {})
    }

    /// As [`block`](Self::block); before each load `watch` is told how many of all loads are done and what the next one is, and
    /// in the end that all are.
    ///
    /// # Errors
    /// As [`block`](Self::block).
    pub fn block_with(&mut self, clock: &dyn Clock, watch: &mut dyn FnMut(u64, u64, &str)) -> Result<(), ScenarioError> {
        let done = self.timed(clock, watch);
        self.between.iter_mut().for_each(|between| between());
        done
    }

    fn timed(&mut self, clock: &dyn Clock, watch: &mut dyn FnMut(u64, u64, &str)) -> Result<(), ScenarioError> {
        let all = self.loads.len() as u64;
        for (number, (load, times)) in (0..).zip(&mut self.loads) {
            watch(number, all, &load.what);
            times.fastest_parts.resize(load.parts, f64::INFINITY);
            for _ in 0..load.passes {
                let mut whole = 0.0;
                for (part, fastest) in times.fastest_parts.iter_mut().enumerate() {
                    load.prepare();
                    let start = clock.now();
                    load.part(part)?;
                    let seconds = clock.now().since(start).as_secs_f64();
                    *fastest = fastest.min(seconds);
                    whole += seconds;
                }
                times.passes.push(whole);
            }
        }
        watch(all, all, "done");
        Ok(())
    }

    /// What was measured so far.
    ///
    /// # Errors
    /// [`ScenarioError::Ceilings`] for a load that was done less than twice or took no time, or whose document is none.
    pub fn ceilings(&self) -> Result<Ceilings, ScenarioError> {
        (self.describe)(self.loads.iter().map(|(load, times)| times.rate(load)).collect::<Result<_, _>>()?)
    }
}

impl CeilingLoad<'_> {
    fn prepare(&mut self) {
        self.before.iter_mut().for_each(|before| before());
    }

    fn part(&mut self, part: usize) -> Result<(), ScenarioError> {
        (self.run)(part).map_err(|e| ScenarioError::Ceilings(format!("{}: {e}", self.what)))
    }
}

impl Times {
    fn rate(&self, load: &CeilingLoad<'_>) -> Result<CeilingRate, ScenarioError> {
        let mut passes = self.passes.clone();
        passes.sort_by(f64::total_cmp);
        let &[.., slow] = passes.as_slice() else { return Err(ScenarioError::Ceilings(format!("{}: nothing measured", load.what))) };
        if passes.len() < 2 {
            return Err(ScenarioError::Ceilings(format!("{}: at least two passes are needed", load.what)));
        }
        if self.fastest_parts.iter().any(|seconds| *seconds <= 0.0) {
            return Err(ScenarioError::Ceilings(format!("{}: too short for the clock", load.what)));
        }
        let [low, median, high] = [slow, middle(&passes), self.undisturbed()].map(|seconds| load.work / seconds);
        Ok(CeilingRate { what: load.what.clone(), of: load.of, low, median, high, blocks: u32::try_from(passes.len()).unwrap_or(u32::MAX) })
    }

    /// Every part at its fastest. Where all of them like the middle one would have been faster, that: some were never left
    /// alone.
    fn undisturbed(&self) -> f64 {
        let mut parts = self.fastest_parts.clone();
        parts.sort_by(f64::total_cmp);
        #[expect(clippy::cast_precision_loss, reason = "parts, some dozens")]
        let alike = middle(&parts) * parts.len() as f64;
        alike.min(parts.iter().sum())
    }
}

/// The median of sorted times, of which there is at least one.
fn middle(sorted: &[f64]) -> f64 {
    f64::midpoint(sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2])
}

#[cfg(test)]
mod tests {
    use super::*;
    use phase_core::{DType, ManualClock};
    use std::{cell::Cell, time::Duration};

    fn read(set: u64) -> CeilingKind {
        CeilingKind::Read { working_set_bytes: set }
    }

    fn of(loads: Vec<CeilingLoad<'_>>) -> CeilingMeter<'_> {
        CeilingMeter::new(loads, |rates| Ceilings::new("a test", None, rates))
    }

    const PRODUCT: CeilingKind = CeilingKind::Product { dtype: DType::F32 };

    #[test]
    fn loads_take_turns_and_the_warm_up_is_not_counted() {
        let clock = ManualClock::ticking(Duration::ZERO);
        let order = Cell::new(0u32);
        let take = |expected: u32, ms: &'static [u64]| {
            let (clock, order) = (&clock, &order);
            let mut times = ms.iter().copied();
            move |_| {
                assert_eq!(order.get() % 2, expected);
                order.set(order.get() + 1);
                clock.advance(Duration::from_millis(times.next().unwrap()));
                Ok(())
            }
        };
        let mut meter = of(vec![
            CeilingLoad::new("reading", read(8), 1e9, take(0, &[1, 100, 200, 400])),
            CeilingLoad::new("multiplying", PRODUCT, 1e9, take(1, &[900, 50, 50, 50])),
        ]);
        meter.warm_up().unwrap();
        for _ in 0..3 {
            let mut told = Vec::new();
            meter.block_with(&clock, &mut |done, all, what| told.push((done, all, what.to_owned()))).unwrap();
            assert_eq!(told, [(0, 2, "reading"), (1, 2, "multiplying"), (2, 2, "done")].map(|(n, of, what)| (n, of, what.to_owned())));
        }
        let rates = meter.ceilings().unwrap().rates;
        assert_eq!((rates[0].low, rates[0].median, rates[0].high), (2.5e9, 5e9, 1e10));
        assert_eq!((rates[1].high, rates[1].blocks), (2e10, 3));
    }

    #[test]
    fn what_is_held_for_a_block_is_given_back_even_where_it_fails() {
        let clock = ManualClock::ticking(Duration::from_millis(1));
        let held = Cell::new(0u32);
        let load = CeilingLoad::new("reading", read(8), 1.0, |_| if held.get() < 4 { Ok(()) } else { Err("too much".into()) });
        let mut meter = of(vec![load.after(|| held.set(held.get() + 1)).in_parts(2, 1)]).between_blocks(|| held.set(held.get() - 2));
        meter.warm_up().unwrap();
        assert_eq!(held.replace(2), 0, "taken twice, given back at once");
        assert!(meter.block(&clock).is_err());
        assert_eq!(held.get(), 2);
    }

    #[test]
    fn every_part_counts_when_nobody_disturbed_it() {
        let clock = ManualClock::ticking(Duration::ZERO);
        // Two parts, two passes in each of two blocks; somebody else takes 90 ms out of every pass, and the first is cold.
        let mut ms = [50, 100, 100, 10, 10, 100, 100, 10].into_iter();
        let (mut parts, prepared) = (Vec::new(), Cell::new(0));
        let reading = CeilingLoad::new("reading", read(8), 1e9, |part| {
            parts.push(part);
            clock.advance(Duration::from_millis(ms.next().unwrap()));
            Ok(())
        });
        let multiplying = CeilingLoad::new("multiplying", PRODUCT, 1e9, |_| {
            clock.advance(Duration::from_millis(1));
            Ok(())
        });
        let prepare = || {
            clock.advance(Duration::from_secs(1));
            prepared.set(prepared.get() + 1);
        };
        let mut meter = of(vec![reading.in_parts(2, 2).after(prepare), multiplying]);
        meter.block(&clock).unwrap();
        meter.block(&clock).unwrap();
        let rate = meter.ceilings().unwrap().rates.remove(0);
        let per_second = |ms: f64| 1e12 / ms;
        assert!((rate.low - per_second(150.0)).abs() < 1.0 && (rate.median - per_second(110.0)).abs() < 1.0, "{rate:?}");
        assert!((rate.high - per_second(20.0)).abs() < 1.0, "{rate:?}");
        assert_eq!(rate.blocks, 4);
        drop(meter);
        assert_eq!((prepared.get(), &parts[..]), (8, &[0, 1, 0, 1, 0, 1, 0, 1][..]));
    }

    #[test]
    fn parts_that_were_never_left_alone_do_not_lower_a_ceiling_and_slow_memory_does() {
        let of = |fastest_parts: &[f64]| Times { passes: Vec::new(), fastest_parts: fastest_parts.to_vec() }.undisturbed();
        assert!((of(&[10.0, 10.0, 90.0, 11.0, 12.0]) - 55.0).abs() < 1e-9);
        assert!((of(&[10.0, 1.0, 10.0, 10.0]) - 31.0).abs() < 1e-9);
        assert!((of(&[2.0]) - 2.0).abs() < 1e-9);
    }

    #[test]
    fn what_can_not_be_measured_says_so() {
        let clock = ManualClock::ticking(Duration::ZERO);
        let after = |load: CeilingLoad<'_>, blocks: usize| {
            let mut meter = of(vec![load]);
            (0..blocks).try_for_each(|_| meter.block(&clock)).and_then(|()| meter.ceilings()).unwrap_err().to_string()
        };
        let timeless = || CeilingLoad::new("nothing", read(8), 1.0, |_| Ok(()));
        assert!(after(timeless(), 3).contains("too short"));
        assert!(after(timeless(), 1).contains("two passes"));
        assert!(after(timeless(), 0).contains("nothing measured"));
        assert!(after(CeilingLoad::new("a device", read(8), 1.0, |_| Err("it is lost".into())), 3).contains("a device: it is lost"));
        let alone = CeilingLoad::new("reading", read(8), 1.0, |_| {
            clock.advance(Duration::from_millis(1));
            Ok(())
        });
        assert!(after(alone, 2).contains("products"));
    }
}
