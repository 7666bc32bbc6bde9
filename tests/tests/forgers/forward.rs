//! A forward pass in plain loops that can be bent at every point: what a miner would leave that keeps, skips,
//! moves or replays whatever it likes. Untouched, its rows are as good as the runtime's.

use std::collections::BTreeMap;

use assay_audit::model::ModelTensors;
use assay_audit::sampling::{Sampling, sample};
use assay_commitments::manifest::{Architecture, Matrix, Small};
use assay_commitments::rows::Profile;
use assay_commitments::trace::TreeId;
use assay_commitments::{KvGroup, LayerIndex, Position, TokenId};

/// Where a pass can be bent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Point {
    /// The stream as a layer goes on with it; committed is what was there before.
    Stream(u32),
    /// A group's key and value, as committed.
    Cache(u32, u32),
    /// A group's key and value, as attention sees them.
    Seen(u32, u32),
    /// The attention output.
    A(u32),
    /// The attention branch.
    O(u32),
    /// The MLP branch.
    M(u32),
}

/// Changes a row at a position.
pub(crate) type Bend<'a> = &'a dyn Fn(Point, usize, &mut [f64]);

/// Changes nothing.
pub(crate) fn straight(_: Point, _: usize, _: &mut [f64]) {}

/// How an answer comes about.
#[derive(Clone, Copy)]
pub(crate) enum Picks<'a> {
    /// So many tokens from the logits.
    Sampled(Sampling, usize),
    /// These tokens.
    Forced(&'a [TokenId]),
}

/// What a pass leaves behind.
#[derive(Clone, Debug)]
pub(crate) struct Left {
    pub(crate) prompt: Vec<TokenId>,
    pub(crate) output: Vec<TokenId>,
    /// Committed rows, by position.
    pub(crate) rows: BTreeMap<TreeId, Vec<Vec<f64>>>,
    /// The logits behind each output token.
    pub(crate) logits: Vec<Vec<f32>>,
}

/// Weights as a pass takes them.
#[derive(Clone, Copy)]
pub(crate) struct Forward<'a> {
    pub(crate) architecture: &'a Architecture,
    pub(crate) tensors: &'a ModelTensors,
    pub(crate) profile: Profile,
}

fn size(number: u32) -> usize {
    usize::try_from(number).unwrap()
}

