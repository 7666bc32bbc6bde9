//! The chain of blocks over a devnet: who is in which block, what is final, and what waits.

use std::{
    collections::{HashMap, VecDeque},
    path::PathBuf,
    sync::Arc,
};

use assay_commitments::Hotkey;
use scale_value::Value;
use tokio::sync::{broadcast, mpsc};

use super::{
    Fate,
    block::{Block, Hash, Header},
    call::Call,
    error::{Invalid, NodeError, Refusal},
    execute::{self, Event, Events, Phase},
    extrinsic::{Extrinsic, Ground, inherent},
    pool::{Pending, Pool, Status},
    runtime::Runtime,
    storage::{self, Frame, Storage},
};
use crate::{
    devnet::{Devnet, state::State, view::STATES_MAX},
    types::BlockNumber,
};

/// Extrinsics in a block, beside the author's own.
const INCLUDED_MAX: usize = 1_024;
/// Blocks whose storage is kept as it was written, until others are asked for.
const STORAGES_MAX: usize = 16;
/// Blocks that were taken back and are still answered for.
const RETRACTED_MAX: usize = 16;
/// Notices that a slow subscriber may be behind.
const NOTICES_MAX: usize = 1_024;

/// What subscribers are told.
#[derive(Clone, Debug)]
pub(super) enum Notice {
    /// A block is the newest.
    Best(Arc<Block>),
    /// A block is final.
    Final(Arc<Block>),
}

/// Blocks, pool and finality.
#[derive(Debug)]
pub(super) struct Ledger {
    devnet: Devnet,
    genesis: Hash,
    finality_lag: u64,
    /// Where the devnet is saved with each block.
    state: Option<PathBuf>,
    /// The first block whose state the devnet had when the node began.
    loaded_at: u64,
    /// Headers of the chain, by number.
    headers: Vec<(Hash, Header)>,
    numbers: HashMap<Hash, u64>,
    /// The newest blocks of the chain, the newest last.
    blocks: VecDeque<Arc<Block>>,
    retracted: VecDeque<Arc<Block>>,
    finalized: u64,
    /// How many blocks were taken back, which sets the slots off from the numbers.
    retractions: u64,
    pool: Pool,
    /// The runtime that the next block brings, if it is to bring one.
    upgrade: Option<Arc<Runtime>>,
    standing_still: bool,
    storages: VecDeque<(Hash, Arc<Storage>)>,
    notices: broadcast::Sender<Notice>,
}

/// What an author put into a block.
struct Filling {
    extrinsics: Vec<Vec<u8>>,
    events: Vec<u8>,
    included: Vec<(u32, Pending)>,
    left: VecDeque<Pending>,
}

impl Ledger {
    /// The chain as the devnet has it. Blocks that were made before are taken to be empty.
    pub(super) fn new(
        devnet: Devnet,
        runtime: &Arc<Runtime>,
        finality_lag: u64,
        state: Option<PathBuf>,
    ) -> Result<Self, NodeError> {
        let newest = devnet.newest();
        let genesis = *newest.network.genesis.as_bytes();
        let mut ledger = Self {
            devnet,
            genesis,
            finality_lag,
            state,
            loaded_at: 0,
            headers: Vec::new(),
            numbers: HashMap::new(),
            blocks: VecDeque::new(),
            retracted: VecDeque::new(),
            finalized: newest.block,
            retractions: 0,
            pool: Pool::default(),
            upgrade: None,
            standing_still: false,
            storages: VecDeque::new(),
            notices: broadcast::Sender::new(NOTICES_MAX),
        };
        probe(&newest, runtime)?;
        ledger.catch_up(&newest, runtime)?;
        ledger.loaded_at = ledger.blocks.front().map_or(0, |first| first.number());
        Ok(ledger)
    }

