//! A recording prepared for many phases: attribution of all of them takes time linear in both.

use super::{AttributionError, Bracket, bracket::Sums, bracket::bracket_of, fault::Faults, tick, update, window};
use crate::{Gate, Interval, JouleRange, ReadingKind, Sample, SensorKind, SensorModel, SensorWindow, classify};
use phase_core::{Energy, NoData, Timestamp};

/// The readings of one source over one recording, under one sensor model.
///
/// ```
/// use phase_core::{Energy, Timestamp};
/// use phase_energy::{Gate, PowerBounds, ReadingKind, Sample, SensorKind, SensorModel, Series};
/// # fn main() -> Result<(), phase_energy::AttributionError> {
/// // A counter that advances by 40 J every 100 ms, polled every 20 ms.
/// let samples: Vec<_> = (0..200_u64).map(|i| Sample { t_ns: i * 20_000_000, value: (i / 5 * 40_000) as f64 }).collect();
/// let model = SensorModel::new(SensorKind::Integrating, 0.1, 0.1, 0.0, PowerBounds::new(60.0, 700.0)?)?;
/// let series = Series::new(ReadingKind::Counter, &samples, model, Gate::default())?;
/// let long = series.attribute(Timestamp::from_nanos(1_000_000_000), Timestamp::from_nanos(3_000_000_000));
/// assert_eq!(long.energy.status(), "measured");
/// let short = series.attribute(Timestamp::from_nanos(1_000_000_000), Timestamp::from_nanos(1_050_000_000));
/// assert_eq!(short.energy.to_string(), "no_data (too_few_updates)");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Series {
    kind: ReadingKind,
    model: SensorModel,
    gate: Gate,
    origin_ns: u64,
    windows: Vec<SensorWindow>,
    /// Energy and sensed time of the windows before each.
    before: Vec<Sums>,
    /// Half-width that a varying update period adds per square root of a window, in joules.
    per_root_window_j: f64,
    polled: Interval,
    faults: Faults,
    max_gap_s: f64,
}

/// The energy of one phase and what it rests on.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Attribution {
    /// The answer.
    pub energy: Energy,
    /// The interval behind it, also where it was too wide or rested on too little; absent where the readings are void.
    pub bracket: Option<Bracket>,
}

/// What a sensor saw in the windows that lie wholly inside a stretch of time.
#[derive(Clone, Copy, Debug, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "two numbers that only make sense together")]
pub struct Seen {
    /// Energy of those windows, joules.
    pub joules: f64,
    /// Time they cover, seconds.
    pub seconds: f64,
}

/// Where the last phase was found, so that phases in order of time cost no search.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cursor {
    first: usize,
    after: usize,
    ended: usize,
}

impl Series {
    /// Prepares `samples`, which are in order of time. Several readings at one time are fine. Cost: linear.
    ///
    /// # Errors
    /// [`AttributionError::Unordered`] and [`AttributionError::Value`] name the first reading that is out of order, negative
    /// or not a number.
    pub fn new(kind: ReadingKind, samples: &[Sample], model: SensorModel, gate: Gate) -> Result<Self, AttributionError> {
        check(samples)?;
        let origin_ns = samples.first().map_or(0, |s| s.t_ns);
        let mut updates = update::updates(kind, samples, origin_ns, &model);
        if let (ReadingKind::Counter, Some(clock)) = (kind, model.clock()) {
            tick::narrow(&mut updates, clock, model.time_error_s());
        }
        let window::Windows { windows, mut faults, max_gap_s } = window::windows(kind, &updates, &model, gate.max_gap_periods);
        if kind == ReadingKind::Counter && model.kind() == SensorKind::TrailingMean {
            // Differences of overlapping means are the energy of no time at all.
            faults.add(NoData::Unsupported, Interval::new(f64::NEG_INFINITY, f64::INFINITY));
        }
        faults.seal();
        let mut before = Vec::with_capacity(windows.len() + 1);
        let mut sums = Sums::default();
        before.push(sums);
        for w in &windows {
            sums = Sums { joules: sums.joules + w.joules, seconds: sums.seconds + w.sensed_s };
            before.push(sums);
        }
        let last_s = samples.last().map_or(f64::NEG_INFINITY, |s| update::seconds(s.t_ns, origin_ns));
        let polled = Interval::new(if samples.is_empty() { f64::INFINITY } else { 0.0 }, last_s);
        let per_root_window_j = if kind == ReadingKind::Power { jitter_j(&updates, &model) } else { 0.0 };
        Ok(Self { kind, model, gate, origin_ns, windows, before, per_root_window_j, polled, faults, max_gap_s })
    }

