//! What capture costs.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use assay_commitments::SessionId;
use assay_commitments::rows::Profile;
use assay_commitments::trace::{Trace, TraceRows};
use assay_llm_runtime::synthetic::Numbers;
use assay_llm_runtime::{Model, RunError, Session};
use serde_json::json;

use super::Figures;
use super::shape::{model, tokens};
use crate::outcome::Fault;

const PROMPT: u32 = 192;
const STEPS: u32 = 16;
/// The time of runs with a trace, taken and committed to, over that of runs without, in per cent beyond: the
/// median over rounds in which both take turns, and the quartiles.
pub(super) fn measure(numbers: &Numbers, figures: &mut Figures) -> Result<(), Fault> {
    let model = model(numbers, Profile::Bf16V1)?;
    for (prefix, prompt, steps, rounds) in [("", 1, STEPS, 31), ("prefill_", PROMPT, 0, 15)] {
        let run = |capture| run(&model, numbers, prompt, steps, capture);
        let bytes = run(true)?.bytes;
        let (mut times, mut overheads) = (vec![], vec![]);
        for round in 0..rounds {
            // Whoever comes first may find the machine in another state.
            let captured_first = round % 2 == 0;
            let (first, second) = (run(captured_first)?.seconds, run(!captured_first)?.seconds);
            let (plain, captured) = if captured_first { (second, first) } else { (first, second) };
            times.push(plain / f64::from(steps.max(prompt)));
            overheads.push(100.0 * (captured / plain - 1.0));
        }
        times.sort_by(f64::total_cmp);
        overheads.sort_by(f64::total_cmp);
        let quartiles = [overheads[rounds / 4], overheads[rounds - 1 - rounds / 4]];
        figures.set(&format!("{prefix}seconds"), times[rounds / 2]);
        figures.set(&format!("{prefix}overhead_percent"), overheads[rounds / 2]);
        figures.set(&format!("{prefix}overhead_percent_quartiles"), json!(quartiles));
        figures.set("bytes_per_token", bytes / (prompt + steps) as usize);
    }
    Ok(())
}

/// A run: how long it took, and how many bytes its trace holds.
struct Taken {
    seconds: f64,
    bytes: usize,
}

/// The steps after a prompt, or the prompt where there are none, to the commitment.
fn run(model: &Arc<Model>, numbers: &Numbers, prompt: u32, steps: u32, capture: bool) -> Result<Taken, RunError> {
    let mut session = Session::new(Arc::clone(model), capture);
    let mut begin = Instant::now();
    session.prefill(&tokens(numbers, prompt))?;
    if steps > 0 {
        begin = Instant::now();
    }
    for token in tokens(numbers, steps) {
        session.step(token)?;
    }
    let trace = session.into_trace()?;
    let commit = |trace: &Trace| trace.commit(&SessionId::new([7; 32]), trace.positions()).roots();
    black_box(trace.as_ref().map(commit));
    let seconds = begin.elapsed().as_secs_f64();
    Ok(Taken { seconds, bytes: trace.map_or(0, |trace| trace.memory()) })
}
