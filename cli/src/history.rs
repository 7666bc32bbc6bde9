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

#[cfg(test)]
mod tests {
    use assay_audit::challenge::nonce_commitment;
    use assay_audit::keys::Signature;
    use assay_audit::policy::Policy;
    use assay_audit::prompt::Prompt;
    use assay_audit::request::{AuditRate, Deadlines};
    use assay_audit::sampling::Sampling;
    use assay_audit::session::{Answer, Omission, SignedBytes};

    use super::*;

    const GENESIS: [u8; 32] = [7; 32];
    const KEY: [u8; 32] = [9; 32];
    const VALIDATOR: Hotkey = Hotkey::new([1; 32]);
    const MINER: Hotkey = Hotkey::new([2; 32]);
    const MANIFEST: ManifestId = ManifestId::new([4; 32]);
    const EPOCH: Epoch = Epoch::new(5);

    /// Everything that a contradiction is looked for in: a chain, and a session that it bears out.
    struct Case {
        history: History,
        request: Request,
        reply: Reply,
    }

    fn block(number: u64) -> BlockNumber {
        BlockNumber::new(number)
    }

    /// The session is of the epoch of blocks 100 to 199.
    fn case() -> Case {
        let nonce = EpochKey::new(KEY).nonce(3, &MINER, 4);
        let network = assay_audit::request::Network { genesis: GENESIS, netuid: 3 };
        let request = Request {
            network,
            validator: VALIDATOR,
            miner: MINER,
            epoch: EPOCH,
            manifest: MANIFEST,
            prompt: Prompt::Text("hello".to_owned()),
            sampling: Sampling::GREEDY,
            max_tokens: 1,
            stop: vec![],
            policy: Policy::DEFAULT,
            audit_rate: AuditRate::Always,
            deadlines: Deadlines::all(1),
            counter: 4,
            nonce_commitment: Some(nonce_commitment(&nonce, 4, &VALIDATOR, &MINER)),
        };
        let published = EpochKeyRecord {
            hash: EpochKeyHash::new(EpochKey::new(KEY).hash()),
            published_at: block(100),
            key: Some(assay_chain::EpochKey::new(KEY)),
            requests: None,
        };
        let history = History {
            network: Network { genesis: GenesisHash::new(GENESIS), netuid: NetUid::new(3) },
            epochs: [(EPOCH, block(100)), (EPOCH.next(), block(200))].into(),
            manifests: vec![(block(0), vec![MANIFEST])],
            hotkeys: vec![(VALIDATOR, block(10)), (MINER, block(10))],
            epoch_keys: vec![(VALIDATOR, EPOCH, published)],
        };
        Case { history, request, reply: Reply::Settled { nonce } }
    }

    /// What is said of a session that differs from what the chain bears out, with its record and without.
    fn found(change: impl FnOnce(&mut Case)) -> [Option<(OwnFault, String)>; 2] {
        let mut case = case();
        change(&mut case);
        let Case { history, request, reply } = case;
        let signature = Signature([0; 64]);
        let record = SessionRecord {
            request,
            request_signature: signature,
            streamed: vec![],
            exchange: Exchange::Committed { commitment: SignedBytes { bytes: vec![], signature }, reply },
        };
        [Some(&record), None].map(|shown| contradiction(&history, &record.request, shown))
    }

    fn of_key(case: &mut Case) -> &mut EpochKeyRecord {
        &mut case.history.epoch_keys[0].2
    }

    #[test]
    fn what_a_chain_bears_out_is_not_contradicted() {
        let never = [None, None];
        assert_eq!(found(|_| ()), never);
        assert_eq!(found(|case| case.reply = Reply::None), never);
        let nonce = EpochKey::new(KEY).nonce(3, &MINER, 4);
        let answer = Answer::Omitted(Omission::Absent);
        assert_eq!(found(|case| case.reply = Reply::Challenged { nonce: Some(nonce), answer }), never);
        assert_eq!(found(|case| case.history.hotkeys[1].1 = block(199)), never, "registered in the epoch");
        assert_eq!(found(|case| of_key(case).published_at = block(199)), never, "published in the epoch");
        assert_eq!(found(|case| case.history.manifests.push((block(150), vec![]))), never, "in force at first");
        let another = |case: &mut Case| {
            let nonce = EpochKey::new(KEY).nonce(3, &MINER, 5);
            case.request.counter = 5;
            case.request.nonce_commitment = Some(nonce_commitment(&nonce, 5, &VALIDATOR, &MINER));
            case.reply = Reply::Settled { nonce };
        };
        assert_eq!(found(another), never, "another counter with its own nonce");
        // While the key is hidden, nothing can be said of the nonce.
        let hidden = |case: &mut Case| {
            of_key(case).key = None;
            case.request.counter = 8;
        };
        assert_eq!(found(hidden), never);
    }

