//! `toll ops audit`: who did what, and whether the log of it is whole.

use std::io::Write;

use anyhow::Context;
use serde::Serialize;
use storage::pg::{self, AuditRow};

use crate::cli::Global;
use crate::exit::failed;
use crate::out::{self, Paint, Table};
use crate::reading::Reading;
use crate::words;

/// Heads that were seen, one a line: outside the database, so that it cannot be written anew unseen.
const HEADS: &str = "audit.heads";
/// Noted heads that are compared, the latest first.
const HEADS_MAX: usize = 10_000;

/// What `toll ops audit` takes.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Each row's digest covers the row before it, so a changed, removed or added row breaks the chain. --verify notes the
last digest in the data folder (audit.heads) and compares those that were noted before: keep a copy of that file
elsewhere. It ends with 1 when the chain is broken.

Examples:
  toll ops audit --limit 20
  toll ops audit --verify"
)]
pub(crate) struct AuditArgs {
    /// Check the whole chain
    #[arg(long)]
    verify: bool,
    /// How many of the latest acts are listed
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=10_000))]
    limit: i64,
}

#[derive(Debug, Serialize)]
struct Act {
    number: i64,
    at: String,
    who: String,
    account: String,
    act: String,
    subject: String,
    details: serde_json::Value,
    digest: String,
}

#[derive(Debug, Serialize)]
struct Verified {
    whole: bool,
    rows: i64,
    head: String,
    heads_compared: usize,
    problems: Vec<String>,
}

/// Lists acts, or verifies the chain.
pub(super) async fn run(global: &Global, args: &AuditArgs) -> anyhow::Result<()> {
    let mut reading = Reading::open(global).await?;
    let done = match args.verify {
        true => verify(global, &mut reading).await,
        false => list(global, &mut reading, args.limit).await,
    };
    reading.close().await;
    done
}

async fn list(global: &Global, reading: &mut Reading, limit: i64) -> anyhow::Result<()> {
    let rows = pg::audit_rows(&mut reading.conn, limit).await?;
    let acts: Vec<Act> = rows.into_iter().map(act).collect();
    if global.json {
        return out::json(&acts);
    }
    if acts.is_empty() {
        eprintln!("nobody did anything yet that is kept here");
        return Ok(());
    }
    let mut table = Table::new(&[">NO", "AT", "WHO", "ACCOUNT", "ACT", "ABOUT", "DETAILS"]);
    for one in &acts {
        table.row(vec![
            one.number.to_string(),
            one.at.clone(),
            one.who.clone(),
            one.account.clone(),
            one.act.clone(),
            one.subject.clone(),
            one.details.to_string(),
        ]);
    }
    out::print(&table.render(0, Paint::of_stdout()))
}

fn act(row: AuditRow) -> Act {
    let details = serde_json::from_str(&row.details);
    Act {
        number: row.seq,
        at: words::machine(row.at_us),
        who: row.who,
        account: row.account,
        act: row.act,
        subject: row.subject,
        details: details.unwrap_or(serde_json::Value::String(row.details)),
        digest: row.digest,
    }
}

async fn verify(global: &Global, reading: &mut Reading) -> anyhow::Result<()> {
    let (broken, seq, head) = pg::verify_audit(&mut reading.conn).await?;
    let mut problems: Vec<String> =
        broken.into_iter().map(|(seq, what)| format!("row {seq}: {what}")).collect();
    let path = reading.home.dir().join(HEADS);
    let noted = std::fs::read_to_string(&path).unwrap_or_default();
    let mut compared = 0;
    for line in noted.lines().rev().take(HEADS_MAX) {
        let Some((at, digest)) =
            line.split_once(' ').and_then(|(at, digest)| Some((at.parse::<i64>().ok()?, digest)))
        else {
            continue;
        };
        compared += 1;
        if at > 0 && pg::audit_digest_at(&mut reading.conn, at).await?.as_deref() != Some(digest) {
            problems.push(format!("row {at}: it is not the one that was seen here before ({digest})"));
        }
    }
    if problems.is_empty() && !noted.lines().any(|line| line == format!("{seq} {head}")) {
        let mut file = std::fs::File::options().create(true).append(true).open(&path);
        let file = file
            .as_mut()
            .map_err(|error| failed(format!("cannot note the head in {}: {error}", path.display())))?;
        writeln!(file, "{seq} {head}").and_then(|()| file.sync_all()).context("cannot note the head")?;
    }
    let verified =
        Verified { whole: problems.is_empty(), rows: seq, head, heads_compared: compared, problems };
    if global.json {
        out::json(&verified)?;
    } else if verified.whole {
        let rows = words::count(seq, "row");
        out::print(&format!("the audit log is whole: {rows}, head {}\n", verified.head))?;
    } else {
        out::print(&format!("{}\n", verified.problems.join("\n")))?;
    }
    match verified.whole {
        true => Ok(()),
        false => Err(failed("the audit log is broken")),
    }
}
