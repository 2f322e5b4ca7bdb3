//! What each route answers, over a real socket.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use api::client::{ClientError, fetch_dictionary, fetch_history, fetch_status, reset_latency};
use api::{HISTORY_ROWS_MAX, LatencyStatus, ServeOptions};
use storage::history::seal::{Sealer, dictionary_needed, open};
use storage::history::{HistoryKey, HistoryStore, SealedRow, digest_of};
use storage::vault::Vault;
use support::{LATENCY, Served, TestWorker};

const SUBSCRIPTION: i64 = 0x1000_0000_0007;

fn key(month: i32, seq: i64) -> HistoryKey {
    HistoryKey { subscription_id: SUBSCRIPTION, month, period: 9_000, attempt_no: 1, seq }
}

async fn served() -> (Served, std::sync::Arc<TestWorker>) {
    let served = Served::start(ServeOptions::default()).await;
    let worker = TestWorker::new();
    served.state.set_worker(Some(worker.clone()));
    (served, worker)
}

#[tokio::test]
async fn without_a_worker_the_process_lives_but_is_not_ready() {
    let served = Served::start(ServeOptions::default()).await;
    assert_eq!(served.get("/healthz").await.status, 200);
    let ready = served.get("/readyz").await;
    assert_eq!((ready.status, ready.header("content-type")), (503, Some("application/json")));
    assert_eq!(ready.json()["ready"], false);
    assert!(ready.json()["why"].as_str().unwrap().contains("no worker"), "{ready:?}");
    let status = fetch_status(&served.endpoint()).await.unwrap();
    assert!(!status.ready && status.worker.is_none() && status.due_to_durable.is_none());
    for path in ["/internal/history?subscription_id=1", "/internal/dictionary/ba7816bf8f01cfea"] {
        let problem = served.get(path).await.assert_problem(503, "no_worker");
        assert_eq!(problem["retryable"], true);
    }
    let refused = reset_latency(&served.endpoint()).await.unwrap_err();
    assert!(matches!(refused, ClientError::Refused { status: 503, code, .. } if code == "no_worker"));
    served.stop().await;
}

#[tokio::test]
async fn workers_come_and_go_and_readiness_says_why() {
    let (served, worker) = served().await;
    assert_eq!(served.get("/readyz").await.json(), serde_json::json!({"ready": true}));
    *worker.not_ready.lock().unwrap() = Some("draining");
    let ready = served.get("/readyz").await;
    assert_eq!((ready.status, ready.json()["why"].as_str()), (503, Some("draining")));
    served.state.set_worker(None);
    assert_eq!(served.get("/readyz").await.status, 503);
    assert_eq!(std::sync::Arc::strong_count(&worker), 1, "an ended worker is let go");
    served.state.set_worker(Some(TestWorker::new()));
    assert_eq!(served.get("/readyz").await.status, 200);
    served.stop().await;
}

#[tokio::test]
async fn the_status_comes_back_as_it_is_and_latencies_start_anew() {
    let (served, _) = served().await;
    let status = fetch_status(&served.endpoint()).await.unwrap();
    assert_eq!(status, served.state.status());
    let worker = status.worker.unwrap();
    assert_eq!(worker.incarnation, (i64::MIN + 1).to_string());
    assert_eq!(worker.lanes[0].carrier, "medina");
    assert_eq!(status.due_to_durable, Some(LatencyStatus::from(LATENCY)));
    assert_eq!(reset_latency(&served.endpoint()).await, Ok(LATENCY.into()));
    assert_eq!(reset_latency(&served.endpoint()).await.unwrap().count, 0);
    let get = served.get("/v1/latency/reset").await;
    get.assert_problem(405, "method_not_allowed");
    assert_eq!(get.header("allow"), Some("post"));
    served.stop().await;
}

