//! Endpoints.

use assay_commitments::Hotkey;

use super::state::{Axon, State};
use crate::{error::ChainError, types::BlockNumber};

impl State {
    /// Publishes an endpoint; `axon.block` becomes this block. Loopback addresses are welcome here; the
    /// real chain refuses 127.0.0.1 and ::1.
    pub(crate) fn serve_endpoint(&mut self, signer: Hotkey, axon: Axon) -> Result<(), ChainError> {
        let (now, limit) = (self.block, self.parameters.serving_rate_limit);
        let slot = self.slot_mut(signer)?;
        let address = axon.endpoint.ip();
        let broadcast = match address {
            std::net::IpAddr::V4(address) => address.is_broadcast(),
            std::net::IpAddr::V6(address) => address.to_bits() == u128::MAX,
        };
        if broadcast {
            return Err(ChainError::UnreachableAddress(address));
        }
        let next = slot.axon.map(|standing| standing.block.saturating_add(limit));
        if let Some(next) = next.filter(|next| now < *next) {
            return Err(ChainError::ServingTooFast { next: BlockNumber::new(next) });
        }
        if axon.endpoint.port() == 0 {
            return Err(ChainError::ZeroPort);
        }
        slot.axon = Some(Axon { block: now, ..axon });
        Ok(())
    }
}
