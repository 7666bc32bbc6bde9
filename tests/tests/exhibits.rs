//! One cell or decode shown to a third party: what was rejected is rejected again from it alone, and no
//! file, however made, shows an honest miner to be guilty.
#![expect(clippy::unwrap_used, reason = "a failed step of a test fails the test")]

use std::sync::Arc;

use assay_audit::exhibit::{Detail, Exhibit, NoExhibit};
use assay_audit::policy::Policy;
use assay_audit::session::{Answer, Exchange, Omission, Reply, sign_proof};
use assay_audit::transcript_file::{FileError, TranscriptFile};
use assay_audit::verdict::{Reason, Stage, Verdict};
use assay_cli::demo::cast::{Behaviour, Models};
use assay_cli::self_audit::SelfAudit;
use assay_commitments::codec;
use assay_commitments::trace::TraceCommitment;
use assay_tamper::subject::{Message, exhibits, miner_keys, verdict_on_exhibit};
use assay_tests::{fixture, fixture_checkpoint, session, smallest};

fn small_audit() -> SelfAudit {
    let mut audit = session("abc", 4, 5);
    audit.policy = Policy::Sampled { cells: 2, decodes: 2, columns: None, least_budget_ms: 0 };
    audit
}

fn honest() -> TranscriptFile {
    let model = smallest();
    small_audit().run(&model, &model.backend()).unwrap()
}

fn judged(bytes: &[u8]) -> Result<Verdict, FileError> {
    Exhibit::decode(bytes)?.judge().map(|judgement| judgement.verdict)
}

fn answer_of(file: &mut TranscriptFile) -> &mut Answer {
    match &mut file.record.exchange {
        Exchange::Committed { reply: Reply::Challenged { answer, .. }, .. } => answer,
        other => panic!("{other:?} holds no answer"),
    }
}

fn commitment_of(file: &TranscriptFile) -> TraceCommitment {
    let Exchange::Committed { commitment, .. } = &file.record.exchange else { panic!("it was committed to") };
    codec::decode(&commitment.bytes).unwrap()
}

#[test]
fn what_is_rejected_in_a_cell_or_decode_is_rejected_from_it_alone() {
    let model = fixture();
    let models = Models::new(&model, &fixture_checkpoint().tensors).unwrap();
    let mut shown = std::collections::BTreeSet::new();
    for behaviour in [
        Behaviour::Int8Weights,
        Behaviour::FineTuned,
        Behaviour::SkipsLayer,
        Behaviour::ShortWindow,
        Behaviour::GreedySampler,
    ] {
        let backend = models.backend(behaviour, &Arc::default());
        for seed in 0..6 {
            let file = session("In the beginning God created the heaven", 16, seed).run(&model, &backend).unwrap();
            let verdict = file.judge(&|_| None).verdict;
            let Verdict::Rejected(failure) = verdict else { continue };
            let exhibit = Exhibit::of(&file.record, &file.manifest, &verdict).unwrap();
            let bytes = exhibit.encode();
            assert_eq!(judged(&bytes), Ok(verdict), "{behaviour:?}");
            assert_eq!(Exhibit::decode(&bytes).unwrap(), exhibit);
            let whole = file.encode().len();
            println!("{:<22} {:>7} of {whole:>7} bytes", failure.reason.slug(), bytes.len());
            assert!(bytes.len() < whole / 4, "{} of {whole} bytes", bytes.len());
            shown.insert(failure.reason.slug());

            // A person can follow it: something is compared, and what is wrong is off by more than allowed.
            let examination = exhibit.examine().unwrap();
            let wrong = examination.comparisons.iter().filter(|comparison| comparison.place == failure.place);
            let ratios: Vec<f64> = wrong.map(|comparison| comparison.ratio).collect();
            match failure.place.stage {
                Stage::Cell => assert!(ratios.iter().any(|ratio| *ratio > 1.0), "{failure:?} {ratios:?}"),
                _ => assert!(examination.pick.unwrap().above > 0, "{failure:?}"),
            }
        }
    }
    assert!(shown.len() >= 4, "{shown:?}");
}

#[test]
fn an_examination_compares_what_the_audit_compares() {
    let file = honest();
    let margins = file.judge(&|_| None).report.margins;
    let mut compared = 0;
    for exhibit in exhibits(&file) {
        for comparison in exhibit.examine().unwrap().comparisons {
            let mean_square = |values: &[f64]| {
                let count = f64::from(u32::try_from(values.len()).unwrap());
                values.iter().map(|value| value * value).sum::<f64>() / count
            };
            let drawn = match &comparison.detail {
                Detail::Entries { deviations, .. } => mean_square(deviations),
                Detail::Sums { residuals, .. } => mean_square(residuals),
                Detail::Exact { same } => {
                    assert!(*same);
                    continue;
                }
            };
            assert!((drawn - comparison.ratio).abs() <= 1e-6 * comparison.ratio, "{comparison:?}");
            let is_it = |margin: &&assay_audit::verdict::Margin| {
                margin.place == comparison.place && margin.ratio == comparison.ratio
            };
            assert!(margins.iter().any(|margin| is_it(&margin)), "{comparison:?}");
            compared += 1;
        }
    }
    assert_eq!(compared, margins.len());
}

