//! Transcript files: a whole session in one file that anybody can judge again, offline.
//!
//! A file holds the manifest, the request, what the miner sent, the nonce, the embedding digests of the
//! tokens used, the tokenizer and chat template (or only their digests, in the manifest), and the
//! validator's receipt. It ends with a checksum: damage on a disk is told apart from a miner's failure.

use std::collections::BTreeSet;

use assay_commitments::SessionId;
use assay_commitments::TokenId;
use assay_commitments::codec::{self, Canonical, Malformed, Reader, Writer};
use assay_commitments::manifest::{MAX_MANIFEST_BYTES, Manifest};
use assay_commitments::structure::Part;
use assay_commitments::trace::MAX_TOKENS;
use sha3::{Digest, Sha3_256};
use thiserror::Error;

use crate::assets::{EmbeddingDigests, ModelAssets};
use crate::domains;
use crate::judge::{Judgement, Report, judge};
use crate::keys::{Keypair, Signature, is_signed};
use crate::prompt::{MAX_TEMPLATE_BYTES, MAX_TOKENIZER_BYTES};
use crate::proof::MAX_PROOF_BYTES;
use crate::request::MAX_REQUEST_BYTES;
use crate::sealed::{self, Kind, open, seal};
use crate::session::{Answer, Exchange, Omission, Reply, SessionRecord, SignedBytes};
use crate::verdict::{OwnFault, Reason, Verdict};

const KIND: Kind = Kind { magic: *b"ASSAY\0TR", version: 7, checksum: domains::FILE_CHECKSUM };
/// Most bytes that a token costs a file: it is streamed and committed (12), has a digest and hashes above it (68), and
/// as many trees as tokens have roots (32).
const TOKEN_BYTES: usize = 128;
/// Most bytes of a file, a bound to be set before one is read. An exhibit holds parts of a transcript.
pub const MAX_FILE_BYTES: usize = MAX_PROOF_BYTES
    + TOKEN_BYTES * MAX_TOKENS
    + MAX_MANIFEST_BYTES
    + MAX_REQUEST_BYTES
    + MAX_TOKENIZER_BYTES
    + MAX_TEMPLATE_BYTES
    + (1 << 10);

/// Why a file is not a transcript.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FileError {
    /// It does not begin like one.
    #[error("this is no transcript file")]
    Foreign,
    /// It was written by another version.
    #[error("the file has version {found}, this program reads version {known}")]
    Version {
        /// The file's.
        found: u16,
        /// The one that is read.
        known: u16,
    },
    /// The checksum is wrong.
    #[error("the file is damaged or cut short: its checksum does not match")]
    Checksum,
    /// The checksum is right but the content is none.
    #[error("the file's content is malformed: {0}")]
    Malformed(#[from] Malformed),
    /// The parts contradict each other.
    #[error("the file contradicts itself: {0}")]
    Inconsistent(&'static str),
}

/// What a validator measured, with its own clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Measurements {
    /// From the request to the first token, in milliseconds.
    pub first_token_ms: u32,
    /// From the first token to the last, in milliseconds.
    pub generation_ms: u32,
    /// From the last token to the commitment, in milliseconds.
    pub commitment_ms: u32,
    /// From the challenge to the whole proof, in milliseconds.
    pub proof_ms: u32,
    /// Time that the judgement took, in microseconds.
    pub verify_us: u32,
}

/// A verdict as a receipt states it: without its place, which a replay finds again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conclusion {
    /// Accepted.
    Accepted,
    /// Rejected.
    Rejected(Reason),
    /// Inconclusive.
    Inconclusive(OwnFault),
}

impl From<Verdict> for Conclusion {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Accepted => Self::Accepted,
            Verdict::Rejected(failure) => Self::Rejected(failure.reason),
            Verdict::Inconclusive(fault) => Self::Inconclusive(fault),
        }
    }
}

/// What a validator signs at the end of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The session.
    pub session: SessionId,
    /// [`SessionRecord::exchange_digest`]: what came and what was replied, as the validator has it.
    pub exchange: [u8; 32],
    /// What the validator concluded.
    pub conclusion: Conclusion,
    /// What it measured.
    pub measurements: Measurements,
    /// Its signature over the rest.
    pub signature: Signature,
}

