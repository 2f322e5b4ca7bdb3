//! Reading for people: `charge list` and `show`, `sub show`, `status`. Never on the hot path.

use sqlx::Row;
use sqlx::postgres::PgConnection;

use super::StoreError;

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
                coalesce(o.carrier_code, n.carrier_code), coalesce(o.carrier_txn_id, n.carrier_txn_id)
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
                    (ARRAY['receivable', 'payable', 'suspense'])[a.purpose] AS name
               FROM account a
               LEFT JOIN carrier c ON a.owner_kind = 1 AND c.carrier_no = a.owner_id
               LEFT JOIN merchant m ON a.owner_kind = 2 AND m.merchant_no = a.owner_id)
         SELECT t.attempt_no, t.leg, d.name, k.name, t.amount, t.asset, t.business_date
           FROM transfer t JOIN named d ON d.id = t.debit_account JOIN named k ON k.id = t.credit_account
          WHERE t.source_id = $1 AND t.period = $2 ORDER BY t.attempt_no, t.leg DESC",
    )
    .bind(subscription_id)
    .bind(period)
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
