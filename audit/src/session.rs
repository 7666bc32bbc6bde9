//! What passes between a validator and a miner, as it was sent: the record on which a verdict rests.
//!
//! Bytes from a miner stay bytes until the judgement decodes them, so that every error in them is
//! found by the same code and booked to the same side, by validator and auditor alike.

use assay_commitments::codec::{Canonical, Malformed, Reader, Writer};
use assay_commitments::trace::TraceCommitment;
use assay_commitments::{Hotkey, SessionId, TokenId};
use sha3::{Digest, Sha3_256};

use crate::challenge::Nonce;
use crate::domains;
use crate::keys::{Keypair, Signature, is_signed};
use crate::parts::Contents;
use crate::request::Request;

/// Bytes from a miner and the signature that came with them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedBytes {
    /// The message.
    pub bytes: Vec<u8>,
    /// The miner's signature, not yet checked.
    pub signature: Signature,
}

/// Why a miner turns something down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RefusalReason {
    /// Before the first token: the validator's budget of proof time for this epoch is spent.
    OverBudget,
    /// Before the first token: too many requests at a time.
    Busy,
    /// Before the first token: the request asks for what this miner does not serve.
    Unserved,
    /// In reply to a challenge or settlement: the nonce is not the one committed to.
    WrongNonce,
    /// In reply to a challenge or settlement: the draw says otherwise.
    WrongDraw,
}

impl RefusalReason {
    /// The name that users see.
    pub const fn name(self) -> &'static str {
        match self {
            Self::OverBudget => "over_budget",
            Self::Busy => "busy",
            Self::Unserved => "unserved",
            Self::WrongNonce => "wrong_nonce",
            Self::WrongDraw => "wrong_draw",
        }
    }
}

impl Canonical for RefusalReason {
    fn write(&self, out: &mut Writer) {
        out.u8(match self {
            Self::OverBudget => 0,
            Self::Busy => 1,
            Self::Unserved => 2,
            Self::WrongNonce => 3,
            Self::WrongDraw => 4,
        });
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        match from.u8()? {
            0 => Ok(Self::OverBudget),
            1 => Ok(Self::Busy),
            2 => Ok(Self::Unserved),
            3 => Ok(Self::WrongNonce),
            4 => Ok(Self::WrongDraw),
            _ => Err(Malformed::NotCanonical),
        }
    }
}

/// A refusal, as a miner signs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The session.
    pub session: SessionId,
    /// Why.
    pub reason: RefusalReason,
}

impl Refusal {
    /// The encoding with the miner's signature.
    pub fn sign(&self, keys: &Keypair) -> SignedBytes {
        sign_bytes(keys, domains::SIGN_REFUSAL, &self.session, assay_commitments::codec::encode(self))
    }

    /// The refusal in `signed`, if `miner` signed it for `session`.
    pub fn read_signed(signed: &SignedBytes, miner: &Hotkey, session: &SessionId) -> Option<Self> {
        let refusal: Self = assay_commitments::codec::decode(&signed.bytes).ok()?;
        let valid = refusal.session == *session && is_signed_bytes(miner, domains::SIGN_REFUSAL, session, signed);
        valid.then_some(refusal)
    }
}

impl Canonical for Refusal {
    fn write(&self, out: &mut Writer) {
        out.raw(self.session.as_bytes());
        out.value(&self.reason);
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self { session: SessionId::new(from.array()?), reason: from.value()? })
    }
}

/// A trace commitment with the miner's signature.
pub fn sign_commitment(keys: &Keypair, commitment: &TraceCommitment) -> SignedBytes {
    let signature = keys.sign(domains::SIGN_COMMITMENT, &commitment.digest());
    SignedBytes { bytes: assay_commitments::codec::encode(commitment), signature }
}

pub(crate) fn is_commitment_signed(miner: &Hotkey, commitment: &TraceCommitment, signature: &Signature) -> bool {
    is_signed(miner, domains::SIGN_COMMITMENT, &commitment.digest(), signature)
}

/// A proof with the miner's signature over the digests of its parts and of what it proves, which shows to others that the
/// bytes are the miner's own answer to that commitment, all of them or one part alone.
pub fn sign_proof(keys: &Keypair, commitment: &TraceCommitment, proof: Vec<u8>) -> SignedBytes {
    let signature = keys.sign(domains::SIGN_PROOF, &Contents::of(&proof).digest(&commitment.digest()));
    SignedBytes { bytes: proof, signature }
}

pub(crate) fn is_proof_signed(
    miner: &Hotkey,
    commitment: &TraceCommitment,
    contents: &Contents,
    by: &Signature,
) -> bool {
    is_signed(miner, domains::SIGN_PROOF, &contents.digest(&commitment.digest()), by)
}

fn sign_bytes(keys: &Keypair, domain: &[u8], session: &SessionId, bytes: Vec<u8>) -> SignedBytes {
    let signature = keys.sign(domain, &bytes_digest(session, &bytes));
    SignedBytes { bytes, signature }
}

fn is_signed_bytes(miner: &Hotkey, domain: &[u8], session: &SessionId, signed: &SignedBytes) -> bool {
    is_signed(miner, domain, &bytes_digest(session, &signed.bytes), &signed.signature)
}

/// Binds bytes to their session.
fn bytes_digest(session: &SessionId, bytes: &[u8]) -> [u8; 32] {
    let mut hash = Sha3_256::new();
    hash.update(session.as_bytes());
    hash.update(blake3::hash(bytes).as_bytes());
    hash.finalize().into()
}

/// A session from request to end.
#[derive(Clone, Debug, PartialEq)]
pub struct SessionRecord {
    /// The request.
    pub request: Request,
    /// The validator's signature over it.
    pub request_signature: Signature,
    /// The tokens that were streamed.
    pub streamed: Vec<TokenId>,
    /// What came after them.
    pub exchange: Exchange,
}

/// What came after the tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exchange {
    /// Tokens came, but no commitment in time.
    Uncommitted(Omission),
    /// A commitment came.
    Committed {
        /// The commitment.
        commitment: SignedBytes,
        /// What was done about it.
        reply: Reply,
    },
}

/// How something owed was not delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Omission {
    /// It never came.
    Absent,
    /// It came after its deadline.
    Late,
    /// The connection broke and was not taken up again.
    Broken,
    /// Something else came that the protocol does not allow there.
    Violation,
}

/// What a validator did about a commitment, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Nothing: the commitment itself was wrong, or the validator failed.
    None,
    /// The nonce was revealed to show that no audit is due.
    Settled {
        /// The nonce.
        nonce: Nonce,
    },
    /// A proof was asked for.
    Challenged {
        /// The nonce; none for a complete proof.
        nonce: Option<Nonce>,
        /// What came back.
        answer: Answer,
    },
}

/// What came back on a challenge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A proof.
    Proof(SignedBytes),
    /// A refusal.
    Refusal(SignedBytes),
    /// Nothing in time.
    Omitted(Omission),
}
