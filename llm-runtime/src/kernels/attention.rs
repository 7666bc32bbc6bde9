//! Causal grouped-query attention over a cache, softmax in f32.

use assay_commitments::rows::Profile;
use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape};
use rayon::prelude::*;

use super::{TASK_WORK, dot, elements};

/// Attention of the newest `n` positions over all `t` in the cache.
///
/// Takes turned products `[n, q | k | v]`, of which it reads `q`, and a cache `[t, k | v]` that ends
/// with the same `n` positions; gives `[n, heads * head_dim]`, rounded once. Scores are
/// `q k / sqrt(head_dim)`; scores, softmax and the weighted sum are f32.
pub(crate) struct Attention {
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    /// How many positions, its own included, a position attends to; `None` for all before it.
    pub(crate) window: Option<usize>,
    pub(crate) profile: Profile,
}

impl CustomOp2 for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        products: &CpuStorage,
        products_layout: &Layout,
        cache: &CpuStorage,
        cache_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let products = elements(products, products_layout)?;
        let cache = elements(cache, cache_layout)?;
        let positions = products_layout.dims()[0];
        let width = self.heads * self.head_dim;
        let cached = cache.len() / self.cache_width();
        let mut out = vec![0.0; positions * width];
        let attend = |scores: &mut Vec<f32>, (index, out): (usize, &mut [f32])| {
            let (row, head) = (index / self.heads, index % self.heads);
            let product_row = row * (width + self.cache_width());
            let query = &products[product_row + head * self.head_dim..][..self.head_dim];
            let end = cached - positions + row + 1;
            let start = self.window.map_or(0, |window| end.saturating_sub(window));
            let rows = &cache[start * self.cache_width()..end * self.cache_width()];
            self.attend(query, rows, head * self.kv_heads / self.heads, scores, out);
        };
        let head_work = 2 * cached * self.head_dim;
        if out.len() / self.head_dim * head_work <= TASK_WORK {
            let mut scores = Vec::new();
            out.chunks_exact_mut(self.head_dim).enumerate().for_each(|task| attend(&mut scores, task));
        } else {
            out.par_chunks_exact_mut(self.head_dim)
                .enumerate()
                .with_min_len(TASK_WORK.div_ceil(head_work))
                .for_each_init(Vec::new, attend);
        }
        self.profile.round(&mut out);
        Ok((CpuStorage::F32(out), Shape::from((positions, width))))
    }
}

impl Attention {
    /// Elements of a cached position: the keys of all groups, then the values.
    fn cache_width(&self) -> usize {
        2 * self.kv_heads * self.head_dim
    }

    /// One head of one position over `rows` of the cache.
    fn attend(&self, query: &[f32], rows: &[f32], group: usize, scores: &mut Vec<f32>, out: &mut [f32]) {
        let key_at = group * self.head_dim;
        let value_at = (self.kv_heads + group) * self.head_dim;
        #[expect(clippy::cast_precision_loss, reason = "head widths are small")]
        let scale = 1.0 / (self.head_dim as f32).sqrt();
        scores.clear();
        scores.extend(
            rows.chunks_exact(self.cache_width()).map(|row| scale * dot(query, &row[key_at..][..self.head_dim])),
        );
        let top = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mut total = 0.0;
        for score in scores.iter_mut() {
            *score = (*score - top).exp();
            total += *score;
        }
        for (row, weight) in rows.chunks_exact(self.cache_width()).zip(scores.iter()) {
            let probability = weight / total;
            out.iter_mut().zip(&row[value_at..]).for_each(|(out, value)| *out += probability * value);
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::*;
    use crate::random::Random;

    fn random(random: &mut Random, shape: (usize, usize)) -> Tensor {
        let values: Vec<f32> = (0..shape.0 * shape.1).map(|_| random.normal()).collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    fn run(attention: &Attention, products: &Tensor, cache: &Tensor) -> Vec<Vec<f32>> {
        products.apply_op2_no_bwd(cache, attention).unwrap().to_vec2().unwrap()
    }

    fn attention(window: Option<usize>) -> Attention {
        Attention { heads: 4, kv_heads: 2, head_dim: 8, window, profile: Profile::F32V1 }
    }

    /// The textbook form, in f64, for one head of one position.
    fn textbook(query: &[f32], keys: &[&[f32]], values: &[&[f32]]) -> Vec<f64> {
        let product =
            |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum() };
        let weights: Vec<f64> = keys.iter().map(|key| (product(query, key) / 8.0_f64.sqrt()).exp()).collect();
        let total: f64 = weights.iter().sum();
        (0..query.len())
            .map(|i| weights.iter().zip(values).map(|(w, value)| w * f64::from(value[i])).sum::<f64>() / total)
            .collect()
    }

    #[test]
    fn every_head_reads_its_own_group_up_to_its_own_position() {
        let mut source = Random::new(5);
        let (products, cache) = (random(&mut source, (3, 64)), random(&mut source, (5, 32)));
        let (query_rows, cache_rows): (Vec<Vec<f32>>, Vec<Vec<f32>>) =
            (products.to_vec2().unwrap(), cache.to_vec2().unwrap());
        for window in [None, Some(2)] {
            let out = run(&attention(window), &products, &cache);
            for (row, head) in (0..3).flat_map(|row| (0..4).map(move |head| (row, head))) {
                let span = window.map_or(0, |w| row + 3 - w)..row + 3;
                let part = |at: usize| cache_rows[span.clone()].iter().map(|r| &r[at..at + 8]).collect::<Vec<_>>();
                let group = head / 2;
                let expected = textbook(&query_rows[row][head * 8..][..8], &part(group * 8), &part(16 + group * 8));
                for (value, expected) in out[row][head * 8..].iter().zip(expected) {
                    assert!((f64::from(*value) - expected).abs() < 1e-5, "row {row} head {head} window {window:?}");
                }
            }
        }
    }

    #[test]
    fn only_the_end_is_rounded() {
        let mut source = Random::new(7);
        let (products, cache) = (random(&mut source, (3, 64)), random(&mut source, (9, 32)));
        let served = run(&Attention { profile: Profile::Bf16V1, ..attention(None) }, &products, &cache);
        for (mut exact, served) in run(&attention(None), &products, &cache).into_iter().zip(served) {
            assert_ne!(exact, served);
            Profile::Bf16V1.round(&mut exact);
            assert_eq!(exact, served);
        }
    }

    #[test]
    fn threads_and_rows_do_not_change_a_bit() {
        let mut source = Random::new(6);
        let (products, cache) = (random(&mut source, (200, 64)), random(&mut source, (200, 32)));
        let all = run(&attention(None), &products, &cache);
        for row in [0, 1, 99, 199] {
            let alone =
                run(&attention(None), &products.narrow(0, row, 1).unwrap(), &cache.narrow(0, 0, row + 1).unwrap());
            assert_eq!(alone[0], all[row]);
        }
    }
}
