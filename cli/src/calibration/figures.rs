//! What a calibration comes to, in numbers.

use std::collections::BTreeMap;

use assay_audit::tolerance::Tolerance;
use assay_audit::verdict::{Margin, Relation};
use assay_commitments::rows::Profile;
use serde::{Deserialize, Serialize};

use super::Cheat;

/// The name of the comparison of logits.
pub const LOGITS: &str = Relation::Logits.name();

/// The relations whose ratios depend on how a run was computed. The others compare supplied products with
/// what they were rounded from, or are exact.
const COMPUTED: [Relation; 5] = [Relation::C3, Relation::C4, Relation::C5, Relation::C6, Relation::C9];

/// Stands for a ratio that leaves the range of what can be compared.
const OUT_OF_RANGE: f64 = 1e30;

/// Everything that was measured. Ratios are in units of the threshold.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// The profile.
    pub profile: String,
    /// What the model ran on.
    pub device: String,
    /// Tokens that every honest run generated.
    pub tokens: u32,
    /// Sequences that were run, each in every mode.
    pub sequences: usize,
    /// Time taken, in seconds.
    pub seconds: f64,
    /// Cells of honest runs, those of equal rows counted once.
    pub honest_cells: usize,
    /// The largest ratio of any honest run.
    pub honest_max: f64,
    /// Honest runs, by relation.
    pub honest: Vec<HonestFigures>,
    /// Honest runs, by how they ran.
    pub modes: Vec<ModeFigures>,
    /// Cheats.
    pub cheats: Vec<CheatFigures>,
}

/// The ratios of one relation in honest runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HonestFigures {
    /// The relation.
    pub relation: String,
    /// Its ratios.
    #[serde(flatten)]
    pub spread: Spread,
}

/// What runs of one mode came to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModeFigures {
    /// How they ran.
    pub mode: String,
    /// Cells compared.
    pub cells: usize,
    /// Runs that left other rows than the sequence did when it was served first.
    pub new_rows: usize,
    /// The largest ratio by relation.
    pub max: BTreeMap<String, f64>,
}

/// A cheat and what shows of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheatFigures {
    /// What is done.
    pub cheat: String,
    /// The matrices that it is done to; empty where it is done to something else.
    pub matrices: Vec<String>,
    /// Whether it is done to all of the model that it can be done to.
    pub complete: bool,
    /// Cells compared.
    pub cells: usize,
    /// The largest ratio of each cell.
    pub largest: Band,
    /// The relation that shows it most: whose median is largest.
    pub relation: String,
    /// The largest ratio of each cell in every relation that depends on how a run was computed.
    pub relations: BTreeMap<String, Band>,
}

/// Ratios of honest cells.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// How many there are.
    pub compared: usize,
    /// Their mean.
    pub mean: f64,
    /// What one in a hundred does not exceed.
    pub p1: f64,
    /// Their median.
    pub p50: f64,
    /// What all but one in a hundred do not exceed.
    pub p99: f64,
    /// What all but one in a thousand do not exceed.
    pub p999: f64,
    /// The largest.
    pub max: f64,
}

/// Ratios of a cheat.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Band {
    /// What one in a hundred does not exceed.
    pub p1: f64,
    /// Their median.
    pub p50: f64,
    /// What all but one in a hundred do not exceed.
    pub p99: f64,
    /// The share of cells that are beyond the threshold.
    pub rejected: f64,
}

/// Ascending ratios.
struct Sorted(Vec<f64>);

impl Sorted {
    fn new(ratios: impl Iterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = ratios.map(|ratio| ratio.min(OUT_OF_RANGE)).collect();
        sorted.sort_by(f64::total_cmp);
        Self(sorted)
    }

    /// The smallest value that at least so many thousandths of all do not exceed.
    fn quantile(&self, thousandths: usize) -> f64 {
        let rank = (self.0.len() * thousandths).div_ceil(1000).max(1);
        self.0.get(rank - 1).copied().map_or(0.0, short)
    }

    #[expect(clippy::cast_precision_loss, reason = "a mean")]
    fn mean(&self) -> f64 {
        short(self.0.iter().sum::<f64>() / self.0.len().max(1) as f64)
    }

