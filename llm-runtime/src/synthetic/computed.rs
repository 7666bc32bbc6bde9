//! Weights that are computed where they are read.

use std::convert::Infallible;

use assay_audit::commit::{ModelWeights, Tensor};
use assay_commitments::manifest::{Architecture, Matrix, Small};
use assay_commitments::rows::round_bf16;

use super::{Numbers, tokenizer};
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
    /// Layers that differ.
    distinct: u32,
}

impl ComputedWeights {
    /// Integers with one scale, where they run as integers.
    pub const GROUP: usize = 128;

    /// The weights of a model of these numbers.
    pub fn new(numbers: &Numbers, seed: u64) -> Self {
        let architecture = Architecture { stop_tokens: vec![], ..numbers.architecture() };
        Self { distinct: architecture.layers.max(1), architecture, seed }
    }

    /// The same with layers that repeat the first `distinct` of them over and over: a model of many layers then takes the
    /// memory of a few where equal ones are held once, and nothing changes for who verifies it.
    ///
    /// # Panics
    /// If there is no layer to repeat.
    #[must_use]
    pub fn repeating(self, distinct: u32) -> Self {
        assert!(distinct > 0, "a layer to repeat");
        Self { distinct, ..self }
    }

    /// `tokenizer.json`: one character a token.
    pub fn tokenizer(&self) -> Vec<u8> {
        tokenizer(self.architecture.vocab_size).to_string().into_bytes()
    }

    /// Integers of eight bits of a tensor from the index `start` on, without an end.
    fn integers(&self, tensor: Tensor, start: usize) -> impl Iterator<Item = i8> + use<> {
        let base = |layer: usize| 16 * (layer % self.distinct as usize + 1);
        let place = match tensor {
            Tensor::Embeddings => 0,
            Tensor::Head => 1,
            Tensor::FinalNorm => 2,
            Tensor::Matrix(layer, matrix) => base(layer) + matrix.index(),
            Tensor::Small(layer, small) => base(layer) + 8 + small.index(),
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
            .for_each(|(weight, x)| *weight = round_bf16(middle + scale * f32::from(x)));
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
    use assay_commitments::rows::Profile;

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
            assert!(whole.iter().all(|value| round_bf16(*value) == *value), "{tensor}: as of a bf16 checkpoint");
            assert!(!seen.iter().any(|other| other[..16] == whole[..16]), "{tensor}");
            seen.push(whole);
        }
    }

    #[test]
    fn matrices_are_the_same_under_every_profile() {
        let weights = ComputedWeights::new(&Numbers::TINY, 5);
        let tensor = Tensor::Matrix(1, Matrix::Down);
        let Ok(values) = weights.tensor(tensor);
        let Ok(Some(quantized)) = weights.quantized(1, Matrix::Down) else { panic!("integers") };
        let mut exact = vec![0.0; values.len()];
        quantized.weights(Numbers::TINY.ffn as usize, 0, &mut exact);
        assert_eq!(exact, values);
    }

    #[test]
    fn layers_repeat_and_the_model_runs_as_one_with_as_many_of_its_own() {
        let numbers = Numbers { layers: 5, ..Numbers::TINY };
        let weights = ComputedWeights::new(&numbers, 5).repeating(2);
        let layers = [0, 1, 2, 3, 4].map(|layer| {
            let Ok(values) = weights.tensor(Tensor::Matrix(layer, Matrix::Gate));
            let Ok(norm) = weights.tensor(Tensor::Small(layer, Small::PostNorm));
            (values, norm)
        });
        assert!(layers[0] != layers[1] && layers[0] == layers[2] && layers[1] == layers[3] && layers[0] == layers[4]);
        let few = ComputedWeights::new(&Numbers { layers: 2, ..numbers }, 5);
        let repeated = Model::load(&few, Profile::Bf16V1).unwrap().with_layers(5);
        let [a, b] = [Model::load(&weights, Profile::Bf16V1).unwrap(), repeated]
            .map(|model| Session::new(model.into(), false).prefill(&[3, 1, 4].map(TokenId::new)).unwrap());
        assert_eq!(a, b);
        assert!(a.iter().any(|logit| logit.abs() > 0.1));
    }
}
