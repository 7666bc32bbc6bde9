//! The commitment and the opening of weights once more, from `docs/opening.md` alone: slow, by the definitions, and
//! without any code of the crates.

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
