//! Models from miners that hand out something else, too much, or not all of it.

use std::pin::Pin;

use assay_audit::assets::EmbeddingTable;
use assay_audit::verdict::OwnFault;
use assay_commitments::codec;
use assay_commitments::manifest::Manifest;
use assay_proto::chunks::{CHUNK_BYTES, asset_chunks};
use assay_proto::v1::miner_server::MinerServer;
use assay_proto::v1::{
    AssetChunk, AssetKind, AssetRequest, InfoReply, InfoRequest, MinerMessage, ValidatorMessage, miner_server,
};
use assay_validator::{FetchError, ModelError, VerifierModel};
use tokio_stream::wrappers::TcpListenerStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Response, Status, Streaming};

use super::*;

/// An asset as it is sent.
type Pieces = Pin<Box<dyn Stream<Item = Result<AssetChunk, Status>> + Send>>;

/// A miner that hands out a manifest and, for each kind of asset, what it likes. It holds no sessions.
struct Shelf<F> {
    manifest: Vec<u8>,
    asset: F,
}

#[tonic::async_trait]
impl<F: Fn(AssetKind) -> Pieces + Send + Sync + 'static> miner_server::Miner for Shelf<F> {
    type SessionStream = tokio_stream::Empty<Result<MinerMessage, Status>>;
    type AssetStream = Pieces;

    async fn session(
        &self,
        _: tonic::Request<Streaming<ValidatorMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        Err(Status::unimplemented("it holds no sessions"))
    }

    async fn info(&self, _: tonic::Request<InfoRequest>) -> Result<Response<InfoReply>, Status> {
        Ok(Response::new(InfoReply { manifest_id: Vec::new(), manifest: self.manifest.clone() }))
    }

    async fn asset(&self, request: tonic::Request<AssetRequest>) -> Result<Response<Pieces>, Status> {
        Ok(Response::new((self.asset)(request.into_inner().kind())))
    }
}

pub(crate) async fn shelf(
    manifest: &Manifest,
    asset: impl Fn(AssetKind) -> Pieces + Send + Sync + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = MinerServer::new(Shelf { manifest: codec::encode(manifest), asset });
    let server = tonic::transport::Server::builder().add_service(service);
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    address
}

/// An asset to its end.
pub(crate) fn whole(asset: &[u8]) -> Pieces {
    Box::pin(tokio_stream::iter(asset_chunks(asset).map(Ok).collect::<Vec<_>>()))
}

/// What an honest miner sends.
pub(crate) fn honest(model: &VerifierModel, kind: AssetKind) -> Vec<u8> {
    match kind {
        AssetKind::Unspecified => Vec::new(),
        AssetKind::Tokenizer => model.tokenizer().to_vec(),
        AssetKind::ChatTemplate => model.chat_template().unwrap_or_default().to_vec(),
        AssetKind::EmbeddingDigests => model.embeddings().digests().concat(),
    }
}

/// The model as an honest miner hands it out.
pub(crate) async fn fetched(world: &World) -> VerifierModel {
    let config = world.config(9);
    let miner = Miner::start(config, world.published.clone(), world.honest.clone()).await.unwrap();
    fetch_model(miner.local_addr(), world.published.id(), Patience::DEFAULT).await.unwrap()
}

