//! A devnet that refuses what it is told to refuse.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::Mutex;

use assay_chain::{
    BlockNumber, Chain, ChainError, Devnet, EpochKey, EpochKeyHash, EpochKeyRecord, Head, History, Hyperparameters,
    Metagraph, Network, Placement, RequestsDigest, StoredWeights, Uid,
};
use assay_commitments::{Epoch, Hotkey, ManifestId};

pub(crate) struct Contrary {
    devnet: Devnet,
    /// Whether it says that it is there.
    pub(crate) answers: bool,
    /// What the next reveals of weights come to, the last one first; after them, what the devnet says.
    pub(crate) reveals: Mutex<Vec<Result<usize, ChainError>>>,
    /// How often weights were to be revealed, by epoch.
    pub(crate) asked: Mutex<Vec<Epoch>>,
    /// The last epoch whose key is taken.
    pub(crate) keys_until: Epoch,
    /// The last epoch in which weights are never to be set again.
    pub(crate) no_weights_until: Option<Epoch>,
    /// How often weights were not taken.
    pub(crate) refused: Mutex<usize>,
}

impl Contrary {
    /// One that refuses nothing yet.
    pub(crate) fn new(devnet: &Devnet) -> Self {
        Self {
            devnet: devnet.clone(),
            answers: true,
            reveals: Mutex::default(),
            asked: Mutex::default(),
            keys_until: Epoch::new(u64::MAX),
            no_weights_until: None,
            refused: Mutex::default(),
        }
    }
}

impl Chain for Contrary {
    fn network(&self) -> Network {
        self.devnet.network()
    }

    async fn reach(&self) -> Result<(), ChainError> {
        let gone = || ChainError::Unreachable { endpoint: "ws://chain".to_owned(), why: "no answer".to_owned() };
        if self.answers { self.devnet.reach().await } else { Err(gone()) }
    }

    async fn head(&self) -> Result<Head, ChainError> {
        self.devnet.head().await
    }

    async fn head_after(&self, block: BlockNumber) -> Result<Head, ChainError> {
        self.devnet.head_after(block).await
    }

    async fn metagraph(&self) -> Result<Metagraph, ChainError> {
        self.devnet.metagraph().await
    }

    async fn serve_endpoint(&self, signer: Hotkey, endpoint: SocketAddr) -> Result<(), ChainError> {
        self.devnet.serve_endpoint(signer, endpoint).await
    }

    async fn manifests(&self) -> Result<Vec<ManifestId>, ChainError> {
        self.devnet.manifests().await
    }

    async fn publish_manifests(&self, signer: Hotkey, manifests: &[ManifestId]) -> Result<(), ChainError> {
        self.devnet.publish_manifests(signer, manifests).await
    }

    async fn declare_manifest(&self, signer: Hotkey, manifest: ManifestId) -> Result<(), ChainError> {
        self.devnet.declare_manifest(signer, manifest).await
    }

    async fn publish_epoch_key(&self, signer: Hotkey, epoch: Epoch, hash: EpochKeyHash) -> Result<(), ChainError> {
        self.devnet.publish_epoch_key(signer, epoch, hash).await
    }

    async fn reveal_epoch_key(
        &self,
        signer: Hotkey,
        epoch: Epoch,
        key: EpochKey,
        requests: RequestsDigest,
    ) -> Result<(), ChainError> {
        if epoch > self.keys_until {
            return Err(ChainError::CommitmentSpace { hotkey: signer, next: self.head().await?.next_epoch });
        }
        self.devnet.reveal_epoch_key(signer, epoch, key, requests).await
    }

    async fn epoch_key(&self, validator: Hotkey, epoch: Epoch) -> Result<Option<EpochKeyRecord>, ChainError> {
        self.devnet.epoch_key(validator, epoch).await
    }

    async fn hyperparameters(&self) -> Result<Hyperparameters, ChainError> {
        self.devnet.hyperparameters().await
    }

    async fn weights_of(&self, hotkey: Hotkey) -> Result<StoredWeights, ChainError> {
        self.devnet.weights_of(hotkey).await
    }

    async fn set_weights(
        &self,
        signer: Hotkey,
        weights: &[(Uid, u16)],
        version_key: u64,
    ) -> Result<Placement, ChainError> {
        if Some(self.head().await?.epoch) <= self.no_weights_until {
            *self.refused.lock().unwrap() += 1;
            return Err(ChainError::WeightsTooFast { next: BlockNumber::new(u64::MAX) });
        }
        self.devnet.set_weights(signer, weights, version_key).await
    }

    async fn reveal_weights(&self, signer: Hotkey) -> Result<usize, ChainError> {
        let epoch = self.head().await?.epoch;
        self.asked.lock().unwrap().push(epoch);
        let told = self.reveals.lock().unwrap().pop();
        match told {
            Some(answer) => answer,
            None => self.devnet.reveal_weights(signer).await,
        }
    }

    async fn history(&self, epochs: RangeInclusive<Epoch>, hotkeys: &[Hotkey]) -> Result<History, ChainError> {
        self.devnet.history(epochs, hotkeys).await
    }
}
