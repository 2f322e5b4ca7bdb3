//! A Postgres of our own on this machine: for the demo, for tests, and for a first day without an administrator.
//!
//! It listens on a Unix socket only, runs as the account `postgres` when we are root, and never outlives us: it is
//! stopped when [`PrivatePostgres`] is dropped, and the kernel stops it when this process dies.
//!
//! In the directory: `data/` (made as `data.creating` and renamed), `run/` (the socket), `server.log`, `initdb.log`,
//! and `launcher.lock`, held as long as this process uses it.

mod directory;
mod install;
mod process;
mod standby;
#[cfg(test)]
mod tests;

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use sqlx::postgres::{PgConnectOptions, PgConnection, PgSslMode};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection};

use self::directory::Account;
use self::install::Install;
use self::process::{Server, processes_on};
use crate::lock_file::LockFile;

const PORT: u16 = 5432;
const SUPERUSER: &str = "postgres";
/// A fast shutdown writes a checkpoint; then the server is asked more firmly.
const FAST_STOP: Duration = Duration::from_secs(20);
const READY_RETRY: Duration = Duration::from_millis(5);
/// How long a previous server whose owner is gone may still look as if it were running.
const ORPHAN_GRACE: Duration = Duration::from_secs(2);
const LOG_TAIL_BYTES: u64 = 4096;
/// A larger log is put aside (one generation) at start.
const LOG_BYTES_MAX: u64 = 16 << 20;

/// What to start.
#[derive(Clone, Debug)]
pub struct LauncherOptions {
    /// Where everything lies; made if missing. One server per directory.
    pub dir: PathBuf,
    /// The database to use, made if missing: `[a-z_][a-z0-9_]*`, at most 63 bytes.
    pub database: String,
    /// Whether what is committed survives a loss of power. `false` only for throw-away tests.
    pub durable: bool,
    /// Further settings of the server, which win over ours: (name, value).
    pub settings: Vec<(String, String)>,
    /// How long starting may take in all, in milliseconds: initdb, recovery after a crash, the first connection.
    pub start_timeout_ms: u64,
}

impl LauncherOptions {
    /// A durable server in `dir` with the default settings and 60 s to start.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>, database: &str) -> LauncherOptions {
        LauncherOptions {
            dir: dir.into(),
            database: database.to_owned(),
            durable: true,
            settings: Vec::new(),
            start_timeout_ms: 60_000,
        }
    }
}

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum LauncherError {
    /// No usable installation.
    #[error("no PostgreSQL server found: {0}; install one, or name its bin directory in TOLL_POSTGRES_BIN")]
    NotInstalled(String),
    /// We are root, a server must not be, and there is no account for it.
    #[error("as root a PostgreSQL server needs the account {SUPERUSER:?}, which /etc/passwd does not list")]
    NoAccount,
    /// A name that is no plain database name.
    #[error("database name {0:?} is not [a-z_][a-z0-9_]*, at most 63 bytes")]
    DatabaseName(String),
    /// A setting whose name or value cannot be passed.
    #[error("setting {0:?} has a name other than [a-z0-9_.]+ or a value with a NUL or line end")]
    Setting(String),
    /// A file or directory cannot be made, read or handed over.
    #[error("{doing} {path}: {source}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The server's account cannot get to the directory.
    #[error(
        "the account {SUPERUSER:?} cannot get to {dir}, because it may not enter {culprit}: chmod o+x it, or use another directory"
    )]
    NotReachable {
        /// The directory asked for.
        dir: PathBuf,
        /// The parent that stops it.
        culprit: PathBuf,
    },
    /// Another process manages this directory.
    #[error("{dir} is in use by process {pid}")]
    InUse {
        /// The directory.
        dir: PathBuf,
        /// The process, as it wrote it into the lock file.
        pid: String,
    },
    /// A server that we did not start runs there.
    #[error("a PostgreSQL server with pid {pid} still runs on {dir}; stop it first")]
    AlreadyRunning {
        /// The data directory.
        dir: PathBuf,
        /// The server.
        pid: u32,
    },
    /// The data is of a version that is not installed.
    #[error("{dir} was made by PostgreSQL {data}, but only {installed} is installed")]
    OtherVersion {
        /// The data directory.
        dir: PathBuf,
        /// Its major version.
        data: String,
        /// The major version found.
        installed: String,
    },
    /// A program failed or was too slow.
    #[error("{program} {outcome}; the end of its log:\n{log_tail}")]
    Failed {
        /// Which one.
        program: &'static str,
        /// How.
        outcome: String,
        /// The end of its log.
        log_tail: String,
    },
    /// The server runs, but the database cannot be made.
    #[error("cannot create database {database}: {detail}")]
    Database {
        /// Its name.
        database: String,
        /// What the server said.
        detail: String,
    },
}

/// A running server. Dropping it stops the server and waits for that.
#[derive(Debug)]
pub struct PrivatePostgres {
    options: LauncherOptions,
    install: Install,
    account: Option<Account>,
    dir: PathBuf,
    socket_dir: PathBuf,
    server: Option<Server>,
    _lock: LockFile,
}

