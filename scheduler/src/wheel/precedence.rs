//! What is given out first: the rule, and what the wheels of one worker tell each other of it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What a wheel does not know of another one for so long does not hold it up: that one cannot claim.
const HEARD_WITHIN_MS: i64 = 1_000;

/// Until when charges of one plan in one zone may be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Closing {
    /// The end of the charging window that is open, else of the next one; business milliseconds.
    pub(crate) closes_ms: i64,
    /// A charge's period is over so long after it fell due, where periods are shorter than a day; else `i64::MAX`.
    pub(crate) period_ms: i64,
}

impl Closing {
    /// It waits for no window: it has its turn at once.
    pub(crate) const AT_ONCE: Self = Self { closes_ms: i64::MIN, period_ms: i64::MAX };

    /// The last instant of a charge that fell due at `due_ms`.
    pub(crate) fn of(self, due_ms: i64) -> i64 {
        self.closes_ms.min(due_ms.saturating_add(self.period_ms))
    }
}

/// Now, and until when which charges may be sent.
pub(crate) struct Moment<'a> {
    /// Business time.
    pub(crate) now_ms: i64,
    /// Machine time.
    pub(crate) machine_ms: i64,
    /// So much business time may due instants that close together be apart, when two wheels give them out.
    pub(crate) slack_ms: i64,
    /// The version of the book that `closing` speaks of.
    pub(crate) version: i32,
    /// Of a plan and a zone.
    pub(crate) closing: &'a dyn Fn(i32, i16) -> Closing,
}

/// The first charge that waits in a wheel: when it closes, and when it fell due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Head {
    pub(crate) closes_ms: i64,
    pub(crate) due_ms: i64,
}

impl Head {
    /// Whether a charge may go although `other` waits elsewhere.
    pub(crate) fn may_pass(self, other: Option<Self>, slack_ms: i64) -> bool {
        other.is_none_or(|other| {
            self.closes_ms < other.closes_ms
                || self.closes_ms == other.closes_ms && self.due_ms <= other.due_ms.saturating_add(slack_ms)
        })
    }
}

/// The heads of all backlogs of one worker, by carrier.
#[derive(Debug, Default)]
pub(crate) struct Heads {
    /// How many there are, so that nobody asks in vain.
    count: AtomicUsize,
    known: Mutex<BTreeMap<(i32, usize), (Head, i64)>>,
}

impl Heads {
    /// Tells what waits first of a carrier in the wheel of this number; `None`: nothing does.
    pub(crate) fn tell(&self, carrier_no: i32, wheel: usize, head: Option<Head>, machine_ms: i64) {
        if head.is_none() && self.count.load(Ordering::SeqCst) == 0 {
            return;
        }
        let mut known = self.known();
        match head {
            Some(head) => known.insert((carrier_no, wheel), (head, machine_ms)),
            None => known.remove(&(carrier_no, wheel)),
        };
        self.count.store(known.len(), Ordering::SeqCst);
    }

    /// The first charge of a carrier that waits in any other wheel than the one of this number.
    pub(crate) fn elsewhere(&self, carrier_no: i32, wheel: usize, machine_ms: i64) -> Option<Head> {
        if self.count.load(Ordering::SeqCst) == 0 {
            return None;
        }
        let known = self.known();
        let others = known.range((carrier_no, 0)..=(carrier_no, usize::MAX));
        others
            .filter(|((_, other), (_, at_ms))| *other != wheel && machine_ms - at_ms < HEARD_WITHIN_MS)
            .map(|(_, (head, _))| *head)
            .min()
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<(i32, usize), (Head, i64)>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_charge_lasts_until_its_window_closes_or_its_period_is_over() {
        assert_eq!(Closing { closes_ms: 100, period_ms: i64::MAX }.of(i64::MAX - 1), 100);
        assert_eq!(Closing { closes_ms: 100, period_ms: 60 }.of(30), 90);
        assert_eq!(Closing::AT_ONCE.of(30), i64::MIN);
    }

    #[test]
    fn a_wheel_hears_of_the_others_and_not_for_ever() {
        let heads = Heads::default();
        let head = |closes_ms, due_ms| Head { closes_ms, due_ms };
        assert_eq!(heads.elsewhere(1, 0, 0), None);
        heads.tell(1, 0, Some(head(50, 5)), 0);
        heads.tell(1, 1, Some(head(40, 9)), 0);
        heads.tell(2, 1, Some(head(10, 1)), 0);
        assert_eq!(heads.elsewhere(1, 0, 10), Some(head(40, 9)));
        assert_eq!(heads.elsewhere(1, 1, 10), Some(head(50, 5)), "not of itself");
        assert_eq!(heads.elsewhere(1, 2, 10), Some(head(40, 9)), "the first of all");
        assert_eq!(heads.elsewhere(1, 0, HEARD_WITHIN_MS), None, "whoever says nothing holds nobody up");
        heads.tell(1, 1, None, 20);
        assert_eq!(heads.elsewhere(1, 2, 20), Some(head(50, 5)));
    }

    #[test]
    fn what_closes_later_waits_and_what_closes_together_keeps_near_in_time() {
        let head = |closes_ms, due_ms| Head { closes_ms, due_ms };
        assert!(head(50, 5).may_pass(None, 0));
        assert!(head(50, 9).may_pass(Some(head(60, 1)), 0));
        assert!(!head(60, 1).may_pass(Some(head(50, 9)), 100));
        assert!(head(50, 15).may_pass(Some(head(50, 5)), 10));
        assert!(!head(50, 16).may_pass(Some(head(50, 5)), 10));
    }
}
