//! What stood on a chain, as a file: what an auditor goes by who has no node that remembers.

use std::collections::BTreeMap;
use std::path::Path;

use assay_audit::challenge::{EpochKey, Nonce};
use assay_audit::request::Request;
use assay_audit::session::{Exchange, Reply, SessionRecord};
use assay_audit::verdict::OwnFault;
use assay_chain::{BlockNumber, EpochKeyHash, EpochKeyRecord, GenesisHash, History, NetUid, Network, RequestsDigest};
use assay_commitments::{Epoch, Hotkey, ManifestId};
use serde::{Deserialize, Serialize};

use crate::files::{read, write_atomically};
use crate::outcome::Fault;

/// The name of the file beside the transcripts of a demo.
pub(crate) const HISTORY_NAME: &str = "chain.json";
/// Most bytes of such a file: half a million keys and hotkeys.
const MAX_HISTORY_BYTES: usize = 1 << 28;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    genesis: Hex,
    netuid: u16,
    epochs: BTreeMap<u64, u64>,
    manifests: Vec<InForce>,
    hotkeys: Vec<Registered>,
    epoch_keys: Vec<Published>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct InForce {
    block: u64,
    ids: Vec<Hex>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Registered {
    block: u64,
    hotkey: Hex,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Published {
    validator: Hex,
    epoch: u64,
    block: u64,
    hash: Hex,
    key: Option<Hex>,
    requests: Option<Hex>,
}

/// 32 bytes in hexadecimal.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
struct Hex([u8; 32]);

impl TryFrom<String> for Hex {
    type Error = hex::FromHexError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes)?;
        Ok(Self(bytes))
    }
}

impl From<Hex> for String {
    fn from(Hex(bytes): Hex) -> Self {
        hex::encode(bytes)
    }
}

impl From<&History> for Document {
    fn from(history: &History) -> Self {
        let published = |(validator, epoch, record): &(Hotkey, Epoch, EpochKeyRecord)| Published {
            validator: Hex(*validator.as_bytes()),
            epoch: epoch.get(),
            block: record.published_at.get(),
            hash: Hex(*record.hash.as_bytes()),
            key: record.key.map(|key| Hex(*key.as_bytes())),
            requests: record.requests.map(|digest| Hex(*digest.as_bytes())),
        };
        let in_force = |(block, ids): &(BlockNumber, Vec<ManifestId>)| InForce {
            block: block.get(),
            ids: ids.iter().map(|id| Hex(*id.as_bytes())).collect(),
        };
        let registered = |(hotkey, block): &(Hotkey, BlockNumber)| Registered {
            block: block.get(),
            hotkey: Hex(*hotkey.as_bytes()),
        };
        Self {
            genesis: Hex(*history.network.genesis.as_bytes()),
            netuid: history.network.netuid.get(),
            epochs: history.epochs.iter().map(|(epoch, block)| (epoch.get(), block.get())).collect(),
            manifests: history.manifests.iter().map(in_force).collect(),
            hotkeys: history.hotkeys.iter().map(registered).collect(),
            epoch_keys: history.epoch_keys.iter().map(published).collect(),
        }
    }
}

impl From<Document> for History {
    fn from(document: Document) -> Self {
        let published = |published: Published| {
            let record = EpochKeyRecord {
                hash: EpochKeyHash::new(published.hash.0),
                published_at: BlockNumber::new(published.block),
                key: published.key.map(|key| assay_chain::EpochKey::new(key.0)),
                requests: published.requests.map(|digest| RequestsDigest::new(digest.0)),
            };
            (Hotkey::new(published.validator.0), Epoch::new(published.epoch), record)
        };
        let in_force = |InForce { block, ids }| {
            (BlockNumber::new(block), ids.into_iter().map(|Hex(id)| ManifestId::new(id)).collect())
        };
        Self {
            network: Network { genesis: GenesisHash::new(document.genesis.0), netuid: NetUid::new(document.netuid) },
            epochs: document
                .epochs
                .into_iter()
                .map(|(epoch, block)| (Epoch::new(epoch), BlockNumber::new(block)))
                .collect(),
            manifests: document.manifests.into_iter().map(in_force).collect(),
            hotkeys: document
                .hotkeys
                .into_iter()
                .map(|Registered { block, hotkey }| (Hotkey::new(hotkey.0), BlockNumber::new(block)))
                .collect(),
            epoch_keys: document.epoch_keys.into_iter().map(published).collect(),
        }
    }
}

