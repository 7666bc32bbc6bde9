//! What a miner might run in place of the model, and what shows of it.

use std::sync::Arc;

use assay_commitments::manifest::Matrix;
use assay_commitments::rows::round_bf16;
use assay_llm_runtime::quantize::{self, Format};
use assay_llm_runtime::{Checkpoint, Model, finetune};

use super::Subject;
use crate::outcome::Fault;

/// Another model than the registered one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cheat {
    /// Matrices of every layer in another format.
    Format(Format, Vec<Matrix>),
    /// One matrix of one layer with noise of a hundredth of its weights.
    Altered(u32, Matrix),
    /// Products summed in so many parts, each rounded to bf16.
    SplitProducts(usize),
    /// Keys and values attended to as eight-bit integers, committed as they were before.
    Int8Cache,
}

/// Noise of [`Cheat::Altered`], as a share of the root mean square of the weights.
const NOISE: f32 = 0.01;

impl Cheat {
    /// All that change something in this model: formats in all matrices, and the quantised ones in each
    /// alone; a matrix altered in the middle layer.
    pub fn all(checkpoint: &Checkpoint) -> Vec<Self> {
        let is_bf16 =
            |weights: &Vec<f32>| weights.iter().all(|weight| round_bf16(*weight).to_bits() == weight.to_bits());
        let changed = !checkpoint.tensors.layers.iter().flat_map(|layer| &layer.matrices).all(is_bf16);
        let formats = Format::ALL.into_iter().filter(|format| *format != Format::Bf16 || changed);
        let complete = formats.map(|format| Self::Format(format, Matrix::ALL.to_vec()));
        let middle = checkpoint.architecture.layers / 2;
        let altered = Matrix::ALL.into_iter().map(|matrix| Self::Altered(middle, matrix));
        let split = [2, 4, 8].map(Self::SplitProducts);
        let quantized = Format::ALL.into_iter().filter(|format| format.is_quantized());
        let single = quantized.flat_map(|format| Matrix::ALL.map(|matrix| Self::Format(format, vec![matrix])));
        complete.chain(split).chain([Self::Int8Cache]).chain(altered).chain(single).collect()
    }

    /// The name that users see.
    pub fn name(&self) -> String {
        match self {
            Self::Format(format, _) => format.name().to_owned(),
            Self::Altered(..) => "1 % noise in one layer".to_owned(),
            Self::SplitProducts(parts) => format!("bf16 sums in {parts} parts"),
            Self::Int8Cache => "int8 cache".to_owned(),
        }
    }

    /// The matrices that it changes; none where it changes something else.
    pub fn matrices(&self) -> Vec<Matrix> {
        match self {
            Self::Format(_, matrices) => matrices.clone(),
            Self::Altered(_, matrix) => vec![*matrix],
            Self::SplitProducts(_) | Self::Int8Cache => vec![],
        }
    }

    /// Whether it is done to all of the model that it can be done to.
    pub(super) fn is_complete(&self) -> bool {
        match self {
            Self::Format(_, matrices) => matrices.len() == Matrix::ALL.len(),
            Self::Altered(..) => false,
            Self::SplitProducts(_) | Self::Int8Cache => true,
        }
    }

    /// The one layer in which it shows.
    pub(super) const fn layer(&self) -> Option<u32> {
        match self {
            Self::Altered(layer, _) => Some(*layer),
            Self::Format(..) | Self::SplitProducts(_) | Self::Int8Cache => None,
        }
    }

    /// The model that it runs.
    pub(super) fn model(&self, subject: &Subject) -> Result<Arc<Model>, Fault> {
        let Checkpoint { architecture, tensors, profile, .. } = &subject.checkpoint;
        let model = match self {
            Self::Format(format, matrices) => {
                let tensors = quantize::model(architecture, tensors, *format, matrices);
                Model::new(architecture, &tensors, *profile)?.on(subject.model.device())?
            }
            Self::Altered(layer, matrix) => {
                let mut tensors = tensors.clone();
                if let Some(layer) = tensors.layers.get_mut(*layer as usize) {
                    finetune::perturb(&mut layer.matrices[matrix.index()], NOISE, 1);
                }
                Model::new(architecture, &tensors, *profile)?.on(subject.model.device())?
            }
            Self::SplitProducts(parts) => subject.model.with_split_products(*parts),
            Self::Int8Cache => subject.model.with_int8_cache(),
        };
        Ok(Arc::new(model))
    }
}
