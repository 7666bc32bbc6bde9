//! What an encoding is made of, as its decoder found it: a tree of parts, down to fields and elements.
//!
//! Nobody writes such a tree down. It falls out of decoding ([`crate::codec::structure`]), so that whatever
//! walks it, a tamperer for one, meets every field that there is, also those that were added later.

use std::ops::Range;

/// What a part is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A number, an element, a digest, or bytes that nothing divides: a leaf.
    Bytes,
    /// How many there are of something that comes later: a leaf of four bytes.
    Length,
    /// A value of a type that has several parts.
    Value(&'static str),
    /// Any number of parts.
    List,
    /// One of a list that has several parts.
    Item,
    /// A byte that says whether a value follows, and the value if it does.
    Option,
}

/// A part of an encoding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// What it is.
    pub kind: Kind,
    /// Where it lies.
    pub range: Range<usize>,
    /// What it is made of, in order and without gaps; nothing for a leaf.
    pub parts: Vec<Part>,
}

impl Part {
    /// Whether it is a leaf. An empty list is none.
    pub const fn is_leaf(&self) -> bool {
        matches!(self.kind, Kind::Bytes | Kind::Length)
    }

    /// It and all parts below it, from the first byte on, the whole before its parts.
    pub fn walk(&self) -> impl Iterator<Item = &Self> {
        let mut open = vec![self];
        std::iter::from_fn(move || {
            let part = open.pop()?;
            open.extend(part.parts.iter().rev());
            Some(part)
        })
    }
}

/// Notes what a reader takes.
#[derive(Debug, Default)]
pub(crate) struct Recorder {
    /// How far it has read.
    at: usize,
    /// The parts that are being read, each within the one before.
    open: Vec<Part>,
    whole: Option<Part>,
}

impl Recorder {
    pub(crate) fn open(&mut self, kind: Kind) {
        self.open.push(Part { kind, range: self.at..self.at, parts: vec![] });
    }

    pub(crate) fn close(&mut self) {
        let Some(mut part) = self.open.pop() else { return };
        part.range.end = self.at;
        // A value of one part is that part.
        if part.parts.len() == 1 && matches!(part.kind, Kind::Value(_) | Kind::Item) {
            part = part.parts.remove(0);
        }
        self.add(part);
    }

    pub(crate) fn leaf(&mut self, kind: Kind, length: usize) {
        let start = self.at;
        self.at = start.saturating_add(length);
        self.add(Part { kind, range: start..self.at, parts: vec![] });
    }

    fn add(&mut self, part: Part) {
        match self.open.last_mut() {
            Some(open) => open.parts.push(part),
            None => self.whole = Some(part),
        }
    }

    /// The whole, once it is closed.
    pub(crate) fn into_whole(self) -> Option<Part> {
        self.whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{Malformed, Reader, Writer, structure};

    #[test]
    fn the_parts_are_those_that_the_decoder_takes() {
        let mut out = Writer::new();
        out.u16(7);
        out.list(&[[1_u8; 2], [2; 2], [3; 2]]);
        out.value(&Some(5_u32));
        out.value(&None::<u32>);
        out.bytes(b"text");
        let bytes = out.finish();
        let read = |from: &mut Reader<'_>| -> Result<(), Malformed> {
            from.u16()?;
            from.list::<[u8; 2]>(3)?;
            from.value::<Option<u32>>()?;
            from.value::<Option<u32>>()?;
            from.bytes(4)?;
            Ok(())
        };
        let whole = structure(&bytes, read).unwrap();
        let found: Vec<(Kind, Range<usize>)> =
            whole.walk().skip(1).map(|part| (part.kind, part.range.clone())).collect();
        let expected = [
            (Kind::Bytes, 0..2),
            (Kind::Length, 2..6),
            (Kind::List, 6..12),
            (Kind::Bytes, 6..8),
            (Kind::Bytes, 8..10),
            (Kind::Bytes, 10..12),
            (Kind::Option, 12..17),
            (Kind::Bytes, 12..13),
            (Kind::Bytes, 13..17),
            (Kind::Option, 17..18),
            (Kind::Bytes, 17..18),
            (Kind::Length, 18..22),
            (Kind::Bytes, 22..26),
        ];
        assert_eq!(found, expected);
        assert_eq!(structure(&bytes, Reader::u16), Err(Malformed::Trailing));
    }
}
