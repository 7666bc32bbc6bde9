//! Honest miners at the edges where others have been failed: each is accepted, by the same validator.

use std::ops::ControlFlow;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use assay_audit::challenge::Nonce;
use assay_audit::prompt::Prompt;
use assay_audit::request::Request;
use assay_audit::session::Exchange;
use assay_audit::verdict::Verdict;
use assay_cli::local::LocalModel;
use assay_commitments::trace::{FinishReason, TraceCommitment, TraceRows};
use assay_commitments::{TokenId, codec};
use assay_llm_runtime::Session;
use assay_llm_runtime::synthetic::{self, Numbers};
use assay_miner::{Backend, HonestBackend, ProveError, ServeError, Served};
use assay_tests::arena::{Arena, Question};
use assay_tests::fixture;
use assay_validator::Outcome;

use crate::table::VERSE;

/// A random model of one character a token, wide enough that roundings average as they do in real models.
fn random() -> Arc<LocalModel> {
    static MODEL: OnceLock<Arc<LocalModel>> = OnceLock::new();
    let numbers = Numbers { hidden: 128, head_dim: 32, ffn: 384, ..Numbers::TINY };
    let make = || LocalModel::of(&synthetic::checkpoint(&numbers, 11), &mut |_, _| ()).unwrap();
    MODEL.get_or_init(|| Arc::new(make())).clone()
}

/// A question whose answer does not depend on the seed.
fn certain(prompt: &str, max_tokens: u32) -> Question {
    let mut question = Question::new(Prompt::Text(prompt.to_owned()), max_tokens);
    question.ask.top_k = 1;
    question
}

/// Asks the miner as it ships, and gives the commitment that was accepted.
async fn accepted(local: &Arc<LocalModel>, question: &Question) -> TraceCommitment {
    let arena = Arena::new(local);
    let (_running, peer) = arena.miner(1, local.backend()).await;
    commitment_of(arena.ask(peer, question).await)
}

fn commitment_of(outcome: Outcome) -> TraceCommitment {
    let Outcome::Judged(judged) = outcome else { panic!("{outcome:?}") };
    assert_eq!(judged.judgement.verdict, Verdict::Accepted);
    assert!(judged.judgement.report.proof_bytes > 0, "it was audited");
    let Exchange::Committed { commitment, .. } = &judged.file.record.exchange else { panic!("committed") };
    codec::decode(&commitment.bytes).unwrap()
}

