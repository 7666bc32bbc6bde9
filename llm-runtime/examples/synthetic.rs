//! Writes a random model in the shape of a known one, to measure what depends on shapes alone:
//! `cargo run --release --example synthetic -- qwen3-0.6b DIR`.

use std::path::Path;
use std::process::ExitCode;

use assay_llm_runtime::synthetic::{self, Numbers};

/// Known shapes. The context is shorter than the models', which changes no weight.
const SHAPES: [(&str, Numbers); 1] = [("qwen3-0.6b", Numbers::QWEN3_0_6B)];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name, folder] = arguments.as_slice() else { return usage() };
    let Some((_, numbers)) = SHAPES.iter().find(|(known, _)| known == name) else { return usage() };
    match synthetic::write(numbers, 1, Path::new(folder)) {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{folder}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn usage() -> ExitCode {
    let known: Vec<&str> = SHAPES.iter().map(|(name, _)| *name).collect();
    eprintln!("usage: synthetic {} DIR", known.join("|"));
    ExitCode::from(2)
}
