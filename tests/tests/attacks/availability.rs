//! Row 22: silence, lateness, and leaving at every step.

use std::sync::Arc;
use std::time::Duration;

use assay_audit::request::Deadlines;
use assay_audit::session::{Refusal, RefusalReason};
use assay_commitments::SessionId;
use assay_proto::v1::miner_message::Message;
use assay_proto::v1::{MinerMessage, ProofChunk, Signed};
use assay_tests::adversary::{Act, Moment, Script, Seat, Talk, as_scripted, message, unreadable};
use assay_tests::arena::{Arena, PATIENT, keys};
use assay_validator::{Outcome, Silence};
use tonic::Status;

use crate::table::{Cheat, at_the_answer, at_the_proof, claimed};

/// Long enough for whatever an honest machine does in between.
const DUE: u32 = 4_000;
/// By how much a message is late: within the second in which lateness is told from absence.
const LATE: Duration = Duration::from_millis(DUE as u64 + 500);

fn hurried(cheat: Cheat, hurry: fn(&mut Deadlines)) -> Cheat {
    cheat.asked(|question| hurry(&mut question.deadlines))
}

/// The proof in time, or never.
fn proving(script: Script) -> Cheat {
    hurried(Cheat::speaking(script), |deadlines| deadlines.proof_ms = DUE)
}

