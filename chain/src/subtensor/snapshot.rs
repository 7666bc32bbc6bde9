//! What the state of one block says, in the words of the trait.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use assay_commitments::{Epoch, Hotkey};
use scale_value::{Primitive, Value, ValueDef};

use super::{
    items::{self, Axon, Bytes32, Registration},
    runtime::Runtime,
    state::{At, Slot},
};
use crate::{
    api::{Hyperparameters, StoredWeights, WeightsForm},
    error::ChainError,
    metagraph::{Metagraph, Neuron},
    record::Record,
    types::{BlockNumber, Coldkey, Head, NetUid, Rao, Uid},
};

/// How a chain counts epochs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Clock {
    pub(super) netuid: NetUid,
    /// Blocks from epoch to epoch.
    pub(super) length: u64,
    /// Epoch and first block where the chain itself keeps them; elsewhere they follow from the block.
    pub(super) kept: Option<Kept>,
}

/// What newer runtimes keep about the running epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) epoch: u64,
    pub(super) first: u64,
    /// The block of the next epoch where the owner has fixed it.
    pub(super) pending: Option<u64>,
}

impl Clock {
    /// Where the chain stands at a block.
    pub(super) fn head(&self, block: u64) -> Head {
        let (epoch, first, next) = if let Some(Kept { epoch, first, pending }) = self.kept {
            let due = first.saturating_add(self.length).max(block.saturating_add(1));
            (epoch, first, pending.filter(|pending| *pending > block).map_or(due, |pending| pending.min(due)))
        } else {
            let epoch = self.epoch_of(block);
            (epoch, self.first_block(epoch), self.first_block(epoch.saturating_add(1)))
        };
        Head {
            block: BlockNumber::new(block),
            epoch: Epoch::new(epoch),
            epoch_start: BlockNumber::new(first),
            next_epoch: BlockNumber::new(next),
        }
    }

    /// The epoch of a block that is not behind the running epoch by arithmetic alone, as runtimes count
    /// that keep no epochs.
    pub(super) fn epoch_of(&self, block: u64) -> u64 {
        block.saturating_add(u64::from(self.netuid.get()) + 1) / self.length
    }

    /// The epoch of a recent block, such as a commit's. Where the chain keeps its epochs, it is counted
    /// back from the running one by the tempo that holds now.
    pub(super) fn epoch_of_recent(&self, block: u64) -> u64 {
        match self.kept {
            None => self.epoch_of(block),
            Some(kept) => kept.epoch.saturating_sub(kept.first.saturating_sub(block).div_ceil(self.length)),
        }
    }

    /// The first block of an epoch, counted the same way as [`Clock::epoch_of`].
    pub(super) fn first_block(&self, epoch: u64) -> u64 {
        epoch.saturating_mul(self.length).saturating_sub(u64::from(self.netuid.get()) + 1)
    }
}

/// Hotkeys that stake is lent to or by, each with its share of 2^64 - 1.
type Relatives = Vec<(u64, Bytes32)>;

/// The state of a block of one subnet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Subnet<'a> {
    pub(super) at: &'a At,
    pub(super) netuid: NetUid,
}

pub(super) fn number(value: impl Into<u128>) -> Value {
    Value::u128(value.into())
}

pub(super) fn account(bytes: &[u8; 32]) -> Value {
    Value::from_bytes(bytes)
}

