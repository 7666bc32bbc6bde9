//! One epoch: keys, sessions, standings, weights.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use assay_audit::epoch_log::{Ending as LogEnding, EpochLog};
use assay_audit::keys::Keypair;
use assay_audit::policy::Policy;
use assay_audit::request::{AuditRate, Network};
use assay_audit::verdict::{OwnFault, Verdict};
use assay_chain::{Chain, ChainError, EpochKey, EpochKeyHash, Metagraph, RequestsDigest};
use assay_commitments::{Epoch, Hotkey, ManifestId};
use assay_probation::{Ledger, Outcome};
use tracing::{error, info, warn};

use crate::consequence::{Consequence, consequence, over_budget};
use crate::conversation::Silence;
use crate::error::{StorageError, ValidatorError};
use crate::event::{Ending, ValidatorEvent};
use crate::fetch::fetch_model;
use crate::model::VerifierModel;
use crate::nonces::{EpochNonces, Unfinished};
use crate::probe;
use crate::report::{EpochReport, MinerReport};
use crate::requests::RequestSource;
use crate::rounds::{Finished, Rounds, Target};
use crate::session::{Auditor, Peer, Terms};
use crate::state::StateFile;
use crate::store::Store;

/// The version of the rules by which weights are computed here; a subnet may ask for a newer one.
const SCORING_VERSION: u64 = 1;

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
}

/// A validator of one subnet.
pub struct Validator<C> {
    chain: Arc<C>,
    settings: Settings,
    auditor: Auditor,
    source: Arc<dyn RequestSource>,
    store: Store,
    standings: StateFile,
    ledger: Arc<Mutex<Ledger>>,
    models: BTreeMap<ManifestId, Arc<VerifierModel>>,
    events: Box<dyn Fn(ValidatorEvent) + Send + Sync>,
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
        let (standings, ledger) = StateFile::load(&settings.directory, settings.probation, epoch)?;
        Ok(Self {
            auditor: Auditor::new(settings.keys.clone(), network, settings.terms, settings.verifying),
            store: Store::open(&settings.transcripts)?,
            source: Arc::new(source),
            standings,
            ledger: Arc::new(Mutex::new(ledger)),
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
        if self.locked().state().epoch() > epoch {
            // A crash may have come between the end of the epoch and its weights.
            self.set_weights().await?;
            return Err(ValidatorError::EpochOver(epoch));
        }
        let nonces = self.begin(epoch).await?;
        let metagraph = self.chain.metagraph().await?;
        let (targets, mut miners) = self.targets(&metagraph).await?;
        (self.events)(ValidatorEvent::EpochBegan { epoch, miners: targets.len(), requests: self.settings.requests });
        self.hold_sessions(&nonces, targets, &mut miners).await?;

        let ended = self.locked().end_epoch(epoch);
        ended.map_err(|closed| ValidatorError::EpochOver(closed.ended))?;
        self.save_standings().await?;
        let (weights, burned, weights_refused) = self.set_weights().await?;
        let ledger = self.ledger();
        for (hotkey, miner) in &mut miners {
            miner.close(&ledger, hotkey, weights.get(hotkey).copied().unwrap_or(0));
        }
        let mut miners: Vec<MinerReport> = miners.into_values().collect();
        miners.sort_by_key(|miner| miner.uid);
        let key_hash = hex::encode(nonces.key_hash());
        let report = EpochReport { epoch: epoch.get(), key_hash, miners, burned, weights_refused };
        (self.events)(ValidatorEvent::EpochEnded(Box::new(report.clone())));
        Ok(report)
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
            let (nonces, unfinished) = self.open_nonces(epoch)?;
            self.bury(&nonces, unfinished).await?;
            let log = EpochLog {
                network: self.auditor.network(),
                validator: hotkey,
                epoch,
                key: *nonces.key().as_bytes(),
                requests: nonces.requests(),
            };
            self.store.save_log(&log, &self.settings.keys)?;
            let (key, requests) = (EpochKey::new(log.key), RequestsDigest::new(log.digest()));
            match self.chain.reveal_epoch_key(hotkey, epoch, key, requests).await {
                Ok(()) => {
                    (self.events)(ValidatorEvent::KeyRevealed { epoch });
                    nonces.retire().await?;
                }
                // A crash before the hash was published, and so before any session.
                Err(ChainError::KeyNotPublished(_)) => nonces.retire().await?,
                Err(refusal) => warn!(%epoch, %refusal, "the epoch key is not revealed; trying again next epoch"),
            }
        }
        Ok(())
    }