    /// Takes over blocks that the devnet has made without this node.
    fn catch_up(&mut self, newest: &State, runtime: &Arc<Runtime>) -> Result<(), NodeError> {
        for number in self.headers.len() as u64..=newest.block {
            let parent = self.headers.last().map_or([0; 32], |(hash, _)| *hash);
            let extrinsics = if number == 0 { Vec::new() } else { vec![timestamp(runtime, number)?] };
            let header = Header::new(parent, number, number + self.retractions, false);
            let hash = if number == 0 { self.genesis } else { header.hash() };
            let mut events = Events::default();
            if number > 0 {
                events.push(Phase::Extrinsic(0), &success(), runtime)?;
            }
            let state = self.devnet.at(BlockNumber::new(number));
            self.headers.push((hash, header.clone()));
            self.numbers.insert(hash, number);
            if let Some(state) = state {
                let (runtime, events) = (Arc::clone(runtime), events.encode());
                let block = self.keep(Block { hash, header, extrinsics, events, state, runtime, included: Vec::new() });
                // Without subscribers nobody is told.
                let _ = self.notices.send(Notice::Best(block));
            }
        }
        Ok(())
    }

    fn keep(&mut self, block: Block) -> Arc<Block> {
        let block = Arc::new(block);
        self.blocks.push_back(Arc::clone(&block));
        while self.blocks.len() > STATES_MAX {
            self.blocks.pop_front();
        }
        block
    }

    pub(super) const fn devnet(&self) -> &Devnet {
        &self.devnet
    }

    pub(super) fn subscribe(&self) -> broadcast::Receiver<Notice> {
        self.notices.subscribe()
    }

    pub(super) const fn is_standing_still(&self) -> bool {
        self.standing_still
    }

    pub(super) const fn stand_still(&mut self, still: bool) {
        self.standing_still = still;
    }

    /// The newest block.
    pub(super) fn head(&self) -> Arc<Block> {
        // A devnet has a newest block, and its state is the last that would be forgotten.
        Arc::clone(self.blocks.back().expect("a ledger begins with a block"))
    }

    /// The newest final block. It is kept for as long as blocks are.
    pub(super) fn final_head(&self) -> Arc<Block> {
        let found = self.blocks.iter().rev().find(|block| block.number() <= self.finalized);
        found.or_else(|| self.blocks.front()).map_or_else(|| self.head(), Arc::clone)
    }

    /// The hash of a block of the chain.
    pub(super) fn hash_of(&self, number: u64) -> Option<Hash> {
        let place = usize::try_from(number).ok()?;
        self.headers.get(place).map(|(hash, _)| *hash)
    }

    /// The header of a block, of the chain or taken back from it.
    pub(super) fn header(&self, hash: &Hash) -> Option<&Header> {
        if let Some(place) = self.numbers.get(hash).and_then(|number| usize::try_from(*number).ok()) {
            return self.headers.get(place).map(|(_, header)| header);
        }
        self.retracted.iter().find(|block| block.hash == *hash).map(|block| &block.header)
    }

    /// A block and its state, as long as both are kept.
    pub(super) fn block(&self, hash: &Hash) -> Option<Arc<Block>> {
        let retracted = || self.retracted.iter().find(|block| block.hash == *hash);
        let kept = match self.numbers.get(hash) {
            Some(number) if *number < self.loaded_at => return self.recall(*number),
            Some(number) => {
                let first = self.blocks.front()?.number();
                self.blocks.get(usize::try_from(number.checked_sub(first)?).ok()?)
            }
            None => retracted(),
        };
        kept.map(Arc::clone)
    }

    /// A block from before the devnet was saved: empty, with what the state of now tells of then.
    fn recall(&self, number: u64) -> Option<Arc<Block>> {
        let (hash, header) = self.headers.get(usize::try_from(number).ok()?)?.clone();
        let head = self.head();
        let (runtime, state) = (Arc::clone(&head.runtime), Arc::new(head.state.recalled(number)));
        let extrinsics = vec![timestamp(&runtime, number).ok()?];
        let events = Events::default().encode();
        Some(Arc::new(Block { hash, header, extrinsics, events, state, runtime, included: Vec::new() }))
    }

