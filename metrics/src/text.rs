//! The two text formats of a scrape: Prometheus 0.0.4 and `OpenMetrics` 1.0.

use crate::table::{Kind, Metric};
use std::fmt::Write;

/// A text format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "the text formats that Prometheus reads")]
pub enum TextFormat {
    /// `OpenMetrics` 1.0: units, and an end that shows that nothing is missing.
    OpenMetrics,
    /// Prometheus text 0.0.4.
    Prometheus,
}

impl TextFormat {
    /// The value of `Content-Type`.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    /// What a client with this `Accept` header gets: `OpenMetrics` where it names it.
    pub fn accepted(accept: &str) -> Self {
        let names = |part: &str| part.split(';').next().is_some_and(|kind| kind.trim() == "application/openmetrics-text");
        if accept.split(',').any(names) { Self::OpenMetrics } else { Self::Prometheus }
    }
}

/// Puts samples together. All samples of one metric must come one after the other.
#[derive(Debug)]
pub(crate) struct Writer {
    out: String,
    format: TextFormat,
    current: &'static str,
}

impl Writer {
    pub(crate) fn new(format: TextFormat) -> Self {
        Self { out: String::with_capacity(1 << 14), format, current: "" }
    }

    /// One sample. `values` are those of the metric's labels, in order.
    pub(crate) fn sample(&mut self, metric: &Metric, values: &[&str], value: f64) {
        self.head(metric);
        self.line(metric, "", values, None, value);
    }

    /// One whole histogram.
    #[expect(clippy::cast_precision_loss, reason = "counts stay below 2^53")]
    pub(crate) fn histogram(&mut self, metric: &Metric, values: &[&str], reading: &crate::histogram::Reading) {
        if reading.count() == 0 {
            return;
        }
        self.head(metric);
        let edges = metric.edges.iter().copied().chain([f64::INFINITY]);
        for (edge, count) in edges.zip(&reading.cumulative) {
            self.line(metric, "_bucket", values, Some(edge), *count as f64);
        }
        self.line(metric, "_sum", values, None, reading.sum);
        self.line(metric, "_count", values, None, reading.count() as f64);
    }

    pub(crate) fn finish(mut self) -> String {
        if self.format == TextFormat::OpenMetrics {
            self.out.push_str("# EOF\n");
        }
        self.out
    }

    fn head(&mut self, metric: &Metric) {
        if self.current == metric.name {
            return;
        }
        self.current = metric.name;
        let Metric { name, kind, unit, help, .. } = metric;
        let kind = kind.as_str();
        let _ = match self.format {
            TextFormat::Prometheus => write!(self.out, "# HELP {name} {}\n# TYPE {name} {kind}\n", escaped(help, false)),
            TextFormat::OpenMetrics => {
                let family = metric.family();
                let unit = if unit.is_empty() { String::new() } else { format!("# UNIT {family} {unit}\n") };
                write!(self.out, "# TYPE {family} {kind}\n{unit}# HELP {family} {}\n", escaped(help, true))
            }
        };
    }

    fn line(&mut self, metric: &Metric, suffix: &str, values: &[&str], edge: Option<f64>, value: f64) {
        debug_assert_eq!(metric.labels.len(), values.len(), "{}: a value for every label", metric.name);
        debug_assert!(metric.kind != Kind::Counter || metric.name.ends_with("_total"), "{}", metric.name);
        self.out.push_str(metric.name);
        self.out.push_str(suffix);
        let edge = edge.map(number);
        let pairs = metric.labels.iter().copied().zip(values.iter().copied()).chain(edge.as_deref().map(|e| ("le", e)));
        for (at, (label, value)) in pairs.enumerate() {
            let _ = write!(self.out, "{}{label}=\"{}\"", if at == 0 { '{' } else { ',' }, escaped(value, true));
        }
        if !metric.labels.is_empty() || edge.is_some() {
            self.out.push('}');
        }
        let _ = writeln!(self.out, " {}", number(value));
    }
}

/// Quotes are escaped in label values and in `OpenMetrics`' help.
fn escaped(text: &str, quotes: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '"' if quotes => out.push_str("\\\""),
            c => out.push(c),
        }
    }
    out
}

/// A number as both formats read it; one spelling, so that a change of format makes no new series of its edges.
fn number(value: f64) -> String {
    if value.is_nan() {
        "NaN".to_owned()
    } else if value.is_infinite() {
        if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned()
    } else {
        format!("{value:?}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table;

    #[test]
    fn labels_and_help_are_escaped_and_openmetrics_has_units_and_an_end() {
        let text = |format| {
            let mut w = Writer::new(format);
            w.sample(&table::MODEL_LOAD_SECONDS, &["a\"b\\c\nd"], 1.5);
            w.sample(&table::MODEL_LOAD_SECONDS, &["x"], 1e-7);
            w.finish()
        };
        let open = text(TextFormat::OpenMetrics);
        assert_eq!(
            open,
            "# TYPE phase_model_load_seconds counter\n# UNIT phase_model_load_seconds seconds\n# HELP phase_model_load_seconds Time that loading \
             models took.\nphase_model_load_seconds_total{backend=\"a\\\"b\\\\c\\nd\"} 1.5\nphase_model_load_seconds_total{backend=\"x\"} \
             1e-7\n# EOF\n"
        );
        assert!(text(TextFormat::Prometheus).starts_with("# HELP phase_model_load_seconds_total "));
    }

    #[test]
    fn the_format_is_what_the_client_names() {
        let prometheus = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        assert_eq!(TextFormat::accepted(prometheus), TextFormat::OpenMetrics);
        assert_eq!(TextFormat::accepted("*/*"), TextFormat::Prometheus);
        assert_eq!(TextFormat::accepted(""), TextFormat::Prometheus);
    }
}
