//! A model on the prover's side: its weights, their commitments, and the manifest made of them.

use std::sync::Arc;

use assay_commitments::manifest::{Architecture, ArchitectureError, Manifest, Small, SmallTensors};
use assay_commitments::params::CodeParams;
use assay_commitments::weights::{LayerPolynomial, WeightCommitment, WeightTree, commit};
use thiserror::Error;

use crate::assets::EmbeddingTable;
use crate::commit::{
    Committer, ModelWeights, PolynomialWeights, Polynomials, Surroundings, Tensor, manifest, small_tensors,
};

/// The weights of a decoder layer as f32.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerTensors {
    /// Norm weights and biases.
    pub small: SmallTensors,
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

    /// The weights of a tensor, row by row, if there is such a tensor.
    pub fn values(&self, tensor: Tensor) -> Option<&[f32]> {
        let layer = |number: usize| self.layers.get(number);
        match tensor {
            Tensor::Embeddings => Some(&self.embeddings),
            Tensor::Small(number, small) => layer(number).map(|layer| layer.small.get(small)),
            Tensor::Matrix(number, matrix) => layer(number)?.matrices.get(matrix.index()).map(Vec::as_slice),
            Tensor::FinalNorm => Some(&self.final_norm),
            Tensor::Head => self.head.as_deref(),
        }
    }
}

/// Why weights in memory cannot be committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CommitError {
    /// A number of the architecture is out of range.
    #[error(transparent)]
    Architecture(#[from] ArchitectureError),
    /// A tensor has another size than the architecture says.
    #[error("the {0} has another size than the architecture says")]
    Size(Tensor),
    /// Another number of decoder layers than the architecture says.
    #[error("there are {found} decoder layers where the architecture says {expected}")]
    Layers {
        /// Layers there are.
        found: usize,
        /// Layers there should be.
        expected: u32,
    },
    /// A weight is no number.
    #[error("the {tensor} holds a weight that is NaN or infinite, at index {index}")]
    NotFinite {
        /// Where it is.
        tensor: Tensor,
        /// Which it is, counted row by row.
        index: usize,
    },
}

/// A model in memory, as something that is read piece by piece.
#[derive(Clone, Copy, Debug)]
pub struct InMemory<'a> {
    architecture: &'a Architecture,
    tensors: &'a ModelTensors,
}

impl<'a> InMemory<'a> {
    /// Checks the sizes of all tensors.
    ///
    /// # Errors
    /// [`CommitError`] for a tensor of another size than the architecture says.
    pub fn new(architecture: &'a Architecture, tensors: &'a ModelTensors) -> Result<Self, CommitError> {
        let (found, expected) = (tensors.layers.len(), architecture.layers);
        if found as u64 != u64::from(expected) {
            return Err(CommitError::Layers { found, expected });
        }
        let layers = 0..tensors.layers.len();
        let small = layers.flat_map(|layer| Small::ALL.map(|small| Tensor::Small(layer, small)));
        for tensor in Tensor::all(architecture).into_iter().chain(small) {
            if tensors.values(tensor).is_none_or(|values| values.len() != tensor.length(architecture)) {
                return Err(CommitError::Size(tensor));
            }
        }
        Ok(Self { architecture, tensors })
    }
}

impl ModelWeights for InMemory<'_> {
    type Error = CommitError;

    fn architecture(&self) -> &Architecture {
        self.architecture
    }

    fn read(&self, tensor: Tensor, start: usize, out: &mut [f32]) -> Result<(), CommitError> {
        let values = self.tensors.values(tensor).and_then(|values| values.get(start..)?.get(..out.len()));
        let values = values.ok_or(CommitError::Size(tensor))?;
        if let Some(index) = values.iter().position(|value| !value.is_finite()) {
            return Err(CommitError::NotFinite { tensor, index: start + index });
        }
        out.copy_from_slice(values);
        Ok(())
    }
}

/// Gives the tree of a polynomial, known by its number and the digests of its matrices, under its code.
pub type TreeSource<'a> = dyn FnMut(usize, &[[u8; 32]], &LayerPolynomial, &CodeParams) -> WeightTree + 'a;

/// What two polynomials of a model have in common only if they are the same: digests and exponents of their matrices.
type Contents = (Vec<[u8; 32]>, Vec<i16>);

/// Keeps polynomials and trees.
struct Keeper<'a, 'b> {
    tree: &'a mut TreeSource<'b>,
    /// How many polynomials there are.
    total: usize,
    progress: &'a mut dyn FnMut(usize, usize),
    done: Vec<(Contents, Arc<CommittedPolynomial>)>,
}

