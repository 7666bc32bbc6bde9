//! The trait.

use std::net::SocketAddr;

use assay_commitments::{Epoch, Hotkey, ManifestId};

use crate::{
    error::ChainError,
    metagraph::Metagraph,
    types::{EpochKey, EpochKeyHash, EpochKeyRecord, Head, Network, RequestsDigest, Uid},
};

/// How many manifests a registry holds: a commitment on chain has three fields of at most 128
/// bytes, and a field with a tag byte takes three ids of 32.
pub const MANIFESTS_MAX: usize = 9;

/// What the subnet asks of a weight vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WeightRules {
    /// The least version key it takes; 0 takes any.
    pub version_key: u64,
    /// Blocks between two settings by the same validator.
    pub rate_limit: u64,
    /// The least number of weights, or all uids where there are fewer.
    pub least_weights: u16,
}

/// A subnet of a chain, as its validators and miners need it.
///
/// Writes name the hotkey that makes them; an implementation signs for it or refuses. A write that
/// returns is on chain. Writing once more what is already there succeeds, so that a caller which
/// lost the answer may repeat itself: only weights and endpoints are rate-limited, as on the real
/// chain, and there the metagraph shows what has arrived.
///
/// Registration is not here. It costs money and is signed by the coldkey, which no running service
/// should hold.
pub trait Chain: Send + Sync {
    /// Which chain and subnet this is. Known since the connection was made.
    fn network(&self) -> Network;

    /// Where the chain stands.
    ///
    /// # Errors
    /// A [`ChainError`] if the chain cannot be read.
    fn head(&self) -> impl Future<Output = Result<Head, ChainError>> + Send;

    /// Who is on the subnet, all as of one block.
    ///
    /// # Errors
    /// A [`ChainError`] if the chain cannot be read.
    fn metagraph(&self) -> impl Future<Output = Result<Metagraph, ChainError>> + Send;

    /// Publishes where the signer can be reached.
    ///
    /// # Errors
    /// [`ChainError::NotRegistered`], [`ChainError::ZeroPort`], [`ChainError::ServingTooFast`].
    fn serve_endpoint(
        &self,
        signer: Hotkey,
        endpoint: SocketAddr,
    ) -> impl Future<Output = Result<(), ChainError>> + Send;

    /// The manifests in force: what miners of this subnet may serve.
    ///
    /// # Errors
    /// A [`ChainError`] if the chain cannot be read.
    fn manifests(&self) -> impl Future<Output = Result<Vec<ManifestId>, ChainError>> + Send;

    /// Puts manifests in force, in place of those that were.
    ///
    /// # Errors
    /// [`ChainError::NotOwner`], [`ChainError::TooManyManifests`],
    /// [`ChainError::DuplicateManifest`].
    fn publish_manifests(
        &self,
        signer: Hotkey,
        manifests: &[ManifestId],
    ) -> impl Future<Output = Result<(), ChainError>> + Send;

    /// Says which manifest the signer serves. Whether it is in force is for the reader to check:
    /// the owner may change the registry at any time.
    ///
    /// # Errors
    /// [`ChainError::NotRegistered`].
    fn declare_manifest(
        &self,
        signer: Hotkey,
        manifest: ManifestId,
    ) -> impl Future<Output = Result<(), ChainError>> + Send;

    /// Publishes the hash of the signer's key for an epoch: the running one, or the next, so that
    /// its first session can be bound too.
    ///
    /// # Errors
    /// [`ChainError::NotRegistered`], [`ChainError::WrongKeyEpoch`],
    /// [`ChainError::KeyAlreadyPublished`].
    fn publish_epoch_key(
        &self,
        signer: Hotkey,
        epoch: Epoch,
        hash: EpochKeyHash,
    ) -> impl Future<Output = Result<(), ChainError>> + Send;

    /// Publishes the key itself, once its epoch is over, with the digest of the requests that it drew
    /// nonces for. The caller waits for the epoch's last proof deadline besides.
    ///
    /// # Errors
    /// [`ChainError::NotRegistered`], [`ChainError::KeyNotPublished`],
    /// [`ChainError::RevealTooEarly`], [`ChainError::KeyAlreadyRevealed`].
    fn reveal_epoch_key(
        &self,
        signer: Hotkey,
        epoch: Epoch,
        key: EpochKey,
        requests: RequestsDigest,
    ) -> impl Future<Output = Result<(), ChainError>> + Send;

    /// What a validator has published about its key of an epoch.
    ///
    /// # Errors
    /// A [`ChainError`] if the chain cannot be read.
    fn epoch_key(
        &self,
        validator: Hotkey,
        epoch: Epoch,
    ) -> impl Future<Output = Result<Option<EpochKeyRecord>, ChainError>> + Send;

    /// What the subnet asks of a weight vector.
    ///
    /// # Errors
    /// A [`ChainError`] if the chain cannot be read.
    fn weight_rules(&self) -> impl Future<Output = Result<WeightRules, ChainError>> + Send;

    /// Sets the signer's weights, in place of those it set before. Only proportions count.
    ///
    /// # Errors
    /// In the chain's own order: [`ChainError::TooManyWeights`], [`ChainError::NotRegistered`],
    /// [`ChainError::WrongVersionKey`], [`ChainError::WeightsTooFast`], [`ChainError::NoPermit`],
    /// [`ChainError::DuplicateUid`], [`ChainError::UnknownUid`], [`ChainError::TooFewWeights`].
    fn set_weights(
        &self,
        signer: Hotkey,
        weights: &[(Uid, u16)],
        version_key: u64,
    ) -> impl Future<Output = Result<(), ChainError>> + Send;
}
