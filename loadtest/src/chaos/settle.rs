//! After the faults: time stands still, everything that is open is settled or given to people, and everybody's books are
//! compared.

use std::time::{Duration, Instant};

use billing_core::reason::Rule;
use jiff::tz::TimeZone;
use rustix::process::Signal;

use super::fault::Crash;
use super::rounds::MEMORY_MAX;
use super::run::Run;
use super::world::{CALM, SCALE};

const COUNTED_EVERY: Duration = Duration::from_secs(2);
const TOLD_EVERY: Duration = Duration::from_secs(10);
/// Then time runs so much faster ...
const HASTE: i32 = 2;
/// ... for a little more than a business day: what was accepted and never answered for becomes unknown after one.
const LAST_DAY: Duration = Duration::from_millis(60_000 * 13 / 12 / HASTE as u64);
const END_WITHIN: Duration = Duration::from_secs(60);
/// What a clock may be wrong by.
const CLOCK_OFF_MAX_MS: i64 = 3_000;
const CHECKER_TEXT_MAX: usize = 20_000;
/// Zones of the run whose clocks change.
const ZONES: [&str; 2] = ["Europe/Madrid", "Atlantic/Canary"];

/// Intents without an outcome that nobody lists.
const UNLISTED: &str = "SELECT count(*) FROM attempt_intent i
    WHERE NOT EXISTS (SELECT FROM attempt_outcome o WHERE (o.subscription_id, o.period, o.attempt_no) = (i.subscription_id, i.period, i.attempt_no))
      AND NOT EXISTS (SELECT FROM attempt_open o WHERE (o.subscription_id, o.period, o.attempt_no) = (i.subscription_id, i.period, i.attempt_no))";
const UNDECIDED: &str = "SELECT count(*) FROM attempt_open WHERE kind <> 3";

