//! Challenges: whether one is in order, and the one proof that answers it.

use std::sync::Arc;
use std::time::Instant;

use assay_audit::challenge::{Nonce, is_audited, nonce_commitment};
use assay_audit::request::Request;
use assay_audit::session::{RefusalReason, SignedBytes, sign_proof};
use assay_llm_runtime::retention::Held;
use tracing::{error, info};

use crate::backend::ProveError;
use crate::retention::{Kept, ProofState};
use crate::state::State;

/// What a validator says after a commitment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reveal {
    /// No audit is due.
    Settle(Nonce),
    /// A proof is due; of everything when there is no nonce.
    Challenge(Option<Nonce>),
}

/// Whether the nonce is the one that the request commits to, and the draw says what the validator
/// says.
pub(crate) fn check_reveal(request: &Request, digest: &[u8; 32], reveal: Reveal) -> Result<(), RefusalReason> {
    let (nonce, challenged) = match reveal {
        Reveal::Settle(nonce) => (Some(nonce), false),
        Reveal::Challenge(nonce) => (nonce, true),
    };
    match (request.nonce_commitment, nonce) {
        (Some(committed), Some(nonce)) => {
            let opened = nonce_commitment(&nonce, request.counter, &request.validator, &request.miner);
            if opened != committed {
                Err(RefusalReason::WrongNonce)
            } else if is_audited(request.audit_rate, &nonce, digest) == challenged {
                Ok(())
            } else {
                Err(RefusalReason::WrongDraw)
            }
        }
        (None, None) => Ok(()),
        (None, Some(_)) | (Some(_), None) => Err(RefusalReason::WrongNonce),
    }
}

/// The session's proof, begun by whoever asks first; `None` when there is none to be had.
pub(crate) async fn proof(state: &Arc<State>, kept: &Arc<Kept>, nonce: Option<Nonce>) -> Option<Arc<SignedBytes>> {
    if let Some(trace) = kept.take_trace() {
        // A task of its own: the proof goes on when the stream breaks that asked for it.
        tokio::spawn(compute(Arc::clone(state), Arc::clone(kept), trace, nonce));
    }
    let mut proof = kept.proof.subscribe();
    let settled = proof.wait_for(|proof| !matches!(proof, ProofState::Pending)).await.ok()?;
    match &*settled {
        ProofState::Done(proof) => Some(Arc::clone(proof)),
        ProofState::Pending | ProofState::Failed => None,
    }
}

async fn compute(state: Arc<State>, kept: Arc<Kept>, trace: Held, nonce: Option<Nonce>) {
    let turn = kept.permit.turn().await;
    let Ok(slot) = Arc::clone(&state.proving).acquire_owned().await else { return };
    drop(turn);
    let work = {
        let (state, kept) = (Arc::clone(&state), Arc::clone(&kept));
        move || {
            let begun = Instant::now();
            let proof = state.backend.prove(&kept.request, &kept.commitment, &trace, nonce.as_ref());
            let spent = begun.elapsed();
            kept.permit.charge(spent);
            drop(trace);
            drop(slot);
            (proof.map(|proof| sign_proof(&state.config.keys, &kept.commitment, proof)), spent)
        }
    };
    let outcome = match tokio::task::spawn_blocking(work).await {
        Ok((proof, spent)) => proof.map(|proof| (proof, spent)),
        Err(panicked) => Err(ProveError(panicked.to_string())),
    };
    match outcome {
        Ok((proof, spent)) => {
            info!(session = %kept.session, ms = spent.as_millis(), bytes = proof.bytes.len(), "proven");
            kept.proof.send_replace(ProofState::Done(Arc::new(proof)));
        }
        Err(failure) => {
            error!(session = %kept.session, %failure, "no proof for a challenge: this counts against us");
            state.retention.forget(&kept.session);
            kept.proof.send_replace(ProofState::Failed);
        }
    }
}

#[cfg(test)]
mod tests {
    use assay_audit::challenge::EpochKey;
    use assay_audit::policy::Policy;
    use assay_audit::prompt::Prompt;
    use assay_audit::request::{AuditRate, Deadlines, Network};
    use assay_audit::sampling::Sampling;
    use assay_commitments::{Epoch, Hotkey, ManifestId};

    use super::*;

    const DIGEST: [u8; 32] = [5; 32];

    fn request(audit_rate: AuditRate, complete: bool) -> (Request, Nonce) {
        let (validator, miner) = (Hotkey::new([1; 32]), Hotkey::new([2; 32]));
        let nonce = EpochKey::new([3; 32]).nonce(1, &miner, 7);
        let request = Request {
            network: Network { genesis: [0; 32], netuid: 1 },
            validator,
            miner,
            epoch: Epoch::new(0),
            manifest: ManifestId::new([4; 32]),
            prompt: Prompt::Text("hello".to_owned()),
            sampling: Sampling::GREEDY,
            max_tokens: 4,
            stop: Vec::new(),
            policy: if complete { Policy::Everything } else { Policy::DEFAULT },
            audit_rate,
            deadlines: Deadlines::all(1),
            counter: 7,
            nonce_commitment: (!complete).then(|| nonce_commitment(&nonce, 7, &validator, &miner)),
        };
        (request, nonce)
    }

    #[test]
    fn only_the_committed_nonce_and_the_drawn_reply_are_in_order() {
        let (always, nonce) = request(AuditRate::Always, false);
        assert_eq!(check_reveal(&always, &DIGEST, Reveal::Challenge(Some(nonce))), Ok(()));
        assert_eq!(check_reveal(&always, &DIGEST, Reveal::Settle(nonce)), Err(RefusalReason::WrongDraw));
        let (never, nonce) = request(AuditRate::Below(0), false);
        assert_eq!(check_reveal(&never, &DIGEST, Reveal::Settle(nonce)), Ok(()));
        assert_eq!(check_reveal(&never, &DIGEST, Reveal::Challenge(Some(nonce))), Err(RefusalReason::WrongDraw));
        for reveal in [Reveal::Settle([9; 32]), Reveal::Challenge(Some([9; 32])), Reveal::Challenge(None)] {
            assert_eq!(check_reveal(&always, &DIGEST, reveal), Err(RefusalReason::WrongNonce));
        }
    }

    #[test]
    fn a_complete_proof_takes_no_nonce_and_is_always_due() {
        let (request, nonce) = request(AuditRate::Always, true);
        assert_eq!(check_reveal(&request, &DIGEST, Reveal::Challenge(None)), Ok(()));
        for reveal in [Reveal::Challenge(Some(nonce)), Reveal::Settle(nonce)] {
            assert_eq!(check_reveal(&request, &DIGEST, reveal), Err(RefusalReason::WrongNonce));
        }
    }
}
