//! What stood on chain, read from the state of old blocks.
//!
//! A commitment names the block it was written in, so its older versions are found by going back: what
//! stood in the block before it, and so on. What is final does not change, so versions once found are
//! kept, until a block turns out not to be final that was claimed to be. Nodes that are no archives forget
//! the state of old blocks, and then say so.

use std::{
    collections::{BTreeMap, HashMap},
    ops::RangeInclusive,
    sync::{Mutex, PoisonError},
};

use assay_commitments::{Epoch, Hotkey, ManifestId};
use subxt::utils::H256;

use super::{
    Subtensor, Want,
    follow::Tip,
    link::{self, Trouble},
    snapshot::Clock,
    state::At,
};
use crate::{
    error::ChainError,
    history::History,
    record::{self, Record},
    types::{BlockNumber, EpochKeyRecord},
};

/// Versions of one hotkey's commitment that are gone through for one answer.
const VERSIONS_MAX: u64 = 10_000;
/// Epochs of one answer.
const EPOCHS_MAX: u64 = 10_000;
/// Steps of the search for an epoch's first block.
const STEPS_MAX: usize = 64;

/// Versions of commitments by hotkey and block, as far as they are known to be all there are between the
/// blocks of `known`.
#[derive(Debug, Default)]
pub(super) struct Past {
    found: Mutex<Found>,
}

/// What was found since so many claims of a head had fallen.
#[derive(Debug, Default)]
struct Found {
    falls: u64,
    versions: HashMap<Hotkey, Versions>,
}

#[derive(Clone, Debug, Default)]
struct Versions {
    /// The blocks between which all versions are known.
    known: Option<RangeInclusive<u64>>,
    by_block: BTreeMap<u64, Record>,
}

impl Subtensor {
    pub(super) async fn read_epoch_key(
        &self,
        validator: Hotkey,
        epoch: Epoch,
    ) -> Result<Option<EpochKeyRecord>, ChainError> {
        let at = self.newest_final().await?;
        let known = self.epoch_key_at(&at, validator, epoch).await;
        let Err(ChainError::Forgotten { .. }) = &known else { return known };
        // Ordinary nodes remember less than an epoch. What the newest record says of the key is an answer
        // about the present; whether another hash came before it is for those who ask for the history.
        let Some((block, record)) = self.subnet(&at).commitment(validator).await? else { return known };
        let newest = [(BlockNumber::new(block), record)];
        record::epoch_key(&newest, epoch).map_or(known, |newest| Ok(Some(newest)))
    }

    /// What was published about an epoch's key, as of a block.
    pub(super) async fn epoch_key_at(
        &self,
        at: &At,
        validator: Hotkey,
        epoch: Epoch,
    ) -> Result<Option<EpochKeyRecord>, ChainError> {
        // A hash is published in its epoch or in the one before; a version from before that says nothing.
        let first = self.first_block(at, epoch.get().saturating_sub(1)).await?;
        let Some(first) = first else { return Ok(None) };
        let records = self.versions(at, validator, first).await?;
        Ok(record::epoch_key(&records, epoch))
    }

