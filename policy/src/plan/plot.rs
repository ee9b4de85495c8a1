//! Cost against load as a picture.

use super::{Candidate, Plan};
use crate::cost::Short;
use std::fmt::Write as _;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 190.0;
const TOP: f64 = 30.0;
const BOTTOM: f64 = 50.0;
const STEPS: u32 = 60;
const COLOURS: [&str; 8] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999"];

/// Cost a month of one candidate at `times` this load: workers scale with it, in whole ones.
fn usd(candidate: &Candidate, times: f64) -> Option<f64> {
    let sizing = candidate.sizing?;
    let cheapest = candidate.cheapest()?;
    let each = cheapest.usd_per_month.value() / f64::from(sizing.workers);
    Some((f64::from(sizing.workers) * times).ceil().max(1.0) * each)
}

pub(super) fn svg(plan: &Plan) -> String {
    let lines: Vec<_> = plan.candidates.iter().filter(|c| c.cheapest().is_some()).collect();
    let highest = lines.iter().filter_map(|c| usd(c, 4.0)).fold(f64::MIN_POSITIVE, f64::max);
    let x = |times: f64| LEFT + (times.log2() + 2.0) / 4.0 * (WIDTH - LEFT - RIGHT);
    let y = |usd: f64| HEIGHT - BOTTOM - usd / highest * (HEIGHT - TOP - BOTTOM);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <title>Cost a month against load</title>\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n"
    );
    for step in 0..=4_u32 {
        let usd = highest * f64::from(step) / 4.0;
        let (bottom, right) = (y(usd), WIDTH - RIGHT);
        let _ = writeln!(out, "<path d=\"M{LEFT} {bottom:.1}H{right}\" stroke=\"#ddd\"/>");
        let _ = writeln!(out, "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>", LEFT - 6.0, bottom + 4.0, Short(usd));
        let times = 2.0_f64.powi(i32::try_from(step).unwrap_or(0) - 2);
        let rate = Short(plan.requests_per_s * times);
        let _ = writeln!(out, "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{rate}</text>", x(times), HEIGHT - BOTTOM + 18.0);
    }
    let _ = writeln!(out, "<text x=\"{}\" y=\"18\">$ a month, cheapest tier</text>", LEFT - 60.0);
    let _ = writeln!(out, "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">requests/s</text>", x(1.0), HEIGHT - 10.0);
    for ((index, candidate), colour) in lines.iter().enumerate().zip(COLOURS.iter().cycle()) {
        let mut path = String::new();
        for step in 0..=STEPS {
            let times = 2.0_f64.powf(f64::from(step) / f64::from(STEPS) * 4.0 - 2.0);
            if let Some(usd) = usd(candidate, times) {
                let _ = write!(path, "{}{:.1} {:.1}", if path.is_empty() { "M" } else { "L" }, x(times), y(usd));
            }
        }
        let row = TOP + 10.0 + 18.0 * crate::stats::real_size(index);
        let _ = writeln!(out, "<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>");
        let _ = writeln!(out, "<text x=\"{}\" y=\"{row:.1}\" fill=\"{colour}\">{}</text>", WIDTH - RIGHT + 10.0, escape(candidate.name()));
    }
    out.push_str("</svg>\n");
    out
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
