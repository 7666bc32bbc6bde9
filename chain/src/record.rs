//! What Assay keeps in a hotkey's commitment on chain.
//!
//! A subnet's `Commitments` pallet holds one value for each hotkey: up to three fields of at most 128
//! bytes. Assay writes fields that begin with `A` and a letter:
//!
//! ```text
//! AM  id 32 ...                          manifests in force, up to three a field    the subnet owner
//! AS  id 32                              the manifest that is served                a miner
//! AK  epoch u64 | hash 32 [ epoch u64 | key 32 | requests 32 ]                      a validator
//! ```
//!
//! Integers are little-endian. `AK` carries the hash of the newest epoch key and, once there is one, the
//! newest key that was revealed with the digest of its epoch's requests. The pallet keeps only the
//! newest value of a hotkey, so the past is read from the state of old blocks ([`epoch_key`]).
//!
//! Whoever is several of these at once has several fields: writing one leaves the others as they are.
//! A field of another form is none of ours and is neither read nor kept.

use assay_commitments::{Epoch, Hotkey, ManifestId};

use crate::{
    api::MANIFESTS_MAX,
    error::ChainError,
    types::{BlockNumber, EpochKey, EpochKeyHash, EpochKeyRecord, RequestsDigest},
};

/// Fields of a commitment.
pub const FIELDS_MAX: usize = 3;
/// Bytes of a field.
pub const FIELD_BYTES_MAX: usize = 128;

const REGISTRY: [u8; 2] = *b"AM";
const SERVES: [u8; 2] = *b"AS";
const KEY: [u8; 2] = *b"AK";
const IDS_OF_A_FIELD: usize = 3;

/// A hotkey's commitment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// The manifests in force, if the hotkey is the subnet owner's.
    pub registry: Vec<ManifestId>,
    /// The manifest it serves.
    pub serves: Option<ManifestId>,
    /// The newest hash of an epoch key.
    pub published: Option<(Epoch, EpochKeyHash)>,
    /// The newest key that was revealed, with the digest of its epoch's requests. Only beside a hash.
    pub revealed: Option<(Epoch, EpochKey, RequestsDigest)>,
}

impl Record {
    /// The fields of a commitment, in a fixed order.
    ///
    /// # Errors
    /// [`ChainError::TooManyManifests`] if they do not fit, beside what else stands here.
    pub fn fields(&self) -> Result<Vec<Vec<u8>>, ChainError> {
        let mut fields: Vec<Vec<u8>> = self
            .registry
            .chunks(IDS_OF_A_FIELD)
            .map(|ids| REGISTRY.into_iter().chain(ids.iter().flat_map(|id| *id.as_bytes())).collect())
            .collect();
        if let Some(id) = &self.serves {
            fields.push([&SERVES[..], id.as_bytes()].concat());
        }
        if let Some((epoch, hash)) = &self.published {
            let mut field = [&KEY[..], &epoch.get().to_le_bytes(), hash.as_bytes()].concat();
            if let Some((epoch, key, requests)) = &self.revealed {
                field.extend([&epoch.get().to_le_bytes()[..], key.as_bytes(), requests.as_bytes()].concat());
            }
            fields.push(field);
        }
        let given = self.registry.len();
        if given > MANIFESTS_MAX || fields.len() > FIELDS_MAX {
            let others = usize::from(self.serves.is_some()) + usize::from(self.published.is_some());
            let most = MANIFESTS_MAX.min((FIELDS_MAX - others) * IDS_OF_A_FIELD);
            return Err(ChainError::TooManyManifests { given, most });
        }
        Ok(fields)
    }

    /// Reads the fields of a commitment. Anything can stand on chain; what is not ours is passed over.
    pub fn read<'a>(fields: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut record = Self::default();
        for field in fields {
            let Some((tag, rest)) = field.split_first_chunk::<2>() else { continue };
            match *tag {
                REGISTRY => record.registry.extend(ids(rest)),
                SERVES => record.serves = ids(rest).first().copied(),
                KEY => record.read_key(rest),
                _ => {}
            }
        }
        record.registry.truncate(MANIFESTS_MAX);
        record
    }

    fn read_key(&mut self, field: &[u8]) {
        let mut rest = field;
        let Some(published) = epoch(&mut rest).zip(bytes(&mut rest)) else { return };
        let revealed = if rest.is_empty() {
            None
        } else {
            let Some(((epoch, key), requests)) = epoch(&mut rest).zip(bytes(&mut rest)).zip(bytes(&mut rest)) else {
                return;
            };
            Some((epoch, EpochKey::new(key), RequestsDigest::new(requests)))
        };
        if rest.is_empty() {
            self.published = Some((published.0, EpochKeyHash::new(published.1)));
            self.revealed = revealed;
        }
    }
}

