//! Rows on their way into traces, off the path of the computation.
//!
//! A pass hands over the tensors that it computed, which nobody changes afterwards, and goes on. Somebody else takes them
//! apart by sequence, checks that they are finite, encodes them into traces and hashes them, a few rows at a time: while
//! the pass runs, the threads of its pool that have nothing to do at the moment; a thread of the capture's own when that
//! is not enough, when the pass is over, and when a trace is asked for. Little may wait: a pass that is ahead by more does
//! the work itself, so memory is bounded.
//!
//! A pass on another device hands over tensors that need not be computed yet: it only enqueues work there and
//! goes on enqueuing, while the capture's thread enqueues the copy to the CPU behind that work and waits for it.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use assay_commitments::manifest::Architecture;
use assay_commitments::rows::{Profile, vectorized, write_row};
use assay_commitments::trace::{Trace, TraceShape, TreeId};
use assay_commitments::{KvGroup, LayerIndex};
use candle_core::{Device, Tensor};

use crate::error::RunError;
use crate::kernels::{read, values_of, zeros};

/// Bytes of rows that may wait for moments in which a thread has nothing to do.
const PATIENCE: usize = 16 << 20;
/// Bytes of rows that may wait at all.
const MOST: usize = 2 * PATIENCE;
/// Rows that are worked on at a time: as many as are hashed side by side.
const UNIT: usize = 16;

/// What takes a trace, or the reason why there is none.
type Reply = Box<dyn FnOnce(Result<Trace, RunError>) + Send>;

enum Message {
    Rows(Work),
    Take(u64, Reply),
    Discard(u64),
}

/// Rows of a tensor, of which some may have been worked on.
struct Work {
    /// Which sequence has which rows.
    shares: Arc<[(u64, Range<usize>)]>,
    rows: Rows,
    /// Any device's.
    tensor: Tensor,
    /// The share that is worked on, and how many of its rows are done.
    share: usize,
    done: usize,
}

impl Work {
    fn bytes(&self) -> usize {
        self.tensor.elem_count() * size_of::<f32>()
    }
}

/// What the rows of a tensor are.
#[derive(Clone, Copy, Debug)]
enum Rows {
    /// Rows of a tree.
    Tree(TreeId),
    /// Turned products `[q | k | v]` of a layer, of which the cached part is kept.
    Products(LayerIndex),
}

/// What is to be done, in the order in which it came.
#[derive(Default)]
struct Queue {
    messages: VecDeque<Message>,
    /// Bytes of tensors in it, and in what is worked on.
    bytes: usize,
    /// Messages that are not rows.
    asked: usize,
    /// Passes that hand over rows.
    passes: usize,
    /// Whether nobody is left who could ask for more.
    ended: bool,
    /// Whether the thread is gone, and takes no more.
    closed: bool,
}

impl Queue {
    /// Whether the thread should not leave the work to others.
    fn is_pressing(&self) -> bool {
        let is_elsewhere = |message: &Message| matches!(message, Message::Rows(work) if !work.tensor.device().is_cpu());
        self.bytes > PATIENCE
            || self.asked > 0
            || (self.passes == 0 && self.bytes > 0)
            || self.messages.front().is_some_and(is_elsewhere)
    }
}

/// What passes, the pool's threads and the capture's thread share.
struct Desk {
    queue: Mutex<Queue>,
    /// There is something for the thread to do.
    pressing: Condvar,
    /// Held while rows are worked on, so that they come into traces in their order.
    encoder: Mutex<Encoder>,
}

