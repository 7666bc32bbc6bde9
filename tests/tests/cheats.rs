//! Every cheat of the demo's cast, audited in one process: what catches it, and how often.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use assay_audit::challenge::Challenge;
use assay_audit::measure::{Reference, margins};
use assay_audit::policy::Policy;
use assay_audit::prompt::{Message, Prompt};
use assay_audit::session::{Answer, Exchange, Reply};
use assay_audit::verdict::{Reason, Verdict};
use assay_cli::demo::cast::{Behaviour, Models};
use assay_miner::Backend;
use assay_tests::{fixture, fixture_checkpoint, in_parallel, session};

/// The prompts come round again, so that a miner may replay what it stored.
const VERSES: [&str; 3] =
    ["In the beginning God created the heaven", "And the LORD spake unto Moses", "The LORD is my shepherd"];

fn chat(verse: &str) -> Prompt {
    let message = |role: &str, content: &str| Message { role: role.to_owned(), content: content.to_owned() };
    Prompt::Chat(vec![message("system", "Answer with the next verse."), message("user", verse)])
}

/// The reasons for which a cheat may be rejected. Cheats that break different relations share none.
fn expected(behaviour: Behaviour) -> &'static [Reason] {
    match behaviour {
        Behaviour::Honest { .. } => &[],
        Behaviour::Int8Weights | Behaviour::FineTuned | Behaviour::Reforms => {
            &[Reason::C3, Reason::C4, Reason::C5, Reason::C6, Reason::C9]
        }
        Behaviour::SkipsLayer => &[Reason::C6, Reason::C9],
        Behaviour::ShortWindow => &[Reason::C5],
        Behaviour::DropsSystemPrompt => &[Reason::WrongPrompt],
        Behaviour::GreedySampler | Behaviour::Replays => &[Reason::WrongToken],
        Behaviour::ZeroProof => &[Reason::ProofShape, Reason::SmallTensors],
        Behaviour::FallsSilent => &[Reason::ProofAbsent],
    }
}

/// The least share of audits that must catch the cheat.
fn least_rate(behaviour: Behaviour) -> f64 {
    match behaviour {
        Behaviour::Honest { .. } => 0.0,
        // One layer of four, four cells: 1 - (3/4)^4 = 0.68, less three deviations of 30 draws.
        Behaviour::SkipsLayer => 0.42,
        // Positions before the window is full are honest; of three decodes a pick may agree by chance.
        Behaviour::ShortWindow | Behaviour::GreedySampler | Behaviour::Replays => 0.5,
        _ => 1.0,
    }
}

#[test]
fn every_cheat_of_the_cast_is_caught_for_its_own_reason() {
    let local = fixture();
    let models = Models::new(&local, &fixture_checkpoint().tensors).unwrap();
    for role in assay_cli::demo::cast::CAST {
        // Silence has no reply to wait for here; the demo and the gRPC tests hold their clocks to it.
        if role.behaviour == Behaviour::FallsSilent {
            continue;
        }
        let backend = models.backend(role.behaviour, &Arc::new(AtomicU64::new(0)));
        let mut reasons: BTreeMap<&str, u32> = BTreeMap::new();
        let (mut caught, mut audits) = (0_u32, 0_u32);
        for trial in 0..30 {
            let mut audit = session("", 20, trial);
            audit.prompt = chat(VERSES[usize::try_from(trial).unwrap() % VERSES.len()]);
            let file = audit.run(&local, &backend).unwrap();
            // The first answer to each prompt is an honest one, to be replayed later.
            if role.behaviour == Behaviour::Replays && trial < VERSES.len() as u64 {
                assert_eq!(file.judge(&|_| None).verdict, Verdict::Accepted);
                continue;
            }
            audits += 1;
            match file.judge(&|_| None).verdict {
                Verdict::Accepted => {}
                Verdict::Rejected(failure) => {
                    assert!(expected(role.behaviour).contains(&failure.reason), "{}: {failure:?}", role.name);
                    *reasons.entry(failure.reason.slug()).or_default() += 1;
                    caught += 1;
                }
                Verdict::Inconclusive(fault) => panic!("{}: {fault:?}", role.name),
            }
        }
        let rate = f64::from(caught) / f64::from(audits);
        println!("{:<10} {:<28} caught {caught} of {audits} {reasons:?}", role.name, role.behaviour.describe());
        assert!(rate >= least_rate(role.behaviour), "{}: {rate}", role.name);
        assert!(!role.behaviour.is_honest() || caught == 0, "{} is honest", role.name);
    }
}

/// Audits of each cheat in the test below.
const AUDITS: u32 = 100;

