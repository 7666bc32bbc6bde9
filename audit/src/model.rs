//! A model on the prover's side: its weights, their commitments, and the manifest made of them.

use std::sync::Arc;

use assay_commitments::fixed_point::ImageError;
use assay_commitments::manifest::{
    Architecture, ArchitectureError, HeadEntry, LayerEntry, Manifest, Matrix, small_digest,
};
use assay_commitments::params::CodeParams;
use assay_commitments::rows::{Profile, encode_row};
use assay_commitments::trace::row_digest;
use assay_commitments::weights::{LayerPolynomial, WeightTree, commit};
use thiserror::Error;

use crate::assets::EmbeddingTable;

/// The weights of a decoder layer as f32.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerTensors {
    /// Weights of the norm before attention, `hidden` of them.
    pub input_norm: Vec<f32>,
    /// Weights of the norm before the MLP, `hidden` of them.
    pub post_norm: Vec<f32>,
    /// The matrices in the order of [`Matrix::ALL`], each `[outputs][inputs]`, row by row.
    pub matrices: [Vec<f32>; 7],
}

/// The weights of a model as f32.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelTensors {
    /// `[vocab_size][hidden]`.
    pub embeddings: Vec<f32>,
    /// The decoder layers.
    pub layers: Vec<LayerTensors>,
    /// Weights of the last norm, `hidden` of them.
    pub final_norm: Vec<f32>,
    /// lm_head, `[vocab_size][hidden]`; `None` when it is the embedding table.
    pub head: Option<Vec<f32>>,
}

impl ModelTensors {
    /// lm_head, `[vocab_size][hidden]`.
    pub fn head(&self) -> &[f32] {
        self.head.as_deref().unwrap_or(&self.embeddings)
    }
}

/// Why weights cannot be committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CommitError {
    /// A number of the architecture is out of range.
    #[error(transparent)]
    Architecture(#[from] ArchitectureError),
    /// A tensor has another size than the architecture says.
    #[error("a tensor of the {0} has another size than the architecture says")]
    Size(&'static str),
    /// A weight of a norm is no number.
    #[error("the {0} holds a weight that is NaN or infinite")]
    Norm(NormPlace),
    /// A weight is no number.
    #[error("the {place} holds a weight that is NaN or infinite ({error})")]
    Weight {
        /// Which part of the model.
        place: &'static str,
        /// Which weight.
        error: ImageError,
    },
}

/// A norm of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormPlace {
    /// The norm before attention of the layer with that number.
    Input(usize),
    /// The norm before the MLP of the layer with that number.
    Post(usize),
    /// The last norm.
    Final,
}

impl std::fmt::Display for NormPlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Input(layer) => write!(f, "input norm of layer {layer}"),
            Self::Post(layer) => write!(f, "post-attention norm of layer {layer}"),
            Self::Final => f.write_str("final norm"),
        }
    }
}

/// Gives the tree of a polynomial, known by its number, under its code.
pub type TreeSource<'a> = dyn FnMut(usize, &LayerPolynomial, &CodeParams) -> WeightTree + 'a;

/// A polynomial and the tree over its codeword.
#[derive(Debug)]
pub struct CommittedPolynomial {
    /// The fixed-point weights.
    pub polynomial: LayerPolynomial,
    /// The commitment.
    pub tree: WeightTree,
}

/// A decoder layer, committed.
#[derive(Debug)]
pub struct CommittedLayer {
    /// The seven matrices.
    pub weights: CommittedPolynomial,
    /// The two norms.
    pub norms: [Vec<f32>; 2],
}

/// A model, committed: what a miner needs beside a trace to prove a challenge.
#[derive(Debug)]
pub struct CommittedModel {
    /// The manifest.
    pub manifest: Manifest,
    /// The decoder layers.
    pub layers: Vec<CommittedLayer>,
    /// The shards of lm_head, by vocabulary block.
    pub head: Vec<CommittedPolynomial>,
    /// Weights of the last norm.
    pub final_norm: Vec<f32>,
    /// The embedding digest table.
    pub embeddings: EmbeddingTable,
}

