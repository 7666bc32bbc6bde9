//! What commands that ask a model something have in common.

use assay_audit::prompt::{MAX_PROMPT_BYTES, Message, Prompt};
use assay_audit::sampling::Sampling;
use clap::Args;

use crate::outcome::Fault;

/// What to continue.
#[derive(Debug, Args)]
pub(crate) struct PromptArgs {
    /// What the model is to continue
    #[arg(long, value_name = "TEXT")]
    prompt: String,
    /// Put the prompt into the model's chat template, as a user's message
    #[arg(long)]
    chat: bool,
}

impl PromptArgs {
    pub(crate) fn prompt(&self) -> Result<Prompt, Fault> {
        if self.prompt.len() > MAX_PROMPT_BYTES {
            return Err(Fault::usage(format!("the prompt is longer than {MAX_PROMPT_BYTES} bytes: shorten it")));
        }
        let content = self.prompt.clone();
        Ok(if self.chat {
            Prompt::Chat(vec![Message { role: "user".to_owned(), content }])
        } else {
            Prompt::Text(content)
        })
    }
}

/// How tokens are drawn.
#[derive(Debug, Args)]
pub(crate) struct SamplingArgs {
    /// How freely tokens are drawn; 0 always takes the likeliest
    #[arg(long, value_name = "T", default_value_t = 0.8)]
    temperature: f32,
    /// Draw from the K likeliest tokens; 0 from all
    #[arg(long, value_name = "K", default_value_t = 0)]
    top_k: u32,
    /// Draw from the likeliest tokens that together have probability P
    #[arg(long, value_name = "P", default_value_t = 1.0)]
    top_p: f32,
    /// Repeats a run exactly; at random if it is not given
    #[arg(long, value_name = "S")]
    pub(crate) seed: Option<u64>,
}

impl SamplingArgs {
    pub(crate) fn sampling(&self) -> Result<Sampling, Fault> {
        // A negative zero is a zero to whoever types it.
        let temperature = self.temperature + 0.0;
        let seed = match self.seed {
            Some(seed) => seed,
            None => random()?,
        };
        let sampling = Sampling { temperature, top_k: self.top_k, top_p: self.top_p, seed };
        if sampling.is_valid() {
            Ok(sampling)
        } else {
            let (temperature, top_p) = (self.temperature, self.top_p);
            Err(Fault::usage(format!(
                "--temperature {temperature} --top-p {top_p} is out of range: \
                temperature is 0 or 0.001 to 100, top-p above 0 and at most 1"
            )))
        }
    }
}

fn random() -> Result<u64, Fault> {
    getrandom::u64().map_err(|error| Fault::own(format!("the system gives no random numbers: {error}")))
}

/// 32 bytes from the system, or from a seed that was given.
pub(crate) fn entropy(seed: Option<u64>) -> Result<[u8; 32], Fault> {
    let mut bytes = [0; 32];
    match seed {
        Some(seed) => bytes = blake3::derive_key("assay/command-line-seed/v1", &seed.to_le_bytes()),
        None => getrandom::fill(&mut bytes)
            .map_err(|error| Fault::own(format!("the system gives no random numbers: {error}")))?,
    }
    Ok(bytes)
}
