//! What a cheat gains over whole epochs, with a devnet between it and the validator: nothing.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use assay_audit::policy::Policy;
use assay_audit::prompt::Prompt;
use assay_audit::request::AuditRate;
use assay_audit::session::{Refusal, RefusalReason};
use assay_chain::{Chain, Devnet, Genesis, GenesisHash, NetUid, Parameters, Rao, WeightsForm};
use assay_commitments::ManifestId;
use assay_proto::v1::Signed;
use assay_proto::v1::miner_message::Message;
use assay_tests::adversary::{Act, Script, Seat, as_scripted, message};
use assay_tests::arena::{Arena, NETWORK, PATIENT, keys};
use assay_tests::fixture;
use assay_validator::{MinerReport, PromptList, Settings, Terms, Validator, ValidatorEvent};

use crate::table::{Cheat, VERSE, at_the_answer, claimed};

/// Where a validator does not know the model yet.
const NOT_TAKEN: &str = "it is not taken, and another miner may be asked for it";

/// The row's attacks that end without a verdict: what the miner does, and what comes of it.
pub(crate) const WITHOUT_VERDICT: &[(usize, &str, &str)] = &[
    (1, "another model's embedding digests shown to who looks for the model", NOT_TAKEN),
    (15, "another tokenizer shown to who looks for the model", NOT_TAKEN),
    (
        20,
        "no manifest, a longer one, a file without end, or a trailer that cannot be read, shown to who looks for the model",
        NOT_TAKEN,
    ),
    (21, "another manifest shown to who looks for the model", NOT_TAKEN),
    (21, "a manifest that is not in force", "it is not asked"),
    (21, "a port at which another hotkey listens", "`commitment_signature`, as above"),
    (22, "silence before the first token, in any form", "no verdict; availability is lost"),
    (22, "a file that breaks off, shown to who looks for the model", NOT_TAKEN),
    (
        22,
        "service of organic traffic only, every request of a validator refused",
        "no verdict; no weight without audits",
    ),
];

fn devnet() -> Devnet {
    let genesis = Genesis {
        network: assay_chain::Network {
            genesis: GenesisHash::new(NETWORK.genesis),
            netuid: NetUid::new(NETWORK.netuid),
        },
        owner: keys(100).hotkey(),
        validators: vec![(keys(200).hotkey(), Rao::new(1_000_000))],
        parameters: Parameters {
            tempo: 10,
            weights_form: WeightsForm::Plain,
            weights_rate_limit: 0,
            serving_rate_limit: 0,
            ..Parameters::default()
        },
    };
    Devnet::new(&genesis).unwrap()
}

/// Registers a miner and what it declares.
async fn register(chain: &Devnet, number: u8, endpoint: SocketAddr, manifest: ManifestId) -> u16 {
    let hotkey = keys(number).hotkey();
    let uid = chain.register(hotkey).unwrap();
    chain.serve_endpoint(hotkey, endpoint).await.unwrap();
    chain.declare_manifest(hotkey, manifest).await.unwrap();
    uid.get()
}

type Events = Arc<Mutex<Vec<ValidatorEvent>>>;

/// A validator whose records lie in `directory`.
async fn validator(arena: &Arena, chain: &Devnet, directory: &Path) -> (Validator<Devnet>, Events) {
    let settings = Settings {
        keys: arena.validator().clone(),
        directory: directory.join("validator"),
        transcripts: directory.join("transcripts"),
        terms: Terms { policy: Policy::DEFAULT, deadlines: PATIENT, inline_assets: true },
        audit_rate: AuditRate::Always,
        probation: assay_probation::Policy::default(),
        requests: 3,
        sessions: 4,
        sessions_per_miner: 1,
        verifying: 1,
        public_endpoints: false,
    };
    let events = Events::default();
    let sink = Arc::clone(&events);
    let source = PromptList::new(vec![Prompt::Text(VERSE.to_owned())], 8).unwrap();
    let tell = move |event| sink.lock().unwrap().push(event);
    let mut validator = Validator::open(settings, Arc::new(chain.clone()), source, tell).await.unwrap();
    validator.add_model(Arc::clone(arena.model()));
    (validator, events)
}

fn report_of(miners: &[MinerReport], number: u8) -> &MinerReport {
    let hotkey = keys(number).hotkey().to_string();
    miners.iter().find(|miner| miner.hotkey == hotkey).unwrap()
}

async fn seat(number: u8, script: Script) -> Seat {
    Seat::start(claimed(), keys(number), script).await
}

fn honest() -> Script {
    Arc::new(|_, due| as_scripted(due))
}

