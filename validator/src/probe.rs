//! Whether this machine itself can still hold a conversation.
//!
//! A miner that falls silent is charged with it. Before that, the validator makes sure that the
//! silence is not its own: a process without file descriptors, a network stack that is gone or a
//! machine too busy to keep deadlines would be silent with every miner at once. That several miners
//! fall silent together proves nothing; they may have agreed on it.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use tracing::warn;

/// A round trip over the loopback takes well under a millisecond; a machine that needs this long
/// cannot say who was late.
const ROUND_TRIP: Duration = Duration::from_secs(1);

/// Whether a byte comes back over the loopback in time. Tried on a thread of its own: sessions that keep the
/// others busy must not look like a network that is gone.
pub(crate) async fn loopback_works() -> bool {
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
}
