//! `assay audit epoch`: whether a validator drew its nonces and audits as it had to, and asked all on the same terms.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use assay_audit::epoch_log::{Account, EpochLog, Tally};
use assay_audit::request::Network;
use assay_audit::transcript_file::TranscriptFile;
use assay_audit::verdict::{OwnFault, Verdict};
use assay_commitments::{Epoch, Hotkey};
use assay_validator::LOG_NAME;
use serde_json::{Value, json};

use super::{rate, share};
use crate::assets::Assets;
use crate::files::{files_below, lacking, read_log, read_transcript, transcripts};
use crate::in_order::in_order;
use crate::outcome::{CommandResult, Fault, Outcome};
use crate::past::{Claims, Past, PastArgs};
use crate::terminal::{Paint, Progress, complain, print, print_json, table};

/// What to check.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Folder of a validator's transcripts, with the logs of its epochs
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
    /// Folder of tokenizers and chat templates that transcripts name by digest: each under its BLAKE3
    /// digest in hexadecimal. FOLDER/assets if that is there, where a validator puts them
    #[arg(long, value_name = "DIR")]
    assets: Option<PathBuf>,
    #[command(flatten)]
    past: PastArgs,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// One epoch of one validator.
struct Checked {
    log: EpochLog,
    tallies: BTreeMap<Hotkey, Tally>,
    /// Whether the validator signed another log of the epoch.
    is_one_of_two: bool,
    /// An epoch of another log with the same key, whose nonces are known once either is over.
    key_of: Option<Epoch>,
    /// What the chain says otherwise, which shows the validator wrong.
    contradicted: Option<&'static str>,
    /// What could not be checked.
    unchecked: Option<&'static str>,
}

pub(crate) fn run(args: &Args) -> CommandResult {
    if let Some(why) = lacking(&args.folder) {
        return Err(Fault::damaged(format!("{}: {why}: name one of transcripts", args.folder.display())));
    }
    let assets = Assets::new(args.assets.as_deref(), std::slice::from_ref(&args.folder))?;
    let (logs, mut damaged) = read_logs(&args.folder)?;
    let files = transcripts(&args.folder)?;
    if logs.is_empty() && files.is_empty() && !damaged {
        let folder = args.folder.display();
        return Err(Fault::own(format!(
            "{folder} holds no epoch log and no transcript: name a validator's folder of them"
        )));
    }
    let past = args.past.look_up(|| claims(&logs))?;
    let mut accounts: Vec<Account<'_>> = logs.iter().map(Account::new).collect();
    let progress = Progress::new("replaying");
    let mut without_log = 0_u64;
    let mut number = 0;
    in_order(
        &files,
        |path| replayed(path, &logs, &assets),
        |_, replayed| {
            let fault = match replayed {
                Ok((file, verdict)) => {
                    let of_its_epoch = logs.iter().zip(&mut accounts).filter(|(log, _)| log.is_of(&file.record));
                    let known = *verdict.as_ref().unwrap_or(&WITHOUT_ASSETS);
                    let count = of_its_epoch.map(|(_, account)| account.add(&file, known)).count();
                    without_log += u64::from(count == 0);
                    verdict.err()
                }
                Err(fault) => Some(fault),
            };
            if let Some(fault) = fault {
                damaged = true;
                progress.aside(|| complain("error", &fault));
            }
            number += 1;
            progress.tell(number, files.len() as u64);
            Ok(ControlFlow::Continue(()))
        },
    )?;
    drop(progress);
    let tallies: Vec<_> = accounts.into_iter().map(Account::finish).collect();
    let is_one_of_two = |log: &EpochLog| logs.iter().filter(|other| epoch_of(other) == epoch_of(log)).count() > 1;
    let key_of = |log: &EpochLog| {
        let is_same = |other: &&EpochLog| {
            (other.validator, other.key) == (log.validator, log.key) && epoch_of(other) != epoch_of(log)
        };
        logs.iter().find(is_same).map(|other| other.epoch)
    };
    let beside: Vec<(bool, Option<Epoch>)> = logs.iter().map(|log| (is_one_of_two(log), key_of(log))).collect();
    let checked: Vec<Checked> = logs
        .into_iter()
        .zip(tallies)
        .zip(beside)
        .map(|((log, tallies), (is_one_of_two, key_of))| {
            let (contradicted, unchecked) = on_chain(&log, past.as_ref());
            Checked { log, tallies, is_one_of_two, key_of, contradicted, unchecked }
        })
        .collect();
    let outcome = outcome(&checked, damaged, without_log, past.is_some());
    if args.json {
        print_json(&json!({
            "epochs": checked.iter().map(Checked::json).collect::<Vec<_>>(),
            "without_log": without_log,
            "selective": outcome == Outcome::Rejected,
        }))?;
    } else {
        let paint = Paint::stdout();
        let mut text: Vec<String> = checked.iter().map(|checked| checked.text(paint)).collect();
        text.push(conclusion(outcome, without_log));
        print(&text.join("\n"))?;
    }
    Ok(outcome)
}

