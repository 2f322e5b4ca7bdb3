//! Whether this machine's wall clock may be believed. Business time is made of it, so a clock that was set wrong would
//! charge before the time, or long after it. Two looks: the database's clock, every few seconds, and the machine's own
//! clock that nobody can set, every time.

use std::sync::atomic::{AtomicI64, Ordering};

use crate::clock::Clock;

/// The wall clock may differ from the database's by so much, and be set by so much between two looks at it.
const DIFFERENCE_MAX_MS: i64 = 2_000;
/// No look agreed yet, or the last one did not.
const NOT_BELIEVED: i64 = i64::MIN;

/// What the last comparison with the database's clock said.
#[derive(Debug)]
pub(crate) struct ClockCheck {
    /// Wall clock less the machine's, milliseconds: only setting the wall clock changes it.
    offset_ms: AtomicI64,
}

impl ClockCheck {
    /// A clock that was not compared yet.
    pub(crate) fn new() -> Self {
        Self { offset_ms: AtomicI64::new(NOT_BELIEVED) }
    }

    /// The database said `database_us` when it was asked between `asked_ms` (wall clock) and now.
    pub(crate) fn compare(&self, clock: &dyn Clock, asked_ms: i64, database_us: i64) {
        let (now_ms, database_ms) = (clock.wall().as_millisecond(), database_us / 1_000);
        let agrees = (asked_ms - DIFFERENCE_MAX_MS..=now_ms + DIFFERENCE_MAX_MS).contains(&database_ms);
        let offset_ms = if agrees { now_ms - clock.machine_ms() } else { NOT_BELIEVED };
        if self.offset_ms.swap(offset_ms, Ordering::SeqCst) != NOT_BELIEVED && !agrees {
            tracing::error!(
                ahead_ms = now_ms - database_ms,
                "this machine's clock is not the database's: nothing is charged until they agree"
            );
        }
    }

    /// Whether business time can be told now.
    pub(crate) fn agrees(&self, clock: &dyn Clock) -> bool {
        let offset_ms = self.offset_ms.load(Ordering::SeqCst);
        let now_ms = clock.wall().as_millisecond() - clock.machine_ms();
        offset_ms != NOT_BELIEVED && (now_ms - offset_ms).abs() <= DIFFERENCE_MAX_MS
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use jiff::Timestamp;
    use storage::pg::ClockRow;

    use super::*;

    /// A wall clock that can be set, over a machine's that cannot.
    struct Settable(AtomicI64);

    impl Clock for Settable {
        fn machine_ms(&self) -> i64 {
            5_000
        }

        fn wall(&self) -> Timestamp {
            Timestamp::from_millisecond(self.0.load(Ordering::SeqCst)).unwrap()
        }

        fn business(&self) -> Timestamp {
            self.wall()
        }

        fn scale(&self) -> i32 {
            1
        }

        fn set(&self, _: ClockRow) {}
    }

    #[test]
    fn a_clock_that_is_set_is_noticed_at_once_and_believed_again_when_the_database_agrees() {
        let noon_ms = 1_800_000_000_000;
        let clock = Settable(AtomicI64::new(noon_ms));
        let check = ClockCheck::new();
        assert!(!check.agrees(&clock), "nobody compared it");
        check.compare(&clock, noon_ms, (noon_ms + 1_900) * 1_000);
        assert!(check.agrees(&clock));
        for wrong_ms in [3_600_000, -3_600_000, 86_400_000, -86_400_000, 2_001] {
            clock.0.store(noon_ms + wrong_ms, Ordering::SeqCst);
            assert!(!check.agrees(&clock), "{wrong_ms}");
            check.compare(&clock, noon_ms + wrong_ms, noon_ms * 1_000);
            assert!(!check.agrees(&clock), "{wrong_ms}");
            clock.0.store(noon_ms, Ordering::SeqCst);
            assert!(!check.agrees(&clock), "not before the database was asked again");
            check.compare(&clock, noon_ms, noon_ms * 1_000);
            assert!(check.agrees(&clock), "{wrong_ms}");
        }
        // Both machines' clocks were set: the database decides.
        clock.0.store(noon_ms + 10_000, Ordering::SeqCst);
        check.compare(&clock, noon_ms + 10_000, (noon_ms + 10_000) * 1_000);
        assert!(check.agrees(&clock));
    }
}
