//! UNKNOWN attempts are resolved by what their carrier can prove, and by nothing else. Real Postgres, real mock carrier,
//! the product's own processes; intervals are shortened as only a sandbox's clock allows.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::{Duration, Instant};

use tests::{Engine, HURRIED, INQUIRY, World, WorldOptions, wait_until};

const SOON: Duration = Duration::from_secs(40);
const SETTLE_MS: i64 = 2_000;
const SPACING_MS: i64 = 200;
/// Of the worlds' carrier; never shortened.
const REPLY_TIMEOUT_MS: i64 = 1_000;

const REPEAT: &str = "\n[proof.repeat]\nkey = \"ref\"\nwindow = \"24h\"\nmargin = \"10m\"\n";

fn world(name: &str, behaviour: &'static str, proof: &str) -> World {
    let options = WorldOptions { behaviour, scale: 2, engine_toml: HURRIED, ..WorldOptions::default() };
    world_of(name, &options, proof)
}

fn world_of(name: &str, options: &WorldOptions, proof: &str) -> World {
    let world = World::start(name, options);
    let path = world.book.dir.join("carriers/medina.toml");
    let carrier = std::fs::read_to_string(&path).unwrap();
    std::fs::write(path, carrier + proof).unwrap();
    world
}

fn idle(engine: &Engine) -> bool {
    engine.status()["worker"]["in_flight"].as_u64() == Some(0)
}

/// Everything is settled: nothing is open, nothing on its way, and both ledgers and the independent checker agree.
fn all_agrees(world: &World, engine: Engine) {
    wait_until("nothing is on its way", SOON, || {
        idle(&engine) && world.number("SELECT count(*) FROM shard_inbox") == 0
    });
    world.compare();
    assert!(engine.terminate().1);
    world.check();
}

fn approved(world: &World) -> i64 {
    world.number("SELECT count(*) FROM attempt_outcome WHERE class = 5")
}

fn unknown(world: &World) -> i64 {
    world.number("SELECT count(*) FROM attempt_open WHERE kind = 2")
}

