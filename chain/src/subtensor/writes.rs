//! What is written, each checked before it is submitted and read back when it is final.

use std::{net::SocketAddr, time::Duration};

use assay_commitments::{Epoch, Hotkey, ManifestId};
use parity_scale_codec::Encode;
use sp_crypto_hashing::blake2_256;
use tokio::time::timeout;

use super::{
    Subtensor, Want, calls,
    follow::Tip,
    items,
    journal::Commit,
    refusal::{self, Facts},
    runtime::Call,
    snapshot,
    state::At,
    submit::{Desk, End, Refused, STALL, Signer, TRIES},
    timelock,
};
use crate::{
    api::{Hyperparameters, Placement, WeightsForm},
    error::ChainError,
    record::{self, Record},
    types::{BlockNumber, EpochKey, EpochKeyHash, EpochKeyRecord, NetUid, Rao, RequestsDigest, Uid},
    weights::{self, Plan, Situation},
};

/// Between two tries of one call; the pool may need a moment, and a nonce a block.
const PAUSE: Duration = Duration::from_secs(2);
/// What a commitment counts for at least, in bytes.
const COMMITMENT_BYTES_MIN: u64 = 100;
/// Numbers that a hash commit is salted with: 128 bits.
const SALT: usize = 8;
/// Between two blocks, where the runtime does not say.
const BLOCK_MS: u64 = 12_000;

/// A change of one part of a hotkey's record, which leaves the others alone.
#[derive(Clone, Copy, Debug)]
enum Change<'a> {
    Manifests(&'a [ManifestId]),
    Serves(ManifestId),
    KeyHash(Epoch, EpochKeyHash),
    Key(Epoch, EpochKey, RequestsDigest),
}

