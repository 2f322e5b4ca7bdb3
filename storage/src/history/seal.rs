//! From plain bytes to a sealed row and back.
//!
//! A sealed row is `version ‖ dictionary digest ‖ nonce ‖ AES-GCM(zstd(plain)) ‖ tag`. The version, the digest and the
//! encoded [`HistoryKey`] are authenticated with it, so a row that was moved to another place does not open.

use std::fmt;

use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe::{self, CParameter};

use super::dictionary::{DICTIONARY_BYTES_MAX, Digest, NO_DICTIONARY, digest_of};
use super::key::{HistoryKey, KEY_BYTES};
use crate::vault::{SEAL_OVERHEAD_BYTES, SubscriberKey, VaultError};

/// The most plain bytes of a row, on the way in and on the way out.
pub const PLAIN_BYTES_MAX: usize = 4 * 1024 * 1024;

const VERSION: u8 = 1;
const DIGEST_BYTES: usize = NO_DICTIONARY.len();
const HEAD_BYTES: usize = 1 + DIGEST_BYTES;
const LEVEL: i32 = -1;

/// Seals rows of one carrier: holds its dictionary prepared and its buffers for reuse. One per thread that seals.
pub struct Sealer {
    compressor: Compressor<'static>,
    digest: Digest,
    compressed: Vec<u8>,
}

/// Why bytes could not be sealed or a row not be opened.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// More plain bytes than a row may hold, or more than the limit would come out of it.
    #[error("row of {got} plain bytes, limit {PLAIN_BYTES_MAX}")]
    TooLarge {
        /// The plain bytes.
        got: u64,
    },
    /// The dictionary is above its limit.
    #[error("dictionary of {0} bytes, limit {DICTIONARY_BYTES_MAX}")]
    DictionaryTooLarge(usize),
    /// Not a sealed row of a version known here.
    #[error("sealed row of {length} bytes has unknown version {version:?}")]
    UnknownVersion {
        /// All its bytes.
        length: usize,
        /// Its first byte, if it has one.
        version: Option<u8>,
    },
    /// The store has no dictionary of this digest.
    #[error("no dictionary {0:02x?}")]
    NoDictionary(Digest),
    /// Changed bytes, another row's bytes, or another subscriber's key.
    #[error(transparent)]
    Cipher(#[from] VaultError),
    /// The compressor failed, or what was authenticated is not what it makes.
    #[error("zstd: {0}")]
    Compression(String),
}

impl Sealer {
    /// Prepares to seal with `dictionary` (from [`super::train`] or any raw bytes; may be empty). Store it under
    /// [`Self::digest`] before the first row.
    ///
    /// # Errors
    /// [`SealError::DictionaryTooLarge`], [`SealError::Compression`].
    pub fn new(dictionary: &[u8]) -> Result<Sealer, SealError> {
        check_dictionary(dictionary)?;
        let mut compressor = Compressor::with_dictionary(LEVEL, dictionary).map_err(compression)?;
        // Our own digest names the dictionary: its id inside would cost four bytes a row.
        compressor.set_parameter(CParameter::DictIdFlag(false)).map_err(compression)?;
        Ok(Sealer { compressor, digest: digest_of(dictionary), compressed: Vec::new() })
    }

    /// The digest of the dictionary, as every row of this sealer carries it.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The sealed bytes of `plain` for the place `row_key`; two calls never give the same bytes.
    ///
    /// # Errors
    /// [`SealError::TooLarge`] above [`PLAIN_BYTES_MAX`]; [`SealError::Cipher`] without system randomness.
    pub fn seal(
        &mut self,
        key: &SubscriberKey,
        row_key: &HistoryKey,
        plain: &[u8],
    ) -> Result<Vec<u8>, SealError> {
        if plain.len() > PLAIN_BYTES_MAX {
            return Err(SealError::TooLarge { got: plain.len() as u64 });
        }
        self.compressed.clear();
        self.compressed.reserve(zstd_safe::compress_bound(plain.len()));
        self.compressor.compress_to_buffer(plain, &mut self.compressed).map_err(compression)?;
        let aad = aad(self.digest, row_key);
        let mut row = Vec::with_capacity(HEAD_BYTES + self.compressed.len() + SEAL_OVERHEAD_BYTES);
        row.extend_from_slice(&aad[..HEAD_BYTES]);
        key.seal(&aad, &self.compressed, &mut row)?;
        Ok(row)
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealer").field("digest", &self.digest).finish_non_exhaustive()
    }
}

