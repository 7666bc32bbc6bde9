//! Properties that hold for every history.

use assay_commitments::{Epoch, Hotkey};
use assay_probation::{
    AuditRate, Ledger, Millionths, Outcome, Parameters, Policy, ProofCost, ReasonCode, Serving, Standing, State,
    WEIGHT_TOTAL,
};
use proptest::{collection::vec, prelude::*, sample::Index};

const MINERS: u8 = 3;

/// One thing that happens to a ledger.
#[derive(Clone, Debug)]
enum Event {
    Response(Hotkey, Outcome),
    EpochEnds,
}

fn miner(number: u8) -> Hotkey {
    Hotkey::new([number + 1; 32])
}

/// The owner first, then every miner.
fn metagraph() -> Vec<Hotkey> {
    std::iter::once(owner()).chain((0..MINERS).map(miner)).collect()
}

fn owner() -> Hotkey {
    Hotkey::new([0; 32])
}

fn arb_serving() -> impl Strategy<Value = Serving> {
    (any::<u16>(), any::<u16>(), any::<u16>()).prop_map(|(tokens, first, generation)| Serving {
        tokens: tokens.into(),
        first_token_ms: first.into(),
        generation_ms: generation.into(),
    })
}

fn arb_proof() -> impl Strategy<Value = ProofCost> {
    (0..8_u32 << 20, any::<u16>()).prop_map(|(bytes, latency)| ProofCost { bytes, latency_ms: latency.into() })
}

/// Mostly accepted, or hardly any history would have a miner that earns something.
fn arb_outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        12 => (arb_serving(), arb_proof())
            .prop_map(|(serving, proof)| Outcome::Accepted { serving, proof }),
        1 => any::<u16>().prop_map(|code| Outcome::Rejected { reason: ReasonCode::new(code) }),
        1 => Just(Outcome::Inconclusive),
        2 => arb_serving().prop_map(|serving| Outcome::Settled { serving }),
        1 => Just(Outcome::Unavailable),
        1 => Just(Outcome::Refused),
    ]
}

fn arb_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => (0..MINERS, arb_outcome()).prop_map(|(number, o)| Event::Response(miner(number), o)),
        1 => Just(Event::EpochEnds),
    ]
}

fn arb_history() -> impl Strategy<Value = Vec<Event>> {
    vec(arb_event(), 0..200)
}

fn arb_policy() -> impl Strategy<Value = Policy> {
    (1..5_u32, 1..4_u32, 1..4_u32, 0..9_u32, 1..=1_000_000_u32, 0..4_u32).prop_map(
        |(clean_epochs, audits_per_epoch, lengthening, longer, smoothing, capacity)| {
            let parameters = Parameters {
                clean_epochs,
                audits_per_epoch,
                lengthening,
                longest_probation: clean_epochs + longer,
                smoothing: Millionths::saturating(smoothing),
                capacity,
                ..Parameters::default()
            };
            Policy::try_from(parameters).expect("every part is in its range")
        },
    )
}

fn start(policy: Policy) -> Ledger {
    Ledger::new(policy, State::starting_at(Epoch::new(0)))
}

fn step(ledger: &mut Ledger, event: &Event) {
    match event {
        Event::Response(hotkey, outcome) => ledger.record(*hotkey, *outcome),
        Event::EpochEnds => {
            ledger.end_epoch(ledger.state().epoch()).expect("the running epoch can be ended");
        }
    }
}

fn weight(ledger: &Ledger, hotkey: Hotkey) -> u16 {
    let weights = ledger.weights(&metagraph(), owner()).expect("a proper metagraph");
    weights.into_iter().find(|(listed, _)| *listed == hotkey).expect("it is listed").1
}

/// Runs both histories, of which the second has `more` inserted at the drawn places, and calls
/// `compare` with both ledgers after every event they share.
fn with_and_without(
    policy: Policy,
    history: &[Event],
    places: &[Index],
    more: &Event,
    mut compare: impl FnMut(&Ledger, &Ledger) -> Result<(), TestCaseError>,
) -> Result<(), TestCaseError> {
    let (mut without, mut with) = (start(policy), start(policy));
    for (at, event) in history.iter().enumerate() {
        let here = places.iter().filter(|place| place.index(history.len()) == at);
        here.for_each(|_| step(&mut with, more));
        step(&mut without, event);
        step(&mut with, event);
        compare(&without, &with)?;
    }
    Ok(())
}

