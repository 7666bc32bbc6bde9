//! The canonical sampler, and what can be said of a pick when logits are known within bounds.
//!
//! A pick is replayable: `argmax over the allowed set of logit / T + gumbel(PRF(seed, position, token))`
//! (the Gumbel-max trick draws from softmax(logits / T)), ties to the lowest id; at temperature 0 it
//! is plain argmax. The allowed set is cut in this order: first the `top_k` largest logits (ties to
//! the lowest id), then of those, in descending order, every token before which the others have
//! gathered less than `top_p` of their common probability.

use std::cmp::Ordering;

use assay_commitments::codec::{Canonical, Malformed, Reader, Writer};
use assay_commitments::{Position, TokenId};

use crate::domains;
use crate::num::{count, index, real};

/// How an answer is drawn. The validator chooses it, the seed included.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// 0 picks the largest logit.
    pub temperature: f32,
    /// How many of the largest logits are allowed; 0 allows all.
    pub top_k: u32,
    /// Probability mass that is allowed, in (0, 1]; 1 allows all.
    pub top_p: f32,
    /// Seed of the Gumbel noise.
    pub seed: u64,
}

impl Sampling {
    /// Plain argmax.
    pub const GREEDY: Self = Self { temperature: 0.0, top_k: 0, top_p: 1.0, seed: 0 };

    /// Whether every number is in its range: a finite temperature of at least 0 and at most 100
    /// that is not tiny, a mass in (0, 1].
    pub fn is_valid(&self) -> bool {
        let temperature = self.temperature.to_bits() == 0 || (1e-3..=100.0).contains(&self.temperature);
        temperature && self.top_p > 0.0 && self.top_p <= 1.0
    }
}

impl Canonical for Sampling {
    fn write(&self, out: &mut Writer) {
        out.u32(self.temperature.to_bits());
        out.u32(self.top_k);
        out.u32(self.top_p.to_bits());
        out.u64(self.seed);
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        let sampling = Self {
            temperature: f32::from_bits(from.u32()?),
            top_k: from.u32()?,
            top_p: f32::from_bits(from.u32()?),
            seed: from.u64()?,
        };
        if sampling.is_valid() { Ok(sampling) } else { Err(Malformed::NotCanonical) }
    }
}

/// Gumbel noise of every token at a position: `-ln(-ln((k + 1/2) 2^-52))` with 52 pseudorandom bits
/// `k` a token, from a BLAKE3 stream that the seed and the position key.
pub fn gumbel_noise(seed: u64, position: Position, vocabulary: usize) -> Vec<f64> {
    let mut hash = blake3::Hasher::new_derive_key(domains::GUMBEL);
    hash.update(&seed.to_le_bytes());
    hash.update(&position.get().to_le_bytes());
    let mut bytes = vec![0; vocabulary.saturating_mul(8)];
    hash.finalize_xof().fill(&mut bytes);
    let (words, _) = bytes.as_chunks::<8>();
    words
        .iter()
        .map(|&word| {
            let bits = i64::from_le_bytes(word).cast_unsigned() >> 12;
            let uniform = (real(bits.cast_signed()) + 0.5) / 4_503_599_627_370_496.0;
            -libm::log(-libm::log(uniform))
        })
        .collect()
}

/// Picks the token after `position` from all `logits`.
///
/// # Panics
/// On an empty vocabulary.
pub fn sample(logits: &[f32], sampling: &Sampling, position: Position) -> TokenId {
    let logits: Vec<f64> = logits.iter().map(|&logit| f64::from(logit)).collect();
    let exact = Intervals::new(logits, |_, _| 0.0);
    exact.pick(sampling, position)
}

/// The largest of `scores`, ties to the lowest index.
fn argmax(scores: impl Iterator<Item = (usize, f64)>) -> Option<usize> {
    scores
        .reduce(|best, next| if next.1.total_cmp(&best.1) == Ordering::Greater { next } else { best })
        .map(|best| best.0)
}

/// Logits known within bounds: entry `j` lies in `[z_j - u_j, z_j + u_j]`.
#[derive(Clone, Debug)]
pub(crate) struct Intervals {
    z: Vec<f64>,
    low: Vec<f64>,
    high: Vec<f64>,
}

