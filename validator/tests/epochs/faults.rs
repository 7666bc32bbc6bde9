//! Faults of the validator's own: each makes sessions inconclusive, leaves an honest miner's standing, score
//! and weight as they were, and tells the operator what to do. Beside them, what looks like one and is not.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use assay_audit::epoch_log::Ending as LogEnding;
use assay_audit::judge::judge;
use assay_audit::transcript_file::FileError;
use assay_audit::verdict::{OwnFault, Reason};
use assay_proto::v1::AssetKind;
use assay_validator::{ModelError, Silence, VerifierModel};
use tracing::subscriber::DefaultGuard;

use super::contrary::Contrary;
use super::fetch::{fetched, honest, shelf, whole};
use super::*;

/// Where a child process finds the validator's records, and what it is to do with them.
const FOLDER: &str = "ASSAY_FAULTS_FOLDER";
const PART: &str = "ASSAY_FAULTS_PART";
/// The miner that it is to ask, if that is another process.
const MINER: &str = "ASSAY_FAULTS_MINER";

/// What an epoch leaves a miner with.
type Left = (String, u32, u16);

fn left(miner: &MinerReport) -> Left {
    (miner.standing.clone(), miner.score, miner.weight)
}

fn settings_in(world: &World, folder: &Path) -> Settings {
    Settings { directory: folder.join("validator"), transcripts: folder.join("transcripts"), ..world.settings() }
}

/// A question that no model can take.
fn endless() -> String {
    "x ".repeat(10_000)
}

async fn opened(
    world: &World,
    settings: Settings,
    texts: &[&str],
    events: impl Fn(ValidatorEvent) + Send + Sync + 'static,
) -> Validator<Devnet> {
    let source = PromptList::new(texts.iter().map(|&text| Prompt::Text(text.to_owned())).collect(), 12).unwrap();
    Validator::open(settings, Arc::new(world.chain.clone()), source, events).await.unwrap()
}

/// The epoch of the first miner, as a validator of these settings saw it.
async fn epoch_of(world: &World, settings: Settings, texts: &[&str]) -> MinerReport {
    let report = opened(world, settings, texts, |_| ()).await.run_epoch().await.unwrap();
    miner_of(&report.miners, 1).clone()
}

/// A clean epoch, after which the miner has something to lose.
async fn clean_epoch(world: &World) -> Left {
    let miner = epoch_of(world, world.settings(), &["to be or not", "a b c"]).await;
    assert_eq!((miner.accepted, miner.standing.as_str()), (3, "good"), "{miner:?}");
    assert!(miner.weight > 0 && miner.score > 0);
    world.next_epoch().await;
    left(&miner)
}

fn check(miner: &MinerReport, inconclusive: u32, before: &Left) {
    assert_eq!((miner.inconclusive, miner.unavailable), (inconclusive, 0), "{miner:?}");
    assert!(miner.rejected.is_empty(), "{miner:?}");
    assert_eq!(left(miner), *before, "{miner:?}");
}

/// What this thread's validator tells its operator, as long as it is listened to.
struct Told {
    lines: Arc<File>,
    _listening: DefaultGuard,
}

impl Told {
    fn listen() -> Self {
        let lines = Arc::new(tempfile::tempfile().unwrap());
        let printer = tracing_subscriber::fmt().with_ansi(false).with_writer(Arc::clone(&lines)).finish();
        Self { lines, _listening: tracing::subscriber::set_default(printer) }
    }

    /// The faults so far, each with its remedy.
    fn faults(&self) -> Vec<String> {
        let mut lines = self.lines.as_ref();
        lines.rewind().unwrap();
        let mut text = String::new();
        lines.read_to_string(&mut text).unwrap();
        text.lines().filter_map(|line| Some(line.split_once("inconclusive: ")?.1.to_owned())).collect()
    }

    fn check(&self, fault: OwnFault, times: usize, remedy: &str) {
        check_told(&self.faults(), fault, times, remedy);
    }
}

