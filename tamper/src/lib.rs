//! Tampering: changed messages, and what becomes of them.
//!
//! Changes are made from the structure that a message's own decoder reports
//! ([`assay_commitments::structure`]), not from a list of fields: what is decoded is tampered with. The
//! tests go through all changes of a small session, and the fuzz targets through scripts of them.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a mistake in here ends a test, which is what it is for")]

pub mod mutation;
mod random;
pub mod subject;
pub mod targets;

pub use random::Random;
