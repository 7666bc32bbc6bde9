//! A model folder made ready to serve, commit and prove in this process.

use std::path::Path;
use std::sync::Arc;

use assay_audit::assets::ModelAssets;
use assay_audit::model::{CommitError, CommittedModel};
use assay_audit::verdict::OwnFault;
use assay_commitments::rows::Profile;
use assay_llm_runtime::{Checkpoint, CheckpointError, Model, Numerics, RunError};
use assay_miner::HonestBackend;
use thiserror::Error;

/// Why a model folder cannot be made ready.
#[derive(Debug, Error)]
pub enum LocalError {
    /// The folder is no model.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The weights cannot be committed.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// The weights cannot be run.
    #[error(transparent)]
    Run(#[from] RunError),
    /// Tokenizer or chat template cannot be used.
    #[error("the model's tokenizer or chat template cannot be used: {0}")]
    Assets(OwnFault),
}

/// A model with its commitment and its files.
#[derive(Debug)]
pub struct LocalModel {
    /// As it was read.
    pub checkpoint: Checkpoint,
    /// As it runs.
    pub model: Arc<Model>,
    /// As it is committed.
    pub committed: Arc<CommittedModel>,
    /// Its tokenizer and chat template.
    pub assets: Arc<ModelAssets>,
}

impl LocalModel {
    /// Reads a folder and commits its weights. `progress` is told of each polynomial done, out of all.
    ///
    /// # Errors
    /// [`LocalError`].
    pub fn load(folder: &Path, progress: &mut dyn FnMut(usize, usize)) -> Result<Self, LocalError> {
        Self::of(Checkpoint::load(folder, Numerics::Bf16V1)?, progress)
    }

    /// Commits a model that was read or made.
    ///
    /// # Errors
    /// [`LocalError`].
    pub fn of(checkpoint: Checkpoint, progress: &mut dyn FnMut(usize, usize)) -> Result<Self, LocalError> {
        let template = checkpoint.chat_template.as_ref().map(String::as_bytes);
        let committed = CommittedModel::commit(
            &checkpoint.architecture,
            &checkpoint.tensors,
            Profile::Bf16V1,
            &checkpoint.tokenizer,
            template,
            progress,
        )?;
        let assets =
            ModelAssets::new(&committed.manifest, &checkpoint.tokenizer, template).map_err(LocalError::Assets)?;
        let model = Model::new(&checkpoint.architecture, &checkpoint.tensors, Numerics::Bf16V1)?;
        Ok(Self { model: Arc::new(model), committed: Arc::new(committed), assets: Arc::new(assets), checkpoint })
    }

    /// What an honest miner serves it with.
    pub fn backend(&self) -> HonestBackend {
        HonestBackend {
            model: Arc::clone(&self.model),
            committed: Arc::clone(&self.committed),
            assets: Arc::clone(&self.assets),
        }
    }
}
