//! From how a session ended to what it means for the miner: one match, each arm with its why.

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
            Answer::Refusal(_) | Answer::Omitted(_) | Answer::Interrupted => 0,
        }),
        Exchange::Committed { reply: Reply::Settled { .. } | Reply::None, .. } | Exchange::Uncommitted(_) => None,
    };
    let receipt = &file.receipt;
    judged(receipt.conclusion, proof_bytes, count(file.record.streamed.len()), &receipt.measurements)
}

/// What refusals over budget mean: below the policy's least budget they are as silence, unless the miner may have
/// spent more, on sessions of the epoch that were cut short.
pub(crate) const fn over_budget(proof_ms: u64, least_budget_ms: u64, is_cut_short: bool) -> Outcome {
    if proof_ms >= least_budget_ms {
        Outcome::Refused
    } else if is_cut_short {
        Outcome::Inconclusive
    } else {
        Outcome::Unavailable
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
    fn only_a_refusal_over_a_budget_that_was_granted_is_free() {
        assert_eq!(consequence(&Ending::Refused(RefusalReason::OverBudget)), Consequence::AtEpochEnd);
        assert_eq!(over_budget(60_000, 60_000, false), Outcome::Refused);
        assert_eq!(over_budget(59_999, 60_000, false), Outcome::Unavailable);
        assert_eq!(over_budget(59_999, 60_000, true), Outcome::Inconclusive);
        for reason in [RefusalReason::Busy, RefusalReason::Unserved] {
            assert_eq!(consequence(&Ending::Refused(reason)), Consequence::Now(Outcome::Unavailable));
        }
    }
}
