//! Reference arithmetic: what a runtime should have computed, bit for bit the same on every platform.
//!
//! Everything is f64, summed in a written order (eight strided lanes, a fixed tree, the remainder
//! last), without fused multiply-add, with elementary functions from one pinned version of `libm`,
//! and rounded to the runtime's dtype exactly at the profile's rounding points. Prover and verifier
//! derive the integers of the linear relations from it, so one different bit would be a rejection.

use assay_commitments::Position;
use assay_commitments::manifest::Architecture;
use assay_commitments::rows::{Profile, vectorized};

use crate::num::real_count;
use crate::tolerance::{Tolerance, upper_median};

const LANES: usize = 8;

/// The fixed tree over the lanes.
fn tree([a, b, c, d, e, f, g, h]: [f64; LANES]) -> f64 {
    ((a + b) + (c + d)) + ((e + f) + (g + h))
}

/// `sum_i a_i b_i` in the written order.
pub(crate) fn dot(a: &[f64], b: &[f64]) -> f64 {
    let (a_blocks, a_rest) = a.as_chunks::<LANES>();
    let (b_blocks, b_rest) = b.as_chunks::<LANES>();
    let lanes = vectorized(
        #[inline(always)]
        || {
            let mut lanes = [0.0; LANES];
            for (a, b) in a_blocks.iter().zip(b_blocks) {
                for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
                    *lane += a * b;
                }
            }
            lanes
        },
    );
    let remainder = a_rest.iter().zip(b_rest);
    remainder.fold(tree(lanes), |sum, (a, b)| sum + a * b)
}

/// `sum_i values_i` in the written order.
fn sum(values: &[f64]) -> f64 {
    let (blocks, rest) = values.as_chunks::<LANES>();
    let mut lanes = [0.0; LANES];
    for block in blocks {
        for (lane, value) in lanes.iter_mut().zip(block) {
            *lane += value;
        }
    }
    rest.iter().fold(tree(lanes), |sum, value| sum + value)
}

/// `sum_t weights_t rows_t`, each element in the written order over `t`.
fn weighted_sum(weights: &[f64], rows: &[&[f64]], width: usize) -> Vec<f64> {
    let (weight_blocks, weight_rest) = weights.as_chunks::<LANES>();
    let (row_blocks, row_rest) = rows.as_chunks::<LANES>();
    let mut lanes: [Vec<f64>; LANES] = std::array::from_fn(|_| vec![0.0; width]);
    for (weights, rows) in weight_blocks.iter().zip(row_blocks) {
        for ((lane, weight), row) in lanes.iter_mut().zip(weights).zip(rows) {
            for (total, value) in lane.iter_mut().zip(*row) {
                *total += weight * value;
            }
        }
    }
    let [a, b, c, d, e, f, g, h] = &lanes;
    let pairs = a.iter().zip(b).zip(c.iter().zip(d)).zip(e.iter().zip(f).zip(g.iter().zip(h)));
    let mut totals: Vec<f64> =
        pairs.map(|(((a, b), (c, d)), ((e, f), (g, h)))| tree([*a, *b, *c, *d, *e, *f, *g, *h])).collect();
    for (weight, row) in weight_rest.iter().zip(row_rest) {
        for (total, value) in totals.iter_mut().zip(*row) {
            *total += weight * value;
        }
    }
    totals
}

/// `x / sqrt(mean(x^2) + eps) * weights`, rounded once.
pub(crate) fn rms_norm(profile: Profile, x: &[f64], weights: &[f32], eps: f32) -> Vec<f64> {
    let mean = dot(x, x) / real_count(x.len());
    let scale = 1.0 / (mean + f64::from(eps)).sqrt();
    profile.rounded(&x.iter().zip(weights).map(|(x, weight)| x * scale * f64::from(*weight)))
}

/// The sum of two rows, rounded once: of f32 numbers, so that the rounding of the f64 sum changes nothing.
pub(crate) fn add(profile: Profile, a: &[f64], b: &[f64]) -> Vec<f64> {
    profile.rounded(&a.iter().zip(b).map(|(a, b)| a + b))
}

