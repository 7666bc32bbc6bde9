//! Many answers at once: continuous batching.
//!
//! One thread runs pass after pass. A pass has the newest token of every answer that is being decoded
//! and, up to a limit, prompt tokens of those that are not yet. What a request is answered does not
//! depend on who else is served: every row is computed by itself, to the bit.
//!
//! Requests wait in a bounded queue, first come first served for each owner, and owners take turns.

use std::collections::VecDeque;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::{self, JoinHandle};

use assay_audit::prompt::Tokenizer;
use assay_audit::sampling::Sampling;
use assay_commitments::TokenId;
use assay_commitments::trace::{FinishReason, Trace};
use rayon::prelude::*;
use thiserror::Error;

use crate::cache::{Cache, CachePool};
use crate::capture::{Capture, Slot, check_logits};
use crate::error::RunError;
use crate::generation::Generate;
use crate::kernels::{read, values_of};
use crate::model::{Model, Run};

/// How much an engine takes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineLimits {
    /// Bytes of the key and value cache.
    pub cache_bytes: usize,
    /// Most answers that are worked on at once, at least 1.
    pub batch: usize,
    /// Most prompt tokens of a pass, at least 1.
    pub chunk: usize,
    /// Most requests that wait. One owner may have half of them.
    pub queue: usize,
}

impl Default for EngineLimits {
    fn default() -> Self {
        Self { cache_bytes: 1 << 30, batch: 16, chunk: 256, queue: 64 }
    }
}

/// A request.
#[derive(Clone, Debug)]
pub struct Job {
    /// Who asks; owners take turns.
    pub owner: [u8; 32],
    /// The prompt.
    pub prompt: Vec<TokenId>,
    /// How each token is picked.
    pub sampling: Sampling,
    /// Turns tokens into the text in which `stop` is looked for.
    pub tokenizer: Arc<Tokenizer>,
    /// Strings whose appearance ends the answer.
    pub stop: Vec<String>,
    /// Most output tokens. An answer has at least one.
    pub max_tokens: u32,
    /// Whether to keep the rows that an audit may ask about.
    pub capture: bool,
}

impl Job {
    fn plan(&self) -> Generate<'_> {
        Generate {
            prompt: &self.prompt,
            sampling: self.sampling,
            tokenizer: &self.tokenizer,
            stop: &self.stop,
            max_tokens: self.max_tokens,
            capture: self.capture,
        }
    }
}

/// Why a request is not taken.
#[derive(Debug, Error)]
pub enum SubmitError {
    /// Too many wait already, of all owners or of this one.
    #[error("too many requests wait: try again later")]
    Busy,
    /// This engine can never answer it.
    #[error(transparent)]
    Refused(#[from] RunError),
}

/// What happens to a request.
#[derive(Debug)]
pub enum Event {
    /// A token was picked.
    Token(TokenId),
    /// The answer is complete, or there will be none. Nothing follows.
    End(Result<Completion, RunError>),
}

/// A complete answer.
#[derive(Debug)]
pub struct Completion {
    /// The output tokens; a stop token is the last of them.
    pub output: Vec<TokenId>,
    /// Why the answer ended.
    pub finish: FinishReason,
    /// The rows of all prompt tokens and of all output tokens but the last, if asked for.
    pub trace: Option<Trace>,
}

/// The events of a request as they come; waiting for the next blocks. Dropping it cancels the request.
#[derive(Debug)]
pub struct Answer {
    events: Receiver<Event>,
    ended: bool,
    /// The engine sees by it that somebody still waits.
    _awaited: Arc<()>,
}

impl Answer {
    /// Waits for the end.
    ///
    /// # Errors
    /// [`RunError`] when there is no answer.
    pub fn complete(self) -> Result<Completion, RunError> {
        let end = self.filter_map(|event| match event {
            Event::End(end) => Some(end),
            Event::Token(_) => None,
        });
        end.last().unwrap_or(Err(RunError::Stopped))
    }
}

impl Iterator for Answer {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        if self.ended {
            return None;
        }
        let event = self.events.recv().unwrap_or(Event::End(Err(RunError::Stopped)));
        self.ended = matches!(event, Event::End(_));
        Some(event)
    }
}

/// A model that is served. Dropping it stops the thread; answers that are not complete end with
/// [`RunError::Stopped`].
#[derive(Debug)]
pub struct Engine {
    model: Arc<Model>,
    pool: Arc<CachePool>,
    queue: Arc<Queue>,
    thread: Option<JoinHandle<()>>,
}

impl Engine {
    /// Starts the thread that serves a model.
    ///
    /// # Panics
    /// When the system gives no thread.
    pub fn start(model: Arc<Model>, limits: EngineLimits) -> Self {
        let pool = CachePool::new(&model, limits.cache_bytes);
        let queue = Arc::new(Queue { most: limits.queue, state: Mutex::default(), changed: Condvar::new() });
        let worker = Worker {
            capture: Capture::start(model.architecture(), model.profile()),
            model: Arc::clone(&model),
            pool: Arc::clone(&pool),
            limits,
            queue: Arc::clone(&queue),
            running: VecDeque::new(),
        };
        let thread = thread::Builder::new().name("assay-engine".to_owned()).spawn(move || worker.run());
        Self { model, pool, queue, thread: Some(thread.expect("a thread can be started")) }
    }

