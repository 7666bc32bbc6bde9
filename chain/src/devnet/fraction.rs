//! Numbers with 32 fractional bits, as the chain computes with.

use std::iter::Sum;
use std::ops::{Add, Sub};

/// A non-negative number with 32 fractional bits, rounded down: the chain's `I32F32`, whose operations
/// saturate and whose quotients and products lose what is below 2^-32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Fraction(u64);

impl Fraction {
    pub(super) const ZERO: Self = Self(0);
    pub(super) const ONE: Self = Self(1 << 32);

    /// A quotient; zero where there is no whole.
    pub(super) fn ratio(part: u128, whole: u128) -> Self {
        let bits = (part << 32).checked_div(whole).unwrap_or(0);
        Self(u64::try_from(bits).unwrap_or(u64::MAX))
    }

    /// A share of 65535.
    pub(super) fn proportion(part: u16) -> Self {
        Self::ratio(part.into(), u16::MAX.into())
    }

    /// The quotient of two fractions; zero where there is no whole.
    pub(super) fn of(self, whole: Self) -> Self {
        Self::ratio(self.0.into(), whole.0.into())
    }

    pub(super) fn times(self, other: Self) -> Self {
        let bits = (u128::from(self.0) * u128::from(other.0)) >> 32;
        Self(u64::try_from(bits).unwrap_or(u64::MAX))
    }

    /// The product rounded up, which is what rounding down makes of a negative one.
    pub(super) fn times_up(self, other: Self) -> Self {
        let bits = (u128::from(self.0) * u128::from(other.0)).div_ceil(1 << 32);
        Self(u64::try_from(bits).unwrap_or(u64::MAX))
    }

    /// So much of a whole number, rounded down.
    pub(super) fn of_amount(self, amount: u64) -> u64 {
        u64::try_from((u128::from(self.0) * u128::from(amount)) >> 32).unwrap_or(u64::MAX)
    }

    /// Units of 2^-32.
    pub(super) fn bits(self) -> u64 {
        self.0
    }

    /// The number as a share of 65535, the form in which the chain publishes proportions.
    pub(super) fn to_proportion(self) -> u16 {
        let share = (u128::from(self.0) * u128::from(u16::MAX)) >> 32;
        u16::try_from(share).unwrap_or(u16::MAX)
    }
}

impl Add for Fraction {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

/// Down to zero.
impl Sub for Fraction {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl Sum for Fraction {
    fn sum<I: Iterator<Item = Self>>(fractions: I) -> Self {
        fractions.fold(Self::ZERO, Add::add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotients_and_products_are_rounded_down() {
        assert_eq!(Fraction::ratio(1, 3).bits(), 0x5555_5555);
        assert_eq!(Fraction::ratio(1, 4).times(Fraction::ratio(1, 2)), Fraction::ratio(1, 8));
        assert_eq!(Fraction::ratio(1, 3).times(Fraction::ratio(1, 3)).bits(), 0x1c71_c71c);
        assert_eq!(Fraction::ratio(1, 3).times_up(Fraction::ratio(1, 3)).bits(), 0x1c71_c71d);
        assert_eq!(Fraction::ratio(7, 0), Fraction::ZERO);
    }

    #[test]
    fn one_is_the_full_proportion() {
        assert_eq!(Fraction::ratio(u128::from(u64::MAX), u128::from(u64::MAX)).to_proportion(), 65_535);
        assert_eq!(Fraction::ratio(1, 2).to_proportion(), 32_767);
        assert_eq!(Fraction::proportion(u16::MAX), Fraction::ONE);
    }
}
