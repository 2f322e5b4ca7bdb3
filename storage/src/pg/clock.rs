//! The business clock's row: one clock, read by all processes.

use sqlx::postgres::PgConnection;

use super::StoreError;

/// `business now = base_business + (machine now − base_machine) × scale`, milliseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockRow {
    /// Wall-clock instant at which business time was `base_business_ms`.
    pub base_machine_ms: i64,
    /// Business time at that instant.
    pub base_business_ms: i64,
    /// Business milliseconds per machine millisecond: 1 in production, 0 for a stopped clock, 1440 for a day a minute.
    pub scale: i32,
}

impl ClockRow {
    /// Business time at a wall-clock instant, milliseconds since 1970.
    #[must_use]
    pub fn business_ms(&self, machine_ms: i64) -> i64 {
        let passed = machine_ms.saturating_sub(self.base_machine_ms);
        self.base_business_ms.saturating_add(passed.saturating_mul(i64::from(self.scale)))
    }
}

/// Reads the business clock.
///
/// # Errors
/// [`StoreError`] when the database is away.
pub async fn read_clock(conn: &mut PgConnection) -> Result<ClockRow, StoreError> {
    let row: (i64, i64, i32) =
        sqlx::query_as("SELECT base_machine_ms, base_business_ms, scale FROM business_clock")
            .fetch_one(conn)
            .await?;
    Ok(ClockRow { base_machine_ms: row.0, base_business_ms: row.1, scale: row.2 })
}

/// Sets the business clock: only sandboxes and benchmarks do.
///
/// # Errors
/// [`StoreError`] when the database is away or refuses the scale.
pub async fn set_clock(conn: &mut PgConnection, clock: ClockRow) -> Result<(), StoreError> {
    sqlx::query("UPDATE business_clock SET base_machine_ms = $1, base_business_ms = $2, scale = $3")
        .bind(clock.base_machine_ms)
        .bind(clock.base_business_ms)
        .bind(clock.scale)
        .execute(conn)
        .await?;
    Ok(())
}
