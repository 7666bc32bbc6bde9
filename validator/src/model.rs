//! What a validator knows of a model.

use assay_audit::assets::{EmbeddingTable, ModelAssets};
use assay_audit::verdict::OwnFault;
use assay_commitments::ManifestId;
use assay_commitments::manifest::Manifest;
use thiserror::Error;

/// Files that do not belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ModelError {
    /// Tokenizer or chat template.
    #[error("the tokenizer or chat template is not the manifest's, or cannot be read ({0})")]
    Assets(OwnFault),
    /// The embedding digest table.
    #[error("the embedding digests are not the manifest's")]
    Embeddings,
}

/// A manifest and the files it names by digest: all that judging a session takes.
#[derive(Clone, Debug)]
pub struct VerifierModel {
    id: ManifestId,
    manifest: Manifest,
    assets: ModelAssets,
    embeddings: EmbeddingTable,
    tokenizer: Vec<u8>,
    chat_template: Option<Vec<u8>>,
}

impl VerifierModel {
    /// Checks every file against the manifest.
    ///
    /// # Errors
    /// [`ModelError`].
    pub fn new(
        manifest: Manifest,
        tokenizer: Vec<u8>,
        chat_template: Option<Vec<u8>>,
        embeddings: EmbeddingTable,
    ) -> Result<Self, ModelError> {
        let assets = ModelAssets::new(&manifest, &tokenizer, chat_template.as_deref()).map_err(ModelError::Assets)?;
        // The root binds the number of entries too, and the manifest's own was over its vocabulary.
        if embeddings.root() != manifest.embeddings {
            return Err(ModelError::Embeddings);
        }
        Ok(Self { id: manifest.id(), manifest, assets, embeddings, tokenizer, chat_template })
    }

    /// The manifest's id.
    pub const fn id(&self) -> ManifestId {
        self.id
    }

    /// The manifest.
    pub const fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Tokenizer and chat template, read.
    pub const fn assets(&self) -> &ModelAssets {
        &self.assets
    }

    /// Digests of all embedding rows.
    pub const fn embeddings(&self) -> &EmbeddingTable {
        &self.embeddings
    }

    /// The tokenizer file.
    pub fn tokenizer(&self) -> &[u8] {
        &self.tokenizer
    }

    /// The chat template, for models that have one.
    pub fn chat_template(&self) -> Option<&[u8]> {
        self.chat_template.as_deref()
    }
}
