//! How likely an audit is to find what is broken in an answer.
//!
//! Of every cell and decode it is computed from the weights whether it holds ([`margins`], [`reference_logits`]).
//! Draws are independent, so an audit misses with the product of what each of its draws misses; and of an audit that
//! was made it is known what its own draw had to find ([`Tally`]).

use std::collections::BTreeMap;
use std::ops::Range;

use assay_audit::challenge::{Cell, Challenge, Lengths};
use assay_audit::judge::Judgement;
use assay_audit::measure::{Reference, margins, reference_logits};
use assay_audit::policy::{Columns, Policy};
use assay_audit::sampling::{Sampling, gumbel_noise};
use assay_audit::tolerance::Tolerance;
use assay_audit::verdict::{Failure, Margin, Reason, Relation, Stage, Verdict};
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

/// The margins of every cell, by position, layer and group.
pub type Margins = BTreeMap<(u32, u32, u32), Vec<Margin>>;

/// How likely each relation of a cell is found broken when the cell is drawn, by position, layer and group.
type Chances = BTreeMap<(u32, u32, u32), Vec<(Option<Relation>, f64)>>;

fn chances(margins: &Margins, chance: impl Fn(&Margin) -> f64) -> Chances {
    let of = |margin: &Margin| (margin.place.relation, chance(margin));
    margins.iter().map(|(place, margins)| (*place, margins.iter().map(of).collect())).collect()
}

/// What is broken in an answer.
#[derive(Clone, Debug)]
pub struct Odds {
    layers: u32,
    groups: u32,
    lengths: Lengths,
    cells: Chances,
    /// Whether each pick is another than the sampler's, beyond tolerance.
    picks: Vec<bool>,
}

/// How likely a relation with this margin is seen to be broken. A sketch estimates the mean square from so many
/// signs: `chi^2 / SIGNS` about it, whose cube root is nearly normal (Wilson and Hilferty 1931).
pub fn chance(margin: &Margin) -> f64 {
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
        let decodes = self.lengths.first_decode()..self.lengths.positions();
        Odds {
            layers: self.architecture.layers,
            groups: self.architecture.kv_heads,
            lengths: self.lengths,
            cells: chances(&self.margins(), chance),
            picks: decodes.map(|position| self.is_pick_broken(position)).collect(),
        }
    }

    /// The margins of every cell and group.
    pub fn margins(&self) -> Margins {
        let cell = |layer, position, group| Cell {
            layer: LayerIndex::new(layer),
            position: Position::new(position),
            groups: vec![KvGroup::new(group)],
        };
        let mut found = Margins::new();
        for group in 0..self.architecture.kv_heads {
            let of_layer = |layer| (0..self.lengths.positions()).map(move |position| cell(layer, position, group));
            let cells = (0..self.architecture.layers).flat_map(of_layer).collect();
            let challenge = Challenge { cells, decodes: vec![] };
            for margin in margins(self.reference, self.rows, &challenge).expect("the rows are all there") {
                let (Some(layer), Some(position)) = (margin.place.layer, margin.place.position) else { continue };
                found.entry((position.get(), layer.get(), group)).or_default().push(margin);
            }
        }
        found
    }

    fn is_pick_broken(&self, position: u32) -> bool {
        let logits = reference_logits(self.reference, self.rows, Position::new(position)).expect("the row is there");
        let Sampling { temperature, top_k, top_p, seed } = self.sampling;
        assert!(top_k == 0 || top_p >= 1.0, "one cut at a time");
        let tolerance = Tolerance::of(self.profile);
        let slack = |z: f64| tolerance.logit_rel * z.abs() + tolerance.logit_abs;
        let noise = gumbel_noise(seed, Position::new(position), logits.len());
        let index = |number: u32| usize::try_from(number).expect("32 bits fit a usize");
        let served = index(self.output[index(position - self.lengths.first_decode())].get());
        let bounds = |j: usize| (logits[j] - slack(logits[j]), logits[j] + slack(logits[j]));
        // How many others lie above a token, and how much probability, if they are as high and it is as low as tolerance
        // lets them be, or the other way round.
        let others = |token: usize| (0..logits.len()).filter(move |j| *j != token);
        let most_above = |token: usize| others(token).filter(|j| bounds(*j).1 >= bounds(token).0).count();
        let least_above = |token: usize| others(token).filter(|j| bounds(*j).0 > bounds(token).1).count();
        let share = |token: usize, own: f64, others_at: &dyn Fn(usize) -> f64| {
            let weight = |z: f64| ((z - own) / f64::from(temperature)).exp();
            let of = |is_above: bool| {
                let level = others(token).map(others_at).filter(|z| (*z > own) == is_above);
                level.map(weight).sum::<f64>()
            };
            let above = of(true);
            above / (above + 1.0 + of(false))
        };
        let most_before = |token: usize| {
            let own = bounds(token).0;
            share(token, own, &|j| if bounds(j).1 >= own { bounds(j).1 } else { bounds(j).0 })
        };
        let least_before = |token: usize| {
            let own = bounds(token).1;
            share(token, own, &|j| if bounds(j).0 > own { bounds(j).0 } else { bounds(j).1.min(own) })
        };
        let room = if top_k > 0 { index(top_k) } else { logits.len() };
        let is_cut_by_mass = temperature > 0.0 && top_p < 1.0;
        let may_be_allowed =
            |token: usize| least_above(token) < room && (!is_cut_by_mass || least_before(token) < f64::from(top_p));
        let is_surely_allowed =
            |token: usize| most_above(token) < room && (!is_cut_by_mass || most_before(token) < f64::from(top_p));
        let score = |j: usize, sign: f64| {
            let logit = logits[j] + sign * slack(logits[j]);
            if temperature == 0.0 { logit } else { logit / f64::from(temperature) + noise[j] }
        };
        let beats = |j: &usize| score(*j, -1.0) > score(served, 1.0);
        !may_be_allowed(served) || others(served).filter(beats).any(is_surely_allowed)
    }
}

