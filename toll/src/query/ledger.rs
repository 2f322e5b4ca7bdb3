//! `toll query ledger`: the trial balance, and whether what was sealed is still so.

use std::collections::BTreeMap;

use billing_core::ledger::{Owner, Purpose};
use billing_core::period::date_of_days;
use serde::Serialize;
use storage::pg::{self, AccountRow, SealState};

use crate::cli::Global;
use crate::exit::failed;
use crate::out::{self, Paint, Table};
use crate::reading::Reading;
use crate::shown::one_line;
use crate::words::{Amount, count};

/// Verifying reads every transfer.
const VERIFY_TIMEOUT_MS: u32 = 3_600_000;
/// Differences that are shown as text; JSON has all.
const SHOWN_MAX: usize = 50;

/// What `toll query ledger` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = "Exits with 1 when a currency does not sum to zero, or --verify finds a difference.

Examples:
  toll query ledger
  toll query ledger --verify
  toll query ledger --json | jq '.assets[] | {currency, sum}'")]
pub(crate) struct LedgerArgs {
    /// Count everything again: totals and digests of sealed days and months, balances against their transfers
    #[arg(long)]
    verify: bool,
}

#[derive(Debug, Serialize)]
struct Ledger {
    balanced: bool,
    assets: Vec<Asset>,
    /// The last sealed business date.
    sealed_until: Option<String>,
    /// The last closed month.
    closed_month: Option<String>,
    /// `None` when it was not asked for.
    differences: Option<Vec<Difference>>,
}

#[derive(Debug, Serialize)]
struct Asset {
    currency: String,
    /// Zero when the books are right.
    sum: Amount,
    debit: Amount,
    credit: Amount,
    accounts: Vec<Account>,
}

#[derive(Debug, Serialize)]
struct Account {
    owner_kind: &'static str,
    owner: String,
    purpose: &'static str,
    /// Debits minus credits.
    balance: Amount,
}

#[derive(Debug, Serialize)]
struct Difference {
    place: String,
    what: String,
}

/// Shows the ledger.
pub(super) async fn ledger(global: &Global, args: &LedgerArgs) -> anyhow::Result<()> {
    let mut reading = Reading::open(global).await?;
    let read = read(&mut reading, args.verify).await;
    reading.close().await;
    let ledger = read?;
    if global.json {
        out::json(&ledger)?;
    } else {
        out::print(&text(&ledger, Paint::of_stdout()))?;
    }
    let differences = ledger.differences.map_or(0, |found| found.len());
    match (ledger.balanced, differences) {
        (false, _) => Err(failed("the ledger does not sum to zero")),
        (true, 0) => Ok(()),
        (true, found) => Err(failed(format!("the ledger has {}", count(found, "difference")))),
    }
}

async fn read(reading: &mut Reading, verify: bool) -> anyhow::Result<Ledger> {
    let rows = pg::trial_balance(&mut reading.conn).await?;
    let seals = pg::seal_state(&mut reading.conn).await?;
    let differences = match verify {
        false => None,
        true => {
            pg::reading(&mut reading.conn, VERIFY_TIMEOUT_MS).await?;
            let found = pg::verify_ledger(&mut reading.conn).await?;
            Some(found.into_iter().map(|found| Difference { place: found.place, what: found.what }).collect())
        }
    };
    Ok(of(rows, &seals, differences))
}

fn of(rows: Vec<AccountRow>, seals: &SealState, differences: Option<Vec<Difference>>) -> Ledger {
    let mut by_asset: BTreeMap<i16, Vec<AccountRow>> = BTreeMap::new();
    for row in rows {
        by_asset.entry(row.asset).or_default().push(row);
    }
    let sum_of = |rows: &[AccountRow], part: fn(i64) -> i64| -> i64 {
        rows.iter().map(|row| part(row.posted_minor)).fold(0, i64::saturating_add)
    };
    let balanced = by_asset.values().all(|rows| sum_of(rows, |posted| posted) == 0);
    let assets = by_asset.into_iter().map(|(asset, rows)| Asset {
        currency: Amount::new(0, asset).currency,
        sum: Amount::new(sum_of(&rows, |posted| posted), asset),
        debit: Amount::new(sum_of(&rows, |posted| posted.max(0)), asset),
        credit: Amount::new(sum_of(&rows, |posted| posted.min(0).saturating_neg()), asset),
        accounts: rows
            .into_iter()
            .map(|row| Account {
                owner_kind: Owner::name_of(row.owner_kind),
                owner: row.owner,
                purpose: Purpose::name_of(row.purpose),
                balance: Amount::new(row.posted_minor, asset),
            })
            .collect(),
    });
    Ledger {
        balanced,
        assets: assets.collect(),
        sealed_until: seals.sealed_day.map(|day| date_of_days(day).to_string()),
        closed_month: seals.closed_month.map(|month| format!("{}-{:02}", month / 100, month % 100)),
        differences,
    }
}

