//! `toll bench run`: the engine against the ceiling of its own database, in one run on one machine.
//!
//! One durable Postgres holds two databases with the same population. A pair is one engine leg (`toll serve` and a mock
//! carrier charge everybody for the next business day) and one ceiling leg (a bare driver calls the same two functions for
//! as many charges, in batches as large as the engine's were). Pairs alternate, so that what else the machine does meets
//! both; a first pair warms up and does not count. A leg of its own measures the latency at half the rate, and the last
//! pairs have spending caps in force. At the end the mock's ledger is compared with the engine's books: a rate with wrong
//! books is no rate.
//!
//! Read first this file, then `engine_leg`, `ceiling_leg`, `latency_leg`, `report`.

mod backlog;
mod book;
mod caps_leg;
mod ceiling_leg;
mod database;
mod engine_leg;
mod http;
mod latency_leg;
mod machine;
mod measured;
mod processes;
mod program;
mod report;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use jiff::civil::Date;

use self::book::{BenchBook, day};
use self::ceiling_leg::Ceiling;
use self::database::Cluster;
use self::engine_leg::Engine;
use self::program::raise_file_limit;
use crate::compare::{CarrierLedger, compare};
use crate::population::write_csv;

pub use self::backlog::{BacklogArgs, BacklogReport, Policies, Unknown, run as run_backlog};
pub use self::latency_leg::LatencyLeg;
pub use self::machine::Machine;
pub use self::measured::Measured;
pub use self::report::{BenchReport, Books, CapsReport, CpuReport, Leg, Pair, Setup};

/// What `toll bench run` takes.
#[derive(Debug, Clone, clap::Args)]
pub struct BenchArgs {
    /// Pairs of an engine leg and a ceiling leg that count; one more warms up
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub pairs: u32,
    /// Charges of each leg, one per subscription
    #[arg(long, default_value_t = 100_000, value_name = "N", value_parser = clap::value_parser!(u64).range(1_000..=2_000_000))]
    pub charges: u64,
    /// How long the mock carrier takes to answer
    #[arg(long, default_value_t = 0, value_name = "MS", value_parser = clap::value_parser!(u64).range(0..=10_000))]
    pub latency_ms: u64,
    /// Write the report as JSON to this file, too
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Where the benchmark keeps its data while it runs [default: the system's temporary directory]; use a real disk
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Fail with exit code 4 when a floor is missed
    #[arg(long)]
    pub gate: bool,
}

/// Runs the whole benchmark and writes `--out`. `toll_binary` and `mock_binary` are started as processes of their own; all
/// of them end with this call. The caller prints the report (it is `Display` and `Serialize`) and turns
/// [`BenchReport::floors_missed`] into exit code 4 when `--gate` is given.
///
/// # Errors
/// When a process cannot be started, ends early or does not get on with its work in time, or a charge was not approved.
pub async fn run(args: BenchArgs, toll_binary: PathBuf, mock_binary: PathBuf) -> anyhow::Result<BenchReport> {
    // Dropped in reverse: engine, mock, Postgres, directory.
    let home = BenchDir::make(args.dir.as_deref())?;
    let report = run_in(&args, home.path(), &toll_binary, &mock_binary).await?;
    write_out(args.out.as_deref(), &report)?;
    Ok(report)
}

async fn run_in(args: &BenchArgs, dir: &Path, toll: &Path, mock: &Path) -> anyhow::Result<BenchReport> {
    raise_file_limit();
    let machine = Machine::look(dir);
    let book = BenchBook::write(&dir.join("config"), args.latency_ms)?;
    let mut cluster = Cluster::start(&dir.join("postgres")).await?;
    say("importing the population");
    fill(args, dir, toll, &book, &mut cluster).await?;

    let mut engine = Engine::start(args, dir, toll, mock, &mut cluster).await?;
    let mut ceiling = Ceiling::open(&cluster.ceiling_url()).await?;
    let mut pairs = Vec::new();
    let mut today = day(0)?;
    for number in 0..=args.pairs {
        let pair = one_pair(&mut engine, &mut ceiling, &mut cluster, today).await?;
        today = today.tomorrow()?;
        say(&format!(
            "{}: {pair}",
            if number == 0 { "warm-up".to_owned() } else { format!("pair {number}") }
        ));
        if number > 0 {
            pairs.push(pair);
        }
    }
    let updates = args.charges * (u64::from(args.pairs) + 1);
    let hot_share = cluster.hot_share(updates).await?;
    let rate = report::median(pairs.iter().map(|pair| pair.engine.charges_per_s()));
    let latency = latency_leg::measure(&mut engine, &mut cluster, args, rate, today).await?;
    say(&format!("latency: {latency}"));
    // The bare driver's day too: the pairs that follow start from the same one.
    ceiling.charge_everybody(&mut cluster, today, 400).await?;
    today = today.tomorrow()?;
    let legs = Legs { engine: &mut engine, ceiling: &mut ceiling, cluster: &mut cluster };
    let capped = caps_leg::measure(legs, dir, toll, &mut today).await?;

    engine.stop().await?;
    let ledger = CarrierLedger { carrier: book::CARRIER.to_owned(), path: engine.ledger() };
    let found = compare(cluster.engine_conn(), &[ledger]).await?;
    let setup = Setup {
        pairs: args.pairs,
        charges: args.charges,
        population: args.charges,
        latency_ms: args.latency_ms,
        toll_version: engine.version().await?,
        postgres_version: cluster.version().await?,
    };
    Ok(BenchReport::new(
        setup,
        machine,
        [pairs, capped],
        hot_share,
        latency,
        engine.memory(),
        Books::of(&found),
    ))
}

/// What a pair of legs needs.
struct Legs<'a> {
    engine: &'a mut Engine,
    ceiling: &'a mut Ceiling,
    cluster: &'a mut Cluster,
}

