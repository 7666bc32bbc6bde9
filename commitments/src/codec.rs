//! The canonical encoding: one byte string per value.
//!
//! Integers are little-endian, lengths are `u32` and stand before what they count, options are one
//! byte. A [`Reader`] is told the largest length it may find before it allocates anything, and
//! [`decode`] refuses trailing bytes, so that `encode(decode(bytes)) == bytes` for every accepted
//! byte string.
//!
//! What a message is made of is said by its decoder and nowhere else: [`structure`] runs it and tells which
//! bytes it took for what.

use thiserror::Error;

use crate::structure::{Kind, Part, Recorder};

/// Why bytes are no canonical encoding. Carries no text: the place is known to the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Malformed {
    /// The bytes end before the value does.
    #[error("the bytes end too early")]
    Truncated,
    /// A length is above the bound that the caller gave.
    #[error("a length is above its bound")]
    TooLong,
    /// A value is outside its range or has a second spelling.
    #[error("a value is not canonical")]
    NotCanonical,
    /// Bytes are left over.
    #[error("bytes are left over")]
    Trailing,
}

/// Appends values in canonical form.
#[derive(Clone, Debug, Default)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// An empty writer.
    pub fn new() -> Self {
        Self::default()
    }

    /// The bytes written so far.
    pub fn finish(self) -> Vec<u8> {
        self.bytes
    }

    /// Writes a byte.
    pub fn u8(&mut self, value: u8) {
        self.bytes.push(value);
    }

    /// Writes a `u16`.
    pub fn u16(&mut self, value: u16) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    /// Writes a `u32`.
    pub fn u32(&mut self, value: u32) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    /// Writes a `u64`.
    pub fn u64(&mut self, value: u64) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    /// Writes bytes whose number the reader knows.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Writes a length. Everything encoded here is far below 4 GiB; a longer value is our own bug.
    pub fn length(&mut self, length: usize) {
        let length = u32::try_from(length).expect("an encoded value has fewer than 2^32 elements");
        self.u32(length);
    }

    /// Writes a length and that many bytes.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.length(bytes.len());
        self.raw(bytes);
    }

    /// Writes a value.
    pub fn value<T: Canonical>(&mut self, value: &T) {
        value.write(self);
    }

    /// Writes a length and that many values.
    pub fn list<T: Canonical>(&mut self, values: &[T]) {
        self.length(values.len());
        for value in values {
            value.write(self);
        }
    }
}

/// Takes values from canonical bytes, each length against a bound.
#[derive(Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
    /// Of what is taken, where somebody asked for it.
    recorder: Option<Box<Recorder>>,
}

