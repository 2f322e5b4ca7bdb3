//! Small numbers for what decides when a charging window closes, so that an entry of the wheel stays at 16 bytes.

use super::precedence::{Closing, Moment};
use crate::stripe::ById;

/// A plan in a zone, or [`NO_WINDOW`].
pub(super) type GroupNo = u32;

/// What needs no window.
const NO_WINDOW: GroupNo = 0;

/// The groups that a wheel has met: plans times zones, a few thousand at most. They are never forgotten.
#[derive(Debug, Default)]
pub(super) struct Groups {
    /// By number, from 1 on.
    known: Vec<(i32, i16)>,
    numbers: ById<GroupNo>,
}

impl Groups {
    /// The number of a plan in a zone; `charges`: whether it waits for a window at all.
    pub(super) fn number(&mut self, plan_no: i32, zone_no: i16, charges: bool) -> GroupNo {
        if !charges {
            return NO_WINDOW;
        }
        let key = i64::from(plan_no) << 16 | i64::from(zone_no as u16);
        *self.numbers.entry(key).or_insert_with(|| {
            self.known.push((plan_no, zone_no));
            GroupNo::try_from(self.known.len()).unwrap_or(NO_WINDOW)
        })
    }

    /// Until when the charges of a group may be sent.
    pub(super) fn closing(&self, group: GroupNo, at: &Moment<'_>) -> Closing {
        let place = (group as usize).checked_sub(1).and_then(|place| self.known.get(place));
        place.map_or(Closing::AT_ONCE, |(plan_no, zone_no)| (at.closing)(*plan_no, *zone_no))
    }
}
