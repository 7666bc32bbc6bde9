//! A call from signature to finality, so that it takes effect once.
//!
//! A transaction is mortal: it names a final block and is valid for some blocks behind it. So there are
//! two ways in which it ends, and both can be seen on the finalised chain: it stands in a block, or its
//! time is over (or another one has taken its nonce) and it will never stand in any. Only in the second case,
//! and only if what it was to do has not come about by another way, is the call made again. Lost answers,
//! broken connections and blocks that are taken back change nothing of that; what nodes say meanwhile is
//! told and otherwise ignored.

use std::{sync::Arc, time::Duration};

use assay_commitments::Hotkey;
use subxt::{
    OfflineClient,
    client::OfflineClientAtBlock,
    config::{
        DefaultExtrinsicParamsBuilder, SubstrateConfig,
        substrate::{AccountId32, MultiSignature, SpecVersionForRange},
    },
    error::DispatchError,
    events::Phase,
    rpcs::{self, client::RpcSubscription, methods::legacy::TransactionStatus},
    utils::H256,
};
use subxt_signer::sr25519::Keypair;
use tokio::{
    sync::Mutex,
    time::{Instant, sleep, sleep_until},
};

use super::{
    follow::{Follower, Tip},
    link::{Links, Trouble},
    refusal::{PoolAnswer, pool_answer},
    runtime::{Call, Runtime},
    state::At,
};
use crate::{error::ChainError, types::GenesisHash};

/// Blocks for which a transaction is valid, a power of two: some minutes, and far less than the chain
/// remembers block hashes for.
pub(super) const ERA_BLOCKS: u64 = 32;
/// How often a call is made before it is given up.
pub(super) const TRIES: u32 = 3;
/// Without a new final block for so long, nothing more can be said about what is to become final.
pub(super) const STALL: Duration = Duration::from_mins(3);
/// Before a node that could not say something is asked again.
const PAUSE: Duration = Duration::from_millis(200);

/// A hotkey's key. Writes take turns: the nonce of the next one is known once the last one is on chain.
pub(super) struct Signer {
    pub(super) keypair: Keypair,
    pub(super) turn: Mutex<()>,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Signer({})", self.hotkey())
    }
}

impl Signer {
    pub(super) fn new(keypair: Keypair) -> Self {
        Self { keypair, turn: Mutex::new(()) }
    }

    pub(super) fn hotkey(&self) -> Hotkey {
        Hotkey::new(self.keypair.public_key().0)
    }
}

/// A signed transaction and the blocks it is valid behind.
#[derive(Debug)]
struct Signed {
    bytes: Vec<u8>,
    nonce: u64,
    anchor: Tip,
}

impl Signed {
    /// The last block that it may stand in.
    const fn last(&self) -> u64 {
        self.anchor.number.saturating_add(ERA_BLOCKS)
    }
}

/// How a transaction ended.
#[derive(Debug)]
pub(super) enum End {
    /// It stands in this final block, and did what it should.
    Included(Tip),
    /// It stands in none and will not.
    Never(String),
}

/// Why a call was refused.
#[derive(Clone, Debug)]
pub(super) enum Refused {
    /// By the pool, with a number.
    Custom(u8),
    /// By a pallet, with the name of its error.
    Named(String),
    /// The account cannot pay.
    NoFees,
    /// Before or beside all that.
    Chain(ChainError),
}

impl From<ChainError> for Refused {
    fn from(error: ChainError) -> Self {
        Self::Chain(error)
    }
}

/// What submitting needs to know of the chain.
#[derive(Clone, Copy, Debug)]
pub(super) struct Desk<'a> {
    pub(super) links: &'a Arc<Links>,
    pub(super) follower: &'a Follower,
    pub(super) genesis: GenesisHash,
}

