//! The report as a table and a plot.

use super::{CalibrationReport, PhaseTable, SourceReport};
use std::fmt;

const BAR: f64 = 40.0;

impl fmt::Display for CalibrationReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "load: {}", self.load)?;
        for source in &self.sources {
            write!(f, "\n{source}")?;
        }
        match &self.perturbation {
            Some(p) => writeln!(f, "\nT7 work with the sampler over without: {:+.2}% +- {:.2}%", 100.0 * p.work, 100.0 * p.work_error),
            None => writeln!(f, "\nT7 not done"),
        }
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
        if let Some(w) = self.slow_w {
            writeln!(f, "  T5 2 Hz: {w:.1} W")?;
        }
        let seconds = |s: Option<f64>| s.map_or_else(|| "none".to_owned(), |s| format!("{s:.2} s"));
        writeln!(f, "  T6 window within 10%: {}, within 1%: {}", seconds(self.within_10_percent_s), seconds(self.within_1_percent_s))?;
        if self.failed > 0 {
            writeln!(f, "  {} failed reads", self.failed)?;
        }
        let kind = self.calibration.as_ref().map_or_else(|| "no calibration".to_owned(), |c| c.kind.to_string());
        writeln!(f, "  => {kind}: {}", self.verdict)
    }
}

impl fmt::Display for PhaseTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "  T4 square wave of {:.1} ms, mean power by shift, spread {:.1}%", 1e3 * self.period_s, 100.0 * self.spread)?;
        let most = self.means_w.iter().copied().fold(0.0, f64::max);
        for (k, w) in self.means_w.iter().enumerate() {
            let length = if most > 0.0 { bar(BAR * w / most) } else { 0 };
            writeln!(f, "     {k:2}/{:<2} {w:7.1} W {}", self.means_w.len(), "#".repeat(length))?;
        }
        Ok(())
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and the length of a bar")]
fn bar(length: f64) -> usize {
    length.clamp(0.0, BAR).round() as usize
}
