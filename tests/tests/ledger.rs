//! The ledger and what follows from it: splits, trial balance, seals, events, grants.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{HashMap, HashSet};
use std::process::{Output, Stdio};
use std::time::Duration;

use billing_core::period::days_since_2000;
use serde_json::Value;
use tests::{World, WorldOptions, wait_until};

const SOON: Duration = Duration::from_secs(40);
const PLAN: &str = "plans/medina-kids-daily.toml";

fn told(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn day(text: &str) -> i64 {
    i64::from(days_since_2000(text.parse().unwrap()))
}

fn run_sql(world: &World, sql: &'static str) {
    world.block(async { sqlx::raw_sql(sql).execute(&mut world.conn().await).await.unwrap() });
}

fn ledger(world: &World) -> Value {
    let output = world.run(&["query", "ledger", "--verify", "--json"]);
    assert!(output.status.success(), "{}", told(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The balance of an account in the ledger's JSON.
fn balance(ledger: &Value, purpose: &str, owner_kind: &str) -> String {
    let accounts = ledger["assets"][0]["accounts"].as_array().unwrap();
    let found =
        accounts.iter().find(|account| account["purpose"] == purpose && account["owner_kind"] == owner_kind);
    found.map_or_else(
        || "none".to_owned(),
        |account| account["balance"]["amount"].as_str().unwrap().to_owned(),
    )
}

#[test]
fn the_trial_balance_sums_to_zero_with_tax_fee_and_unknowns() {
    // One answer in five names another amount: those stay unknown.
    let options = WorldOptions { behaviour: r#"{"wrong_amount_ppm":200000}"#, ..WorldOptions::default() };
    let world = World::start("split", &options);
    assert!(
        told(&world.run(&["query", "ledger"])).contains("nothing is posted yet: the ledger sums to zero")
    );
    world.book.change(PLAN, "price =", "tax_percent = \"19\"\ncarrier_fee_percent = \"30\"\nprice =");
    world.import_rows("medina-kids-daily", 0, 150, "2026-12-01");
    world.import_rows("medina-ringtone-once", 1_000, 40, "2026-12-01");
    let _engine = world.serve("engine");
    wait_until("190 attempts", SOON, || {
        world.number("SELECT (SELECT count(*) FROM attempt_outcome) + (SELECT count(*) FROM attempt_open)")
            == 190
    });
    let of = |plan: &str, table: &str| {
        let sql = match (plan, table) {
            ("kids", "approved") => {
                "SELECT count(*) FROM attempt_outcome o JOIN subscription s ON s.id = o.subscription_id JOIN plan p USING (plan_no) WHERE o.class = 5 AND p.id = 'medina-kids-daily'"
            }
            ("ringtone", "approved") => {
                "SELECT count(*) FROM attempt_outcome o JOIN subscription s ON s.id = o.subscription_id JOIN plan p USING (plan_no) WHERE o.class = 5 AND p.id = 'medina-ringtone-once'"
            }
            _ => "SELECT count(*) FROM attempt_open",
        };
        world.number(sql)
    };
    let (kids, ringtone, unknown) = (of("kids", "approved"), of("ringtone", "approved"), of("all", "open"));
    assert!(kids > 0 && ringtone > 0 && unknown > 0, "{kids} {ringtone} {unknown}");
    // 0.500 with 19 % in it: 0.080 tax; 30 % of 0.420: 0.126; 0.294 remain. The other plan posts one row, as ever.
    assert_eq!(world.number("SELECT count(*) FROM transfer"), 3 * kids + ringtone + unknown);
    let ledger = ledger(&world);
    assert_eq!(
        (ledger["balanced"].as_bool(), ledger["differences"].as_array().unwrap().len()),
        (Some(true), 0)
    );
    assert_eq!(ledger["assets"].as_array().unwrap().len(), 1);
    assert_eq!(ledger["assets"][0]["sum"]["amount"], "0.000");
    let moved = world.number("SELECT sum(moved_minor)::int8 FROM attempt_outcome");
    let amount = |minor: i64| {
        format!("{}{}.{:03}", if minor < 0 { "-" } else { "" }, minor.abs() / 1_000, minor.abs() % 1_000)
    };
    assert_eq!(balance(&ledger, "receivable", "carrier"), amount(moved));
    assert_eq!(balance(&ledger, "tax", "merchant"), amount(-80 * kids));
    assert_eq!(balance(&ledger, "carrier_fee", "carrier"), amount(-126 * kids));
    assert_eq!(balance(&ledger, "payable", "merchant"), amount(-(moved - 206 * kids)));
    let text = told(&world.run(&["query", "ledger"]));
    assert!(
        text.contains("TND") && text.contains("sums to zero") && text.contains("no day is sealed"),
        "{text}"
    );
    world.compare();
}

#[test]
fn sealed_days_take_no_postings_and_late_ones_fall_on_the_next() {
    let world = World::start("seal", &WorldOptions::default());
    world.import_rows("medina-kids-daily", 0, 30, "2026-12-01");
    let engine = world.serve("engine");
    wait_until("30 charges", SOON, || world.number("SELECT count(*) FROM attempt_outcome") == 30);
    let early = world.run(&["ops", "seal", "--until", "2026-12-01", "--yes"]);
    assert!(code(&early) == 2 && told(&early).contains("2026-12-01 is not over"), "{}", told(&early));
    world.set_business("2026-12-02T00:30:00Z", 1);
    let shown = world.run(&["ops", "seal", "--until", "2026-12-01"]);
    assert!(
        told(&shown).contains("would seal 1 day") && told(&shown).contains("add --yes"),
        "{}",
        told(&shown)
    );
    let sealed = world.run(&["ops", "seal", "--until", "2026-12-01", "--yes"]);
    assert!(told(&sealed).contains("1 day sealed, until 2026-12-01"), "{}", told(&sealed));
    assert!(told(&world.run(&["ops", "seal", "--until", "2026-12-01", "--yes"])).contains("0 days sealed"));
    assert_eq!(world.number("SELECT sum(debit)::int8 FROM account_day"), 30 * 500);
    assert_eq!(world.number("SELECT transfers FROM day_seal"), 30);

    // Late: decided at an instant of the sealed day. A worker that was still at the later hour would put the first charge
    // of a new row on the next day, so it starts after the clock went back.
    assert!(engine.terminate().1);
    world.set_business("2026-12-01T10:00:00Z", 1);
    world.import_rows("medina-kids-daily", 100, 10, "2026-12-01");
    let _engine = world.serve("engine");
    wait_until("10 late charges", SOON, || world.number("SELECT count(*) FROM attempt_outcome") == 40);
    let on = |sql: &'static str| world.number(sql);
    assert_eq!(on("SELECT count(*) FROM transfer GROUP BY business_date HAVING count(*) = 10"), 10);
    assert_eq!(on("SELECT max(business_date)::int8 FROM transfer"), day("2026-12-02"));
    assert_eq!(
        on("SELECT count(*) FROM transfer WHERE business_date = (SELECT max(business_date) FROM day_seal)"),
        30
    );
    assert_eq!(ledger(&world)["sealed_until"], "2026-12-01");

    // The month closes when its days are sealed, once.
    world.set_business("2027-01-02T00:30:00Z", 0);
    let refused = world.run(&["ops", "close-month", "2026-12", "--yes"]);
    assert!(code(&refused) == 1 && told(&refused).contains("not all sealed"), "{}", told(&refused));
    let sealed = world.run(&["ops", "seal", "--until", "2026-12-31", "--yes"]);
    assert!(told(&sealed).contains("30 days sealed"), "{}", told(&sealed));
    assert!(world.run(&["ops", "close-month", "2026-12", "--yes"]).status.success());
    let again = world.run(&["ops", "close-month", "2026-12", "--yes"]);
    assert!(code(&again) == 1 && told(&again).contains("closed already"), "{}", told(&again));
    assert_eq!(ledger(&world)["closed_month"], "2026-12");
    let refused = world.block(async {
        sqlx::raw_sql("DELETE FROM day_seal").execute(&mut world.conn().await).await.unwrap_err().to_string()
    });
    assert!(refused.contains("append-only"), "{refused}");
}

#[test]
fn tampering_with_what_is_sealed_is_found() {
    let world = World::start("tamper", &WorldOptions::default());
    world.import_rows("medina-kids-daily", 0, 20, "2026-12-01");
    let engine = world.serve("engine");
    wait_until("20 charges", SOON, || world.number("SELECT count(*) FROM attempt_outcome") == 20);
    assert!(engine.terminate().1);
    world.set_business("2027-01-02T00:30:00Z", 0);
    assert!(world.run(&["ops", "seal", "--until", "2026-12-31", "--yes"]).status.success());
    assert!(world.run(&["ops", "close-month", "2026-12", "--yes"]).status.success());
    ledger(&world);
    let found = |what: &str| {
        let output = world.run(&["query", "ledger", "--verify"]);
        assert_eq!(code(&output), 1, "{what} was not found: {}", told(&output));
        told(&output)
    };
    run_sql(
        &world,
        "ALTER TABLE transfer DISABLE TRIGGER append_only; ALTER TABLE account_day DISABLE TRIGGER append_only; ALTER TABLE day_seal DISABLE TRIGGER append_only",
    );
    // A transfer made smaller, by somebody who may do anything.
    run_sql(
        &world,
        "UPDATE transfer SET amount = amount - 1 WHERE source_id = (SELECT min(source_id) FROM transfer)",
    );
    let text = found("a smaller transfer");
    assert!(
        text.contains("day 2026-12-01, account")
            && text.contains("its transfers say")
            && text.contains("its balance is"),
        "{text}"
    );
    // The same, with balances and totals made to fit: the digest of the day does not.
    run_sql(
        &world,
        "UPDATE account_balance SET posted = posted - sign(posted) WHERE posted <> 0 AND (account_id, stripe) IN (SELECT account_id, min(stripe) FROM account_balance WHERE posted <> 0 GROUP BY 1)",
    );
    run_sql(
        &world,
        "UPDATE account_day SET debit = greatest(debit - 1, 0), credit = greatest(credit - 1, 0)",
    );
    let text = found("totals made to fit");
    assert!(text.contains("day 2026-12-01: its digest is not") && !text.contains("account"), "{text}");
    // The day's digest made to fit: those of the days after it do not.
    run_sql(
        &world,
        "UPDATE day_seal SET digest = day_digest(NULL, business_date) WHERE business_date = (SELECT min(business_date) FROM day_seal)",
    );
    let text = found("one day's digest made to fit");
    assert!(text.contains("day 2026-12-02: its digest is not"), "{text}");
    // The whole chain of days made to fit: the closed month's does not.
    run_sql(
        &world,
        "DO $$ DECLARE d record; before bytea; BEGIN FOR d IN SELECT business_date FROM day_seal ORDER BY 1 LOOP UPDATE day_seal SET digest = day_digest(before, d.business_date) WHERE business_date = d.business_date RETURNING digest INTO before; END LOOP; END $$",
    );
    let text = found("the days' digests made to fit");
    assert!(text.contains("month 2026-12") || text.contains("month 202612"), "{text}");
    assert!(!text.contains("day 2026"), "{text}");
    // A posting slipped into a sealed day.
    run_sql(
        &world,
        "INSERT INTO transfer SELECT source_id, 5, period, debit_account, credit_account, business_date, attempt_no, 9, asset FROM transfer LIMIT 1",
    );
    assert!(found("a posting on a sealed day").contains("day 2026-12-01, account"));
}

fn events(output: &Output) -> Vec<Value> {
    assert!(output.status.success(), "{}", told(output));
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn every_change_is_one_event_in_its_subscriptions_sequence_and_taken_once() {
    // Refused three times on the first day, paid on the second: several events per subscription.
    let options = WorldOptions {
        behaviour: r#"{"balance":{"classes":[{"share_ppm":500000,"min_minor":20,"max_minor":20},{"share_ppm":500000,"min_minor":900000,"max_minor":900000}]}}"#,
        ..WorldOptions::default()
    };
    let world = World::start("events", &options);
    world.import_rows("medina-kids-daily", 0, 40, "2026-12-01");
    let _engine = world.serve("engine");
    let settled = |day_no: i64| {
        wait_until("the day", SOON, || {
            world.number("SELECT count(*) FROM (SELECT subscription_id, period FROM attempt_intent WHERE attempt_no IN (1, 3) GROUP BY 1, 2 HAVING max(attempt_no) = 3 OR bool_or(EXISTS (SELECT FROM attempt_outcome o WHERE o.subscription_id = attempt_intent.subscription_id AND o.period = attempt_intent.period AND o.class = 5))) AS x") == 40 * day_no
                && world.number("SELECT count(*) FROM attempt_intent i WHERE NOT EXISTS (SELECT FROM attempt_outcome o WHERE (o.subscription_id, o.period, o.attempt_no) = (i.subscription_id, i.period, i.attempt_no))") == 0
        });
    };
    settled(1);
    world.set_business("2026-12-02T09:00:00Z", 1);
    settled(2);
    let id = world.number("SELECT min(subscription_id) FROM attempt_outcome WHERE class = 5");
    let subscription = billing_core::ids::SubscriptionId(id).to_string();
    assert!(world.run(&["sub", "cancel", &subscription, "--yes"]).status.success());
    wait_until("the stop is carried out", SOON, || {
        world.number("SELECT count(*) FROM subscription WHERE state = 9") == 1
    });
    world.freeze();
    let waiting = world.number("SELECT sum(cardinality(events))::int8 FROM outbox");

    // Looking takes nothing, a full disk takes nothing.
    assert_eq!(events(&world.run(&["query", "events", "--limit", "7"])).len(), 7);
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let lost = world
        .toll("data")
        .args(["query", "events", "--take"])
        .stdout(full)
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert_eq!(lost.code(), Some(1));
    assert_eq!(world.number("SELECT sum(cardinality(events))::int8 FROM outbox"), waiting);
    assert!(events(&world.run(&["query", "events", "--take", "--merchant", "nobody"])).is_empty());

    // Taken in small pieces, none twice, none missing; within a subscription in its sequence.
    let mut taken = Vec::new();
    while taken.len() < usize::try_from(waiting).unwrap() {
        let some = events(&world.run(&["query", "events", "--take", "--merchant", "demo", "--limit", "33"]));
        assert!(!some.is_empty() && some.len() <= 33, "{} of {waiting}", taken.len());
        taken.extend(some);
    }
    assert_eq!(i64::try_from(taken.len()).unwrap(), waiting);
    assert!(events(&world.run(&["query", "events", "--take"])).is_empty());
    assert_eq!(world.number("SELECT count(*) FROM outbox"), 0);
    let mut revisions: HashMap<&str, Vec<i64>> = HashMap::new();
    for event in &taken {
        revisions
            .entry(event["subscription"].as_str().unwrap())
            .or_default()
            .push(event["revision"].as_i64().unwrap());
    }
    assert_eq!(revisions.len(), 40);
    for (subscription, revisions) in &revisions {
        assert!(revisions.is_sorted_by(|a, b| a <= b), "{subscription}: {revisions:?}");
    }
    let name = |name: &str| taken.iter().filter(|event| event["event"] == name).count();
    let settled: HashSet<&str> = taken
        .iter()
        .filter(|event| event["event"] == "charge.settled")
        .map(|event| event["charge"].as_str().unwrap())
        .collect();
    assert_eq!(settled.len(), name("charge.settled"), "one per charge");
    assert_eq!(
        i64::try_from(settled.len()).unwrap(),
        world.number("SELECT count(*) FROM attempt_outcome WHERE class = 5")
    );
    assert_eq!(name("subscription.cancelled"), 1);
    let cancelled = taken.iter().find(|event| event["event"] == "subscription.cancelled").unwrap();
    assert_eq!(cancelled["subscription"], subscription.as_str());
    let moved: i64 = world.number("SELECT sum(moved_minor)::int8 FROM attempt_outcome");
    let told: i64 = taken
        .iter()
        .map(|event| event["moved"]["amount"].as_str().unwrap().replace('.', "").parse::<i64>().unwrap())
        .sum();
    assert_eq!(told, moved, "events tell all the money that moved");

    // One grant per approved charge, and `sub show` tells until when.
    assert_eq!(
        world.number("SELECT count(*) FROM entitlement_grant"),
        world.number("SELECT count(*) FROM attempt_outcome WHERE class = 5")
    );
    let shown = world.run(&["sub", "show", &subscription, "--json"]);
    let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
    let shown = &shown["subscriptions"][0];
    assert_eq!(shown["grants"].as_array().unwrap().len(), 2, "{shown}");
    assert_eq!(
        (shown["grants"][0]["variant"].as_str(), shown["grants"][0]["paid"]["amount"].as_str()),
        (Some("full"), Some("0.500"))
    );
    assert_eq!(shown["grants"][0]["until"], shown["access_until"], "{shown}");
}
