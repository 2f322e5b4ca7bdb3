//! The ledger as people read and close it: trial balance, seals of days and months, verification.

use sqlx::postgres::PgConnection;

use super::StoreError;

row! {
    /// An account with its balance.
    pub struct AccountRow {
        /// ISO 4217 numeric.
        pub asset: i16,
        /// Whose kind it is: [`billing_core::ledger::Owner`].
        pub owner_kind: i16,
        /// The owner's id in the book.
        pub owner: String,
        /// What it is for: [`billing_core::ledger::Purpose`].
        pub purpose: i16,
        /// Debits minus credits, minor units.
        pub posted_minor: i64,
    }
}

row! {
    /// Where the books differ from what was sealed.
    pub struct Difference {
        /// The day, month or account.
        pub place: String,
        /// What is wrong with it.
        pub what: String,
    }
}

row! {
    /// How far the ledger is closed.
    pub struct SealState {
        /// The first business date with a posting, days since 2000-01-01.
        pub first_day: Option<i32>,
        /// The last sealed business date.
        pub sealed_day: Option<i32>,
        /// How many days are sealed.
        pub days: i64,
        /// The last closed month, such as 202612.
        pub closed_month: Option<i32>,
    }
}

/// Every account with a balance, by asset, owner and purpose.
///
/// # Errors
/// [`StoreError`] when the database is away.
pub async fn trial_balance(conn: &mut PgConnection) -> Result<Vec<AccountRow>, StoreError> {
    let rows = sqlx::query_as(
        "SELECT a.asset, a.owner_kind,
                coalesce(CASE a.owner_kind WHEN 1 THEN c.id WHEN 2 THEN m.id END, a.owner_id::text) AS owner,
                a.purpose, b.posted AS posted_minor
           FROM account a
           JOIN (SELECT account_id, sum(posted)::bigint AS posted FROM account_balance GROUP BY 1) AS b
             ON b.account_id = a.id
           LEFT JOIN carrier c ON c.carrier_no = a.owner_id
           LEFT JOIN merchant m ON m.merchant_no = a.owner_id
          ORDER BY a.asset, a.owner_kind, owner, a.purpose",
    );
    Ok(rows.fetch_all(conn).await?)
}

/// How far the ledger is closed.
///
/// # Errors
/// [`StoreError`] when the database is away.
pub async fn seal_state(conn: &mut PgConnection) -> Result<SealState, StoreError> {
    let state = sqlx::query_as(
        "SELECT (SELECT min(business_date) FROM transfer) AS first_day,
                (SELECT max(business_date) FROM day_seal) AS sealed_day,
                (SELECT count(*) FROM day_seal) AS days, (SELECT max(month) FROM month_seal) AS closed_month",
    );
    Ok(state.fetch_one(conn).await?)
}

/// Closes and seals every business date up to the given one (days since 2000-01-01); gives how many were new. Nothing
/// can be posted on them afterwards: what comes late falls on the next open date.
///
/// # Errors
/// [`StoreError`] when the database is away; what was sealed until then stays so, and the next call goes on.
pub async fn seal_until(conn: &mut PgConnection, until_day: i32) -> Result<u32, StoreError> {
    sqlx::query("SELECT close_days($1)").bind(until_day).execute(&mut *conn).await?;
    let state = seal_state(conn).await?;
    let Some(mut day) = state.sealed_day.map(|day| day + 1).or(state.first_day) else { return Ok(0) };
    let mut sealed = 0;
    while day <= until_day {
        sqlx::query("SELECT seal_day($1)").bind(day).execute(&mut *conn).await?;
        (day, sealed) = (day + 1, sealed + 1);
    }
    Ok(sealed)
}

/// Closes a month such as 202612, all days of which are sealed.
///
/// # Errors
/// [`StoreError::Refused`] when they are not, or it is closed already.
pub async fn close_month(conn: &mut PgConnection, month: i32) -> Result<(), StoreError> {
    sqlx::query("SELECT close_month($1)").bind(month).execute(conn).await?;
    Ok(())
}

/// Counts everything again: what differs from the seals and the balances. Reads every transfer.
///
/// # Errors
/// [`StoreError`] when the database is away or the statement takes longer than the connection allows.
pub async fn verify_ledger(conn: &mut PgConnection) -> Result<Vec<Difference>, StoreError> {
    Ok(sqlx::query_as("SELECT place, what FROM verify_ledger() ORDER BY place, what").fetch_all(conn).await?)
}
