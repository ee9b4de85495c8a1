//! One plot as inline SVG whose colours follow the page: the library draws in marker colours, which become CSS variables.

use super::axis::{Axis, Wish, tick};
use crate::ReportError;
use plotters::{
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};
use std::fmt::Write as _;

/// Marker colours. None is drawn by itself.
const INK: RGBColor = RGBColor(1, 1, 1);
const GRID: RGBColor = RGBColor(2, 2, 2);
const ROOF: RGBColor = RGBColor(3, 3, 3);
/// Colours of competitors that the style sheet knows.
pub(super) const SERIES: u8 = 6;

/// Width and height of a panel, and of a plot that stands alone: letters are as large in both.
const PANEL: (u32, u32) = (460, 280);
const ALONE: (u32, u32) = (680, 380);
/// Points of one series that are drawn at most.
const MOST: usize = 120;

/// One point with its interval and what is told about it.
#[derive(Clone, Debug)]
pub(super) struct Point {
    pub(super) x: f64,
    pub(super) y: f64,
    pub(super) low: Option<f64>,
    pub(super) high: Option<f64>,
    pub(super) told: String,
}

/// A line of points of one competitor.
#[derive(Clone, Debug)]
pub(super) struct Series {
    /// Its position among the competitors: decides colour and marker.
    pub(super) place: usize,
    pub(super) joined: bool,
    /// Open markers, for the other phase.
    pub(super) open: bool,
    pub(super) points: Vec<Point>,
}

/// A line that is no data: a ceiling, a boundary.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    pub(super) line: Vec<(f64, f64)>,
    /// Words that end above a place of it.
    pub(super) words: Vec<((f64, f64), String)>,
}

/// What is drawn.
#[derive(Clone, Debug, Default)]
pub(super) struct Plot {
    pub(super) name: &'static str,
    pub(super) x: &'static str,
    pub(super) log_x: bool,
    pub(super) log_y: bool,
    /// Whole numbers are what x counts.
    pub(super) whole_x: bool,
    /// It has no panels beside it.
    pub(super) alone: bool,
    pub(super) series: Vec<Series>,
    pub(super) rules: Vec<Rule>,
    /// Labels that x should have.
    pub(super) x_at: Vec<f64>,
    /// Labels of the x axis where numbers would say nothing.
    pub(super) x_words: Vec<String>,
}

impl Plot {
    /// The SVG, or nothing when there is nothing to draw.
    pub(super) fn svg(&self) -> Result<String, ReportError> {
        let points = || self.series.iter().flat_map(|s| &s.points);
        if points().next().is_none() {
            return Ok(String::new());
        }
        let ends = |p: &Point| [Some(p.y), p.low, p.high].into_iter().flatten().collect::<Vec<_>>();
        let roofs = || self.rules.iter().flat_map(|r| &r.line);
        let xs = points().map(|p| p.x).chain(roofs().map(|r| r.0));
        let ys = points().flat_map(ends).chain(roofs().map(|r| r.1));
        let x = Axis::of(xs, Wish { log: self.log_x, whole: self.whole_x, at: &self.x_at, ..Wish::default() });
        let y = Axis::of(ys, Wish { log: self.log_y, from_zero: !self.log_y, ..Wish::default() });
        let mut svg = String::new();
        let mut hits = String::new();
        let drawn = self.onto(&mut svg, &mut hits, x, y);
        drawn.map_err(|why| ReportError::Plot { what: self.name, why })?;
        Ok(self.themed(&svg, &hits))
    }

    const fn size(&self) -> (u32, u32) {
        if self.alone { ALONE } else { PANEL }
    }

    fn onto(&self, svg: &mut String, hits: &mut String, x: Axis, y: Axis) -> Result<(), String> {
        let area = SVGBackend::with_string(svg, self.size()).into_drawing_area();
        let mut builder = ChartBuilder::on(&area);
        builder.margin(8).margin_right(14).x_label_area_size(42).y_label_area_size(54);
        builder.build_cartesian_2d(x, y).map_err(wrong).and_then(|chart| self.draw(chart, hits))?;
        area.present().map_err(wrong)
    }

