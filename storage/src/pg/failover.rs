//! Failover of the server: noticing it, and what was sent before it and is lost here. The procedures say the rest.

use billing_core::outcome::Op;
use billing_core::period::Period;
use billing_core::subscription::Planned;
use jiff::Timestamp;
use sqlx::Row;
use sqlx::postgres::{PgConnection, PgRow};

use super::workers::{Lease, WorkerIdentity};
use super::{StoreError, Verdict};
use crate::guard::Seen;
use crate::spool::SentLine;

/// What a check of the server brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checked {
    /// What the server is now.
    pub seen: Seen,
    /// The quarantine that this check opened.
    pub opened: Option<i64>,
}

/// How a check that finds something opens its quarantine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuarantineTerms {
    /// How long before the guard row's last touch the window begins, milliseconds: what clocks may differ by.
    pub margin_ms: i64,
    /// How long spools are waited for, milliseconds.
    pub wait_ms: i64,
}

/// Machines whose clocks differ by more than 2 s from the server's do not claim; what is too much costs only comparing lines
/// that have their intent.
const MARGIN_MS: i64 = 60_000;

impl QuarantineTerms {
    /// Spools are waited for so long (milliseconds); the window begins a minute before the last touch.
    #[must_use]
    pub const fn waiting(wait_ms: i64) -> Self {
        Self { margin_ms: MARGIN_MS, wait_ms }
    }
}

/// Compares the server with its own guard row and with what is remembered of it.
///
/// # Errors
/// [`StoreError::Broken`] for another server, [`StoreError::Unavailable`] for a standby.
pub async fn check_guard(
    conn: &mut PgConnection,
    remembered: Option<Seen>,
    terms: QuarantineTerms,
) -> Result<Checked, StoreError> {
    let known = remembered.unwrap_or_default();
    let (system_identifier, timeline, counter, lsn, opened) =
        sqlx::query_as("SELECT * FROM check_guard($1, $2, $3, $4, $5, $6)")
            .bind(known.system_identifier)
            .bind(known.timeline)
            .bind(known.counter)
            .bind(known.lsn)
            .bind(terms.margin_ms)
            .bind(terms.wait_ms)
            .fetch_one(conn)
            .await?;
    Ok(Checked { seen: Seen { system_identifier, timeline, counter, lsn }, opened })
}

/// Notes that a worker is alive: the window of a later failover begins here. Gives the counter and how far the server's log
/// is durable.
///
/// # Errors
/// [`StoreError`] when the database is away.
pub async fn touch_guard(conn: &mut PgConnection) -> Result<(i64, i64), StoreError> {
    let touched = sqlx::query_as(
        "UPDATE database_guard SET counter = counter + 1, touched_at = now()
         RETURNING counter, (pg_current_wal_flush_lsn() - '0/0'::pg_lsn)::bigint",
    );
    Ok(touched.fetch_one(conn).await?)
}

/// What failovers hold up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeldUp {
    /// Quarantines for which this spool is not handed in yet.
    pub hand_in: Vec<i64>,
    /// From when on its lines are wanted, microseconds since 1970.
    pub from_us: i64,
    /// Since when commits may be lost that are not cleared up yet, and that no spool tells of: not before the first of those
    /// whose spool is missing began. Microseconds since 1970; 0 where nothing is held.
    pub window_from_us: i64,
    /// Shards that are held: 1 wholly, 2 charges of theirs.
    pub shards: Vec<(i32, i16)>,
    /// Shards of which everything is asked about first: charges that were due until then (business milliseconds), and refunds
    /// up to that inbox row.
    pub doubted: Vec<(i32, i64, i64)>,
}

