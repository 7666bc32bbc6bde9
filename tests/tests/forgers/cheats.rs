//! Cheats that save something, each with what it saves.

use assay_audit::sampling::gumbel_noise;
use assay_audit::tolerance::Tolerance;
use assay_audit::verdict::Reason;
use assay_commitments::manifest::Matrix;
use assay_commitments::trace::{FinishReason, TreeId};
use assay_commitments::{LayerIndex, Position, TokenId};
use assay_llm_runtime::quantize::{self, Format};
use assay_tamper::Random;

use crate::forward::{Bend, Forward, Left, Picks, Point, straight};
use crate::stored::{OUTPUT, Stored, VERSE, checkpoint, honest, sampling, tokens};

/// The fixture's stop token.
const STOP: TokenId = TokenId::new(1);
/// Layers of the fixture.
pub(crate) const LAYERS: u32 = 4;

/// What a cheat saves a share of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Saves {
    /// Multiply-adds of the honest answer.
    Work,
    /// Bytes of weights in memory, lm_head counted.
    Weights,
    /// Bytes of cached keys and values.
    Cache,
}

/// A cheat.
pub(crate) struct Forger {
    /// Cheats of one kind that save more or less are a curve.
    pub(crate) curve: &'static str,
    pub(crate) does: String,
    pub(crate) saves: Saves,
    pub(crate) share: f64,
    /// Why it may be rejected.
    pub(crate) reasons: &'static [Reason],
    pub(crate) stored: Stored,
}

fn index(number: u32) -> usize {
    usize::try_from(number).unwrap()
}

#[expect(clippy::cast_precision_loss, reason = "the fixture is small")]
pub(crate) fn real(number: usize) -> f64 {
    number as f64
}

/// Multiply-adds.
pub(crate) struct Work;

impl Work {
    pub(crate) fn matrix(matrix: Matrix) -> f64 {
        let shape = checkpoint().architecture.shape(matrix);
        f64::from(shape.inputs) * f64::from(shape.outputs)
    }

    /// Of one head over the vocabulary.
    pub(crate) fn head() -> f64 {
        f64::from(checkpoint().architecture.vocab_size) * f64::from(checkpoint().architecture.hidden)
    }

    fn attention(position: usize) -> f64 {
        2.0 * Self::matrix(Matrix::Q) / f64::from(checkpoint().architecture.hidden) * real(position + 1)
    }

    /// Of one layer at a position.
    fn cell(position: usize) -> f64 {
        Matrix::ALL.into_iter().map(Self::matrix).sum::<f64>() + Self::attention(position)
    }

    /// Of an honest answer to `prompt` tokens.
    fn honest(prompt: usize, output: usize) -> f64 {
        let cells: f64 = (0..prompt + output - 1).map(Self::cell).sum();
        f64::from(LAYERS) * cells + real(output) * Self::head()
    }
}

pub(crate) fn answered(left: &Left) -> Stored {
    Stored::new(left, FinishReason::Length)
}

/// The honest answer.
pub(crate) fn plain(seed: u64) -> Left {
    honest().run(&tokens(VERSE), Picks::Sampled(sampling(seed), OUTPUT), &straight)
}

/// The prompt with `count` other tokens, evenly spread.
fn differing(prompt: &[TokenId], count: usize) -> Vec<TokenId> {
    let mut other = prompt.to_vec();
    for number in 0..count {
        let place = (2 * number + 1) * prompt.len() / (2 * count);
        other[place] = TokenId::new(300 + (other[place].get() + 1) % 700);
    }
    other
}

/// Layers from `cut` on taken from a stored execution, at the positions below `end`.
fn cut(stored: &Left, cut: u32, positions: std::ops::Range<usize>) -> Stored {
    let behind = &stored.rows[&TreeId::H(LayerIndex::new(cut))];
    let bend = |point: Point, position: usize, row: &mut [f64]| {
        if point == Point::Stream(cut) && positions.contains(&position) {
            row.copy_from_slice(&behind[position]);
        }
    };
    answered(&honest().run(&tokens(VERSE), Picks::Sampled(sampling(1), OUTPUT), &bend))
}

/// What is saved by taking layers from `cut` on from a store.
fn saved_behind(cut: u32, positions: std::ops::Range<usize>) -> f64 {
    f64::from(LAYERS - cut) * positions.map(Work::cell).sum::<f64>() / Work::honest(tokens(VERSE).len(), OUTPUT)
}

