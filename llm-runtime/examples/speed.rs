//! Prefill and decode speed of a model folder, with and without capture, and what the thread that
//! captures works for a token (Linux only):
//! `cargo run --release -p assay-llm-runtime --example speed -- fixtures/model`.
//! Without a folder, or with `random` in its place, random weights in the shape of a model of 0.1 billion; with `cuda`
//! behind it on a CUDA device.

use std::error::Error;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use assay_commitments::TokenId;
use assay_commitments::rows::Profile;
use assay_llm_runtime::synthetic::{self, Numbers};
use assay_llm_runtime::{Checkpoint, Device, Model, Session};

const PROMPT: u32 = 100;
const STEPS: u32 = 50;
const ROUNDS: u32 = 10;
/// The layers of Qwen3-0.6B, four of them, and a small vocabulary.
const SHAPE: Numbers = Numbers { vocab_size: 8192, layers: 4, ..Numbers::QWEN3_0_6B };

fn main() -> Result<(), Box<dyn Error>> {
    let checkpoint = match std::env::args_os().nth(1) {
        Some(folder) if folder != "random" => Checkpoint::load(&PathBuf::from(folder), Profile::Bf16V1)?,
        _ => synthetic::checkpoint(&SHAPE, 1),
    };
    let device = match std::env::args().nth(2).as_deref() {
        Some("cuda") => Device::cuda(0)?,
        _ => Device::CPU,
    };
    for profile in [Profile::Bf16V1, Profile::F32V1] {
        let model = Model::new(&checkpoint.architecture, &checkpoint.tensors, profile)?.on(&device)?;
        let model = Arc::new(model);
        // Best of alternating rounds: other work on the machine only ever adds.
        let mut best = [[f64::INFINITY; 3]; 2];
        for round in 0..2 * ROUNDS {
            let capture = round % 2 == 1;
            let times = measure(&model, capture)?;
            for (best, time) in best[usize::from(capture)].iter_mut().zip(times) {
                *best = best.min(time);
            }
        }
        for (name, [prefill, decode, thread]) in ["plain", "capture"].into_iter().zip(best) {
            println!(
                "{}, {profile:?}, {name}: prefill {:.0} tok/s, decode {:.3} ms a token, capture thread {:.3} ms a token",
                device.name(),
                f64::from(PROMPT) / prefill,
                1e3 * decode / f64::from(STEPS),
                1e3 * thread / f64::from(STEPS),
            );
        }
    }
    Ok(())
}

/// Seconds of a prefill, of the steps after it, and of the capture's thread during these.
fn measure(model: &Arc<Model>, capture: bool) -> Result<[f64; 3], Box<dyn Error>> {
    let vocabulary = model.architecture().vocab_size;
    let token = |index: u32| TokenId::new(index * 37 % vocabulary);
    let prompt: Vec<TokenId> = (0..PROMPT).map(token).collect();
    let mut session = Session::new(Arc::clone(model), capture);
    let begin = Instant::now();
    session.prefill(&prompt)?;
    let prefill = begin.elapsed().as_secs_f64();
    // What the prefill left for the thread to do is not the steps'.
    std::thread::sleep(std::time::Duration::from_millis(if capture { 50 } else { 0 }));
    let (begin, before) = (Instant::now(), capture_seconds());
    for index in 0..STEPS {
        session.step(token(index + PROMPT))?;
    }
    Ok([prefill, begin.elapsed().as_secs_f64(), capture_seconds() - before])
}

/// Seconds that threads of the capture have run.
fn capture_seconds() -> f64 {
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let seconds = tasks.filter_map(|task| {
        let is_capture = fs::read_to_string(task.path().join("comm")).ok()?.trim() == "assay-capture";
        let statistics = fs::read_to_string(task.path().join("schedstat")).ok()?;
        let nanoseconds: f64 = statistics.split_whitespace().next()?.parse().ok()?;
        is_capture.then_some(nanoseconds / 1e9)
    });
    seconds.sum()
}
