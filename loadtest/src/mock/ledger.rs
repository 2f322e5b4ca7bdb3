//! The ledger file: one JSON line per request, written before the answer goes out, never changed.

use std::borrow::Cow;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use bytes::{BufMut, BytesMut};
use serde::Deserialize;

use super::json::push_str;
use super::money::push_u64;

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Status {
    /// Money moved.
    Applied,
    /// The carrier decided against it; remembered under the key.
    Refused,
    /// The key was decided before and the money fields are the same; nothing moved.
    Replayed,
    /// The key was decided before with other money fields; nothing moved.
    Mismatch,
    /// Busy, throttled, down or lost on the way; not remembered.
    NotProcessed,
    /// The request itself is wrong; not remembered.
    Rejected,
}

impl Status {
    fn name(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Refused => "refused",
            Self::Replayed => "replayed",
            Self::Mismatch => "mismatch",
            Self::NotProcessed => "not_processed",
            Self::Rejected => "rejected",
        }
    }
}

/// One line to be written.
pub(super) struct Entry<'a> {
    pub(super) at_us: u64,
    pub(super) op: Op,
    pub(super) key: &'a str,
    pub(super) msisdn: &'a str,
    /// The key of the request that this one follows; empty: none.
    pub(super) parent: &'a str,
    /// What moved, or was to move.
    pub(super) amount_minor: Option<u64>,
    /// What was asked for, where less moved.
    pub(super) asked_minor: Option<u64>,
    pub(super) currency: &'a str,
    pub(super) status: Status,
    pub(super) reason: &'a str,
    pub(super) txn: &'a [u8],
    pub(super) reply: &'a str,
    pub(super) text: &'a str,
}

/// One line of an earlier life, as far as the books need it.
#[derive(Debug, Deserialize)]
pub(super) struct Past<'a> {
    pub(super) seq: u64,
    pub(super) at_us: u64,
    #[serde(borrow)]
    pub(super) key: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) msisdn: Cow<'a, str>,
    pub(super) op: Op,
    #[serde(default, borrow)]
    pub(super) parent: Cow<'a, str>,
    pub(super) amount: Option<u64>,
    #[serde(default)]
    pub(super) asked: Option<u64>,
    #[serde(borrow)]
    pub(super) currency: Cow<'a, str>,
    pub(super) status: Status,
    #[serde(borrow)]
    pub(super) reason: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) reply: Cow<'a, str>,
}

/// What the carrier was asked to do. Only charge, confirm and refund move money.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Op {
    Charge,
    Reserve,
    Confirm,
    Cancel,
    Refund,
}

impl Op {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Charge => "charge",
            Self::Reserve => "reserve",
            Self::Confirm => "confirm",
            Self::Cancel => "cancel",
            Self::Refund => "refund",
        }
    }
}

/// The open file.
pub(super) struct Ledger {
    file: File,
    length: u64,
    last_seq: u64,
    line: BytesMut,
}

impl Drop for Ledger {
    /// Gives the lock back at once, whatever child has a copy of the descriptor between its `fork` and `exec`.
    fn drop(&mut self) {
        let _ = rustix::fs::flock(&self.file, rustix::fs::FlockOperation::Unlock);
    }
}

/// Why a ledger cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The system refused.
    #[error("ledger {path}: {source}")]
    Io {
        /// The ledger file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Another process has it open.
    #[error("ledger {path} is in use by another process")]
    InUse {
        /// The ledger file.
        path: PathBuf,
    },
    /// A whole line is not one of ours.
    #[error("ledger {path} line {line}: {flaw}")]
    BadLine {
        /// The ledger file.
        path: PathBuf,
        /// Counted from 1.
        line: u64,
        /// What is wrong with it.
        flaw: String,
    },
}

impl Ledger {
    /// Opens or creates the file, gives every earlier line to `each`, and cuts off a torn last line with a note on stderr.
    ///
    /// # Errors
    /// When the file cannot be read and locked, or a line before the last is not a ledger line.
    pub(super) fn open(
        path: &Path,
        mut each: impl FnMut(&Past<'_>) -> Result<(), String>,
    ) -> Result<Self, LedgerError> {
        let io = |source: std::io::Error| LedgerError::Io { path: path.to_owned(), source };
        let file = OpenOptions::new().read(true).append(true).create(true).open(path).map_err(io)?;
        rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| LedgerError::InUse { path: path.to_owned() })?;
        let mut reader = BufReader::with_capacity(1 << 20, &file);
        let (mut length, mut lines, mut last_seq) = (0_u64, 0_u64, 0_u64);
        let mut bytes = Vec::new();
        loop {
            bytes.clear();
            let read = reader.read_until(b'\n', &mut bytes).map_err(io)?;
            if bytes.last() != Some(&b'\n') {
                break;
            }
            lines += 1;
            let bad = |flaw: String| LedgerError::BadLine { path: path.to_owned(), line: lines, flaw };
            let past: Past<'_> = serde_json::from_slice(&bytes).map_err(|error| bad(error.to_string()))?;
            if past.seq <= last_seq {
                return Err(bad(format!("seq {} follows {last_seq}", past.seq)));
            }
            each(&past).map_err(bad)?;
            last_seq = past.seq;
            length += read as u64;
        }
        if !bytes.is_empty() {
            eprintln!(
                "mock-carrier: ledger {}: cut off a torn last line of {} bytes",
                path.display(),
                bytes.len()
            );
            file.set_len(length).map_err(io)?;
        }
        Ok(Self { file, length, last_seq, line: BytesMut::with_capacity(1_024) })
    }

