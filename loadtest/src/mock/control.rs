//! The mock's own endpoints under `/_mock/`: read and change the behaviour, read the counts, sync the ledger,
//! write a reconciliation file.

use bytes::Bytes;
use http::{Method, StatusCode};
use serde::Serialize;

use super::behaviour::Behaviour;
use super::books::{Books, Stats};

/// Where the control paths begin.
pub(super) const PREFIX: &str = "/_mock/";

/// Answers a control request. `POST behaviour` replaces the keys it names, `PUT behaviour` replaces all.
pub(super) fn handle(
    books: &mut Books,
    method: &Method,
    path: &str,
    body: &[u8],
    now_us: u64,
    (open_silent, inquiries): (u64, u64),
) -> (StatusCode, Bytes) {
    match (path.strip_prefix(PREFIX).unwrap_or_default(), method) {
        ("behaviour", &Method::GET) => json(StatusCode::OK, books.behaviour()),
        ("behaviour", &Method::POST) => {
            let next = books.behaviour().with_changes(body);
            behave(books, next, now_us)
        }
        ("behaviour", &Method::PUT) => behave(books, Behaviour::from_json(body), now_us),
        ("stats", &Method::GET) => {
            json(StatusCode::OK, &AllStats { stats: books.stats(), open_silent, inquiries })
        }
        ("sync", &Method::POST) => match books.sync() {
            Ok(()) => (StatusCode::NO_CONTENT, Bytes::new()),
            Err(error) => failed(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
        },
        ("reconciliation", &Method::POST) => match serde_json::from_slice(body) {
            Ok(wanted) => match books.reconcile(&wanted, now_us) {
                Ok(totals) => json(StatusCode::OK, &totals),
                Err(error) => failed(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
            },
            Err(error) => failed(StatusCode::BAD_REQUEST, &error.to_string()),
        },
        ("behaviour" | "stats" | "sync" | "reconciliation", _) => {
            failed(StatusCode::METHOD_NOT_ALLOWED, "another method is wanted")
        }
        _ => failed(StatusCode::NOT_FOUND, "no such control path"),
    }
}

#[derive(Serialize)]
struct AllStats<'a> {
    #[serde(flatten)]
    stats: &'a Stats,
    /// Connections held open without an answer right now.
    open_silent: u64,
    /// Questions about requests that were answered since the start.
    inquiries: u64,
}

#[derive(Serialize)]
struct Failure<'a> {
    error: &'a str,
}

fn behave<E: std::fmt::Display>(
    books: &mut Books,
    next: Result<Behaviour, E>,
    now_us: u64,
) -> (StatusCode, Bytes) {
    let behaviour = match next {
        Ok(behaviour) => behaviour,
        Err(error) => return failed(StatusCode::BAD_REQUEST, &error.to_string()),
    };
    match books.behave(behaviour, now_us) {
        Ok(()) => json(StatusCode::OK, books.behaviour()),
        Err(error) => failed(StatusCode::BAD_REQUEST, &error.to_string()),
    }
}

fn failed(status: StatusCode, error: &str) -> (StatusCode, Bytes) {
    json(status, &Failure { error })
}

fn json(status: StatusCode, value: &impl Serialize) -> (StatusCode, Bytes) {
    serde_json::to_vec(value)
        .map_or((StatusCode::INTERNAL_SERVER_ERROR, Bytes::new()), |bytes| (status, Bytes::from(bytes)))
}
