//! Where a Tollbook keeps its things on this machine.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use storage::lock_file::LockFile;

/// Spools on one machine: at most so many processes share a data folder.
const SPOOLS_MAX: u32 = 64;

/// The data folder.
#[derive(Debug, Clone)]
pub(crate) struct Home {
    dir: PathBuf,
}

/// A worker's spool: its history and its sent lines, locked for as long as this value lives.
#[derive(Debug)]
pub(crate) struct Spool {
    pub(crate) dir: PathBuf,
    _lock: LockFile,
}

impl Home {
    /// The data folder, made when missing. Its path becomes absolute: others find the spools by it.
    pub(crate) fn open(dir: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("cannot make the data folder {}", dir.display()))?;
        let dir =
            dir.canonicalize().with_context(|| format!("cannot find the data folder {}", dir.display()))?;
        Ok(Self { dir })
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn secrets(&self) -> PathBuf {
        self.dir.join("secrets")
    }

    pub(crate) fn postgres(&self) -> PathBuf {
        self.dir.join("postgres")
    }

    /// Where the private server's URL is noted for the other commands.
    pub(crate) fn postgres_url(&self) -> PathBuf {
        self.dir.join("postgres.url")
    }

    pub(crate) fn spools(&self) -> PathBuf {
        self.dir.join("spool")
    }

    /// Takes the first spool that no living process holds. The lock proves that its former process is dead.
    pub(crate) fn take_spool(&self) -> anyhow::Result<Spool> {
        for number in 1..=SPOOLS_MAX {
            let dir = self.spools().join(number.to_string());
            fs::create_dir_all(&dir).with_context(|| format!("cannot make the spool {}", dir.display()))?;
            let path = dir.join("lock");
            let taken = LockFile::take(&path).with_context(|| format!("cannot lock {}", path.display()))?;
            if let Some(lock) = taken {
                return Ok(Spool { dir, _lock: lock });
            }
        }
        bail!("all {SPOOLS_MAX} spools in {} are in use", self.spools().display())
    }
}

impl Spool {
    pub(crate) fn history(&self) -> PathBuf {
        self.dir.join("history")
    }

    /// Its own id: another folder under the same path, made after this one was lost, has another, and does not stand for what
    /// this one held.
    pub(crate) fn id(&self) -> anyhow::Result<String> {
        let path = self.dir.join("id");
        match fs::read_to_string(&path) {
            Ok(id) if !id.trim().is_empty() => return Ok(id.trim().to_owned()),
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
        let id = format!("{:016x}", new_incarnation()?);
        let draft = self.dir.join("id.draft");
        fs::write(&draft, format!("{id}\n"))
            .and_then(|()| File::open(&draft)?.sync_all())
            .and_then(|()| fs::rename(&draft, &path))
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(id)
    }

    pub(crate) fn sent(&self) -> PathBuf {
        self.dir.join("sent")
    }
}

/// This machine's name.
pub(crate) fn host() -> String {
    fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "unknown".to_owned(), |name| name.trim().to_owned())
}

/// The kernel's boot id.
pub(crate) fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map_or_else(|_| "unknown".to_owned(), |id| id.trim().to_owned())
}

/// A number for this process' life: random, because two lives must never share one.
pub(crate) fn new_incarnation() -> anyhow::Result<i64> {
    let mut bytes = [0; 8];
    File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .context("cannot read /dev/urandom")?;
    Ok((i64::from_le_bytes(bytes) & i64::MAX).max(1))
}
