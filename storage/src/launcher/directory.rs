//! The directory of a private server: who owns what, where the socket fits, what an earlier run left behind.

use std::ffi::OsString;
use std::fs::{self, File, Permissions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use aws_lc_rs::digest;

use super::process::is_postgres;
use super::{LOG_BYTES_MAX, LOG_TAIL_BYTES, LauncherError, PORT, SUPERUSER};
use crate::lock_file::LockFile;

/// A socket's path must fit into 108 bytes with its end mark; some clients allow less.
const SOCKET_PATH_BYTES_MAX: usize = 100;

/// The account that the server runs as when we are root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

impl Account {
    /// `None` if we are not root: then the server runs as we do.
    pub(super) fn to_run_as() -> Result<Option<Account>, LauncherError> {
        if !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let entry = passwd.lines().find_map(|line| {
            let mut fields = line.split(':');
            (fields.next() == Some(SUPERUSER)).then(|| fields.skip(1))
        });
        let mut ids = entry.into_iter().flatten().map(str::parse);
        match (ids.next(), ids.next()) {
            (Some(Ok(uid)), Some(Ok(gid))) => Ok(Some(Account { uid, gid })),
            _ => Err(LauncherError::NoAccount),
        }
    }
}

/// Makes `dir` where it is missing, hands it to the account, and checks that the account can get there.
pub(super) fn prepare(dir: &Path, account: Option<&Account>) -> Result<PathBuf, LauncherError> {
    let failed = |source| io_failed("preparing", dir, source);
    // Parents with ordinary permissions, else the server could not get through what we have just made.
    dir.parent().map_or(Ok(()), fs::create_dir_all).map_err(failed)?;
    make_private(dir, account)?;
    let dir = dir.canonicalize().map_err(failed)?;
    if let Some(account) = account {
        let parents = dir.ancestors().skip(1);
        let closed =
            parents.filter(|parent| !fs::metadata(parent).is_ok_and(|found| may_enter(&found, account)));
        // The outermost one is what to open first.
        if let Some(culprit) = closed.last() {
            return Err(LauncherError::NotReachable { culprit: culprit.to_owned(), dir });
        }
    }
    Ok(dir)
}

/// Makes a directory that only the account (or we) may enter, or hands an existing one over.
pub(super) fn make_private(dir: &Path, account: Option<&Account>) -> Result<(), LauncherError> {
    match fs::DirBuilder::new().mode(0o700).create(dir) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => {}
        made => made.map_err(|source| io_failed("creating", dir, source))?,
    }
    if let Some(Account { uid, gid }) = account {
        chown(dir, Some(*uid), Some(*gid)).map_err(|source| io_failed("handing over", dir, source))?;
    }
    Ok(())
}

/// Takes the directory for this process as long as the returned file lives.
pub(super) fn lock(dir: &Path) -> Result<LockFile, LauncherError> {
    let path = dir.join("launcher.lock");
    let failed = |source| io_failed("locking", &path, source);
    let Some(mut lock) = LockFile::take(&path).map_err(failed)? else {
        let mut pid = String::new();
        let _ = File::open(&path).and_then(|file| file.take(20).read_to_string(&mut pid));
        return Err(LauncherError::InUse { dir: dir.to_owned(), pid: pid.trim().to_owned() });
    };
    // For the message above only.
    lock.write(&format!("{}\n", std::process::id())).map_err(failed)?;
    Ok(lock)
}

/// Where the socket goes: `dir/run`, or a short private directory where that would be too long a path.
pub(super) fn socket_dir(dir: &Path, account: Option<&Account>) -> Result<PathBuf, LauncherError> {
    let fits = |dir: &Path| dir.join(socket_name()).as_os_str().len() <= SOCKET_PATH_BYTES_MAX;
    let near = dir.join("run");
    let socket_dir = if fits(&near) {
        near
    } else {
        let candidates =
            [std::env::temp_dir(), PathBuf::from("/tmp")].map(|temp| temp.join(fallback_name(dir)));
        match candidates.into_iter().find(|candidate| fits(candidate)) {
            Some(short) => short,
            None => {
                return Err(io_failed(
                    "fitting a socket's path below",
                    dir,
                    io::ErrorKind::InvalidFilename.into(),
                ));
            }
        }
    };
    if socket_dir.parent() != Some(dir) {
        check_fallback(&socket_dir, account)?;
    }
    make_private(&socket_dir, account)?;
    fs::set_permissions(&socket_dir, Permissions::from_mode(0o700))
        .map_err(|source| io_failed("closing to others", &socket_dir, source))?;
    Ok(socket_dir)
}

