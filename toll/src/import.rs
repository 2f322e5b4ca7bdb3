//! `toll sub import`: subscribers from a CSV file into the database.

use std::collections::HashMap;
use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;

use anyhow::Context;
use carriers::StandInSecrets;
use indicatif::{ProgressBar, ProgressStyle};
use scheduler::Catalog;
use scheduler::import::{CarrierRules, ImportReport, Importer, RejectFile};
use storage::pg::{read_clock, sync_book};
use storage::vault::Vault;

use crate::book_files::{self, LoadedBook};
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
    let loaded = book_files::load(&global.config, &StandInSecrets)?;
    let vault = Vault::open_or_create(&home.secrets())?;
    let database = Database::open(&home, global.database.as_deref()).await?;
    let report = run(&args, &loaded, &vault, &database).await;
    database.close().await;
    let report = report?;
    if global.json {
        println!("{}", serde_json::to_string(&report)?);
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
    loaded: &LoadedBook,
    vault: &Vault,
    database: &Database,
) -> anyhow::Result<ImportReport> {
    let mut conn = database.migrated().await?;
    let names = sync_book(&mut conn, &loaded.names()?).await?;
    let clock = read_clock(&mut conn).await?;
    let business_now = jiff::Timestamp::from_millisecond(clock.business_ms(jiff::Timestamp::now().as_millisecond()))?;
    let carriers = carrier_rules(loaded, &names);
    let catalog = Catalog::new(&loaded.book.plans, names)?;
    let importer = Importer::new(&catalog, carriers, vault, business_now);
    let input = File::open(&args.file).with_context(|| format!("cannot open {}", args.file.display()))?;
    let bytes = input.metadata().map_or(0, |meta| meta.len());
    let rejects_path = args.rejects.clone().unwrap_or_else(|| {
        let mut name = args.file.clone().into_os_string();
        name.push(".rejects.csv");
        PathBuf::from(name)
    });
    let mut rejects = RejectFile::lazily(&rejects_path);
    let bar = progress_bar(bytes);
    let report = importer
        .run(&mut conn, BufReader::new(input), &mut rejects, &mut |progress| {
            bar.set_position(progress.bytes_read);
            bar.set_message(format!("{} rows", progress.rows));
        })
        .await?;
    bar.finish_and_clear();
    if report.rejected > 0 {
        eprintln!("{} bad rows are in {}, each with its line and reason", report.rejected, rejects_path.display());
    }
    Ok(report)
}

fn carrier_rules(loaded: &LoadedBook, names: &storage::pg::Names) -> HashMap<String, CarrierRules> {
    let rules = loaded.carriers.iter().filter_map(|carrier| {
        let (carrier_no, slices, _) = *names.carriers.get(carrier.id.as_ref())?;
        let rules = CarrierRules {
            id: carrier.id.to_string(),
            carrier_no,
            slices: u32::try_from(slices).unwrap_or(1),
            msisdn: carrier.msisdn.clone(),
            zones: carrier.zones.clone(),
        };
        Some((carrier.id.to_string(), rules))
    });
    rules.collect()
}

/// A bar on stderr with rate and time to go; hidden when stderr is no terminal.
fn progress_bar(bytes: u64) -> ProgressBar {
    let bar = ProgressBar::new(bytes);
    let style = ProgressStyle::with_template("{bar:30} {percent:>3} %  {msg}  {bytes_per_sec}  {eta} to go");
    if let Ok(style) = style {
        bar.set_style(style);
    }
    bar
}
