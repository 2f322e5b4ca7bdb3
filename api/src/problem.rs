//! Refusals as RFC 9457 problems: a stable code for programs, a sentence for people.

use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderValue};
use serde::{Deserialize, Serialize};

/// Why a request was not served. The request's id is added by [`Problem::render`], where it is known.
#[derive(Debug, Clone)]
pub(crate) struct Problem {
    pub(crate) status: StatusCode,
    pub(crate) code: &'static str,
    pub(crate) title: &'static str,
    pub(crate) detail: String,
    /// What part of the request is at fault: `/query/limit`.
    pub(crate) pointer: Option<&'static str>,
    /// Whether the same request may succeed later.
    pub(crate) retryable: bool,
}

/// A problem on the wire.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ProblemBody {
    #[serde(rename = "type")]
    kind: String,
    title: String,
    status: u16,
    pub(crate) code: String,
    pub(crate) detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pointer: Option<String>,
    pub(crate) request_id: String,
    retryable: bool,
}

impl Problem {
    pub(crate) fn new(
        status: StatusCode,
        code: &'static str,
        title: &'static str,
        detail: impl Into<String>,
    ) -> Self {
        let retryable = status == StatusCode::SERVICE_UNAVAILABLE;
        Self { status, code, title, detail: detail.into(), pointer: None, retryable }
    }

    pub(crate) fn query(pointer: &'static str, detail: impl Into<String>) -> Self {
        Self {
            pointer: Some(pointer),
            ..Self::new(StatusCode::BAD_REQUEST, "query_invalid", "a query parameter is not usable", detail)
        }
    }

    /// The answer itself.
    pub(crate) fn render(&self, request_id: &str) -> Response {
        let body = ProblemBody {
            kind: format!("urn:tollbook:problem:{}", self.code),
            title: self.title.to_owned(),
            status: self.status.as_u16(),
            code: self.code.to_owned(),
            detail: self.detail.clone(),
            pointer: self.pointer.map(str::to_owned),
            request_id: request_id.to_owned(),
            retryable: self.retryable,
        };
        let mut response = (self.status, axum::Json(body)).into_response();
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        response
    }
}

impl IntoResponse for Problem {
    /// A stand-in that carries the problem to where the request's id is known.
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}
