//! Looks for a newer version of the book and puts it in force between batches: rules and names at once; new or changed
//! carriers and engine settings by a drain and a new start inside of the same process.

use std::sync::Arc;
use std::time::Duration;

use billing_core::plan::PlanRules;
use storage::pg::{BookVersion, StoreError};
use storage::store::{book_names, book_version, current_version};

use crate::catalog::Catalog;
use crate::link::DbLink;
use crate::shared::Shared;
use crate::worker::WorkerEnd;

/// How often the book is looked at. (Its NOTIFY is a hint for others; a look costs one row by its key.)
const PASS: Duration = Duration::from_secs(1);

/// What a version of the book means to a worker that runs.
#[derive(Debug)]
pub struct VersionRead {
    /// Its plans.
    pub plans: Vec<PlanRules>,
    /// Given when its carriers or engine settings differ from those that the worker runs with: whether this process can
    /// run with them, or in words why not.
    pub restart: Option<Result<(), String>>,
}

/// Reads the files of a version; an error says in words why this process cannot use it.
pub type ReadVersion = dyn Fn(&BookVersion) -> Result<VersionRead, String> + Send + Sync;

/// Keeps a worker's book up to date.
pub(crate) struct BookKeeper {
    pub(crate) shared: Arc<Shared>,
    pub(crate) db: DbLink,
    pub(crate) read: Arc<ReadVersion>,
    /// A version that this process cannot use: said once.
    pub(crate) refused: i32,
}

impl BookKeeper {
    pub(crate) async fn run(mut self) -> Result<(), WorkerEnd> {
        while !self.shared.finish.is_cancelled() {
            if let Err(error) = self.run_once().await {
                self.shared.trouble("looking for a newer book", &error);
            }
            tokio::select! {
                biased;
                () = self.shared.finish.cancelled() => {}
                () = tokio::time::sleep(PASS) => {}
            }
        }
        Ok(())
    }

    /// One pass.
    pub(crate) async fn run_once(&mut self) -> Result<(), StoreError> {
        for version in self.shared.books.wanted() {
            self.hold_earlier(version).await?;
        }
        let asked_ms = self.shared.clock.machine_ms();
        let conn = self.db.conn().await?;
        let newest = current_version(conn).await;
        let ours = self.shared.books.current().names.book_version;
        match self.db.checked(newest)? {
            Some((newest, _)) if newest == self.refused => Ok(()),
            Some((newest, _)) if newest > ours => self.renew(newest).await,
            _ => {
                self.shared.books.confirmed(asked_ms);
                Ok(())
            }
        }
    }

    async fn renew(&mut self, newest: i32) -> Result<(), StoreError> {
        let Some(version) = self.fetch(newest).await? else { return Ok(()) };
        let read = (self.read)(&version).and_then(|read| match read.restart {
            Some(Err(why)) => Err(why),
            _ => Ok(read),
        });
        let read = match read {
            Ok(read) => read,
            Err(why) => {
                self.refused = newest;
                let why =
                    format!("version {newest} of the book cannot be used here, the one before stays: {why}");
                self.shared.trouble("taking a new book", &why);
                return Ok(());
            }
        };
        if read.restart.is_some() {
            tracing::info!(
                version = newest,
                "the book's carriers or engine settings changed: draining to start again with them"
            );
            self.shared.renew.cancel();
            return Ok(());
        }
        let catalog = self.catalog(&version, &read.plans).await?;
        self.shared.books.put_in_force(catalog);
        metrics::counter!("tollbook_book_changes_total").increment(1);
        tracing::info!(version = newest, "a new version of the book is in force");
        Ok(())
    }

    /// A version that a charge under way was decided under. One that this program cannot read any more is stood in for
    /// by the version in force.
    async fn hold_earlier(&mut self, number: i32) -> Result<(), StoreError> {
        let held = match self.fetch(number).await? {
            None => Err("it was never applied to this database".to_owned()),
            Some(version) => match (self.read)(&version) {
                Ok(read) => Ok(Arc::new(self.catalog(&version, &read.plans).await?)),
                Err(why) => Err(why),
            },
        };
        let catalog = held.unwrap_or_else(|why| {
            let why = format!(
                "version {number} cannot be read, charges under it go on under the one in force: {why}"
            );
            self.shared.trouble("reading an earlier book", &why);
            self.shared.books.current()
        });
        self.shared.books.hold(number, catalog);
        Ok(())
    }

    async fn fetch(&mut self, number: i32) -> Result<Option<BookVersion>, StoreError> {
        let conn = self.db.conn().await?;
        let version = book_version(conn, number).await;
        self.db.checked(version)
    }

    async fn catalog(&mut self, version: &BookVersion, plans: &[PlanRules]) -> Result<Catalog, StoreError> {
        let conn = self.db.conn().await?;
        let names = book_names(conn, &version.digest).await;
        let mut names = self.db.checked(names)?;
        // The same files may be in force under several numbers (after a revert).
        names.book_version = version.version;
        Catalog::new(plans, names).map_err(|error| StoreError::Broken(error.to_string()))
    }
}
