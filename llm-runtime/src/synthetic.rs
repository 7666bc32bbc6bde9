//! Small random models, for tests: of any shape, the same on every platform, with a tokenizer.
//!
//! They write no sense, but they run, commit and are audited like others: weights are scaled so that
//! every branch matters to the stream and attention is neither flat nor a single peak.

use std::fs;
use std::io;
use std::path::Path;

use assay_audit::model::{LayerTensors, ModelTensors};
use assay_commitments::TokenId;
use assay_commitments::manifest::{Architecture, Biases, Matrix, Small, SmallTensors};
use assay_commitments::rows::{Profile, encode_row, round_bf16};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Map, Value, json};

use crate::checkpoint::{Checkpoint, inverse_frequencies, named_tensors};
use crate::random::Random;

/// Base of the rotary frequencies.
const ROPE_THETA: f64 = 10_000.0;
/// Token 0 ends an answer.
const STOP: u32 = 0;
/// Token 1 stands for characters that have none of their own.
const UNKNOWN: u32 = 1;

/// The numbers of a model to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Numbers {
    /// Entries of the vocabulary: a stop token, an unknown character, printable ASCII as far as it
    /// fits, then tokens that no text has. At least 2.
    pub vocab_size: u32,
    /// Width of the residual stream.
    pub hidden: u32,
    /// Decoder layers.
    pub layers: u32,
    /// Query heads.
    pub heads: u32,
    /// Key and value heads.
    pub kv_heads: u32,
    /// Width of a head.
    pub head_dim: u32,
    /// Width of the MLP.
    pub ffn: u32,
    /// Most positions of a session.
    pub max_positions: u32,
    /// Whether lm_head is the embedding table.
    pub tied: bool,
}

impl Numbers {
    /// About as small as a model can be that has everything: two layers, two groups of two heads.
    pub const TINY: Self = Self {
        vocab_size: 100,
        hidden: 32,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        head_dim: 8,
        ffn: 64,
        max_positions: 128,
        tied: false,
    };

    /// The architecture of these numbers.
    pub fn architecture(&self) -> Architecture {
        Architecture {
            vocab_size: self.vocab_size,
            hidden: self.hidden,
            layers: self.layers,
            heads: self.heads,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            ffn: self.ffn,
            max_positions: self.max_positions,
            norm_eps: 1e-5,
            inverse_frequencies: inverse_frequencies(ROPE_THETA, self.head_dim),
            tied: self.tied,
            biases: Biases::None,
            head_norms: false,
            window: None,
            stop_tokens: vec![TokenId::new(STOP)],
        }
    }
}

/// A random model of bf16 weights; equal numbers and seeds give equal models.
pub fn checkpoint(numbers: &Numbers, seed: u64) -> Checkpoint {
    let architecture = numbers.architecture();
    let mut random = Random::new(seed);
    let embeddings = matrix(&mut random, numbers.vocab_size, numbers.hidden, 3.0);
    let layers = (0..numbers.layers).map(|_| layer(&mut random, &architecture)).collect();
    let final_norm = norm(&mut random, numbers.hidden);
    let head = (!numbers.tied).then(|| matrix(&mut random, numbers.vocab_size, numbers.hidden, 3.0));
    Checkpoint {
        architecture,
        tensors: ModelTensors { embeddings, layers, final_norm, head },
        tokenizer: tokenizer(numbers.vocab_size).to_string().into_bytes(),
        chat_template: Some(CHAT_TEMPLATE.to_owned()),
    }
}

fn layer(random: &mut Random, architecture: &Architecture) -> LayerTensors {
    LayerTensors {
        small: SmallTensors(Small::ALL.map(|small| norm(random, architecture.length(small)))),
        matrices: Matrix::ALL.map(|which| {
            let shape = architecture.shape(which);
            let gain = if matches!(which, Matrix::Q | Matrix::K) { 1.4 } else { 1.0 };
            matrix(random, shape.outputs, shape.inputs, gain)
        }),
    }
}

