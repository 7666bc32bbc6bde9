//! One stream to a miner, message by message, with everything that a miner may do wrong on it told
//! apart by what follows from it.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use assay_audit::keys::Signature;
use assay_audit::session::SignedBytes;
use assay_commitments::TokenId;
use assay_proto::v1::miner_client::MinerClient;
use assay_proto::v1::miner_message::Message as FromMiner;
use assay_proto::v1::validator_message::Message as ToMiner;
use assay_proto::v1::{MinerMessage, ProofChunk, Signed, ValidatorMessage};
use http_body::Frame;
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Bytes, Service, http};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tracing::warn;

/// How long a connection may take to be made.
const CONNECTING: Duration = Duration::from_secs(5);
/// How long a message may wait for the miner to read.
const SENDING: Duration = Duration::from_secs(10);
/// How long the miner may take to read the last message and end its side.
const ENDING: Duration = Duration::from_secs(2);
/// Messages that may still be on their way then: a miner that goes on is left.
const LEFTOVERS: usize = 8;
/// Flow control windows: a few pieces of a proof may be on their way.
const WINDOW_BYTES: u32 = 1 << 20;
/// Messages on their way out: a session has four in all.
const OUTBOUND: usize = 4;
/// Messages that are read before somebody asks for them.
const INBOUND: usize = 1;

/// A message from a miner.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Event {
    Tokens(Vec<TokenId>),
    Refusal(SignedBytes),
    Commitment(SignedBytes),
    Proof(ProofChunk),
}

/// Why there is no next message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The connection, or the stream on it, ended.
    Broken,
    /// The miner says that it knows no such session.
    Unknown,
    /// What came is none of the protocol's messages, or larger than the limit, or cannot be read at all.
    Violation,
}

/// Does work that reads what a miner sends, in a task of its own.
///
/// The libraries in between may panic over it, in reading and, once that has happened, in dropping what they read
/// from. That must end neither the session nor its account: whoever can end those chooses which of its sessions count.
///
/// # Errors
/// [`Fault::Violation`] if it panicked: whoever sent that broke the protocol.
pub(crate) async fn contained<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> Result<T, Fault> {
    let mut reading = JoinSet::new();
    reading.spawn(work);
    match reading.join_next().await {
        Some(Ok(done)) => Ok(done),
        Some(Err(failure)) => Err(fault_of_reading(&failure)),
        None => Err(Fault::Broken),
    }
}

fn fault_of_reading(failure: &JoinError) -> Fault {
    if failure.is_panic() {
        warn!(%failure, "what a miner sent cannot be read: held against it");
        Fault::Violation
    } else {
        Fault::Broken
    }
}

/// What a miner sends on a stream, read in a task of its own for the reasons of [`contained`].
struct Inbound {
    messages: mpsc::Receiver<Result<MinerMessage, Fault>>,
    /// The task that passes them on. It owns the stream, and ends with this.
    reading: JoinSet<()>,
}

impl Inbound {
    fn read(stream: impl Stream<Item = Result<MinerMessage, Fault>> + Send + 'static) -> Self {
        let (passed, messages) = mpsc::channel(INBOUND);
        let mut reading = JoinSet::new();
        reading.spawn(async move {
            let mut stream = std::pin::pin!(stream);
            while let Some(message) = stream.next().await {
                let is_last = message.is_err();
                if passed.send(message).await.is_err() || is_last {
                    return;
                }
            }
        });
        Self { messages, reading }
    }

    /// The next message of any kind.
    ///
    /// Between two of them others have their turn, deadlines too: a stream that always has a message ready would
    /// otherwise keep its thread for as long as the miner likes.
    async fn next(&mut self) -> Result<MinerMessage, Fault> {
        tokio::task::yield_now().await;
        match self.messages.recv().await {
            Some(message) => message,
            None => Err(match self.reading.join_next().await {
                Some(Err(failure)) => fault_of_reading(&failure),
                Some(Ok(())) | None => Fault::Broken,
            }),
        }
    }
}

/// An open stream.
pub(crate) struct Wire {
    outbound: mpsc::Sender<ValidatorMessage>,
    inbound: Inbound,
}

impl Wire {
    pub(crate) fn new(
        outbound: mpsc::Sender<ValidatorMessage>,
        inbound: impl Stream<Item = Result<MinerMessage, Fault>> + Send + 'static,
    ) -> Self {
        Self { outbound, inbound: Inbound::read(inbound) }
    }