/// The commitment in time, or never.
fn committing(answer: fn(&Talk<'_>, Vec<MinerMessage>) -> Vec<Act>) -> Cheat {
    hurried(Cheat::speaking(at_the_answer(answer)), |deadlines| {
        *deadlines = Deadlines { token_ms: DUE, commitment_ms: DUE, ..*deadlines };
    })
}

fn refusal(talk: &Talk<'_>, reason: RefusalReason) -> MinerMessage {
    refusal_of(talk.request.session_id(), talk, reason)
}

fn refusal_of(session: SessionId, talk: &Talk<'_>, reason: RefusalReason) -> MinerMessage {
    let signed = Refusal { session, reason }.sign(talk.keys);
    message(Message::Refusal(Signed { body: signed.bytes, signature: signed.signature.0.to_vec() }))
}

/// Everything but the last message, then something else.
fn all_but_the_last(mut due: Vec<MinerMessage>, then: Act) -> Vec<Act> {
    due.pop();
    let mut acts = as_scripted(due);
    acts.push(then);
    acts
}

attacks! {
    /// no commitment after the tokens
    attack_22_no_commitment: Always [CommitmentAbsent] => committing(|_, due| all_but_the_last(due, Act::Hang));
    /// a commitment after its deadline
    attack_22_late_commitment: Always [CommitmentLate] => committing(|_, mut due| {
        let commitment = due.pop().unwrap();
        let mut acts = as_scripted(due);
        acts.extend([Act::Wait(LATE), Act::Say(commitment)]);
        acts
    });
    /// tokens that drip
    attack_22_tokens_drip: Always [CommitmentLate] => committing(|_, due| {
        due.into_iter().flat_map(|due| [Act::Say(due), Act::Wait(LATE)]).collect()
    });
    /// tokens that drip, each in time
    attack_22_answer_drips: Always [CommitmentLate] => {
        let dripping = at_the_answer(|_, due| {
            due.into_iter().flat_map(|due| [Act::Say(due), Act::Wait(Duration::from_millis(700))]).collect()
        });
        hurried(Cheat::speaking(dripping), |deadlines| deadlines.answer_ms = 5_000)
    };
    /// a disconnect after the first token
    attack_22_leaves_after_a_token: Always [StreamBroken] => committing(|_, due| {
        vec![Act::Say(due[0].clone()), Act::Leave]
    });
    /// an error after the first token
    attack_22_fails_after_a_token: Always [StreamBroken] => committing(|_, due| {
        vec![Act::Say(due[0].clone()), Act::Fail(Status::internal("no memory left"))]
    });
    /// a disconnect before the commitment
    attack_22_leaves_before_the_commitment: Always [StreamBroken] => {
        committing(|_, due| all_but_the_last(due, Act::Leave))
    };
    /// a refusal after the first token
    attack_22_refuses_after_a_token: Always [ProtocolViolation] => committing(|talk, due| {
        vec![Act::Say(due[0].clone()), Act::Say(refusal(talk, RefusalReason::Busy))]
    });
    /// a disconnect for good after the commitment
    attack_22_leaves_before_the_proof: Always [StreamBroken] => {
        proving(at_the_proof(|_, _| vec![Act::Leave]))
    };
    /// no proof
    attack_22_no_proof: Always [ProofAbsent] => proving(at_the_proof(|_, _| vec![Act::Hang]));
    /// a session that the miner no longer knows
    attack_22_forgets_the_session: Always [ProofAbsent] => {
        proving(at_the_proof(|_, _| vec![Act::Fail(Status::not_found("what session?"))]))
    };
    /// a proof after its deadline
    attack_22_late_proof: Always [ProofLate] => proving(at_the_proof(|_, due| {
        let mut acts = vec![Act::Wait(LATE)];
        acts.extend(as_scripted(due));
        acts
    }));
    /// a proof that drips
    attack_22_proof_drips: Always [ProofAbsent] => proving(at_the_proof(|_, mut due| {
        due.pop().unwrap();
        assert!(due.len() > 2, "a proof of several pieces");
        due.into_iter().flat_map(|piece| [Act::Say(piece), Act::Wait(Duration::from_secs(2))]).chain([Act::Hang]).collect()
    }));
    /// pieces of a byte, a hundred thousand of them and none beyond, which keep the validator from its clock
    attack_22_proof_floods: Always [ProtocolViolation] => proving(at_the_proof(|_, _| {
        let piece = message(Message::Proof(ProofChunk { data: vec![1], signature: vec![] }));
        std::iter::repeat_n(Act::Say(piece), 100_000).chain([Act::Hang]).collect()
    }));
    /// a disconnect in the middle of the proof, on every stream
    attack_22_leaves_in_the_proof: Always [StreamBroken] => proving(at_the_proof(|_, mut due| {
        due.truncate(1);
        due.into_iter().map(Act::Say).chain([Act::Leave]).collect()
    }));
    /// a challenge in order refused
    attack_22_refuses_the_challenge: Always [UnjustifiedRefusal] => {
        proving(at_the_proof(|talk, _| vec![Act::Say(refusal(talk, RefusalReason::WrongNonce))]))
    };
    /// a challenge refused over another signature
    attack_22_refuses_unsigned: Always [RefusalSignature] => proving(at_the_proof(|talk, _| {
        let stranger = keys(9);
        vec![Act::Say(refusal(&Talk { keys: &stranger, ..*talk }, RefusalReason::WrongNonce))]
    }));
    /// a challenge refused in the name of another session
    attack_22_refuses_another_session: Always [RefusalSignature] => proving(at_the_proof(|talk, _| {
        vec![Act::Say(refusal_of(SessionId::new([9; 32]), talk, RefusalReason::WrongNonce))]
    }));
    /// a challenge refused in bytes that are no refusal
    attack_22_refuses_unreadably: Always [RefusalSignature] => proving(at_the_proof(|talk, _| {
        let mut refusal = refusal(talk, RefusalReason::WrongNonce);
        let Some(Message::Refusal(signed)) = &mut refusal.message else { unreachable!() };
        signed.body.push(0);
        vec![Act::Say(refusal)]
    }));
}

/// Before the first token nothing is owed: it costs availability and is no verdict.
async fn check_silence(acts: fn(Vec<MinerMessage>) -> Vec<Act>, silence: Silence) {
    let Cheat { adversary, mut question, .. } = Cheat::of(claimed());
    question.deadlines = Deadlines { first_token_ms: 2_000, ..PATIENT };
    let arena = Arena::new(adversary.local());
    let seat = Seat::start(adversary, keys(1), at_the_answer(move |_, due| acts(due))).await;
    let outcome = arena.ask(seat.peer(), &question).await;
    assert!(matches!(outcome, Outcome::Unavailable(found) if found == silence), "{outcome:?}");
}

/// Before the first token, silence is no verdict.
#[tokio::test(flavor = "multi_thread")]
async fn attack_22_silence() {
    check_silence(|_| vec![Act::Hang], Silence::NoToken).await;
    check_silence(|_| vec![Act::Leave], Silence::Unreachable).await;
    check_silence(|_| vec![Act::Fail(Status::internal("crash"))], Silence::Unreachable).await;
    check_silence(|due| as_scripted(due.into_iter().rev().collect()), Silence::Disorder).await;
    check_silence(|_| vec![Act::Fail(unreadable())], Silence::Disorder).await;
}

/// A break is no failure as long as the same proof comes on another stream.
#[tokio::test(flavor = "multi_thread")]
async fn honest_a_connection_that_broke_is_taken_up_again() {
    let script: Script =
        Arc::new(|talk, due| if talk.moment == Moment::Proof(0) { vec![Act::Leave] } else { as_scripted(due) });
    let Cheat { adversary, question, script, .. } = Cheat::speaking(script);
    let arena = Arena::new(adversary.local());
    let seat = Seat::start(adversary, keys(1), script).await;
    let verdict = crate::table::verdict(arena.ask(seat.peer(), &question).await);
    assert_eq!(verdict, assay_audit::verdict::Verdict::Accepted);
}
