//! A streaming standby of a private server: to rehearse failovers, with all the ways in which commits get lost.

use std::path::Path;
use std::time::{Duration, Instant};

use sqlx::{Connection, PgConnection};

use super::{LauncherError, LauncherOptions, PrivatePostgres, SUPERUSER, connection, directory, process};

/// How long a standby may take to follow a wish.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(20);

impl PrivatePostgres {
    /// Copies this running server into `dir` and starts the copy as its standby: it streams what is committed from now on,
    /// asynchronously, and takes reading connections on a socket of its own. Blocks until it streams.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn standby(&self, dir: &Path) -> Result<PrivatePostgres, LauncherError> {
        let deadline = Instant::now() + Duration::from_millis(self.options.start_timeout_ms);
        let options = LauncherOptions { dir: dir.to_owned(), ..self.options.clone() };
        {
            let dir = directory::prepare(&options.dir, self.account.as_ref())?;
            let _lock = directory::lock(&dir)?;
            let data = dir.join("data");
            directory::make_private(&data, self.account.as_ref())?;
            let mut copy = self.command("pg_basebackup");
            copy.arg("-D")
                .arg(&data)
                .args(["-R", "-X", "stream", "-c", "fast", "-U", SUPERUSER, "-p", "5432"]);
            copy.arg("-h").arg(&self.socket_dir);
            process::run(copy, "pg_basebackup", &dir.join("basebackup.log"), deadline)?;
        }
        let standby = PrivatePostgres::start(options)?;
        standby.wait_for(
            "it does not stream",
            "SELECT EXISTS (SELECT FROM pg_stat_wal_receiver WHERE status = 'streaming')",
        )?;
        Ok(standby)
    }

    /// Cuts a standby off: what its primary commits from now on it does not have. Blocks until that is so.
    ///
    /// # Errors
    /// When the server does not do so in time.
    pub fn cut_off(&self) -> Result<(), LauncherError> {
        self.tell("ALTER SYSTEM SET primary_conninfo = ''")?;
        self.tell("SELECT pg_reload_conf()")?;
        self.wait_for("it streams on", "SELECT NOT EXISTS (SELECT FROM pg_stat_wal_receiver)")
    }

    /// Makes a primary of a standby. Blocks until it takes writes.
    ///
    /// # Errors
    /// When the server does not do so in time.
    pub fn promote(&self) -> Result<(), LauncherError> {
        self.tell("SELECT pg_promote()")?;
        self.wait_for("it is not promoted", "SELECT NOT pg_is_in_recovery()")
    }

    fn tell(&self, statement: &'static str) -> Result<(), LauncherError> {
        self.ask(async |conn| {
            sqlx::query(statement).execute(conn).await?;
            Ok(true)
        })
        .map(|_| ())
    }

    fn wait_for(&self, what: &'static str, statement: &'static str) -> Result<(), LauncherError> {
        let deadline = Instant::now() + PATIENCE;
        while !self.ask(async |conn| sqlx::query_scalar(statement).fetch_one(conn).await)? {
            if Instant::now() >= deadline {
                let log_tail = directory::tail(&self.log_path());
                return Err(LauncherError::Failed {
                    program: "postgres",
                    outcome: what.to_owned(),
                    log_tail,
                });
            }
            std::thread::sleep(LOOK);
        }
        Ok(())
    }

    /// One question on a connection of its own, on a thread of its own: the caller's may already drive a runtime.
    fn ask(
        &self,
        question: impl AsyncFnOnce(&mut PgConnection) -> sqlx::Result<bool> + Send,
    ) -> Result<bool, LauncherError> {
        let target = connection(&self.socket_dir, &self.options.database);
        let asked = std::thread::scope(|scope| {
            let work = || -> Result<bool, String> {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                let asking = async {
                    let mut conn = PgConnection::connect_with(&target).await?;
                    question(&mut conn).await
                };
                runtime
                    .map_err(|error| error.to_string())?
                    .block_on(asking)
                    .map_err(|error| error.to_string())
            };
            scope.spawn(work).join().unwrap_or_else(|_| Err("could not be asked".to_owned()))
        });
        asked.map_err(|outcome| {
            let log_tail = directory::tail(&self.log_path());
            LauncherError::Failed { program: "postgres", outcome, log_tail }
        })
    }
}
