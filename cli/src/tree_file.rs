//! The file beside a manifest that spares committing again: a record of every weight tree.
//!
//! A tree is made of hashes of codeword columns, which is nearly all of the work of committing; kept are its
//! upper levels, and what shows the commitment's own evaluation. A record also holds a digest of every matrix as it was committed. A tree is taken from it only for
//! matrices of the same digests, and only if its root is the manifest's, so that neither weights that
//! changed since nor a file of another model give a wrong tree. Whoever can write the file can write the
//! weights too: it is as trusted as they are, and nobody but its owner uses it.
//!
//! The file grows with the work, under another name: record by record, each with a checksum, in the order
//! of the polynomials. What a run that was stopped leaves of it is taken up by the next, if it is of the
//! same weights, which a fingerprint at its head tells.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use assay_audit::commit::Commitment;
use assay_commitments::codec::{Canonical, Malformed, Reader, Writer, decode, encode};
use assay_commitments::layout::MAX_MATRICES;
use assay_commitments::manifest::Manifest;
use assay_commitments::params::CodeParams;
use assay_commitments::weights::{WeightCommitment, WeightTree};
use assay_files::Unreadable;
use assay_sumcheck::E;
use assay_sumcheck::field::{e_from_bytes, e_to_bytes};
use thiserror::Error;

use crate::outcome::Fault;

const MAGIC: &[u8; 8] = b"ASSAY\0WT";
const VERSION: u16 = 3;
const CHECKSUM: &str = "assay/tree-file-checksum/v3";
/// Most columns of a codeword.
const MAX_NODES: usize = u32::MAX as usize;
/// Most rows of a code.
const MAX_ROWS: usize = 1 << 10;

/// Why a file is no tree file, or a record of it is damaged.
#[derive(Debug, Error)]
pub(crate) enum TreeFileError {
    #[error("it does not begin like a tree file of version {VERSION}")]
    Foreign,
    #[error("a checksum does not match")]
    Checksum,
    #[error("its content is malformed: {0}")]
    Malformed(#[from] Malformed),
    #[error("it cannot be read: {0}")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
}

/// What is kept of the commitment to a polynomial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) weights: WeightCommitment,
    pub(crate) exponents: Vec<i16>,
    /// Digests of the matrices, in the order of the layout.
    pub(crate) matrices: Vec<[u8; 32]>,
    nodes: Vec<[u8; 32]>,
    rows: Vec<E>,
}

impl Record {
    pub(crate) fn new(tree: &WeightTree, exponents: &[i16], matrices: &[[u8; 32]]) -> Self {
        Self {
            weights: tree.commitment(),
            exponents: exponents.to_vec(),
            matrices: matrices.to_vec(),
            nodes: tree.nodes().to_vec(),
            rows: tree.sampled_rows().to_vec(),
        }
    }

    /// The tree, if it has the size and the commitment that it should have.
    fn tree(&self, code: &CodeParams, expected: WeightCommitment) -> Option<WeightTree> {
        let tree = WeightTree::from_parts(code, self.nodes.clone(), self.rows.clone())?;
        (tree.commitment() == expected).then_some(tree)
    }
}

impl Canonical for Record {
    fn write(&self, out: &mut Writer) {
        out.value(&self.weights);
        out.list(&self.exponents.iter().map(|exponent| i32::from(*exponent).cast_unsigned()).collect::<Vec<_>>());
        out.list(&self.matrices);
        out.list(&self.nodes);
        out.length(self.rows.len());
        self.rows.iter().for_each(|row| out.raw(&e_to_bytes(*row)));
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        let weights = from.value()?;
        let exponents =
            from.list::<u32>(MAX_MATRICES)?.into_iter().map(|exponent| i16::try_from(exponent.cast_signed()));
        let exponents = exponents.collect::<Result<_, _>>().map_err(|_| Malformed::NotCanonical)?;
        let (matrices, nodes) = (from.list(MAX_MATRICES)?, from.list(MAX_NODES)?);
        let rows = 0..from.length(MAX_ROWS)?;
        let rows = from.each(rows, |from, _| e_from_bytes(from.array()?).ok_or(Malformed::NotCanonical))?;
        Ok(Self { weights, exponents, matrices, nodes, rows })
    }
}

