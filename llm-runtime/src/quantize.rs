//! Weights of a lower precision or with parts left out, as bf16 values: what a miner would run that saves
//! memory and hopes nobody sees. Calibration measures how far an audit tells them apart.

use assay_audit::model::ModelTensors;
use assay_commitments::manifest::{Architecture, Matrix};
use assay_commitments::rows::round_bf16;
use rayon::prelude::*;

/// What weights are brought to before they are rounded back to bf16.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Eight-bit integers, symmetric, one scale an output channel.
    Int8Channel,
    /// Eight-bit integers, symmetric, one scale for 128 consecutive inputs of an output.
    Int8Group,
    /// The floating-point format E4M3 (four exponent bits, three fraction bits, largest value 448), one
    /// scale a matrix.
    Fp8,
    /// Four-bit integers, symmetric, one scale for 128 consecutive inputs of an output.
    Int4Group128,
    /// Four-bit integers, symmetric, one scale for 32 consecutive inputs of an output.
    Int4Group32,
    /// Zeros in place of the two smallest of every four consecutive inputs of an output.
    Pruned2Of4,
    /// Zeros in place of the smallest tenth of a matrix.
    PrunedTenth,
    /// bf16 itself.
    Bf16,
}

impl Format {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Int8Channel,
        Self::Int8Group,
        Self::Fp8,
        Self::Int4Group128,
        Self::Int4Group32,
        Self::Pruned2Of4,
        Self::PrunedTenth,
        Self::Bf16,
    ];

    /// The name that users see.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Int8Channel => "int8 per channel",
            Self::Int8Group => "int8 in groups of 128",
            Self::Fp8 => "fp8 e4m3",
            Self::Int4Group128 => "int4 in groups of 128",
            Self::Int4Group32 => "int4 in groups of 32",
            Self::Pruned2Of4 => "pruned 2 of 4",
            Self::PrunedTenth => "pruned by a tenth",
            Self::Bf16 => "rounded to bf16",
        }
    }

    /// Whether weights take fewer bits in it than in bf16.
    pub const fn is_quantized(self) -> bool {
        !matches!(self, Self::Pruned2Of4 | Self::PrunedTenth | Self::Bf16)
    }
}

/// Largest E4M3 value.
const FP8_MAX: f32 = 448.0;

/// The model with `matrices` of every decoder layer brought to `format`; all else is left as it is.
#[must_use]
pub fn model(architecture: &Architecture, tensors: &ModelTensors, format: Format, matrices: &[Matrix]) -> ModelTensors {
    let mut quantized = tensors.clone();
    quantized.layers.par_iter_mut().for_each(|layer| {
        for &which in matrices {
            let inputs = architecture.shape(which).inputs as usize;
            matrix(&mut layer.matrices[which.index()], inputs, format);
        }
    });
    quantized
}

/// Brings a matrix `[outputs][inputs]` to `format`, in place.
pub fn matrix(weights: &mut [f32], inputs: usize, format: Format) {
    let in_groups = |weights: &mut [f32], group: usize, top: f32| {
        let groups = weights.chunks_mut(inputs).flat_map(|row| row.chunks_mut(group));
        groups.for_each(|group| scaled(group, top, f32::round_ties_even));
    };
    match format {
        Format::Int8Channel => in_groups(weights, inputs, 127.0),
        Format::Int8Group => in_groups(weights, 128, 127.0),
        Format::Fp8 => scaled(weights, FP8_MAX, nearest_fp8),
        Format::Int4Group128 => in_groups(weights, 128, 7.0),
        Format::Int4Group32 => in_groups(weights, 32, 7.0),
        Format::Pruned2Of4 => {
            weights
                .chunks_mut(inputs)
                .flat_map(|row| row.chunks_mut(4))
                .for_each(|four| clear_smallest(four, four.len() / 2));
        }
        Format::PrunedTenth => clear_smallest(weights, weights.len() / 10),
        Format::Bf16 => {}
    }
    weights.iter_mut().for_each(|weight| *weight = round_bf16(*weight));
}

/// Puts zeros in place of the `count` smallest magnitudes, and of what is as small as the largest of those.
fn clear_smallest(weights: &mut [f32], count: usize) {
    let mut magnitudes: Vec<f32> = weights.iter().map(|weight| weight.abs()).collect();
    if let Some(last) = count.checked_sub(1) {
        let (_, bound, _) = magnitudes.select_nth_unstable_by(last, f32::total_cmp);
        weights.iter_mut().filter(|weight| weight.abs() <= *bound).for_each(|weight| *weight = 0.0);
    }
}

