//! Audits: what is asked of a miner, what it answers, and the verdict.
#![forbid(unsafe_code)]

pub mod assets;
pub mod challenge;
mod decode;
mod domains;
pub mod finish;
mod fixed;

pub mod judge;
pub mod keys;
pub mod measure;
pub mod model;
mod num;
pub mod policy;
mod products;
pub mod prompt;
mod proof;
pub mod prove;
mod reference;
mod relations;
pub mod request;
mod resolve;
mod rounding;
pub mod sampling;
pub mod session;
pub mod sizes;
mod sketch;
mod statement;
mod steps;
pub mod tolerance;
pub mod transcript_file;
pub mod verdict;
mod verify;
