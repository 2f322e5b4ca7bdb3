//! How much room is left, measured at most ten times a second.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Instant;

use super::super::Room;
use super::FjallHistoryOptions;

const FRESH_MS: u64 = 100;
const NEVER: u64 = u64::MAX;

/// The last answer and when it was found.
pub(super) struct Gauge {
    started: Instant,
    measured_ms: AtomicU64,
    room: AtomicU8,
}

impl Gauge {
    pub(super) fn new() -> Gauge {
        Gauge {
            started: Instant::now(),
            measured_ms: AtomicU64::new(NEVER),
            room: AtomicU8::new(encode(Room::Full)),
        }
    }

    /// The cached answer, or that of `measure` where it is older than [`FRESH_MS`]; one caller at a time measures.
    pub(super) fn room(&self, measure: impl FnOnce() -> Room) -> Room {
        let now_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(NEVER - 1);
        let last_ms = self.measured_ms.load(Ordering::Acquire);
        if last_ms == NEVER {
            // The first callers have no answer to fall back on.
            let room = measure();
            self.room.store(encode(room), Ordering::Release);
            self.measured_ms.store(now_ms, Ordering::Release);
            return room;
        }
        let stale = now_ms.saturating_sub(last_ms) >= FRESH_MS;
        let mine = || {
            self.measured_ms.compare_exchange(last_ms, now_ms, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        };
        if stale && mine() {
            self.room.store(encode(measure()), Ordering::Release);
        }
        decode(self.room.load(Ordering::Acquire))
    }

    /// Makes the next call measure again.
    pub(super) fn forget(&self) {
        self.measured_ms.store(NEVER, Ordering::Release);
    }
}

/// The room on the file system of `dir` and within the quota, of which `used_bytes` are taken. What cannot be measured
/// counts as full.
pub(super) fn measure(dir: &Path, used_bytes: u64, options: &FjallHistoryOptions) -> Room {
    let Ok(free_bytes) = free_bytes(dir) else { return Room::Full };
    let (quota, floor) = (options.quota_bytes, options.min_free_bytes);
    if used_bytes >= quota || free_bytes < floor {
        Room::Full
    } else if used_bytes >= quota - quota / 10 || free_bytes < floor.saturating_mul(2) {
        Room::NearlyFull
    } else {
        Room::Ok
    }
}

/// What an ordinary process may still write on the file system of `dir`, in bytes.
pub(super) fn free_bytes(dir: &Path) -> io::Result<u64> {
    let found = rustix::fs::statvfs(dir)?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

fn encode(room: Room) -> u8 {
    match room {
        Room::Ok => 0,
        Room::NearlyFull => 1,
        Room::Full => 2,
    }
}

fn decode(room: u8) -> Room {
    match room {
        0 => Room::Ok,
        1 => Room::NearlyFull,
        _ => Room::Full,
    }
}