    /// Opens the epoch's nonces and publishes the hash of their key, before any session.
    async fn begin(&self, epoch: Epoch) -> Result<EpochNonces, ValidatorError> {
        let (nonces, unfinished) = self.open_nonces(epoch)?;
        self.bury(&nonces, unfinished).await?;
        let hash = EpochKeyHash::new(nonces.key_hash());
        self.chain.publish_epoch_key(self.auditor.hotkey(), epoch, hash).await?;
        Ok(nonces)
    }

    fn nonce_directory(&self) -> PathBuf {
        self.settings.directory.join("nonces")
    }

    fn open_nonces(&self, epoch: Epoch) -> Result<(EpochNonces, Vec<Unfinished>), StorageError> {
        let netuid = self.chain.network().netuid.get();
        EpochNonces::open(&self.nonce_directory(), netuid, self.auditor.hotkey(), epoch)
    }

    /// Sessions that a crash left without an end are inconclusive, and their counters dead.
    async fn bury(&self, nonces: &EpochNonces, unfinished: Vec<Unfinished>) -> Result<(), ValidatorError> {
        for Unfinished { miner, counter, revealed } in unfinished {
            warn!(%miner, counter, revealed, "a session was interrupted: inconclusive");
            self.locked().record(miner, Outcome::Inconclusive);
            self.save_standings().await?;
            nonces.close(miner, counter, LogEnding::Dead).await?;
            (self.events)(ValidatorEvent::Buried { miner, counter });
        }
        Ok(())
    }

    /// Who is to be asked: whoever serves a manifest that is in force.
    async fn targets(
        &mut self,
        metagraph: &Metagraph,
    ) -> Result<(Vec<Target>, BTreeMap<Hotkey, MinerReport>), ValidatorError> {
        let in_force = self.chain.manifests().await?;
        let mut serving = Vec::new();
        for neuron in metagraph.neurons.iter().filter(|neuron| neuron.hotkey != self.auditor.hotkey()) {
            let Some(endpoint) = neuron.endpoint else { continue };
            match neuron.manifest.filter(|manifest| in_force.contains(manifest)) {
                Some(manifest) => serving.push((neuron.uid, Peer { hotkey: neuron.hotkey, endpoint }, manifest)),
                None => (self.events)(ValidatorEvent::Skipped {
                    miner: neuron.hotkey,
                    why: "it serves no manifest that is in force",
                }),
            }
        }
        let wanted: BTreeMap<ManifestId, Vec<Peer>> = serving.iter().fold(BTreeMap::new(), |mut wanted, served| {
            wanted.entry(served.2).or_insert_with(Vec::new).push(served.1);
            wanted
        });
        let mut missing = BTreeMap::new();
        for (manifest, peers) in wanted {
            if !self.models.contains_key(&manifest)
                && let Err(ending) = self.fetch(manifest, peers).await
            {
                missing.insert(manifest, ending);
            }
        }
        let report =
            |uid: u16, hotkey: Hotkey| MinerReport { hotkey: hotkey.to_string(), uid, ..MinerReport::default() };
        let reports = serving.iter().map(|(uid, peer, _)| (peer.hotkey, report(uid.get(), peer.hotkey))).collect();
        let targets = serving
            .into_iter()
            .map(|(_, peer, manifest)| {
                let silent = Ending::Unavailable(Silence::Disorder);
                let missing = || missing.get(&manifest).copied().unwrap_or(silent);
                Target { peer, model: self.models.get(&manifest).cloned().ok_or_else(missing) }
            })
            .collect();
        Ok((targets, reports))
    }

    /// Fetches a model from whichever of its miners delivers it first; without it, how sessions end that
    /// need it.
    async fn fetch(&mut self, manifest: ManifestId, peers: Vec<Peer>) -> Result<(), Ending> {
        let mut fetches = tokio::task::JoinSet::new();
        let mut peers = peers.into_iter();
        let mut next = |fetches: &mut tokio::task::JoinSet<_>| {
            if let Some(peer) = peers.next() {
                fetches.spawn(async move { (peer, fetch_model(peer.endpoint, manifest).await) });
            }
        };
        // A few side by side: one that drips must not hold up the epoch.
        (0..4).for_each(|_| next(&mut fetches));
        while let Some(fetched) = fetches.join_next().await {
            match fetched {
                Ok((peer, Ok(model))) => {
                    let model = Arc::new(model);
                    if !self.settings.terms.inline_assets
                        && let Err(failure) = self.store.save_assets(&model)
                    {
                        error!(%failure, "a model cannot be kept: its miners are not judged");
                        return Err(Ending::OwnFault(OwnFault::Storage));
                    }
                    self.models.insert(manifest, model);
                    (self.events)(ValidatorEvent::ModelFetched { manifest, from: peer.hotkey });
                    return Ok(());
                }
                Ok((peer, Err(failure))) => warn!(miner = %peer.hotkey, %failure, "the model is not there"),
                Err(failure) => error!(%failure, "a download ended early"),
            }
            next(&mut fetches);
        }
        let works = probe::loopback_works().await;
        let fault = Ending::OwnFault(OwnFault::Connection);
        Err(if works { Ending::Unavailable(Silence::Disorder) } else { fault })
    }