/// Rounds `weights / scale`, where the scale takes the largest weight to `top`.
fn scaled(weights: &mut [f32], top: f32, round: impl Fn(f32) -> f32) {
    let scale = weights.iter().fold(0.0_f32, |largest, weight| largest.max(weight.abs())) / top;
    if scale > 0.0 {
        for weight in weights {
            *weight = round(*weight / scale) * scale;
        }
    }
}

/// The E4M3 value nearest to `value`, halves to even.
fn nearest_fp8(value: f32) -> f32 {
    /// The exponent of the smallest normal value; below it the spacing no longer shrinks.
    const LEAST: i32 = -6;
    let biased = i32::try_from((value.to_bits() >> 23) & 0xff).unwrap_or(0);
    let spacing = f32::powi(2.0, (biased - 127).max(LEAST) - 3);
    ((value / spacing).round_ties_even() * spacing).clamp(-FP8_MAX, FP8_MAX)
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "rounded values are exact")]
mod tests {
    use super::*;
    use crate::random::Random;

    fn weights() -> Vec<f32> {
        let mut random = Random::new(1);
        (0..4 * 256).map(|_| round_bf16(random.normal())).collect()
    }

    fn relative_error(format: Format) -> f64 {
        let original = weights();
        let mut quantized = original.clone();
        matrix(&mut quantized, 256, format);
        let square = |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v).powi(2)).sum::<f64>();
        let error = square(&mut original.iter().zip(&quantized).map(|(a, b)| a - b));
        (error / square(&mut original.iter().copied())).sqrt()
    }

    #[test]
    fn fp8_values_stay_and_others_go_to_the_even_neighbour() {
        for value in [0.0, 448.0, -448.0, 1.125, 0.001_953_125, 0.015_625, -13.0] {
            assert_eq!(nearest_fp8(value), value, "{value}");
        }
        for (value, nearest) in [(1.0625, 1.0), (1.1875, 1.25), (460.0, 448.0), (0.000_976, 0.0), (17.0, 16.0)] {
            assert_eq!(nearest_fp8(value), nearest, "{value}");
        }
    }

    #[test]
    fn a_channel_takes_at_most_255_values_and_keeps_its_largest() {
        let mut quantized = weights();
        matrix(&mut quantized, 256, Format::Int8Channel);
        for (row, original) in quantized.chunks(256).zip(weights().chunks(256)) {
            let mut bits: Vec<u32> = row.iter().map(|weight| weight.to_bits()).collect();
            bits.sort_unstable();
            bits.dedup();
            assert!(bits.len() <= 255);
            let largest = |row: &[f32]| row.iter().fold(0.0_f32, |a, b| a.max(b.abs()));
            assert_eq!(largest(row), largest(original));
        }
    }

    #[test]
    fn finer_scales_lose_less() {
        let [channel, group, fp8, int4, fine, pruned, tenth, bf16] = Format::ALL.map(relative_error);
        assert!(
            group <= channel && channel < fp8 && fp8 < fine && fine < int4,
            "{group} {channel} {fp8} {fine} {int4}"
        );
        assert!(channel > 0.003 && fp8 < 0.04 && int4 < 0.2, "{channel} {fp8} {int4}");
        assert!(tenth < pruned && pruned < 0.5, "{tenth} {pruned}");
        assert_eq!(bf16, 0.0);
    }

    #[test]
    fn pruning_takes_the_smallest() {
        let pruned = |format| {
            let mut weights = [4.0, -1.0, 2.0, -3.0, 0.5, 8.0, 7.0, -6.0, 5.0, 9.0];
            matrix(&mut weights, 5, format);
            weights
        };
        assert_eq!(pruned(Format::Pruned2Of4), [4.0, 0.0, 0.0, -3.0, 0.5, 8.0, 7.0, 0.0, 0.0, 9.0]);
        assert_eq!(pruned(Format::PrunedTenth), [4.0, -1.0, 2.0, -3.0, 0.0, 8.0, 7.0, -6.0, 5.0, 9.0]);
    }

    #[test]
    fn a_matrix_of_zeros_stays() {
        let mut zeros = vec![0.0; 8];
        for format in Format::ALL {
            matrix(&mut zeros, 4, format);
            assert_eq!(zeros, [0.0; 8]);
        }
    }
}