/// Everybody is charged once by the engine, then as many by the bare driver.
async fn one_pair(
    engine: &mut Engine,
    ceiling: &mut Ceiling,
    cluster: &mut Cluster,
    today: Date,
) -> anyhow::Result<Pair> {
    let engine_leg = engine.charge_everybody(cluster, today).await?;
    let rows = engine_leg.begin_rows.round().clamp(1.0, 1_000.0) as usize;
    cluster.checkpoint().await?;
    let ceiling_leg = ceiling.charge_everybody(cluster, today, rows).await?;
    cluster.checkpoint().await?;
    Ok(Pair { engine: engine_leg, ceiling: ceiling_leg })
}

/// The engine's database by `toll sub import`, the ceiling's as a copy of it.
async fn fill(
    args: &BenchArgs,
    dir: &Path,
    toll: &Path,
    book: &BenchBook,
    cluster: &mut Cluster,
) -> anyhow::Result<()> {
    let days = i32::try_from(args.pairs)? + caps_leg::DAYS + 3;
    cluster.prepare(days).await?;
    let file = dir.join("population.csv");
    write_csv(&file, &book.population(args.charges)?)?;
    let mut import = program::toll(toll, dir, &cluster.engine_url());
    import.args(["sub", "import"]).arg(&file);
    let patience = Duration::from_secs(120 + args.charges / 500);
    program::run_to_end(import, "toll sub import", &dir.join("import.log"), patience).await?;
    let imported = cluster.subscriptions().await?;
    ensure!(imported == args.charges, "{imported} of {} subscriptions were imported", args.charges);
    cluster.copy_to_ceiling().await
}

fn write_out(out: Option<&Path>, report: &impl serde::Serialize) -> anyhow::Result<()> {
    let Some(out) = out else { return Ok(()) };
    let json = serde_json::to_string_pretty(report)?;
    std::fs::write(out, json + "\n").with_context(|| format!("cannot write {}", out.display()))
}

/// Progress, for whoever waits; the report itself goes to the caller.
fn say(what: &str) {
    eprintln!("bench: {what}");
}

/// The benchmark's directory, removed at the end.
struct BenchDir(PathBuf);

impl BenchDir {
    fn make(parent: Option<&Path>) -> anyhow::Result<Self> {
        let parent = parent.map_or_else(std::env::temp_dir, Path::to_owned);
        let dir = parent.join(format!("toll-bench-{}", std::process::id()));
        std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        // The private Postgres wants to know where it really is.
        Ok(Self(dir.canonicalize()?))
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for BenchDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
