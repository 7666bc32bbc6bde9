//! Several answers at once.

use std::sync::Arc;
use std::thread;
use std::time::Instant;

use assay_audit::prompt::Tokenizer;
use assay_audit::sampling::Sampling;
use assay_commitments::rows::Profile;
use assay_llm_runtime::synthetic::{self, Numbers};
use assay_llm_runtime::{Answer, Engine, EngineLimits, Event, Job, RunError};
use serde_json::json;

use super::Figures;
use super::shape::{model, tokens};
use crate::outcome::Fault;

const PROMPT: u32 = 32;
const OUTPUT: u32 = 24;
const REQUESTS: [u8; 5] = [1, 2, 4, 8, 16];

/// Output tokens a second of all requests together, their prompts and traces included, and when the first
/// token of the request in the middle came.
pub(super) fn measure(numbers: &Numbers, figures: &mut Figures) -> Result<(), Fault> {
    let engine = Engine::start(model(numbers, Profile::Bf16V1)?, EngineLimits::default());
    // No text is looked at.
    let tokenizer = Tokenizer::from_bytes(&synthetic::checkpoint(&Numbers::TINY, 1).tokenizer)?;
    let tokenizer = Arc::new(tokenizer);
    let job = |owner: u8| Job {
        owner: [owner; 32],
        prompt: tokens(numbers, PROMPT),
        sampling: Sampling::GREEDY,
        tokenizer: Arc::clone(&tokenizer),
        stop: vec![],
        max_tokens: OUTPUT,
        capture: true,
    };
    let mut runs = vec![];
    let mut alone = None;
    for requests in REQUESTS {
        let begin = Instant::now();
        let answers: Vec<Answer> = (0..requests)
            .map(|owner| engine.submit(job(owner)))
            .collect::<Result<_, _>>()
            .map_err(|error| Fault::own(format!("a request is not taken: {error}")))?;
        let mut firsts = first_tokens(answers, begin)?;
        let seconds = begin.elapsed().as_secs_f64();
        firsts.sort_by(f64::total_cmp);
        let rate = f64::from(u32::from(requests) * OUTPUT) / seconds;
        let gain = rate / *alone.get_or_insert(rate);
        figures.set("seconds", seconds);
        figures.set("rate", rate);
        runs.push(json!({
            "requests": requests, "rate": rate, "gain": gain, "first_token_seconds": firsts[firsts.len() / 2],
        }));
    }
    figures.set("unit", "tokens/s");
    figures.set("batches", runs);
    Ok(())
}

/// Waits for all answers, and says how long after `begin` each began.
fn first_tokens(answers: Vec<Answer>, begin: Instant) -> Result<Vec<f64>, RunError> {
    let listen = |answer: Answer| {
        let mut first = None;
        for event in answer {
            match event {
                Event::Token(_) => first = first.or_else(|| Some(begin.elapsed().as_secs_f64())),
                Event::End(end) => drop(end?),
            }
        }
        first.ok_or(RunError::Stopped)
    };
    thread::scope(|scope| {
        let threads: Vec<_> = answers.into_iter().map(|answer| scope.spawn(move || listen(answer))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or(Err(RunError::Stopped))).collect()
    })
}
