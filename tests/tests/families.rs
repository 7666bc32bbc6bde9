//! Every family of models in every profile: honest sessions are accepted, and leaving out what makes a
//! family is rejected where it belongs.

use std::sync::Arc;

use assay_audit::policy::Policy;
use assay_audit::verdict::{Reason, Verdict};
use assay_cli::local::LocalModel;
use assay_commitments::manifest::{Biases, Small};
use assay_commitments::rows::{Profile, round_bf16};
use assay_llm_runtime::synthetic::{self, Numbers, Quantization};
use assay_llm_runtime::{Checkpoint, Engine, EngineLimits, Model};
use assay_miner::HonestBackend;
use assay_tests::session;

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

#[test]
fn bf16_weights_show_under_the_profile_of_f32() {
    let (_, numbers) = families()[0];
    let mut checkpoint = Checkpoint { profile: Profile::F32V1, ..synthetic::checkpoint(&numbers, 21) };
    let weights = |checkpoint: &mut Checkpoint, change: fn(f32) -> f32| {
        let matrices = checkpoint.tensors.layers.iter_mut().flat_map(|layer| &mut layer.matrices);
        matrices.flatten().for_each(|weight| *weight = change(*weight));
    };
    // Synthetic weights are numbers of bf16; these are not.
    weights(&mut checkpoint, |weight| weight * 1.003);
    let local = local(&checkpoint);
    assert_eq!(judged(&local, &local.model), Verdict::Accepted);
    weights(&mut checkpoint, round_bf16);
    let rounded = Model::new(&checkpoint.architecture, &checkpoint.tensors, Profile::F32V1).expect("it runs");
    let Verdict::Rejected(failure) = judged(&local, &rounded) else { panic!("weights of half the size are seen") };
    assert!([Reason::C3, Reason::C4, Reason::C5, Reason::C6, Reason::C9].contains(&failure.reason), "{failure:?}");
}
