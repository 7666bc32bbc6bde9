//! Model folders: what is read, and what is refused with which words.

use std::fs;
use std::path::Path;

use assay_audit::commit::{Committer, ModelWeights, PolynomialWeights, Surroundings, Tensor, manifest};
use assay_audit::model::CommittedModel;
use assay_audit::prompt::{ChatTemplate, Message};
use assay_commitments::manifest::{ArchitectureError, Biases, Manifest, Matrix};
use assay_commitments::params::CodeParams;
use assay_commitments::polynomial::{Coefficients, LayerPolynomial};
use assay_commitments::rows::Profile;
use assay_commitments::weights::{WeightCommitment, commit};
use assay_llm_runtime::checkpoint::{CheckpointError, WeightFiles, named_tensors};
use assay_llm_runtime::synthetic::{self, Numbers, Quantization};
use assay_llm_runtime::{Checkpoint, Description, ModelFolder, Weights};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{fixture, tokenizer};

const NUMBERS: Numbers = Numbers::TINY;

/// A small whole model folder, and the model in it.
fn folder() -> (TempDir, Checkpoint) {
    let folder = TempDir::new().unwrap();
    let checkpoint = synthetic::write(&NUMBERS, 8, folder.path()).unwrap();
    (folder, checkpoint)
}

fn load(folder: &Path) -> Result<Checkpoint, CheckpointError> {
    Checkpoint::load(folder, Profile::Bf16V1)
}

/// The one line that a folder is refused with after `damage`.
fn refusal(damage: impl FnOnce(&Path)) -> String {
    let (folder, _) = folder();
    damage(folder.path());
    let text = load(folder.path()).unwrap_err().to_string();
    assert!(!text.contains('\n'), "{text}");
    text
}

fn assert_refused(damage: impl FnOnce(&Path), expected: &[&str]) {
    let text = refusal(damage);
    for part in expected {
        assert!(text.contains(part), "{text:?} should say {part:?}");
    }
}

fn change_json(path: &Path, change: impl FnOnce(&mut Value)) {
    let mut value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    change(&mut value);
    fs::write(path, value.to_string()).unwrap();
}

/// A tensor as it is stored.
type Stored = (String, Dtype, Vec<usize>, Vec<u8>);

