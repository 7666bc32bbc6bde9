//! Everything the demo is played on: the model, the chain, the miners, the validator's settings.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use assay_audit::keys::Keypair;
use assay_audit::policy::Policy;
use assay_audit::prompt::{Message, Prompt};
use assay_audit::request::{AuditRate, Deadlines, Network};
use assay_chain::{Chain, ChainError, Devnet, Genesis, GenesisHash, NetUid, Rao, WeightsForm};
use assay_commitments::Hotkey;
use assay_llm_runtime::Checkpoint;
use assay_miner::{KnownSubnet, Limits, Miner, MinerConfig, Published, RunningMiner, SubnetView};
use assay_probation::{Criterion, Millionths};
use assay_validator::{PromptList, Settings, Terms, Validator};

use super::DemoArgs;
use super::cast::{CAST, Models, Role};
use super::narrator::Narrator;
use crate::local::{self, LocalModel};
use crate::outcome::Fault;

/// The fixture model, file by file.
const MODEL: [(&str, &[u8]); 5] = [
    ("config.json", include_bytes!("../../../fixtures/model/config.json")),
    ("generation_config.json", include_bytes!("../../../fixtures/model/generation_config.json")),
    ("model.safetensors", include_bytes!("../../../fixtures/model/model.safetensors")),
    ("tokenizer.json", include_bytes!("../../../fixtures/model/tokenizer.json")),
    ("tokenizer_config.json", include_bytes!("../../../fixtures/model/tokenizer_config.json")),
];

/// What the validator asks. Few questions, so that a miner that stores answers meets them again.
const VERSES: [&str; 4] = [
    "In the beginning God created the heaven and the earth.",
    "The LORD is my shepherd; I shall not want.",
    "And the LORD spake unto Moses, saying,",
    "Blessed are the poor in spirit: for theirs is the kingdom of heaven.",
];
const SYSTEM: &str = "Answer with the next verse.";
/// Most tokens of an answer.
const MAX_TOKENS: u32 = 24;
/// Requests to a miner in an epoch.
const REQUESTS: u32 = 4;
/// Of responses of miners of good standing, so many in a hundred are audited.
const AUDITED_PERCENT: u64 = 92;
/// The devnet's tempo: an epoch has one block more.
const TEMPO: u16 = 10;
/// The validator's stake.
const STAKE: u64 = 1_000_000_000_000;
/// The netuid of the demo's subnet.
const NETUID: u16 = 1;
/// Long for an honest proof on two busy cores, short for those who wait for a silent one.
const PROOF_MS: u32 = 6_000;

/// The stage.
pub(crate) struct Stage {
    pub(crate) chain: Devnet,
    pub(crate) players: Vec<Seat>,
    epoch: Arc<AtomicU64>,
    subnet: Arc<KnownSubnet>,
    keys: Keypair,
    transcripts: PathBuf,
    state: tempfile::TempDir,
    manifest: String,
}

/// A miner with its place.
pub(crate) struct Seat {
    pub(crate) role: Role,
    pub(crate) hotkey: Hotkey,
    running: RunningMiner,
}

fn keys(seed: u64, name: &str) -> Keypair {
    let seed = blake3::derive_key("assay demo hotkey v1", &[&seed.to_le_bytes(), name.as_bytes()].concat());
    Keypair::from_seed(seed).expect("any 32 bytes are a seed")
}

fn chain_fault(error: ChainError) -> Fault {
    Fault::own(format!("the devnet refuses: {}", Fault::from(error)))
}

impl Stage {
    pub(crate) async fn build(args: &DemoArgs, transcripts: &Path, narrator: &Narrator) -> Result<Self, Fault> {
        let (checkpoint, local) = load(narrator).await?;
        let models = Models::new(&local, &checkpoint.tensors)?;
        drop(checkpoint);
        let template = local.chat_template.as_ref().map(String::as_bytes);
        let published = Published::new(&local.committed, &local.tokenizer, template)
            .map_err(|error| Fault::own(error.to_string()))?;

        let (owner, validator) = (keys(args.seed, "owner"), keys(args.seed, "validator"));
        let genesis = GenesisHash::new(blake3::derive_key("assay demo genesis v1", &args.seed.to_le_bytes()));
        let network = assay_chain::Network { genesis, netuid: NetUid::new(NETUID) };
        let chain = Devnet::new(&Genesis {
            network,
            owner: owner.hotkey(),
            validators: vec![(validator.hotkey(), Rao::new(STAKE))],
            parameters: assay_chain::Parameters {
                tempo: TEMPO,
                weights_form: WeightsForm::Plain,
                weights_rate_limit: 1,
                serving_rate_limit: 1,
                min_allowed_weights: 1,
                ..assay_chain::Parameters::default()
            },
        })
        .map_err(|error| Fault::own(format!("the devnet cannot start: {error}")))?;
        chain.publish_manifests(owner.hotkey(), &[published.id()]).await.map_err(chain_fault)?;

        let epoch = Arc::new(AtomicU64::new(0));
        let running = chain.head().await.map_err(chain_fault)?.epoch;
        let subnet = Arc::new(KnownSubnet::new(running, &[(validator.hotkey(), STAKE)]));
        let mut players = Vec::with_capacity(CAST.len());
        for role in CAST {
            let keys = keys(args.seed, role.name);
            let hotkey = keys.hotkey();
            let config = MinerConfig {
                listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
                keys,
                network: Network { genesis: *genesis.as_bytes(), netuid: NETUID },
                subnet: Arc::clone(&subnet) as Arc<dyn SubnetView>,
                limits: Limits::default(),
                spill_folder: None,
            };
            let running = Miner::start(config, published.clone(), models.backend(role.behaviour, &epoch))
                .await
                .map_err(|error| Fault::usage(format!("miner {}: {error}", role.name)))?;
            chain.register(hotkey).map_err(chain_fault)?;
            chain.serve_endpoint(hotkey, running.local_addr()).await.map_err(chain_fault)?;
            chain.declare_manifest(hotkey, published.id()).await.map_err(chain_fault)?;
            players.push(Seat { role: *role, hotkey, running });
        }
        // Weights count for miners that were registered in an earlier block.
        chain.step_block();
        narrator.set_up(&players, &published.id());
        let state = tempfile::tempdir().map_err(|error| Fault::usage(format!("no temporary folder: {error}")))?;
        Ok(Self {
            chain,
            players,
            epoch,
            subnet,
            keys: validator,
            transcripts: transcripts.to_owned(),
            state,
            manifest: published.id().to_string(),
        })
    }

