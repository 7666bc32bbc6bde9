//! Fixed point: inputs of the integer products, and the products that a miner supplies.

use assay_commitments::codec::{Malformed, Reader, Writer};
use assay_commitments::rows::vectorized;

use crate::num::{NEAREST_BOUND, floor_log2, nearest_integers, power_of_two, real, real_count};

/// Most bits of an input, sign apart.
const INPUT_BITS: i32 = 24;
/// Most that the magnitudes of an input row add up to: with weights below 2^24 every product stays
/// below 2^51.
const INPUT_SUM: i64 = 1 << 27;
/// Every product and every row on a product's grid lies below this magnitude.
pub(crate) const PRODUCT_BOUND: i64 = NEAREST_BOUND;

/// An input row in fixed point: `x = integers * 2^exponent`, nearly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FixedRow {
    pub(crate) integers: Vec<i64>,
    pub(crate) exponent: i32,
}

impl FixedRow {
    /// Rounds a row of finite numbers with the most bits `B <= 24` for which its magnitudes add up to
    /// at most 2^27. A row of zeros is zero. `None` if a number is not finite.
    pub(crate) fn new(x: &[f64]) -> Option<Self> {
        let largest = largest_real(x);
        if !largest.is_finite() {
            return None;
        }
        if largest == 0.0 {
            return Some(Self { integers: vec![0; x.len()], exponent: 0 });
        }
        let top = floor_log2(largest);
        // A rounding takes away a half at most: with so many bits the sum is too large before it is taken.
        let magnitude = magnitude_in(x, power_of_two(top.saturating_neg()));
        let too_many = |bits: i32| {
            let sum = magnitude * power_of_two(bits.saturating_sub(1));
            0.999 * sum - real_count(x.len()) > real(INPUT_SUM)
        };
        (1..=INPUT_BITS).rev().filter(|bits| !too_many(*bits)).find_map(|bits| {
            let exponent = top.saturating_sub(bits.saturating_sub(1));
            let scale = power_of_two(exponent.saturating_neg());
            let integers = nearest_integers(&x.iter().map(|x| x * scale))?;
            // Of 24 bits each; rows are far shorter than 2^40.
            let sum = vectorized(
                #[inline(always)]
                || integers.iter().fold(0_u64, |sum, integer| sum.wrapping_add(integer.unsigned_abs())),
            );
            (sum <= INPUT_SUM.unsigned_abs()).then_some(Self { integers, exponent })
        })
    }

    /// The exponent of the grid on which this row's products with a matrix lie.
    pub(crate) fn product_exponent(&self, matrix_exponent: i16) -> i32 {
        self.exponent.saturating_add(i32::from(matrix_exponent)).saturating_sub(23)
    }
}

/// The largest magnitude.
pub(crate) fn largest_magnitude(values: &[i64]) -> u64 {
    vectorized(
        #[inline(always)]
        || values.iter().map(|value| value.unsigned_abs()).fold(0, u64::max),
    )
}

/// The largest magnitude; infinite or NaN if a number is.
fn largest_real(x: &[f64]) -> f64 {
    // Bits without the sign have the order of magnitudes, with those of infinity and then of NaN on top.
    let size = |x: &f64| x.to_bits() & (u64::MAX >> 1);
    let largest = vectorized(
        #[inline(always)]
        || x.iter().map(size).fold(0, u64::max),
    );
    f64::from_bits(largest)
}

/// What the magnitudes times `unit` add up to; in whatever order, for who asks leaves a thousandth of it.
fn magnitude_in(x: &[f64], unit: f64) -> f64 {
    const LANES: usize = 8;
    let (blocks, rest) = x.as_chunks::<LANES>();
    let sums = vectorized(
        #[inline(always)]
        || {
            blocks.iter().fold([0.0; LANES], |mut sums, block| {
                sums.iter_mut().zip(block).for_each(|(sum, x)| *sum += (x * unit).abs());
                sums
            })
        },
    );
    sums.into_iter().chain(rest.iter().map(|x| (x * unit).abs())).sum()
}

/// Products that a miner supplies: `product = 2^shift * value + rest`, `|rest| <= 2^(shift - 1)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Supplied {
    pub(crate) shift: u32,
    width: Width,
    pub(crate) values: Vec<i64>,
}

/// Bytes of a supplied value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Width {
    Two,
    Three,
    Four,
}

