//! The miners of the demo, audited in one process: each is caught for its own reason, the honest ones never.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use assay_audit::prompt::{Message, Prompt};
use assay_audit::verdict::{Reason, Verdict};
use assay_cli::demo::cast::{Behaviour, CAST, Models};
use assay_tests::{fixture, session};

use crate::table::checkpoint;

/// The prompts come round again, so that a miner may replay what it stored.
pub(crate) const VERSES: [&str; 3] =
    ["In the beginning God created the heaven", "And the LORD spake unto Moses", "The LORD is my shepherd"];

/// A verse to be continued, in a chat.
pub(crate) fn chat(verse: &str) -> Prompt {
    let message = |role: &str, content: &str| Message { role: role.to_owned(), content: content.to_owned() };
    Prompt::Chat(vec![message("system", "Answer with the next verse."), message("user", verse)])
}

/// The reasons for which a cheat may be rejected. Cheats that break different relations share none.
fn expected(behaviour: Behaviour) -> &'static [Reason] {
    match behaviour {
        Behaviour::Honest { .. } => &[],
        Behaviour::Int8Weights | Behaviour::FineTuned | Behaviour::Reforms => &[Reason::C3],
        Behaviour::SkipsLayer => &[Reason::C6, Reason::C9],
        Behaviour::ShortWindow => &[Reason::C5],
        Behaviour::DropsSystemPrompt => &[Reason::WrongPrompt],
        Behaviour::GreedySampler | Behaviour::Replays => &[Reason::WrongToken],
        Behaviour::ZeroProof => &[Reason::ProofShape],
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
    let models = Models::new(&local, &checkpoint().tensors).unwrap();
    for role in CAST {
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
