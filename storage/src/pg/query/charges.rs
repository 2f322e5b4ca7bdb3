//! Charges as lists: found going back in time, or by subscription, or by what is open. Every statement is bounded.

use std::collections::HashMap;

use billing_core::states::ChargeState;
use sqlx::Row;
use sqlx::postgres::PgConnection;

use super::super::StoreError;

/// The most charges of one [`charges_by_key`].
pub const CHARGE_KEYS_MAX: usize = 1_000;

/// Rows that one step back in time reads at most; a window with more is halved.
const WINDOW_ROWS_MAX: usize = 4_000;
const SECOND_US: i64 = 1_000_000;
/// Below this a window is not halved: a batch shares one instant.
const WINDOW_US_MIN: i64 = 1_000;
/// Empty windows double up to this.
const WINDOW_US_MAX: i64 = 400 * 86_400 * SECOND_US;

/// Names a charge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ChargeKey {
    /// Whose.
    pub subscription_id: i64,
    /// Which period.
    pub period: i32,
}

/// Which charges a search looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyRange {
    /// The first subscription.
    pub id_from: i64,
    /// The last subscription.
    pub id_to: i64,
    /// The first period.
    pub period_from: i32,
    /// The first period after.
    pub period_to: i32,
}

impl KeyRange {
    /// Every charge.
    pub const ALL: Self =
        Self { id_from: i64::MIN, id_to: i64::MAX, period_from: i32::MIN, period_to: i32::MAX };
}

/// A search that goes back in time, window by window, so that no statement reads more than a few thousand rows.
#[derive(Debug, Clone)]
pub struct Backwards {
    range: KeyRange,
    with_notes: bool,
    until_us: i64,
    span_us: i64,
    floor_us: Option<i64>,
}

impl Backwards {
    /// A search from the database's present on. With `with_notes` it also finds charges that were never tried, by what
    /// was noted of them.
    #[must_use]
    pub fn new(range: KeyRange, with_notes: bool) -> Self {
        Self { range, with_notes, until_us: i64::MAX, span_us: SECOND_US, floor_us: None }
    }

    /// Down to when the search has come, microseconds since 1970.
    #[must_use]
    pub fn reached_us(&self) -> i64 {
        self.until_us
    }

    /// The charges of the next window back, the latest first, each with its instant in microseconds; none of them may
    /// be new. `None` when the beginning is reached.
    ///
    /// # Errors
    /// [`StoreError`] when the database is away.
    pub async fn step(
        &mut self,
        conn: &mut PgConnection,
    ) -> Result<Option<Vec<(ChargeKey, i64)>>, StoreError> {
        let floor_us = match self.floor_us {
            Some(floor_us) => floor_us,
            None => self.start(conn).await?,
        };
        if self.until_us <= floor_us {
            return Ok(None);
        }
        let (from_us, rows) = loop {
            let from_us = self.until_us.saturating_sub(self.span_us).max(floor_us);
            let rows = self.window(conn, from_us).await?;
            if rows.len() <= WINDOW_ROWS_MAX || self.span_us <= WINDOW_US_MIN {
                break (from_us, rows);
            }
            self.span_us /= 2;
        };
        self.until_us = from_us;
        if rows.len() < WINDOW_ROWS_MAX / 4 {
            self.span_us = (self.span_us * 2).min(WINDOW_US_MAX);
        }
        let mut latest: HashMap<ChargeKey, i64> = HashMap::new();
        for (subscription_id, period, at_us) in rows {
            let at = latest.entry(ChargeKey { subscription_id, period }).or_insert(at_us);
            *at = at_us.max(*at);
        }
        let mut found: Vec<_> = latest.into_iter().collect();
        found.sort_by_key(|(key, at_us)| (-at_us, key.subscription_id, -i64::from(key.period)));
        Ok(Some(found))
    }

