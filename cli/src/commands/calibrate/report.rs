//! What calibration found, for people and for programs.

use std::collections::BTreeMap;

use assay_audit::verdict::{Margin, Relation};
use assay_commitments::manifest::Matrix;
use assay_llm_runtime::quantize::Format;
use serde_json::{Value, json};

use crate::terminal::{Paint, seconds, table, thousands};

/// Everything that was measured.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) profile: &'static str,
    pub(super) device: &'static str,
    pub(super) tokens: u32,
    pub(super) runs: usize,
    pub(super) honest: Honest,
    pub(super) cheats: Vec<Cheat>,
    pub(super) seconds: f64,
}

/// What runs of one mode came to.
#[derive(Debug)]
struct InMode {
    name: &'static str,
    cells: usize,
    largest: BTreeMap<Relation, f64>,
}

/// The relations whose ratios depend on how a run was computed. The others compare supplied products with
/// what they were rounded from, or are exact.
const COMPUTED: [Relation; 5] = [Relation::C3, Relation::C4, Relation::C5, Relation::C6, Relation::C9];

/// Ratios of honest runs.
#[derive(Debug, Default)]
pub(super) struct Honest {
    cells: usize,
    by_relation: BTreeMap<Relation, Vec<f64>>,
    by_mode: Vec<InMode>,
    /// The largest ratio of every decode.
    pub(super) logits: Vec<f64>,
}

impl Honest {
    /// Takes note of the margins of all cells of a run.
    pub(super) fn add(&mut self, mode: &'static str, margins: &[Margin]) {
        let place = self.by_mode.iter().position(|of| of.name == mode).unwrap_or_else(|| {
            self.by_mode.push(InMode { name: mode, cells: 0, largest: BTreeMap::new() });
            self.by_mode.len() - 1
        });
        let cells = by_cell(margins);
        self.cells += cells.len();
        self.by_mode[place].cells += cells.len();
        for (relation, ratio) in cells.into_iter().flatten() {
            let slot = self.by_mode[place].largest.entry(relation).or_insert(ratio);
            *slot = slot.max(ratio);
        }
        for margin in margins {
            if let Some(relation) = margin.place.relation {
                self.by_relation.entry(relation).or_default().push(margin.ratio);
            }
        }
    }

    /// The largest ratio of all.
    pub(super) fn worst(&self) -> f64 {
        self.by_relation.values().flatten().chain(&self.logits).fold(0.0, |worst, ratio| worst.max(*ratio))
    }

    fn spreads(&self) -> Vec<(&'static str, Spread)> {
        let cells = self.by_relation.iter().map(|(relation, ratios)| (relation.name(), Spread::of(ratios)));
        let logits = (!self.logits.is_empty()).then(|| (Relation::Logits.name(), Spread::of(&self.logits)));
        cells.chain(logits).collect()
    }
}

/// The ratios of one relation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Spread {
    count: usize,
    least: f64,
    mean: f64,
    median: f64,
    p99: f64,
    largest: f64,
}

impl Spread {
    #[expect(clippy::cast_precision_loss, reason = "a mean")]
    fn of(ratios: &[f64]) -> Self {
        let mut sorted = ratios.to_vec();
        sorted.sort_by(f64::total_cmp);
        // The smallest value that at least that share of all do not exceed.
        let quantile = |hundredths: usize| {
            let rank = (sorted.len() * hundredths).div_ceil(100).max(1);
            sorted.get(rank - 1).copied().unwrap_or(0.0)
        };
        Self {
            count: sorted.len(),
            least: quantile(0),
            mean: sorted.iter().sum::<f64>() / sorted.len().max(1) as f64,
            median: quantile(50),
            p99: quantile(99),
            largest: quantile(100),
        }
    }
}

/// A cheat and what shows of it.
#[derive(Debug)]
pub(super) struct Cheat {
    format: &'static str,
    matrices: Vec<&'static str>,
    /// The relation whose median over the cells is largest.
    relation: &'static str,
    spread: Spread,
    cells: usize,
    rejected: usize,
}

