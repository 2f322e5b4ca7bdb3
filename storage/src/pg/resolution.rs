//! The resolution of UNKNOWN: which attempts are to be looked at, and what was asked about them. Only the shard's owner
//! writes, under its fence.

use billing_core::outcome::{Op, Outcome};
use billing_core::period::Period;
use billing_core::resolve::{Ask, AskKind, Finding};
use billing_core::subscription::Planned;
use jiff::Timestamp;
use sqlx::Row;
use sqlx::postgres::{PgConnection, PgRow};

use super::StoreError;
use super::workers::Lease;
use crate::story::StoryOutcome;

/// Which attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AttemptKey {
    /// Whose charge.
    pub subscription_id: i64,
    /// Of which period.
    pub period: i32,
    /// Its number.
    pub attempt_no: i16,
}

/// An UNKNOWN attempt that is to be looked at. All instants by the database's clock.
#[derive(Debug, Clone)]
pub struct DueAsk {
    /// Now.
    pub now: Timestamp,
    /// Which attempt.
    pub key: AttemptKey,
    /// The attempt as its intent keeps it.
    pub planned: Planned,
    /// ISO 4217 numeric.
    pub currency: i16,
    /// The version of the book under which it was sent.
    pub book_version: i32,
    /// Business time of its intent: what the times inside its request are made of.
    pub business_at: Timestamp,
    /// Digest of its money fields.
    pub digest: [u8; 16],
    /// When the intent became durable.
    pub intent_at: Timestamp,
    /// Since when it is listed.
    pub since: Timestamp,
    /// Why it is unknown ([`Outcome::reason`]).
    pub reason: i16,
    /// The carrier's own id, where an answer named one.
    pub carrier_txn_id: Option<String>,
    /// The incarnation that sent it.
    pub sender: i64,
    /// When that one was fenced.
    pub sender_fenced_at: Option<Timestamp>,
    /// When the same request was last sent again, or that was answered.
    pub last_write_at: Option<Timestamp>,
    /// By which incarnation.
    pub last_writer: Option<i64>,
    /// When that one was fenced.
    pub writer_fenced_at: Option<Timestamp>,
    /// When the last failover since its intent was found: repeats of before may be lost, and on their way.
    pub failed_over_at: Option<Timestamp>,
    /// Repeats and questions so far; more than `asks.len()`: somebody died over one.
    pub asked: i16,
    /// The subscription's flags.
    pub flags: i32,
    /// From this business instant on the subscriber agrees no more (milliseconds): STOP, or the end of consent.
    pub agreed_until_ms: Option<i64>,
    /// After a failover a repeat may be a first sending: nobody knows whether it was ever sent and held against the caps, or a
    /// later attempt of the charge was sent, so that this one was settled once.
    pub no_repeat: bool,
    /// What was asked and what it brought, oldest first.
    pub asks: Vec<Ask>,
}

/// What a question or a repeat brought.
#[derive(Debug, Clone)]
pub struct NewAsk {
    /// Its number, from 1.
    pub ask_no: i16,
    /// Which kind.
    pub kind: AskKind,
    /// When it was decided, by the database's clock.
    pub asked_at: Timestamp,
    /// What it brought.
    pub finding: Finding,
    /// What was read in the answer.
    pub outcome: Outcome,
    /// The rule that says how much of it counts.
    pub rule: i16,
    /// When it is looked at again, milliseconds from now on.
    pub next_ms: i64,
    /// The carrier's own id, where the answer named one.
    pub carrier_txn_id: Option<String>,
    /// Where it settles the attempt: what the inbox is told.
    pub evidence: Option<Vec<u8>>,
}

/// UNKNOWN attempts of these shards that are due, so many per carrier.
///
/// # Errors
/// [`StoreError`] when the database is away, [`StoreError::Broken`] when a row cannot be read.
pub async fn due_asks(
    conn: &mut PgConnection,
    shards: &[i32],
    rooms: &[(i32, i32)],
) -> Result<Vec<DueAsk>, StoreError> {
    let (carriers, limits): (Vec<i32>, Vec<i32>) = rooms.iter().copied().unzip();
    let rows = sqlx::query("SELECT * FROM due_asks($1, $2, $3)")
        .bind(shards)
        .bind(carriers)
        .bind(limits)
        .fetch_all(conn)
        .await?;
    rows.iter().map(due_ask).collect()
}

