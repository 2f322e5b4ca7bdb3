//! Crash points that nobody passes while all is well: what leads there is played. One engine is told where to die, the
//! others and the carriers do what brings it to that point.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use storage::fail_point::Point;

use super::fault::Crash;
use super::run::{Run, one_collected, slowness};
use super::world::{CALM, LEASE_MS, USUAL};

/// A point is reached within this, or its scene is over.
const SCENE_MAX: Duration = Duration::from_secs(30);
const ENDS_WITHIN: Duration = Duration::from_secs(20);
/// Between two refunds that are asked for.
const NEXT_REFUND: Duration = Duration::from_millis(200);
/// Answers that get lost, so that there is something that only people can settle.
const LOSES_ANSWERS: &str = r#"{"reset_applied_ppm":50000}"#;
/// The carrier of the run that can prove nothing.
const PROVES_NOTHING: &str = "medina";

/// What has to happen so that an engine comes to a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scene {
    /// The others stand still for longer than their lease. Who dies of a kill is fenced by its successor, who finds its
    /// spool unlocked, when it registers: that passes no point.
    OthersSilent,
    /// Refunds are asked for charges of its shards.
    Refunds,
    /// A carrier that can prove nothing loses answers.
    NothingProven,
    /// It has more than its share when another engine joins.
    AnotherJoins,
}

impl Scene {
    /// The scene that a point needs, where it needs one.
    pub(super) const fn of(point: Point) -> Option<Self> {
        match point {
            Point::BeforeFence | Point::AfterFence => Some(Self::OthersSilent),
            Point::BeforeRefundIntent | Point::AfterRefundIntent => Some(Self::Refunds),
            Point::BeforeReview | Point::AfterReview => Some(Self::NothingProven),
            Point::BeforeHandOver | Point::AfterHandOver => Some(Self::AnotherJoins),
            _ => None,
        }
    }
}

impl Run<'_> {
    /// Plays what leads to the point. An engine that does not get there is killed where it is, and the report says so.
    pub(super) fn scene(&mut self, point: Point, scene: Scene) -> anyhow::Result<()> {
        let crash = Crash::Code(point);
        self.tell(&format!("  a scene for {}", point.name()));
        if !self.all_well("the engines of a scene work")? {
            return Ok(());
        }
        let seat = self.any_seat();
        let other = (seat + 1) % self.seats.len();
        self.end(seat)?;
        if scene == Scene::AnotherJoins {
            self.end(other)?;
        }
        self.start_engine(seat, Some((crash, 1)))?;
        let plays = self.until(seat, |run| run.at_work_with_shards(seat))?;
        if plays {
            match scene {
                Scene::OthersSilent => self.others_silent(seat)?,
                Scene::Refunds => self.refunds(seat)?,
                Scene::NothingProven => self.nothing_proven(seat)?,
                Scene::AnotherJoins => {
                    self.start_engine(other, None)?;
                    self.until(seat, |_| false)?;
                }
            }
        }
        if self.seats.get_mut(seat).is_some_and(|place| place.crash.take().is_some()) {
            *self.report.scenes_in_vain.entry(point.name().to_owned()).or_default() += 1;
            self.plan.scene_again(point);
            self.kill(seat);
        }
        Ok(())
    }

    /// Passes until the condition holds (`true`), or until the engine is dead or its time is over (`false`).
    fn until(&mut self, seat: usize, mut holds: impl FnMut(&mut Self) -> bool) -> anyhow::Result<bool> {
        let until = Instant::now() + SCENE_MAX.mul_f64(slowness());
        while Instant::now() < until && self.seats.get(seat).is_some_and(|place| place.engine.is_some()) {
            if holds(self) {
                return Ok(true);
            }
            self.tick()?;
        }
        Ok(false)
    }

    /// It is ready, and there is no shard that nobody has.
    fn at_work_with_shards(&mut self, seat: usize) -> bool {
        self.seats.get(seat).is_some_and(super::seat::Seat::ready)
            && self
                .world
                .number("SELECT count(*) FROM shard_owner WHERE slot IS NULL")
                .is_ok_and(|free| free == 0)
    }

    /// Ends an engine as its people would.
    fn end(&mut self, seat: usize) -> anyhow::Result<()> {
        let Some(mut engine) = self.seats.get_mut(seat).and_then(|place| place.engine.take()) else {
            return Ok(());
        };
        engine.signal(Signal::TERM);
        let until = Instant::now() + ENDS_WITHIN;
        while engine.ended().is_none() && Instant::now() < until {
            self.tick()?;
        }
        Ok(()) // what has not ended is killed here
    }

    fn others_silent(&mut self, seat: usize) -> anyhow::Result<()> {
        let signal = |run: &Self, signal| {
            for (_, place) in run.seats.iter().enumerate().filter(|(number, _)| *number != seat) {
                place.signal(signal);
            }
        };
        signal(self, Signal::STOP);
        self.until(seat, |_| false)?;
        signal(self, Signal::CONT);
        // Who stood still charged nothing, which is no broken promise.
        self.forget_recoveries();
        self.pass(Duration::from_millis(LEASE_MS / 5))
    }

    fn refunds(&mut self, seat: usize) -> anyhow::Result<()> {
        let (dir, book, url) = (self.world.dir.clone(), self.world.book.clone(), self.world.postgres.url());
        let mut next = Instant::now();
        self.until(seat, |run| {
            if Instant::now() < next {
                return false;
            }
            next = Instant::now() + NEXT_REFUND;
            let Some((_, shards)) = run.holds(seat) else { return false };
            let Ok(key) = run.world.ask(async |conn| one_collected(conn, &shards).await) else {
                return false;
            };
            let _ = std::process::Command::new(&run.settings.toll)
                .arg("--data")
                .arg(dir.join("data"))
                .arg("--config")
                .arg(&book)
                .args(["--database", &url, "charge", "refund", &key, "--reason", "chaos", "--yes"])
                .stdin(std::process::Stdio::null())
                .output(); // the next one may work
            false
        })?;
        Ok(())
    }

    fn nothing_proven(&mut self, seat: usize) -> anyhow::Result<()> {
        let behave = |run: &Self, behaviour: &str| {
            run.world
                .mocks
                .iter()
                .filter(|mock| mock.id == PROVES_NOTHING)
                .try_for_each(|mock| mock.behave(behaviour))
        };
        behave(self, LOSES_ANSWERS)?;
        self.until(seat, |_| false)?;
        behave(self, CALM)?;
        behave(self, USUAL)
    }
}