fn write_weights(path: &Path, tensors: &[Stored]) {
    let views = tensors
        .iter()
        .map(|(name, dtype, shape, bytes)| (name.as_str(), TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
    fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

/// The tensors of a model, each element through `encode`.
fn stored<const N: usize>(checkpoint: &Checkpoint, dtype: Dtype, encode: impl Fn(f32) -> [u8; N]) -> Vec<Stored> {
    named_tensors(&checkpoint.architecture, &checkpoint.tensors)
        .into_iter()
        .map(|tensor| (tensor.name, dtype, tensor.shape, tensor.values.iter().flat_map(|x| encode(*x)).collect()))
        .collect()
}

/// Stores a folder's weights again, in f32, after `change`.
fn change_weights(folder: &Path, change: impl FnOnce(&mut Vec<Stored>)) {
    let checkpoint = load(folder).unwrap();
    let mut tensors = stored(&checkpoint, Dtype::F32, f32::to_le_bytes);
    change(&mut tensors);
    write_weights(&folder.join("model.safetensors"), &tensors);
}

fn find<'a>(tensors: &'a mut [Stored], name: &str) -> &'a mut Stored {
    tensors.iter_mut().find(|tensor| tensor.0 == name).unwrap()
}

#[test]
fn a_folder_is_read_as_it_was_written() {
    let (folder, written) = folder();
    let read = load(folder.path()).unwrap();
    assert_eq!(read.architecture, written.architecture);
    assert_eq!(read.tensors, written.tensors);
    assert_eq!((read.tokenizer, read.chat_template), (written.tokenizer, written.chat_template));
}

#[test]
fn the_fixture_is_read() {
    let checkpoint = fixture();
    let architecture = &checkpoint.architecture;
    assert_eq!((architecture.vocab_size, architecture.hidden, architecture.layers), (1024, 128, 4));
    assert!(architecture.tied && checkpoint.tensors.head.is_none());
    // Candle's Llama computes these in f32 throughout.
    for (pair, frequency) in (0_u8..).zip(&architecture.inverse_frequencies) {
        let candle = 1.0 / 10_000_f32.powf(f32::from(2 * pair) / 32.0);
        assert!(candle.to_bits().abs_diff(frequency.to_bits()) <= 1, "{pair}: {candle} {frequency}");
    }
    let template = ChatTemplate::from_bytes(checkpoint.chat_template.as_ref().unwrap().as_bytes()).unwrap();
    let message = |role: &str, content: &str| Message { role: role.to_owned(), content: content.to_owned() };
    let text = template.render(&[message("system", "be brief"), message("user", "hi")]).unwrap();
    assert!(text.starts_with("<|bos|><|system|>be brief"), "{text}");
    let tokens = tokenizer(&checkpoint).encode_rendered(&text).unwrap();
    assert_eq!(tokens[0].get(), 0, "the rendered chat starts with the token that text starts with");
}

#[test]
fn f32_and_f16_weights_are_read_and_rounded_to_what_is_served() {
    let (folder, checkpoint) = folder();
    let path = folder.path().join("model.safetensors");
    write_weights(&path, &stored(&checkpoint, Dtype::F32, |x| (x * (1.0 + f32::EPSILON)).to_le_bytes()));
    assert_eq!(load(folder.path()).unwrap().tensors, checkpoint.tensors);
    let exact = Checkpoint::load(folder.path(), Profile::F32V1).unwrap();
    let scaled = checkpoint.tensors.final_norm[0] * (1.0 + f32::EPSILON);
    assert_eq!(exact.tensors.final_norm[0].to_bits(), scaled.to_bits());
    write_weights(&path, &stored(&checkpoint, Dtype::F16, |x| half::f16::from_f32(x).to_le_bytes()));
    let halves = Checkpoint::load(folder.path(), Profile::F32V1).unwrap();
    let close = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-3 * a.abs() + 1e-7;
    assert!(halves.tensors.embeddings.iter().zip(&checkpoint.tensors.embeddings).all(close));
}

#[test]
fn sharded_weights_are_read() {
    let (folder, checkpoint) = folder();
    shard(folder.path(), &checkpoint);
    assert_eq!(load(folder.path()).unwrap().tensors, checkpoint.tensors);
}

/// Splits the weights into two files with an index.
fn shard(folder: &Path, checkpoint: &Checkpoint) {
    let tensors = stored(checkpoint, Dtype::F32, f32::to_le_bytes);
    let mut map = serde_json::Map::new();
    for (index, part) in tensors.chunks(tensors.len() / 2 + 1).enumerate() {
        let file = format!("model-{index}.safetensors");
        write_weights(&folder.join(&file), part);
        map.extend(part.iter().map(|tensor| (tensor.0.clone(), json!(file))));
    }
    fs::write(folder.join("model.safetensors.index.json"), json!({"weight_map": map}).to_string()).unwrap();
    fs::remove_file(folder.join("model.safetensors")).unwrap();
}

#[test]
fn a_missing_folder_and_missing_files_are_named() {
    let text = load(Path::new("/no/such/model")).unwrap_err().to_string();
    assert!(text.starts_with("/no/such/model: no such folder"), "{text}");
    for file in ["config.json", "tokenizer.json", "model.safetensors"] {
        let remove = |folder: &Path| fs::remove_file(folder.join(file)).unwrap();
        assert_refused(remove, &[file, "no such file", "a model folder has config.json"]);
    }
}

#[test]
fn a_file_in_place_of_a_folder_is_refused() {
    let (folder, _) = folder();
    let text = load(&folder.path().join("config.json")).unwrap_err().to_string();
    assert!(text.contains("this is a file, not a folder"), "{text}");
}

#[test]
fn an_unreadable_config_is_named() {
    let write = |folder: &Path| fs::write(folder.join("config.json"), "{\"vocab_size\": ").unwrap();
    assert_refused(write, &["config.json: not valid JSON", "download it again"]);
}

#[test]
fn another_architecture_is_named_with_all_that_is_not_supported() {
    let change = |folder: &Path| {
        change_json(&folder.join("config.json"), |config| {
            config["architectures"] = json!(["Gemma2ForCausalLM"]);
            config["rope_scaling"] = json!({"rope_type": "yarn"});
        });
    };
    assert_refused(
        change,
        &["config.json: architectures is [\"Gemma2ForCausalLM\"]", "; rope_scaling.rope_type is \"yarn\""],
    );
}

#[test]
fn generation_config_adds_stop_tokens() {
    let (folder, _) = folder();
    fs::write(folder.path().join("generation_config.json"), "{\"eos_token_id\": [7, 0]}").unwrap();
    let stop: Vec<u32> = load(folder.path()).unwrap().architecture.stop_tokens.iter().map(|t| t.get()).collect();
    assert_eq!(stop, [0, 7]);
}

#[test]
fn a_missing_tensor_is_named() {
    let name = "model.layers.1.mlp.up_proj.weight";
    let drop = |folder: &Path| change_weights(folder, |tensors| tensors.retain(|tensor| tensor.0 != name));
    assert_refused(drop, &["model.safetensors", name, "is missing"]);
    let drop_head = |folder: &Path| change_weights(folder, |tensors| tensors.retain(|t| t.0 != "lm_head.weight"));
    assert_refused(drop_head, &["lm_head.weight is missing"]);
}

#[test]
fn a_tied_model_needs_no_head() {
    let (folder, checkpoint) = folder();
    change_weights(folder.path(), |tensors| tensors.retain(|tensor| tensor.0 != "lm_head.weight"));
    change_json(&folder.path().join("config.json"), |config| config["tie_word_embeddings"] = json!(true));
    let tied = load(folder.path()).unwrap().tensors;
    assert_eq!((tied.head.as_deref(), tied.head()), (None, checkpoint.tensors.embeddings.as_slice()));
}

#[test]
fn a_shape_that_contradicts_the_config_is_named() {
    let widen = |folder: &Path| {
        change_json(&folder.join("config.json"), |config| config["intermediate_size"] = json!(80));
    };
    assert_refused(widen, &["model.layers.0.mlp.gate_proj.weight", "[64, 32]", "config.json says [80, 32]"]);
    let shorten = |folder: &Path| change_json(&folder.join("config.json"), |c| c["vocab_size"] = json!(100 + 28));
    assert_refused(shorten, &["model.embed_tokens.weight", "[100, 32]", "[128, 32]"]);
}

#[test]
fn weights_that_are_no_numbers_are_named_with_their_place() {
    for (value, shown) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf"), (f32::MAX, "inf")] {
        let poison = |folder: &Path| {
            change_weights(folder, |tensors| {
                let bytes = &mut find(tensors, "model.layers.0.self_attn.k_proj.weight").3;
                bytes[4 * 37..4 * 38].copy_from_slice(&value.to_le_bytes());
            });
        };
        assert_refused(poison, &["model.layers.0.self_attn.k_proj.weight", &format!("holds {shown} at index 37")]);
    }
}

