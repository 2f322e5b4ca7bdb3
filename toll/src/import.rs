//! `toll sub import`: subscribers from a CSV file into the database.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use anyhow::Context;
use carriers::StandInSecrets;
use indicatif::{ProgressBar, ProgressStyle};
use scheduler::Catalog;
use scheduler::import::{CarrierRules, ImportReport, Importer, RejectFile};
use storage::pg::{check_keys, read_clock};
use storage::vault::Vault;

use crate::book_store;
use crate::cli::Global;
use crate::database::Database;
use crate::home::Home;

/// What `toll sub import` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct ImportArgs {
    /// The CSV file: a header line with msisdn, plan, reference and optionally zone, start
    file: PathBuf,
    /// Where bad rows go, with line and reason [default: FILE.rejects.csv]
    #[arg(long, value_name = "FILE")]
    rejects: Option<PathBuf>,
}

/// Imports and prints the report. Fails when nothing of the file was usable.
pub(crate) async fn import(global: &Global, args: ImportArgs) -> anyhow::Result<()> {
    let home = Home::open(&global.data)?;
    let vault = Vault::open_or_create(&home.secrets())?;
    let database = Database::open(&home, global.database.as_deref()).await?;
    let report = run(&args, &global.config, &vault, &database).await;
    database.close().await;
    let report = report?;
    if global.json {
        let report = serde_json::json!({
            "rows": report.rows,
            "created": report.created,
            "existing": report.existing,
            "rejected": report.rejected,
            "subscribers_created": report.subscribers_created,
            "elapsed_ms": report.elapsed_ms,
        });
        println!("{report}");
    } else {
        println!(
            "{} rows: {} subscriptions created, {} existed already, {} rejected, in {:.1} s",
            report.rows,
            report.created,
            report.existing,
            report.rejected,
            report.elapsed_ms as f64 / 1_000.0
        );
    }
    anyhow::ensure!(report.rows == 0 || report.rejected < report.rows, "every row of the file was rejected");
    Ok(())
}

/// Imports a file into an open database.
pub(crate) async fn run(
    args: &ImportArgs,
    config: &Path,
    vault: &Vault,
    database: &Database,
) -> anyhow::Result<ImportReport> {
    let mut conn = database.writing().await?;
    check_keys(&mut conn, vault).await?;
    let (loaded, names) = book_store::in_force(&mut conn, config, &StandInSecrets).await?;
    let clock = read_clock(&mut conn).await?;
    let business_now =
        jiff::Timestamp::from_millisecond(clock.business_ms(jiff::Timestamp::now().as_millisecond()))?;
    let carriers: Vec<CarrierRules> = loaded
        .carriers
        .iter()
        .map(|carrier| CarrierRules {
            id: carrier.id.to_string(),
            msisdn: carrier.msisdn.clone(),
            zones: carrier.zones.clone(),
        })
        .collect();
    let catalog = Catalog::new(&loaded.book.plans, names)?;
    let importer = Importer::new(&catalog, &carriers, vault, business_now)?;
    let input = File::open(&args.file).with_context(|| format!("cannot open {}", args.file.display()))?;
    let bytes = input.metadata().ok().map(|meta| meta.len());
    let rejects_path = rejects_path(args)?;
    let mut rejects = RejectFile::create(&rejects_path)
        .with_context(|| format!("cannot make the file for bad rows, {}", rejects_path.display()))?;
    let bar = progress_bar(bytes.unwrap_or(0));
    let report = importer
        .run(
            &mut conn,
            BufReader::new(input),
            bytes,
            &mut |rejected| rejects.write(rejected),
            &mut |progress| {
                bar.set_position(progress.bytes_read);
                bar.set_message(format!("{} rows, {} rows/s", progress.report.rows, progress.rows_per_s));
            },
        )
        .await?;
    bar.finish_and_clear();
    rejects.finish()?;
    if report.rejected > 0 {
        eprintln!(
            "{} bad rows are in {}, each with its line and reason",
            report.rejected,
            rejects_path.display()
        );
    }
    Ok(report)
}

/// Where bad rows go. The default name is ours, so what an import before this one left there is replaced.
fn rejects_path(args: &ImportArgs) -> anyhow::Result<PathBuf> {
    if let Some(path) = &args.rejects {
        return Ok(path.clone());
    }
    let mut name = args.file.clone().into_os_string();
    name.push(".rejects.csv");
    let path = PathBuf::from(name);
    if path.exists() {
        std::fs::remove_file(&path).with_context(|| format!("cannot replace {}", path.display()))?;
    }
    Ok(path)
}

impl ImportArgs {
    /// The import of a file with everything at its default.
    pub(crate) fn of(file: PathBuf) -> Self {
        Self { file, rejects: None }
    }
}

/// A bar on stderr with rate and time to go; hidden when stderr is no terminal.
fn progress_bar(bytes: u64) -> ProgressBar {
    let bar = ProgressBar::new(bytes);
    let style = ProgressStyle::with_template("{bar:30} {percent:>3} %  {msg}  {eta} to go");
    if let Ok(style) = style {
        bar.set_style(style);
    }
    bar
}
