//! The commands, one module each: its arguments and a `run` that carries it out.

pub(crate) mod audit;
pub(crate) mod bench;
pub(crate) mod calibrate;
pub(crate) mod chain;
pub(crate) mod generate;
pub(crate) mod model;
mod request;
mod signer;
pub(crate) mod wallet;