impl Receipt {
    /// Makes and signs the receipt of a session.
    pub fn sign(keys: &Keypair, record: &SessionRecord, verdict: Verdict, measurements: Measurements) -> Self {
        let (session, exchange, conclusion) = (record.request.session_id(), record.exchange_digest(), verdict.into());
        let digest = receipt_digest(&session, &exchange, conclusion, &measurements);
        let signature = keys.sign(domains::SIGN_RECEIPT, &digest);
        Self { session, exchange, conclusion, measurements, signature }
    }

    /// Whether the validator `hotkey` signed it.
    pub fn is_signed_by(&self, hotkey: &assay_commitments::Hotkey) -> bool {
        let digest = receipt_digest(&self.session, &self.exchange, self.conclusion, &self.measurements);
        is_signed(hotkey, domains::SIGN_RECEIPT, &digest, &self.signature)
    }
}

fn receipt_digest(
    session: &SessionId,
    exchange: &[u8; 32],
    conclusion: Conclusion,
    measurements: &Measurements,
) -> [u8; 32] {
    let mut out = Writer::new();
    out.raw(session.as_bytes());
    out.raw(exchange);
    out.value(&conclusion);
    out.value(measurements);
    Sha3_256::digest(out.finish()).into()
}

/// A session with everything needed to judge it.
#[derive(Clone, Debug, PartialEq)]
pub struct TranscriptFile {
    /// The model.
    pub manifest: Manifest,
    /// The session.
    pub record: SessionRecord,
    /// The embedding digests of all tokens that the judgement asks for.
    pub embeddings: EmbeddingDigests,
    /// The tokenizer; the manifest has its digest.
    pub tokenizer: Option<Vec<u8>>,
    /// The chat template; the manifest has its digest.
    pub chat_template: Option<Vec<u8>>,
    /// The validator's receipt.
    pub receipt: Receipt,
}

impl TranscriptFile {
    /// The bytes of the file.
    pub fn encode(&self) -> Vec<u8> {
        seal(&KIND, |out| {
            out.value(&self.manifest);
            out.value(&self.record);
            out.value(&self.embeddings);
            for asset in [&self.tokenizer, &self.chat_template] {
                out.value(&asset.is_some());
                if let Some(bytes) = asset {
                    out.bytes(bytes);
                }
            }
            out.value(&self.receipt);
        })
    }

