//! Every domain string of this crate's hashes and signatures, in one table.

/// Session ids: what a request says.
pub(crate) const SESSION_ID: &[u8] = b"assay/session-id/v1";
/// Policy digests.
pub(crate) const POLICY: &[u8] = b"assay/policy/v1";
/// Nonces drawn from an epoch key.
pub(crate) const NONCE: &[u8] = b"assay/nonce/v1";
/// Commitments to nonces.
pub(crate) const NONCE_COMMITMENT: &[u8] = b"assay/nonce-commitment/v1";
/// Published hashes of epoch keys.
pub(crate) const EPOCH_KEY: &[u8] = b"assay/epoch-key/v1";
/// The decision whether a response is audited.
pub(crate) const AUDIT: &[u8] = b"assay/audit/v1";
/// Challenge seeds.
pub(crate) const CHALLENGE: &[u8] = b"assay/challenge/v1";
/// Draws from a challenge seed.
pub(crate) const DRAW: &[u8] = b"assay/draw/v1";
/// What stands in place of a nonce in a complete proof.
pub(crate) const NO_NONCE: &[u8] = b"assay/complete-proof/v1";
/// The Fiat-Shamir transcript of an audit.
pub(crate) const AUDIT_TRANSCRIPT: &str = "assay/audit-transcript/v1";
/// Sign vectors.
pub(crate) const SIGNS: &str = "assay/signs/v1";
/// Noise of the sampler.
pub(crate) const GUMBEL: &str = "assay/gumbel/v1";
/// Signatures of validators over requests.
pub(crate) const SIGN_REQUEST: &[u8] = b"assay/sign/request/v1";
/// Signatures of miners over trace commitments.
pub(crate) const SIGN_COMMITMENT: &[u8] = b"assay/sign/commitment/v1";
/// Signatures of miners over proofs.
pub(crate) const SIGN_PROOF: &[u8] = b"assay/sign/proof/v1";
/// The contents of a proof, which a miner signs.
pub(crate) const PROOF_CONTENTS: &[u8] = b"assay/proof-contents/v1";
/// Signatures of miners over refusals.
pub(crate) const SIGN_REFUSAL: &[u8] = b"assay/sign/refusal/v1";
/// Signatures of validators over receipts.
pub(crate) const SIGN_RECEIPT: &[u8] = b"assay/sign/receipt/v2";
/// The digest of an exchange that a receipt signs.
pub(crate) const EXCHANGE: &str = "assay/exchange/v1";
/// Checksum at the end of a transcript file.
pub(crate) const FILE_CHECKSUM: &str = "assay/transcript-file/v1";
/// Checksum at the end of an exhibit.
pub(crate) const EXHIBIT_CHECKSUM: &str = "assay/exhibit/v1";
/// Checksum at the end of an epoch's log.
pub(crate) const EPOCH_LOG_CHECKSUM: &str = "assay/epoch-log/v1";
/// Digests of epoch logs, which validators publish.
pub(crate) const EPOCH_LOG: &[u8] = b"assay/epoch-log-digest/v1";
