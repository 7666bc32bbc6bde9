//! Encodings that are not those of the opening.

use super::*;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Element,
    Hash,
    Nonce,
    Length,
}

impl Field {
    const fn size(self) -> usize {
        match self {
            Self::Element | Self::Nonce => 8,
            Self::Hash => 32,
            Self::Length => 4,
        }
    }
}

/// The fields of an encoded opening with their offsets.
fn fields(forger: &Forger, opening: &Opening) -> Vec<(Field, usize)> {
    let mut kinds = vec![Field::Element; 6 * opening.rounds.len()];
    for _ in &opening.folds {
        kinds.push(Field::Hash);
        kinds.extend([Field::Element; 3]);
    }
    kinds.extend(vec![Field::Element; 3 * opening.last.len()]);
    let base = (opening.base.columns.len(), opening.base.columns[0].len(), 1, &opening.base.hashes, opening.base.nonce);
    let levels = opening.levels.iter().map(|level| (1, level.columns[0].len(), 3, &level.hashes, level.nonce));
    for ((trees, positions, words, hashes, nonce), code) in
        std::iter::once(base).chain(levels).zip(forger.params.codes())
    {
        kinds.extend(nonce.map(|_| Field::Nonce));
        kinds.push(Field::Length);
        kinds.extend(vec![Field::Element; trees * positions * words * code.rows()]);
        for hashes in hashes {
            kinds.push(Field::Length);
            kinds.extend(vec![Field::Hash; hashes.len()]);
        }
    }
    let offsets = kinds.iter().scan(0, |offset, kind| {
        let start = *offset;
        *offset += kind.size();
        Some(start)
    });
    kinds.iter().copied().zip(offsets).collect()
}

fn small() -> Case {
    Case::new(&[(4, 4), (4, 3)], 3, &[vec![(0, 0), (1, 0)], vec![(2, 1)]], 5, |layout| {
        code(layout, &[(1, 1, 3, 6), (1, 1, 3, 0), (1, 2, 2, 5)])
    })
}

/// Whether bytes decode, and what they decode to is accepted.
fn accepted(case: &Case, bytes: &[u8]) -> bool {
    case.decode(bytes).is_ok_and(|opening| case.verify(&opening).is_ok())
}

#[test]
fn no_element_has_a_second_spelling() {
    for case in [small(), of_levels(&[(2, 1, 8, 4), (1, 2, 7, 0), (2, 3, 6, 2)])] {
        let opening = case.open();
        let bytes = case.encoded(&opening);
        let fields = fields(&Forger::of(&case), &opening);
        let (last, start) = fields[fields.len() - 1];
        assert_eq!(start + last.size(), bytes.len());
        let elements = fields.iter().filter(|(field, _)| *field == Field::Element);
        for &(_, start) in elements {
            let own = u64::from_le_bytes(bytes[start..][..8].try_into().unwrap());
            for value in [Some(P), Some(u64::MAX), own.checked_add(P)].into_iter().flatten() {
                let mut bytes = bytes.clone();
                bytes[start..start + 8].copy_from_slice(&value.to_le_bytes());
                assert_eq!(case.decode(&bytes), Err(Malformed::NotCanonical), "at {start}");
            }
        }
    }
}

#[test]
fn an_opening_has_one_length() {
    let case = small();
    let bytes = case.encoded(&case.open());
    assert!(accepted(&case, &bytes));
    for end in 0..bytes.len() {
        assert_eq!(case.decode(&bytes[..end]), Err(Malformed::Truncated));
    }
    for more in [1, 8, 24, 32] {
        let mut bytes = bytes.clone();
        bytes.extend(vec![0; more]);
        assert_eq!(case.decode(&bytes), Err(Malformed::Trailing));
    }
}

/// A length above what the code allows is refused before anything is allocated; one below leaves bytes over.
#[test]
fn no_length_is_above_its_bound() {
    let case = small();
    let opening = case.open();
    let bytes = case.encoded(&opening);
    for (_, start) in fields(&Forger::of(&case), &opening).into_iter().filter(|(field, _)| *field == Field::Length) {
        let with = |length: u32| {
            let mut bytes = bytes.clone();
            bytes[start..start + 4].copy_from_slice(&length.to_le_bytes());
            bytes
        };
        assert_eq!(case.decode(&with(u32::MAX)), Err(Malformed::TooLong));
        let own = u32::from_le_bytes(bytes[start..][..4].try_into().unwrap());
        for length in (0..own + 40).filter(|&length| length != own) {
            assert!(!accepted(&case, &with(length)), "{length} for {own} at {start}");
        }
    }
}

/// Every word by its lowest bit; every byte; every hash; and every field for its neighbour. A nonce that is changed may
/// happen to do the work, but it draws other positions.
#[test]
fn no_part_of_an_opening_can_be_changed() {
    let case = small();
    let opening = case.open();
    let bytes = case.encoded(&opening);
    let fields = fields(&Forger::of(&case), &opening);
    for &(_, start) in &fields {
        let mut bytes = bytes.clone();
        bytes[start] ^= 1;
        assert!(!accepted(&case, &bytes), "at {start}");
    }
    for place in 0..bytes.len() {
        for change in [0x80, 0xff] {
            let mut bytes = bytes.clone();
            bytes[place] ^= change;
            assert!(!accepted(&case, &bytes), "{change} at {place}");
        }
    }
    for pair in fields.windows(2).filter(|pair| pair[0].0 == pair[1].0) {
        let (size, first, second) = (pair[0].0.size(), pair[0].1, pair[1].1);
        let mut bytes = bytes.clone();
        let (low, high) = bytes.split_at_mut(second);
        low[first..].swap_with_slice(&mut high[..size]);
        assert!(low[first..] == high[..size] || !accepted(&case, &[low, high].concat()), "at {first}");
    }
}

#[test]
fn no_part_of_a_larger_opening_can_be_changed() {
    let case = usual();
    let opening = case.open();
    let bytes = case.encoded(&opening);
    assert!(accepted(&case, &bytes));
    for (_, start) in fields(&Forger::of(&case), &opening) {
        let mut bytes = bytes.clone();
        bytes[start] ^= 1;
        assert!(!accepted(&case, &bytes), "at {start}");
    }
}

#[test]
fn no_part_is_missing_doubled_or_inserted() {
    let case = small();
    let opening = case.open();
    let bytes = case.encoded(&opening);
    let fields = fields(&Forger::of(&case), &opening);
    for &(_, start) in &fields {
        for size in [1, 4, 8, 24, 32, 48] {
            let (before, after) = bytes.split_at(start);
            let chunk = &after[..size.min(after.len())];
            let rest = &after[chunk.len()..];
            assert!(!accepted(&case, &[before, rest].concat()), "{size} missing at {start}");
            assert!(!accepted(&case, &[before, chunk, after].concat()), "{size} doubled at {start}");
            assert!(!accepted(&case, &[before, &vec![0; size], after].concat()), "{size} inserted at {start}");
            // The same length in all.
            let zeroed = [before, &vec![0; chunk.len()], rest].concat();
            assert!(zeroed == bytes || !accepted(&case, &zeroed), "{size} zeroed at {start}");
            let moved = [before, rest, chunk].concat();
            assert!(moved == bytes || !accepted(&case, &moved), "{size} moved from {start}");
            let shifted = [chunk, before, rest].concat();
            assert!(shifted == bytes || !accepted(&case, &shifted), "{size} moved from {start}");
        }
    }
}
