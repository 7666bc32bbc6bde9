//! Sixteen floats side by side.
//!
//! [`Instructions::run`] compiles a task for AVX-512 and for AVX2 with FMA, both through the safe
//! wrappers of `pulp`, and in plain arithmetic for every other machine. All give the same bits: each
//! lane is a chain of fused multiply-adds, and the lanes are added by one tree.
#![expect(
    clippy::inline_always,
    reason = "only code that is inlined is compiled for the instructions found at run time"
)]

use pulp::Arch;

/// How many lanes a vector has.
pub(crate) const LANES: usize = 16;

/// A vector in memory, where no cache line splits it.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(crate) struct Vector(pub(crate) [f32; LANES]);

/// Operations on vectors of [`LANES`] floats.
pub(crate) trait Lanes: Copy {
    type V: Copy;

    /// Rows of a tile, at most 4: what its sums leave of the registers is enough for the factors.
    const ROWS: usize;

    /// Asks for a cache line that is read soon; any address will do.
    fn prefetch(self, line: *const i8);
    fn load(self, from: &[f32; LANES]) -> Self::V;
    fn store(self, to: &mut [f32; LANES], v: Self::V);
    fn splat(self, value: f32) -> Self::V;
    /// bf16 values, as their bits.
    fn widen_bf16(self, bits: &[u16; LANES]) -> Self::V;
    /// Integers from -128, as their bits.
    fn widen_int8(self, bits: &[u8; LANES]) -> Self::V;
    /// `a * b + c`, rounded once.
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;

    /// The sum of each vector's lanes: the upper half is added to the lower one, until one is left.
    #[inline(always)]
    fn sums(self, vectors: [Self::V; LANES]) -> [f32; LANES] {
        vectors.map(
            #[inline(always)]
            |vector| {
                let mut lanes = [0.0; LANES];
                self.store(&mut lanes, vector);
                let lanes: [f32; 8] = std::array::from_fn(|i| lanes[i] + lanes[i + 8]);
                let lanes: [f32; 4] = std::array::from_fn(|i| lanes[i] + lanes[i + 4]);
                (lanes[0] + lanes[2]) + (lanes[1] + lanes[3])
            },
        )
    }
}

/// What is compiled for every set of instructions: its `run`, and all it calls, is inlined.
pub(crate) trait Task {
    /// `OUTPUTS` is the other side of a tile, beside [`Lanes::ROWS`].
    fn run<L: Lanes, const OUTPUTS: usize>(self, lanes: L);
}

/// A set of instructions that this machine has.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Instructions {
    #[cfg(target_arch = "x86_64")]
    Avx512(pulp::x86::V4),
    #[cfg(target_arch = "x86_64")]
    Avx2(pulp::x86::V3),
    Portable,
}

impl Instructions {
    pub(crate) fn best() -> Self {
        match Arch::new() {
            #[cfg(target_arch = "x86_64")]
            Arch::V4(simd) => Self::Avx512(simd),
            #[cfg(target_arch = "x86_64")]
            Arch::V3(simd) => Self::Avx2(simd),
            _ => Self::Portable,
        }
    }

    /// All that this machine has.
    #[cfg(test)]
    pub(crate) fn all() -> Vec<Self> {
        let mut all = vec![Self::Portable];
        #[cfg(target_arch = "x86_64")]
        {
            all.extend(pulp::x86::V3::try_new().map(Self::Avx2));
            all.extend(pulp::x86::V4::try_new().map(Self::Avx512));
        }
        all
    }

    /// Rows of a tile.
    pub(crate) fn rows(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(_) => pulp::x86::V4::ROWS,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_) => pulp::x86::V3::ROWS,
            Self::Portable => Portable::ROWS,
        }
    }

    pub(crate) fn run(self, task: impl Task) {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(simd) => simd.vectorize(
                #[inline(always)]
                || task.run::<_, 6>(simd),
            ),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(simd) => simd.vectorize(
                #[inline(always)]
                || task.run::<_, 3>(simd),
            ),
            Self::Portable => task.run::<_, 3>(Portable),
        }
    }
}

/// Plain arithmetic.
#[derive(Clone, Copy, Debug)]
struct Portable;

impl Lanes for Portable {
    type V = [f32; LANES];

    const ROWS: usize = 2;

    #[inline(always)]
    fn prefetch(self, _: *const i8) {}
    #[inline(always)]
    fn load(self, from: &[f32; LANES]) -> Self::V {
        *from
    }
    #[inline(always)]
    fn store(self, to: &mut [f32; LANES], v: Self::V) {
        *to = v;
    }
    #[inline(always)]
    fn splat(self, value: f32) -> Self::V {
        [value; LANES]
    }
    #[inline(always)]
    fn widen_bf16(self, bits: &[u16; LANES]) -> Self::V {
        bits.map(|bits| f32::from_bits(u32::from(bits) << 16))
    }
    #[inline(always)]
    fn widen_int8(self, bits: &[u8; LANES]) -> Self::V {
        bits.map(|bits| f32::from(bits.cast_signed()))
    }
    #[inline(always)]
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
    }
}

