//! What merchants are told: read without taking, or taken once for good.
//!
//! Within a subscription events are in the sequence of their revisions: its commits follow one another, so a later
//! revision has a later outbox row. One consumer of a merchant takes at a time; two would tear that sequence apart.

use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{Connection, Row};

use super::StoreError;

/// The most events of one call.
pub const EVENTS_MAX: i32 = 10_000;

/// An event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventRow {
    /// Which outbox row it is in, and where in it (from 1).
    pub place: (i64, i64),
    /// The merchant's id.
    pub merchant: String,
    /// Whose.
    pub subscription_id: i64,
    /// The subscription's revision after the change: within a subscription it tells the sequence.
    pub rev: i32,
    /// Which charge.
    pub period: i32,
    /// [`billing_core::decide::Event`].
    pub event: i16,
    /// What moved, minor units.
    pub amount_minor: i64,
    /// ISO 4217 numeric.
    pub currency: i16,
    /// Business milliseconds.
    pub business_at_ms: i64,
}

/// Events in the sequence of the outbox, none of them taken.
///
/// # Errors
/// [`StoreError`] when the database is away.
pub async fn peek_events(
    conn: &mut PgConnection,
    merchant: Option<&str>,
    limit: i32,
) -> Result<Vec<EventRow>, StoreError> {
    let rows = rows_that_hold(conn, merchant, limit, false).await?;
    read(conn, &rows, limit).await
}

/// Events that are being taken: gone for good with [`Taking::acknowledge`], back when dropped.
#[derive(Debug)]
pub struct Taking<'c> {
    tx: sqlx::Transaction<'c, sqlx::Postgres>,
    /// The events.
    pub events: Vec<EventRow>,
}

impl<'c> Taking<'c> {
    /// Claims up to `limit` events of a merchant (or of all); `None` when another consumer takes just now.
    ///
    /// # Errors
    /// [`StoreError`] when the database is away.
    pub async fn begin(
        conn: &'c mut PgConnection,
        merchant: Option<&str>,
        limit: i32,
    ) -> Result<Option<Self>, StoreError> {
        let mut tx = conn.begin().await?;
        let alone: bool =
            sqlx::query_scalar("SELECT pg_try_advisory_xact_lock(7130007)").fetch_one(&mut *tx).await?;
        if !alone {
            return Ok(None);
        }
        let rows = rows_that_hold(&mut tx, merchant, limit, true).await?;
        let events = read(&mut tx, &rows, limit).await?;
        Ok(Some(Self { tx, events }))
    }

    /// They were received: deletes them. Of a row that was not given whole the rest stays.
    ///
    /// # Errors
    /// [`StoreError`] when the database is away: whether they are gone is unknown, and they may come again.
    pub async fn acknowledge(mut self) -> Result<(), StoreError> {
        let Some(last) = self.events.last().map(|event| event.place) else { return Ok(()) };
        let mut whole: Vec<i64> = self.events.iter().map(|event| event.place.0).collect();
        whole.dedup();
        whole.retain(|id| *id != last.0);
        sqlx::query("DELETE FROM outbox WHERE id = ANY ($1)").bind(&whole).execute(&mut *self.tx).await?;
        let deleted = sqlx::query("DELETE FROM outbox WHERE id = $1 AND cardinality(revs) <= $2")
            .bind(last.0)
            .bind(last.1)
            .execute(&mut *self.tx)
            .await?;
        if deleted.rows_affected() == 0 {
            sqlx::query(
                "UPDATE outbox SET subscription_ids = subscription_ids[$2 + 1:], amounts = amounts[$2 + 1:],
                        periods = periods[$2 + 1:], revs = revs[$2 + 1:], events = events[$2 + 1:] WHERE id = $1",
            )
            .bind(last.0)
            .bind(i32::try_from(last.1).unwrap_or(i32::MAX))
            .execute(&mut *self.tx)
            .await?;
        }
        self.tx.commit().await?;
        Ok(())
    }
}

/// The outbox rows that hold the next events; every row has at least one.
async fn rows_that_hold(
    conn: &mut PgConnection,
    merchant: Option<&str>,
    limit: i32,
    claim: bool,
) -> Result<Vec<i64>, StoreError> {
    let rows = sqlx::query_scalar(
        "SELECT id FROM (
             SELECT id, sum(held) OVER (ORDER BY id) - held AS before
               FROM (SELECT id, cardinality(revs) AS held FROM outbox
                      WHERE $1::text IS NULL OR merchant_no = (SELECT merchant_no FROM merchant WHERE id = $1)
                      ORDER BY id LIMIT $2) AS next) AS counted
          WHERE before < $2 ORDER BY id",
    );
    let rows: Vec<i64> = rows.bind(merchant).bind(limit).fetch_all(&mut *conn).await?;
    if !claim {
        return Ok(rows);
    }
    let claimed =
        sqlx::query_scalar("SELECT id FROM outbox WHERE id = ANY ($1) ORDER BY id FOR UPDATE SKIP LOCKED");
    Ok(claimed.bind(&rows).fetch_all(conn).await?)
}

async fn read(conn: &mut PgConnection, ids: &[i64], limit: i32) -> Result<Vec<EventRow>, StoreError> {
    let rows = sqlx::query(
        "SELECT o.id, e.place, m.id, e.subscription_id, e.rev, e.period, e.event, e.amount, c.currency, o.business_at_ms
           FROM outbox o JOIN merchant m USING (merchant_no)
          CROSS JOIN LATERAL unnest(o.subscription_ids, o.revs, o.periods, o.events, o.amounts)
                WITH ORDINALITY AS e (subscription_id, rev, period, event, amount, place)
           JOIN carrier c ON c.carrier_no = (e.subscription_id >> 44)::int
          WHERE o.id = ANY ($1) ORDER BY o.id, e.place LIMIT $2",
    )
    .bind(ids)
    .bind(limit)
    .fetch_all(conn)
    .await?;
    let event = |row: &PgRow| -> Result<EventRow, sqlx::Error> {
        Ok(EventRow {
            place: (row.try_get(0)?, row.try_get(1)?),
            merchant: row.try_get(2)?,
            subscription_id: row.try_get(3)?,
            rev: row.try_get(4)?,
            period: row.try_get(5)?,
            event: row.try_get(6)?,
            amount_minor: row.try_get(7)?,
            currency: row.try_get(8)?,
            business_at_ms: row.try_get(9)?,
        })
    };
    Ok(rows.iter().map(event).collect::<Result<_, _>>()?)
}
