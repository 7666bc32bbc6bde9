//! The Fiat-Shamir transcript: a SHAKE256 sponge, typed by protocol step.
//!
//! Everything that prover and verifier agree on is absorbed with a label and a length before a
//! challenge that depends on it is squeezed. What may be absorbed or squeezed when is a property of
//! the type: a [`Transcript<S>`] has `absorb` only if the step `S` [`Absorbs`], `challenge` only if
//! it [`Squeezes`], and it moves on only to a step that [`Follows`] it. A crate declares its own
//! steps, and that [`Reduction`] may follow one of them:
//!
//! ```
//! use assay_sumcheck::transcript::{Absorbs, First, Follows, Reduction, Step, Transcript};
//!
//! struct Claimed;
//! impl Step for Claimed {
//!     const LABEL: &'static str = "claimed";
//! }
//! impl First for Claimed {}
//! impl Absorbs for Claimed {}
//! impl Follows<Claimed> for Reduction {}
//!
//! let mut transcript = Transcript::<Claimed>::start("example/v1");
//! transcript.absorb("claim", b"a sum");
//! let mut transcript = transcript.advance::<Reduction>();
//! let challenge = transcript.challenge("point");
//! # let _ = challenge;
//! ```
//!
//! # Bytes
//!
//! The sponge takes records: a kind (one byte: 0 start, 1 step, 2 absorb, 3 bulk, 4 squeeze), the
//! label's length and the label, the payload's length and the payload; lengths are `u64`, integers
//! little-endian. The payload of a bulk message is its length (`u64`) and its BLAKE3 digest; that of a
//! squeeze says what is asked for: 0 for a challenge, 1 for a seed, 2 with the count (`u64`) and the
//! logarithm of the bound (`u32`) for indices. The answer is the output of a finished copy of the
//! sponge, so the next squeeze, whose input is longer by a record, is independent.

use std::marker::PhantomData;

use sha3::Shake256;
use sha3::digest::{ExtendableOutput, Update, XofReader};

use crate::field::{E, F, e_to_bytes, f_from_bytes, f_to_bytes};
use crate::labels;

/// A step of a protocol. Entering it absorbs its label.
pub trait Step {
    /// Names the step in the sponge; unique within a protocol.
    const LABEL: &'static str;
}

/// A step that a transcript may start with.
pub trait First: Step {}

/// A step that may come right after `Previous`.
///
/// Implemented on the later step. The orphan rules let a crate implement it for [`Reduction`] with
/// a step of its own as `Previous`, and for a step of its own with [`Reduction`] as `Previous`.
pub trait Follows<Previous: Step>: Step {}

/// A step whose messages can be absorbed.
pub trait Absorbs: Step {}

/// A step that yields challenges.
pub trait Squeezes: Step {}

/// The interactive reductions, which take turns between messages and challenges: sumcheck rounds
/// and the weight opening.
#[derive(Clone, Copy, Debug)]
pub enum Reduction {}

impl Step for Reduction {
    const LABEL: &'static str = labels::REDUCTION;
}
impl Absorbs for Reduction {}
impl Squeezes for Reduction {}

/// What a record does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// The transcript's domain.
    Start,
    /// A step was entered.
    Step,
    /// A message.
    Absorb,
    /// The digest of a long message.
    Bulk,
    /// A challenge.
    Squeeze,
}

impl Operation {
    const fn code(self) -> u8 {
        match self {
            Self::Start => 0,
            Self::Step => 1,
            Self::Absorb => 2,
            Self::Bulk => 3,
            Self::Squeeze => 4,
        }
    }
}

/// One record, without its content. Tests compare the prover's list with the verifier's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// What was done.
    pub operation: Operation,
    /// Under which label.
    pub label: &'static str,
    /// Bytes absorbed (of a bulk message: before hashing), or elements squeezed.
    pub length: u64,
}

/// The state of the transcript at step `S`.
///
/// It cannot be cloned: a copy could hand out the same challenge for two different continuations.
///
/// ```compile_fail
/// # use assay_sumcheck::transcript::{Reduction, Transcript};
/// fn copy(transcript: &Transcript<Reduction>) -> Transcript<Reduction> {
///     Transcript::clone(transcript)
/// }
/// ```
///
/// It starts only with a step that is first; [`Reduction`] is not:
///
/// ```compile_fail
/// # use assay_sumcheck::transcript::{Reduction, Transcript};
/// let transcript = Transcript::<Reduction>::start("example/v1");
/// ```
///
/// A step that only absorbs yields no challenge:
///
/// ```compile_fail
/// # use assay_sumcheck::transcript::{Absorbs, First, Step, Transcript};
/// # struct Claimed;
/// # impl Step for Claimed { const LABEL: &'static str = "claimed"; }
/// # impl First for Claimed {}
/// # impl Absorbs for Claimed {}
/// let mut transcript = Transcript::<Claimed>::start("example/v1");
/// let early = transcript.challenge("point");
/// ```
///
/// A step that only squeezes takes no late message:
///
/// ```compile_fail
/// # use assay_sumcheck::transcript::{First, Squeezes, Step, Transcript};
/// # struct Drawn;
/// # impl Step for Drawn { const LABEL: &'static str = "drawn"; }
/// # impl First for Drawn {}
/// # impl Squeezes for Drawn {}
/// let mut transcript = Transcript::<Drawn>::start("example/v1");
/// transcript.absorb("late", b"message");
/// ```
///
/// And no step is skipped:
///
/// ```compile_fail
/// # use assay_sumcheck::transcript::{First, Reduction, Step, Transcript};
/// # struct Claimed;
/// # impl Step for Claimed { const LABEL: &'static str = "claimed"; }
/// # impl First for Claimed {}
/// let transcript = Transcript::<Claimed>::start("example/v1");
/// let skipped = transcript.advance::<Reduction>();
/// ```
#[derive(Debug)]
#[must_use = "a transcript that is dropped binds nothing"]
pub struct Transcript<S: Step> {
    sponge: Shake256,
    log: Vec<Event>,
    step: PhantomData<fn() -> S>,
}

