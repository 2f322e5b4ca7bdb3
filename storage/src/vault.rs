//! The secret keys: what encrypts a person's data and what hides an MSISDN behind a look-up value.
//!
//! Two kinds of files lie in the vault's directory, each 32 random bytes in hex, mode 0600: `kek.v<n>` (key-encryption
//! keys, any number of versions) and `pepper.v1`. A subscriber's own key is never stored: it is derived from a
//! key-encryption key and the subscriber's `key_salt`, so deleting the salt erases the person.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::{hmac, rand};
use zeroize::{Zeroize, Zeroizing};

/// Bytes that [`SubscriberKey::seal`] adds to what it seals: the nonce in front, the tag behind.
pub const SEAL_OVERHEAD_BYTES: usize = NONCE_LEN + TAG_BYTES;
/// The version that a new vault's only key-encryption key gets.
pub const FIRST_KEK_VERSION: i16 = 1;
/// The version of the pepper that [`Vault::msisdn_hmac`] uses.
pub const PEPPER_VERSION: i16 = 1;

const TAG_BYTES: usize = 16;
const SECRET_BYTES: usize = 32;
const SUBSCRIBER_KEY_BYTES: usize = 16;
const SUBSCRIBER_KEY_LABEL: &[u8] = b"tollbook subscriber key v1";
const MSISDN_LABEL: &[u8] = b"msisdn v1";
/// A key file is 64 hex digits and a line end; anything longer is not one.
const KEY_FILE_BYTES_MAX: u64 = 256;
/// One call for system randomness serves this many nonces of a thread.
const NONCES_PER_REFILL: usize = 256;

/// The key-encryption keys and the pepper, ready for use. `Debug` shows versions only.
pub struct Vault {
    keks: BTreeMap<i16, hmac::Key>,
    pepper: hmac::Key,
}

/// One subscriber's AES-128-GCM key. `Debug` shows nothing of it.
pub struct SubscriberKey(LessSafeKey);

