//! Openings of weights against the reference, which shares no code with the crate.

mod reference;

mod comparison {
    use std::convert::Infallible;
    use std::sync::Arc;

    use assay_commitments::codec::{Reader, Writer};
    use assay_commitments::layout::{Layout, MatrixShape};
    use assay_commitments::params::{CodeParams, Level};
    use assay_commitments::polynomial::Coefficients;
    use assay_commitments::weights::{
        Claim, Opening, Part, WeightCommitment, WeightTree, commit, open, verify as verify_opening,
    };
    use assay_sumcheck::field::{E, F, e_from_bytes, e_to_bytes, f_from_bytes};
    use assay_sumcheck::transcript::{Absorbs, Event, First, Follows, Operation, Reduction, Step, Transcript};

    use crate::reference::cases::{Draws, Plan, changed};
    use crate::reference::field;
    use crate::reference::proof::Proof;
    use crate::reference::prover;
    use crate::reference::statement::{Commitment, Statement};
    use crate::reference::transcript::Transcript as Sponge;
    use crate::reference::verifier::{Outcome, verify};

    /// The step before an opening.
    struct Claimed;
    impl Step for Claimed {
        const LABEL: &'static str = "claimed";
    }
    impl First for Claimed {}
    impl Absorbs for Claimed {}
    impl Follows<Claimed> for Reduction {}

    /// A transcript before an opening, of the crate and of the reference.
    fn transcripts(seed: u64) -> (Transcript<Reduction>, Sponge) {
        let mut transcript = Transcript::<Claimed>::start("test/opening");
        transcript.absorb("seed", &seed.to_le_bytes());
        let mut sponge = Sponge::start("test/opening", "claimed");
        sponge.absorb("seed", &seed.to_le_bytes());
        sponge.step("reduction");
        (transcript.advance(), sponge)
    }

    /// Coefficients in memory.
    struct Polynomial {
        layout: Arc<Layout>,
        coefficients: Vec<i32>,
    }

    impl Coefficients for Polynomial {
        type Error = Infallible;

        fn layout(&self) -> &Arc<Layout> {
            &self.layout
        }

        fn read(&self, start: usize, out: &mut [i32]) -> Result<(), Infallible> {
            out.copy_from_slice(&self.coefficients[start..start + out.len()]);
            Ok(())
        }
    }

    fn f(value: u64) -> F {
        f_from_bytes(value.to_le_bytes()).expect("an integer below p")
    }

    fn e(value: field::E) -> E {
        let bytes = field::e_bytes(&[value]).try_into().expect("24 bytes");
        e_from_bytes(bytes).expect("integers below p")
    }

    /// A statement of the reference as the crate has it.
    struct Case {
        statement: Statement,
        params: CodeParams,
        layout: Arc<Layout>,
        commitments: Vec<WeightCommitment>,
        claims: Vec<Claim>,
    }

    impl Case {
        fn new(statement: Statement) -> Self {
            let shape = |&(inputs, outputs): &(u32, u32)| MatrixShape { inputs, outputs };
            let shapes: Vec<MatrixShape> = statement.shapes.iter().map(shape).collect();
            let level = |level: &crate::reference::code::Level| Level {
                fold_log: level.fold_log,
                rate_log: level.rate_log,
                queries: level.queries,
                grinding: level.grinding,
            };
            let levels = statement.code.levels.iter().map(level).collect();
            let commitment = |commitment: &Commitment| WeightCommitment {
                root: commitment.root,
                evaluation: e(commitment.evaluation),
            };
            let commitments = statement.commitments.iter().map(commitment).collect();
            let part = |part: &crate::reference::statement::Part| Part {
                polynomial: part.polynomial,
                matrix: part.matrix,
                output: part.output.iter().map(|&entry| e(entry)).collect::<Vec<_>>().into(),
            };
            let claim = |claim: &crate::reference::statement::Claim| Claim {
                input: claim.input.iter().map(|&entry| f(entry)).collect(),
                parts: claim.parts.iter().map(part).collect(),
                value: e(claim.value),
            };
            let claims = statement.claims.iter().map(claim).collect();
            Self {
                params: CodeParams { log_size: statement.code.log_size, levels },
                layout: Arc::new(Layout::new(&shapes).expect("a layout")),
                commitments,
                claims,
                statement,
            }
        }

        fn open(&self, polynomials: &[(&Polynomial, &WeightTree)], seed: u64) -> Vec<u8> {
            let (mut transcript, _) = transcripts(seed);
            let Ok(opening) = open(polynomials, &self.params, &self.claims, &mut transcript);
            let mut out = Writer::new();
            opening.write(&mut out);
            out.finish()
        }

