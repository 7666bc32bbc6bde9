//! The file beside a manifest that spares committing again: the leaves of every weight tree.
//!
//! A leaf is the hash of a column of a codeword; making them is nearly all of the work of committing.
//! The file also holds a digest of every matrix as it was committed. A tree is taken from it only for
//! matrices of the same digests, and only if its root is the manifest's, so that neither weights that
//! changed since nor a file of another model give a wrong tree. Whoever can write the file can write the
//! weights too: it is as trusted as they are, and nobody but its owner uses it.

use assay_audit::model::{CommittedModel, CommittedPolynomial};
use assay_commitments::ManifestId;
use assay_commitments::codec::{Canonical, Malformed, Reader, Writer, decode, encode};
use assay_commitments::layout::MAX_MATRICES;
use assay_commitments::manifest::Manifest;
use assay_commitments::params::CodeParams;
use assay_commitments::weights::{LayerPolynomial, WeightRoot, WeightTree};
use thiserror::Error;

const MAGIC: &[u8; 8] = b"ASSAY\0WT";
const VERSION: u16 = 1;
const CHECKSUM: &str = "assay/tree-file-checksum/v1";
const MATRIX: &str = "assay/tree-file-matrix/v1";
/// Most polynomials of a model: layers and shards of lm_head.
const MAX_POLYNOMIALS: usize = 1 << 21;
/// Most columns of a codeword.
const MAX_LEAVES: usize = u32::MAX as usize;

/// Why a file is no tree file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum TreeFileError {
    #[error("it does not begin like a tree file of version {VERSION}")]
    Foreign,
    #[error("its checksum does not match")]
    Checksum,
    #[error("its content is malformed: {0}")]
    Malformed(#[from] Malformed),
}

/// The trees of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TreeFile {
    manifest: ManifestId,
    /// The layers, then the shards of lm_head.
    polynomials: Vec<Entry>,
}

/// A tree with what it is of.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    /// Digests of the matrices, in the order of the layout.
    matrices: Vec<[u8; 32]>,
    leaves: Vec<[u8; 32]>,
}

impl TreeFile {
    pub(crate) fn of(model: &CommittedModel) -> Self {
        let polynomials = model.layers.iter().map(|layer| &layer.weights).chain(&model.head);
        let entry = |CommittedPolynomial { polynomial, tree }: &CommittedPolynomial| Entry {
            matrices: matrix_digests(polynomial),
            leaves: tree.leaves().to_vec(),
        };
        Self { manifest: model.manifest.id(), polynomials: polynomials.map(entry).collect() }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = [MAGIC.as_slice(), &VERSION.to_le_bytes(), &encode(self)].concat();
        let checksum = blake3::derive_key(CHECKSUM, &bytes);
        bytes.extend_from_slice(&checksum);
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, TreeFileError> {
        let (body, checksum) = bytes.split_last_chunk::<32>().ok_or(TreeFileError::Foreign)?;
        let content = body
            .strip_prefix(MAGIC)
            .and_then(|rest| rest.strip_prefix(&VERSION.to_le_bytes()))
            .ok_or(TreeFileError::Foreign)?;
        if blake3::derive_key(CHECKSUM, body) != *checksum {
            return Err(TreeFileError::Checksum);
        }
        Ok(decode(content)?)
    }

    /// The trees, if they are those of `manifest`.
    pub(crate) fn for_manifest(self, manifest: &Manifest) -> Option<KnownTrees> {
        let roots: Vec<WeightRoot> =
            manifest.layers.iter().map(|layer| layer.root).chain(manifest.head.roots.iter().copied()).collect();
        let belongs = self.manifest == manifest.id() && self.polynomials.len() == roots.len();
        belongs.then_some(KnownTrees { polynomials: self.polynomials, roots })
    }
}

/// The trees of a manifest's model, as a file states them.
#[derive(Clone, Debug)]
pub(crate) struct KnownTrees {
    polynomials: Vec<Entry>,
    roots: Vec<WeightRoot>,
}

impl KnownTrees {
    /// The tree of the polynomial of that number, if it is known.
    pub(crate) fn tree(&self, number: usize, polynomial: &LayerPolynomial, code: &CodeParams) -> Option<WeightTree> {
        let entry = self.polynomials.get(number)?;
        if entry.leaves.len() != code.codeword_length() || entry.matrices != matrix_digests(polynomial) {
            return None;
        }
        let tree = WeightTree::from_leaves(entry.leaves.clone());
        (self.roots.get(number) == Some(&tree.root())).then_some(tree)
    }

