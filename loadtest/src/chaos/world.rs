//! The world of a chaos run: a folder, Postgres, a book, three carriers, and what lies between them and the engines.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use jiff::Timestamp;
use sqlx::postgres::PgConnection;
use storage::launcher::{LauncherOptions, PrivatePostgres};
use storage::pg::{ClockRow, connect, migrate, read_clock, set_clock};
use tokio::runtime::Runtime;

use super::Settings;
use super::process::{Mock, MockStart};
use super::proxy::{Proxy, Upstream};
use crate::compare::{CarrierLedger, Comparison, compare};
use crate::population::{PlanShare, PopulationSpec, write_csv};
use crate::sim::dice::Dice;

/// A business day takes a minute.
pub(super) const SCALE: i32 = 24 * 60;
/// The lease of the engines; short, because every kill waits for it.
pub(super) const LEASE_MS: u64 = 5_000;
/// What the carriers that sign and this run's engines share.
const SECRET: &str = "a-secret-of-the-chaos";
/// Shards of each carrier.
const SLICES: u32 = 8;
/// The intervals of the resolution are divided by this: still above the lease, the reply timeout and every delay of ours.
const TIME_SCALE: u32 = 40;

/// A carrier of the run: how it is played, and how it behaves where nothing is wrong.
struct Played {
    id: &'static str,
    dialect: &'static str,
    currency: &'static str,
    plan: &'static str,
    behaviour: &'static str,
    share: PopulationShare,
}

struct PopulationShare {
    weight: u32,
    prefix: &'static str,
    digits: usize,
    zones: &'static [&'static str],
}

/// One of each kind: repeats prove (alfa), nothing proves (medina), inquiries and messages prove (hoshi).
const CARRIERS: [Played; 3] = [
    Played {
        id: "alfa",
        dialect: "camara",
        currency: "EUR",
        plan: "alfa-news-daily",
        behaviour: r#"{"balance":{"classes":[{"share_ppm":900000,"min_minor":90000,"max_minor":900000},
            {"share_ppm":100000,"min_minor":0,"max_minor":300}]},"topup_minor":2000,"topup_every_ms":300000,
            "barred_ppm":5000,"unknown_ppm":1000,"latency_ms":2,"latency_jitter_ms":6}"#,
        share: PopulationShare {
            weight: 40,
            prefix: "34",
            digits: 11,
            zones: &["Europe/Madrid", "Atlantic/Canary"],
        },
    },
    Played {
        id: "medina",
        dialect: "flat",
        currency: "TND",
        plan: "medina-kids-daily",
        behaviour: r#"{"balance":{"classes":[{"share_ppm":850000,"min_minor":90000,"max_minor":900000},
            {"share_ppm":150000,"min_minor":0,"max_minor":600}]},"topup_minor":1000,"topup_every_ms":150000,
            "barred_ppm":8000,"unknown_ppm":2000,"latency_ms":1,"latency_jitter_ms":4}"#,
        share: PopulationShare { weight: 30, prefix: "216", digits: 11, zones: &["Africa/Tunis"] },
    },
    Played {
        id: "hoshi",
        dialect: "priced",
        currency: "JPY",
        plan: "hoshi-manga-daily",
        behaviour: r#"{"balance":{"classes":[{"share_ppm":850000,"min_minor":30000,"max_minor":900000},
            {"share_ppm":150000,"min_minor":0,"max_minor":250}]},"topup_minor":1000,"topup_every_ms":200000,
            "barred_ppm":3000,"unknown_ppm":500,"latency_ms":3,"latency_jitter_ms":10,"pending_ppm":100000,
            "callback_delay_ms":150,"callback_twice_ppm":50000,"callback_early_ppm":20000,"callback_forged_ppm":10000}"#,
        share: PopulationShare { weight: 30, prefix: "81", digits: 12, zones: &["Asia/Tokyo"] },
    },
];

/// What goes on behind a fault: some answers are lost, some messages too.
pub(super) const USUAL: &str = r#"{"reset_applied_ppm":300,"silent_applied_ppm":100,"throttle_ppm":0,"busy_ppm":0,
    "garbage_ppm":0,"down":false,"callback_lost_ppm":2000}"#;
