//! The life of a subscription beyond one charge, end to end on real parts: arrears, late evidence, trials, pauses,
//! top-ups, outages. The carrier's own ledger is the second opinion every time.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use billing_core::ids::SubscriptionId;
use tests::{Engine, World, WorldOptions, wait_until};

const SOON: Duration = Duration::from_secs(60);
/// The carrier refuses everything above this as over its limit.
const POOR: &str = r#"{"max_amount_minor":100}"#;
const RICH: &str = r#"{"max_amount_minor":null}"#;

/// A plan of 0.500 at six in the morning; `more` is the rest of its file, beginning inside `[schedule]`.
fn plan(world: &World, id: &str, more: &str) {
    let head = "merchant = \"demo\"\nservice = \"kids\"\ncarrier = \"medina\"\ntext = \"Kids stories\"\n\
                price = \"0.500 TND\"\n[schedule]\nat = \"06:00\"\nwindow = [\"06:00\", \"22:00\"]\n";
    world.book.write_plan(id, &format!("{head}{more}"));
}

fn poor(name: &str) -> World {
    World::start(name, &WorldOptions { behaviour: POOR, ..WorldOptions::default() })
}

fn approved(world: &World) -> i64 {
    world.number("SELECT count(*) FROM attempt_outcome WHERE class = 5")
}

/// The id of the n-th subscription.
fn subscription(world: &World, place: i64) -> String {
    let ids: Vec<i64> = world.block(async {
        sqlx::query_scalar("SELECT id FROM subscription ORDER BY ref_seed")
            .fetch_all(&mut world.conn().await)
            .await
            .unwrap()
    });
    SubscriptionId(ids[usize::try_from(place).unwrap()]).to_string()
}