    /// The first matrix that is not the one the tree was made of, by its index in the layout. None if
    /// there is no such matrix, or the file cannot tell because it has no tree of the manifest's root.
    pub(crate) fn first_other_matrix(&self, number: usize, polynomial: &LayerPolynomial) -> Option<usize> {
        let entry = self.polynomials.get(number)?;
        let tree = WeightTree::from_leaves(entry.leaves.clone());
        if self.roots.get(number) != Some(&tree.root()) {
            return None;
        }
        let found = matrix_digests(polynomial);
        entry.matrices.iter().zip(&found).position(|(known, found)| known != found)
    }
}

/// Digests of the fixed-point images of a polynomial's matrices.
fn matrix_digests(polynomial: &LayerPolynomial) -> Vec<[u8; 32]> {
    let layout = polynomial.layout();
    let digest = |(matrix, exponent): (usize, &i16)| {
        let mut hash = blake3::Hasher::new_derive_key(MATRIX);
        hash.update(&exponent.to_le_bytes());
        let mut bytes = Vec::new();
        for tile in layout.tiles_of(matrix) {
            for part in polynomial.coefficients()[tile.coefficient_range()].chunks(1 << 16) {
                bytes.clear();
                bytes.extend(part.iter().flat_map(|image| image.to_le_bytes()));
                hash.update(&bytes);
            }
        }
        hash.finalize().into()
    };
    polynomial.exponents().iter().enumerate().map(digest).collect()
}

impl Canonical for TreeFile {
    fn write(&self, out: &mut Writer) {
        out.raw(self.manifest.as_bytes());
        out.list(&self.polynomials);
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self { manifest: ManifestId::new(from.array()?), polynomials: from.list(MAX_POLYNOMIALS)? })
    }
}

impl Canonical for Entry {
    fn write(&self, out: &mut Writer) {
        out.list(&self.matrices);
        out.list(&self.leaves);
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self { matrices: from.list(MAX_MATRICES)?, leaves: from.list(MAX_LEAVES)? })
    }
}

#[cfg(test)]
mod tests {
    use assay_llm_runtime::synthetic::{self, Numbers};

    use super::*;
    use crate::local::commit;

    fn model(seed: u64) -> CommittedModel {
        commit(&synthetic::checkpoint(&Numbers::TINY, seed), None, &mut |_, _| ()).unwrap()
    }

    #[test]
    fn a_tree_file_gives_back_the_trees_of_its_model() {
        let model = model(1);
        let file = TreeFile::of(&model);
        let bytes = file.encode();
        assert_eq!(TreeFile::decode(&bytes), Ok(file.clone()));
        let known = file.for_manifest(&model.manifest).unwrap();
        let polynomials = model.layers.iter().map(|layer| &layer.weights);
        for (number, committed) in polynomials.enumerate() {
            let tree = known.tree(number, &committed.polynomial, &model.manifest.layer_code).unwrap();
            assert_eq!(tree.root(), committed.tree.root());
        }
        assert!(known.tree(0, &model.layers[1].weights.polynomial, &model.manifest.layer_code).is_none());
    }

    #[test]
    fn a_tree_file_of_other_weights_gives_nothing() {
        let (one, other) = (model(1), model(2));
        assert!(TreeFile::of(&one).for_manifest(&other.manifest).is_none());
        let mut forged = TreeFile::of(&one);
        forged.polynomials[0].leaves[0][0] ^= 1;
        let known = forged.for_manifest(&one.manifest).unwrap();
        assert!(known.tree(0, &one.layers[0].weights.polynomial, &one.manifest.layer_code).is_none());
        assert_eq!(known.first_other_matrix(0, &other.layers[0].weights.polynomial), None);
        assert_eq!(known.first_other_matrix(1, &other.layers[1].weights.polynomial), Some(0));
    }

    #[test]
    fn damage_is_found() {
        let bytes = TreeFile::of(&model(1)).encode();
        for place in [0, 9, 40, bytes.len() / 2, bytes.len() - 1] {
            let mut damaged = bytes.clone();
            damaged[place] ^= 1;
            assert!(TreeFile::decode(&damaged).is_err(), "{place}");
            assert!(TreeFile::decode(&bytes[..place]).is_err(), "{place}");
        }
    }
}
