//! What the end-to-end tests share.

pub mod adversary;
pub mod arena;
pub mod odds;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use assay_audit::policy::Policy;
use assay_audit::prompt::Prompt;
use assay_audit::request::AuditRate;
use assay_audit::sampling::Sampling;
use assay_cli::local::LocalModel;
use assay_cli::self_audit::SelfAudit;
use assay_commitments::rows::Profile;
use assay_llm_runtime::Checkpoint;
use assay_llm_runtime::synthetic::{self, Numbers};

/// The folder of the trained fixture model.
pub fn fixture_folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/model"))
}

/// The weights of the fixture model.
pub fn fixture_checkpoint() -> Checkpoint {
    Checkpoint::load(&fixture_folder(), Profile::Bf16V1).expect("the fixture is a model")
}

/// The trained fixture model, committed once a test binary.
pub fn fixture() -> Arc<LocalModel> {
    static MODEL: OnceLock<Arc<LocalModel>> = OnceLock::new();
    let load = || LocalModel::load(&fixture_folder(), &mut |_, _| ()).expect("the fixture is a model");
    MODEL.get_or_init(|| Arc::new(load())).clone()
}

/// A model of the least size that has every part, for exhaustive tests.
pub fn tiny() -> Arc<LocalModel> {
    static MODEL: OnceLock<Arc<LocalModel>> = OnceLock::new();
    let numbers = Numbers { layers: 1, ..Numbers::TINY };
    let make =
        || LocalModel::of(&synthetic::checkpoint(&numbers, 7), &mut |_, _| ()).expect("a synthetic model commits");
    MODEL.get_or_init(|| Arc::new(make())).clone()
}

/// A model whose transcripts stay under 64 KiB.
pub fn smallest_checkpoint() -> Checkpoint {
    let numbers = Numbers {
        vocab_size: 40,
        hidden: 8,
        layers: 1,
        heads: 2,
        kv_heads: 1,
        head_dim: 4,
        ffn: 16,
        max_positions: 32,
        tied: true,
        ..Numbers::TINY
    };
    synthetic::checkpoint(&numbers, 3)
}

/// The same, committed.
pub fn smallest() -> Arc<LocalModel> {
    Arc::new(LocalModel::of(&smallest_checkpoint(), &mut |_, _| ()).expect("a synthetic model commits"))
}

/// A session of a sampled request with the default policy, always audited.
pub fn session(prompt: &str, max_tokens: u32, seed: u64) -> SelfAudit {
    SelfAudit {
        prompt: Prompt::Text(prompt.to_owned()),
        sampling: Sampling { temperature: 0.8, top_k: 0, top_p: 1.0, seed },
        max_tokens,
        stop: vec![],
        policy: Policy::DEFAULT,
        audit_rate: AuditRate::Always,
        entropy: *blake3::hash(&seed.to_le_bytes()).as_bytes(),
    }
}

/// Runs `check` for every item on all cores; a panic in one fails the test.
pub fn in_parallel<T: Copy + Send>(items: impl IntoIterator<Item = T, IntoIter: Send>, check: impl Fn(T) + Sync) {
    let items = Mutex::new(items.into_iter());
    let next = || items.lock().unwrap_or_else(PoisonError::into_inner).next();
    let workers = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(item) = next() {
                    check(item);
                }
            });
        }
    });
}
