//! One fault each: how it is made, how long it lasts, and what must hold meanwhile.

use std::time::{Duration, Instant};

use anyhow::ensure;
use rustix::process::Signal;

use super::fault::{Crash, Fault};
use super::proxy::Mode;
use super::run::{LONG, RANDOM, Run, slowness};
use super::world::{CALM, LEASE_MS};

/// A clock that is this near to where it was set is set.
const CLOCK_READ_WITHIN_MS: i64 = 60_000;
/// By how many hours a wall clock is wrong.
const HOURS: [i32; 4] = [1, -1, 24, -24];
/// What libfaketime needs to notice, and the engine to ask the database again.
const CLOCK_NOTICED: Duration = Duration::from_secs(1);
/// A round goes on until so many engines died at crash points.
const AT_POINTS: u64 = 2;
/// Who works and did not reach its crash point within this is killed where it is.
const REACHED_WITHIN: Duration = Duration::from_secs(8);
/// What is promised of a drain.
const DRAIN_MAX_MS: u64 = 10_000;
const DRAIN_GIVEN_UP: Duration = Duration::from_secs(60);
/// What hostile answers may add to an engine's memory, in bytes.
const HOSTILE_GROWTH_MAX: u64 = 256 << 20;
/// What an engine of this size may hold, in bytes.
pub(super) const MEMORY_MAX: u64 = 1 << 30;

