//! What Hugging Face calls the tensors of a Llama.

use assay_audit::model::ModelTensors;
use assay_commitments::manifest::{Architecture, Matrix};

pub(super) const EMBEDDINGS: &str = "model.embed_tokens.weight";
pub(super) const FINAL_NORM: &str = "model.norm.weight";
pub(super) const HEAD: &str = "lm_head.weight";
pub(super) const INPUT_NORM: &str = "input_layernorm";
pub(super) const POST_NORM: &str = "post_attention_layernorm";

/// The name of a part of a layer.
pub(super) fn of_layer(layer: usize, part: &str) -> String {
    format!("model.layers.{layer}.{part}.weight")
}

/// The part of a layer that a matrix is.
pub(super) const fn part(matrix: Matrix) -> &'static str {
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

/// Rows and columns of a matrix as it is stored.
pub(super) const fn shape(architecture: &Architecture, matrix: Matrix) -> [usize; 2] {
    let shape = architecture.shape(matrix);
    [shape.outputs as usize, shape.inputs as usize]
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
    let hidden = architecture.hidden as usize;
    let table = [architecture.vocab_size as usize, hidden];
    let mut named = Vec::new();
    let mut push = |name: String, shape: &[usize], values: &'a [f32]| {
        named.push(NamedTensor { name, shape: shape.to_vec(), values });
    };
    push(EMBEDDINGS.to_owned(), &table, &tensors.embeddings);
    push(FINAL_NORM.to_owned(), &[hidden], &tensors.final_norm);
    if let Some(head) = &tensors.head {
        push(HEAD.to_owned(), &table, head);
    }
    for (index, layer) in tensors.layers.iter().enumerate() {
        push(of_layer(index, INPUT_NORM), &[hidden], &layer.input_norm);
        push(of_layer(index, POST_NORM), &[hidden], &layer.post_norm);
        for (matrix, values) in Matrix::ALL.into_iter().zip(&layer.matrices) {
            push(of_layer(index, part(matrix)), &shape(architecture, matrix), values);
        }
    }
    named
}
