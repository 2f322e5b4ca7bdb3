//! After an outage: the engine was away for six business hours, and what fell due meanwhile drains in order, within the
//! carrier's rate, with the resolution alive and each plan's own policy. Real Postgres, real mock carrier, the product's
//! own processes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use tests::{HURRIED, INQUIRY, World, WorldOptions, wait_until};

const SOON: Duration = Duration::from_secs(60);
const DRAINED_WITHIN: Duration = Duration::from_secs(240);
const RATE: usize = 100;
/// Of the carrier: what a lane holds at most at this rate.
const IN_FLIGHT_MAX: usize = 32;
/// Two stripes may each have a batch on its way that the other one cannot see.
const GRAIN: usize = 2 * IN_FLIGHT_MAX;
/// Charges that close together may be apart by so much: a minute on the wall, at a scale of 2.
const SLACK_MS: i64 = 120_000;
const SCALE: i32 = 2;

/// Plans: id, schedule, policy, and how many lines are on them in each zone.
const PLANS: [(&str, &str, &str, u32); 6] = [
    (
        "before",
        "every = \"day\"\nat = \"06:00\"\nwindow = [\"06:00\", \"22:00\"]",
        "missed = \"once_late\"",
        10,
    ),
    (
        "shuts-late",
        "every = \"day\"\nat = \"08:00\"\nspread = \"3h\"\nwindow = [\"06:00\", \"22:00\"]",
        "missed = \"once_late\"",
        400,
    ),
    (
        "shuts-early",
        "every = \"day\"\nat = \"08:00\"\nspread = \"3h\"\nwindow = [\"06:00\", \"14:00\"]",
        "missed = \"once_late\"",
        400,
    ),
    ("late", "every = \"1 hours\"\nat = \"08:00\"", "missed = \"once_late\"", 150),
    ("skips", "every = \"1 hours\"\nat = \"08:00\"", "missed = \"skip\"", 100),
    ("merges", "every = \"1 hours\"\nat = \"08:00\"", "missed = \"merge\"\nmerge_periods = 3", 120),
];
const ZONES: [&str; 2] = ["Africa/Tunis", "Africa/Cairo"];

fn lines_on(plan: &str) -> i64 {
    i64::from(PLANS.iter().find(|(id, ..)| *id == plan).unwrap().3) * ZONES.len() as i64
}

fn world() -> World {
    let options = WorldOptions {
        behaviour: r#"{"silent_applied_ppm":1000000,"working_ms":3600000}"#,
        business_at: "2026-12-01T05:10:00Z",
        scale: SCALE,
        engine_toml: HURRIED,
        ..WorldOptions::default()
    };
    let world = World::start("backlog", &options);
    let carrier = "carriers/medina.toml";
    world.book.change(carrier, "n = 20000, per = \"1s\"", &format!("n = {RATE}, per = \"1s\""));
    world.book.change(carrier, "zones = [\"Africa/Tunis\"]", &format!("zones = {ZONES:?}"));
    let path = world.book.dir.join(carrier);
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(path, text + INQUIRY).unwrap();
    let mut csv = String::from("msisdn,plan,reference,zone,start\n");
    let mut line = 0;
    for (id, schedule, missed, lines) in PLANS {
        let plan = format!(
            "merchant = \"demo\"\nservice = \"kids\"\ncarrier = \"medina\"\ntext = \"Outage\"\nprice = \"0.100 TND\"\n\
             [schedule]\n{schedule}\n[lifecycle]\nlate_approved = \"past\"\n{missed}\n"
        );
        world.book.write_plan(id, &plan);
        for zone in ZONES {
            for _ in 0..lines {
                csv.push_str(&format!("{},{id},ref-{line},{zone},2026-12-01\n", world.number_of(line)));
                line += 1;
            }
        }
    }
    let file = world.dir.join("lines.csv");
    std::fs::write(&file, csv).unwrap();
    world.import(&file);
    world
}

/// One charge as it was made durable before it was sent.
#[derive(Debug, Clone)]
struct Sent {
    plan: String,
    /// When: the database's clock, one value per batch.
    at: Timestamp,
    /// Since when it was known to be due: the restart, or when the periods that it missed were dealt with.
    known_at: Timestamp,
    due_ms: i64,
    closes_ms: i64,
    amount_minor: i64,
}

type Row = (String, i64, Option<i64>, i64, i64, i64);

fn sent_after(world: &World, restart: Timestamp) -> Vec<Sent> {
    let us = |us: i64| Timestamp::from_microsecond(us).unwrap();
    let rows: Vec<Row> = world.block(async {
        sqlx::query_as(
            "SELECT p.id, (extract(epoch FROM i.intent_at) * 1e6)::int8,
                    (SELECT (extract(epoch FROM max(n.at)) * 1e6)::int8 FROM charge_note n
                      WHERE n.subscription_id = i.subscription_id AND n.at <= i.intent_at),
                    i.not_before_ms, i.not_after_ms, i.amount_minor
               FROM attempt_intent i JOIN subscription s ON s.id = i.subscription_id
               JOIN plan p ON p.plan_no = s.plan_no
              WHERE i.op = 1 AND i.intent_at > to_timestamp($1::float8 / 1e6)
              ORDER BY i.intent_at, i.subscription_id",
        )
        .bind(restart.as_microsecond())
        .fetch_all(&mut world.conn().await)
        .await
        .unwrap()
    });
    rows.into_iter()
        .map(|(plan, at_us, noted_us, due_ms, closes_ms, amount_minor)| Sent {
            plan,
            at: us(at_us),
            known_at: noted_us.map_or(restart, us),
            due_ms,
            closes_ms,
            amount_minor,
        })
        .collect()
}

