//! A real primary with a real streaming standby that lost the last commits: nothing twice, nothing lost, and it goes on.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use scheduler::RefundRequest;
use storage::pg::ask_refund;
use tests::{Engine, HURRIED, INQUIRY, World, WorldOptions, wait_until};

const LONG: Duration = Duration::from_secs(120);
/// What the book says of waiting for spools.
const WAIT_S: i64 = 7 * 60;
const WAITED_S: &str = "SELECT extract(epoch FROM deadline_at - found_at)::int8 FROM quarantine";

/// Refunds that may have been sent.
const REFUNDS: &str = "SELECT count(*) FROM attempt_intent WHERE op = 5";

/// A business day takes half a minute; answers take long enough that some are on their way at every moment, and some never
/// come.
fn world(name: &str, lines: u32, plain_role: bool) -> World {
    let options = WorldOptions {
        scale: 2_880,
        business_at: "2026-12-01T04:55:00Z",
        behaviour: r#"{"latency_ms":20,"latency_jitter_ms":60,"reset_applied_ppm":3000}"#,
        engine_toml: HURRIED,
        plain_role,
        ..WorldOptions::default()
    };
    let world = World::start(name, &options);
    let path = world.book.dir.join("carriers/medina.toml");
    let carrier = std::fs::read_to_string(&path).unwrap();
    std::fs::write(path, carrier + INQUIRY).unwrap();
    world.book.change("carriers/medina.toml", "amounts = \"full\"", "amounts = \"partial\"");
    let path = world.book.dir.join("engine.toml");
    let engine = std::fs::read_to_string(&path).unwrap();
    std::fs::write(path, format!("{engine}[failover]\nspool_wait = \"{WAIT_S}s\"\n")).unwrap();
    world.import_rows("medina-kids-daily", 0, lines, "2026-12-01");
    world
}

fn outcomes(world: &World) -> i64 {
    world.number("SELECT count(*) FROM attempt_outcome")
}

/// Requests whose intents the standby does not have: begun after it was cut off, and applied.
fn sent_into_the_void(world: &World, count: i64) {
    let intents = || world.number("SELECT count(*) FROM attempt_intent");
    let begun = intents();
    wait_until("intents that the standby does not have", LONG, || intents() > begun + count);
    let applied = world.mock.applied();
    wait_until("answers to them", LONG, || world.mock.applied() > applied + 50);
}

/// Half of so many charges is wanted back: the standby has the wishes, and is cut off before a worker sees one. The lock on
/// the inbox follows their commit at once.
async fn wishes_that_are_carried_out_in_vain(
    world: &World,
    count: i64,
) -> storage::launcher::PrivatePostgres {
    let standby = world.postgres.standby(&world.dir.join("standby")).unwrap();
    let mut conn = world.conn().await;
    let charges: Vec<(i64, i32)> = sqlx::query_as(
        "SELECT subscription_id, period FROM attempt_outcome WHERE class = 5 ORDER BY subscription_id LIMIT $1",
    )
    .bind(count)
    .fetch_all(&mut conn)
    .await
    .unwrap();
    sqlx::raw_sql("BEGIN").execute(&mut conn).await.unwrap();
    for (id, period) in charges {
        let request = RefundRequest { period, attempt_no: 1, amount_minor: 250, reason: "a test".to_owned() };
        ask_refund(&mut conn, id, &request.encode().unwrap()).await.unwrap();
    }
    let shut = "COMMIT; BEGIN; LOCK TABLE shard_inbox IN ACCESS EXCLUSIVE MODE";
    sqlx::raw_sql(shut).execute(&mut conn).await.unwrap();
    standby.cut_off().unwrap();
    sqlx::raw_sql("COMMIT").execute(&mut conn).await.unwrap();
    standby
}

fn held(world: &World) -> i64 {
    world.number("SELECT count(*) FROM shard_owner WHERE held <> 0")
}

