//! A validator that picks its nonces, audits whom it likes or hides requests shows in its epoch's log.
#![expect(clippy::unwrap_used, reason = "a failed step of a test fails the test")]

use std::collections::{BTreeMap, BTreeSet};

use assay_audit::challenge::{EpochKey, is_audited, nonce_commitment};
use assay_audit::epoch_log::{Account, Ending, EpochLog, Listed, Shown, Tally};
use assay_audit::policy::{Columns, Policy};
use assay_audit::prompt::Prompt;
use assay_audit::request::{AuditRate, Deadlines, Request};
use assay_audit::session::{Answer, Exchange, Omission, Reply};
use assay_audit::transcript_file::{Conclusion, FileError, TranscriptFile};
use assay_audit::verdict::{OwnFault, Reason};
use assay_cli::self_audit::SelfAudit;
use assay_commitments::Hotkey;
use assay_commitments::codec::{decode, encode};
use assay_commitments::trace::TraceCommitment;
use assay_tests::{session, smallest};

const SEED: u64 = 5;

fn audit(prompt: &str, entropy: u64) -> SelfAudit {
    let mut audit = session(prompt, 4, SEED);
    audit.audit_rate = AuditRate::Below(1 << 63);
    audit.entropy = *blake3::hash(&entropy.to_le_bytes()).as_bytes();
    audit
}

fn play(audit: &SelfAudit) -> TranscriptFile {
    let model = smallest();
    audit.run(&model, &model.backend()).unwrap()
}

/// The log of an epoch in which that one session was held.
fn log(audit: &SelfAudit, file: &TranscriptFile) -> EpochLog {
    let request = &file.record.request;
    let listed = Listed { session: Some(request.session_id()), ending: Ending::Judged };
    EpochLog {
        network: request.network,
        validator: request.validator,
        epoch: request.epoch,
        key: blake3::derive_key("assay self audit epoch", &audit.entropy),
        requests: BTreeMap::from([(request.miner, vec![listed])]),
    }
}

fn tally(log: &EpochLog, files: &[&TranscriptFile]) -> Tally {
    let mut account = Account::new(log);
    for file in files {
        assert!(log.is_of(&file.record));
        account.add(file, file.judge(&|_| None).verdict);
    }
    account.finish().into_values().next().unwrap()
}

fn is_settled(file: &TranscriptFile) -> bool {
    matches!(&file.record.exchange, Exchange::Committed { reply: Reply::Settled { .. }, .. })
}

fn reply_of(file: &mut TranscriptFile) -> &mut Reply {
    match &mut file.record.exchange {
        Exchange::Committed { reply, .. } => reply,
        Exchange::Uncommitted(_) => panic!("it was committed"),
    }
}

/// The receipt states what the transcript gets, so that only what is tested shows.
fn restate(file: &mut TranscriptFile) {
    file.receipt.conclusion = file.judge(&|_| None).verdict.into();
}

/// A session that the draw leaves alone, and one that it does not.
fn both_draws() -> [(SelfAudit, TranscriptFile); 2] {
    [true, false].map(|settled| {
        (0..40)
            .map(|entropy| audit("abc", entropy))
            .map(|audit| (play(&audit), audit))
            .find_map(|(file, audit)| (is_settled(&file) == settled).then_some((audit, file)))
            .unwrap()
    })
}

#[test]
fn an_honest_validator_shows_nothing() {
    let [(settled_audit, settled), (due_audit, due)] = both_draws();
    let rates = BTreeSet::from([AuditRate::Below(1 << 63)]);
    let of_settled = tally(&log(&settled_audit, &settled), &[&settled]);
    assert_eq!(of_settled, Tally { requests: 1, settled: 1, rates: rates.clone(), ..Tally::default() });
    let of_due = tally(&log(&due_audit, &due), &[&due, &due]);
    assert_eq!(of_due, Tally { requests: 1, owed: 1, made: 1, rates, ..Tally::default() });
}

#[test]
fn a_reply_against_the_draw_shows() {
    let [(settled_audit, mut settled), (due_audit, mut due)] = both_draws();
    let logs = [log(&settled_audit, &settled), log(&due_audit, &due)];
    // Each gets the other's reply: an audit that is not due, and none that is.
    std::mem::swap(reply_of(&mut settled), reply_of(&mut due));
    [&mut settled, &mut due].into_iter().for_each(restate);
    let [challenged, spared] = [tally(&logs[0], &[&settled]), tally(&logs[1], &[&due])];
    assert_eq!(challenged.shown, [(0, Shown::AgainstTheDraw)]);
    assert_eq!((spared.owed, spared.made, spared.shown), (1, 0, vec![(0, Shown::AgainstTheDraw)]));
}