/// A whole number of ids, or none.
fn ids(bytes: &[u8]) -> Vec<ManifestId> {
    let (ids, rest) = bytes.as_chunks::<32>();
    if rest.is_empty() { ids.iter().map(|id| ManifestId::new(*id)).collect() } else { Vec::new() }
}

fn epoch(from: &mut &[u8]) -> Option<Epoch> {
    let (number, rest) = from.split_first_chunk::<8>()?;
    *from = rest;
    Some(Epoch::new(u64::from_le_bytes(*number)))
}

fn bytes(from: &mut &[u8]) -> Option<[u8; 32]> {
    let (bytes, rest) = from.split_first_chunk::<32>()?;
    *from = rest;
    Some(*bytes)
}

/// What a validator published about its key of an epoch, from all its records in the order of their
/// blocks. The first hash of an epoch stands, and so does the first key.
pub fn epoch_key<'a>(
    records: impl IntoIterator<Item = &'a (BlockNumber, Record)>,
    epoch: Epoch,
) -> Option<EpochKeyRecord> {
    let mut found: Option<EpochKeyRecord> = None;
    for (block, record) in records {
        if let Some((_, hash)) = record.published.filter(|(of, _)| *of == epoch) {
            found.get_or_insert(EpochKeyRecord { hash, published_at: *block, key: None, requests: None });
        }
        if let (Some(found), Some((_, key, requests))) = (&mut found, record.revealed.filter(|(of, ..)| *of == epoch))
            && found.key.is_none()
        {
            (found.key, found.requests) = (Some(key), Some(requests));
        }
    }
    found
}

/// Writes of a hotkey's record, each as a change to what stands. The devnet and the real chain take the
/// same ones.
impl Record {
    /// Puts manifests in force.
    ///
    /// # Errors
    /// [`ChainError::DuplicateManifest`], [`ChainError::TooManyManifests`].
    pub fn put_in_force(&mut self, manifests: &[ManifestId]) -> Result<(), ChainError> {
        let twice = manifests.iter().enumerate().find(|(index, id)| manifests[..*index].contains(id));
        if let Some((_, id)) = twice {
            return Err(ChainError::DuplicateManifest(*id));
        }
        let record = Self { registry: manifests.to_vec(), ..self.clone() };
        record.fields()?;
        *self = record;
        Ok(())
    }

    /// Publishes the hash of a key for the running epoch or the next one.
    ///
    /// # Errors
    /// [`ChainError::KeyAlreadyPublished`], [`ChainError::WrongKeyEpoch`].
    pub fn publish_key(&mut self, running: Epoch, epoch: Epoch, hash: EpochKeyHash) -> Result<(), ChainError> {
        match self.published {
            Some((of, standing)) if of == epoch && standing == hash => return Ok(()),
            Some((of, _)) if of == epoch => return Err(ChainError::KeyAlreadyPublished(epoch)),
            _ => {}
        }
        if epoch != running && epoch != running.next() {
            return Err(ChainError::WrongKeyEpoch { epoch, running });
        }
        self.published = Some((epoch, hash));
        Ok(())
    }

    /// Reveals a key, of which `known` is what was published about it. The chain itself would take a
    /// key at any time; an early one is refused here, because it would hand its nonces to the miners.
    ///
    /// # Errors
    /// [`ChainError::KeyNotPublished`], [`ChainError::RevealTooEarly`],
    /// [`ChainError::KeyAlreadyRevealed`].
    pub fn reveal_key(
        &mut self,
        running: Epoch,
        known: Option<EpochKeyRecord>,
        revealed: (Epoch, EpochKey, RequestsDigest),
    ) -> Result<(), ChainError> {
        let (epoch, key, requests) = revealed;
        let known = known.ok_or(ChainError::KeyNotPublished(epoch))?;
        if epoch >= running {
            return Err(ChainError::RevealTooEarly { epoch, running });
        }
        if known.key.is_some() && (known.key, known.requests) != (Some(key), Some(requests)) {
            return Err(ChainError::KeyAlreadyRevealed(epoch));
        }
        if known.key.is_none() {
            self.revealed = Some(revealed);
        }
        Ok(())
    }
}

