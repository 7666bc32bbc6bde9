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

    /// Whether no token is left out before one is picked.
    pub(crate) fn allows_all(&self) -> bool {
        self.temperature == 0.0 || (self.top_k == 0 && self.top_p >= 1.0)
    }

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
    noise_bits(seed, position, vocabulary).into_iter().map(gumbel).collect()
}

/// The noise of every token at a position, not worked out yet: that costs two logarithms, and most tokens lose without.
#[derive(Clone, Debug)]
pub(crate) struct Noise(Vec<u64>);

impl Noise {
    pub(crate) fn new(seed: u64, position: Position, vocabulary: usize) -> Self {
        Self(noise_bits(seed, position, vocabulary))
    }

    /// As in [`gumbel_noise`].
    pub(crate) fn of(&self, token: usize) -> Option<f64> {
        self.0.get(token).copied().map(gumbel)
    }

    /// No less than [`Self::of`].
    pub(crate) fn bound(&self, token: usize) -> Option<f64> {
        self.0.get(token).copied().map(gumbel_bound)
    }
}

/// The pseudorandom bits of every token at a position.
fn noise_bits(seed: u64, position: Position, vocabulary: usize) -> Vec<u64> {
    let mut hash = blake3::Hasher::new_derive_key(domains::GUMBEL);
    hash.update(&seed.to_le_bytes());
    hash.update(&position.get().to_le_bytes());
    let mut bytes = vec![0; vocabulary.saturating_mul(8)];
    hash.finalize_xof().fill(&mut bytes);
    let (words, _) = bytes.as_chunks::<8>();
    words.iter().map(|&word| u64::from_le_bytes(word) >> 12).collect()
}

fn gumbel(bits: u64) -> f64 {
    let uniform = (real(bits.cast_signed()) + 0.5) / 4_503_599_627_370_496.0;
    -libm::log(-libm::log(uniform))
}

/// What the noise of these bits is below: `-ln(-ln u) <= -ln(1 - u)`, and the ones that `u` begins with
/// bound `1 - u`. Hardly any token needs its logarithms to be seen to lose.
fn gumbel_bound(bits: u64) -> f64 {
    let ones = (bits << 12).leading_ones().min(52);
    f64::from(ones.saturating_add(1)) * std::f64::consts::LN_2 + 1e-9
}

/// Picks the token after `position` from all `logits`.
///
/// # Panics
/// On an empty vocabulary.
#[expect(clippy::expect_used, reason = "only a runtime picks, and its vocabulary has a token")]
pub fn sample(logits: &[f32], sampling: &Sampling, position: Position) -> TokenId {
    let entries = || logits.iter().map(|&logit| f64::from(logit)).enumerate();
    // Always allowed, and often the best.
    let largest = argmax(entries()).expect("a vocabulary has a token");
    if sampling.temperature == 0.0 {
        return TokenId::new(count(largest));
    }
    let temperature = f64::from(sampling.temperature);
    let noise = Noise::new(sampling.seed, position, logits.len());
    let allowed = allowed(&entries().map(|(_, z)| z).collect::<Vec<_>>(), sampling);
    let score = |(j, z): (usize, f64)| Some(z / temperature + noise.of(j)?);
    let most = |(j, z): (usize, f64)| Some(z / temperature + noise.bound(j)?);
    let bar = entries().nth(largest).and_then(score);
    let rivals = entries().zip(&allowed).filter(|(entry, allowed)| **allowed && most(*entry) >= bar);
    let best = argmax(rivals.filter_map(|(entry, _)| Some((entry.0, score(entry)?))));
    TokenId::new(count(best.unwrap_or(largest)))
}

/// Which entries the cuts of `sampling` leave.
fn allowed(z: &[f64], sampling: &Sampling) -> Vec<bool> {
    if sampling.top_k == 0 && sampling.top_p >= 1.0 {
        return vec![true; z.len()];
    }
    let mut order: Vec<(usize, f64)> = z.iter().copied().enumerate().collect();
    let largest_first = |a: &(usize, f64), b: &(usize, f64)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    if let Some(last) = index(sampling.top_k).checked_sub(1).filter(|last| *last < order.len()) {
        order.select_nth_unstable_by(last, largest_first);
        order.truncate(index(sampling.top_k));
    }
    order.sort_unstable_by(largest_first);
    let mut allowed = vec![false; z.len()];
    let top = order.first().map_or(0.0, |first| first.1);
    let weight = |z: f64| libm::exp((z - top) / f64::from(sampling.temperature));
    // A mass of 1 allows all: rounding of the sum must not cut the tail.
    let is_whole = sampling.top_p >= 1.0;
    let total: f64 = if is_whole { 1.0 } else { order.iter().map(|&(_, z)| weight(z)).sum() };
    let mut before = 0.0;
    for (j, z) in order {
        if !is_whole && before >= f64::from(sampling.top_p) * total {
            break;
        }
        if let Some(slot) = allowed.get_mut(j) {
            *slot = true;
        }
        before += if is_whole { 0.0 } else { weight(z) };
    }
    allowed
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
    low: Vec<f64>,
    high: Vec<f64>,
}

