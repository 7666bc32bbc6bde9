//! Causal grouped-query attention over a cache of blocks, softmax in f32.
//!
//! Keys and values are read where they lie, once for all heads of their group. The code is compiled for each
//! set of instructions; every sum has its order and every multiply-add is fused, so all of them give the same
//! bits.
#![expect(
    clippy::inline_always,
    reason = "only code that is inlined is compiled for the instructions found at run time"
)]

use std::ops::Range;

use assay_commitments::rows::{Profile, bf16_bits};
use candle_core::{CpuStorage, Device, InplaceOp2, Layout, Result, Storage, StorageRef, Tensor, bail};
use half::bf16;
use rayon::prelude::*;

use super::linear::lanes::{Instructions, LANES, Lanes, Task};
use super::{TASK_WORK, composed, elements, is_fused, read, values_of};
use crate::cache::BLOCK;

/// Positions that are worked on together.
const TILE: usize = 4;

/// Writes the turned keys and the values of products `[n, q | k | v]` into a block
/// `[layers, groups, key or value, positions, head_dim]` of a cache.
pub(crate) struct Store {
    pub(crate) layer: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    /// Rows of the products to write.
    pub(crate) rows: Range<usize>,
    /// Where in the block the first of them goes.
    pub(crate) at: usize,
}

impl Store {
    pub(crate) fn run(&self, block: &Tensor, products: &Tensor) -> Result<()> {
        if is_fused(block) { block.inplace_op2(products, self) } else { composed::store(self, block, products) }
    }

    fn write<E: Element>(&self, block: &mut [E], products: &[f32], width: usize) {
        let (kv_width, area) = (self.kv_heads * self.head_dim, BLOCK * self.head_dim);
        let layer = &mut block[self.layer * 2 * self.kv_heads * area..];
        for (row, at) in self.rows.clone().zip(self.at..) {
            let (keys, values) = products[(row + 1) * width - 2 * kv_width..(row + 1) * width].split_at(kv_width);
            let heads = keys.chunks_exact(self.head_dim).zip(values.chunks_exact(self.head_dim));
            for (head, area) in heads.flat_map(|(key, value)| [key, value]).zip(layer.chunks_exact_mut(area)) {
                let slots = area[at * self.head_dim..].iter_mut();
                slots.zip(head).for_each(|(slot, value)| *slot = E::narrow(*value));
            }
        }
    }
}

impl InplaceOp2 for Store {
    fn name(&self) -> &'static str {
        "store"
    }

    fn cpu_fwd(
        &self,
        block: &mut CpuStorage,
        _: &Layout,
        products: &CpuStorage,
        products_layout: &Layout,
    ) -> Result<()> {
        let (_, width) = products_layout.shape().dims2()?;
        let products = elements::<f32>(products, products_layout)?;
        match block {
            CpuStorage::BF16(block) => self.write(block, products, width),
            CpuStorage::F32(block) => self.write(block, products, width),
            _ => bail!("a cache is bf16 or f32"),
        }
        Ok(())
    }
}

/// The rows of a pass that belong to one sequence.
#[derive(Debug)]
pub(crate) struct Span<'a> {
    pub(crate) rows: Range<usize>,
    /// Position of the first of them.
    pub(crate) start: usize,
    /// The sequence's cache, its last rows included.
    pub(crate) blocks: &'a [Tensor],
}

/// Attention of new positions over those in their sequence's cache, up to their own.
///
/// Takes turned products `[n, q | k | v]`, of which it reads `q`; gives `[n, heads * head_dim]`, rounded
/// once. Scores are `q k / sqrt(head_dim)`; scores, softmax and the weighted sum are f32.
pub(crate) struct Attention {
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    /// How many positions, its own included, a position attends to; `None` for all before it.
    pub(crate) window: Option<usize>,
    pub(crate) profile: Profile,
}

