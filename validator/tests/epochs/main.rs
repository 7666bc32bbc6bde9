//! A validator, a devnet and miners over loopback gRPC, with a small random model.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops there")]

mod contrary;
mod faults;
mod fetch;
mod schedule;

use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use assay_audit::assets::ModelAssets;
use assay_audit::challenge::Nonce;
use assay_audit::commit::Surroundings;
use assay_audit::epoch_log::{Account, EpochLog};
use assay_audit::keys::Keypair;
use assay_audit::model::CommittedModel;
use assay_audit::policy::Policy;
use assay_audit::prompt::Prompt;
use assay_audit::request::{AuditRate, Deadlines, Network, Request};
use assay_audit::transcript_file::TranscriptFile;
use assay_audit::verdict::Verdict;
use assay_chain::{Chain, Devnet, Genesis, GenesisHash, NetUid, Parameters, Rao, WeightsForm};
use assay_commitments::rows::Profile;
use assay_commitments::trace::{TraceCommitment, TraceRows};
use assay_commitments::{Epoch, ManifestId, TokenId};
use assay_llm_runtime::synthetic::{self, Numbers};
use assay_llm_runtime::{Engine, EngineLimits, Model};
use assay_miner::{
    Backend, HonestBackend, KnownSubnet, Limits, Miner, MinerConfig, MinerError, ProveError, Published, RunningMiner,
    ServeError, Served, SubnetView,
};
use assay_validator::{
    Auditor, Ending, EpochNonces, LOG_NAME, MinerReport, Outcome, Patience, Peer, PromptList, RequestSource, Settings,
    StorageError, Store, Terms, Validator, ValidatorError, ValidatorEvent, fetch_model,
};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};

const NETWORK: Network = Network { genesis: [7; 32], netuid: 3 };
const DEADLINES: Deadlines = Deadlines {
    first_token_ms: 20_000,
    token_ms: 20_000,
    commitment_ms: 20_000,
    answer_ms: 60_000,
    settle_ms: 20_000,
    proof_ms: 3_000,
};

/// Wide enough that roundings average as they do in real models.
const NUMBERS: Numbers = Numbers { hidden: 128, head_dim: 32, ffn: 384, ..Numbers::TINY };

fn keys(number: u8) -> Keypair {
    Keypair::from_seed([number; 32]).unwrap()
}

/// The model under test, and all that both sides know of it.
struct World {
    honest: HonestBackend,
    published: Published,
    chain: Devnet,
    subnet: Arc<KnownSubnet>,
    validator: Keypair,
    directory: tempfile::TempDir,
}

async fn world() -> World {
    world_of(parameters()).await
}

fn parameters() -> Parameters {
    Parameters {
        tempo: 10,
        weights_form: WeightsForm::Plain,
        weights_rate_limit: 0,
        serving_rate_limit: 0,
        ..Parameters::default()
    }
}

async fn world_of(parameters: Parameters) -> World {
    let checkpoint = synthetic::checkpoint(&NUMBERS, 11);
    let template = checkpoint.chat_template.as_ref().map(String::as_bytes);
    let surroundings =
        Surroundings { profile: Profile::Bf16V1, tokenizer: &checkpoint.tokenizer, chat_template: template };
    let (architecture, tensors) = (&checkpoint.architecture, &checkpoint.tensors);
    let committed = CommittedModel::commit(architecture, tensors, surroundings, &mut |_, _| ()).unwrap();
    let published = Published::new(&committed, &checkpoint.tokenizer, template).unwrap();
    let model = Model::new(&checkpoint.architecture, &checkpoint.tensors, Profile::Bf16V1).unwrap();
    let engine = Engine::start(Arc::new(model), EngineLimits::default());
    let assets = ModelAssets::new(&committed.manifest, &checkpoint.tokenizer, template).unwrap();
    let honest = HonestBackend { engine: Arc::new(engine), committed: Arc::new(committed), assets: Arc::new(assets) };
    let validator = keys(200);
    let owner = keys(100).hotkey();
    let chain = Devnet::new(&Genesis {
        network: assay_chain::Network {
            genesis: GenesisHash::new(NETWORK.genesis),
            netuid: NetUid::new(NETWORK.netuid),
        },
        owner,
        validators: vec![(validator.hotkey(), Rao::new(1_000_000))],
        parameters,
    })
    .unwrap();
    chain.publish_manifests(owner, &[published.id()]).await.unwrap();
    let subnet = KnownSubnet::new(chain.head().await.unwrap().epoch, &[(validator.hotkey(), 1)]);
    World { honest, published, chain, subnet: Arc::new(subnet), validator, directory: tempfile::tempdir().unwrap() }
}

