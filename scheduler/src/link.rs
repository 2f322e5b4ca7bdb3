//! A stripe's own database connection: opened when needed, dropped when broken. Never a pool, never cancelled.

use std::sync::Arc;
use std::time::Duration;

use storage::pg::StoreError;
use storage::store::{Conn, Database, connect};

use crate::failover::Watch;

/// The wait between two tries of what a broken connection interrupted.
pub(crate) const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// One connection that comes back by itself.
pub(crate) struct DbLink {
    database: Database,
    name: String,
    conn: Option<Conn>,
    watch: Option<Arc<Watch>>,
}

impl DbLink {
    pub(crate) fn new(database: Database, name: String) -> Self {
        Self { database, name, conn: None, watch: None }
    }

    /// A link of a worker: each connection is compared with the server that the worker knows.
    pub(crate) fn watched(database: Database, name: String, watch: &Arc<Watch>) -> Self {
        Self { watch: Some(Arc::clone(watch)), ..Self::new(database, name) }
    }

    /// The connection, opened when there is none.
    pub(crate) async fn conn(&mut self) -> Result<&mut Conn, StoreError> {
        let conn = match self.conn.take() {
            Some(conn) => conn,
            None => {
                let mut conn = connect(&self.database, &self.name).await?;
                if let Some(watch) = &self.watch {
                    watch.admit(&mut conn).await?;
                }
                conn
            }
        };
        Ok(self.conn.insert(conn))
    }

    /// A link of its own to the same server.
    pub(crate) fn another(&self, what: &str) -> Self {
        let (database, name) = (self.database.clone(), format!("{} {what}", self.name));
        Self { database, name, conn: None, watch: self.watch.clone() }
    }

    /// Lets the connection go until it is needed again.
    pub(crate) fn close(&mut self) {
        self.conn = None;
    }

    /// Passes a result on; a broken connection is dropped, so that the next call opens a new one.
    pub(crate) fn checked<T>(&mut self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        if matches!(result, Err(StoreError::Unavailable(_))) {
            self.conn = None;
        }
        result
    }
}
