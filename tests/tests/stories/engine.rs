//! The stories in a real engine: one subscriber each, mock carriers that answer by script, business time that runs faster
//! and jumps over idle stretches, never back.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use billing_core::ids::{RefSeed, SubscriptionId};
use billing_core::period::Period;
use billing_core::preview::{Happens, Said, Step, StepKind};
use billing_core::states::State;
use jiff::Timestamp;
use sqlx::postgres::PgConnection;
use storage::pg::{self, ClockRow, read_clock, set_clock};

use tests::{Engine, Mock, World, WorldOptions};

use crate::book::{Book, Told, files, own, shipped};

/// Business milliseconds per machine millisecond.
const SCALE: i32 = 10;
/// How much later than in the pure story something may happen, business time: machines need time, and time runs fast.
const LATE_MAX_MS: i64 = 20 * 60 * 1_000;
const DAY_MS: i64 = 86_400_000;
/// How long a step may take, machine time.
const STEP_MAX: Duration = Duration::from_secs(60);
/// A step that follows from a late one is late itself: after so much waiting, machine time, ...
const PUSH_AFTER: Duration = Duration::from_millis(700);
/// ... business time is pushed on by so much.
const PUSH_MS: i64 = 15_000;

/// A story that the engine plays.
struct Live<'a> {
    told: &'a Told,
    number: String,
    id: SubscriptionId,
    steps: Vec<Step>,
    over: Option<&'static str>,
}

#[test]
fn stories_happen_in_the_engine_too() {
    let book = Book::read();
    let (mut now, mut late, mut later) = (Vec::new(), Vec::new(), Vec::new());
    for told in &book.stories {
        match (&told.story.engine_later, told.story.events.first().map(|event| &event.what)) {
            (Some(why), _) => later.push(format!("{}: {why}", told.story.id)),
            (None, Some(Happens::Outage(..))) => late.push(told),
            (None, _) => now.push(told),
        }
    }
    println!("for the core alone, until the engine can:\n  {}", later.join("\n  "));
    assert!(now.len() + late.len() >= 25, "{} stories are played", now.len() + late.len());
    let began = now.iter().map(|told| told.story.zone.instant(told.story.start, 0).unwrap()).min().unwrap();
    play(&book, &now, began);
    // Nothing ran for days: the engine begins when the outage ends.
    let outages: Vec<Timestamp> = late
        .iter()
        .map(|told| match told.story.events[0].what {
            Happens::Outage(date, minute) => told.story.zone.instant(date, minute).unwrap(),
            _ => unreachable!(),
        })
        .collect();
    let ends = outages[0];
    assert!(outages.iter().all(|end| *end == ends), "one outage for all: they share an engine");
    play(&book, &late, ends);
}

fn play(book: &Book, stories: &[&Told], began: Timestamp) {
    let options = WorldOptions { slices: 1, scale: SCALE, ..WorldOptions::default() };
    let world = World::start("stories", &options);
    write_book(&world);
    let text = began.to_string();
    world.set_business(&text, 0);
    let numbers = import(&world, book, stories);
    let mocks = mocks(&world, book, &numbers);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut conn = runtime.block_on(world.conn());
    let lives: Vec<Live<'_>> = numbers
        .into_iter()
        .map(|(told, number)| runtime.block_on(live(&mut conn, book, told, number)))
        .collect();
    let secret = world.dir.join("data/secrets/hoshi_key");
    std::fs::write(&secret, "key-of-the-stories\n").unwrap();
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
    let mut command = world.toll("data");
    command.args(["serve", "--listen", "127.0.0.1:0"]);
    command.args(["--carrier-base", &format!("medina=http://{}", world.mock.address)]);
    for (id, mock) in &mocks {
        command.args(["--carrier-base", &format!("{id}=http://{}", mock.address)]);
    }
    let engine = Engine::start(&mut command, &world.dir.join("engine.log"));
    for at in instants(&lives) {
        runtime.block_on(jump(&mut conn, at));
        stops(&world, &lives, at);
        let deadline = Instant::now() + STEP_MAX;
        let mut pushed = Instant::now();
        loop {
            let done = runtime.block_on(counts(&mut conn));
            let behind =
                lives.iter().find(|life| life.due_by(at) > done.get(&life.id.0).copied().unwrap_or(0));
            let Some(behind) = behind else { break };
            assert!(
                Instant::now() < deadline,
                "{} waits for a step at {at}: {} of {} rows\n{}",
                behind.told.story.id,
                done.get(&behind.id.0).copied().unwrap_or(0),
                behind.due_by(at),
                engine.log_text()
            );
            if pushed.elapsed() > PUSH_AFTER {
                pushed = Instant::now();
                runtime.block_on(push(&mut conn));
            }
            std::thread::sleep(Duration::from_millis(15));
        }
    }
    let wrong: String = lives.iter().map(|life| runtime.block_on(compare(&mut conn, life))).collect();
    assert!(wrong.is_empty(), "the engine tells other stories:\n{wrong}");
    assert!(engine.terminate().1);
    world.compare();
}