impl<'a> Reader<'a> {
    /// Reads from the start of `bytes`.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, recorder: None }
    }

    /// How many bytes are left.
    pub const fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// Takes `count` bytes.
    ///
    /// # Errors
    /// [`Malformed::Truncated`] when fewer are left.
    pub fn raw(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(Malformed::Truncated)?;
        self.rest = rest;
        if let Some(recorder) = &mut self.recorder {
            recorder.leaf(Kind::Bytes, count);
        }
        Ok(taken)
    }

    /// Takes the bytes of `count` elements of `size` bytes each.
    ///
    /// # Errors
    /// [`Malformed::Truncated`] when fewer are left.
    pub fn elements(&mut self, count: usize, size: usize) -> Result<&'a [u8], Malformed> {
        let length = count.checked_mul(size).ok_or(Malformed::TooLong)?;
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(Malformed::Truncated)?;
        self.rest = rest;
        if let Some(recorder) = &mut self.recorder {
            recorder.open(Kind::List);
            (0..count).for_each(|_| recorder.leaf(Kind::Bytes, size));
            recorder.close();
        }
        Ok(taken)
    }

    /// Takes `N` bytes.
    ///
    /// # Errors
    /// [`Malformed::Truncated`] when fewer are left.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        self.leaf(Kind::Bytes)
    }

    fn leaf<const N: usize>(&mut self, kind: Kind) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(Malformed::Truncated)?;
        self.rest = rest;
        if let Some(recorder) = &mut self.recorder {
            recorder.leaf(kind, N);
        }
        Ok(*taken)
    }

    /// Takes what `read` takes; it is one part of what is being read.
    fn part<T>(&mut self, kind: Kind, read: impl FnOnce(&mut Self) -> Result<T, Malformed>) -> Result<T, Malformed> {
        if let Some(recorder) = &mut self.recorder {
            recorder.open(kind);
        }
        let value = read(self)?;
        if let Some(recorder) = &mut self.recorder {
            recorder.close();
        }
        Ok(value)
    }

    /// Takes a byte.
    ///
    /// # Errors
    /// [`Malformed::Truncated`] at the end.
    pub fn u8(&mut self) -> Result<u8, Malformed> {
        self.array().map(u8::from_le_bytes)
    }

    /// Takes a `u16`.
    ///
    /// # Errors
    /// [`Malformed::Truncated`] at the end.
    pub fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_le_bytes)
    }

    /// Takes a `u32`.
    ///
    /// # Errors
    /// [`Malformed::Truncated`] at the end.
    pub fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_le_bytes)
    }

    /// Takes a `u64`.
    ///
    /// # Errors
    /// [`Malformed::Truncated`] at the end.
    pub fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_le_bytes)
    }

    /// Takes a length of at most `bound`.
    ///
    /// # Errors
    /// [`Malformed::TooLong`] above the bound.
    pub fn length(&mut self, bound: usize) -> Result<usize, Malformed> {
        let length = u32::from_le_bytes(self.leaf(Kind::Length)?);
        let length = usize::try_from(length).map_err(|_| Malformed::TooLong)?;
        if length > bound { Err(Malformed::TooLong) } else { Ok(length) }
    }

    /// Takes a length of at most `bound` and that many bytes.
    ///
    /// # Errors
    /// [`Malformed::TooLong`] above the bound, [`Malformed::Truncated`] at the end.
    pub fn bytes(&mut self, bound: usize) -> Result<&'a [u8], Malformed> {
        let length = self.length(bound)?;
        self.raw(length)
    }

    /// Takes a length of at most `bound` bytes and that much UTF-8.
    ///
    /// # Errors
    /// As [`Reader::bytes`]; [`Malformed::NotCanonical`] for other bytes than UTF-8.
    pub fn text(&mut self, bound: usize) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.bytes(bound)?).map_err(|_| Malformed::NotCanonical)
    }

    /// Takes a value.
    ///
    /// # Errors
    /// As the value's own decoder.
    pub fn value<T: Canonical>(&mut self) -> Result<T, Malformed> {
        self.nested(T::read)
    }

    /// Takes a value whose decoder needs to know more than the bytes.
    ///
    /// # Errors
    /// As `read`.
    pub fn nested<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T, Malformed>) -> Result<T, Malformed> {
        self.part(Kind::Value(std::any::type_name::<T>()), read)
    }

    /// Takes a value for each item, whose number the caller knows.
    ///
    /// # Errors
    /// As `read`.
    pub fn each<I, T, C: FromIterator<T>>(
        &mut self,
        items: impl IntoIterator<Item = I>,
        mut read: impl FnMut(&mut Self, I) -> Result<T, Malformed>,
    ) -> Result<C, Malformed> {
        self.part(Kind::List, |from| {
            items.into_iter().map(|item| from.part(Kind::Item, |from| read(from, item))).collect()
        })
    }

    /// Takes what `read` takes: any number of values, each by [`Self::within`] or [`Self::nested`].
    ///
    /// # Errors
    /// As `read`.
    pub fn series<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T, Malformed>) -> Result<T, Malformed> {
        self.part(Kind::List, read)
    }

    /// Takes `length` bytes and returns them with the value that they are, to the last.
    ///
    /// # Errors
    /// [`Malformed::Truncated`] when fewer are left, [`Malformed::Trailing`] when `read` leaves some of them,
    /// or as `read`.
    pub fn within<T>(
        &mut self,
        length: usize,
        read: impl FnOnce(&mut Self) -> Result<T, Malformed>,
    ) -> Result<(T, &'a [u8]), Malformed> {
        let (taken, after) = self.rest.split_at_checked(length).ok_or(Malformed::Truncated)?;
        self.rest = taken;
        let value = self.nested(read)?;
        if !self.rest.is_empty() {
            return Err(Malformed::Trailing);
        }
        self.rest = after;
        Ok((value, taken))
    }

    /// Takes a byte that says whether there is a value, and the value.
    ///
    /// # Errors
    /// [`Malformed::NotCanonical`] for another byte than 0 and 1, or as `read`.
    pub fn option<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T, Malformed>) -> Result<Option<T>, Malformed> {
        self.part(Kind::Option, |from| if bool::read(from)? { read(from).map(Some) } else { Ok(None) })
    }

    /// Takes a length of at most `bound` and that many values. Memory grows with the bytes that are
    /// really there, never with the stated length alone.
    ///
    /// # Errors
    /// [`Malformed::TooLong`] above the bound, or as the values' own decoder.
    pub fn list<T: Canonical>(&mut self, bound: usize) -> Result<Vec<T>, Malformed> {
        let length = self.length(bound)?;
        self.each(0..length, |from, _| from.value())
    }

    /// Ends reading.
    ///
    /// # Errors
    /// [`Malformed::Trailing`] when bytes are left.
    pub fn finish(self) -> Result<(), Malformed> {
        if self.rest.is_empty() { Ok(()) } else { Err(Malformed::Trailing) }
    }
}