#[test]
fn a_type_that_is_not_read_is_named() {
    let store = |folder: &Path| {
        change_weights(folder, |tensors| {
            *find(tensors, "model.norm.weight") = ("model.norm.weight".to_owned(), Dtype::I8, vec![32], vec![1; 32]);
        });
    };
    assert_refused(store, &["model.norm.weight is stored as I8", "only F32, F16 and BF16"]);
}

#[test]
fn weight_files_cut_anywhere_are_refused() {
    let (folder, _) = folder();
    let path = folder.path().join("model.safetensors");
    let whole = fs::read(&path).unwrap();
    for length in [0, 4, 8, 100, whole.len() / 2, whole.len() - 1] {
        fs::write(&path, &whole[..length]).unwrap();
        let text = load(folder.path()).unwrap_err().to_string();
        assert!(text.contains("model.safetensors: truncated or damaged") && !text.contains('\n'), "{length}: {text}");
    }
    // A header that is longer than the file, than the format allows, or than any file.
    for length in [whole.len() as u64 - 7, 100_000_001, u64::MAX - 7, u64::MAX] {
        let mut bytes = whole.clone();
        bytes[..8].copy_from_slice(&length.to_le_bytes());
        fs::write(&path, &bytes).unwrap();
        let text = load(folder.path()).unwrap_err().to_string();
        assert!(text.contains("model.safetensors: truncated or damaged") && !text.contains('\n'), "{length}: {text}");
    }
}

#[test]
fn a_damaged_index_is_refused() {
    let index = "model.safetensors.index.json";
    for (map, expected) in [
        (json!(null), "\"weight_map\" is missing"),
        (json!({}), "names no file"),
        (json!({"model.norm.weight": 3}), "a file that is no text"),
        (json!({"model.norm.weight": "../other/model.safetensors"}), "a file of another folder"),
        (json!({"model.norm.weight": "/etc/passwd"}), "a file of another folder"),
    ] {
        let damage = |folder: &Path| {
            fs::write(folder.join(index), json!({"weight_map": map}).to_string()).unwrap();
            fs::remove_file(folder.join("model.safetensors")).unwrap();
        };
        assert_refused(damage, &[index, expected]);
    }
}

#[test]
fn a_missing_shard_and_a_tensor_that_no_shard_has_are_named() {
    let sharded = |then: &dyn Fn(&Path)| {
        refusal(|folder| {
            shard(folder, &load(folder).unwrap());
            then(folder);
        })
    };
    let text = sharded(&|folder| fs::remove_file(folder.join("model-1.safetensors")).unwrap());
    assert!(text.contains("model-1.safetensors: no such file"), "{text}");
    let text = sharded(&|folder| {
        change_json(&folder.join("model.safetensors.index.json"), |index| {
            index["weight_map"].as_object_mut().unwrap().remove("model.norm.weight");
        });
    });
    assert!(text.contains("model.norm.weight is missing"), "{text}");
}

#[test]
fn tokenizers_that_are_damaged_or_too_large_are_refused() {
    let damage = |folder: &Path| fs::write(folder.join("tokenizer.json"), "{}").unwrap();
    assert_refused(damage, &["tokenizer.json", "the tokenizer file cannot be read"]);
    let other = |folder: &Path| {
        let other = synthetic::checkpoint(&Numbers { vocab_size: 200, ..NUMBERS }, 1);
        fs::write(folder.join("tokenizer.json"), other.tokenizer).unwrap();
    };
    assert_refused(other, &["tokenizer.json: it has 200 tokens, the model's vocab_size is 100"]);
}

#[test]
fn a_template_file_goes_before_the_one_in_the_configuration() {
    let (folder, _) = folder();
    fs::write(folder.path().join("chat_template.jinja"), "{{ messages }}").unwrap();
    assert_eq!(load(folder.path()).unwrap().chat_template.as_deref(), Some("{{ messages }}"));
    fs::remove_file(folder.path().join("chat_template.jinja")).unwrap();
    fs::remove_file(folder.path().join("tokenizer_config.json")).unwrap();
    assert_eq!(load(folder.path()).unwrap().chat_template, None);
    fs::write(folder.path().join("tokenizer_config.json"), "{\"chat_template\": 1}").unwrap();
    let text = load(folder.path()).unwrap_err().to_string();
    assert!(text.contains("tokenizer_config.json: chat_template: neither"), "{text}");
}

/// Writes a weight file with any header before the bytes.
fn write_header(path: &Path, header: &str, bytes: &[u8]) {
    fs::write(path, [&(header.len() as u64).to_le_bytes(), header.as_bytes(), bytes].concat()).unwrap();
}