/// Fetches a model whose miner sends `pieces` in the place of the asset `kind`.
async fn fetch_with(
    model: &VerifierModel,
    kind: AssetKind,
    pieces: impl Fn(Vec<u8>) -> Pieces + Send + Sync + 'static,
    patience: Patience,
) -> Result<VerifierModel, FetchError> {
    let known = model.clone();
    let asset = move |asked| {
        let due = honest(&known, asked);
        if asked == kind { pieces(due) } else { whole(&due) }
    };
    fetch_model(shelf(model.manifest(), asset).await, model.id(), patience).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_is_fetched_only_if_its_id_is_the_one_on_chain() {
    let world = world().await;
    let miner = world.miner(1, world.honest.clone()).await;
    let model = fetch_model(miner.local_addr(), world.published.id(), Patience::DEFAULT).await.unwrap();
    assert_eq!(model.manifest(), world.published.manifest().as_ref());
    let foreign = fetch_model(miner.local_addr(), ManifestId::new([1; 32]), Patience::DEFAULT).await;
    assert!(matches!(foreign, Err(FetchError::Manifest(..))));
    let mut digests = model.embeddings().digests().to_vec();
    digests[5][0] ^= 1;
    let template = model.chat_template().map(<[u8]>::to_vec);
    let forged = VerifierModel::new(
        model.manifest().clone(),
        model.tokenizer().to_vec(),
        template,
        EmbeddingTable::new(digests),
    );
    assert!(forged.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_are_not_the_manifests_are_no_model() {
    let model = fetched(&world().await).await;
    let flipped = |mut due: Vec<u8>| {
        due[7] ^= 1;
        whole(&due)
    };
    let short = |due: Vec<u8>| whole(&due[1..]);
    for kind in [AssetKind::Tokenizer, AssetKind::ChatTemplate, AssetKind::EmbeddingDigests] {
        let expected = match kind {
            AssetKind::EmbeddingDigests => ModelError::Embeddings,
            _ => ModelError::Assets(OwnFault::AssetMissing),
        };
        let sent = [
            fetch_with(&model, kind, flipped, Patience::DEFAULT).await,
            fetch_with(&model, kind, short, Patience::DEFAULT).await,
        ];
        for fetched in sent {
            assert!(matches!(fetched, Err(FetchError::Model(_, found)) if found == expected), "{kind:?}: {fetched:?}");
        }
    }
    fetch_with(&model, AssetKind::Tokenizer, |due| whole(&due), Patience::DEFAULT).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_miner_that_sends_without_end_is_cut_off_at_what_the_model_can_have() {
    let model = fetched(&world().await).await;
    for (kind, what) in [(AssetKind::ChatTemplate, "chat template"), (AssetKind::EmbeddingDigests, "embedding digests")]
    {
        let endless = |_| -> Pieces {
            let more = std::iter::repeat_with(|| Ok(AssetChunk { data: vec![0; CHUNK_BYTES] }));
            Box::pin(tokio_stream::iter(more))
        };
        let fetched = fetch_with(&model, kind, endless, Patience::DEFAULT).await;
        assert!(matches!(fetched, Err(FetchError::TooLong(_, named)) if named == what), "{fetched:?}");
    }
}

fn check_silent(fetched: &Result<VerifierModel, FetchError>, expected: &str) {
    assert!(matches!(fetched, Err(FetchError::Silent(_, why)) if why == expected), "{fetched:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_miner_that_keeps_the_validator_waiting_is_silent() {
    let model = fetched(&world().await).await;
    let (piece, long) = (Duration::from_secs(1), Duration::from_mins(1));
    // It takes connections and says nothing.
    let mute = TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let patience = Patience { piece, whole: long };
    check_silent(&fetch_model(mute.local_addr().unwrap(), model.id(), patience).await, "no reply");

    let stops = |due: Vec<u8>| -> Pieces { Box::pin(whole(&due).chain(tokio_stream::pending())) };
    let fetched = fetch_with(&model, AssetKind::Tokenizer, stops, patience).await;
    check_silent(&fetched, "tokenizer: it stopped sending");

    let breaks =
        |due: Vec<u8>| -> Pieces { Box::pin(whole(&due).chain(tokio_stream::once(Err(Status::aborted("enough"))))) };
    let fetched = fetch_with(&model, AssetKind::EmbeddingDigests, breaks, patience).await;
    check_silent(&fetched, "embedding digests: enough");

    // Pieces that say next to nothing come without end, and as fast as they are taken.
    for length in [0, 1] {
        let drop = move || Ok(AssetChunk { data: vec![b' '; length] });
        let flood = move |_| -> Pieces { Box::pin(tokio_stream::iter(std::iter::repeat_with(drop))) };
        let fetched = fetch_with(&model, AssetKind::Tokenizer, flood, Patience { piece: long, whole: long }).await;
        check_silent(&fetched, "tokenizer: a piece has another length than 65536 bytes");
    }

    // Each piece comes in time, and the last one does not.
    let drips = |_| -> Pieces {
        let drop = || Ok(AssetChunk { data: vec![b' '; CHUNK_BYTES] });
        let drops = tokio_stream::iter(std::iter::repeat_with(drop).take(500));
        Box::pin(drops.throttle(Duration::from_millis(20)))
    };
    let patience = Patience { piece: long, whole: piece };
    check_silent(&fetch_with(&model, AssetKind::Tokenizer, drips, patience).await, "it took too long");
}

/// Makes a block every 100 ms, and says when a validator that follows the chain has judged an epoch.
async fn epoch_by_the_clock(world: &World) -> assay_validator::EpochReport {
    let chain = world.chain.clone();
    let clock = tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
            chain.step_block();
        }
    });
    let (judged, mut reports) = tokio::sync::mpsc::unbounded_channel();
    let events = move |event| {
        if let ValidatorEvent::EpochEnded(report) = event {
            judged.send(*report).unwrap();
        }
    };
    let mut validator = world.open(events).await;
    let stop = tokio_util::sync::CancellationToken::new();
    let run = tokio::time::timeout(Duration::from_mins(1), validator.run(&stop, Some(1)));
    run.await.expect("models are waited for without end").unwrap();
    clock.abort();
    reports.try_recv().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_miner_that_drips_its_model_holds_up_nobody_elses_sessions() {
    let world = world_of(Parameters { tempo: 199, ..parameters() }).await;
    let model = fetched(&world).await;
    // Each piece comes in time.
    let mut manifests = vec![world.published.id()];
    for number in 1..=3 {
        let mut manifest = model.manifest().clone();
        manifest.tokenizer = [number; 32];
        let drips = |_| -> Pieces {
            let drop = || Ok(AssetChunk { data: vec![b' '; CHUNK_BYTES] });
            Box::pin(tokio_stream::iter(std::iter::repeat_with(drop)).throttle(Duration::from_secs(2)))
        };
        world.register(number, shelf(&manifest, drips).await, manifest.id()).await;
        manifests.push(manifest.id());
    }
    world.chain.publish_manifests(keys(100).hotkey(), &manifests).await.unwrap();
    let _miner = world.miner(4, world.honest.clone()).await;
    let report = epoch_by_the_clock(&world).await;
    assert_eq!(miner_of(&report.miners, 4).accepted, 3, "{report:?}");
    for number in 1..=3 {
        let miner = miner_of(&report.miners, number);
        assert_eq!((miner.requests, miner.unavailable), (3, 3), "{report:?}");
    }
}

/// What its model takes a miner to hand out, over a line that may be ours, says nothing of it in a few seconds.
#[tokio::test(flavor = "multi_thread")]
async fn a_validator_that_begins_late_in_an_epoch_holds_no_missing_model_against_miners() {
    for (begins, expected) in [(0, (3, 0)), (50, (0, 3))] {
        let world = world_of(Parameters { tempo: 99, ..parameters() }).await;
        // It takes connections and says nothing.
        let mute = TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        world.register(1, mute.local_addr().unwrap(), world.published.id()).await;
        let head = world.chain.head().await.unwrap();
        (head.block.get()..head.epoch_start.get() + begins).for_each(|_| drop(world.chain.step_block()));
        let report = epoch_by_the_clock(&world).await;
        let miner = miner_of(&report.miners, 1);
        assert_eq!((miner.unavailable, miner.inconclusive), expected, "{begins}: {report:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_miner_that_was_not_asked_for_the_model_in_time_is_not_silent() {
    let world = world_of(Parameters { tempo: 99, ..parameters() }).await;
    // It takes connections and says nothing.
    let mute = TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    for number in 1..=8 {
        world.register(number, mute.local_addr().unwrap(), world.published.id()).await;
    }
    let _miner = world.miner(9, world.honest.clone()).await;
    let report = epoch_by_the_clock(&world).await;
    for number in 1..=9 {
        let miner = miner_of(&report.miners, number);
        let expected = if number == 9 { (0, 3) } else { (3, 0) };
        assert_eq!((miner.unavailable, miner.inconclusive), expected, "{number}: {report:?}");
    }
}