    /// Nothing is older than the first book.
    async fn start(&mut self, conn: &mut PgConnection) -> Result<i64, StoreError> {
        let (now_us, floor_us): (i64, Option<i64>) = sqlx::query_as(
            "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint,
                    (extract(epoch FROM (SELECT min(applied_at) FROM book_version)) * 1000000)::bigint",
        )
        .fetch_one(conn)
        .await?;
        let floor_us = floor_us.map_or(now_us, |floor_us| floor_us - SECOND_US);
        self.until_us = now_us.saturating_add(SECOND_US);
        self.floor_us = Some(floor_us);
        Ok(floor_us)
    }

    async fn window(
        &self,
        conn: &mut PgConnection,
        from_us: i64,
    ) -> Result<Vec<(i64, i32, i64)>, StoreError> {
        let limit = i64::try_from(WINDOW_ROWS_MAX + 1).unwrap_or(i64::MAX);
        let tried = sqlx::query_as(
            "SELECT subscription_id, period, (extract(epoch FROM intent_at) * 1000000)::bigint
               FROM attempt_intent
              WHERE subscription_id BETWEEN $1 AND $2 AND period >= $3 AND period < $4
                AND intent_at >= timestamptz 'epoch' + $5 * interval '1 microsecond'
                AND intent_at < timestamptz 'epoch' + $6 * interval '1 microsecond' LIMIT $7",
        );
        let range = self.range;
        let mut rows: Vec<(i64, i32, i64)> = tried
            .bind(range.id_from)
            .bind(range.id_to)
            .bind(range.period_from)
            .bind(range.period_to)
            .bind(from_us)
            .bind(self.until_us)
            .bind(limit)
            .fetch_all(&mut *conn)
            .await?;
        if self.with_notes {
            let noted = sqlx::query_as(
                "SELECT subscription_id, period, (extract(epoch FROM at) * 1000000)::bigint
                   FROM charge_note
                  WHERE subscription_id BETWEEN $1 AND $2 AND period >= $3 AND period < $4
                    AND at >= timestamptz 'epoch' + $5 * interval '1 microsecond'
                    AND at < timestamptz 'epoch' + $6 * interval '1 microsecond' LIMIT $7",
            );
            let noted: Vec<(i64, i32, i64)> = noted
                .bind(range.id_from)
                .bind(range.id_to)
                .bind(range.period_from)
                .bind(range.period_to)
                .bind(from_us)
                .bind(self.until_us)
                .bind(limit)
                .fetch_all(conn)
                .await?;
            rows.extend(noted);
        }
        Ok(rows)
    }
}

/// The latest charges of one subscription with periods in `range`, the latest period first: what was tried, what was
/// noted, what is put aside, and what is in its row now.
///
/// # Errors
/// [`StoreError`] when the database is away.
pub async fn charges_of(
    conn: &mut PgConnection,
    subscription_id: i64,
    range: &KeyRange,
    limit: i64,
) -> Result<Vec<ChargeKey>, StoreError> {
    let periods: Vec<i32> = sqlx::query_scalar(
        "SELECT period FROM (
             SELECT period FROM attempt_intent WHERE subscription_id = $1
             UNION SELECT period FROM charge_note WHERE subscription_id = $1
             UNION SELECT period FROM charge_aside WHERE subscription_id = $1
             UNION SELECT period FROM subscription WHERE id = $1) AS known
          WHERE period >= $2 AND period < $3 ORDER BY period DESC LIMIT $4",
    )
    .bind(subscription_id)
    .bind(range.period_from)
    .bind(range.period_to)
    .bind(limit)
    .fetch_all(conn)
    .await?;
    Ok(periods.into_iter().map(|period| ChargeKey { subscription_id, period }).collect())
}

