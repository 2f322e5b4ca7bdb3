//! The few requests that the benchmark makes to the engine's own interface.

use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

const ANSWER_WITHIN: Duration = Duration::from_secs(5);
const BODY_BYTES_MAX: usize = 4 << 20;

/// Asks `address` (host and port) and gives the body of an answer with status 200.
pub(super) async fn ask(address: &str, method: Method, path: &str) -> anyhow::Result<String> {
    tell(address, method, path, "").await
}

/// The same with something to say.
pub(super) async fn tell(address: &str, method: Method, path: &str, body: &str) -> anyhow::Result<String> {
    let what = format!("{method} http://{address}{path}");
    let asked = tokio::time::timeout(ANSWER_WITHIN, exchange(address, method, path, body)).await;
    asked
        .with_context(|| format!("{what}: no answer within {} s", ANSWER_WITHIN.as_secs()))?
        .with_context(|| what)
}

async fn exchange(address: &str, method: Method, path: &str, said: &str) -> anyhow::Result<String> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let driven = tokio::spawn(connection);
    let request = Request::builder().method(method).uri(path).header("host", address);
    let answer =
        sender.send_request(request.body(Full::new(Bytes::copy_from_slice(said.as_bytes())))?).await?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), BODY_BYTES_MAX).collect().await;
    let body = body.map_err(|error| anyhow::anyhow!("its body cannot be read: {error}"))?.to_bytes();
    drop(sender);
    let _ = driven.await;
    ensure!(status.is_success(), "status {status}");
    Ok(String::from_utf8(body.into())?)
}

/// The sum of a metric over its labels; `None` when the text has none of that name.
pub(super) fn metric(text: &str, name: &str) -> Option<f64> {
    let values = text.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let value = match rest.strip_prefix('{') {
            Some(labelled) => labelled.rsplit_once('}')?.1,
            None => rest.strip_prefix(' ')?,
        };
        value.trim().split(' ').next()?.parse::<f64>().ok()
    });
    values.fold(None, |sum, value| Some(sum.unwrap_or(0.0) + value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_summed_over_labels_and_not_mixed_up() {
        let text = "# TYPE a_total counter\na_total 12\na_total_more 7\nb{carrier=\"x} 3\",z=\"1\"} 4\nb{carrier=\"y\"} 5 170\n";
        assert_eq!(metric(text, "a_total"), Some(12.0));
        assert_eq!(metric(text, "b"), Some(9.0));
        assert_eq!(metric(text, "a"), None);
    }
}
