//! A run: keeps the engines in their seats, notes every death, and measures how long the others need to go on.

use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use jiff::Timestamp;
use rustix::process::Signal;

use super::Settings;
use super::disk::Disk;
use super::fault::{Crash, Fault, Plan};
use super::process::{Engine, free_address};
use super::report::Report;
use super::seat::Seat;
use super::world::{LEASE_MS, World};
use crate::sim::dice::Dice;

const TICK: Duration = Duration::from_millis(20);
const LOOKED_EVERY: Duration = Duration::from_millis(200);
const WEIGHED_EVERY: Duration = Duration::from_millis(500);
/// Anything that has to happen again happens within this.
pub(super) const LONG: Duration = Duration::from_secs(90);
/// What is promised: the first new charge on a dead worker's shards, after its lease.
const RECOVERY_AFTER_LEASE_MS: u64 = 5_000;
/// The name of a kill that no crash point armed.
pub(super) const RANDOM: &str = "random";
/// Refunds are asked for so often.
const REFUND_EVERY: Duration = Duration::from_millis(1_500);

/// The run.
pub(super) struct Run<'a> {
    pub(super) settings: &'a Settings,
    // Before the world: engines end before what they stand on.
    pub(super) seats: Vec<Seat>,
    pub(super) disk: Disk,
    refunds: Option<Refunds>,
    pub(super) world: World,
    pub(super) dice: Dice,
    pub(super) plan: Plan,
    pub(super) report: Report,
    pub(super) faketime: PathBuf,
    say: &'a mut dyn FnMut(&str),
    began: Instant,
    weighed: Instant,
    looked: Instant,
    pending: Vec<Recovery>,
}

/// A dead engine whose shards somebody else must charge.
struct Recovery {
    seat: usize,
    what: String,
    at: Instant,
    at_us: i64,
    incarnation: i64,
    shards: Vec<i32>,
}

impl<'a> Run<'a> {
    pub(super) fn start(settings: &'a Settings, say: &'a mut dyn FnMut(&str)) -> anyhow::Result<Self> {
        ensure!(settings.engines >= 2, "two engines are needed at least: who should take over?");
        ensure!(!settings.faults().is_empty(), "no fault has such a name: {}", settings.only.join(", "));
        ensure!(settings.checker.exists(), "the checker {} is missing", settings.checker.display());
        let faketime = faketime()?;
        let dice = Dice::new(settings.seed, 0xC405);
        let addresses = (0..settings.engines)
            .map(|_| Ok((free_address(&dice)?, free_address(&dice)?)))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let callbacks: Vec<String> = addresses.iter().map(|(_, callbacks)| callbacks.clone()).collect();
        let world = World::start(settings, &dice, &callbacks)?;
        let disk = Disk::prepare(&world.dir.join("data/spool"), &world.book)?;
        world.import(settings)?;
        let seats = addresses
            .into_iter()
            .enumerate()
            .map(|(number, addresses)| Seat::new(&world, number, addresses, &dice))
            .collect::<anyhow::Result<_>>()?;
        let report = Report {
            seed: settings.seed,
            engines: settings.engines,
            disk: disk.describe().to_owned(),
            recovery_bound_ms: LEASE_MS + RECOVERY_AFTER_LEASE_MS,
            // Those that nobody reaches are told, too.
            kills_by_point: Crash::all().into_iter().map(|crash| (crash.name().to_owned(), 0)).collect(),
            ..Report::default()
        };
        Ok(Self {
            settings,
            seats,
            disk,
            refunds: None,
            world,
            dice,
            plan: Plan::new(settings.faults(), settings.kills_every),
            report,
            faketime,
            say,
            began: Instant::now(),
            weighed: Instant::now(),
            looked: Instant::now(),
            pending: Vec::new(),
        })
    }

    pub(super) fn finish(mut self) -> anyhow::Result<Report> {
        for seat in 0..self.seats.len() {
            self.start_engine(seat, None)?;
        }
        self.all_well("the engines work")?;
        self.refunds = Some(Refunds::start(&self.world, self.settings));
        let began = Instant::now();
        while !self.is_enough(began) {
            let fault = self.plan.next(&self.dice);
            let (round, before) = (Instant::now(), self.world.applied());
            self.tell(&format!("· {}", fault.name()));
            *self.report.faults.entry(fault.name()).or_default() += 1;
            self.round(fault)?;
            self.make_well()?;
            let applied = self.world.applied();
            let took = round.elapsed().as_secs_f64();
            self.tell(&format!(
                "  over after {took:.1} s; {applied} charges applied ({:.0} a second), {} kills{}",
                applied.saturating_sub(before) as f64 / took,
                self.report.kills,
                if self.report.broken.is_empty() { "" } else { ", PROMISES BROKEN" }
            ));
        }
        self.report.under_faults_s = began.elapsed().as_secs();
        drop(self.refunds.take());
        self.settle()?;
        Ok(self.report)
    }