impl<W: ModelWeights + ?Sized> Committer<W> for Keeper<'_, '_>
where
    W::Error: From<ArchitectureError>,
{
    type Error = W::Error;

    fn commit(
        &mut self,
        number: usize,
        weights: &PolynomialWeights<'_, W>,
        code: &CodeParams,
    ) -> Result<WeightCommitment, W::Error> {
        let contents = (weights.digests().to_vec(), weights.exponents().to_vec());
        // A layer has seven matrices and a shard of lm_head one: what is equal stands under the same code.
        let known = self.done.iter().find(|(known, _)| *known == contents);
        let committed = if let Some((_, known)) = known {
            Arc::clone(known)
        } else {
            let polynomial = LayerPolynomial::load(weights, contents.1.clone())?;
            let tree = (self.tree)(number, &contents.0, &polynomial, code);
            Arc::new(CommittedPolynomial { polynomial, tree })
        };
        let commitment = committed.tree.commitment();
        self.done.push((contents, committed));
        (self.progress)(self.done.len(), self.total);
        Ok(commitment)
    }
}

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
    /// The seven matrices; layers of equal weights share them.
    pub weights: Arc<CommittedPolynomial>,
    /// Norm weights and biases.
    pub small: SmallTensors,
}

/// A model, committed: what a miner needs beside a trace to prove a challenge.
#[derive(Debug)]
pub struct CommittedModel {
    /// The manifest.
    pub manifest: Manifest,
    /// The decoder layers.
    pub layers: Vec<CommittedLayer>,
    /// The shards of lm_head, by vocabulary block.
    pub head: Vec<Arc<CommittedPolynomial>>,
    /// Weights of the last norm.
    pub final_norm: Vec<f32>,
    /// The embedding digest table.
    pub embeddings: EmbeddingTable,
}

impl CommittedModel {
    /// Commits a model in memory. `progress` is told of each polynomial done, out of all.
    ///
    /// # Errors
    /// [`CommitError`].
    pub fn commit(
        architecture: &Architecture,
        tensors: &ModelTensors,
        surroundings: Surroundings<'_>,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Self, CommitError> {
        architecture.check()?;
        let weights = InMemory::new(architecture, tensors)?;
        let tree = &mut |_, _: &[[u8; 32]], polynomial: &LayerPolynomial, code: &CodeParams| {
            commit_in_memory(polynomial, code)
        };
        Self::read(&weights, surroundings, tree, progress)
    }

