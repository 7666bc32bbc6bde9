//! What capture keeps, and that it changes nothing.

use std::ops::ControlFlow;
use std::sync::Arc;

use assay_audit::sampling::Sampling;
use assay_commitments::manifest::Architecture;
use assay_commitments::rows::{Profile, decode_row, encode_row, round_bf16};
use assay_commitments::trace::{Trace, TraceRows, TraceShape, TreeId};
use assay_commitments::{KvGroup, LayerIndex, TokenId};
use assay_llm_runtime::synthetic::{self, Numbers};
use assay_llm_runtime::{Checkpoint, Generate, Model, RunError, Session, generate};

use super::{assert_equal_traces, fixture, model, tokenizer, tokens, varied};

const BOTH: [Profile; 2] = [Profile::Bf16V1, Profile::F32V1];

fn tiny() -> Checkpoint {
    synthetic::checkpoint(&Numbers::TINY, 3)
}

/// The trace of a prefill of `first` tokens, then the rest one by one.
fn trace(model: &Arc<Model>, tokens: &[TokenId], first: usize) -> Trace {
    let mut session = Session::new(Arc::clone(model), true);
    session.prefill(&tokens[..first]).unwrap();
    for &token in &tokens[first..] {
        session.step(token).unwrap();
    }
    session.into_trace().unwrap().unwrap()
}

fn row(trace: &Trace, tree: TreeId, position: usize) -> Vec<f64> {
    decode_row(Profile::Bf16V1, &trace.rows(tree, position..position + 1).unwrap()).unwrap()
}

#[test]
fn capture_on_and_off_give_equal_tokens() {
    let checkpoint = fixture();
    let tokenizer = tokenizer(&checkpoint);
    let prompt = tokenizer.encode("In the beginning").unwrap();
    let sampled = Sampling { temperature: 0.8, top_k: 40, top_p: 0.95, seed: 9 };
    for (profile, sampling) in BOTH.into_iter().flat_map(|n| [(n, Sampling::GREEDY), (n, sampled)]) {
        let model = model(&checkpoint, profile);
        let answer = |capture| {
            let request =
                Generate { prompt: &prompt, sampling, tokenizer: &tokenizer, stop: &[], max_tokens: 80, capture };
            generate(&model, &request, &mut |_| ControlFlow::Continue(())).unwrap()
        };
        let (on, off) = (answer(true), answer(false));
        assert_eq!((on.output, on.finish), (off.output.clone(), off.finish), "{profile:?}");
        assert!(off.trace.is_none());
        assert_eq!(on.trace.unwrap().positions(), prompt.len() + off.output.len() - 1);
    }
}

#[test]
fn every_tree_has_a_row_for_every_position_run() {
    let checkpoint = tiny();
    let trace = trace(&model(&checkpoint, Profile::Bf16V1), &tokens(&checkpoint, 12), 7);
    let shape = TraceShape::new(&checkpoint.architecture, Profile::Bf16V1);
    assert_eq!((trace.shape(), trace.positions()), (shape, 12));
    for tree in shape.trees() {
        let rows = trace.rows(tree, 0..12).unwrap_or_else(|error| panic!("{tree:?}: {error}"));
        assert!(decode_row(Profile::Bf16V1, &rows).is_ok(), "{tree:?} is canonical");
        assert!(trace.rows(tree, 0..13).is_err(), "{tree:?} has no more");
    }
}

#[test]
fn the_stream_starts_with_embeddings_and_is_the_running_rounded_sum() {
    let checkpoint = tiny();
    let (tokens, layers) = (tokens(&checkpoint, 20), checkpoint.architecture.layers);
    let hidden = checkpoint.architecture.hidden as usize;
    let trace = trace(&model(&checkpoint, Profile::Bf16V1), &tokens, 15);
    #[expect(clippy::cast_possible_truncation, reason = "bf16 values are f32 values")]
    let stream = |tree, position| -> Vec<f32> { row(&trace, tree, position).iter().map(|x| *x as f32).collect() };
    for (position, token) in tokens.iter().enumerate() {
        let mut embedding = Vec::new();
        let table = &checkpoint.tensors.embeddings;
        encode_row(Profile::Bf16V1, &table[token.get() as usize * hidden..][..hidden], &mut embedding);
        assert_eq!(trace.rows(TreeId::H(LayerIndex::new(0)), position..position + 1), Ok(embedding));
        for layer in (0..layers).map(LayerIndex::new) {
            let branches = stream(TreeId::O(layer), position).into_iter().zip(stream(TreeId::M(layer), position));
            let sums: Vec<f32> = stream(TreeId::H(layer), position)
                .into_iter()
                .zip(branches)
                .map(|(h, (o, m))| round_bf16(round_bf16(h + o) + m))
                .collect();
            assert_eq!(stream(TreeId::H(LayerIndex::new(layer.get() + 1)), position), sums, "{layer} {position}");
        }
    }
}

