//! `toll demo`: the main job on embedded defaults. A private Postgres, simulated carriers in processes of their own,
//! 20,000 subscribers over several zones, a day a minute. Ctrl-C stops and keeps the data; the next run goes on.

mod carriers;
mod live;
mod summary;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use jiff::Timestamp;
use loadtest::population::{PlanShare, PopulationSpec, write_csv};
use storage::pg::{ClockRow, read_clock, set_clock};
use storage::vault::Vault;

use self::carriers::Simulators;
use crate::book_store;
use crate::cli::Global;
use crate::database::Database;
use crate::home::Home;
use crate::import::{self, ImportArgs};
use crate::serve;

/// A business day takes a minute.
const SCALE: i32 = 24 * 60;
/// Where the demo's calendar starts: ten minutes before the first window opens in Tunis.
const FIRST_INSTANT: &str = "2026-12-01T04:50:00Z";
/// Where the business clock is noted while it runs, so that a killed demo goes on where it was.
const CLOCK_NOTE: &str = "business_ms";

/// What `toll demo` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct DemoArgs {
    /// End by itself after this long (such as 60s or 5m), with a summary
    #[arg(long = "for", value_name = "TIME", value_parser = parse_duration)]
    duration: Option<Duration>,
    /// How many subscribers
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(1..=5_000_000))]
    subscribers: u64,
    /// Throw the demo's data away and start over
    #[arg(long)]
    reset: bool,
}

pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let help = || format!("{text:?} is not a time such as 60s or 5m");
    let span: jiff::Span = text.parse().map_err(|_| help())?;
    let whole = jiff::SignedDuration::try_from(span).map_err(|_| help())?;
    Duration::try_from(whole).map_err(|_| help())
}

/// Runs the demo; fails when our ledger and the carriers' own differ.
pub(crate) async fn demo(global: &Global, args: DemoArgs) -> anyhow::Result<()> {
    let stop = serve::stop_on_signal()?;
    let dir = global.data.join("demo");
    if args.reset && dir.exists() {
        std::fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    }
    let home = Home::open(&dir)?;
    let global = Global { data: home.dir().to_owned(), ..global.clone() };
    let started = Instant::now();
    let database = Database::open(&home, None).await?;
    anyhow::ensure!(
        database.is_own(),
        "a demo runs already on {}: stop it first, or use another --data folder",
        home.dir().display()
    );
    let version = server_version(&database).await?;
    tick("postgres", &format!("private {version}, unix socket"), started.elapsed());
    println!("• history      built-in store, encrypted per subscriber");
    let callbacks = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let simulators = Simulators::start(&home, callbacks.local_addr()?)?;
    println!(
        "✓ carriers     {} simulators, processes of their own: {}",
        simulators.len(),
        simulators.describe()
    );
    let listens = serve::Listens { api: None, callbacks: Some(callbacks) };
    let outcome = run(&global, &args, (&home, listens), &database, &simulators, stop).await;
    simulators.stop();
    database.close().await;
    outcome
}

async fn run(
    global: &Global,
    args: &DemoArgs,
    (home, listens): (&Home, serve::Listens),
    database: &Database,
    simulators: &Simulators,
    stop: tokio_util::sync::CancellationToken,
) -> anyhow::Result<()> {
    let began = Instant::now();
    let secrets = ::carriers::FileSecrets { dir: home.secrets() };
    let (loaded, _) = book_store::in_force(&mut database.migrated().await?, &global.config, &secrets).await?;
    let vault = Vault::open_or_create(&home.secrets())?;
    wind_clock(database, home).await?;
    let existing: i64 = sqlx::query_scalar("SELECT count(*) FROM subscription")
        .fetch_one(&mut database.migrated().await?)
        .await?;
    if existing == 0 {
        let file = home.dir().join("subscribers.csv");
        write_population(&file, args.subscribers)?;
        let import = ImportArgs::of(file);
        import::run(&import, &global.config, &vault, database).await?;
    }
    let subscribers = if existing == 0 { args.subscribers } else { u64::try_from(existing).unwrap_or(0) };
    let what = format!(
        "{} subscribers, {} plans, {} ladders{}",
        live::grouped(i64::try_from(subscribers).unwrap_or(0)),
        loaded.book.plans.len(),
        loaded.book.plans.iter().filter(|plan| plan.ladder.is_some()).count(),
        if existing == 0 { "" } else { " (kept from the last run)" },
    );
    tick("merchant demo", &what, began.elapsed());
    drop(loaded);
    if let Some(duration) = args.duration {
        let timer = stop.clone();
        tokio::spawn(async move {
            tokio::time::sleep(duration).await;
            timer.cancel();
        });
    }
    let watch = tokio::spawn(live::watch(
        database.url.clone(),
        home.dir().join(CLOCK_NOTE),
        global.data.display().to_string(),
        stop.clone(),
    ));
    let served = serve::run(global, listens, simulators.bases(), home, database, stop, |address| {
        println!(
            "→ api          http://{address}/metrics  /healthz  /readyz  /v1/status      (loopback only)"
        );
    })
    .await;
    let _ = watch.await;
    stop_clock(database, home).await?;
    served?;
    simulators.sync()?;
    summary::summarize(global, database, simulators).await
}

