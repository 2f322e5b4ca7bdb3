//! Finding subscriptions and where they belong.

use sqlx::postgres::PgConnection;

use super::super::StoreError;

row! {
    /// What a subscription's numbers stand for, and who looks after it.
    pub struct SubscriptionPlace {
        /// The plan's id.
        pub plan: String,
        /// The merchant's id.
        pub merchant: String,
        /// The carrier's id.
        pub carrier: String,
        /// The subscriber's zone.
        pub zone: String,
        /// The book version under which it was created.
        pub book_version: i32,
        /// The newest book version.
        pub newest_book_version: i32,
        /// The slot of the worker that owns its shard.
        pub owner_slot: Option<i32>,
        /// Rows in the shard's inbox about it.
        pub waiting: i64,
    }
}

/// Where a subscription belongs; `None` when there is none such.
///
/// # Errors
/// [`StoreError`] when the database is away.
pub async fn subscription_place(
    conn: &mut PgConnection,
    subscription_id: i64,
) -> Result<Option<SubscriptionPlace>, StoreError> {
    let place = sqlx::query_as(
        "SELECT p.id AS plan, m.id AS merchant, c.id AS carrier, z.name AS zone, s.book_version,
                (SELECT max(version) FROM book_version) AS newest_book_version, o.slot AS owner_slot,
                (SELECT count(*) FROM shard_inbox b
                  WHERE b.shard = (s.id >> 32)::int AND b.subscription_id = s.id) AS waiting
           FROM subscription s
           JOIN plan p ON p.plan_no = s.plan_no
           JOIN carrier c ON c.carrier_no = p.carrier_no
           JOIN merchant m ON m.merchant_no = s.merchant_no
           JOIN zone z ON z.zone_no = s.zone_no
           LEFT JOIN shard_owner o ON o.shard = (s.id >> 32)::int
          WHERE s.id = $1",
    );
    Ok(place.bind(subscription_id).fetch_optional(conn).await?)
}

/// The subscription of a merchant's own reference, by what is derived from it; the digest must be equal in full.
///
/// # Errors
/// [`StoreError`] when the database is away.
pub async fn by_reference(
    conn: &mut PgConnection,
    ref_seed: i64,
    digest: &[u8; 32],
) -> Result<Option<i64>, StoreError> {
    let found = sqlx::query_scalar(
        "SELECT subscription_id FROM subscription_ref WHERE ref_seed = $1 AND digest = $2",
    );
    Ok(found.bind(ref_seed).bind(digest.as_slice()).fetch_optional(conn).await?)
}

/// The subscriptions of the line with this keyed hash, at every carrier, at most `limit`.
///
/// # Errors
/// [`StoreError`] when the database is away.
pub async fn by_msisdn_hmac(
    conn: &mut PgConnection,
    msisdn_hmac: &[u8; 32],
    limit: i64,
) -> Result<Vec<i64>, StoreError> {
    let found = sqlx::query_scalar(
        "SELECT s.id FROM msisdn_directory d JOIN subscription s ON s.subscriber_id = d.subscriber_id
          WHERE d.msisdn_hmac = $1 AND d.valid_to IS NULL ORDER BY s.id LIMIT $2",
    );
    Ok(found.bind(msisdn_hmac.as_slice()).bind(limit).fetch_all(conn).await?)
}

/// The subscription with this `ref_seed`, as our keys on the wire carry it.
///
/// # Errors
/// [`StoreError`] when the database is away.
pub async fn by_ref_seed(conn: &mut PgConnection, ref_seed: i64) -> Result<Option<i64>, StoreError> {
    let found = sqlx::query_scalar("SELECT subscription_id FROM subscription_ref WHERE ref_seed = $1");
    Ok(found.bind(ref_seed).fetch_optional(conn).await?)
}

/// Every carrier's id and number.
///
/// # Errors
/// [`StoreError`] when the database is away.
pub async fn carrier_numbers(conn: &mut PgConnection) -> Result<Vec<(String, i32)>, StoreError> {
    Ok(sqlx::query_as("SELECT id, carrier_no FROM carrier ORDER BY id").fetch_all(conn).await?)
}

row! {
    /// Access that was granted, with what was paid for it.
    pub struct GrantOf {
        /// Which charge.
        pub period: i32,
        /// Which attempt of it.
        pub attempt_no: i16,
        /// From when, business milliseconds.
        pub from_ms: i64,
        /// Until when, business milliseconds; `None` for good.
        pub until_ms: Option<i64>,
        /// What was paid, minor units.
        pub moved_minor: i64,
        /// The ladder's step that was paid, and so the variant that was bought; 0 for the full price.
        pub step: i16,
    }
}

/// The latest grants of a subscription, the newest first.
///
/// # Errors
/// [`StoreError`] when the database is away.
pub async fn grants_of(
    conn: &mut PgConnection,
    subscription_id: i64,
    limit: i64,
) -> Result<Vec<GrantOf>, StoreError> {
    let grants = sqlx::query_as(
        "SELECT g.period, g.attempt_no, g.from_ms, g.until_ms, o.moved_minor, i.step
           FROM (SELECT * FROM entitlement_grant WHERE subscription_id = $1
                  ORDER BY period DESC, attempt_no DESC LIMIT $2) AS g
           JOIN attempt_outcome o USING (subscription_id, period, attempt_no)
           JOIN attempt_intent i USING (subscription_id, period, attempt_no)
          ORDER BY g.period DESC, g.attempt_no DESC",
    );
    Ok(grants.bind(subscription_id).bind(limit).fetch_all(conn).await?)
}