    fn is_enough(&self, began: Instant) -> bool {
        let took = began.elapsed();
        if took >= self.settings.at_most {
            return true;
        }
        took >= self.settings.duration
            && self.world.applied() >= self.settings.charges
            && self.report.kills >= self.settings.kills
            && self.nothing_is_missing()
    }

    fn nothing_is_missing(&self) -> bool {
        let faults = self.settings.faults();
        let every_fault = || faults.iter().all(|fault| self.report.faults.contains_key(&fault.name()));
        let every_point =
            || Crash::all().iter().all(|crash| self.report.kills_by_point.get(crash.name()) > Some(&0));
        (!self.settings.every_fault || every_fault())
            && (!self.settings.every_point || !faults.contains(&Fault::Kills) || every_point())
    }

    /// A line for whoever watches.
    pub(super) fn tell(&mut self, line: &str) {
        (self.say)(&format!("{:7.1} s  {line}", self.began.elapsed().as_secs_f64()));
    }

    /// A promise did not hold.
    pub(super) fn broken(&mut self, what: String) {
        self.tell(&format!("BROKEN: {what}"));
        self.report.broken.push(what);
    }

    pub(super) fn start_engine(&mut self, seat: usize, crash: Option<(Crash, u64)>) -> anyhow::Result<()> {
        let Some(place) = self.seats.get_mut(seat) else { return Ok(()) };
        place.start(&self.world, self.settings, crash, None)
    }

    /// Looks after everything for so long.
    pub(super) fn pass(&mut self, time: Duration) -> anyhow::Result<()> {
        let until = Instant::now() + time;
        while Instant::now() < until {
            self.tick()?;
        }
        Ok(())
    }

    /// Looks after everything until the condition holds. Gives up, and says so, after the deadline.
    pub(super) fn wait(
        &mut self,
        what: &str,
        deadline: Duration,
        mut holds: impl FnMut(&mut Self) -> bool,
    ) -> anyhow::Result<bool> {
        let until = Instant::now() + deadline.mul_f64(slowness());
        while !holds(self) {
            if Instant::now() >= until {
                self.broken(format!("waited {} s in vain: {what}", deadline.as_secs()));
                return Ok(false);
            }
            self.tick()?;
        }
        Ok(true)
    }

    /// One look at everything.
    pub(super) fn tick(&mut self) -> anyhow::Result<()> {
        for seat in 0..self.seats.len() {
            let ended = self.seats.get_mut(seat).and_then(|seat| seat.engine.as_mut()?.ended());
            if let Some(status) = ended {
                self.died(seat, status);
            }
        }
        // What is measured is the moment of the intent, not that of the look.
        if self.looked.elapsed() >= LOOKED_EVERY {
            self.looked = Instant::now();
            self.look_at_recoveries();
        }
        if self.weighed.elapsed() >= WEIGHED_EVERY {
            self.weighed = Instant::now();
            self.seats.iter_mut().for_each(Seat::weigh);
        }
        std::thread::sleep(TICK);
        Ok(())
    }

    /// An engine ended that nobody here ended.
    fn died(&mut self, seat: usize, status: ExitStatus) {
        use std::os::unix::process::ExitStatusExt;
        let Some(place) = self.seats.get_mut(seat) else { return };
        let crash = place.crash.take();
        place.engine = None;
        match crash {
            Some(crash) if status.signal() == Some(Signal::KILL.as_raw()) => self.killed(seat, crash.name()),
            _ => {
                let words = place.last_words();
                self.broken(format!("engine {seat} ended by itself ({status}):\n{words}"));
            }
        }
    }

    /// kill -9, and notes what has to happen now.
    pub(super) fn kill(&mut self, seat: usize) {
        let Some(place) = self.seats.get_mut(seat) else { return };
        place.crash = None;
        let Some(engine) = place.engine.take() else { return };
        drop(engine); // kills, and waits for the end
        self.killed(seat, RANDOM);
    }

