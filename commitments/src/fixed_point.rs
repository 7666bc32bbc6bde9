//! Fixed-point images of weight matrices.
//!
//! A matrix has one exponent `e = floor(log2 max|w|)` and each weight the image
//! `round_half_even(w 2^(23 - e))`, 24 bits and a sign. Weights within `2^16` of the maximum that
//! came from bf16 (8 significant bits) keep every bit; smaller ones are off by at most `2^-24` of
//! the maximum.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::panic, clippy::expect_used)]

use thiserror::Error;

/// Bits of an image below its leading one.
const FRACTION_BITS: i32 = 23;

/// Every image is below `2^IMAGE_BITS` in magnitude.
pub const IMAGE_BITS: u32 = 24;

/// Why weights have no image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ImageError {
    /// A weight is NaN or infinite.
    #[error("weight {position} of matrix {matrix} is NaN or infinite")]
    NotFinite {
        /// Index of the matrix among those given; 0 for a lone one.
        matrix: usize,
        /// Index of the weight in the matrix's list.
        position: usize,
    },
    /// A weight is `2^(e + 1)` or more, for an exponent `e` that was given.
    #[error("weight {position} of matrix {matrix} is too large for the exponent")]
    TooLarge {
        /// Index of the matrix among those given.
        matrix: usize,
        /// Index of the weight in the matrix's list.
        position: usize,
    },
    /// The matrices are not those of the layout.
    #[error("matrix {matrix} is missing, in excess, or has another number of weights than its shape")]
    Shape {
        /// Index of the first such matrix.
        matrix: usize,
    },
}

impl ImageError {
    /// The same error in another matrix.
    #[must_use]
    pub const fn in_matrix(self, matrix: usize) -> Self {
        match self {
            Self::NotFinite { position, .. } => Self::NotFinite { matrix, position },
            Self::TooLarge { position, .. } => Self::TooLarge { matrix, position },
            Self::Shape { .. } => Self::Shape { matrix },
        }
    }
}

/// `floor(log2 max|w|)`, from -149 to 127; 0 for a matrix of zeros.
///
/// # Errors
/// [`ImageError::NotFinite`] at the first NaN or infinity.
pub fn exponent(values: &[f32]) -> Result<i16, ImageError> {
    const MAGNITUDE: u32 = 0x7fff_ffff;
    if let Some(position) = values.iter().position(|value| !value.is_finite()) {
        return Err(ImageError::NotFinite { matrix: 0, position });
    }
    // Magnitudes of finite floats are ordered as their bits are.
    let largest = values.iter().map(|value| value.to_bits() & MAGNITUDE).max().unwrap_or(0);
    Ok(floor_log2(largest))
}

/// `floor(log2)` of the finite positive float with these bits, 0 for zero.
fn floor_log2(bits: u32) -> i16 {
    let biased = bits >> 23;
    let exponent = match (bits, biased) {
        (0, _) => 0,
        // A subnormal is its mantissa times 2^-149.
        (mantissa, 0) => i32::try_from(mantissa.ilog2()).unwrap_or(0).saturating_sub(149),
        (_, biased) => i32::try_from(biased).unwrap_or(0).saturating_sub(127),
    };
    i16::try_from(exponent).unwrap_or(0)
}

/// The images of values whose largest magnitude has the exponent `exponent`.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    factor: f64,
}

impl Scale {
    /// The scale `2^(23 - exponent)`, for an exponent that [`exponent`] can give.
    pub fn new(exponent: i16) -> Self {
        const BIAS: i32 = 1023;
        // 23 - e lies in -104..=172, so the power of two is a normal f64.
        let power = FRACTION_BITS.saturating_sub(i32::from(exponent)).saturating_add(BIAS);
        let bits = u64::try_from(power.clamp(1, 2046)).unwrap_or(1) << 52;
        Self { factor: f64::from_bits(bits) }
    }