    pub(super) async fn read_history(
        &self,
        epochs: RangeInclusive<Epoch>,
        hotkeys: &[Hotkey],
    ) -> Result<History, ChainError> {
        let seen = self.seen(Want::Clock).await?;
        let (at, running) = (&seen.at, seen.clock.head(seen.tip.number).epoch);
        let last = (*epochs.end()).min(running);
        let from = epochs.start().get();
        let mut first_blocks = BTreeMap::new();
        if last.get().saturating_sub(from) > EPOCHS_MAX {
            return Err(ChainError::TooMuchPast { most: EPOCHS_MAX, what: "epochs".to_owned() });
        }
        for epoch in from..=last.get().saturating_add(1).min(running.get()) {
            if let Some(block) = self.first_block(at, epoch).await? {
                let block = BlockNumber::new(block);
                // What is searched for between them takes them to be in order.
                if let Some((before, begun)) = first_blocks.last_key_value().filter(|(_, begun)| **begun >= block) {
                    let why = format!("it is said to be {block}, and that of epoch {before} to be {begun}");
                    return Err(self.inner.links.refuse(&format!("the first block of epoch {epoch}"), why).await);
                }
                first_blocks.insert(Epoch::new(epoch), block);
            }
        }
        // The last block of each epoch, where registrations are looked up.
        let ends: Vec<u64> = (from..=last.get())
            .filter(|epoch| first_blocks.contains_key(&Epoch::new(*epoch)))
            .map(|epoch| {
                let next = first_blocks.get(&Epoch::new(epoch + 1));
                next.map_or(seen.tip.number, |next| next.get().saturating_sub(1))
            })
            .collect();
        let begins = (from..=last.get()).filter_map(|epoch| first_blocks.get(&Epoch::new(epoch)));
        let looked_at: Vec<u64> = begins.map(|block| block.get()).chain(ends.last().copied()).collect();
        let manifests = self.manifests_between(at, &looked_at).await?;
        let mut registered = Vec::new();
        let mut epoch_keys = Vec::new();
        for hotkey in hotkeys {
            if let Some(since) = self.registered_since(at, *hotkey, &ends).await? {
                registered.push((*hotkey, BlockNumber::new(since)));
            }
            for epoch in from..=last.get() {
                let epoch = Epoch::new(epoch);
                if let Some(record) = self.epoch_key_at(at, *hotkey, epoch).await? {
                    epoch_keys.push((*hotkey, epoch, record));
                }
            }
        }
        Ok(History { network: self.inner.network, epochs: first_blocks, manifests, hotkeys: registered, epoch_keys })
    }

    /// The manifests in force between the first and the last of some blocks, each list from when it came:
    /// what the owner of that time had in its registry.
    async fn manifests_between(
        &self,
        at: &At,
        blocks: &[u64],
    ) -> Result<Vec<(BlockNumber, Vec<ManifestId>)>, ChainError> {
        let owners = self.owners(at, blocks).await?;
        let ends = owners.iter().skip(1).map(|(next, _)| next.saturating_sub(1)).chain(blocks.last().copied());
        let mut manifests: Vec<(BlockNumber, Vec<ManifestId>)> = Vec::new();
        for ((begin, owner), end) in owners.iter().zip(ends) {
            let mut lists = vec![(BlockNumber::new(*begin), Vec::new())];
            if let Some(owner) = owner {
                let then = self.state_at(at, end).await?;
                for (block, record) in self.versions(&then, *owner, *begin).await? {
                    // What its owner had written before counts from the moment that it became the owner.
                    if block.get() <= *begin {
                        lists[0].1 = record.registry;
                    } else {
                        lists.push((block, record.registry));
                    }
                }
            }
            for (block, list) in lists {
                if manifests.last().is_none_or(|(_, last)| *last != list) {
                    manifests.push((block, list));
                }
            }
        }
        Ok(manifests)
    }

    /// Whose the subnet was between the first and the last of some blocks, each owner from its first block
    /// on. Between two of the blocks that differ in it, the change is searched for; who came and went between
    /// two of them is not seen.
    async fn owners(&self, at: &At, blocks: &[u64]) -> Result<Vec<(u64, Option<Hotkey>)>, ChainError> {
        let mut owners: Vec<(u64, Option<Hotkey>)> = Vec::new();
        let mut before = 0;
        for block in blocks {
            let owner = self.owner_at(at, *block).await?;
            match owners.last() {
                None => owners.push((*block, owner)),
                Some((_, last)) if *last != owner => {
                    let (mut without, mut with) = (before, *block);
                    while with.saturating_sub(without) > 1 {
                        let middle = without.midpoint(with);
                        if self.owner_at(at, middle).await? == owner { with = middle } else { without = middle }
                    }
                    owners.push((with, owner));
                }
                Some(_) => {}
            }
            before = *block;
        }
        Ok(owners)
    }

    async fn owner_at(&self, at: &At, number: u64) -> Result<Option<Hotkey>, ChainError> {
        let then = self.state_at(at, number).await?;
        self.subnet(&then).owner().await
    }