impl PrivatePostgres {
    /// Starts the server and makes the database where they are missing. Blocks until it takes connections: 1–2 s the
    /// first time, 0.1 s later, longer after a crash.
    ///
    /// # Errors
    /// Any [`LauncherError`]; no process is then left behind.
    pub fn start(options: LauncherOptions) -> Result<PrivatePostgres, LauncherError> {
        check_names(&options)?;
        let deadline = Instant::now() + Duration::from_millis(options.start_timeout_ms);
        let account = Account::to_run_as()?;
        let dir = directory::prepare(&options.dir, account.as_ref())?;
        let lock = directory::lock(&dir)?;
        let install = Install::find(&dir.join("data"))?;
        let socket_dir = directory::socket_dir(&dir, account.as_ref())?;
        let mut postgres =
            PrivatePostgres { options, install, account, dir, socket_dir, server: None, _lock: lock };
        postgres.wait_for_previous(deadline)?;
        postgres.make_cluster(deadline)?;
        postgres.launch(deadline)?;
        Ok(postgres)
    }

    /// Where to connect to, for sqlx: the database by way of the socket directory.
    #[must_use]
    pub fn url(&self) -> String {
        let mut path = String::new();
        for byte in self.socket_dir.as_os_str().as_encoded_bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'_' | b'.' | b'~' => {
                    path.push(char::from(*byte));
                }
                other => path.push_str(&format!("%{other:02X}")),
            }
        }
        format!(
            "postgres://{SUPERUSER}@localhost:{PORT}/{}?host={path}&sslmode=disable",
            self.options.database
        )
    }

    /// The directory of the socket.
    #[must_use]
    pub fn socket_dir(&self) -> &Path {
        &self.socket_dir
    }

    /// The server's first process; `None` after [`Self::kill9`].
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.server.as_ref().map(Server::pid)
    }

    /// The file that the server writes its messages to.
    #[must_use]
    pub fn log_path(&self) -> PathBuf {
        self.dir.join("server.log")
    }

    /// Stops the server as dropping it does: open connections are ended, what is committed is kept.
    pub fn stop(self) {
        drop(self);
    }

    /// Kills every process of the server at once, as a crash of the machine would end them, and returns when none is
    /// left. What was committed durably is there after [`Self::restart`].
    pub fn kill9(&mut self) {
        if let Some(server) = self.server.take() {
            server.kill9(&self.data_dir());
        }
    }

    /// Stops the server if it runs and starts it again on the same data and socket.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn restart(&mut self) -> Result<(), LauncherError> {
        let deadline = Instant::now() + Duration::from_millis(self.options.start_timeout_ms);
        self.stop_server();
        self.wait_for_previous(deadline)?;
        self.launch(deadline)
    }

    fn data_dir(&self) -> PathBuf {
        self.dir.join("data")
    }

    fn stop_server(&mut self) {
        if let Some(server) = self.server.take() {
            server.stop(FAST_STOP, &self.data_dir());
        }
    }

    /// We hold the lock, so whoever started a server that still runs here is gone, and the kernel has told the server
    /// to stop. One that does not is not ours.
    fn wait_for_previous(&self, deadline: Instant) -> Result<(), LauncherError> {
        let data = self.data_dir();
        let grace = Instant::now() + ORPHAN_GRACE;
        loop {
            let Some(pid) = processes_on(&data).into_iter().min() else {
                return directory::remove_stale_pid_file(&data);
            };
            let now = Instant::now();
            if now >= deadline || (now >= grace && !directory::is_stopping(&data)) {
                return Err(LauncherError::AlreadyRunning { dir: data, pid });
            }
            std::thread::sleep(READY_RETRY);
        }
    }

    fn make_cluster(&self, deadline: Instant) -> Result<(), LauncherError> {
        let data = self.data_dir();
        if data.join("PG_VERSION").is_file() {
            return Ok(());
        }
        let draft = self.dir.join("data.creating");
        directory::remove(&draft)?;
        directory::make_private(&draft, self.account.as_ref())?;
        let mut initdb = self.command("initdb");
        initdb.arg("-D").arg(&draft).args(["-U", SUPERUSER, "-A", "trust", "-E", "UTF8"]);
        initdb.args(["--no-locale", "--data-checksums", "--no-instructions"]);
        if !self.options.durable {
            initdb.arg("--no-sync");
        }
        let log = self.dir.join("initdb.log");
        process::run(initdb, "initdb", &log, deadline)?;
        fs::rename(&draft, &data).and_then(|()| File::open(&self.dir)?.sync_all()).map_err(|source| {
            LauncherError::Io { doing: "putting the new cluster in place as", path: data, source }
        })
    }

    fn launch(&mut self, deadline: Instant) -> Result<(), LauncherError> {
        let log = self.log_path();
        directory::rotate_log(&log);
        directory::remove_stale_socket(&self.socket_dir);
        let mut command = self.command("postgres");
        command.arg("-D").arg(self.data_dir()).arg("-k").arg(&self.socket_dir).args(["-h", ""]);
        for (name, value) in self.settings() {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        let server = Server::spawn(command, &log).map_err(|source| LauncherError::Io {
            doing: "starting (by setpriv)",
            path: self.install.bin.join("postgres"),
            source,
        })?;
        let server = self.server.insert(server);
        let target = connection(&self.socket_dir, SUPERUSER);
        let database = &self.options.database;
        // A thread of its own: the caller's may already drive an async runtime.
        let ready = std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                    let runtime = runtime.map_err(|e| NotReady::Server(e.to_string()))?;
                    runtime.block_on(make_ready(target, database, server, deadline))
                })
                .join()
                .unwrap_or_else(|_| Err(NotReady::Server("could not be asked".to_owned())))
        });
        ready.map_err(|reason| {
            self.stop_server();
            match reason {
                NotReady::Database(detail) => {
                    LauncherError::Database { database: self.options.database.clone(), detail }
                }
                NotReady::Server(outcome) => {
                    LauncherError::Failed { program: "postgres", outcome, log_tail: directory::tail(&log) }
                }
            }
        })
    }

    fn settings(&self) -> Vec<(String, String)> {
        let durability = if self.options.durable { "on" } else { "off" };
        let ours = [
            ("port", "5432"),
            ("unix_socket_permissions", "0700"),
            ("fsync", durability),
            ("synchronous_commit", durability),
            ("full_page_writes", durability),
            // Statements and values may name a person: neither belongs in a log.
            ("log_min_error_statement", "panic"),
            ("log_parameter_max_length_on_error", "0"),
            ("log_error_verbosity", "terse"),
            ("log_timezone", "UTC"),
            ("timezone", "UTC"),
        ];
        let ours = ours.map(|(name, value)| (name.to_owned(), value.to_owned()));
        ours.into_iter().chain(self.options.settings.iter().cloned()).collect()
    }

    /// A program of the installation that runs as the right account and is told to stop when we die.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("setpriv");
        // A group of its own: Ctrl-C in a terminal is meant for the program that started the server, which stops it last.
        command.process_group(0);
        command.args(["--pdeathsig", "INT"]);
        if let Some(Account { uid, gid }) = self.account {
            command.arg(format!("--reuid={uid}")).arg(format!("--regid={gid}")).arg("--clear-groups");
        }
        command.arg("--").arg(self.install.bin.join(program));
        // Nothing of our environment, which may hold secrets, but what finding programs takes.
        command.env_clear().env("LC_ALL", "C").env("TZ", "UTC").env("PATH", directory::search_path());
        command.current_dir(&self.dir);
        command
    }
}