/// The digest of the dictionary that a sealed row needs, so that it can be fetched before [`open`]; `None` if it needs
/// none or is no sealed row.
#[must_use]
pub fn dictionary_needed(bytes: &[u8]) -> Option<Digest> {
    let digest = *bytes.get(1..)?.first_chunk::<DIGEST_BYTES>()?;
    (digest != NO_DICTIONARY).then_some(digest)
}

/// The plain bytes of a sealed row. `lookup` finds a dictionary by its digest; `row_key` must be the place where the
/// row was found.
///
/// # Errors
/// Any [`SealError`]; no input, however hostile, yields more than [`PLAIN_BYTES_MAX`] bytes.
pub fn open(
    lookup: impl Fn(&Digest) -> Option<Vec<u8>>,
    key: &SubscriberKey,
    row_key: &HistoryKey,
    bytes: &[u8],
) -> Result<Vec<u8>, SealError> {
    let unknown = || SealError::UnknownVersion { length: bytes.len(), version: bytes.first().copied() };
    let (head, sealed) = bytes.split_first_chunk::<HEAD_BYTES>().ok_or_else(unknown)?;
    let [VERSION, digest @ ..] = *head else { return Err(unknown()) };
    let compressed = key.open(&aad(digest, row_key), sealed)?;
    let plain_bytes = match zstd_safe::get_frame_content_size(&compressed) {
        Ok(Some(bytes)) => bytes,
        Ok(None) | Err(_) => return Err(SealError::Compression("frame without a size".to_owned())),
    };
    let capacity = usize::try_from(plain_bytes)
        .ok()
        .filter(|bytes| *bytes <= PLAIN_BYTES_MAX)
        .ok_or(SealError::TooLarge { got: plain_bytes })?;
    let dictionary = match digest {
        NO_DICTIONARY => Vec::new(),
        _ => lookup(&digest).ok_or(SealError::NoDictionary(digest))?,
    };
    check_dictionary(&dictionary)?;
    Decompressor::with_dictionary(&dictionary)
        .and_then(|mut decompressor| decompressor.decompress(&compressed, capacity))
        .map_err(compression)
}

fn aad(digest: Digest, row_key: &HistoryKey) -> [u8; HEAD_BYTES + KEY_BYTES] {
    let mut aad = [VERSION; HEAD_BYTES + KEY_BYTES];
    aad[1..HEAD_BYTES].copy_from_slice(&digest);
    aad[HEAD_BYTES..].copy_from_slice(&row_key.encode());
    aad
}

fn check_dictionary(dictionary: &[u8]) -> Result<(), SealError> {
    if dictionary.len() > DICTIONARY_BYTES_MAX {
        return Err(SealError::DictionaryTooLarge(dictionary.len()));
    }
    Ok(())
}

