//! The service, spoken to message by message.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops there")]

use std::fmt::Write;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use assay_audit::assets::ModelAssets;
use assay_audit::challenge::{EpochKey, Nonce, nonce_commitment};
use assay_audit::commit::Surroundings;
use assay_audit::keys::{Keypair, Signature};
use assay_audit::model::CommittedModel;
use assay_audit::policy::{Columns, Policy};
use assay_audit::prompt::Prompt;
use assay_audit::request::{AuditRate, Deadlines, MAX_REQUEST_BYTES, Network, Request};
use assay_audit::sampling::Sampling;
use assay_audit::session::{Answer, Exchange, Omission, Refusal, RefusalReason, Reply, SessionRecord, SignedBytes};
use assay_audit::transcript_file::{Measurements, Receipt};
use assay_audit::verdict::Verdict;
use assay_commitments::codec;
use assay_commitments::rows::Profile;
use assay_commitments::trace::{Trace, TraceCommitment, TraceRows, TraceShape};
use assay_commitments::{Epoch, Hotkey, ManifestId, TokenId};
use assay_llm_runtime::synthetic::{self, Numbers};
use assay_llm_runtime::{Engine, EngineLimits, Model};
use assay_miner::{
    Backend, HonestBackend, KnownSubnet, Limits, Miner, MinerConfig, MinerError, ProveError, Published, RunningMiner,
    ServeError, Served,
};
use assay_proto::chunks::Assembly;
use assay_proto::v1::miner_client::MinerClient;
use assay_proto::v1::miner_message::Message as FromMiner;
use assay_proto::v1::validator_message::Message as ToMiner;
use assay_proto::v1::{self, MinerMessage, Signed, ValidatorMessage};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

const NETWORK: Network = Network { genesis: [7; 32], netuid: 3 };
const EPOCH: Epoch = Epoch::new(5);
const DEADLINES: Deadlines = Deadlines {
    first_token_ms: 5_000,
    token_ms: 5_000,
    commitment_ms: 5_000,
    answer_ms: 15_000,
    settle_ms: 5_000,
    proof_ms: 5_000,
};

fn keys(number: u8) -> Keypair {
    Keypair::from_seed([number; 32]).unwrap()
}

fn miner_keys() -> Keypair {
    keys(1)
}

fn validator_keys() -> Keypair {
    keys(2)
}

/// The validator holds half of the stake.
fn subnet() -> Arc<KnownSubnet> {
    Arc::new(KnownSubnet::new(EPOCH, &[(validator_keys().hotkey(), 1), (keys(3).hotkey(), 1)]))
}

fn model() -> (HonestBackend, Published) {
    let checkpoint = synthetic::checkpoint(&Numbers::TINY, 11);
    let (architecture, tensors) = (&checkpoint.architecture, &checkpoint.tensors);
    let template = checkpoint.chat_template.as_ref().map(String::as_bytes);
    let tokenizer = checkpoint.tokenizer.as_slice();
    let surroundings = Surroundings { profile: Profile::Bf16V1, tokenizer, chat_template: template };
    let committed = CommittedModel::commit(architecture, tensors, surroundings, &mut |_, _| ()).unwrap();
    let published = Published::new(&committed, tokenizer, template).unwrap();
    let assets = ModelAssets::new(&committed.manifest, tokenizer, template).unwrap();
    let model = Arc::new(Model::new(architecture, tensors, Profile::Bf16V1).unwrap());
    let honest = HonestBackend {
        engine: Arc::new(Engine::start(model, EngineLimits::default())),
        committed: Arc::new(committed),
        assets: Arc::new(assets),
    };
    (honest, published)
}

struct Bench {
    miner: RunningMiner,
    manifest: ManifestId,
}

fn config(limits: Limits) -> MinerConfig {
    MinerConfig {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        keys: miner_keys(),
        network: NETWORK,
        subnet: subnet(),
        limits,
        spill_folder: None,
    }
}

async fn start(limits: Limits, backend: impl FnOnce(HonestBackend) -> Box<dyn Backend>) -> Bench {
    start_as(config(limits), backend).await
}

