//! `toll ops cases`: what waits for people, with what is known of it.

use serde::Serialize;
use storage::pg::{self, CaseLine, FileRecord, FileState, ProposalRow, ReviewRow};

use super::decide::{Proposed, outcome_words};
use super::files::{Shown, definitions, zone_of};
use crate::cli::Global;
use crate::exit::failed;
use crate::out::{self, Paint, Table};
use crate::reading::Reading;
use crate::waits::Waits;
use crate::who::attempt_name;
use crate::words::{self, Amount};

const SHOWN_MAX: i64 = 200;

/// What `toll ops cases` takes.
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Attempts in review come first, then those that are unknown, the oldest first; at most 200 of each list.

Examples:
  toll ops cases
  toll ops cases show 17
  toll ops cases --json | jq -r '.attempts[].attempt'"
)]
pub(crate) struct CasesArgs {
    #[command(subcommand)]
    verb: Option<CasesVerb>,
}

/// What can be done with cases.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum CasesVerb {
    /// Show one case with its attempt and what is proposed
    Show {
        /// The case's number
        #[arg(value_name = "CASE")]
        id: i64,
    },
}

/// An attempt that people may have to settle.
#[derive(Debug, Serialize)]
struct Review {
    attempt: String,
    /// `unknown` or `in_review`.
    state: &'static str,
    reason: &'static str,
    carrier: String,
    amount: Amount,
    since: String,
    age_s: i64,
    /// Who has it.
    owner: Option<String>,
    /// Proposed, and waiting for somebody else: the proposal's number.
    proposal: Option<i64>,
    carrier_txn_id: Option<String>,
    /// The carrier's file that could prove it and is not here.
    waits_for: Option<String>,
    /// Messages of the carrier that name it.
    messages: i64,
    cases: i64,
}

/// A case.
#[derive(Debug, Serialize)]
struct Case {
    case: i64,
    kind: String,
    what: String,
    subscription: String,
    attempt: Option<String>,
    opened_at: String,
    age_s: i64,
}

#[derive(Debug, Serialize)]
struct Cases {
    attempts: Vec<Review>,
    cases: Vec<Case>,
    proposals: Vec<Proposed>,
    /// Files that prove nothing, and those with keys of ours that no attempt has.
    files: Vec<Shown>,
}

#[derive(Debug, Serialize)]
struct ShownCase {
    #[serde(flatten)]
    case: Case,
    review: Option<Review>,
    proposals: Vec<Proposed>,
}

/// Lists what waits for people, or shows one case.
pub(super) async fn run(global: &Global, args: &CasesArgs) -> anyhow::Result<()> {
    let mut reading = Reading::open(global).await?;
    let done = match args.verb {
        None => list(global, &mut reading).await,
        Some(CasesVerb::Show { id }) => show(global, &mut reading, id).await,
    };
    reading.close().await;
    done
}