impl World {
    async fn miner(&self, number: u8, backend: impl Backend) -> RunningMiner {
        let running = Miner::start(self.config(number), self.published.clone(), backend).await.unwrap();
        self.register(number, running.local_addr(), self.published.id()).await;
        running
    }

    async fn next_epoch(&self) {
        self.chain.run_epoch();
        self.subnet.update(self.chain.head().await.unwrap().epoch, &[(self.validator.hotkey(), 1)]);
    }

    fn config(&self, number: u8) -> MinerConfig {
        MinerConfig {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            keys: keys(number),
            network: NETWORK,
            subnet: self.subnet.clone(),
            limits: Limits { drain: Duration::from_secs(5), ..Limits::default() },
            spill_folder: None,
        }
    }

    async fn register(&self, number: u8, endpoint: SocketAddr, manifest: ManifestId) {
        let hotkey = keys(number).hotkey();
        self.chain.register(hotkey).unwrap();
        self.chain.serve_endpoint(hotkey, endpoint).await.unwrap();
        self.chain.declare_manifest(hotkey, manifest).await.unwrap();
    }

    fn settings(&self) -> Settings {
        Settings {
            keys: self.validator.clone(),
            directory: self.directory.path().join("validator"),
            transcripts: self.directory.path().join("transcripts"),
            terms: Terms { policy: Policy::DEFAULT, deadlines: DEADLINES, inline_assets: true },
            audit_rate: AuditRate::Below(1 << 63),
            probation: assay_probation::Policy::default(),
            requests: 3,
            sessions: 4,
            sessions_per_miner: 1,
            verifying: 2,
            public_endpoints: false,
        }
    }

    async fn open(&self, events: impl Fn(ValidatorEvent) + Send + Sync + 'static) -> Validator<Devnet> {
        let prompts = ["to be or not", "once upon a time", "a b c"].map(|text| Prompt::Text(text.to_owned()));
        let source = PromptList::new(prompts.to_vec(), 12).unwrap();
        Validator::open(self.settings(), Arc::new(self.chain.clone()), source, events).await.unwrap()
    }
}

/// What comes of a challenge.
type Proof = Result<Vec<u8>, ProveError>;

/// An honest miner up to the proof, of which it makes what it likes.
struct Hooked<F> {
    honest: HonestBackend,
    /// Given what makes the honest proof.
    proof: F,
}

impl<F: Fn(&dyn Fn() -> Proof) -> Proof + Send + Sync + 'static> Hooked<F> {
    fn new(world: &World, proof: F) -> Self {
        Self { honest: world.honest.clone(), proof }
    }
}

impl<F: Fn(&dyn Fn() -> Proof) -> Proof + Send + Sync + 'static> Backend for Hooked<F> {
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
    ) -> Proof {
        (self.proof)(&|| self.honest.prove(request, commitment, trace, nonce))
    }
}

fn miner_of(miners: &[MinerReport], number: u8) -> &MinerReport {
    let hotkey = keys(number).hotkey().to_string();
    miners.iter().find(|miner| miner.hotkey == hotkey).unwrap()
}

