//! Many requests at once.

use std::sync::{Arc, Mutex};

use assay_audit::sampling::Sampling;
use assay_commitments::TokenId;
use assay_commitments::rows::Profile;
use assay_commitments::trace::TraceRows;
use assay_llm_runtime::synthetic::{self, Numbers};
use assay_llm_runtime::{Answer, Checkpoint, Completion, Engine, EngineLimits, Event, Job, RunError, SubmitError};

use super::{assert_equal_traces, model, tokenizer, tokens, varied};

const LIMITS: EngineLimits = EngineLimits { cache_bytes: 1 << 24, batch: 8, chunk: 16, queue: 64 };

fn tiny() -> Checkpoint {
    let mut checkpoint = synthetic::checkpoint(&Numbers { max_positions: 512, ..Numbers::TINY }, 4);
    checkpoint.architecture.stop_tokens.clear();
    checkpoint
}

fn engine(checkpoint: &Checkpoint, limits: EngineLimits) -> Engine {
    Engine::start(model(checkpoint, Profile::Bf16V1), limits)
}

fn job(checkpoint: &Checkpoint, owner: u8, prompt: usize, max_tokens: u32) -> Job {
    Job {
        owner: [owner; 32],
        prompt: tokens(checkpoint, u32::try_from(prompt).unwrap()),
        sampling: Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, seed: owner.into() },
        tokenizer: Arc::new(tokenizer(checkpoint)),
        stop: Vec::new(),
        max_tokens,
        capture: true,
    }
}

/// Reads up to the first token, and with it until the request is being worked on.
fn begun(mut answer: Answer) -> Answer {
    assert!(matches!(answer.next(), Some(Event::Token(_))));
    answer
}

fn complete(answer: Answer) -> Completion {
    answer.complete().unwrap()
}

#[test]
fn company_changes_no_bit_of_an_answer_or_its_trace() {
    for (checkpoint, profile) in [tiny(), varied(9)].iter().flat_map(|c| Profile::ALL.map(|profile| (c, profile))) {
        let model = model(checkpoint, profile);
        let jobs: Vec<Job> = [(1, 30), (5, 1), (70, 12), (130, 25), (3, 40), (64, 20)]
            .into_iter()
            .zip(0..)
            .map(|((prompt, max_tokens), owner)| job(checkpoint, owner, prompt, max_tokens))
            .collect();
        let alone = Engine::start(Arc::clone(&model), EngineLimits { batch: 1, chunk: 1000, ..LIMITS });
        let alone: Vec<Completion> = jobs.iter().map(|job| complete(alone.submit(job.clone()).unwrap())).collect();
        let together = Engine::start(model, LIMITS);
        let answers: Vec<Answer> = jobs.iter().map(|job| together.submit(job.clone()).unwrap()).collect();
        for ((job, alone), answer) in jobs.iter().zip(alone).zip(answers) {
            let together = complete(answer);
            assert_eq!((&together.output, together.finish), (&alone.output, alone.finish), "{profile:?}");
            let (a, b) = (alone.trace.unwrap(), together.trace.unwrap());
            assert_eq!(a.positions(), job.prompt.len() + alone.output.len() - 1);
            assert_equal_traces(&a, &b);
        }
    }
}

#[test]
fn tokens_come_before_the_end_and_are_the_output() {
    let checkpoint = tiny();
    let engine = engine(&checkpoint, LIMITS);
    let mut streamed = Vec::new();
    let mut ends = 0;
    for event in engine.submit(Job { capture: false, ..job(&checkpoint, 1, 4, 10) }).unwrap() {
        match event {
            Event::Token(token) => streamed.push(token),
            Event::End(end) => {
                let completion = end.unwrap();
                assert_eq!(completion.output, streamed);
                assert!(completion.trace.is_none());
                ends += 1;
            }
        }
    }
    assert_eq!((streamed.len(), ends), (10, 1));
}

/// Bytes of cache for so many sequences of up to 64 positions in [`tiny`].
fn cache_for(sequences: usize) -> EngineLimits {
    let numbers = Numbers::TINY;
    let block = 64 * 2 * numbers.layers * numbers.kv_heads * numbers.head_dim * 2;
    EngineLimits { cache_bytes: sequences * block as usize, ..LIMITS }
}

#[test]
fn a_request_that_is_dropped_gives_its_room_to_the_next() {
    let checkpoint = tiny();
    let engine = engine(&checkpoint, cache_for(8));
    let long = begun(engine.submit(job(&checkpoint, 1, 4, 500)).unwrap());
    let next = engine.submit(job(&checkpoint, 2, 4, 500)).unwrap();
    let dropped = engine.submit(job(&checkpoint, 3, 4, 500)).unwrap();
    drop(dropped);
    drop(long);
    assert_eq!(complete(next).output.len(), 500);
    assert_eq!(complete(engine.submit(job(&checkpoint, 4, 4, 5)).unwrap()).output.len(), 5);
}

#[test]
fn what_can_never_fit_the_cache_is_refused_and_the_rest_is_served() {
    let checkpoint = tiny();
    let engine = engine(&checkpoint, cache_for(2));
    let fits = engine.submit(job(&checkpoint, 1, 100, 29)).unwrap();
    let error = engine.submit(job(&checkpoint, 1, 100, 30)).unwrap_err().to_string();
    assert!(error.contains("129 positions do not fit the key and value cache, which has room for 128"), "{error}");
    assert_eq!(complete(fits).output.len(), 29);
}