impl Width {
    pub(crate) const ALL: [Self; 3] = [Self::Two, Self::Three, Self::Four];

    const fn bytes(self) -> usize {
        match self {
            Self::Two => 2,
            Self::Three => 3,
            Self::Four => 4,
        }
    }

    /// `2^(w - 1) - 1`.
    const fn bound(self) -> u64 {
        match self {
            Self::Two => (1 << 15) - 1,
            Self::Three => (1 << 23) - 1,
            Self::Four => (1 << 31) - 1,
        }
    }
}

/// The least lower median of the magnitudes at which a width is wide enough. Zeros count: were they
/// left out, one spike could push the step above all other products, which would then all be zero
/// and free.
const LEAST_MEDIAN: u64 = 1 << 14;
/// Products below 2^51 never need a larger shift.
const MAX_SHIFT: u32 = 40;

impl Supplied {
    /// The narrowest form whose values still have fourteen bits at the median.
    pub(crate) fn compress(products: &[i64]) -> Self {
        let forms = Width::ALL.map(|width| Self::with_width(products, width));
        let [two, three, four] = forms;
        [two, three].into_iter().find(Self::is_wide_enough).unwrap_or(four)
    }

    /// The form of that width with the least shift.
    pub(crate) fn with_width(products: &[i64], width: Width) -> Self {
        let mut shift = 0;
        loop {
            let values: Vec<i64> = products.iter().map(|product| round_shift(*product, shift)).collect();
            if shift >= MAX_SHIFT || largest_magnitude(&values) <= width.bound() {
                return Self { shift, width, values };
            }
            shift = shift.saturating_add(1);
        }
    }

    /// What a forger would send.
    #[cfg(test)]
    pub(crate) const fn forged(shift: u32, values: Vec<i64>) -> Self {
        Self { shift, width: Width::Four, values }
    }

    fn is_wide_enough(&self) -> bool {
        if self.width == Width::Four {
            return true;
        }
        let Some(middle) = self.values.len().checked_sub(1).map(|last| last / 2) else { return false };
        // The lower median is as large if those that are less do not reach the middle.
        let values = &self.values;
        let less = vectorized(
            #[inline(always)]
            || values.iter().map(|value| usize::from(value.unsigned_abs() < LEAST_MEDIAN)).sum::<usize>(),
        );
        less <= middle
    }

    fn largest(&self) -> u64 {
        largest_magnitude(&self.values)
    }

    /// Whether the shift is the least one: with one less, the largest value would not fit.
    fn is_tight(&self) -> bool {
        self.shift == 0 || self.largest() > self.width.bound() / 2
    }

    /// Whether an honest prover could have sent this for `q, k, gate, up`.
    pub(crate) fn is_canonical_product(&self) -> bool {
        self.is_tight() && self.is_wide_enough()
    }

    /// Whether an honest prover could have sent this for logits, whose width the candidates decide.
    pub(crate) fn is_canonical_logits(&self) -> bool {
        self.is_tight()
    }