impl Attention {
    pub(crate) fn run(&self, products: &Tensor, layer: usize, spans: &[Span<'_>]) -> Result<Tensor> {
        if !is_fused(products) {
            let parts = spans.iter().map(|span| composed::attention(self, products, layer, span));
            return Tensor::cat(&parts.collect::<Result<Vec<_>>>()?, 0);
        }
        let storages: Vec<Vec<StorageRef<'_>>> =
            spans.iter().map(|span| span.blocks.iter().map(read).collect()).collect();
        let any = storages.iter().flatten().next();
        match any.map(|storage| &**storage) {
            Some(Storage::Cpu(CpuStorage::BF16(_))) => self.over::<bf16>(products, layer, spans, &storages),
            _ => self.over::<f32>(products, layer, spans, &storages),
        }
    }

    fn over<E: Element>(
        &self,
        products: &Tensor,
        layer: usize,
        spans: &[Span<'_>],
        storages: &[Vec<StorageRef<'_>>],
    ) -> Result<Tensor> {
        let (count, width) = products.dims2()?;
        let area = BLOCK * self.head_dim;
        let layer_length = 2 * self.kv_heads * area;
        let storage = read(products);
        let queries = values_of::<f32>(&storage, products.layout())?;
        let mut rows: Vec<(usize, &[&[E]])> = Vec::with_capacity(count);
        let blocks = spans.iter().zip(storages).map(|(span, storages)| {
            let blocks = span.blocks.iter().zip(storages);
            let layer_of = |(block, storage): (&Tensor, _)| {
                Ok(&values_of::<E>(storage, block.layout())?[layer * layer_length..][..layer_length])
            };
            blocks.map(|(block, storage)| layer_of((block, &**storage))).collect::<Result<Vec<&[E]>>>()
        });
        let blocks: Vec<Vec<&[E]>> = blocks.collect::<Result<_>>()?;
        for (span, blocks) in spans.iter().zip(&blocks) {
            rows.extend((span.start..).take(span.rows.len()).map(|position| (position, blocks.as_slice())));
        }
        let group_width = self.heads / self.kv_heads * self.head_dim;
        let mut out = vec![0.0; count * self.heads * self.head_dim];
        let instructions = Instructions::best();
        let attend = |scores: &mut Vec<f32>, (index, out): (usize, &mut [f32])| {
            let (row, group) = (index / self.kv_heads, index % self.kv_heads);
            let (position, blocks) = rows[row];
            let end = position + 1;
            let start = self.window.map_or(0, |window| end.saturating_sub(window));
            let queries = &queries[row * width + group * group_width..][..group_width];
            let head =
                Group { queries, head_dim: self.head_dim, blocks, number: group, range: start..end, scores, out };
            instructions.run(head);
            self.profile.round(out);
        };
        let longest = rows.iter().map(|row| row.0 + 1).max().unwrap_or(1);
        let work = 2 * longest.min(self.window.unwrap_or(longest)) * group_width;
        if out.len() / group_width * work <= TASK_WORK {
            let mut scores = Vec::new();
            out.chunks_exact_mut(group_width).enumerate().for_each(|task| attend(&mut scores, task));
        } else {
            out.par_chunks_exact_mut(group_width)
                .enumerate()
                .with_min_len(TASK_WORK.div_ceil(work))
                .for_each_init(Vec::new, attend);
        }
        Tensor::from_vec(out, (count, self.heads * self.head_dim), &Device::Cpu)
    }
}

/// An element of a cache.
trait Element: candle_core::WithDType {
    fn widen(self) -> f32;
    fn load<L: Lanes>(lanes: L, from: &[Self; LANES]) -> L::V;
    /// Of a value that the profile has rounded.
    fn narrow(value: f32) -> Self;
}

impl Element for bf16 {
    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    #[inline(always)]
    fn load<L: Lanes>(lanes: L, from: &[Self; LANES]) -> L::V {
        lanes.widen_bf16(&from.map(Self::to_bits))
    }

    #[inline(always)]
    fn narrow(value: f32) -> Self {
        Self::from_bits(bf16_bits(value))
    }
}

impl Element for f32 {
    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }

    #[inline(always)]
    fn load<L: Lanes>(lanes: L, from: &[Self; LANES]) -> L::V {
        lanes.load(from)
    }

    #[inline(always)]
    fn narrow(value: f32) -> Self {
        value
    }
}

/// The heads of a group at one position.
struct Group<'a, E> {
    queries: &'a [f32],
    head_dim: usize,
    /// A layer of each block.
    blocks: &'a [&'a [E]],
    number: usize,
    /// Positions attended to.
    range: Range<usize>,
    scores: &'a mut Vec<f32>,
    out: &'a mut [f32],
}

