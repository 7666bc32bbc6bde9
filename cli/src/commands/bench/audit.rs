//! A whole session under the default policy.

use std::time::Instant;

use assay_audit::judge::judge;
use assay_audit::policy::Policy;
use assay_audit::prompt::Prompt;
use assay_audit::request::AuditRate;
use assay_audit::sampling::Sampling;
use assay_audit::verdict::Verdict;
use assay_commitments::rows::Profile;
use assay_llm_runtime::synthetic::{ComputedWeights, Numbers};

use super::Figures;
use crate::commands::audit::proof_bytes;
use crate::local::LocalModel;
use crate::outcome::Fault;
use crate::self_audit::SelfAudit;
use crate::terminal::Progress;

const PROMPT: usize = 64;
const OUTPUT: u32 = 32;
/// Judgements of which the best time counts.
const JUDGED: usize = 10;

/// Serves an answer, proves it and judges it.
pub(super) fn measure(numbers: &Numbers, figures: &mut Figures) -> Result<(), Fault> {
    let progress = Progress::new("committing");
    let begin = Instant::now();
    let checkpoint = ComputedWeights::new(numbers, 1).checkpoint(Profile::Bf16V1);
    let model = LocalModel::of(&checkpoint, &mut |done, total| progress.tell(done as u64, total as u64))?;
    drop(progress);
    figures.set("commit_seconds", begin.elapsed().as_secs_f64());
    let session = SelfAudit {
        prompt: Prompt::Text("a bench ".repeat(PROMPT / 8)),
        sampling: Sampling::GREEDY,
        max_tokens: OUTPUT,
        stop: vec![],
        policy: Policy::DEFAULT,
        audit_rate: AuditRate::Always,
        entropy: [3; 32],
    };
    let file = session.run(&model, &model.backend())?;
    let mut best = f64::INFINITY;
    for _ in 0..JUDGED {
        let begin = Instant::now();
        let judgement = judge(&file.record, &file.manifest, &model.assets, &file.embeddings);
        best = best.min(begin.elapsed().as_secs_f64());
        if judgement.verdict != Verdict::Accepted {
            return Err(Fault::own(format!("an honest answer is not accepted: {:?}", judgement.verdict)));
        }
    }
    figures.set("prove_seconds", f64::from(file.receipt.measurements.proof_ms) / 1e3);
    figures.set("verify_ms", 1e3 * best);
    figures.set("proof_bytes", proof_bytes(&file).unwrap_or(0));
    Ok(())
}
