//! The two clocks. Machine time (CLOCK_BOOTTIME, it goes on in suspend) for leases and timeouts; business time for
//! everything that the book speaks of.

use std::sync::RwLock;

use jiff::Timestamp;
use rustix::time::{ClockId, clock_gettime};
use storage::pg::ClockRow;

/// Tells both times.
pub trait Clock: Send + Sync {
    /// Milliseconds since boot, suspend included; never set back.
    fn machine_ms(&self) -> i64;

    /// The wall clock.
    fn wall(&self) -> Timestamp;

    /// Business time.
    fn business(&self) -> Timestamp;

    /// Business milliseconds per machine millisecond.
    fn scale(&self) -> i32;

    /// Takes over the business clock as read again. Business time as this process tells it may jump: all that it
    /// guards is checked again in the database.
    fn set(&self, row: ClockRow);
}

/// The clocks of this machine, with the database's business clock over them.
#[derive(Debug)]
pub struct SystemClock {
    row: RwLock<ClockRow>,
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
        Self { row: RwLock::new(row) }
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

    fn wall(&self) -> Timestamp {
        Timestamp::now()
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
