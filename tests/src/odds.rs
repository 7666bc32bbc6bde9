//! How likely an audit is to find what is broken in an answer.
//!
//! Of every cell and decode it is computed from the weights whether it holds ([`margins`], [`reference_logits`]).
//! Draws are independent, so an audit misses with the product of what each of its draws misses.

use std::collections::BTreeMap;
use std::ops::Range;

use assay_audit::challenge::{Cell, Challenge, Lengths};
use assay_audit::measure::{Reference, margins, reference_logits};
use assay_audit::policy::Policy;
use assay_audit::sampling::{Sampling, gumbel_noise};
use assay_audit::tolerance::Tolerance;
use assay_audit::verdict::{Margin, Relation};
use assay_commitments::manifest::Architecture;
use assay_commitments::rows::Profile;
use assay_commitments::trace::TraceRows;
use assay_commitments::{KvGroup, LayerIndex, Position, TokenId};

/// Signs of a sketch.
const SIGNS: f64 = 128.0;

/// An answer with the rows behind it, whoever left them.
#[derive(Clone, Copy)]
pub struct Execution<'a> {
    /// The claimed model.
    pub reference: &'a Reference,
    /// Its shape.
    pub architecture: &'a Architecture,
    /// Its profile.
    pub profile: Profile,
    /// How tokens should have been picked.
    pub sampling: Sampling,
    /// The output tokens.
    pub output: &'a [TokenId],
    /// The rows.
    pub rows: &'a dyn TraceRows,
    /// Tokens of prompt and output.
    pub lengths: Lengths,
}

impl std::fmt::Debug for Execution<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Execution").field("lengths", &self.lengths).finish_non_exhaustive()
    }
}

/// What is broken in an answer.
#[derive(Clone, Debug)]
pub struct Odds {
    layers: u32,
    lengths: Lengths,
    /// How likely each cell is found broken when it is drawn, by position and layer.
    cells: BTreeMap<(u32, u32), f64>,
    /// Whether each pick is another than the sampler's, beyond tolerance.
    picks: Vec<bool>,
}

/// How likely a relation with this margin is seen to be broken. A sketch estimates the mean square from so many
/// signs: `chi^2 / SIGNS` about it, whose cube root is nearly normal (Wilson and Hilferty 1931).
fn chance(margin: &Margin) -> f64 {
    match margin.place.relation {
        Some(Relation::C4 | Relation::C6 | Relation::C9) if margin.ratio.is_finite() => {
            let variance = 2.0 / (9.0 * SIGNS);
            let least = (1.0 / margin.ratio).cbrt();
            let deviations = (1.0 - variance - least) / variance.sqrt();
            libm::erfc(-deviations / std::f64::consts::SQRT_2) / 2.0
        }
        _ => f64::from(u8::from(margin.ratio > 1.0)),
    }
}

