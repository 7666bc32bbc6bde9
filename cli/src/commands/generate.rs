//! `assay generate`: text from a model folder.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use assay_audit::prompt::{ChatTemplate, Tokenizer, prompt_tokens};
use assay_commitments::TokenId;
use assay_llm_runtime::{Generate, Generation, Model, ModelFolder, TextStream, generate};
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
    let profile = local::profile_of(&args.folder)?;
    let folder = ModelFolder::open(&args.folder, profile)?;
    let tokenizer = Tokenizer::from_bytes(&folder.tokenizer)?;
    let template = folder.chat_template.as_ref();
    let template = template.map(|template| ChatTemplate::from_bytes(template.as_bytes())).transpose()?;
    let model = Arc::new(Model::load(&folder.weights, profile)?);
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
