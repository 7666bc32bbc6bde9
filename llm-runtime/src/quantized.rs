//! Matrices of small integers, as quantised checkpoints hold them.

use assay_audit::commit::ModelWeights;
use assay_audit::model::InMemory;
use assay_commitments::manifest::Matrix;

/// A matrix `[outputs, inputs]` of integers of at most eight bits; a weight is its integer times the scale of
/// its group.
#[derive(Clone, Debug, PartialEq)]
pub struct Quantized {
    /// The integers, row by row.
    pub values: Vec<i8>,
    /// Scales `[outputs, groups]`, row by row. They have at most 16 significant bits, so that a weight is an f32
    /// number.
    pub scales: Vec<f32>,
    /// Consecutive inputs that share a scale; the last group may be shorter.
    pub group: usize,
}

impl Quantized {
    /// Writes weights from index `start` on, row by row, of a matrix of so many inputs: exact, as f32.
    ///
    /// # Panics
    /// If they do not lie in the matrix.
    pub fn weights(&self, inputs: usize, start: usize, out: &mut [f32]) {
        let groups = inputs.div_ceil(self.group);
        let (mut at, mut rest) = (start, out);
        while !rest.is_empty() {
            let (output, input) = (at / inputs, at % inputs);
            let (group, within) = (input / self.group, input % self.group);
            let run = (self.group - within).min(inputs - input).min(rest.len());
            let (weights, after) = rest.split_at_mut(run);
            let scale = self.scales[output * groups + group];
            for (weight, integer) in weights.iter_mut().zip(&self.values[at..at + run]) {
                *weight = f32::from(*integer) * scale;
            }
            at += run;
            rest = after;
        }
    }
}

/// Weights that a model can be made of: all as f32, and those of quantised matrices as integers too.
pub trait Weights: ModelWeights {
    /// A matrix of a layer as integers, if it is stored so.
    ///
    /// # Errors
    /// As [`ModelWeights::read`].
    fn quantized(&self, layer: usize, matrix: Matrix) -> Result<Option<Quantized>, Self::Error>;
}

impl Weights for InMemory<'_> {
    fn quantized(&self, _: usize, _: Matrix) -> Result<Option<Quantized>, Self::Error> {
        Ok(None)
    }
}