impl Desk {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, message: Message) -> Result<(), Message> {
        let mut queue = self.queue();
        if queue.closed {
            return Err(message);
        }
        match &message {
            Message::Rows(work) => queue.bytes += work.bytes(),
            Message::Take(..) | Message::Discard(_) => queue.asked += 1,
        }
        queue.messages.push_back(message);
        if queue.is_pressing() {
            self.pressing.notify_one();
        }
        Ok(())
    }

    /// Takes a step: of what waits, in its order, a few rows or what was asked. Whether there was something. `idle` takes
    /// no steps that others wait for, nor those for which it would have to wait itself.
    fn step(&self, mut encoder: MutexGuard<'_, Encoder>, idle: bool) -> bool {
        let begun = encoder.work.take().map(Message::Rows);
        match begun.or_else(|| self.next(idle)) {
            None => return false,
            Some(Message::Rows(work)) => {
                let bytes = work.bytes();
                encoder.work = encoder.encode(work);
                if encoder.work.is_none() {
                    self.queue().bytes -= bytes;
                }
            }
            Some(Message::Take(slot, reply)) => {
                let trace = encoder.take(slot);
                drop(encoder);
                reply(trace);
            }
            Some(Message::Discard(slot)) => {
                let trace = encoder.traces.remove(&slot);
                drop((encoder, trace));
            }
        }
        true
    }

    fn next(&self, idle: bool) -> Option<Message> {
        let mut queue = self.queue();
        let is_left = match queue.messages.front()? {
            Message::Rows(work) => !work.tensor.device().is_cpu(),
            Message::Take(..) | Message::Discard(_) => true,
        };
        if idle && is_left {
            return None;
        }
        let next = queue.messages.pop_front();
        if let Some(Message::Take(..) | Message::Discard(_)) = next {
            queue.asked -= 1;
        }
        next
    }

    /// The thread: does what is pressing, and waits.
    fn run(&self) {
        let _closing = Closing(self);
        loop {
            let rest = |queue: &mut Queue| !queue.ended && !queue.is_pressing();
            drop(self.pressing.wait_while(self.queue(), rest).unwrap_or_else(PoisonError::into_inner));
            let Some(encoder) = self.encoder() else { return };
            // Another may have done it meanwhile.
            if !self.step(encoder, false) && self.queue().ended {
                return;
            }
        }
    }

    /// `None` when somebody has panicked over it: what is in it has lost rows.
    fn encoder(&self) -> Option<MutexGuard<'_, Encoder>> {
        self.encoder.lock().ok()
    }
}

/// Closes a desk with the thread's end, whichever way that comes: who asks is then told that nobody works any more.
struct Closing<'a>(&'a Desk);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        let left = {
            let mut queue = self.0.queue();
            queue.closed = true;
            std::mem::take(&mut queue.messages)
        };
        for message in left {
            if let Message::Take(_, reply) = message {
                reply(Err(RunError::Stopped));
            }
        }
    }
}

/// A thread that fills traces. It ends when neither this nor any slot is left.
#[derive(Debug)]
pub(crate) struct Capture {
    client: Arc<Client>,
    opened: AtomicU64,
}

/// Whoever may ask for something.
struct Client(Arc<Desk>);

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.0.queue().ended = true;
        self.0.pressing.notify_one();
    }
}

impl Capture {
    pub(crate) fn start(architecture: &Architecture, profile: Profile) -> Self {
        let encoder = Encoder {
            shape: TraceShape::new(architecture, profile),
            profile,
            kv_heads: architecture.kv_heads as usize,
            head_dim: architecture.head_dim as usize,
            traces: HashMap::new(),
            work: None,
        };
        let desk = Arc::new(Desk { queue: Mutex::default(), pressing: Condvar::new(), encoder: Mutex::new(encoder) });
        let client = Arc::new(Client(Arc::clone(&desk)));
        thread::Builder::new()
            .name("assay-capture".to_owned())
            .spawn(move || desk.run())
            .expect("a thread can be started");
        Self { client, opened: AtomicU64::new(0) }
    }

    /// A place for the trace of a sequence.
    pub(crate) fn open(&self) -> Slot {
        let number = self.opened.fetch_add(1, Ordering::Relaxed);
        Slot { number, client: Some(Arc::clone(&self.client)) }
    }

    /// Takes the rows of one pass, in which the sequences of these slots have these rows.
    pub(crate) fn pass(&self, shares: Vec<(u64, Range<usize>)>) -> Recorder<'_> {
        let desk = &*self.client.0;
        desk.queue().passes += 1;
        Recorder { desk, shares: shares.into() }
    }
}

