//! One sequence: its cache and, if asked for, its trace.

use std::sync::Arc;

use assay_commitments::TokenId;
use assay_commitments::trace::Trace;

use crate::cache::{Cache, CachePool};
use crate::capture::{Capture, Slot, check_logits};
use crate::error::RunError;
use crate::kernels::{read, values_of};
use crate::model::{Model, Run};

/// A sequence that is being run by itself.
///
/// A token or a length that is refused changes nothing; after any other error the session is of no
/// further use.
#[derive(Debug)]
pub struct Session {
    model: Arc<Model>,
    cache: Cache,
    positions: usize,
    capture: Option<(Capture, Option<Slot>)>,
}

impl Session {
    /// An empty sequence. With `capture`, every row that an audit may ask about is kept, in the type of
    /// the profile's activations.
    ///
    /// # Panics
    /// When the system gives no thread for the capture.
    pub fn new(model: Arc<Model>, capture: bool) -> Self {
        let (architecture, profile) = (model.architecture(), model.profile());
        let pool = CachePool::new(&model, usize::MAX);
        let cache = pool.reserve(architecture.max_positions as usize).expect("nobody else uses this pool");
        let capture = capture.then(|| {
            let capture = Capture::start(architecture, profile);
            let slot = capture.open();
            (capture, Some(slot))
        });
        Self { cache, positions: 0, capture, model }
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
        self.model.check(tokens, self.positions)?;
        let positions = self.positions + tokens.len();
        self.cache.grow(positions)?;
        let recorder = match &self.capture {
            Some((capture, Some(slot))) => Some(capture.pass(vec![(slot.number(), 0..tokens.len())])),
            _ => None,
        };
        let run = Run { tokens, start: self.positions, cache: &self.cache, logits: true };
        let logits = self.model.forward(&[run], recorder.as_ref())?.expect("logits are asked for");
        drop(recorder);
        self.positions = positions;
        let storage = read(&logits);
        let logits = values_of::<f32>(&storage, logits.layout())?;
        check_logits(logits).map_err(|error| self.first_failure(error))?;
        Ok(logits.to_vec())
    }

    /// Runs one token at the next position and gives the logits after it.
    ///
    /// # Errors
    /// As [`Session::prefill`].
    pub fn step(&mut self, token: TokenId) -> Result<Vec<f32>, RunError> {
        self.prefill(&[token])
    }

    /// The rows of all positions run, if they were captured.
    ///
    /// # Errors
    /// [`RunError::NotFinite`] if a value in them has overflowed.
    pub fn into_trace(self) -> Result<Option<Trace>, RunError> {
        self.capture.and_then(|(_, slot)| slot).map(Slot::wait).transpose()
    }

    /// Where the overflow began that ended in the logits, if rows were captured.
    fn first_failure(&mut self, last: RunError) -> RunError {
        let slot = self.capture.as_mut().and_then(|(_, slot)| slot.take());
        slot.and_then(|slot| slot.wait().err()).unwrap_or(last)
    }
}