/// The likeliest token after a text.
fn likeliest(local: &LocalModel, text: &str) -> usize {
    let mut session = Session::new(Arc::clone(&local.model), false);
    let logits = session.prefill(&local.assets.tokenizer.encode(text).unwrap()).unwrap();
    (0..logits.len()).reduce(|best, next| if logits[next] > logits[best] { next } else { best }).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn honest_a_stop_token_first() {
    let local = random();
    let prompt = (0..5_000).map(|number| format!("question {number}")).find(|text| likeliest(&local, text) == 0);
    let commitment = accepted(&local, &certain(&prompt.unwrap(), 8)).await;
    assert_eq!((commitment.output.as_slice(), commitment.finish), (&[TokenId::new(0)][..], FinishReason::StopToken));
}

#[tokio::test(flavor = "multi_thread")]
async fn honest_a_stop_string_across_tokens() {
    let local = fixture();
    let answer = accepted(&local, &certain(VERSE, 12)).await.output;
    // The last character of one token and the first two of those after it.
    let text = |tokens: &[TokenId]| local.assets.tokenizer.decode(tokens);
    let (whole, before, middle) = (text(&answer), text(&answer[..5]), text(&answer[..6]));
    let from = before.len() - 1;
    let stop = whole[from..middle.len() + 1].to_owned();
    assert!(answer.iter().all(|token| !text(&[*token]).contains(&stop)), "{stop:?} is in one token");
    let mut question = certain(VERSE, 12);
    question.ask.stop = vec![stop];
    let commitment = accepted(&local, &question).await;
    assert_eq!(commitment.finish, FinishReason::StopString);
    assert!(commitment.output.len() <= 7 && answer.starts_with(&commitment.output), "{:?}", commitment.output);
}

#[tokio::test(flavor = "multi_thread")]
async fn honest_a_stop_for_length() {
    let commitment = accepted(&fixture(), &Question::new(Prompt::Text(VERSE.to_owned()), 9)).await;
    assert_eq!((commitment.output.len(), commitment.finish), (9, FinishReason::Length));
}

#[tokio::test(flavor = "multi_thread")]
async fn honest_an_answer_of_one_token() {
    let commitment = accepted(&fixture(), &Question::new(Prompt::Text(VERSE.to_owned()), 1)).await;
    assert_eq!(commitment.output.len(), 1);
    let commitment = accepted(&fixture(), &Question::new(Prompt::Text("a".to_owned()), 1)).await;
    assert_eq!(commitment.positions(), Some(commitment.prompt.len()));
}

#[tokio::test(flavor = "multi_thread")]
async fn honest_a_prompt_at_the_context_limit() {
    let local = random();
    let limit = usize::try_from(local.model.architecture().max_positions).unwrap();
    for spare in [1, 2] {
        let commitment = accepted(&local, &certain(&"a".repeat(limit - spare), 8)).await;
        assert_eq!(commitment.prompt.len(), limit - spare);
        let stopped = commitment.finish == FinishReason::StopToken;
        assert!(stopped || (commitment.output.len(), commitment.finish) == (spare, FinishReason::Length));
    }
    // Where no token has room, the question is the validator's own fault and reaches nobody.
    let arena = Arena::new(&local);
    let (_running, peer) = arena.miner(1, local.backend()).await;
    let outcome = arena.ask(peer, &certain(&"a".repeat(limit), 8)).await;
    assert!(matches!(outcome, Outcome::OwnFault(_)), "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn honest_a_batch_that_changes_under_a_request() {
    let local = fixture();
    let arena = Arena::new(&local);
    let (_running, peer) = arena.miner(1, local.backend()).await;
    let session = |number: u32| {
        let prompt = &VERSE[..VERSE.len() - usize::try_from(5 * number).unwrap()];
        let question = Question::new(Prompt::Text(prompt.to_owned()), 40 - 6 * number);
        let arena = &arena;
        async move {
            tokio::time::sleep(Duration::from_millis(u64::from(7 * number))).await;
            commitment_of(arena.ask(peer, &question).await).output.len()
        }
    };
    let lengths = tokio::join!(session(0), session(1), session(2), session(3), session(4), session(5));
    assert!(lengths.0 > 0, "{lengths:?}");
}

/// An honest miner that takes its time over every token.
struct Slow(HonestBackend);

impl Backend for Slow {
    fn serve(
        &self,
        request: &Request,
        on_token: &mut dyn FnMut(TokenId) -> ControlFlow<()>,
    ) -> Result<Served, ServeError> {
        self.0.serve(request, &mut |token| {
            std::thread::sleep(Duration::from_millis(20));
            on_token(token)
        })
    }

    fn prove(
        &self,
        request: &Request,
        commitment: &TraceCommitment,
        trace: &dyn TraceRows,
        nonce: Option<&Nonce>,
    ) -> Result<Vec<u8>, ProveError> {
        self.0.prove(request, commitment, trace, nonce)
    }
}

/// A stream that the validator cancels has no verdict, holds nothing of the miner's, and costs it nothing.
#[tokio::test(flavor = "multi_thread")]
async fn honest_cancelled_streams() {
    let local = fixture();
    let arena = Arena::new(&local);
    let (running, peer) = arena.miner(1, Slow(local.backend())).await;
    let question = Question::new(Prompt::Text(VERSE.to_owned()), 60);
    for patience in [1, 60, 200, 400] {
        let cancelled = tokio::time::timeout(Duration::from_millis(patience), arena.ask(peer, &question)).await;
        assert!(cancelled.is_err(), "an answer of 60 tokens takes over a second");
    }
    let shorter = Question::new(Prompt::Text(VERSE.to_owned()), 4);
    let Outcome::Judged(judged) = arena.ask(peer, &shorter).await else { panic!("judged") };
    assert_eq!(judged.judgement.verdict, Verdict::Accepted);
    judged.deliver().await;
    for _ in 0..100 {
        if running.trace_usage().memory_bytes == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("traces of cancelled sessions are kept: {:?}", running.trace_usage());
}
