//! The engine's leg: `toll serve` and a mock carrier charge everybody once.
//!
//! Both processes live through all legs. The business clock jumps twice for each: to an hour before everybody is due, so
//! that the wheel fills, and past it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use hyper::Method;
use jiff::civil::Date;
use serde::Deserialize;
use storage::pg::worker_rows;

use super::BenchArgs;
use super::book::{CARRIER, CURRENCY, SLICES, at_minute};
use super::database::{Cluster, day_facts};
use super::http::{ask, metric};
use super::processes::resident_bytes;
use super::program::{Program, run_to_end, toll};
use super::report::Leg;

const START_WITHIN: Duration = Duration::from_secs(60);
const STOP_WITHIN: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(100);
/// The slowest that a leg may be, charges a second, beside a minute for everything else.
const SLOWEST_PER_S: u64 = 500;
/// Everybody is due within the minute after 06:00; the wheel reaches two hours ahead.
const BEFORE_DUE_MINUTE: u16 = 300;
const AFTER_DUE_MINUTE: u16 = 370;

/// The engine and its carrier.
pub(super) struct Engine {
    toll: PathBuf,
    dir: PathBuf,
    charges: u64,
    // Dropped in this sequence.
    worker: Option<Worker>,
    /// Where a worker was that died: its row stays until the next one takes its place.
    dead: Option<String>,
    mock: Program,
    mock_address: String,
    resident_empty: Option<u64>,
    resident_full: Option<u64>,
}

struct Worker {
    program: Program,
    address: String,
}

/// `GET /v1/status`, as far as it matters here.
#[derive(Debug, Deserialize)]
pub(super) struct Status {
    ready: bool,
    why: Option<String>,
    pub(super) worker: Option<WorkerStatus>,
    pub(super) due_to_durable: Option<LatencyStatus>,
}

#[derive(Debug, Deserialize)]
pub(super) struct WorkerStatus {
    shards: usize,
    pub(super) wheel: u64,
    pub(super) wheel_bytes: u64,
    pub(super) due: u64,
    pub(super) in_flight: u64,
    pub(super) lanes: Vec<LaneStatus>,
}

#[derive(Debug, Deserialize)]
pub(super) struct LaneStatus {
    pub(super) depth_max: u64,
}

/// From due to durable, microseconds.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(super) struct LatencyStatus {
    pub(super) p50_us: u64,
    pub(super) p99_us: u64,
    pub(super) max_us: u64,
    pub(super) count: u64,
}

#[derive(Deserialize)]
struct MockReady {
    listening: String,
}

impl Engine {
    /// Starts both and waits until the engine owns every shard.
    pub(super) async fn start(
        args: &BenchArgs,
        dir: &Path,
        toll: &Path,
        mock: &Path,
        cluster: &mut Cluster,
    ) -> anyhow::Result<Self> {
        let mut command = Command::new(mock);
        command.args(["--dialect", "flat", "--currency", CURRENCY, "--stdin-guard", "--latency-ms"]);
        command.arg(args.latency_ms.to_string()).arg("--ledger").arg(dir.join("mock.ndjson"));
        let mut mock = Program::start(command, "mock-carrier", &dir.join("mock.log"))?;
        let ready: MockReady = serde_json::from_str(&mock.first_line(START_WITHIN).await?)
            .context("the mock carrier's first line is not what it should be")?;
        let mut engine = Self {
            toll: toll.to_owned(),
            dir: dir.to_owned(),
            charges: args.charges,
            worker: None,
            dead: None,
            mock,
            mock_address: ready.listening,
            resident_empty: None,
            resident_full: None,
        };
        engine.resume(cluster).await?;
        engine.resident_empty = Some(resident_bytes(engine.worker()?.program.pid())?);
        Ok(engine)
    }

    /// Starts the worker process (again) and waits until it owns every shard.
    pub(super) async fn resume(&mut self, cluster: &mut Cluster) -> anyhow::Result<()> {
        let mut command = toll(&self.toll, &self.dir, &cluster.engine_url());
        command.args(["serve", "--listen", "127.0.0.1:0", "--carrier-base"]);
        command.arg(format!("{CARRIER}=http://{}", self.mock_address));
        let mut program = Program::start(command, "toll serve", &self.dir.join("serve.log"))?;
        let deadline = Instant::now() + START_WITHIN;
        // It takes a free port and tells others in the database where that is.
        let address = loop {
            let workers = worker_rows(cluster.engine_conn()).await;
            // Before it has migrated there may be nothing to ask.
            if let Some(worker) = workers.unwrap_or_default().first()
                && let Some(address) = worker.endpoint.strip_prefix("http://")
                && self.dead.as_deref() != Some(address)
            {
                break address.to_owned();
            }
            wait(&mut program, deadline, "toll serve did not register").await?;
        };
        self.worker = Some(Worker { program, address });
        self.until(START_WITHIN, |status| {
            status.ready && status.worker.as_ref().is_some_and(|worker| worker.shards == SLICES)
        })
        .await
        .context("toll serve did not take its shards")?;
        Ok(())
    }

    /// Lets the worker process drain and end.
    pub(super) async fn stop(&mut self) -> anyhow::Result<()> {
        match self.worker.take() {
            Some(worker) => worker.program.stop(STOP_WITHIN).await,
            None => Ok(()),
        }
    }

    /// The worker process dies, without a word.
    pub(super) fn die(&mut self) {
        self.dead = self.worker.take().map(|worker| worker.address);
    }

    pub(super) fn mock_address(&self) -> &str {
        &self.mock_address
    }

    pub(super) fn worker_pid(&mut self) -> anyhow::Result<u32> {
        Ok(self.worker()?.program.pid())
    }

