//! The database side of importing subscribers: look up what exists, reserve dense ids, insert the rest.

use std::collections::HashMap;

use sqlx::postgres::PgConnection;

use super::StoreError;

/// A line that is new to us.
#[derive(Debug, Clone)]
pub struct NewSubscriber {
    /// Its id.
    pub id: i64,
    /// Its zone.
    pub zone_no: i16,
    /// Which key-encryption key.
    pub kek_version: i16,
    /// Keyed hash of the MSISDN.
    pub msisdn_hmac: Vec<u8>,
    /// What its key is derived from.
    pub key_salt: Vec<u8>,
    /// The sealed MSISDN.
    pub msisdn_ct: Vec<u8>,
}

/// A subscription that is new to us.
#[derive(Debug, Clone)]
pub struct NewSubscription {
    /// Its id.
    pub id: i64,
    /// Whose.
    pub subscriber_id: i64,
    /// What its keys are derived from.
    pub ref_seed: i64,
    /// Full digest of the merchant's reference.
    pub digest: Vec<u8>,
    /// The first period's price, minor units.
    pub due_minor: i64,
    /// When it fires first, business milliseconds.
    pub next_at_ms: Option<i64>,
    /// Until when its first state lasts, business milliseconds: a trial, a parking.
    pub state_until_ms: Option<i64>,
    /// The plan.
    pub plan_no: i32,
    /// Who sells.
    pub merchant_no: i32,
    /// Days since 2000-01-01.
    pub anchor_day: i32,
    /// The first period.
    pub period: i32,
    /// The subscriber's zone.
    pub zone_no: i16,
    /// Local minute of the day.
    pub anchor_minute: i16,
    /// ISO 4217 numeric.
    pub currency: i16,
    /// The first state.
    pub state: i16,
    /// Why it fires first.
    pub next_kind: i16,
    /// Where consent ends, business milliseconds.
    pub consent_until_ms: Option<i64>,
}

/// What exists already.
#[derive(Debug, Default)]
pub struct ImportLookup {
    /// `ref_seed` to the digest that is kept.
    pub references: HashMap<i64, Vec<u8>>,
    /// (MSISDN hash, carrier) to (subscriber id, key salt, key version).
    pub subscribers: HashMap<(Vec<u8>, i32), i64>,
}

/// What a sealed MSISDN is bound to: it opens under its own subscriber's id only.
#[must_use]
pub fn msisdn_aad(subscriber_id: i64) -> [u8; 14] {
    let mut aad = *b"msisdn........";
    aad[6..].copy_from_slice(&subscriber_id.to_be_bytes());
    aad
}

/// Looks up references and lines.
///
/// # Errors
/// [`StoreError`] when the database is away.
pub async fn lookup(
    conn: &mut PgConnection,
    ref_seeds: &[i64],
    hmacs: &[Vec<u8>],
) -> Result<ImportLookup, StoreError> {
    let references: Vec<(i64, Vec<u8>)> =
        sqlx::query_as("SELECT ref_seed, digest FROM subscription_ref WHERE ref_seed = ANY ($1)")
            .bind(ref_seeds)
            .fetch_all(&mut *conn)
            .await?;
    let subscribers: Vec<(Vec<u8>, i32, i64)> = sqlx::query_as(
        "SELECT msisdn_hmac, carrier_no, subscriber_id FROM msisdn_directory
          WHERE msisdn_hmac = ANY ($1) AND valid_to IS NULL",
    )
    .bind(hmacs)
    .fetch_all(conn)
    .await?;
    Ok(ImportLookup {
        references: references.into_iter().collect(),
        subscribers: subscribers.into_iter().map(|(hmac, carrier, id)| ((hmac, carrier), id)).collect(),
    })
}

/// Reserves dense sequence numbers: `(shard, subscribers, subscriptions)` in, the first of each block out.
///
/// # Errors
/// [`StoreError`] when the database is away.
pub async fn allocate_ids(
    conn: &mut PgConnection,
    wanted: &[(i32, i32, i32)],
) -> Result<HashMap<i32, (i64, i64)>, StoreError> {
    let column = |pick: fn(&(i32, i32, i32)) -> i32| wanted.iter().map(pick).collect::<Vec<_>>();
    let rows: Vec<(i32, i64, i64)> = sqlx::query_as("SELECT * FROM allocate_ids($1, $2, $3)")
        .bind(column(|w| w.0))
        .bind(column(|w| w.1))
        .bind(column(|w| w.2))
        .fetch_all(conn)
        .await?;
    Ok(rows
        .into_iter()
        .map(|(shard, subscriber, subscription)| (shard, (subscriber, subscription)))
        .collect())
}

/// Inserts a batch. Call inside the SQL transaction that looked up and reserved.
///
/// # Errors
/// [`StoreError::Refused`] with a unique violation when another import inserted the same meanwhile: look up again.
pub async fn insert_subscriptions(
    conn: &mut PgConnection,
    book_version: i32,
    subscribers: &[NewSubscriber],
    subscriptions: &[NewSubscription],
) -> Result<(), StoreError> {
    macro_rules! column {
        ($rows:ident, $field:ident) => {
            $rows.iter().map(|row| row.$field.clone()).collect::<Vec<_>>()
        };
    }
    sqlx::query(
        "SELECT insert_subscriptions($1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11,$12,$13,$14,$15,$16,$17,$18,$19,$20,$21,$22,$23,$24,$25)",
    )
    .bind(column!(subscribers, id))
    .bind(column!(subscribers, zone_no))
    .bind(column!(subscribers, kek_version))
    .bind(vec![1_i16; subscribers.len()])
    .bind(column!(subscribers, msisdn_hmac))
    .bind(column!(subscribers, key_salt))
    .bind(column!(subscribers, msisdn_ct))
    .bind(column!(subscriptions, id))
    .bind(column!(subscriptions, subscriber_id))
    .bind(column!(subscriptions, ref_seed))
    .bind(column!(subscriptions, digest))
    .bind(column!(subscriptions, due_minor))
    .bind(column!(subscriptions, next_at_ms))
    .bind(column!(subscriptions, plan_no))
    .bind(column!(subscriptions, merchant_no))
    .bind(book_version)
    .bind(column!(subscriptions, anchor_day))
    .bind(column!(subscriptions, period))
    .bind(column!(subscriptions, zone_no))
    .bind(column!(subscriptions, anchor_minute))
    .bind(column!(subscriptions, currency))
    .bind(column!(subscriptions, state))
    .bind(column!(subscriptions, next_kind))
    .bind(column!(subscriptions, state_until_ms))
    .bind(column!(subscriptions, consent_until_ms))
    .execute(conn)
    .await?;
    Ok(())
}

/// The full digest that a subscription's keys are derived from; `None` when it has none.
///
/// # Errors
/// [`StoreError`] when the database is away.
pub async fn reference_digest(conn: &mut PgConnection, ref_seed: i64) -> Result<Option<Vec<u8>>, StoreError> {
    let digest = sqlx::query_scalar("SELECT digest FROM subscription_ref WHERE ref_seed = $1");
    Ok(digest.bind(ref_seed).fetch_optional(conn).await?)
}

/// The number of the zone that a subscriber lives in.
///
/// # Errors
/// [`StoreError`] when the database is away.
pub async fn zone_of_subscriber(
    conn: &mut PgConnection,
    subscriber_id: i64,
) -> Result<Option<i16>, StoreError> {
    let zone_no = sqlx::query_scalar("SELECT zone_no FROM subscriber WHERE id = $1");
    Ok(zone_no.bind(subscriber_id).fetch_optional(conn).await?)
}
