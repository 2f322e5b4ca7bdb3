//! Reconciliation files, end to end on real parts: the mock carrier writes them from its own ledger, and spoils them as
//! carriers do. Only a complete file proves anything.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::PathBuf;
use std::time::Duration;

use billing_core::ids::{ChargeId, OurRef, RefSeed, SubscriptionId};
use billing_core::period::Period;
use sqlx::Row;
use tests::{Engine, HURRIED, World, WorldOptions, http_with, told, wait_until};

const SOON: Duration = Duration::from_secs(60);
/// How the mock carrier writes its files, in Tunis. Alone: no questions, no repeats, no messages.
const FILE: &str = r#"
[proof.file]
absence = "not_applied"
settle = "10m"

[file]
rows = { header = "H", detail = "D", trailer = "T" }
covers = { from = 2, until = 3, as = "local" }
columns = { our_ref = 2, status = 3, carrier_txn_id = 4, amount = 5, amount_as = "minor", currency = 6, msisdn = 7, at = 8 }
status = [ { is = "charge", then = "charged" }, { is = "refund", then = "refunded" }, { is = "refused", then = "declined:no_funds" } ]
trailer = { currency = 2, count = 3, sum = 4 }

[[file.example]]
text = "H,2026-12-01T00:00:00,2026-12-02T00:00:00\nT,TND,0,0\n"
rows = 0
complete = true
"#;
const APPLIED: &str = r#"{"reset_applied_ppm":1000000,"fault_times":0}"#;
const NOT_APPLIED: &str = r#"{"reset_not_applied_ppm":1000000}"#;

fn world(name: &str, behaviour: &'static str) -> World {
    let options = WorldOptions { behaviour, scale: 2, engine_toml: HURRIED, ..WorldOptions::default() };
    let world = World::start(name, &options);
    let path = world.book.dir.join("carriers/medina.toml");
    let carrier = std::fs::read_to_string(&path).unwrap();
    std::fs::write(path, carrier + FILE).unwrap();
    std::fs::create_dir_all(world.dir.join("files")).unwrap();
    world
}

fn idle(engine: &Engine) -> bool {
    engine.status()["worker"]["in_flight"].as_u64() == Some(0)
}

/// Charges whose answers are lost.
fn lost(name: &str, behaviour: &'static str, rows: u32) -> (World, Engine) {
    let world = world(name, behaviour);
    world.import_rows("medina-kids-daily", 0, rows, "2026-12-01");
    let engine = world.serve("engine");
    wait_until("their answers are lost", SOON, || unknown(&world) == i64::from(rows) && idle(&engine));
    (world, engine)
}

fn all_agrees(world: &World, engine: Engine) {
    wait_until("nothing is on its way", SOON, || {
        idle(&engine) && world.number("SELECT count(*) FROM shard_inbox") == 0
    });
    world.compare();
    assert!(engine.terminate().1);
    world.check();
}

fn unknown(world: &World) -> i64 {
    world.number("SELECT count(*) FROM attempt_open WHERE kind = 2")
}

fn approved(world: &World) -> i64 {
    world.number("SELECT count(*) FROM attempt_outcome WHERE class = 5")
}

fn now_us(world: &World) -> i64 {
    world.number("SELECT us(clock_timestamp())")
}

/// Absence has begun to count for every unknown attempt: 2 s and the reply timeout after its last write.
fn settled(world: &World) {
    wait_until("absence counts", SOON, || {
        world.number(
            "SELECT count(*) FROM attempt_open WHERE kind = 2 AND since > now() - interval '4 seconds'",
        ) == 0
    });
}

/// The resolver looked at every unknown attempt, twice, and none of them is settled.
fn looked_in_vain(world: &World, rows: i64) {
    for _ in 0..2 {
        let before = now_us(world);
        wait_until("the resolver looks again", SOON, || {
            // A look postpones the next by a second at least.
            let looks = world.block(async {
                let next = sqlx::query_scalar("SELECT us(min(next_ask_at)) FROM attempt_open WHERE kind = 2");
                let next: Option<i64> = next.fetch_one(&mut world.conn().await).await.unwrap();
                next
            });
            looks.is_none_or(|next| next > before + 900_000)
        });
    }
    assert_eq!(unknown(world), rows);
}