#[cfg(target_arch = "x86_64")]
mod wide {
    use std::arch::x86_64::{__m128i, __m256, __m512, __m512i, _MM_HINT_T0};

    use pulp::cast;
    use pulp::x86::{V3, V4};

    use super::{LANES, Lanes};

    impl Lanes for V4 {
        type V = __m512;

        const ROWS: usize = 4;

        #[inline(always)]
        fn prefetch(self, line: *const i8) {
            self.sse._mm_prefetch::<_MM_HINT_T0>(line);
        }
        #[inline(always)]
        fn load(self, from: &[f32; LANES]) -> __m512 {
            cast(*from)
        }
        #[inline(always)]
        fn store(self, to: &mut [f32; LANES], v: __m512) {
            *to = cast(v);
        }
        #[inline(always)]
        fn splat(self, value: f32) -> __m512 {
            self.avx512f._mm512_set1_ps(value)
        }
        #[inline(always)]
        fn widen_bf16(self, bits: &[u16; LANES]) -> __m512 {
            let bits: __m512i = self.avx512f._mm512_cvtepu16_epi32(cast(*bits));
            cast(self.avx512f._mm512_slli_epi32::<16>(bits))
        }
        #[inline(always)]
        fn widen_int8(self, bits: &[u8; LANES]) -> __m512 {
            self.avx512f._mm512_cvtepi32_ps(self.avx512f._mm512_cvtepi8_epi32(cast(*bits)))
        }
        #[inline(always)]
        fn mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
            self.avx512f._mm512_fmadd_ps(a, b, c)
        }

        /// The tree over all vectors at once. A step makes one vector of two: what stays in place comes
        /// from a blend, and what it is added to from a shuffle.
        #[inline(always)]
        fn sums(self, vectors: [__m512; LANES]) -> [f32; LANES] {
            let simd = self.avx512f;
            // Each step leaves the sums of its first vector in the lower places. Four lanes later a
            // quarter belongs to every fourth vector, and a place in it to four neighbours.
            let mut v: [__m512; LANES] = std::array::from_fn(
                #[inline(always)]
                |i| vectors[4 * (i % 4) + i / 4],
            );
            for i in 0..8 {
                let [a, b] = [v[2 * i], v[2 * i + 1]];
                let other = simd._mm512_shuffle_f32x4::<0b01_00_11_10>(a, b);
                v[i] = simd._mm512_add_ps(simd._mm512_mask_blend_ps(0xff00, a, b), other);
            }
            for i in 0..4 {
                let [a, b] = [v[2 * i], v[2 * i + 1]];
                let low = simd._mm512_shuffle_f32x4::<0b10_00_10_00>(a, b);
                let high = simd._mm512_shuffle_f32x4::<0b11_01_11_01>(a, b);
                v[i] = simd._mm512_add_ps(low, high);
            }
            for i in 0..2 {
                let [a, b] = [v[2 * i], v[2 * i + 1]];
                let other = simd._mm512_shuffle_ps::<0b01_00_11_10>(a, b);
                v[i] = simd._mm512_add_ps(simd._mm512_mask_blend_ps(0xcccc, a, b), other);
            }
            let low = simd._mm512_shuffle_ps::<0b10_00_10_00>(v[0], v[1]);
            let high = simd._mm512_shuffle_ps::<0b11_01_11_01>(v[0], v[1]);
            cast(simd._mm512_add_ps(low, high))
        }
    }

    impl Lanes for V3 {
        type V = [__m256; 2];

        const ROWS: usize = 2;

        #[inline(always)]
        fn prefetch(self, line: *const i8) {
            self.sse._mm_prefetch::<_MM_HINT_T0>(line);
        }
        #[inline(always)]
        fn load(self, from: &[f32; LANES]) -> Self::V {
            cast(*from)
        }
        #[inline(always)]
        fn store(self, to: &mut [f32; LANES], v: Self::V) {
            *to = cast(v);
        }
        #[inline(always)]
        fn splat(self, value: f32) -> Self::V {
            [self.avx._mm256_set1_ps(value); 2]
        }
        #[inline(always)]
        fn widen_bf16(self, bits: &[u16; LANES]) -> Self::V {
            let halves: [__m128i; 2] = cast(*bits);
            halves.map(
                #[inline(always)]
                |bits| cast(self.avx2._mm256_slli_epi32::<16>(self.avx2._mm256_cvtepu16_epi32(bits))),
            )
        }
        #[inline(always)]
        fn widen_int8(self, bits: &[u8; LANES]) -> Self::V {
            let halves: [[u8; 8]; 2] = cast(*bits);
            halves.map(
                #[inline(always)]
                |half| {
                    let half: __m128i = cast([half, [0; 8]]);
                    self.avx._mm256_cvtepi32_ps(self.avx2._mm256_cvtepi8_epi32(half))
                },
            )
        }
        #[inline(always)]
        fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
            [self.fma._mm256_fmadd_ps(a[0], b[0], c[0]), self.fma._mm256_fmadd_ps(a[1], b[1], c[1])]
        }
    }
}
