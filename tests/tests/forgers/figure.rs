//! `docs/figures/forgers.svg`: what forgers save against how often an audit finds them.

use std::fmt::Write;
use std::path::PathBuf;

use crate::Results;
use crate::drift::Drift;
use crate::precision::SEARCHED;

const LEFT: f64 = 60.0;
const WIDTH: f64 = 300.0;
const HEIGHT: f64 = 240.0;
const TOP: f64 = 84.0;
const GAP: f64 = 84.0;

/// Colours follow the reader's preference for light or dark.
const STYLE: &str = "
:root{--page:#fff;--ink:#1f2328;--quiet:#6e7781;--line:#d8dee4;--c0:#bc4c00;--c1:#0969da;--c2:#1a7f37;--c3:#8250df;--c4:#bf3989}
@media(prefers-color-scheme:dark){:root{--page:#0d1117;--ink:#e6edf3;--quiet:#8b949e;--line:#2b323b;--c0:#f0883e;\
--c1:#58a6ff;--c2:#56d364;--c3:#d2a8ff;--c4:#ff9bce}}
text{font:12px system-ui,-apple-system,'Segoe UI',Helvetica,Arial,sans-serif;fill:var(--ink)}
.page{fill:var(--page)}.quiet{fill:var(--quiet);font-size:11px}.head{font-weight:600;font-size:15px}
.line{stroke:var(--line)}.mid{text-anchor:middle}.end{text-anchor:end}
path{fill:none;stroke-width:1.8}.dash{stroke-dasharray:4 3}
";

/// A line through points of a panel, with its name.
struct Curve {
    name: String,
    points: Vec<(f64, f64)>,
    colour: usize,
    is_dashed: bool,
}

fn panel(out: &mut String, number: u32, title: &str, below: &str, curves: &[Curve]) {
    let left = LEFT + f64::from(number) * (WIDTH + GAP);
    let x = |share: f64| left + WIDTH * share.clamp(0.0, 1.0);
    let y = |share: f64| TOP + HEIGHT * (1.0 - share.clamp(0.0, 1.0));
    let _ = writeln!(out, "<text x=\"{left}\" y=\"{}\">{title}</text>", TOP - 14.0);
    for tick in [0.0, 0.25, 0.5, 0.75, 1.0] {
        let _ = writeln!(
            out,
            "<line class=\"line\" x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
             <text class=\"quiet end\" x=\"{:.1}\" y=\"{:.1}\">{:.0} %</text>\
             <text class=\"quiet mid\" x=\"{:.1}\" y=\"{:.1}\">{:.0} %</text>",
            x(0.0),
            x(1.0),
            left - 6.0,
            y(tick) + 4.0,
            100.0 * tick,
            x(tick),
            y(0.0) + 16.0,
            100.0 * tick,
            y = y(tick),
        );
    }
    let _ = writeln!(out, "<text class=\"quiet mid\" x=\"{:.1}\" y=\"{:.1}\">{below}</text>", x(0.5), y(0.0) + 34.0);
    let mut legend = y(0.0) + 56.0;
    for curve in curves {
        let Curve { name, points, colour, is_dashed } = curve;
        let dash = if *is_dashed { "dash" } else { "" };
        let steps: Vec<String> = points.iter().map(|(a, b)| format!("{:.1} {:.1}", x(*a), y(*b))).collect();
        let _ = write!(out, "<path class=\"{dash}\" style=\"stroke:var(--c{colour})\" d=\"M{}\"/>", steps.join("L"));
        for (a, b) in points {
            let _ = write!(
                out,
                "<circle style=\"fill:var(--c{colour})\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\"/>",
                x(*a),
                y(*b)
            );
        }
        let _ = writeln!(
            out,
            "<path class=\"{dash}\" style=\"stroke:var(--c{colour})\" d=\"M{left} {0:.1}h22\"/>\
             <text class=\"quiet\" x=\"{1:.1}\" y=\"{2:.1}\">{name}</text>",
            legend - 4.0,
            left + 30.0,
            legend
        );
        legend += 17.0;
    }
}

fn path() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/figures/forgers.svg"))
}

/// Writes the figure.
pub(crate) fn write(results: &Results) {
    std::fs::write(path(), svg(results)).unwrap();
}

/// Whether the figure shows these results.
pub(crate) fn check(results: &Results) {
    assert!(
        std::fs::read_to_string(path()).unwrap() == svg(results),
        "run `BLESS=1 cargo test --release --test forgers`"
    );
}

fn svg(Results { found, drifts, .. }: &Results) -> String {
    let curve = |of: &'static str, name: &str, policy: usize, colour: usize| {
        let of = found.iter().filter(|found| found.curve == of);
        let mut points: Vec<(f64, f64)> = of.map(|found| (found.share, found.expected[policy])).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        Curve { name: name.to_owned(), points, colour, is_dashed: policy > 1 }
    };
    let (width, height) = (LEFT + 3.0 * WIDTH + 2.0 * GAP + 30.0, TOP + HEIGHT + 160.0);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
         role=\"img\" aria-label=\"What forgers save against how often an audit finds them\">\n<style>{STYLE}</style>\n\
         <rect class=\"page\" width=\"{width}\" height=\"{height}\"/>\n\
         <text class=\"head\" x=\"20\" y=\"28\">What forgers save, and the share of audits that find them</text>\n\
         <text class=\"quiet\" x=\"20\" y=\"46\">fixture, one audit; solid: default policy, dashed: with two columns</text>\n"
    );
    let work = [
        curve("cells left out", "cells left out everywhere", 1, 0),
        curve("cells left out in the prompt", "cells left out in the prompt", 1, 1),
        curve("cells left out in the answer", "cells left out in the answer", 1, 2),
        curve("stored rollout", "stored rollout behind the first layer", 1, 3),
        curve("stored rollout", "the same, two columns", 3, 3),
        curve("stored prompt, cut deeper", "another stored prompt behind layers 1 to 3", 1, 4),
    ];
    panel(&mut out, 0, "work", "multiply-adds saved", &work);
    let weights = [
        curve("fewer bits everywhere", "13 to 4 bits in every matrix", 1, 0),
        curve(SEARCHED, "bits by layer and matrix, as searched", 1, 1),
        curve("8 bits in some layers", "8 bits in one to three layers", 1, 2),
        curve("4 bits in some layers", "4 bits in one to three layers", 1, 3),
        curve("8 bits in one matrix", "8 bits in one matrix of one layer", 1, 4),
    ];
    panel(&mut out, 1, "precision", "bytes of weights saved", &weights);
    let line = |name: &str, colour: usize, value: fn(&Drift) -> f64| Curve {
        name: name.to_owned(),
        points: drifts.iter().map(|drift| (drift.size, value(drift))).collect(),
        colour,
        is_dashed: false,
    };
    let drift = [
        line("audits that find it", 0, |drift| drift.caught),
        line("greedy picks changed", 1, |drift| drift.greedy),
        line("sampled picks changed", 2, |drift| drift.sampled),
    ];
    panel(&mut out, 2, "a drift towards one token", "size, in tolerances of each entry", &drift);
    out.push_str("</svg>\n");
    out
}