/// Before no charge went more of those that could wait longer than the two stripes have on their way. (23 were the most that
/// was seen, all of them at the start, while the wheel was read.)
fn in_sequence(sent: &[Sent]) {
    for (place, charge) in sent.iter().enumerate() {
        let before = sent[..place].iter().filter(|other| other.at > charge.known_at && other.at < charge.at);
        let could_wait = before.filter(|other| {
            other.closes_ms > charge.closes_ms
                || other.closes_ms == charge.closes_ms && other.due_ms > charge.due_ms + SLACK_MS
        });
        let overtook = could_wait.count();
        assert!(overtook <= GRAIN, "{overtook} overtook {charge:?}, the {place}th");
    }
}

/// The carrier's own ledger: in no second more than the rate allows, but for what the network bunches.
fn within_rate(world: &World, restart: Timestamp) {
    world.mock.sync();
    let ledger = std::fs::read_to_string(&world.mock.ledger).unwrap();
    let mut arrived: Vec<i64> = ledger
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["at_us"].as_i64().unwrap())
        .filter(|at_us| *at_us > restart.as_microsecond())
        .collect();
    arrived.sort_unstable();
    let spans = |span_us: i64| {
        let most = |at: usize| arrived[at..].iter().take_while(|us| **us < arrived[at] + span_us).count();
        (0..arrived.len()).map(most).max().unwrap()
    };
    let (second, five) = (spans(1_000_000), spans(5_000_000));
    assert!(second <= RATE + RATE / 10, "{second} requests in one second");
    assert!(five <= 5 * RATE + RATE / 10, "{five} requests in five seconds");
    assert!(five > 2 * RATE, "{five} requests in the best five seconds: the rate was not used");
}

fn notes(world: &World, rule: i16) -> i64 {
    world.block(async {
        sqlx::query_scalar(
            "SELECT count(DISTINCT subscription_id) FROM charge_note WHERE rule_id = $1 AND kind = 1",
        )
        .bind(rule)
        .fetch_one(&mut world.conn().await)
        .await
        .unwrap()
    })
}

#[test]
fn six_hours_of_charges_drain_in_sequence_within_the_rate_while_unknown_ones_are_settled() {
    let world = world();
    // Before the outage: some are sent, and no answer comes back, to questions about them neither. Then the engine dies.
    let engine = world.serve("before");
    let unknown = "SELECT count(*) FROM attempt_open WHERE kind = 2";
    wait_until("some are unknown", SOON, || world.number(unknown) == lines_on("before"));
    engine.kill9();

    // Six business hours later it is there again; the carrier loses an answer now and then.
    world.mock.behave(r#"{"silent_applied_ppm":5000,"working_ms":0}"#);
    world.set_business("2026-12-01T11:12:00Z", SCALE);
    let restart = Timestamp::now();
    let engine = world.serve("after");
    let due = || engine.status()["worker"]["due"].as_i64().unwrap_or(i64::MAX);
    let settled = "SELECT count(*) FROM attempt_outcome o JOIN subscription s ON s.id = o.subscription_id
                     JOIN plan p ON p.plan_no = s.plan_no WHERE p.id = 'before' AND o.class = 5";
    wait_until("the unknown ones are settled", DRAINED_WITHIN, || {
        world.number(settled) == lines_on("before")
    });
    assert!(due() > 0, "they were settled while the backlog drained, not behind it");
    let charged = lines_on("shuts-late") + lines_on("shuts-early") + lines_on("late") + lines_on("merges");
    wait_until("the backlog has drained", DRAINED_WITHIN, || {
        let all = "SELECT count(*) FROM attempt_outcome WHERE class = 5";
        world.number(all) == charged + lines_on("before")
    });
    world.freeze();
    wait_until("nothing is on its way", SOON, || engine.status()["worker"]["in_flight"] == 0);

    let sent = sent_after(&world, restart);
    assert_eq!(sent.len() as i64, charged, "each once");
    in_sequence(&sent);
    within_rate(&world, restart);

    // Each plan's own policy: 08:00 to 11:00 in Tunis (12:00 in Cairo) were missed, and now it is 12:12 (13:12).
    assert_eq!(notes(&world, 12), lines_on("late"), "once, late");
    assert_eq!(notes(&world, 11), lines_on("skips"), "skipped");
    assert_eq!(notes(&world, 26), lines_on("merges"), "merged");
    let mut amounts: BTreeMap<(&str, i64), i64> = BTreeMap::new();
    sent.iter().for_each(|charge| *amounts.entry((&charge.plan, charge.amount_minor)).or_default() += 1);
    let expected = BTreeMap::from([
        (("shuts-early", 100), lines_on("shuts-early")),
        (("shuts-late", 100), lines_on("shuts-late")),
        (("late", 100), lines_on("late")),
        (("merges", 400), lines_on("merges")),
    ]);
    assert_eq!(amounts, expected);

    // Nothing twice, nothing lost: both ledgers and the independent checker.
    world.compare();
    assert!(engine.terminate().1);
    world.check();
}
