//! How long windows may be when a run has to end at some time, and what is left out: pure.
//!
//! Calls are asked in their order of turns. Each takes the shortest windows that are of use while they fit; what is left
//! then makes all windows longer. So the first turns of every phase come before anything is made better.

use super::{EnergyOptions, sit::LEAST_WINDOWS};

/// Windows are not made shorter than this, seconds, whatever the budget: below, their edges are most of what is known.
const LEAST_WINDOW_S: f64 = 2.0;
/// What the planning of windows leaves open: a replay more or less, reads and files.
const SLACK: f64 = 1.05;

/// A call that waits for its turn. Times in seconds.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Need {
    /// Of each backend that is to replay it, how long one pass takes; 0 where nobody knows.
    pub(super) pass_s: Vec<f64>,
    /// Where each backend sits alone: the time to load it.
    pub(super) load_s: Option<f64>,
    /// Work before a window that does not count.
    pub(super) discard_s: f64,
    /// One quiet time with what comes before it.
    pub(super) quiet_s: f64,
    /// The least that the sensor needs of a window.
    pub(super) least_s: f64,
    /// What the sensor needs of a window for the accuracy that was asked for.
    pub(super) accurate_s: f64,
}

/// What of a call there is time for.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Share {
    /// So many of its backends, from the first.
    pub(super) guests: usize,
    pub(super) window_s: f64,
    /// The time it takes.
    pub(super) seconds: f64,
    /// What each of the others would have taken by itself.
    pub(super) lacks_s: Vec<f64>,
}

impl Need {
    /// The shortest windows of use, and those that were asked for.
    fn lengths(&self, options: &EnergyOptions) -> [f64; 2] {
        let wanted_s = options.window_s.max(self.accurate_s).max(self.least_s);
        [LEAST_WINDOW_S.max(self.least_s).min(wanted_s), wanted_s]
    }

    /// What the backend whose pass takes `pass_s` needs for its windows.
    fn guest_s(&self, options: &EnergyOptions, pass_s: f64, window_s: f64) -> f64 {
        // Twice before a window, and whole passes in it.
        let discard_s = self.discard_s.max(2.0 * pass_s);
        let window_s = if pass_s > 0.0 { (window_s / pass_s).ceil() * pass_s } else { window_s };
        let first_s = (3.0 * options.settle_s - discard_s).max(0.0);
        first_s + f64::from(options.windows.max(LEAST_WINDOWS)) * (discard_s + window_s)
    }

    /// What it takes with its first `guests` backends.
    pub(super) fn seconds(&self, options: &EnergyOptions, guests: usize, window_s: f64) -> f64 {
        let work: f64 = self.pass_s.iter().take(guests).map(|pass_s| self.guest_s(options, *pass_s, window_s)).sum();
        let sittings = if self.load_s.is_some() { guests } else { guests.min(1) };
        SLACK * (work + real(sittings) * (2.0 * self.quiet_s + self.load_s.unwrap_or(0.0)))
    }

    /// What the backend at `guest` takes alone, with windows of `window_s`.
    fn alone_s(&self, options: &EnergyOptions, guest: usize, window_s: f64) -> f64 {
        let pass_s = self.pass_s.get(guest).map_or_else(Vec::new, |s| vec![*s]);
        Self { pass_s, ..self.clone() }.seconds(options, 1, window_s)
    }

    /// The longest windows, up to `most_s`, that the first `guests` backends have time for in `left_s`; `None` where not even
    /// windows of `least_s` fit.
    pub(super) fn longest_s(&self, options: &EnergyOptions, guests: usize, left_s: f64, [least_s, most_s]: [f64; 2]) -> Option<f64> {
        longest(least_s, most_s, |s| self.seconds(options, guests, s) <= left_s)
    }
}

/// Gives each of `needs`, which are in their order of turns, its share of `left_s`; `None` is all the time there is.
pub(super) fn allot(needs: &[Need], options: &EnergyOptions, left_s: Option<f64>) -> Vec<Share> {
    let Some(left_s) = left_s else {
        let whole = |need: &Need| {
            let (guests, [_, window_s]) = (need.pass_s.len(), need.lengths(options));
            Share { guests, window_s, seconds: need.seconds(options, guests, window_s), lacks_s: Vec::new() }
        };
        return needs.iter().map(whole).collect();
    };
    let mut spent_s = 0.0;
    let mut guests = vec![0; needs.len()];
    for (need, guests) in needs.iter().zip(&mut guests) {
        let [least_s, _] = need.lengths(options);
        let cost_s = |n| need.seconds(options, n, least_s);
        while *guests < need.pass_s.len() && spent_s + cost_s(*guests + 1) - cost_s(*guests) <= left_s {
            spent_s += cost_s(*guests + 1) - cost_s(*guests);
            *guests += 1;
        }
    }
    let window_s = |need: &Need, s: f64| {
        let [least_s, wanted_s] = need.lengths(options);
        s.clamp(least_s, wanted_s)
    };
    let all_s = |s: f64| needs.iter().zip(&guests).map(|(need, n)| need.seconds(options, *n, window_s(need, s))).sum::<f64>();
    let most_s = needs.iter().map(|need| need.lengths(options)[1]).fold(0.0, f64::max);
    let common_s = longest(0.0, most_s, |s| all_s(s) <= left_s).unwrap_or(0.0);
    let share = |(need, n): (&Need, &usize)| {
        let (window_s, [least_s, _]) = (window_s(need, common_s), need.lengths(options));
        let lacks_s = (*n..need.pass_s.len()).map(|guest| need.alone_s(options, guest, least_s)).collect();
        Share { guests: *n, window_s, seconds: need.seconds(options, *n, window_s), lacks_s }
    };
    needs.iter().zip(&guests).map(share).collect()
}

