//! Miners that cheat, with a hook at every point where a miner can deviate.
//!
//! [`Adversary`] is a backend around the honest one: other weights, another question, other tokens, other
//! rows, another commitment, another proof. [`Seat`] puts a backend, this one or any other, on a port and lets a
//! script decide what is said on the stream, and when; or it shows [`Files`]. Nothing of them is in the miner itself.
//!
//! | hook | what may be other |
//! |---|---|
//! | [`Adversary::model`], [`Adversary::writer`] | weights, precision, layers, attention, cache |
//! | [`Adversary::asked`] | prompt, sampler, limits, as the model sees them |
//! | [`Adversary::written`] | prompt, tokens and finish of the answer |
//! | [`Adversary::rows`] | the rows, before they are committed |
//! | [`Adversary::commitment`] | every field of the commitment |
//! | [`Adversary::proof`] | what is proven, from which rows, and the bytes of the proof |
//! | [`Adversary::chosen`] | a witness, or claims, with everything after them made for what is then drawn |
//! | [`Seat::start`] | the backend, signatures, messages and other bytes, their order and their time |
//! | [`Files`] | manifest, tokenizer, chat template and embedding digests, as they are shown |

mod anatomy;
mod backend;
mod files;
mod rows;
mod seat;

pub use anatomy::{Anatomy, Part};
pub use backend::{Adversary, Answer, Proving, Serving};
pub use files::{Acts, Files, in_pieces, said};
pub use rows::{Forged, Rows};
pub use seat::{Act, Moment, Script, Seat, Talk, as_scripted, message, unreadable};
