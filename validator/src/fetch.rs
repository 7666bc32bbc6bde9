//! A model's manifest and files from a miner, believed only as far as the id on chain goes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use assay_audit::assets::EmbeddingTable;
use assay_audit::prompt::{MAX_TEMPLATE_BYTES, MAX_TOKENIZER_BYTES};
use assay_audit::verdict::OwnFault;
use assay_commitments::codec;
use assay_commitments::manifest::{MAX_MANIFEST_BYTES, Manifest};
use assay_commitments::{Hotkey, ManifestId};
use assay_proto::ENVELOPE_BYTES;
use assay_proto::chunks::{Assembly, ChunkError};
use assay_proto::v1::{AssetKind, AssetRequest, InfoRequest};
use thiserror::Error;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use crate::model::{ModelError, VerifierModel};
use crate::session::Peer;
use crate::stall::Since;
use crate::wire::{Line, contained};

/// How long a miner may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// For one reply or one piece.
    pub piece: Duration,
    /// For all of it.
    pub whole: Duration,
}

impl Patience {
    /// Room for a large model over a slow line.
    pub const DEFAULT: Self = Self { piece: Duration::from_secs(10), whole: Duration::from_mins(5) };
}

/// Why a model could not be fetched from a miner.
#[derive(Debug, Error)]
pub enum FetchError {
    /// The miner does not answer.
    #[error("miner at {0} does not send the model: {1}")]
    Silent(SocketAddr, String),
    /// What it sends is larger than it can be.
    #[error("miner at {0} sends more bytes than the model's {1} can have")]
    TooLong(SocketAddr, &'static str),
    /// Its manifest is another than the one on chain.
    #[error("miner at {0} sends another manifest than {1}, or none at all")]
    Manifest(SocketAddr, ManifestId),
    /// Its files are not the manifest's.
    #[error("miner at {0} sends files that do not fit the manifest: {1}")]
    Model(SocketAddr, ModelError),
    /// The validator's own doing.
    #[error("the model of the miner at {0} is not fetched, by our own fault: {1}")]
    Own(SocketAddr, OwnFault),
}

/// Why a model is not there that its miners were asked for.
#[derive(Debug)]
pub(crate) struct Absent {
    /// Our own fault, if it is that. Otherwise it is the miners' silence: whoever declares a model hands it out.
    pub(crate) fault: Option<OwnFault>,
    /// Miners for whom there was no time.
    pub(crate) unheard: BTreeSet<Hotkey>,
}

/// Fetches a model from whichever of its miners delivers it first, so many of them asked `side_by_side`, until it is
/// `over`. Of those who drip then, some may be silent, if there was time enough `to_blame` them: whoever had half of it.
/// Others had it before the rest.
pub(crate) async fn fetch_from_any(
    manifest: ManifestId,
    peers: Vec<Peer>,
    side_by_side: usize,
    to_blame: bool,
    over: CancellationToken,
) -> Result<(Peer, VerifierModel), Absent> {
    let (begun, since, mut waiting) = (Instant::now(), Since::now(), peers.into_iter());
    let (mut fetches, mut under_way, mut fault) = (JoinSet::new(), BTreeMap::new(), None);
    loop {
        while fetches.len() < side_by_side
            && let Some(peer) = waiting.next()
        {
            under_way.insert(peer.hotkey, Instant::now());
            fetches.spawn(async move { (peer, fetch_model(peer.endpoint, manifest, Patience::DEFAULT).await) });
        }
        let fetched = tokio::select! {
            biased;
            fetched = fetches.join_next() => fetched,
            () = over.cancelled() => {
                warn!(%manifest, "no time is left for fetching this model");
                break;
            }
        };
        match fetched {
            Some(Ok((peer, Ok(model)))) => return Ok((peer, model)),
            Some(Ok((peer, Err(failure)))) => {
                warn!(miner = %peer.hotkey, %failure, "the model is not there");
                under_way.remove(&peer.hotkey);
                if let FetchError::Own(_, own) = failure {
                    fault = Some(own);
                }
            }
            Some(Err(failure)) => error!(%failure, "a download ended early"),
            None => break,
        }
    }
    if fault.is_none() && since.stood_still() {
        fault = Some(OwnFault::Stalled);
    }
    let half = begun.elapsed() / 2;
    let had_time = |begun: Instant| to_blame && begun.elapsed() >= half;
    let late = under_way.into_iter().filter(|(_, begun)| !had_time(*begun)).map(|(miner, _)| miner);
    let unheard = waiting.map(|peer| peer.hotkey).chain(late).collect();
    Err(Absent { fault, unheard })
}

/// Fetches the model with the given id and checks every byte of it.
///
/// # Errors
/// [`FetchError`]: the miner's doing, all but [`FetchError::Own`]. Another one may be asked.
pub async fn fetch_model(address: SocketAddr, id: ManifestId, patience: Patience) -> Result<VerifierModel, FetchError> {
    let silent = |why: &str| FetchError::Silent(address, why.to_owned());
    let line = Line::new(address, MAX_MANIFEST_BYTES + ENVELOPE_BYTES).ok_or_else(|| silent("bad address"))?;
    let source = Source { line, address, patience: patience.piece };
    let model = contained(async move { source.model(id).await });
    let since = Since::now();
    match timeout(patience.whole, model).await {
        Ok(Ok(Err(FetchError::Silent(..)))) | Err(_) if since.stood_still() => {
            Err(FetchError::Own(address, OwnFault::Stalled))
        }
        Ok(Ok(fetched)) => fetched,
        Ok(Err(_)) => Err(silent("it sends what cannot be read")),
        Err(_) => Err(silent("it took too long")),
    }
}

/// A miner that is asked for a model.
struct Source {
    line: Line,
    address: SocketAddr,
    /// For one reply or one piece.
    patience: Duration,
}

impl Source {
    fn silent(&self, why: impl Into<String>) -> FetchError {
        // A miner's own words have no end.
        FetchError::Silent(self.address, why.into().chars().take(200).collect())
    }

