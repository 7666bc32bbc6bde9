//! Faults of the validator's own: each makes sessions inconclusive, leaves an honest miner's standing, score
//! and weight as they were, and tells the operator what to do.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use assay_audit::judge::judge;
use assay_audit::verdict::OwnFault;
use assay_validator::ModelError;

use super::*;

/// Where a child process finds the validator's records, and what it is to do with them.
const FOLDER: &str = "ASSAY_FAULTS_FOLDER";
const PART: &str = "ASSAY_FAULTS_PART";

/// What an epoch leaves a miner with.
type Left = (String, u32, u16);

fn left(miner: &MinerReport) -> Left {
    (miner.standing.clone(), miner.score, miner.weight)
}

fn settings_in(world: &World, folder: &Path) -> Settings {
    Settings { directory: folder.join("validator"), transcripts: folder.join("transcripts"), ..world.settings() }
}

fn prompts(texts: &[&str]) -> PromptList {
    PromptList::new(texts.iter().map(|&text| Prompt::Text(text.to_owned())).collect(), 12).unwrap()
}

type Seen = Arc<Mutex<Vec<ValidatorEvent>>>;

async fn opened(world: &World, settings: Settings, source: PromptList) -> (Validator<Devnet>, Seen) {
    let seen = Seen::default();
    let sink = Arc::clone(&seen);
    let chain = Arc::new(world.chain.clone());
    let events = move |event| sink.lock().unwrap().push(event);
    (Validator::open(settings, chain, source, events).await.unwrap(), seen)
}

/// A clean epoch, after which the miner has something to lose.
async fn clean_epoch(world: &World) -> Left {
    let (mut validator, _) = opened(world, world.settings(), prompts(&["to be or not", "a b c"])).await;
    let report = validator.run_epoch().await.unwrap();
    let miner = miner_of(&report.miners, 1);
    assert_eq!((miner.accepted, miner.standing.as_str()), (3, "good"), "{report:?}");
    assert!(miner.weight > 0 && miner.score > 0);
    world.next_epoch().await;
    left(miner)
}

/// The faults of the sessions seen, each with what its operator is told.
fn faults(seen: &Seen) -> Vec<OwnFault> {
    let seen = seen.lock().unwrap();
    let endings = seen.iter().filter_map(|event| match event {
        ValidatorEvent::Session { ending, .. } => Some(*ending),
        _ => None,
    });
    let fault = |ending| match ending {
        Ending::OwnFault(fault) | Ending::Judged { verdict: Verdict::Inconclusive(fault), .. } => Some(fault),
        _ => None,
    };
    endings.filter_map(fault).collect()
}