/// What a file of such weights begins with.
fn head(fingerprint: &[u8; 32]) -> Vec<u8> {
    [MAGIC.as_slice(), &VERSION.to_le_bytes(), fingerprint].concat()
}

const HEAD_LENGTH: u64 = 8 + 2 + 32;

/// A record with its length before it and its checksum behind it.
fn frame(head: &[u8], record: &Record) -> Vec<u8> {
    let content = encode(record);
    let mut bytes = (content.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(&content);
    bytes.extend_from_slice(&checksum(head, &content));
    bytes
}

fn checksum(head: &[u8], content: &[u8]) -> [u8; 32] {
    let mut hash = blake3::Hasher::new_derive_key(CHECKSUM);
    hash.update(head).update(content);
    hash.finalize().into()
}

/// Reads a tree file record by record.
#[derive(Debug)]
pub(crate) struct Records<R> {
    from: R,
    head: Vec<u8>,
    /// Bytes that the file still has.
    left: u64,
}

impl Records<BufReader<File>> {
    pub(crate) fn open(path: &Path) -> Result<Self, TreeFileError> {
        let file = assay_files::open(path)?;
        let length = file.metadata()?.len();
        Self::new(BufReader::new(file), length)
    }
}

impl<R: Read> Records<R> {
    fn new(mut from: R, length: u64) -> Result<Self, TreeFileError> {
        let mut head = vec![];
        from.by_ref().take(HEAD_LENGTH).read_to_end(&mut head)?;
        let known = head.starts_with(MAGIC) && head[MAGIC.len()..].starts_with(&VERSION.to_le_bytes());
        if !known || head.len() as u64 != HEAD_LENGTH {
            return Err(TreeFileError::Foreign);
        }
        Ok(Self { from, head, left: length.saturating_sub(HEAD_LENGTH) })
    }

    fn take(&mut self, count: u64) -> Result<Vec<u8>, TreeFileError> {
        self.left = self.left.checked_sub(count).ok_or(Malformed::Truncated)?;
        let mut bytes = vec![];
        if self.from.by_ref().take(count).read_to_end(&mut bytes)? as u64 != count {
            return Err(Malformed::Truncated.into());
        }
        Ok(bytes)
    }

    fn record(&mut self) -> Result<Record, TreeFileError> {
        let length = self.take(8)?;
        let length = u64::from_le_bytes(*length.first_chunk().ok_or(Malformed::Truncated)?);
        let content = self.take(length)?;
        if self.take(32)? != checksum(&self.head, &content) {
            return Err(TreeFileError::Checksum);
        }
        Ok(decode(&content)?)
    }
}

impl<R: Read> Iterator for Records<R> {
    type Item = Result<Record, TreeFileError>;

    fn next(&mut self) -> Option<Self::Item> {
        let record = (self.left > 0).then(|| self.record());
        if let Some(Err(_)) = record {
            // Nothing tells where the next one begins.
            self.left = 0;
        }
        record
    }
}

/// The tree file of a run that is not over yet.
#[derive(Debug)]
pub(crate) struct Partial {
    path: PathBuf,
    file: File,
    head: Vec<u8>,
    /// The commitments that it holds, by the number of their polynomial.
    done: Vec<Commitment>,
}

impl Partial {
    /// Opens what an earlier run may have left, or begins anew. Only what belongs to the fingerprint and
    /// is whole is kept, and of more than `count` polynomials nothing.
    pub(crate) fn open(path: &Path, fingerprint: &[u8; 32], count: usize) -> Result<Self, Fault> {
        let unwritable = |error: io::Error| unwritable(path, &error);
        match assay_files::open(path) {
            Err(error) if !error.is_missing() => return Err(Fault::usage(format!("{}: {error}", path.display()))),
            _ => {}
        }
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let file = file.map_err(unwritable)?;
        file.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => Fault::usage(format!(
                "{}: another run of assay is committing to this file: wait for it to end",
                path.display()
            )),
            TryLockError::Error(error) => unwritable(error),
        })?;
        let head = head(fingerprint);
        let length = file.metadata().map_err(unwritable)?.len();
        let mut partial = Self { path: path.to_owned(), file, head, done: vec![] };
        let kept = if length == 0 { 0 } else { partial.take_over(length, count) };
        partial.file.set_len(kept).map_err(unwritable)?;
        partial.file.seek(SeekFrom::Start(kept)).map_err(unwritable)?;
        if kept == 0 {
            let head = partial.head.clone();
            partial.write(&head)?;
        }
        Ok(partial)
    }

    /// Reads what there is, and gives the length of the part that is of use.
    fn take_over(&mut self, length: u64, count: usize) -> u64 {
        let ignored = |why: &str| tracing::warn!("{}: not used, {why}", self.path.display());
        let mut records = match Records::new(BufReader::new(&self.file), length) {
            Ok(records) if records.head == self.head => records,
            Ok(_) => {
                ignored("it is of another model, or of files that changed since");
                return 0;
            }
            Err(error) => {
                ignored(&error.to_string());
                return 0;
            }
        };
        let (mut done, mut kept) = (vec![], HEAD_LENGTH);
        while let Some(record) = records.next() {
            match record {
                Ok(Record { weights, exponents, .. }) => done.push(Commitment { weights, exponents }),
                Err(error) => {
                    tracing::warn!("{}: used up to polynomial {}, then {error}", self.path.display(), done.len());
                    break;
                }
            }
            kept = length - records.left;
        }
        if done.len() > count {
            ignored("it has more polynomials than the model");
            return 0;
        }
        self.done = done;
        kept
    }

    /// The commitment to the polynomial of that number, if it is done.
    pub(crate) fn commitment(&self, number: usize) -> Option<&Commitment> {
        self.done.get(number)
    }

    /// How many polynomials are done.
    pub(crate) fn done(&self) -> usize {
        self.done.len()
    }

    /// Adds the record of the next polynomial.
    pub(crate) fn add(&mut self, record: Record) -> Result<(), Fault> {
        let bytes = frame(&self.head, &record);
        self.write(&bytes)?;
        self.done.push(Commitment { weights: record.weights, exponents: record.exponents });
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        self.file.write_all(bytes).and_then(|()| self.file.sync_data()).map_err(|error| {
            let path = self.path.display();
            Fault::usage(format!(
                "{path}: cannot be written: {error}: make room and run this again, it goes on from here"
            ))
        })
    }

    /// Gives the file its final place, and its length.
    pub(crate) fn finish(self, path: &Path) -> Result<u64, Fault> {
        let length = self.file.metadata().map_err(|error| unwritable(path, &error))?.len();
        fs::rename(&self.path, path).map_err(|error| unwritable(path, &error))?;
        Ok(length)
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if self.done.is_empty() {
            // Nothing was done; that an empty file stays does no harm.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn unwritable(path: &Path, error: &io::Error) -> Fault {
    Fault::usage(format!("{}: cannot be written: {error}", path.display()))
}

/// The trees of a manifest's model, as a file states them.
#[derive(Clone, Debug)]
pub(crate) struct KnownTrees {
    records: Vec<Record>,
    commitments: Vec<WeightCommitment>,
}

impl KnownTrees {
    /// The trees of a file, if they are those of `manifest`.
    pub(crate) fn of_manifest(records: Vec<Record>, manifest: &Manifest) -> Option<Self> {
        let commitments = commitments(manifest);
        let belongs = records.iter().map(|record| record.weights).eq(commitments.iter().copied());
        belongs.then_some(Self { records, commitments })
    }

    /// The tree of the polynomial of that number with these matrices, if it is known.
    pub(crate) fn tree(&self, number: usize, matrices: &[[u8; 32]], code: &CodeParams) -> Option<WeightTree> {
        let record = self.records.get(number).filter(|record| record.matrices == matrices)?;
        record.tree(code, *self.commitments.get(number)?)
    }
}

/// The commitments to all polynomials: the layers, then the shards of lm_head.
pub(crate) fn commitments(manifest: &Manifest) -> Vec<WeightCommitment> {
    manifest.layers.iter().map(|layer| layer.weights).chain(manifest.head.shards.iter().copied()).collect()
}

#[cfg(test)]
mod tests {
    use assay_commitments::layout::{Layout, MatrixShape};

    use super::*;

    const FINGERPRINT: [u8; 32] = [7; 32];

    fn record(number: u8) -> Record {
        let layout = Layout::new(&[MatrixShape { inputs: 2, outputs: 2 }]).unwrap();
        let code = CodeParams::for_layout(&layout);
        let base = code.base();
        let rows = vec![E::default(); base.rows()];
        let tree = WeightTree::from_parts(&code, vec![[number; 32]; base.codeword_length()], rows).unwrap();
        Record::new(&tree, &[i16::from(number), -3], &[[1; 32], [number; 32]])
    }

    /// A file of three polynomials in a folder.
    fn partial() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.partial");
        let mut partial = Partial::open(&path, &FINGERPRINT, 4).unwrap();
        (0..3).for_each(|number| partial.add(record(number)).unwrap());
        (folder, path)
    }

    #[test]
    fn what_was_written_is_taken_up_and_becomes_a_tree_file() {
        let (folder, path) = partial();
        let mut partial = Partial::open(&path, &FINGERPRINT, 4).unwrap();
        assert_eq!(partial.done(), 3);
        assert_eq!(partial.commitment(2).map(|known| known.weights), Some(record(2).weights));
        assert_eq!(partial.commitment(3), None);
        partial.add(record(3)).unwrap();
        let tree = folder.path().join("m.tree");
        partial.finish(&tree).unwrap();
        assert!(!path.exists());
        let records: Vec<Record> = Records::open(&tree).unwrap().collect::<Result<_, _>>().unwrap();
        assert_eq!(records, (0..4).map(record).collect::<Vec<_>>());
    }

    #[test]
    fn a_file_cut_or_damaged_anywhere_gives_only_what_is_whole() {
        let (_folder, path) = partial();
        let whole = fs::read(&path).unwrap();
        let ends: Vec<usize> = (0..=3)
            .map(|count| 42 + (0..count).map(|n| frame(&head(&FINGERPRINT), &record(n)).len()).sum::<usize>())
            .collect();
        assert_eq!(ends[3], whole.len());
        for place in 0..whole.len() {
            let expected = ends.iter().filter(|end| **end <= place).count().saturating_sub(1);
            fs::write(&path, &whole[..place]).unwrap();
            assert_eq!(Partial::open(&path, &FINGERPRINT, 4).unwrap().done(), expected, "cut at {place}");
            let mut damaged = whole.clone();
            damaged[place] ^= 1;
            fs::write(&path, &damaged).unwrap();
            assert_eq!(Partial::open(&path, &FINGERPRINT, 4).unwrap().done(), expected, "damaged at {place}");
        }
    }

    #[test]
    fn a_file_of_other_weights_or_in_use_is_not_taken() {
        let (_folder, path) = partial();
        let held = Partial::open(&path, &FINGERPRINT, 4).unwrap();
        let error = Partial::open(&path, &FINGERPRINT, 4).unwrap_err();
        assert!(error.message.contains("another run of assay"), "{error}");
        drop(held);
        assert_eq!(Partial::open(&path, &FINGERPRINT, 2).unwrap().done(), 0, "more polynomials than there are");
        let (_folder, path) = partial();
        assert_eq!(Partial::open(&path, &[8; 32], 4).unwrap().done(), 0);
        assert!(!path.exists(), "nothing is left of it");
    }
}
