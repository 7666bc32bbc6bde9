//! What a node over the devnet reads and does, beside the chain's own calls.

use std::sync::Arc;

use assay_commitments::Hotkey;
use sp_crypto_hashing::sha2_256;

use super::{BLOCKS_KEPT, Devnet, beacon, state::State};
use crate::{
    api::{Hyperparameters, WeightsForm},
    error::ChainError,
    types::{Coldkey, Uid},
};

/// Blocks whose state is kept.
pub(crate) const STATES_MAX: usize = BLOCKS_KEPT;

/// The devnet's beacon as of a block: what it is, and its newest pulse.
#[derive(Clone, Debug)]
pub(crate) struct Beacon {
    /// 96 bytes.
    pub(crate) public_key: Vec<u8>,
    /// What stands for the beacon.
    pub(crate) chain: [u8; 32],
    /// Seconds between two rounds.
    pub(crate) period_s: u32,
    /// When round 1 was published, in seconds since 1970.
    pub(crate) genesis_s: u32,
    /// The newest round.
    pub(crate) round: u64,
    /// 48 bytes.
    pub(crate) signature: Vec<u8>,
    pub(crate) randomness: [u8; 32],
}

impl State {
    /// What this state tells of a block before it: the commitments of then, and all else as it is now. A
    /// devnet that was loaded knows no more of the blocks before.
    pub(crate) fn recalled(&self, block: u64) -> Self {
        let mut past = Self { block, ..self.clone() };
        past.commitments = std::mem::take(&mut past.commitments)
            .into_iter()
            .map(|(hotkey, mut all)| {
                all.retain(|commitment| commitment.block <= block);
                (hotkey, all)
            })
            .filter(|(_, all)| !all.is_empty())
            .collect();
        past
    }

    pub(crate) fn settings(&self) -> Hyperparameters {
        self.hyperparameters()
    }

    /// Epochs from a commit of weights to its reveal, where weights are committed.
    pub(crate) fn reveal_period(&self) -> Option<u64> {
        self.parameters.reveal_period()
    }

    /// The version of encrypted weights that is taken, if any is.
    pub(crate) const fn timelock_version(&self) -> Option<u16> {
        match self.parameters.weights_form {
            WeightsForm::Timelocked { version, .. } => Some(version),
            WeightsForm::Plain | WeightsForm::CommitReveal { .. } => None,
        }
    }

    /// The first and the last block in which a commit of an epoch may be revealed.
    pub(crate) fn reveal_blocks(&self, committed: u64) -> (u64, u64) {
        let reveals = assay_commitments::Epoch::new(committed + self.reveal_period().unwrap_or(0));
        (self.first_block(reveals), self.first_block(reveals.next()) - 1)
    }

    pub(crate) fn beacon(&self) -> Beacon {
        let seconds = |milliseconds: u64| u32::try_from(milliseconds / 1_000).unwrap_or(u32::MAX);
        let (genesis, round) = (&self.network.genesis, self.newest_round());
        let signature = beacon::signature(genesis, round);
        let public_key = beacon::public_key(genesis);
        Beacon {
            chain: sha2_256(&public_key),
            public_key,
            period_s: seconds(beacon::PERIOD_MS),
            genesis_s: seconds(beacon::GENESIS_MS),
            round,
            randomness: sha2_256(&signature),
            signature,
        }
    }

    /// The newest round of the beacon.
    pub(crate) const fn newest_round(&self) -> u64 {
        beacon::round_of(self.block)
    }

    /// When a block happened, in milliseconds since 1970.
    pub(crate) const fn block_ms(block: u64) -> u64 {
        beacon::block_ms(block)
    }

    /// How many extrinsics of an account are on the chain.
    pub(crate) fn nonce(&self, account: &[u8; 32]) -> u32 {
        self.nonces.get(&Coldkey::new(*account)).copied().unwrap_or(0)
    }

    pub(crate) fn count_nonce(&mut self, account: &[u8; 32]) {
        let nonce = self.nonces.entry(Coldkey::new(*account)).or_default();
        *nonce = nonce.saturating_add(1);
    }
}

impl Devnet {
    /// Gives a hotkey of a coldkey a place without price.
    ///
    /// # Errors
    /// [`ChainError::AlreadyRegistered`], [`ChainError::SubnetFull`].
    pub(crate) fn register_of(&self, coldkey: Coldkey, hotkey: Hotkey) -> Result<Uid, ChainError> {
        self.write(|state| state.register(hotkey, coldkey))
    }

    /// Goes back to a block that is kept, and forgets those behind it.
    pub(crate) fn rewind(&self, to: &Arc<State>) {
        let mut blocks = self.locked();
        blocks.past.retain(|state| state.block < to.block);
        blocks.newest = Arc::clone(to);
        self.newest.send_replace(to.block);
    }
}
