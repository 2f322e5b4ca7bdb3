//! Who asks: `toll explain`, `toll status`, the benchmark. One connection per question; nothing is asked twice.

use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HOST, HeaderValue};
use http::uri::Authority;
use http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Limited};
use hyper_util::rt::TokioIo;
use storage::history::{DICTIONARY_BYTES_MAX, Digest, digest_of};
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::problem::ProblemBody;
use crate::rows::{self, HistoryAnswer};
use crate::status::{LatencyStatus, Status};

/// From the question to the complete answer, milliseconds.
pub const DEADLINE_MS: u64 = 5_000;
/// The largest answer, in bytes.
pub const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ClientError {
    /// Not `http://host:port`.
    #[error("{0:?} is not of the form http://host:port")]
    Endpoint(String),
    /// Nobody listens there.
    #[error("{endpoint} cannot be reached: {why}")]
    Unreachable {
        /// Who was asked.
        endpoint: String,
        /// What the system said.
        why: String,
    },
    /// The deadline passed.
    #[error("{endpoint} did not answer within {after_ms} ms")]
    TimedOut {
        /// Who was asked.
        endpoint: String,
        /// The deadline, milliseconds.
        after_ms: u64,
    },
    /// The connection broke, or no HTTP came back.
    #[error("{endpoint} broke off: {why}")]
    Broken {
        /// Who was asked.
        endpoint: String,
        /// How.
        why: String,
    },
    /// It refused.
    #[error("{endpoint} refused with {status} {code}: {detail} ({request_id})")]
    Refused {
        /// Who was asked.
        endpoint: String,
        /// The HTTP status.
        status: u16,
        /// The problem's code; empty when the answer was no problem of ours.
        code: String,
        /// The problem's detail.
        detail: String,
        /// The id under which its log has more.
        request_id: String,
    },
    /// The answer is above its limit.
    #[error("{endpoint} answered with more than {limit} bytes")]
    TooLarge {
        /// Who was asked.
        endpoint: String,
        /// The limit, in bytes.
        limit: usize,
    },
    /// The answer is not what was asked for.
    #[error("{endpoint} gave an answer that cannot be used: {why}")]
    Damaged {
        /// Who was asked.
        endpoint: String,
        /// Why.
        why: String,
    },
}

/// The sealed rows that the process at `endpoint` has of one subscription, for periods in the months
/// `month_from..=month_to` (yyyymm); [`HistoryAnswer::more`] when they are not all.
///
/// # Errors
/// Any [`ClientError`].
pub async fn fetch_history(
    endpoint: &str,
    subscription_id: i64,
    month_from: i32,
    month_to: i32,
) -> Result<HistoryAnswer, ClientError> {
    let path = format!(
        "/internal/history?subscription_id={subscription_id}&month_from={month_from}&month_to={month_to}"
    );
    let bytes = ask(endpoint, Method::GET, &path, ANSWER_BYTES_MAX).await?;
    let damaged = |why: &str| ClientError::Damaged { endpoint: endpoint.to_owned(), why: why.to_owned() };
    let answer = rows::decode(&bytes).map_err(damaged)?;
    let asked_for = |row: &storage::history::SealedRow| {
        row.key.subscription_id == subscription_id && (month_from..=month_to).contains(&row.key.month)
    };
    if !answer.rows.iter().all(asked_for) {
        return Err(damaged("a row that was not asked for"));
    }
    Ok(answer)
}

/// The compression dictionary under `digest`; `None` when the process at `endpoint` does not have it.
///
/// # Errors
/// Any [`ClientError`].
pub async fn fetch_dictionary(endpoint: &str, digest: Digest) -> Result<Option<Vec<u8>>, ClientError> {
    let path = format!("/internal/dictionary/{:016x}", u64::from_be_bytes(digest));
    match ask(endpoint, Method::GET, &path, DICTIONARY_BYTES_MAX).await {
        Ok(bytes) if digest_of(&bytes) == digest => Ok(Some(bytes.into())),
        Ok(_) => Err(ClientError::Damaged {
            endpoint: endpoint.to_owned(),
            why: "the dictionary does not have the digest that was asked for".to_owned(),
        }),
        Err(ClientError::Refused { code, .. }) if code == "dictionary_unknown" => Ok(None),
        Err(error) => Err(error),
    }
}

/// How the process at `endpoint` is doing.
///
/// # Errors
/// Any [`ClientError`].
pub async fn fetch_status(endpoint: &str) -> Result<Status, ClientError> {
    ask_json(endpoint, Method::GET, "/v1/status").await
}

