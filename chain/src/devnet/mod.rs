//! The embedded chain.

mod clock;
mod emission;
mod fraction;
mod genesis;
mod keys;
mod registry;
mod report;
mod state;
mod weights;
mod yuma;

use std::{
    net::SocketAddr,
    ops::RangeInclusive,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use assay_commitments::{Epoch, Hotkey, ManifestId};

use crate::{
    api::{Chain, Hyperparameters, Placement, StoredWeights},
    error::ChainError,
    history::History,
    metagraph::Metagraph,
    types::{BlockNumber, EpochKey, EpochKeyHash, EpochKeyRecord, Head, Network, Rao, RequestsDigest, Uid},
};
use state::State;
use tokio::sync::watch;

pub use genesis::{Genesis, GenesisError, Parameters};
pub use report::{EpochReport, NeuronReport};

/// A chain with one subnet, in the process. Clones share the chain.
///
/// Time moves by [`Devnet::step_block`] and [`Devnet::run_epoch`] alone, and the same calls in the
/// same order give the same chain, to the last RAO. Each call is one transaction: it happens as a
/// whole, in the newest block. The futures of its [`Chain`] are ready at once.
///
/// Signatures are not checked: whoever holds the handle may write for every hotkey.
#[derive(Clone, Debug)]
pub struct Devnet {
    state: Arc<Mutex<State>>,
    /// The newest block, for those who wait for it.
    newest: Arc<watch::Sender<u64>>,
}

impl Devnet {
    /// A chain at its first block after genesis, in epoch 0.
    ///
    /// # Errors
    /// [`GenesisError`] if the genesis contradicts itself.
    pub fn new(genesis: &Genesis) -> Result<Self, GenesisError> {
        let state = State::new(genesis)?;
        let newest = Arc::new(watch::Sender::new(state.block));
        Ok(Self { state: Arc::new(Mutex::new(state)), newest })
    }

    /// Gives a hotkey the next free uid. On a real chain its coldkey pays for it.
    ///
    /// Weights count for a neuron if they are set in a block after its registration.
    ///
    /// # Errors
    /// [`ChainError::AlreadyRegistered`], [`ChainError::SubnetFull`].
    pub fn register(&self, hotkey: Hotkey) -> Result<Uid, ChainError> {
        self.state().register(hotkey)
    }

    /// Sets a hotkey's stake. At the end of the running epoch it counts if the hotkey holds a permit
    /// by then, and decides whether it gets one for the next.
    ///
    /// # Errors
    /// [`ChainError::NotRegistered`].
    pub fn set_stake(&self, hotkey: Hotkey, stake: Rao) -> Result<(), ChainError> {
        self.state().set_stake(hotkey, stake)
    }

    /// What stood on the chain from its beginning until now.
    pub fn whole_history(&self) -> History {
        self.state().history()
    }

    /// Makes one block, and with it the epoch if that is due.
    pub fn step_block(&self) -> Option<EpochReport> {
        let mut state = self.state();
        let report = state.step_block();
        self.newest.send_replace(state.block);
        report
    }

    /// Makes blocks until the running epoch is computed.
    pub fn run_epoch(&self) -> EpochReport {
        loop {
            if let Some(report) = self.step_block() {
                return report;
            }
        }
    }

    /// Calls check first and write last, so a panic in one leaves the state whole: a poisoned lock
    /// is still good.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Chain for Devnet {
    fn network(&self) -> Network {
        self.state().network()
    }

    async fn head(&self) -> Result<Head, ChainError> {
        Ok(self.state().head())
    }

    async fn head_after(&self, block: BlockNumber) -> Result<Head, ChainError> {
        let mut newest = self.newest.subscribe();
        // The sender lives as long as this handle.
        let _ = newest.wait_for(|newest| *newest > block.get()).await;
        self.head().await
    }

    async fn metagraph(&self) -> Result<Metagraph, ChainError> {
        Ok(self.state().metagraph())
    }

    async fn serve_endpoint(&self, signer: Hotkey, endpoint: SocketAddr) -> Result<(), ChainError> {
        self.state().serve_endpoint(signer, endpoint)
    }

    async fn manifests(&self) -> Result<Vec<ManifestId>, ChainError> {
        Ok(self.state().manifests())
    }

    async fn publish_manifests(&self, signer: Hotkey, manifests: &[ManifestId]) -> Result<(), ChainError> {
        self.state().publish_manifests(signer, manifests)
    }

    async fn declare_manifest(&self, signer: Hotkey, manifest: ManifestId) -> Result<(), ChainError> {
        self.state().declare_manifest(signer, manifest)
    }

    async fn publish_epoch_key(&self, signer: Hotkey, epoch: Epoch, hash: EpochKeyHash) -> Result<(), ChainError> {
        self.state().publish_epoch_key(signer, epoch, hash)
    }

    async fn reveal_epoch_key(
        &self,
        signer: Hotkey,
        epoch: Epoch,
        key: EpochKey,
        requests: RequestsDigest,
    ) -> Result<(), ChainError> {
        self.state().reveal_epoch_key(signer, epoch, key, requests)
    }

    async fn epoch_key(&self, validator: Hotkey, epoch: Epoch) -> Result<Option<EpochKeyRecord>, ChainError> {
        Ok(self.state().epoch_key(validator, epoch))
    }

    async fn hyperparameters(&self) -> Result<Hyperparameters, ChainError> {
        Ok(self.state().hyperparameters())
    }

    async fn weights_of(&self, hotkey: Hotkey) -> Result<StoredWeights, ChainError> {
        self.state().weights_of(hotkey)
    }

    async fn set_weights(
        &self,
        signer: Hotkey,
        weights: &[(Uid, u16)],
        version_key: u64,
    ) -> Result<Placement, ChainError> {
        self.state().set_weights(signer, weights, version_key)
    }

    async fn reveal_weights(&self, _signer: Hotkey) -> Result<usize, ChainError> {
        Ok(0)
    }

    async fn history(&self, epochs: RangeInclusive<Epoch>, hotkeys: &[Hotkey]) -> Result<History, ChainError> {
        Ok(self.state().history().of(&epochs, hotkeys))
    }
}