/// A charge in a list.
#[derive(Debug, Clone)]
pub struct ChargeRow {
    /// Which.
    pub key: ChargeKey,
    /// The plan's id.
    pub plan: String,
    /// The merchant's id.
    pub merchant: String,
    /// The carrier's id.
    pub carrier: String,
    /// The subscriber's zone.
    pub zone: String,
    /// ISO 4217 numeric.
    pub currency: i16,
    /// What the period costs, minor units; `None` for an earlier period that was never tried.
    pub due_minor: Option<i64>,
    /// What was collected, minor units.
    pub collected_minor: i64,
    /// Whether it is in the subscription's row now.
    pub current: bool,
    /// Whether it was put aside unfinished.
    pub aside: bool,
    /// The subscription's state.
    pub subscription_state: i16,
    /// The subscription's period now.
    pub subscription_period: i32,
    /// When the subscription's wheel fires, business milliseconds.
    pub next_at_ms: Option<i64>,
    /// Why it does.
    pub next_kind: i16,
    /// The last attempt.
    pub last: Option<LastAttempt>,
    /// The last note.
    pub note: Option<LastNote>,
}

/// The last attempt of a charge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastAttempt {
    /// Its number.
    pub attempt_no: i16,
    /// Its state, 1 while only the intent exists.
    pub state: i16,
    /// The outcome's detail.
    pub reason: Option<i16>,
    /// Where the charge stood after it.
    pub charge_state: Option<i16>,
    /// Business time of its intent, milliseconds.
    pub business_at_ms: i64,
    /// Machine time of its outcome, microseconds.
    pub decided_at_us: Option<i64>,
}

/// The last note of a charge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastNote {
    /// Its kind.
    pub kind: i16,
    /// Where the charge stood after it.
    pub charge_state: i16,
    /// The rule that decided.
    pub rule: i16,
    /// Business time, milliseconds.
    pub business_at_ms: i64,
    /// Machine time, microseconds.
    pub at_us: i64,
}

impl ChargeRow {
    /// Where the charge stands: waiting while its last attempt has no outcome, else as the later of its last outcome
    /// and its last note says.
    #[must_use]
    pub fn state(&self) -> i16 {
        let outcome = match self.last {
            Some(LastAttempt { decided_at_us: None, .. }) => return ChargeState::Waiting as i16,
            Some(LastAttempt { decided_at_us: Some(at_us), charge_state, .. }) => {
                charge_state.map(|state| (at_us, state))
            }
            None => None,
        };
        let note = self.note.map(|note| (note.at_us, note.charge_state));
        match (outcome, note) {
            (Some(outcome), Some(note)) => {
                if note.0 > outcome.0 {
                    note.1
                } else {
                    outcome.1
                }
            }
            (Some((_, state)), None) | (None, Some((_, state))) => state,
            (None, None) => ChargeState::Open as i16,
        }
    }

    /// Whether there is such a charge: it was tried, noted, put aside or is in the row now.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.current || self.aside || self.last.is_some() || self.note.is_some()
    }
}

