//! What the end-to-end tests share.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use assay_audit::policy::Policy;
use assay_audit::prompt::Prompt;
use assay_audit::request::AuditRate;
use assay_audit::sampling::Sampling;
use assay_cli::local::LocalModel;
use assay_cli::self_audit::SelfAudit;
use assay_llm_runtime::synthetic::{self, Numbers};

/// The folder of the trained fixture model.
pub fn fixture_folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/model"))
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
    let make = || LocalModel::of(synthetic::checkpoint(&numbers, 7), &mut |_, _| ()).expect("a synthetic model commits");
    MODEL.get_or_init(|| Arc::new(make())).clone()
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
