//! Updates that come on a clock of their own: where polls show only that an update came between two of them, the clock and
//! the updates around it say when.
//!
//! Update `k` appears at `origin + k period`, within a jitter. Every update that was seen to come between two polls confines
//! origin and period; what all of them leave is where any update can lie. Nothing is estimated: where the updates contradict
//! the clock, their own brackets stay.

use super::update::Update;
use crate::UpdateClock;

/// An update whose bracket is below this share of the period confines the clock, and can't be taken for its neighbour.
pub(crate) const NARROW: f64 = 0.3;
/// Updates that are judged together, and for how long: beyond, nobody says that two oscillators keep step.
const TOGETHER: usize = 256;
const TOGETHER_S: f64 = 300.0;

/// Narrows the brackets of `updates` of a counter by `clock`; a value that is read within `time_error_s` was there for as long.
pub(super) fn narrow(updates: &mut [Update], clock: UpdateClock, time_error_s: f64) {
    let mut from = 0;
    while from < updates.len() {
        let begin = updates[from].at_s;
        let ends = |u: &Update| u.at_s - begin > TOGETHER_S;
        let to = updates[from..].iter().take(TOGETHER).position(ends).map_or((from + TOGETHER).min(updates.len()), |n| from + n.max(1));
        narrow_some(&mut updates[from..to], clock, time_error_s);
        from = to;
    }
}

fn narrow_some(updates: &mut [Update], clock: UpdateClock, time_error_s: f64) {
    let seen: Vec<[f64; 2]> = updates.iter().map(bracket).filter(|b| b[1] - b[0] < NARROW * clock.period_s).collect();
    let Some(grid) = Grid::of(&seen, clock) else { return };
    let narrowed: Option<Vec<[f64; 2]>> = updates.iter().map(|u| grid.within(bracket(u), 2.0 * time_error_s)).collect();
    // One update that the clock does not have makes it another clock.
    let Some(narrowed) = narrowed else { return };
    for (update, [lo, hi]) in updates.iter_mut().zip(narrowed) {
        update.at_s = 0.5 * (lo + hi);
        update.error_s = 0.5 * (hi - lo);
    }
}

fn bracket(update: &Update) -> [f64; 2] {
    [update.at_s - update.error_s, update.at_s + update.error_s]
}

/// Where the updates of a clock can lie, by the brackets of those that were seen.
#[derive(Debug)]
struct Grid {
    origin_s: f64,
    nominal_s: f64,
    error_s: f64,
    /// Corners of all pairs of a period and a time of update 0 (after the origin) that the brackets leave possible.
    corners: Vec<[f64; 2]>,
}

impl Grid {
    fn of(seen: &[[f64; 2]], clock: UpdateClock) -> Option<Self> {
        let UpdateClock { period_s, period_error_s, error_s } = clock;
        let first = seen.first()?;
        let origin_s = 0.5 * (first[0] + first[1]);
        let (periods, widest) = ([period_s - period_error_s, period_s + period_error_s], 0.5 * (first[1] - first[0]) + error_s);
        let mut corners: Vec<[f64; 2]> =
            [[0, 0], [1, 0], [1, 1], [0, 1]].iter().map(|[p, o]| [periods[*p], [-widest, widest][*o]]).collect();
        for b in seen {
            let number = ((0.5 * (b[0] + b[1]) - origin_s) / period_s).round();
            // What is left of the room on either side.
            corners = cut(&corners, |[period, at]| at + number * period - (b[0] - origin_s - error_s));
            corners = cut(&corners, |[period, at]| b[1] - origin_s + error_s - at - number * period);
        }
        (!corners.is_empty()).then_some(Self { origin_s, nominal_s: period_s, error_s, corners })
    }

    /// Where update `number` lies.
    fn update(&self, number: f64) -> [f64; 2] {
        let times = self.corners.iter().map(|[period, at]| self.origin_s + at + number * period);
        let (lo, hi) = times.fold((f64::INFINITY, f64::NEG_INFINITY), |(lo, hi), t| (lo.min(t), hi.max(t)));
        [lo - self.error_s, hi + self.error_s]
    }

