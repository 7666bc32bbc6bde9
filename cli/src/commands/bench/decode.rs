//! Decode of one sequence.

use std::sync::Arc;
use std::time::Instant;

use assay_commitments::manifest::Matrix;
use assay_commitments::rows::Profile;
use assay_llm_runtime::synthetic::{ComputedWeights, Numbers};
use assay_llm_runtime::{Session, read_bandwidth};
use serde_json::json;

use super::Figures;
use super::shape::{model, tokens};
use crate::outcome::Fault;

const PROMPT: u32 = 32;
const STEPS: usize = 24;
const ROUNDS: usize = 4;

/// Tokens a second under every profile, beside what reading all weights once a token would allow. Decodes
/// and reading take turns; of all, the best time of every part counts, a part of a decode being a step.
pub(super) fn measure(numbers: &Numbers, figures: &mut Figures) -> Result<(), Fault> {
    let prompt = tokens(numbers, PROMPT);
    let mut runs = vec![];
    for profile in [Profile::Bf16V1, Profile::F32V1, Profile::Bf16W8V1] {
        runs.push((profile, model(numbers, profile)?, [f64::INFINITY; STEPS]));
    }
    let mut bandwidth = 0.0_f64;
    for _ in 0..ROUNDS {
        bandwidth = bandwidth.max(read_bandwidth());
        for (_, model, best) in &mut runs {
            let mut session = Session::new(Arc::clone(model), false);
            session.prefill(&prompt)?;
            for (best, token) in best.iter_mut().zip(prompt.iter().cycle()) {
                let begin = Instant::now();
                session.step(*token)?;
                *best = best.min(begin.elapsed().as_secs_f64());
            }
        }
    }
    figures.set("bytes_per_second", bandwidth);
    let mut profiles = vec![];
    for (profile, _, best) in runs {
        #[expect(clippy::cast_precision_loss, reason = "a handful")]
        let seconds = best.iter().sum::<f64>() / STEPS as f64;
        let (rate, ceiling) = (1.0 / seconds, bandwidth / weight_bytes(numbers, profile));
        if profiles.is_empty() {
            figures.set("profile", profile.name());
            figures.set("seconds", seconds);
            figures.rate(rate, ceiling, "tokens/s");
        }
        profiles.push(json!({
            "profile": profile.name(), "seconds": seconds, "rate": rate, "ceiling": ceiling,
            "ratio_to_ceiling": rate / ceiling,
        }));
    }
    figures.set("profiles", profiles);
    Ok(())
}

/// Bytes of the weights that a token reads: all matrices and lm_head.
#[expect(clippy::cast_precision_loss, reason = "sizes below 2^53")]
fn weight_bytes(numbers: &Numbers, profile: Profile) -> f64 {
    let architecture = numbers.architecture();
    let matrices = Matrix::ALL.map(|matrix| architecture.shape(matrix).weights());
    let layers = (u64::from(numbers.layers) * matrices.iter().sum::<u64>()) as f64;
    let head = (u64::from(numbers.vocab_size) * u64::from(numbers.hidden)) as f64;
    let dense = profile.element_bytes() as f64;
    let of_matrices = match profile {
        Profile::Bf16V1 | Profile::F32V1 => dense,
        Profile::Bf16W8V1 => 1.0 + size_of::<f32>() as f64 / ComputedWeights::GROUP as f64,
    };
    layers * of_matrices + head * dense
}
