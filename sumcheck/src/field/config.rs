//! The arithmetic behind `F` and `E`.
//!
//! `SmallFp` comes with a derive that writes this configuration for any modulus. Written out for this
//! one it is two to three times faster: the Montgomery reduction needs no product, and no operation
//! branches on its operands, where the derived additions do (and check for overflow as this crate's
//! profile asks). The tests hold every operation against the derive's.

use std::hint::select_unpredictable;

use ark_ff::{BigInt, CubicExtConfig, CubicExtField, SmallFp, SmallFpConfig, SqrtPrecomputation};

use super::P;

/// `2^64 mod p`.
const EPSILON: u64 = 0xffff_ffff;

/// `2^128 mod p`: what turns an integer into Montgomery form.
const MONTGOMERY_SQUARED: u64 = 0xffff_fffe_0000_0001;

/// `a - b` for `a < p` and `b <= p`.
#[inline]
fn subtract(a: u64, b: u64) -> u64 {
    // Field elements look random, so a branch on the borrow would be mispredicted half the time.
    let (difference, borrow) = a.overflowing_sub(b);
    select_unpredictable(borrow, difference.wrapping_add(P), difference)
}

/// `a + b` for `a, b < p`, as `a - (p - b)`.
#[inline]
fn add(a: u64, b: u64) -> u64 {
    subtract(a, P.wrapping_sub(b))
}

/// `value / 2^64` for `value < 2^64 p`: Montgomery's reduction.
///
/// With `m = low / p mod 2^64` it is `high - floor(m p / 2^64)`. Since `1 / p = 1 + 2^32 mod 2^64`,
/// `m = low + 2^32 low`, and `floor(m p / 2^64) = m - ceil(m (2^32 - 1) / 2^64)`, where the last term
/// is `m >> 32`, and one more exactly if the sum that made `m` carried.
#[inline]
fn montgomery(value: u128) -> u64 {
    let [low, high] = halves(value);
    let (m, carry) = low.overflowing_add(low << 32);
    subtract(high, m.wrapping_sub(m >> 32).wrapping_sub(u64::from(carry)))
}

/// `a b / 2^64` for `a b < 2^64 p`.
#[inline]
fn multiply(a: u64, b: u64) -> u64 {
    montgomery(u128::from(a).wrapping_mul(u128::from(b)))
}

#[inline]
#[expect(clippy::cast_possible_truncation, reason = "splits the value in its halves")]
const fn halves(value: u128) -> [u64; 2] {
    [value as u64, (value >> 64) as u64]
}

/// The least non-negative residue modulo p of any value: `2^64 = EPSILON` and `2^96 = -1`.
#[inline]
pub(super) fn reduce(value: u128) -> u64 {
    let [low, high] = halves(value);
    // No correction can wrap a second time: after a borrow the difference is at least
    // 2^64 - 2^32 + 1, after a carry the sum is at most 2^64 - 2^33.
    let (difference, borrow) = low.overflowing_sub(high >> 32);
    let difference = select_unpredictable(borrow, difference.wrapping_sub(EPSILON), difference);
    let middle = (high & EPSILON).wrapping_mul(EPSILON);
    let (sum, carry) = difference.overflowing_add(middle);
    let sum = select_unpredictable(carry, sum.wrapping_add(EPSILON), sum);
    select_unpredictable(sum >= P, sum.wrapping_sub(P), sum)
}

/// A constant, from its canonical integer.
#[expect(clippy::cast_possible_truncation, reason = "a residue modulo p")]
const fn constant(integer: u64) -> SmallFp<Goldilocks> {
    SmallFp::from_raw((((integer as u128) << 64) % P as u128) as u64)
}

/// Goldilocks.
#[derive(Clone, Copy, Debug)]
pub struct Goldilocks;

impl SmallFpConfig for Goldilocks {
    type T = u64;

    const MODULUS: u64 = P;
    const MODULUS_U128: u128 = P as u128;
    const GENERATOR: SmallFp<Self> = constant(7);
    const ZERO: SmallFp<Self> = constant(0);
    const ONE: SmallFp<Self> = constant(1);
    const NEG_ONE: SmallFp<Self> = constant(P - 1);
    const TWO_ADICITY: u32 = 32;
    /// `7^(2^32 - 1)`.
    const TWO_ADIC_ROOT_OF_UNITY: SmallFp<Self> = constant(1_753_635_133_440_165_772);
    const SQRT_PRECOMP: Option<SqrtPrecomputation<SmallFp<Self>>> = None;