async fn list(global: &Global, reading: &mut Reading) -> anyhow::Result<()> {
    let proposals = pg::open_proposals(&mut reading.conn, SHOWN_MAX).await?;
    let rows = pg::attempts_to_review(&mut reading.conn, SHOWN_MAX).await?;
    let lines = pg::case_lines(&mut reading.conn, None, SHOWN_MAX).await?;
    let waits = waits_of(reading, &rows).await?;
    let files = files_to_look_at(reading).await?;
    let now_us = reading.now.machine_ms.saturating_mul(1_000);
    let cases = Cases {
        files,
        attempts: rows
            .iter()
            .map(|row| review(row, &proposals, &waits, now_us))
            .collect::<anyhow::Result<_>>()?,
        cases: lines.iter().map(|line| case(line, now_us)).collect::<anyhow::Result<_>>()?,
        proposals: proposals.iter().map(Proposed::of).collect::<anyhow::Result<_>>()?,
    };
    if global.json {
        return out::json(&cases);
    }
    let paint = Paint::of_stdout();
    let mut text = String::new();
    if !cases.attempts.is_empty() {
        text += &attempts_table(&cases.attempts, paint);
    }
    if !cases.proposals.is_empty() {
        let mut table = Table::new(&["PROPOSAL", "ATTEMPT", "OUTCOME", "BY", "EXPIRES", "WHY"]);
        for one in &cases.proposals {
            let cells = [&one.attempt, &one.outcome, &one.proposed_by, &one.expires_at, &one.why];
            table.row(std::iter::once(one.proposal.to_string()).chain(cells.map(Clone::clone)).collect());
        }
        text += &format!("\n{}", table.render(0, paint));
    }
    if !cases.cases.is_empty() {
        let mut table = Table::new(&["CASE", "KIND", ">AGE", "ABOUT", "WHAT"]);
        for one in &cases.cases {
            table.row(vec![
                one.case.to_string(),
                one.kind.clone(),
                words::span_us(one.age_s.saturating_mul(1_000_000)),
                one.attempt.clone().unwrap_or_else(|| one.subscription.clone()),
                one.what.clone(),
            ]);
        }
        text += &format!("\n{}", table.render(0, paint));
    }
    if !cases.files.is_empty() {
        text += &format!("\n{}", files_table(&cases.files, paint));
    }
    if text.is_empty() {
        eprintln!("nothing waits for people");
        return Ok(());
    }
    out::print(text.trim_start_matches('\n'))
}

fn attempts_table(attempts: &[Review], paint: Paint) -> String {
    let mut table = Table::new(&[
        "ATTEMPT",
        "STATE",
        "WHY",
        "CARRIER",
        ">AMOUNT",
        ">AGE",
        "OWNER",
        ">MESSAGES",
        ">CASES",
        "WAITS FOR",
    ]);
    for one in attempts {
        let owner = one.owner.clone().or(one.proposal.map(|id| format!("proposal {id}")));
        table.row(vec![
            one.attempt.clone(),
            one.state.to_owned(),
            one.reason.to_owned(),
            one.carrier.clone(),
            one.amount.to_string(),
            words::span_us(one.age_s.saturating_mul(1_000_000)),
            owner.unwrap_or_else(|| "nobody".to_owned()),
            one.messages.to_string(),
            one.cases.to_string(),
            one.waits_for.clone().unwrap_or_default(),
        ]);
    }
    table.render(0, paint)
}

fn files_table(files: &[Shown], paint: Paint) -> String {
    let mut table = Table::new(&["FILE", "CARRIER", "STATE", "WHY"]);
    for one in files {
        let orphans = (one.orphans > 0).then(|| words::count(one.orphans, "orphan"));
        let why: Vec<String> = one.why.clone().into_iter().chain(orphans).collect();
        table.row(vec![one.file.to_string(), one.carrier.clone(), one.state.to_owned(), why.join("; ")]);
    }
    table.render(0, paint)
}

async fn waits_of(reading: &mut Reading, rows: &[ReviewRow]) -> anyhow::Result<Waits> {
    let unknown = rows.iter().filter(|row| row.kind == 2).map(|row| row.subscription_id);
    Waits::read(reading, &unknown.collect::<Vec<_>>()).await
}

/// Those that prove nothing, and those with keys of ours that no attempt has.
async fn files_to_look_at(reading: &mut Reading) -> anyhow::Result<Vec<Shown>> {
    let rows = pg::files(&mut reading.conn, None, None, SHOWN_MAX).await?;
    let odd = |row: &&FileRecord| row.state != FileState::Complete as i16 || row.orphans > 0;
    let rows: Vec<&FileRecord> = rows.iter().filter(odd).collect();
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let definitions = definitions(reading).await?;
    Ok(rows.into_iter().map(|row| Shown::of(row, &zone_of(&definitions, &row.carrier))).collect())
}

