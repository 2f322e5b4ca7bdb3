//! A file as it is kept: its pieces and rows under a key of the vault, because they name subscribers.

use storage::pg::{FileRecord, FileRowRecord};
use storage::vault::{SubscriberKey, Vault, VaultError};

const KEY_LABEL: &[u8] = b"carrier file";

/// The key of one file.
pub(super) struct FileSeal {
    key: SubscriberKey,
    /// What the key's bytes belong to.
    about: Vec<u8>,
}

impl FileSeal {
    pub(super) fn new(
        vault: &Vault,
        carrier_no: i32,
        digest: &[u8],
        salt: &[u8],
        kek_version: i16,
    ) -> Result<Self, VaultError> {
        // Longer than any salt of a subscriber, so never one's key.
        let key = vault.subscriber_key(&[KEY_LABEL, salt].concat(), kek_version)?;
        Ok(Self { key, about: [&carrier_no.to_be_bytes()[..], digest].concat() })
    }

    pub(super) fn of_record(vault: &Vault, file: &FileRecord) -> Result<Self, VaultError> {
        Self::new(vault, file.carrier_no, &file.digest, &file.salt, file.kek_version)
    }

    pub(super) fn seal_chunk(&self, no: i32, plain: &[u8]) -> Result<Vec<u8>, VaultError> {
        self.seal(b'c', i64::from(no), plain)
    }

    pub(super) fn open_chunk(&self, no: i32, sealed: &[u8]) -> Result<Vec<u8>, VaultError> {
        self.key.open(&self.aad(b'c', i64::from(no)), sealed)
    }

    pub(super) fn seal_row(&self, line: i64, plain: &[u8]) -> Result<Vec<u8>, VaultError> {
        self.seal(b'r', line, plain)
    }

    fn seal(&self, kind: u8, no: i64, plain: &[u8]) -> Result<Vec<u8>, VaultError> {
        let mut sealed = Vec::new();
        self.key.seal(&self.aad(kind, no), plain, &mut sealed)?;
        Ok(sealed)
    }

    fn aad(&self, kind: u8, no: i64) -> Vec<u8> {
        [&self.about[..], &[kind], &no.to_be_bytes()].concat()
    }
}

/// A kept row, byte for byte as it stood in its file.
///
/// # Errors
/// When it does not open under this vault.
pub fn open_file_row(vault: &Vault, row: &FileRowRecord) -> Result<Vec<u8>, VaultError> {
    let seal = FileSeal::new(vault, row.carrier_no, &row.digest, &row.salt, row.kek_version)?;
    seal.key.open(&seal.aad(b'r', row.line), &row.sealed)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_piece_opens_at_its_own_place_only() {
        let vault = Vault::for_tests(3);
        let seal = FileSeal::new(&vault, 7, &[9; 32], &[1; 16], vault.current_kek_version()).unwrap();
        let sealed = seal.seal_chunk(2, b"D,k,819000000001").unwrap();
        assert!(!sealed.windows(12).any(|part| part == b"819000000001"));
        assert_eq!(seal.open_chunk(2, &sealed).unwrap(), b"D,k,819000000001");
        assert!(seal.open_chunk(3, &sealed).is_err());
        let row = seal.seal_row(2, b"D,k,819000000001").unwrap();
        assert!(seal.open_chunk(2, &row).is_err(), "a row is no piece");
        let other = FileSeal::new(&vault, 8, &[9; 32], &[1; 16], vault.current_kek_version()).unwrap();
        assert!(other.open_chunk(2, &sealed).is_err(), "another carrier's");
    }
}
