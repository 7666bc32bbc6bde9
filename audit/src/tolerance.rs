//! Tolerances: how far honest arithmetic may lie from the reference, under each numeric profile.
//!
//! The constants come from calibration (`assay calibrate` prints both sides' margins); the formulas
//! give each output its own tolerance `tau = eps_rel |y| + eps_abs median|y|`. The median, not the
//! root mean square, so that a few outliers buy no slack for the rest.

use assay_commitments::rows::Profile;

use crate::num::real_count;
use crate::reference::{HeadOutput, dot};

/// The constants of a profile.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    /// Share of an output's own magnitude.
    pub eps_rel: f64,
    /// Share of the row's median magnitude.
    pub eps_abs: f64,
    /// Most mean square deviation of committed products, in tolerances.
    pub theta_products: f64,
    /// Most mean square deviation of keys, in tolerances.
    pub theta_keys: f64,
    /// Most mean square deviation of a head's output, in tolerances.
    pub theta_attention: f64,
    /// Share of a score, as the sum of its terms' magnitudes, by which f32 scores are off; 0 where what the dtype
    /// loses is always more.
    pub score_rel: f64,
    /// Most deviation of a single element that is compared one by one, in tolerances.
    pub gross: f64,
    /// Share of a logit's magnitude.
    pub logit_rel: f64,
    /// Absolute slack of a logit.
    pub logit_abs: f64,
}

/// Above this many medians an output is an outlier, which is proven singly.
pub(crate) const OUTLIER_MEDIANS: f64 = 512.0;
/// Most outliers of a row.
pub(crate) const MAX_OUTLIERS: usize = 16;
/// How much larger what a head adds up may be than what comes out of it: as far as honest values cancel.
const CANCELLATION: f64 = 4.0;
/// Stands in for the median of a row of zeros.
const LEAST_MEDIAN: f64 = 7.888_609_052_210_118e-31;

impl Tolerance {
    /// The most mean square deviation of a row of so many elements, in tolerances, of which a wide one may have `theta`: one
    /// element may be a step of the dtype off, two tolerances at most, where sums in another order round to the other side.
    pub(crate) fn of_width(theta: f64, width: u32) -> f64 {
        theta.max(4.0 / f64::from(width))
    }

    /// The constants of a profile.
    pub const fn of(profile: Profile) -> Self {
        match profile {
            Profile::Bf16V1 | Profile::Bf16W8V1 => Self {
                eps_rel: 1.0 / 256.0,
                eps_abs: 1.0 / 512.0,
                theta_products: 0.5,
                theta_keys: 0.5,
                theta_attention: 0.28,
                score_rel: 0.0,
                gross: 32.0,
                logit_rel: 1.0 / 512.0,
                logit_abs: 1.0 / 128.0,
            },
            // Above what an f32 sum loses stands what the fixed point of the integer products does: inputs
            // keep 15 bits beside the sign at a width of 14336, 17 at 4096.
            Profile::F32V1 => Self {
                eps_rel: 1.0 / 8192.0,
                eps_abs: 1.0 / 8192.0,
                theta_products: 0.5,
                theta_keys: 0.5,
                theta_attention: 0.28,
                score_rel: 1.0 / 4_194_304.0,
                gross: 32.0,
                logit_rel: 1.0 / 4096.0,
                logit_abs: 1.0 / 1024.0,
            },
        }
    }

    /// The tolerance of every element of a committed row.
    pub(crate) fn of_row(&self, row: &[f64], median: f64) -> Vec<f64> {
        row.iter().map(|y| self.eps_rel * y.abs() + self.eps_abs * median).collect()
    }

