//! A proxy between two programs that cuts, delays, swallows, and answers in the other's place. Over TCP, or over the Unix
//! socket of a database, so that commits lose their answers for real.
//!
//! What arrives from the client in one piece counts as one request: true of the small messages that pass here.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use super::hostile::Hostile;
use crate::sim::dice::Dice;

const CHUNK_BYTES: usize = 16 * 1024;
/// A connection that is swallowed is held for so long at most.
const SWALLOWED_MAX: Duration = Duration::from_secs(20);
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// A slow answer takes so long per byte.
const SLOW_BYTE: Duration = Duration::from_millis(40);
/// A listener that cannot accept (too many files) tries again after this.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What the proxy does now. Shares are thousandths of the requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Everything passes.
    Clean,
    /// The connection ends in the middle of a request.
    CutRequests {
        /// Of a thousand.
        share: u64,
        /// With a reset instead of a goodbye.
        reset: bool,
    },
    /// The connection ends before or within the answer.
    CutAnswers {
        /// Of a thousand.
        share: u64,
        /// With a reset instead of a goodbye.
        reset: bool,
    },
    /// Answers come later.
    Delay {
        /// Of a thousand.
        share: u64,
        /// The longest delay, milliseconds.
        max_ms: u64,
    },
    /// Half-open: connections are taken, nothing passes in either direction.
    Swallow,
    /// Answers come byte by byte.
    Slow {
        /// Of a thousand.
        share: u64,
    },
    /// The true answer is thrown away, and this comes instead.
    Hostile {
        /// Of a thousand.
        share: u64,
        /// What.
        kind: Hostile,
    },
    /// Every new connection and every request ends in a reset.
    ResetAll,
    /// The client's process is killed at the first passing of this point.
    Kill {
        /// The process.
        pid: u32,
        /// Where.
        at: WirePoint,
    },
}

/// Crash points on the wire, which only the other end can see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WirePoint {
    /// The connection stands; no byte was written.
    Connected,
    /// The first byte is out; the rest never reaches the other end.
    FirstByteWritten,
    /// The whole request is out; no answer.
    LastByteWritten,
    /// The answer is on its way.
    AnswerBegun,
}

impl WirePoint {
    /// All of them.
    pub const ALL: &'static [Self] =
        &[Self::Connected, Self::FirstByteWritten, Self::LastByteWritten, Self::AnswerBegun];

    /// As reports show it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::FirstByteWritten => "first_byte_written",
            Self::LastByteWritten => "last_byte_written",
            Self::AnswerBegun => "answer_begun",
        }
    }
}

/// A running proxy; its tasks end with the runtime.
#[derive(Debug, Clone)]
pub struct Proxy(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    upstream: Mutex<Vec<Upstream>>,
    mode: Mutex<Mode>,
    dice: Dice,
    turn: AtomicU64,
    /// How often somebody was to be killed: connections that are older than that are of a dead process.
    victims: AtomicU64,
    done: AtomicU64,
}

/// Where a proxy forwards to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Upstream {
    /// `address:port`.
    Tcp(String),
    /// A socket's path.
    Unix(PathBuf),
}

