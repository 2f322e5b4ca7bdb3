//! The event log of a run: everything that happened, in sequence, as one number; and the last lines in words, for people.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};

use tokio::time::Instant;

use super::dice::mix;

/// What happened, and what should not have.
#[derive(Debug)]
pub(super) struct Log {
    start: Instant,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    digest: u64,
    events: u64,
    faults: BTreeMap<&'static str, u64>,
    lines: VecDeque<String>,
    lines_max: usize,
    broken: Vec<String>,
}

/// What a run came to, as its log tells it.
pub(super) struct End {
    pub(super) digest: u64,
    pub(super) events: u64,
    /// By kind.
    pub(super) faults: BTreeMap<&'static str, u64>,
    pub(super) broken: Vec<String>,
    pub(super) lines: Vec<String>,
}

impl Log {
    /// A log that keeps so many lines in words.
    pub(super) fn new(start: Instant, lines_max: usize) -> Self {
        Self { start, kept: Mutex::new(Kept { lines_max, ..Kept::default() }) }
    }

    /// Something happened.
    pub(super) fn event(&self, what: &'static str, numbers: &[i64]) {
        let at_us = i64::try_from(self.start.elapsed().as_micros()).unwrap_or(i64::MAX);
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let mut digest = mix(kept.digest ^ at_us as u64);
        for byte in what.bytes() {
            digest = mix(digest ^ u64::from(byte));
        }
        for number in numbers {
            digest = mix(digest ^ *number as u64);
        }
        kept.digest = digest;
        kept.events += 1;
        if kept.lines_max > 0 {
            let mut line = format!("{:>10.3} {what}", at_us as f64 / 1e6);
            for number in numbers {
                let _ = write!(line, " {number}");
            }
            if kept.lines.len() == kept.lines_max {
                kept.lines.pop_front();
            }
            kept.lines.push_back(line);
        }
    }

    /// A fault was injected.
    pub(super) fn fault(&self, what: &'static str, numbers: &[i64]) {
        self.fault_of(what, what, numbers);
    }

    /// A fault that is no event of its own.
    pub(super) fn count(&self, kind: &'static str) {
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner).faults.entry(kind).or_default() += 1;
    }

    /// A fault of some kind was injected.
    pub(super) fn fault_of(&self, kind: &'static str, what: &'static str, numbers: &[i64]) {
        self.event(what, numbers);
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner).faults.entry(kind).or_default() += 1;
    }

    /// A promise was broken while it ran.
    pub(super) fn broken(&self, what: String) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).broken.push(what);
    }

    /// Everything at the end of a run.
    pub(super) fn end(&self) -> End {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        End {
            digest: kept.digest,
            events: kept.events,
            faults: std::mem::take(&mut kept.faults),
            broken: std::mem::take(&mut kept.broken),
            lines: kept.lines.drain(..).collect(),
        }
    }
}
