//! One epoch: keys, sessions, standings, weights.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use assay_audit::epoch_log::{Ending as LogEnding, EpochLog};
use assay_audit::keys::Keypair;
use assay_audit::policy::Policy;
use assay_audit::request::{AuditRate, Network};
use assay_audit::verdict::{OwnFault, Verdict};
use assay_chain::{BlockNumber, Chain, EpochKey, EpochKeyHash, Head, Metagraph, RequestsDigest};
use assay_commitments::{Epoch, Hotkey, ManifestId};
use assay_probation::{Ledger, Outcome};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::address::is_public;
use crate::consequence::{Consequence, Pace, consequence, kept, over_budget};
use crate::conversation::Silence;
use crate::disk;
use crate::error::{StorageError, ValidatorError};
use crate::event::{Ending, ValidatorEvent};
use crate::fetch::{Absent, fetch_from_any};
use crate::model::VerifierModel;
use crate::nonces::{EpochNonces, Unfinished};
use crate::owner::Owner;
use crate::report::{EpochReport, MinerReport};
use crate::requests::RequestSource;
use crate::rounds::{Finished, Held, NoModel, PATIENCE, Rounds, Target};
use crate::session::{Auditor, Peer, Terms};
use crate::state::{Counted, Records, StateFile, WeightSet};
use crate::store::Store;
use crate::weights::Placing;

/// The folder of nonces among the records.
const NONCES: &str = "nonces";
/// Models are fetched in this part of the time that an epoch has left for sessions.
const FETCHING: u64 = 4;
/// And for no less than this, however fast a chain's blocks come.
const LEAST_FETCHING: Duration = Duration::from_secs(5);
/// Downloads side by side: each may grow to the largest tokenizer there can be.
const DOWNLOADS: usize = 8;

/// How a validator runs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Its hotkey.
    pub keys: Keypair,
    /// Where it keeps nonces and standings: what a restart goes on from.
    pub directory: PathBuf,
    /// Where it keeps transcripts.
    pub transcripts: PathBuf,
    /// What it asks of every miner.
    pub terms: Terms,
    /// How often it audits a miner of good standing; all others always.
    pub audit_rate: AuditRate,
    /// What verdicts do to standing and score.
    pub probation: assay_probation::Policy,
    /// Requests to each miner in an epoch.
    pub requests: u32,
    /// Sessions held side by side.
    pub sessions: usize,
    /// Sessions held side by side with one miner.
    pub sessions_per_miner: usize,
    /// Proofs verified side by side.
    pub verifying: usize,
    /// Whether miners are asked only at public addresses. On a public network anybody can name an address, and could
    /// otherwise have this machine connect to its own neighbours.
    pub public_endpoints: bool,
}

/// A validator of one subnet.
pub struct Validator<C> {
    pub(crate) chain: Arc<C>,
    settings: Settings,
    pub(crate) auditor: Auditor,
    source: Arc<dyn RequestSource>,
    store: Store,
    file: StateFile,
    ledger: Arc<Mutex<Ledger>>,
    /// What is kept beside the ledger; its own ledger is that of the last saving.
    records: Mutex<Records>,
    models: BTreeMap<ManifestId, Arc<VerifierModel>>,
    events: Box<dyn Fn(ValidatorEvent) + Send + Sync>,
}

/// How an epoch went.
pub(crate) enum Judged {
    /// To its end.
    Whole(Box<EpochReport>),
    /// The validator was told to stop. What was done counts, and a restart does the rest.
    Stopped,
}

impl<C> std::fmt::Debug for Validator<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Validator").field("hotkey", &self.auditor.hotkey()).finish_non_exhaustive()
    }
}

