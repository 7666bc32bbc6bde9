//! Inverse frequencies of the rotary angles.
//!
//! Rounded where Hugging Face's `modeling_rope_utils` rounds, which computes in f32 throughout: models were trained
//! with these numbers. Powers alone are taken in f64 and rounded once, which is nearer to the power than any f32
//! function promises to be; a frequency may differ from Hugging Face's in its last bit.

use std::f64::consts::TAU;

/// How frequencies differ from plain ones.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Scaling {
    /// Not at all.
    Plain,
    /// All are divided by a factor.
    Linear {
        /// What they are divided by.
        factor: f64,
    },
    /// Llama 3.1: low ones are divided by a factor, high ones are left, between them it goes smoothly.
    Llama3 {
        /// What low ones are divided by.
        factor: f64,
        /// Turns within the original context below which a frequency is low.
        low: f64,
        /// Turns within the original context above which it is high.
        high: f64,
        /// Positions of the original context.
        original: u32,
    },
}

/// `theta^(-2i / head_dim)` of each pair `i`, scaled.
pub(crate) fn inverse_frequencies(theta: f64, head_dim: u32, scaling: Scaling) -> Vec<f32> {
    let exponent = |pair: u32| to_f32(f64::from(2 * pair)) / to_f32(f64::from(head_dim));
    let power = |exponent: f32| to_f32(f64::from(to_f32(theta)).powf(f64::from(exponent)));
    (0..head_dim / 2).map(|pair| scaling.apply(1.0 / power(exponent(pair)))).collect()
}

impl Scaling {
    fn apply(self, frequency: f32) -> f32 {
        match self {
            Self::Plain => frequency,
            Self::Linear { factor } => frequency / to_f32(factor),
            Self::Llama3 { factor, low, high, original } => {
                let length = f64::from(original);
                let wavelength = to_f32(TAU) / frequency;
                let factor = to_f32(factor);
                if wavelength > to_f32(length / low) {
                    frequency / factor
                } else if wavelength < to_f32(length / high) {
                    frequency
                } else {
                    let smooth = (to_f32(length) / wavelength - to_f32(low)) / to_f32(high - low);
                    (1.0 - smooth) * frequency / factor + smooth * frequency
                }
            }
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the rounding to f32 is meant")]
const fn to_f32(value: f64) -> f32 {
    value as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tables of transformers 4.57.6 with torch 2.15.0 on a CPU, as bits.
    #[test]
    fn kat_tables_of_transformers() {
        let llama3 = Scaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original: 64 };
        for (theta, head_dim, scaling, expected) in [
            (
                10_000.0,
                20,
                Scaling::Plain,
                vec![
                    0x3f80_0000,
                    0x3ecb_d4b4,
                    0x3e22_4b06,
                    0x3d81_3855,
                    0x3ccd_c613,
                    0x3c23_d70a,
                    0x3b82_73a4,
                    0x3acf_bc32,
                    0x3a25_66d4,
                    0x3983_b1fa,
                ],
            ),
            (
                75_000.0,
                24,
                Scaling::Linear { factor: 2.5 },
                vec![
                    0x3ecc_cccd,
                    0x3e20_bba1,
                    0x3d7c_4bad,
                    0x3cc6_0245,
                    0x3c1b_672c,
                    0x3b73_edf8,
                    0x3abf_7163,
                    0x3a16_3ffb,
                    0x396b_d740,
                    0x38b9_183e,
                    0x3811_4486,
                    0x3764_0536,
                ],
            ),
            (
                500_000.0,
                32,
                llama3,
                vec![
                    0x3f80_0000,
                    0x3ee1_77bc,
                    0x3da2_9e0c,
                    0x3c2e_e4ad,
                    0x3b9a_08c8,
                    0x3b07_a9c3,
                    0x3a6e_f74f,
                    0x39d2_7720,
                    0x3939_5d21,
                    0x38a3_418d,
                    0x380f_c8f8,
                    0x377d_45c3,
                    0x36df_10c4,
                    0x3644_7610,
                    0x35ad_07a7,
                    0x3518_64a7,
                ],
            ),
        ] {
            let table = inverse_frequencies(theta, head_dim, scaling);
            assert_eq!(table.iter().map(|x| x.to_bits()).collect::<Vec<_>>(), expected, "{theta} {scaling:?}");
        }
    }
}