    /// The mock carrier's own books.
    pub(super) fn ledger(&self) -> PathBuf {
        self.dir.join("mock.ndjson")
    }

    /// Bytes of memory that a filled wheel took, per subscription.
    pub(super) fn memory(&self) -> Option<f64> {
        let bytes = self.resident_full?.saturating_sub(self.resident_empty?);
        Some(bytes as f64 / self.charges as f64)
    }

    /// What the binary says of itself.
    pub(super) async fn version(&self) -> anyhow::Result<String> {
        let log = self.dir.join("version.log");
        let mut command = Command::new(&self.toll);
        command.arg("--version");
        run_to_end(command, "toll --version", &log, START_WITHIN).await?;
        Ok(std::fs::read_to_string(log.with_extension("out"))?.trim().to_owned())
    }

    /// One leg. CPU and WAL count from before the wheel fills, the time from the first intent.
    pub(super) async fn charge_everybody(
        &mut self,
        cluster: &mut Cluster,
        today: Date,
    ) -> anyhow::Result<Leg> {
        let pids = [self.worker()?.program.pid(), self.mock.pid()];
        let recorded = self.recorded().await?;
        let stored = cluster.stored_bytes().await?;
        let before = cluster.snapshot(&pids).await?;
        self.fill_wheel(cluster, today, self.charges).await?;
        if self.resident_full.is_none() {
            self.resident_full = Some(resident_bytes(pids[0])?);
        }
        cluster.set_clock(at_minute(today, AFTER_DUE_MINUTE)?).await?;
        self.until_recorded(recorded + self.charges).await?;
        let spent = cluster.snapshot(&pids).await?.since(&before);
        let stored_bytes = u64::try_from(cluster.stored_bytes().await? - stored).unwrap_or(0);
        let facts = day_facts(cluster.engine_conn(), today, self.charges).await?;
        let [engine_cpu_s, mock_cpu_s] = spent.cpu_s.as_slice().try_into().unwrap_or_default();
        Ok(Leg {
            charges: facts.approved,
            wall_s: facts.wall_s,
            begin_rows: facts.begin_rows,
            record_rows: facts.record_rows,
            postgres_cpu_s: spent.postgres_cpu_s,
            engine_cpu_s,
            mock_cpu_s,
            bench_cpu_s: spent.own_cpu_s,
            wal_bytes: spent.wal_bytes,
            stored_bytes,
            others_share: spent.others_share,
            steal_share: spent.steal_share,
            begin_us: None,
            record_us: None,
        })
    }

    /// Makes it early in the morning of `today` and waits until the wheel holds so many.
    pub(super) async fn fill_wheel(
        &mut self,
        cluster: &mut Cluster,
        today: Date,
        held: u64,
    ) -> anyhow::Result<()> {
        cluster.set_clock(at_minute(today, BEFORE_DUE_MINUTE)?).await?;
        self.until_wheel(held).await
    }

    /// Waits until the wheel holds so many.
    pub(super) async fn until_wheel(&mut self, held: u64) -> anyhow::Result<()> {
        let patience = self.patience();
        self.until(patience, |status| status.worker.as_ref().is_some_and(|worker| worker.wheel >= held))
            .await
            .with_context(|| format!("the wheel did not come to hold {held} subscriptions"))?;
        Ok(())
    }

    /// Outcomes that this worker process has recorded so far.
    pub(super) async fn recorded(&mut self) -> anyhow::Result<u64> {
        let worker = self.worker()?;
        let text = ask(&worker.address, Method::GET, "/metrics").await?;
        Ok(metric(&text, "tollbook_recorded_total").unwrap_or(0.0) as u64)
    }

    /// Waits until so many outcomes are recorded, and nothing is on its way.
    pub(super) async fn until_recorded(&mut self, count: u64) -> anyhow::Result<()> {
        let deadline = Instant::now() + self.patience();
        loop {
            let recorded = self.recorded().await?;
            if recorded >= count {
                break;
            }
            let worker = self.worker()?;
            let late = format!("{recorded} outcomes were recorded in time, {count} were expected");
            wait(&mut worker.program, deadline, &late).await?;
        }
        self.until(START_WITHIN, |status| status.worker.as_ref().is_some_and(|worker| worker.in_flight == 0))
            .await?;
        Ok(())
    }

    /// Forgets the latencies so far.
    pub(super) async fn reset_latency(&mut self) -> anyhow::Result<()> {
        ask(&self.worker()?.address, Method::POST, "/v1/latency/reset").await?;
        Ok(())
    }

    pub(super) async fn status(&mut self) -> anyhow::Result<Status> {
        let text = ask(&self.worker()?.address, Method::GET, "/v1/status").await?;
        serde_json::from_str(&text)
            .with_context(|| format!("the engine's status is not what it should be: {text}"))
    }

    async fn until(&mut self, patience: Duration, holds: impl Fn(&Status) -> bool) -> anyhow::Result<Status> {
        let deadline = Instant::now() + patience;
        loop {
            let status = self.status().await?;
            if holds(&status) {
                return Ok(status);
            }
            let last =
                format!("the last status was {status:?} ({})", status.why.as_deref().unwrap_or("ready"));
            wait(&mut self.worker()?.program, deadline, &last).await?;
        }
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(60 + self.charges / SLOWEST_PER_S)
    }

    fn worker(&mut self) -> anyhow::Result<&mut Worker> {
        self.worker.as_mut().context("toll serve does not run")
    }
}

async fn wait(program: &mut Program, deadline: Instant, late: &str) -> anyhow::Result<()> {
    program.still_runs()?;
    if Instant::now() >= deadline {
        bail!("{late}");
    }
    tokio::time::sleep(POLL).await;
    Ok(())
}
