//! The peers.

pub(crate) mod dft;
pub(crate) mod rs_merkle;
pub(crate) mod whir;
