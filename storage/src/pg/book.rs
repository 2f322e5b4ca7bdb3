//! Names and numbers: what the book calls by id, the tables call by number.

use std::collections::HashMap;

use billing_core::ledger::{LegKind, Owner, Purpose};
use sqlx::Connection;
use sqlx::postgres::PgConnection;

use super::StoreError;
use super::versions::{Applying, apply_version};

/// A carrier as the book names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CarrierName {
    /// Its id.
    pub id: String,
    /// ISO 4217 numeric.
    pub currency: i16,
    /// Slices; fixed when the carrier is created.
    pub slices: i32,
}

/// A plan as the book names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanName {
    /// Its id.
    pub id: String,
    /// The merchant's id.
    pub merchant: String,
    /// The carrier's id.
    pub carrier: String,
}

/// Everything of the book that the tables need numbers for.
#[derive(Debug, Clone, Default)]
pub struct BookNames {
    /// SHA-256 over the book's files.
    pub digest: Vec<u8>,
    /// The files as JSON: {"path": "text"}.
    pub files_json: String,
    /// Carriers.
    pub carriers: Vec<CarrierName>,
    /// Plans.
    pub plans: Vec<PlanName>,
    /// Zone names.
    pub zones: Vec<String>,
}

/// An account's key: owner kind, owner number, purpose, asset.
pub type AccountKey = (i16, i32, i16, i16);

/// Numbers of everything that the book names, both ways.
#[derive(Debug, Clone, Default)]
pub struct Names {
    /// The version of the book in force.
    pub book_version: i32,
    /// Carrier id to (number, slices, currency).
    pub carriers: HashMap<String, (i32, i32, i16)>,
    /// Merchant id to number.
    pub merchants: HashMap<String, i32>,
    /// Plan id to number.
    pub plans: HashMap<String, i32>,
    /// Zone name to number.
    pub zones: HashMap<String, i16>,
    /// Accounts.
    pub accounts: HashMap<AccountKey, i32>,
}

impl Names {
    /// The accounts (debited, credited) of a kind of transfer between a carrier and a merchant.
    #[must_use]
    pub fn leg_accounts(
        &self,
        kind: LegKind,
        carrier_no: i32,
        merchant_no: i32,
        asset: i16,
    ) -> Option<(i32, i32)> {
        let number = |(owner, purpose): (Owner, Purpose)| {
            let owner_no = match owner {
                Owner::Carrier => carrier_no,
                Owner::Merchant => merchant_no,
            };
            self.accounts.get(&(owner as i16, owner_no, purpose as i16, asset)).copied()
        };
        let [debit, credit] = kind.accounts();
        Some((number(debit)?, number(credit)?))
    }

    /// The id of a number in one of the maps above.
    #[must_use]
    pub fn id_of<'a, N: PartialEq>(map: &'a HashMap<String, N>, number: &N) -> Option<&'a str> {
        map.iter().find(|(_, n)| *n == number).map(|(id, _)| id.as_str())
    }
}

/// Gives the numbers of everything in a book that is in force, or makes it the first version where there is none.
/// Running it again changes nothing; another book than the one in force comes by [`apply_book`](super::apply_book).
///
/// # Errors
/// [`StoreError::Broken`] when this book was never applied here, or when a carrier or plan differs from what the
/// database keeps in something that is fixed.
pub async fn sync_book(conn: &mut PgConnection, book: &BookNames) -> Result<Names, StoreError> {
    let mut tx = conn.begin().await?;
    let first = Applying { expect: None, first: true, by: "first start", note: "" };
    apply_version(&mut tx, book, &first).await?;
    let names = read_names(&mut tx, &book.digest).await?;
    tx.commit().await?;
    Ok(names)
}

