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

    let run = |arguments: &[&str]| {
        let run = Command::new(env!("CARGO_BIN_EXE_assay")).args(arguments).output().unwrap();
        (run.status.code(), String::from_utf8(run.stdout).unwrap(), String::from_utf8(run.stderr).unwrap())
    };
    // The chain bears all of them out, and the validator followed its own draw.
    let (all, chain) = (folder.path().to_str().unwrap(), folder.path().join("chain.json"));
    let chain = chain.to_str().unwrap();
    let (code, told, complaints) = run(&["audit", "verify", all, "--network", chain]);
    assert_eq!((code, complaints.as_str()), (Some(1), ""), "{told}");
    assert!(told.contains("inconclusive          0"), "{told}");
    let (code, told, _) = run(&["audit", "epoch", all, "--network", chain, "--json"]);
    let epochs: Value = serde_json::from_str(&told).unwrap();
    assert_eq!((code, epochs["epochs"].as_array().unwrap().len()), (Some(0), 8), "{told}");
    for epoch in epochs["epochs"].as_array().unwrap() {
        assert_eq!((&epoch["contradicted"], &epoch["unchecked"]), (&Value::Null, &Value::Null));
        for miner in epoch["miners"].as_array().unwrap() {
            assert_eq!((&miner["owed"], &miner["missing"]), (&miner["made"], &0.into()), "{miner}");
        }
    }

    // A log that is not the published one shows the validator wrong; a transcript that is kept back does not.
    let history = std::fs::read_to_string(chain).unwrap();
    let forged = folder.path().join("forged.json");
    let mut document: Value = serde_json::from_str(&history).unwrap();
    document["epoch_keys"][3]["requests"] = Value::String("0".repeat(64));
    std::fs::write(&forged, document.to_string()).unwrap();
    let (code, told, _) = run(&["audit", "epoch", all, "--network", forged.to_str().unwrap()]);
    assert!(code == Some(1) && told.contains("not the one whose digest was published"), "{told}");
    document["manifests"] = Value::Array(vec![]);
    std::fs::write(&forged, document.to_string()).unwrap();
    assert_eq!(run(&["audit", "verify", all, "--network", forged.to_str().unwrap()]).0, Some(3));
    let transcript = |epoch: &str| {
        let entries = std::fs::read_dir(folder.path().join(epoch)).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.extension().is_some_and(|extension| extension == "assay")).collect::<Vec<_>>()
    };
    std::fs::remove_file(&transcript("epoch-1")[0]).unwrap();
    let (code, told, _) = run(&["audit", "epoch", all, "--network", chain]);
    assert!(code == Some(3) && told.contains("ask the validator for them"), "{told}");

    // Any of the transcripts replays from its file, by another process, to the verdict in its name.
    for path in transcript("epoch-0").into_iter().take(8) {
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
