//! The server itself: its settings, its clocks, and a connection that only reads.

use sqlx::postgres::PgConnection;

use super::super::StoreError;
use super::super::clock::{ClockRow, read_clock};

/// Makes a connection one for reading: it cannot write, no statement lasts longer than `timeout_ms`, and plans are made
/// for the values at hand.
///
/// # Errors
/// [`StoreError`] when the database is away.
pub async fn reading(conn: &mut PgConnection, timeout_ms: u32) -> Result<(), StoreError> {
    sqlx::query(
        "SELECT set_config('default_transaction_read_only', 'on', false),
                set_config('plan_cache_mode', 'force_custom_plan', false), set_config('statement_timeout', $1, false)",
    )
    .bind(timeout_ms.to_string())
    .execute(conn)
    .await?;
    Ok(())
}

/// Both times, as the database tells them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BusinessNow {
    /// The business clock.
    pub clock: ClockRow,
    /// The database's clock, milliseconds since 1970.
    pub machine_ms: i64,
    /// Business time then, milliseconds since 1970.
    pub business_ms: i64,
}

/// Business time by the database's clock.
///
/// # Errors
/// [`StoreError`] when the database is away.
pub async fn business_now(conn: &mut PgConnection) -> Result<BusinessNow, StoreError> {
    let clock = read_clock(&mut *conn).await?;
    let machine_ms = sqlx::query_scalar("SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint");
    let machine_ms = machine_ms.fetch_one(conn).await?;
    Ok(BusinessNow { clock, machine_ms, business_ms: clock.business_ms(machine_ms) })
}

row! {
    /// What `toll doctor` asks a server.
    pub struct ServerFacts {
        /// 150004 for 15.4.
        pub version_num: i32,
        /// `on` or `off`.
        pub fsync: String,
        /// `on`, `remote_apply`, ... as this connection has it.
        pub synchronous_commit: String,
        /// `on` or `off`.
        pub full_page_writes: String,
        /// `on` or `off`.
        pub data_checksums: String,
        /// Which standbys commits wait for; empty for none.
        pub synchronous_standby_names: String,
        /// Standbys that are connected now.
        pub standbys: i64,
        /// Whether it is a standby itself.
        pub in_recovery: bool,
        /// How many connections it takes.
        pub max_connections: i32,
        /// Its clock, milliseconds since 1970.
        pub machine_ms: i64,
        /// Whether it has this program's tables.
        pub has_tables: bool,
        /// The first period that no partition holds; `None` without partitions or tables.
        pub partitions_until: Option<i32>,
    }
}

/// What `toll doctor` asks a server.
///
/// # Errors
/// [`StoreError`] when the database is away.
pub async fn server_facts(conn: &mut PgConnection) -> Result<ServerFacts, StoreError> {
    let mut facts: ServerFacts = sqlx::query_as(
        "SELECT current_setting('server_version_num')::int AS version_num, current_setting('fsync') AS fsync,
                current_setting('synchronous_commit') AS synchronous_commit,
                current_setting('full_page_writes') AS full_page_writes,
                current_setting('data_checksums') AS data_checksums,
                current_setting('synchronous_standby_names') AS synchronous_standby_names,
                (SELECT count(*) FROM pg_stat_replication) AS standbys, pg_is_in_recovery() AS in_recovery,
                current_setting('max_connections')::int AS max_connections,
                (extract(epoch FROM clock_timestamp()) * 1000)::bigint AS machine_ms,
                to_regclass('period_partition') IS NOT NULL AS has_tables, NULL::int AS partitions_until",
    )
    .fetch_one(&mut *conn)
    .await?;
    if facts.has_tables {
        facts.partitions_until =
            sqlx::query_scalar("SELECT max(high_period) FROM period_partition").fetch_one(conn).await?;
    }
    Ok(facts)
}