/// How likely a list of relations shows nothing.
fn missed(chances: &[(Option<Relation>, f64)]) -> f64 {
    chances.iter().map(|(_, chance)| 1.0 - chance).product()
}

impl Odds {
    /// Those of an answer of the same length and the same picks with other margins.
    #[must_use]
    pub fn with_margins(&self, margins: &Margins, chance: impl Fn(&Margin) -> f64) -> Self {
        Self { cells: chances(margins, chance), ..self.clone() }
    }

    /// How likely a cell shows nothing when it is drawn, over the group that is drawn with it.
    fn cell_missed(&self, layer: u32, position: u32) -> f64 {
        let missed: f64 = (0..self.groups).map(|group| missed(&self.cells[&(position, layer, group)])).sum();
        missed / f64::from(self.groups)
    }

    /// The mean over the cells at these positions.
    fn share(&self, positions: Range<u32>) -> f64 {
        let cells = f64::from(positions.end - positions.start) * f64::from(self.layers);
        let at = |position| (0..self.layers).map(move |layer| 1.0 - self.cell_missed(layer, position));
        positions.flat_map(at).sum::<f64>() / cells
    }

    /// How likely a column drawn from these positions shows nothing.
    fn column_missed(&self, positions: Range<u32>) -> f64 {
        let count = f64::from(positions.end - positions.start);
        let held = |at| (0..self.layers).map(|layer| self.cell_missed(layer, at)).product::<f64>();
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
        let parts =
            [0..prompt, if prompt < all { prompt..all } else { 0..prompt }].map(|part| self.column_missed(part));
        let columns = columns.map_or(1.0, |Columns { count, one_in }| {
            let begun = |turn| parts.iter().cycle().skip(turn).zip(0..count.get()).map(|(missed, _)| missed).product();
            let missed: [f64; 2] = [0, 1].map(begun);
            1.0 - (1.0 - f64::midpoint(missed[0], missed[1])) / f64::from(one_in.get())
        });
        let broken = |picks: &[bool]| picks.iter().map(|pick| f64::from(u8::from(*pick))).sum::<f64>();
        let last = broken(&self.picks[self.picks.len() - 1..]);
        let uniform = broken(&self.picks) / f64::from(all - self.lengths.first_decode());
        let others = (1..decodes).map(|_| 1.0 - uniform).product::<f64>();
        1.0 - cells * columns * (1.0 - last) * others
    }