    /// The part of the bracket `[lo, hi]` in which the clock has an update: the last one before a read that ended at `hi` and
    /// took `read_s`. `None` where it has none.
    fn within(&self, [lo, hi]: [f64; 2], read_s: f64) -> Option<[f64; 2]> {
        let guess = ((hi - self.origin_s) / self.nominal_s).round();
        let last = (-2..=2).rev().map(|d| guess + f64::from(d)).find(|n| self.update(*n)[0] <= hi)?;
        let part = |[from, to]: [f64; 2]| Some([from.max(lo), to.min(hi)]).filter(|[from, to]| from <= to);
        let [from, to] = self.update(last);
        let found = part([from, to]);
        // An update that may have come after the value was read may not be the one that was read.
        let before = if to <= hi - read_s { None } else { part(self.update(last - 1.0)) };
        match (before, found) {
            (Some([from, _]), Some([_, to])) => Some([from, to]),
            (one, other) => one.or(other),
        }
    }
}

/// The part of a convex polygon in which `room`, which is linear, is not negative.
fn cut(corners: &[[f64; 2]], room: impl Fn([f64; 2]) -> f64) -> Vec<[f64; 2]> {
    let mut left = Vec::with_capacity(corners.len() + 1);
    for (k, &corner) in corners.iter().enumerate() {
        let next = corners[(k + 1) % corners.len()];
        let (here, there) = (room(corner), room(next));
        if here >= 0.0 {
            left.push(corner);
        }
        if (here < 0.0) != (there < 0.0) {
            let share = here / (here - there);
            left.push([corner[0] + share * (next[0] - corner[0]), corner[1] + share * (next[1] - corner[1])]);
        }
    }
    left
}

/// The periods in `range` at which one grid goes through all brackets, `error_s` aside.
fn feasible(seen: &[[f64; 2]], numbers: &[f64], range: [f64; 2], error_s: f64) -> Option<[f64; 2]> {
    let room = |period: f64| room(seen, numbers, period) + 2.0 * error_s;
    let best = widest(&room, range);
    if room(best) < 0.0 {
        return None;
    }
    // The room is a concave function of the period.
    let edge = |outside: f64| {
        if room(outside) >= 0.0 {
            return outside;
        }
        let (mut bad, mut good) = (outside, best);
        for _ in 0..40 {
            let mid = 0.5 * (bad + good);
            if room(mid) >= 0.0 { good = mid } else { bad = mid }
        }
        // The last one that is not possible: the range is not made narrower than it is.
        bad
    };
    Some([edge(range[0]), edge(range[1])])
}

/// The room that the brackets leave for the origin at a period: negative where no grid goes through all of them.
fn room(seen: &[[f64; 2]], numbers: &[f64], period: f64) -> f64 {
    let (lo, hi) = seen
        .iter()
        .zip(numbers)
        .fold((f64::NEG_INFINITY, f64::INFINITY), |(lo, hi), (b, n)| (lo.max(b[0] - n * period), hi.min(b[1] - n * period)));
    hi - lo
}

/// Where a concave function is greatest.
fn widest(of: &impl Fn(f64) -> f64, [mut a, mut b]: [f64; 2]) -> f64 {
    for _ in 0..60 {
        let (x, y) = (a + (b - a) / 3.0, b - (b - a) / 3.0);
        if of(x) < of(y) { a = x } else { b = y }
    }
    0.5 * (a + b)
}

/// Fewer updates seen within a third of a period make no clock.
const ENOUGH: usize = 100;
/// Other periods than the mean of the gaps are looked at up to this share away.
const AWAY: f64 = 2e-3;
/// Two oscillators differ by less than this from hour to hour, as a share.
const DRIFT: f64 = 5e-6;
/// What is added to the error that the recording needs: twice it, and this share of the period.
const MARGIN: f64 = 1e-3;