/// Why a vault could not be opened or a piece of data not be sealed or opened.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// The directory or a key file cannot be read or written.
    #[error("key file {path}: {source}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others than the owner could read or change a key file.
    #[error(
        "key file {path} has mode {mode:03o}, so others can reach it: chmod 600 it, and consider the key known"
    )]
    TooOpen {
        /// The key file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file is not 64 hex digits.
    #[error("key file {path} is not {SECRET_BYTES} bytes in hex")]
    Malformed {
        /// The key file.
        path: PathBuf,
    },
    /// The row names a key-encryption key that this vault does not hold.
    #[error("no key-encryption key of version {0}")]
    UnknownKekVersion(i16),
    /// The sealed bytes are too short, were changed, belong to another row or to another key.
    #[error("sealed data of {0} bytes does not open with this key and this row")]
    DoesNotOpen(usize),
    /// The system gave no randomness, or the cipher refused its input.
    #[error("cipher failed: {0}")]
    Cipher(&'static str),
}

impl Vault {
    /// Reads the key files in `dir`; makes the directory (0700), `kek.v1` and `pepper.v1` (0600) where they are missing.
    ///
    /// Creation is atomic: of two processes that start at once, both end up with the same keys.
    ///
    /// # Errors
    /// [`VaultError::TooOpen`], [`VaultError::Malformed`] or [`VaultError::Io`]; nothing is ever overwritten.
    pub fn open_or_create(dir: &Path) -> Result<Vault, VaultError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(|source| VaultError::Io { path: dir.to_owned(), source })?;
        let mut versions = kek_versions(dir)?;
        if versions.is_empty() {
            versions.push(FIRST_KEK_VERSION);
        }
        let mut keks = BTreeMap::new();
        for version in versions {
            keks.insert(version, read_or_create(&dir.join(format!("kek.v{version}")))?);
        }
        let pepper = read_or_create(&dir.join(format!("pepper.v{PEPPER_VERSION}")))?;
        Ok(Vault { keks, pepper })
    }

    /// A vault whose keys follow from `seed`; equal seeds, equal keys. For tests and simulations only.
    #[must_use]
    pub fn for_tests(seed: u8) -> Vault {
        let key = |purpose: u8| {
            let mut secret = [seed; SECRET_BYTES];
            secret[0] = purpose;
            hmac::Key::new(hmac::HMAC_SHA256, &secret)
        };
        Vault { keks: BTreeMap::from([(FIRST_KEK_VERSION, key(1))]), pepper: key(2) }
    }

    /// The version under which new subscribers' keys are derived: the highest one present.
    #[must_use]
    pub fn current_kek_version(&self) -> i16 {
        self.keks.last_key_value().map_or(FIRST_KEK_VERSION, |(version, _)| *version)
    }

    /// A fresh random `key_salt` for a new subscriber.
    ///
    /// # Errors
    /// [`VaultError::Cipher`] if the system has no randomness.
    pub fn new_salt(&self) -> Result<[u8; 16], VaultError> {
        let mut salt = [0_u8; 16];
        rand::fill(&mut salt).map_err(|_| VaultError::Cipher("no system randomness"))?;
        Ok(salt)
    }

    /// The key of the subscriber with this `salt`, derived under the key-encryption key of `kek_version`.
    ///
    /// # Errors
    /// [`VaultError::UnknownKekVersion`].
    pub fn subscriber_key(&self, salt: &[u8], kek_version: i16) -> Result<SubscriberKey, VaultError> {
        let kek = self.keks.get(&kek_version).ok_or(VaultError::UnknownKekVersion(kek_version))?;
        let mut context = hmac::Context::with_key(kek);
        context.update(SUBSCRIBER_KEY_LABEL);
        context.update(salt);
        let tag = context.sign();
        let key = UnboundKey::new(&AES_128_GCM, &tag.as_ref()[..SUBSCRIBER_KEY_BYTES])
            .map_err(|_| VaultError::Cipher("key refused"))?;
        Ok(SubscriberKey(LessSafeKey::new(key)))
    }

    /// The look-up value of an MSISDN under the pepper. Only its digits count: `+49 170…` and `49170…` are one number.
    #[must_use]
    pub fn msisdn_hmac(&self, msisdn: &str) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.pepper);
        context.update(MSISDN_LABEL);
        let mut digits = [0_u8; 32];
        let mut filled = 0;
        for digit in msisdn.bytes().filter(u8::is_ascii_digit) {
            digits[filled] = digit;
            filled += 1;
            if filled == digits.len() {
                context.update(&digits);
                filled = 0;
            }
        }
        context.update(&digits[..filled]);
        let tag = context.sign();
        digits.zeroize();
        let mut value = [0_u8; 32];
        value.copy_from_slice(tag.as_ref());
        value
    }
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vault").field("kek_versions", &self.keks.keys()).finish_non_exhaustive()
    }
}

impl SubscriberKey {
    /// Appends nonce ‖ ciphertext ‖ tag of `plain` to `out` ([`SEAL_OVERHEAD_BYTES`] more than `plain`); `aad` is
    /// authenticated with it and must be the same to open it.
    ///
    /// # Errors
    /// [`VaultError::Cipher`]; `out` is then as before.
    pub fn seal(&self, aad: &[u8], plain: &[u8], out: &mut Vec<u8>) -> Result<(), VaultError> {
        let nonce = next_nonce()?;
        let start = out.len();
        out.reserve(plain.len() + SEAL_OVERHEAD_BYTES);
        out.extend_from_slice(&nonce);
        out.extend_from_slice(plain);
        let sealed = self.0.seal_in_place_separate_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(aad),
            &mut out[start + NONCE_LEN..],
        );
        match sealed {
            Ok(tag) => {
                out.extend_from_slice(tag.as_ref());
                Ok(())
            }
            Err(_) => {
                out.truncate(start);
                Err(VaultError::Cipher("input refused"))
            }
        }
    }

    /// The plain bytes of what [`Self::seal`] made with the same key and the same `aad`.
    ///
    /// # Errors
    /// [`VaultError::DoesNotOpen`] for anything else.
    pub fn open(&self, aad: &[u8], sealed: &[u8]) -> Result<Vec<u8>, VaultError> {
        let fails = || VaultError::DoesNotOpen(sealed.len());
        let (nonce, body) = sealed.split_first_chunk::<NONCE_LEN>().ok_or_else(fails)?;
        let mut plain = body.to_vec();
        let length = self
            .0
            .open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(aad), &mut plain)
            .map_err(|_| fails())?
            .len();
        plain.truncate(length);
        Ok(plain)
    }
}

