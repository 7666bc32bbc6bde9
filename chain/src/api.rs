//! The trait.

use std::net::SocketAddr;
use std::ops::RangeInclusive;

use assay_commitments::{Epoch, Hotkey, ManifestId};
use serde::{Deserialize, Serialize};

use crate::{
    error::ChainError,
    history::History,
    metagraph::Metagraph,
    types::{BlockNumber, EpochKey, EpochKeyHash, EpochKeyRecord, Head, Network, Rao, RequestsDigest, Uid},
};

/// How many manifests a registry holds: a commitment on chain has three fields of at most 128
/// bytes, a field with a tag byte takes three ids of 32, and one field is left for the owner's own
/// epoch key.
pub const MANIFESTS_MAX: usize = 6;

/// The settings of a subnet that decide which weights it takes and when, under the chain's own
/// names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hyperparameters {
    /// Blocks in an epoch.
    pub tempo: u16,
    /// Blocks between two settings of weights by one validator.
    pub weights_rate_limit: u64,
    /// The least version key that weights may carry; 0 takes any.
    pub weights_version_key: u64,
    /// The least number of weights, or all uids where there are fewer.
    pub min_allowed_weights: u16,
    /// The largest share of one weight, of 65535; 65535 is no limit.
    pub max_weight_limit: u16,
    /// In which form weights are taken.
    pub weights_form: WeightsForm,
    /// Blocks for which a new neuron is not replaced.
    pub immunity_period: u16,
    /// Blocks without new weights after which a validator's stake does not count.
    pub activity_cutoff: u64,
    /// Blocks between two publications of one endpoint.
    pub serving_rate_limit: u64,
    /// The least stake that counts.
    pub stake_threshold: Rao,
    /// What a registration costs now.
    pub burn: Rao,
    /// How many places there are.
    pub max_allowed_uids: u16,
    /// How many neurons may hold a validator permit.
    pub max_allowed_validators: u16,
}

/// In which form a subnet takes weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum WeightsForm {
    /// For everybody to see at once.
    Plain,
    /// A hash first, the weights in the epoch that is `period` epochs later.
    CommitReveal {
        /// Epochs from commit to reveal.
        period: u64,
    },
    /// Encrypted to a round of the drand beacon; the chain opens them `period` epochs later.
    Timelocked {
        /// Epochs from commit to reveal.
        period: u64,
        /// The form's version, which a commit has to name.
        version: u16,
    },
}

/// What setting weights came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// They count from this block on.
    Set {
        /// The block they stand in.
        block: BlockNumber,
    },
    /// They are committed, and count once they are revealed.
    Committed {
        /// The block the commit stands in.
        block: BlockNumber,
        /// The epoch in which they are revealed.
        reveals: Epoch,
    },
    /// The same weights were set in this epoch already, so nothing was submitted.
    Standing {
        /// The block they were set, or committed, in.
        block: BlockNumber,
    },
}

/// The weights of one hotkey, as the chain has them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredWeights {
    /// What counts now, rescaled so that the largest is 65535; zeros are left out.
    pub weights: Vec<(Uid, u16)>,
    /// Commits that are not revealed yet: the block of each, and the epoch in which it is revealed.
    pub pending: Vec<(BlockNumber, Epoch)>,
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

    /// Asks the chain whether it is there. What was read before does not answer for it.
    ///
    /// # Errors
    /// A [`ChainError`] if it does not answer, which may take as long as a connection takes to be given up.
    fn reach(&self) -> impl Future<Output = Result<(), ChainError>> + Send;

    /// Where the chain stands, as of its newest final block: nothing said here is taken back.
    ///
    /// # Errors
    /// A [`ChainError`] if the chain cannot be read.
    fn head(&self) -> impl Future<Output = Result<Head, ChainError>> + Send;

    /// Waits for a final block behind `block`, and says where the chain stands then.
    ///
    /// # Errors
    /// A [`ChainError`] if the chain cannot be read.
    fn head_after(&self, block: BlockNumber) -> impl Future<Output = Result<Head, ChainError>> + Send;

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

    /// The subnet's settings.
    ///
    /// # Errors
    /// A [`ChainError`] if the chain cannot be read.
    fn hyperparameters(&self) -> impl Future<Output = Result<Hyperparameters, ChainError>> + Send;

    /// The weights that a hotkey has on chain.
    ///
    /// # Errors
    /// [`ChainError::NotRegistered`].
    fn weights_of(&self, hotkey: Hotkey) -> impl Future<Output = Result<StoredWeights, ChainError>> + Send;

    /// Sets the signer's weights in the form that the subnet takes, in place of those it set before.
    /// Only proportions count. What was set is read back and compared; a call whose answer was lost
    /// may be repeated, and weights that stand already are not set again.
    ///
    /// # Errors
    /// In the chain's own order: [`ChainError::TooManyWeights`], [`ChainError::NotRegistered`],
    /// [`ChainError::StakeTooLow`], [`ChainError::WrongVersionKey`], [`ChainError::WeightsTooFast`],
    /// [`ChainError::NoPermit`], [`ChainError::DuplicateUid`], [`ChainError::UnknownUid`],
    /// [`ChainError::TooFewWeights`], [`ChainError::WeightTooLarge`].
    fn set_weights(
        &self,
        signer: Hotkey,
        weights: &[(Uid, u16)],
        version_key: u64,
    ) -> impl Future<Output = Result<Placement, ChainError>> + Send;

    /// Reveals what the signer has committed and what is due now; where the chain reveals by itself,
    /// nothing. How many commits were revealed. To be called in every epoch: a commit that is not
    /// revealed in its epoch is lost.
    ///
    /// # Errors
    /// A [`ChainError`] if the chain cannot be read or refuses.
    fn reveal_weights(&self, signer: Hotkey) -> impl Future<Output = Result<usize, ChainError>> + Send;

    /// What stood on the chain in some epochs, as far as audits depend on it: manifests in force,
    /// and of the hotkeys named, when they were registered and what they published of their keys.
    ///
    /// # Errors
    /// A [`ChainError`] if the chain cannot be read, or no longer remembers.
    fn history(
        &self,
        epochs: RangeInclusive<Epoch>,
        hotkeys: &[Hotkey],
    ) -> impl Future<Output = Result<History, ChainError>> + Send;
}
