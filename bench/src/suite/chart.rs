// SPDX-License-Identifier: GPL-2.0-only
//! The factors as pictures: a column for each place; by size, by number of pairs, and of programs.

use std::path::Path;

use anyhow::{Context, Result, anyhow};
use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::cell::{Cell, PAIRS, STREAM_SIZES, TRIP_SIZES, bytes};
use super::results::Results;
use super::way::Way;
use crate::place::Place;

/// Height of the head, of a panel, and of one with names below it.
const HEIGHTS: [u32; 3] = [70, 300, 440];
const WIDTH: u32 = 1300;
const GREY: RGBColor = RGBColor(110, 110, 110);
/// Size and number of bytes by which pairs are compared.
const TRIP: usize = 64;
const MESSAGE: usize = 64 << 10;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Plot<'a> = DrawingArea<SVGBackend<'a>, Cartesian2d<RangedCoordf64, LogCoord<f64>>>;

/// Cells side by side, with their names.
#[derive(Debug)]
struct Panel {
    title: String,
    cells: Vec<(String, Cell)>,
    /// Is there an order in which a line may go from one to the next?
    ordered: bool,
}

/// Draws the chart into the file `path`.
pub fn draw(results: &Results, path: &Path) -> Result<()> {
    let mut rows = panels();
    let places = || Place::ALL.into_iter();
    let measured = |cell: &Cell| places().any(|place| results.cells(place).contains(cell));
    rows.retain(|panel| panel.cells.iter().any(|(_, cell)| measured(cell)));
    let height = |panel: &Panel| HEIGHTS[if panel.ordered { 1 } else { 2 }];
    let all = HEIGHTS[0] + rows.iter().map(height).sum::<u32>();
    let root = SVGBackend::new(path, (WIDTH, all)).into_drawing_area();
    let paint = || {
        drawn(root.fill(&WHITE))?;
        let (head, mut rest) = root.split_vertically(HEIGHTS[0]);
        title(results, &head)?;
        for panel in &rows {
            let (row, below) = rest.split_vertically(height(panel));
            for (place, area) in places().zip(row.split_evenly((1, 2))) {
                draw_panel(results, place, panel, &area)?;
            }
            rest = below;
        }
        drawn(root.present())
    };
    paint().with_context(|| format!("failed to draw {}", path.display()))
}

fn panels() -> Vec<Panel> {
    let trips = |size, pairs| Cell::RoundTrip { size, pairs };
    let streams = |size, pairs| Cell::Stream { size, pairs };
    let counted = |pairs: usize| pairs.to_string();
    let ordered = |title: String, cells: Vec<(String, Cell)>| Panel {
        title,
        cells,
        ordered: true,
    };
    let sizes = |all: &[usize], cell: fn(usize) -> Cell| {
        all.iter().map(|size| (bytes(*size), cell(*size))).collect()
    };
    let programs = Cell::all().into_iter();
    let programs = programs.filter(|cell| matches!(cell, Cell::Program { .. }));
    vec![
        ordered(
            "round trips, 1 pair".to_owned(),
            sizes(&TRIP_SIZES, |size| Cell::RoundTrip { size, pairs: 1 }),
        ),
        ordered(
            "streams, 1 pair".to_owned(),
            sizes(&STREAM_SIZES, |size| Cell::Stream { size, pairs: 1 }),
        ),
        ordered(
            format!("round trips, {}, by pairs", bytes(TRIP)),
            PAIRS.map(|n| (counted(n), trips(TRIP, n))).to_vec(),
        ),
        ordered(
            format!("streams, {}, by pairs", bytes(MESSAGE)),
            PAIRS.map(|n| (counted(n), streams(MESSAGE, n))).to_vec(),
        ),
        Panel {
            title: "programs (clients)".to_owned(),
            cells: programs.map(|cell| (cell.label(), cell)).collect(),
            ordered: false,
        },
    ]
}

/// The drawing library's errors borrow the backend, so only their text is kept.
fn drawn<T, E: std::fmt::Display>(result: Result<T, E>) -> Result<T> {
    result.map_err(|error| anyhow!("{error}"))
}

fn font(size: i32, color: RGBColor, h: HPos, v: VPos) -> TextStyle<'static> {
    ("sans-serif", size)
        .into_font()
        .color(&color)
        .pos(Pos::new(h, v))
}

fn color(way: Way) -> RGBColor {
    match way {
        Way::Plain => BLACK,
        Way::Spliced => RGBColor(33, 102, 172),
        Way::NoSpin => RGBColor(103, 169, 207),
        Way::Polled => RGBColor(239, 138, 98),
        Way::Unix => RGBColor(27, 120, 55),
        Way::Pipe => RGBColor(153, 112, 171),
    }
}

/// Those that have a factor.
fn ways() -> impl Iterator<Item = Way> {
    Way::ALL.into_iter().filter(|way| *way != Way::Plain)
}