#[tokio::test]
async fn rows_come_back_sealed_and_open_only_with_the_key() {
    const MSISDN: &str = "34600123456";
    let (served, worker) = served().await;
    let dictionary =
        format!("POST /v2/charges {{\"msisdn\":\"\",\"amount\":\"1.99\"}}{}", "x".repeat(200)).into_bytes();
    let digest = digest_of(&dictionary);
    worker.history.put_dictionary(digest, dictionary.clone()).await.unwrap();
    let subscriber = Vault::for_tests(1).subscriber_key(b"salt", 1).unwrap();
    let plain =
        |seq: i64| format!("POST /v2/charges {{\"msisdn\":\"{MSISDN}\",\"amount\":\"1.99\",\"n\":{seq}}}");
    let mut sealer = Sealer::new(&dictionary).unwrap();
    let rows: Vec<SealedRow> = (0..5)
        .map(|seq| {
            let key = key(202_610 + (seq as i32) % 2, seq);
            SealedRow { key, bytes: sealer.seal(&subscriber, &key, plain(seq).as_bytes()).unwrap() }
        })
        .collect();
    worker.history.append(rows.clone()).await.unwrap();
    let other = SealedRow { key: HistoryKey { subscription_id: 8, ..key(202_610, 0) }, bytes: vec![1] };
    worker.history.append(vec![other]).await.unwrap();

    let answer = fetch_history(&served.endpoint(), SUBSCRIPTION, 202_610, 202_611).await.unwrap();
    let mut expected = rows.clone();
    expected.sort_by_key(|row| row.key);
    assert_eq!((answer.rows.as_slice(), answer.more), (&expected[..], false));
    let november = fetch_history(&served.endpoint(), SUBSCRIPTION, 202_611, 202_611).await.unwrap();
    assert_eq!(november.rows, expected[3..]);

    let fetched = fetch_dictionary(&served.endpoint(), digest).await.unwrap().unwrap();
    assert_eq!(fetched, dictionary);
    assert_eq!(fetch_dictionary(&served.endpoint(), [7; 8]).await, Ok(None));
    for row in &answer.rows {
        assert_eq!(dictionary_needed(&row.bytes), Some(digest));
        let opened = open(|_| Some(fetched.clone()), &subscriber, &row.key, &row.bytes).unwrap();
        assert_eq!(opened, plain(row.key.seq).into_bytes());
    }
    let wire = served.get(&format!("/internal/history?subscription_id={SUBSCRIPTION}")).await;
    assert_eq!((wire.status, wire.header("content-type")), (200, Some("application/vnd.tollbook.rows")));
    assert!(
        wire.body.len() > 5 * 30 && !wire.body.windows(MSISDN.len()).any(|part| part == MSISDN.as_bytes())
    );
    served.stop().await;
}

#[tokio::test]
async fn long_histories_are_cut_and_say_so() {
    let (served, worker) = served().await;
    let row = |seq: usize, length: usize| SealedRow { key: key(202_611, seq as i64), bytes: vec![7; length] };
    worker.history.append((0..HISTORY_ROWS_MAX).map(|seq| row(seq, 1)).collect()).await.unwrap();
    let endpoint = served.endpoint();
    let all = fetch_history(&endpoint, SUBSCRIPTION, 202_611, 202_611).await.unwrap();
    assert_eq!((all.rows.len(), all.more), (HISTORY_ROWS_MAX, false));
    worker.history.append(vec![row(HISTORY_ROWS_MAX, 1)]).await.unwrap();
    let cut = fetch_history(&endpoint, SUBSCRIPTION, 202_611, 202_611).await.unwrap();
    assert_eq!((cut.rows.len(), cut.more), (HISTORY_ROWS_MAX, true));
    // 40 MiB in ten rows: seven fit into 32 MiB.
    for seq in 0..10 {
        let big = SealedRow { key: key(202_612, seq), bytes: vec![7; 4 * 1024 * 1024] };
        worker.history.append(vec![big]).await.unwrap();
    }
    let big = fetch_history(&endpoint, SUBSCRIPTION, 202_612, 202_612).await.unwrap();
    assert_eq!((big.rows.len(), big.more), (7, true));
    served.stop().await;
}