/// The longest length from `least` to `most` that `fits`, within a thousandth; what fits gets no less likely as lengths fall.
fn longest(least: f64, most: f64, fits: impl Fn(f64) -> bool) -> Option<f64> {
    if fits(most) {
        return Some(most);
    }
    if !fits(least) {
        return None;
    }
    let (mut good, mut bad) = (least, most);
    while bad - good > 1e-3 * most {
        let middle = f64::midpoint(good, bad);
        if fits(middle) { good = middle } else { bad = middle }
    }
    Some(good)
}

#[expect(clippy::cast_precision_loss, reason = "a handful of backends and calls")]
fn real(n: usize) -> f64 {
    n as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two() -> Need {
        Need { pass_s: vec![0.0; 2], load_s: None, discard_s: 1.0, quiet_s: 3.0, least_s: 2.0, accurate_s: 2.0 }
    }

    /// Guests and windows of three calls on two backends in `left_s`.
    fn three(left_s: f64) -> Vec<Share> {
        let (needs, options) = ([two(), two(), two()], EnergyOptions::default());
        let shares = allot(&needs, &options, Some(left_s));
        let spent: f64 = shares.iter().map(|s| s.seconds).sum();
        assert!(spent <= left_s, "{spent} of {left_s}");
        shares
    }

    #[test]
    fn a_budget_shortens_windows_before_it_leaves_anything_out() {
        assert!(three(600.0).iter().all(|s| s.guests == 2 && (s.window_s - 5.0).abs() < 1e-9 && s.lacks_s.is_empty()));
        let shorter = three(180.0);
        assert!(shorter.iter().all(|s| s.guests == 2 && (2.0..5.0).contains(&s.window_s)), "{shorter:?}");
        // All of the time is given out.
        assert!(180.0 - shorter.iter().map(|s| s.seconds).sum::<f64>() < 1.0);
    }

    #[test]
    fn every_call_in_turn_gets_its_least_before_any_gets_more() {
        // The least of one call on two backends is 42 s, of one backend 24 s.
        let shares = three(112.0);
        assert_eq!(shares.iter().map(|s| s.guests).collect::<Vec<_>>(), [2, 2, 1]);
        assert!(shares.iter().all(|s| (2.0..2.2).contains(&s.window_s)), "{shares:?}");
        let lacks = &shares[2].lacks_s;
        assert!(lacks.len() == 1 && (lacks[0] - two().alone_s(&EnergyOptions::default(), 1, 2.0)).abs() < 1e-9);
        assert_eq!(three(41.0).iter().map(|s| s.guests).collect::<Vec<_>>(), [1, 0, 0]);
        let none = three(10.0);
        assert!(none.iter().all(|s| s.guests == 0 && s.seconds == 0.0 && s.lacks_s.len() == 2), "{none:?}");
    }

    #[test]
    fn a_later_call_that_fits_is_not_held_up_by_one_that_does_not() {
        let long = Need { pass_s: vec![30.0, 0.0], ..two() };
        let shares = allot(&[long, two()], &EnergyOptions::default(), Some(60.0));
        assert_eq!(shares.iter().map(|s| s.guests).collect::<Vec<_>>(), [0, 2]);
        assert!(shares[0].lacks_s[0] > 450.0, "five windows of a pass each, with two before: {shares:?}");
    }

    #[test]
    fn what_the_sensor_needs_is_not_cut() {
        let slow = Need { least_s: 20.0, ..two() };
        let of = |left_s| allot(std::slice::from_ref(&slow), &EnergyOptions::default(), Some(left_s)).remove(0);
        assert_eq!(of(100.0).guests, 0);
        assert!(of(260.0).guests == 2 && (of(260.0).window_s - 20.0).abs() < 1e-9);
        // Without a budget the accuracy decides.
        let fine = Need { accurate_s: 10.0, ..two() };
        assert!((allot(&[fine], &EnergyOptions::default(), None)[0].window_s - 10.0).abs() < 1e-9);
    }

    #[test]
    fn short_windows_that_were_asked_for_stay_short() {
        let options = EnergyOptions::default().with_window_s(0.5).unwrap();
        let fast = Need { least_s: 0.1, accurate_s: 0.1, ..two() };
        assert!((allot(&[fast], &options, Some(600.0))[0].window_s - 0.5).abs() < 1e-9);
    }

    #[test]
    fn who_sits_alone_is_loaded_and_quiet_alone() {
        let (options, together) = (EnergyOptions::default(), two());
        let alone = Need { load_s: Some(4.0), ..two() };
        let more = alone.seconds(&options, 2, 2.0) - together.seconds(&options, 2, 2.0);
        assert!((more - SLACK * (2.0 * 3.0 + 2.0 * 4.0)).abs() < 1e-9, "{more}");
        assert_eq!(alone.longest_s(&options, 2, 50.0, [2.0, 5.0]), None);
        let fits = alone.longest_s(&options, 2, 75.0, [2.0, 5.0]).unwrap();
        assert!((2.0..5.0).contains(&fits) && alone.seconds(&options, 2, fits) <= 75.0);
    }
}
