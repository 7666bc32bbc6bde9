//! The sessions of an epoch, side by side within bounds.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use assay_audit::request::AuditRate;
use assay_audit::session::{Exchange, Reply};
use assay_audit::verdict::{OwnFault, Verdict};
use assay_chain::Chain;
use assay_commitments::Hotkey;
use assay_probation::Ledger;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tracing::error;

use crate::event::Ending;
use crate::model::VerifierModel;
use crate::nonces::EpochNonces;
use crate::requests::RequestSource;
use crate::session::{Auditor, Ended, Judged, Outcome, Peer, fresh_seed};
use crate::store::Store;

/// A miner to be asked.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) peer: Peer,
    /// Or how every session with it ends: if no miner that declares the model would send it, that is their
    /// silence; if it could not be kept, our own fault.
    pub(crate) model: Result<Arc<VerifierModel>, Ending>,
}

/// A session that has ended.
pub(crate) struct Finished {
    pub(crate) miner: Hotkey,
    pub(crate) counter: Option<u64>,
    pub(crate) ending: Ending,
    pub(crate) transcript: Option<PathBuf>,
}

/// What the sessions of an epoch share.
pub(crate) struct Rounds<C> {
    pub(crate) chain: Arc<C>,
    pub(crate) auditor: Auditor,
    pub(crate) source: Arc<dyn RequestSource>,
    pub(crate) ledger: Arc<Mutex<Ledger>>,
    pub(crate) store: Store,
    pub(crate) audit_rate: AuditRate,
    pub(crate) nonces: EpochNonces,
    /// Miners that have been proven wrong in this epoch. They are not asked again in it: nothing they
    /// could answer changes what the epoch is for them, and a silent one costs a deadline each time.
    pub(crate) failed: Mutex<BTreeSet<Hotkey>>,
}

/// Sessions under way. Dropping it ends them; their counters are then dead.
pub(crate) struct UnderWay(JoinSet<Option<Finished>>);

impl UnderWay {
    /// The next session that ends; `None` after the last.
    pub(crate) async fn next(&mut self) -> Option<Finished> {
        while let Some(ended) = self.0.join_next().await {
            match ended {
                Ok(Some(finished)) => return Some(finished),
                Ok(None) => {}
                // Its counter has no end in the journal and is buried at the next start.
                Err(failure) => error!(%failure, "a session ended without a result"),
            }
        }
        None
    }
}

impl<C: Chain + 'static> Rounds<C> {
    /// Begins `requests` sessions with each target, `at_once` of them side by side and `per_miner`
    /// with one.
    pub(crate) fn begin(self, targets: Vec<Target>, requests: u32, at_once: usize, per_miner: usize) -> UnderWay {
        let shared = Arc::new(self);
        let all = Arc::new(Semaphore::new(at_once));
        let targets: Vec<_> = targets.into_iter().map(|target| (target, Arc::new(Semaphore::new(per_miner)))).collect();
        let mut sessions = JoinSet::new();
        for _ in 0..requests {
            for (target, own) in &targets {
                let (shared, target) = (Arc::clone(&shared), target.clone());
                let (all, own) = (Arc::clone(&all), Arc::clone(own));
                sessions.spawn(async move {
                    // The miner's own turn first: a slow one must not hold places that others could take.
                    let turns = (own.acquire_owned().await, all.acquire_owned().await);
                    let (ending, judged, counter) = shared.hold(&target).await?;
                    let (ending, transcript) = match judged {
                        Some(judged) => shared.keep(judged, ending, turns).await,
                        None => (ending, None),
                    };
                    Some(Finished { miner: target.peer.hotkey, counter, ending, transcript })
                });
            }
        }
        UnderWay(sessions)
    }

    /// Holds one session, unless the miner has failed in this epoch, or the epoch is over: sessions do not
    /// straddle epochs.
    async fn hold(&self, target: &Target) -> Option<(Ending, Option<Box<Judged>>, Option<u64>)> {
        let hotkey = target.peer.hotkey;
        if self.failed().contains(&hotkey)
            || !self.chain.head().await.is_ok_and(|head| head.epoch == self.nonces.epoch())
        {
            return None;
        }
        let model = match &target.model {
            Ok(model) => model,
            Err(ending) => return Some((*ending, None, None)),
        };
        let Some(random) = fresh_seed() else {
            return Some((Ending::OwnFault(OwnFault::PromptUnusable), None, None));
        };
        let ask = self.source.draw(random);
        let Ended { counter, outcome } =
            self.auditor.run(&target.peer, model, ask, self.rate(&hotkey), &self.nonces).await;
        if let Outcome::Judged(judged) = &outcome
            && let Verdict::Rejected(_) = judged.judgement.verdict
        {
            self.failed().insert(hotkey);
        }
        Some(match outcome {
            Outcome::Judged(judged) => (summary(&judged), Some(judged), counter),
            Outcome::Unavailable(silence) => (Ending::Unavailable(silence), None, counter),
            Outcome::Refused(reason) => (Ending::Refused(reason), None, counter),
            Outcome::OwnFault(fault) => (Ending::OwnFault(fault), None, counter),
        })
    }

    fn failed(&self) -> MutexGuard<'_, BTreeSet<Hotkey>> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How often this miner is audited, by its standing at the moment.
    fn rate(&self, miner: &Hotkey) -> AuditRate {
        match self.ledger.lock().unwrap_or_else(PoisonError::into_inner).audit_rate(miner) {
            assay_probation::AuditRate::Everything => AuditRate::Always,
            assay_probation::AuditRate::Policy => self.audit_rate,
        }
    }

    /// Stores a transcript, makes room for the next session, and tells the miner. A verdict that
    /// cannot be kept is none.
    async fn keep<T>(&self, judged: Box<Judged>, ending: Ending, turns: T) -> (Ending, Option<PathBuf>) {
        let store = self.store.clone();
        let saved = tokio::task::spawn_blocking(move || (store.save(&judged.file), judged)).await;
        drop(turns);
        match saved {
            Ok((Ok(path), judged)) => {
                judged.deliver().await;
                (ending, Some(path))
            }
            Ok((Err(failure), _)) => {
                error!(%failure, "a transcript cannot be kept: the session is inconclusive");
                (Ending::OwnFault(OwnFault::Storage), None)
            }
            Err(failure) => {
                error!(%failure, "a transcript cannot be kept: the session is inconclusive");
                (Ending::OwnFault(OwnFault::Storage), None)
            }
        }
    }
}

/// A judged session without its bytes.
fn summary(judged: &Judged) -> Ending {
    let record = &judged.file.record;
    let challenged = matches!(record.exchange, Exchange::Committed { reply: Reply::Challenged { .. }, .. });
    let count = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
    Ending::Judged {
        verdict: judged.judgement.verdict,
        challenged,
        tokens: count(record.streamed.len()),
        proof_bytes: count(judged.judgement.report.proof_bytes),
        measurements: judged.file.receipt.measurements,
    }
}