/// What an honest validator signs one log of.
const fn epoch_of(log: &EpochLog) -> (Hotkey, Epoch, Network) {
    (log.validator, log.epoch, log.network)
}

fn claims(logs: &[EpochLog]) -> Claims {
    let mut claims = Claims::default();
    for log in logs {
        claims.add(log.network, log.epoch, [log.validator, log.validator]);
    }
    claims
}

/// The logs below a folder by validator and epoch, and whether there are some that cannot be read.
fn read_logs(folder: &Path) -> Result<(Vec<EpochLog>, bool), Fault> {
    let (mut logs, mut damaged): (Vec<EpochLog>, _) = (vec![], false);
    for path in files_below(folder, |path| path.file_name().is_some_and(|name| name == LOG_NAME))? {
        match read_log(&path) {
            Ok(log) if logs.contains(&log) => {}
            Ok(log) => logs.push(log),
            Err(fault) => {
                damaged = true;
                complain("error", &fault);
            }
        }
    }
    logs.sort_by_key(|log| (log.validator, log.epoch, log.digest()));
    Ok((logs, damaged))
}

/// A transcript and what it is judged again with, or what its assets suffer from.
type Replayed = (TranscriptFile, Result<Verdict, Fault>);

/// The verdict on a transcript whose assets are not there.
const WITHOUT_ASSETS: Verdict = Verdict::Inconclusive(OwnFault::AssetMissing);

/// Judges a transcript again, if there is a log of its epoch.
fn replayed(path: &Path, logs: &[EpochLog], assets: &Assets) -> Result<Replayed, Fault> {
    let file = read_transcript(path)?;
    if !logs.iter().any(|log| log.is_of(&file.record)) {
        return Ok((file, Ok(WITHOUT_ASSETS)));
    }
    let verdict = assets.of(&file).map(|assets| file.judge_with(assets.as_deref()).verdict);
    Ok((file, verdict))
}

/// What the chain says otherwise of a log, and what it does not say.
fn on_chain(log: &EpochLog, past: Option<&Past>) -> (Option<&'static str>, Option<&'static str>) {
    let Some(history) = past.map(|past| past.of(log.epoch)) else {
        return (None, Some("not compared with a chain: whether key and log stand there is open (--network)"));
    };
    let network = (history.network.genesis.as_bytes(), history.network.netuid.get());
    if network != (&log.network.genesis, log.network.netuid) {
        return (None, Some("the log is of another chain or subnet than the one given"));
    }
    let Some(published) = history.epoch_key(&log.validator, log.epoch) else {
        return (Some("no key was published for the epoch"), None);
    };
    if !history.was_published_in_time(published, log.epoch) {
        return (Some("the key was published when its epoch was over"), None);
    }
    if *published.hash.as_bytes() != log.key_hash() {
        return (Some("the key is not the one whose hash was published"), None);
    }
    match published.requests {
        Some(digest) if *digest.as_bytes() == log.digest() => (None, None),
        Some(_) => (Some("the log is not the one whose digest was published"), None),
        None => (None, Some("key and log are not on chain yet")),
    }
}

/// What was shown counts before what is missing or damaged: neither leaving files out nor putting others beside them
/// hides anything.
fn outcome(checked: &[Checked], damaged: bool, without_log: u64, has_chain: bool) -> Outcome {
    let missing = |checked: &Checked| {
        let is_short = |tally: &Tally| tally.missing > 0 || tally.made < tally.owed;
        checked.tallies.values().any(is_short) || (has_chain && checked.unchecked.is_some())
    };
    if checked.iter().any(Checked::is_selective) {
        Outcome::Rejected
    } else if damaged {
        Outcome::Damaged
    } else if checked.is_empty() || without_log > 0 || checked.iter().any(missing) {
        Outcome::Inconclusive
    } else {
        Outcome::Done
    }
}

