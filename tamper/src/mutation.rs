//! Changes to a message, from its structure.

use std::ops::Range;

use assay_commitments::structure::{Kind, Part};
use assay_sumcheck::field::P;

use crate::Random;

/// A change: stretches of a message and what stands there instead, in order and apart from each other.
#[derive(Clone, PartialEq, Eq)]
pub struct Mutation {
    /// What was done.
    pub rule: &'static str,
    /// The stretches.
    edits: Vec<(Range<usize>, Vec<u8>)>,
}

impl std::fmt::Debug for Mutation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.rule)?;
        for (at, with) in &self.edits {
            write!(f, " {at:?} to {} bytes {:02x?}", with.len(), &with[..with.len().min(16)])?;
        }
        Ok(())
    }
}

impl Mutation {
    fn new(rule: &'static str, at: Range<usize>, with: impl Into<Vec<u8>>) -> Self {
        Self { rule, edits: vec![(at, with.into())] }
    }

    /// Another value for a byte.
    pub fn byte(place: usize, value: u8) -> Self {
        Self::new("byte", place..place + 1, [value])
    }

    /// Both changes, unless they touch each other.
    #[must_use]
    pub fn and(mut self, other: Self) -> Option<Self> {
        self.edits.extend(other.edits);
        self.edits.sort_by_key(|(at, _)| (at.start, at.end));
        let apart = self.edits.windows(2).all(|pair| pair[0].0.end <= pair[1].0.start);
        apart.then_some(Self { rule: "several", ..self })
    }

    /// The start of the first stretch that becomes another one; 0 if none does.
    pub fn start(&self, bytes: &[u8]) -> usize {
        self.edits.iter().find(|(at, with)| bytes[at.clone()] != **with).map_or(0, |(at, _)| at.start)
    }

    /// The changed message; nothing if it says the same.
    pub fn apply(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        let mut changed = Vec::with_capacity(bytes.len() + 64);
        let mut done = 0;
        for (at, with) in &self.edits {
            changed.extend_from_slice(&bytes[done..at.start]);
            changed.extend_from_slice(with);
            done = at.end;
        }
        changed.extend_from_slice(&bytes[done..]);
        (changed != bytes).then_some(changed)
    }
}

/// A part whose number of bytes stands elsewhere in the message.
#[derive(Clone, Debug)]
struct Sized {
    part: Range<usize>,
    size: Range<usize>,
}

/// A part of a message and what is around it.
#[derive(Clone, Debug)]
struct Place<'a> {
    part: &'a Part,
    /// What comes after it in the same whole.
    later: &'a [Part],
    /// The part in the same place of another message.
    donor: Option<&'a Part>,
}

/// All changes to a message.
#[derive(Clone, Debug)]
pub struct Tamperer<'a> {
    bytes: &'a [u8],
    /// Another valid message of the kind.
    donor: &'a [u8],
    places: Vec<Place<'a>>,
    sized: Vec<Sized>,
}

impl<'a> Tamperer<'a> {
    /// Of a message and its structure, with another valid message from which parts are taken; the message
    /// itself if there is none.
    pub fn new((bytes, whole): (&'a [u8], &'a Part), (donor, of_donor): (&'a [u8], &'a Part)) -> Self {
        let mut places = vec![];
        collect(&mut places, Place { part: whole, later: &[], donor: Some(of_donor) });
        let sized = whole.walk().flat_map(|part| sized(bytes, part)).collect();
        Self { bytes, donor, places, sized }
    }

    /// The number of parts.
    pub fn parts(&self) -> usize {
        self.places.len()
    }

    /// The changes to one part; those to its size or its place also with the numbers that tell sizes made right.
    pub fn of_part(&self, number: usize) -> Vec<Mutation> {
        let mut changes = self.plain(&self.places[number]);
        let resized: Vec<Mutation> = changes.iter().filter_map(|change| self.resized(change)).collect();
        changes.extend(resized);
        changes.extend(self.exchanged(self.places[number].part));
        changes
    }