/// The whole shipped book, and the plans of the stories.
fn write_book(world: &World) {
    let dir = &world.book.dir;
    std::fs::create_dir_all(dir.join("countries")).unwrap();
    for folder in ["carriers", "plans", "countries"] {
        for file in files(&shipped().join(folder)) {
            std::fs::copy(&file, dir.join(folder).join(file.file_name().unwrap())).unwrap();
        }
    }
    for file in files(&own().join("plans")) {
        std::fs::copy(&file, dir.join("plans").join(file.file_name().unwrap())).unwrap();
    }
}

/// One line per story; its number.
fn import<'a>(world: &World, book: &Book, stories: &[&'a Told]) -> Vec<(&'a Told, String)> {
    let mut csv = String::from("msisdn,plan,reference,zone,start\n");
    let mut numbers = Vec::new();
    for (index, told) in stories.iter().enumerate() {
        let story = &told.story;
        let number = match book.rules(story).carrier.as_str() {
            "medina" => format!("216{:08}", 20_000_000 + index),
            "alfa" => format!("34{:09}", 600_000_000 + index),
            _ => format!("81{:010}", 9_000_000_000_u64 + index as u64),
        };
        csv += &format!("{number},{},{},{},{}\n", story.plan, story.id, story.zone.name(), story.start);
        numbers.push((*told, number));
    }
    let file = world.dir.join("stories.csv");
    std::fs::write(&file, csv).unwrap();
    let report = world.import(&file);
    assert!(report.contains(&format!("{} subscriptions created", stories.len())), "{report}");
    numbers
}

/// The carriers, each with the scripts of its lines.
fn mocks(world: &World, book: &Book, numbers: &[(&Told, String)]) -> Vec<(&'static str, Mock)> {
    let behaviour = |carrier: &str| {
        let scripts: BTreeMap<&str, Vec<serde_json::Value>> = numbers
            .iter()
            .filter(|(told, _)| book.rules(&told.story).carrier == carrier)
            .map(|(told, number)| {
                let words = told.story.script.answers().iter().map(|answer| match answer.said {
                    Said::Part(minor) => serde_json::json!({ "partial": minor }),
                    said => serde_json::json!(said.word()),
                });
                (number.as_str(), words.collect())
            })
            .collect();
        serde_json::json!({ "scripts": scripts }).to_string()
    };
    world.mock.behave(&behaviour("medina"));
    vec![
        ("alfa", Mock::start(&world.dir, "alfa", "camara", "EUR", &behaviour("alfa"))),
        ("hoshi", Mock::start(&world.dir, "hoshi", "priced", "JPY", &behaviour("hoshi"))),
    ]
}

async fn live<'a>(conn: &mut PgConnection, book: &Book, told: &'a Told, number: String) -> Live<'a> {
    let (seed, digest) = RefSeed::derive("demo", &told.story.id, 0);
    let id = pg::by_reference(conn, seed.0, &digest).await.unwrap().expect("it was imported");
    let id = SubscriptionId(id);
    // Its own id and seed: they give its minute, its second and its jitter.
    let lived = told.lived(book, id, seed);
    let over = lived.sub.progress.state.is_over().then(|| lived.sub.progress.state.name());
    Live { told, number, id, steps: lived.steps, over }
}

impl Live<'_> {
    /// How many rows the engine must have for it once an instant is over.
    fn due_by(&self, at: Timestamp) -> i64 {
        let rows = self.steps.iter().filter(|step| step.at <= at && has_row(step)).count();
        i64::try_from(rows).unwrap()
    }
}

fn has_row(step: &Step) -> bool {
    match &step.kind {
        StepKind::Attempt { .. } | StepKind::Note => true,
        // A stop is noted, our outage is not.
        StepKind::Happened(_) => step.rule.is_some(),
        StepKind::Evidence { .. } => panic!("late evidence has to be marked as for later"),
    }
}

