//! Where credentials come from: files of their own, never the definition, never arguments or the environment.

use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use thiserror::Error;
use zeroize::Zeroizing;

/// Bytes of the shortest secret: what is shorter would also hide harmless text where secrets are masked.
pub const SECRET_BYTES_MIN: usize = 8;
/// Bytes of the longest secret.
pub const SECRET_BYTES_MAX: u64 = 4_096;

/// Gives secrets by name.
pub trait Secrets {
    /// The secret of that name.
    ///
    /// # Errors
    /// [`SecretError`] says why there is none.
    fn lookup(&self, name: &str) -> Result<Zeroizing<String>, SecretError>;

    /// The secret of that name, or nothing.
    fn secret(&self, name: &str) -> Option<Zeroizing<String>> {
        self.lookup(name).ok()
    }
}

/// Why there is no secret. Never shows one.
#[derive(Debug, Error)]
pub enum SecretError {
    /// Not a name: 1 to 64 letters, digits, `_`, `-`.
    #[error("{0:?} is not a name of a secret: letters, digits, '_' and '-' are expected")]
    Name(String),
    /// No secrets are at hand at all.
    #[error("no secrets are at hand")]
    NoneAtHand,
    /// The file is missing or unreadable.
    #[error("cannot read {path}: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Others may read the file.
    #[error("{path} has mode {mode:03o}: others may read it, 600 or 400 is expected")]
    TooOpen {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Too short, too long, or not printable ASCII on one line.
    #[error("{path} does not hold one line of 8 to 4096 printable characters")]
    Content {
        /// The file.
        path: PathBuf,
    },
}

/// One file per secret in a folder, named as the secret, readable by its owner only.
#[derive(Debug, Clone)]
pub struct FileSecrets {
    /// The folder.
    pub dir: PathBuf,
}

impl Secrets for FileSecrets {
    fn lookup(&self, name: &str) -> Result<Zeroizing<String>, SecretError> {
        check_name(name)?;
        let path = self.dir.join(name);
        let unreadable = |source| SecretError::Unreadable { path: path.clone(), source };
        let file = std::fs::File::open(&path).map_err(unreadable)?;
        // The open file is asked, not the path: nobody can swap it in between.
        let mode = file.metadata().map_err(unreadable)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(SecretError::TooOpen { path, mode });
        }
        let mut text = Zeroizing::new(String::new());
        file.take(SECRET_BYTES_MAX + 2).read_to_string(&mut text).map_err(unreadable)?;
        let line = text.strip_suffix('\n').unwrap_or(&text);
        let line = line.strip_suffix('\r').unwrap_or(line);
        let printable = line.bytes().all(|b| (0x20..0x7f).contains(&b));
        if line.len() < SECRET_BYTES_MIN || line.len() as u64 > SECRET_BYTES_MAX || !printable {
            return Err(SecretError::Content { path });
        }
        Ok(Zeroizing::new(line.to_owned()))
    }
}

/// Knows no secret: for carriers that need none.
#[derive(Debug, Clone, Copy)]
pub struct NoSecrets;

impl Secrets for NoSecrets {
    fn lookup(&self, name: &str) -> Result<Zeroizing<String>, SecretError> {
        check_name(name)?;
        Err(SecretError::NoneAtHand)
    }
}

/// Gives a stand-in for every name: for checking definitions where the secrets are not at hand. Never for sending.
#[derive(Debug, Clone, Copy)]
pub struct StandInSecrets;

impl Secrets for StandInSecrets {
    fn lookup(&self, name: &str) -> Result<Zeroizing<String>, SecretError> {
        check_name(name)?;
        Ok(Zeroizing::new("stand-in-for-a-secret".to_owned()))
    }
}

fn check_name(name: &str) -> Result<(), SecretError> {
    let inside = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    if (1..=64).contains(&name.len()) && name.bytes().all(inside) {
        return Ok(());
    }
    Err(SecretError::Name(name.chars().take(64).collect()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn folder() -> FileSecrets {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let no = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("carriers-secrets-{}-{no}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        FileSecrets { dir }
    }

    fn put(secrets: &FileSecrets, name: &str, text: &[u8], mode: u32) {
        let path = secrets.dir.join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn files_are_read_only_when_nobody_else_can() {
        let secrets = folder();
        put(&secrets, "good", b"s3cret value\n", 0o600);
        put(&secrets, "open", b"s3cret\n", 0o644);
        put(&secrets, "short", b"s3cret\n", 0o600);
        put(&secrets, "two_lines", b"s3cret\nvalue\n", 0o600);
        put(&secrets, "long", &[b'x'; 4_097], 0o600);
        assert_eq!(secrets.secret("good").unwrap().as_str(), "s3cret value");
        assert!(matches!(secrets.lookup("open"), Err(SecretError::TooOpen { mode: 0o644, .. })));
        for name in ["short", "two_lines", "long"] {
            assert!(matches!(secrets.lookup(name), Err(SecretError::Content { .. })), "{name}");
        }
        for name in ["../good", "", "a/b", ".", "good.txt"] {
            assert!(matches!(secrets.lookup(name), Err(SecretError::Name(_))), "{name}");
        }
        assert!(matches!(secrets.lookup("missing"), Err(SecretError::Unreadable { .. })));
        std::fs::remove_dir_all(&secrets.dir).unwrap();
    }
}
