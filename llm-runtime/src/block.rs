//! A decoder layer.

use assay_audit::model::LayerTensors;
use assay_commitments::LayerIndex;
use assay_commitments::manifest::{Architecture, Matrix, Small};
use assay_commitments::rows::Profile;
use assay_commitments::trace::TreeId;
use candle_core::{Device, Tensor};
use candle_nn::kv_cache::Cache;

use crate::capture::Recorder;
use crate::error::RunError;
use crate::kernels::{Add, Attention, GatedSilu, Int8Heads, RmsNorm, Rotate, Round, Weights, product, split_product};

/// Weights of a layer, matrices as `[outputs, inputs]`. Those that share an input are stacked to one:
/// fewer, larger products.
#[derive(Clone, Debug)]
pub(crate) struct Block {
    input_norm: Tensor,
    post_norm: Tensor,
    /// `[q | k | v, hidden]`.
    qkv: Weights,
    /// `[hidden, q]`.
    output: Weights,
    /// `[gate | up, hidden]`.
    gate_up: Weights,
    /// `[hidden, ffn]`.
    down: Weights,
}

/// What all layers of a pass share.
pub(crate) struct Pass {
    pub(crate) split: Option<usize>,
    pub(crate) int8_cache: bool,
    pub(crate) norm: RmsNorm,
    pub(crate) rotate: Rotate,
    pub(crate) attention: Attention,
    pub(crate) mlp: GatedSilu,
    /// Cosines and sines of the new positions, `[n, head_dim]`.
    pub(crate) angles: Tensor,
}

impl Pass {
    fn profile(&self) -> Profile {
        self.norm.profile
    }

    fn product(&self, x: &Tensor, weights: &Weights) -> candle_core::Result<Tensor> {
        self.split.map_or_else(|| product(x, weights), |parts| split_product(x, weights, parts))
    }

    /// A product, rounded.
    fn linear(&self, x: &Tensor, weights: &Weights) -> candle_core::Result<Tensor> {
        let products = self.product(x, weights)?;
        products.inplace_op1(&Round(self.profile()))?;
        Ok(products)
    }
}

impl Block {
    pub(crate) fn new(architecture: &Architecture, index: usize, tensors: &LayerTensors) -> Result<Self, RunError> {
        let hidden = architecture.hidden as usize;
        let norm = |small: Small| vector(&format!("layer {index}: {}", small.name()), tensors.small.get(small), hidden);
        for (matrix, values) in Matrix::ALL.into_iter().zip(&tensors.matrices) {
            let shape = architecture.shape(matrix);
            let name = || format!("layer {index}: {}", matrix.name());
            check_size(name, values, shape.inputs as usize * shape.outputs as usize)?;
        }
        let stacked = |matrices: &[Matrix]| {
            let parts = matrices.iter().map(|matrix| {
                let shape = architecture.shape(*matrix);
                let shape = [shape.outputs as usize, shape.inputs as usize];
                Weights::f32(&tensors.matrices[matrix.index()], shape)
            });
            Weights::stack(&parts.collect::<Result<Vec<_>, _>>()?)
        };
        Ok(Self {
            input_norm: norm(Small::InputNorm)?,
            post_norm: norm(Small::PostNorm)?,
            qkv: stacked(&[Matrix::Q, Matrix::K, Matrix::V])?,
            output: stacked(&[Matrix::O])?,
            gate_up: stacked(&[Matrix::Gate, Matrix::Up])?,
            down: stacked(&[Matrix::Down])?,
        })
    }

    /// Runs the new positions `[n, hidden]` through the layer: the stream that enters it to the
    /// stream that leaves it.
    pub(crate) fn forward(
        &self,
        layer: LayerIndex,
        stream: &Tensor,
        pass: &Pass,
        cache: &mut Cache,
        mut recorder: Option<&mut Recorder>,
    ) -> Result<Tensor, RunError> {
        let mut record = |tree, rows: &Tensor| match &mut recorder {
            Some(recorder) => recorder.rows(tree, rows),
            None => Ok(()),
        };
        let profile = pass.profile();
        record(TreeId::H(layer), stream)?;

        let normed = stream.apply_op2_no_bwd(&self.input_norm, &pass.norm)?;
        let products = pass.product(&normed, &self.qkv)?;
        products.inplace_op2(&pass.angles, &pass.rotate)?;
        let query_width = pass.attention.heads * pass.attention.head_dim;
        let fresh = products.narrow(1, query_width, products.dim(1)? - query_width)?.contiguous()?;
        let kept = if pass.int8_cache { fresh.copy()? } else { fresh.clone() };
        if pass.int8_cache {
            kept.inplace_op1(&Int8Heads { head_dim: pass.attention.head_dim })?;
        }
        cache.append(&kept)?;
        let cached = cache.current_data()?.unwrap_or(kept);
        let attended = products.apply_op2_no_bwd(&cached, &pass.attention)?;
        record(TreeId::A(layer), &attended)?;
        let branch = pass.linear(&attended, &self.output)?;
        record(TreeId::O(layer), &branch)?;
        let middle = stream.apply_op2_no_bwd(&branch, &Add(profile))?;

        let normed = middle.apply_op2_no_bwd(&self.post_norm, &pass.norm)?;
        let active = pass.product(&normed, &self.gate_up)?.apply_op1_no_bwd(&pass.mlp)?;
        let branch = pass.linear(&active, &self.down)?;
        record(TreeId::M(layer), &branch)?;
        if let Some(recorder) = recorder {
            recorder.cache_rows(layer, &fresh)?;
        }
        Ok(middle.apply_op2_no_bwd(&branch, &Add(profile))?)
    }
}

/// A vector of `length` weights.
pub(crate) fn vector(name: &str, values: &[f32], length: usize) -> Result<Tensor, RunError> {
    check_size(|| name.to_owned(), values, length)?;
    Ok(Tensor::from_slice(values, length, &Device::Cpu)?)
}

/// A matrix `[outputs, inputs]`.
pub(crate) fn matrix(values: &[f32], inputs: usize) -> Result<Tensor, RunError> {
    Ok(Tensor::from_slice(values, (values.len() / inputs, inputs), &Device::Cpu)?)
}

pub(crate) fn check_size(name: impl Fn() -> String, values: &[f32], expected: usize) -> Result<(), RunError> {
    if values.len() == expected {
        Ok(())
    } else {
        Err(RunError::Size { tensor: name(), found: values.len(), expected })
    }
}