fn check(miner: &MinerReport, inconclusive: u32, before: &Left) {
    assert_eq!((miner.inconclusive, miner.unavailable), (inconclusive, 0), "{miner:?}");
    assert!(miner.rejected.is_empty(), "{miner:?}");
    assert_eq!(left(miner), *before, "{miner:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_is_missing_is_not_held_against_its_miners() {
    let world = world().await;
    let _miner = world.miner(1, world.honest.clone()).await;
    let before = clean_epoch(&world).await;
    // A file where the folder of assets should be stands for a disk that fails.
    let transcripts = world.directory.path().join("transcripts");
    std::fs::write(transcripts.join("assets"), b"").unwrap();
    let mut settings = world.settings();
    settings.terms.inline_assets = false;
    let (mut validator, seen) = opened(&world, settings.clone(), prompts(&["a"])).await;
    let report = validator.run_epoch().await.unwrap();
    check(miner_of(&report.miners, 1), 3, &before);
    assert_eq!(faults(&seen), [OwnFault::Storage; 3]);
    assert!(OwnFault::Storage.remedy().contains("disk"));
    drop(validator);

    std::fs::remove_file(transcripts.join("assets")).unwrap();
    world.next_epoch().await;
    let (mut validator, _) = opened(&world, settings, prompts(&["a"])).await;
    assert_eq!(miner_of(&validator.run_epoch().await.unwrap().miners, 1).inconclusive, 0);
    // A session that is judged with another model's manifest says nothing about its miner.
    let file = super::transcripts(&world).into_iter().next().unwrap();
    let mut other = file.manifest.clone();
    other.layers[0].small = [9; 32];
    let assets = file.assets(&|_| None).unwrap();
    let verdict = judge(&file.record, &other, &assets, &file.embeddings).verdict;
    assert_eq!(verdict, Verdict::Inconclusive(OwnFault::WrongManifest));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_tokenizer_is_no_model_and_a_question_it_cannot_take_is_no_failure() {
    let world = world().await;
    let miner = world.miner(1, world.honest.clone()).await;
    let before = clean_epoch(&world).await;
    let model = fetch_model(miner.local_addr(), world.published.id()).await.unwrap();
    let mut tokenizer = model.tokenizer().to_vec();
    tokenizer.push(b' ');
    let template = model.chat_template().map(<[u8]>::to_vec);
    let wrong = VerifierModel::new(model.manifest().clone(), tokenizer, template, model.embeddings().clone());
    assert!(matches!(wrong, Err(ModelError::Assets(OwnFault::AssetMissing))), "{wrong:?}");

    let long = "x ".repeat(10_000);
    let (mut validator, seen) = opened(&world, world.settings(), prompts(&[&long])).await;
    let report = validator.run_epoch().await.unwrap();
    check(miner_of(&report.miners, 1), 3, &before);
    assert_eq!(faults(&seen), [OwnFault::PromptUnusable; 3]);
    assert!(OwnFault::PromptUnusable.remedy().contains("tokenizer"));
}

/// An honest miner that does something before it proves.
pub(crate) struct Hooked<F> {
    pub(crate) honest: HonestBackend,
    pub(crate) before: F,
}

impl<F: Fn() + Send + Sync + 'static> Backend for Hooked<F> {
    fn serve(
        &self,
        request: &Request,
        on_token: &mut dyn FnMut(TokenId) -> ControlFlow<()>,
    ) -> Result<Served, ServeError> {
        self.honest.serve(request, on_token)
    }

    fn prove(
        &self,
        request: &Request,
        commitment: &TraceCommitment,
        trace: &dyn TraceRows,
        nonce: Option<&Nonce>,
    ) -> Result<Vec<u8>, ProveError> {
        (self.before)();
        self.honest.prove(request, commitment, trace, nonce)
    }
}

/// A clock that jumps is a process that stood still: what came in time is read late.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_validator_that_stood_still_does_not_call_the_miner_late() {
    let world = world().await;
    let standing = tokio::runtime::Handle::current();
    let proofs = AtomicUsize::new(0);
    let before = move || {
        // In the second epoch, both of the validator's threads stand still past the proof's deadline.
        if proofs.fetch_add(1, Ordering::Relaxed) >= 3 {
            (0..2).for_each(|_| drop(standing.spawn(async { std::thread::sleep(Duration::from_millis(5_500)) })));
            std::thread::sleep(Duration::from_millis(200));
        }
    };
    // The miner is another process in truth: it goes on.
    let elsewhere = tokio::runtime::Runtime::new().unwrap();
    let backend = Hooked { honest: world.honest.clone(), before };
    let (config, published) = (world.config(1), world.published.clone());
    let miner = elsewhere.spawn(async move { Miner::start(config, published, backend).await.unwrap() }).await.unwrap();
    world.register(1, miner.local_addr(), world.published.id()).await;
    let before = clean_epoch(&world).await;

    let mut settings = world.settings();
    settings.audit_rate = AuditRate::Always;
    let (mut validator, seen) = opened(&world, settings, prompts(&["a"])).await;
    let report = validator.run_epoch().await.unwrap();
    check(miner_of(&report.miners, 1), 3, &before);
    assert_eq!(faults(&seen), [OwnFault::Stalled; 3]);
    assert!(OwnFault::Stalled.remedy().contains("suspend"));
    elsewhere.shutdown_background();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_corrupt_store_stops_the_validator_with_its_name_and_costs_nobody_anything() {
    let world = world().await;
    let _miner = world.miner(1, world.honest.clone()).await;
    let before = clean_epoch(&world).await;
    let records = world.directory.path().join("validator");
    let (mut validator, _) = opened(&world, world.settings(), prompts(&["a"])).await;
    let journal = records.join("nonces/epoch-1.nonces");
    std::fs::write(&journal, [0xa5; 4_096]).unwrap();
    let error = validator.run_epoch().await.unwrap_err().to_string();
    assert!(error.contains("epoch-1.nonces is damaged") && error.contains("move it away"), "{error}");
    drop(validator);

    let standings = std::fs::read(records.join("standing.json")).unwrap();
    std::fs::write(records.join("standing.json"), &standings[..standings.len() / 2]).unwrap();
    let chain = Arc::new(world.chain.clone());
    let error = Validator::open(world.settings(), chain, prompts(&["a"]), |_| ()).await.unwrap_err().to_string();
    assert!(error.contains("standing.json is damaged") && error.contains("move it away"), "{error}");

    // Put in order, it goes on where it was.
    std::fs::write(records.join("standing.json"), standings).unwrap();
    std::fs::remove_file(journal).unwrap();
    let (mut validator, _) = opened(&world, world.settings(), prompts(&["a"])).await;
    let hotkey = keys(1).hotkey();
    assert_eq!(
        (validator.ledger().standing(&hotkey).slug(), validator.ledger().score(&hotkey).get()),
        ("good", before.1)
    );
    let report = validator.run_epoch().await.unwrap();
    assert_eq!(miner_of(&report.miners, 1).inconclusive, 0, "{report:?}");
}

/// Runs this test binary's own part again as a process of its own, after `preparation` of a shell.
#[cfg(unix)]
fn child(part: &str, folder: &Path, preparation: &str) -> Child {
    Command::new("sh")
        .args(["-c", &format!("{preparation} exec \"$0\" \"$@\"")])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "faults::in_a_process_of_its_own", "--ignored", "--nocapture"])
        .env(FOLDER, folder)
        .env(PART, part)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// The rest of the first line of a child that begins with `word`.
