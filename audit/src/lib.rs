//! Audits: what is asked of a miner, what it answers, and the verdict.
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::as_conversions,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::panic_in_result_fn
    )
)]

pub mod assets;
pub mod challenge;
#[expect(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    reason = "the prover works on what its owner gave it"
)]
pub mod commit;
mod decode;
mod domains;
pub mod epoch_log;
pub mod exhibit;
pub mod finish;
mod fixed;
#[cfg(test)]
mod forgers;
#[cfg(test)]
mod frozen;

pub mod judge;
pub mod keys;
#[expect(clippy::indexing_slicing, reason = "calibration works on what its owner gave it")]
pub mod measure;
#[expect(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    reason = "the prover works on what its owner gave it"
)]
pub mod model;
mod num;
mod parts;
pub mod policy;
mod products;
pub mod prompt;
mod proof;
#[expect(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "the prover works on what its owner gave it"
)]
pub mod prove;
mod reference;
mod relations;
pub mod request;
#[expect(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "the prover works on what its owner gave it"
)]
mod resolve;
mod rounding;
pub mod sampling;
mod sealed;
pub mod session;
pub mod sizes;
#[expect(clippy::arithmetic_side_effects, reason = "field arithmetic has none")]
mod sketch;
mod statement;
mod steps;
pub mod tolerance;
pub mod transcript_file;
pub mod verdict;
mod verify;
