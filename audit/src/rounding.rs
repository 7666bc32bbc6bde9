//! Roundings that the reference cannot know.
//!
//! A supplied product is known up to half its step, and a runtime adds up its terms in another order:
//! where the value lies that near to the middle between two numbers of the runtime's dtype, an honest runtime may have
//! taken either. Were the reference to insist on one, a single such activation could move a whole row
//! that hangs on it. So the prover may name entries in which its runtime rounded the other way; the
//! verifier takes the other neighbour there, after checking that the entry really is in doubt. What a
//! forger gains is the honest freedom: one unit in the last place, in the few entries in doubt. Numbers of
//! f32 lie too near to each other for any of that to matter, and nothing is in doubt.

use std::borrow::Cow;

use assay_commitments::codec::{Malformed, Reader, Writer};
use assay_commitments::rows::{Element, Profile};

use crate::fixed::Supplied;
use crate::num::{index, power_of_two, real};
use crate::reference::silu;
use crate::tolerance::median_magnitude;

/// Most entries of one list.
const MAX_FLIPS: usize = 64;

/// Entries of each row in which the runtime rounded the other way, ascending.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Flips {
    pub(crate) q: Vec<u32>,
    pub(crate) k: Vec<u32>,
    pub(crate) gate: Vec<u32>,
    pub(crate) up: Vec<u32>,
    pub(crate) silu: Vec<u32>,
}

impl Flips {
    pub(crate) fn write(&self, out: &mut Writer) {
        let Self { q, k, gate, up, silu } = self;
        [q, k, gate, up, silu].into_iter().for_each(|list| out.list(list));
    }

    pub(crate) fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        let mut list = || {
            let list: Vec<u32> = from.list(MAX_FLIPS)?;
            if list.is_sorted_by(|a, b| a < b) { Ok(list) } else { Err(Malformed::NotCanonical) }
        };
        Ok(Self { q: list()?, k: list()?, gate: list()?, up: list()?, silu: list()? })
    }

    /// Most bytes that all lists take.
    pub(crate) const fn max_bytes() -> usize {
        5 * (4 + 4 * MAX_FLIPS)
    }

    /// Whether a list has room.
    pub(crate) const fn has_room(list: &[u32]) -> bool {
        list.len() < MAX_FLIPS
    }
}

/// A value that a runtime may have rounded in one way or in another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Doubt {
    profile: Profile,
    value: f64,
    slack: f64,
}

impl Doubt {
    /// A value known up to `slack`.
    const fn of(profile: Profile, value: f64, slack: f64) -> Self {
        Self { profile, value, slack }
    }

    /// What an honest runtime rounds it to, unless it is [`Self::other`].
    pub(crate) fn nearest(self) -> f64 {
        self.profile.round_once(self.value)
    }

    /// What an honest runtime may have rounded it to instead. There is doubt between two neighbours at most: where the
    /// slack spans more, the value is so small that its rounding moves nothing.
    pub(crate) fn other(self) -> Option<f64> {
        let Self { profile, value, slack } = self;
        if profile.element() == Element::F32 {
            return None;
        }
        let nearest = self.nearest();
        let (low, high) = (profile.round_once(value - slack), profile.round_once(value + slack));
        let middle = profile.round_once(f64::midpoint(low, high));
        let neighbours = nearest.is_finite()
            && low != high
            && (middle == low || middle == high)
            && (nearest == low || nearest == high);
        let other = neighbours.then_some(if nearest == low { high } else { low });
        other.filter(|other| other.is_finite())
    }
}

/// Share of a product by which the order of summation moves it, and of the row's median, for terms that
/// cancel.
const SUM_SLACK: [i32; 2] = [-20, -16];
/// Share of an elementary function's value by which f32 and f64 differ.
const FUNCTION_SLACK: i32 = -20;

/// Supplied products as a runtime rounds them, with a bias added if there is one.
#[derive(Debug)]
pub(crate) struct Rounded<'a> {
    profile: Profile,
    supplied: &'a Supplied,
    /// Of the product's grid.
    unit: f64,
    /// One an output, or none.
    bias: Cow<'a, [f32]>,
}

impl<'a> Rounded<'a> {
    /// Of products on a grid of `2^exponent`.
    pub(crate) fn new(profile: Profile, supplied: &'a Supplied, exponent: i32, bias: Cow<'a, [f32]>) -> Self {
        Self { profile, supplied, unit: power_of_two(exponent), bias }
    }

    /// What an honest runtime rounds each to, where it does not take the other.
    fn nearest(&self) -> Vec<f64> {
        let step = self.supplied.step();
        let products = self.supplied.values.iter().map(|value| real(*value) * step * self.unit);
        if self.bias.is_empty() {
            self.profile.rounded(&products)
        } else {
            self.profile.rounded(&products.zip(&*self.bias).map(|(product, bias)| product + f64::from(*bias)))
        }
    }

    /// The doubt about each.
    pub(crate) fn doubts(&self) -> Vec<Doubt> {
        let row: Vec<f64> = self.supplied.on_product_grid().map(|value| real(value) * self.unit).collect();
        let [own, common] = SUM_SLACK.map(power_of_two);
        let base = self.supplied.step() / 2.0 * self.unit + common * median_magnitude(&row);
        let bias = self.bias.iter().copied().chain(std::iter::repeat(0.0)).map(f64::from);
        row.iter()
            .zip(bias)
            .map(|(value, bias)| Doubt::of(self.profile, value + bias, base + own * (value.abs() + bias.abs())))
            .collect()
    }

