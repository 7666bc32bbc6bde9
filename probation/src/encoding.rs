//! The map of miners as serde sees it: hotkeys in lower-case hex, each at most once, in order.

use std::{collections::BTreeMap, fmt};

use assay_commitments::Hotkey;
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error, MapAccess, Visitor},
};

use crate::record::Record;

/// For `#[serde(with)]` on the map of miners.
pub(crate) mod miners {
    use super::{BTreeMap, Deserializer, HexHotkey, Hotkey, MinersVisitor, Record, Serializer};

    pub(crate) fn serialize<S: Serializer>(
        miners: &BTreeMap<Hotkey, Record>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_map(miners.iter().map(|(hotkey, record)| (HexHotkey(*hotkey), record)))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeMap<Hotkey, Record>, D::Error> {
        deserializer.deserialize_map(MinersVisitor)
    }
}

struct MinersVisitor;

impl<'de> Visitor<'de> for MinersVisitor {
    type Value = BTreeMap<Hotkey, Record>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map from hotkeys in hex to records")
    }

    /// Refuses a hotkey that stands there twice: the second record could hide the first one's
    /// failure.
    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
        let mut miners = BTreeMap::new();
        while let Some((HexHotkey(hotkey), record)) = entries.next_entry()? {
            if miners.insert(hotkey, record).is_some() {
                return Err(A::Error::custom(format_args!("hotkey {hotkey} stands twice")));
            }
        }
        Ok(miners)
    }
}

struct HexHotkey(Hotkey);

impl Serialize for HexHotkey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for HexHotkey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse(text.as_bytes())
            .map(|bytes| Self(Hotkey::new(bytes)))
            .ok_or_else(|| D::Error::custom("a hotkey is 64 lower-case hex digits"))
    }
}

fn parse(text: &[u8]) -> Option<[u8; 32]> {
    let (pairs, rest) = text.as_chunks::<2>();
    if pairs.len() != 32 || !rest.is_empty() {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(bytes)
}

/// Upper case is refused: one hotkey has one spelling.
fn digit(character: u8) -> Option<u8> {
    match character {
        b'0'..=b'9' => Some(character - b'0'),
        b'a'..=b'f' => Some(character - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hotkey_has_one_spelling() {
        let hotkey = Hotkey::new(std::array::from_fn(|i| u8::try_from(i * 8).unwrap()));
        let spelled = hotkey.to_string();
        assert_eq!(parse(spelled.as_bytes()), Some(*hotkey.as_bytes()));
        for wrong in [spelled.to_uppercase(), format!("{spelled}0"), spelled[1..].to_owned(), format!("{spelled}00")] {
            assert_eq!(parse(wrong.as_bytes()), None, "{wrong}");
        }
    }
}
