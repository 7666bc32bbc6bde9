//! Goldilocks, its cubic extension, and their canonical bytes.
//!
//! The base field [`F`] has `p = 2^64 - 2^32 + 1` elements; the extension [`E`] is `F[X]/(X^3 - 7)`
//! and has about `2^192`, enough for every bound of the protocol to clear 100 bits by proof.
//! X^3 - 7 is irreducible because 7 generates `F*` and 3 divides `p - 1`, so 7 is no cube.
//!
//! Bytes are always the canonical integer, little-endian: eight bytes for an element of `F`, the
//! coordinates `c0, c1, c2` one after the other for `E`. The serialisation that the field types
//! bring along writes the Montgomery form and is never used for hashing or transport. Their `Div`
//! and `sqrt` panic on some inputs; nothing here calls them.

use ark_ff::{AdditiveGroup, BigInteger64, CubicExtField, PrimeField, SmallFp};

use config::reduce;

mod config;

/// The base field: integers modulo [`P`].
pub type F = SmallFp<config::Goldilocks>;

/// The extension that challenges are drawn from: `c0 + c1 X + c2 X^2` with `X^3 = 7`.
pub type E = CubicExtField<config::Cubic>;

/// The characteristic, `2^64 - 2^32 + 1`.
pub const P: u64 = 0xffff_ffff_0000_0001;

/// `value` modulo [`P`].
#[inline]
pub fn f_from_u64(value: u64) -> F {
    F::new(value)
}

/// The image of a signed integer.
#[inline]
pub fn f_from_i64(value: i64) -> F {
    let magnitude = F::new(value.unsigned_abs());
    if value < 0 { -magnitude } else { magnitude }
}

/// The canonical integer in `0..p`.
#[inline]
pub fn f_to_u64(value: F) -> u64 {
    let BigInteger64 { 0: [integer] } = value.into_bigint();
    integer
}

/// The representative in `(-p/2, p/2)`, so that `f_from_i64(centered(a)) == a`.
#[inline]
pub fn centered(value: F) -> i64 {
    const HALF: u64 = P / 2;
    let integer = f_to_u64(value);
    // Both magnitudes are at most (p - 1) / 2 < 2^63.
    if integer <= HALF { integer.cast_signed() } else { integer.wrapping_sub(P).cast_signed() }
}

/// The eight canonical bytes.
#[inline]
pub fn f_to_bytes(value: F) -> [u8; 8] {
    f_to_u64(value).to_le_bytes()
}

/// The element that eight bytes encode; `None` for an integer of [`P`] or more.
#[inline]
pub fn f_from_bytes(bytes: [u8; 8]) -> Option<F> {
    let integer = u64::from_le_bytes(bytes);
    (integer < P).then(|| F::new(integer))
}

/// The 24 canonical bytes: `c0, c1, c2`.
pub fn e_to_bytes(value: E) -> [u8; 24] {
    let [a, b, c] = [value.c0, value.c1, value.c2].map(f_to_u64);
    let mut bytes = [0; 24];
    for (target, coordinate) in bytes.as_chunks_mut::<8>().0.iter_mut().zip([a, b, c]) {
        *target = coordinate.to_le_bytes();
    }
    bytes
}

/// The element that 24 bytes encode; `None` when a coordinate is [`P`] or more.
pub fn e_from_bytes(bytes: [u8; 24]) -> Option<E> {
    match bytes.as_chunks::<8>().0 {
        &[c0, c1, c2] => Some(E::new(f_from_bytes(c0)?, f_from_bytes(c1)?, f_from_bytes(c2)?)),
        _ => None,
    }
}

/// The embedding of the base field.
#[inline]
pub const fn e_from_f(value: F) -> E {
    E::new(value, <F as AdditiveGroup>::ZERO, <F as AdditiveGroup>::ZERO)
}

/// `a b` with `b` in the base field: three products instead of nine.
#[inline]
pub fn e_mul_f(a: E, b: F) -> E {
    E::new(a.c0 * b, a.c1 * b, a.c2 * b)
}

/// The halves, of 32 bits each, of the word that stands for an element: the halves of a sum are the sums of halves, as long
/// as these fit their words, whatever [`f_from_halves`] has to reduce.
#[inline]
pub const fn f_to_halves(value: F) -> [u64; 2] {
    [value.value & 0xffff_ffff, value.value >> 32]
}

/// The element of such halves, or of sums of them.
#[inline]
pub fn f_from_halves([low, high]: [u64; 2]) -> F {
    F::from_raw(reduce(u128::from(low).wrapping_add(u128::from(high) << 32)))
}

/// A sum of products in `F` that is reduced once, at its end.
///
/// It has 192 bits, so that up to `2^64` products fit; a term costs a product and three additions, about a third of what
/// reducing each would.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProductSum {
    low: u128,
    /// What `low` has overflowed by.
    high: u64,
}

impl ProductSum {
    /// Adds `a b`.
    #[inline]
    pub fn add(&mut self, a: F, b: F) {
        let product = u128::from(a.value).wrapping_mul(u128::from(b.value));
        let (low, carry) = self.low.overflowing_add(product);
        self.low = low;
        self.high = self.high.wrapping_add(u64::from(carry));
    }

    /// The sum.
    #[inline]
    pub fn total(self) -> F {
        // The factors are in Montgomery form, a 2^64 and b 2^64, and so must be the sum: it is
        // (low + 2^64 high) / 2^64. Multiplying the raw value by the raw 1 divides by 2^64.
        let (low, high) = (self.low & u128::from(u64::MAX), self.low >> 64 | u128::from(self.high) << 64);
        F::from_raw(reduce(low)) * F::from_raw(1) + F::from_raw(reduce(high))
    }
}

/// `sum_i a_i b_i` over the shorter length.
pub fn dot_f(a: &[F], b: &[F]) -> F {
    let mut sum = ProductSum::default();
    for (&a, &b) in a.iter().zip(b) {
        sum.add(a, b);
    }
    sum.total()
}

/// `sum_i a_i b_i` over the shorter length, with `b` in the base field.
pub fn dot_ef(a: &[E], b: &[F]) -> E {
    let [mut c0, mut c1, mut c2] = [ProductSum::default(); 3];
    for (a, &b) in a.iter().zip(b) {
        c0.add(a.c0, b);
        c1.add(a.c1, b);
        c2.add(a.c2, b);
    }
    E::new(c0.total(), c1.total(), c2.total())
}

/// `sum_i a_i b_i` over the shorter length.
pub fn dot_e(a: &[E], b: &[E]) -> E {
    /// Terms whose products are added coordinate by coordinate, so that the sums that grow fit the registers.
    const BLOCK: usize = 64;
    // By power of X; those from X^3 = 7 on are reduced at the end.
    let [mut c0, mut c1, mut c2, mut c3, mut c4] = [ProductSum::default(); 5];
    for (a, b) in a.chunks(BLOCK).zip(b.chunks(BLOCK)) {
        let terms = || a.iter().zip(b);
        for (a, b) in terms() {
            c0.add(a.c0, b.c0);
            c1.add(a.c0, b.c1);
            c2.add(a.c0, b.c2);
        }
        for (a, b) in terms() {
            c1.add(a.c1, b.c0);
            c2.add(a.c1, b.c1);
            c3.add(a.c1, b.c2);
        }
        for (a, b) in terms() {
            c2.add(a.c2, b.c0);
            c3.add(a.c2, b.c1);
            c4.add(a.c2, b.c2);
        }
    }
    let seven = f_from_u64(7);
    E::new(c0.total() + seven * c3.total(), c1.total() + seven * c4.total(), c2.total())
}