impl<C: Chain + 'static> Validator<C> {
    /// Opens a validator's records, or begins them.
    ///
    /// # Errors
    /// [`ValidatorError`].
    pub async fn open(
        settings: Settings,
        chain: Arc<C>,
        source: impl RequestSource,
        events: impl Fn(ValidatorEvent) + Send + Sync + 'static,
    ) -> Result<Self, ValidatorError> {
        for (name, asked) in [
            ("requests", usize::try_from(settings.requests).unwrap_or(usize::MAX)),
            ("sessions", settings.sessions),
            ("sessions_per_miner", settings.sessions_per_miner),
        ] {
            if asked == 0 {
                return Err(ValidatorError::Setting(name));
            }
        }
        let epoch = chain.head().await?.epoch;
        let network = chain.network();
        let network = Network { genesis: *network.genesis.as_bytes(), netuid: network.netuid.get() };
        let hotkey = settings.keys.hotkey();
        let (file, records) = StateFile::load(&settings.directory, Owner::new(network, &hotkey), epoch)?;
        // Whose a journal is has to be known before anything is written beside it, not when its epoch comes.
        let nonces = settings.directory.join(NONCES);
        for open in EpochNonces::open_epochs(&nonces)? {
            let directory = nonces.clone();
            disk::blocking(nonces.clone(), move || EpochNonces::open(&directory, network, hotkey, open)).await?;
        }
        let ledger = Ledger::new(settings.probation, records.ledger.clone());
        Ok(Self {
            auditor: Auditor::new(
                settings.keys.clone(),
                network,
                settings.terms,
                settings.verifying,
                Arc::clone(&chain),
            ),
            store: Store::open(&settings.transcripts)?,
            source: Arc::new(source),
            file,
            ledger: Arc::new(Mutex::new(ledger)),
            records: Mutex::new(records),
            models: BTreeMap::new(),
            events: Box::new(events),
            chain,
            settings,
        })
    }

    /// Makes a model known that need not be fetched.
    pub fn add_model(&mut self, model: Arc<VerifierModel>) {
        self.models.insert(model.id(), model);
    }

    pub(crate) fn tell(&self, event: ValidatorEvent) {
        (self.events)(event);
    }

    /// The ledger as it stands.
    pub fn ledger(&self) -> Ledger {
        self.locked().clone()
    }

    /// Asks every miner of the subnet, ends the chain's running epoch for the ledger, and sets
    /// weights. Before that, keys of epochs that are over are revealed.
    ///
    /// # Errors
    /// [`ValidatorError`]: what was recorded until then is on disk, and the call may be repeated.
    pub async fn run_epoch(&mut self) -> Result<EpochReport, ValidatorError> {
        let epoch = self.chain.head().await?.epoch;
        self.reveal_keys().await?;
        match self.judge_epoch(epoch, None, &CancellationToken::new()).await? {
            Judged::Whole(report) => Ok(*report),
            Judged::Stopped => unreachable!("nobody tells it to stop"),
        }
    }

    /// Holds the sessions of an epoch that it still has to hold, none of them from block `until` on, and
    /// judges the epoch. Its weights are tried once.
    pub(crate) async fn judge_epoch(
        &mut self,
        epoch: Epoch,
        until: Option<BlockNumber>,
        stop: &CancellationToken,
    ) -> Result<Judged, ValidatorError> {
        if self.locked().state().epoch() > epoch {
            // A crash may have come between the end of the epoch and its weights.
            self.place_weights().await?;
            return Err(ValidatorError::EpochOver(epoch));
        }
        let nonces = self.begin(epoch).await?;
        let metagraph = self.chain.metagraph().await?;
        let (targets, mut miners) = self.targets(&metagraph, &nonces, until, stop).await?;
        (self.events)(ValidatorEvent::EpochBegan { epoch, miners: targets.len(), requests: self.settings.requests });
        if !self.hold_sessions(&nonces, &targets, until, stop, &mut miners).await? {
            return Ok(Judged::Stopped);
        }

        let ended = self.locked().end_epoch(epoch);
        ended.map_err(|closed| ValidatorError::EpochOver(closed.ended))?;
        // The end of the epoch and the weights that it owes are one step.
        self.records().weights = Some(WeightSet::due(epoch));
        self.save_records().await?;
        let (weights, weights_refused) = match self.place_weights().await {
            Ok(Placing { weights, refused, .. }) => (weights, refused),
            // Nothing is lost: they are still due.
            Err(ValidatorError::Chain(refusal)) => (BTreeMap::new(), Some(refusal.to_string())),
            Err(failure) => return Err(failure),
        };
        let burned = metagraph.burn_hotkey().and_then(|burn| weights.get(&burn).copied()).unwrap_or(0);
        info!(%epoch, burned, refused = weights_refused, "weights");
        let ledger = self.ledger();
        for (hotkey, miner) in &mut miners {
            miner.close(&ledger, hotkey, weights.get(hotkey).copied().unwrap_or(0));
        }
        let mut miners: Vec<MinerReport> = miners.into_values().collect();
        miners.sort_by_key(|miner| miner.uid);
        let key_hash = hex::encode(nonces.key_hash());
        let report = EpochReport { epoch: epoch.get(), key_hash, miners, burned, weights_refused };
        (self.events)(ValidatorEvent::EpochEnded(Box::new(report.clone())));
        Ok(Judged::Whole(Box::new(report)))
    }

    /// Reveals the keys of epochs that are over. Every session of theirs has ended: they are held to
    /// their end within [`Validator::run_epoch`], and a crash ends them too.
    ///
    /// # Errors
    /// [`ValidatorError`].
    pub async fn reveal_keys(&self) -> Result<(), ValidatorError> {
        let running = self.chain.head().await?.epoch;
        let hotkey = self.auditor.hotkey();
        for epoch in EpochNonces::open_epochs(&self.nonce_directory())?.into_iter().filter(|&epoch| epoch < running) {
            let (nonces, unfinished) = self.open_nonces(epoch).await?;
            self.bury(&nonces, unfinished).await?;
            let log = EpochLog {
                network: self.auditor.network(),
                validator: hotkey,
                epoch,
                key: *nonces.key().as_bytes(),
                requests: nonces.requests(),
            };
            // A crash came before the hash was published, or another process of this hotkey published its own: nobody was asked,
            // and there is nothing to give account of. A log would look like one that hides something.
            if log.requests.is_empty() {
                let published = self.chain.epoch_key(hotkey, epoch).await?;
                if published.is_none_or(|published| *published.hash.as_bytes() != log.key_hash()) {
                    nonces.retire().await?;
                    self.records().forget(epoch);
                    continue;
                }
            }
            let (key, requests) = (EpochKey::new(log.key), RequestsDigest::new(log.digest()));
            let (store, keys) = (self.store.clone(), self.settings.keys.clone());
            disk::blocking(self.settings.transcripts.clone(), move || store.save_log(&log, &keys)).await?;
            match self.chain.reveal_epoch_key(hotkey, epoch, key, requests).await {
                Ok(()) => {
                    (self.events)(ValidatorEvent::KeyRevealed { epoch });
                    nonces.retire().await?;
                    self.records().forget(epoch);
                }
                Err(refusal) if refusal.is_passing() || refusal.next().is_some() => return Err(refusal.into()),
                Err(refusal) => warn!(%epoch, %refusal, "the epoch key is not revealed; trying again next epoch"),
            }
        }
        Ok(())
    }

    /// Opens the epoch's nonces and publishes the hash of their key, before any session.
    async fn begin(&self, epoch: Epoch) -> Result<EpochNonces, ValidatorError> {
        let (nonces, unfinished) = self.open_nonces(epoch).await?;
        self.bury(&nonces, unfinished).await?;
        let hash = EpochKeyHash::new(nonces.key_hash());
        self.chain.publish_epoch_key(self.auditor.hotkey(), epoch, hash).await?;
        Ok(nonces)
    }

    pub(crate) fn nonce_directory(&self) -> PathBuf {
        self.settings.directory.join(NONCES)
    }

    async fn open_nonces(&self, epoch: Epoch) -> Result<(EpochNonces, Vec<Unfinished>), StorageError> {
        let (directory, network, hotkey) = (self.nonce_directory(), self.auditor.network(), self.auditor.hotkey());
        disk::blocking(directory.clone(), move || EpochNonces::open(&directory, network, hotkey, epoch)).await
    }

    /// Sessions that a crash left without an end: those that were counted end as they did; of the others, those whose
    /// transcript was kept are counted, and the rest are inconclusive, and their counters dead.
    async fn bury(&self, nonces: &EpochNonces, unfinished: Vec<Unfinished>) -> Result<(), ValidatorError> {
        let epoch = nonces.epoch();
        for Unfinished { miner, counter, revealed } in unfinished {
            let known = self.records().counted(epoch, &miner, counter);
            let ending = if let Some(counted) = known {
                counted.ending
            } else {
                let (counted, outcome) = self.found(epoch, miner, counter).await;
                warn!(%miner, counter, revealed, ?outcome, "a session was interrupted");
                self.record(epoch, (miner, counter), counted, outcome);
                self.save_records().await?;
                counted.ending
            };
            nonces.close(miner, counter, ending).await?;
            if ending == LogEnding::Dead {
                warn_of(&miner, OwnFault::Interrupted);
                (self.events)(ValidatorEvent::Buried { miner, counter });
            }
        }
        Ok(())
    }

    /// What the disk has of a session that was not counted.
    async fn found(&self, epoch: Epoch, miner: Hotkey, counter: u64) -> (Counted, Outcome) {
        let (store, network, validator) = (self.store.clone(), self.auditor.network(), self.auditor.hotkey());
        let found = tokio::task::spawn_blocking(move || store.find((network, &validator), epoch, &miner, counter));
        match found.await.unwrap_or_default() {
            Some(file) => {
                let proof_ms = file.receipt.measurements.proof_ms;
                (Counted { ending: LogEnding::Judged, proof_ms }, kept(&file))
            }
            None => (Counted { ending: LogEnding::Dead, proof_ms: 0 }, Outcome::Inconclusive),
        }
    }

    /// Who is to be asked: whoever serves a manifest that is in force.
    async fn targets(
        &mut self,
        metagraph: &Metagraph,
        nonces: &EpochNonces,
        until: Option<BlockNumber>,
        stop: &CancellationToken,
    ) -> Result<(Vec<Target>, BTreeMap<Hotkey, MinerReport>), ValidatorError> {
        let in_force = self.chain.manifests().await?;
        let mut serving = Vec::new();
        for neuron in metagraph.neurons.iter().filter(|neuron| neuron.hotkey != self.auditor.hotkey()) {
            let Some(endpoint) = neuron.endpoint else { continue };
            let skipped = |why| (self.events)(ValidatorEvent::Skipped { miner: neuron.hotkey, why });
            if self.settings.public_endpoints && !is_public(endpoint.ip()) {
                skipped("its endpoint is no public address");
                continue;
            }
            match neuron.manifest.filter(|manifest| in_force.contains(manifest)) {
                Some(manifest) => serving.push((neuron.uid, Peer { hotkey: neuron.hotkey, endpoint }, manifest)),
                None => skipped("it serves no manifest that is in force"),
            }
        }
        let wanted: BTreeMap<ManifestId, Vec<Peer>> = serving.iter().fold(BTreeMap::new(), |mut wanted, served| {
            wanted.entry(served.2).or_insert_with(Vec::new).push(served.1);
            wanted
        });
        let absent = self.fetch(wanted, until, stop).await?;
        let report =
            |uid: u16, hotkey: Hotkey| MinerReport { hotkey: hotkey.to_string(), uid, ..MinerReport::default() };
        let reports = serving.iter().map(|(uid, peer, _)| (peer.hotkey, report(uid.get(), peer.hotkey))).collect();
        // After a restart, what was asked before it counts.
        let held: BTreeMap<Hotkey, usize> = nonces
            .requests()
            .into_iter()
            .map(|(miner, list)| (miner, list.iter().filter(|listed| listed.ending != LogEnding::Dead).count()))
            .collect();
        let targets = serving
            .into_iter()
            .map(|(_, peer, manifest)| {
                let held = held.get(&peer.hotkey).map_or(0, |held| u32::try_from(*held).unwrap_or(u32::MAX));
                let requests = self.settings.requests.saturating_sub(held);
                let model = self.models.get(&manifest).cloned();
                Target { peer, requests, model: model.ok_or_else(|| without(absent.get(&manifest), &peer.hotkey)) }
            })
            .collect();
        Ok((targets, reports))
    }

    /// Fetches the models that are not known yet, side by side, in a share of the time that is left for sessions; says
    /// which could not be had.
    async fn fetch(
        &mut self,
        wanted: BTreeMap<ManifestId, Vec<Peer>>,
        until: Option<BlockNumber>,
        stop: &CancellationToken,
    ) -> Result<BTreeMap<ManifestId, Absent>, ValidatorError> {
        let missing: Vec<_> = wanted.into_iter().filter(|(manifest, _)| !self.models.contains_key(manifest)).collect();
        let mut absent = BTreeMap::new();
        if missing.is_empty() {
            return Ok(absent);
        }
        let head = self.chain.head().await?;
        let until = until.unwrap_or(head.next_epoch).get();
        let (left, whole) = (until.saturating_sub(head.block.get()), until.saturating_sub(head.epoch_start.get()));
        if left == 0 {
            let unheard = |peers: Vec<Peer>| peers.into_iter().map(|peer| peer.hotkey).collect();
            let absent = missing.into_iter();
            return Ok(absent
                .map(|(manifest, peers)| (manifest, Absent { fault: None, unheard: unheard(peers) }))
                .collect());
        }
        // Whoever begins late, or again after a crash, has less time, which is no miner's doing.
        let to_blame = left >= whole / 2;
        let last = BlockNumber::new(head.block.get() + (left / FETCHING).max(1));
        let (over, side_by_side) = (stop.child_token(), (DOWNLOADS / missing.len()).max(1));
        let mut fetches = JoinSet::new();
        for (manifest, mut peers) in missing {
            // Those first who have proven themselves: no crowd of new ones is between us and the model. Among equals
            // another one begins in each epoch: no crowd is before a new one for ever.
            let ledger = self.ledger();
            let turn = head.epoch.get() % peers.len().max(1) as u64;
            peers.rotate_left(usize::try_from(turn).unwrap_or(0));
            peers.sort_by_key(|peer| Reverse(ledger.score(&peer.hotkey)));
            let over = over.clone();
            fetches
                .spawn(async move { (manifest, fetch_from_any(manifest, peers, side_by_side, to_blame, over).await) });
        }
        let block = wait_for(Arc::clone(&self.chain), last);
        let mut time = std::pin::pin!(async { tokio::join!(block, sleep(LEAST_FETCHING)) });
        loop {
            let fetched = tokio::select! {
                biased;
                fetched = fetches.join_next() => fetched,
                ((), ()) = &mut time, if !over.is_cancelled() => {
                    over.cancel();
                    continue;
                }
            };
            match fetched {
                Some(Ok((manifest, Ok((from, model))))) => {
                    let model = Arc::new(model);
                    if !self.settings.terms.inline_assets
                        && let Err(failure) = self.save_assets(&model).await
                    {
                        error!(%failure, "a model cannot be kept: its miners are not judged");
                        let fault = Some(OwnFault::Storage);
                        absent.insert(manifest, Absent { fault, unheard: BTreeSet::new() });
                        continue;
                    }
                    self.models.insert(manifest, model);
                    (self.events)(ValidatorEvent::ModelFetched { manifest, from: from.hotkey });
                }
                Some(Ok((manifest, Err(mut why)))) => {
                    // Whoever declares a model hands it out. That nobody does is their silence, unless we did not hear.
                    if why.fault.is_none() && !self.auditor.is_connected().await {
                        why.fault = Some(OwnFault::Connection);
                    }
                    absent.insert(manifest, why);
                }
                Some(Err(failure)) => error!(%failure, "a model's download ended early"),
                None => return Ok(absent),
            }
        }
    }

    async fn save_assets(&self, model: &Arc<VerifierModel>) -> Result<(), StorageError> {
        let (store, model) = (self.store.clone(), Arc::clone(model));
        disk::blocking(self.settings.transcripts.clone(), move || store.save_assets(&model)).await
    }

    /// Holds the epoch's sessions and records each as it ends. False if some were left out because the
    /// validator stops.
    async fn hold_sessions(
        &self,
        nonces: &EpochNonces,
        targets: &[Target],
        until: Option<BlockNumber>,
        stop: &CancellationToken,
        miners: &mut BTreeMap<Hotkey, MinerReport>,
    ) -> Result<bool, ValidatorError> {
        let epoch = nonces.epoch();
        let (head, begun) = (self.chain.head().await?, Instant::now());
        let mut rounds = Rounds {
            chain: Arc::clone(&self.chain),
            auditor: self.auditor.clone(),
            source: Arc::clone(&self.source),
            ledger: Arc::clone(&self.ledger),
            store: self.store.clone(),
            audit_rate: self.settings.audit_rate,
            nonces: nonces.clone(),
            until,
            stop: stop.clone(),
            failed: Mutex::default(),
        }
        .begin(targets, self.settings.sessions, self.settings.sessions_per_miner);
        let (mut over, mut unasked, mut time, mut is_whole) = (Vec::new(), Vec::new(), None, true);
        let mut paces = BTreeMap::<Hotkey, Pace>::new();
        while let Some(held) = rounds.next().await {
            let Finished { miner, counter, ending, took, transcript } = match held {
                Held::Finished(finished) => *finished,
                Held::Late(miner) => {
                    // The last one tells: where there was no time for a model, its sessions are late at once.
                    time = Some(whole_time(&head, until, begun.elapsed()));
                    paces.entry(miner).or_default().late += 1;
                    continue;
                }
                Held::Stopped => {
                    is_whole = false;
                    continue;
                }
            };
            if let Some(took) = took {
                let pace = paces.entry(miner).or_default();
                pace.held += 1;
                pace.took += took;
            }
            if let Some(fault) = own_fault(&ending) {
                warn_of(&miner, fault);
            }
            match (consequence(&ending), counter) {
                (Consequence::Now(outcome), Some(counter)) => {
                    self.count(nonces, (miner, counter), &ending, &outcome, miners).await?;
                }
                (Consequence::Now(outcome), None) => unasked.push((miner, ending, outcome)),
                (Consequence::AtEpochEnd, counter) => over.extend(counter.map(|counter| (miner, counter, ending))),
            }
            (self.events)(ValidatorEvent::Session { miner, counter, ending, transcript });
        }
        for (miner, counter, ending) in over {
            let (spent, unseen) = {
                let records = self.records();
                (records.proof_ms(epoch, &miner), unseen(&records, epoch, &miner, &nonces.revealed(&miner)))
            };
            let deadline_ms = self.settings.terms.deadlines.proof_ms;
            let outcome = over_budget(spent, unseen, deadline_ms, self.least_budget_ms());
            self.count(nonces, (miner, counter), &ending, &outcome, miners).await?;
        }
        if is_whole {
            // No counter tells a restart that these are in the ledger: they get to the disk with the end of the epoch.
            for (miner, ending, outcome) in unasked {
                self.locked().record(miner, outcome);
                if let Some(report) = miners.get_mut(&miner) {
                    report.count(&ending, &outcome);
                }
            }
            if let Some(time) = time {
                self.leave_out(time, &paces, miners);
            }
        }
        Ok(is_whole)
    }

    /// Sessions for which no time was left cost nobody anything but those whose own slowness left them out.
    fn leave_out(&self, time: Duration, paces: &BTreeMap<Hotkey, Pace>, miners: &mut BTreeMap<Hotkey, MinerReport>) {
        let side_by_side = self.settings.sessions_per_miner.min(self.settings.sessions);
        let mut ours = 0;
        for (miner, pace) in paces.iter().filter(|(_, pace)| pace.late > 0) {
            let Some(outcome) = pace.left_out(time, side_by_side) else {
                warn!(%miner, sessions = pace.late, "left out, because the others took it too long: not counted");
                continue;
            };
            ours += pace.late;
            for _ in 0..pace.late {
                self.locked().record(*miner, outcome);
            }
            if let Some(report) = miners.get_mut(miner) {
                report.inconclusive += pace.late;
            }
        }
        if ours > 0 {
            warn!(
                sessions = ours,
                "no time was left for these before the weights are due: inconclusive; ask for less in an epoch, or \
                 hold more sessions side by side"
            );
        }
    }

    /// Counts a session, and only then closes it: a crash in between finds it counted, and one before finds it
    /// open.
    async fn count(
        &self,
        nonces: &EpochNonces,
        (miner, counter): (Hotkey, u64),
        ending: &Ending,
        outcome: &Outcome,
        miners: &mut BTreeMap<Hotkey, MinerReport>,
    ) -> Result<(), StorageError> {
        let counted = counted(ending);
        self.record(nonces.epoch(), (miner, counter), counted, *outcome);
        if let Some(report) = miners.get_mut(&miner) {
            report.count(ending, outcome);
        }
        self.save_records().await?;
        nonces.close(miner, counter, counted.ending).await
    }

    /// Puts an outcome into the ledger, and the session beside it, by its counter.
    fn record(&self, epoch: Epoch, (miner, counter): (Hotkey, u64), counted: Counted, outcome: Outcome) {
        let mut records = self.records();
        if records.count(epoch, &miner, counter, counted) {
            self.locked().record(miner, outcome);
        }
    }

    const fn least_budget_ms(&self) -> u32 {
        match self.settings.terms.policy {
            Policy::Sampled { least_budget_ms, .. } => least_budget_ms,
            Policy::Everything => 0,
        }
    }

    pub(crate) async fn save_records(&self) -> Result<(), StorageError> {
        let records = {
            let mut records = self.records();
            records.ledger = self.locked().state().clone();
            records.clone()
        };
        let file = self.file.clone();
        disk::blocking(self.settings.directory.clone(), move || file.save(&records)).await
    }

    /// Locked before the ledger, where both are.
    pub(crate) fn records(&self) -> MutexGuard<'_, Records> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn locked(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The validator's own fault that made a session inconclusive.
