//! A model that is run, by us and by others: prompts at once, then token by token.

use std::sync::Arc;

use assay_commitments::TokenId;
use assay_commitments::rows::Profile;
use assay_llm_runtime::synthetic::{ComputedWeights, Numbers};
use assay_llm_runtime::{Model, Session};
use candle_core::DType;

use crate::report::{Best, Measurement, Report};
use crate::{DecodeArgs, Failure, peers};

/// Tokens before the steps.
const CONTEXT: u32 = 32;

/// A model with the state of one sequence.
pub(crate) trait Runs {
    /// Forgets the sequence.
    fn restart(&mut self);

    /// Runs tokens from the position `start` on, and gives the logits after the last.
    fn run(&mut self, tokens: &[u32], start: usize) -> Result<Vec<f32>, Failure>;
}

struct Ours {
    model: Arc<Model>,
    session: Session,
}

impl Ours {
    fn new(weights: &ComputedWeights, profile: Profile) -> Result<Self, Failure> {
        let model = Arc::new(Model::load(weights, profile)?);
        Ok(Self { session: Session::new(Arc::clone(&model), false), model })
    }
}

impl Runs for Ours {
    fn restart(&mut self) {
        self.session = Session::new(Arc::clone(&self.model), false);
    }

    fn run(&mut self, tokens: &[u32], _: usize) -> Result<Vec<f32>, Failure> {
        let tokens: Vec<TokenId> = tokens.iter().map(|token| TokenId::new(*token)).collect();
        Ok(self.session.prefill(&tokens)?)
    }
}

/// One of those that take turns.
struct Entrant {
    name: &'static str,
    model: Box<dyn Runs>,
    /// Of every step.
    steps: Vec<Best>,
    /// Of every prompt.
    prompts: Vec<Best>,
}

/// All take turns in every round; of each step and each prompt, the best round counts.
pub(crate) fn measure(args: &DecodeArgs) -> Result<Report, Failure> {
    // Candle's products run on the global pool, whatever pool they are called from.
    rayon::ThreadPoolBuilder::new().num_threads(args.threads).build_global()?;
    let numbers = Numbers { layers: args.layers, ..Numbers::QWEN3_0_6B };
    let weights = ComputedWeights::new(&numbers, 1);
    let models: [(_, Box<dyn Runs>); 4] = [
        ("ours bf16-1", Box::new(Ours::new(&weights, Profile::Bf16V1)?)),
        ("ours f32-1", Box::new(Ours::new(&weights, Profile::F32V1)?)),
        ("candle f32", Box::new(peers::candle::model(&weights, DType::F32)?)),
        ("candle bf16", Box::new(peers::candle::model(&weights, DType::BF16)?)),
    ];
    let mut entrants = models.map(|(name, model)| Entrant {
        name,
        model,
        steps: vec![Best::default(); args.steps],
        prompts: vec![Best::default(); args.prompts.len()],
    });
    for _ in 0..args.common.repeat.max(1) {
        for entrant in &mut entrants {
            entrant.model.restart();
            entrant.model.run(&tokens(&numbers, CONTEXT), 0)?;
            for (step, start) in entrant.steps.iter_mut().zip(CONTEXT as usize..) {
                step.run(|| entrant.model.run(&[5], start))?;
            }
        }
        for (number, length) in args.prompts.iter().enumerate() {
            let prompt = tokens(&numbers, *length);
            for entrant in &mut entrants {
                entrant.model.restart();
                entrant.prompts[number].run(|| entrant.model.run(&prompt, 0))?;
            }
        }
    }
    let mut measurements = entrants.into_iter().map(|entrant| entrant.measurement(args));
    let ours = measurements.next().ok_or("nothing was run")?.fact("layers", args.layers);
    Ok(Report::new(ours, measurements.collect()))
}

impl Entrant {
    #[expect(clippy::cast_precision_loss, reason = "a handful")]
    fn measurement(self, args: &DecodeArgs) -> Measurement {
        let step = self.steps.iter().map(|best| best.seconds().wall).sum::<f64>() / self.steps.len().max(1) as f64;
        let mut measurement =
            Measurement::new(self.name).figure("decode_ms", 1e3 * step).fact("decode_tokens_per_second", 1.0 / step);
        for (length, best) in args.prompts.iter().zip(self.prompts) {
            let seconds = best.seconds();
            measurement = measurement
                .time(&format!("prefill_{length}"), "ms", 1e3, seconds)
                .fact(format!("prefill_{length}_tokens_per_second"), f64::from(*length) / seconds.wall);
        }
        measurement
    }
}

fn tokens(numbers: &Numbers, count: u32) -> Vec<u32> {
    (0..count).map(|index| index * 37 % numbers.vocab_size).collect()
}