/// Nothing goes wrong at the carriers.
pub(super) const CALM: &str = r#"{"reset_applied_ppm":0,"silent_applied_ppm":0,"throttle_ppm":0,"busy_ppm":0,
    "garbage_ppm":0,"down":false,"callback_lost_ppm":0}"#;

/// Everything but the engines.
pub(super) struct World {
    pub(super) dir: PathBuf,
    pub(super) book: PathBuf,
    pub(super) mocks: Vec<Mock>,
    pub(super) postgres: PrivatePostgres,
    pub(super) business_start: Timestamp,
    list: PathBuf,
    conn: Option<PgConnection>,
    /// The proxies live here; last, so that what uses it is gone.
    pub(super) proxies: Runtime,
    /// Carriers' messages come in here, for whichever engine lives.
    front: Proxy,
    database: Runtime,
}

impl World {
    /// Starts it; `engines` are the addresses where carriers' messages may be taken.
    pub(super) fn start(settings: &Settings, dice: &Dice, engines: &[String]) -> anyhow::Result<Self> {
        let dir = settings.dir.clone();
        std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        ensure!(dir.read_dir()?.next().is_none(), "{} is not empty: a run needs a new folder", dir.display());
        let dir = dir.canonicalize()?;
        let book = write_book(&dir, &settings.config)?;
        write_secret(&dir)?;
        let proxies = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("chaos-proxy")
            .enable_all()
            .build()?;
        let database = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let upstream = engines.iter().map(|address| Upstream::Tcp(address.clone())).collect();
        let (front, front_address) = proxies.block_on(Proxy::tcp(upstream, settings.seed))?;
        let start = |played: &Played| {
            Mock::start(&MockStart {
                program: &settings.mock,
                dir: &dir,
                id: played.id,
                dialect: played.dialect,
                currency: played.currency,
                behaviour: played.behaviour,
                callback_url: &format!("http://{front_address}/callbacks/{}", played.id),
                secret: SECRET,
                seed: dice.below(1 << 32),
            })
        };
        let mocks = CARRIERS.iter().map(start).collect::<anyhow::Result<Vec<_>>>()?;
        let mut launcher = LauncherOptions::new(dir.join("postgres"), "tollbook");
        launcher.settings =
            [("max_connections", "150"), ("shared_buffers", "256MB"), ("max_wal_size", "2GB")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .to_vec();
        let postgres = PrivatePostgres::start(launcher)?;
        // A day before the clocks of Madrid change: the overlap of autumn, the gap of spring.
        let start =
            if settings.seed.is_multiple_of(2) { "2026-10-24T00:30:00Z" } else { "2027-03-27T00:30:00Z" };
        let list = dir.join("subscribers.csv");
        let mut world = Self {
            book,
            mocks,
            postgres,
            business_start: start.parse()?,
            list,
            conn: None,
            proxies,
            front,
            database,
            dir,
        };
        world.behave(USUAL)?;
        world.set_business(world.business_start, SCALE)?;
        Ok(world)
    }

    /// Imports the population, with that day's date: at every carrier something is due from the start.
    pub(super) fn import(&self, settings: &Settings) -> anyhow::Result<()> {
        let first = self.business_start.to_zoned(jiff::tz::TimeZone::UTC).date();
        let plans = CARRIERS.iter().map(|played| PlanShare {
            plan: played.plan.to_owned(),
            weight: played.share.weight,
            msisdn_prefix: played.share.prefix.to_owned(),
            digits: played.share.digits,
            zones: played.share.zones.iter().map(|zone| (*zone).to_owned()).collect(),
        });
        let spec = PopulationSpec {
            rows: settings.subscribers,
            seed: settings.seed,
            plans: plans.collect(),
            start: Some(first),
        };
        write_csv(&self.list, &spec)?;
        let file = self.list.display().to_string();
        let done = self.toll(settings, None).args(["sub", "import", &file]).output()?;
        ensure!(done.status.success(), "the import failed: {}", String::from_utf8_lossy(&done.stderr));
        Ok(())
    }

    /// `toll` on this world; `database`: the proxy's socket folder in place of the server's.
    pub(super) fn toll(&self, settings: &Settings, database: Option<&Path>) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(&settings.toll);
        command.arg("--data").arg(self.dir.join("data")).arg("--config").arg(&self.book);
        command.arg("--database").arg(database.map_or_else(|| self.postgres.url(), |dir| self.url_at(dir)));
        command.env("RUST_LOG", "info,fjall=warn,lsm_tree=warn").env_remove("RUST_BACKTRACE");
        command
    }

