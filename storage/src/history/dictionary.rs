//! Compression dictionaries: what a carrier's messages have in common, stored once instead of in every row.

use aws_lc_rs::digest;

/// The largest dictionary that a store takes, in bytes.
pub const DICTIONARY_BYTES_MAX: usize = 1024 * 1024;

/// Names a dictionary: the first 8 bytes of its SHA-256, or [`NO_DICTIONARY`].
pub type Digest = [u8; 8];

/// The digest that stands for "compressed without a dictionary".
pub const NO_DICTIONARY: Digest = [0; 8];

/// The digest under which a dictionary is stored; [`NO_DICTIONARY`] for an empty one.
#[must_use]
pub fn digest_of(dictionary: &[u8]) -> Digest {
    let mut digest = NO_DICTIONARY;
    if !dictionary.is_empty() {
        digest.copy_from_slice(&digest::digest(&digest::SHA256, dictionary).as_ref()[..NO_DICTIONARY.len()]);
    }
    digest
}

/// Makes a dictionary of at most `bytes_max` bytes from sample messages; a few hundred of them serve well. Too few or
/// too uniform samples to train on give their plain concatenation, cut to `bytes_max`, which works as one, too.
#[must_use]
pub fn train(samples: &[Vec<u8>], bytes_max: usize) -> Vec<u8> {
    let bytes_max = bytes_max.min(DICTIONARY_BYTES_MAX);
    zstd::dict::from_samples(samples, bytes_max).unwrap_or_else(|_| {
        let mut raw: Vec<u8> = samples.iter().flatten().copied().take(bytes_max).collect();
        // Bytes that look like a trained dictionary's head would be parsed as one.
        if raw.starts_with(&zstd::zstd_safe::MAGIC_DICTIONARY.to_le_bytes()) {
            raw.insert(0, b' ');
            raw.truncate(bytes_max);
        }
        raw
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_name_contents() {
        assert_eq!(digest_of(b""), NO_DICTIONARY);
        // sha256("abc") = ba7816bf8f01cfea…
        assert_eq!(digest_of(b"abc"), [0xba, 0x78, 0x16, 0xbf, 0x8f, 0x01, 0xcf, 0xea]);
        assert_ne!(digest_of(b"a"), digest_of(b"b"));
    }

    #[test]
    fn training_stays_within_its_bound_even_on_poor_samples() {
        let good: Vec<Vec<u8>> =
            (0..500).map(|n| format!("{{\"msg\":\"charge\",\"id\":{n},\"ok\":true}}").into_bytes()).collect();
        for samples in [&good[..], &good[..1], &[]] {
            let dictionary = train(samples, 4096);
            assert!(dictionary.len() <= 4096);
            assert_eq!(dictionary.is_empty(), samples.is_empty());
        }
    }
}
