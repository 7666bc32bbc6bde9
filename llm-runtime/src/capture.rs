//! Rows on their way into traces, off the path of the computation.
//!
//! A pass hands over the tensors that it computed, which nobody changes afterwards, and goes on. One
//! thread takes them apart by sequence, checks that they are finite, encodes them and adds them to
//! traces. Little may wait for it: a pass that is ahead by more waits in turn, so memory is bounded.
//!
//! A pass on another device hands over tensors that need not be computed yet: it only enqueues work there and
//! goes on enqueuing, while this thread enqueues the copy to the CPU behind that work and waits for it.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use assay_commitments::manifest::Architecture;
use assay_commitments::rows::{Profile, encode_row, is_finite};
use assay_commitments::trace::{Trace, TraceShape, TreeId};
use assay_commitments::{KvGroup, LayerIndex};
use candle_core::{Device, Tensor};
use pulp::Arch;

use crate::error::RunError;
use crate::kernels::{read, values_of};

/// Bytes of rows that are handed over together.
const BATCH_BYTES: usize = 1 << 20;
/// Batches that may wait.
const WAITING: usize = 4;

/// What takes a trace, or the reason why there is none.
type Reply = Box<dyn FnOnce(Result<Trace, RunError>) + Send>;

enum Message {
    Rows {
        /// Which sequence has which rows of every tensor.
        shares: Arc<[(u64, Range<usize>)]>,
        tensors: Vec<(Rows, Tensor)>,
    },
    Take(u64, Reply),
    Discard(u64),
}

/// What the rows of a tensor are.
#[derive(Clone, Copy, Debug)]
enum Rows {
    /// Rows of a tree.
    Tree(TreeId),
    /// Turned products `[q | k | v]` of a layer, of which the cached part is kept.
    Products(LayerIndex),
}

/// A thread that fills traces. It ends when neither this nor any slot is left.
#[derive(Debug)]
pub(crate) struct Capture {
    sender: SyncSender<Message>,
    opened: AtomicU64,
}

impl Capture {
    pub(crate) fn start(architecture: &Architecture, profile: Profile) -> Self {
        let (sender, messages) = sync_channel(WAITING);
        let encoder = Encoder {
            shape: TraceShape::new(architecture, profile),
            profile,
            kv_heads: architecture.kv_heads as usize,
            head_dim: architecture.head_dim as usize,
            traces: HashMap::new(),
            bytes: Vec::new(),
        };
        thread::Builder::new()
            .name("assay-capture".to_owned())
            .spawn(move || encoder.run(messages))
            .expect("a thread can be started");
        Self { sender, opened: AtomicU64::new(0) }
    }

    /// A place for the trace of a sequence.
    pub(crate) fn open(&self) -> Slot {
        let number = self.opened.fetch_add(1, Ordering::Relaxed);
        Slot { number, sender: Some(self.sender.clone()) }
    }

    /// Takes the rows of one pass, in which the sequences of these slots have these rows.
    pub(crate) fn pass(&self, shares: Vec<(u64, Range<usize>)>) -> Recorder<'_> {
        Recorder { capture: self, shares: shares.into(), waiting: Mutex::default() }
    }
}

/// The place where the trace of a sequence is made. What is in it is thrown away with it.
#[derive(Debug)]
pub(crate) struct Slot {
    number: u64,
    /// `None` when the trace was taken.
    sender: Option<SyncSender<Message>>,
}

impl Slot {
    pub(crate) const fn number(&self) -> u64 {
        self.number
    }

