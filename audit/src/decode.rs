//! Decodes: from the last residual row at a position to the next token.

use assay_commitments::manifest::Manifest;
use assay_commitments::{Position, TokenId};
use assay_sumcheck::F;
use assay_sumcheck::field::centered;

use crate::fixed::{FixedRow, Supplied, Width};
use crate::num::{index, power_of_two, real, real_count};
use crate::reference::rms_norm;
use crate::sampling::{Intervals, Noise, Sampling};
use crate::sketch::Target;
use crate::tolerance::{Tolerance, theta_supplied};
use crate::verdict::Reason;

/// The largest logits are always proven singly.
const TOP_CANDIDATES: usize = 64;
/// Most tokens that are proven singly.
pub(crate) const MAX_CANDIDATES: usize = 256;

/// What decides a pick beside the logits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pick<'a> {
    pub(crate) tolerance: Tolerance,
    pub(crate) sampling: &'a Sampling,
    pub(crate) position: Position,
    /// The token that was served.
    pub(crate) token: TokenId,
}

/// The input of lm_head; `None` if it is not finite.
pub(crate) fn head_input(h: &[f64], norm: &[f32], manifest: &Manifest) -> Option<FixedRow> {
    FixedRow::new(&rms_norm(manifest.profile, h, norm, manifest.architecture.norm_eps))
}

/// Sent logits with the tokens that are proven singly.
#[derive(Clone, Debug)]
pub(crate) struct Scores<'a> {
    pub(crate) sent: &'a Supplied,
    unit: f64,
    /// `None` where the largest logit is picked.
    noise: Option<Noise>,
    /// Ascending.
    pub(crate) candidates: Vec<usize>,
    /// Whether more tokens could beat the served one than can be proven singly.
    is_cut: bool,
}

impl<'a> Scores<'a> {
    /// Lists the candidates: the served token, the largest logits, and every token that may be allowed and
    /// could beat the served one if the sent values are off by as much as the sketch lets pass; of more than
    /// can be proven, those that score best.
    pub(crate) fn new(sent: &'a Supplied, exponent: i32, pick: &Pick<'_>) -> Self {
        let unit = power_of_two(exponent);
        let vocabulary = sent.values.len();
        let noise =
            (pick.sampling.temperature != 0.0).then(|| Noise::new(pick.sampling.seed, pick.position, vocabulary));
        let mut scores = Self { sent, unit, noise, candidates: vec![], is_cut: false };
        (scores.candidates, scores.is_cut) = scores.list(pick);
        scores
    }

    /// The form of exact logits with the fewest bytes that leaves few enough candidates.
    pub(crate) fn compress(logits: &[i64], exponent: i32, pick: &Pick<'_>) -> Supplied {
        let [two, three, four] = Width::ALL.map(|width| Supplied::with_width(logits, width));
        let is_enough = |sent: &Supplied| !Scores::new(sent, exponent, pick).is_cut;
        [two, three].into_iter().find(is_enough).unwrap_or(four)
    }

    /// The target of the sketch with the candidates proven singly.
    pub(crate) fn target(&self) -> Target {
        Target::supplied(self.sent).with_candidates(&self.candidates, self.sent)
    }

    fn noise(&self, j: usize) -> Option<f64> {
        self.noise.as_ref().map_or(Some(0.0), |noise| noise.of(j))
    }

    fn noise_bound(&self, j: usize) -> Option<f64> {
        self.noise.as_ref().map_or(Some(0.0), |noise| noise.bound(j))
    }

    fn logits(&self) -> Vec<f64> {
        self.sent.on_product_grid().map(|value| real(value) * self.unit).collect()
    }

    /// How far a sent logit may be from the exact one: four times what the sketch allows the squares of all, on one
    /// entry.
    fn reach(&self) -> f64 {
        let outputs = self.sent.values.len();
        let squares = theta_supplied(outputs) * real_count(outputs) * self.sent.rounding_variance();
        self.unit * (4.0 * squares).sqrt()
    }

    /// What the sampler compares, by token, as far as the sent logits tell.
    pub(crate) fn scored(&self, pick: &Pick<'_>) -> Vec<(f64, f64)> {
        let score = |(j, z)| Some((z, pick.score(z, self.noise(j)?)));
        self.logits().into_iter().enumerate().filter_map(score).collect()
    }

