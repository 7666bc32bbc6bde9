//! `assay calibrate`: how far honest runs and cheats are from the thresholds, on this machine.
//!
//! Every cell of every run is compared with the reference, with the weights at hand and so without the
//! noise of a sketch. A ratio of 1 is the threshold: honest runs must stay well below, cheats should be
//! well above.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use assay_audit::challenge::{Challenge, Lengths};
use assay_audit::measure::{margins, reference_logits};
use assay_audit::sampling::Sampling;
use assay_audit::tolerance::Tolerance;
use assay_audit::verdict::Margin;
use assay_commitments::manifest::Matrix;
use assay_commitments::trace::{Trace, TraceRows};
use assay_commitments::{Position, TokenId};
use assay_llm_runtime::quantize::{self, Format};
use assay_llm_runtime::{Generate, Model, Session, generate};
use clap::ValueEnum;

use crate::local::LocalModel;
use crate::outcome::{CommandResult, Fault, Outcome};
use crate::terminal::{Paint, Progress, complain, print, print_json};

mod report;

use report::{Cheat, Honest, Report};

/// What to measure.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Model folder in the Hugging Face layout
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// What the model runs on
    #[arg(long, value_enum, default_value_t = Device::Cpu)]
    device: Device,
    /// Tokens that every honest run generates
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..))]
    tokens: u32,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// What a model runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Device {
    Cpu,
    Cuda,
}

/// Texts of several kinds and lengths.
const PROMPTS: [&str; 4] = [
    "In the beginning",
    "The king said unto his servants, Go ye into the city and see what is done there; and they went, and came \
     again, and told him all that they had seen and heard.",
    "1, 2, 3, 4, 5, 6, 7, 8, 9, 10: what comes next? {\"answer\":",
    "a",
];

/// How a sequence is run. The same rows must pass however they were computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// The prompt at once, then token by token: what a miner does.
    Served,
    /// All tokens at once.
    AtOnce,
    /// Token by token from the first.
    Stepwise,
    /// All tokens at once, on one thread.
    OneThread,
}

impl Mode {
    const ALL: [Self; 4] = [Self::Served, Self::AtOnce, Self::Stepwise, Self::OneThread];

    const fn name(self) -> &'static str {
        match self {
            Self::Served => "prompt at once, then stepwise",
            Self::AtOnce => "all at once",
            Self::Stepwise => "all stepwise",
            Self::OneThread => "all at once, one thread",
        }
    }
}

/// A prompt and an answer to it.
struct Sequence {
    prompt: usize,
    /// The prompt and what was fed back of the answer.
    tokens: Vec<TokenId>,
}

pub(crate) fn run(args: &Args) -> CommandResult {
    if args.device == Device::Cuda {
        return Err(Fault::usage("this build of assay runs models on the CPU only: use --device cpu"));
    }
    let begin = Instant::now();
    let progress = Progress::new("committing");
    let model = LocalModel::load(&args.folder, &mut |done, total| progress.tell(done as u64, total as u64))?;
    drop(progress);

    let sequences = sequences(&model, args.tokens)?;
    let selections = selections();
    let total = sequences.len() * Mode::ALL.len() + Format::ALL.len() * selections.len();
    let progress = Progress::new("measuring");
    let mut done = 0;
    let mut step = || {
        done += 1;
        progress.tell(done, total as u64);
    };

    let mut honest = Honest::default();
    for sequence in &sequences {
        for mode in Mode::ALL {
            let (trace, logits) = run_sequence(&model.model, sequence, mode)?;
            honest.add(mode.name(), &margins_of(&model, &trace)?);
            if mode == Mode::Stepwise {
                honest.logits.extend(logit_ratios(&model, &trace, &logits)?);
            }
            step();
        }
    }
    // Cheats need fewer runs: what they change, they change in every cell.
    let probed: Vec<&Sequence> = sequences.iter().take(2).chain(sequences.last()).collect();
    let mut cheats = vec![];
    for format in Format::ALL {
        for matrices in &selections {
            let cheating = cheating_model(&model, format, matrices)?;
            let mut all = vec![];
            for sequence in &probed {
                let (trace, _) = run_sequence(&cheating, sequence, Mode::AtOnce)?;
                all.extend(margins_of(&model, &trace)?);
            }
            cheats.push(Cheat::new(format, matrices, &all));
            step();
        }
    }
    drop(progress);

    let report = Report {
        profile: model.committed.manifest.profile.name(),
        device: "cpu",
        tokens: args.tokens,
        runs: sequences.len(),
        honest,
        cheats,
        seconds: begin.elapsed().as_secs_f64(),
    };
    if args.json {
        print_json(&report.json())?;
    } else {
        print(&report.text(Paint::stdout()))?;
    }
    let worst = report.honest.worst();
    if worst > 1.0 {
        complain(
            "error",
            &format!(
                "an honest run reaches {worst:.2} of a threshold: under profile {} this model would be rejected on this machine",
                report.profile
            ),
        );
        return Ok(Outcome::Rejected);
    }
    Ok(Outcome::Done)
}

