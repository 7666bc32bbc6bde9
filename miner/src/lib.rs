//! The miner: a gRPC service that answers requests, commits to how it got there, and proves what it
//! is asked about.
//!
//! A validator's request is checked, a [`Backend`] runs the model, tokens stream back as they are
//! made, the trace is kept and its commitment signed; only then does the validator say what it wants
//! to see, and the backend proves that from the kept trace.
//!
//! ```text
//! server -> service -> session -> admission -> peers          who may ask for how much
//!                         |
//!                         +-----> Backend::{serve, commit, prove}
//!                         |
//!                         +-----> retention                   what must outlive the stream
//! ```
//!
//! Everything a validator controls is bounded before work begins: requests open at a time, positions
//! and bytes of traces, layers and cells of a proof, proof time in an epoch. What is over a bound is
//! refused, signed, before the first token; after it, the miner owes the proof.
#![forbid(unsafe_code)]

mod admission;
mod backend;
mod config;
mod error;
mod honest;
mod limiter;
mod peers;
mod proving;
mod published;
mod retention;
mod server;
mod service;
mod session;
mod state;
mod subnet;

pub use backend::{Backend, ProveError, ServeError, Served, honest_commitment};
pub use config::{Limits, MinerConfig};
pub use error::MinerError;
pub use honest::HonestBackend;
pub use published::Published;
pub use server::{Miner, RunningMiner};
pub use subnet::{KnownSubnet, SubnetView};
