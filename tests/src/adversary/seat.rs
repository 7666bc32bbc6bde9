//! A miner on a port whose side of the stream is played by a script.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use assay_audit::challenge::Nonce;
use assay_audit::keys::Keypair;
use assay_audit::request::Request;
use assay_audit::session::{SignedBytes, sign_commitment, sign_proof};
use assay_commitments::codec;
use assay_commitments::trace::TraceCommitment;
use assay_miner::{Backend, Served};
use assay_proto::v1::miner_message::Message;
use assay_proto::v1::miner_server::{Miner, MinerServer};
use assay_proto::v1::validator_message::Message as FromValidator;
use assay_proto::v1::{
    AssetChunk, AssetRequest, InfoReply, InfoRequest, MinerMessage, Signed, Tokens, ValidatorMessage,
};
use assay_proto::{chunks, fields};
use assay_validator::Peer;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::transport::Server;
use tonic::{Response, Status, Streaming};

use crate::adversary::backend::Adversary;

/// What a script does next.
#[derive(Clone, Debug)]
pub enum Act {
    /// Sends a message.
    Say(MinerMessage),
    /// Lets time pass.
    Wait(Duration),
    /// Ends the stream with a status.
    Fail(Status),
    /// Ends the stream.
    Leave,
    /// Says nothing more and stays.
    Hang,
}

/// A message in its envelope.
pub const fn message(message: Message) -> MinerMessage {
    MinerMessage { message: Some(message) }
}

/// What is due on a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// The answer and its commitment.
    Answer,
    /// The proof; on how many streams it was asked for before.
    Proof(usize),
}

/// What a script knows.
#[derive(Clone, Copy, Debug)]
pub struct Talk<'a> {
    /// What is due.
    pub moment: Moment,
    /// The request.
    pub request: &'a Request,
    /// The miner's keys: whatever is sent can be signed.
    pub keys: &'a Keypair,
}

