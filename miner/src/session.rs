//! One session on its stream: serve, commit, then settle or prove.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use assay_audit::judge::check_extent;
use assay_audit::prompt::prompt_tokens;
use assay_audit::request::Request;
use assay_audit::session::{Answer, RefusalReason, Reply, SignedBytes, sign_commitment};
use assay_audit::transcript_file::{Conclusion, Receipt};
use assay_commitments::codec;
use assay_commitments::trace::{Trace, TraceShape};
use assay_commitments::{SessionId, TokenId};
use assay_llm_runtime::retention::Room;
use assay_proto::v1::miner_message::Message as Ours;
use assay_proto::v1::validator_message::Message as Theirs;
use assay_proto::v1::{self, MinerMessage, Resume, Signed, Tokens, ValidatorMessage};
use assay_proto::{chunks, fields};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_stream::{Stream, StreamExt};
use tonic::Status;
use tracing::{debug, info, warn};

use crate::admission;
use crate::backend::ServeError;
use crate::peers::{SessionPermit, Turned};
use crate::proving::{self, Reveal};
use crate::retention::Kept;
use crate::state::State;

/// By when a stream must say what it is for.
const OPENING: Duration = Duration::from_secs(10);
/// How long one message may wait for the peer to read.
const SENDING: Duration = Duration::from_secs(30);
/// How long a receipt is waited for.
const RECEIPT: Duration = Duration::from_secs(30);

/// Why a session's stream ends early.
enum End {
    /// The peer is not there any more.
    Gone,
    /// The peer is told why.
    Told(Status),
}

impl From<Status> for End {
    fn from(status: Status) -> Self {
        Self::Told(status)
    }
}

/// A session's stream.
pub(crate) struct Session<S> {
    state: Arc<State>,
    inbound: S,
    outbound: mpsc::Sender<Result<MinerMessage, Status>>,
}

/// A request with everything that answering it takes.
struct Admitted {
    request: Request,
    session: SessionId,
    permit: SessionPermit,
    slot: OwnedSemaphorePermit,
    room: Room,
}

