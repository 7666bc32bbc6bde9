//! Why a chain refuses.

use assay_commitments::{Epoch, Hotkey, ManifestId};

use crate::types::{BlockNumber, Uid};

/// A refusal of the chain, in words that say what to do.
///
/// A refusal with a `next` block is a wait until then; all others are states to report, and trying
/// again will not change them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// The caller has no place on the subnet.
    #[error("hotkey {0} is not registered on this subnet; register it with its coldkey first")]
    NotRegistered(Hotkey),
    /// The caller has a place already.
    #[error("hotkey {0} is registered on this subnet already")]
    AlreadyRegistered(Hotkey),
    /// All places are taken.
    #[error("all {uids} uids of the subnet are taken")]
    SubnetFull {
        /// How many there are.
        uids: u16,
    },
    /// Nobody can be reached at port 0.
    #[error("an endpoint needs a port other than 0")]
    ZeroPort,
    /// The endpoint was published a moment ago.
    #[error("the endpoint can be published again at block {next}")]
    ServingTooFast {
        /// The first block at which it will be accepted.
        next: BlockNumber,
    },
    /// Only the owner says which manifests are in force.
    #[error("hotkey {0} is not the subnet owner's: only the owner publishes the manifest registry")]
    NotOwner(Hotkey),
    /// The registry does not fit into what the chain stores.
    #[error("{given} manifests do not fit into the registry, which holds {most}")]
    TooManyManifests {
        /// How many were given.
        given: usize,
        /// How many fit.
        most: usize,
    },
    /// A registry is a set.
    #[error("manifest {0} stands twice in the registry")]
    DuplicateManifest(ManifestId),
    /// More weights than there are neurons.
    #[error("{given} weights for a subnet of {uids} uids")]
    TooManyWeights {
        /// How many were given.
        given: usize,
        /// How many there are.
        uids: usize,
    },
    /// The subnet asks for a newer scoring rule.
    #[error("weights carry version key {given}, the subnet asks for {required}; update the validator")]
    WrongVersionKey {
        /// The key that was given.
        given: u64,
        /// The least the subnet takes.
        required: u64,
    },
    /// Weights were set a moment ago.
    #[error("weights can be set again at block {next}")]
    WeightsTooFast {
        /// The first block at which they will be accepted.
        next: BlockNumber,
    },
    /// The stake is too small to validate.
    #[error("hotkey {0} has no validator permit; permits go to the largest stakes, at the end of each epoch")]
    NoPermit(Hotkey),
    /// A weight vector gives each uid one value.
    #[error("uid {0} stands twice in the weights")]
    DuplicateUid(Uid),
    /// Nobody is there.
    #[error("uid {0} does not exist on this subnet")]
    UnknownUid(Uid),
    /// The subnet asks for more opinions.
    #[error("{given} weights, but this subnet asks for at least {least}; zeros count")]
    TooFewWeights {
        /// How many were given.
        given: usize,
        /// How many it takes.
        least: usize,
    },
    /// A key's hash is published for the running epoch or the next one.
    #[error("an epoch key for epoch {epoch} cannot be published in epoch {running}")]
    WrongKeyEpoch {
        /// The epoch that was given.
        epoch: Epoch,
        /// The running epoch.
        running: Epoch,
    },
    /// A published hash stands.
    #[error("another epoch key was published for epoch {0} already")]
    KeyAlreadyPublished(Epoch),
    /// There is no hash to compare a key with.
    #[error("no epoch key was published for epoch {0}")]
    KeyNotPublished(Epoch),
    /// A key revealed early gives away every nonce that is still to come.
    #[error("the key of epoch {epoch} must stay secret until that epoch is over; this is epoch {running}")]
    RevealTooEarly {
        /// The key's epoch.
        epoch: Epoch,
        /// The running epoch.
        running: Epoch,
    },
    /// A revealed key stands, and so does the digest of the requests.
    #[error("another key or list of requests was revealed for epoch {0} already")]
    KeyAlreadyRevealed(Epoch),
}
