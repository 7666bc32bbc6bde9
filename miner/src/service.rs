//! The gRPC face: streams bounded, then handed to [`Session`].

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use assay_proto::chunks;
use assay_proto::v1::miner_server::Miner;
use assay_proto::v1::{AssetChunk, AssetRequest, InfoReply, InfoRequest, MinerMessage, ValidatorMessage};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::limiter::StreamPermit;
use crate::session::Session;
use crate::state::State;

/// Messages that may wait for a peer to read them.
const OUTBOUND: usize = 8;
/// How long a piece of an asset may wait for the peer to read.
const SENDING: Duration = Duration::from_secs(30);

pub(crate) struct Service {
    state: Arc<State>,
}

impl Service {
    pub(crate) fn new(state: Arc<State>) -> Self {
        Self { state }
    }

    fn stream(&self, address: Option<IpAddr>) -> Result<StreamPermit, Status> {
        if self.state.draining.is_cancelled() {
            return Err(Status::unavailable("the miner is stopping"));
        }
        self.state.streams.open(address).ok_or_else(|| Status::resource_exhausted("too many streams are open"))
    }
}

fn address<T>(request: &Request<T>) -> Option<IpAddr> {
    request.remote_addr().map(|address| address.ip())
}

#[tonic::async_trait]
impl Miner for Service {
    type SessionStream = ReceiverStream<Result<MinerMessage, Status>>;
    type AssetStream = ReceiverStream<Result<AssetChunk, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<ValidatorMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let permit = self.stream(address(&request))?;
        let (outbound, messages) = mpsc::channel(OUTBOUND);
        let session = Session::new(Arc::clone(&self.state), request.into_inner(), outbound);
        tokio::spawn(async move {
            session.run().await;
            drop(permit);
        });
        Ok(Response::new(ReceiverStream::new(messages)))
    }

    async fn info(&self, _: Request<InfoRequest>) -> Result<Response<InfoReply>, Status> {
        let published = &self.state.published;
        Ok(Response::new(InfoReply {
            manifest_id: published.id().as_bytes().to_vec(),
            manifest: published.manifest_bytes().to_vec(),
        }))
    }

    async fn asset(&self, request: Request<AssetRequest>) -> Result<Response<Self::AssetStream>, Status> {
        let permit = self.stream(address(&request))?;
        let asset = self.state.published.asset(request.into_inner().kind());
        let asset = asset.ok_or_else(|| Status::invalid_argument("there is no asset of this kind"))?;
        let (outbound, pieces) = mpsc::channel(OUTBOUND);
        tokio::spawn(async move {
            for piece in chunks::asset_chunks(&asset) {
                if !matches!(tokio::time::timeout(SENDING, outbound.send(Ok(piece))).await, Ok(Ok(()))) {
                    break;
                }
            }
            drop(permit);
        });
        Ok(Response::new(ReceiverStream::new(pieces)))
    }
}