/// The place where the trace of a sequence is made. What is in it is thrown away with it.
#[derive(Debug)]
pub(crate) struct Slot {
    number: u64,
    /// `None` when the trace was taken.
    client: Option<Arc<Client>>,
}

impl Slot {
    pub(crate) const fn number(&self) -> u64 {
        self.number
    }

    /// Has the trace given to `reply` when all rows handed over so far are in it; or, if one of them was
    /// not finite, the error.
    pub(crate) fn take(mut self, reply: Reply) {
        let Some(client) = self.client.take() else { return };
        if let Err(Message::Take(_, reply)) = client.0.add(Message::Take(self.number, reply)) {
            reply(Err(RunError::Stopped));
        }
    }

    /// As [`Self::take`], and waits for it.
    ///
    /// # Errors
    /// [`RunError::NotFinite`] for the first row that was not.
    pub(crate) fn wait(self) -> Result<Trace, RunError> {
        let (sender, trace) = sync_channel(1);
        // Nobody else holds the receiver.
        self.take(Box::new(move |taken| drop(sender.send(taken))));
        trace.recv().unwrap_or(Err(RunError::Stopped))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(client) = self.client.take() {
            // A thread that is gone keeps nothing.
            let _ = client.0.add(Message::Discard(self.number));
        }
    }
}

/// Takes the tensors of a pass as they come.
pub(crate) struct Recorder<'a> {
    desk: &'a Desk,
    shares: Arc<[(u64, Range<usize>)]>,
}

impl Recorder<'_> {
    /// Whole rows of a tree.
    pub(crate) fn rows(&self, tree: TreeId, rows: &Tensor) {
        self.add(Rows::Tree(tree), rows);
    }

    /// Turned products `[n, q | k | v]` of a layer.
    pub(crate) fn products(&self, layer: LayerIndex, rows: &Tensor) {
        self.add(Rows::Products(layer), rows);
    }

    fn add(&self, rows: Rows, tensor: &Tensor) {
        let work = Work { shares: Arc::clone(&self.shares), rows, tensor: tensor.clone(), share: 0, done: 0 };
        // A thread that is gone is noticed by whoever asks it for a trace.
        let _ = self.desk.add(Message::Rows(work));
        while self.desk.queue().bytes > MOST
            && self.desk.encoder().is_some_and(|encoder| self.desk.step(encoder, false))
        {}
    }

    /// Works on a few rows if any wait and nobody else does; whether there was something to do.
    pub(crate) fn help(&self) -> bool {
        self.desk.encoder.try_lock().is_ok_and(|encoder| self.desk.step(encoder, true))
    }
}

impl Drop for Recorder<'_> {
    fn drop(&mut self) {
        let mut queue = self.desk.queue();
        queue.passes -= 1;
        if queue.is_pressing() {
            self.desk.pressing.notify_one();
        }
    }
}

/// What makes traces of rows.
struct Encoder {
    shape: TraceShape,
    profile: Profile,
    kv_heads: usize,
    head_dim: usize,
    traces: HashMap<u64, Result<Trace, RunError>>,
    /// What was begun.
    work: Option<Work>,
}

impl Encoder {
    /// Works on a few rows; gives back what is left.
    fn encode(&mut self, mut work: Work) -> Option<Work> {
        match self.encode_rows(&mut work) {
            Ok(()) => (work.share < work.shares.len()).then_some(work),
            Err(error) => {
                for (slot, _) in &*work.shares {
                    self.traces.insert(*slot, Err(RunError::Tensor(candle_core::Error::msg(&error))));
                }
                None
            }
        }
    }

