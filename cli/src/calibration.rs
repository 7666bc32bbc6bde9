//! How far honest runs and cheats are from the thresholds of a profile, on this machine.
//!
//! Cells of every run are compared with the reference, with the weights at hand and so without the noise
//! of a sketch. A ratio of 1 is the threshold: honest runs must stay well below, cheats should be well
//! above. `assay calibrate` prints what is found here.

mod cheats;
mod figures;

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use assay_audit::challenge::{Challenge, Lengths};
use assay_audit::measure::{Reference, margins, reference_logits};
use assay_audit::prompt::Tokenizer;
use assay_audit::sampling::Sampling;
use assay_audit::tolerance::Tolerance;
use assay_audit::verdict::Margin;
use assay_commitments::manifest::Architecture;
use assay_commitments::rows::Profile;
use assay_commitments::trace::{Trace, TraceRows};
use assay_commitments::{Position, SessionId, TokenId};
use assay_llm_runtime::{
    Checkpoint, Description, Device, Engine, EngineLimits, Generate, Job, Model, Session, SubmitError, generate,
};

pub use cheats::Cheat;
pub use figures::{Band, Calibration, CheatFigures, HonestFigures, LOGITS, ModeFigures, Spread, theta};

use crate::outcome::Fault;
use figures::HonestRuns;

/// A model to calibrate, without commitments, which margins do not need.
#[derive(Debug)]
pub struct Subject {
    /// As it was read.
    pub checkpoint: Checkpoint,
    /// As it runs.
    pub model: Arc<Model>,
    /// As it is audited.
    reference: Reference,
    tokenizer: Arc<Tokenizer>,
}

impl Subject {
    /// Reads a folder, to be served in `profile` or in its natural one.
    ///
    /// # Errors
    /// A folder that is no model, or not one of that profile.
    pub fn load(folder: &Path, profile: Option<Profile>) -> Result<Self, Fault> {
        let profile = Description::read(folder)?.profile(profile)?;
        Self::of(Checkpoint::load(folder, profile)?)
    }

    /// Takes a model that was read or made.
    ///
    /// # Errors
    /// Weights that cannot be run or audited.
    pub fn of(checkpoint: Checkpoint) -> Result<Self, Fault> {
        let Checkpoint { architecture, tensors, profile, .. } = &checkpoint;
        Ok(Self {
            reference: Reference::new(architecture, tensors, *profile)?,
            model: Arc::new(Model::new(architecture, tensors, *profile)?),
            tokenizer: Arc::new(Tokenizer::from_bytes(&checkpoint.tokenizer)?),
            checkpoint,
        })
    }

    /// The same subject, run on a device.
    ///
    /// # Errors
    /// No room on it.
    pub fn on(self, device: &Device) -> Result<Self, Fault> {
        Ok(Self { model: Arc::new(self.model.on(device)?), ..self })
    }

    const fn architecture(&self) -> &Architecture {
        &self.checkpoint.architecture
    }
}

/// What to measure.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Tokens that every honest run generates.
    pub tokens: u32,
    /// Prompts to begin with, at most [`PROMPTS`].
    pub prompts: usize,
    /// Most cells of a run that are compared, spread over layers and positions.
    pub cells: usize,
    /// The cheats.
    pub cheats: Vec<Cheat>,
}

impl Plan {
    /// Everything, for a model: all prompts, all cheats.
    pub fn full(subject: &Subject, tokens: u32, cells: usize) -> Self {
        Self { tokens, prompts: PROMPTS, cells, cheats: Cheat::all(&subject.checkpoint) }
    }
}

/// How many prompts there are.
pub const PROMPTS: usize = TEXTS.len();

/// Texts of several kinds and lengths.
const TEXTS: [&str; 4] = [
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
    /// So many tokens at a time.
    Chunks(usize),
    /// All tokens at once, on one thread.
    OneThread,
}

impl Mode {
    const ALL: [Self; 6] =
        [Self::Served, Self::AtOnce, Self::Stepwise, Self::Chunks(5), Self::Chunks(16), Self::OneThread];

    fn name(self) -> String {
        match self {
            Self::Served => "prompt at once, then stepwise".to_owned(),
            Self::AtOnce => "all at once".to_owned(),
            Self::Stepwise => "all stepwise".to_owned(),
            Self::Chunks(size) => format!("in chunks of {size}"),
            Self::OneThread => "all at once, one thread".to_owned(),
        }
    }

    /// The lengths of the passes over a sequence.
    fn passes(self, sequence: &Sequence) -> Vec<usize> {
        let total = sequence.tokens.len();
        match self {
            Self::Served => [vec![sequence.prompt], vec![1; total - sequence.prompt]].concat(),
            Self::AtOnce | Self::OneThread => vec![total],
            Self::Stepwise => vec![1; total],
            Self::Chunks(size) => (0..total).step_by(size).map(|start| size.min(total - start)).collect(),
        }
    }
}

