//! What goes wrong in a run, and in which sequence.

use storage::fail_point::Point;

use super::hostile::Hostile;
use super::proxy::WirePoint;
use super::scenes::Scene;
use crate::sim::dice::Dice;

/// Where a process dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Crash {
    /// At a point in its own code.
    Code(Point),
    /// At a point that only the wire can see.
    Wire(WirePoint),
}

impl Crash {
    /// Every crash point: those in the code only where this build has them.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let code =
            Point::ALL.iter().filter(|_| storage::fail_point::COMPILED_IN).map(|point| Self::Code(*point));
        code.chain(WirePoint::ALL.iter().map(|point| Self::Wire(*point))).collect()
    }

    /// The scene that it needs, where it needs one.
    pub(super) fn scene(self) -> Option<(Point, Scene)> {
        match self {
            Self::Code(point) => Some((point, Scene::of(point)?)),
            Self::Wire(_) => None,
        }
    }

    /// As reports show it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Code(point) => point.name(),
            Self::Wire(point) => point.name(),
        }
    }
}

/// One fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// Engines die at crash points and at random, one after the other and several at a time.
    Kills,
    /// One engine is killed while the others work: how long until its shards are charged again.
    Kill,
    /// One engine is asked to end, under load.
    Drain,
    /// One engine stands still for longer than its lease, then goes on.
    Pause,
    /// The server dies and comes back.
    PostgresKilled,
    /// Answers of the server get lost, those to commits too.
    PostgresAnswersLost,
    /// The server answers late.
    PostgresSlow,
    /// The disk of the history and the sent log is full.
    DiskFull,
    /// The wall clock of one engine is set an hour and a day ahead and back while it works.
    Clocks,
    /// Requests are cut.
    RequestsCut,
    /// Answers are cut, with a reset.
    AnswersReset,
    /// Answers are cut, with a goodbye.
    AnswersCut,
    /// Answers are late, some too late.
    AnswersLate,
    /// Connections are taken and nothing passes.
    HalfOpen,
    /// Answers come byte by byte.
    SlowBody,
    /// Answers meant to do harm.
    Hostile(Hostile),
    /// The carriers say "too fast" to everything.
    Throttled,
    /// The carriers reset everything.
    Resets,
}

impl Fault {
    /// Each kind once.
    pub(super) fn all() -> Vec<Self> {
        let plain = [
            Self::Kills,
            Self::Kill,
            Self::Drain,
            Self::Pause,
            Self::PostgresKilled,
            Self::PostgresAnswersLost,
            Self::PostgresSlow,
            Self::DiskFull,
            Self::Clocks,
            Self::RequestsCut,
            Self::AnswersReset,
            Self::AnswersCut,
            Self::AnswersLate,
            Self::HalfOpen,
            Self::SlowBody,
            Self::Throttled,
            Self::Resets,
        ];
        plain.into_iter().chain(Hostile::ALL.iter().map(|kind| Self::Hostile(*kind))).collect()
    }

    /// As reports show it.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Self::Kills => "kills at crash points".to_owned(),
            Self::Kill => "kill -9 of one engine".to_owned(),
            Self::Drain => "SIGTERM under load".to_owned(),
            Self::Pause => "SIGSTOP longer than the lease".to_owned(),
            Self::PostgresKilled => "kill -9 of Postgres".to_owned(),
            Self::PostgresAnswersLost => "lost answers of Postgres".to_owned(),
            Self::PostgresSlow => "slow Postgres".to_owned(),
            Self::DiskFull => "disk full".to_owned(),
            Self::Clocks => "wall clock ±1 h and ±1 day".to_owned(),
            Self::RequestsCut => "requests cut".to_owned(),
            Self::AnswersReset => "answers reset".to_owned(),
            Self::AnswersCut => "answers cut".to_owned(),
            Self::AnswersLate => "answers late".to_owned(),
            Self::HalfOpen => "half-open connections".to_owned(),
            Self::SlowBody => "slow body".to_owned(),
            Self::Hostile(kind) => kind.name().to_owned(),
            Self::Throttled => "429 storm".to_owned(),
            Self::Resets => "RST storm".to_owned(),
        }
    }
}

