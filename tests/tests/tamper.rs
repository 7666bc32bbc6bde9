//! Changed files and changed messages: nothing that was altered is accepted, and nothing panics.
//!
//! The changes come from what the decoders read, so a new field is changed like all others from the day on
//! which it is decoded. `ASSAY_MUTATIONS=N cargo test --release --test tamper -- --ignored --nocapture` goes
//! through `N` of them.
#![expect(clippy::unwrap_used, reason = "a failed step of a test fails the test")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use assay_audit::epoch_log::{Ending, EpochLog, Listed};
use assay_audit::exhibit::Exhibit;
use assay_audit::judge::judge;
use assay_audit::keys::Keypair;
use assay_audit::policy::Policy;
use assay_audit::request::AuditRate;
use assay_audit::session::{
    Answer, Exchange, Omission, Refusal, RefusalReason, Reply, SessionRecord, sign_commitment, sign_proof,
};
use assay_audit::transcript_file::{FileError, Receipt, TranscriptFile};
use assay_audit::verdict::{OwnFault, Reason, Verdict};
use assay_cli::demo::cast::{Behaviour, Models};
use assay_cli::local::LocalModel;
use assay_cli::self_audit::SelfAudit;
use assay_commitments::codec;
use assay_commitments::structure::Part;
use assay_commitments::{Hotkey, SessionId};
use assay_tamper::mutation::{Mutation, Tamperer};
use assay_tamper::subject::{
    EPOCH_LOG, EXHIBIT, Message, Subject, TRANSCRIPT, exhibits, miner_keys, sealed, verdict_on_exhibit, verdict_on_file,
};
use assay_tamper::targets;
use assay_tests::{fixture, session, smallest, smallest_checkpoint, tiny};
use rayon::prelude::*;

const ONE_CELL: Policy = Policy::Sampled { cells: 1, decodes: 1, columns: None, least_budget_ms: 0 };

fn small(prompt: &str, seed: u64, policy: Policy) -> Subject {
    of_model(&smallest(), prompt, seed, policy)
}

fn of_model(model: &Arc<LocalModel>, prompt: &str, seed: u64, policy: Policy) -> Subject {
    let mut audit = session(prompt, 4, seed);
    audit.policy = policy;
    Subject::new(audit.run(model, &model.backend()).unwrap(), miner_keys(audit.entropy))
}

fn tamperer<'a>(message: &'a Message, donor: &'a Message) -> Tamperer<'a> {
    Tamperer::new((&message.bytes, &message.structure), (&donor.bytes, &donor.structure))
}

/// Tries all changes of a message, and some drawn ones; tells how many there were.
fn try_all(name: &str, message: &Message, donor: &Message, drawn: u64, judge: impl Fn(&Mutation, &[u8]) + Sync) {
    let tamperer = tamperer(message, donor);
    let tried = AtomicU64::new(0);
    let try_one = |mutation: &Mutation| {
        if let Some(changed) = mutation.apply(&message.bytes) {
            tried.fetch_add(1, Ordering::Relaxed);
            judge(mutation, &changed);
        }
    };
    let begun = Instant::now();
    (0..tamperer.parts()).into_par_iter().for_each(|part| tamperer.of_part(part).iter().for_each(try_one));
    (0..drawn).into_par_iter().for_each(|number| try_one(&tamperer.sample(number)));
    println!("{name}: {} changes of {} bytes in {:?}", tried.into_inner(), message.bytes.len(), begun.elapsed());
}

fn rejection(verdict: Verdict) -> Option<Reason> {
    match verdict {
        Verdict::Rejected(failure) => Some(failure.reason),
        Verdict::Accepted | Verdict::Inconclusive(_) => None,
    }
}

/// The numbers of the parts that lead to the byte at `place`, or to the last one where it stands behind all.
fn path(whole: &Part, place: usize) -> Vec<usize> {
    let inside = whole.parts.iter().position(|part| part.range.contains(&place));
    let inside = inside.or(whole.parts.len().checked_sub(1));
    inside.map_or(vec![], |number| [vec![number], path(&whole.parts[number], place)].concat())
}

