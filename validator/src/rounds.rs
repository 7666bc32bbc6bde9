//! The sessions of an epoch, side by side within bounds.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use assay_audit::request::AuditRate;
use assay_audit::session::{Exchange, Reply};
use assay_audit::transcript_file::Measurements;
use assay_audit::verdict::{OwnFault, Verdict};
use assay_chain::{BlockNumber, Chain};
use assay_commitments::Hotkey;
use assay_probation::Ledger;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use crate::event::Ending;
use crate::model::VerifierModel;
use crate::nonces::EpochNonces;
use crate::places::{Place, Places};
use crate::requests::RequestSource;
use crate::session::{Auditor, Ended, Judged, Outcome, Peer, fresh_seed};
use crate::store::Store;

/// Between two attempts to learn where the chain stands.
pub(crate) const PATIENCE: Duration = Duration::from_secs(1);

/// A miner to be asked.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) peer: Peer,
    /// Sessions to hold with it.
    pub(crate) requests: u32,
    /// Or what becomes of every session with it.
    pub(crate) model: Result<Arc<VerifierModel>, NoModel>,
}

/// What becomes of a session whose model is not there.
#[derive(Clone, Copy)]
pub(crate) enum NoModel {
    /// It ends so: if no miner that declares the model would send it, with their silence; if we could not
    /// fetch, read or keep it, with our own fault.
    Ends(Ending),
    /// There was no time to ask this miner for it, and so there is none for its sessions.
    Late,
}

/// A session that has ended.
pub(crate) struct Finished {
    pub(crate) miner: Hotkey,
    pub(crate) counter: Option<u64>,
    pub(crate) ending: Ending,
    /// What it took the miner; `None` if it says nothing about that.
    pub(crate) took: Option<Duration>,
    pub(crate) transcript: Option<PathBuf>,
}

/// What became of a session that was to be held.
pub(crate) enum Held {
    /// It has ended.
    Finished(Box<Finished>),
    /// There was no time for it before the epoch's weights are due.
    Late(Hotkey),
    /// The validator stops.
    Stopped,
}

/// Why a session does not begin.
enum Skip {
    /// Nothing depends on it.
    Idle,
    Late,
    Stopped,
}

/// A session that has been held, and is not yet kept.
struct Session {
    counter: Option<u64>,
    ending: Ending,
    judged: Option<Box<Judged>>,
    took: Option<Duration>,
}

impl Session {
    /// One that never began.
    const fn none(ending: Ending) -> Self {
        Self { counter: None, ending, judged: None, took: None }
    }
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
    /// The block from which on no session begins.
    pub(crate) until: Option<BlockNumber>,
    /// Once it is set, no session begins.
    pub(crate) stop: CancellationToken,
    /// Miners that have been proven wrong in this epoch. They are not asked again in it: nothing they
    /// could answer changes what the epoch is for them, and a silent one costs a deadline each time.
    pub(crate) failed: Mutex<BTreeSet<Hotkey>>,
}

/// Sessions under way. Dropping it ends them; their counters are then dead.
pub(crate) struct UnderWay(JoinSet<Option<Held>>);

impl UnderWay {
    /// What becomes of the next session; `None` after the last.
    pub(crate) async fn next(&mut self) -> Option<Held> {
        while let Some(ended) = self.0.join_next().await {
            match ended {
                Ok(Some(held)) => return Some(held),
                Ok(None) => {}
                // Its counter has no end in the journal and is buried at the next start.
                Err(failure) => error!(%failure, "a session ended without a result"),
            }
        }
        None
    }
}

