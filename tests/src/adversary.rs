//! Miners that cheat, with a hook at every point where a miner can deviate.
//!
//! [`Adversary`] is a backend around the honest one: other weights, another question, other tokens, other
//! rows, another commitment, another proof. [`Seat`] puts a backend on a port and lets a script decide what
//! is said on the stream, and when. Nothing of them is in the miner itself.
//!
//! | hook | what may be other |
//! |---|---|
//! | [`Adversary::model`], [`Adversary::writer`] | weights, precision, layers, attention, cache |
//! | [`Adversary::asked`] | prompt, sampler, limits, as the model sees them |
//! | [`Adversary::written`] | prompt, tokens and finish of the answer |
//! | [`Adversary::rows`] | the rows, before they are committed |
//! | [`Adversary::commitment`] | every field of the commitment |
//! | [`Adversary::proof`] | what is proven, from which rows, and the bytes of the proof |
//! | [`Seat::start`] | signatures, messages, their order and their time |

mod anatomy;
mod backend;
mod rows;
mod seat;

pub use anatomy::{Anatomy, Part};
pub use backend::{Adversary, Answer, Proving};
pub use rows::{Forged, Rows};
pub use seat::{Act, Moment, Script, Seat, Talk, as_scripted, message};
