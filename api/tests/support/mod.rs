//! A listener on loopback with a worker made of a history in memory, and a client that speaks in raw bytes.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use api::{Running, ServeOptions, State, serve_with};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusRecorder};
use scheduler::{LaneReport, LatencyReport, WorkerReport};
use storage::history::{Digest, HistoryFuture, HistoryKey, HistoryStore, MemoryHistory, Room, SealedRow};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinHandle;

/// What no test should ever wait for.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// A listener that serves until it is stopped.
pub(crate) struct Served {
    pub(crate) address: SocketAddr,
    pub(crate) state: Arc<State>,
    pub(crate) recorder: PrometheusRecorder,
    stop: Option<oneshot::Sender<()>>,
    serving: JoinHandle<io::Result<()>>,
}

impl Served {
    pub(crate) async fn start(options: ServeOptions) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let recorder = PrometheusBuilder::new().build_recorder();
        let state = Arc::new(State::new(recorder.handle()));
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = tokio::spawn(serve_with(listener, Arc::clone(&state), options, async {
            let _ = stopped.await;
        }));
        Self { address, state, recorder, stop: Some(stop), serving }
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn begin_to_stop(&mut self) {
        let _ = self.stop.take().unwrap().send(());
    }

    /// Stops and waits for the end.
    pub(crate) async fn stop(mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        tokio::time::timeout(DEADLINE, self.serving).await.expect("stops").unwrap().unwrap();
    }

    /// Sends one request on a connection of its own.
    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(format!("GET {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", self.address)).await
    }

    /// Sends these bytes on a connection of its own and reads to the end.
    pub(crate) async fn send(&self, request: impl AsRef<[u8]>) -> Answer {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_ref()).await.unwrap();
        Answer::of(&read_to_end(&mut stream).await)
    }
}

/// Reads until the server closes.
pub(crate) async fn read_to_end(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    // A reset after the answer is an end, too.
    let _ = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut bytes)).await.expect("the server closes");
    bytes
}

/// An answer, taken apart.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn of(bytes: &[u8]) -> Self {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").expect("a head");
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap().to_lowercase();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Self { status, head, body: bytes[end + 4..].to_vec() }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    /// Asserts that this is a problem of this status and code, whole.
    #[track_caller]
    pub(crate) fn assert_problem(&self, status: u16, code: &str) -> serde_json::Value {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let problem = self.json();
        assert_eq!(problem["code"], code);
        assert_eq!(problem["type"], format!("urn:tollbook:problem:{code}"));
        assert_eq!(problem["status"], status);
        assert!(!problem["title"].as_str().unwrap().is_empty());
        assert_eq!(problem["request_id"].as_str(), self.header("x-request-id"));
        problem
    }
}

/// A worker that runs as far as the listener can tell.
pub(crate) struct TestWorker {
    pub(crate) not_ready: Mutex<Option<&'static str>>,
    pub(crate) history: Arc<GatedHistory>,
    latency: Mutex<LatencyReport>,
}

pub(crate) const LATENCY: LatencyReport =
    LatencyReport { p50_us: 9_000, p99_us: 41_000, max_us: 80_001, count: 7 };
const NO_LATENCY: LatencyReport = LatencyReport { p50_us: 0, p99_us: 0, max_us: 0, count: 0 };

impl TestWorker {
    pub(crate) fn new() -> Arc<Self> {
        let history =
            GatedHistory { inner: MemoryHistory::new(), gate: Semaphore::new(Semaphore::MAX_PERMITS) };
        Arc::new(Self {
            not_ready: Mutex::default(),
            history: Arc::new(history),
            latency: Mutex::new(LATENCY),
        })
    }
}

impl Running for TestWorker {
    fn report(&self) -> WorkerReport {
        let not_ready = *self.not_ready.lock().unwrap();
        WorkerReport {
            slot: 3,
            incarnation: i64::MIN + 1,
            epoch: 5,
            ready: not_ready.is_none(),
            not_ready,
            business_at: "2026-11-21T06:00:00Z".to_owned(),
            clock_ahead_ms: -3,
            book_version: 1,
            shards: 16,
            quarantined: 0,
            wheel: 20_000,
            wheel_bytes: 320_000,
            due: 300,
            in_flight: 12,
            lanes: vec![LaneReport {
                carrier: "medina".to_owned(),
                in_lane: 12,
                depth_max: 1_000,
                connections: 8,
                breaker: "closed",
            }],
        }
    }

    fn latency(&self, reset: bool) -> LatencyReport {
        let mut latency = self.latency.lock().unwrap();
        if reset { std::mem::replace(&mut *latency, NO_LATENCY) } else { *latency }
    }

    fn history(&self) -> Arc<dyn HistoryStore> {
        Arc::clone(&self.history) as Arc<dyn HistoryStore>
    }
}

/// A history in memory whose timelines wait until the gate has a permit for them.
pub(crate) struct GatedHistory {
    inner: MemoryHistory,
    pub(crate) gate: Semaphore,
}

impl GatedHistory {
    pub(crate) fn shut(&self) {
        self.gate.forget_permits(Semaphore::MAX_PERMITS);
    }
}

impl HistoryStore for GatedHistory {
    fn append(&self, rows: Vec<SealedRow>) -> HistoryFuture<'_, ()> {
        self.inner.append(rows)
    }

    fn timeline(
        &self,
        subscription_id: i64,
        from: i32,
        to: i32,
        max_rows: usize,
    ) -> HistoryFuture<'_, Vec<SealedRow>> {
        Box::pin(async move {
            let _permit = self.gate.acquire().await;
            self.inner.timeline(subscription_id, from, to, max_rows).await
        })
    }

    fn get(&self, key: HistoryKey) -> HistoryFuture<'_, Option<SealedRow>> {
        self.inner.get(key)
    }

    fn count(&self) -> HistoryFuture<'_, u64> {
        self.inner.count()
    }

    fn put_dictionary(&self, digest: Digest, bytes: Vec<u8>) -> HistoryFuture<'_, ()> {
        self.inner.put_dictionary(digest, bytes)
    }

    fn dictionary(&self, digest: Digest) -> HistoryFuture<'_, Option<Vec<u8>>> {
        self.inner.dictionary(digest)
    }

    fn room(&self) -> Room {
        self.inner.room()
    }
}
