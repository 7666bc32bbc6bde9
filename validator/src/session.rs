//! One session: a question to a miner, and what comes of it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use assay_audit::challenge::{Nonce, is_audited};
use assay_audit::judge::{
    Judgement, challenge_of, check_commitment, check_extent, judge, max_commitment_bytes, max_proof_bytes,
};
use assay_audit::keys::{Keypair, Signature};
use assay_audit::policy::Policy;
use assay_audit::prompt::prompt_tokens;
use assay_audit::request::{AuditRate, Deadlines, Network, Request};
use assay_audit::sampling::Sampling;
use assay_audit::session::{Answer, Exchange, Omission, Refusal, RefusalReason, Reply, SessionRecord};
use assay_audit::transcript_file::{Measurements, Receipt, TranscriptFile};
use assay_audit::verdict::OwnFault;
use assay_chain::Chain;
use assay_commitments::codec;
use assay_commitments::trace::TraceCommitment;
use assay_commitments::{Hotkey, TokenId};
use assay_proto::ENVELOPE_BYTES;
use assay_proto::chunks::CHUNK_BYTES;
use assay_proto::v1::validator_message::Message as ToMiner;
use assay_proto::v1::{self, Signed};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tracing::{debug, error, warn};

use crate::conversation::{self, Demand, Opening, Silence, Stream};
use crate::model::VerifierModel;
use crate::nonces::{DrawnNonce, EpochNonces};
use crate::probe::{self, Reach};
use crate::requests::Ask;
use crate::stall::{Moment, Since};
use crate::wire::{Line, Wire};

/// A miner to be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Who it is.
    pub hotkey: Hotkey,
    /// Where it listens.
    pub endpoint: SocketAddr,
}

/// What every request of a validator says beside its question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// What an audit checks.
    pub policy: Policy,
    /// By when what is owed.
    pub deadlines: Deadlines,
    /// Whether transcripts carry tokenizer and chat template, or only name them.
    pub inline_assets: bool,
}

/// Holds sessions with miners.
#[derive(Clone)]
pub struct Auditor {
    keys: Keypair,
    network: Network,
    terms: Terms,
    verifying: Arc<Semaphore>,
    chain: Arc<dyn Reach>,
}

impl std::fmt::Debug for Auditor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Auditor").field("hotkey", &self.hotkey()).finish_non_exhaustive()
    }
}

/// What came of a session.
#[derive(Debug)]
pub enum Outcome {
    /// Tokens came, and a verdict followed.
    Judged(Box<Judged>),
    /// Nothing came; that is no proven failure.
    Unavailable(Silence),
    /// A signed refusal came before the first token.
    Refused(RefusalReason),
    /// The validator failed.
    OwnFault(OwnFault),
}

/// A session with its verdict. Store the file, then [`Judged::deliver`] the receipt: a miner is told
/// only what has been kept.
pub struct Judged {
    /// Everything that anybody needs to judge it again.
    pub file: TranscriptFile,
    /// The verdict and the figures behind it.
    pub judgement: Judgement,
    wire: Wire,
}

impl std::fmt::Debug for Judged {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Judged").field("receipt", &self.file.receipt).finish_non_exhaustive()
    }
}

impl Judged {
    /// Sends the receipt and ends the stream. That it arrives is the miner's own interest.
    pub async fn deliver(mut self) {
        let body = codec::encode(&self.file.receipt);
        if self.wire.send(ToMiner::Receipt(v1::Receipt { body })).await.is_ok() {
            self.wire.end().await;
        }
    }
}

/// A session with the counter of its nonce, if it got that far.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) counter: Option<u64>,
    pub(crate) outcome: Outcome,
}

/// A session under way.
struct Running<'a> {
    auditor: &'a Auditor,
    model: &'a Arc<VerifierModel>,
    line: &'a Line,
    drawn: &'a DrawnNonce,
    request: Request,
    signature: Signature,
    prompt: Vec<TokenId>,
    /// No answer has more.
    most_tokens: usize,
    sent: Instant,
}

