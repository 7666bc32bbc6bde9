//! Random models, for tests and measurements: of any shape, the same on every platform, with a tokenizer.
//!
//! They write no sense, but they run, commit and are audited like others: weights are scaled so that
//! every branch matters to the stream and attention is neither flat nor a single peak.

mod computed;

use std::fs;
use std::io;
use std::path::Path;

use assay_audit::model::{LayerTensors, ModelTensors};
use assay_commitments::TokenId;
use assay_commitments::manifest::{Architecture, Biases, Matrix, Small, SmallTensors};
use assay_commitments::rows::{Profile, encode_row, round_bf16};
use half::f16;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Map, Value, json};

use crate::checkpoint::{Checkpoint, Scaling, inverse_frequencies, matrix_prefix, named_tensors};
use crate::random::Random;

pub use computed::ComputedWeights;

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
    /// Which projections have a bias.
    pub biases: Biases,
    /// Whether query and key heads are normed.
    pub head_norms: bool,
    /// How many positions a position attends to; `None` for all before it.
    pub window: Option<u32>,
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
        biases: Biases::None,
        head_norms: false,
        window: None,
    };

    /// The shape of Qwen3-0.6B.
    pub const QWEN3_0_6B: Self = Self {
        vocab_size: 151_936,
        hidden: 1024,
        layers: 28,
        heads: 16,
        kv_heads: 8,
        head_dim: 128,
        ffn: 3072,
        max_positions: 4096,
        tied: true,
        biases: Biases::None,
        head_norms: true,
        window: None,
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
            inverse_frequencies: inverse_frequencies(ROPE_THETA, self.head_dim, Scaling::Plain),
            tied: self.tied,
            biases: self.biases,
            head_norms: self.head_norms,
            window: self.window,
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
        profile: Profile::Bf16V1,
        tensors: ModelTensors { embeddings, layers, final_norm, head },
        tokenizer: tokenizer(numbers.vocab_size).to_string().into_bytes(),
        chat_template: Some(CHAT_TEMPLATE.to_owned()),
    }
}

fn layer(random: &mut Random, architecture: &Architecture) -> LayerTensors {
    LayerTensors {
        small: SmallTensors(Small::ALL.map(|small| match small {
            Small::InputNorm | Small::PostNorm | Small::QueryNorm | Small::KeyNorm => {
                norm(random, architecture.length(small))
            }
            Small::QueryBias | Small::KeyBias | Small::ValueBias | Small::OutputBias => {
                noise(random, architecture.length(small) as usize, 0.0, 0.25)
            }
        })),
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
/// What the system says, or that there is no family with such biases, norms and windows.
pub fn write(numbers: &Numbers, seed: u64, folder: &Path) -> io::Result<Checkpoint> {
    let checkpoint = checkpoint(numbers, seed);
    write_surroundings(&checkpoint, &config(numbers)?, folder)?;
    let named = named_tensors(&checkpoint.architecture, &checkpoint.tensors);
    let stored = named.into_iter().map(|tensor| (tensor.name, Dtype::BF16, tensor.shape, bf16_bytes(tensor.values)));
    write_safetensors(&stored.collect::<Vec<_>>(), folder)?;
    Ok(checkpoint)
}

/// `config.json` of the family that does what the numbers say.
fn config(numbers: &Numbers) -> io::Result<Value> {
    let mut config = json!({
        "hidden_act": "silu",
        "vocab_size": numbers.vocab_size, "hidden_size": numbers.hidden, "intermediate_size": numbers.ffn,
        "num_hidden_layers": numbers.layers, "num_attention_heads": numbers.heads,
        "num_key_value_heads": numbers.kv_heads, "head_dim": numbers.head_dim,
        "max_position_embeddings": numbers.max_positions, "rms_norm_eps": 1e-5, "rope_theta": ROPE_THETA,
        "tie_word_embeddings": numbers.tied, "eos_token_id": STOP,
    });
    let on_demand = json!({
        "attention_bias": numbers.biases != Biases::None, "use_sliding_window": numbers.window.is_some(),
        "sliding_window": numbers.window, "max_window_layers": 0,
    });
    let (family, model_type, more) = match (numbers.biases, numbers.head_norms, numbers.window) {
        (biases @ (Biases::None | Biases::Qkvo), false, None) => {
            ("Llama", "llama", json!({"attention_bias": biases == Biases::Qkvo}))
        }
        (Biases::None, false, window) => ("Mistral", "mistral", json!({"sliding_window": window})),
        (Biases::Qkv, false, _) => ("Qwen2", "qwen2", on_demand),
        (Biases::None | Biases::Qkvo, true, _) => ("Qwen3", "qwen3", on_demand),
        _ => return Err(io::Error::other("no family has such biases, norms and windows")),
    };
    config["architectures"] = json!([format!("{family}ForCausalLM")]);
    config["model_type"] = json!(model_type);
    if let (Some(config), Value::Object(more)) = (config.as_object_mut(), more) {
        config.extend(more);
    }
    Ok(config)
}

fn write_surroundings(checkpoint: &Checkpoint, config: &Value, folder: &Path) -> io::Result<()> {
    let tokenizer_config = json!({"chat_template": checkpoint.chat_template});
    fs::create_dir_all(folder)?;
    fs::write(folder.join("config.json"), config.to_string())?;
    fs::write(folder.join("tokenizer.json"), &checkpoint.tokenizer)?;
    fs::write(folder.join("tokenizer_config.json"), tokenizer_config.to_string())
}

/// A tensor's name, type, shape and bytes.
type Stored = (String, Dtype, Vec<usize>, Vec<u8>);

fn write_safetensors(tensors: &[Stored], folder: &Path) -> io::Result<()> {
    let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
        let view = TensorView::new(*dtype, shape.clone(), bytes).map_err(io::Error::other)?;
        Ok((name.as_str(), view))
    });
    let views: Vec<_> = views.collect::<io::Result<_>>()?;
    fs::write(folder.join("model.safetensors"), safetensors::serialize(views, None).map_err(io::Error::other)?)
}

