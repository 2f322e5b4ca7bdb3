//! Connections and the few kinds of errors that callers tell apart.

use std::str::FromStr;

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions, Connection};
use thiserror::Error;

/// The server cancels a statement after this time; the client never does (a cancelled commit has no known result).
const STATEMENT_TIMEOUT: &str = "30s";

/// What can go wrong at the database, by what the caller must do.
#[derive(Debug, Error)]
pub enum StoreError {
    /// This worker's epoch is over: drop everything, never write again under it.
    #[error("this worker is fenced: {0}")]
    Fenced(String),
    /// The server is away or the connection broke. Whether a commit happened is not known.
    #[error("the database cannot be reached: {0}")]
    Unavailable(#[source] sqlx::Error),
    /// The server refused the statement: nothing of it is durable.
    #[error("the database refused: {0}")]
    Refused(#[source] sqlx::Error),
    /// The role lacks a right that the engine needs; says how to give it.
    #[error("this database role may not do what is needed: {0}")]
    Forbidden(String),
    /// The server answered something that cannot be.
    #[error("the database holds what cannot be: {0}")]
    Broken(String),
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        let Some(database) = error.as_database_error() else {
            return match error {
                sqlx::Error::ColumnDecode { .. }
                | sqlx::Error::Decode(_)
                | sqlx::Error::TypeNotFound { .. } => Self::Broken(error.to_string()),
                _ => Self::Unavailable(error),
            };
        };
        let code = database.code().unwrap_or_default().into_owned();
        match code.as_str() {
            "TB002" => Self::Fenced(database.message().to_owned()),
            // Connection exceptions, shutdown, crash recovery, too many connections, out of disk or memory.
            code if code.starts_with("08") || code.starts_with("57") || code.starts_with("53") => {
                Self::Unavailable(error)
            }
            // Serialization failure and deadlock: rolled back, may be repeated.
            "40001" | "40P01" | "58030" => Self::Unavailable(error),
            // A standby: it may be promoted, or the address may come to mean the primary again.
            "25006" => Self::Unavailable(error),
            "TB005" => Self::Broken(database.message().to_owned()),
            "42501" => match database.message().strip_prefix("permission denied for function ") {
                Some(name) if name.starts_with("pg_") => Self::Forbidden(format!(
                    "{}; which server this is has to be known: as a superuser, GRANT EXECUTE ON FUNCTION {name}() TO the role \
                     of the --database URL",
                    database.message()
                )),
                _ => Self::Refused(error),
            },
            _ => Self::Refused(error),
        }
    }
}

impl StoreError {
    /// Whether trying again later may help.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }
}

fn options(url: &str, name: &str) -> Result<PgConnectOptions, StoreError> {
    let options = PgConnectOptions::from_str(url)?;
    Ok(options.application_name(name).disable_statement_logging().options([
        ("statement_timeout", STATEMENT_TIMEOUT),
        ("synchronous_commit", "on"),
        ("jit", "off"),
        // Array sizes vary per batch; the plan by primary key is right for all of them.
        ("plan_cache_mode", "force_generic_plan"),
        ("client_min_messages", "warning"),
    ]))
}

/// One connection of its own, for a stripe or a lease.
///
/// # Errors
/// [`StoreError`] when the URL is wrong or the server is away.
pub async fn connect(url: &str, name: &str) -> Result<PgConnection, StoreError> {
    Ok(PgConnection::connect_with(&options(url, name)?).await?)
}
