//! A disk that can be filled: a small file system in memory over the folder of the spools where mounting is allowed, else
//! the room that the book demands.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::ensure;

/// What the disk offers while it is not full.
const WHOLE_MIB: u64 = 8 << 10;
/// What stays free of a full one: less than any flush needs.
const LEFT_MIB: u64 = 1;

/// How the disk becomes full.
#[derive(Debug)]
pub(super) enum Disk {
    /// A file system in memory that shrinks to what is used.
    Mounted(PathBuf),
    /// The book demands more room than any disk has.
    Demanded {
        /// engine.toml.
        file: PathBuf,
        /// As it was written.
        text: String,
    },
}

impl Disk {
    /// Over `spools`, before anything is written there.
    pub(super) fn prepare(spools: &Path, book: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(spools)?;
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={WHOLE_MIB}m"), "tmpfs"])
            .arg(spools)
            .stderr(Stdio::null())
            .status();
        if mounted.is_ok_and(|status| status.success()) {
            return Ok(Self::Mounted(spools.to_owned()));
        }
        let file = book.join("engine.toml");
        let text = std::fs::read_to_string(&file)?;
        Ok(Self::Demanded { file, text })
    }

    /// For reports.
    pub(super) fn describe(&self) -> &'static str {
        match self {
            Self::Mounted(_) => "a small tmpfs that shrinks to what is used",
            Self::Demanded { .. } => {
                "history.min_free above what the disk has (mounting is not allowed here)"
            }
        }
    }

    /// Full from now on. `true`: the book must be applied.
    pub(super) fn fill(&self) -> anyhow::Result<bool> {
        match self {
            Self::Mounted(dir) => {
                let used = Command::new("df").args(["--output=used", "-B1M"]).arg(dir).output()?;
                let used: u64 = String::from_utf8_lossy(&used.stdout)
                    .split_whitespace()
                    .last()
                    .and_then(|text| text.parse().ok())
                    .unwrap_or(WHOLE_MIB);
                resize(dir, used + LEFT_MIB).map(|()| false)
            }
            Self::Demanded { file, text } => {
                let demanding = text.replace("min_free = \"64MiB\"", "min_free = \"1TiB\"");
                ensure!(demanding != *text, "{} does not say min_free", file.display());
                std::fs::write(file, demanding)?;
                Ok(true)
            }
        }
    }

    /// Room again. `true`: the book must be applied.
    pub(super) fn free(&self) -> anyhow::Result<bool> {
        match self {
            Self::Mounted(dir) => resize(dir, WHOLE_MIB).map(|()| false),
            Self::Demanded { file, text } => {
                std::fs::write(file, text)?;
                Ok(true)
            }
        }
    }
}

fn resize(dir: &Path, mib: u64) -> anyhow::Result<()> {
    let done = Command::new("mount").args(["-o", &format!("remount,size={mib}m")]).arg(dir).output()?;
    ensure!(done.status.success(), "cannot resize: {}", String::from_utf8_lossy(&done.stderr));
    Ok(())
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Self::Mounted(dir) = self {
            let _ = Command::new("umount").arg("-l").arg(dir).status();
        }
    }
}