/// Whether a hotkey is the owner's, whose registry alone counts.
///
/// # Errors
/// [`ChainError::NotOwner`].
pub fn check_owner(signer: Hotkey, owner: Option<Hotkey>) -> Result<(), ChainError> {
    if owner == Some(signer) { Ok(()) } else { Err(ChainError::NotOwner(signer)) }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn arb_record() -> impl Strategy<Value = Record> {
        let revealed = proptest::option::of((any::<u64>(), any::<[u8; 32]>(), any::<[u8; 32]>()));
        let published = proptest::option::of((any::<u64>(), any::<[u8; 32]>(), revealed));
        (vec(any::<[u8; 32]>(), 0..=3), proptest::option::of(any::<[u8; 32]>()), published).prop_map(
            |(registry, serves, published)| Record {
                registry: registry.into_iter().map(ManifestId::new).collect(),
                serves: serves.map(ManifestId::new),
                published: published.map(|(epoch, hash, _)| (Epoch::new(epoch), EpochKeyHash::new(hash))),
                revealed: published.and_then(|(.., revealed)| revealed).map(|(epoch, key, requests)| {
                    (Epoch::new(epoch), EpochKey::new(key), RequestsDigest::new(requests))
                }),
            },
        )
    }

    proptest! {
        #[test]
        fn prop_a_record_is_read_as_it_was_written(record in arb_record()) {
            let fields = record.fields().unwrap();
            prop_assert!(fields.len() <= FIELDS_MAX && fields.iter().all(|field| field.len() <= FIELD_BYTES_MAX));
            prop_assert_eq!(Record::read(fields.iter().map(Vec::as_slice)), record);
        }

        #[test]
        fn prop_anything_can_stand_on_chain(fields in vec(vec(any::<u8>(), 0..130), 0..4), tags in vec(0..4_usize, 4)) {
            let tagged = fields.into_iter().zip(tags).map(|(field, tag)| {
                [[&b""[..], b"AM", b"AS", b"AK"][tag], &field].concat()
            });
            let fields: Vec<Vec<u8>> = tagged.collect();
            let record = Record::read(fields.iter().map(Vec::as_slice));
            prop_assert!(record.registry.len() <= MANIFESTS_MAX);
        }
    }

    #[test]
    fn an_owner_that_validates_has_room_for_six_manifests_and_its_key() {
        let registry = |count: u8| (0..count).map(|byte| ManifestId::new([byte; 32])).collect();
        let key = Some((Epoch::new(1), EpochKeyHash::new([7; 32])));
        let record = |count, serves| Record { registry: registry(count), serves, published: key, revealed: None };
        assert_eq!(record(6, None).fields().unwrap().len(), 3);
        assert_eq!(record(7, None).fields(), Err(ChainError::TooManyManifests { given: 7, most: 6 }));
        let serves = Some(ManifestId::new([9; 32]));
        assert_eq!(record(4, serves).fields(), Err(ChainError::TooManyManifests { given: 4, most: 3 }));
    }

    #[test]
    fn the_first_hash_and_the_first_key_of_an_epoch_stand() {
        let (epoch, hash) = (Epoch::new(3), EpochKeyHash::new);
        let record = |published: u8, revealed: Option<u8>| Record {
            published: Some((epoch, hash([published; 32]))),
            revealed: revealed.map(|byte| (epoch, EpochKey::new([byte; 32]), RequestsDigest::new([byte; 32]))),
            ..Record::default()
        };
        let at = BlockNumber::new;
        let records = [
            (at(5), record(1, None)),
            (at(6), record(2, None)),
            (at(9), record(2, Some(8))),
            (at(10), record(2, Some(9))),
        ];
        let found = epoch_key(&records, epoch).unwrap();
        assert_eq!((found.hash, found.published_at), (hash([1; 32]), at(5)));
        assert_eq!(found.key, Some(EpochKey::new([8; 32])));
        assert_eq!(epoch_key(&records, Epoch::new(4)), None);
    }
}