impl<E: Element> Task for Group<'_, E> {
    #[inline(always)]
    fn run<L: Lanes, const OUTPUTS: usize>(self, lanes: L) {
        let Self { queries, head_dim, blocks, number: group, range, scores, out } = self;
        let heads = queries.len() / head_dim;
        // Whole vectors for each head; what is no position has no weight.
        let length = range.len().next_multiple_of(LANES);
        scores.clear();
        scores.resize(heads * length, f32::NEG_INFINITY);
        #[expect(clippy::cast_precision_loss, reason = "head widths are small")]
        let scale = 1.0 / (head_dim as f32).sqrt();
        let area = BLOCK * head_dim;
        let first = range.start / BLOCK;
        let blocks = || {
            blocks.iter().enumerate().skip(first).map_while(
                #[inline(always)]
                |(number, block)| {
                    let inside = range.start.max(number * BLOCK)..range.end.min((number + 1) * BLOCK);
                    let within = inside.start.wrapping_sub(number * BLOCK)..inside.end.wrapping_sub(number * BLOCK);
                    let keys = &block[2 * group * area..][..area];
                    let values = &block[(2 * group + 1) * area..][..area];
                    let rows = within.start * head_dim..within.end.min(BLOCK) * head_dim;
                    (!inside.is_empty()).then(|| (inside.start - range.start, &keys[rows.clone()], &values[rows]))
                },
            )
        };
        for (offset, keys, _) in blocks() {
            for (head, query) in queries.chunks_exact(head_dim).enumerate() {
                let scores = &mut scores[head * length + offset..];
                for (keys, scores) in keys.chunks(LANES * head_dim).zip(scores.chunks_mut(LANES)) {
                    let count = keys.len() / head_dim;
                    scores[..count].copy_from_slice(&dots(lanes, query, keys)[..count]);
                    scores[..count].iter_mut().for_each(|score| *score *= scale);
                }
            }
        }
        // A loop: what an iterator calls is not compiled for the instructions found.
        for scores in scores.chunks_exact_mut(length) {
            softmax(scores);
        }
        out.fill(0.0);
        for (offset, _, values) in blocks() {
            let tiles = values.chunks_exact(TILE * head_dim);
            let rest = tiles.remainder();
            let single = offset + values.len() / head_dim / TILE * TILE;
            for (head, out) in out.chunks_exact_mut(head_dim).enumerate() {
                let weights = &scores[head * length..][..length];
                for (tile, weights) in tiles.clone().zip(weights[offset..].chunks_exact(TILE)) {
                    let rows: [&[E]; TILE] = std::array::from_fn(|i| &tile[i * head_dim..][..head_dim]);
                    add_weighted(out, std::array::from_fn(|i| weights[i]), rows);
                }
                for (row, weight) in rest.chunks_exact(head_dim).zip(&weights[single..]) {
                    add_weighted(out, [*weight], [row]);
                }
            }
        }
    }
}