    /// The model that is served.
    pub const fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// Hands in a request.
    ///
    /// # Errors
    /// [`SubmitError`], at once: what cannot be answered does not wait.
    pub fn submit(&self, job: Job) -> Result<Answer, SubmitError> {
        let plan = job.plan();
        plan.check(&self.model)?;
        let (positions, limit) = (plan.most_positions(&self.model), self.pool.positions());
        if positions > limit {
            return Err(RunError::CacheTooSmall { positions, limit }.into());
        }
        let (sender, events) = channel();
        let awaited = Arc::new(());
        self.queue.push(Request { job, positions, events: sender, awaited: Arc::downgrade(&awaited) })?;
        Ok(Answer { events, ended: false, _awaited: awaited })
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.queue.stop();
        if let Some(thread) = self.thread.take() {
            // It catches what panics; there is nobody to tell of the rest.
            let _ = thread.join();
        }
    }
}

/// A request on its way.
#[derive(Debug)]
struct Request {
    job: Job,
    /// Most positions that it comes to have.
    positions: usize,
    events: Sender<Event>,
    awaited: Weak<()>,
}

impl Request {
    fn is_awaited(&self) -> bool {
        self.awaited.strong_count() > 0
    }
}

/// Requests that wait.
#[derive(Debug)]
struct Queue {
    most: usize,
    state: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    /// Owners in the order of their turns, each with a request at least.
    owners: VecDeque<([u8; 32], VecDeque<Request>)>,
    stopped: bool,
}

impl Waiting {
    /// Forgets the requests for which nobody waits any more.
    fn tidy(&mut self) {
        self.owners.iter_mut().for_each(|(_, requests)| requests.retain(Request::is_awaited));
        self.owners.retain(|(_, requests)| !requests.is_empty());
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, request: Request) -> Result<(), SubmitError> {
        let mut waiting = self.lock();
        if waiting.stopped {
            return Err(RunError::Stopped.into());
        }
        waiting.tidy();
        let owner = request.job.owner;
        let count: usize = waiting.owners.iter().map(|(_, requests)| requests.len()).sum();
        let own = waiting.owners.iter_mut().find(|(name, _)| *name == owner);
        let is_full = own.as_ref().is_some_and(|(_, requests)| requests.len() >= self.most.div_ceil(2));
        if count >= self.most || is_full {
            return Err(SubmitError::Busy);
        }
        match own {
            Some((_, requests)) => requests.push_back(request),
            None => waiting.owners.push_back((owner, VecDeque::from([request]))),
        }
        self.changed.notify_one();
        Ok(())
    }

    /// Takes the next request if it fits the cache. An owner that has been served goes to the end of the
    /// line; one whose request does not fit yet keeps its turn, or it might wait for ever.
    fn take(&self, pool: &Arc<CachePool>) -> Option<(Request, Cache)> {
        let mut waiting = self.lock();
        waiting.tidy();
        let cache = pool.reserve(waiting.owners.front()?.1.front()?.positions)?;
        let (owner, mut requests) = waiting.owners.pop_front()?;
        let request = requests.pop_front()?;
        if !requests.is_empty() {
            waiting.owners.push_back((owner, requests));
        }
        Some((request, cache))
    }

    /// Waits until there is something to do; `false` when the engine is to stop.
    fn wait(&self, is_idle: bool) -> bool {
        let idle = |waiting: &mut Waiting| is_idle && !waiting.stopped && waiting.owners.is_empty();
        let waiting = self.changed.wait_while(self.lock(), idle).unwrap_or_else(PoisonError::into_inner);
        !waiting.stopped
    }

    fn stop(&self) {
        self.lock().stopped = true;
        self.changed.notify_all();
    }
}

/// A request that is worked on.
struct Sequence {
    request: Request,
    cache: Cache,
    slot: Option<Slot>,
    /// Positions run.
    positions: usize,
    /// Positions of the pass.
    share: usize,
    output: Vec<TokenId>,
    /// What ends it.
    end: Option<Result<FinishReason, RunError>>,
}

impl Sequence {
    /// Tokens that are yet to be run.
    fn pending(&self) -> &[TokenId] {
        let prompt = &self.request.job.prompt;
        prompt
            .get(self.positions..)
            .filter(|rest| !rest.is_empty())
            .unwrap_or(&self.output[self.output.len().saturating_sub(1)..])
    }

    fn is_prefilling(&self) -> bool {
        self.positions < self.request.job.prompt.len()
    }

    fn wants_logits(&self) -> bool {
        self.share == self.pending().len()
    }

