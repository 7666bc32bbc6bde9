//! Weights of fewer bits: the same everywhere, in a part of the model, and as a search finds them best.

use std::collections::BTreeMap;

use assay_audit::model::ModelTensors;
use assay_audit::policy::Policy;
use assay_audit::verdict::{Margin, Reason, Relation};
use assay_commitments::manifest::Matrix;
use assay_commitments::rows::round_bf16;
use assay_tests::odds::{Margins, Odds};
use rayon::prelude::*;

use crate::cheats::{Forger, LAYERS, Saves, Work, answered};
use crate::forward::{Forward, Picks, straight};
use crate::stored::{OTHER_VERSES, OUTPUT, Stored, VERSE, checkpoint, honest, sampling, tokens};

/// Weights of another value can show in every relation that has a product.
const PRODUCTS: &[Reason] = &[Reason::C3, Reason::C4, Reason::C5, Reason::C6, Reason::C9];

/// Bits of a weight, by layer and matrix; 16 is what the checkpoint has.
type Bits = [[u32; 7]; 4];
/// The curve of the mixes that a search finds.
pub(crate) const SEARCHED: &str = "bits by layer and matrix";
const FULL: Bits = [[16; 7]; 4];
/// The fewest bits.
const FEWEST: u32 = 4;

/// Weights of so many bits with one scale of 16 bits for 32 inputs of an output.
fn to_bits(weights: &mut [f32], bits: u32) {
    if bits >= 16 {
        return;
    }
    #[expect(clippy::cast_precision_loss, reason = "below 2^15")]
    let top = ((1_u32 << (bits - 1)) - 1) as f32;
    for group in weights.chunks_mut(32) {
        let scale = group.iter().fold(0.0_f32, |largest, weight| largest.max(weight.abs())) / top;
        if scale > 0.0 {
            group.iter_mut().for_each(|weight| *weight = round_bf16((*weight / scale).round_ties_even() * scale));
        }
    }
}

fn mixed(bits: &Bits) -> ModelTensors {
    let mut tensors = checkpoint().tensors.clone();
    for (layer, bits) in tensors.layers.iter_mut().zip(bits) {
        for (matrix, bits) in layer.matrices.iter_mut().zip(bits) {
            to_bits(matrix, *bits);
        }
    }
    tensors
}

/// The share of all weight bytes that a mix leaves out.
fn lighter(bits: &Bits) -> f64 {
    let cost = |bits: u32| if bits >= 16 { 1.0 } else { (f64::from(bits) + 0.5) / 16.0 };
    let saved: f64 = bits
        .iter()
        .flat_map(|layer| Matrix::ALL.into_iter().zip(layer))
        .map(|(matrix, bits)| Work::matrix(matrix) * (1.0 - cost(*bits)))
        .sum();
    let layers: f64 = Matrix::ALL.into_iter().map(Work::matrix).sum();
    saved / (f64::from(LAYERS) * layers + Work::head())
}

/// The answer to `prompt` of weights of so many bits.
fn answer(prompt: &str, bits: &Bits) -> Stored {
    let tensors = mixed(bits);
    let picks = Picks::Sampled(sampling(1), OUTPUT);
    answered(&Forward { tensors: &tensors, ..honest() }.run(&tokens(prompt), picks, &straight))
}

/// How likely a default audit is to find it out.
fn caught(prompt: &str, bits: &Bits) -> f64 {
    answer(prompt, bits).odds().caught(&Policy::DEFAULT)
}

fn forger(curve: &'static str, does: String, bits: &Bits, reasons: &'static [Reason]) -> Forger {
    Forger { curve, does, saves: Saves::Weights, share: lighter(bits), reasons, stored: answer(VERSE, bits) }
}

