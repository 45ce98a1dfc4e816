// SPDX-License-Identifier: GPL-2.0-only
//! The factors as a picture: one panel for each place, one pair of bars for each cell.

use std::path::Path;

use anyhow::{Context, Result, anyhow};
use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::cell::{Cell, Mode};
use crate::place::Place;
use crate::results::Results;
use crate::stats::short;

const SIZE: (u32, u32) = (1200, 900);
const SPLICED: RGBColor = RGBColor(33, 102, 172);
const POLLED: RGBColor = RGBColor(239, 138, 98);
const GREY: RGBColor = RGBColor(110, 110, 110);
/// The lowest factor that is shown; the scale is logarithmic.
const FLOOR: f64 = 0.5;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Scale<'a> = DrawingArea<SVGBackend<'a>, Cartesian2d<RangedCoordf64, LogCoord<f64>>>;

/// Draws the chart into the file `path`.
pub fn draw(results: &Results, path: &Path) -> Result<()> {
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    paint(results, &root).with_context(|| format!("failed to draw {}", path.display()))
}

fn paint(results: &Results, root: &Area) -> Result<()> {
    drawn(root.fill(&WHITE))?;
    let (head, body) = root.split_vertically(64);
    title(results, &head)?;
    let places: Vec<Place> = Place::ALL
        .into_iter()
        .filter(|p| !results.cells(*p).is_empty())
        .collect();
    let panels = body.split_evenly((places.len().max(1), 1));
    for (place, area) in places.iter().zip(&panels) {
        panel(results, *place, area)?;
    }
    drawn(root.present())
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

fn title(results: &Results, area: &Area) -> Result<()> {
    let text = "Times plain TCP of the same boot (medians, whiskers: rounds; logarithmic)";
    drawn(area.draw_text(text, &font(20, BLACK, HPos::Left, VPos::Top), (20, 10)))?;
    let machine = results.machine.line();
    drawn(area.draw_text(&machine, &font(13, GREY, HPos::Left, VPos::Top), (20, 38)))?;
    for (mode, name, at) in [
        (Mode::Spliced, "spliced", 900),
        (Mode::Polled, "spliced, 50 µs polling", 1000),
    ] {
        let square = Rectangle::new([(at, 14), (at + 12, 26)], color(mode).filled());
        drawn(area.draw(&square))?;
        drawn(area.draw_text(name, &font(14, BLACK, HPos::Left, VPos::Top), (at + 18, 12)))?;
    }
    Ok(())
}

fn color(mode: Mode) -> RGBColor {
    if mode == Mode::Polled {
        POLLED
    } else {
        SPLICED
    }
}

fn panel(results: &Results, place: Place, area: &Area) -> Result<()> {
    let cells = results.cells(place);
    let top = highest(results, place, &cells) * 1.6;
    let mut chart = drawn(
        ChartBuilder::on(area)
            .caption(place.to_string(), ("sans-serif", 16))
            .margin(16)
            .x_label_area_size(48)
            .y_label_area_size(48)
            .build_cartesian_2d(0.0..cells.len() as f64, (FLOOR..top).log_scale()),
    )?;
    let mut mesh = chart.configure_mesh();
    mesh.disable_x_mesh()
        .disable_x_axis()
        .y_label_formatter(&tick);
    drawn(
        mesh.light_line_style(WHITE)
            .label_style(("sans-serif", 13))
            .draw(),
    )?;
    let plot = chart.plotting_area();
    for (index, cell) in cells.iter().enumerate() {
        for (mode, offset) in [(Mode::Spliced, 0.14), (Mode::Polled, 0.50)] {
            bar(results, place, *cell, mode, index as f64 + offset, plot)?;
        }
    }
    let line = PathElement::new(
        [(0.0, 1.0), (cells.len() as f64, 1.0)],
        BLACK.stroke_width(2),
    );
    drawn(plot.draw(&line))?;
    labels(&cells, plot)
}

/// Not every line of a logarithmic scale has room for its number.
fn tick(value: &f64) -> String {
    let crowded = [4.0, 6.0, 7.0, 8.0, 9.0, 40.0].contains(value);
    if crowded {
        String::new()
    } else {
        format!("{value}×")
    }
}

/// The highest factor of a place.
fn highest(results: &Results, place: Place, cells: &[Cell]) -> f64 {
    let modes = [Mode::Spliced, Mode::Polled];
    let all = cells
        .iter()
        .flat_map(|cell| modes.map(|mode| results.factor(place, *cell, mode)));
    all.flatten().map(|factor| factor.max).fold(2.0, f64::max)
}

fn bar(
    results: &Results,
    place: Place,
    cell: Cell,
    mode: Mode,
    left: f64,
    plot: &Scale,
) -> Result<()> {
    let Some(factor) = results.factor(place, cell, mode) else {
        return Ok(());
    };
    let (right, middle) = (left + 0.34, left + 0.17);
    let height = factor.median.max(FLOOR);
    let body = Rectangle::new([(left, FLOOR), (right, height)], color(mode).filled());
    drawn(plot.draw(&body))?;
    let (low, high) = (factor.min.max(FLOOR), factor.max.max(FLOOR));
    drawn(plot.draw(&PathElement::new([(middle, low), (middle, high)], BLACK)))?;
    let style = font(12, BLACK, HPos::Center, VPos::Bottom);
    let text = Text::new(
        short(factor.median),
        (middle, high.max(height) * 1.04),
        style,
    );
    drawn(plot.draw(&text))
}

/// Sizes under the bars, and under those the name of their group.
fn labels(cells: &[Cell], plot: &Scale) -> Result<()> {
    let base = plot.get_base_pixel();
    let bottom = plot.map_coordinate(&(0.0, FLOOR)).1;
    let area = plot.strip_coord_spec();
    let x = |at: f64| plot.map_coordinate(&(at, FLOOR)).0 - base.0;
    let bottom = bottom - base.1;
    let mut first = 0;
    for (index, cell) in cells.iter().enumerate() {
        let style = font(13, BLACK, HPos::Center, VPos::Top);
        drawn(area.draw_text(&cell.short(), &style, (x(index as f64 + 0.5), bottom + 6)))?;
        let last = cells
            .get(index + 1)
            .is_none_or(|next| next.group() != cell.group());
        if last {
            let middle = (first + index + 1) as f64 / 2.0;
            let style = font(14, GREY, HPos::Center, VPos::Top);
            drawn(area.draw_text(cell.group(), &style, (x(middle), bottom + 26)))?;
            first = index + 1;
        }
    }
    Ok(())
}
