//! Whether this machine itself can still hold a conversation.
//!
//! A miner that falls silent is charged with it. Before that, the validator makes sure that the
//! silence is not its own: a process without file descriptors, a network stack that is gone, a
//! machine too busy to keep deadlines or one whose way to the world is cut would be silent with every
//! miner at once. That several miners fall silent together proves nothing; they may have agreed on it.
//! So it speaks with itself, over the loopback, and with the chain, which no miner has in its hands.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::pin::Pin;
use std::time::{Duration, Instant};

use assay_chain::{Chain, ChainError};
use tokio::time::timeout;
use tracing::warn;

/// A round trip over the loopback takes well under a millisecond; a machine that needs this long
/// cannot say who was late.
const ROUND_TRIP: Duration = Duration::from_secs(1);
/// How long the chain may take to answer.
const CHAIN: Duration = Duration::from_secs(5);

/// A chain that is asked for nothing but whether it is there.
pub(crate) trait Reach: Send + Sync {
    fn reached(&self) -> Pin<Box<dyn Future<Output = Result<(), ChainError>> + Send + '_>>;
}

impl<C: Chain> Reach for C {
    fn reached(&self) -> Pin<Box<dyn Future<Output = Result<(), ChainError>> + Send + '_>> {
        Box::pin(self.reach())
    }
}

/// Whether this machine hears itself and the chain.
pub(crate) async fn is_connected(chain: &dyn Reach) -> bool {
    loopback_works().await && chain_answers(chain).await
}

async fn chain_answers(chain: &dyn Reach) -> bool {
    let why = match timeout(CHAIN, chain.reached()).await {
        Ok(Ok(())) => return true,
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer within {} s", CHAIN.as_secs()),
    };
    warn!(why, "the chain cannot be reached either: silence is not held against miners");
    false
}

/// Whether a byte comes back over the loopback in time. Tried on a thread of its own: sessions that keep the
/// others busy must not look like a network that is gone.
async fn loopback_works() -> bool {
    let tried = tokio::task::spawn_blocking(|| {
        let begun = Instant::now();
        round_trip().map(|()| begun.elapsed())
    });
    match tried.await {
        Ok(Ok(taken)) if taken <= ROUND_TRIP => true,
        Ok(Ok(_)) => {
            warn!("our own loopback is too slow: silence is not held against miners");
            false
        }
        Ok(Err(error)) => {
            warn!(%error, "our own loopback does not work: silence is not held against miners");
            false
        }
        Err(error) => {
            warn!(%error, "our own loopback was not tried: silence is not held against miners");
            false
        }
    }
}

fn round_trip() -> std::io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    // The system takes a connection up before anybody accepts it.
    let mut connected = TcpStream::connect_timeout(&listener.local_addr()?, ROUND_TRIP)?;
    let (mut accepted, _) = listener.accept()?;
    for stream in [&connected, &accepted] {
        stream.set_read_timeout(Some(ROUND_TRIP))?;
        stream.set_write_timeout(Some(ROUND_TRIP))?;
    }
    let mut byte = [1];
    connected.write_all(&byte)?;
    accepted.read_exact(&mut byte)?;
    accepted.write_all(&byte)?;
    connected.read_exact(&mut byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_machine_in_order_answers_itself() {
        assert!(loopback_works().await);
    }

    /// A chain that answers after a while, or refuses.
    struct Distant(Duration, Result<(), ChainError>);

    impl Reach for Distant {
        fn reached(&self) -> Pin<Box<dyn Future<Output = Result<(), ChainError>> + Send + '_>> {
            Box::pin(async {
                tokio::time::sleep(self.0).await;
                self.1.clone()
            })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_chain_that_is_slow_or_gone_is_not_reached() {
        assert!(chain_answers(&Distant(CHAIN / 2, Ok(()))).await);
        assert!(!chain_answers(&Distant(CHAIN * 2, Ok(()))).await, "and does not hold anybody up");
        let gone = ChainError::Unreachable { endpoint: "ws://chain".to_owned(), why: "gone".to_owned() };
        assert!(!chain_answers(&Distant(Duration::ZERO, Err(gone))).await);
    }
}
