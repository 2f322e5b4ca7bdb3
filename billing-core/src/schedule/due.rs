//! When a period's charge falls due, and why then.

use jiff::{SignedDuration, Span, Timestamp};

use super::{Anchor, Schedule, ScheduleError, elapsed};
use crate::calendar::Why;
use crate::ids::SubscriptionId;
use crate::period::Period;
use crate::zone::{DAY_MINUTES, Zone};

/// When a charge falls due, and what moved it there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    /// When it would fall due by the schedule alone.
    pub nominal: Timestamp,
    /// When it falls due.
    pub at: Timestamp,
    /// The end of the stretch in which charging is allowed then.
    pub until: Timestamp,
    /// What moved it; the weightiest, when it was several. `None` when nothing did.
    pub why: Option<Why>,
}

impl Schedule {
    /// Until when a charge that is overdue at `now` may be tried: the end of the stretch in which charging is allowed, the
    /// one that holds `now` or else the next, or the next of several local times of its day (as the plan names it, not
    /// spread); and the minutes after which its period is over, where periods count elapsed time.
    ///
    /// # Errors
    /// [`ScheduleError`] when nothing opens for long, and at the ends of the calendar.
    pub fn closes(&self, zone: &Zone, now: Timestamp) -> Result<(Timestamp, Option<i64>), ScheduleError> {
        let allowed = self.allowed(zone, now)?;
        let (day, minute) = zone.local(allowed.from.max(now));
        let next = self.times.iter().find(|time| **time > minute);
        let next = next.map(|time| zone.instant(day, *time)).transpose()?;
        let until = next.map_or(allowed.until, |next| next.min(allowed.until));
        Ok((until, self.cadence.elapsed_minutes()))
    }

    /// The instant at which a period's charge falls due: the anchor's minute on the period's first local day, plus
    /// the seconds of the subscription's block, moved to a payday and into the allowed hours.
    ///
    /// # Errors
    /// [`ScheduleError`] at the ends of the calendar, or when charging is not allowed for long.
    pub fn due_at(
        &self,
        anchor: Anchor,
        period: Period,
        zone: &Zone,
        id: SubscriptionId,
    ) -> Result<Timestamp, ScheduleError> {
        let (_, due, _) = self.nominal(anchor, period, zone, id)?;
        Ok(self.allowed(zone, due)?.from)
    }

    /// The same with the reason: what `toll explain` and a preview say. Nothing of it needs to be stored, as it follows
    /// from the plan's version, the anchor and the period.
    ///
    /// # Errors
    /// As [`Schedule::due_at`].
    pub fn explain_due(
        &self,
        anchor: Anchor,
        period: Period,
        zone: &Zone,
        id: SubscriptionId,
    ) -> Result<Due, ScheduleError> {
        let (nominal, due, moved) = self.nominal(anchor, period, zone, id)?;
        let allowed = self.allowed(zone, due)?;
        Ok(Due { nominal, at: allowed.from, until: allowed.until, why: moved.max(allowed.why) })
    }

    /// By the schedule alone; the same with payday; what moved the latter.
    fn nominal(
        &self,
        anchor: Anchor,
        period: Period,
        zone: &Zone,
        id: SubscriptionId,
    ) -> Result<(Timestamp, Timestamp, Option<Why>), ScheduleError> {
        let offset_s = id.due_offset_s();
        if self.cadence.elapsed_minutes().is_some() {
            let start_s = elapsed::start_s(period, zone)?;
            let start = Timestamp::from_second(start_s)
                .map_err(|_| ScheduleError::Instant { from: Timestamp::UNIX_EPOCH, seconds: start_s })?;
            let due = later(start, offset_s)?;
            return Ok((due, due, None));
        }
        let minute = match self.times.is_empty() {
            true => anchor.minute,
            false => (period.minute() + self.spread_of(id)).min(DAY_MINUTES - 1),
        };
        let day = period.date();
        let nominal = later(zone.instant(day, minute)?, offset_s)?;
        if self.payday_days > 0
            && let Some(payday) = self.calendar.payday(day, self.payday_days)
            && payday > day
        {
            return Ok((nominal, later(zone.instant(payday, minute)?, offset_s)?, Some(Why::Payday)));
        }
        let in_gap = zone.local(nominal) != (day, minute);
        Ok((nominal, nominal, in_gap.then_some(Why::Gap)))
    }

    /// The latest period after `period` that has fallen due by `now`. Bounded, however long ago that was.
    ///
    /// # Errors
    /// As [`Schedule::due_at`].
    pub fn latest_due(
        &self,
        anchor: Anchor,
        period: Period,
        zone: &Zone,
        id: SubscriptionId,
        now: Timestamp,
    ) -> Result<Option<Period>, ScheduleError> {
        if let Some(every) = self.cadence.elapsed_minutes() {
            return elapsed::latest(every, anchor, period, zone, now, |candidate| {
                let exists = self.within_bounds(anchor, Some(candidate), zone)?.is_some();
                Ok(exists && self.due_at(anchor, candidate, zone, id)? <= now)
            });
        }
        // Seek to a period that was due about a year ago, then step: an outage of years costs no more than one of
        // days. A cadence longer than that has no such period, and few to step over.
        let (today, _) = zone.local(now);
        let mut latest = None;
        let mut candidate = self.next_period(anchor, period, zone)?;
        let back = today.saturating_sub(Span::new().days(400));
        if let Some(near) = self.first_period(anchor, back, zone)?
            && candidate.is_some_and(|next| near > next)
            && self.due_at(anchor, near, zone, id)? <= now
        {
            candidate = Some(near);
        }
        while let Some(period) = candidate {
            if self.due_at(anchor, period, zone, id)? > now {
                break;
            }
            latest = Some(period);
            candidate = self.next_period(anchor, period, zone)?;
        }
        Ok(latest)
    }
}

/// An instant some seconds on.
fn later(from: Timestamp, seconds: i64) -> Result<Timestamp, ScheduleError> {
    from.checked_add(SignedDuration::from_secs(seconds)).map_err(|_| ScheduleError::Instant { from, seconds })
}