impl Auditor {
    /// An auditor that verifies at most `verifying` proofs side by side. Silence is held against a miner only while
    /// `chain` answers.
    pub fn new<C: Chain + 'static>(
        keys: Keypair,
        network: Network,
        terms: Terms,
        verifying: usize,
        chain: Arc<C>,
    ) -> Self {
        Self { keys, network, terms, verifying: Arc::new(Semaphore::new(verifying.max(1))), chain }
    }

    /// The validator's hotkey.
    pub fn hotkey(&self) -> Hotkey {
        self.keys.hotkey()
    }

    /// The chain and subnet it asks on.
    pub(crate) const fn network(&self) -> Network {
        self.network
    }

    /// Whether whoever is silent now is so by itself.
    pub(crate) async fn is_connected(&self) -> bool {
        probe::is_connected(self.chain.as_ref()).await
    }

    /// Asks a miner and follows the session to its verdict. Never fails: what goes wrong is an
    /// outcome, on one side or the other.
    pub async fn session(
        &self,
        peer: &Peer,
        model: &Arc<VerifierModel>,
        ask: Ask,
        audit_rate: AuditRate,
        nonces: &EpochNonces,
    ) -> Outcome {
        self.run(peer, model, ask, audit_rate, nonces).await.outcome
    }

    pub(crate) async fn run(
        &self,
        peer: &Peer,
        model: &Arc<VerifierModel>,
        ask: Ask,
        audit_rate: AuditRate,
        nonces: &EpochNonces,
    ) -> Ended {
        let own = |counter, fault| Ended { counter, outcome: Outcome::OwnFault(fault) };
        let drawn = match nonces.draw(peer.hotkey).await {
            Ok(drawn) => drawn,
            Err(failure) => {
                error!(%failure, "no nonce can be drawn");
                return own(None, OwnFault::Storage);
            }
        };
        let counter = Some(drawn.counter());
        let Some(request) = self.request(peer, model, ask, audit_rate, nonces, &drawn) else {
            return own(counter, OwnFault::PromptUnusable);
        };
        let Some(prompt) = tokenise(model, &request).await else { return own(counter, OwnFault::PromptUnusable) };
        let most_tokens = match check_extent(&request, model.manifest(), model.assets(), prompt.len()) {
            Ok(most_tokens) => most_tokens,
            Err(fault) => return own(counter, fault),
        };
        let message_bytes = max_commitment_bytes(model.manifest()).max(CHUNK_BYTES) + ENVELOPE_BYTES;
        let Some(line) = Line::new(peer.endpoint, message_bytes) else {
            return Ended { counter, outcome: Outcome::Unavailable(Silence::Unreachable) };
        };
        if let Err(failure) = drawn.asked(request.session_id()).await {
            error!(%failure, "a request cannot be noted, so it is not sent");
            return own(counter, OwnFault::Storage);
        }
        let signature = request.sign(&self.keys);
        let running = Running {
            auditor: self,
            model,
            line: &line,
            drawn: &drawn,
            request,
            signature,
            prompt,
            most_tokens,
            sent: Instant::now(),
        };
        Ended { counter, outcome: running.go().await }
    }

    /// The request of a session; `None` if it has no canonical encoding, which a miner could only
    /// refuse.
    fn request(
        &self,
        peer: &Peer,
        model: &VerifierModel,
        ask: Ask,
        audit_rate: AuditRate,
        nonces: &EpochNonces,
        drawn: &DrawnNonce,
    ) -> Option<Request> {
        let Ask { prompt, temperature, top_k, top_p, max_tokens, stop } = ask;
        let complete = self.terms.policy == Policy::Everything;
        let request = Request {
            network: self.network,
            validator: self.keys.hotkey(),
            miner: peer.hotkey,
            epoch: nonces.epoch(),
            manifest: model.id(),
            prompt,
            sampling: Sampling { temperature, top_k, top_p, seed: fresh_seed()? },
            max_tokens,
            stop,
            policy: self.terms.policy,
            audit_rate: if complete { AuditRate::Always } else { audit_rate },
            deadlines: self.terms.deadlines,
            counter: drawn.counter(),
            nonce_commitment: (!complete).then(|| drawn.commitment()),
        };
        let canonical = codec::decode::<Request>(&codec::encode(&request)).is_ok_and(|read| read == request);
        if !canonical {
            warn!("a question is out of the protocol's range: look at temperature, top-p, stop strings and lengths");
        }
        canonical.then_some(request)
    }
}

/// Random bits for a seed.
pub(crate) fn fresh_seed() -> Option<u64> {
    getrandom::u64().inspect_err(|failure| error!(%failure, "the system gives no random bytes")).ok()
}

