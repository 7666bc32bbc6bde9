//! A model folder made ready to serve, commit and prove in this process.

use std::fmt::Display;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use assay_audit::assets::ModelAssets;
use assay_audit::model::{CommitError, CommittedModel, commit_in_memory};
use assay_audit::verdict::OwnFault;
use assay_commitments::codec;
use assay_commitments::manifest::Manifest;
use assay_commitments::params::CodeParams;
use assay_commitments::weights::LayerPolynomial;
use assay_llm_runtime::{Checkpoint, CheckpointError, Description, Engine, EngineLimits, Model, RunError};
use assay_miner::HonestBackend;
use thiserror::Error;

use crate::files::{MANIFEST_NAME, tree_path};
use crate::tree_file::{KnownTrees, Records};

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
    /// Reads a folder and commits its weights, as far as the manifest and tree file that `model commit`
    /// left in it do not spare that. `progress` is told of each polynomial done, out of all.
    ///
    /// # Errors
    /// [`LocalError`].
    pub fn load(folder: &Path, progress: &mut dyn FnMut(usize, usize)) -> Result<Self, LocalError> {
        let checkpoint = load(folder)?;
        let known = known_trees(&folder.join(MANIFEST_NAME));
        Self::make(checkpoint, known.as_ref(), progress)
    }

    /// Commits a model that was read or made.
    ///
    /// # Errors
    /// [`LocalError`].
    pub fn of(checkpoint: Checkpoint, progress: &mut dyn FnMut(usize, usize)) -> Result<Self, LocalError> {
        Self::make(checkpoint, None, progress)
    }

    fn make(
        checkpoint: Checkpoint,
        known: Option<&KnownTrees>,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Self, LocalError> {
        let committed = commit(&checkpoint, known, progress)?;
        let template = checkpoint.chat_template.as_ref().map(String::as_bytes);
        let assets =
            ModelAssets::new(&committed.manifest, &checkpoint.tokenizer, template).map_err(LocalError::Assets)?;
        let model = Model::new(&checkpoint.architecture, &checkpoint.tensors, checkpoint.profile)?;
        Ok(Self { model: Arc::new(model), committed: Arc::new(committed), assets: Arc::new(assets), checkpoint })
    }

    /// What an honest miner serves it with; clones of it share one engine.
    pub fn backend(&self) -> HonestBackend {
        HonestBackend {
            engine: Arc::new(Engine::start(Arc::clone(&self.model), EngineLimits::default())),
            committed: Arc::clone(&self.committed),
            assets: Arc::clone(&self.assets),
        }
    }
}

/// Reads a folder in the profile of the manifest that `model commit` left in it, or else in its natural one.
///
/// # Errors
/// As [`Checkpoint::load`].
pub(crate) fn load(folder: &Path) -> Result<Checkpoint, CheckpointError> {
    let description = Description::read(folder)?;
    let manifest = fs::read(folder.join(MANIFEST_NAME)).ok().and_then(|bytes| codec::decode::<Manifest>(&bytes).ok());
    // A manifest of other weights than those that are there now does not decide.
    let committed = manifest.and_then(|manifest| description.profile(Some(manifest.profile)).ok());
    Checkpoint::load(folder, committed.unwrap_or(description.natural_profile()))
}

/// Commits weights, with the trees that are known.
fn commit(
    checkpoint: &Checkpoint,
    known: Option<&KnownTrees>,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<CommittedModel, CommitError> {
    let tree = &mut |number, matrices: &[[u8; 32]], polynomial: &LayerPolynomial, code: &CodeParams| {
        let known = known.and_then(|known| known.tree(number, matrices, code));
        known.unwrap_or_else(|| commit_in_memory(polynomial, code))
    };
    CommittedModel::commit_with(
        &checkpoint.architecture,
        &checkpoint.tensors,
        checkpoint.profile,
        &checkpoint.tokenizer,
        checkpoint.chat_template.as_ref().map(String::as_bytes),
        tree,
        progress,
    )
}

/// The trees beside a manifest file. Without a usable pair there are none and everything is committed
/// again, which costs nothing but time.
fn known_trees(manifest_path: &Path) -> Option<KnownTrees> {
    let trees_path = tree_path(manifest_path);
    if !trees_path.exists() {
        return None;
    }
    let unused = |why: &dyn Display| tracing::warn!("{}: not used, {why}: commit again", trees_path.display());
    let records = Records::open(&trees_path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let records = records.inspect_err(|error| unused(error)).ok()?;
    let manifest = codec::decode(&fs::read(manifest_path).ok()?).ok()?;
    let known = KnownTrees::of_manifest(records, &manifest);
    if known.is_none() {
        unused(&"it belongs to another manifest");
    }
    known
}