fn toll(world: &World, args: &[&str]) -> serde_json::Value {
    let output = world.run(&[args, &["--json"]].concat());
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{args:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_str(&text).unwrap()
}

/// Nothing is quarantined, no charge collected more than was due, and both books agree.
fn settled(world: &World) {
    let why = world.block(async {
        sqlx::query_scalar::<_, String>("SELECT what FROM case_file")
            .fetch_all(&mut world.conn().await)
            .await
            .unwrap()
    });
    assert_eq!(why, Vec::<String>::new(), "there are cases");
    assert_eq!(world.number("SELECT count(*) FROM subscription WHERE flags <> 0"), 0);
    assert_eq!(world.number("SELECT count(*) FROM charge_aside WHERE collected_minor > due_minor"), 0);
    assert_eq!(world.number("SELECT coalesce(sum(posted), 0)::int8 FROM account_balance"), 0);
    world.compare();
}

const OWED: &str = "every = \"day\"\n[dunning]\nlimit = { rounds = [], then = \"next_period\" }\n\
                    [arrears]\ncount = 3\nage = \"30d\"\namount = \"1.500\"\nrounds = [\"1h\", \"2h\"]\n\
                    [lifecycle]\nlate_approved = \"past\"\n";

#[test]
fn arrears_are_collected_later_beside_the_running_period_and_never_above_due() {
    let world = poor("arrears");
    plan(&world, "owed", OWED);
    world.import_rows("owed", 0, 12, "2026-12-01");
    let _engine = world.serve("engine");
    wait_until("12 charges in arrears", SOON, || {
        world.number("SELECT count(*) FROM charge_aside WHERE state = 6 AND next_kind = 8") == 12
    });
    assert_eq!(world.number("SELECT count(*) FROM attempt_outcome WHERE charge_state = 6"), 12);
    // The first round of the arrears is refused too, the second is paid.
    world.set_business("2026-12-01T10:30:00Z", 1);
    wait_until("the arrears' first round", SOON, || {
        world.number("SELECT count(*) FROM charge_aside WHERE state = 6 AND round = 1 AND attempt_no = 2")
            == 12
    });
    world.mock.behave(RICH);
    world.set_business("2026-12-01T13:00:00Z", 1);
    wait_until("12 settled arrears", SOON, || {
        world.number("SELECT count(*) FROM charge_aside WHERE state = 4 AND collected_minor = 500") == 12
    });
    assert_eq!(approved(&world), 12);
    // The running period is charged as ever.
    world.set_business("2026-12-02T09:00:00Z", 1);
    wait_until("the next day's charges", SOON, || approved(&world) == 24);
    assert_eq!(
        world.number("SELECT count(*) FROM (SELECT FROM attempt_outcome GROUP BY subscription_id, period HAVING sum(moved_minor) <> 500) x"),
        0
    );
    assert_eq!(world.number("SELECT count(*) FROM charge_aside WHERE next_at_ms IS NOT NULL"), 0);
    settled(&world);
    // People see it.
    let shown = toll(&world, &["sub", "show", &subscription(&world, 0)]);
    assert_eq!(shown["subscriptions"][0]["asides"][0]["state"], "settled");
    assert_eq!(shown["subscriptions"][0]["asides"][0]["attempts"], 3);
}

#[test]
fn arrears_ask_within_the_limits_of_their_subscriber_and_wait_where_there_is_no_room() {
    let world = poor("arrearscaps");
    std::fs::create_dir_all(world.book.dir.join("countries")).unwrap();
    let text = "name = \"Tunisia\"\ncurrency = { code = \"TND\", source = \"ISO 4217\" }\n\
                zones = { names = [\"Africa/Tunis\"], source = \"IANA time zone database\" }\n\
                [[attempts]]\nper = \"day\"\nmax = 1\nexample = true\n";
    std::fs::write(world.book.dir.join("countries/tn.toml"), text).unwrap();
    plan(&world, "owed", OWED);
    world.import_rows("owed", 0, 12, "2026-12-01");
    let _engine = world.serve("engine");
    wait_until("12 charges in arrears", SOON, || {
        world.number("SELECT count(*) FROM charge_aside WHERE state = 6 AND next_kind = 8") == 12
    });
    // The day's only request is used: the arrears' round waits for the next day, and says so once.
    world.mock.behave(RICH);
    world.set_business("2026-12-01T10:30:00Z", 1);
    wait_until("12 deferred arrears", SOON, || {
        world.number("SELECT count(*) FROM charge_note n JOIN charge_aside a USING (subscription_id, period) WHERE n.kind = 2 AND n.until_ms = a.next_at_ms") == 12
    });
    assert_eq!(world.number("SELECT count(*) FROM attempt_intent"), 12);
    assert_eq!(world.number("SELECT count(*) FROM charge_note WHERE kind = 2"), 12);
    assert_eq!(world.number("SELECT count(*) FROM charge_aside WHERE state = 6 AND open = 0"), 12);
    // One request a day, whichever charge it is for.
    world.set_business("2026-12-02T09:00:00Z", 1);
    wait_until("one more each", SOON, || approved(&world) == 12);
    world.set_business("2026-12-03T09:00:00Z", 1);
    wait_until("and one more", SOON, || approved(&world) == 24);
    assert_eq!(
        world.number("SELECT count(*) FROM (SELECT FROM attempt_intent GROUP BY subscription_id, cap_day HAVING count(*) > 1) x"),
        0
    );
    settled(&world);
}

#[test]
fn a_trial_turns_active_when_its_first_charge_falls_due() {
    let world = World::start("trial", &WorldOptions::default());
    let rest = "[lifecycle]\nlate_approved = \"past\"\n";
    plan(&world, "tried", &format!("every = \"day\"\ntrial = \"1d\"\n{rest}"));
    plan(&world, "parked", &format!("every = \"day\"\nparked = \"1d\"\n{rest}"));
    world.import_rows("tried", 0, 5, "2026-12-01");
    world.import_rows("parked", 100, 5, "2026-12-01");
    assert_eq!(world.number("SELECT count(*) FROM subscription WHERE state = 2 AND next_kind = 7 AND state_until_ms = next_at_ms"), 5);
    assert_eq!(world.number("SELECT count(*) FROM subscription WHERE state = 3 AND next_kind = 7"), 5);
    let engine = world.serve("engine");
    world.set_business("2026-12-02T04:30:00Z", 1);
    wait_until("it is ready", SOON, || engine.get("/readyz").starts_with("HTTP/1.1 200"));
    assert_eq!(world.mock.stats()["requests"].as_u64(), Some(0), "a trial is free");
    world.set_business("2026-12-02T09:00:00Z", 1);
    wait_until("10 charges", SOON, || approved(&world) == 10);
    // The access of the trial ends where that of the first charge begins; two notes tell why it was due.
    assert_eq!(
        world.number("SELECT count(*) FROM subscription WHERE state = 4 AND paid_until_ms IS NOT NULL"),
        10
    );
    assert_eq!(world.number("SELECT count(*) FROM charge_note WHERE kind = 8 AND rule_id IN (81, 82)"), 10);
    assert_eq!(
        world.number("SELECT count(*) FROM outbox o, unnest(o.events) AS e (event) WHERE e.event = 18"),
        10
    );
    // The same file again changes nothing, though their anchors are not the dates in it.
    world.import_rows("tried", 0, 5, "2026-12-01");
    assert_eq!(world.number("SELECT count(*) FROM subscription"), 10);
    settled(&world);
}

#[test]
fn a_pause_charges_nothing_and_goes_on_with_the_period_that_runs() {
    let world = World::start("pause", &WorldOptions::default());
    plan(&world, "daily", "every = \"day\"\n[lifecycle]\nlate_approved = \"past\"\n");
    world.import_rows("daily", 0, 4, "2026-12-01");
    let _engine = world.serve("engine");
    wait_until("4 charges", SOON, || approved(&world) == 4);
    let (dated, open) = (subscription(&world, 0), subscription(&world, 1));
    let paused = toll(&world, &["sub", "pause", &dated, "--until", "2026-12-04"]);
    assert_eq!((&paused["carried_out"], &paused["state"]), (&true.into(), &"paused".into()), "{paused}");
    assert_eq!(toll(&world, &["sub", "pause", &open])["state"], "paused");
    world.set_business("2026-12-02T09:00:00Z", 1);
    wait_until("the other two", SOON, || approved(&world) == 6);
    let resumed = toll(&world, &["sub", "resume", &open]);
    assert_eq!(resumed["state"], "active", "{resumed}");
    wait_until("the period that runs", SOON, || approved(&world) == 7);
    world.set_business("2026-12-03T09:00:00Z", 1);
    wait_until("the third day", SOON, || approved(&world) == 10);
    world.set_business("2026-12-04T09:00:00Z", 1);
    wait_until("the fourth day", SOON, || approved(&world) == 14);
    assert_eq!(world.number("SELECT count(*) FROM subscription WHERE state <> 4"), 0);
    // Nothing of a pause was charged: the dated one has the first and the fourth day only.
    let id = dated.parse::<SubscriptionId>().unwrap().0;
    let periods: Vec<i32> = world.block(async {
        sqlx::query_scalar("SELECT period FROM attempt_intent WHERE subscription_id = $1 ORDER BY period")
            .bind(id)
            .fetch_all(&mut world.conn().await)
            .await
            .unwrap()
    });
    let days: Vec<String> = periods
        .iter()
        .map(|period| billing_core::period::Period::from_number(*period).unwrap().to_string())
        .collect();
    assert_eq!(days, ["20261201", "20261204"]);
    settled(&world);
}

#[test]
fn a_wish_and_a_stop_hold_for_a_plan_whose_next_period_is_a_year_ahead() {
    let world = World::start("yearly", &WorldOptions::default());
    plan(&world, "yearly", "every = \"year\"\n[lifecycle]\nlate_approved = \"past\"\n");
    world.import_rows("yearly", 0, 2, "2026-12-01");
    let _engine = world.serve("engine");
    wait_until("two years are paid", SOON, || approved(&world) == 2);
    let (paused, stopped) = (subscription(&world, 0), subscription(&world, 1));
    assert_eq!(toll(&world, &["sub", "pause", &paused])["state"], "paused");
    assert_eq!(toll(&world, &["sub", "resume", &paused])["state"], "active");
    assert_eq!(toll(&world, &["sub", "cancel", &stopped, "--yes"])["state"], "cancelled");
    let moved = toll(&world, &["sub", "move", &paused, "--anchor-day", "2027-01-15", "--yes"]);
    assert_eq!(
        (&moved["carried_out"], &moved["charge_after"]),
        (&true.into(), &"20280115".into()),
        "{moved}"
    );
    settled(&world);
}

#[test]
fn nothing_is_charged_without_consent_and_it_goes_on_when_that_is_renewed() {
    let world = World::start("agreed", &WorldOptions::default());
    plan(&world, "daily", "every = \"day\"\n[lifecycle]\nlate_approved = \"past\"\n");
    let file = world.dir.join("agreed.csv");
    let csv = "msisdn,plan,reference,start,consent_until\n21620000000,daily,a,2026-12-01,2026-12-02\n\
               21620000001,daily,b,2026-12-01,2026-12-01T11:00:00Z\n21620000002,daily,c,2026-12-01,\n\
               21620000003,daily,d,2026-12-01,soon\n";
    std::fs::write(&file, csv).unwrap();
    let output = world.run(&["sub", "import", file.to_str().unwrap()]);
    let told =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let rejects = std::fs::read_to_string(world.dir.join("agreed.csv.rejects.csv")).unwrap_or_default();
    assert!(format!("{told}{rejects}").contains("5,consent_until is neither a date"), "{told}{rejects}");
    let engine = world.serve("engine");
    wait_until("three charges with consent", SOON, || approved(&world) == 3);
    let of = |reference: &str| {
        let shown = toll(&world, &["sub", "show", "--reference", "demo", reference]);
        shown["subscriptions"][0]["subscription"].as_str().unwrap().to_owned()
    };
    let (dated, early) = (of("a"), of("b"));
    world.set_business("2026-12-02T09:00:00Z", 1);
    wait_until("two rest", SOON, || world.number("SELECT count(*) FROM subscription WHERE state = 7") == 2);
    wait_until("the third is charged", SOON, || approved(&world) == 4);
    assert_eq!(
        world.number("SELECT count(*) FROM attempt_intent"),
        4,
        "nothing was asked for without consent"
    );
    assert_eq!(world.number("SELECT count(*) FROM charge_note WHERE rule_id = 105"), 2);
    // Renewed the same day: that day is charged. While no worker is alive it is kept, and carried out by the first.
    let renewed = toll(&world, &["sub", "consent", &dated, "--until", "2027-01-31"]);
    assert_eq!((&renewed["carried_out"], &renewed["state"]), (&true.into(), &"active".into()), "{renewed}");
    wait_until("the day that runs", SOON, || approved(&world) == 5);
    assert!(engine.terminate().1);
    let renewed = toll(&world, &["sub", "consent", &early, "--none"]);
    assert_eq!(renewed["carried_out"], false, "{renewed}");
    world.set_business("2026-12-03T09:00:00Z", 1);
    let _engine = world.serve("second");
    wait_until("all three on the third day", SOON, || approved(&world) == 8);
    let days = |id: &str| {
        let id = id.parse::<SubscriptionId>().unwrap().0;
        let sql = "SELECT array_agg((period / 2048 - 9830)::int8 ORDER BY period) FROM attempt_outcome WHERE subscription_id = $1";
        let days: Vec<i64> = world.block(async {
            sqlx::query_scalar(sql).bind(id).fetch_one(&mut world.conn().await).await.unwrap()
        });
        days
    };
    assert_eq!(
        (days(&dated), days(&early)),
        (vec![1, 2, 3], vec![1, 3]),
        "the day without consent is not charged"
    );
    // What somebody suspended for another reason does not go on because of consent; what is over stays over.
    toll(&world, &["sub", "cancel", &dated, "--yes"]);
    let refused = world.run(&["sub", "consent", &dated, "--none"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("is stopped or over"), "{refused:?}");
    assert_eq!(
        toll(&world, &["sub", "show", &early])["subscriptions"][0]["consent_until"],
        serde_json::Value::Null
    );
    settled(&world);
}

#[test]
fn a_top_up_makes_an_overdue_charge_due_at_once_and_resumes_what_is_suspended() {
    let world = poor("topup");
    let life = "[lifecycle]\nlate_approved = \"past\"\ntop_up_due = true\ntop_up_resumes = true\n";
    plan(
        &world,
        "later",
        &format!(
            "every = \"week\"\n[dunning]\nlimit = {{ rounds = [\"8h\", \"8h\"], then = \"next_period\" }}\n{life}"
        ),
    );
    plan(
        &world,
        "gone",
        &format!("every = \"day\"\n[dunning]\nlimit = {{ rounds = [], then = \"suspend\" }}\n{life}"),
    );
    world.import_rows("later", 0, 2, "2026-12-01");
    let _engine = world.serve("engine");
    wait_until("two refusals", SOON, || {
        world.number("SELECT count(*) FROM subscription WHERE round = 1 AND next_kind = 2 AND tries = 1") == 2
    });
    let first = subscription(&world, 0);
    // Still poor: the notice counts, and the charge is refused once more.
    let told = toll(&world, &["sub", "top-up", &first, "--notice", "n-1"]);
    assert_eq!((&told["told"], &told["carried_out"]), (&true.into(), &true.into()), "{told}");
    wait_until("a third attempt", SOON, || world.number("SELECT count(*) FROM attempt_outcome") == 3);
    world.mock.behave(RICH);
    let again = toll(&world, &["sub", "top-up", &first, "--notice", "n-1"]);
    assert_eq!(again["told"], false, "{again}");
    let early = toll(&world, &["sub", "top-up", &first, "--at", "2026-12-01T08:00:00Z"]);
    assert_eq!(early["carried_out"], true, "{early}");
    assert_eq!(
        (world.number("SELECT count(*) FROM attempt_intent"), approved(&world)),
        (3, 0),
        "no notice counts twice"
    );
    toll(&world, &["sub", "top-up", &first, "--notice", "n-2"]);
    wait_until("it is paid at once", SOON, || approved(&world) == 1);
    // Suspended: goes on with the next period, what was given up stays so.
    world.mock.behave(POOR);
    world.import_rows("gone", 100, 1, "2026-12-01");
    wait_until("it is suspended", SOON, || {
        world.number("SELECT count(*) FROM subscription WHERE state = 7") == 1
    });
    world.mock.behave(RICH);
    let id = world.number("SELECT id FROM subscription WHERE state = 7");
    let resumed = toll(&world, &["sub", "top-up", &SubscriptionId(id).to_string(), "--notice", "n-1"]);
    assert_eq!(resumed["state"], "active", "{resumed}");
    world.set_business("2026-12-02T09:00:00Z", 1);
    wait_until("it is charged again", SOON, || {
        world.number("SELECT count(*) FROM subscription WHERE state = 4 AND paid_until_ms IS NOT NULL") == 3
    });
    settled(&world);
}

#[test]
fn after_an_outage_missed_days_are_merged_or_owed() {
    let world = World::start("outage", &WorldOptions::default());
    plan(
        &world,
        "merged",
        "every = \"day\"\n[lifecycle]\nlate_approved = \"past\"\nmissed = \"merge\"\nmerge_periods = 2\n",
    );
    let late =
        OWED.replace("late_approved = \"past\"\n", "late_approved = \"past\"\nmissed = \"collect_late\"\n");
    plan(&world, "late", &late);
    world.import_rows("merged", 0, 5, "2026-12-01");
    world.import_rows("late", 100, 5, "2026-12-01");
    world.set_business("2026-12-04T09:00:00Z", 1);
    let _engine = world.serve("engine");
    wait_until("10 charges", SOON, || approved(&world) == 10);
    // Two missed days of three in one charge, the third is skipped, and both ranges are told.
    assert_eq!(
        world.number("SELECT count(*) FROM attempt_outcome WHERE moved_minor = 1500 AND charge_state = 4"),
        5
    );
    assert_eq!(
        world.number("SELECT count(*) FROM charge_note WHERE charge_state = 9 AND before_period IS NULL"),
        5
    );
    assert_eq!(
        world.number("SELECT count(*) FROM charge_note WHERE charge_state = 9 AND before_period > period"),
        5
    );
    assert_eq!(
        world.number("SELECT count(*) FROM charge_note WHERE charge_state = 10 AND before_period > period"),
        5
    );
    assert_eq!(
        world.number("SELECT count(*) FROM charge_aside WHERE state = 6"),
        15,
        "three days each are owed"
    );
    world.set_business("2026-12-04T11:00:00Z", 1);
    wait_until("what was owed", SOON, || approved(&world) == 25);
    assert_eq!(world.number("SELECT count(*) FROM charge_aside WHERE state = 4"), 15);
    settled(&world);
}

#[test]
fn deferrals_are_bounded_and_the_days_budget_holds() {
    let world = poor("deferral");
    plan(
        &world,
        "weekly",
        "every = \"week\"\n[dunning]\nlimit = { rounds = [\"1h\", \"1h\", \"1h\"], then = \"next_period\" }\n\
         budget = { day = 1 }\n[defer]\nmax = 1\n[lifecycle]\nlate_approved = \"past\"\n",
    );
    world.import_rows("weekly", 0, 6, "2026-12-01");
    let _engine = world.serve("engine");
    wait_until("6 refusals", SOON, || {
        world.number("SELECT count(*) FROM subscription WHERE day_tries = 1") == 6
    });
    world.set_business("2026-12-01T10:30:00Z", 1);
    wait_until("moved to the next day", SOON, || {
        world.number("SELECT count(*) FROM subscription WHERE deferrals = 1 AND next_kind = 3") == 6
    });
    world.set_business("2026-12-02T09:00:00Z", 1);
    wait_until("one more a day", SOON, || world.number("SELECT count(*) FROM attempt_outcome") == 12);
    world.set_business("2026-12-02T10:30:00Z", 1);
    wait_until("no second deferral", SOON, || {
        world.number("SELECT count(*) FROM charge_note WHERE kind = 3 AND charge_state = 8") == 6
    });
    assert_eq!(
        world.number("SELECT max(deferrals)::int8 FROM subscription"),
        0,
        "the next charge begins anew"
    );
    assert_eq!(world.number("SELECT count(*) FROM attempt_intent"), 12);
    settled(&world);
}

#[test]
fn late_evidence_settles_the_charge_of_an_earlier_period() {
    // So few that each may be a batch of its own: more would wait undecided while Postgres is away.
    let options = WorldOptions { behaviour: r#"{"latency_ms":500}"#, ..WorldOptions::default() };
    let mut world = World::start("evidence", &options);
    plan(&world, "daily", "every = \"day\"\n[lifecycle]\nlate_approved = \"extend\"\n");
    world.import_rows("daily", 0, 5, "2026-12-01");
    let subscriptions = world.subscriptions();
    let first = world.serve("first");
    wait_until("all requests left", SOON, || world.mock.stats()["requests"].as_u64().unwrap() == 5);
    world.postgres.kill9();
    wait_until("their answers arrived", SOON, || {
        first.status()["worker"]["lanes"][0]["in_lane"].as_u64() == Some(0)
    });
    wait_until("the answers are durable in the first one's spool before anything is recorded", SOON, || {
        first.answers_kept(&subscriptions, 202_612) == 5
    });
    first.kill9();
    world.postgres.restart().unwrap();
    let left = world.number("SELECT count(*) FROM attempt_intent i WHERE NOT EXISTS (SELECT FROM attempt_outcome o WHERE o.subscription_id = i.subscription_id)");
    assert!(left > 0, "nothing was left behind");
    // Another machine takes over: it has no answers. The next day begins beside the unknown ones.
    let secrets = world.dir.join("data2/secrets");
    std::fs::create_dir_all(&secrets).unwrap();
    for file in std::fs::read_dir(world.dir.join("data/secrets")).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), secrets.join(file.file_name())).unwrap();
    }
    let second = serve_on(&world, "data2", "second");
    wait_until("they are unknown", SOON, || {
        world.number("SELECT count(*) FROM attempt_open WHERE kind = 2") == left
    });
    world.set_business("2026-12-02T09:00:00Z", 1);
    wait_until("the next day", SOON, || {
        world.number("SELECT count(*) FROM attempt_outcome WHERE class = 5") == 10 - left
            && world.number("SELECT count(*) FROM charge_aside WHERE open = 2 AND state = 2") == left
    });
    // The first machine comes back with its spool.
    let third = world.serve("third");
    wait_until("its answers settle the earlier charges", SOON, || {
        world.number(
            "SELECT count(*) FROM charge_aside WHERE open = 0 AND state = 4 AND collected_minor = 500",
        ) == left
    });
    assert_eq!(world.number("SELECT count(*) FROM attempt_open"), 0);
    assert_eq!(approved(&world), 10);
    assert_eq!(world.mock.applied(), 10);
    // The money of the earlier day buys time after what is paid already.
    let from_later = world.number("SELECT count(*) FROM entitlement_grant g JOIN attempt_outcome o USING (subscription_id, period, attempt_no) WHERE g.from_ms > o.business_at_ms");
    assert_eq!(from_later, left);
    settled(&world);
    assert!(second.terminate().1 && third.terminate().1);
}

