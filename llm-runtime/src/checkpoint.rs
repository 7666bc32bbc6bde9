//! A model folder in the Hugging Face layout, read and checked.
//!
//! Read are `config.json`, `generation_config.json` and `tokenizer_config.json` where they exist,
//! `tokenizer.json`, and the weights: `model.safetensors`, or the files that
//! `model.safetensors.index.json` names. Nothing is guessed: what this runtime does not do is refused
//! by name.

mod config;
mod error;
mod gptq;
mod names;
mod rope;
mod template;
mod weights;

use std::fs;
use std::path::{Path, PathBuf};

use assay_audit::commit::{ModelWeights, Tensor, small_tensors};
use assay_audit::model::{LayerTensors, ModelTensors};
use assay_audit::prompt::{MAX_TOKENIZER_BYTES, Tokenizer};
use assay_commitments::manifest::{Architecture, Matrix};
use assay_commitments::rows::Profile;
use serde_json::Value;

use config::Configuration;
pub use error::{CheckpointError, ConfigProblem, ConfigProblems};
pub(crate) use names::matrix_prefix;
pub use names::{NamedTensor, named_tensors};
pub(crate) use rope::{Scaling, inverse_frequencies};
pub use weights::WeightFiles;

/// A model as its folder describes it.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// Shapes and constants.
    pub architecture: Architecture,
    /// The profile that the weights are served in.
    pub profile: Profile,
    /// The weights as they are served and committed: f32, holding values of the served precision.
    pub tensors: ModelTensors,
    /// The bytes of `tokenizer.json`.
    pub tokenizer: Vec<u8>,
    /// The chat template. Where it uses `bos_token` or `eos_token`, they are set at its head, so that
    /// it renders the same without `tokenizer_config.json`.
    pub chat_template: Option<String>,
}

/// Files of a folder that decide what model it is, beside the weights.
const SMALL_FILES: [&str; 6] = [CONFIG, GENERATION_CONFIG, TOKENIZER, template::CONFIG, template::FILE, weights::INDEX];
const CONFIG: &str = "config.json";
const GENERATION_CONFIG: &str = "generation_config.json";
const TOKENIZER: &str = "tokenizer.json";
/// Where AutoGPTQ said how a model is quantised before `config.json` did.
const OLD_QUANTIZATION: &str = "quantize_config.json";

/// What `config.json` says of a model, weights unseen.
#[derive(Clone, Debug)]
pub struct Description {
    folder: PathBuf,
    configuration: Configuration,
}

impl Description {
    /// Reads the configuration of a model folder.
    ///
    /// # Errors
    /// A missing folder or file, all problems of `config.json`, or a quantisation that it does not speak of.
    pub fn read(folder: &Path) -> Result<Self, CheckpointError> {
        if folder.is_file() {
            return Err(CheckpointError::NotAFolder { path: folder.to_owned() });
        }
        if !folder.is_dir() {
            return Err(CheckpointError::NoFolder { folder: folder.to_owned() });
        }
        let config_path = folder.join(CONFIG);
        let config = required(&config_path).and_then(|bytes| json(&config_path, &bytes))?;
        let generation = optional_json(&folder.join(GENERATION_CONFIG))?;
        let configuration = config::read(&config, generation.as_ref())
            .map_err(|problems| CheckpointError::Config { path: config_path, problems })?;
        let old = folder.join(OLD_QUANTIZATION);
        if configuration.gptq.is_none() && old.exists() {
            return Err(CheckpointError::OldQuantization { path: old });
        }
        Ok(Self { folder: folder.to_owned(), configuration })
    }

    /// Shapes and constants.
    pub const fn architecture(&self) -> &Architecture {
        &self.configuration.architecture
    }

    /// The profile that the model is served in unless told otherwise.
    pub const fn natural_profile(&self) -> Profile {
        match self.configuration.gptq {
            Some(_) => Profile::Bf16W8V1,
            None => Profile::Bf16V1,
        }
    }