    /// The values back on the product's grid.
    pub(crate) fn on_product_grid(&self) -> impl Iterator<Item = i64> + '_ {
        self.values.iter().map(|value| value.checked_shl(self.shift).unwrap_or(0))
    }

    /// `2^shift`: the grid's steps in a rounding.
    pub(crate) fn step(&self) -> f64 {
        real(1_i64.checked_shl(self.shift).unwrap_or(0))
    }

    /// The mean square of what roundings leave of integers that are uniform in a step: `(step^2 + 2) / 12`, because a
    /// half is left of every second one of them and of none of the reals; a twelfth where nothing is rounded.
    pub(crate) fn rounding_variance(&self) -> f64 {
        let step = self.step();
        if self.shift == 0 { 1.0 / 12.0 } else { (step * step + 2.0) / 12.0 }
    }

    pub(crate) fn write(&self, out: &mut Writer) {
        out.u8(u8::try_from(self.shift).unwrap_or(u8::MAX));
        out.u8(u8::try_from(self.width.bytes()).unwrap_or(u8::MAX));
        for value in &self.values {
            let bytes = value.to_le_bytes();
            out.raw(bytes.split_at(self.width.bytes()).0);
        }
    }

    /// Reads `outputs` values.
    pub(crate) fn read(from: &mut Reader<'_>, outputs: usize) -> Result<Self, Malformed> {
        let shift = u32::from(from.u8()?);
        let width = match from.u8()? {
            2 => Width::Two,
            3 => Width::Three,
            4 => Width::Four,
            _ => return Err(Malformed::NotCanonical),
        };
        let bytes = from.elements(outputs, width.bytes())?;
        let mut values = vec![0_i64; outputs];
        vectorized(
            #[inline(always)]
            || {
                let slots = values.iter_mut();
                match width {
                    Width::Two => slots
                        .zip(bytes.as_chunks().0)
                        .for_each(|(slot, bytes)| *slot = i16::from_le_bytes(*bytes).into()),
                    Width::Three => {
                        slots.zip(bytes.as_chunks().0).for_each(|(slot, bytes)| *slot = sign_extended(*bytes));
                    }
                    Width::Four => slots
                        .zip(bytes.as_chunks().0)
                        .for_each(|(slot, bytes)| *slot = i32::from_le_bytes(*bytes).into()),
                }
            },
        );
        let supplied = Self { shift, width, values };
        // Back on the grid a value must lie where products lie: beyond, a difference could come near the
        // field's size and wrap to something small.
        let most = width.bound().min(PRODUCT_BOUND.unsigned_abs().checked_shr(shift).unwrap_or(0));
        if shift <= MAX_SHIFT && supplied.largest() <= most { Ok(supplied) } else { Err(Malformed::NotCanonical) }
    }

    /// Most bytes that `outputs` values take.
    pub(crate) fn max_bytes(outputs: usize) -> usize {
        outputs.saturating_mul(Width::Four.bytes()).saturating_add(2)
    }
}

/// `value / 2^shift` to the nearest integer, halves up.
fn round_shift(value: i64, shift: u32) -> i64 {
    let half = 1_i64.checked_shl(shift).unwrap_or(0) / 2;
    value.saturating_add(half).checked_shr(shift).unwrap_or(0)
}

