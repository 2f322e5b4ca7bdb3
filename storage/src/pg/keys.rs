//! Proves that a process has the keys under which this database was written. With other keys nothing would open, and
//! every subscription would look like poison.

use sqlx::postgres::PgConnection;

use super::StoreError;
use crate::vault::Vault;

const KEK_PROBE: &[u8; 16] = b"tollbook key one";
const PLAIN: &[u8] = b"tollbook";

/// Notes what the keys look like when nobody did before, else compares: fails when the keys are others.
///
/// # Errors
/// [`StoreError::Broken`] when this process' keys are not those of the database.
pub async fn check_keys(conn: &mut PgConnection, vault: &Vault) -> Result<(), StoreError> {
    let broken = |error: &dyn std::fmt::Display| StoreError::Broken(format!("keys: {error}"));
    let version = vault.current_kek_version();
    let key = vault.subscriber_key(KEK_PROBE, version).map_err(|error| broken(&error))?;
    let mut sealed = Vec::new();
    key.seal(b"key check", PLAIN, &mut sealed).map_err(|error| broken(&error))?;
    let pepper = vault.msisdn_hmac("key check").to_vec();
    sqlx::query(
        "INSERT INTO key_check (kek_version, sealed, pepper) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
    )
    .bind(version)
    .bind(&sealed)
    .bind(&pepper)
    .execute(&mut *conn)
    .await?;
    let (kept_sealed, kept_pepper): (Vec<u8>, Vec<u8>) =
        sqlx::query_as("SELECT sealed, pepper FROM key_check WHERE kek_version = $1")
            .bind(version)
            .fetch_one(conn)
            .await?;
    let opens = key.open(b"key check", &kept_sealed).is_ok_and(|plain| plain == PLAIN);
    if opens && kept_pepper == pepper {
        return Ok(());
    }
    Err(StoreError::Broken(
        "the keys in this data folder's secrets/ are not those under which this database was written: copy kek.v1 and \
         pepper.v1 from the first machine"
            .to_owned(),
    ))
}