/// Whether the operator was told of a fault so many times, and each time what to do about it.
fn check_told(told: &[String], fault: OwnFault, times: usize, remedy: &str) {
    let lines: Vec<&String> = told.iter().filter(|line| line.starts_with(&format!("{fault}; "))).collect();
    assert_eq!(lines.len(), times, "{told:?}");
    assert!(lines.iter().all(|line| line.contains(remedy)), "{lines:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_that_nobody_hands_out_is_its_miners_silence_and_proves_nothing() {
    let world = world().await;
    let _miner = world.miner(1, world.honest.clone()).await;
    let (standing, score, _) = clean_epoch(&world).await;
    // In force and declared; what the miner hands out is another one.
    let (owner, nowhere) = (keys(100).hotkey(), ManifestId::new([5; 32]));
    world.chain.publish_manifests(owner, &[world.published.id(), nowhere]).await.unwrap();
    world.chain.declare_manifest(keys(1).hotkey(), nowhere).await.unwrap();
    let told = Told::listen();
    let miner = epoch_of(&world, world.settings(), &["a"]).await;
    assert_eq!((miner.requests, miner.unavailable, miner.inconclusive, miner.audits), (3, 3, 0, 0), "{miner:?}");
    assert_eq!((&miner.standing, miner.rejected.len()), (&standing, 0), "{miner:?}");
    assert!(miner.score < score, "it did not serve what it declared");
    assert!(told.faults().is_empty(), "there is nothing for the operator to do");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_under_another_manifest_says_nothing_about_its_miner() {
    let world = world().await;
    let _miner = world.miner(1, world.honest.clone()).await;
    clean_epoch(&world).await;
    let mut file = transcripts(&world).remove(0);
    let assets = file.assets(&|_| None).unwrap();
    file.manifest.layers[0].small = [9; 32];
    let verdict = judge(&file.record, &file.manifest, &assets, &file.embeddings).verdict;
    assert_eq!(verdict, Verdict::Inconclusive(OwnFault::WrongManifest));
    assert!(OwnFault::WrongManifest.remedy().contains("fetch the model again"));
    let read = TranscriptFile::decode(&file.encode());
    assert_eq!(read, Err(FileError::Inconsistent("the request names another manifest")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_the_validator_cannot_keep_is_not_held_against_its_miners() {
    let world = world().await;
    let _miner = world.miner(1, world.honest.clone()).await;
    let before = clean_epoch(&world).await;
    // A file where the folder of assets should be stands for a disk that fails.
    let assets = world.directory.path().join("transcripts/assets");
    std::fs::write(&assets, b"").unwrap();
    let mut settings = world.settings();
    settings.terms.inline_assets = false;
    let told = Told::listen();
    check(&epoch_of(&world, settings.clone(), &["a"]).await, 3, &before);
    told.check(OwnFault::Storage, 3, "make room on the disk and the paths writable");

    std::fs::remove_file(assets).unwrap();
    world.next_epoch().await;
    assert_eq!(epoch_of(&world, settings, &["a"]).await.inconclusive, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_tokenizer_is_stopped_at_every_door_and_blames_nobody() {
    let world = world().await;
    let _miner = world.miner(1, world.honest.clone()).await;
    let model = fetched(&world).await;
    let mut wrong = model.tokenizer().to_vec();
    wrong.push(b' ');
    let template = model.chat_template().map(<[u8]>::to_vec);
    let made = VerifierModel::new(model.manifest().clone(), wrong.clone(), template, model.embeddings().clone());
    assert!(matches!(made, Err(ModelError::Assets(OwnFault::AssetMissing))), "{made:?}");

    // Transcripts that only name it, and another file in its place.
    let mut settings = world.settings();
    settings.terms.inline_assets = false;
    let before = left(&epoch_of(&world, settings.clone(), &["a b c"]).await);
    let assets = world.directory.path().join("transcripts/assets");
    let find = |digest: &[u8; 32]| std::fs::read(assets.join(hex::encode(digest))).ok();
    let verdicts = || -> Vec<_> { transcripts(&world).iter().map(|file| file.judge(&find).verdict).collect() };
    assert_eq!(verdicts(), [Verdict::Accepted; 3]);
    let tokenizer = assets.join(hex::encode(model.manifest().tokenizer));
    std::fs::write(&tokenizer, &wrong).unwrap();
    assert_eq!(verdicts(), [Verdict::Inconclusive(OwnFault::AssetMissing); 3]);
    assert!(OwnFault::AssetMissing.remedy().contains("put the file under its digest"));

    let mut file = transcripts(&world).remove(0);
    file.tokenizer = Some(wrong);
    let read = TranscriptFile::decode(&file.encode());
    assert_eq!(read, Err(FileError::Inconsistent("the tokenizer is not the manifest's")));

    // The next time that the validator fetches the model, it puts the file right.
    world.next_epoch().await;
    check(&epoch_of(&world, settings, &[&endless()]).await, 3, &before);
    assert_eq!(verdicts(), [Verdict::Accepted; 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tokenizer_that_the_validator_cannot_read_is_not_held_against_who_hands_it_out() {
    let world = world().await;
    let _miner = world.miner(1, world.honest.clone()).await;
    let before = clean_epoch(&world).await;
    // It is the one that the manifest in force names, to the byte.
    let unread = b"a tokenizer of another age";
    let model = fetched(&world).await;
    let mut manifest = model.manifest().clone();
    manifest.tokenizer = *blake3::hash(unread).as_bytes();
    let asset = move |kind| match kind {
        AssetKind::Tokenizer => whole(unread),
        kind => whole(&honest(&model, kind)),
    };
    let (hotkey, endpoint) = (keys(1).hotkey(), shelf(&manifest, asset).await);
    world.chain.publish_manifests(keys(100).hotkey(), &[manifest.id()]).await.unwrap();
    world.chain.serve_endpoint(hotkey, endpoint).await.unwrap();
    world.chain.declare_manifest(hotkey, manifest.id()).await.unwrap();
    let told = Told::listen();
    check(&epoch_of(&world, world.settings(), &["a"]).await, 3, &before);
    told.check(OwnFault::PromptUnusable, 3, "replace this build if it cannot read them");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_that_the_model_cannot_take_is_no_failure() {
    let world = world().await;
    let _miner = world.miner(1, world.honest.clone()).await;
    let before = clean_epoch(&world).await;
    let told = Told::listen();
    check(&epoch_of(&world, world.settings(), &[&endless()]).await, 3, &before);
    told.check(OwnFault::PromptUnusable, 3, "ask what the model's tokenizer and chat template can take");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_validator_that_is_too_busy_to_settle_does_not_call_the_miner_silent() {
    let world = world().await;
    let _miner = world.miner(1, world.honest.clone()).await;
    let before = clean_epoch(&world).await;
    // A disk that takes longer than the deadline to note a nonce.
    let mut settings = world.settings();
    settings.terms.deadlines.settle_ms = 0;
    let told = Told::listen();
    check(&epoch_of(&world, settings, &["a"]).await, 3, &before);
    told.check(OwnFault::NeverSettled, 3, "raise the settle deadline");
}

/// A process that is suspended is a clock that jumps: what came in time is read late.
#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn a_validator_that_stood_still_does_not_call_the_miner_late() {
    let world = world().await;
    let (validator, proofs) = (Arc::new(AtomicU32::new(0)), AtomicUsize::new(0));
    let stopped = Arc::clone(&validator);
    let backend = Hooked::new(&world, move |honest| {
        // In the second epoch, past the proof's deadline.
        if proofs.fetch_add(1, Ordering::Relaxed) >= 3 {
            stop(stopped.load(Ordering::Relaxed), Duration::from_millis(5_500));
        }
        honest()
    });
    let miner = world.miner(1, backend).await;
    let before = clean_epoch(&world).await;
    let asking = child_asking("stopped", world.directory.path(), miner.local_addr());
    validator.store(asking.id(), Ordering::Relaxed);
    let faults = tokio::task::spawn_blocking(|| check_child(asking, before)).await.unwrap();
    check_told(&faults, OwnFault::Stalled, 3, "do not suspend it");
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn a_validator_that_stood_still_does_not_call_a_model_missing() {
    let world = world().await;
    let _miner = world.miner(1, world.honest.clone()).await;
    let before = clean_epoch(&world).await;
    let listener = std::net::TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).unwrap();
    let asking = child_asking("stopped", world.directory.path(), listener.local_addr().unwrap());
    let validator = asking.id();
    // Whoever does not read a connection for long finds it closed.
    let closing = std::thread::spawn(move || {
        let connection = listener.accept().unwrap();
        stop(validator, Duration::from_millis(2_500));
        drop(connection);
    });
    let faults = tokio::task::spawn_blocking(|| check_child(asking, before)).await.unwrap();
    check_told(&faults, OwnFault::Stalled, 3, "do not suspend it");
    closing.join().unwrap();
}

/// Deadlines run by the clock that only goes forward (`Instant`). One that is set back or forth, by hand or by a time
/// server, can be no fault as long as nobody asks it who judges. The chain's client does, to tell whether a node lags, and
/// asks another node then.
#[test]
fn no_code_that_judges_reads_the_clock_that_can_be_set() {
    let mut files = 0;
    for of in ["validator", "probation", "audit", "commitments", "sumcheck", "files"] {
        let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(of).join("src")];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                    continue;
                }
                let code = std::fs::read_to_string(&path).unwrap();
                for clock in ["SystemTime", "UNIX_EPOCH", ".modified()", ".created()", "chrono", "DateTime", "REALTIME"]
                {
                    assert!(!code.contains(clock), "{} has {clock}", path.display());
                }
                files += 1;
            }
        }
    }
    assert!(files > 100, "{files}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_corrupt_store_stops_the_validator_with_its_name_and_costs_nobody_anything() {
    let world = world().await;
    let _miner = world.miner(1, world.honest.clone()).await;
    let before = clean_epoch(&world).await;
    let records = world.directory.path().join("validator");
    let mut validator = opened(&world, world.settings(), &["a"], |_| ()).await;
    let journal = records.join("nonces/epoch-1.nonces");
    std::fs::write(&journal, [0xa5; 4_096]).unwrap();
    let error = validator.run_epoch().await.unwrap_err().to_string();
    assert!(error.contains("epoch-1.nonces is damaged") && error.contains("move it away"), "{error}");
    drop(validator);

    let standings = std::fs::read(records.join("standing.json")).unwrap();
    std::fs::write(records.join("standing.json"), &standings[..standings.len() / 2]).unwrap();
    let (chain, source) =
        (Arc::new(world.chain.clone()), PromptList::new(vec![Prompt::Text("a".to_owned())], 12).unwrap());
    let error = Validator::open(world.settings(), chain, source, |_| ()).await.unwrap_err().to_string();
    assert!(error.contains("standing.json is damaged") && error.contains("move it away"), "{error}");

    // Put in order, it goes on where it was.
    std::fs::write(records.join("standing.json"), standings).unwrap();
    std::fs::remove_file(journal).unwrap();
    let mut validator = opened(&world, world.settings(), &["a"], |_| ()).await;
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

/// The same for a validator that asks the miner at `endpoint`.
#[cfg(unix)]
fn child_asking(part: &str, folder: &Path, endpoint: SocketAddr) -> Child {
    child(part, folder, &format!("export {MINER}={endpoint};"))
}

/// Suspends a process for a while.
#[cfg(unix)]
fn stop(process: u32, how_long: Duration) {
    let signal = |name: &str| {
        let status = Command::new("kill").args([name, &process.to_string()]).status();
        assert!(status.unwrap().success());
    };
    signal("-STOP");
    std::thread::sleep(how_long);
    signal("-CONT");
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
    let is_killed = part == "killed";
    let backend = Hooked::new(&world, move |honest| {
        if is_killed {
            println!("PROVING");
            std::thread::sleep(Duration::from_mins(10));
        }
        honest()
    });
    let elsewhere: Option<SocketAddr> = std::env::var(MINER).ok().map(|endpoint| endpoint.parse().unwrap());
    let _miner = match elsewhere {
        None => Some(world.miner(1, backend).await),
        Some(endpoint) => {
            world.register(1, endpoint, world.published.id()).await;
            None
        }
    };
    world.next_epoch().await;
    let mut settings = settings_in(&world, Path::new(&folder));
    if elsewhere.is_none() {
        settings.terms.deadlines.proof_ms = 600_000;
    }
    settings.audit_rate = AuditRate::Always;
    // A miner that is skipped is told of just before models are fetched, and the epoch's begin just after.
    let taken = Mutex::new(Vec::new());
    if part == "deaf" {
        world.register(2, SocketAddr::from(([127, 0, 0, 1], 9)), ManifestId::new([5; 32])).await;
    }
    let events = move |event| match event {
        ValidatorEvent::Skipped { .. } => {
            taken.lock().unwrap().extend(std::iter::from_fn(|| File::open("/dev/null").ok()));
        }
        ValidatorEvent::EpochBegan { .. } => taken.lock().unwrap().clear(),
        _ => {}
    };
    let told = Told::listen();
    match opened(&world, settings, &["a"], events).await.run_epoch().await {
        Ok(report) => println!("REPORT {}", serde_json::json!([miner_of(&report.miners, 1), told.faults()])),
        Err(error) => println!("ERROR {error}"),
    }
}

/// What a child that has judged its epoch says of the miner, and told its operator.
#[cfg(unix)]
fn check_child(mut child: Child, (standing, score, weight): Left) -> Vec<String> {
    let report: serde_json::Value = serde_json::from_str(&told(&mut child, "REPORT ")).unwrap();
    child.wait().unwrap();
    let miner = &report[0];
    assert_eq!((&miner["inconclusive"], &miner["unavailable"]), (&3.into(), &0.into()), "{report}");
    assert_eq!(miner["rejected"], serde_json::json!({}), "{report}");
    let left = (&miner["standing"], &miner["score"], &miner["weight"]);
    assert_eq!(left, (&standing.into(), &score.into(), &weight.into()), "{report}");
    serde_json::from_value(report[1].clone()).unwrap()
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_makes_sessions_inconclusive_and_then_stops_the_validator() {
    let world = world().await;
    let _miner = world.miner(1, world.honest.clone()).await;
    let before = clean_epoch(&world).await;
    let kept = transcripts(&world).len();
    // No file may grow beyond a few kilobytes: journals and standings can be written, transcripts cannot.
    let full = child("full", world.directory.path(), "trap '' XFSZ; ulimit -f 16;");
    let faults = check_child(full, before);
    check_told(&faults, OwnFault::Storage, 3, "make room on the disk and the paths writable");
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
async fn a_validator_that_reaches_nobody_calls_nobody_unreachable() {
    let world = world().await;
    let _miner = world.miner(1, world.honest.clone()).await;
    let before = clean_epoch(&world).await;
    // Without descriptors, a process connects neither to a miner nor to itself.
    let deaf = child("deaf", world.directory.path(), "ulimit -n 256;");
    check_told(&check_child(deaf, before), OwnFault::Connection, 3, "check the network of this machine");
}

/// A miner that says one token and no more.
struct Mute(HonestBackend);

impl Backend for Mute {
    fn serve(
        &self,
        request: &Request,
        on_token: &mut dyn FnMut(TokenId) -> ControlFlow<()>,
    ) -> Result<Served, ServeError> {
        let mut said = 0;
        self.0.serve(request, &mut |token| {
            said += 1;
            if said > 1 {
                std::thread::sleep(Duration::from_secs(3));
                return ControlFlow::Break(());
            }
            on_token(token)
        })
    }

    fn prove(&self, _: &Request, _: &TraceCommitment, _: &dyn TraceRows, _: Option<&Nonce>) -> Proof {
        Err(ProveError("there is no answer".to_owned()))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silence_is_held_against_a_miner_only_while_the_chain_answers() {
    let world = world().await;
    let model = Arc::new(fetched(&world).await);
    let nobody = TcpListener::bind(("127.0.0.1", 0)).await.unwrap().local_addr().unwrap();
    let mute = Miner::start(world.config(1), world.published.clone(), Mute(world.honest.clone())).await.unwrap();
    let whole = Miner::start(world.config(1), world.published.clone(), world.honest.clone()).await.unwrap();
    // Tokens and commitment come through, the proof never does.
    let cut = cutting_proxy(whole.local_addr(), usize::MAX, 20_000).await;
    let deadlines = Deadlines { token_ms: 1_000, commitment_ms: 1_000, proof_ms: 1_500, ..DEADLINES };
    let terms = Terms { policy: Policy::DEFAULT, deadlines, inline_assets: false };
    let epoch = world.subnet.epoch();
    let (nonces, _) = EpochNonces::open(world.directory.path(), NETWORK, world.validator.hotkey(), epoch).unwrap();
    let questions = PromptList::new(vec![Prompt::Text("to be or not".to_owned())], 8).unwrap();
    for answers in [true, false] {
        let mut chain = Contrary::new(&world.chain);
        chain.answers = answers;
        let auditor = Auditor::new(world.validator.clone(), NETWORK, terms, 1, Arc::new(chain));
        for (endpoint, charged) in
            [(nobody, None), (mute.local_addr(), Some(Reason::CommitmentAbsent)), (cut, Some(Reason::StreamBroken))]
        {
            let peer = Peer { hotkey: keys(1).hotkey(), endpoint };
            let outcome = auditor.session(&peer, &model, questions.draw(0), AuditRate::Always, &nonces).await;
            match (answers, charged, &outcome) {
                (true, None, Outcome::Unavailable(Silence::Unreachable))
                | (false, _, Outcome::OwnFault(OwnFault::Connection)) => {}
                (true, Some(reason), Outcome::Judged(judged)) => {
                    let verdict = judged.judgement.verdict;
                    assert!(matches!(verdict, Verdict::Rejected(failure) if failure.reason == reason), "{verdict:?}");
                }
                _ => panic!("{answers} {charged:?}: {outcome:?}"),
            }
        }
    }
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn a_validator_that_was_killed_buries_the_session_and_charges_nobody() {
    let world = world().await;
    let _miner = world.miner(1, world.honest.clone()).await;
    let before = clean_epoch(&world).await;
    let mut killed = child("killed", world.directory.path(), "");
    told(&mut killed, "PROVING");
    killed.kill().unwrap();
    killed.wait().unwrap();

    // An epoch that was ours to spoil takes three such sessions: the dead one is the third.
    let operator = Told::listen();
    let buried: Arc<Mutex<Vec<u64>>> = Arc::default();
    let sink = Arc::clone(&buried);
    let events = move |event| {
        if let ValidatorEvent::Buried { counter, .. } = event {
            sink.lock().unwrap().push(counter);
        }
    };
    let settings = Settings { requests: 2, ..world.settings() };
    let mut validator = opened(&world, settings, &[&endless()], events).await;
    let report = validator.run_epoch().await.unwrap();
    assert_eq!(*buried.lock().unwrap(), [0], "the nonce was out when the validator died");
    check(miner_of(&report.miners, 1), 2, &before);
    operator.check(
        OwnFault::Interrupted,
        1,
        "find out why the validator stopped; the session's counter is not used again",
    );
    drop(validator);

    // It goes on, and shows the dead counter to whoever audits it.
    world.next_epoch().await;
    let miner = epoch_of(&world, world.settings(), &["a"]).await;
    assert_eq!((miner.accepted + miner.settled, miner.standing.as_str()), (3, "good"), "{miner:?}");
    let log = world.directory.path().join("transcripts/epoch-1").join(LOG_NAME);
    let log = EpochLog::decode_signed(&std::fs::read(log).unwrap()).unwrap();
    let listed = &log.requests[&keys(1).hotkey()];
    let endings: Vec<LogEnding> = listed.iter().map(|listed| listed.ending).collect();
    assert_eq!(endings, [LogEnding::Dead, LogEnding::Fault, LogEnding::Fault]);
    assert!(listed[0].session.is_some(), "it was asked");
    let tally = &Account::new(&log).finish()[&keys(1).hotkey()];
    assert_eq!((tally.requests, tally.dead, tally.faults, tally.missing), (3, 1, 2, 0), "{tally:?}");
}