/// Weights of fewer bits, in one matrix of one layer up to all.
pub(crate) fn mixes() -> Vec<Forger> {
    let mut forgers = vec![];
    for bits in [13, 12, 11, 10, 9, 8, 6, 4] {
        let does = format!("{bits} bits in every matrix");
        forgers.push(forger("fewer bits everywhere", does, &[[bits; 7]; 4], PRODUCTS));
    }
    for (bits, curve) in [(8, "8 bits in some layers"), (4, "4 bits in some layers")] {
        for count in 1..4 {
            let mut mix = FULL;
            mix[4 - count..].fill([bits; 7]);
            forgers.push(forger(curve, format!("{bits} bits in {count} of 4 layers"), &mix, PRODUCTS));
        }
    }
    let names: [(&str, &'static [Reason]); 7] = [
        ("q", &[Reason::C5]),
        ("k", &[Reason::C3]),
        ("v", &[Reason::C4]),
        ("o", &[Reason::C6]),
        ("gate", &[Reason::C9]),
        ("up", &[Reason::C9]),
        ("down", &[Reason::C9]),
    ];
    for (matrix, (name, reasons)) in Matrix::ALL.into_iter().zip(names) {
        let mut mix = FULL;
        mix[2][matrix.index()] = 8;
        forgers.push(forger(
            "8 bits in one matrix",
            format!("8 bits in the {name} projection of one layer"),
            &mix,
            reasons,
        ));
    }
    forgers
}

/// The relation in which a matrix shows.
const fn relation(matrix: Matrix) -> Relation {
    match matrix {
        Matrix::Q => Relation::C5,
        Matrix::K => Relation::C3,
        Matrix::V => Relation::C4,
        Matrix::O => Relation::C6,
        Matrix::Gate | Matrix::Up | Matrix::Down => Relation::C9,
    }
}

/// Guesses the odds of a mix. Relations start from committed rows, so that a matrix shows in its own cells alone, and
/// mean squares of roundings that have nothing to do with each other add up.
struct Forecast {
    odds: Odds,
    full: Margins,
    /// With one matrix of every layer at these bits.
    alone: BTreeMap<(Matrix, u32), Margins>,
}

impl Forecast {
    fn new() -> Self {
        let margins = |bits: &Bits| answer(VERSE, bits).execution(sampling(1), |execution| execution.margins());
        let alone = |(matrix, bits): (Matrix, u32)| {
            let mut mix = FULL;
            mix.iter_mut().for_each(|layer| layer[matrix.index()] = bits);
            ((matrix, bits), margins(&mix))
        };
        let all: Vec<_> =
            Matrix::ALL.into_iter().flat_map(|matrix| (FEWEST..=16).map(move |bits| (matrix, bits))).collect();
        Self {
            odds: answer(VERSE, &FULL).odds(),
            full: margins(&FULL),
            alone: all.into_par_iter().map(alone).collect(),
        }
    }

    /// How likely a default audit is to find the mix, as far as can be told without its rows.
    fn caught(&self, mix: &Bits) -> f64 {
        let mut guess = self.full.clone();
        for (place, margins) in &mut guess {
            let full = &self.full[place];
            let layer = mix[usize::try_from(place.1).unwrap()];
            for (matrix, bits) in Matrix::ALL.into_iter().zip(layer) {
                let alone = &self.alone[&(matrix, bits)][place];
                for ((margin, alone), full) in margins.iter_mut().zip(alone).zip(full) {
                    if margin.place.relation == Some(relation(matrix)) {
                        margin.ratio += alone.ratio - full.ratio;
                    }
                }
            }
        }
        self.odds.with_margins(&guess, risk).caught(&Policy::DEFAULT)
    }
}

/// How likely a guessed margin turns out to be above 1: guesses are off by a third.
fn risk(margin: &Margin) -> f64 {
    const SPREAD: f64 = 0.3;
    libm::erfc(-libm::log(margin.ratio.max(f64::MIN_POSITIVE)) / SPREAD / std::f64::consts::SQRT_2) / 2.0
}

/// What audits find more often is found for sure.
pub(crate) const SURE: f64 = 0.99;

/// A mix, with how likely a default audit is to find it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mix {
    bits: Bits,
    /// What it saves of the weights.
    pub(crate) share: f64,
    pub(crate) caught: f64,
}

impl Mix {
    fn new(bits: Bits) -> Self {
        Self { bits, share: lighter(&bits), caught: caught(VERSE, &bits) }
    }
}