/// The prompt as tokens, if it has some and leaves room for an answer.
async fn tokenise(model: &Arc<VerifierModel>, request: &Request) -> Option<Vec<TokenId>> {
    let (model, prompt) = (Arc::clone(model), request.prompt.clone());
    let work = move || {
        let assets = model.assets();
        let tokens = prompt_tokens(&prompt, &assets.tokenizer, assets.template.as_ref());
        let context = usize::try_from(model.manifest().architecture.max_positions).unwrap_or(usize::MAX);
        tokens.map(|tokens| (1..context).contains(&tokens.len()).then_some(tokens))
    };
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(tokens)) => tokens,
        Ok(Err(failure)) => {
            warn!(%failure, "a question cannot be turned into tokens");
            None
        }
        Err(_) => None,
    }
}

impl Running<'_> {
    async fn go(self) -> Outcome {
        let signed = Signed { body: codec::encode(&self.request), signature: self.signature.0.to_vec() };
        let (request, mut since) = (ToMiner::Request(signed), Since::now());
        match conversation::ask(self.line, &self.request, self.most_tokens, request, &mut since).await {
            // Something came: that is nobody's silence.
            Opening::Silent(Silence::Disorder) => Outcome::Unavailable(Silence::Disorder),
            Opening::Silent(silence) => {
                debug!(miner = %self.request.miner, ?silence, "nothing came");
                self.own_silence(since).await.map_or(Outcome::Unavailable(silence), Outcome::OwnFault)
            }
            Opening::Refused(signed) => {
                let session = self.request.session_id();
                match Refusal::read_signed(&signed, &self.request.miner, &session) {
                    Some(refusal) => Outcome::Refused(refusal.reason),
                    None => Outcome::Unavailable(Silence::Disorder),
                }
            }
            Opening::Streaming(stream) => self.streamed(*stream, since).await,
        }
    }

    /// What of our own kept us from hearing a miner that has been silent since then, if anything did.
    async fn own_silence(&self, since: Since) -> Option<OwnFault> {
        if since.stood_still() {
            Some(OwnFault::Stalled)
        } else if self.auditor.is_connected().await {
            None
        } else {
            Some(OwnFault::Connection)
        }
    }

    /// From the last token to the verdict.
    async fn streamed(self, stream: Stream, since: Since) -> Outcome {
        let Stream { mut wire, tokens, first_token, last_token, commitment } = stream;
        let mut measured = Measurements {
            first_token_ms: to_ms(first_token - self.sent),
            generation_ms: to_ms(last_token - first_token),
            ..Measurements::default()
        };
        let exchange = match commitment {
            Err(omission) => {
                if is_silence(omission)
                    && let Some(fault) = self.own_silence(since).await
                {
                    return Outcome::OwnFault(fault);
                }
                Exchange::Uncommitted(omission)
            }
            Ok(commitment) => {
                measured.commitment_ms = to_ms(commitment.at - last_token);
                let settle_due = Moment::now() + Duration::from_millis(u64::from(self.request.deadlines.settle_ms));
                match self.reply(&mut wire, &tokens, &commitment.signed, settle_due, &mut measured).await {
                    Ok(reply) => Exchange::Committed { commitment: commitment.signed, reply },
                    Err(fault) => return Outcome::OwnFault(fault),
                }
            }
        };
        self.conclude(tokens, exchange, measured, wire).await
    }

    /// Checks a commitment and answers it with the nonce, if it is worth that.
    async fn reply(
        &self,
        wire: &mut Wire,
        tokens: &[TokenId],
        signed: &assay_audit::session::SignedBytes,
        settle_due: Moment,
        measured: &mut Measurements,
    ) -> Result<Reply, OwnFault> {
        // A commitment that is wrong in itself gets no nonce; the judgement finds the same again.
        let Some(commitment) = self.check(tokens, signed).await? else { return Ok(Reply::None) };
        let too_late = || {
            error!(session = %commitment.session, "too busy to settle in time");
            Ok(Reply::None)
        };
        if Moment::now() > settle_due {
            return too_late();
        }
        if self.request.nonce_commitment.is_none() {
            return self.challenge(wire, &commitment, None, Since::now(), measured).await;
        }
        // A standstill from here on may keep the nonce from the miner.
        let since = Since::now();
        let Some(nonce) = self.reveal(settle_due).await? else { return too_late() };
        if is_audited(self.request.audit_rate, &nonce, &commitment.digest()) {
            return self.challenge(wire, &commitment, Some(nonce), since, measured).await;
        }
        // The nonce is out once it is noted, whether or not it arrives.
        let _ = wire.send(ToMiner::Settle(v1::Settle { nonce: nonce.to_vec() })).await;
        Ok(Reply::Settled { nonce })
    }

    async fn check(
        &self,
        tokens: &[TokenId],
        signed: &assay_audit::session::SignedBytes,
    ) -> Result<Option<TraceCommitment>, OwnFault> {
        let (model, request) = (Arc::clone(self.model), self.request.clone());
        let (tokens, signed) = (tokens.to_vec(), signed.clone());
        let embeddings = model.embeddings().open(self.prompt.iter().chain(&tokens).copied());
        let work =
            move || check_commitment(&request, &tokens, &signed, model.manifest(), model.assets(), &embeddings).ok();
        tokio::task::spawn_blocking(work).await.map_err(|_| OwnFault::Interrupted)
    }

    /// The nonce, once it is noted that it is out; `None` if that took too long for it to be sent.
    async fn reveal(&self, due: Moment) -> Result<Option<Nonce>, OwnFault> {
        self.drawn.reveal_by(due).await.map_err(|failure| {
            error!(%failure, "a nonce cannot be noted as revealed, so it is not");
            OwnFault::Storage
        })
    }

    async fn challenge(
        &self,
        wire: &mut Wire,
        commitment: &TraceCommitment,
        nonce: Option<Nonce>,
        mut since: Since,
        measured: &mut Measurements,
    ) -> Result<Reply, OwnFault> {
        let manifest = self.model.manifest();
        let challenge = challenge_of(&self.request, manifest, commitment, nonce.as_ref());
        let (Some(challenge), Some(positions)) = (challenge, commitment.positions()) else {
            return Err(OwnFault::AuditTooLarge);
        };
        let begun = Instant::now();
        let demand = Demand {
            session: commitment.session,
            challenge: ToMiner::Challenge(v1::Challenge { nonce: nonce.map_or_else(Vec::new, |nonce| nonce.to_vec()) }),
            proof_bytes: max_proof_bytes(manifest, &challenge, positions),
            due: begun + Duration::from_millis(u64::from(self.request.deadlines.proof_ms)),
        };
        let answer = conversation::demand(wire, self.line, &demand, &mut since).await;
        measured.proof_ms = to_ms(begun.elapsed());
        if matches!(answer, Answer::Omitted(omission) if is_silence(omission))
            && let Some(fault) = self.own_silence(since).await
        {
            return Err(fault);
        }
        Ok(Reply::Challenged { nonce, answer })
    }

    /// Judges the record, signs the receipt and puts the file together.
    async fn conclude(self, streamed: Vec<TokenId>, exchange: Exchange, measured: Measurements, wire: Wire) -> Outcome {
        let Self { auditor, model, request, signature, prompt, .. } = self;
        // The prompt's own tokens and the streamed ones are all that a judgement asks for.
        let embeddings = model.embeddings().open(prompt.iter().chain(&streamed).copied());
        let record = SessionRecord { request, request_signature: signature, streamed, exchange };
        let (auditor, model) = (auditor.clone(), Arc::clone(model));
        let Ok(permit) = Arc::clone(&auditor.verifying).acquire_owned().await else {
            return Outcome::OwnFault(OwnFault::Interrupted);
        };
        let work = move || {
            let begun = std::time::Instant::now();
            let judgement = judge(&record, model.manifest(), model.assets(), &embeddings);
            let verify_us = u32::try_from(begun.elapsed().as_micros()).unwrap_or(u32::MAX);
            drop(permit);
            let measurements = Measurements { verify_us, ..measured };
            let receipt = Receipt::sign(&auditor.keys, &record, judgement.verdict, measurements);
            let inline = |asset: &[u8]| auditor.terms.inline_assets.then(|| asset.to_vec());
            let file = TranscriptFile {
                manifest: model.manifest().clone(),
                record,
                embeddings,
                tokenizer: inline(model.tokenizer()),
                chat_template: model.chat_template().and_then(inline),
                receipt,
            };
            (file, judgement)
        };
        match tokio::task::spawn_blocking(work).await {
            Ok((file, judgement)) => Outcome::Judged(Box::new(Judged { file, judgement, wire })),
            Err(failure) => {
                error!(%failure, "a judgement did not come to its end");
                Outcome::OwnFault(OwnFault::Interrupted)
            }
        }
    }
}

/// Whether an omission could be our own doing.
const fn is_silence(omission: Omission) -> bool {
    match omission {
        Omission::Absent | Omission::Late | Omission::Broken => true,
        Omission::Violation => false,
    }
}

fn to_ms(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}
