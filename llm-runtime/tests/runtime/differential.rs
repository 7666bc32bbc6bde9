//! The same weights and tokens through candle's own models.

use std::collections::HashMap;
use std::sync::Arc;

use assay_audit::commit::{self, ModelWeights};
use assay_audit::model::{CommitError, InMemory};
use assay_commitments::TokenId;
use assay_commitments::manifest::{Architecture, Biases, Matrix};
use assay_commitments::rows::Profile;
use assay_llm_runtime::checkpoint::named_tensors;
use assay_llm_runtime::synthetic::{self, Numbers};
use assay_llm_runtime::{Checkpoint, Model, Quantized, Session, Weights};
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::{llama, mistral, qwen2, qwen3};

use super::{fill_small, fixture, greedy, model, tokenizer, tokens};

/// Logits in f32 agree to this.
const TOLERANCE: f32 = 1e-4;

fn builder(checkpoint: &Checkpoint, dtype: DType) -> VarBuilder<'static> {
    let tensors = named_tensors(&checkpoint.architecture, &checkpoint.tensors);
    let tensors: HashMap<String, Tensor> = tensors
        .into_iter()
        .map(|tensor| {
            let values = Tensor::from_slice(tensor.values, tensor.shape, &Device::Cpu).unwrap();
            (tensor.name, values.to_dtype(dtype).unwrap())
        })
        .collect();
    VarBuilder::from_tensors(tensors, dtype, &Device::Cpu)
}

fn ids(tokens: &[TokenId]) -> Tensor {
    let ids: Vec<u32> = tokens.iter().map(|token| token.get()).collect();
    Tensor::new(ids, &Device::Cpu).unwrap().unsqueeze(0).unwrap()
}

/// Candle's Llama, fed token by token or several at once.
struct Oracle {
    llama: llama::Llama,
    cache: llama::Cache,
    positions: usize,
}

impl Oracle {
    fn new(checkpoint: &Checkpoint, dtype: DType) -> Self {
        Self::scaled(checkpoint, dtype, None)
    }

    fn scaled(checkpoint: &Checkpoint, dtype: DType, scaling: Option<llama::Llama3RopeConfig>) -> Self {
        let architecture = &checkpoint.architecture;
        assert_eq!(architecture.query_width(), architecture.hidden, "candle's Llama has no head width of its own");
        let config = llama::Config {
            hidden_size: architecture.hidden as usize,
            intermediate_size: architecture.ffn as usize,
            vocab_size: architecture.vocab_size as usize,
            num_hidden_layers: architecture.layers as usize,
            num_attention_heads: architecture.heads as usize,
            num_key_value_heads: architecture.kv_heads as usize,
            use_flash_attn: false,
            rms_norm_eps: f64::from(architecture.norm_eps),
            rope_theta: 10_000.0,
            bos_token_id: None,
            eos_token_id: None,
            rope_scaling: scaling,
            max_position_embeddings: architecture.max_positions as usize,
            tie_word_embeddings: architecture.tied,
        };
        let cache = llama::Cache::new(true, dtype, &config, &Device::Cpu).unwrap();
        Self { llama: llama::Llama::load(builder(checkpoint, dtype), &config).unwrap(), cache, positions: 0 }
    }

    fn feed(&mut self, tokens: &[TokenId]) -> Vec<f32> {
        let logits = self.llama.forward(&ids(tokens), self.positions, &mut self.cache).unwrap();
        self.positions += tokens.len();
        logits.flatten_all().unwrap().to_vec1().unwrap()
    }
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).fold(0.0, |largest, (a, b)| largest.max((a - b).abs()))
}

/// Prefill and greedy decoding in f32: the same tokens, logits within the tolerance. `feed` runs tokens
/// in candle's model and gives the logits after them.
fn assert_equal(
    checkpoint: &Checkpoint,
    prompt: &[TokenId],
    steps: usize,
    feed: &mut dyn FnMut(&[TokenId]) -> Vec<f32>,
) {
    let mut session = Session::new(model(checkpoint, Profile::F32V1), false);
    let (mut ours, mut theirs) = (session.prefill(prompt).unwrap(), feed(prompt));
    for step in 0..steps {
        let difference = largest_difference(&ours, &theirs);
        assert!(difference <= TOLERANCE, "step {step}: logits differ by {difference}");
        let token = greedy(&ours);
        assert_eq!(token, greedy(&theirs), "step {step}");
        (ours, theirs) = (session.step(token).unwrap(), feed(&[token]));
    }
}

fn assert_equal_to_llama(checkpoint: &Checkpoint, prompt: &[TokenId], steps: usize) {
    let mut oracle = Oracle::new(checkpoint, DType::F32);
    assert_equal(checkpoint, prompt, steps, &mut |tokens| oracle.feed(tokens));
}