    /// Holds the epoch's sessions and records each as it ends.
    async fn hold_sessions(
        &self,
        nonces: &EpochNonces,
        targets: Vec<Target>,
        miners: &mut BTreeMap<Hotkey, MinerReport>,
    ) -> Result<(), ValidatorError> {
        let mut rounds = Rounds {
            chain: Arc::clone(&self.chain),
            auditor: self.auditor.clone(),
            source: Arc::clone(&self.source),
            ledger: Arc::clone(&self.ledger),
            store: self.store.clone(),
            audit_rate: self.settings.audit_rate,
            nonces: nonces.clone(),
            failed: Mutex::default(),
        }
        .begin(targets, self.settings.requests, self.settings.sessions, self.settings.sessions_per_miner);
        let mut proof_ms = BTreeMap::<Hotkey, u64>::new();
        let mut over = Vec::new();
        while let Some(finished) = rounds.next().await {
            let Finished { miner, counter, ending, transcript } = finished;
            if let Ending::Judged { measurements, .. } = &ending {
                *proof_ms.entry(miner).or_default() += u64::from(measurements.proof_ms);
            }
            if let Some(fault) = own_fault(&ending) {
                warn!(%miner, slug = fault.slug(), "inconclusive: {fault}; {}", fault.remedy());
            }
            match consequence(&ending) {
                Consequence::Now(outcome) => self.count(miner, &ending, &outcome, miners).await?,
                Consequence::AtEpochEnd => over.push((miner, ending)),
            }
            if let Some(counter) = counter {
                nonces.close(miner, counter, logged(&ending)).await?;
            }
            (self.events)(ValidatorEvent::Session { miner, counter, ending, transcript });
        }
        for (miner, ending) in over {
            let spent = proof_ms.get(&miner).copied().unwrap_or(0);
            self.count(miner, &ending, &over_budget(spent, self.least_budget_ms()), miners).await?;
        }
        Ok(())
    }

    async fn count(
        &self,
        miner: Hotkey,
        ending: &Ending,
        outcome: &Outcome,
        miners: &mut BTreeMap<Hotkey, MinerReport>,
    ) -> Result<(), StorageError> {
        self.locked().record(miner, *outcome);
        if let Some(report) = miners.get_mut(&miner) {
            report.count(ending, outcome);
        }
        self.save_standings().await
    }

    const fn least_budget_ms(&self) -> u64 {
        match self.settings.terms.policy {
            Policy::Sampled { least_budget_ms, .. } => least_budget_ms as u64,
            Policy::Everything => 0,
        }
    }

    /// Sets weights by the ledger. Says what each hotkey got, what was burned, and why the chain
    /// would not have it, if so.
    async fn set_weights(&self) -> Result<(BTreeMap<Hotkey, u16>, u16, Option<String>), ValidatorError> {
        let metagraph = self.chain.metagraph().await?;
        let burn = metagraph.burn_hotkey().ok_or(ValidatorError::NoOwner)?;
        let weights = self.locked().weights(&metagraph.hotkeys(), burn)?;
        let by_uid: Vec<_> =
            metagraph.neurons.iter().zip(&weights).map(|(neuron, (_, weight))| (neuron.uid, *weight)).collect();
        let set = self.chain.set_weights(self.auditor.hotkey(), &by_uid, SCORING_VERSION).await;
        let refused = set.err().map(|refusal| {
            warn!(%refusal, "the weights are not set");
            refusal.to_string()
        });
        let weights: BTreeMap<Hotkey, u16> = weights.into_iter().collect();
        let burned = weights.get(&burn).copied().unwrap_or(0);
        info!(burned, refused, "weights");
        Ok((weights, burned, refused))
    }

    async fn save_standings(&self) -> Result<(), StorageError> {
        let (file, state) = (self.standings.clone(), self.locked().state().clone());
        let saved = tokio::task::spawn_blocking(move || file.save(&state)).await;
        saved.unwrap_or_else(|_| Err(StorageError::Worker(self.settings.directory.clone())))
    }

    fn locked(&self) -> MutexGuard<'_, Ledger> {
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

/// How a session's end stands in the epoch's log.
const fn logged(ending: &Ending) -> LogEnding {
    match ending {
        Ending::Judged { .. } => LogEnding::Judged,
        Ending::Unavailable(_) => LogEnding::Silent,
        Ending::Refused(_) => LogEnding::Refused,
        Ending::OwnFault(_) => LogEnding::Fault,
    }
}