    /// The database's address through a socket in another folder.
    fn url_at(&self, dir: &Path) -> String {
        let url = self.postgres.url();
        let (head, tail) = url.split_once("host=").unwrap_or((&url, ""));
        let rest = tail.split_once('&').map_or("", |(_, rest)| rest);
        format!("{head}host={}&{rest}", dir.display())
    }

    /// A proxy before the database: its folder stands where the server's is expected.
    pub(super) fn database_proxy(&self, number: usize, seed: u64) -> anyhow::Result<(Proxy, PathBuf)> {
        let server = std::fs::read_dir(self.postgres.socket_dir())?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|path| {
                let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
                name.is_some_and(|name| name.starts_with(".s.PGSQL.") && !name.ends_with(".lock"))
            })
            .context("the server has no socket")?;
        let dir = self.dir.join(format!("pg{number}"));
        std::fs::create_dir_all(&dir)?;
        let path = dir.join(server.file_name().context("a socket without a name")?);
        let _inside = self.proxies.enter();
        Ok((Proxy::unix(&path, vec![Upstream::Unix(server)], seed)?, dir))
    }

    /// A proxy before a carrier.
    pub(super) fn carrier_proxy(&self, mock: &Mock, seed: u64) -> anyhow::Result<(Proxy, String)> {
        Ok(self.proxies.block_on(Proxy::tcp(vec![Upstream::Tcp(mock.address.clone())], seed))?)
    }

    /// The proxy through which carriers' messages come.
    pub(super) fn front(&self) -> &Proxy {
        &self.front
    }

    /// Changes every carrier.
    pub(super) fn behave(&self, changes: &str) -> anyhow::Result<()> {
        self.mocks.iter().try_for_each(|mock| mock.behave(changes))
    }

    /// Requests that all carriers received.
    pub(super) fn requests(&self) -> u64 {
        self.mocks.iter().map(Mock::requests).sum()
    }

    /// Charges that all carriers applied.
    pub(super) fn applied(&self) -> u64 {
        self.mocks.iter().map(Mock::applied).sum()
    }

    /// Runs a question over a connection that is kept while it works.
    pub(super) fn ask<T>(
        &mut self,
        question: impl AsyncFnOnce(&mut PgConnection) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let (url, kept) = (self.postgres.url(), self.conn.take());
        let (answer, conn) = self.database.block_on(async {
            let mut conn = match kept {
                Some(conn) => conn,
                None => match patient(&url).await {
                    Ok(conn) => conn,
                    Err(error) => return (Err(error), None),
                },
            };
            let answer = question(&mut conn).await;
            let conn = answer.is_ok().then_some(conn);
            (answer, conn)
        });
        self.conn = conn;
        answer
    }

    /// One number out of the database.
    pub(super) fn number(&mut self, sql: &'static str) -> anyhow::Result<i64> {
        self.ask(async |conn| Ok(sqlx::query_scalar(sql).fetch_one(conn).await?))
    }

    fn set_business(&mut self, at: Timestamp, scale: i32) -> anyhow::Result<()> {
        self.ask(async |conn| {
            migrate(conn).await?;
            let base_machine_ms = Timestamp::now().as_millisecond();
            let row = ClockRow { base_machine_ms, base_business_ms: at.as_millisecond(), scale };
            Ok(set_clock(conn, row).await?)
        })
    }

    /// Business time now.
    pub(super) fn business_now(&mut self) -> anyhow::Result<Timestamp> {
        self.ask(async |conn| {
            let now_ms = Timestamp::now().as_millisecond();
            Ok(Timestamp::from_millisecond(read_clock(conn).await?.business_ms(now_ms))?)
        })
    }

    /// Business time runs so many times faster from now on.
    pub(super) fn hurry_business(&mut self, times: i32) -> anyhow::Result<()> {
        let now = self.business_now()?;
        self.set_business(now, times * SCALE)
    }

    /// Business time stands still from now on: nothing more falls due.
    pub(super) fn stop_business(&mut self) -> anyhow::Result<()> {
        let now = self.business_now()?;
        self.set_business(now, 0)
    }

    /// Our ledger beside the carriers'.
    pub(super) fn compare(&mut self) -> anyhow::Result<Comparison> {
        self.mocks.iter().try_for_each(Mock::sync)?;
        let ledger = |mock: &Mock| CarrierLedger { carrier: mock.id.to_owned(), path: mock.ledger.clone() };
        let ledgers: Vec<CarrierLedger> = self.mocks.iter().map(ledger).collect();
        self.ask(async |conn| Ok(compare(conn, &ledgers).await?))
    }

    /// The independent checker over everything that was written.
    pub(super) fn checker(&self, script: &Path) -> Command {
        let mut command = Command::new("python3");
        command.args(["-B", "-s", "-E"]).arg(script).arg("--database").arg(self.postgres.url());
        for mock in &self.mocks {
            command.arg("--ledger").arg(format!("{}={}", mock.id, mock.ledger.display()));
        }
        command.args(["--scale", &SCALE.to_string(), "--lag-hours", "24", "--resolved", "--secret", SECRET]);
        command.arg("--list").arg(&self.list);
        for entry in self.dir.read_dir().into_iter().flatten().flatten() {
            if entry.path().extension().is_some_and(|extension| extension == "log") {
                command.arg("--log").arg(entry.path());
            }
        }
        command
    }
}

