//! Where a length falls among the buckets, and what it takes there.

use super::{
    arm::{Arm, Slope},
    estimate::{Basis, Estimate},
    tables::Side,
};
use crate::{
    Percentile,
    rules::{CompileReason, Standing},
    stats::Interval,
};
use phase_core::Shape;

/// Where a length falls in a grid.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'t> {
    pub(super) length: f64,
    /// Whether a longer call than measured is scaled per token.
    pub(super) scales: bool,
    /// The bucket that decides: the nearest by ratio.
    pub(super) shape: Shape,
    /// What was measured there, compiled where that holds for this length.
    pub(super) side: &'t Side,
    /// The bucket at or below, where there is one.
    pub(super) below: Option<&'t Side>,
}

impl<'t> Place<'t> {
    /// The line that a length between two buckets lies on, and how far along.
    #[inline]
    fn line(&self, backend: usize) -> Option<(&'t Arm, &'t Slope, f64)> {
        let arm = self.below?.arms[backend].as_ref()?;
        let slope = arm.slope.as_ref()?;
        let along = self.length - arm.length;
        (along > 0.0 && self.length < slope.until).then_some((arm, slope, along))
    }

    /// The bucket that stands for the length where no line does: the factor is 1 unless it is scaled.
    #[inline]
    fn single(&self, backend: usize) -> Option<(&'t Arm, f64, Basis)> {
        let arm = self.side.arms[backend].as_ref()?;
        #[expect(clippy::float_cmp, reason = "both are whole numbers or halves")]
        let here = self.length == arm.length;
        Some(match (here, self.scales && self.length > arm.length) {
            (true, _) => (arm, 1.0, Basis::Measured),
            (false, true) => (arm, self.length / arm.length, Basis::Scaled),
            (false, false) => (arm, 1.0, Basis::Nearest),
        })
    }

    /// The time of one call on `backend` in nanoseconds; `None` where it was not measured.
    #[inline]
    pub(super) fn ns(&self, backend: usize) -> Option<f64> {
        match self.line(backend) {
            Some((arm, slope, along)) => Some(arm.ns + slope.ns * along),
            // As `single`, without a division where nothing is scaled.
            None => {
                let arm = self.side.arms[backend].as_ref()?;
                Some(if self.scales && self.length > arm.length { arm.ns * (self.length / arm.length) } else { arm.ns })
            }
        }
    }

    /// As [`ns`](Self::ns), with where it comes from and how sure it is.
    pub(super) fn estimate(&self, backend: usize) -> Option<Estimate> {
        let Some((arm, slope, along)) = self.line(backend) else {
            let (arm, factor, basis) = self.single(backend)?;
            return Some(arm.tail.estimate(arm.ns, arm.interval, basis).times(factor));
        };
        let interval = arm.interval.zip(slope.interval).map(|(at, per_token)| Interval {
            low: at.low + per_token.low * along,
            high: at.high + per_token.high * along,
            confidence: per_token.confidence,
        });
        Some(slope.tail.estimate(arm.ns + slope.ns * along, interval, Basis::Interpolated))
    }

    /// The upper bound of a percentile, as [`estimate`](Self::estimate) gives it; `None` where it is not known.
    #[inline]
    pub(super) fn upper_ns(&self, backend: usize, percentile: Percentile) -> Option<f64> {
        match (self.line(backend), percentile) {
            (Some((arm, slope, along)), Percentile::P50) => Some(arm.interval?.high + slope.interval?.high * along),
            (Some((arm, slope, along)), _) => slope.tail.upper_ns(percentile, arm.ns + slope.ns * along),
            (None, _) => {
                let (arm, factor, _) = self.single(backend)?;
                let upper = if percentile == Percentile::P50 { Some(arm.interval?.high) } else { arm.tail.upper_ns(percentile, arm.ns) };
                upper.map(|ns| ns * factor)
            }
        }
    }

    /// Whether to compile such a call on `backend`. Prefill must have the very length that was proven and measured: a
    /// compiled prefill elsewhere may be compiled again, or run otherwise.
    #[inline]
    pub(super) fn compile(&self, backend: usize) -> CompileReason {
        let Some(arm) = self.side.arms[backend].as_ref() else { return CompileReason::NoEvidence };
        #[expect(clippy::float_cmp, reason = "both are whole numbers")]
        let elsewhere = self.scales && self.length != arm.length;
        if elsewhere && arm.compile.allows() { CompileReason::ShapeOutside } else { arm.compile }
    }

    /// Whether such a call on `backend` is a compiled one.
    #[inline]
    pub(super) fn is_compiled(&self, backend: usize) -> bool {
        self.side.arms[backend].as_ref().is_some_and(|arm| arm.compiled)
    }

    /// How `backend` stands against the default in the bucket that decides.
    #[inline]
    pub(super) fn standing(&self, backend: usize) -> Option<&'t Standing> {
        self.side.arms[backend].as_ref()?.standing.as_ref()
    }
}