/// Rotates a head at a position: pairs are `(j, j + head_dim / 2)`, the angle is the f32 product of
/// position and inverse frequency, its sine and cosine are f32. Not rounded at the end.
pub(crate) fn rope(head: &[f64], position: Position, architecture: &Architecture) -> Vec<f64> {
    let (low, high) = head.split_at(head.len() / 2);
    #[expect(clippy::as_conversions, clippy::cast_precision_loss, reason = "the profile's angle is an f32 product")]
    let position = position.get() as f32;
    let turn: Vec<(f64, f64)> = architecture
        .inverse_frequencies
        .iter()
        .map(|frequency| {
            let angle = f64::from(position * frequency);
            (to_f32(libm::cos(angle)), to_f32(libm::sin(angle)))
        })
        .collect();
    let pairs = || low.iter().zip(high).zip(&turn);
    let front = pairs().map(|((low, high), (cos, sin))| low * cos - high * sin);
    let back = pairs().map(|((low, high), (cos, sin))| high * cos + low * sin);
    front.chain(back).collect()
}

#[expect(clippy::as_conversions, clippy::cast_possible_truncation, reason = "rounding to f32 is meant")]
fn to_f32(value: f64) -> f64 {
    f64::from(value as f32)
}

/// `x / (1 + exp(-x))`, not rounded.
pub(crate) fn silu(x: f64) -> f64 {
    x / (1.0 + libm::exp(-x))
}

/// The products of two rows, rounded once: of f32 numbers, so that the f64 product is exact.
pub(crate) fn multiply(profile: Profile, a: &[f64], b: &[f64]) -> Vec<f64> {
    profile.rounded(&a.iter().zip(b).map(|(a, b)| a * b))
}

/// What one head makes of a cache prefix.
#[derive(Debug)]
pub(crate) struct HeadOutput {
    /// `sum_t p_t v_t`, not rounded.
    pub(crate) output: Vec<f64>,
    /// `sqrt(sum_t (m_t p_t v_t)^2)`: how far rounded probabilities and scores can move each element, where `m_t` is
    /// the share of `p_t` by which they move it.
    pub(crate) moved: Vec<f64>,
    /// The upper median of the `m_t`.
    pub(crate) share: f64,
}

/// Softmax attention of one query over a prefix of keys and values.
pub(crate) fn attention(query: &[f64], keys: &[&[f64]], values: &[&[f64]], tolerance: &Tolerance) -> HeadOutput {
    let scale = 1.0 / real_count(query.len()).sqrt();
    let scores: Vec<f64> = keys.iter().map(|key| dot(query, key) * scale).collect();
    let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = scores.iter().map(|score| libm::exp(score - top)).collect();
    let total = sum(&weights);
    let probabilities: Vec<f64> = weights.iter().map(|weight| weight / total).collect();
    let squared_query = dot(query, query);
    let shares: Vec<f64> = if tolerance.score_rel > 0.0 {
        // The most that the magnitudes of a score's terms add up to, by the norms of query and key.
        let terms = keys.iter().map(|key| (squared_query * dot(key, key)).sqrt() * scale);
        terms.map(|terms| tolerance.eps_rel + tolerance.score_rel * terms).collect()
    } else {
        vec![tolerance.eps_rel; keys.len()]
    };
    let squares: Vec<f64> = probabilities.iter().zip(&shares).map(|(p, share)| (p * share) * (p * share)).collect();
    let squared_values: Vec<Vec<f64>> = values.iter().map(|row| row.iter().map(|v| v * v).collect()).collect();
    let squared_rows: Vec<&[f64]> = squared_values.iter().map(Vec::as_slice).collect();
    let output = weighted_sum(&probabilities, values, query.len());
    let moved = weighted_sum(&squares, &squared_rows, query.len());
    HeadOutput { output, moved: moved.into_iter().map(f64::sqrt).collect(), share: upper_median(shares) }
}