/// Stored rows behind one layer's cells.
pub(crate) fn cuts() -> Vec<Forger> {
    let prompt = tokens(VERSE);
    let end = prompt.len() + OUTPUT - 1;
    let mut forgers = vec![];
    // What a layer computes from other rows than those committed before it begins with other keys.
    let mut push = |curve, does: String, share, stored| {
        forgers.push(Forger { curve, does, saves: Saves::Work, share, reasons: &[Reason::C3], stored });
    };
    for count in [1, 2, 5, prompt.len()] {
        let other = honest().run(&differing(&prompt, count), Picks::Sampled(sampling(1), OUTPUT), &straight);
        let does = format!("a stored prompt with {count} of {} tokens other, behind the first layer", prompt.len());
        push("stored prompt", does, saved_behind(0, 0..prompt.len()), cut(&other, 0, 0..prompt.len()));
    }
    let other = honest().run(&differing(&prompt, prompt.len()), Picks::Sampled(sampling(2), OUTPUT), &straight);
    for layer in 1..LAYERS {
        let does = format!("another stored prompt, behind layer {layer}; the layers before it honest");
        push(
            "stored prompt, cut deeper",
            does,
            saved_behind(layer, 0..prompt.len()),
            cut(&other, layer, 0..prompt.len()),
        );
    }
    let same = plain(2);
    let does = "the rows of an earlier answer to the prompt behind the first layer, tokens picked anew".to_owned();
    push("stored rollout", does, saved_behind(0, prompt.len()..end), cut(&same, 0, prompt.len()..end));
    let does = "the rows of another question and its answer behind the first layer, tokens picked anew".to_owned();
    push("stored rollout", does, saved_behind(0, 0..end), cut(&other, 0, 0..end));
    let does = "the same, but the last position honest over the stored cache".to_owned();
    push("stored rollout, last honest", does, saved_behind(0, 0..end - 1), cut(&other, 0, 0..end - 1));
    let does = "an earlier answer to the same prompt, under another seed".to_owned();
    let replayed = honest().run(&prompt, Picks::Forced(&same.output), &straight);
    let reasons = &[Reason::WrongToken];
    forgers.push(Forger {
        curve: "replay",
        does,
        saves: Saves::Work,
        share: 1.0,
        reasons,
        stored: answered(&replayed),
    });
    forgers
}

/// What the first two layers alone answer.
pub(crate) fn written() -> Vec<TokenId> {
    let mut small = checkpoint().tensors.clone();
    for layer in &mut small.layers[2..] {
        layer.matrices[Matrix::O.index()].fill(0.0);
        layer.matrices[Matrix::Down.index()].fill(0.0);
    }
    let pass = Forward { tensors: &small, ..honest() };
    pass.run(&tokens(VERSE), Picks::Sampled(sampling(1), OUTPUT), &straight).output
}

/// Answers that others wrote, or that end early.
pub(crate) fn answers() -> Vec<Forger> {
    let prompt = tokens(VERSE);
    let honest_answer = plain(1);
    let forced = |output: &[TokenId]| honest().run(&prompt, Picks::Forced(output), &straight);
    let stop_at = likeliest_stop(&honest_answer, 1);
    let mut stopped = honest_answer.output[..stop_at].to_vec();
    stopped.push(STOP);
    let whole = Work::honest(prompt.len(), OUTPUT);
    vec![
        Forger {
            curve: "small writer",
            does: "the first two layers write, the whole model leaves the rows: no work less, but no decoding"
                .to_owned(),
            saves: Saves::Work,
            share: 0.0,
            reasons: &[Reason::WrongToken],
            stored: answered(&forced(&written())),
        },
        Forger {
            curve: "early stop",
            does: format!("a stop token after {stop_at} of {OUTPUT} tokens, where it comes nearest to being picked"),
            saves: Saves::Work,
            share: 1.0 - Work::honest(prompt.len(), stop_at + 1) / whole,
            reasons: &[Reason::WrongToken],
            stored: Stored::new(&forced(&stopped), FinishReason::StopToken),
        },
    ]
}

/// By how much the stop token misses being picked, at each output token.
fn stop_deficits(left: &Left, seed: u64) -> Vec<f64> {
    let first = left.prompt.len() - 1;
    let deficit = |(number, logits): (usize, &Vec<f32>)| {
        let position = Position::new(u32::try_from(first + number).unwrap());
        let noise = gumbel_noise(seed, position, logits.len());
        let scores: Vec<f64> =
            logits.iter().zip(noise).map(|(z, g)| f64::from(*z) / f64::from(sampling(seed).temperature) + g).collect();
        scores.iter().copied().fold(f64::NEG_INFINITY, f64::max) - scores[index(STOP.get())]
    };
    left.logits.iter().enumerate().map(deficit).collect()
}

/// The output token in whose place the stop token comes nearest to being picked.
fn likeliest_stop(left: &Left, seed: u64) -> usize {
    let deficits = stop_deficits(left, seed);
    (0..deficits.len() - 1).min_by(|a, b| deficits[*a].total_cmp(&deficits[*b])).unwrap()
}

