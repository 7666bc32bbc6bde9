//! Audits in one process: honest sessions are accepted, and it is measured what they cost.

use std::time::Instant;

use assay_audit::verdict::Verdict;
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
        for margin in &judgement.report.margins {
            println!("  {:?} {:.3}", margin.place.relation, margin.ratio);
        }
        assert_eq!(judgement.verdict, Verdict::Accepted);
    }
}