    /// Has the trace given to `reply` when all rows handed over so far are in it; or, if one of them was
    /// not finite, the error.
    pub(crate) fn take(mut self, reply: Reply) {
        let Some(sender) = self.sender.take() else { return };
        if let Err(unsent) = sender.send(Message::Take(self.number, reply))
            && let Message::Take(_, reply) = unsent.0
        {
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
        if let Some(sender) = self.sender.take() {
            // A thread that is gone keeps nothing.
            let _ = sender.send(Message::Discard(self.number));
        }
    }
}

/// Takes the tensors of a pass as they come.
#[derive(Debug)]
pub(crate) struct Recorder<'a> {
    capture: &'a Capture,
    shares: Arc<[(u64, Range<usize>)]>,
    waiting: Mutex<(usize, Vec<(Rows, Tensor)>)>,
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
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.0 += tensor.elem_count() * size_of::<f32>();
        waiting.1.push((rows, tensor.clone()));
        if waiting.0 >= BATCH_BYTES {
            let (_, tensors) = std::mem::take(&mut *waiting);
            self.send(tensors);
        }
    }

    fn send(&self, tensors: Vec<(Rows, Tensor)>) {
        // A thread that is gone is noticed by whoever asks it for a trace.
        let _ = self.capture.sender.send(Message::Rows { shares: Arc::clone(&self.shares), tensors });
    }
}

impl Drop for Recorder<'_> {
    fn drop(&mut self) {
        let waiting = self.waiting.get_mut().unwrap_or_else(PoisonError::into_inner);
        let (_, tensors) = std::mem::take(waiting);
        if !tensors.is_empty() {
            self.send(tensors);
        }
    }
}

/// What the thread holds.
struct Encoder {
    shape: TraceShape,
    profile: Profile,
    kv_heads: usize,
    head_dim: usize,
    traces: HashMap<u64, Result<Trace, RunError>>,
    /// Reused between rows.
    bytes: Vec<u8>,
}

impl Encoder {
    fn run(mut self, messages: Receiver<Message>) {
        for message in messages {
            match message {
                Message::Rows { shares, tensors } => {
                    for (rows, tensor) in &tensors {
                        self.add(&shares, *rows, tensor);
                    }
                }
                Message::Take(slot, reply) => {
                    let mut taken = self.traces.remove(&slot).unwrap_or_else(|| Ok(Trace::new(self.shape)));
                    if let Ok(trace) = &mut taken {
                        trace.seal();
                    }
                    reply(taken);
                }
                Message::Discard(slot) => drop(self.traces.remove(&slot)),
            }
        }
    }

    fn add(&mut self, shares: &[(u64, Range<usize>)], rows: Rows, tensor: &Tensor) {
        let added = tensor.to_device(&Device::Cpu).and_then(|tensor| {
            let storage = read(&tensor);
            let values = values_of::<f32>(&storage, tensor.layout())?;
            let width = tensor.dim(1)?;
            for (slot, share) in shares {
                self.add_share(*slot, rows, &values[share.start * width..share.end * width], width);
            }
            Ok(())
        });
        if let Err(error) = added {
            for (slot, _) in shares {
                self.traces.insert(*slot, Err(RunError::Tensor(candle_core::Error::msg(&error))));
            }
        }
    }

    fn add_share(&mut self, slot: u64, rows: Rows, values: &[f32], width: usize) {
        let Self { shape, profile, kv_heads, head_dim, traces, bytes } = self;
        let entry = traces.entry(slot).or_insert_with(|| Ok(Trace::new(*shape)));
        let Ok(trace) = entry else { return };
        let mut push = |tree, bytes: &[u8]| {
            let finite = is_finite(*profile, bytes);
            if finite {
                trace.push(tree, bytes);
            }
            finite
        };
        bytes.clear();
        let finite = match rows {
            Rows::Tree(tree) => {
                encode_row(*profile, values, bytes);
                push(tree, bytes)
            }
            Rows::Products(layer) => {
                let (keys, cached) = (width - 2 * *kv_heads * *head_dim, *kv_heads * *head_dim);
                (0..).zip((keys..keys + cached).step_by(*head_dim)).all(|(group, at)| {
                    bytes.clear();
                    for row in values.chunks_exact(width) {
                        encode_row(*profile, &row[at..][..*head_dim], bytes);
                        encode_row(*profile, &row[at + cached..][..*head_dim], bytes);
                    }
                    push(TreeId::Kv(layer, KvGroup::new(group)), bytes)
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
    let largest = Arch::new().dispatch(
        #[inline(always)]
        || logits.iter().fold(0, |largest, logit| magnitude(logit).max(largest)),
    );
    if largest < f32::INFINITY.to_bits() { Ok(()) } else { Err(RunError::NotFinite { place: "the logits".to_owned() }) }
}
