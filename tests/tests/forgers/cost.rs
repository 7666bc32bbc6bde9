//! What columns cost: measured on the fixture, and by formula in the shape of an 8B model.

use assay_audit::session::{Answer, Exchange, Reply};
use assay_audit::verdict::Verdict;
use assay_commitments::layout::{Layout, MatrixShape};
use assay_commitments::manifest::Matrix;
use assay_commitments::params::CodeParams;
use assay_commitments::trace::FinishReason;
use assay_tests::fixture;

use crate::cheats::{plain, real};
use crate::stored::{Stored, question};
use crate::with_columns;

/// An audit of the honest answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    /// Mean bytes of a proof.
    pub(crate) bytes: f64,
    /// Best time to prove, in milliseconds.
    pub(crate) prove: u32,
    /// Best time to judge, in milliseconds.
    pub(crate) verify: f64,
}

/// Audits without columns, with one and with two, by turns.
pub(crate) fn on_the_fixture() -> [Cost; 3] {
    const ROUNDS: u32 = 12;
    let stored = Stored::new(&plain(1), FinishReason::Length);
    let mut costs = [Cost { bytes: 0.0, prove: u32::MAX, verify: f64::INFINITY }; 3];
    for round in 0..ROUNDS {
        for (columns, cost) in (0..).zip(&mut costs) {
            let file = question(with_columns(columns), round).run(&fixture(), &stored).unwrap();
            assert_eq!(file.judge(&|_| None).verdict, Verdict::Accepted);
            let Exchange::Committed { reply: Reply::Challenged { answer: Answer::Proof(proof), .. }, .. } =
                &file.record.exchange
            else {
                panic!("every session is audited")
            };
            cost.bytes += real(proof.bytes.len()) / f64::from(ROUNDS);
            cost.prove = cost.prove.min(file.receipt.measurements.proof_ms);
            cost.verify = cost.verify.min(f64::from(file.receipt.measurements.verify_us) / 1000.0);
        }
    }
    costs
}

/// Bytes of the cells of an audit in the shape of Llama-3 8B, four of them and `columns` columns at `position`: rows
/// and supplied products of three bytes, claims, the prefix of one group's cache, and one opening of all layers touched.
pub(crate) fn of_8b(columns: usize, position: usize) -> f64 {
    let shape = |inputs, outputs| MatrixShape { inputs, outputs };
    let shapes = [
        shape(4096, 4096),
        shape(4096, 1024),
        shape(4096, 1024),
        shape(4096, 4096),
        shape(4096, 14336),
        shape(4096, 14336),
        shape(14336, 4096),
    ];
    let layout = Layout::new(&shapes).unwrap();
    let layers = if columns == 0 { 4 } else { 32 };
    // Of the queries those of one group in eight.
    let supplied = shapes[Matrix::Q.index()].outputs / 8
        + [Matrix::K, Matrix::Gate, Matrix::Up].map(|matrix| shapes[matrix.index()].outputs).iter().sum::<u32>();
    let rows = 4 * 4096 * 2 + 8 * 2 * 128 * 2;
    let claims = 7 * 128 * 8;
    let cell = real(usize::try_from(3 * supplied).unwrap() + rows + claims + 512 * position);
    real(4 + 32 * columns) * cell + real(CodeParams::for_layout(&layout).max_opening_bytes(layers))
}
