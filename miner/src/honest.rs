//! The backend of an honest miner.

use std::ops::ControlFlow;
use std::sync::Arc;

use assay_audit::assets::ModelAssets;
use assay_audit::challenge::Nonce;
use assay_audit::model::CommittedModel;
use assay_audit::prompt::prompt_tokens;
use assay_audit::request::Request;
use assay_commitments::TokenId;
use assay_commitments::trace::{TraceCommitment, TraceRows};
use assay_llm_runtime::{Engine, Event, Job, RunError, SubmitError};

use crate::backend::{Backend, ProveError, ServeError, Served};

/// Runs the committed model as its manifest says. Miners in one process may share all three parts.
#[derive(Clone, Debug)]
pub struct HonestBackend {
    /// Serves the model.
    pub engine: Arc<Engine>,
    /// The model's commitment.
    pub committed: Arc<CommittedModel>,
    /// Its tokenizer and chat template.
    pub assets: Arc<ModelAssets>,
}

impl Backend for HonestBackend {
    fn serve(
        &self,
        request: &Request,
        on_token: &mut dyn FnMut(TokenId) -> ControlFlow<()>,
    ) -> Result<Served, ServeError> {
        let prompt = prompt_tokens(&request.prompt, &self.assets.tokenizer, self.assets.template.as_ref())
            .map_err(|error| ServeError::Unserved(error.to_string()))?;
        let job = Job {
            owner: *request.validator.as_bytes(),
            prompt: prompt.clone(),
            sampling: request.sampling,
            tokenizer: Arc::clone(&self.assets.tokenizer),
            stop: request.stop.clone(),
            max_tokens: request.max_tokens,
            capture: true,
        };
        let answer = self.engine.submit(job).map_err(|error| match error {
            SubmitError::Busy => ServeError::Busy,
            SubmitError::Refused(error) => failure(&error),
        })?;
        for event in answer {
            match event {
                Event::Token(token) if on_token(token).is_break() => break,
                Event::Token(_) => {}
                Event::End(end) => {
                    let completion = end.map_err(|error| failure(&error))?;
                    let trace = completion.trace.ok_or_else(|| ServeError::Failed("no trace was kept".to_owned()))?;
                    return Ok(Served { prompt, output: completion.output, finish: completion.finish, trace });
                }
            }
        }
        Err(ServeError::Cancelled)
    }

    fn prove(
        &self,
        request: &Request,
        commitment: &TraceCommitment,
        trace: &dyn TraceRows,
        nonce: Option<&Nonce>,
    ) -> Result<Vec<u8>, ProveError> {
        assay_audit::prove::prove(&self.committed, request, commitment, trace, nonce)
            .map_err(|error| ProveError(error.to_string()))
    }
}

/// Whose fault it is that there is no answer.
fn failure(error: &RunError) -> ServeError {
    match error {
        RunError::EmptyPrompt
        | RunError::UnknownToken { .. }
        | RunError::ContextFull { .. }
        | RunError::CacheTooSmall { .. }
        | RunError::Sampling => ServeError::Unserved(error.to_string()),
        RunError::Architecture(_)
        | RunError::Weights(_)
        | RunError::NotFinite { .. }
        | RunError::Tensor(_)
        | RunError::BrokenOff
        | RunError::Stopped => ServeError::Failed(error.to_string()),
    }
}
