//! Sessions whose trace must outlive their stream: committed, and not yet settled or proven.
//!
//! Room for a trace is reserved before its first token, at the most that it can reach, so a full
//! store refuses requests and never loses what it owes.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use assay_audit::request::Request;
use assay_audit::session::SignedBytes;
use assay_commitments::SessionId;
use assay_commitments::trace::TraceCommitment;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::backend::Served;
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

/// A trace and the room it takes.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) served: Served,
    pub(crate) room: Room,
}

/// A committed session.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) session: SessionId,
    pub(crate) request: Request,
    pub(crate) commitment: TraceCommitment,
    pub(crate) permit: SessionPermit,
    /// When no settlement or challenge is waited for any more.
    pub(crate) reveal_due: Instant,
    expires: Instant,
    /// The trace, until a proof is begun; a session has one proof, however often it is asked for.
    held: Mutex<Option<Held>>,
    pub(crate) proof: watch::Sender<ProofState>,
}

impl Kept {
    pub(crate) fn new(request: Request, commitment: TraceCommitment, permit: SessionPermit, held: Held) -> Self {
        let ms = |ms: u32| Duration::from_millis(u64::from(ms));
        let reveal_due = Instant::now() + ms(request.deadlines.settle_ms) + GRACE;
        Self {
            session: commitment.session,
            reveal_due,
            // A challenge may reach us at the last moment on a resumed stream.
            expires: reveal_due + ms(request.deadlines.proof_ms) + GRACE,
            request,
            commitment,
            permit,
            held: Mutex::new(Some(held)),
            proof: watch::Sender::new(ProofState::Pending),
        }
    }

    /// The trace, for the one who begins the proof.
    pub(crate) fn take_held(&self) -> Option<Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// All committed sessions of a miner.
#[derive(Debug)]
pub(crate) struct Retention {
    capacity: usize,
    used: Arc<AtomicUsize>,
    sessions: Mutex<HashMap<SessionId, Arc<Kept>>>,
}

/// Reserved bytes; dropping it frees them.
#[derive(Debug)]
pub(crate) struct Room {
    used: Arc<AtomicUsize>,
    bytes: usize,
}

impl Drop for Room {
    fn drop(&mut self) {
        self.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Retention {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { capacity, used: Arc::default(), sessions: Mutex::default() }
    }

    /// Reserves room for a trace; `None` when there is not enough.
    pub(crate) fn reserve(&self, bytes: usize) -> Option<Room> {
        let fits = |used: usize| used.checked_add(bytes).filter(|&total| total <= self.capacity);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).ok()?;
        Some(Room { used: Arc::clone(&self.used), bytes })
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_bounded_and_comes_back() {
        let retention = Retention::new(100);
        let first = retention.reserve(60).unwrap();
        assert!(retention.reserve(41).is_none());
        let second = retention.reserve(40).unwrap();
        assert!(retention.reserve(usize::MAX).is_none());
        drop(first);
        assert!(retention.reserve(60).is_some());
        drop(second);
        assert_eq!(retention.used.load(Ordering::Relaxed), 0);
    }
}
