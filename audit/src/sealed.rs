//! Files that begin with what they are and end with a checksum, so that damage on a disk is told apart
//! from anybody's failure.

use assay_commitments::codec::{self, Malformed, Reader, Writer};
use assay_commitments::structure::Part;

use crate::transcript_file::FileError;

/// A kind of file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kind {
    /// Its first bytes.
    pub(crate) magic: [u8; 8],
    /// The version that is written, and the only one that is read.
    pub(crate) version: u16,
    /// The domain of its checksum.
    pub(crate) checksum: &'static str,
}

/// The bytes of a file around what `write` writes.
pub(crate) fn seal(kind: &Kind, write: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let mut out = Writer::new();
    out.raw(&kind.magic);
    out.u16(kind.version);
    write(&mut out);
    let mut bytes = out.finish();
    let checksum = blake3::derive_key(kind.checksum, &bytes);
    bytes.extend_from_slice(&checksum);
    bytes
}

/// What was written into a file, if it is one of this kind and whole.
pub(crate) fn open<'a>(kind: &Kind, bytes: &'a [u8]) -> Result<Reader<'a>, FileError> {
    let (magic, rest) = bytes.split_first_chunk::<8>().ok_or(FileError::Foreign)?;
    if *magic != kind.magic {
        return Err(FileError::Foreign);
    }
    let (version, _) = rest.split_first_chunk::<2>().ok_or(FileError::Checksum)?;
    let version = u16::from_le_bytes(*version);
    if version != kind.version {
        return Err(FileError::Version { found: version, known: kind.version });
    }
    let (body, checksum) = bytes.split_last_chunk::<32>().ok_or(FileError::Checksum)?;
    if blake3::derive_key(kind.checksum, body) != *checksum {
        return Err(FileError::Checksum);
    }
    let mut from = Reader::new(body);
    skip_header(&mut from)?;
    Ok(from)
}

fn skip_header(from: &mut Reader<'_>) -> Result<(), Malformed> {
    let _header = (from.array::<8>()?, from.u16()?);
    Ok(())
}

/// What the bytes of a file are made of, its checksum apart; `read` takes what was written into it.
pub(crate) fn structure<'a, T>(
    bytes: &'a [u8],
    read: impl FnOnce(&mut Reader<'a>) -> Result<T, Malformed>,
) -> Result<Part, FileError> {
    let (body, _) = bytes.split_last_chunk::<32>().ok_or(FileError::Checksum)?;
    Ok(codec::structure(body, |from| {
        skip_header(from)?;
        read(from)
    })?)
}