fn title(results: &Results, area: &Area) -> Result<()> {
    let text = "Times plain TCP of the same round (medians, whiskers: rounds; logarithmic)";
    drawn(area.draw_text(text, &font(20, BLACK, HPos::Left, VPos::Top), (20, 8)))?;
    let machine = results.machine.line();
    drawn(area.draw_text(&machine, &font(13, GREY, HPos::Left, VPos::Top), (20, 32)))?;
    for (way, at) in ways().zip((0..).map(|index| 20 + 110 * index)) {
        let square = Rectangle::new([(at, 54), (at + 12, 66)], color(way).filled());
        drawn(area.draw(&square))?;
        let style = font(14, BLACK, HPos::Left, VPos::Top);
        drawn(area.draw_text(way.name(), &style, (at + 18, 52)))?;
    }
    Ok(())
}

fn draw_panel(results: &Results, place: Place, panel: &Panel, area: &Area) -> Result<()> {
    let (least, most) = range(results, place, panel);
    let count = panel.cells.len() as f64;
    let below = if panel.ordered { 30 } else { 160 };
    let mut chart = drawn(
        ChartBuilder::on(area)
            .caption(
                format!("{}: {}", place.name(), panel.title),
                ("sans-serif", 15),
            )
            .margin(10)
            .x_label_area_size(below)
            .y_label_area_size(48)
            .build_cartesian_2d(0.0..count, (least..most).log_scale()),
    )?;
    let mut mesh = chart.configure_mesh();
    mesh.disable_x_mesh()
        .disable_x_axis()
        .y_label_formatter(&tick);
    drawn(
        mesh.light_line_style(WHITE)
            .label_style(("sans-serif", 12))
            .draw(),
    )?;
    let plot = chart.plotting_area();
    let one = PathElement::new([(0.0, 1.0), (count, 1.0)], BLACK.stroke_width(2));
    drawn(plot.draw(&one))?;
    for (index, way) in ways().enumerate() {
        // Whiskers stand side by side.
        series(results, place, panel, way, 0.3 + 0.1 * index as f64, plot)?;
    }
    labels(panel, least, plot)
}

/// Not every line of a logarithmic scale has room for its number.
fn tick(value: &f64) -> String {
    let first = value / 10_f64.powf(value.log10().floor());
    let close = |round: f64| (first / round - 1.0).abs() < 1e-6;
    if [1.0, 2.0, 5.0, 10.0].into_iter().any(close) {
        format!("{}×", (value * 100.0).round() / 100.0)
    } else {
        String::new()
    }
}

/// From below the lowest whisker to above the highest.
fn range(results: &Results, place: Place, panel: &Panel) -> (f64, f64) {
    let mut range = (0.8_f64, 1.5_f64);
    for (_, cell) in &panel.cells {
        for way in ways() {
            if let Some(factor) = results.factor(place, *cell, way, Way::Plain) {
                range = (range.0.min(factor.min), range.1.max(factor.max));
            }
        }
    }
    (range.0 * 0.9, range.1 * 1.15)
}

fn series(
    results: &Results,
    place: Place,
    panel: &Panel,
    way: Way,
    offset: f64,
    plot: &Plot,
) -> Result<()> {
    let mut last = None;
    for (index, (_, cell)) in panel.cells.iter().enumerate() {
        let Some(factor) = results.factor(place, *cell, way, Way::Plain) else {
            last = None;
            continue;
        };
        let (x, color) = (index as f64 + offset, color(way));
        let whisker = PathElement::new([(x, factor.min), (x, factor.max)], color);
        drawn(plot.draw(&whisker))?;
        drawn(plot.draw(&Circle::new((x, factor.median), 3, color.filled())))?;
        let point = (x, factor.median);
        if let Some(last) = last.replace(point).filter(|_| panel.ordered) {
            let line = PathElement::new([last, point], color.stroke_width(2));
            drawn(plot.draw(&line))?;
        }
    }
    Ok(())
}

/// Names under the cells; long ones from top to bottom.
fn labels(panel: &Panel, least: f64, plot: &Plot) -> Result<()> {
    let base = plot.get_base_pixel();
    let area = plot.strip_coord_spec();
    for (index, (name, _)) in panel.cells.iter().enumerate() {
        let at = plot.map_coordinate(&(index as f64 + 0.5, least));
        let at = (at.0 - base.0, at.1 - base.1 + 6);
        let style = if panel.ordered {
            font(13, BLACK, HPos::Center, VPos::Top)
        } else {
            font(12, BLACK, HPos::Left, VPos::Center).transform(FontTransform::Rotate90)
        };
        drawn(area.draw_text(name, &style, at))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suite::results::tests::example;

    #[test]
    fn ticks_are_round() {
        let ticks = [0.1, 0.30000000000000004, 0.5, 1.0, 2.0, 7.0, 10.0, 1000.0];
        let want = ["0.1×", "", "0.5×", "1×", "2×", "", "10×", "1000×"];
        assert_eq!(ticks.map(|value| tick(&value)), want);
    }

    #[test]
    fn what_was_measured_is_drawn() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("suite.svg");
        draw(&example(), &path).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        // Two ways beside plain TCP, in the panel by size, and in that by pairs twice.
        let points = text.matches("<circle").count();
        assert_eq!(points, 2 * 3, "{text}");
        assert!(text.contains("loopback: streams, 64 KiB, by pairs"));
    }
}