fn told(child: &mut Child, word: &str) -> String {
    let lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
    let found = lines.map(Result::unwrap).find_map(|line| Some(line.split_once(word)?.1.to_owned()));
    found.unwrap_or_else(|| panic!("the child does not say {word}"))
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a part of other tests, which run it in a process of its own"]
async fn in_a_process_of_its_own() {
    let (Some(folder), Ok(part)) = (std::env::var_os(FOLDER), std::env::var(PART)) else { return };
    let world = world().await;
    let before = move || {
        if part == "killed" {
            println!("PROVING");
            std::thread::sleep(Duration::from_mins(10));
        }
    };
    let goes_on = std::env::var(PART).is_ok_and(|part| part == "full");
    let _miner = world.miner(1, Hooked { honest: world.honest.clone(), before }).await;
    if goes_on {
        world.next_epoch().await;
    }
    let mut settings = settings_in(&world, Path::new(&folder));
    settings.terms.deadlines.proof_ms = 600_000;
    settings.audit_rate = AuditRate::Always;
    let (mut validator, seen) = opened(&world, settings, prompts(&["a"])).await;
    match validator.run_epoch().await {
        Ok(report) => {
            let slugs: Vec<&str> = faults(&seen).into_iter().map(OwnFault::slug).collect();
            println!("REPORT {}", serde_json::json!([miner_of(&report.miners, 1), slugs]));
        }
        Err(error) => println!("ERROR {error}"),
    }
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_makes_sessions_inconclusive_and_then_stops_the_validator() {
    let world = world().await;
    let _miner = world.miner(1, world.honest.clone()).await;
    let (standing, score, weight) = clean_epoch(&world).await;
    let kept = transcripts(&world).len();
    // No file may grow beyond a few kilobytes: journals and standings can be written, transcripts cannot.
    let mut full = child("full", world.directory.path(), "trap '' XFSZ; ulimit -f 16;");
    let report: serde_json::Value = serde_json::from_str(&told(&mut full, "REPORT ")).unwrap();
    full.wait().unwrap();
    let miner = &report[0];
    assert_eq!((&miner["inconclusive"], &miner["unavailable"]), (&3.into(), &0.into()), "{report}");
    assert_eq!(miner["rejected"], serde_json::json!({}), "{report}");
    let left = (&miner["standing"], &miner["score"], &miner["weight"]);
    assert_eq!(left, (&standing.into(), &score.into(), &weight.into()), "{report}");
    assert_eq!(report[1], serde_json::json!(["storage", "storage", "storage"]));
    assert_eq!(transcripts(&world).len(), kept, "half a transcript is none");

    // Nothing at all can be written: no request goes out, and the line says where and what to do.
    let nowhere = tempfile::tempdir().unwrap();
    let mut full = child("full", nowhere.path(), "trap '' XFSZ; ulimit -f 0;");
    let error = told(&mut full, "ERROR ");
    full.wait().unwrap();
    assert!(error.contains("epoch-1.nonces") && error.contains("check that the disk has room"), "{error}");
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn a_validator_that_was_killed_buries_the_session_and_charges_nobody() {
    let world = world().await;
    let mut killed = child("killed", world.directory.path(), "");
    told(&mut killed, "PROVING");
    killed.kill().unwrap();
    killed.wait().unwrap();

    let _miner = world.miner(1, world.honest.clone()).await;
    let (mut validator, seen) = opened(&world, world.settings(), prompts(&["to be or not"])).await;
    let report = validator.run_epoch().await.unwrap();
    let buried = seen.lock().unwrap().iter().any(|event| matches!(event, ValidatorEvent::Buried { counter: 0, .. }));
    assert!(buried, "the nonce was out when the validator died");
    let miner = miner_of(&report.miners, 1);
    assert_eq!((miner.accepted, miner.standing.as_str()), (3, "good"), "{report:?}");
    assert!(miner.rejected.is_empty());
    assert!(transcripts(&world).iter().all(|file| file.record.request.counter > 0), "a dead counter came back");
    assert!(OwnFault::Interrupted.remedy().contains("not used again"));
}