    /// The tolerance of every element of a head's output as it was committed: that of any row, and what rounded
    /// probabilities and scores may have moved, as far as that fits the size of the output. Without this bound a few rows of
    /// the cache, large, and opposed so that they cancel, would let everything pass that ever attends to them.
    ///
    /// The size is the upper quartile of the output over `channels`, as [`channels`] measures them: whoever inflates it
    /// has a quarter of the output to account for.
    pub(crate) fn of_head(
        &self,
        output: &[f64],
        HeadOutput { moved, share, .. }: &HeadOutput,
        channels: &[f64],
    ) -> Vec<f64> {
        let sizes: Vec<f64> = output.iter().zip(channels).map(|(y, channel)| y.abs() / channel).collect();
        let quartile = sizes.len().saturating_mul(3) / 4;
        let size = element_of_rank(quartile, sizes);
        let most = CANCELLATION * share * size;
        let own = self.of_row(output, median_magnitude(output));
        own.iter().zip(moved).zip(channels).map(|((own, moved), channel)| own + moved.min(most * channel)).collect()
    }
}

/// How large the values of each channel of a cache typically are: the upper median of their magnitudes, and no less than that
/// of the median channel. Rows that are no values of the model make it no larger unless they are half of all.
pub(crate) fn channels(values: &[&[f64]]) -> Vec<f64> {
    let width = values.first().map_or(0, |row| row.len());
    let channel = |channel: usize| values.iter().filter_map(|row| row.get(channel)).map(|v| v.abs()).collect();
    let medians: Vec<f64> = (0..width).map(|number| upper_median(channel(number))).collect();
    let least = median_magnitude(&medians);
    medians.into_iter().map(|median| median.max(least)).collect()
}

/// The most mean square deviation of `outputs` supplied products from their roundings, in units of a
/// uniform rounding's variance. Fewer outputs average less, so a row of few is given more room; an
/// honest row exceeds it about once in 2^40, or less.
pub(crate) const fn theta_supplied(outputs: usize) -> f64 {
    match outputs {
        1024.. => 2.2,
        64.. => 3.0,
        _ => 6.0,
    }
}

/// The element that as many others stand below, in their order; 0 if there are not as many.
fn element_of_rank(rank: usize, mut values: Vec<f64>) -> f64 {
    if rank < values.len() { *values.select_nth_unstable_by(rank, f64::total_cmp).1 } else { 0.0 }
}

/// The upper median; 0 of nothing.
pub(crate) fn upper_median(magnitudes: Vec<f64>) -> f64 {
    element_of_rank(magnitudes.len() / 2, magnitudes)
}

/// The lower median of the magnitudes; of those that are not zero if it is zero; a stated least value
/// for a row of zeros.
pub(crate) fn median_magnitude(row: &[f64]) -> f64 {
    // Bits of numbers without a sign have their order.
    let median = |mut magnitudes: Vec<u64>| {
        let middle = magnitudes.len().checked_sub(1)? / 2;
        Some(f64::from_bits(*magnitudes.select_nth_unstable(middle).1))
    };
    let magnitudes = row.iter().map(|y| y.abs().to_bits());
    match median(magnitudes.clone().collect()) {
        Some(middle) if middle > 0.0 => middle,
        _ => median(magnitudes.filter(|bits| f64::from_bits(*bits) > 0.0).collect()).unwrap_or(LEAST_MEDIAN),
    }
}

/// `mean_j ((a_j - b_j) / tau_j)^2` and the largest `|a_j - b_j| / tau_j`.
pub(crate) fn deviation(a: &[f64], b: &[f64], tau: &[f64]) -> (f64, f64) {
    let units: Vec<f64> = a.iter().zip(b).zip(tau).map(|((a, b), tau)| (a - b) / tau).collect();
    let largest = units.iter().fold(0.0, |largest: f64, unit| largest.max(unit.abs()));
    (dot(&units, &units) / real_count(units.len()), largest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_leave_zeros_out_only_when_they_must() {
        assert_eq!(median_magnitude(&[3.0, -1.0, 2.0, 8.0]), 2.0);
        assert_eq!(median_magnitude(&[0.0, 0.0, 0.0, -4.0]), 4.0);
        assert_eq!(median_magnitude(&[0.0; 3]), LEAST_MEDIAN);
        assert_eq!(LEAST_MEDIAN, crate::num::power_of_two(-100));
    }

    #[test]
    fn deviations_are_in_units_of_tolerance() {
        let (mean, largest) = deviation(&[1.0, 2.0], &[1.0, 2.5], &[0.1, 0.25]);
        assert_eq!((mean, largest), (2.0, 2.0));
    }
}
