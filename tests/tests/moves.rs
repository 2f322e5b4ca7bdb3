//! Moves to another zone, day, plan and carrier, end to end on real parts: no period is skipped and none is charged twice.
//! The carriers' own ledgers are the second opinion.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use billing_core::ids::SubscriptionId;
use billing_core::period::Period;
use loadtest::compare::CarrierLedger;
use scheduler::MoveRequest;
use tests::{Engine, Mock, World, WorldOptions, wait_until};

const SOON: Duration = Duration::from_secs(60);

/// A plan of 0.500 at six in the morning, a day or a week each.
fn plan(world: &World, id: &str, carrier: &str, every: &str) {
    let text = format!(
        "merchant = \"demo\"\nservice = \"kids\"\ncarrier = \"{carrier}\"\ntext = \"Kids stories\"\nprice = \"0.500 TND\"\n\
         [schedule]\nevery = \"{every}\"\nat = \"06:00\"\nwindow = [\"06:00\", \"22:00\"]\n[lifecycle]\nlate_approved = \"past\"\n"
    );
    world.book.write_plan(id, &text);
}

fn start(name: &str, options: &WorldOptions) -> World {
    let world = World::start(name, options);
    let zones = "zones = [\"Africa/Tunis\", \"Asia/Tokyo\", \"America/Sao_Paulo\"]";
    world.book.change("carriers/medina.toml", "zones = [\"Africa/Tunis\"]", zones);
    plan(&world, "daily", "medina", "day");
    plan(&world, "weekly", "medina", "week");
    world
}

fn approved(world: &World) -> i64 {
    world.number("SELECT count(*) FROM attempt_outcome WHERE class = 5")
}

/// The subscriptions of the world, by their lines in the list.
fn subscriptions(world: &World) -> Vec<SubscriptionId> {
    let ids: Vec<i64> = world.block(async {
        sqlx::query_scalar("SELECT id FROM subscription ORDER BY id")
            .fetch_all(&mut world.conn().await)
            .await
            .unwrap()
    });
    ids.into_iter().map(SubscriptionId).collect()
}

/// The local dates for which it was charged, in the sequence of time.
fn charged(world: &World, id: SubscriptionId) -> Vec<String> {
    let periods: Vec<i32> = world.block(async {
        sqlx::query_scalar(
            "SELECT period FROM attempt_outcome WHERE subscription_id = $1 AND class = 5 ORDER BY period",
        )
        .bind(id.0)
        .fetch_all(&mut world.conn().await)
        .await
        .unwrap()
    });
    periods.into_iter().map(|period| Period::from_number(period).unwrap().date().to_string()).collect()
}