    fn encode_rows(&mut self, work: &mut Work) -> candle_core::Result<()> {
        if !work.tensor.device().is_cpu() {
            work.tensor = work.tensor.to_device(&Device::Cpu)?;
        }
        let Some((slot, share)) = work.shares.get(work.share) else { return Ok(()) };
        let rows = share.start + work.done..share.end.min(share.start + work.done + UNIT);
        let storage = read(&work.tensor);
        let values = values_of::<f32>(&storage, work.tensor.layout())?;
        let width = work.tensor.dim(1)?;
        self.add(*slot, work.rows, &values[rows.start * width..rows.end * width], width);
        work.done += rows.len();
        if rows.end == share.end {
            work.share += 1;
            work.done = 0;
        }
        Ok(())
    }

    fn take(&mut self, slot: u64) -> Result<Trace, RunError> {
        let mut taken = self.traces.remove(&slot).unwrap_or_else(|| Ok(Trace::new(self.shape)));
        if let Ok(trace) = &mut taken {
            trace.seal();
        }
        taken
    }

    fn add(&mut self, slot: u64, rows: Rows, values: &[f32], width: usize) {
        let Self { shape, profile, kv_heads, head_dim, traces, .. } = self;
        let entry = traces.entry(slot).or_insert_with(|| Ok(Trace::in_memory(*shape, zeros)));
        let Ok(trace) = entry else { return };
        let count = values.len() / width;
        let finite = match rows {
            Rows::Tree(tree) => {
                trace.write(tree, count, |row, out| write_row(*profile, &values[row * width..][..width], out))
            }
            Rows::Products(layer) => {
                let cached = *kv_heads * *head_dim;
                (0..).zip((width - 2 * cached..width - cached).step_by(*head_dim)).all(|(group, at)| {
                    trace.write(TreeId::Kv(layer, KvGroup::new(group)), count, |row, out| {
                        let (key, value) = out.split_at_mut(out.len() / 2);
                        let row = &values[row * width + at..];
                        write_row(*profile, &row[..*head_dim], key)
                            && write_row(*profile, &row[cached..][..*head_dim], value)
                    })
                })
            }
        };
        if !finite {
            *entry = Err(RunError::NotFinite { place: rows.place() });
        }
    }
}

impl Rows {
    /// What users are told overflowed.
    fn place(self) -> String {
        match self {
            Self::Tree(TreeId::H(layer)) => format!("the stream entering layer {layer}"),
            Self::Tree(TreeId::A(layer)) => format!("the attention of layer {layer}"),
            Self::Tree(TreeId::O(layer)) => format!("the attention branch of layer {layer}"),
            Self::Tree(TreeId::M(layer)) => format!("the MLP branch of layer {layer}"),
            Self::Tree(TreeId::Kv(layer, _)) | Self::Products(layer) => format!("the cache of layer {layer}"),
        }
    }
}

