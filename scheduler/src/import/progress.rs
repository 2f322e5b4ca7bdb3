//! How far an import is, how fast, and how long it will take.

use std::collections::VecDeque;
use std::time::Instant;

/// The rate is taken over this many batches: the first of a repeated file fly by, new lines take their time.
const MARKS_MAX: usize = 16;

/// What an import did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ImportReport {
    /// Lines seen, the header and empty lines left out; always the sum of the next three.
    pub rows: u64,
    /// Subscriptions that are new.
    pub created: u64,
    /// Lines that had their subscription already.
    pub existing: u64,
    /// Lines that were given to the reject file.
    pub rejected: u64,
    /// Subscribers that are new.
    pub subscribers_created: u64,
    /// How long it took, milliseconds.
    pub elapsed_ms: u64,
}

/// Where an import stands, after a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImportProgress {
    /// What was done so far.
    pub report: ImportReport,
    /// Bytes of the file that were read.
    pub bytes_read: u64,
    /// The file's size, where known.
    pub bytes_total: Option<u64>,
    /// Lines per second over the last batches.
    pub rows_per_s: u64,
    /// How long the rest will take at this rate, milliseconds; known with the file's size.
    pub eta_ms: Option<u64>,
}

/// Measures the rate.
pub(super) struct Pace {
    started: Instant,
    bytes_total: Option<u64>,
    marks: VecDeque<Mark>,
}

#[derive(Clone, Copy)]
struct Mark {
    at_us: u64,
    rows: u64,
    bytes: u64,
}

impl Pace {
    pub(super) fn new(started: Instant, bytes_total: Option<u64>) -> Self {
        Self { started, bytes_total, marks: VecDeque::from([Mark { at_us: 0, rows: 0, bytes: 0 }]) }
    }

    pub(super) fn elapsed_ms(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.started).as_millis()).unwrap_or(u64::MAX)
    }

    /// Where things stand after a batch.
    pub(super) fn mark(&mut self, report: &ImportReport, bytes_read: u64, now: Instant) -> ImportProgress {
        let at_us =
            u64::try_from(now.saturating_duration_since(self.started).as_micros()).unwrap_or(u64::MAX);
        let mark = Mark { at_us, rows: report.rows, bytes: bytes_read };
        let since = *self.marks.front().unwrap_or(&mark);
        self.marks.push_back(mark);
        if self.marks.len() > MARKS_MAX {
            self.marks.pop_front();
        }
        let took_us = at_us.saturating_sub(since.at_us).max(1);
        let bytes = bytes_read.saturating_sub(since.bytes).max(1);
        let left = self.bytes_total.map(|total| total.saturating_sub(bytes_read));
        ImportProgress {
            report: ImportReport { elapsed_ms: at_us / 1_000, ..*report },
            bytes_read,
            bytes_total: self.bytes_total,
            rows_per_s: scaled(report.rows.saturating_sub(since.rows), 1_000_000, took_us),
            eta_ms: left.map(|left| scaled(left, took_us, bytes) / 1_000),
        }
    }
}

/// `value * by / of`, without overflow.
fn scaled(value: u64, by: u64, of: u64) -> u64 {
    let product = u128::from(value) * u128::from(by) / u128::from(of.max(1));
    u64::try_from(product).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::time::Duration;

    use super::*;

    #[test]
    fn rate_and_estimate_follow_the_last_batches() {
        let started = Instant::now();
        let mut pace = Pace::new(started, Some(100_000));
        let mut at = |batch: u64, ms: u64| {
            let report = ImportReport { rows: batch * 10, ..ImportReport::default() };
            pace.mark(&report, batch * 1_000, started + Duration::from_millis(ms))
        };
        let first = at(1, 100);
        assert_eq!((first.rows_per_s, first.eta_ms), (100, Some(9_900)));
        // Ten times slower from here on: after enough batches the first one has no say any more.
        let last = (2..=40).map(|batch| at(batch, 100 + (batch - 1) * 1_000)).last().unwrap();
        assert_eq!((last.rows_per_s, last.eta_ms), (10, Some(60_000)));
        assert_eq!(last.report.elapsed_ms, 39_100);
    }

    #[test]
    fn without_a_size_there_is_no_estimate() {
        let mut pace = Pace::new(Instant::now(), None);
        assert_eq!(pace.mark(&ImportReport::default(), 0, Instant::now()).eta_ms, None);
    }
}
