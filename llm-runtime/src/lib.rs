//! Runs Llama-style language models on candle and keeps what an audit may ask about.
//!
//! A [`Checkpoint`] is read from a Hugging Face folder, a [`Model`] is made of its tensors, a
//! [`Session`] runs tokens through the model with a key and value cache, [`generate`] turns that into an
//! answer, and an [`Engine`] makes many answers at once. The decoder block is ours and not one of candle's models, for two reasons: an
//! audit needs the rows between the operations, and the profile says where values are rounded.
//!
//! What stands before this crate is a request, as token ids and a sampler
//! ([`assay_audit::prompt`], [`assay_audit::sampling`]); what comes after it is the commitment to
//! the captured rows ([`assay_commitments::trace::TraceRows::commit`]).
//!
//! ```
//! use std::sync::Arc;
//!
//! use assay_commitments::TokenId;
//! use assay_commitments::rows::Profile;
//! use assay_commitments::trace::TraceRows;
//! use assay_llm_runtime::{Model, Session, synthetic};
//!
//! let checkpoint = synthetic::checkpoint(&synthetic::Numbers::TINY, 1);
//! let model = Model::new(&checkpoint.architecture, &checkpoint.tensors, Profile::Bf16V1)?;
//! let mut session = Session::new(Arc::new(model), true);
//! let logits = session.prefill(&[5, 9, 7].map(TokenId::new))?;
//! assert_eq!(logits.len(), 100);
//! assert_eq!(session.into_trace()?.map(|trace| trace.positions()), Some(3));
//! # Ok::<(), assay_llm_runtime::RunError>(())
//! ```
//!
//! | module | holds |
//! |---|---|
//! | [`checkpoint`] | a model folder, read and checked |
//! | [`model`] | weights as candle tensors, and one pass over them |
//! | [`Device`] | what a model runs on: the CPU, or a CUDA device with the feature `cuda` |
//! | [`session`] | one sequence: its cache, its trace |
//! | [`generation`] | from a prompt to an answer |
//! | [`engine`] | many answers at once |
//! | [`text`] | text from tokens, while they come |
//! | [`retention`] | traces that wait to be proven, in memory or on disk |
//! | [`quantize`], [`finetune`] | the same model with other weights, for calibration |
//! | [`synthetic`] | random models for tests and measurements |
#![deny(unsafe_code)]

mod awake;
mod bandwidth;
mod block;
mod cache;
mod capture;
pub mod checkpoint;
mod device;
pub mod engine;
mod error;
pub mod finetune;
pub mod generation;
mod kernels;
pub mod model;
pub mod quantize;
mod quantized;
mod random;
pub mod retention;
pub mod session;
pub mod synthetic;
pub mod text;

pub use bandwidth::read_bandwidth;
pub use checkpoint::{Checkpoint, CheckpointError, Description, ModelFolder};
pub use device::Device;
pub use engine::{Answer, Completion, Engine, EngineLimits, Event, Job, SubmitError};
pub use error::RunError;
pub use generation::{Generate, Generation, generate};
pub use model::Model;
pub use quantized::{Quantized, Weights};
pub use session::Session;
pub use text::TextStream;