/// A miner of a model that is not registered, and one that answers in another's name, get no weight.
#[tokio::test(flavor = "multi_thread")]
async fn attack_21_unregistered_manifest_and_another_hotkeys_port() {
    let (arena, chain, directory) = (Arena::new(&fixture()), devnet(), tempfile::tempdir().unwrap());
    let in_force = arena.model().id();
    chain.publish_manifests(keys(100).hotkey(), &[in_force]).await.unwrap();
    let (good, other) = (seat(1, honest()).await, seat(2, honest()).await);
    register(&chain, 1, good.peer().endpoint, in_force).await;
    register(&chain, 2, other.peer().endpoint, ManifestId::new([9; 32])).await;
    // Hotkey 3 has nothing running and points at the port of hotkey 1.
    register(&chain, 3, good.peer().endpoint, in_force).await;
    let (mut validator, events) = validator(&arena, &chain, directory.path()).await;
    let report = validator.run_epoch().await.unwrap();
    let one = report_of(&report.miners, 1);
    assert_eq!((one.accepted, one.standing.as_str()), (3, "good"), "{report:?}");
    assert!(one.weight > 0);
    let skipped = |event: &ValidatorEvent| {
        matches!(event, ValidatorEvent::Skipped { miner, why }
            if *miner == keys(2).hotkey() && *why == "it serves no manifest that is in force")
    };
    assert!(events.lock().unwrap().iter().any(skipped));
    assert!(report.miners.iter().all(|miner| miner.hotkey != keys(2).hotkey().to_string()), "{report:?}");
    let three = report_of(&report.miners, 3);
    assert_eq!((three.accepted, three.weight), (0, 0), "{report:?}");
    assert_eq!(three.rejected.keys().collect::<Vec<_>>(), ["commitment_signature"], "{report:?}");
}

/// A miner that serves everybody but validators is never proven wrong, and has no weight.
#[tokio::test(flavor = "multi_thread")]
async fn attack_22_selective_service() {
    let (arena, chain, directory) = (Arena::new(&fixture()), devnet(), tempfile::tempdir().unwrap());
    chain.publish_manifests(keys(100).hotkey(), &[arena.model().id()]).await.unwrap();
    let refusing = |reason| {
        at_the_answer(move |talk, _| {
            let signed = Refusal { session: talk.request.session_id(), reason }.sign(talk.keys);
            let signed = Signed { body: signed.bytes, signature: signed.signature.0.to_vec() };
            vec![Act::Say(message(Message::Refusal(signed)))]
        })
    };
    let reasons = [(1, RefusalReason::Busy), (2, RefusalReason::OverBudget), (3, RefusalReason::Unserved)];
    let mut seats = vec![];
    for (number, reason) in reasons {
        let seat = seat(number, refusing(reason)).await;
        register(&chain, number, seat.peer().endpoint, arena.model().id()).await;
        seats.push(seat);
    }
    let (mut validator, _) = validator(&arena, &chain, directory.path()).await;
    let report = validator.run_epoch().await.unwrap();
    for (number, reason) in reasons {
        let miner = report_of(&report.miners, number);
        let counted = (miner.unavailable, miner.audits, miner.weight);
        assert_eq!(counted, (3, 0, 0), "{}: {miner:?}", reason.name());
    }
}

/// Whoever comes to a uid after a cheat starts with nothing of its record.
#[tokio::test(flavor = "multi_thread")]
async fn honest_a_recycled_uid_has_no_past() {
    let (arena, directory) = (Arena::new(&fixture()), tempfile::tempdir().unwrap());
    let cheat = Cheat::of(claimed().proof_bytes(|_, proof| proof.fill(0)));
    let cheat = Seat::start(cheat.adversary, keys(1), cheat.script).await;
    let chain = devnet();
    chain.publish_manifests(keys(100).hotkey(), &[arena.model().id()]).await.unwrap();
    let uid = register(&chain, 1, cheat.peer().endpoint, arena.model().id()).await;
    let (mut before, _) = validator(&arena, &chain, directory.path()).await;
    let report = before.run_epoch().await.unwrap();
    assert_eq!(report_of(&report.miners, 1).standing, "probation", "{report:?}");
    drop(before);

    // The same subnet an epoch later: the cheat is gone and somebody else has its uid.
    let chain = devnet();
    chain.run_epoch();
    chain.publish_manifests(keys(100).hotkey(), &[arena.model().id()]).await.unwrap();
    let newcomer = seat(2, honest()).await;
    assert_eq!(register(&chain, 2, newcomer.peer().endpoint, arena.model().id()).await, uid);
    let (mut after, _) = validator(&arena, &chain, directory.path()).await;
    let report = after.run_epoch().await.unwrap();
    let miner = report_of(&report.miners, 2);
    assert_eq!((miner.uid, miner.accepted, miner.standing.as_str()), (uid, 3, "good"), "{report:?}");
    assert!(miner.weight > 0);
}
