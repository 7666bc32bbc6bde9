//! Honest miners at the edges where others have been failed: each is accepted, by the same validator.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex, OnceLock};
use std::time::Duration;

use assay_audit::policy::Policy;
use assay_audit::prompt::Prompt;
use assay_audit::session::Exchange;
use assay_audit::verdict::Verdict;
use assay_cli::local::LocalModel;
use assay_commitments::trace::{FinishReason, TraceCommitment};
use assay_commitments::{TokenId, codec};
use assay_llm_runtime::synthetic::{self, Numbers};
use assay_llm_runtime::{Checkpoint, Session};
use assay_miner::Backend;
use assay_tests::adversary::Serving;
use assay_tests::arena::{Arena, Question};
use assay_tests::{fixture, in_parallel, session};
use assay_validator::Outcome;

use crate::cast::{VERSES, chat};
use crate::table::VERSE;

fn random_checkpoint() -> Checkpoint {
    synthetic::checkpoint(&Numbers { hidden: 128, head_dim: 32, ffn: 384, ..Numbers::TINY }, 11)
}

/// A random model of one character a token, wide enough that roundings average as they do in real models.
fn random() -> Arc<LocalModel> {
    static MODEL: OnceLock<Arc<LocalModel>> = OnceLock::new();
    let make = || LocalModel::of(&random_checkpoint(), &mut |_, _| ()).unwrap();
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

/// The random model, with its rows of lm_head so exchanged that it stops right after `prompt`.
fn ending_after(prompt: &str) -> Arc<LocalModel> {
    let mut checkpoint = random_checkpoint();
    let mut session = Session::new(Arc::clone(&random().model), false);
    let logits = session.prefill(&random().assets.tokenizer.encode(prompt).unwrap()).unwrap();
    let likeliest = (0..logits.len()).reduce(|best, next| if logits[next] > logits[best] { next } else { best });
    let width = usize::try_from(checkpoint.architecture.hidden).unwrap();
    let head = checkpoint.tensors.head.as_mut().unwrap();
    let (stop, rest) = head.split_at_mut(width);
    if let Some(at) = likeliest.unwrap().checked_sub(1) {
        stop.swap_with_slice(&mut rest[at * width..][..width]);
    }
    Arc::new(LocalModel::of(&checkpoint, &mut |_, _| ()).unwrap())
}

/// An answer that is empty but for its stop token.
#[tokio::test(flavor = "multi_thread")]
async fn honest_a_stop_token_first() {
    let commitment = accepted(&ending_after("nothing to say"), &certain("nothing to say", 8)).await;
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
    let stop = whole[from..=middle.len()].to_owned();
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

/// Where few tokens are allowed and the noise is large, many that are not allowed score above the pick.
#[tokio::test(flavor = "multi_thread")]
async fn honest_few_tokens_allowed_at_a_high_temperature() {
    let local = fixture();
    let arena = Arena::new(&local);
    let (_running, peer) = arena.miner(1, local.backend()).await;
    for (temperature, top_k, top_p) in [(100.0, 1, 1.0), (5.0, 2, 1.0), (2.0, 1, 1.0), (100.0, 0, 0.01), (1.0, 0, 0.01)]
    {
        let mut question = Question::new(Prompt::Text(VERSE.to_owned()), 16);
        question.ask.temperature = temperature;
        question.ask.top_k = top_k;
        question.ask.top_p = top_p;
        commitment_of(arena.ask(peer, &question).await);
    }
}

/// Six answers of different lengths, begun at once: whoever ends leaves the others a smaller batch.
#[tokio::test(flavor = "multi_thread")]
async fn honest_a_batch_that_changes_under_a_request() {
    const ANSWERS: [u32; 6] = [40, 34, 28, 22, 16, 10];
    let local = fixture();
    let arena = Arena::new(&local);
    let (all_there, picked) = (Barrier::new(ANSWERS.len()), Arc::new(Mutex::new(vec![])));
    let log = Arc::clone(&picked);
    let together = Serving::new(local.backend(), move |honest, request, on_token| {
        all_there.wait();
        honest.serve(request, &mut |token| {
            log.lock().unwrap().push(request.max_tokens);
            on_token(token)
        })
    });
    let (_running, peer) = arena.miner(1, together).await;
    let session = |number: usize| {
        let prompt = &VERSE[..VERSE.len() - 5 * number];
        let question = Question::new(Prompt::Text(prompt.to_owned()), ANSWERS[number]);
        let arena = &arena;
        async move { commitment_of(arena.ask(peer, &question).await) }
    };
    tokio::join!(session(0), session(1), session(2), session(3), session(4), session(5));
    let picked = picked.lock().unwrap();
    let first = |answer: u32| picked.iter().position(|of| *of == answer).unwrap();
    let last = |answer: u32| picked.iter().rposition(|of| *of == answer).unwrap();
    let ended_under = |other| ANSWERS.iter().any(|&answer| first(answer) < last(other) && last(other) < last(answer));
    assert!(ANSWERS.into_iter().any(ended_under), "no answer ended under another: {picked:?}");
}

/// A stream that the validator cancels has no verdict, holds nothing of the miner's, and costs it nothing.
#[tokio::test(flavor = "multi_thread")]
async fn honest_cancelled_streams() {
    let local = fixture();
    let arena = Arena::new(&local);
    let slow = Serving::new(local.backend(), |honest, request, on_token| {
        honest.serve(request, &mut |token| {
            std::thread::sleep(Duration::from_millis(20));
            on_token(token)
        })
    });
    let (running, peer) = arena.miner(1, slow).await;
    let question = Question::new(Prompt::Text(VERSE.to_owned()), 300);
    let mut cancelled = 0;
    for patience in [1, 60, 200, 400] {
        match tokio::time::timeout(Duration::from_millis(patience), arena.ask(peer, &question)).await {
            // An answer of 300 tokens takes seconds, but a stop token may come at once.
            Ok(Outcome::Judged(judged)) => judged.deliver().await,
            Ok(other) => panic!("{other:?}"),
            Err(_) => cancelled += 1,
        }
    }
    assert!(cancelled > 1);
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

#[test]
fn honest_a_thousand_cells() {
    let local = fixture();
    let cells = AtomicUsize::new(0);
    in_parallel(0..6_u64, |trial| {
        let mut audit = session("", 24, 100 + trial);
        audit.prompt = chat(VERSES[usize::try_from(trial).unwrap() % VERSES.len()]);
        audit.policy = Policy::Everything;
        let file = audit.run(&local, &local.backend()).unwrap();
        let judgement = file.judge(&|_| None);
        assert_eq!(judgement.verdict, Verdict::Accepted);
        let challenge = judgement.report.challenge.unwrap();
        cells.fetch_add(challenge.cells.len(), Ordering::Relaxed);
        println!(
            "{} cells, {} decodes: {} bytes, proven in {} ms, verified in {} ms",
            challenge.cells.len(),
            challenge.decodes.len(),
            judgement.report.proof_bytes,
            file.receipt.measurements.proof_ms,
            file.receipt.measurements.verify_us / 1000,
        );
    });
    let cells = cells.into_inner();
    println!("{cells} honest cells accepted");
    assert!(cells >= 1_000, "{cells}");
}
