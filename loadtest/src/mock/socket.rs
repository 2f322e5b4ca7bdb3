//! One connection's socket: notices when a request has begun to arrive, and can be made to end in a reset.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use std::rc::Rc;
use tokio::net::TcpStream;

/// What the socket and the request handler tell each other.
#[derive(Default)]
pub(super) struct Watch {
    /// The tick at which the request now arriving began; 0 while none arrives. Idle connections may stay as long as they like.
    arriving_since_tick: Cell<u64>,
    answering: Cell<bool>,
    reset: Cell<bool>,
    ticks: Rc<Cell<u64>>,
}

impl Watch {
    pub(super) fn new(ticks: Rc<Cell<u64>>) -> Self {
        Self { ticks, ..Self::default() }
    }

    /// How many ticks a request has been arriving.
    pub(super) fn arriving_ticks(&self) -> u64 {
        match self.arriving_since_tick.get() {
            0 => 0,
            since => self.ticks.get().saturating_sub(since),
        }
    }

    /// The whole request is here; bytes that come now are not yet waited for.
    pub(super) fn arrived(&self) {
        self.arriving_since_tick.set(0);
        self.answering.set(true);
    }

    pub(super) fn answered(&self) {
        self.answering.set(false);
    }

    /// The connection will end with a reset instead of a goodbye.
    pub(super) fn reset(&self) {
        self.reset.set(true);
    }

    fn bytes_came(&self) {
        if !self.answering.get() && self.arriving_since_tick.get() == 0 {
            self.arriving_since_tick.set(self.ticks.get());
        }
    }
}

/// A TCP stream under a [`Watch`].
pub(super) struct Socket {
    io: TokioIo<TcpStream>,
    watch: Rc<Watch>,
}

impl Socket {
    pub(super) fn new(stream: TcpStream, watch: Rc<Watch>) -> Self {
        Self { io: TokioIo::new(stream), watch }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.watch.reset.get() {
            // When this fails the peer sees a plain close, which says as little.
            let _ = self.io.inner().set_zero_linger();
        }
    }
}

impl Read for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.io).poll_read(cx, buf);
        if polled.is_ready() {
            self.watch.bytes_came();
        }
        polled
    }
}

impl Write for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.watch.reset.get() {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