impl Drop for PrivatePostgres {
    fn drop(&mut self) {
        self.stop_server();
        directory::remove_fallback_socket_dir(&self.dir, &self.socket_dir);
    }
}

enum NotReady {
    Server(String),
    Database(String),
}

/// Retries until the server takes a connection, then makes the database.
async fn make_ready(
    target: PgConnectOptions,
    database: &str,
    server: &mut Server,
    deadline: Instant,
) -> Result<(), NotReady> {
    let mut connection: PgConnection = loop {
        if let Some(outcome) = server.ended() {
            return Err(NotReady::Server(outcome));
        }
        let failure = match tokio::time::timeout_at(deadline.into(), target.connect()).await {
            Ok(Ok(connection)) => break connection,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer".to_owned(),
        };
        if Instant::now() >= deadline {
            return Err(NotReady::Server(format!("was not ready in time ({failure})")));
        }
        tokio::time::sleep(READY_RETRY).await;
    };
    let create = async {
        let known: Option<(i32,)> = sqlx::query_as("SELECT 1 FROM pg_database WHERE datname = $1")
            .bind(database)
            .fetch_optional(&mut connection)
            .await?;
        if known.is_none() {
            // The name was checked to be a plain one.
            let statement = format!("CREATE DATABASE \"{database}\"");
            sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut connection).await?;
        }
        connection.close().await
    };
    match tokio::time::timeout_at(deadline.into(), create).await {
        Ok(made) => made.map_err(|error| NotReady::Database(error.to_string())),
        Err(_) => Err(NotReady::Database("no answer in time".to_owned())),
    }
}

fn connection(socket_dir: &Path, database: &str) -> PgConnectOptions {
    PgConnectOptions::new_without_pgpass()
        .socket(socket_dir)
        .port(PORT)
        .username(SUPERUSER)
        .database(database)
        .ssl_mode(PgSslMode::Disable)
}

fn check_names(options: &LauncherOptions) -> Result<(), LauncherError> {
    let name = options.database.as_bytes();
    let plain = |c: &u8| c.is_ascii_lowercase() || c.is_ascii_digit() || *c == b'_';
    let starts_well = name.first().is_some_and(|c| !c.is_ascii_digit());
    if !starts_well || !name.iter().all(plain) || name.len() > 63 {
        return Err(LauncherError::DatabaseName(options.database.clone()));
    }
    for (name, value) in &options.settings {
        let fits = |c: u8| plain(&c) || c == b'.';
        if name.is_empty() || !name.bytes().all(fits) || value.contains(['\0', '\n', '\r']) {
            return Err(LauncherError::Setting(name.clone()));
        }
    }
    Ok(())
}
