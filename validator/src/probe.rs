//! Whether this machine itself can still hold a conversation.
//!
//! A miner that falls silent is charged with it. Before that, the validator makes sure that the
//! silence is not its own: a process without file descriptors, a network stack that is gone or a
//! machine too busy to keep deadlines would be silent with every miner at once. That several miners
//! fall silent together proves nothing; they may have agreed on it.

use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tracing::warn;

/// A round trip over the loopback takes well under a millisecond; a machine that needs this long
/// cannot say who was late.
const ROUND_TRIP: Duration = Duration::from_secs(1);

/// Whether a byte comes back over the loopback in time.
pub(crate) async fn loopback_works() -> bool {
    match timeout(ROUND_TRIP, round_trip()).await {
        Ok(Ok(())) => true,
        Ok(Err(error)) => {
            warn!(%error, "our own loopback does not work: silence is not held against miners");
            false
        }
        Err(_) => {
            warn!("our own loopback is too slow: silence is not held against miners");
            false
        }
    }
}

async fn round_trip() -> std::io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    let (accepted, connected) = tokio::join!(listener.accept(), TcpStream::connect(address));
    let ((mut accepted, _), mut connected) = (accepted?, connected?);
    connected.write_all(&[1]).await?;
    let byte = accepted.read_u8().await?;
    accepted.write_all(&[byte]).await?;
    connected.read_u8().await.map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_machine_in_order_answers_itself() {
        assert!(loopback_works().await);
    }
}