impl Intervals {
    pub(crate) fn new(z: Vec<f64>, slack: impl Fn(usize, f64) -> f64) -> Self {
        let bound = |sign: f64| z.iter().enumerate().map(|(j, &z)| z + sign * slack(j, z)).collect();
        Self { low: bound(-1.0), high: bound(1.0), z }
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = (usize, f64)> + '_ {
        self.z.iter().copied().enumerate()
    }

    #[expect(clippy::expect_used, reason = "only a runtime picks, and its vocabulary has a token")]
    fn pick(&self, sampling: &Sampling, position: Position) -> TokenId {
        let token = |index: Option<usize>| TokenId::new(count(index.expect("a vocabulary has a token")));
        if sampling.temperature == 0.0 {
            return token(argmax(self.entries()));
        }
        let temperature = f64::from(sampling.temperature);
        let noise = gumbel_noise(sampling.seed, position, self.z.len());
        let allowed = self.allowed(sampling);
        token(argmax(
            self.entries()
                .zip(&noise)
                .zip(&allowed)
                .filter(|(_, allowed)| **allowed)
                .map(|(((j, z), noise), _)| (j, z / temperature + noise)),
        ))
    }

    /// The allowed set when the logits are exact.
    fn allowed(&self, sampling: &Sampling) -> Vec<bool> {
        let mut order: Vec<(usize, f64)> = self.entries().collect();
        if sampling.top_k == 0 && sampling.top_p >= 1.0 {
            return vec![true; order.len()];
        }
        order.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        if sampling.top_k > 0 {
            order.truncate(index(sampling.top_k));
        }
        let mut allowed = vec![false; self.z.len()];
        let top = order.first().map_or(0.0, |first| first.1);
        let weight = |z: f64| libm::exp((z - top) / f64::from(sampling.temperature));
        let total: f64 = order.iter().map(|&(_, z)| weight(z)).sum();
        let mut before = 0.0;
        for (j, z) in order {
            // A mass of 1 allows all: rounding of the sum must not cut the tail.
            let inside = sampling.top_p >= 1.0 || before < f64::from(sampling.top_p) * total;
            if let Some(slot) = allowed.get_mut(j) {
                *slot = inside;
            }
            before += weight(z);
        }
        allowed
    }

    /// Whether `token` is allowed for some choice of the entries within their bounds.
    ///
    /// The choice that favours it: itself at its high end, entries that cannot help being above it
    /// at their low end, every other entry as high as it can be without passing it, since that
    /// only adds to the mass behind it.
    pub(crate) fn may_be_allowed(&self, token: usize, sampling: &Sampling) -> bool {
        let Some(&own) = self.high.get(token) else { return false };
        let others = || self.low.iter().zip(&self.high).enumerate().filter(move |(j, _)| *j != token);
        let above: Vec<f64> = others().filter(|(_, (low, _))| **low > own).map(|(_, (low, _))| *low).collect();
        let behind = others().filter(|(_, (low, _))| **low <= own).map(|(_, (_, high))| high.min(own)).collect();
        Rank { own, above, behind }.allows(sampling)
    }

    /// Whether `token` is allowed for every choice of the entries within their bounds.
    ///
    /// The choice that disfavours it: itself at its low end, entries that can be above it at their
    /// high end, the others at their low end.
    pub(crate) fn is_surely_allowed(&self, token: usize, sampling: &Sampling) -> bool {
        let Some(&own) = self.low.get(token) else { return false };
        let others = || self.low.iter().zip(&self.high).enumerate().filter(move |(j, _)| *j != token);
        let above: Vec<f64> = others().filter(|(_, (_, high))| **high >= own).map(|(_, (_, high))| *high).collect();
        let behind = others().filter(|(_, (_, high))| **high < own).map(|(_, (low, _))| *low).collect();
        Rank { own, above, behind }.allows(sampling)
    }
}

/// An entry among those above it and those behind it.
struct Rank {
    own: f64,
    above: Vec<f64>,
    behind: Vec<f64>,
}