    fn killed(&mut self, seat: usize, point: &str) {
        self.report.kills += 1;
        *self.report.kills_by_point.entry(point.to_owned()).or_default() += 1;
        self.tell(&format!("  engine {seat} · kill -9 · {point}"));
        // Whoever should take over may be the one that died: not measured. Nor where the others are to die, too.
        self.pending.clear();
        let works = |place: &Seat| place.engine.is_some() && place.crash.is_none();
        if !self.seats.iter().enumerate().all(|(other, place)| other == seat || works(place)) {
            return;
        }
        let at_us = Timestamp::now().as_microsecond();
        if let Some((incarnation, shards)) = self.holds(seat)
            && !shards.is_empty()
        {
            let what = point.to_owned();
            self.pending.push(Recovery { seat, what, at: Instant::now(), at_us, incarnation, shards });
        }
    }

    /// The incarnation that sits or sat last in this seat, and its shards.
    pub(super) fn holds(&mut self, seat: usize) -> Option<(i64, Vec<i32>)> {
        let endpoint = format!("http://{}", self.seats.get(seat)?.api);
        let row: anyhow::Result<Option<(i64, Vec<i32>)>> = self.world.ask(async |conn| {
            Ok(sqlx::query_as(
                "SELECT w.incarnation, array(SELECT shard FROM shard_owner o WHERE o.slot = w.slot)
                   FROM worker w JOIN worker_incarnation i USING (incarnation)
                  WHERE i.endpoint = $1 AND i.fenced_at IS NULL
                  ORDER BY i.started_at DESC LIMIT 1",
            )
            .bind(&endpoint)
            .fetch_optional(conn)
            .await?)
        });
        row.ok().flatten()
    }

    /// The database or the carriers are away for a while: what is measured then says nothing.
    pub(super) fn forget_recoveries(&mut self) {
        self.pending.clear();
    }

    /// Whether all recoveries are over.
    pub(super) fn recovered(&self) -> bool {
        self.pending.is_empty()
    }

    fn look_at_recoveries(&mut self) {
        let pending = std::mem::take(&mut self.pending);
        for recovery in pending {
            let first = self.world.ask(async |conn| {
                let first: Option<i64> = sqlx::query_scalar(
                    "SELECT (extract(epoch FROM min(intent_at)) * 1000000)::bigint FROM attempt_intent
                      WHERE intent_at > timestamptz 'epoch' + $1 * interval '1 microsecond'
                        AND (subscription_id >> 32)::int = ANY ($2) AND incarnation <> $3",
                )
                .bind(recovery.at_us)
                .bind(&recovery.shards)
                .bind(recovery.incarnation)
                .fetch_one(conn)
                .await?;
                Ok(first)
            });
            match first {
                Ok(Some(first_us)) => {
                    let took_ms = u64::try_from((first_us - recovery.at_us) / 1_000).unwrap_or(0);
                    self.report.recoveries += 1;
                    self.report.worst_recovery_ms = self.report.worst_recovery_ms.max(took_ms);
                    self.tell(&format!(
                        "  engine {} · first new charge on its {} shards after {took_ms} ms",
                        recovery.seat,
                        recovery.shards.len()
                    ));
                    let bound_ms = self.report.recovery_bound_ms;
                    self.report.late_recoveries += u64::from(took_ms > bound_ms);
                    if took_ms as f64 > bound_ms as f64 * slowness() {
                        self.broken(format!(
                            "after a kill ({}) the first new charge on the shards of engine {} came after {took_ms} ms",
                            recovery.what, recovery.seat
                        ));
                    }
                }
                _ if recovery.at.elapsed() > LONG.mul_f64(slowness()) => {
                    let (seat, what) = (recovery.seat, &recovery.what);
                    self.broken(format!("after a kill ({what}) nobody charged the shards of engine {seat}"));
                }
                _ => self.pending.push(recovery),
            }
        }
    }

    /// Everything works again: engines in all seats, no fault anywhere, charges go on.
    pub(super) fn make_well(&mut self) -> anyhow::Result<()> {
        for seat in 0..self.seats.len() {
            let Some(place) = self.seats.get(seat) else { continue };
            place.clean();
            if place.engine.is_none() {
                self.start_engine(seat, None)?;
            }
        }
        self.world.behave(super::world::USUAL)?;
        self.all_well("everything works again")?;
        Ok(())
    }