#[tokio::test]
async fn bad_questions_are_problems_that_point_at_the_place() {
    let (served, _) = served().await;
    served.get("/v2/anything").await.assert_problem(404, "not_found");
    served.get("/").await.assert_problem(404, "not_found");
    served.get("/internal/dictionary/nonsense").await.assert_problem(404, "dictionary_unknown");
    served.get("/internal/dictionary/%ff").await.assert_problem(404, "dictionary_unknown");
    for (query, pointer) in [
        ("", "/query/subscription_id"),
        ("subscription_id=1&limit=99999", "/query/limit"),
        ("subscription_id=1&month_from=2026-11", "/query/month_from"),
        ("subscription_id=1&x=1", "/query"),
    ] {
        let problem =
            served.get(&format!("/internal/history?{query}")).await.assert_problem(400, "query_invalid");
        assert_eq!(problem["pointer"], pointer);
        assert_eq!(problem["retryable"], false);
    }
    let first = served.get("/x").await.json()["request_id"].clone();
    assert_ne!(first, served.get("/x").await.json()["request_id"], "each request has an id of its own");
    served.stop().await;
}

#[tokio::test]
async fn web_pages_are_turned_away() {
    let (served, _) = served().await;
    let reset = |host: &str, more: &str| {
        format!(
            "POST /v1/latency/reset HTTP/1.1\r\nhost: {host}\r\n{more}content-length: 0\r\nconnection: close\r\n\r\n"
        )
    };
    let address = served.address.to_string();
    served.send(reset("rebound.example:80", "")).await.assert_problem(403, "foreign_origin");
    served
        .send(reset(&address, "origin: http://evil.example\r\n"))
        .await
        .assert_problem(403, "foreign_origin");
    served
        .send("GET http://rebound.example/v1/status HTTP/1.0\r\n\r\n")
        .await
        .assert_problem(403, "foreign_origin");
    let untouched = served.send(reset(&address, "")).await;
    assert_eq!((untouched.status, untouched.json()["count"].as_u64()), (200, Some(LATENCY.count)));
    served.stop().await;
}

#[tokio::test]
async fn metrics_are_prometheus_text_with_help() {
    let (served, _) = served().await;
    metrics::with_local_recorder(&served.recorder, || {
        api::telemetry::describe_metrics();
        metrics::counter!("tollbook_attempts_total", "carrier" => "medina", "class" => "collected")
            .increment(803);
        metrics::counter!("tollbook_attempts_total", "carrier" => "q\"uo\nte\\", "class" => "collected")
            .increment(1);
        metrics::gauge!("tollbook_due_to_durable_p99_seconds").set(0.041);
    });
    let answer = served.get("/metrics").await;
    assert_eq!(answer.status, 200);
    assert!(answer.header("content-type").unwrap().starts_with("text/plain; version=0.0.4"));
    let text = answer.text();
    let samples: Vec<(&str, f64)> = text
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let name_end = series.find('{').unwrap_or(series.len());
            let name_ok = series[..name_end].bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
            assert!(name_ok && (name_end == series.len() || series.ends_with("\"}")), "{line}");
            (series, value.parse().unwrap())
        })
        .collect();
    assert_eq!(samples.len(), 3, "{text}");
    assert!(
        samples.contains(&("tollbook_attempts_total{carrier=\"medina\",class=\"collected\"}", 803.0)),
        "{text}"
    );
    assert!(samples.contains(&("tollbook_due_to_durable_p99_seconds", 0.041)), "{text}");
    for (name, kind) in
        [("tollbook_attempts_total", "counter"), ("tollbook_due_to_durable_p99_seconds", "gauge")]
    {
        assert!(text.contains(&format!("# TYPE {name} {kind}\n")), "{text}");
        assert!(text.contains(&format!("# HELP {name} ")), "{text}");
    }
    served.stop().await;
}

#[tokio::test]
async fn the_client_says_who_did_not_answer() {
    let (served, _) = served().await;
    let endpoint = served.endpoint();
    served.stop().await;
    let gone = fetch_status(&endpoint).await.unwrap_err();
    assert!(matches!(&gone, ClientError::Unreachable { endpoint: at, .. } if *at == endpoint), "{gone}");
    assert!(matches!(fetch_status("https://127.0.0.1:1").await, Err(ClientError::Endpoint(_))));
}