impl<C: Chain + 'static> Rounds<C> {
    /// Begins the sessions with all targets, `at_once` of them side by side and `per_miner` with one.
    pub(crate) fn begin(self, targets: &[Target], at_once: usize, per_miner: usize) -> UnderWay {
        let (shared, places) = (Arc::new(self), Places::new(at_once, per_miner, targets.len()));
        let mut sessions = JoinSet::new();
        let rounds = targets.iter().map(|target| target.requests).max().unwrap_or(0);
        for round in 0..rounds {
            for (number, target) in targets.iter().enumerate().filter(|(_, target)| round < target.requests) {
                let (shared, asked, target) = (Arc::clone(&shared), places.ask(number), target.clone());
                sessions.spawn(async move {
                    let (mut place, miner) = (asked.await, target.peer.hotkey);
                    let Session { ending, judged, counter, took } = match shared.hold(&target).await {
                        Ok(held) => held,
                        Err(Skip::Idle) => return None,
                        Err(Skip::Late) => return Some(Held::Late(miner)),
                        Err(Skip::Stopped) => return Some(Held::Stopped),
                    };
                    place.took = took.unwrap_or_default();
                    let (ending, transcript) = match judged {
                        Some(judged) => shared.keep(judged, ending, place).await,
                        None => (ending, None),
                    };
                    Some(Held::Finished(Box::new(Finished { miner, counter, ending, took, transcript })))
                });
            }
        }
        UnderWay(sessions)
    }

    /// Holds one session, unless the miner has failed in this epoch, or the epoch is over: sessions do not
    /// straddle epochs.
    async fn hold(&self, target: &Target) -> Result<Session, Skip> {
        let hotkey = target.peer.hotkey;
        if self.failed().contains(&hotkey) {
            return Err(Skip::Idle);
        }
        if self.stop.is_cancelled() {
            return Err(Skip::Stopped);
        }
        // Without a model a session takes no time, so that it never comes too late to be its miner's silence.
        let model = match &target.model {
            Ok(model) => model,
            Err(NoModel::Ends(ending)) => return Ok(Session::none(*ending)),
            Err(NoModel::Late) => return Err(Skip::Late),
        };
        self.wait_for_turn().await?;
        let Some(random) = fresh_seed() else {
            return Ok(Session::none(Ending::OwnFault(OwnFault::PromptUnusable)));
        };
        let (ask, began) = (self.source.draw(random), Instant::now());
        let Ended { counter, outcome } =
            self.auditor.run(&target.peer, model, ask, self.rate(&hotkey), &self.nonces).await;
        if let Outcome::Judged(judged) = &outcome
            && let Verdict::Rejected(_) = judged.judgement.verdict
        {
            self.failed().insert(hotkey);
        }
        let (ending, judged) = match outcome {
            Outcome::Judged(judged) => (summary(&judged), Some(judged)),
            Outcome::Unavailable(silence) => (Ending::Unavailable(silence), None),
            Outcome::Refused(reason) => (Ending::Refused(reason), None),
            Outcome::OwnFault(fault) => (Ending::OwnFault(fault), None),
        };
        let took = took(&ending, began.elapsed());
        Ok(Session { counter, ending, judged, took })
    }

    /// Whether a session may begin now. A chain that does not answer is waited for: leaving sessions out
    /// would cost miners an epoch for what they did not do.
    async fn wait_for_turn(&self) -> Result<(), Skip> {
        loop {
            if self.stop.is_cancelled() {
                return Err(Skip::Stopped);
            }
            match self.chain.head().await {
                Ok(head) if head.epoch != self.nonces.epoch() => return Err(Skip::Late),
                Ok(head) if self.until.is_some_and(|until| head.block >= until) => return Err(Skip::Late),
                Ok(_) => return Ok(()),
                Err(refusal) => {
                    warn!(%refusal, "a session waits for the chain");
                    tokio::select! {
                        () = tokio::time::sleep(PATIENCE) => {}
                        () = self.stop.cancelled() => {}
                    }
                }
            }
        }
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
    async fn keep(&self, judged: Box<Judged>, ending: Ending, place: Place) -> (Ending, Option<PathBuf>) {
        let store = self.store.clone();
        let saved = tokio::task::spawn_blocking(move || (store.save(&judged.file), judged)).await;
        drop(place);
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

/// What a session took the miner by our clock. Our own part (judging, waiting for our turn to judge, storing) is none of
/// it, and a session that came to nothing by our own fault says nothing.
fn took(ending: &Ending, elapsed: Duration) -> Option<Duration> {
    match ending {
        Ending::Judged { verdict: Verdict::Inconclusive(_), .. } | Ending::OwnFault(_) => None,
        Ending::Judged { measurements, .. } => {
            let Measurements { first_token_ms, generation_ms, commitment_ms, proof_ms, verify_us: _ } = *measurements;
            let parts = [first_token_ms, generation_ms, commitment_ms, proof_ms];
            Some(Duration::from_millis(parts.map(u64::from).iter().sum()))
        }
        Ending::Unavailable(_) | Ending::Refused(_) => Some(elapsed),
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
