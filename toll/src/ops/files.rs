//! `toll ops file` and `toll ops files`: takes a carrier's reconciliation file in, and tells what became of those that were.

use std::path::PathBuf;

use anyhow::Context;
use billing_core::money::Currency;
use carriers::{CarrierDefinition, StandInSecrets};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use scheduler::{FileError, FileTaker};
use serde::Serialize;
use storage::pg::{self, FileRecord, FileRowRecord, FileRowState, FileState, check_keys};
use storage::vault::Vault;

use super::decide::outcome_words;
use crate::book_store;
use crate::cli::Global;
use crate::database::Database;
use crate::exit::{failed, usage};
use crate::home::Home;
use crate::out::{self, Paint, Table};
use crate::reading::Reading;
use crate::shown::one_line;
use crate::who::{actor, attempt_name};
use crate::words::{self, Amount};

const FILES_MAX: i64 = 200;
const ROWS_MAX: i64 = 500;

/// What `toll ops file` takes.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "How its files are read stands in the carrier's definition, under [file]. The raw file is kept first, sealed. The same
file again changes nothing. One whose trailers do not agree is kept and proves nothing; the command then ends with 1.

Examples:
  toll ops file hoshi-20261201.csv --carrier hoshi
  toll ops file hoshi-20261201.csv --carrier hoshi --as ana"
)]
pub(crate) struct FileArgs {
    /// The carrier's reconciliation file
    file: PathBuf,
    /// Whose file it is
    #[arg(long, value_name = "ID")]
    carrier: String,
    /// Who takes it in; the machine's account by default
    #[arg(long = "as", value_name = "NAME")]
    name: Option<String>,
}

/// What `toll ops files` takes.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "AGREED rows say what is recorded; GIVEN rows became evidence; CONFLICTS are cases; ORPHANS have a key of ours that no
attempt here has; FOREIGN rows have another key. With a number it shows the rows that do not merely agree.

Examples:
  toll ops files
  toll ops files 3"
)]
pub(crate) struct FilesArgs {
    /// One file, with its rows
    #[arg(value_name = "FILE")]
    id: Option<i64>,
}

/// A file as commands show it.
#[derive(Debug, Serialize)]
pub(super) struct Shown {
    pub(super) file: i64,
    pub(super) carrier: String,
    pub(super) name: String,
    /// `kept`, `not_matched`, `complete`, `incomplete`, `contradicts`.
    pub(super) state: &'static str,
    /// What is wrong with it.
    pub(super) why: Option<String>,
    /// In the carrier's zone.
    from: Option<String>,
    until: Option<String>,
    rows: i64,
    sums: Vec<Amount>,
    agreed: i64,
    given: i64,
    conflicts: i64,
    pub(super) orphans: i64,
    foreign: i64,
    taken_at: String,
    taken_by: String,
    sha256: String,
}

#[derive(Debug, Serialize)]
struct ShownRow {
    line: i64,
    /// `given`, `conflict`, `orphan`, `foreign`, `nothing`, `unproven`.
    state: &'static str,
    key: String,
    attempt: Option<String>,
    says: &'static str,
    status: String,
    carrier_txn_id: Option<String>,
}

#[derive(Debug, Serialize)]
struct Whole {
    #[serde(flatten)]
    file: Shown,
    kept_rows: Vec<ShownRow>,
}

#[derive(Debug, Serialize)]
struct TakenIn {
    #[serde(flatten)]
    file: Shown,
    /// It was taken in before: nothing was done.
    again: bool,
}

