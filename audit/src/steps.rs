//! The transcript of an audit: what is absorbed, in which order, and what is drawn when.
//!
//! Prover and verifier run these same functions. A step that only absorbs has no challenge to give,
//! so nothing can be drawn before the messages that it depends on.

use assay_commitments::manifest::Manifest;
use assay_sumcheck::E;
use assay_sumcheck::transcript::{Absorbs, First, Follows, Reduction, Squeezes, Step, Transcript};

use crate::domains;
use crate::parts::{PartDigest, list_bytes};
use crate::request::PROTOCOL_VERSION;
use crate::statement::Statement;

macro_rules! step {
    ($(#[$doc:meta])* $name:ident, $label:literal, $kind:ident) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub(crate) enum $name {}
        impl Step for $name {
            const LABEL: &'static str = $label;
        }
        impl $kind for $name {}
    };
}

step! {
    /// What stands fixed before the audit.
    Committed, "committed", Absorbs
}
step! {
    /// Rows, supplied products and paths.
    Witnessed, "witnessed", Absorbs
}
step! {
    /// Sign vectors are drawn.
    Signed, "signed", Squeezes
}
step! {
    /// Claims on products.
    Claimed, "claimed", Absorbs
}
step! {
    /// The challenge that combines claims is drawn.
    Combined, "combined", Squeezes
}

impl First for Committed {}
impl Follows<Committed> for Witnessed {}
impl Follows<Witnessed> for Signed {}
impl Follows<Signed> for Claimed {}
impl Follows<Claimed> for Combined {}
impl Follows<Combined> for Reduction {}

/// Starts the transcript from what is fixed: version, request, policy, commitment, nonce, model.
pub(crate) fn start(statement: &Statement<'_>, manifest: &Manifest) -> Transcript<Committed> {
    let mut transcript = Transcript::<Committed>::start(domains::AUDIT_TRANSCRIPT);
    transcript.absorb("version", &PROTOCOL_VERSION.to_le_bytes());
    transcript.absorb("request", statement.request.session_id().as_bytes());
    transcript.absorb("policy", &statement.request.policy.digest());
    transcript.absorb("commitment", &statement.commitment.digest());
    transcript.absorb("nonce", statement.nonce.map_or(domains::NO_NONCE, |nonce| nonce.as_slice()));
    transcript.absorb("manifest", manifest.id().as_bytes());
    transcript
}

/// Absorbs the witness, part by part through their digests, and draws the key of the sign vectors.
pub(crate) fn witness(transcript: Transcript<Committed>, parts: &[PartDigest]) -> (Transcript<Signed>, [u8; 32]) {
    let mut transcript = transcript.advance::<Witnessed>();
    transcript.absorb_bulk("witness", &list_bytes(parts));
    let mut transcript = transcript.advance::<Signed>();
    let seed = transcript.seed("signs");
    (transcript, seed)
}

/// Absorbs the claims and draws what combines them. What follows are the openings.
pub(crate) fn claims(transcript: Transcript<Signed>, parts: &[PartDigest]) -> (Transcript<Combined>, E) {
    let mut transcript = transcript.advance::<Claimed>();
    transcript.absorb_bulk("claims", &list_bytes(parts));
    let mut transcript = transcript.advance::<Combined>();
    let beta = transcript.challenge("beta");
    (transcript, beta)
}