/// A value with exactly one encoding.
pub trait Canonical: Sized {
    /// Appends the encoding.
    fn write(&self, out: &mut Writer);

    /// Takes the value from its encoding.
    ///
    /// # Errors
    /// [`Malformed`] for anything that [`Canonical::write`] would not have written.
    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed>;
}

/// The encoding of a value.
pub fn encode<T: Canonical>(value: &T) -> Vec<u8> {
    let mut out = Writer::new();
    value.write(&mut out);
    out.finish()
}

/// The value that `bytes` encode, all of them.
///
/// # Errors
/// [`Malformed`], also for trailing bytes.
pub fn decode<T: Canonical>(bytes: &[u8]) -> Result<T, Malformed> {
    let mut from = Reader::new(bytes);
    let value = T::read(&mut from)?;
    from.finish()?;
    Ok(value)
}

/// What `bytes` are made of, by what `read` takes of them.
///
/// # Errors
/// As `read`; also for trailing bytes.
pub fn structure<'a, T>(
    bytes: &'a [u8],
    read: impl FnOnce(&mut Reader<'a>) -> Result<T, Malformed>,
) -> Result<Part, Malformed> {
    let mut from = Reader { rest: bytes, recorder: Some(Box::default()) };
    let _ = from.nested(read)?;
    let recorder = from.recorder.take();
    from.finish()?;
    recorder.and_then(|recorder| recorder.into_whole()).ok_or(Malformed::Truncated)
}

impl Canonical for u32 {
    fn write(&self, out: &mut Writer) {
        out.u32(*self);
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        from.u32()
    }
}

impl<const N: usize> Canonical for [u8; N] {
    fn write(&self, out: &mut Writer) {
        out.raw(self);
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        from.array()
    }
}

impl Canonical for bool {
    fn write(&self, out: &mut Writer) {
        out.u8(u8::from(*self));
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        match from.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed::NotCanonical),
        }
    }
}

impl<T: Canonical> Canonical for Option<T> {
    fn write(&self, out: &mut Writer) {
        out.value(&self.is_some());
        if let Some(value) = self {
            value.write(out);
        }
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        from.option(Reader::value)
    }
}
