//! One worker's clocks on the runtime's paused time. Its wall clock may be wrong by days; its machine clock never is.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use scheduler::{Clock, DatabaseTime};
use storage::pg::ClockRow;
use tokio::time::Instant;

/// The wall clock at the beginning of every run: 2027-01-11T00:00:00Z.
pub(super) const START_MS: i64 = 1_799_625_600_000;
/// Business milliseconds per machine millisecond: a day a minute.
pub(super) const SCALE: i32 = 1_440;

/// For so long after a jump something may leave that was decided before it.
const JUMP_COUNTS_MS: i64 = 30_000;

/// The clocks of one worker.
#[derive(Debug)]
pub(super) struct SimClock {
    start: Instant,
    skew_ms: AtomicI64,
    database: DatabaseTime,
    /// What it was before the last jump, and when that was (milliseconds since the start).
    former: Mutex<(i64, i64)>,
    row: Mutex<ClockRow>,
}

/// The business clock that all share.
pub(super) fn business_clock() -> ClockRow {
    ClockRow { base_machine_ms: START_MS, base_business_ms: START_MS, scale: SCALE }
}

impl SimClock {
    pub(super) fn new(start: Instant) -> Self {
        Self {
            start,
            skew_ms: AtomicI64::new(0),
            database: DatabaseTime::default(),
            former: Mutex::new((0, i64::MIN)),
            row: Mutex::new(business_clock()),
        }
    }

    /// From now on the wall clock is so many milliseconds ahead.
    pub(super) fn set_skew(&self, skew_ms: i64) {
        self.changed(|| self.skew_ms.store(skew_ms, Ordering::Relaxed));
    }

    /// A process starts: it knows the wall clock only.
    pub(super) fn forget(&self) {
        self.changed(|| self.database.forget());
    }

    fn changed<T>(&self, change: impl FnOnce() -> T) -> T {
        let former_ms = self.off_ms();
        let done = change();
        if self.off_ms() != former_ms {
            *self.former.lock().unwrap_or_else(PoisonError::into_inner) = (former_ms, self.since_start_ms());
        }
        done
    }

    /// By how much the time that it tells is ahead of the true one.
    fn off_ms(&self) -> i64 {
        self.wall().as_millisecond() - START_MS - self.since_start_ms()
    }

    fn since_start_ms(&self) -> i64 {
        i64::try_from(self.start.elapsed().as_millis()).unwrap_or(i64::MAX)
    }

    /// The same as it was shortly before: an intent may be as old as that.
    pub(super) fn former_business_skew_ms(&self) -> i64 {
        let (former_ms, at_ms) = *self.former.lock().unwrap_or_else(PoisonError::into_inner);
        match self.since_start_ms().saturating_sub(at_ms) < JUMP_COUNTS_MS {
            true => former_ms * i64::from(SCALE),
            false => self.business_skew_ms(),
        }
    }

    /// By how much business time is ahead of everybody else's, milliseconds.
    pub(super) fn business_skew_ms(&self) -> i64 {
        self.off_ms() * i64::from(SCALE)
    }

    fn row(&self) -> ClockRow {
        *self.row.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clock for SimClock {
    fn machine_ms(&self) -> i64 {
        1_000_000 + i64::try_from(self.start.elapsed().as_millis()).unwrap_or(i64::MAX)
    }

    fn boot_us(&self) -> i64 {
        1_000_000_000 + i64::try_from(self.start.elapsed().as_micros()).unwrap_or(i64::MAX)
    }

    fn adopt(&self, database_us: i64, before_us: i64, after_us: i64) -> bool {
        self.changed(|| self.database.adopt(database_us, before_us, after_us))
    }

    fn wall(&self) -> Timestamp {
        if let Some(known) = self.database.at(self.boot_us()) {
            return known;
        }
        let ms = i64::try_from(self.start.elapsed().as_millis()).unwrap_or(i64::MAX);
        let wall_ms = START_MS + ms + self.skew_ms.load(Ordering::Relaxed);
        Timestamp::from_millisecond(wall_ms).unwrap_or(Timestamp::UNIX_EPOCH)
    }

    fn ahead_ms(&self) -> i64 {
        self.skew_ms.load(Ordering::Relaxed) - self.off_ms()
    }

    fn business(&self) -> Timestamp {
        let ms = self.row().business_ms(self.wall().as_millisecond());
        Timestamp::from_millisecond(ms).unwrap_or(Timestamp::UNIX_EPOCH)
    }

    fn scale(&self) -> i32 {
        self.row().scale
    }

    fn set(&self, row: ClockRow) {
        *self.row.lock().unwrap_or_else(PoisonError::into_inner) = row;
    }
}