fn toll(world: &World, args: &[&str]) -> serde_json::Value {
    let output = world.run(&[args, &["--json"]].concat());
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{args:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_str(&text).unwrap()
}

fn moved(world: &World, id: SubscriptionId, how: &[&str]) -> serde_json::Value {
    toll(world, &[&["sub", "move", &id.to_string(), "--yes"], how].concat())
}

fn carried_out(world: &World, id: SubscriptionId, how: &[&str]) -> serde_json::Value {
    let told = moved(world, id, how);
    assert_eq!((&told["asked"], &told["carried_out"]), (&true.into(), &true.into()), "{told}");
    let again = moved(world, id, how);
    assert_eq!((&again["asked"], &again["carried_out"]), (&false.into(), &true.into()), "{again}");
    told
}

/// Nothing is quarantined, nobody was asked to look, the ledger balances.
fn settled(world: &World) {
    assert_eq!(world.number("SELECT count(*) FROM case_file"), 0, "there are cases");
    assert_eq!(world.number("SELECT count(*) FROM subscription WHERE flags <> 0"), 0);
    assert_eq!(world.number("SELECT coalesce(sum(posted), 0)::int8 FROM account_balance"), 0);
    assert_eq!(world.number("SELECT count(*) FROM shard_inbox"), 0);
}

#[test]
fn a_move_to_another_zone_in_mid_period_is_charged_once_each_local_day() {
    let world = start("movezone", &WorldOptions::default());
    world.import_rows("daily", 0, 4, "2026-12-01");
    let engine = world.serve("engine");
    wait_until("the first day", SOON, || approved(&world) == 4);
    let subs = subscriptions(&world);
    let (east, west, late) = (subs[0], subs[1], subs[2]);
    // Without --yes nothing happens.
    let ahead = toll(&world, &["sub", "move", &east.to_string(), "--zone", "Asia/Tokyo"]);
    assert_eq!((&ahead["asked"], &ahead["charge_after"]), (&false.into(), &"20261202".into()), "{ahead}");
    let at = |which: &str| ahead[which]["at"].as_str().unwrap().to_owned();
    assert!(at("next_after") < at("next_before"), "{ahead}");
    let told = carried_out(&world, east, &["--zone", "Asia/Tokyo"]);
    assert_eq!((&told["zone"], &told["charge_after"]), (&"Asia/Tokyo".into(), &"20261202".into()));
    carried_out(&world, west, &["--zone", "America/Sao_Paulo"]);
    assert_eq!(world.number("SELECT count(*) FROM subscriber WHERE zone_no <> (SELECT zone_no FROM zone WHERE name = 'Africa/Tunis')"), 2);
    // Six in the morning in Tokyo, in Tunis, in São Paulo.
    world.set_business("2026-12-01T21:30:00Z", 1);
    wait_until("the east", SOON, || approved(&world) == 5);
    assert_eq!(charged(&world, east), ["2026-12-01", "2026-12-02"]);
    world.set_business("2026-12-02T06:00:00Z", 1);
    wait_until("the middle", SOON, || approved(&world) == 7);
    assert_eq!(charged(&world, west), ["2026-12-01"]);
    world.set_business("2026-12-02T10:00:00Z", 1);
    wait_until("the west", SOON, || approved(&world) == 8);
    // While no worker is alive it waits, and the first to come carries it out.
    assert!(engine.terminate().1);
    let told = moved(&world, late, &["--zone", "Asia/Tokyo"]);
    assert_eq!((&told["asked"], &told["carried_out"]), (&true.into(), &false.into()), "{told}");
    let _engine = world.serve("second");
    wait_until("it is carried out", SOON, || world.number("SELECT count(*) FROM shard_inbox") == 0);
    world.set_business("2026-12-02T21:30:00Z", 1);
    wait_until("the east's third day", SOON, || approved(&world) == 10);
    world.set_business("2026-12-03T10:00:00Z", 1);
    wait_until("the third day everywhere", SOON, || approved(&world) == 12);
    for id in subs {
        assert_eq!(charged(&world, id), ["2026-12-01", "2026-12-02", "2026-12-03"], "{id}");
    }
    // It is told why the second day's charge fell due when it did.
    let why = world.run(&["explain", &format!("ch_{}-20261202", &east.to_string()[4..])]);
    let why = String::from_utf8_lossy(&why.stdout).into_owned();
    assert!(why.contains("move.zone") && why.contains("the subscriber moved to another time zone"), "{why}");
    settled(&world);
    world.compare();
    world.check();
}

#[test]
fn another_day_and_another_plan_start_where_the_paid_period_ends() {
    let world = start("moveday", &WorldOptions::default());
    world.import_rows("weekly", 0, 2, "2026-12-01");
    world.import_rows("daily", 10, 1, "2026-12-01");
    let _engine = world.serve("engine");
    wait_until("the first charges", SOON, || approved(&world) == 3);
    let of = |plan: &str| {
        let ids = toll(&world, &["sub", "show", "--reference", "demo", plan]);
        ids["subscriptions"][0]["subscription"].as_str().unwrap().parse::<SubscriptionId>().unwrap()
    };
    let (tuesday, friday, daily) = (of("ref-weekly-0"), of("ref-weekly-1"), of("ref-daily-10"));
    // A Friday, and two hours later: the week that is paid ends on Tuesday the 8th.
    let told = carried_out(&world, friday, &["--anchor-day", "2026-12-04", "--at", "08:00"]);
    assert_eq!(told["charge_after"], "20261211", "{told}");
    let told = carried_out(&world, daily, &["--plan", "weekly"]);
    assert_eq!((&told["plan"], &told["charge_after"]), (&"weekly".into(), &"20261202".into()), "{told}");
    assert_eq!(
        world.number("SELECT count(*) FROM subscription WHERE paid_until_ms < next_at_ms"),
        0,
        "no hole in access"
    );
    for (at, sum) in [
        ("2026-12-02T10:00:00Z", 4),
        ("2026-12-08T10:00:00Z", 5),
        ("2026-12-09T10:00:00Z", 6),
        ("2026-12-11T10:00:00Z", 7),
        ("2026-12-15T10:00:00Z", 8),
        ("2026-12-16T10:00:00Z", 9),
        ("2026-12-18T10:00:00Z", 10),
    ] {
        world.set_business(at, 1);
        wait_until(at, SOON, || approved(&world) == sum);
    }
    assert_eq!(charged(&world, tuesday), ["2026-12-01", "2026-12-08", "2026-12-15"]);
    assert_eq!(charged(&world, friday), ["2026-12-01", "2026-12-11", "2026-12-18"]);
    assert_eq!(charged(&world, daily), ["2026-12-01", "2026-12-02", "2026-12-09", "2026-12-16"]);
    let hour = "SELECT count(*) FROM attempt_intent WHERE not_before_ms % 86400000 / 3600000 = 7";
    assert_eq!(world.number(hour), 2, "at eight in Tunis");
    settled(&world);
    world.compare();
    world.check();
}

#[test]
fn while_a_result_is_not_known_nothing_moves() {
    let options = WorldOptions { behaviour: r#"{"wrong_amount_ppm":1000000}"#, ..WorldOptions::default() };
    let world = start("moveopen", &options);
    world.import_rows("daily", 0, 1, "2026-12-01");
    let _engine = world.serve("engine");
    wait_until("it is unknown", SOON, || {
        world.number("SELECT count(*) FROM subscription WHERE open = 2") == 1
    });
    let id = subscriptions(&world)[0];
    let rev = world.number("SELECT rev::int8 FROM subscription");
    for how in [["--zone", "Asia/Tokyo"], ["--at", "08:00"], ["--plan", "weekly"]] {
        let output = world.run(&[&["sub", "move", &id.to_string(), "--yes"], how.as_slice()].concat());
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && text.contains("attempt 1 for 20261201 is not known"), "{text}");
    }
    // The owner refuses it by the same rule, and people are told.
    let payload = MoveRequest::Plan("weekly".to_owned()).encode().unwrap();
    world.block(async {
        storage::pg::ask_move(&mut world.conn().await, id.0, &payload, false).await.unwrap();
    });
    wait_until("a case", SOON, || {
        world.number(
            "SELECT count(*) FROM case_file WHERE kind = 'move_refused' AND what LIKE '%not known yet%'",
        ) == 1
    });
    assert_eq!(world.number("SELECT count(*) FROM shard_inbox"), 0);
    assert_eq!(world.number("SELECT rev::int8 FROM subscription"), rev);
    // The next period began beside it: it can be moved now, and the unknown one stays what it is.
    world.mock.behave(r#"{"wrong_amount_ppm":0}"#);
    world.set_business("2026-12-02T09:00:00Z", 1);
    wait_until("the next day", SOON, || approved(&world) == 1);
    carried_out(&world, id, &["--plan", "weekly"]);
    world.set_business("2026-12-03T09:00:00Z", 1);
    wait_until("a week on the other plan", SOON, || approved(&world) == 2);
    assert_eq!(charged(&world, id), ["2026-12-02", "2026-12-03"]);
    assert_eq!(world.number("SELECT count(*) FROM attempt_open WHERE kind = 2"), 1);
}

/// A second carrier, and a plan on it.
fn second_carrier(world: &World) -> Mock {
    let text = std::fs::read_to_string(world.book.dir.join("carriers/medina.toml")).unwrap();
    let text = text.replace("\"medina\"", "\"sahel\"");
    std::fs::write(world.book.dir.join("carriers/sahel.toml"), text).unwrap();
    plan(world, "sahel-daily", "sahel", "day");
    Mock::start(&world.dir, "sahel", "flat", "TND", "{}")
}

fn serve(world: &World, sahel: &Mock, name: &str) -> Engine {
    let mut command = world.toll("data");
    command
        .args(["serve", "--listen", "127.0.0.1:0", "--carrier-base"])
        .arg(format!("medina=http://{}", world.mock.address))
        .arg("--carrier-base")
        .arg(format!("sahel=http://{}", sahel.address));
    Engine::start(&mut command, &world.dir.join(format!("{name}.log")))
}

#[test]
fn a_move_to_another_carrier_closes_one_and_opens_the_next_with_no_period_twice() {
    let world = start("movecarrier", &WorldOptions::default());
    let sahel = second_carrier(&world);
    world.import_rows("daily", 0, 3, "2026-12-01");
    let engine = serve(&world, &sahel, "engine");
    wait_until("the first day", SOON, || approved(&world) == 3);
    let subs = subscriptions(&world);
    let how = ["--to-carrier-plan", "sahel-daily"];
    let told = carried_out(&world, subs[0], &how);
    assert_eq!((&told["state"], &told["charge_after"]), (&"cancelled".into(), &"20261202".into()), "{told}");
    let next: SubscriptionId = told["successor"].as_str().unwrap().parse().unwrap();
    assert_eq!(moved(&world, subs[0], &how)["successor"], next.to_string());
    // Asked for again behind the command's back: still one.
    let payload =
        MoveRequest::Carrier { plan: "sahel-daily".into(), zone: "Africa/Tunis".into() }.encode().unwrap();
    // While no worker is alive it waits, however often it is asked for.
    assert!(engine.terminate().1);
    for _ in 0..2 {
        let told = moved(&world, subs[1], &how);
        assert_eq!((&told["asked"], &told["carried_out"]), (&true.into(), &false.into()), "{told}");
    }
    assert_eq!(world.number("SELECT count(*) FROM subscription"), 4);
    let _engine = serve(&world, &sahel, "second");
    wait_until("it is carried out", SOON, || {
        world.number("SELECT count(*) FROM shard_inbox") == 0
            && world.number("SELECT count(*) FROM subscription") == 5
    });
    // The second of two wishes found it closed: people are told that nothing more was done.
    assert_eq!(
        world.number(
            "SELECT count(*) FROM case_file WHERE kind = 'move_refused' AND what LIKE '%is cancelled%'"
        ),
        0
    );
    world.block(async {
        storage::pg::ask_move(&mut world.conn().await, subs[0].0, &payload, false).await.unwrap();
    });
    wait_until("it is dealt with", SOON, || world.number("SELECT count(*) FROM shard_inbox") == 0);
    assert_eq!(world.number("SELECT count(*) FROM subscription"), 5);
    // What is paid stays usable, and the next one knows.
    let followed = "SELECT count(*) FROM subscription a JOIN subscriber x ON x.id = a.subscriber_id
                      JOIN subscriber y ON y.msisdn_hmac = x.msisdn_hmac JOIN subscription b ON b.subscriber_id = y.id
                     WHERE a.state = 9 AND b.state = 4 AND a.paid_until_ms = b.paid_until_ms";
    assert_eq!(world.number(followed), 2);
    for (at, sum) in [("2026-12-02T09:00:00Z", 6), ("2026-12-03T09:00:00Z", 9)] {
        world.set_business(at, 1);
        wait_until(at, SOON, || approved(&world) == sum);
    }
    assert_eq!(charged(&world, subs[0]), ["2026-12-01"]);
    assert_eq!(charged(&world, next), ["2026-12-02", "2026-12-03"]);
    assert_eq!(charged(&world, subs[2]), ["2026-12-01", "2026-12-02", "2026-12-03"]);
    assert_eq!((world.mock.applied(), sahel.applied()), (5, 4));
    // The line is one number at both carriers, sealed under each subscriber's own key.
    assert_eq!(world.number("SELECT count(DISTINCT msisdn_hmac) FROM subscriber"), 3);
    assert_eq!(world.number("SELECT count(DISTINCT key_salt) FROM subscriber"), 5);
    settled(&world);
    sahel.sync();
    world.mock.sync();
    let ledger =
        |carrier: &str, mock: &Mock| CarrierLedger { carrier: carrier.to_owned(), path: mock.ledger.clone() };
    let ledgers = [ledger("medina", &world.mock), ledger("sahel", &sahel)];
    let comparison =
        world.block(async { loadtest::compare::compare(&mut world.conn().await, &ledgers).await.unwrap() });
    assert!(comparison.agrees(), "{comparison:#?}");
    let other = format!("sahel={}", sahel.ledger.display());
    let checked = world.checker("check.py").args(["--ledger", &other]).output().unwrap();
    assert!(checked.status.success(), "{}", tests::told(&checked));
}
