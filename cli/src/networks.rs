//! Which chain a command speaks to.

use std::path::PathBuf;

use assay_chain::networks::{FINNEY_GENESIS, NetworkName};
use assay_chain::wallet::SigningKey;
use assay_chain::{ChainError, Connection, GenesisHash, NetUid, Subtensor};

use crate::outcome::Fault;

/// A network and a subnet of it.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) network: NetworkName,
    pub(crate) netuid: NetUid,
    pub(crate) endpoints: Vec<String>,
    genesis: Option<GenesisHash>,
}

impl Place {
    pub(crate) fn new(network: NetworkName, netuid: NetUid) -> Self {
        Self { endpoints: network.endpoints(), genesis: network.genesis(), network, netuid }
    }

    /// Demands that this chain answers.
    pub(crate) fn expect(&mut self, genesis: GenesisHash) -> Result<(), String> {
        if self.genesis.is_some_and(|known| known != genesis) {
            return Err(format!("this is not the genesis of the network {}", self.network));
        }
        if genesis == FINNEY_GENESIS && self.network != NetworkName::Finney {
            return Err(
                "this is the genesis of the main network, which has to be named: network = \"finney\"".to_owned()
            );
        }
        self.genesis = Some(genesis);
        Ok(())
    }

    /// Connects, to sign for these keys. Commits of weights are kept in `journal` until they are revealed.
    pub(crate) async fn connect(
        &self,
        signers: &[SigningKey],
        journal: Option<PathBuf>,
    ) -> Result<Subtensor, ChainError> {
        let connection = Connection {
            endpoints: self.endpoints.clone(),
            genesis: self.genesis,
            signers: signers.iter().map(|key| key.signer().clone()).collect(),
            journal,
            ..Connection::to(&self.network, self.netuid)
        };
        Subtensor::connect(connection).await
    }
}

/// The options of a command that speaks to a chain.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct NetworkArgs {
    /// devnet, local, test, finney, or the address of a node (ws://…, wss://…)
    #[arg(long, value_name = "NETWORK")]
    network: NetworkName,
    /// The subnet
    #[arg(long, value_name = "N")]
    netuid: u16,
}

impl NetworkArgs {
    pub(crate) fn place(&self) -> Place {
        Place::new(self.network.clone(), NetUid::new(self.netuid))
    }
}

/// Runs what waits for a chain.
pub(crate) fn wait_for<T>(work: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
    let runtime =
        tokio::runtime::Runtime::new().map_err(|error| Fault::own(format!("no threads can be had: {error}")))?;
    runtime.block_on(work)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_main_network_is_expected_by_its_name_only() {
        for (name, accepted) in
            [("finney", true), ("devnet", false), ("local", false), ("wss://node.invalid:443", false)]
        {
            let mut place = Place::new(name.parse().expect("a network"), NetUid::new(1));
            assert_eq!(place.expect(FINNEY_GENESIS).is_ok(), accepted, "{name}");
        }
    }
}