    fn band(&self) -> Band {
        let rejected = self.0.len() - self.0.partition_point(|ratio| *ratio <= 1.0);
        #[expect(clippy::cast_precision_loss, reason = "a share")]
        let rejected = short(rejected as f64 / self.0.len().max(1) as f64);
        Band { p1: self.quantile(10), p50: self.quantile(500), p99: self.quantile(990), rejected }
    }

    fn spread(&self) -> Spread {
        Spread {
            compared: self.0.len(),
            mean: self.mean(),
            p1: self.quantile(10),
            p50: self.quantile(500),
            p99: self.quantile(990),
            p999: self.quantile(999),
            max: self.quantile(1000),
        }
    }
}

/// A ratio with the four digits that matter.
fn short(ratio: f64) -> f64 {
    format!("{ratio:.3e}").parse().unwrap_or(ratio)
}

/// What honest runs leave behind.
#[derive(Default)]
pub(super) struct HonestRuns {
    cells: usize,
    by_relation: BTreeMap<Relation, Vec<f64>>,
    by_mode: Vec<ModeFigures>,
}

impl HonestRuns {
    /// Takes note of the margins of a run of a sequence; `is_new` unless an earlier one left the same rows.
    pub(super) fn add(&mut self, mode: &str, is_new: bool, margins: &[Margin]) {
        let place = self.by_mode.iter().position(|of| of.mode == mode).unwrap_or_else(|| {
            self.by_mode.push(ModeFigures { mode: mode.to_owned(), cells: 0, new_rows: 0, max: BTreeMap::new() });
            self.by_mode.len() - 1
        });
        let figures = &mut self.by_mode[place];
        let cells = by_cell(margins);
        figures.cells += cells.len();
        figures.new_rows += usize::from(is_new);
        self.cells += if is_new { cells.len() } else { 0 };
        for (relation, ratio) in cells.into_iter().flatten() {
            let slot = figures.max.entry(relation.name().to_owned()).or_insert(0.0);
            *slot = slot.max(short(ratio.min(OUT_OF_RANGE)));
        }
        // The same rows again say nothing new.
        for margin in margins.iter().filter(|_| is_new) {
            if let Some(relation) = margin.place.relation {
                self.by_relation.entry(relation).or_default().push(margin.ratio);
            }
        }
    }

    /// Takes note of the largest ratio of every decode of a run.
    pub(super) fn add_logits(&mut self, ratios: &[f64]) {
        self.by_relation.entry(Relation::Logits).or_default().extend(ratios);
    }
}

/// What is known of a calibration beside its ratios.
pub(super) struct Circumstances {
    pub(super) profile: Profile,
    pub(super) device: &'static str,
    pub(super) tokens: u32,
    pub(super) sequences: usize,
    pub(super) seconds: f64,
}

impl Calibration {
    pub(super) fn new(of: &Circumstances, honest: HonestRuns, cheats: Vec<CheatFigures>) -> Self {
        let worst = honest.by_relation.values().flatten().fold(0.0, |worst: f64, ratio| worst.max(*ratio));
        let by_relation = honest.by_relation.iter().map(|(relation, ratios)| HonestFigures {
            relation: relation.name().to_owned(),
            spread: Sorted::new(ratios.iter().copied()).spread(),
        });
        Self {
            profile: of.profile.name().to_owned(),
            device: of.device.to_owned(),
            tokens: of.tokens,
            sequences: of.sequences,
            seconds: short(of.seconds),
            honest_cells: honest.cells,
            honest_max: worst.min(OUT_OF_RANGE),
            honest: by_relation.collect(),
            modes: honest.by_mode,
            cheats,
        }
    }

    /// The smallest median of a relation among the cheats that it gives away in more than half of their cells.
    pub fn nearest_cheat(&self, relation: &str) -> Option<(&CheatFigures, f64)> {
        let medians = self.cheats.iter().filter_map(|cheat| Some((cheat, cheat.relations.get(relation)?.p50)));
        medians.filter(|(_, median)| *median > 1.0).min_by(|(_, one), (_, other)| one.total_cmp(other))
    }

    /// The ratios of a relation in honest runs.
    pub fn honest(&self, relation: &str) -> Option<Spread> {
        self.honest.iter().find(|of| of.relation == relation).map(|of| of.spread)
    }
}