impl Run<'_> {
    pub(super) fn settle(&mut self) -> anyhow::Result<()> {
        let began = Instant::now();
        self.tell("· settling");
        self.world.behave(CALM)?;
        self.look_for_early_charges()?;
        self.world.hurry_business(HASTE)?;
        self.pass(LAST_DAY)?;
        let ended = self.world.business_now()?;
        self.world.stop_business()?;
        self.wait("nothing is due or on its way", self.settings.settled_within, |run| {
            run.seats.iter().all(|seat| {
                let idle = |status: serde_json::Value| {
                    ["in_flight", "due"].iter().all(|what| status["worker"][what].as_u64() == Some(0))
                };
                seat.status().is_some_and(idle)
            })
        })?;
        self.wait_for_none("every intent has its outcome or is listed", UNLISTED)?;
        self.wait_for_none("nothing is unknown any more", UNDECIDED)?;
        self.wait_for_none("the inboxes are empty", "SELECT count(*) FROM shard_inbox")?;
        self.end_engines()?;
        self.report.settling_s = began.elapsed().as_secs();
        self.count(ended)?;
        self.tell("· comparing the ledgers");
        let comparison = self.world.compare()?;
        self.report.count(&comparison);
        self.tell("· the independent checker");
        self.check()?;
        self.judge();
        Ok(())
    }

    /// Intents made before the time of their charge, by the clock that all share: an engine that believes a wrong clock
    /// makes such.
    fn look_for_early_charges(&mut self) -> anyhow::Result<()> {
        let off_ms = i64::from(SCALE) * CLOCK_OFF_MAX_MS;
        self.report.early = self.world.ask(async |conn| {
            Ok(sqlx::query_scalar(
                "SELECT count(*) FROM attempt_intent, business_clock c
                  WHERE not_before_ms > $1 + c.base_business_ms
                        + ((extract(epoch FROM intent_at) * 1000)::bigint - c.base_machine_ms) * c.scale",
            )
            .bind(off_ms)
            .fetch_one(conn)
            .await?)
        })?;
        Ok(())
    }

    /// Waits until nothing is counted any more, and says from time to time how much is left.
    fn wait_for_none(&mut self, what: &str, sql: &'static str) -> anyhow::Result<()> {
        let (mut looked, mut told) = (None::<Instant>, Instant::now());
        self.wait(what, self.settings.settled_within, |run| {
            // A count over a million rows keeps the server from better work.
            if looked.is_some_and(|at| at.elapsed() < COUNTED_EVERY) {
                return false;
            }
            let left = run.world.number(sql).unwrap_or(-1);
            looked = Some(Instant::now());
            if left != 0 && told.elapsed() > TOLD_EVERY {
                told = Instant::now();
                run.tell(&format!("  {what}: {left} are left"));
            }
            left == 0
        })?;
        Ok(())
    }

    fn end_engines(&mut self) -> anyhow::Result<()> {
        let mut engines: Vec<_> = self.seats.iter_mut().filter_map(|seat| seat.engine.take()).collect();
        engines.iter().for_each(|engine| engine.signal(Signal::TERM));
        let until = Instant::now() + END_WITHIN;
        let mut badly = 0;
        while let Some(mut engine) = engines.pop() {
            while engine.ended().is_none() && Instant::now() < until {
                self.tick()?;
            }
            badly += usize::from(!engine.ended().is_some_and(|status| status.success()));
        }
        if badly > 0 {
            self.broken(format!("{badly} engines did not end well"));
        }
        Ok(())
    }

    fn count(&mut self, ended: jiff::Timestamp) -> anyhow::Result<()> {
        self.report.attempts = self.world.number("SELECT count(*) FROM attempt_intent")?;
        // Every charge has a first attempt.
        self.report.charges =
            self.world.number("SELECT count(*) FROM attempt_intent WHERE attempt_no = 1")?;
        self.report.unknown_left = self.world.number(UNDECIDED)? + self.world.number(UNLISTED)?;
        self.report.in_review_without_reason =
            self.world.number("SELECT count(*) FROM attempt_open WHERE kind = 3 AND rule_id = 0")?;
        let reasons: Vec<(i16, i64)> = self.world.ask(async |conn| {
            Ok(sqlx::query_as("SELECT rule_id, count(*) FROM attempt_open WHERE kind = 3 GROUP BY 1")
                .fetch_all(conn)
                .await?)
        })?;
        self.report.in_review = reasons
            .into_iter()
            .map(|(rule, count)| (Rule::from_number(rule).id().to_owned(), count))
            .collect();
        let started = self.world.business_start;
        self.report.business_days = ended.duration_since(started).as_hours() / 24;
        for name in ZONES {
            let zone = TimeZone::get(name)?;
            if zone.to_offset(started) != zone.to_offset(ended) {
                self.report.clock_changes.push(name.to_owned());
            }
        }
        let wires = self.seats.iter().flat_map(|seat| seat.wires.iter().chain([&seat.database]));
        self.report.wire_faults = wires.chain([self.world.front()]).map(super::Proxy::faults_done).sum();
        self.report.peak_memory_bytes = self.seats.iter().map(|seat| seat.peak_bytes).max().unwrap_or(0);
        let reached = &self.report.kills_by_point;
        let missing = Crash::all()
            .into_iter()
            .map(Crash::name)
            .filter(|name| reached.get(*name).is_none_or(|kills| *kills == 0));
        self.report.points_not_reached = missing.map(str::to_owned).collect();
        Ok(())
    }

    fn check(&mut self) -> anyhow::Result<()> {
        let output = self.world.checker(&self.settings.checker).output()?;
        let text =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        std::fs::write(self.world.dir.join("checker.txt"), &text)?;
        self.report.checker_green = output.status.success();
        if !output.status.success() {
            self.report.checker = text.chars().take(CHECKER_TEXT_MAX).collect();
            self.broken("the independent checker found violations".to_owned());
        }
        Ok(())
    }

    fn judge(&mut self) {
        let report = &self.report;
        let mut broken = Vec::new();
        for (what, count) in [
            ("doubles", report.doubles),
            ("lost", report.lost),
            ("phantoms", report.phantoms),
            ("other differences", report.other),
            ("charges before their time", u64::try_from(report.early).unwrap_or(u64::MAX)),
            ("unknown left", u64::try_from(report.unknown_left).unwrap_or(u64::MAX)),
            (
                "in review without a reason",
                u64::try_from(report.in_review_without_reason).unwrap_or(u64::MAX),
            ),
        ] {
            if count > 0 {
                broken.push(format!("{what}: {count}"));
            }
        }
        if report.peak_memory_bytes > MEMORY_MAX {
            broken.push(format!("an engine held {} MiB", report.peak_memory_bytes >> 20));
        }
        broken.into_iter().for_each(|what| self.broken(what));
    }
}
