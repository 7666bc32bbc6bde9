//! Sessions whose trace must outlive their stream: committed, and not yet settled or proven.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use assay_audit::request::Request;
use assay_audit::session::{Exchange, Reply, SignedBytes};
use assay_audit::transcript_file::exchange_digest;
use assay_commitments::trace::TraceCommitment;
use assay_commitments::{SessionId, TokenId};
use assay_llm_runtime::retention::Held;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::peers::SessionPermit;

/// How much longer than its deadlines a session is kept: clocks and networks differ.
const GRACE: Duration = Duration::from_secs(5);

/// A proof on its way.
#[derive(Clone, Debug)]
pub(crate) enum ProofState {
    Pending,
    Done(Arc<SignedBytes>),
    Failed,
}

/// A committed session.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) session: SessionId,
    pub(crate) request: Request,
    pub(crate) commitment: TraceCommitment,
    /// The tokens and the commitment as they were sent.
    streamed: Vec<TokenId>,
    pub(crate) signed: SignedBytes,
    pub(crate) permit: SessionPermit,
    /// When no settlement or challenge is waited for any more.
    pub(crate) reveal_due: Instant,
    expires: Instant,
    /// The trace, until a proof is begun; a session has one proof, however often it is asked for.
    trace: Mutex<Option<Held>>,
    pub(crate) proof: watch::Sender<ProofState>,
}

impl Kept {
    pub(crate) fn new(
        request: Request,
        streamed: Vec<TokenId>,
        (commitment, signed): (TraceCommitment, SignedBytes),
        permit: SessionPermit,
        trace: Held,
    ) -> Self {
        let ms = |ms: u32| Duration::from_millis(u64::from(ms));
        let reveal_due = Instant::now() + ms(request.deadlines.settle_ms) + GRACE;
        Self {
            session: commitment.session,
            reveal_due,
            // A challenge may reach us at the last moment on a resumed stream.
            expires: reveal_due + ms(request.deadlines.proof_ms) + GRACE,
            request,
            commitment,
            streamed,
            signed,
            permit,
            trace: Mutex::new(Some(trace)),
            proof: watch::Sender::new(ProofState::Pending),
        }
    }

    /// What the receipt signs of the session, if its validator has it as it was here.
    pub(crate) fn exchange_digest(&self, reply: Reply) -> [u8; 32] {
        exchange_digest(&self.streamed, &Exchange::Committed { commitment: self.signed.clone(), reply })
    }

    /// The trace, for the one who begins the proof.
    pub(crate) fn take_trace(&self) -> Option<Held> {
        self.trace.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// All committed sessions of a miner.
#[derive(Debug, Default)]
pub(crate) struct Retention {
    sessions: Mutex<HashMap<SessionId, Arc<Kept>>>,
}

impl Retention {
    pub(crate) fn keep(&self, kept: Arc<Kept>) {
        self.lock().insert(kept.session, kept);
    }

    pub(crate) fn get(&self, session: &SessionId) -> Option<Arc<Kept>> {
        self.lock().get(session).cloned()
    }

    pub(crate) fn forget(&self, session: &SessionId) {
        self.lock().remove(session);
    }

    /// Drops what nobody can ask for any more, and says how much that was.
    pub(crate) fn purge(&self, now: Instant) -> usize {
        let mut sessions = self.lock();
        let before = sessions.len();
        sessions.retain(|_, kept| kept.expires > now);
        before - sessions.len()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<SessionId, Arc<Kept>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
