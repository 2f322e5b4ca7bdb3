//! Everything that the tables keep of one charge.

use billing_core::ledger::Purpose;
use sqlx::Row;
use sqlx::postgres::PgConnection;

use super::super::StoreError;

/// An attempt with what became of it.
#[derive(Debug, Clone)]
pub struct AttemptRow {
    /// Its number.
    pub attempt_no: i16,
    /// Asked for, minor units.
    pub amount_minor: i64,
    /// ISO 4217 numeric.
    pub currency: i16,
    /// Round of the dunning schedule.
    pub round: i16,
    /// Step of the ladder.
    pub step: i16,
    /// Business time of the intent, milliseconds.
    pub intent_business_ms: i64,
    /// Machine time of the intent, microseconds.
    pub intent_at_us: i64,
    /// The rule that decided to send.
    pub intent_rule: i16,
    /// The book version.
    pub book_version: i32,
    /// Who sent.
    pub incarnation: i64,
    /// The state: a final's class, or 2 accepted, 3 unknown, 4 in review; 1 while only the intent exists.
    pub state: i16,
    /// The outcome's detail.
    pub reason: Option<i16>,
    /// What moved, minor units.
    pub moved_minor: Option<i64>,
    /// Business time of the decision, milliseconds.
    pub decided_business_ms: Option<i64>,
    /// First byte to answer.
    pub latency_us: Option<i32>,
    /// The rule that decided on the answer.
    pub outcome_rule: Option<i16>,
    /// Where the charge stood then.
    pub charge_state: Option<i16>,
    /// The carrier's own code.
    pub carrier_code: Option<String>,
    /// The carrier's own id.
    pub carrier_txn_id: Option<String>,
    /// What the carrier was asked to do (`Op` as a number).
    pub op: i16,
    /// Business time from which on it might be sent, milliseconds.
    pub not_before_ms: i64,
    /// Business time from which on it might no longer be sent, milliseconds.
    pub not_after_ms: i64,
    /// Since when it is open, microseconds; `None` when it is not.
    pub open_since_us: Option<i64>,
    /// An accepted attempt's deadline, business milliseconds.
    pub deadline_ms: Option<i64>,
    /// The attempt that a confirm, a cancel or a refund is about; 0 for none.
    pub parent_no: i16,
}

/// All attempts of a charge.
///
/// # Errors
/// [`StoreError`] when the database is away.
pub async fn attempts(
    conn: &mut PgConnection,
    subscription_id: i64,
    period: i32,
) -> Result<Vec<AttemptRow>, StoreError> {
    let rows = sqlx::query(
        "SELECT i.attempt_no, i.amount_minor, i.currency, i.round, i.step, i.business_at_ms,
                (extract(epoch FROM i.intent_at) * 1000000)::bigint, i.rule_id, i.book_version, i.incarnation,
                coalesce(o.class, n.kind + 1, 1)::int2, coalesce(o.reason, n.reason), o.moved_minor, o.business_at_ms,
                o.latency_us, coalesce(o.rule_id, n.rule_id), o.charge_state,
                coalesce(o.carrier_code, n.carrier_code), coalesce(o.carrier_txn_id, n.carrier_txn_id),
                i.op, i.not_before_ms, i.not_after_ms,
                CASE WHEN o.class IS NULL THEN (extract(epoch FROM n.since) * 1000000)::bigint END,
                CASE WHEN o.class IS NULL THEN n.deadline_at_ms END, i.parent_no
           FROM attempt_intent i
           LEFT JOIN attempt_outcome o
                  ON o.subscription_id = i.subscription_id AND o.period = i.period AND o.attempt_no = i.attempt_no
           LEFT JOIN attempt_open n
                  ON n.subscription_id = i.subscription_id AND n.period = i.period AND n.attempt_no = i.attempt_no
          WHERE i.subscription_id = $1 AND i.period = $2 ORDER BY i.attempt_no",
    )
    .bind(subscription_id)
    .bind(period)
    .fetch_all(conn)
    .await?;
    rows.iter()
        .map(|row| {
            Ok(AttemptRow {
                attempt_no: row.try_get(0)?,
                amount_minor: row.try_get(1)?,
                currency: row.try_get(2)?,
                round: row.try_get(3)?,
                step: row.try_get(4)?,
                intent_business_ms: row.try_get(5)?,
                intent_at_us: row.try_get(6)?,
                intent_rule: row.try_get(7)?,
                book_version: row.try_get(8)?,
                incarnation: row.try_get(9)?,
                state: row.try_get(10)?,
                reason: row.try_get(11)?,
                moved_minor: row.try_get(12)?,
                decided_business_ms: row.try_get(13)?,
                latency_us: row.try_get(14)?,
                outcome_rule: row.try_get(15)?,
                charge_state: row.try_get(16)?,
                carrier_code: row.try_get(17)?,
                carrier_txn_id: row.try_get(18)?,
                op: row.try_get(19)?,
                not_before_ms: row.try_get(20)?,
                not_after_ms: row.try_get(21)?,
                open_since_us: row.try_get(22)?,
                deadline_ms: row.try_get(23)?,
                parent_no: row.try_get(24)?,
            })
        })
        .collect()
}