#[cfg(test)]
mod tests {
    use assay_commitments::rows::round_bf16;

    use super::*;

    fn round_bf16_once(value: f64) -> f64 {
        Profile::Bf16V1.round_once(value)
    }

    #[test]
    fn bf16_agrees_with_rounding_from_f32() {
        let mut bits = 1_u32;
        for _ in 0..200_000 {
            bits = bits.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let value = f32::from_bits(bits);
            if value.is_nan() || (value.abs() < f32::MIN_POSITIVE && value.abs() > f32::MIN_POSITIVE * 0.99) {
                continue;
            }
            assert_eq!(round_bf16_once(f64::from(value)), f64::from(round_bf16(value)), "{value:e}");
        }
        assert_eq!(round_bf16_once(-0.0).to_bits(), 0);
        assert_eq!(round_bf16_once(1e300), f64::INFINITY);
    }

    #[test]
    fn a_sum_of_two_bf16_rounds_the_same_through_f32() {
        let mut bits = 7_u32;
        let mut draw = || {
            bits = bits.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            round_bf16(f32::from_bits((bits >> 2) | 0x2000_0000))
        };
        for _ in 0..200_000 {
            let (a, b) = (draw(), -draw());
            assert_eq!(round_bf16_once(f64::from(a) + f64::from(b)), f64::from(round_bf16(a + b)), "{a:e} {b:e}");
        }
    }

    #[test]
    fn dot_products_of_any_length_count_every_element() {
        for length in 0..40 {
            let ones = vec![1.0; length];
            assert_eq!(dot(&ones, &ones), real_count(length));
            let rows: Vec<&[f64]> = ones.chunks(1).collect();
            assert_eq!(weighted_sum(&ones, &rows, 1), [real_count(length)]);
        }
    }

    #[test]
    fn attention_over_equal_keys_is_the_mean() {
        let (key, values) = ([1.0, 0.0], [[1.0, 2.0], [3.0, 4.0]]);
        let tolerance = Tolerance::of(Profile::Bf16V1);
        let head = attention(&[0.5, 0.5], &[&key, &key], &[&values[0], &values[1]], &tolerance);
        assert_eq!(head.output, [2.0, 3.0]);
    }

    /// Pins the last bits of the elementary functions and of the summation order.
    #[test]
    fn kat_reference_arithmetic_v1() {
        let x: Vec<f64> = (0..37_i32).map(|i| round_bf16_once(f64::from(i * i % 17) / 7.0 - 1.0)).collect();
        let exp: f64 = x.iter().map(|&x| libm::exp(x)).sum();
        let log: f64 = (1..50_i32).map(|i| libm::log(f64::from(i) / 3.0)).sum();
        let trig: f64 = (0..50_i32).map(|i| libm::sin(f64::from(i)) * libm::cos(f64::from(i) / 3.0)).sum();
        let (keys, values) = ([&x[4..8], &x[8..12], &x[12..16]], [&x[16..20], &x[20..24], &x[24..28]]);
        let head = attention(&x[..4], &keys, &values, &Tolerance::of(Profile::Bf16V1));
        // In units of the tolerance, a power of two.
        let spread = head.moved[2] * 256.0;
        let bits: Vec<u64> = [exp, log, trig, dot(&x, &x), head.output[1], spread].map(f64::to_bits).to_vec();
        let norm = rms_norm(Profile::Bf16V1, &x, &[1.5; 37], 1e-5);
        let digest = blake3::hash(&norm.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>());
        let expected = [
            0x404b_691e_48a8_c39a,
            0x4056_aef5_a02c_6731,
            0x3ff7_43b5_5893_86c2,
            0x4038_cd79_4000_0000,
            0x3fb8_a44e_ac89_682c,
            0x3fde_d339_e343_370a,
        ];
        assert_eq!(bits, expected);
        assert_eq!(digest.to_hex().as_str(), "4557cca94d2a7796db4f930abc50f51a8ce28c8e383c51f54a082a3308445baf");
    }
}
