//! The sponge as the documentation of `assay_sumcheck::transcript` describes it, over the whole list of absorbed
//! bytes.

use sha3::Shake256;
use sha3::digest::{ExtendableOutput, Update, XofReader};

use super::field::{E, e_from_stream, number};

/// Everything absorbed so far.
#[derive(Clone, Debug)]
pub(crate) struct Transcript {
    absorbed: Vec<u8>,
    /// Kind, label and length of every record, where two of them should turn out to differ: of a bulk message the
    /// length before hashing, of a squeeze the number of elements.
    pub(crate) records: Vec<(u8, &'static str, u64)>,
}

impl Transcript {
    /// Starts in a step.
    pub(crate) fn start(domain: &str, step: &'static str) -> Self {
        let mut transcript = Self { absorbed: Vec::new(), records: Vec::new() };
        transcript.record(0, step, domain.as_bytes(), domain.len());
        transcript
    }

    pub(crate) fn step(&mut self, label: &'static str) {
        self.record(1, label, &[], 0);
    }

    pub(crate) fn absorb(&mut self, label: &'static str, bytes: &[u8]) {
        self.record(2, label, bytes, bytes.len());
    }

    pub(crate) fn bulk(&mut self, label: &'static str, bytes: &[u8]) {
        let mut payload = number(bytes.len()).to_le_bytes().to_vec();
        payload.extend(blake3::hash(bytes).as_bytes());
        self.record(3, label, &payload, bytes.len());
    }

    pub(crate) fn challenge(&mut self, label: &'static str) -> E {
        let mut output = self.squeeze(label, &[0], 1);
        e_from_stream(|| next(&mut output))
    }

    pub(crate) fn seed(&mut self, label: &'static str) -> [u8; 32] {
        next(&mut self.squeeze(label, &[1], 1))
    }

    pub(crate) fn indices(&mut self, label: &'static str, count: usize, log_bound: u32) -> Vec<u64> {
        let mut request = vec![2];
        request.extend(number(count).to_le_bytes());
        request.extend(log_bound.to_le_bytes());
        let mut output = self.squeeze(label, &request, count);
        let low_bits = |word: u64| u64::try_from(u128::from(word) % (1 << log_bound)).expect("a residue is below 2^64");
        (0..count).map(|_| low_bits(u64::from_le_bytes(next(&mut output)))).collect()
    }

    fn squeeze(&mut self, label: &'static str, request: &[u8], count: usize) -> impl XofReader + use<> {
        self.record(4, label, request, count);
        let mut sponge = Shake256::default();
        sponge.update(&self.absorbed);
        sponge.finalize_xof()
    }

    fn record(&mut self, kind: u8, label: &'static str, payload: &[u8], length: usize) {
        self.absorbed.push(kind);
        for part in [label.as_bytes(), payload] {
            self.absorbed.extend(number(part.len()).to_le_bytes());
            self.absorbed.extend(part);
        }
        self.records.push((kind, label, number(length)));
    }
}

fn next<const N: usize>(output: &mut impl XofReader) -> [u8; N] {
    let mut bytes = [0; N];
    output.read(&mut bytes);
    bytes
}
