//! The `assay` command as its users meet it: exit codes, what goes to standard output, and one line on
//! standard error for everything that is wrong.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use assay_audit::challenge::{EpochKey, nonce_commitment};
use assay_audit::epoch_log::{Ending, EpochLog, Listed};
use assay_audit::keys::Keypair;
use assay_audit::policy::Policy;
use assay_audit::request::{AuditRate, Network, Request};
use assay_audit::session::{Answer, Exchange, Omission, Reply};
use assay_audit::transcript_file::{Receipt, TranscriptFile};
use assay_audit::verdict::Verdict;
use assay_commitments::{Epoch, Hotkey};
use assay_llm_runtime::synthetic::{self, Numbers, Quantization};
use serde_json::Value;
use tempfile::TempDir;

/// From it follow the keys of the sessions that the tests hold with themselves.
const SEED: u64 = 5;

/// How a run of the command ended.
#[derive(Debug)]
struct Run {
    code: i32,
    stdout: String,
    stderr: String,
}

fn assay(arguments: &[&str]) -> Run {
    let mut command = Command::new(env!("CARGO_BIN_EXE_assay"));
    let output = command.args(arguments).env_remove("RUST_LOG").output().expect("the command starts");
    Run {
        code: output.status.code().expect("the command ends by itself"),
        stdout: String::from_utf8(output.stdout).expect("output is UTF-8"),
        stderr: String::from_utf8(output.stderr).expect("errors are UTF-8"),
    }
}

/// Runs what must succeed without a word of complaint, and gives what it printed.
fn prints(arguments: &[&str]) -> String {
    let run = assay(arguments);
    assert_eq!((run.code, run.stderr.as_str()), (0, ""), "{arguments:?}: {run:?}");
    run.stdout
}

fn prints_json(arguments: &[&str]) -> Value {
    serde_json::from_str(&prints(arguments)).expect("one JSON document and nothing else")
}

/// Runs what must fail, and checks for the exit code and a single line that holds all of `parts`.
fn fails(arguments: &[&str], code: i32, parts: &[&str]) {
    let run = assay(arguments);
    assert_eq!(run.code, code, "{arguments:?}: {run:?}");
    assert_eq!(run.stdout, "", "{arguments:?}");
    assert_eq!(run.stderr.trim_end().lines().count(), 1, "{arguments:?}: {}", run.stderr);
    assert!(run.stderr.starts_with("error: ") && !run.stderr.contains('\x1b'), "{arguments:?}: {}", run.stderr);
    for part in parts {
        assert!(run.stderr.contains(part), "{arguments:?}: {part:?} is not in {}", run.stderr);
    }
}

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().expect("an object").keys().map(String::as_str).collect()
}

/// A folder that holds a tiny model in `model`.
struct Workshop {
    root: TempDir,
}

impl Workshop {
    fn new() -> Self {
        let root = tempfile::tempdir().expect("a temporary folder");
        synthetic::write(&Numbers::TINY, 1, &root.path().join("model")).expect("a model is written");
        Self { root }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().expect("temporary folders have plain names").to_owned()
    }

    fn model(&self) -> String {
        self.text("model")
    }

    /// A second model folder, like the first until it is changed.
    fn copy(&self) -> PathBuf {
        let copy = self.path("copy");
        fs::create_dir_all(&copy).expect("a folder is made");
        for name in ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"] {
            fs::copy(self.path("model").join(name), copy.join(name)).expect("a file is copied");
        }
        copy
    }

    /// An honest transcript.
    fn transcript(&self, name: &str, more: &[&str]) -> String {
        let (model, out) = (self.model(), self.text(name));
        let base = ["audit", "self", &model, "--prompt", "hello", "--max-tokens", "6", "--out", &out];
        prints(&[&base[..], &["--seed", &SEED.to_string()], more].concat());
        out
    }

    /// An honest transcript that its own validator changed, which signs that it was accepted all the same.
    fn changed(&self, from: &str, name: &str, change: impl FnOnce(&mut TranscriptFile)) -> String {
        let mut file = TranscriptFile::decode(&fs::read(from).expect("it was written")).expect("it is a transcript");
        change(&mut file);
        file.receipt = Receipt::sign(&validator(), &file.record, Verdict::Accepted, file.receipt.measurements);
        fs::write(self.path(name), file.encode()).expect("a file is written");
        self.text(name)
    }

    /// The receipt of a transcript signed again, with the verdict that it gets by itself.
    fn judged(&self, name: &str) {
        let mut file =
            TranscriptFile::decode(&fs::read(self.path(name)).expect("it was written")).expect("a transcript");
        let verdict = file.judge(&|_| None).verdict;
        file.receipt = Receipt::sign(&validator(), &file.record, verdict, file.receipt.measurements);
        fs::write(self.path(name), file.encode()).expect("a file is written");
    }
}

/// What the keys of sessions with oneself follow from.
fn entropy() -> [u8; 32] {
    blake3::derive_key("assay/command-line-seed/v1", &SEED.to_le_bytes())
}

fn validator() -> Keypair {
    Keypair::from_seed(blake3::derive_key("assay self audit validator", &entropy())).expect("keys")
}

/// The place of a tensor's bytes in a safetensors file.
fn tensor_place(file: &[u8], name: &str) -> std::ops::Range<usize> {
    let (length, rest) = file.split_first_chunk::<8>().expect("a safetensors file");
    let length = usize::try_from(u64::from_le_bytes(*length)).expect("a small header");
    let header: Value = serde_json::from_slice(&rest[..length]).expect("the header is JSON");
    let offsets = header[name]["data_offsets"].as_array().expect("the tensor is there");
    let offset =
        |index: usize| 8 + length + usize::try_from(offsets[index].as_u64().expect("a number")).expect("small");
    offset(0)..offset(1)
}

/// Writes bf16 bits over an element of a tensor.
fn set_element(folder: &Path, tensor: &str, index: usize, bits: impl Fn(u16) -> u16) {
    let path = folder.join("model.safetensors");
    let mut bytes = fs::read(&path).expect("the weights are there");
    let place = tensor_place(&bytes, tensor).start + 2 * index;
    let old = u16::from_le_bytes([bytes[place], bytes[place + 1]]);
    bytes[place..place + 2].copy_from_slice(&bits(old).to_le_bytes());
    fs::write(path, bytes).expect("the weights are written");
}

/// Replaces a text in a file.
fn replace(path: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(path).expect("the file is text");
    assert!(text.contains(from), "{from}");
    fs::write(path, text.replace(from, to)).expect("the file is written");
}

#[test]
fn committing_writes_manifest_and_tree_and_tells_the_id() {
    let workshop = Workshop::new();
    let model = workshop.model();
    let committed = prints_json(&["model", "commit", &model, "--json"]);
    let expected = ["manifest_id", "layers", "parameters", "seconds", "peak_rss_bytes", "security_bits"];
    assert_eq!(keys(&committed), expected);
    assert_eq!((committed["layers"].as_u64(), committed["parameters"].as_u64()), (Some(2), Some(24_992)));
    assert!(committed["security_bits"].as_f64().unwrap() >= 100.0);
    let id = committed["manifest_id"].as_str().unwrap();
    assert_eq!(id.len(), 64);
    assert!(workshop.path("model/manifest.assay").exists() && workshop.path("model/manifest.tree").exists());

    let out = workshop.text("elsewhere.assay");
    assert!(prints(&["model", "commit", &model, "--out", &out, "--profile", "bf16-1", "--memory", "1G"]).contains(id));
    assert_eq!(fs::read(&out).unwrap(), fs::read(workshop.path("model/manifest.assay")).unwrap());
    assert!(workshop.path("elsewhere.tree").exists());
    let left: Vec<_> = fs::read_dir(workshop.root.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 3, "nothing else is left behind: {left:?}");
}

#[test]
fn committing_refuses_what_cannot_end_well() {
    let workshop = Workshop::new();
    let model = workshop.model();
    fails(&["model", "commit", &model, "--memory", "1M"], 2, &["memory", "--memory allows 1.0 MB"]);
    fails(&["model", "commit", &model, "--memory", "lots"], 2, &["--memory", "lots"]);
    fails(&["model", "commit", &model, "--profile", "f64"], 2, &["--profile", "bf16-1"]);
    fails(&["model", "commit", &model, "--out", &workshop.text("no/where")], 2, &["no such folder"]);
    fails(&["model", "commit", &model, "--out", &model], 2, &["this is a folder"]);
    fails(&["model", "commit", &model, "--out", &workshop.text("m.tree")], 2, &["extension .tree"]);
    assert!(!workshop.path("model/manifest.assay").exists());
}

#[test]
fn folders_are_served_in_their_profile_and_in_no_unfit_one() {
    let workshop = Workshop::new();
    let (plain, quantised) = (workshop.model(), workshop.text("quantised"));
    synthetic::write_gptq(&Numbers::TINY, Quantization::INT4, 1, &workshop.path("quantised")).unwrap();
    let profile = |path: &str| prints_json(&["model", "inspect", path, "--json"])["profile"].clone();
    assert_eq!((profile(&plain), profile(&quantised)), ("bf16-1".into(), "bf16-w8-1".into()));
    let commit = |folder: &str, profile: &str| ["model", "commit", folder, "--profile", profile].map(str::to_owned);
    for (folder, unfit) in [(&plain, "bf16-w8-1"), (&quantised, "f32-1"), (&quantised, "bf16-1")] {
        let arguments = commit(folder, unfit);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        fails(&arguments, 2, &["served in profile", unfit]);
    }

    prints(&["model", "commit", &quantised]);
    let manifest = workshop.text("quantised/manifest.assay");
    assert_eq!(profile(&manifest), "bf16-w8-1");
    prints(&["model", "verify", &quantised, &manifest]);
    fails(&["model", "verify", &plain, &manifest], 1, &["served in profile bf16-1, the manifest's is bf16-w8-1"]);

    prints(&["model", "commit", &plain, "--profile", "f32-1"]);
    let manifest = workshop.text("model/manifest.assay");
    assert_eq!((profile(&manifest), profile(&plain)), ("f32-1".into(), "f32-1".into()));
    prints(&["model", "verify", &plain, &manifest]);
}

