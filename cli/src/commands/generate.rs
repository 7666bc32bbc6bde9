//! `assay generate`: text from a model folder.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use assay_audit::prompt::{ChatTemplate, Tokenizer, prompt_tokens};
use assay_commitments::TokenId;
use assay_llm_runtime::{Generate, Generation, Model, generate};
use serde_json::json;

use super::request::{PromptArgs, SamplingArgs};
use crate::local;
use crate::outcome::{CommandResult, Fault, Outcome};
use crate::terminal::{is_watched, print, print_json, seconds, write};

/// What to generate.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Model folder in the Hugging Face layout
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    #[command(flatten)]
    prompt: PromptArgs,
    /// Most tokens of the answer
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..))]
    max_tokens: u32,
    #[command(flatten)]
    sampling: SamplingArgs,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> CommandResult {
    let prompt = args.prompt.prompt()?;
    let sampling = args.sampling.sampling()?;
    let checkpoint = local::load(&args.folder)?;
    let tokenizer = Tokenizer::from_bytes(&checkpoint.tokenizer)?;
    let template = checkpoint.chat_template.as_ref();
    let template = template.map(|template| ChatTemplate::from_bytes(template.as_bytes())).transpose()?;
    let model = Arc::new(Model::new(&checkpoint.architecture, &checkpoint.tensors, checkpoint.profile)?);
    let prompt = prompt_tokens(&prompt, &tokenizer, template.as_ref())?;

    let plan = Generate {
        prompt: &prompt,
        sampling,
        tokenizer: &tokenizer,
        stop: &[],
        max_tokens: args.max_tokens,
        capture: false,
    };
    let mut stream = (!args.json).then(|| TextStream::new(&tokenizer));
    let mut failure = None;
    let begin = Instant::now();
    let generation = generate(&model, &plan, &mut |token| {
        let shown = stream.as_mut().map_or(Ok(ControlFlow::Continue(())), |stream| write(&stream.push(token)));
        shown.unwrap_or_else(|fault| {
            failure = Some(fault);
            ControlFlow::Break(())
        })
    })?;
    if let Some(failure) = failure {
        return Err(failure);
    }
    let rate = tokens_per_second(&generation);
    if let Some(stream) = stream {
        print(&format!("{}\n", stream.finish()))?;
        if is_watched() {
            let (tokens, time) = (generation.output.len(), seconds(begin.elapsed().as_secs_f64()));
            eprint_summary(&format!("{tokens} tokens in {time}, {rate:.0} a second, seed {}", sampling.seed));
        }
    } else {
        let ids = |tokens: &[TokenId]| tokens.iter().map(|token| token.get()).collect::<Vec<_>>();
        let finish = generation.finish.ok_or_else(|| Fault::own("the answer has no end"))?;
        print_json(&json!({
            "prompt_tokens": ids(&prompt),
            "tokens": ids(&generation.output),
            "text": tokenizer.decode(&generation.output),
            "finish_reason": finish.name(),
            "tokens_per_second": rate,
        }))?;
    }
    Ok(Outcome::Done)
}

fn eprint_summary(line: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Decoding speed. The first token comes with the prompt, so a lone one has the speed of all of it.
#[expect(clippy::cast_precision_loss, reason = "a speed, not a count")]
fn tokens_per_second(generation: &Generation) -> f64 {
    let steps = generation.output.len().saturating_sub(1);
    if steps == 0 {
        1.0 / (generation.prefill_seconds + generation.decode_seconds)
    } else {
        steps as f64 / generation.decode_seconds
    }
}

/// Tokens to text as they come.
///
/// A character may take several tokens, and a token may change how the one before it is written, so text
/// is held back while it ends in a character that is not whole.
struct TextStream<'a> {
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
    const fn new(tokenizer: &'a Tokenizer) -> Self {
        Self { tokenizer, tokens: vec![], start: 0, shown: 0 }
    }

    /// The text that a token completes.
    fn push(&mut self, token: TokenId) -> String {
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
    fn finish(self) -> String {
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
