//! Frozen transcripts keep their verdicts: a change of the wire format, of a threshold or of a last bit
//! shows here. `BLESS=1` writes them anew; the difference is to be reviewed.
#![expect(clippy::unwrap_used, reason = "a failed step of a test fails the test")]

use std::path::PathBuf;

use assay_audit::transcript_file::{Conclusion, TranscriptFile};
use assay_audit::verdict::Reason;
use assay_cli::demo::cast::{Behaviour, Models};
use assay_cli::local::LocalModel;
use assay_cli::self_audit::SelfAudit;
use assay_tests::{session, smallest, smallest_checkpoint};

fn golden(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/golden/v1")).join(name)
}

fn audit() -> SelfAudit {
    let mut audit = session("abc", 4, 5);
    audit.policy = assay_audit::policy::Policy::Sampled { cells: 1, decodes: 1, columns: None, least_budget_ms: 0 };
    audit
}

fn play(model: &std::sync::Arc<LocalModel>, behaviour: Behaviour) -> TranscriptFile {
    let models = Models::new(model, &smallest_checkpoint().tensors).unwrap();
    audit().run(model, &models.backend(behaviour, &std::sync::Arc::default())).unwrap()
}

#[test]
fn golden_transcripts_keep_their_verdicts() {
    let honest = Behaviour::Honest { pause: std::time::Duration::ZERO };
    for (name, behaviour, expected) in [
        ("accepted.assay", honest, Conclusion::Accepted),
        ("rejected_101_zero_proof.assay", Behaviour::ZeroProof, Conclusion::Rejected(Reason::ProofShape)),
        ("rejected_303_int8_weights.assay", Behaviour::Int8Weights, Conclusion::Rejected(Reason::C3)),
    ] {
        let path = golden(name);
        if std::env::var_os("BLESS").is_some() {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, play(&smallest(), behaviour).encode()).unwrap();
        }
        let file = TranscriptFile::decode(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(Conclusion::from(file.judge(&|_| None).verdict), expected, "{name}");
        assert_eq!(file.receipt.conclusion, expected, "{name}");
    }
}