impl Cheat {
    pub(super) fn new(format: Format, matrices: &[Matrix], margins: &[Margin]) -> Self {
        let cells = by_cell(margins);
        let of_relation = |relation: Relation| {
            let ratios: Vec<f64> = cells.iter().filter_map(|cell| cell.get(&relation).copied()).collect();
            (relation.name(), Spread::of(&ratios))
        };
        let (relation, spread) = Relation::ALL
            .map(of_relation)
            .into_iter()
            .max_by(|(_, one), (_, other)| one.median.total_cmp(&other.median))
            .unwrap_or((Relation::C2.name(), Spread::of(&[])));
        let rejected = cells.iter().filter(|cell| cell.values().any(|ratio| *ratio > 1.0)).count();
        Self {
            format: format.name(),
            matrices: matrices.iter().map(|matrix| matrix.name()).collect(),
            relation,
            spread,
            cells: cells.len(),
            rejected,
        }
    }

    fn is_complete(&self) -> bool {
        self.matrices.len() == Matrix::ALL.len()
    }

    fn matrices(&self) -> String {
        if self.is_complete() { "all".to_owned() } else { self.matrices.join(", ") }
    }

    #[expect(clippy::cast_precision_loss, reason = "a share")]
    fn share(&self) -> f64 {
        self.rejected as f64 / self.cells.max(1) as f64
    }
}

/// Largest ratio by relation, cell by cell. Runs come one after the other, each cell's margins together.
fn by_cell(margins: &[Margin]) -> Vec<BTreeMap<Relation, f64>> {
    let place = |margin: &Margin| (margin.place.layer, margin.place.position);
    margins
        .chunk_by(|one, next| place(one) == place(next))
        .map(|cell| {
            let mut largest = BTreeMap::new();
            for margin in cell {
                if let Some(relation) = margin.place.relation {
                    let slot = largest.entry(relation).or_insert(margin.ratio);
                    *slot = slot.max(margin.ratio);
                }
            }
            largest
        })
        .collect()
}

impl Report {
    pub(super) fn text(&self, paint: Paint) -> String {
        let mut text = format!(
            "Profile {}, {} runs of {} tokens on the {}. A ratio of 1 is the threshold.\n\n",
            self.profile, self.runs, self.tokens, self.device
        );
        let rows: Vec<Vec<String>> = self
            .honest
            .spreads()
            .into_iter()
            .map(|(relation, spread)| {
                let Spread { count, mean, p99, largest, .. } = spread;
                vec![relation.to_owned(), thousands(count as u64), number(mean), number(p99), number(largest)]
            })
            .collect();
        text.push_str(&table(&["honest runs", "compared", "mean", "p99", "largest"], &rows, paint));
        text.push('\n');
        let largest = |of: &InMode| {
            let largest = COMPUTED.map(|relation| of.largest.get(&relation).copied().unwrap_or(0.0));
            largest.map(number)
        };
        let rows: Vec<Vec<String>> = self
            .honest
            .by_mode
            .iter()
            .map(|of| [vec![of.name.to_owned(), thousands(of.cells as u64)], largest(of).to_vec()].concat())
            .collect();
        let names = COMPUTED.map(Relation::name);
        let head = [&["honest, largest by how they ran", "cells"][..], &names].concat();
        text.push_str(&table(&head, &rows, paint));
        text.push('\n');
        let rows: Vec<Vec<String>> = self
            .cheats
            .iter()
            .map(|cheat| {
                vec![
                    cheat.format.to_owned(),
                    cheat.matrices(),
                    cheat.relation.to_owned(),
                    number(cheat.spread.least),
                    number(cheat.spread.median),
                    format!("{:.1} %", 100.0 * cheat.share()),
                ]
            })
            .collect();
        let head = ["cheats", "matrices", "relation", "least", "median", "cells rejected"];
        text.push_str(&table(&head, &rows, paint));
        text.push('\n');
        text.push_str(&self.summary(paint));
        text
    }