#[test]
fn headers_that_can_be_read_in_two_ways_are_refused() {
    let tensor = |from: usize, to: usize| {
        format!("{{\"dtype\":\"BF16\",\"shape\":[{}],\"data_offsets\":[{from},{to}]}}", (to - from) / 2)
    };
    let (name, other) = ("model.norm.weight", "model.other.weight");
    let twice = format!("{{\"{name}\":{},\"{name}\":{}}}", tensor(0, 64), tensor(64, 128));
    let same = format!("{{\"{name}\":{},\"{name}\":{}}}", tensor(0, 128), tensor(0, 128));
    for header in [twice, same] {
        let damage = |folder: &Path| write_header(&folder.join("model.safetensors"), &header, &[0; 128]);
        assert_refused(damage, &["model.safetensors: tensor model.norm.weight stands in the header more than once"]);
    }
    let overlapping = format!("{{\"{name}\":{},\"{other}\":{}}}", tensor(0, 64), tensor(32, 96));
    let gap = format!("{{\"{name}\":{},\"{other}\":{}}}", tensor(0, 64), tensor(66, 96));
    for (header, length) in [(overlapping, 96), (gap, 96)] {
        let damage = |folder: &Path| write_header(&folder.join("model.safetensors"), &header, &vec![0; length]);
        assert_refused(damage, &["model.safetensors: truncated or damaged", other, "download it again"]);
    }
}

#[test]
fn a_tensor_without_weights_is_refused() {
    let empty = |folder: &Path| {
        change_weights(folder, |tensors| {
            *find(tensors, "model.norm.weight") = ("model.norm.weight".to_owned(), Dtype::F32, vec![0], vec![]);
        });
    };
    assert_refused(empty, &["model.norm.weight has shape [0], config.json says [32]"]);
}

#[test]
fn shards_that_contradict_their_index_are_refused() {
    let sharded = |then: &dyn Fn(&Path)| {
        refusal(|folder| {
            shard(folder, &load(folder).unwrap());
            then(folder);
        })
    };
    let name = "model.embed_tokens.weight";
    let text = sharded(&|folder| {
        change_json(&folder.join("model.safetensors.index.json"), |index| {
            index["weight_map"][name] = json!("model-1.safetensors");
        });
    });
    assert!(text.contains("model-1.safetensors: tensor model.embed_tokens.weight is missing"), "{text}");
    let text = sharded(&|folder| {
        change_json(&folder.join("model.safetensors.index.json"), |index| {
            index["weight_map"]["model.more.weight"] = json!("model-0.safetensors");
        });
    });
    assert!(text.contains("model-0.safetensors: tensor model.more.weight is missing"), "{text}");
    let text = sharded(&|folder| {
        fs::copy(folder.join("model-0.safetensors"), folder.join("model-1.safetensors")).unwrap();
        change_json(&folder.join("model.safetensors.index.json"), |index| {
            let map = index["weight_map"].as_object_mut().unwrap();
            map.retain(|_, file| file == "model-0.safetensors");
            map.insert("model.more.weight".to_owned(), json!("model-1.safetensors"));
        });
    });
    assert!(text.contains("is also in") && text.contains("keep the files that the index belongs to"), "{text}");
    let text = sharded(&|folder| {
        let path = folder.join("model-1.safetensors");
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..whole.len() - 2]).unwrap();
    });
    assert!(text.contains("model-1.safetensors: truncated or damaged"), "{text}");
}

#[test]
fn a_folder_that_changes_is_noticed() {
    let open = |folder: &Path| ModelFolder::open(folder, Profile::Bf16V1).unwrap();
    let later = |path: &Path| {
        let file = fs::File::options().append(true).open(path).unwrap();
        let modified = file.metadata().unwrap().modified().unwrap();
        file.set_modified(modified + std::time::Duration::from_secs(1)).unwrap();
    };
    for change in ["model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"] {
        let (folder, _) = folder();
        let path = folder.path().join(change);
        let opened = open(folder.path());
        opened.check_unchanged().unwrap();
        assert_eq!(opened.fingerprint(), open(folder.path()).fingerprint());
        if change == "model.safetensors" {
            later(&path);
        } else {
            let text = fs::read_to_string(&path).unwrap();
            fs::write(&path, format!("{text} ")).unwrap();
        }
        let text = opened.check_unchanged().unwrap_err().to_string();
        assert!(text.contains(change) && text.contains("changed while it was read"), "{text}");
        assert_ne!(opened.fingerprint(), open(folder.path()).fingerprint());
    }

    // Reading notices it too, before it looks at pages that may no longer be there.
    let (folder, _) = self::folder();
    let opened = open(folder.path());
    fs::OpenOptions::new().write(true).open(folder.path().join("model.safetensors")).unwrap().set_len(100).unwrap();
    let error = opened.weights.tensor(Tensor::FinalNorm).unwrap_err();
    assert!(matches!(error, CheckpointError::Changed { .. }), "{error}");
    // A file that was put in another's place is another file.
    let (folder, _) = self::folder();
    let opened = open(folder.path());
    let path = folder.path().join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    fs::remove_file(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    assert!(matches!(opened.check_unchanged(), Err(CheckpointError::Changed { .. })));
}

/// Compares what is read piece by piece with polynomials made of tensors in memory.
struct Comparing<'a> {
    checkpoint: &'a Checkpoint,
    pieces: Vec<(usize, usize)>,
    compared: usize,
}

