//! What is answered.
//!
//! | route | answer |
//! |---|---|
//! | `GET /healthz` | 200 while the process lives |
//! | `GET /readyz` | 200, or 503 with `{"ready": false, "why": "…"}` |
//! | `GET /metrics` | Prometheus' text format |
//! | `GET /v1/status` | [`crate::Status`] |
//! | `POST /v1/latency/reset` | [`crate::LatencyStatus`] up to now; it starts anew |
//! | `GET /internal/history?subscription_id=&month_from=&month_to=&limit=` | sealed rows of this process' store |
//! | `GET /internal/dictionary/{digest}` | the compression dictionary under 16 hexadecimal digits |
//!
//! Everything else, and every failure, is an RFC 9457 problem; only a head that is too large or no HTTP at all is
//! answered with a bare 431 or 400, before any of this.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, HttpBody};
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, Request, State as Held};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HOST, HeaderValue, ORIGIN, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderName, StatusCode};
use http_body_util::BodyExt;
use storage::history::{Digest, HistoryError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::problem::Problem;
use crate::rows::{self, HISTORY_BYTES_MAX, HISTORY_ROWS_MAX, HistoryAnswer};
use crate::state::{Running, State};
use crate::status::LatencyStatus;

/// The largest body of a request, in bytes.
pub const BODY_BYTES_MAX: usize = 64 * 1024;
/// The most answers with rows or dictionaries that are in memory at a time; further requests wait for their turn.
pub const HISTORY_ANSWERS_MAX: usize = 4;
/// A body above its limit is read away this far, so that its sender gets to see the answer.
const DISCARD_BYTES_MAX: usize = 1024 * 1024;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What the routes need.
#[derive(Clone)]
struct App {
    state: Arc<State>,
    answers: Arc<Semaphore>,
    request_timeout: Duration,
    /// The listener is on loopback, so a request that names another host was led here by a browser.
    on_loopback: bool,
}

/// All routes. A request is answered within `request_timeout`, its body included.
pub(crate) fn router(state: Arc<State>, request_timeout: Duration, on_loopback: bool) -> Router {
    let answers = Arc::new(Semaphore::new(HISTORY_ANSWERS_MAX));
    let app = App { state, answers, request_timeout, on_loopback };
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/v1/status", get(status))
        .route("/v1/latency/reset", post(reset_latency))
        .route("/internal/history", get(history))
        .route("/internal/dictionary/{digest}", get(dictionary))
        .fallback(|| async { Problem::new(StatusCode::NOT_FOUND, "not_found", "no such route", "") })
        .method_not_allowed_fallback(|| async {
            let title = "the route does not take this method";
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", title, "")
        })
        .layer(from_fn_with_state(app.clone(), around))
        .with_state(app)
}

async fn readyz(Held(app): Held<App>) -> Response {
    let status = app.state.status();
    if status.ready {
        axum::Json(serde_json::json!({"ready": true})).into_response()
    } else {
        let body = serde_json::json!({"ready": false, "why": status.why.unwrap_or_default()});
        (StatusCode::SERVICE_UNAVAILABLE, axum::Json(body)).into_response()
    }
}

async fn metrics(Held(app): Held<App>) -> Response {
    typed("text/plain; version=0.0.4; charset=utf-8", app.state.metrics_text())
}

async fn status(Held(app): Held<App>) -> Response {
    axum::Json(app.state.status()).into_response()
}

async fn reset_latency(Held(app): Held<App>) -> Result<axum::Json<LatencyStatus>, Problem> {
    Ok(axum::Json(worker(&app)?.latency(true).into()))
}

async fn history(
    Held(app): Held<App>,
    query: Result<Query<HashMap<String, String>>, QueryRejection>,
) -> Result<Response, Problem> {
    let Query(query) = query.map_err(|error| Problem::query("/query", error.body_text()))?;
    let wanted = Wanted::read(&query)?;
    let store = worker(&app)?.history();
    let turn = turn(&app).await?;
    let mut rows = store
        .timeline(wanted.subscription_id, wanted.month_from, wanted.month_to, wanted.limit + 1)
        .await
        .map_err(history_failed)?;
    let more = rows.len() > wanted.limit;
    rows.truncate(wanted.limit);
    let bytes = rows::encode(HistoryAnswer { rows, more }, HISTORY_BYTES_MAX);
    Ok(typed("application/vnd.tollbook.rows", InTurn::bytes(bytes, turn)))
}

async fn dictionary(
    Held(app): Held<App>,
    digest: Result<Path<String>, PathRejection>,
) -> Result<Response, Problem> {
    let unknown = || {
        let title = "this process has no such dictionary";
        Problem::new(StatusCode::NOT_FOUND, "dictionary_unknown", title, "a digest is 16 hexadecimal digits")
    };
    let digest = digest.ok().and_then(|Path(text)| digest_from_hex(&text)).ok_or_else(unknown)?;
    let store = worker(&app)?.history();
    let turn = turn(&app).await?;
    let found = store.dictionary(digest).await.map_err(history_failed)?.ok_or_else(unknown)?;
    Ok(typed("application/octet-stream", InTurn::bytes(found, turn)))
}

/// The query of `/internal/history`.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    subscription_id: i64,
    month_from: i32,
    month_to: i32,
    limit: usize,
}