impl Subnet<'_> {
    fn id(&self) -> Value {
        number(self.netuid.get())
    }

    /// How epochs are counted, and the block's time in milliseconds since 1970.
    pub(super) async fn clock(&self) -> Result<(Clock, u64), ChainError> {
        let mut batch = self.at.batch();
        let exists = batch.ask(items::NETWORKS_ADDED, vec![self.id()])?;
        let tempo = batch.ask(items::TEMPO, vec![self.id()])?;
        let now = batch.ask(items::NOW, vec![])?;
        let epoch = batch.ask_if_there(items::SUBNET_EPOCH_INDEX, vec![self.id()])?;
        let first = batch.ask_if_there(items::LAST_EPOCH_BLOCK, vec![self.id()])?;
        let pending = batch.ask_if_there(items::PENDING_EPOCH_AT, vec![self.id()])?;
        let answers = batch.read().await?;
        if !answers.value(exists)? {
            return Err(ChainError::NoSubnet(self.netuid));
        }
        let tempo = u64::from(answers.value(tempo)?);
        let pending = answers.optional(pending)?.filter(|pending| *pending > 0);
        let kept = answers.optional(epoch)?.zip(answers.optional(first)?);
        if let Some((epoch, first)) = kept {
            let links = &self.at.links;
            links.check_number("the running epoch", epoch).await?;
            links.check_number("the first block of the running epoch", first).await?;
        }
        let kept = kept.map(|(epoch, first)| Kept { epoch, first, pending });
        let length = if kept.is_some() { tempo.max(1) } else { tempo + 1 };
        Ok((Clock { netuid: self.netuid, length, kept }, answers.value(now)?))
    }

    /// The subnet's settings.
    pub(super) async fn hyperparameters(&self) -> Result<Hyperparameters, ChainError> {
        let mut batch = self.at.batch();
        let id = || vec![self.id()];
        let exists = batch.ask(items::NETWORKS_ADDED, id())?;
        let tempo = batch.ask(items::TEMPO, id())?;
        let rate = batch.ask(items::WEIGHTS_SET_RATE_LIMIT, id())?;
        let key = batch.ask(items::WEIGHTS_VERSION_KEY, id())?;
        let least = batch.ask(items::MIN_ALLOWED_WEIGHTS, id())?;
        let limit = batch.ask_if_there(items::MAX_WEIGHTS_LIMIT, id())?;
        let hidden = batch.ask(items::COMMIT_REVEAL_WEIGHTS_ENABLED, id())?;
        let period = batch.ask(items::REVEAL_PERIOD_EPOCHS, id())?;
        let version = batch.ask_if_there(items::COMMIT_REVEAL_WEIGHTS_VERSION, vec![])?;
        let immunity = batch.ask(items::IMMUNITY_PERIOD, id())?;
        let cutoff = batch.ask_if_there(items::ACTIVITY_CUTOFF, id())?;
        let factor = batch.ask_if_there(items::ACTIVITY_CUTOFF_FACTOR_MILLI, id())?;
        let serving = batch.ask(items::SERVING_RATE_LIMIT, id())?;
        let stake = batch.ask(items::STAKE_THRESHOLD, vec![])?;
        let burn = batch.ask(items::BURN, id())?;
        let uids = batch.ask(items::MAX_ALLOWED_UIDS, id())?;
        let validators = batch.ask(items::MAX_ALLOWED_VALIDATORS, id())?;
        let answers = batch.read().await?;
        if !answers.value(exists)? {
            return Err(ChainError::NoSubnet(self.netuid));
        }
        let tempo = answers.value(tempo)?;
        let factor = answers.optional(factor)?.map(|milli| u64::from(milli) * u64::from(tempo) / 1000);
        let cutoff = answers.optional(cutoff)?.map(u64::from);
        let version = answers.optional(version)?;
        Ok(Hyperparameters {
            tempo,
            weights_rate_limit: answers.value(rate)?,
            weights_version_key: answers.value(key)?,
            min_allowed_weights: answers.value(least)?,
            max_weight_limit: answers.optional(limit)?.unwrap_or(u16::MAX),
            weights_form: if answers.value(hidden)? {
                hidden_form(&self.at.runtime, answers.value(period)?, version)?
            } else {
                WeightsForm::Plain
            },
            immunity_period: answers.value(immunity)?,
            activity_cutoff: factor.or(cutoff).unwrap_or(0).max(1),
            serving_rate_limit: answers.value(serving)?,
            stake_threshold: Rao::new(answers.value(stake)?),
            burn: Rao::new(answers.value(burn)?),
            max_allowed_uids: answers.value(uids)?,
            max_allowed_validators: answers.value(validators)?,
        })
    }

    /// Who is on the subnet.
    pub(super) async fn metagraph(&self) -> Result<Metagraph, ChainError> {
        let mut batch = self.at.batch();
        let exists = batch.ask(items::NETWORKS_ADDED, vec![self.id()])?;
        let count = batch.ask(items::SUBNETWORK_N, vec![self.id()])?;
        let owner = batch.ask(items::SUBNET_OWNER_HOTKEY, vec![self.id()])?;
        let permits = batch.ask(items::VALIDATOR_PERMIT, vec![self.id()])?;
        let active = batch.ask(items::ACTIVE, vec![self.id()])?;
        let updates = batch.ask(items::LAST_UPDATE, vec![self.id()])?;
        let tao_weight = batch.ask(items::TAO_WEIGHT, vec![])?;
        let answers = batch.read().await?;
        if !answers.value(exists)? {
            return Err(ChainError::NoSubnet(self.netuid));
        }
        let count = answers.value(count)?;
        let owner = answers.get(owner)?;
        let (permits, active) = (answers.value(permits)?, answers.value(active)?);
        let updates = answers.value(updates)?;
        let tao_weight = answers.value(tao_weight)?;

        let mut batch = self.at.batch();
        let places: Vec<(Slot<Bytes32>, Slot<u64>)> = (0..count)
            .map(|uid| {
                let key = || vec![self.id(), number(uid)];
                Ok((batch.ask(items::KEYS, key())?, batch.ask(items::BLOCK_AT_REGISTRATION, key())?))
            })
            .collect::<Result<_, ChainError>>()?;
        let answers = batch.read().await?;
        let places: Vec<(Bytes32, u64)> = places
            .into_iter()
            .map(|(key, since)| Ok((answers.value(key)?, answers.value(since)?)))
            .collect::<Result<_, ChainError>>()?;

        let hotkeys: Vec<Bytes32> = places.iter().map(|(hotkey, _)| *hotkey).collect();
        let stakes = self.stakes(&hotkeys, tao_weight).await?;
        let mut batch = self.at.batch();
        let held: Vec<(Slot<Bytes32>, Slot<Axon>, Slot<Registration>)> = hotkeys
            .iter()
            .map(|hotkey| {
                let key = || vec![self.id(), account(hotkey)];
                let owner = batch.ask(items::OWNER, vec![account(hotkey)])?;
                Ok((owner, batch.ask(items::AXONS, key())?, batch.ask(items::COMMITMENT_OF, key())?))
            })
            .collect::<Result<_, ChainError>>()?;
        let answers = batch.read().await?;

        let mut neurons = Vec::with_capacity(places.len());
        for (((index, (hotkey, since)), (coldkey, axon, commitment)), stake) in
            places.iter().enumerate().zip(held).zip(stakes)
        {
            let uid = u16::try_from(index).unwrap_or(u16::MAX);
            neurons.push(Neuron {
                uid: Uid::new(uid),
                hotkey: Hotkey::new(*hotkey),
                coldkey: Coldkey::new(answers.value(coldkey)?),
                endpoint: answers.get(axon)?.and_then(|axon| endpoint(&axon)),
                manifest: answers.get(commitment)?.and_then(|registration| record(&registration).serves),
                stake: Rao::new(stake),
                active: active.get(index).copied().unwrap_or(false),
                validator_permit: permits.get(index).copied().unwrap_or(false),
                last_update: BlockNumber::new(updates.get(index).copied().unwrap_or(0)),
                registered_at: BlockNumber::new(*since),
            });
        }
        let burn = neurons.iter().find(|neuron| owner == Some(*neuron.hotkey.as_bytes()));
        // An owner without a place is nobody's uid: nothing can be burnt then.
        let owner = burn.map_or(Uid::new(count), |neuron| neuron.uid);
        Ok(Metagraph { block: BlockNumber::new(self.at.number), owner, neurons })
    }

    /// Stakes as the chain weighs them: what lies on the hotkey in the subnet's own coin, and what lies
    /// on it in TAO times a weight, each without what it lends to child keys and with what parent keys
    /// lend to it.
    pub(super) async fn stakes(&self, hotkeys: &[Bytes32], tao_weight: u64) -> Result<Vec<u64>, ChainError> {
        let mut batch = self.at.batch();
        let families: Vec<_> = hotkeys
            .iter()
            .map(|hotkey| {
                let key = || vec![account(hotkey), self.id()];
                Ok((batch.ask(items::CHILD_KEYS, key())?, batch.ask(items::PARENT_KEYS, key())?))
            })
            .collect::<Result<_, ChainError>>()?;
        let answers = batch.read().await?;
        let families: Vec<(Relatives, Relatives)> = families
            .into_iter()
            .map(|(children, parents)| Ok((answers.value(children)?, answers.value(parents)?)))
            .collect::<Result<_, ChainError>>()?;

        let parents = families.iter().flat_map(|(_, parents)| parents.iter().map(|(_, parent)| *parent));
        let mut accounts: Vec<Bytes32> = hotkeys.iter().copied().chain(parents).collect();
        accounts.sort_unstable();
        accounts.dedup();
        let mut batch = self.at.batch();
        let slots: Vec<_> = accounts
            .iter()
            .map(|hotkey| {
                let own = batch.ask(items::TOTAL_HOTKEY_ALPHA, vec![account(hotkey), self.id()])?;
                Ok((*hotkey, own, batch.ask(items::TOTAL_HOTKEY_ALPHA, vec![account(hotkey), number(0_u16)])?))
            })
            .collect::<Result<_, ChainError>>()?;
        let answers = batch.read().await?;
        let held: HashMap<Bytes32, (u64, u64)> = slots
            .into_iter()
            .map(|(hotkey, own, tao)| Ok((hotkey, (answers.value(own)?, answers.value(tao)?))))
            .collect::<Result<_, ChainError>>()?;

        let of = |hotkey: &Bytes32| held.get(hotkey).copied().unwrap_or_default();
        let weighed = hotkeys.iter().zip(&families).map(|(hotkey, (children, parents))| {
            let (own, tao) = of(hotkey);
            let inherited = |mine: u64, lent: &dyn Fn(&Bytes32) -> u64| {
                let given = children.iter().map(|(share, _)| part(mine, *share));
                let got = parents.iter().map(|(share, parent)| part(lent(parent), *share));
                let left = given.fold(mine, u64::saturating_sub);
                got.fold(left, u64::saturating_add)
            };
            let own = inherited(own, &|parent| of(parent).0);
            let tao = inherited(tao, &|parent| of(parent).1);
            own.saturating_add(part(tao, tao_weight))
        });
        Ok(weighed.collect())
    }

    /// The subnet owner's hotkey.
    pub(super) async fn owner(&self) -> Result<Option<Hotkey>, ChainError> {
        Ok(self.at.read(items::SUBNET_OWNER_HOTKEY, vec![self.id()]).await?.map(Hotkey::new))
    }

    /// The subnet owner's hotkey, and its commitment.
    pub(super) async fn registry(&self) -> Result<(Option<Hotkey>, Option<(u64, Record)>), ChainError> {
        match self.owner().await? {
            Some(owner) => Ok((Some(owner), self.commitment(owner).await?)),
            None => Ok((None, None)),
        }
    }

    /// A hotkey's commitment, and the block it was written in.
    pub(super) async fn commitment(&self, hotkey: Hotkey) -> Result<Option<(u64, Record)>, ChainError> {
        let found = self.at.read(items::COMMITMENT_OF, vec![self.id(), account(hotkey.as_bytes())]).await?;
        Ok(found.map(|registration| (registration.block.into(), record(&registration))))
    }

    /// A hotkey's endpoint as it was published.
    pub(super) async fn axon(&self, hotkey: Hotkey) -> Result<Option<Axon>, ChainError> {
        self.at.read(items::AXONS, vec![self.id(), account(hotkey.as_bytes())]).await
    }

    /// A hotkey's place.
    pub(super) async fn uid(&self, hotkey: Hotkey) -> Result<Option<u16>, ChainError> {
        self.at.read(items::UIDS, vec![self.id(), account(hotkey.as_bytes())]).await
    }

    /// When the holder of a hotkey's place got it.
    pub(super) async fn registered_at(&self, hotkey: Hotkey) -> Result<Option<u64>, ChainError> {
        let Some(uid) = self.uid(hotkey).await? else { return Ok(None) };
        self.at.read(items::BLOCK_AT_REGISTRATION, vec![self.id(), number(uid)]).await
    }

    /// A hotkey's weights and its commits that are not revealed yet.
    ///
    /// # Errors
    /// [`ChainError::NotRegistered`].
    pub(super) async fn weights_of(&self, hotkey: Hotkey) -> Result<StoredWeights, ChainError> {
        let uid = self.uid(hotkey).await?.ok_or(ChainError::NotRegistered(hotkey))?;
        let weights = self.at.read(items::WEIGHTS, vec![self.id(), number(uid)]).await?.unwrap_or_default();
        let mut weights: Vec<(u16, u16)> = weights.into_iter().filter(|(_, value)| *value > 0).collect();
        weights.sort_unstable();
        let running = self.clock().await?.0.head(self.at.number).epoch.get();
        let hashes = self.hash_commits(hotkey).await?.into_iter().map(|(commit, reveals)| (commit.1, reveals));
        let hashes = hashes.filter(|(_, reveals)| *reveals >= running);
        let locked = self.timelocked_commits(hotkey).await?.into_iter().map(|(commit, reveals)| (commit.1, reveals));
        let mut pending: Vec<_> =
            hashes.chain(locked).map(|(block, reveals)| (BlockNumber::new(block), Epoch::new(reveals))).collect();
        pending.sort_unstable();
        Ok(StoredWeights { weights: weights.into_iter().map(|(uid, value)| (Uid::new(uid), value)).collect(), pending })
    }

    /// A hotkey's commits of hashes that stand on chain, each with the epoch in which alone it is revealed. One
    /// whose epoch is over stands until the next is made or revealed.
    pub(super) async fn hash_commits(&self, hotkey: Hotkey) -> Result<Vec<(items::HashCommit, u64)>, ChainError> {
        let (clock, _) = self.clock().await?;
        let mut batch = self.at.batch();
        let period = batch.ask(items::REVEAL_PERIOD_EPOCHS, vec![self.id()])?;
        let commits = batch.ask(items::WEIGHT_COMMITS, vec![self.id(), account(hotkey.as_bytes())])?;
        let answers = batch.read().await?;
        let period = reveal_period(answers.value(period)?);
        let commits = answers.get(commits)?.unwrap_or_default().into_iter();
        Ok(commits.map(|commit| (commit, clock.epoch_of_recent(commit.1).saturating_add(period))).collect())
    }

    /// A hotkey's encrypted commits that are not opened yet, and in which epoch they are.
    pub(super) async fn timelocked_commits(
        &self,
        hotkey: Hotkey,
    ) -> Result<Vec<(items::TimelockedCommit, u64)>, ChainError> {
        if !self.at.runtime.has(items::TIMELOCKED_WEIGHT_COMMITS) {
            return Ok(Vec::new());
        }
        let (clock, _) = self.clock().await?;
        let period = reveal_period(self.at.read(items::REVEAL_PERIOD_EPOCHS, vec![self.id()]).await?.unwrap_or(1));
        let running = clock.head(self.at.number).epoch.get();
        let mut batch = self.at.batch();
        let slots: Vec<_> = (running.saturating_sub(period)..=running)
            .map(|epoch| Ok((epoch, batch.ask(items::TIMELOCKED_WEIGHT_COMMITS, vec![self.id(), number(epoch)])?)))
            .collect::<Result<_, ChainError>>()?;
        let answers = batch.read().await?;
        let mut found = Vec::new();
        for (epoch, slot) in slots {
            let commits = answers.get(slot)?.unwrap_or_default().into_iter();
            found
                .extend(commits.filter(|commit| commit.0 == *hotkey.as_bytes()).map(|commit| (commit, epoch + period)));
        }
        Ok(found)
    }
}

