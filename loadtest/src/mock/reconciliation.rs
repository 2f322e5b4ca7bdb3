//! The reconciliation file: what moved in a span of time, as CSV with control totals; and files as carriers spoil them.
//!
//! `H,from,until` in local time, one `D,key,op,txn,amount,currency,msisdn,at` per movement, `T,currency,count,sum` (minor
//! units; without a row the carrier's own currency). Written beside its place and renamed, so that nobody reads half a file.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

/// What is asked for.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    /// Where to write it.
    path: PathBuf,
    /// Both are rounded down to a second, as the header writes them.
    #[serde(default)]
    from_us: u64,
    /// Left out: up to now.
    until_us: Option<u64>,
    /// The zone of its times; UTC if left out.
    zone: Option<String>,
    #[serde(default)]
    fault: Option<Fault>,
}

/// How a file may be spoilt. Late and twice it is by when and how often it is handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Fault {
    /// It ends in the middle of a line.
    Truncated,
    /// A row less than the trailer counts.
    RowLost,
    /// Every second row is missing, and the totals agree with that.
    RowsMissing,
    WrongCount,
    WrongSum,
    NoTrailer,
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
    msisdn: String,
    op: String,
    amount: Option<u64>,
    currency: String,
    status: String,
    txn: String,
}

/// Writes the file from the ledger. Lines of the ledger are whole: the caller holds the books.
pub(super) fn write(ledger: &Path, currency: &str, wanted: &Wanted, now_us: u64) -> std::io::Result<Totals> {
    let zone = TimeZone::get(wanted.zone.as_deref().unwrap_or("UTC")).map_err(std::io::Error::other)?;
    let second = 1_000_000;
    let from_us = wanted.from_us / second * second;
    let until_us = wanted.until_us.unwrap_or(now_us) / second * second;
    let mut text = Vec::new();
    let mut out = BufWriter::new(&mut text);
    writeln!(out, "H,{},{}", local(&zone, from_us)?, local(&zone, until_us)?)?;
    let mut totals = Totals::default();
    let mut sums: BTreeMap<String, (u64, u64)> = BTreeMap::from([(currency.to_owned(), (0, 0))]);
    let mut met = 0_u64;
    for line in BufReader::new(File::open(ledger)?).lines() {
        let line: Line = serde_json::from_str(&line?).map_err(std::io::Error::other)?;
        let sum = match line.op.as_str() {
            "charge" | "confirm" => &mut totals.collected_minor,
            "refund" => &mut totals.given_back_minor,
            _ => continue,
        };
        if line.status != "applied" || !(from_us..until_us).contains(&line.at_us) {
            continue;
        }
        met += 1;
        if wanted.fault == Some(Fault::RowsMissing) && met.is_multiple_of(2) {
            continue;
        }
        let amount = line.amount.unwrap_or(0);
        *sum = sum.saturating_add(amount);
        totals.count += 1;
        let total = sums.entry(line.currency.clone()).or_default();
        *total = (total.0 + 1, total.1.saturating_add(amount));
        if wanted.fault == Some(Fault::RowLost) && met == 1 {
            continue;
        }
        // A key may hold anything: quoted, its quotes doubled.
        let key = line.key.replace('"', "\"\"");
        let (op, txn, at) = (&line.op, &line.txn, local(&zone, line.at_us)?);
        writeln!(out, "D,\"{key}\",{op},{txn},{amount},{},{},{at}", line.currency, line.msisdn)?;
    }
    for (currency, (count, sum)) in sums {
        let (count, sum) = match wanted.fault {
            Some(Fault::NoTrailer) => continue,
            Some(Fault::WrongCount) => (count + 1, sum),
            Some(Fault::WrongSum) => (count, sum + 1),
            _ => (count, sum),
        };
        writeln!(out, "T,{currency},{count},{sum}")?;
    }
    out.flush()?;
    drop(out);
    if wanted.fault == Some(Fault::Truncated) {
        text.truncate(text.len() * 2 / 3);
    }
    let mut beside = wanted.path.clone().into_os_string();
    beside.push(".tmp");
    let mut file = File::create(&beside)?;
    file.write_all(&text)?;
    file.sync_all()?;
    std::fs::rename(beside, &wanted.path)?;
    Ok(totals)
}

fn local(zone: &TimeZone, at_us: u64) -> std::io::Result<String> {
    let at = i64::try_from(at_us / 1_000_000).ok().and_then(|s| Timestamp::from_second(s).ok());
    let at = at.ok_or_else(|| std::io::Error::other("an instant beyond the calendar"))?;
    Ok(zone.to_datetime(at).strftime("%Y-%m-%dT%H:%M:%S").to_string())
}