    /// The miner's next message.
    pub(crate) async fn next(&mut self) -> Result<Event, Fault> {
        match self.inbound.next().await?.message.ok_or(Fault::Violation)? {
            FromMiner::Tokens(tokens) => Ok(Event::Tokens(tokens.ids.into_iter().map(TokenId::new).collect())),
            FromMiner::Refusal(signed) => signed_bytes(signed).map(Event::Refusal),
            FromMiner::Commitment(signed) => signed_bytes(signed).map(Event::Commitment),
            FromMiner::Proof(chunk) => Ok(Event::Proof(chunk)),
        }
    }

    /// Sends a message.
    pub(crate) async fn send(&mut self, message: ToMiner) -> Result<(), Fault> {
        let message = ValidatorMessage { message: Some(message) };
        match timeout(SENDING, self.outbound.send(message)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Fault::Broken),
        }
    }

    /// Ends our side and lets the miner end its own: a stream that is dropped is reset, and what was
    /// sent last may not arrive.
    pub(crate) async fn end(mut self) {
        drop(self.outbound);
        let rest = async {
            for _ in 0..LEFTOVERS {
                if self.inbound.next().await.is_err() {
                    return;
                }
            }
        };
        // A miner that does not end is left.
        let _ = timeout(ENDING, rest).await;
    }
}

fn signed_bytes(signed: Signed) -> Result<SignedBytes, Fault> {
    let signature = assay_proto::fields::signature(&signed.signature).ok_or(Fault::Violation)?;
    Ok(SignedBytes { bytes: signed.body, signature: Signature(signature) })
}

fn fault_of(status: &Status) -> Fault {
    match status.code() {
        Code::NotFound => Fault::Unknown,
        _ => Fault::Broken,
    }
}

/// Whether the miner is still speaking on a stream. An error that comes meanwhile was sent by nobody: it is tonic's own,
/// about bytes that it cannot take. Once the stream has ended, the error is the miner's status, or the network's.
#[derive(Clone, Debug, Default)]
struct Speaking(Arc<AtomicBool>);

impl Speaking {
    fn set(&self, speaking: bool) {
        self.0.store(speaking, Ordering::Relaxed);
    }

    fn fault_of(&self, status: &Status) -> Fault {
        if self.0.load(Ordering::Relaxed) { Fault::Violation } else { fault_of(status) }
    }
}

/// A channel that notes in a request's [`Speaking`] where the reply to it stands.
#[derive(Clone, Debug)]
pub(crate) struct Watched(Channel);

impl Service<http::Request<Body>> for Watched {
    type Response = http::Response<WatchedBody>;
    type Error = tonic::transport::Error;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let speaking = request.extensions().get::<Speaking>().cloned().unwrap_or_default();
        let reply = self.0.call(request);
        Box::pin(async move {
            let reply = reply.await?;
            // With a status in its head, that is all there is.
            speaking.set(!reply.headers().contains_key("grpc-status"));
            Ok(reply.map(|body| WatchedBody { body, speaking }))
        })
    }
}

/// The bytes of a reply.
#[derive(Debug)]
pub(crate) struct WatchedBody {
    body: Body,
    speaking: Speaking,
}

impl http_body::Body for WatchedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if !matches!(&frame, Some(Ok(frame)) if frame.is_data()) {
            self.speaking.set(false);
        }
        Poll::Ready(frame)
    }
}

/// Opens streams to one miner.
pub(crate) trait Dial: Sync {
    /// Opens a stream whose first message is `first`.
    fn open(&self, first: ToMiner) -> impl Future<Output = Result<Wire, Fault>> + Send;
}

/// A miner over gRPC.
pub(crate) struct Line {
    client: MinerClient<Watched>,
}

impl Line {
    /// A line to a miner whose messages have at most `message_bytes`. Nothing is sent yet.
    pub(crate) fn new(address: SocketAddr, message_bytes: usize) -> Option<Self> {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).ok()?;
        let channel = endpoint
            .connect_timeout(CONNECTING)
            .tcp_nodelay(true)
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .connect_lazy();
        Some(Self { client: MinerClient::new(Watched(channel)).max_decoding_message_size(message_bytes) })
    }

    /// The client, for calls beside a session. They are made within [`contained`].
    pub(crate) fn client(&self) -> MinerClient<Watched> {
        self.client.clone()
    }
}

