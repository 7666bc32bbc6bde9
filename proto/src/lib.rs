//! The gRPC messages between validator and miner, and the envelope rules that both sides share.
//!
//! `proto/assay/v1/assay.proto` says what passes and in which order. Protobuf is only the envelope:
//! what is hashed or signed travels as bytes in the protocol's own encoding.
//!
//! | module | what it holds |
//! |---|---|
//! | [`v1`] | the generated types, client and server |
//! | [`chunks`] | long byte strings in pieces, with a bound set before the first is read |
//! | [`fields`] | digests and signatures out of `bytes` fields |
#![forbid(unsafe_code)]

pub mod chunks;
pub mod fields;

/// Generated from `assay.proto`.
#[expect(clippy::allow_attributes, clippy::pedantic, missing_docs, reason = "generated")]
pub mod v1 {
    tonic::include_proto!("assay.v1");
}

/// What server reflection serves: the descriptors of `assay.proto`.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/assay.bin"));

/// Bytes that an envelope may add to what it carries: tags, lengths, a signature, and the frame.
pub const ENVELOPE_BYTES: usize = 1024;
