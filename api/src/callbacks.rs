//! Carriers' own messages: `POST /callbacks/{carrier}`, on a listener of its own. Whoever reaches it reaches nothing else:
//! no status, no metrics, no history, and none of what operators will be given. A message is known by its signature, so
//! the address may be one that carriers reach; the bytes are not encrypted here, so a proxy that ends TLS stands before it.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, HeaderMap, HeaderValue, RETRY_AFTER};
use http::{Method, StatusCode};
use scheduler::{CallbackDesk, Received};
use tokio::net::TcpListener;

use crate::routes::buffered;
use crate::serve::{ServeOptions, accept_all};

/// Takes carriers' messages; what it acknowledges is durable.
pub trait Receiving: Send + Sync + 'static {
    /// One message of a carrier: its headers as they came, its body byte for byte.
    fn receive<'a>(
        &'a self,
        carrier: &'a str,
        headers: &'a HeaderMap,
        body: &'a [u8],
    ) -> Pin<Box<dyn Future<Output = Received> + Send + 'a>>;
}

impl Receiving for CallbackDesk {
    fn receive<'a>(
        &'a self,
        carrier: &'a str,
        headers: &'a HeaderMap,
        body: &'a [u8],
    ) -> Pin<Box<dyn Future<Output = Received> + Send + 'a>> {
        Box::pin(CallbackDesk::receive(self, carrier, headers, body))
    }
}

/// Takes messages until `stop` completes; then closes the listener, lets those in progress end, and returns.
///
/// # Errors
/// When nothing can be accepted any more.
pub async fn serve_callbacks(
    listener: TcpListener,
    desk: Arc<dyn Receiving>,
    options: ServeOptions,
    stop: impl Future<Output = ()>,
) -> io::Result<()> {
    let router = router(desk, Duration::from_millis(options.request_timeout_ms));
    accept_all(listener, router, options, stop).await
}

fn router(desk: Arc<dyn Receiving>, request_timeout: Duration) -> Router {
    let bare = |status: StatusCode| move || async move { status };
    Router::new()
        .route("/callbacks/{carrier}", post(message))
        .fallback(bare(StatusCode::NOT_FOUND))
        .method_not_allowed_fallback(bare(StatusCode::METHOD_NOT_ALLOWED))
        .layer(from_fn_with_state(request_timeout, around))
        .with_state(desk)
}

async fn message(
    State(desk): State<Arc<dyn Receiving>>,
    carrier: Option<Path<String>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let Some(Path(carrier)) = carrier else { return StatusCode::NOT_FOUND.into_response() };
    match desk.receive(&carrier, &headers, &body).await {
        Received::Acknowledged { status, body } => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::NO_CONTENT);
            (status, String::from(body)).into_response()
        }
        Received::NoSuchCarrier => StatusCode::NOT_FOUND.into_response(),
        Received::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE.into_response(),
        Received::NotAuthentic => StatusCode::UNAUTHORIZED.into_response(),
        Received::Unreadable => StatusCode::BAD_REQUEST.into_response(),
        Received::TooMany => again(StatusCode::TOO_MANY_REQUESTS),
        Received::Unavailable => again(StatusCode::SERVICE_UNAVAILABLE),
    }
}

fn again(status: StatusCode) -> Response {
    (status, [(RETRY_AFTER, HeaderValue::from_static("1"))]).into_response()
}

/// Around every message: how large, how long. Answers are bare statuses: strangers learn nothing from them.
async fn around(State(timeout): State<Duration>, request: Request, next: Next) -> Response {
    let served = tokio::time::timeout(timeout, async {
        if request.method() != Method::POST {
            return Ok(next.run(request).await);
        }
        let whole = buffered(request, timeout / 2).await.map_err(|problem| problem.status)?;
        Ok::<_, StatusCode>(next.run(whole).await)
    });
    let mut response = match served.await {
        Ok(Ok(response)) => response,
        Ok(Err(status)) => status.into_response(),
        Err(_) => again(StatusCode::SERVICE_UNAVAILABLE),
    };
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