impl Dial for Line {
    async fn open(&self, first: ToMiner) -> Result<Wire, Fault> {
        let (outbound, messages) = mpsc::channel(OUTBOUND);
        outbound.try_send(ValidatorMessage { message: Some(first) }).map_err(|_| Fault::Broken)?;
        let speaking = Speaking::default();
        let mut request = Request::new(ReceiverStream::new(messages));
        request.extensions_mut().insert(speaking.clone());
        let mut client = self.client.clone();
        let reply = contained(async move { client.session(request).await }).await?;
        let inbound = reply.map_err(|status| speaking.fault_of(&status))?.into_inner();
        Ok(Wire::new(outbound, inbound.map(move |message| message.map_err(|status| speaking.fault_of(&status)))))
    }
}

#[cfg(test)]
mod tests {
    use assay_proto::v1;

    use super::*;

    fn wire(stream: impl Stream<Item = Result<MinerMessage, Fault>> + Send + 'static) -> Wire {
        Wire::new(mpsc::channel(1).0, stream)
    }

    fn tokens() -> MinerMessage {
        MinerMessage { message: Some(FromMiner::Tokens(v1::Tokens { ids: vec![1] })) }
    }

    #[tokio::test]
    async fn what_is_no_message_of_the_protocol_is_a_violation() {
        let short = Signed { body: vec![1], signature: vec![0; 63] };
        let messages = vec![
            Ok(MinerMessage { message: None }),
            Ok(MinerMessage { message: Some(FromMiner::Commitment(short.clone())) }),
            Ok(MinerMessage { message: Some(FromMiner::Refusal(short)) }),
            Err(Fault::Violation),
        ];
        let mut wire = wire(tokio_stream::iter(messages));
        for _ in 0..4 {
            assert_eq!(wire.next().await, Err(Fault::Violation));
        }
        assert_eq!(wire.next().await, Err(Fault::Broken));
    }

    /// A stream whose reader panics, once it is read from and then again when it is dropped, as a poisoned lock in it
    /// would do.
    struct Poisoned {
        said: bool,
    }

    impl Stream for Poisoned {
        type Item = Result<MinerMessage, Fault>;

        fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
            assert!(!self.said, "the bytes make no sense");
            self.said = true;
            Poll::Ready(Some(Ok(tokens())))
        }
    }

    impl Drop for Poisoned {
        fn drop(&mut self) {
            assert!(std::thread::panicking(), "the lock is poisoned");
        }
    }

    #[tokio::test]
    async fn a_miner_whose_bytes_make_a_reader_panic_has_broken_the_protocol() {
        let mut read = wire(Poisoned { said: false });
        assert!(matches!(read.next().await, Ok(Event::Tokens(_))));
        assert_eq!(read.next().await, Err(Fault::Violation));
        assert_eq!(read.next().await, Err(Fault::Broken));
        // One that is let go unread takes nobody with it either.
        drop(wire(Poisoned { said: false }));
        tokio::task::yield_now().await;
        let call = contained::<()>(async { panic!("a header makes no sense") });
        assert_eq!(call.await, Err(Fault::Violation));
    }

    /// A stream that is never without a message.
    fn flood() -> Wire {
        wire(tokio_stream::iter(std::iter::repeat_with(|| Ok(tokens()))))
    }

    #[tokio::test]
    async fn a_miner_that_never_stops_speaking_is_left() {
        timeout(Duration::from_secs(1), flood().end()).await.unwrap();
    }

    #[tokio::test]
    async fn a_deadline_passes_while_messages_keep_coming() {
        let mut wire = flood();
        let listening = async { while wire.next().await.is_ok() {} };
        timeout(Duration::from_millis(50), listening).await.unwrap_err();
    }

    #[test]
    fn a_status_that_was_sent_is_told_from_bytes_that_cannot_be_read() {
        let speaking = Speaking::default();
        assert_eq!(speaking.fault_of(&Status::not_found("")), Fault::Unknown);
        assert_eq!(speaking.fault_of(&Status::internal("")), Fault::Broken);
        speaking.set(true);
        assert_eq!(speaking.fault_of(&Status::not_found("")), Fault::Violation);
    }
}
