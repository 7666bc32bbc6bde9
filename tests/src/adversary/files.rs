//! A model's files, as a miner shows them to a validator that does not know the model yet.

use std::fmt;
use std::sync::Arc;

use assay_cli::local::LocalModel;
use assay_commitments::codec;
use assay_proto::chunks;
use assay_proto::v1::{AssetChunk, AssetKind, InfoReply};

use crate::adversary::seat::Act;

/// What is done on a stream, however long it goes on.
pub type Acts<T> = Box<dyn Iterator<Item = Act<T>> + Send>;

type Changed<T> = Box<dyn Fn(Vec<u8>) -> Acts<T> + Send + Sync>;

/// The manifest and the files of a model: the right ones, but for those that are changed.
pub struct Files {
    local: Arc<LocalModel>,
    manifest: Changed<InfoReply>,
    /// At most one.
    asset: Option<(AssetKind, Changed<AssetChunk>)>,
}

impl fmt::Debug for Files {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Files").field("manifest", &self.local.committed.manifest.id()).finish_non_exhaustive()
    }
}

impl Files {
    /// Those of a model.
    pub fn of(local: &Arc<LocalModel>) -> Self {
        let id = local.committed.manifest.id();
        let reply = move |manifest| InfoReply { manifest_id: id.as_bytes().to_vec(), manifest };
        let manifest = Box::new(move |manifest| said(vec![reply(manifest)]));
        Self { local: Arc::clone(local), manifest, asset: None }
    }

    /// Does something else when it is asked for the manifest, whose bytes `changed` gets.
    #[must_use]
    pub fn manifest(mut self, changed: impl Fn(Vec<u8>) -> Acts<InfoReply> + Send + Sync + 'static) -> Self {
        self.manifest = Box::new(changed);
        self
    }

    /// Does something else when it is asked for a file, whose bytes `changed` gets.
    #[must_use]
    pub fn asset(
        mut self,
        kind: AssetKind,
        changed: impl Fn(Vec<u8>) -> Acts<AssetChunk> + Send + Sync + 'static,
    ) -> Self {
        self.asset = Some((kind, Box::new(changed)));
        self
    }

    pub(super) fn reply(&self) -> Acts<InfoReply> {
        (self.manifest)(codec::encode(&self.local.committed.manifest))
    }

    pub(super) fn pieces(&self, kind: AssetKind) -> Acts<AssetChunk> {
        let LocalModel { tokenizer, chat_template, committed, .. } = self.local.as_ref();
        let bytes = match kind {
            AssetKind::Unspecified => vec![],
            AssetKind::Tokenizer => tokenizer.clone(),
            AssetKind::ChatTemplate => chat_template.clone().unwrap_or_default().into_bytes(),
            AssetKind::EmbeddingDigests => committed.embeddings.digests().concat(),
        };
        match &self.asset {
            Some((changed, acts)) if *changed == kind => acts(bytes),
            _ => in_pieces(&bytes),
        }
    }
}

/// Says these messages.
pub fn said<T: Send + 'static>(messages: Vec<T>) -> Acts<T> {
    Box::new(messages.into_iter().map(Act::Say))
}

/// Sends a file as an honest miner does.
pub fn in_pieces(bytes: &[u8]) -> Acts<AssetChunk> {
    said(chunks::asset_chunks(bytes).collect())
}
