//! The guaranteed interval of one phase: what a sensor's windows and the device's power limits leave possible.
//!
//! Nothing here reads a clock or a device, and nothing is estimated: a true power curve that agrees with the windows and
//! stays within the limits has its energy in the interval.

use crate::{JouleRange, attribution::AttributionError};
use serde::{Deserialize, Serialize};

/// A stretch of the measuring clock, in seconds from an origin that all values of one computation share.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "an interval is its two ends")]
pub struct Interval {
    /// Where it begins.
    pub start_s: f64,
    /// Where it ends, not before `start_s`.
    pub end_s: f64,
}

impl Interval {
    /// From `start_s` to `end_s`.
    pub const fn new(start_s: f64, end_s: f64) -> Self {
        Self { start_s, end_s }
    }

    /// Its length in seconds.
    pub fn seconds(self) -> f64 {
        self.end_s - self.start_s
    }
}

/// One distinct sensor update, moved back by the sensor's lag: the energy of a stretch of time.
#[derive(Clone, Copy, Debug, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "a window is what a sensor model makes of an update")]
pub struct SensorWindow {
    /// Where the sensor began to look.
    pub lo_s: f64,
    /// Where it ended.
    pub hi_s: f64,
    /// Energy it saw, in joules.
    pub joules: f64,
    /// Time it integrated over, in seconds. Differs from `hi_s - lo_s` by no more than the errors of the two.
    pub sensed_s: f64,
    /// The true beginning lies within this much of `lo_s`, in seconds.
    pub lo_error_s: f64,
    /// The true end lies within this much of `hi_s`, in seconds.
    pub hi_error_s: f64,
}

impl SensorWindow {
    /// A window of mean power `mean_w` whose ends are known exactly.
    pub fn exact(lo_s: f64, hi_s: f64, mean_w: f64) -> Self {
        let sensed_s = hi_s - lo_s;
        Self { lo_s, hi_s, joules: mean_w * sensed_s, sensed_s, lo_error_s: 0.0, hi_error_s: 0.0 }
    }

    /// Whether the device could have drawn this energy, within `tolerance_j`.
    pub fn plausible(&self, power: PowerBounds, tolerance_j: f64) -> bool {
        let (length, error) = (self.hi_s - self.lo_s, self.lo_error_s + self.hi_error_s);
        let (shortest, longest) = ((length - error).min(self.sensed_s), (length + error).max(self.sensed_s));
        self.joules <= power.most(longest) + tolerance_j && self.joules >= power.least(shortest.max(0.0)) - tolerance_j
    }
}

/// What the device can draw at all: the measured idle floor with a margin, and the enforced limit with a margin.
///
/// ```
/// use phase_energy::PowerBounds;
/// assert!(PowerBounds::new(60.0, 700.0).is_ok());
/// assert!(PowerBounds::new(700.0, 60.0).is_err());
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PowerBounds {
    min_w: f64,
    max_w: f64,
}

impl PowerBounds {
    /// Between `min_w` and `max_w` watts.
    ///
    /// # Errors
    /// [`AttributionError::PowerBounds`] unless `0 <= min_w < max_w` and both are finite.
    pub fn new(min_w: f64, max_w: f64) -> Result<Self, AttributionError> {
        if min_w >= 0.0 && min_w < max_w && max_w.is_finite() {
            Ok(Self { min_w, max_w })
        } else {
            Err(AttributionError::PowerBounds { min_w, max_w })
        }
    }

    /// The least power in watts.
    pub const fn min_w(self) -> f64 {
        self.min_w
    }

    /// The greatest power in watts.
    pub const fn max_w(self) -> f64 {
        self.max_w
    }

    /// Most energy of `seconds`. Of a negative length (time counted twice) it is the least that must be taken back.
    pub(crate) fn most(self, seconds: f64) -> f64 {
        seconds * if seconds >= 0.0 { self.max_w } else { self.min_w }
    }

    /// Least energy of `seconds`. Of a negative length it is the most that may have to be taken back.
    pub(crate) fn least(self, seconds: f64) -> f64 {
        seconds * if seconds >= 0.0 { self.min_w } else { self.max_w }
    }

    pub(crate) fn of(self, seconds: f64) -> JouleRange {
        JouleRange { low_j: self.least(seconds), high_j: self.most(seconds) }
    }
}

/// Guaranteed energy of a phase, and what it rests on.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Bracket {
    /// The energy lies in here.
    pub energy: JouleRange,
    /// Distinct sensor updates that fell into the phase: windows that ended after its start and not after its end.
    pub updates: u32,
    /// Share of the phase's time covered by windows that lie wholly inside it.
    pub inside: f64,
    /// Share of the phase's time covered by any window.
    pub observed: f64,
}

