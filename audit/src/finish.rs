//! When an answer ends: one rule for the runtime that stops and the verifier that checks it.
//!
//! **Stop strings.** After every token, a window of the last tokens is decoded on its own, special
//! tokens left out, and the answer ends if a stop string is in that text. The window has as many tokens
//! as the longest stop string has bytes, and [`WINDOW_SLACK`] more. This is the definition, not an
//! approximation of one: runtime and verifier both ask [`FinishRule::finish`], which looks at nothing
//! but the window, so they agree on every answer, and a whole answer is checked in time linear in its
//! length, where decoding it anew after every token would take quadratic time.
//!
//! What the definition means for users: a token that shows has at least one byte, so a stop string is
//! found when its last token comes unless more than [`WINDOW_SLACK`] tokens without text stand among
//! its own. A window may begin within a character that spans tokens, or with a space that a decoder
//! strips at the start of a text: the slack keeps such an edge clear of the stop string, which then
//! lies at the window's end.

use assay_commitments::TokenId;
use assay_commitments::manifest::Architecture;
use assay_commitments::trace::FinishReason;

use crate::num::{index, long};
use crate::prompt::Tokenizer;

/// Tokens of the window beyond the bytes of the longest stop string.
pub const WINDOW_SLACK: usize = 8;

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

/// Most output tokens of an answer: as many as were asked for, or as the context has room for.
pub(crate) fn most_tokens(max_tokens: u32, architecture: &Architecture, prompt_tokens: usize) -> usize {
    index(max_tokens).min(index(architecture.max_positions).saturating_sub(prompt_tokens))
}

/// Most bytes that are looked at while a whole answer is searched for stop strings: seconds of work, which a validator
/// does before it settles.
const MAX_SEARCHED_BYTES: u64 = 1 << 31;

impl FinishRule<'_> {
    /// Most output tokens of an answer that ends by this rule.
    pub(crate) fn most_tokens(&self) -> usize {
        most_tokens(self.max_tokens, self.architecture, self.prompt_tokens)
    }

    /// Tokens of the window in which stop strings are looked for; none without any.
    fn window(&self) -> Option<usize> {
        let longest = self.stop.iter().map(String::len).max()?;
        Some(longest.saturating_add(WINDOW_SLACK))
    }

    /// Whether the longest answer can be checked in bounded time. It follows from the request and the model alone, so
    /// that whoever answers has no part in it.
    pub(crate) fn is_bounded(&self) -> bool {
        let Some(window) = self.window() else { return true };
        let (bytes, passes) = self.tokenizer.most_decoded(window);
        let looks = passes.saturating_add(long(self.stop.len()));
        bytes.saturating_mul(looks).saturating_mul(long(self.most_tokens())) <= MAX_SEARCHED_BYTES
    }

    /// Whether an answer ends with its last token, and why; to be asked after every token. A stop
    /// token counts before a stop string, and that before the length.
    pub fn finish(&self, output: &[TokenId]) -> Option<FinishReason> {
        let last = output.last()?;
        if self.architecture.stop_tokens.binary_search(last).is_ok() {
            return Some(FinishReason::StopToken);
        }
        if let Some(window) = self.window() {
            let start = output.len().saturating_sub(window);
            let text = self.tokenizer.decode(output.get(start..).unwrap_or(output));
            if self.stop.iter().any(|stop| text.contains(stop.as_str())) {
                return Some(FinishReason::StopString);
            }
        }
        (output.len() >= self.most_tokens()).then_some(FinishReason::Length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prompt::tests::{byte_tokenizer, wordy_tokenizer_json};

    fn architecture() -> Architecture {
        Architecture {
            vocab_size: 258,
            hidden: 8,
            layers: 1,
            heads: 1,
            kv_heads: 1,
            head_dim: 2,
            ffn: 8,
            max_positions: 1 << 20,
            norm_eps: 1e-5,
            inverse_frequencies: vec![1.0],
            tied: true,
            biases: assay_commitments::manifest::Biases::None,
            head_norms: false,
            window: None,
            stop_tokens: vec![TokenId::new(257)],
        }
    }

    /// The length at which an answer ends, and why, asked as a runtime asks.
    fn end(tokens: &[TokenId], stop: &[&str]) -> Option<(usize, FinishReason)> {
        let (tokenizer, architecture) = (byte_tokenizer(), architecture());
        let stop: Vec<String> = stop.iter().map(|&stop| stop.to_owned()).collect();
        let rule = FinishRule {
            tokenizer: &tokenizer,
            architecture: &architecture,
            stop: &stop,
            max_tokens: u32::MAX,
            prompt_tokens: 1,
        };
        (1..=tokens.len()).find_map(|length| Some((length, rule.finish(&tokens[..length])?)))
    }

    fn tokens(text: &str) -> Vec<TokenId> {
        byte_tokenizer().encode(text).unwrap()
    }

    #[test]
    fn a_stop_string_is_found_at_its_last_token_wherever_it_stands() {
        for before in ["", "x", &"x".repeat(40), &"\u{20ac}".repeat(40)] {
            for stop in ["\n\n", "User:", "\u{20ac}", "a\u{1f600}b", &"long ".repeat(9)] {
                if before.contains(stop) {
                    continue;
                }
                let text = tokens(&format!("{before}{stop}y"));
                let expected = text.len() - 1;
                assert_eq!(end(&text, &[stop]), Some((expected, FinishReason::StopString)), "{before} {stop}");
                assert_eq!(end(&text[..expected - 1], &[stop]), None);
            }
        }
    }

    #[test]
    fn tokens_without_text_may_stand_within_a_stop_string() {
        let mut text = tokens("a stop");
        let special = TokenId::new(256);
        text.splice(4..4, [special; WINDOW_SLACK]);
        assert_eq!(end(&text, &["stop"]).map(|(length, _)| length), Some(text.len()));
        text.insert(4, special);
        assert_eq!(end(&text, &["stop"]), None);
    }

    #[test]
    fn a_stop_token_counts_before_a_stop_string() {
        let mut text = tokens("ab");
        text.push(TokenId::new(257));
        assert_eq!(end(&text, &["b"]), Some((2, FinishReason::StopString)));
        assert_eq!(end(&text, &["c"]), Some((3, FinishReason::StopToken)));
    }

    /// A request may be such that its longest answer could not be checked in any reasonable time. That is known
    /// before anybody answers.
    #[test]
    fn an_answer_that_could_not_be_checked_is_known_before_it_is_given() {
        let tokenizer = Tokenizer::from_bytes(wordy_tokenizer_json().to_string().as_bytes()).unwrap();
        let architecture = architecture();
        let is_bounded = |stop: &[String], max_tokens, prompt_tokens| {
            let (tokenizer, architecture) = (&tokenizer, &architecture);
            FinishRule { tokenizer, architecture, stop, max_tokens, prompt_tokens }.is_bounded()
        };
        let long_stop = ["x".repeat(256)];
        assert!(is_bounded(&[], u32::MAX, 1) && is_bounded(&long_stop, 1 << 9, 1));
        assert!(!is_bounded(&long_stop, u32::MAX, 1), "a million windows");
        assert!(is_bounded(&long_stop, u32::MAX, (1 << 20) - 500), "the context leaves few");
    }

    /// Decoding the answer anew after every token would take minutes here.
    #[test]
    fn a_long_answer_is_not_decoded_anew_after_every_token() {
        let text = tokens(&"ab ".repeat(20_000));
        assert_eq!(end(&text, &["never", "ever"]), None);
    }
}