impl CheatFigures {
    pub(super) fn new(cheat: &Cheat, margins: &[Margin]) -> Self {
        let cells = by_cell(margins);
        let of_relation = |relation: Relation| {
            let ratios = cells.iter().filter_map(move |cell| cell.get(&relation).copied());
            (relation.name().to_owned(), Sorted::new(ratios).band())
        };
        let relations: BTreeMap<String, Band> = COMPUTED.map(of_relation).into_iter().collect();
        let clearest = relations.iter().max_by(|(_, one), (_, other)| one.p50.total_cmp(&other.p50));
        Self {
            cheat: cheat.name(),
            matrices: cheat.matrices().iter().map(|matrix| matrix.name().to_owned()).collect(),
            complete: cheat.is_complete(),
            cells: cells.len(),
            largest: Sorted::new(cells.iter().map(|cell| cell.values().fold(0.0, |a: f64, b| a.max(*b)))).band(),
            relation: clearest.map(|(relation, _)| relation.clone()).unwrap_or_default(),
            relations,
        }
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

/// The threshold of a relation that was calibrated: a ratio of 1 is a mean square deviation of so many
/// squared tolerances, where heads have 15 elements or more, and for logits the largest deviation of one tolerance.
pub fn theta(profile: Profile, relation: &str) -> Option<f64> {
    let tolerance = Tolerance::of(profile);
    let relation = COMPUTED.into_iter().chain([Relation::Logits]).find(|of| of.name() == relation)?;
    match relation {
        Relation::C3 => Some(tolerance.theta_keys),
        Relation::C5 => Some(tolerance.theta_attention),
        Relation::Logits => Some(1.0),
        _ => Some(tolerance.theta_products),
    }
}

#[cfg(test)]
mod tests {
    use assay_audit::verdict::Where;
    use assay_commitments::manifest::Matrix;
    use assay_commitments::{LayerIndex, Position};
    use assay_llm_runtime::quantize::Format;

    use super::*;

    fn margin(position: u32, relation: Relation, ratio: f64) -> Margin {
        let place = Where::cell(LayerIndex::new(0), Position::new(position)).relation(relation);
        Margin { place, ratio }
    }

    #[test]
    fn quantiles_are_values_that_were_seen() {
        let spread = Sorted::new((1..=2000).rev().map(f64::from)).spread();
        let Spread { compared, mean, p1, p50, p99, p999, max } = spread;
        assert_eq!((compared, p1, p50, p99, p999, max), (2000, 20.0, 1000.0, 1980.0, 1998.0, 2000.0));
        assert!((mean - 1000.5).abs() < 1.0);
        assert_eq!(Sorted::new([f64::INFINITY].into_iter()).spread().max, OUT_OF_RANGE);
    }

    #[test]
    fn a_cheat_is_described_by_its_clearest_relation_and_the_cells_it_loses() {
        let margins = [
            margin(0, Relation::C4, 0.5),
            margin(0, Relation::C9, 3.0),
            margin(0, Relation::C9, 2.0),
            margin(1, Relation::C4, 0.4),
            margin(1, Relation::C9, 0.9),
        ];
        let figures = CheatFigures::new(&Cheat::Format(Format::Fp8, vec![Matrix::Down]), &margins);
        assert_eq!((figures.relation.as_str(), figures.cells), ("C9", 2));
        assert_eq!(figures.largest, Band { p1: 0.9, p50: 0.9, p99: 3.0, rejected: 0.5 });
        assert_eq!(figures.relations["C4"].rejected, 0.0);
        assert_eq!(figures.matrices, ["down_proj"]);
    }

    #[test]
    fn a_cheat_that_does_not_show_in_a_relation_says_nothing_of_its_threshold() {
        let cheats = [0.9, 5.0, 3.0].map(|ratio| {
            let cheat = Cheat::Format(Format::Fp8, vec![Matrix::Down]);
            CheatFigures::new(&cheat, &[margin(0, Relation::C9, ratio)])
        });
        let of = Circumstances { profile: Profile::Bf16V1, device: "cpu", tokens: 1, sequences: 1, seconds: 0.0 };
        let calibration = Calibration::new(&of, HonestRuns::default(), cheats.to_vec());
        assert_eq!(calibration.nearest_cheat("C9").map(|(_, median)| median), Some(3.0));
        assert!(calibration.nearest_cheat("C4").is_none());
    }
}
