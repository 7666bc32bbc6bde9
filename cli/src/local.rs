//! A model folder made ready to serve, commit and prove in this process.

use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;

use assay_audit::assets::ModelAssets;
use assay_audit::commit::Surroundings;
use assay_audit::model::{CommitError, CommittedModel, commit_in_memory};
use assay_audit::verdict::OwnFault;
use assay_commitments::manifest::Manifest;
use assay_commitments::params::CodeParams;
use assay_commitments::rows::Profile;
use assay_commitments::weights::LayerPolynomial;
use assay_llm_runtime::{Checkpoint, CheckpointError, Description, Engine, EngineLimits, Model, ModelFolder, RunError};
use assay_miner::HonestBackend;
use thiserror::Error;

use crate::files::{MANIFEST_NAME, committed_manifest, tree_path};
use crate::outcome::Fault;
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
    /// The manifest that `model commit` left in the folder cannot be read.
    #[error(transparent)]
    Manifest(Fault),
    /// Tokenizer or chat template cannot be used.
    #[error("the model's tokenizer or chat template cannot be used: {0}")]
    Assets(OwnFault),
}

/// A model with its commitment and its files.
#[derive(Debug)]
pub struct LocalModel {
    /// The bytes of `tokenizer.json`.
    pub tokenizer: Vec<u8>,
    /// The chat template.
    pub chat_template: Option<String>,
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
        let manifest = committed_manifest(folder).map_err(LocalError::Manifest)?;
        let profile = profile(&Description::read(folder)?, manifest.as_ref());
        let opened = ModelFolder::open(folder, profile)?;
        let known = manifest.and_then(|manifest| known_trees(&folder.join(MANIFEST_NAME), &manifest));
        let surroundings = Surroundings {
            profile,
            tokenizer: &opened.tokenizer,
            chat_template: opened.chat_template.as_ref().map(String::as_bytes),
        };
        let tree = &mut |number, matrices: &[[u8; 32]], polynomial: &LayerPolynomial, code: &CodeParams| {
            let known = known.as_ref().and_then(|known| known.tree(number, matrices, code));
            known.unwrap_or_else(|| commit_in_memory(polynomial, code))
        };
        let committed = CommittedModel::read(&opened.weights, surroundings, tree, progress)?;
        let model = Model::load(&opened.weights, profile)?;
        opened.check_unchanged()?;
        let ModelFolder { tokenizer, chat_template, .. } = opened;
        Self::make(tokenizer, chat_template, model, committed)
    }

    /// Commits a model that was made.
    ///
    /// # Errors
    /// [`LocalError`].
    pub fn of(checkpoint: &Checkpoint, progress: &mut dyn FnMut(usize, usize)) -> Result<Self, LocalError> {
        let Checkpoint { architecture, tensors, profile, tokenizer, chat_template } = checkpoint;
        let template = chat_template.as_ref().map(String::as_bytes);
        let surroundings = Surroundings { profile: *profile, tokenizer, chat_template: template };
        let committed = CommittedModel::commit(architecture, tensors, surroundings, progress)?;
        let model = Model::new(architecture, tensors, *profile)?;
        Self::make(tokenizer.clone(), chat_template.clone(), model, committed)
    }

    fn make(
        tokenizer: Vec<u8>,
        chat_template: Option<String>,
        model: Model,
        committed: CommittedModel,
    ) -> Result<Self, LocalError> {
        let template = chat_template.as_ref().map(String::as_bytes);
        let assets = ModelAssets::new(&committed.manifest, &tokenizer, template).map_err(LocalError::Assets)?;
        let (model, committed, assets) = (Arc::new(model), Arc::new(committed), Arc::new(assets));
        Ok(Self { tokenizer, chat_template, model, committed, assets })
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

/// The profile that a folder is served in.
///
/// # Errors
/// A folder that is no model, or whose manifest is damaged.
pub(crate) fn profile_of(folder: &Path) -> Result<Profile, LocalError> {
    let description = Description::read(folder)?;
    let manifest = committed_manifest(folder).map_err(LocalError::Manifest)?;
    Ok(profile(&description, manifest.as_ref()))
}

/// The profile of the manifest that `model commit` left in a folder, or else the folder's natural one.
fn profile(description: &Description, manifest: Option<&Manifest>) -> Profile {
    // A manifest of other weights than those that are there now does not decide.
    let committed = manifest.and_then(|manifest| description.profile(Some(manifest.profile)).ok());
    committed.unwrap_or(description.natural_profile())
}

/// The trees beside a manifest file. Without usable ones everything is committed again, which costs nothing but time.
fn known_trees(manifest_path: &Path, manifest: &Manifest) -> Option<KnownTrees> {
    let trees_path = tree_path(manifest_path);
    if !trees_path.exists() {
        return None;
    }
    let unused = |why: &dyn Display| tracing::warn!("{}: not used, {why}: commit again", trees_path.display());
    let records = Records::open(&trees_path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let records = records.inspect_err(|error| unused(error)).ok()?;
    let known = KnownTrees::of_manifest(records, manifest);
    if known.is_none() {
        unused(&"it belongs to another manifest");
    }
    known
}