fn transcripts(world: &World) -> Vec<TranscriptFile> {
    let root = world.directory.path().join("transcripts");
    let mut files = Vec::new();
    let folders = std::fs::read_dir(root).unwrap().map(|folder| folder.unwrap().path());
    for epoch in folders.filter(|folder| !folder.ends_with("assets")) {
        for file in std::fs::read_dir(epoch).unwrap() {
            let path = file.unwrap().path();
            if path.file_name().is_some_and(|name| name == LOG_NAME) {
                continue;
            }
            assert_eq!(path.extension().and_then(|extension| extension.to_str()), Some("assay"));
            files.push(TranscriptFile::decode(&std::fs::read(path).unwrap()).unwrap());
        }
    }
    files
}

#[tokio::test(flavor = "multi_thread")]
async fn honest_miners_earn_and_cheats_do_not() {
    let world = world().await;
    let honest = world.miner(1, world.honest.clone()).await;
    let zeros = world.miner(2, Hooked::new(&world, |honest| Ok(vec![0; honest()?.len()]))).await;
    let mute = world.miner(3, Hooked::new(&world, |_| Err(ProveError("I would rather not".to_owned())))).await;
    // Nobody listens there.
    world.register(4, SocketAddr::from(([127, 0, 0, 1], 9)), world.published.id()).await;
    let seen: Arc<Mutex<Vec<ValidatorEvent>>> = Arc::default();
    let sink = Arc::clone(&seen);
    let mut validator = world.open(move |event| sink.lock().unwrap().push(event)).await;

    let first = validator.run_epoch().await.unwrap();
    let one = miner_of(&first.miners, 1);
    assert_eq!((one.requests, one.audits, one.accepted, one.standing.as_str()), (3, 3, 3, "good"), "{first:?}");
    assert!(one.weight > 0 && one.rejected.is_empty());
    let two = miner_of(&first.miners, 2);
    // Proven wrong once, it is not asked again in that epoch.
    assert_eq!((two.audits, two.accepted, two.weight, two.standing.as_str()), (1, 0, 0, "probation"));
    assert!(two.rejected.keys().all(|slug| slug == "proof_shape"), "{:?}", two.rejected);
    let three = miner_of(&first.miners, 3);
    assert_eq!((three.requests, three.rejected.get("proof_absent")), (1, Some(&1)), "{:?}", three.rejected);
    let four = miner_of(&first.miners, 4);
    assert_eq!((four.unavailable, four.audits, four.weight), (3, 0, 0));
    assert_eq!(first.weights_refused, None);

    assert!(matches!(validator.run_epoch().await, Err(ValidatorError::EpochOver(_))), "an epoch is judged once");
    world.next_epoch().await;
    let second = validator.run_epoch().await.unwrap();
    let one = miner_of(&second.miners, 1);
    assert_eq!((one.requests, one.accepted + one.settled, one.audits), (3, 3, one.accepted));
    assert_eq!(miner_of(&second.miners, 2).standing, "probation");

    // The first epoch's log is beside its transcripts, its digest on chain with the key.
    let log = world.directory.path().join(format!("transcripts/epoch-{}", first.epoch)).join(LOG_NAME);
    let log = EpochLog::decode_signed(&std::fs::read(log).unwrap()).unwrap();
    let record = world.chain.epoch_key(world.validator.hotkey(), Epoch::new(first.epoch)).await.unwrap().unwrap();
    assert_eq!(record.requests.map(|digest| *digest.as_bytes()), Some(log.digest()));
    let asked = |number: u8| log.requests[&keys(number).hotkey()].len();
    assert_eq!([1, 2, 3, 4].map(asked), [3, 1, 1, 3]);
    let mut account = Account::new(&log);
    for file in transcripts(&world).iter().filter(|file| file.record.request.epoch == log.epoch) {
        account.add(file, file.judge(&|_| None).verdict);
    }
    for (miner, tally) in account.finish() {
        assert_eq!((tally.missing, tally.dead, tally.owed), (0, 0, tally.made), "{miner}: {tally:?}");
        assert!(tally.shown.is_empty(), "{miner}: {tally:?}");
    }

    // The first epoch's key is on chain, and opens every nonce commitment of its requests.
    let record = world.chain.epoch_key(world.validator.hotkey(), Epoch::new(first.epoch)).await.unwrap().unwrap();
    let key = assay_audit::challenge::EpochKey::new(*record.key.unwrap().as_bytes());
    assert_eq!(key.hash(), *record.hash.as_bytes());
    let files = transcripts(&world);
    assert_eq!(files.len(), 10, "in two epochs three of the honest miner, one of each cheat");
    for file in &files {
        let request = &file.record.request;
        assert!(request.sampling.temperature > 0.0);
        let judgement = file.judge(&|_| None);
        assert_eq!(assay_audit::transcript_file::Conclusion::from(judgement.verdict), file.receipt.conclusion);
        if request.epoch == Epoch::new(first.epoch) {
            let nonce = key.nonce(NETWORK.netuid, &request.miner, request.counter);
            let commitment =
                assay_audit::challenge::nonce_commitment(&nonce, request.counter, &request.validator, &request.miner);
            assert_eq!(request.nonce_commitment, Some(commitment));
        }
    }
    let accepted = seen.lock().unwrap().iter().any(|event| {
        matches!(event, ValidatorEvent::Session { ending: Ending::Judged { verdict: Verdict::Accepted, .. }, .. })
    });
    assert!(accepted);
    for miner in [honest, zeros, mute] {
        assert!(miner.shutdown().await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_validator_that_was_interrupted_goes_on_and_charges_nobody() {
    let world = world().await;
    let _miner = world.miner(1, world.honest.clone()).await;
    let hotkey = keys(1).hotkey();
    let nonces_at = world.directory.path().join("validator/nonces");
    let epoch = world.chain.head().await.unwrap().epoch;
    {
        let (nonces, _) = EpochNonces::open(&nonces_at, NETWORK, world.validator.hotkey(), epoch).unwrap();
        let drawn = nonces.draw(hotkey).await.unwrap();
        drawn.reveal().await.unwrap();
    }
    let buried: Arc<Mutex<Vec<u64>>> = Arc::default();
    let sink = Arc::clone(&buried);
    let mut validator = world
        .open(move |event| {
            if let ValidatorEvent::Buried { counter, .. } = event {
                sink.lock().unwrap().push(counter);
            }
        })
        .await;
    let report = validator.run_epoch().await.unwrap();
    assert_eq!(*buried.lock().unwrap(), [0]);
    let miner = miner_of(&report.miners, 1);
    assert_eq!((miner.accepted, miner.standing.as_str()), (3, "good"), "{report:?}");
    assert!(transcripts(&world).iter().all(|file| file.record.request.counter > 0), "a dead counter came back");
    drop(validator);

    world.next_epoch().await;
    let mut again = world.open(|_| ()).await;
    assert_eq!(again.ledger().standing(&hotkey).slug(), "good", "standings are remembered");
    assert_eq!(miner_of(&again.run_epoch().await.unwrap().miners, 1).requests, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_public_network_a_miner_cannot_send_validators_to_their_own_neighbours() {
    let world = world().await;
    let listener = TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    world.register(1, listener.local_addr().unwrap(), world.published.id()).await;
    let skipped: Arc<Mutex<Vec<&str>>> = Arc::default();
    let sink = Arc::clone(&skipped);
    let events = move |event| {
        if let ValidatorEvent::Skipped { why, .. } = event {
            sink.lock().unwrap().push(why);
        }
    };
    let settings = Settings { public_endpoints: true, ..world.settings() };
    let source = PromptList::new(vec![Prompt::Text("a b".to_owned())], 2).unwrap();
    let chain = Arc::new(world.chain.clone());
    let mut validator = Validator::open(settings, chain, source, events).await.unwrap();
    let report = validator.run_epoch().await.unwrap();
    assert!(report.miners.is_empty(), "{report:?}");
    assert_eq!(*skipped.lock().unwrap(), ["its endpoint is no public address"]);
    let connected = tokio::time::timeout(Duration::from_millis(100), listener.accept()).await;
    assert!(connected.is_err(), "{connected:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_complete_proof_needs_no_nonce() {
    let world = world().await;
    let _miner = world.miner(1, world.honest.clone()).await;
    let mut settings = world.settings();
    settings.terms.policy = Policy::Everything;
    settings.terms.deadlines.proof_ms = 60_000;
    settings.requests = 1;
    let source = PromptList::new(vec![Prompt::Text("a b".to_owned())], 2).unwrap();
    let chain = Arc::new(world.chain.clone());
    let mut validator = Validator::open(settings, chain, source, |_| ()).await.unwrap();
    let report = validator.run_epoch().await.unwrap();
    assert_eq!(miner_of(&report.miners, 1).accepted, 1, "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_is_one_clear_line() {
    let world = world().await;
    let miner = world.miner(1, world.honest.clone()).await;
    let config = MinerConfig { listen: miner.local_addr(), ..world.config(2) };
    let error = Miner::start(config, world.published.clone(), world.honest.clone()).await.unwrap_err();
    assert!(matches!(error, MinerError::Listen { .. }));
    let line = error.to_string();
    assert!(line.contains(&miner.local_addr().to_string()) && !line.contains('\n'), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transcript_that_cannot_be_kept_costs_the_miner_nothing() {
    let world = world().await;
    let _miner = world.miner(1, world.honest.clone()).await;
    let mut validator = world.open(|_| ()).await;
    // A file where the epoch's directory should be stands for a disk that fails.
    std::fs::write(world.directory.path().join("transcripts/epoch-0"), b"").unwrap();
    let report = validator.run_epoch().await.unwrap();
    let miner = miner_of(&report.miners, 1);
    assert_eq!((miner.inconclusive, miner.accepted, miner.standing.as_str()), (3, 0, "unproven"), "{report:?}");
}

/// Passes bytes on to a miner, and cuts the first `cuts` connections once `bytes` have come back.
async fn cutting_proxy(miner: SocketAddr, cuts: usize, bytes: usize) -> SocketAddr {
    let listener = TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        for connection in 0.. {
            let Ok((near, _)) = listener.accept().await else { return };
            let Ok(far) = TcpStream::connect(miner).await else { return };
            tokio::spawn(async move {
                let (mut near_read, mut near_write) = near.into_split();
                let (far_read, mut far_write) = far.into_split();
                let most = if connection < cuts { bytes } else { usize::MAX };
                let mut limited = far_read.take(u64::try_from(most).unwrap());
                // Whichever side ends first ends both.
                tokio::select! {
                    _ = tokio::io::copy(&mut near_read, &mut far_write) => {}
                    _ = tokio::io::copy(&mut limited, &mut near_write) => {}
                }
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_breaks_in_the_proof_is_taken_up_again() {
    let world = world().await;
    let miner = Miner::start(world.config(1), world.published.clone(), world.honest.clone()).await.unwrap();
    let model = fetch_model(miner.local_addr(), world.published.id(), Patience::DEFAULT).await.unwrap();
    // Tokens and commitment are some two kilobytes, the proof is a hundred times that.
    let proxy = cutting_proxy(miner.local_addr(), 2, 20_000).await;
    let terms = Terms { policy: Policy::DEFAULT, deadlines: DEADLINES, inline_assets: false };
    let auditor = Auditor::new(world.validator.clone(), NETWORK, terms, 1, Arc::new(world.chain.clone()));
    let (nonces, _) =
        EpochNonces::open(world.directory.path(), NETWORK, auditor.hotkey(), world.subnet.epoch()).unwrap();
    let ask = PromptList::new(vec![Prompt::Text("to be or not".to_owned())], 8).unwrap().draw(0);
    let peer = Peer { hotkey: keys(1).hotkey(), endpoint: proxy };
    let outcome = auditor.session(&peer, &Arc::new(model), ask, AuditRate::Always, &nonces).await;
    let Outcome::Judged(judged) = outcome else { panic!("{outcome:?}") };
    assert_eq!(judged.judgement.verdict, Verdict::Accepted);
    assert!(judged.judgement.report.proof_bytes > 40_000, "{}", judged.judgement.report.proof_bytes);
    assert!(judged.file.receipt.measurements.proof_ms >= 100, "it was not broken");
}