/// What a call brings about, to be looked for on chain.
#[derive(Clone, Copy, Debug)]
enum Effect<'a> {
    Endpoint(SocketAddr),
    /// A record in which this would change nothing any more.
    Change(Change<'a>),
    /// Weights that count, set in this block or behind it.
    Weights(&'a [(Uid, u16)], u64),
    Commit(&'a Commit),
    /// The commit of this hash is gone, and its weights count.
    Revealed([u8; 32], &'a [(Uid, u16)]),
}

/// What explains a refusal beside what stands on chain.
#[derive(Clone, Copy, Debug, Default)]
struct Attempt {
    endpoint: Option<SocketAddr>,
    version_key: u64,
    /// The epoch of the commit that is revealed, and of its reveal.
    commit: Option<(u64, u64)>,
}

impl Subtensor {
    pub(super) async fn write_endpoint(&self, hotkey: Hotkey, endpoint: SocketAddr) -> Result<(), ChainError> {
        let signer = self.signer(hotkey)?;
        let _turn = signer.turn.lock().await;
        if endpoint.port() == 0 {
            return Err(ChainError::ZeroPort);
        }
        let effect = Effect::Endpoint(endpoint);
        if self.settled(effect, hotkey).await?.is_some() {
            return Ok(());
        }
        let at = self.newest().await?;
        let subnet = self.subnet(&at);
        subnet.uid(hotkey).await?.ok_or(ChainError::NotRegistered(hotkey))?;
        if let Some(axon) = subnet.axon(hotkey).await? {
            let next = axon.block.saturating_add(subnet.hyperparameters().await?.serving_rate_limit);
            if axon.block > 0 && at.number + 1 < next {
                return Err(ChainError::ServingTooFast { next: BlockNumber::new(next) });
            }
        }
        let call = calls::serve_axon(self.inner.network.netuid, endpoint);
        let attempt = Attempt { endpoint: Some(endpoint), ..Attempt::default() };
        self.perform(signer, &call, effect, attempt).await.map(drop)
    }

    pub(super) async fn write_manifests(&self, hotkey: Hotkey, manifests: &[ManifestId]) -> Result<(), ChainError> {
        self.edit(hotkey, Change::Manifests(manifests)).await
    }

    pub(super) async fn write_manifest(&self, hotkey: Hotkey, manifest: ManifestId) -> Result<(), ChainError> {
        self.edit(hotkey, Change::Serves(manifest)).await
    }

    pub(super) async fn write_key_hash(
        &self,
        hotkey: Hotkey,
        epoch: Epoch,
        hash: EpochKeyHash,
    ) -> Result<(), ChainError> {
        self.edit(hotkey, Change::KeyHash(epoch, hash)).await
    }

    pub(super) async fn write_key(
        &self,
        hotkey: Hotkey,
        (epoch, key, requests): (Epoch, EpochKey, RequestsDigest),
    ) -> Result<(), ChainError> {
        self.edit(hotkey, Change::Key(epoch, key, requests)).await
    }

    /// Changes a hotkey's record until a final block shows the change. Each try changes what stands then: the
    /// signer's turn keeps two changes of this process apart, and another process may have written since.
    async fn edit(&self, hotkey: Hotkey, change: Change<'_>) -> Result<(), ChainError> {
        let signer = self.signer(hotkey)?;
        let _turn = signer.turn.lock().await;
        let (effect, call) = (Effect::Change(change), items::SET_COMMITMENT.name);
        let begun = self.inner.follower.tip().await?.number;
        for turn in 0..TRIES {
            if turn > 0 {
                tokio::time::sleep(PAUSE).await;
            }
            if self.settled(effect, hotkey).await?.is_some() {
                return Ok(());
            }
            let at = self.newest().await?;
            let Some(record) = self.changed(&at, hotkey, change).await? else { continue };
            let fields = record.fields()?;
            self.check_space(&at, hotkey, &fields).await?;
            let call = calls::set_commitment(self.inner.network.netuid, &fields);
            match self.make(signer, &call, effect, Attempt::default()).await {
                Ok(Some(_)) => return Ok(()),
                Ok(None) => {}
                // Somebody has written over it in the same block.
                Err(ChainError::ReadBack { .. }) if turn + 1 < TRIES => {}
                Err(error) => return Err(error),
            }
        }
        Err(self.unconfirmed(call, begun).await)
    }

    /// What a change makes of a hotkey's record, unless nothing.
    async fn changed(&self, at: &At, hotkey: Hotkey, change: Change<'_>) -> Result<Option<Record>, ChainError> {
        let subnet = self.subnet(at);
        if let Change::Manifests(_) = change {
            record::check_owner(hotkey, subnet.owner().await?)?;
        }
        subnet.uid(hotkey).await?.ok_or(ChainError::NotRegistered(hotkey))?;
        let standing = subnet.commitment(hotkey).await?.map(|(_, record)| record).unwrap_or_default();
        let mut record = standing.clone();
        match change {
            Change::Manifests(manifests) => record.put_in_force(manifests)?,
            Change::Serves(manifest) => record.serves = Some(manifest),
            Change::KeyHash(epoch, hash) => {
                // The record holds the newest hash alone; the first one of an epoch stands, whatever came behind it.
                if standing.published.is_some_and(|(of, _)| of > epoch) {
                    match self.epoch_key_at(at, hotkey, epoch).await? {
                        Some(known) if known.hash == hash => return Ok(None),
                        Some(_) => return Err(ChainError::KeyAlreadyPublished(epoch)),
                        None => {}
                    }
                }
                let running = subnet.clock().await?.0.head(at.number + 1).epoch;
                record.publish_key(running, epoch, hash)?;
            }
            Change::Key(epoch, key, requests) => {
                let known = match self.epoch_key_at(at, hotkey, epoch).await {
                    // What was published lies further back than this node remembers. A key that comes with no
                    // hash convinces nobody, so it does no harm to reveal it, and not to reveal it would.
                    Err(ChainError::Forgotten { .. }) => self.published_last(at, hotkey, epoch).await?,
                    known => known?,
                };
                let running = subnet.clock().await?.0.head(at.number).epoch;
                record.reveal_key(running, known, (epoch, key, requests))?;
            }
        }
        Ok((record != standing).then_some(record))
    }

    /// What the newest record says of an epoch's key, for nodes that remember no older one.
    async fn published_last(
        &self,
        at: &At,
        hotkey: Hotkey,
        epoch: Epoch,
    ) -> Result<Option<EpochKeyRecord>, ChainError> {
        let Some((block, record)) = self.subnet(at).commitment(hotkey).await? else { return Ok(None) };
        let published_at = BlockNumber::new(block);
        let revealed = record.revealed.filter(|(of, ..)| *of == epoch);
        let hash = record.published.map_or(EpochKeyHash::new([0; 32]), |(_, hash)| hash);
        let (key, requests) = (revealed.map(|(_, key, _)| key), revealed.map(|(.., requests)| requests));
        Ok(Some(EpochKeyRecord { hash, published_at, key, requests }))
    }

    /// Whether a commitment fits into what the hotkey may still write in this epoch.
    async fn check_space(&self, at: &At, hotkey: Hotkey, fields: &[Vec<u8>]) -> Result<(), ChainError> {
        let subnet = self.subnet(at);
        let head = subnet.clock().await?.0.head(at.number + 1);
        let mut batch = at.batch();
        let most = batch.ask(items::MAX_SPACE, vec![])?;
        let key = vec![snapshot::number(self.inner.network.netuid.get()), snapshot::account(hotkey.as_bytes())];
        let used = batch.ask(items::USED_SPACE_OF, key)?;
        let answers = batch.read().await?;
        let used = answers.get(used)?.filter(|used| used.last_epoch == head.epoch.get());
        let bytes: u64 = fields.iter().map(|field| field.len() as u64).sum();
        let wanted = used.map_or(0, |used| used.used_space).saturating_add(bytes.max(COMMITMENT_BYTES_MIN));
        if wanted <= answers.value(most)?.into() {
            return Ok(());
        }
        Err(ChainError::CommitmentSpace { hotkey, next: head.next_epoch })
    }

    pub(super) async fn write_weights(
        &self,
        hotkey: Hotkey,
        given: &[(Uid, u16)],
        version_key: u64,
    ) -> Result<Placement, ChainError> {
        let signer = self.signer(hotkey)?;
        let _turn = signer.turn.lock().await;
        if let Some(block) = self.standing(hotkey, given, version_key).await? {
            return Ok(Placement::Standing { block });
        }
        let at = self.newest().await?;
        let plan = self.plan(&at, hotkey, given, version_key).await?;
        let placed = match plan.form {
            WeightsForm::Plain => self.set_plain(signer, &at, &plan).await,
            WeightsForm::CommitReveal { period } => self.commit_hash(signer, &at, &plan, period).await,
            WeightsForm::Timelocked { period, version } => {
                self.commit_timelocked(signer, &at, &plan, period, version).await
            }
        };
        match placed {
            // The chain knows better than what was read a moment ago; say what it would say now.
            Err(error @ ChainError::Refused { .. }) => {
                let at = self.newest().await?;
                self.plan(&at, hotkey, given, version_key).await.and(Err(error))
            }
            placed => placed,
        }
    }

    async fn plan(&self, at: &At, hotkey: Hotkey, given: &[(Uid, u16)], version_key: u64) -> Result<Plan, ChainError> {
        let subnet = self.subnet(at);
        let (settings, metagraph) = (subnet.hyperparameters().await?, subnet.metagraph().await?);
        let open_commits = match settings.weights_form {
            WeightsForm::Plain => 0,
            _ if metagraph.neuron(&hotkey).is_none() => 0,
            _ => subnet.weights_of(hotkey).await?.pending.len(),
        };
        let block = BlockNumber::new(at.number + 1);
        let situation = Situation { settings: &settings, metagraph: &metagraph, block, open_commits };
        weights::plan(&situation, hotkey, given, version_key)
    }

    /// The block in which these weights were set, or committed, in this epoch already.
    async fn standing(
        &self,
        hotkey: Hotkey,
        given: &[(Uid, u16)],
        version_key: u64,
    ) -> Result<Option<BlockNumber>, ChainError> {
        let at = self.newest().await?;
        let subnet = self.subnet(&at);
        if subnet.uid(hotkey).await?.is_none() {
            return Ok(None);
        }
        // An update in block 0 stands for "never".
        let since = subnet.clock().await?.0.head(at.number).epoch_start.get().max(1);
        let wanted = weights::rescale(given);
        if subnet.hyperparameters().await?.weights_form == WeightsForm::Plain {
            return self.settled(Effect::Weights(&wanted, since), hotkey).await;
        }
        for commit in self.inner.journal.of(self.inner.network, hotkey) {
            let weights: Vec<_> = commit.weights().into_iter().filter(|(_, value)| *value > 0).collect();
            if commit.version_key != version_key || weights != wanted {
                continue;
            }
            let block = self.settled(Effect::Commit(&commit), hotkey).await?;
            if let Some(block) = block.filter(|block| block.get() >= since) {
                return Ok(Some(block));
            }
        }
        Ok(None)
    }

    /// The block that holds a commit which was written down.
    async fn committed_at(&self, at: &At, hotkey: Hotkey, commit: &Commit) -> Result<Option<u64>, ChainError> {
        let subnet = self.subnet(at);
        if commit.salt.is_some() {
            let open = subnet.hash_commits(hotkey).await?;
            return Ok(open.iter().find(|((hash, ..), _)| commit.is_of(hash)).map(|((_, block, ..), _)| *block));
        }
        let open = subnet.timelocked_commits(hotkey).await?;
        let found = open.iter().find(|((_, _, bytes, _), _)| commit.is_of(&blake2_256(bytes)));
        Ok(found.map(|((_, block, ..), _)| *block))
    }

    async fn set_plain(&self, signer: &Signer, at: &At, plan: &Plan) -> Result<Placement, ChainError> {
        let call = calls::set_weights(self.inner.network.netuid, &plan.weights, plan.version_key);
        let wanted = plan.effect();
        let attempt = Attempt { version_key: plan.version_key, ..Attempt::default() };
        let block = self.perform(signer, &call, Effect::Weights(&wanted, at.number), attempt).await?;
        Ok(Placement::Set { block })
    }

    async fn commit_hash(&self, signer: &Signer, at: &At, plan: &Plan, period: u64) -> Result<Placement, ChainError> {
        let (hotkey, network) = (signer.hotkey(), self.inner.network);
        let epoch = self.subnet(at).clock().await?.0.head(at.number + 1).epoch.get();
        let noted = self.inner.journal.of(network, hotkey).into_iter().rev();
        let mut same = noted.filter(|commit| {
            (commit.epoch, commit.version_key) == (epoch, plan.version_key) && commit.weights() == plan.weights
        });
        // One whose answer was lost is made again as it was, so that there is one hash to reveal.
        let salt = match same.find_map(|commit| commit.salt) {
            Some(salt) => salt,
            None => salt()?,
        };
        let hash = weights_hash(hotkey, network.netuid, &plan.weights, &salt, plan.version_key);
        let epochs = (epoch, epoch + period);
        let commit = Commit::new(network, hotkey, epochs, &plan.weights, plan.version_key, Some(salt), hash);
        if !self.inner.journal.of(network, hotkey).iter().any(|commit| commit.is_of(&hash)) {
            self.inner.journal.add(commit.clone())?;
        }
        let call = calls::commit_weights(network.netuid, &hash);
        let attempt = Attempt { version_key: plan.version_key, ..Attempt::default() };
        let block = self.perform(signer, &call, Effect::Commit(&commit), attempt).await?;
        self.committed(block, period).await
    }

    async fn commit_timelocked(
        &self,
        signer: &Signer,
        at: &At,
        plan: &Plan,
        period: u64,
        version: u16,
    ) -> Result<Placement, ChainError> {
        let (hotkey, network) = (signer.hotkey(), self.inner.network);
        let (clock, now_ms) = self.subnet(at).clock().await?;
        let beacon = at.read(items::BEACON_CONFIG, vec![]).await?;
        let beacon = beacon.ok_or_else(|| at.runtime.incompatible("Drand.BeaconConfig".to_owned()))?;
        // A slot is twice the least time between two blocks.
        let block_ms =
            at.runtime.constant("Timestamp", "MinimumPeriod").map_or(BLOCK_MS, |half| half.saturating_mul(2));
        let round = timelock::round(&beacon, &clock, at.number, period, now_ms, block_ms);
        let sealed = timelock::encrypt(hotkey, &plan.weights, plan.version_key, round, &beacon.public_key);
        let sealed = sealed.map_err(|why| at.runtime.incompatible(format!("Drand.BeaconConfig ({why})")))?;
        if sealed.len() > timelock::COMMIT_BYTES_MAX {
            let name = format!("{} bytes of commit, of {} at most", sealed.len(), timelock::COMMIT_BYTES_MAX);
            let call = items::COMMIT_TIMELOCKED_WEIGHTS.name;
            return Err(ChainError::Refused { call, name, advice: "set fewer weights" });
        }
        let digest = blake2_256(&sealed);
        let epoch = clock.head(at.number + 1).epoch.get();
        let epochs = (epoch, epoch + period);
        self.forget(hotkey).await?;
        let commit = Commit::new(network, hotkey, epochs, &plan.weights, plan.version_key, None, digest);
        self.inner.journal.add(commit.clone())?;
        let call = calls::commit_timelocked_weights(network.netuid, &sealed, round, version);
        let attempt = Attempt { version_key: plan.version_key, ..Attempt::default() };
        let block = self.perform(signer, &call, Effect::Commit(&commit), attempt).await?;
        self.committed(block, period).await
    }

    async fn committed(&self, block: BlockNumber, period: u64) -> Result<Placement, ChainError> {
        let at = self.newest_final().await?;
        let (clock, _) = self.subnet(&at).clock().await?;
        let epoch = clock.epoch_of_recent(block.get());
        Ok(Placement::Committed { block, reveals: Epoch::new(epoch + period) })
    }

    pub(super) async fn write_reveals(&self, hotkey: Hotkey) -> Result<usize, ChainError> {
        let signer = self.signer(hotkey)?;
        let _turn = signer.turn.lock().await;
        let network = self.inner.network;
        let mut at = self.newest().await?;
        let mut due = self.due(&at, hotkey).await?;
        // What was revealed in a block that is not final may be taken back with it.
        let settled = self.due(&self.newest_final().await?, hotkey).await?;
        if settled.iter().any(|commit| !due.contains(commit)) {
            self.catch_up(at.number).await?;
            at = self.newest().await?;
            due = self.due(&at, hotkey).await?;
        }
        let (clock, _) = self.subnet(&at).clock().await?;
        let (mut revealed, mut refused) = (0, None);
        for ((hash, block, ..), reveals) in due {
            let noted = self.inner.journal.of(network, hotkey).into_iter().find(|commit| commit.is_of(&hash));
            let Some((commit, salt)) = noted.and_then(|commit| commit.salt.clone().map(|salt| (commit, salt))) else {
                tracing::error!(%hotkey, block, "weights were committed elsewhere, or their journal is lost; they cannot be revealed here");
                continue;
            };
            let weights = commit.weights();
            let call = calls::reveal_weights(network.netuid, &weights, &salt, commit.version_key);
            let counts: Vec<_> = weights.into_iter().filter(|(_, value)| *value > 0).collect();
            let epoch = clock.epoch_of_recent(block);
            let attempt =
                Attempt { version_key: commit.version_key, commit: Some((epoch, reveals)), ..Attempt::default() };
            match self.perform(signer, &call, Effect::Revealed(hash, &counts), attempt).await {
                Ok(_) => revealed += 1,
                Err(error) if error.is_passing() || error.needs_operator() => return Err(error),
                // The next one is due all the same.
                Err(error) => refused = refused.or(Some(error)),
            }
        }
        self.forget(hotkey).await?;
        refused.map_or(Ok(revealed), Err)
    }

    /// A hotkey's commits of hashes that are revealed in the running epoch, oldest first.
    async fn due(&self, at: &At, hotkey: Hotkey) -> Result<Vec<(items::HashCommit, u64)>, ChainError> {
        let running = self.subnet(at).clock().await?.0.head(at.number + 1).epoch.get();
        let mut due = self.subnet(at).hash_commits(hotkey).await?;
        due.retain(|(_, reveals)| *reveals == running);
        due.sort_unstable_by_key(|((_, block, ..), _)| *block);
        Ok(due)
    }

    /// Strikes commits out of the journal whose reveal is over. What is still on chain is kept, whatever the
    /// journal says of its epoch: the subnet's owner may lengthen the time until the reveal.
    async fn forget(&self, hotkey: Hotkey) -> Result<(), ChainError> {
        let at = self.newest_final().await?;
        let running = self.subnet(&at).clock().await?.0.head(at.number).epoch.get();
        let open = self.subnet(&at).hash_commits(hotkey).await?;
        self.inner.journal.retain(self.inner.network, hotkey, |commit| {
            // A commit may have come an epoch later than it was meant for.
            commit.reveals.saturating_add(1) >= running || open.iter().any(|((hash, ..), _)| commit.is_of(hash))
        })
    }

    /// Makes a call until it has its effect, and reads that back. The block that it stands in.
    async fn perform(
        &self,
        signer: &Signer,
        call: &Call,
        effect: Effect<'_>,
        attempt: Attempt,
    ) -> Result<BlockNumber, ChainError> {
        let begun = self.inner.follower.tip().await?.number;
        for turn in 0..TRIES {
            if turn > 0 {
                tokio::time::sleep(PAUSE).await;
                // An earlier try may have come through after all.
                let at = self.newest_final().await?;
                if let Some(block) = self.stands(effect, &at, signer.hotkey()).await? {
                    return Ok(block);
                }
            }
            if let Some(block) = self.make(signer, call, effect, attempt).await? {
                return Ok(block);
            }
        }
        Err(self.unconfirmed(call.form.name, begun).await)
    }

    /// Makes a call once, and reads its effect back. The block that it stands in; none if it is on chain
    /// nowhere and not coming any more.
    async fn make(
        &self,
        signer: &Signer,
        call: &Call,
        effect: Effect<'_>,
        attempt: Attempt,
    ) -> Result<Option<BlockNumber>, ChainError> {
        let (hotkey, name) = (signer.hotkey(), call.form.name);
        let desk =
            Desk { links: &self.inner.links, follower: &self.inner.follower, genesis: self.inner.network.genesis };
        match desk.submit(signer, call).await {
            Ok(End::Included(block)) => self.read_back(name, effect, hotkey, block).await.map(Some),
            Ok(End::Never(reason)) => {
                tracing::info!(call = name, %hotkey, reason, "not on chain and not coming any more");
                Ok(None)
            }
            Err(Refused::Chain(error)) => Err(error),
            Err(refused) => Err(self.explain(&refused, name, hotkey, attempt).await),
        }
    }

    /// What is known of a call whose tries are used up.
    async fn unconfirmed(&self, call: &'static str, begun: u64) -> ChainError {
        match self.inner.follower.tip().await {
            Ok(tip) => ChainError::Unconfirmed { call, blocks: tip.number.saturating_sub(begun) },
            Err(error) => error,
        }
    }

    async fn read_back(
        &self,
        call: &'static str,
        effect: Effect<'_>,
        hotkey: Hotkey,
        block: Tip,
    ) -> Result<BlockNumber, ChainError> {
        self.catch_up(block.number).await?;
        let at = At::new(&self.inner.links, block.number, block.hash).await?;
        if self.stands(effect, &at, hotkey).await?.is_some() {
            return Ok(BlockNumber::new(block.number));
        }
        let what = match effect {
            Effect::Endpoint(_) => format!("the axon {:?}", self.subnet(&at).axon(hotkey).await?),
            Effect::Change(_) => format!("the commitment {:?}", self.subnet(&at).commitment(hotkey).await?),
            Effect::Weights(..) | Effect::Revealed(..) => {
                format!("the weights {:?}", self.subnet(&at).weights_of(hotkey).await?.weights)
            }
            Effect::Commit(_) => "no such commit".to_owned(),
        };
        Err(ChainError::ReadBack { call, what })
    }

    /// Waits until the final block that is known here is not behind another one, so that what is read next
    /// shows it.
    async fn catch_up(&self, number: u64) -> Result<(), ChainError> {
        self.catch_up_within(number, STALL).await
    }

    async fn catch_up_within(&self, number: u64, most: Duration) -> Result<(), ChainError> {
        let follower = &self.inner.follower;
        if follower.tip().await?.number < number {
            tracing::info!("waiting until block {number} is final");
        }
        if let Ok(reached) = timeout(most, follower.wait_for(|tip| tip.number >= number)).await {
            return reached.map(drop);
        }
        let seen = self.seen(Want::Clock).await?;
        Err(self.inner.links.link().await?.behind(seen.tip.number, seen.now_ms))
    }

    /// The block in which a call has had its effect, as a final block shows it. What the newest one shows may
    /// be taken back with it, so the final one of its number is waited for.
    async fn settled(&self, effect: Effect<'_>, hotkey: Hotkey) -> Result<Option<BlockNumber>, ChainError> {
        let newest = self.newest().await?;
        if self.stands(effect, &newest, hotkey).await?.is_none() {
            return Ok(None);
        }
        // Where it does not stand yet, a change may even be refused: its epoch can be one too far.
        if let Ok(Some(block)) = self.stands(effect, &self.newest_final().await?, hotkey).await {
            return Ok(Some(block));
        }
        self.catch_up(newest.number).await?;
        self.stands(effect, &self.newest_final().await?, hotkey).await
    }

    /// The block in which a call has had its effect; where the chain does not keep that, the one that shows
    /// it.
    async fn stands(&self, effect: Effect<'_>, at: &At, hotkey: Hotkey) -> Result<Option<BlockNumber>, ChainError> {
        let subnet = self.subnet(at);
        let block = match effect {
            Effect::Endpoint(endpoint) => {
                let (ip, ip_type) = calls::address(endpoint.ip());
                let axon = subnet.axon(hotkey).await?;
                let same = axon.filter(|axon| (axon.ip, axon.ip_type, axon.port) == (ip, ip_type, endpoint.port()));
                same.map(|axon| axon.block)
            }
            Effect::Change(change) => self.changed(at, hotkey, change).await?.is_none().then_some(at.number),
            Effect::Weights(wanted, since) => {
                let Some(uid) = subnet.uid(hotkey).await? else { return Ok(None) };
                let id = snapshot::number(self.inner.network.netuid.get());
                let updates = at.read(items::LAST_UPDATE, vec![id]).await?.unwrap_or_default();
                let last = updates.get(usize::from(uid)).copied().unwrap_or(0);
                (last >= since && subnet.weights_of(hotkey).await?.weights == wanted).then_some(last)
            }
            Effect::Commit(commit) => self.committed_at(at, hotkey, commit).await?,
            Effect::Revealed(hash, wanted) => {
                let waits = subnet.hash_commits(hotkey).await?.iter().any(|((found, ..), _)| *found == hash);
                (!waits && subnet.weights_of(hotkey).await?.weights == wanted).then_some(at.number)
            }
        };
        Ok(block.map(BlockNumber::new))
    }

    /// A refusal in our words, with the figures that the chain has now.
    async fn explain(&self, refused: &Refused, call: &'static str, hotkey: Hotkey, attempt: Attempt) -> ChainError {
        let facts = match self.facts(hotkey, attempt).await {
            Ok(facts) => facts,
            Err(error) => return error,
        };
        match refused {
            Refused::Custom(code) => refusal::of_custom(*code, call, &facts),
            Refused::Named(name) => refusal::of_name(name, call, &facts),
            Refused::NoFees => ChainError::BalanceTooLow(hotkey),
            Refused::Chain(error) => error.clone(),
        }
    }

    async fn facts(&self, hotkey: Hotkey, attempt: Attempt) -> Result<Facts, ChainError> {
        let at = self.newest().await?;
        let subnet = self.subnet(&at);
        let head = subnet.clock().await?.0.head(at.number);
        let settings: Hyperparameters = subnet.hyperparameters().await?;
        let neuron = subnet.metagraph().await?.neuron(&hotkey).cloned();
        let axon = subnet.axon(hotkey).await?;
        let open_commits = if neuron.is_some() { subnet.weights_of(hotkey).await?.pending.len() } else { 0 };
        let last = neuron.as_ref().map_or(0, |neuron| neuron.last_update.get());
        Ok(Facts {
            hotkey,
            netuid: self.inner.network.netuid,
            ip: attempt.endpoint.map(|endpoint| endpoint.ip()),
            weights_next: BlockNumber::new(last.saturating_add(settings.weights_rate_limit)),
            serving_next: BlockNumber::new(
                axon.map_or(0, |axon| axon.block).saturating_add(settings.serving_rate_limit),
            ),
            epoch_next: head.next_epoch,
            stake: neuron.map_or(Rao::new(0), |neuron| neuron.stake),
            stake_least: settings.stake_threshold,
            version_key: (attempt.version_key, settings.weights_version_key),
            open_commits,
            running: head.epoch,
            commit: attempt.commit.map(|(epoch, reveals)| (Epoch::new(epoch), Epoch::new(reveals))),
        })
    }
}

/// Random numbers that hide weights until they are revealed.
fn salt() -> Result<Vec<u16>, ChainError> {
    let mut bytes = [0; 2 * SALT];
    getrandom::fill(&mut bytes).map_err(|error| ChainError::Journal {
        path: "the salt of a commit".to_owned(),
        why: format!("this machine has no randomness: {error}"),
    })?;
    Ok(bytes.as_chunks().0.iter().map(|pair| u16::from_le_bytes(*pair)).collect())
}

/// The hash that commits to weights: BLAKE2b-256 of the SCALE encoding of the author, the subnet (whose
/// first mechanism has its own number), uids, values, salt and version key.
pub(super) fn weights_hash(
    author: Hotkey,
    netuid: NetUid,
    weights: &[(Uid, u16)],
    salt: &[u16],
    version_key: u64,
) -> [u8; 32] {
    let (uids, values): (Vec<u16>, Vec<u16>) = weights.iter().map(|(uid, value)| (uid.get(), *value)).unzip();
    blake2_256(&(author.as_bytes(), netuid.get(), uids, values, salt, version_key).encode())
}

#[cfg(test)]
mod tests {
    use subxt_signer::sr25519::dev;

    use super::*;
    use crate::{
        Chain, Connection, Devnet, Genesis, GenesisHash, Network, Node, NodeOptions, Parameters, networks::NetworkName,
    };

    #[tokio::test(flavor = "multi_thread")]
    async fn a_block_that_does_not_become_final_is_told_by_the_one_that_is() {
        let owner = Hotkey::new(dev::ferdie().public_key().0);
        let network = Network { genesis: GenesisHash::new([0xa5; 32]), netuid: NetUid::new(7) };
        let genesis = Genesis { network, owner, validators: vec![], parameters: Parameters::default() };
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let node = Node::start(Devnet::new(&genesis).unwrap(), listen, NodeOptions::new().unwrap()).await.unwrap();
        let newest = node.step(3).unwrap();
        let connection = Connection::to(&NetworkName::Url(node.url()), network.netuid);
        let client = Subtensor::connect(connection).await.unwrap();
        assert_eq!(client.head().await.unwrap().block, newest);
        client.catch_up_within(newest.get(), Duration::from_millis(100)).await.unwrap();
        let refused = client.catch_up_within(newest.get() + 5, Duration::from_millis(100)).await.unwrap_err();
        let ChainError::Behind { endpoint, block, .. } = refused else { panic!("{refused}") };
        assert_eq!((endpoint, block), (node.url(), newest));
    }
}