/// `sum_i query_i key_i` of up to sixteen keys: sixteen lanes, a tree over them, the remainder last.
#[inline(always)]
fn dots<L: Lanes, E: Element>(lanes: L, query: &[f32], keys: &[E]) -> [f32; LANES] {
    let (chunks, tail) = query.as_chunks::<LANES>();
    let mut sums = [lanes.splat(0.0); LANES];
    let tiles = keys.chunks_exact(TILE * query.len());
    let (single, rest) = (keys.len() / query.len() / TILE * TILE, tiles.remainder());
    for (tile, sums) in tiles.zip(sums.as_chunks_mut::<TILE>().0) {
        let keys: [&[[E; LANES]]; TILE] = std::array::from_fn(
            #[inline(always)]
            |key| tile[key * query.len()..][..query.len()].as_chunks().0,
        );
        add_products(lanes, chunks, keys, sums);
    }
    for (key, sum) in rest.chunks_exact(query.len()).zip(&mut sums[single..]) {
        add_products(lanes, chunks, [key.as_chunks().0], std::array::from_mut(sum));
    }
    let mut totals = lanes.sums(sums);
    if !tail.is_empty() {
        for (key, total) in keys.chunks_exact(query.len()).zip(&mut totals) {
            let products = tail.iter().zip(&key[query.len() - tail.len()..]);
            *total = products.fold(*total, |sum, (query, key)| query.mul_add(key.widen(), sum));
        }
    }
    totals
}

/// Adds the products of a query with several keys, lane by lane.
#[inline(always)]
fn add_products<L: Lanes, E: Element, const N: usize>(
    lanes: L,
    query: &[[f32; LANES]],
    keys: [&[[E; LANES]]; N],
    sums: &mut [L::V; N],
) {
    let mut own = *sums;
    let keys = keys.map(
        #[inline(always)]
        |key| &key[..query.len()],
    );
    for (index, query) in query.iter().enumerate() {
        let query = lanes.load(query);
        for n in 0..N {
            own[n] = lanes.mul_add(query, E::load(lanes, &keys[n][index]), own[n]);
        }
    }
    *sums = own;
}

/// The upper half is added to the lower one until one is left.
#[inline(always)]
fn tree(lanes: [f32; LANES]) -> f32 {
    let lanes: [f32; 8] = std::array::from_fn(|i| lanes[i] + lanes[i + 8]);
    let lanes: [f32; 4] = std::array::from_fn(|i| lanes[i] + lanes[i + 4]);
    (lanes[0] + lanes[2]) + (lanes[1] + lanes[3])
}

/// Adds rows times their weights to `out`, one row after the other.
#[inline(always)]
fn add_weighted<E: Element, const N: usize>(out: &mut [f32], weights: [f32; N], rows: [&[E]; N]) {
    let rows = rows.map(|row| &row[..out.len()]);
    for i in 0..out.len() {
        let mut sum = out[i];
        for n in 0..N {
            sum = weights[n].mul_add(rows[n][i].widen(), sum);
        }
        out[i] = sum;
    }
}

/// Scores to probabilities, in place; whole vectors.
#[inline(always)]
fn softmax(scores: &mut [f32]) {
    let (vectors, _) = scores.as_chunks_mut::<LANES>();
    let mut tops = [f32::NEG_INFINITY; LANES];
    for vector in vectors.iter() {
        for i in 0..LANES {
            tops[i] = if vector[i] > tops[i] { vector[i] } else { tops[i] };
        }
    }
    let top = tops.iter().fold(f32::NEG_INFINITY, |top, lane| if *lane > top { *lane } else { top });
    let mut totals = [0.0; LANES];
    for vector in vectors.iter_mut() {
        for i in 0..LANES {
            vector[i] = exp(vector[i] - top);
            totals[i] += vector[i];
        }
    }
    let total = tree(totals);
    scores.iter_mut().for_each(|score| *score /= total);
}

