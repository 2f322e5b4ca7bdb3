//! Our rows of one carrier in key sequence, a bounded chunk at a time.

use std::collections::{HashMap, VecDeque};

use sqlx::postgres::PgConnection;

/// Subscription, period, attempt number; 0 where a table has none.
pub(super) type Key = (i64, i32, i16);

/// A row of any of the tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) key: Key,
    pub(super) values: [i64; 3],
}

/// One table's rows of one carrier.
#[derive(Debug)]
pub(super) struct Chunks {
    sql: &'static str,
    after: Key,
    end: i64,
    rows: VecDeque<Row>,
    done: bool,
}

/// What people took into our books, or may: of the attempt that the carrier knows (subscription, period, number) the
/// class of the adoption's outcome and what moved; `None` while it is open. What is not ours is left out.
pub(super) async fn adoptions(
    conn: &mut PgConnection,
    carrier_no: i32,
) -> Result<HashMap<Key, Option<(i64, i64)>>, sqlx::Error> {
    type Adoption = (i64, i32, i16, Option<i64>, Option<i64>);
    let rows: Vec<Adoption> = sqlx::query_as(
        "SELECT i.subscription_id, i.period, i.parent_no, o.class::int8, o.moved_minor
           FROM attempt_intent i
           LEFT JOIN attempt_outcome o
             ON o.subscription_id = i.subscription_id AND o.period = i.period AND o.attempt_no = i.attempt_no
          WHERE i.op = 6 AND (o.class IS NULL OR o.class = 5)
            AND i.subscription_id >= $1::bigint << 44 AND i.subscription_id < ($1 + 1)::bigint << 44",
    )
    .bind(carrier_no)
    .fetch_all(conn)
    .await?;
    let held = |(id, period, parent_no, class, moved): Adoption| ((id, period, parent_no), class.zip(moved));
    Ok(rows.into_iter().map(held).collect())
}

// The limit stands in the text: with a parameter the planner expects a tenth of the table and sorts it.
const INTENTS: &str = "SELECT subscription_id, period, attempt_no, op::int8, amount_minor, currency::int8
   FROM attempt_intent WHERE (subscription_id, period, attempt_no) > ($1, $2, $3) AND subscription_id < $4
  ORDER BY subscription_id, period, attempt_no LIMIT 20000";
const OUTCOMES: &str = "SELECT subscription_id, period, attempt_no, class::int8, moved_minor, 0::int8
   FROM attempt_outcome WHERE (subscription_id, period, attempt_no) > ($1, $2, $3) AND subscription_id < $4
  ORDER BY subscription_id, period, attempt_no LIMIT 20000";
const ASIDES: &str = "SELECT subscription_id, period, 0::int2, due_minor, collected_minor, 0::int8
   FROM charge_aside WHERE (subscription_id, period) > ($1, $2) AND $3::int2 IS NOT NULL AND subscription_id < $4
  ORDER BY subscription_id, period LIMIT 20000";
const SUBSCRIPTIONS: &str = "SELECT id, 0, 0::int2, ref_seed, period::int8, due_minor
   FROM subscription WHERE id > $1 AND $2::int4 IS NOT NULL AND $3::int2 IS NOT NULL AND id < $4
  ORDER BY id LIMIT 20000";

impl Chunks {
    /// Values: operation, amount (minor units), currency (ISO 4217 numeric).
    pub(super) fn intents(carrier_no: i32) -> Self {
        Self::of(INTENTS, carrier_no)
    }

    /// Values: class, moved amount (minor units), nothing.
    pub(super) fn outcomes(carrier_no: i32) -> Self {
        Self::of(OUTCOMES, carrier_no)
    }

    /// Attempt number 0. Values: due and collected (minor units), nothing.
    pub(super) fn asides(carrier_no: i32) -> Self {
        Self::of(ASIDES, carrier_no)
    }

    /// Period and attempt number 0. Values: reference seed, current period, due (minor units).
    pub(super) fn subscriptions(carrier_no: i32) -> Self {
        Self::of(SUBSCRIPTIONS, carrier_no)
    }

    fn of(sql: &'static str, carrier_no: i32) -> Self {
        let first = i64::from(carrier_no) << 44;
        let after = (first - 1, i32::MAX, i16::MAX);
        Self { sql, after, end: first + (1 << 44), rows: VecDeque::new(), done: false }
    }

    /// The next row.
    pub(super) async fn next(&mut self, conn: &mut PgConnection) -> Result<Option<Row>, sqlx::Error> {
        self.refill(conn).await?;
        Ok(self.rows.pop_front())
    }

    /// The row of a key, if there is one; rows before it go to `passed`. Keys must be asked for in rising sequence.
    pub(super) async fn at(
        &mut self,
        conn: &mut PgConnection,
        key: Key,
        passed: &mut impl FnMut(Row),
    ) -> Result<Option<Row>, sqlx::Error> {
        loop {
            self.refill(conn).await?;
            match self.rows.front() {
                Some(row) if row.key < key => {
                    if let Some(row) = self.rows.pop_front() {
                        passed(row);
                    }
                }
                Some(row) if row.key == key => return Ok(self.rows.pop_front()),
                _ => return Ok(None),
            }
        }
    }

    async fn refill(&mut self, conn: &mut PgConnection) -> Result<(), sqlx::Error> {
        if !self.rows.is_empty() || self.done {
            return Ok(());
        }
        let (id, period, attempt_no) = self.after;
        let rows: Vec<(i64, i32, i16, i64, i64, i64)> = sqlx::query_as(self.sql)
            .bind(id)
            .bind(period)
            .bind(attempt_no)
            .bind(self.end)
            .fetch_all(conn)
            .await?;
        self.done = rows.is_empty();
        let rows = rows
            .into_iter()
            .map(|(id, period, no, a, b, c)| Row { key: (id, period, no), values: [a, b, c] });
        self.rows.extend(rows);
        if let Some(last) = self.rows.back() {
            self.after = last.key;
        }
        Ok(())
    }
}