/// Writes what stood on a chain.
pub(crate) fn write_history(path: &Path, history: &History) -> Result<(), Fault> {
    let bytes = serde_json::to_vec_pretty(&Document::from(history))
        .map_err(|error| Fault::own(format!("{}: {error}", path.display())))?;
    write_atomically(path, &bytes)
}

/// Reads what stood on a chain.
pub(crate) fn read_history(path: &Path) -> Result<History, Fault> {
    let document: Document = serde_json::from_slice(&read(path, MAX_HISTORY_BYTES)?).map_err(|error| {
        let path = path.display();
        Fault::damaged(format!("{path}: this is no history of a chain ({error}): name one that `assay demo` wrote"))
    })?;
    Ok(document.into())
}

/// The nonce that a session's reply reveals.
fn revealed(record: &SessionRecord) -> Option<&Nonce> {
    match &record.exchange {
        Exchange::Committed { reply: Reply::Settled { nonce }, .. } => Some(nonce),
        Exchange::Committed { reply: Reply::Challenged { nonce, .. }, .. } => nonce.as_ref(),
        Exchange::Committed { reply: Reply::None, .. } | Exchange::Uncommitted(_) => None,
    }
}

/// What a request says and the chain does not, in words, with the fault that it is; none if the chain
/// bears it out.
pub(crate) fn contradiction(
    history: &History,
    request: &Request,
    record: Option<&SessionRecord>,
) -> Option<(OwnFault, String)> {
    let epoch = request.epoch;
    let missing = |what: String| Some((OwnFault::NotOnChain, what));
    let network = (history.network.genesis.as_bytes(), history.network.netuid.get());
    if network != (&request.network.genesis, request.network.netuid) {
        return missing("the request is of another chain or subnet".to_owned());
    }
    if history.term(epoch).is_none() {
        return missing(format!("epoch {epoch} had not begun on this chain"));
    }
    if !history.was_in_force(&request.manifest, epoch) {
        return missing(format!("manifest {} was not in force in epoch {epoch}", request.manifest));
    }
    for (role, hotkey) in [("validator", &request.validator), ("miner", &request.miner)] {
        if !history.was_registered(hotkey, epoch) {
            return missing(format!("{role} {hotkey} was not registered in epoch {epoch}"));
        }
    }
    let Some(published) = history.epoch_key(&request.validator, epoch) else {
        return missing(format!("the validator published no key for epoch {epoch}"));
    };
    if !history.was_published_in_time(published, epoch) {
        return missing(format!("the validator published its key for epoch {epoch} when that was over"));
    }
    let key = published.key.map(|key| EpochKey::new(*key.as_bytes()))?;
    if key.hash() != *published.hash.as_bytes() {
        return missing(format!("the key of epoch {epoch} is not the one whose hash was published"));
    }
    let nonce = key.nonce(request.network.netuid, &request.miner, request.counter);
    let picked = record.and_then(revealed).is_some_and(|revealed| *revealed != nonce)
        || request.nonce_commitment.is_some_and(|committed| {
            committed
                != assay_audit::challenge::nonce_commitment(&nonce, request.counter, &request.validator, &request.miner)
        });
    picked.then(|| (OwnFault::NonceMismatch, format!("the nonce is not that of the validator's key for epoch {epoch}")))
}