impl Run<'_> {
    pub(super) fn round(&mut self, fault: Fault) -> anyhow::Result<()> {
        let share = 60;
        match fault {
            Fault::Kills => self.kills(),
            Fault::Kill => self.one_kill(),
            Fault::Drain => self.drain(),
            Fault::Pause => self.pause(),
            Fault::PostgresKilled => self.postgres_killed(),
            Fault::PostgresAnswersLost => self.database(Mode::CutAnswers { share: 15, reset: false }),
            Fault::PostgresSlow => self.database(Mode::Delay { share: 200, max_ms: 300 }),
            Fault::DiskFull => self.disk_full(),
            Fault::Clocks => self.clocks(),
            Fault::RequestsCut => self.wires(Mode::CutRequests { share, reset: true }),
            Fault::AnswersReset => self.wires(Mode::CutAnswers { share, reset: true }),
            Fault::AnswersCut => self.wires(Mode::CutAnswers { share, reset: false }),
            Fault::AnswersLate => self.wires(Mode::Delay { share: 2 * share, max_ms: 3_000 }),
            Fault::HalfOpen => self.half_open(),
            Fault::SlowBody => self.wires(Mode::Slow { share }),
            Fault::Hostile(kind) => {
                let before = self.weigh_from_now();
                self.wires(Mode::Hostile { share, kind })?;
                self.grown(&before, kind.name());
                Ok(())
            }
            Fault::Throttled => {
                self.carriers(r#"{"throttle_ppm":1000000,"reset_applied_ppm":0,"silent_applied_ppm":0}"#)
            }
            Fault::Resets => {
                self.carriers(r#"{"reset_applied_ppm":60000,"reset_not_applied_ppm":60000}"#)?;
                self.world.behave(r#"{"reset_not_applied_ppm":0}"#)?;
                self.half(Mode::ResetAll)
            }
        }
    }

    /// Engines die where they were told to, or where they are, and are started again at once.
    fn kills(&mut self) -> anyhow::Result<()> {
        let began = Instant::now();
        let before = self.at_points();
        for seat in 0..self.seats.len() {
            self.kill(seat);
            self.start_armed(seat)?;
        }
        // A machine that needs long to start an engine is given longer.
        while began.elapsed() < self.settings.kills_for
            || self.at_points() < before + AT_POINTS && began.elapsed() < 6 * self.settings.kills_for
        {
            self.tick()?;
            for seat in 0..self.seats.len() {
                let Some(place) = self.seats.get_mut(seat) else { continue };
                if place.engine.is_none() {
                    self.start_armed(seat)?;
                } else if place.at_work() > REACHED_WITHIN {
                    if let Some(crash) = place.crash.take() {
                        self.plan.again(crash);
                    }
                    self.kill(seat);
                    self.start_armed(seat)?;
                }
            }
        }
        for seat in 0..self.seats.len() {
            let crash = self.seats.get_mut(seat).and_then(|place| place.crash.take());
            if let Some(crash) = crash {
                self.plan.again(crash);
                self.kill(seat);
            }
        }
        match self.plan.scene(&self.dice) {
            Some((point, scene)) => {
                self.make_well()?;
                self.scene(point, scene)
            }
            None => Ok(()),
        }
    }

    /// Kills at crash points so far.
    fn at_points(&self) -> u64 {
        self.report.kills_by_point.iter().filter(|(point, _)| *point != RANDOM).map(|(_, kills)| kills).sum()
    }

    fn start_armed(&mut self, seat: usize) -> anyhow::Result<()> {
        use storage::fail_point::Point;
        let crash = self.plan.crash(&self.dice);
        let passing = match crash {
            Crash::Code(Point::BeforeFirstByte | Point::AnswerRead) => self.dice.between(1, 300),
            Crash::Code(
                Point::BeforeIntentCommit
                | Point::AfterIntentCommit
                | Point::BeforeSentLine
                | Point::AfterSentLine
                | Point::BeforeSentSync
                | Point::AfterSentSync
                | Point::BeforeHistory
                | Point::AfterHistory
                | Point::BeforeOutcomeCommit
                | Point::AfterOutcomeCommit,
            ) => self.dice.between(1, 20),
            Crash::Code(Point::BeforeCallbackKept | Point::AfterCallbackKept) => self.dice.between(1, 5),
            Crash::Code(_) | Crash::Wire(_) => 1,
        };
        self.start_engine(seat, Some((crash, passing)))
    }

    /// One dies; the others charge its shards within lease and 5 s.
    fn one_kill(&mut self) -> anyhow::Result<()> {
        let seat = self.any_seat();
        self.kill(seat);
        self.wait("the dead engine's shards are charged again", LONG, |run| run.recovered())?;
        Ok(())
    }

    pub(super) fn any_seat(&self) -> usize {
        self.dice.below(self.seats.len() as u64) as usize
    }

    /// Ends within 10 s, and leaves nothing behind that nobody knows about.
    fn drain(&mut self) -> anyhow::Result<()> {
        let seat = self.any_seat();
        // One that still starts has nothing to drain.
        if !self.all_well("the engine that will end works")? {
            return Ok(());
        }
        // So that whatever becomes unknown now does so by the drain.
        self.world.behave(CALM)?;
        self.pass(Duration::from_millis(1_500))?;
        let Some(place) = self.seats.get_mut(seat) else { return Ok(()) };
        let endpoint = format!("http://{}", place.api);
        let Some(mut engine) = place.engine.take() else { return Ok(()) };
        let incarnation: i64 = self.world.ask(async |conn| {
            Ok(sqlx::query_scalar(
                "SELECT incarnation FROM worker_incarnation WHERE endpoint = $1 ORDER BY started_at DESC LIMIT 1",
            )
            .bind(&endpoint)
            .fetch_one(conn)
            .await?)
        })?;
        let began = Instant::now();
        let at_us = jiff::Timestamp::now().as_microsecond();
        engine.signal(Signal::TERM);
        let status = loop {
            if let Some(status) = engine.ended() {
                break Some(status);
            }
            if began.elapsed() > DRAIN_GIVEN_UP {
                break None;
            }
            self.tick()?;
        };
        let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let unknown: i64 = self.world.ask(async |conn| {
            Ok(sqlx::query_scalar(
                "SELECT count(*) FROM attempt_intent i
                  LEFT JOIN attempt_outcome o USING (subscription_id, period, attempt_no)
                  LEFT JOIN attempt_open u USING (subscription_id, period, attempt_no)
                  WHERE i.incarnation = $1 AND o.subscription_id IS NULL
                    AND (u.subscription_id IS NULL
                         OR u.kind <> 1 AND u.since > timestamptz 'epoch' + $2 * interval '1 microsecond')",
            )
            .bind(incarnation)
            .bind(at_us)
            .fetch_one(conn)
            .await?)
        })?;
        self.report.drains += 1;
        self.report.worst_drain_ms = self.report.worst_drain_ms.max(took_ms);
        self.report.unknown_by_drains += unknown;
        self.tell(&format!("  engine {seat} · drained in {took_ms} ms, {unknown} unknown by it"));
        let late = took_ms as f64 > DRAIN_MAX_MS as f64 * slowness();
        if late || unknown > 0 || !status.is_some_and(|status| status.success()) {
            self.broken(format!(
                "engine {seat} drained in {took_ms} ms ({status:?}) and left {unknown} unknown (incarnation {incarnation})"
            ));
        }
        Ok(())
    }

    /// Stands still until the others took over, then goes on where it was.
    fn pause(&mut self) -> anyhow::Result<()> {
        let seat = self.any_seat();
        self.stop_and_go(seat, Duration::from_millis(LEASE_MS + 3_000))
    }

    fn stop_and_go(&mut self, seat: usize, pause: Duration) -> anyhow::Result<()> {
        let Some(place) = self.seats.get(seat) else { return Ok(()) };
        place.signal(Signal::STOP);
        self.pass(pause)?;
        let Some(place) = self.seats.get(seat) else { return Ok(()) };
        place.signal(Signal::CONT);
        self.pass(Duration::from_secs(1))
    }

    fn postgres_killed(&mut self) -> anyhow::Result<()> {
        self.forget_recoveries();
        self.world.postgres.kill9();
        self.report.postgres_kills += 1;
        let away = self.dice.millis(100, 2_500);
        self.pass(away)?;
        self.world.postgres.restart()?;
        Ok(())
    }

    fn database(&mut self, mode: Mode) -> anyhow::Result<()> {
        self.seats.iter().for_each(|seat| seat.database.set(mode));
        self.pass(self.settings.fault_for)?;
        self.seats.iter().for_each(|seat| seat.database.set(Mode::Clean));
        Ok(())
    }

    fn wires(&mut self, mode: Mode) -> anyhow::Result<()> {
        self.seats.iter().flat_map(|seat| &seat.wires).for_each(|wire| wire.set(mode));
        // Messages on their way in meet the same.
        let inwards = matches!(mode, Mode::CutRequests { .. } | Mode::CutAnswers { .. } | Mode::Delay { .. });
        self.world.front().set(if inwards { mode } else { Mode::Clean });
        self.pass(self.settings.fault_for)?;
        self.world.front().set(Mode::Clean);
        self.seats.iter().flat_map(|seat| &seat.wires).for_each(|wire| wire.set(Mode::Clean));
        Ok(())
    }

    /// One engine only, so that not everything that is under way becomes unknown.
    fn half(&mut self, mode: Mode) -> anyhow::Result<()> {
        let seat = self.any_seat();
        let Some(place) = self.seats.get(seat) else { return Ok(()) };
        place.wires.iter().for_each(|wire| wire.set(mode));
        self.pass(self.settings.fault_for.min(Duration::from_millis(2_500)))?;
        let Some(place) = self.seats.get(seat) else { return Ok(()) };
        place.clean();
        Ok(())
    }

    fn half_open(&mut self) -> anyhow::Result<()> {
        self.half(Mode::Swallow)
    }

    fn carriers(&mut self, behaviour: &str) -> anyhow::Result<()> {
        self.world.behave(behaviour)?;
        self.pass(self.settings.fault_for)?;
        self.world.behave(super::world::USUAL)
    }

    fn grown(&mut self, before: &[u64], what: &str) {
        let grown = self.seats.iter().zip(before).filter_map(|(seat, before)| {
            let (peak, _) = seat.engine.as_ref()?.memory()?;
            Some(peak.saturating_sub(*before))
        });
        let most = grown.max().unwrap_or(0);
        self.report.hostile_growth_bytes = self.report.hostile_growth_bytes.max(most);
        self.tell(&format!("  memory grew by {} MiB at most", most >> 20));
        if most > HOSTILE_GROWTH_MAX {
            self.broken(format!("{what} raised an engine's memory by {} MiB", most >> 20));
        }
    }

    /// Nothing is sent that could not be explained; it goes on by itself when there is room.
    fn disk_full(&mut self) -> anyhow::Result<()> {
        if self.disk.fill()? {
            self.apply_book()?;
        }
        self.wait("the engines say that there is no room", LONG, |run| {
            run.seats.iter().all(|seat| {
                let why = seat.status().map(|status| status["why"].to_string()).unwrap_or_default();
                why.contains("history") || why.contains("sent log")
            })
        })?;
        self.pass(Duration::from_secs(2))?;
        if self.disk.free()? {
            self.apply_book()?;
        }
        Ok(())
    }

    fn apply_book(&mut self) -> anyhow::Result<()> {
        let done = self.world.toll(self.settings, None).args(["book", "apply", "--yes"]).output()?;
        ensure!(done.status.success(), "the book was not applied: {}", String::from_utf8_lossy(&done.stderr));
        Ok(())
    }

    /// One engine's wall clock is set to another time while it works, and back.
    fn clocks(&mut self) -> anyhow::Result<()> {
        let seat = self.any_seat();
        self.kill(seat);
        let (library, settings) = (self.faketime.clone(), self.settings);
        let Some(place) = self.seats.get_mut(seat) else { return Ok(()) };
        place.start(&self.world, settings, None, Some(&library))?;
        self.all_well("the engine whose clock will be moved works")?;
        for hours in HOURS {
            self.set_clock_of(seat, hours)?;
            let wanted_ms = i64::from(hours) * 3_600_000;
            self.wait("the engine's wall clock is wrong", LONG, |run| {
                let status = run.seats.get(seat).and_then(|seat| seat.status());
                let ahead_ms = status.and_then(|status| status["worker"]["clock_ahead_ms"].as_i64());
                ahead_ms.is_some_and(|ahead_ms| (ahead_ms - wanted_ms).abs() < CLOCK_READ_WITHIN_MS)
            })?;
            self.pass(self.settings.fault_for)?;
            self.set_clock_of(seat, 0)?;
            self.pass(CLOCK_NOTICED)?;
        }
        self.all_well("the engine whose clock was moved works")?;
        // Without the library again.
        self.kill(seat);
        Ok(())
    }

    fn set_clock_of(&mut self, seat: usize, hours: i32) -> anyhow::Result<()> {
        let Some(place) = self.seats.get(seat) else { return Ok(()) };
        // In one step: half a line would be another time.
        let next = place.faketime.with_extension("next");
        std::fs::write(&next, format!("{:+}\n", hours * 3_600))?;
        Ok(std::fs::rename(next, &place.faketime)?)
    }
}