impl<S: First> Transcript<S> {
    /// Starts a transcript. `domain` names protocol and version.
    pub fn start(domain: &str) -> Self {
        let mut transcript = Self { sponge: Shake256::default(), log: Vec::new(), step: PhantomData };
        transcript.record(Operation::Start, S::LABEL, domain.as_bytes(), domain.len());
        transcript
    }
}

impl<S: Step> Transcript<S> {
    /// Enters the step `T`.
    pub fn advance<T: Follows<S>>(self) -> Transcript<T> {
        let mut next = Transcript { sponge: self.sponge, log: self.log, step: PhantomData };
        next.record(Operation::Step, T::LABEL, &[], 0);
        next
    }

    /// Every record so far.
    pub fn log(&self) -> &[Event] {
        &self.log
    }

    /// Absorbs a record and logs it under `length`.
    fn record(&mut self, operation: Operation, label: &'static str, payload: &[u8], length: usize) {
        self.sponge.update(&[operation.code()]);
        for part in [label.as_bytes(), payload] {
            self.sponge.update(&(part.len() as u64).to_le_bytes());
            self.sponge.update(part);
        }
        self.log.push(Event { operation, label, length: length as u64 });
    }
}

/// What a transcript takes of a long message.
#[derive(Clone, Copy, Debug)]
pub struct Bulk {
    length: usize,
    digest: [u8; 32],
}

impl Bulk {
    /// Digests a message.
    pub fn new(bytes: &[u8]) -> Self {
        Self { length: bytes.len(), digest: blake3::hash(bytes).into() }
    }
}

impl<S: Absorbs> Transcript<S> {
    /// Absorbs a short message.
    pub fn absorb(&mut self, label: &'static str, bytes: &[u8]) {
        self.record(Operation::Absorb, label, bytes, bytes.len());
    }

    /// Absorbs a long message through its length and BLAKE3 digest: the sponge is some twenty
    /// times slower than BLAKE3.
    pub fn absorb_bulk(&mut self, label: &'static str, bytes: &[u8]) {
        self.absorb_digested(label, &Bulk::new(bytes));
    }

    /// As [`Self::absorb_bulk`], of a message that was digested before.
    pub fn absorb_digested(&mut self, label: &'static str, bulk: &Bulk) {
        let mut payload = [0; 40];
        let (length, digest) = payload.split_at_mut(8);
        length.copy_from_slice(&(bulk.length as u64).to_le_bytes());
        digest.copy_from_slice(&bulk.digest);
        self.record(Operation::Bulk, label, &payload, bulk.length);
    }

    /// Absorbs base field elements, eight canonical bytes each.
    pub fn absorb_f(&mut self, label: &'static str, values: &[F]) {
        let bytes: Vec<u8> = values.iter().flat_map(|&value| f_to_bytes(value)).collect();
        self.absorb(label, &bytes);
    }

    /// Absorbs extension elements, 24 canonical bytes each.
    pub fn absorb_e(&mut self, label: &'static str, values: &[E]) {
        let bytes: Vec<u8> = values.iter().flat_map(|&value| e_to_bytes(value)).collect();
        self.absorb(label, &bytes);
    }
}

impl<S: Squeezes> Transcript<S> {
    /// Draws a uniform extension element: each coordinate is the next 64-bit integer of the output
    /// that is below p.
    pub fn challenge(&mut self, label: &'static str) -> E {
        let mut output = self.output(label, &[CHALLENGE], 1);
        let mut coordinate = || {
            loop {
                if let Some(value) = f_from_bytes(next_bytes(&mut output)) {
                    return value;
                }
            }
        };
        E::new(coordinate(), coordinate(), coordinate())
    }

    /// Draws 32 uniform bytes, the key of a longer draw.
    pub fn seed(&mut self, label: &'static str) -> [u8; 32] {
        next_bytes(&mut self.output(label, &[SEED], 1))
    }

    /// Draws `count` independent uniform integers below `2^log_bound` (`2^64` at most), each the low
    /// bits of the next 64-bit integer of the output.
    pub fn indices(&mut self, label: &'static str, count: usize, log_bound: u32) -> Vec<u64> {
        let mut request = vec![INDICES];
        request.extend((count as u64).to_le_bytes());
        request.extend(log_bound.to_le_bytes());
        let mut output = self.output(label, &request, count);
        let mask = 1_u64.checked_shl(log_bound).map_or(u64::MAX, |bound| bound.wrapping_sub(1));
        (0..count).map(|_| u64::from_le_bytes(next_bytes(&mut output)) & mask).collect()
    }

    /// Records what is asked for and opens the output that answers it.
    fn output(&mut self, label: &'static str, request: &[u8], count: usize) -> impl XofReader + use<S> {
        self.record(Operation::Squeeze, label, request, count);
        self.sponge.clone().finalize_xof()
    }
}

/// What a squeeze asks for: the first byte of its request.
const CHALLENGE: u8 = 0;
const SEED: u8 = 1;
const INDICES: u8 = 2;

fn next_bytes<const N: usize>(output: &mut impl XofReader) -> [u8; N] {
    let mut bytes = [0; N];
    output.read(&mut bytes);
    bytes
}