#[test]
fn inspecting_shows_a_folder_and_a_manifest() {
    let workshop = Workshop::new();
    let model = workshop.model();
    let before = prints_json(&["model", "inspect", &model, "--json"]);
    assert_eq!(before["manifest_id"], Value::Null);
    let id = prints_json(&["model", "commit", &model, "--json"])["manifest_id"].clone();
    let after = prints_json(&["model", "inspect", &workshop.text("model/manifest.assay"), "--json"]);
    assert_eq!(after["manifest_id"], id);
    for key in ["architecture", "parameters", "layer_code", "head_code", "security_bits"] {
        assert_eq!(before[key], after[key], "{key}");
    }
    let count = |key: &str| after["layer_code"][key].as_array().unwrap().len();
    assert_eq!(count("security"), 5 * count("levels"), "five terms a level");
    let text = prints(&["model", "inspect", &model]);
    for part in [id.as_str().unwrap(), "q_proj", "folds", "queries", "level 0", "total", "2 groups"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn verifying_names_what_differs() {
    let workshop = Workshop::new();
    let (model, manifest) = (workshop.model(), workshop.text("model/manifest.assay"));
    prints(&["model", "commit", &model]);
    assert!(prints(&["model", "verify", &model, &manifest]).contains("these are the manifest's weights"));

    let nudge = |bits: u16| bits ^ 1;
    for (tensor, named) in [
        ("model.layers.1.self_attn.k_proj.weight", "layer 1: k_proj differs"),
        ("model.layers.0.mlp.down_proj.weight", "layer 0: down_proj differs"),
        ("model.layers.1.post_attention_layernorm.weight", "layer 1: a norm"),
        ("model.embed_tokens.weight", "embedding table"),
        ("model.norm.weight", "final norm"),
        ("lm_head.weight", "lm_head differs"),
    ] {
        let copy = workshop.copy();
        set_element(&copy, tensor, 7, nudge);
        fails(&["model", "verify", copy.to_str().unwrap(), &manifest], 1, &[named]);
    }
    for (file, from, to, named) in [
        ("tokenizer.json", "\"<1>\"", "\"<x>\"", "tokenizer.json differs"),
        ("tokenizer_config.json", "assistant: ", "machine: ", "chat template differs"),
        ("config.json", "10000.0", "20000.0", "rotary frequencies"),
        ("config.json", "\"max_position_embeddings\":128", "\"max_position_embeddings\":64", "max_positions is 64"),
    ] {
        let copy = workshop.copy();
        replace(&copy.join(file), from, to);
        fails(&["model", "verify", copy.to_str().unwrap(), &manifest], 1, &[named]);
    }

    let copy = workshop.copy();
    set_element(&copy, "model.layers.0.self_attn.q_proj.weight", 3, |_| 0x7fc0);
    fails(&["model", "verify", copy.to_str().unwrap(), &manifest], 1, &["model.layers.0.self_attn.q_proj", "NaN"]);

    // Without the tree file a layer is all that can be named, unless a magnitude tells.
    let alone = workshop.text("alone.assay");
    fs::copy(&manifest, &alone).unwrap();
    let copy = workshop.copy();
    set_element(&copy, "model.layers.1.self_attn.k_proj.weight", 7, nudge);
    fails(&["model", "verify", copy.to_str().unwrap(), &alone], 1, &["layer 1: one of its matrices", "tree file"]);
    set_element(&copy, "model.layers.0.mlp.up_proj.weight", 7, |_| 0x4180);
    fails(&["model", "verify", copy.to_str().unwrap(), &alone], 1, &["layer 0: up_proj", "1 more"]);
}

#[test]
fn trees_are_used_again_for_the_weights_that_they_fit() {
    let workshop = Workshop::new();
    let manifest = |name: &str| {
        let out = workshop.transcript(name, &[]);
        prints_json(&["audit", "verify", &out, "--json"])[0]["manifest_id"].clone()
    };
    let fresh = manifest("fresh");
    prints(&["model", "commit", &workshop.model()]);
    assert_eq!(manifest("reused"), fresh);
    set_element(&workshop.path("model"), "model.layers.1.self_attn.k_proj.weight", 7, |bits| bits ^ 1);
    assert_ne!(manifest("changed"), fresh);

    // A damaged tree file costs a warning and the time to commit.
    fs::write(workshop.path("model/manifest.tree"), b"ASSAY\0WT and nothing").unwrap();
    let (model, out) = (workshop.model(), workshop.text("again"));
    let run = assay(&["audit", "self", &model, "--prompt", "x", "--max-tokens", "2", "--out", &out]);
    assert!(run.code == 0 && run.stderr.contains("manifest.tree: not used"), "{run:?}");
}

#[test]
fn a_damaged_manifest_is_told_and_never_taken_for_another() {
    let workshop = Workshop::new();
    let (model, manifest) = (workshop.model(), workshop.text("model/manifest.assay"));
    prints(&["model", "commit", &model, "--profile", "f32-1"]);
    let whole = fs::read(&manifest).unwrap();
    let (out, network) = (workshop.text("out"), ["--network", "ws://127.0.0.1:1", "--netuid", "3"]);
    let cut = |length: usize| whole[..length].to_vec();
    // In the digest of the tokenizer or beyond: any bits there are those of some manifest.
    let flipped = |place: usize| {
        let mut bytes = whole.clone();
        bytes[place] ^= 1;
        bytes
    };
    let half = whole.len() / 2;
    for damaged in [cut(100), cut(whole.len() - 32), flipped(half), flipped(whole.len() - 40), flipped(whole.len() - 1)]
    {
        fs::write(&manifest, damaged).unwrap();
        for command in [
            &["audit", "self", &model, "--prompt", "x", "--out", &out][..],
            &["generate", &model, "--prompt", "x"],
            &["model", "inspect", &model],
            &["model", "inspect", &manifest],
            &["model", "verify", &model, &manifest],
            &[&["model", "publish", &manifest][..], &network].concat(),
        ] {
            fails(command, 4, &["model/manifest.assay: damaged", "commit the model again"]);
        }
    }
    assert!(!workshop.path("out").exists());
    prints(&["model", "commit", &model, "--profile", "f32-1"]);
    assert_eq!(fs::read(&manifest).unwrap(), whole);
}

#[cfg(unix)]
#[test]
fn an_out_that_is_no_file_is_left_as_it_is_and_a_link_is_written_through() {
    use std::os::unix::fs::{FileTypeExt, symlink};
    let workshop = Workshop::new();
    let model = workshop.model();
    let pipe = workshop.path("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    symlink("/dev/null", workshop.path("null")).unwrap();
    symlink("circle", workshop.path("circle")).unwrap();
    fs::write(workshop.path("text"), "text").unwrap();
    for (out, part) in [
        (workshop.text("pipe"), "pipe: this is no regular file: name a file"),
        (workshop.text("null"), "null: this is no regular file: name a file"),
        ("/dev/null".to_owned(), "/dev/null: this is no regular file: name a file"),
        (workshop.text("circle"), "circle: cannot be written"),
        (workshop.text("text/x"), "text: this is a file, not a folder"),
    ] {
        fails(&["audit", "self", &model, "--prompt", "x", "--out", &out], 2, &[part]);
        fails(&["model", "commit", &model, "--out", &out], 2, &[part]);
    }
    assert!(fs::metadata("/dev/null").unwrap().file_type().is_char_device());
    assert!(fs::metadata(&pipe).unwrap().file_type().is_fifo());
    assert!(fs::symlink_metadata(workshop.path("null")).unwrap().is_symlink());

    // Through a link to a link, relative to where they lie, to a file that is there and to one that is not.
    let deep = workshop.path("deep");
    fs::create_dir(&deep).unwrap();
    fs::write(deep.join("old"), "old").unwrap();
    symlink("near", workshop.path("far")).unwrap();
    for name in ["old", "new"] {
        let _before = fs::remove_file(workshop.path("near"));
        symlink(Path::new("deep").join(name), workshop.path("near")).unwrap();
        workshop.transcript("far", &[]);
        assert!(["far", "near"].iter().all(|link| fs::symlink_metadata(workshop.path(link)).unwrap().is_symlink()));
        assert!(prints(&["audit", "verify", deep.join(name).to_str().unwrap()]).starts_with("accepted"));
    }
    assert_eq!(fs::read_dir(deep).unwrap().count(), 2, "nothing else is left behind");
}

#[test]
fn a_file_where_a_folder_is_wanted_is_called_one() {
    let workshop = Workshop::new();
    let (good, text) = (workshop.transcript("good", &[]), workshop.text("text"));
    fs::write(&text, "text").unwrap();
    for (command, code) in [
        (&["audit", "epoch", &text][..], 4),
        (&["audit", "verify", &good, "--assets", &text], 2),
        (&["calibrate", &workshop.model(), "--out", &text], 2),
        (&["bench", "audit", "--shape", "fixture", "--keep", &text], 2),
    ] {
        fails(command, code, &["text: this is a file, not a folder"]);
    }
    let run = assay(&["demo", "--keep", &text]);
    assert!(run.code == 2 && run.stderr.contains("text: this is a file, not a folder"), "{run:?}");
}

#[test]
fn generating_streams_what_the_document_says() {
    let workshop = Workshop::new();
    let model = workshop.model();
    let ask = [
        "generate",
        &model,
        "--prompt",
        "hello",
        "--max-tokens",
        "20",
        "--seed",
        "7",
        "--top-k",
        "40",
        "--top-p",
        "0.9",
    ];
    let document = prints_json(&[&ask[..], &["--json"]].concat());
    assert_eq!(keys(&document), ["prompt_tokens", "tokens", "text", "finish_reason", "tokens_per_second"]);
    assert_eq!(document["prompt_tokens"].as_array().unwrap().len(), 5);
    assert_eq!(document["finish_reason"], "length");
    assert_eq!(document["tokens"].as_array().unwrap().len(), 20);
    assert!(document["tokens_per_second"].as_f64().unwrap() > 0.0);
    assert_eq!(prints(&ask), format!("{}\n", document["text"].as_str().unwrap()));

    let greedy = ["generate", &model, "--prompt", "hello", "--temperature", "0", "--max-tokens", "9"];
    assert_eq!(prints(&greedy), prints(&greedy));
    let chat = prints_json(&[&greedy[..], &["--chat", "--json"]].concat());
    assert!(chat["prompt_tokens"].as_array().unwrap().len() > 10);
}

#[test]
fn generating_refuses_what_it_cannot_do() {
    let workshop = Workshop::new();
    let model = workshop.model();
    let ask = |more: &[&'static str]| [&["generate", model.as_str(), "--prompt"], more].concat();
    fails(&ask(&["x", "--temperature", "1000"]), 2, &["temperature", "out of range"]);
    fails(&ask(&["x", "--top-p", "0"]), 2, &["top-p", "out of range"]);
    fails(&ask(&["x", "--max-tokens", "0"]), 2, &["--max-tokens"]);
    fails(&ask(&[""]), 2, &["the prompt is empty"]);
    fails(&["generate", &model], 2, &["--prompt"]);
    let long = "x".repeat(500);
    fails(&["generate", &model, "--prompt", &long], 2, &["context of 128", "shorten"]);
    let copy = workshop.copy();
    fs::remove_file(copy.join("tokenizer_config.json")).unwrap();
    fails(&["generate", copy.to_str().unwrap(), "--prompt", "x", "--chat"], 2, &["no chat template"]);
}

#[test]
fn a_self_audit_is_accepted_by_its_replay() {
    let workshop = Workshop::new();
    let sampled = workshop.transcript("sampled", &[]);
    let wide = workshop.transcript("wide", &["--cells", "9", "--decodes", "5", "--columns", "2", "--temperature", "0"]);
    let complete = workshop.transcript("complete", &["--cells", "all", "--chat"]);

    let text = prints(&["audit", "verify", &sampled, &wide, &complete]);
    for (line, file) in text.lines().zip([&sampled, &wide, &complete]) {
        assert!(line.starts_with("accepted") && line.contains(file.as_str()), "{line}");
    }
    assert!(text.contains("\n\n3 files in ") && text.contains("a second\naccepted              3\n"), "{text}");
    assert_eq!(prints(&["audit", "verify", &sampled]).lines().count(), 1, "one file needs no summary");
    let document = prints_json(&["audit", "verify", &sampled, "--json"]);
    let entry = &document[0];
    let expected =
        ["file", "verdict", "reason", "where", "cells", "decodes", "proof_bytes", "verify_ms", "manifest_id"];
    assert_eq!(keys(entry), expected);
    assert_eq!(
        (&entry["verdict"], &entry["reason"], &entry["where"]),
        (&"accepted".into(), &Value::Null, &Value::Null)
    );
    assert_eq!(entry["cells"][0].as_array().unwrap().len(), 2);
    assert_eq!(entry["decodes"][0], 9);
    assert!(entry["proof_bytes"].as_u64().unwrap() > 1_000 && entry["verify_ms"].as_f64().unwrap() > 0.0);

    let document = prints_json(&["audit", "verify", &complete, "--json"]);
    let (cells, decodes) = (&document[0]["cells"], &document[0]["decodes"]);
    let shown = prints_json(&["audit", "show", &complete, "--json"]);
    let tokens = shown["tokens"].as_array().unwrap().len();
    let positions = shown["prompt_tokens"].as_u64().unwrap() + tokens as u64 - 1;
    assert_eq!(cells.as_array().unwrap().len() as u64, 2 * positions);
    assert_eq!(decodes.as_array().unwrap().len(), tokens);
}

#[test]
fn a_complete_proof_has_no_nonce_tells_its_cost_and_anybody_can_check_it() {
    let workshop = Workshop::new();
    let (model, out) = (workshop.model(), workshop.text("complete"));
    let arguments =
        ["audit", "self", &model, "--prompt", "hello", "--max-tokens", "3", "--cells", "all", "--out", &out];
    let text = prints(&arguments);
    let cost = text.lines().find(|line| line.starts_with("a cell")).expect("a complete proof tells its cost");
    for part in ["KB, made in ", " ms, checked in ", " ms, all else shared out"] {
        assert!(cost.contains(part), "{cost}");
    }
    assert!(
        !prints(&["audit", "self", &model, "--prompt", "x", "--max-tokens", "2", "--out", &out]).contains("a cell")
    );
    prints(&arguments);
    let file = TranscriptFile::decode(&fs::read(&out).unwrap()).unwrap();
    assert_eq!(file.record.request.nonce_commitment, None);
    let Exchange::Committed { reply: Reply::Challenged { nonce, .. }, .. } = &file.record.exchange else {
        panic!("it was challenged")
    };
    assert_eq!(*nonce, None);
    // By anybody: from the file alone, far from the model.
    let elsewhere = tempfile::tempdir().unwrap();
    let copy = elsewhere.path().join("given");
    fs::copy(&out, &copy).unwrap();
    drop(workshop);
    assert!(prints(&["audit", "verify", copy.to_str().unwrap()]).starts_with("accepted"));
}

/// A transcript of a miner whose weights are not the manifest's: rejected in a cell.
fn cheated(workshop: &Workshop) -> String {
    use assay_cli::demo::cast::{Behaviour, Models};
    use assay_cli::local::LocalModel;
    let checkpoint =
        assay_llm_runtime::Checkpoint::load(&workshop.path("model"), assay_commitments::rows::Profile::Bf16V1)
            .expect("a model");
    let model = std::sync::Arc::new(LocalModel::of(&checkpoint, &mut |_, _| ()).expect("it commits"));
    let models = Models::new(&model, &checkpoint.tensors).expect("it runs");
    let audit = assay_cli::self_audit::SelfAudit {
        prompt: assay_audit::prompt::Prompt::Text("hello".to_owned()),
        sampling: assay_audit::sampling::Sampling::GREEDY,
        max_tokens: 6,
        stop: vec![],
        policy: assay_audit::policy::Policy::DEFAULT,
        audit_rate: assay_audit::request::AuditRate::Always,
        entropy: [3; 32],
    };
    let file = audit.run(&model, &models.backend(Behaviour::Int8Weights, &std::sync::Arc::default())).expect("served");
    fs::write(workshop.path("cheated"), file.encode()).expect("a file is written");
    workshop.text("cheated")
}

#[test]
fn a_rejected_cell_can_be_followed_and_shown_to_others() {
    let workshop = Workshop::new();
    let (good, bad) = (workshop.transcript("good", &[]), cheated(&workshop));
    let document = prints_json(&["audit", "show", &bad, "--json"]);
    let verdict = assay(&["audit", "verify", &bad, "--json"]);
    let entry = serde_json::from_str::<Value>(&verdict.stdout).unwrap()[0].clone();
    assert_eq!((verdict.code, &entry["where"]["stage"]), (1, &"cell".into()), "{entry}");
    let cell = &document["cell"];
    assert_eq!((&cell["layer"], &cell["position"]), (&entry["where"]["layer"], &entry["where"]["position"]));
    let text = prints(&["audit", "show", &bad]);
    for part in ["how far off, entry by entry", "committed", "reference", "entry", "@"] {
        assert!(text.contains(part), "{part}: {text}");
    }

    // Nothing is rejected in an honest one, but any cell of it can be followed.
    assert_eq!(prints_json(&["audit", "show", &good, "--json"])["cell"], Value::Null);
    let shown = prints_json(&["audit", "show", &good, "--json"]);
    let place = format!("{}:{}", shown["cells"][0][0], shown["cells"][0][1]);
    let followed = prints(&["audit", "show", &good, "--cell", &place]);
    assert!(followed.contains("the same") && !followed.contains("entry  committed"), "{followed}");
    let decode = shown["decodes"][0].to_string();
    assert!(prints(&["audit", "show", &good, "--cell", &decode]).contains("none scores above the served token"));
    fails(&["audit", "show", &good, "--cell", "1:99"], 2, &["--cell", "asked for"]);
    fails(&["audit", "show", &good, "--cell", "x"], 2, &["--cell"]);

    // The exhibit says the same, in fewer bytes, to whoever has nothing else.
    let exhibit = workshop.text("exhibit");
    assert!(prints(&["audit", "dispute", &bad, "--out", &exhibit]).contains("audit verify"));
    assert!(fs::metadata(&exhibit).unwrap().len() * 3 < fs::metadata(&bad).unwrap().len());
    let run = assay(&["audit", "verify", &exhibit, "--json"]);
    let shown = serde_json::from_str::<Value>(&run.stdout).unwrap()[0].clone();
    assert_eq!((run.code, run.stderr.as_str()), (1, ""));
    assert_eq!((&shown["reason"], &shown["where"], keys(&shown)), (&entry["reason"], &entry["where"], keys(&entry)));
    assert_eq!(shown["cells"].as_array().unwrap().len() + shown["decodes"].as_array().unwrap().len(), 1);
    assert!(prints(&["audit", "show", &exhibit]).contains("how far off"));
    assert_eq!(prints_json(&["audit", "show", &exhibit, "--json"])["cell"], *cell);

    fails(&["audit", "dispute", &good, "--out", &workshop.text("none")], 2, &["accepted", "nothing to hold against"]);
    fails(&["audit", "dispute", &exhibit, "--out", &workshop.text("none")], 4, &["this is an exhibit already"]);
    fails(&["audit", "show", &exhibit, "--cell", "99:99"], 2, &["--cell", "one cell or decode alone"]);
    let unproven = workshop.changed(&good, "unproven", |file| {
        if let Exchange::Committed { reply: Reply::Challenged { answer, .. }, .. } = &mut file.record.exchange {
            *answer = Answer::Omitted(Omission::Absent);
        }
    });
    fails(&["audit", "dispute", &unproven, "--out", &workshop.text("none")], 2, &["validator's word"]);
    assert!(!workshop.path("none").exists());

    // A forged one is no evidence: the file tells of itself alone.
    let mut forged = fs::read(&exhibit).unwrap();
    let middle = forged.len() / 2;
    forged[middle] ^= 1;
    let body = forged.len() - 32;
    let checksum = blake3::derive_key("assay/exhibit/v1", &forged[..body]);
    forged[body..].copy_from_slice(&checksum);
    fs::write(workshop.path("forged"), forged).unwrap();
    for command in ["verify", "show"] {
        fails(&["audit", command, &workshop.text("forged")], 4, &["forged", "contradicts itself"]);
    }
}

#[test]
fn a_folder_stands_for_its_transcripts_in_order() {
    let workshop = Workshop::new();
    let folder = workshop.path("many");
    fs::create_dir_all(folder.join("deep")).unwrap();
    let (good, bad) = (workshop.transcript("good", &[]), cheated(&workshop));
    let names = ["a.assay", "b.assay", "c.assay", "d.assay", "deep/e.assay"];
    for (number, name) in names.iter().enumerate() {
        fs::copy(if number == 2 { &bad } else { &good }, folder.join(name)).unwrap();
    }
    fs::write(folder.join("notes.txt"), "not of these").unwrap();
    let run = assay(&["audit", "verify", folder.to_str().unwrap()]);
    assert_eq!(run.code, 1, "{run:?}");
    let told: Vec<&str> = run.stdout.lines().take(5).collect();
    for (line, name) in told.iter().zip(names) {
        assert!(line.contains(name), "{line}");
    }
    assert!(told[2].starts_with("rejected") && told[3].starts_with("accepted"));
    let summary = run.stdout.split_once("\n\n").unwrap().1;
    for part in ["5 files in ", "accepted              4", "rejected              1  c", "relation", "good"] {
        let found = summary.contains(part) || part == "good" && summary.contains("a.assay");
        assert!(found, "{part}: {summary}");
    }
    let run = assay(&["audit", "verify", folder.to_str().unwrap(), &good, "--json"]);
    let entries: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(entries.as_array().unwrap().len(), 6);
    assert!(entries[5]["file"] == good.as_str() && entries[2]["verdict"] == "rejected");
    let empty = workshop.path("empty");
    fs::create_dir(&empty).unwrap();
    fails(&["audit", "verify", empty.to_str().unwrap()], 4, &["this folder holds no transcripts"]);
    let run = assay(&["audit", "verify", empty.to_str().unwrap(), &good]);
    assert_eq!((run.code, run.stderr.lines().count()), (4, 1), "{run:?}");
    assert!(run.stderr.contains("holds no transcripts") && run.stdout.starts_with("accepted"), "{run:?}");
}

#[test]
fn a_manifest_beside_transcripts_is_none_of_them() {
    let workshop = Workshop::new();
    let (model, manifest) = (workshop.model(), workshop.text("model/manifest.assay"));
    prints(&["model", "commit", &model]);
    fails(&["audit", "verify", &model], 4, &["this folder holds no transcripts"]);
    fails(&["audit", "epoch", &model], 3, &["holds no epoch log and no transcript"]);
    for command in [&["verify"][..], &["show"], &["dispute", "--out", "none"]] {
        fails(&[&["audit"], command, &[&manifest]].concat(), 4, &["this is a manifest: use `assay model inspect`"]);
    }
    workshop.transcript("model/it.assay", &[]);
    assert_eq!(prints(&["audit", "verify", &model]).lines().count(), 1);
    // Whatever else has that name is told of.
    fs::write(&manifest, b"ASSAY\0TR").unwrap();
    assert_eq!(assay(&["audit", "verify", &model]).code, 4);
}

/// Three thousand sessions of three kinds, judged by threads that finish in any order.
#[test]
fn thousands_of_transcripts_are_judged_side_by_side_and_told_of_in_order() {
    const EACH: usize = 1000;
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/golden/v1");
    let sources = ["accepted", "rejected_101_zero_proof", "rejected_303_int8_weights"];
    let root = tempfile::tempdir().unwrap();
    for name in sources {
        fs::copy(golden.join(format!("{name}.assay")), root.path().join(name)).unwrap();
    }
    let mut expected = vec![];
    for number in 0..3 * EACH {
        let (path, kind) = (format!("many/{}/{number:04}.assay", number / EACH), number % 3);
        let to = root.path().join(&path);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::hard_link(root.path().join(sources[kind]), to).unwrap();
        expected.push((["accepted", "rejected", "rejected"][kind], path));
    }
    let run = assay(&["audit", "verify", root.path().join("many").to_str().unwrap()]);
    assert_eq!(run.code, 1, "{}", run.stderr);
    let (lines, summary) = run.stdout.split_once("\n\n").expect("lines, then a summary");
    let told: Vec<_> = lines.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).collect();
    assert_eq!(told.len(), expected.len());
    for (told, (verdict, path)) in told.iter().zip(&expected) {
        assert!(told[0] == *verdict && told[1].ends_with(path.as_str()), "{told:?}, not {path}");
    }
    let counts = [
        "3,000 files in ",
        "\naccepted          1,000\n",
        "\nrejected          2,000  c3_keys x1,000, proof_shape x1,000\n",
        "\ninconclusive          0\n",
    ];
    for part in counts {
        assert!(summary.contains(part), "{part}: {summary}");
    }
    assert!(!summary.contains("no verdict"), "{summary}");
}

#[test]
fn a_session_with_oneself_is_on_no_chain() {
    let workshop = Workshop::new();
    let good = workshop.transcript("good", &[]);
    let chain = workshop.text("chain.json");
    let zeros = "0".repeat(64);
    let history = |genesis: &str| {
        format!(
            r#"{{"genesis":"{genesis}","netuid":0,"epochs":{{"0":0}},"manifests":[],"hotkeys":[],"epoch_keys":[]}}"#
        )
    };
    for (genesis, expected) in [("1".repeat(64), "another chain"), (zeros, "was not in force in epoch 0")] {
        fs::write(&chain, history(&genesis)).unwrap();
        let run = assay(&["audit", "verify", &good, "--network", &chain]);
        assert_eq!(run.code, 3, "{run:?}");
        assert!(run.stdout.contains("915 not_on_chain") && run.stderr.contains(expected), "{run:?}");
    }
    fs::write(&chain, "{}").unwrap();
    fails(&["audit", "verify", &good, "--network", &chain], 4, &["no history of a chain"]);
    let nowhere = workshop.text("nowhere");
    fails(&["audit", "verify", &good, "--network", &nowhere], 2, &["nowhere: neither a network nor a file"]);
    fails(&["audit", "epoch", &nowhere], 4, &["no such folder"]);
    fails(&["audit", "epoch", &workshop.model()], 3, &["model holds no epoch log and no transcript"]);
}

#[test]
fn showing_a_transcript_shows_all_of_it() {
    let workshop = Workshop::new();
    let file = workshop.transcript("one", &[]);
    let text = prints(&["audit", "show", &file]);
    for part in ["\"hello\"", "temperature 0.8", "4 cells, 3 decodes", "C9", "[", "openings", "receipt", "accepted"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let document = prints_json(&["audit", "show", &file, "--json"]);
    let sizes = document["proof_sizes"].as_object().unwrap().values().map(|size| size.as_u64().unwrap());
    let proof = prints_json(&["audit", "verify", &file, "--json"])[0]["proof_bytes"].as_u64().unwrap();
    assert_eq!(sizes.sum::<u64>(), proof);
    assert_eq!(document["prompt"]["text"], "hello");
}

#[test]
fn self_audits_refuse_contradictions() {
    let workshop = Workshop::new();
    let (model, out) = (workshop.model(), workshop.text("x"));
    let ask = |more: &[&'static str]| {
        [&["audit", "self", model.as_str(), "--prompt", "x", "--out", out.as_str()], more].concat()
    };
    fails(&ask(&["--cells", "0"]), 2, &["--cells"]);
    fails(&ask(&["--cells", "some"]), 2, &["--cells"]);
    fails(&ask(&["--decodes", "0"]), 2, &["--decodes"]);
    fails(&ask(&["--cells", "all", "--columns", "1"]), 2, &["--cells all"]);
    fails(&["audit", "self", &model, "--prompt", "x"], 2, &["--out"]);
    fails(&["audit", "self", &model, "--prompt", "x", "--out", &workshop.text("no/x")], 2, &["no such folder"]);
    assert!(!workshop.path("x").exists());
}

#[test]
fn of_several_transcripts_the_worst_counts() {
    let workshop = Workshop::new();
    let good = workshop.transcript("good", &[]);
    let unproven = |file: &mut TranscriptFile| {
        if let Exchange::Committed { reply: Reply::Challenged { answer, .. }, .. } = &mut file.record.exchange {
            *answer = Answer::Omitted(Omission::Absent);
        }
    };
    let rejected = workshop.changed(&good, "rejected", unproven);
    let bare = workshop.changed(&good, "bare", |file| file.tokenizer = None);
    let damaged = workshop.text("damaged");
    fs::write(&damaged, b"ASSAY\0TR").unwrap();

    let code = |files: &[&str]| assay(&[&["audit", "verify"], files].concat()).code;
    assert_eq!(code(&[&good, &rejected]), 1);
    assert_eq!(code(&[&rejected, &bare, &good]), 3);
    assert_eq!(code(&[&bare, &damaged, &rejected]), 4);

    let run = assay(&["audit", "verify", &rejected, "--json"]);
    let entry = &serde_json::from_str::<Value>(&run.stdout).unwrap()[0];
    assert_eq!(
        (run.code, &entry["reason"]["code"], &entry["reason"]["slug"]),
        (1, &603.into(), &"proof_absent".into())
    );
    assert_eq!(keys(&entry["where"]), ["stage", "relation", "layer", "position", "group", "round"]);
    assert_eq!((&entry["where"]["stage"], &entry["where"]["layer"]), (&"stream".into(), &Value::Null));
    assert!(run.stderr.contains("the receipt states accepted, the replay finds rejected, 603"), "{}", run.stderr);

    let run = assay(&["audit", "verify", &good, &damaged, "--json"]);
    let entries: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!((&entries[0]["verdict"], &entries[1]["verdict"]), (&"accepted".into(), &Value::Null));
    assert!(entries[1]["error"].as_str().unwrap().contains("damaged"));
}

#[test]
fn assets_are_found_by_their_digest() {
    let workshop = Workshop::new();
    let good = workshop.transcript("good", &["--chat"]);
    let bare = workshop.changed(&good, "bare", |file| (file.tokenizer, file.chat_template) = (None, None));
    let run = assay(&["audit", "verify", &bare]);
    assert!(run.code == 3 && run.stdout.contains("asset_missing") && run.stdout.contains("--assets"), "{run:?}");

    let file = TranscriptFile::decode(&fs::read(&good).unwrap()).unwrap();
    let store = workshop.path("store");
    fs::create_dir(&store).unwrap();
    let mut paths = vec![];
    for asset in [file.tokenizer.unwrap(), file.chat_template.unwrap()] {
        paths.push(store.join(blake3::hash(&asset).to_hex().as_str()));
        fs::write(paths.last().unwrap(), asset).unwrap();
    }
    let store = workshop.text("store");
    assert!(prints(&["audit", "verify", &bare, "--assets", &store]).starts_with("accepted"));
    // Where a validator puts them, nobody has to name them.
    let kept = workshop.path("kept");
    fs::create_dir_all(kept.join("assets")).unwrap();
    fs::copy(&bare, kept.join("bare.assay")).unwrap();
    for path in &paths {
        fs::copy(path, kept.join("assets").join(path.file_name().unwrap())).unwrap();
    }
    assert!(prints(&["audit", "verify", kept.to_str().unwrap()]).starts_with("accepted"));
    fs::remove_file(&paths[1]).unwrap();
    assert_eq!(assay(&["audit", "verify", &bare, "--assets", &store]).code, 3);
    fs::write(&paths[0], b"something else").unwrap();
    fails(&["audit", "verify", &bare, "--assets", &store], 4, &["not what its name says"]);
    fails(&["audit", "verify", &bare, "--assets", &workshop.text("nowhere")], 2, &["no such folder"]);
}

#[test]
fn an_epoch_is_checked_with_the_assets_that_lie_beside_its_transcripts() {
    let workshop = Workshop::new();
    let good = workshop.transcript("good", &[]);
    let whole = TranscriptFile::decode(&fs::read(&good).unwrap()).unwrap();
    // A commitment that its miner did not sign was not answered.
    let folder = workshop.path("transcripts");
    fs::create_dir_all(folder.join("epoch-0")).unwrap();
    let mut listed = None;
    workshop.changed(&good, "transcripts/epoch-0/it.assay", |file| {
        (file.tokenizer, file.chat_template) = (None, None);
        let Exchange::Committed { commitment, reply } = &mut file.record.exchange else { panic!("committed") };
        commitment.signature.0[0] ^= 1;
        *reply = Reply::None;
        listed = Some((file.record.request.clone(), file.record.request.session_id()));
    });
    workshop.judged("transcripts/epoch-0/it.assay");
    let (request, session) = listed.unwrap();
    let log = EpochLog {
        network: request.network,
        validator: request.validator,
        epoch: request.epoch,
        key: blake3::derive_key("assay self audit epoch", &entropy()),
        requests: [(request.miner, vec![Listed { session: Some(session), ending: Ending::Judged }])].into(),
    };
    fs::write(folder.join("epoch-0/epoch.log"), log.encode_signed(&validator())).unwrap();
    let check = |code: i32, counts: [u64; 4]| {
        let run = assay(&["audit", "epoch", folder.to_str().unwrap(), "--json"]);
        let told: Value = serde_json::from_str(&run.stdout).unwrap_or_else(|_| panic!("{run:?}"));
        let miner = &told["epochs"][0]["miners"][0];
        let found = ["owed", "made", "unaudited", "missing"].map(|key| miner[key].as_u64().unwrap());
        assert_eq!((run.code, found), (code, counts), "{run:?}");
        run.stderr
    };
    check(3, [0, 0, 0, 1]);

    let assets = folder.join("assets");
    fs::create_dir(&assets).unwrap();
    let mut paths = vec![];
    for asset in [whole.tokenizer, whole.chat_template].into_iter().flatten() {
        paths.push(assets.join(blake3::hash(&asset).to_hex().as_str()));
        fs::write(paths.last().unwrap(), asset).unwrap();
    }
    check(0, [0, 0, 1, 0]);
    // What cannot be read hides nothing of the rest.
    let junk = folder.join("epoch-1/epoch.log");
    fs::create_dir(folder.join("epoch-1")).unwrap();
    fs::write(&junk, b"junk").unwrap();
    assert!(check(4, [0, 0, 1, 0]).contains("epoch-1"));
    // Nor does another log that the validator signed of the same epoch, beside which it would be shown for what it is. A copy
    // is none.
    fs::write(&junk, log.encode_signed(&validator())).unwrap();
    check(0, [0, 0, 1, 0]);
    let other = EpochLog { requests: [(request.miner, vec![])].into(), ..log.clone() };
    fs::write(&junk, other.encode_signed(&validator())).unwrap();
    let run = assay(&["audit", "epoch", folder.to_str().unwrap(), "--json"]);
    let told: Value = serde_json::from_str(&run.stdout).unwrap_or_else(|_| panic!("{run:?}"));
    let epochs = told["epochs"].as_array().unwrap();
    assert_eq!((run.code, epochs.len()), (1, 2), "{run:?}");
    assert!(epochs.iter().all(|epoch| epoch["is_one_of_two"] == true), "{run:?}");
    assert_ne!(epochs[0]["digest"], epochs[1]["digest"]);
    let told = assay(&["audit", "epoch", folder.to_str().unwrap()]).stdout;
    assert_eq!(told.matches("the validator signed another log of the same epoch").count(), 2, "{told}");
    // On another subnet it may.
    let elsewhere = EpochLog { network: Network { netuid: 99, ..log.network }, ..log.clone() };
    fs::write(&junk, elsewhere.encode_signed(&validator())).unwrap();
    let run = assay(&["audit", "epoch", folder.to_str().unwrap(), "--json"]);
    let told: Value = serde_json::from_str(&run.stdout).unwrap_or_else(|_| panic!("{run:?}"));
    let epochs = told["epochs"].as_array().unwrap();
    assert!(epochs.len() == 2 && epochs.iter().all(|epoch| epoch["is_one_of_two"] == false), "{run:?}");
    // A key that was used before gives nonces that were revealed.
    let again = EpochLog { epoch: Epoch::new(log.epoch.get() + 1), requests: [].into(), ..log.clone() };
    fs::write(&junk, again.encode_signed(&validator())).unwrap();
    let run = assay(&["audit", "epoch", folder.to_str().unwrap()]);
    assert_eq!((run.code, run.stdout.matches("its nonces were known").count()), (1, 2), "{run:?}");
    fs::remove_file(&junk).unwrap();
    let table = prints(&["audit", "epoch", folder.to_str().unwrap()]);
    assert!(table.contains("unaudited"), "{table}");
    let log = folder.join("epoch-0/epoch.log");
    for command in [&["verify"][..], &["show"], &["dispute", "--out", "none"]] {
        let expected = "epoch.log: this is an epoch log: use `assay audit epoch FOLDER`";
        fails(&[&["audit"], command, &[log.to_str().unwrap()]].concat(), 4, &[expected]);
    }
    // One that is there and is none is damaged, not missing.
    fs::remove_file(&paths[0]).unwrap();
    fs::create_dir(&paths[0]).unwrap();
    let told = check(4, [0, 0, 0, 1]);
    assert!(told.contains("this is a folder"), "{told}");
    fs::remove_dir(&paths[0]).unwrap();
    fs::write(&paths[0], b"something else").unwrap();
    let told = check(4, [0, 0, 0, 1]);
    assert!(told.contains("not what its name says"), "{told}");
}

#[test]
fn a_validator_that_asks_a_miner_on_other_terms_than_the_rest_is_shown() {
    let workshop = Workshop::new();
    let good = workshop.transcript("good", &[]);
    let (folder, key) = (workshop.path("transcripts"), blake3::derive_key("assay self audit epoch", &entropy()));
    fs::create_dir(&folder).unwrap();
    let folder = folder.to_str().unwrap();
    // Three miners are asked, the last of them otherwise.
    let epoch_with = |change: &dyn Fn(&mut Request)| {
        let mut log = None;
        for miner in 1..=3_u8 {
            workshop.changed(&good, &format!("transcripts/{miner}.assay"), |file| {
                file.record.exchange = Exchange::Uncommitted(Omission::Absent);
                let request = &mut file.record.request;
                request.miner = Hotkey::new([miner; 32]);
                let nonce = EpochKey::new(key).nonce(request.network.netuid, &request.miner, 0);
                request.nonce_commitment = Some(nonce_commitment(&nonce, 0, &request.validator, &request.miner));
                request.audit_rate = AuditRate::Below(1 << 63);
                if miner == 3 {
                    change(request);
                }
                file.record.request_signature = request.sign(&validator());
                let (network, validator, epoch) = (request.network, request.validator, request.epoch);
                let listed = Listed { session: Some(request.session_id()), ending: Ending::Judged };
                let log = log.get_or_insert_with(|| EpochLog { network, validator, epoch, key, requests: [].into() });
                log.requests.insert(request.miner, vec![listed]);
            });
            workshop.judged(&format!("transcripts/{miner}.assay"));
        }
        let log: EpochLog = log.unwrap();
        fs::write(Path::new(folder).join("epoch.log"), log.encode_signed(&validator())).unwrap();
        let (told, run) = (assay(&["audit", "epoch", folder]), assay(&["audit", "epoch", folder, "--json"]));
        assert_eq!((told.code, told.stderr.as_str()), (run.code, ""), "{told:?}");
        let json: Value = serde_json::from_str(&run.stdout).unwrap();
        let miners: Vec<Value> = json["epochs"][0]["miners"].as_array().unwrap().clone();
        (told, json["selective"].as_bool().unwrap(), miners)
    };

    let (told, selective, miners) = epoch_with(&|_| ());
    assert!(told.code == 0 && !selective && told.stdout.contains("on the same terms"), "{told:?}");
    assert!(told.stdout.contains("rate") && told.stdout.contains("50.00 %"), "{told:?}");
    assert_eq!(miners[0]["rates"], serde_json::json!([0.5]));
    let (told, selective, miners) = epoch_with(&|request| request.audit_rate = AuditRate::Always);
    assert!(told.code == 0 && !selective && told.stdout.contains(" all "), "{told:?}");
    assert_eq!(miners[2]["rates"], serde_json::json!([1.0]));

    let policy = Policy::Sampled { cells: 1, decodes: 1, columns: None, least_budget_ms: 0 };
    for (change, what) in [
        (&|request: &mut Request| request.policy = policy, "policy or deadlines are not the commonest"),
        (&|request: &mut Request| request.audit_rate = AuditRate::Below(1), "the audit rate is neither every response"),
    ] as [(&dyn Fn(&mut Request), &str); 2]
    {
        let (told, selective, miners) = epoch_with(change);
        assert!(told.code == 1 && selective, "{told:?}");
        let line = format!("shown: counter 0 of {}: {what}", "03".repeat(32));
        assert!(told.stdout.contains(&line), "{line:?} is not in {told:?}");
        assert!(miners[2]["shown"][0]["what"].as_str().unwrap().starts_with(what), "{miners:?}");
        assert_eq!((&miners[0]["shown"], &miners[1]["shown"]), (&Value::Array(vec![]), &Value::Array(vec![])));
    }
    // Junk beside it hides nothing.
    fs::write(Path::new(folder).join("junk.assay"), b"junk").unwrap();
    let run = assay(&["audit", "epoch", folder, "--json"]);
    let json: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!((run.code, &json["selective"]), (1, &true.into()), "{run:?}");
    assert!(run.stderr.contains("junk.assay"), "{run:?}");
}

#[test]
fn files_that_are_no_transcripts_are_refused() {
    let workshop = Workshop::new();
    let good = workshop.transcript("good", &[]);
    let bytes = fs::read(&good).unwrap();
    let bad = workshop.text("bad");
    let mut middle = bytes.clone();
    middle[bytes.len() / 2] ^= 1;
    let mut version = bytes.clone();
    version[8] = 9;
    for (content, expected) in [
        (&bytes[..bytes.len() - 1], "damaged or cut short"),
        (&bytes[..4], "no transcript"),
        (&[][..], "no transcript"),
        (&middle[..], "damaged or cut short"),
        (&version[..], "version 9"),
        (&b"{\"hello\": 1}"[..], "no transcript"),
    ] {
        fs::write(&bad, content).unwrap();
        for command in ["verify", "show"] {
            fails(&["audit", command, &bad], 4, &[&bad, expected]);
        }
    }
    for command in ["verify", "show"] {
        fails(&["audit", command, &workshop.text("nowhere")], 4, &["no such file"]);
        fails(&["audit", command, &workshop.model()], 4, &["folder"]);
    }
    for path in [&good, &workshop.text("nowhere"), &workshop.text("model/model.safetensors")] {
        fails(&["model", "verify", &workshop.model(), path], 4, &[path]);
        fails(&["model", "inspect", path], 4, &[path]);
    }
}

/// What a name may lead to where a file should be: a pipe that nobody writes to, a device without an end, and files
/// that claim a length of a terabyte.
#[cfg(unix)]
const TRAPS: [(&str, &str); 4] = [
    ("pipe", "this is a pipe, not a file"),
    ("endless", "this is a device, not a file"),
    ("zeros", "no transcript file"),
    ("vast", "longer than the"),
];

#[cfg(unix)]
fn set_trap(kind: &str, path: &Path) {
    match kind {
        "pipe" => assert!(Command::new("mkfifo").arg(path).status().expect("mkfifo is there").success()),
        "endless" => std::os::unix::fs::symlink("/dev/zero", path).expect("a link is made"),
        _ => {
            let magic: &[u8] = if kind == "vast" { b"ASSAY\0TR\x07\0" } else { b"" };
            fs::write(path, magic).expect("a file is written");
            let file = fs::File::options().write(true).open(path).expect("it is there");
            file.set_len(1 << 40).expect("a sparse file");
        }
    }
}

/// Runs what must end at once, in little memory.
#[cfg(unix)]
fn assay_at_once(arguments: &[&str]) -> Run {
    let script = "ulimit -v 4194304; exec \"$0\" \"$@\"";
    let mut child = Command::new("sh")
        .args([&["-c", script, env!("CARGO_BIN_EXE_assay")], arguments].concat())
        .env_remove("RUST_LOG")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command starts");
    let begin = std::time::Instant::now();
    while child.try_wait().expect("a child is asked").is_none() {
        if begin.elapsed().as_secs() > 30 {
            child.kill().expect("it is killed");
            panic!("{arguments:?} waits for ever");
        }
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    let output = child.wait_with_output().expect("it has ended");
    let text = |bytes| String::from_utf8(bytes).expect("output is UTF-8");
    let code = output.status.code().unwrap_or_else(|| panic!("{arguments:?} is killed: {output:?}"));
    Run { code, stdout: text(output.stdout), stderr: text(output.stderr) }
}

#[cfg(unix)]
fn fails_at_once(arguments: &[&str], code: i32, parts: &[&str]) {
    let run = assay_at_once(arguments);
    assert_eq!(run.code, code, "{arguments:?}: {run:?}");
    assert_eq!(run.stderr.trim_end().lines().count(), 1, "{arguments:?}: {}", run.stderr);
    for part in parts {
        assert!(run.stderr.contains(part), "{arguments:?}: {part:?} is not in {}", run.stderr);
    }
}

#[cfg(unix)]
#[test]
fn what_has_no_end_is_refused_at_once_wherever_a_file_is_named() {
    let workshop = Workshop::new();
    let (model, good, out) = (workshop.model(), workshop.transcript("good", &[]), workshop.text("out"));
    for (kind, why) in TRAPS {
        set_trap(kind, &workshop.path(kind));
        let trap = workshop.text(kind);
        for command in
            [&["audit", "verify", &trap][..], &["audit", "show", &trap], &["audit", "dispute", &trap, "--out", &out]]
        {
            fails_at_once(command, 4, &[&trap, why]);
        }
        for command in [
            &["model", "inspect", &trap][..],
            &["model", "verify", &model, &trap],
            &["model", "publish", &trap, "--network", "ws://127.0.0.1:1", "--netuid", "3", "--key-file", &good],
            &["audit", "verify", &good, "--network", &trap],
            &["wallet", "show", &trap],
        ] {
            fails_at_once(command, 4, &[&trap]);
        }
        fails_at_once(&["miner", "--config", &trap], 2, &[&trap]);
        fails_at_once(&["validator", "--config", &trap], 2, &[&trap]);
    }
    fails_at_once(&["audit", "verify", "/dev/zero"], 4, &["/dev/zero", "this is a device"]);
    assert!(!workshop.path("out").exists());
}

#[cfg(unix)]
#[test]
fn what_has_no_end_is_told_of_in_a_folder_beside_what_is_judged() {
    let workshop = Workshop::new();
    let good = workshop.transcript("good", &[]);
    for (kind, why) in TRAPS {
        let (folder, logs) = (workshop.path(&format!("{kind}-s")), workshop.path(&format!("{kind}-logs")));
        fs::create_dir_all(&folder).unwrap();
        fs::create_dir_all(&logs).unwrap();
        fs::copy(&good, folder.join("b.assay")).unwrap();
        set_trap(kind, &folder.join("a.assay"));
        let folder = folder.to_str().unwrap();
        fails_at_once(&["audit", "verify", folder], 4, &["a.assay", why]);
        let told = assay_at_once(&["audit", "verify", folder]).stdout;
        assert!(told.contains("accepted              1\n") && told.contains("no verdict            1  "), "{told}");
        fails_at_once(&["audit", "epoch", folder], 4, &["a.assay", why]);
        set_trap(kind, &logs.join("epoch.log"));
        fails_at_once(&["audit", "epoch", logs.to_str().unwrap()], 4, &["epoch.log"]);
    }
}

#[cfg(unix)]
#[test]
fn what_has_no_end_is_refused_among_assets_and_in_model_folders() {
    let workshop = Workshop::new();
    let good = workshop.transcript("good", &["--chat"]);
    let bare = workshop.changed(&good, "bare", |file| (file.tokenizer, file.chat_template) = (None, None));
    let file = TranscriptFile::decode(&fs::read(&good).unwrap()).unwrap();
    for (kind, _) in TRAPS {
        for digest in [file.manifest.tokenizer, file.manifest.chat_template.unwrap()] {
            let store = tempfile::tempdir().unwrap();
            for asset in [&file.tokenizer, &file.chat_template] {
                let asset = asset.as_ref().unwrap();
                fs::write(store.path().join(blake3::hash(asset).to_hex().as_str()), asset).unwrap();
            }
            let name = blake3::Hash::from_bytes(digest).to_hex();
            fs::remove_file(store.path().join(name.as_str())).unwrap();
            set_trap(kind, &store.path().join(name.as_str()));
            fails_at_once(&["audit", "verify", &bare, "--assets", store.path().to_str().unwrap()], 4, &[name.as_str()]);
        }
        for name in
            ["config.json", "generation_config.json", "tokenizer.json", "chat_template.jinja", "model.safetensors"]
        {
            let copy = workshop.copy();
            let _absent = fs::remove_file(copy.join(name));
            set_trap(kind, &copy.join(name));
            fails_at_once(&["model", "commit", copy.to_str().unwrap()], 4, &[name]);
            fs::remove_dir_all(copy).unwrap();
        }
        // What is left of an earlier commit is not waited for either.
        let (copy, manifest) = (workshop.copy(), workshop.text("copy/manifest.assay"));
        let folder = copy.to_str().unwrap();
        set_trap(kind, &copy.join("manifest.assay.partial"));
        assert!([0, 2].contains(&assay_at_once(&["model", "commit", folder]).code));
        let _moved = fs::remove_file(copy.join("manifest.assay.partial"));
        prints(&["model", "commit", folder]);
        fs::remove_file(copy.join("manifest.tree")).unwrap();
        set_trap(kind, &copy.join("manifest.tree"));
        let run = assay_at_once(&["model", "verify", folder, &manifest]);
        assert_eq!(run.code, 0, "{run:?}");
        fs::remove_dir_all(copy).unwrap();
    }
}

#[test]
fn folders_that_are_no_models_are_refused_by_every_command() {
    let workshop = Workshop::new();
    let out = workshop.text("out");
    let manifest = workshop.text("m.assay");
    prints(&["model", "commit", &workshop.model(), "--out", &manifest]);
    let refused = |folder: &str, code: i32, parts: &[&str]| {
        fails(&["model", "commit", folder], code, parts);
        fails(&["generate", folder, "--prompt", "x"], code, parts);
        fails(&["audit", "self", folder, "--prompt", "x", "--out", &out], code, parts);
        fails(&["calibrate", folder], code, parts);
        fails(&["model", "verify", folder, &manifest], code, parts);
    };
    refused(&workshop.text("nowhere"), 2, &["nowhere", "no such folder"]);
    refused(&manifest, 2, &["m.assay: this is a file, not a folder"]);
    refused(workshop.root.path().to_str().unwrap(), 2, &["config.json", "no such file"]);

    let copy = workshop.copy();
    let folder = copy.to_str().unwrap();
    replace(&copy.join("config.json"), "\"llama\"", "\"mamba\"");
    refused(folder, 2, &["config.json", "mamba", "llama"]);

    let copy = workshop.copy();
    fs::write(copy.join("config.json"), b"{").unwrap();
    refused(folder, 4, &["config.json", "JSON"]);

    let copy = workshop.copy();
    fs::remove_file(copy.join("model.safetensors")).unwrap();
    refused(folder, 2, &["model.safetensors", "no such file"]);

    let copy = workshop.copy();
    let weights = fs::read(copy.join("model.safetensors")).unwrap();
    fs::write(copy.join("model.safetensors"), &weights[..weights.len() / 2]).unwrap();
    refused(folder, 4, &["model.safetensors", "truncated"]);

    // The header is no text as a whole, so the name is exchanged byte by byte for one as long.
    let copy = workshop.copy();
    let name = b"model.layers.1.mlp.up_proj.weight";
    let at = weights.windows(name.len()).position(|window| window == name).unwrap();
    let mut renamed = weights;
    renamed[at] = b'n';
    fs::write(copy.join("model.safetensors"), renamed).unwrap();
    refused(folder, 4, &["model.layers.1.mlp.up_proj.weight is missing"]);

    let copy = workshop.copy();
    fs::write(copy.join("tokenizer.json"), b"{}").unwrap();
    refused(folder, 4, &["tokenizer.json"]);

    let copy = workshop.copy();
    replace(&copy.join("tokenizer_config.json"), "{%", "{{");
    refused(folder, 4, &["tokenizer_config.json: chat_template: ", "syntax error"]);
    fs::write(copy.join("chat_template.jinja"), "{% for message in messages %}").unwrap();
    refused(folder, 4, &["chat_template.jinja: chat_template: "]);
    fs::remove_file(copy.join("chat_template.jinja")).unwrap();

    let copy = workshop.copy();
    set_element(&copy, "model.layers.1.mlp.up_proj.weight", 11, |_| 0x7fc0);
    for command in [&["model", "commit", folder][..], &["generate", folder, "--prompt", "x"], &["calibrate", folder]] {
        fails(command, 4, &["model.layers.1.mlp.up_proj.weight", "NaN", "index 11"]);
    }
}

#[test]
fn wrong_usage_is_one_line() {
    fails(&["--nonsense"], 2, &["--nonsense"]);
    fails(&["generte"], 2, &["generte", "generate"]);
    fails(&["audit", "verify"], 2, &["<FILE>"]);
    fails(&["model", "commit", "x", "--nonsense"], 2, &["--nonsense"]);
    fails(&["calibrate", "x", "--device", "tpu"], 2, &["tpu", "cpu, cuda"]);
    fails(&["calibrate", "x", "--device", "cuda"], 2, &["CPU only"]);
    assert_eq!(assay(&[]).code, 2);
    assert!(prints(&["--help"]).contains("calibrate"));
    assert!(prints(&["--version"]).starts_with("assay "));
}

#[test]
fn calibration_tells_honest_runs_from_cheats() {
    let workshop = Workshop::new();
    let (model, out) = (workshop.model(), workshop.text("figures"));
    let arguments = ["calibrate", &model, "--tokens", "4", "--prompts", "1", "--cells", "40"];
    let document = prints_json(&[&arguments[..], &["--out", &out, "--json"]].concat());
    assert!(document["honest_max"].as_f64().unwrap() < 1.0, "{document}");
    let cheats = document["cheats"].as_array().unwrap();
    let quantized =
        ["int8 per channel", "int8 in groups of 128", "fp8 e4m3", "int4 in groups of 128", "int4 in groups of 32"];
    for cheat in quantized {
        let of_cheat: Vec<_> = cheats.iter().filter(|of| of["cheat"] == cheat).collect();
        assert_eq!(of_cheat.len(), 8, "{cheat}");
        let complete = of_cheat.into_iter().find(|of| of["complete"] == true).unwrap();
        assert!(complete["largest"]["rejected"].as_f64().unwrap() > 0.9, "{complete}");
    }
    let relations: Vec<&str> =
        document["honest"].as_array().unwrap().iter().map(|of| of["relation"].as_str().unwrap()).collect();
    assert_eq!(relations, ["C2", "C3", "C4", "C5", "C6", "C8", "C9", "C10", "logits"]);

    let written = fs::read_to_string(workshop.path("figures/calibration.json")).unwrap();
    let mut written: serde_json::Value = serde_json::from_str(&written).unwrap();
    written["seconds"] = document["seconds"].clone();
    assert_eq!(written, document);
    assert!(fs::read_to_string(workshop.path("figures/margins.svg")).unwrap().ends_with("</svg>\n"));
    let constants = fs::read_to_string(workshop.path("figures/profile.toml")).unwrap();
    assert!(constants.contains("profile = \"bf16-1\"") && constants.contains("[C9]\ntheta = 0.5\n"), "{constants}");

    let text = prints(&[&arguments[..], &["--profile", "f32-1"]].concat());
    assert!(text.contains("Profile f32-1") && text.contains("nearest cheat's median"), "{text}");
    fails(&["calibrate", &model, "--tokens", "128"], 2, &["context of 128"]);
    fails(&["calibrate", &model, "--profile", "bf16-w8-1"], 2, &["bf16-w8-1"]);
    fails(&["calibrate", &model, "--profile", "f16"], 2, &["f16", "bf16-1, f32-1"]);
    fails(&["calibrate", &model, "--prompts", "9"], 2, &["--prompts", "1 to 4"]);
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    let workshop = Workshop::new();
    let model = workshop.model();
    let file = workshop.transcript("one", &[]);
    for arguments in [
        &["model", "inspect", &model][..],
        &["audit", "show", &file],
        &["audit", "verify", &file, &file],
        &["generate", &model, "--prompt", "x", "--temperature", "0", "--max-tokens", "100"],
        &["--help"],
    ] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_assay"))
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let mut stderr = String::new();
        child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        assert_eq!((child.wait().unwrap().code(), stderr.as_str()), (Some(0), ""), "{arguments:?}");
    }
}

/// A model that takes a few seconds to commit, in layers.
const LARGER: Numbers = Numbers { hidden: 256, layers: 10, head_dim: 64, kv_heads: 4, ffn: 640, ..Numbers::TINY };

/// A workshop with a larger model in `larger`.
fn workshop_with_larger() -> Workshop {
    let workshop = Workshop::new();
    synthetic::write(&LARGER, 2, &workshop.path("larger")).expect("a model is written");
    workshop
}

/// Starts to commit the larger model, and waits until some of it is done.
fn begin_to_commit(workshop: &Workshop) -> std::process::Child {
    let partial = workshop.path("larger/manifest.assay.partial");
    let mut child = Command::new(env!("CARGO_BIN_EXE_assay"))
        .args(["model", "commit", &workshop.text("larger")])
        .env_remove("RUST_LOG")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command starts");
    // After a head of 42 bytes stand records: a length, so many bytes, a checksum.
    let is_one_done = || {
        let bytes = fs::read(&partial).unwrap_or_default();
        let length = bytes.get(42..).and_then(|rest| rest.first_chunk()).map(|length| u64::from_le_bytes(*length));
        length.is_some_and(|length| bytes.len() as u64 >= 42 + 8 + length + 32)
    };
    while !is_one_done() {
        assert!(child.try_wait().expect("a child is asked").is_none(), "it is stopped before its end");
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    child
}

#[test]
fn a_killed_commit_goes_on_where_it_was() {
    let workshop = workshop_with_larger();
    let model = workshop.text("larger");
    let mut child = begin_to_commit(&workshop);
    child.kill().unwrap();
    child.wait().unwrap();
    let names = ["larger/manifest.assay.partial", "larger/manifest.assay", "larger/manifest.tree"];
    let exist = || names.map(|name| workshop.path(name).exists());
    assert_eq!(exist(), [true, false, false]);

    // What the file says of other weights is not believed.
    let other = workshop.text("other.assay");
    fs::copy(workshop.path(names[0]), workshop.path("other.assay.partial")).unwrap();
    let run = assay(&["model", "commit", &workshop.model(), "--out", &other]);
    assert!(run.code == 0 && run.stderr.contains("other.assay.partial: not used, it is of another model"), "{run:?}");

    let resumed = Command::new(env!("CARGO_BIN_EXE_assay"))
        .args(["model", "commit", &model, "--json"])
        .env("RUST_LOG", "info")
        .output()
        .unwrap();
    let stderr = String::from_utf8(resumed.stderr).unwrap();
    assert!(stderr.contains("polynomials were committed by an earlier run"), "{stderr}");
    assert_eq!(exist(), [false, true, true]);
    let fresh = workshop.text("fresh.assay");
    prints(&["model", "commit", &model, "--out", &fresh]);
    let read = |path: &str| fs::read(workshop.path(path)).unwrap();
    assert_eq!(read("larger/manifest.assay"), read("fresh.assay"));
    assert_eq!(read("larger/manifest.tree"), read("fresh.tree"));
}

#[test]
fn a_folder_that_changes_while_it_is_committed_gives_no_manifest() {
    let workshop = workshop_with_larger();
    let child = begin_to_commit(&workshop);
    let file = fs::File::options().append(true).open(workshop.path("larger/model.safetensors")).unwrap();
    file.set_modified(std::time::SystemTime::now() + std::time::Duration::from_secs(9)).unwrap();
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("model.safetensors: changed while it was read"), "{stderr}");
    assert!(!workshop.path("larger/manifest.assay").exists());
}

#[test]
fn the_manifest_is_the_same_on_any_number_of_threads_and_in_any_memory() {
    let workshop = workshop_with_larger();
    let model = workshop.text("larger");
    let mut manifests = vec![];
    for (threads, memory) in [("1", "2G"), ("2", "80M"), ("5", "200M")] {
        let out = workshop.text(&format!("{threads}.assay"));
        let run = Command::new(env!("CARGO_BIN_EXE_assay"))
            .args(["model", "commit", &model, "--out", &out, "--memory", memory])
            .env("RAYON_NUM_THREADS", threads)
            .output()
            .unwrap();
        assert!(run.status.success(), "{run:?}");
        manifests.push((fs::read(&out).unwrap(), fs::read(workshop.path(&format!("{threads}.tree"))).unwrap()));
    }
    assert!(manifests.windows(2).all(|pair| pair[0] == pair[1]));
    // The same as of the weights in memory, which an audit of oneself commits.
    let transcript = workshop.text("transcript");
    prints(&["audit", "self", &model, "--prompt", "hello", "--max-tokens", "2", "--out", &transcript]);
    let id = prints_json(&["audit", "verify", &transcript, "--json"])[0]["manifest_id"].clone();
    assert_eq!(prints_json(&["model", "inspect", &workshop.text("5.assay"), "--json"])["manifest_id"], id);
}

/// Stores bf16 weights as f32, which are the same numbers in twice the bytes.
fn widen(path: &Path) {
    let bytes = fs::read(path).expect("the weights are there");
    let (length, rest) = bytes.split_first_chunk::<8>().expect("a safetensors file");
    let (header, weights) = rest.split_at(usize::try_from(u64::from_le_bytes(*length)).expect("a small header"));
    let mut header: Value = serde_json::from_slice(header).expect("the header is JSON");
    for tensor in header.as_object_mut().expect("an object").values_mut() {
        tensor["dtype"] = "F32".into();
        for offset in tensor["data_offsets"].as_array_mut().expect("two offsets") {
            *offset = (2 * offset.as_u64().expect("a number")).into();
        }
    }
    let header = header.to_string();
    let mut wide = (header.len() as u64).to_le_bytes().to_vec();
    wide.extend_from_slice(header.as_bytes());
    wide.extend(weights.as_chunks::<2>().0.iter().flat_map(|[low, high]| [0, 0, *low, *high]));
    fs::write(path, wide).expect("the weights are written");
}

#[test]
fn a_model_larger_than_the_budget_is_committed_within_it() {
    const BUDGET: u64 = 80 << 20;
    let workshop = Workshop::new();
    let numbers = Numbers { vocab_size: 16_000, layers: 18, ..LARGER };
    synthetic::write(&numbers, 2, &workshop.path("large")).expect("a model is written");
    let weights = workshop.path("large/model.safetensors");
    widen(&weights);
    assert!(fs::metadata(weights).unwrap().len() > BUDGET);
    let (model, budget) = (workshop.text("large"), BUDGET.to_string());
    let committed = prints_json(&["model", "commit", &model, "--memory", &budget, "--json"]);
    let peak = committed["peak_rss_bytes"].as_u64().unwrap();
    assert!(peak < BUDGET, "{peak} of {BUDGET} bytes");
}

/// A file size limit stands for a full disk: both fail writes in the middle.
#[test]
fn a_full_disk_is_told_and_leaves_nothing_wrong() {
    let workshop = Workshop::new();
    let model = workshop.model();
    let script = "trap '' XFSZ; ulimit -f 1; exec \"$0\" model commit \"$1\"";
    let run = Command::new("sh").args(["-c", script, env!("CARGO_BIN_EXE_assay"), &model]).output().unwrap();
    let stderr = String::from_utf8(run.stderr).unwrap();
    assert_eq!(run.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("manifest.assay.partial: cannot be written") && stderr.contains("make room"), "{stderr}");
    let mut left: Vec<_> =
        fs::read_dir(workshop.path("model")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]);
    prints(&["model", "commit", &model]);
}

#[test]
fn benches_of_the_runtime_print_what_they_measured() {
    let measured = |what: &str, expected: &[&str]| {
        let value = prints_json(&["bench", what, "--shape", "fixture", "--json"]);
        assert_eq!((&value["what"], &value["shape"]), (&what.into(), &"fixture".into()));
        for key in expected {
            assert!(value[key].as_f64().is_some_and(f64::is_finite), "{what}: {key} in {value}");
        }
        value
    };
    let decode = measured("decode", &["seconds", "rate", "ceiling", "ratio_to_ceiling"]);
    assert_eq!(decode["profiles"].as_array().map(Vec::len), Some(3));
    measured("capture", &["overhead_percent", "prefill_overhead_percent", "bytes_per_token"]);
    let serve = measured("serve", &["seconds", "rate"]);
    assert_eq!(serve["batches"].as_array().map(Vec::len), Some(5));
    let root = tempfile::tempdir().unwrap();
    let kept = root.path().join("new/kept");
    let audit = prints_json(&["bench", "audit", "--shape", "fixture", "--json", "--keep", kept.to_str().unwrap()]);
    assert!(audit["prove_seconds"].as_f64() > Some(0.0) && audit["verify_ms"].as_f64() > Some(0.0), "{audit}");
    assert!(audit["proof_bytes"].as_u64() > Some(1000));
    assert_eq!(fs::read_dir(kept).unwrap().count(), 5, "the folder is made");
    fails(&["bench", "serve", "--shape", "llama-8b-head"], 2, &["needs the shape of a model"]);
}

#[test]
fn a_file_that_is_no_key_is_damaged_where_it_is_looked_into_and_wrong_where_it_should_sign() {
    let workshop = Workshop::new();
    let key = workshop.text("key");
    fs::write(&key, "{\"secretPhrase\": \"abandon").unwrap();
    #[cfg(unix)]
    fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    fails(&["wallet", "show", &key], 4, &[&key, "no key file"]);
    fs::write(&key, "{\"secretSeed\":\"zz\"}").unwrap();
    fails(&["wallet", "show", &key], 4, &[&key, "`secretSeed` is no 32 bytes in hexadecimal"]);
    prints(&["model", "commit", &workshop.model()]);
    let manifest = workshop.text("model/manifest.assay");
    let publish = ["model", "publish", &manifest, "--network", "ws://127.0.0.1:1", "--netuid", "3", "--key-file"];
    fails(&[&publish[..], &[&key]].concat(), 2, &[&key, "no key file"]);
    // There is no folder of this name, and so nothing that could be read.
    fails(&[&publish[..], &[&format!("{key}/deeper")]].concat(), 2, &["cannot be read"]);
}
