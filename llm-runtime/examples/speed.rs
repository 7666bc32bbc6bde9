//! Prefill and decode speed of a model folder, with and without capture:
//! `cargo run --release -p assay-llm-runtime --example speed -- fixtures/model`.

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use assay_commitments::TokenId;
use assay_commitments::rows::Profile;
use assay_llm_runtime::{Checkpoint, Model, Session};

const PROMPT: u32 = 100;
const STEPS: u32 = 100;
const ROUNDS: u32 = 10;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args_os().nth(1).ok_or("name a model folder")?;
    let checkpoint = Checkpoint::load(&PathBuf::from(folder), Profile::Bf16V1)?;
    for profile in [Profile::Bf16V1, Profile::F32V1] {
        let model = Arc::new(Model::new(&checkpoint.architecture, &checkpoint.tensors, profile)?);
        // Best of alternating rounds: other work on the machine only ever adds.
        let mut best = [[f64::INFINITY; 2]; 2];
        for round in 0..2 * ROUNDS {
            let capture = round % 2 == 1;
            let times = measure(&model, capture)?;
            for (best, time) in best[usize::from(capture)].iter_mut().zip(times) {
                *best = best.min(time);
            }
        }
        for (name, [prefill, decode]) in ["plain", "capture"].into_iter().zip(best) {
            println!(
                "{profile:?}, {name}: prefill {:.0} tok/s, decode {:.3} ms a token",
                f64::from(PROMPT) / prefill,
                1e3 * decode / f64::from(STEPS),
            );
        }
    }
    Ok(())
}

/// Seconds of a prefill and of the steps after it.
fn measure(model: &Arc<Model>, capture: bool) -> Result<[f64; 2], Box<dyn Error>> {
    let vocabulary = model.architecture().vocab_size;
    let token = |index: u32| TokenId::new(index * 37 % vocabulary);
    let prompt: Vec<TokenId> = (0..PROMPT).map(token).collect();
    let mut session = Session::new(Arc::clone(model), capture);
    let begin = Instant::now();
    session.prefill(&prompt)?;
    let prefill = begin.elapsed().as_secs_f64();
    let begin = Instant::now();
    for index in 0..STEPS {
        session.step(token(index + PROMPT))?;
    }
    Ok([prefill, begin.elapsed().as_secs_f64()])
}