fn broken(what: &dyn std::fmt::Display) -> StoreError {
    StoreError::Broken(format!("unknown attempt: {what}"))
}

fn due_ask(row: &PgRow) -> Result<DueAsk, StoreError> {
    let instant = |us: i64| Timestamp::from_microsecond(us).map_err(|error| broken(&error));
    let at = |name: &str| instant(row.try_get(name)?);
    let maybe = |name: &str| row.try_get::<Option<i64>, _>(name)?.map(instant).transpose();
    let business = |name: &str| {
        let ms: i64 = row.try_get(name)?;
        Timestamp::from_millisecond(ms).map_err(|error| broken(&error))
    };
    let (op, period): (i16, i32) = (row.try_get("op")?, row.try_get("period")?);
    let (hi, lo): (i64, i64) = (row.try_get("digest_hi")?, row.try_get("digest_lo")?);
    let digest = (u128::from(hi as u64) << 64 | u128::from(lo as u64)).to_be_bytes();
    let attempt_no = row.try_get("attempt_no")?;
    let planned = Planned {
        op: Op::from_number(op)
            .ok_or_else(|| broken(&format!("operation {op} is not one of this version")))?,
        period: Period::from_number(period).map_err(|error| broken(&error))?,
        attempt_no,
        parent_no: row.try_get("parent_no")?,
        amount_minor: row.try_get("amount_minor")?,
        round: row.try_get("round")?,
        step: row.try_get("step")?,
        not_before: business("not_before_ms")?,
        not_after: business("not_after_ms")?,
    };
    Ok(DueAsk {
        now: at("now_us")?,
        key: AttemptKey { subscription_id: row.try_get("subscription_id")?, period, attempt_no },
        planned,
        currency: row.try_get("currency")?,
        book_version: row.try_get("book_version")?,
        business_at: business("business_at_ms")?,
        digest,
        intent_at: at("intent_us")?,
        since: at("since_us")?,
        reason: row.try_get("reason")?,
        carrier_txn_id: row.try_get("carrier_txn_id")?,
        sender: row.try_get("sender")?,
        sender_fenced_at: maybe("sender_fenced_us")?,
        last_write_at: maybe("last_write_us")?,
        last_writer: row.try_get("last_writer")?,
        writer_fenced_at: maybe("writer_fenced_us")?,
        failed_over_at: maybe("failed_over_us")?,
        asked: row.try_get("asks")?,
        flags: row.try_get("flags")?,
        agreed_until_ms: row.try_get("agreed_until_ms")?,
        no_repeat: row.try_get("no_repeat")?,
        asks: asks_of(row)?,
    })
}

fn asks_of(row: &PgRow) -> Result<Vec<Ask>, StoreError> {
    let shorts = |name: &str| row.try_get::<Option<Vec<i16>>, _>(name).map(Option::unwrap_or_default);
    let longs = |name: &str| row.try_get::<Option<Vec<i64>>, _>(name).map(Option::unwrap_or_default);
    let (kinds, findings, reasons) = (shorts("ask_kinds")?, shorts("findings")?, shorts("reasons")?);
    let (asked, answered, moveds) = (longs("asked_us")?, longs("answered_us")?, longs("moveds")?);
    let told = findings.into_iter().zip(reasons).zip(moveds);
    let when = asked.into_iter().zip(answered);
    kinds
        .into_iter()
        .zip(when)
        .zip(told)
        .map(|((kind, (asked, answered)), ((finding, reason), moved_minor))| {
            ask_of(kind, [asked, answered], finding, reason, moved_minor)
        })
        .collect()
}

/// The number of [`Finding::Found`].
const FOUND: i16 = 1;

/// An ask of its kept numbers. `times_us`: when it was asked, when its answer was kept.
pub(crate) fn ask_of(
    kind: i16,
    times_us: [i64; 2],
    finding: i16,
    reason: i16,
    moved_minor: i64,
) -> Result<Ask, StoreError> {
    // Most asks found nothing: what was found is looked up only where something was.
    let outcome = || StoryOutcome { reason, moved_minor, listed: false, after_ms: None }.outcome();
    let outcome = if finding == FOUND { outcome() } else { None };
    let instant = |us: i64| Timestamp::from_microsecond(us).map_err(|error| broken(&error));
    Ok(Ask {
        kind: AskKind::from_number(kind).ok_or_else(|| broken(&format!("no kind of ask {kind}")))?,
        asked_at: instant(times_us[0])?,
        answered_at: instant(times_us[1])?,
        finding: Finding::from_number(finding, outcome)
            .ok_or_else(|| broken(&format!("no finding {finding} with reason {reason}")))?,
    })
}

