//! Sums of products of weight images with field elements, kept unreduced.
//!
//! An image has 24 bits and a sign, a canonical element 64: with the element cut in two halves, 64
//! products fit a signed 64-bit lane, and the field is entered only once for so many.

use assay_sumcheck::field::{E, F, f_from_i64, f_from_u64, f_to_u64};

use crate::fixed_point::IMAGE_BITS;

/// How many products a sum may have.
pub(crate) const MAX_TERMS: usize = 64;

const _: () = assert!((MAX_TERMS as u128) << (IMAGE_BITS + 32) < 1 << 63);

/// The halves of an element: `low + 2^32 high`, each below `2^32`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Halves {
    pub(crate) low: i64,
    pub(crate) high: i64,
}

impl Halves {
    pub(crate) fn of(value: F) -> Self {
        let integer = f_to_u64(value);
        Self { low: (integer & 0xffff_ffff).cast_signed(), high: (integer >> 32).cast_signed() }
    }

    /// The halves of the three coordinates.
    pub(crate) fn of_extension(value: E) -> [Self; 3] {
        [value.c0, value.c1, value.c2].map(Self::of)
    }
}

/// A sum of at most [`MAX_TERMS`] products of an image with an element.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SmallSum {
    low: i64,
    high: i64,
}

impl SmallSum {
    /// Adds a product. It wraps in form only: see [`MAX_TERMS`].
    #[inline]
    pub(crate) fn add(&mut self, image: i32, factor: Halves) {
        let image = i64::from(image);
        self.low = self.low.wrapping_add(image.wrapping_mul(factor.low));
        self.high = self.high.wrapping_add(image.wrapping_mul(factor.high));
    }

    /// The sum as an element.
    pub(crate) fn total(self) -> F {
        f_from_i64(self.low) + f_from_i64(self.high) * f_from_u64(1 << 32)
    }
}

/// Adds products coordinate by coordinate.
#[inline]
pub(crate) fn add_extension(sums: &mut [SmallSum; 3], image: i32, factor: &[Halves; 3]) {
    for (sum, &factor) in sums.iter_mut().zip(factor) {
        sum.add(image, factor);
    }
}

/// The sums of three coordinates as an element of the extension.
pub(crate) fn total_extension(sums: [SmallSum; 3]) -> E {
    let [c0, c1, c2] = sums.map(SmallSum::total);
    E::new(c0, c1, c2)
}