    pub(super) fn all_well(&mut self, what: &str) -> anyhow::Result<bool> {
        let before = self.world.requests();
        let mut next = Instant::now();
        self.wait(what, LONG, |run| {
            if Instant::now() < next {
                return false;
            }
            next = Instant::now() + Duration::from_millis(100);
            run.recovered()
                && run.seats.iter().all(|seat| seat.engine.is_some() && seat.ready())
                && run.world.requests() > before
                && run
                    .world
                    .number("SELECT count(*) FROM shard_owner WHERE slot IS NULL")
                    .is_ok_and(|free| free == 0)
        })
    }

    /// How much memory an engine holds now, and forgets its peak.
    pub(super) fn weigh_from_now(&mut self) -> Vec<u64> {
        self.seats.iter_mut().for_each(Seat::weigh);
        let engines = self.seats.iter().map(|seat| seat.engine.as_ref());
        engines
            .map(|engine| {
                engine.map_or(0, |engine: &Engine| {
                    engine.forget_peak();
                    engine.memory().map_or(0, |(_, now)| now)
                })
            })
            .collect()
    }
}

/// Asks for refunds all the time, as people do: they need an intent, a request and an outcome like any charge.
struct Refunds {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Refunds {
    fn start(world: &World, settings: &Settings) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (url, stopped) = (world.postgres.url(), Arc::clone(&stop));
        let program = (world.dir.clone(), world.book.clone(), settings.toll.clone());
        let thread = std::thread::spawn(move || {
            let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
                return;
            };
            while !stopped.load(Ordering::SeqCst) {
                std::thread::sleep(REFUND_EVERY);
                // The server may be dead just now.
                let Ok(key) = runtime.block_on(any_collected(&url)) else { continue };
                let (dir, book, toll) = &program;
                let _ = std::process::Command::new(toll)
                    .arg("--data")
                    .arg(dir.join("data"))
                    .arg("--config")
                    .arg(book)
                    .args(["--database", &url, "charge", "refund", &key, "--reason", "chaos", "--yes"])
                    .stdin(std::process::Stdio::null())
                    .output();
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Refunds {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn any_collected(url: &str) -> anyhow::Result<String> {
    let mut conn = storage::pg::connect(url, "tollbook chaos refunds").await?;
    one_collected(&mut conn, &[]).await
}

/// A charge that was collected a moment ago, in one of these shards; none: in any.
pub(super) async fn one_collected(conn: &mut sqlx::PgConnection, shards: &[i32]) -> anyhow::Result<String> {
    use billing_core::ids::{ChargeId, SubscriptionId};
    use billing_core::period::Period;
    let (id, period): (i64, i32) = sqlx::query_as(
        // By the moment of the intent, which has an index: a million outcomes are not gone through for each refund.
        "SELECT i.subscription_id, i.period FROM attempt_intent i JOIN attempt_outcome o USING (subscription_id, period, attempt_no)
          WHERE o.class = 5 AND i.intent_at > now() - interval '5 s'
            AND (cardinality($1) = 0 OR (i.subscription_id >> 32)::int = ANY ($1))
          ORDER BY random() LIMIT 1",
    )
    .bind(shards)
    .fetch_one(conn)
    .await?;
    let period = Period::from_number(period)?;
    Ok(ChargeId { subscription: SubscriptionId(id), period }.to_string())
}

/// How much longer everything takes on this machine just now: who waits for a processor, by processors; 1 at least. What is
/// promised in seconds is promised of a machine that has time.
pub(super) fn slowness() -> f64 {
    let waiting = std::fs::read_to_string("/proc/loadavg").ok();
    let waiting: f64 = waiting.and_then(|text| text.split_whitespace().next()?.parse().ok()).unwrap_or(1.0);
    let processors = std::thread::available_parallelism().map_or(1.0, |count| count.get() as f64);
    (waiting / processors).max(1.0)
}

/// The library that moves the clock of one process.
fn faketime() -> anyhow::Result<PathBuf> {
    let found = std::fs::read_dir("/usr/lib")?
        .filter_map(|entry| Some(entry.ok()?.path().join("faketime/libfaketime.so.1")))
        .find(|path| path.exists());
    found.context("libfaketime is missing: install the package faketime (scripts/prepare does)")
}