fn compression(error: std::io::Error) -> SealError {
    SealError::Compression(error.to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::super::dictionary::train;
    use super::*;
    use crate::vault::Vault;

    const PLACE: HistoryKey =
        HistoryKey { subscription_id: 1 << 32, month: 202_611, period: 9000, attempt_no: 1, seq: 0 };

    fn key(salt: &[u8]) -> SubscriberKey {
        Vault::for_tests(1).subscriber_key(salt, 1).unwrap()
    }

    fn message(n: usize) -> Vec<u8> {
        format!(
            "POST /v2/charges HTTP/1.1\r\nhost: pay.carrier.example\r\n\r\n{{\"reference\":\"{n:020}\",\"amount\":\"1.99\",\
             \"currency\":\"EUR\",\"description\":\"weekly news\"}}\nHTTP/1.1 200 OK\r\n\r\n{{\"status\":\"CHARGED\",\"id\":{}}}",
            n * 7919
        )
        .into_bytes()
    }

    #[test]
    fn rows_come_back_with_and_without_a_dictionary_and_shrink_with_one() {
        let dictionary = train(&(0..300).map(message).collect::<Vec<_>>(), 16 * 1024);
        let raw = message(1);
        let mut sizes = Vec::new();
        for dictionary in [&b""[..], &raw, &dictionary] {
            let mut sealer = Sealer::new(dictionary).unwrap();
            for n in [1000, 1001] {
                let sealed = sealer.seal(&key(b"a"), &PLACE, &message(n)).unwrap();
                assert_eq!(
                    dictionary_needed(&sealed),
                    (!dictionary.is_empty()).then(|| digest_of(dictionary))
                );
                let lookup =
                    |digest: &Digest| (*digest == digest_of(dictionary)).then(|| dictionary.to_vec());
                assert_eq!(open(lookup, &key(b"a"), &PLACE, &sealed).unwrap(), message(n));
                sizes.push(sealed.len());
            }
        }
        let overhead = HEAD_BYTES + SEAL_OVERHEAD_BYTES;
        assert!(sizes[2] - overhead < (sizes[0] - overhead) / 2, "raw dictionary: {sizes:?}");
        assert!(sizes[4] - overhead < (sizes[0] - overhead) / 2, "trained dictionary: {sizes:?}");
    }

    #[test]
    fn a_row_opens_only_in_its_place_with_its_key_and_its_dictionary() {
        let dictionary = message(1);
        let sealed = Sealer::new(&dictionary).unwrap().seal(&key(b"a"), &PLACE, b"plain").unwrap();
        let lookup = |_: &Digest| Some(dictionary.clone());
        assert_eq!(open(lookup, &key(b"a"), &PLACE, &sealed).unwrap(), b"plain");
        let moved = [
            HistoryKey { subscription_id: 2, ..PLACE },
            HistoryKey { month: 202_612, ..PLACE },
            HistoryKey { period: 9001, ..PLACE },
            HistoryKey { attempt_no: 2, ..PLACE },
            HistoryKey { seq: 1, ..PLACE },
        ];
        for place in moved {
            assert!(
                matches!(open(lookup, &key(b"a"), &place, &sealed), Err(SealError::Cipher(_))),
                "{place:?}"
            );
        }
        assert!(matches!(open(lookup, &key(b"b"), &PLACE, &sealed), Err(SealError::Cipher(_))));
        assert!(matches!(open(|_| None, &key(b"a"), &PLACE, &sealed), Err(SealError::NoDictionary(_))));
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 0x40;
            assert!(open(lookup, &key(b"a"), &PLACE, &changed).is_err(), "byte {at}");
            assert!(open(lookup, &key(b"a"), &PLACE, &sealed[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn sizes_are_bounded_both_ways() {
        let mut sealer = Sealer::new(b"").unwrap();
        let zeros = vec![0; PLAIN_BYTES_MAX + 1];
        assert!(matches!(sealer.seal(&key(b"a"), &PLACE, &zeros), Err(SealError::TooLarge { .. })));
        let sealed = sealer.seal(&key(b"a"), &PLACE, &zeros[1..]).unwrap();
        assert!(sealed.len() < 4096, "{}", sealed.len());
        assert_eq!(open(|_| None, &key(b"a"), &PLACE, &sealed).unwrap().len(), PLAIN_BYTES_MAX);

        // A bomb made with the right key, as a taken-over writer could: refused before it unfolds.
        for bomb in [zstd::bulk::compress(&zeros, 1).unwrap(), zstd::encode_all(&zeros[..], 1).unwrap()] {
            let aad = aad(NO_DICTIONARY, &PLACE);
            let mut row = aad[..HEAD_BYTES].to_vec();
            key(b"a").seal(&aad, &bomb, &mut row).unwrap();
            assert!(open(|_| None, &key(b"a"), &PLACE, &row).is_err());
        }
        assert!(matches!(
            Sealer::new(&vec![0; DICTIONARY_BYTES_MAX + 1]),
            Err(SealError::DictionaryTooLarge(_))
        ));
    }

    #[test]
    fn empty_and_incompressible_rows_pass() {
        let mut sealer = Sealer::new(b"").unwrap();
        let mut noise = vec![0; 100_000];
        aws_lc_rs::rand::fill(&mut noise).unwrap();
        for plain in [&b""[..], b"x", &noise] {
            let sealed = sealer.seal(&key(b"a"), &PLACE, plain).unwrap();
            assert_eq!(open(|_| None, &key(b"a"), &PLACE, &sealed).unwrap(), plain);
        }
    }
}
