//! Epoch after epoch: what is done once, whatever is killed, and what is waited for.

use assay_chain::BlockNumber;
use assay_validator::{Followed, Wait};
use tokio_util::sync::CancellationToken;

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

#[tokio::test(flavor = "multi_thread")]
async fn a_transcript_that_was_kept_and_not_counted_counts_after_a_crash() {
    let world = world().await;
    let miner = world.miner(1, world.honest.clone()).await;
    let mut settings = world.settings();
    settings.requests = 1;
    settings.audit_rate = AuditRate::Always;
    // The crash: a session to its end and its transcript on disk, and nothing of it in the ledger.
    let model = fetch_model(miner.local_addr(), world.published.id()).await.unwrap();
    let auditor = Auditor::new(world.validator.clone(), NETWORK, settings.terms, 1);
    let epoch = world.chain.head().await.unwrap().epoch;
    let nonces_at = settings.directory.join("nonces");
    let (nonces, _) = EpochNonces::open(&nonces_at, NETWORK, auditor.hotkey(), epoch).unwrap();
    let ask = PromptList::new(vec![Prompt::Text("to be or not".to_owned())], 8).unwrap().draw(0);
    let peer = Peer { hotkey: keys(1).hotkey(), endpoint: miner.local_addr() };
    let outcome = auditor.session(&peer, &Arc::new(model), ask, AuditRate::Always, &nonces).await;
    let Outcome::Judged(judged) = outcome else { panic!("{outcome:?}") };
    assay_validator::Store::open(&settings.transcripts).unwrap().save(&judged.file).unwrap();
    drop((nonces, judged));

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
    assert_eq!(*counted, serde_json::json!([0]), "{state}");

    // Its log calls it judged.
    world.next_epoch().await;
    validator.reveal_keys().await.unwrap();
    let log = world.directory.path().join(format!("transcripts/epoch-{epoch}")).join(LOG_NAME);
    let log = EpochLog::decode_signed(&std::fs::read(log).unwrap()).unwrap();
    assert_eq!(log.requests[&keys(1).hotkey()][0].ending, assay_audit::epoch_log::Ending::Judged);
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
