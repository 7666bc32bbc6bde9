//! Rows: the vectors of a trace, and how they become bytes.
//!
//! A row is committed in the dtype in which the runtime computes. Its encoding is canonical: no
//! negative zero, no magnitude under 2^-126, nothing infinite. Bringing a value into that form is a
//! rounding point of every numeric profile: the runtime goes on with the rounded value.

use crate::codec::{Canonical, Malformed, Reader, Writer};

/// How and where a runtime rounds, by name. Everything that decides a verdict about numbers hangs
/// on this: rounding points, tolerances, the version of the elementary functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Profile {
    /// bf16 activations, f32 accumulation, one rounding an operation.
    Bf16V1,
}

impl Profile {
    /// The name that users see.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bf16V1 => "bf16-1",
        }
    }

    /// The profile of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        (name == Self::Bf16V1.name()).then_some(Self::Bf16V1)
    }

    /// Bytes of a row element.
    pub const fn element_bytes(self) -> usize {
        match self {
            Self::Bf16V1 => 2,
        }
    }
}

impl Canonical for Profile {
    fn write(&self, out: &mut Writer) {
        match self {
            Self::Bf16V1 => out.u16(1),
        }
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        match from.u16()? {
            1 => Ok(Self::Bf16V1),
            _ => Err(Malformed::NotCanonical),
        }
    }
}

/// The bits of the bf16 nearest to `value`, halves to even, in canonical form. Infinities and NaN
/// stay what they are, for the caller to refuse.
#[inline]
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
#[inline]
pub fn bf16_value(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// `value` rounded to bf16 in canonical form.
#[inline]
pub fn round_bf16(value: f32) -> f32 {
    bf16_value(bf16_bits(value))
}

/// The bf16 number nearest to `value`, halves to even, as a runtime keeps it: magnitudes under 2^-126
/// and negative zero become zero. What is too large becomes infinite, for the caller to refuse.
pub fn round_bf16_once(value: f64) -> f64 {
    const CUT: u64 = 52 - 7;
    if !value.is_finite() {
        return value;
    }
    let bits = value.to_bits();
    let odd = (bits >> CUT) & 1;
    // A carry out of the significand is the next exponent; finite f64 leave room for it.
    let rounded = bits.saturating_add((1 << (CUT - 1)) - 1).saturating_add(odd) >> CUT << CUT;
    let rounded = f64::from_bits(rounded);
    if rounded.abs() < f64::from(f32::MIN_POSITIVE) {
        0.0
    } else if rounded.abs() > f64::from(f32::MAX) {
        f64::INFINITY.copysign(rounded)
    } else {
        rounded
    }
}

/// Appends `row` to `out` in the profile's dtype.
pub fn encode_row(profile: Profile, row: &[f32], out: &mut Vec<u8>) {
    match profile {
        Profile::Bf16V1 => row.iter().for_each(|&value| out.extend_from_slice(&bf16_bits(value).to_le_bytes())),
    }
}

/// Adds the encoded row `branch` to `stream`, element by element, each sum rounded as the profile says.
/// What overflows becomes infinite.
pub fn add_row(profile: Profile, stream: &mut [u8], branch: &[u8]) {
    match profile {
        Profile::Bf16V1 => {
            for (sum, branch) in stream.as_chunks_mut::<2>().0.iter_mut().zip(branch.as_chunks::<2>().0) {
                let value = |bytes: [u8; 2]| bf16_value(u16::from_le_bytes(bytes));
                *sum = bf16_bits(value(*sum) + value(*branch)).to_le_bytes();
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
    match profile {
        Profile::Bf16V1 => {
            let (elements, rest) = bytes.as_chunks::<2>();
            if !rest.is_empty() {
                return Err(Malformed::Truncated);
            }
            elements.iter().map(|&element| decode_bf16(u16::from_le_bytes(element))).collect()
        }
    }
}

fn decode_bf16(bits: u16) -> Result<f64, Malformed> {
    let exponent = bits & 0x7f80;
    let canonical = if exponent == 0 { bits == 0 } else { exponent != 0x7f80 };
    if canonical { Ok(f64::from(bf16_value(bits))) } else { Err(Malformed::NotCanonical) }
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
}