/// The sequence of faults: all kinds once, shuffled, then again; kills at crash points before each of so many others.
pub(super) struct Plan {
    all: Vec<Fault>,
    left: Vec<Fault>,
    kills_every: u64,
    rounds: u64,
    points: Vec<Crash>,
    scenes: Vec<Point>,
}

impl Plan {
    pub(super) fn new(all: Vec<Fault>, kills_every: u64) -> Self {
        Self {
            all,
            left: Vec::new(),
            kills_every: kills_every.max(1),
            rounds: 0,
            points: Vec::new(),
            scenes: Vec::new(),
        }
    }

    pub(super) fn next(&mut self, dice: &Dice) -> Fault {
        let round = self.rounds;
        self.rounds += 1;
        if round.is_multiple_of(self.kills_every + 1) && self.all.contains(&Fault::Kills) {
            return Fault::Kills;
        }
        if self.left.is_empty() {
            self.left = self.all.iter().copied().filter(|fault| *fault != Fault::Kills).collect();
            shuffle(&mut self.left, dice);
        }
        self.left.pop().unwrap_or(Fault::Kills)
    }

    /// The next crash point that whoever works passes: all of them once, shuffled, then again.
    pub(super) fn crash(&mut self, dice: &Dice) -> Crash {
        if self.points.is_empty() {
            self.points = Crash::all();
            self.points.retain(|crash| crash.scene().is_none());
            shuffle(&mut self.points, dice);
        }
        self.points.pop().unwrap_or(Crash::Wire(WirePoint::LastByteWritten))
    }

    /// The next crash point that needs a scene, in the same way; none where this build has no points in its code.
    pub(super) fn scene(&mut self, dice: &Dice) -> Option<(Point, Scene)> {
        if self.scenes.is_empty() {
            let all = Crash::all().into_iter().filter_map(Crash::scene);
            self.scenes = all.map(|(point, _)| point).collect();
            shuffle(&mut self.scenes, dice);
        }
        let point = self.scenes.pop()?;
        Some((point, Scene::of(point)?))
    }

    /// Its scene was in vain: the next one again.
    pub(super) fn scene_again(&mut self, point: Point) {
        self.scenes.push(point);
    }

    /// It was not reached: soon again.
    pub(super) fn again(&mut self, crash: Crash) {
        let place = self.points.len() / 2;
        self.points.insert(place, crash);
    }
}

fn shuffle<T>(all: &mut [T], dice: &Dice) {
    for last in (1..all.len()).rev() {
        all.swap(last, dice.below(last as u64 + 1) as usize);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_plan_goes_through_every_fault_and_every_crash_point_and_repeats() {
        let (dice, again) = (Dice::new(3, 1), Dice::new(3, 1));
        let (mut plan, mut same) = (Plan::new(Fault::all(), 3), Plan::new(Fault::all(), 3));
        let rounds = 2 * Fault::all().len();
        let faults: Vec<Fault> = (0..rounds).map(|_| plan.next(&dice)).collect();
        assert_eq!(faults, (0..rounds).map(|_| same.next(&again)).collect::<Vec<_>>());
        assert_eq!(faults.into_iter().collect::<BTreeSet<_>>(), Fault::all().into_iter().collect());
        let mut points: BTreeSet<Crash> = (0..Crash::all().len()).map(|_| plan.crash(&dice)).collect();
        let scenes = (0..Crash::all().len()).filter_map(|_| plan.scene(&dice));
        points.extend(scenes.map(|(point, _)| Crash::Code(point)));
        assert_eq!(points, Crash::all().into_iter().collect());
    }
}