fn bf16_bytes(values: &[f32]) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_row(Profile::Bf16V1, values, &mut bytes);
    bytes
}

/// How a random model is quantised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quantization {
    /// Bits of an integer, 4 or 8.
    pub bits: u32,
    /// Consecutive inputs that share scale and zero; `None` for all.
    pub group_size: Option<u32>,
    /// Whether all zeros are in the middle of the range.
    pub symmetric: bool,
    /// Whether zeros are stored as they are, as version 2 of the layout has them, and not less one.
    pub version_2: bool,
}

impl Quantization {
    /// What most quantised models are.
    pub const INT4: Self = Self { bits: 4, group_size: Some(32), symmetric: true, version_2: false };
}

/// Writes a random model, quantised, as a folder in the layout of GPTQ, and gives the model that it then is. Sides of
/// matrices are multiples of 8, or of 4 for integers of eight bits.
///
/// # Errors
/// As [`write`].
pub fn write_gptq(numbers: &Numbers, quantization: Quantization, seed: u64, folder: &Path) -> io::Result<Checkpoint> {
    let mut checkpoint = Checkpoint { profile: Profile::Bf16W8V1, ..checkpoint(numbers, seed) };
    let architecture = &checkpoint.architecture;
    let mut stored: Vec<Stored> = vec![];
    for tensor in named_tensors(architecture, &checkpoint.tensors) {
        if !tensor.name.ends_with("_proj.weight") {
            stored.push((tensor.name, Dtype::BF16, tensor.shape, bf16_bytes(tensor.values)));
        }
    }
    for (number, layer) in checkpoint.tensors.layers.iter_mut().enumerate() {
        for (matrix, weights) in Matrix::ALL.into_iter().zip(&mut layer.matrices) {
            let inputs = architecture.shape(matrix).inputs as usize;
            let prefix = matrix_prefix(number, matrix);
            stored.extend(
                quantization
                    .pack(weights, inputs)
                    .map(|(part, dtype, shape, bytes)| (format!("{prefix}.{part}"), dtype, shape, bytes)),
            );
        }
    }
    let mut config = config(numbers)?;
    config["quantization_config"] = json!({
        "quant_method": "gptq", "bits": quantization.bits, "desc_act": false, "sym": quantization.symmetric,
        "group_size": quantization.group_size.map_or(-1, i64::from),
        "checkpoint_format": if quantization.version_2 { "gptq_v2" } else { "gptq" },
    });
    write_surroundings(&checkpoint, &config, folder)?;
    write_safetensors(&stored, folder)?;
    Ok(checkpoint)
}

impl Quantization {
    /// Brings a matrix `[outputs, inputs]` to integers times scales, in place, and gives its tensors.
    #[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "integers are small")]
    fn pack(self, weights: &mut [f32], inputs: usize) -> [(&'static str, Dtype, Vec<usize>, Vec<u8>); 4] {
        let bits = self.bits as usize;
        let per_word = 32 / bits;
        let largest = (1_i32 << bits) - 1;
        let group = self.group_size.map_or(inputs, |size| size as usize);
        let (outputs, groups) = (weights.len() / inputs, inputs.div_ceil(group));
        let mut words = vec![0_u32; inputs / per_word * outputs];
        let mut zeros = vec![0_u32; groups * outputs / per_word];
        let mut scales = vec![f16::ZERO; groups * outputs];
        for (output, row) in weights.chunks_mut(inputs).enumerate() {
            for (number, row) in row.chunks_mut(group).enumerate() {
                let least = row.iter().copied().fold(0.0, f32::min);
                let most = row.iter().copied().fold(0.0, f32::max);
                let (scale, zero) = if self.symmetric {
                    (2.0 * most.max(-least) / largest as f32, (largest + 1) / 2)
                } else {
                    // So that no integer takes more than eight bits.
                    let scale = ((most - least) / largest as f32).max(most / 127.0).max(-least / 128.0);
                    (scale, ((-least / scale).round_ties_even() as i32).clamp(1, largest))
                };
                let scale = f16::from_f32(scale);
                scales[number * outputs + output] = scale;
                let place = number * outputs + output;
                let stored = zero - i32::from(!self.version_2);
                zeros[place / per_word] |= stored.unsigned_abs() << (place % per_word * bits);
                for (within, weight) in row.iter_mut().enumerate() {
                    let integer = (*weight / scale.to_f32()).round_ties_even() as i32;
                    let integer = integer.clamp((-zero).max(-128), (largest - zero).min(127));
                    let input = number * group + within;
                    let packed = (integer + zero).unsigned_abs() << (input % per_word * bits);
                    words[input / per_word * outputs + output] |= packed;
                    *weight = integer as f32 * scale.to_f32();
                }
            }
        }
        let of_words = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
        let of_inputs: Vec<u32> =
            (0..).zip(0..groups).flat_map(|(number, _)| vec![number; group]).take(inputs).collect();
        [
            ("qweight", Dtype::I32, vec![inputs / per_word, outputs], of_words(&words)),
            ("qzeros", Dtype::I32, vec![groups, outputs / per_word], of_words(&zeros)),
            ("scales", Dtype::F16, vec![groups, outputs], scales.iter().flat_map(|x| x.to_le_bytes()).collect()),
            ("g_idx", Dtype::I32, vec![inputs], of_words(&of_inputs)),
        ]
    }
}