    fn draw(&self, mut chart: ChartContext<'_, SVGBackend<'_>, Cartesian2d<Axis, Axis>>, hits: &mut String) -> Result<(), String> {
        let text = ("sans-serif", 17).into_font().color(&INK);
        let words = |v: &f64| self.word(*v);
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID.stroke_width(1))
            .axis_style(GRID.stroke_width(1))
            .label_style(text.clone())
            .axis_desc_style(text)
            .x_desc(self.x)
            .x_labels(6)
            .y_labels(6)
            .x_label_formatter(&words)
            .y_label_formatter(&|v| tick(*v))
            .draw()
            .map_err(wrong)?;
        let said = ("sans-serif", 15).into_font().color(&ROOF).pos(Pos::new(HPos::Right, VPos::Bottom));
        for Rule { line, words } in &self.rules {
            chart.draw_series(LineSeries::new(line.iter().copied(), ROOF.stroke_width(2))).map_err(wrong)?;
            let above =
                |((x, y), words): &((f64, f64), String)| EmptyElement::at((*x, *y)) + Text::new(words.clone(), (-4, -4), said.clone());
            chart.draw_series(words.iter().map(above)).map_err(wrong)?;
        }
        for series in &self.series {
            let colour = RGBColor(10 + u8::try_from(series.place % usize::from(SERIES)).unwrap_or(0), 0, 0);
            let points = thinned(&series.points);
            if series.joined {
                chart.draw_series(LineSeries::new(points.iter().map(|p| (p.x, p.y)), colour.stroke_width(2))).map_err(wrong)?;
            }
            let bars = points.iter().filter_map(|p| Some(PathElement::new(vec![(p.x, p.low?), (p.x, p.high?)], colour.stroke_width(2))));
            chart.draw_series(bars).map_err(wrong)?;
            let style = if series.open { colour.stroke_width(2) } else { colour.filled() };
            match series.place % 3 {
                0 => chart.draw_series(points.iter().map(|p| Circle::new((p.x, p.y), 4, style))).map_err(wrong).map(|_| ())?,
                1 => chart.draw_series(points.iter().map(|p| TriangleMarker::new((p.x, p.y), 5, style))).map_err(wrong).map(|_| ())?,
                _ => chart
                    .draw_series(points.iter().map(|p| EmptyElement::at((p.x, p.y)) + Rectangle::new([(-4, -4), (4, 4)], style)))
                    .map_err(wrong)
                    .map(|_| ())?,
            }
            for point in points {
                let (px, py) = chart.backend_coord(&(point.x, point.y));
                let told = super::filter::escape(&point.told);
                let _ = write!(
                    hits,
                    "<circle class=hit cx=\"{px}\" cy=\"{py}\" r=\"10\" tabindex=\"0\" data-t=\"{told}\"><title>{told}</title></circle>"
                );
            }
        }
        Ok(())
    }

    fn word(&self, value: f64) -> String {
        if self.x_words.is_empty() {
            return tick(value);
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the position of a word, checked to be whole")]
        let at = value.round() as usize;
        if (value - value.round()).abs() < 1e-9 && value >= 0.0 { self.x_words.get(at).cloned().unwrap_or_default() } else { String::new() }
    }

    /// Marker colours to variables, fixed size to a view box, the library's font to the page's.
    fn themed(&self, svg: &str, hits: &str) -> String {
        let mut out = svg.replace("#010101", "var(--ink)").replace("#020202", "var(--grid)").replace("#030303", "var(--roof)");
        for place in 0..SERIES {
            out = out.replace(&format!("#{:02X}0000", 10 + place), &format!("var(--s{place})"));
        }
        let (width, height) = self.size();
        out = out.replace(&format!("width=\"{width}\" height=\"{height}\""), &format!("role=\"img\" aria-label=\"{}\"", self.name));
        out = out.replace(" font-family=\"sans-serif\"", "").replace("opacity=\"1\" ", "");
        let kept: Vec<_> = out.lines().map(str::trim).collect();
        kept.join("").replace("</svg>", &format!("{hits}</svg>"))
    }
}

fn wrong(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// Every n-th point, the first and the last one included.
fn thinned(points: &[Point]) -> Vec<&Point> {
    let step = points.len().div_ceil(MOST).max(1);
    let last = points.len().saturating_sub(1);
    points.iter().enumerate().filter(|(at, _)| at.is_multiple_of(step) || *at == last).map(|(_, p)| p).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_axis_has_labels() {
        let point = |x: f64| Point { x, y: 20.0 + x, low: None, high: None, told: String::new() };
        let series = vec![Series { place: 0, joined: true, open: false, points: vec![point(128.0), point(512.0)] }];
        let svg =
            Plot { name: "test", x: "x", log_x: true, log_y: true, x_at: vec![128.0, 512.0], series, ..Plot::default() }.svg().unwrap();
        let labels: Vec<_> = svg.split("</text>").filter_map(|t| t.rsplit('>').next()).map(str::trim).collect();
        assert!(["128", "512", "200", "500"].iter().all(|l| labels.contains(l)), "{labels:?}");
    }

    #[test]
    fn a_ceiling_says_how_high_it_is() {
        let points = vec![Point { x: 1.0, y: 1.0, low: None, high: None, told: String::new() }];
        let rules = vec![Rule { line: vec![(1.0, 10.0), (100.0, 10.0)], words: vec![((100.0, 10.0), "10 GFLOP/s".to_owned())] }];
        let series = vec![Series { place: 0, joined: false, open: false, points }];
        let svg = Plot { name: "test", x: "x", alone: true, rules, series, ..Plot::default() }.svg().unwrap();
        assert!(svg.contains("10 GFLOP/s") && svg.contains("viewBox=\"0 0 680 380\""), "{svg}");
    }

    #[test]
    fn colours_follow_the_page_and_nothing_is_fixed() {
        let points =
            (1..=1000_u32).map(|x| Point { x: f64::from(x), y: 2.0, low: Some(1.0), high: Some(3.0), told: "<n>".to_owned() }).collect();
        let plot = Plot { name: "test", x: "x", series: vec![Series { place: 1, joined: true, open: false, points }], ..Plot::default() };
        let svg = plot.svg().unwrap();
        assert!(svg.contains("var(--s1)") && svg.contains("var(--ink)") && svg.contains("&lt;n&gt;"));
        assert!(!svg.contains("#0") && !svg.contains("font-family") && !svg.contains("http://www.w3.org/1999/xlink"));
        let hits = svg.matches("class=hit").count();
        assert!((100..=MOST + 1).contains(&hits), "{hits} points of 1000 are drawn");
    }

    #[test]
    fn nothing_to_draw_is_no_plot() {
        assert_eq!(Plot::default().svg().unwrap(), "");
    }
}
