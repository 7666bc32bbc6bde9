//! A model folder in the Hugging Face layout, read and checked.
//!
//! Read are `config.json`, `generation_config.json` and `tokenizer_config.json` where they exist,
//! `tokenizer.json`, and the weights: `model.safetensors`, or the files that
//! `model.safetensors.index.json` names. Nothing is guessed: what this runtime does not do is refused
//! by name.

mod config;
mod error;
mod names;
mod template;
mod weights;

use std::fs;
use std::io;
use std::path::Path;

use assay_audit::model::ModelTensors;
use assay_audit::prompt::Tokenizer;
use assay_commitments::manifest::Architecture;
use serde_json::Value;

pub(crate) use config::inverse_frequencies;
pub use error::{CheckpointError, ConfigProblem, ConfigProblems};
pub use names::{NamedTensor, named_tensors};

use crate::numerics::Numerics;

/// A model as its folder describes it.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// Shapes and constants.
    pub architecture: Architecture,
    /// The weights as they are served and committed: f32, holding values of the served precision.
    pub tensors: ModelTensors,
    /// The bytes of `tokenizer.json`.
    pub tokenizer: Vec<u8>,
    /// The chat template. Where it uses `bos_token` or `eos_token`, they are set at its head, so that
    /// it renders the same without `tokenizer_config.json`.
    pub chat_template: Option<String>,
}

impl Checkpoint {
    /// Reads a model folder. Weights are brought to the precision of `numerics`: a bf16 checkpoint
    /// is served as it is, an f16 or f32 one is rounded to bf16 under [`Numerics::Bf16V1`].
    ///
    /// # Errors
    /// The first thing found missing, damaged, contradictory or not supported; of `config.json`, all
    /// of them.
    pub fn load(folder: &Path, numerics: Numerics) -> Result<Self, CheckpointError> {
        let architecture = Self::read_architecture(folder)?;
        let tokenizer_path = folder.join("tokenizer.json");
        let tokenizer = required(&tokenizer_path)?;
        check_tokenizer(&tokenizer_path, &tokenizer, &architecture)?;
        let chat_template = template::read(folder)?;
        let tensors = weights::read(folder, &architecture, numerics)?;
        Ok(Self { architecture, tensors, tokenizer, chat_template })
    }

    /// Reads the shapes and constants of a model folder, and none of its weights.
    ///
    /// # Errors
    /// A missing folder or file, or all problems of `config.json`.
    pub fn read_architecture(folder: &Path) -> Result<Architecture, CheckpointError> {
        if !folder.is_dir() {
            return Err(CheckpointError::NoFolder { folder: folder.to_owned() });
        }
        let config_path = folder.join("config.json");
        let config = required(&config_path).and_then(|bytes| json(&config_path, &bytes))?;
        let generation = optional_json(&folder.join("generation_config.json"))?;
        config::architecture(&config, generation.as_ref())
            .map_err(|problems| CheckpointError::Config { path: config_path, problems })
    }
}

fn check_tokenizer(path: &Path, bytes: &[u8], architecture: &Architecture) -> Result<(), CheckpointError> {
    let refuse = |reason: String| CheckpointError::Tokenizer { path: path.to_owned(), reason };
    let tokenizer = Tokenizer::from_bytes(bytes).map_err(|error| refuse(error.to_string()))?;
    let (tokens, vocabulary) = (tokenizer.vocabulary(), architecture.vocab_size);
    if tokens > vocabulary as usize {
        return Err(refuse(format!("it has {tokens} tokens, the model's vocab_size is {vocabulary}")));
    }
    Ok(())
}

/// The bytes of a file that a model folder must have.
fn required(path: &Path) -> Result<Vec<u8>, CheckpointError> {
    optional(path)?.ok_or_else(|| CheckpointError::NoFile { path: path.to_owned() })
}

/// The bytes of a file that a model folder may have.
fn optional(path: &Path) -> Result<Option<Vec<u8>>, CheckpointError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(CheckpointError::Io { path: path.to_owned(), source }),
    }
}

fn json(path: &Path, bytes: &[u8]) -> Result<Value, CheckpointError> {
    serde_json::from_slice(bytes).map_err(|source| CheckpointError::Json { path: path.to_owned(), source })
}

fn optional_json(path: &Path) -> Result<Option<Value>, CheckpointError> {
    optional(path)?.map(|bytes| json(path, &bytes)).transpose()
}