#[derive(Debug, thiserror::Error)]
enum Never {
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error(transparent)]
    Architecture(#[from] ArchitectureError),
}

impl Committer<WeightFiles> for Comparing<'_> {
    type Error = Never;

    fn commit(
        &mut self,
        number: usize,
        weights: &PolynomialWeights<'_, WeightFiles>,
        _: &CodeParams,
    ) -> Result<WeightCommitment, Never> {
        let Checkpoint { architecture, tensors, .. } = self.checkpoint;
        let layout = weights.layout();
        let expected = if let Some(layer) = tensors.layers.get(number) {
            let matrices = layer.matrices.each_ref().map(Vec::as_slice);
            LayerPolynomial::from_matrices(layout.clone(), &matrices).unwrap()
        } else {
            let block = (architecture.head_block().unwrap() * architecture.hidden) as usize;
            let shard = tensors.head().chunks(block).nth(number - tensors.layers.len()).unwrap();
            let mut shard = shard.to_vec();
            shard.resize(block, 0.0);
            let exponent = assay_commitments::fixed_point::exponent(tensors.head()).unwrap();
            LayerPolynomial::with_exponents(layout.clone(), &[&shard], &[exponent]).unwrap()
        };
        assert_eq!(weights.exponents(), expected.exponents());
        let expected = expected.coefficients();
        for (start, length) in self.pieces.iter().copied().chain([(0, expected.len())]) {
            let start = start % expected.len();
            let end = (start + length).min(expected.len());
            let mut read = vec![-1; end - start];
            weights.read(start, &mut read)?;
            assert_eq!(read, expected[start..end], "polynomial {number} from {start} to {end}");
        }
        self.compared += 1;
        Ok(WeightCommitment { root: [0; 32], evaluation: assay_sumcheck::E::default() })
    }
}

#[test]
fn coefficients_read_from_files_are_those_of_the_tensors() {
    // No side is a power of two, and lm_head has a shard that is cut short.
    let numbers = Numbers { vocab_size: 1500, hidden: 24, heads: 6, head_dim: 4, ffn: 56, ..NUMBERS };
    let folder = TempDir::new().unwrap();
    let checkpoint = synthetic::write(&numbers, 3, folder.path()).unwrap();
    let path = folder.path().join("model.safetensors");
    let pieces = vec![(0, 1), (5, 3), (37, 1000), (4095, 4097), (9000, 123), (16_383, 1)];
    for stored in [
        stored(&checkpoint, Dtype::F32, f32::to_le_bytes),
        stored(&checkpoint, Dtype::BF16, |x| half::bf16::from_f32(x).to_le_bytes()),
        stored(&checkpoint, Dtype::F16, |x| half::f16::from_f32(x).to_le_bytes()),
    ] {
        write_weights(&path, &stored);
        let checkpoint = load(folder.path()).unwrap();
        let opened = ModelFolder::open(folder.path(), Profile::Bf16V1).unwrap();
        let surroundings = Surroundings { profile: Profile::Bf16V1, tokenizer: b"", chat_template: None };
        let mut comparing = Comparing { checkpoint: &checkpoint, pieces: pieces.clone(), compared: 0 };
        manifest(&opened.weights, surroundings, &mut comparing).unwrap();
        assert!(comparing.compared > numbers.layers as usize + 1, "there are several shards");
    }
}

/// What the families differ in, by family.
const FAMILIES: [(&str, Numbers); 6] = [
    ("llama", Numbers { biases: Biases::Qkvo, ..NUMBERS }),
    ("mistral", Numbers { window: Some(16), ..NUMBERS }),
    ("qwen2", Numbers { biases: Biases::Qkv, tied: true, ..NUMBERS }),
    ("qwen2", Numbers { biases: Biases::Qkv, window: Some(9), ..NUMBERS }),
    ("qwen3", Numbers { head_norms: true, tied: true, ..NUMBERS }),
    ("qwen3", Numbers { head_norms: true, biases: Biases::Qkvo, window: Some(5), ..NUMBERS }),
];

#[test]
fn folders_of_all_families_are_read_as_they_were_written() {
    for (family, numbers) in FAMILIES {
        let folder = TempDir::new().unwrap();
        let written = synthetic::write(&numbers, 4, folder.path()).unwrap();
        let config: Value = serde_json::from_slice(&fs::read(folder.path().join("config.json")).unwrap()).unwrap();
        assert_eq!(config["model_type"], family);
        let read = load(folder.path()).unwrap();
        assert_eq!((&read.architecture, &read.tensors), (&written.architecture, &written.tensors), "{family}");
        assert_eq!(read.architecture, numbers.architecture());
        let small = &read.tensors.layers[1].small.0;
        assert_eq!(small[2].len(), if numbers.head_norms { 8 } else { 0 });
        assert_eq!(small[4].len(), if numbers.biases == Biases::None { 0 } else { 32 });
    }
}

