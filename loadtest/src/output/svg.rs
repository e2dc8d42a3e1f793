//! Line charts as SVG. Coordinates and labels only; colours are the page's.
#![allow(clippy::float_arithmetic, reason = "coordinates of a drawing")]

use std::fmt::Write as _;

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 280.0;
const LEFT: f64 = 72.0;
const RIGHT: f64 = 32.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 36.0;
/// More points than pixels say nothing more.
const POINTS_MAX: usize = 1_500;

/// How an axis grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scale {
    Linear,
    Logarithmic,
}

/// A line.
#[derive(Clone, Debug)]
pub(super) struct Series {
    pub(super) name: &'static str,
    /// Class of the page's style.
    pub(super) class: &'static str,
    pub(super) points: Vec<(f64, f64)>,
}

/// An axis: its scale, and the label of a value on it.
#[derive(Clone, Copy)]
pub(super) struct Axis {
    pub(super) scale: Scale,
    pub(super) label: fn(f64) -> String,
    pub(super) title: &'static str,
}

/// A chart. `shaded` is a stretch of the horizontal axis that counts for nothing.
pub(super) struct Chart<'a> {
    pub(super) x: Axis,
    pub(super) y: Axis,
    pub(super) series: &'a [Series],
    pub(super) shaded: Option<(f64, f64)>,
}

struct Range {
    scale: Scale,
    low: f64,
    high: f64,
}

impl Range {
    fn of(scale: Scale, values: impl Iterator<Item = f64> + Clone) -> Self {
        let (low, high) = values
            .filter(|value| value.is_finite() && (scale == Scale::Linear || *value > 0.0))
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
        if !low.is_finite() {
            return Self { scale, low: if scale == Scale::Linear { 0.0 } else { 1.0 }, high: 10.0 };
        }
        match scale {
            Scale::Linear => {
                Self { scale, low: low.min(0.0), high: if high > low.min(0.0) { high * 1.05 } else { 1.0 } }
            }
            Scale::Logarithmic => {
                let (low, high) = (10f64.powf(low.log10().floor()), 10f64.powf(high.log10().ceil()));
                Self { scale, low, high: if high > low { high } else { low * 10.0 } }
            }
        }
    }

    /// From 0 to 1.
    fn place(&self, value: f64) -> f64 {
        let place = match self.scale {
            Scale::Linear => (value - self.low) / (self.high - self.low),
            Scale::Logarithmic => {
                (value.max(self.low).log10() - self.low.log10()) / (self.high.log10() - self.low.log10())
            }
        };
        place.clamp(0.0, 1.0)
    }

    fn ticks(&self) -> Vec<f64> {
        match self.scale {
            Scale::Logarithmic => {
                let (first, last) = (self.low.log10().round() as i32, self.high.log10().round() as i32);
                (first..=last).map(|power| 10f64.powi(power)).collect()
            }
            Scale::Linear => {
                let rough = (self.high - self.low) / 5.0;
                let power = 10f64.powf(rough.log10().floor());
                let step = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power).into_iter().find(|step| *step >= rough);
                let step = step.unwrap_or(power * 10.0);
                let count = ((self.high - self.low) / step).floor() as i32;
                (0..=count).map(|index| (self.low / step).ceil() * step + f64::from(index) * step).collect()
            }
        }
    }
}

impl Chart<'_> {
    pub(super) fn draw(&self) -> String {
        let all = self.series.iter().flat_map(|series| series.points.iter());
        let mut x = Range::of(self.x.scale, all.clone().map(|point| point.0));
        if self.x.scale == Scale::Linear {
            x.high /= 1.05;
        }
        let y = Range::of(self.y.scale, all.map(|point| point.1));
        let to_x = |value: f64| LEFT + x.place(value) * (WIDTH - LEFT - RIGHT);
        let to_y = |value: f64| HEIGHT - BOTTOM - y.place(value) * (HEIGHT - TOP - BOTTOM);
        // Writing to a string does not fail.
        let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">");
        if let Some((from, to)) = self.shaded.filter(|(from, to)| to > from) {
            let (left, right) = (to_x(from), to_x(to));
            let _ = write!(
                svg,
                "<rect class=\"warmup\" x=\"{left:.1}\" y=\"{TOP}\" width=\"{:.1}\" height=\"{:.1}\"><title>warm-up, in no figure</title></rect>",
                right - left,
                HEIGHT - TOP - BOTTOM
            );
        }
        for tick in y.ticks() {
            let (at, label) = (to_y(tick), (self.y.label)(tick));
            let right = WIDTH - RIGHT;
            let _ = write!(
                svg,
                "<path class=\"grid\" d=\"M{LEFT} {at:.1}H{right}\"/><text class=\"y\" x=\"{:.1}\" y=\"{:.1}\">{label}</text>",
                LEFT - 8.0,
                at + 4.0
            );
        }
        for tick in x.ticks() {
            let (at, label, bottom) = (to_x(tick), (self.x.label)(tick), HEIGHT - BOTTOM);
            let _ = write!(
                svg,
                "<path class=\"grid\" d=\"M{at:.1} {TOP}V{bottom}\"/><text class=\"x\" x=\"{at:.1}\" y=\"{:.1}\">{label}</text>",
                bottom + 16.0
            );
        }
        let _ = write!(
            svg,
            "<text class=\"title\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            WIDTH - RIGHT,
            HEIGHT - 4.0,
            self.x.title
        );
        for series in self.series {
            let step = series.points.len().div_ceil(POINTS_MAX).max(1);
            let mut path = String::new();
            for (index, (horizontal, vertical)) in series.points.iter().step_by(step).enumerate() {
                let command = if index == 0 { 'M' } else { 'L' };
                let _ = write!(path, "{command}{:.1} {:.1}", to_x(*horizontal), to_y(*vertical));
            }
            let _ =
                write!(svg, "<path class=\"line {}\" d=\"{path}\"><title>{}</title></path>", series.class, series.name);
        }
        svg.push_str("</svg>");
        let legend: String = self
            .series
            .iter()
            .map(|series| format!("<span class=\"key {}\">{}</span>", series.class, series.name))
            .collect();
        format!("<figure><figcaption><b>{}</b>{legend}</figcaption>{svg}</figure>", self.y.title)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_inside_and_ticks_are_round() {
        let linear = Range::of(Scale::Linear, [0.0, 437.0].into_iter());
        assert_eq!(linear.ticks(), [0.0, 100.0, 200.0, 300.0, 400.0]);
        let log = Range::of(Scale::Logarithmic, [3.0, 4_500.0].into_iter());
        assert_eq!(log.ticks(), [1.0, 10.0, 100.0, 1_000.0, 10_000.0]);
        for range in
            [linear, log, Range::of(Scale::Linear, [].into_iter()), Range::of(Scale::Logarithmic, [0.0].into_iter())]
        {
            for value in [0.0, 1.0, 437.0, 1e9] {
                assert!((0.0..=1.0).contains(&range.place(value)));
            }
        }
    }
}
