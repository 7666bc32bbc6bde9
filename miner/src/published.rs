//! The model as it is shown to validators.

use std::sync::Arc;

use assay_audit::assets::ModelAssets;
use assay_audit::model::CommittedModel;
use assay_commitments::ManifestId;
use assay_commitments::codec;
use assay_commitments::manifest::Manifest;
use assay_proto::v1::AssetKind;

use crate::error::MinerError;

/// Manifest, tokenizer, chat template and embedding digests: what a validator fetches to check a
/// model's answers. Miners of one model in one process share it.
#[derive(Clone, Debug)]
pub struct Published {
    manifest: Arc<Manifest>,
    id: ManifestId,
    manifest_bytes: Arc<[u8]>,
    assets: Arc<ModelAssets>,
    tokenizer: Arc<[u8]>,
    chat_template: Arc<[u8]>,
    embeddings: Arc<[u8]>,
}

impl Published {
    /// Takes a committed model and its files.
    ///
    /// # Errors
    /// [`MinerError::Assets`] or [`MinerError::Embeddings`] for files that are not the manifest's:
    /// no validator could use them.
    pub fn new(committed: &CommittedModel, tokenizer: &[u8], chat_template: Option<&[u8]>) -> Result<Self, MinerError> {
        let manifest = committed.manifest.clone();
        let assets = ModelAssets::new(&manifest, tokenizer, chat_template).map_err(MinerError::Assets)?;
        if committed.embeddings.root() != manifest.embeddings {
            return Err(MinerError::Embeddings);
        }
        Ok(Self {
            id: manifest.id(),
            manifest_bytes: codec::encode(&manifest).into(),
            manifest: Arc::new(manifest),
            assets: Arc::new(assets),
            tokenizer: tokenizer.into(),
            chat_template: chat_template.unwrap_or_default().into(),
            embeddings: committed.embeddings.digests().concat().into(),
        })
    }

    /// The manifest.
    pub fn manifest(&self) -> &Arc<Manifest> {
        &self.manifest
    }

    /// The manifest's id.
    pub const fn id(&self) -> ManifestId {
        self.id
    }

    /// The tokenizer and chat template, read.
    pub fn assets(&self) -> &Arc<ModelAssets> {
        &self.assets
    }

    pub(crate) fn manifest_bytes(&self) -> &[u8] {
        &self.manifest_bytes
    }

    /// The bytes of an asset; `None` for a kind that there is not.
    pub(crate) fn asset(&self, kind: AssetKind) -> Option<Arc<[u8]>> {
        match kind {
            AssetKind::Unspecified => None,
            AssetKind::Tokenizer => Some(self.tokenizer.clone()),
            AssetKind::ChatTemplate => Some(self.chat_template.clone()),
            AssetKind::EmbeddingDigests => Some(self.embeddings.clone()),
        }
    }
}
