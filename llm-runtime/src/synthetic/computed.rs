//! Weights that are computed where they are read.

use std::convert::Infallible;

use assay_audit::commit::{ModelWeights, Tensor};
use assay_audit::model::{LayerTensors, ModelTensors};
use assay_commitments::manifest::{Architecture, Matrix, Small, SmallTensors};
use assay_commitments::rows::Profile;

use super::{CHAT_TEMPLATE, Numbers, tokenizer};
use crate::checkpoint::Checkpoint;
use crate::quantized::{Quantized, Weights};
use crate::random::Random;

/// Deviation of an integer of eight bits that may be any.
const DEVIATION: f64 = 73.9;

/// The random weights of a model of any size, made piece by piece when they are read: what speed is measured on.
///
/// A weight of a matrix is an integer of eight bits times a power of two, so it is the same number under every
/// profile. No token ends an answer.
#[derive(Clone, Debug)]
pub struct ComputedWeights {
    architecture: Architecture,
    seed: u64,
}

impl ComputedWeights {
    /// Integers with one scale, where they run as integers.
    pub const GROUP: usize = 128;

    /// The weights of a model of these numbers.
    pub fn new(numbers: &Numbers, seed: u64) -> Self {
        Self { architecture: Architecture { stop_tokens: vec![], ..numbers.architecture() }, seed }
    }

    /// All of them in memory, with a tokenizer of one character a token.
    pub fn checkpoint(&self, profile: Profile) -> Checkpoint {
        let read = |tensor| {
            let Ok(values) = self.tensor(tensor);
            values
        };
        let layer = |layer| LayerTensors {
            small: SmallTensors(Small::ALL.map(|small| read(Tensor::Small(layer, small)))),
            matrices: Matrix::ALL.map(|matrix| read(Tensor::Matrix(layer, matrix))),
        };
        let tensors = ModelTensors {
            embeddings: read(Tensor::Embeddings),
            layers: (0..self.architecture.layers as usize).map(layer).collect(),
            final_norm: read(Tensor::FinalNorm),
            head: (!self.architecture.tied).then(|| read(Tensor::Head)),
        };
        Checkpoint {
            architecture: self.architecture.clone(),
            profile,
            tensors,
            tokenizer: tokenizer(self.architecture.vocab_size).to_string().into_bytes(),
            chat_template: Some(CHAT_TEMPLATE.to_owned()),
        }
    }

    /// Integers of eight bits of a tensor from the index `start` on, without an end.
    fn integers(&self, tensor: Tensor, start: usize) -> impl Iterator<Item = i8> + use<> {
        let place = match tensor {
            Tensor::Embeddings => 0,
            Tensor::Head => 1,
            Tensor::FinalNorm => 2,
            Tensor::Matrix(layer, matrix) => 16 * (layer + 1) + matrix.index(),
            Tensor::Small(layer, small) => 16 * (layer + 1) + 8 + small.index(),
        };
        let key = Random::new(self.seed ^ (place as u64) << 32).word();
        let mut random = Random::at(key, start as u64);
        std::iter::repeat_with(move || ((random.word() >> 56) as u8).cast_signed())
    }

    /// What an integer of a matrix is multiplied with: products with a normed row have deviations around one, and logits
    /// wider ones.
    #[expect(clippy::cast_possible_truncation, reason = "a power of two is an f32 number")]
    fn scale(&self, tensor: Tensor) -> f32 {
        let (gain, inputs) = match tensor {
            Tensor::Matrix(_, matrix) => (1.0, self.architecture.shape(matrix).inputs),
            _ => (3.0, self.architecture.hidden),
        };
        (gain / (f64::from(inputs).sqrt() * DEVIATION)).log2().round().exp2() as f32
    }
}

impl ModelWeights for ComputedWeights {
    type Error = Infallible;

    fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    fn read(&self, tensor: Tensor, start: usize, out: &mut [f32]) -> Result<(), Infallible> {
        let (middle, scale) = match tensor {
            Tensor::FinalNorm
            | Tensor::Small(_, Small::InputNorm | Small::PostNorm | Small::QueryNorm | Small::KeyNorm) => {
                (1.0, 1.0 / 512.0)
            }
            Tensor::Small(..) => (0.0, 1.0 / 512.0),
            _ => (0.0, self.scale(tensor)),
        };
        out.iter_mut()
            .zip(self.integers(tensor, start))
            .for_each(|(weight, x)| *weight = middle + scale * f32::from(x));
        Ok(())
    }
}

impl Weights for ComputedWeights {
    fn quantized(&self, layer: usize, matrix: Matrix) -> Result<Option<Quantized>, Infallible> {
        let tensor = Tensor::Matrix(layer, matrix);
        let shape = self.architecture.shape(matrix);
        let groups = (shape.inputs as usize).div_ceil(Self::GROUP);
        Ok(Some(Quantized {
            values: self.integers(tensor, 0).take(tensor.length(&self.architecture)).collect(),
            scales: vec![self.scale(tensor); shape.outputs as usize * groups],
            group: Self::GROUP,
        }))
    }
}

#[cfg(test)]
mod tests {
    use assay_commitments::TokenId;
    use assay_commitments::rows::round_bf16;

    use super::*;
    use crate::{Model, Session};

    #[test]
    fn pieces_are_those_of_the_whole_and_tensors_differ() {
        let weights = ComputedWeights::new(&Numbers::TINY, 5);
        let mut seen: Vec<Vec<f32>> = vec![];
        for tensor in Tensor::all(weights.architecture()) {
            let Ok(whole) = weights.tensor(tensor);
            let mut piece = [0.0; 7];
            let Ok(()) = weights.read(tensor, 11, &mut piece);
            assert_eq!(piece, whole[11..18], "{tensor}");
            assert!(!seen.iter().any(|other| other[..16] == whole[..16]), "{tensor}");
            seen.push(whole);
        }
    }

    #[test]
    fn matrices_are_the_same_under_every_profile() {
        let weights = ComputedWeights::new(&Numbers::TINY, 5);
        let tensor = Tensor::Matrix(1, Matrix::Down);
        let Ok(values) = weights.tensor(tensor);
        assert!(values.iter().all(|value| round_bf16(*value) == *value));
        let Ok(Some(quantized)) = weights.quantized(1, Matrix::Down) else { panic!("integers") };
        let mut exact = vec![0.0; values.len()];
        quantized.weights(Numbers::TINY.ffn as usize, 0, &mut exact);
        assert_eq!(exact, values);
    }

    #[test]
    fn model_runs_and_its_checkpoint_is_the_same_model() {
        let weights = ComputedWeights::new(&Numbers::TINY, 5);
        let checkpoint = weights.checkpoint(Profile::Bf16V1);
        let computed = Model::load(&weights, Profile::Bf16V1).unwrap();
        let in_memory = Model::new(&checkpoint.architecture, &checkpoint.tensors, Profile::Bf16V1).unwrap();
        let [a, b] = [computed, in_memory]
            .map(|model| Session::new(model.into(), false).prefill(&[3, 1, 4].map(TokenId::new)).unwrap());
        assert_eq!(a, b);
        assert!(a.iter().any(|logit| logit.abs() > 0.1));
    }
}
