//! From an epoch's measurements to a sample, and from samples to a score.

use crate::{
    millionths::Millionths,
    policy::{Criterion, Policy},
    tally::Tally,
};

/// The value of an epoch that passed the gate: quality times availability, each at most one.
///
/// Inconclusive audits and refusals enter neither factor.
pub(crate) fn sample(policy: &Policy, tally: &Tally) -> Millionths {
    let served = u128::from(tally.served());
    let asked = served + u128::from(tally.unavailable);
    let quality = u128::from(quality(policy, tally).get());
    Millionths::ratio(quality * served, asked * u128::from(Millionths::ONE.get()))
}

/// A score times the epoch's availability: what an epoch is worth whose quality nobody knows.
pub(crate) fn available(score: Millionths, tally: &Tally) -> Millionths {
    let served = u128::from(tally.served());
    let asked = served + u128::from(tally.unavailable);
    if tally.unavailable == 0 {
        score
    } else {
        Millionths::ratio(u128::from(score.get()) * served, asked * u128::from(Millionths::ONE.get()))
    }
}

/// The score after a sample, rounded down. From zero it takes `1 / smoothing` epochs to come near
/// to a steady sample.
pub(crate) fn smooth(policy: &Policy, score: Millionths, sample: Millionths) -> Millionths {
    let whole = u128::from(Millionths::ONE.get());
    let newest = u128::from(policy.parameters().smoothing.get());
    let sum = u128::from(score.get()) * (whole - newest) + u128::from(sample.get()) * newest;
    Millionths::ratio(sum, whole * whole)
}

fn quality(policy: &Policy, tally: &Tally) -> Millionths {
    let p = policy.parameters();
    let parts = [
        (p.throughput, throughput(p.throughput, tally)),
        (p.first_token, brevity(p.first_token, tally.first_token_ms, tally.served())),
        (p.proof_bytes, brevity(p.proof_bytes, tally.proof_bytes, tally.accepted)),
        (p.proof_latency, brevity(p.proof_latency, tally.proof_latency_ms, tally.accepted)),
    ];
    let sum = parts.iter().map(|(criterion, value)| u128::from(criterion.weight.get()) * u128::from(value.get())).sum();
    let whole = u128::from(Millionths::ONE.get());
    Millionths::ratio(sum, whole * whole)
}

/// `x / (x + h)` for `x` tokens a second. The rate is over the epoch's whole time from requests to
/// last tokens: one short response on a lucky clock weighs what it should, and an answer that is
/// held back and sent at once is no faster than one that streams. No time at all is taken for one
/// millisecond.
fn throughput(criterion: Criterion, tally: &Tally) -> Millionths {
    let tokens = u128::from(tally.tokens) * 1_000;
    let reference = u128::from(criterion.half_at) * u128::from(tally.answer_ms().max(1));
    Millionths::ratio(tokens, tokens + reference)
}

/// `h / (h + x)` for the mean `x = sum / count`; nothing where nothing was measured.
fn brevity(criterion: Criterion, sum: u64, count: u32) -> Millionths {
    let reference = u128::from(criterion.half_at) * u128::from(count);
    Millionths::ratio(reference, reference + u128::from(sum))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An epoch that meets every reference of the default policy exactly.
    fn at_the_references() -> Tally {
        Tally {
            accepted: 3,
            settled: 1,
            tokens: 4 * 100,
            generation_ms: 4 * 1_500,
            first_token_ms: 4 * 500,
            proof_bytes: 3 * (2 << 20),
            proof_latency_ms: 3 * 2_000,
            ..Tally::default()
        }
    }

    #[test]
    fn an_epoch_at_every_reference_is_worth_one_half() {
        assert_eq!(sample(&Policy::default(), &at_the_references()).get(), 500_000);
    }

    #[test]
    fn each_criterion_moves_the_sample_by_its_weight() {
        let policy = Policy::default();
        // Three times the reference is worth 3/4, so half the criterion's weight times one half
        // more.
        let faster = Tally { tokens: 4 * 300, ..at_the_references() };
        assert_eq!(sample(&policy, &faster).get(), 500_000 + 500_000 / 4);
        // The whole answer takes as long.
        let prompter = Tally { first_token_ms: 0, generation_ms: 4 * 2_000, ..at_the_references() };
        assert_eq!(sample(&policy, &prompter).get(), 500_000 + 200_000 / 2);
        let larger = Tally { proof_bytes: 9 * (2 << 20), ..at_the_references() };
        assert_eq!(sample(&policy, &larger).get(), 500_000 - 100_000 / 4);
        let later = Tally { proof_latency_ms: 9 * 2_000, ..at_the_references() };
        assert_eq!(sample(&policy, &later).get(), 500_000 - 200_000 / 4);
    }

    #[test]
    fn an_answer_that_is_held_back_and_sent_at_once_is_no_faster_than_one_that_streams() {
        let policy = Policy::default();
        let streamed = at_the_references();
        let burst = Tally { first_token_ms: streamed.answer_ms(), generation_ms: 0, ..streamed };
        let throughput = |tally| throughput(policy.parameters().throughput, tally);
        assert_eq!(throughput(&burst), throughput(&streamed));
        assert!(sample(&policy, &burst) < sample(&policy, &streamed), "its first token came late");
    }

    #[test]
    fn availability_multiplies_the_sample() {
        let halved = Tally { unavailable: 4, ..at_the_references() };
        assert_eq!(sample(&Policy::default(), &halved).get(), 250_000);
    }

    #[test]
    fn refusals_and_our_own_faults_leave_the_sample_alone() {
        let policy = Policy::default();
        let noisy = Tally { refused: 9, inconclusive: 9, ..at_the_references() };
        assert_eq!(sample(&policy, &noisy), sample(&policy, &at_the_references()));
    }

    #[test]
    fn extreme_measurements_neither_overflow_nor_leave_the_range() {
        let policy = Policy::default();
        let longest = u64::MAX;
        let slow = Tally { generation_ms: longest, first_token_ms: longest, ..at_the_references() };
        assert!(sample(&policy, &slow) < sample(&policy, &at_the_references()));
        let instant = Tally { tokens: longest, generation_ms: 0, ..at_the_references() };
        assert!(sample(&policy, &instant) <= Millionths::ONE);
        assert_eq!(sample(&policy, &Tally::default()), Millionths::ZERO);
    }

    #[test]
    fn the_score_moves_by_its_share_of_the_newest_sample() {
        let policy = Policy::default();
        let first = smooth(&policy, Millionths::ZERO, Millionths::ONE);
        assert_eq!(first.get(), 300_000);
        assert_eq!(smooth(&policy, first, Millionths::ONE).get(), 510_000);
        assert_eq!(smooth(&policy, first, Millionths::ZERO).get(), 210_000);
    }
}
