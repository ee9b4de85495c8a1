//! How values become text and markup. Whatever comes from a file is escaped here or by the engine.

use crate::figure::{between, count, digits, percent, plural};
use minijinja::{Environment, Value};
use std::fmt::Write as _;

pub(super) fn register(environment: &mut Environment<'_>) {
    environment.add_filter("digits", |v: f64| digits(v));
    environment.add_filter("percent", |v: f64| percent(v));
    environment.add_filter("count", |v: u64| count(v));
    environment.add_filter("fig", fig);
    environment.add_filter("provenance", |v: &Value| number(v, "value").map(|n| figure_words(v, n)).unwrap_or_default());
    environment.add_filter("ticks", |v: &str| Value::from_safe_string(ticks(v)));
    environment.add_filter("bounded", bounded);
    environment.add_filter("ratio", ratio);
    environment.add_filter("speed", speed);
    environment.add_filter("over", |v: &Value| number(v, "ratio").map(|r| interval_of(v, r)).unwrap_or_default());
    environment.add_filter("strip", strip);
    environment.add_filter("width", |share: f64| format!("{:.2}", (share * 100.0).clamp(0.0, 100.0)));
}

/// Text as it may stand in markup and in attributes.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// A number that shows where it comes from when it is pointed at, tapped or focused.
fn told(shown: &str, provenance: &str) -> Value {
    Value::from_safe_string(format!("<b class=n tabindex=0 data-t=\"{}\">{}</b>", escape(provenance), escape(shown)))
}

fn number(value: &Value, name: &str) -> Option<f64> {
    f64::try_from(value.get_attr(name).ok()?).ok()
}

fn text(value: &Value, name: &str) -> String {
    value.get_attr(name).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
}

fn provenance(value: &Value) -> String {
    let mut out = String::new();
    if let (Some(low), Some(high)) = (number(value, "low"), number(value, "high")) {
        let _ = write!(out, "[{}, {}]", digits(low), digits(high));
        if let Some(confidence) = number(value, "confidence") {
            let _ = write!(out, " at {}", percent(confidence));
        }
    } else {
        out.push_str("without an interval");
    }
    let whole = |name| value.get_attr(name).ok().and_then(|v| u64::try_from(v).ok()).unwrap_or(0);
    let _ = write!(out, " \u{b7} n = {}", count(whole("n")));
    match whole("blocks") {
        0 => {}
        1 => out.push_str(" in 1 block"),
        n => {
            let _ = write!(out, " in {n} blocks");
        }
    }
    let boundary = text(value, "boundary");
    if !boundary.is_empty() {
        let _ = write!(out, " \u{b7} boundary {boundary}");
    }
    out
}

/// A figure: its value, and everything else on demand.
fn fig(value: &Value) -> Value {
    let Some(number) = number(value, "value") else { return Value::from_safe_string("<span class=none>\u{2013}</span>".to_owned()) };
    told(&digits(number), &figure_words(value, number))
}

fn figure_words(value: &Value, number: f64) -> String {
    format!("{} {} {}", digits(number), text(value, "unit"), provenance(value))
}

/// Markdown's two marks in a sentence: `code` and *stress*.
fn ticks(text: &str) -> String {
    let code = escape(text).split('`').enumerate().fold(String::new(), |out, (at, part)| {
        out + match (at, at % 2) {
            (0, _) => "",
            (_, 1) => "<code>",
            _ => "</code>",
        } + part
    });
    code.split('*').enumerate().fold(String::new(), |out, (at, part)| {
        out + match (at, at % 2) {
            (0, _) => "",
            (_, 1) => "<em>",
            _ => "</em>",
        } + part
    })
}

/// A number with bounds, and `origin` on demand.
fn bounded(value: &Value, origin: &str) -> Value {
    let parts = ["value", "low", "high"].map(|name| number(value, name));
    let [Some(v), Some(low), Some(high)] = parts else { return Value::from("-") };
    told(&digits(v), &format!("{} \u{b7} {origin}", between([v, low, high])))
}

/// A time ratio, with its interval and `origin` on demand.
fn ratio(value: &Value, origin: Option<&str>) -> Value {
    let Some(r) = number(value, "ratio") else { return Value::from_safe_string("<span class=none>\u{2013}</span>".to_owned()) };
    told(&format!("{r:.3}"), &ratio_words(value, r, origin))
}

/// The same as a speed.
fn speed(value: &Value, origin: Option<&str>) -> Value {
    let Some(r) = number(value, "ratio") else { return Value::from_safe_string("<span class=none>\u{2013}</span>".to_owned()) };
    told(&format!("{:.2}\u{d7}", 1.0 / r), &ratio_words(value, r, origin))
}

fn interval_of(value: &Value, r: f64) -> String {
    let end = |name| number(value, name).unwrap_or(f64::NAN);
    format!("time ratio {r:.3} [{:.3}, {:.3}]", end("low"), end("high"))
}

fn ratio_words(value: &Value, r: f64, origin: Option<&str>) -> String {
    let end = |name| number(value, name).unwrap_or(f64::NAN);
    let blocks = value.get_attr("blocks").ok().and_then(|v| usize::try_from(v).ok()).unwrap_or(0);
    format!(
        "{} at {}, below 1 is faster \u{b7} n = {blocks} {}{}",
        interval_of(value, r),
        percent(end("confidence")),
        plural(blocks, "block"),
        origin.map_or_else(String::new, |o| format!(" \u{b7} {o}"))
    )
}

/// A ratio's interval against the region of equivalence, between half and twice.
fn strip(value: &Value, rope: f64) -> Value {
    let ends = ["low", "ratio", "high"].map(|name| number(value, name));
    let [Some(low), Some(middle), Some(high)] = ends else { return Value::from("") };
    // Logarithmic, so that twice as fast and half as fast lie equally far from the middle.
    let at = |r: f64| ((r.log2() + 1.0) / 2.0 * 100.0).clamp(0.0, 100.0);
    let (left, right) = (at(low), at(high));
    let (rope_left, rope_right) = (at(1.0 / (1.0 + rope)), at(1.0 + rope));
    Value::from_safe_string(format!(
        "<i class=strip aria-hidden=true><i class=rope style=\"left:{rope_left:.1}%;width:{:.1}%\"></i><i class=iv \
         style=\"left:{left:.1}%;width:{:.1}%\"></i><i class=dot style=\"left:{:.1}%\"></i></i>",
        rope_right - rope_left,
        (right - left).max(0.8),
        at(middle)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use minijinja::context;

    #[test]
    fn markup_from_a_file_stays_text() {
        let figure = context! { value => 1.5, unit => "<script>", n => 3, blocks => 1, boundary => "\"x\"" };
        let shown = fig(&figure).to_string();
        assert!(shown.contains("1.50 &lt;script&gt; without an interval \u{b7} n = 3 in 1 block \u{b7} boundary &quot;x&quot;"), "{shown}");
        assert!(!shown.contains("<script>"));
    }

    #[test]
    fn a_missing_number_is_a_dash_and_never_a_zero() {
        assert!(fig(&Value::from(())).to_string().contains('\u{2013}'));
        assert_eq!(strip(&Value::from(()), 0.02).to_string(), "");
    }
}