#[test]
fn an_owner_of_many_requests_does_not_keep_another_waiting() {
    let checkpoint = tiny();
    let engine = engine(&checkpoint, EngineLimits { batch: 1, ..LIMITS });
    let first = begun(engine.submit(job(&checkpoint, 1, 4, 400)).unwrap());
    let many = (0..6).map(|_| (1, engine.submit(job(&checkpoint, 1, 4, 20)).unwrap()));
    let mut answers: Vec<(u8, Answer)> = many.collect();
    answers.push((2, engine.submit(job(&checkpoint, 2, 4, 20)).unwrap()));
    let order = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for (owner, answer) in answers {
            let order = &order;
            scope.spawn(move || {
                let events: Vec<Event> = answer.take(1).collect();
                assert!(matches!(events[..], [Event::Token(_)]));
                order.lock().unwrap().push(owner);
            });
        }
        complete(first);
    });
    let order = order.into_inner().unwrap();
    let place = order.iter().position(|owner| *owner == 2).unwrap();
    assert!(place <= 2, "{order:?}");
}

#[test]
fn a_full_queue_turns_requests_away() {
    let checkpoint = tiny();
    let engine = engine(&checkpoint, EngineLimits { batch: 1, queue: 2, ..LIMITS });
    let running = begun(engine.submit(job(&checkpoint, 1, 4, 500)).unwrap());
    let waiting = engine.submit(job(&checkpoint, 1, 4, 3)).unwrap();
    assert!(matches!(engine.submit(job(&checkpoint, 1, 4, 3)), Err(SubmitError::Busy)), "half belongs to others");
    let other = engine.submit(job(&checkpoint, 2, 4, 3)).unwrap();
    assert!(matches!(engine.submit(job(&checkpoint, 3, 4, 3)), Err(SubmitError::Busy)));
    drop(other);
    let third = engine.submit(job(&checkpoint, 3, 4, 3)).unwrap();
    drop(running);
    assert_eq!((complete(waiting).output.len(), complete(third).output.len()), (3, 3));
}

#[test]
fn requests_that_no_model_could_answer_are_refused_at_once() {
    let checkpoint = tiny();
    let engine = engine(&checkpoint, LIMITS);
    let refusal = |alter: &dyn Fn(&mut Job)| {
        let mut job = job(&checkpoint, 1, 4, 3);
        alter(&mut job);
        engine.submit(job).unwrap_err().to_string()
    };
    assert!(refusal(&|job| job.prompt.clear()).contains("the prompt is empty"));
    assert!(refusal(&|job| job.prompt.push(TokenId::new(u32::MAX))).contains("token 4294967295"));
    assert!(refusal(&|job| job.prompt = vec![TokenId::new(2); 513]).contains("shorten the prompt"));
    assert!(refusal(&|job| job.sampling.temperature = f32::NAN).contains("sampling parameters"));
}

/// A model in which one token makes the values of the first layer overflow.
fn explosive(token: u32) -> Checkpoint {
    let mut checkpoint = tiny();
    let hidden = checkpoint.architecture.hidden as usize;
    let tensors = &mut checkpoint.tensors;
    tensors.embeddings.chunks_mut(hidden).for_each(|row| row[0] = 0.0);
    let row = &mut tensors.embeddings[token as usize * hidden..][..hidden];
    row.fill(0.0);
    row[0] = 1.0;
    tensors.layers[0].matrices[2].chunks_mut(hidden).for_each(|row| row[0] = 3e38);
    // It is never picked.
    tensors.head.as_mut().unwrap()[token as usize * hidden..][..hidden].fill(0.0);
    checkpoint
}

#[test]
fn an_overflow_fails_its_own_request_alone() {
    let checkpoint = explosive(50);
    let greedy = |job: Job| Job { sampling: Sampling::GREEDY, ..job };
    let good = |owner| {
        let mut job = greedy(job(&checkpoint, owner, 20, 40));
        job.prompt.retain(|token| token.get() != 50);
        job
    };
    let engine = engine(&checkpoint, LIMITS);
    let expected = complete(engine.submit(good(1)).unwrap());
    let beside = engine.submit(good(1)).unwrap();
    let mut bad = good(2);
    bad.prompt.push(TokenId::new(50));
    let captured = engine.submit(bad.clone()).unwrap();
    let plain = engine.submit(Job { capture: false, ..bad }).unwrap();
    let later = engine.submit(good(3)).unwrap();
    let error = captured.complete().unwrap_err();
    assert!(error.to_string().starts_with("the cache of layer 0 overflowed"), "{error}");
    let error = plain.complete().unwrap_err();
    assert!(matches!(error, RunError::NotFinite { .. }) && error.to_string().contains("the logits"), "{error}");
    for answer in [beside, later] {
        let completion = complete(answer);
        assert_eq!(completion.output, expected.output);
        assert_equal_traces(&completion.trace.unwrap(), expected.trace.as_ref().unwrap());
    }
}

#[test]
fn answers_of_an_engine_that_stops_end() {
    let checkpoint = tiny();
    let engine = engine(&checkpoint, EngineLimits { batch: 1, ..LIMITS });
    let running = begun(engine.submit(job(&checkpoint, 1, 4, 500)).unwrap());
    let waiting = engine.submit(job(&checkpoint, 1, 4, 500)).unwrap();
    drop(engine);
    for answer in [running, waiting] {
        assert!(matches!(answer.complete(), Err(RunError::Stopped)));
    }
}

#[test]
fn an_engine_may_be_shared_between_threads() {
    fn assert_shared<T: Send + Sync>() {}
    assert_shared::<Engine>();
    let checkpoint = tiny();
    let engine = engine(&checkpoint, LIMITS);
    std::thread::scope(|scope| {
        for owner in 0..6 {
            let (engine, checkpoint) = (&engine, &checkpoint);
            scope.spawn(move || {
                let completion = complete(engine.submit(job(checkpoint, owner, 10, 20)).unwrap());
                assert_eq!(completion.output.len(), 20);
            });
        }
    });
}
