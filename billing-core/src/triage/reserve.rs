//! What was set aside is confirmed, given back, or ran out.

use super::{NoteKind, Scene, Triage, defer};
use crate::ids::ATTEMPT_NO_MAX;
use crate::outcome::Op;
use crate::plan::Expired;
use crate::reason::Rule;
use crate::states::ChargeState;
use crate::subscription::{CoreError, NextKind, Planned, Progress, Reservation};

/// At any hour: it follows from a request that was made in its window.
pub(super) fn act(scene: &Scene<'_>, reserved: Reservation) -> Result<Triage, CoreError> {
    let at = &scene.sub.progress;
    let collects = at.state.collects();
    let lapsed = reserved.until <= scene.now;
    let by_itself = scene.rules.reserve.is_none_or(|rules| rules.expired == Expired::Released);
    // Without a number nothing can be sent; the carrier lets go of it in the end.
    if (lapsed && by_itself) || at.attempt_no >= ATTEMPT_NO_MAX {
        let at = Progress { reserved: None, ..*at };
        let (progress, state) = if collects {
            let now = Some(scene.now);
            let next_kind = NextKind::Retry;
            (Progress { retry_at: now, next_at: now, next_kind, ..at }, ChargeState::Open)
        } else {
            (at.at_rest(), ChargeState::Cancelled)
        };
        return defer::plain_note(scene, NoteKind::Lapse, state, progress, Rule::RESERVATION_EXPIRED);
    }
    let (op, rule) =
        if collects && !lapsed { (Op::Confirm, Rule::CONFIRM_SEND) } else { (Op::Cancel, Rule::CANCEL_SEND) };
    let planned = Planned {
        op,
        period: at.period,
        attempt_no: at.attempt_no + 1,
        parent_no: reserved.attempt_no,
        amount_minor: reserved.amount_minor,
        round: at.round,
        step: at.step,
        not_before: at.next_at.unwrap_or(scene.now),
        not_after: if op == Op::Confirm { reserved.until } else { jiff::Timestamp::MAX },
    };
    Ok(Triage::Send { planned, rule })
}