impl fmt::Debug for SubscriberKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SubscriberKey(..)")
    }
}

/// An MSISDN as screens and logs may show it: `+49…567`, the first two and the last three digits; fewer than nine
/// digits are hidden altogether (`+…`).
#[must_use]
pub fn mask_msisdn(msisdn: &str) -> String {
    let digits = msisdn.bytes().filter(u8::is_ascii_digit).count();
    if digits < 9 {
        return "+…".to_owned();
    }
    let at = |wanted: std::ops::Range<usize>| {
        msisdn.chars().filter(char::is_ascii_digit).skip(wanted.start).take(wanted.len())
    };
    std::iter::once('+').chain(at(0..2)).chain(std::iter::once('…')).chain(at(digits - 3..digits)).collect()
}

thread_local! {
    // Nonces are public, only their uniqueness counts; a bulk read costs a tenth of a call per nonce. A process that
    // forks without exec would repeat them: this one never does.
    static NONCES: RefCell<([u8; NONCE_LEN * NONCES_PER_REFILL], usize)> =
        const { RefCell::new(([0; NONCE_LEN * NONCES_PER_REFILL], NONCES_PER_REFILL)) };
}

fn next_nonce() -> Result<[u8; NONCE_LEN], VaultError> {
    NONCES.with_borrow_mut(|(bytes, next)| {
        if *next >= NONCES_PER_REFILL {
            rand::fill(bytes).map_err(|_| VaultError::Cipher("no system randomness"))?;
            *next = 0;
        }
        let mut nonce = [0_u8; NONCE_LEN];
        nonce.copy_from_slice(&bytes[*next * NONCE_LEN..(*next + 1) * NONCE_LEN]);
        *next += 1;
        Ok(nonce)
    })
}

fn kek_versions(dir: &Path) -> Result<Vec<i16>, VaultError> {
    let failed = |source| VaultError::Io { path: dir.to_owned(), source };
    let mut versions = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let version = name.to_str().and_then(|name| name.strip_prefix("kek.v"));
        versions.extend(version.and_then(|version| version.parse::<i16>().ok()));
    }
    Ok(versions)
}

fn read_or_create(path: &Path) -> Result<hmac::Key, VaultError> {
    let failed = |source| VaultError::Io { path: path.to_owned(), source };
    if !path.try_exists().map_err(failed)? {
        create(path).map_err(failed)?;
    }
    let file = File::open(path).map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(VaultError::TooOpen { path: path.to_owned(), mode });
    }
    // Room for the longest allowed file from the start: a growing buffer would leave copies of the key behind.
    let mut text = Zeroizing::new(Vec::with_capacity(KEY_FILE_BYTES_MAX as usize + 1));
    file.take(KEY_FILE_BYTES_MAX).read_to_end(&mut text).map_err(failed)?;
    let mut secret = Zeroizing::new([0_u8; SECRET_BYTES]);
    if !from_hex(text.trim_ascii(), &mut secret) {
        return Err(VaultError::Malformed { path: path.to_owned() });
    }
    Ok(hmac::Key::new(hmac::HMAC_SHA256, secret.as_slice()))
}

