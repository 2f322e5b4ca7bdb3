//! What a charge without an attempt costs: what the version says that it is decided under, whatever the row was made
//! with.

use billing_core::plan::Missed;
use billing_core::schedule::price_of;
use billing_core::subscription::Progress;
use billing_core::triage::merged_into;
use storage::pg::{DueRow, StoreError, load_noted};

use crate::catalog::Catalog;
use crate::link::DbLink;
use crate::shared::Shared;

/// Reads what was merged into charges that cost something else than their own period does. That is so after an outage,
/// and once after a price was changed: others cost nothing.
///
/// # Errors
/// [`StoreError`] when the database is away.
pub(crate) async fn read_noted(
    shared: &Shared,
    db: &mut DbLink,
    rows: &mut [Box<DueRow>],
) -> Result<(), StoreError> {
    let book = shared.books.current();
    let may_hold_more = |row: &DueRow| {
        let Some((plan, zone)) = book.plan(row.sub.plan_no).zip(book.zone(row.zone_no)) else { return false };
        let price = || price_of(&plan.rules, row.sub.anchor, row.sub.progress.period, zone);
        matches!(plan.rules.missed, Missed::Merge { .. })
            && is_new(&row.sub.progress)
            && price().is_ok_and(|price| price.minor != row.sub.progress.due_minor)
    };
    let rows: Vec<&mut Box<DueRow>> = rows.iter_mut().filter(|row| may_hold_more(row)).collect();
    if rows.is_empty() {
        return Ok(());
    }
    let keys: Vec<(i64, i32)> =
        rows.iter().map(|row| (row.sub.id.0, row.sub.progress.period.number())).collect();
    let conn = db.conn().await?.postgres()?;
    let noted = load_noted(conn, &keys).await;
    let mut noted = db.checked(noted)?;
    for row in rows {
        row.noted = noted.remove(&row.sub.id.0).unwrap_or_default();
    }
    Ok(())
}

/// Nothing was tried and nothing is collected.
fn is_new(at: &Progress) -> bool {
    at.attempt_no == 0 && at.collected_minor == 0
}

/// Prices a charge that was not tried yet: its own period and what missed ones were merged into it.
pub(crate) fn price_new_charge(catalog: &Catalog, row: &mut DueRow) {
    let known = catalog.plan(row.sub.plan_no).zip(catalog.zone(row.zone_no));
    let Some((plan, zone)) = known.filter(|_| is_new(&row.sub.progress)) else { return };
    if Catalog::currency(plan, row.currency).is_none() {
        return;
    }
    let (anchor, period) = (row.sub.anchor, row.sub.progress.period);
    let price = price_of(&plan.rules, anchor, period, zone);
    let merged = merged_into(&row.sub, &plan.rules, zone, &row.noted);
    // What cannot be priced cannot be decided either, and is told there.
    if let (Ok(price), Ok(merged)) = (price, merged) {
        row.merged = merged;
        row.sub.progress.due_minor = price.minor.saturating_add(merged.minor);
    }
}