async fn start_as(config: MinerConfig, backend: impl FnOnce(HonestBackend) -> Box<dyn Backend>) -> Bench {
    let (honest, published) = model();
    let manifest = published.id();
    let miner = Miner::start(config, published, Boxed(backend(honest))).await.unwrap();
    Bench { miner, manifest }
}

async fn honest(limits: Limits) -> Bench {
    start(limits, |honest| Box::new(honest)).await
}

struct Boxed(Box<dyn Backend>);

impl Backend for Boxed {
    fn serve(
        &self,
        request: &Request,
        on_token: &mut dyn FnMut(TokenId) -> ControlFlow<()>,
    ) -> Result<Served, ServeError> {
        self.0.serve(request, on_token)
    }

    fn prove(
        &self,
        request: &Request,
        commitment: &TraceCommitment,
        trace: &dyn TraceRows,
        nonce: Option<&Nonce>,
    ) -> Result<Vec<u8>, ProveError> {
        self.0.prove(request, commitment, trace, nonce)
    }
}

/// An honest miner that takes its time over every answer and every proof, and notes for whom a proof was.
struct Slow {
    honest: HonestBackend,
    answer: Duration,
    proof: Duration,
    proven: Arc<Mutex<Vec<Hotkey>>>,
}

impl Slow {
    /// One that is slow to answer, and no slower than others to prove.
    fn to_answer(honest: HonestBackend) -> Box<dyn Backend> {
        Box::new(Self { honest, answer: Duration::from_secs(1), proof: Duration::ZERO, proven: Arc::default() })
    }
}

impl Backend for Slow {
    fn serve(
        &self,
        request: &Request,
        on_token: &mut dyn FnMut(TokenId) -> ControlFlow<()>,
    ) -> Result<Served, ServeError> {
        std::thread::sleep(self.answer);
        self.honest.serve(request, on_token)
    }

    fn prove(
        &self,
        request: &Request,
        commitment: &TraceCommitment,
        trace: &dyn TraceRows,
        nonce: Option<&Nonce>,
    ) -> Result<Vec<u8>, ProveError> {
        self.proven.lock().unwrap().push(request.validator);
        std::thread::sleep(self.proof);
        self.honest.prove(request, commitment, trace, nonce)
    }
}

impl Bench {
    fn nonce(counter: u64) -> Nonce {
        EpochKey::new([3; 32]).nonce(NETWORK.netuid, &miner_keys().hotkey(), counter)
    }

    fn request(&self, counter: u64, audit_rate: AuditRate) -> Request {
        self.request_of(validator_keys().hotkey(), counter, audit_rate)
    }

    fn request_of(&self, validator: Hotkey, counter: u64, audit_rate: AuditRate) -> Request {
        let miner = miner_keys().hotkey();
        Request {
            network: NETWORK,
            validator,
            miner,
            epoch: EPOCH,
            manifest: self.manifest,
            prompt: Prompt::Text("to be or not".to_owned()),
            sampling: Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, seed: counter },
            max_tokens: 6,
            stop: Vec::new(),
            policy: Policy::Sampled { cells: 4, decodes: 3, columns: None, least_budget_ms: 0 },
            audit_rate,
            deadlines: DEADLINES,
            counter,
            nonce_commitment: Some(nonce_commitment(&Self::nonce(counter), counter, &validator, &miner)),
        }
    }

    async fn channel(&self) -> Channel {
        let address = format!("http://{}", self.miner.local_addr());
        Channel::from_shared(address).unwrap().connect().await.unwrap()
    }

    async fn open(&self, first: ToMiner) -> Line {
        let (outbound, messages) = mpsc::channel(4);
        outbound.send(ValidatorMessage { message: Some(first) }).await.unwrap();
        let mut client = MinerClient::new(self.channel().await);
        let inbound = client.session(ReceiverStream::new(messages)).await.unwrap().into_inner();
        Line { outbound, inbound }
    }

    async fn ask(&self, request: &Request) -> Line {
        self.open(ToMiner::Request(sealed(request, &request.sign(&validator_keys())))).await
    }

    async fn resume(&self, commitment: &TraceCommitment) -> Line {
        self.open(ToMiner::Resume(v1::Resume { session: commitment.session.as_bytes().to_vec() })).await
    }

    /// What the miner refuses a request for, signed.
    async fn refused(&self, request: &Request) -> RefusalReason {
        self.ask(request).await.refusal(request).await
    }
}