    /// Reads a file and checks that its parts belong together: manifest and request, the validator's
    /// signatures, digests of what is inline.
    ///
    /// # Errors
    /// [`FileError`]. A file that is read tells of the miner; one that is not, of the file alone.
    pub fn decode(bytes: &[u8]) -> Result<Self, FileError> {
        let mut from = open(&KIND, bytes)?;
        let mut file = Self::read(&mut from)?;
        from.finish()?;
        file.embeddings
            .verify(&file.manifest)
            .map_err(|_| FileError::Inconsistent("an embedding digest is not the manifest's"))?;
        file.check()?;
        Ok(file)
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            manifest: from.value()?,
            record: from.value()?,
            embeddings: from.value()?,
            tokenizer: read_asset(from, MAX_TOKENIZER_BYTES)?,
            chat_template: read_asset(from, MAX_TEMPLATE_BYTES)?,
            receipt: from.value()?,
        })
    }

    /// What the bytes of a file are made of, its checksum apart.
    ///
    /// # Errors
    /// [`FileError::Malformed`] for bytes that are no file.
    pub fn structure(bytes: &[u8]) -> Result<Part, FileError> {
        sealed::structure(bytes, Self::read)
    }

    fn check(&self) -> Result<(), FileError> {
        let request = &self.record.request;
        let digest = |bytes: &Vec<u8>| *blake3::hash(bytes).as_bytes();
        let holds = |what, ok: bool| if ok { Ok(()) } else { Err(FileError::Inconsistent(what)) };
        holds("the request names another manifest", self.manifest.id() == request.manifest)?;
        holds("the request is not signed by its validator", request.is_signed(&self.record.request_signature))?;
        holds("the receipt is of another session", self.receipt.session == request.session_id())?;
        holds("the receipt is not signed by the validator", self.receipt.is_signed_by(&request.validator))?;
        holds("the receipt is of another exchange", self.receipt.exchange == self.record.exchange_digest())?;
        let tokenizer = self.tokenizer.as_ref().is_none_or(|bytes| digest(bytes) == self.manifest.tokenizer);
        holds("the tokenizer is not the manifest's", tokenizer)?;
        let template =
            self.chat_template.as_ref().is_none_or(|bytes| Some(digest(bytes)) == self.manifest.chat_template);
        holds("the chat template is not the manifest's", template)
    }

    /// Judges the session again. `find` looks up assets that the file names by digest only.
    pub fn judge(&self, find: &dyn Fn(&[u8; 32]) -> Option<Vec<u8>>) -> Judgement {
        self.judge_with(self.assets(find).as_ref())
    }

    /// Judges the session again with assets that were [read](Self::assets) before, for it or for another
    /// session of the same model.
    pub fn judge_with(&self, assets: Result<&ModelAssets, &OwnFault>) -> Judgement {
        match assets {
            Ok(assets) => judge(&self.record, &self.manifest, assets, &self.embeddings),
            Err(fault) => Judgement { verdict: Verdict::Inconclusive(*fault), report: Report::default() },
        }
    }

    /// The assets that a judgement asks for. `find` looks up those that the file names by digest only.
    ///
    /// # Errors
    /// [`OwnFault::AssetMissing`] if one is not there, [`OwnFault::PromptUnusable`] if it cannot be read.
    pub fn assets(&self, find: &dyn Fn(&[u8; 32]) -> Option<Vec<u8>>) -> Result<ModelAssets, OwnFault> {
        let asset = |inline: &Option<Vec<u8>>, digest: &[u8; 32]| {
            inline.clone().or_else(|| find(digest)).ok_or(OwnFault::AssetMissing)
        };
        let tokenizer = asset(&self.tokenizer, &self.manifest.tokenizer)?;
        let template =
            self.manifest.chat_template.as_ref().map(|digest| asset(&self.chat_template, digest)).transpose()?;
        ModelAssets::new(&self.manifest, &tokenizer, template.as_deref())
    }

    /// The tokens whose embedding digests a judgement asks for, from what was streamed and, where it can
    /// be read, what was committed.
    pub fn tokens_of(record: &SessionRecord) -> Vec<TokenId> {
        let committed = match &record.exchange {
            Exchange::Committed { commitment, .. } => {
                codec::decode::<assay_commitments::trace::TraceCommitment>(&commitment.bytes).ok()
            }
            Exchange::Uncommitted(_) => None,
        };
        let committed =
            committed.into_iter().flat_map(|commitment| commitment.prompt.into_iter().chain(commitment.output));
        record.streamed.iter().copied().chain(committed).collect::<BTreeSet<_>>().into_iter().collect()
    }
}

fn read_asset(from: &mut Reader<'_>, most: usize) -> Result<Option<Vec<u8>>, Malformed> {
    from.option(|from| from.bytes(most).map(<[u8]>::to_vec))
}

impl Canonical for Conclusion {
    fn write(&self, out: &mut Writer) {
        match self {
            Self::Accepted => out.u8(0),
            Self::Rejected(reason) => {
                out.u8(1);
                out.value(reason);
            }
            Self::Inconclusive(fault) => {
                out.u8(2);
                out.value(fault);
            }
        }
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        match from.u8()? {
            0 => Ok(Self::Accepted),
            1 => from.value().map(Self::Rejected),
            2 => from.value().map(Self::Inconclusive),
            _ => Err(Malformed::NotCanonical),
        }
    }
}

impl Canonical for Measurements {
    fn write(&self, out: &mut Writer) {
        let Self { first_token_ms, generation_ms, commitment_ms, proof_ms, verify_us } = self;
        for value in [first_token_ms, generation_ms, commitment_ms, proof_ms, verify_us] {
            out.u32(*value);
        }
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            first_token_ms: from.u32()?,
            generation_ms: from.u32()?,
            commitment_ms: from.u32()?,
            proof_ms: from.u32()?,
            verify_us: from.u32()?,
        })
    }
}

impl Canonical for Receipt {
    fn write(&self, out: &mut Writer) {
        out.raw(self.session.as_bytes());
        out.raw(&self.exchange);
        out.value(&self.conclusion);
        out.value(&self.measurements);
        out.value(&self.signature);
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            session: SessionId::new(from.array()?),
            exchange: from.array()?,
            conclusion: from.value()?,
            measurements: from.value()?,
            signature: from.value()?,
        })
    }
}