const fn own_fault(ending: &Ending) -> Option<OwnFault> {
    match ending {
        Ending::OwnFault(fault) | Ending::Judged { verdict: Verdict::Inconclusive(fault), .. } => Some(*fault),
        Ending::Judged { .. } | Ending::Unavailable(_) | Ending::Refused(_) => None,
    }
}

/// Tells the operator which fault made a session inconclusive, and what to do about it.
fn warn_of(miner: &Hotkey, fault: OwnFault) {
    warn!(%miner, slug = fault.slug(), "inconclusive: {fault}; {}", fault.remedy());
}

/// What is kept of a session's end.
const fn counted(ending: &Ending) -> Counted {
    let (ending, proof_ms) = match ending {
        Ending::Judged { measurements, .. } => (LogEnding::Judged, measurements.proof_ms),
        Ending::Unavailable(_) => (LogEnding::Silent, 0),
        Ending::Refused(_) => (LogEnding::Refused, 0),
        Ending::OwnFault(_) => (LogEnding::Fault, 0),
    };
    Counted { ending, proof_ms }
}

/// What becomes of a miner's sessions whose model is not there.
fn without(absent: Option<&Absent>, miner: &Hotkey) -> NoModel {
    match absent {
        Some(Absent { fault: Some(fault), .. }) => NoModel::Ends(Ending::OwnFault(*fault)),
        Some(Absent { unheard, .. }) if unheard.contains(miner) => NoModel::Late,
        // Whoever declares a model hands it out.
        Some(_) => NoModel::Ends(Ending::Unavailable(Silence::Disorder)),
        // A download that ended without a word is ours.
        None => NoModel::Ends(Ending::OwnFault(OwnFault::Interrupted)),
    }
}

