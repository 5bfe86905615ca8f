//! Plots as SVG, for the reports.

use plotters::prelude::*;
use std::io;
use std::ops::Range;

/// A time span in another colour, behind the line.
#[derive(Debug, Clone)]
pub(crate) struct Shade {
    pub(crate) from: f64,
    pub(crate) until: f64,
    pub(crate) colour: RGBColor,
}

/// A line that says something about an x axis.
#[derive(Debug, Clone)]
pub(crate) struct Plot {
    pub(crate) title: String,
    pub(crate) x: String,
    pub(crate) unit: String,
    pub(crate) points: Vec<(f64, f64)>,
    pub(crate) shades: Vec<Shade>,
    /// The x axis; the points' own when none is given.
    pub(crate) span: Option<Range<f64>>,
    pub(crate) log_x: bool,
}

const SIZE: (u32, u32) = (1_100, 200);

impl Plot {
    /// As an `<svg>` element.
    pub(crate) fn svg(&self) -> io::Result<String> {
        let mut text = String::new();
        let root = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
        self.draw(&root).map_err(|e| io::Error::other(format!("{}: {e}", self.title)))?;
        drop(root);
        Ok(text)
    }

    fn draw(
        &self,
        root: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
    ) -> Result<(), Box<dyn std::error::Error>> {
        let points: Vec<(f64, f64)> =
            self.points.iter().copied().filter(|(x, y)| x.is_finite() && y.is_finite()).collect();
        let xs = || points.iter().map(|p| p.0);
        let own = || xs().fold(f64::INFINITY, f64::min)..xs().fold(f64::NEG_INFINITY, f64::max);
        let span = self.span.clone().unwrap_or_else(|| if points.is_empty() { 0.0..1.0 } else { own() });
        let span = span.start..span.end.max(span.start + 1e-6);
        let top = points.iter().map(|p| p.1).fold(0.0, f64::max).max(1e-6) * 1.08;
        let mut chart = ChartBuilder::on(root);
        chart
            .caption(format!("{} ({})", self.title, self.unit), ("sans-serif", 14))
            .margin(6)
            .x_label_area_size(28)
            .y_label_area_size(76);
        // The logarithm is taken here, so that both axes are of one type.
        let (span, at): (Range<f64>, fn(f64) -> f64) =
            if self.log_x { (span.start.log10()..span.end.log10(), f64::log10) } else { (span, |x| x) };
        let mut chart = chart.build_cartesian_2d(span, 0.0..top)?;
        for shade in &self.shades {
            let corners = [(at(shade.from), 0.0), (at(shade.until), top)];
            chart.draw_series(std::iter::once(Rectangle::new(corners, shade.colour.mix(0.18).filled())))?;
        }
        let (log_x, number) = (self.log_x, |v: f64| short(v));
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(BLACK.mix(0.12))
            .y_labels(5)
            .y_label_formatter(&|y| number(*y))
            .x_label_formatter(&|x| number(if log_x { 10_f64.powf(*x) } else { *x }))
            .x_desc(self.x.as_str())
            .draw()?;
        let line: Vec<(f64, f64)> = points.iter().map(|(x, y)| (at(*x), *y)).collect();
        if line.len() < 40 {
            chart.draw_series(line.iter().map(|p| Circle::new(*p, 3, BLUE.filled())))?;
        }
        chart.draw_series(LineSeries::new(line, BLUE.stroke_width(1)))?;
        root.present()?;
        Ok(())
    }
}

/// `1.5M`, `20k`, `0.3`.
pub(crate) fn short(v: f64) -> String {
    let (v, unit) = match v.abs() {
        a if a >= 999_500.0 => (v / 1e6, "M"),
        a if a >= 1_000.0 => (v / 1e3, "k"),
        _ => (v, ""),
    };
    let digits = usize::from(v.abs() < 100.0 && (v - v.round()).abs() > 1e-9) + usize::from(v.abs() < 1.0 && v != 0.0);
    format!("{v:.digits$}{unit}")
}

/// A page with a title.
pub(crate) fn page(title: &str, body: &str) -> String {
    format!(
        "<!doctype html>
<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title><style>
body {{ font: 14px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 1120px; color: #222 }}
h1 {{ font-size: 1.4em }} svg {{ display: block; max-width: 100% }}
table {{ border-collapse: collapse; margin: 1em 0; font-size: 12px }}
th, td {{ padding: .2em .6em; border-bottom: 1px solid #ddd; text-align: right }} th:first-child, td:first-child {{ text-align: left }}
.bad {{ color: #b00020; font-weight: bold }} .good {{ color: #1b6e1b; font-weight: bold }} pre {{ white-space: pre-wrap }}
</style></head><body>
{body}
</body></html>
"
    )
}

/// For text between tags.
pub(crate) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        for (v, text) in
            [(0.0, "0"), (0.25, "0.25"), (1.5, "1.5"), (17.0, "17"), (2_000.0, "2k"), (1.25e6, "1.2M"), (150e6, "150M")]
        {
            assert_eq!(short(v), text);
        }
    }

    #[test]
    fn a_plot_is_drawn_whatever_its_points_are() {
        for points in [vec![], vec![(1.0, 0.0)], vec![(0.0, 1.0), (1.0, f64::NAN), (2.0, 3e9)]] {
            let shades = vec![Shade { from: 0.0, until: 0.5, colour: RED }];
            let plot =
                Plot { title: "t".into(), x: "s".into(), unit: "u".into(), points, shades, span: None, log_x: false };
            let svg = plot.svg().expect("drawn");
            assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>") && !svg.contains("NaN"), "{svg}");
        }
    }
}
