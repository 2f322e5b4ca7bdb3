//! Spending caps: what a batch reserves of them and gives back, and what a subscriber's counters say.

use billing_core::plan::{CapDays, Caps, Usage};
use sqlx::postgres::PgConnection;

use super::StoreError;

/// What an intent counts against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CapRow {
    /// Whose counters; a batch holds one row per subscriber.
    pub subscriber_id: i64,
    /// The local day, week and month.
    pub days: CapDays,
    /// The limits.
    pub caps: Caps,
}

/// Capped rows of a batch of intents, as columns.
#[derive(Debug, Default)]
pub(super) struct CapColumns {
    pub(super) places: Vec<i32>,
    pub(super) subscribers: Vec<i64>,
    pub(super) weeks: Vec<i32>,
    pub(super) months: Vec<i32>,
    pub(super) minors: [Vec<i64>; 3],
    pub(super) requests: [Vec<i32>; 3],
}

impl CapColumns {
    pub(super) fn push(&mut self, place: i32, row: &CapRow) {
        let [_, week, month] = row.days.0;
        self.places.push(place);
        self.subscribers.push(row.subscriber_id);
        self.weeks.push(week);
        self.months.push(month);
        for (column, limit) in self.minors.iter_mut().zip(row.caps.minor) {
            column.push(limit);
        }
        for (column, limit) in self.requests.iter_mut().zip(row.caps.requests) {
            column.push(limit);
        }
    }
}

/// An attempt that gives back what it had reserved of its subscriber's caps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GiveBack {
    /// Whose counters.
    pub subscriber_id: i64,
    /// Which attempt of the row's period.
    pub attempt_no: i16,
    /// What was collected of it after all, minor units.
    pub kept_minor: i64,
    /// Whether not even a request was made.
    pub request: bool,
}

/// What attempts give back, as columns.
#[derive(Debug, Default)]
pub(super) struct GiveBackColumns {
    pub(super) places: Vec<i32>,
    pub(super) subscribers: Vec<i64>,
    pub(super) attempt_nos: Vec<i16>,
    pub(super) kept: Vec<i64>,
    pub(super) requests: Vec<i32>,
}

impl GiveBackColumns {
    pub(super) fn push(&mut self, place: i32, row: &GiveBack) {
        self.places.push(place);
        self.subscribers.push(row.subscriber_id);
        self.attempt_nos.push(row.attempt_no);
        self.kept.push(row.kept_minor);
        self.requests.push(i32::from(row.request));
    }
}

/// The counters of these subscribers in their currencies, over all their plans. A subscriber without a row has none.
///
/// # Errors
/// [`StoreError`] when the database is away.
pub async fn usage_of(
    conn: &mut PgConnection,
    subscriber_ids: &[i64],
) -> Result<Vec<((i64, i16), Usage)>, StoreError> {
    type Row = (i64, i16, i32, i64, i32, i32, i64, i32, i32, i64, i32);
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT subscriber_id, currency, day, day_minor, day_requests, week, week_minor, week_requests, month, month_minor,
                month_requests
           FROM subscriber_usage WHERE subscriber_id = ANY ($1) AND scope = 1",
    )
    .bind(subscriber_ids)
    .fetch_all(conn)
    .await?;
    let usage = |row: Row| {
        let (
            id,
            currency,
            day,
            day_minor,
            day_requests,
            week,
            week_minor,
            week_requests,
            month,
            minor,
            requests,
        ) = row;
        let usage = Usage {
            days: CapDays([day, week, month]),
            minor: [day_minor, week_minor, minor],
            requests: [day_requests, week_requests, requests],
        };
        ((id, currency), usage)
    };
    Ok(rows.into_iter().map(usage).collect())
}
