//! The rules of standing, one sentence a test, through the public face of the crate.

use assay_commitments::{Epoch, Hotkey};
use assay_probation::{
    AuditRate, Judgement, Ledger, Millionths, Outcome, Parameters, Policy, ProofCost, ReasonCode, Serving, Standing,
    State,
};

const OWNER: Hotkey = Hotkey::new([0; 32]);
const MINER: Hotkey = Hotkey::new([1; 32]);
const OTHER: Hotkey = Hotkey::new([2; 32]);

/// At every reference of the default policy: a sample of one half.
const SERVING: Serving = Serving { tokens: 100, first_token_ms: 500, generation_ms: 1_500 };
const PROOF: ProofCost = ProofCost { bytes: 2 << 20, latency_ms: 2_000 };
const ACCEPTED: Outcome = Outcome::Accepted { serving: SERVING, proof: PROOF };
const SETTLED: Outcome = Outcome::Settled { serving: SERVING };
const REJECTED: Outcome = Outcome::Rejected { reason: ReasonCode::new(201) };

/// A ledger, and the epoch it is in.
struct Run(Ledger);

impl Run {
    fn new() -> Self {
        Self::under(Parameters::default())
    }

    fn under(parameters: Parameters) -> Self {
        let policy = Policy::try_from(parameters).expect("the test's policy is one");
        Self(Ledger::new(policy, State::starting_at(Epoch::new(0))))
    }

    /// Runs one epoch in which the miner has these outcomes.
    fn epoch(&mut self, outcomes: &[Outcome]) -> &mut Self {
        for outcome in outcomes {
            self.0.record(MINER, *outcome);
        }
        let running = self.0.state().epoch();
        self.0.end_epoch(running).expect("the running epoch can be ended");
        self
    }

    fn clean(&mut self, epochs: u32) -> &mut Self {
        for _ in 0..epochs {
            self.epoch(&[ACCEPTED; 3]);
        }
        self
    }

    fn standing(&self) -> Standing {
        self.0.standing(&MINER)
    }

    fn weight(&self) -> u16 {
        let weights = self.0.weights(&[OWNER, MINER, OTHER], OWNER).expect("a proper metagraph");
        weights[1].1
    }

    /// Clean epochs so far and required.
    fn served(&self) -> (u32, u32) {
        let explanation = self.0.explain(&MINER);
        (explanation.clean_epochs, explanation.required_epochs)
    }
}

#[test]
fn an_unknown_hotkey_is_unproven_and_holds_nothing() {
    let run = Run::new();
    assert_eq!(run.standing(), Standing::Unproven);
    assert_eq!(run.0.score(&MINER), Millionths::ZERO);
    assert_eq!(run.0.audit_rate(&MINER), AuditRate::Everything);
    assert!(!run.0.organic_allowed(&MINER));
    assert_eq!(run.weight(), 0);
}

#[test]
fn one_epoch_with_enough_accepted_audits_makes_a_miner_good() {
    let mut run = Run::new();
    run.clean(1);
    assert_eq!(run.standing(), Standing::Good);
    assert_eq!(run.0.audit_rate(&MINER), AuditRate::Policy);
    assert!(run.0.organic_allowed(&MINER));
    // A sample of one half, of which three tenths enter the score: 0.15 of the capacity of one.
    assert_eq!(run.0.score(&MINER).get(), 150_000);
    assert_eq!(run.weight(), 9_830);
}

#[test]
fn nothing_but_accepted_audits_proves_a_miner() {
    let mut run = Run::new();
    run.epoch(&[ACCEPTED, ACCEPTED, SETTLED, SETTLED, Outcome::Inconclusive, Outcome::Refused]);
    assert_eq!(run.standing(), Standing::Unproven);
    assert_eq!(run.weight(), 0);
}

#[test]
fn a_failure_takes_everything_before_the_epoch_ends() {
    let mut run = Run::new();
    run.clean(4);
    assert!(run.weight() > 0);
    run.0.record(MINER, REJECTED);
    assert_eq!(run.standing(), Standing::Probation);
    assert_eq!(run.0.score(&MINER), Millionths::ZERO);
    assert_eq!(run.0.audit_rate(&MINER), AuditRate::Everything);
    assert!(!run.0.organic_allowed(&MINER));
    assert_eq!(run.weight(), 0);
}

#[test]
fn probation_ends_with_the_third_consecutive_clean_epoch() {
    let mut run = Run::new();
    run.epoch(&[REJECTED, ACCEPTED, ACCEPTED, ACCEPTED]);
    assert_eq!(run.served(), (0, 3), "the epoch of the failure is not clean");
    run.clean(2);
    assert_eq!((run.standing(), run.served(), run.weight()), (Standing::Probation, (2, 3), 0));
    run.clean(1);
    assert_eq!((run.standing(), run.served()), (Standing::Good, (0, 0)));
    assert_eq!(run.0.score(&MINER).get(), 150_000, "the score starts again from zero");
    assert_eq!(run.weight(), 9_830);
}

