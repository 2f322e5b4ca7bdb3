//! Answers that come later, end to end on real parts: a carrier that says "accepted" and then sends signed messages, late,
//! twice, early, contrary or forged; and messages that nobody should have sent.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use billing_core::ids::{AttemptId, ChargeId, OurRef, RefSeed, SubscriptionId};
use billing_core::period::Period;
use sha2::{Digest, Sha256};
use sqlx::Row;
use tests::{Engine, Played, SECRET, World, WorldOptions, http_with, told, wait_until};

const SOON: Duration = Duration::from_secs(60);
/// Everybody is rich; nobody gets an answer but "accepted", and no message follows.
const SILENT: &str = r#"{"pending_ppm":1000000,"callback_lost_ppm":1000000}"#;

fn hoshi(behaviour: &'static str) -> WorldOptions {
    WorldOptions { behaviour, carrier: Played::Hoshi, ..WorldOptions::default() }
}

/// HMAC-SHA256 (RFC 2104), in hexadecimal.
fn sign(key: &str, body: &str) -> String {
    let mut block = [0_u8; 64];
    block.iter_mut().zip(key.bytes()).for_each(|(to, from)| *to = from);
    let inner = Sha256::new().chain_update(block.map(|byte| byte ^ 0x36)).chain_update(body).finalize();
    let outer = Sha256::new().chain_update(block.map(|byte| byte ^ 0x5c)).chain_update(inner).finalize();
    outer.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An accepted or unknown attempt, as the carrier knows it.
struct Open {
    attempt: AttemptId,
    our_ref: String,
    txn: String,
    amount: i64,
    number: String,
}

fn open_attempts(world: &World) -> Vec<Open> {
    world.block(async {
        let rows = sqlx::query(
            "SELECT o.subscription_id, o.period, o.attempt_no, o.amount_minor, coalesce(o.carrier_txn_id, ''), s.ref_seed,
                    s.id & 4294967295
               FROM attempt_open o JOIN subscription s ON s.id = o.subscription_id ORDER BY 1, 2, 3",
        )
        .fetch_all(&mut world.conn().await)
        .await
        .unwrap();
        let vault = storage::vault::Vault::open_or_create(&world.dir.join("data/secrets")).unwrap();
        let mut conn = world.conn().await;
        let mut open = Vec::new();
        for row in rows {
            let (id, period): (i64, i32) = (row.get(0), row.get(1));
            let (due, _) = storage::pg::load(&mut conn, &[id]).await.unwrap();
            let due = &due[0];
            let key = vault.subscriber_key(&due.key_salt, due.kek_version).unwrap();
            let plain = key.open(&storage::pg::msisdn_aad(due.sub.subscriber_id), &due.msisdn_ct).unwrap();
            let period = Period::from_number(period).unwrap();
            let charge = ChargeId { subscription: SubscriptionId(id), period };
            let attempt = AttemptId { charge, attempt_no: row.get(2) };
            let our_ref = OurRef::new(RefSeed(row.get(5)), period, attempt.attempt_no).unwrap().to_string();
            let number = String::from_utf8(plain).unwrap();
            open.push(Open { attempt, our_ref, txn: row.get(4), amount: row.get(3), number });
        }
        open
    })
}

impl Open {
    fn message(&self, id: &str, event: &str) -> String {
        format!(
            r#"{{"event":"charge.{event}","id":"{id}","charge":"{}","key":"{}","msisdn":"{}","amount":"{}","currency":"JPY","reason":"no_funds"}}"#,
            self.txn, self.our_ref, self.number, self.amount
        )
    }
}

/// Sends a message signed with a key; the status of the answer.
fn send_as(world: &World, key: &str, body: &str) -> u16 {
    let header = format!("x-hoshi-signature: sha256={}\r\n", sign(key, body));
    status(&http_with(&world.callbacks, "POST", "/callbacks/hoshi", &header, body))
}

fn send(world: &World, body: &str) -> u16 {
    send_as(world, SECRET, body)
}

fn status(answer: &str) -> u16 {
    answer[9..12].parse().unwrap()
}

fn settled(world: &World) -> bool {
    world.number("SELECT count(*) FROM callback_inbox WHERE state = 0") == 0
        && world.number("SELECT count(*) FROM shard_inbox") == 0
}

fn idle(engine: &Engine) -> bool {
    engine.status()["worker"]["in_flight"].as_u64() == Some(0)
}

fn accepted(world: &World, engine: &Engine, rows: i64) {
    wait_until("everybody is accepted", SOON, || {
        world.number("SELECT count(*) FROM attempt_open WHERE kind = 1 AND deadline_at_ms IS NOT NULL")
            == rows
            && idle(engine)
    });
}

fn audit(world: &World) {
    world.check();
    world.compare();
}

#[test]
fn messages_settle_what_was_accepted_however_they_come() {
    let world = World::start(
        "callbacks",
        &hoshi(
            r#"{"pending_ppm":800000,"callback_delay_ms":50,"callback_twice_ppm":500000,"callback_forged_ppm":300000,
                "callback_early_ppm":300000,"latency_ms":20,
                "balance":{"classes":[{"share_ppm":600000,"min_minor":900,"max_minor":900},{"share_ppm":400000,"min_minor":0,"max_minor":0}]}}"#,
        ),
    );
    world.import_rows("hoshi-manga-daily", 0, 120, "2026-12-01");
    let engine = world.serve_with_callbacks("engine");
    wait_until("every charge was collected or refused on every step", SOON, || {
        world.number("SELECT count(*) FROM subscription WHERE attempt_no > 0 AND next_kind = 2 AND open = 0")
            + world.number("SELECT count(*) FROM attempt_outcome WHERE class = 5")
            == 120
            && world.number("SELECT count(*) FROM attempt_open") == 0
            && settled(&world)
            && idle(&engine)
    });
    let given = world.number("SELECT count(*) FROM callback_inbox WHERE state = 1");
    assert!(given > 150, "{given}");
    assert_eq!(world.number("SELECT count(*) FROM callback_inbox WHERE state NOT IN (1, 2)"), 0);
    assert_eq!(world.number("SELECT count(*) FROM case_file"), 0);
    let (yes, no) = (
        world.number("SELECT count(*) FROM attempt_outcome WHERE class = 5"),
        world.number("SELECT count(*) FROM attempt_outcome WHERE class = 6"),
    );
    assert!(yes > 40 && no > 100, "{yes} {no}");
    let metrics = engine.get("/metrics");
    assert!(metrics.contains(r#"tollbook_callbacks_total{carrier="hoshi",result="forged"}"#), "{metrics}");
    assert!(!metrics.contains("tollbook_callback_copies_total 0"), "{metrics}");
    // The message is part of the story.
    let id = world.number("SELECT min(subscription_id) FROM callback_inbox WHERE state = 1");
    let period = world.number("SELECT max(period)::int8 FROM callback_inbox");
    let period = Period::from_number(i32::try_from(period).unwrap()).unwrap();
    let charge = ChargeId { subscription: SubscriptionId(id), period };
    let story = told(&world.run(&["explain", &charge.to_string()]));
    assert!(story.contains("the carrier's message: accepted → "), "{story}");
    assert!(story.contains("\"event\":\"charge."), "{story}");
    assert!(!story.contains(&world.number_of(0)[2..]), "{story}");
    // Nothing of a message lies in the database in clear.
    assert_eq!(
        world.number("SELECT count(*) FROM callback_inbox WHERE position('81002000'::bytea in sealed) > 0"),
        0
    );
    audit(&world);
}

#[test]
fn a_contrary_message_is_a_case_and_flips_nothing() {
    let world = World::start(
        "contrary",
        &hoshi(r#"{"pending_ppm":1000000,"callback_delay_ms":30,"callback_contrary_ppm":1000000}"#),
    );
    world.import_rows("hoshi-manga-daily", 0, 20, "2026-12-01");
    let engine = world.serve_with_callbacks("engine");
    wait_until("20 charges and 20 cases", SOON, || {
        world.number("SELECT count(*) FROM attempt_outcome WHERE class = 5") == 20
            && world.number("SELECT count(*) FROM case_file WHERE kind = 'conflict'") == 20
            && settled(&world)
            && idle(&engine)
    });
    assert_eq!(world.number("SELECT count(*) FROM attempt_outcome"), 20);
    assert_eq!(world.number("SELECT count(*) FROM attempt_intent"), 20);
    assert_eq!(world.number("SELECT count(DISTINCT subscription_id) FROM case_file"), 20);
    audit(&world);
}

#[test]
fn what_is_forged_replayed_crossed_or_of_another_amount_moves_nothing() {
    let world = World::start("forged", &hoshi(SILENT));
    world.import_rows("hoshi-manga-daily", 0, 4, "2026-12-01");
    let engine = world.serve_with_callbacks("engine");
    accepted(&world, &engine, 4);
    let open = open_attempts(&world);
    let (one, two) = (&open[0], &open[1]);
    let good = one.message("m-good", "charged");

    // Not the carrier's: nothing is kept.
    for key in ["somebody else's secret", "", "a-secret-of-the-test"] {
        assert_eq!(send_as(&world, key, &good), 401);
    }
    assert_eq!(status(&http_with(&world.callbacks, "POST", "/callbacks/hoshi", "", &good)), 401);
    let crossed = format!("x-hoshi-signature: sha256={}\r\n", sign(SECRET, &two.message("m-2", "charged")));
    assert_eq!(status(&http_with(&world.callbacks, "POST", "/callbacks/hoshi", &crossed, &good)), 401);
    assert_eq!(world.number("SELECT count(*) FROM callback_inbox"), 0);
    // Other doors.
    let header = format!("x-hoshi-signature: sha256={}\r\n", sign(SECRET, &good));
    for (method, path, expected) in [
        ("POST", "/callbacks/medina", 404),
        ("POST", "/callbacks/..%2f..%2fhoshi", 404),
        ("POST", "/callbacks/", 404),
        ("GET", "/callbacks/hoshi", 405),
        ("GET", "/metrics", 404),
        ("GET", "/v1/status", 404),
        ("GET", "/internal/history?subscription_id=1", 404),
    ] {
        assert_eq!(status(&http_with(&world.callbacks, method, path, &header, &good)), expected, "{path}");
    }
    let long = "x".repeat(64 * 1024 + 1);
    assert_eq!(send(&world, &long), 413);
    assert!(engine.get("/callbacks/hoshi").starts_with("HTTP/1.1 404"), "the API does not take messages");

    // The carrier's, but not about what was asked: a case for each, and the attempts stay as they were.
    for (id, from, to) in [
        ("m-amount", format!("\"amount\":\"{}\"", one.amount), format!("\"amount\":\"{}\"", one.amount + 1)),
        ("m-currency", "JPY".to_owned(), "EUR".to_owned()),
        ("m-line", one.number.clone(), two.number.clone()),
        ("m-txn", one.txn.clone(), two.txn.clone()),
    ] {
        let body = one.message(id, "charged");
        assert!(body.contains(&from));
        assert_eq!(send(&world, &body.replace(&from, &to)), 204, "{id}");
    }
    // About nothing of ours, of another kind, of a code that is not in the table, not even JSON.
    let nobody = OurRef::new(RefSeed(77), one.attempt.charge.period, 1).unwrap().to_string();
    assert_eq!(send(&world, &one.message("m-nobody", "charged").replace(&one.our_ref, &nobody)), 204);
    assert_eq!(send(&world, r#"{"event":"subscriber.moved","id":"m-other"}"#), 204);
    assert_eq!(send(&world, &one.message("m-unlisted", "parked")), 204);
    assert_eq!(send(&world, "<xml/>"), 204);
    wait_until("they were looked at", SOON, || {
        world.number("SELECT count(*) FROM callback_inbox WHERE state = 5") == 4
            && world.number("SELECT count(*) FROM callback_inbox WHERE state = 3") == 3
    });
    assert_eq!(world.number("SELECT count(*) FROM case_file WHERE kind = 'callback_mismatch'"), 4);
    assert_eq!(world.number("SELECT count(*) FROM attempt_outcome"), 0);
    assert_eq!(world.number("SELECT count(*) FROM attempt_open WHERE kind = 1"), 4);

    // The true one settles it, once; its copies get the same answer.
    for _ in 0..3 {
        assert_eq!(send(&world, &good), 204);
    }
    wait_until("it is approved", SOON, || {
        world.number("SELECT count(*) FROM attempt_outcome WHERE class = 5") == 1
    });
    assert_eq!(send(&world, &good), 204);
    // The same fact under another id is nothing new either.
    assert_eq!(send(&world, &one.message("m-again", "charged")), 204);
    wait_until("the copies were looked at", SOON, || {
        world.number("SELECT count(*) FROM callback_inbox WHERE state = 2") == 1
            && world.number("SELECT count(*) FROM shard_inbox") == 0
    });
    assert_eq!(world.number("SELECT count(*) FROM callback_inbox WHERE state = 1"), 1);
    assert_eq!(world.number("SELECT count(*) FROM attempt_outcome"), 1);
    assert_eq!(world.number("SELECT sum(amount)::int8 FROM transfer WHERE leg = 1"), one.amount);
    // Its carrier's id alone is enough, where it is the one that the answer brought.
    let by_txn = two.message("m-txn-only", "charged").replace(&format!("\"key\":\"{}\",", two.our_ref), "");
    assert_eq!(send(&world, &by_txn), 204);
    wait_until("it is approved", SOON, || {
        world.number("SELECT count(*) FROM attempt_outcome WHERE class = 5") == 2
    });
    audit(&world);
}

#[test]
fn what_cannot_be_kept_is_not_acknowledged() {
    let world = World::start("unkept", &hoshi(SILENT));
    world.import_rows("hoshi-manga-daily", 0, 1, "2026-12-01");
    let engine = world.serve_with_callbacks("engine");
    accepted(&world, &engine, 1);
    let good = open_attempts(&world)[0].message("m-1", "charged");
    let rename = |sql: &'static str| {
        world.block(async { sqlx::query(sql).execute(&mut world.conn().await).await.unwrap() });
    };
    rename("ALTER TABLE callback_inbox RENAME TO away");
    let header = format!("x-hoshi-signature: sha256={}\r\n", sign(SECRET, &good));
    let answer = http_with(&world.callbacks, "POST", "/callbacks/hoshi", &header, &good);
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("retry-after: 1"), "{answer}");
    rename("ALTER TABLE away RENAME TO callback_inbox");
    assert_eq!(world.number("SELECT count(*) FROM callback_inbox"), 0);
    assert_eq!(send(&world, &good), 204);
    wait_until("it is approved", SOON, || {
        world.number("SELECT count(*) FROM attempt_outcome WHERE class = 5") == 1
    });
    audit(&world);
}

#[test]
fn what_was_kept_is_applied_by_whoever_works_next() {
    let world = World::start("kept", &hoshi(SILENT));
    world.import_rows("hoshi-manga-daily", 0, 2, "2026-12-01");
    let engine = world.serve_with_callbacks("engine");
    accepted(&world, &engine, 2);
    let open = open_attempts(&world);
    // The owner is not there to apply it, nor anybody to look at it.
    world.block(async {
        let sql = "CREATE FUNCTION away() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'away'; END $$";
        sqlx::query(sql).execute(&mut world.conn().await).await.unwrap();
        let sql = "CREATE TRIGGER away BEFORE UPDATE ON callback_inbox FOR EACH ROW EXECUTE FUNCTION away()";
        sqlx::query(sql).execute(&mut world.conn().await).await.unwrap();
    });
    for one in &open {
        assert_eq!(send(&world, &one.message(&format!("m-{}", one.txn), "charged")), 204);
    }
    engine.kill9();
    assert_eq!(world.number("SELECT count(*) FROM callback_inbox WHERE state = 0"), 2);
    world.block(async {
        sqlx::query("DROP TRIGGER away ON callback_inbox").execute(&mut world.conn().await).await.unwrap();
    });
    // A process that takes no messages itself.
    let _engine = world.serve("second");
    wait_until("both are approved", SOON, || {
        world.number("SELECT count(*) FROM attempt_outcome WHERE class = 5") == 2
    });
    audit(&world);
}

#[test]
fn a_late_message_settles_what_had_become_unknown() {
    let world = World::start("late", &hoshi(SILENT));
    world.book.change("carriers/hoshi.toml", "[limits]", "[limits]\nfinal_deadline = \"20h\"");
    world.import_rows("hoshi-manga-daily", 0, 6, "2026-12-01");
    let engine = world.serve_with_callbacks("engine");
    accepted(&world, &engine, 6);
    let open = open_attempts(&world);
    // The carrier's own time to answer, counted from its reply.
    let waits = world.number(
        "SELECT min(o.deadline_at_ms - i.business_at_ms)::int8 FROM attempt_open o
           JOIN attempt_intent i USING (subscription_id, period, attempt_no)",
    );
    assert!((20 * 3_600_000..21 * 3_600_000).contains(&waits), "{waits}");
    world.mock.behave(r#"{"pending_ppm":0}"#);
    // A business day later: the next period was charged beside them, and their answers are overdue.
    world.set_business("2026-12-02T10:00:00Z", 1);
    wait_until("they are unknown, and the next period is paid", SOON, || {
        world.number("SELECT count(*) FROM attempt_open WHERE kind = 2") == 6
            && world.number("SELECT count(*) FROM attempt_outcome WHERE class = 5") == 6
            && idle(&engine)
    });
    assert_eq!(world.number("SELECT count(*) FROM charge_aside WHERE open = 2"), 6);
    for (at, one) in open.iter().enumerate() {
        let event = if at < 4 { "charged" } else { "refused" };
        // The last two say what is not so: the carrier's own books have them. We can only believe what is signed.
        if at < 4 {
            assert_eq!(send(&world, &one.message(&format!("m-{at}"), event)), 204);
        }
    }
    wait_until("four are approved", SOON, || {
        world.number("SELECT count(*) FROM attempt_outcome WHERE class = 5") == 10 && settled(&world)
    });
    assert_eq!(world.number("SELECT count(*) FROM attempt_open WHERE kind = 2"), 2);
    // What lay in suspense left it.
    assert_eq!(world.number("SELECT sum(amount)::int8 FROM transfer WHERE leg = 3"), 4 * open[0].amount);
    audit(&world);
}

#[test]
fn a_message_settles_a_refund_whose_answer_was_lost() {
    let world = World::start("refunded", &hoshi("{}"));
    let rule = "  { at = \"/event\", is = \"charge.charged\", then = \"charged\" },\n";
    let more = format!("{rule}  {{ at = \"/event\", is = \"charge.refunded\", then = \"refunded\" }},\n");
    world.book.change("carriers/hoshi.toml", rule, &more);
    world.import_rows("hoshi-manga-daily", 0, 2, "2026-12-01");
    let engine = world.serve_with_callbacks("engine");
    wait_until("2 charges", SOON, || {
        world.number("SELECT count(*) FROM attempt_outcome WHERE class = 5") == 2 && idle(&engine)
    });
    world.mock.behave(r#"{"reset_applied_ppm":1000000,"fault_times":0}"#);
    let id = SubscriptionId(world.number("SELECT min(subscription_id) FROM attempt_outcome"));
    let period = world.number("SELECT min(period)::int8 FROM attempt_outcome");
    let period = Period::from_number(i32::try_from(period).unwrap()).unwrap();
    let charge = ChargeId { subscription: id, period }.to_string();
    let asked = world.run(&["charge", "refund", &charge, "--reason", "a test", "--yes"]);
    assert!(asked.status.success(), "{}", told(&asked));
    wait_until("the refund is unknown", SOON, || {
        world.number("SELECT count(*) FROM attempt_open WHERE kind = 2") == 1 && idle(&engine)
    });
    let open = open_attempts(&world);
    // That the charge was collected says nothing of its refund.
    assert_eq!(send(&world, &open[0].message("m-charged", "charged")), 204);
    wait_until("it is a case", SOON, || world.number("SELECT count(*) FROM case_file") == 1);
    assert_eq!(world.number("SELECT count(*) FROM attempt_open WHERE kind = 2"), 1);
    assert_eq!(send(&world, &open[0].message("m-refunded", "refunded")), 204);
    wait_until("the refund is approved", SOON, || {
        world.number("SELECT count(*) FROM attempt_outcome WHERE class = 5") == 3
            && world.number("SELECT count(*) FROM attempt_open") == 0
            && settled(&world)
    });
    assert_eq!(world.number("SELECT refunded_minor FROM charge_aside"), open[0].amount);
    audit(&world);
}

#[test]
fn an_unsigned_message_is_a_hint_and_never_an_answer() {
    let world = World::start("hints", &hoshi(SILENT));
    let file = "carriers/hoshi.toml";
    let text = std::fs::read_to_string(world.book.dir.join(file)).unwrap();
    let line = |start: &str| text.lines().find(|line| line.starts_with(start)).unwrap().to_owned();
    world.book.change(file, &line("auth = { method = \"hmac"), "auth = { method = \"none\" }");
    world.book.change(file, "[proof.callback]\ndeadline = \"10m\"\n", "");
    let from = text.find("  { at = \"/event\", is = \"charge.charged\", then = \"charged\" },").unwrap();
    let to = from + text[from..].find("]\nelse").unwrap();
    world.book.change(
        file,
        &text[from..to],
        "  { at = \"/event\", is = \"charge.charged\", then = \"pending\" },\n",
    );
    let examples = text.find("[[example]]\nfor = \"callback\"").unwrap();
    let body = r#"{"event":"charge.EVENT","id":"m-1","charge":"t-000000000002","key":"${our_ref}","msisdn":"${msisdn:e164}","amount":"${amount:decimal}","currency":"JPY","reason":"no_funds"}"#;
    let example = |event: &str, expect: &str| {
        format!(
            "[[example]]\nfor = \"callback\"\nbody = '{}'\nexpect = \"{expect}\"\n",
            body.replace("EVENT", event)
        )
    };
    let both = example("charged", "pending") + &example("other", "unknown:unlisted");
    world.book.change(file, &text[examples..], &both);
    world.import_rows("hoshi-manga-daily", 0, 3, "2026-12-01");
    let engine = world.serve_with_callbacks("engine");
    accepted(&world, &engine, 3);
    let open = open_attempts(&world);
    let unsigned = |body: &str| status(&http_with(&world.callbacks, "POST", "/callbacks/hoshi", "", body));
    for (at, event) in ["charged", "refused", "charged"].into_iter().enumerate() {
        assert_eq!(unsigned(&open[0].message(&format!("m-{at}"), event)), 204);
    }
    assert_eq!(unsigned("not json"), 400, "what is not even a hint is not kept");
    wait_until("they were looked at", SOON, || {
        world.number("SELECT count(*) FROM callback_inbox WHERE state = 4") == 3 && settled(&world)
    });
    assert_eq!(
        world.number("SELECT count(*) FROM case_file WHERE kind = 'callback_hint'"),
        1,
        "one per attempt"
    );
    assert_eq!(world.number("SELECT count(*) FROM attempt_open WHERE kind = 1"), 3);
    assert_eq!(world.number("SELECT count(*) FROM attempt_outcome"), 0);
    // Anybody can send them, so only so many are taken.
    let answers: Vec<u16> =
        (0..60).map(|at| unsigned(&open[1].message(&format!("flood-{at}"), "charged"))).collect();
    assert!(answers.contains(&429), "{answers:?}");
    audit(&world);
}
