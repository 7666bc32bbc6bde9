//! Rows 5 to 7: attention, drift, and rows that are not those of one execution.

use std::sync::Arc;

use assay_audit::prompt::prompt_tokens;
use assay_audit::request::Request;
use assay_audit::tolerance::Tolerance;
use assay_audit::verdict::{Relation, Verdict, Where};
use assay_cli::local::LocalModel;
use assay_commitments::manifest::{Architecture, Biases, Matrix, Small};
use assay_commitments::trace::{Trace, TraceCommitment, TraceRows, TreeId};
use assay_commitments::{KvGroup, LayerIndex, Position, TokenId};
use assay_llm_runtime::quantize::{self, Format};
use assay_llm_runtime::{Checkpoint, Generate, Model, Session, generate};
use assay_tests::adversary::{Adversary, Answer, Proving, Rows, Seat};
use assay_tests::arena::{Arena, keys};
use assay_tests::fixture;

use crate::table::{Cheat, altered, checkpoint, claimed, in_the_first_cell, verdict};

/// Positions to which the short-sighted miner attends.
const WINDOW: usize = 6;
/// Width of a head of the fixture.
const HEAD: usize = 32;

/// The request's prompt as tokens.
fn true_prompt(local: &LocalModel, request: &Request) -> Vec<TokenId> {
    prompt_tokens(&request.prompt, &local.assets.tokenizer, local.assets.template.as_ref()).unwrap()
}

/// The rows of a model over tokens.
fn trace_of(model: &Arc<Model>, tokens: &[TokenId]) -> Trace {
    let mut session = Session::new(Arc::clone(model), true);
    session.prefill(tokens).unwrap();
    session.into_trace().unwrap().unwrap()
}

/// The tokens that a commitment's rows stand over.
fn fed(commitment: &TraceCommitment) -> Vec<TokenId> {
    let fed_back = &commitment.output[..commitment.output.len() - 1];
    commitment.prompt.iter().chain(fed_back).copied().collect()
}

/// The prompt of another request, of the same length: other words at positions 2 to 6.
fn other_prompt(prompt: &[TokenId]) -> Vec<TokenId> {
    let mut other = prompt.to_vec();
    other[2..7].rotate_left(2);
    other
}

/// Answers from the rows of another prompt, with the input rows of the right one.
fn prefix_replaced() -> Cheat {
    let (writing, seeing, naming) = (fixture(), fixture(), fixture());
    let adversary = claimed()
        .written(move |request, answer| {
            let prompt = other_prompt(&true_prompt(&writing, request));
            let rule = Generate {
                prompt: &prompt,
                sampling: request.sampling,
                tokenizer: &writing.assets.tokenizer,
                stop: &request.stop,
                max_tokens: request.max_tokens,
                capture: false,
            };
            let written = generate(&writing.model, &rule, &mut |_| std::ops::ControlFlow::Continue(())).unwrap();
            *answer = Answer { output: written.output, finish: written.finish.unwrap(), prompt };
        })
        .rows(move |request, rows| {
            let prompt = true_prompt(&seeing, request);
            let honest = Rows::of(&trace_of(&seeing.model, &prompt), seeing.model.profile());
            rows.take(&honest, TreeId::H(LayerIndex::new(0)), 0..prompt.len());
        })
        .commitment(move |request, commitment| commitment.prompt = true_prompt(&naming, request));
    Cheat::of(adversary)
}

/// Commits the keys and values of another request at the first positions.
fn anothers_cache() -> Cheat {
    let local = fixture();
    Cheat::of(claimed().rows(move |request, rows| {
        let prompt = other_prompt(&true_prompt(&local, request));
        let other = Rows::of(&trace_of(&local.model, &prompt), local.model.profile());
        for layer in rows.layers() {
            for group in 0..local.model.architecture().kv_heads {
                rows.take(&other, TreeId::Kv(layer, KvGroup::new(group)), 0..7);
            }
        }
    }))
}

/// The fixture whose first head of layer 1 has no part in the attention branch.
fn without_a_head() -> Model {
    altered(|tensors| {
        let output = &mut tensors.layers[1].matrices[Matrix::O.index()];
        output.chunks_mut(4 * HEAD).for_each(|inputs| inputs[..HEAD].fill(0.0));
    })
}