/// Nothing can be drawn of these: how many there are, and of whom, is for whoever reads the table.
#[test]
fn responses_without_a_commitment_that_can_be_read_are_counted() {
    let (audit, due) = both_draws().into_iter().find(|(_, file)| !is_settled(file)).unwrap();
    let of = |change: fn(&mut Exchange), conclusion| {
        let mut file = due.clone();
        change(&mut file.record.exchange);
        file.receipt.conclusion = conclusion;
        let tally = tally(&log(&audit, &file), &[&file]);
        (tally.owed, tally.unaudited, tally.uncommitted, tally.shown)
    };
    let uncommitted = |exchange: &mut Exchange| *exchange = Exchange::Uncommitted(Omission::Absent);
    assert_eq!(of(uncommitted, Conclusion::Rejected(Reason::CommitmentAbsent)), (0, 0, 1, vec![]));
    assert_eq!(of(uncommitted, Conclusion::Accepted), (0, 0, 1, vec![(0, Shown::OtherVerdict)]));
    let spoilt = |exchange: &mut Exchange| match exchange {
        Exchange::Committed { commitment, .. } => commitment.bytes.truncate(9),
        Exchange::Uncommitted(_) => panic!("it was committed"),
    };
    let unanswered = |exchange: &mut Exchange| match exchange {
        Exchange::Committed { commitment, reply } => {
            commitment.bytes.truncate(9);
            *reply = Reply::None;
        }
        Exchange::Uncommitted(_) => panic!("it was committed"),
    };
    let rejected = Conclusion::Rejected(Reason::CommitmentShape);
    assert_eq!(of(unanswered, rejected), (0, 1, 0, vec![]));
    assert_eq!(of(spoilt, rejected), (0, 1, 0, vec![(0, Shown::AnsweredWrong)]));
    // Nothing that a judge may lack is needed to tell.
    let mut bare = due.clone();
    bare.tokenizer = None;
    spoilt(&mut bare.record.exchange);
    let bare = tally(&log(&audit, &bare), &[&bare]);
    assert_eq!((bare.unaudited, bare.missing, bare.shown), (1, 1, vec![(0, Shown::AnsweredWrong)]));
}

#[test]
fn two_exchanges_of_one_session_show_in_either_order() {
    let (audit, due) = both_draws().into_iter().find(|(_, file)| !is_settled(file)).unwrap();
    let Reply::Challenged { nonce: Some(nonce), .. } = *reply_of(&mut due.clone()) else { panic!("it was challenged") };
    let mut spared = due.clone();
    *reply_of(&mut spared) = Reply::Settled { nonce };
    restate(&mut spared);
    let log = log(&audit, &due);
    let [first, last] = [[&due, &spared], [&spared, &due]].map(|files| tally(&log, &files));
    assert_eq!(first, last);
    assert!(
        first.shown.len() == 2
            && [Shown::AgainstTheDraw, Shown::ExchangeTwice].iter().all(|shown| first.shown.contains(&(0, *shown)))
    );
    // Nor is one exchange signed with two verdicts.
    let mut other = due.clone();
    other.receipt.conclusion = Conclusion::Inconclusive(OwnFault::PromptUnusable);
    for files in [[&due, &other], [&other, &due]] {
        assert_eq!(tally(&log, &files).shown, [(0, Shown::VerdictTwice)]);
    }
}

/// What no signature covers anybody may take out of a copy: it hides nothing of the file beside it.
#[test]
fn a_copy_that_cannot_be_judged_hides_nothing() {
    let (audit, due) = both_draws().into_iter().find(|(_, file)| !is_settled(file)).unwrap();
    let log = log(&audit, &due);
    let mut lying = due.clone();
    lying.receipt.conclusion = Conclusion::Rejected(Reason::ProofAbsent);
    for (file, made, shown) in [(&due, 1, vec![]), (&lying, 0, vec![(0, Shown::OtherVerdict)])] {
        let (mut bare, mut blank) = (file.clone(), file.clone());
        bare.tokenizer = None;
        blank.embeddings = smallest().committed.embeddings.open([]);
        let alone = tally(&log, &[file]);
        assert_eq!((alone.made, alone.missing, &alone.shown), (made, 0, &shown));
        assert_eq!((tally(&log, &[&bare]).made, tally(&log, &[&bare]).missing), (0, 1));
        for files in [[&bare, file, &blank], [file, &bare, &blank], [&blank, &bare, file]] {
            assert_eq!(tally(&log, &files), alone);
        }
    }
}