    /// The storage of a block.
    ///
    /// # Errors
    /// [`NodeError::Item`] if its runtime has no place for the state.
    pub(super) fn storage(&mut self, block: &Block) -> Result<Arc<Storage>, NodeError> {
        if let Some((_, storage)) = self.storages.iter().find(|(hash, _)| *hash == block.hash) {
            return Ok(Arc::clone(storage));
        }
        let frame = Frame { parent: block.header.parent, events: &block.events };
        let storage = Arc::new(storage::write(&block.state, &frame, &block.runtime)?);
        self.storages.push_back((block.hash, Arc::clone(&storage)));
        if self.storages.len() > STORAGES_MAX {
            self.storages.pop_front();
        }
        Ok(storage)
    }

    /// Extrinsics that wait.
    pub(super) fn pending(&self) -> Vec<Vec<u8>> {
        self.pool.iter().map(|pending| pending.bytes.clone()).collect()
    }

    /// The nonce of an account's next extrinsic, behind those that wait.
    pub(super) fn next_nonce(&self, account: &[u8; 32]) -> u32 {
        self.pool.next_nonce(account, self.head().state.nonce(account))
    }

    /// Takes an extrinsic into the pool, if the chain would.
    ///
    /// # Errors
    /// A [`Refusal`], in the chain's own words.
    pub(super) fn submit(
        &mut self,
        bytes: Vec<u8>,
        watcher: Option<mpsc::UnboundedSender<Status>>,
    ) -> Result<Hash, Refusal> {
        let hash = sp_crypto_hashing::blake2_256(&bytes);
        let (account, nonce, _) = self.validate(&bytes)?;
        if self.pool.holds(&hash) {
            return Err(Refusal::AlreadyImported(hash));
        }
        if self.pool.has(&account, nonce) {
            return Err(Refusal::TooLowPriority);
        }
        if self.pool.is_full() {
            return Err(Refusal::ImmediatelyDropped);
        }
        let standing = self.head().state.nonce(&account);
        self.pool.add(Pending { bytes, hash, account, nonce, watcher }, standing);
        Ok(hash)
    }

    /// What the chain checks before it takes an extrinsic: account, nonce, and for how many blocks it is good.
    ///
    /// # Errors
    /// A [`Refusal`].
    pub(super) fn validate(&self, bytes: &[u8]) -> Result<([u8; 32], u32, u64), Refusal> {
        let head = self.head();
        let current = head.number() + 1;
        let (extrinsic, call) = self.check(bytes, &head.runtime, current)?;
        if extrinsic.nonce < head.state.nonce(&extrinsic.account) {
            return Err(Invalid::Stale.into());
        }
        let mut trial = State::clone(&head.state);
        trial.block = current;
        let refused = execute::execute(&mut trial, extrinsic.account, &call).err();
        if let Some(code) = refused.and_then(|failure| failure.pool_code(&call)) {
            return Err(Invalid::Custom(code).into());
        }
        Ok((extrinsic.account, extrinsic.nonce, extrinsic.longevity(current)))
    }