    async fn model(&self, id: ManifestId) -> Result<VerifierModel, FetchError> {
        let address = self.address;
        let reply = timeout(self.patience, self.line.client().info(InfoRequest {}))
            .await
            .map_err(|_| self.silent("no reply"))?
            .map_err(|status| self.silent(status.message()))?;
        let manifest: Manifest = codec::decode(&reply.into_inner().manifest)
            .ok()
            .filter(|manifest: &Manifest| manifest.id() == id)
            .ok_or(FetchError::Manifest(address, id))?;
        let vocabulary = usize::try_from(manifest.architecture.vocab_size).unwrap_or(usize::MAX);

        let tokenizer = self.asset(AssetKind::Tokenizer, "tokenizer", MAX_TOKENIZER_BYTES).await?;
        let chat_template = match manifest.chat_template {
            Some(_) => Some(self.asset(AssetKind::ChatTemplate, "chat template", MAX_TEMPLATE_BYTES).await?),
            None => None,
        };
        let bound = vocabulary.saturating_mul(32);
        let table = self.asset(AssetKind::EmbeddingDigests, "embedding digests", bound).await?;

        let checked = tokio::task::spawn_blocking(move || {
            let (digests, rest) = table.as_chunks::<32>();
            if digests.len() != vocabulary || !rest.is_empty() {
                return Err(ModelError::Embeddings);
            }
            VerifierModel::new(manifest, tokenizer, chat_template, EmbeddingTable::new(digests.to_vec()))
        });
        match checked.await {
            Ok(Ok(model)) => Ok(model),
            // The files are the manifest's to the byte; that we cannot read them is not the miner's doing.
            Ok(Err(ModelError::Assets(fault @ OwnFault::PromptUnusable))) => Err(FetchError::Own(address, fault)),
            Ok(Err(error)) => Err(FetchError::Model(address, error)),
            Err(_) => Err(FetchError::Own(address, OwnFault::Interrupted)),
        }
    }

    /// An asset, up to a bound.
    async fn asset(&self, kind: AssetKind, what: &'static str, bound: usize) -> Result<Vec<u8>, FetchError> {
        let silent = |why: &str| self.silent(format!("{what}: {why}"));
        let mut client = self.line.client();
        let mut pieces = timeout(self.patience, client.asset(AssetRequest { kind: kind.into() }))
            .await
            .map_err(|_| silent("no reply"))?
            .map_err(|status| silent(status.message()))?
            .into_inner();
        let mut assembly = Assembly::new(bound);
        loop {
            // Others have their turn between two pieces, deadlines too, however fast they come.
            tokio::task::yield_now().await;
            let piece = timeout(self.patience, pieces.message()).await.map_err(|_| silent("it stopped sending"))?;
            match piece.map_err(|status| silent(status.message()))? {
                Some(piece) => assembly.push(&piece.data).map_err(|error| match error {
                    ChunkError::TooLong => FetchError::TooLong(self.address, what),
                    ChunkError::Piece | ChunkError::Signature => silent(&error.to_string()),
                })?,
                None => return Ok(assembly.finish()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stall::tests::PRETENDED;

    #[tokio::test]
    async fn a_standstill_while_models_are_fetched_is_no_miners_silence() {
        // It takes connections and says nothing.
        let mute = std::net::TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).unwrap();
        let peer = Peer { hotkey: Hotkey::new([1; 32]), endpoint: mute.local_addr().unwrap() };
        for (stood, expected) in [(Duration::ZERO, None), (Duration::from_secs(9), Some(OwnFault::Stalled))] {
            let over = CancellationToken::new();
            let fetch = fetch_from_any(ManifestId::new([2; 32]), vec![peer], 1, true, over.clone());
            let pass = async {
                tokio::time::sleep(Duration::from_millis(100)).await;
                PRETENDED.set(stood);
                over.cancel();
            };
            let (fetched, ()) = tokio::join!(fetch, pass);
            PRETENDED.set(Duration::ZERO);
            let Err(absent) = fetched else { panic!("it says nothing") };
            assert_eq!((absent.fault, absent.unheard.len()), (expected, 0));
        }
    }
}
