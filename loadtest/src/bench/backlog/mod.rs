//! `toll bench backlog`: the engine was away for six business hours; how it drains what fell due meanwhile.
//!
//! One durable Postgres, `toll serve` and a mock carrier, as processes of their own. Some charges are sent before, and
//! their answers are lost: the engine dies over them. Then the business clock jumps by six hours, the engine starts again,
//! and drains everything at the carrier's rate. What it did is read from where it cannot be talked away: the intents, the
//! notes, the outcomes, and the carrier's own ledger.

mod book;
mod report;
mod sequence;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use billing_core::period::days_since_2000;
use hyper::Method;
use jiff::{SignedDuration, Timestamp};
use storage::pg::{ClockRow, ensure_partitions, set_clock};

use super::book::{CARRIER, at_minute, day};
use super::database::Cluster;
use super::engine_leg::Engine;
use super::http::tell;
use super::machine::Machine;
use super::processes::resident_peak_bytes;
use super::program::{self, raise_file_limit};
use super::report::Books;
use super::{BenchArgs, BenchDir, say, write_out};
use crate::compare::{CarrierLedger, compare};
use crate::population::write_csv;

pub use report::{BacklogReport, Policies, Unknown};
use sequence::{Sent, busiest_second, sequence_of};

/// Business milliseconds per machine millisecond: the resolution may only hurry on a sandbox's clock.
const SCALE: i32 = 2;
/// Local minutes in Tunis: when the engine dies, and six hours later.
const BEFORE_MINUTE: u16 = 370;
const OUTAGE_HOURS: i64 = 6;
/// The backlog has to be drained before the next hour begins: so long, machine time, with a margin.
const DRAIN_MAX_S: u64 = 1_200;
/// Charges that close together may be apart by so much business time: what the engine grants its stripes.
const SLACK_MS: i64 = 60_000 * SCALE as i64;
/// The engine's stripes: each may have a lane's worth of charges on its way that the other one cannot see.
const STRIPES: u64 = 2;
const POLL: Duration = Duration::from_millis(250);
const SOON: Duration = Duration::from_secs(120);
/// Nothing is settled before the outage.
const WORKING_MS: u32 = 3_600_000;
/// Answers that are lost while it drains, of a million.
const LOST_PPM: u32 = 50;

