//! A message as it is kept: headers and body under a key of the vault, because it may name the subscriber's number.

use http::HeaderMap;
use http::header::{AUTHORIZATION, COOKIE, PROXY_AUTHORIZATION};
use serde::{Deserialize, Serialize};
use storage::pg::KeptCallback;
use storage::vault::{SubscriberKey, Vault, VaultError};

const KEY_LABEL: &[u8] = b"callback";

/// Headers and body as they came. Headers that hold credentials are left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Raw {
    headers: Vec<(String, Vec<u8>)>,
    pub(crate) body: Vec<u8>,
}

impl Raw {
    pub(crate) fn of(headers: &HeaderMap, body: &[u8]) -> Self {
        let fine =
            headers.iter().filter(|(name, _)| ![AUTHORIZATION, COOKIE, PROXY_AUTHORIZATION].contains(name));
        let headers = fine.map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())).collect();
        Self { headers, body: body.to_vec() }
    }

    /// Its sealed bytes, and under which key-encryption key. Each message has a key of its own.
    pub(crate) fn seal(
        &self,
        vault: &Vault,
        carrier_no: i32,
        fact: &[u8],
    ) -> Result<(Vec<u8>, i16), VaultError> {
        let version = vault.current_kek_version();
        let plain = postcard::to_stdvec(self).map_err(|_| VaultError::Cipher("message not encoded"))?;
        let mut sealed = Vec::new();
        key(vault, fact, version)?.seal(&aad(carrier_no, fact), &plain, &mut sealed)?;
        Ok((sealed, version))
    }

    /// What was kept; `None` for what does not open.
    pub(crate) fn open(vault: &Vault, kept: &KeptCallback) -> Option<Self> {
        let key = key(vault, &kept.fact, kept.kek_version).ok()?;
        let plain = key.open(&aad(kept.carrier_no, &kept.fact), &kept.sealed).ok()?;
        postcard::from_bytes(&plain).ok()
    }

    /// As it might have stood on the wire: for the history.
    pub(crate) fn text(&self) -> Vec<u8> {
        let mut text = Vec::with_capacity(self.body.len() + 512);
        for (name, value) in &self.headers {
            text.extend_from_slice(name.as_bytes());
            text.extend_from_slice(b": ");
            text.extend_from_slice(value);
            text.extend_from_slice(b"\r\n");
        }
        text.extend_from_slice(b"\r\n");
        text.extend_from_slice(&self.body);
        text
    }
}

fn key(vault: &Vault, fact: &[u8], version: i16) -> Result<SubscriberKey, VaultError> {
    // Longer than any salt of a subscriber, so never one's key.
    vault.subscriber_key(&[KEY_LABEL, fact].concat(), version)
}

fn aad(carrier_no: i32, fact: &[u8]) -> Vec<u8> {
    [&carrier_no.to_be_bytes()[..], fact].concat()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use http::HeaderValue;

    use super::*;

    #[test]
    fn what_was_kept_opens_as_what_it_was_and_as_nothing_else() {
        let vault = Vault::for_tests(3);
        let mut headers = HeaderMap::new();
        headers.insert("x-signature", HeaderValue::from_static("sha256=00"));
        headers.insert(AUTHORIZATION, HeaderValue::from_static("Bearer secret"));
        let raw = Raw::of(&headers, b"{\"msisdn\":\"819000000001\"}");
        let (sealed, kek_version) = raw.seal(&vault, 7, &[9; 32]).unwrap();
        assert!(!sealed.windows(12).any(|part| part == b"819000000001"));
        let kept = KeptCallback {
            id: 1,
            carrier_no: 7,
            fact: vec![9; 32],
            authenticated: true,
            sealed,
            kek_version,
            received_at_us: 0,
            age_ms: 0,
        };
        assert_eq!(Raw::open(&vault, &kept).as_ref(), Some(&raw));
        assert_eq!(raw.text(), b"x-signature: sha256=00\r\n\r\n{\"msisdn\":\"819000000001\"}");
        assert_eq!(Raw::open(&vault, &KeptCallback { carrier_no: 8, ..kept.clone() }), None);
        assert_eq!(Raw::open(&vault, &KeptCallback { fact: vec![8; 32], ..kept.clone() }), None);
        assert_eq!(Raw::open(&Vault::for_tests(4), &kept), None);
    }
}