    /// Declares the time from `start` to `end` void: another process used the device, say. Phases that touch it get `reason`.
    #[must_use]
    pub fn with_void(mut self, start: Timestamp, end: Timestamp, reason: NoData) -> Self {
        let stretch = Interval::new(self.seconds(start), self.seconds(end));
        self.faults.add(reason, stretch);
        self.faults.seal();
        self
    }

    /// Declares the whole recording void.
    #[must_use]
    pub fn void(mut self, reason: NoData) -> Self {
        self.faults.add(reason, Interval::new(f64::NEG_INFINITY, f64::INFINITY));
        self.faults.seal();
        self
    }

    /// What kind of readings these are.
    pub const fn kind(&self) -> ReadingKind {
        self.kind
    }

    /// The sensor they came from.
    pub const fn model(&self) -> &SensorModel {
        &self.model
    }

    /// Distinct sensor updates, as windows, in seconds from the first reading.
    pub fn windows(&self) -> &[SensorWindow] {
        &self.windows
    }

    /// Longest time between two updates, in seconds.
    pub const fn max_gap_s(&self) -> f64 {
        self.max_gap_s
    }

    /// Void stretches with their reasons, in seconds from the first reading.
    pub fn voids(&self) -> impl Iterator<Item = (NoData, &[Interval])> {
        self.faults.all()
    }

    /// `at` in seconds from the first reading.
    pub fn seconds(&self, at: Timestamp) -> f64 {
        update::seconds(at.as_nanos(), self.origin_ns)
    }

    /// The energy from `start` to `end`.
    pub fn attribute(&self, start: Timestamp, end: Timestamp) -> Attribution {
        self.attribute_from(&mut Cursor::default(), start, end)
    }

    /// The energy from `start` to `end`, searched for from where `cursor` last was. For phases in order of time the cost is
    /// amortised constant; for others logarithmic.
    pub fn attribute_from(&self, cursor: &mut Cursor, start: Timestamp, end: Timestamp) -> Attribution {
        let event = Interval::new(self.seconds(start), self.seconds(end));
        let refused = |reason| Attribution { energy: Energy::NoData { reason }, bracket: None };
        if let Some(reason) = self.faults.at(event) {
            return refused(reason);
        }
        if event.seconds() < self.model.shortest_event_s() {
            return refused(NoData::Unsupported);
        }
        if !self.reaches(event) {
            return refused(NoData::NotBracketed);
        }
        let bracket = self.bracket(cursor, event);
        Attribution { energy: classify(&bracket, &self.gate), bracket: Some(bracket) }
    }

    /// What the windows wholly inside `start..end` saw: an estimate without bounds, for means over many stretches. `None`
    /// where the stretch is void or holds no whole window.
    pub fn seen(&self, start: Timestamp, end: Timestamp) -> Option<Seen> {
        let stretch = Interval::new(self.seconds(start), self.seconds(end));
        if self.faults.at(stretch).is_some() {
            return None;
        }
        let from = self.windows.partition_point(|w| w.lo_s < stretch.start_s);
        let to = self.windows.partition_point(|w| w.hi_s <= stretch.end_s).max(from);
        let (a, b) = (self.before[from], self.before[to]);
        (to > from).then_some(Seen { joules: b.joules - a.joules, seconds: b.seconds - a.seconds })
    }

    /// Whether updates lie before and after `event`.
    fn reaches(&self, event: Interval) -> bool {
        let (Some(first), Some(last)) = (self.windows.first(), self.windows.last()) else { return false };
        let begins = self.polled.start_s.max(first.lo_s) <= event.start_s;
        begins && event.end_s <= self.polled.end_s.min(last.hi_s)
    }