impl Desk<'_> {
    /// Makes a call once, and waits until it is known how that ended. The caller holds the signer's turn.
    ///
    /// # Errors
    /// [`Refused`] by the pool or by a pallet; [`ChainError::Unconfirmed`] if that stays unknown.
    pub(super) async fn submit(&self, signer: &Signer, call: &Call) -> Result<End, Refused> {
        let name = call.form.name;
        let signed = self.sign(signer, call).await?;
        let link = self.links.link().await?;
        let watch = match link.methods.author_submit_and_watch_extrinsic(&signed.bytes).await {
            Ok(watch) => Some(watch),
            Err(rpcs::Error::User(error)) => match pool_answer(&error) {
                PoolAnswer::Known => None,
                PoolAnswer::Again(why) => return Ok(End::Never(why)),
                PoolAnswer::Custom(code) => return Err(Refused::Custom(code)),
                PoolAnswer::NoFees => return Err(Refused::NoFees),
                PoolAnswer::Refused(why) => return Err(Refused::Named(why)),
            },
            Err(error) => {
                // It may have arrived all the same.
                tracing::warn!(call = name, %error, "the answer to a submission was lost; the chain is searched for it");
                self.links.give_up(&link).await;
                None
            }
        };
        tracing::debug!(call = name, hotkey = %signer.hotkey(), nonce = signed.nonce, "submitted");
        self.wait(signer, &signed, watch, name).await
    }

    async fn sign(&self, signer: &Signer, call: &Call) -> Result<Signed, ChainError> {
        let anchor = self.follower.tip().await?;
        // A new runtime takes effect in the newest block, before that is final.
        let best = self.links.ask("its newest block", |node| async move { node.chain_get_block_hash(None).await });
        let best = best.await.map_err(|trouble| trouble.about("its newest block"))?.unwrap_or(anchor.hash);
        let runtime = self.links.runtime(best).await.map_err(|trouble| trouble.about("its runtime"))?;
        let account = AccountId32(signer.keypair.public_key().0);
        let nonce =
            self.links.ask("the account's nonce", |node| async move { node.system_account_next_index(&account).await });
        let nonce = nonce.await.map_err(|trouble| trouble.about("the account's nonce"))?;
        let bytes = sign(&runtime, self.genesis, &signer.keypair, call, nonce, (anchor, ERA_BLOCKS))?;
        Ok(Signed { bytes, nonce, anchor })
    }

    /// Waits until it is known how a transaction ended. What keeps a node from answering passes, and the
    /// transaction is where it is: only what an operator has to put right ends the wait before its time.
    async fn wait(
        &self,
        signer: &Signer,
        signed: &Signed,
        mut watch: Option<RpcSubscription<TransactionStatus<H256>>>,
        call: &'static str,
    ) -> Result<End, Refused> {
        let mut searched = signed.anchor.number;
        let mut moved = Instant::now();
        loop {
            if moved.elapsed() >= STALL {
                let blocks = searched - signed.anchor.number;
                return Err(ChainError::Unconfirmed { call, blocks }.into());
            }
            let reached = tokio::select! {
                status = next_status(&mut watch) => {
                    if !tell(status, call) {
                        watch = None;
                    }
                    continue;
                }
                reached = self.follower.wait_for(|tip| tip.number > searched) => reached,
                () = sleep_until(moved + STALL) => continue,
            };
            let before = searched;
            let end = match reached {
                Ok(tip) => self.search(signer, signed, tip, &mut searched).await,
                Err(trouble) => Err(trouble.into()),
            };
            if searched > before {
                moved = Instant::now();
            }
            match end {
                Ok(Some(end)) => return Ok(end),
                Ok(None) => {}
                Err(Refused::Chain(trouble)) if !trouble.needs_operator() => {
                    tracing::debug!(call, searched, %trouble, "the search for a call goes on");
                    sleep(PAUSE).await;
                }
                Err(refused) => return Err(refused),
            }
        }
    }

    /// Looks for a transaction in the final blocks behind those that were searched, and counts them. How it
    /// ended, if they tell.
    async fn search(
        &self,
        signer: &Signer,
        signed: &Signed,
        tip: Tip,
        searched: &mut u64,
    ) -> Result<Option<End>, Refused> {
        while *searched < tip.number.min(signed.last()) {
            if let Some((block, index)) = self.find(*searched + 1, &signed.bytes).await? {
                self.check_success(block, index).await?;
                return Ok(Some(End::Included(block)));
            }
            *searched += 1;
        }
        if *searched >= signed.last() {
            return Ok(Some(End::Never(format!("its {ERA_BLOCKS} blocks are over"))));
        }
        if *searched == tip.number && self.nonce_at(signer, tip).await?.is_some_and(|nonce| nonce > signed.nonce) {
            return Ok(Some(End::Never("another transaction of this account has taken its nonce".to_owned())));
        }
        Ok(None)
    }

    /// Looks for a transaction in a final block: that block, and its place there.
    async fn find(&self, number: u64, bytes: &[u8]) -> Result<Option<(Tip, u32)>, ChainError> {
        let what = "a final block";
        let hash = self.links.ask(what, |node| async move { node.chain_get_block_hash(Some(number.into())).await });
        let hash = hash.await.map_err(|trouble| trouble.about(what))?;
        let not_found = || super::link::unreachable("the node", &format!("it does not find its block {number}"));
        let hash = hash.ok_or_else(not_found)?;
        let block = self.links.ask(what, |node| async move { node.chain_get_block(Some(hash)).await });
        let block = block.await.map_err(|trouble| trouble.about_block(what, number))?;
        // A block that the node does not have was not searched.
        let extrinsics = block.ok_or_else(not_found)?.block.extrinsics;
        // Blocks hold extrinsics with the length in front, as they are submitted.
        let index = extrinsics.iter().position(|extrinsic| extrinsic.0 == bytes);
        Ok(index.map(|index| (Tip { number, hash }, u32::try_from(index).unwrap_or(u32::MAX))))
    }

    /// The account's nonce as of a final block; nothing where the runtime does not say.
    async fn nonce_at(&self, signer: &Signer, tip: Tip) -> Result<Option<u64>, ChainError> {
        let account = signer.keypair.public_key().0;
        let answer = self.links.ask("the account's nonce", |node| async move {
            node.state_call("AccountNonceApi_account_nonce", Some(&account), Some(tip.hash)).await
        });
        match answer.await {
            Ok(bytes) => Ok(<[u8; 4]>::try_from(bytes.as_slice())
                .map(|bytes| u32::from_le_bytes(bytes).into())
                .or_else(|_| <[u8; 8]>::try_from(bytes.as_slice()).map(u64::from_le_bytes))
                .ok()),
            Err(Trouble::Refused { .. }) => Ok(None),
            Err(Trouble::Chain(error)) if error.is_passing() => Ok(None),
            Err(Trouble::Chain(error)) => Err(error),
        }
    }

    /// Whether a transaction that stands in a block did what it should.
    async fn check_success(&self, block: Tip, index: u32) -> Result<(), Refused> {
        // The block may be the first one behind an upgrade.
        let at = At::new(self.links, block.number, block.hash).await?;
        let key = frame_decode::storage::encode_storage_key_prefix("System", "Events");
        let bytes =
            self.links.ask("events", |node| async move { node.state_get_storage(&key, Some(block.hash)).await });
        let bytes = bytes.await.map_err(|trouble| trouble.about_block("events", block.number))?.unwrap_or_default();
        let client = at.runtime.client(self.genesis)?;
        for event in client.events().from_bytes(bytes).iter() {
            let event = event.map_err(|error| at.runtime.incompatible(format!("System.Events ({error})")))?;
            if event.phase() != Phase::ApplyExtrinsic(index) || event.pallet_name() != "System" {
                continue;
            }
            match event.event_name() {
                "ExtrinsicSuccess" => return Ok(()),
                "ExtrinsicFailed" => {
                    let error = DispatchError::decode_from(event.field_bytes(), client.metadata());
                    return Err(Refused::Named(
                        error.map_or_else(|error| error.to_string(), |error| error_name(&error)),
                    ));
                }
                _ => {}
            }
        }
        Err(at
            .runtime
            .incompatible("event System.ExtrinsicSuccess or ExtrinsicFailed for each extrinsic".to_owned())
            .into())
    }
}

