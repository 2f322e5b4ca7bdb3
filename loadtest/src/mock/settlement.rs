//! The settlement file: what moved between two instants, as CSV with control totals.
//!
//! `H,currency,from_us,until_us`, one `D,key,op,txn,amount,currency` per movement, `T,count,collected,given_back` (minor
//! units). Written beside its place and renamed, so that nobody reads half a file.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// What is asked for.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    /// Where to write it.
    path: PathBuf,
    #[serde(default)]
    from_us: u64,
    /// Left out: up to now.
    until_us: Option<u64>,
}

/// What was written.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Totals {
    count: u64,
    collected_minor: u64,
    given_back_minor: u64,
}

#[derive(Deserialize)]
struct Line {
    at_us: u64,
    key: String,
    op: String,
    amount: Option<u64>,
    currency: String,
    status: String,
    txn: String,
}

/// Writes the file from the ledger. Lines of the ledger are whole: the caller holds the books.
pub(super) fn write(ledger: &Path, currency: &str, wanted: &Wanted, now_us: u64) -> std::io::Result<Totals> {
    let until_us = wanted.until_us.unwrap_or(now_us);
    let mut beside = wanted.path.clone().into_os_string();
    beside.push(".tmp");
    let mut out = BufWriter::new(File::create(&beside)?);
    writeln!(out, "H,{currency},{},{until_us}", wanted.from_us)?;
    let mut totals = Totals::default();
    for line in BufReader::new(File::open(ledger)?).lines() {
        let line: Line = serde_json::from_str(&line?).map_err(std::io::Error::other)?;
        let sum = match line.op.as_str() {
            "charge" | "confirm" => &mut totals.collected_minor,
            "refund" => &mut totals.given_back_minor,
            _ => continue,
        };
        if line.status != "applied" || !(wanted.from_us..until_us).contains(&line.at_us) {
            continue;
        }
        let amount = line.amount.unwrap_or(0);
        *sum = sum.saturating_add(amount);
        totals.count += 1;
        // A key may hold anything: quoted, its quotes doubled.
        let key = line.key.replace('"', "\"\"");
        writeln!(out, "D,\"{key}\",{},{},{amount},{}", line.op, line.txn, line.currency)?;
    }
    writeln!(out, "T,{},{},{}", totals.count, totals.collected_minor, totals.given_back_minor)?;
    out.into_inner().map_err(|error| error.into_error())?.sync_all()?;
    std::fs::rename(beside, &wanted.path)?;
    Ok(totals)
}