/// These charges of subscriptions that exist, in the given sequence; at most [`CHARGE_KEYS_MAX`] are read.
///
/// # Errors
/// [`StoreError`] when the database is away.
pub async fn charges_by_key(
    conn: &mut PgConnection,
    keys: &[ChargeKey],
) -> Result<Vec<ChargeRow>, StoreError> {
    let keys = &keys[..keys.len().min(CHARGE_KEYS_MAX)];
    let rows = sqlx::query(
        "SELECT k.subscription_id, k.period, p.id, m.id, c.id, z.name, s.currency,
                CASE WHEN s.period = k.period THEN s.due_minor ELSE coalesce(x.due_minor, first.amount_minor) END,
                coalesce(got.moved, 0)::bigint, s.period = k.period, x.period IS NOT NULL, s.state, s.period,
                s.next_at_ms, s.next_kind,
                last.attempt_no, last.state, last.reason, last.charge_state, last.business_at_ms, last.decided_at_us,
                note.kind, note.charge_state, note.rule_id, note.business_at_ms, note.at_us
           FROM unnest($1::int8[], $2::int4[]) WITH ORDINALITY AS k (subscription_id, period, place)
           JOIN subscription s ON s.id = k.subscription_id
           JOIN plan p ON p.plan_no = s.plan_no
           JOIN carrier c ON c.carrier_no = p.carrier_no
           JOIN merchant m ON m.merchant_no = s.merchant_no
           JOIN zone z ON z.zone_no = s.zone_no
           LEFT JOIN charge_aside x ON x.subscription_id = k.subscription_id AND x.period = k.period
           LEFT JOIN attempt_intent first
                  ON first.subscription_id = k.subscription_id AND first.period = k.period AND first.attempt_no = 1
           LEFT JOIN LATERAL (
                -- What was given back does not count as collected.
                SELECT sum(CASE WHEN i.op = 5 THEN -o.moved_minor ELSE o.moved_minor END) AS moved
                  FROM attempt_outcome o
                  JOIN attempt_intent i
                    ON i.subscription_id = o.subscription_id AND i.period = o.period AND i.attempt_no = o.attempt_no
                 WHERE o.subscription_id = k.subscription_id AND o.period = k.period) AS got ON true
           LEFT JOIN LATERAL (
                SELECT i.attempt_no, coalesce(o.class, n.kind + 1, 1)::int2 AS state,
                       coalesce(o.reason, n.reason) AS reason, o.charge_state, i.business_at_ms,
                       (extract(epoch FROM o.decided_at) * 1000000)::bigint AS decided_at_us
                  FROM attempt_intent i
                  LEFT JOIN attempt_outcome o
                         ON o.subscription_id = i.subscription_id AND o.period = i.period AND o.attempt_no = i.attempt_no
                  LEFT JOIN attempt_open n
                         ON n.subscription_id = i.subscription_id AND n.period = i.period AND n.attempt_no = i.attempt_no
                 WHERE i.subscription_id = k.subscription_id AND i.period = k.period
                 ORDER BY i.attempt_no DESC LIMIT 1) AS last ON true
           LEFT JOIN LATERAL (
                SELECT t.kind, t.charge_state, t.rule_id, t.business_at_ms,
                       (extract(epoch FROM t.at) * 1000000)::bigint AS at_us
                  FROM charge_note t WHERE t.subscription_id = k.subscription_id AND t.period = k.period
                 ORDER BY t.rev DESC LIMIT 1) AS note ON true
          ORDER BY k.place",
    )
    .bind(keys.iter().map(|key| key.subscription_id).collect::<Vec<_>>())
    .bind(keys.iter().map(|key| key.period).collect::<Vec<_>>())
    .fetch_all(conn)
    .await?;
    rows.iter().map(charge_row).collect()
}

fn charge_row(row: &sqlx::postgres::PgRow) -> Result<ChargeRow, StoreError> {
    let attempt_no: Option<i16> = row.try_get(15)?;
    let last = match attempt_no {
        Some(attempt_no) => Some(LastAttempt {
            attempt_no,
            state: row.try_get(16)?,
            reason: row.try_get(17)?,
            charge_state: row.try_get(18)?,
            business_at_ms: row.try_get(19)?,
            decided_at_us: row.try_get(20)?,
        }),
        None => None,
    };
    let kind: Option<i16> = row.try_get(21)?;
    let note = match kind {
        Some(kind) => Some(LastNote {
            kind,
            charge_state: row.try_get(22)?,
            rule: row.try_get(23)?,
            business_at_ms: row.try_get(24)?,
            at_us: row.try_get(25)?,
        }),
        None => None,
    };
    Ok(ChargeRow {
        key: ChargeKey { subscription_id: row.try_get(0)?, period: row.try_get(1)? },
        plan: row.try_get(2)?,
        merchant: row.try_get(3)?,
        carrier: row.try_get(4)?,
        zone: row.try_get(5)?,
        currency: row.try_get(6)?,
        due_minor: row.try_get(7)?,
        collected_minor: row.try_get(8)?,
        current: row.try_get(9)?,
        aside: row.try_get(10)?,
        subscription_state: row.try_get(11)?,
        subscription_period: row.try_get(12)?,
        next_at_ms: row.try_get(13)?,
        next_kind: row.try_get(14)?,
        last,
        note,
    })
}

