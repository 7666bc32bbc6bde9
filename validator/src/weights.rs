//! From the ledger to the chain: each judged epoch's weights, once.

use std::collections::BTreeMap;

use assay_chain::{BlockNumber, Chain, ChainError, Metagraph, Placement, Uid};
use assay_commitments::Hotkey;
use assay_probation::Ledger;
use tracing::{info, warn};

use crate::epoch::Validator;
use crate::error::ValidatorError;
use crate::state::{Stage, WeightSet};

/// The version of the rules by which weights are computed here; a subnet may ask for a newer one.
pub const SCORING_VERSION: u64 = 1;

/// How far weights got.
#[derive(Debug, Default)]
pub(crate) struct Placing {
    /// What each hotkey got, if that is known.
    pub(crate) weights: BTreeMap<Hotkey, u16>,
    /// Why they are not on chain, if they are not.
    pub(crate) refused: Option<String>,
    /// From which block on the chain takes them, if it is that.
    pub(crate) next: Option<BlockNumber>,
}

/// The weights that a ledger gives the neurons of a metagraph, zeros included.
///
/// # Errors
/// [`ValidatorError::NoOwner`], [`ValidatorError::Weights`].
pub fn weight_vector(ledger: &Ledger, metagraph: &Metagraph) -> Result<BTreeMap<Hotkey, u16>, ValidatorError> {
    let burn = metagraph.burn_hotkey().ok_or(ValidatorError::NoOwner)?;
    Ok(ledger.weights(&metagraph.hotkeys(), burn)?.into_iter().collect())
}

impl<C: Chain + 'static> Validator<C> {
    /// Brings the newest judged epoch's weights on chain, unless they are there. The vector is written
    /// down before it is submitted and stays the same however often that is tried, so that a call whose
    /// answer was lost is found again.
    ///
    /// # Errors
    /// [`ValidatorError`]: they stay due.
    pub(crate) async fn place_weights(&self) -> Result<Placing, ValidatorError> {
        let Some(set) = self.records().weights.clone().filter(|set| !set.is_settled()) else {
            return Ok(Placing::default());
        };
        let (epoch, hotkey) = (set.epoch(), self.auditor.hotkey());
        let metagraph = self.chain.metagraph().await?;
        let own = metagraph.neuron(&hotkey).ok_or(ChainError::NotRegistered(hotkey))?;
        let weights = if let Stage::Submitted { weights, last_update } = &set.stage {
            if own.last_update.get() != *last_update {
                info!(%epoch, block = %own.last_update, "the weights are on chain: a crash had hidden the answer");
                self.settle(|set| set.placed(own.last_update)).await?;
                return Ok(Placing::default());
            }
            let given = |hotkey: &Hotkey| weights.get(&hotkey.to_string()).copied().unwrap_or(0);
            metagraph.hotkeys().into_iter().map(|hotkey| (hotkey, given(&hotkey))).collect()
        } else {
            let weights = weight_vector(&self.locked(), &metagraph)?;
            let by_name = weights.iter().map(|(hotkey, weight)| (hotkey.to_string(), *weight)).collect();
            let last_update = own.last_update.get();
            self.settle(|set| set.stage = Stage::Submitted { weights: by_name, last_update }).await?;
            weights
        };
        let value = |hotkey| weights.get(hotkey).copied().unwrap_or(0);
        let by_uid: Vec<(Uid, u16)> =
            metagraph.neurons.iter().map(|neuron| (neuron.uid, value(&neuron.hotkey))).collect();
        match self.chain.set_weights(hotkey, &by_uid, SCORING_VERSION).await {
            Ok(placement) => {
                let (Placement::Set { block } | Placement::Committed { block, .. } | Placement::Standing { block }) =
                    placement;
                info!(%epoch, %block, ?placement, "the weights are on chain");
                self.settle(|set| set.placed(block)).await?;
                Ok(Placing { weights, ..Placing::default() })
            }
            Err(refusal) if refusal.is_passing() || refusal.needs_operator() => Err(refusal.into()),
            Err(refusal) => {
                let later = refusal.spares_weights().then(|| BlockNumber::new(metagraph.block.get() + 1));
                let next = refusal.next().or(later);
                warn!(%epoch, %refusal, "the weights are not set");
                if next.is_none() {
                    self.settle(|set| set.stage = Stage::Refused { why: refusal.to_string() }).await?;
                }
                Ok(Placing { weights, refused: Some(refusal.to_string()), next })
            }
        }
    }

    async fn settle(&self, change: impl FnOnce(&mut WeightSet)) -> Result<(), ValidatorError> {
        if let Some(set) = &mut self.records().weights {
            change(set);
        }
        Ok(self.save_records().await?)
    }
}