    /// A part and the next, each in the other's place, and so their sizes.
    fn exchanged(&self, part: &Part) -> Option<Mutation> {
        let one = self.sized.iter().position(|sized| sized.part == part.range)?;
        let [one, next] = self.sized.get(one..one + 2)?.as_array()?;
        let is_next = one.part.end == next.part.start && one.size.end == next.size.start;
        let swapped = |one: &Range<usize>, next: &Range<usize>| {
            let both = [&self.bytes[next.clone()], &self.bytes[one.clone()]].concat();
            Mutation::new("reorder", one.start..next.end, both)
        };
        let sizes = is_next.then(|| swapped(&one.size, &next.size))?;
        Some(Mutation { rule: "reorder", ..sizes.and(swapped(&one.part, &next.part))? })
    }

    fn resized(&self, change: &Mutation) -> Option<Mutation> {
        let [from, to] = [change.edits.first()?.0.start, change.edits.last()?.0.end];
        let Sized { part, size } = self.sized.iter().find(|sized| sized.part.start <= from && to <= sized.part.end)?;
        let change_of = |(at, with): &(Range<usize>, Vec<u8>)| (with.len(), at.len());
        let (more, less) = change.edits.iter().map(change_of).fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
        let length = u32::try_from((part.len() + more).checked_sub(less)?).ok()?;
        let mended = Mutation::new(change.rule, size.clone(), length.to_le_bytes()).and(change.clone())?;
        (more != less).then_some(Mutation { rule: change.rule, ..mended })
    }

    fn plain(&self, place: &Place<'_>) -> Vec<Mutation> {
        let at = place.part.range.clone();
        let own = &self.bytes[at.clone()];
        let mut changes = vec![
            Mutation::new("drop", at.clone(), []),
            Mutation::new("duplicate", at.end..at.end, own),
            Mutation::new("extend", at.end..at.end, [0]),
        ];
        if let Some(next) = place.later.first() {
            let both = [&self.bytes[next.range.clone()], own].concat();
            changes.push(Mutation::new("reorder", at.start..next.range.end, both));
        }
        // Not the whole: the other message is as good as this one.
        if let Some(donor) = place.donor.filter(|_| place.part.range != (0..self.bytes.len())) {
            changes.push(Mutation::new("replace", at.clone(), &self.donor[donor.range.clone()]));
        }
        match place.part.kind {
            Kind::Bytes => values(&at, own, &mut changes),
            Kind::Length => {
                values(&at, own, &mut changes);
                self.counted(place, &mut changes);
            }
            Kind::Option => toggled(&at, own, &mut changes),
            Kind::List | Kind::Item | Kind::Value(_) => {}
        }
        changes
    }

    /// One of all changes by its number. Even numbers give every byte every other value, each once before
    /// any comes again; odd ones draw a part and one of its changes, or several at once.
    pub fn sample(&self, number: u64) -> Mutation {
        /// Any prime that divides no number of changes.
        const STRIDE: u64 = 2_147_483_647;
        let mut random = Random::new(number);
        if number.is_multiple_of(2) {
            let all = u64::try_from(self.bytes.len()).unwrap() * 255;
            let which = (number / 2 % all) * STRIDE % all;
            let (place, step) = (usize::try_from(which / 255).unwrap(), u8::try_from(which % 255).unwrap());
            return Mutation::byte(place, self.bytes[place].wrapping_add(step + 1));
        }
        let drawn = |random: &mut Random| {
            let mut changes = self.of_part(random.below(self.parts()));
            changes.swap_remove(random.below(changes.len()))
        };
        let mut mutation = drawn(&mut random);
        for _ in 0..random.below(3) {
            if let Some(several) = mutation.clone().and(drawn(&mut random)) {
                mutation = several;
            }
        }
        mutation
    }