    /// When a hotkey was registered, as far as it was in some epoch; of several times, the first.
    async fn registered_since(&self, at: &At, hotkey: Hotkey, ends: &[u64]) -> Result<Option<u64>, ChainError> {
        let mut first = None;
        for end in ends.iter().rev() {
            let then = self.state_at(at, *end).await?;
            let Some(since) = self.subnet(&then).registered_at(hotkey).await? else { continue };
            first = Some(since);
            // What lies before is the same place.
            if ends.first().is_some_and(|begin| since <= *begin) {
                break;
            }
        }
        Ok(first)
    }

    /// All versions of a hotkey's commitment that stood at some block from `first` to the block `at`,
    /// oldest first.
    async fn versions(&self, at: &At, hotkey: Hotkey, first: u64) -> Result<Vec<(BlockNumber, Record)>, ChainError> {
        self.versions_within(at, hotkey, first, VERSIONS_MAX).await
    }

    /// The same, within so many steps from one version to the one before.
    async fn versions_within(
        &self,
        at: &At,
        hotkey: Hotkey,
        first: u64,
        most: u64,
    ) -> Result<Vec<(BlockNumber, Record)>, ChainError> {
        let epoch = self.seen(Want::Clock).await?.clock.length;
        // Of final blocks alone it is worth keeping what was found, and what is final is asked before the walk:
        // while it lasts, another block of this number may become it.
        let falls = self.inner.follower.falls();
        let is_final = self.is_final(at).await?;
        let mut known = self.inner.past.of(hotkey, falls);
        let mut cursor = at.number;
        let mut steps = 0..most;
        loop {
            // From here back to its begin, everything is known.
            if let Some(range) = known.known.clone().filter(|range| range.contains(&cursor)) {
                if *range.start() <= first {
                    break;
                }
                cursor = range.start() - 1;
                continue;
            }
            if steps.next().is_none() {
                let what = format!("writings of hotkey {hotkey} since block {first}");
                return Err(ChainError::TooMuchPast { most, what });
            }
            let then = if cursor == at.number { at.clone() } else { self.state_at(at, cursor).await? };
            let begin = match self.subnet(&then).commitment(hotkey).await? {
                Some((block, record)) => {
                    known.by_block.insert(block, record);
                    block
                }
                // Nothing stood here. Before the hotkey lost its place, and then in some epoch, there may have
                // been something.
                None => cursor.saturating_sub(epoch).max(first),
            };
            let begin = begin.min(cursor);
            known.known = Some(match known.known {
                Some(range)
                    if *range.start() <= cursor.saturating_add(1) && *range.end() >= begin.saturating_sub(1) =>
                {
                    begin.min(*range.start())..=cursor.max(*range.end())
                }
                _ => begin..=cursor,
            });
            if begin <= first || begin == 0 {
                break;
            }
            cursor = begin - 1;
        }
        if is_final {
            self.inner.past.keep(hotkey, &known, falls);
        }
        let standing = known.by_block.range(..=first.min(at.number)).next_back().map_or(0, |(block, _)| *block);
        let versions = known.by_block.range(standing..=at.number);
        Ok(versions.map(|(block, record)| (BlockNumber::new(*block), record.clone())).collect())
    }

    /// Whether a block is final now, and not another one of its number.
    async fn is_final(&self, at: &At) -> Result<bool, ChainError> {
        let tip = self.inner.follower.tip().await?;
        let same = Tip { number: at.number, hash: at.hash } == tip;
        Ok(same || at.number < tip.number && self.hash_of(at.number).await? == at.hash)
    }

    /// The state of a final block.
    async fn state_at(&self, at: &At, number: u64) -> Result<At, ChainError> {
        if number == at.number {
            return Ok(at.clone());
        }
        At::new(&self.inner.links, number, self.hash_of(number).await?).await
    }

    async fn hash_of(&self, number: u64) -> Result<H256, ChainError> {
        let what = "the hash of a block";
        let answer =
            self.inner.links.ask(what, |node| async move { node.chain_get_block_hash(Some(number.into())).await });
        let found = answer.await.map_err(|trouble: Trouble| trouble.about_block(what, number))?;
        match found {
            Some(hash) => Ok(hash),
            None => Err(ChainError::Forgotten {
                endpoint: self.inner.links.link().await?.endpoint.clone(),
                block: BlockNumber::new(number),
            }),
        }
    }