/// A file ends with a whole second, and what is unknown by now is to be in it.
fn second_over(world: &World) {
    wait_until("the second is over", SOON, || {
        world.number(
            "SELECT count(*) FROM attempt_open WHERE since >= date_trunc('second', clock_timestamp())",
        ) == 0
    });
}

/// An hour that ends with the second in which the last of them became unknown: before absence counts for any.
fn early(world: &World) -> (i64, i64) {
    second_over(world);
    let until =
        world.number("SELECT us(date_trunc('second', max(since)) + interval '1 second') FROM attempt_open");
    (until - 3_600_000_000, until)
}

/// The mock's file from an hour before `until` (now, if left out) on.
fn written(world: &World, name: &str, fault: Option<&str>, span_us: Option<(i64, i64)>) -> PathBuf {
    let path = world.dir.join("files").join(name);
    second_over(world);
    let (from_us, until_us) = span_us.unwrap_or_else(|| {
        let now = now_us(world);
        (now - 3_600_000_000, now)
    });
    let wanted = serde_json::json!({
        "path": path, "from_us": from_us, "until_us": until_us, "zone": "Africa/Tunis", "fault": fault,
    });
    let answer = http_with(&world.mock.address, "POST", "/_mock/reconciliation", "", &wanted.to_string());
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    path
}

/// Takes a file in: whether it counts, and what the command said.
fn take(world: &World, path: &std::path::Path) -> (bool, serde_json::Value) {
    let output =
        world.run(&["ops", "file", path.to_str().unwrap(), "--carrier", "medina", "--as", "ana", "--json"]);
    let said = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", told(&output)));
    (output.status.success(), said)
}

fn explain(world: &World) -> String {
    let row = world.block(async {
        sqlx::query("SELECT subscription_id, period FROM attempt_intent ORDER BY 1, 2, attempt_no LIMIT 1")
            .fetch_one(&mut world.conn().await)
            .await
            .unwrap()
    });
    let charge = ChargeId {
        subscription: SubscriptionId(row.get(0)),
        period: Period::from_number(row.get(1)).unwrap(),
    };
    told(&world.run(&["explain", &charge.to_string()]))
}

#[test]
fn what_a_complete_file_names_is_settled_at_once_and_the_same_file_again_changes_nothing() {
    let (world, engine) = lost("flpresent", APPLIED, 12);
    let day = told(&world.run(&["ops", "cases"]));
    assert!(day.contains("file of "), "{day}");
    let story = explain(&world);
    assert!(story.contains("It waits for the file of "), "{story}");
    // Rows of a file that is cut off or lacks one say nothing, however true they are.
    for (fault, flaw) in [("truncated", "line 9: "), ("row_lost", "the trailer counts 12 rows, there are 11")]
    {
        let (fine, said) = take(&world, &written(&world, &format!("{fault}.csv"), Some(fault), None));
        assert!(!fine && said["given"] == 0, "{said}");
        assert!(said["state"] == "incomplete" && said["why"].as_str().unwrap().contains(flaw), "{said}");
    }
    looked_in_vain(&world, 12);
    let file = written(&world, "first.csv", None, None);
    let (fine, said) = take(&world, &file);
    assert!(fine, "{said}");
    assert_eq!((said["state"].as_str(), said["rows"].as_i64()), (Some("complete"), Some(12)), "{said}");
    assert_eq!((said["given"].as_i64(), said["agreed"].as_i64()), (Some(12), Some(0)), "{said}");
    wait_until("12 approved", SOON, || approved(&world) == 12);
    assert_eq!(world.number("SELECT count(*) FROM attempt_intent"), 12, "no second key");
    // The same bytes again, under another name too.
    let before = world.number("SELECT count(*) FROM attempt_outcome");
    let copy = world.dir.join("files/again.csv");
    std::fs::copy(&file, &copy).unwrap();
    for path in [&file, &copy] {
        let (fine, said) = take(&world, path);
        assert!(fine && said["again"] == true && said["given"] == 12, "{said}");
    }
    assert_eq!(world.number("SELECT count(*) FROM attempt_outcome"), before);
    assert_eq!(world.number("SELECT count(*) FROM carrier_file"), 3);
    assert_eq!(world.number("SELECT count(*) FROM audit_log WHERE act = 'file'"), 3);
    // A later file of another span says what is recorded by now.
    let (fine, said) = take(&world, &written(&world, "later.csv", None, None));
    assert!(fine && said["agreed"] == 12 && said["given"] == 0, "{said}");
    let story = explain(&world);
    for words in ["file.told", "the carrier's file", "settle.full", "first.csv, line "] {
        assert!(story.contains(words), "{words} is not told:\n{story}");
    }
    assert!(!story.contains(&world.number_of(0)[2..]), "{story}");
    let listed = told(&world.run(&["ops", "files"]));
    assert!(listed.contains("complete") && listed.contains("medina"), "{listed}");
    // Nothing of the file lies in the database in clear.
    assert_eq!(
        world
            .number("SELECT count(*) FROM carrier_file_chunk WHERE position('2162000'::bytea in sealed) > 0"),
        0
    );
    assert_eq!(world.number("SELECT count(*) FROM case_file"), 0);
    all_agrees(&world, engine);
}