/// Reads what is held up. Spools keep their lines for a day, and so long they are asked for.
///
/// # Errors
/// [`StoreError`] when the database is away.
pub async fn held_up(conn: &mut PgConnection, who: &WorkerIdentity) -> Result<HeldUp, StoreError> {
    let (hand_in, from_us, window_from_us, shards, held, doubted, until_ms, inbox): Wanted = sqlx::query_as(
        "WITH wanted AS (
            SELECT q.id, q.window_from FROM quarantine q
             WHERE q.found_at > now() - interval '1 day'
               AND NOT EXISTS (SELECT FROM quarantine_spool p
                                WHERE p.quarantine_id = q.id AND p.host = $1 AND p.spool = $2 AND p.boot_id = $3
                                  AND p.handed_in_at IS NOT NULL)
         ), held AS (SELECT shard, held FROM shard_owner WHERE held <> 0),
         doubted AS (
            SELECT q.shard, max(q.doubt_until_ms) AS until_ms, max(q.inbox_until) AS inbox FROM shard_quarantine q
             WHERE q.how = 'all' AND q.resumed_at > now() - interval '1 day' GROUP BY q.shard)
         SELECT coalesce((SELECT array_agg(id) FROM wanted), '{}'),
                coalesce((SELECT (extract(epoch FROM min(window_from)) * 1000000)::bigint FROM wanted), 0),
                coalesce((SELECT us(min(greatest(q.window_from, (
                                     SELECT min(i.started_at) FROM quarantine_spool p
                                       JOIN worker_incarnation i USING (host, spool, boot_id)
                                      WHERE p.quarantine_id = q.id AND p.handed_in_at IS NULL))))
                            FROM quarantine q
                           WHERE EXISTS (SELECT FROM shard_quarantine s WHERE s.quarantine_id = q.id AND s.resumed_at IS NULL)), 0),
                coalesce((SELECT array_agg(shard ORDER BY shard) FROM held), '{}'),
                coalesce((SELECT array_agg(held ORDER BY shard) FROM held), '{}'),
                coalesce((SELECT array_agg(shard ORDER BY shard) FROM doubted), '{}'),
                coalesce((SELECT array_agg(until_ms ORDER BY shard) FROM doubted), '{}'),
                coalesce((SELECT array_agg(inbox ORDER BY shard) FROM doubted), '{}')",
    )
    .bind(&who.host)
    .bind(&who.spool)
    .bind(&who.boot_id)
    .fetch_one(conn)
    .await?;
    let shards = shards.into_iter().zip(held).collect();
    let doubted = doubted.into_iter().zip(until_ms).zip(inbox);
    let doubted = doubted.map(|((shard, until_ms), inbox)| (shard, until_ms, inbox)).collect();
    Ok(HeldUp { hand_in, from_us, window_from_us, shards, doubted })
}

type Wanted = (Vec<i64>, i64, i64, Vec<i32>, Vec<i16>, Vec<i32>, Vec<i64>, Vec<i64>);

/// Lines as columns.
#[derive(Default)]
struct Columns {
    ids: Vec<i64>,
    periods: Vec<i32>,
    attempt_nos: Vec<i16>,
    ops: Vec<i16>,
    rounds: Vec<i16>,
    steps: Vec<i16>,
    amounts: Vec<i64>,
    currencies: Vec<i16>,
    digest_his: Vec<i64>,
    digest_los: Vec<i64>,
    not_befores: Vec<i64>,
    not_afters: Vec<i64>,
    rules: Vec<i16>,
    book_versions: Vec<i32>,
    parents: Vec<i16>,
    incarnations: Vec<i64>,
    intents_us: Vec<i64>,
    business_ms: Vec<i64>,
    wishes: Vec<i64>,
}

impl Columns {
    fn of(lines: &[SentLine]) -> Self {
        let mut columns = Self::default();
        for line in lines {
            let digest = u128::from_be_bytes(line.digest);
            columns.ids.push(line.subscription_id);
            columns.periods.push(line.period);
            columns.attempt_nos.push(line.attempt_no);
            columns.ops.push(i16::from(line.op));
            columns.rounds.push(line.round);
            columns.steps.push(line.step);
            columns.amounts.push(line.amount_minor);
            columns.currencies.push(line.currency);
            columns.digest_his.push((digest >> 64) as i64);
            columns.digest_los.push(digest as i64);
            columns.not_befores.push(line.not_before_ms);
            columns.not_afters.push(line.not_after_ms);
            columns.rules.push(line.rule);
            columns.book_versions.push(line.book_version);
            columns.parents.push(line.parent_no);
            columns.incarnations.push(line.incarnation);
            columns.intents_us.push(line.intent_at_us);
            columns.business_ms.push(line.business_at_ms);
            columns.wishes.push(line.wish);
        }
        columns
    }

    fn bind<'q>(&'q self, query: Query<'q>) -> Query<'q> {
        query
            .bind(&self.ids)
            .bind(&self.periods)
            .bind(&self.attempt_nos)
            .bind(&self.ops)
            .bind(&self.rounds)
            .bind(&self.steps)
            .bind(&self.amounts)
            .bind(&self.currencies)
            .bind(&self.digest_his)
            .bind(&self.digest_los)
            .bind(&self.not_befores)
            .bind(&self.not_afters)
            .bind(&self.rules)
            .bind(&self.book_versions)
            .bind(&self.parents)
            .bind(&self.incarnations)
            .bind(&self.intents_us)
            .bind(&self.business_ms)
            .bind(&self.wishes)
    }
}