    /// The row as the runtime took it. `None` if an entry is flipped that is not in doubt or not there.
    pub(crate) fn resolve(&self, flips: &[u32]) -> Option<Vec<f64>> {
        let nearest = self.nearest();
        if flips.is_empty() {
            return Some(nearest);
        }
        let doubts = self.doubts();
        flip(nearest, flips, |place| doubts.get(place).copied())
    }
}

/// The doubt about silu of a rounded gate.
pub(crate) fn silu_doubt(profile: Profile, gate: f64) -> Doubt {
    let value = silu(gate);
    Doubt::of(profile, value, power_of_two(FUNCTION_SLACK) * value.abs())
}

/// Silu of rounded gates as the runtime took it. `None` if an entry is flipped that is not in doubt or not there.
pub(crate) fn resolve_silu(profile: Profile, gates: &[f64], flips: &[u32]) -> Option<Vec<f64>> {
    let nearest = gates.iter().map(|gate| silu_doubt(profile, *gate).nearest()).collect();
    flip(nearest, flips, |place| gates.get(place).map(|gate| silu_doubt(profile, *gate)))
}

/// Takes the other rounding at the places that are flipped.
fn flip(mut row: Vec<f64>, flips: &[u32], doubt: impl Fn(usize) -> Option<Doubt>) -> Option<Vec<f64>> {
    for flip in flips {
        let place = index(*flip);
        *row.get_mut(place)? = doubt(place)?.other()?;
    }
    Some(row)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_values_near_a_middle_are_in_doubt() {
        // bf16 neighbours of 1 are 1 - 2^-8 and 1 + 2^-7; the middle above is 1 + 2^-8.
        let middle = 1.0 + power_of_two(-8);
        let doubt = |value, slack| Doubt::of(Profile::Bf16V1, value, slack);
        assert_eq!(doubt(1.001, 1e-4).other(), None);
        let near = doubt(middle - 1e-6, 1e-5);
        assert_eq!((near.nearest(), near.other()), (1.0, Some(1.0 + power_of_two(-7))));
        let above = doubt(middle + 1e-6, 1e-5);
        assert_eq!((above.nearest(), above.other()), (1.0 + power_of_two(-7), Some(1.0)));
        // A slack over several neighbours leaves no choice.
        assert_eq!(doubt(1.0, 0.1).other(), None);
        assert_eq!(Doubt::of(Profile::F32V1, middle, 1e-5).other(), None);
    }

    #[test]
    fn a_flip_is_taken_where_there_is_doubt_and_nowhere_else() {
        let (middle, above) = (1.0 + power_of_two(-8), 1.0 + power_of_two(-7));
        let doubts =
            [(1.001, 1e-4), (middle - 1e-6, 1e-5)].map(|(value, slack)| Doubt::of(Profile::Bf16V1, value, slack));
        let resolve = |doubts: &[Doubt; 2], flips: &[u32]| {
            flip(doubts.map(Doubt::nearest).to_vec(), flips, |place| doubts.get(place).copied())
        };
        assert_eq!(resolve(&doubts, &[]), Some(vec![1.0, 1.0]));
        assert_eq!(resolve(&doubts, &[1]), Some(vec![1.0, above]));
        assert_eq!(resolve(&doubts, &[0]), None);
        assert_eq!(resolve(&doubts, &[2]), None);
    }

    #[test]
    fn supplied_products_are_taken_as_the_flips_say() {
        // Products in steps of 2^4 on a grid of 2^-20: one right on a middle of bf16, one far from any.
        let step = 1 << 4;
        let supplied = Supplied::forged(4, vec![((1 << 20) + (1 << 12)) / step, (1 << 20) / step]);
        let above = 1.0 + power_of_two(-7);
        for (bias, more) in [(vec![], 0.0), (vec![1.0, 1.0], 1.0)] {
            let rounded = Rounded::new(Profile::Bf16V1, &supplied, -20, Cow::Owned(bias));
            let nearest = rounded.resolve(&[]).unwrap();
            let doubts = rounded.doubts();
            assert_eq!(nearest, doubts.iter().map(|doubt| doubt.nearest()).collect::<Vec<_>>());
            assert_eq!(nearest[1], 1.0 + more);
            // With the bias the middle is none any more.
            let flipped = if more == 0.0 { Some(vec![above, 1.0]) } else { None };
            assert_eq!(rounded.resolve(&[0]), flipped);
            assert_eq!(rounded.resolve(&[1]), None);
            assert_eq!(rounded.resolve(&[2]), None);
        }
        let gates = [above, 1.0];
        let silu = resolve_silu(Profile::Bf16V1, &gates, &[]).unwrap();
        assert_eq!(silu, gates.map(|gate| silu_doubt(Profile::Bf16V1, gate).nearest()));
        assert_eq!(resolve_silu(Profile::Bf16V1, &gates, &[2]), None);
    }

    #[test]
    fn lists_are_ascending_and_bounded() {
        let read = |flips: &Flips| {
            let mut out = Writer::new();
            flips.write(&mut out);
            let bytes = out.finish();
            Flips::read(&mut Reader::new(&bytes))
        };
        let sorted = Flips { gate: vec![1, 5], ..Flips::default() };
        assert_eq!(read(&sorted), Ok(sorted));
        assert!(read(&Flips { up: vec![5, 1], ..Flips::default() }).is_err());
        assert!(read(&Flips { q: vec![3, 3], ..Flips::default() }).is_err());
        assert!(read(&Flips { k: (0..65).collect(), ..Flips::default() }).is_err());
    }
}