/// Writes a new secret beside `path`, syncs it and links it into place, so that no reader ever sees half a key and an
/// existing one is never replaced.
fn create(path: &Path) -> io::Result<()> {
    let mut secret = Zeroizing::new([0_u8; SECRET_BYTES]);
    rand::fill(secret.as_mut_slice()).map_err(|_| io::Error::other("no system randomness"))?;
    let mut text = Zeroizing::new([0_u8; SECRET_BYTES * 2 + 1]);
    for (pair, byte) in text.chunks_exact_mut(2).zip(secret.iter()) {
        pair[0] = HEX[usize::from(byte >> 4)];
        pair[1] = HEX[usize::from(byte & 15)];
    }
    text[SECRET_BYTES * 2] = b'\n';
    let mut unique = [0_u8; 8];
    rand::fill(&mut unique).map_err(|_| io::Error::other("no system randomness"))?;
    let draft = path.with_extension(format!("draft-{:016x}", u64::from_ne_bytes(unique)));
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&draft)
        .and_then(|mut file| file.write_all(text.as_slice()).and_then(|()| file.sync_all()))
        .and_then(|()| match fs::hard_link(&draft, path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            linked => linked,
        });
    let removed = fs::remove_file(&draft);
    written?;
    removed?;
    path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
}

const HEX: &[u8; 16] = b"0123456789abcdef";