/// A little-endian two's complement number of three bytes.
#[inline]
fn sign_extended([a, b, c]: [u8; 3]) -> i64 {
    (i32::from_le_bytes([0, a, b, c]) >> 8).into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::num::nearest_integer;

    fn round_trip(supplied: &Supplied) -> Supplied {
        let mut out = Writer::new();
        supplied.write(&mut out);
        let bytes = out.finish();
        assert!(bytes.len() <= Supplied::max_bytes(supplied.values.len()));
        let mut from = Reader::new(&bytes);
        let read = Supplied::read(&mut from, supplied.values.len()).unwrap();
        from.finish().unwrap();
        read
    }

    #[test]
    fn the_variance_of_a_rounding_is_that_of_integers() {
        for shift in 0..8 {
            let integers = 0..4_i64 << shift;
            let squares: i64 =
                integers.clone().map(|value| (value - (round_shift(value, shift) << shift)).pow(2)).sum();
            let supplied = Supplied { shift, width: Width::Two, values: vec![] };
            let off = if shift == 0 { 1.0 / 12.0 } else { 0.0 };
            assert_eq!(supplied.rounding_variance() - off, real(squares) / real(integers.end), "{shift}");
        }
    }

    #[test]
    fn an_input_row_uses_the_bits_it_may() {
        let row = FixedRow::new(&[1.0, -0.5, 0.0]).unwrap();
        assert_eq!((row.integers.as_slice(), row.exponent), ([1 << 23, -(1 << 22), 0].as_slice(), -23));
        let flat = FixedRow::new(&vec![1.0; 4096]).unwrap();
        assert_eq!(flat.integers[0], 1 << 15);
        assert_eq!(FixedRow::new(&[0.0; 3]).unwrap().integers, [0; 3]);
        assert_eq!(FixedRow::new(&[f64::INFINITY]), None);
    }

    proptest! {
        #[test]
        fn prop_an_input_row_has_the_most_bits_that_fit(
            x in prop::collection::vec((-1.0..1.0, -30..30).prop_map(|(x, e)| x * power_of_two(e)), 1..300),
            spread in 1_usize..200,
        ) {
            let x: Vec<f64> = x.iter().copied().cycle().take(x.len() * spread).collect();
            prop_assume!(x.iter().any(|x| *x != 0.0));
            let sum = |bits: i32| {
                let top = floor_log2(x.iter().fold(0.0, |largest: f64, x| largest.max(x.abs())));
                x.iter().map(|x| nearest_integer(x * power_of_two(bits - 1 - top)).unwrap().abs()).sum::<i64>()
            };
            let most = (1..=INPUT_BITS).rev().find(|bits| sum(*bits) <= INPUT_SUM).unwrap();
            let top = floor_log2(x.iter().fold(0.0, |largest: f64, x| largest.max(x.abs())));
            prop_assert_eq!(FixedRow::new(&x).unwrap().exponent, top - (most - 1));
        }
    }

    #[test]
    fn a_slack_shift_or_a_narrow_width_is_not_canonical() {
        let products: Vec<i64> = (1..200).map(|i| i * 1_000_003).collect();
        let honest = Supplied::compress(&products);
        assert!(honest.is_canonical_product());
        let slack = Supplied {
            shift: honest.shift + 1,
            values: products.iter().map(|p| round_shift(*p, honest.shift + 1)).collect(),
            ..honest.clone()
        };
        assert!(!slack.is_canonical_product());
        let spiked: Vec<i64> = products.iter().copied().chain([1 << 50]).collect();
        assert!(Supplied::compress(&spiked).width > Width::Two);
        assert!(!Supplied::with_width(&spiked, Width::Two).is_canonical_product());
    }

    #[test]
    fn fourteen_bits_at_the_lower_median_are_wide_enough() {
        let least = 1 << 14;
        for (values, expected) in [
            (vec![], false),
            (vec![least], true),
            (vec![1 - least], false),
            (vec![-least, least - 1], false),
            (vec![least, -least, 0], true),
            (vec![least, 1 - least, 0], false),
            (vec![30_000, -least, 0, 1], false),
            (vec![30_000, -least, least, 1], true),
        ] {
            for width in [Width::Two, Width::Three] {
                let supplied = Supplied { shift: 0, width, values: values.clone() };
                assert_eq!(supplied.is_wide_enough(), expected, "{values:?}");
            }
        }
    }

    #[test]
    fn the_least_number_of_a_width_is_not_canonical() {
        for width in Width::ALL {
            let bound = i64::try_from(width.bound()).unwrap();
            for (value, is_read) in [(bound, true), (-bound, true), (-bound - 1, false)] {
                for place in [0, 8, 30] {
                    let mut values = vec![5; 31];
                    values[place] = value;
                    let supplied = Supplied { shift: 3, width, values };
                    let mut out = Writer::new();
                    supplied.write(&mut out);
                    let read = Supplied::read(&mut Reader::new(&out.finish()), 31);
                    assert_eq!(read, if is_read { Ok(supplied) } else { Err(Malformed::NotCanonical) });
                }
            }
        }
    }

    #[test]
    fn a_value_beyond_every_product_is_not_canonical() {
        let largest = Supplied { shift: 20, width: Width::Four, values: vec![1 << 31 >> 1, -(1 << 31 >> 1)] };
        let within = Supplied { values: vec![1 << 30, 7], ..largest.clone() };
        let beyond = Supplied { shift: 32, values: vec![(1 << 19) + 1, 7], ..largest.clone() };
        let wrapped = Supplied { shift: 40, values: vec![(1 << 30) + (1 << 24) + 5, 7], ..largest };
        let read = |supplied: &Supplied| {
            let mut out = Writer::new();
            supplied.write(&mut out);
            Supplied::read(&mut Reader::new(&out.finish()), supplied.values.len())
        };
        assert_eq!(read(&within), Ok(within));
        assert_eq!(read(&beyond), Err(Malformed::NotCanonical));
        assert_eq!(read(&wrapped), Err(Malformed::NotCanonical));
    }

    proptest! {
        #[test]
        fn prop_supplied_products_round_trip_and_stay_near(
            products in prop::collection::vec(-(1_i64 << 50)..(1_i64 << 50), 1..60),
            scale in 0..50_u32,
        ) {
            let products: Vec<i64> = products.iter().map(|product| product >> scale).collect();
            let supplied = Supplied::compress(&products);
            prop_assert!(supplied.is_canonical_product());
            prop_assert_eq!(&round_trip(&supplied), &supplied);
            for (product, value) in products.iter().zip(supplied.on_product_grid()) {
                prop_assert!(2 * (product - value).abs() <= 1 << supplied.shift);
            }
        }
    }
}
