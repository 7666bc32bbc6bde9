//! Who takes part in the demo: honest miners of different speed, and one for every way to cheat that a
//! subnet sees. Cheats are built by composition around the honest backend; nothing of them is in the
//! miner itself.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use assay_audit::challenge::Nonce;
use assay_audit::model::ModelTensors;
use assay_audit::prompt::Prompt;
use assay_audit::request::Request;
use assay_audit::sampling::Sampling;
use assay_commitments::TokenId;
use assay_commitments::codec;
use assay_commitments::manifest::Matrix;
use assay_commitments::trace::{TraceCommitment, TraceRows};
use assay_llm_runtime::quantize::{self, Format};
use assay_llm_runtime::{Engine, EngineLimits, Model, RunError, finetune};
use assay_miner::{Backend, HonestBackend, ProveError, ServeError, Served};

use crate::local::LocalModel;

/// What a miner of the demo does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behaviour {
    /// Serves as it should, with a pause after each token.
    Honest {
        /// The pause.
        pause: Duration,
    },
    /// Serves int8 weights.
    Int8Weights,
    /// Serves a slightly fine-tuned model.
    FineTuned,
    /// Leaves the branches of a layer out.
    SkipsLayer,
    /// Attends to the last few positions only.
    ShortWindow,
    /// Leaves the system message out of the prompt.
    DropsSystemPrompt,
    /// Takes the likeliest token whatever the request says.
    GreedySampler,
    /// Sends zeros for a proof.
    ZeroProof,
    /// Says nothing when it is challenged.
    FallsSilent,
    /// Answers a prompt it has seen with the answer it gave then.
    Replays,
    /// Serves int8 weights in the first epoch and honestly from then on.
    Reforms,
}

/// A miner of the demo.
#[derive(Clone, Copy, Debug)]
pub struct Role {
    /// Its name in the table.
    pub name: &'static str,
    /// What it does.
    pub behaviour: Behaviour,
}

/// Everybody, in the order of the table.
pub const CAST: &[Role] = &[
    Role { name: "swift", behaviour: Behaviour::Honest { pause: Duration::ZERO } },
    Role { name: "steady", behaviour: Behaviour::Honest { pause: Duration::from_millis(4) } },
    Role { name: "slow", behaviour: Behaviour::Honest { pause: Duration::from_millis(15) } },
    Role { name: "quantizer", behaviour: Behaviour::Int8Weights },
    Role { name: "tuner", behaviour: Behaviour::FineTuned },
    Role { name: "skipper", behaviour: Behaviour::SkipsLayer },
    Role { name: "myopic", behaviour: Behaviour::ShortWindow },
    Role { name: "forgetful", behaviour: Behaviour::DropsSystemPrompt },
    Role { name: "greedy", behaviour: Behaviour::GreedySampler },
    Role { name: "hollow", behaviour: Behaviour::ZeroProof },
    Role { name: "mute", behaviour: Behaviour::FallsSilent },
    Role { name: "parrot", behaviour: Behaviour::Replays },
    Role { name: "penitent", behaviour: Behaviour::Reforms },
];

impl Behaviour {
    /// The name that scripts see.
    pub const fn slug(self) -> &'static str {
        match self {
            Self::Honest { .. } => "honest",
            Self::Int8Weights => "int8_weights",
            Self::FineTuned => "fine_tuned",
            Self::SkipsLayer => "skips_layer",
            Self::ShortWindow => "short_window",
            Self::DropsSystemPrompt => "drops_system_prompt",
            Self::GreedySampler => "greedy_sampler",
            Self::ZeroProof => "zero_proof",
            Self::FallsSilent => "falls_silent",
            Self::Replays => "replays",
            Self::Reforms => "reforms",
        }
    }

    /// What it does, for people.
    pub const fn describe(self) -> &'static str {
        match self {
            Self::Honest { .. } => "honest",
            Self::Int8Weights => "serves int8 weights",
            Self::FineTuned => "serves a fine-tuned model",
            Self::SkipsLayer => "skips a layer",
            Self::ShortWindow => "truncates attention",
            Self::DropsSystemPrompt => "drops the system prompt",
            Self::GreedySampler => "samples greedily",
            Self::ZeroProof => "sends an all-zero proof",
            Self::FallsSilent => "falls silent when challenged",
            Self::Replays => "replays stored responses",
            Self::Reforms => "cheats once, then reforms",
        }
    }

    /// Whether it never cheats.
    pub const fn is_honest(self) -> bool {
        matches!(self, Self::Honest { .. })
    }
}

/// A perturbation that changes no word a reader would notice.
const FINE_TUNING: f32 = 0.02;
/// Positions that the short-sighted miner attends to.
const WINDOW: usize = 6;
/// The layer that is left out.
const SKIPPED_LAYER: usize = 1;

/// The models that the cast runs; miners with the same weights share one.
#[derive(Debug)]
pub struct Models {
    honest: HonestBackend,
    int8: HonestBackend,
    tuned: HonestBackend,
    skipping: HonestBackend,
    short_window: HonestBackend,
}

