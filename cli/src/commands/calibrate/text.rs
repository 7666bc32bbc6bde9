//! What calibration found, for people.

use super::constants::described;
use crate::calibration::{Calibration, CheatFigures, ModeFigures};
use crate::terminal::{Paint, seconds, table, thousands};

pub(super) fn text(found: &Calibration, paint: Paint) -> String {
    let mut text = format!(
        "Profile {}, {} sequences of {} tokens on the {}. A ratio of 1 is the threshold.\n\n",
        found.profile, found.sequences, found.tokens, found.device
    );
    text.push_str(&margins(found, paint));
    text.push('\n');
    text.push_str(&modes(found, paint));
    text.push('\n');
    text.push_str(&cheats(found, paint));
    text.push('\n');
    text.push_str(&summary(found, paint));
    text
}

/// Both margins of every relation.
fn margins(found: &Calibration, paint: Paint) -> String {
    let row = |of: &crate::calibration::HonestFigures| {
        let spread = of.spread;
        let (median, name) = found.nearest_cheat(&of.relation).map_or_else(Default::default, |(cheat, median)| {
            (number(median), described(&cheat.cheat, &cheat.matrices))
        });
        let mut row = vec![of.relation.clone(), thousands(spread.compared as u64)];
        row.extend([spread.p50, spread.p999, spread.max].map(number));
        row.extend([median, name]);
        row
    };
    let rows: Vec<Vec<String>> = found.honest.iter().map(row).collect();
    let head = ["honest runs", "compared", "median", "p99.9", "largest", "nearest cheat's median", "of"];
    table(&head, &rows, paint)
}

fn modes(found: &Calibration, paint: Paint) -> String {
    // The exact relations are the same in every mode.
    let relations: Vec<&String> =
        found.cheats.first().map(|cheat| cheat.relations.keys().collect()).unwrap_or_default();
    let row = |of: &ModeFigures| {
        let mut row = vec![of.mode.clone(), thousands(of.cells as u64)];
        row.push(thousands(of.new_rows as u64));
        row.extend(relations.iter().map(|relation| number(of.max.get(*relation).copied().unwrap_or(0.0))));
        row
    };
    let rows: Vec<Vec<String>> = found.modes.iter().map(row).collect();
    let names: Vec<&str> = relations.iter().map(|relation| relation.as_str()).collect();
    let head = [&["honest, largest by how they ran", "cells", "runs with new bits"][..], &names].concat();
    table(&head, &rows, paint)
}

fn cheats(found: &Calibration, paint: Paint) -> String {
    let row = |cheat: &CheatFigures| {
        let matrices = match cheat.matrices.as_slice() {
            [] => "-".to_owned(),
            _ if cheat.complete => "all".to_owned(),
            some => some.join(", "),
        };
        let share = format!("{:.1} %", 100.0 * cheat.largest.rejected);
        let mut row = vec![cheat.cheat.clone(), matrices, thousands(cheat.cells as u64), share];
        row.extend([number(cheat.largest.p1), number(cheat.largest.p50), cheat.relation.clone()]);
        row
    };
    let rows: Vec<Vec<String>> = found.cheats.iter().map(row).collect();
    let head = ["cheats", "matrices", "cells", "rejected", "p1", "median", "most in"];
    table(&head, &rows, paint)
}

fn summary(found: &Calibration, paint: Paint) -> String {
    let (worst, cells) = (found.honest_max, thousands(found.honest_cells as u64));
    let honest = if worst >= 1.0 {
        paint.red(&format!("honest runs reach {worst:.2} of a threshold: this profile rejects them"))
    } else {
        paint.green(&format!("no honest cell of {cells} is rejected; the largest ratio is {worst:.3}"))
    };
    format!("{honest}\ntook {}\n", seconds(found.seconds))
}

/// A ratio, with the digits that matter.
fn number(ratio: f64) -> String {
    match ratio {
        0.0 => "0".to_owned(),
        ..0.001 => format!("{ratio:.0e}"),
        ..100.0 => format!("{ratio:.3}"),
        ..1e6 => format!("{ratio:.0}"),
        _ => format!("{ratio:.0e}"),
    }
}