/// A connection whose questions may be about a million rows.
async fn patient(url: &str) -> anyhow::Result<PgConnection> {
    let mut conn = connect(url, "tollbook chaos").await?;
    sqlx::query("SET statement_timeout = '900s'").execute(&mut conn).await?;
    sqlx::query("SET work_mem = '128MB'").execute(&mut conn).await?;
    Ok(conn)
}

fn write_secret(dir: &Path) -> anyhow::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let dir = dir.join("data/secrets");
    std::fs::create_dir_all(&dir)?;
    let path = dir.join("hoshi_key");
    let mut file = std::fs::File::options().create_new(true).write(true).mode(0o600).open(path)?;
    Ok(writeln!(file, "{SECRET}")?)
}

/// The shipped carriers and plans, charged around the clock, with times that fit a minute's day.
fn write_book(dir: &Path, shipped: &Path) -> anyhow::Result<PathBuf> {
    let book = dir.join("config");
    for folder in ["carriers", "plans"] {
        std::fs::create_dir_all(book.join(folder))?;
    }
    let read = |file: &str| {
        let path = shipped.join(file);
        std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    for played in &CARRIERS {
        let file = format!("carriers/{}.toml", played.id);
        let text = read(&file)?;
        let text: String = text
            .lines()
            .filter(|line| !line.starts_with("slices"))
            .map(|line| match line.split(" =").next().unwrap_or_default() {
                "[carrier]" => format!("[carrier]\nslices = {SLICES}\n"),
                "reply_timeout" => "reply_timeout = \"2s\"\n".to_owned(),
                "open_for" => "open_for = \"2s\"\n".to_owned(),
                _ => format!("{line}\n"),
            })
            .collect();
        std::fs::write(book.join(&file), text)?;
        let file = format!("plans/{}.toml", played.plan);
        let text: String = read(&file)?
            .lines()
            .map(|line| match line.split(" =").next().unwrap_or_default() {
                "at" => "at = \"00:10\"\n".to_owned(),
                "spread" => "spread = \"22h\"\n".to_owned(),
                "window" => "window = [\"00:00\", \"24:00\"]\n".to_owned(),
                _ => format!("{line}\n"),
            })
            .collect();
        std::fs::write(book.join(&file), text)?;
    }
    let engine = format!(
        "[lease]\nttl = \"{LEASE_MS}ms\"\nrenew = \"{}ms\"\n[history]\nmin_free = \"64MiB\"\n\
         [resolution]\ntime_scale = {TIME_SCALE}\n",
        LEASE_MS / 8
    );
    std::fs::write(book.join("engine.toml"), engine)?;
    Ok(book)
}
