//! Rows: the vectors of a trace, and how they become bytes.
//!
//! A row is committed in the dtype in which the runtime computes. Its encoding is canonical: no
//! negative zero, no magnitude under 2^-126, nothing infinite. Bringing a value into that form is a
//! rounding point of every numeric profile: the runtime goes on with the rounded value.
#![expect(
    clippy::inline_always,
    reason = "only code that is inlined is compiled for the instructions found at run time"
)]

use pulp::{Arch, Simd, WithSimd};

use crate::codec::{Canonical, Malformed, Reader, Writer};

/// How and where a runtime rounds, by name. Everything that decides a verdict about numbers hangs
/// on this: rounding points, tolerances, the version of the elementary functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Profile {
    /// bf16 weights and activations, f32 accumulation, one rounding an operation.
    Bf16V1,
    /// f32 weights and activations, f32 accumulation, one rounding an operation.
    F32V1,
    /// As [`Self::Bf16V1`], with matrices of integers of at most eight bits times a scale for each group of
    /// inputs, which are used as they are.
    Bf16W8V1,
}

/// The type of a row's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Element {
    /// The upper half of an f32.
    Bf16,
    /// IEEE single precision.
    F32,
}

impl Profile {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Bf16V1, Self::F32V1, Self::Bf16W8V1];

    /// The name that users see.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bf16V1 => "bf16-1",
            Self::F32V1 => "f32-1",
            Self::Bf16W8V1 => "bf16-w8-1",
        }
    }

    /// The profile of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|profile| profile.name() == name)
    }

    /// The number that stands for it in a manifest.
    const fn code(self) -> u16 {
        match self {
            Self::Bf16V1 => 1,
            Self::F32V1 => 2,
            Self::Bf16W8V1 => 3,
        }
    }

    /// The type of activations.
    pub const fn element(self) -> Element {
        match self {
            Self::Bf16V1 | Self::Bf16W8V1 => Element::Bf16,
            Self::F32V1 => Element::F32,
        }
    }

    /// Bytes of a row element.
    pub const fn element_bytes(self) -> usize {
        match self.element() {
            Element::Bf16 => 2,
            Element::F32 => 4,
        }
    }

    /// The activation nearest to `value`, halves to even, as a runtime keeps it: magnitudes under 2^-126
    /// and negative zero become zero. What is too large becomes infinite, for the caller to refuse.
    #[inline(always)]
    pub fn round_once(self, value: f64) -> f64 {
        match self.element() {
            Element::Bf16 => round_once::<{ 52 - 7 }>(value),
            Element::F32 => round_once::<{ 52 - 23 }>(value),
        }
    }

    /// A row of values, each rounded as [`Self::round_once`] does.
    pub fn rounded(self, values: &(impl ExactSizeIterator<Item = f64> + Clone)) -> Vec<f64> {
        let mut row = vec![0.0; values.len()];
        vectorized(
            #[inline(always)]
            || {
                let pairs = row.iter_mut().zip(values.clone());
                match self.element() {
                    Element::Bf16 => pairs.for_each(|(slot, value)| *slot = round_once::<{ 52 - 7 }>(value)),
                    Element::F32 => pairs.for_each(|(slot, value)| *slot = round_once::<{ 52 - 23 }>(value)),
                }
            },
        );
        row
    }

    /// Rounds each value once, as [`Self::round_once`] does.
    pub fn round(self, values: &mut [f32]) {
        vectorized(
            #[inline(always)]
            || match self.element() {
                Element::Bf16 => values.iter_mut().for_each(|value| *value = round_bf16(*value)),
                Element::F32 => values.iter_mut().for_each(|value| *value = flush(*value)),
            },
        );
    }
}

impl Canonical for Profile {
    fn write(&self, out: &mut Writer) {
        out.u16(self.code());
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        let code = from.u16()?;
        Self::ALL.into_iter().find(|profile| profile.code() == code).ok_or(Malformed::NotCanonical)
    }
}

