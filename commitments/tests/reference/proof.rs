//! The encoding of an opening.

use super::code::Code;
use super::field::{E, P, e_bytes, e_from_f};
use super::merkle::{Hash, symbol_bytes};

/// An opening.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Proof {
    /// `g(0)` and the coefficient of `X^2`.
    pub(crate) rounds: Vec<[E; 2]>,
    /// Root and answer of every level from 1.
    pub(crate) levels: Vec<(Hash, E)>,
    pub(crate) last: Vec<E>,
    /// What answers the queries to every level from 0.
    pub(crate) answers: Vec<Answer>,
}

/// What answers the queries to one level.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) nonce: Option<u64>,
    /// For every tree, for every position, the symbols of all rows.
    pub(crate) columns: Vec<Vec<Vec<E>>>,
    /// For every tree, the hashes.
    pub(crate) hashes: Vec<Vec<Hash>>,
}

/// The number of bits of a polynomial's number: the least `e` with `2^e >= count`.
pub(crate) fn number_log(count: usize) -> u32 {
    count.next_power_of_two().ilog2()
}

/// How many trees a level has.
fn trees(level: usize, polynomials: usize) -> usize {
    if level == 0 { polynomials } else { 1 }
}

fn length(length: usize) -> [u8; 4] {
    u32::try_from(length).expect("a proof is short").to_le_bytes()
}

impl Proof {
    pub(crate) fn write(&self) -> Vec<u8> {
        let mut bytes = e_bytes(self.rounds.as_flattened());
        for (root, answer) in &self.levels {
            bytes.extend(root);
            bytes.extend(e_bytes(&[*answer]));
        }
        bytes.extend(e_bytes(&self.last));
        for (level, answer) in self.answers.iter().enumerate() {
            bytes.extend(answer.nonce.iter().flat_map(|nonce| nonce.to_le_bytes()));
            bytes.extend(length(answer.columns[0].len()));
            for column in answer.columns.iter().flatten() {
                bytes.extend(symbol_bytes(level, column));
            }
            for hashes in &answer.hashes {
                bytes.extend(length(hashes.len()));
                bytes.extend(hashes.as_flattened());
            }
        }
        bytes
    }

    /// Reads the opening of so many polynomials, to the last byte.
    pub(crate) fn read(bytes: &[u8], code: &Code, polynomials: usize) -> Result<Self, String> {
        let mut from = Bytes(bytes);
        let final_log = code.message_log(code.levels.len());
        let rounds = from.many(code.log_size + number_log(polynomials), |from| Ok([from.e()?, from.e()?]))?;
        let levels = from.many(number_of(code.last()), |from| Ok((from.take()?, from.e()?)))?;
        let last = from.many(1 << final_log, Bytes::e)?;
        let mut answers = Vec::new();
        for (level, numbers) in code.levels.iter().enumerate() {
            let nonce = if numbers.grinding > 0 { Some(u64::from_le_bytes(from.take()?)) } else { None };
            let opened = from.u32()?;
            let trees = number_of(trees(level, polynomials));
            let symbol = |from: &mut Bytes<'_>| if level == 0 { from.f().map(e_from_f) } else { from.e() };
            let column = |from: &mut Bytes<'_>| from.many(1 << numbers.fold_log, symbol);
            let columns = from.many(trees, |from| from.many(opened, column))?;
            let hashes = from.many(trees, |from| {
                let count = from.u32()?;
                from.many(count, Bytes::take)
            })?;
            answers.push(Answer { nonce, columns, hashes });
        }
        if from.0.is_empty() { Ok(Self { rounds, levels, last, answers }) } else { Err("bytes are left over".into()) }
    }
}

fn number_of(count: usize) -> u32 {
    u32::try_from(count).expect("few levels and polynomials")
}

/// Bytes that are still to be read.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let (taken, rest) = self.0.split_first_chunk().ok_or("the bytes end too early")?;
        self.0 = rest;
        Ok(*taken)
    }

    fn u32(&mut self) -> Result<u32, String> {
        self.take().map(u32::from_le_bytes)
    }

    fn f(&mut self) -> Result<u64, String> {
        let value = u64::from_le_bytes(self.take()?);
        if value < P { Ok(value) } else { Err("an integer is not below p".into()) }
    }

    fn e(&mut self) -> Result<E, String> {
        Ok([self.f()?, self.f()?, self.f()?])
    }

    fn many<T>(&mut self, count: u32, mut one: impl FnMut(&mut Self) -> Result<T, String>) -> Result<Vec<T>, String> {
        (0..count).map(|_| one(self)).collect()
    }
}