/// Epochs from commit to reveal, within the chain's own bounds whatever a node says.
fn reveal_period(said: u64) -> u64 {
    said.clamp(1, 100)
}

/// How weights are hidden: encrypted to the beacon where the runtime has that and names a version of it,
/// as a hash elsewhere.
fn hidden_form(runtime: &Runtime, period: u64, version: Option<u16>) -> Result<WeightsForm, ChainError> {
    let period = reveal_period(period);
    let timelocked = runtime.check_call(items::COMMIT_TIMELOCKED_WEIGHTS);
    match version.filter(|version| *version > 0) {
        Some(version) if timelocked.is_ok() => Ok(WeightsForm::Timelocked { period, version }),
        _ => {
            runtime.check_call(items::COMMIT_WEIGHTS)?;
            runtime.check_call(items::REVEAL_WEIGHTS)?;
            Ok(WeightsForm::CommitReveal { period })
        }
    }
}

/// A share, of 2^64 - 1, of an amount.
fn part(amount: u64, share: u64) -> u64 {
    u64::try_from(u128::from(amount) * u128::from(share) / u128::from(u64::MAX)).unwrap_or(u64::MAX)
}

/// Where an axon says it is. Address 0 withdraws it.
pub(super) fn endpoint(axon: &Axon) -> Option<SocketAddr> {
    if axon.ip == 0 || axon.port == 0 {
        return None;
    }
    let ip = match axon.ip_type {
        4 => IpAddr::V4(Ipv4Addr::from(u32::try_from(axon.ip).ok()?)),
        6 => IpAddr::V6(Ipv6Addr::from(axon.ip)),
        _ => return None,
    };
    Some(SocketAddr::new(ip, axon.port))
}