/// Whatever a decoder takes is a leaf of the structure: there is no byte that is not tampered with.
#[test]
fn the_structure_of_a_message_covers_its_bytes() {
    let subject = targets::seed();
    let log = Message::of_epoch_log(&epoch_log(), &validator_keys());
    for message in [&subject.proof, &subject.commitment, &subject.file, targets::seed_exhibit(), &log] {
        let mut covered = 0;
        for leaf in message.structure.walk().filter(|part| part.is_leaf()) {
            assert_eq!(leaf.range.start, covered);
            covered = leaf.range.end;
        }
        assert_eq!(covered, message.bytes.len());
        for part in message.structure.walk().filter(|part| !part.parts.is_empty()) {
            assert_eq!(part.range.start, part.parts[0].range.start);
            assert_eq!(part.range.end, part.parts[part.parts.len() - 1].range.end);
        }
    }
}

#[test]
fn no_change_to_a_proof_that_the_miner_signed_is_accepted() {
    let (subject, donor) = (targets::seed(), small("abd", 6, ONE_CELL));
    let reasons = std::sync::Mutex::new(BTreeMap::<Reason, usize>::new());
    try_all("proof", &subject.proof, &donor.proof, 20_000, |mutation, changed| {
        let verdict = subject.verdict_on_proof(changed);
        let place = || path(&subject.proof.structure, mutation.start(&subject.proof.bytes));
        let reason = rejection(verdict).unwrap_or_else(|| panic!("{mutation:?} at {:?}: {verdict:?}", place()));
        *reasons.lock().unwrap().entry(reason).or_default() += 1;
    });
    // As the miner would send it, signature and all, the verdict is the same.
    let tamperer = tamperer(&subject.proof, &donor.proof);
    (0..200).into_par_iter().for_each(|number| {
        if let Some(changed) = tamperer.sample(number).apply(&subject.proof.bytes) {
            assert_eq!(subject.verdict_on_signed_proof(&changed), subject.verdict_on_proof(&changed));
        }
    });
    let reasons = reasons.into_inner().unwrap();
    println!("{reasons:?}");
    // Every check of a proof had something to find.
    for reason in [
        Reason::ProofShape,
        Reason::RowNotCanonical,
        Reason::SuppliedNotCanonical,
        Reason::TraceOpening,
        Reason::SmallTensors,
        Reason::C2,
        Reason::C8,
        Reason::Logits,
        Reason::Sumcheck,
        Reason::ColumnPath,
        Reason::OpeningShape,
        Reason::Grinding,
    ] {
        assert!(reasons.contains_key(&reason), "{reason:?}: {reasons:?}");
    }
}

/// Every part of a commitment, changed by a miner that signs the change, is rejected by the check that is
/// about it.
#[test]
fn no_change_to_a_commitment_that_the_miner_signed_is_accepted() {
    let (subject, donor) = (targets::seed(), small("abd", 6, ONE_CELL));
    let about: [(&str, &[Reason]); 11] = [
        ("session", &[Reason::WrongSession]),
        ("manifest", &[Reason::WrongSession]),
        ("miner", &[Reason::WrongSession]),
        ("validator", &[Reason::WrongSession]),
        ("prompt's length", &[Reason::WrongPrompt]),
        ("prompt", &[Reason::WrongPrompt, Reason::UnknownToken]),
        ("output's length", &[Reason::StreamMismatch]),
        ("output", &[Reason::StreamMismatch, Reason::UnknownToken]),
        ("finish", &[Reason::WrongFinish]),
        ("number of roots", &[]),
        // The first is recomputed. Another one gives another challenge, which the proof does not answer.
        ("roots", &[Reason::WrongEmbeddings, Reason::TraceOpening, Reason::ProofShape, Reason::C10]),
    ];
    assert_eq!(subject.commitment.structure.parts.len(), about.len(), "a field that no line is about");
    try_all("commitment", &subject.commitment, &donor.commitment, 2_000, |mutation, changed| {
        let verdict = subject.verdict_on_commitment(changed);
        let reason = rejection(verdict).unwrap_or_else(|| panic!("{mutation:?}: {verdict:?}"));
        let (field, expected) =
            about[path(&subject.commitment.structure, mutation.start(&subject.commitment.bytes))[0]];
        let several = mutation.rule == "several";
        let known = reason == Reason::CommitmentShape || several || expected.contains(&reason);
        assert!(known, "{field}, {mutation:?}: {reason:?}");
    });
}