/// The theorem behind sampling: a share `f` of broken cells is missed by `s` uniform cells with
/// probability `(1 - f)^s`.
#[test]
fn sampled_detection_agrees_with_the_share_of_broken_cells() {
    let local = fixture();
    let checkpoint = fixture_checkpoint();
    let reference = Reference::new(&checkpoint.architecture, &checkpoint.tensors, checkpoint.profile).unwrap();
    let models = Models::new(&local, &checkpoint.tensors).unwrap();
    for behaviour in [Behaviour::SkipsLayer, Behaviour::ShortWindow] {
        let backend = models.backend(behaviour, &Arc::new(AtomicU64::new(0)));
        let audit = |trial: u64, policy: Policy| {
            let mut audit = session(VERSES[0], 16, 1);
            audit.policy = policy;
            // The same answer every time; only keys, and with them the draws, differ.
            audit.entropy = *blake3::hash(&trial.to_le_bytes()).as_bytes();
            audit
        };
        let sampled = |trial| audit(trial, Policy::Sampled { cells: 4, decodes: 1, columns: 0, least_budget_ms: 0 });

        let request = sampled(0).run(&local, &backend).unwrap().record.request;
        let served = backend.serve(&request, &mut |_| std::ops::ControlFlow::Continue(())).unwrap();
        let lengths = assay_audit::challenge::Lengths::new(served.prompt.len(), served.output.len()).unwrap();
        let everything = Challenge::everything(local.model.architecture(), lengths);
        // Each cell is challenged with one group; a group's breach counts by its share.
        let mut broken: BTreeMap<(u32, u32), f64> = BTreeMap::new();
        let groups = f64::from(local.model.architecture().kv_heads);
        for cell in &everything.cells {
            for group in &cell.groups {
                let single = Challenge {
                    cells: vec![assay_audit::challenge::Cell { groups: vec![*group], ..cell.clone() }],
                    decodes: vec![],
                };
                let found = margins(&reference, &served.trace, &single).unwrap();
                if found.iter().any(|margin| margin.ratio > 1.0) {
                    *broken.entry((cell.position.get(), cell.layer.get())).or_default() += 1.0 / groups;
                }
            }
        }
        let layers = f64::from(local.model.architecture().layers);
        let share = |positions: std::ops::Range<u32>| {
            let count = f64::from(positions.end - positions.start) * layers;
            broken.iter().filter(|((position, _), _)| positions.contains(position)).map(|(_, f)| f).sum::<f64>() / count
        };
        let (prompt, all) = (lengths.first_decode() + 1, lengths.positions());
        let missed = (1.0 - share(0..prompt)).powi(2) * (1.0 - share(prompt..all)) * (1.0 - share(all - 1..all));

        let caught = std::sync::atomic::AtomicU32::new(0);
        in_parallel(0..u64::from(AUDITS), |trial| {
            let file = sampled(trial).run(&local, &backend).unwrap();
            let proven = matches!(
                &file.record.exchange,
                Exchange::Committed { reply: Reply::Challenged { answer: Answer::Proof(_), .. }, .. }
            );
            assert!(proven);
            if matches!(file.judge(&|_| None).verdict, Verdict::Rejected(_)) {
                caught.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
        });
        let rate = f64::from(caught.into_inner()) / f64::from(AUDITS);
        let expected = 1.0 - missed;
        let deviation = (expected * missed / f64::from(AUDITS)).sqrt();
        println!("{}: caught {rate:.3}, expected {expected:.3} +- {deviation:.3}", behaviour.describe());
        assert!(
            (rate - expected).abs() <= 4.0 * deviation + 1.0 / f64::from(AUDITS),
            "{behaviour:?}: {rate} {expected}"
        );
    }
}

#[test]
fn a_thousand_honest_cells_are_accepted() {
    let local = fixture();
    let cells = std::sync::atomic::AtomicUsize::new(0);
    in_parallel(0..6_u64, |trial| {
        let mut audit = session("", 24, 100 + trial);
        audit.prompt = chat(VERSES[usize::try_from(trial).unwrap() % VERSES.len()]);
        audit.policy = Policy::Everything;
        let file = audit.run(&local, &local.backend()).unwrap();
        let judgement = file.judge(&|_| None);
        assert_eq!(judgement.verdict, Verdict::Accepted);
        let challenge = judgement.report.challenge.unwrap();
        cells.fetch_add(challenge.cells.len(), std::sync::atomic::Ordering::Relaxed);
        println!(
            "{} cells, {} decodes: {} bytes, proven in {} ms, verified in {} ms",
            challenge.cells.len(),
            challenge.decodes.len(),
            judgement.report.proof_bytes,
            file.receipt.measurements.proof_ms,
            file.receipt.measurements.verify_us / 1000,
        );
    });
    let cells = cells.into_inner();
    println!("{cells} honest cells accepted");
    assert!(cells >= 1_000, "{cells}");
}