/// Refuses infinities and NaN: no honest verdict could come of them.
pub(crate) fn check_logits(logits: &[f32]) -> Result<(), RunError> {
    let magnitude = |logit: &f32| logit.to_bits() & !(1 << 31);
    // Bits of finite numbers are below those of infinity, and integers are compared in vector registers.
    let largest = vectorized(
        #[inline(always)]
        || logits.iter().fold(0, |largest, logit| magnitude(logit).max(largest)),
    );
    if largest < f32::INFINITY.to_bits() { Ok(()) } else { Err(RunError::NotFinite { place: "the logits".to_owned() }) }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::atomic::AtomicBool;

    use assay_commitments::SessionId;
    use assay_commitments::trace::TraceRows;

    use super::*;
    use crate::random::Random;
    use crate::synthetic::Numbers;

    const NUMBERS: Numbers = Numbers::TINY;

    /// Random rows of a tensor.
    fn tensor(random: &mut Random, rows: usize, width: u32) -> Tensor {
        let values: Vec<f32> = (0..rows * width as usize).map(|_| random.normal()).collect();
        Tensor::from_vec(values, (rows, width as usize), &Device::Cpu).unwrap()
    }

    /// Hands over a pass of so many rows, and calls `between` after each tensor.
    fn pass(capture: &Capture, random: &mut Random, shares: &[(u64, Range<usize>)], between: impl Fn(&Recorder<'_>)) {
        let recorder = capture.pass(shares.to_vec());
        let rows = shares.last().map_or(0, |(_, share)| share.end);
        let [hidden, head_dim] = [NUMBERS.hidden, NUMBERS.head_dim];
        for layer in (0..NUMBERS.layers).map(LayerIndex::new) {
            recorder.rows(TreeId::H(layer), &tensor(random, rows, hidden));
            between(&recorder);
            recorder.products(layer, &tensor(random, rows, (NUMBERS.heads + 2 * NUMBERS.kv_heads) * head_dim));
            between(&recorder);
            recorder.rows(TreeId::A(layer), &tensor(random, rows, NUMBERS.heads * head_dim));
            for tree in [TreeId::O(layer), TreeId::M(layer)] {
                recorder.rows(tree, &tensor(random, rows, hidden));
            }
            between(&recorder);
        }
        recorder.rows(TreeId::H(LayerIndex::new(NUMBERS.layers)), &tensor(random, rows, hidden));
    }

    /// The roots of two sequences that share passes.
    fn roots(between: impl Fn(&Recorder<'_>)) -> Vec<Vec<[u8; 32]>> {
        let capture = Capture::start(&NUMBERS.architecture(), Profile::Bf16V1);
        let slots = [capture.open(), capture.open()];
        let [first, second] = slots.each_ref().map(Slot::number);
        let mut random = Random::new(3);
        for shares in [
            vec![(first, 0..37)],
            vec![(first, 0..1), (second, 1..50)],
            vec![(second, 0..1), (first, 1..2)],
            vec![(first, 0..8), (second, 8..9)],
        ] {
            pass(&capture, &mut random, &shares, &between);
        }
        drop(capture);
        let commit = |slot: Slot| {
            let trace = slot.wait().unwrap();
            trace.commit(&SessionId::new([5; 32]), trace.positions()).roots()
        };
        slots.map(commit).to_vec()
    }

    #[test]
    fn a_trace_is_the_same_whoever_makes_it() {
        let by_the_thread = roots(|_| ());
        let a_little = roots(|recorder| {
            recorder.help();
        });
        let all_at_once = roots(|recorder| while recorder.help() {});
        assert_eq!(a_little, by_the_thread);
        assert_eq!(all_at_once, by_the_thread);
        let by_several = roots(|recorder| {
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| while recorder.help() {});
                }
            });
        });
        assert_eq!(by_several, by_the_thread);
        assert_ne!(by_the_thread[0], by_the_thread[1]);
    }

    #[test]
    fn rows_that_wait_are_bounded_while_nobody_helps() {
        let capture = Capture::start(&NUMBERS.architecture(), Profile::F32V1);
        let slot = capture.open();
        let rows = tensor(&mut Random::new(1), 4096, NUMBERS.hidden);
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let most = MOST + rows.elem_count() * size_of::<f32>();
                    assert!(capture.client.0.queue().bytes <= most);
                }
            });
            let recorder = capture.pass(vec![(slot.number(), 0..4096)]);
            for _ in 0..100 {
                // Of these only digests are kept.
                recorder.rows(TreeId::H(LayerIndex::new(1)), &rows);
            }
            drop(recorder);
            done.store(true, Ordering::Relaxed);
        });
        assert!(slot.wait().is_ok());
        assert_eq!(capture.client.0.queue().bytes, 0);
    }

    #[test]
    fn who_asks_is_told_when_somebody_has_panicked_over_the_rows() {
        let capture = Capture::start(&NUMBERS.architecture(), Profile::Bf16V1);
        let slots = [capture.open(), capture.open()];
        let recorder = capture.pass(vec![(slots[0].number(), 0..20)]);
        // No model has this layer.
        recorder.rows(TreeId::H(LayerIndex::new(99)), &tensor(&mut Random::new(1), 20, NUMBERS.hidden));
        assert!(catch_unwind(AssertUnwindSafe(|| recorder.help())).is_err());
        assert!(!recorder.help());
        drop(recorder);
        for slot in slots {
            assert!(matches!(slot.wait(), Err(RunError::Stopped)));
        }
    }
}
