//! T8: equal short pulses between quiet guards, one by one.

use super::{Busy, Done, analysis::moments, curve::Changes};
use crate::{ReadingKind, Sample, attribution::seconds};
use phase_core::Timestamp;
use serde::{Deserialize, Serialize};

/// What a source says of one pulse.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Shot {
    /// How long after an update of the source it began, as a share of the time between updates.
    pub after_update: f64,
    /// Energy above rest, joules.
    pub joules: f64,
    /// Work that was done.
    pub work: u64,
}

/// What a source says of equal pulses.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ShotTable {
    /// Length of a pulse, seconds.
    pub busy_s: f64,
    /// Power at rest beside the pulses, watts.
    pub rest_w: f64,
    /// The pulses whose guards the readings cover.
    pub shots: Vec<Shot>,
    /// Mean energy above rest, joules.
    pub mean_j: f64,
    /// Standard deviation of one pulse's energy for its work, as a share of the mean: what one guarded shot is off by.
    pub error: f64,
    /// Least and greatest energy for its work over the mean. A sensor that looks part of the time misses some.
    pub extremes: [f64; 2],
}

/// Quiet time around a pulse over which its energy is taken, seconds: the device's way back to rest takes some.
const BEFORE_S: f64 = 0.12;
const AFTER_S: f64 = 0.3;
/// Stretches on either side of that which tell what rest is, seconds.
const REST_S: f64 = 0.25;
/// Fewer pulses say nothing about their scatter.
const MIN_SHOTS: usize = 4;

/// T8 of one source over the pulses of `done`, which last equally long. Energy is what the source says from a little before
/// a pulse to a while after it, less rest as it was on either side. `None` with fewer than four pulses whose surroundings the
/// readings cover.
pub fn shots(samples: &[Sample], kind: ReadingKind, done: &Done) -> Option<ShotTable> {
    let origin = samples.first()?.t_ns;
    let changes = Changes::of(samples, origin);
    let found: Vec<(Shot, f64)> = done.busy.iter().filter_map(|b| shot(&changes, kind, b, origin)).collect();
    if found.len() < MIN_SHOTS {
        return None;
    }
    let shots: Vec<Shot> = found.iter().map(|f| f.0).collect();
    let (mean_j, _) = moments(&shots.iter().map(|s| s.joules).collect::<Vec<_>>())?;
    let (rest_w, _) = moments(&found.iter().map(|f| f.1).collect::<Vec<_>>())?;
    let per_work: Vec<f64> = shots.iter().map(Shot::per_work).collect();
    let (mean, variance) = moments(&per_work)?;
    let (least, most) = per_work.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), v| (a.min(*v), b.max(*v)));
    let error = variance.sqrt() / mean;
    Some(ShotTable { busy_s: done.step.busy_s, rest_w, shots, mean_j, error, extremes: [least / mean, most / mean] })
}

impl Shot {
    /// Joules for a unit of work.
    #[expect(clippy::cast_precision_loss, reason = "a count of pieces of work")]
    pub fn per_work(&self) -> f64 {
        self.joules / self.work.max(1) as f64
    }
}

fn shot(changes: &Changes, kind: ReadingKind, busy: &Busy, origin: u64) -> Option<(Shot, f64)> {
    let (joules, rest_w) = above_rest(changes, kind, [busy.start, busy.end], origin)?;
    let start = seconds(busy.start.as_nanos(), origin);
    Some((Shot { after_update: changes.share(start)?, joules, work: busy.work }, rest_w))
}

/// Energy above rest of work from `start` to `end`, joules, and the power at rest on either side, watts.
pub(super) fn above_rest(changes: &Changes, kind: ReadingKind, [start, end]: [Timestamp; 2], origin: u64) -> Option<(f64, f64)> {
    let (from, to) = (seconds(start.as_nanos(), origin) - BEFORE_S, seconds(end.as_nanos(), origin) + AFTER_S);
    let rest_w = 0.5 * (changes.mean_w(kind, from - REST_S, from)? + changes.mean_w(kind, to, to + REST_S)?);
    Some(((changes.mean_w(kind, from, to)? - rest_w) * (to - from), rest_w))
}
