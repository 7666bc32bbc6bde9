//! A miner on a port whose side of the stream is played by a script.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use assay_audit::challenge::Nonce;
use assay_audit::keys::Keypair;
use assay_audit::request::Request;
use assay_audit::session::{SignedBytes, sign_commitment, sign_proof};
use assay_commitments::trace::TraceCommitment;
use assay_commitments::{Hotkey, codec};
use assay_miner::{Backend, Served};
use assay_proto::v1::miner_message::Message;
use assay_proto::v1::miner_server::SERVICE_NAME;
use assay_proto::v1::validator_message::Message as FromValidator;
use assay_proto::v1::{AssetRequest, MinerMessage, Signed, Tokens, ValidatorMessage};
use assay_proto::{chunks, fields};
use assay_validator::Peer;
use prost::bytes::{Buf, BufMut};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::body::Body;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::{BoxFuture, Service, http};
use tonic::metadata::MetadataMap;
use tonic::server::{Grpc, NamedService, StreamingService};
use tonic::transport::Server;
use tonic::{Code, Response, Status, Streaming};

use crate::adversary::files::Files;

/// What a script does next.
#[derive(Clone, Debug)]
pub enum Act<T = MinerMessage> {
    /// Sends a message.
    Say(T),
    /// Sends bytes in place of a message, whether they are one or not.
    Bytes(Vec<u8>),
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

/// A status that comes with a trailer which is to be base64 and is not.
pub fn unreadable() -> Status {
    let mut headers = http::HeaderMap::new();
    headers.insert("grpc-status-details-bin", http::HeaderValue::from_static("!"));
    Status::with_metadata(Code::Internal, "", MetadataMap::from_headers(headers))
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
    /// The commitment to the answer, before a script changes it.
    pub commitment: &'a TraceCommitment,
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
    backend: Box<dyn Backend>,
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
    /// Opens a port for a miner that answers with `backend`, signs with `keys` and speaks by `script`.
    pub async fn start(backend: impl Backend, keys: Keypair, script: Script) -> Self {
        let hotkey = keys.hotkey();
        let stage = Stage { backend: Box::new(backend), keys, script, kept: Mutex::default() };
        Self::open(hotkey, Front::Sessions(Arc::new(stage))).await
    }

    /// Opens a port for a miner that sends these files to whoever wants to know its model, and holds no session.
    pub async fn showing(files: Files, keys: &Keypair) -> Self {
        Self::open(keys.hotkey(), Front::Files(Arc::new(files))).await
    }

    async fn open(hotkey: Hotkey, front: Front) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("there is a port");
        let peer = Peer { hotkey, endpoint: listener.local_addr().expect("it is bound") };
        let served = Server::builder().add_service(front).serve_with_incoming(TcpListenerStream::new(listener));
        let server = tokio::spawn(async move { served.await.expect("the port stays open") });
        Self { peer, server }
    }

    /// Who it is and where.
    pub const fn peer(&self) -> Peer {
        self.peer
    }
}

/// What is served on a port. All calls carry bytes, so that what is no message can be sent too; one message and
/// the end of the stream is how the reply to a plain call looks.
#[derive(Clone)]
enum Front {
    Sessions(Arc<Stage>),
    Files(Arc<Files>),
}

impl NamedService for Front {
    const NAME: &'static str = SERVICE_NAME;
}

impl Service<http::Request<Body>> for Front {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let call = Call { front: self.clone(), path: request.uri().path().to_owned() };
        Box::pin(async move { Ok(Grpc::new(Raw).streaming(call, request).await) })
    }
}

struct Call {
    front: Front,
    path: String,
}