/// Lets business time run from where it stood; the demo's calendar starts at [`FIRST_INSTANT`].
async fn wind_clock(database: &Database, home: &Home) -> anyhow::Result<()> {
    let mut conn = database.migrated().await?;
    let row = read_clock(&mut conn).await?;
    let noted =
        std::fs::read_to_string(home.dir().join(CLOCK_NOTE)).ok().and_then(|text| text.trim().parse().ok());
    let fresh = row.base_machine_ms == 0;
    let business_ms = match (fresh, row.scale, noted) {
        (true, ..) => FIRST_INSTANT.parse::<Timestamp>()?.as_millisecond(),
        (false, 0, _) => row.base_business_ms,
        (false, _, Some(noted)) => noted,
        (false, _, None) => row.base_business_ms,
    };
    let clock = ClockRow {
        base_machine_ms: Timestamp::now().as_millisecond(),
        base_business_ms: business_ms,
        scale: SCALE,
    };
    set_clock(&mut conn, clock).await?;
    Ok(())
}

/// Business time stands still while the demo does not run.
async fn stop_clock(database: &Database, home: &Home) -> anyhow::Result<()> {
    let mut conn = database.conn().await?;
    let now_ms = Timestamp::now().as_millisecond();
    let business_ms = read_clock(&mut conn).await?.business_ms(now_ms);
    set_clock(&mut conn, ClockRow { base_machine_ms: now_ms, base_business_ms: business_ms, scale: 0 })
        .await?;
    std::fs::write(home.dir().join(CLOCK_NOTE), business_ms.to_string())
        .context("cannot note the business clock")
}

fn write_population(file: &Path, rows: u64) -> anyhow::Result<()> {
    let share = |plan: &str, weight: u32, prefix: &str, digits: usize, zones: &[&str]| PlanShare {
        plan: plan.to_owned(),
        weight,
        msisdn_prefix: prefix.to_owned(),
        digits,
        zones: zones.iter().map(|zone| (*zone).to_owned()).collect(),
    };
    let (spain, tunisia, japan): (&[&str], &[&str], &[&str]) =
        (&["Europe/Madrid", "Atlantic/Canary"], &["Africa/Tunis"], &["Asia/Tokyo"]);
    let spec = PopulationSpec {
        rows,
        seed: 7,
        plans: vec![
            share("alfa-news-daily", 20, "34", 11, spain),
            share("alfa-alerts-weekly", 8, "34", 11, spain),
            share("alfa-games-monthly", 6, "34", 11, spain),
            share("medina-kids-daily", 32, "216", 11, tunisia),
            share("medina-ringtone-once", 6, "216", 11, tunisia),
            share("hoshi-manga-daily", 20, "81", 12, japan),
            share("hoshi-anime-monthly", 8, "81", 12, japan),
        ],
        start: Some(live::FIRST_DAY),
    };
    write_csv(file, &spec).with_context(|| format!("cannot write {}", file.display()))?;
    Ok(())
}

async fn server_version(database: &Database) -> anyhow::Result<String> {
    let mut conn = database.migrated().await?;
    let version: String = sqlx::query_scalar("SHOW server_version").fetch_one(&mut conn).await?;
    Ok(version.split(' ').next().unwrap_or_default().to_owned())
}

fn tick(what: &str, text: &str, took: Duration) {
    println!("✓ {what:<12} {text:<52} {:.1} s", took.as_secs_f64());
}