#[test]
fn shapes_of_biases_and_head_norms_are_checked() {
    for (_, numbers) in FAMILIES {
        for name in ["q_proj.bias", "v_proj.bias", "o_proj.bias", "q_norm.weight", "k_norm.weight"] {
            let name = format!("model.layers.1.self_attn.{name}");
            let folder = TempDir::new().unwrap();
            synthetic::write(&numbers, 4, folder.path()).unwrap();
            let mut has = false;
            change_weights(folder.path(), |tensors| {
                for tensor in tensors.iter_mut().filter(|tensor| tensor.0 == name) {
                    has = true;
                    *tensor = (name.clone(), Dtype::F32, vec![3], vec![0; 12]);
                }
            });
            let result = load(folder.path());
            assert_eq!(result.is_err(), has, "{name}");
            if let Err(error) = result {
                assert!(error.to_string().contains(&format!("{name} has shape [3], config.json says")), "{error}");
            }
        }
    }
}

#[test]
fn tensors_that_the_configuration_does_not_announce_are_refused() {
    for name in [
        "model.layers.0.self_attn.q_proj.bias",
        "model.layers.1.mlp.down_proj.bias",
        "model.layers.1.self_attn.q_norm.weight",
        "model.layers.2.input_layernorm.weight",
        "model.layers.0.self_attn.q_proj.qweight",
        "score.weight",
    ] {
        // Of zeros as well: only quantised checkpoints have such for nothing.
        let add = |folder: &Path| {
            change_weights(folder, |tensors| tensors.push((name.to_owned(), Dtype::F32, vec![32], vec![0; 128])));
        };
        assert_refused(add, &["model.safetensors: tensor", name, "is not one that config.json announces"]);
    }
    let (folder, checkpoint) = folder();
    change_weights(folder.path(), |tensors| {
        for name in ["model.layers.0.self_attn.rotary_emb.inv_freq", "model.rotary_emb.inv_freq"] {
            tensors.push((name.to_owned(), Dtype::F32, vec![4], vec![1; 16]));
        }
    });
    assert_eq!(load(folder.path()).unwrap().tensors, checkpoint.tensors);
}

#[test]
fn a_tied_model_may_repeat_its_table_and_have_no_other_head() {
    let folder = TempDir::new().unwrap();
    synthetic::write(&Numbers { tied: true, ..NUMBERS }, 4, folder.path()).unwrap();
    change_weights(folder.path(), |tensors| {
        let table = find(tensors, "model.embed_tokens.weight").clone();
        tensors.push(("lm_head.weight".to_owned(), table.1, table.2, table.3));
    });
    load(folder.path()).unwrap();
    let path = folder.path().join("model.safetensors");
    let mut tensors: Vec<Stored> = raw(folder.path());
    *find(&mut tensors, "lm_head.weight").3.last_mut().unwrap() ^= 1;
    write_weights(&path, &tensors);
    let text = load(folder.path()).unwrap_err().to_string();
    assert!(text.contains("lm_head.weight is not one that config.json announces"), "{text}");
}

#[test]
fn weights_of_other_formats_are_named() {
    for name in ["model-q4.gguf", "pytorch_model.bin"] {
        let replace = |folder: &Path| {
            fs::rename(folder.join("model.safetensors"), folder.join(name)).unwrap();
        };
        assert_refused(replace, &[name, "weights of this format are not read", "safetensors"]);
    }
    let alone = TempDir::new().unwrap();
    fs::write(alone.path().join("model.gguf"), b"GGUF").unwrap();
    let text = load(alone.path()).unwrap_err().to_string();
    assert!(text.contains("model.gguf: weights of this format are not read"), "{text}");
}