async fn show(global: &Global, reading: &mut Reading, id: i64) -> anyhow::Result<()> {
    let lines = pg::case_lines(&mut reading.conn, Some(id), 1).await?;
    let line =
        lines.first().ok_or_else(|| failed(format!("there is no case {id}: toll ops cases lists them")))?;
    let now_us = reading.now.machine_ms.saturating_mul(1_000);
    let of_it = |sub: i64, period: i32, no: i16| {
        line.subscription_id == sub && line.period == Some(period) && line.attempt_no == Some(no)
    };
    let proposals = pg::open_proposals(&mut reading.conn, SHOWN_MAX).await?;
    let own: Vec<ProposalRow> =
        proposals.iter().filter(|p| of_it(p.subscription_id, p.period, p.attempt_no)).cloned().collect();
    let rows = pg::attempts_to_review(&mut reading.conn, i64::from(i32::MAX)).await?;
    let open = rows.iter().find(|row| of_it(row.subscription_id, row.period, row.attempt_no));
    let waits = waits_of(reading, open.map_or(&[], std::slice::from_ref)).await?;
    let shown = ShownCase {
        case: case(line, now_us)?,
        review: open.map(|row| review(row, &proposals, &waits, now_us)).transpose()?,
        proposals: own.iter().map(Proposed::of).collect::<anyhow::Result<_>>()?,
    };
    if global.json {
        return out::json(&shown);
    }
    let paint = Paint::of_stdout();
    let head = format!("case {id}, {}, opened {}", shown.case.kind, shown.case.opened_at);
    let mut text = format!("{}\n  {}\n", paint.bold(&head), shown.case.what);
    match &shown.review {
        Some(review) => text += &attempts_table(std::slice::from_ref(review), paint),
        None if shown.case.attempt.is_some() => text += "  its attempt is settled\n",
        None => {}
    }
    for one in &shown.proposals {
        text +=
            &format!("  proposal {}: {} by {}: {}\n", one.proposal, one.outcome, one.proposed_by, one.why);
    }
    out::print(&text)?;
    match &shown.case.attempt {
        Some(attempt) => eprintln!("the whole story: toll explain {attempt}"),
        None => eprintln!("its subscription: toll sub show {}", shown.case.subscription),
    }
    Ok(())
}

fn review(row: &ReviewRow, proposals: &[ProposalRow], waits: &Waits, now_us: i64) -> anyhow::Result<Review> {
    let same = |p: &&ProposalRow| {
        (p.subscription_id, p.period, p.attempt_no) == (row.subscription_id, row.period, row.attempt_no)
    };
    Ok(Review {
        attempt: attempt_name(row.subscription_id, row.period, row.attempt_no)?,
        state: if row.kind == 3 { "in_review" } else { "unknown" },
        reason: outcome_words(row.reason),
        carrier: row.carrier.clone(),
        amount: Amount::new(row.amount_minor, row.currency),
        since: words::machine(row.since_us),
        age_s: age_s(now_us, row.since_us),
        owner: row.assignee.clone(),
        proposal: proposals.iter().find(same).map(|p| p.id),
        carrier_txn_id: row.carrier_txn_id.clone(),
        waits_for: (row.kind == 2)
            .then(|| waits.of(&row.carrier, row.subscription_id, row.intent_at_us, row.since_us))
            .flatten(),
        messages: row.messages,
        cases: row.cases,
    })
}

fn case(line: &CaseLine, now_us: i64) -> anyhow::Result<Case> {
    let attempt = match (line.period, line.attempt_no) {
        (Some(period), Some(no)) if no > 0 => Some(attempt_name(line.subscription_id, period, no)?),
        _ => None,
    };
    Ok(Case {
        case: line.id,
        kind: line.kind.clone(),
        what: crate::shown::one_line(&line.what),
        subscription: billing_core::ids::SubscriptionId(line.subscription_id).to_string(),
        attempt,
        opened_at: words::machine(line.opened_at_us),
        age_s: age_s(now_us, line.opened_at_us),
    })
}

fn age_s(now_us: i64, since_us: i64) -> i64 {
    now_us.saturating_sub(since_us).max(0) / 1_000_000
}