/// Of so many seeds, the stops that are not picked and yet within the tolerance of a pick, and all output tokens.
pub(crate) fn free_stops(seeds: u64) -> (usize, usize) {
    let left = plain(1);
    let Tolerance { logit_rel, logit_abs, .. } = Tolerance::of(checkpoint().profile);
    // Both logits off, each of which is 20 at most.
    let most = 2.0 * (logit_abs + logit_rel * 20.0) / f64::from(sampling(1).temperature);
    let is_free = |deficit: &f64| *deficit > 0.0 && *deficit < most;
    let free =
        (0..seeds).map(|seed| stop_deficits(&left, seed).iter().filter(|deficit| is_free(deficit)).count()).sum();
    (free, left.logits.len() * usize::try_from(seeds).unwrap())
}

/// Which cells are left out.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Among {
    All,
    Prompt,
    Output,
}

/// Zeros in place of what a share of the cells adds; keys and values are computed everywhere.
pub(crate) fn replaced() -> Vec<Forger> {
    let prompt = tokens(VERSE);
    let end = prompt.len() + OUTPUT - 1;
    let mut forgers = vec![];
    for (among, curve, name) in [
        (Among::All, "cells left out", "of the cells"),
        (Among::Prompt, "cells left out in the prompt", "of the prompt's cells"),
        (Among::Output, "cells left out in the answer", "of the answer's cells, the last position apart,"),
    ] {
        let positions = match among {
            Among::All => 0..end,
            Among::Prompt => 0..prompt.len(),
            Among::Output => prompt.len()..end - 1,
        };
        let mut cells: Vec<(u32, usize)> =
            positions.flat_map(|position| (0..LAYERS).map(move |layer| (layer, position))).collect();
        let mut random = Random::new(11);
        for place in (1..cells.len()).rev() {
            cells.swap(place, random.below(place + 1));
        }
        for parts in [32, 16, 8, 4, 2, 1] {
            let left_out = &cells[..cells.len().div_ceil(parts)];
            let bend = |point: Point, position: usize, row: &mut [f64]| {
                if let Point::A(layer) | Point::O(layer) | Point::M(layer) = point
                    && left_out.contains(&(layer, position))
                {
                    row.fill(0.0);
                }
            };
            let left = honest().run(&prompt, Picks::Sampled(sampling(1), OUTPUT), &bend);
            let kept = Work::matrix(Matrix::K) + Work::matrix(Matrix::V);
            let saved: f64 = left_out.iter().map(|(_, position)| Work::cell(*position) - kept).sum();
            forgers.push(Forger {
                curve,
                does: format!("{} {name} left out", if parts == 1 { "all".to_owned() } else { format!("1/{parts}") }),
                saves: Saves::Work,
                share: saved / Work::honest(prompt.len(), OUTPUT),
                reasons: &[Reason::C5, Reason::C9],
                stored: answered(&left),
            });
        }
    }
    forgers
}

/// Keys and values of lower precision.
pub(crate) fn caches() -> Vec<Forger> {
    let formats = [(Format::Int8Channel, "int8", 0.5), (Format::Fp8, "fp8", 0.5), (Format::Int4Group32, "int4", 0.75)];
    let mut forgers = vec![];
    for (format, name, share) in formats {
        for is_committed in [false, true] {
            let bend = |point: Point, _: usize, row: &mut [f64]| {
                let is_here = matches!(point, Point::Cache(..)) && is_committed
                    || matches!(point, Point::Seen(..)) && !is_committed;
                if is_here {
                    let width = row.len() / 2;
                    row.chunks_mut(width).for_each(|head| lower(head, format));
                }
            };
            let (rows, reasons): (_, &[Reason]) = if is_committed {
                ("the rounded rows committed", &[Reason::C3, Reason::C4])
            } else {
                ("the exact rows committed", &[Reason::C5])
            };
            forgers.push(Forger {
                curve: "quantised cache",
                does: format!("a cache of {name}, one scale a head, {rows}"),
                saves: Saves::Cache,
                share,
                reasons,
                stored: answered(&bent(&bend)),
            });
        }
    }
    forgers
}

#[expect(clippy::cast_possible_truncation, reason = "a row holds numbers of bf16")]
fn lower(head: &mut [f64], format: Format) {
    let mut weights: Vec<f32> = head.iter().map(|value| *value as f32).collect();
    let inputs = weights.len();
    quantize::matrix(&mut weights, inputs, format);
    head.iter_mut().zip(weights).for_each(|(value, weight)| *value = f64::from(weight));
}

fn bent(bend: Bend<'_>) -> Left {
    honest().run(&tokens(VERSE), Picks::Sampled(sampling(1), OUTPUT), bend)
}
