//! What the listener bears: slow, large, many, and the end.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::time::{Duration, Instant};

use api::{BODY_BYTES_MAX, HISTORY_ANSWERS_MAX, ServeOptions};
use storage::history::{HistoryKey, HistoryStore, SealedRow};
use support::{Answer, DEADLINE, Served, TestWorker, read_to_end};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const SHORT_MS: u64 = 300;
const SHORT: Duration = Duration::from_millis(SHORT_MS);

async fn connected(served: &Served, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    stream
}

/// Reads one answer of a connection that stays open.
async fn one_answer(stream: &mut TcpStream) -> Answer {
    let mut bytes = vec![0; 4_096];
    let length = tokio::time::timeout(DEADLINE, stream.read(&mut bytes)).await.expect("an answer").unwrap();
    Answer::of(&bytes[..length])
}

#[tokio::test]
async fn slow_and_missing_heads_are_cut() {
    let served = Served::start(ServeOptions { head_timeout_ms: SHORT_MS, ..ServeOptions::default() }).await;
    let began = Instant::now();
    let mut silent = connected(&served, b"").await;
    let mut half = connected(&served, b"GET /healthz HTTP/1.1\r\nhost: 127").await;
    let mut idle = connected(&served, b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n").await;
    let mut dripping = connected(&served, b"GET /healthz HTTP/1.1\r\n").await;
    let drip = tokio::spawn(async move {
        // Ends when the server closed: a byte now and then does not move the deadline.
        while dripping.write_all(b"x: y\r\n").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    assert!(read_to_end(&mut silent).await.is_empty());
    let said = read_to_end(&mut half).await;
    assert!(!said.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&said));
    assert_eq!(Answer::of(&read_to_end(&mut idle).await).status, 200, "answered, then closed while idle");
    tokio::time::timeout(DEADLINE, drip).await.expect("cut while dripping").unwrap();
    assert!(began.elapsed() >= SHORT);
    served.stop().await;
}

#[tokio::test]
async fn large_heads_are_refused() {
    let served = Served::start(ServeOptions::default()).await;
    let with_head_of = |bytes: usize| {
        format!(
            "GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\nx: {}\r\n\r\n",
            "y".repeat(bytes)
        )
    };
    assert_eq!(served.send(with_head_of(12 * 1024)).await.status, 200);
    assert_eq!(served.send(with_head_of(17 * 1024)).await.status, 431);
    served.stop().await;
}

#[tokio::test]
async fn large_bodies_are_refused_whatever_their_framing_and_route() {
    let served = Served::start(ServeOptions::default()).await;
    served.state.set_worker(Some(TestWorker::new()));
    for path in ["/v1/latency/reset", "/nowhere"] {
        let head = format!("POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n");
        let sized = |bytes: usize| format!("{head}content-length: {bytes}\r\n\r\n{}", "z".repeat(bytes));
        let chunked = |bytes: usize| {
            format!("{head}transfer-encoding: chunked\r\n\r\n{bytes:x}\r\n{}\r\n0\r\n\r\n", "z".repeat(bytes))
        };
        let fits = served.send(sized(BODY_BYTES_MAX)).await.status;
        assert_eq!(fits, if path == "/nowhere" { 404 } else { 200 });
        assert_eq!(served.send(chunked(BODY_BYTES_MAX)).await.status, fits);
        served.send(sized(BODY_BYTES_MAX + 1)).await.assert_problem(413, "body_too_large");
        served.send(chunked(BODY_BYTES_MAX + 1)).await.assert_problem(413, "body_too_large");
        // Announced only: refused without waiting for it.
        let announced = format!("{head}content-length: 10000000000\r\n\r\n");
        served.send(announced).await.assert_problem(413, "body_too_large");
    }
    served.stop().await;
}

#[tokio::test]
async fn slow_bodies_and_slow_answers_end_in_time() {
    let served =
        Served::start(ServeOptions { request_timeout_ms: SHORT_MS, ..ServeOptions::default() }).await;
    let worker = TestWorker::new();
    served.state.set_worker(Some(worker.clone()));
    let slow = b"POST /v1/latency/reset HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 10\r\n\r\nz";
    let mut stream = connected(&served, slow).await;
    Answer::of(&read_to_end(&mut stream).await).assert_problem(408, "body_too_slow");
    worker.history.shut();
    let problem = served.get("/internal/history?subscription_id=1").await.assert_problem(503, "timed_out");
    assert_eq!(problem["retryable"], true);
    served.stop().await;
}

#[tokio::test]
async fn connections_are_bounded_and_the_next_waits_for_its_turn() {
    let served = Served::start(ServeOptions { connections_max: 3, ..ServeOptions::default() }).await;
    let ask = b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n";
    let mut open = Vec::new();
    for _ in 0..3 {
        let mut stream = connected(&served, ask).await;
        assert_eq!(one_answer(&mut stream).await.status, 200);
        open.push(stream);
    }
    let mut fourth = connected(&served, ask).await;
    let early = tokio::time::timeout(SHORT, fourth.readable()).await;
    assert!(early.is_err(), "the fourth is not served while three are open");
    drop(open.pop());
    assert_eq!(one_answer(&mut fourth).await.status, 200);
    served.stop().await;
}

const ROW_BYTES: usize = 4 * 1024 * 1024;

/// A worker whose answer is too large for any socket's buffers.
async fn worker_with_large_rows() -> std::sync::Arc<TestWorker> {
    let worker = TestWorker::new();
    for seq in 0..7 {
        let key = HistoryKey { subscription_id: 1, month: 202_611, period: 1, attempt_no: 1, seq };
        worker.history.append(vec![SealedRow { key, bytes: vec![7; ROW_BYTES] }]).await.unwrap();
    }
    worker
}

#[tokio::test]
async fn large_answers_in_memory_are_bounded_even_when_nobody_reads_them() {
    let served =
        Served::start(ServeOptions { request_timeout_ms: SHORT_MS * 5, ..ServeOptions::default() }).await;
    served.state.set_worker(Some(worker_with_large_rows().await));
    let mut unread = Vec::new();
    for _ in 0..HISTORY_ANSWERS_MAX {
        let ask = b"GET /internal/history?subscription_id=1 HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n";
        let stream = connected(&served, ask).await;
        stream.readable().await.unwrap();
        unread.push(stream);
    }
    served.get("/internal/history?subscription_id=2").await.assert_problem(503, "timed_out");
    assert_eq!(served.get("/v1/status").await.status, 200, "others are answered meanwhile");
    drop(unread);
    let next = served.get("/internal/history?subscription_id=2").await;
    assert_eq!(next.status, 200, "turns come back when the readers are gone");
    served.stop().await;
}

#[tokio::test]
async fn who_reads_too_slowly_is_cut() {
    let options =
        ServeOptions { connection_timeout_ms: SHORT_MS, linger_ms: SHORT_MS, ..ServeOptions::default() };
    let served = Served::start(options).await;
    served.state.set_worker(Some(worker_with_large_rows().await));
    let ask = b"GET /internal/history?subscription_id=1 HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n";
    let mut unread = Vec::new();
    for _ in 0..HISTORY_ANSWERS_MAX {
        let stream = connected(&served, ask).await;
        stream.readable().await.unwrap();
        unread.push(stream);
    }
    // A turn came free within the default deadline only because the first unread one was cut.
    assert_eq!(served.get("/internal/history?subscription_id=2").await.status, 200);
    assert!(read_to_end(&mut unread[0]).await.len() < 7 * ROW_BYTES);
    served.stop().await;
}

#[tokio::test]
async fn a_stop_lets_requests_end_closes_idle_connections_and_takes_no_new_ones() {
    let mut served = Served::start(ServeOptions::default()).await;
    let worker = TestWorker::new();
    worker.history.shut();
    served.state.set_worker(Some(worker.clone()));
    let mut idle = connected(&served, b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n").await;
    assert_eq!(one_answer(&mut idle).await.status, 200);
    let ask = b"GET /internal/history?subscription_id=1 HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n";
    let mut busy = connected(&served, ask).await;
    // The request is with its handler once that waits at the gate, where it holds the history.
    let deadline = Instant::now() + DEADLINE;
    while std::sync::Arc::strong_count(&worker.history) < 2 {
        assert!(Instant::now() < deadline, "the request arrives");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    served.begin_to_stop();
    assert!(read_to_end(&mut idle).await.is_empty(), "the idle connection is closed");
    assert!(TcpStream::connect(served.address).await.is_err(), "nobody listens any more");
    worker.history.gate.add_permits(1);
    assert_eq!(Answer::of(&read_to_end(&mut busy).await).status, 200, "the request in progress is answered");
    let began = Instant::now();
    served.stop().await;
    assert!(began.elapsed() < Duration::from_secs(5), "nothing is waited for any more");
}
