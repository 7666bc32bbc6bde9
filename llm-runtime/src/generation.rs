//! From a prompt to an answer.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use assay_audit::finish::FinishRule;
use assay_audit::prompt::Tokenizer;
use assay_audit::sampling::{Sampling, sample};
use assay_commitments::trace::{FinishReason, Trace};
use assay_commitments::{Position, TokenId};

use crate::error::RunError;
use crate::model::Model;
use crate::session::Session;

/// What to generate.
#[derive(Clone, Copy, Debug)]
pub struct Generate<'a> {
    /// The prompt.
    pub prompt: &'a [TokenId],
    /// How each token is picked.
    pub sampling: Sampling,
    /// Turns tokens into the text in which `stop` is looked for.
    pub tokenizer: &'a Tokenizer,
    /// Strings whose appearance ends the answer.
    pub stop: &'a [String],
    /// Most output tokens. An answer has at least one.
    pub max_tokens: u32,
    /// Whether to keep the rows that an audit may ask about.
    pub capture: bool,
}

/// An answer.
#[derive(Debug)]
pub struct Generation {
    /// The output tokens; a stop token is the last of them.
    pub output: Vec<TokenId>,
    /// Why the answer ended; `None` when the caller broke it off before its end.
    pub finish: Option<FinishReason>,
    /// The rows of all prompt tokens and of all output tokens but the last, if asked for.
    pub trace: Option<Trace>,
    /// Time to the logits of the first token, in seconds.
    pub prefill_seconds: f64,
    /// Time from there to the end, in seconds.
    pub decode_seconds: f64,
}

/// Generates an answer token by token. `on_token` gets each as soon as it is picked and may break off.
///
/// # Errors
/// [`RunError`]; the prompt and the sampling parameters are checked before anything is run.
pub fn generate(
    model: &Arc<Model>,
    request: &Generate<'_>,
    on_token: &mut dyn FnMut(TokenId) -> ControlFlow<()>,
) -> Result<Generation, RunError> {
    if !request.sampling.is_valid() {
        return Err(RunError::Sampling);
    }
    let rule = FinishRule {
        tokenizer: request.tokenizer,
        architecture: model.architecture(),
        stop: request.stop,
        max_tokens: request.max_tokens,
        prompt_tokens: request.prompt.len(),
    };
    let mut session = Session::new(Arc::clone(model), request.capture);
    let begin = Instant::now();
    let mut logits = session.prefill(request.prompt)?;
    let prefill_seconds = begin.elapsed().as_secs_f64();

    let begin = Instant::now();
    let mut output = Vec::new();
    let finish = loop {
        let token = sample(&logits, &request.sampling, last_position(&session));
        output.push(token);
        let broken_off = on_token(token).is_break();
        let finish = rule.finish(&output);
        if broken_off || finish.is_some() {
            break finish;
        }
        logits = session.step(token)?;
    };
    let decode_seconds = begin.elapsed().as_secs_f64();
    Ok(Generation { output, finish, trace: session.into_trace(), prefill_seconds, decode_seconds })
}

/// The position whose row made the newest logits.
fn last_position(session: &Session) -> Position {
    let last = u32::try_from(session.positions() - 1).expect("a context has fewer than 2^20 positions");
    Position::new(last)
}
