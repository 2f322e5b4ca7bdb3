//! A stripe's own database connection: opened when needed, dropped when broken. Never a pool, never cancelled.

use std::time::Duration;

use storage::pg::StoreError;
use storage::store::{Conn, Database, connect};

/// The wait between two tries of what a broken connection interrupted.
pub(crate) const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// One connection that comes back by itself.
pub(crate) struct DbLink {
    database: Database,
    name: String,
    conn: Option<Conn>,
}

impl DbLink {
    pub(crate) fn new(database: Database, name: String) -> Self {
        Self { database, name, conn: None }
    }

    /// The connection, opened when there is none.
    pub(crate) async fn conn(&mut self) -> Result<&mut Conn, StoreError> {
        let conn = match self.conn.take() {
            Some(conn) => conn,
            None => connect(&self.database, &self.name).await?,
        };
        Ok(self.conn.insert(conn))
    }

    /// Passes a result on; a broken connection is dropped, so that the next call opens a new one.
    pub(crate) fn checked<T>(&mut self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        if matches!(result, Err(StoreError::Unavailable(_))) {
            self.conn = None;
        }
        result
    }
}
