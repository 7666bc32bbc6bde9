//! From how a session ended to what it means for the miner: one match, each arm with its why.

use std::time::Duration;

use assay_audit::session::{Answer, Exchange, RefusalReason, Reply};
use assay_audit::transcript_file::{Conclusion, Measurements, TranscriptFile};
use assay_probation::{Outcome, ProofCost, ReasonCode, Serving};

use crate::event::Ending;

/// What a session's end means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Consequence {
    /// It is known at once.
    Now(Outcome),
    /// A refusal over budget: whether the miner had granted the policy's least is known once the
    /// epoch's proofs are all in.
    AtEpochEnd,
}

pub(crate) fn consequence(ending: &Ending) -> Consequence {
    Consequence::Now(match ending {
        Ending::Judged { verdict, challenged, tokens, proof_bytes, measurements } => {
            judged((*verdict).into(), challenged.then_some(*proof_bytes), *tokens, measurements)
        }
        Ending::Refused(RefusalReason::OverBudget) => return Consequence::AtEpochEnd,
        // Silence lowers the score and proves nothing: the miner had not begun. It is silence too when
        // a miner is full, because whoever is on probation must not choose which requests it answers,
        // and when it does not serve what it declared on chain. The last two reasons answer a
        // challenge and no request.
        Ending::Unavailable(_)
        | Ending::Refused(
            RefusalReason::Busy | RefusalReason::Unserved | RefusalReason::WrongNonce | RefusalReason::WrongDraw,
        ) => Outcome::Unavailable,
        // Ours, so it costs the miner nothing.
        Ending::OwnFault(_) => Outcome::Inconclusive,
    })
}

/// What a verdict means; `proof_bytes` where a proof was asked for.
fn judged(conclusion: Conclusion, proof_bytes: Option<u32>, tokens: u32, measured: &Measurements) -> Outcome {
    let serving = Serving { tokens, first_token_ms: measured.first_token_ms, generation_ms: measured.generation_ms };
    match (conclusion, proof_bytes) {
        (Conclusion::Accepted, Some(bytes)) => {
            Outcome::Accepted { serving, proof: ProofCost { bytes, latency_ms: measured.proof_ms } }
        }
        // Nothing was proven, and nothing was asked for.
        (Conclusion::Accepted, None) => Outcome::Settled { serving },
        (Conclusion::Rejected(reason), _) => Outcome::Rejected { reason: ReasonCode::new(reason.code()) },
        (Conclusion::Inconclusive(_), _) => Outcome::Inconclusive,
    }
}

/// What a transcript means that was kept and, through a crash, not counted.
pub(crate) fn kept(file: &TranscriptFile) -> Outcome {
    let count = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
    let proof_bytes = match &file.record.exchange {
        Exchange::Committed { reply: Reply::Challenged { answer, .. }, .. } => Some(match answer {
            Answer::Proof(proof) => count(proof.bytes.len()),
            Answer::Refusal(_) | Answer::Omitted(_) => 0,
        }),
        Exchange::Committed { reply: Reply::Settled { .. } | Reply::None, .. } | Exchange::Uncommitted(_) => None,
    };
    let receipt = &file.receipt;
    judged(receipt.conclusion, proof_bytes, count(file.record.streamed.len()), &receipt.measurements)
}

/// What refusals over budget mean: below the policy's least budget they are as silence, unless the miner may have
/// spent the rest on the sessions of the epoch, so many of them `unseen`, that ended by our own doing. None of their
/// proofs took longer than its deadline.
pub(crate) const fn over_budget(proof_ms: u64, unseen: u64, deadline_ms: u32, least_budget_ms: u32) -> Outcome {
    let least_budget_ms = least_budget_ms as u64;
    if proof_ms >= least_budget_ms {
        Outcome::Refused
    } else if proof_ms.saturating_add(unseen.saturating_mul(deadline_ms as u64)) >= least_budget_ms {
        Outcome::Inconclusive
    } else {
        Outcome::Unavailable
    }
}

/// A miner's sessions of an epoch, as far as they say why some of them were left out for want of time.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pace {
    /// Sessions that were held.
    pub(crate) held: u32,
    /// What they took the miner.
    pub(crate) took: Duration,
    /// Sessions that were left out.
    pub(crate) late: u32,
}

