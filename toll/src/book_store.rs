//! The book in force: kept in the database, version by version. The files on disk are what the next version is made of.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use billing_core::book::digest_of;
use billing_core::book::reader::Source;
use carriers::{FileSecrets, Secrets, StandInSecrets};
use scheduler::{ReadVersion, VersionRead};
use sqlx::postgres::PgConnection;
use storage::pg::{BookVersion, Names, current_book, sync_book};

use crate::book_files::{self, LoadedBook};

/// Where a process finds its first book and its secrets.
#[derive(Debug)]
pub(crate) struct BookPlace {
    pub(crate) config: PathBuf,
    pub(crate) secrets: FileSecrets,
}

/// The book in force with its numbers. Where there is none yet, the one in `config` becomes version 1.
pub(crate) async fn in_force(
    conn: &mut PgConnection,
    config: &Path,
    secrets: &dyn Secrets,
) -> anyhow::Result<(LoadedBook, Names)> {
    let current = match current_book(conn).await? {
        Some(current) => current,
        None => {
            let first = book_files::load(config, secrets)?;
            // Another process may be first: then its book counts.
            let made = sync_book(conn, &first.names()?).await;
            match current_book(conn).await? {
                Some(current) => current,
                None => {
                    made?;
                    anyhow::bail!("the first version of the book is gone");
                }
            }
        }
    };
    let loaded = read(&current, secrets)?;
    let mut names = sync_book(conn, &loaded.names()?).await?;
    names.book_version = current.version;
    Ok((loaded, names))
}

/// A kept version, checked again.
pub(crate) fn read(version: &BookVersion, secrets: &dyn Secrets) -> anyhow::Result<LoadedBook> {
    let loaded = book_files::check(book_files::kept_sources(&version.files_json)?, secrets);
    let loaded = loaded
        .with_context(|| format!("version {} of the book, as the database keeps it", version.version))?;
    anyhow::ensure!(
        loaded.book.digest.as_slice() == version.digest,
        "version {} of the book was changed in the database: its files have another digest",
        version.version
    );
    Ok(loaded)
}

/// Reads other versions for a worker that runs with `running`.
pub(crate) fn reader(running: &LoadedBook, secrets: FileSecrets) -> Arc<ReadVersion> {
    let runs_with = all_but_plans(&running.sources);
    Arc::new(move |version| {
        let text = |error: anyhow::Error| format!("{error:#}");
        let loaded = read(version, &StandInSecrets).map_err(text)?;
        let restart = (all_but_plans(&loaded.sources) != runs_with)
            .then(|| read(version, &secrets).map(|_| ()).map_err(text));
        Ok(VersionRead { plans: loaded.book.plans, restart })
    })
}

fn all_but_plans(sources: &[Source]) -> Vec<Source> {
    let mut others: Vec<Source> =
        sources.iter().filter(|source| !source.file.contains("/plans/")).cloned().collect();
    others.sort_by(|a, b| a.file.cmp(&b.file));
    others
}

/// Says so when the files on disk are not those in force: they take effect when they are applied.
pub(crate) fn warn_of_other_files(config: &Path, loaded: &LoadedBook, version: i32) {
    if let Ok(sources) = book_files::read_sources(config)
        && digest_of(&sources) != loaded.book.digest
    {
        tracing::warn!(
            version,
            config = %config.display(),
            "the files on disk differ from the book in force: `toll book plan` shows how, `toll book apply` applies them"
        );
    }
}
