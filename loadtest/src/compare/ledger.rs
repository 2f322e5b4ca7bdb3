//! A carrier's ledger: what it applied, by key.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use billing_core::ids::OurRef;
use serde::Deserialize;

use super::CompareError;

/// A line is never longer, or it is none.
const LINE_BYTES_MAX: u64 = 1 << 20;
/// Of what should not exist at all, so many are kept with their keys; the rest is counted.
const ODD_MAX: usize = 1_000;
const READ_BUFFER_BYTES: usize = 1 << 20;

/// What moved money at a carrier.
#[derive(Debug, Default)]
pub(super) struct Applied {
    /// By our key.
    pub(super) keys: HashMap<OurRef, Theirs>,
    /// Applied under a key that was applied before: (key, that line).
    pub(super) twice: Vec<(String, Theirs)>,
    /// Applied under a key that is none of ours.
    pub(super) strange: Vec<(String, Theirs)>,
    /// What it gave back, by our key.
    pub(super) refunds: HashMap<OurRef, Theirs>,
    /// Lines of the last two kinds (applied twice, strange) beyond what is kept.
    pub(super) uncounted: u64,
}

/// One applied charge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Theirs {
    pub(super) amount_minor: i64,
    currency: [u8; 3],
    /// Written after our snapshot.
    pub(super) is_later: bool,
}

#[derive(Deserialize)]
struct Line<'a> {
    at_us: i64,
    #[serde(borrow)]
    key: Cow<'a, str>,
    #[serde(default, borrow)]
    op: Option<Cow<'a, str>>,
    amount: Option<i64>,
    #[serde(borrow)]
    currency: Cow<'a, str>,
    #[serde(borrow)]
    status: Cow<'a, str>,
}

impl Theirs {
    pub(super) fn is(&self, minor: i64, currency: &str) -> bool {
        self.amount_minor == minor && currency.as_bytes() == self.currency
    }

    pub(super) fn currency(&self) -> String {
        String::from_utf8_lossy(&self.currency).into_owned()
    }

    pub(super) fn money(&self) -> (i64, String) {
        (self.amount_minor, self.currency())
    }
}

/// Reads a ledger. A last line without an end is being written, or was torn by a kill: it does not count, as its answer
/// never left. `snapshot_us`: when our side was looked at, microseconds since 1970.
pub(super) fn read(path: &Path, snapshot_us: i64) -> Result<Applied, CompareError> {
    let io = |source| CompareError::Io { path: path.to_owned(), source };
    let mut reader = BufReader::with_capacity(READ_BUFFER_BYTES, File::open(path).map_err(io)?);
    let mut applied = Applied::default();
    let mut bytes = Vec::new();
    for line in 1.. {
        bytes.clear();
        let bad = |flaw: String| CompareError::BadLine { path: path.to_owned(), line, flaw };
        reader.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut bytes).map_err(io)?;
        if bytes.last() != Some(&b'\n') {
            if bytes.len() as u64 == LINE_BYTES_MAX {
                return Err(bad(format!("longer than {LINE_BYTES_MAX} bytes")));
            }
            break;
        }
        let read: Line<'_> = serde_json::from_slice(&bytes).map_err(|error| bad(error.to_string()))?;
        // What is set aside, and what is given back of that, is not money.
        let op = read.op.as_deref().unwrap_or("charge");
        if read.status != "applied" || matches!(op, "reserve" | "cancel") {
            continue;
        }
        let amount_minor = read.amount.ok_or_else(|| bad("applied without an amount".to_owned()))?;
        let currency = <[u8; 3]>::try_from(read.currency.as_bytes())
            .map_err(|_| bad("applied without a currency code".to_owned()))?;
        let theirs = Theirs { amount_minor, currency, is_later: read.at_us > snapshot_us };
        applied.add(&read.key, op == "refund", theirs);
    }
    Ok(applied)
}

impl Applied {
    fn add(&mut self, key: &str, refund: bool, theirs: Theirs) {
        let kept = if refund { &mut self.refunds } else { &mut self.keys };
        let odd = match OurRef::parse(key) {
            Ok(ours) => match kept.entry(ours) {
                std::collections::hash_map::Entry::Vacant(slot) => {
                    slot.insert(theirs);
                    return;
                }
                std::collections::hash_map::Entry::Occupied(_) => &mut self.twice,
            },
            Err(_) => &mut self.strange,
        };
        if odd.len() < ODD_MAX {
            odd.push((key.to_owned(), theirs));
        } else {
            self.uncounted += 1;
        }
    }
}
