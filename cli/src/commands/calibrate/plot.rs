//! Margins as a picture: a strip for each relation, honest runs left of the threshold, cheats right of it.

use std::fmt::Write;

use crate::calibration::{Band, Calibration, CheatFigures, LOGITS, Spread};

/// Where labels end and the scale begins.
const LEFT: f64 = 190.0;
const WIDTH: f64 = 560.0;
/// For the share of rejected cells.
const RIGHT: f64 = 80.0;
const ROW: f64 = 17.0;
const TITLE: f64 = 34.0;
const TOP: f64 = 78.0;
/// Ratios below this are drawn here.
const LEAST: f64 = 1e-6;
/// Ratios above this are drawn here.
const MOST: f64 = 1e9;

/// Colours follow the reader's preference for light or dark.
const STYLE: &str = "
:root{--page:#fff;--ink:#1f2328;--quiet:#6e7781;--line:#d8dee4;--honest:#1a7f5a;--cheat:#bc4c00;--hidden:#8c959f;--edge:#cf222e}
@media(prefers-color-scheme:dark){:root{--page:#0d1117;--ink:#e6edf3;--quiet:#8b949e;--line:#2b323b;--honest:#3fb98a;\
--cheat:#f0883e;--hidden:#6e7681;--edge:#ff7b72}}
text{font:12px system-ui,-apple-system,'Segoe UI',Helvetica,Arial,sans-serif;fill:var(--ink)}
.page{fill:var(--page)}.quiet{fill:var(--quiet);font-size:11px}.title{font-weight:600;font-size:13px}
.head{font-weight:600;font-size:15px}.line{stroke:var(--line)}.edge{stroke:var(--edge);stroke-width:1.5;stroke-dasharray:4 3}
.edgetext{fill:var(--edge);font-size:11px}.honest{fill:var(--honest)}.cheat{fill:var(--cheat)}.hidden{fill:var(--hidden)}
.band{opacity:.45}.end{text-anchor:end}.mid{text-anchor:middle}
";

/// A logarithmic scale over whole decades.
struct Scale {
    first: i32,
    last: i32,
}

impl Scale {
    fn new(found: &Calibration) -> Self {
        let honest = found.honest.iter().flat_map(|of| [of.spread.p50, of.spread.max]);
        let cheats = shown(found).flat_map(|cheat| cheat.relations.values().flat_map(|band| [band.p50, band.p99]));
        let (least, most) = honest
            .chain(cheats)
            .filter(|ratio| *ratio > 0.0)
            .fold((0.1, 10.0), |(least, most), ratio| (ratio.clamp(LEAST, least), ratio.clamp(most, MOST)));
        #[expect(clippy::cast_possible_truncation, reason = "ratios are clamped to a few decades")]
        let decade = |ratio: f64| ratio as i32;
        Self { first: decade(f64::log10(least).floor()), last: decade(f64::log10(most).ceil()) }
    }

    fn x(&self, ratio: f64) -> f64 {
        let (first, last) = (f64::from(self.first), f64::from(self.last));
        let decades = ratio.max(f64::MIN_POSITIVE).log10().clamp(first, last) - first;
        LEFT + WIDTH * decades / (last - first)
    }
}

/// The cheats that are drawn: those that are done to the whole model.
fn shown(found: &Calibration) -> impl Iterator<Item = &CheatFigures> {
    found.cheats.iter().filter(|cheat| cheat.complete)
}

/// An SVG document.
pub(super) fn svg(found: &Calibration) -> String {
    let scale = Scale::new(found);
    let relations: Vec<(&str, Spread)> = found
        .honest
        .iter()
        .filter(|of| shown(found).any(|cheat| cheat.relations.contains_key(&of.relation)) || of.relation == LOGITS)
        .map(|of| (of.relation.as_str(), of.spread))
        .collect();
    let mut body = String::new();
    let mut y = TOP;
    for (relation, spread) in &relations {
        y = strip(&mut body, found, relation, spread, &scale, y);
    }
    let (width, height) = (LEFT + WIDTH + RIGHT, y + 16.0);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
         role=\"img\" aria-label=\"Margins of honest runs and of cheats\">\n<style>{STYLE}</style>\n\
         <rect class=\"page\" width=\"{width}\" height=\"{height}\"/>\n"
    );
    let head = format!("Margins under profile {}", escaped(&found.profile));
    let _ = writeln!(text, "<text class=\"head\" x=\"20\" y=\"28\">{head}</text>");
    let legend = "deviation over the threshold; bands from the 1st to the 99th of 100 cells, a tick at the median; \
                  honest runs up to the largest";
    let _ = writeln!(text, "<text class=\"quiet\" x=\"20\" y=\"46\">{legend}</text>");
    let _ =
        writeln!(text, "<text class=\"quiet\" x=\"{:.0}\" y=\"{:.0}\">rejected</text>", LEFT + WIDTH + 14.0, TOP + 6.0);
    text.push_str(&body);
    text.push_str("</svg>\n");
    text
}

/// Draws a relation from `y` down, and gives where the next may begin.
fn strip(out: &mut String, found: &Calibration, relation: &str, spread: &Spread, scale: &Scale, y: f64) -> f64 {
    let cheats: Vec<(&CheatFigures, Band)> =
        shown(found).filter_map(|cheat| Some((cheat, *cheat.relations.get(relation)?))).collect();
    #[expect(clippy::cast_precision_loss, reason = "a handful of rows")]
    let rows = (cheats.len() + 1) as f64;
    let (top, bottom) = (y + TITLE - 14.0, y + TITLE + rows * ROW);
    let _ = writeln!(out, "<text class=\"title\" x=\"20\" y=\"{:.1}\">{}</text>", y + 14.0, escaped(title(relation)));
    for decade in scale.first..=scale.last {
        let x = scale.x(f64::powi(10.0, decade));
        let _ = writeln!(
            out,
            "<line class=\"line\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{top:.1}\" y2=\"{bottom:.1}\"/>\
             <text class=\"quiet mid\" x=\"{x:.1}\" y=\"{:.1}\">{}</text>",
            bottom + 13.0,
            power(decade)
        );
    }
    let x = scale.x(1.0);
    let _ = writeln!(
        out,
        "<line class=\"edge\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{:.1}\" y2=\"{bottom:.1}\"/>\
         <text class=\"edgetext mid\" x=\"{x:.1}\" y=\"{:.1}\">threshold</text>",
        top - 2.0,
        top - 6.0
    );
    let mut middle = y + TITLE + ROW / 2.0;
    let honest = Band { p1: spread.p1, p50: spread.p50, p99: spread.max, rejected: 0.0 };
    band(out, "honest runs", "honest", honest, None, scale, middle);
    for (cheat, ratios) in cheats {
        middle += ROW;
        let class = if ratios.p50 > 1.0 { "cheat" } else { "hidden" };
        band(out, &cheat.cheat, class, ratios, Some(ratios.rejected), scale, middle);
    }
    bottom + 30.0
}

fn band(out: &mut String, label: &str, class: &str, ratios: Band, rejected: Option<f64>, scale: &Scale, y: f64) {
    let (from, median, to) = (scale.x(ratios.p1), scale.x(ratios.p50), scale.x(ratios.p99));
    let _ = writeln!(
        out,
        "<text class=\"end\" x=\"{:.1}\" y=\"{:.1}\">{}</text>\
         <rect class=\"band {class}\" x=\"{from:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"10\" rx=\"3\"/>\
         <rect class=\"{class}\" x=\"{:.1}\" y=\"{:.1}\" width=\"3\" height=\"12\" rx=\"1\"/>",
        LEFT - 12.0,
        y + 4.0,
        escaped(label),
        y - 5.0,
        (to - from).max(2.0),
        median - 1.5,
        y - 6.0,
    );
    if let Some(share) = rejected {
        let x = LEFT + WIDTH + RIGHT - 20.0;
        let _ =
            writeln!(out, "<text class=\"quiet end\" x=\"{x:.1}\" y=\"{:.1}\">{:.0} %</text>", y + 4.0, 100.0 * share);
    }
}

/// What a relation is about.
fn title(relation: &str) -> &str {
    match relation {
        "C3" => "C3: keys",
        "C4" => "C4: values",
        "C5" => "C5: attention",
        "C6" => "C6: attention branch",
        "C9" => "C9: MLP branch",
        other => other,
    }
}

fn power(decade: i32) -> String {
    match decade {
        0 => "1".to_owned(),
        1..=3 => format!("{}", 10_i32.pow(decade.unsigned_abs())),
        -3..=-1 => format!("{}", f64::powi(10.0, decade)),
        _ => format!("1e{decade}"),
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scale_has_equal_decades_and_keeps_what_leaves_it_at_its_ends() {
        let scale = Scale { first: -2, last: 2 };
        let decades = [1e-2, 1e-1, 1.0, 1e1, 1e2].map(|ratio| scale.x(ratio) - LEFT);
        for (x, expected) in decades.into_iter().zip([0.0, 0.25, 0.5, 0.75, 1.0]) {
            assert!((x - expected * WIDTH).abs() < 1e-9, "{x}");
        }
        assert!((scale.x(0.0) - LEFT).abs() < 1e-9 && (scale.x(1e30) - LEFT - WIDTH).abs() < 1e-9);
    }
}