fn status_of(world: &World) -> serde_json::Value {
    let output = world.run(&["status", "--json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// What `toll doctor` says about failovers: verdict and what it found.
fn failover_checks(world: &World) -> Vec<(String, String)> {
    let output = world.run(&["doctor", "--json"]);
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = |check: &serde_json::Value, key: &str| check[key].as_str().unwrap().to_owned();
    let checks = told["checks"].as_array().unwrap().iter().filter(|check| check["name"] == "failover");
    checks.map(|check| (text(check, "verdict"), text(check, "found"))).collect()
}

/// `toll status` and `toll doctor`, while all eight shards wait for the spool of the one that died.
fn says_what_is_held(world: &World) {
    let found = status_of(world)["failovers"].clone();
    let [held] = found.as_array().unwrap().as_slice() else { panic!("{found}") };
    assert_eq!((&held["shards_held"], &held["shards"]), (&8.into(), &8.into()), "{held}");
    let all = serde_json::json!([{ "carrier": "medina", "slices": [0, 1, 2, 3, 4, 5, 6, 7] }]);
    assert_eq!(held["held"], all);
    assert!(held["since"].as_str().is_some_and(|since| since.ends_with('Z')), "{held}");
    let missing = world.block(async {
        let one: String = sqlx::query_scalar(
            "SELECT host || ':' || spool FROM quarantine_spool WHERE handed_in_at IS NULL",
        )
        .fetch_one(&mut world.conn().await)
        .await
        .unwrap();
        one
    });
    assert_eq!(held["missing_spools"], serde_json::json!([missing]));
    let output = world.run(&["status"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    for part in ["8 of 8 shards held (medina 0-7) since", &missing, "toll ops quarantine force 1"] {
        assert!(text.contains(part), "{part} is missing in\n{text}");
    }
    assert_eq!(world.run(&["doctor"]).status.code(), Some(1));
    let checks = failover_checks(world);
    let [(verdict, told)] = checks.as_slice() else { panic!("{checks:?}") };
    assert!(verdict == "bad" && told.contains("8 of 8 shards held") && told.contains(&missing), "{checks:?}");
}

/// Everything comes to rest: all that was listed is asked about and settled, and both ledgers and the checker agree.
fn settle(world: &World, last: Engine) {
    let recorded = outcomes(world);
    wait_until("charging goes on", LONG, || outcomes(world) > recorded + 200);
    world.freeze();
    wait_until("nothing is held", LONG, || held(world) == 0);
    wait_until("nothing is unknown", LONG, || {
        world.number("SELECT count(*) FROM attempt_open") == 0
            && last.status()["worker"]["in_flight"].as_u64() == Some(0)
            && world.number("SELECT count(*) FROM shard_inbox") == 0
    });
    assert_eq!(world.number("SELECT count(*) FROM case_file"), 0);
    let comparison = world.compare();
    eprintln!("applied {} approved {}", comparison.applied_by_carrier, comparison.approved);
    assert_eq!(
        world.number(
            "SELECT count(*) FROM (SELECT subscription_id, period FROM attempt_outcome o JOIN attempt_intent i USING (subscription_id, period, attempt_no)
              WHERE i.op <> 5 GROUP BY 1, 2 HAVING sum(moved_minor) > 500) x"
        ),
        0,
        "no charge may collect more than the 0.500 due"
    );
    assert!(last.terminate().1);
    world.check();
}

#[test]
fn a_standby_that_lost_the_last_commits_doubles_nothing_when_all_spools_are_handed_in() {
    let mut world = world("failover", 3_000, false);
    let lives = world.serve("lives");
    let dies = world.serve("dies");
    wait_until("both charge", LONG, || {
        outcomes(&world) > 400
            && world.number("SELECT count(DISTINCT slot) FROM shard_owner WHERE slot IS NOT NULL") == 2
    });
    let standby = world.block(wishes_that_are_carried_out_in_vain(&world, 12));
    sent_into_the_void(&world, 300);
    wait_until("the wishes are carried out", LONG, || world.number(REFUNDS) == 12);
    dies.kill9();
    world.fail_over(standby);
    // The living one may be faster than any command; where it is, this says what it found.
    assert!(!world.run(&["doctor"]).status.success(), "a failover, met or not, is not well");
    wait_until("the living one notices at its reconnect", LONG, || {
        world.number("SELECT count(*) FROM quarantine") == 1
    });
    assert_eq!(world.number("SELECT count(*) FROM shard_quarantine"), 8);
    assert_eq!(world.number(WAITED_S), WAIT_S, "as the book in force says");
    // Of rows that stand in histories by number, no number is given a second time.
    for last in [
        "SELECT last_value FROM callback_inbox_id_seq",
        "SELECT last_value FROM decision_proposal_id_seq",
        "SELECT last_value FROM carrier_file_id_seq",
        "SELECT last_value FROM carrier_file_row_id_seq",
    ] {
        assert!(world.number(last) > 1_000_000, "{last}");
    }
    // Its own spool is not enough: the other one's is waited for, and nothing is begun meanwhile.
    wait_until("it hands its spool in", LONG, || {
        world.number("SELECT count(*) FROM quarantine_spool WHERE handed_in_at IS NOT NULL") == 1
    });
    wait_until("it says why it is not ready", LONG, || {
        lives.status()["why"].as_str().is_some_and(|why| why.contains("quarantined"))
    });
    assert_eq!(held(&world), 8);
    assert!(lives.get("/readyz").contains("quarantined"));
    assert!(lives.get("/metrics").contains("tollbook_quarantined_shards"));
    says_what_is_held(&world);
    assert_eq!(
        world.number("SELECT count(*) FROM attempt_intent i, quarantine q WHERE i.intent_at > q.found_at"),
        0,
        "nothing is begun while it waits"
    );
    // The killed one comes back, pointed at the new primary's own address.
    let back = world.serve("back");
    wait_until("every shard charges again", LONG, || {
        world.number("SELECT count(*) FROM shard_quarantine WHERE resumed_at IS NULL") == 0
    });
    assert_eq!(world.number("SELECT count(*) FROM shard_quarantine WHERE how = 'listed'"), 8);
    let lost = world.number("SELECT sum(lost)::int8 FROM quarantine_spool");
    assert!(lost > 20, "{lost} lost");
    assert_eq!(world.number("SELECT count(*) FROM quarantine"), 1, "one failover is found once");
    assert!(lives.terminate().1);
    settle(&world, back);
    assert_eq!(world.number(REFUNDS), 12, "a wish that the standby kept is not carried out a second time");
    assert_eq!(status_of(&world)["failovers"], serde_json::json!([]), "all is cleared up");
    assert_eq!(failover_checks(&world), [("good".to_owned(), "none holds anything up".to_owned())]);
}

#[test]
fn an_import_on_a_promoted_standby_gives_no_id_a_second_time_though_no_worker_has_met_it() {
    let mut world = World::start("foimport", &WorldOptions::default());
    world.import_rows("medina-kids-daily", 0, 60, "2026-12-01");
    let standby = world.standby_that_lags();
    world.import_rows("medina-kids-daily", 60, 60, "2026-12-01");
    let last = world.number("SELECT max(id & 4294967295) FROM subscription");
    world.fail_over(standby);
    assert_eq!(world.number("SELECT count(*) FROM subscription"), 60, "the others are lost");
    let unmet = failover_checks(&world);
    assert!(
        unmet.len() == 1 && unmet[0].0 == "bad" && unmet[0].1.contains("no worker has met it"),
        "{unmet:?}"
    );
    world.import_rows("medina-kids-daily", 200, 60, "2026-12-01");
    assert_eq!(world.number(WAITED_S), 600, "where the book says nothing");
    assert_eq!(world.number("SELECT count(*) FROM quarantine"), 1);
    assert_eq!(world.number("SELECT count(*) FROM subscription WHERE id & 4294967295 > 1000000"), 60);
    assert!(last < 1_000_000);
    // A later command finds it, and opens no other.
    world.import_rows("medina-kids-daily", 300, 1, "2026-12-01");
    assert_eq!(world.number("SELECT count(*) FROM quarantine"), 1);
}

#[test]
fn without_the_spool_of_one_that_died_everything_that_was_due_is_asked_about_first() {
    // By a role that owns its database and has no privilege beside.
    let mut world = world("nospool", 600, true);
    let lives = world.serve("lives");
    let dies = world.serve("dies");
    wait_until("both charge", LONG, || {
        outcomes(&world) > 400
            && world.number("SELECT count(DISTINCT slot) FROM shard_owner WHERE slot IS NOT NULL") == 2
    });
    let spool = world.block(async {
        let slot = dies.status()["worker"]["slot"].as_i64().unwrap();
        let named: String = sqlx::query_scalar("SELECT spool FROM worker_incarnation WHERE slot = $1")
            .bind(i32::try_from(slot).unwrap())
            .fetch_one(&mut world.conn().await)
            .await
            .unwrap();
        named
    });
    let standby = world.standby_that_lags();
    sent_into_the_void(&world, 100);
    dies.kill9();
    std::fs::remove_dir_all(spool).unwrap();
    world.fail_over(standby);
    // A new process takes the same place with an empty spool: it does not stand for the lost one.
    let back = world.serve("back");
    wait_until("both spools that are there are handed in", LONG, || {
        world.number("SELECT count(*) FROM quarantine_spool WHERE handed_in_at IS NOT NULL") == 2
    });
    assert_eq!(world.number("SELECT count(*) FROM quarantine_spool WHERE handed_in_at IS NULL"), 1);
    assert_eq!(world.number("SELECT count(*) FROM shard_quarantine WHERE resumed_at IS NOT NULL"), 0);
    let listed = world.run(&["ops", "quarantine"]);
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(listed.status.success() && text.contains("a standby was promoted"), "{text}");
    let forced = world.run(&["ops", "quarantine", "force", "1", "--as", "amal"]);
    assert!(forced.status.success(), "{}", String::from_utf8_lossy(&forced.stderr));
    assert_eq!(world.number("SELECT count(*) FROM audit_log WHERE act = 'quarantine.force'"), 1);
    wait_until("every shard charges again", LONG, || {
        world.number("SELECT count(*) FROM shard_quarantine WHERE resumed_at IS NULL") == 0
    });
    assert_eq!(world.number("SELECT count(*) FROM shard_quarantine WHERE how = 'all'"), 8);
    assert!(world.number("SELECT sum(listed)::int8 FROM shard_quarantine") > 50, "they count as sent");
    assert!(lives.terminate().1);
    // The resolution asks at a fifth of what the carrier takes at a time.
    world.mock.behave(r#"{"latency_ms":1,"latency_jitter_ms":1}"#);
    settle(&world, back);
    assert!(world.number("SELECT count(*) FROM attempt_ask WHERE finding = 1") > 10, "the carrier knew many");
    // Also of those that fell due after it was dead, in a slot that another has by then.
    assert_eq!(
        world.number(
            "SELECT count(*) FROM attempt_intent i JOIN worker_incarnation w USING (incarnation)
              WHERE i.intent_at < w.started_at OR i.intent_at > w.fenced_at"
        ),
        0,
        "an attempt is dated outside the life of who made it"
    );
    // Behind one that never arrived the next one is asked about, too: its sender may have found that out.
    let followed =
        "SELECT count(*) FROM attempt_outcome a JOIN attempt_outcome b USING (subscription_id, period)
        WHERE a.reason = 9 AND b.reason = 9 AND b.attempt_no = a.attempt_no + 1";
    assert!(world.number(followed) > 0, "nobody asked about what may have followed");
}