impl StreamingService<Vec<u8>> for Call {
    type Response = Vec<u8>;
    type ResponseStream = ReceiverStream<Result<Vec<u8>, Status>>;
    type Future = Ready<Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: tonic::Request<Streaming<Vec<u8>>>) -> Self::Future {
        let (outbound, messages) = mpsc::channel(1);
        let line = Line { inbound: request.into_inner(), outbound };
        match (self.front.clone(), self.path.trim_start_matches(&format!("/{SERVICE_NAME}/"))) {
            (Front::Sessions(stage), "Session") => drop(tokio::spawn(line.hold(stage))),
            (Front::Files(files), "Info") => drop(tokio::spawn(line.play(files.reply()))),
            (Front::Files(files), "Asset") => drop(tokio::spawn(line.send(files))),
            _ => return ready(Err(Status::unimplemented("whoever asks here knows better"))),
        }
        ready(Ok(Response::new(ReceiverStream::new(messages))))
    }
}

/// Messages as they are on the wire.
#[derive(Clone, Copy)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, bytes: Vec<u8>, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put_slice(&bytes);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining()).to_vec()))
    }
}

/// One stream.
struct Line {
    inbound: Streaming<Vec<u8>>,
    outbound: mpsc::Sender<Result<Vec<u8>, Status>>,
}

impl Line {
    async fn next<M: prost::Message + Default>(&mut self) -> Option<M> {
        M::decode(self.inbound.next().await?.ok()?.as_slice()).ok()
    }

    async fn told(&mut self) -> Option<FromValidator> {
        self.next::<ValidatorMessage>().await?.message
    }

    /// Holds the session to its end; `None` when either side has left.
    async fn hold(mut self, stage: Arc<Stage>) -> Option<()> {
        let session = match self.told().await? {
            FromValidator::Request(signed) => {
                let request: Request = codec::decode(&signed.body).ok()?;
                let session = *request.session_id().as_bytes();
                let stage = Arc::clone(&stage);
                let acts = tokio::task::spawn_blocking(move || stage.answer(request)).await.ok()?;
                self.act(acts).await?;
                session
            }
            FromValidator::Resume(resume) => fields::digest(&resume.session)?,
            _ => return None,
        };
        if let FromValidator::Challenge(challenge) = self.told().await? {
            let nonce = fields::optional_nonce(&challenge.nonce).ok()?;
            let acts = tokio::task::spawn_blocking(move || stage.prove(session, nonce)).await.ok()?;
            self.act(acts?).await?;
        }
        while self.told().await.is_some() {}
        Some(())
    }

    /// Sends the file that is asked for.
    async fn send(mut self, files: Arc<Files>) -> Option<()> {
        let asked: AssetRequest = self.next().await?;
        self.play(files.pieces(asked.kind())).await
    }

    /// Acts to the end of the stream.
    async fn play<T: prost::Message>(mut self, acts: impl IntoIterator<Item = Act<T>, IntoIter: Send>) -> Option<()> {
        self.act(acts).await
    }

    async fn act<T: prost::Message>(&mut self, acts: impl IntoIterator<Item = Act<T>, IntoIter: Send>) -> Option<()> {
        for act in acts {
            match act {
                Act::Say(message) => self.outbound.send(Ok(message.encode_to_vec())).await.ok()?,
                Act::Bytes(bytes) => self.outbound.send(Ok(bytes)).await.ok()?,
                Act::Wait(time) => tokio::time::sleep(time).await,
                Act::Fail(status) => {
                    self.outbound.send(Err(status)).await.ok()?;
                    return None;
                }
                Act::Leave => return None,
                Act::Hang => self.outbound.closed().await,
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
        let talk = Talk { moment: Moment::Answer, request: &request, commitment: &commitment, keys: &self.keys };
        let acts = (self.script)(&talk, due);
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
        let signed = sign_proof(&self.keys, commitment, proof);
        let due = chunks::proof_messages(&signed.bytes, signed.signature.0).collect();
        let talk = Talk { moment: Moment::Proof(*asked), request, commitment, keys: &self.keys };
        *asked += 1;
        Some((self.script)(&talk, due))
    }
}

fn envelope(signed: SignedBytes) -> Signed {
    Signed { body: signed.bytes, signature: signed.signature.0.to_vec() }
}