    /// Elements less and elements more, with the count made right.
    fn counted(&self, place: &Place<'_>, changes: &mut Vec<Mutation>) {
        let at = place.part.range.clone();
        let count = u32::from_le_bytes(self.bytes[at.clone()].try_into().unwrap());
        let number = usize::try_from(count).unwrap();
        let with_count = |rule, count: u32| Mutation::new(rule, at.clone(), count.to_le_bytes());
        if number == 0 {
            for size in [1, 2, 4, 8, 24, 32, 36] {
                let element = Mutation::new("first element", at.end..at.end, vec![0; size]);
                changes.extend(with_count("first element", 1).and(element));
            }
            return;
        }
        let lists = counted_lists(place.later, number);
        // Of very many, the ends and the middle.
        let chosen = if number <= 1 << 10 { (0..number).collect() } else { vec![0, number / 2, number - 1] };
        for element in chosen {
            let places = || lists.iter().map(|list| list.get(element));
            let fewer = places()
                .map(|at| Mutation::new("one less", at, []))
                .try_fold(with_count("one less", count - 1), Mutation::and);
            let more = places()
                .map(|at| Mutation::new("one more", at.end..at.end, &self.bytes[at]))
                .try_fold(with_count("one more", count.saturating_add(1)), Mutation::and);
            changes.extend([fewer, more].into_iter().flatten());
        }
        let none = lists
            .iter()
            .map(|list| Mutation::new("none", list.get(0).start..list.get(number - 1).end, []))
            .try_fold(with_count("none", 0), Mutation::and);
        changes.extend(none);
    }
}

fn collect<'a>(places: &mut Vec<Place<'a>>, place: Place<'a>) {
    let Place { part, donor, .. } = place;
    places.push(place);
    for (number, inner) in part.parts.iter().enumerate() {
        let donor = donor.and_then(|donor| donor.parts.get(number)).filter(|donor| alike(donor.kind, inner.kind));
        collect(places, Place { part: inner, later: &part.parts[number + 1..], donor });
    }
}

/// The parts below this one of which a list before them tells how long each is.
fn sized(bytes: &[u8], part: &Part) -> Vec<Sized> {
    let pairs = part.parts.windows(2).filter(|pair| pair.iter().all(|part| part.kind == Kind::List));
    let told = pairs.filter(|pair| pair[0].parts.len() == pair[1].parts.len()).flat_map(|pair| {
        let sized = |(size, part): (&Part, &Part)| Sized { part: part.range.clone(), size: size.range.clone() };
        pair[0].parts.iter().zip(&pair[1].parts).map(sized)
    });
    let told: Vec<Sized> = told.collect();
    let holds = |sized: &Sized| {
        let size: Result<[u8; 4], _> = bytes[sized.size.clone()].try_into();
        size.is_ok_and(|size| usize::try_from(u32::from_le_bytes(size)) == Ok(sized.part.len()))
    };
    if told.iter().all(holds) { told } else { vec![] }
}

fn alike(one: Kind, other: Kind) -> bool {
    std::mem::discriminant(&one) == std::mem::discriminant(&other)
}

/// Elements that a length counts.
enum Counted<'a> {
    Parts(&'a [Part]),
    Bytes(Range<usize>),
}

impl Counted<'_> {
    fn get(&self, element: usize) -> Range<usize> {
        match self {
            Self::Parts(parts) => parts[element].range.clone(),
            Self::Bytes(range) => range.start + element..range.start + element + 1,
        }
    }
}

/// What a length counts among the parts after it: bytes, or all lists of that length up to the next one.
fn counted_lists(later: &[Part], number: usize) -> Vec<Counted<'_>> {
    fn lists<'a>(part: &'a Part, number: usize, found: &mut Vec<Counted<'a>>) {
        if part.kind == Kind::List && part.parts.len() == number {
            found.push(Counted::Parts(&part.parts));
        } else {
            part.parts.iter().for_each(|part| lists(part, number, found));
        }
    }
    match later.first() {
        Some(part) if part.kind == Kind::Bytes && part.range.len() == number => {
            vec![Counted::Bytes(part.range.clone())]
        }
        _ => {
            let mut found = vec![];
            later.iter().take_while(|part| part.kind != Kind::Length).for_each(|part| lists(part, number, &mut found));
            found
        }
    }
}

