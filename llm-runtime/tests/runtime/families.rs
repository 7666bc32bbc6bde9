//! Models of every family give the logits that Hugging Face's transformers gives, and their relatives that
//! differ in more than numbers are refused.

use std::fs;
use std::path::{Path, PathBuf};

use assay_commitments::TokenId;
use assay_commitments::rows::Profile;
use assay_llm_runtime::{Checkpoint, Description, Session};
use safetensors::SafeTensors;
use serde::Deserialize;
use serde_json::Value;
use tempfile::TempDir;

use super::{greedy, model};

/// Largest difference of a logit, as a part of the largest logit of its row.
const TOLERANCE: f32 = 1e-4;
/// The same for quantised models, whose activations and small tensors are bf16 here and f32 there.
const QUANTISED_TOLERANCE: f32 = 0.03;
/// Files of a case that a model folder does not have.
const EXPECTED: [&str; 2] = ["expected.json", "expected.safetensors"];

#[derive(Deserialize)]
struct Expected {
    prompt: Vec<u32>,
    greedy: Vec<u32>,
}

#[derive(Deserialize)]
struct Refusal {
    name: String,
    config: Value,
    words: Vec<String>,
}

fn families() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/families"))
}

/// The cases by name.
fn cases() -> Vec<PathBuf> {
    let entries = fs::read_dir(families()).unwrap().map(|entry| entry.unwrap().path());
    let mut cases: Vec<PathBuf> = entries.filter(|path| path.join(EXPECTED[0]).exists()).collect();
    cases.sort();
    assert_eq!(cases.len(), 20);
    cases
}

/// A case as a whole model folder, with the tokenizer that all share.
fn folder(case: &Path) -> TempDir {
    let folder = TempDir::new().unwrap();
    fs::copy(families().join("tokenizer.json"), folder.path().join("tokenizer.json")).unwrap();
    for entry in fs::read_dir(case).unwrap().map(Result::unwrap) {
        if EXPECTED.iter().all(|name| entry.file_name() != *name) {
            fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
        }
    }
    folder
}

/// Logits after the prompt and after each greedy token.
fn logits(case: &Path) -> Vec<Vec<f32>> {
    let bytes = fs::read(case.join(EXPECTED[1])).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensor = file.tensor("logits").unwrap();
    let values = tensor.data().chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()));
    let values: Vec<f32> = values.collect();
    values.chunks(tensor.shape()[1]).map(<[f32]>::to_vec).collect()
}

/// How far logits are from the expected ones, as a part of the largest of these.
fn distance(expected: &[f32], found: &[f32]) -> f32 {
    assert_eq!(expected.len(), found.len());
    let largest = |values: &mut dyn Iterator<Item = f32>| values.fold(0.0, |a: f32, b| a.max(b.abs()));
    let apart = largest(&mut expected.iter().zip(found).map(|(a, b)| a - b));
    assert!(found.iter().all(|value| value.is_finite()));
    apart / largest(&mut expected.iter().copied())
}

/// What differs between a case and what this runtime makes of it.
fn difference(case: &Path) -> Result<(), String> {
    let expected: Expected = serde_json::from_slice(&fs::read(case.join(EXPECTED[0])).unwrap()).unwrap();
    let folder = folder(case);
    let natural = Description::read(folder.path()).and_then(|description| description.profile(None));
    let (profile, tolerance) = match natural.map_err(|error| error.to_string())? {
        Profile::Bf16W8V1 => (Profile::Bf16W8V1, QUANTISED_TOLERANCE),
        Profile::Bf16V1 | Profile::F32V1 => (Profile::F32V1, TOLERANCE),
    };
    let checkpoint = Checkpoint::load(folder.path(), profile).map_err(|error| error.to_string())?;
    let mut session = Session::new(model(&checkpoint, profile), false);
    let prompt: Vec<TokenId> = expected.prompt.into_iter().map(TokenId::new).collect();
    let rows = logits(case);
    assert_eq!(rows.len(), expected.greedy.len() + 1);
    let mut found = session.prefill(&prompt).map_err(|error| error.to_string())?;
    for (step, row) in rows.iter().enumerate() {
        let apart = distance(row, &found);
        if apart > tolerance {
            return Err(format!("logits after {step} greedy tokens are {apart} apart"));
        }
        if let Some(&token) = expected.greedy.get(step) {
            let picked = greedy(&found);
            if picked != TokenId::new(token) {
                return Err(format!("greedy token {step} is {picked}, not {token}"));
            }
            found = session.step(picked).map_err(|error| error.to_string())?;
        }
    }
    Ok(())
}

#[test]
fn every_family_gives_the_expected_logits() {
    let differences: Vec<String> = cases()
        .iter()
        .filter_map(|case| difference(case).err().map(|text| format!("{}: {text}", case.display())))
        .collect();
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[test]
fn relatives_are_refused_by_what_they_differ_in() {
    let refusals: Vec<Refusal> = serde_json::from_slice(&fs::read(families().join("refusals.json")).unwrap()).unwrap();
    for Refusal { name, config, words } in refusals {
        let folder = TempDir::new().unwrap();
        fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        let text = Description::read(folder.path()).expect_err(&name).to_string();
        assert!(!text.contains('\n'), "{name}: {text}");
        for word in words {
            assert!(text.contains(&word), "{name}: {text:?} should say {word:?}");
        }
    }
}
