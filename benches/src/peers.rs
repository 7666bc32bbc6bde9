//! The peers.

pub(crate) mod candle;
pub(crate) mod dft;
pub(crate) mod rs_merkle;
pub(crate) mod whir;
