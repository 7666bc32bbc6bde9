//! The auditor of the demo: replays every transcript from its file, and checks the nonces against the
//! epoch keys that the validator has revealed on chain.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use assay_audit::challenge::EpochKey;
use assay_audit::session::{Exchange, Reply};
use assay_audit::transcript_file::Conclusion;
use assay_chain::{Chain, Devnet};
use assay_commitments::{Epoch, Hotkey};
use rayon::prelude::*;

use crate::files::{read_transcript, transcripts};
use crate::outcome::Fault;

/// What the auditor found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Replayed {
    pub(crate) files: usize,
    /// Files whose verdict is not the one in the receipt, or whose nonce is not the key's.
    pub(crate) differing: usize,
    /// Nonces checked.
    pub(crate) nonces: usize,
    pub(crate) seconds: f64,
}

impl Replayed {
    /// Whether every file bears the validator out.
    pub(crate) const fn agrees(&self) -> bool {
        self.differing == 0 && self.files > 0
    }
}

/// Replays every file under a folder.
pub(crate) async fn replay(folder: &Path, chain: &Devnet, validator: Hotkey) -> Result<Replayed, Fault> {
    let files = transcripts(folder)?;
    let begin = Instant::now();
    let epoch = chain.head().await.map_err(|error| Fault::own(error.to_string()))?.epoch;
    let mut keys = BTreeMap::new();
    for number in 0..=epoch.get() {
        let record =
            chain.epoch_key(validator, Epoch::new(number)).await.map_err(|error| Fault::own(error.to_string()))?;
        if let Some(key) = record.and_then(|record| record.key) {
            keys.insert(number, EpochKey::new(*key.as_bytes()));
        }
    }
    let replayed = tokio::task::spawn_blocking(move || {
        let found: Vec<(bool, bool)> = files.par_iter().map(|path| examine(path, &keys)).collect();
        Replayed {
            files: found.len(),
            differing: found.iter().filter(|(agrees, _)| !agrees).count(),
            nonces: found.iter().filter(|(_, nonce)| *nonce).count(),
            seconds: begin.elapsed().as_secs_f64(),
        }
    });
    replayed.await.map_err(|error| Fault::own(format!("the auditor stopped: {error}")))
}

/// Whether a file's replay and nonce bear the receipt out, and whether there was a key to check it by.
fn examine(path: &Path, keys: &BTreeMap<u64, EpochKey>) -> (bool, bool) {
    let Ok(file) = read_transcript(path) else { return (false, false) };
    let same = Conclusion::from(file.judge(&|_| None).verdict) == file.receipt.conclusion;
    let request = &file.record.request;
    let revealed = match &file.record.exchange {
        Exchange::Committed { reply: Reply::Settled { nonce }, .. } => Some(*nonce),
        Exchange::Committed { reply: Reply::Challenged { nonce, .. }, .. } => *nonce,
        Exchange::Committed { reply: Reply::None, .. } | Exchange::Uncommitted(_) => None,
    };
    let drawn =
        keys.get(&request.epoch.get()).map(|key| key.nonce(request.network.netuid, &request.miner, request.counter));
    match (revealed, drawn) {
        (Some(revealed), Some(drawn)) => (same && revealed == drawn, true),
        _ => (same, false),
    }
}