#[test]
fn an_epoch_with_too_few_audits_breaks_the_run() {
    let mut run = Run::new();
    run.epoch(&[REJECTED]).clean(2).epoch(&[ACCEPTED, ACCEPTED, SETTLED, SETTLED]);
    assert_eq!(run.served(), (0, 3));
    run.clean(2).epoch(&[]);
    assert_eq!(run.served(), (0, 3), "an idle epoch is not clean either");
    run.clean(3);
    assert_eq!(run.standing(), Standing::Good);
}

#[test]
fn silence_breaks_the_run_on_probation_whatever_else_was_accepted() {
    let mut run = Run::new();
    let mut outcomes = vec![ACCEPTED; 9];
    outcomes.push(Outcome::Unavailable);
    run.epoch(&[REJECTED]).clean(2).epoch(&outcomes);
    assert_eq!(run.served(), (0, 3));
    assert_eq!(run.0.explain(&MINER).last_epoch, Some(Judgement::Silent));
}

#[test]
fn our_own_fault_neither_counts_nor_breaks_the_run() {
    let mut run = Run::new();
    run.epoch(&[REJECTED]).clean(2);
    run.epoch(&[ACCEPTED, Outcome::Inconclusive, Outcome::Inconclusive]);
    assert_eq!(run.served(), (2, 3));
    assert_eq!(run.0.explain(&MINER).last_epoch, Some(Judgement::OurFault));
    run.clean(1);
    assert_eq!(run.standing(), Standing::Good);
}

#[test]
fn our_own_fault_takes_nothing_and_hides_no_silence() {
    let score_after = |outcomes: &[Outcome]| {
        let mut run = Run::new();
        run.clean(3).epoch(outcomes);
        assert_eq!((run.0.explain(&MINER).last_epoch, run.standing()), (Some(Judgement::OurFault), Standing::Good));
        run.0.score(&MINER).get()
    };
    let mut run = Run::new();
    let before = run.clean(3).0.score(&MINER).get();
    let ours = [Outcome::Inconclusive; 3];
    assert_eq!(score_after(&ours), before);
    // Of two sessions that were answered and two that were not, half counts; of none that was, nothing.
    let newest = u64::from(Policy::default().parameters().smoothing.get());
    let smoothed = |sample: u32| (u64::from(before) * (1_000_000 - newest) + u64::from(sample) * newest) / 1_000_000;
    let half = [&[ACCEPTED, SETTLED, Outcome::Unavailable, Outcome::Unavailable][..], &ours].concat();
    assert_eq!(u64::from(score_after(&half)), smoothed(before / 2));
    let none = [&[Outcome::Unavailable; 5][..], &ours].concat();
    assert_eq!(u64::from(score_after(&none)), smoothed(0));
}

#[test]
fn a_failure_on_probation_starts_it_again_and_doubles_it() {
    let mut run = Run::new();
    run.epoch(&[REJECTED]).clean(2).epoch(&[REJECTED]);
    assert_eq!(run.served(), (0, 6));
    run.clean(5);
    assert_eq!(run.standing(), Standing::Probation);
    run.clean(1);
    assert_eq!(run.standing(), Standing::Good);
}

#[test]
fn a_relapse_long_after_is_still_a_second_offence() {
    let mut run = Run::new();
    run.epoch(&[REJECTED]).clean(20).epoch(&[REJECTED]);
    assert_eq!(run.served(), (0, 6));
}

#[test]
fn several_failures_in_one_epoch_are_one_offence() {
    let mut run = Run::new();
    run.epoch(&[REJECTED; 5]);
    assert_eq!(run.served(), (0, 3));
    assert_eq!(run.0.explain(&MINER).failures, 5);
}

#[test]
fn good_miners_get_no_weight_for_an_epoch_with_too_few_audits_and_keep_their_score() {
    let mut run = Run::new();
    run.clean(2);
    let score = run.0.score(&MINER);
    run.epoch(&[ACCEPTED, ACCEPTED, SETTLED, Outcome::Refused]);
    assert_eq!((run.standing(), run.0.score(&MINER), run.weight()), (Standing::Good, score, 0));
    run.clean(1);
    assert!(run.weight() > 0);
}

#[test]
fn good_miners_keep_score_and_weight_when_the_shortage_is_our_own() {
    let mut run = Run::new();
    run.clean(2);
    let before = (run.0.score(&MINER), run.weight());
    run.epoch(&[Outcome::Inconclusive, Outcome::Inconclusive, Outcome::Inconclusive]);
    assert_eq!((run.0.score(&MINER), run.weight()), before);
    run.epoch(&[Outcome::Inconclusive, Outcome::Inconclusive]);
    assert_eq!(run.weight(), 0, "two could not have been enough");
}

