//! The runtime as its callers see it.
#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

mod answers;
mod differential;
mod folders;
mod prompts;
mod traces;

use std::path::PathBuf;
use std::sync::Arc;

use assay_audit::prompt::Tokenizer;
use assay_commitments::TokenId;
use assay_commitments::rows::Profile;
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
