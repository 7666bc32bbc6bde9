//! The runtime as its callers see it.
#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

mod answers;
mod differential;
mod engine;
mod families;
mod folders;
mod prompts;
mod traces;

use std::path::PathBuf;
use std::sync::Arc;

use assay_audit::prompt::Tokenizer;
use assay_commitments::TokenId;
use assay_commitments::manifest::{Biases, Small};
use assay_commitments::rows::{Profile, round_bf16};
use assay_commitments::trace::{Trace, TraceRows};
use assay_llm_runtime::synthetic::{self, Numbers};
use assay_llm_runtime::{Checkpoint, Model};

/// The trained model of this repository.
fn fixture_folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/model"))
}

fn fixture() -> Checkpoint {
    Checkpoint::load(&fixture_folder(), Profile::Bf16V1).expect("the fixture model is whole")
}

fn model(checkpoint: &Checkpoint, profile: Profile) -> Arc<Model> {
    Arc::new(Model::new(&checkpoint.architecture, &checkpoint.tensors, profile).unwrap())
}

fn tokenizer(checkpoint: &Checkpoint) -> Tokenizer {
    Tokenizer::from_bytes(&checkpoint.tokenizer).unwrap()
}

/// Tokens that wander over the vocabulary.
fn tokens(checkpoint: &Checkpoint, count: u32) -> Vec<TokenId> {
    (0..count).map(|index| TokenId::new((index * index + 7 * index + 3) % checkpoint.architecture.vocab_size)).collect()
}

fn greedy(logits: &[f32]) -> TokenId {
    let sampling = assay_audit::sampling::Sampling::GREEDY;
    assay_audit::sampling::sample(logits, &sampling, assay_commitments::Position::new(0))
}

/// Fills the small tensors that the architecture has now.
fn fill_small(checkpoint: &mut Checkpoint) {
    let mut state = 1_u32;
    let mut noise = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f32::from(u16::try_from(state >> 16).unwrap()) / 32_768.0 - 1.0
    };
    for layer in &mut checkpoint.tensors.layers {
        for small in Small::ALL {
            let mean = f32::from(u8::from(matches!(
                small,
                Small::InputNorm | Small::PostNorm | Small::QueryNorm | Small::KeyNorm
            )));
            let length = checkpoint.architecture.length(small) as usize;
            layer.small.0[small.index()] = (0..length).map(|_| round_bf16(mean + 0.4 * noise())).collect();
        }
    }
}

/// A model with everything that families differ in.
fn varied(window: u32) -> Checkpoint {
    let numbers = Numbers { max_positions: 512, head_dim: 24, heads: 6, ..Numbers::TINY };
    let mut checkpoint = synthetic::checkpoint(&numbers, 8);
    checkpoint.architecture.stop_tokens.clear();
    checkpoint.architecture.biases = Biases::Qkvo;
    checkpoint.architecture.head_norms = true;
    checkpoint.architecture.window = Some(window);
    fill_small(&mut checkpoint);
    checkpoint
}

fn assert_equal_traces(a: &Trace, b: &Trace) {
    assert_eq!((a.shape(), a.positions()), (b.shape(), b.positions()));
    for tree in a.shape().trees() {
        for position in 0..a.positions() {
            let rows = [a, b].map(|trace| trace.rows(tree, position..position + 1));
            assert_eq!(rows[0], rows[1], "{tree:?} {position}");
        }
    }
}
