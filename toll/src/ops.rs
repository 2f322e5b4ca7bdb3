//! `toll ops`: closing the ledger, what people decide, carriers' files. What is closed takes no postings any more; what comes late falls
//! on the next open day.

mod audit;
mod cases;
mod decide;
mod files;
mod quarantine;

use billing_core::period::{date_of_days, days_since_2000};
use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde::Serialize;
use sqlx::postgres::PgConnection;
use storage::pg::{self, StoreError};

use crate::cli::Global;
use crate::database::Database;
use crate::exit::{failed, usage};
use crate::home::Home;
use crate::out;
use crate::who;
use crate::words::{count, timestamp};
pub(crate) use files::definitions;

/// What can be operated.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum OpsCommand {
    /// Seal business days: their totals are kept with a digest that includes the day before
    Seal(SealArgs),
    /// Close a month whose days are sealed
    CloseMonth(CloseMonthArgs),
    /// Show what waits for people: attempts that nothing else can settle, proposals, cases
    Cases(cases::CasesArgs),
    /// Propose what became of an attempt that is unknown or in review; somebody else approves it
    Propose(decide::ProposeArgs),
    /// Approve what somebody else proposed
    Approve(decide::ApproveArgs),
    /// Take a carrier's reconciliation file in
    File(files::FileArgs),
    /// List the reconciliation files that were taken in, or show one
    Files(files::FilesArgs),
    /// Show what failovers hold up; say not to wait for a lost spool, or that the database was moved to another server
    Quarantine(quarantine::QuarantineArgs),
    /// Show who did what, or check that the log of it is whole
    Audit(audit::AuditArgs),
}

/// What `toll ops seal` takes.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Business days are UTC days of business time. Sealing is for good. Without --yes it only says what would happen.

Example:
  toll ops seal --until 2026-11-30 --yes"
)]
pub(crate) struct SealArgs {
    /// The last day to seal; it has to be over
    #[arg(long, value_name = "DAY")]
    until: Date,
    /// Do it
    #[arg(long)]
    yes: bool,
}

/// What `toll ops close-month` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = "Closing is for good: `toll query ledger --verify` finds any later change.

Example:
  toll ops close-month 2026-11 --yes")]
pub(crate) struct CloseMonthArgs {
    /// Such as 2026-11
    #[arg(value_parser = month)]
    month: i32,
    /// Do it
    #[arg(long)]
    yes: bool,
}

fn month(text: &str) -> Result<i32, String> {
    let date: Result<Date, _> = format!("{text}-01").parse();
    match date {
        Ok(date) if text.len() == 7 => Ok(i32::from(date.year()) * 100 + i32::from(date.month())),
        _ => Err("write a month such as 2026-11".to_owned()),
    }
}

#[derive(Debug, Serialize)]
struct Done {
    done: bool,
    what: String,
}

/// Runs a verb.
pub(crate) async fn run(global: &Global, command: &OpsCommand) -> anyhow::Result<()> {
    match command {
        OpsCommand::Seal(args) => close(global, Closing::Days(args)).await,
        OpsCommand::CloseMonth(args) => close(global, Closing::Month(args)).await,
        OpsCommand::Cases(args) => cases::run(global, args).await,
        OpsCommand::Propose(args) => decide::propose(global, args).await,
        OpsCommand::Approve(args) => decide::approve(global, args).await,
        OpsCommand::File(args) => files::take(global, args).await,
        OpsCommand::Files(args) => files::list(global, args).await,
        OpsCommand::Quarantine(args) => quarantine::run(global, args).await,
        OpsCommand::Audit(args) => audit::run(global, args).await,
    }
}

/// What of the ledger is closed.
enum Closing<'a> {
    Days(&'a SealArgs),
    Month(&'a CloseMonthArgs),
}

async fn close(global: &Global, what: Closing<'_>) -> anyhow::Result<()> {
    let home = Home::open(&global.data)?;
    let database = Database::open(&home, global.database.as_deref()).await?;
    let done = async {
        let mut conn = database.writing().await?;
        match what {
            Closing::Days(args) => seal(&mut conn, args).await,
            Closing::Month(args) => close_month(&mut conn, args).await,
        }
    };
    let done = done.await;
    database.close().await;
    let done = done?;
    if global.json {
        out::json(&done)?;
    } else {
        out::print(&format!("{}\n", done.what))?;
    }
    if !done.done {
        eprintln!("nothing was done: add --yes to do it");
    }
    Ok(())
}

async fn seal(conn: &mut PgConnection, args: &SealArgs) -> anyhow::Result<Done> {
    let now = pg::business_now(conn).await?;
    let today = timestamp(now.business_ms).to_zoned(TimeZone::UTC).date();
    if args.until >= today {
        return Err(usage(format!("{} is not over: business time is {today} (UTC)", args.until)));
    }
    let until_day = days_since_2000(args.until);
    let state = pg::seal_state(conn).await?;
    let first = state.sealed_day.map(|day| day + 1).or(state.first_day);
    let days = first.map_or(0, |first| (until_day - first + 1).max(0));
    if !args.yes {
        let from = first.map_or_else(|| "the first".to_owned(), |day| date_of_days(day).to_string());
        let what = format!("would seal {}, {from} to {}", count(days, "day"), args.until);
        return Ok(Done { done: false, what });
    }
    let sealed = pg::seal_until(conn, until_day).await.map_err(told)?;
    // Afterwards: sealing is several commits, and must not hold the chain meanwhile.
    let details = serde_json::json!({"until": args.until.to_string(), "days": sealed});
    who::audit(conn, "ledger.seal", "", details).await?;
    Ok(Done { done: true, what: format!("{} sealed, until {}", count(sealed, "day"), args.until) })
}

async fn close_month(conn: &mut PgConnection, args: &CloseMonthArgs) -> anyhow::Result<Done> {
    let name = format!("{}-{:02}", args.month / 100, args.month % 100);
    if !args.yes {
        return Ok(Done { done: false, what: format!("would close {name}") });
    }
    pg::close_month(conn, args.month).await.map_err(told)?;
    who::audit(conn, "ledger.close_month", &name, serde_json::json!({})).await?;
    Ok(Done { done: true, what: format!("{name} is closed") })
}

/// What the database's own rules refuse, in their words.
fn told(error: StoreError) -> anyhow::Error {
    match &error {
        StoreError::Refused(cause) => match cause.as_database_error() {
            Some(cause) if cause.code().as_deref() == Some("TB004") => failed(cause.message().to_owned()),
            _ => error.into(),
        },
        _ => anyhow::Error::from(error).context("the ledger was not closed any further"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn months_are_read() {
        assert_eq!(month("2026-11"), Ok(202_611));
        for bad in ["2026-13", "2026-1", "26-11", "2026-11-02", "x", ""] {
            assert!(month(bad).is_err(), "{bad}");
        }
    }
}