/// All matrices, and each alone.
fn selections() -> Vec<Vec<Matrix>> {
    let single = Matrix::ALL.iter().map(|matrix| vec![*matrix]);
    std::iter::once(Matrix::ALL.to_vec()).chain(single).collect()
}

/// Answers to every prompt, greedy and sampled.
fn sequences(model: &LocalModel, tokens: u32) -> Result<Vec<Sequence>, Fault> {
    let context = model.model.architecture().max_positions;
    let room = context.checked_sub(tokens).filter(|room| *room > 0).ok_or_else(|| {
        Fault::usage(format!("--tokens {tokens} leaves no room for a prompt in a context of {context}: ask for fewer"))
    })?;
    let tokenizer = &model.assets.tokenizer;
    let mut sequences = vec![];
    for (seed, text) in (0..).zip(PROMPTS) {
        let mut prompt = tokenizer.encode(text)?;
        prompt.truncate(room as usize);
        for sampling in [Sampling::GREEDY, Sampling { temperature: 0.8, top_k: 0, top_p: 1.0, seed }] {
            let plan = Generate { prompt: &prompt, sampling, tokenizer, stop: &[], max_tokens: tokens, capture: false };
            let mut answer = generate(&model.model, &plan, &mut |_| std::ops::ControlFlow::Continue(()))?.output;
            // The last token is never fed back.
            answer.pop();
            sequences.push(Sequence { prompt: prompt.len(), tokens: [prompt.as_slice(), &answer].concat() });
        }
    }
    Ok(sequences)
}

/// The rows of a sequence, and the logits after each pass.
fn run_sequence(model: &Arc<Model>, sequence: &Sequence, mode: Mode) -> Result<(Trace, Vec<Vec<f32>>), Fault> {
    let mut session = Session::new(Arc::clone(model), true);
    let tokens = sequence.tokens.as_slice();
    let mut passes = |lengths: &mut dyn Iterator<Item = usize>| {
        let mut rest = tokens;
        let mut logits = vec![];
        for length in lengths {
            let (pass, after) = rest.split_at(length);
            rest = after;
            logits.push(session.prefill(pass)?);
        }
        Ok::<_, Fault>(logits)
    };
    let steps = tokens.len() - sequence.prompt;
    let logits = match mode {
        Mode::Served => passes(&mut std::iter::once(sequence.prompt).chain(std::iter::repeat_n(1, steps))),
        Mode::AtOnce => passes(&mut std::iter::once(tokens.len())),
        Mode::Stepwise => passes(&mut std::iter::repeat_n(1, tokens.len())),
        Mode::OneThread => {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build();
            let pool = pool.map_err(|error| Fault::own(format!("no thread can be started: {error}")))?;
            pool.install(|| session.prefill(tokens).map(|logits| vec![logits])).map_err(Fault::from)
        }
    }?;
    let trace = session.into_trace()?.ok_or_else(|| Fault::own("no trace was kept"))?;
    Ok((trace, logits))
}

fn cheating_model(model: &LocalModel, format: Format, matrices: &[Matrix]) -> Result<Arc<Model>, Fault> {
    let architecture = &model.checkpoint.architecture;
    let tensors = quantize::model(architecture, &model.checkpoint.tensors, format, matrices);
    Ok(Arc::new(Model::new(architecture, &tensors, model.checkpoint.profile)?))
}

/// The margins of all cells of a trace.
fn margins_of(model: &LocalModel, trace: &Trace) -> Result<Vec<Margin>, Fault> {
    let unprovable = |error: &dyn std::fmt::Display| Fault::own(format!("a run cannot be compared: {error}"));
    let lengths = Lengths::new(trace.positions(), 1).ok_or_else(|| unprovable(&"it is empty"))?;
    let everything = Challenge::everything(&model.checkpoint.architecture, lengths);
    margins(&model.committed, trace, &everything).map_err(|error| unprovable(&error))
}

/// How far served logits are from the reference, in units of the slack that a pick is judged with.
fn logit_ratios(model: &LocalModel, trace: &Trace, logits: &[Vec<f32>]) -> Result<Vec<f64>, Fault> {
    let tolerance = Tolerance::of(model.committed.manifest.profile);
    let mut worst = vec![];
    for (position, served) in (0..).zip(logits) {
        let reference = reference_logits(&model.committed, trace, Position::new(position))
            .map_err(|error| Fault::own(format!("logits cannot be compared: {error}")))?;
        let ratios = served.iter().zip(&reference).map(|(served, exact)| {
            (f64::from(*served) - exact).abs() / (tolerance.logit_rel * exact.abs() + tolerance.logit_abs)
        });
        worst.push(ratios.fold(0.0, f64::max));
    }
    Ok(worst)
}