/// A prompt and an answer to it.
struct Sequence {
    prompt: usize,
    /// The prompt and what was fed back of the answer.
    tokens: Vec<TokenId>,
    /// How the answer was sampled.
    sampling: Sampling,
}

/// Runs and compares all that the plan asks for. `progress` is told of each run done, out of all.
///
/// # Errors
/// A plan that does not fit the model's context, or a run that fails.
pub fn measure(subject: &Subject, plan: &Plan, progress: &mut dyn FnMut(usize, usize)) -> Result<Calibration, Fault> {
    let begin = Instant::now();
    let sequences = sequences(subject, plan)?;
    let total = sequences.len() * (Mode::ALL.len() + 1) + plan.cheats.len();
    let mut done = 0;
    let mut step = || {
        done += 1;
        progress(done, total);
    };

    let mut honest = HonestRuns::default();
    let batched = run_batch(subject, &sequences, plan.tokens)?;
    for (sequence, batched) in sequences.iter().zip(batched) {
        let (trace, _) = run_sequence(&subject.model, sequence, Mode::Served)?;
        let served = margins_of(subject, &trace, None, plan.cells)?;
        let served_rows = digest(&trace);
        honest.add(&Mode::Served.name(), true, &served);
        step();
        let mut add = |mode: &str, trace: &Trace| {
            // Equal rows have equal margins.
            let is_same = digest(trace) == served_rows;
            let own = if is_same { None } else { Some(margins_of(subject, trace, None, plan.cells)?) };
            honest.add(mode, !is_same, own.as_ref().unwrap_or(&served));
            Ok::<_, Fault>(())
        };
        add("batched with the others", &batched)?;
        step();
        let mut logits = vec![];
        for mode in Mode::ALL.into_iter().filter(|mode| *mode != Mode::Served) {
            let (trace, after) = run_sequence(&subject.model, sequence, mode)?;
            add(&mode.name(), &trace)?;
            if mode == Mode::Stepwise {
                logits = logit_ratios(subject, &trace, &after, plan.cells)?;
            }
            step();
        }
        honest.add_logits(&logits);
    }
    // Cheats need fewer runs: what they change, they change in every cell.
    let probed: Vec<&Sequence> = sequences.iter().take(2).chain(sequences.iter().skip(2).last()).collect();
    let mut cheats = vec![];
    for cheat in &plan.cheats {
        let cheating = cheat.model(subject)?;
        let mut all = vec![];
        for sequence in &probed {
            let (trace, _) = run_sequence(&cheating, sequence, Mode::AtOnce)?;
            all.extend(margins_of(subject, &trace, cheat.layer(), plan.cells)?);
        }
        cheats.push(CheatFigures::new(cheat, &all));
        step();
    }
    let of = figures::Circumstances {
        profile: subject.checkpoint.profile,
        device: subject.model.device().name(),
        tokens: plan.tokens,
        sequences: sequences.len(),
        seconds: begin.elapsed().as_secs_f64(),
    };
    Ok(Calibration::new(&of, honest, cheats))
}

/// Answers to every prompt, greedy and sampled.
fn sequences(subject: &Subject, plan: &Plan) -> Result<Vec<Sequence>, Fault> {
    let (context, tokens) = (subject.architecture().max_positions, plan.tokens);
    let room = context.checked_sub(tokens).filter(|room| *room > 0).ok_or_else(|| {
        Fault::usage(format!("--tokens {tokens} leaves no room for a prompt in a context of {context}: ask for fewer"))
    })?;
    let tokenizer = &subject.tokenizer;
    let mut sequences = vec![];
    for (seed, text) in (0..).zip(TEXTS.iter().take(plan.prompts)) {
        let mut prompt = tokenizer.encode(text)?;
        prompt.truncate(room as usize);
        for sampling in [Sampling::GREEDY, Sampling { temperature: 0.8, top_k: 0, top_p: 1.0, seed }] {
            let plan = Generate { prompt: &prompt, sampling, tokenizer, stop: &[], max_tokens: tokens, capture: false };
            let mut answer = generate(&subject.model, &plan, &mut |_| std::ops::ControlFlow::Continue(()))?.output;
            // The last token is never fed back.
            answer.pop();
            let tokens = [prompt.as_slice(), &answer].concat();
            sequences.push(Sequence { prompt: prompt.len(), tokens, sampling });
        }
    }
    Ok(sequences)
}

/// The rows of a sequence, and the logits after each pass.
fn run_sequence(model: &Arc<Model>, sequence: &Sequence, mode: Mode) -> Result<(Trace, Vec<Vec<f32>>), Fault> {
    let run = || {
        let mut session = Session::new(Arc::clone(model), true);
        let mut rest = sequence.tokens.as_slice();
        let mut logits = vec![];
        for length in mode.passes(sequence) {
            let (pass, after) = rest.split_at(length);
            rest = after;
            logits.push(session.prefill(pass)?);
        }
        let trace = session.into_trace()?.ok_or_else(|| Fault::own("no trace was kept"))?;
        Ok((trace, logits))
    };
    if mode == Mode::OneThread {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build();
        pool.map_err(|error| Fault::own(format!("no thread can be started: {error}")))?.install(run)
    } else {
        run()
    }
}

