//! Why a model folder is refused: what, where, what to do; one line each.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use assay_commitments::manifest::ArchitectureError;
use assay_commitments::rows::Profile;
use assay_files::Unreadable;
use thiserror::Error;

/// Why a model folder cannot be served.
#[derive(Debug, Error)]
pub enum CheckpointError {
    /// There is no such folder.
    #[error("{}: no such folder: point to a model folder in the Hugging Face layout", folder.display())]
    NoFolder {
        /// What was asked for.
        folder: PathBuf,
    },
    /// There is a file of that name.
    #[error("{}: this is a file, not a folder: point to a model folder in the Hugging Face layout", path.display())]
    NotAFolder {
        /// What was asked for.
        path: PathBuf,
    },
    /// A file of the folder is not there.
    #[error("{}: no such file: a model folder has config.json, tokenizer.json and safetensors weights", path.display())]
    NoFile {
        /// The file.
        path: PathBuf,
    },
    /// A file cannot be read.
    #[error("{}: cannot be read: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// What has the name of a file is none, or is longer than such a file can be.
    #[error("{}: {source}", path.display())]
    NotAFile {
        /// What was to be read.
        path: PathBuf,
        /// What is there.
        source: Unreadable,
    },
    /// A file is no JSON.
    #[error("{}: not valid JSON ({source}): download it again", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What the parser says.
        source: serde_json::Error,
    },
    /// The configuration describes a model that this runtime does not run.
    #[error("{}: {problems}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// All that is wrong with it.
        problems: ConfigProblems,
    },
    /// The tokenizer is damaged or another model's.
    #[error("{}: {reason}: take the tokenizer.json that came with the weights", path.display())]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The chat template is none that can be used.
    #[error("{}: chat_template: {reason}: take the file that came with the weights", path.display())]
    Template {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The index of the weight files is damaged.
    #[error("{}: {reason}: download it again", path.display())]
    Index {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A weight file is cut short or damaged.
    #[error("{}: truncated or damaged ({source}): download it again", path.display())]
    Weights {
        /// The file.
        path: PathBuf,
        /// What the parser says.
        source: safetensors::SafeTensorError,
    },
    /// A header names a tensor more than once.
    #[error("{}: tensor {name} stands in the header more than once: download it again", path.display())]
    Repeated {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
    },
    /// Two files hold a tensor.
    #[error("{}: tensor {name} is also in {}: keep the files that the index belongs to", path.display(), other.display())]
    Twice {
        /// The second file.
        path: PathBuf,
        /// The first file.
        other: PathBuf,
        /// The tensor.
        name: String,
    },
    /// A file was written to while the folder was read.
    #[error("{}: changed while it was read: let nothing write to the folder and run this again", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// A tensor is not there.
    #[error("{}: tensor {name} is missing: download the whole model again", path.display())]
    MissingTensor {
        /// The file in which it should be.
        path: PathBuf,
        /// The tensor.
        name: String,
    },
    /// A tensor has another shape than the configuration says.
    #[error("{}: tensor {name} has shape {found:?}, config.json says {expected:?}: they belong to different models", path.display())]
    Shape {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its shape.
        found: Vec<usize>,
        /// The shape that follows from the configuration.
        expected: Vec<usize>,
    },
    /// A tensor is there of which the configuration does not speak, so that the model without it would be another.
    #[error("{}: tensor {name} is not one that config.json announces: they belong to different models", path.display())]
    Unannounced {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
    },
    /// A tensor of a quantised matrix holds something that cannot be served.
    #[error("{}: tensor {name} at index {index}: {reason}", path.display())]
    Quantized {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// The first such element, counted row by row, where each packed integer counts.
        index: usize,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The quantisation is described where AutoGPTQ did it before `config.json` had a place for it.
    #[error("{}: quantised in the old layout of AutoGPTQ: copy what this file says into config.json as \"quantization_config\", with \"quant_method\": \"gptq\" beside it, and name the weights model.safetensors", path.display())]
    OldQuantization {
        /// The file.
        path: PathBuf,
    },
    /// The weights are in files of a format that is not read.
    #[error("{}: weights of this format are not read: point to a folder of safetensors weights", path.display())]
    Format {
        /// The first such file.
        path: PathBuf,
    },
    /// A folder cannot be served in a profile.
    #[error("{}: served in profile {}, not in {}: matrices are{} quantised", folder.display(), natural.name(), asked.name(), if *natural == Profile::Bf16W8V1 { "" } else { " not" })]
    Profile {
        /// The folder.
        folder: PathBuf,
        /// The profile that was asked for.
        asked: Profile,
        /// The one in which it is served unless told otherwise.
        natural: Profile,
    },
    /// A tensor is stored in a type that is not read.
    #[error("{}: tensor {name} is stored as {found}: only {supported} can be read", path.display())]
    Dtype {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its type.
        found: String,
        /// What would be read.
        supported: &'static str,
    },
    /// The model is larger than what can be committed.
    #[error(transparent)]
    Architecture(#[from] ArchitectureError),
    /// A weight is no number.
    #[error("{}: tensor {name} holds {value} at index {index}: a model with such weights cannot be served", path.display())]
    NotFinite {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// The first such element, counted row by row.
        index: usize,
        /// NaN or an infinity.
        value: f32,
    },
}

impl CheckpointError {
    pub(super) fn unreadable(path: &Path, error: Unreadable) -> Self {
        let path = path.to_owned();
        match error {
            Unreadable::Io(source) => Self::Io { path, source },
            source => Self::NotAFile { path, source },
        }
    }
}

/// Something about a configuration that this runtime cannot serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigProblem {
    /// A key that every model has is missing.
    Missing(String),
    /// A value is not what this runtime does.
    Unsupported {
        /// The key.
        key: String,
        /// Its value, as JSON.
        found: String,
        /// What is supported.
        supported: Cow<'static, str>,
    },
    /// Two values do not go together.
    Contradiction {
        /// The keys with their values.
        between: String,
        /// What would go together.
        expected: &'static str,
    },
    /// A number is outside what can be committed.
    OutOfRange(ArchitectureError),
}

impl fmt::Display for ConfigProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(key) => write!(f, "{key} is missing"),
            Self::Unsupported { key, found, supported } => {
                write!(f, "{key} is {found}, supported is {supported}")
            }
            Self::Contradiction { between, expected } => {
                write!(f, "{between} contradict each other: {expected}")
            }
            Self::OutOfRange(error) => write!(f, "{error}"),
        }
    }
}

/// All problems of a configuration, at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigProblems(pub Vec<ConfigProblem>);

impl fmt::Display for ConfigProblems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{problem}")?;
        }
        Ok(())
    }
}
