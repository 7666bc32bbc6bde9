//! The chain as validators and miners see it, and a devnet that lives in the process.
//!
//! Everything above speaks to [`Chain`] and never to a particular chain. The trait is what Assay
//! needs of a Bittensor subnet: who is registered where, which manifests are in force, where the
//! epoch stands, a place to publish the hash of an epoch key and later the key, and weights. Its
//! errors are those of the real subnet, so that code written against the devnet meets the same
//! refusals.
//!
//! [`Devnet`] is the embedded chain: deterministic, in integers, with time that moves only when
//! told to. Its epochs turn weights into emission by the chain's own Yuma consensus with bonds;
//! `docs/chain.md` says what it follows and where it differs.
#![forbid(unsafe_code)]

mod api;
mod devnet;
mod error;
mod history;
mod metagraph;
mod node;
pub mod record;
mod subtensor;
mod types;
pub mod weights;

pub use api::{Chain, Hyperparameters, MANIFESTS_MAX, Placement, StoredWeights, WeightsForm};
pub use devnet::{Devnet, EpochReport, FileError, Genesis, GenesisError, NeuronReport, Parameters};
pub use error::ChainError;
pub use history::{History, Term};
pub use metagraph::{Metagraph, Neuron};
pub use node::{Fate, Node, NodeError, NodeOptions, RunningNode, Runtime};
pub use subtensor::{Connection, Subtensor, networks, ss58};
pub use types::{
    BlockNumber, Coldkey, EpochKey, EpochKeyHash, EpochKeyRecord, GenesisHash, Head, NetUid, Network, Rao,
    RequestsDigest, Uid,
};
