//! Every domain string of this crate's hashes, in one table.

/// Manifest ids.
pub(crate) const MANIFEST_ID: &[u8] = b"assay/manifest-id/v1";
/// Norm weights.
pub(crate) const SMALL_TENSORS: &[u8] = b"assay/small-tensors/v1";
/// Digests of trace commitments.
pub(crate) const TRACE_COMMITMENT: &[u8] = b"assay/trace-commitment/v1";

/// Inner nodes of Merkle trees: a BLAKE3 key, as the next three.
pub(crate) const MERKLE_NODE: &[u8; 32] = &key(b"assay/merkle-node/v1");
/// The leaf that pads a Merkle tree.
pub(crate) const MERKLE_PADDING: &[u8; 32] = &key(b"assay/merkle-padding/v1");
/// A Merkle tree's count and top node.
pub(crate) const MERKLE_ROOT: &[u8; 32] = &key(b"assay/merkle-root/v1");
/// A codeword column with its index.
pub(crate) const CODEWORD_COLUMN: &[u8; 32] = &key(b"assay/codeword-column/v1");

/// The output stream from which a commitment's sample point is drawn.
pub(crate) const WEIGHT_SAMPLE: &[u8; 32] = &key(b"assay/weight-sample/v1");

/// A domain string as a BLAKE3 key: zeros up to 32 bytes.
const fn key(domain: &[u8]) -> [u8; 32] {
    let mut key = [0; 32];
    key.split_at_mut(domain.len()).0.copy_from_slice(domain);
    key
}