/// An f32 in canonical form.
#[inline(always)]
fn flush(value: f32) -> f32 {
    if value.abs() < f32::MIN_POSITIVE { 0.0 } else { value }
}

/// The bits of the bf16 nearest to `value`, halves to even, in canonical form. Infinities and NaN
/// stay what they are, for the caller to refuse.
#[inline(always)]
pub fn bf16_bits(value: f32) -> u16 {
    let bits = value.to_bits();
    // A carry out of the significand is the next exponent, as it should be. Written without branches,
    // so that loops over it become vector code.
    let odd = (bits >> 16) & 1;
    let rounded = bits.wrapping_add(0x7fff).wrapping_add(odd);
    let canonical = if rounded & 0x7f80_0000 == 0 { 0 } else { rounded };
    // A NaN whose payload sits in the low half alone must not become an infinity.
    let canonical = if value.is_nan() { 0x7fc0_0000 } else { canonical };
    u16::try_from(canonical >> 16).unwrap_or(u16::MAX)
}

/// The number that bf16 bits stand for.
#[inline(always)]
pub fn bf16_value(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// `value` rounded to bf16 in canonical form.
#[inline(always)]
pub fn round_bf16(value: f32) -> f32 {
    bf16_value(bf16_bits(value))
}

/// Rounds to a significand that lacks the last `CUT` bits of an f64's and to the exponents of an f32.
#[inline(always)]
fn round_once<const CUT: u32>(value: f64) -> f64 {
    let bits = value.to_bits();
    let odd = (bits >> CUT) & 1;
    // A carry out of the significand is the next exponent; finite f64 leave room for it. Written without branches.
    let rounded = bits.wrapping_add((1 << (CUT - 1)) - 1).wrapping_add(odd) >> CUT << CUT;
    let rounded = f64::from_bits(rounded);
    let size = rounded.abs();
    let bounded = if size > f64::from(f32::MAX) { f64::INFINITY.copysign(rounded) } else { rounded };
    let canonical = if size < f64::from(f32::MIN_POSITIVE) { 0.0 } else { bounded };
    if value.is_finite() { canonical } else { value }
}

/// Runs `work` compiled for the instructions that this machine has: what of it is inlined.
pub fn vectorized<T>(work: impl FnMut() -> T) -> T {
    /// Called by reference: to call a closure by value goes through a function that is compiled for every machine.
    struct Work<F>(F);

    impl<T, F: FnMut() -> T> WithSimd for Work<F> {
        type Output = T;

        #[inline(always)]
        fn with_simd<S: Simd>(mut self, _: S) -> T {
            (self.0)()
        }
    }

    Arch::new().dispatch(Work(work))
}

/// Appends `row` to `out` in the profile's dtype.
pub fn encode_row(profile: Profile, row: &[f32], out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + row.len() * profile.element_bytes(), 0);
    write_row(profile, row, &mut out[start..]);
}

/// Writes `row` in the profile's dtype to `out`, which has its length, and says whether no element of it is infinite or
/// NaN.
pub fn write_row(profile: Profile, row: &[f32], out: &mut [u8]) -> bool {
    assert_eq!(out.len(), row.len() * profile.element_bytes(), "a row has its length");
    // Bits of finite numbers, without the sign, are below those of infinity.
    vectorized(
        #[inline(always)]
        || match profile.element() {
            Element::Bf16 => {
                let slots = out.as_chunks_mut().0.iter_mut().zip(row);
                let largest = slots.fold(0_u16, |largest, (slot, &value)| {
                    let bits = bf16_bits(value);
                    *slot = bits.to_le_bytes();
                    largest.max(bits & 0x7fff)
                });
                largest < 0x7f80
            }
            Element::F32 => {
                let slots = out.as_chunks_mut().0.iter_mut().zip(row);
                let largest = slots.fold(0_u32, |largest, (slot, &value)| {
                    let bits = flush(value).to_bits();
                    *slot = bits.to_le_bytes();
                    largest.max(bits & 0x7fff_ffff)
                });
                largest < 0x7f80_0000
            }
        },
    )
}

