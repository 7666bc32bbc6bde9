//! `assay validator`.

use std::path::Path;
use std::sync::Arc;

use assay_audit::keys::Keypair;
use assay_chain::networks::{FINNEY_GENESIS, TEST_GENESIS};
use assay_chain::{Chain, ChainError};
use assay_validator::{Ending, Settings, StorageError, Validator, ValidatorError, ValidatorEvent};
use tokio::time::sleep;
use tracing::{debug, error, info, warn};

use super::patience::{PAUSE, connect, persist};
use super::stop;
use crate::config::{self, ValidatorFile};
use crate::files::{hold, make_folder};
use crate::outcome::{CommandResult, Fault, Outcome};

/// Where commits of weights wait for their reveal, among the records.
const COMMITS: &str = "commits.json";
/// Held for as long as a validator works on the records.
const LOCK: &str = "lock";

pub(super) async fn run(path: &Path, epochs: Option<u64>) -> CommandResult {
    let stop = stop::on_signals()?;
    let (file, base) = config::read::<ValidatorFile>(path)?;
    let settings = file.check(&base)?;
    let questions = settings.questions()?;
    let key = file.wallet.unlock(&base)?;
    make_folder(&settings.records)?;
    // Between epochs nothing else is locked, and a second validator would take the next one's journal.
    let in_use = StorageError::InUse(settings.records.clone()).to_string();
    let _held = hold(&settings.records.join(LOCK), &in_use)?;
    let chain = connect(&settings.place, &key, Some(settings.records.join(COMMITS))).await?;
    let hotkey = key.hotkey();
    let Some(metagraph) = persist(&chain, "reading the metagraph", &stop, || chain.metagraph()).await? else {
        return Ok(Outcome::Done);
    };
    metagraph.neuron(&hotkey).ok_or(ChainError::NotRegistered(hotkey))?;
    info!(%hotkey, network = %settings.place.network, netuid = %settings.place.netuid, "validating");
    let settings = Settings {
        keys: Keypair::from(key.signer().clone()),
        directory: settings.records,
        transcripts: settings.transcripts,
        terms: settings.terms,
        audit_rate: settings.audit_rate,
        probation: settings.probation,
        requests: settings.requests,
        sessions: settings.sessions,
        sessions_per_miner: settings.sessions_per_miner,
        verifying: settings.verifying,
        public_endpoints: [FINNEY_GENESIS, TEST_GENESIS].contains(&chain.network().genesis),
    };
    let chain = Arc::new(chain);
    let mut validator = loop {
        match Validator::open(settings.clone(), Arc::clone(&chain), questions.clone(), |event| tell(&event)).await {
            Err(ValidatorError::Chain(refusal)) if !refusal.needs_operator() && !stop.is_cancelled() => {
                warn!("waiting for the chain: {refusal}");
                sleep(PAUSE).await;
            }
            opened => break opened?,
        }
    };
    let followed = Box::pin(validator.run(&stop, epochs)).await?;
    if stop.is_cancelled() {
        info!("stopped; what is not done is done after the next start");
        return Ok(Outcome::Done);
    }
    match followed.weights_refused {
        None => Ok(Outcome::Done),
        Some(why) => Err(Fault::own(format!("the weights are not on chain: {why}; evidence and scores are kept"))),
    }
}

/// What happened, for the log.
fn tell(event: &ValidatorEvent) {
    match event {
        ValidatorEvent::EpochBegan { epoch, miners, requests } => {
            info!(%epoch, miners, requests, "an epoch begins");
        }
        ValidatorEvent::Skipped { miner, why } => warn!(%miner, "not asked: {why}"),
        ValidatorEvent::ModelFetched { manifest, from } => info!(%manifest, %from, "a model is known"),
        ValidatorEvent::Buried { miner, counter } => warn!(%miner, counter, "a session died with the last run"),
        ValidatorEvent::Session { miner, ending, transcript, .. } => {
            let transcript = transcript.as_ref().map(|path| path.display().to_string());
            match ending {
                Ending::Judged { verdict: assay_audit::verdict::Verdict::Rejected(failure), .. } => {
                    error!(%miner, reason = failure.reason.slug(), transcript, "rejected");
                }
                Ending::Judged { verdict, challenged, .. } => {
                    debug!(%miner, verdict = verdict.name(), challenged, transcript, "judged");
                }
                Ending::Unavailable(silence) => warn!(%miner, ?silence, "no answer"),
                Ending::Refused(reason) => warn!(%miner, ?reason, "refused"),
                // Told with its remedy where it was found.
                Ending::OwnFault(_) => {}
            }
        }
        // The turn that waits has told it.
        ValidatorEvent::Waits(_) => {}
        ValidatorEvent::KeyRevealed { epoch } => info!(%epoch, "the epoch's key is revealed"),
        ValidatorEvent::EpochEnded(report) => {
            for miner in &report.miners {
                info!(
                    hotkey = miner.hotkey,
                    uid = miner.uid,
                    requests = miner.requests,
                    accepted = miner.accepted,
                    settled = miner.settled,
                    inconclusive = miner.inconclusive,
                    unavailable = miner.unavailable,
                    rejected = ?miner.rejected,
                    standing = miner.standing,
                    weight = miner.weight,
                    "epoch {}",
                    report.epoch
                );
            }
        }
    }
}
