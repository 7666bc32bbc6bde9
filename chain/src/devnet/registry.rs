//! Endpoints and manifests.

use std::{collections::BTreeSet, net::SocketAddr};

use assay_commitments::{Hotkey, ManifestId};

use super::state::{OWNER, State};
use crate::{api::MANIFESTS_MAX, error::ChainError, types::BlockNumber};

impl State {
    /// Loopback addresses are welcome here; the real chain refuses them.
    pub(super) fn serve_endpoint(&mut self, signer: Hotkey, endpoint: SocketAddr) -> Result<(), ChainError> {
        let (now, limit) = (self.block, self.parameters.serving_rate_limit);
        let slot = self.slot_mut(signer)?;
        if endpoint.port() == 0 {
            return Err(ChainError::ZeroPort);
        }
        if let Some(next) = slot.served_at.map(|block| block.saturating_add(limit)).filter(|next| now < *next) {
            return Err(ChainError::ServingTooFast { next: BlockNumber::new(next) });
        }
        slot.served_at = Some(now);
        slot.neuron.endpoint = Some(endpoint);
        Ok(())
    }

    pub(super) fn manifests(&self) -> Vec<ManifestId> {
        self.registry.last().map(|(_, manifests)| manifests.clone()).unwrap_or_default()
    }

    pub(super) fn publish_manifests(&mut self, signer: Hotkey, manifests: &[ManifestId]) -> Result<(), ChainError> {
        if self.slot(signer).map(|slot| slot.neuron.uid) != Ok(OWNER) {
            return Err(ChainError::NotOwner(signer));
        }
        if manifests.len() > MANIFESTS_MAX {
            return Err(ChainError::TooManyManifests { given: manifests.len(), most: MANIFESTS_MAX });
        }
        let mut seen = BTreeSet::new();
        if let Some(twice) = manifests.iter().find(|manifest| !seen.insert(**manifest)) {
            return Err(ChainError::DuplicateManifest(*twice));
        }
        self.registry.push((BlockNumber::new(self.block), manifests.to_vec()));
        Ok(())
    }

    pub(super) fn declare_manifest(&mut self, signer: Hotkey, manifest: ManifestId) -> Result<(), ChainError> {
        self.slot_mut(signer)?.neuron.manifest = Some(manifest);
        Ok(())
    }
}
