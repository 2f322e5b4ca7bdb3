//! The private Postgres with its two databases, and what is measured in them.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use billing_core::outcome::ReasonCode;
use billing_core::period::{Period, days_since_2000};
use jiff::Timestamp;
use jiff::civil::Date;
use scheduler::class_name;
use sqlx::postgres::PgConnection;
use storage::launcher::{LauncherOptions, PrivatePostgres};
use storage::pg::{ClockRow, connect, ensure_partitions, migrate, set_clock};

use super::book::{at_minute, day};
use super::machine::MachineTimes;
use super::processes::{TICKS_PER_S, cpu_s, tree_cpu_s};

/// As `toll` starts its private server.
const SETTINGS: [(&str, &str); 6] = [
    ("shared_buffers", "512MB"),
    ("max_wal_size", "4GB"),
    ("checkpoint_timeout", "15min"),
    ("wal_compression", "lz4"),
    ("max_connections", "60"),
    ("autovacuum_naptime", "15s"),
];
const ENGINE_DATABASE: &str = "tollbook";
const CEILING_DATABASE: &str = "ceiling";
/// Idle connections report their counts after ten seconds at the latest.
const COUNTS_WITHIN: Duration = Duration::from_secs(30);
/// Copying the database and checkpoints may take longer than what a statement usually may.
const SLOW_STATEMENT: &str = "SET statement_timeout = '600s'";

/// The server and a connection to each database.
pub(super) struct Cluster {
    engine: PgConnection,
    ceiling: Option<PgConnection>,
    url: String,
    pid: u32,
    // Last: stopped after the connections are closed.
    _server: PrivatePostgres,
}

/// What a day's charges in one database say about themselves.
#[derive(Debug, Clone, Copy)]
pub(super) struct DayFacts {
    /// Approved outcomes.
    pub(super) approved: u64,
    /// From the start of the first intents' commit to the start of the last outcomes' commit, seconds.
    pub(super) wall_s: f64,
    /// Rows of an average call of `begin_attempts`.
    pub(super) begin_rows: f64,
    /// Rows of an average call of `record_outcomes`.
    pub(super) record_rows: f64,
}

/// Counters at one instant.
pub(super) struct Snapshot {
    wal_bytes: i64,
    postgres_cpu_s: f64,
    /// Of the given processes, in their sequence.
    cpu_s: Vec<f64>,
    own_cpu_s: f64,
    machine: MachineTimes,
}

/// What happened between two snapshots.
#[derive(Debug, Clone)]
pub(super) struct Spent {
    pub(super) wal_bytes: u64,
    pub(super) postgres_cpu_s: f64,
    pub(super) cpu_s: Vec<f64>,
    pub(super) own_cpu_s: f64,
    pub(super) others_share: f64,
    pub(super) steal_share: f64,
}

impl Cluster {
    /// Starts a durable server in `dir`.
    pub(super) async fn start(dir: &Path) -> anyhow::Result<Self> {
        let mut options = LauncherOptions::new(dir, ENGINE_DATABASE);
        options.settings = SETTINGS.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        let server = tokio::task::spawn_blocking(|| PrivatePostgres::start(options))
            .await
            .context("starting Postgres was interrupted")??;
        let url = server.url();
        let engine = admin(&url).await?;
        let pid = server.pid().context("the server has no process")?;
        Ok(Self { engine, ceiling: None, url, pid, _server: server })
    }

    pub(super) fn engine_url(&self) -> String {
        self.url.clone()
    }

    pub(super) fn ceiling_url(&self) -> String {
        self.url.replacen(&format!("/{ENGINE_DATABASE}?"), &format!("/{CEILING_DATABASE}?"), 1)
    }

    pub(super) fn engine_conn(&mut self) -> &mut PgConnection {
        &mut self.engine
    }

    /// The ceiling's database.
    pub(super) fn ceiling_conn(&mut self) -> anyhow::Result<&mut PgConnection> {
        self.ceiling.as_mut().context("the ceiling's database is not there yet")
    }

