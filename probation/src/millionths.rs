//! The one unit of scores and shares.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A number from 0 to 1 in steps of a millionth.
///
/// Integers, because a float read back from a file or computed on another platform may differ in
/// its last bit, and two validators that hold the same history must hold the same score.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Millionths(u32);

/// A number that should have been at most one million is larger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} millionths is more than one")]
pub struct AboveOne(u32);

impl Millionths {
    /// Nothing.
    pub const ZERO: Self = Self(0);
    /// The whole.
    pub const ONE: Self = Self(1_000_000);

    /// Wraps a count of millionths; what is above one becomes one.
    pub const fn saturating(raw: u32) -> Self {
        if raw > Self::ONE.0 { Self::ONE } else { Self(raw) }
    }

    /// The count of millionths.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// `part / whole`, rounded down and at most one; zero where there is no whole.
    pub(crate) fn ratio(part: u128, whole: u128) -> Self {
        let millionths = part.saturating_mul(u128::from(Self::ONE.0)).checked_div(whole).unwrap_or(0);
        u32::try_from(millionths).map_or(Self::ONE, Self::saturating)
    }
}

impl TryFrom<u32> for Millionths {
    type Error = AboveOne;

    fn try_from(raw: u32) -> Result<Self, AboveOne> {
        if raw > Self::ONE.0 { Err(AboveOne(raw)) } else { Ok(Self(raw)) }
    }
}

impl From<Millionths> for u32 {
    fn from(value: Millionths) -> Self {
        value.0
    }
}

impl fmt::Display for Millionths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06}", self.0 / Self::ONE.0, self.0 % Self::ONE.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_rounded_down_and_never_above_one() {
        assert_eq!(Millionths::ratio(1, 3).get(), 333_333);
        assert_eq!(Millionths::ratio(7, 3), Millionths::ONE);
        assert_eq!(Millionths::ratio(1, 0), Millionths::ZERO);
        assert_eq!(Millionths::ratio(u128::MAX, 1), Millionths::ONE);
    }

    #[test]
    fn it_reads_as_a_decimal_number() {
        assert_eq!(Millionths::saturating(42).to_string(), "0.000042");
        assert_eq!(Millionths::saturating(u32::MAX).to_string(), "1.000000");
    }

    #[test]
    fn more_than_one_is_refused_when_read_from_a_file() {
        assert_eq!(Millionths::try_from(1_000_001), Err(AboveOne(1_000_001)));
        assert!(serde_json::from_str::<Millionths>("1000001").is_err());
    }
}
