//! Makes the HTTP request of an attempt: what never changes is prepared once, the rest is rendered into one buffer.

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HOST, HeaderMap, HeaderValue, USER_AGENT};
use http::{HeaderName, Method, Request, Uri};
use http_body_util::Full;

use super::target::Target;
use crate::adapter::Attempt;
use crate::definition::Auth;
use crate::dialect::Operation;
use crate::dialect::template::BuildError;

/// How this program names itself to carriers.
const AGENT: HeaderValue = HeaderValue::from_static(concat!("tollbook/", env!("CARGO_PKG_VERSION")));
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// The parts of an operation's request that are the same for every attempt.
pub(crate) struct Prepared {
    method: Method,
    /// The request target, when it is constant.
    uri: Option<Uri>,
    prefix: Box<str>,
    headers: HeaderMap,
}

impl Prepared {
    pub(crate) fn new(operation: &Operation, target: &Target, auth: &Auth) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, target.authority.clone());
        headers.insert(USER_AGENT, AGENT);
        headers.insert(ACCEPT, JSON);
        if operation.body.is_some() {
            headers.insert(CONTENT_TYPE, JSON);
        }
        if let Some((name, value)) = auth.header() {
            headers.insert(name, value);
        }
        let constant = operation.path.constant().and_then(|path| {
            let path = std::str::from_utf8(path).ok()?;
            format!("{}{path}", target.prefix).parse().ok()
        });
        Self { method: operation.method.clone(), uri: constant, prefix: target.prefix.clone(), headers }
    }

    /// The request of an attempt. `scratch` is reused from attempt to attempt.
    pub(crate) fn request(
        &self,
        operation: &Operation,
        attempt: &Attempt,
        scratch: &mut Vec<u8>,
    ) -> Result<Request<Full<Bytes>>, BuildError> {
        let uri = match &self.uri {
            Some(uri) => uri.clone(),
            None => {
                scratch.clear();
                scratch.extend_from_slice(self.prefix.as_bytes());
                operation.path.render(attempt, scratch)?;
                Uri::try_from(scratch.as_slice()).map_err(|_| BuildError::Characters)?
            }
        };
        let mut headers = self.headers.clone();
        for (name, template) in &operation.headers {
            scratch.clear();
            template.render(attempt, scratch)?;
            let mut value = HeaderValue::from_bytes(scratch).map_err(|_| BuildError::Characters)?;
            value.set_sensitive(template.secrets().next().is_some());
            headers.insert(name.clone(), value);
        }
        scratch.clear();
        if let Some(body) = &operation.body {
            body.render(attempt, scratch)?;
        }
        let mut request = Request::new(Full::new(Bytes::copy_from_slice(scratch)));
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        Ok(request)
    }
}

/// Headers that the link itself writes; a definition may not.
pub(crate) fn is_reserved(name: &HeaderName) -> bool {
    use http::header;
    let reserved = [
        header::HOST,
        header::CONTENT_LENGTH,
        header::TRANSFER_ENCODING,
        header::CONNECTION,
        header::UPGRADE,
        header::TE,
        header::TRAILER,
        header::EXPECT,
        header::ACCEPT_ENCODING,
    ];
    reserved.contains(name)
}