impl<S> Session<S>
where
    S: Stream<Item = Result<ValidatorMessage, Status>> + Unpin + Send,
{
    pub(crate) fn new(state: Arc<State>, inbound: S, outbound: mpsc::Sender<Result<MinerMessage, Status>>) -> Self {
        Self { state, inbound, outbound }
    }

    /// Runs the session to its end, or until the miner closes.
    pub(crate) async fn run(mut self) {
        let closing = self.state.closing.clone();
        let ended = tokio::select! {
            ended = self.begin() => ended,
            () = closing.cancelled() => Err(Status::unavailable("the miner has stopped").into()),
        };
        match ended {
            Ok(()) => {}
            Err(End::Gone) => debug!("the peer went away"),
            Err(End::Told(status)) => {
                debug!(%status, "stream ended");
                // The peer may have gone, or may not read: then there is nobody to tell.
                let _ = self.outbound.try_send(Err(status));
            }
        }
    }

    async fn begin(&mut self) -> Result<(), End> {
        match self.next(Instant::now() + OPENING).await? {
            Theirs::Request(signed) => self.fresh(signed).await,
            Theirs::Resume(resume) => self.resumed(resume).await,
            Theirs::Settle(_) | Theirs::Challenge(_) | Theirs::Receipt(_) => {
                Err(Status::failed_precondition("a stream begins with a request, or with the session it resumes")
                    .into())
            }
        }
    }

    async fn fresh(&mut self, signed: Signed) -> Result<(), End> {
        let request = admission::read_request(&signed, &self.state.hotkey)?;
        let session = request.session_id();
        match self.admit(request, session).await {
            Ok(admitted) => {
                let kept = self.serve(admitted).await?;
                self.reveal(kept).await
            }
            Err(Turned::Replayed) => {
                Err(Status::already_exists("this request came before and is not answered twice").into())
            }
            Err(Turned::Refused(reason)) => self.refuse(session, reason).await,
        }
    }

    /// Takes a request on, in the order of what each check costs.
    async fn admit(&self, request: Request, session: SessionId) -> Result<Admitted, Turned> {
        let state = &self.state;
        let (limits, manifest) = (&state.config.limits, state.published.manifest());
        let unserved = |what: &'static str| {
            info!(%session, validator = %request.validator, what, "refused: not served here");
            Turned::Refused(RefusalReason::Unserved)
        };
        if request.network != state.config.network || request.manifest != state.published.id() {
            return Err(unserved("network or manifest"));
        }
        let epoch = state.config.subnet.epoch();
        admission::check_limits(&request, limits, &manifest.architecture, epoch).map_err(&unserved)?;
        let stake = state.config.subnet.stake_millionths(&request.validator);
        let stake = stake.ok_or_else(|| unserved("validator"))?;
        if state.draining.is_cancelled() {
            return Err(Turned::Refused(RefusalReason::Busy));
        }
        let grant = state.grant(stake, admission::least_budget_ms(&request.policy));
        let permit = state.peers.open(request.validator, (request.epoch, session), epoch, grant)?;

        let busy = || {
            info!(%session, validator = %request.validator, "refused: busy");
            Turned::Refused(RefusalReason::Busy)
        };
        let patience = limits.queue.min(Duration::from_millis(u64::from(request.deadlines.first_token_ms) / 2));
        let slot = timeout(patience, Arc::clone(&state.serving).acquire_owned()).await;
        let slot = slot.ok().and_then(Result::ok).ok_or_else(busy)?;

        let assets = Arc::clone(state.published.assets());
        let prompt = request.prompt.clone();
        let counted = tokio::task::spawn_blocking(move || {
            prompt_tokens(&prompt, &assets.tokenizer, assets.template.as_ref()).map(|tokens| tokens.len())
        });
        let prompt_tokens = counted.await.ok().and_then(Result::ok).ok_or_else(|| unserved("prompt"))?;
        let positions = admission::most_positions(prompt_tokens, request.max_tokens, &manifest.architecture)
            .ok_or_else(|| unserved("context length"))?;
        check_extent(&request, manifest, state.published.assets(), prompt_tokens)
            .map_err(|_| unserved("size of the audit"))?;
        let shape = TraceShape::new(&manifest.architecture, manifest.profile);
        let traces = state.traces.clone();
        // Other traces may have to be written to disk first.
        let reserved = tokio::task::spawn_blocking(move || traces.reserve(Trace::most_memory(&shape, positions)));
        let room = reserved.await.ok().flatten().ok_or_else(busy)?;
        Ok(Admitted { request, session, permit, slot, room })
    }

    /// Streams an answer, commits to it and keeps it. From the first token on, the proof is owed.
    async fn serve(&mut self, admitted: Admitted) -> Result<Arc<Kept>, End> {
        let Admitted { request, session, permit, slot, room } = admitted;
        // As many entries at most as the request has tokens, which the limits bound.
        let (picked, tokens) = mpsc::unbounded_channel::<TokenId>();
        let state = Arc::clone(&self.state);
        let work = tokio::task::spawn_blocking(move || {
            let mut sent = Vec::new();
            let served = state.backend.serve(&request, &mut |token| {
                if state.closing.is_cancelled() || picked.send(token).is_err() {
                    ControlFlow::Break(())
                } else {
                    sent.push(token);
                    ControlFlow::Continue(())
                }
            });
            drop(picked);
            let served = served?;
            let commitment = state.backend.commit(&request, &served);
            let signed = sign_commitment(&state.config.keys, &commitment);
            drop(slot);
            let trace = state.traces.keep(served.trace, room);
            let kept = Arc::new(Kept::new(request, sent, (commitment, signed), permit, trace));
            // Kept before it is sent: the answer may come on another stream.
            state.retention.keep(Arc::clone(&kept));
            Ok::<_, ServeError>(kept)
        });
        let streamed = self.forward(tokens).await?;
        let done = work.await.unwrap_or_else(|panicked| Err(ServeError::Failed(panicked.to_string())));
        let kept = match done {
            Ok(kept) => kept,
            Err(ServeError::Cancelled) => return Err(End::Gone),
            Err(failure @ ServeError::Unserved(_)) if streamed == 0 => {
                info!(%session, %failure, "refused: not served here");
                self.refuse(session, RefusalReason::Unserved).await?;
                return Err(End::Gone);
            }
            Err(ServeError::Busy) if streamed == 0 => {
                info!(%session, "refused: busy");
                self.refuse(session, RefusalReason::Busy).await?;
                return Err(End::Gone);
            }
            Err(failure @ (ServeError::Busy | ServeError::Unserved(_) | ServeError::Failed(_))) => {
                warn!(%session, %failure, streamed, "no answer");
                return Err(Status::internal("the answer failed").into());
            }
        };
        info!(%session, tokens = streamed, "answered and committed");
        self.send(Ours::Commitment(envelope(kept.signed.clone()))).await?;
        Ok(kept)
    }

    /// Passes tokens on as they come; those that wait together go in one message. Says how many.
    async fn forward(&self, mut tokens: mpsc::UnboundedReceiver<TokenId>) -> Result<usize, End> {
        let mut streamed = 0;
        loop {
            let next = tokio::select! {
                next = tokens.recv() => next,
                () = self.outbound.closed() => return Err(End::Gone),
            };
            let Some(token) = next else { return Ok(streamed) };
            let mut ids = vec![token.get()];
            while let Ok(token) = tokens.try_recv() {
                ids.push(token.get());
            }
            streamed += ids.len();
            self.send(Ours::Tokens(Tokens { ids })).await?;
        }
    }

    async fn resumed(&mut self, resume: Resume) -> Result<(), End> {
        let session = fields::digest(&resume.session).map(SessionId::new);
        let kept = session.and_then(|session| self.state.retention.get(&session));
        let kept = kept.ok_or_else(|| Status::not_found("no such session is kept here"))?;
        debug!(session = %kept.session, "resumed");
        self.reveal(kept).await
    }

    /// Waits for the nonce and does what it calls for. A receipt in its place means that the
    /// commitment itself was not taken.
    async fn reveal(&mut self, kept: Arc<Kept>) -> Result<(), End> {
        let reveal = match self.next(kept.reveal_due).await? {
            Theirs::Settle(settle) => fields::digest(&settle.nonce).map(Reveal::Settle),
            Theirs::Challenge(challenge) => fields::optional_nonce(&challenge.nonce).ok().map(Reveal::Challenge),
            Theirs::Receipt(receipt) => return self.take_receipt(&kept, &kept.exchange_digest(Reply::None), &receipt),
            Theirs::Request(_) | Theirs::Resume(_) => None,
        };
        let reveal = reveal.ok_or_else(|| Status::invalid_argument("a settlement or a challenge is due here"))?;
        if let Err(reason) = proving::check_reveal(&kept.request, &kept.commitment.digest(), reveal) {
            warn!(session = %kept.session, reason = reason.name(), "the validator's reply is not in order");
            return self.refuse(kept.session, reason).await;
        }
        let reply = match reveal {
            Reveal::Challenge(nonce) => {
                let proof = proving::proof(&self.state, &kept, nonce).await;
                let proof = proof.ok_or_else(|| Status::not_found("there is no proof"))?;
                for message in chunks::proof_messages(&proof.bytes, proof.signature.0) {
                    self.send_message(message).await?;
                }
                Reply::Challenged { nonce, answer: Answer::Proof(SignedBytes::clone(&proof)) }
            }
            Reveal::Settle(nonce) => {
                self.state.retention.forget(&kept.session);
                Reply::Settled { nonce }
            }
        };
        let exchange = kept.exchange_digest(reply);
        // Without a receipt, a proof is kept until nobody can ask for it again.
        match self.next(Instant::now() + RECEIPT).await? {
            Theirs::Receipt(receipt) => self.take_receipt(&kept, &exchange, &receipt),
            Theirs::Request(_) | Theirs::Resume(_) | Theirs::Settle(_) | Theirs::Challenge(_) => {
                Err(Status::invalid_argument("a receipt is due here").into())
            }
        }
    }

    /// Takes note of the verdict, and of a validator that signs something else than was said here.
    fn take_receipt(&self, kept: &Kept, exchange: &[u8; 32], receipt: &v1::Receipt) -> Result<(), End> {
        let receipt: Receipt = codec::decode(&receipt.body)
            .map_err(|error| Status::invalid_argument(format!("the receipt cannot be read: {error}")))?;
        if receipt.session != kept.session || !receipt.is_signed_by(&kept.request.validator) {
            return Err(Status::unauthenticated("the receipt is not the validator's for this session").into());
        }
        self.state.retention.forget(&kept.session);
        if receipt.exchange != *exchange {
            warn!(
                session = %kept.session,
                validator = %kept.request.validator,
                "the receipt is of another exchange than was held here: something did not arrive, or is claimed not to have"
            );
        }
        match receipt.conclusion {
            Conclusion::Accepted => info!(session = %kept.session, "accepted"),
            Conclusion::Rejected(reason) => warn!(session = %kept.session, reason = reason.slug(), "rejected"),
            Conclusion::Inconclusive(fault) => {
                info!(session = %kept.session, fault = fault.slug(), "inconclusive, the validator's own fault");
            }
        }
        Ok(())
    }

    async fn refuse(&self, session: SessionId, reason: RefusalReason) -> Result<(), End> {
        self.send(Ours::Refusal(envelope(self.state.refusal(session, reason)))).await
    }

    /// The validator's next message, by a deadline.
    async fn next(&mut self, due: Instant) -> Result<Theirs, End> {
        let message = timeout_at(due, self.inbound.next())
            .await
            .map_err(|_| Status::deadline_exceeded("the next message did not come in time"))?;
        match message {
            Some(Ok(message)) => {
                Ok(message.message.ok_or_else(|| Status::invalid_argument("a message of a kind unknown here"))?)
            }
            // A connection that broke, or a message over our limit: then the peer may still be told.
            Some(Err(status)) => Err(status.into()),
            None => Err(End::Gone),
        }
    }

    async fn send(&self, message: Ours) -> Result<(), End> {
        self.send_message(MinerMessage { message: Some(message) }).await
    }

    async fn send_message(&self, message: MinerMessage) -> Result<(), End> {
        match timeout(SENDING, self.outbound.send(Ok(message))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(End::Gone),
        }
    }
}

fn envelope(signed: SignedBytes) -> Signed {
    Signed { body: signed.bytes, signature: signed.signature.0.to_vec() }
}
