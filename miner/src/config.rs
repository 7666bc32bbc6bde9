//! What a miner's owner decides.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use assay_audit::keys::Keypair;
use assay_audit::request::{Deadlines, Network};

use crate::subnet::SubnetView;

/// How a miner runs.
#[derive(Clone)]
pub struct MinerConfig {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The miner's hotkey.
    pub keys: Keypair,
    /// The network it is registered on.
    pub network: Network,
    /// Who may ask, and how much.
    pub subnet: Arc<dyn SubnetView>,
    /// The most that is taken on.
    pub limits: Limits,
    /// Where traces are written to when memory is short, as far as the limits allow; without a folder they
    /// stay in memory. What is written lies in files without a name and is gone with the process.
    pub spill_folder: Option<PathBuf>,
}

impl fmt::Debug for MinerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MinerConfig")
            .field("listen", &self.listen)
            .field("keys", &self.keys)
            .field("network", &self.network)
            .field("limits", &self.limits)
            .field("spill_folder", &self.spill_folder)
            .finish_non_exhaustive()
    }
}

/// The most that a miner takes on. What is above is refused before the first token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Streams open at a time, all peers together; each may be a session or a download.
    pub streams: usize,
    /// Streams open at a time from one address.
    pub streams_per_address: usize,
    /// Sessions of one validator that are served, kept or proven at a time.
    pub sessions_per_validator: usize,
    /// Answers generated side by side.
    pub serving: usize,
    /// Proofs computed side by side.
    pub proving: usize,
    /// How long an accepted request may wait for its turn to be served.
    pub queue: Duration,
    /// Bytes of memory for traces at a time, those on their way counted at the most that they can reach.
    pub retained_bytes: usize,
    /// Bytes of disk for the finished traces that no longer fit; 0 for none.
    pub spilled_bytes: usize,
    /// Output tokens of a request.
    pub output_tokens: u32,
    /// Distinct layers that an audit can touch, lm_head counted.
    pub distinct_layers: u32,
    /// Cells that an audit can ask for.
    pub cells: u64,
    /// Decodes that an audit can ask for.
    pub decodes: u64,
    /// Proof time in an epoch granted to a validator that holds all the stake. Others get their
    /// share of it, and none less than the policy's least.
    pub proof_ms_per_epoch: u64,
    /// The largest least that a policy may name, which is the validator's own word.
    pub least_budget_ms: u32,
    /// The shortest deadlines that this machine can keep.
    pub least_deadlines: Deadlines,
    /// The longest for which it will hold a session open.
    pub most_deadlines: Deadlines,
    /// How long a stopping miner works on what is open.
    pub drain: Duration,
}

impl Default for Limits {
    /// For one model on a machine with a few cores.
    fn default() -> Self {
        Self {
            streams: 256,
            streams_per_address: 64,
            sessions_per_validator: 16,
            serving: 16,
            proving: 1,
            queue: Duration::from_secs(5),
            retained_bytes: 1 << 30,
            spilled_bytes: 0,
            output_tokens: 4096,
            distinct_layers: 129,
            cells: 1 << 12,
            decodes: 1 << 10,
            proof_ms_per_epoch: 600_000,
            least_budget_ms: 60_000,
            least_deadlines: Deadlines { settle_ms: 0, ..Deadlines::all(100) },
            most_deadlines: Deadlines::all(600_000),
            drain: Duration::from_secs(30),
        }
    }
}