/// The clock that the updates with brackets `seen` keep, where they do: within a hundredth of the period of about `period_s`.
pub(crate) fn clock_of(seen: &[[f64; 2]], period_s: f64) -> Option<UpdateClock> {
    let seen: Vec<[f64; 2]> = seen.iter().copied().filter(|b| b[1] - b[0] < NARROW * period_s).collect();
    if seen.len() < ENOUGH {
        return None;
    }
    let origin_s = 0.5 * (seen[0][0] + seen[0][1]);
    let (mut range, mut n) = ([period_s * (1.0 - AWAY), period_s * (1.0 + AWAY)], 16);
    loop {
        n = n.min(seen.len());
        let some = &seen[..n];
        let period = 0.5 * (range[0] + range[1]);
        let numbers: Vec<f64> = some.iter().map(|b| ((0.5 * (b[0] + b[1]) - origin_s) / period).round()).collect();
        let best = widest(&|t| room(some, &numbers, t), range);
        let needed_s = (-0.5 * room(some, &numbers, best)).max(0.0);
        if needed_s > 0.01 * period_s {
            return None;
        }
        range = feasible(some, &numbers, range, needed_s + 1e-6)?;
        if n == seen.len() {
            // The jitter that one recording needs is the least there is: the period is as sure as the error that is claimed allows.
            let error_s = 2.0 * needed_s + MARGIN * best;
            let [short, long] = feasible(some, &numbers, [best * (1.0 - AWAY), best * (1.0 + AWAY)], error_s)?;
            return Some(UpdateClock { period_s: best, period_error_s: (long - best).max(best - short) + DRIFT * best, error_s });
        }
        n *= 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Random;

    fn seen(n: u32, period: f64, jitter: f64, seed: u64) -> Vec<[f64; 2]> {
        let mut random = Random::new(seed);
        let mut at = |k: u32| 0.0137 + f64::from(k) * period + random.within(-jitter, jitter);
        let ticks: Vec<f64> = (0..n).map(&mut at).collect();
        ticks.into_iter().map(|t| [t - random.within(0.0, 0.01), t + random.within(0.0, 0.01)]).collect()
    }

    #[test]
    fn a_clock_is_found_with_its_period_and_no_other() {
        for (jitter, seed) in [(0.0, 1), (0.0003, 2)] {
            let found = clock_of(&seen(1000, 0.100_043, jitter, seed), 0.1).unwrap();
            assert!((found.period_s - 0.100_043).abs() <= found.period_error_s, "{found:?}");
            assert!(found.period_error_s < 5e-6 && found.error_s >= jitter && found.error_s < 0.002, "{found:?}");
        }
        // Updates that come when they like, and ones that wander, keep no clock.
        assert_eq!(clock_of(&seen(1000, 0.1, 0.02, 3), 0.1), None);
        let mut random = Random::new(4);
        let mut at = 0.0;
        let walk: Vec<_> = (0..1000)
            .map(|_| {
                at += 0.1 + random.within(-0.003, 0.003);
                [at - 0.002, at + 0.002]
            })
            .collect();
        assert_eq!(clock_of(&walk, 0.1), None);
        assert_eq!(clock_of(&seen(50, 0.1, 0.0, 5), 0.1), None);
    }

    #[test]
    fn a_wide_bracket_is_narrowed_to_the_update_in_it() {
        let clock = UpdateClock { period_s: 0.1, period_error_s: 1e-6, error_s: 1e-4 };
        let grid = Grid::of(&seen(20, 0.1, 0.0, 6), clock).unwrap();
        // Update 50 came at 5.0137; a read that ended at 5.08 shows it.
        let [lo, hi] = grid.within([4.97, 5.08], 0.0).unwrap();
        assert!(lo <= 5.0137 && 5.0137 <= hi && hi - lo < 0.004, "{lo} {hi}");
        // A read as the update came may show the one before.
        let [lo, hi] = grid.within([4.90, 5.0137], 0.002).unwrap();
        assert!(lo < 4.914 && hi >= 5.0137 - 1e-9, "{lo} {hi}");
        // No update falls between 5.03 and 5.1.
        assert_eq!(grid.within([5.03, 5.1], 0.0), None);
    }
}
