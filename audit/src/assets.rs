//! What a verifier knows of a model beside its manifest, each piece checked against it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use assay_commitments::TokenId;
use assay_commitments::codec::{Canonical, Malformed, Reader, Writer};
use assay_commitments::manifest::Manifest;
use assay_commitments::merkle::{MerkleTree, verify_indices};
use assay_commitments::trace::MAX_TOKENS;

use crate::num::{count, index};
use crate::prompt::{ChatTemplate, Tokenizer};
use crate::verdict::OwnFault;

/// Tokenizer and chat template of a model.
#[derive(Clone, Debug)]
pub struct ModelAssets {
    /// The tokenizer.
    pub tokenizer: Arc<Tokenizer>,
    /// The chat template, for models that have one.
    pub template: Option<ChatTemplate>,
}

impl ModelAssets {
    /// Reads the files that the manifest names by digest.
    ///
    /// # Errors
    /// [`OwnFault::AssetMissing`] if a file is not the one named, [`OwnFault::PromptUnusable`] if it
    /// cannot be read.
    pub fn new(manifest: &Manifest, tokenizer: &[u8], template: Option<&[u8]>) -> Result<Self, OwnFault> {
        let digest = |bytes: &[u8]| *blake3::hash(bytes).as_bytes();
        if digest(tokenizer) != manifest.tokenizer || template.map(digest) != manifest.chat_template {
            return Err(OwnFault::AssetMissing);
        }
        let unusable = |_| OwnFault::PromptUnusable;
        Ok(Self {
            tokenizer: Arc::new(Tokenizer::from_bytes(tokenizer).map_err(unusable)?),
            template: template.map(ChatTemplate::from_bytes).transpose().map_err(unusable)?,
        })
    }
}

/// Digests of all embedding rows as they enter layer 0, with the tree over them.
#[derive(Clone, Debug)]
pub struct EmbeddingTable {
    digests: Vec<[u8; 32]>,
    tree: MerkleTree,
}

impl EmbeddingTable {
    /// Builds the tree over a table, one digest a vocabulary entry.
    pub fn new(digests: Vec<[u8; 32]>) -> Self {
        let tree = MerkleTree::from_leaf_hashes(digests.clone());
        Self { digests, tree }
    }

    /// The root that a manifest carries.
    pub fn root(&self) -> [u8; 32] {
        self.tree.bound_root()
    }

    /// The digests, by token.
    pub fn digests(&self) -> &[[u8; 32]] {
        &self.digests
    }

    /// The digests of `tokens` with what leads from them to the root. Tokens outside the vocabulary
    /// are left out.
    pub fn open(&self, tokens: impl IntoIterator<Item = TokenId>) -> EmbeddingDigests {
        let known: BTreeSet<TokenId> =
            tokens.into_iter().filter(|token| index(token.get()) < self.digests.len()).collect();
        let indices: Vec<usize> = known.iter().map(|token| index(token.get())).collect();
        let hashes = self.tree.open_indices(&indices);
        let digest = |token: TokenId| self.digests.get(index(token.get())).map(|digest| (token, *digest));
        EmbeddingDigests { digests: known.into_iter().filter_map(digest).collect(), hashes, root: Some(self.root()) }
    }
}

/// The digests of some embedding rows, opened against a manifest's root.
///
/// Digests taken from a table are known to be its own; digests that were read are known to be
/// anybody's only once they have been [verified](Self::verify). A judgement asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmbeddingDigests {
    digests: BTreeMap<TokenId, [u8; 32]>,
    hashes: Vec<[u8; 32]>,
    /// The root that the digests were checked against.
    root: Option<[u8; 32]>,
}

impl EmbeddingDigests {
    /// Checks the digests against the manifest's root, and remembers that they are under it. A set
    /// without digests is under every root, as long as it carries no hashes either: a session may have
    /// ended before any token was known.
    ///
    /// # Errors
    /// [`OwnFault::WrongManifest`] if they are not.
    pub fn verify(&mut self, manifest: &Manifest) -> Result<(), OwnFault> {
        self.root = self.leads_to_root(manifest).then_some(manifest.embeddings);
        if self.is_of(manifest) { Ok(()) } else { Err(OwnFault::WrongManifest) }
    }

    /// Whether the digests are known to be the manifest's.
    pub fn is_of(&self, manifest: &Manifest) -> bool {
        self.root == Some(manifest.embeddings)
    }

    fn leads_to_root(&self, manifest: &Manifest) -> bool {
        if self.digests.is_empty() {
            return self.hashes.is_empty();
        }
        let leaves: Vec<(usize, [u8; 32])> =
            self.digests.iter().map(|(token, digest)| (index(token.get()), *digest)).collect();
        let vocabulary = index(manifest.architecture.vocab_size);
        verify_indices(&manifest.embeddings, vocabulary, &leaves, &self.hashes).is_ok()
    }

    /// The digest of a token's row.
    pub fn get(&self, token: TokenId) -> Option<&[u8; 32]> {
        self.digests.get(&token)
    }
}

impl Canonical for EmbeddingDigests {
    fn write(&self, out: &mut Writer) {
        out.u32(count(self.digests.len()));
        for (token, digest) in &self.digests {
            out.u32(token.get());
            out.raw(digest);
        }
        out.list(&self.hashes);
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        let entries = from.length(MAX_TOKENS)?;
        let mut last = None;
        let digests = from.each(0..entries, |from, _| {
            let token = TokenId::new(from.u32()?);
            if last.is_some_and(|last| last >= token) {
                return Err(Malformed::NotCanonical);
            }
            last = Some(token);
            Ok((token, from.array()?))
        })?;
        Ok(Self { digests, hashes: from.list(MAX_TOKENS)?, root: None })
    }
}
