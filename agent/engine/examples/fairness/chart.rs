//! Two charts side by side, as SVG.

use std::fmt::Write as _;

/// One line of a chart, in the order of its points.
pub(crate) struct Line {
    pub(crate) name: &'static str,
    pub(crate) points: Vec<(f64, f64)>,
}

const WIDTH: f64 = 420.0;
const HEIGHT: f64 = 280.0;
/// Where a chart begins within its part: beside and below its numbers.
const LEFT: f64 = 60.0;
const TOP: f64 = 40.0;

/// Told apart by who sees no red or no green.
const COLOURS: [&str; 3] = ["#d55e00", "#0072b2", "#009e73"];

/// What a chart shows.
struct Frame {
    left: f64,
    title: &'static str,
    across: &'static str,
    up: &'static str,
    /// Whether the numbers across grow tenfold from mark to mark.
    is_logarithmic: bool,
    x: (f64, f64),
    y: (f64, f64),
}

pub(crate) fn draw(uneven: &[Line], waits: &[Line]) -> String {
    let most = |lines: &[Line], of: fn(&(f64, f64)) -> f64| {
        lines.iter().flat_map(|line| &line.points).map(of).fold(0.0, f64::max)
    };
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{:.0}\" height=\"{:.0}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
        2.0 * (WIDTH + LEFT + 20.0),
        HEIGHT + TOP + 60.0,
    );
    let behind = Frame {
        left: LEFT,
        title: "1 client against 64: how far the one is behind",
        across: "seconds",
        up: "seconds of the engine",
        is_logarithmic: false,
        x: (0.0, most(uneven, |point| point.0)),
        y: (0.0, most(uneven, |point| point.1).max(1.0)),
    };
    behind.draw(&mut svg, uneven);
    let first_tokens = Frame {
        left: WIDTH + 2.0 * LEFT + 20.0,
        title: "10,000 tenants in bursts beside 20 without end",
        across: "seconds to the first token",
        up: "percent of calls",
        is_logarithmic: true,
        x: (0.1, most(waits, |point| point.0).max(1.0)),
        y: (0.0, 100.0),
    };
    first_tokens.draw(&mut svg, waits);
    svg.push_str("</svg>\n");
    svg
}

impl Frame {
    fn draw(&self, svg: &mut String, lines: &[Line]) {
        let Self { left, title, across, up, .. } = self;
        let (bottom, right) = (TOP + HEIGHT, left + WIDTH);
        let middle = left + WIDTH / 2.0;
        let _ = writeln!(
            svg,
            "<text x=\"{middle}\" y=\"{:.0}\" text-anchor=\"middle\" font-size=\"13\">{title}</text>\n\
             <path d=\"M{left} {TOP}V{bottom}H{right}\" fill=\"none\" stroke=\"black\"/>\n\
             <text x=\"{middle}\" y=\"{:.0}\" text-anchor=\"middle\">{across}</text>\n\
             <text transform=\"translate({:.0} {:.0}) rotate(-90)\" text-anchor=\"middle\">{up}</text>",
            TOP - 18.0,
            bottom + 36.0,
            left - 44.0,
            TOP + HEIGHT / 2.0,
        );
        self.marks(svg);
        for (line, (colour, at)) in lines.iter().zip(COLOURS.iter().zip([0.0, 16.0, 32.0])) {
            let mut path = String::new();
            for (n, &(x, y)) in line.points.iter().enumerate() {
                let letter = if n == 0 { 'M' } else { 'L' };
                let _ = write!(path, "{letter}{:.1} {:.1}", self.across(x), self.up(y));
            }
            let _ = writeln!(
                svg,
                "<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\"/>\n\
                 <text x=\"{:.0}\" y=\"{:.0}\" fill=\"{colour}\">{}</text>",
                left + 12.0,
                TOP + 14.0 + at,
                line.name,
            );
        }
    }

    fn marks(&self, svg: &mut String) {
        let bottom = TOP + HEIGHT;
        for quarter in 0..=4 {
            let part = f64::from(quarter) / 4.0;
            let y = self.y.1 * part;
            let _ = writeln!(
                svg,
                "<text x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\">{y:.0}</text>",
                self.left - 6.0,
                self.up(y) + 4.0,
            );
        }
        let across: Vec<f64> = if self.is_logarithmic {
            let tenfold = (-1..6).map(|power| 10.0_f64.powi(power));
            tenfold.filter(|x| *x <= self.x.1).collect()
        } else {
            (0..=4).map(|quarter| self.x.1 * f64::from(quarter) / 4.0).collect()
        };
        for x in across {
            let at = self.across(x);
            let _ = writeln!(
                svg,
                "<text x=\"{at:.1}\" y=\"{:.0}\" text-anchor=\"middle\">{}</text>",
                bottom + 16.0,
                (x * 10.0).round() / 10.0,
            );
        }
    }

    fn across(&self, x: f64) -> f64 {
        let scale = |x: f64| if self.is_logarithmic { x.max(self.x.0).log10() } else { x };
        let (least, most) = (scale(self.x.0), scale(self.x.1));
        self.left + WIDTH * (scale(x) - least) / (most - least)
    }

    fn up(&self, y: f64) -> f64 {
        TOP + HEIGHT * (1.0 - (y - self.y.0) / (self.y.1 - self.y.0))
    }
}
