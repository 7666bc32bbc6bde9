//! What can go wrong while a model runs.

use assay_commitments::TokenId;
use assay_commitments::manifest::ArchitectureError;
use thiserror::Error;

/// Why a model could not be made, or a session could not go on.
#[derive(Debug, Error)]
pub enum RunError {
    /// A number of the architecture is out of range.
    #[error(transparent)]
    Architecture(#[from] ArchitectureError),
    /// The weights cannot be read, or are not those of the architecture.
    #[error("{0}")]
    Weights(String),
    /// Nothing was fed to the model.
    #[error("the prompt is empty: send at least one token")]
    EmptyPrompt,
    /// A token that the model does not know.
    #[error("token {token} is not in the vocabulary of {vocabulary} tokens")]
    UnknownToken {
        /// The token.
        token: TokenId,
        /// Size of the vocabulary.
        vocabulary: u32,
    },
    /// More positions than the model was made for.
    #[error("{positions} positions are asked of a model with a context of {limit}: shorten the prompt")]
    ContextFull {
        /// Positions that the session would have.
        positions: usize,
        /// Most positions of a session.
        limit: u32,
    },
    /// More positions than the cache has room for, even with nobody else in it.
    #[error(
        "{positions} positions do not fit the key and value cache, which has room for {limit}: shorten the prompt or \
        ask for fewer tokens"
    )]
    CacheTooSmall {
        /// Positions that the request may come to have.
        positions: usize,
        /// Most positions that fit.
        limit: usize,
    },
    /// Temperature or mass out of range.
    #[error("the sampling parameters are out of range: temperature 0 or 0.001 to 100, top-p above 0 and at most 1")]
    Sampling,
    /// A computed value is infinite or no number.
    #[error("{place} overflowed to infinity or NaN: these weights cannot be served in this precision")]
    NotFinite {
        /// What was computed.
        place: String,
    },
    /// The tensor library failed.
    #[error("the tensor library failed: {0}")]
    Tensor(#[from] candle_core::Error),
    /// The code that served the request broke off.
    #[error("the computation broke off, which is a fault of the runtime")]
    BrokenOff,
    /// The engine was stopped before the answer was complete.
    #[error("the engine has stopped")]
    Stopped,
}