fn sealed(request: &Request, signature: &Signature) -> Signed {
    Signed { body: codec::encode(request), signature: signature.0.to_vec() }
}

struct Line {
    outbound: mpsc::Sender<ValidatorMessage>,
    inbound: Streaming<MinerMessage>,
}

impl Line {
    async fn say(&self, message: ToMiner) {
        self.outbound.send(ValidatorMessage { message: Some(message) }).await.unwrap();
    }

    async fn challenge(&self, nonce: Nonce) {
        self.say(ToMiner::Challenge(v1::Challenge { nonce: nonce.to_vec() })).await;
    }

    async fn next(&mut self) -> Result<FromMiner, Status> {
        let message = self.inbound.message().await?;
        Ok(message.expect("the stream goes on").message.unwrap())
    }

    /// The tokens, and the commitment behind them, as they came.
    async fn answer(&mut self) -> (Vec<TokenId>, SignedBytes) {
        let mut streamed = Vec::new();
        loop {
            match self.next().await.unwrap() {
                FromMiner::Tokens(tokens) => streamed.extend(tokens.ids.into_iter().map(TokenId::new)),
                FromMiner::Commitment(signed) => {
                    let signature = Signature(assay_proto::fields::signature(&signed.signature).unwrap());
                    return (streamed, SignedBytes { bytes: signed.body, signature });
                }
                other => panic!("{other:?}"),
            }
        }
    }

    /// The commitment, after the tokens that it commits to.
    async fn commitment(&mut self) -> TraceCommitment {
        let (streamed, signed) = self.answer().await;
        let commitment: TraceCommitment = codec::decode(&signed.bytes).unwrap();
        assert_eq!(commitment.output, streamed);
        commitment
    }

    async fn refusal(&mut self, request: &Request) -> RefusalReason {
        let FromMiner::Refusal(signed) = self.next().await.unwrap() else { panic!("not refused") };
        let signature = Signature(assay_proto::fields::signature(&signed.signature).unwrap());
        let signed = SignedBytes { bytes: signed.body, signature };
        Refusal::read_signed(&signed, &miner_keys().hotkey(), &request.session_id()).unwrap().reason
    }

    async fn proof(&mut self) -> Vec<u8> {
        self.signed_proof().await.bytes
    }

    async fn signed_proof(&mut self) -> SignedBytes {
        let mut assembly = Assembly::new(64 << 20);
        loop {
            let FromMiner::Proof(chunk) = self.next().await.unwrap() else { panic!("not a proof") };
            if let Some(whole) = assembly.push_proof(&chunk).unwrap() {
                return SignedBytes { bytes: whole.bytes, signature: Signature(whole.signature) };
            }
        }
    }

    /// Sends a receipt; the miner then ends the stream.
    async fn receipt(self, request: &Request) {
        // The miner takes the validator's word for what came of it.
        self.receipt_of(request, vec![], Exchange::Uncommitted(Omission::Absent)).await;
    }

    async fn receipt_of(mut self, request: &Request, streamed: Vec<TokenId>, exchange: Exchange) {
        let (request, request_signature) = (request.clone(), request.sign(&validator_keys()));
        let record = SessionRecord { request, request_signature, streamed, exchange };
        let receipt = Receipt::sign(&validator_keys(), &record, Verdict::Accepted, Measurements::default());
        self.say(ToMiner::Receipt(v1::Receipt { body: codec::encode(&receipt) })).await;
        assert_eq!(self.inbound.message().await.unwrap(), None);
    }