impl Canonical for SignedBytes {
    fn write(&self, out: &mut Writer) {
        out.bytes(&self.bytes);
        out.value(&self.signature);
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self { bytes: from.bytes(MAX_PROOF_BYTES)?.to_vec(), signature: from.value()? })
    }
}

impl Canonical for Omission {
    fn write(&self, out: &mut Writer) {
        out.u8(match self {
            Self::Absent => 0,
            Self::Late => 1,
            Self::Broken => 2,
            Self::Violation => 3,
        });
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        match from.u8()? {
            0 => Ok(Self::Absent),
            1 => Ok(Self::Late),
            2 => Ok(Self::Broken),
            3 => Ok(Self::Violation),
            _ => Err(Malformed::NotCanonical),
        }
    }
}

impl Canonical for Answer {
    fn write(&self, out: &mut Writer) {
        match self {
            Self::Proof(proof) => {
                out.u8(0);
                out.value(proof);
            }
            Self::Refusal(refusal) => {
                out.u8(1);
                out.value(refusal);
            }
            Self::Omitted(omission) => {
                out.u8(2);
                out.value(omission);
            }
        }
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        match from.u8()? {
            0 => from.value().map(Self::Proof),
            1 => from.value().map(Self::Refusal),
            2 => from.value().map(Self::Omitted),
            _ => Err(Malformed::NotCanonical),
        }
    }
}

impl Canonical for Reply {
    fn write(&self, out: &mut Writer) {
        match self {
            Self::None => out.u8(0),
            Self::Settled { nonce } => {
                out.u8(1);
                out.value(nonce);
            }
            Self::Challenged { nonce, answer } => {
                out.u8(2);
                out.value(nonce);
                out.value(answer);
            }
        }
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        match from.u8()? {
            0 => Ok(Self::None),
            1 => Ok(Self::Settled { nonce: from.value()? }),
            2 => Ok(Self::Challenged { nonce: from.value()?, answer: from.value()? }),
            _ => Err(Malformed::NotCanonical),
        }
    }
}

impl Canonical for Exchange {
    fn write(&self, out: &mut Writer) {
        match self {
            Self::Uncommitted(omission) => {
                out.u8(0);
                out.value(omission);
            }
            Self::Committed { commitment, reply } => {
                out.u8(1);
                out.value(commitment);
                out.value(reply);
            }
        }
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        match from.u8()? {
            0 => from.value().map(Self::Uncommitted),
            1 => Ok(Self::Committed { commitment: from.value()?, reply: from.value()? }),
            _ => Err(Malformed::NotCanonical),
        }
    }
}

/// Of the tokens that were streamed and all that came after them, to the last byte: what a receipt signs.
pub fn exchange_digest(streamed: &[TokenId], exchange: &Exchange) -> [u8; 32] {
    let mut out = Writer::new();
    write_exchange(&mut out, streamed, exchange);
    blake3::derive_key(domains::EXCHANGE, &out.finish())
}

fn write_exchange(out: &mut Writer, streamed: &[TokenId], exchange: &Exchange) {
    out.list(&streamed.iter().map(|token| token.get()).collect::<Vec<_>>());
    out.value(exchange);
}

impl SessionRecord {
    /// Its [`exchange_digest`].
    pub fn exchange_digest(&self) -> [u8; 32] {
        exchange_digest(&self.streamed, &self.exchange)
    }
}

impl Canonical for SessionRecord {
    fn write(&self, out: &mut Writer) {
        out.value(&self.request);
        out.value(&self.request_signature);
        write_exchange(out, &self.streamed, &self.exchange);
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        let record = Self {
            request: from.value()?,
            request_signature: from.value()?,
            streamed: from.list::<u32>(MAX_TOKENS)?.into_iter().map(TokenId::new).collect(),
            exchange: from.value()?,
        };
        // Before its first token a miner owes nothing: such a session has no record.
        let is_silent = record.streamed.is_empty() && matches!(record.exchange, Exchange::Uncommitted(_));
        if is_silent { Err(Malformed::NotCanonical) } else { Ok(record) }
    }
}
