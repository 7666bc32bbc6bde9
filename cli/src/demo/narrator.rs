//! Tells what happens while the demo runs. It speaks on standard output, or on standard error when that
//! is kept for one JSON document.

use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use assay_audit::verdict::{Failure, Verdict};
use assay_commitments::{Hotkey, ManifestId};
use assay_validator::{Ending, EpochReport, ValidatorEvent};

use super::auditor::Replayed;
use super::cast::Role;
use super::stage::{Seat, Stage};
use crate::terminal::Paint;

/// The teller.
pub(crate) struct Narrator {
    quiet: bool,
    begin: Instant,
    paint: Paint,
    standings: Mutex<HashMap<String, String>>,
}

impl Narrator {
    pub(crate) fn new(json: bool) -> Self {
        Self { quiet: json, begin: Instant::now(), paint: Paint::stdout(), standings: Mutex::default() }
    }

    fn say(&self, line: &str) {
        // A reader that went away is no reason to stop: the exit code still counts.
        if self.quiet {
            let _ = writeln!(std::io::stderr(), "{line}");
        } else {
            let _ = writeln!(std::io::stdout(), "{line}");
        }
    }

    pub(crate) fn opening(&self) {
        self.say(&self.paint.bold("Assay demo: a subnet in one process, over loopback gRPC"));
        self.say("");
    }

    /// Progress of the commitment, for another thread.
    pub(crate) fn progress(&self) -> impl Fn(usize, usize) + Send + use<> {
        let quiet = self.quiet;
        move |done, all| {
            if done == all && !quiet {
                let _ = writeln!(std::io::stdout(), "model      committed: {all} weight polynomials");
            }
        }
    }

    pub(crate) fn set_up(&self, players: &[Seat], manifest: &ManifestId) {
        self.say(&format!("manifest   {manifest} (the only thing of the model on chain)"));
        self.say(&format!("miners     {} on loopback ports, {} of them honest", players.len(), honest(players)));
        self.say("validator  has no weights and no GPU; draws nonces, verifies sumcheck proofs on the CPU");
        self.say("");
    }

    /// Takes what the validator tells.
    pub(crate) fn told(&self, names: &HashMap<Hotkey, Role>, event: &ValidatorEvent) {
        let name = |hotkey: &Hotkey| names.get(hotkey).map_or("somebody", |role| role.name);
        match event {
            ValidatorEvent::EpochBegan { epoch, miners, requests } => {
                let title = format!("epoch {epoch}");
                self.say(&format!(
                    "{}  {requests} requests to each of {miners} miners  ({:.0} s)",
                    self.paint.bold(&title),
                    self.begin.elapsed().as_secs_f64()
                ));
            }
            ValidatorEvent::Session { miner, ending, .. } => {
                if let Some(line) = self.session(ending) {
                    self.say(&format!("  {:<10} {line}", name(miner)));
                }
            }
            ValidatorEvent::Skipped { miner, why } => self.say(&format!("  {:<10} not asked: {why}", name(miner))),
            ValidatorEvent::ModelFetched { from, .. } => {
                self.say(&format!(
                    "  the validator fetched manifest, tokenizer and embedding digests from {}",
                    name(from)
                ));
            }
            ValidatorEvent::Buried { miner, .. } => {
                self.say(&format!("  {:<10} an interrupted session is inconclusive", name(miner)));
            }
            ValidatorEvent::Waits(_) | ValidatorEvent::KeyRevealed { .. } | ValidatorEvent::EpochEnded(_) => {}
        }
    }

    /// A line for what is worth one: accepted sessions are counted at the end of the epoch.
    fn session(&self, ending: &Ending) -> Option<String> {
        match ending {
            Ending::Judged { verdict: Verdict::Rejected(failure), .. } => {
                Some(format!("{}  {}", self.paint.red("rejected"), place(failure)))
            }
            Ending::Judged { verdict: Verdict::Inconclusive(fault), .. } | Ending::OwnFault(fault) => {
                Some(format!("{}  {fault} (our own fault)", self.paint.yellow("inconclusive")))
            }
            Ending::Unavailable(silence) => Some(format!("no answer  ({silence:?})")),
            Ending::Refused(reason) => Some(format!("refused  ({})", reason.name())),
            Ending::Judged { verdict: Verdict::Accepted, .. } => None,
        }
    }

    pub(crate) fn epoch_ended(&self, stage: &Stage, judged: &EpochReport, paid: &assay_chain::EpochReport) {
        let names: BTreeMap<String, &'static str> =
            stage.players.iter().map(|seat| (seat.hotkey.to_string(), seat.role.name)).collect();
        let total = |count: fn(&assay_validator::MinerReport) -> u32| judged.miners.iter().map(count).sum::<u32>();
        let rejected: u32 = judged.miners.iter().flat_map(|miner| miner.rejected.values()).sum();
        self.say(&format!(
            "  {} audits: {} accepted, {rejected} rejected, {} inconclusive; {} responses settled without one",
            total(|miner| miner.audits),
            total(|miner| miner.accepted),
            total(|miner| miner.inconclusive),
            total(|miner| miner.settled),
        ));
        let mut standings = self.standings.lock().unwrap_or_else(PoisonError::into_inner);
        for miner in &judged.miners {
            let before = standings.insert(miner.hotkey.clone(), miner.standing.clone());
            let before = before.as_deref().unwrap_or("unproven");
            if before != miner.standing && before == "probation" {
                let name = names.get(&miner.hotkey).copied().unwrap_or("somebody");
                let news = format!("{name} has served its probation");
                self.say(&format!("  {}", self.paint.green(&news)));
            }
        }
        let share = |weight: u16| 100.0 * f64::from(weight) / 65_535.0;
        let earners: Vec<String> = judged
            .miners
            .iter()
            .filter(|miner| miner.weight > 0)
            .map(|miner| {
                let name = names.get(&miner.hotkey).copied().unwrap_or("somebody");
                format!("{name} {:.1} %", share(miner.weight))
            })
            .collect();
        let earners = if earners.is_empty() { "nobody".to_owned() } else { earners.join(", ") };
        let refused = judged.weights_refused.as_ref().map(|why| format!(" (not set: {why})")).unwrap_or_default();
        self.say(&format!("  weights: {earners}; burned {:.1} %{refused}", share(judged.burned)));
        let mined: u64 = paid.neurons.iter().map(|neuron| neuron.mining.get()).sum();
        self.say(&format!("  block {}: emission to miners {:.2}", paid.block, coins(mined)));
        self.say("");
    }

    pub(crate) fn audited(&self, replayed: &Replayed) {
        self.say(&format!(
            "auditor    replayed {} transcripts offline in {:.1} s: {} verdicts agree, {} differ; {} nonces checked \
             against revealed epoch keys",
            replayed.files,
            replayed.seconds,
            replayed.files - replayed.differing,
            replayed.differing,
            replayed.nonces,
        ));
        self.say("");
    }
}

fn honest(players: &[Seat]) -> usize {
    players.iter().filter(|seat| seat.role.behaviour.is_honest()).count()
}

/// Whole coins of an amount.
#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
pub(crate) fn coins(rao: u64) -> f64 {
    rao as f64 / 1e9
}

fn place(failure: &Failure) -> String {
    let place = &failure.place;
    let layer = place.layer.map(|layer| format!(", layer {layer}")).unwrap_or_default();
    let position = place.position.map(|position| format!(", position {position}")).unwrap_or_default();
    format!("{}: {}{layer}{position}", failure.reason.slug(), failure.reason)
}