impl Rank {
    fn allows(mut self, sampling: &Sampling) -> bool {
        if sampling.top_k > 0 {
            let Some(room) = index(sampling.top_k).checked_sub(self.above.len().saturating_add(1)) else {
                return false;
            };
            self.behind.sort_by(|a, b| b.total_cmp(a));
            self.behind.truncate(room);
        }
        if sampling.top_p >= 1.0 {
            return true;
        }
        let weight = |z: &f64| libm::exp((z - self.own) / f64::from(sampling.temperature));
        let above: f64 = self.above.iter().map(weight).sum();
        let behind: f64 = self.behind.iter().map(weight).sum();
        // An overflow of exp leaves a mass that is not finite: everything lies above, none is left.
        above.is_finite() && above < f64::from(sampling.top_p) * (above + 1.0 + behind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampling(temperature: f32, top_k: u32, top_p: f32, seed: u64) -> Sampling {
        Sampling { temperature, top_k, top_p, seed }
    }

    #[test]
    fn greedy_takes_the_lowest_of_equal_ids() {
        let token = sample(&[1.0, 3.0, 3.0, 2.0], &Sampling::GREEDY, Position::new(5));
        assert_eq!(token, TokenId::new(1));
    }

    #[test]
    fn picks_follow_the_softmax() {
        let logits = [0.0_f32, 1.0, 2.0];
        let total: f64 = logits.iter().map(|&z| libm::exp(f64::from(z))).sum();
        let mut hits = [0_u32; 3];
        for seed in 0..20_000 {
            hits[sample(&logits, &sampling(1.0, 0, 1.0, seed), Position::new(7)).get() as usize] += 1;
        }
        for (hit, logit) in hits.iter().zip(logits) {
            let expected = 20_000.0 * libm::exp(f64::from(logit)) / total;
            assert!((f64::from(*hit) - expected).abs() < 4.0 * expected.sqrt(), "{hit} of {expected}");
        }
    }

    #[test]
    fn top_k_and_top_p_cut_the_tail() {
        let logits = [0.0_f32, 5.0, 4.0, 3.0];
        for seed in 0..500 {
            let pick = |top_k, top_p| sample(&logits, &sampling(2.0, top_k, top_p, seed), Position::new(0)).get();
            assert_eq!(pick(1, 1.0), 1);
            assert!([1, 2].contains(&pick(2, 1.0)));
            assert_eq!(pick(0, 1e-6), 1);
            assert!([1, 2, 3].contains(&pick(0, 0.9)));
        }
    }

    #[test]
    fn exact_intervals_agree_with_the_allowed_set() {
        let z: Vec<f64> = (0..40_i32).map(|j| f64::from((j * 37) % 23) / 3.0).collect();
        for (top_k, top_p) in [(0, 1.0), (5, 1.0), (0, 0.5), (7, 0.8), (1, 0.1)] {
            let rule = sampling(0.7, top_k, top_p, 1);
            let exact = Intervals::new(z.clone(), |_, _| 0.0);
            let allowed = exact.allowed(&rule);
            for (j, &allowed) in allowed.iter().enumerate() {
                // Exact ties stand on either side of a border; bounds must cover both readings.
                assert!(!allowed || exact.may_be_allowed(j, &rule), "{j} {top_k} {top_p}");
                assert!(allowed || !exact.is_surely_allowed(j, &rule), "{j} {top_k} {top_p}");
            }
        }
    }

    #[test]
    fn bounds_cover_every_choice_within_them() {
        let z: Vec<f64> = (0..12_i32).map(|j| f64::from((j * 7) % 12) / 2.0).collect();
        let rule = sampling(1.0, 6, 0.7, 1);
        let wide = Intervals::new(z.clone(), |_, _| 0.4);
        for trial in 0..300_u64 {
            let noise = gumbel_noise(trial, Position::new(1), z.len());
            let moved = z.iter().zip(&noise).map(|(z, noise)| z + 0.4 * libm::tanh(*noise)).collect();
            let allowed = Intervals::new(moved, |_, _| 0.0).allowed(&rule);
            for (j, &allowed) in allowed.iter().enumerate() {
                assert!(!allowed || wide.may_be_allowed(j, &rule));
                assert!(allowed || !wide.is_surely_allowed(j, &rule));
            }
        }
    }

    #[test]
    fn ranges_are_enforced() {
        for bad in [f32::NAN, -1.0, -0.0, f32::INFINITY, 1e-9] {
            assert!(!sampling(bad, 0, 1.0, 0).is_valid(), "{bad}");
        }
        for bad in [f32::NAN, 0.0, -0.5, 1.5] {
            assert!(!sampling(1.0, 0, bad, 0).is_valid(), "{bad}");
        }
    }
}