impl Shown {
    pub(super) fn of(row: &FileRecord, zone: &TimeZone) -> Self {
        let state = FileState::from_number(row.state).unwrap_or(FileState::Kept);
        let local = |us: Option<i64>| {
            let at = us.and_then(|us| Timestamp::from_microsecond(us).ok());
            at.map(|at| at.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M:%S").to_string())
        };
        let why = match (state, row.contradicts) {
            (FileState::Contradicts, Some(other)) => {
                Some(format!("file {other} covers the same time and has other content"))
            }
            (FileState::Kept | FileState::Matching, _) => {
                Some("it was not matched to its end: take it in again".to_owned())
            }
            (FileState::Complete, _) if row.foreign_rows > 0 && row.foreign_rows == row.rows => Some(
                "none of its rows has a key of ours: its absences do not count, our keys may be written in another way"
                    .to_owned(),
            ),
            _ => row.flaw.as_deref().map(one_line),
        };
        Self {
            file: row.id,
            carrier: row.carrier.clone(),
            name: one_line(&row.name),
            state: state.name(),
            why,
            from: local(row.covers_from_us),
            until: local(row.covers_until_us),
            rows: row.rows,
            sums: row.sums.split(", ").filter_map(sum_of).collect(),
            agreed: row.agreed,
            given: row.given,
            conflicts: row.conflicts,
            orphans: row.orphans,
            foreign: row.foreign_rows,
            taken_at: words::machine(row.received_at_us),
            taken_by: one_line(&row.taken_by),
            sha256: row.digest.iter().map(|byte| format!("{byte:02x}")).collect(),
        }
    }

    fn span(&self) -> String {
        match (&self.from, &self.until) {
            (Some(from), Some(until)) => format!("{from} to {until}"),
            _ => "nobody knows which time".to_owned(),
        }
    }
}

fn sum_of(text: &str) -> Option<Amount> {
    let (minor, code) = text.split_once(' ')?;
    Some(Amount::new(minor.parse().ok()?, Currency::from_code(code).ok()?.numeric()))
}

/// Takes a file in.
pub(super) async fn take(global: &Global, args: &FileArgs) -> anyhow::Result<()> {
    let home = Home::open(&global.data)?;
    let vault = Vault::open_or_create(&home.secrets())?;
    let database = Database::open(&home, global.database.as_deref()).await?;
    let taken = take_with(global, args, &vault, &database).await;
    database.close().await;
    let taken = taken?;
    let incomplete = taken.file.state != FileState::Complete.name();
    if global.json {
        out::json(&taken)?;
    } else {
        out::print(&summary(&taken))?;
    }
    match (&taken.file.why, incomplete) {
        (Some(why), true) => Err(failed(format!("file {} proves nothing: {why}", taken.file.file))),
        _ => Ok(()),
    }
}

fn summary(taken: &TakenIn) -> String {
    let file = &taken.file;
    let head = match taken.again {
        true => format!("file {} was taken in before: nothing was done", file.file),
        false => format!("file {}: {} of {} is {}", file.file, file.name, file.carrier, file.state),
    };
    let sums: Vec<String> = file.sums.iter().map(ToString::to_string).collect();
    format!(
        "{head}\n  covers   {}\n  rows     {}{}{}\n  matched  {} agreed, {} given as evidence, {} in conflict, {} orphans, {} \
         of others\n",
        file.span(),
        file.rows,
        if sums.is_empty() { "" } else { ", " },
        sums.join(", "),
        file.agreed,
        file.given,
        file.conflicts,
        file.orphans,
        file.foreign
    )
}

async fn take_with(
    global: &Global,
    args: &FileArgs,
    vault: &Vault,
    database: &Database,
) -> anyhow::Result<TakenIn> {
    let actor = actor(args.name.as_deref())?;
    let mut conn = database.writing().await?;
    check_keys(&mut conn, vault).await?;
    let (loaded, names) = book_store::in_force(&mut conn, &global.config, &StandInSecrets).await?;
    let definition = loaded.carriers.iter().find(|carrier| *carrier.id == *args.carrier);
    let carrier_no = names.carriers.get(&args.carrier).map(|numbers| numbers.0);
    let Some((definition, carrier_no)) = definition.zip(carrier_no) else {
        let known: Vec<&str> = loaded.carriers.iter().map(|carrier| &*carrier.id).collect();
        return Err(usage(format!(
            "there is no carrier {:?} in the book in force; there are: {}",
            one_line(&args.carrier),
            known.join(", ")
        )));
    };
    let taker = FileTaker { vault, carrier_no, definition, actor: &actor };
    let taken = taker.take(&mut conn, &args.file).await.map_err(|error| match error {
        FileError::Store(error) => anyhow::Error::from(error).context("the file is not matched to its end"),
        other => failed(other.to_string()),
    })?;
    let zone = definition.file_zone().cloned().unwrap_or(TimeZone::UTC);
    Ok(TakenIn { file: Shown::of(&taken.record, &zone), again: taken.again })
}

/// Lists files, or shows one with its rows.
pub(super) async fn list(global: &Global, args: &FilesArgs) -> anyhow::Result<()> {
    let mut reading = Reading::open(global).await?;
    let done = match args.id {
        Some(id) => show(global, &mut reading, id).await,
        None => table(global, &mut reading).await,
    };
    reading.close().await;
    done
}

async fn table(global: &Global, reading: &mut Reading) -> anyhow::Result<()> {
    let definitions = definitions(reading).await?;
    let rows = pg::files(&mut reading.conn, None, None, FILES_MAX).await?;
    let shown: Vec<Shown> =
        rows.iter().map(|row| Shown::of(row, &zone_of(&definitions, &row.carrier))).collect();
    if global.json {
        return out::json(&shown);
    }
    if shown.is_empty() {
        eprintln!("no files were taken in: toll ops file FILE --carrier ID");
        return Ok(());
    }
    let mut table = Table::new(&[
        "FILE",
        "CARRIER",
        "COVERS",
        ">ROWS",
        ">SUM",
        "STATE",
        ">AGREED",
        ">GIVEN",
        ">CONFLICTS",
        ">ORPHANS",
        "WHY",
    ]);
    for one in &shown {
        let sums: Vec<String> = one.sums.iter().map(ToString::to_string).collect();
        table.row(vec![
            one.file.to_string(),
            one.carrier.clone(),
            one.span(),
            one.rows.to_string(),
            sums.join(" "),
            one.state.to_owned(),
            one.agreed.to_string(),
            one.given.to_string(),
            one.conflicts.to_string(),
            one.orphans.to_string(),
            one.why.clone().unwrap_or_default(),
        ]);
    }
    out::print(&table.render(0, Paint::of_stdout()))
}

async fn show(global: &Global, reading: &mut Reading, id: i64) -> anyhow::Result<()> {
    let row = pg::files(&mut reading.conn, Some(id), None, 1).await?.pop();
    let row = row.ok_or_else(|| failed(format!("there is no file {id}: toll ops files lists them")))?;
    let definitions = definitions(reading).await?;
    let rows = pg::file_rows(&mut reading.conn, Some(id), None, ROWS_MAX).await?;
    let kept_rows = rows.iter().map(shown_row).collect::<anyhow::Result<Vec<_>>>()?;
    let whole = Whole { file: Shown::of(&row, &zone_of(&definitions, &row.carrier)), kept_rows };
    if global.json {
        return out::json(&whole);
    }
    let paint = Paint::of_stdout();
    let head = format!("file {}, {}: {}", whole.file.file, whole.file.name, whole.file.state);
    let mut text = format!("{}\n  covers {}\n", paint.bold(&head), whole.file.span());
    if let Some(why) = &whole.file.why {
        text += &format!("  {why}\n");
    }
    if whole.kept_rows.is_empty() {
        return out::print(&text);
    }
    let mut table = Table::new(&[">LINE", "STATE", "KEY", "SAYS", "STATUS", "ATTEMPT"]);
    for one in &whole.kept_rows {
        table.row(vec![
            one.line.to_string(),
            one.state.to_owned(),
            one.key.clone(),
            one.says.to_owned(),
            one.status.clone(),
            one.attempt.clone().unwrap_or_default(),
        ]);
    }
    out::print(&format!("{text}\n{}", table.render(0, paint)))
}

fn shown_row(row: &FileRowRecord) -> anyhow::Result<ShownRow> {
    let attempt = match (row.subscription_id, row.period, row.attempt_no) {
        (Some(id), Some(period), Some(no)) => Some(attempt_name(id, period, no)?),
        _ => None,
    };
    Ok(ShownRow {
        line: row.line,
        state: FileRowState::from_number(row.state).map_or("unlisted", FileRowState::name),
        key: one_line(&row.our_ref),
        attempt,
        says: outcome_words(row.reason),
        status: one_line(&row.code),
        carrier_txn_id: row.carrier_txn_id.as_deref().map(one_line),
    })
}

/// The carriers of the book in force; none while there is no book.
pub(crate) async fn definitions(reading: &mut Reading) -> anyhow::Result<Vec<CarrierDefinition>> {
    let Some(current) = pg::current_book(&mut reading.conn).await? else { return Ok(Vec::new()) };
    Ok(book_store::read(&current, &StandInSecrets).context("the book in force")?.carriers)
}

/// The zone of a carrier's files.
pub(super) fn zone_of(definitions: &[CarrierDefinition], carrier: &str) -> TimeZone {
    let definition = definitions.iter().find(|definition| *definition.id == *carrier);
    definition.and_then(|definition| definition.file_zone().cloned()).unwrap_or(TimeZone::UTC)
}