    fn bracket(&self, cursor: &mut Cursor, event: Interval) -> Bracket {
        let w = &self.windows;
        cursor.first = gallop(w, cursor.first, |w| w.hi_s <= event.start_s);
        cursor.after = gallop(w, cursor.after, |w| w.lo_s < event.end_s);
        cursor.ended = gallop(w, cursor.ended, |w| w.hi_s <= event.end_s);
        let mut whole = 0;
        let sums = |run: std::ops::Range<usize>| {
            whole = run.len();
            let (a, b) = (self.before[run.start], self.before[run.end]);
            Sums { joules: b.joules - a.joules, seconds: b.seconds - a.seconds }
        };
        let found = bracket_of(w, cursor.first..cursor.after, cursor.ended, event, self.model.power(), sums);
        #[expect(clippy::cast_precision_loss, reason = "a count of windows")]
        let jitter_j = self.per_root_window_j * (whole as f64).sqrt();
        let systematic_j = self.model.residual() * found.energy.mid_j();
        let JouleRange { low_j, high_j } = found.energy.widened(jitter_j + systematic_j + self.unit_j(event));
        Bracket { energy: JouleRange { low_j: low_j.max(0.0), high_j }, ..found }
    }

    /// What the reading's unit hides: a millijoule of a counter, a milliwatt of a power.
    fn unit_j(&self, event: Interval) -> f64 {
        match self.kind {
            ReadingKind::Counter => 1e-3,
            ReadingKind::Power => 1e-3 * event.seconds(),
        }
    }
}

fn check(samples: &[Sample]) -> Result<(), AttributionError> {
    let mut previous = 0;
    for (index, &Sample { t_ns, value }) in samples.iter().enumerate() {
        if t_ns < previous {
            return Err(AttributionError::Unordered { index, t_ns });
        }
        if !(value.is_finite() && value >= 0.0) {
            return Err(AttributionError::Value { index, value });
        }
        previous = t_ns;
    }
    Ok(())
}

/// Three standard deviations of what a varying period moves between neighbouring windows, per root of their number:
/// `3 s R / 2`, with `s` the calibrated or observed jitter. Polling itself spreads the observed periods by
/// `2/3` of the mean squared error, which is taken off.
fn jitter_j(updates: &[update::Update], model: &SensorModel) -> f64 {
    let range_w = model.power().max_w() - model.power().min_w();
    let jitter_s = model.jitter_s().unwrap_or_else(|| {
        let near = |gap: f64| (0.5..1.5).contains(&(gap / model.update_s()));
        let gaps = updates.windows(2).map(|u| (u[1].at_s - u[0].at_s, u[1].error_s)).filter(|(gap, _)| near(*gap));
        let (n, sum, square, polling) =
            gaps.fold((0.0, 0.0, 0.0, 0.0), |(n, s, q, p), (gap, error)| (n + 1.0, s + gap, q + gap * gap, p + error * error * 2.0 / 3.0));
        if n < 2.0 { 0.0 } else { ((square - sum * sum / n - polling) / n).max(0.0).sqrt() }
    });
    3.0 * jitter_s * 0.5 * range_w
}

/// `partition_point` from a guess: doubling steps, then a search between the last two.
fn gallop<T>(items: &[T], guess: usize, holds: impl Fn(&T) -> bool) -> usize {
    let guess = guess.min(items.len());
    let mut step = 1;
    if guess < items.len() && holds(&items[guess]) {
        let mut low = guess + 1;
        while low + step <= items.len() && holds(&items[low + step - 1]) {
            low += step;
            step *= 2;
        }
        let high = (low + step).min(items.len());
        low + items[low..high].partition_point(holds)
    } else {
        let mut high = guess;
        while high >= step && !holds(&items[high - step]) {
            high -= step;
            step *= 2;
        }
        let low = high.saturating_sub(step);
        low + items[low..high].partition_point(holds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn galloping_finds_what_a_search_finds() {
        for n in 0..12_usize {
            let items: Vec<_> = (0..n).collect();
            for cut in 0..=n {
                for guess in 0..n + 3 {
                    assert_eq!(gallop(&items, guess, |i| *i < cut), cut, "{n} items, {cut} hold, guess {guess}");
                }
            }
        }
    }
}