/// A transfer of a charge.
#[derive(Debug, Clone)]
pub struct TransferRow {
    /// The attempt that posted it.
    pub attempt_no: i16,
    /// Its kind.
    pub leg: i16,
    /// Debited account: `carrier medina receivable`.
    pub debit: String,
    /// Credited account.
    pub credit: String,
    /// Minor units.
    pub amount: i64,
    /// ISO 4217 numeric.
    pub asset: i16,
    /// Days since 2000-01-01.
    pub business_date: i32,
}

/// All transfers of a charge.
///
/// # Errors
/// [`StoreError`] when the database is away.
pub async fn transfers(
    conn: &mut PgConnection,
    subscription_id: i64,
    period: i32,
) -> Result<Vec<TransferRow>, StoreError> {
    let rows = sqlx::query(
        "WITH named AS (
             SELECT a.id, CASE a.owner_kind WHEN 1 THEN 'carrier ' || c.id ELSE 'merchant ' || m.id END || ' ' ||
                    ($3::text[])[a.purpose] AS name
               FROM account a
               LEFT JOIN carrier c ON a.owner_kind = 1 AND c.carrier_no = a.owner_id
               LEFT JOIN merchant m ON a.owner_kind = 2 AND m.merchant_no = a.owner_id)
         SELECT t.attempt_no, t.leg, d.name, k.name, t.amount, t.asset, t.business_date
           FROM transfer t JOIN named d ON d.id = t.debit_account JOIN named k ON k.id = t.credit_account
          WHERE t.source_id = $1 AND t.period = $2 ORDER BY t.attempt_no, t.leg DESC",
    )
    .bind(subscription_id)
    .bind(period)
    .bind(Purpose::ALL.map(|purpose| Purpose::name_of(purpose as i16)))
    .fetch_all(conn)
    .await?;
    rows.iter()
        .map(|row| {
            Ok(TransferRow {
                attempt_no: row.try_get(0)?,
                leg: row.try_get(1)?,
                debit: row.try_get(2)?,
                credit: row.try_get(3)?,
                amount: row.try_get(4)?,
                asset: row.try_get(5)?,
                business_date: row.try_get(6)?,
            })
        })
        .collect()
}

row! {
    /// Something that happened to a charge without an attempt.
    pub struct NoteRow {
        /// The subscription's `rev` before the change; the history keeps it as the row's `seq`.
        pub rev: i32,
        /// Its kind (`NoteKind` as a number).
        pub kind: i16,
        /// Where the charge stood afterwards.
        pub charge_state: i16,
        /// The rule that decided.
        pub rule_id: i16,
        /// Until when, business milliseconds, for a deferral.
        pub until_ms: Option<i64>,
        /// Business time, milliseconds.
        pub business_at_ms: i64,
        /// Machine time, microseconds.
        pub at_us: i64,
    }
}

