//! Field, transcript, multilinear polynomials and the sumcheck.
//!
//! Knows nothing of language models. The one statement that is reduced here is
//!
//! `sum_x a(x) b(x) = claim`, `x` in `{0, 1}^n`, `a` and `b` multilinear over [`E`],
//!
//! to a claim on `a(r) b(r)` at a random point `r`.
//!
//! | module | holds |
//! |---|---|
//! | [`field`] | Goldilocks `F`, its cubic extension `E`, canonical bytes, unreduced sums |
//! | [`transcript`] | the Fiat-Shamir sponge, typed by protocol step |
//! | [`multilinear`] | lists of values on the cube: weights, evaluation, folding |
//! | [`product`] | prover and verifier of the sumcheck for a product |
//!
//! Nothing depends on anything above it: `sumcheck <- commitments <- audit`.
#![forbid(unsafe_code)]
#![deny(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::panic_in_result_fn,
    clippy::unreachable,
    clippy::wildcard_enum_match_arm
)]

pub mod field;
mod labels;
pub mod multilinear;
pub mod product;
pub mod transcript;

pub use field::{E, F};
pub use product::{Claim, RoundProof};
pub use transcript::{Reduction, Transcript};
