//! One stream to a miner, message by message, with everything that a miner may do wrong on it told
//! apart by what follows from it.

use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use assay_audit::keys::Signature;
use assay_audit::session::SignedBytes;
use assay_commitments::TokenId;
use assay_proto::v1::miner_client::MinerClient;
use assay_proto::v1::miner_message::Message as FromMiner;
use assay_proto::v1::validator_message::Message as ToMiner;
use assay_proto::v1::{MinerMessage, ProofChunk, Signed, ValidatorMessage};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

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
    /// The message is none of the protocol's, or larger than the limit.
    Violation,
}

type Inbound = Pin<Box<dyn Stream<Item = Result<MinerMessage, Status>> + Send>>;

/// An open stream.
pub(crate) struct Wire {
    outbound: mpsc::Sender<ValidatorMessage>,
    inbound: Inbound,
}

impl Wire {
    pub(crate) fn new(outbound: mpsc::Sender<ValidatorMessage>, inbound: Inbound) -> Self {
        Self { outbound, inbound }
    }

    /// The miner's next message.
    pub(crate) async fn next(&mut self) -> Result<Event, Fault> {
        match heard(&mut self.inbound).await {
            None => Err(Fault::Broken),
            Some(Err(status)) => Err(fault_of(&status)),
            Some(Ok(message)) => match message.message.ok_or(Fault::Violation)? {
                FromMiner::Tokens(tokens) => Ok(Event::Tokens(tokens.ids.into_iter().map(TokenId::new).collect())),
                FromMiner::Refusal(signed) => signed_bytes(signed).map(Event::Refusal),
                FromMiner::Commitment(signed) => signed_bytes(signed).map(Event::Commitment),
                FromMiner::Proof(chunk) => Ok(Event::Proof(chunk)),
            },
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
                if !matches!(heard(&mut self.inbound).await, Some(Ok(_))) {
                    return;
                }
            }
        };
        // A miner that does not end is left.
        let _ = timeout(ENDING, rest).await;
    }
}

/// The next message of any kind.
///
/// Between two of them others have their turn, deadlines too: a stream that always has a message ready would otherwise
/// keep its thread for as long as the miner likes.
async fn heard(inbound: &mut Inbound) -> Option<Result<MinerMessage, Status>> {
    tokio::task::yield_now().await;
    inbound.next().await
}

fn signed_bytes(signed: Signed) -> Result<SignedBytes, Fault> {
    let signature = assay_proto::fields::signature(&signed.signature).ok_or(Fault::Violation)?;
    Ok(SignedBytes { bytes: signed.body, signature: Signature(signature) })
}

fn fault_of(status: &Status) -> Fault {
    match status.code() {
        Code::NotFound => Fault::Unknown,
        // What our own limit on messages says.
        Code::OutOfRange => Fault::Violation,
        _ => Fault::Broken,
    }
}

/// Opens streams to one miner.
pub(crate) trait Dial: Sync {
    /// Opens a stream whose first message is `first`.
    fn open(&self, first: ToMiner) -> impl Future<Output = Result<Wire, Fault>> + Send;
}

/// A miner over gRPC.
pub(crate) struct Line {
    client: MinerClient<Channel>,
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
        Some(Self { client: MinerClient::new(channel).max_decoding_message_size(message_bytes) })
    }

    /// The client, for calls beside a session.
    pub(crate) fn client(&self) -> MinerClient<Channel> {
        self.client.clone()
    }
}

impl Dial for Line {
    async fn open(&self, first: ToMiner) -> Result<Wire, Fault> {
        let (outbound, messages) = mpsc::channel(OUTBOUND);
        outbound.try_send(ValidatorMessage { message: Some(first) }).map_err(|_| Fault::Broken)?;
        let reply = self.client.clone().session(ReceiverStream::new(messages)).await;
        let inbound = reply.map_err(|status| fault_of(&status))?.into_inner();
        Ok(Wire::new(outbound, Box::pin(inbound)))
    }
}

#[cfg(test)]
mod tests {
    use assay_proto::v1;

    use super::*;

    fn wire(messages: Vec<Result<MinerMessage, Status>>) -> Wire {
        let (outbound, _) = mpsc::channel(1);
        Wire::new(outbound, Box::pin(tokio_stream::iter(messages)))
    }

    #[tokio::test]
    async fn what_is_no_message_of_the_protocol_is_a_violation() {
        let short = Signed { body: vec![1], signature: vec![0; 63] };
        let messages = vec![
            Ok(MinerMessage { message: None }),
            Ok(MinerMessage { message: Some(FromMiner::Commitment(short.clone())) }),
            Ok(MinerMessage { message: Some(FromMiner::Refusal(short)) }),
            Err(Status::out_of_range("decoded message length too large")),
        ];
        let mut wire = wire(messages);
        for _ in 0..4 {
            assert_eq!(wire.next().await, Err(Fault::Violation));
        }
        assert_eq!(wire.next().await, Err(Fault::Broken));
    }

    /// A stream that is never without a message.
    fn flood() -> Wire {
        let (outbound, _) = mpsc::channel(1);
        let message = || Ok(MinerMessage { message: Some(FromMiner::Tokens(v1::Tokens { ids: vec![1] })) });
        Wire::new(outbound, Box::pin(tokio_stream::iter(std::iter::repeat_with(message))))
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

    #[tokio::test]
    async fn an_unknown_session_is_told_from_a_broken_stream() {
        let mut wire = wire(vec![Err(Status::not_found("")), Err(Status::internal(""))]);
        assert_eq!(wire.next().await, Err(Fault::Unknown));
        assert_eq!(wire.next().await, Err(Fault::Broken));
    }
}