type Query<'q> = sqlx::query::QueryScalar<'q, sqlx::Postgres, i64, sqlx::postgres::PgArguments>;

/// Hands in lines of a spool; gives how many of them have no intent here. A wish that a line began with is done with: it
/// goes from the inbox in the same commit.
///
/// # Errors
/// [`StoreError`] when the database is away.
pub async fn hand_in_lines(
    conn: &mut PgConnection,
    who: &WorkerIdentity,
    lines: &[SentLine],
) -> Result<i64, StoreError> {
    let columns = Columns::of(lines);
    let handed = sqlx::query_scalar(
        "SELECT hand_in_lines($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22)",
    );
    let handed = handed.bind(&who.host).bind(&who.spool).bind(&who.boot_id);
    Ok(columns.bind(handed).fetch_one(conn).await?)
}

/// Lists attempts that would be begun now as possibly sent before, and takes the wishes that those began with out of the
/// inbox; `chain`: only behind one that the carrier knew. Gives how many are listed.
///
/// # Errors
/// [`StoreError::Fenced`] when the lease is over.
pub async fn list_doubts(
    conn: &mut PgConnection,
    lease: &Lease,
    chain: bool,
    lines: &[SentLine],
) -> Result<i64, StoreError> {
    let columns = Columns::of(lines);
    let listed = sqlx::query_scalar(
        "SELECT list_doubts($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23)",
    );
    let listed = listed.bind(lease.slot).bind(lease.incarnation).bind(lease.epoch).bind(chain);
    Ok(columns.bind(listed).fetch_one(conn).await?)
}

/// A spool was handed in to its end.
///
/// # Errors
/// [`StoreError`] when the database is away.
pub async fn hand_in_done(
    conn: &mut PgConnection,
    who: &WorkerIdentity,
    quarantines: &[i64],
    lines: i64,
    lost: i64,
) -> Result<(), StoreError> {
    sqlx::query("SELECT hand_in_done($1, $2, $3, $4, $5, $6)")
        .bind(&who.host)
        .bind(&who.spool)
        .bind(&who.boot_id)
        .bind(quarantines)
        .bind(lines)
        .bind(lost)
        .execute(conn)
        .await?;
    Ok(())
}

/// What became of the wish to let a shard charge again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resumed {
    /// Spools are waited for.
    NotYet,
    /// It charges again.
    Yes,
    /// Spools are missing for good: everything that was due has to be listed first.
    ListAll,
}

/// Lets a shard charge again, if its list is in place.
///
/// # Errors
/// [`StoreError::Fenced`] when the lease is over.
pub async fn resume_shard(
    conn: &mut PgConnection,
    lease: &Lease,
    shard: i32,
    doubt_until_ms: Option<i64>,
) -> Result<Resumed, StoreError> {
    let resumed: i16 = sqlx::query_scalar("SELECT resume_shard($1, $2, $3, $4, $5)")
        .bind(lease.slot)
        .bind(lease.incarnation)
        .bind(lease.epoch)
        .bind(shard)
        .bind(doubt_until_ms)
        .fetch_one(conn)
        .await?;
    Ok(match resumed {
        0 => Resumed::NotYet,
        2 => Resumed::ListAll,
        _ => Resumed::Yes,
    })
}

/// An attempt whose intent was lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LostAttempt {
    /// Whose charge.
    pub subscription_id: i64,
    /// The attempt.
    pub planned: Planned,
    /// ISO 4217 numeric.
    pub currency: i16,
    /// Who sent it, or listed it.
    pub incarnation: i64,
    /// The version of the book that it was decided under.
    pub book_version: i32,
    /// Business time of the intent.
    pub business_at: Timestamp,
    /// Its intent is here again.
    pub restored: bool,
    /// No spool lists it: assumed, because one is missing.
    pub assumed: bool,
    /// The rule that decided to send.
    pub rule: i16,
    /// When its intent was made, or may have been.
    pub intent_at: Timestamp,
    /// It was assumed, and proven not to have been applied: its sender may have gone on with the next one until then.
    pub followed_until: Option<Timestamp>,
}

