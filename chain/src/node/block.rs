//! Blocks and their headers.

use std::sync::Arc;

use parity_scale_codec::{Compact, Encode};
use sp_crypto_hashing::blake2_256;

use super::{pool::Pending, runtime::Runtime};
use crate::devnet::state::State;

pub(super) type Hash = [u8; 32];

/// A block and the state that it leaves behind.
#[derive(Debug)]
pub(super) struct Block {
    pub(super) hash: Hash,
    pub(super) header: Header,
    /// As they stand in the block, the author's own first.
    pub(super) extrinsics: Vec<Vec<u8>>,
    /// `Vec<EventRecord>`, encoded.
    pub(super) events: Vec<u8>,
    pub(super) state: Arc<State>,
    /// The runtime that this state is in the form of, and that the next block is made with.
    pub(super) runtime: Arc<Runtime>,
    /// What was taken from the pool, by index in the block.
    pub(super) included: Vec<(u32, Pending)>,
}

impl Block {
    pub(super) const fn number(&self) -> u64 {
        self.header.number
    }
}

/// A header, whose hash is the block's.
///
/// The two roots are digests of parent and number, and no roots of tries: nobody proves anything here, and a node that
/// goes on with a devnet it has loaded makes the hashes of the blocks before out of nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) parent: Hash,
    pub(super) number: u64,
    pub(super) state_root: Hash,
    pub(super) extrinsics_root: Hash,
    /// The author's slot, which no two blocks share.
    pub(super) slot: u64,
    /// Whether the runtime changes with this block.
    pub(super) upgrades: bool,
}

impl Header {
    pub(super) fn new(parent: Hash, number: u64, slot: u64, upgrades: bool) -> Self {
        let root = |of: &str| blake2_256(&(of, parent, number).encode());
        Self { parent, number, state_root: root("state"), extrinsics_root: root("extrinsics"), slot, upgrades }
    }

    pub(super) fn hash(&self) -> Hash {
        blake2_256(&self.encode())
    }

    /// As `sp_runtime::generic::Header`.
    fn encode(&self) -> Vec<u8> {
        let logs = self.logs();
        let count = Compact(u32::try_from(logs.len()).unwrap_or(u32::MAX)).encode();
        let roots = (self.parent, Compact(self.number), self.state_root, self.extrinsics_root).encode();
        [roots, count, logs.concat()].concat()
    }

    /// Digest items, encoded: who made the block, and a new runtime.
    pub(super) fn logs(&self) -> Vec<Vec<u8>> {
        const PRE_RUNTIME: u8 = 6;
        const RUNTIME_ENVIRONMENT_UPDATED: u8 = 8;
        let mut logs = vec![(PRE_RUNTIME, *b"aura", self.slot.to_le_bytes().to_vec()).encode()];
        if self.upgrades {
            logs.push(vec![RUNTIME_ENVIRONMENT_UPDATED]);
        }
        logs
    }
}