    fn check<'a>(&self, bytes: &'a [u8], runtime: &Runtime, current: u64) -> Result<(Extrinsic<'a>, Call), Refusal> {
        let extrinsic = Extrinsic::read(bytes, &runtime.extensions)?;
        let call = Call::read(extrinsic.call, runtime)?;
        let ground = Ground { runtime, genesis: self.genesis, current };
        extrinsic.verify(&ground, |number| self.hash_of(number).filter(|_| number < current))?;
        Ok((extrinsic, call))
    }

    /// Makes the next block out of what waits.
    ///
    /// # Errors
    /// [`NodeError::Item`] if the runtime has no place for what happened.
    pub(super) fn make_block(&mut self) -> Result<Arc<Block>, NodeError> {
        let waiting = self.pool.drain();
        self.author(waiting)
    }

    fn author(&mut self, waiting: VecDeque<Pending>) -> Result<Arc<Block>, NodeError> {
        let runtime = Arc::clone(&self.head().runtime);
        let newest = self.devnet.newest();
        self.catch_up(&newest, &runtime)?;
        let parent = self.head();
        let number = parent.number() + 1;
        let devnet = self.devnet.clone();
        let (_, filling) = devnet.make_block(|state, opened| self.fill(state, opened, waiting, &runtime));
        let Filling { extrinsics, events, included, left } = filling?;
        if self.state.is_some() {
            self.save()?;
        }
        // Shared with the devnet, which copies a state that somebody holds before it changes it.
        let state = self.devnet.newest();
        let upgrade = self.upgrade.take();
        let slot = number + self.retractions;
        let header = Header::new(parent.hash, number, slot, upgrade.is_some());
        let hash = header.hash();
        let runtime = upgrade.unwrap_or(runtime);
        self.pool.put_back(left);
        self.headers.push((hash, header.clone()));
        self.numbers.insert(hash, number);
        let block = self.keep(Block { hash, header, extrinsics, events, state, runtime, included });
        block.included.iter().for_each(|(_, pending)| pending.tell(Status::InBlock(hexadecimal(hash))));
        let _ = self.notices.send(Notice::Best(Arc::clone(&block)));
        self.finalize(number.saturating_sub(self.finality_lag));
        Ok(block)
    }

    /// Saves the devnet where it is kept, with what was done to it since its newest block.
    ///
    /// # Errors
    /// [`NodeError::State`], also where it is kept in memory only.
    pub(super) fn save(&self) -> Result<(), NodeError> {
        let refused = |why: String| NodeError::State(why);
        let path = self.state.as_ref().ok_or_else(|| {
            refused(
                "this devnet is kept in memory only: start it with a state file, `assay devnet --state FILE`"
                    .to_owned(),
            )
        })?;
        self.devnet.save(path).map_err(|failure| refused(failure.to_string()))
    }

    fn finalize(&mut self, until: u64) {
        let becoming = self.blocks.iter().filter(|block| (self.finalized + 1..=until).contains(&block.number()));
        for block in becoming {
            block.included.iter().for_each(|(_, pending)| pending.tell(Status::Finalized(hexadecimal(block.hash))));
            let _ = self.notices.send(Notice::Final(Arc::clone(block)));
        }
        self.finalized = self.finalized.max(until);
    }

    /// Carries out what is good in this block, in the order of arrival and of nonces.
    fn fill(
        &self,
        state: &mut State,
        opened: &[Hotkey],
        mut waiting: VecDeque<Pending>,
        runtime: &Runtime,
    ) -> Result<Filling, NodeError> {
        let mut events = Events::default();
        for author in opened {
            let event = execute::opened(state.network.netuid.get(), *author.as_bytes());
            events.push(Phase::Initialization, &event, runtime)?;
        }
        let mut extrinsics = vec![timestamp(runtime, state.block)?];
        events.push(Phase::Extrinsic(0), &success(), runtime)?;
        let mut included = Vec::new();
        loop {
            let before = included.len();
            let mut left = VecDeque::new();
            for pending in waiting {
                let account = pending.account;
                if included.len() >= INCLUDED_MAX || pending.nonce > state.nonce(&account) {
                    left.push_back(pending);
                    continue;
                }
                let Some((call, outcome)) = self.apply(state, &pending, runtime) else {
                    pending.tell(Status::Invalid);
                    continue;
                };
                let index = u32::try_from(extrinsics.len()).unwrap_or(u32::MAX);
                let phase = Phase::Extrinsic(index);
                match outcome {
                    Ok(left_behind) => {
                        for event in left_behind.iter().chain([&success()]) {
                            events.push(phase, event, runtime)?;
                        }
                    }
                    Err(failure) => {
                        let error = execute::dispatch_error(&failure, &call, runtime);
                        let failed = ("System", "ExtrinsicFailed", vec![error, execute::dispatch_info()]);
                        events.push(phase, &failed, runtime)?;
                    }
                }
                extrinsics.push(pending.bytes.clone());
                included.push((index, pending));
            }
            waiting = left;
            if included.len() == before {
                break;
            }
        }
        if self.upgrade.is_some() {
            events.push(Phase::Finalization, &("System", "CodeUpdated", Vec::new()), runtime)?;
        }
        Ok(Filling { extrinsics, events: events.encode(), included, left: waiting })
    }

    /// Carries out one that waited, unless it is no longer good.
    fn apply(
        &self,
        state: &mut State,
        pending: &Pending,
        runtime: &Runtime,
    ) -> Option<(Call, Result<Vec<Event>, super::call::Failure>)> {
        let (extrinsic, call) = self.check(&pending.bytes, runtime, state.block).ok()?;
        if extrinsic.nonce != state.nonce(&extrinsic.account) {
            return None;
        }
        let mut trial = state.clone();
        let outcome = execute::execute(&mut trial, extrinsic.account, &call);
        match &outcome {
            Ok(_) => *state = trial,
            Err(failure) if failure.pool_code(&call).is_some() => return None,
            Err(_) => {}
        }
        state.count_nonce(&extrinsic.account);
        Some((call, outcome))
    }

    /// Takes back the newest block and puts an empty one in its place, as when another author's chain wins.
    ///
    /// # Errors
    /// [`NodeError::Final`] if the block is final.
    pub(super) fn retract(&mut self, fate: Fate) -> Result<Arc<Block>, NodeError> {
        let head = self.head();
        let number = head.number();
        let parent = self.blocks.iter().rev().nth(1).map(Arc::clone).filter(|_| number > self.finalized);
        let parent = parent.ok_or(NodeError::Final(number))?;
        self.devnet.rewind(&parent.state);
        self.blocks.pop_back();
        self.headers.pop();
        self.numbers.remove(&head.hash);
        self.retractions += 1;
        let pending = |(_, pending): &(u32, Pending)| {
            pending.tell(Status::Retracted(hexadecimal(head.hash)));
            pending.clone()
        };
        let returned: VecDeque<Pending> = head.included.iter().map(pending).collect();
        self.retracted.push_back(head);
        if self.retracted.len() > RETRACTED_MAX {
            self.retracted.pop_front();
        }
        let block = self.author(VecDeque::new())?;
        match fate {
            Fate::Return => self.pool.put_back(returned),
            Fate::Vanish => returned.iter().for_each(|pending| pending.tell(Status::Dropped)),
        }
        Ok(block)
    }

    /// Lets the next block bring another runtime.
    ///
    /// # Errors
    /// [`NodeError::Item`] if the devnet cannot be shown in its form.
    pub(super) fn upgrade(&mut self, runtime: Arc<Runtime>) -> Result<(), NodeError> {
        probe(&self.head().state, &runtime)?;
        self.upgrade = Some(runtime);
        Ok(())
    }
}