/// The name of a pallet's error without its pallet, and the words of any other.
fn error_name(error: &DispatchError) -> String {
    match error {
        DispatchError::Module(module) => {
            module.details().map_or_else(|_| module.to_string(), |details| details.variant.name.clone())
        }
        other => other.to_string(),
    }
}

async fn next_status(
    watch: &mut Option<RpcSubscription<TransactionStatus<H256>>>,
) -> Option<Result<TransactionStatus<H256>, rpcs::Error>> {
    match watch {
        Some(watch) => watch.next().await,
        None => std::future::pending().await,
    }
}

/// Tells what a node says about a transaction, and whether it will say more.
fn tell(status: Option<Result<TransactionStatus<H256>, rpcs::Error>>, call: &'static str) -> bool {
    match status {
        Some(Ok(TransactionStatus::Retracted(block))) => {
            tracing::warn!(call, %block, "the block that held a call was taken back");
            true
        }
        Some(Ok(TransactionStatus::InBlock(block))) => {
            tracing::debug!(call, %block, "in a block, not final yet");
            true
        }
        Some(Ok(TransactionStatus::Future | TransactionStatus::Ready | TransactionStatus::Broadcast(_))) => true,
        Some(Ok(last)) => {
            tracing::debug!(call, ?last, "the node says no more");
            false
        }
        Some(Err(error)) => {
            tracing::info!(call, %error, "the node's word on a call was lost");
            false
        }
        None => false,
    }
}

