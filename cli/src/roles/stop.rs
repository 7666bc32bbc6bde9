//! Being told to stop.

use tokio_util::sync::CancellationToken;

use crate::outcome::Fault;

/// A token that is set by SIGTERM or SIGINT. A second one ends the process at once: who sends it does not
/// want to wait, and every role can be killed at any moment.
pub(crate) fn on_signals() -> Result<CancellationToken, Fault> {
    let token = CancellationToken::new();
    let set = token.clone();
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let listen = |kind| signal(kind).map_err(|error| Fault::own(format!("signals cannot be heard: {error}")));
        let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
        tokio::spawn(async move {
            for heard in 0.. {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                told(heard, &set);
            }
        });
    }
    #[cfg(not(unix))]
    tokio::spawn(async move {
        for heard in 0.. {
            if tokio::signal::ctrl_c().await.is_ok() {
                told(heard, &set);
            }
        }
    });
    Ok(token)
}

fn told(heard: u32, token: &CancellationToken) {
    if heard > 0 {
        std::process::exit(crate::outcome::Outcome::Inconclusive as i32);
    }
    tracing::info!("stopping; a second signal stops at once");
    token.cancel();
}
