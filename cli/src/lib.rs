//! What the `assay` command is made of.
#![forbid(unsafe_code)]

pub mod local;
pub mod self_audit;
