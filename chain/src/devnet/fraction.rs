//! Numbers from 0 to 1 with 32 fractional bits, as the chain computes with.

use std::iter::Sum;

/// A non-negative number with 32 fractional bits, rounded down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Fraction(u64);

impl Fraction {
    pub(super) const ZERO: Self = Self(0);

    /// `part / whole` for `part <= whole`; zero where there is no whole.
    pub(super) fn ratio(part: u128, whole: u128) -> Self {
        let bits = (part << 32).checked_div(whole).unwrap_or(0);
        Self(u64::try_from(bits).unwrap_or(u64::MAX))
    }

    pub(super) fn times(self, other: Self) -> Self {
        let bits = (u128::from(self.0) * u128::from(other.0)) >> 32;
        Self(u64::try_from(bits).unwrap_or(u64::MAX))
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

impl Sum for Fraction {
    fn sum<I: Iterator<Item = Self>>(fractions: I) -> Self {
        Self(fractions.fold(0, |sum, fraction| sum.saturating_add(fraction.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotients_and_products_are_rounded_down() {
        assert_eq!(Fraction::ratio(1, 3).bits(), 0x5555_5555);
        assert_eq!(Fraction::ratio(1, 4).times(Fraction::ratio(1, 2)), Fraction::ratio(1, 8));
        assert_eq!(Fraction::ratio(7, 0), Fraction::ZERO);
    }

    #[test]
    fn one_is_the_full_proportion() {
        assert_eq!(Fraction::ratio(u128::from(u64::MAX), u128::from(u64::MAX)).to_proportion(), 65_535);
        assert_eq!(Fraction::ratio(1, 2).to_proportion(), 32_767);
    }
}
