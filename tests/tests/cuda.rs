//! What the CPU computes, a CUDA device computes too: only built with the feature `cuda`, only run where one is.

use std::ops::ControlFlow;
use std::sync::Arc;

use assay_audit::prompt::Tokenizer;
use assay_audit::sampling::Sampling;
use assay_audit::verdict::Verdict;
use assay_cli::calibration::{Cheat, Plan, Subject, measure};
use assay_cli::local::LocalModel;
use assay_commitments::TokenId;
use assay_commitments::manifest::Matrix;
use assay_commitments::rows::Profile;
use assay_llm_runtime::quantize::Format;
use assay_llm_runtime::{Checkpoint, Device, Generate, Model, generate};
use assay_tests::{fixture_folder, session};

fn device() -> Device {
    Device::cuda(0).expect("there is a CUDA device")
}

#[test]
fn honest_rows_stay_within_their_thresholds_and_cheats_do_not() {
    for profile in [Profile::Bf16V1, Profile::F32V1] {
        let subject = Subject::load(&fixture_folder(), Some(profile)).unwrap().on(&device()).unwrap();
        let int8 = Cheat::Format(Format::Int8Channel, Matrix::ALL.to_vec());
        let plan =
            Plan { cheats: vec![int8, Cheat::SplitProducts(8), Cheat::Int8Cache], ..Plan::full(&subject, 48, 400) };
        let found = measure(&subject, &plan, &mut |_, _| ()).unwrap();
        println!("{profile:?}: {found:#?}");
        assert_eq!(found.device, "cuda");
        assert!(found.honest_max < 1.0, "{profile:?}: {}", found.honest_max);
        assert!(found.cheats.iter().all(|cheat| cheat.largest.rejected > 0.5), "{profile:?}: {:?}", found.cheats);
    }
}

#[test]
fn tokens_are_those_of_the_cpu() {
    let checkpoint = Checkpoint::load(&fixture_folder(), Profile::F32V1).unwrap();
    let tokenizer = Tokenizer::from_bytes(&checkpoint.tokenizer).unwrap();
    let prompt = tokenizer.encode("In the beginning").unwrap();
    let on_cpu = Model::new(&checkpoint.architecture, &checkpoint.tensors, Profile::F32V1).unwrap();
    let [tokens, expected] = [on_cpu.on(&device()).unwrap(), on_cpu].map(|model| -> Vec<TokenId> {
        let sampling = Sampling::GREEDY;
        let plan =
            Generate { prompt: &prompt, sampling, tokenizer: &tokenizer, stop: &[], max_tokens: 60, capture: false };
        generate(&Arc::new(model), &plan, &mut |_| ControlFlow::Continue(())).unwrap().output
    });
    assert_eq!(tokens, expected);
}

#[test]
fn honest_sessions_are_accepted() {
    let model = LocalModel::load(&fixture_folder(), &mut |_, _| ()).unwrap();
    let model = Arc::new(LocalModel { model: Arc::new(model.model.on(&device()).unwrap()), ..model });
    let backend = model.backend();
    for seed in 0..20 {
        let file = session("And God said unto them,", 60, seed).run(&model, &backend).unwrap();
        assert_eq!(file.judge(&|_| None).verdict, Verdict::Accepted, "seed {seed}");
    }
}
