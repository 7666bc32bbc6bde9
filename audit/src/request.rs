//! Requests: all that a miner is told before it answers, and the session id that binds it.

use assay_commitments::codec::{self, Canonical, Malformed, Reader, Writer};
use assay_commitments::trace::MAX_TOKENS;
use assay_commitments::{Epoch, Hotkey, ManifestId, SessionId};
use sha3::{Digest, Sha3_256};

use crate::domains;
use crate::keys::{Keypair, Signature, is_signed};
use crate::num::index;
use crate::policy::Policy;
use crate::prompt::{MAX_PROMPT_BYTES, Prompt};
use crate::sampling::Sampling;

/// The version of the protocol that this crate speaks.
pub const PROTOCOL_VERSION: u16 = 1;
/// Most stop strings of a request.
pub const MAX_STOP_STRINGS: usize = 16;
/// Most bytes of an encoded request, a bound to be set before one is read.
pub const MAX_REQUEST_BYTES: usize = 2 * MAX_PROMPT_BYTES;

/// The network that a session belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// Hash of the chain's first block.
    pub genesis: [u8; 32],
    /// The subnet.
    pub netuid: u16,
}

/// By when each step must be done, in milliseconds from the one before it, and by when the whole answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// From the request to the first token.
    pub first_token_ms: u32,
    /// From one token to the next.
    pub token_ms: u32,
    /// From the last token to the commitment.
    pub commitment_ms: u32,
    /// From the request to the last token, and to the commitment, however quickly each followed on the one before.
    pub answer_ms: u32,
    /// From the commitment to `Settle` or `Challenge`.
    pub settle_ms: u32,
    /// From the challenge to the whole proof.
    pub proof_ms: u32,
}

impl Deadlines {
    /// The same number of milliseconds for every step.
    pub const fn all(ms: u32) -> Self {
        Self { first_token_ms: ms, token_ms: ms, commitment_ms: ms, answer_ms: ms, settle_ms: ms, proof_ms: ms }
    }

    /// Each of them, in the order of the encoding, in milliseconds.
    pub const fn each(&self) -> [u32; 6] {
        let Self { first_token_ms, token_ms, commitment_ms, answer_ms, settle_ms, proof_ms } = *self;
        [first_token_ms, token_ms, commitment_ms, answer_ms, settle_ms, proof_ms]
    }
}

/// How often a response is audited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AuditRate {
    /// Every response.
    Always,
    /// A response whose draw lies below the number: a share of `n / 2^64`.
    Below(u64),
}

/// A request. Its encoding is what is hashed and signed.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// The chain and subnet.
    pub network: Network,
    /// Who asks.
    pub validator: Hotkey,
    /// Who is asked.
    pub miner: Hotkey,
    /// The epoch whose key draws the nonce.
    pub epoch: Epoch,
    /// The model.
    pub manifest: ManifestId,
    /// What to continue.
    pub prompt: Prompt,
    /// How to draw tokens.
    pub sampling: Sampling,
    /// Most output tokens.
    pub max_tokens: u32,
    /// Strings that end the answer.
    pub stop: Vec<String>,
    /// What an audit checks.
    pub policy: Policy,
    /// How often it happens.
    pub audit_rate: AuditRate,
    /// By when what is owed.
    pub deadlines: Deadlines,
    /// Counts the validator's nonces for this miner in this epoch.
    pub counter: u64,
    /// Binds the nonce that is revealed later; `None` for a complete proof, which needs none.
    pub nonce_commitment: Option<[u8; 32]>,
}

impl Request {
    /// The digest of all of it.
    pub fn session_id(&self) -> SessionId {
        let mut hash = Sha3_256::new();
        hash.update(domains::SESSION_ID);
        hash.update(codec::encode(self));
        SessionId::new(hash.finalize().into())
    }

    /// The validator's signature.
    pub fn sign(&self, keys: &Keypair) -> Signature {
        keys.sign(domains::SIGN_REQUEST, self.session_id().as_bytes())
    }

    /// Whether the validator that it names signed it.
    pub fn is_signed(&self, signature: &Signature) -> bool {
        is_signed(&self.validator, domains::SIGN_REQUEST, self.session_id().as_bytes(), signature)
    }
}

impl Canonical for Request {
    fn write(&self, out: &mut Writer) {
        out.u16(PROTOCOL_VERSION);
        out.raw(&self.network.genesis);
        out.u16(self.network.netuid);
        out.raw(self.validator.as_bytes());
        out.raw(self.miner.as_bytes());
        out.u64(self.epoch.get());
        out.raw(self.manifest.as_bytes());
        out.value(&self.prompt);
        out.value(&self.sampling);
        out.u32(self.max_tokens);
        out.length(self.stop.len());
        self.stop.iter().for_each(|stop| out.bytes(stop.as_bytes()));
        out.value(&self.policy);
        out.value(&self.audit_rate);
        out.value(&self.deadlines);
        out.u64(self.counter);
        out.value(&self.nonce_commitment);
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        if from.u16()? != PROTOCOL_VERSION {
            return Err(Malformed::NotCanonical);
        }
        let request = Self {
            network: Network { genesis: from.array()?, netuid: from.u16()? },
            validator: Hotkey::new(from.array()?),
            miner: Hotkey::new(from.array()?),
            epoch: Epoch::new(from.u64()?),
            manifest: ManifestId::new(from.array()?),
            prompt: from.value()?,
            sampling: from.value()?,
            max_tokens: from.u32()?,
            stop: read_stop(from)?,
            policy: from.value()?,
            audit_rate: from.value()?,
            deadlines: from.value()?,
            counter: from.u64()?,
            nonce_commitment: from.value()?,
        };
        // A complete proof has no nonce and is always owed; every other audit has one.
        let complete = request.policy == Policy::Everything;
        let consistent = complete == request.nonce_commitment.is_none()
            && (!complete || request.audit_rate == AuditRate::Always)
            && (1..=MAX_TOKENS).contains(&index(request.max_tokens));
        if consistent { Ok(request) } else { Err(Malformed::NotCanonical) }
    }
}

fn read_stop(from: &mut Reader<'_>) -> Result<Vec<String>, Malformed> {
    let count = from.length(MAX_STOP_STRINGS)?;
    from.each(0..count, |from, _| match from.text(256)? {
        // The empty string stands in every text: it would end an answer before it begins.
        "" => Err(Malformed::NotCanonical),
        stop => Ok(stop.to_owned()),
    })
}

impl Canonical for Deadlines {
    fn write(&self, out: &mut Writer) {
        for ms in self.each() {
            out.u32(ms);
        }
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            first_token_ms: from.u32()?,
            token_ms: from.u32()?,
            commitment_ms: from.u32()?,
            answer_ms: from.u32()?,
            settle_ms: from.u32()?,
            proof_ms: from.u32()?,
        })
    }
}

impl Canonical for AuditRate {
    fn write(&self, out: &mut Writer) {
        match self {
            Self::Always => out.value::<Option<[u8; 8]>>(&None),
            Self::Below(rate) => out.value(&Some(rate.to_le_bytes())),
        }
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        let rate: Option<[u8; 8]> = from.value()?;
        Ok(rate.map_or(Self::Always, |rate| Self::Below(u64::from_le_bytes(rate))))
    }
}