#[test]
fn what_went_to_people_is_settled_by_a_file_that_comes_late_and_names_it() {
    let world = world("flreview", APPLIED);
    // Such a carrier proves nothing by absence: what is unknown goes to people.
    world.book.change(
        "carriers/medina.toml",
        "[proof.file]\nabsence = \"not_applied\"\nsettle = \"10m\"\n",
        "",
    );
    world.import_rows("medina-kids-daily", 0, 4, "2026-12-01");
    let engine = world.serve("engine");
    wait_until("people have them", SOON, || {
        world.number("SELECT count(*) FROM attempt_open WHERE kind = 3") == 4 && idle(&engine)
    });
    let (fine, said) = take(&world, &written(&world, "late.csv", None, None));
    assert!(fine && said["given"] == 4, "{said}");
    wait_until("the file settles them", SOON, || approved(&world) == 4);
    assert_eq!(world.number("SELECT count(*) FROM attempt_open"), 0);
    assert_eq!(world.number("SELECT count(*) FROM attempt_intent"), 4, "no second key");
    all_agrees(&world, engine);
}

#[test]
fn absence_counts_only_in_complete_files_that_cover_it_and_late_enough() {
    let (world, engine) = lost("flabsent", NOT_APPLIED, 6);
    // Complete, but it ends before absence counts.
    let (from, until) = early(&world);
    let (fine, said) = take(&world, &written(&world, "early.csv", None, Some((from, until))));
    assert!(fine && said["state"] == "complete", "{said}");
    settled(&world);
    looked_in_vain(&world, 6);
    for (fault, flaw) in [
        ("truncated", "the header does not say"),
        ("no_trailer", "no trailer"),
        ("wrong_count", "the trailer counts 1 rows, there are 0"),
        ("wrong_sum", "the trailer's sum is 1 minor units"),
    ] {
        let path = written(&world, &format!("{fault}.csv"), Some(fault), None);
        let (fine, said) = take(&world, &path);
        assert!(!fine && said["state"] == "incomplete", "{fault}: {said}");
        assert!(said["why"].as_str().unwrap().contains(flaw), "{fault}: {said}");
    }
    looked_in_vain(&world, 6);
    // Together they leave a second open; and what is still to come no file can cover.
    let (fine, said) =
        take(&world, &written(&world, "short.csv", None, Some((until + 1_000_000, now_us(&world)))));
    assert!(fine, "{said}");
    let ahead = (from, now_us(&world) + 3_600_000_000);
    let (fine, said) = take(&world, &written(&world, "ahead.csv", None, Some(ahead)));
    assert!(!fine && said["why"].as_str().unwrap().contains("not passed yet"), "{said}");
    looked_in_vain(&world, 6);
    world.mock.behave(r#"{"reset_not_applied_ppm":0}"#);
    // Nor one whose keys are none of ours: it may write them in another way.
    let (fine, said) =
        take(&world, &made(&world, "mangled.csv", &[("TB-0001", "charge", 500, "TND", "21620000001")]));
    assert!(fine && said["why"].as_str().unwrap().contains("none of its rows"), "{said}");
    looked_in_vain(&world, 6);
    let (fine, said) = take(&world, &written(&world, "whole.csv", None, None));
    assert!(fine, "{said}");
    wait_until("they were not applied and are charged under a new key", SOON, || approved(&world) == 6);
    assert_eq!(
        world.number("SELECT count(*) FROM attempt_outcome WHERE class = 8 AND attempt_no = 1"),
        6,
        "not applied"
    );
    let story = explain(&world);
    assert!(story.contains("resolve.file_absent"), "{story}");
    all_agrees(&world, engine);
}

#[test]
fn two_files_of_one_span_that_differ_prove_nothing_until_another_comes() {
    let (world, engine) = lost("flconflict", APPLIED, 8);
    let (from, until) = early(&world);
    let span = Some((from, until));
    let (fine, said) = take(&world, &written(&world, "half.csv", Some("rows_missing"), span));
    assert!(fine && said["given"] == 4, "{said}");
    wait_until("half of them", SOON, || approved(&world) == 4);
    let (fine, said) = take(&world, &written(&world, "other.csv", None, span));
    assert!(!fine && said["state"] == "contradicts", "{said}");
    assert_eq!((said["given"].as_i64(), said["agreed"].as_i64()), (Some(0), Some(4)), "{said}");
    assert_eq!(world.number("SELECT count(*) FROM carrier_file WHERE state = 4"), 2, "the first one, too");
    let listed = told(&world.run(&["ops", "cases"]));
    assert!(listed.contains("other content"), "{listed}");
    settled(&world);
    looked_in_vain(&world, 4);
    // Even a complete file without them: the one that proves nothing names them.
    let (fine, said) = take(&world, &written(&world, "late.csv", Some("rows_missing"), None));
    assert!(fine, "{said}");
    looked_in_vain(&world, 4);
    let (fine, said) =
        take(&world, &written(&world, "last.csv", None, Some((from - 3_600_000_000, now_us(&world)))));
    assert!(fine && said["given"] == 4, "{said}");
    wait_until("all of them", SOON, || approved(&world) == 8);
    all_agrees(&world, engine);
}

/// Our key, the line's number, the amount and the carrier's id of the first attempts, by subscription.
struct Known {
    our_ref: String,
    number: String,
    amount: i64,
}

fn known(world: &World) -> Vec<Known> {
    world.block(async {
        let rows = sqlx::query(
            "SELECT i.subscription_id, i.period, i.amount_minor, s.ref_seed FROM attempt_intent i
               JOIN subscription s ON s.id = i.subscription_id WHERE i.attempt_no = 1 ORDER BY 1",
        );
        let rows = rows.fetch_all(&mut world.conn().await).await.unwrap();
        let vault = storage::vault::Vault::open_or_create(&world.dir.join("data/secrets")).unwrap();
        let mut conn = world.conn().await;
        let mut known = Vec::new();
        for row in rows {
            let (due, _) = storage::pg::load(&mut conn, &[row.get(0)]).await.unwrap();
            let key = vault.subscriber_key(&due[0].key_salt, due[0].kek_version).unwrap();
            let aad = storage::pg::msisdn_aad(due[0].sub.subscriber_id);
            let number = String::from_utf8(key.open(&aad, &due[0].msisdn_ct).unwrap()).unwrap();
            let period = Period::from_number(row.get(1)).unwrap();
            let our_ref = OurRef::new(RefSeed(row.get(3)), period, 1).unwrap().to_string();
            known.push(Known { our_ref, number, amount: row.get(2) });
        }
        known
    })
}

/// A whole file of these rows: key, status, amount, currency, number.
fn made(world: &World, name: &str, rows: &[(&str, &str, i64, &str, &str)]) -> PathBuf {
    let now = world.block(async {
        let now = "SELECT to_char(now() AT TIME ZONE 'Africa/Tunis', 'YYYY-MM-DD\"T\"HH24:MI:SS')";
        let now: String = sqlx::query_scalar(now).fetch_one(&mut world.conn().await).await.unwrap();
        now
    });
    let from = "2026-01-01T00:00:00".max(&now[..10]).to_owned();
    let from = if from.len() == 10 { format!("{from}T00:00:00") } else { from };
    let at = &from;
    let mut text = format!("H,{from},{now}\n");
    let mut sums = std::collections::BTreeMap::from([("TND", (0, 0))]);
    for (line, (key, status, amount, currency, number)) in rows.iter().enumerate() {
        let sum = sums.entry(*currency).or_insert((0, 0));
        *sum = (sum.0 + 1, sum.1 + amount);
        text += &format!("D,{key},{status},f-made-{name}-{line},{amount},{currency},{number},{at}\n");
    }
    for (currency, (count, sum)) in sums {
        text += &format!("T,{currency},{count},{sum}\n");
    }
    let path = world.dir.join("files").join(name);
    std::fs::write(&path, text).unwrap();
    path
}

#[test]
fn rows_are_matched_on_key_amount_currency_and_line_or_people_look_at_them() {
    let (world, engine) = lost("flmismatch", APPLIED, 5);
    let all = known(&world);
    let nobody =
        OurRef::new(RefSeed(77), Period::from_number(world_period(&world)).unwrap(), 1).unwrap().to_string();
    let (a, b, c, d, e) = (&all[0], &all[1], &all[2], &all[3], &all[4]);
    let file = made(
        &world,
        "odd.csv",
        &[
            (&a.our_ref, "charge", a.amount + 1, "TND", &a.number),
            (&b.our_ref, "charge", b.amount, "EUR", &b.number),
            (&c.our_ref, "charge", c.amount, "TND", &d.number),
            (&d.our_ref, "refund", d.amount, "TND", &d.number),
            // Each by itself would be evidence.
            (&e.our_ref, "charge", e.amount, "TND", &e.number),
            (&nobody, "charge", 500, "TND", &a.number),
            (&e.our_ref, "charge", e.amount, "TND", &e.number),
            ("INVOICE-17", "charge", 500, "TND", &a.number),
            (&d.number, "charge", 500, "TND", &a.number),
        ],
    );
    let (fine, said) = take(&world, &file);
    assert!(fine, "{said}");
    assert_eq!(
        (
            said["conflicts"].as_i64(),
            said["orphans"].as_i64(),
            said["foreign"].as_i64(),
            said["given"].as_i64()
        ),
        (Some(6), Some(1), Some(2), Some(0)),
        "{said}"
    );
    assert_eq!(world.number("SELECT count(*) FROM case_file WHERE kind = 'file_mismatch'"), 5);
    assert_eq!(
        world.number(
            "SELECT count(*) FROM case_file WHERE what LIKE 'odd.csv (file 1) names this attempt in more than one row'"
        ),
        1
    );
    let listed = told(&world.run(&["ops", "cases"]));
    assert!(listed.contains("file_mismatch") && listed.contains("1 orphan"), "{listed}");
    let shown = told(&world.run(&["ops", "files", "1"]));
    assert!(shown.contains(&nobody) && shown.contains("INVOICE-17") && shown.contains("orphan"), "{shown}");
    // Absence does not count for who is named, however wrong.
    settled(&world);
    looked_in_vain(&world, 5);
    let (fine, said) = take(&world, &written(&world, "true.csv", None, None));
    assert!(fine && said["given"] == 5, "{said}");
    wait_until("the true file settles them", SOON, || approved(&world) == 5);
    all_agrees(&world, engine);
}

fn world_period(world: &World) -> i32 {
    i32::try_from(world.number("SELECT max(period)::int8 FROM attempt_intent")).unwrap()
}

#[test]
fn a_file_of_nothing_of_another_carrier_or_of_no_dialect_is_refused() {
    let world = world("flrefused", "{}");
    world.import_rows("medina-kids-daily", 0, 1, "2026-12-01");
    let empty = world.dir.join("files/empty.csv");
    std::fs::write(&empty, "").unwrap();
    for (path, carrier, expected) in [
        (empty.to_str().unwrap(), "medina", "is empty"),
        ("/nowhere/at/all.csv", "medina", "cannot read"),
        ("/dev/zero", "medina", "is not a regular file"),
        (empty.to_str().unwrap(), "hoshi", "there is no carrier \"hoshi\""),
    ] {
        let output = world.run(&["ops", "file", path, "--carrier", carrier]);
        assert!(!output.status.success() && told(&output).contains(expected), "{}", told(&output));
    }
    // While a failover is cleared up, attempts of ours may be missing.
    let hold = |kind: &str| world.as_superuser(&format!("UPDATE shard_owner SET held = {kind}"));
    let early = written(&world, "early.csv", None, None);
    hold("1");
    let output = world.run(&["ops", "file", early.to_str().unwrap(), "--carrier", "medina"]);
    assert!(
        told(&output).contains("are held after a failover") && !output.status.success(),
        "{}",
        told(&output)
    );
    assert_eq!(world.number("SELECT count(*) FROM carrier_file"), 0);
    hold("2");
    assert!(take(&world, &early).0);
    // Bytes that are no file at all are kept, and prove nothing.
    let noise = world.dir.join("files/noise.csv");
    std::fs::write(
        &noise,
        (0_u32..50_000).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect::<Vec<_>>(),
    )
    .unwrap();
    let (fine, said) = take(&world, &noise);
    assert!(!fine && said["state"] == "incomplete" && said["rows"] == 0, "{said}");
}

const POOR: &str = r#"{"max_amount_minor":100,"reset_applied_ppm":0}"#;
const RICH: &str = r#"{"max_amount_minor":null}"#;

fn in_review(world: &World) -> Vec<String> {
    let cases = world.run(&["ops", "cases", "--json"]);
    let cases: serde_json::Value = serde_json::from_slice(&cases.stdout).unwrap();
    let all = cases["attempts"].as_array().unwrap().iter();
    all.map(|one| one["attempt"].as_str().unwrap().to_owned()).collect()
}

/// Ana proposes it and Ben approves.
fn decided(world: &World, attempt: &str, outcome: &str) {
    let why = "the carrier's statement of December";
    let proposed = world.run(&[
        "ops",
        "propose",
        attempt,
        "--outcome",
        outcome,
        "--reason",
        why,
        "--as",
        "ana",
        "--json",
    ]);
    assert!(proposed.status.success(), "{}", told(&proposed));
    let proposed: serde_json::Value = serde_json::from_slice(&proposed.stdout).unwrap();
    let number = proposed["proposal"].to_string();
    for (name, fine) in [("ana", false), ("ben", true)] {
        let approved = world.run(&["ops", "approve", &number, "--as", name, "--yes"]);
        assert_eq!(approved.status.success(), fine, "{name}: {}", told(&approved));
    }
}

#[test]
fn money_against_the_record_blocks_its_charge_until_two_people_adopt_it() {
    let (world, engine) = lost("fladopt", APPLIED, 3);
    // People are wrong about them, and the next attempts are refused.
    world.mock.behave(POOR);
    for attempt in in_review(&world) {
        decided(&world, &attempt, "not-applied");
    }
    wait_until("they were tried again and refused", SOON, || {
        world.number("SELECT count(*) FROM attempt_outcome WHERE class = 6 AND attempt_no = 2") == 3
            && idle(&engine)
    });
    let (fine, said) = take(&world, &written(&world, "true.csv", None, None));
    assert!(fine && said["conflicts"] == 3 && said["given"] == 0, "{said}");
    wait_until("their charges are blocked", SOON, || {
        world.number("SELECT count(*) FROM attempt_open WHERE kind = 3 AND attempt_no = 3") == 3
    });
    assert_eq!(world.number("SELECT count(*) FROM attempt_intent WHERE op = 6 AND parent_no = 1"), 3);
    assert_eq!(world.number("SELECT count(*) FROM case_file WHERE kind = 'conflict' AND attempt_no = 1"), 3);
    assert_eq!(world.number("SELECT count(*) FROM attempt_outcome WHERE class = 8 AND attempt_no = 1"), 3);
    assert_eq!(world.number("SELECT count(*) FROM subscription WHERE open = 3"), 3);
    world.compare();
    world.check();
    // It is adopted or not ours, nothing else.
    let blocked = in_review(&world);
    let other = world.run(&["ops", "propose", &blocked[0], "--outcome", "approved", "--reason", "x"]);
    assert!(!other.status.success() && told(&other).contains("--outcome adopt"), "{}", told(&other));
    for attempt in &blocked {
        decided(&world, attempt, "adopt");
    }
    wait_until("the money is in the books", SOON, || {
        world.number(
            "SELECT count(*) FROM attempt_outcome WHERE class = 5 AND attempt_no = 3 AND rule_id = 71
                AND moved_minor = 500 AND collected_after = 500",
        ) == 3
    });
    assert_eq!(world.number("SELECT count(*) FROM entitlement_grant WHERE attempt_no = 3"), 3);
    assert_eq!(world.number("SELECT count(*) FROM attempt_open"), 0);
    assert_eq!(world.mock.applied(), 3, "nothing was sent for it");
    // Another file says what is recorded by now: no other case.
    let (fine, _) = take(&world, &written(&world, "later.csv", None, None));
    assert!(fine);
    let story = explain(&world);
    for words in ["Attempt 3: adopt 0.500 TND", "adopt.found", "true.csv, line ", "adopt.settled", "Paid: "] {
        assert!(story.contains(words), "{words} is not told:\n{story}");
    }
    wait_until("the inbox is empty", SOON, || world.number("SELECT count(*) FROM shard_inbox") == 0);
    assert_eq!(world.number("SELECT count(*) FROM case_file"), 3);
    all_agrees(&world, engine);
}

#[test]
fn evidence_that_is_not_ours_unblocks_and_what_was_collected_already_is_not_adopted() {
    let world = world("flnotours", POOR);
    world.import_rows("medina-kids-daily", 0, 2, "2026-12-01");
    let engine = world.serve("engine");
    wait_until("they are refused", SOON, || {
        world.number("SELECT count(*) FROM attempt_outcome WHERE class = 6") == 2 && idle(&engine)
    });
    let all = known(&world);
    let rows: Vec<_> = all
        .iter()
        .map(|one| (one.our_ref.as_str(), "charge", one.amount, "TND", one.number.as_str()))
        .collect();
    let (fine, said) = take(&world, &made(&world, "lie.csv", &rows));
    assert!(fine && said["conflicts"] == 2, "{said}");
    wait_until("they are blocked", SOON, || {
        world.number("SELECT count(*) FROM attempt_open WHERE kind = 3 AND attempt_no = 2") == 2
    });
    world.mock.behave(RICH);
    // Dead and back: the block stands.
    engine.kill9();
    let engine = world.serve("second");
    decided(&world, &in_review(&world)[0], "not-ours");
    wait_until("it goes on under a new key", SOON, || {
        world.number(
            "SELECT count(*) FROM attempt_outcome WHERE class = 8 AND attempt_no = 2 AND rule_id = 108",
        ) == 1
            && world.number("SELECT count(*) FROM attempt_outcome WHERE class = 5 AND attempt_no = 3") == 1
    });
    assert_eq!(world.number("SELECT count(*) FROM attempt_open WHERE kind = 3"), 1, "the other one stays");
    wait_until("nothing is on its way", SOON, || idle(&engine));
    // The same story once more: people decided about it, and the charge is paid.
    let before = world.number("SELECT count(*) FROM case_file");
    let (fine, said) = take(&world, &made(&world, "lie-again.csv", &rows));
    assert!(fine && said["conflicts"] == 2, "{said}");
    wait_until("a case each", SOON, || {
        world.number("SELECT count(*) FROM case_file") == before + 2
            && world.number("SELECT count(*) FROM shard_inbox") == 0
    });
    assert_eq!(world.number("SELECT count(*) FROM attempt_intent WHERE op = 6"), 2);
    world.compare();
    assert!(engine.terminate().1);
    world.check();
}
