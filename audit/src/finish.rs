//! When an answer ends: one rule for the runtime that stops and the verifier that checks it.

use assay_commitments::TokenId;
use assay_commitments::manifest::Architecture;
use assay_commitments::trace::FinishReason;

use crate::num::index;
use crate::prompt::Tokenizer;

/// What ends an answer.
#[derive(Clone, Copy, Debug)]
pub struct FinishRule<'a> {
    /// Turns tokens into the text in which stop strings are looked for.
    pub tokenizer: &'a Tokenizer,
    /// Names the stop tokens and the context length.
    pub architecture: &'a Architecture,
    /// Strings whose appearance ends the answer.
    pub stop: &'a [String],
    /// Most output tokens.
    pub max_tokens: u32,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
}

impl FinishRule<'_> {
    /// Whether an answer ends with its last token, and why; to be asked after every token. A stop
    /// token counts before a stop string, and that before the length.
    pub fn finish(&self, output: &[TokenId]) -> Option<FinishReason> {
        let last = output.last()?;
        if self.architecture.stop_tokens.binary_search(last).is_ok() {
            return Some(FinishReason::StopToken);
        }
        if !self.stop.is_empty() {
            let text = self.tokenizer.decode(output);
            if self.stop.iter().any(|stop| text.contains(stop.as_str())) {
                return Some(FinishReason::StopString);
            }
        }
        let context = index(self.architecture.max_positions);
        let full = output.len() >= index(self.max_tokens) || self.prompt_tokens.saturating_add(output.len()) >= context;
        full.then_some(FinishReason::Length)
    }
}