#[test]
fn f32_equals_candle_on_the_fixture() {
    let checkpoint = fixture();
    let prompt = tokenizer(&checkpoint).encode("And God said unto").unwrap();
    assert_equal_to_llama(&checkpoint, &prompt, 120);
}

#[test]
fn f32_equals_candle_with_one_key_head_for_four_and_an_untied_head() {
    let numbers = Numbers {
        vocab_size: 300,
        hidden: 64,
        layers: 3,
        heads: 4,
        kv_heads: 1,
        head_dim: 16,
        ffn: 160,
        ..Numbers::TINY
    };
    let checkpoint = synthetic::checkpoint(&numbers, 11);
    assert_equal_to_llama(&checkpoint, &tokens(&checkpoint, 40), 60);
}

#[test]
fn f32_equals_candle_with_a_key_head_each_and_a_tied_head() {
    let numbers = Numbers { hidden: 96, heads: 3, kv_heads: 3, head_dim: 32, ffn: 100, tied: true, ..Numbers::TINY };
    let checkpoint = synthetic::checkpoint(&numbers, 12);
    assert_equal_to_llama(&checkpoint, &tokens(&checkpoint, 33), 60);
}

/// Candle's Llama derives the width of a head, its Mistral does not; without a window they are the
/// same function otherwise. Candle's window leaves out the position itself.
fn mistral_logits(checkpoint: &Checkpoint, window: Option<usize>, prompt: &[TokenId]) -> Vec<f32> {
    let architecture = &checkpoint.architecture;
    let config = mistral::Config {
        vocab_size: architecture.vocab_size as usize,
        hidden_size: architecture.hidden as usize,
        intermediate_size: architecture.ffn as usize,
        num_hidden_layers: architecture.layers as usize,
        num_attention_heads: architecture.heads as usize,
        head_dim: Some(architecture.head_dim as usize),
        num_key_value_heads: architecture.kv_heads as usize,
        hidden_act: candle_nn::Activation::Silu,
        max_position_embeddings: architecture.max_positions as usize,
        rms_norm_eps: f64::from(architecture.norm_eps),
        rope_theta: 10_000.0,
        sliding_window: window.map(|window| window - 1),
        use_flash_attn: false,
    };
    let mut oracle = mistral::Model::new(&config, builder(checkpoint, DType::F32)).unwrap();
    oracle.forward(&ids(prompt), 0).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn wide_heads() -> Checkpoint {
    let numbers = Numbers { hidden: 48, heads: 4, kv_heads: 2, head_dim: 32, ..Numbers::TINY };
    synthetic::checkpoint(&numbers, 13)
}

#[test]
fn f32_equals_candle_where_heads_are_wider_than_the_stream() {
    let checkpoint = wide_heads();
    let prompt = tokens(&checkpoint, 50);
    let ours = Session::new(model(&checkpoint, Profile::F32V1), false).prefill(&prompt).unwrap();
    let difference = largest_difference(&ours, &mistral_logits(&checkpoint, None, &prompt));
    assert!(difference <= TOLERANCE, "{difference}");
}

#[test]
fn a_window_is_candles_sliding_window() {
    let checkpoint = wide_heads();
    let prompt = tokens(&checkpoint, 50);
    let windowed = |window| {
        let windowed = Arc::new(model(&checkpoint, Profile::F32V1).with_window(window));
        let logits = Session::new(windowed.clone(), false).prefill(&prompt).unwrap();
        let mut session = Session::new(windowed, false);
        let steps = prompt.iter().map(|token| session.step(*token).unwrap()).last().unwrap();
        assert!(largest_difference(&logits, &steps) <= TOLERANCE, "prefill and steps");
        logits
    };
    let full = mistral_logits(&checkpoint, None, &prompt);
    let short = windowed(6);
    assert!(largest_difference(&short, &mistral_logits(&checkpoint, Some(6), &prompt)) <= TOLERANCE);
    assert!(largest_difference(&short, &full) > 0.1, "a window of 6 in 50 positions shows");
    assert!(largest_difference(&windowed(50), &full) <= TOLERANCE);
}

#[test]
fn a_window_of_the_architecture_is_the_models() {
    let mut checkpoint = wide_heads();
    checkpoint.architecture.window = Some(6);
    let prompt = tokens(&checkpoint, 50);
    let ours = Session::new(model(&checkpoint, Profile::F32V1), false).prefill(&prompt).unwrap();
    assert!(largest_difference(&ours, &mistral_logits(&checkpoint, Some(6), &prompt)) <= TOLERANCE);
}

#[test]
fn f32_equals_candles_llama_with_scaled_frequencies() {
    let numbers = Numbers { hidden: 128, heads: 4, head_dim: 32, max_positions: 256, ..Numbers::TINY };
    let mut checkpoint = synthetic::checkpoint(&numbers, 15);
    let scaling = llama::Llama3RopeConfig {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 64,
        rope_type: llama::Llama3RopeType::Llama3,
    };
    for frequency in &mut checkpoint.architecture.inverse_frequencies {
        let turns = 64.0 * *frequency / (2.0 * std::f32::consts::PI);
        let share = ((turns - 1.0) / 3.0).clamp(0.0, 1.0);
        *frequency = (1.0 - share) * *frequency / 8.0 + share * *frequency;
    }
    let mut oracle = Oracle::scaled(&checkpoint, DType::F32, Some(scaling));
    assert_equal(&checkpoint, &tokens(&checkpoint, 90), 60, &mut |tokens| oracle.feed(tokens));
    let mut plain = Oracle::new(&checkpoint, DType::F32);
    let prompt = tokens(&checkpoint, 90);
    let ours = Session::new(model(&checkpoint, Profile::F32V1), false).prefill(&prompt).unwrap();
    assert!(largest_difference(&ours, &plain.feed(&prompt)) > 0.01, "the scaling shows");
}

/// As [`assert_equal`], beside a model that is told how many positions came before.
fn assert_equal_to(checkpoint: &Checkpoint, mut forward: impl FnMut(&Tensor, usize) -> Tensor) {
    let mut positions = 0;
    assert_equal(checkpoint, &tokens(checkpoint, 40), 60, &mut |tokens| {
        let logits = forward(&ids(tokens), positions);
        positions += tokens.len();
        logits.flatten_all().unwrap().to_vec1().unwrap()
    });
}

#[test]
fn f32_equals_candles_qwen2() {
    for (tied, kv_heads) in [(true, 2), (false, 4)] {
        let numbers = Numbers { hidden: 64, heads: 4, kv_heads, head_dim: 16, tied, ..Numbers::TINY };
        let mut checkpoint = synthetic::checkpoint(&numbers, 16);
        checkpoint.architecture.biases = Biases::Qkv;
        fill_small(&mut checkpoint);
        let architecture = &checkpoint.architecture;
        let config = qwen2::Config {
            vocab_size: architecture.vocab_size as usize,
            hidden_size: architecture.hidden as usize,
            intermediate_size: architecture.ffn as usize,
            num_hidden_layers: architecture.layers as usize,
            num_attention_heads: architecture.heads as usize,
            num_key_value_heads: architecture.kv_heads as usize,
            max_position_embeddings: architecture.max_positions as usize,
            sliding_window: architecture.max_positions as usize,
            max_window_layers: 0,
            tie_word_embeddings: tied,
            rope_theta: 10_000.0,
            rms_norm_eps: f64::from(architecture.norm_eps),
            use_sliding_window: false,
            hidden_act: candle_nn::Activation::Silu,
        };
        let mut oracle = qwen2::ModelForCausalLM::new(&config, builder(&checkpoint, DType::F32)).unwrap();
        assert_equal_to(&checkpoint, |ids, positions| oracle.forward(ids, positions).unwrap());
    }
}

#[test]
fn f32_equals_candles_qwen3() {
    for (biases, tied) in [(Biases::None, true), (Biases::Qkvo, false)] {
        let numbers = Numbers { hidden: 48, heads: 6, kv_heads: 2, head_dim: 16, tied, ..Numbers::TINY };
        let mut checkpoint = synthetic::checkpoint(&numbers, 17);
        checkpoint.architecture.biases = biases;
        checkpoint.architecture.head_norms = true;
        fill_small(&mut checkpoint);
        let architecture = &checkpoint.architecture;
        let config = qwen3::Config {
            vocab_size: architecture.vocab_size as usize,
            hidden_size: architecture.hidden as usize,
            intermediate_size: architecture.ffn as usize,
            num_hidden_layers: architecture.layers as usize,
            num_attention_heads: architecture.heads as usize,
            head_dim: architecture.head_dim as usize,
            attention_bias: biases == Biases::Qkvo,
            num_key_value_heads: architecture.kv_heads as usize,
            max_position_embeddings: architecture.max_positions as usize,
            sliding_window: None,
            max_window_layers: 0,
            tie_word_embeddings: tied,
            rope_theta: 10_000.0,
            rms_norm_eps: f64::from(architecture.norm_eps),
            use_sliding_window: false,
            hidden_act: candle_nn::Activation::Silu,
        };
        let mut oracle = qwen3::ModelForCausalLM::new(&config, builder(&checkpoint, DType::F32)).unwrap();
        assert_equal_to(&checkpoint, |ids, positions| oracle.forward(ids, positions).unwrap());
    }
}

/// Weights of which the matrices are also given as integers.
struct AsIntegers<'a>(InMemory<'a>);

