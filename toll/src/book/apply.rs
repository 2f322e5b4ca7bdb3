//! `toll book apply`, `history` and `revert`: versions are only ever added.

use anyhow::Context;
use carriers::StandInSecrets;
use serde::Serialize;
use sqlx::Connection;
use sqlx::postgres::PgConnection;
use storage::pg::{ApplyError, Applying, apply_book, book_history, book_version};

use super::{on_disk, plan};
use crate::book_files::LoadedBook;
use crate::book_store;
use crate::cli::Global;
use crate::database::Database;
use crate::exit::{failed, stale};
use crate::home::{Home, host};
use crate::out::{self, Paint, Table};
use crate::reading::Reading;
use crate::shown::one_line;
use crate::who;
use crate::words::{digest, machine};

/// The most versions that are listed.
const HISTORY_MAX: u16 = 10_000;

/// What `toll book apply` takes.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Without --yes it only shows the plan. Everything is applied in one commit or not at all. Workers notice
within a second or so: new charges are decided under the new version, a charge that has an attempt keeps its own.
Changed carriers or engine settings make each worker drain and start again inside of its process.

Exits with 6 when another version than the expected one is in force.

Examples:
  toll book apply
  toll book apply --yes --note 'prices of 2027'
  toll book apply --yes --expect 12"
)]
pub(crate) struct ApplyArgs {
    #[command(flatten)]
    how: How,
}

/// What `toll book revert` takes.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The version that is in force now stays in the history; what is reverted to gets a new number.

Example:
  toll book revert 11 --yes --note 'the new ladder earned less'"
)]
pub(crate) struct RevertArgs {
    /// Which version to put in force again
    version: i32,
    #[command(flatten)]
    how: How,
}

/// What `toll book history` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  toll book history --json | jq '.versions[0].version'")]
pub(crate) struct HistoryArgs {
    /// How many at most
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=i64::from(HISTORY_MAX)))]
    limit: u16,
}

#[derive(Debug, clap::Args)]
struct How {
    /// Do it
    #[arg(long)]
    yes: bool,
    /// Only if this version is in force; 0 for none
    #[arg(long, value_name = "N")]
    expect: Option<i32>,
    /// What for; at most 500 characters
    #[arg(long, value_name = "TEXT", default_value = "", value_parser = note)]
    note: String,
}

fn note(text: &str) -> Result<String, String> {
    match text.chars().count() {
        0..=500 => Ok(text.to_owned()),
        more => Err(format!("it has {more} characters; at most 500 are kept")),
    }
}

#[derive(Debug, Serialize)]
struct Applied {
    /// The new version; `None` when nothing was done.
    version: Option<i32>,
    plan: plan::Plan,
}

#[derive(Debug, Serialize)]
struct History {
    versions: Vec<Version>,
}

#[derive(Debug, Serialize)]
struct Version {
    version: i32,
    applied_at: String,
    applied_by: String,
    note: String,
    files: i64,
    digest: String,
}

/// Applies the files on disk.
pub(super) async fn apply(global: &Global, args: &ApplyArgs) -> anyhow::Result<()> {
    let loaded = on_disk(global)?;
    let home = Home::open(&global.data)?;
    let database = Database::open(&home, global.database.as_deref()).await?;
    let done = async {
        let mut conn = database.writing().await?;
        put_in_force(global, &mut conn, &loaded, &args.how).await
    };
    let done = done.await;
    database.close().await;
    done
}

/// Applies an earlier version again.
pub(super) async fn revert(global: &Global, args: &RevertArgs) -> anyhow::Result<()> {
    let home = Home::open(&global.data)?;
    let database = Database::open(&home, global.database.as_deref()).await?;
    let done = async {
        let mut conn = database.writing().await?;
        let kept = book_version(&mut conn, args.version).await?;
        let none = || {
            failed(format!(
                "there is no version {} of the book: `toll book history` lists them",
                args.version
            ))
        };
        let loaded = book_store::read(&kept.ok_or_else(none)?, &StandInSecrets)?;
        put_in_force(global, &mut conn, &loaded, &args.how).await
    };
    let done = done.await;
    database.close().await;
    done
}

async fn put_in_force(
    global: &Global,
    conn: &mut PgConnection,
    loaded: &LoadedBook,
    how: &How,
) -> anyhow::Result<()> {
    let planned = plan::make(conn, loaded).await?;
    let against = planned.against;
    if let Some(expected) = how.expect.filter(|expected| *expected != against) {
        return Err(stale(format!(
            "version {against} of the book is in force, not {expected}: `toll book plan` shows what it means now"
        )));
    }
    if planned.changes.is_empty() && against > 0 {
        return Err(failed(format!("nothing changed: version {against} of the book has the same files")));
    }
    if !planned.refused.is_empty() {
        plan::show(global, &planned)?;
        return Err(failed("the book cannot be applied; nothing was changed"));
    }
    let text = plan::text(&planned, Paint::of_stdout());
    let version = match how.yes {
        false => None,
        true => {
            let by = who();
            let applying = Applying { expect: Some(against), first: false, by: &by, note: &how.note };
            let mut tx = conn.begin().await?;
            match apply_book(&mut tx, &loaded.names()?, &applying).await {
                Ok(version) => {
                    let details = serde_json::json!({"before": against, "note": how.note});
                    who::audit(&mut tx, "book.apply", &format!("version {version}"), details).await?;
                    tx.commit().await.context("whether the book was applied is not known")?;
                    Some(version)
                }
                Err(error @ ApplyError::Stale { .. }) => return Err(stale(error.to_string())),
                Err(error @ ApplyError::Unchanged { .. }) => return Err(failed(error.to_string())),
                Err(ApplyError::Store(error)) => {
                    return Err(error).context("the book was not applied, nothing of it is kept");
                }
            }
        }
    };
    if global.json {
        out::json(&Applied { version, plan: planned })?;
    } else {
        let done =
            version.map(|version| format!("version {version} of the book is in force\n")).unwrap_or_default();
        out::print(&(text + &done))?;
    }
    if version.is_none() {
        eprintln!("nothing was applied: add --yes to do it");
    }
    Ok(())
}

/// Lists the versions.
pub(super) async fn history(global: &Global, args: &HistoryArgs) -> anyhow::Result<()> {
    let mut reading = Reading::open(global).await?;
    let lines = book_history(&mut reading.conn, i64::from(args.limit)).await;
    reading.close().await;
    let versions = lines?.into_iter().map(|line| Version {
        version: line.version,
        applied_at: machine(line.applied_at_ms * 1_000),
        applied_by: line.applied_by,
        note: line.note,
        files: line.files,
        digest: digest(&line.digest),
    });
    let history = History { versions: versions.collect() };
    if global.json {
        return out::json(&history);
    }
    let mut table = Table::new(&[">VERSION", "APPLIED", "BY", ">FILES", "DIGEST", "NOTE"]);
    for version in &history.versions {
        table.row(vec![
            version.version.to_string(),
            version.applied_at.clone(),
            one_line(&version.applied_by),
            version.files.to_string(),
            version.digest.chars().take(12).collect(),
            one_line(&version.note),
        ]);
    }
    out::print(&table.render(0, Paint::of_stdout()))
}

/// Who does this: the account and the machine.
fn who() -> String {
    let name =
        ["USER", "LOGNAME"].iter().find_map(|key| std::env::var(key).ok().filter(|name| !name.is_empty()));
    let name = name.unwrap_or_else(|| format!("uid {}", rustix::process::geteuid().as_raw()));
    format!("{}@{}", one_line(&name), host()).chars().take(128).collect()
}
