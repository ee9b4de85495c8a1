//! The report as a table and a plot.

use super::{CalibrationReport, Perturbation, PhaseTable, SourceReport};
use crate::calibrate::{Change, ShotTable, SweepTable};
use std::fmt;

const BAR: f64 = 40.0;

impl fmt::Display for CalibrationReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "load: {}", self.load)?;
        for source in &self.sources {
            write!(f, "\n{source}")?;
        }
        let arms = [("reading at every poll", &self.perturbation), ("at the default pace", &self.paced)];
        let done: Vec<_> = arms.iter().filter_map(|(arm, found)| Some((arm, (*found).as_ref()?))).collect();
        writeln!(f, "{}", if done.is_empty() { "\nT7 not done" } else { "\nT7 with the sampler over without" })?;
        done.into_iter().try_for_each(|(arm, found)| writeln!(f, "  {arm}: {found}"))
    }
}

/// What a sampler may change: T7 of the specification.
const PERTURBATION: f64 = 0.01;

impl fmt::Display for Perturbation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { work, p50, p95, energy, core } = *self;
        let percent = |c: Change| {
            let verdict = match c.below(PERTURBATION) {
                Some(true) => "below 1%",
                Some(false) => "not below 1%",
                None => "undecided",
            };
            format!("{:+.2}% +- {:.2}% ({verdict})", 100.0 * c.share, 100.0 * c.error)
        };
        let energy = energy.map_or_else(|| "no counter".to_owned(), percent);
        let (work, p50, p95) = (percent(work), percent(p50), percent(p95));
        write!(f, "work a second {work}, time of a unit p50 {p50}, p95 {p95}, its energy {energy}")?;
        core.map_or(Ok(()), |share| write!(f, "; the sampler took {:.2}% of a core", 100.0 * share))
    }
}

impl fmt::Display for SweepTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { trains, slope_j, slope_error_j, intercept, intercept_error } = self;
        let (least, most) = (trains.first().map_or(0.0, |t| t[0]), trains.last().map_or(0.0, |t| t[0]));
        let line = if self.through_nothing() { "through nothing" } else { "not through nothing" };
        writeln!(
            f,
            "  sweep of {least:.0} to {most:.0} replays: {slope_j:.4} +- {slope_error_j:.4} J a unit of work, bent by {:.1}%; of no replays the \
             energy of {intercept:+.2} +- {intercept_error:.2} ({line})",
            100.0 * self.bend()
        )
    }
}

impl fmt::Display for SourceReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} ({})", self.source, self.reading)?;
        match &self.period {
            Some(p) => {
                let (mean, jitter) = (1e3 * p.mean_s, 1e3 * p.jitter_s);
                writeln!(f, "  T1 update every {mean:.1} ms, jitter {jitter:.1} ms, quantum {}, {} updates", p.quantum, p.updates)?;
            }
            None => writeln!(f, "  T1 too few updates")?,
        }
        match &self.step {
            Some(s) => {
                let [rest, full] = s.levels_w;
                writeln!(f, "  T2 half way after {:.0} ms, rise {:.0} ms, {rest:.0} W to {full:.0} W", 1e3 * s.half_s, 1e3 * s.rise_s)?;
            }
            None => writeln!(f, "  T2 no step seen")?,
        }
        for [level, watts] in &self.levels_w {
            writeln!(f, "  T3 level {level:.1}: {watts:.1} W")?;
        }
        for table in &self.phases {
            write!(f, "{table}")?;
        }
        for table in &self.shots {
            write!(f, "{table}")?;
        }
        if let Some(sweep) = &self.sweep {
            write!(f, "{sweep}")?;
        }
        if let Some(w) = self.slow_w {
            writeln!(f, "  T5 2 Hz: {w:.1} W")?;
        }
        let seconds = |s: Option<f64>| s.map_or_else(|| "none".to_owned(), |s| format!("{s:.2} s"));
        writeln!(f, "  T6 window within 10%: {}, within 1%: {}", seconds(self.within_10_percent_s), seconds(self.within_1_percent_s))?;
        if let Some(s) = self.read_s {
            writeln!(f, "  a read takes {:.0} us", 1e6 * s)?;
        }
        if self.failed > 0 {
            writeln!(f, "  {} failed reads", self.failed)?;
        }
        let kind = self.calibration.as_ref().map_or_else(|| "no calibration".to_owned(), |c| c.kind.to_string());
        writeln!(f, "  => {kind}: {}", self.verdict)
    }
}

impl fmt::Display for PhaseTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let noise = self.noise.map_or_else(String::new, |n| format!(", repeats differ by {:.1}%", 100.0 * n));
        writeln!(f, "  T4 square wave of {:.1} ms, mean power by shift, spread {:.1}%{noise}", 1e3 * self.period_s, 100.0 * self.spread)?;
        let most = self.means_w.iter().copied().fold(0.0, f64::max);
        for (shift, w) in self.shifts.iter().zip(&self.means_w) {
            let length = if most > 0.0 { bar(BAR * w / most) } else { 0 };
            writeln!(f, "     {shift:.2} {w:7.1} W {}", "#".repeat(length))?;
        }
        Ok(())
    }
}

impl fmt::Display for ShotTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { busy_s, shots, mean_j, error, extremes: [least, most], .. } = self;
        let (ms, n) = (1e3 * busy_s, shots.len());
        let (error, least, most) = (100.0 * error, 100.0 * least, 100.0 * most);
        writeln!(
            f,
            "  T8 {n} isolated pulses of {ms:.0} ms: {mean_j:.2} J above rest, one is off by {error:.1}% (from {least:.0}% to {most:.0}%)"
        )
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and the length of a bar")]
fn bar(length: f64) -> usize {
    length.clamp(0.0, BAR).round() as usize
}