    /// Schema, partitions for the benchmark's days, and a clock before the first charge.
    pub(super) async fn prepare(&mut self, days: i32) -> anyhow::Result<()> {
        migrate(&mut self.engine).await?;
        let first = days_since_2000(day(0)?);
        ensure_partitions(&mut self.engine, first - 7, first + days + 60).await?;
        self.set_clock(at_minute(day(0)?, 120)?).await
    }

    /// Makes it `at` now, in business time that goes on as fast as the clock on the wall.
    pub(super) async fn set_clock(&mut self, at: Timestamp) -> anyhow::Result<()> {
        let clock = ClockRow {
            base_machine_ms: Timestamp::now().as_millisecond(),
            base_business_ms: at.as_millisecond(),
            scale: 1,
        };
        Ok(set_clock(&mut self.engine, clock).await?)
    }

    pub(super) async fn subscriptions(&mut self) -> anyhow::Result<u64> {
        let count: i64 =
            sqlx::query_scalar("SELECT count(*) FROM subscription").fetch_one(&mut self.engine).await?;
        Ok(u64::try_from(count)?)
    }

    /// The ceiling's database as a copy of the engine's. Nobody else may be connected.
    pub(super) async fn copy_to_ceiling(&mut self) -> anyhow::Result<()> {
        sqlx::query("VACUUM (FREEZE, ANALYZE)").execute(&mut self.engine).await?;
        let other = self.url.replacen(&format!("/{ENGINE_DATABASE}?"), "/postgres?", 1);
        let ours = std::mem::replace(&mut self.engine, admin(&other).await?);
        sqlx::Connection::close(ours).await?;
        let copied = sqlx::query("CREATE DATABASE ceiling TEMPLATE tollbook").execute(&mut self.engine).await;
        copied.context("cannot copy the database")?;
        self.engine = admin(&self.url).await?;
        self.ceiling = Some(admin(&self.ceiling_url()).await?);
        self.checkpoint().await
    }

    /// Between legs, outside of any timing.
    pub(super) async fn checkpoint(&mut self) -> anyhow::Result<()> {
        sqlx::query("CHECKPOINT").execute(&mut self.engine).await?;
        Ok(())
    }

    pub(super) async fn version(&mut self) -> anyhow::Result<String> {
        Ok(sqlx::query_scalar("SHOW server_version").fetch_one(&mut self.engine).await?)
    }

    /// Bytes of everything that only grows, in the engine's database.
    pub(super) async fn stored_bytes(&mut self) -> anyhow::Result<i64> {
        let sum = "SELECT coalesce(sum(pg_total_relation_size(relid)), 0)::bigint
               FROM (SELECT t.relid FROM unnest(ARRAY['attempt_intent', 'attempt_outcome', 'charge_note', 'transfer',
                            'entitlement_grant']) AS name, pg_partition_tree(name::regclass) AS t
                     UNION ALL SELECT unnest(ARRAY['outbox', 'charge_minute', 'attempt_open']::regclass[])) AS grows";
        Ok(sqlx::query_scalar(sum).fetch_one(&mut self.engine).await?)
    }