/// The tensors of a folder as they are stored.
fn raw(folder: &Path) -> Vec<Stored> {
    let bytes = fs::read(folder.join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let tensors =
        tensors.iter().map(|(name, view)| (name.to_owned(), view.dtype(), view.shape().to_vec(), view.data().to_vec()));
    tensors.collect()
}

const QUANTISED: Numbers = Numbers { hidden: 64, heads: 8, ffn: 160, ..NUMBERS };

fn quantizations() -> Vec<Quantization> {
    let mut all = vec![];
    for bits in [4, 8] {
        for group_size in [Some(32), Some(128), Some(24), None] {
            for (symmetric, version_2) in [(true, false), (true, true), (false, false), (false, true)] {
                all.push(Quantization { bits, group_size, symmetric, version_2 });
            }
        }
    }
    all
}

fn quantised(quantization: Quantization) -> (TempDir, Checkpoint) {
    let folder = TempDir::new().unwrap();
    let checkpoint = synthetic::write_gptq(&QUANTISED, quantization, 8, folder.path()).unwrap();
    (folder, checkpoint)
}

fn load_quantised(folder: &Path) -> Result<Checkpoint, CheckpointError> {
    Checkpoint::load(folder, Profile::Bf16W8V1)
}

/// The weights of a matrix, written down once more from the description of the layout, element by element.
fn dequantised(tensors: &[Stored], prefix: &str, quantization: Quantization) -> Vec<f32> {
    let [weights, zeros, scales, groups] = ["qweight", "qzeros", "scales", "g_idx"]
        .map(|part| tensors.iter().find(|tensor| tensor.0 == format!("{prefix}.{part}")).unwrap().3.as_slice());
    let word = |bytes: &[u8], index: usize| u32::from_le_bytes(bytes[4 * index..4 * index + 4].try_into().unwrap());
    let bits = quantization.bits as usize;
    let field = |word: u32, place: usize| (word >> (bits * place)) % (1 << bits);
    let (inputs, outputs) = (groups.len() / 4, weights.len() / 4 * (32 / bits) / (groups.len() / 4));
    let mut dequantised = vec![];
    for output in 0..outputs {
        for input in 0..inputs {
            let at = word(groups, input) as usize * outputs + output;
            let scale = half::f16::from_le_bytes([scales[2 * at], scales[2 * at + 1]]).to_f32();
            let packed = word(weights, input * bits / 32 * outputs + output);
            let zero = field(word(zeros, at * bits / 32), at % (32 / bits)) + u32::from(!quantization.version_2);
            let integer = i64::from(field(packed, input % (32 / bits))) - i64::from(zero);
            dequantised.push(scale * f32::from(i16::try_from(integer).unwrap()));
        }
    }
    dequantised
}

#[test]
fn quantised_folders_are_read_exactly() {
    for quantization in quantizations() {
        let (folder, written) = quantised(quantization);
        let read = load_quantised(folder.path()).unwrap();
        let tensors = raw(folder.path());
        let opened = ModelFolder::open(folder.path(), Profile::Bf16W8V1).unwrap();
        for (layer, matrices) in read.tensors.layers.iter().enumerate() {
            for (matrix, weights) in Matrix::ALL.into_iter().zip(&matrices.matrices) {
                let part = if matrix.index() < 4 { "self_attn" } else { "mlp" };
                let prefix = format!("model.layers.{layer}.{part}.{}", matrix.name());
                assert_eq!(*weights, dequantised(&tensors, &prefix, quantization), "{prefix} {quantization:?}");
                let integers = opened.weights.quantized(layer, matrix).unwrap().unwrap();
                let inputs = read.architecture.shape(matrix).inputs as usize;
                let mut again = vec![0.0; weights.len()];
                integers.weights(inputs, 0, &mut again);
                assert_eq!(*weights, again);
                let (start, end) = (inputs + 5, 3 * inputs - 1);
                opened.weights.read(Tensor::Matrix(layer, matrix), start, &mut again[start..end]).unwrap();
                assert_eq!(weights[start..end], again[start..end]);
            }
        }
        assert_eq!(read.tensors, written.tensors, "{quantization:?}");
        let close = |(a, b): (&f32, &f32)| (a - b).abs() < 0.1;
        let plain = synthetic::checkpoint(&QUANTISED, 8).tensors;
        assert!(read.tensors.layers[1].matrices[4].iter().zip(&plain.layers[1].matrices[4]).all(close));
    }
}

/// Commits to what is read piece by piece.
struct Committing;

impl Committer<WeightFiles> for Committing {
    type Error = Never;

    fn commit(
        &mut self,
        _: usize,
        weights: &PolynomialWeights<'_, WeightFiles>,
        code: &CodeParams,
    ) -> Result<WeightCommitment, Never> {
        Ok(commit(weights, code, 1 << 20, &|_| ())?.commitment())
    }
}

#[test]
fn a_quantised_folder_commits_to_its_dequantised_weights() {
    for quantization in [Quantization::INT4, Quantization { bits: 8, symmetric: false, ..Quantization::INT4 }] {
        let (folder, written) = quantised(quantization);
        let opened = ModelFolder::open(folder.path(), Profile::Bf16W8V1).unwrap();
        let surroundings = Surroundings { profile: Profile::Bf16W8V1, tokenizer: b"t", chat_template: None };
        let (from_files, _): (Manifest, _) = manifest(&opened.weights, surroundings, &mut Committing).unwrap();
        let Checkpoint { architecture, tensors, .. } = &written;
        let in_memory = CommittedModel::commit(architecture, tensors, surroundings, &mut |_, _| ()).unwrap();
        assert_eq!(from_files.id(), in_memory.manifest.id());
        opened.check_unchanged().unwrap();
    }
}

#[test]
fn damaged_quantised_folders_are_refused() {
    let prefix = "model.layers.1.mlp.up_proj";
    let refused = |quantization: Quantization, damage: &dyn Fn(&Path, &mut Vec<Stored>), expected: &[&str]| {
        let (folder, _) = quantised(quantization);
        let mut tensors = raw(folder.path());
        damage(folder.path(), &mut tensors);
        write_weights(&folder.path().join("model.safetensors"), &tensors);
        let text = load_quantised(folder.path()).unwrap_err().to_string();
        assert!(!text.contains('\n') && expected.iter().all(|part| text.contains(part)), "{text}: {expected:?}");
    };
    for part in ["qweight", "qzeros", "scales", "g_idx"] {
        let name = format!("{prefix}.{part}");
        let drop = |_: &Path, tensors: &mut Vec<Stored>| tensors.retain(|tensor| tensor.0 != name);
        refused(Quantization::INT4, &drop, &[&name, "is missing"]);
        let shorten = |_: &Path, tensors: &mut Vec<Stored>| {
            let tensor = find(tensors, &name);
            let row = tensor.3.len() / tensor.2[0];
            tensor.3.truncate(tensor.3.len() - row);
            tensor.2[0] -= 1;
        };
        refused(Quantization::INT4, &shorten, &[&name, "has shape", "config.json says"]);
        let retype = |_: &Path, tensors: &mut Vec<Stored>| {
            let tensor = find(tensors, &name);
            tensor.1 = if tensor.1 == Dtype::F16 { Dtype::I16 } else { Dtype::F32 };
        };
        refused(Quantization::INT4, &retype, &[&name, "is stored as", "can be read"]);
    }
    let swap = |_: &Path, tensors: &mut Vec<Stored>| find(tensors, &format!("{prefix}.g_idx")).3[4 * 5] = 1;
    refused(Quantization::INT4, &swap, &["up_proj.g_idx at index 5", "act-order"]);
    let infinite = |_: &Path, tensors: &mut Vec<Stored>| {
        find(tensors, &format!("{prefix}.scales")).3[6..8].copy_from_slice(&half::f16::INFINITY.to_le_bytes());
    };
    refused(Quantization::INT4, &infinite, &["up_proj.scales at index 3", "infinite"]);
    let ones = |_: &Path, tensors: &mut Vec<Stored>| find(tensors, &format!("{prefix}.qzeros")).3[1] |= 0xf0;
    refused(Quantization::INT4, &ones, &["up_proj.qzeros at index 3", "all ones"]);
    // A zero of 3 leaves no room for 131 and more.
    let low = |_: &Path, tensors: &mut Vec<Stored>| {
        find(tensors, &format!("{prefix}.qzeros")).3[2] = 3;
        let weights = &mut find(tensors, &format!("{prefix}.qweight")).3;
        weights.iter_mut().for_each(|byte| *byte = (*byte).min(130));
        // Row 2 of words, output 2, third input of the word.
        weights[4 * (2 * 160 + 2) + 2] = 131;
        weights[4 * (3 * 160 + 2)] = 200;
    };
    let int8 = Quantization { bits: 8, version_2: true, ..Quantization::INT4 };
    refused(int8, &low, &["up_proj.qweight at index 1602", "more than eight bits"]);
    let order = |folder: &Path, _: &mut Vec<Stored>| {
        change_json(&folder.join("config.json"), |config| config["quantization_config"]["desc_act"] = json!(true));
    };
    refused(Quantization::INT4, &order, &["quantization_config.desc_act is true"]);
    let plain = |folder: &Path, _: &mut Vec<Stored>| {
        change_json(&folder.join("config.json"), |config| config["quantization_config"] = json!(null));
    };
    refused(Quantization::INT4, &plain, &["served in profile bf16-1, not in bf16-w8-1"]);

    // Biases that older quantisers write are zeros.
    let bias = |fill: u8| {
        move |_: &Path, tensors: &mut Vec<Stored>| {
            tensors.push((format!("{prefix}.bias"), Dtype::F16, vec![160], vec![fill; 320]));
        }
    };
    refused(Quantization::INT4, &bias(1), &["up_proj.bias is not one that config.json announces"]);
    let (folder, written) = quantised(Quantization::INT4);
    let mut tensors = raw(folder.path());
    bias(0)(folder.path(), &mut tensors);
    write_weights(&folder.path().join("model.safetensors"), &tensors);
    assert_eq!(load_quantised(folder.path()).unwrap().tensors, written.tensors);
}

#[test]
fn an_old_quantised_folder_is_told_what_to_do_and_is_read_when_that_is_done() {
    let (folder, written) = quantised(Quantization::INT4);
    let [config, old, weights, named] =
        ["config.json", "quantize_config.json", "model.safetensors", "gptq_model-4bit-32g.safetensors"]
            .map(|name| folder.path().join(name));
    let mut quantization = json!(null);
    change_json(&config, |config| {
        quantization = config.as_object_mut().unwrap().remove("quantization_config").unwrap();
        quantization.as_object_mut().unwrap().remove("quant_method");
    });
    fs::write(&old, quantization.to_string()).unwrap();
    fs::rename(&weights, &named).unwrap();
    let refusals = [Description::read(folder.path()).map(drop), load_quantised(folder.path()).map(drop)];
    for text in refusals.map(|refusal| refusal.unwrap_err().to_string()) {
        let parts =
            ["quantize_config.json", "\"quantization_config\"", "\"quant_method\": \"gptq\"", "model.safetensors"];
        assert!(!text.contains('\n') && parts.iter().all(|part| text.contains(part)), "{text}");
    }
    quantization["quant_method"] = json!("gptq");
    change_json(&config, |config| config["quantization_config"] = quantization.clone());
    fs::rename(&named, &weights).unwrap();
    assert_eq!(load_quantised(folder.path()).unwrap().tensors, written.tensors);
}

#[test]
fn a_folder_has_a_natural_profile_and_others_may_be_asked_for() {
    let (plain, _) = folder();
    let (quantised, _) = quantised(Quantization::INT4);
    let [plain, quantised] = [plain.path(), quantised.path()].map(|path| Description::read(path).unwrap());
    assert_eq!((plain.profile(None).unwrap(), plain.decoded_bytes()), (Profile::Bf16V1, 0));
    assert_eq!(quantised.profile(None).unwrap(), Profile::Bf16W8V1);
    // 40,960 weights in groups of 32, a scale of four bytes each.
    assert_eq!(quantised.decoded_bytes(), 40_960 + 40_960 / 32 * 4);
    assert_eq!(plain.profile(Some(Profile::F32V1)).unwrap(), Profile::F32V1);
    for (description, asked) in
        [(&plain, Profile::Bf16W8V1), (&quantised, Profile::F32V1), (&quantised, Profile::Bf16V1)]
    {
        let text = description.profile(Some(asked)).unwrap_err().to_string();
        assert!(text.contains(&format!("not in {}", asked.name())), "{text}");
    }
}
