//! Numbered, immutable migrations; functions one file each, applied again at every start.

use std::borrow::Cow;

use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::postgres::PgConnection;
use sqlx::{Connection, Executor, SqlSafeStr};

use super::StoreError;

const MIGRATIONS: &[(i64, &str, &str)] = &[
    (1, "start", include_str!("../../db/migrations/0001_start.sql")),
    (2, "book", include_str!("../../db/migrations/0002_book.sql")),
    (3, "lifecycle", include_str!("../../db/migrations/0003_lifecycle.sql")),
    (4, "money", include_str!("../../db/migrations/0004_money.sql")),
    (5, "resolution", include_str!("../../db/migrations/0005_resolution.sql")),
    (6, "callbacks", include_str!("../../db/migrations/0006_callbacks.sql")),
    (7, "statistics", include_str!("../../db/migrations/0007_statistics.sql")),
    (8, "four_eyes", include_str!("../../db/migrations/0008_four_eyes.sql")),
    (9, "consent", include_str!("../../db/migrations/0009_consent.sql")),
    (10, "reversal", include_str!("../../db/migrations/0010_reversal.sql")),
    (11, "failover", include_str!("../../db/migrations/0011_failover.sql")),
    (12, "files", include_str!("../../db/migrations/0012_files.sql")),
    (13, "wishes", include_str!("../../db/migrations/0013_wishes.sql")),
    (14, "repeats", include_str!("../../db/migrations/0014_repeats.sql")),
];

/// Functions in the sequence in which they are created: SQL functions need what they call to exist.
const PROCEDURES: &[&str] = &[
    include_str!("../../db/procedures/ensure_partitions.sql"),
    include_str!("../../db/procedures/check_fence.sql"),
    include_str!("../../db/procedures/begin_aside.sql"),
    include_str!("../../db/procedures/refund_open.sql"),
    include_str!("../../db/procedures/over_caps.sql"),
    include_str!("../../db/procedures/reserve_usage.sql"),
    include_str!("../../db/procedures/give_back_usage.sql"),
    include_str!("../../db/procedures/begin_verdicts.sql"),
    include_str!("../../db/procedures/begin_attempts.sql"),
    include_str!("../../db/procedures/begin_refund.sql"),
    include_str!("../../db/procedures/begin_adopt.sql"),
    include_str!("../../db/procedures/record_verdicts.sql"),
    include_str!("../../db/procedures/record_rare.sql"),
    include_str!("../../db/procedures/record_more.sql"),
    include_str!("../../db/procedures/open_date.sql"),
    include_str!("../../db/procedures/record_outcomes.sql"),
    include_str!("../../db/procedures/register_worker.sql"),
    include_str!("../../db/procedures/renew_lease.sql"),
    include_str!("../../db/procedures/fence_worker.sql"),
    include_str!("../../db/procedures/claim_shards.sql"),
    include_str!("../../db/procedures/hand_over.sql"),
    include_str!("../../db/procedures/open_intents.sql"),
    include_str!("../../db/procedures/allocate_ids.sql"),
    include_str!("../../db/procedures/insert_subscriptions.sql"),
    include_str!("../../db/procedures/open_successor.sql"),
    include_str!("../../db/procedures/stop_subscription.sql"),
    include_str!("../../db/procedures/set_consent.sql"),
    include_str!("../../db/procedures/post_top_up.sql"),
    include_str!("../../db/procedures/quarantine.sql"),
    include_str!("../../db/procedures/apply_book.sql"),
    include_str!("../../db/procedures/day_digest.sql"),
    include_str!("../../db/procedures/month_digest.sql"),
    include_str!("../../db/procedures/close_days.sql"),
    include_str!("../../db/procedures/seal_day.sql"),
    include_str!("../../db/procedures/close_month.sql"),
    include_str!("../../db/procedures/verify_ledger.sql"),
    include_str!("../../db/procedures/set_low_water.sql"),
    include_str!("../../db/procedures/trim_minutes.sql"),
    include_str!("../../db/procedures/us.sql"),
    include_str!("../../db/procedures/due_asks.sql"),
    include_str!("../../db/procedures/begin_resend.sql"),
    include_str!("../../db/procedures/record_ask.sql"),
    include_str!("../../db/procedures/postpone_asks.sql"),
    include_str!("../../db/procedures/review_attempt.sql"),
    include_str!("../../db/procedures/settle_callback.sql"),
    include_str!("../../db/procedures/audit_digest.sql"),
    include_str!("../../db/procedures/audit.sql"),
    include_str!("../../db/procedures/verify_audit.sql"),
    include_str!("../../db/procedures/proposal_digest.sql"),
    include_str!("../../db/procedures/propose_decision.sql"),
    include_str!("../../db/procedures/approve_decision.sql"),
    include_str!("../../db/procedures/open_quarantine.sql"),
    include_str!("../../db/procedures/check_guard.sql"),
    include_str!("../../db/procedures/hand_in_lines.sql"),
    include_str!("../../db/procedures/hand_in_done.sql"),
    include_str!("../../db/procedures/resume_shard.sql"),
    include_str!("../../db/procedures/doubt_until.sql"),
    include_str!("../../db/procedures/may_be_followed.sql"),
    include_str!("../../db/procedures/lost_attempts.sql"),
    include_str!("../../db/procedures/restore_lost.sql"),
    include_str!("../../db/procedures/list_doubts.sql"),
    include_str!("../../db/procedures/end_doubt.sql"),
    include_str!("../../db/procedures/read_file.sql"),
    include_str!("../../db/procedures/settle_file_row.sql"),
];

/// Brings the database to this version: missing migrations, then all functions, under one advisory lock.
///
/// # Errors
/// [`StoreError::Broken`] when an applied migration was edited since or the database is newer than this program.
pub async fn migrate(conn: &mut PgConnection) -> Result<(), StoreError> {
    let migrations = MIGRATIONS
        .iter()
        .map(|(version, name, sql)| {
            Migration::new(*version, Cow::Borrowed(*name), MigrationType::Simple, sql.into_sql_str(), false)
        })
        .collect();
    let migrator = Migrator::with_migrations(migrations);
    migrator.run_direct(None, &mut *conn, false).await.map_err(|error| match error {
        sqlx::migrate::MigrateError::Execute(error) => StoreError::from(error),
        sqlx::migrate::MigrateError::ExecuteMigration(error, version) => match StoreError::from(error) {
            // What people can give, and what passes; the rest is a migration that does not fit.
            told @ (StoreError::Forbidden(_) | StoreError::Unavailable(_)) => told,
            other => StoreError::Broken(format!("migrations: while executing migration {version}: {other}")),
        },
        other => StoreError::Broken(format!("migrations: {other}")),
    })?;
    let mut tx = conn.begin().await?;
    sqlx::query("SELECT pg_advisory_xact_lock(7130003)").execute(&mut *tx).await?;
    for procedure in PROCEDURES {
        tx.execute(*procedure).await?;
    }
    tx.commit().await?;
    Ok(())
}

/// Makes the partitions for business days (since 2000-01-01) exist; gives how many weeks were new.
///
/// # Errors
/// [`StoreError`] when the database is away or refuses.
pub async fn ensure_partitions(
    conn: &mut PgConnection,
    from_day: i32,
    to_day: i32,
) -> Result<i32, StoreError> {
    let added = sqlx::query_scalar("SELECT ensure_partitions($1, $2)");
    Ok(added.bind(from_day).bind(to_day).fetch_one(conn).await?)
}
