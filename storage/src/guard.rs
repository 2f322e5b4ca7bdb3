//! What a process remembers of the server that it wrote to, so that another one, or an old copy, is noticed.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

/// A server as it was last seen; zeros where nothing is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Seen {
    /// Which cluster.
    pub system_identifier: i64,
    /// Its history: rises with each promotion.
    pub timeline: i32,
    /// The guard row's counter: rises with each touch.
    pub counter: i64,
    /// How far its log was durable, bytes.
    pub lsn: i64,
}

impl Seen {
    /// The later of two sights of one server.
    #[must_use]
    pub fn later(self, other: Self) -> Self {
        Self { counter: self.counter.max(other.counter), lsn: self.lsn.max(other.lsn), ..self }
    }
}

/// Where a machine keeps it over restarts: a small file beside the spool, or this process' memory.
#[derive(Debug)]
pub enum GuardMemory {
    /// A file.
    File(PathBuf),
    /// For the simulation.
    Memory(Mutex<Option<Seen>>),
}

impl GuardMemory {
    /// What is remembered. A file that cannot be read is nothing: the database's own guard row still tells.
    #[must_use]
    pub fn read(&self) -> Option<Seen> {
        match self {
            Self::File(path) => parse(&fs::read_to_string(path).ok()?),
            Self::Memory(kept) => *kept.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }

    /// Remembers a sight. Not synced: after a loss of power the guard row still tells.
    ///
    /// # Errors
    /// When the file cannot be replaced.
    pub fn keep(&self, seen: Seen) -> io::Result<()> {
        match self {
            Self::File(path) => {
                let Seen { system_identifier, timeline, counter, lsn } = seen;
                let draft = path.with_extension("draft");
                fs::write(&draft, format!("{system_identifier} {timeline} {counter} {lsn}\n"))?;
                fs::rename(&draft, path)
            }
            Self::Memory(kept) => {
                *kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(seen);
                Ok(())
            }
        }
    }
}

fn parse(text: &str) -> Option<Seen> {
    let mut words = text.split_ascii_whitespace();
    let mut next = || words.next()?.parse::<i64>().ok();
    let (system_identifier, timeline) = (next()?, i32::try_from(next()?).ok()?);
    let seen = Seen { system_identifier, timeline, counter: next()?, lsn: next()? };
    words.next().is_none().then_some(seen)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::scratch::ScratchDir;

    #[test]
    fn what_was_seen_is_read_again_and_nonsense_is_nothing() {
        let dir = ScratchDir::new("guard");
        let memory = GuardMemory::File(dir.path().join("database-guard"));
        assert_eq!(memory.read(), None);
        let seen = Seen { system_identifier: -7, timeline: 3, counter: 12, lsn: i64::MAX };
        memory.keep(seen).unwrap();
        assert_eq!(memory.read(), Some(seen));
        for bad in ["", "1 2 3", "1 2 3 4 5", "1 x 3 4", "1 99999999999 3 4"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
