//! The two clocks. Machine time (CLOCK_BOOTTIME, it goes on in suspend) for leases and timeouts; business time for
//! everything that the book speaks of. No wall clock of this machine matters: business time is made of the database's clock,
//! which the boot clock carries on between two readings.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError, RwLock};

use jiff::Timestamp;
use rustix::time::{ClockId, clock_gettime};
use storage::mutants::{Mutant, on};
use storage::pg::ClockRow;

/// A reading of the database's clock that took longer is too coarse to correct what is known already.
const TRIP_MAX_US: i64 = 200_000;
/// A reading that differs by more from what is known is believed when the next one says the same.
const JUMP_MAX_US: i64 = 2_000_000;

/// Tells both times.
pub trait Clock: Send + Sync {
    /// Milliseconds since boot, suspend included; never set back.
    fn machine_ms(&self) -> i64;

    /// The same in microseconds.
    fn boot_us(&self) -> i64;

    /// The database's clock, as it was read last and went on since; this machine's wall clock until then.
    fn wall(&self) -> Timestamp;

    /// Takes over the database's clock (microseconds since 1970), read between two instants of the boot clock. `false`: it
    /// jumped, and is believed when the next reading says the same.
    fn adopt(&self, database_us: i64, before_us: i64, after_us: i64) -> bool;

    /// How far this machine's wall clock is ahead of the database's, milliseconds: for people, nothing goes by it.
    fn ahead_ms(&self) -> i64;

    /// Business time.
    fn business(&self) -> Timestamp;

    /// Business milliseconds per machine millisecond.
    fn scale(&self) -> i32;

    /// Takes over the business clock as read again. Business time as this process tells it may jump: all that it
    /// guards is checked again in the database.
    fn set(&self, row: ClockRow);
}

/// The database's clock, carried on by the boot clock: a wall clock that is wrong, or is set, changes nothing of it.
#[derive(Debug)]
pub struct DatabaseTime {
    /// The database's clock less the boot clock, microseconds; read with every charge.
    known_us: AtomicI64,
    /// A reading that differed, until the next one.
    doubted_us: Mutex<Option<i64>>,
}

/// Nothing was read yet.
const NOT_READ: i64 = i64::MIN;

impl Default for DatabaseTime {
    fn default() -> Self {
        Self { known_us: AtomicI64::new(NOT_READ), doubted_us: Mutex::new(None) }
    }
}

impl DatabaseTime {
    /// See [`Clock::adopt`].
    pub fn adopt(&self, database_us: i64, before_us: i64, after_us: i64) -> bool {
        let offset_us = database_us.saturating_sub(before_us.midpoint(after_us));
        let mut doubted_us = self.doubted_us.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known_us) = self.known_us() {
            if after_us.saturating_sub(before_us) > TRIP_MAX_US {
                return true;
            }
            let far = |other_us: i64| offset_us.saturating_sub(other_us).saturating_abs() > JUMP_MAX_US;
            if far(known_us) && doubted_us.is_none_or(far) {
                *doubted_us = Some(offset_us);
                return false;
            }
        }
        self.known_us.store(offset_us, Ordering::SeqCst);
        *doubted_us = None;
        true
    }

    /// The database's clock at an instant of the boot clock; `None` before the first reading.
    #[must_use]
    pub fn at(&self, boot_us: i64) -> Option<Timestamp> {
        if on(Mutant::WallClockTrusted) {
            return None;
        }
        Timestamp::from_microsecond(boot_us.saturating_add(self.known_us()?)).ok()
    }

    fn known_us(&self) -> Option<i64> {
        Some(self.known_us.load(Ordering::SeqCst)).filter(|known_us| *known_us != NOT_READ)
    }

    /// As in a process that starts.
    pub fn forget(&self) {
        self.known_us.store(NOT_READ, Ordering::SeqCst);
        *self.doubted_us.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// The clocks of this machine, with the database's business clock over them.
#[derive(Debug)]
pub struct SystemClock {
    row: RwLock<ClockRow>,
    database: DatabaseTime,
}

impl Default for SystemClock {
    /// The clocks before the business clock was read.
    fn default() -> Self {
        Self::new(ClockRow { base_machine_ms: 0, base_business_ms: 0, scale: 1 })
    }
}

impl SystemClock {
    /// The clocks, with the business clock as read.
    #[must_use]
    pub fn new(row: ClockRow) -> Self {
        Self { row: RwLock::new(row), database: DatabaseTime::default() }
    }

    fn row(&self) -> ClockRow {
        match self.row.read() {
            Ok(row) => *row,
            Err(poisoned) => *poisoned.into_inner(),
        }
    }
}

impl Clock for SystemClock {
    fn machine_ms(&self) -> i64 {
        let now = clock_gettime(ClockId::Boottime);
        now.tv_sec * 1_000 + now.tv_nsec / 1_000_000
    }

    fn boot_us(&self) -> i64 {
        let now = clock_gettime(ClockId::Boottime);
        now.tv_sec * 1_000_000 + now.tv_nsec / 1_000
    }

    fn wall(&self) -> Timestamp {
        self.database.at(self.boot_us()).unwrap_or_else(Timestamp::now)
    }

    fn adopt(&self, database_us: i64, before_us: i64, after_us: i64) -> bool {
        self.database.adopt(database_us, before_us, after_us)
    }

    fn ahead_ms(&self) -> i64 {
        Timestamp::now().as_millisecond() - self.wall().as_millisecond()
    }

    fn business(&self) -> Timestamp {
        let ms = self.row().business_ms(self.wall().as_millisecond());
        Timestamp::from_millisecond(ms).unwrap_or(Timestamp::UNIX_EPOCH)
    }

    fn scale(&self) -> i32 {
        self.row().scale
    }

    fn set(&self, row: ClockRow) {
        if let Ok(mut kept) = self.row.write() {
            *kept = row;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const HOUR_US: i64 = 3_600_000_000;

    fn at_us(time: &DatabaseTime, boot_us: i64) -> i64 {
        time.at(boot_us).unwrap().as_microsecond()
    }

    #[test]
    fn the_boot_clock_carries_the_databases_clock_on() {
        let time = DatabaseTime::default();
        assert_eq!(time.at(5), None, "nothing was read yet");
        // However long the first reading takes.
        assert!(time.adopt(1_000_000_000, 0, 1_000_000));
        assert_eq!(at_us(&time, 500_000), 1_000_000_000);
        assert_eq!(at_us(&time, 2_500_000), 1_002_000_000);
        // A coarse reading corrects nothing, a fine one does.
        assert!(time.adopt(1_004_000_000, 2_500_000, 3_500_000));
        assert_eq!(at_us(&time, 2_500_000), 1_002_000_000);
        assert!(time.adopt(1_002_500_000, 2_500_000, 2_500_000));
        assert_eq!(at_us(&time, 2_500_000), 1_002_500_000);
        time.forget();
        assert_eq!(time.at(5), None);
    }

    #[test]
    fn a_jump_is_believed_when_it_is_read_twice() {
        let time = DatabaseTime::default();
        assert!(time.adopt(0, 0, 0));
        assert!(!time.adopt(HOUR_US, 10, 10));
        assert_eq!(at_us(&time, 20), 20, "once is a mistake");
        assert!(time.adopt(30, 30, 30), "and forgotten when it is gone");
        assert!(!time.adopt(HOUR_US, 40, 40));
        assert!(!time.adopt(-HOUR_US, 50, 50), "another one is no confirmation");
        assert!(time.adopt(-HOUR_US + 10, 60, 60));
        assert_eq!(at_us(&time, 60), -HOUR_US + 10);
    }
}