    fn summary(&self, paint: Paint) -> String {
        let worst = self.honest.worst();
        let cells = thousands(self.honest.cells as u64);
        let honest = if worst > 1.0 {
            paint.red(&format!("honest runs reach {worst:.2} of a threshold: this profile rejects them"))
        } else {
            paint.green(&format!("no honest cell of {cells} is rejected; the largest ratio is {worst:.3}"))
        };
        let complete = self.cheats.iter().filter(|cheat| cheat.is_complete());
        let caught: Vec<String> =
            complete.map(|cheat| format!("{} {:.1} %", cheat.format, 100.0 * cheat.share())).collect();
        format!(
            "{honest}\ncells that give a cheat in all matrices away: {}\ntook {}\n",
            caught.join(", "),
            seconds(self.seconds)
        )
    }

    pub(super) fn json(&self) -> Value {
        let honest = self.honest.spreads().into_iter().map(|(relation, spread)| {
            let Spread { count, mean, p99, largest, .. } = spread;
            json!({"relation": relation, "compared": count, "mean": mean, "p99": p99, "max": largest})
        });
        let modes = self.honest.by_mode.iter().map(|of| {
            let largest = of.largest.iter().map(|(relation, ratio)| (relation.name().to_owned(), json!(ratio)));
            json!({"mode": of.name, "cells": of.cells, "max": Value::Object(largest.collect())})
        });
        let cheats = self.cheats.iter().map(|cheat| {
            json!({
                "format": cheat.format,
                "matrices": cheat.matrices,
                "relation": cheat.relation,
                "min": cheat.spread.least,
                "median": cheat.spread.median,
                "cells": cheat.cells,
                "rejected_share": cheat.share(),
            })
        });
        json!({
            "profile": self.profile,
            "device": self.device,
            "tokens": self.tokens,
            "runs": self.runs,
            "honest_cells": self.honest.cells,
            "honest_max": self.honest.worst(),
            "honest": honest.collect::<Vec<_>>(),
            "modes": modes.collect::<Vec<_>>(),
            "cheats": cheats.collect::<Vec<_>>(),
            "seconds": self.seconds,
        })
    }
}

/// A ratio, with the digits that matter.
fn number(ratio: f64) -> String {
    match ratio {
        0.0 => "0".to_owned(),
        ..0.001 => format!("{ratio:.0e}"),
        ..100.0 => format!("{ratio:.3}"),
        _ => format!("{ratio:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use assay_audit::verdict::Where;
    use assay_commitments::{LayerIndex, Position};

    use super::*;

    fn margin(position: u32, relation: Relation, ratio: f64) -> Margin {
        let place = Where::cell(LayerIndex::new(0), Position::new(position)).relation(relation);
        Margin { place, ratio }
    }

    #[test]
    fn quantiles_are_values_that_were_seen() {
        let ratios: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        let spread = Spread::of(&ratios);
        let Spread { count, least, mean, median, p99, largest } = spread;
        assert_eq!((count, least, mean, median, p99, largest), (200, 1.0, 100.5, 100.0, 198.0, 200.0));
        assert!(Spread::of(&[f64::INFINITY]).largest.is_infinite());
    }

    #[test]
    fn a_cheat_is_described_by_its_worst_relation_and_the_cells_it_loses() {
        let margins = [
            margin(0, Relation::C4, 0.5),
            margin(0, Relation::C9, 3.0),
            margin(0, Relation::C9, 2.0),
            margin(1, Relation::C4, 0.4),
            margin(1, Relation::C9, 0.9),
        ];
        let cheat = Cheat::new(Format::Fp8, &[Matrix::Down], &margins);
        assert_eq!((cheat.relation, cheat.cells, cheat.rejected), ("C9", 2, 1));
        assert_eq!((cheat.spread.least, cheat.spread.largest), (0.9, 3.0));
        assert_eq!(cheat.matrices(), "down_proj");
    }
}