    fn list(&self, pick: &Pick<'_>) -> (Vec<usize>, bool) {
        let logits = self.logits();
        let served = index(pick.token.get());
        let reach = self.reach();
        let score = |j: usize, slack: f64| Some(pick.score(logits.get(j)? + slack, self.noise(j)?));
        let most = |j: usize, slack: f64| Some(pick.score(logits.get(j)? + slack, self.noise_bound(j)?));
        let slack = |j: usize| logits.get(j).map_or(0.0, |z| pick.slack(*z));
        let bar = score(served, slack(served) - reach);
        let mut chosen = largest(logits.iter().copied().enumerate(), TOP_CANDIDATES);
        chosen.push(served);
        chosen.sort_unstable();
        chosen.dedup();
        // Who cannot be allowed beats nobody, however large its noise.
        let least = if pick.sampling.allows_all() {
            f64::NEG_INFINITY
        } else {
            Intervals::new(&logits, |j, _| slack(j) + reach).least_allowed(pick.sampling)
        };
        let rivals: Vec<(usize, f64)> = (0..logits.len())
            .filter(|j| most(*j, reach - slack(*j)) > bar)
            .filter_map(|j| Some((j, score(j, reach - slack(j))?)))
            .filter(|(_, score)| Some(*score) > bar)
            .filter(|(j, _)| logits.get(*j).is_some_and(|z| z + slack(*j) + reach >= least))
            .filter(|(j, _)| chosen.binary_search(j).is_err())
            .collect();
        let room = MAX_CANDIDATES.saturating_sub(chosen.len());
        let is_cut = rivals.len() > room;
        chosen.extend(largest(rivals.into_iter(), room));
        chosen.sort_unstable();
        (chosen, is_cut)
    }

    /// Judges the pick, given the candidates' exact logits: rejects a token that cannot be allowed, one
    /// that a surely allowed candidate beats beyond tolerance, and one that too many could beat.
    pub(crate) fn judge(&self, exact: &[F], pick: &Pick<'_>) -> Result<(), Reason> {
        let mut logits = self.logits();
        let mut is_exact = vec![false; logits.len()];
        for (candidate, value) in self.candidates.iter().zip(exact) {
            if let (Some(logit), Some(mark)) = (logits.get_mut(*candidate), is_exact.get_mut(*candidate)) {
                *logit = real(centered(*value)) * self.unit;
                *mark = true;
            }
        }
        let reach = self.reach();
        let slack =
            |j: usize, z: f64| pick.slack(z) + if is_exact.get(j).copied().unwrap_or(false) { 0.0 } else { reach };
        let served = index(pick.token.get());
        let score = |j: usize, sign: f64| {
            let z = *logits.get(j)?;
            Some(pick.score(z + sign * pick.slack(z), self.noise(j)?))
        };
        let bar = score(served, 1.0);
        let beats: Vec<usize> =
            self.candidates.iter().copied().filter(|j| *j != served && score(*j, -1.0) > bar).collect();
        if logits.get(served).is_none() {
            return Err(Reason::TokenNotAllowed);
        }
        let is_beaten = if pick.sampling.allows_all() {
            !beats.is_empty()
        } else {
            let bounds = Intervals::new(&logits, slack);
            if !bounds.may_be_allowed(served, pick.sampling) {
                return Err(Reason::TokenNotAllowed);
            }
            beats.into_iter().any(|j| bounds.is_surely_allowed(j, pick.sampling))
        };
        if is_beaten {
            Err(Reason::WrongToken)
        } else if self.is_cut {
            Err(Reason::TooManyCandidates)
        } else {
            Ok(())
        }
    }
}

/// The places of the `count` largest values, of equal ones the first, in no order.
fn largest(entries: impl Iterator<Item = (usize, f64)>, count: usize) -> Vec<usize> {
    let larger_first = |a: &(usize, f64), b: &(usize, f64)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    let Some(last) = count.checked_sub(1) else { return vec![] };
    // Twice as many at most, cut down now and then; what is behind the last that was kept need not be looked at again.
    let most = count.saturating_mul(2);
    let mut kept: Vec<(usize, f64)> = Vec::with_capacity(most);
    let mut bar = None;
    for entry in entries {
        if bar.as_ref().is_some_and(|bar| larger_first(&entry, bar).is_gt()) {
            continue;
        }
        kept.push(entry);
        if kept.len() == most {
            bar = Some(*kept.select_nth_unstable_by(last, larger_first).1);
            kept.truncate(count);
        }
    }
    if kept.len() > count {
        kept.select_nth_unstable_by(last, larger_first);
        kept.truncate(count);
    }
    kept.into_iter().map(|(place, _)| place).collect()
}

impl Pick<'_> {
    /// The profile's tolerance of a logit.
    fn slack(&self, z: f64) -> f64 {
        self.tolerance.logit_rel * z.abs() + self.tolerance.logit_abs
    }

    /// What the sampler compares.
    fn score(&self, z: f64, noise: f64) -> f64 {
        if self.sampling.temperature == 0.0 { z } else { z / f64::from(self.sampling.temperature) + noise }
    }
}

#[cfg(test)]
mod tests {
    use assay_commitments::rows::Profile;
    use assay_sumcheck::field::f_from_i64;