fn from_hex(text: &[u8], secret: &mut [u8; SECRET_BYTES]) -> bool {
    if text.len() != SECRET_BYTES * 2 {
        return false;
    }
    for (byte, pair) in secret.iter_mut().zip(text.chunks_exact(2)) {
        let digit = |c: u8| char::from(c).to_digit(16).and_then(|d| u8::try_from(d).ok());
        match (digit(pair[0]), digit(pair[1])) {
            (Some(high), Some(low)) => *byte = high << 4 | low,
            _ => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use std::collections::HashSet;
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::scratch::ScratchDir;

    #[test]
    fn keys_are_made_once_private_and_read_back() {
        let dir = ScratchDir::new("vault");
        let path = dir.path().join("keys");
        let first = Vault::open_or_create(&path).unwrap();
        let mut names: Vec<_> = fs::read_dir(&path).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["kek.v1", "pepper.v1"], "no draft stays behind");
        for name in &names {
            assert_eq!(fs::metadata(path.join(name)).unwrap().mode() & 0o777, 0o600);
        }
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        let second = Vault::open_or_create(&path).unwrap();
        assert_eq!(first.msisdn_hmac("491701234567"), second.msisdn_hmac("+49 170 1234567"));
        assert_ne!(first.msisdn_hmac("491701234567"), first.msisdn_hmac("491701234568"));
        let other = Vault::open_or_create(&dir.path().join("other")).unwrap();
        assert_ne!(first.msisdn_hmac("491701234567"), other.msisdn_hmac("491701234567"));

        let salt = first.new_salt().unwrap();
        let mut sealed = Vec::new();
        first.subscriber_key(&salt, 1).unwrap().seal(b"row", b"secret", &mut sealed).unwrap();
        assert_eq!(second.subscriber_key(&salt, 1).unwrap().open(b"row", &sealed).unwrap(), b"secret");
    }

    #[test]
    fn a_key_file_that_others_can_read_is_refused() {
        let dir = ScratchDir::new("vault-open");
        Vault::open_or_create(dir.path()).unwrap();
        let kek = dir.path().join("kek.v1");
        for mode in [0o640, 0o604, 0o620, 0o777] {
            fs::set_permissions(&kek, fs::Permissions::from_mode(mode)).unwrap();
            match Vault::open_or_create(dir.path()) {
                Err(VaultError::TooOpen { path, mode: seen }) => {
                    assert_eq!((path, seen), (kek.clone(), mode))
                }
                other => panic!("mode {mode:o}: {other:?}"),
            }
        }
        fs::set_permissions(&kek, fs::Permissions::from_mode(0o400)).unwrap();
        Vault::open_or_create(dir.path()).unwrap();
    }

    #[test]
    fn a_damaged_key_file_is_refused_and_left_alone() {
        let dir = ScratchDir::new("vault-bad");
        Vault::open_or_create(dir.path()).unwrap();
        let pepper = dir.path().join("pepper.v1");
        for text in ["", "00", &"z".repeat(64), &"0".repeat(65), &"0".repeat(4096)] {
            fs::write(&pepper, text).unwrap();
            assert!(
                matches!(Vault::open_or_create(dir.path()), Err(VaultError::Malformed { .. })),
                "{text:.9}"
            );
            assert_eq!(fs::read_to_string(&pepper).unwrap(), text);
        }
    }

    #[test]
    fn a_second_key_encryption_key_takes_over_and_the_first_still_opens() {
        let dir = ScratchDir::new("vault-rotate");
        let before = Vault::open_or_create(dir.path()).unwrap();
        assert_eq!(before.current_kek_version(), 1);
        create(&dir.path().join("kek.v2")).unwrap();
        let after = Vault::open_or_create(dir.path()).unwrap();
        assert_eq!(after.current_kek_version(), 2);
        let mut sealed = Vec::new();
        before.subscriber_key(b"salt", 1).unwrap().seal(b"", b"x", &mut sealed).unwrap();
        assert_eq!(after.subscriber_key(b"salt", 1).unwrap().open(b"", &sealed).unwrap(), b"x");
        assert!(after.subscriber_key(b"salt", 2).unwrap().open(b"", &sealed).is_err());
        assert!(matches!(before.subscriber_key(b"salt", 2), Err(VaultError::UnknownKekVersion(2))));
    }

    #[test]
    fn only_the_same_key_row_and_bytes_open() {
        let vault = Vault::for_tests(7);
        let key = vault.subscriber_key(b"salt", 1).unwrap();
        let mut sealed = b"head".to_vec();
        key.seal(b"row 1", b"plain text", &mut sealed).unwrap();
        assert_eq!(sealed.len(), 4 + 10 + SEAL_OVERHEAD_BYTES);
        let sealed = &sealed[4..];
        assert_eq!(key.open(b"row 1", sealed).unwrap(), b"plain text");
        assert!(key.open(b"row 2", sealed).is_err());
        assert!(vault.subscriber_key(b"salu", 1).unwrap().open(b"row 1", sealed).is_err());
        assert!(Vault::for_tests(8).subscriber_key(b"salt", 1).unwrap().open(b"row 1", sealed).is_err());
        for at in 0..sealed.len() {
            let mut changed = sealed.to_vec();
            changed[at] ^= 1;
            assert!(key.open(b"row 1", &changed).is_err(), "byte {at}");
            assert!(key.open(b"row 1", &sealed[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn nonces_never_repeat_over_refills_and_threads() {
        let draw = || (0..3 * NONCES_PER_REFILL).map(|_| next_nonce().unwrap()).collect::<Vec<_>>();
        let threads: Vec<_> = (0..4).map(|_| std::thread::spawn(draw)).collect();
        let all: Vec<_> = threads.into_iter().flat_map(|t| t.join().unwrap()).collect();
        assert_eq!(all.iter().collect::<HashSet<_>>().len(), 4 * 3 * NONCES_PER_REFILL);
    }

    #[test]
    fn nothing_secret_is_printed() {
        let vault = Vault::for_tests(0xab);
        let text = format!("{vault:?} {:?}", vault.subscriber_key(b"s", 1).unwrap());
        assert_eq!(text, "Vault { kek_versions: [1], .. } SubscriberKey(..)");
    }

    #[test]
    fn masks() {
        assert_eq!(mask_msisdn("491701234567"), "+49…567");
        assert_eq!(mask_msisdn("+49 170 1234567"), "+49…567");
        assert_eq!(mask_msisdn("12345678"), "+…");
        assert_eq!(mask_msisdn("nonsense"), "+…");
    }
}