#[test]
fn a_challenge_with_another_nonce_than_the_requests_is_no_audit() {
    let (audit, due) = both_draws().into_iter().find(|(_, file)| !is_settled(file)).unwrap();
    let answer = || Answer::Omitted(Omission::Absent);
    for nonce in [Some([7; 32]), None] {
        let mut file = due.clone();
        *reply_of(&mut file) = Reply::Challenged { nonce, answer: answer() };
        restate(&mut file);
        let tally = tally(&log(&audit, &file), &[&file]);
        assert_eq!((tally.owed, tally.made, tally.shown), (1, 0, vec![(0, Shown::AgainstTheDraw)]), "{nonce:?}");
    }
    let mut file = due.clone();
    *reply_of(&mut file) = Reply::Settled { nonce: [7; 32] };
    restate(&mut file);
    assert_eq!(tally(&log(&audit, &file), &[&file]).shown, [(0, Shown::AgainstTheDraw)]);
}

#[test]
fn an_audit_that_was_owed_is_counted_whatever_the_validator_calls_its_absence() {
    let (audit, mut file) = both_draws().into_iter().find(|(_, file)| !is_settled(file)).unwrap();
    *reply_of(&mut file) = Reply::None;
    let never_settled = Conclusion::Inconclusive(OwnFault::NeverSettled);
    let faults = [OwnFault::Interrupted, OwnFault::Connection].map(Conclusion::Inconclusive);
    let others = [Conclusion::Rejected(Reason::WrongPrompt), Conclusion::Accepted];
    for conclusion in [never_settled].into_iter().chain(faults).chain(others) {
        file.receipt.conclusion = conclusion;
        let tally = tally(&log(&audit, &file), &[&file]);
        let shown = if conclusion == never_settled { vec![] } else { vec![(0, Shown::OtherVerdict)] };
        assert_eq!((tally.owed, tally.made, tally.shown), (1, 0, shown), "{conclusion:?}");
    }
    // Nobody is audited for a commitment that is wrong in itself.
    if let Exchange::Committed { commitment, .. } = &mut file.record.exchange {
        commitment.signature.0[0] ^= 1;
    }
    assert_eq!(tally(&log(&audit, &file), &[&file]).shown, [(0, Shown::OtherVerdict)]);
    file.receipt.conclusion = Conclusion::Rejected(Reason::CommitmentSignature);
    let rejected = tally(&log(&audit, &file), &[&file]);
    assert_eq!((rejected.owed, rejected.made, rejected.unaudited, rejected.shown), (0, 0, 1, vec![]));
}

/// A validator that may spare a friend only where the draw says so might make up commitments until it does.
#[test]
fn a_commitment_that_was_answered_and_is_none_of_its_miner_shows() {
    for (audit, file) in both_draws() {
        let log = log(&audit, &file);
        let expected = [(0, Shown::AnsweredWrong), (0, Shown::OtherVerdict)];
        let forged = (0..64).find_map(|salt| {
            let mut forged = file.clone();
            let Exchange::Committed { commitment, .. } = &mut forged.record.exchange else {
                panic!("it was committed")
            };
            let mut trace: TraceCommitment = decode(&commitment.bytes).unwrap();
            *trace.roots.last_mut().unwrap() = [salt; 32];
            commitment.bytes = encode(&trace);
            let request = &forged.record.request;
            let nonce = EpochKey::new(log.key).nonce(request.network.netuid, &trace.miner, request.counter);
            let is_due = is_audited(request.audit_rate, &nonce, &trace.digest());
            (is_due != is_settled(&file)).then_some(forged)
        });
        assert_eq!(tally(&log, &[&forged.unwrap()]).shown, expected);
        let mut other = file.clone();
        other.record.streamed.pop();
        assert_eq!(tally(&log, &[&other]).shown, expected);
    }
}

