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

use crate::num::index;
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

impl FinishRule<'_> {
    /// Whether an answer ends with its last token, and why; to be asked after every token. A stop
    /// token counts before a stop string, and that before the length.
    pub fn finish(&self, output: &[TokenId]) -> Option<FinishReason> {
        let last = output.last()?;
        if self.architecture.stop_tokens.binary_search(last).is_ok() {
            return Some(FinishReason::StopToken);
        }
        if let Some(longest) = self.stop.iter().map(String::len).max() {
            let start = output.len().saturating_sub(longest.saturating_add(WINDOW_SLACK));
            let text = self.tokenizer.decode(output.get(start..).unwrap_or(output));
            if self.stop.iter().any(|stop| text.contains(stop.as_str())) {
                return Some(FinishReason::StopString);
            }
        }
        let context = index(self.architecture.max_positions);
        let full = output.len() >= index(self.max_tokens) || self.prompt_tokens.saturating_add(output.len()) >= context;
        full.then_some(FinishReason::Length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prompt::tests::byte_tokenizer;

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

    /// Decoding the answer anew after every token would take minutes here.
    #[test]
    fn a_long_answer_is_not_decoded_anew_after_every_token() {
        let text = tokens(&"ab ".repeat(20_000));
        assert_eq!(end(&text, &["never", "ever"]), None);
    }
}