/// A change to a record whose validator signs what it likes: none of it makes an accepted session.
#[test]
fn no_change_to_a_record_is_accepted() {
    let (subject, donor) = (targets::seed(), small("abd", 6, ONE_CELL));
    let whole = &subject.record.structure;
    assert_eq!(whole.parts.len(), 5, "request, its signature, the number of tokens, tokens, exchange");
    try_all("record", &subject.record, &donor.record, 5_000, |mutation, changed| {
        let verdict = subject.verdict_on_record(changed);
        let path = path(whole, mutation.start(&subject.record.bytes));
        let harmless = matches!(verdict, Err(_) | Ok(Verdict::Rejected(_) | Verdict::Inconclusive(_)));
        assert!(harmless, "{path:?} {mutation:?}: {verdict:?}");
    });
}

/// A change to a file whose checksum is made right again: what the validator signed or the manifest binds is
/// no file any more.
#[test]
fn no_change_to_a_file_is_accepted() {
    let (subject, donor) = (targets::seed(), small("abd", 6, ONE_CELL));
    let whole = &subject.file.structure;
    // Magic, version, manifest, record, embedding digests, tokenizer, chat template, receipt.
    assert_eq!(whole.parts.len(), 8, "a part that nothing below is about");
    assert_eq!(whole.parts[3].parts.len(), 5, "request, its signature, the number of tokens, tokens, exchange");
    try_all("file", &subject.file, &donor.file, 5_000, |mutation, changed| {
        let verdict = verdict_on_file(changed);
        let path = path(whole, mutation.start(&subject.file.bytes));
        let harmless = match path[0] {
            // Assets may be left out, to be found by their digests; digests of other tokens do not help.
            4..=6 => verdict == Ok(Verdict::Inconclusive(OwnFault::AssetMissing)),
            _ => false,
        };
        assert!(harmless || verdict.is_err(), "{path:?} {mutation:?}: {verdict:?}");
    });
}

/// Where no proof was due, the file holds what the miner signed and nothing that shows it true; but nobody
/// else can change it, and nobody but the validator what it replied.
#[test]
fn no_change_to_the_file_of_a_settled_session_is_accepted() {
    let model = smallest();
    let backend = model.backend();
    let settled = (0..).map(|seed| {
        let mut audit = session("abc", 4, seed);
        audit.audit_rate = AuditRate::Below(u64::MAX / 4);
        audit.run(&model, &backend).unwrap()
    });
    let is_settled = |file: &TranscriptFile| {
        matches!(file.record.exchange, Exchange::Committed { reply: Reply::Settled { .. }, .. })
    };
    let files: Vec<Message> = settled.filter(is_settled).take(2).map(|file| Message::of_file(&file)).collect();
    assert_eq!(verdict_on_file(&files[0].bytes), Ok(Verdict::Accepted));
    try_all("settled file", &files[0], &files[1], 5_000, |mutation, changed| {
        let verdict = verdict_on_file(changed);
        let harmless = matches!(verdict, Err(_) | Ok(Verdict::Inconclusive(OwnFault::AssetMissing)));
        assert!(harmless, "{mutation:?}: {verdict:?}");
    });
}

/// Whoever changes an honest miner's exhibit, and makes the checksum fit, gets no rejection.
#[test]
fn no_change_to_an_exhibit_makes_an_honest_miner_guilty() {
    let donors = exhibits(&small("abd", 6, ONE_CELL).session);
    for (own, donor) in exhibits(&targets::seed().session).iter().zip(&donors) {
        let (own, donor) = (Message::of_exhibit(own), Message::of_exhibit(donor));
        assert_eq!(verdict_on_exhibit(&own.bytes), Err(FileError::Inconsistent("everything that it shows holds")));
        try_all("exhibit", &own, &donor, 5_000, |mutation, changed| {
            let verdict = verdict_on_exhibit(changed);
            assert!(verdict.is_err(), "{mutation:?}: {verdict:?}");
        });
        damaged(&own, EXHIBIT, |bytes| Exhibit::decode(bytes).is_err());
    }
}