/// Guaranteed energy of `event`, given what the sensor integrated and what the device can draw.
///
/// `windows` are in order of time and do not overlap by more than their errors. A window inside the event contributes
/// its energy; one that straddles an edge contributes between
/// `max(min_w x, e - max_w (len - x))` and `min(max_w x, e - min_w (len - x))` for its inside length `x`; time that no
/// window covers contributes between `min_w` and `max_w` times its length. An uncertain window edge is taken at its worst.
///
/// Cost: two binary searches and the windows inside the event. [`Series`](crate::Series) gives the same from prefix sums.
///
/// ```
/// use phase_energy::{Interval, PowerBounds, SensorWindow, bracket};
/// # fn main() -> Result<(), phase_energy::AttributionError> {
/// let windows: Vec<_> = (0..10).map(|k| SensorWindow::exact(f64::from(k) * 0.1, f64::from(k + 1) * 0.1, 400.0)).collect();
/// let found = bracket(&windows, Interval::new(0.25, 0.85), PowerBounds::new(60.0, 700.0)?);
/// assert_eq!(found.updates, 6);
/// assert!(found.energy.low_j <= 240.0 && 240.0 <= found.energy.high_j);
/// # Ok(())
/// # }
/// ```
pub fn bracket(windows: &[SensorWindow], event: Interval, power: PowerBounds) -> Bracket {
    let touching = windows.partition_point(|w| w.hi_s <= event.start_s)..windows.partition_point(|w| w.lo_s < event.end_s);
    let ended = windows.partition_point(|w| w.hi_s <= event.end_s);
    bracket_of(windows, touching, ended, event, power, |inside| {
        windows[inside].iter().fold(Sums::default(), |s, w| Sums { joules: s.joules + w.joules, seconds: s.seconds + w.sensed_s })
    })
}

/// Energy and length of a run of windows.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sums {
    pub(crate) joules: f64,
    pub(crate) seconds: f64,
}

/// The bracket of an event that `touching` windows overlap, where `ended` windows end before the event does and `sums`
/// adds up a run of windows.
pub(crate) fn bracket_of(
    windows: &[SensorWindow],
    touching: std::ops::Range<usize>,
    ended: usize,
    event: Interval,
    power: PowerBounds,
    sums: impl FnOnce(std::ops::Range<usize>) -> Sums,
) -> Bracket {
    let seconds = event.seconds();
    let updates = u32::try_from(ended.saturating_sub(touching.start)).unwrap_or(u32::MAX);
    let nothing = Bracket { energy: power.of(seconds.max(0.0)), updates, inside: 0.0, observed: 0.0 };
    if touching.is_empty() || seconds <= 0.0 {
        return nothing;
    }
    let (first, last) = (&windows[touching.start], &windows[touching.end - 1]);
    let (cut_left, cut_right) = (first.lo_s < event.start_s, last.hi_s > event.end_s);
    if touching.len() == 1 && cut_left && cut_right {
        return Bracket { energy: within(first, event, power), observed: 1.0, ..nothing };
    }
    let inside = touching.start + usize::from(cut_left)..touching.end - usize::from(cut_right);
    let sum = sums(inside);
    let (mut energy, mut covered, mut slack) = (JouleRange::exactly(sum.joules), sum.seconds, 0.0);
    // Time that no window covers: its edges move with those of its neighbours.
    let error_left = if cut_left { first.hi_error_s } else { first.lo_error_s };
    let error_right = if cut_right { last.lo_error_s } else { last.hi_error_s };
    if cut_left {
        let (in_s, out_s) = (first.hi_s - event.start_s, event.start_s - first.lo_s);
        energy = energy + part(first.joules, (in_s, first.hi_error_s), (out_s, first.lo_error_s), power);
        covered += in_s;
    } else {
        slack += power.max_w * gap_error(first.lo_s - event.start_s, error_left);
    }
    if cut_right {
        let (in_s, out_s) = (event.end_s - last.lo_s, last.hi_s - event.end_s);
        energy = energy + part(last.joules, (in_s, last.lo_error_s), (out_s, last.hi_error_s), power);
        covered += in_s;
    } else {
        slack += power.max_w * gap_error(event.end_s - last.hi_s, error_right);
    }
    // A remainder smaller than the errors of its ends is no gap: the windows follow on each other.
    let open = seconds - covered;
    if open.abs() > error_left + error_right {
        energy = energy + power.of(open);
        slack += (power.max_w - power.min_w) * (error_left + error_right);
    }
    Bracket {
        energy: JouleRange {
            low_j: (energy.low_j - slack).max(power.least(seconds)),
            high_j: (energy.high_j + slack).min(power.most(seconds)),
        },
        updates,
        inside: (sum.seconds / seconds).clamp(0.0, 1.0),
        observed: (covered / seconds).clamp(0.0, 1.0),
    }
}

/// An event that ends exactly at an uncertain edge still has that uncertainty; one that ends at a sure edge has none.
fn gap_error(gap_s: f64, error_s: f64) -> f64 {
    if gap_s >= 0.0 { error_s } else { 0.0 }
}

/// Energy of the inside part of a window of `joules`, from the lengths of its two parts and their errors.
fn part(joules: f64, (in_s, in_error): (f64, f64), (out_s, out_error): (f64, f64), power: PowerBounds) -> JouleRange {
    JouleRange {
        low_j: power.least(in_s - in_error).max(joules - power.most(out_s + out_error)),
        high_j: power.most(in_s + in_error).min(joules - power.least(out_s - out_error)),
    }
}

/// Energy of an event that lies within one window, as far as the window's uncertain ends allow: what may stick out at
/// either end is taken at its worst.
fn within(window: &SensorWindow, event: Interval, power: PowerBounds) -> JouleRange {
    let (seconds, error) = (event.seconds(), window.lo_error_s + window.hi_error_s);
    let (rest, joules) = (window.hi_s - window.lo_s - seconds, window.joules);
    let out_left = (window.lo_error_s - (event.start_s - window.lo_s)).max(0.0);
    let out_right = (window.hi_error_s - (window.hi_s - event.end_s)).max(0.0);
    let slack = (power.max_w - power.min_w) * (out_left + out_right);
    JouleRange {
        low_j: power.least(seconds).max(joules - power.most(rest + error) - slack),
        high_j: power.most(seconds).min(joules - power.least(rest - error) + slack),
    }
}
