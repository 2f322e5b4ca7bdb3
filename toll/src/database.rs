//! The database of this data folder: the operator's own, or a private server on a Unix socket.

use anyhow::Context;
use sqlx::postgres::PgConnection;
use storage::launcher::{LauncherOptions, PrivatePostgres};
use storage::pg::{self, ServerMoved, StoreError, connect, migrate};

use crate::exit::failed;
use crate::held;
use crate::home::Home;

/// The name of the database in a private server.
const DATABASE: &str = "tollbook";

/// Where the database is; keeps a private server alive while it lives.
pub(crate) struct Database {
    pub(crate) url: String,
    server: Option<PrivatePostgres>,
}

impl Database {
    /// The database at `url`, else the private server of the data folder: the one that runs already, or a new one that
    /// stops with this value.
    pub(crate) async fn open(home: &Home, url: Option<&str>) -> anyhow::Result<Self> {
        if let Some(url) = url {
            return Ok(Self { url: url.to_owned(), server: None });
        }
        if let Ok(noted) = std::fs::read_to_string(home.postgres_url())
            && connect(noted.trim(), "tollbook look").await.is_ok()
        {
            return Ok(Self { url: noted.trim().to_owned(), server: None });
        }
        let mut options = LauncherOptions::new(home.postgres(), DATABASE);
        options.settings = server_settings();
        let server = tokio::task::spawn_blocking(move || PrivatePostgres::start(options))
            .await
            .context("starting the private Postgres was interrupted")??;
        let url = server.url();
        std::fs::write(home.postgres_url(), &url).context("cannot note the private server's address")?;
        Ok(Self { url, server: Some(server) })
    }

    /// Whether this value started the server.
    pub(crate) fn is_own(&self) -> bool {
        self.server.is_some()
    }

    /// One connection.
    pub(crate) async fn conn(&self) -> Result<PgConnection, StoreError> {
        connect(&self.url, "tollbook cli").await
    }

    /// One connection to a database of this version.
    pub(crate) async fn migrated(&self) -> Result<PgConnection, StoreError> {
        let mut conn = self.conn().await?;
        migrate(&mut conn).await?;
        Ok(conn)
    }

    /// One connection to a database of this version, for a command that writes: on a standby that was promoted since a worker
    /// last wrote it opens the quarantine, as the first worker would. What was written before that would take ids that lost
    /// commits have handed out.
    ///
    /// # Errors
    /// When the database is away, or is another server than it was.
    pub(crate) async fn writing(&self) -> anyhow::Result<PgConnection> {
        let mut conn = self.migrated().await?;
        match pg::server_moved(&mut conn).await? {
            None => {}
            Some(moved @ ServerMoved::Cluster { .. }) => {
                let (found, todo) = held::unmet(&moved);
                return Err(failed(format!("nothing was written: {found}; {todo}")));
            }
            Some(ServerMoved::Timeline { .. }) => {
                let terms = held::terms_in_force(&mut conn).await?;
                if let Some(id) = pg::check_guard(&mut conn, None, terms).await?.opened {
                    eprintln!(
                        "the database failed over: every shard is held (`toll ops quarantine`, number {id})"
                    );
                }
            }
        }
        Ok(conn)
    }

    /// Stops a private server.
    pub(crate) async fn close(self) {
        if let Some(server) = self.server {
            let _ = tokio::task::spawn_blocking(move || server.stop()).await;
        }
    }
}

/// What a private server runs with: durable, sized for a small machine.
pub(crate) fn server_settings() -> Vec<(String, String)> {
    [
        ("shared_buffers", "512MB"),
        ("max_wal_size", "4GB"),
        ("checkpoint_timeout", "15min"),
        ("wal_compression", "lz4"),
        ("max_connections", "60"),
        ("autovacuum_naptime", "15s"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .to_vec()
}