impl Pace {
    /// What the sessions mean that were left out. `time` is what an epoch's sessions have, with `side_by_side` of one
    /// miner's at a time.
    ///
    /// They are ours, and inconclusive, unless all of the miner's sessions at its own pace would have taken more than half
    /// of the time: then its slowness left them out, and it is judged by those that were held. Half, because nobody gets a
    /// place at once; and not what it took in fact, because several slow miners leave each other less than half.
    pub(crate) fn left_out(&self, time: Duration, side_by_side: usize) -> Option<Outcome> {
        let all = u128::from(self.held) + u128::from(self.late);
        let needed = self.took.as_millis().saturating_mul(all);
        let half = time.as_millis().saturating_mul(side_by_side as u128) / 2;
        // Per session that was held; of a miner with whom none was, nothing is known.
        (needed <= half.saturating_mul(u128::from(self.held))).then_some(Outcome::Inconclusive)
    }
}

#[cfg(test)]
mod tests {
    use assay_audit::verdict::{OwnFault, Verdict};

    use super::*;
    use crate::conversation::Silence;

    fn judged(verdict: Verdict, challenged: bool) -> Ending {
        let measurements = Measurements { first_token_ms: 3, generation_ms: 5, proof_ms: 7, ..Measurements::default() };
        Ending::Judged { verdict, challenged, tokens: 2, proof_bytes: 11, measurements }
    }

    #[test]
    fn our_own_faults_are_inconclusive_and_silence_is_no_failure() {
        for fault in OwnFault::ALL {
            assert_eq!(consequence(&Ending::OwnFault(*fault)), Consequence::Now(Outcome::Inconclusive));
            let verdict = Verdict::Inconclusive(*fault);
            assert_eq!(consequence(&judged(verdict, true)), Consequence::Now(Outcome::Inconclusive));
        }
        let silent = Ending::Unavailable(Silence::NoToken);
        assert_eq!(consequence(&silent), Consequence::Now(Outcome::Unavailable));
    }

    #[test]
    fn an_accepted_response_counts_as_audited_only_with_a_proof() {
        let serving = Serving { tokens: 2, first_token_ms: 3, generation_ms: 5 };
        let proof = ProofCost { bytes: 11, latency_ms: 7 };
        let now = |ending: &Ending| consequence(ending);
        assert_eq!(now(&judged(Verdict::Accepted, false)), Consequence::Now(Outcome::Settled { serving }));
        assert_eq!(now(&judged(Verdict::Accepted, true)), Consequence::Now(Outcome::Accepted { serving, proof }));
    }

    #[test]
    fn sessions_left_out_are_our_fault_unless_the_miners_own_pace_left_them_out() {
        let left_out = |(held, seconds, late), time, side_by_side| {
            let pace = Pace { held, took: Duration::from_secs(seconds), late };
            pace.left_out(Duration::from_secs(time), side_by_side)
        };
        let (ours, its_own) = (Some(Outcome::Inconclusive), None);
        // Two sessions in 20 s, as eight would take 80 s.
        assert_eq!(left_out((2, 20, 6), 160, 1), ours);
        assert_eq!(left_out((2, 20, 6), 159, 1), its_own);
        assert_eq!(left_out((2, 20, 6), 80, 2), ours);
        assert_eq!(left_out((2, 20, 6), 79, 2), its_own);
        // One that drips to the end, and one of many that do and leave each other a place for one session only.
        assert_eq!(left_out((3, 300, 5), 300, 1), its_own);
        assert_eq!(left_out((1, 50, 7), 300, 1), its_own);
        // Quick refusals before it are sessions too; they do not hide it.
        assert_eq!(left_out((6, 200, 2), 300, 1), its_own);
        // Whoever was never asked was not slow.
        assert_eq!(left_out((0, 0, 8), 300, 1), ours);
        assert_eq!(left_out((0, 0, 8), 0, 1), ours);
    }

    #[test]
    fn only_a_refusal_over_a_budget_that_was_granted_is_free() {
        assert_eq!(consequence(&Ending::Refused(RefusalReason::OverBudget)), Consequence::AtEpochEnd);
        let over_budget = |proof_ms, unseen| super::over_budget(proof_ms, unseen, 20_000, 60_000);
        assert_eq!(over_budget(60_000, 0), Outcome::Refused);
        assert_eq!(over_budget(59_999, 0), Outcome::Unavailable);
        // What we did not see explains no more than it can have taken.
        assert_eq!(over_budget(40_000, 1), Outcome::Inconclusive);
        assert_eq!(over_budget(39_999, 1), Outcome::Unavailable);
        assert_eq!(over_budget(0, 3), Outcome::Inconclusive);
        assert_eq!(over_budget(0, u64::MAX), Outcome::Inconclusive);
        for reason in [RefusalReason::Busy, RefusalReason::Unserved] {
            assert_eq!(consequence(&Ending::Refused(reason)), Consequence::Now(Outcome::Unavailable));
        }
    }
}
