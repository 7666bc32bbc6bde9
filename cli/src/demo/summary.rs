//! What the demo came to: a table for people, a document for scripts, and whether it went as it should.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use assay_validator::EpochReport;
use serde_json::{Value, json};

use super::cast::{Behaviour, Role};
use super::narrator::coins;
use super::stage::Stage;

/// One miner over the whole demo.
#[derive(Clone, Debug)]
struct Line {
    role: Role,
    hotkey: String,
    requests: u32,
    audits: u32,
    accepted: u32,
    inconclusive: u32,
    rejected: BTreeMap<String, u32>,
    standing: String,
    weight: u16,
    /// Whether it ever held weight in an epoch after which it stood on probation.
    paid_on_probation: bool,
    emission: u64,
}

impl Line {
    fn failures(&self) -> u32 {
        self.rejected.values().sum()
    }

    /// A cheater must have been caught and hold nothing; one that reformed must have been caught, have
    /// held nothing while on probation, and hold weight again.
    fn is_punished(&self) -> bool {
        let caught = self.failures() > 0 && !self.paid_on_probation;
        if self.role.behaviour == Behaviour::Reforms { caught && self.weight > 0 } else { caught && self.weight == 0 }
    }
}

/// Adds up epochs.
pub(crate) struct Tally {
    manifest: String,
    lines: Vec<Line>,
}

impl Tally {
    pub(crate) fn new(stage: &Stage) -> Self {
        let line = |seat: &super::stage::Seat| Line {
            role: seat.role,
            hotkey: seat.hotkey.to_string(),
            requests: 0,
            audits: 0,
            accepted: 0,
            inconclusive: 0,
            rejected: BTreeMap::new(),
            standing: "unproven".to_owned(),
            weight: 0,
            paid_on_probation: false,
            emission: 0,
        };
        Self { manifest: stage.manifest().to_owned(), lines: stage.players.iter().map(line).collect() }
    }

    pub(crate) fn add(&mut self, judged: &EpochReport, paid: &assay_chain::EpochReport) {
        for line in &mut self.lines {
            if let Some(miner) = judged.miners.iter().find(|miner| miner.hotkey == line.hotkey) {
                line.requests += miner.requests;
                line.audits += miner.audits;
                line.accepted += miner.accepted;
                line.inconclusive += miner.inconclusive;
                for (slug, count) in &miner.rejected {
                    *line.rejected.entry(slug.clone()).or_default() += count;
                }
                line.standing.clone_from(&miner.standing);
                line.weight = miner.weight;
                line.paid_on_probation |= miner.standing == "probation" && miner.weight > 0;
            }
            let mined = paid.neurons.iter().filter(|neuron| neuron.hotkey.to_string() == line.hotkey);
            line.emission += mined.map(|neuron| neuron.mining.get()).sum::<u64>();
        }
    }

    pub(crate) fn conclude(self, epochs: u64, transcripts: &Path) -> Summary {
        Summary { epochs, manifest: self.manifest, transcripts: transcripts.to_owned(), lines: self.lines }
    }
}

/// The end of the demo.
pub(crate) struct Summary {
    epochs: u64,
    manifest: String,
    transcripts: PathBuf,
    lines: Vec<Line>,
}

impl Summary {
    fn honest_rejected(&self) -> u32 {
        self.lines.iter().filter(|line| line.role.behaviour.is_honest()).map(Line::failures).sum()
    }

    fn unpunished(&self) -> Vec<&'static str> {
        let cheats = self.lines.iter().filter(|line| !line.role.behaviour.is_honest());
        cheats.filter(|line| !line.is_punished()).map(|line| line.role.name).collect()
    }

    /// No honest miner rejected, every cheater caught and without weight.
    pub(crate) fn is_as_it_should_be(&self) -> bool {
        self.honest_rejected() == 0 && self.unpunished().is_empty()
    }

    pub(crate) fn to_json(&self) -> Value {
        let miners: Vec<Value> = self
            .lines
            .iter()
            .map(|line| {
                json!({
                    "name": line.role.name,
                    "hotkey": line.hotkey,
                    "behaviour": line.role.behaviour.slug(),
                    "requests": line.requests,
                    "audits": line.audits,
                    "accepted": line.accepted,
                    "inconclusive": line.inconclusive,
                    "rejected": line.rejected,
                    "standing": line.standing,
                    "weight": line.weight,
                    "emission": line.emission,
                })
            })
            .collect();
        json!({
            "network": "devnet",
            "epochs": self.epochs,
            "manifest_id": self.manifest,
            "transcripts": self.transcripts,
            "miners": miners,
            "honest_rejected": self.honest_rejected(),
            "cheaters_unpunished": self.unpunished(),
        })
    }

    /// The table, the path of the transcripts, and the command that replays one.
    pub(crate) fn table(&self, elapsed: Duration) -> String {
        let mut out = String::new();
        let _ = writeln!(
            out,
            "{:<10} {:<28} {:>6} {:>8}  {:<34} {:<10} {:>7} {:>9}",
            "miner", "what it did", "audits", "accepted", "caught by", "standing", "weight", "emission"
        );
        for line in &self.lines {
            let caught: Vec<String> = line.rejected.iter().map(|(slug, count)| format!("{slug} x{count}")).collect();
            let caught = if caught.is_empty() { "-".to_owned() } else { caught.join(", ") };
            let _ = writeln!(
                out,
                "{:<10} {:<28} {:>6} {:>8}  {:<34} {:<10} {:>5.1} % {:>9.2}",
                line.role.name,
                line.role.behaviour.describe(),
                line.audits,
                line.accepted,
                caught,
                line.standing,
                100.0 * f64::from(line.weight) / 65_535.0,
                coins(line.emission),
            );
        }
        let _ = writeln!(out, "\n{}", self.sentence());
        let _ = writeln!(
            out,
            "{} epochs in {:.0} s; transcripts in {}",
            self.epochs,
            elapsed.as_secs_f64(),
            self.transcripts.display()
        );
        if let Some(example) = self.example() {
            let _ = writeln!(out, "replay one: cargo run --release -- audit verify {}", example.display());
        }
        out
    }

    fn sentence(&self) -> String {
        let (wronged, free) = (self.honest_rejected(), self.unpunished());
        match (wronged, free.is_empty()) {
            (0, true) => "No honest miner was rejected, and every cheater was caught.".to_owned(),
            (0, false) => {
                format!("No honest miner was rejected, but not all cheaters were punished: {}.", free.join(", "))
            }
            (_, _) => format!("Honest responses rejected: {wronged}; cheaters unpunished: {}.", free.len()),
        }
    }

    /// A rejected transcript, if there is one: the more interesting to look at.
    fn example(&self) -> Option<PathBuf> {
        let files = crate::files::transcripts(&self.transcripts).ok()?;
        let rejected = files.iter().find(|path| path.to_string_lossy().contains("rejected")).cloned();
        rejected.or_else(|| files.into_iter().next())
    }
}
