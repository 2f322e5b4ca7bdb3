//! Directories and small disks for tests, removed when the test ends.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A fresh directory under the system's temporary directory.
pub(crate) struct ScratchDir(PathBuf);

impl ScratchDir {
    /// Makes it; `name` helps to find it while a test runs.
    pub(crate) fn new(name: &str) -> ScratchDir {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("toll-{name}-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        ScratchDir(path)
    }

    /// Where it lies.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for ScratchDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A tmpfs of a few MiB, unmounted when dropped.
pub(crate) struct SmallDisk(ScratchDir);

impl SmallDisk {
    /// `None` where we may not mount: only root may.
    pub(crate) fn mount(mib: u32) -> Option<SmallDisk> {
        let dir = ScratchDir::new("small-disk");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={mib}m"), "tmpfs"])
            .arg(dir.path())
            .stderr(Stdio::null())
            .status();
        let mounted = mounted.is_ok_and(|status| status.success());
        assert!(mounted || !rustix::process::geteuid().is_root(), "root can mount a tmpfs");
        mounted.then_some(SmallDisk(dir))
    }

    /// Where it is mounted.
    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
    }
}
