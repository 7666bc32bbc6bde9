//! The validator: asks, lets the draw decide what is audited, judges, and turns verdicts into weights.
//!
//! It holds no weights and needs no GPU: what it knows of a model is a manifest whose id stands on
//! chain, a tokenizer, and one digest a vocabulary entry.
//!
//! ```text
//! Validator::run                  epoch after epoch, in step with the chain
//! Validator::run_epoch            one epoch: who is asked what, what it means, which weights follow
//!   -> Auditor::session           one session, from prompt to verdict
//!        -> EpochNonces           nonces, and a journal of those that are out
//!        -> conversation -> wire  what a miner says and when
//!        -> assay_audit::judge    the verdict
//!   -> Store                      every transcript, as a file that anybody can judge again
//!   -> assay_probation::Ledger    standing, score, weights
//!   -> assay_chain::Chain         keys, endpoints, weights
//! ```
//!
//! What goes wrong on this side of the wire (disk, clock, chain, a missing model, a crash) makes a
//! session inconclusive and costs the miner nothing; what goes wrong on the other side is the
//! miner's. There is no third way.
#![forbid(unsafe_code)]

mod address;
mod atomic;
mod consequence;
mod conversation;
mod disk;
mod epoch;
mod error;
mod event;
mod fetch;
mod journal;
mod model;
mod nonces;
mod owner;
mod places;
mod probe;
mod report;
mod requests;
mod rounds;
mod schedule;
mod session;
mod stall;
mod state;
mod store;
mod weights;
mod wire;

pub use conversation::Silence;
pub use epoch::{Settings, Validator};
pub use error::{StorageError, ValidatorError};
pub use event::{Ending, ValidatorEvent};
pub use fetch::{FetchError, Patience, fetch_model};
pub use model::{ModelError, VerifierModel};
pub use nonces::{DrawnNonce, EpochNonces, Unfinished};
pub use report::{EpochReport, MinerReport};
pub use requests::{Ask, NoPrompts, PromptList, RequestSource};
pub use schedule::{Followed, Wait};
pub use session::{Auditor, Judged, Outcome, Peer, Terms};
pub use state::stored_ledger;
pub use store::{LOG_NAME, Store};
pub use weights::{SCORING_VERSION, weight_vector};
