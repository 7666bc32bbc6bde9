//! The demo, as a newcomer runs it: the whole system over real gRPC, end to end.

use std::process::Command;

use serde_json::Value;

#[test]
fn the_demo_punishes_every_cheater_and_no_honest_miner() {
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_assay"))
        .args(["demo", "--json", "--keep"])
        .arg(folder.path())
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(summary["network"], "devnet");
    assert_eq!(summary["honest_rejected"], 0);
    assert_eq!(summary["cheaters_unpunished"], Value::Array(vec![]));
    let miners = summary["miners"].as_array().unwrap();
    assert_eq!(miners.len(), 13);
    for miner in miners {
        let behaviour = miner["behaviour"].as_str().unwrap();
        let holds_weight = miner["weight"].as_u64().unwrap() > 0;
        assert_eq!(holds_weight, ["honest", "reforms"].contains(&behaviour), "{miner}");
        assert_eq!(miner["standing"] == "good", holds_weight, "{miner}");
        let rejected = miner["rejected"].as_object().unwrap();
        assert_eq!(rejected.is_empty(), behaviour == "honest", "{miner}");
        assert_eq!(miner["inconclusive"], 0, "{miner}");
    }
    assert!(told.contains("penitent has served its probation"), "{told}");

    // Any of the transcripts replays from its file, by another process, to the verdict in its name.
    let epoch = folder.path().join("epoch-0");
    for entry in std::fs::read_dir(epoch).unwrap().take(8) {
        let path = entry.unwrap().path();
        let replay = Command::new(env!("CARGO_BIN_EXE_assay")).args(["audit", "verify"]).arg(&path).output().unwrap();
        let expected = i32::from(!path.to_string_lossy().contains("accepted"));
        assert_eq!(replay.status.code(), Some(expected), "{}", path.display());
    }
}

#[test]
fn fewer_epochs_than_a_probation_takes_are_refused() {
    let output = Command::new(env!("CARGO_BIN_EXE_assay")).args(["demo", "--epochs", "3"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
}