impl Forward<'_> {
    fn rounded(&self, mut row: Vec<f64>) -> Vec<f64> {
        row.iter_mut().for_each(|value| *value = self.profile.round_once(*value));
        row
    }

    fn product(&self, layer: usize, matrix: Matrix, x: &[f64]) -> Vec<f64> {
        let weights = &self.tensors.layers[layer].matrices[matrix.index()];
        self.rounded(products(weights, x))
    }

    fn norm(&self, x: &[f64], weights: &[f32]) -> Vec<f64> {
        let mean = x.iter().map(|x| x * x).sum::<f64>() / size_real(x.len());
        let scale = 1.0 / (mean + f64::from(self.architecture.norm_eps)).sqrt();
        self.rounded(x.iter().zip(weights).map(|(x, weight)| x * scale * f64::from(*weight)).collect())
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "the profile's angle is f32")]
    fn rope(&self, heads: &[f64], position: usize) -> Vec<f64> {
        let head_dim = size(self.architecture.head_dim);
        let turned = heads.chunks(head_dim).flat_map(|head| {
            let (low, high) = head.split_at(head_dim / 2);
            let turns: Vec<(f64, f64)> = self
                .architecture
                .inverse_frequencies
                .iter()
                .map(|frequency| {
                    let angle = f64::from(position as f32 * frequency);
                    (f64::from(libm::cos(angle) as f32), f64::from(libm::sin(angle) as f32))
                })
                .collect();
            let pairs = || low.iter().zip(high).zip(&turns);
            let front = pairs().map(|((low, high), (cos, sin))| low * cos - high * sin);
            let back = pairs().map(|((low, high), (cos, sin))| high * cos + low * sin);
            front.chain(back).collect::<Vec<f64>>()
        });
        self.rounded(turned.collect())
    }

    /// The logits after a last residual row.
    #[expect(clippy::cast_possible_truncation, reason = "a runtime's logits are f32")]
    pub(crate) fn logits(&self, h: &[f64]) -> Vec<f32> {
        let x = self.norm(h, &self.tensors.final_norm);
        products(self.tensors.head(), &x).into_iter().map(|logit| logit as f32).collect()
    }

    /// The input of a layer's projections of queries, keys and values.
    fn attention_input(&self, layer: usize, h: &[f64]) -> Vec<f64> {
        self.norm(h, self.tensors.layers[layer].small.get(Small::InputNorm))
    }

    /// The queries of a layer, from the stream that enters it.
    pub(crate) fn queries(&self, number: u32, position: usize, h: &[f64]) -> Vec<f64> {
        let layer = size(number);
        self.rope(&self.product(layer, Matrix::Q, &self.attention_input(layer, h)), position)
    }

    /// What a layer gives, from the stream that enters it and its attention output.
    pub(crate) fn after_attention(
        &self,
        number: u32,
        position: usize,
        [h, a]: [&[f64]; 2],
        bend: Bend<'_>,
        keep: &mut dyn FnMut(TreeId, &[f64]),
    ) -> Vec<f64> {
        let (layer, at) = (size(number), LayerIndex::new(number));
        let mut o = self.product(layer, Matrix::O, a);
        bend(Point::O(number), position, &mut o);
        let o = self.rounded(o);
        keep(TreeId::O(at), &o);
        let h = self.rounded(h.iter().zip(&o).map(|(h, o)| h + o).collect());
        let x = self.norm(&h, self.tensors.layers[layer].small.get(Small::PostNorm));
        let gate = self.product(layer, Matrix::Gate, &x);
        let up = self.product(layer, Matrix::Up, &x);
        let silu = self.rounded(gate.iter().map(|gate| gate / (1.0 + libm::exp(-gate))).collect());
        let active = self.rounded(silu.iter().zip(&up).map(|(silu, up)| silu * up).collect());
        let mut m = self.product(layer, Matrix::Down, &active);
        bend(Point::M(number), position, &mut m);
        let m = self.rounded(m);
        keep(TreeId::M(at), &m);
        self.rounded(h.iter().zip(&m).map(|(h, m)| h + m).collect())
    }

    /// Runs a prompt and answers it.
    pub(crate) fn run(&self, prompt: &[TokenId], picks: Picks<'_>, bend: Bend<'_>) -> Left {
        let Architecture { layers, heads, kv_heads, head_dim, hidden, .. } = *self.architecture;
        let (head_dim, hidden) = (size(head_dim), size(hidden));
        let queries_per_group = size(heads / kv_heads);
        let mut left = Left { prompt: prompt.to_vec(), output: vec![], rows: BTreeMap::new(), logits: vec![] };
        let mut seen: Vec<Vec<Vec<Vec<f64>>>> = vec![vec![vec![]; size(kv_heads)]; size(layers)];
        let total = match picks {
            Picks::Sampled(_, count) => count,
            Picks::Forced(output) => output.len(),
        };
        for position in 0..prompt.len() + total - 1 {
            let token = prompt.get(position).unwrap_or_else(|| &left.output[position - prompt.len()]);
            let row = &self.tensors.embeddings[size(token.get()) * hidden..][..hidden];
            let mut h = self.rounded(row.iter().copied().map(f64::from).collect());
            let mut keep = |tree, row: &[f64]| left.rows.entry(tree).or_default().push(row.to_vec());
            for number in 0..layers {
                let (layer, at) = (size(number), LayerIndex::new(number));
                keep(TreeId::H(at), &h);
                bend(Point::Stream(number), position, &mut h);
                let x = self.attention_input(layer, &h);
                let q = self.queries(number, position, &h);
                let k = self.rope(&self.product(layer, Matrix::K, &x), position);
                let v = self.product(layer, Matrix::V, &x);
                for (group, (key, value)) in (0..).zip(k.chunks(head_dim).zip(v.chunks(head_dim))) {
                    let mut cached = [key, value].concat();
                    bend(Point::Cache(number, group), position, &mut cached);
                    let cached = self.rounded(cached);
                    keep(TreeId::Kv(at, KvGroup::new(group)), &cached);
                    let mut cached = cached;
                    bend(Point::Seen(number, group), position, &mut cached);
                    seen[layer][size(group)].push(cached);
                }
                let outputs = q.chunks(head_dim).enumerate();
                let a = outputs.flat_map(|(head, query)| attend(query, &seen[layer][head / queries_per_group]));
                let mut a: Vec<f64> = self.rounded(a.collect());
                bend(Point::A(number), position, &mut a);
                let a = self.rounded(a);
                keep(TreeId::A(at), &a);
                h = self.after_attention(number, position, [&h, &a], bend, &mut keep);
            }
            keep(TreeId::H(LayerIndex::new(layers)), &h);
            if position + 1 >= prompt.len() {
                let logits = self.logits(&h);
                left.output.push(match picks {
                    Picks::Sampled(sampling, _) => {
                        sample(&logits, &sampling, Position::new(u32::try_from(position).unwrap()))
                    }
                    Picks::Forced(output) => output[left.output.len()],
                });
                left.logits.push(logits);
            }
        }
        left
    }
}

#[expect(clippy::cast_precision_loss, reason = "rows are short")]
fn size_real(size: usize) -> f64 {
    size as f64
}

fn products(weights: &[f32], x: &[f64]) -> Vec<f64> {
    let lanes = |row: &[f32]| {
        let mut sums = [0.0_f64; 8];
        for (weights, x) in row.as_chunks::<8>().0.iter().zip(x.as_chunks::<8>().0) {
            for ((sum, weight), x) in sums.iter_mut().zip(weights).zip(x) {
                *sum += f64::from(*weight) * x;
            }
        }
        sums.iter().sum()
    };
    weights.chunks(x.len()).map(lanes).collect()
}

/// Softmax attention over rows of a key and a value each.
fn attend(query: &[f64], cached: &[Vec<f64>]) -> Vec<f64> {
    let scale = 1.0 / size_real(query.len()).sqrt();
    let score = |row: &Vec<f64>| query.iter().zip(row).map(|(q, k)| q * k).sum::<f64>() * scale;
    let scores: Vec<f64> = cached.iter().map(score).collect();
    let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = scores.iter().map(|score| libm::exp(score - top)).collect();
    let total: f64 = weights.iter().sum();
    let value =
        |at| cached.iter().zip(&weights).map(|(row, weight)| weight * row[query.len() + at]).sum::<f64>() / total;
    (0..query.len()).map(value).collect()
}