/// What a commitment holds of ours.
pub(super) fn record(registration: &Registration) -> Record {
    let fields: Vec<Vec<u8>> = registration.info.fields.iter().filter_map(raw_bytes).collect();
    Record::read(fields.iter().map(Vec::as_slice))
}

/// The bytes of a field `Raw0` to `Raw128`.
fn raw_bytes(field: &Value<()>) -> Option<Vec<u8>> {
    let ValueDef::Variant(variant) = &field.value else { return None };
    if !variant.name.starts_with("Raw") {
        return None;
    }
    let mut bytes = Vec::new();
    variant.values.values().try_for_each(|value| collect_bytes(value, &mut bytes))?;
    Some(bytes)
}

fn collect_bytes(value: &Value<()>, bytes: &mut Vec<u8>) -> Option<()> {
    match &value.value {
        ValueDef::Composite(parts) => parts.values().try_for_each(|part| collect_bytes(part, bytes)),
        ValueDef::Primitive(Primitive::U128(byte)) => {
            bytes.push(u8::try_from(*byte).ok()?);
            Some(())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absurd_numbers_of_a_node_leave_a_head_that_is_in_order() {
        let numbers = [0, 1, 1 << 48, u64::MAX - 1, u64::MAX];
        for length in [1, 65_536] {
            for (block, other) in numbers.iter().flat_map(|block| numbers.map(|other| (*block, other))) {
                let kept = Kept { epoch: other, first: other, pending: Some(other) };
                for kept in [None, Some(kept)] {
                    let clock = Clock { netuid: NetUid::new(u16::MAX), length, kept };
                    let head = clock.head(block);
                    assert_eq!(head.block.get(), block);
                    // Further than a chain can get, where sums end, it is enough that nothing wraps round.
                    assert!(head.next_epoch.get() > block || block > 1 << 48, "{head:?}");
                    assert!(head.epoch_start <= head.next_epoch, "{head:?}");
                    assert!(clock.epoch_of_recent(other) <= clock.epoch_of_recent(u64::MAX));
                }
            }
        }
    }
}