    /// Reads a model whose trees may be known: `tree` gives that of the polynomial of a number, counted over
    /// the layers and then the shards of lm_head. A tree of another polynomial gives a manifest that nothing
    /// can be proven against.
    ///
    /// # Errors
    /// An architecture out of range, or weights that cannot be read.
    pub fn read<W: ModelWeights + ?Sized>(
        weights: &W,
        surroundings: Surroundings<'_>,
        tree: &mut TreeSource<'_>,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Self, W::Error>
    where
        W::Error: From<ArchitectureError>,
    {
        let total = Polynomials::new(weights.architecture())?.count();
        let mut keeper = Keeper { tree, total, progress, done: Vec::with_capacity(total) };
        let (manifest, embeddings) = manifest(weights, surroundings, &mut keeper)?;
        let mut done = keeper.done.into_iter().map(|(_, committed)| committed);
        let layers = done.by_ref().take(manifest.layers.len()).enumerate();
        let layers = layers
            .map(|(layer, committed)| Ok(CommittedLayer { weights: committed, small: small_tensors(weights, layer)? }));
        let layers = layers.collect::<Result<_, W::Error>>()?;
        let final_norm = weights.tensor(Tensor::FinalNorm)?;
        Ok(Self { manifest, layers, head: done.collect(), final_norm, embeddings })
    }
}

/// Commits to a polynomial that lies in memory.
pub fn commit_in_memory(polynomial: &LayerPolynomial, code: &CodeParams) -> WeightTree {
    match commit(polynomial, code, usize::MAX, &|_| ()) {
        Ok(tree) => tree,
        Err(never) => match never {},
    }
}

#[cfg(test)]
mod tests {
    use assay_commitments::manifest::{Biases, Matrix};
    use assay_commitments::rows::Profile;

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
            biases: Biases::Qkv,
            head_norms: true,
            window: None,
            stop_tokens: vec![],
        };
        let matrix = |matrix: &Matrix| {
            let shape = architecture.shape(*matrix);
            vec![0.5; shape.inputs as usize * shape.outputs as usize]
        };
        let layer = LayerTensors {
            small: SmallTensors(Small::ALL.map(|small| vec![1.0; architecture.length(small) as usize])),
            matrices: Matrix::ALL.map(|m| matrix(&m)),
        };
        let tensors =
            ModelTensors { embeddings: vec![0.5; 64], layers: vec![layer; 2], final_norm: vec![1.0; 8], head: None };
        (architecture, tensors)
    }

    #[test]
    fn layers_of_equal_weights_are_held_once_and_others_apart() {
        let (architecture, mut tensors) = model();
        let commit = |tensors: &ModelTensors| {
            let surroundings = Surroundings { profile: Profile::Bf16V1, tokenizer: b"{}", chat_template: None };
            CommittedModel::commit(&architecture, tensors, surroundings, &mut |_, _| ()).unwrap()
        };
        let equal = commit(&tensors);
        assert!(Arc::ptr_eq(&equal.layers[0].weights, &equal.layers[1].weights));
        assert_eq!(equal.manifest.layers[0].weights, equal.manifest.layers[1].weights);
        tensors.layers[1].matrices[6][3] = 0.25;
        let other = commit(&tensors);
        assert!(!Arc::ptr_eq(&other.layers[0].weights, &other.layers[1].weights));
        assert_ne!(other.manifest.layers[0].weights, other.manifest.layers[1].weights);
        assert_eq!(other.manifest.layers[0], equal.manifest.layers[0]);
    }

    #[test]
    fn weights_that_are_no_numbers_are_refused_with_their_place() {
        let commit = |change: &dyn Fn(&mut ModelTensors)| {
            let (architecture, mut tensors) = model();
            change(&mut tensors);
            let surroundings = Surroundings { profile: Profile::Bf16V1, tokenizer: b"{}", chat_template: None };
            CommittedModel::commit(&architecture, &tensors, surroundings, &mut |_, _| ()).map(|_| ())
        };
        assert_eq!(commit(&|_| ()), Ok(()));
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let places = [
                (commit(&|t| t.layers[1].small.0[0][3] = bad), Tensor::Small(1, Small::InputNorm), 3),
                (commit(&|t| t.layers[0].small.0[1][7] = bad), Tensor::Small(0, Small::PostNorm), 7),
                (commit(&|t| t.layers[0].small.0[3][2] = bad), Tensor::Small(0, Small::KeyNorm), 2),
                (commit(&|t| t.layers[1].small.0[4][1] = bad), Tensor::Small(1, Small::QueryBias), 1),
                (commit(&|t| t.final_norm[0] = bad), Tensor::FinalNorm, 0),
                (commit(&|t| t.embeddings[63] = bad), Tensor::Embeddings, 63),
                (commit(&|t| t.layers[1].matrices[4][5] = bad), Tensor::Matrix(1, Matrix::Gate), 5),
            ];
            for (result, tensor, index) in places {
                assert_eq!(result, Err(CommitError::NotFinite { tensor, index }));
            }
        }
        let text = CommitError::NotFinite { tensor: Tensor::Small(0, Small::PostNorm), index: 1 }.to_string();
        assert_eq!(text, "the post-attention norm of layer 0 holds a weight that is NaN or infinite, at index 1");
    }

    #[test]
    fn tensors_of_another_size_are_refused_by_name() {
        let commit = |change: &dyn Fn(&mut ModelTensors)| {
            let (architecture, mut tensors) = model();
            change(&mut tensors);
            let surroundings = Surroundings { profile: Profile::Bf16V1, tokenizer: b"{}", chat_template: None };
            CommittedModel::commit(&architecture, &tensors, surroundings, &mut |_, _| ()).map(|_| ())
        };
        let missing = commit(&|tensors| tensors.layers.truncate(1));
        assert_eq!(missing, Err(CommitError::Layers { found: 1, expected: 2 }));
        let long = commit(&|tensors| tensors.layers[1].matrices[6].push(0.0));
        assert_eq!(long, Err(CommitError::Size(Tensor::Matrix(1, Matrix::Down))));
        assert_eq!(commit(&|tensors| tensors.final_norm.clear()), Err(CommitError::Size(Tensor::FinalNorm)));
        let unexpected = commit(&|tensors| tensors.layers[0].small.0[7].push(0.0));
        assert_eq!(unexpected, Err(CommitError::Size(Tensor::Small(0, Small::OutputBias))));
    }
}