fn norm(random: &mut Random, width: u32) -> Vec<f32> {
    noise(random, width as usize, 1.0, 0.2)
}

/// A matrix whose products with a normed row have deviations around `gain`.
#[expect(clippy::cast_precision_loss, reason = "widths stay below 2^24")]
fn matrix(random: &mut Random, outputs: u32, inputs: u32, gain: f32) -> Vec<f32> {
    noise(random, outputs as usize * inputs as usize, 0.0, gain / (inputs as f32).sqrt())
}

fn noise(random: &mut Random, length: usize, mean: f32, deviation: f32) -> Vec<f32> {
    (0..length).map(|_| round_bf16(mean + deviation * random.normal())).collect()
}

/// Each message on a line of its own, after its role.
const CHAT_TEMPLATE: &str =
    "{% for message in messages %}{{ message.role }}: {{ message.content }}~{% endfor %}assistant: ";

/// A tokenizer of one character a token.
fn tokenizer(vocab_size: u32) -> Value {
    let characters = (b' '..=b'~').map(|byte| char::from(byte).to_string());
    let fillers = (0..).map(|index: u32| format!("<{index}>"));
    let tokens = ["</s>", "<?>"].map(str::to_owned).into_iter().chain(characters).chain(fillers);
    let vocabulary: Map<String, Value> = (0..vocab_size).zip(tokens).map(|(id, token)| (token, json!(id))).collect();
    let special = |id: u32, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true})
    };
    json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
        "added_tokens": [special(STOP, "</s>"), special(UNKNOWN, "<?>")],
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(?s)."}, "behavior": "Isolated", "invert": false},
        "decoder": {"type": "Fuse"},
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "<?>"},
    })
}

/// Writes a random model as a folder in the Hugging Face layout, weights as bf16, and gives the model.
///
/// # Errors
/// What the system says.
pub fn write(numbers: &Numbers, seed: u64, folder: &Path) -> io::Result<Checkpoint> {
    let checkpoint = checkpoint(numbers, seed);
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
        "vocab_size": numbers.vocab_size, "hidden_size": numbers.hidden, "intermediate_size": numbers.ffn,
        "num_hidden_layers": numbers.layers, "num_attention_heads": numbers.heads,
        "num_key_value_heads": numbers.kv_heads, "head_dim": numbers.head_dim,
        "max_position_embeddings": numbers.max_positions, "rms_norm_eps": 1e-5, "rope_theta": ROPE_THETA,
        "tie_word_embeddings": numbers.tied, "eos_token_id": STOP,
    });
    let tokenizer_config = json!({"chat_template": checkpoint.chat_template});
    fs::create_dir_all(folder)?;
    fs::write(folder.join("config.json"), config.to_string())?;
    fs::write(folder.join("tokenizer.json"), &checkpoint.tokenizer)?;
    fs::write(folder.join("tokenizer_config.json"), tokenizer_config.to_string())?;
    fs::write(folder.join("model.safetensors"), safetensors(&checkpoint)?)?;
    Ok(checkpoint)
}

/// The weights in one file, under the names that Hugging Face gives them.
fn safetensors(checkpoint: &Checkpoint) -> io::Result<Vec<u8>> {
    let named = named_tensors(&checkpoint.architecture, &checkpoint.tensors);
    let encoded = named.iter().map(|tensor| {
        let mut bytes = Vec::new();
        encode_row(Profile::Bf16V1, tensor.values, &mut bytes);
        bytes
    });
    let encoded: Vec<Vec<u8>> = encoded.collect();
    let views = named.iter().zip(&encoded).map(|(tensor, bytes)| {
        let view = TensorView::new(Dtype::BF16, tensor.shape.clone(), bytes).map_err(io::Error::other)?;
        Ok((tensor.name.as_str(), view))
    });
    let views: Vec<_> = views.collect::<io::Result<_>>()?;
    safetensors::serialize(views, None).map_err(io::Error::other)
}
