//! Eight integers side by side, and arithmetic modulo p on them.
//!
//! [`run`] compiles a task twice: for AVX-512, through the safe wrappers of `pulp`, and in plain
//! arithmetic for every other machine. Both give the same residues.
//!
//! A *residue* is any `u64` and stands for its class modulo p; *canonical* ones are below p. Only sums
//! need one canonical operand, so that a single correction suffices.
#![expect(
    clippy::inline_always,
    reason = "only code that is inlined is compiled for the instructions found at run time"
)]

use assay_sumcheck::field::P;
use pulp::{Arch, Simd, WithSimd};

/// How many integers a vector has.
pub const LANES: usize = 8;

/// `2^64 mod p`.
pub(crate) const EPSILON: u64 = 0xffff_ffff;

/// Operations on vectors of 64-bit integers; all wrap.
pub trait Lanes: Copy {
    /// A vector.
    type V: Copy;

    /// From memory.
    fn load(self, from: &[u64; LANES]) -> Self::V;
    /// To memory.
    fn store(self, to: &mut [u64; LANES], v: Self::V);
    /// The value in every lane.
    fn splat(self, value: u64) -> Self::V;
    /// Images, with their signs.
    fn extend(self, from: &[i32; LANES]) -> Self::V;
    /// `a + b`.
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a - b`.
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    /// The bits in which they differ.
    fn xor(self, a: Self::V, b: Self::V) -> Self::V;
    /// The product of the low halves, without signs.
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    /// The product of the low halves, with signs.
    fn mul_signed(self, a: Self::V, b: Self::V) -> Self::V;
    /// The low half.
    fn low_half(self, a: Self::V) -> Self::V;
    /// The high half, where the low one was.
    fn high_half(self, a: Self::V) -> Self::V;
    /// The low half, where the high one was.
    fn raise(self, a: Self::V) -> Self::V;
    /// `a 2^BITS`.
    fn shift_left<const BITS: u32>(self, a: Self::V) -> Self::V;
    /// The low half of `low`, and above it that of `high`.
    fn join(self, low: Self::V, high: Self::V) -> Self::V;
    /// `x + value` in the lanes whose bit is set, and `x` elsewhere.
    fn add_where(self, x: Self::V, bits: u8, value: Self::V) -> Self::V;
    /// `x + value` where `a < b`, and `x` elsewhere.
    fn add_if_less(self, x: Self::V, a: Self::V, b: Self::V, value: Self::V) -> Self::V;
    /// `x - value` where `a < b`, and `x` elsewhere.
    fn sub_if_less(self, x: Self::V, a: Self::V, b: Self::V, value: Self::V) -> Self::V;
}

/// What is compiled for every set of instructions: its `run`, and all it calls, is inlined.
pub trait Task {
    /// What it computes.
    type Output;

    /// Computes it with these instructions.
    fn run<L: Lanes>(self, lanes: L) -> Self::Output;
}

/// Runs a task with the best instructions there are.
pub fn run<T: Task>(task: T) -> T::Output {
    struct Plain<T>(T);

    impl<T: Task> WithSimd for Plain<T> {
        type Output = T::Output;

        #[inline(always)]
        fn with_simd<S: Simd>(self, _: S) -> T::Output {
            self.0.run(Portable)
        }
    }

    match Arch::new() {
        #[cfg(target_arch = "x86_64")]
        Arch::V4(simd) => wide::run(simd, task),
        arch => arch.dispatch(Plain(task)),
    }
}

/// Plain arithmetic.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Portable;

#[inline(always)]
fn map(f: impl Fn(usize) -> u64) -> [u64; LANES] {
    std::array::from_fn(f)
}

impl Lanes for Portable {
    type V = [u64; LANES];

    #[inline(always)]
    fn load(self, from: &[u64; LANES]) -> Self::V {
        *from
    }
    #[inline(always)]
    fn store(self, to: &mut [u64; LANES], v: Self::V) {
        *to = v;
    }
    #[inline(always)]
    fn splat(self, value: u64) -> Self::V {
        [value; LANES]
    }
    #[inline(always)]
    fn extend(self, from: &[i32; LANES]) -> Self::V {
        map(|i| i64::from(from[i]).cast_unsigned())
    }
    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        map(|i| a[i].wrapping_add(b[i]))
    }
    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        map(|i| a[i].wrapping_sub(b[i]))
    }
    #[inline(always)]
    fn xor(self, a: Self::V, b: Self::V) -> Self::V {
        map(|i| a[i] ^ b[i])
    }
    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        map(|i| (a[i] & EPSILON).wrapping_mul(b[i] & EPSILON))
    }
    #[inline(always)]
    fn mul_signed(self, a: Self::V, b: Self::V) -> Self::V {
        let low = |x: u64| (x << 32).cast_signed() >> 32;
        map(|i| low(a[i]).wrapping_mul(low(b[i])).cast_unsigned())
    }
    #[inline(always)]
    fn low_half(self, a: Self::V) -> Self::V {
        map(|i| a[i] & EPSILON)
    }
    #[inline(always)]
    fn high_half(self, a: Self::V) -> Self::V {
        map(|i| a[i] >> 32)
    }
    #[inline(always)]
    fn raise(self, a: Self::V) -> Self::V {
        map(|i| a[i] << 32)
    }
    #[inline(always)]
    fn shift_left<const BITS: u32>(self, a: Self::V) -> Self::V {
        map(|i| a[i] << BITS)
    }
    #[inline(always)]
    fn join(self, low: Self::V, high: Self::V) -> Self::V {
        map(|i| low[i] & EPSILON | high[i] << 32)
    }
    #[inline(always)]
    fn add_where(self, x: Self::V, bits: u8, value: Self::V) -> Self::V {
        map(|i| x[i].wrapping_add(value[i] & 0_u64.wrapping_sub(u64::from(bits >> i & 1))))
    }
    #[inline(always)]
    fn add_if_less(self, x: Self::V, a: Self::V, b: Self::V, value: Self::V) -> Self::V {
        map(|i| x[i].wrapping_add(if a[i] < b[i] { value[i] } else { 0 }))
    }
    #[inline(always)]
    fn sub_if_less(self, x: Self::V, a: Self::V, b: Self::V, value: Self::V) -> Self::V {
        map(|i| x[i].wrapping_sub(if a[i] < b[i] { value[i] } else { 0 }))
    }
}

#[cfg(target_arch = "x86_64")]
mod wide {
    use std::arch::x86_64::__m512i;

    use pulp::x86::V4;
    use pulp::{Simd, WithSimd, cast};

    use super::{LANES, Lanes, Task};

    pub(super) fn run<T: Task>(simd: V4, task: T) -> T::Output {
        struct Wide<T>(V4, T);

        impl<T: Task> WithSimd for Wide<T> {
            type Output = T::Output;

            #[inline(always)]
            fn with_simd<S: Simd>(self, _: S) -> T::Output {
                self.1.run(self.0)
            }
        }

        Simd::vectorize(simd, Wide(simd, task))
    }

    impl Lanes for V4 {
        type V = __m512i;

        #[inline(always)]
        fn load(self, from: &[u64; LANES]) -> __m512i {
            cast(*from)
        }
        #[inline(always)]
        fn store(self, to: &mut [u64; LANES], v: __m512i) {
            *to = cast(v);
        }
        #[inline(always)]
        fn splat(self, value: u64) -> __m512i {
            self.avx512f._mm512_set1_epi64(value.cast_signed())
        }
        #[inline(always)]
        fn extend(self, from: &[i32; LANES]) -> __m512i {
            self.avx512f._mm512_cvtepi32_epi64(cast(*from))
        }
        #[inline(always)]
        fn add(self, a: __m512i, b: __m512i) -> __m512i {
            self.avx512f._mm512_add_epi64(a, b)
        }
        #[inline(always)]
        fn sub(self, a: __m512i, b: __m512i) -> __m512i {
            self.avx512f._mm512_sub_epi64(a, b)
        }
        #[inline(always)]
        fn xor(self, a: __m512i, b: __m512i) -> __m512i {
            self.avx512f._mm512_xor_si512(a, b)
        }
        #[inline(always)]
        fn mul(self, a: __m512i, b: __m512i) -> __m512i {
            self.avx512f._mm512_mul_epu32(a, b)
        }
        #[inline(always)]
        fn mul_signed(self, a: __m512i, b: __m512i) -> __m512i {
            self.avx512f._mm512_mul_epi32(a, b)
        }
        #[inline(always)]
        fn low_half(self, a: __m512i) -> __m512i {
            self.avx512f._mm512_and_si512(a, self.splat(super::EPSILON))
        }
        #[inline(always)]
        fn high_half(self, a: __m512i) -> __m512i {
            self.avx512f._mm512_srli_epi64::<32>(a)
        }
        #[inline(always)]
        fn raise(self, a: __m512i) -> __m512i {
            self.avx512f._mm512_slli_epi64::<32>(a)
        }
        #[inline(always)]
        fn shift_left<const BITS: u32>(self, a: __m512i) -> __m512i {
            self.avx512f._mm512_slli_epi64::<BITS>(a)
        }
        #[inline(always)]
        fn join(self, low: __m512i, high: __m512i) -> __m512i {
            // Every second 32-bit half from a copy of `high` with its halves moved up.
            self.avx512f._mm512_mask_shuffle_epi32::<0b10_10_00_00>(low, 0xaaaa, high)
        }
        #[inline(always)]
        fn add_where(self, x: __m512i, bits: u8, value: __m512i) -> __m512i {
            self.avx512f._mm512_mask_add_epi64(x, bits, x, value)
        }
        #[inline(always)]
        fn add_if_less(self, x: __m512i, a: __m512i, b: __m512i, value: __m512i) -> __m512i {
            self.avx512f._mm512_mask_add_epi64(x, self.avx512f._mm512_cmplt_epu64_mask(a, b), x, value)
        }
        #[inline(always)]
        fn sub_if_less(self, x: __m512i, a: __m512i, b: __m512i, value: __m512i) -> __m512i {
            self.avx512f._mm512_mask_sub_epi64(x, self.avx512f._mm512_cmplt_epu64_mask(a, b), x, value)
        }
    }
}

/// A factor of many products: a canonical element and its high half.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Factor<V> {
    low: V,
    high: V,
}

/// The field's operations, for vectors.
pub(crate) trait Field: Lanes {
    #[inline(always)]
    fn factor(self, value: u64) -> Factor<Self::V> {
        Factor { low: self.splat(value), high: self.splat(value >> 32) }
    }

    /// A factor for every lane.
    #[inline(always)]
    fn factors(self, values: Self::V) -> Factor<Self::V> {
        Factor { low: values, high: self.high_half(values) }
    }

    /// The residue below p.
    #[inline(always)]
    fn canonical(self, a: Self::V) -> Self::V {
        self.add_if_less(a, self.splat(P - 1), a, self.splat(EPSILON))
    }

    /// `a + b`; `b` is canonical.
    #[inline(always)]
    fn f_add(self, a: Self::V, b: Self::V) -> Self::V {
        let sum = self.add(a, b);
        self.add_if_less(sum, sum, b, self.splat(EPSILON))
    }

    /// `a - b`; `b` is canonical.
    #[inline(always)]
    fn f_sub(self, a: Self::V, b: Self::V) -> Self::V {
        self.sub_if_less(self.sub(a, b), a, b, self.splat(EPSILON))
    }

    /// The products of halves: both low ones, the high one of `a`, that of `b`, both.
    #[inline(always)]
    fn products(self, a: Self::V, b: Factor<Self::V>) -> [Self::V; 4] {
        let a_high = self.high_half(a);
        [self.mul(a, b.low), self.mul(a_high, b.low), self.mul(a, b.high), self.mul(a_high, b.high)]
    }

    /// The product, any residue.
    #[inline(always)]
    fn f_mul(self, a: Self::V, b: Factor<Self::V>) -> Self::V {
        let [low, middle, other, high] = self.products(a, b);
        let middle = self.add(middle, self.high_half(low));
        let other = self.add(other, self.low_half(middle));
        let high = self.add(self.add(high, self.high_half(middle)), self.high_half(other));
        let low = self.join(low, other);
        // 2^64 = 2^32 - 1 and 2^96 = -1. What is taken off is below 2^32, and what is added canonical.
        let difference = self.f_sub(low, self.high_half(high));
        self.f_add(difference, self.mul(high, self.splat(EPSILON)))
    }

    /// `low + 2^32 high`, both taken as signed integers.
    #[inline(always)]
    fn total(self, low: Self::V, high: Self::V) -> Self::V {
        // With 2^63 added to both halves they are natural numbers; 2^63 + 2^95 = 2^31 - 1.
        let top = self.splat(1 << 63);
        let high = self.xor(high, top);
        let sum = self.f_add(self.xor(low, top), self.raise(high));
        let sum = self.f_add(sum, self.mul(self.high_half(high), self.splat(EPSILON)));
        self.f_sub(sum, self.splat((1 << 31) - 1))
    }
}

impl<L: Lanes> Field for L {}

/// An element as `low + 2^32 high`, both in the range of `i32`.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Halves {
    pub(crate) low: i32,
    pub(crate) high: i32,
}

impl Halves {
    /// Of a canonical element.
    pub(crate) fn of(integer: u64) -> Self {
        // Both halves fit for integers in -2^63 + 2^31 - 1 ..= 2^63 - 2^31 - 1.
        const FIRST_NEGATIVE: u64 = (1 << 63) - (1 << 31);
        let centered = if integer < FIRST_NEGATIVE { integer } else { integer.wrapping_sub(P) }.cast_signed();
        let low = (centered << 32) >> 32;
        let half = |value: i64| i32::try_from(value).expect("the halves of a centered element have 32 bits");
        Self { low: half(low), high: half(centered.wrapping_sub(low) >> 32) }
    }

    /// As they enter [`Lanes::mul_signed`].
    pub(crate) fn words(self) -> [u64; 2] {
        [self.low, self.high].map(|half| i64::from(half).cast_unsigned())
    }
}