/// Adds the encoded row `branch` to `stream`, element by element, each sum rounded as the profile says.
/// What overflows becomes infinite.
pub fn add_row(profile: Profile, stream: &mut [u8], branch: &[u8]) {
    match profile.element() {
        Element::Bf16 => {
            let value = |bytes: [u8; 2]| bf16_value(u16::from_le_bytes(bytes));
            for (sum, branch) in stream.as_chunks_mut::<2>().0.iter_mut().zip(branch.as_chunks::<2>().0) {
                *sum = bf16_bits(value(*sum) + value(*branch)).to_le_bytes();
            }
        }
        Element::F32 => {
            for (sum, branch) in stream.as_chunks_mut::<4>().0.iter_mut().zip(branch.as_chunks::<4>().0) {
                *sum = flush(f32::from_le_bytes(*sum) + f32::from_le_bytes(*branch)).to_le_bytes();
            }
        }
    }
}

/// The numbers of an encoded row.
///
/// # Errors
/// [`Malformed::NotCanonical`] for negative zero, a magnitude under 2^-126, an infinity or a NaN;
/// [`Malformed::Truncated`] when the bytes are no whole number of elements.
pub fn decode_row(profile: Profile, bytes: &[u8]) -> Result<Vec<f64>, Malformed> {
    match profile.element() {
        Element::Bf16 => decode::<2>(bytes, |element| bf16_value(u16::from_le_bytes(element))),
        Element::F32 => decode::<4>(bytes, f32::from_le_bytes),
    }
}

