//! What hotkeys write into their commitments, and what Assay reads there.

use assay_commitments::{Epoch, Hotkey, ManifestId};

use super::state::{Commitment, Field, OWNER, State, UsedSpace};
use crate::{
    error::ChainError,
    history::History,
    record::{self, FIELDS_MAX, Record},
    types::{BlockNumber, EpochKey, EpochKeyHash, EpochKeyRecord, RequestsDigest},
};

/// The least that a writing counts for.
const BYTES_LEAST: u64 = 100;

impl State {
    /// The call `set_commitment`: puts raw fields in place of what stood there.
    pub(crate) fn set_commitment(&mut self, signer: Hotkey, fields: Vec<Vec<u8>>) -> Result<(), ChainError> {
        self.slot(signer)?;
        if fields.len() > FIELDS_MAX {
            return Err(ChainError::Refused {
                call: "set_commitment",
                name: "TooManyFieldsInCommitmentInfo".to_owned(),
                advice: "a commitment has three fields",
            });
        }
        let bytes: usize = fields.iter().map(Vec::len).sum();
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX).max(BYTES_LEAST);
        let epoch = self.epoch();
        let used = self.used_space.get(&signer).filter(|used| used.epoch == epoch.get());
        let used = used.map_or(0, |used| used.bytes).saturating_add(bytes);
        if used > self.parameters.max_space.into() {
            let next = BlockNumber::new(self.first_block(epoch.next()));
            return Err(ChainError::CommitmentSpace { hotkey: signer, next });
        }
        self.used_space.insert(signer, UsedSpace { epoch: epoch.get(), bytes: used });
        let fields = fields.into_iter().map(Field).collect();
        self.commitments.entry(signer).or_default().push(Commitment { block: self.block, fields }.into());
        Ok(())
    }

    /// Writes a record, if it says something new.
    fn write(&mut self, signer: Hotkey, record: &Record) -> Result<(), ChainError> {
        if *record == self.record(&signer) { Ok(()) } else { self.set_commitment(signer, record.fields()?) }
    }

    fn records(&self, hotkey: &Hotkey) -> Vec<(BlockNumber, Record)> {
        let all = self.commitments.get(hotkey).map_or(&[][..], |all| all.as_slice());
        all.iter().map(|commitment| (BlockNumber::new(commitment.block), commitment.record())).collect()
    }

    pub(super) fn manifests(&self) -> Vec<ManifestId> {
        self.record(&self.owner().hotkey).registry
    }

    pub(super) fn publish_manifests(&mut self, signer: Hotkey, manifests: &[ManifestId]) -> Result<(), ChainError> {
        record::check_owner(signer, Some(self.owner().hotkey))?;
        let mut record = self.record(&signer);
        record.put_in_force(manifests)?;
        self.write(signer, &record)
    }

    pub(super) fn declare_manifest(&mut self, signer: Hotkey, manifest: ManifestId) -> Result<(), ChainError> {
        self.slot(signer)?;
        let record = Record { serves: Some(manifest), ..self.record(&signer) };
        self.write(signer, &record)
    }

    pub(super) fn publish_epoch_key(
        &mut self,
        signer: Hotkey,
        epoch: Epoch,
        hash: EpochKeyHash,
    ) -> Result<(), ChainError> {
        self.slot(signer)?;
        let mut record = self.record(&signer);
        record.publish_key(self.epoch(), epoch, hash)?;
        self.write(signer, &record)
    }

    pub(super) fn reveal_epoch_key(
        &mut self,
        signer: Hotkey,
        epoch: Epoch,
        key: EpochKey,
        requests: RequestsDigest,
    ) -> Result<(), ChainError> {
        self.slot(signer)?;
        let mut record = self.record(&signer);
        record.reveal_key(self.epoch(), self.epoch_key(signer, epoch), (epoch, key, requests))?;
        self.write(signer, &record)
    }

    pub(super) fn epoch_key(&self, validator: Hotkey, epoch: Epoch) -> Option<EpochKeyRecord> {
        record::epoch_key(&self.records(&validator), epoch)
    }

    /// What stood on the chain from its beginning until now.
    pub(super) fn history(&self) -> History {
        let epochs = self.first_epoch().get()..=self.epoch().get();
        let mut manifests: Vec<(BlockNumber, Vec<ManifestId>)> = Vec::new();
        for (block, record) in self.records(&self.slots[usize::from(OWNER.get())].hotkey) {
            if manifests.last().is_none_or(|(_, standing)| *standing != record.registry) {
                manifests.push((block, record.registry));
            }
        }
        let mut epoch_keys = Vec::new();
        for hotkey in self.commitments.keys() {
            let records = self.records(hotkey);
            let mut epochs: Vec<Epoch> =
                records.iter().filter_map(|(_, record)| record.published.map(|(epoch, _)| epoch)).collect();
            epochs.sort_unstable();
            epochs.dedup();
            let keys = epochs.iter().filter_map(|epoch| record::epoch_key(&records, *epoch).map(|key| (*epoch, key)));
            epoch_keys.extend(keys.map(|(epoch, key)| (*hotkey, epoch, key)));
        }
        History {
            network: self.network,
            epochs: epochs.map(Epoch::new).map(|epoch| (epoch, BlockNumber::new(self.first_block(epoch)))).collect(),
            manifests,
            hotkeys: self.first_registered.iter().map(|(hotkey, block)| (*hotkey, BlockNumber::new(*block))).collect(),
            epoch_keys,
        }
    }
}
