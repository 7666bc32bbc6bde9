//! Epoch after epoch: what is done once, whatever is killed, and what is waited for.

use assay_audit::session::RefusalReason;
use assay_audit::transcript_file::Receipt;
use assay_chain::{BlockNumber, ChainError, EpochKeyHash};
use assay_probation::Judgement;
use assay_validator::{Followed, Wait};
use tokio_util::sync::CancellationToken;

use super::contrary::Contrary;
use super::*;

/// Makes a block every few milliseconds, and counts the blocks in which a validator's weights came.
fn clock(world: &World, every: Duration) -> (tokio::task::JoinHandle<()>, Arc<Mutex<Vec<BlockNumber>>>) {
    let (chain, subnet) = (world.chain.clone(), Arc::clone(&world.subnet));
    let validator = world.validator.hotkey();
    let updates: Arc<Mutex<Vec<BlockNumber>>> = Arc::default();
    let seen = Arc::clone(&updates);
    let clock = tokio::spawn(async move {
        loop {
            tokio::time::sleep(every).await;
            chain.step_block();
            subnet.update(chain.head().await.unwrap().epoch, &[(validator, 1)]);
            let metagraph = chain.metagraph().await.unwrap();
            let neuron = metagraph.neuron(&validator).unwrap();
            let mut seen = seen.lock().unwrap();
            if neuron.last_update > neuron.registered_at && seen.last() != Some(&neuron.last_update) {
                seen.push(neuron.last_update);
            }
        }
    });
    (clock, updates)
}

fn waits(seen: &Mutex<Vec<ValidatorEvent>>) -> Vec<Wait> {
    let seen = seen.lock().unwrap();
    let waits = seen.iter().filter_map(|event| match event {
        ValidatorEvent::Waits(wait) => Some(wait.clone()),
        _ => None,
    });
    waits.collect()
}