/// Anybody can make directories in the temporary one: an existing fallback must be a directory of the server's or ours.
fn check_fallback(socket_dir: &Path, account: Option<&Account>) -> Result<(), LauncherError> {
    let Ok(found) = fs::symlink_metadata(socket_dir) else { return Ok(()) };
    let owners = [Some(rustix::process::geteuid().as_raw()), account.map(|account| account.uid)];
    if found.is_dir() && owners.contains(&Some(found.uid())) {
        return Ok(());
    }
    Err(io_failed("using somebody else's", socket_dir, io::ErrorKind::PermissionDenied.into()))
}

/// Removes the socket directory if it is not inside `dir`.
pub(super) fn remove_fallback_socket_dir(dir: &Path, socket_dir: &Path) {
    if socket_dir.parent() != Some(dir) {
        let _ = fs::remove_dir_all(socket_dir);
    }
}

/// Removes a killed server's socket and its lock file; the caller has made sure that no server runs.
pub(super) fn remove_stale_socket(socket_dir: &Path) {
    let _ = fs::remove_file(socket_dir.join(socket_name()));
    let _ = fs::remove_file(socket_dir.join(format!("{}.lock", socket_name())));
}

/// Removes a killed server's pid file if its pid now belongs to a process of another kind: Postgres would take that for
/// a running server and refuse to start. The caller has made sure that no server runs.
pub(super) fn remove_stale_pid_file(data: &Path) -> Result<(), LauncherError> {
    let path = data.join("postmaster.pid");
    let Ok(content) = fs::read_to_string(&path) else { return Ok(()) };
    let pid = content.lines().next().and_then(|pid| pid.trim().parse::<u32>().ok());
    match pid {
        Some(pid) if Path::new("/proc").join(pid.to_string()).exists() && !is_postgres(pid) => {
            fs::remove_file(&path).map_err(|source| io_failed("removing", &path, source))
        }
        _ => Ok(()),
    }
}

/// Whether the server on `data` says that it is shutting down: the eighth line of its pid file.
pub(super) fn is_stopping(data: &Path) -> bool {
    let content = fs::read_to_string(data.join("postmaster.pid")).unwrap_or_default();
    content.lines().nth(7).is_none_or(|status| status.trim() == "stopping")
}

/// Removes a directory with all in it, if it is there.
pub(super) fn remove(dir: &Path) -> Result<(), LauncherError> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.map_err(|source| io_failed("removing", dir, source)),
    }
}

/// Puts a log that has grown large aside; one generation is kept.
pub(super) fn rotate_log(log: &Path) {
    if fs::metadata(log).is_ok_and(|found| found.len() > LOG_BYTES_MAX) {
        let _ = fs::rename(log, log.with_extension("log.1"));
    }
}

/// The end of a log, for an error message.
pub(super) fn tail(log: &Path) -> String {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(LOG_TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read()
        .map_or_else(|error| format!("({error})"), |bytes| String::from_utf8_lossy(&bytes).trim().to_owned())
}

/// Our search path, or the usual one.
pub(super) fn search_path() -> OsString {
    std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin".into())
}

fn socket_name() -> String {
    format!(".s.PGSQL.{PORT}")
}

fn fallback_name(dir: &Path) -> String {
    let hash = digest::digest(&digest::SHA256, dir.as_os_str().as_encoded_bytes());
    let hex: String = hash.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!("toll-pg-{hex}")
}

fn may_enter(found: &fs::Metadata, account: &Account) -> bool {
    let bit = if found.uid() == account.uid {
        0o100
    } else if found.gid() == account.gid {
        0o010
    } else {
        0o001
    };
    found.mode() & bit != 0
}

fn io_failed(doing: &'static str, path: &Path, source: io::Error) -> LauncherError {
    LauncherError::Io { doing, path: path.to_owned(), source }
}