#[test]
fn passes_and_threads_change_no_bit() {
    for (checkpoint, profile) in [fixture(), varied(20)].iter().flat_map(|c| Profile::ALL.map(|profile| (c, profile))) {
        let model = model(checkpoint, profile);
        let tokens = tokens(checkpoint, 150);
        let at_once = trace(&model, &tokens, tokens.len());
        assert_equal_traces(&at_once, &trace(&model, &tokens, 1));
        let mut session = Session::new(Arc::clone(&model), true);
        for chunk in tokens.chunks(37) {
            session.prefill(chunk).unwrap();
        }
        assert_equal_traces(&at_once, &session.into_trace().unwrap().unwrap());
        for threads in [1, 2, 5] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            assert_equal_traces(&at_once, &pool.install(|| trace(&model, &tokens, 100)));
        }
    }
}

#[test]
fn cached_rows_hold_the_keys_of_a_group_then_its_values() {
    let checkpoint = tiny();
    // Without a key matrix all keys are zero; without a value matrix all values are.
    for (matrix, keys_are_zero) in [(1, true), (2, false)] {
        let mut altered = checkpoint.clone();
        altered.tensors.layers[0].matrices[matrix].fill(0.0);
        let trace = trace(&model(&altered, Profile::Bf16V1), &tokens(&checkpoint, 5), 3);
        for group in 0..altered.architecture.kv_heads {
            let cached = row(&trace, TreeId::Kv(LayerIndex::new(0), KvGroup::new(group)), 4);
            let (keys, values) = cached.split_at(altered.architecture.head_dim as usize);
            let is_zero = |row: &[f64]| row.iter().all(|x| *x == 0.0);
            assert_eq!((is_zero(keys), is_zero(values)), (keys_are_zero, !keys_are_zero));
        }
    }
}

#[test]
fn layers_without_output_matrices_leave_the_stream_alone() {
    let mut checkpoint = tiny();
    for matrix in [3, 6] {
        checkpoint.tensors.layers[1].matrices[matrix].fill(0.0);
    }
    let trace = trace(&model(&checkpoint, Profile::Bf16V1), &tokens(&checkpoint, 6), 4);
    let rows = |layer| trace.rows(TreeId::H(LayerIndex::new(layer)), 0..6);
    assert_eq!(rows(1), rows(2));
    assert_ne!(rows(0), rows(1));
}

#[test]
fn sessions_on_several_threads_share_a_model() {
    let checkpoint = tiny();
    let model = model(&checkpoint, Profile::Bf16V1);
    let tokens = tokens(&checkpoint, 30);
    let alone = trace(&model, &tokens, 10);
    let traces = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| trace(&model, &tokens, 10))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
    });
    traces.iter().for_each(|other| assert_equal_traces(&alone, other));
}

#[test]
fn rows_that_overflow_are_refused() {
    let mut checkpoint = tiny();
    checkpoint.tensors.layers[1].matrices[3].fill(3e38);
    for profile in BOTH {
        let mut session = Session::new(model(&checkpoint, profile), true);
        let error = session.prefill(&tokens(&checkpoint, 4)).unwrap_err();
        assert!(matches!(error, RunError::NotFinite { .. }), "{error}");
        assert!(error.to_string().contains("the attention branch of layer 1 overflowed"), "{error}");
        let mut session = Session::new(model(&checkpoint, profile), false);
        let error = session.prefill(&tokens(&checkpoint, 4)).unwrap_err();
        assert!(error.to_string().contains("the logits"), "{error}");
    }
}

#[test]
fn tensors_of_another_model_are_refused() {
    let checkpoint = tiny();
    let refusal = |alter: &dyn Fn(&mut Checkpoint)| {
        let mut altered = checkpoint.clone();
        alter(&mut altered);
        Model::new(&altered.architecture, &altered.tensors, Profile::Bf16V1).unwrap_err().to_string()
    };
    for (text, expected) in [
        (refusal(&|c| c.tensors.layers[1].matrices[4].truncate(5)), "the gate_proj of layer 1 has another size"),
        (refusal(&|c| c.tensors.layers[0].small.0[1].clear()), "the post-attention norm of layer 0 has another size"),
        (refusal(&|c| c.tensors.embeddings.clear()), "the embedding table has another size"),
        (refusal(&|c| c.tensors.head = Some(vec![])), "the lm_head has another size"),
        (refusal(&|c| c.tensors.final_norm.push(1.0)), "the final norm has another size"),
        (refusal(&|c| c.tensors.layers.truncate(1)), "there are 1 decoder layers"),
        (refusal(&|c| c.architecture.heads = 3), "kv_heads is out of range"),
    ] {
        assert!(text.contains(expected), "{text}");
    }
}

#[test]
fn a_model_may_be_sent_between_threads() {
    fn assert_shared<T: Send + Sync>() {}
    assert_shared::<Model>();
    assert_shared::<Session>();
    assert_shared::<Architecture>();
}