    #[inline]
    fn add_assign(a: &mut SmallFp<Self>, b: &SmallFp<Self>) {
        a.value = add(a.value, b.value);
    }

    #[inline]
    fn sub_assign(a: &mut SmallFp<Self>, b: &SmallFp<Self>) {
        a.value = subtract(a.value, b.value);
    }

    #[inline]
    fn double_in_place(a: &mut SmallFp<Self>) {
        a.value = add(a.value, a.value);
    }

    #[inline]
    fn neg_in_place(a: &mut SmallFp<Self>) {
        a.value = subtract(0, a.value);
    }

    #[inline]
    fn mul_assign(a: &mut SmallFp<Self>, b: &SmallFp<Self>) {
        a.value = multiply(a.value, b.value);
    }

    fn sum_of_products<const T: usize>(a: &[SmallFp<Self>; T], b: &[SmallFp<Self>; T]) -> SmallFp<Self> {
        super::dot_f(a, b)
    }

    #[inline]
    fn square_in_place(a: &mut SmallFp<Self>) {
        a.value = multiply(a.value, a.value);
    }

    /// `a^(p - 2)`: about 130 products, a third of a binary Euclid's time.
    fn inverse(a: &SmallFp<Self>) -> Option<SmallFp<Self>> {
        let mut power = Self::ONE.value;
        for bit in (0..u64::BITS).rev() {
            power = multiply(power, power);
            if (P - 2) >> bit & 1 == 1 {
                power = multiply(power, a.value);
            }
        }
        (a.value != 0).then(|| SmallFp::from_raw(power))
    }

    #[inline]
    fn new(value: u64) -> SmallFp<Self> {
        SmallFp::from_raw(multiply(value, MONTGOMERY_SQUARED))
    }

    #[inline]
    fn from_bigint(integer: BigInt<1>) -> Option<SmallFp<Self>> {
        let BigInt([integer]) = integer;
        (integer < P).then(|| Self::new(integer))
    }

    #[inline]
    fn into_bigint(a: SmallFp<Self>) -> BigInt<1> {
        BigInt([montgomery(u128::from(a.value))])
    }
}

/// A primitive third root of unity: `7^((p - 1) / 3)`.
const OMEGA: SmallFp<Goldilocks> = constant(18_446_744_065_119_617_025);
/// Its square.
const OMEGA_SQUARED: SmallFp<Goldilocks> = constant(4_294_967_295);

/// `F[X]/(X^3 - 7)`.
#[derive(Clone, Copy, Debug)]
pub struct Cubic;

impl CubicExtConfig for Cubic {
    type BasePrimeField = SmallFp<Goldilocks>;
    type BaseField = SmallFp<Goldilocks>;
    type FrobCoeff = SmallFp<Goldilocks>;

    const SQRT_PRECOMP: Option<SqrtPrecomputation<CubicExtField<Self>>> = None;
    const DEGREE_OVER_BASE_PRIME_FIELD: usize = 3;
    const NONRESIDUE: Self::BaseField = constant(7);
    const FROBENIUS_COEFF_C1: &[Self::FrobCoeff] = &[Goldilocks::ONE, OMEGA, OMEGA_SQUARED];
    const FROBENIUS_COEFF_C2: &[Self::FrobCoeff] = &[Goldilocks::ONE, OMEGA_SQUARED, OMEGA];

    /// 7 a by one reduction of the raw value's small multiple.
    #[inline]
    fn mul_base_field_by_nonresidue_in_place(a: &mut Self::BaseField) -> &mut Self::BaseField {
        a.value = reduce(u128::from(a.value).wrapping_mul(7));
        a
    }

    fn mul_base_field_by_frob_coeff(c1: &mut Self::BaseField, c2: &mut Self::BaseField, power: usize) {
        match power % 3 {
            0 => {}
            1 => {
                *c1 *= OMEGA;
                *c2 *= OMEGA_SQUARED;
            }
            _ => {
                *c1 *= OMEGA_SQUARED;
                *c2 *= OMEGA;
            }
        }
    }
}
