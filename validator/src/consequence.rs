//! From how a session ended to what it means for the miner: one match, each arm with its why.

use assay_audit::session::RefusalReason;
use assay_audit::verdict::Verdict;
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
            let serving = Serving {
                tokens: *tokens,
                first_token_ms: measurements.first_token_ms,
                generation_ms: measurements.generation_ms,
            };
            match verdict {
                Verdict::Accepted if *challenged => Outcome::Accepted {
                    serving,
                    proof: ProofCost { bytes: *proof_bytes, latency_ms: measurements.proof_ms },
                },
                // Nothing was proven, and nothing was asked for.
                Verdict::Accepted => Outcome::Settled { serving },
                Verdict::Rejected(failure) => Outcome::Rejected { reason: ReasonCode::new(failure.reason.code()) },
                Verdict::Inconclusive(_) => Outcome::Inconclusive,
            }
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

/// What refusals over budget mean: below the policy's least budget they are as silence.
pub(crate) const fn over_budget(proof_ms: u64, least_budget_ms: u64) -> Outcome {
    if proof_ms >= least_budget_ms { Outcome::Refused } else { Outcome::Unavailable }
}

#[cfg(test)]
mod tests {
    use assay_audit::transcript_file::Measurements;
    use assay_audit::verdict::OwnFault;

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
        assert_eq!(over_budget(60_000, 60_000), Outcome::Refused);
        assert_eq!(over_budget(59_999, 60_000), Outcome::Unavailable);
        for reason in [RefusalReason::Busy, RefusalReason::Unserved] {
            assert_eq!(consequence(&Ending::Refused(reason)), Consequence::Now(Outcome::Unavailable));
        }
    }
}