    use super::*;
    use crate::num::nearest_integer;
    use crate::products::HeadProduct;
    use crate::sampling::{gumbel_noise, sample};
    use crate::sketch::{SIGNS_WITH_NONCE, Signs};
    use crate::verify::{CheckedDecode, judge_decode};

    const EXPONENT: i32 = -30;

    fn logits() -> Vec<i64> {
        (0..300_i64).map(|j| ((j * 7_919) % 1_009 - 500) * (1 << 23) + j * 12_345).collect()
    }

    fn judge(sampling: &Sampling, token: TokenId) -> Result<(), Reason> {
        let pick = Pick { tolerance: Tolerance::of(Profile::Bf16V1), sampling, position: Position::new(3), token };
        let exact = logits();
        let sent = Scores::compress(&exact, EXPONENT, &pick);
        let scores = Scores::new(&sent, EXPONENT, &pick);
        assert!(scores.candidates.len() <= MAX_CANDIDATES);
        let singles: Vec<F> = scores.candidates.iter().map(|j| f_from_i64(exact[*j])).collect();
        scores.judge(&singles, &pick)
    }

    #[expect(clippy::cast_possible_truncation, reason = "a runtime's logits are f32")]
    fn served(sampling: &Sampling) -> TokenId {
        let logits: Vec<f32> = logits().iter().map(|z| (real(*z) * power_of_two(EXPONENT)) as f32).collect();
        sample(&logits, sampling, Position::new(3))
    }

    #[test]
    fn the_largest_are_those_of_a_sorted_list() {
        for length in [0, 1, 5, 9, 10, 11, 400_usize] {
            let values: Vec<f64> = (0..length).map(|j| real_count((j * 7_919) % 61)).collect();
            let mut sorted: Vec<usize> = (0..length).collect();
            sorted.sort_by(|a, b| values[*b].total_cmp(&values[*a]));
            for count in [0, 1, 5, 64] {
                let mut found = largest(values.iter().copied().enumerate(), count);
                found.sort_by_key(|place| sorted.iter().position(|of| of == place));
                assert_eq!(found, sorted[..count.min(length)], "{count} of {length}");
            }
        }
    }

    #[test]
    fn the_canonical_pick_is_accepted_under_every_rule() {
        for seed in 0..40 {
            for (temperature, top_k, top_p) in [
                (0.0, 0, 1.0),
                (1.0, 0, 1.0),
                (0.7, 20, 1.0),
                (1.3, 0, 0.8),
                (0.9, 30, 0.6),
                (99.0, 1, 1.0),
                (99.0, 0, 0.01),
            ] {
                let sampling = Sampling { temperature, top_k, top_p, seed };
                assert_eq!(judge(&sampling, served(&sampling)), Ok(()), "{sampling:?}");
            }
        }
    }