    /// The first block of an epoch, if it has begun. Epochs are as long as the tempo says, and it may have
    /// been another in the past: what is computed from the present is checked against the state of that
    /// block, and the search goes on from there.
    async fn first_block(&self, at: &At, epoch: u64) -> Result<Option<u64>, ChainError> {
        let (clock, _) = self.subnet(at).clock().await?;
        let head = clock.head(at.number);
        if epoch > head.epoch.get() {
            return Ok(None);
        }
        let mut begin = (head.epoch.get(), head.epoch_start.get(), clock);
        for _ in 0..STEPS_MAX {
            let (known, start, clock) = begin;
            if known == epoch {
                return Ok(Some(start));
            }
            // Into the middle of the epoch that is looked for, if all were as long as this one.
            let back = (known.abs_diff(epoch)).saturating_mul(clock.length);
            let middle = clock.length / 2;
            let guess = if epoch < known {
                (start + middle).saturating_sub(back)
            } else {
                start.saturating_add(back).saturating_add(middle).min(at.number)
            };
            match self.clock_at(at, guess).await {
                Ok(then) => {
                    let head = then.head(guess);
                    let step = (head.epoch.get(), head.epoch_start.get(), then);
                    if step == begin {
                        break;
                    }
                    begin = step;
                }
                // Where the chain counts by blocks alone, that the tempo was the same is all that had to be
                // asked; the state that is read next decides whether the node remembers enough.
                Err(ChainError::Forgotten { .. }) if clock.kept.is_none() => {
                    tracing::warn!(
                        epoch,
                        "the tempo of that time is forgotten; it is taken to have been the present one"
                    );
                    return Ok(Some(clock.first_block(epoch)));
                }
                Err(error) => return Err(error),
            }
        }
        let why = format!("epoch {epoch} is not found; the tempo was changed, and that epoch never was");
        Err(link::bad_answer(&*self.inner.links.link().await?, "the past", why))
    }

    async fn clock_at(&self, at: &At, number: u64) -> Result<Clock, ChainError> {
        let then = self.state_at(at, number).await?;
        Ok(self.subnet(&then).clock().await?.0)
    }
}

impl Past {
    /// What is known of a hotkey; nothing that was found before the newest fall.
    fn of(&self, hotkey: Hotkey, falls: u64) -> Versions {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        if found.falls < falls {
            *found = Found { falls, versions: HashMap::new() };
        }
        found.versions.get(&hotkey).cloned().unwrap_or_default()
    }

    /// Keeps what a walk found, unless a claim has fallen since it began.
    fn keep(&self, hotkey: Hotkey, versions: &Versions, falls: u64) {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        if found.falls == falls {
            found.versions.insert(hotkey, versions.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use subxt_signer::sr25519::dev;

    use super::*;
    use crate::{
        Chain, Connection, Devnet, Genesis, GenesisHash, NetUid, Network, Node, NodeOptions, Parameters,
        networks::NetworkName,
    };

    #[tokio::test(flavor = "multi_thread")]
    async fn more_versions_than_are_gone_through_are_an_error_and_not_a_shorter_past() {
        let owner = Hotkey::new(dev::ferdie().public_key().0);
        let network = Network { genesis: GenesisHash::new([0xa5; 32]), netuid: NetUid::new(7) };
        let genesis = Genesis { network, owner, validators: vec![], parameters: Parameters::default() };
        let devnet = Devnet::new(&genesis).unwrap();
        for byte in 0..5 {
            devnet.publish_manifests(owner, &[ManifestId::new([byte; 32])]).await.unwrap();
            devnet.step_block();
        }
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let node = Node::start(devnet, listen, NodeOptions::new().unwrap()).await.unwrap();
        let connection = Connection::to(&NetworkName::Url(node.url()), network.netuid);
        let client = Subtensor::connect(connection).await.unwrap();
        let at = client.newest_final().await.unwrap();
        let refused = client.versions_within(&at, owner, 0, 4).await.unwrap_err();
        assert!(matches!(refused, ChainError::TooMuchPast { most: 4, .. }), "{refused}");
        // Five writings, and nothing before them.
        assert_eq!(client.versions_within(&at, owner, 0, 6).await.unwrap().len(), 5);
    }
}