impl Proxy {
    /// Listens on a free port of loopback; gives its address. Must be called within a runtime.
    ///
    /// # Errors
    /// What the system said.
    pub async fn tcp(upstream: Vec<Upstream>, seed: u64) -> io::Result<(Self, String)> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        let proxy = Self::new(upstream, seed);
        let own = proxy.clone();
        tokio::spawn(async move {
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => own.clone().serve(Stream::Tcp(stream)),
                    Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
                }
            }
        });
        Ok((proxy, address))
    }

    /// Listens on a Unix socket. Must be called within a runtime.
    ///
    /// # Errors
    /// What the system said.
    pub fn unix(path: &std::path::Path, upstream: Vec<Upstream>, seed: u64) -> io::Result<Self> {
        let listener = UnixListener::bind(path)?;
        let proxy = Self::new(upstream, seed);
        let own = proxy.clone();
        tokio::spawn(async move {
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => own.clone().serve(Stream::Unix(stream)),
                    Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
                }
            }
        });
        Ok(proxy)
    }

    fn new(upstream: Vec<Upstream>, seed: u64) -> Self {
        Self(Arc::new(Inner {
            upstream: Mutex::new(upstream),
            mode: Mutex::new(Mode::Clean),
            dice: Dice::new(seed, 0xC4A0),
            turn: AtomicU64::new(0),
            victims: AtomicU64::new(0),
            done: AtomicU64::new(0),
        }))
    }

    /// From now on.
    pub fn set(&self, mode: Mode) {
        if matches!(mode, Mode::Kill { .. }) {
            self.0.victims.fetch_add(1, Ordering::SeqCst);
        }
        *self.0.mode.lock().unwrap_or_else(PoisonError::into_inner) = mode;
    }

    /// Requests that met a fault so far.
    #[must_use]
    pub fn faults_done(&self) -> u64 {
        self.0.done.load(Ordering::SeqCst)
    }

    fn mode(&self) -> Mode {
        *self.0.mode.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(self, client: Stream) {
        tokio::spawn(async move {
            let _ = self.connection(client).await; // whose connection broke is told by its ends
        });
    }

    async fn connection(&self, mut client: Stream) -> io::Result<()> {
        let victim = self.0.victims.load(Ordering::SeqCst);
        if self.kills_at(victim, WirePoint::Connected) {
            return Ok(());
        }
        if self.mode() == Mode::ResetAll {
            self.hit();
            return client.cut(true).await;
        }
        let mut server = self.dial().await?;
        let (mut up, mut down) = (vec![0; CHUNK_BYTES], vec![0; CHUNK_BYTES]);
        let mut owed = Fate::Pass;
        loop {
            tokio::select! {
                biased;
                read = client.read(&mut up) => {
                    let bytes = read?;
                    if bytes == 0 {
                        return Ok(());
                    }
                    let request = up.get(..bytes).unwrap_or_default();
                    owed = self.fate();
                    match owed {
                        Fate::CutRequest { reset } => {
                            let part = self.0.dice.below(bytes as u64) as usize;
                            server.write_all(request.get(..part).unwrap_or_default()).await?;
                            return client.cut(reset).await;
                        }
                        Fate::Swallow => return self.swallow(client, server).await,
                        Fate::Reset => return client.cut(true).await,
                        _ => {}
                    }
                    if self.is_victim(victim, WirePoint::FirstByteWritten) {
                        server.write_all(request.get(..1).unwrap_or_default()).await?;
                        self.kills_at(victim, WirePoint::FirstByteWritten);
                        return Ok(());
                    }
                    server.write_all(request).await?;
                    if self.kills_at(victim, WirePoint::LastByteWritten) {
                        return Ok(());
                    }
                }
                read = server.read(&mut down) => {
                    let bytes = read?;
                    if bytes == 0 {
                        return Ok(());
                    }
                    let answer = down.get(..bytes).unwrap_or_default();
                    if self.is_victim(victim, WirePoint::AnswerBegun) {
                        client.write_all(answer.get(..bytes / 2).unwrap_or_default()).await?;
                        self.kills_at(victim, WirePoint::AnswerBegun);
                        return Ok(());
                    }
                    match std::mem::replace(&mut owed, Fate::Pass) {
                        Fate::CutAnswer { reset } => {
                            let part = self.0.dice.below(bytes as u64) as usize;
                            client.write_all(answer.get(..part).unwrap_or_default()).await?;
                            return client.cut(reset).await;
                        }
                        Fate::Hostile(kind) => {
                            drop(server);
                            return kind.answer(&self.0.dice, &mut client).await;
                        }
                        Fate::Late(pause) => {
                            tokio::time::sleep(pause).await;
                            client.write_all(answer).await?;
                        }
                        Fate::Slow => {
                            for byte in answer.chunks(1) {
                                client.write_all(byte).await?;
                                tokio::time::sleep(SLOW_BYTE).await;
                            }
                        }
                        _ => client.write_all(answer).await?,
                    }
                }
            }
        }
    }

    /// The next one that takes a connection, each in its turn.
    async fn dial(&self) -> io::Result<Stream> {
        let all = self.0.upstream.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let from = self.0.turn.fetch_add(1, Ordering::Relaxed) as usize;
        let mut failed = io::Error::from(io::ErrorKind::ConnectionRefused);
        for place in 0..all.len() {
            let dialled = match all.get((from + place) % all.len()) {
                Some(Upstream::Tcp(address)) => TcpStream::connect(address).await.map(Stream::Tcp),
                Some(Upstream::Unix(path)) => UnixStream::connect(path).await.map(Stream::Unix),
                None => continue,
            };
            match dialled {
                Ok(stream) => return Ok(stream),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    /// Nothing passes until the mode is another; then both ends are closed.
    async fn swallow(&self, client: Stream, server: Stream) -> io::Result<()> {
        let until = tokio::time::Instant::now() + SWALLOWED_MAX;
        while self.mode() == Mode::Swallow && tokio::time::Instant::now() < until {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        drop((client, server));
        Ok(())
    }

    fn fate(&self) -> Fate {
        let hits = |share| self.0.dice.permille(share);
        let fate = match self.mode() {
            Mode::CutRequests { share, reset } if hits(share) => Fate::CutRequest { reset },
            Mode::CutAnswers { share, reset } if hits(share) => Fate::CutAnswer { reset },
            Mode::Delay { share, max_ms } if hits(share) => Fate::Late(self.0.dice.millis(1, max_ms)),
            Mode::Swallow => Fate::Swallow,
            Mode::Slow { share } if hits(share) => Fate::Slow,
            Mode::Hostile { share, kind } if hits(share) => Fate::Hostile(kind),
            Mode::ResetAll => Fate::Reset,
            _ => return Fate::Pass,
        };
        self.hit();
        fate
    }

    fn hit(&self) {
        self.0.done.fetch_add(1, Ordering::SeqCst);
    }

    /// Whether a connection's process is to die here.
    fn is_victim(&self, victim: u64, point: WirePoint) -> bool {
        self.0.victims.load(Ordering::SeqCst) == victim
            && matches!(self.mode(), Mode::Kill { at, .. } if at == point)
    }

    /// Kills the client's process where that is asked for; once.
    fn kills_at(&self, victim: u64, point: WirePoint) -> bool {
        if self.0.victims.load(Ordering::SeqCst) != victim {
            return false;
        }
        let mut mode = self.0.mode.lock().unwrap_or_else(PoisonError::into_inner);
        let Mode::Kill { pid, at } = *mode else { return false };
        if at != point {
            return false;
        }
        *mode = Mode::Clean;
        if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::KILL); // it may have died of something else
        }
        self.hit();
        true
    }
}

/// What happens to one request.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Pass,
    CutRequest { reset: bool },
    CutAnswer { reset: bool },
    Late(Duration),
    Swallow,
    Slow,
    Hostile(Hostile),
    Reset,
}

/// One end.
#[derive(Debug)]
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    async fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(into).await,
            Self::Unix(stream) => stream.read(into).await,
        }
    }

    pub(super) async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.write_all(bytes).await,
            Self::Unix(stream) => stream.write_all(bytes).await,
        }
    }

    /// Ends it: with a reset, where the protocol knows such.
    async fn cut(self, reset: bool) -> io::Result<()> {
        match self {
            Self::Tcp(stream) if reset => stream.set_zero_linger(),
            Self::Tcp(mut stream) => stream.shutdown().await,
            Self::Unix(mut stream) => stream.shutdown().await,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// A server that answers each piece with "answer to " and the piece.
    async fn echo() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut piece = [0; 64];
                    while let Ok(bytes @ 1..) = stream.read(&mut piece).await {
                        let answer = [b"answer to ", &piece[..bytes]].concat();
                        if stream.write_all(&answer).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        address
    }

    async fn said(address: &str) -> Result<Vec<u8>, io::ErrorKind> {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"request").await.map_err(|error| error.kind())?;
        let mut answer = Vec::new();
        let mut piece = [0; 4096];
        while answer.len() < 17 {
            match stream.read(&mut piece).await.map_err(|error| error.kind())? {
                0 => break,
                bytes => answer.extend_from_slice(&piece[..bytes]),
            }
        }
        Ok(answer)
    }

    #[tokio::test]
    async fn each_mode_does_what_it_says() {
        let (proxy, address) = Proxy::tcp(vec![Upstream::Tcp(echo().await)], 1).await.unwrap();
        let whole = b"answer to request".to_vec();
        assert_eq!(said(&address).await, Ok(whole.clone()));
        proxy.set(Mode::CutAnswers { share: 1_000, reset: false });
        let cut = said(&address).await.unwrap();
        assert!(cut.len() < whole.len() && whole.starts_with(&cut), "{cut:?}");
        for mode in [
            Mode::CutAnswers { share: 1_000, reset: true },
            Mode::CutRequests { share: 1_000, reset: true },
            Mode::ResetAll,
        ] {
            proxy.set(mode);
            assert_eq!(said(&address).await, Err(io::ErrorKind::ConnectionReset), "{mode:?}");
        }
        proxy.set(Mode::Slow { share: 1_000 });
        let began = std::time::Instant::now();
        assert_eq!(said(&address).await, Ok(whole.clone()));
        assert!(began.elapsed() >= SLOW_BYTE * 16, "{:?}", began.elapsed());
        proxy.set(Mode::Hostile { share: 1_000, kind: Hostile::DeepJson });
        assert!(said(&address).await.unwrap().starts_with(b"HTTP/1.1 200"));
        proxy.set(Mode::Swallow);
        let swallowed = tokio::time::timeout(Duration::from_millis(200), said(&address)).await;
        assert!(swallowed.is_err(), "{swallowed:?}");
        proxy.set(Mode::Clean);
        assert_eq!(said(&address).await, Ok(whole));
        assert!(proxy.faults_done() >= 6);
    }

    #[tokio::test]
    async fn the_next_end_takes_over_when_one_is_gone() {
        let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
        let all = vec![Upstream::Tcp(gone), Upstream::Tcp(echo().await)];
        let (_, address) = Proxy::tcp(all, 1).await.unwrap();
        for _ in 0..4 {
            assert_eq!(said(&address).await, Ok(b"answer to request".to_vec()));
        }
    }
}