/// Other values of a leaf.
fn values(at: &Range<usize>, own: &[u8], changes: &mut Vec<Mutation>) {
    changes.extend(at.clone().zip(own).map(|(place, byte)| Mutation::byte(place, byte ^ 1 << (place % 8))));
    changes.push(Mutation::new("zero", at.clone(), vec![0; own.len()]));
    changes.push(Mutation::new("ones", at.clone(), vec![0xff; own.len()]));
    // As one number if it is as short as one, and as the words of an element of a field.
    for start in (0..own.len()).step_by(8).take(4) {
        let word = start..own.len().min(start + 8);
        let mut wide = [0; 8];
        wide[..word.len()].copy_from_slice(&own[word.clone()]);
        let value = u64::from_le_bytes(wide);
        let mut others =
            vec![("plus one", value.wrapping_add(1)), ("minus one", value.wrapping_sub(1)), ("half", value / 2)];
        if word.len() == 8 {
            let spelling = value.checked_add(P).unwrap_or(P);
            others.extend([("plus p", spelling), ("negated", P.wrapping_sub(value)), ("p", P)]);
        }
        for (rule, other) in others {
            let place = at.start + word.start..at.start + word.end;
            changes.push(Mutation::new(rule, place, &other.to_le_bytes()[..word.len()]));
        }
    }
}

/// A value that is there goes, and one that is not comes.
fn toggled(at: &Range<usize>, own: &[u8], changes: &mut Vec<Mutation>) {
    if own.first() == Some(&0) {
        for size in [1, 2, 4, 8, 32] {
            changes.push(Mutation::new("some", at.clone(), [vec![1], vec![0; size]].concat()));
        }
    } else {
        changes.push(Mutation::new("none", at.clone(), [0]));
    }
}

#[cfg(test)]
mod tests {
    use assay_commitments::codec::{Malformed, Reader, Writer, structure};

    use super::*;

    fn message(parts: &[&[u8]]) -> Vec<u8> {
        let mut out = Writer::new();
        out.length(parts.len());
        parts.iter().for_each(|part| out.length(part.len()));
        parts.iter().for_each(|part| out.raw(part));
        out.finish()
    }

    fn read(from: &mut Reader<'_>) -> Result<(), Malformed> {
        let lengths: Vec<u32> = from.list(4)?;
        from.series(|from| {
            let mut part = |length: u32| {
                let length = usize::try_from(length).unwrap();
                from.within(length, |from| from.elements(length, 1).map(|_| ())).map(|_| ())
            };
            lengths.into_iter().try_for_each(&mut part)
        })
    }

    #[test]
    fn changes_reach_what_is_behind_a_table_of_lengths() {
        let bytes = message(&[b"one", b"two", b"three"]);
        let whole = structure(&bytes, read).unwrap();
        let tamperer = Tamperer::new((&bytes, &whole), (&bytes, &whole));
        let changed: Vec<Vec<u8>> = (0..tamperer.parts())
            .flat_map(|part| tamperer.of_part(part))
            .filter_map(|mutation| mutation.apply(&bytes))
            .collect();
        // An element less and one more, a part less and twice, two parts exchanged.
        let expected: [&[&[u8]]; 6] = [
            &[b"one", b"to", b"three"],
            &[b"one", b"two", b"threee"],
            &[b"one", b"three"],
            &[b"one", b"two", b"two", b"three"],
            &[b"two", b"one", b"three"],
            &[b"one", b"three", b"two"],
        ];
        for expected in expected {
            assert!(changed.contains(&message(expected)), "{expected:?}");
        }
        // And each of them with a table that does not fit.
        assert!(changed.contains(&[&bytes[..16], b"netwothree"].concat()));
    }
}
