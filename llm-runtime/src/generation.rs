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

impl Generate<'_> {
    /// Refuses what this model cannot answer.
    ///
    /// # Errors
    /// [`RunError::Sampling`], [`RunError::EmptyPrompt`], [`RunError::UnknownToken`],
    /// [`RunError::ContextFull`].
    pub(crate) fn check(&self, model: &Model) -> Result<(), RunError> {
        if self.sampling.is_valid() { model.check(self.prompt, 0) } else { Err(RunError::Sampling) }
    }

    /// Most positions that are run: the last token of an answer is not fed back.
    pub(crate) fn most_positions(&self, model: &Model) -> usize {
        let fed_back = self.max_tokens.saturating_sub(1) as usize;
        self.prompt.len().saturating_add(fed_back).min(model.architecture().max_positions as usize)
    }

    /// Picks the token after the prompt and `output`, whose logits these are, and adds it to the output.
    /// Says why the answer ends with it, if it does.
    pub(crate) fn pick(&self, model: &Model, logits: &[f32], output: &mut Vec<TokenId>) -> Option<FinishReason> {
        let position = u32::try_from(self.prompt.len() + output.len() - 1).unwrap_or(u32::MAX);
        output.push(sample(logits, &self.sampling, Position::new(position)));
        let rule = FinishRule {
            tokenizer: self.tokenizer,
            architecture: model.architecture(),
            stop: self.stop,
            max_tokens: self.max_tokens,
            prompt_tokens: self.prompt.len(),
        };
        rule.finish(output)
    }
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
    request.check(model)?;
    let mut session = Session::new(Arc::clone(model), request.capture);
    let begin = Instant::now();
    let mut logits = session.prefill(request.prompt)?;
    let prefill_seconds = begin.elapsed().as_secs_f64();

    let begin = Instant::now();
    let mut output = Vec::new();
    let finish = loop {
        let finish = request.pick(model, &logits, &mut output);
        let token = output[output.len() - 1];
        if on_token(token).is_break() || finish.is_some() {
            break finish;
        }
        logits = session.step(token)?;
    };
    let decode_seconds = begin.elapsed().as_secs_f64();
    Ok(Generation { output, finish, trace: session.into_trace()?, prefill_seconds, decode_seconds })
}
