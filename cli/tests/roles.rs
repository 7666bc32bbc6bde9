//! The roles as processes: a devnet, miners and a validator that are started from configurations, speak to each
//! other over loopback, and are killed.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops there")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::Arc;
use std::time::{Duration, Instant};

use assay_chain::wallet::{KeyFile, WalletPaths, create_hotkey};
use assay_chain::{Chain, Connection, NetUid, Subtensor, WeightsForm, networks::NetworkName};
use assay_commitments::Hotkey;
use serde_json::Value;
use subxt::{OnlineClient, SubstrateConfig, backend::LegacyBackend, rpcs::RpcClient};
use tempfile::TempDir;
use tokio::sync::Mutex;

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/model");
const WALLETS: &[u8] = include_bytes!("../../fixtures/vectors/chain/wallets_v1.json");
/// Nothing here takes so long.
const PATIENCE: Duration = Duration::from_mins(2);
const NETUID: u16 = 3;
/// Blocks in an epoch where roles are killed.
const EPOCH: u64 = 40;
/// Held by whoever kills roles: how soon one is back depends on what else runs.
static ALONE: Mutex<()> = Mutex::const_new(());

/// A folder of configurations, with a devnet that makes a block every so many milliseconds.
struct World {
    root: TempDir,
    url: String,
    devnet: Role,
}

/// A process that is started again and again.
struct Role {
    name: &'static str,
    arguments: Vec<String>,
    log: PathBuf,
    child: Option<Child>,
}

impl Role {
    fn new(root: &Path, name: &'static str, arguments: &[&str]) -> Self {
        let arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        Self { name, arguments, log: root.join(format!("{name}.log")), child: None }
    }

    fn start(&mut self) {
        assert!(self.child.is_none(), "{} runs", self.name);
        let log = OpenOptions::new().create(true).append(true).open(&self.log).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_assay"));
        command.args(&self.arguments).env_remove("RUST_LOG").stdout(File::create(self.stdout()).unwrap()).stderr(log);
        self.child = Some(command.spawn().unwrap());
    }