#[test]
fn no_change_to_an_exhibit_makes_a_guilty_miner_guilty_of_something_else() {
    let model = smallest();
    let models = Models::new(&model, &smallest_checkpoint().tensors).unwrap();
    let backend = models.backend(Behaviour::Int8Weights, &std::sync::Arc::default());
    let guilty = |seed| {
        let file = SelfAudit { policy: ONE_CELL, ..session("abc", 4, seed) }.run(&model, &backend).unwrap();
        let verdict = file.judge(&|_| None).verdict;
        (verdict, Message::of_exhibit(&Exhibit::of(&file.record, &file.manifest, &verdict).unwrap()))
    };
    let ((verdict, own), (_, donor)) = (guilty(5), guilty(6));
    assert_eq!(verdict_on_exhibit(&own.bytes), Ok(verdict));
    try_all("guilty exhibit", &own, &donor, 5_000, |mutation, changed| {
        let verdict = verdict_on_exhibit(changed);
        assert!(verdict.is_err(), "{mutation:?}: {verdict:?}");
    });
}

fn validator_keys() -> Keypair {
    Keypair::from_seed([5; 32]).unwrap()
}

fn epoch_log() -> EpochLog {
    let request = &targets::seed().session.record.request;
    let listed = |byte, ending| Listed { session: Some(SessionId::new([byte; 32])), ending };
    let dead = Listed { session: None, ending: Ending::Dead };
    EpochLog {
        network: request.network,
        validator: validator_keys().hotkey(),
        epoch: request.epoch,
        key: [7; 32],
        requests: BTreeMap::from([
            (Hotkey::new([1; 32]), vec![listed(1, Ending::Silent), dead, listed(2, Ending::Refused)]),
            (Hotkey::new([2; 32]), vec![]),
            (Hotkey::new([3; 32]), vec![listed(3, Ending::Judged), listed(4, Ending::Fault)]),
        ]),
    }
}

/// A log is read only as its validator signed it.
#[test]
fn no_change_to_an_epoch_log_is_read() {
    let (log, keys) = (epoch_log(), validator_keys());
    let own = Message::of_epoch_log(&log, &keys);
    let donor = Message::of_epoch_log(&EpochLog { key: [8; 32], ..log.clone() }, &keys);
    let read = |bytes: &[u8]| EpochLog::decode_signed(&sealed(EPOCH_LOG, bytes));
    assert_eq!(read(&own.bytes), Ok(log.clone()));
    try_all("epoch log", &own, &donor, 5_000, |mutation, changed| assert!(read(changed).is_err(), "{mutation:?}"));
    damaged(&own, EPOCH_LOG, |bytes| EpochLog::decode_signed(bytes).is_err());
    let stranger = Message::of_epoch_log(&log, &Keypair::from_seed([9; 32]).unwrap());
    assert!(read(&stranger.bytes).is_err());
}

#[test]
fn no_drawn_change_to_a_whole_audit_is_accepted() {
    let model = fixture();
    let audit = session("And God said, Let there be", 12, 9);
    let usual = Subject::new(audit.run(&model, &model.backend()).unwrap(), miner_keys(audit.entropy));
    for (name, subject) in [("fixture", usual), ("everything", small("abc", 7, Policy::Everything))] {
        let tamperer = tamperer(&subject.proof, &subject.proof);
        let begun = Instant::now();
        (0..1_500_u64).into_par_iter().for_each(|number| {
            let mutation = tamperer.sample(number);
            if let Some(changed) = mutation.apply(&subject.proof.bytes) {
                let verdict = subject.verdict_on_proof(&changed);
                assert!(matches!(verdict, Verdict::Rejected(_)), "{mutation:?}: {verdict:?}");
            }
        });
        println!("{name}: 1500 changes of {} bytes in {:?}", subject.proof.bytes.len(), begun.elapsed());
    }
}

/// The messages that the long run changes.
const fn kinds(subject: &Subject) -> [&Message; 4] {
    let Subject { proof, commitment, record, file, .. } = subject;
    [proof, commitment, record, file]
}