/// Makes durable, in one commit, that these same requests are about to be sent again. Of each: `false`, it is not to be
/// sent.
///
/// # Errors
/// [`StoreError::Fenced`] when the lease is over; whatever the database refuses of one row, it refuses of all.
pub async fn begin_resends(
    conn: &mut PgConnection,
    lease: &Lease,
    resends: &[(AttemptKey, i16)],
) -> Result<Vec<bool>, StoreError> {
    let (ids, periods, numbers) = columns(resends.iter().map(|(key, _)| key));
    let asked: Vec<i16> = resends.iter().map(|(_, asked)| *asked).collect();
    let begun = sqlx::query_scalar(
        "SELECT begin_resend($1, $2, $3, id, period, attempt_no, asked)
           FROM unnest($4::bigint[], $5::int[], $6::int2[], $7::int2[])
                WITH ORDINALITY AS a (id, period, attempt_no, asked, place)
          ORDER BY place",
    );
    Ok(begun
        .bind(lease.slot)
        .bind(lease.incarnation)
        .bind(lease.epoch)
        .bind(ids)
        .bind(periods)
        .bind(numbers)
        .bind(asked)
        .fetch_all(conn)
        .await?)
}

/// Keeps, in one commit, what questions and repeats brought; evidence goes into the shard's inbox with it. Of each:
/// `false`, the shard is not ours, or the attempt is not unknown any more.
///
/// # Errors
/// [`StoreError::Fenced`] when the lease is over; whatever the database refuses of one row, it refuses of all.
pub async fn record_asks(
    conn: &mut PgConnection,
    lease: &Lease,
    asks: &[(AttemptKey, NewAsk)],
) -> Result<Vec<bool>, StoreError> {
    let (ids, periods, numbers) = columns(asks.iter().map(|(key, _)| key));
    let shorts = |of: fn(&NewAsk) -> i16| asks.iter().map(|(_, ask)| of(ask)).collect::<Vec<_>>();
    let longs = |of: fn(&NewAsk) -> i64| asks.iter().map(|(_, ask)| of(ask)).collect::<Vec<_>>();
    let txn_ids: Vec<Option<&str>> = asks.iter().map(|(_, ask)| ask.carrier_txn_id.as_deref()).collect();
    let evidence: Vec<Option<&[u8]>> = asks.iter().map(|(_, ask)| ask.evidence.as_deref()).collect();
    let kept = sqlx::query_scalar(
        "SELECT record_ask($1, $2, $3, id, period, attempt_no, ask_no, kind, asked_us, finding, reason, moved, rule,
                           next_ms, txn_id, evidence)
           FROM unnest($4::bigint[], $5::int[], $6::int2[], $7::int2[], $8::int2[], $9::bigint[], $10::int2[],
                       $11::int2[], $12::bigint[], $13::int2[], $14::bigint[], $15::text[], $16::bytea[])
                WITH ORDINALITY AS a (id, period, attempt_no, ask_no, kind, asked_us, finding, reason, moved, rule,
                                      next_ms, txn_id, evidence, place)
          ORDER BY place",
    );
    Ok(kept
        .bind(lease.slot)
        .bind(lease.incarnation)
        .bind(lease.epoch)
        .bind(ids)
        .bind(periods)
        .bind(numbers)
        .bind(shorts(|ask| ask.ask_no))
        .bind(shorts(|ask| ask.kind as i16))
        .bind(longs(|ask| ask.asked_at.as_microsecond()))
        .bind(shorts(|ask| ask.finding.number()))
        .bind(shorts(|ask| StoryOutcome::of(ask.outcome).reason))
        .bind(longs(|ask| StoryOutcome::of(ask.outcome).moved_minor))
        .bind(shorts(|ask| ask.rule))
        .bind(longs(|ask| ask.next_ms))
        .bind(txn_ids)
        .bind(evidence)
        .fetch_all(conn)
        .await?)
}