fn decode<const N: usize>(bytes: &[u8], value: impl Fn([u8; N]) -> f32) -> Result<Vec<f64>, Malformed> {
    let (elements, rest) = bytes.as_chunks::<N>();
    if !rest.is_empty() {
        return Err(Malformed::Truncated);
    }
    let mut row = vec![0.0; elements.len()];
    // Without the sign, the bits of normal numbers are those from 0x0080_0000 up to below 0x7f80_0000.
    let is_canonical = vectorized(
        #[inline(always)]
        || {
            row.iter_mut().zip(elements).fold(true, |are_canonical, (slot, &element)| {
                let value = value(element);
                *slot = f64::from(value);
                let size = value.to_bits() & 0x7fff_ffff;
                let is_normal = size.wrapping_sub(0x0080_0000) < 0x7f00_0000;
                are_canonical & (is_normal | (value.to_bits() == 0))
            })
        },
    );
    if is_canonical { Ok(row) } else { Err(Malformed::NotCanonical) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_goes_to_the_even_neighbour() {
        let rounded = |value| round_bf16(value).to_bits();
        assert_eq!(rounded(1.0 + 1.0 / 256.0), 1.0_f32.to_bits());
        assert_eq!(rounded(1.0 + 3.0 / 256.0), (1.0_f32 + 4.0 / 256.0).to_bits());
        assert_eq!(bf16_bits(f32::MAX), 0x7f80);
    }

    #[test]
    fn tiny_values_and_negative_zero_become_zero() {
        for value in [-0.0_f32, 1e-39, -1e-39, f32::MIN_POSITIVE / 2.0] {
            assert_eq!(bf16_bits(value), 0, "{value}");
        }
        assert_eq!(bf16_bits(f32::MIN_POSITIVE), 0x0080);
    }

    #[test]
    fn exactly_the_canonical_encodings_are_read() {
        for bits in 0..=u16::MAX {
            let read = decode_row(Profile::Bf16V1, &bits.to_le_bytes());
            let value = bf16_value(bits);
            let canonical = value.is_finite() && bf16_bits(value) == bits;
            assert_eq!(read.is_ok(), canonical, "{bits:#x}");
        }
        assert_eq!(decode_row(Profile::Bf16V1, &[0]), Err(Malformed::Truncated));
    }

    #[test]
    fn one_encoding_that_is_not_canonical_spoils_its_row_wherever_it_stands() {
        for (profile, bad) in [(Profile::Bf16V1, &[0x80, 0x7f][..]), (Profile::F32V1, &[0, 0, 0, 0x80])] {
            let mut bytes = vec![];
            encode_row(profile, &[1.5; 71], &mut bytes);
            assert_eq!(decode_row(profile, &bytes), Ok(vec![1.5; 71]));
            for place in 0..71 {
                let mut spoilt = bytes.clone();
                spoilt[place * bad.len()..][..bad.len()].copy_from_slice(bad);
                assert_eq!(decode_row(profile, &spoilt), Err(Malformed::NotCanonical), "{place}");
            }
        }
    }

    #[test]
    fn f32_rows_keep_everything_but_what_is_not_canonical() {
        let row = [1.0 + f32::EPSILON, f32::MAX, -f32::MIN_POSITIVE, 0.0];
        let mut bytes = vec![];
        encode_row(Profile::F32V1, &row, &mut bytes);
        assert_eq!(decode_row(Profile::F32V1, &bytes), Ok(row.map(f64::from).to_vec()));
        let finite =
            |profile: Profile, row: &[f32]| write_row(profile, row, &mut vec![0; row.len() * profile.element_bytes()]);
        assert!(finite(Profile::F32V1, &row));
        // In bf16 the largest f32 rounds to infinity.
        assert!(finite(Profile::Bf16V1, &[1.0, -1e38]) && !finite(Profile::Bf16V1, &row));
        for bad in [f32::INFINITY, -f32::NAN] {
            for profile in Profile::ALL {
                assert!(!finite(profile, &[1.0, bad, 0.0]), "{profile:?}, {bad}");
            }
        }
        for bad in [-0.0, 1e-40, f32::INFINITY, f32::NAN] {
            assert_eq!(decode_row(Profile::F32V1, &bad.to_le_bytes()), Err(Malformed::NotCanonical), "{bad}");
        }
        bytes.clear();
        encode_row(Profile::F32V1, &[-0.0, -1e-40], &mut bytes);
        assert_eq!(bytes, [0; 8]);
        assert_eq!(decode_row(Profile::F32V1, &[0; 6]), Err(Malformed::Truncated));
    }

    #[test]
    #[expect(clippy::cast_possible_truncation, reason = "the processor's rounding is what is compared with")]
    fn rounding_to_f32_agrees_with_the_processor() {
        let mut bits = 1_u64;
        for _ in 0..200_000 {
            bits = bits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            // Exponents of an f32.
            let value = f64::from_bits((bits >> 3) | 0x3000_0000_0000_0000);
            let direct = f64::from(value as f32);
            if direct.is_finite() && direct.abs() >= f64::from(f32::MIN_POSITIVE) {
                assert_eq!(Profile::F32V1.round_once(value), direct, "{value:e}");
            }
        }
        assert_eq!(Profile::F32V1.round_once(1e-39), 0.0);
        assert_eq!(Profile::F32V1.round_once(1e39), f64::INFINITY);
        for profile in [Profile::Bf16V1, Profile::F32V1] {
            for value in [f64::MAX, f64::INFINITY] {
                assert_eq!([value, -value].map(|value| profile.round_once(value)), [f64::INFINITY, -f64::INFINITY]);
            }
            assert!(profile.round_once(f64::NAN).is_nan());
        }
        assert_eq!(Profile::F32V1.round_once(-0.0).to_bits(), 0);
    }

    #[test]
    fn profiles_are_known_by_name_and_by_number() {
        for profile in Profile::ALL {
            assert_eq!(Profile::from_name(profile.name()), Some(profile));
            assert_eq!(crate::codec::decode(&crate::codec::encode(&profile)), Ok(profile));
        }
        assert_eq!(crate::codec::decode::<Profile>(&[9, 0]), Err(Malformed::NotCanonical));
    }
}