pub(super) fn hexadecimal(bytes: impl AsRef<[u8]>) -> String {
    format!("0x{}", hex::encode(bytes))
}

fn success() -> Event {
    ("System", "ExtrinsicSuccess", vec![execute::dispatch_info()])
}

/// The author's word on when the block happened.
fn timestamp(runtime: &Runtime, block: u64) -> Result<Vec<u8>, NodeError> {
    let now = Value::u128(State::block_ms(block).into());
    Ok(inherent(&runtime.encode_call("Timestamp", "set", &[now])?))
}

/// Tries whether everything that happens here can be written in a runtime's form.
fn probe(state: &State, runtime: &Runtime) -> Result<(), NodeError> {
    let mut events = Events::default();
    let (account, number) = (|| Value::from_bytes([0; 32]), || Value::u128(0));
    let all: [Event; 11] = [
        success(),
        ("System", "ExtrinsicFailed", vec![Value::unnamed_variant("Other", []), execute::dispatch_info()]),
        ("System", "CodeUpdated", Vec::new()),
        ("SubtensorModule", "AxonServed", vec![number(), account()]),
        ("SubtensorModule", "WeightsSet", vec![number(), number()]),
        ("SubtensorModule", "WeightsCommitted", vec![account(), number(), account()]),
        ("SubtensorModule", "WeightsRevealed", vec![account(), number(), account()]),
        ("SubtensorModule", "TimelockedWeightsCommitted", vec![account(), number(), account(), number()]),
        execute::opened(0, [0; 32]),
        ("SubtensorModule", "NeuronRegistered", vec![number(), number(), account()]),
        ("Commitments", "Commitment", vec![number(), account()]),
    ];
    all.iter().try_for_each(|event| events.push(Phase::Extrinsic(0), event, runtime))?;
    timestamp(runtime, 0)?;
    storage::write(state, &Frame { parent: [0; 32], events: &events.encode() }, runtime).map(drop)
}
