//! How a carrier knows who calls: one header, made once.

use billing_core::book::reader::{Problems, Table};
use http::header::{AUTHORIZATION, HeaderName, HeaderValue};
use zeroize::Zeroizing;

use crate::http::is_reserved;
use crate::secrets::Secrets;

/// The header that carries the credential, if any.
#[derive(Clone)]
pub(crate) struct Auth {
    header: Option<(HeaderName, HeaderValue)>,
    /// The credential as it stands in the header.
    on_wire: Option<Zeroizing<String>>,
}

#[derive(Clone, Copy, PartialEq)]
enum Method {
    None,
    Basic,
    Bearer,
    ApiKey,
}

const METHODS: [(&str, Method); 4] = [
    ("none", Method::None),
    ("basic", Method::Basic),
    ("bearer", Method::Bearer),
    ("api_key", Method::ApiKey),
];

impl Auth {
    /// The header to send.
    pub(crate) fn header(&self) -> Option<(HeaderName, HeaderValue)> {
        self.header.clone()
    }

    /// The credential in the forms in which it stands on the wire.
    pub(crate) fn wire_forms(&self) -> impl Iterator<Item = &[u8]> {
        self.on_wire.iter().map(|credential| credential.as_bytes())
    }

    /// Without a table nothing is sent.
    pub(super) fn none() -> Self {
        Self { header: None, on_wire: None }
    }

    /// Reads `[auth]`.
    pub(super) fn read(mut table: Table<'_>, secrets: &dyn Secrets, problems: &mut Problems) -> Option<Self> {
        let auth = Self::read_open(&mut table, secrets, problems);
        table.finish(problems);
        auth
    }

    fn read_open(table: &mut Table<'_>, secrets: &dyn Secrets, problems: &mut Problems) -> Option<Self> {
        let method = table.one_of("method", &METHODS, problems)?.value;
        if method == Method::None {
            return Some(Self::none());
        }
        let name = table.str("secret", problems);
        let login = if method == Method::Basic { Some(table.str("user", problems)) } else { None };
        let header =
            if method == Method::ApiKey { table.str("header", problems)?.value } else { String::new() };
        let name = name?.value;
        let secret = match secrets.lookup(&name) {
            Ok(secret) => secret,
            Err(error) => {
                let help =
                    "put it into a file of this name in the folder of secrets, readable by its owner only";
                table.problem("secret", format!("no secret `{name}`: {error}"), help, problems);
                return None;
            }
        };
        let header = match method {
            Method::ApiKey => {
                HeaderName::from_bytes(header.as_bytes()).ok().filter(|name| !is_reserved(name))
            }
            _ => Some(AUTHORIZATION),
        };
        let Some(header) = header else {
            table.problem("header", "not a header that may be set", "such as \"x-api-key\"", problems);
            return None;
        };
        let (scheme, on_wire) = match method {
            Method::Basic => {
                let login = login??.value;
                if login.contains(':') {
                    table.problem(
                        "user",
                        "a name with a colon",
                        "basic credentials cannot hold one",
                        problems,
                    );
                    return None;
                }
                let pair = Zeroizing::new(format!("{login}:{}", *secret));
                ("Basic ", Zeroizing::new(base64(pair.as_bytes())))
            }
            Method::Bearer => ("Bearer ", secret),
            _ => ("", secret),
        };
        let Ok(mut value) = HeaderValue::from_str(&format!("{scheme}{}", *on_wire)) else {
            table.problem("secret", "the secret cannot stand in a header", "printable ASCII only", problems);
            return None;
        };
        value.set_sensitive(true);
        Some(Self { header: Some((header, value)), on_wire: Some(on_wire) })
    }
}

/// Standard alphabet, padded (RFC 4648).
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |i: usize| u32::from(chunk.get(i).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for i in 0..4 {
            let letter = LETTERS[(bits >> (18 - 6 * i)) as usize & 63];
            text.push(if i <= chunk.len() { char::from(letter) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_of_rfc_4648() {
        let cases = [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("foobar", "Zm9vYmFy"),
        ];
        for (plain, coded) in cases {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
        assert_eq!(base64(&[0xfb, 0xff, 0xfe]), "+//+");
    }
}