/// Encodes and signs a call: valid for some blocks behind its anchor, with the chain's genesis and runtime version in what is signed.
///
/// # Errors
/// [`ChainError::Incompatible`] if the runtime has no such call.
pub(super) fn sign(
    runtime: &Runtime,
    genesis: GenesisHash,
    keypair: &Keypair,
    call: &Call,
    nonce: u64,
    (anchor, blocks): (Tip, u64),
) -> Result<Vec<u8>, ChainError> {
    runtime.check_call(call.form)?;
    let wrong = |error: subxt::error::ExtrinsicError| {
        runtime.incompatible(format!("call {}.{} ({error})", call.form.pallet, call.form.name))
    };
    let params = DefaultExtrinsicParamsBuilder::<SubstrateConfig>::new()
        .nonce(nonce)
        .mortal_from_unchecked(blocks, anchor.number, anchor.hash)
        .build();
    let client = runtime.client(genesis)?;
    let transactions = client.transactions();
    let mut signable = transactions.create_signable_offline(&call.payload, params).map_err(wrong)?;
    let signature = keypair.sign(&signable.signer_payload().map_err(wrong)?);
    let account = AccountId32(keypair.public_key().0);
    let signed = signable.sign_with_account_and_signature(&account, &MultiSignature::Sr25519(signature.0));
    Ok(signed.map_err(wrong)?.into_encoded())
}

impl Runtime {
    /// A client that needs no connection, to encode and decode with.
    pub(super) fn client(&self, genesis: GenesisHash) -> Result<OfflineClientAtBlock<SubstrateConfig>, ChainError> {
        let version = SpecVersionForRange {
            block_range: 0..u64::MAX,
            spec_version: self.spec_version,
            transaction_version: self.transaction_version,
        };
        let config = SubstrateConfig::builder()
            .set_genesis_hash(H256(*genesis.as_bytes()))
            .set_metadata_for_spec_versions([(self.spec_version, Arc::clone(&self.metadata))])
            .set_spec_version_for_block_ranges([version])
            .build();
        OfflineClient::new_with_config(config)
            .at_block(0_u64)
            .map_err(|error| self.incompatible(format!("version {} ({error})", self.spec_version)))
    }
}
