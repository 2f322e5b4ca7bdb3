//! Charges with rows of their own: what fires, what is owed, what an attempt was for.

use std::collections::HashMap;

use billing_core::ids::{ChargeId, Shard, SubscriptionId};
use billing_core::period::Period;
use billing_core::states::{ChargeState, from_number};
use billing_core::subscription::{Aside, Held, NextKind, OpenAttempt};
use jiff::Timestamp;
use sqlx::postgres::PgConnection;

use super::StoreError;
use super::load::{WheelEntry, kind_charges};

row! {
    /// A charge's own row as the database keeps it.
    pub struct AsideRow {
        /// Whose.
        pub subscription_id: i64,
        /// Of which period.
        pub period: i32,
        /// What it costs, minor units.
        pub due_minor: i64,
        /// What was collected, minor units.
        pub collected_minor: i64,
        /// What was given back, minor units.
        pub refunded_minor: i64,
        /// What the carrier took back, minor units.
        pub reversed_minor: i64,
        /// Its last attempt.
        pub attempt_no: i16,
        /// Round of its dunning schedule.
        pub round: i16,
        /// Step of the ladder.
        pub step: i16,
        /// Whether that attempt is open.
        pub open: i16,
        /// Where it stands.
        pub state: i16,
        /// When it fires, business milliseconds.
        pub next_at_ms: Option<i64>,
        /// Why it fires.
        pub next_kind: i16,
        /// From when on nothing more is tried, business milliseconds.
        pub expires_at_ms: Option<i64>,
        /// ISO 4217 numeric.
        pub currency: i16,
    }
}

impl AsideRow {
    /// The row as the decisions see it.
    ///
    /// # Errors
    /// What cannot be read of it: a case for people.
    pub fn aside(&self) -> Result<Aside, String> {
        let text = |error: &dyn std::fmt::Display| format!("the row of charge {}: {error}", self.period);
        let instant =
            |ms: Option<i64>| ms.map(Timestamp::from_millisecond).transpose().map_err(|error| text(&error));
        let period = Period::from_number(self.period).map_err(|error| text(&error))?;
        Ok(Aside {
            charge: ChargeId { subscription: SubscriptionId(self.subscription_id), period },
            due_minor: self.due_minor,
            collected_minor: self.collected_minor,
            refunded_minor: self.refunded_minor,
            reversed_minor: self.reversed_minor,
            attempt_no: self.attempt_no,
            round: self.round,
            step: self.step,
            open: OpenAttempt::from_number(self.open).ok_or_else(|| text(&"no such kind of open attempt"))?,
            state: from_number::<ChargeState>(self.state).ok_or_else(|| text(&"no such state"))?,
            next_at: instant(self.next_at_ms)?,
            next_kind: NextKind::from_number(self.next_kind)
                .ok_or_else(|| text(&"no such kind of instant"))?,
            expires_at: instant(self.expires_at_ms)?,
        })
    }
}

/// One keyset chunk of a shard's charges with rows of their own that fire before `horizon_ms`, and the id to go on after
/// (`None`: done).
///
/// # Errors
/// [`StoreError`] when the database is away.
pub async fn refill_asides(
    conn: &mut PgConnection,
    shard: Shard,
    after_id: i64,
    horizon_ms: i64,
    limit: i32,
) -> Result<(Vec<WheelEntry>, Option<i64>), StoreError> {
    let (_, last) = shard.id_range();
    let rows: Vec<(i64, i64, i16, i32, i16)> = sqlx::query_as(
        "SELECT a.id, a.at_ms, a.kind, s.plan_no, s.zone_no
           FROM (SELECT subscription_id AS id, min(next_at_ms) AS at_ms,
                        (array_agg(next_kind ORDER BY next_at_ms, period))[1] AS kind
                   FROM charge_aside
                  WHERE subscription_id > $1 AND subscription_id <= $2 AND next_at_ms IS NOT NULL
                  GROUP BY subscription_id ORDER BY subscription_id LIMIT $3) AS a
           JOIN subscription s ON s.id = a.id
          ORDER BY a.id",
    )
    .bind(after_id)
    .bind(last)
    .bind(limit)
    .fetch_all(conn)
    .await?;
    let full = i64::try_from(rows.len()).unwrap_or(i64::MAX) == i64::from(limit);
    let next = rows.last().map(|(id, ..)| *id).filter(|_| full);
    let fires = rows.into_iter().filter(|(_, at_ms, ..)| *at_ms < horizon_ms);
    let entries = fires.map(|(id, at_ms, kind, plan_no, zone_no)| WheelEntry {
        id,
        at_ms,
        plan_no,
        zone_no,
        charges: kind_charges(kind),
    });
    Ok((entries.collect(), next))
}

/// The rows of these subscriptions that fire until `now_ms`, the oldest period first.
///
/// # Errors
/// [`StoreError`] when the database is away.
pub async fn due_asides(
    conn: &mut PgConnection,
    ids: &[i64],
    now_ms: i64,
) -> Result<Vec<AsideRow>, StoreError> {
    let rows = sqlx::query_as(
        "SELECT * FROM charge_aside WHERE subscription_id = ANY ($1) AND next_at_ms <= $2
          ORDER BY subscription_id, period",
    );
    Ok(rows.bind(ids).bind(now_ms).fetch_all(conn).await?)
}

/// The rows of these charges (subscriptions and periods, one by one).
///
/// # Errors
/// [`StoreError`] when the database is away.
pub async fn load_asides(conn: &mut PgConnection, keys: &[(i64, i32)]) -> Result<Vec<AsideRow>, StoreError> {
    let rows = sqlx::query_as(
        "SELECT c.* FROM charge_aside c JOIN unnest($1, $2) AS k (id, period)
             ON c.subscription_id = k.id AND c.period = k.period",
    );
    let (ids, periods): (Vec<i64>, Vec<i32>) = keys.iter().copied().unzip();
    Ok(rows.bind(ids).bind(periods).fetch_all(conn).await?)
}

/// The latest rows of one subscription, the latest period first.
///
/// # Errors
/// [`StoreError`] when the database is away.
pub async fn asides_of(
    conn: &mut PgConnection,
    subscription_id: i64,
    limit: i64,
) -> Result<Vec<AsideRow>, StoreError> {
    let rows =
        sqlx::query_as("SELECT * FROM charge_aside WHERE subscription_id = $1 ORDER BY period DESC LIMIT $2");
    Ok(rows.bind(subscription_id).bind(limit).fetch_all(conn).await?)
}

/// What these subscriptions owe in arrears; those that owe nothing are not in it.
///
/// # Errors
/// [`StoreError`] when the database is away.
pub async fn load_held(conn: &mut PgConnection, ids: &[i64]) -> Result<HashMap<i64, Held>, StoreError> {
    let rows: Vec<(i64, i64, i64)> = sqlx::query_as(
        "SELECT subscription_id, count(*), sum(due_minor - collected_minor)::bigint FROM charge_aside
          WHERE subscription_id = ANY ($1) AND state = $2 GROUP BY subscription_id",
    )
    .bind(ids)
    .bind(ChargeState::Arrears as i16)
    .fetch_all(conn)
    .await?;
    let held =
        |(id, count, owed_minor)| (id, Held { count: i16::try_from(count).unwrap_or(i16::MAX), owed_minor });
    Ok(rows.into_iter().map(held).collect())
}