    /// The profile that was asked for, if any, else the natural one.
    ///
    /// # Errors
    /// [`CheckpointError::Profile`] for one that is for integers where there are none, or the reverse.
    pub fn profile(&self, asked: Option<Profile>) -> Result<Profile, CheckpointError> {
        let natural = self.natural_profile();
        match asked {
            Some(asked) if (asked == Profile::Bf16W8V1) != (natural == Profile::Bf16W8V1) => {
                Err(CheckpointError::Profile { folder: self.folder.clone(), asked, natural })
            }
            asked => Ok(asked.unwrap_or(natural)),
        }
    }

    /// The most bytes that [`WeightFiles`] keep of matrices that cannot be read at their places: a layer of a
    /// quantised model.
    pub fn decoded_bytes(&self) -> u64 {
        let of_matrix = |gptq: &gptq::Gptq, matrix| {
            let shape = self.architecture().shape(matrix);
            gptq.bytes(shape.inputs as usize, shape.outputs as usize)
        };
        let gptq = self.configuration.gptq.as_ref();
        gptq.map_or(0, |gptq| Matrix::ALL.into_iter().map(|matrix| of_matrix(gptq, matrix)).sum())
    }
}

/// A folder that was opened and checked, and whose weights stay where they are: they are read from there
/// piece by piece.
#[derive(Debug)]
pub struct ModelFolder {
    folder: PathBuf,
    /// The bytes of `tokenizer.json`.
    pub tokenizer: Vec<u8>,
    /// The chat template, as [`Checkpoint::chat_template`].
    pub chat_template: Option<String>,
    /// The weights, with the architecture that they have.
    pub weights: WeightFiles,
    /// All that was there when the folder was opened.
    contents: Contents,
}

impl ModelFolder {
    /// Opens a model folder and checks all of it but the values of weights. Weights are brought to the
    /// precision of `profile`: a bf16 checkpoint is served as it is, an f16 or f32 one is rounded to bf16
    /// under [`Profile::Bf16V1`]; integers are taken as they are.
    ///
    /// # Errors
    /// The first thing found missing, damaged, contradictory or not supported; of `config.json`, all
    /// of them.
    pub fn open(folder: &Path, profile: Profile) -> Result<Self, CheckpointError> {
        let description = Description::read(folder)?;
        description.profile(Some(profile))?;
        let tokenizer_path = folder.join(TOKENIZER);
        let tokenizer = required(&tokenizer_path)?;
        check_tokenizer(&tokenizer_path, &tokenizer, description.architecture())?;
        let chat_template = template::read(folder)?;
        let weights = WeightFiles::open(folder, &description.configuration, profile)?;
        weights.check_redundant()?;
        let contents = Contents::of(folder, &weights)?;
        let opened = Self { folder: folder.to_owned(), tokenizer, chat_template, weights, contents };
        // What was read above is what the digests are of.
        opened.check_unchanged()?;
        Ok(opened)
    }

    /// Shapes and constants.
    pub fn architecture(&self) -> &Architecture {
        self.weights.architecture()
    }

    /// A digest that changes when a file of the model does: of all small files, and of name, length, time
    /// of the last change and header of the weight files.
    pub fn fingerprint(&self) -> [u8; 32] {
        self.contents.fingerprint()
    }

    /// Checks that the folder is still as it was when it was opened.
    ///
    /// # Errors
    /// [`CheckpointError::Changed`] with the first file that is not, or a file that cannot be read.
    pub fn check_unchanged(&self) -> Result<(), CheckpointError> {
        let weights = self.weights.reopen()?;
        let now = Contents::of(&self.folder, &weights)?;
        match self.contents.first_difference(&now) {
            None => Ok(()),
            Some(path) => Err(CheckpointError::Changed { path }),
        }
    }
}

/// Digests of the files of a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Contents {
    /// `None` for a file that is not there.
    files: Vec<(PathBuf, Option<[u8; 32]>)>,
}

