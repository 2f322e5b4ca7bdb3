//! The versions of the book: immutable, numbered without gaps, applied one at a time.

use sqlx::Connection;
use sqlx::postgres::PgConnection;
use thiserror::Error;

use super::StoreError;
use super::book::{BookNames, Names, make_names, read_names};

/// A version of the book with its files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BookVersion {
    /// Its number.
    pub version: i32,
    /// SHA-256 over its files.
    pub digest: Vec<u8>,
    /// Its files as JSON: {"path": "text"}.
    pub files_json: String,
}

row! {
    /// A version of the book as a line of the history.
    pub struct VersionLine {
        /// Its number.
        pub version: i32,
        /// SHA-256 over its files.
        pub digest: Vec<u8>,
        /// When it was applied, machine time, milliseconds since 1970.
        pub applied_at_ms: i64,
        /// Who applied it.
        pub applied_by: String,
        /// What for.
        pub note: String,
        /// How many files it has.
        pub files: i64,
    }
}

/// How a book is to be applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Applying<'a> {
    /// The version that must be in force; `None`: whatever is.
    pub expect: Option<i32>,
    /// Only where no version is in force.
    pub first: bool,
    /// Who applies it.
    pub by: &'a str,
    /// What for.
    pub note: &'a str,
}

/// Why a book was not applied; nothing of it is kept then.
#[derive(Debug, Error)]
pub enum ApplyError {
    /// See [`StoreError`].
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It was planned against a version that is no longer in force.
    #[error("version {current} of the book is in force by now: plan against it again")]
    Stale {
        /// The version in force.
        current: i32,
    },
    /// The very same files are in force.
    #[error("nothing changed: version {version} of the book has the same files")]
    Unchanged {
        /// The version in force.
        version: i32,
    },
}

impl From<sqlx::Error> for ApplyError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

row! {
    /// Subscriptions of a plan that have not ended.
    pub struct PlanCount {
        /// The plan's id.
        pub plan: String,
        /// How many there are.
        pub subscriptions: i64,
        /// How many of them have a charge with an attempt that is not settled: it keeps its version.
        pub under_way: i64,
    }
}

/// Keeps a checked book as the next version: its names and its files in one commit. Gives its number.
///
/// # Errors
/// See [`ApplyError`]; [`StoreError::Broken`] when something that is fixed would change.
pub async fn apply_book(
    conn: &mut PgConnection,
    book: &BookNames,
    how: &Applying<'_>,
) -> Result<i32, ApplyError> {
    let mut tx = conn.begin().await?;
    let answer = apply_version(&mut tx, book, how).await?;
    match answer {
        0 => {
            let current = current_version(&mut tx).await?.map_or(0, |(version, _)| version);
            Err(ApplyError::Stale { current })
        }
        kept if kept < 0 => Err(ApplyError::Unchanged { version: -kept }),
        version => {
            tx.commit().await?;
            Ok(version)
        }
    }
}

/// The new version's number, or what `apply_book.sql` says instead. The names of a book that is in force already are
/// made again, which changes nothing unless this program keeps more of them than the one that applied it.
pub(super) async fn apply_version(
    tx: &mut PgConnection,
    book: &BookNames,
    how: &Applying<'_>,
) -> Result<i32, StoreError> {
    let answer: i32 = sqlx::query_scalar("SELECT apply_book($1, $2, $3, $4, $5, $6)")
        .bind(&book.digest)
        .bind(&book.files_json)
        .bind(how.expect)
        .bind(how.first)
        .bind(how.by)
        .bind(how.note)
        .fetch_one(&mut *tx)
        .await?;
    make_names(tx, book).await?;
    Ok(answer)
}

/// The version in force and its digest, without its files.
///
/// # Errors
/// [`StoreError`] when the database is away.
pub async fn current_version(conn: &mut PgConnection) -> Result<Option<(i32, Vec<u8>)>, StoreError> {
    let found = sqlx::query_as("SELECT version, digest FROM book_version ORDER BY version DESC LIMIT 1");
    Ok(found.fetch_optional(conn).await?)
}

/// The version in force; `None` before the first.
///
/// # Errors
/// [`StoreError`] when the database is away.
pub async fn current_book(conn: &mut PgConnection) -> Result<Option<BookVersion>, StoreError> {
    match current_version(conn).await? {
        Some((version, _)) => book_version(conn, version).await,
        None => Ok(None),
    }
}

/// A version by its number.
///
/// # Errors
/// [`StoreError`] when the database is away.
pub async fn book_version(conn: &mut PgConnection, version: i32) -> Result<Option<BookVersion>, StoreError> {
    let found: Option<(Vec<u8>, String)> =
        sqlx::query_as("SELECT digest, files::text FROM book_version WHERE version = $1")
            .bind(version)
            .fetch_optional(conn)
            .await?;
    Ok(found.map(|(digest, files_json)| BookVersion { version, digest, files_json }))
}

/// The latest versions, the newest first.
///
/// # Errors
/// [`StoreError`] when the database is away.
pub async fn book_history(conn: &mut PgConnection, limit: i64) -> Result<Vec<VersionLine>, StoreError> {
    let lines = sqlx::query_as(
        "SELECT version, digest, (extract(epoch FROM applied_at) * 1000)::bigint AS applied_at_ms, applied_by, note,
                (SELECT count(*) FROM jsonb_object_keys(files)) AS files
           FROM book_version ORDER BY version DESC LIMIT $1",
    );
    Ok(lines.bind(limit).fetch_all(conn).await?)
}

/// The numbers of everything that the database names, for a version by its digest.
///
/// # Errors
/// [`StoreError::Broken`] when no version has this digest.
pub async fn book_names(conn: &mut PgConnection, digest: &[u8]) -> Result<Names, StoreError> {
    read_names(conn, digest).await
}

/// Subscriptions per plan that have not ended: one pass over all of them, for a person who plans a change.
///
/// # Errors
/// [`StoreError`] when the database is away.
pub async fn plan_counts(conn: &mut PgConnection) -> Result<Vec<PlanCount>, StoreError> {
    let counts = sqlx::query_as(
        "SELECT p.id AS plan, count(*) AS subscriptions,
                count(*) FILTER (WHERE s.attempt_no > 0 AND s.collected_minor < s.due_minor) AS under_way
           FROM subscription s JOIN plan p USING (plan_no)
          WHERE s.state NOT IN (9, 10) GROUP BY p.id ORDER BY p.id",
    );
    Ok(counts.fetch_all(conn).await?)
}
