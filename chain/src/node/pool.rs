//! Extrinsics that wait for a block.

use std::collections::{BTreeSet, HashSet, VecDeque};

use serde::Serialize;
use tokio::sync::mpsc;

use super::block::Hash;

/// How many extrinsics wait at a time.
const WAITING_MAX: usize = 8_192;

/// What becomes of an extrinsic, in the words of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Status {
    Future,
    Ready,
    InBlock(String),
    Retracted(String),
    Finalized(String),
    Dropped,
    Invalid,
}

impl Status {
    /// Whether nothing comes behind it.
    pub(super) const fn is_last(&self) -> bool {
        matches!(self, Self::Finalized(_) | Self::Dropped | Self::Invalid)
    }
}

/// An extrinsic that was taken, and who wants to know what becomes of it.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    pub(super) bytes: Vec<u8>,
    pub(super) hash: Hash,
    pub(super) account: [u8; 32],
    pub(super) nonce: u32,
    pub(super) watcher: Option<mpsc::UnboundedSender<Status>>,
}

impl Pending {
    /// Tells the watcher, if it still listens.
    pub(super) fn tell(&self, status: Status) {
        if let Some(watcher) = &self.watcher {
            let _ = watcher.send(status);
        }
    }
}

/// The pool, in the order of arrival.
#[derive(Debug, Default)]
pub(super) struct Pool {
    waiting: VecDeque<Pending>,
    hashes: HashSet<Hash>,
    nonces: BTreeSet<([u8; 32], u32)>,
}

impl Pool {
    pub(super) fn is_full(&self) -> bool {
        self.waiting.len() >= WAITING_MAX
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Pending> {
        self.waiting.iter()
    }

    pub(super) fn holds(&self, hash: &Hash) -> bool {
        self.hashes.contains(hash)
    }

    pub(super) fn has(&self, account: &[u8; 32], nonce: u32) -> bool {
        self.nonces.contains(&(*account, nonce))
    }

    /// The nonce an account has once everything before it that waits is in a block.
    pub(super) fn next_nonce(&self, account: &[u8; 32], nonce: u32) -> u32 {
        let waiting = self.nonces.range((*account, nonce)..=(*account, u32::MAX));
        waiting.fold(nonce, |next, (_, waiting)| if *waiting == next { next.saturating_add(1) } else { next })
    }

    /// Adds one. `nonce` is its account's in the newest block. Whatever becomes ready by it is told.
    pub(super) fn add(&mut self, pending: Pending, nonce: u32) {
        let (account, before) = (pending.account, self.next_nonce(&pending.account, nonce));
        let ready = pending.nonce <= before;
        pending.tell(if ready { Status::Ready } else { Status::Future });
        let own = pending.nonce;
        self.count(&pending);
        self.waiting.push_back(pending);
        if ready {
            let after = self.next_nonce(&account, nonce);
            let promoted = |other: &&Pending| other.account == account && (own + 1..after).contains(&other.nonce);
            self.waiting.iter().filter(promoted).for_each(|other| other.tell(Status::Ready));
        }
    }

    fn count(&mut self, pending: &Pending) {
        self.hashes.insert(pending.hash);
        self.nonces.insert((pending.account, pending.nonce));
    }

    /// Takes out everything, to be put back if it does not fit into a block.
    pub(super) fn drain(&mut self) -> VecDeque<Pending> {
        std::mem::take(self).waiting
    }

    /// Puts back what waits on, before whatever came since.
    pub(super) fn put_back(&mut self, mut waiting: VecDeque<Pending>) {
        waiting.iter().for_each(|pending| self.count(pending));
        waiting.append(&mut self.waiting);
        self.waiting = waiting;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pending(nonce: u32) -> (Pending, mpsc::UnboundedReceiver<Status>) {
        let (watcher, statuses) = mpsc::unbounded_channel();
        let byte = u8::try_from(nonce).unwrap();
        (Pending { bytes: vec![byte], hash: [byte; 32], account: [1; 32], nonce, watcher: Some(watcher) }, statuses)
    }

    #[test]
    fn a_nonce_ahead_waits_for_those_before_it() {
        let mut pool = Pool::default();
        let (fifth, mut of_fifth) = pending(5);
        let (sixth, mut of_sixth) = pending(6);
        let (fourth, mut of_fourth) = pending(4);
        pool.add(sixth, 4);
        pool.add(fifth, 4);
        assert_eq!((of_fifth.try_recv().unwrap(), of_sixth.try_recv().unwrap()), (Status::Future, Status::Future));
        assert_eq!(pool.next_nonce(&[1; 32], 4), 4);
        pool.add(fourth, 4);
        for statuses in [&mut of_fourth, &mut of_fifth, &mut of_sixth] {
            assert_eq!(statuses.try_recv().unwrap(), Status::Ready);
            assert!(statuses.try_recv().is_err());
        }
        assert_eq!(pool.next_nonce(&[1; 32], 4), 7);
    }
}