impl Models {
    /// Makes every model of the cast from the weights of the honest one.
    ///
    /// # Errors
    /// [`RunError`], which a model that loads does not give.
    pub fn new(local: &LocalModel, tensors: &ModelTensors) -> Result<Self, RunError> {
        let architecture = local.model.architecture();
        let honest = local.backend();
        let serving = |model: Model| {
            let engine = Engine::start(Arc::new(model), EngineLimits::default());
            HonestBackend { engine: Arc::new(engine), ..honest.clone() }
        };
        let run = |tensors: &ModelTensors| Model::new(architecture, tensors, local.model.profile()).map(serving);
        let mut skipping = tensors.clone();
        if let Some(layer) = skipping.layers.get_mut(SKIPPED_LAYER) {
            layer.matrices[Matrix::O.index()].fill(0.0);
            layer.matrices[Matrix::Down.index()].fill(0.0);
        }
        Ok(Self {
            int8: run(&quantize::model(architecture, tensors, Format::Int8Channel, &Matrix::ALL))?,
            tuned: run(&finetune::perturbed(tensors, FINE_TUNING, 1))?,
            skipping: run(&skipping)?,
            short_window: serving(local.model.with_window(WINDOW)),
            honest: honest.clone(),
        })
    }

    /// The backend of a miner that behaves so. `epoch` counts the epochs of the demo.
    pub fn backend(&self, behaviour: Behaviour, epoch: &Arc<AtomicU64>) -> Player {
        let serving = match behaviour {
            Behaviour::Int8Weights | Behaviour::Reforms => &self.int8,
            Behaviour::FineTuned => &self.tuned,
            Behaviour::SkipsLayer => &self.skipping,
            Behaviour::ShortWindow => &self.short_window,
            Behaviour::Honest { .. }
            | Behaviour::DropsSystemPrompt
            | Behaviour::GreedySampler
            | Behaviour::ZeroProof
            | Behaviour::FallsSilent
            | Behaviour::Replays => &self.honest,
        };
        let (honest, serving) = (self.honest.clone(), serving.clone());
        Player { behaviour, honest, serving, stored: Mutex::default(), epoch: Arc::clone(epoch) }
    }
}

/// A miner's backend in the demo.
#[derive(Debug)]
pub struct Player {
    behaviour: Behaviour,
    honest: HonestBackend,
    serving: HonestBackend,
    stored: Mutex<HashMap<Vec<u8>, Served>>,
    epoch: Arc<AtomicU64>,
}

impl Player {
    /// The backend that runs in this epoch.
    fn current(&self) -> &HonestBackend {
        let reformed = self.behaviour == Behaviour::Reforms && self.epoch.load(Ordering::Relaxed) > 0;
        if reformed { &self.honest } else { &self.serving }
    }

    /// Serves a request that is not quite the one that came.
    fn serve_changed(
        &self,
        request: &Request,
        on_token: &mut dyn FnMut(TokenId) -> ControlFlow<()>,
        change: impl FnOnce(&mut Request),
    ) -> Result<Served, ServeError> {
        let mut changed = request.clone();
        change(&mut changed);
        self.serving.serve(&changed, on_token)
    }

    fn replay(
        &self,
        request: &Request,
        on_token: &mut dyn FnMut(TokenId) -> ControlFlow<()>,
    ) -> Result<Served, ServeError> {
        let prompt = codec::encode(&request.prompt);
        let known = self.stored.lock().unwrap_or_else(PoisonError::into_inner).get(&prompt).cloned();
        if let Some(served) = known {
            for token in &served.output {
                if on_token(*token).is_break() {
                    return Err(ServeError::Cancelled);
                }
            }
            return Ok(served);
        }
        let served = self.serving.serve(request, on_token)?;
        self.stored.lock().unwrap_or_else(PoisonError::into_inner).insert(prompt, served.clone());
        Ok(served)
    }
}

fn without_system(prompt: &mut Prompt) {
    if let Prompt::Chat(messages) = prompt {
        messages.retain(|message| message.role != "system");
    }
}

impl Backend for Player {
    fn serve(
        &self,
        request: &Request,
        on_token: &mut dyn FnMut(TokenId) -> ControlFlow<()>,
    ) -> Result<Served, ServeError> {
        match self.behaviour {
            Behaviour::Honest { pause } => self.serving.serve(request, &mut |token| {
                let flow = on_token(token);
                std::thread::sleep(pause);
                flow
            }),
            Behaviour::DropsSystemPrompt => {
                self.serve_changed(request, on_token, |request| without_system(&mut request.prompt))
            }
            Behaviour::GreedySampler => {
                self.serve_changed(request, on_token, |request| request.sampling = Sampling::GREEDY)
            }
            Behaviour::Replays => self.replay(request, on_token),
            Behaviour::Int8Weights
            | Behaviour::FineTuned
            | Behaviour::SkipsLayer
            | Behaviour::ShortWindow
            | Behaviour::ZeroProof
            | Behaviour::FallsSilent
            | Behaviour::Reforms => self.current().serve(request, on_token),
        }
    }

    fn prove(
        &self,
        request: &Request,
        commitment: &TraceCommitment,
        trace: &dyn TraceRows,
        nonce: Option<&Nonce>,
    ) -> Result<Vec<u8>, ProveError> {
        let honestly = || self.honest.prove(request, commitment, trace, nonce);
        match self.behaviour {
            Behaviour::ZeroProof => honestly().map(|proof| vec![0; proof.len()]),
            Behaviour::FallsSilent => {
                // Longer than the deadline: the validator hears nothing.
                let deadline = u64::from(request.deadlines.proof_ms);
                std::thread::sleep(Duration::from_millis(deadline + deadline / 4));
                Err(ProveError("a silent miner has nothing to say".to_owned()))
            }
            Behaviour::Honest { .. }
            | Behaviour::Int8Weights
            | Behaviour::FineTuned
            | Behaviour::SkipsLayer
            | Behaviour::ShortWindow
            | Behaviour::DropsSystemPrompt
            | Behaviour::GreedySampler
            | Behaviour::Replays
            | Behaviour::Reforms => honestly(),
        }
    }
}
