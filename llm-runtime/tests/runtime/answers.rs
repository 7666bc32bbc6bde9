//! From prompts to answers, and what is refused on the way.

use std::ops::ControlFlow;

use assay_audit::sampling::{Sampling, sample};
use assay_commitments::rows::Profile;
use assay_commitments::trace::{FinishReason, TraceRows};
use assay_commitments::{Position, TokenId};
use assay_llm_runtime::synthetic::{self, Numbers};
use assay_llm_runtime::{Checkpoint, Generate, Generation, RunError, Session, generate};

use super::{fixture, model, tokenizer, tokens};

struct Case {
    checkpoint: Checkpoint,
    prompt: Vec<TokenId>,
    sampling: Sampling,
    stop: Vec<String>,
    max_tokens: u32,
}

impl Case {
    fn tiny() -> Self {
        let mut checkpoint = synthetic::checkpoint(&Numbers::TINY, 4);
        checkpoint.architecture.stop_tokens.clear();
        let prompt = tokenizer(&checkpoint).encode("hello").unwrap();
        Self { checkpoint, prompt, sampling: Sampling::GREEDY, stop: Vec::new(), max_tokens: 20 }
    }

    fn run(&self) -> Result<Generation, RunError> {
        self.run_until(usize::MAX)
    }

    /// Breaks off at the token numbered `last`.
    fn run_until(&self, last: usize) -> Result<Generation, RunError> {
        let tokenizer = tokenizer(&self.checkpoint);
        let request = Generate {
            prompt: &self.prompt,
            sampling: self.sampling,
            tokenizer: &tokenizer,
            stop: &self.stop,
            max_tokens: self.max_tokens,
            capture: true,
        };
        let mut streamed = Vec::new();
        let mut on_token = |token| {
            streamed.push(token);
            if streamed.len() == last { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let generation = generate(&model(&self.checkpoint, Profile::Bf16V1), &request, &mut on_token)?;
        assert_eq!(generation.output, streamed, "tokens stream as they are picked");
        let positions = generation.trace.as_ref().unwrap().positions();
        assert_eq!(positions, self.prompt.len() + streamed.len() - 1, "the last token is not fed back");
        Ok(generation)
    }
}

#[test]
fn the_fixture_writes_words() {
    let checkpoint = fixture();
    let prompt = tokenizer(&checkpoint).encode("And the LORD said unto").unwrap();
    let sampling = Sampling { temperature: 0.7, top_k: 0, top_p: 0.9, seed: 1 };
    let case = Case { checkpoint, prompt, sampling, stop: Vec::new(), max_tokens: 60 };
    let generation = case.run().unwrap();
    let text = tokenizer(&case.checkpoint).decode(&generation.output);
    println!("{text}");
    assert!(["the", "and", "of", "he"].iter().any(|word| text.split_whitespace().any(|w| w == *word)), "{text}");
}

#[test]
fn an_answer_ends_at_its_length() {
    let generation = Case::tiny().run().unwrap();
    assert_eq!((generation.output.len(), generation.finish), (20, Some(FinishReason::Length)));
}

#[test]
fn an_answer_ends_at_the_end_of_the_context() {
    let mut case = Case { max_tokens: 1000, ..Case::tiny() };
    assert_eq!(case.run().unwrap().output.len(), 128 - case.prompt.len());
    case.prompt = tokens(&case.checkpoint, 128);
    let generation = case.run().unwrap();
    assert_eq!((generation.output.len(), generation.finish), (1, Some(FinishReason::Length)));
}

#[test]
fn an_answer_ends_with_its_stop_token() {
    let mut case = Case::tiny();
    let picked = case.run().unwrap().output;
    case.checkpoint.architecture.stop_tokens = vec![picked[4]];
    let generation = case.run().unwrap();
    let first = picked.iter().position(|token| *token == picked[4]).unwrap();
    assert_eq!((generation.output, generation.finish), (picked[..=first].to_vec(), Some(FinishReason::StopToken)));
}

#[test]
fn an_answer_ends_with_a_stop_string() {
    let mut case = Case::tiny();
    case.sampling = Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, seed: 5 };
    let picked = case.run().unwrap().output;
    let tokenizer = tokenizer(&case.checkpoint);
    case.stop = vec![tokenizer.decode(&picked[6..8])];
    let generation = case.run().unwrap();
    assert_eq!(generation.finish, Some(FinishReason::StopString));
    assert!(generation.output.len() <= 8 && tokenizer.decode(&generation.output).ends_with(&case.stop[0]));
}

#[test]
fn a_caller_may_break_off() {
    let generation = Case::tiny().run_until(3).unwrap();
    assert_eq!((generation.output.len(), generation.finish), (3, None));
}

#[test]
fn each_pick_is_the_samplers_at_the_position_before_it() {
    let case = Case { sampling: Sampling { temperature: 1.2, top_k: 30, top_p: 0.9, seed: 77 }, ..Case::tiny() };
    let output = case.run().unwrap().output;
    let mut session = Session::new(model(&case.checkpoint, Profile::Bf16V1), false);
    let mut logits = session.prefill(&case.prompt).unwrap();
    for (position, token) in (4..).zip(output) {
        assert_eq!(token, sample(&logits, &case.sampling, Position::new(position)));
        logits = session.step(token).unwrap();
    }
    let other = Case { sampling: Sampling { seed: 78, ..case.sampling }, ..Case::tiny() };
    assert_ne!(case.run().unwrap().output, other.run().unwrap().output);
}

#[test]
fn what_cannot_be_run_is_refused_and_leaves_the_session_as_it_was() {
    let case = Case::tiny();
    let mut session = Session::new(model(&case.checkpoint, Profile::Bf16V1), true);
    session.prefill(&case.prompt).unwrap();
    let unknown = session.prefill(&[TokenId::new(1), TokenId::new(100)]).unwrap_err().to_string();
    assert_eq!(unknown, "token 100 is not in the vocabulary of 100 tokens");
    let long = session.prefill(&tokens(&case.checkpoint, 124)).unwrap_err().to_string();
    assert!(long.starts_with("129 positions are asked of a model with a context of 128"), "{long}");
    assert!(matches!(session.prefill(&[]), Err(RunError::EmptyPrompt)));
    assert_eq!(session.positions(), 5);
    session.prefill(&tokens(&case.checkpoint, 123)).unwrap();
    assert_eq!(session.into_trace().unwrap().unwrap().positions(), 128);
}

#[test]
fn bad_requests_are_refused_before_anything_is_run() {
    let refusal = |alter: &dyn Fn(&mut Case)| {
        let mut case = Case::tiny();
        alter(&mut case);
        case.run().unwrap_err().to_string()
    };
    assert!(refusal(&|case| case.prompt.clear()).contains("the prompt is empty"));
    assert!(refusal(&|case| case.prompt.push(TokenId::new(u32::MAX))).contains("token 4294967295"));
    assert!(refusal(&|case| case.prompt = vec![TokenId::new(2); 129]).contains("shorten the prompt"));
    assert!(refusal(&|case| case.sampling.temperature = f32::NAN).contains("sampling parameters"));
    assert!(refusal(&|case| case.sampling.top_p = 0.0).contains("sampling parameters"));
}