impl Wanted {
    fn read(query: &HashMap<String, String>) -> Result<Self, Problem> {
        const KNOWN: [&str; 4] = ["subscription_id", "month_from", "month_to", "limit"];
        if query.keys().any(|key| !KNOWN.contains(&key.as_str())) {
            return Err(Problem::query("/query", format!("the parameters are {}", KNOWN.join(", "))));
        }
        let month = |name, pointer, otherwise| match query.get(name) {
            None => Ok(otherwise),
            Some(text) => text.parse().map_err(|_| Problem::query(pointer, "a month is written yyyymm")),
        };
        let month_from = month("month_from", "/query/month_from", i32::MIN)?;
        let month_to = month("month_to", "/query/month_to", i32::MAX)?;
        if month_from > month_to {
            return Err(Problem::query("/query/month_to", "month_to is before month_from"));
        }
        let limit = match query.get("limit") {
            None => HISTORY_ROWS_MAX,
            Some(text) => match text.parse() {
                Ok(limit) if (1..=HISTORY_ROWS_MAX).contains(&limit) => limit,
                _ => {
                    let detail = format!("limit is a number from 1 to {HISTORY_ROWS_MAX}");
                    return Err(Problem::query("/query/limit", detail));
                }
            },
        };
        let subscription_id =
            query.get("subscription_id").and_then(|text| text.parse().ok()).ok_or_else(|| {
                Problem::query("/query/subscription_id", "subscription_id is a 64-bit number, and required")
            })?;
        Ok(Self { subscription_id, month_from, month_to, limit })
    }
}

fn worker(app: &App) -> Result<Arc<dyn Running>, Problem> {
    app.state.worker().ok_or_else(|| {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "no_worker", "no worker runs in this process", "")
    })
}

async fn turn(app: &App) -> Result<OwnedSemaphorePermit, Problem> {
    Arc::clone(&app.answers)
        .acquire_owned()
        .await
        .map_err(|_| Problem::new(StatusCode::SERVICE_UNAVAILABLE, "stopping", "the process is stopping", ""))
}

/// Bytes of an answer that give their turn back when the last of them was written, however slow the reader is.
struct InTurn {
    bytes: Vec<u8>,
    _turn: OwnedSemaphorePermit,
}

impl InTurn {
    fn bytes(bytes: Vec<u8>, turn: OwnedSemaphorePermit) -> Bytes {
        Bytes::from_owner(Self { bytes, _turn: turn })
    }
}

impl AsRef<[u8]> for InTurn {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

fn history_failed(error: HistoryError) -> Problem {
    let detail = error.to_string();
    match error {
        HistoryError::Reopening
        | HistoryError::TimedOut { .. }
        | HistoryError::Io(_)
        | HistoryError::Closed => {
            let title = "the history cannot be read just now";
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "history_unavailable", title, detail)
        }
        _ => {
            let title = "the history cannot be read";
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "history_failed", title, detail)
        }
    }
}

fn digest_from_hex(text: &str) -> Option<Digest> {
    let well_formed = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    u64::from_str_radix(text, 16).ok().filter(|_| well_formed).map(u64::to_be_bytes)
}

fn typed(content_type: &'static str, body: impl Into<Body>) -> Response {
    ([(CONTENT_TYPE, HeaderValue::from_static(content_type))], body.into()).into_response()
}

/// Around every request: who may ask, how large, how long; and an id on every answer.
async fn around(Held(app): Held<App>, request: Request, next: Next) -> Response {
    let request_id = app.state.next_request_id();
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let served = tokio::time::timeout(app.request_timeout, async {
        if app.on_loopback {
            refuse_browsers(&request)?;
        }
        Ok(next.run(buffered(request, app.request_timeout / 2).await?).await)
    });
    let response = match served.await {
        Ok(Ok(response)) => response,
        Ok(Err(problem)) => Problem::into_response(problem),
        Err(_) => {
            let detail = format!("no answer within {} ms", app.request_timeout.as_millis());
            let title = "the answer took too long";
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "timed_out", title, detail).into_response()
        }
    };
    let mut response = match response.extensions().get::<Problem>() {
        Some(problem) => {
            let mut rendered = problem.render(&request_id);
            // A 405 names the methods that there are.
            rendered.headers_mut().extend(
                response.headers().get(http::header::ALLOW).map(|allow| (http::header::ALLOW, allow.clone())),
            );
            if problem.status.is_server_error() {
                let (code, detail) = (problem.code, &problem.detail);
                tracing::warn!(request_id, %method, path, code, detail, "a request could not be served");
            }
            rendered
        }
        None => response,
    };
    tracing::debug!(request_id, %method, path, status = response.status().as_u16(), "answered");
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Ok(value) = HeaderValue::try_from(request_id) {
        headers.insert(REQUEST_ID, value);
    }
    response
}

