//! The two ways to round.

use assay_commitments::rows::{round_bf16, round_bf16_once};

/// Where values are rounded between operations. Both modes run the same code on f32 tensors and
/// accumulate in f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Numerics {
    /// The profile `bf16-1`: every operation of the block ends in one rounding to canonical bf16, so
    /// that its f32 tensors hold bf16 values only. Widening once, at load, is exact, and spares the
    /// widening of whole matrices that a CPU without bf16 kernels does in every product.
    Bf16V1,
    /// No rounding, to compare with other f32 implementations.
    F32,
}

impl Numerics {
    /// One value, rounded once from f64.
    #[expect(clippy::cast_possible_truncation, reason = "a bf16 value is an f32 value, and f32 is rounded to")]
    pub fn round_once(self, value: f64) -> f32 {
        match self {
            Self::Bf16V1 => round_bf16_once(value) as f32,
            Self::F32 => flush(value as f32),
        }
    }

    /// Rounds each value once. Magnitudes under 2^-126 and negative zero become zero in both modes:
    /// no committed row may hold them.
    pub fn round(self, values: &mut [f32]) {
        match self {
            Self::Bf16V1 => values.iter_mut().for_each(|value| *value = round_bf16(*value)),
            Self::F32 => values.iter_mut().for_each(|value| *value = flush(*value)),
        }
    }
}

fn flush(value: f32) -> f32 {
    if value.abs() < f32::MIN_POSITIVE { 0.0 } else { value }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f32_keeps_everything_but_tiny_values_and_negative_zero() {
        let mut values = [1.0 + f32::EPSILON, -0.0, 1e-40, -f32::MIN_POSITIVE];
        Numerics::F32.round(&mut values);
        assert_eq!(values.map(f32::to_bits), [1.0 + f32::EPSILON, 0.0, 0.0, -f32::MIN_POSITIVE].map(f32::to_bits));
    }

    #[test]
    fn bf16_keeps_eight_significant_bits() {
        let mut values = [1.0 + 1.0 / 128.0, 1.0 + 1.0 / 1024.0, -0.0];
        Numerics::Bf16V1.round(&mut values);
        assert_eq!(values.map(f32::to_bits), [1.0 + 1.0 / 128.0, 1.0, 0.0_f32].map(f32::to_bits));
    }
}