row! {
    /// An open attempt: somebody's money.
    pub struct OpenRow {
        /// Whose charge.
        pub subscription_id: i64,
        /// Which period.
        pub period: i32,
        /// Which attempt.
        pub attempt_no: i16,
        /// 1 accepted, 2 unknown, 3 in review.
        pub kind: i16,
        /// The outcome's detail.
        pub reason: i16,
        /// Asked for, minor units.
        pub amount_minor: i64,
        /// ISO 4217 numeric.
        pub currency: i16,
        /// Since when, machine microseconds.
        pub since_us: i64,
        /// The plan's id.
        pub plan: String,
        /// The carrier's id.
        pub carrier: String,
    }
}

/// Open attempts of a kind (1 accepted, 2 unknown, 3 in review), the oldest first, at most `limit`.
///
/// # Errors
/// [`StoreError`] when the database is away.
pub async fn open_attempts(
    conn: &mut PgConnection,
    kind: i16,
    range: &KeyRange,
    limit: i64,
) -> Result<Vec<OpenRow>, StoreError> {
    let rows = sqlx::query_as(
        "SELECT o.subscription_id, o.period, o.attempt_no, o.kind, o.reason, o.amount_minor, o.currency,
                (extract(epoch FROM o.since) * 1000000)::bigint AS since_us, p.id AS plan, c.id AS carrier
           FROM attempt_open o
           JOIN subscription s ON s.id = o.subscription_id
           JOIN plan p ON p.plan_no = s.plan_no
           JOIN carrier c ON c.carrier_no = p.carrier_no
          WHERE o.kind = $1 AND o.subscription_id BETWEEN $2 AND $3 AND o.period >= $4 AND o.period < $5
          ORDER BY o.since, o.subscription_id, o.period LIMIT $6",
    );
    Ok(rows
        .bind(kind)
        .bind(range.id_from)
        .bind(range.id_to)
        .bind(range.period_from)
        .bind(range.period_to)
        .bind(limit)
        .fetch_all(conn)
        .await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(last: Option<(Option<i16>, Option<i64>)>, note: Option<(i16, i64)>) -> ChargeRow {
        ChargeRow {
            key: ChargeKey { subscription_id: 1, period: 2 },
            plan: String::new(),
            merchant: String::new(),
            carrier: String::new(),
            zone: String::new(),
            currency: 978,
            due_minor: None,
            collected_minor: 0,
            current: false,
            aside: false,
            subscription_state: 4,
            subscription_period: 3,
            next_at_ms: None,
            next_kind: 0,
            last: last.map(|(charge_state, decided_at_us)| LastAttempt {
                attempt_no: 1,
                state: 1,
                reason: None,
                charge_state,
                business_at_ms: 0,
                decided_at_us,
            }),
            note: note.map(|(charge_state, at_us)| LastNote {
                kind: 1,
                charge_state,
                rule: 1,
                business_at_ms: 0,
                at_us,
            }),
        }
    }

    #[test]
    fn the_later_of_outcome_and_note_decides_and_no_outcome_waits() {
        let settled = ChargeState::Settled as i16;
        let expired = ChargeState::Expired as i16;
        let waiting = ChargeState::Waiting as i16;
        let open = ChargeState::Open as i16;
        assert_eq!(row(None, None).state(), open);
        assert_eq!(row(None, Some((expired, 5))).state(), expired);
        assert_eq!(row(Some((Some(settled), Some(5))), None).state(), settled);
        assert_eq!(row(Some((Some(open), Some(5))), Some((expired, 6))).state(), expired);
        assert_eq!(row(Some((Some(settled), Some(6))), Some((waiting, 5))).state(), settled);
        assert_eq!(row(Some((None, None)), Some((expired, 6))).state(), waiting);
        assert!(!row(None, None).exists());
    }
}