fn conclusion(outcome: Outcome, without_log: u64) -> String {
    let without = match without_log {
        0 => String::new(),
        count => format!(" {count} transcripts are of epochs without a log: their keys are not revealed yet."),
    };
    let text = match outcome {
        Outcome::Rejected => {
            "The validator did not follow its own draw, or not with all miners alike, or keeps two accounts of it, or states \
             what is not so. This says nothing against any miner."
        }
        Outcome::Inconclusive => {
            "Transcripts, logs, audits that were owed or what the chain should say are missing, or what transcripts are judged \
             with: ask the validator for them, and name its folder of tokenizers and templates (--assets)."
        }
        Outcome::Damaged => "Files are damaged: fetch them again.",
        Outcome::Done | Outcome::Usage => {
            "Every nonce is the key's, every reply the one that its draw calls for, and all were asked on the same terms."
        }
    };
    format!("{text}{without}\n")
}

impl Checked {
    /// Whether something is shown of the validator.
    fn is_selective(&self) -> bool {
        let of_others = self.is_one_of_two || self.key_of.is_some() || self.contradicted.is_some();
        of_others || self.tallies.values().any(|tally| !tally.shown.is_empty())
    }

    fn text(&self, paint: Paint) -> String {
        let log = &self.log;
        let mut text = format!("validator {}, epoch {}\n", paint.bold(&log.validator.to_string()), log.epoch);
        let row = |(miner, tally): (&Hotkey, &Tally)| {
            let name: String = miner.to_string().chars().take(16).collect();
            let rates = match tally.rates.len() {
                0 => "-".to_owned(),
                1..=3 => tally.rates.iter().copied().map(rate).collect::<Vec<_>>().join(", "),
                many => format!("{many} rates"),
            };
            let counts = [
                tally.owed,
                tally.made,
                tally.unaudited,
                tally.uncommitted,
                tally.settled,
                tally.silent,
                tally.refused,
                tally.faults,
                tally.dead,
                tally.missing,
                tally.shown.len() as u64,
            ];
            [name, tally.requests.to_string(), rates].into_iter().chain(counts.iter().map(u64::to_string)).collect()
        };
        let rows: Vec<Vec<String>> = self.tallies.iter().map(row).collect();
        let head = [
            "miner",
            "requests",
            "rate",
            "owed",
            "made",
            "unaudited",
            "uncommitted",
            "settled",
            "silent",
            "refused",
            "faults",
            "dead",
            "missing",
            "shown",
        ];
        text.push_str(&table(&head, &rows, paint));
        for (miner, tally) in &self.tallies {
            for (counter, shown) in &tally.shown {
                let _ = writeln!(text, "{} counter {counter} of {miner}: {}", paint.red("shown:"), shown.describe());
            }
        }
        if self.is_one_of_two {
            let digest = hex::encode(log.digest());
            let _ = writeln!(
                text,
                "{} the validator signed another log of the same epoch; this is {digest}",
                paint.red("shown:")
            );
        }
        if let Some(other) = self.key_of {
            let _ =
                writeln!(text, "{} the key is that of epoch {other} too: its nonces were known", paint.red("shown:"));
        }
        if let Some(why) = self.contradicted {
            let _ = writeln!(text, "{} {why}", paint.red("shown:"));
        }
        if let Some(why) = self.unchecked {
            let _ = writeln!(text, "{why}");
        }
        text
    }

    fn json(&self) -> Value {
        let log = &self.log;
        let miners = self.tallies.iter().map(|(miner, tally)| {
            let shown =
                tally.shown.iter().map(|(counter, shown)| json!({"counter": counter, "what": shown.describe()}));
            json!({
                "hotkey": miner.to_string(),
                "requests": tally.requests,
                "rates": tally.rates.iter().copied().map(share).collect::<Vec<_>>(),
                "owed": tally.owed,
                "made": tally.made,
                "unaudited": tally.unaudited,
                "uncommitted": tally.uncommitted,
                "settled": tally.settled,
                "silent": tally.silent,
                "refused": tally.refused,
                "faults": tally.faults,
                "dead": tally.dead,
                "missing": tally.missing,
                "shown": shown.collect::<Vec<_>>(),
            })
        });
        json!({
            "validator": log.validator.to_string(),
            "epoch": log.epoch.get(),
            "digest": hex::encode(log.digest()),
            "is_one_of_two": self.is_one_of_two,
            "key_of": self.key_of.map(Epoch::get),
            "miners": miners.collect::<Vec<_>>(),
            "selective": self.is_selective(),
            "contradicted": self.contradicted,
            "unchecked": self.unchecked,
        })
    }
}