impl Contents {
    fn of(folder: &Path, weights: &WeightFiles) -> Result<Self, CheckpointError> {
        let small = SMALL_FILES.map(|name| {
            let path = folder.join(name);
            let digest = optional(&path)?.map(|bytes| blake3::hash(&bytes).into());
            Ok((path, digest))
        });
        let mut files = small.into_iter().collect::<Result<Vec<_>, CheckpointError>>()?;
        files.extend(weights.digests().map(|(path, digest)| (path.to_owned(), Some(digest))));
        Ok(Self { files })
    }

    fn fingerprint(&self) -> [u8; 32] {
        let mut hash = blake3::Hasher::new_derive_key("assay/folder-fingerprint/v1");
        for (path, digest) in &self.files {
            // A folder may be moved.
            let name = path.file_name().unwrap_or_default().as_encoded_bytes();
            hash.update(&(name.len() as u64).to_le_bytes()).update(name);
            hash.update(&[u8::from(digest.is_some())]).update(&digest.unwrap_or_default());
        }
        hash.finalize().into()
    }

    fn first_difference(&self, other: &Self) -> Option<PathBuf> {
        let different = self.files.iter().zip(&other.files).find(|(one, other)| one != other);
        different.map(|(file, _)| file.0.clone())
    }
}

impl Checkpoint {
    /// Reads a model folder into memory.
    ///
    /// # Errors
    /// As [`ModelFolder::open`], or a weight that is no number.
    pub fn load(folder: &Path, profile: Profile) -> Result<Self, CheckpointError> {
        let opened = ModelFolder::open(folder, profile)?;
        let (architecture, weights) = (opened.architecture().clone(), &opened.weights);
        let layer = |layer: usize| {
            let [q, k, v, o, gate, up, down] = Matrix::ALL.map(|matrix| weights.tensor(Tensor::Matrix(layer, matrix)));
            Ok(LayerTensors { small: small_tensors(weights, layer)?, matrices: [q?, k?, v?, o?, gate?, up?, down?] })
        };
        let tensors = ModelTensors {
            embeddings: weights.tensor(Tensor::Embeddings)?,
            layers: (0..architecture.layers as usize).map(layer).collect::<Result<_, CheckpointError>>()?,
            final_norm: weights.tensor(Tensor::FinalNorm)?,
            head: if architecture.tied { None } else { Some(weights.tensor(Tensor::Head)?) },
        };
        opened.check_unchanged()?;
        Ok(Self { architecture, profile, tensors, tokenizer: opened.tokenizer, chat_template: opened.chat_template })
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
    let missing = || {
        let other = path.parent().and_then(other_format);
        other.unwrap_or_else(|| CheckpointError::NoFile { path: path.to_owned() })
    };
    optional(path)?.ok_or_else(missing)
}

/// What is wrong with a folder that lacks a file, if it has weights of a format that is not read in its place.
fn other_format(folder: &Path) -> Option<CheckpointError> {
    let is_other = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.ends_with(".gguf") || (name.starts_with("pytorch_model") && name.ends_with(".bin"))
    };
    let has_weights = [weights::SINGLE, weights::INDEX].iter().any(|name| folder.join(name).exists());
    let paths = fs::read_dir(folder).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    paths.filter(is_other).min().filter(|_| !has_weights).map(|path| CheckpointError::Format { path })
}

/// The bytes of a file that a model folder may have. None but weights are larger than a tokenizer may be.
fn optional(path: &Path) -> Result<Option<Vec<u8>>, CheckpointError> {
    match assay_files::read(path, MAX_TOKENIZER_BYTES as u64) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.is_missing() => Ok(None),
        Err(error) => Err(CheckpointError::unreadable(path, error)),
    }
}

fn json(path: &Path, bytes: &[u8]) -> Result<Value, CheckpointError> {
    serde_json::from_slice(bytes).map_err(|source| CheckpointError::Json { path: path.to_owned(), source })
}

fn optional_json(path: &Path) -> Result<Option<Value>, CheckpointError> {
    optional(path)?.map(|bytes| json(path, &bytes)).transpose()
}
