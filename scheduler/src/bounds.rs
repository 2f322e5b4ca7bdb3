//! What bounds a request beside its plan: the subscriber's caps, and how long somebody has agreed.

use billing_core::outcome::Op;
use billing_core::plan::{CapDays, Caps, Usage};
use billing_core::subscription::Planned;
use billing_core::triage::Conditions;
use jiff::Timestamp;
use storage::pg::{CapRow, DueRow};

use crate::catalog::Catalog;

/// Whether a request counts against caps: only what may bring in money that was not counted before.
fn asks(planned: &Planned) -> bool {
    matches!(planned.op, Op::Charge | Op::Reserve)
}

fn caps_of(catalog: &Catalog, row: &DueRow) -> Caps {
    catalog.plan(row.sub.plan_no).map_or(Caps::NONE, |plan| plan.rules.caps)
}

/// Whether an intent is counted.
pub(crate) fn counts(catalog: &Catalog, row: &DueRow, planned: &Planned) -> bool {
    asks(planned) && caps_of(catalog, row).counts()
}

/// What an intent counts against; `None` where its subscriber has no caps.
pub(crate) fn cap_of(catalog: &Catalog, row: &DueRow, planned: &Planned, now: Timestamp) -> Option<CapRow> {
    let zone = catalog.zone(row.zone_no).filter(|_| counts(catalog, row, planned))?;
    let subscriber_id = row.sub.subscriber_id;
    Some(CapRow { subscriber_id, days: CapDays::at(zone, now), caps: caps_of(catalog, row) })
}

/// Whether one charge asks for more than any may.
pub(crate) fn above_charge_cap(caps: &Caps, planned: &Planned) -> bool {
    asks(planned) && caps.charge_minor > 0 && planned.amount_minor > caps.charge_minor
}

/// What triage is told of a row whose subscriber's caps are used up; `None` when they are not.
pub(crate) fn over(
    catalog: &Catalog,
    row: &DueRow,
    planned: &Planned,
    usage: &Usage,
    now: Timestamp,
) -> Result<Option<Conditions>, String> {
    let zone =
        catalog.zone(row.zone_no).ok_or_else(|| format!("zone number {} is not known", row.zone_no))?;
    let over = caps_of(catalog, row).over(usage, planned.amount_minor, zone, now);
    Ok(over.map_err(|error| error.to_string())?.map(|over| Conditions {
        cap_left_minor: Some(over.left_minor),
        cap_until: over.until,
        held: row.held,
        merged: row.merged,
        ..Conditions::default()
    }))
}

/// The first byte may not leave once nobody agrees any more; what is given back needs no consent.
pub(crate) fn while_agreed(planned: Planned, until: Option<Timestamp>) -> Planned {
    let bound = until.filter(|until| *until < planned.not_after);
    match bound {
        Some(until) if matches!(planned.op, Op::Charge | Op::Reserve | Op::Confirm) => {
            Planned { not_after: until, ..planned }
        }
        _ => planned,
    }
}
