//! Epoch keys: the hash first, the key after the epoch.

use assay_commitments::{Epoch, Hotkey};

use super::state::State;
use crate::{
    error::ChainError,
    types::{BlockNumber, EpochKey, EpochKeyHash, EpochKeyRecord, RequestsDigest},
};

impl State {
    pub(super) fn publish_epoch_key(
        &mut self,
        signer: Hotkey,
        epoch: Epoch,
        hash: EpochKeyHash,
    ) -> Result<(), ChainError> {
        self.slot(signer)?;
        if let Some(published) = self.epoch_keys.get(&(signer, epoch)) {
            let same = published.hash == hash;
            return if same { Ok(()) } else { Err(ChainError::KeyAlreadyPublished(epoch)) };
        }
        if epoch != self.epoch && epoch != self.epoch.next() {
            return Err(ChainError::WrongKeyEpoch { epoch, running: self.epoch });
        }
        let published_at = BlockNumber::new(self.block);
        self.epoch_keys.insert((signer, epoch), EpochKeyRecord { hash, published_at, key: None, requests: None });
        Ok(())
    }

    /// The real chain would take a key at any time. The devnet refuses an early one, because no
    /// caller can want that: it would hand its nonces to the miners.
    pub(super) fn reveal_epoch_key(
        &mut self,
        signer: Hotkey,
        epoch: Epoch,
        key: EpochKey,
        requests: RequestsDigest,
    ) -> Result<(), ChainError> {
        self.slot(signer)?;
        let record = self.epoch_keys.get_mut(&(signer, epoch)).ok_or(ChainError::KeyNotPublished(epoch))?;
        if epoch >= self.epoch {
            return Err(ChainError::RevealTooEarly { epoch, running: self.epoch });
        }
        let (key, requests) = (Some(key), Some(requests));
        if record.key.is_some() && (record.key, record.requests) != (key, requests) {
            return Err(ChainError::KeyAlreadyRevealed(epoch));
        }
        (record.key, record.requests) = (key, requests);
        Ok(())
    }

    pub(super) fn epoch_key(&self, validator: Hotkey, epoch: Epoch) -> Option<EpochKeyRecord> {
        self.epoch_keys.get(&(validator, epoch)).copied()
    }
}
