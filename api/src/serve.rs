//! Over which connections: an accept loop of our own, since `axum::serve` waits for a head without end.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};

use crate::routes::router;
use crate::state::State;

/// After a failed accept (no descriptor left, say) the next one waits this long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// So many failed accepts in a row (10 s of them) mean that the listener is gone.
const ACCEPT_FAILURES_MAX: u32 = 100;

/// Bounds of the listener. Its defaults are what is shipped; tests shorten them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServeOptions {
    /// Open connections; further ones wait in the listener's backlog until one closes.
    pub connections_max: usize,
    /// A head, and the pause before the next one on a kept connection, takes at most this long, milliseconds.
    pub head_timeout_ms: u64,
    /// The largest head, in bytes; at least 8 KiB.
    pub head_bytes_max: usize,
    /// A request is answered within this, milliseconds; half of it is for its body.
    pub request_timeout_ms: u64,
    /// A connection takes no further request after this, milliseconds: bounds those who read slowly.
    pub connection_timeout_ms: u64,
    /// A connection that is told to end (by that bound or because the process stops) is cut after this, milliseconds.
    pub linger_ms: u64,
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self {
            connections_max: 512,
            head_timeout_ms: 10_000,
            head_bytes_max: 16 * 1024,
            request_timeout_ms: 10_000,
            connection_timeout_ms: 60_000,
            linger_ms: 10_000,
        }
    }
}

/// The listener would be reachable from elsewhere, and has no authentication.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("refuses to listen on {0}: there is no authentication yet, so only a loopback address is taken")]
pub struct NotLoopback(
    /// The address.
    pub SocketAddr,
);

/// Refuses addresses that other machines may reach. To be asked before binding what the configuration says.
///
/// # Errors
/// [`NotLoopback`] for every address outside loopback, `0.0.0.0` and `[::]` included.
pub fn require_loopback(address: SocketAddr) -> Result<(), NotLoopback> {
    if address.ip().to_canonical().is_loopback() { Ok(()) } else { Err(NotLoopback(address)) }
}

/// Answers requests until `stop` completes; then closes the listener, lets requests in progress end, and returns.
///
/// # Errors
/// When nothing can be accepted any more.
pub async fn serve(
    listener: TcpListener,
    state: Arc<State>,
    stop: impl Future<Output = ()>,
) -> io::Result<()> {
    serve_with(listener, state, ServeOptions::default(), stop).await
}

/// [`serve`] within other bounds.
///
/// # Errors
/// When nothing can be accepted any more.
pub async fn serve_with(
    listener: TcpListener,
    state: Arc<State>,
    options: ServeOptions,
    stop: impl Future<Output = ()>,
) -> io::Result<()> {
    let on_loopback = require_loopback(listener.local_addr()?).is_ok();
    let router = router(state, Duration::from_millis(options.request_timeout_ms), on_loopback);
    accept_all(listener, router, options, stop).await
}

/// Accepts connections and answers over them until `stop` completes.
pub(crate) async fn accept_all(
    listener: TcpListener,
    router: Router,
    options: ServeOptions,
    stop: impl Future<Output = ()>,
) -> io::Result<()> {
    let (stopping, _) = watch::channel(false);
    let mut connections = JoinSet::new();
    let mut failures = 0;
    tokio::pin!(stop);
    loop {
        let accepted = tokio::select! {
            () = &mut stop => break,
            Some(ended) = connections.join_next() => {
                tell_of_panic(ended);
                continue;
            }
            accepted = listener.accept(), if connections.len() < options.connections_max.max(1) => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                failures = 0;
                connections.spawn(converse(stream, router.clone(), options, stopping.subscribe()));
            }
            Err(error) => {
                failures += 1;
                if failures == 1 {
                    tracing::warn!(%error, "cannot accept connections");
                }
                if failures >= ACCEPT_FAILURES_MAX {
                    return Err(error);
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    stopping.send_replace(true);
    // Each ends by its own deadline, so this does, too.
    while let Some(ended) = connections.join_next().await {
        tell_of_panic(ended);
    }
    Ok(())
}

async fn converse(
    stream: TcpStream,
    router: Router,
    options: ServeOptions,
    mut stopping: watch::Receiver<bool>,
) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_millis(options.head_timeout_ms))
        .max_buf_size(options.head_bytes_max.max(8 * 1024))
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    tokio::pin!(connection);
    let told_to_end = tokio::select! {
        ended = connection.as_mut() => Err(ended),
        _ = stopping.wait_for(|stopping| *stopping) => Ok(()),
        () = tokio::time::sleep(Duration::from_millis(options.connection_timeout_ms)) => Ok(()),
    };
    let ended = match told_to_end {
        Err(ended) => ended,
        Ok(()) => {
            connection.as_mut().graceful_shutdown();
            let linger = Duration::from_millis(options.linger_ms);
            tokio::time::timeout(linger, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}

fn tell_of_panic(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a connection's handler died");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_loopback_is_listened_on() {
        for good in ["127.0.0.1:0", "127.8.8.8:80", "[::1]:0", "[::ffff:127.0.0.1]:0"] {
            assert_eq!(require_loopback(good.parse().unwrap()), Ok(()), "{good}");
        }
        for bad in
            ["0.0.0.0:0", "[::]:0", "10.0.0.1:80", "169.254.0.1:80", "[fe80::1]:80", "[::ffff:10.0.0.1]:0"]
        {
            assert!(require_loopback(bad.parse().unwrap()).is_err(), "{bad}");
        }
        let said = require_loopback("0.0.0.0:80".parse().unwrap()).unwrap_err().to_string();
        assert!(said.contains("0.0.0.0:80") && said.contains("no authentication"), "{said}");
    }
}
