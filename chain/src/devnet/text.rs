//! How names of other crates, and bytes, stand in a devnet's file.

use assay_commitments::{Epoch, Hotkey};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

/// Bytes as hexadecimal.
pub(super) mod bytes {
    use super::{Deserialize, Deserializer, Error, Serializer};

    pub(crate) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(bytes))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        hex::decode(String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

/// A hotkey as hexadecimal.
pub(super) mod hotkey {
    use super::{Deserialize, Deserializer, Error, Hotkey, Serializer};

    pub(crate) fn serialize<S: Serializer>(hotkey: &Hotkey, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(hotkey.as_bytes()))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Hotkey, D::Error> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(String::deserialize(deserializer)?, &mut bytes).map_err(D::Error::custom)?;
        Ok(Hotkey::new(bytes))
    }
}

/// A map from hotkeys.
pub(super) mod by_hotkey {
    use std::collections::BTreeMap;

    use super::{Deserialize, Deserializer, Hotkey, Serialize, Serializer};

    #[derive(Serialize, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
    #[serde(transparent)]
    struct Key(#[serde(with = "super::hotkey")] Hotkey);

    pub(crate) fn serialize<S: Serializer, V: Serialize>(
        map: &BTreeMap<Hotkey, V>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_map(map.iter().map(|(hotkey, value)| (Key(*hotkey), value)))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>, V: Deserialize<'de>>(
        deserializer: D,
    ) -> Result<BTreeMap<Hotkey, V>, D::Error> {
        let map = BTreeMap::<Key, V>::deserialize(deserializer)?;
        Ok(map.into_iter().map(|(Key(hotkey), value)| (hotkey, value)).collect())
    }
}

/// An epoch as its number.
pub(super) mod epoch {
    use super::{Deserialize, Deserializer, Epoch, Serializer};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over references to fields")]
    pub(crate) fn serialize<S: Serializer>(epoch: &Epoch, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(epoch.get())
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Epoch, D::Error> {
        u64::deserialize(deserializer).map(Epoch::new)
    }
}