#[test]
fn an_accepted_session_has_no_exhibit_and_nothing_of_it_is_one() {
    let file = honest();
    let verdict = file.judge(&|_| None).verdict;
    assert_eq!(verdict, Verdict::Accepted);
    let none = Exhibit::of(&file.record, &file.manifest, &verdict);
    assert_eq!(none, Err(NoExhibit::NotRejected("accepted")));
    for exhibit in exhibits(&file) {
        let refused = Err(FileError::Inconsistent("everything that it shows holds"));
        assert_eq!(judged(&exhibit.encode()), refused);
    }
}

/// Parts of two honest sessions of the same miner, put together, are no exhibit.
#[test]
fn parts_of_several_sessions_do_not_mix() {
    let model = smallest();
    let mut other = small_audit();
    other.prompt = assay_audit::prompt::Prompt::Text("cba".to_owned());
    let (one, two) = (honest(), other.run(&model, &model.backend()).unwrap());
    for (one, two) in exhibits(&one).iter().zip(exhibits(&two)) {
        let (one, two) = (Message::of_exhibit(one).bytes, Message::of_exhibit(&two).bytes);
        // Everything up to the first difference of one, and from there on the other.
        for cut in (0..one.len().min(two.len())).step_by(97) {
            assert!(verdict_on_exhibit(&[&one[..cut], &two[cut..]].concat()).is_err(), "{cut}");
        }
    }
}

/// A miner that was brought to answer one request twice, differently, as another build of it would: the one commitment and
/// the other's proof are no failure that could be shown.
#[test]
fn two_answers_to_one_request_do_not_mix() {
    let mut file = honest();
    let mut other = commitment_of(&file);
    other.roots.swap(1, 2);
    let Answer::Proof(proof) = answer_of(&mut file).clone() else { panic!("a proof") };
    let keys = miner_keys(small_audit().entropy);
    *answer_of(&mut file) = Answer::Proof(sign_proof(&keys, &other, proof.bytes));
    let verdict = file.judge(&|_| None).verdict;
    assert!(matches!(verdict, Verdict::Rejected(failure) if failure.reason == Reason::ProofSignature), "{verdict:?}");
    let none = Exhibit::of(&file.record, &file.manifest, &verdict);
    assert_eq!(none, Err(NoExhibit::Attested("proof_signature")));
}

#[test]
fn what_one_cell_cannot_show_says_so() {
    let file = honest();
    let mut silent = file.clone();
    *answer_of(&mut silent) = Answer::Omitted(Omission::Absent);
    let verdict = silent.judge(&|_| None).verdict;
    let none = Exhibit::of(&silent.record, &silent.manifest, &verdict);
    assert_eq!(none, Err(NoExhibit::Attested("proof_absent")));

    // The last part holds the openings: a miner that changes it is rejected, and for nothing in a cell.
    let mut opened = file.clone();
    let Answer::Proof(proof) = answer_of(&mut opened).clone() else { panic!("a proof") };
    let keys = miner_keys(small_audit().entropy);
    let mut reasons = std::collections::BTreeSet::new();
    for back in (8..1_000).step_by(40) {
        let mut bytes = proof.bytes.clone();
        let place = bytes.len() - back;
        bytes[place] ^= 1;
        *answer_of(&mut opened) = Answer::Proof(sign_proof(&keys, &commitment_of(&file), bytes));
        let verdict = opened.judge(&|_| None).verdict;
        let Verdict::Rejected(failure) = verdict else { panic!("{verdict:?}") };
        let none = Exhibit::of(&opened.record, &opened.manifest, &verdict);
        assert_eq!(none, Err(NoExhibit::Whole(failure.reason.slug())));
        reasons.insert((failure.place.stage, failure.reason));
    }
    assert!(reasons.iter().any(|(stage, _)| *stage == Stage::Opening), "{reasons:?}");
}

#[test]
fn of_several_cells_that_fail_the_first_is_told_whatever_the_threads_do() {
    let model = smallest();
    let mut audit = session("In the beginning", 8, 5);
    audit.policy = Policy::Sampled { cells: 32, decodes: 2, columns: None, least_budget_ms: 0 };
    let mut file = audit.run(&model, &model.backend()).unwrap();
    let challenge = file.judge(&|_| None).report.challenge.unwrap();
    let Answer::Proof(proof) = answer_of(&mut file).clone() else { panic!("no proof") };
    let word = |place: usize| {
        let bytes = proof.bytes[4 * place..].first_chunk().unwrap();
        usize::try_from(u32::from_le_bytes(*bytes)).unwrap()
    };
    let count = word(0);
    let start = |part: usize| 4 * (1 + count) + (0..part).map(|part| word(1 + part)).sum::<usize>();
    // Before the openings lie as many claims as cells and decodes, and before those what is committed of each.
    let cells = challenge.cells.len();
    let first_cell = count - 1 - 2 * (cells + challenge.decodes.len());
    let (early, late) = (cells / 2 - 1, cells / 2);
    let mut bytes = proof.bytes.clone();
    // A path of the one, which is found at its end, and an infinite number in the next, which is found at once.
    let next = start(first_cell + late);
    bytes[next - 1] ^= 1;
    bytes[next..next + 4].copy_from_slice(&[0x80, 0x7f, 0x80, 0x7f]);
    let keys = miner_keys(audit.entropy);
    *answer_of(&mut file) = Answer::Proof(sign_proof(&keys, &commitment_of(&file), bytes));
    for _ in 0..100 {
        let verdict = file.judge(&|_| None).verdict;
        let Verdict::Rejected(failure) = verdict else { panic!("{verdict:?}") };
        assert_eq!((failure.reason, failure.place.layer), (Reason::TraceOpening, Some(challenge.cells[early].layer)));
    }
}
