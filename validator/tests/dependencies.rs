//! What a validator is built from.

use std::process::Command;

/// A validator runs where there is no GPU and where the weights are not: nothing that runs models
/// may come in, however indirectly.
#[test]
fn a_validator_is_built_without_a_model_runtime() {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let tree = Command::new(cargo)
        .args(["tree", "--offline", "--package", "assay-validator", "--edges", "normal,build", "--prefix", "none"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    let tree = String::from_utf8(tree.stdout).expect("crate names are text");
    assert!(tree.lines().any(|line| line.starts_with("assay-audit ")), "{tree}");
    for banned in ["candle", "assay-llm-runtime", "assay-miner", "cudarc", "safetensors"] {
        let found: Vec<&str> = tree.lines().filter(|line| line.starts_with(banned)).collect();
        assert!(found.is_empty(), "{found:?}");
    }
}
