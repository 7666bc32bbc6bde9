//! What an attack is, and what it means that it loses.

use std::sync::{Arc, OnceLock};

use assay_audit::model::ModelTensors;
use assay_audit::policy::Policy;
use assay_audit::prompt::Prompt;
use assay_audit::verdict::{Failure, Reason, Relation, Stage, Verdict, Where};
use assay_commitments::{LayerIndex, Position};
use assay_llm_runtime::{Checkpoint, Model};
use assay_proto::v1::MinerMessage;
use assay_tests::adversary::{Act, Adversary, Moment, Script, Seat, Talk, as_scripted};
use assay_tests::arena::{Arena, Question, keys};
use assay_tests::{fixture, fixture_checkpoint, smallest};
use assay_validator::Outcome;

/// The prompt of all attacks that need no other.
pub(crate) const VERSE: &str = "In the beginning God created the heaven and the earth. And the earth was without form";

/// So many draws that nearly every cell and decode is among them.
pub(crate) const THOROUGH: Policy = Policy::Sampled { cells: 400, decodes: 400, columns: None, least_budget_ms: 0 };

/// When an attack is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// Whatever is drawn.
    Always,
    /// If a relation that it breaks is drawn.
    Drawn,
}

/// A way to cheat that must lose.
#[derive(Clone, Copy)]
pub(crate) struct Attack {
    /// The name of its test.
    pub(crate) name: &'static str,
    /// What the miner does.
    pub(crate) does: &'static str,
    /// The codes by which it may be rejected.
    pub(crate) codes: &'static [Reason],
    /// When it is found.
    pub(crate) found: Found,
    /// The places, beyond what the code itself says, where it may show: all that follows from what the miner does.
    pub(crate) place: fn(&Where) -> bool,
    /// The miner and what it is asked.
    pub(crate) make: fn() -> Cheat,
}

impl Attack {
    /// The row of the page that it belongs to.
    pub(crate) fn row(&self) -> usize {
        self.name["attack_".len()..][..2].parse().unwrap()
    }
}

/// A miner that cheats, and what it is asked.
pub(crate) struct Cheat {
    pub(crate) adversary: Adversary,
    pub(crate) script: Script,
    pub(crate) question: Question,
    /// Sessions until it cheats; those before are honest.
    pub(crate) sessions: usize,
}

impl Cheat {
    /// One whose backend deviates, asked to continue the verse.
    pub(crate) fn of(adversary: Adversary) -> Self {
        let question = Question::new(Prompt::Text(VERSE.to_owned()), 16);
        Self { adversary, script: Arc::new(|_, due| as_scripted(due)), question, sessions: 1 }
    }

    /// An honest backend behind a stream on which `script` speaks.
    pub(crate) fn speaking(script: Script) -> Self {
        Self { script, ..Self::of(claimed()) }
    }

    /// Asked for everything about a few tokens: the first cell of the proof is then that of the first layer and position.
    pub(crate) fn in_full(self) -> Self {
        self.asked(|question| {
            question.policy = Policy::Everything;
            question.ask.prompt = Prompt::Text("And".to_owned());
            question.ask.max_tokens = 3;
        })
    }

    /// Of a model of one layer, asked for one token after one: whatever is drawn is the one cell and the one decode
    /// there is, so that no proof is off by what it is about.
    pub(crate) fn of_one_cell(change: impl FnOnce(Adversary) -> Adversary) -> Self {
        Self::of(change(Adversary::new(&smallest()))).after_one_token()
    }

    /// Asked for one token after one.
    pub(crate) fn after_one_token(self) -> Self {
        self.asked(|question| {
            question.ask.prompt = Prompt::Text("A".to_owned());
            question.ask.max_tokens = 1;
        })
    }

    /// Asked something else.
    pub(crate) fn asked(mut self, change: impl FnOnce(&mut Question)) -> Self {
        change(&mut self.question);
        self
    }

    /// Honest in one session before the one in which it cheats.
    pub(crate) fn in_the_second_session(self) -> Self {
        Self { sessions: 2, ..self }
    }
}

/// An adversary that claims to serve the fixture, and so far does.
pub(crate) fn claimed() -> Adversary {
    Adversary::new(&fixture())
}

/// Whether a place is in the first layer at the first position.
pub(crate) fn in_the_first_cell(place: &Where) -> bool {
    (place.layer, place.position) == (Some(LayerIndex::new(0)), Some(Position::new(0)))
}

/// The fixture's weights.
pub(crate) fn checkpoint() -> &'static Checkpoint {
    static CHECKPOINT: OnceLock<Checkpoint> = OnceLock::new();
    CHECKPOINT.get_or_init(fixture_checkpoint)
}

/// The fixture with other weights.
pub(crate) fn altered(change: impl FnOnce(&mut ModelTensors)) -> Model {
    let Checkpoint { architecture, tensors, profile, .. } = checkpoint();
    let mut tensors = tensors.clone();
    change(&mut tensors);
    Model::new(architecture, &tensors, *profile).unwrap()
}