/// All instants at which something happens, ascending.
fn instants(lives: &[Live<'_>]) -> Vec<Timestamp> {
    let steps = lives.iter().flat_map(|life| &life.steps).filter(|step| has_row(step));
    let mut all: Vec<Timestamp> = steps.map(|step| step.at).collect();
    all.sort();
    all.dedup();
    all
}

/// Says stop for those who say stop then.
fn stops(world: &World, lives: &[Live<'_>], at: Timestamp) {
    for life in lives {
        let stop = |step: &Step| step.at == at && matches!(step.kind, StepKind::Happened(_)) && has_row(step);
        if life.steps.iter().any(stop) {
            let output = world.run(&["sub", "cancel", &life.id.to_string(), "--yes"]);
            assert!(output.status.success(), "{}: {}", life.number, String::from_utf8_lossy(&output.stderr));
        }
    }
}

/// Business time goes on from an instant, unless it is there already.
async fn jump(conn: &mut PgConnection, at: Timestamp) {
    let machine_ms = Timestamp::now().as_millisecond();
    let reached = read_clock(conn).await.unwrap().business_ms(machine_ms);
    if reached < at.as_millisecond() {
        let clock =
            ClockRow { base_machine_ms: machine_ms, base_business_ms: at.as_millisecond(), scale: SCALE };
        set_clock(conn, clock).await.unwrap();
    }
}

async fn push(conn: &mut PgConnection) {
    let base_machine_ms = Timestamp::now().as_millisecond();
    let base_business_ms = read_clock(conn).await.unwrap().business_ms(base_machine_ms) + PUSH_MS;
    set_clock(conn, ClockRow { base_machine_ms, base_business_ms, scale: SCALE }).await.unwrap();
}

/// Attempts with a result and notes, per subscription.
async fn counts(conn: &mut PgConnection) -> BTreeMap<i64, i64> {
    let rows: Vec<(i64, i64)> = sqlx::query_as(
        "SELECT subscription_id, count(*) FROM (
            SELECT subscription_id FROM attempt_outcome
            UNION ALL SELECT subscription_id FROM attempt_open
            UNION ALL SELECT subscription_id FROM charge_note) AS row GROUP BY 1",
    )
    .fetch_all(conn)
    .await
    .unwrap();
    rows.into_iter().collect()
}

/// What the tables have, step by step against the story; the differences in words.
async fn compare(conn: &mut PgConnection, life: &Live<'_>) -> String {
    let mut wrong = String::new();
    let mut notes: BTreeMap<Period, std::collections::VecDeque<pg::NoteRow>> = BTreeMap::new();
    for step in life.steps.iter().filter(|step| has_row(step)) {
        let key = step.period.number();
        let rule = step.rule.unwrap().number();
        let (found, at_ms) = match &step.kind {
            StepKind::Attempt { attempt_no, amount_minor, sent_by, attempt, .. } => {
                let rows = pg::attempts(conn, life.id.0, key).await.unwrap();
                let row = rows.into_iter().find(|row| row.attempt_no == *attempt_no);
                let Some(row) = row else {
                    wrong += &format!("{}: no attempt {attempt_no} of {}\n", life.told.story.id, step.period);
                    continue;
                };
                let open = row.state == 2 || row.state == 3;
                let same = row.amount_minor == *amount_minor
                    && row.intent_rule == sent_by.number()
                    && row.state == attempt.number()
                    && (open || row.outcome_rule == Some(rule))
                    && (open || row.charge_state == Some(step.charge.number()));
                let text = format!(
                    "attempt {attempt_no}: {} minor, sent by {}, state {}, rule {:?}, charge {:?}",
                    row.amount_minor, row.intent_rule, row.state, row.outcome_rule, row.charge_state
                );
                (if same { None } else { Some(text) }, row.intent_business_ms)
            }
            _ => {
                if let Entry::Vacant(unread) = notes.entry(step.period) {
                    unread.insert(pg::notes(conn, life.id.0, key).await.unwrap().into());
                }
                let Some(row) = notes.get_mut(&step.period).and_then(std::collections::VecDeque::pop_front)
                else {
                    wrong += &format!("{}: no note on {}\n", life.told.story.id, step.period);
                    continue;
                };
                let same = row.rule_id == rule && row.charge_state == step.charge.number();
                let text = format!("note: rule {}, charge {}", row.rule_id, row.charge_state);
                (if same { None } else { Some(text) }, row.business_at_ms)
            }
        };
        let late = at_ms - step.at.as_millisecond();
        // A command is carried out at once, also by an engine that has not read the clock again since it jumped.
        let early_max = if matches!(step.kind, StepKind::Happened(_)) { DAY_MS } else { 0 };
        if found.is_some() || !(-early_max..=LATE_MAX_MS).contains(&late) {
            wrong += &format!(
                "{}: {late} ms late, {}\n  expected {step:?}\n",
                life.told.story.id,
                found.unwrap_or_default()
            );
        }
    }
    let (rows, _) = pg::load(conn, &[life.id.0]).await.unwrap();
    let row = &rows[0].sub;
    if let Some(over) = life.over
        && row.progress.state.name() != over
    {
        wrong += &format!("{}: it is {}, not {over}\n", life.told.story.id, row.progress.state.name());
    }
    if row.flags != 0 {
        wrong += &format!("{}: it was put aside for people\n", life.told.story.id);
    }
    wrong
}