impl Intervals {
    pub(crate) fn new(z: &[f64], slack: impl Fn(usize, f64) -> f64) -> Self {
        let bound = |sign: f64| z.iter().enumerate().map(|(j, &z)| z + sign * slack(j, z)).collect();
        Self { low: bound(-1.0), high: bound(1.0) }
    }

    /// An entry whose high end lies below this is not allowed for any choice of the entries within their bounds:
    /// so many have their low end above it that neither its rank nor the mass before it leaves room.
    pub(crate) fn least_allowed(&self, sampling: &Sampling) -> f64 {
        let mut low = self.low.clone();
        low.sort_unstable_by(|a, b| b.total_cmp(a));
        let by_rank = index(sampling.top_k).checked_sub(1).and_then(|last| low.get(last).copied());
        let top = self.high.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weight = |z: f64| libm::exp((z - top) / f64::from(sampling.temperature));
        let most = f64::from(sampling.top_p) * self.high.iter().map(|z| weight(*z)).sum::<f64>();
        let mut before = 0.0;
        let is_full = |z: &f64| {
            before += weight(*z);
            sampling.top_p < 1.0 && before >= most
        };
        let by_mass = low.iter().copied().find(is_full);
        by_rank.into_iter().chain(by_mass).fold(f64::NEG_INFINITY, f64::max)
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
            let largest_first = |a: &f64, b: &f64| b.total_cmp(a);
            if room < self.behind.len() {
                self.behind.select_nth_unstable_by(room, largest_first);
                self.behind.truncate(room);
            }
            // The order in which a mass is summed up is everybody's.
            self.behind.sort_unstable_by(largest_first);
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

    /// The definition, with no cut taken short.
    #[test]
    fn picks_are_the_largest_of_all_scores() {
        for seed in 0..200 {
            let spread = [0.0, 0.3, 4.0, 30.0][usize::try_from(seed % 4).unwrap()];
            let noise = gumbel_noise(seed, Position::new(3), 700);
            #[expect(clippy::as_conversions, clippy::cast_possible_truncation, reason = "any logits will do")]
            let logits: Vec<f32> = noise.iter().map(|noise| (noise * spread) as f32).collect();
            for (temperature, top_k) in [(0.01, 0), (1.0, 0), (1.0, 5), (90.0, 0), (90.0, 700), (90.0, 900)] {
                let rule = sampling(temperature, top_k, 1.0, seed);
                let scores: Vec<f64> = logits
                    .iter()
                    .zip(gumbel_noise(seed, Position::new(9), 700))
                    .map(|(z, noise)| f64::from(*z) / f64::from(temperature) + noise)
                    .collect();
                let mut order: Vec<usize> = (0..700).collect();
                order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
                order.truncate(if top_k == 0 { 700 } else { index(top_k) });
                let best = order.into_iter().max_by(|a, b| scores[*a].total_cmp(&scores[*b]).then(b.cmp(a)));
                assert_eq!(sample(&logits, &rule, Position::new(9)), TokenId::new(count(best.unwrap())), "{rule:?}");
            }
        }
    }

    #[test]
    fn noise_stays_below_its_bound() {
        let edges = [0, 1, (1 << 51) - 1, 1 << 51, (1 << 52) - 2, (1 << 52) - 1];
        for bits in noise_bits(5, Position::new(1), 100_000).into_iter().chain(edges) {
            let (noise, bound) = (gumbel(bits), gumbel_bound(bits));
            assert!(noise < bound, "{bits:#x}: {noise} {bound}");
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
            let exact = Intervals::new(&z, |_, _| 0.0);
            let allowed = allowed(&z, &rule);
            for (j, &allowed) in allowed.iter().enumerate() {
                // Exact ties stand on either side of a border; bounds must cover both readings.
                assert!(!allowed || exact.may_be_allowed(j, &rule), "{j} {top_k} {top_p}");
                assert!(!allowed || z[j] >= exact.least_allowed(&rule), "{j} {top_k} {top_p}");
                assert!(allowed || !exact.is_surely_allowed(j, &rule), "{j} {top_k} {top_p}");
            }
        }
    }

    #[test]
    fn bounds_cover_every_choice_within_them() {
        let z: Vec<f64> = (0..12_i32).map(|j| f64::from((j * 7) % 12) / 2.0).collect();
        let rule = sampling(1.0, 6, 0.7, 1);
        let wide = Intervals::new(&z, |_, _| 0.4);
        for trial in 0..300_u64 {
            let noise = gumbel_noise(trial, Position::new(1), z.len());
            let moved: Vec<f64> = z.iter().zip(&noise).map(|(z, noise)| z + 0.4 * libm::tanh(*noise)).collect();
            let allowed = allowed(&moved, &rule);
            for (j, &allowed) in allowed.iter().enumerate() {
                assert!(wide.high[j] >= wide.least_allowed(&rule) || !wide.may_be_allowed(j, &rule));
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