/// `exp(x)` for `x` up to 0, within 1.5 units in the last place; 0 below -87, where results would be
/// subnormal. NaN stays NaN.
#[inline(always)]
fn exp(x: f32) -> f32 {
    /// Adding it rounds to an integer, which then stands in the lowest bits.
    const MAGIC: f32 = 12_582_912.0;
    /// ln 2 in two parts, the first with zeros at its end.
    const LN_2: [f32; 2] = [0.693_145_75, 1.428_606_8e-6];
    /// The exponential series, as far as it is felt.
    const SERIES: [f32; 8] = [1.0, 1.0, 1.0 / 2.0, 1.0 / 6.0, 1.0 / 24.0, 1.0 / 120.0, 1.0 / 720.0, 1.0 / 5040.0];
    let shifted = x.mul_add(std::f32::consts::LOG2_E, MAGIC);
    let power = shifted - MAGIC;
    let rest = power.mul_add(-LN_2[1], power.mul_add(-LN_2[0], x));
    let mut value = SERIES[7];
    for i in 0..7 {
        value = value.mul_add(rest, SERIES[6 - i]);
    }
    let scale = f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23));
    if x < -87.0 { 0.0 } else { value * scale }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::cache::{Cache, CachePool};
    use crate::random::Random;

    const HEADS: usize = 4;
    const KV_HEADS: usize = 2;

    fn attention(window: Option<usize>, head_dim: usize, profile: Profile) -> Attention {
        Attention { heads: HEADS, kv_heads: KV_HEADS, head_dim, window, profile }
    }

    /// Products `[n, q | k | v]` as the profile rounds them.
    fn products(seed: u64, count: usize, head_dim: usize, profile: Profile) -> Tensor {
        let mut random = Random::new(seed);
        let width = (HEADS + 2 * KV_HEADS) * head_dim;
        let mut values: Vec<f32> = (0..count * width).map(|_| random.normal()).collect();
        profile.round(&mut values);
        Tensor::from_vec(values, (count, width), &Device::Cpu).unwrap()
    }

    fn pool(head_dim: usize, profile: Profile) -> Arc<CachePool> {
        CachePool::of_shape([2, KV_HEADS, head_dim], profile, &Device::Cpu, usize::MAX)
    }

    /// Feeds the products in passes of these sizes to the second layer of a cache.
    fn run(attention: &Attention, products: &Tensor, passes: &[usize]) -> Vec<Vec<f32>> {
        let count = products.dim(0).unwrap();
        let mut cache = pool(attention.head_dim, attention.profile).reserve(count).unwrap();
        let mut out = vec![];
        let mut start = 0;
        for &size in passes {
            let pass = products.narrow(0, start, size).unwrap();
            cache.grow(start + size).unwrap();
            cache.store(1, &pass, 0..size, start).unwrap();
            let spans = [Span { rows: 0..size, start, blocks: cache.blocks() }];
            out.extend(attention.run(&pass, 1, &spans).unwrap().to_vec2().unwrap());
            start += size;
        }
        assert_eq!(start, count);
        out
    }

    /// The textbook form, in f64, for one head of one position.
    fn textbook(query: &[f32], keys: &[&[f32]], values: &[&[f32]]) -> Vec<f64> {
        let product =
            |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum() };
        #[expect(clippy::cast_precision_loss, reason = "head widths are small")]
        let scale = (query.len() as f64).sqrt();
        let weights: Vec<f64> = keys.iter().map(|key| (product(query, key) / scale).exp()).collect();
        let total: f64 = weights.iter().sum();
        (0..query.len())
            .map(|i| weights.iter().zip(values).map(|(w, value)| w * f64::from(value[i])).sum::<f64>() / total)
            .collect()
    }

    #[test]
    fn every_head_reads_its_own_group_up_to_its_own_position() {
        for (head_dim, count, window) in [(8, 5, None), (8, 150, Some(70)), (40, 131, None), (16, 9, Some(2))] {
            let products = products(5, count, head_dim, Profile::F32V1);
            let rows: Vec<Vec<f32>> = products.to_vec2().unwrap();
            let out = run(&attention(window, head_dim, Profile::F32V1), &products, &[count - 3, 2, 1]);
            for (row, head) in (0..count).flat_map(|row| (0..HEADS).map(move |head| (row, head))) {
                let span = window.map_or(0, |window| (row + 1).saturating_sub(window))..row + 1;
                let part = |head: usize| -> Vec<&[f32]> {
                    rows[span.clone()].iter().map(|row| &row[head * head_dim..][..head_dim]).collect()
                };
                let group = head * KV_HEADS / HEADS;
                let (keys, values) = (part(HEADS + group), part(HEADS + KV_HEADS + group));
                let expected = textbook(&rows[row][head * head_dim..][..head_dim], &keys, &values);
                for (value, expected) in out[row][head * head_dim..].iter().zip(expected) {
                    assert!((f64::from(*value) - expected).abs() < 1e-5, "row {row} head {head} window {window:?}");
                }
            }
        }
    }

    #[test]
    fn only_the_end_is_rounded() {
        let products = products(7, 9, 8, Profile::Bf16V1);
        let served = run(&attention(None, 8, Profile::Bf16V1), &products, &[9]);
        let mut exact = run(&attention(None, 8, Profile::F32V1), &products, &[9]);
        assert_ne!(exact, served);
        exact.iter_mut().for_each(|row| Profile::Bf16V1.round(row));
        assert_eq!(exact, served);
    }

    #[test]
    fn neither_passes_nor_company_change_a_bit() {
        for profile in [Profile::Bf16V1, Profile::F32V1] {
            let attention = attention(Some(150), 40, profile);
            let [one, other] = [6, 8].map(|seed| products(seed, 200, 40, profile));
            let alone = run(&attention, &one, &[200]);
            assert_eq!(run(&attention, &one, &[64, 1, 100, 35]), alone);
            let mut caches = [0, 0].map(|_| pool(40, profile).reserve(200).unwrap());
            let both = Tensor::cat(&[&other, &one], 0).unwrap();
            for (number, cache) in caches.iter_mut().enumerate() {
                cache.grow(200).unwrap();
                cache.store(1, &both, number * 200..(number + 1) * 200, 0).unwrap();
            }
            let span = |number: usize, cache: &'static Cache| Span {
                rows: number * 200..(number + 1) * 200,
                start: 0,
                blocks: cache.blocks(),
            };
            let [a, b] = caches.map(|cache| &*Box::leak(Box::new(cache)));
            let together = attention.run(&both, 1, &[span(0, a), span(1, b)]).unwrap();
            assert_eq!(together.to_vec2::<f32>().unwrap()[200..], alone);
        }
    }

    #[test]
    fn every_set_of_instructions_gives_the_same_bits() {
        fn check<E: Element>(head_dim: usize, random: &mut Random, narrow: impl Fn(f32) -> E) {
            let queries: Vec<f32> = (0..2 * head_dim).map(|_| random.normal()).collect();
            let block: Vec<E> = (0..2 * BLOCK * head_dim).map(|_| narrow(random.normal())).collect();
            let run = |instructions: Instructions| {
                let (mut scores, mut out) = (vec![], vec![0.0; 2 * head_dim]);
                let group = Group {
                    queries: &queries,
                    head_dim,
                    blocks: &[block.as_slice()],
                    number: 0,
                    range: 3..61,
                    scores: &mut scores,
                    out: &mut out,
                };
                instructions.run(group);
                out
            };
            let all: Vec<_> = Instructions::all().into_iter().map(run).collect();
            assert!(all.iter().all(|out| *out == all[0]), "{head_dim}");
        }
        let mut random = Random::new(3);
        for head_dim in [8, 16, 40] {
            check(head_dim, &mut random, |value| value);
            check(head_dim, &mut random, bf16::from_f32);
        }
    }

    #[test]
    fn exponentials_are_exact_to_the_last_places() {
        let mut worst = 0.0_f64;
        for step in 0..2_000_000_i32 {
            #[expect(clippy::cast_possible_truncation, reason = "a point near the quotient does")]
            let x = (f64::from(-step) * 87.0 / 2e6) as f32;
            let exact = f64::from(x).exp();
            let unit = (exact.log2().floor() - 23.0).exp2();
            worst = worst.max((f64::from(exp(x)) - exact).abs() / unit);
        }
        println!("exp is off by at most {worst} units in the last place");
        assert!(worst < 1.5);
        assert_eq!([exp(0.0), exp(f32::NEG_INFINITY), exp(-88.0)], [1.0, 0.0, 0.0]);
        assert!(exp(f32::NAN).is_nan());
    }
}