fn text(ledger: &Ledger, paint: Paint) -> String {
    let mut text = String::new();
    for asset in &ledger.assets {
        let mut table = Table::new(&["OWNER", "ACCOUNT", ">DEBIT", ">CREDIT"]);
        for account in &asset.accounts {
            let (debit, credit) = match account.balance.amount.strip_prefix('-') {
                Some(credit) => (String::new(), credit.to_owned()),
                None => (account.balance.amount.clone(), String::new()),
            };
            let owner = format!("{} {}", account.owner_kind, one_line(&account.owner));
            table.row(vec![owner, account.purpose.to_owned(), debit, credit]);
        }
        table.row(vec!["all".into(), String::new(), asset.debit.amount.clone(), asset.credit.amount.clone()]);
        text += &format!("{}\n{}", paint.bold(&asset.currency), table.render(2, paint));
        text += &match asset.sum.amount.trim_start_matches(['0', '.']).is_empty() {
            true => format!("  {}\n", paint.good("sums to zero")),
            false => format!("  {} {}\n", paint.bad("does not sum to zero: it is"), asset.sum),
        };
    }
    if ledger.assets.is_empty() {
        text += "nothing is posted yet: the ledger sums to zero\n";
    }
    text += &match (&ledger.sealed_until, &ledger.closed_month) {
        (None, _) => "no day is sealed\n".to_owned(),
        (Some(day), None) => format!("sealed until {day}, no month is closed\n"),
        (Some(day), Some(month)) => format!("sealed until {day}, closed until {month}\n"),
    };
    match &ledger.differences {
        None => {}
        Some(found) if found.is_empty() => {
            text += "verified: every total, digest and balance is that of its transfers\n"
        }
        Some(found) => {
            for difference in found.iter().take(SHOWN_MAX) {
                text += &format!("{} {}: {}\n", paint.bad("✗"), difference.place, difference.what);
            }
            if found.len() > SHOWN_MAX {
                text += &format!("and {}\n", count(found.len() - SHOWN_MAX, "more difference"));
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn row(asset: i16, owner_kind: i16, purpose: i16, posted_minor: i64) -> AccountRow {
        AccountRow { asset, owner_kind, owner: "x".into(), purpose, posted_minor }
    }

    const OPEN: SealState = SealState { first_day: None, sealed_day: None, days: 0, closed_month: None };

    #[test]
    fn currencies_never_mix() {
        // 10.00 EUR against 10.000 TND would sum to zero in a heap of minor units.
        let ledger = of(vec![row(978, 1, 1, 10_000), row(788, 2, 2, -10_000)], &OPEN, None);
        assert!(!ledger.balanced);
        assert_eq!(
            ledger.assets.iter().map(|asset| asset.sum.to_string()).collect::<Vec<_>>(),
            ["-10.000 TND", "100.00 EUR"]
        );
        assert!(text(&ledger, Paint::never()).contains("does not sum to zero: it is -10.000 TND"));
    }

    #[test]
    fn a_trial_balance_reads_as_one() {
        let rows =
            vec![row(788, 1, 1, 1_190), row(788, 1, 5, -300), row(788, 2, 2, -700), row(788, 2, 4, -190)];
        let ledger = of(
            rows,
            &SealState { sealed_day: Some(9_831), closed_month: Some(202_611), ..OPEN },
            Some(vec![]),
        );
        assert!(ledger.balanced);
        let text = text(&ledger, Paint::never());
        for part in [
            "carrier x   receivable   1.190",
            "carrier_fee",
            "0.300",
            "sums to zero",
            "sealed until 2026-12-01, closed until 2026-11",
            "verified",
        ] {
            assert!(text.contains(part), "{part} is missing in:\n{text}");
        }
        let none = of(Vec::new(), &OPEN, None);
        assert!(none.balanced && super::text(&none, Paint::never()).contains("sums to zero"));
    }
}