fn serve_on(world: &World, data: &str, name: &str) -> Engine {
    let mut command = world.toll(data);
    command
        .args(["serve", "--listen", "127.0.0.1:0", "--carrier-base"])
        .arg(format!("medina=http://{}", world.mock.address));
    Engine::start(&mut command, &world.dir.join(format!("{name}.log")))
}

#[test]
fn a_price_that_was_halved_is_not_taken_for_two_merged_periods() {
    let world = World::start("halved", &WorldOptions { scale: 0, ..WorldOptions::default() });
    let rest =
        "every = \"day\"\n[lifecycle]\nlate_approved = \"past\"\nmissed = \"merge\"\nmerge_periods = 3\n";
    plan(&world, "daily", rest);
    let doubled = "price = \"1.000 TND\"";
    world.book.change("plans/daily.toml", "price = \"0.500 TND\"", doubled);
    // Later than the window opens, so that what waits for it does so within its own period.
    world.book.change("plans/daily.toml", "at = \"06:00\"", "at = \"08:00\"");
    // One waits for its first charge, the other one's charge holds a missed day when the price changes.
    world.import_rows("daily", 0, 1, "2026-12-02");
    world.import_rows("daily", 1, 1, "2026-12-01");
    world.set_business("2026-12-02T22:30:00Z", 0);
    let engine = world.serve("engine");
    wait_until("a day was merged", SOON, || {
        world.number("SELECT count(*) FROM charge_note WHERE charge_state = 9") == 1
            && world.number("SELECT count(*) FROM subscription WHERE due_minor = 2000 AND next_kind = 3") == 1
            && world.number("SELECT count(*) FROM subscription WHERE due_minor = 1000 AND next_kind = 3") == 1
    });
    world.book.change("plans/daily.toml", doubled, "price = \"0.500 TND\"");
    let version = world.apply_book();
    wait_until("the engine has the new price", SOON, || {
        engine.status()["worker"]["book_version"].as_i64() == Some(version)
    });
    // The next day begins: what was not tried is merged into it, each day at the price in force.
    world.set_business("2026-12-03T09:00:00Z", 0);
    wait_until("both are charged", SOON, || approved(&world) == 2);
    let taken = |minor: i64| {
        world.block(async {
            sqlx::query_scalar::<_, i64>("SELECT count(*) FROM attempt_outcome WHERE moved_minor = $1")
                .bind(minor)
                .fetch_one(&mut world.conn().await)
                .await
                .unwrap()
        })
    };
    assert_eq!((taken(1_000), taken(1_500)), (1, 1), "two days and three days at 0.500");
    settled(&world);
}