    async fn status(&mut self) -> Code {
        self.inbound.message().await.unwrap_err().code()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_is_settled_leaves_nothing_behind() {
    let bench = honest(Limits::default()).await;
    let request = bench.request(1, AuditRate::Below(0));
    let mut line = bench.ask(&request).await;
    let commitment = line.commitment().await;
    assert_eq!(commitment.session, request.session_id());
    line.say(ToMiner::Settle(v1::Settle { nonce: Bench::nonce(1).to_vec() })).await;
    line.receipt(&request).await;
    assert_eq!(bench.resume(&commitment).await.status().await, Code::NotFound);
}

/// Hears the warnings of all tests.
struct Warnings;

static HEARD: Mutex<Vec<String>> = Mutex::new(Vec::new());

impl Warnings {
    /// What was warned of a session, once all is heard.
    fn of(request: &Request) -> Vec<String> {
        let session = request.session_id().to_string();
        HEARD.lock().unwrap().iter().filter(|text| text.contains(&session)).cloned().collect()
    }
}

impl tracing::Subscriber for Warnings {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() == tracing::Level::WARN
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut text = String::new();
        event.record(&mut |field: &tracing::field::Field, value: &dyn std::fmt::Debug| {
            let _ = write!(text, "{field}={value:?} ");
        });
        HEARD.lock().unwrap().push(text);
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_of_another_exchange_than_was_held_is_told_of() {
    tracing::subscriber::set_global_default(Warnings).unwrap();
    // Other tests may have warned before anybody heard.
    tracing::callsite::rebuild_interest_cache();
    let bench = honest(Limits::default()).await;

    // What was held, to the last byte: settled, and audited. No other test has these requests, whose warnings are heard too.
    let settled = bench.request(101, AuditRate::Below(0));
    let mut line = bench.ask(&settled).await;
    let (streamed, commitment) = line.answer().await;
    let nonce = Bench::nonce(101);
    line.say(ToMiner::Settle(v1::Settle { nonce: nonce.to_vec() })).await;
    line.receipt_of(&settled, streamed, Exchange::Committed { commitment, reply: Reply::Settled { nonce } }).await;
    let audited = bench.request(102, AuditRate::Always);
    let mut line = bench.ask(&audited).await;
    let (streamed, commitment) = line.answer().await;
    let nonce = Some(Bench::nonce(102));
    line.challenge(Bench::nonce(102)).await;
    let reply = Reply::Challenged { nonce, answer: Answer::Proof(line.signed_proof().await) };
    line.receipt_of(&audited, streamed, Exchange::Committed { commitment, reply }).await;
    assert_eq!((Warnings::of(&settled), Warnings::of(&audited)), (vec![], vec![]));

    // A validator that signs that no proof came.
    let audited = bench.request(103, AuditRate::Always);
    let mut line = bench.ask(&audited).await;
    let (streamed, commitment) = line.answer().await;
    let nonce = Some(Bench::nonce(103));
    line.challenge(Bench::nonce(103)).await;
    line.signed_proof().await;
    let reply = Reply::Challenged { nonce, answer: Answer::Omitted(Omission::Absent) };
    line.receipt_of(&audited, streamed, Exchange::Committed { commitment, reply }).await;
    let told = Warnings::of(&audited);
    assert!(told.len() == 1 && told[0].contains("another exchange"), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_stream_gets_the_same_proof_again_until_the_receipt() {
    let bench = honest(Limits::default()).await;
    let request = bench.request(1, AuditRate::Always);
    let mut line = bench.ask(&request).await;
    let commitment = line.commitment().await;
    drop(line);
    let mut resumed = bench.resume(&commitment).await;
    resumed.challenge(Bench::nonce(1)).await;
    let first = resumed.proof().await;
    drop(resumed);
    let mut again = bench.resume(&commitment).await;
    again.challenge(Bench::nonce(1)).await;
    assert!(again.proof().await == first, "another proof");
    again.receipt(&request).await;
    assert_eq!(bench.resume(&commitment).await.status().await, Code::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_challenge_that_the_request_does_not_call_for_is_refused_and_a_right_one_still_answered() {
    let bench = honest(Limits::default()).await;
    let request = bench.request(1, AuditRate::Always);
    let mut line = bench.ask(&request).await;
    let commitment = line.commitment().await;
    line.challenge([9; 32]).await;
    assert_eq!(line.refusal(&request).await, RefusalReason::WrongNonce);
    let mut line = bench.resume(&commitment).await;
    line.say(ToMiner::Settle(v1::Settle { nonce: Bench::nonce(1).to_vec() })).await;
    assert_eq!(line.refusal(&request).await, RefusalReason::WrongDraw);
    let mut line = bench.resume(&commitment).await;
    line.challenge(Bench::nonce(1)).await;
    assert!(!line.proof().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_validator_signed_for_this_miner_gets_no_signature() {
    let bench = honest(Limits::default()).await;
    let request = bench.request(1, AuditRate::Always);
    let status = |first| {
        let bench = &bench;
        async move { bench.open(first).await.status().await }
    };
    let other = sealed(&request, &request.sign(&keys(9)));
    assert_eq!(status(ToMiner::Request(other)).await, Code::Unauthenticated);
    let short = Signed { body: codec::encode(&request), signature: vec![0; 63] };
    assert_eq!(status(ToMiner::Request(short)).await, Code::Unauthenticated);
    let garbage = Signed { body: vec![1, 2, 3], signature: vec![0; 64] };
    assert_eq!(status(ToMiner::Request(garbage)).await, Code::InvalidArgument);
    let astray = Request { miner: keys(9).hotkey(), ..request.clone() };
    assert_eq!(status(ToMiner::Request(sealed(&astray, &astray.sign(&validator_keys())))).await, Code::InvalidArgument);
    assert_eq!(status(ToMiner::Settle(v1::Settle { nonce: vec![0; 32] })).await, Code::FailedPrecondition);
    assert_eq!(status(ToMiner::Resume(v1::Resume { session: vec![0; 5] })).await, Code::NotFound);
    let bomb = Signed { body: vec![0; 2 * MAX_REQUEST_BYTES], signature: Vec::new() };
    let (outbound, messages) = mpsc::channel(4);
    outbound.send(ValidatorMessage { message: Some(ToMiner::Request(bomb)) }).await.unwrap();
    let mut client = MinerClient::new(bench.channel().await);
    let refused = match client.session(ReceiverStream::new(messages)).await {
        Ok(reply) => reply.into_inner().message().await.err(),
        Err(status) => Some(status),
    };
    assert_eq!(refused.unwrap().code(), Code::OutOfRange);
}

type Change = fn(&mut Request);

#[tokio::test(flavor = "multi_thread")]
async fn requests_out_of_bounds_are_refused_signed() {
    let bench = honest(Limits { distinct_layers: 3, cells: 100, ..Limits::default() }).await;
    let sampled = |cells, columns| {
        let columns = Columns::always(columns);
        Policy::Sampled { cells, decodes: 3, columns, least_budget_ms: 0 }
    };
    let hasty = Deadlines { proof_ms: 1, ..DEADLINES };
    let changes: [(&str, Change); 6] = [
        ("manifest", |request| request.manifest = ManifestId::new([1; 32])),
        ("network", |request| request.network.netuid += 1),
        ("epoch", |request| request.epoch = Epoch::new(1)),
        ("max_tokens", |request| request.max_tokens = 1 << 20),
        ("prompt", |request| request.prompt = Prompt::Text("a".repeat(1000))),
        ("no prompt", |request| request.prompt = Prompt::Text(String::new())),
    ];
    for (number, (what, change)) in (0..).zip(changes) {
        let mut request = bench.request(number, AuditRate::Always);
        change(&mut request);
        assert_eq!(bench.refused(&request).await, RefusalReason::Unserved, "{what}");
    }
    let base = bench.request(100, AuditRate::Always);
    // A validator names its own least budget.
    let greedy = Policy::Sampled { cells: 1, decodes: 1, columns: None, least_budget_ms: u32::MAX };
    for (what, request) in [
        ("deadline", Request { deadlines: hasty, ..base.clone() }),
        ("least budget", Request { policy: greedy, ..base.clone() }),
        ("cells", Request { policy: sampled(200, 1), ..base.clone() }),
    ] {
        assert_eq!(bench.refused(&request).await, RefusalReason::Unserved, "{what}");
    }
    let stranger = Request { validator: keys(9).hotkey(), ..base };
    let mut line = bench.open(ToMiner::Request(sealed(&stranger, &stranger.sign(&keys(9))))).await;
    assert_eq!(line.refusal(&stranger).await, RefusalReason::Unserved);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_miner_is_busy_and_loses_nothing() {
    let bench = honest(Limits { sessions_per_validator: 1, ..Limits::default() }).await;
    let request = bench.request(1, AuditRate::Always);
    let mut line = bench.ask(&request).await;
    let commitment = line.commitment().await;
    assert_eq!(bench.refused(&bench.request(2, AuditRate::Always)).await, RefusalReason::Busy);
    assert_eq!(bench.ask(&request).await.status().await, Code::AlreadyExists);
    line.challenge(Bench::nonce(1)).await;
    assert!(!line.proof().await.is_empty());
    line.receipt(&request).await;
    assert_eq!(bench.resume(&commitment).await.status().await, Code::NotFound);
    bench.ask(&bench.request(3, AuditRate::Always)).await.commitment().await;

    let bench = honest(Limits { retained_bytes: 1000, ..Limits::default() }).await;
    assert_eq!(bench.refused(&bench.request(1, AuditRate::Always)).await, RefusalReason::Busy);
}

/// Memory holds the trace of one session on its way, and what stays in memory of the others.
#[tokio::test(flavor = "multi_thread")]
async fn sessions_beyond_the_memory_wait_on_disk_and_are_proven_from_there() {
    let folder = tempfile::tempdir().unwrap();
    let (honest, _) = model();
    let manifest = &honest.committed.manifest;
    let shape = TraceShape::new(&manifest.architecture, manifest.profile);
    let most = Trace::most_memory(&shape, "to be or not".len() + 6);
    let digests = 32 * shape.tree_count() * ("to be or not".len() + 5);
    let limits = Limits { retained_bytes: most + 4 * digests, spilled_bytes: 1 << 20, ..Limits::default() };
    let config = MinerConfig { spill_folder: Some(folder.path().to_owned()), ..config(limits) };
    let bench = start_as(config, |honest| Box::new(honest)).await;
    let mut open = vec![];
    for counter in 0..5 {
        let mut line = bench.ask(&bench.request(counter, AuditRate::Always)).await;
        let commitment = line.commitment().await;
        open.push((counter, line, commitment));
    }
    let usage = bench.miner.trace_usage();
    assert!(usage.spilled == 4 && usage.memory_bytes <= limits.retained_bytes, "{usage:?}");
    for (counter, mut line, commitment) in open {
        line.challenge(Bench::nonce(counter)).await;
        let proof = line.proof().await;
        let request = bench.request(counter, AuditRate::Always);
        // The proof is the one that a trace in memory gives.
        let served = honest.serve(&request, &mut |_| ControlFlow::Continue(())).unwrap();
        let nonce = Bench::nonce(counter);
        assert!(honest.prove(&request, &commitment, &served.trace, Some(&nonce)).unwrap() == proof);
        line.receipt(&request).await;
    }
    let usage = bench.miner.trace_usage();
    assert_eq!((usage.memory_bytes, usage.disk_bytes), (0, 0));
}

#[tokio::test]
async fn a_folder_for_traces_that_is_none_is_told_at_the_start() {
    let (honest, published) = model();
    let file = tempfile::NamedTempFile::new().unwrap();
    let config = MinerConfig { spill_folder: Some(file.path().to_owned()), ..config(Limits::default()) };
    let error = Miner::start(config, published, honest).await.unwrap_err();
    assert!(matches!(error, MinerError::SpillFolder(_)), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spent_budget_is_refused_but_never_below_the_policys_least() {
    let bench = honest(Limits { proof_ms_per_epoch: 1, ..Limits::default() }).await;
    let request = bench.request(1, AuditRate::Always);
    assert_eq!(bench.refused(&request).await, RefusalReason::OverBudget, "half of a millisecond is none");
    let granted = Policy::Sampled { cells: 4, decodes: 3, columns: None, least_budget_ms: 60_000 };
    let request = Request { policy: granted, ..bench.request(2, AuditRate::Always) };
    let mut line = bench.ask(&request).await;
    line.commitment().await;
    line.challenge(Bench::nonce(2)).await;
    assert!(!line.proof().await.is_empty());
}

/// However many proofs one validator has asked for, the next of another waits for one of them.
#[tokio::test(flavor = "multi_thread")]
async fn validators_take_turns_at_proofs() {
    let proven = Arc::new(Mutex::new(vec![]));
    let noted = Arc::clone(&proven);
    let slow = |honest| -> Box<dyn Backend> {
        Box::new(Slow { honest, answer: Duration::ZERO, proof: Duration::from_millis(300), proven: noted })
    };
    let bench = start(Limits::default(), slow).await;
    let (greedy, modest) = (validator_keys(), keys(3));
    let mut lines = vec![];
    for (counter, of) in (0..8).zip(std::iter::repeat_n(&greedy, 7).chain([&modest])) {
        let request = bench.request_of(of.hotkey(), counter, AuditRate::Always);
        let mut line = bench.open(ToMiner::Request(sealed(&request, &request.sign(of)))).await;
        line.commitment().await;
        lines.push((counter, line));
    }
    let (of_modest, of_greedy) = lines.split_last().unwrap();
    for (counter, line) in of_greedy {
        line.challenge(Bench::nonce(*counter)).await;
    }
    while proven.lock().unwrap().is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // All challenges have arrived, and the first proof is not made yet.
    tokio::time::sleep(Duration::from_millis(150)).await;
    of_modest.1.challenge(Bench::nonce(of_modest.0)).await;
    for (_, line) in &mut lines {
        assert!(!line.proof().await.is_empty());
    }
    let proven = proven.lock().unwrap();
    let place = proven.iter().position(|of| *of == modest.hotkey()).unwrap();
    assert!(proven.len() == 8 && place < 4, "{place}");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_served_side_by_side() {
    let limits = Limits { serving: 2, ..Limits::default() };
    let bench = start(limits, Slow::to_answer).await;
    let begun = std::time::Instant::now();
    let (first, second) = (bench.request(1, AuditRate::Always), bench.request(2, AuditRate::Always));
    let (mut first, mut second) = (bench.ask(&first).await, bench.ask(&second).await);
    tokio::join!(first.commitment(), second.commitment());
    assert!(begun.elapsed() < Duration::from_millis(1_900), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_miner_finishes_what_is_open_and_takes_nothing_new() {
    let bench = start(Limits::default(), Slow::to_answer).await;
    let request = bench.request(1, AuditRate::Below(0));
    let mut line = bench.ask(&request).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let address = bench.miner.local_addr();
    let stopping = tokio::spawn(bench.miner.shutdown());
    line.commitment().await;
    line.say(ToMiner::Settle(v1::Settle { nonce: Bench::nonce(1).to_vec() })).await;
    line.receipt(&request).await;
    assert!(stopping.await.unwrap(), "not everything was finished");
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_miner_does_not_wait_for_ever() {
    let limits = Limits { drain: Duration::from_millis(200), ..Limits::default() };
    let bench = honest(limits).await;
    let mut line = bench.ask(&bench.request(1, AuditRate::Always)).await;
    line.commitment().await;
    let begun = std::time::Instant::now();
    assert!(!bench.miner.shutdown().await);
    assert!(begun.elapsed() < Duration::from_secs(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_reflection_tell_of_the_service() {
    let bench = honest(Limits::default()).await;
    let request = HealthCheckRequest { service: "assay.v1.Miner".to_owned() };
    let health = HealthClient::new(bench.channel().await).check(request).await.unwrap();
    assert_eq!(health.into_inner().status, ServingStatus::Serving as i32);

    let list = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut replies = ServerReflectionClient::new(bench.channel().await)
        .server_reflection_info(tokio_stream::once(list))
        .await
        .unwrap()
        .into_inner();
    let reply = replies.message().await.unwrap().unwrap().message_response;
    let Some(MessageResponse::ListServicesResponse(services)) = reply else { panic!("{reply:?}") };
    assert!(services.service.iter().any(|service| service.name == "assay.v1.Miner"));
}

#[tokio::test]
async fn a_limit_that_serves_nothing_is_named() {
    let (honest, published) = model();
    let limits = Limits { proving: 0, ..Limits::default() };
    let error = Miner::start(config(limits), published, honest).await.unwrap_err();
    assert!(matches!(error, MinerError::Limit("proving")), "{error}");
}
