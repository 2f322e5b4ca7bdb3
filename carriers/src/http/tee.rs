//! Records what goes over the wire: the exact bytes of one exchange, and whether any of ours left.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// The transport under HTTP.
pub(super) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// A stream that keeps a copy of what it carries.
pub(super) struct Tee {
    stream: Stream,
    recording: Arc<Recording>,
}

/// The bytes of the current exchange. One per connection loop, shared with the stream under the connection; never
/// contended, since both live in one tokio task.
#[derive(Default)]
pub(super) struct Recording(Mutex<Taken>);

/// What was recorded.
#[derive(Default)]
pub(super) struct Taken {
    pub(super) request: Vec<u8>,
    pub(super) response: Vec<u8>,
    /// `false` proves that no byte of the request left.
    pub(super) wrote: bool,
    /// The answer grew beyond the limit; reading was stopped.
    pub(super) overflowed: bool,
    response_bytes_max: usize,
}

impl Recording {
    /// Forgets the exchange before and starts a new one.
    pub(super) fn begin(&self, response_bytes_max: usize) {
        let mut taken = self.lock();
        taken.request.clear();
        taken.response.clear();
        taken.wrote = false;
        taken.overflowed = false;
        taken.response_bytes_max = response_bytes_max;
    }

    /// Whether a byte of the current exchange may have left.
    pub(super) fn wrote(&self) -> bool {
        self.lock().wrote
    }

    /// Whether more came than is read, and whether anything came at all.
    pub(super) fn received(&self) -> (bool, bool) {
        let taken = self.lock();
        (taken.overflowed, !taken.response.is_empty())
    }

    /// Gives the record away and leaves an empty one with room for as much.
    pub(super) fn take(&self) -> Taken {
        let mut taken = self.lock();
        let next = Taken {
            request: Vec::with_capacity(taken.request.len().min(ROOM_BYTES)),
            response: Vec::with_capacity(taken.response.len().min(ROOM_BYTES)),
            ..Taken::default()
        };
        std::mem::replace(&mut taken, next)
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Room that is prepared for the next exchange at most: one huge answer must not be paid for ever after.
const ROOM_BYTES: usize = 4_096;

impl Tee {
    pub(super) fn new(stream: Stream, recording: Arc<Recording>) -> Self {
        Self { stream, recording }
    }

    /// Notes the result of one write. For TCP an error means that the kernel took nothing; TLS may have sent a
    /// part before it failed.
    fn note(&self, result: &Poll<io::Result<usize>>, copy: impl FnOnce(usize, &mut Vec<u8>)) {
        match result {
            Poll::Ready(Ok(written)) if *written > 0 => {
                let mut taken = self.recording.lock();
                taken.wrote = true;
                copy(*written, &mut taken.request);
            }
            Poll::Ready(Err(_)) if matches!(self.stream, Stream::Tls(_)) => {
                self.recording.lock().wrote = true
            }
            _ => {}
        }
    }
}

impl AsyncRead for Tee {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        })?;
        let mut taken = self.recording.lock();
        let room = taken.response_bytes_max.saturating_sub(taken.response.len());
        let read = buf.filled().get(before..).unwrap_or(&[]);
        taken.response.extend_from_slice(read.get(..room).unwrap_or(read));
        if read.len() > room {
            taken.overflowed = true;
            return Poll::Ready(Err(io::Error::other("the answer is larger than the limit")));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tee {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        };
        self.note(&result, |written, request| request.extend_from_slice(buf.get(..written).unwrap_or(buf)));
        result
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Stream::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        };
        self.note(&result, |mut written, request| {
            for buf in bufs {
                let part = buf.get(..written).unwrap_or(buf);
                request.extend_from_slice(part);
                written -= part.len();
            }
        });
        result
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Plain(stream) => stream.is_write_vectored(),
            Stream::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
