//! Seeded noise that is the same on every platform.

/// What the state grows by.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// SplitMix64 (Steele, Lea, Flood, 2014): one word of state. Good enough for test weights, and never
/// used where anything must be unpredictable.
pub(crate) struct Random {
    state: u64,
}

impl Random {
    pub(crate) const fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// As it stands when so many words were drawn.
    pub(crate) const fn at(seed: u64, drawn: u64) -> Self {
        Self { state: seed.wrapping_add(drawn.wrapping_mul(STEP)) }
    }

    pub(crate) fn word(&mut self) -> u64 {
        self.state = self.state.wrapping_add(STEP);
        let mut word = self.state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// A value of mean 0 and variance 1, nearly Gaussian: the sum of four 16-bit uniforms, which
    /// needs no elementary function and so has the same bits everywhere.
    #[expect(clippy::cast_precision_loss, reason = "the sum stays below 2^18")]
    pub(crate) fn normal(&mut self) -> f32 {
        let word = self.word();
        let sum: u64 = (0..4).map(|part| (word >> (16 * part)) & 0xffff).sum();
        // The variance of a uniform on 0..65536 is (65536^2 - 1) / 12.
        let deviation = (65_536.0_f32 * 65_536.0 / 3.0).sqrt();
        (sum as f32 - 131_070.0) / deviation
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kat_first_words_of_seed_zero() {
        let mut random = Random::new(0);
        assert_eq!([random.word(), random.word()], [0xe220_a839_7b1d_cdaf, 0x6e78_9e6a_a1b9_65f4]);
    }

    #[test]
    fn noise_has_mean_zero_and_variance_one() {
        let mut random = Random::new(3);
        let values: Vec<f64> = (0..100_000).map(|_| f64::from(random.normal())).collect();
        let mean = values.iter().sum::<f64>() / 1e5;
        let variance = values.iter().map(|x| x * x).sum::<f64>() / 1e5;
        assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.02, "{mean} {variance}");
    }
}
