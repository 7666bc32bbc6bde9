//! `candle-transformers`: its Qwen3.

use std::collections::HashMap;

use assay_audit::commit::{ModelWeights, Tensor as Name};
use assay_commitments::manifest::{Matrix, Small};
use assay_llm_runtime::synthetic::ComputedWeights;
use candle_core::{DType, Device, Result, Tensor};
use candle_nn::{Activation, VarBuilder};
use candle_transformers::models::qwen3::{Config, ModelForCausalLM};

use crate::decode::Runs;

/// The model of the weights, which are tied.
pub(crate) fn model(weights: &ComputedWeights, dtype: DType) -> Result<ModelForCausalLM> {
    let architecture = weights.architecture();
    let config = Config {
        vocab_size: architecture.vocab_size as usize,
        hidden_size: architecture.hidden as usize,
        intermediate_size: architecture.ffn as usize,
        num_hidden_layers: architecture.layers as usize,
        num_attention_heads: architecture.heads as usize,
        head_dim: architecture.head_dim as usize,
        attention_bias: false,
        num_key_value_heads: architecture.kv_heads as usize,
        max_position_embeddings: architecture.max_positions as usize,
        sliding_window: None,
        max_window_layers: 0,
        tie_word_embeddings: true,
        rope_theta: 10_000.0,
        rms_norm_eps: f64::from(architecture.norm_eps),
        use_sliding_window: false,
        hidden_act: Activation::Silu,
    };
    let mut tensors = HashMap::new();
    for name in Name::all(architecture) {
        let Ok(values) = weights.tensor(name);
        let tensor = Tensor::from_vec(values, name.shape(architecture), &Device::Cpu)?.to_dtype(dtype)?;
        tensors.insert(path(name), tensor);
    }
    ModelForCausalLM::new(&config, VarBuilder::from_tensors(tensors, dtype, &Device::Cpu))
}

/// Where the library looks for a tensor.
fn path(name: Name) -> String {
    let (layer, within) = match name {
        Name::Embeddings => return "model.embed_tokens.weight".to_owned(),
        Name::FinalNorm => return "model.norm.weight".to_owned(),
        Name::Head => return "lm_head.weight".to_owned(),
        Name::Matrix(layer, matrix) => {
            let within = match matrix {
                Matrix::Q => "self_attn.q_proj",
                Matrix::K => "self_attn.k_proj",
                Matrix::V => "self_attn.v_proj",
                Matrix::O => "self_attn.o_proj",
                Matrix::Gate => "mlp.gate_proj",
                Matrix::Up => "mlp.up_proj",
                Matrix::Down => "mlp.down_proj",
            };
            (layer, format!("{within}.weight"))
        }
        Name::Small(layer, small) => {
            let within = match small {
                Small::InputNorm => "input_layernorm.weight",
                Small::PostNorm => "post_attention_layernorm.weight",
                Small::QueryNorm => "self_attn.q_norm.weight",
                Small::KeyNorm => "self_attn.k_norm.weight",
                Small::QueryBias => "self_attn.q_proj.bias",
                Small::KeyBias => "self_attn.k_proj.bias",
                Small::ValueBias => "self_attn.v_proj.bias",
                Small::OutputBias => "self_attn.o_proj.bias",
            };
            (layer, within.to_owned())
        }
    };
    format!("model.layers.{layer}.{within}")
}

impl Runs for ModelForCausalLM {
    fn restart(&mut self) {
        self.clear_kv_cache();
    }

    fn run(&mut self, tokens: &[u32], start: usize) -> std::result::Result<Vec<f32>, crate::Failure> {
        let input = Tensor::new(tokens, &Device::Cpu)?.unsqueeze(0)?;
        Ok(self.forward(&input, start)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
    }
}
