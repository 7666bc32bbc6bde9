//! A real validator that knows one model, and miners that it asks over loopback gRPC.

use std::net::SocketAddr;
use std::sync::Arc;

use assay_audit::keys::Keypair;
use assay_audit::policy::Policy;
use assay_audit::prompt::Prompt;
use assay_audit::request::{AuditRate, Deadlines, Network};
use assay_chain::{Devnet, Genesis, GenesisHash, NetUid, Parameters};
use assay_cli::local::LocalModel;
use assay_commitments::Epoch;
use assay_miner::{Backend, KnownSubnet, Limits, Miner, MinerConfig, Published, RunningMiner};
use assay_validator::{Ask, Auditor, EpochNonces, Outcome, Peer, Terms, VerifierModel};

/// The network of all sessions here.
pub const NETWORK: Network = Network { genesis: [7; 32], netuid: 3 };
/// The epoch of all sessions here.
pub const EPOCH: Epoch = Epoch::new(5);
/// Deadlines that a busy machine keeps.
pub const PATIENT: Deadlines = Deadlines {
    first_token_ms: 120_000,
    token_ms: 120_000,
    commitment_ms: 120_000,
    answer_ms: 360_000,
    settle_ms: 120_000,
    proof_ms: 120_000,
};

/// Keys by number.
pub fn keys(number: u8) -> Keypair {
    Keypair::from_seed([number; 32]).expect("any 32 bytes are a seed")
}

/// What a validator asks, and on which terms.
#[derive(Clone, Debug)]
pub struct Question {
    /// The question.
    pub ask: Ask,
    /// What is checked.
    pub policy: Policy,
    /// How often.
    pub rate: AuditRate,
    /// By when what is owed.
    pub deadlines: Deadlines,
}

impl Question {
    /// Asks for the continuation of a prompt at temperature 0.8 under the default policy, and always audits.
    pub fn new(prompt: Prompt, max_tokens: u32) -> Self {
        let ask = Ask { prompt, temperature: 0.8, top_k: 0, top_p: 1.0, max_tokens, stop: vec![] };
        Self { ask, policy: Policy::DEFAULT, rate: AuditRate::Always, deadlines: PATIENT }
    }
}

/// A validator and the model that it asks for.
#[derive(Debug)]
pub struct Arena {
    local: Arc<LocalModel>,
    model: Arc<VerifierModel>,
    nonces: EpochNonces,
    validator: Keypair,
    chain: Arc<Devnet>,
    /// Holds the journal of nonces.
    _directory: tempfile::TempDir,
}

impl Arena {
    /// A validator that knows `local`.
    pub fn new(local: &Arc<LocalModel>) -> Self {
        let validator = keys(200);
        let directory = tempfile::tempdir().expect("there is room for a folder");
        let (nonces, _) =
            EpochNonces::open(directory.path(), NETWORK, validator.hotkey(), EPOCH).expect("a journal can be begun");
        let template = local.chat_template.as_ref().map(|template| template.clone().into_bytes());
        let committed = &local.committed;
        let model = VerifierModel::new(
            committed.manifest.clone(),
            local.tokenizer.clone(),
            template,
            committed.embeddings.clone(),
        );
        let model = Arc::new(model.expect("a committed model fits its manifest"));
        let genesis = Genesis {
            network: assay_chain::Network {
                genesis: GenesisHash::new(NETWORK.genesis),
                netuid: NetUid::new(NETWORK.netuid),
            },
            owner: keys(100).hotkey(),
            validators: vec![],
            parameters: Parameters::default(),
        };
        let chain = Arc::new(Devnet::new(&genesis).expect("the devnet's own parameters are in order"));
        Self { local: Arc::clone(local), model, nonces, validator, chain, _directory: directory }
    }

    /// What the validator knows of the model.
    pub const fn model(&self) -> &Arc<VerifierModel> {
        &self.model
    }

    /// The validator's keys.
    pub const fn validator(&self) -> &Keypair {
        &self.validator
    }

    /// Holds one session.
    pub async fn ask(&self, miner: Peer, question: &Question) -> Outcome {
        let Question { ask, policy, rate, deadlines } = question.clone();
        let terms = Terms { policy, deadlines, inline_assets: true };
        let auditor = Auditor::new(self.validator.clone(), NETWORK, terms, 1, Arc::clone(&self.chain));
        auditor.session(&miner, &self.model, ask, rate, &self.nonces).await
    }

    /// Starts the miner as it ships, with a backend behind it.
    pub async fn miner(&self, number: u8, backend: impl Backend) -> (RunningMiner, Peer) {
        let LocalModel { committed, tokenizer, chat_template, .. } = self.local.as_ref();
        let template = chat_template.as_ref().map(String::as_bytes);
        let published = Published::new(committed, tokenizer, template).expect("a committed model is published");
        let config = MinerConfig {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            keys: keys(number),
            network: NETWORK,
            subnet: Arc::new(KnownSubnet::new(EPOCH, &[(self.validator.hotkey(), 1)])),
            limits: Limits::default(),
            spill_folder: None,
        };
        let running = Miner::start(config, published, backend).await.expect("a miner starts");
        let peer = Peer { hotkey: keys(number).hotkey(), endpoint: running.local_addr() };
        (running, peer)
    }
}