/// As many changes as `ASSAY_MUTATIONS` says, ten million if it says nothing, each made from the structure of its
/// message and each another message: four sessions, their proofs most of all. The last one's openings have several levels.
#[test]
#[ignore = "takes from half an hour to hours: to be asked for by name"]
fn ten_million_changes_are_not_accepted() {
    let total: usize = std::env::var("ASSAY_MUTATIONS").map_or(10_000_000, |number| number.parse().unwrap());
    let deep = |prompt, seed| of_model(&tiny(), prompt, seed, ONE_CELL);
    let subjects = [small("abc", 5, ONE_CELL), small("abd", 6, ONE_CELL), small("b", 8, ONE_CELL), deep("abc", 5)];
    let last = deep("abd", 6);
    let donors = [&subjects[1], &subjects[2], &subjects[0], &last];
    let tamperers: Vec<[Tamperer<'_>; 4]> = subjects
        .iter()
        .zip(donors)
        .map(|(own, donor)| {
            let (own, donor) = (kinds(own), kinds(donor));
            std::array::from_fn(|kind| tamperer(own[kind], donor[kind]))
        })
        .collect();
    let tried: [AtomicU64; 4] = std::array::from_fn(|_| AtomicU64::new(0));
    let (same, of_deep) = (AtomicU64::new(0), AtomicU64::new(0));
    let begun = Instant::now();
    let wanted = u64::try_from(total).unwrap();
    let is_enough = || tried.iter().map(|tried| tried.load(Ordering::Relaxed)).sum::<u64>() >= wanted;
    // Somewhat more are drawn than are wanted, because some change nothing.
    (0..total + total / 10).into_par_iter().with_max_len(256).for_each(|number| {
        if is_enough() {
            return;
        }
        // Of a hundred changes, one is to a commitment, one to a record and one to a file; of twenty hundreds, one is to
        // the session with the large proof.
        let kind = match number % 100 {
            97 => 1,
            98 => 2,
            99 => 3,
            _ => 0,
        };
        let which = if number / 100 % 20 == 19 { 3 } else { number / 100 % 20 % 3 };
        let (subject, message) = (&subjects[which], kinds(&subjects[which])[kind]);
        // Odd numbers are drawn from the structure.
        let mutation = tamperers[which][kind].sample(2 * u64::try_from(number).unwrap() + 1);
        let Some(changed) = mutation.apply(&message.bytes) else {
            same.fetch_add(1, Ordering::Relaxed);
            return;
        };
        match kind {
            0 => assert!(rejection(subject.verdict_on_proof(&changed)).is_some(), "{number}: {mutation:?}"),
            1 => assert!(rejection(subject.verdict_on_commitment(&changed)).is_some(), "{number}: {mutation:?}"),
            2 => assert_ne!(subject.verdict_on_record(&changed), Ok(Verdict::Accepted), "{number}: {mutation:?}"),
            _ => assert_ne!(verdict_on_file(&changed), Ok(Verdict::Accepted), "{number}: {mutation:?}"),
        }
        of_deep.fetch_add(u64::from(which == 3), Ordering::Relaxed);
        let so_far = tried[kind].fetch_add(1, Ordering::Relaxed) + 1;
        if kind == 0 && so_far.is_multiple_of(250_000) {
            println!("{so_far} changes of proofs in {:?}, none accepted", begun.elapsed());
        }
    });
    assert!(is_enough(), "{} changed nothing", same.load(Ordering::Relaxed));
    let [proofs, commitments, records, files] = tried.map(AtomicU64::into_inner);
    println!(
        "{} changes in {:?}, none accepted: {proofs} of proofs, {commitments} of commitments, {records} of records, \
         {files} of files, {} of all these in a session with openings of several levels; {} more changed nothing",
        proofs + commitments + records + files,
        begun.elapsed(),
        of_deep.into_inner(),
        same.into_inner(),
    );
}

/// Whatever is done to a record that nobody accepts, by whoever signs what it likes, nobody accepts what comes of it.
#[test]
fn no_change_to_a_session_that_was_not_accepted_makes_it_one() {
    let honest = targets::seed();
    let golden = include_bytes!("../../fixtures/golden/v1/rejected_303_int8_weights.assay");
    let rejected = TranscriptFile::decode(golden).unwrap();
    let TranscriptFile { manifest, embeddings, .. } = &honest.session;
    let assets = honest.session.assets(&|_| None).unwrap();
    let of_honest = |change: &dyn Fn(&mut SessionRecord)| {
        let mut record = honest.session.record.clone();
        change(&mut record);
        record
    };
    let replied = |reply: Reply| {
        of_honest(&|record| {
            if let Exchange::Committed { reply: before, .. } = &mut record.exchange {
                *before = reply.clone();
            }
        })
    };
    let nonce = honest.nonce();
    let refusal = Refusal { session: honest.session.record.request.session_id(), reason: RefusalReason::WrongNonce };
    let refused = Answer::Refusal(refusal.sign(&miner_keys(*blake3::hash(&5_u64.to_le_bytes()).as_bytes())));
    let answered = |answer: Answer| replied(Reply::Challenged { nonce, answer });
    let sessions = [
        ("rejected", rejected.record.clone()),
        ("refused", answered(refused)),
        ("no proof", answered(Answer::Omitted(Omission::Late))),
        ("no reply", replied(Reply::None)),
        ("no commitment", of_honest(&|record| record.exchange = Exchange::Uncommitted(Omission::Broken))),
    ];
    for (name, record) in sessions {
        let message = Message::of_record(&record);
        let judged = |bytes: &[u8]| {
            let record: SessionRecord = codec::decode(bytes).ok()?;
            let (manifest, embeddings) =
                if name == "rejected" { (&rejected.manifest, &rejected.embeddings) } else { (manifest, embeddings) };
            Some(judge(&record, manifest, &assets, embeddings).verdict)
        };
        assert!(judged(&message.bytes).is_some_and(|verdict| verdict != Verdict::Accepted), "{name}");
        try_all(name, &message, &message, 2_000, |mutation, changed| {
            assert_ne!(judged(changed), Some(Verdict::Accepted), "{name}: {mutation:?}");
        });
    }
}

/// A file of which a byte is changed, or the end missing, or something behind the end, is none.
fn damaged(message: &Message, checksum: &str, is_none: impl Fn(&[u8]) -> bool + Sync) {
    let bytes = sealed(checksum, &message.bytes);
    (0..bytes.len()).into_par_iter().for_each(|place| {
        let mut changed = bytes.clone();
        changed[place] ^= 1 << (place % 8);
        assert!(is_none(&changed), "byte {place}");
        assert!(is_none(&bytes[..place]), "{place} bytes");
    });
    assert!(is_none(&[bytes, vec![0]].concat()));
}

#[test]
fn a_damaged_file_is_refused() {
    damaged(&targets::seed().file, TRANSCRIPT, |bytes| TranscriptFile::decode(bytes).is_err());
}

fn small_file() -> TranscriptFile {
    let model = smallest();
    let mut audit = session("abc", 4, 5);
    audit.policy = ONE_CELL;
    audit.run(&model, &model.backend()).unwrap()
}

#[test]
fn a_commitment_or_proof_signed_by_somebody_else_is_rejected() {
    let file = small_file();
    let stranger = Keypair::from_seed([9; 32]).unwrap();
    let Exchange::Committed { commitment, reply: Reply::Challenged { answer: Answer::Proof(proof), .. } } =
        &file.record.exchange
    else {
        panic!("the session holds a proof")
    };
    let committed = codec::decode(&commitment.bytes).unwrap();
    let of_commitment = sign_commitment(&stranger, &committed);
    let of_proof = sign_proof(&stranger, &committed, proof.bytes.clone());
    let mut forged = file.clone();
    if let Exchange::Committed { commitment, .. } = &mut forged.record.exchange {
        *commitment = of_commitment;
    }
    assert_eq!(rejection(forged.judge(&|_| None).verdict), Some(Reason::CommitmentSignature));
    let mut forged = file.clone();
    if let Exchange::Committed { reply: Reply::Challenged { answer, .. }, .. } = &mut forged.record.exchange {
        *answer = Answer::Proof(of_proof);
    }
    assert_eq!(rejection(forged.judge(&|_| None).verdict), Some(Reason::ProofSignature));
}

#[test]
fn a_receipt_or_request_signed_by_somebody_else_is_no_file() {
    let file = small_file();
    let stranger = Keypair::from_seed([9; 32]).unwrap();
    let mut forged = file.clone();
    forged.receipt = Receipt::sign(&stranger, &file.record, Verdict::Accepted, file.receipt.measurements);
    assert!(matches!(TranscriptFile::decode(&forged.encode()), Err(FileError::Inconsistent(_))));
    let mut forged = file;
    forged.record.request_signature = forged.record.request.sign(&stranger);
    assert!(matches!(TranscriptFile::decode(&forged.encode()), Err(FileError::Inconsistent(_))));
}