impl Execution<'_> {
    /// Judges every cell, group and decode.
    pub fn odds(&self) -> Odds {
        let layers = self.architecture.layers;
        let everything = (0..layers).flat_map(|layer| (0..self.lengths.positions()).map(move |at| (layer, at)));
        let decodes = self.lengths.first_decode()..self.lengths.positions();
        Odds {
            layers,
            lengths: self.lengths,
            cells: self.broken_cells(everything),
            picks: decodes.map(|position| self.is_pick_broken(position)).collect(),
        }
    }

    /// How likely each of these cells, given by layer and position, is found broken when it is drawn, over the
    /// group that is drawn with it; by position and layer.
    pub fn broken_cells(&self, cells: impl Iterator<Item = (u32, u32)>) -> BTreeMap<(u32, u32), f64> {
        let groups = self.architecture.kv_heads;
        let cells: Vec<(u32, u32)> = cells.collect();
        let mut broken = BTreeMap::new();
        for group in (0..groups).map(KvGroup::new) {
            let cell = |(layer, position): &(u32, u32)| Cell {
                layer: LayerIndex::new(*layer),
                position: Position::new(*position),
                groups: vec![group],
            };
            let challenge = Challenge { cells: cells.iter().map(cell).collect(), decodes: vec![] };
            let found = margins(self.reference, self.rows, &challenge).expect("the rows are all there");
            let mut held = BTreeMap::new();
            for margin in found {
                let (Some(layer), Some(position)) = (margin.place.layer, margin.place.position) else { continue };
                *held.entry((position.get(), layer.get())).or_insert(1.0) *= 1.0 - chance(&margin);
            }
            for (cell, held) in held {
                *broken.entry(cell).or_insert(0.0) += (1.0 - held) / f64::from(groups);
            }
        }
        broken
    }

    fn is_pick_broken(&self, position: u32) -> bool {
        let logits = reference_logits(self.reference, self.rows, Position::new(position)).expect("the row is there");
        let Sampling { temperature, top_k, seed, .. } = self.sampling;
        let tolerance = Tolerance::of(self.profile);
        let slack = |z: f64| tolerance.logit_rel * z.abs() + tolerance.logit_abs;
        let noise = gumbel_noise(seed, Position::new(position), logits.len());
        let index = |number: u32| usize::try_from(number).expect("32 bits fit a usize");
        let served = index(self.output[index(position - self.lengths.first_decode())].get());
        let mut order: Vec<usize> = (0..logits.len()).collect();
        order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
        if top_k > 0 {
            order.truncate(index(top_k));
        }
        let score = |j: usize, sign: f64| {
            let logit = logits[j] + sign * slack(logits[j]);
            if temperature == 0.0 { logit } else { logit / f64::from(temperature) + noise[j] }
        };
        !order.contains(&served) || order.into_iter().any(|j| j != served && score(j, -1.0) > score(served, 1.0))
    }
}

impl Odds {
    /// The mean over the cells at these positions.
    fn share(&self, positions: Range<u32>) -> f64 {
        let cells = f64::from(positions.end - positions.start) * f64::from(self.layers);
        self.cells.range((positions.start, 0)..(positions.end, 0)).map(|(_, broken)| broken).sum::<f64>() / cells
    }

    /// How likely a column drawn from these positions shows nothing.
    fn column_missed(&self, positions: Range<u32>) -> f64 {
        let count = f64::from(positions.end - positions.start);
        let held = |at| self.cells.range((at, 0)..(at + 1, 0)).map(|(_, broken)| 1.0 - broken).product::<f64>();
        positions.map(held).sum::<f64>() / count
    }

    /// The share of audits under a policy that must find what is broken here.
    ///
    /// # Panics
    /// Under a policy that does not draw.
    pub fn caught(&self, policy: &Policy) -> f64 {
        let Policy::Sampled { cells, decodes, columns, .. } = *policy else { panic!("{policy:?} draws nothing") };
        let (prompt, all) = (self.lengths.first_decode() + 1, self.lengths.positions());
        let cell = |number: u32| match number % 4 {
            2 if prompt < all => prompt..all,
            3 => all - 1..all,
            _ => 0..prompt,
        };
        let cells: f64 = (0..cells).map(|number| 1.0 - self.share(cell(number))).product();
        let column = |number: u32| self.column_missed(0..if number.is_multiple_of(2) { prompt } else { all });
        let columns: f64 = (0..columns).map(column).product();
        let broken = |picks: &[bool]| picks.iter().map(|pick| f64::from(u8::from(*pick))).sum::<f64>();
        let last = broken(&self.picks[self.picks.len() - 1..]);
        let uniform = broken(&self.picks) / f64::from(all - self.lengths.first_decode());
        let others = (1..decodes).map(|_| 1.0 - uniform).product::<f64>();
        1.0 - cells * columns * (1.0 - last) * others
    }

    /// Whether a cell is more likely than not to be found broken when it is drawn.
    pub fn is_broken(&self, layer: LayerIndex, position: Position) -> bool {
        self.cells[&(position.get(), layer.get())] > 0.5
    }

    /// The share of all cells that are found when they are drawn.
    pub fn broken(&self) -> f64 {
        self.share(0..self.lengths.positions())
    }

    /// The share of picks that are found when they are drawn.
    pub fn broken_picks(&self) -> f64 {
        let broken = u32::try_from(self.picks.iter().filter(|pick| **pick).count()).expect("an answer is short");
        f64::from(broken) / f64::from(self.lengths.positions() - self.lengths.first_decode())
    }
}