/// Inputs that share a scale.
const GROUP: usize = 16;

/// Small integers times powers of two, one for each group.
fn integers(layer: usize, matrix: Matrix, [outputs, inputs]: [usize; 2]) -> Quantized {
    let number = layer * 7 + matrix.index();
    let groups = inputs.div_ceil(GROUP);
    let value = |index: usize| i8::try_from((index * 37 + number * 11) % 251).unwrap_or(-128).wrapping_sub(64);
    Quantized {
        values: (0..outputs * inputs).map(|index| if index % 97 == 0 { -128 } else { value(index) }).collect(),
        scales: (0..outputs * groups).map(|index| f32::powi(2.0, -10 - i32::try_from(index % 3).unwrap())).collect(),
        group: GROUP,
    }
}

impl ModelWeights for AsIntegers<'_> {
    type Error = CommitError;

    fn architecture(&self) -> &Architecture {
        self.0.architecture()
    }

    fn read(&self, tensor: commit::Tensor, start: usize, out: &mut [f32]) -> Result<(), CommitError> {
        self.0.read(tensor, start, out)
    }
}

impl Weights for AsIntegers<'_> {
    fn quantized(&self, layer: usize, matrix: Matrix) -> Result<Option<Quantized>, CommitError> {
        let shape = self.architecture().shape(matrix);
        Ok(Some(integers(layer, matrix, [shape.outputs as usize, shape.inputs as usize])))
    }
}

