//! What Hugging Face calls the tensors of a model.

use assay_audit::commit::Tensor;
use assay_audit::model::ModelTensors;
use assay_commitments::manifest::{Architecture, Matrix, Small};

use super::gptq::Part;

/// The name of a tensor.
pub(super) fn of(tensor: Tensor) -> String {
    let of_layer = |layer: usize, part: &str| format!("model.layers.{layer}.{part}");
    match tensor {
        Tensor::Embeddings => "model.embed_tokens.weight".to_owned(),
        Tensor::Small(layer, small) => match small {
            Small::InputNorm => of_layer(layer, "input_layernorm.weight"),
            Small::PostNorm => of_layer(layer, "post_attention_layernorm.weight"),
            Small::QueryNorm => of_layer(layer, "self_attn.q_norm.weight"),
            Small::KeyNorm => of_layer(layer, "self_attn.k_norm.weight"),
            Small::QueryBias => of_layer(layer, "self_attn.q_proj.bias"),
            Small::KeyBias => of_layer(layer, "self_attn.k_proj.bias"),
            Small::ValueBias => of_layer(layer, "self_attn.v_proj.bias"),
            Small::OutputBias => of_layer(layer, "self_attn.o_proj.bias"),
        },
        Tensor::Matrix(layer, matrix) => of_matrix(layer, matrix, "weight"),
        Tensor::FinalNorm => "model.norm.weight".to_owned(),
        Tensor::Head => "lm_head.weight".to_owned(),
    }
}

/// The name of a tensor of a quantised matrix.
pub(super) fn packed(layer: usize, matrix: Matrix, part: Part) -> String {
    of_matrix(layer, matrix, part.name())
}

fn of_matrix(layer: usize, matrix: Matrix, tensor: &str) -> String {
    format!("{}.{tensor}", matrix_prefix(layer, matrix))
}

/// What the names of all tensors of a matrix begin with.
pub(crate) fn matrix_prefix(layer: usize, matrix: Matrix) -> String {
    format!("model.layers.{layer}.{}", part(matrix))
}

/// The part of a layer that a matrix is.
const fn part(matrix: Matrix) -> &'static str {
    match matrix {
        Matrix::Q => "self_attn.q_proj",
        Matrix::K => "self_attn.k_proj",
        Matrix::V => "self_attn.v_proj",
        Matrix::O => "self_attn.o_proj",
        Matrix::Gate => "mlp.gate_proj",
        Matrix::Up => "mlp.up_proj",
        Matrix::Down => "mlp.down_proj",
    }
}

/// A tensor with its name and shape.
#[derive(Clone, Debug)]
pub struct NamedTensor<'a> {
    /// As in a checkpoint.
    pub name: String,
    /// Outermost first.
    pub shape: Vec<usize>,
    /// The elements, row by row.
    pub values: &'a [f32],
}

/// All tensors of a model as a checkpoint holds them.
pub fn named_tensors<'a>(architecture: &Architecture, tensors: &'a ModelTensors) -> Vec<NamedTensor<'a>> {
    let named = |tensor: Tensor| {
        let values = tensors.values(tensor)?;
        Some(NamedTensor { name: of(tensor), shape: tensor.shape(architecture), values })
    };
    Tensor::all(architecture).into_iter().filter_map(named).collect()
}