impl CommittedModel {
    /// Commits a model. `progress` is told of each polynomial done, out of all.
    ///
    /// # Errors
    /// [`CommitError`].
    pub fn commit(
        architecture: &Architecture,
        tensors: &ModelTensors,
        profile: Profile,
        tokenizer: &[u8],
        chat_template: Option<&[u8]>,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Self, CommitError> {
        let tree = &mut |_, polynomial: &LayerPolynomial, code: &CodeParams| commit_in_memory(polynomial, code);
        Self::commit_with(architecture, tensors, profile, tokenizer, chat_template, tree, progress)
    }

    /// Commits a model whose trees may be known: `tree` gives that of the polynomial of a number,
    /// counted over the layers and then the shards of lm_head. A tree of another polynomial gives a
    /// manifest that nothing can be proven against.
    ///
    /// # Errors
    /// [`CommitError`].
    pub fn commit_with(
        architecture: &Architecture,
        tensors: &ModelTensors,
        profile: Profile,
        tokenizer: &[u8],
        chat_template: Option<&[u8]>,
        tree: &mut TreeSource<'_>,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Self, CommitError> {
        architecture.check()?;
        check_sizes(architecture, tensors)?;
        check_norms(tensors)?;
        let layer_layout = Arc::new(architecture.layer_layout()?);
        let head_layout = Arc::new(architecture.head_layout()?);
        let layer_code = CodeParams::for_layout(&layer_layout);
        let head_code = CodeParams::for_layout(&head_layout);
        let shards = head_blocks(architecture, tensors.head())?;
        let total = tensors.layers.len() + shards.len();

        let mut commit_polynomial =
            |number, polynomial, code| CommittedPolynomial { tree: tree(number, &polynomial, code), polynomial };

        let mut layers = Vec::with_capacity(tensors.layers.len());
        for layer in &tensors.layers {
            let matrices: Vec<&[f32]> = layer.matrices.iter().map(Vec::as_slice).collect();
            let polynomial = LayerPolynomial::from_matrices(layer_layout.clone(), &matrices)
                .map_err(|error| CommitError::Weight { place: "decoder layers", error })?;
            layers.push(CommittedLayer {
                weights: commit_polynomial(layers.len(), polynomial, &layer_code),
                norms: [layer.input_norm.clone(), layer.post_norm.clone()],
            });
            progress(layers.len(), total);
        }
        let exponent = assay_commitments::fixed_point::exponent(tensors.head())
            .map_err(|error| CommitError::Weight { place: "lm_head", error })?;
        let mut head = Vec::with_capacity(shards.len());
        for shard in &shards {
            let polynomial = LayerPolynomial::with_exponents(head_layout.clone(), &[shard], &[exponent])
                .map_err(|error| CommitError::Weight { place: "lm_head", error })?;
            head.push(commit_polynomial(layers.len() + head.len(), polynomial, &head_code));
            progress(layers.len() + head.len(), total);
        }
        let embeddings = EmbeddingTable::new(embedding_digests(architecture, profile, &tensors.embeddings));
        let manifest = Manifest {
            architecture: architecture.clone(),
            profile,
            tokenizer: *blake3::hash(tokenizer).as_bytes(),
            chat_template: chat_template.map(|template| *blake3::hash(template).as_bytes()),
            layer_code,
            head_code,
            embeddings: embeddings.root(),
            layers: layers.iter().map(layer_entry).collect(),
            head: HeadEntry {
                shards: head.iter().map(|shard| shard.tree.commitment()).collect(),
                exponent,
                small: small_digest(&[&tensors.final_norm]),
            },
        };
        Ok(Self { manifest, layers, head, final_norm: tensors.final_norm.clone(), embeddings })
    }
}

/// Commits a polynomial that lies in memory.
pub fn commit_in_memory(polynomial: &LayerPolynomial, code: &CodeParams) -> WeightTree {
    match commit(polynomial, code, usize::MAX, &|_| ()) {
        Ok(tree) => tree,
        Err(never) => match never {},
    }
}

fn layer_entry(layer: &CommittedLayer) -> LayerEntry {
    let mut exponents = [0; 7];
    exponents.copy_from_slice(layer.weights.polynomial.exponents());
    LayerEntry { weights: layer.weights.tree.commitment(), exponents, small: small_digest(&[&layer.norms[0], &layer.norms[1]]) }
}

/// lm_head cut into vocabulary blocks of equal size, the last padded with zeros.
fn head_blocks(architecture: &Architecture, head: &[f32]) -> Result<Vec<Vec<f32>>, CommitError> {
    let block = architecture.head_block()? as usize * architecture.hidden as usize;
    Ok(head
        .chunks(block)
        .map(|chunk| {
            let mut shard = chunk.to_vec();
            shard.resize(block, 0.0);
            shard
        })
        .collect())
}

fn embedding_digests(architecture: &Architecture, profile: Profile, embeddings: &[f32]) -> Vec<[u8; 32]> {
    embeddings
        .chunks(architecture.hidden as usize)
        .map(|row| {
            let mut bytes = Vec::with_capacity(row.len() * profile.element_bytes());
            encode_row(profile, row, &mut bytes);
            row_digest(&bytes)
        })
        .collect()
}

fn check_sizes(architecture: &Architecture, tensors: &ModelTensors) -> Result<(), CommitError> {
    let same = |part, length: usize, expected: u64| {
        if length as u64 == expected { Ok(()) } else { Err(CommitError::Size(part)) }
    };
    let hidden = u64::from(architecture.hidden);
    let table = u64::from(architecture.vocab_size) * hidden;
    same("embedding table", tensors.embeddings.len(), table)?;
    same("lm_head", tensors.head().len(), table)?;
    same("final norm", tensors.final_norm.len(), hidden)?;
    same("decoder layers", tensors.layers.len(), u64::from(architecture.layers))?;
    for layer in &tensors.layers {
        same("decoder layers", layer.input_norm.len(), hidden)?;
        same("decoder layers", layer.post_norm.len(), hidden)?;
        for (matrix, values) in Matrix::ALL.iter().zip(&layer.matrices) {
            let shape = architecture.shape(*matrix);
            same("decoder layers", values.len(), u64::from(shape.inputs) * u64::from(shape.outputs))?;
        }
    }
    Ok(())
}

/// Norm weights stand in a manifest by digest only, so nothing else looks at their values: with one that
/// is no number, every proof under the manifest would fail in a place that names the miner.
fn check_norms(tensors: &ModelTensors) -> Result<(), CommitError> {
    let layers = tensors.layers.iter().enumerate().flat_map(|(number, layer)| {
        [(NormPlace::Input(number), &layer.input_norm), (NormPlace::Post(number), &layer.post_norm)]
    });
    let mut norms = layers.chain([(NormPlace::Final, &tensors.final_norm)]);
    let bad = norms.find(|(_, norm)| !norm.iter().all(|weight| weight.is_finite()));
    bad.map_or(Ok(()), |(place, _)| Err(CommitError::Norm(place)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model() -> (Architecture, ModelTensors) {
        let architecture = Architecture {
            vocab_size: 8,
            hidden: 8,
            layers: 2,
            heads: 2,
            kv_heads: 1,
            head_dim: 4,
            ffn: 8,
            max_positions: 16,
            norm_eps: 1e-5,
            inverse_frequencies: vec![1.0, 0.5],
            tied: true,
            stop_tokens: vec![],
        };
        let matrix = |matrix: &Matrix| {
            let shape = architecture.shape(*matrix);
            vec![0.5; shape.inputs as usize * shape.outputs as usize]
        };
        let layer = LayerTensors {
            input_norm: vec![1.0; 8],
            post_norm: vec![1.0; 8],
            matrices: Matrix::ALL.map(|m| matrix(&m)),
        };
        let tensors =
            ModelTensors { embeddings: vec![0.5; 64], layers: vec![layer; 2], final_norm: vec![1.0; 8], head: None };
        (architecture, tensors)
    }

    #[test]
    fn norm_weights_that_are_no_numbers_are_refused_with_their_place() {
        let commit = |change: &dyn Fn(&mut ModelTensors)| {
            let (architecture, mut tensors) = model();
            change(&mut tensors);
            CommittedModel::commit(&architecture, &tensors, Profile::Bf16V1, b"{}", None, &mut |_, _| ()).map(|_| ())
        };
        assert_eq!(commit(&|_| ()), Ok(()));
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let places = [
                (commit(&|t| t.layers[1].input_norm[3] = bad), NormPlace::Input(1)),
                (commit(&|t| t.layers[0].post_norm[7] = bad), NormPlace::Post(0)),
                (commit(&|t| t.final_norm[0] = bad), NormPlace::Final),
            ];
            for (result, place) in places {
                assert_eq!(result, Err(CommitError::Norm(place)));
            }
        }
        let text = CommitError::Norm(NormPlace::Post(0)).to_string();
        assert_eq!(text, "the post-attention norm of layer 0 holds a weight that is NaN or infinite");
    }
}