#[test]
fn integers_run_as_the_weights_that_they_stand_for() {
    let numbers = Numbers { hidden: 40, head_dim: 16, ..Numbers::TINY };
    let mut checkpoint = synthetic::checkpoint(&numbers, 18);
    let architecture = checkpoint.architecture.clone();
    for (number, layer) in checkpoint.tensors.layers.iter_mut().enumerate() {
        for matrix in Matrix::ALL {
            let inputs = architecture.shape(matrix).inputs as usize;
            let outputs = architecture.shape(matrix).outputs as usize;
            let Quantized { values, scales, group } = integers(number, matrix, [outputs, inputs]);
            let groups = inputs.div_ceil(group);
            let weight = |(index, value): (usize, &i8)| {
                f32::from(*value) * scales[index / inputs * groups + index % inputs / group]
            };
            layer.matrices[matrix.index()] = values.iter().enumerate().map(weight).collect();
        }
    }
    let weights = AsIntegers(InMemory::new(&architecture, &checkpoint.tensors).unwrap());
    let prompt = tokens(&checkpoint, 30);
    let logits = |model: Model| Session::new(Arc::new(model), false).prefill(&prompt).unwrap();
    let integers = logits(Model::load(&weights, Profile::Bf16W8V1).unwrap());
    let dense = logits(Model::load(&weights, Profile::Bf16V1).unwrap());
    let largest = dense.iter().fold(0.0_f32, |largest, logit| largest.max(logit.abs()));
    let difference = largest_difference(&integers, &dense);
    println!("integers and their weights differ by {difference} in logits of up to {largest}");
    assert!(difference <= 0.03 * largest);
}

/// How many of candle's bf16 picks are ours, token by token on our greedy text.
fn bf16_agreement(model: Arc<Model>, oracle: &mut Oracle, prompt: &[TokenId], steps: u32) -> (u32, f32) {
    let mut session = Session::new(model, false);
    let (mut ours, mut theirs) = (session.prefill(prompt).unwrap(), oracle.feed(prompt));
    let (mut agreed, mut largest) = (0, 0.0_f32);
    for _ in 0..steps {
        let token = greedy(&ours);
        agreed += u32::from(token == greedy(&theirs));
        largest = largest.max(largest_difference(&ours, &theirs));
        (ours, theirs) = (session.step(token).unwrap(), oracle.feed(&[token]));
    }
    (agreed, largest)
}

#[test]
fn bf16_agrees_with_candle_in_nearly_all_picks() {
    const STEPS: u32 = 300;
    let checkpoint = fixture();
    let prompt = tokenizer(&checkpoint).encode("And the king answered,").unwrap();
    let run = |profile, dtype| {
        bf16_agreement(model(&checkpoint, profile), &mut Oracle::new(&checkpoint, dtype), &prompt, STEPS)
    };
    let (with_bf16, bf16_difference) = run(Profile::Bf16V1, DType::BF16);
    let (with_f32, f32_difference) = run(Profile::Bf16V1, DType::F32);
    println!(
        "bf16-1: {with_bf16} of {STEPS} picks as candle's bf16 (logits within {bf16_difference}), \
         {with_f32} as candle's f32 (logits within {f32_difference})"
    );
    assert!(with_bf16 >= STEPS * 9 / 10 && with_f32 >= STEPS * 9 / 10);
    assert!(f32_difference <= bf16_difference * 2.0, "one rounding an operation is no worse than candle's");
}