    fn run(&self) -> Run<'_> {
        Run {
            tokens: &self.pending()[..self.share],
            start: self.positions,
            cache: &self.cache,
            logits: self.wants_logits(),
        }
    }

    /// Picks a token and passes it on.
    fn pick(&mut self, model: &Model, logits: &[f32]) {
        let picked = catch_unwind(AssertUnwindSafe(|| {
            check_logits(logits)?;
            Ok(self.request.job.plan().pick(model, logits, &mut self.output))
        }));
        match picked.unwrap_or(Err(RunError::BrokenOff)) {
            Ok(finish) => {
                // Whoever does not listen any more is seen before the next pass.
                if let Some(token) = self.output.last() {
                    let _ = self.request.events.send(Event::Token(*token));
                }
                self.end = finish.map(Ok);
            }
            Err(error) => self.end = Some(Err(error)),
        }
    }

    /// Tells the end when the trace is complete. Rows that overflowed say more than what came of them.
    fn finish(self, end: Result<FinishReason, RunError>) {
        let Self { request, slot, output, .. } = self;
        let tell = move |trace: Result<Option<Trace>, RunError>| {
            let completion = match (end, trace) {
                (Ok(finish), Ok(trace)) => Ok(Completion { output, finish, trace }),
                (Ok(_) | Err(RunError::NotFinite { .. }), Err(error)) | (Err(error), _) => Err(error),
            };
            // Nobody may listen any more.
            let _ = request.events.send(Event::End(completion));
        };
        match slot {
            Some(slot) => slot.take(Box::new(move |trace| tell(trace.map(Some)))),
            None => tell(Ok(None)),
        }
    }
}

/// What the engine's thread holds.
struct Worker {
    model: Arc<Model>,
    pool: Arc<CachePool>,
    capture: Capture,
    limits: EngineLimits,
    queue: Arc<Queue>,
    /// In the order in which prompts get their turns.
    running: VecDeque<Sequence>,
}

impl Worker {
    fn run(mut self) {
        while self.queue.wait(self.running.is_empty()) {
            self.running.retain(|sequence| sequence.request.is_awaited());
            self.admit();
            self.share_out();
            let broken = match catch_unwind(AssertUnwindSafe(|| self.pass())) {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(Some(error.to_string())),
                Err(_) => Some(None),
            };
            if let Some(why) = broken {
                let error = || match &why {
                    Some(text) => RunError::Tensor(candle_core::Error::msg(text)),
                    None => RunError::BrokenOff,
                };
                let served = self.running.iter_mut().filter(|sequence| sequence.share > 0);
                served.for_each(|sequence| sequence.end = Some(Err(error())));
            }
            self.settle();
        }
    }

    fn admit(&mut self) {
        while self.running.len() < self.limits.batch.max(1)
            && let Some((request, cache)) = self.queue.take(&self.pool)
        {
            let slot = request.job.capture.then(|| self.capture.open());
            let (output, end) = (Vec::new(), None);
            self.running.push_back(Sequence { request, cache, slot, positions: 0, share: 0, output, end });
        }
    }

    /// Says how many tokens each sequence runs in the next pass.
    fn share_out(&mut self) {
        let mut room = self.limits.chunk.max(1);
        for sequence in &mut self.running {
            sequence.share = if sequence.is_prefilling() {
                let share = sequence.pending().len().min(room);
                room -= share;
                share
            } else {
                1
            };
        }
    }

    fn pass(&mut self) -> candle_core::Result<()> {
        let mut served: Vec<&mut Sequence> = self.running.iter_mut().filter(|sequence| sequence.share > 0).collect();
        if served.is_empty() {
            return Ok(());
        }
        let mut captured: Vec<(u64, Range<usize>)> = Vec::new();
        let mut rows = 0;
        for sequence in &mut served {
            sequence.cache.grow(sequence.positions + sequence.share)?;
            let share = rows..rows + sequence.share;
            rows = share.end;
            captured.extend(sequence.slot.as_ref().map(|slot| (slot.number(), share)));
        }
        let recorder = (!captured.is_empty()).then(|| self.capture.pass(captured));
        let runs: Vec<Run<'_>> = served.iter().map(|sequence| sequence.run()).collect();
        let logits = self.model.forward(&runs, recorder.as_ref())?;
        drop(recorder);
        if let Some(logits) = logits {
            let storage = read(&logits);
            let logits = values_of::<f32>(&storage, logits.layout())?;
            let vocabulary = self.model.architecture().vocab_size as usize;
            let picking: Vec<_> = served.iter_mut().filter(|sequence| sequence.wants_logits()).collect();
            let picks = picking.into_par_iter().zip(logits.par_chunks_exact(vocabulary));
            picks.for_each(|(sequence, logits)| sequence.pick(&self.model, logits));
        }
        Ok(())
    }

    /// Moves on from a pass: ends what has ended, and puts prompts that had their turn behind the others.
    fn settle(&mut self) {
        let (mut waiting, mut advanced) = (VecDeque::new(), VecDeque::new());
        for mut sequence in self.running.drain(..) {
            let had_turn = sequence.is_prefilling() && sequence.share > 0;
            sequence.positions += sequence.share;
            match sequence.end.take() {
                Some(end) => sequence.finish(end),
                None if had_turn => advanced.push_back(sequence),
                None => waiting.push_back(sequence),
            }
        }
        waiting.append(&mut advanced);
        self.running = waiting;
    }
}