    fn stdout(&self) -> PathBuf {
        self.log.with_extension("out")
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        // Whoever ended by itself did so against the plan.
        assert_eq!(child.try_wait().unwrap(), None, "{} ended by itself: {}", self.name, tail(&self.log()));
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Asks it to stop, and waits until it has.
    fn terminate(&mut self) -> ExitStatus {
        let child = self.child.as_ref().unwrap();
        let sent = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
        assert!(sent.success());
        self.wait()
    }

    fn wait(&mut self) -> ExitStatus {
        let mut child = self.child.take().unwrap();
        let begin = Instant::now();
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return status;
            }
            if begin.elapsed() > PATIENCE {
                child.kill().unwrap();
                panic!("{} does not end: {}", self.name, tail(&self.log()));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until its log, from `from` on, holds some text.
    fn tells(&self, from: usize, text: &str) {
        let begin = Instant::now();
        while !self.log()[from..].contains(text) {
            assert!(begin.elapsed() < PATIENCE, "{} does not say {text:?}: {}", self.name, tail(&self.log()));
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}

fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

/// Runs a command to its end.
fn assay(arguments: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_assay")).args(arguments).env_remove("RUST_LOG").output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().expect("it ends by itself"), text(output.stdout), text(output.stderr))
}

/// Runs what must fail with an exit code and one last line on standard error that holds all of `parts`.
fn fails(arguments: &[&str], code: i32, parts: &[&str]) -> String {
    let (found, stdout, stderr) = assay(arguments);
    assert_eq!((found, stdout.as_str()), (code, ""), "{arguments:?}: {stderr}");
    let errors: Vec<&str> = stderr.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(errors.len(), 1, "{arguments:?}: {stderr}");
    assert!(stderr.trim_end().ends_with(errors[0]), "{arguments:?}: {stderr}");
    for part in parts {
        assert!(errors[0].contains(part), "{arguments:?}: {part:?} is not in {}", errors[0]);
    }
    stderr
}

impl World {
    /// A devnet with a validator and two miners, and this in its configuration.
    fn new(block_ms: u64, parameters: &str) -> Self {
        let root = tempfile::tempdir().unwrap();
        let port = free_port();
        let config = format!(
            "listen = \"127.0.0.1:{port}\"\nnetuid = 3\nblock_ms = {block_ms}\nstate = \"devnet.json\"\n\
             wallets = \"wallets\"\nowner = \"owner\"\nvalidators = [{{ hotkey = \"validator\", stake_tao = 1000.0 }}]\n\
             miners = [\"miner-1\", \"miner-2\"]\n\n[parameters]\n{parameters}\n"
        );
        let path = root.path().join("devnet.toml");
        fs::write(&path, config).unwrap();
        let devnet = Role::new(root.path(), "devnet", &["devnet", "--config", path.to_str().unwrap()]);
        let mut world = Self { url: format!("ws://127.0.0.1:{port}"), root, devnet };
        world.devnet.start();
        let begin = Instant::now();
        while !fs::read_to_string(world.devnet.stdout()).unwrap_or_default().contains(&world.url) {
            assert!(begin.elapsed() < PATIENCE, "{}", tail(&world.devnet.log()));
            std::thread::sleep(Duration::from_millis(20));
        }
        world
    }

    fn path(&self, name: &str) -> String {
        self.root.path().join(name).to_str().unwrap().to_owned()
    }

    fn hotkey(&self, wallet: &str) -> Hotkey {
        let paths = WalletPaths::new(&self.root.path().join("wallets"), wallet).unwrap();
        KeyFile::read(&paths.hotkey("default").unwrap()).unwrap().public().unwrap()
    }

    fn chain(&self) -> String {
        format!("[chain]\nnetwork = \"{}\"\nnetuid = 3\n", self.url)
    }

    /// Commits the fixture model and puts it in force.
    fn publish(&self) {
        let model = self.path("model");
        fs::create_dir(&model).unwrap();
        for file in fs::read_dir(MODEL).unwrap() {
            let file = file.unwrap();
            fs::copy(file.path(), Path::new(&model).join(file.file_name())).unwrap();
        }
        let (code, _, stderr) = assay(&["model", "commit", &model]);
        assert_eq!(code, 0, "{stderr}");
        let (manifest, wallets) = (format!("{model}/manifest.assay"), self.path("wallets"));
        let publish = ["model", "publish", &manifest, "--network", &self.url, "--netuid", "3", "--folder", &wallets];
        fails(&[&publish[..], &["--wallet", "miner-1", "--alone"]].concat(), 2, &["is not the subnet owner's"]);
        for expected in [true, false] {
            let (code, stdout, stderr) = assay(&[&publish[..], &["--wallet", "owner", "--json"]].concat());
            assert_eq!(code, 0, "{stderr}");
            let told: Value = serde_json::from_str(&stdout).unwrap();
            assert_eq!(told["published"], expected, "{told}");
            assert_eq!(told["in_force"].as_array().unwrap().len(), 1);
        }
    }

    fn miner(&self, name: &'static str) -> Role {
        let config = format!(
            "listen = \"127.0.0.1:{}\"\nmodel = \"model\"\n\n{}\n[wallet]\nfolder = \"wallets\"\nname = \"{name}\"\n\n\
             [limits]\ndrain_ms = 5000\n",
            free_port(),
            self.chain()
        );
        let path = self.path(&format!("{name}.toml"));
        fs::write(&path, config).unwrap();
        Role::new(self.root.path(), name, &["miner", "--config", &path])
    }

    /// A validator's configuration, with `wallet` for its hotkey.
    fn validator_config(&self, wallet: &str, chain: &str) -> String {
        fs::write(self.path("prompts.jsonl"), "\"In the beginning\"\n\"The LORD is my\"\n\"And God said,\"\n").unwrap();
        let config = format!(
            "records = \"records-{wallet}\"\ntranscripts = \"transcripts-{wallet}\"\n\n{chain}\n\
             [wallet]\nfolder = \"wallets\"\nname = \"{wallet}\"\n\n\
             [asks]\nprompts = \"prompts.jsonl\"\nmax_tokens = 5\n\n\
             [sessions]\nrequests = 2\nat_once = 2\n\n[audits]\npercent = 100.0\n\n\
             [probation]\naudits_per_epoch = 1\n"
        );
        let path = self.path(&format!("validator-{wallet}.toml"));
        fs::write(&path, config).unwrap();
        path
    }

    /// Two miners, and a validator.
    fn roles(&self) -> [Role; 3] {
        let config = self.validator_config("validator", &self.chain());
        let validator = Role::new(self.root.path(), "validator", &["validator", "--config", &config]);
        [self.miner("miner-1"), self.miner("miner-2"), validator]
    }

    async fn connect(&self) -> Subtensor {
        let network: NetworkName = self.url.parse().unwrap();
        let connection = Connection { age_max: None, ..Connection::to(&network, NetUid::new(NETUID)) };
        let begin = Instant::now();
        loop {
            match Subtensor::connect(connection.clone()).await {
                Ok(chain) => return chain,
                Err(error) => assert!(begin.elapsed() < PATIENCE, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// Numbers that look random and are the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

/// What nodes know of the validator's weights, block after block. One that is started again has no states of before,
/// so it is read before it is killed.
struct Weights {
    url: String,
    api: Api,
    validator: Hotkey,
    uid: usize,
    registered_at: u64,
    /// Epochs from a commit to its reveal, where weights are committed.
    period: u64,
    /// The next block to be read.
    next: u64,
    /// The blocks in which weights came.
    updates: BTreeSet<u64>,
    /// Commits by their block, and the first block in which they are gone.
    commits: BTreeMap<u64, Option<u64>>,
}

impl Weights {
    async fn new(url: &str, chain: &Subtensor, validator: Hotkey) -> Self {
        let (head, metagraph) = (chain.head().await.unwrap(), chain.metagraph().await.unwrap());
        let there = (epoch_of(head.block.get()), first_block(head.epoch.get() + 1));
        assert_eq!((head.epoch.get(), head.next_epoch.get()), there);
        let neuron = metagraph.neuron(&validator).unwrap();
        let period = match chain.hyperparameters().await.unwrap().weights_form {
            WeightsForm::Plain => 0,
            WeightsForm::CommitReveal { period } | WeightsForm::Timelocked { period, .. } => period,
        };
        Self {
            url: url.to_owned(),
            api: reached(url).await,
            validator,
            uid: neuron.uid.get().into(),
            registered_at: neuron.registered_at.get(),
            period,
            next: head.block.get(),
            updates: BTreeSet::new(),
            commits: BTreeMap::new(),
        }
    }

    /// Goes on with the node that was started again, which is where it was.
    async fn rejoin(&mut self) {
        self.api = reached(&self.url).await;
        let newest = self.api.at_current_block().await.unwrap().block_number();
        assert!(newest + 1 >= self.next, "the chain went back from {} to {newest}", self.next - 1);
        self.next = newest;
    }

    /// Reads all blocks until now.
    async fn read(&mut self) {
        loop {
            let newest = self.api.at_current_block().await.unwrap().block_number();
            if newest < self.next {
                return;
            }
            while self.next <= newest {
                self.read_block(self.next).await;
                self.next += 1;
            }
        }
    }

    async fn read_block(&mut self, block: u64) {
        type Hashes = Vec<([u8; 32], u64, u64, u64)>;
        type Locked = Vec<([u8; 32], u64, Vec<u8>, u64)>;
        let (pallet, hotkey) = ("SubtensorModule", *self.validator.as_bytes());
        let at = self.api.at_block(block).await.unwrap();
        let storage = at.storage();
        let updates = subxt::dynamic::storage::<(u16,), Vec<u64>>(pallet, "LastUpdate");
        let update = storage.fetch(updates, (NETUID,)).await.unwrap().decode().unwrap()[self.uid];
        if update > self.registered_at {
            self.updates.insert(update);
        }
        let hashes = subxt::dynamic::storage::<(u16, [u8; 32]), Hashes>(pallet, "WeightCommits");
        let hashes = storage.try_fetch(hashes, (NETUID, hotkey)).await.unwrap();
        let hashes = hashes.map_or_else(Vec::new, |hashes| hashes.decode().unwrap());
        let mut pending: BTreeSet<u64> = hashes.into_iter().map(|(_, committed, ..)| committed).collect();
        let running = epoch_of(block);
        for epoch in running.saturating_sub(self.period)..=running {
            let locked = subxt::dynamic::storage::<(u16, u64), Locked>(pallet, "TimelockedWeightCommits");
            let locked = storage.try_fetch(locked, (NETUID, epoch)).await.unwrap();
            let locked = locked.map_or_else(Vec::new, |locked| locked.decode().unwrap());
            pending.extend(locked.into_iter().filter(|commit| commit.0 == hotkey).map(|(_, committed, ..)| committed));
        }
        for (committed, gone) in &mut self.commits {
            if gone.is_none() && !pending.contains(committed) {
                *gone = Some(block);
            }
        }
        for committed in pending {
            self.commits.entry(committed).or_default();
        }
    }

    /// Of the commits whose epoch of reveal was over when `epoch` ran, whether they were revealed in it: one that
    /// nobody reveals stays for as long.
    fn due(&self, epoch: u64) -> Vec<bool> {
        let reveals = |committed: u64| epoch_of(committed) + self.period;
        let due = self.commits.iter().filter(|(committed, _)| reveals(**committed) < epoch);
        due.map(|(committed, gone)| gone.is_some_and(|gone| epoch_of(gone) <= reveals(*committed))).collect()
    }
}

type Api = OnlineClient<SubstrateConfig>;

/// A client of a node that may be starting.
async fn reached(url: &str) -> Api {
    let begin = Instant::now();
    loop {
        match RpcClient::from_insecure_url(url).await {
            Ok(rpc) => {
                let backend = LegacyBackend::<SubstrateConfig>::builder().build(rpc);
                let config = SubstrateConfig::builder().build();
                return OnlineClient::from_backend_with_config(config, Arc::new(backend)).await.unwrap();
            }
            Err(error) => assert!(begin.elapsed() < PATIENCE, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The epoch that the block after a block belongs to, where epochs have always been as long as they are.
const fn epoch_of(block: u64) -> u64 {
    (block + NETUID as u64 + 1) / EPOCH
}

const fn first_block(epoch: u64) -> u64 {
    epoch * EPOCH - NETUID as u64 - 1
}

/// Kills a role, and starts it again a moment later.
async fn strike(victim: &mut Role, dice: &mut Dice, weights: &mut Weights) {
    let is_devnet = victim.name == "devnet";
    if is_devnet {
        weights.read().await;
    }
    victim.kill();
    tokio::time::sleep(Duration::from_millis(dice.roll(700))).await;
    victim.start();
    if is_devnet {
        weights.rejoin().await;
    }
}

/// The epochs whose weights came on chain, by the validator's log.
fn placed(log: &str) -> BTreeSet<u64> {
    let lines = log.lines().filter(|line| line.contains("the weights are on chain"));
    lines.map(|line| number(line, "epoch=").unwrap()).collect()
}

fn number(line: &str, name: &str) -> Option<u64> {
    let rest = plain(line);
    let rest = rest.split_once(name)?.1.to_owned();
    rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse().ok()
}

/// Without the colours of a terminal.
fn plain(line: &str) -> String {
    let mut text = String::new();
    let mut parts = line.split('\x1b');
    text.push_str(parts.next().unwrap_or_default());
    for part in parts {
        text.push_str(part.split_once('m').map_or("", |(_, rest)| rest));
    }
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_that_are_killed_at_any_moment_lose_nothing() {
    const SEED: u64 = 0x0a55_a720_2611;
    const KILLS: usize = 18;
    println!("seed {SEED:#x}");
    let _alone = ALONE.lock().await;
    let world = World::new(150, "tempo = 39\nweights = \"plain\"\nweights_rate_limit = 3\nserving_rate_limit = 1");
    world.publish();
    let validator_hotkey = world.hotkey("validator");
    let miners: BTreeMap<&str, Hotkey> = ["miner-1", "miner-2"].map(|name| (name, world.hotkey(name))).into();
    let chain = world.connect().await;
    let mut weights = Weights::new(&world.url, &chain, validator_hotkey).await;
    let mut roles = world.roles();
    let World { root, url, mut devnet } = world;
    roles.iter_mut().for_each(Role::start);
    tokio::task::block_in_place(|| roles[2].tells(0, "the weights are on chain"));

    let mut dice = Dice(SEED);
    let begin = Instant::now();
    let mut killed = BTreeMap::<&str, usize>::new();
    for _ in 0..KILLS {
        tokio::time::sleep(Duration::from_millis(300 + dice.roll(1_500))).await;
        let victim = match dice.roll(6) {
            0 => &mut devnet,
            1 => &mut roles[0],
            2 => &mut roles[1],
            _ => &mut roles[2],
        };
        *killed.entry(victim.name).or_default() += 1;
        strike(victim, &mut dice, &mut weights).await;
    }
    println!("killed: {killed:?}");
    assert!(killed.len() == 4, "the dice spared somebody: {killed:?}");

    // Left alone, they come back to order: two epochs whose weights are set.
    let from = roles[2].log().len();
    let calm = |log: &str| placed(&log[from..]).len() >= 3;
    while !calm(&roles[2].log()) {
        assert!(begin.elapsed() < PATIENCE, "{}", tail(&roles[2].log()));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // The last epoch's key is revealed in the next one.
    let told = roles[2].log().len();
    tokio::task::block_in_place(|| roles[2].tells(told, "the epoch's key is revealed"));
    assert!(tokio::task::block_in_place(|| roles[2].terminate()).success(), "{}", tail(&roles[2].log()));
    weights.read().await;

    // Weights: once for each epoch that was judged.
    let log = roles[2].log();
    let (epochs, updates) = (placed(&log), weights.updates);
    assert_eq!(epochs.len(), updates.len(), "weights of {epochs:?}, on chain in blocks {updates:?}");
    let stored = chain.weights_of(validator_hotkey).await.unwrap();

    // Evidence: every transcript is bound to what stood on chain, every log is the one whose digest is there, and
    // all are accepted, but where a killed miner owed an answer: that is silence to whoever waits for it.
    let transcripts = root.path().join("transcripts-validator");
    let (all, assets) = (transcripts.to_str().unwrap(), transcripts.join("assets"));
    let chain_of = ["--network", &url, "--netuid", "3", "--json"];
    let verify = ["audit", "verify", all, "--assets", assets.to_str().unwrap()];
    let (code, stdout, stderr) = assay(&[&verify[..], &chain_of[..]].concat());
    let verdicts: Vec<Value> = serde_json::from_str(&stdout).unwrap();
    let (accepted, others): (Vec<&Value>, Vec<&Value>) =
        verdicts.iter().partition(|verdict| verdict["verdict"] == "accepted");
    assert_eq!(code, i32::from(!others.is_empty()), "{stderr}{stdout}");
    assert!(accepted.len() > 10, "{}", accepted.len());
    let owed = ["stream_broken", "commitment_absent", "commitment_late", "proof_absent", "proof_late"];
    for verdict in &others {
        let slug = verdict["reason"]["slug"].as_str().unwrap();
        assert!(verdict["verdict"] == "rejected" && owed.contains(&slug), "{verdict}");
    }
    for (miner, uid) in [("miner-1", 2), ("miner-2", 3)] {
        let hotkey = miners[miner].to_string();
        let broken = others.iter().filter(|verdict| verdict["file"].as_str().unwrap().contains(&hotkey)).count();
        assert!(broken <= killed[miner], "{miner}: {others:?}, killed {killed:?}");
        let weight = stored.weights.iter().find(|(found, _)| found.get() == uid).map_or(0, |(_, weight)| *weight);
        assert!(weight > 0 || broken > 0, "{miner}: {stored:?}");
    }
    let (_, stdout, stderr) = assay(&[&["audit", "epoch", all][..], &chain_of[..]].concat());
    let told: Value = serde_json::from_str(&stdout).unwrap_or_else(|_| panic!("{stderr}"));
    assert_eq!(told["selective"], false, "{told}");
    let mut listed = 0;
    for epoch in told["epochs"].as_array().unwrap() {
        assert!(epoch["unchecked"].is_null() && epoch["contradicted"].is_null(), "{epoch}");
        for miner in epoch["miners"].as_array().unwrap() {
            assert_eq!((&miner["missing"], &miner["made"]), (&0.into(), &miner["owed"]), "{epoch}");
            listed += miner["requests"].as_u64().unwrap();
        }
    }
    assert!(listed > 10, "{told}");

    // The devnet: stopped and started, it is where it was.
    let before = chain.head().await.unwrap();
    assert!(tokio::task::block_in_place(|| devnet.terminate()).success(), "{}", tail(&devnet.log()));
    devnet.start();
    let after = chain.head_after(before.block).await;
    let after = match after {
        Ok(after) => after,
        // The connection broke, and is made again.
        Err(_) => World { root, url, devnet }.connect().await.head().await.unwrap(),
    };
    assert!(after.block >= before.block, "{before:?} {after:?}");
    assert!(roles.iter_mut().take(2).all(|miner| miner.terminate().success()));
}

/// Kills roles where weights are hidden at first. Each judged epoch's weights are committed once, and whatever came
/// due was revealed.
async fn hidden_weights_come_once_and_are_revealed(form: &str, seed: u64) {
    const VALIDATOR: usize = 2;
    const DEVNET: usize = 3;
    println!("{form}: seed {seed:#x}");
    let _alone = ALONE.lock().await;
    let parameters = format!("tempo = 39\nweights = \"{form}\"\nweights_rate_limit = 3\nserving_rate_limit = 1");
    let world = World::new(250, &parameters);
    world.publish();
    let hotkey = world.hotkey("validator");
    let chain = world.connect().await;
    let mut weights = Weights::new(&world.url, &chain, hotkey).await;
    let mut roles = world.roles();
    let World { root: _root, mut devnet, .. } = world;
    roles.iter_mut().for_each(Role::start);
    tokio::task::block_in_place(|| roles[VALIDATOR].tells(0, "the weights are on chain"));

    let mut dice = Dice(seed);
    for victim in [VALIDATOR, DEVNET, VALIDATOR, 0, VALIDATOR, DEVNET, VALIDATOR] {
        tokio::time::sleep(Duration::from_millis(300 + dice.roll(1_500))).await;
        let victim = if victim == DEVNET { &mut devnet } else { &mut roles[victim] };
        strike(victim, &mut dice, &mut weights).await;
    }
    // Three epochs left alone: the weights of two of them are revealed within.
    let (begin, from) = (Instant::now(), roles[VALIDATOR].log().len());
    while placed(&roles[VALIDATOR].log()[from..]).len() < 3 {
        assert!(begin.elapsed() < PATIENCE, "{}", tail(&roles[VALIDATOR].log()));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let running = chain.head().await.unwrap().epoch;
    assert!(tokio::task::block_in_place(|| roles[VALIDATOR].terminate()).success());
    weights.read().await;

    let epochs = placed(&roles[VALIDATOR].log());
    let Weights { updates, commits, .. } = &weights;
    assert_eq!(epochs.len(), updates.len(), "weights of {epochs:?}, on chain in blocks {updates:?}");
    assert_eq!(commits.keys().copied().collect::<BTreeSet<_>>(), *updates, "all of them are commits: {commits:?}");
    let due = weights.due(running.get());
    assert!(due.len() >= 2 && due.iter().all(|is_revealed| *is_revealed), "{commits:?}");
    assert!(!chain.weights_of(hotkey).await.unwrap().weights.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn weights_that_are_committed_as_hashes_come_once_and_are_revealed_through_kills() {
    hidden_weights_come_once_and_are_revealed("commit-reveal", 0x0a55_a720_2612).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn weights_that_are_timelocked_come_once_and_are_revealed_through_kills() {
    hidden_weights_come_once_and_are_revealed("timelocked", 0x0a55_a720_2613).await;
}

/// Records as a validator writes them, with their checksum.
fn sealed(mut records: Value) -> String {
    records.as_object_mut().unwrap().remove("checksum");
    let text = records.to_string();
    let rest = &text[1..];
    format!("{{\n  \"checksum\": \"{}\",{rest}", blake3::hash(rest.as_bytes()).to_hex())
}

#[test]
fn records_of_another_chain_subnet_or_hotkey_are_refused_at_the_start() {
    let world = World::new(100, "tempo = 9\nweights = \"plain\"\nweights_rate_limit = 0");
    let config = world.validator_config("validator", &world.chain());
    let (code, _, stderr) = assay(&["validator", "--config", &config, "--epochs", "1"]);
    assert_eq!(code, 0, "{stderr}");
    let path = world.root.path().join("records-validator/standing.json");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let records: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let other = Value::from("ab".repeat(32));
    let status = ["chain", "status", "--network", &world.url, "--netuid", "3", "--config", &config];
    for (key, value, what) in [
        ("genesis", &other, "the chain abab"),
        ("netuid", &Value::from(4), "subnet 4"),
        ("hotkey", &other, "hotkey abab"),
    ] {
        let mut changed = records.clone();
        changed["owner"][key] = value.clone();
        let changed = sealed(changed);
        fs::write(&path, &changed).unwrap();
        fails(&["validator", "--config", &config], 2, &["standing.json is of ", what, "a folder of its own"]);
        fails(&status, 2, &["standing.json is of ", what]);
        assert_eq!(fs::read_to_string(&path).unwrap(), changed, "it is left as it is");
    }
    fs::write(&path, sealed(records.clone()).replace("\"netuid\":3", "\"netuid\":2")).unwrap();
    fails(&["validator", "--config", &config], 4, &["standing.json is damaged", "restore a copy"]);
    // The folder of another hotkey, as its configuration would name it.
    fs::write(&path, sealed(records)).unwrap();
    let config = world.validator_config("miner-1", &world.chain());
    let text = fs::read_to_string(&config).unwrap().replace("records-miner-1", "records-validator");
    fs::write(&config, text).unwrap();
    fails(&["validator", "--config", &config], 2, &["standing.json is of hotkey"]);
}

#[test]
fn a_second_validator_or_devnet_on_the_same_files_is_refused_at_its_start() {
    let world = World::new(100, "tempo = 9\nweights = \"plain\"\nweights_rate_limit = 0");
    let config = world.validator_config("validator", &world.chain());
    let mut validator = Role::new(world.root.path(), "validator", &["validator", "--config", &config]);
    validator.start();
    validator.tells(0, "the epoch's key is revealed");
    let in_use = "records-validator: in use by another validator: stop it, or give each its own `records`";
    fails(&["validator", "--config", &config], 2, &[in_use]);
    // Nothing is locked that a killed one would leave behind.
    validator.kill();
    let (code, _, stderr) = assay(&["validator", "--config", &config, "--epochs", "1"]);
    assert_eq!(code, 0, "{stderr}");

    let devnet = world.path("devnet.toml");
    let state = || fs::read(world.path("devnet.json")).unwrap();
    fails(&["devnet", "--config", &devnet, "--listen", "127.0.0.1:0"], 2, &["devnet.json: in use by another devnet"]);
    std::os::unix::fs::symlink("devnet.json", world.path("link.json")).unwrap();
    let linked = ["devnet", "--config", &devnet, "--listen", "127.0.0.1:0", "--state", &world.path("link.json")];
    fails(&linked, 2, &["devnet.json: in use by another devnet"]);
    assert!(!state().is_empty());
    // A port that is taken leaves no file that would be gone on from.
    let other = world.path("other.json");
    fails(&["devnet", "--config", &devnet, "--state", &other], 2, &["cannot listen on", "choose another address"]);
    assert!(!Path::new(&other).exists());
}

#[test]
fn a_miner_knows_that_its_port_is_taken_before_it_loads_anything() {
    let folder = tempfile::tempdir().unwrap();
    let key = WalletPaths::new(&folder.path().join("wallets"), "miner").unwrap().hotkey("default").unwrap();
    create_hotkey(&key).unwrap();
    let taken = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let (address, nobody) = (taken.local_addr().unwrap(), free_port());
    let config = format!(
        "listen = \"{address}\"\nmodel = \"nowhere\"\n[chain]\nnetwork = \"ws://127.0.0.1:{nobody}\"\nnetuid = 3\n\
         [wallet]\nfolder = \"wallets\"\nname = \"miner\"\n"
    );
    let path = folder.path().join("miner.toml");
    fs::write(&path, config).unwrap();
    let expected = format!("cannot listen on {address}");
    fails(&["miner", "--config", path.to_str().unwrap()], 2, &[&expected, "choose another address"]);
}

#[test]
fn an_endpoint_where_nobody_is_and_another_chain_are_one_clear_line() {
    let nobody = format!("ws://127.0.0.1:{}", free_port());
    fails(&["chain", "status", "--network", &nobody, "--netuid", "3"], 3, &["no answer from", &nobody]);
    fails(&["chain", "status", "--network", "mainnet", "--netuid", "3"], 2, &["mainnet", "finney"]);

    let world = World::new(100, "tempo = 19");
    let chain = format!("{}genesis = \"{}\"\n", world.chain(), "ab".repeat(32));
    let config = world.validator_config("validator", &chain);
    fails(&["validator", "--config", &config], 2, &["serves the chain", "abababab"]);
    let status = ["chain", "status", "--network", &world.url, "--netuid"];
    fails(&[&status[..], &["4"]].concat(), 2, &["there is no subnet 4"]);
    let transcript = world.path("prompts.jsonl");
    fails(&["audit", "verify", &transcript, "--network", "devnet"], 2, &["--netuid"]);
}

#[test]
fn a_wallet_that_does_not_open_and_a_hotkey_without_a_place_are_one_clear_line() {
    let world = World::new(100, "tempo = 19");
    let config = world.validator_config("stranger", &world.chain());
    let wallets = world.root.path().join("wallets");
    fails(&["validator", "--config", &config], 2, &["stranger/hotkeys/default", "no such key file"]);
    let path = WalletPaths::new(&wallets, "stranger").unwrap().hotkey("default").unwrap();
    create_hotkey(&path).unwrap();
    fails(&["validator", "--config", &config], 2, &["is not registered"]);
    fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
    fails(&["validator", "--config", &config], 2, &["chmod 600", "stranger/hotkeys/default"]);

    // An encrypted key, with a password that is not its own.
    let vector: Value = serde_json::from_slice(WALLETS).unwrap();
    let sealed = hex::decode(vector["files"]["coldkey"]["hex"].as_str().unwrap()).unwrap();
    fs::write(&path, sealed).unwrap();
    fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
    fails(&["validator", "--config", &config], 2, &["is encrypted"]);
    let password = world.path("password");
    fs::write(&password, "open sesame\n").unwrap();
    let mut text = fs::read_to_string(&config).unwrap();
    text = text.replace("name = \"stranger\"\n", "name = \"stranger\"\npassword_file = \"password\"\n");
    fs::write(&config, text).unwrap();
    fails(&["validator", "--config", &config], 2, &["chmod 600", "password"]);
    fs::set_permissions(&password, PermissionsExt::from_mode(0o600)).unwrap();
    fails(&["validator", "--config", &config], 2, &["wrong password"]);

    let (code, stdout, _) =
        assay(&["wallet", "show", "--folder", wallets.to_str().unwrap(), "--wallet", "owner", "--json"]);
    let shown: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(
        (code, shown[0]["public_key"].as_str()),
        (0, Some(world.hotkey("owner").to_string().as_str())),
        "{shown}"
    );
    let phrase = fs::read_to_string(wallets.join("owner/hotkeys/default")).unwrap();
    let word = phrase.split('"').nth(3).unwrap().split(' ').next().unwrap();
    assert!(!stdout.contains(word), "{stdout}");
}

#[test]
fn weights_that_the_chain_refuses_are_one_clear_line_and_scores_are_kept() {
    // A miner's hotkey has a place and neither stake nor permit.
    for (parameters, part) in [
        ("tempo = 19\nweights = \"plain\"\nweights_rate_limit = 0", "no validator permit"),
        ("tempo = 19\nweights = \"plain\"\nweights_rate_limit = 0\nstake_threshold_tao = 5.0", "stake"),
    ] {
        let world = World::new(100, parameters);
        let config = world.validator_config("miner-1", &world.chain());
        let log =
            fails(&["validator", "--config", &config, "--epochs", "1"], 3, &["the weights are not on chain", part]);
        assert!(!log.contains("panic"), "{log}");
        let records = fs::read(world.root.path().join("records-miner-1/standing.json")).unwrap();
        let records: Value = serde_json::from_slice(&records).unwrap();
        assert!(records["weights"]["stage"]["refused"]["why"].as_str().unwrap().contains(part), "{records}");

        let status = ["chain", "status", "--network", &world.url, "--netuid", "3", "--config", &config];
        let (code, stdout, stderr) = assay(&[&status[..], &["--json"]].concat());
        let shown: Value = serde_json::from_str(&stdout).unwrap_or_else(|_| panic!("{stderr}"));
        let hindrances = shown["own"]["hindrances"].to_string();
        assert!(code == 0 && hindrances.contains(part), "{shown}");
        assert_eq!(shown["own"]["ledger"], serde_json::json!([[0, 65_535]]), "what nobody earned is burned");
        let (code, stdout, stderr) = assay(&status);
        assert!(code == 0 && stdout.contains("would not be taken"), "{stdout}{stderr}");

        // The subnet's owner needs neither stake nor permit.
        let owner = world.hotkey("owner").to_string();
        let (code, stdout, stderr) = assay(&[&status[..6], &["--hotkey", &owner, "--json"]].concat());
        let shown: Value = serde_json::from_str(&stdout).unwrap_or_else(|_| panic!("{stderr}"));
        assert_eq!((code, &shown["own"]["hindrances"]), (0, &serde_json::json!([])), "{shown}");
    }
}

#[test]
fn weights_that_came_too_fast_wait_for_their_block_and_say_so() {
    let world = World::new(100, "tempo = 9\nweights = \"plain\"\nweights_rate_limit = 80");
    let config = world.validator_config("validator", &world.chain());
    let run = || assay(&["validator", "--config", &config, "--epochs", "1"]);
    let (code, _, stderr) = run();
    assert_eq!(code, 0, "{stderr}");
    // At once again: the next epoch is judged long before the chain takes its weights.
    let (code, _, stderr) = run();
    assert_eq!(code, 0, "{stderr}");
    let told: String = stderr.lines().map(plain).collect::<Vec<_>>().join("\n");
    assert!(told.contains("can be set again at block"), "{told}");
    assert!(told.contains("they are tried again at block"), "{told}");
    assert!(placed(&stderr).len() == 1, "{told}");
}

#[test]
fn a_role_with_a_configuration_that_is_wrong_says_where() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("miner.toml");
    let path = path.to_str().unwrap();
    fails(&["miner", "--config", path], 2, &["miner.toml", "no such file"]);
    fs::write(path, "listen = \"127.0.0.1:1\"\nmodell = \"x\"\n").unwrap();
    fails(&["miner", "--config", path], 2, &["miner.toml:2: ", "`modell`"]);
    fails(&["devnet", "--listen", "0.0.0.0:0"], 2, &["loopback"]);
}