    /// `round_half_even(w 2^(23 - e))`. Exact: the product of a 24-bit significand with a power of
    /// two fits an f64. Of a weight too large for the exponent comes some number.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "the integer stands in the low bits")]
    pub fn image(self, weight: f32) -> i32 {
        // 1.5 * 2^52: a sum of this magnitude has the unit as its last bit, rounded half to even as
        // all sums are, and the integer itself, in two's complement, in its low bits. Unlike the
        // rounding functions this needs no instruction that an old processor lacks.
        const SHIFT: f64 = 6_755_399_441_055_744.0;
        ((f64::from(weight) * self.factor + SHIFT).to_bits() as u32).cast_signed()
    }
}

/// `round_half_even(w 2^(23 - e))` for a weight of a matrix with exponent `e`: below `2^24` in
/// magnitude.
pub fn image(weight: f32, exponent: i16) -> i32 {
    Scale::new(exponent).image(weight)
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, clippy::float_cmp, reason = "tests may panic, and compare exact values")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn exponents_are_floors_of_logarithms() {
        let cases = [
            (1.0, 0),
            (1.999_999_9, 0),
            (2.0, 1),
            (-3.5, 1),
            (0.5, -1),
            (0.499_999_97, -2),
            (f32::MAX, 127),
            (f32::MIN_POSITIVE, -126),
            (f32::from_bits(1), -149),
            (f32::from_bits(0x007f_ffff), -127),
            (0.0, 0),
            (-0.0, 0),
        ];
        for (value, expected) in cases {
            assert_eq!(exponent(&[0.0, value, -0.0]), Ok(expected), "{value:e}");
        }
        assert_eq!(exponent(&[]), Ok(0));
        assert_eq!(exponent(&[0.25, -8.0, 7.9]), Ok(3));
    }

    #[test]
    fn what_is_not_finite_is_refused_with_its_position() {
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert_eq!(exponent(&[1.0, 2.0, value, value]), Err(ImageError::NotFinite { matrix: 0, position: 2 }));
        }
    }

    #[test]
    fn images_round_half_to_even() {
        let unit = 2.0_f32.powi(-23);
        let cases = [(1.0, 1 << 23), (0.5 * unit, 0), (1.5 * unit, 2), (2.5 * unit, 2), (-1.5 * unit, -2), (-0.0, 0)];
        for (weight, expected) in cases {
            assert_eq!(image(weight, 0), expected, "{weight:e}");
        }
        assert_eq!(image(f32::MAX, 127), (1 << 24) - 1);
        assert_eq!(image(-f32::MAX, 127), 1 - (1 << 24));
        assert_eq!(image(f32::from_bits(1), -149), 1 << 23);
        assert_eq!(image(1e-30, 127), 0);
    }

    proptest! {
        #[test]
        fn prop_images_are_those_of_the_rounding_function(
            weight in any::<f32>().prop_filter("finite", |w| w.is_finite()),
            smaller in 0_i16..30,
        ) {
            let exponent = (exponent(&[weight]).unwrap() + smaller).min(127);
            let unit = f64::exp2(f64::from(i32::from(exponent) - 23));
            let rounded = (f64::from(weight) / unit).round_ties_even();
            prop_assert_eq!(f64::from(image(weight, exponent)), rounded + 0.0);
        }

        #[test]
        fn prop_images_fit_and_lose_at_most_half_a_unit(
            weights in proptest::collection::vec(any::<f32>().prop_filter("finite", |w| w.is_finite()), 1..20),
        ) {
            let exponent = exponent(&weights).unwrap();
            let unit = f64::exp2(f64::from(i32::from(exponent) - 23));
            for weight in weights {
                let image = image(weight, exponent);
                prop_assert!(image.unsigned_abs() < 1 << IMAGE_BITS);
                prop_assert!((f64::from(image) * unit - f64::from(weight)).abs() <= unit / 2.0);
            }
        }

        #[test]
        fn prop_bf16_weights_near_the_maximum_are_exact(bits in any::<u16>(), shift in 0_i32..16) {
            let weight = f32::from_bits(u32::from(bits) << 16);
            prop_assume!(weight.is_normal());
            let exponent = i32::from(exponent(&[weight]).unwrap()) + shift;
            prop_assume!(exponent <= 127);
            let unit = f64::exp2(f64::from(exponent - 23));
            let image = image(weight, i16::try_from(exponent).unwrap());
            prop_assert_eq!(f64::from(image) * unit, f64::from(weight));
        }
    }
}
