//! How often an audit under the default policy finds an attack, measured, beside what follows from the relations
//! that the attack breaks.
//!
//! Of every cell and decode it is computed from the weights whether it holds ([`margins`], [`reference_logits`]).
//! Draws are independent, so an audit misses with the product of what each of its draws misses; measured rates lie
//! about that by the deviation of a binomial distribution.

use std::collections::BTreeMap;
use std::ops::{ControlFlow, Range};
use std::sync::atomic::{AtomicU32, Ordering};

use assay_audit::challenge::{Cell, Challenge, Lengths};
use assay_audit::measure::{Reference, margins, reference_logits};
use assay_audit::policy::Policy;
use assay_audit::request::Request;
use assay_audit::sampling::{Sampling, gumbel_noise};
use assay_audit::session::{Answer, Exchange, Reply};
use assay_audit::tolerance::Tolerance;
use assay_audit::verdict::{Margin, Relation, Verdict};
use assay_cli::self_audit::SelfAudit;
use assay_commitments::manifest::Architecture;
use assay_commitments::rows::Profile;
use assay_commitments::trace::TraceRows;
use assay_commitments::{KvGroup, Position, TokenId};
use assay_llm_runtime::Checkpoint;
use assay_miner::{Backend, Served};
use assay_tests::adversary::Adversary;
use assay_tests::arena::Question;
use assay_tests::in_parallel;

use crate::table::{Attack, Cheat, Found, check};
use crate::{attacks, figure, page, weights};

/// Audits of each attack.
const AUDITS: u32 = 100;
/// Signs of a sketch.
const SIGNS: f64 = 128.0;

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

/// How likely a relation with this margin is seen to be broken. A sketch estimates the mean square from so many
/// signs: `chi^2 / SIGNS` about it, whose cube root is nearly normal (Wilson and Hilferty 1931).
fn chance(margin: &Margin) -> f64 {
    match margin.place.relation {
        Some(Relation::C4 | Relation::C6 | Relation::C9) if margin.ratio.is_finite() => {
            let variance = 2.0 / (9.0 * SIGNS);
            let least = (1.0 / margin.ratio).cbrt();
            let deviations = (1.0 - variance - least) / variance.sqrt();
            libm::erfc(-deviations / std::f64::consts::SQRT_2) / 2.0
        }
        _ => f64::from(u8::from(margin.ratio > 1.0)),
    }
}

/// An answer with all that follows from it.
struct Execution<'a> {
    reference: &'a Reference,
    architecture: &'a Architecture,
    profile: Profile,
    request: &'a Request,
    output: Vec<TokenId>,
    rows: &'a dyn TraceRows,
    lengths: Lengths,
}