    #[test]
    fn another_pick_is_rejected() {
        let mut caught = 0;
        for seed in 0..40 {
            let sampling = Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, seed };
            let greedy = served(&Sampling::GREEDY);
            if served(&sampling) != greedy {
                assert_eq!(judge(&sampling, greedy), Err(Reason::WrongToken));
                caught += 1;
            }
        }
        assert!(caught > 10, "{caught}");
    }

    #[test]
    fn a_pick_that_nearly_all_tokens_beat_is_wrong() {
        for seed in 0..40 {
            let sampling = Sampling { temperature: 50.0, top_k: 0, top_p: 1.0, seed };
            let noise = gumbel_noise(seed, Position::new(3), 300);
            let worst = (0..300).min_by(|a, b| noise[*a].total_cmp(&noise[*b])).unwrap();
            assert_eq!(judge(&sampling, TokenId::new(u32::try_from(worst).unwrap())), Err(Reason::WrongToken));
        }
    }

    #[test]
    fn a_pick_outside_the_allowed_set_is_rejected() {
        let wide = Sampling { temperature: 2.0, top_k: 0, top_p: 1.0, seed: 0 };
        let narrow = Sampling { top_k: 2, ..wide };
        let outside = (0..40).map(|seed| served(&Sampling { seed, ..wide }));
        let allowed: Vec<TokenId> = (0..40).map(|seed| served(&Sampling { seed, ..narrow })).collect();
        let token = outside.into_iter().find(|token| !allowed.contains(token)).unwrap();
        assert_eq!(judge(&narrow, token), Err(Reason::TokenNotAllowed));
    }

    /// Logits that lie close together, beside one that is far below them.
    fn level() -> Vec<i64> {
        let mut logits: Vec<i64> = (0..400).map(|j| (j * 7_919) % 1_009).collect();
        logits[399] = -(1 << 40);
        logits
    }

    fn greedy_pick(token: usize) -> Pick<'static> {
        let (tolerance, token) = (Tolerance::of(Profile::Bf16V1), TokenId::new(u32::try_from(token).unwrap()));
        Pick { tolerance, sampling: &Sampling::GREEDY, position: Position::new(3), token }
    }

    fn best(logits: &[i64]) -> usize {
        (0..logits.len()).max_by_key(|j| logits[*j]).unwrap()
    }

    /// Logits so coarse that every token could be the best hide which one is.
    #[test]
    fn coarse_logits_leave_too_many_candidates() {
        let exact = level();
        let pick = greedy_pick(best(&exact));
        let judged = |sent: &Supplied| {
            let scores = Scores::new(sent, EXPONENT, &pick);
            let singles: Vec<F> = scores.candidates.iter().map(|j| f_from_i64(exact[*j])).collect();
            scores.judge(&singles, &pick)
        };
        let coarse = Supplied::with_width(&exact, Width::Two);
        assert!(coarse.is_canonical_logits());
        assert_eq!(judged(&coarse), Err(Reason::TooManyCandidates));
        assert_eq!(judged(&Scores::compress(&exact, EXPONENT, &pick)), Ok(()), "an honest miner takes more bytes");
    }

    /// One logit off by as much as the reach spends four thresholds of the sketch, whatever is rounded: a token that lies
    /// beyond the reach is beyond what passes.
    #[test]
    fn the_reach_of_a_logit_is_what_four_thresholds_of_its_sketch_allow() {
        for shift in [0, 1, 2, 3, 8] {
            let sent = Supplied::forged(shift, (1..=4_000).collect());
            let scores = Scores::new(&sent, EXPONENT, &greedy_pick(3_999));
            let mut exact: Vec<i64> = sent.on_product_grid().collect();
            exact[7] += nearest_integer(scores.reach() / power_of_two(EXPONENT)).unwrap();
            let ratio = scores.target().exact_ratio(&exact);
            assert!((ratio - 4.0).abs() < 0.1, "{shift}: {ratio}");
        }
    }

    /// A candidate's logit is sent as what it is, to half a rounding.
    #[test]
    fn a_candidates_logit_that_is_off_is_rejected() {
        let exact = logits();
        let served = best(&exact);
        let pick = greedy_pick(served);
        let judged = |by: i64| {
            let mut sent = Scores::compress(&exact, EXPONENT, &pick);
            sent.values[served] += by;
            let scores = Scores::new(&sent, EXPONENT, &pick);
            let head = HeadProduct { input: FixedRow::new(&[1.0]).unwrap(), target: scores.target() };
            let signs = Signs::draw(&[7; 32], 0, SIGNS_WITH_NONCE, exact.len());
            let claims = head.target.claims(&signs, &exact);
            let decode = CheckedDecode { head, scores, pick };
            judge_decode(pick.position, &decode, &signs, &claims).failure.map(|failure| failure.reason)
        };
        assert_eq!(judged(0), None);
        assert_eq!(judged(1), Some(Reason::Candidate));
        assert_eq!(judged(-1), Some(Reason::Candidate));
    }

    /// A miner that served another token sends the logit of the one that should have been picked so low that it is no
    /// candidate: that alone is more than the sketch lets pass.
    #[test]
    fn the_token_that_should_have_been_picked_cannot_be_hidden() {
        let mut exact = level();
        // Nothing but the sketch could tell: as many others lie above it as are always candidates.
        let should = 7;
        exact[should] = 2_000 << 20;
        (100..100 + i64::try_from(TOP_CANDIDATES).unwrap())
            .for_each(|j| exact[usize::try_from(j).unwrap()] = 1_900 << 20);
        let pick = greedy_pick(100);
        for width in Width::ALL {
            let mut sent = Supplied::with_width(&exact, width);
            let is_listed = |sent: &Supplied| Scores::new(sent, EXPONENT, &pick).candidates.contains(&should);
            assert!(is_listed(&sent));
            let mut steps = 1;
            while is_listed(&sent) {
                sent.values[should] -= steps;
                steps *= 2;
            }
            // Back to the last value that hides it.
            while !is_listed(&sent) {
                sent.values[should] += 1.max(steps / 1_024);
            }
            sent.values[should] -= 1.max(steps / 1_024);
            let target = Scores::new(&sent, EXPONENT, &pick).target();
            let passes = |seed: u8| {
                let signs = Signs::draw(&[seed; 32], 0, SIGNS_WITH_NONCE, exact.len());
                target.check(&signs, &target.claims(&signs, &exact)).within
            };
            assert!(!is_listed(&sent) && !(0..64).any(passes), "{width:?}");
            assert!(target.exact_ratio(&exact) > 10.0, "{width:?} {}", target.exact_ratio(&exact));
        }
    }
}
