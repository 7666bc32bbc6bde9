//! What stands behind the service: the model that answers, and the prover.

use std::ops::ControlFlow;

use assay_audit::challenge::Nonce;
use assay_audit::request::Request;
use assay_commitments::TokenId;
use assay_commitments::trace::{FinishReason, Trace, TraceCommitment, TraceRows};
use thiserror::Error;

/// An answer, and all that is needed to commit to it and to prove it.
#[derive(Clone, Debug)]
pub struct Served {
    /// The prompt as tokens.
    pub prompt: Vec<TokenId>,
    /// The answer as tokens; a stop token is part of it.
    pub output: Vec<TokenId>,
    /// Why the answer ended.
    pub finish: FinishReason,
    /// The rows of the prompt and of every output token that was fed back.
    pub trace: Trace,
}

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum ServeError {
    /// The caller broke it off.
    #[error("the request was cancelled")]
    Cancelled,
    /// Too many wait already.
    #[error("too many requests wait")]
    Busy,
    /// The request cannot be answered by this model.
    #[error("the request cannot be served: {0}")]
    Unserved(String),
    /// The runtime failed.
    #[error("the model failed: {0}")]
    Failed(String),
}

/// Why there is no proof.
#[derive(Debug, Error)]
#[error("the proof failed: {0}")]
pub struct ProveError(pub String);

/// A model that answers and proves. The calls block and may run side by side.
///
/// The service in front has checked who asks and that the request is within the miner's limits. It
/// asks for at most one commitment and one proof a session.
pub trait Backend: Send + Sync + 'static {
    /// Answers a request; `on_token` is told of each token as soon as it is picked, and may end the
    /// work.
    ///
    /// # Errors
    /// [`ServeError`]. Before the first token it costs nothing but availability.
    fn serve(
        &self,
        request: &Request,
        on_token: &mut dyn FnMut(TokenId) -> ControlFlow<()>,
    ) -> Result<Served, ServeError>;

    /// Commits to an answer.
    fn commit(&self, request: &Request, served: &Served) -> TraceCommitment {
        honest_commitment(request, served)
    }

    /// Proves what the nonce draws; everything when there is none. `trace` is that of the answer, wherever
    /// it was kept since.
    ///
    /// # Errors
    /// [`ProveError`]: the miner then has nothing to show, which is a failure of its own.
    fn prove(
        &self,
        request: &Request,
        commitment: &TraceCommitment,
        trace: &dyn TraceRows,
        nonce: Option<&Nonce>,
    ) -> Result<Vec<u8>, ProveError>;
}

/// The commitment that an answer calls for.
pub fn honest_commitment(request: &Request, served: &Served) -> TraceCommitment {
    let session = request.session_id();
    let positions = served.prompt.len() + served.output.len().saturating_sub(1);
    TraceCommitment {
        session,
        manifest: request.manifest,
        miner: request.miner,
        validator: request.validator,
        prompt: served.prompt.clone(),
        output: served.output.clone(),
        finish: served.finish,
        roots: served.trace.commit(&session, positions).roots(),
    }
}
