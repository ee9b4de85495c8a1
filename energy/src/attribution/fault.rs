//! Stretches of a recording that carry no energy, and why.

use crate::Interval;
use phase_core::NoData;

/// Reasons in the order in which they are given when several hold: what makes the whole recording void comes first.
const ORDER: [NoData; 14] = [
    NoData::Mig,
    NoData::DeviceShared,
    NoData::BoundaryChanged,
    NoData::Uncalibrated,
    NoData::Unsupported,
    NoData::CrossCheckFailed,
    NoData::Perturbing,
    NoData::CounterReset,
    NoData::ClockJump,
    NoData::CounterStuck,
    NoData::ImplausiblePower,
    NoData::SampleGap,
    NoData::ThermalDrift,
    NoData::SensorLocked,
];

/// Void stretches by reason.
#[derive(Clone, Debug, Default)]
pub(crate) struct Faults {
    by_reason: Vec<(NoData, Vec<Interval>)>,
}

impl Faults {
    /// Adds a stretch. Call [`seal`](Self::seal) before asking.
    pub(crate) fn add(&mut self, reason: NoData, stretch: Interval) {
        match self.by_reason.iter_mut().find(|(r, _)| *r == reason) {
            Some((_, stretches)) => stretches.push(stretch),
            None => self.by_reason.push((reason, vec![stretch])),
        }
    }

    /// Sorts and joins the stretches, and puts the reasons in their order.
    pub(crate) fn seal(&mut self) {
        for (_, stretches) in &mut self.by_reason {
            stretches.sort_by(|a, b| a.start_s.total_cmp(&b.start_s));
            let mut joined: Vec<Interval> = Vec::with_capacity(stretches.len());
            for &s in stretches.iter() {
                match joined.last_mut() {
                    Some(last) if s.start_s <= last.end_s => last.end_s = last.end_s.max(s.end_s),
                    _ => joined.push(s),
                }
            }
            *stretches = joined;
        }
        let rank = |reason: NoData| ORDER.iter().position(|r| *r == reason).unwrap_or(ORDER.len());
        self.by_reason.sort_by_key(|(reason, _)| rank(*reason));
    }

    /// The first reason that holds anywhere in `event`.
    pub(crate) fn at(&self, event: Interval) -> Option<NoData> {
        self.by_reason.iter().find_map(|(reason, stretches)| {
            let next = stretches.partition_point(|s| s.end_s <= event.start_s);
            stretches.get(next).is_some_and(|s| s.start_s < event.end_s).then_some(*reason)
        })
    }

    /// The reasons that hold anywhere at all, with the stretches they hold in.
    pub(crate) fn all(&self) -> impl Iterator<Item = (NoData, &[Interval])> {
        self.by_reason.iter().map(|(reason, stretches)| (*reason, stretches.as_slice()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gravest_reason_that_touches_the_event_is_given() {
        let mut faults = Faults::default();
        for (reason, a, b) in [
            (NoData::SampleGap, 1.0, 2.0),
            (NoData::CounterReset, 1.5, 1.6),
            (NoData::SampleGap, 1.9, 3.0),
            (NoData::Mig, 9.0, f64::INFINITY),
        ] {
            faults.add(reason, Interval::new(a, b));
        }
        faults.seal();
        assert_eq!(faults.at(Interval::new(0.0, 1.0)), None);
        assert_eq!(faults.at(Interval::new(0.0, 1.2)), Some(NoData::SampleGap));
        assert_eq!(faults.at(Interval::new(1.55, 2.5)), Some(NoData::CounterReset));
        assert_eq!(faults.at(Interval::new(2.5, 10.0)), Some(NoData::Mig));
        assert_eq!(faults.all().count(), 3);
    }
}