/// A second, plain reading of the rule: the longest run of clean epochs since the miner's last
/// proven failure, or nothing if it never failed.
fn longest_clean_run(policy: &Policy, history: &[Event], hotkey: Hotkey) -> Option<u32> {
    let responses = |epoch: &[Event]| -> Vec<Outcome> {
        let of_miner = epoch.iter().filter_map(|event| match event {
            Event::Response(whose, outcome) if *whose == hotkey => Some(*outcome),
            Event::Response(..) | Event::EpochEnds => None,
        });
        of_miner.collect()
    };
    let failed = |outcomes: &[Outcome]| outcomes.iter().any(|o| matches!(o, Outcome::Rejected { .. }));
    let count = |outcomes: &[Outcome], which: fn(&Outcome) -> bool| {
        u32::try_from(outcomes.iter().filter(|o| which(o)).count()).expect("short histories")
    };

    let epochs: Vec<Vec<Outcome>> = history.split(|event| matches!(event, Event::EpochEnds)).map(responses).collect();
    let (running, ended) = epochs.split_last().expect("a split has at least one part");
    if failed(running) {
        return Some(0);
    }
    let last_failure = ended.iter().rposition(|epoch| failed(epoch))?;
    let (mut run, mut longest) = (0, 0);
    for epoch in &ended[last_failure + 1..] {
        let accepted = count(epoch, |o| matches!(o, Outcome::Accepted { .. }));
        let lost = count(epoch, |o| matches!(o, Outcome::Inconclusive));
        let silent = count(epoch, |o| matches!(o, Outcome::Unavailable)) > 0;
        let required = policy.parameters().audits_per_epoch;
        if !silent && accepted >= required {
            run += 1;
        } else if silent || accepted + lost < required {
            run = 0;
        }
        longest = longest.max(run);
    }
    Some(longest)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn prop_an_unexpiated_failure_holds_no_weight(
        policy in arb_policy(),
        history in arb_history(),
    ) {
        let mut ledger = start(policy);
        for (at, event) in history.iter().enumerate() {
            step(&mut ledger, event);
            for hotkey in (0..MINERS).map(miner) {
                let Some(longest) = longest_clean_run(&policy, &history[..=at], hotkey) else {
                    prop_assert_ne!(ledger.standing(&hotkey), Standing::Probation);
                    continue;
                };
                if longest < policy.parameters().clean_epochs {
                    prop_assert_eq!(ledger.standing(&hotkey), Standing::Probation);
                    prop_assert_eq!(ledger.score(&hotkey), Millionths::ZERO);
                    prop_assert_eq!(ledger.audit_rate(&hotkey), AuditRate::Everything);
                    prop_assert!(!ledger.organic_allowed(&hotkey));
                    prop_assert_eq!(weight(&ledger, hotkey), 0);
                }
                if longest >= policy.parameters().longest_probation {
                    prop_assert_eq!(ledger.standing(&hotkey), Standing::Good);
                }
            }
        }
    }

    #[test]
    fn prop_own_fault_never_lowers_score_standing_or_weight(
        policy in arb_policy(),
        history in arb_history(),
        places in vec(any::<Index>(), 0..20),
    ) {
        let more = Event::Response(miner(0), Outcome::Inconclusive);
        with_and_without(policy, &history, &places, &more, |without, with| {
            prop_assert!(with.score(&miner(0)) >= without.score(&miner(0)));
            prop_assert!(with.standing(&miner(0)) >= without.standing(&miner(0)));
            prop_assert!(weight(with, miner(0)) >= weight(without, miner(0)));
            Ok(())
        })?;
    }

    #[test]
    fn prop_more_silence_never_raises_score_standing_or_weight(
        policy in arb_policy(),
        history in arb_history(),
        places in vec(any::<Index>(), 0..20),
    ) {
        let more = Event::Response(miner(0), Outcome::Unavailable);
        with_and_without(policy, &history, &places, &more, |without, with| {
            prop_assert!(with.score(&miner(0)) <= without.score(&miner(0)));
            prop_assert!(with.standing(&miner(0)) <= without.standing(&miner(0)));
            prop_assert!(weight(with, miner(0)) <= weight(without, miner(0)));
            Ok(())
        })?;
    }

    #[test]
    fn prop_a_failure_never_raises_score_standing_or_weight(
        policy in arb_policy(),
        history in arb_history(),
        places in vec(any::<Index>(), 0..4),
    ) {
        let more = Event::Response(miner(0), Outcome::Rejected { reason: ReasonCode::new(1) });
        with_and_without(policy, &history, &places, &more, |without, with| {
            prop_assert!(with.score(&miner(0)) <= without.score(&miner(0)));
            prop_assert!(with.standing(&miner(0)) <= without.standing(&miner(0)));
            prop_assert!(weight(with, miner(0)) <= weight(without, miner(0)));
            Ok(())
        })?;
    }

    #[test]
    fn prop_what_happens_to_others_changes_nothing_for_me(
        policy in arb_policy(),
        history in arb_history(),
    ) {
        let (mut all, mut mine) = (start(policy), start(policy));
        for event in &history {
            step(&mut all, event);
            if !matches!(event, Event::Response(whose, _) if *whose != miner(0)) {
                step(&mut mine, event);
            }
            prop_assert_eq!(all.explain(&miner(0)), mine.explain(&miner(0)));
        }
    }

    #[test]
    fn prop_the_order_within_an_epoch_does_not_matter(
        policy in arb_policy(),
        epochs in vec(
            vec(arb_outcome(), 0..8).prop_flat_map(|o| (Just(o.clone()), Just(o).prop_shuffle())),
            0..20,
        ),
    ) {
        let (mut one, mut other) = (start(policy), start(policy));
        for (outcomes, shuffled) in &epochs {
            for (outcome, other_outcome) in outcomes.iter().zip(shuffled) {
                one.record(miner(0), *outcome);
                other.record(miner(0), *other_outcome);
            }
            step(&mut one, &Event::EpochEnds);
            step(&mut other, &Event::EpochEnds);
            prop_assert_eq!(one.score(&miner(0)), other.score(&miner(0)));
            prop_assert_eq!(one.standing(&miner(0)), other.standing(&miner(0)));
            prop_assert_eq!(weight(&one, miner(0)), weight(&other, miner(0)));
        }
    }

    #[test]
    fn prop_weights_are_whole_and_follow_the_scores(
        policy in arb_policy(),
        history in arb_history(),
    ) {
        let mut ledger = start(policy);
        for event in &history {
            step(&mut ledger, event);
        }
        let weights = ledger.weights(&metagraph(), owner()).expect("a proper metagraph");
        let total: u32 = weights.iter().map(|(_, value)| u32::from(*value)).sum();
        prop_assert_eq!(total, u32::from(WEIGHT_TOTAL));
        let earned: Vec<(Millionths, u16)> = weights[1..]
            .iter()
            .map(|(hotkey, value)| (ledger.explain(hotkey).earned, *value))
            .collect();
        for (score, value) in &earned {
            prop_assert!(*score > Millionths::ZERO || *value == 0);
            for (other_score, other_value) in &earned {
                prop_assert!(score <= other_score || value >= other_value);
            }
        }
        if earned.iter().all(|(score, _)| *score == Millionths::ZERO) {
            prop_assert_eq!(weights[0], (owner(), WEIGHT_TOTAL));
        }
    }

    #[test]
    fn prop_a_stored_ledger_goes_on_as_if_it_had_never_stopped(
        policy in arb_policy(),
        before in arb_history(),
        after in arb_history(),
    ) {
        let mut ledger = start(policy);
        for event in &before {
            step(&mut ledger, event);
        }
        let stored = serde_json::to_string(ledger.state()).expect("the state can be written");
        let state = serde_json::from_str(&stored).expect("and read");
        let mut restored = Ledger::new(policy, state);
        for event in &after {
            step(&mut ledger, event);
            step(&mut restored, event);
        }
        prop_assert_eq!(ledger, restored);
    }
}
