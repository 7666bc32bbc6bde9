//! The embedded chain.
//!
//! | module | what it does |
//! |---|---|
//! | `genesis`, `state` | what it starts from, what it knows as of one block |
//! | `clock` | blocks and epochs |
//! | `registration`, `serving`, `commitments`, `weights`, `commits` | transactions, with the chain's checks in its order |
//! | `beacon` | the rounds that timelocked weights wait for |
//! | `epoch`, `yuma`, `emission`, `report` | the end of an epoch: what counts, what it comes to, who gets what |
//! | `fraction` | the chain's fixed point |
//! | `file`, `text`, `shared` | the state as a file, and as the states of many blocks |
//!
//! A transaction is a method of `State` that checks first and writes last.

pub(crate) mod beacon;
mod clock;
mod commitments;
pub(crate) mod commits;
mod emission;
mod epoch;
mod file;
mod fraction;
mod genesis;
mod registration;
mod report;
mod serving;
mod shared;
pub(crate) mod state;
mod text;
pub(crate) mod view;
mod weights;
mod yuma;

use std::{
    collections::VecDeque,
    net::SocketAddr,
    ops::RangeInclusive,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use assay_commitments::{Epoch, Hotkey, ManifestId};

use crate::{
    api::{Chain, Hyperparameters, Placement, StoredWeights},
    error::ChainError,
    history::History,
    metagraph::Metagraph,
    types::{BlockNumber, Coldkey, EpochKey, EpochKeyHash, EpochKeyRecord, Head, Network, Rao, RequestsDigest, Uid},
};
use clock::Begun;
use state::{Axon, State};
use tokio::sync::watch;

pub use file::FileError;
pub use genesis::{Genesis, GenesisError, Parameters};
pub use report::{EpochReport, NeuronReport};

/// The blocks whose state is kept, the newest among them.
const BLOCKS_KEPT: usize = 4_096;

/// A chain with one subnet, in the process. Clones share the chain.
///
/// Time moves by [`Devnet::step_block`] and [`Devnet::run_epoch`] alone, and the same calls in the
/// same order give the same chain, to the last RAO. Each call is one transaction: it happens as a
/// whole, in the newest block. The futures of its [`Chain`] are ready at once, but for
/// [`Chain::head_after`].
///
/// Signatures are not checked: whoever holds the handle may write for every hotkey.
#[derive(Clone, Debug)]
pub struct Devnet {
    blocks: Arc<Mutex<Blocks>>,
    /// The newest block, for those who wait for it.
    newest: Arc<watch::Sender<u64>>,
}

/// The states of the newest blocks, oldest first; the last one still takes transactions.
#[derive(Debug)]
struct Blocks {
    past: VecDeque<Arc<State>>,
    newest: Arc<State>,
}

impl Blocks {
    /// The state to change. States that somebody else holds stay as they are.
    fn open(&mut self) -> &mut State {
        Arc::make_mut(&mut self.newest)
    }

    fn begin_block(&mut self) -> Begun {
        if self.past.len() + 1 >= BLOCKS_KEPT {
            self.past.pop_front();
        }
        self.past.push_back(Arc::clone(&self.newest));
        self.open().begin_block()
    }
}

impl Devnet {
    /// A chain at its first block after genesis.
    ///
    /// # Errors
    /// [`GenesisError`] if the genesis contradicts itself.
    pub fn new(genesis: &Genesis) -> Result<Self, GenesisError> {
        let [genesis, first] = State::new(genesis)?;
        Ok(Self::of(VecDeque::from([Arc::new(genesis)]), first))
    }

    fn of(past: VecDeque<Arc<State>>, newest: State) -> Self {
        let block = watch::Sender::new(newest.block);
        let blocks = Blocks { past, newest: Arc::new(newest) };
        Self { blocks: Arc::new(Mutex::new(blocks)), newest: Arc::new(block) }
    }

    /// Gives a hotkey a place without price: the next free uid, or that of the neuron with the lowest
    /// emission. On a real chain its coldkey pays for it ([`Devnet::burned_register`]); a hotkey that never
    /// registered so belongs to the account of its own 32 bytes.
    ///
    /// Weights count for a neuron if they are set in a block after its registration.
    ///
    /// # Errors
    /// [`ChainError::AlreadyRegistered`], [`ChainError::SubnetFull`].
    pub fn register(&self, hotkey: Hotkey) -> Result<Uid, ChainError> {
        self.write(|state| {
            let own = Coldkey::new(*hotkey.as_bytes());
            let owner = state.owners.get(&hotkey).copied().unwrap_or(own);
            state.register(hotkey, owner)
        })
    }

    /// Gives a hotkey a place like [`Devnet::register`], as a coldkey does that pays the burn for it.
    ///
    /// # Errors
    /// [`ChainError::AlreadyRegistered`], [`ChainError::BalanceTooLow`], [`ChainError::SubnetFull`],
    /// [`ChainError::Refused`] if the hotkey belongs to another coldkey.
    pub fn burned_register(&self, coldkey: Coldkey, hotkey: Hotkey) -> Result<Uid, ChainError> {
        self.write(|state| state.burned_register(coldkey, hotkey))
    }

    /// Gives an account coins.
    pub fn fund(&self, account: Coldkey, amount: Rao) {
        self.write(|state| state.fund(account, amount));
    }

    /// What an account holds.
    pub fn balance(&self, account: Coldkey) -> Rao {
        Rao::new(self.newest().balance(&account))
    }

    /// Sets a hotkey's stake. At the end of the running epoch it counts if the hotkey holds a permit
    /// by then, and decides whether it gets one for the next.
    ///
    /// # Errors
    /// [`ChainError::NotRegistered`].
    pub fn set_stake(&self, hotkey: Hotkey, stake: Rao) -> Result<(), ChainError> {
        self.write(|state| state.set_stake(hotkey, stake))
    }

    /// Commits a hash of weights, as the call `commit_weights` does where weights are committed. Who uses
    /// it has to reveal them; [`Chain::set_weights`] does not ask for that.
    ///
    /// # Errors
    /// [`ChainError::WrongForm`], [`ChainError::NotRegistered`], [`ChainError::WeightsTooFast`],
    /// [`ChainError::TooManyCommits`].
    pub fn commit_weights(&self, signer: Hotkey, hash: [u8; 32]) -> Result<(), ChainError> {
        self.write(|state| state.commit_weights(signer, hash))
    }

    /// Reveals weights that were committed as a hash, as the call `reveal_weights` does.
    ///
    /// # Errors
    /// [`ChainError::WrongForm`], [`ChainError::NoSuchCommit`], [`ChainError::NotRevealEpoch`], and what
    /// [`Chain::set_weights`] refuses weights for.
    pub fn reveal_committed_weights(
        &self,
        signer: Hotkey,
        weights: &[(u16, u16)],
        salt: &[u16],
        version_key: u64,
    ) -> Result<(), ChainError> {
        self.write(|state| state.reveal_weights(signer, weights, salt, version_key))
    }

    /// Commits weights that are encrypted to a round of the devnet's beacon, as the call
    /// `commit_timelocked_weights` does.
    ///
    /// # Errors
    /// [`ChainError::WrongForm`], [`ChainError::Refused`] for another version than the subnet's or for too
    /// many bytes, [`ChainError::NotRegistered`], [`ChainError::WeightsTooFast`],
    /// [`ChainError::TooManyCommits`].
    pub fn commit_timelocked_weights(
        &self,
        signer: Hotkey,
        commit: Vec<u8>,
        round: u64,
        version: u16,
    ) -> Result<(), ChainError> {
        self.write(|state| state.commit_timelocked_weights(signer, commit, round, version))
    }

    /// The beacon's public key: 96 bytes, of the scheme of drand's quicknet.
    pub fn beacon_key(&self) -> Vec<u8> {
        beacon::public_key(&self.newest().network.genesis)
    }

    /// The signature of a round of the beacon, 48 bytes, once the newest block knows it.
    pub fn beacon_signature(&self, round: u64) -> Option<Vec<u8>> {
        let newest = self.newest();
        (round <= beacon::round_of(newest.block)).then(|| beacon::signature(&newest.network.genesis, round))
    }

    /// Who was on the subnet at the end of a block, if that is one of the newest 4,096.
    pub fn metagraph_at(&self, block: BlockNumber) -> Option<Metagraph> {
        self.at(block).map(|state| state.metagraph())
    }

    /// What stood on the chain from its beginning until now.
    pub fn whole_history(&self) -> History {
        self.newest().history()
    }

    /// What epochs came to from one on, as far as they are remembered: the newest 4,096.
    pub fn reports(&self, from: Epoch) -> Vec<EpochReport> {
        let newest = self.newest();
        newest.reports.iter().filter(|report| report.epoch >= from).map(|report| (**report).clone()).collect()
    }

    /// Makes one block, and with it the epoch if that is due.
    pub fn step_block(&self) -> Option<EpochReport> {
        self.make_block(|_, _| ()).0
    }

    /// Makes blocks until the running epoch is computed, in the first block of the next one.
    pub fn run_epoch(&self) -> EpochReport {
        loop {
            if let Some(report) = self.step_block() {
                return report;
            }
        }
    }

    /// Makes one block with transactions in it, which are told whose timelocked weights it has opened. Nobody
    /// sees the block before they are done.
    pub(crate) fn make_block<T>(
        &self,
        transactions: impl FnOnce(&mut State, &[Hotkey]) -> T,
    ) -> (Option<EpochReport>, T) {
        let mut blocks = self.locked();
        let Begun { report, opened } = blocks.begin_block();
        let made = transactions(blocks.open(), &opened);
        self.newest.send_replace(blocks.newest.block);
        (report, made)
    }

    /// Makes a transaction in the newest block.
    pub(crate) fn write<T>(&self, transaction: impl FnOnce(&mut State) -> T) -> T {
        transaction(self.locked().open())
    }

    /// The newest block as it stands now: later transactions in it do not change what was returned.
    pub(crate) fn newest(&self) -> Arc<State> {
        Arc::clone(&self.locked().newest)
    }

    /// A block as it was at its end, if it is one of the newest 4,096; the newest one as it stands now.
    /// A devnet that was loaded has no block before the one it was saved in.
    pub(crate) fn at(&self, block: BlockNumber) -> Option<Arc<State>> {
        let blocks = self.locked();
        if block.get() == blocks.newest.block {
            return Some(Arc::clone(&blocks.newest));
        }
        let first = blocks.past.front()?.block;
        let index = usize::try_from(block.get().checked_sub(first)?).ok()?;
        blocks.past.get(index).cloned()
    }

    /// Calls check first and write last, so a panic in one leaves the state whole: a poisoned lock
    /// is still good.
    fn locked(&self) -> MutexGuard<'_, Blocks> {
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Chain for Devnet {
    fn network(&self) -> Network {
        self.newest().network
    }

    async fn reach(&self) -> Result<(), ChainError> {
        Ok(())
    }

    async fn head(&self) -> Result<Head, ChainError> {
        Ok(self.newest().head())
    }

    async fn head_after(&self, block: BlockNumber) -> Result<Head, ChainError> {
        let mut newest = self.newest.subscribe();
        // The sender lives as long as this handle.
        let _ = newest.wait_for(|newest| *newest > block.get()).await;
        self.head().await
    }

    async fn metagraph(&self) -> Result<Metagraph, ChainError> {
        Ok(self.newest().metagraph())
    }

    async fn serve_endpoint(&self, signer: Hotkey, endpoint: SocketAddr) -> Result<(), ChainError> {
        self.write(|state| state.serve_endpoint(signer, Axon::of(endpoint)))
    }

    async fn manifests(&self) -> Result<Vec<ManifestId>, ChainError> {
        Ok(self.newest().manifests())
    }

    async fn publish_manifests(&self, signer: Hotkey, manifests: &[ManifestId]) -> Result<(), ChainError> {
        self.write(|state| state.publish_manifests(signer, manifests))
    }

    async fn declare_manifest(&self, signer: Hotkey, manifest: ManifestId) -> Result<(), ChainError> {
        self.write(|state| state.declare_manifest(signer, manifest))
    }

    async fn publish_epoch_key(&self, signer: Hotkey, epoch: Epoch, hash: EpochKeyHash) -> Result<(), ChainError> {
        self.write(|state| state.publish_epoch_key(signer, epoch, hash))
    }

    async fn reveal_epoch_key(
        &self,
        signer: Hotkey,
        epoch: Epoch,
        key: EpochKey,
        requests: RequestsDigest,
    ) -> Result<(), ChainError> {
        self.write(|state| state.reveal_epoch_key(signer, epoch, key, requests))
    }

    async fn epoch_key(&self, validator: Hotkey, epoch: Epoch) -> Result<Option<EpochKeyRecord>, ChainError> {
        Ok(self.newest().epoch_key(validator, epoch))
    }

    async fn hyperparameters(&self) -> Result<Hyperparameters, ChainError> {
        Ok(self.newest().hyperparameters())
    }

    async fn weights_of(&self, hotkey: Hotkey) -> Result<StoredWeights, ChainError> {
        self.newest().weights_of(hotkey)
    }

    async fn set_weights(
        &self,
        signer: Hotkey,
        weights: &[(Uid, u16)],
        version_key: u64,
    ) -> Result<Placement, ChainError> {
        self.write(|state| state.set_weights_in_form(signer, weights, version_key))
    }

    /// Nothing is left to reveal: what was committed through [`Chain::set_weights`] opens by itself.
    async fn reveal_weights(&self, _signer: Hotkey) -> Result<usize, ChainError> {
        Ok(0)
    }

    async fn history(&self, epochs: RangeInclusive<Epoch>, hotkeys: &[Hotkey]) -> Result<History, ChainError> {
        Ok(self.newest().history().of(&epochs, hotkeys))
    }
}
