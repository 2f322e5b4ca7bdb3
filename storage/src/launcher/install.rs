//! Finding an installed server.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::LauncherError;
use super::directory::search_path;

const CONFIGURED: &str = "TOLL_POSTGRES_BIN";
const DEBIAN: &str = "/usr/lib/postgresql";

/// The bin directory of one installed version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Install {
    pub(super) bin: PathBuf,
}

impl Install {
    /// The directory that is configured, else Debian's newest, else the one on the search path. Where `data` already
    /// holds a cluster, its version comes before newer ones, and no other will do.
    pub(super) fn find(data: &Path) -> Result<Install, LauncherError> {
        let candidates = match std::env::var_os(CONFIGURED) {
            Some(bin) => {
                let bin = PathBuf::from(bin);
                if !is_complete(&bin) {
                    let text = format!("{CONFIGURED} is {}, which has no postgres and initdb", bin.display());
                    return Err(LauncherError::NotInstalled(text));
                }
                vec![Install { bin }]
            }
            None => installed(Path::new(DEBIAN), &search_path()),
        };
        let Some(newest) = candidates.first() else {
            return Err(LauncherError::NotInstalled(format!("none in {DEBIAN}/*/bin or on the search path")));
        };
        let Ok(wanted) = fs::read_to_string(data.join("PG_VERSION")) else { return Ok(newest.clone()) };
        let wanted = wanted.trim();
        match candidates.iter().find(|candidate| candidate.major().as_deref() == Some(wanted)) {
            Some(same) => Ok(same.clone()),
            None => Err(LauncherError::OtherVersion {
                dir: data.to_owned(),
                data: wanted.to_owned(),
                installed: newest.major().unwrap_or_else(|| "an unknown version".to_owned()),
            }),
        }
    }

    /// The major version, as in `PG_VERSION`: from `postgres (PostgreSQL) 15.18 (Debian …)`.
    fn major(&self) -> Option<String> {
        let output = Command::new(self.bin.join("postgres")).arg("--version").env_clear().output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        let version = text.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?;
        Some(version.chars().take_while(char::is_ascii_digit).collect())
    }
}

/// Debian's versions, newest first, then those on the search path.
fn installed(debian: &Path, path: &std::ffi::OsStr) -> Vec<Install> {
    let mut versions: Vec<(u32, PathBuf)> = fs::read_dir(debian)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .collect();
    versions.sort_unstable_by(|a, b| b.cmp(a));
    let on_path = std::env::split_paths(path).filter_map(|dir| {
        // A link leads to the real directory, whose other programs and files the server needs.
        dir.join("postgres").canonicalize().ok()?.parent().map(Path::to_owned)
    });
    let mut found = Vec::new();
    for bin in versions.into_iter().map(|(_, bin)| bin).chain(on_path) {
        if is_complete(&bin) && !found.iter().any(|known: &Install| known.bin == bin) {
            found.push(Install { bin });
        }
    }
    found
}

/// Both programs are there, and are programs: a wrapper script may drop privileges, change directories or pick a
/// version by itself.
fn is_complete(bin: &Path) -> bool {
    ["postgres", "initdb"].iter().all(|program| {
        let mut magic = [0; 4];
        File::open(bin.join(program)).and_then(|mut file| file.read_exact(&mut magic)).is_ok()
            && magic == *b"\x7fELF"
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;
    use crate::scratch::ScratchDir;

    fn fake(bin: &Path, content: &[u8]) {
        fs::create_dir_all(bin).unwrap();
        for program in ["postgres", "initdb"] {
            fs::write(bin.join(program), content).unwrap();
        }
    }

    #[test]
    fn debians_newest_comes_first_and_wrapper_scripts_are_passed_over() {
        let dir = ScratchDir::new("install");
        let root = dir.path().canonicalize().unwrap();
        for version in ["9", "10", "17", "16"] {
            fake(&root.join("debian").join(version).join("bin"), b"\x7fELF...");
        }
        fake(&root.join("debian/18/bin"), b"#!/bin/sh\nexec /elsewhere/postgres");
        fs::create_dir_all(root.join("debian/19/lib")).unwrap();
        fake(&root.join("real/bin"), b"\x7fELF...");
        fake(&root.join("wrapped"), b"#!/bin/sh\n");
        fs::create_dir_all(root.join("links")).unwrap();
        std::os::unix::fs::symlink(root.join("real/bin/postgres"), root.join("links/postgres")).unwrap();
        let path =
            std::env::join_paths([root.join("wrapped"), root.join("links"), root.join("real/bin")]).unwrap();
        let bins: Vec<_> = installed(&root.join("debian"), &path)
            .into_iter()
            .map(|install| install.bin.strip_prefix(&root).unwrap().display().to_string())
            .collect();
        assert_eq!(bins, ["debian/17/bin", "debian/16/bin", "debian/10/bin", "debian/9/bin", "real/bin"]);
        assert_eq!(installed(&root.join("missing"), std::ffi::OsStr::new("")), []);
    }

    #[test]
    fn data_of_a_version_that_is_not_installed_is_refused() {
        let dir = ScratchDir::new("install-version");
        let newest = Install::find(dir.path()).unwrap();
        fs::write(dir.path().join("PG_VERSION"), format!("{}\n", newest.major().unwrap())).unwrap();
        assert_eq!(Install::find(dir.path()).unwrap(), newest);
        fs::write(dir.path().join("PG_VERSION"), "8\n").unwrap();
        match Install::find(dir.path()) {
            Err(LauncherError::OtherVersion { data, installed, .. }) => {
                assert_eq!((data.as_str(), installed), ("8", newest.major().unwrap()));
            }
            other => panic!("{other:?}"),
        }
    }
}
