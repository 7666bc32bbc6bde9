//! One sequence: its cache and, if asked for, its trace.

use std::sync::Arc;

use assay_commitments::TokenId;
use assay_commitments::trace::Trace;
use candle_nn::kv_cache::Cache;

use crate::capture::Recorder;
use crate::error::RunError;
use crate::model::Model;

/// Positions by which a cache grows. Long enough that copying it costs little, short enough that
/// many short sessions fit in memory.
const CACHE_BLOCK: usize = 256;

/// A sequence that is being run.
///
/// A token or a length that is refused changes nothing; after any other error the session is of no
/// further use.
#[derive(Debug)]
pub struct Session {
    model: Arc<Model>,
    /// Turned keys and values `[positions, k | v]`, layer by layer.
    caches: Vec<Cache>,
    positions: usize,
    recorder: Option<Recorder>,
}

impl Session {
    /// An empty sequence. With `capture`, every row that an audit may ask about is kept, as bf16:
    /// what the model computes under [`crate::Profile::Bf16V1`], an image of it under
    /// [`crate::Profile::F32V1`].
    pub fn new(model: Arc<Model>, capture: bool) -> Self {
        let caches = vec![Cache::new(0, CACHE_BLOCK); model.architecture().layers as usize];
        let recorder = capture.then(|| Recorder::new(model.architecture(), model.profile()));
        Self { model, caches, positions: 0, recorder }
    }

    /// Positions run so far.
    pub const fn positions(&self) -> usize {
        self.positions
    }

    /// Runs tokens at the next positions, all at once, and gives the logits after the last of them:
    /// one f32 an entry of the vocabulary, not rounded.
    ///
    /// # Errors
    /// [`RunError::EmptyPrompt`], [`RunError::UnknownToken`], [`RunError::ContextFull`] before
    /// anything is run; [`RunError::NotFinite`] when a value overflows.
    pub fn prefill(&mut self, tokens: &[TokenId]) -> Result<Vec<f32>, RunError> {
        let architecture = self.model.architecture();
        if tokens.is_empty() {
            return Err(RunError::EmptyPrompt);
        }
        let vocabulary = architecture.vocab_size;
        if let Some(&token) = tokens.iter().find(|token| token.get() >= vocabulary) {
            return Err(RunError::UnknownToken { token, vocabulary });
        }
        let positions = self.positions + tokens.len();
        if positions > architecture.max_positions as usize {
            return Err(RunError::ContextFull { positions, limit: architecture.max_positions });
        }
        let logits = self.model.forward(tokens, self.positions, &mut self.caches, self.recorder.as_mut())?;
        self.positions = positions;
        Ok(logits)
    }

    /// Runs one token at the next position and gives the logits after it.
    ///
    /// # Errors
    /// As [`Session::prefill`].
    pub fn step(&mut self, token: TokenId) -> Result<Vec<f32>, RunError> {
        self.prefill(&[token])
    }

    /// The rows of all positions run, if they were captured.
    pub fn into_trace(self) -> Option<Trace> {
        self.recorder.map(Recorder::into_trace)
    }
}