    /// The share of subscription updates that touched no index, of all so far; waits until `updates` are reported.
    pub(super) async fn hot_share(&mut self, updates: u64) -> anyhow::Result<f64> {
        let deadline = Instant::now() + COUNTS_WITHIN;
        loop {
            let counts =
                "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_all_tables WHERE relname = 'subscription'";
            let (all, hot): (i64, i64) = sqlx::query_as(counts).fetch_one(&mut self.engine).await?;
            if u64::try_from(all)? >= updates || Instant::now() >= deadline {
                ensure!(all > 0, "postgres reports no updates");
                return Ok(hot as f64 / all as f64);
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    }

    /// Subscribers whose spending is counted.
    pub(super) async fn counted_usage(&mut self) -> anyhow::Result<i64> {
        let usage = "SELECT count(*) FROM subscriber_usage";
        Ok(sqlx::query_scalar(usage).fetch_one(&mut self.engine).await?)
    }

    /// Counters now, with the CPU of these processes.
    pub(super) async fn snapshot(&mut self, pids: &[u32]) -> anyhow::Result<Snapshot> {
        let wal = "SELECT (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint";
        Ok(Snapshot {
            wal_bytes: sqlx::query_scalar(wal).fetch_one(&mut self.engine).await?,
            postgres_cpu_s: tree_cpu_s(self.pid)?,
            cpu_s: pids.iter().map(|pid| cpu_s(*pid)).collect::<Result<_, _>>()?,
            own_cpu_s: cpu_s(std::process::id())?,
            machine: MachineTimes::now(),
        })
    }
}

/// What the charges of one day say, in either database. Fails when not all `charges` of them were approved.
pub(super) async fn day_facts(
    conn: &mut PgConnection,
    today: Date,
    charges: u64,
) -> anyhow::Result<DayFacts> {
    let period = Period::starting(today, 0)?.number();
    let (begins, first): (i64, Option<f64>) = sqlx::query_as(
        "SELECT count(DISTINCT intent_at), extract(epoch FROM min(intent_at))::float8 FROM attempt_intent WHERE period = $1",
    )
    .bind(period)
    .fetch_one(&mut *conn)
    .await?;
    let (all, approved, records, last): (i64, i64, i64, Option<f64>) = sqlx::query_as(
        "SELECT count(*), count(*) FILTER (WHERE class = 5), count(DISTINCT decided_at),
                extract(epoch FROM max(decided_at))::float8
           FROM attempt_outcome WHERE period = $1",
    )
    .bind(period)
    .fetch_one(&mut *conn)
    .await?;
    let (Some(first), Some(last)) = (first, last) else { bail!("nothing was charged on {today}") };
    let approved = u64::try_from(approved)?;
    if approved != charges || u64::try_from(all)? != charges {
        bail!(
            "on {today} {all} outcomes were recorded and {approved} of them approved; {charges} were expected. By class: {}",
            by_class(conn, period).await?
        );
    }
    ensure!(last > first, "the charges of {today} took no time");
    Ok(DayFacts {
        approved,
        wall_s: last - first,
        begin_rows: charges as f64 / begins.max(1) as f64,
        record_rows: charges as f64 / records.max(1) as f64,
    })
}

/// What became of a day's charges, for whoever has to find out why.
async fn by_class(conn: &mut PgConnection, period: i32) -> anyhow::Result<String> {
    let counts: Vec<(i16, i16, i64)> = sqlx::query_as(
        "SELECT class, reason, count(*) FROM attempt_outcome WHERE period = $1 GROUP BY 1, 2 ORDER BY 3 DESC LIMIT 10",
    )
    .bind(period)
    .fetch_all(conn)
    .await?;
    let texts = counts.into_iter().map(|(class, reason, count)| {
        format!("{count} {} ({})", class_name(class), ReasonCode(reason).name())
    });
    Ok(texts.collect::<Vec<_>>().join(", "))
}

impl Snapshot {
    /// What happened since `before`.
    pub(super) fn since(&self, before: &Self) -> Spent {
        let cpu_s: Vec<f64> = self.cpu_s.iter().zip(&before.cpu_s).map(|(now, then)| now - then).collect();
        let postgres_cpu_s = self.postgres_cpu_s - before.postgres_cpu_s;
        let own_cpu_s = self.own_cpu_s - before.own_cpu_s;
        let ours_ticks = (postgres_cpu_s + own_cpu_s + cpu_s.iter().sum::<f64>()) * TICKS_PER_S;
        let (others_share, steal_share) = self.machine.others_since(before.machine, ours_ticks);
        Spent {
            wal_bytes: u64::try_from(self.wal_bytes - before.wal_bytes).unwrap_or(0),
            postgres_cpu_s,
            cpu_s,
            own_cpu_s,
            others_share,
            steal_share,
        }
    }
}

async fn admin(url: &str) -> anyhow::Result<PgConnection> {
    let mut conn = connect(url, "tollbook bench").await?;
    sqlx::query(SLOW_STATEMENT).execute(&mut conn).await?;
    Ok(conn)
}