/// The fixture with a bias on every attention branch that always points towards one token: `scale` times the
/// typical tolerance of the branch.
pub(crate) fn drifting(scale: f32) -> Model {
    let Checkpoint { architecture, tensors, profile, .. } = checkpoint();
    let tokens: Vec<TokenId> = (300..340).map(TokenId::new).collect();
    let rows = trace_of(&fixture().model, &tokens);
    let hidden = usize::try_from(architecture.hidden).unwrap();
    let towards = &tensors.embeddings[500 * hidden..][..hidden];
    let mut tensors = tensors.clone();
    let Tolerance { eps_rel, eps_abs, .. } = Tolerance::of(*profile);
    for (number, layer) in (0..).zip(&mut tensors.layers) {
        let branch = rows.rows(TreeId::O(LayerIndex::new(number)), 0..tokens.len()).unwrap();
        let mut magnitudes: Vec<f64> = assay_commitments::rows::decode_row(*profile, &branch).unwrap();
        magnitudes.iter_mut().for_each(|value| *value = value.abs());
        magnitudes.sort_by(f64::total_cmp);
        #[expect(clippy::cast_possible_truncation, reason = "a magnitude of bf16 rows")]
        let tolerance = (magnitudes[magnitudes.len() / 2] * (eps_rel + eps_abs)) as f32;
        for small in [Small::QueryBias, Small::KeyBias, Small::ValueBias] {
            let width = architecture.shape(match small {
                Small::QueryBias => Matrix::Q,
                Small::KeyBias => Matrix::K,
                _ => Matrix::V,
            });
            layer.small.0[small.index()] = vec![0.0; usize::try_from(width.outputs).unwrap()];
        }
        layer.small.0[Small::OutputBias.index()] =
            towards.iter().map(|value| scale * tolerance * value.signum()).collect();
    }
    Model::new(&Architecture { biases: Biases::Qkvo, ..architecture.clone() }, &tensors, *profile).unwrap()
}

fn int8() -> Model {
    let Checkpoint { architecture, tensors, profile, .. } = checkpoint();
    Model::new(architecture, &quantize::model(architecture, tensors, Format::Int8Channel, &Matrix::ALL), *profile)
        .unwrap()
}

/// Proves from the rows that `model` leaves over the committed tokens.
fn proving_from(adversary: Adversary, model: Arc<Model>) -> Adversary {
    adversary.proof(move |proving| {
        let trace = trace_of(&model, &fed(proving.commitment));
        Proving { trace: &trace, ..*proving }.honest()
    })
}

fn from_position(place: &Where, first: usize) -> bool {
    place.position >= Some(Position::new(u32::try_from(first).unwrap()))
}

attacks! {
    /// attention to the last six positions only
    attack_05_window_truncated: Drawn [C5] at |place| from_position(place, WINDOW) => {
        Cheat::of(claimed().model(fixture().model.with_window(WINDOW)))
    };
    /// the rows of a prompt that differs in five tokens, behind the right input rows
    attack_05_prefix_replaced: Drawn [C3] at |place| {
        place.layer == Some(LayerIndex::new(0)) && from_position(place, 2) && !from_position(place, 7)
    } => prefix_replaced();
    /// the keys and values of another request in the cache
    attack_05_anothers_cache: Drawn [C3, C4, C5] at |place| {
        from_position(place, 2) && (place.relation == Some(Relation::C5) || !from_position(place, 7))
    } => anothers_cache();
    /// a head left out of the attention branch
    attack_05_head_dropped: Drawn [C6] at |place| place.layer == Some(LayerIndex::new(1)) => {
        Cheat::of(claimed().model(without_a_head()))
    };
    /// a head left out of the attention branch, and zeros committed as its output
    attack_05_head_cleared: Drawn [C5] at |place| {
        place.layer == Some(LayerIndex::new(1)) && place.group == Some(KvGroup::new(0))
    } => {
        Cheat::of(claimed().model(without_a_head()).rows(|_, rows| {
            for position in 0..rows.positions() {
                rows.change(TreeId::A(LayerIndex::new(1)), position, |row| row[..HEAD].fill(0.0));
            }
        }))
    };
    /// a drift of every layer towards one token, of the tolerance
    attack_06_coherent_drift: Drawn [C6] => Cheat::of(claimed().model(drifting(1.0)));
    /// int8 rows committed, honest rows proven
    attack_07_honest_rows_proven: Always [TraceOpening] at in_the_first_cell => {
        Cheat::of(proving_from(claimed().model(int8()), Arc::clone(&fixture().model))).in_full()
    };
    /// honest rows committed, int8 rows proven
    attack_07_other_rows_proven: Always [TraceOpening] at in_the_first_cell => {
        Cheat::of(proving_from(claimed(), Arc::new(int8()))).in_full()
    };
    /// a residual stream that is not the sum of its branches
    attack_07_stream_cut: Drawn [C10] at |place| place.layer == Some(LayerIndex::new(3)) => {
        Cheat::of(claimed().rows(|_, rows| {
            for position in 0..rows.positions() {
                rows.change(TreeId::H(LayerIndex::new(4)), position, |row| row[0] += 1.0);
            }
        }))
    };
}

/// What the numeric tolerance leaves open, stated: a twenty-fifth of the attack above breaks no relation.
#[tokio::test(flavor = "multi_thread")]
async fn a_drift_inside_every_tolerance_is_accepted() {
    let Cheat { adversary, script, question, .. } = Cheat::of(claimed().model(drifting(0.04)));
    let arena = Arena::new(adversary.local());
    let seat = Seat::start(adversary, keys(1), script).await;
    assert_eq!(verdict(arena.ask(seat.peer(), &question).await), Verdict::Accepted);
}