/// Makes names known: numbers for new ones, shards for new carriers, accounts. Part of the commit that applies a book.
pub(super) async fn make_names(tx: &mut PgConnection, book: &BookNames) -> Result<(), StoreError> {
    for carrier in &book.carriers {
        sqlx::query(
            "INSERT INTO carrier (id, currency, slices) VALUES ($1, $2, $3) ON CONFLICT (id) DO NOTHING",
        )
        .bind(&carrier.id)
        .bind(carrier.currency)
        .bind(carrier.slices)
        .execute(&mut *tx)
        .await?;
    }
    for statement in [
        "INSERT INTO shard_owner (shard) SELECT carrier_no << 12 | s FROM carrier, generate_series(0, slices - 1) AS s
             ON CONFLICT DO NOTHING",
        "INSERT INTO shard_counter (shard) SELECT shard FROM shard_owner ON CONFLICT DO NOTHING",
        "INSERT INTO shard_progress (shard, low_water) SELECT shard, now() FROM shard_owner ON CONFLICT DO NOTHING",
    ] {
        sqlx::query(statement).execute(&mut *tx).await?;
    }
    let merchants: Vec<&str> = book.plans.iter().map(|plan| plan.merchant.as_str()).collect();
    sqlx::query("INSERT INTO merchant (id) SELECT DISTINCT m FROM unnest($1::text[]) AS m ON CONFLICT (id) DO NOTHING")
        .bind(&merchants)
        .execute(&mut *tx)
        .await?;
    for plan in &book.plans {
        sqlx::query(
            "INSERT INTO plan (id, merchant_no, carrier_no)
             SELECT $1, m.merchant_no, c.carrier_no FROM merchant m, carrier c WHERE m.id = $2 AND c.id = $3
                 ON CONFLICT (id) DO NOTHING",
        )
        .bind(&plan.id)
        .bind(&plan.merchant)
        .bind(&plan.carrier)
        .execute(&mut *tx)
        .await?;
    }
    sqlx::query("INSERT INTO zone (name) SELECT DISTINCT z FROM unnest($1::text[]) AS z ON CONFLICT (name) DO NOTHING")
        .bind(&book.zones)
        .execute(&mut *tx)
        .await?;
    sqlx::query(
        "INSERT INTO account (owner_kind, owner_id, purpose, asset)
         SELECT DISTINCT o.kind, o.id, p.purpose, c.currency
           FROM plan JOIN carrier c USING (carrier_no)
          CROSS JOIN LATERAL (VALUES (1::int2, plan.carrier_no), (2::int2, plan.merchant_no)) AS o (kind, id)
          CROSS JOIN (VALUES (1::int2), (2::int2), (3::int2), (4::int2), (5::int2)) AS p (purpose)
             ON CONFLICT DO NOTHING",
    )
    .execute(&mut *tx)
    .await?;
    check_fixed(tx, book).await
}

/// What is fixed when a carrier or plan is created: its numbers are in every row.
async fn check_fixed(tx: &mut PgConnection, book: &BookNames) -> Result<(), StoreError> {
    let carriers: Vec<(String, i32, i16)> =
        sqlx::query_as("SELECT id, slices, currency FROM carrier").fetch_all(&mut *tx).await?;
    for carrier in &book.carriers {
        let kept = carriers.iter().find(|kept| kept.0 == carrier.id).map(|kept| (kept.1, kept.2));
        if kept != Some((carrier.slices, carrier.currency)) {
            return Err(StoreError::Broken(format!(
                "carrier {} has currency {} and {} slices in the book, but (slices, currency) {kept:?} in the database: \
                 both are fixed when a carrier is created",
                carrier.id, carrier.currency, carrier.slices
            )));
        }
    }
    let plans: Vec<(String, String, String)> = sqlx::query_as(
        "SELECT p.id, m.id, c.id FROM plan p JOIN merchant m USING (merchant_no) JOIN carrier c USING (carrier_no)",
    )
    .fetch_all(&mut *tx)
    .await?;
    for plan in &book.plans {
        let kept = plans.iter().find(|kept| kept.0 == plan.id);
        if let Some((_, merchant, carrier)) = kept
            && (*merchant != plan.merchant || *carrier != plan.carrier)
        {
            return Err(StoreError::Broken(format!(
                "plan {} belongs to merchant {} and carrier {} in the book, but to {merchant} and {carrier} in the \
                 database: both are fixed when a plan is created, another pair needs a plan with another id",
                plan.id, plan.merchant, plan.carrier
            )));
        }
    }
    Ok(())
}

pub(super) async fn read_names(conn: &mut PgConnection, digest: &[u8]) -> Result<Names, StoreError> {
    let book_version = sqlx::query_scalar(
        "SELECT version FROM book_version WHERE digest = $1 ORDER BY version DESC LIMIT 1",
    )
    .bind(digest)
    .fetch_optional(&mut *conn)
    .await?
    .ok_or_else(|| StoreError::Broken("this book was never applied to this database".to_owned()))?;
    let carriers: Vec<(String, i32, i32, i16)> =
        sqlx::query_as("SELECT id, carrier_no, slices, currency FROM carrier").fetch_all(&mut *conn).await?;
    let merchants: Vec<(String, i32)> =
        sqlx::query_as("SELECT id, merchant_no FROM merchant").fetch_all(&mut *conn).await?;
    let plans: Vec<(String, i32)> =
        sqlx::query_as("SELECT id, plan_no FROM plan").fetch_all(&mut *conn).await?;
    let zones: Vec<(String, i16)> =
        sqlx::query_as("SELECT name, zone_no FROM zone").fetch_all(&mut *conn).await?;
    let accounts: Vec<(i16, i32, i16, i16, i32)> =
        sqlx::query_as("SELECT owner_kind, owner_id, purpose, asset, id FROM account")
            .fetch_all(&mut *conn)
            .await?;
    Ok(Names {
        book_version,
        carriers: carriers
            .into_iter()
            .map(|(id, no, slices, currency)| (id, (no, slices, currency)))
            .collect(),
        merchants: merchants.into_iter().collect(),
        plans: plans.into_iter().collect(),
        zones: zones.into_iter().collect(),
        accounts: accounts
            .into_iter()
            .map(|(kind, owner, purpose, asset, id)| ((kind, owner, purpose, asset), id))
            .collect(),
    })
}