        /// The verdict of both verifiers on a proof. Where they accept, they have had the same transcript.
        fn verdict(&self, proof: &[u8], seed: u64) -> Result<Vec<Vec<u64>>, String> {
            let (mut transcript, sponge) = transcripts(seed);
            let verdict = self.crate_verdict(proof, &mut transcript);
            let Outcome { verdict: expected, positions, transcript: mut sponge } =
                verify(&self.statement, proof, sponge);
            assert_eq!(verdict.is_ok(), expected.is_ok(), "the crate: {verdict:?}, the reference: {expected:?}");
            expected?;
            let log: Vec<_> = transcript.log().iter().map(record).collect();
            assert_eq!(log, sponge.records);
            assert_eq!(e_to_bytes(transcript.challenge("next")), *field::e_bytes(&[sponge.challenge("next")]));
            Ok(positions)
        }

        fn crate_verdict(&self, proof: &[u8], transcript: &mut Transcript<Reduction>) -> Result<(), String> {
            let mut from = Reader::new(proof);
            let count = self.commitments.len();
            let opening = Opening::read(&mut from, &self.params, count).map_err(|error| error.to_string())?;
            from.finish().map_err(|error| error.to_string())?;
            let Self { params, layout, commitments, claims, .. } = self;
            let verdict = verify_opening(commitments, layout, params, claims, &opening, transcript);
            verdict.map(drop).map_err(|error| error.to_string())
        }
    }

    fn record(event: &Event) -> (u8, &'static str, u64) {
        let kind = match event.operation {
            Operation::Start => 0,
            Operation::Step => 1,
            Operation::Absorb => 2,
            Operation::Bulk => 3,
            Operation::Squeeze => 4,
        };
        (kind, event.label, event.length)
    }

    /// Everything about one random code, layout and list of claims.
    fn compare(seed: u64) {
        let mut draws = Draws::new(seed);
        let plan = Plan::random(&mut draws);
        let coefficients = plan.coefficients(&mut draws);
        let case = Case::new(plan.statement(&coefficients));
        let narrow = |&coefficient: &i64| i32::try_from(coefficient).expect("24 bits");
        let polynomial = |coefficients: &Vec<i64>| Polynomial {
            layout: case.layout.clone(),
            coefficients: coefficients.iter().map(narrow).collect(),
        };
        let polynomials: Vec<Polynomial> = coefficients.iter().map(polynomial).collect();
        let tree = |polynomial: &Polynomial| {
            let Ok(tree) = commit(polynomial, &case.params, 1 << 20, &|_| ());
            tree
        };
        let trees: Vec<WeightTree> = polynomials.iter().map(tree).collect();
        let commitments: Vec<WeightCommitment> = trees.iter().map(WeightTree::commitment).collect();
        assert_eq!(commitments, case.commitments, "{:?}", case.params);

        let opened: Vec<(&Polynomial, &WeightTree)> = polynomials.iter().zip(&trees).collect();
        let proof = case.open(&opened, seed);
        let positions = case.verdict(&proof, seed).unwrap_or_else(|reason| panic!("{reason}: {:?}", case.params));
        let read = Proof::read(&proof, &case.statement.code, polynomials.len()).expect("it was accepted");
        for (positions, answer) in positions.iter().zip(&read.answers) {
            assert!(answer.columns.iter().all(|columns| columns.len() == positions.len()));
        }
        let own = prover::open(&case.statement, &coefficients, transcripts(seed).1);
        assert!(case.verdict(&own.write(), seed).is_ok());
        if own.answers.iter().zip(&read.answers).all(|(own, read)| own.nonce == read.nonce) {
            assert_eq!(own.write(), proof, "with the same nonces the openings are the same");
        }
        for _ in 0..24 {
            let _ = case.verdict(&changed(&mut draws, &proof, &case.statement), seed);
        }
        for level in 1..=case.params.levels.len() {
            let forged = prover::forge(&case.statement, &coefficients, transcripts(seed).1, Some(level)).write();
            assert!(case.verdict(&forged, seed).is_err() || forged == own.write(), "u_{level} was forged");
        }
        for wrong in wrong_statements(&mut draws, &case.statement) {
            let wrong = Case::new(wrong);
            assert!(wrong.verdict(&proof, seed).is_err());
            assert!(wrong.verdict(&wrong.open(&opened, seed), seed).is_err());
            let own = prover::open(&wrong.statement, &coefficients, transcripts(seed).1);
            assert!(wrong.verdict(&own.write(), seed).is_err());
        }
        // The same proof elsewhere.
        assert!(case.verdict(&proof, seed + 1).is_err());
    }

    /// Statements that differ from a true one and are false.
    fn wrong_statements(draws: &mut Draws, statement: &Statement) -> Vec<Statement> {
        let mut wrong = vec![statement.clone(); 2];
        wrong[0].commitments[0].evaluation = draws.element();
        wrong[1].commitments[0].root[0] ^= 1;
        for claim in 0..statement.claims.len() {
            let mut other = statement.clone();
            other.claims[claim].value = draws.element();
            wrong.push(other);
            let mut other = statement.clone();
            if let Some(part) = other.claims[claim].parts.first_mut() {
                part.output[0] = draws.element();
                wrong.push(other);
            }
        }
        wrong
    }

    #[test]
    fn crate_and_reference_agree() {
        for seed in 0..48 {
            compare(seed);
        }
    }
}
