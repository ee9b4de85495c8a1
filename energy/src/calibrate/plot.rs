//! What the sensors say of one and the same short pulse, as a picture.

use super::{CalibrationReport, ShotTable};
use std::fmt::Write;

const LEFT: f64 = 64.0;
const TOP: f64 = 56.0;
const WIDE: f64 = 600.0;
const HIGH: f64 = 260.0;
/// The highest share that is drawn; what is above it stands on the upper edge.
const MOST: f64 = 4.5;
/// Sensors in the order they are drawn, their names, and their marks' class.
const DRAWN: [(&str, &str, &str); 3] = [
    ("power_instant", "instant power (field 186)", "c"),
    ("power_samples", "the driver's ring of power samples", "b"),
    ("total_energy", "energy counter", "a"),
];

/// Every isolated pulse of `busy_s` as each sensor saw it: across when it began between two updates of the counter, up its
/// energy for the work it did, over the counter's mean. `None` where the counter saw none. Colours follow the viewer's,
/// on a ground of their own: a page may be dark where its reader's preference is not.
pub fn shots_svg(report: &CalibrationReport, busy_s: f64) -> Option<String> {
    let table = |field: &str| -> Option<&ShotTable> {
        let source = report.sources.iter().find(|s| s.source.field == field)?;
        source.shots.iter().find(|t| (t.busy_s - busy_s).abs() < 1e-9)
    };
    let counter = table("total_energy")?;
    #[expect(clippy::cast_precision_loss, reason = "a count of pulses")]
    let mean = counter.shots.iter().map(super::Shot::per_work).sum::<f64>() / counter.shots.len() as f64;
    let (width, height) = (LEFT + WIDE + 24.0, TOP + HIGH + 116.0);
    let gpu = report.load.split(':').next().unwrap_or_default();
    let mut svg = String::new();
    let _ = write!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"13\">\n<style>\n\
         text{{fill:#1f2328}} .p{{fill:#fff}} .g{{stroke:#8888;stroke-width:1;fill:none}} .a{{fill:#0a58ca;stroke:#0a58ca}} .b{{fill:none;stroke:#b35900;stroke-width:2}} \
         .c{{fill:none;stroke:#a1260d;stroke-width:2}}\n@media (prefers-color-scheme:dark){{text{{fill:#e6edf3}} .p{{fill:#0d1117}} .a{{fill:#6cb0ff;stroke:#6cb0ff}} \
         .b{{stroke:#ffb057}} .c{{stroke:#ff8a75}}}}\n</style>\n\
         <rect class=\"p\" width=\"{width}\" height=\"{height}\" rx=\"6\"/>\n"
    );
    let y = |share: f64| TOP + HIGH * (1.0 - share.clamp(0.0, MOST) / MOST);
    let _ = writeln!(
        svg,
        "<text x=\"{LEFT}\" y=\"22\" font-size=\"15\">One pulse of {:.0} ms, {} times, as the sensors of {gpu} saw it</text>",
        1e3 * busy_s,
        counter.shots.len()
    );
    let _ = writeln!(
        svg,
        "<text x=\"{LEFT}\" y=\"42\">energy above rest for its work, over the mean by the counter ({:.1} J)</text>",
        counter.mean_j
    );
    for (share, label) in [(0.0, "0"), (1.0, "1"), (2.0, "2"), (3.0, "3"), (4.0, "4")] {
        let at = y(share);
        let _ = writeln!(
            svg,
            "<path class=\"g\" d=\"M{LEFT} {at:.1}h{WIDE}\"/><text x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>",
            LEFT - 10.0,
            at + 4.0
        );
    }
    for (share, label) in [(0.0, "0"), (0.25, "¼"), (0.5, "½"), (0.75, "¾"), (1.0, "1")] {
        let _ =
            writeln!(svg, "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{label}</text>", LEFT + WIDE * share, TOP + HIGH + 20.0);
    }
    let _ = writeln!(
        svg,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">when it began, from one update of the counter to the next</text>",
        LEFT + 0.5 * WIDE,
        TOP + HIGH + 40.0
    );
    for (row, (field, name, class)) in DRAWN.iter().rev().enumerate() {
        let Some(shown) = table(field) else { continue };
        for (k, shot) in shown.shots.iter().enumerate() {
            // The same pulses, in the same order, where every sensor has all of them.
            let when = if shown.shots.len() == counter.shots.len() { counter.shots[k].after_update } else { shot.after_update };
            mark(&mut svg, class, LEFT + WIDE * when, y(shot.per_work() / mean));
        }
        #[expect(clippy::cast_precision_loss, reason = "three rows")]
        let at = TOP + HIGH + 62.0 + 18.0 * row as f64;
        mark(&mut svg, class, LEFT + 6.0, at - 4.0);
        let _ = writeln!(
            svg,
            "<text x=\"{:.0}\" y=\"{at:.0}\">{name}: one pulse is off by {:.0}% (one sigma)</text>",
            LEFT + 20.0,
            100.0 * shown.error
        );
    }
    svg.push_str("</svg>\n");
    Some(svg)
}

fn mark(svg: &mut String, class: &str, x: f64, y: f64) {
    let _ = match class {
        "a" => writeln!(svg, "<circle class=\"a\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4.5\"/>"),
        "b" => writeln!(svg, "<path class=\"b\" d=\"M{x:.1} {y:.1}m0 -5l5 5l-5 5l-5 -5z\"/>"),
        _ => writeln!(svg, "<path class=\"c\" d=\"M{x:.1} {y:.1}m-5 -5l10 10m0 -10l-10 10\"/>"),
    };
}
