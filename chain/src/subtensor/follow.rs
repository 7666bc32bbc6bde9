//! The newest final block, followed by subscription.
//!
//! The endpoint that is followed is believed about it. Another one, followed later, may be a little behind
//! and is passed over until it has caught up, so that what was final stays it. If it is further behind
//! than nodes of the present can be, then the block that the earlier one claimed does not stand on this
//! chain: the claim falls, whoever waits for something is told, and the endpoint that is followed now is
//! believed in turn. So no claim outlasts the connection it came by for long.

use std::{sync::Arc, time::Duration};

use subxt::{config::substrate::SubstrateHeader, rpcs, utils::H256};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use super::link::{Link, Links, unreachable};
use crate::{error::ChainError, types::BlockNumber};

/// Silence after which a node is asked whether it is still there. Blocks come every 12 s, or when somebody
/// makes one.
const SILENCE: Duration = Duration::from_secs(40);
const PAUSE: Duration = Duration::from_secs(1);
/// Seconds from block to block, to say how far behind a node is.
const BLOCK_S: u64 = 12;
/// Blocks by which one node of the present may be behind another: twenty minutes.
const LAG_MAX: u64 = 100;

/// A final block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tip {
    pub(super) number: u64,
    pub(super) hash: H256,
}

#[derive(Debug, Default)]
struct Followed {
    tip: Option<Tip>,
    /// How often a claim has fallen.
    falls: u64,
    /// How often following failed, and why it did last.
    troubles: u64,
    trouble: Option<ChainError>,
}

/// The newest final block as far as it is known here. Ends with its last owner.
#[derive(Debug)]
pub(super) struct Follower {
    followed: watch::Receiver<Followed>,
}

impl Follower {
    /// Begins to follow, on the runtime that this is called in.
    pub(super) fn start(links: Arc<Links>) -> Self {
        let (sender, followed) = watch::channel(Followed::default());
        tokio::spawn(async move {
            loop {
                let (trouble, followed) = tokio::select! {
                    () = sender.closed() => return,
                    end = follow(&links, &sender) => end,
                };
                tracing::info!(%trouble, "finalised heads are not followed for the moment");
                // A connection that broke is made again before anybody is told.
                if !followed {
                    sender.send_modify(|followed| {
                        followed.troubles += 1;
                        followed.trouble = Some(trouble);
                    });
                }
                tokio::select! {
                    () = sender.closed() => return,
                    () = sleep(PAUSE) => {}
                }
            }
        });
        Self { followed }
    }

    /// The newest final block; the first time, once there is one.
    ///
    /// # Errors
    /// Why heads cannot be followed.
    pub(super) async fn tip(&self) -> Result<Tip, ChainError> {
        let known = self.followed.borrow().tip;
        match known {
            Some(tip) => Ok(tip),
            None => self.wait_for(|_| true).await,
        }
    }

    /// How often a block was claimed to be final that was not. What was found to stand up to one stands on
    /// no chain once this has changed.
    pub(super) fn falls(&self) -> u64 {
        self.followed.borrow().falls
    }

    /// A final block that is wanted, once there is one.
    ///
    /// # Errors
    /// Why heads cannot be followed, if that happens while it is waited for.
    pub(super) async fn wait_for(&self, wanted: impl Fn(Tip) -> bool) -> Result<Tip, ChainError> {
        let mut followed = self.followed.clone();
        let before = followed.borrow().troubles;
        let done = |followed: &Followed| followed.tip.is_some_and(&wanted) || followed.troubles > before;
        let followed = followed.wait_for(done).await;
        let followed = followed.map_err(|_| unreachable("the chain", "nothing follows its heads any more"))?;
        match (followed.tip.filter(|tip| wanted(*tip)), &followed.trouble) {
            (Some(tip), _) => Ok(tip),
            (None, Some(trouble)) => Err(trouble.clone()),
            (None, None) => Err(unreachable("the chain", "it has no final block")),
        }
    }
}

/// Follows on one connection until it breaks: why it did, and whether it had told a head.
async fn follow(links: &Links, sender: &watch::Sender<Followed>) -> (ChainError, bool) {
    let link = match links.link().await {
        Ok(link) => link,
        Err(error) => return (error, false),
    };
    let first = match begin(&link, sender).await {
        Ok(heads) => heads,
        Err(error) => {
            links.give_up(&link).await;
            return (error, false);
        }
    };
    let trouble = go_on(&link, sender, first).await;
    links.give_up(&link).await;
    (trouble, true)
}

type Heads = rpcs::client::RpcSubscription<SubstrateHeader<H256>>;

async fn begin(link: &Link, sender: &watch::Sender<Followed>) -> Result<Heads, ChainError> {
    let heads = link.methods.chain_subscribe_finalized_heads().await;
    let heads = heads.map_err(|error| unreachable(&link.endpoint, &error.to_string()))?;
    report(link, sender, newest(link).await?)?;
    Ok(heads)
}

async fn go_on(link: &Link, sender: &watch::Sender<Followed>, mut heads: Heads) -> ChainError {
    loop {
        if let Err(trouble) = next(link, sender, &mut heads).await {
            return trouble;
        }
    }
}

async fn next(link: &Link, sender: &watch::Sender<Followed>, heads: &mut Heads) -> Result<(), ChainError> {
    let lost = |error: rpcs::Error| unreachable(&link.endpoint, &error.to_string());
    let number = match timeout(SILENCE, heads.next()).await {
        Ok(Some(head)) => head.map_err(lost)?.number,
        Ok(None) => return Err(unreachable(&link.endpoint, "it ended the subscription to finalised heads")),
        Err(_) => return report(link, sender, newest(link).await?),
    };
    link.check_number("its final block", number)?;
    let hash = link.methods.chain_get_block_hash(Some(number.into())).await.map_err(lost)?;
    // The node may say that a block is final before it finds it by number; the next head will do.
    hash.map_or(Ok(()), |hash| report(link, sender, Tip { number, hash }))
}

/// What a node answers when it is asked.
async fn newest(link: &Link) -> Result<Tip, ChainError> {
    let lost = |error: rpcs::Error| unreachable(&link.endpoint, &error.to_string());
    let hash = link.methods.chain_get_finalized_head().await.map_err(lost)?;
    let header = link.methods.chain_get_header(Some(hash)).await.map_err(lost)?;
    let header = header.ok_or_else(|| unreachable(&link.endpoint, "it has no header of its final block"))?;
    link.check_number("its final block", header.number)?;
    Ok(Tip { number: header.number, hash })
}

fn report(link: &Link, sender: &watch::Sender<Followed>, tip: Tip) -> Result<(), ChainError> {
    let known = sender.borrow().tip.map(|known| known.number);
    if known == Some(tip.number) {
        return Ok(());
    }
    let behind = known.map_or(0, |known| known.saturating_sub(tip.number));
    let trouble = (behind > 0).then(|| ChainError::Behind {
        endpoint: link.endpoint.clone(),
        block: BlockNumber::new(tip.number),
        age_s: behind.saturating_mul(BLOCK_S),
    });
    if let Some(trouble) = trouble.clone().filter(|_| behind <= LAG_MAX) {
        return Err(trouble);
    }
    sender.send_modify(|followed| {
        followed.tip = Some(tip);
        if let Some(trouble) = trouble {
            tracing::warn!(claimed = known, %trouble, "a block was claimed to be final that is not; the claim is dropped");
            followed.falls += 1;
            followed.troubles += 1;
            followed.trouble = Some(trouble);
        }
    });
    Ok(())
}