#[test]
fn silence_lowers_the_score_of_good_miners() {
    let mut run = Run::new();
    run.clean(1).epoch(&[ACCEPTED, ACCEPTED, ACCEPTED, Outcome::Unavailable]);
    // 0.7 · 0.15 + 0.3 · (0.5 · 3/4)
    assert_eq!(run.0.score(&MINER).get(), 217_500);
    run.epoch(&[Outcome::Unavailable]);
    assert_eq!(run.0.score(&MINER).get(), 152_250);
    assert_eq!((run.standing(), run.weight()), (Standing::Good, 0));
}

#[test]
fn another_hotkey_inherits_nothing() {
    let mut run = Run::new();
    run.clean(1).0.record(MINER, REJECTED);
    assert_eq!(run.0.standing(&OTHER), Standing::Unproven);
    assert_eq!(run.0.score(&OTHER), Millionths::ZERO);
}

#[test]
fn the_burn_hotkey_earns_nothing_even_if_it_mines() {
    let mut run = Run::new();
    run.clean(3);
    let weights = run.0.weights(&[MINER, OTHER], MINER).expect("a proper metagraph");
    assert_eq!(weights, [(MINER, 65_535), (OTHER, 0)]);
}

#[test]
fn ending_an_epoch_twice_is_refused_and_changes_nothing() {
    let mut run = Run::new();
    run.epoch(&[REJECTED]).clean(1);
    let before = run.0.clone();
    let refused = run.0.end_epoch(Epoch::new(1)).expect_err("epoch 1 has ended");
    assert_eq!((refused.ended, refused.running), (Epoch::new(1), Epoch::new(2)));
    assert_eq!(run.0, before);
}

#[test]
fn epochs_slept_through_count_for_nothing() {
    let mut run = Run::new();
    run.epoch(&[REJECTED]).clean(1);
    for _ in 0..3 {
        run.0.record(MINER, ACCEPTED);
    }
    run.0.end_epoch(Epoch::new(50)).expect("later epochs can be ended");
    assert_eq!(run.0.state().epoch(), Epoch::new(51));
    assert_eq!(run.served(), (2, 3));
}

#[test]
fn a_term_handed_out_stands_when_the_policy_changes() {
    let mut run = Run::new();
    run.epoch(&[REJECTED]).clean(1);
    let softer = Policy::try_from(Parameters { clean_epochs: 1, ..Parameters::default() }).expect("a softer policy");
    let mut run = Run(Ledger::new(softer, run.0.state().clone()));
    run.clean(1);
    assert_eq!(run.served(), (2, 3));
}

#[test]
fn the_explanation_is_one_line_that_names_the_reason() {
    let mut run = Run::new();
    run.epoch(&[REJECTED]).clean(1);
    run.0.record(MINER, ACCEPTED);
    assert_eq!(
        run.0.explain(&MINER).to_string(),
        "probation: 1 of 3 clean epochs; the last epoch was clean; 1 of 3 audits accepted in this \
         one; proven failures: 1, last reason 201"
    );
    assert_eq!(
        run.0.explain(&OTHER).to_string(),
        "unproven: score 0.000000, no weight; no epoch has ended for it yet; 0 of 3 audits \
         accepted in this one"
    );
}

#[test]
fn the_stored_state_is_one_text_and_goes_on_where_it_was() {
    let mut run = Run::new();
    run.epoch(&[REJECTED]).clean(1).0.record(OTHER, SETTLED);
    let stored = serde_json::to_string(run.0.state()).expect("the state can be written");
    assert!(stored.starts_with(r#"{"epoch":2,"miners":{"0101"#), "{stored}");
    let state: State = serde_json::from_str(&stored).expect("and read");
    assert_eq!(&state, run.0.state());
    assert_eq!(serde_json::to_string(&state).expect("and written again"), stored);
}

#[test]
fn a_stored_state_with_a_hotkey_twice_or_an_unknown_field_is_refused() {
    let mut run = Run::new();
    run.epoch(&[REJECTED]);
    let stored = serde_json::to_string(run.0.state()).expect("the state can be written");
    let entry = &stored[stored.find("\"0101").expect("the miner")..stored.len() - 2];
    let twice = stored.replace(entry, &format!("{entry},{entry}"));
    let refused = serde_json::from_str::<State>(&twice).expect_err("a hotkey stands twice");
    assert!(refused.to_string().contains("stands twice"), "{refused}");
    let unknown = stored.replacen('{', r#"{"pardon":true,"#, 1);
    assert!(serde_json::from_str::<State>(&unknown).is_err());
}