    /// Holds [`Self::caught`] against so many draws, of which none needs a proof.
    ///
    /// # Panics
    /// If their mean is off by more than five deviations.
    pub fn check_draws(&self, policy: &Policy, architecture: &Architecture) {
        const DRAWS: u32 = 20_000;
        let chance = |number: u32| {
            let seed = blake3::hash(&number.to_le_bytes());
            self.caught_by(&Challenge::derive(seed.as_bytes(), policy, architecture, self.lengths))
        };
        let chances: Vec<f64> = (0..DRAWS).map(chance).collect();
        let mean = |of: &dyn Fn(f64) -> f64| chances.iter().map(|chance| of(*chance)).sum::<f64>() / f64::from(DRAWS);
        let drawn = mean(&|chance| chance);
        let expected = self.caught(policy);
        // Of what is rare, the draws may have none.
        let variance = mean(&|chance| (chance - drawn).powi(2)).max(expected * (1.0 - expected));
        let off = (drawn - expected).abs();
        assert!(off <= 5.0 * (variance / f64::from(DRAWS)).sqrt() + 1e-6, "{policy:?}: {drawn}, off by {off}");
    }

    /// Whether a cell is more likely than not to be found broken when it is drawn.
    pub fn is_broken(&self, layer: LayerIndex, position: Position) -> bool {
        self.cell_missed(layer.get(), position.get()) < 0.5
    }

    fn is_pick_broken(&self, position: Position) -> bool {
        self.picks[usize::try_from(position.get() - self.lengths.first_decode()).expect("32 bits fit a usize")]
    }

    /// How likely this very draw finds something.
    fn caught_by(&self, challenge: &Challenge) -> f64 {
        let cell = |cell: &Cell| -> f64 {
            let of = |group: &KvGroup| missed(&self.cells[&(cell.position.get(), cell.layer.get(), group.get())]);
            cell.groups.iter().map(of).product()
        };
        let picks = challenge.decodes.iter().any(|position| self.is_pick_broken(*position));
        if picks { 1.0 } else { 1.0 - challenge.cells.iter().map(cell).product::<f64>() }
    }

    /// Whether what a verdict names is broken, in an audit that finds something with this chance.
    fn explains(&self, failure: &Failure, chance: f64) -> bool {
        let place = &failure.place;
        match (place.stage, place.layer, place.position) {
            (Stage::Cell, Some(layer), Some(position)) => {
                let groups = (0..self.groups).filter(|group| place.group.is_none_or(|named| named.get() == *group));
                let mut of = groups.flat_map(|group| &self.cells[&(position.get(), layer.get(), group)]);
                of.any(|(relation, chance)| *relation == place.relation && *chance > IMPOSSIBLE)
            }
            (Stage::Decode, _, Some(position)) => self.is_pick_broken(position),
            // Of rows that leave the range of every product there is no proof.
            (Stage::Stream, ..) => failure.reason == Reason::ProofAbsent && chance > IMPOSSIBLE,
            _ => false,
        }
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

/// A chance below which nothing happens, and above whose complement it must.
const IMPOSSIBLE: f64 = 1e-9;

/// Audits of one execution, each held against what its own draw had to find.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    audits: f64,
    caught: f64,
    expected: f64,
    variance: f64,
}

impl Tally {
    /// Counts an audit.
    ///
    /// # Panics
    /// If it found what is not broken, or accepted what its draw showed to be.
    pub fn count(&mut self, odds: &Odds, judgement: &Judgement) {
        let challenge = judgement.report.challenge.as_ref().expect("a proof was judged");
        let chance = odds.caught_by(challenge);
        let caught = match judgement.verdict {
            Verdict::Accepted => 0.0,
            Verdict::Rejected(failure) => {
                assert!(odds.explains(&failure, chance), "{failure:?}, which holds");
                1.0
            }
            Verdict::Inconclusive(fault) => panic!("{fault:?}"),
        };
        assert!((caught - chance).abs() < 1.0 - IMPOSSIBLE, "found with {chance} by {challenge:?}: {caught}");
        self.audits += 1.0;
        self.caught += caught;
        self.expected += chance;
        self.variance += chance * (1.0 - chance);
    }

    /// The share of audits that found something.
    ///
    /// # Panics
    /// If it is farther than four deviations from what the draws had to find.
    pub fn share(&self) -> f64 {
        let off = (self.caught - self.expected).abs();
        assert!(off <= 4.0 * self.variance.sqrt() + 1e-6 * self.audits, "{self:?}");
        self.caught / self.audits
    }
}