/// From what an honest miner would send now to what is sent.
pub type Script = Arc<dyn Fn(&Talk<'_>, Vec<MinerMessage>) -> Vec<Act> + Send + Sync>;

/// Sends what is due.
pub fn as_scripted(due: Vec<MinerMessage>) -> Vec<Act> {
    due.into_iter().map(Act::Say).collect()
}

/// A session that was answered.
struct Kept {
    request: Request,
    commitment: TraceCommitment,
    served: Served,
    asked: usize,
}

struct Stage {
    backend: Arc<Adversary>,
    keys: Keypair,
    script: Script,
    kept: Mutex<HashMap<[u8; 32], Kept>>,
}

/// A miner that is being asked. Dropping it closes its port.
#[derive(Debug)]
pub struct Seat {
    peer: Peer,
    server: JoinHandle<()>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Seat {
    /// Opens a port for an adversary that signs with `keys` and speaks by `script`.
    pub async fn start(backend: Adversary, keys: Keypair, script: Script) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("there is a port");
        let peer = Peer { hotkey: keys.hotkey(), endpoint: listener.local_addr().expect("it is bound") };
        let stage = Stage { backend: Arc::new(backend), keys, script, kept: Mutex::default() };
        let service = MinerServer::new(Service(Arc::new(stage)));
        let served = Server::builder().add_service(service).serve_with_incoming(TcpListenerStream::new(listener));
        let server = tokio::spawn(async move { served.await.expect("the port stays open") });
        Self { peer, server }
    }

    /// Who it is and where.
    pub const fn peer(&self) -> Peer {
        self.peer
    }
}

struct Service(Arc<Stage>);

#[tonic::async_trait]
impl Miner for Service {
    type SessionStream = ReceiverStream<Result<MinerMessage, Status>>;
    type AssetStream = ReceiverStream<Result<AssetChunk, Status>>;

    async fn session(
        &self,
        request: tonic::Request<Streaming<ValidatorMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let (outbound, messages) = mpsc::channel(1);
        let line = Line { stage: Arc::clone(&self.0), inbound: request.into_inner(), outbound };
        tokio::spawn(line.hold());
        Ok(Response::new(ReceiverStream::new(messages)))
    }

    async fn info(&self, _: tonic::Request<InfoRequest>) -> Result<Response<InfoReply>, Status> {
        Err(Status::unimplemented("whoever asks here knows the model"))
    }

    async fn asset(&self, _: tonic::Request<AssetRequest>) -> Result<Response<Self::AssetStream>, Status> {
        Err(Status::unimplemented("whoever asks here knows the model"))
    }
}

/// One stream.
struct Line {
    stage: Arc<Stage>,
    inbound: Streaming<ValidatorMessage>,
    outbound: mpsc::Sender<Result<MinerMessage, Status>>,
}

impl Line {
    async fn next(&mut self) -> Option<FromValidator> {
        self.inbound.next().await?.ok()?.message
    }

    /// Holds the session to its end; `None` when either side has left.
    async fn hold(mut self) -> Option<()> {
        let session = match self.next().await? {
            FromValidator::Request(signed) => {
                let request: Request = codec::decode(&signed.body).ok()?;
                let session = *request.session_id().as_bytes();
                let stage = Arc::clone(&self.stage);
                let acts = tokio::task::spawn_blocking(move || stage.answer(request)).await.ok()?;
                self.play(acts).await?;
                session
            }
            FromValidator::Resume(resume) => fields::digest(&resume.session)?,
            _ => return None,
        };
        if let FromValidator::Challenge(challenge) = self.next().await? {
            let nonce = fields::optional_nonce(&challenge.nonce).ok()?;
            let stage = Arc::clone(&self.stage);
            let acts = tokio::task::spawn_blocking(move || stage.prove(session, nonce)).await.ok()?;
            self.play(acts?).await?;
        }
        while self.next().await.is_some() {}
        Some(())
    }

    async fn play(&mut self, acts: Vec<Act>) -> Option<()> {
        for act in acts {
            match act {
                Act::Say(message) => self.outbound.send(Ok(message)).await.ok()?,
                Act::Wait(time) => tokio::time::sleep(time).await,
                Act::Fail(status) => {
                    self.outbound.send(Err(status)).await.ok()?;
                    return None;
                }
                Act::Leave => return None,
                Act::Hang => while self.next().await.is_some() {},
            }
        }
        Some(())
    }
}

impl Stage {
    fn answer(&self, request: Request) -> Vec<Act> {
        let mut due = vec![];
        let served = self.backend.serve(&request, &mut |token| {
            due.push(message(Message::Tokens(Tokens { ids: vec![token.get()] })));
            std::ops::ControlFlow::Continue(())
        });
        let served = served.expect("an adversary's model answers");
        let commitment = self.backend.commit(&request, &served);
        due.push(message(Message::Commitment(envelope(sign_commitment(&self.keys, &commitment)))));
        let acts = (self.script)(&Talk { moment: Moment::Answer, request: &request, keys: &self.keys }, due);
        let session = *request.session_id().as_bytes();
        let kept = Kept { request, commitment, served, asked: 0 };
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).insert(session, kept);
        acts
    }

    /// `None` where there is no such session, or nothing can be proven.
    fn prove(&self, session: [u8; 32], nonce: Option<Nonce>) -> Option<Vec<Act>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let Kept { request, commitment, served, asked } = kept.get_mut(&session)?;
        let proof = self.backend.prove(request, commitment, &served.trace, nonce.as_ref()).ok()?;
        let signed = sign_proof(&self.keys, &request.session_id(), proof);
        let due = chunks::proof_messages(&signed.bytes, signed.signature.0).collect();
        let talk = Talk { moment: Moment::Proof(*asked), request, keys: &self.keys };
        *asked += 1;
        Some((self.script)(&talk, due))
    }
}

fn envelope(signed: SignedBytes) -> Signed {
    Signed { body: signed.bytes, signature: signed.signature.0.to_vec() }
}
