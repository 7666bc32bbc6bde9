//! Text from tokens, while they come.

use assay_audit::prompt::Tokenizer;
use assay_commitments::TokenId;

/// Tokens to text as they come: what it gives, joined, is the text of all tokens.
///
/// A character may take several tokens, and a token may change how the one before it is written, so text
/// is held back while it ends in a character that is not whole.
#[derive(Clone, Debug)]
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    tokens: Vec<TokenId>,
    /// Where the tokens begin that are decoded together with new ones, for what they have in common.
    start: usize,
    /// Up to where tokens were shown.
    shown: usize,
}

/// What a decoder writes for bytes that are no character, or not one yet.
const INCOMPLETE: char = char::REPLACEMENT_CHARACTER;

impl<'a> TextStream<'a> {
    /// Of no tokens yet.
    pub const fn new(tokenizer: &'a Tokenizer) -> Self {
        Self { tokenizer, tokens: vec![], start: 0, shown: 0 }
    }

    /// The text that a token completes.
    pub fn push(&mut self, token: TokenId) -> String {
        self.tokens.push(token);
        let fresh = self.fresh();
        if fresh.is_empty() || fresh.ends_with(INCOMPLETE) {
            return String::new();
        }
        self.start = self.shown;
        self.shown = self.tokens.len();
        fresh
    }

    /// The text that was held back.
    pub fn finish(self) -> String {
        self.fresh()
    }

    fn fresh(&self) -> String {
        let before = self.tokenizer.decode(&self.tokens[self.start..self.shown]);
        let all = self.tokenizer.decode(&self.tokens[self.start..]);
        all.get(before.len()..).unwrap_or_default().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A byte-level tokenizer of single bytes, ids as the bytes.
    fn bytes() -> Tokenizer {
        // The letters that stand for the bytes in such tokenizers.
        let plain =
            |byte: u32| (33..=126).contains(&byte) || (161..=172).contains(&byte) || (174..=255).contains(&byte);
        let mut next = 256;
        let vocabulary: serde_json::Map<String, serde_json::Value> = (0..256_u32)
            .map(|byte| {
                let letter = if plain(byte) { byte } else { next };
                next += u32::from(!plain(byte));
                (char::from_u32(letter).unwrap().to_string(), json!(byte))
            })
            .collect();
        let file = json!({
            "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
            "added_tokens": [],
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false},
            "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false},
            "model": {"type": "BPE", "vocab": vocabulary, "merges": []},
        });
        Tokenizer::from_bytes(file.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn characters_are_shown_whole_and_nothing_is_lost() {
        let tokenizer = bytes();
        for text in ["plain", "naïve 語 🦀!", "\u{fffd} is a character too", ""] {
            let mut stream = TextStream::new(&tokenizer);
            let mut shown = String::new();
            for byte in text.bytes() {
                let part = stream.push(TokenId::new(byte.into()));
                assert!(!part.ends_with(INCOMPLETE), "{part:?}");
                shown.push_str(&part);
            }
            shown.push_str(&stream.finish());
            assert_eq!(shown, text);
        }
    }

    #[test]
    fn a_broken_end_is_shown_as_such() {
        let tokenizer = bytes();
        let mut stream = TextStream::new(&tokenizer);
        let shown = [b'a', 0xe8, 0xaa].map(|byte| stream.push(TokenId::new(byte.into()))).concat();
        assert_eq!((shown.as_str(), stream.finish().as_str()), ("a", "\u{fffd}"));
    }
}