/// All notes of a charge.
///
/// # Errors
/// [`StoreError`] when the database is away.
pub async fn notes(
    conn: &mut PgConnection,
    subscription_id: i64,
    period: i32,
) -> Result<Vec<NoteRow>, StoreError> {
    let rows = sqlx::query_as(
        "SELECT rev, kind, charge_state, rule_id, until_ms, business_at_ms,
                (extract(epoch FROM at) * 1000000)::bigint AS at_us
           FROM charge_note WHERE subscription_id = $1 AND period = $2 ORDER BY rev",
    );
    Ok(rows.bind(subscription_id).bind(period).fetch_all(conn).await?)
}

row! {
    /// What the subscriber may use because of an attempt.
    pub struct GrantRow {
        /// The attempt.
        pub attempt_no: i16,
        /// From when, business milliseconds.
        pub from_ms: i64,
        /// Until when, business milliseconds; `None` for good.
        pub until_ms: Option<i64>,
    }
}

/// All grants of a charge.
///
/// # Errors
/// [`StoreError`] when the database is away.
pub async fn grants(
    conn: &mut PgConnection,
    subscription_id: i64,
    period: i32,
) -> Result<Vec<GrantRow>, StoreError> {
    let rows = sqlx::query_as(
        "SELECT attempt_no, from_ms, until_ms FROM entitlement_grant
          WHERE subscription_id = $1 AND period = $2 ORDER BY attempt_no",
    );
    Ok(rows.bind(subscription_id).bind(period).fetch_all(conn).await?)
}

row! {
    /// A case for people.
    pub struct CaseRow {
        /// Its number.
        pub id: i64,
        /// Machine time, microseconds.
        pub opened_at_us: i64,
        /// The charge's period, where it is about one.
        pub period: Option<i32>,
        /// The attempt, where it is about one.
        pub attempt_no: Option<i16>,
        /// `quarantine`, `late_evidence`, ...
        pub kind: String,
        /// What people must look at.
        pub what: String,
    }
}

/// The cases of a subscription, newest first, at most `limit`.
///
/// # Errors
/// [`StoreError`] when the database is away.
pub async fn cases(
    conn: &mut PgConnection,
    subscription_id: i64,
    limit: i64,
) -> Result<Vec<CaseRow>, StoreError> {
    let rows = sqlx::query_as(
        "SELECT id, (extract(epoch FROM opened_at) * 1000000)::bigint AS opened_at_us, period, attempt_no, kind, what
           FROM case_file WHERE subscription_id = $1 ORDER BY id DESC LIMIT $2",
    );
    Ok(rows.bind(subscription_id).bind(limit).fetch_all(conn).await?)
}

row! {
    /// One life of a worker process.
    pub struct IncarnationRow {
        /// Random per life.
        pub incarnation: i64,
        /// Its slot.
        pub slot: i32,
        /// Its epoch.
        pub epoch: i32,
        /// On which host.
        pub host: String,
        /// Where its spool lies.
        pub spool: String,
        /// Where it answered.
        pub endpoint: String,
        /// Machine time, microseconds.
        pub started_at_us: i64,
        /// Machine time, microseconds; `None` while it lives.
        pub fenced_at_us: Option<i64>,
    }
}

/// These lives of worker processes, as far as they are known.
///
/// # Errors
/// [`StoreError`] when the database is away.
pub async fn incarnations(
    conn: &mut PgConnection,
    incarnations: &[i64],
) -> Result<Vec<IncarnationRow>, StoreError> {
    let rows = sqlx::query_as(
        "SELECT incarnation, slot, epoch, host, spool, endpoint,
                (extract(epoch FROM started_at) * 1000000)::bigint AS started_at_us,
                (extract(epoch FROM fenced_at) * 1000000)::bigint AS fenced_at_us
           FROM worker_incarnation WHERE incarnation = ANY ($1)",
    );
    Ok(rows.bind(incarnations).fetch_all(conn).await?)
}

/// The files of a book version as JSON (`{"path": "text"}`); `None` when there is no such version.
///
/// # Errors
/// [`StoreError`] when the database is away.
pub async fn book_files(conn: &mut PgConnection, version: i32) -> Result<Option<String>, StoreError> {
    let files = sqlx::query_scalar("SELECT files::text FROM book_version WHERE version = $1");
    Ok(files.bind(version).fetch_optional(conn).await?)
}