/// Takes a bit from one matrix after the other, each time where the chance to be found grows least for the bytes saved:
/// of the four matrices where the forecast says so, the best by the odds themselves. Where it sees nothing grow, the first
/// will do.
fn descent(forecast: &Forecast, start: Bits) -> Vec<Mix> {
    const TRIED: usize = 4;
    const NOTHING: f64 = 1e-2;
    let mut now = Mix::new(start);
    let mut found = vec![now];
    while now.caught < SURE {
        let before = forecast.caught(&now.bits);
        let places = (0..4).flat_map(|layer| (0..7).map(move |matrix| (layer, matrix)));
        let lower = |(layer, matrix): (usize, usize)| {
            let mut bits = now.bits;
            bits[layer][matrix] -= 1;
            ((forecast.caught(&bits) - before) / (lighter(&bits) - now.share), bits)
        };
        let mut steps: Vec<_> =
            places.filter(|(layer, matrix)| now.bits[*layer][*matrix] > FEWEST).map(lower).collect();
        steps.sort_by(|a, b| a.0.total_cmp(&b.0));
        let is_free = steps.first().is_some_and(|(price, _)| *price < NOTHING);
        steps.truncate(if is_free { 1 } else { TRIED });
        let tried: Vec<Mix> = steps.into_par_iter().map(|(_, bits)| Mix::new(bits)).collect();
        let price = |mix: &Mix| (mix.caught - now.caught) / (mix.share - now.share);
        let Some(best) = tried.iter().min_by(|a, b| price(a).total_cmp(&price(b))).copied() else { break };
        found.extend(tried);
        now = best;
    }
    found
}

/// Mixes of which none saves more and is found no more often, the lightest first: of all that a search tries from full
/// precision, and from one to three layers of the fewest bits.
pub(crate) fn frontier() -> Vec<Mix> {
    let forecast = Forecast::new();
    let start = |layers: usize| {
        let mut start = FULL;
        start[4 - layers..].fill([FEWEST; 7]);
        start
    };
    let mut mixes: Vec<Mix> = (0..4).flat_map(|layers| descent(&forecast, start(layers))).collect();
    mixes.sort_by(|a, b| b.share.total_cmp(&a.share).then(a.caught.total_cmp(&b.caught)).then(a.bits.cmp(&b.bits)));
    let mut least = f64::INFINITY;
    mixes.retain(|mix| {
        let is_better = mix.caught < least;
        least = least.min(mix.caught);
        is_better
    });
    mixes
}

/// Of a frontier the mixes that save most where default audits may find so many of a hundred.
fn lightest(frontier: &[Mix]) -> Vec<(String, Bits)> {
    let most = [0.001, 0.1, 5.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0, 95.0, 99.0];
    let of = |most: f64| {
        let Mix { bits, .. } = frontier.iter().find(|mix| mix.caught <= most / 100.0).unwrap();
        let all = || bits.iter().flatten();
        let (fewest, largest) = (all().min().unwrap(), all().max().unwrap());
        (format!("{fewest} to {largest} bits, the lightest mix that at most {most} % of default audits find"), *bits)
    };
    most.map(of).into()
}

pub(crate) fn searched(frontier: &[Mix]) -> Vec<Forger> {
    lightest(frontier).into_iter().map(|(does, bits)| forger(SEARCHED, does, &bits, PRODUCTS)).collect()
}

/// What becomes of a mix in other answers than that for which it was chosen.
pub(crate) struct Elsewhere {
    pub(crate) does: String,
    pub(crate) share: f64,
    /// How likely a default audit is to find it, there and in two others.
    pub(crate) caught: [f64; 3],
}

/// Mixes that a search found, and bits that are the same everywhere.
pub(crate) fn elsewhere(frontier: &[Mix]) -> Vec<Elsewhere> {
    let [moses, shepherd] = OTHER_VERSES;
    let of = |(does, bits): (String, Bits)| {
        let caught = [VERSE, moses, shepherd].map(|prompt| caught(prompt, &bits));
        Elsewhere { does, share: lighter(&bits), caught }
    };
    let uniform = [13, 12, 11].map(|bits| (format!("{bits} bits in every matrix"), [[bits; 7]; 4]));
    uniform.into_iter().chain(lightest(frontier)).map(of).collect()
}
