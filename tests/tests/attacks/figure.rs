//! `docs/figures/detection.svg`: expected against measured detection, with what chance allows.

use std::fmt::Write;
use std::path::Path;

use crate::rates::Rate;

const LEFT: f64 = 250.0;
const WIDTH: f64 = 480.0;
const RIGHT: f64 = 40.0;
const TOP: f64 = 74.0;
const ROW: f64 = 18.0;

/// Colours follow the reader's preference for light or dark.
const STYLE: &str = "
:root{--page:#fff;--ink:#1f2328;--quiet:#6e7781;--line:#d8dee4;--expected:#8c959f;--measured:#bc4c00}
@media(prefers-color-scheme:dark){:root{--page:#0d1117;--ink:#e6edf3;--quiet:#8b949e;--line:#2b323b;\
--expected:#6e7681;--measured:#f0883e}}
text{font:12px system-ui,-apple-system,'Segoe UI',Helvetica,Arial,sans-serif;fill:var(--ink)}
.page{fill:var(--page)}.quiet{fill:var(--quiet);font-size:11px}.head{font-weight:600;font-size:15px}
.line{stroke:var(--line)}.bar{fill:var(--expected);opacity:.45}.expected{fill:var(--expected)}
.measured{fill:var(--measured)}.end{text-anchor:end}.mid{text-anchor:middle}
";

fn x(share: f64) -> f64 {
    LEFT + WIDTH * share.clamp(0.0, 1.0)
}

fn svg(rates: &[Rate]) -> String {
    #[expect(clippy::cast_precision_loss, reason = "a few dozen rows")]
    let bottom = TOP + rates.len() as f64 * ROW;
    let (width, height) = (LEFT + WIDTH + RIGHT, bottom + 34.0);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
         role=\"img\" aria-label=\"Expected and measured detection of attacks\">\n<style>{STYLE}</style>\n\
         <rect class=\"page\" width=\"{width}\" height=\"{height}\"/>\n\
         <text class=\"head\" x=\"20\" y=\"28\">Share of audits that find an attack</text>\n\
         <text class=\"quiet\" x=\"20\" y=\"46\">default policy, one audit; dots are measured, ticks expected, bars four \
         binomial deviations</text>\n"
    );
    for tenth in [0.0, 0.25, 0.5, 0.75, 1.0] {
        let _ = writeln!(
            out,
            "<line class=\"line\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{:.1}\" y2=\"{bottom:.1}\"/>\
             <text class=\"quiet mid\" x=\"{x:.1}\" y=\"{:.1}\">{:.0} %</text>",
            TOP - 8.0,
            bottom + 14.0,
            100.0 * tenth,
            x = x(tenth),
        );
    }
    let mut y = TOP + ROW / 2.0;
    for rate in rates {
        let (from, to) = (x(rate.expected - rate.bound()), x(rate.expected + rate.bound()));
        let name = rate.attack.name["attack_".len()..].replace('_', " ");
        let _ = writeln!(
            out,
            "<text class=\"end\" x=\"{:.1}\" y=\"{:.1}\">{name}</text>\
             <rect class=\"bar\" x=\"{from:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"10\" rx=\"3\"/>\
             <rect class=\"expected\" x=\"{:.1}\" y=\"{:.1}\" width=\"2\" height=\"14\"/>\
             <circle class=\"measured\" cx=\"{:.1}\" cy=\"{y:.1}\" r=\"3.5\"/>",
            LEFT - 14.0,
            y + 4.0,
            y - 5.0,
            to - from,
            x(rate.expected) - 1.0,
            y - 7.0,
            x(rate.measured),
        );
        y += ROW;
    }
    out.push_str("</svg>\n");
    out
}

/// Writes the figure.
pub(crate) fn write(rates: &[Rate]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/figures/detection.svg");
    std::fs::write(path, svg(rates)).unwrap();
}
