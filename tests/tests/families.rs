//! Every family of models in every profile: honest sessions are accepted, and leaving out what makes a
//! family is rejected where it belongs.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use assay_audit::challenge::{Challenge, Lengths};
use assay_audit::measure::{Reference, margins};
use assay_audit::model::ModelTensors;
use assay_audit::policy::Policy;
use assay_audit::verdict::{Margin, Reason, Relation, Verdict};
use assay_cli::local::LocalModel;
use assay_commitments::manifest::{Biases, Matrix, Small};
use assay_commitments::rows::{Profile, decode_row, round_bf16};
use assay_commitments::trace::{Trace, TraceRows, TreeId};
use assay_commitments::{KvGroup, LayerIndex, TokenId};
use assay_llm_runtime::quantize::{self, Format};
use assay_llm_runtime::synthetic::{self, Numbers, Quantization};
use assay_llm_runtime::{Checkpoint, Engine, EngineLimits, Model, Session};
use assay_miner::HonestBackend;
use assay_tamper::Random;
use assay_tests::odds::chance;
use assay_tests::{in_parallel, session};

const PROMPT: &str = "the quick brown fox jumps over the lazy dog, again and again";

/// Numbers of a model of each kind.
fn families() -> [(&'static str, Numbers); 5] {
    let plain = Numbers { hidden: 64, ffn: 96, head_dim: 16, ..Numbers::TINY };
    [
        ("llama", plain),
        ("llama with biases", Numbers { biases: Biases::Qkvo, kv_heads: 4, ..plain }),
        ("mistral", Numbers { window: Some(11), ..plain }),
        ("qwen2", Numbers { biases: Biases::Qkv, window: Some(24), tied: true, ..plain }),
        ("qwen3", Numbers { head_norms: true, kv_heads: 1, head_dim: 24, tied: true, ..plain }),
    ]
}

fn local(checkpoint: &Checkpoint) -> LocalModel {
    LocalModel::of(checkpoint, &mut |_, _| ()).expect("a synthetic model commits")
}

/// What a complete proof of another model's answer is judged, where that model is claimed.
fn judged(local: &LocalModel, served: &Model) -> Verdict {
    let backend = HonestBackend {
        engine: Arc::new(Engine::start(Arc::new(served.clone()), EngineLimits::default())),
        ..local.backend()
    };
    let mut audit = session(PROMPT, 6, 5);
    audit.policy = Policy::Everything;
    let file = audit.run(local, &backend).expect("a synthetic model answers");
    file.judge(&|_| None).verdict
}

#[test]
fn honest_sessions_of_every_family_and_profile_are_accepted() {
    for (name, numbers) in families() {
        for profile in [Profile::Bf16V1, Profile::F32V1] {
            let checkpoint = Checkpoint { profile, ..synthetic::checkpoint(&numbers, 21) };
            let local = local(&checkpoint);
            assert_eq!(judged(&local, &local.model), Verdict::Accepted, "{name} {}", profile.name());
            for seed in 0..6 {
                let file = session(PROMPT, 20, seed).run(&local, &local.backend()).expect("a synthetic model answers");
                assert_eq!(file.judge(&|_| None).verdict, Verdict::Accepted, "{name} {} {seed}", profile.name());
            }
        }
    }
}

/// In a head of few elements one that rounds to the other side is much of all, and seven groups in ten thousand have one.
#[test]
fn honest_cells_of_narrow_heads_are_accepted() {
    for head_dim in [2, 4, 6] {
        let numbers = Numbers { heads: 8, kv_heads: 8, head_dim, ..families()[0].1 };
        let local = local(&synthetic::checkpoint(&numbers, 21));
        for seed in 0..8 {
            let mut audit = session(PROMPT, 40, seed);
            audit.policy = Policy::Everything;
            let file = audit.run(&local, &local.backend()).expect("a synthetic model answers");
            assert_eq!(file.judge(&|_| None).verdict, Verdict::Accepted, "{head_dim} {seed}");
        }
    }
}

#[test]
fn honest_sessions_of_quantised_folders_are_accepted() {
    for (name, numbers) in families() {
        for quantization in [Quantization::INT4, Quantization { bits: 8, group_size: None, ..Quantization::INT4 }] {
            let folder = tempfile::tempdir().expect("there is room for a folder");
            // A head of 24 is no multiple of what a word of the layout holds.
            let numbers = Numbers { head_dim: 16, ..numbers };
            synthetic::write_gptq(&numbers, quantization, 3, folder.path()).expect("a folder can be written");
            let local = LocalModel::load(folder.path(), &mut |_, _| ()).expect("a quantised folder is a model");
            assert_eq!(local.model.profile(), Profile::Bf16W8V1);
            assert_eq!(judged(&local, &local.model), Verdict::Accepted, "{name}");
        }
    }
}

/// Multiplies the weights of one output of a matrix in every layer.
fn scale_output(checkpoint: &mut Checkpoint, matrix: Matrix, output: usize, factor: f32) {
    let inputs = usize::try_from(checkpoint.architecture.shape(matrix).inputs).expect("shapes are small");
    for layer in &mut checkpoint.tensors.layers {
        let weights = &mut layer.matrices[matrix.index()];
        weights[output * inputs..][..inputs].iter_mut().for_each(|weight| *weight *= factor);
    }
}

/// How many rows have a value that towers over all others.
fn massive_rows(model: &Model, tree: TreeId, values: std::ops::Range<usize>) -> usize {
    let tokens: Vec<TokenId> = (1..60).map(TokenId::new).collect();
    let trace = trace(model, &tokens);
    let row = |position: usize| {
        let bytes = trace.rows(tree, position..position + 1).expect("the position was passed");
        let row = decode_row(model.profile(), &bytes).expect("a committed row is canonical");
        let mut sizes: Vec<f64> = row[values.clone()].iter().map(|value| value.abs()).collect();
        sizes.sort_by(f64::total_cmp);
        sizes
    };
    (0..tokens.len()).map(row).filter(|sizes| sizes[sizes.len() - 1] > 512.0 * sizes[(sizes.len() - 1) / 2]).count()
}

/// Values, outputs of attention and of the MLP of which one towers over its row, as in large models: it is proven singly,
/// and not free.
#[test]
fn honest_rows_with_a_massive_value_are_accepted_and_others_not() {
    let (_, numbers) = families()[0];
    let layer = LayerIndex::new(0);
    let rows = TreeId::Kv(layer, KvGroup::new(0));
    let cases = [
        (Matrix::V, rows, 16..32, Reason::C4),
        (Matrix::O, TreeId::O(layer), 0..64, Reason::C6),
        (Matrix::Down, TreeId::M(layer), 0..64, Reason::C9),
    ];
    for (profile, (matrix, tree, values, reason)) in
        [Profile::Bf16V1, Profile::F32V1].into_iter().flat_map(|profile| cases.clone().map(|case| (profile, case)))
    {
        let mut checkpoint = Checkpoint { profile, ..synthetic::checkpoint(&numbers, 21) };
        scale_output(&mut checkpoint, matrix, 5, 1024.0);
        let local = local(&checkpoint);
        let massive = massive_rows(&local.model, tree, values);
        assert!(massive > 30, "{massive} rows of {matrix:?}");
        assert_eq!(judged(&local, &local.model), Verdict::Accepted, "{} {matrix:?}", profile.name());
        // That output alone, a little off.
        scale_output(&mut checkpoint, matrix, 5, 1.0625);
        let altered =
            Model::new(&checkpoint.architecture, &checkpoint.tensors, profile).expect("an altered model runs");
        let Verdict::Rejected(failure) = judged(&local, &altered) else { panic!("{} {matrix:?}", profile.name()) };
        assert_eq!(failure.reason, reason, "{} {matrix:?}", profile.name());
    }
}

/// The reason for which a model is rejected that lacks what the claimed one has.
fn rejection(numbers: &Numbers, profile: Profile, alter: &dyn Fn(&mut Checkpoint)) -> Reason {
    let mut checkpoint = Checkpoint { profile, ..synthetic::checkpoint(numbers, 21) };
    let local = local(&checkpoint);
    alter(&mut checkpoint);
    let altered = Model::new(&checkpoint.architecture, &checkpoint.tensors, profile).expect("an altered model runs");
    match judged(&local, &altered) {
        Verdict::Rejected(failure) => failure.reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_makes_a_family_cannot_be_left_out() {
    let [_, (_, biased), (_, mistral), _, (_, qwen3)] = families();
    let zero = |small: Small| {
        move |checkpoint: &mut Checkpoint| {
            checkpoint.tensors.layers.iter_mut().for_each(|layer| layer.small.0[small.index()].fill(0.0));
        }
    };
    let one = |small: Small| {
        move |checkpoint: &mut Checkpoint| {
            checkpoint.tensors.layers.iter_mut().for_each(|layer| layer.small.0[small.index()].fill(1.0));
        }
    };
    let window = |window| move |checkpoint: &mut Checkpoint| checkpoint.architecture.window = window;
    for profile in [Profile::Bf16V1, Profile::F32V1] {
        let rejection = |numbers: &Numbers, alter: &dyn Fn(&mut Checkpoint)| rejection(numbers, profile, alter);
        assert_eq!(rejection(&biased, &zero(Small::QueryBias)), Reason::C5);
        assert_eq!(rejection(&biased, &zero(Small::KeyBias)), Reason::C3);
        assert_eq!(rejection(&biased, &zero(Small::ValueBias)), Reason::C4);
        assert_eq!(rejection(&biased, &zero(Small::OutputBias)), Reason::C6);
        assert_eq!(rejection(&qwen3, &one(Small::QueryNorm)), Reason::C5);
        assert_eq!(rejection(&qwen3, &one(Small::KeyNorm)), Reason::C3);
        assert_eq!(rejection(&mistral, &window(None)), Reason::C5);
        assert_eq!(rejection(&mistral, &window(Some(10))), Reason::C5);
        assert_eq!(rejection(&mistral, &window(Some(12))), Reason::C5);
    }
}

/// Changes every weight of the layers' matrices.
fn change_weights(tensors: &mut ModelTensors, change: impl Fn(f32) -> f32) {
    let matrices = tensors.layers.iter_mut().flat_map(|layer| &mut layer.matrices);
    matrices.flatten().for_each(|weight| *weight = change(*weight));
}

#[test]
fn bf16_weights_show_under_the_profile_of_f32() {
    let (_, numbers) = families()[0];
    let mut checkpoint = Checkpoint { profile: Profile::F32V1, ..synthetic::checkpoint(&numbers, 21) };
    // Synthetic weights are numbers of bf16; these are not.
    change_weights(&mut checkpoint.tensors, |weight| weight * 1.003);
    let local = local(&checkpoint);
    assert_eq!(judged(&local, &local.model), Verdict::Accepted);
    change_weights(&mut checkpoint.tensors, round_bf16);
    let rounded = Model::new(&checkpoint.architecture, &checkpoint.tensors, Profile::F32V1).expect("it runs");
    let Verdict::Rejected(failure) = judged(&local, &rounded) else { panic!("weights of half the size are seen") };
    assert!([Reason::C3, Reason::C4, Reason::C5, Reason::C6, Reason::C9].contains(&failure.reason), "{failure:?}");
}

/// The cells of complete traces, measured with the weights at hand.
#[test]
fn no_honest_cell_of_a_hundred_thousand_comes_near_a_threshold() {
    let counted = Mutex::new((0, BTreeMap::<(&str, &str), f64>::new(), 0.0));
    let cases = families().into_iter().flat_map(|family| Profile::ALL.map(|profile| (family, profile)));
    let cases: Vec<_> = (0..20).flat_map(|seed| cases.clone().map(move |case| (case, seed))).collect();
    in_parallel(cases, |(((name, numbers), profile), seed)| {
        // Narrow rows have the largest ratios; some are wider.
        let numbers = if seed % 4 == 0 { Numbers { hidden: 160, ffn: 416, ..numbers } } else { numbers };
        let checkpoint = Checkpoint { profile, ..synthetic::checkpoint(&numbers, seed) };
        let Checkpoint { architecture, tensors, .. } = &checkpoint;
        let reference = Reference::new(architecture, tensors, profile).expect("a synthetic model has a reference");
        let model = Arc::new(Model::new(architecture, tensors, profile).expect("a synthetic model runs"));
        let mut random = Random::new(seed);
        for _ in 0..2 {
            let mut session = Session::new(Arc::clone(&model), true);
            let mut left = 96;
            while left > 0 {
                let pass = (1 + random.below(24)).min(left);
                let tokens: Vec<TokenId> = (0..pass)
                    .map(|_| TokenId::new(u32::try_from(random.below(100)).expect("tokens are few")))
                    .collect();
                session.prefill(&tokens).expect("it fits the context");
                left -= pass;
            }
            let trace = session.into_trace().expect("nothing overflows").expect("it was captured");
            let lengths = Lengths::new(96, 1).expect("it has tokens");
            let margins = margins(&reference, &trace, &Challenge::everything(architecture, lengths));
            let mut counted = counted.lock().unwrap_or_else(PoisonError::into_inner);
            counted.0 += 96 * u64::from(architecture.layers);
            for margin in margins.expect("the trace is whole") {
                let relation = margin.place.relation.map_or("", |relation| relation.name());
                let largest = counted.1.entry((name, relation)).or_default();
                *largest = largest.max(margin.ratio);
                counted.2 += chance(&margin);
            }
        }
    });
    let (cells, largest, rejections) = counted.into_inner().unwrap_or_else(PoisonError::into_inner);
    println!("{cells} cells, {rejections:.2e} of them expected to be rejected");
    for ((name, relation), ratio) in &largest {
        println!("{name:18} {relation:4} {ratio:.4}");
    }
    // A sketch sees a margin with noise: nearer than this it would reject one now and then.
    assert!(cells >= 100_000 && rejections < 1e-3);
}

/// The same through prover and verifier. `cargo test --release --test families -- --ignored --nocapture a_hundred_thousand`
#[test]
#[ignore = "takes minutes"]
fn honest_proofs_of_a_hundred_thousand_cells_are_accepted() {
    let counted = Mutex::new((0, 0, 0));
    let profiles = [Profile::Bf16V1, Profile::F32V1];
    let cases = families().into_iter().flat_map(|family| profiles.map(|profile| (family, profile)));
    let cases: Vec<_> = (0..12).flat_map(|seed| cases.clone().map(move |case| (case, seed))).collect();
    in_parallel(cases, |(((name, numbers), profile), seed)| {
        let local = local(&Checkpoint { profile, ..synthetic::checkpoint(&numbers, 300 + seed) });
        for answer in 0..4 {
            let mut audit = session(&PROMPT.repeat(2)[..100], 24, 4 * seed + answer);
            audit.policy = Policy::Everything;
            let file = audit.run(&local, &local.backend()).expect("a synthetic model answers");
            let judgement = file.judge(&|_| None);
            assert_eq!(judgement.verdict, Verdict::Accepted, "{name} {} {seed}", profile.name());
            let challenge = judgement.report.challenge.expect("everything is asked for");
            let mut counted = counted.lock().unwrap_or_else(PoisonError::into_inner);
            counted.0 += 1;
            counted.1 += challenge.cells.len();
            counted.2 += challenge.decodes.len();
        }
    });
    let (answers, cells, decodes) = counted.into_inner().unwrap_or_else(PoisonError::into_inner);
    println!("{answers} answers, {cells} cells and {decodes} decodes, all accepted");
    assert!(cells >= 100_000, "{cells}");
}

/// The margins of all cells of a run over `count` tokens, served with `tensors` where `claimed` is claimed.
fn margins_of(claimed: &Checkpoint, tensors: &ModelTensors, count: u32) -> Vec<Margin> {
    let Checkpoint { architecture, profile, .. } = claimed;
    let reference =
        Reference::new(architecture, &claimed.tensors, *profile).expect("a synthetic model has a reference");
    let trace = trace(&Model::new(architecture, tensors, *profile).expect("a synthetic model runs"), &tokens(count));
    let lengths = Lengths::new(count as usize, 1).expect("it has tokens");
    margins(&reference, &trace, &Challenge::everything(architecture, lengths)).expect("it is whole")
}

fn tokens(count: u32) -> Vec<TokenId> {
    (0..count).map(|place| TokenId::new(2 + place * 37 % 90)).collect()
}

/// The rows of a run over these tokens.
fn trace(model: &Model, tokens: &[TokenId]) -> Trace {
    let mut session = Session::new(Arc::new(model.clone()), true);
    session.prefill(tokens).expect("it fits the context");
    session.into_trace().expect("nothing overflows").expect("it was captured")
}

fn worst_margin(checkpoint: &Checkpoint, count: u32) -> f64 {
    margins_of(checkpoint, &checkpoint.tensors, count).iter().map(|margin| margin.ratio).fold(0.0, f64::max)
}

#[test]
fn a_bias_far_above_its_product_is_no_ground_for_rejection() {
    let numbers = Numbers { hidden: 128, layers: 1, heads: 8, kv_heads: 4, head_dim: 16, ..Numbers::TINY };
    for bias in [Small::ValueBias, Small::OutputBias] {
        let mut checkpoint = synthetic::checkpoint(&Numbers { biases: Biases::Qkvo, ..numbers }, 3);
        checkpoint.tensors.layers[0].small.0[bias.index()].iter_mut().for_each(|bias| *bias *= 1024.0);
        assert!(worst_margin(&checkpoint, 30) < 1.0, "{}", bias.name());
        let local = local(&checkpoint);
        assert_eq!(judged(&local, &local.model), Verdict::Accepted, "{}", bias.name());
    }
}

/// A few channels with key biases in the hundreds, as real models have them: scores in the thousands, of which
/// f32 keeps few places behind the point.
#[test]
fn large_key_biases_are_no_ground_for_rejection() {
    let numbers = Numbers {
        hidden: 256,
        layers: 1,
        kv_heads: 2,
        head_dim: 64,
        max_positions: 256,
        biases: Biases::Qkv,
        ..Numbers::TINY
    };
    let mut checkpoint = synthetic::checkpoint(&numbers, 3);
    for (bias, factor) in [(Small::KeyBias, 1200.0), (Small::QueryBias, 80.0)] {
        let biases = checkpoint.tensors.layers[0].small.0[bias.index()].iter_mut().enumerate();
        biases.filter(|(place, _)| (28..32).contains(&(place % 64))).for_each(|(_, bias)| *bias *= factor);
    }
    for profile in [Profile::Bf16V1, Profile::F32V1] {
        let worst = worst_margin(&Checkpoint { profile, ..checkpoint.clone() }, 240);
        assert!(worst < 1.0, "{}: {worst}", profile.name());
    }
}

/// The share of a relation's margins that are within bounds.
fn within(margins: &[Margin], relation: Relation) -> f64 {
    let (mut within, mut all) = (0.0, 0.0);
    for margin in margins.iter().filter(|margin| margin.place.relation == Some(relation)) {
        within += f64::from(u8::from(margin.ratio <= 1.0));
        all += 1.0;
    }
    within / all
}

/// Claims a model whose key biases have `factor` times the magnitude of the products that they are added to (in the
/// first `channels` of every 16) and serves one with other key weights.
fn keys_within(factor: f32, channels: usize, change: &dyn Fn(&mut Vec<f32>, usize)) -> f64 {
    let numbers =
        Numbers { hidden: 256, layers: 1, heads: 8, kv_heads: 8, head_dim: 16, biases: Biases::Qkv, ..Numbers::TINY };
    let mut checkpoint = synthetic::checkpoint(&numbers, 3);
    let bias = Small::KeyBias.index();
    let signs = std::mem::take(&mut checkpoint.tensors.layers[0].small.0[bias]);
    checkpoint.tensors.layers[0].small.0[bias] = vec![0.0; signs.len()];
    // Without biases keys are products, turned.
    let plain = Model::new(&checkpoint.architecture, &checkpoint.tensors, Profile::Bf16V1).expect("it runs");
    let rows =
        trace(&plain, &tokens(30)).rows(TreeId::Kv(LayerIndex::new(0), KvGroup::new(0)), 0..30).expect("it is whole");
    let values = decode_row(Profile::Bf16V1, &rows).expect("committed rows are canonical");
    let (mut squares, mut count) = (0.0, 0_u16);
    for key in values.chunks(32).flat_map(|row| &row[..16]) {
        squares += key * key;
        count += 1;
    }
    #[expect(clippy::cast_possible_truncation, reason = "a bias is single")]
    let size = (squares / f64::from(count)).sqrt() as f32;
    for (place, sign) in signs.iter().enumerate().filter(|(place, _)| place % 16 < channels) {
        checkpoint.tensors.layers[0].small.0[bias][place] = round_bf16((factor * size).copysign(*sign));
    }
    let mut served = checkpoint.tensors.clone();
    change(&mut served.layers[0].matrices[Matrix::K.index()], 256);
    within(&margins_of(&checkpoint, &served, 30), Relation::C3)
}

/// A limit, stated on the page on security: a row's tolerance follows the row, and so its bias.
#[test]
fn a_bias_far_above_its_product_shelters_int8_keys() {
    let int8 = |weights: &mut Vec<f32>, inputs| quantize::matrix(weights, inputs, Format::Int8Channel);
    let zero = |weights: &mut Vec<f32>, _| weights.fill(0.0);
    // Where the bias is no larger than the product, or beside channels whose bias is, hardly a head passes.
    assert!(keys_within(1.0, 16, &int8) < 0.05 && keys_within(16.0, 2, &int8) < 0.05);
    assert!(keys_within(16.0, 16, &int8) > 0.9);
    assert!(keys_within(100.0, 16, &zero) == 0.0 && keys_within(10_000.0, 16, &zero) == 1.0);
}

/// A limit, stated on the page on security.
#[test]
fn weights_of_eleven_fraction_bits_always_show_under_f32_1_of_sixteen_never() {
    for numbers in [families()[0].1, Numbers { hidden: 320, ffn: 864, ..families()[0].1 }] {
        let mut checkpoint = Checkpoint { profile: Profile::F32V1, ..synthetic::checkpoint(&numbers, 21) };
        change_weights(&mut checkpoint.tensors, |weight| weight * 1.003);
        // The least and the largest of the cells' worst margins, with weights of so many fraction bits.
        let cells = |bits: u32| {
            let mut served = checkpoint.tensors.clone();
            let unit = 1_u32 << (23 - bits);
            change_weights(&mut served, |weight| f32::from_bits((weight.to_bits() + unit / 2) & !(unit - 1)));
            let mut cells = BTreeMap::<_, f64>::new();
            for margin in margins_of(&checkpoint, &served, 30) {
                let worst = cells.entry((margin.place.layer, margin.place.position)).or_default();
                *worst = worst.max(margin.ratio);
            }
            cells.into_values().fold((f64::INFINITY, 0.0_f64), |(least, most), of| (least.min(of), most.max(of)))
        };
        let (eleven, twelve, sixteen) = (cells(11), cells(12), cells(16));
        assert!(
            eleven.0 > 1.0 && twelve.0 < 1.0 && twelve.1 > 1.0 && sixteen.1 < 1.0,
            "{eleven:?} {twelve:?} {sixteen:?}"
        );
    }
}

/// A limit, stated on the page on security: of lm_head, picks are proven.
#[test]
fn lm_head_of_int8_is_accepted_where_the_picks_agree() {
    let (_, numbers) = families()[0];
    let checkpoint = synthetic::checkpoint(&Numbers { vocab_size: 512, ..numbers }, 21);
    let local = local(&checkpoint);
    let mut served = checkpoint.tensors.clone();
    let head = served.head.as_mut().expect("it is not tied");
    quantize::matrix(head, 64, Format::Int8Channel);
    assert_ne!(Some(&*head), checkpoint.tensors.head.as_ref());
    let served = Model::new(&checkpoint.architecture, &served, checkpoint.profile).expect("it runs");
    assert_eq!(judged(&local, &served), Verdict::Accepted);
}
