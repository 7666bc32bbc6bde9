//! What an opening shows, and what is absorbed of it.

use super::code::{Code, layout, places, sample_point};
use super::field::{E, P, ZERO, e_add, e_bytes, e_mul, e_scale, e_sum, f_bytes, number, powers};
use super::merkle::Hash;
use super::transcript::Transcript;

/// The commitment to a polynomial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Commitment {
    pub(crate) root: Hash,
    pub(crate) evaluation: E,
}

/// One matrix of a claim.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub(crate) polynomial: usize,
    pub(crate) matrix: usize,
    pub(crate) output: Vec<E>,
}

/// `sum over parts, outputs, inputs of input[k] W[k][o] output[o] = value`.
#[derive(Clone, Debug)]
pub(crate) struct Claim {
    pub(crate) input: Vec<u64>,
    pub(crate) parts: Vec<Part>,
    pub(crate) value: E,
}

/// Claims on polynomials of one code and one layout.
#[derive(Clone, Debug)]
pub(crate) struct Statement {
    pub(crate) code: Code,
    /// Inputs and outputs of the matrices.
    pub(crate) shapes: Vec<(u32, u32)>,
    pub(crate) commitments: Vec<Commitment>,
    pub(crate) claims: Vec<Claim>,
}

impl Statement {
    /// Whether the parts fit each other.
    pub(crate) fn check(&self) -> Result<(), String> {
        self.code.check()?;
        if layout(&self.shapes).1 != self.code.log_size {
            return Err("the code is not of the layout's size".into());
        }
        if self.commitments.is_empty() {
            return Err("no polynomial".into());
        }
        for claim in &self.claims {
            for part in &claim.parts {
                let shape = (number(claim.input.len()), number(part.output.len()));
                let fits = self.shapes.get(part.matrix).is_some_and(|&(k, o)| shape == (u64::from(k), u64::from(o)));
                if part.polynomial >= self.commitments.len() || !fits {
                    return Err("a claim does not fit the layout".into());
                }
            }
            let outputs = claim.parts.iter().flat_map(|part| part.output.as_flattened());
            assert!(claim.input.iter().chain(outputs).all(|&value| value < P), "integers are below p");
        }
        Ok(())
    }

    /// Step 1.
    pub(crate) fn absorb(&self, transcript: &mut Transcript) {
        transcript.absorb("weights/code", &self.code.encode());
        let mut shapes = u32::try_from(self.shapes.len()).expect("few matrices").to_le_bytes().to_vec();
        for (inputs, outputs) in &self.shapes {
            shapes.extend(inputs.to_le_bytes());
            shapes.extend(outputs.to_le_bytes());
        }
        transcript.absorb("weights/layout", blake3::hash(&shapes).as_bytes());
        transcript.absorb("weights/count", &number(self.commitments.len()).to_le_bytes());
        for commitment in &self.commitments {
            let evaluation = e_bytes(&[commitment.evaluation]);
            transcript.absorb("weights/commitment", &[&commitment.root, evaluation.as_slice()].concat());
        }
        transcript.absorb("weights/claim-count", &number(self.claims.len()).to_le_bytes());
        for claim in &self.claims {
            let parts = number(claim.parts.len()).to_le_bytes();
            transcript.absorb("weights/claim", &[e_bytes(&[claim.value]).as_slice(), &parts].concat());
            transcript.bulk("weights/input", &f_bytes(&claim.input));
            for part in &claim.parts {
                transcript.absorb("weights/part", &f_bytes(&[number(part.polynomial), number(part.matrix)]));
                transcript.bulk("weights/output", &e_bytes(&part.output));
            }
        }
    }

    /// The claims as one.
    pub(crate) fn batched_claim(&self, gamma: E) -> E {
        let evaluations = self.commitments.iter().map(|commitment| commitment.evaluation);
        let values = evaluations.chain(self.claims.iter().map(|claim| claim.value));
        e_sum(values.zip(self.batch(gamma)).map(|(value, factor)| e_mul(factor, value)))
    }

    /// The powers of gamma for commitments and claims.
    fn batch(&self, gamma: E) -> Vec<E> {
        powers(gamma, self.commitments.len() + self.claims.len())
    }

    /// `Omega_s` at every coefficient, for every polynomial `s`.
    pub(crate) fn batched_weights(&self, gamma: E) -> Vec<Vec<E>> {
        let size = 1 << self.code.log_size;
        let batch = self.batch(gamma);
        let (for_commitments, for_claims) = batch.split_at(self.commitments.len());
        let sample = |(commitment, &factor): (&Commitment, &E)| -> Vec<E> {
            let y = sample_point(&commitment.root, &self.code);
            powers(y, size).into_iter().map(|power| e_mul(factor, power)).collect()
        };
        let mut weights: Vec<Vec<E>> = self.commitments.iter().zip(for_commitments).map(sample).collect();
        for (claim, &factor) in self.claims.iter().zip(for_claims) {
            for part in &claim.parts {
                let mut product = vec![ZERO; size];
                for (k, o, place) in places(&self.shapes, part.matrix) {
                    product[place] = e_scale(part.output[o], claim.input[k]);
                }
                for (weight, product) in weights[part.polynomial].iter_mut().zip(product) {
                    *weight = e_add(*weight, e_mul(factor, product));
                }
            }
        }
        weights
    }
}