#[test]
fn an_audit_counts_as_made_only_if_its_proof_gets_the_verdict_that_the_receipt_states() {
    let (audit, file) = both_draws().into_iter().find(|(_, file)| !is_settled(file)).unwrap();
    let log = log(&audit, &file);
    let of = |change: &dyn Fn(&mut TranscriptFile)| {
        let mut file = file.clone();
        change(&mut file);
        let tally = tally(&log, &[&file]);
        (tally.owed, tally.made, tally.shown)
    };
    let spoilt = |file: &mut TranscriptFile| {
        if let Reply::Challenged { answer: Answer::Proof(proof), .. } = reply_of(file) {
            proof.bytes.truncate(9);
        }
    };
    let other = vec![(0, Shown::OtherVerdict)];
    assert_eq!(of(&|_| ()), (1, 1, vec![]));
    assert_eq!(of(&spoilt), (1, 0, other.clone()));
    let rejected = Conclusion::Rejected(Reason::ProofAbsent);
    assert_eq!(of(&|file| file.receipt.conclusion = rejected), (1, 0, other));
    let omitted = |file: &mut TranscriptFile| {
        if let Reply::Challenged { answer, .. } = reply_of(file) {
            *answer = Answer::Omitted(Omission::Absent);
        }
        file.receipt.conclusion = rejected;
    };
    assert_eq!(of(&omitted), (1, 1, vec![]));
    // Nor does a fault that the record does not tell of make it none, unless it is one of what a judge may lack.
    let fault = |fault| of(&|file| file.receipt.conclusion = Conclusion::Inconclusive(fault));
    assert_eq!(fault(OwnFault::Interrupted), (1, 0, vec![(0, Shown::OtherVerdict)]));
    assert_eq!(fault(OwnFault::PromptUnusable), (1, 0, vec![]));
}

/// Whoever exchanges the reply in an innocent validator's transcript has no transcript any more.
#[test]
fn a_reply_that_its_validator_did_not_sign_shows_nothing() {
    let [(_, mut settled), (_, mut due)] = both_draws();
    assert!(TranscriptFile::decode(&settled.encode()).is_ok() && TranscriptFile::decode(&due.encode()).is_ok());
    std::mem::swap(reply_of(&mut settled), reply_of(&mut due));
    for file in [settled, due] {
        let of_another = FileError::Inconsistent("the receipt is of another exchange");
        assert_eq!(TranscriptFile::decode(&file.encode()), Err(of_another));
    }
}

#[test]
fn a_picked_nonce_shows_when_the_key_is_revealed() {
    let audit = audit("abc", 1);
    let file = play(&audit);
    let picked = EpochLog { key: *EpochKey::new([7; 32]).as_bytes(), ..log(&audit, &file) };
    assert_eq!(tally(&picked, &[&file]).shown, [(0, Shown::PickedNonce)]);
}

#[test]
fn a_request_that_is_left_out_or_repeated_shows() {
    let (audit, other) = (audit("abc", 1), audit("cba", 1));
    let (file, again) = (play(&audit), play(&other));
    let whole = log(&audit, &file);
    let miner = file.record.request.miner;
    let none = EpochLog { requests: BTreeMap::from([(miner, vec![])]), ..whole.clone() };
    assert_eq!(tally(&none, &[&file]).shown, [(0, Shown::LeftOut)]);
    let dead = Listed { session: None, ending: Ending::Dead };
    let buried = EpochLog { requests: BTreeMap::from([(miner, vec![dead])]), ..whole.clone() };
    assert_eq!(tally(&buried, &[&file]).shown, [(0, Shown::LeftOut)]);
    // The same counter for another question: its nonce is known from the first.
    assert_eq!(tally(&whole, &[&file, &again]).shown, [(0, Shown::CounterTwice), (0, Shown::LeftOut)]);
    assert_eq!(Prompt::Text("cba".to_owned()), again.record.request.prompt);
    // Nor may it be listed as one to which nothing came; a fault or a crash may have left its transcript.
    let cases = [(Ending::Silent, true), (Ending::Refused, true), (Ending::Fault, false), (Ending::Dead, false)];
    for (ending, is_shown) in cases {
        let listed = Listed { ending, ..whole.requests[&miner][0] };
        let other = EpochLog { requests: BTreeMap::from([(miner, vec![listed])]), ..whole.clone() };
        let shown = tally(&other, &[&file]).shown;
        assert_eq!(shown, if is_shown { vec![(0, Shown::ListedOtherwise)] } else { vec![] }, "{ending:?}");
    }
    // A transcript that is not there is counted, and blames nobody.
    let missing = tally(&whole, &[]);
    assert_eq!((missing.missing, missing.shown.len()), (1, 0));
}

type Change<'a> = &'a dyn Fn(&mut Request);