/// Plays `answer` in place of the honest answer and commitment.
pub(crate) fn at_the_answer(
    answer: impl Fn(&Talk<'_>, Vec<MinerMessage>) -> Vec<Act> + Send + Sync + 'static,
) -> Script {
    Arc::new(move |talk, due| if talk.moment == Moment::Answer { answer(talk, due) } else { as_scripted(due) })
}

/// Plays `answer` in place of the honest proof.
pub(crate) fn at_the_proof(
    answer: impl Fn(&Talk<'_>, Vec<MinerMessage>) -> Vec<Act> + Send + Sync + 'static,
) -> Script {
    Arc::new(move |talk, due| if talk.moment == Moment::Answer { as_scripted(due) } else { answer(talk, due) })
}

/// Declares attacks: for each a test that it loses, and an entry of `ATTACKS`.
macro_rules! attacks {
    ($(
        #[doc = $does:literal]
        $name:ident: $found:ident [$($code:ident),+] $(at $place:expr)? => $make:expr;
    )*) => {
        pub(crate) const ATTACKS: &[$crate::table::Attack] = &[$($crate::table::Attack {
            name: stringify!($name),
            does: $does,
            codes: &[$(assay_audit::verdict::Reason::$code),+],
            found: $crate::table::Found::$found,
            place: attacks!(@place $($place)?),
            make: || $make,
        }),*];
        $(
            #[doc = $does]
            #[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                $crate::table::lose(stringify!($name), ATTACKS).await;
            }
        )*
    };
    (@place) => { |_| true };
    (@place $place:expr) => { $place };
}

/// Lets an attack be tried against a validator, and asserts that it loses as it should.
pub(crate) async fn lose(name: &str, attacks: &[Attack]) {
    let attack = attacks.iter().find(|attack| attack.name == name).unwrap();
    let mut cheat = (attack.make)();
    if attack.found == Found::Drawn {
        cheat.question.policy = THOROUGH;
    }
    let failure = caught(name, cheat).await;
    println!("{name}: {failure:?}");
    check(attack, &failure);
}

/// Why a miner is rejected, after the sessions in which it is honest.
pub(crate) async fn caught(name: &str, cheat: Cheat) -> Failure {
    let Cheat { adversary, script, question, sessions } = cheat;
    let arena = Arena::new(adversary.local());
    let seat = Seat::start(adversary, keys(1), script).await;
    for _ in 1..sessions {
        assert_eq!(verdict(arena.ask(seat.peer(), &question).await), Verdict::Accepted, "{name}: the honest session");
    }
    match verdict(arena.ask(seat.peer(), &question).await) {
        Verdict::Rejected(failure) => failure,
        other => panic!("{name}: {other:?}"),
    }
}

/// The verdict of a session that has one.
pub(crate) fn verdict(outcome: Outcome) -> Verdict {
    match outcome {
        Outcome::Judged(judged) => {
            let again = judged.file.judge(&|_| None).verdict;
            assert_eq!(again, judged.judgement.verdict, "an auditor sees the same");
            again
        }
        other => panic!("no verdict: {other:?}"),
    }
}

/// Asserts that a rejection has a code of the attack's set and stands where it may.
pub(crate) fn check(attack: &Attack, failure: &Failure) {
    let Failure { reason, place } = failure;
    assert!(attack.codes.contains(reason), "{}: {failure:?}", attack.name);
    assert_eq!(place.stage, stage(*reason), "{}: {failure:?}", attack.name);
    assert!(is_whole(*reason, place) && (attack.place)(place), "{}: {failure:?}", attack.name);
}

/// Whether a place says what a rejection by that code can say, and nothing else.
fn is_whole(reason: Reason, place: &Where) -> bool {
    let Where { stage, relation, layer, position, group } = *place;
    match stage {
        Stage::Cell => {
            let is_of_a_group = matches!(reason, Reason::C3 | Reason::C5);
            relation.map(Relation::reason) == Some(reason)
                && layer.is_some()
                && position.is_some()
                && group.is_some() == is_of_a_group
        }
        Stage::Decode => {
            let is_of_the_logits = matches!(reason, Reason::Logits | Reason::Candidate);
            let said = is_of_the_logits.then_some(Relation::Logits);
            relation == said && layer.is_none() && position.is_some() && group.is_none()
        }
        // A row of a cell, or of a decode, which has no layer.
        Stage::Trace => relation.is_none() && position.is_some() && group.is_none(),
        Stage::Shape if reason == Reason::SuppliedNotCanonical => {
            relation.is_none() && position.is_some() && group.is_none()
        }
        // Of a layer, or before lm_head.
        Stage::Opening if reason == Reason::SmallTensors => *place == Where::opening(layer),
        Stage::Stream | Stage::Commitment | Stage::Shape | Stage::Opening => *place == Where::stage(stage),
    }
}

/// The stage in which a rejection by that code stands.
const fn stage(reason: Reason) -> Stage {
    match reason {
        Reason::ProofShape | Reason::ProofSignature | Reason::SuppliedNotCanonical => Stage::Shape,
        Reason::RowNotCanonical | Reason::TraceOpening => Stage::Trace,
        Reason::CommitmentShape
        | Reason::CommitmentSignature
        | Reason::WrongSession
        | Reason::WrongPrompt
        | Reason::StreamMismatch
        | Reason::WrongFinish
        | Reason::UnknownToken
        | Reason::WrongEmbeddings => Stage::Commitment,
        Reason::C2
        | Reason::C3
        | Reason::C4
        | Reason::C5
        | Reason::C6
        | Reason::C7
        | Reason::C8
        | Reason::C9
        | Reason::C10 => Stage::Cell,
        Reason::Logits
        | Reason::TooManyCandidates
        | Reason::Candidate
        | Reason::TokenNotAllowed
        | Reason::WrongToken => Stage::Decode,
        Reason::SmallTensors
        | Reason::Sumcheck
        | Reason::ColumnFold
        | Reason::ColumnPath
        | Reason::OpeningShape
        | Reason::Grinding => Stage::Opening,
        Reason::RefusalSignature
        | Reason::CommitmentAbsent
        | Reason::CommitmentLate
        | Reason::ProofAbsent
        | Reason::ProofLate
        | Reason::UnjustifiedRefusal
        | Reason::StreamBroken
        | Reason::ProtocolViolation => Stage::Stream,
    }
}
