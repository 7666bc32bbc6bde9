//! Why a miner does not start.

use std::net::SocketAddr;

use assay_audit::verdict::OwnFault;
use assay_llm_runtime::retention::FolderError;
use thiserror::Error;

/// Why a miner does not start.
#[derive(Debug, Error)]
pub enum MinerError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}; choose another address or stop what holds it")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
    /// The tokenizer or the chat template is not the manifest's.
    #[error("the model's files do not fit its manifest ({0}): commit the folder again or take the right one")]
    Assets(OwnFault),
    /// The embedding digests are not the manifest's.
    #[error("the embedding digests do not fit the manifest: commit the folder again or take the right one")]
    Embeddings,
    /// A limit under which nothing could be served.
    #[error("the limit `{0}` is 0: nothing could be served; set it to at least 1")]
    Limit(&'static str),
    /// The folder for traces cannot be written to.
    #[error(transparent)]
    SpillFolder(#[from] FolderError),
    /// The reflection service refuses its descriptors: a build that went wrong.
    #[error("the service descriptors cannot be read: {0}; build again")]
    Reflection(#[from] tonic_reflection::server::Error),
}