    /// The number the next line will have.
    pub(super) fn next_seq(&self) -> u64 {
        self.last_seq + 1
    }

    /// Writes one line with one `write(2)`. After an error the file is as it was before.
    pub(super) fn append(&mut self, entry: &Entry<'_>) -> std::io::Result<()> {
        self.line.clear();
        push_entry(&mut self.line, self.last_seq + 1, entry);
        if let Err(error) = self.file.write_all(&self.line) {
            self.file.set_len(self.length)?;
            return Err(error);
        }
        self.length += self.line.len() as u64;
        self.last_seq += 1;
        Ok(())
    }

    /// From now on every write fails, as on a full disk.
    #[cfg(test)]
    pub(super) fn break_writes(&mut self, path: &Path) -> std::io::Result<()> {
        self.file = File::open(path)?;
        Ok(())
    }

    /// Puts everything written so far on the disk.
    pub(super) fn sync(&self) -> std::io::Result<()> {
        self.file.sync_data()
    }
}

fn push_entry(out: &mut BytesMut, seq: u64, entry: &Entry<'_>) {
    out.put_slice(b"{\"seq\":");
    push_u64(out, seq);
    out.put_slice(b",\"at_us\":");
    push_u64(out, entry.at_us);
    out.put_slice(b",\"key\":");
    push_str(out, entry.key);
    out.put_slice(b",\"msisdn\":");
    push_str(out, entry.msisdn);
    out.put_slice(b",\"op\":\"");
    out.put_slice(entry.op.name().as_bytes());
    if !entry.parent.is_empty() {
        out.put_slice(b"\",\"parent\":");
        push_str(out, entry.parent);
        out.put_slice(b",\"amount\":");
    } else {
        out.put_slice(b"\",\"amount\":");
    }
    match entry.amount_minor {
        Some(minor) => push_u64(out, minor),
        None => out.put_slice(b"null"),
    }
    if let Some(asked) = entry.asked_minor {
        out.put_slice(b",\"asked\":");
        push_u64(out, asked);
    }
    out.put_slice(b",\"currency\":");
    push_str(out, entry.currency);
    for (name, value) in [
        (&b",\"status\":\""[..], entry.status.name().as_bytes()),
        (b"\",\"reason\":\"", entry.reason.as_bytes()),
        (b"\",\"txn\":\"", entry.txn),
        (b"\",\"reply\":\"", entry.reply.as_bytes()),
    ] {
        out.put_slice(name);
        out.put_slice(value);
    }
    out.put_slice(b"\",\"text\":");
    push_str(out, entry.text);
    out.put_slice(b"}\n");
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn hostile_text_stays_inside_its_field_and_reads_back() {
        let nasty = "a\"},\n{\"seq\":9,\\\u{1}é";
        let entry = Entry {
            at_us: 5,
            op: Op::Refund,
            parent: nasty,
            asked_minor: Some(7),
            key: nasty,
            msisdn: "34600000001",
            amount_minor: None,
            currency: nasty,
            status: Status::NotProcessed,
            reason: "busy",
            txn: b"p-1",
            reply: "sent",
            text: nasty,
        };
        let mut line = BytesMut::new();
        push_entry(&mut line, 7, &entry);
        assert_eq!(line.iter().filter(|b| **b == b'\n').count(), 1);
        let past: Past<'_> = serde_json::from_slice(&line).unwrap();
        assert_eq!((past.seq, past.at_us, &*past.key, &*past.currency), (7, 5, nasty, nasty));
        assert_eq!((past.op, &*past.parent, past.asked), (Op::Refund, nasty, Some(7)));
        assert_eq!((past.amount, past.status, &*past.reason), (None, Status::NotProcessed, "busy"));
        let value: serde_json::Value = serde_json::from_slice(&line).unwrap();
        assert_eq!(
            (&value["txn"], &value["text"], &value["op"]),
            (&"p-1".into(), &nasty.into(), &"refund".into())
        );
    }
}