/// Says when these attempts are looked at next, milliseconds from now on.
///
/// # Errors
/// [`StoreError::Fenced`] when the lease is over.
pub async fn postpone_asks(
    conn: &mut PgConnection,
    lease: &Lease,
    asks: &[(AttemptKey, i64)],
) -> Result<(), StoreError> {
    let (ids, periods, numbers) = columns(asks.iter().map(|(key, _)| key));
    let next: Vec<i64> = asks.iter().map(|(_, next_ms)| *next_ms).collect();
    sqlx::query("SELECT postpone_asks($1, $2, $3, $4, $5, $6, $7)")
        .bind(lease.slot)
        .bind(lease.incarnation)
        .bind(lease.epoch)
        .bind(ids)
        .bind(periods)
        .bind(numbers)
        .bind(next)
        .execute(conn)
        .await?;
    Ok(())
}

/// Gives unknown attempts to the people, with the number of the rule that says why, in one commit. Of each: `false`, the
/// shard is not ours, or it is not unknown any more.
///
/// # Errors
/// [`StoreError::Fenced`] when the lease is over; whatever the database refuses of one row, it refuses of all.
pub async fn review_attempts(
    conn: &mut PgConnection,
    lease: &Lease,
    attempts: &[(AttemptKey, i16)],
) -> Result<Vec<bool>, StoreError> {
    let (ids, periods, numbers) = columns(attempts.iter().map(|(key, _)| key));
    let rules: Vec<i16> = attempts.iter().map(|(_, rule)| *rule).collect();
    let moved = sqlx::query_scalar(
        "SELECT review_attempt($1, $2, $3, id, period, attempt_no, rule)
           FROM unnest($4::bigint[], $5::int[], $6::int2[], $7::int2[])
                WITH ORDINALITY AS a (id, period, attempt_no, rule, place)
          ORDER BY place",
    );
    Ok(moved
        .bind(lease.slot)
        .bind(lease.incarnation)
        .bind(lease.epoch)
        .bind(ids)
        .bind(periods)
        .bind(numbers)
        .bind(rules)
        .fetch_all(conn)
        .await?)
}

/// The keys' columns: subscription, period, number.
fn columns<'a>(keys: impl Iterator<Item = &'a AttemptKey>) -> (Vec<i64>, Vec<i32>, Vec<i16>) {
    let (mut ids, mut periods, mut numbers) = (Vec::new(), Vec::new(), Vec::new());
    for key in keys {
        ids.push(key.subscription_id);
        periods.push(key.period);
        numbers.push(key.attempt_no);
    }
    (ids, periods, numbers)
}

/// How many attempts of these shards are unknown, by carrier.
///
/// # Errors
/// [`StoreError`] when the database is away.
pub async fn unknown_counts(conn: &mut PgConnection, shards: &[i32]) -> Result<Vec<(i32, i64)>, StoreError> {
    let counts = sqlx::query_as(
        "SELECT (subscription_id >> 44)::int, count(*) FROM attempt_open
          WHERE kind = 2 AND (subscription_id >> 32)::int = ANY ($1) GROUP BY 1",
    );
    Ok(counts.bind(shards).fetch_all(conn).await?)
}

/// Whether the same request was sent again under this key, or was about to be. The number of a repeat whose answer nobody kept is
/// missing among those that were. `repeats`: its carrier takes repeats, so that after a failover there may have been one whose
/// commits are lost.
///
/// # Errors
/// [`StoreError`] when the database is away.
pub async fn was_resent(
    conn: &mut PgConnection,
    subscription_id: i64,
    period: i32,
    attempt_no: i16,
    repeats: bool,
) -> Result<bool, StoreError> {
    let resent = sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM attempt_open WHERE subscription_id = $1 AND period = $2 AND attempt_no = $3
                           AND last_writer IS NOT NULL)
             OR EXISTS (SELECT FROM attempt_ask WHERE subscription_id = $1 AND period = $2 AND attempt_no = $3
                           AND kind = 1)
             OR (SELECT coalesce(max(ask_no), 0) > count(*) FROM attempt_ask
                  WHERE subscription_id = $1 AND period = $2 AND attempt_no = $3)
             OR $4 AND EXISTS (SELECT FROM attempt_intent i JOIN quarantine q ON q.found_at >= i.intent_at
                                WHERE i.subscription_id = $1 AND i.period = $2 AND i.attempt_no = $3)",
    );
    Ok(resent.bind(subscription_id).bind(period).bind(attempt_no).bind(repeats).fetch_one(conn).await?)
}