/// What `toll bench backlog` takes.
#[derive(Debug, Clone, clap::Args)]
pub struct BacklogArgs {
    /// Subscriptions that fell due during the outage
    #[arg(long, default_value_t = 2_000_000, value_name = "N", value_parser = clap::value_parser!(u64).range(1_000..=5_000_000))]
    pub charges: u64,
    /// The carrier's rate, requests a second
    #[arg(long, default_value_t = 5_000, value_name = "N", value_parser = clap::value_parser!(u32).range(10..=100_000))]
    pub rate: u32,
    /// Charges whose answers are lost before the outage
    #[arg(long, default_value_t = 200, value_name = "N", value_parser = clap::value_parser!(u64).range(10..=10_000))]
    pub unknown: u64,
    /// Write the report as JSON to this file, too
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Where the benchmark keeps its data while it runs [default: the system's temporary directory]; use a real disk
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Fail with exit code 4 when a promise was not kept
    #[arg(long)]
    pub gate: bool,
}

/// Runs it and writes `--out`; the binaries as for [`super::run`]. [`BacklogReport::broken`] says what was not kept.
///
/// # Errors
/// When a process cannot be started, ends early or does not get on with its work in time.
pub async fn run(args: BacklogArgs, toll: PathBuf, mock: PathBuf) -> anyhow::Result<BacklogReport> {
    let at_full_rate_s = args.charges / u64::from(args.rate);
    ensure!(
        at_full_rate_s * 2 <= DRAIN_MAX_S,
        "{} charges take {at_full_rate_s} s at {} a second, and at most {} s are there before the next hour begins: a \
         higher --rate or fewer --charges would do",
        args.charges,
        args.rate,
        DRAIN_MAX_S / 2
    );
    let home = BenchDir::make(args.dir.as_deref())?;
    let report = run_in(&args, home.path(), &toll, &mock).await?;
    write_out(args.out.as_deref(), &report)?;
    Ok(report)
}

async fn run_in(args: &BacklogArgs, dir: &Path, toll: &Path, mock: &Path) -> anyhow::Result<BacklogReport> {
    raise_file_limit();
    let machine = Machine::look(dir);
    book::write(&dir.join("config"), args.rate)?;
    let mut cluster = Cluster::start(&dir.join("postgres")).await?;
    say("importing the population");
    fill(args, dir, toll, &mut cluster).await?;

    let dies_at = at_minute(day(0)?, BEFORE_MINUTE)?;
    clock(&mut cluster, dies_at).await?;
    let pace =
        BenchArgs { pairs: 1, charges: args.charges, latency_ms: 0, out: None, dir: None, gate: false };
    let mut engine = Engine::start(&pace, dir, toll, mock, &mut cluster).await?;
    behave(&engine, 1_000_000, WORKING_MS).await?;
    say("losing the answers of the charges before the outage");
    import(dir, toll, &mut cluster, args.unknown, true).await?;
    until_unknown(&mut cluster, args.unknown).await?;
    engine.die();

    behave(&engine, LOST_PPM, 0).await?;
    cluster.checkpoint().await?;
    clock(&mut cluster, dies_at + SignedDuration::from_hours(OUTAGE_HOURS)).await?;
    let restart_us: i64 =
        one(&mut cluster, "SELECT (extract(epoch FROM clock_timestamp()) * 1e6)::int8").await?;
    say("six business hours later: draining");
    engine.resume(&mut cluster).await?;
    let watched = drain(args, &mut engine, &mut cluster).await?;
    let peak_rss_bytes = resident_peak_bytes(engine.worker_pid()?)?;
    say("drained; reading what was done");
    clock_stands(&mut cluster).await?;
    engine.stop().await?;

    let ledger = engine.ledger();
    let found = compare(
        cluster.engine_conn(),
        &[CarrierLedger { carrier: CARRIER.to_owned(), path: ledger.clone() }],
    )
    .await?;
    let sent = sent_after(&mut cluster, restart_us).await?;
    let (first_us, last_us) = match (sent.first(), sent.last()) {
        (Some(first), Some(last)) => (first.at_us, last.at_us),
        _ => bail!("nothing was sent after the outage"),
    };
    let grain = watched.depth_max * STRIPES;
    let from_the_start = sequence_of(&sent, restart_us, grain, SLACK_MS);
    // What the engine had not read yet it could not put in order.
    let read_us = restart_us.max(watched.read_us);
    let after_reading = sequence_of(&sent, read_us, grain, SLACK_MS);
    let seconds = (last_us - restart_us) as f64 / 1e6;
    Ok(BacklogReport {
        toll_version: engine.version().await?,
        postgres_version: cluster.version().await?,
        machine,
        due: args.charges,
        carrier_rate_per_s: args.rate,
        sent: sent.len() as u64,
        seconds,
        until_read_s: (read_us - restart_us) as f64 / 1e6,
        until_first_s: (first_us - restart_us) as f64 / 1e6,
        charges_per_s: sent.len() as f64 / seconds.max(f64::MIN_POSITIVE),
        grain,
        in_sequence_share: after_reading.by_closing,
        in_due_sequence_share: after_reading.by_due,
        overtaken_max: after_reading.overtaken_max,
        in_sequence_share_from_the_start: from_the_start.by_closing,
        wheel_peak_bytes: watched.wheel_bytes,
        wheel_peak_entries: watched.wheel,
        worker_peak_rss_bytes: peak_rss_bytes,
        busiest_second: busiest_second(&ledger, restart_us)?,
        unknown: unknown(&mut cluster, restart_us, last_us).await?,
        policies: policies(&mut cluster).await?,
        hot_share: cluster.hot_share(args.charges).await?,
        books: Books::of(&found),
    })
}

/// Schema, partitions and everybody who is due after the outage.
async fn fill(args: &BacklogArgs, dir: &Path, toll: &Path, cluster: &mut Cluster) -> anyhow::Result<()> {
    cluster.prepare(1).await?;
    let first = days_since_2000(day(0)?);
    ensure_partitions(cluster.engine_conn(), first - 7, first + 60).await?;
    import(dir, toll, cluster, args.charges, false).await
}

async fn import(
    dir: &Path,
    toll: &Path,
    cluster: &mut Cluster,
    rows: u64,
    before: bool,
) -> anyhow::Result<()> {
    let already = cluster.subscriptions().await?;
    let file = dir.join(if before { "before.csv" } else { "due.csv" });
    write_csv(&file, &book::population(rows, before)?)?;
    let mut import = program::toll(toll, dir, &cluster.engine_url());
    import.args(["sub", "import"]).arg(&file);
    let patience = Duration::from_secs(120 + rows / 500);
    program::run_to_end(import, "toll sub import", &dir.join("import.log"), patience).await?;
    let imported = cluster.subscriptions().await? - already;
    ensure!(imported == rows, "{imported} of {rows} subscriptions were imported");
    Ok(())
}

async fn clock(cluster: &mut Cluster, at: Timestamp) -> anyhow::Result<()> {
    let base_machine_ms = Timestamp::now().as_millisecond();
    let row = ClockRow { base_machine_ms, base_business_ms: at.as_millisecond(), scale: SCALE };
    Ok(set_clock(cluster.engine_conn(), row).await?)
}

/// Nothing more falls due.
async fn clock_stands(cluster: &mut Cluster) -> anyhow::Result<()> {
    let now_ms = Timestamp::now().as_millisecond();
    let row = storage::pg::read_clock(cluster.engine_conn()).await?;
    let row = ClockRow { base_machine_ms: now_ms, base_business_ms: row.business_ms(now_ms), scale: 0 };
    Ok(set_clock(cluster.engine_conn(), row).await?)
}

/// How many of a million answers are lost, and for how long the carrier says to questions that it is still working.
async fn behave(engine: &Engine, silent_applied_ppm: u32, working_ms: u32) -> anyhow::Result<()> {
    let changes = format!("{{\"silent_applied_ppm\":{silent_applied_ppm},\"working_ms\":{working_ms}}}");
    tell(engine.mock_address(), Method::POST, "/_mock/behaviour", &changes).await?;
    Ok(())
}

async fn one(cluster: &mut Cluster, sql: &'static str) -> anyhow::Result<i64> {
    Ok(sqlx::query_scalar(sql).fetch_one(cluster.engine_conn()).await?)
}

async fn until_unknown(cluster: &mut Cluster, wanted: u64) -> anyhow::Result<()> {
    let deadline = Instant::now() + SOON;
    loop {
        let open = one(cluster, "SELECT count(*) FROM attempt_open WHERE kind = 2").await?;
        if u64::try_from(open)? >= wanted {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{open} attempts are unknown, {wanted} should be");
        tokio::time::sleep(POLL).await;
    }
}

/// What was seen while it drained.
#[derive(Default)]
struct Watched {
    wheel: u64,
    wheel_bytes: u64,
    depth_max: u64,
    /// When the wheel held the most: from then on everything was read.
    read_us: i64,
}

/// Waits until nothing is due, on its way, or unknown.
async fn drain(args: &BacklogArgs, engine: &mut Engine, cluster: &mut Cluster) -> anyhow::Result<Watched> {
    let deadline = Instant::now() + Duration::from_secs(DRAIN_MAX_S);
    let mut watched = Watched::default();
    let mut quiet = 0;
    loop {
        let status = engine.status().await?;
        let worker = status.worker.as_ref().context("the engine tells nothing of its worker")?;
        if worker.wheel > watched.wheel {
            watched.read_us = Timestamp::now().as_microsecond();
        }
        watched.wheel = watched.wheel.max(worker.wheel);
        watched.wheel_bytes = watched.wheel_bytes.max(worker.wheel_bytes);
        watched.depth_max = worker.lanes.iter().map(|lane| lane.depth_max).sum();
        let rests = worker.due == 0 && worker.in_flight == 0 && watched.wheel > 0;
        quiet = if rests { quiet + 1 } else { 0 };
        // Asked of the database only when it may be over: counting costs.
        if quiet > 4 && one(cluster, "SELECT count(*) FROM attempt_open").await? == 0 {
            return Ok(watched);
        }
        if Instant::now() >= deadline {
            bail!("{} charges did not drain in time; the last status was {status:?}", args.charges);
        }
        tokio::time::sleep(POLL).await;
    }
}

/// The first attempts after the restart, in the sequence of their intents. What missed periods were dealt with is known to
/// be due from then on.
async fn sent_after(cluster: &mut Cluster, restart_us: i64) -> anyhow::Result<Vec<Sent>> {
    // Postgres hashes a bigint by XOR of its halves: of ids whose upper half is a shard and whose lower one a small number,
    // most collide, and hashing millions of them takes hours. Sorting takes seconds.
    sqlx::query("SET enable_hashagg = off").execute(cluster.engine_conn()).await?;
    sqlx::query("SET enable_hashjoin = off").execute(cluster.engine_conn()).await?;
    // As arrays: millions of rows would take gigabytes one by one.
    let (at_us, known_us, due_ms, closes_ms): (Vec<i64>, Vec<i64>, Vec<i64>, Vec<i64>) = sqlx::query_as(
        "SELECT coalesce(array_agg(at_us), '{}'), coalesce(array_agg(known_us), '{}'),
                coalesce(array_agg(not_before_ms), '{}'), coalesce(array_agg(not_after_ms), '{}')
           FROM (SELECT (extract(epoch FROM i.intent_at) * 1e6)::int8 AS at_us,
                        greatest((extract(epoch FROM n.at) * 1e6)::int8, $1) AS known_us,
                        i.not_before_ms, i.not_after_ms
                   FROM attempt_intent i
                   LEFT JOIN (SELECT subscription_id, max(at) AS at FROM charge_note GROUP BY 1) n
                        USING (subscription_id)
                  WHERE i.op = 1 AND i.attempt_no = 1 AND i.intent_at > to_timestamp($1::float8 / 1e6)
                  ORDER BY i.intent_at, i.subscription_id) AS sent",
    )
    .bind(restart_us)
    .fetch_one(cluster.engine_conn())
    .await?;
    let times = at_us.into_iter().zip(known_us);
    let instants = due_ms.into_iter().zip(closes_ms);
    let sent = times.zip(instants).map(|((at_us, known_us), (due_ms, closes_ms))| Sent {
        at_us,
        known_us,
        due_ms,
        closes_ms,
    });
    Ok(sent.collect())
}

async fn unknown(cluster: &mut Cluster, restart_us: i64, last_us: i64) -> anyhow::Result<Unknown> {
    let settled = "SELECT count(*) FILTER (WHERE o.decided_at < to_timestamp($1::float8 / 1e6)), count(*)
               FROM attempt_outcome o JOIN subscription s ON s.id = o.subscription_id JOIN plan p USING (plan_no)
              WHERE p.id = $2 AND o.class = 5";
    let (during, before): (i64, i64) =
        sqlx::query_as(settled).bind(last_us).bind(book::BEFORE).fetch_one(cluster.engine_conn()).await?;
    let asked = "SELECT count(DISTINCT (subscription_id, period, attempt_no)) FROM attempt_ask
              WHERE asked_at > to_timestamp($1::float8 / 1e6)";
    let asked: i64 = sqlx::query_scalar(asked).bind(restart_us).fetch_one(cluster.engine_conn()).await?;
    Ok(Unknown {
        before: u64::try_from(before)?,
        before_settled_while_draining: u64::try_from(during)?,
        lost_while_draining: u64::try_from((asked - before).max(0))?,
        open_at_the_end: u64::try_from(one(cluster, "SELECT count(*) FROM attempt_open").await?)?,
    })
}

async fn policies(cluster: &mut Cluster) -> anyhow::Result<Policies> {
    let counts = "SELECT count(DISTINCT n.subscription_id) FILTER (WHERE n.rule_id = 12),
                    count(DISTINCT n.subscription_id) FILTER (WHERE n.rule_id = 11),
                    count(DISTINCT n.subscription_id) FILTER (WHERE n.rule_id = 26) FROM charge_note n WHERE n.kind = 1";
    let (late, skipped, merged): (i64, i64, i64) =
        sqlx::query_as(counts).fetch_one(cluster.engine_conn()).await?;
    let lines = "SELECT count(*) FROM subscription s JOIN plan p USING (plan_no) WHERE p.id = $1";
    let count = async |cluster: &mut Cluster, plan: &str| -> anyhow::Result<u64> {
        let count: i64 = sqlx::query_scalar(lines).bind(plan).fetch_one(cluster.engine_conn()).await?;
        Ok(u64::try_from(count)?)
    };
    let amount = i64::from(book::PRICE_MINOR) * 4;
    let merged_charges: i64 =
        sqlx::query_scalar("SELECT count(*) FROM attempt_intent WHERE amount_minor = $1")
            .bind(amount)
            .fetch_one(cluster.engine_conn())
            .await?;
    Ok(Policies {
        once_late: u64::try_from(late)?,
        once_late_lines: count(cluster, "late").await?,
        skipped: u64::try_from(skipped)?,
        skipped_lines: count(cluster, book::SKIPS).await?,
        merged: u64::try_from(merged)?,
        merged_lines: count(cluster, "merges").await?,
        merged_charges: u64::try_from(merged_charges)?,
    })
}