#[test]
fn an_applied_charge_whose_answer_was_lost_is_found_by_asking_and_never_sent_again() {
    let world = world("rsfound", r#"{"silent_applied_ppm":1000000}"#, INQUIRY);
    world.import_rows("medina-kids-daily", 0, 20, "2026-12-01");
    let engine = world.serve("engine");
    wait_until("20 approved", SOON, || approved(&world) == 20);
    assert_eq!(world.number("SELECT count(*) FROM attempt_open"), 0);
    assert_eq!(world.number("SELECT count(*) FROM attempt_intent"), 20, "no second key");
    assert_eq!(world.number("SELECT count(*) FROM attempt_ask WHERE kind = 2 AND finding = 1"), 20);
    assert_eq!(world.number("SELECT count(*) FROM attempt_ask WHERE kind = 1"), 0, "nothing was repeated");
    let stats = world.mock.stats();
    assert_eq!(stats["applied"], 20, "{stats}");
    assert!(stats["inquiries"].as_u64().unwrap() >= 20, "{stats}");
    // The suspense is empty again: what entered unknown has left it.
    assert_eq!(
        world
            .number("SELECT count(*) FILTER (WHERE leg = 2) - count(*) FILTER (WHERE leg = 3) FROM transfer"),
        0
    );
    let explained = explain_first(&world);
    for words in ["resolve.inquire", "resolve.found", "GET /v1/charge/status/", "settle.full"] {
        assert!(explained.contains(words), "{words} is not told:\n{explained}");
    }
    let metrics = engine.get("/metrics");
    assert!(
        metrics.contains("tollbook_asks_total{carrier=\"medina\",kind=\"inquiry\",finding=\"found\"} 20"),
        "{metrics}"
    );
    assert!(metrics.contains("rule=\"resolve.found\"} 20"), "{metrics}");
    all_agrees(&world, engine);
}

fn explain_first(world: &World) -> String {
    let id = world.number("SELECT min(subscription_id) FROM attempt_intent");
    let period = world.number("SELECT min(period)::int8 FROM attempt_intent WHERE subscription_id = (SELECT min(subscription_id) FROM attempt_intent)");
    let charge = billing_core::ids::ChargeId {
        subscription: billing_core::ids::SubscriptionId(id),
        period: billing_core::period::Period::from_number(i32::try_from(period).unwrap()).unwrap(),
    };
    let output = world.run(&["explain", &charge.to_string()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn what_the_carrier_never_got_is_believed_late_and_twice_and_then_charged_under_a_new_key() {
    let world = world("rsabsent", r#"{"silent_not_applied_ppm":1000000}"#, INQUIRY);
    world.import_rows("medina-kids-daily", 0, 10, "2026-12-01");
    let engine = world.serve("engine");
    wait_until("10 unknown", SOON, || unknown(&world) == 10);
    world.mock.behave(r#"{"silent_not_applied_ppm":0}"#);
    world.block(async {
        let since = "CREATE TABLE was_open AS SELECT * FROM attempt_open";
        sqlx::query(since).execute(&mut world.conn().await).await.unwrap();
    });
    wait_until("10 approved", SOON, || approved(&world) == 10);
    assert_eq!(world.number("SELECT count(*) FROM attempt_outcome WHERE class = 8 AND attempt_no = 1"), 10);
    assert_eq!(world.number("SELECT count(*) FROM attempt_outcome WHERE class = 5 AND attempt_no = 2"), 10);
    // Told again from what was kept, without the resolver's code: how long it took, and what was said.
    let (settled_ms, early, late, apart): (i64, i64, i64, i64) = world.block(async {
        sqlx::query_as(
            "SELECT min(extract(epoch FROM o.decided_at - w.since) * 1000)::int8,
                    count(*) FILTER (WHERE a.asked_at <= w.since + interval '3 seconds')::int8,
                    min(late.many)::int8, min(late.apart_ms)::int8
               FROM was_open w
               JOIN attempt_outcome o USING (subscription_id, period, attempt_no)
               JOIN attempt_ask a USING (subscription_id, period, attempt_no)
               CROSS JOIN LATERAL (SELECT count(*) AS many,
                                          extract(epoch FROM max(k.asked_at) - min(k.answered_at)) * 1000 AS apart_ms
                                     FROM attempt_ask k
                                    WHERE (k.subscription_id, k.period, k.attempt_no) = (w.subscription_id, w.period, w.attempt_no)
                                      AND k.finding = 2 AND k.asked_at > w.since + interval '3 seconds') AS late",
        )
        .fetch_one(&mut world.conn().await)
        .await
        .unwrap()
    });
    assert!(settled_ms > SETTLE_MS + REPLY_TIMEOUT_MS + SPACING_MS, "settled after {settled_ms} ms");
    assert!(early >= 10, "it was asked early, too: {early}");
    assert!(late >= 2 && apart >= SPACING_MS, "{late} late answers, {apart} ms apart");
    assert_eq!(world.mock.applied(), 10);
    all_agrees(&world, engine);
}

#[test]
fn a_carrier_that_does_not_see_it_yet_is_not_believed() {
    // Applied, and not visible to questions for a while: an early "not found" is wrong.
    let world = world("rsearly", r#"{"reset_applied_ppm":1000000,"visible_after_ms":1800}"#, INQUIRY);
    world.import_rows("medina-kids-daily", 0, 10, "2026-12-01");
    let engine = world.serve("engine");
    wait_until("10 approved", SOON, || approved(&world) == 10);
    assert!(
        world.number("SELECT count(*) FROM attempt_ask WHERE finding = 2") >= 10,
        "nobody was told \"not found\""
    );
    assert_eq!(world.number("SELECT count(*) FROM attempt_intent"), 10);
    assert_eq!(world.mock.applied(), 10);
    all_agrees(&world, engine);
}

#[test]
fn a_repeat_under_the_same_key_brings_the_first_result() {
    let world = world("rsrepeat", r#"{"silent_applied_ppm":500000,"silent_not_applied_ppm":500000}"#, REPEAT);
    world.import_rows("medina-kids-daily", 0, 20, "2026-12-01");
    let engine = world.serve("engine");
    wait_until("20 approved", SOON, || approved(&world) == 20);
    assert_eq!(world.number("SELECT count(*) FROM attempt_intent"), 20, "no second key");
    assert_eq!(world.number("SELECT count(*) FROM attempt_ask WHERE kind = 1 AND finding = 1"), 20);
    let lines = std::fs::read_to_string(&world.mock.ledger).unwrap();
    let with = |status: &str| {
        lines.lines().filter(|line| line.contains(&format!("\"status\":\"{status}\""))).count()
    };
    assert_eq!(with("applied"), 20);
    assert!(with("replayed") > 0 && with("not_processed") > 0, "{lines}");
    assert_eq!(with("mismatch"), 0, "a repeat has the same money fields");
    let explained = explain_first(&world);
    let requests: Vec<&str> =
        explained.split("  request ").skip(1).filter_map(|text| text.split("  answer ").next()).collect();
    assert!(requests.len() == 2 && requests[0].contains("POST /v1/charge HTTP/1.1"), "{explained}");
    assert_eq!(requests[0], requests[1], "byte for byte");
    all_agrees(&world, engine);
}

#[test]
fn a_repeat_after_a_change_of_the_book_has_the_bytes_of_the_first() {
    let world = world("rsbook", r#"{"silent_applied_ppm":1000000}"#, REPEAT);
    world.import_rows("medina-kids-daily", 0, 3, "2026-12-01");
    let engine = world.serve("engine");
    wait_until("3 unknown", SOON, || unknown(&world) == 3);
    // Busy says nothing about the first request.
    world.mock.behave(r#"{"down":true}"#);
    wait_until("they were repeated", SOON, || {
        world.number("SELECT count(*) FROM attempt_ask WHERE finding = 6") >= 3 || approved(&world) > 0
    });
    assert!(engine.terminate().1);
    world.book.change(
        "plans/medina-kids-daily.toml",
        "text = \"Kids stories, one day\"",
        "text = \"Other words\"",
    );
    assert_eq!(world.apply_book(), 2);
    let engine = world.serve("engine");
    world.mock.behave(r#"{"down":false}"#);
    wait_until("3 approved", SOON, || approved(&world) == 3);
    assert_eq!(world.mock.applied(), 3);
    let lines = std::fs::read_to_string(&world.mock.ledger).unwrap();
    assert!(lines.contains("\"replayed\"") && !lines.contains("Other words"), "{lines}");
    // The checker knows plans by the words of the book in force.
    world.book.change(
        "plans/medina-kids-daily.toml",
        "text = \"Other words\"",
        "text = \"Kids stories, one day\"",
    );
    assert_eq!(world.apply_book(), 3);
    all_agrees(&world, engine);
}

#[test]
fn a_duplicate_is_asked_about_and_not_taken_for_a_refusal() {
    let options = WorldOptions {
        behaviour: r#"{"silent_applied_ppm":1000000}"#,
        mock_args: &["--repeat", "duplicate"],
        scale: 2,
        engine_toml: HURRIED,
        ..WorldOptions::default()
    };
    let world = world_of("rsduplicate", &options, &format!("{REPEAT}{INQUIRY}"));
    world.import_rows("medina-kids-daily", 0, 10, "2026-12-01");
    let engine = world.serve("engine");
    wait_until("10 approved", SOON, || approved(&world) == 10);
    assert_eq!(world.number("SELECT count(*) FROM attempt_ask WHERE kind = 1 AND finding = 4"), 10);
    assert_eq!(world.number("SELECT count(*) FROM attempt_ask WHERE kind = 2 AND finding = 1"), 10);
    assert_eq!(world.number("SELECT count(*) FROM attempt_intent"), 10);
    assert_eq!(world.mock.applied(), 10);
    all_agrees(&world, engine);
}

#[test]
fn without_any_proof_people_get_it_and_nothing_more_is_sent() {
    let world = world("rspeople", r#"{"silent_applied_ppm":1000000}"#, "");
    world.import_rows("medina-kids-daily", 0, 5, "2026-12-01");
    let engine = world.serve("engine");
    wait_until("5 in review", SOON, || {
        world.number(
            "SELECT count(*) FROM attempt_open WHERE kind = 3 AND rule_id = 120 AND assignee IS NOT NULL",
        ) == 5
    });
    assert_eq!(unknown(&world), 0);
    assert_eq!(world.number("SELECT count(*) FROM subscription WHERE open = 3"), 5);
    assert_eq!(world.number("SELECT count(*) FROM attempt_ask"), 0);
    assert_eq!(world.number("SELECT count(*) FROM attempt_intent"), 5);
    wait_until("nothing is on its way", SOON, || idle(&engine));
    assert!(engine.terminate().1);
    let report = world.checker("check.py").arg("--resolved").output().unwrap();
    assert!(report.status.success(), "{}", String::from_utf8_lossy(&report.stdout));
}

#[test]
fn an_attempt_that_the_database_refuses_to_change_stops_no_other() {
    let world = world("rspoison", r#"{"silent_applied_ppm":1000000}"#, "");
    world.import_rows("medina-kids-daily", 0, 4, "2026-12-01");
    let run = |sql: &'static str| {
        world.block(async { sqlx::raw_sql(sql).execute(&mut world.conn().await).await.unwrap() });
    };
    run("CREATE FUNCTION planted() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
           IF NEW.kind = 3 AND NEW.subscription_id = (SELECT min(id) FROM subscription) THEN RAISE EXCEPTION 'planted'; END IF;
           RETURN NEW; END $$;
         CREATE TRIGGER planted BEFORE UPDATE ON attempt_open FOR EACH ROW EXECUTE FUNCTION planted()");
    let engine = world.serve("engine");
    let in_review = "SELECT count(*) FROM attempt_open WHERE kind = 3";
    wait_until("the others are in review", SOON, || world.number(in_review) == 3);
    assert_eq!(unknown(&world), 1, "it stays what it is");
    run("DROP TRIGGER planted ON attempt_open");
    wait_until("it follows", SOON, || world.number(in_review) == 4);
    assert_eq!(world.number("SELECT count(*) FROM attempt_intent"), 4);
    wait_until("nothing is on its way", SOON, || idle(&engine));
    world.compare();
}

#[test]
fn a_killed_worker_goes_on_where_it_was() {
    let world = world("rskill", r#"{"silent_applied_ppm":1000000,"working_ms":3600000}"#, INQUIRY);
    world.import_rows("medina-kids-daily", 0, 5, "2026-12-01");
    let engine = world.serve("engine");
    wait_until("each was asked about twice", SOON, || {
        world.number("SELECT count(*) FROM attempt_ask WHERE finding = 3 AND ask_no = 2") == 5
    });
    engine.kill9();
    world.mock.behave(r#"{"working_ms":0}"#);
    let engine = world.serve("engine");
    wait_until("5 approved", SOON, || approved(&world) == 5);
    // Counted on, not anew.
    assert_eq!(world.number("SELECT count(DISTINCT incarnation) FROM attempt_ask"), 2);
    assert_eq!(
        world.number("SELECT count(*) FROM (SELECT FROM attempt_ask GROUP BY subscription_id HAVING count(*) <> max(ask_no)) x"),
        0
    );
    assert_eq!(world.number("SELECT count(*) FROM attempt_intent"), 5);
    all_agrees(&world, engine);
}

#[test]
fn a_worker_killed_over_a_repeat_leaves_a_write_that_may_be_on_its_way() {
    let options = WorldOptions {
        behaviour: r#"{"silent_applied_ppm":1000000,"fault_times":2}"#,
        scale: 2,
        engine_toml: "[resolution]\ntime_scale = 300\n[batch]\nsend_max_age = \"1s\"\n",
        ..WorldOptions::default()
    };
    let world = world_of("rskillresend", &options, REPEAT);
    world.import_rows("medina-kids-daily", 0, 3, "2026-12-01");
    let engine = world.serve("engine");
    wait_until("repeats are on their way", SOON, || {
        world.number("SELECT count(*) FROM attempt_open WHERE asks = 1 AND last_writer IS NOT NULL") == 3
    });
    engine.kill9();
    assert_eq!(world.number("SELECT count(*) FROM attempt_ask"), 0, "their answers were not kept");
    let engine = world.serve("engine");
    wait_until("3 approved", SOON, || approved(&world) == 3);
    assert_eq!(world.mock.applied(), 3);
    assert_eq!(world.number("SELECT min(ask_no)::int8 FROM attempt_ask"), 2, "the lost one keeps its number");
    all_agrees(&world, engine);
}

#[test]
fn a_refund_that_is_unknown_is_asked_about_too() {
    let world = world("rsrefund", "{}", INQUIRY);
    world.import_rows("medina-kids-daily", 0, 1, "2026-12-01");
    let engine = world.serve("engine");
    wait_until("it is charged", SOON, || approved(&world) == 1 && idle(&engine));
    world.mock.behave(r#"{"silent_applied_ppm":1000000}"#);
    let id = world.number("SELECT subscription_id FROM attempt_intent");
    let period = world.number("SELECT period::int8 FROM attempt_intent");
    let charge = billing_core::ids::ChargeId {
        subscription: billing_core::ids::SubscriptionId(id),
        period: billing_core::period::Period::from_number(i32::try_from(period).unwrap()).unwrap(),
    };
    let asked = world.run(&["charge", "refund", &charge.to_string(), "--reason", "a test", "--yes"]);
    assert!(asked.status.success(), "{}", String::from_utf8_lossy(&asked.stderr));
    wait_until("it is given back", SOON, || {
        world.number(
            "SELECT count(*) FROM attempt_outcome WHERE attempt_no = 2 AND class = 5 AND rule_id = 68",
        ) == 1
    });
    assert_eq!(world.number("SELECT count(*) FROM attempt_ask WHERE attempt_no = 2 AND finding = 1"), 1);
    assert_eq!(world.number("SELECT refunded_minor FROM charge_aside"), 500);
    all_agrees(&world, engine);
}

#[test]
fn questions_keep_to_their_fifth_while_a_backlog_runs() {
    let world = world("rsrate", r#"{"reset_applied_ppm":1000000,"working_ms":3600000}"#, INQUIRY);
    world.book.change(
        "carriers/medina.toml",
        "rate = { n = 20000, per = \"1s\" }",
        "rate = { n = 60, per = \"1s\" }",
    );
    world.book.change("carriers/medina.toml", "in_flight_max = 32", "in_flight_max = 8");
    let breaker = "\n[breaker]\nunknown_share_percent = 100\nwindow = \"60s\"\nopen_for = \"1s\"\n";
    let path = world.book.dir.join("carriers/medina.toml");
    std::fs::write(&path, std::fs::read_to_string(&path).unwrap() + breaker).unwrap();
    world.import_rows("medina-kids-daily", 0, 30, "2026-12-01");
    let engine = world.serve("engine");
    wait_until("30 unknown", SOON, || unknown(&world) == 30);
    // Now a backlog of well-behaved charges, while every unknown one is being worked on and asked about again and again.
    world.mock.behave(r#"{"reset_applied_ppm":0}"#);
    world.import_rows("medina-kids-daily", 1_000, 500, "2026-12-01");
    let counts = || {
        let stats = world.mock.stats();
        let received = stats["requests"].as_u64().unwrap();
        (Instant::now(), received, stats["inquiries"].as_u64().unwrap())
    };
    wait_until("the backlog runs", SOON, || approved(&world) > 20);
    let mut samples = vec![counts()];
    wait_until("the backlog is done", SOON, || {
        samples.push(counts());
        std::thread::sleep(Duration::from_millis(50));
        approved(&world) >= 400
    });
    let (first, last) = (samples[0], samples[samples.len() - 1]);
    let seconds = last.0.duration_since(first.0).as_secs_f64();
    let asked = (last.2 - first.2) as f64 / seconds;
    let all = (last.1 + last.2 - first.1 - first.2) as f64 / seconds;
    assert!(asked > 4.0, "a backlog held the questions up: {asked:.1} per second");
    assert!(asked <= 13.0, "{asked:.1} questions per second of a rate of 60");
    assert!(all <= 62.0, "{all:.1} requests per second of 60");
    // In each single second, too: a fifth and one of a burst.
    for (at, sample) in samples.iter().enumerate() {
        let within =
            samples[at..].iter().take_while(|other| other.0.duration_since(sample.0).as_millis() <= 1_000);
        let asked = within.last().map_or(0, |other| other.2 - sample.2);
        assert!(asked <= 14, "{asked} questions within a second");
    }
    world.mock.behave(r#"{"working_ms":0}"#);
    wait_until("all are settled", SOON, || approved(&world) == 530);
    all_agrees(&world, engine);
}

#[test]
fn what_protects_money_is_not_shortened_under_real_time() {
    let world = World::start("rsrefuse", &WorldOptions { engine_toml: HURRIED, ..WorldOptions::default() });
    let applied = world.run(&["book", "apply", "--yes"]);
    let told = String::from_utf8_lossy(&applied.stdout);
    assert!(!applied.status.success() && told.contains("resolution.time_scale is 300"), "{told}");
    let mut command = world.toll("data");
    command.args(["serve", "--listen", "127.0.0.1:0"]);
    let output = command.output().unwrap();
    assert!(!output.status.success());
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("resolution.time_scale is 300") && told.contains("only sandboxes"), "{told}");
}
