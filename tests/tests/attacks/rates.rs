//! How often an audit under the default policy finds an attack, measured, beside what follows from the relations
//! that the attack breaks ([`assay_tests::odds`]). Measured rates lie about that by the deviation of a binomial
//! distribution.

use std::ops::ControlFlow;
use std::sync::Mutex;

use assay_audit::challenge::Lengths;
use assay_audit::measure::Reference;
use assay_audit::sampling::Sampling;
use assay_audit::session::{Answer, Exchange, Reply};
use assay_audit::verdict::Verdict;
use assay_cli::self_audit::SelfAudit;
use assay_commitments::rows::Profile;
use assay_commitments::trace::TraceRows;
use assay_llm_runtime::Checkpoint;
use assay_miner::{Backend, Served};
use assay_tests::adversary::Adversary;
use assay_tests::arena::Question;
use assay_tests::in_parallel;
use assay_tests::odds::{Execution, Odds, Tally};

use crate::table::{Attack, Cheat, Found, check};
use crate::{attacks, figure, page, weights};

/// Audits of each attack.
const AUDITS: u32 = 100;

/// What was found about an attack.
pub(crate) struct Rate {
    pub(crate) attack: &'static Attack,
    /// The share of audits that must find it.
    pub(crate) expected: f64,
    /// The share that did.
    pub(crate) measured: f64,
}

impl Rate {
    /// How far a measured share may lie from the expected one: four deviations, and one audit.
    pub(crate) fn bound(&self) -> f64 {
        let audits = f64::from(AUDITS);
        4.0 * (self.expected * (1.0 - self.expected) / audits).sqrt() + 1.0 / audits
    }
}

/// The same question every time; only keys, and with them the draws, differ.
fn audit_of(question: &Question, trial: u32) -> SelfAudit {
    let Question { ask, policy, rate, .. } = question.clone();
    SelfAudit {
        prompt: ask.prompt,
        sampling: Sampling { temperature: ask.temperature, top_k: ask.top_k, top_p: ask.top_p, seed: 1 },
        max_tokens: ask.max_tokens,
        stop: ask.stop,
        policy,
        audit_rate: rate,
        entropy: *blake3::hash(&trial.to_le_bytes()).as_bytes(),
    }
}

fn odds(adversary: &Adversary, question: &Question, reference: &Reference) -> Odds {
    let local = adversary.local();
    let request = audit_of(question, 0).run(local, adversary).unwrap().record.request;
    let Served { prompt, output, trace, .. } = adversary.serve(&request, &mut |_| ControlFlow::Continue(())).unwrap();
    let forged = adversary.forged(&request.session_id());
    let rows = forged.as_deref().map_or(&trace as &dyn TraceRows, |forged| forged);
    let lengths = Lengths::new(prompt.len(), output.len()).unwrap();
    let (architecture, profile) = (local.model.architecture(), local.model.profile());
    let sampling = request.sampling;
    let execution = Execution { reference, architecture, profile, sampling, output: &output, rows, lengths };
    execution.odds()
}

/// The share of audits that reject, each for a stated reason and for what its own draw had to find.
fn measured(attack: &Attack, adversary: &Adversary, question: &Question, odds: &Odds) -> f64 {
    let tally = Mutex::new(Tally::default());
    in_parallel(0..AUDITS, |trial| {
        let file = audit_of(question, trial).run(adversary.local(), adversary).unwrap();
        let Exchange::Committed { reply: Reply::Challenged { answer, .. }, .. } = &file.record.exchange else {
            panic!("{}: not challenged", attack.name)
        };
        assert!(matches!(answer, Answer::Proof(_)), "{}: {answer:?}", attack.name);
        let judgement = file.judge(&|_| None);
        if let Verdict::Rejected(failure) = &judgement.verdict {
            check(attack, failure);
        }
        tally.lock().unwrap().count(odds, &judgement);
    });
    tally.into_inner().unwrap().share()
}

#[test]
fn measured_detection_agrees_with_the_relations_broken() {
    let reference = |checkpoint: &Checkpoint| {
        Reference::new(&checkpoint.architecture, &checkpoint.tensors, checkpoint.profile).unwrap()
    };
    let (bf16, f32) = (reference(crate::table::checkpoint()), reference(&weights::single_precision().0));
    let mut rates = vec![];
    for attack in attacks().into_iter().filter(|attack| attack.found == Found::Drawn) {
        let Cheat { adversary, question, .. } = (attack.make)();
        let reference = if adversary.local().model.profile() == Profile::F32V1 { &f32 } else { &bf16 };
        let odds = odds(&adversary, &question, reference);
        odds.check_draws(&question.policy, adversary.local().model.architecture());
        let expected = odds.caught(&question.policy);
        let measured = measured(attack, &adversary, &question, &odds);
        let rate = Rate { attack, expected, measured };
        println!("{:<36} expected {expected:.3}, measured {measured:.3} +- {:.3}", attack.name, rate.bound());
        rates.push(rate);
    }
    let beyond = |rate: &&Rate| (rate.measured - rate.expected).abs() > rate.bound();
    let beyond: Vec<&str> = rates.iter().filter(beyond).map(|rate| rate.attack.name).collect();
    assert!(beyond.is_empty(), "{beyond:?}");
    if std::env::var_os("BLESS").is_some() {
        page::write(&rates, AUDITS);
        figure::write(&rates);
    } else {
        page::check(&rates);
    }
}