/// Without authentication any page in a browser on this machine could ask: by a form (which sends an `Origin`), or by
/// a name of its own that resolves to loopback (which shows in `Host`).
fn refuse_browsers(request: &Request) -> Result<(), Problem> {
    let headers = request.headers();
    let host = headers.get(HOST).map(|host| host.to_str().unwrap_or("?")).or(request.uri().host());
    if headers.contains_key(ORIGIN) || !host.is_none_or(names_loopback) {
        let title = "this listener is not for web pages";
        let detail = "a request without an Origin, to a loopback address, is answered";
        return Err(Problem::new(StatusCode::FORBIDDEN, "foreign_origin", title, detail));
    }
    Ok(())
}

fn names_loopback(authority: &str) -> bool {
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    };
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    bare.eq_ignore_ascii_case("localhost")
        || bare.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

/// The request with its body read, which no handler then waits for.
pub(crate) async fn buffered(request: Request, timeout: Duration) -> Result<Request, Problem> {
    let (parts, body) = request.into_parts();
    let read = tokio::time::timeout(timeout, read_body(body)).await.map_err(|_| {
        let detail = format!("the body was not here within {} ms", timeout.as_millis());
        Problem::new(StatusCode::REQUEST_TIMEOUT, "body_too_slow", "the body came too slowly", detail)
    })?;
    Ok(Request::from_parts(parts, Body::from(read?)))
}

async fn read_body(mut body: Body) -> Result<Vec<u8>, Problem> {
    let too_large = || {
        let detail = format!("a body has at most {BODY_BYTES_MAX} bytes");
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", "the body is too large", detail)
    };
    if body.size_hint().lower() > DISCARD_BYTES_MAX as u64 {
        return Err(too_large());
    }
    let (mut kept, mut total) = (Vec::new(), 0_usize);
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else {
            let title = "the body ended early or is not well-formed";
            return Err(Problem::new(StatusCode::BAD_REQUEST, "body_broken", title, ""));
        };
        let Some(data) = frame.data_ref() else { continue };
        total = total.saturating_add(data.len());
        if total > DISCARD_BYTES_MAX {
            break;
        }
        if total <= BODY_BYTES_MAX {
            kept.extend_from_slice(data);
        }
    }
    if total > BODY_BYTES_MAX { Err(too_large()) } else { Ok(kept) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_loopback_names_are_taken_for_loopback() {
        for good in
            ["127.0.0.1", "127.0.0.1:80", "localhost", "LocalHost:7080", "[::1]", "[::1]:80", "127.9.9.9:1"]
        {
            assert!(names_loopback(good), "{good}");
        }
        for bad in [
            "",
            "example.org",
            "localhost.example.org",
            "127.0.0.1.example.org:80",
            "10.0.0.1",
            "[::2]:80",
            "?",
            "[::1",
        ] {
            assert!(!names_loopback(bad), "{bad}");
        }
    }

    #[test]
    fn digests_are_sixteen_hexadecimal_digits() {
        assert_eq!(
            digest_from_hex("ba7816bf8f01cfEA"),
            Some([0xba, 0x78, 0x16, 0xbf, 0x8f, 0x01, 0xcf, 0xea])
        );
        for bad in
            ["", "ba7816bf8f01cfe", "ba7816bf8f01cfea0", "+a7816bf8f01cfea", "ga7816bf8f01cfea", "éééééééé"]
        {
            assert_eq!(digest_from_hex(bad), None, "{bad}");
        }
    }

    #[test]
    fn queries_are_checked_one_by_one() {
        let read = |text: &str| {
            let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
            Wanted::read(&pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect())
                .map_err(|problem| problem.pointer.unwrap())
        };
        let all =
            Wanted { subscription_id: 7, month_from: i32::MIN, month_to: i32::MAX, limit: HISTORY_ROWS_MAX };
        assert_eq!(read("subscription_id=7"), Ok(all));
        let some = Wanted { subscription_id: -7, month_from: 202_611, month_to: 202_611, limit: 1 };
        assert_eq!(read("subscription_id=-7&month_from=202611&month_to=202611&limit=1"), Ok(some));
        for (bad, pointer) in [
            ("", "/query/subscription_id"),
            ("subscription_id=x", "/query/subscription_id"),
            ("subscription_id=7&limit=0", "/query/limit"),
            ("subscription_id=7&limit=4097", "/query/limit"),
            ("subscription_id=7&month_from=nov", "/query/month_from"),
            ("subscription_id=7&month_from=202612&month_to=202611", "/query/month_to"),
            ("subscription_id=7&msisdn=1", "/query"),
        ] {
            assert_eq!(read(bad), Err(pointer), "{bad}");
        }
    }
}