impl Execution<'_> {
    /// How likely each cell is found broken when it is drawn, by position and layer.
    fn broken_cells(&self) -> BTreeMap<(u32, u32), f64> {
        let groups = self.architecture.kv_heads;
        let everything = Challenge::everything(self.architecture, self.lengths);
        let mut broken = BTreeMap::new();
        for group in (0..groups).map(KvGroup::new) {
            let cells = everything.cells.iter().map(|cell| Cell { groups: vec![group], ..cell.clone() }).collect();
            let found = margins(self.reference, self.rows, &Challenge { cells, decodes: vec![] }).unwrap();
            let mut held = BTreeMap::new();
            for margin in found {
                let (Some(layer), Some(position)) = (margin.place.layer, margin.place.position) else { continue };
                *held.entry((position.get(), layer.get())).or_insert(1.0) *= 1.0 - chance(&margin);
            }
            for (cell, held) in held {
                *broken.entry(cell).or_insert(0.0) += (1.0 - held) / f64::from(groups);
            }
        }
        broken
    }

    /// Whether the pick at a position is another than the sampler's, beyond tolerance.
    fn is_pick_broken(&self, position: u32) -> bool {
        let logits = reference_logits(self.reference, self.rows, Position::new(position)).unwrap();
        let Sampling { temperature, top_k, seed, .. } = self.request.sampling;
        let tolerance = Tolerance::of(self.profile);
        let slack = |z: f64| tolerance.logit_rel * z.abs() + tolerance.logit_abs;
        let noise = gumbel_noise(seed, Position::new(position), logits.len());
        let index = |token: TokenId| usize::try_from(token.get()).unwrap();
        let served = index(self.output[usize::try_from(position - self.lengths.first_decode()).unwrap()]);
        let mut order: Vec<usize> = (0..logits.len()).collect();
        order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
        if top_k > 0 {
            order.truncate(usize::try_from(top_k).unwrap());
        }
        let score = |j: usize, sign: f64| (logits[j] + sign * slack(logits[j])) / f64::from(temperature) + noise[j];
        !order.contains(&served) || order.into_iter().any(|j| j != served && score(j, -1.0) > score(served, 1.0))
    }

    /// The share of default audits that must find what is broken here.
    fn expected(&self) -> f64 {
        let layers = f64::from(self.architecture.layers);
        let broken = self.broken_cells();
        let share = |positions: Range<u32>| {
            let cells = f64::from(positions.end - positions.start) * layers;
            broken.iter().filter(|((position, _), _)| positions.contains(position)).map(|(_, f)| f).sum::<f64>() / cells
        };
        let (first, all) = (self.lengths.first_decode(), self.lengths.positions());
        let prompt = first + 1;
        let written = if prompt < all { share(prompt..all) } else { share(0..prompt) };
        let cells = (1.0 - share(0..prompt)).powi(2) * (1.0 - written) * (1.0 - share(all - 1..all));
        let picks: Vec<f64> = (first..all).map(|position| f64::from(u8::from(self.is_pick_broken(position)))).collect();
        let count = f64::from(all - first);
        let decodes = (1.0 - picks[picks.len() - 1]) * (1.0 - picks.iter().sum::<f64>() / count).powi(2);
        1.0 - cells * decodes
    }
}

fn expected(adversary: &Adversary, question: &Question, reference: &Reference) -> f64 {
    assert_eq!(question.policy, Policy::DEFAULT, "the formula is that of the default draws");
    let local = adversary.local();
    let request = audit_of(question, 0).run(local, adversary).unwrap().record.request;
    let Served { prompt, output, trace, .. } = adversary.serve(&request, &mut |_| ControlFlow::Continue(())).unwrap();
    let forged = adversary.forged(&request.session_id());
    let rows = forged.as_deref().map_or(&trace as &dyn TraceRows, |forged| forged);
    let lengths = Lengths::new(prompt.len(), output.len()).unwrap();
    let (architecture, profile) = (local.model.architecture(), local.model.profile());
    Execution { reference, architecture, profile, request: &request, output, rows, lengths }.expected()
}

/// The share of audits that reject, each for a stated reason.
fn measured(attack: &Attack, adversary: &Adversary, question: &Question) -> f64 {
    let caught = AtomicU32::new(0);
    in_parallel(0..AUDITS, |trial| {
        let file = audit_of(question, trial).run(adversary.local(), adversary).unwrap();
        let Exchange::Committed { reply: Reply::Challenged { answer, .. }, .. } = &file.record.exchange else {
            panic!("{}: not challenged", attack.name)
        };
        assert!(matches!(answer, Answer::Proof(_)), "{}: {answer:?}", attack.name);
        match file.judge(&|_| None).verdict {
            Verdict::Accepted => {}
            Verdict::Rejected(failure) => {
                check(attack, &failure);
                caught.fetch_add(1, Ordering::Relaxed);
            }
            Verdict::Inconclusive(fault) => panic!("{}: {fault:?}", attack.name),
        }
    });
    f64::from(caught.into_inner()) / f64::from(AUDITS)
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
        let expected = expected(&adversary, &question, reference);
        let measured = measured(attack, &adversary, &question);
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
    }
}
