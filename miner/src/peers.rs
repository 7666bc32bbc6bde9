//! What each validator has open, has spent, and has asked before.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use assay_audit::session::RefusalReason;
use assay_commitments::{Epoch, Hotkey, SessionId};
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

/// Most sessions of a validator for an epoch, of which four are remembered, to tell a replayed request: a few megabytes.
const SESSIONS_PER_EPOCH: usize = 1 << 16;

/// Why a request is turned away here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turned {
    /// With a signed refusal.
    Refused(RefusalReason),
    /// The same request came before. It is not answered twice: two commitments under one session id
    /// would be evidence against this miner.
    Replayed,
}

/// What a validator is granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Grant {
    /// Sessions open at a time.
    pub(crate) sessions: usize,
    /// Proof time in an epoch.
    pub(crate) proof_ms: u64,
}

/// The validators that have asked.
#[derive(Debug, Default)]
pub(crate) struct Peers {
    known: Mutex<HashMap<Hotkey, Peer>>,
}

#[derive(Debug, Default)]
struct Peer {
    open: usize,
    /// Held while a proof of this validator's waits for a place to be computed.
    turn: Arc<AsyncMutex<()>>,
    /// Proof time, by this miner's view of the epoch.
    spent: BTreeMap<Epoch, Duration>,
    /// Sessions, by the epoch that their requests name.
    asked: BTreeMap<Epoch, HashSet<SessionId>>,
}

/// A session that counts as open; dropping it makes room.
#[derive(Debug)]
pub(crate) struct SessionPermit {
    peers: Arc<Peers>,
    validator: Hotkey,
    epoch: Epoch,
    turn: Arc<AsyncMutex<()>>,
}

impl Peers {
    /// Opens a session that a request for the epoch `named` asks for, in this miner's own view of the `epoch`, so that
    /// nobody gains a second budget by naming another. Requests for another than the view's, the one before or the one
    /// after are not admitted. Sessions are remembered an epoch longer than that: a view may go back by a block, and is asked
    /// for before this.
    pub(crate) fn open(
        self: &Arc<Self>,
        validator: Hotkey,
        (named, session): (Epoch, SessionId),
        epoch: Epoch,
        grant: Grant,
    ) -> Result<SessionPermit, Turned> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let peer = known.entry(validator).or_default();
        // A session may run into the next epoch.
        peer.spent.retain(|&past, _| past.next() >= epoch);
        peer.asked.retain(|&past, _| past.next().next() >= epoch);
        let asked = peer.asked.entry(named).or_default();
        if asked.contains(&session) {
            return Err(Turned::Replayed);
        }
        let spent = peer.spent.entry(epoch).or_default();
        if spent.as_millis() >= u128::from(grant.proof_ms) {
            return Err(Turned::Refused(RefusalReason::OverBudget));
        }
        if peer.open >= grant.sessions || asked.len() >= SESSIONS_PER_EPOCH {
            return Err(Turned::Refused(RefusalReason::Busy));
        }
        asked.insert(session);
        peer.open += 1;
        Ok(SessionPermit { peers: Arc::clone(self), validator, epoch, turn: Arc::clone(&peer.turn) })
    }
}

impl SessionPermit {
    /// This validator's turn to wait for a place to compute a proof. Of each validator one waits at a time, so that all are
    /// served in turns however many sessions one of them has open.
    pub(crate) async fn turn(&self) -> OwnedMutexGuard<()> {
        Arc::clone(&self.turn).lock_owned().await
    }

    /// Books proof time on the validator's budget of the epoch in which the session began.
    pub(crate) fn charge(&self, time: Duration) {
        let mut known = self.peers.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(spent) = known.get_mut(&self.validator).and_then(|peer| peer.spent.get_mut(&self.epoch)) {
            *spent = spent.saturating_add(time);
        }
    }
}

impl Drop for SessionPermit {
    fn drop(&mut self) {
        let mut known = self.peers.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(peer) = known.get_mut(&self.validator) {
            peer.open = peer.open.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRANT: Grant = Grant { sessions: 2, proof_ms: 1000 };
    const VALIDATOR: Hotkey = Hotkey::new([1; 32]);

    fn session(number: u8) -> SessionId {
        SessionId::new([number; 32])
    }

    fn open(peers: &Arc<Peers>, number: u8, epoch: u64) -> Result<SessionPermit, Turned> {
        peers.open(VALIDATOR, (Epoch::new(epoch), session(number)), Epoch::new(epoch), GRANT)
    }

    #[test]
    fn sessions_open_at_a_time_are_bounded() {
        let peers = Arc::new(Peers::default());
        let first = open(&peers, 1, 0).unwrap();
        let _second = open(&peers, 2, 0).unwrap();
        assert_eq!(open(&peers, 3, 0).unwrap_err(), Turned::Refused(RefusalReason::Busy));
        drop(first);
        assert!(open(&peers, 3, 0).is_ok());
        assert!(peers.open(Hotkey::new([2; 32]), (Epoch::new(0), session(4)), Epoch::new(0), GRANT).is_ok());
    }

    #[test]
    fn a_spent_budget_comes_back_with_the_next_epoch() {
        let peers = Arc::new(Peers::default());
        let permit = open(&peers, 1, 0).unwrap();
        permit.charge(Duration::from_millis(999));
        drop(open(&peers, 2, 0).unwrap());
        permit.charge(Duration::from_millis(1));
        assert_eq!(open(&peers, 3, 0).unwrap_err(), Turned::Refused(RefusalReason::OverBudget));
        assert!(open(&peers, 3, 1).is_ok());
    }

    #[test]
    fn a_request_is_answered_once() {
        let peers = Arc::new(Peers::default());
        let in_view = |view| peers.open(VALIDATOR, (Epoch::new(4), session(1)), Epoch::new(view), GRANT);
        // The first time just before its epoch, the last time just after it.
        drop(in_view(3).unwrap());
        for view in [3, 4, 5] {
            assert_eq!(in_view(view).unwrap_err(), Turned::Replayed);
        }
        // Then no request of that epoch is admitted, unless the view goes back once more.
        for view in [6, 5] {
            assert_eq!(in_view(view).unwrap_err(), Turned::Replayed);
        }
        // None is remembered for ever.
        assert!(in_view(7).is_ok());
    }
}
