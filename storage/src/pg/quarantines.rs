//! Quarantines as people see them, and what people decide about them.

use sqlx::postgres::PgConnection;

use super::{QuarantineTerms, StoreError};

row! {
    /// A quarantine: what it waits for, and what came of it.
    pub struct QuarantineLine {
        /// Its number.
        pub id: i64,
        /// When it was found, microseconds since 1970.
        pub found_us: i64,
        /// Since when commits may have been lost, microseconds since 1970.
        pub window_from_us: i64,
        /// Until when spools are waited for, microseconds since 1970.
        pub deadline_us: i64,
        /// The database's clock, microseconds since 1970.
        pub now_us: i64,
        /// Why.
        pub why: String,
        /// Timeline before.
        pub from_timeline: i32,
        /// Timeline now.
        pub to_timeline: i32,
        /// Who said not to wait.
        pub forced_by: Option<String>,
        /// Shards that it held, and holds.
        pub shards: i64,
        /// Shards that still wait.
        pub held: i64,
        /// Shards that charge again with everything that was due in doubt.
        pub doubted: i64,
        /// Attempts without an intent that spools listed.
        pub lost: i64,
        /// Attempts that were listed and are not settled.
        pub open: i64,
        /// Spools that are waited for.
        pub missing: Vec<String>,
    }
}

/// Quarantines, the latest first; `all`: also those that hold up nothing more.
///
/// # Errors
/// [`StoreError`] when the database is away.
pub async fn quarantine_lines(
    conn: &mut PgConnection,
    all: bool,
    limit: i64,
) -> Result<Vec<QuarantineLine>, StoreError> {
    let lines = sqlx::query_as(
        "SELECT q.id, us(q.found_at) AS found_us, us(q.window_from) AS window_from_us, us(q.deadline_at) AS deadline_us,
                us(now()) AS now_us, q.why, q.from_timeline, q.to_timeline, q.forced_by,
                s.shards, s.held, s.doubted, p.lost, l.open, p.missing
           FROM quarantine q
          CROSS JOIN LATERAL (SELECT count(*) AS shards, count(*) FILTER (WHERE x.how IS NULL) AS held,
                                     count(*) FILTER (WHERE x.how = 'all') AS doubted
                                FROM shard_quarantine x WHERE x.quarantine_id = q.id) AS s
          CROSS JOIN LATERAL (SELECT coalesce(sum(x.lost), 0)::bigint AS lost,
                                     coalesce(array_agg(x.host || ':' || x.spool ORDER BY x.host, x.spool)
                                              FILTER (WHERE x.handed_in_at IS NULL), '{}') AS missing
                                FROM quarantine_spool x WHERE x.quarantine_id = q.id) AS p
          CROSS JOIN (SELECT count(*) AS open FROM lost_attempt WHERE state < 2) AS l
          WHERE $1 OR s.held > 0 OR q.id = (SELECT max(id) FROM quarantine) AND l.open > 0
          ORDER BY q.id DESC LIMIT $2",
    );
    Ok(lines.bind(all).bind(limit).fetch_all(conn).await?)
}

row! {
    /// Shards of one carrier that a quarantine holds wholly.
    pub struct HeldShards {
        /// Which quarantine.
        pub quarantine_id: i64,
        /// The carrier's id.
        pub carrier: String,
        /// Their numbers within the carrier, ascending.
        pub slices: Vec<i32>,
    }
}

/// The shards that are held wholly, by quarantine and carrier: at most 4,096 for each carrier.
///
/// # Errors
/// [`StoreError`] when the database is away.
pub async fn held_shards(conn: &mut PgConnection) -> Result<Vec<HeldShards>, StoreError> {
    let shards = sqlx::query_as(
        "SELECT s.quarantine_id, coalesce(c.id, 'carrier ' || (s.shard >> 12)) AS carrier,
                array_agg(s.shard & 4095 ORDER BY s.shard) AS slices
           FROM shard_quarantine s
           LEFT JOIN carrier c ON c.carrier_no = s.shard >> 12
          WHERE s.resumed_at IS NULL
          GROUP BY s.quarantine_id, s.shard >> 12, c.id ORDER BY s.quarantine_id DESC, s.shard >> 12",
    );
    Ok(shards.fetch_all(conn).await?)
}