/// The latencies from due to durable since the last reset; they start anew. An error leaves open whether they did.
///
/// # Errors
/// Any [`ClientError`].
pub async fn reset_latency(endpoint: &str) -> Result<LatencyStatus, ClientError> {
    ask_json(endpoint, Method::POST, "/v1/latency/reset").await
}

async fn ask_json<T: serde::de::DeserializeOwned>(
    endpoint: &str,
    method: Method,
    path: &str,
) -> Result<T, ClientError> {
    let bytes = ask(endpoint, method, path, ANSWER_BYTES_MAX).await?;
    serde_json::from_slice(&bytes)
        .map_err(|error| ClientError::Damaged { endpoint: endpoint.to_owned(), why: error.to_string() })
}

/// The body of a 200.
async fn ask(endpoint: &str, method: Method, path: &str, bytes_max: usize) -> Result<Bytes, ClientError> {
    let authority = authority_of(endpoint)?;
    let asked = exchange(endpoint, &authority, method, path, bytes_max);
    match tokio::time::timeout(Duration::from_millis(DEADLINE_MS), asked).await {
        Ok(answered) => answered,
        Err(_) => Err(ClientError::TimedOut { endpoint: endpoint.to_owned(), after_ms: DEADLINE_MS }),
    }
}

async fn exchange(
    endpoint: &str,
    authority: &Authority,
    method: Method,
    path: &str,
    bytes_max: usize,
) -> Result<Bytes, ClientError> {
    let broken = |error: &dyn std::fmt::Display| ClientError::Broken {
        endpoint: endpoint.to_owned(),
        why: error.to_string(),
    };
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let stream = TcpStream::connect((host, authority.port_u16().unwrap_or(80))).await.map_err(|error| {
        ClientError::Unreachable { endpoint: endpoint.to_owned(), why: error.to_string() }
    })?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake::<_, Body>(TokioIo::new(stream))
        .await
        .map_err(|error| broken(&error))?;
    // Ends with this future, however that ends.
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let mut request = Request::new(Body::empty());
    if method == Method::POST {
        request.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
    *request.method_mut() = method;
    *request.uri_mut() = Uri::try_from(path).map_err(|error| broken(&error))?;
    let host = HeaderValue::try_from(authority.as_str()).map_err(|error| broken(&error))?;
    request.headers_mut().insert(HOST, host);
    let response = sender.send_request(request).await.map_err(|error| broken(&error))?;
    let status = response.status();
    let bytes = match Limited::new(response.into_body(), bytes_max).collect().await {
        Ok(collected) => collected.to_bytes(),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => {
            return Err(ClientError::TooLarge { endpoint: endpoint.to_owned(), limit: bytes_max });
        }
        Err(error) => return Err(broken(&error)),
    };
    if status == StatusCode::OK { Ok(bytes) } else { Err(refused(endpoint, status, &bytes)) }
}

fn refused(endpoint: &str, status: StatusCode, body: &[u8]) -> ClientError {
    let endpoint = endpoint.to_owned();
    let status = status.as_u16();
    match serde_json::from_slice::<ProblemBody>(body) {
        Ok(ProblemBody { code, detail, request_id, .. }) => {
            ClientError::Refused { endpoint, status, code, detail, request_id }
        }
        Err(_) => ClientError::Refused {
            endpoint,
            status,
            code: String::new(),
            detail: "no reason was given".to_owned(),
            request_id: String::new(),
        },
    }
}

fn authority_of(endpoint: &str) -> Result<Authority, ClientError> {
    let no_form = || ClientError::Endpoint(endpoint.to_owned());
    let uri: Uri = endpoint.parse().map_err(|_| no_form())?;
    let bare = uri.scheme_str() == Some("http") && uri.path() == "/" && uri.query().is_none();
    let authority = uri.authority().filter(|authority| bare && !authority.as_str().contains('@'));
    authority.cloned().ok_or_else(no_form)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn endpoints_are_plain_http_without_a_path() {
        for good in ["http://127.0.0.1:7080", "http://127.0.0.1:7080/", "http://[::1]:80", "http://worker-2"]
        {
            assert!(authority_of(good).is_ok(), "{good}");
        }
        for bad in
            ["", "127.0.0.1:7080", "https://127.0.0.1", "http://", "http://a/b", "http://a/?b", "http://a@b"]
        {
            assert_eq!(authority_of(bad), Err(ClientError::Endpoint(bad.to_owned())));
        }
    }
}
