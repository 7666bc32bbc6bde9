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
use assay_llm_runtime::{Generate, Model, RunError, generate};

use crate::backend::{Backend, ProveError, ServeError, Served};

/// Runs the committed model as its manifest says. Miners in one process may share all three parts.
#[derive(Clone, Debug)]
pub struct HonestBackend {
    /// The model as it runs.
    pub model: Arc<Model>,
    /// The same model's commitment.
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
        let plan = Generate {
            prompt: &prompt,
            sampling: request.sampling,
            tokenizer: &self.assets.tokenizer,
            stop: &request.stop,
            max_tokens: request.max_tokens,
            capture: true,
        };
        let generation = generate(&self.model, &plan, on_token).map_err(|error| match error {
            RunError::EmptyPrompt
            | RunError::UnknownToken { .. }
            | RunError::ContextFull { .. }
            | RunError::Sampling => ServeError::Unserved(error.to_string()),
            RunError::Architecture(_)
            | RunError::Size { .. }
            | RunError::Layers { .. }
            | RunError::NotFinite { .. }
            | RunError::Tensor(_) => ServeError::Failed(error.to_string()),
        })?;
        let finish = generation.finish.ok_or(ServeError::Cancelled)?;
        let trace = generation.trace.ok_or_else(|| ServeError::Failed("no trace was kept".to_owned()))?;
        Ok(Served { prompt, output: generation.output, finish, trace })
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