/// The rows of all sequences, answered at once by an engine that mixes short pieces of prompts with steps.
fn run_batch(subject: &Subject, sequences: &[Sequence], tokens: u32) -> Result<Vec<Trace>, Fault> {
    let engine = Engine::start(Arc::clone(&subject.model), EngineLimits { chunk: 7, ..EngineLimits::default() });
    let submit = |sequence: &Sequence| {
        let job = Job {
            owner: [0; 32],
            prompt: sequence.tokens[..sequence.prompt].to_vec(),
            sampling: sequence.sampling,
            tokenizer: Arc::clone(&subject.tokenizer),
            stop: vec![],
            max_tokens: tokens,
            capture: true,
        };
        engine.submit(job).map_err(|error| match error {
            SubmitError::Refused(error) => error.into(),
            SubmitError::Busy => Fault::own(error.to_string()),
        })
    };
    let answers = sequences.iter().map(submit).collect::<Result<Vec<_>, Fault>>()?;
    let trace =
        |answer: assay_llm_runtime::Answer| answer.complete()?.trace.ok_or_else(|| Fault::own("no trace was kept"));
    answers.into_iter().map(trace).collect()
}

/// Stands for all rows of a trace.
fn digest(trace: &Trace) -> Vec<[u8; 32]> {
    trace.commit(&SessionId::new([0; 32]), trace.positions()).roots()
}

/// The margins of the cells of a trace, of one layer or of all.
fn margins_of(subject: &Subject, trace: &Trace, layer: Option<u32>, most: usize) -> Result<Vec<Margin>, Fault> {
    let unprovable = |error: &dyn std::fmt::Display| Fault::own(format!("a run cannot be compared: {error}"));
    let lengths = Lengths::new(trace.positions(), 1).ok_or_else(|| unprovable(&"it is empty"))?;
    let mut asked = Challenge::everything(subject.architecture(), lengths);
    asked.cells.retain(|cell| layer.is_none_or(|layer| cell.layer.get() == layer));
    let step = step(asked.cells.len(), most, trace.positions());
    asked.cells = asked.cells.into_iter().step_by(step).collect();
    margins(&subject.reference, trace, &asked).map_err(|error| unprovable(&error))
}

/// The least step that leaves at most `most` of `count` cells, which lie position by position, and meets all
/// positions.
fn step(count: usize, most: usize, positions: usize) -> usize {
    const fn common_divisor(a: usize, b: usize) -> usize {
        if b == 0 { a } else { common_divisor(b, a % b) }
    }
    let mut step = count.div_ceil(most.max(1)).max(1);
    while common_divisor(step, positions) != 1 {
        step += 1;
    }
    step
}

/// How far served logits are from the reference, in units of the slack that a pick is judged with.
fn logit_ratios(subject: &Subject, trace: &Trace, logits: &[Vec<f32>], most: usize) -> Result<Vec<f64>, Fault> {
    let tolerance = Tolerance::of(subject.checkpoint.profile);
    let mut worst = vec![];
    for (position, served) in (0..).zip(logits).step_by(step(logits.len(), most, 1)) {
        let reference = reference_logits(&subject.reference, trace, Position::new(position))
            .map_err(|error| Fault::own(format!("logits cannot be compared: {error}")))?;
        let ratios = served.iter().zip(&reference).map(|(served, exact)| {
            (f64::from(*served) - exact).abs() / (tolerance.logit_rel * exact.abs() + tolerance.logit_abs)
        });
        worst.push(ratios.fold(0.0, f64::max));
    }
    Ok(worst)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_of_cells_meets_every_position_and_layer() {
        for (layers, positions, most) in [(4, 60, 50), (28, 30, 200), (2, 7, 100), (3, 1, 2)] {
            let step = step(layers * positions, most, positions);
            let cells: Vec<usize> = (0..layers * positions).step_by(step).collect();
            assert!(cells.len() <= most, "{step}");
            let met = |of: &dyn Fn(usize) -> usize| {
                cells.iter().map(|cell| of(*cell)).collect::<std::collections::BTreeSet<_>>().len()
            };
            assert_eq!(met(&|cell| cell / positions), layers.min(most), "{step}");
            assert_eq!(met(&|cell| cell % positions), positions.min(cells.len()), "{step}");
        }
    }

    #[test]
    fn passes_cover_a_sequence() {
        let sequence = Sequence { prompt: 7, tokens: vec![TokenId::new(0); 18], sampling: Sampling::GREEDY };
        for mode in Mode::ALL {
            assert_eq!(mode.passes(&sequence).iter().sum::<usize>(), 18, "{mode:?}");
        }
        assert_eq!(Mode::Served.passes(&sequence)[..2], [7, 1]);
        assert_eq!(Mode::Chunks(16).passes(&sequence), [16, 2]);
    }
}
