//! The stories in a real engine: one subscriber each, all in one world, signed up on their own days.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use billing_core::preview::{Event, Happens, Said, Step, StepKind};
use jiff::Timestamp;
use scheduler::Evidence;
use sqlx::postgres::PgConnection;
use storage::pg::{self, ClockRow, set_clock};
use storage::story::StoryOutcome;
use tests::{Engine, World, WorldOptions};

use crate::book::{Book, Told};
use crate::carriers::{Carriers, number, write_book};
use crate::life::{Life, told};

/// How long an instant may take, machine time: only a broken engine needs so long.
const INSTANT_MAX: Duration = Duration::from_secs(120);
/// When an engine has had nothing to do for so long, what is missing will not come.
const QUIET_MAX: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Plays stories to their ends; panics with all that the engine did otherwise.
pub(crate) fn play(book: &Book, stories: &[&Told]) {
    // A machine that stalls for a minute must not change what happens.
    let options = WorldOptions {
        lease_ttl_ms: 120_000,
        scale: 0,
        engine_toml: "[batch]\nsend_max_age = \"5m\"\n",
        ..WorldOptions::default()
    };
    let mut world = World::start("stories", &options);
    write_book(&world);
    let lines = stories.iter().enumerate().map(|(index, told)| (*told, number(book, told, index)));
    let lines: Vec<(&Told, String)> = lines.collect();
    let carriers = Carriers::start(&world, book, &lines);
    let mut sign_ups: BTreeMap<Timestamp, Vec<(&Told, String)>> = BTreeMap::new();
    for (told, line) in lines {
        let at = told.story.zone.instant(told.story.start, 0).unwrap();
        sign_ups.entry(at).or_default().push((told, line));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let conn = runtime.block_on(world.conn());
    let (lives, wrong, engine) = (Vec::new(), BTreeMap::new(), None);
    let mut play = Play { world: &world, book, carriers, sign_ups, lives, wrong, engine, conn, told: 0 };
    runtime.block_on(play.live_all());
    assert!(play.wrong.is_empty(), "the engine tells other stories:\n{}", told(&play.wrong));
    assert_eq!(play.told, stories.len());
    assert!(play.engine.unwrap().terminate().1);
    play.carriers.compare(&world);
    // It has thousands of files by now, which nobody needs any more: no orderly stop.
    world.postgres.kill9();
}

struct Play<'a> {
    world: &'a World,
    book: &'a Book,
    carriers: Carriers,
    sign_ups: BTreeMap<Timestamp, Vec<(&'a Told, String)>>,
    lives: Vec<Life<'a>>,
    wrong: BTreeMap<String, String>,
    /// `None` during an outage.
    engine: Option<Engine>,
    conn: PgConnection,
    /// Stories that were told to their ends.
    told: usize,
}

impl<'a> Play<'a> {
    async fn live_all(&mut self) {
        let (began, mut instants) = (Instant::now(), 0);
        while let Some(at) = self.next_at() {
            instants += 1;
            self.set_clock(at).await;
            self.sign_up(at).await;
            if self.engine.is_none() {
                self.engine = Some(self.serve());
            }
            self.taken(at).await;
            for index in 0..self.lives.len() {
                for (step, event) in self.lives[index].move_on(at) {
                    self.happen(index, &step, event.as_ref()).await;
                }
            }
            if self.engine.is_some() {
                self.recorded(at).await;
            }
            self.take_leave(at).await;
        }
        println!("{} stories, {instants} instants in {} s", self.told, began.elapsed().as_secs());
    }

    fn next_at(&self) -> Option<Timestamp> {
        let sign_up = self.sign_ups.keys().next().copied();
        self.lives.iter().filter_map(Life::next_at).chain(sign_up).min()
    }

    async fn set_clock(&mut self, at: Timestamp) {
        let clock = ClockRow {
            base_machine_ms: Timestamp::now().as_millisecond(),
            base_business_ms: at.as_millisecond(),
            scale: 0,
        };
        set_clock(&mut self.conn, clock).await.unwrap();
    }

    /// Imports whoever comes at this instant.
    async fn sign_up(&mut self, at: Timestamp) {
        let Some(newcomers) = self.sign_ups.remove(&at) else { return };
        let mut csv = String::from("msisdn,plan,reference,zone,start\n");
        for (told, line) in &newcomers {
            let story = &told.story;
            csv += &format!("{line},{},{},{},{}\n", story.plan, story.id, story.zone.name(), story.start);
        }
        let file = self.world.dir.join(format!("stories-{}.csv", at.as_second()));
        std::fs::write(&file, csv).unwrap();
        let report = self.world.import(&file);
        assert!(report.contains(&format!("{} subscriptions created", newcomers.len())), "{report}");
        for (told, line) in newcomers {
            let life = Life::of(&mut self.conn, self.book, told, line).await;
            self.lives.push(life);
        }
    }

    fn serve(&self) -> Engine {
        let mut command = self.world.toll("data");
        command.args(["serve", "--listen", "127.0.0.1:0"]);
        self.carriers.name(self.world, &mut command);
        Engine::start(&mut command, &self.world.dir.join("engine.log"))
    }

    /// Waits until the engine works at this instant.
    async fn taken(&mut self, at: Timestamp) {
        let deadline = Instant::now() + INSTANT_MAX;
        while self.engine.as_ref().is_some_and(|engine| works_at(&engine.status()) != Some(at)) {
            self.check_time(deadline, at, "the engine does not take the time over");
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    fn check_time(&self, deadline: Instant, at: Timestamp, what: &str) {
        let log = || self.engine.as_ref().map(Engine::log_text).unwrap_or_default();
        assert!(Instant::now() < deadline, "{at}: {what}\n{}\n{}", told(&self.wrong), log());
    }

    /// Something from outside happens to a life.
    async fn happen(&mut self, index: usize, step: &Step, event: Option<&Event>) {
        let life = &self.lives[index];
        let id = life.id.to_string();
        let command: Vec<&str> = match (&step.kind, event.map(|event| &event.what)) {
            (StepKind::Evidence { attempt_no, answer, .. }, _) => {
                let (period, attempt_no, answer) = (step.period.number(), *attempt_no, *answer);
                return self.give_evidence(index, (period, attempt_no), answer).await;
            }
            (_, Some(Happens::Balance(minor))) => {
                return self.carriers.tell_balance(self.world, &life.line, *minor);
            }
            (_, Some(Happens::Outage(..))) => {
                if let Some(engine) = self.engine.take() {
                    assert!(engine.terminate().1);
                }
                return;
            }
            (_, Some(Happens::Stop)) => vec!["sub", "cancel", &id, "--yes"],
            (_, Some(Happens::TopUp)) => vec!["sub", "top-up", &id, "--notice", "one"],
            (_, Some(Happens::Pause(None))) => vec!["sub", "pause", &id],
            (_, Some(Happens::Pause(Some(until)))) => {
                let until = until.to_string();
                return self.run(&["sub", "pause", &id, "--until", &until]);
            }
            (_, Some(Happens::Resume)) => vec!["sub", "resume", &id],
            (_, Some(Happens::Zone(zone))) => vec!["sub", "move", &id, "--zone", zone.name(), "--yes"],
            (_, what) => panic!("{}: {what:?} has to be marked as for later", life.told.story.id),
        };
        self.run(&command);
    }

    fn run(&self, command: &[&str]) {
        let output = self.world.run(command);
        assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// What becomes known of an open attempt, by the way on which workers tell each other.
    async fn give_evidence(&mut self, index: usize, (period, attempt_no): (i32, i16), answer: Said) {
        let id = self.lives[index].id.0;
        let rows = pg::attempts(&mut self.conn, id, period).await.unwrap();
        let row = rows.into_iter().find(|row| row.attempt_no == attempt_no).unwrap();
        let op = billing_core::outcome::Op::from_number(row.op).unwrap();
        let outcome = StoryOutcome::of(answer.outcome(op, row.amount_minor));
        let evidence =
            Evidence { period, attempt_no, outcome, carrier_code: None, carrier_txn_id: None, why: 0 };
        pg::post_evidence(&mut self.conn, id, &evidence.encode().unwrap()).await.unwrap();
    }

    /// Waits until everything of this instant stands in the tables as the stories say, and the engine has nothing more
    /// to do. A story that goes another way is left there.
    async fn recorded(&mut self, at: Timestamp) {
        let deadline = Instant::now() + INSTANT_MAX;
        let mut quiet_since: Option<Instant> = None;
        loop {
            let quiet = self.is_quiet(at).await;
            let mut differing: Vec<(String, String)> = Vec::new();
            for life in self.lives.iter().filter(|life| life.acts_at(at)) {
                let difference = life.difference(&mut self.conn, at).await;
                if !difference.is_empty() {
                    differing.push((life.told.story.id.clone(), difference));
                }
            }
            if quiet && differing.is_empty() {
                return;
            }
            quiet_since = if quiet { quiet_since.or(Some(Instant::now())) } else { None };
            if quiet_since.is_some_and(|since| since.elapsed() > QUIET_MAX) {
                let names: BTreeSet<&String> = differing.iter().map(|(story, _)| story).collect();
                self.lives.retain(|life| !names.contains(&life.told.story.id));
                self.wrong.extend(differing);
                return;
            }
            let waits = differing.first().map_or("the engine does not come to rest", |(_, text)| text);
            self.check_time(deadline, at, waits);
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Nothing is due, on its way, or in the inbox.
    async fn is_quiet(&mut self, at: Timestamp) -> bool {
        let Some(engine) = &self.engine else { return true };
        let status = engine.status();
        let idle = |what: &str| status["worker"][what].as_u64() == Some(0);
        let rows = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM shard_inbox");
        works_at(&status) == Some(at)
            && idle("due")
            && idle("in_flight")
            && rows.fetch_one(&mut self.conn).await.unwrap() == 0
    }

    /// Whose story is told says stop, so that the engine has nobody left whom no story speaks of.
    async fn take_leave(&mut self, at: Timestamp) {
        let (over, on): (Vec<Life<'a>>, Vec<Life<'a>>) =
            std::mem::take(&mut self.lives).into_iter().partition(|life| life.next_at().is_none());
        self.lives = on;
        for life in over {
            let wrong = life.end_difference(&mut self.conn).await;
            if !wrong.is_empty() {
                self.wrong
                    .insert(life.told.story.id.clone(), format!("{}\n{wrong}", life.told.path.display()));
            }
            pg::stop_subscription(&mut self.conn, life.id.0, at.as_millisecond()).await.unwrap();
            self.told += 1;
        }
    }
}

fn works_at(status: &serde_json::Value) -> Option<Timestamp> {
    let ready = status["ready"].as_bool() == Some(true);
    status["worker"]["business_at"].as_str().filter(|_| ready)?.parse().ok()
}