    pub(crate) fn manifest(&self) -> &str {
        &self.manifest
    }

    pub(crate) fn validator_hotkey(&self) -> Hotkey {
        self.keys.hotkey()
    }

    /// Who a hotkey is.
    pub(crate) fn names(&self) -> HashMap<Hotkey, Role> {
        self.players.iter().map(|seat| (seat.hotkey, seat.role)).collect()
    }

    /// Tells everybody that an epoch has begun: the miners its number in the demo, their view of the subnet
    /// its number on the chain.
    pub(crate) async fn enter(&self, number: u64) -> Result<(), Fault> {
        self.epoch.store(number, Ordering::Relaxed);
        let running = self.chain.head().await.map_err(chain_fault)?.epoch;
        self.subnet.update(running, &[(self.validator_hotkey(), STAKE)]);
        Ok(())
    }

    pub(crate) async fn validator(&self, narrator: Arc<Narrator>) -> Result<Validator<Devnet>, Fault> {
        let chat = |verse: &&str| {
            let message = |role: &str, content: &str| Message { role: role.to_owned(), content: content.to_owned() };
            Prompt::Chat(vec![message("system", SYSTEM), message("user", verse)])
        };
        let questions = PromptList::new(VERSES.iter().map(chat).collect(), MAX_TOKENS)
            .map_err(|error| Fault::own(error.to_string()))?
            .with_sampling(0.9, 0, 1.0);
        let criterion = |weight, half_at| Criterion { weight: Millionths::saturating(weight), half_at };
        let probation = assay_probation::Parameters {
            audits_per_epoch: 1,
            smoothing: Millionths::saturating(500_000),
            // What the fixture does on two busy cores is worth about one half.
            throughput: criterion(500_000, 200),
            first_token: criterion(200_000, 100),
            proof_bytes: criterion(100_000, 1 << 20),
            proof_latency: criterion(200_000, 1_000),
            ..assay_probation::Parameters::default()
        };
        let settings = Settings {
            keys: self.keys.clone(),
            directory: self.state.path().to_owned(),
            transcripts: self.transcripts.clone(),
            terms: Terms {
                policy: Policy::DEFAULT,
                deadlines: Deadlines {
                    first_token_ms: 10_000,
                    token_ms: 5_000,
                    commitment_ms: 5_000,
                    answer_ms: 60_000,
                    settle_ms: 10_000,
                    proof_ms: PROOF_MS,
                },
                inline_assets: true,
            },
            audit_rate: AuditRate::Below(u64::MAX / 100 * AUDITED_PERCENT),
            probation: probation.try_into().map_err(|error| Fault::own(format!("{error}")))?,
            requests: REQUESTS,
            sessions: 6,
            sessions_per_miner: 1,
            verifying: 2,
            public_endpoints: false,
        };
        let names = self.names();
        let events = move |event| narrator.told(&names, &event);
        Validator::open(settings, Arc::new(self.chain.clone()), questions, events)
            .await
            .map_err(|error| Fault::own(format!("the validator cannot start: {error}")))
    }

    pub(crate) async fn shutdown(self) {
        for seat in self.players {
            seat.running.shutdown().await;
        }
    }
}

/// Unpacks the fixture model and commits it.
async fn load(narrator: &Narrator) -> Result<(Checkpoint, LocalModel), Fault> {
    let progress = narrator.progress();
    let loaded = tokio::task::spawn_blocking(move || {
        let unusable = |error| Fault::usage(format!("no temporary folder for the model: {error}"));
        let folder = tempfile::tempdir().map_err(unusable)?;
        for (name, bytes) in MODEL {
            std::fs::write(folder.path().join(name), bytes).map_err(unusable)?;
        }
        let checkpoint = Checkpoint::load(folder.path(), local::profile_of(folder.path())?)?;
        let local = LocalModel::of(&checkpoint, &mut |done, all| progress(done, all))?;
        Ok::<_, Fault>((checkpoint, local))
    });
    loaded.await.map_err(|error| Fault::own(format!("the model could not be made ready: {error}")))?
}