/// Waits until a chain has this block. One that does not answer is asked again.
async fn wait_for<C: Chain>(chain: Arc<C>, block: BlockNumber) {
    let mut seen = BlockNumber::new(0);
    loop {
        match chain.head_after(seen).await {
            Ok(head) if head.block >= block => return,
            Ok(head) => seen = head.block,
            Err(_) => sleep(PATIENCE).await,
        }
    }
}

/// The time that an epoch has for sessions, after so much of it those that were begun at `head` were over. One that was
/// begun late, or again after a crash, has less, which is no miner's doing.
fn whole_time(head: &Head, until: Option<BlockNumber>, elapsed: Duration) -> Duration {
    let until = until.unwrap_or(head.next_epoch).get();
    let blocks = |from: BlockNumber| u128::from(until.saturating_sub(from.get()));
    let whole = elapsed.as_millis().saturating_mul(blocks(head.epoch_start)).checked_div(blocks(head.block));
    whole.and_then(|whole| u64::try_from(whole).ok()).map_or(Duration::MAX, Duration::from_millis)
}

/// Of how many of a miner's requests of an epoch nobody knows what a proof took: their nonce was out, so that one may
/// have been asked for, and they ended by a crash or another fault of ours.
fn unseen(records: &Records, epoch: Epoch, miner: &Hotkey, revealed: &BTreeSet<u64>) -> u64 {
    let ours = |ending| matches!(ending, LogEnding::Dead | LogEnding::Fault);
    let counted = |counter: &&u64| records.counted(epoch, miner, **counter).is_some_and(|counted| ours(counted.ending));
    revealed.iter().filter(counted).fold(0, |sum, _| sum + 1)
}