/// What is shown of a validator that asked each of these miners twice, the requests of each changed in the same way.
fn shown_of(miners: &[(u8, Change<'_>)]) -> BTreeMap<u8, Vec<(u64, Shown)>> {
    let audit = audit("abc", 1);
    let base = play(&audit);
    let mut log = log(&audit, &base);
    log.requests.clear();
    let mut files = vec![];
    for (miner, change) in miners {
        for counter in 0..2 {
            let mut file = base.clone();
            file.record.exchange = Exchange::Uncommitted(Omission::Absent);
            let request = &mut file.record.request;
            (request.miner, request.counter) = (Hotkey::new([*miner; 32]), counter);
            let nonce = EpochKey::new(log.key).nonce(request.network.netuid, &request.miner, counter);
            let commitment = nonce_commitment(&nonce, counter, &request.validator, &request.miner);
            request.nonce_commitment = Some(commitment);
            change(request);
            let listed = Listed { session: Some(request.session_id()), ending: Ending::Judged };
            log.requests.entry(request.miner).or_default().push(listed);
            restate(&mut file);
            files.push(file);
        }
    }
    let shown = |files: &mut dyn Iterator<Item = &TranscriptFile>| {
        let mut account = Account::new(&log);
        files.for_each(|file| account.add(file, file.judge(&|_| None).verdict));
        account.finish().into_iter().map(|(miner, tally)| (miner.as_bytes()[0], tally.shown)).collect()
    };
    let found: BTreeMap<_, _> = shown(&mut files.iter());
    assert_eq!(shown(&mut files.iter().rev()), found, "it depends on the order of the files");
    found
}

const AS_THE_REST: Change<'_> = &|_| ();

/// The first miner's requests are changed, the others' are alike.
fn shown_of_a_friend(change: Change<'_>) -> Vec<(u64, Shown)> {
    let mut shown = shown_of(&[(1, change), (2, AS_THE_REST), (3, AS_THE_REST)]);
    assert_eq!((shown.remove(&2), shown.remove(&3)), (Some(vec![]), Some(vec![])));
    shown.remove(&1).unwrap()
}

#[test]
fn a_validator_that_spares_a_miner_by_policy_or_deadlines_shows() {
    type Numbers = fn(&mut u32, &mut u32, &mut Option<Columns>, &mut u32);
    let by: [Numbers; 4] = [
        |cells, _, _, _| *cells = 1,
        |_, decodes, _, _| *decodes = 1,
        |_, _, columns, _| *columns = None,
        |_, _, _, least_budget_ms| *least_budget_ms += 1,
    ];
    for change in by {
        let spared = shown_of_a_friend(&|request| {
            let Policy::Sampled { cells, decodes, columns, least_budget_ms } = &mut request.policy else { panic!() };
            change(cells, decodes, columns, least_budget_ms);
        });
        assert_eq!(spared, [(0, Shown::OtherTerms), (1, Shown::OtherTerms)]);
    }
    let by: [fn(&mut Request) -> &mut u32; Deadlines::all(0).each().len()] = [
        |request| &mut request.deadlines.first_token_ms,
        |request| &mut request.deadlines.token_ms,
        |request| &mut request.deadlines.commitment_ms,
        |request| &mut request.deadlines.answer_ms,
        |request| &mut request.deadlines.settle_ms,
        |request| &mut request.deadlines.proof_ms,
    ];
    for deadline in by {
        let spared = shown_of_a_friend(&|request| *deadline(request) -= 1);
        assert_eq!(spared, [(0, Shown::OtherTerms), (1, Shown::OtherTerms)]);
    }
    // Where as many are asked in one way as in another, something shows all the same.
    let halves = shown_of(&[(1, &|request| request.deadlines.proof_ms -= 1), (2, AS_THE_REST)]);
    assert_eq!(halves.values().flatten().count(), 2, "{halves:?}");
}

#[test]
fn a_validator_that_spares_a_miner_by_audit_rate_shows_and_one_that_audits_newcomers_always_does_not() {
    for rate in [0, 1, u64::MAX] {
        let spared = shown_of_a_friend(&|request| request.audit_rate = AuditRate::Below(rate));
        assert_eq!(spared, [(0, Shown::OtherRate), (1, Shown::OtherRate)]);
    }
    assert_eq!(shown_of_a_friend(&|request| request.audit_rate = AuditRate::Always), []);
    // However many newcomers there are: the rate that counts is that of the others.
    let always: Change<'_> = &|request| request.audit_rate = AuditRate::Always;
    let newcomers = shown_of(&[(1, always), (2, always), (3, AS_THE_REST)]);
    assert_eq!(newcomers.into_values().flatten().collect::<Vec<_>>(), []);
    // A configuration that changes in mid-epoch shows too.
    let spared: Change<'_> = &|request| {
        if request.counter == 1 {
            request.audit_rate = AuditRate::Below(1 << 60);
            request.deadlines.proof_ms -= 1;
        }
    };
    let both = vec![(1, Shown::OtherTerms), (1, Shown::OtherRate)];
    assert_eq!(shown_of(&[(1, spared), (2, AS_THE_REST)]), BTreeMap::from([(1, both), (2, vec![])]));
}
