//! The inventory of the transcript: what is absorbed and drawn in a session, in order. Whoever leaves out an
//! absorb, or adds one, or lets a challenge come before its message, changes it. `BLESS=1` writes it anew;
//! the difference is to be reviewed.
#![expect(clippy::unwrap_used, reason = "a failed step of a test fails the test")]

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::PathBuf;

use assay_audit::policy::Policy;
use assay_audit::prove::prove_with_log;
use assay_audit::session::{Answer, Exchange, Reply};
use assay_audit::sizes::proof_structure;
use assay_audit::transcript_file::TranscriptFile;
use assay_commitments::codec;
use assay_commitments::structure::{Kind, Part};
use assay_miner::Backend;
use assay_sumcheck::transcript::{Event, Operation};
use assay_tests::{fixture, session, smallest};

fn golden(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/golden/v1")).join(name)
}

/// A session of one cell and one decode that was accepted, and its verifier's log.
fn accepted() -> (TranscriptFile, Vec<Event>) {
    let file = TranscriptFile::decode(&std::fs::read(golden("accepted.assay")).unwrap()).unwrap();
    let log = file.judge(&|_| None).report.transcript;
    (file, log)
}

/// It, and a session whose openings have several levels.
fn sessions() -> [(TranscriptFile, Vec<Event>); 2] {
    let model = fixture();
    let file = session("And God said, Let there be", 12, 9).run(&model, &model.backend()).unwrap();
    let log = file.judge(&|_| None).report.transcript;
    assert!(log.iter().any(|event| event.label == "weights/level-root"));
    [accepted(), (file, log)]
}

fn names(log: &[Event]) -> Vec<(Operation, &'static str)> {
    log.iter().map(|event| (event.operation, event.label)).collect()
}

#[test]
fn the_inventory_of_a_session_is_as_it_was() {
    let (_, log) = accepted();
    let line = |event: &Event| format!("{:?} {} {}\n", event.operation, event.label, event.length);
    let inventory: String = log.iter().map(line).collect();
    let path = golden("transcript.txt");
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, &inventory).unwrap();
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap(), inventory);
}

#[test]
fn prover_and_verifier_have_one_transcript() {
    let model = smallest();
    let backend = model.backend();
    let mut audit = session("abc", 4, 5);
    audit.policy = Policy::Sampled { cells: 1, decodes: 1, columns: None, least_budget_ms: 0 };
    let file = audit.run(&model, &backend).unwrap();
    let request = &file.record.request;
    let Exchange::Committed { reply: Reply::Challenged { nonce, answer: Answer::Proof(proof) }, .. } =
        &file.record.exchange
    else {
        panic!("the session holds a proof")
    };
    let served = backend.serve(request, &mut |_| ControlFlow::Continue(())).unwrap();
    let commitment = backend.commit(request, &served);
    let (bytes, log) = prove_with_log(&model.committed, request, &commitment, &served.trace, nonce.as_ref()).unwrap();
    assert_eq!(bytes, proof.bytes);
    assert_eq!(log, file.judge(&|_| None).report.transcript);
    assert_eq!(names(&log), names(&accepted().1));
}

/// Labels of what both sides know by themselves.
const KNOWN: [&str; 15] = [
    "version",
    "request",
    "policy",
    "commitment",
    "nonce",
    "manifest",
    "weights/code",
    "weights/layout",
    "weights/count",
    "weights/commitment",
    "weights/claim-count",
    "weights/claim",
    "weights/input",
    "weights/part",
    "weights/output",
];

/// Labels of what a proof says, each with the challenges of which one must come right after it: the first
/// that depends on it.
const SAID: [(&str, &[&str]); 9] = [
    ("witness", &["signs"]),
    ("claims", &["beta"]),
    ("sumcheck/round", &["sumcheck/point"]),
    ("weights/level-root", &["weights/out-of-domain"]),
    ("weights/answer", &["weights/grinding", "weights/positions"]),
    ("weights/nonce", &["weights/positions"]),
    ("weights/columns", &["weights/batch"]),
    ("weights/paths", &["weights/batch"]),
    ("weights/final", &["sumcheck/point", "weights/grinding", "weights/positions"]),
];

/// Every byte of a proof is absorbed, once: but for the lengths in openings, which the bytes after them show.
/// Of every part before the openings its length and its digest are; that those are of all its bytes is
/// tested where parts are read.
#[test]
fn every_byte_of_a_proof_is_absorbed() {
    for (file, log) in sessions() {
        let whole = structure_of(&file);
        let [number, lengths, parts] = whole.parts.as_slice() else { panic!("a table and parts") };
        assert_eq!((number.kind, number.range.clone()), (Kind::Length, 0..4));
        assert_eq!(lengths.parts.len(), parts.parts.len());
        let mut said = BTreeMap::<&str, usize>::new();
        for event in log.iter().filter(|event| matches!(event.operation, Operation::Absorb | Operation::Bulk)) {
            let is_said = SAID.iter().any(|(label, _)| *label == event.label);
            assert_ne!(is_said, KNOWN.contains(&event.label), "{}", event.label);
            if is_said {
                *said.entry(event.label).or_default() += usize::try_from(event.length).unwrap();
            }
        }
        // A count and the digests, once for what comes before the signs and once for the claims.
        let mut digests = 0;
        for bulk in ["witness", "claims"] {
            assert_eq!(log.iter().filter(|event| event.label == bulk).count(), 1);
            digests += said.remove(bulk).unwrap() - 4;
        }
        let (openings, others) = parts.parts.split_last().unwrap();
        assert_eq!(digests, others.len() * (4 + 32));
        let counts: usize =
            openings.walk().filter(|part| part.kind == Kind::Length).map(|length| length.range.len()).sum();
        assert_eq!(said.values().sum::<usize>() + counts, openings.range.len());
    }
}

fn structure_of(file: &TranscriptFile) -> Part {
    let Exchange::Committed { commitment, reply: Reply::Challenged { nonce, answer: Answer::Proof(proof) } } =
        &file.record.exchange
    else {
        panic!("the session holds a proof")
    };
    let commitment = codec::decode(&commitment.bytes).unwrap();
    proof_structure(&file.record.request, &commitment, nonce.as_ref(), &file.manifest, &proof.bytes).unwrap()
}

#[test]
fn every_message_is_absorbed_before_the_first_challenge_that_depends_on_it() {
    for (number, event, log) in
        sessions().iter().flat_map(|(_, log)| log.iter().enumerate().map(move |(n, e)| (n, e, log)))
    {
        let Some((_, challenges)) = SAID.iter().find(|(label, _)| *label == event.label) else { continue };
        match log[number..].iter().find(|later| later.operation == Operation::Squeeze) {
            Some(next) => assert!(challenges.contains(&next.label), "{number} {event:?}: {next:?}"),
            // The answers of the last level decide by themselves: nothing is drawn after them.
            None => assert!(["weights/columns", "weights/paths"].contains(&event.label), "{number} {event:?}"),
        }
    }
}