/// Lost attempts of a shard that have neither an outcome nor an open row, behind a key, and those assumed ones that may have
/// been followed by another ([`LostAttempt::followed_until`]).
///
/// # Errors
/// [`StoreError::Fenced`] when the lease is over.
pub async fn lost_attempts(
    conn: &mut PgConnection,
    lease: &Lease,
    shard: i32,
    after: (i64, i32, i16),
    limit: i32,
) -> Result<Vec<LostAttempt>, StoreError> {
    let rows = sqlx::query("SELECT * FROM lost_attempts($1, $2, $3, $4, $5, $6, $7, $8)")
        .bind(lease.slot)
        .bind(lease.incarnation)
        .bind(lease.epoch)
        .bind(shard)
        .bind(after.0)
        .bind(after.1)
        .bind(after.2)
        .bind(limit)
        .fetch_all(conn)
        .await?;
    rows.iter().map(lost).collect()
}

fn lost(row: &PgRow) -> Result<LostAttempt, StoreError> {
    let broken = |error: &dyn std::fmt::Display| StoreError::Broken(format!("a lost attempt: {error}"));
    let instant = |name: &str| -> Result<Timestamp, StoreError> {
        Timestamp::from_millisecond(row.try_get(name)?).map_err(|error| broken(&error))
    };
    let micros = |us: i64| Timestamp::from_microsecond(us).map_err(|error| broken(&error));
    let op: i16 = row.try_get("op")?;
    Ok(LostAttempt {
        subscription_id: row.try_get("subscription_id")?,
        planned: Planned {
            op: Op::from_number(op).ok_or_else(|| broken(&format!("operation {op}")))?,
            period: Period::from_number(row.try_get("period")?).map_err(|error| broken(&error))?,
            attempt_no: row.try_get("attempt_no")?,
            parent_no: row.try_get("parent_no")?,
            amount_minor: row.try_get("amount_minor")?,
            round: row.try_get("round")?,
            step: row.try_get("step")?,
            not_before: instant("not_before_ms")?,
            not_after: instant("not_after_ms")?,
        },
        currency: row.try_get("currency")?,
        incarnation: row.try_get("incarnation")?,
        book_version: row.try_get("book_version")?,
        business_at: instant("business_at_ms")?,
        restored: row.try_get::<i16, _>("state")? == 1,
        assumed: row.try_get("chain")?,
        rule: row.try_get("rule_id")?,
        intent_at: micros(row.try_get("intent_us")?)?,
        followed_until: row.try_get::<Option<i64>, _>("until_us")?.map(micros).transpose()?,
    })
}

/// Ends the doubt about what followed an attempt ([`LostAttempt::followed_until`]); `false` when there was none.
///
/// # Errors
/// [`StoreError::Fenced`] when the lease is over.
pub async fn end_doubt(
    conn: &mut PgConnection,
    lease: &Lease,
    key: (i64, i32, i16),
) -> Result<bool, StoreError> {
    let ended = sqlx::query_scalar("SELECT end_doubt($1, $2, $3, $4, $5, $6)");
    let ended = ended.bind(lease.slot).bind(lease.incarnation).bind(lease.epoch);
    Ok(ended.bind(key.0).bind(key.1).bind(key.2).fetch_one(conn).await?)
}

/// What an attempt's amount counts against: the subscriber, and its local day, week and month.
pub type CapDay = (i64, [i32; 3]);

/// Makes a lost attempt's intent durable again: [`Verdict::Ok`] when it is here, [`Verdict::FinalSame`] when it is
/// listed or settled besides, [`Verdict::StaleRev`] while its turn has not come.
///
/// # Errors
/// [`StoreError::Fenced`] when the lease is over.
pub async fn restore_lost(
    conn: &mut PgConnection,
    lease: &Lease,
    key: (i64, i32, i16),
    cap: Option<CapDay>,
) -> Result<Verdict, StoreError> {
    let (subscriber_id, [day, week, month]) = cap.unwrap_or_default();
    let verdict: i16 = sqlx::query_scalar("SELECT restore_lost($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)")
        .bind(lease.slot)
        .bind(lease.incarnation)
        .bind(lease.epoch)
        .bind(key.0)
        .bind(key.1)
        .bind(key.2)
        .bind(day)
        .bind(subscriber_id)
        .bind(week)
        .bind(month)
        .fetch_one(conn)
        .await?;
    Ok(Verdict::from_number(verdict))
}
