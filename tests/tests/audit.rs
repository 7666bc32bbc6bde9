//! Audits in one process: honest sessions are accepted, and it is measured what they cost.

use std::time::Instant;

use assay_audit::policy::{Columns, Policy};
use assay_audit::request::AuditRate;
use assay_audit::session::{Exchange, Reply};
use assay_audit::verdict::{OwnFault, Verdict};
use assay_tests::{fixture, session, tiny};

#[test]
fn an_honest_session_is_accepted() {
    for (name, model) in [("tiny", tiny()), ("fixture", fixture())] {
        let begin = Instant::now();
        let file = session("In the beginning God created", 24, 1).run(&model, &model.backend()).unwrap();
        let total = begin.elapsed();
        let begin = Instant::now();
        let judgement = file.judge(&|_| None);
        println!(
            "{name}: proof {} bytes in {} ms, verified in {:?}, file {} bytes, session {total:?}",
            judgement.report.proof_bytes,
            file.receipt.measurements.proof_ms,
            begin.elapsed(),
            file.encode().len(),
        );
        assert_eq!(judgement.verdict, Verdict::Accepted);
    }
}

#[test]
fn honest_sessions_of_every_kind_are_accepted() {
    let model = fixture();
    let sampled = |cells, decodes, columns| {
        let columns = Columns::always(columns);
        Policy::Sampled { cells, decodes, columns, least_budget_ms: 0 }
    };
    for (prompt, max_tokens, policy) in [
        ("And", 1, Policy::DEFAULT),
        ("Blessed is the man that walketh not", 30, sampled(1, 1, 3)),
        ("The LORD is my shepherd", 40, sampled(16, 12, 0)),
        ("Now these are the names", 6, Policy::Everything),
    ] {
        for (temperature, top_k, top_p) in [(0.0, 0, 1.0), (1.0, 0, 1.0), (0.8, 20, 1.0), (1.2, 0, 0.7)] {
            let mut audit = session(prompt, max_tokens, 7);
            audit.policy = policy;
            audit.sampling.temperature = temperature;
            audit.sampling.top_k = top_k;
            audit.sampling.top_p = top_p;
            let file = audit.run(&model, &model.backend()).unwrap();
            assert_eq!(file.judge(&|_| None).verdict, Verdict::Accepted, "{prompt} {policy:?} {temperature}");
        }
    }
}

#[test]
fn stop_strings_and_stop_tokens_end_an_answer_and_are_accepted() {
    let model = fixture();
    let mut reasons = std::collections::BTreeSet::new();
    for seed in 0..12 {
        let mut audit = session("And God said unto them,", 60, seed);
        audit.stop = vec![" the LORD".to_owned(), ". ".to_owned()];
        let file = audit.run(&model, &model.backend()).unwrap();
        assert_eq!(file.judge(&|_| None).verdict, Verdict::Accepted, "seed {seed}");
        let Exchange::Committed { commitment, .. } = &file.record.exchange else { panic!("committed") };
        let commitment: assay_commitments::trace::TraceCommitment =
            assay_commitments::codec::decode(&commitment.bytes).unwrap();
        reasons.insert(commitment.finish.name());
    }
    assert!(reasons.contains("stop_string"), "{reasons:?}");
}

#[test]
fn a_response_that_the_draw_leaves_alone_is_settled() {
    let model = tiny();
    let mut settled = 0;
    for seed in 0..20 {
        let mut audit = session("a question", 4, seed);
        audit.audit_rate = AuditRate::Below(u64::MAX / 2);
        let mut file = audit.run(&model, &model.backend()).unwrap();
        assert_eq!(file.judge(&|_| None).verdict, Verdict::Accepted);
        let Exchange::Committed { reply, .. } = &mut file.record.exchange else { panic!("committed") };
        match reply {
            Reply::Settled { .. } => settled += 1,
            // A validator that settles where the draw calls for an audit has failed itself.
            Reply::Challenged { nonce: Some(nonce), .. } => {
                *reply = Reply::Settled { nonce: *nonce };
                assert_eq!(file.judge(&|_| None).verdict, Verdict::Inconclusive(OwnFault::AuditOmitted));
            }
            other => panic!("{other:?}"),
        }
    }
    assert!((3..=17).contains(&settled), "{settled}");
}

#[test]
fn an_asset_that_is_not_there_is_the_auditors_own_fault() {
    let model = tiny();
    let mut file = session("a question", 4, 1).run(&model, &model.backend()).unwrap();
    let tokenizer = file.tokenizer.take().unwrap();
    assert_eq!(file.judge(&|_| None).verdict, Verdict::Inconclusive(OwnFault::AssetMissing));
    assert_eq!(file.judge(&|_| Some(tokenizer.clone())).verdict, Verdict::Accepted);
}