async fn watched(world: &World) -> (Validator<Devnet>, Arc<Mutex<Vec<ValidatorEvent>>>) {
    let seen: Arc<Mutex<Vec<ValidatorEvent>>> = Arc::default();
    let sink = Arc::clone(&seen);
    (world.open(move |event| sink.lock().unwrap().push(event)).await, seen)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_epoch_is_judged_and_its_weights_are_set_once() {
    let world = world_of(Parameters { tempo: 39, ..parameters() }).await;
    let _miner = world.miner(1, world.honest.clone()).await;
    let (clock, updates) = clock(&world, Duration::from_millis(50));
    let (mut validator, seen) = watched(&world).await;
    let followed = validator.run(&CancellationToken::new(), Some(3)).await.unwrap();
    assert_eq!(followed, Followed { epochs: 3, weights_refused: None });
    // The clock notes the last update with its next block, and would note a fourth.
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        if updates.lock().unwrap().len() >= 3 {
            break;
        }
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    clock.abort();
    assert_eq!(updates.lock().unwrap().len(), 3, "{updates:?}");
    let revealed =
        seen.lock().unwrap().iter().filter(|event| matches!(event, ValidatorEvent::KeyRevealed { .. })).count();
    assert_eq!(revealed, 2, "the last epoch's key is revealed in the next one");
    assert!(waits(&seen).iter().all(|wait| !matches!(wait, Wait::Weights { .. })));
}

/// Waits until nobody holds the journals of nonces: a thread may still be writing for a validator that was dropped,
/// where one that is killed has no threads left.
async fn released(world: &World) {
    let is_free = |path: &std::path::Path| std::fs::File::open(path).is_ok_and(|file| file.try_lock().is_ok());
    let directory = world.directory.path().join("validator/nonces");
    let held = || {
        let entries = std::fs::read_dir(&directory).into_iter().flatten();
        entries.flatten().any(|entry| entry.path().is_file() && !is_free(&entry.path()))
    };
    for _ in 0..500 {
        if !held() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the journal of a validator that was dropped is still held");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_validator_that_is_dropped_anywhere_in_an_epoch_goes_on_where_it_was() {
    let world = world_of(Parameters { tempo: 59, ..parameters() }).await;
    let _miner = world.miner(1, world.honest.clone()).await;
    let (clock, updates) = clock(&world, Duration::from_millis(40));
    // Dropped after ever longer times: within the sessions, at their end, at the weights, behind them.
    let mut epochs = std::collections::BTreeSet::new();
    for attempt in 0..14_u64 {
        let (mut validator, seen) = watched(&world).await;
        let stop = CancellationToken::new();
        let run = validator.run(&stop, None);
        assert!(tokio::time::timeout(Duration::from_millis(60 + attempt * 70), run).await.is_err());
        for event in seen.lock().unwrap().iter() {
            if let ValidatorEvent::EpochEnded(report) = event {
                assert!(epochs.insert(report.epoch), "epoch {} is judged twice", report.epoch);
            }
        }
        drop(validator);
        released(&world).await;
    }
    let (mut validator, _) = watched(&world).await;
    validator.run(&CancellationToken::new(), Some(1)).await.unwrap();
    clock.abort();
    let state: serde_json::Value =
        serde_json::from_slice(&std::fs::read(world.directory.path().join("validator/standing.json")).unwrap())
            .unwrap();
    assert!(state["weights"]["stage"]["placed"].is_object(), "{state}");
    // No epoch's weights came twice: between two of them lies an epoch's end.
    let chain_epoch = |block: &BlockNumber| (block.get() + u64::from(NETWORK.netuid) + 1) / 60;
    let updates = updates.lock().unwrap().clone();
    let in_epochs: Vec<u64> = updates.iter().map(chain_epoch).collect();
    let late = in_epochs.windows(2).filter(|pair| pair[0] == pair[1]).count();
    assert!(!updates.is_empty() && late <= 1 + epochs.len() / 2, "{in_epochs:?}");
    // Every transcript is in the ledger, once: so many accepted audits are in its log and no more.
    assert!(
        transcripts(&world)
            .iter()
            .all(|file| { assay_audit::transcript_file::Conclusion::Accepted == file.receipt.conclusion })
    );
    assert_eq!(validator.ledger().standing(&keys(1).hotkey()).slug(), "good");
}

/// What a crash leaves of a session that was held to its end: its counter open, and nothing in the ledger.
async fn crashed_session(world: &World, settings: &Settings, miner: &RunningMiner) -> TranscriptFile {
    let model = fetch_model(miner.local_addr(), world.published.id(), Patience::DEFAULT).await.unwrap();
    let auditor = Auditor::new(world.validator.clone(), NETWORK, settings.terms, 1, Arc::new(world.chain.clone()));
    let epoch = world.chain.head().await.unwrap().epoch;
    let nonces_at = settings.directory.join("nonces");
    let (nonces, _) = EpochNonces::open(&nonces_at, NETWORK, auditor.hotkey(), epoch).unwrap();
    let ask = PromptList::new(vec![Prompt::Text("to be or not".to_owned())], 8).unwrap().draw(0);
    let peer = Peer { hotkey: keys(1).hotkey(), endpoint: miner.local_addr() };
    let outcome = auditor.session(&peer, &Arc::new(model), ask, AuditRate::Always, &nonces).await;
    let Outcome::Judged(judged) = outcome else { panic!("{outcome:?}") };
    judged.file
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transcript_of_another_network_is_neither_counted_nor_written_over() {
    let world = world().await;
    let miner = world.miner(1, world.honest.clone()).await;
    let settings = Settings { requests: 1, audit_rate: AuditRate::Always, ..world.settings() };
    let own = crashed_session(&world, &settings, &miner).await;
    // The same epoch, miner and counter, on the subnet next door.
    let mut foreign = own.clone();
    foreign.record.request.network.netuid += 1;
    foreign.record.request_signature = foreign.record.request.sign(&world.validator);
    foreign.receipt = Receipt::sign(&world.validator, &foreign.record, Verdict::Accepted, own.receipt.measurements);
    let store = Store::open(&settings.transcripts).unwrap();
    let path = store.save(&foreign).unwrap();
    assert!(matches!(store.save(&own), Err(StorageError::Taken(taken)) if taken == path));
    assert_eq!(std::fs::read(&path).unwrap(), foreign.encode());

    let buried: Arc<Mutex<Vec<u64>>> = Arc::default();
    let sink = Arc::clone(&buried);
    let events = move |event| {
        if let ValidatorEvent::Buried { counter, .. } = event {
            sink.lock().unwrap().push(counter);
        }
    };
    let source = PromptList::new(vec![Prompt::Text("a b c".to_owned())], 8).unwrap();
    let mut validator = Validator::open(settings, Arc::new(world.chain.clone()), source, events).await.unwrap();
    let report = validator.run_epoch().await.unwrap();
    assert_eq!((miner_of(&report.miners, 1).accepted, buried.lock().unwrap().as_slice()), (1, &[0][..]), "{report:?}");
}

#[tokio::test]
async fn records_of_another_subnet_or_hotkey_are_refused_at_the_start() {
    let world = world().await;
    let settings = world.settings();
    let nonces_at = settings.directory.join("nonces");
    // No standings yet, and a journal whose epoch has not come.
    let next_door = Network { netuid: NETWORK.netuid + 1, ..NETWORK };
    drop(EpochNonces::open(&nonces_at, next_door, world.validator.hotkey(), Epoch::new(99)).unwrap());
    let open = async || {
        let source = PromptList::new(vec![Prompt::Text("a".to_owned())], 8).unwrap();
        Validator::open(settings.clone(), Arc::new(world.chain.clone()), source, |_| ()).await
    };
    let error = open().await.unwrap_err();
    let line = error.to_string();
    assert!(matches!(error, ValidatorError::Storage(StorageError::Foreign { .. })), "{line}");
    assert!(line.contains("epoch-99.nonces is of subnet 4") && !line.contains('\n'), "{line}");
    std::fs::remove_dir_all(&nonces_at).unwrap();
    open().await.unwrap().run_epoch().await.unwrap();

    let other = Settings { keys: keys(201), ..settings.clone() };
    let source = PromptList::new(vec![Prompt::Text("a".to_owned())], 8).unwrap();
    let error = Validator::open(other, Arc::new(world.chain.clone()), source, |_| ()).await.unwrap_err();
    assert!(error.to_string().contains("standing.json is of hotkey"), "{error}");
}

/// Where miners refuse over budget, and a crash comes before that counts.
#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_over_budget_that_does_not_count_yet_is_not_closed_either() {
    let world = world().await;
    let limits = Limits { proof_ms_per_epoch: 0, ..Limits::default() };
    let config = MinerConfig { limits, ..world.config(1) };
    let miner = Miner::start(config, world.published.clone(), world.honest.clone()).await.unwrap();
    world.register(1, miner.local_addr(), world.published.id()).await;
    // Another one keeps the epoch open: it takes connections and says nothing.
    let silent = TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    world.register(2, silent.local_addr().unwrap(), world.published.id()).await;
    let mut settings = world.settings();
    settings.terms.policy = Policy::Sampled { cells: 4, decodes: 3, columns: None, least_budget_ms: 0 };
    let (refused, mut refusals) = tokio::sync::mpsc::unbounded_channel();
    let events = move |event| {
        if let ValidatorEvent::Session { ending: Ending::Refused(RefusalReason::OverBudget), counter, .. } = event {
            refused.send(counter.unwrap()).unwrap();
        }
    };
    let source = PromptList::new(vec![Prompt::Text("a b c".to_owned())], 8).unwrap();
    let chain = Arc::new(world.chain.clone());
    let mut validator = Validator::open(settings.clone(), chain, source, events).await.unwrap();
    tokio::select! {
        report = validator.run_epoch() => panic!("{report:?}"),
        () = async { for _ in 0..settings.requests { refusals.recv().await.unwrap(); } } => {}
    }
    drop(validator);
    released(&world).await;

    let epoch = world.chain.head().await.unwrap().epoch;
    let hotkey = world.validator.hotkey();
    let (_, open) = EpochNonces::open(&settings.directory.join("nonces"), NETWORK, hotkey, epoch).unwrap();
    let open: Vec<u64> = open.iter().filter(|open| open.miner == keys(1).hotkey()).map(|open| open.counter).collect();
    let state = std::fs::read(settings.directory.join("standing.json"));
    let state: serde_json::Value =
        state.map_or_else(|_| serde_json::Value::Null, |state| serde_json::from_slice(&state).unwrap());
    assert_eq!(state["counted"][epoch.get().to_string()][keys(1).hotkey().to_string()], serde_json::Value::Null);
    assert_eq!(open, [0, 1, 2], "a restart finds them");
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_about_a_model_counts_once_however_often_its_epoch_is_begun() {
    let world = world().await;
    let (owner, nowhere) = (keys(100).hotkey(), ManifestId::new([5; 32]));
    world.chain.publish_manifests(owner, &[world.published.id(), nowhere]).await.unwrap();
    let elsewhere = Miner::start(world.config(3), world.published.clone(), world.honest.clone()).await.unwrap();
    let model = Arc::new(fetch_model(elsewhere.local_addr(), world.published.id(), Patience::DEFAULT).await.unwrap());
    // Nobody listens there.
    world.register(1, SocketAddr::from(([127, 0, 0, 1], 9)), nowhere).await;
    // Another one keeps the epoch open: it takes connections and says nothing.
    let mute = TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    world.register(2, mute.local_addr().unwrap(), world.published.id()).await;
    let (silent, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let events = move |event| {
        if let ValidatorEvent::Session { miner, .. } = event {
            silent.send(miner).unwrap();
        }
    };
    let mut validator = world.open(events).await;
    validator.add_model(Arc::clone(&model));
    tokio::select! {
        report = validator.run_epoch() => panic!("{report:?}"),
        () = async { for _ in 0..3 { assert_eq!(heard.recv().await, Some(keys(1).hotkey())); } } => {}
    }
    drop((validator, mute));
    released(&world).await;
    let tally = || {
        let state = std::fs::read(world.directory.path().join("validator/standing.json")).unwrap_or_default();
        let state: serde_json::Value = serde_json::from_slice(&state).unwrap_or_default();
        state["ledger"]["miners"][keys(1).hotkey().to_string()].clone()
    };
    assert_eq!(tally(), serde_json::Value::Null, "a restart asks for the model again, and would count it twice");
    let (mut validator, _) = watched(&world).await;
    validator.add_model(model);
    let report = validator.run_epoch().await.unwrap();
    assert_eq!(miner_of(&report.miners, 1).unavailable, 3, "{report:?}");
    assert_eq!(tally()["last_epoch"], "short", "and it counts, with the end of the epoch");
}

/// A miner whose first proof spends its budget, and the settings of a validator that asks for no more.
async fn short_of_time(world: &World) -> (RunningMiner, Settings) {
    const PROOF_MS: u32 = 200;
    let limits = Limits { proof_ms_per_epoch: 0, ..Limits::default() };
    let config = MinerConfig { limits, ..world.config(1) };
    let backend = Hooked::new(world, |honest| {
        std::thread::sleep(Duration::from_millis(PROOF_MS.into()));
        honest()
    });
    let miner = Miner::start(config, world.published.clone(), backend).await.unwrap();
    world.register(1, miner.local_addr(), world.published.id()).await;
    let mut settings = Settings { audit_rate: AuditRate::Always, ..world.settings() };
    settings.terms.policy = Policy::Sampled { cells: 4, decodes: 3, columns: None, least_budget_ms: PROOF_MS };
    (miner, settings)
}

async fn judged(world: &World, settings: Settings) -> MinerReport {
    let source = PromptList::new(vec![Prompt::Text("a b c".to_owned())], 8).unwrap();
    let mut validator = Validator::open(settings, Arc::new(world.chain.clone()), source, |_| ()).await.unwrap();
    miner_of(&validator.run_epoch().await.unwrap().miners, 1).clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn proof_time_from_before_a_crash_counts_for_refusals_behind_it() {
    let world = world().await;
    let (_miner, settings) = short_of_time(&world).await;
    // Another one keeps the epoch open: it takes connections and says nothing.
    let silent = TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    world.register(2, silent.local_addr().unwrap(), world.published.id()).await;
    let (proven, mut proofs) = tokio::sync::mpsc::unbounded_channel();
    let events = move |event| {
        if let ValidatorEvent::Session { ending: Ending::Judged { verdict, .. }, .. } = event {
            proven.send(verdict).unwrap();
        }
    };
    let source = PromptList::new(vec![Prompt::Text("a b c".to_owned())], 8).unwrap();
    let (chain, first) = (Arc::new(world.chain.clone()), Settings { requests: 1, ..settings.clone() });
    let mut validator = Validator::open(first, chain, source, events).await.unwrap();
    tokio::select! {
        report = validator.run_epoch() => panic!("{report:?}"),
        verdict = proofs.recv() => assert_eq!(verdict, Some(Verdict::Accepted)),
    }
    drop((validator, silent));
    released(&world).await;
    let miner = judged(&world, settings).await;
    assert_eq!((miner.refused, miner.inconclusive, miner.unavailable), (2, 0, 0), "{miner:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn proof_time_of_a_session_that_a_crash_cut_short_is_not_held_against_the_miner() {
    // A proof cannot have taken longer than its deadline: what that does not explain is silence.
    for (is_kept, deadline_ms, expected) in
        [(true, 3_000, (2, 0, 0)), (false, 3_000, (0, 3, 0)), (false, 100, (0, 0, 3))]
    {
        let world = world().await;
        let (miner, mut settings) = short_of_time(&world).await;
        let file = crashed_session(&world, &settings, &miner).await;
        if is_kept {
            Store::open(&settings.transcripts).unwrap().save(&file).unwrap();
        }
        settings.terms.deadlines.proof_ms = deadline_ms;
        let miner = judged(&world, settings).await;
        assert_eq!((miner.refused, miner.inconclusive, miner.unavailable), expected, "{miner:?}");
    }
}

/// No proof can have been asked for in it: otherwise one crash would excuse all refusals of its epoch.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_a_crash_cut_short_before_its_nonce_was_out_explains_no_refusal() {
    let world = world().await;
    let (miner, settings) = short_of_time(&world).await;
    // The miner has spent its budget on a session that the journal loses.
    crashed_session(&world, &settings, &miner).await;
    let epoch = world.chain.head().await.unwrap().epoch;
    let nonces_at = settings.directory.join("nonces");
    std::fs::remove_dir_all(&nonces_at).unwrap();
    let (nonces, _) = EpochNonces::open(&nonces_at, NETWORK, world.validator.hotkey(), epoch).unwrap();
    let drawn = nonces.draw(keys(1).hotkey()).await.unwrap();
    drawn.asked(assay_commitments::SessionId::new([1; 32])).await.unwrap();
    drop((drawn, nonces));
    let miner = judged(&world, settings).await;
    assert_eq!((miner.refused, miner.inconclusive, miner.unavailable), (0, 0, 3), "{miner:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_was_counted_and_not_closed_ends_as_it_was_counted() {
    let world = world().await;
    let elsewhere = Miner::start(world.config(2), world.published.clone(), world.honest.clone()).await.unwrap();
    let model = Arc::new(fetch_model(elsewhere.local_addr(), world.published.id(), Patience::DEFAULT).await.unwrap());
    // Nobody listens there.
    world.register(1, SocketAddr::from(([127, 0, 0, 1], 9)), world.published.id()).await;
    let (mut validator, _) = watched(&world).await;
    validator.add_model(model);
    let report = validator.run_epoch().await.unwrap();
    assert_eq!(miner_of(&report.miners, 1).unavailable, 3, "{report:?}");
    drop(validator);
    released(&world).await;
    // The crash: the last session is in the ledger, and of its end in the journal the last byte is missing.
    let journal = world.directory.path().join(format!("validator/nonces/epoch-{}.nonces", report.epoch));
    let journal = std::fs::OpenOptions::new().write(true).open(journal).unwrap();
    journal.set_len(journal.metadata().unwrap().len() - 1).unwrap();
    drop(journal);

    let (validator, seen) = watched(&world).await;
    world.next_epoch().await;
    validator.reveal_keys().await.unwrap();
    assert!(!seen.lock().unwrap().iter().any(|event| matches!(event, ValidatorEvent::Buried { .. })));
    let log = world.directory.path().join(format!("transcripts/epoch-{}", report.epoch)).join(LOG_NAME);
    let log = EpochLog::decode_signed(&std::fs::read(log).unwrap()).unwrap();
    let endings = log.requests[&keys(1).hotkey()].iter().map(|listed| listed.ending).collect::<Vec<_>>();
    assert_eq!(endings, [assay_audit::epoch_log::Ending::Silent; 3]);
}

/// A validator of a chain that refuses some things, with nobody to ask.
async fn contrary(
    world: &World,
    refusals: impl FnOnce(&mut Contrary),
    events: impl Fn(ValidatorEvent) + Send + Sync + 'static,
) -> (Validator<Contrary>, Arc<Contrary>) {
    let mut chain = Contrary::new(&world.chain);
    refusals(&mut chain);
    let chain = Arc::new(chain);
    let source = PromptList::new(vec![Prompt::Text("a".to_owned())], 8).unwrap();
    (Validator::open(world.settings(), Arc::clone(&chain), source, events).await.unwrap(), chain)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_that_takes_no_keys_takes_weights_still() {
    // The second epoch's weights have to wait for the third epoch, or a later one.
    let world = world_of(Parameters { tempo: 19, weights_rate_limit: 45, ..parameters() }).await;
    let hotkey = world.validator.hotkey();
    let judged: Arc<Mutex<Vec<u64>>> = Arc::default();
    let sink = Arc::clone(&judged);
    let events = move |event| {
        if let ValidatorEvent::EpochEnded(report) = event {
            sink.lock().unwrap().push(report.epoch);
        }
    };
    let first = world.chain.head().await.unwrap().epoch;
    let (mut validator, _) = contrary(&world, |chain| chain.keys_until = first, events).await;
    let stop = CancellationToken::new();
    assert_eq!(validator.run(&stop, Some(1)).await.unwrap().weights_refused, None);
    assert_eq!(*judged.lock().unwrap(), [first.get()]);
    let (clock, _) = clock(&world, Duration::from_millis(15));
    let second = tokio::time::timeout(Duration::from_mins(1), validator.run(&stop, Some(1))).await;
    let second = second.expect("the weights are held up by the keys").unwrap();
    clock.abort();
    assert_eq!((second.epochs, second.weights_refused), (1, None));
    let epoch = Epoch::new(judged.lock().unwrap()[1]);
    let record = world.chain.epoch_key(hotkey, epoch).await.unwrap().unwrap();
    assert!(record.key.is_none(), "the chain took the key of epoch {epoch}");
}

#[tokio::test(flavor = "multi_thread")]
async fn weights_whose_reveal_is_refused_are_revealed_with_a_later_block_of_the_epoch() {
    let world = world_of(Parameters { tempo: 99, ..parameters() }).await;
    let forgotten = ChainError::Forgotten { endpoint: "ws://node".to_owned(), block: BlockNumber::new(1) };
    let disabled =
        ChainError::Refused { call: "reveal_weights", name: "CallDisabled".to_owned(), advice: "try again later" };
    let epoch = world.chain.head().await.unwrap().epoch;
    let begun = ChainError::NotRevealEpoch { committed: Epoch::new(0), reveals: epoch, running: epoch };
    // From the last to the first.
    let refusals = vec![Ok(1), Err(disabled), Err(begun), Err(forgotten)];
    let told = |chain: &mut Contrary| *chain.reveals.lock().unwrap() = refusals;
    let (mut validator, chain) = contrary(&world, told, |_| ()).await;
    let stop = CancellationToken::new();
    let stopping = stop.clone();
    let blocks = async {
        let asked = || chain.asked.lock().unwrap().len();
        // A few blocks more once all is revealed.
        let mut after = 0;
        for _ in 0..80 {
            if after == 5 {
                break;
            }
            after += u32::from(asked() >= 4);
            tokio::time::sleep(Duration::from_millis(50)).await;
            world.chain.step_block();
        }
        stopping.cancel();
    };
    let (followed, ()) = tokio::join!(validator.run(&stop, None), blocks);
    assert_eq!(followed.unwrap().epochs, 1, "the epoch is judged all the same");
    assert_eq!(*chain.asked.lock().unwrap(), [epoch; 4], "until nothing is due, and no more");
}

#[tokio::test(flavor = "multi_thread")]
async fn weights_that_wait_for_a_block_far_away_are_tried_again_with_the_next_epoch() {
    let world = world_of(Parameters { tempo: 19, ..parameters() }).await;
    let first = world.chain.head().await.unwrap().epoch;
    let (mut validator, chain) = contrary(&world, |chain| chain.no_weights_until = Some(first), |_| ()).await;
    let (clock, updates) = clock(&world, Duration::from_millis(50));
    let stop = CancellationToken::new();
    let followed = tokio::time::timeout(Duration::from_mins(1), validator.run(&stop, Some(1))).await;
    let followed = followed.expect("weights wait for ever").unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    clock.abort();
    assert_eq!((followed.epochs, followed.weights_refused), (1, None));
    assert!(*chain.refused.lock().unwrap() > 0, "they were to wait");
    assert_eq!(updates.lock().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transcript_that_was_kept_and_not_counted_counts_after_a_crash() {
    let world = world().await;
    let miner = world.miner(1, world.honest.clone()).await;
    let mut settings = world.settings();
    settings.requests = 1;
    settings.audit_rate = AuditRate::Always;
    // The crash: a session to its end and its transcript on disk, and nothing of it in the ledger.
    let file = crashed_session(&world, &settings, &miner).await;
    let epoch = file.record.request.epoch;
    Store::open(&settings.transcripts).unwrap().save(&file).unwrap();

    let source = PromptList::new(vec![Prompt::Text("a b c".to_owned())], 8).unwrap();
    let mut validator = Validator::open(settings, Arc::new(world.chain.clone()), source, |_| ()).await.unwrap();
    let report = validator.run_epoch().await.unwrap();
    assert_eq!(miner_of(&report.miners, 1).requests, 0, "the one that is owed was held before the crash");
    let explained = validator.ledger().explain(&keys(1).hotkey());
    assert_eq!(validator.ledger().standing(&keys(1).hotkey()).slug(), "unproven", "{explained:?}");
    assert_eq!(transcripts(&world).len(), 1);
    let state: serde_json::Value =
        serde_json::from_slice(&std::fs::read(world.directory.path().join("validator/standing.json")).unwrap())
            .unwrap();
    let counted = &state["counted"][epoch.get().to_string()][keys(1).hotkey().to_string()];
    let proof_ms = file.receipt.measurements.proof_ms;
    assert_eq!(*counted, serde_json::json!({ "0": { "ending": "judged", "proof_ms": proof_ms } }), "{state}");

    // Its log calls it judged.
    world.next_epoch().await;
    validator.reveal_keys().await.unwrap();
    let log = world.directory.path().join(format!("transcripts/epoch-{epoch}")).join(LOG_NAME);
    let log = EpochLog::decode_signed(&std::fs::read(log).unwrap()).unwrap();
    assert_eq!(log.requests[&keys(1).hotkey()][0].ending, assay_audit::epoch_log::Ending::Judged);
}

/// Whoever crashed before the hash of its key was published, or finds that of another process of its hotkey there, asked nobody:
/// a log of that would show it as one that hides something.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_was_not_published_leaves_no_log() {
    for is_taken in [false, true] {
        let world = world().await;
        let (epoch, hotkey) = (world.subnet.epoch(), world.validator.hotkey());
        if is_taken {
            world.chain.publish_epoch_key(hotkey, epoch, EpochKeyHash::new([9; 32])).await.unwrap();
        }
        let folder = world.directory.path().join("validator/nonces");
        drop(EpochNonces::open(&folder, NETWORK, hotkey, epoch).unwrap());
        let (validator, seen) = watched(&world).await;
        world.next_epoch().await;
        validator.reveal_keys().await.unwrap();
        assert_eq!(EpochNonces::open_epochs(&folder).unwrap(), []);
        assert!(!world.directory.path().join(format!("transcripts/epoch-{epoch}")).join(LOG_NAME).exists());
        let known = world.chain.epoch_key(hotkey, epoch).await.unwrap();
        assert!(known.is_none_or(|known| known.key.is_none()), "{known:?}");
        assert!(!seen.lock().unwrap().iter().any(|event| matches!(event, ValidatorEvent::KeyRevealed { .. })));
    }
}

/// Of requests there is an account, though the chain knows nothing of the key under which they were asked.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_the_chain_does_not_know_stays_with_the_log_of_its_requests() {
    let world = world().await;
    let (epoch, hotkey) = (world.subnet.epoch(), world.validator.hotkey());
    let folder = world.directory.path().join("validator/nonces");
    let (nonces, _) = EpochNonces::open(&folder, NETWORK, hotkey, epoch).unwrap();
    let key_hash = nonces.key_hash();
    drop(nonces.draw(keys(1).hotkey()).await.unwrap());
    drop(nonces);
    let (validator, seen) = watched(&world).await;
    world.next_epoch().await;
    validator.reveal_keys().await.unwrap();
    assert_eq!(EpochNonces::open_epochs(&folder).unwrap(), [epoch]);
    let log = world.directory.path().join(format!("transcripts/epoch-{epoch}")).join(LOG_NAME);
    let log = EpochLog::decode_signed(&std::fs::read(log).unwrap()).unwrap();
    assert_eq!(log.key_hash(), key_hash);
    assert_eq!(log.requests[&keys(1).hotkey()][0].ending, assay_audit::epoch_log::Ending::Dead);
    assert!(!seen.lock().unwrap().iter().any(|event| matches!(event, ValidatorEvent::KeyRevealed { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_epoch_that_is_nearly_over_is_left_out_and_a_stop_is_heeded_while_waiting() {
    let world = world_of(Parameters { tempo: 19, ..parameters() }).await;
    let _miner = world.miner(1, world.honest.clone()).await;
    while {
        let head = world.chain.head().await.unwrap();
        head.next_epoch.get() - head.block.get() > 3
    } {
        world.chain.step_block();
    }
    let (mut validator, seen) = watched(&world).await;
    let stop = CancellationToken::new();
    let stopping = stop.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(300)).await;
        stopping.cancel();
    });
    let followed = validator.run(&stop, None).await.unwrap();
    assert_eq!(followed.epochs, 0);
    let head = world.chain.head().await.unwrap();
    assert_eq!(waits(&seen), [Wait::TooLate { running: head.epoch, at: head.next_epoch }]);
    assert!(waits(&seen)[0].to_string().contains("nearly over"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_miner_whose_slowness_left_sessions_out_is_judged_by_the_others_and_nobody_else_pays_for_it() {
    let world = world_of(Parameters { tempo: 39, ..parameters() }).await;
    let slow = Hooked::new(&world, |honest| {
        std::thread::sleep(Duration::from_secs(4));
        honest()
    });
    let _slow = world.miner(1, slow).await;
    let head = world.chain.head().await.unwrap();
    let (chain, blocks) = (world.chain.clone(), head.next_epoch.get() - 5 - head.block.get());
    // Its turn comes behind the slow one's first, and with it the time is over.
    let quick = Hooked::new(&world, move |honest| {
        for _ in 0..blocks {
            chain.step_block();
        }
        honest()
    });
    let _quick = world.miner(2, quick).await;
    let seen: Arc<Mutex<Vec<ValidatorEvent>>> = Arc::default();
    let sink = Arc::clone(&seen);
    let mut settings = Settings { sessions: 1, ..world.settings() };
    settings.terms.deadlines.proof_ms = 20_000;
    let source = PromptList::new(vec![Prompt::Text("a b c".to_owned())], 8).unwrap();
    let tell = move |event| sink.lock().unwrap().push(event);
    let mut validator = Validator::open(settings, Arc::new(world.chain.clone()), source, tell).await.unwrap();
    validator.run(&CancellationToken::new(), Some(1)).await.unwrap();
    let seen = seen.lock().unwrap();
    let report = seen.iter().find_map(|event| match event {
        ValidatorEvent::EpochEnded(report) => Some(report),
        _ => None,
    });
    let miners = &report.unwrap().miners;
    let counts = |number| {
        let miner = miner_of(miners, number);
        (miner.requests, miner.accepted, miner.inconclusive)
    };
    assert_eq!([counts(1), counts(2)], [(1, 1, 0), (1, 1, 2)], "{miners:?}");
    let ledger = validator.ledger();
    let epoch_of = |number: u8| ledger.explain(&keys(number).hotkey()).last_epoch;
    assert_eq!([epoch_of(1), epoch_of(2)], [Some(Judgement::Short), Some(Judgement::OurFault)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn weights_too_fast_wait_for_their_block() {
    let world = world_of(Parameters { tempo: 19, weights_rate_limit: 30, ..parameters() }).await;
    let (clock, updates) = clock(&world, Duration::from_millis(15));
    let (mut validator, seen) = watched(&world).await;
    assert_eq!(validator.run(&CancellationToken::new(), Some(1)).await.unwrap().weights_refused, None);
    assert_eq!(validator.run(&CancellationToken::new(), Some(1)).await.unwrap().weights_refused, None);
    tokio::time::sleep(Duration::from_millis(100)).await;
    clock.abort();
    let updates = updates.lock().unwrap().clone();
    assert_eq!(updates.len(), 2, "{updates:?}");
    assert!(updates[1].get() - updates[0].get() >= 30, "{updates:?}");
    let waits = waits(&seen);
    assert!(waits.iter().any(|wait| matches!(wait, Wait::Weights { .. })), "{waits:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_of_weights_count_as_set() {
    let form = WeightsForm::Timelocked { period: 1, version: 4 };
    let world = world_of(Parameters { tempo: 19, weights_form: form, ..parameters() }).await;
    let _miner = world.miner(1, world.honest.clone()).await;
    let (clock, updates) = clock(&world, Duration::from_millis(60));
    let (mut validator, _) = watched(&world).await;
    let followed = validator.run(&CancellationToken::new(), Some(3)).await.unwrap();
    assert_eq!((followed.epochs, followed.weights_refused), (3, None));
    tokio::time::sleep(Duration::from_millis(200)).await;
    clock.abort();
    assert_eq!(updates.lock().unwrap().len(), 3);
    assert!(
        !world.chain.weights_of(world.validator.hotkey()).await.unwrap().weights.is_empty(),
        "the first are revealed"
    );
}
