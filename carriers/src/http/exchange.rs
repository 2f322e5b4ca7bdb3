//! One HTTP/1.1 connection and one exchange at a time over it.
//!
//! The connection is driven by the same tokio task that waits for the answer: no wake-up crosses threads.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, Sleep};

use super::tee::{Recording, Stream, Tee};

/// Bytes of the longest answer head.
pub(super) const HEAD_BYTES_MAX: usize = 16 * 1024;

/// An open connection.
pub(super) struct Connection {
    sender: http1::SendRequest<Full<Bytes>>,
    driver: Pin<Box<http1::Connection<TokioIo<Tee>, Full<Bytes>>>>,
    /// The driver has ended and must not be polled again.
    ended: bool,
}

/// A complete answer.
pub(super) struct Complete {
    pub(super) head: http::response::Parts,
    pub(super) body: Bytes,
}

/// Why there is no complete answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Broken {
    /// The deadline passed.
    Late,
    /// The connection ended, or failed.
    Lost,
    /// Something came that is not HTTP, or more of it than is read.
    Unreadable,
}

impl Connection {
    pub(super) async fn open(stream: Stream, recording: Arc<Recording>) -> Result<Self, hyper::Error> {
        let io = TokioIo::new(Tee::new(stream, recording));
        let (sender, driver) =
            http1::Builder::new().max_buf_size(HEAD_BYTES_MAX).writev(false).handshake(io).await?;
        Ok(Self { sender, driver: Box::pin(driver), ended: false })
    }

    /// Lets the connection notice what happened to it; `Ready` when it has ended.
    pub(super) fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.ended && self.driver.as_mut().poll(cx).is_ready() {
            self.ended = true;
        }
        if self.ended { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Whether a request may be handed to it now.
    pub(super) async fn usable(&mut self, clock: &mut Clock, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        std::future::poll_fn(|cx| {
            if self.poll_end(cx).is_ready() {
                return Poll::Ready(false);
            }
            match self.sender.poll_ready(cx) {
                Poll::Ready(ready) => Poll::Ready(ready.is_ok()),
                Poll::Pending => clock.poll_until(deadline, cx).map(|()| false),
            }
        })
        .await
    }

    /// Sends a request and reads the whole answer. After an error the connection must be dropped.
    pub(super) async fn exchange(
        &mut self,
        request: Request<Full<Bytes>>,
        body_bytes_max: usize,
        clock: &mut Clock,
        deadline: Instant,
    ) -> Result<Complete, Broken> {
        let answer = self.sender.send_request(request);
        let answer: Response<Incoming> =
            self.drive(answer, clock, deadline).await?.map_err(|e| broken(&e))?;
        let (head, mut body) = answer.into_parts();
        if body.size_hint().lower() > body_bytes_max as u64 {
            return Err(Broken::Unreadable);
        }
        let mut gathered = Gathered::Nothing;
        while let Some(frame) = self.drive(next_frame(&mut body), clock, deadline).await? {
            // Trailers say nothing that a rule may read.
            let Ok(data) = frame.map_err(|e| broken(&e))?.into_data() else { continue };
            if gathered.len() + data.len() > body_bytes_max {
                return Err(Broken::Unreadable);
            }
            gathered = gathered.and(data);
        }
        Ok(Complete { head, body: gathered.into_bytes() })
    }

    /// Drives the connection until `wanted` is there or the deadline has passed.
    async fn drive<T>(
        &mut self,
        wanted: impl Future<Output = T>,
        clock: &mut Clock,
        deadline: Instant,
    ) -> Result<T, Broken> {
        let mut wanted = pin!(wanted);
        std::future::poll_fn(|cx| {
            // An ended connection has told the one who waits; its future must still be asked.
            let ended = self.poll_end(cx).is_ready();
            if let Poll::Ready(value) = wanted.as_mut().poll(cx) {
                return Poll::Ready(Ok(value));
            }
            if ended {
                return Poll::Ready(Err(Broken::Lost));
            }
            clock.poll_until(deadline, cx).map(|()| Err(Broken::Late))
        })
        .await
    }
}

async fn next_frame(body: &mut Incoming) -> Option<Result<hyper::body::Frame<Bytes>, hyper::Error>> {
    std::future::poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await
}

fn broken(error: &hyper::Error) -> Broken {
    if error.is_parse() { Broken::Unreadable } else { Broken::Lost }
}

/// A body in one piece, copied only when it came in several.
enum Gathered {
    Nothing,
    One(Bytes),
    Many(Vec<u8>),
}

impl Gathered {
    fn len(&self) -> usize {
        match self {
            Self::Nothing => 0,
            Self::One(data) => data.len(),
            Self::Many(data) => data.len(),
        }
    }

    fn and(self, data: Bytes) -> Self {
        match self {
            Self::Nothing => Self::One(data),
            Self::One(first) => Self::Many([first, data].concat()),
            Self::Many(mut all) => {
                all.extend_from_slice(&data);
                Self::Many(all)
            }
        }
    }

    fn into_bytes(self) -> Bytes {
        match self {
            Self::Nothing => Bytes::new(),
            Self::One(data) => data,
            Self::Many(data) => data.into(),
        }
    }
}

/// One timer for all deadlines of a connection loop. It is set anew only when it has run out before the deadline
/// that is asked for, so a deadline that is not reached costs nothing.
pub(super) struct Clock {
    sleep: Pin<Box<Sleep>>,
}

impl Clock {
    pub(super) fn new() -> Self {
        Self { sleep: Box::pin(tokio::time::sleep(Duration::ZERO)) }
    }

    /// `Ready` when the deadline has passed.
    pub(super) fn poll_until(&mut self, deadline: Instant, cx: &mut Context<'_>) -> Poll<()> {
        // A timer that runs out later than the deadline would be late.
        if self.sleep.deadline() > deadline {
            self.sleep.as_mut().reset(deadline);
        }
        while self.sleep.as_mut().poll(cx).is_ready() {
            if Instant::now() >= deadline {
                return Poll::Ready(());
            }
            self.sleep.as_mut().reset(deadline);
        }
        Poll::Pending
    }
}
