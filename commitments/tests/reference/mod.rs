//! The commitment and the opening of weights once more, slow and by the definitions, without any code of the crates:
//! from `docs/opening.md`, and for where matrices lie and for the sponge's bytes from what is said at the top of
//! `commitments/src/layout.rs` and `sumcheck/src/transcript.rs`.

pub(crate) mod cases;
pub(crate) mod code;
pub(crate) mod field;
pub(crate) mod merkle;
pub(crate) mod proof;
pub(crate) mod prover;
pub(crate) mod statement;
mod tests;
pub(crate) mod transcript;
pub(crate) mod verifier;
