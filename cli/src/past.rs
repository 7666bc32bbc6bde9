//! What stood on chain, for commands that check what is claimed of it: from a file, or from a chain that still
//! remembers.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use assay_audit::request::Network;
use assay_chain::networks::NetworkName;
use assay_chain::{Chain, History, NetUid, Subtensor};
use assay_commitments::{Epoch, Hotkey};

use crate::history::read_history;
use crate::networks::{Place, wait_for};
use crate::outcome::Fault;

/// Where to learn what stood on chain.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct PastArgs {
    /// What stood on chain: devnet, local, test, finney or the address of a node, with --netuid; or a file, as
    /// `assay demo --keep` writes it. Then manifests, hotkeys, epoch keys and logs are checked too
    #[arg(long, value_name = "NETWORK|FILE")]
    network: Option<String>,
    /// The subnet
    #[arg(long, value_name = "N", requires = "network")]
    netuid: Option<u16>,
}

/// What is to be looked up: epochs, and hotkeys that are named in them.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    claims: Vec<(Network, Epoch, [Hotkey; 2])>,
}

impl Claims {
    /// That two hotkeys had to do with each other, or one with itself.
    pub(crate) fn add(&mut self, network: Network, epoch: Epoch, hotkeys: [Hotkey; 2]) {
        self.claims.push((network, epoch, hotkeys));
    }
}

/// What stood on chain.
#[derive(Debug)]
pub(crate) struct Past {
    /// Of runs of epochs; at least one.
    runs: Vec<History>,
}

impl Past {
    /// What is known of an epoch.
    pub(crate) fn of(&self, epoch: Epoch) -> &History {
        let found = self.runs.iter().find(|run| run.term(epoch).is_some());
        found.unwrap_or(&self.runs[0])
    }
}

impl PastArgs {
    /// Looks up what is claimed; none without a network.
    pub(crate) fn look_up(&self, claims: impl FnOnce() -> Claims) -> Result<Option<Past>, Fault> {
        let Some(named) = &self.network else { return Ok(None) };
        match (named.parse::<NetworkName>(), self.netuid) {
            (Ok(network), Some(netuid)) => {
                let place = Place::new(network, NetUid::new(netuid));
                wait_for(ask(&place, &claims())).map(Some)
            }
            (Ok(network), None) => {
                Err(Fault::usage(format!("--network {network} is a chain of many subnets: name one with --netuid N")))
            }
            (Err(_), None) if !Path::new(named).exists() => Err(Fault::usage(format!(
                "--network {named}: neither a network nor a file: name devnet, local, test, finney or a node's ws:// \
                 address, with --netuid, or a file that `assay demo --keep` wrote"
            ))),
            (Err(_), None) => Ok(Some(Past { runs: vec![read_history(&PathBuf::from(named))?] })),
            (Err(error), Some(_)) if !Path::new(named).exists() => Err(Fault::usage(error.to_string())),
            (Err(_), Some(_)) => Err(Fault::usage(format!("{named}: --netuid is for a chain, and this is a file"))),
        }
    }
}

async fn ask(place: &Place, claims: &Claims) -> Result<Past, Fault> {
    let chain = place.connect(&[], None).await?;
    let network = chain.network();
    // What is of another network is told from the answer's own, and not looked up.
    let ours = claims
        .claims
        .iter()
        .filter(|(of, ..)| (&of.genesis, of.netuid) == (network.genesis.as_bytes(), network.netuid.get()));
    let mut epochs = BTreeSet::new();
    let mut hotkeys = BTreeSet::new();
    let running = chain.head().await?.epoch;
    for (_, epoch, of) in ours {
        epochs.extend((*epoch <= running).then_some(*epoch));
        hotkeys.extend(of);
    }
    let hotkeys: Vec<Hotkey> = hotkeys.into_iter().collect();
    let mut runs = vec![];
    for (first, last) in consecutive(&epochs) {
        runs.push(history(&chain, first, last, &hotkeys).await?);
    }
    if runs.is_empty() {
        runs.push(history(&chain, running, running, &[]).await?);
    }
    Ok(Past { runs })
}

async fn history(chain: &Subtensor, first: Epoch, last: Epoch, hotkeys: &[Hotkey]) -> Result<History, Fault> {
    Ok(chain.history(first..=last, hotkeys).await?)
}

/// Runs of epochs without a gap.
fn consecutive(epochs: &BTreeSet<Epoch>) -> Vec<(Epoch, Epoch)> {
    let mut runs: Vec<(Epoch, Epoch)> = vec![];
    for epoch in epochs {
        match runs.last_mut() {
            Some((_, last)) if last.next() == *epoch => *last = *epoch,
            _ => runs.push((*epoch, *epoch)),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epochs_are_asked_for_in_runs() {
        let runs = |epochs: &[u64]| {
            let runs = consecutive(&epochs.iter().copied().map(Epoch::new).collect());
            runs.iter().map(|(first, last)| (first.get(), last.get())).collect::<Vec<_>>()
        };
        assert_eq!(runs(&[]), []);
        assert_eq!(runs(&[4, 5, 3, 9, 11, 12]), [(3, 5), (9, 9), (11, 12)]);
    }
}
