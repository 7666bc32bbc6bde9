//! Conversions between number types, each in one place.

use assay_commitments::rows::vectorized;

/// An index or count as `usize`; no supported platform has fewer than 32 bits.
#[expect(clippy::as_conversions, reason = "u32 to usize widens on every supported platform")]
pub(crate) const fn index(value: u32) -> usize {
    value as usize
}

/// A count as `u32`, saturating: counts here are bounded far below.
pub(crate) fn count(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

/// A count as `u64`.
pub(crate) fn long(value: usize) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}

/// An integer as f64, rounded to nearest where it has more than 53 bits.
#[expect(clippy::as_conversions, clippy::cast_precision_loss, reason = "rounding to nearest is meant")]
pub(crate) const fn real(value: i64) -> f64 {
    value as f64
}

/// A count as f64.
#[expect(clippy::as_conversions, clippy::cast_precision_loss, reason = "counts stay below 2^53")]
pub(crate) const fn real_count(value: usize) -> f64 {
    value as f64
}

/// The nearest integer to `value`, halves to even; `None` unless its magnitude is below 2^62: what
/// [`nearest_integers`] is held against.
#[cfg(test)]
#[expect(clippy::as_conversions, clippy::cast_possible_truncation, reason = "the range is checked")]
pub(crate) fn nearest_integer(value: f64) -> Option<i64> {
    const BOUND: f64 = 4_611_686_018_427_387_904.0;
    /// 2^52: numbers from here on are integers, and a sum that reaches it is rounded to one, as IEEE 754 says how.
    /// (The standard library's rounding is a call on processors without an instruction for it.)
    const INTEGERS: f64 = 4_503_599_627_370_496.0;
    let shift = if value.abs() < INTEGERS { INTEGERS.copysign(value) } else { 0.0 };
    (value.abs() < BOUND).then_some(((value + shift) - shift) as i64)
}

/// Integers of [`nearest_integers`] lie below this magnitude.
pub(crate) const NEAREST_BOUND: i64 = 1 << 51;

/// The nearest integers, halves to even; `None` unless all are below [`NEAREST_BOUND`] in magnitude.
pub(crate) fn nearest_integers(values: &(impl ExactSizeIterator<Item = f64> + Clone)) -> Option<Vec<i64>> {
    const BOUND: f64 = real(NEAREST_BOUND);
    /// 3 * 2^51: sums with it lie where f64 are integers, and their bits count up with them.
    const MIDDLE: f64 = 6_755_399_441_055_744.0;
    let mut integers = vec![0; values.len()];
    let all_fit = vectorized(
        #[inline(always)]
        || {
            integers.iter_mut().zip(values.clone()).fold(true, |all_fit, (integer, value)| {
                let sum = value + MIDDLE;
                *integer = sum.to_bits().wrapping_sub(MIDDLE.to_bits()).cast_signed();
                all_fit & ((sum - MIDDLE).abs() < BOUND)
            })
        },
    );
    all_fit.then_some(integers)
}

/// A real in `0 ..= 2^127` cut to an integer; `None` outside.
#[expect(
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the range is checked"
)]
pub(crate) fn floor_u128(value: f64) -> Option<u128> {
    const BOUND: f64 = 170_141_183_460_469_231_731_687_303_715_884_105_728.0;
    (0.0..=BOUND).contains(&value).then_some(value as u128)
}

/// 2^exponent, exactly, for exponents of normal numbers; beyond them 0 or infinity.
pub(crate) fn power_of_two(exponent: i32) -> f64 {
    match exponent.checked_add(1023) {
        Some(biased @ 1..=2046) => f64::from_bits(u64::from(biased.unsigned_abs()) << 52),
        Some(biased) if biased > 2046 => f64::INFINITY,
        _ => 0.0,
    }
}

/// `floor(log2 |value|)` of a normal number.
pub(crate) fn floor_log2(value: f64) -> i32 {
    let biased = (value.to_bits() >> 52) & 0x7ff;
    i32::try_from(biased).unwrap_or(0).saturating_sub(1023)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_of_two_are_exact() {
        assert_eq!(power_of_two(0), 1.0);
        assert_eq!(power_of_two(-126), f64::from(f32::MIN_POSITIVE));
        assert_eq!(power_of_two(2000), f64::INFINITY);
        assert_eq!(power_of_two(-2000), 0.0);
        for exponent in -1022..=1023 {
            assert_eq!(floor_log2(power_of_two(exponent)), exponent);
            assert_eq!(floor_log2(-power_of_two(exponent) * 1.5), exponent);
        }
    }

    #[test]
    fn integers_are_rounded_to_even_and_bounded() {
        assert_eq!(nearest_integer(2.5), Some(2));
        assert_eq!(nearest_integer(-3.5), Some(-4));
        assert_eq!(nearest_integer(power_of_two(62)), None);
        assert_eq!(nearest_integer(f64::NAN), None);
        let mut bits = 1_u64;
        for _ in 0..100_000 {
            bits = bits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            // From 2^-10 to 2^61, many halfway between integers.
            let mantissa = f64::from(u32::try_from(bits >> 40).unwrap()) + 0.5;
            let exponent = i32::try_from(bits % 72).unwrap() - 34;
            let value = mantissa * power_of_two(exponent) * if bits & 128 == 0 { 1.0 } else { -1.0 };
            assert_eq!(nearest_integer(value).map(real), Some(value.round_ties_even()), "{value}");
            let nearest = nearest_integer(value).filter(|integer| integer.abs() < NEAREST_BOUND);
            assert_eq!(nearest_integers(&[value].into_iter()), nearest.map(|integer| vec![integer]), "{value}");
        }
        // At the bound, and what is no number.
        let bound = power_of_two(51);
        let within = [bound - 0.75, 0.25 - bound + 0.5, 0.0, -0.0];
        let expected = within.iter().map(|value| nearest_integer(*value).unwrap()).collect::<Vec<_>>();
        assert_eq!(nearest_integers(&within.into_iter()), Some(expected));
        for beyond in [bound, -bound, bound - 0.25, 3.0 * bound, -1e300, f64::INFINITY, f64::NEG_INFINITY, f64::NAN] {
            for place in 0..9 {
                let mut values = [1.5; 9];
                values[place] = beyond;
                assert_eq!(nearest_integers(&values.into_iter()), None, "{beyond}");
            }
        }
        assert_eq!(floor_u128(-1.0), None);
        assert_eq!(floor_u128(f64::INFINITY), None);
        assert_eq!(floor_u128(power_of_two(120)), Some(1 << 120));
    }
}
