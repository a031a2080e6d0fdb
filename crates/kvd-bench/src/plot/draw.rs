//! Curves as an SVG: one panel below the other.

use std::{collections::BTreeMap, ops::Range};

use plotters::{
    chart::{ChartBuilder, ChartContext, SeriesLabelPosition},
    coord::{
        Shift,
        cartesian::Cartesian2d,
        combinators::IntoLogRange as _,
        ranged1d::{AsRangedCoord, Ranged, ValueFormatter},
    },
    drawing::{DrawingArea, DrawingAreaErrorKind, IntoDrawingArea as _},
    element::{Circle, PathElement},
    series::{DashedLineSeries, LineSeries},
    style::{BLACK, Color as _, IntoFont as _, Palette as _, Palette99, RGBAColor, WHITE},
};
use plotters_svg::SVGBackend;

const WIDTH: u32 = 960;
const PANEL_HEIGHT: u32 = 440;
const MARGIN: u32 = 16;
const LEFT: u32 = 72;
const BOTTOM: u32 = 44;
/// Room that is left around the points of an axis.
const ROOM: f64 = 1.3;
/// Room that is left above them, for the legend.
const ROOM_ABOVE: f64 = 2.0;

/// A place on a panel.
type Place = (f64, f64);

/// Curves over the same axes.
pub(super) struct Panel {
    title: String,
    x: String,
    y: String,
    /// Whether the horizontal axis is the logarithmic one, or else the vertical one. The other begins at zero.
    x_log: bool,
    curves: Vec<Curve>,
}

struct Curve {
    label: String,
    /// Those of the same have the same colour.
    of: String,
    points: Vec<Place>,
    dashed: bool,
}

impl Panel {
    /// Latencies against throughput.
    pub(super) fn latencies(title: String) -> Self {
        let (x, y) = ("operations per second".to_owned(), "milliseconds".to_owned());
        Self { title, x, y, x_log: false, curves: Vec::new() }
    }

    /// The cost of requests against what grows.
    pub(super) fn costs(title: String, axis: &str) -> Self {
        let y = "CPU seconds of all nodes, for a million operations".to_owned();
        Self { title, x: axis.to_owned(), y, x_log: true, curves: Vec::new() }
    }

    /// Adds a curve, if it is one. What a logarithmic axis has no place for is left out.
    pub(super) fn add(&mut self, label: String, of: String, mut points: Vec<Place>, dashed: bool) {
        points.retain(|(x, y)| if self.x_log { *x > 0.0 } else { *y > 0.0 });
        if points.len() > 1 {
            self.curves.push(Curve { label, of, points, dashed });
        }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.curves.is_empty()
    }

    fn colours(&self) -> BTreeMap<&str, RGBAColor> {
        let mut colours = BTreeMap::new();
        for Curve { of, .. } in &self.curves {
            let next = Palette99::pick(colours.len()).to_rgba();
            colours.entry(of.as_str()).or_insert(next);
        }
        colours
    }

    fn range(&self, number: fn(&Place) -> f64, room_after: f64) -> Range<f64> {
        let numbers = || self.curves.iter().flat_map(|curve| &curve.points).map(number);
        numbers().fold(f64::INFINITY, f64::min) / ROOM..numbers().fold(0.0, f64::max) * room_after
    }
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
/// A drawing goes into a string, which can't fail.
type Failure = DrawingAreaErrorKind<std::io::Error>;

/// Draws panels, one below the other.
pub(super) fn draw(panels: &[Panel]) -> anyhow::Result<String> {
    let mut svg = String::new();
    {
        let size = (WIDTH, PANEL_HEIGHT * u32::try_from(panels.len())?);
        let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        area.fill(&WHITE)?;
        for (panel, area) in panels.iter().zip(area.split_evenly((panels.len(), 1))) {
            let (x, y) = (panel.range(|place| place.0, ROOM), panel.range(|place| place.1, ROOM_ABOVE));
            if panel.x_log {
                draw_panel(&area, panel, x.log_scale(), 0.0..y.end)?;
            } else {
                draw_panel(&area, panel, 0.0..x.end, y.log_scale())?;
            }
        }
        area.present()?;
    }
    Ok(svg)
}

fn draw_panel<X, Y>(area: &Area<'_>, panel: &Panel, x: X, y: Y) -> Result<(), Failure>
where
    X: AsRangedCoord<Value = f64>,
    Y: AsRangedCoord<Value = f64>,
    X::CoordDescType: ValueFormatter<f64>,
    Y::CoordDescType: ValueFormatter<f64>,
{
    let mut chart = ChartBuilder::on(area)
        .caption(&panel.title, ("sans-serif", 20).into_font())
        .margin(MARGIN)
        .x_label_area_size(BOTTOM)
        .y_label_area_size(LEFT)
        .build_cartesian_2d(x, y)?;
    chart
        .configure_mesh()
        .x_desc(&panel.x)
        .y_desc(&panel.y)
        .light_line_style(WHITE)
        .max_light_lines(1)
        .draw()?;
    let colours = panel.colours();
    for curve in &panel.curves {
        draw_curve(&mut chart, curve, colours.get(curve.of.as_str()).copied().unwrap_or(BLACK.into()))?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.4))
        .draw()
}

fn draw_curve<X, Y>(
    chart: &mut ChartContext<'_, SVGBackend<'_>, Cartesian2d<X, Y>>,
    curve: &Curve,
    colour: RGBAColor,
) -> Result<(), Failure>
where
    X: Ranged<ValueType = f64>,
    Y: Ranged<ValueType = f64>,
{
    const DASH: (i32, i32) = (6, 4);
    const SAMPLE: i32 = 24;
    const DOT: i32 = 3;
    let style = colour.stroke_width(2);
    let (points, dashed) = (curve.points.iter().copied(), curve.dashed);
    let drawn = if dashed {
        chart.draw_series(DashedLineSeries::new(points.clone(), DASH.0, DASH.1, style))?
    } else {
        chart.draw_series(LineSeries::new(points.clone(), style))?
    };
    drawn.label(&curve.label).legend(move |(x, y)| {
        let end = if dashed { x + SAMPLE / 3 } else { x + SAMPLE };
        PathElement::new([(x, y), (end, y)], style)
    });
    chart.draw_series(points.map(|place| Circle::new(place, DOT, colour.filled())))?;
    Ok(())
}