/// Whether shards of a carrier are held wholly: attempts whose intents were lost may not be here again yet.
///
/// # Errors
/// [`StoreError`] when the database is away.
pub async fn is_held(conn: &mut PgConnection, carrier_no: i32) -> Result<bool, StoreError> {
    let held = sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM shard_owner WHERE held = 1 AND shard BETWEEN $1 << 12 AND ($1 << 12) + 4095)",
    );
    Ok(held.bind(carrier_no).fetch_one(conn).await?)
}

/// How a server differs from the one that its own guard row names, when no worker has met it yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerMoved {
    /// Another cluster: workers refuse it.
    Cluster {
        /// The system identifier of the one that the row names.
        known: i64,
        /// That of this one.
        here: i64,
    },
    /// Another timeline: a standby was promoted.
    Timeline {
        /// On which a worker last wrote.
        known: i32,
        /// On which the server is.
        here: i32,
    },
}

/// Whether this server is another one than its guard row says. Only a primary can tell.
///
/// # Errors
/// [`StoreError::Forbidden`] when the role may not ask which server this is.
pub async fn server_moved(conn: &mut PgConnection) -> Result<Option<ServerMoved>, StoreError> {
    let (known_system, system, known, here): (i64, i64, i32, i32) = sqlx::query_as(
        "SELECT d.system_identifier, c.system_identifier, d.timeline,
                ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int
           FROM database_guard d, pg_control_system() c",
    )
    .fetch_one(conn)
    .await?;
    Ok(if known_system != system {
        Some(ServerMoved::Cluster { known: known_system, here: system })
    } else if known != here {
        Some(ServerMoved::Timeline { known, here })
    } else {
        None
    })
}

/// Says not to wait for the spools that are missing; `false` when it waits for none, or somebody said so before.
///
/// # Errors
/// [`StoreError`] when the database is away.
pub async fn force_quarantine(conn: &mut PgConnection, id: i64, who: &str) -> Result<bool, StoreError> {
    let forced = sqlx::query(
        "UPDATE quarantine SET forced_at = now(), forced_by = $2
          WHERE id = $1 AND forced_at IS NULL
            AND EXISTS (SELECT FROM quarantine_spool p WHERE p.quarantine_id = $1 AND p.handed_in_at IS NULL)
            AND EXISTS (SELECT FROM shard_quarantine s WHERE s.quarantine_id = $1 AND s.resumed_at IS NULL)",
    );
    Ok(forced.bind(id).bind(who).execute(conn).await?.rows_affected() > 0)
}

/// Says that this server is where the database is kept from now on (it was dumped and restored, or upgraded): a quarantine,
/// since commits may be missing. `None` when it is known already.
///
/// # Errors
/// [`StoreError`] when the database is away.
pub async fn adopt_server(
    conn: &mut PgConnection,
    who: &str,
    terms: QuarantineTerms,
) -> Result<Option<i64>, StoreError> {
    let adopted: Option<(i64,)> = sqlx::query_as(
        "WITH here AS (
            SELECT c.system_identifier, ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int AS timeline
              FROM pg_control_system() c
         ), before AS MATERIALIZED (SELECT d.* FROM database_guard d, here h WHERE d.system_identifier <> h.system_identifier FOR UPDATE OF d)
         SELECT open_quarantine('the database was moved to another server, says ' || $1, b.counter, 0, b.timeline, h.timeline, $2, $3)
           FROM before b, here h",
    )
    .bind(who)
    .bind(terms.margin_ms)
    .bind(terms.wait_ms)
    .fetch_optional(conn)
    .await?;
    Ok(adopted.map(|(id,)| id))
}