    #[test]
    fn whatever_the_chain_does_not_bear_out_is_named() {
        let says = |what: &str, change: &dyn Fn(&mut Case)| {
            let expected = Some((OwnFault::NotOnChain, what.to_owned()));
            assert_eq!(found(change), [expected.clone(), expected], "{what}");
        };
        let elsewhere = "the request is of another chain or subnet";
        says(elsewhere, &|case| case.request.network.genesis[0] ^= 1);
        says(elsewhere, &|case| case.request.network.netuid = 4);

        says("epoch 5 had not begun on this chain", &|case| case.history.epochs.retain(|epoch, _| *epoch != EPOCH));

        let forced = format!("manifest {MANIFEST} was not in force in epoch 5");
        says(&forced, &|case| case.history.manifests[0].1 = vec![ManifestId::new([5; 32])]);
        says(&forced, &|case| case.history.manifests[0].0 = block(200));
        says(&forced, &|case| case.history.manifests.push((block(100), vec![])));

        for (place, role, hotkey) in [(0, "validator", VALIDATOR), (1, "miner", MINER)] {
            let unknown = format!("{role} {hotkey} was not registered in epoch 5");
            says(&unknown, &|case| case.history.hotkeys[place].0 = Hotkey::new([3; 32]));
            says(&unknown, &|case| case.history.hotkeys[place].1 = block(200));
        }

        let none = "the validator published no key for epoch 5";
        says(none, &|case| case.history.epoch_keys[0].0 = MINER);
        says(none, &|case| case.history.epoch_keys[0].1 = EPOCH.next());
        says("the validator published its key for epoch 5 when that was over", &|case| {
            of_key(case).published_at = block(200);
        });
        says("the key of epoch 5 is not the one whose hash was published", &|case| {
            of_key(case).hash = EpochKeyHash::new([0; 32]);
        });
        says("the key of epoch 5 is not the one whose hash was published", &|case| {
            of_key(case).key = Some(assay_chain::EpochKey::new([0; 32]));
        });
    }

    #[test]
    fn a_nonce_that_is_not_the_keys_is_told_from_what_was_revealed_and_from_what_was_committed_to() {
        let picked =
            Some((OwnFault::NonceMismatch, "the nonce is not that of the validator's key for epoch 5".to_owned()));
        // The request alone tells a commitment to another nonce, or to the nonce of another place in the draw.
        for change in [
            |case: &mut Case| case.request.nonce_commitment = Some([0; 32]),
            |case: &mut Case| case.request.counter = 5,
            |case: &mut Case| {
                let key = EpochKey::new([8; 32]);
                of_key(case).hash = EpochKeyHash::new(key.hash());
                of_key(case).key = Some(assay_chain::EpochKey::new([8; 32]));
            },
        ] {
            assert_eq!(found(change), [picked.clone(), picked.clone()]);
        }
        // What was revealed stands in the record only.
        let (nonce, answer) = ([0; 32], Answer::Omitted(Omission::Absent));
        for reply in [Reply::Settled { nonce }, Reply::Challenged { nonce: Some(nonce), answer }] {
            assert_eq!(found(|case| case.reply = reply), [picked.clone(), None]);
        }
        // A complete proof has no nonce, and so none that was picked.
        let complete = |case: &mut Case| {
            case.request.nonce_commitment = None;
            case.reply = Reply::Challenged { nonce: None, answer: Answer::Omitted(Omission::Absent) };
        };
        assert_eq!(found(complete), [None, None]);
    }
}
