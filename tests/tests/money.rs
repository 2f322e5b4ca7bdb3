//! Money on its way back and in parts, end to end on real parts: refunds, reversals, two phases, balances.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use tests::{Engine, HURRIED, INQUIRY, World, WorldOptions, wait_until};

const SOON: Duration = Duration::from_secs(120);

fn first_charge(world: &World) -> String {
    let id = world.number("SELECT min(subscription_id) FROM attempt_intent");
    let period = world.number("SELECT min(period)::int8 FROM attempt_intent WHERE subscription_id = (SELECT min(subscription_id) FROM attempt_intent)");
    billing_core::ids::ChargeId {
        subscription: billing_core::ids::SubscriptionId(id),
        period: billing_core::period::Period::from_number(i32::try_from(period).unwrap()).unwrap(),
    }
    .to_string()
}

fn refund(world: &World, args: &[&str]) -> Result<serde_json::Value, String> {
    let mut all = vec!["charge", "refund", "--json", "--reason", "a test"];
    all.extend(args);
    let output = world.run(&all);
    if output.status.success() {
        return Ok(serde_json::from_slice(&output.stdout).unwrap());
    }
    Err(String::from_utf8_lossy(&output.stderr).into_owned())
}

fn idle(engine: &Engine) -> bool {
    engine.status()["worker"]["in_flight"].as_u64() == Some(0)
}

#[test]
fn a_refund_never_exceeds_what_was_collected() {
    let world = World::start("refund", &WorldOptions::default());
    world.book.change("carriers/medina.toml", "amounts = \"full\"", "amounts = \"partial\"");
    world.import_rows("medina-kids-daily", 0, 3, "2026-12-01");
    let engine = world.serve("engine");
    wait_until("3 charges", SOON, || {
        world.number("SELECT count(*) FROM attempt_outcome WHERE class = 5") == 3 && idle(&engine)
    });
    let charge = first_charge(&world);
    let planned = refund(&world, &[&charge, "--amount", "0.200"]).unwrap();
    assert_eq!((planned["state"].as_str(), planned["asked"].as_bool()), (Some("planned"), Some(false)));
    assert_eq!(world.number("SELECT count(*) FROM attempt_intent WHERE op = 5"), 0, "nothing without --yes");
    let part = refund(&world, &[&charge, "--amount", "0.200", "--yes"]).unwrap();
    assert_eq!(part["state"].as_str(), Some("approved"), "{part}");
    let above = refund(&world, &[&charge, "--amount", "0.400", "--yes"]).unwrap_err();
    assert!(above.contains("300 of attempt 1 are left"), "{above}");
    let rest = refund(&world, &[&charge, "--yes"]).unwrap();
    assert_eq!(
        (rest["state"].as_str(), rest["amount"]["amount"].as_str()),
        (Some("approved"), Some("0.300"))
    );
    let twice = refund(&world, &[&charge, "--yes"]).unwrap_err();
    assert!(twice.contains("0 of attempt 1 are left"), "{twice}");
    assert_eq!(world.number("SELECT sum(amount_minor)::int8 FROM attempt_intent WHERE op = 5"), 500);
    assert_eq!(world.number("SELECT refunded_minor FROM charge_aside"), 500);
    assert_eq!(
        world.number(
            "SELECT count(*) FROM attempt_intent WHERE op = 5 AND parent_no = 1 AND attempt_no IN (2, 3)"
        ),
        2
    );
    // Transfers back, and every asset still sums to zero; merchants were told.
    assert_eq!(world.number("SELECT sum(amount)::int8 FROM transfer WHERE leg = 6"), 500);
    assert_eq!(world.number("SELECT sum(posted)::int8 FROM account_balance"), 0);
    assert_eq!(
        world.number("SELECT sum(b.posted)::int8 FROM account_balance b JOIN account a ON a.id = b.account_id WHERE a.purpose = 1"),
        1_000
    );
    assert_eq!(
        world.number("SELECT count(*) FROM (SELECT unnest(events) AS e FROM outbox) AS told WHERE e = 14"),
        2
    );
    world.compare();
}

#[test]
fn a_wish_that_the_database_refuses_waits_and_stops_nobody_behind_it() {
    let world = World::start("refusedwish", &WorldOptions::default());
    world.import_rows("medina-kids-daily", 0, 2, "2026-12-01");
    let engine = world.serve("engine");
    wait_until("2 charges", SOON, || {
        world.number("SELECT count(*) FROM attempt_outcome WHERE class = 5") == 2 && idle(&engine)
    });
    let run = |sql: &'static str| {
        world.block(async { sqlx::raw_sql(sql).execute(&mut world.conn().await).await.unwrap() });
    };
    run("CREATE FUNCTION planted() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'planted'; END $$;
         CREATE TRIGGER planted BEFORE INSERT ON charge_aside FOR EACH ROW EXECUTE FUNCTION planted()");
    let charge = first_charge(&world);
    let waiting = refund(&world, &[&charge, "--yes"]);
    assert_eq!(waiting.unwrap()["state"].as_str(), Some("waiting"));
    let told = "SELECT count(*) FROM case_file WHERE kind = 'inbox_refused' AND what LIKE '%planted%'";
    wait_until("people are told", SOON, || world.number(told) == 1);
    // What comes after it is taken in.
    let other = world.number("SELECT max(id) FROM subscription");
    let other = billing_core::ids::SubscriptionId(other).to_string();
    assert!(world.run(&["sub", "pause", &other]).status.success());
    wait_until("the pause", SOON, || {
        world.number("SELECT count(*) FROM subscription WHERE state = 8") == 1
            && world.number("SELECT count(*) FROM shard_inbox") == 1
    });
    // It is not lost: as soon as the database takes it, it is carried out.
    run("DROP TRIGGER planted ON charge_aside");
    wait_until("the refund", SOON, || {
        world.number("SELECT count(*) FROM attempt_outcome WHERE moved_minor = 500") == 3
    });
    assert_eq!(world.number("SELECT refunded_minor FROM charge_aside"), 500);
    assert_eq!((world.number("SELECT count(*) FROM shard_inbox"), world.number(told)), (0, 1), "told once");
    world.compare();
}

#[test]
fn a_lost_refund_is_unknown_is_listed_and_blocks_further_ones() {
    let world = World::start("lostrefund", &WorldOptions::default());
    world.import_rows("medina-kids-daily", 0, 2, "2026-12-01");
    let engine = world.serve("engine");
    wait_until("2 charges", SOON, || {
        world.number("SELECT count(*) FROM attempt_outcome WHERE class = 5") == 2 && idle(&engine)
    });
    let charge = first_charge(&world);
    let part = refund(&world, &[&charge, "--amount", "0.200", "--yes"]).unwrap_err();
    assert!(part.contains("all of an attempt or nothing"), "{part}");
    world.mock.behave(r#"{"reset_applied_ppm":1000000,"fault_times":0}"#);
    let lost = refund(&world, &[&charge, "--yes"]).unwrap();
    assert_eq!(lost["state"].as_str(), Some("unknown"), "{lost}");
    let again = refund(&world, &[&charge, "--yes"]).unwrap_err();
    assert!(again.contains("is not final yet"), "{again}");
    let listed = String::from_utf8(world.run(&["charge", "list", "--unknown", "--json"]).stdout).unwrap();
    assert!(listed.contains(&charge), "{listed}");
    assert_eq!(world.number("SELECT count(*) FROM charge_aside WHERE open = 2 AND refunded_minor = 500"), 1);
    assert_eq!(world.number("SELECT count(*) FROM transfer WHERE leg = 7"), 1);
    assert_eq!(world.number("SELECT count(*) FROM transfer WHERE leg = 6"), 0);
    let comparison = world.compare();
    assert_eq!(comparison.unknown_listed, 1);
    // The subscription itself goes on.
    assert_eq!(world.number("SELECT count(*) FROM subscription WHERE open = 0 AND flags = 0"), 2);
}

#[test]
fn what_is_still_owed_of_a_charge_waits_while_a_refund_of_it_is_unknown() {
    let options = WorldOptions {
        behaviour: r#"{"balance":{"classes":[{"share_ppm":1000000,"min_minor":350,"max_minor":350}]},"working_ms":3600000}"#,
        engine_toml: HURRIED,
        scale: 2,
        ..WorldOptions::default()
    };
    let world = World::start("besiderefund", &options);
    let carrier = world.book.dir.join("carriers/medina.toml");
    let text = std::fs::read_to_string(&carrier).unwrap();
    std::fs::write(carrier, text + INQUIRY).unwrap();
    world.book.change("plans/medina-kids-daily.toml", "settles = \"share\"", "settles = \"amount\"");
    world.import_rows("medina-kids-daily", 0, 1, "2026-12-01");
    let engine = world.serve("engine");
    let last = || world.number("SELECT max(attempt_no)::int8 FROM attempt_intent");
    wait_until("0.300 of 0.500", SOON, || {
        world.number("SELECT count(*) FROM attempt_outcome WHERE class = 5") == 1 && idle(&engine)
    });
    assert_eq!(last(), 2);
    world.mock.behave(r#"{"reset_applied_ppm":1000000,"fault_times":1}"#);
    let lost = refund(&world, &[&first_charge(&world), "--yes"]).unwrap();
    assert_eq!(lost["state"].as_str(), Some("unknown"), "{lost}");
    // The next round, four hours later.
    world.mock.behave(r#"{"reset_applied_ppm":0}"#);
    world.set_business("2026-12-01T15:00:00Z", 2);
    wait_until("it was its turn", SOON, || engine.get("/metrics").contains("verdict=\"RefundOpen\""));
    assert_eq!(last(), 3, "the refund is the last attempt");
    world.mock.behave(r#"{"working_ms":0}"#);
    wait_until("the refund is settled, and the rest is asked for", SOON, || last() > 3 && idle(&engine));
    assert_eq!(world.number("SELECT count(*) FROM attempt_outcome WHERE attempt_no = 3 AND class = 5"), 1);
    world.compare();
    world.check();
}

#[test]
fn what_a_carrier_takes_back_is_booked_once_and_never_above_what_was_collected() {
    let world = World::start("reversal", &WorldOptions::default());
    world.book.change("carriers/medina.toml", "amounts = \"full\"", "amounts = \"partial\"");
    let plan = "merchant = \"demo\"\nservice = \"kids\"\ncarrier = \"medina\"\ntext = \"Kids stories\"\n\
                price = \"0.500 TND\"\n[schedule]\nevery = \"day\"\nat = \"06:00\"\nwindow = [\"06:00\", \"22:00\"]\n\
                [lifecycle]\nlate_approved = \"past\"\nrefund_access = \"end\"\n";
    world.book.write_plan("daily", plan);
    world.import_rows("daily", 0, 2, "2026-12-01");
    let engine = world.serve("engine");
    wait_until("2 charges", SOON, || {
        world.number("SELECT count(*) FROM attempt_outcome WHERE class = 5") == 2 && idle(&engine)
    });
    let charge = first_charge(&world);
    let reverse = |amount: &str, reference: &str, more: &[&str]| {
        let head = ["charge", "reverse", &charge, "--amount", amount, "--reference", reference, "--json"];
        let output = world.run(&[&head, more].concat());
        match output.status.success() {
            true => Ok(serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    };
    refund(&world, &[&charge, "--amount", "0.200", "--yes"]).unwrap();
    let above = reverse("0.400", "S/1", &["--yes"]).unwrap_err();
    assert!(above.contains("300 of the charge are left"), "{above}");
    let ahead = reverse("0.100", "S/1", &[]).unwrap();
    assert_eq!((&ahead["asked"], &ahead["booked"]), (&false.into(), &false.into()), "{ahead}");
    let booked = reverse("0.100", "S/1", &["--yes"]).unwrap();
    assert_eq!((&booked["booked"], &booked["left"]["amount"]), (&true.into(), &"0.200".into()), "{booked}");
    // The same reference counts once, and stands for one thing.
    let again = reverse("0.100", "S/1", &["--yes"]).unwrap();
    assert_eq!((&again["asked"], &again["booked"]), (&false.into(), &true.into()), "{again}");
    let other = reverse("0.050", "S/1", &["--yes"]).unwrap_err();
    assert!(other.contains("is booked already, as 0.100 TND"), "{other}");
    // Behind the command's back the owner applies the same rules.
    let id: billing_core::ids::ChargeId = charge.parse().unwrap();
    let ask = |amount_minor, reference: &str| {
        let period = id.period.number();
        let request = scheduler::ReversalRequest { period, amount_minor, reference: reference.to_owned() };
        let payload = request.encode().unwrap();
        world.block(async {
            storage::pg::ask_reversal(&mut world.conn().await, id.subscription.0, &payload).await.unwrap();
        });
        wait_until("it is dealt with", SOON, || world.number("SELECT count(*) FROM shard_inbox") == 0);
    };
    ask(100, "S/1");
    assert_eq!(world.number("SELECT count(*) FROM case_file"), 0);
    ask(201, "S/3");
    assert_eq!(world.number("SELECT count(*) FROM case_file WHERE kind = 'reversal_refused'"), 1);
    assert_eq!(world.number("SELECT count(*) FROM subscription WHERE paid_until_ms < next_at_ms"), 0);
    // While no worker is alive it waits.
    assert!(engine.terminate().1);
    let waits = reverse("0.200", "S/2", &["--yes"]).unwrap();
    assert_eq!((&waits["asked"], &waits["booked"]), (&true.into(), &false.into()), "{waits}");
    let engine = world.serve("second");
    wait_until("it is booked", SOON, || world.number("SELECT count(*) FROM charge_reversal") == 2);
    assert_eq!(world.number("SELECT reversed_minor FROM charge_aside"), 300);
    // All of it went back: access ends, as the plan says of refunds; nothing of it can be given back any more.
    assert_eq!(world.number("SELECT count(*) FROM subscription WHERE paid_until_ms < next_at_ms"), 1);
    assert_eq!(world.number("SELECT count(*) FROM entitlement_grant WHERE attempt_no < 0"), 1);
    let gone = refund(&world, &[&charge, "--yes"]).unwrap_err();
    assert!(gone.contains("0 of the charge are left"), "{gone}");
    // Transfers back, and every asset sums to zero; merchants are told each once.
    assert_eq!(world.number("SELECT sum(amount)::int8 FROM transfer WHERE leg = 9"), 300);
    assert_eq!(world.number("SELECT sum(posted)::int8 FROM account_balance"), 0);
    assert_eq!(
        world.number("SELECT sum(b.posted)::int8 FROM account_balance b JOIN account a ON a.id = b.account_id WHERE a.purpose = 1"),
        500
    );
    assert_eq!(
        world.number("SELECT sum(m)::int8 FROM (SELECT unnest(events) AS e, unnest(amounts) AS m FROM outbox) AS told WHERE e = 17"),
        300
    );
    let ledger = world.run(&["query", "ledger", "--verify"]);
    assert!(ledger.status.success(), "{ledger:?}");
    let why = world.run(&["explain", &charge]);
    let why = String::from_utf8_lossy(&why.stdout).into_owned();
    assert!(
        why.contains("reversal.booked") && why.contains("the carrier took the money back by itself"),
        "{why}"
    );
    // The subscription goes on.
    world.set_business("2026-12-02T09:00:00Z", 1);
    wait_until("the next day", SOON, || {
        world.number("SELECT count(*) FROM attempt_outcome WHERE class = 5 AND moved_minor = 500") == 4
            && idle(&engine)
    });
    assert_eq!(world.number("SELECT count(*) FROM subscription WHERE flags <> 0"), 0);
    world.compare();
    world.check();
}

#[test]
fn an_unknown_charge_is_not_refunded() {
    let options = WorldOptions {
        behaviour: r#"{"reset_applied_ppm":1000000,"fault_times":0}"#,
        ..WorldOptions::default()
    };
    let world = World::start("norefund", &options);
    world.import_rows("medina-kids-daily", 0, 1, "2026-12-01");
    let _engine = world.serve("engine");
    wait_until("it is unknown", SOON, || world.number("SELECT count(*) FROM attempt_open") == 1);
    let refused = refund(&world, &[&first_charge(&world), "--yes"]).unwrap_err();
    assert!(refused.contains("is not final yet"), "{refused}");
    assert_eq!(world.number("SELECT count(*) FROM attempt_intent WHERE op = 5"), 0);
}

/// The carrier sets aside, and its plan asks for that.
fn two_phases(world: &World, expired: &str) {
    let path = world.book.dir.join("carriers/medina.toml");
    let mut text = std::fs::read_to_string(&path).unwrap();
    let phase = |name: &str, place: &str, state: &str, then: &str, more: &str| {
        let parent = if name == "reserve" { "" } else { "\"parent\":\"${parent.our_ref}\"," };
        format!(
            "\n[{name}]\n{more}request = \"POST /v1/charge/{place}\"\n\
             body = '{{\"key\":\"${{our_ref}}\",{parent}\"msisdn\":\"${{msisdn:e164}}\",\"amount\":${{amount:minor}},\"currency\":\"${{currency}}\"}}'\n\
             keys = {{ carrier_txn_id = \"/id\", carrier_code = \"/reason\" }}\n\
             echo = {{ our_ref = \"/key\", amount = \"/amount\", amount_as = \"minor\", currency = \"/currency\" }}\n\
             rules = [ {{ status = 200, at = \"/state\", is = \"{state}\", then = \"{then}\" }}, {{ status = 200, at = \"/reason\", is = \"expired\", then = \"declined:expired\" }} ]\n\
             else = \"unknown\"\n\n[[example]]\nfor = \"{name}\"\nstatus = 200\n\
             body = '{{\"state\":\"{state}\",\"id\":\"f-1\",\"key\":\"${{our_ref}}\",\"amount\":${{amount:minor}},\"currency\":\"TND\"}}'\n\
             expect = \"{then}\"\n"
        )
    };
    let holds = "expires = \"15m\"\nafter_expiry = \"released\"\n";
    text += &phase("reserve", "reservations", "RESERVED", "reserved", holds);
    text += &phase("confirm", "confirmations", "CHARGED", "charged", "");
    text += &phase("cancel", "cancellations", "RELEASED", "released", "");
    std::fs::write(path, text).unwrap();
    let plan = std::fs::read_to_string(world.book.dir.join("plans/medina-kids-daily.toml")).unwrap();
    let ladder = &plan[plan.find("[ladder]").unwrap()..plan.find("[dunning]").unwrap()];
    let plan = plan.replace(
        ladder,
        &format!("[reserve]\nvalid = \"10m\"\nconfirm_after = \"5m\"\nexpired = \"{expired}\"\n\n"),
    );
    world.book.write_plan("medina-kids-daily", &plan);
}

#[test]
fn what_is_set_aside_is_confirmed_or_given_back() {
    let world = World::start("reserve", &WorldOptions::default());
    two_phases(&world, "released");
    world.book.write_tunisia("[[caps]]\nper = \"month\"\namount = \"5.000\"\nexample = true\n");
    world.import_rows("medina-kids-daily", 0, 10, "2026-12-01");
    let engine = world.serve("engine");
    wait_until("10 reservations", SOON, || {
        world.number("SELECT count(*) FROM attempt_outcome WHERE class = 9") == 10 && idle(&engine)
    });
    assert_eq!(
        world.number("SELECT count(*) FROM subscription WHERE reserved_no = 1 AND reserved_minor = 500"),
        10
    );
    assert_eq!(world.number("SELECT count(*) FROM transfer"), 0, "nothing has moved yet");
    // One of them stops before it is confirmed.
    let id = world.number("SELECT min(id) FROM subscription");
    let stopped = billing_core::ids::SubscriptionId(id).to_string();
    assert!(world.run(&["sub", "cancel", &stopped, "--yes"]).status.success());
    wait_until("it is given back", SOON, || {
        world.number("SELECT count(*) FROM attempt_outcome WHERE class = 10") == 1
    });
    world.set_business("2026-12-01T09:06:00Z", 1);
    wait_until("9 confirmed", SOON, || {
        world.number("SELECT count(*) FROM attempt_outcome WHERE class = 5") == 9 && idle(&engine)
    });
    assert_eq!(
        world.number("SELECT count(*) FROM attempt_intent WHERE op = 3 AND parent_no = 1 AND attempt_no = 2"),
        9
    );
    assert_eq!(world.number("SELECT count(*) FROM attempt_intent WHERE op = 4 AND parent_no = 1"), 1);
    assert_eq!(world.number("SELECT count(*) FROM subscription WHERE reserved_no IS NOT NULL"), 0);
    assert_eq!(world.number("SELECT sum(amount)::int8 FROM transfer WHERE leg = 1"), 9 * 500);
    // Confirmed ones count once; what was given back counts no more.
    assert_eq!(world.number("SELECT sum(month_minor)::int8 FROM subscriber_usage"), 9 * 500);
    world.compare();
}

#[test]
fn an_expired_reservation_is_what_the_carrier_declares() {
    for (expired, gone) in [
        ("released", "SELECT count(*) FROM charge_note WHERE kind = 10"),
        ("cancel", "SELECT count(*) FROM attempt_intent WHERE op = 4 AND parent_no = 1"),
    ] {
        let world = World::start("lapse", &WorldOptions::default());
        two_phases(&world, expired);
        world.import_rows("medina-kids-daily", 0, 5, "2026-12-01");
        let engine = world.serve("engine");
        wait_until("5 reservations", SOON, || {
            world.number("SELECT count(*) FROM attempt_outcome WHERE class = 9") == 5 && idle(&engine)
        });
        // Nobody was there when it was to be confirmed.
        world.set_business("2026-12-01T09:20:00Z", 1);
        wait_until("it is over", SOON, || world.number(gone) == 5);
        assert_eq!(world.number("SELECT count(*) FROM attempt_intent WHERE op = 3"), 0, "{expired}");
        assert_eq!(world.number("SELECT count(*) FROM transfer"), 0, "{expired}");
        wait_until("the charge goes on with a new reservation", SOON, || {
            world.number("SELECT count(*) FROM attempt_intent WHERE op = 2 AND attempt_no > 1") == 5
        });
        assert_eq!(world.number("SELECT count(*) FROM subscription WHERE flags <> 0"), 0, "{expired}");
    }
}

#[test]
fn a_refund_that_a_dead_worker_left_behind_is_unknown() {
    let world = World::start("deadrefund", &WorldOptions::default());
    world.book.change("carriers/medina.toml", "reply_timeout = \"1s\"", "reply_timeout = \"8s\"");
    world.import_rows("medina-kids-daily", 0, 1, "2026-12-01");
    let engine = world.serve("engine");
    wait_until("a charge", SOON, || {
        world.number("SELECT count(*) FROM attempt_outcome WHERE class = 5") == 1 && idle(&engine)
    });
    let charge = first_charge(&world);
    world.mock.behave(r#"{"latency_ms":7000}"#);
    let mut asking = world
        .toll("data")
        .args(["charge", "refund", &charge, "--reason", "a test", "--yes"])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    wait_until("its intent", SOON, || world.number("SELECT count(*) FROM attempt_intent WHERE op = 5") == 1);
    engine.kill9();
    let _next = world.serve("next");
    wait_until("it is unknown", SOON, || {
        world.number("SELECT count(*) FROM attempt_open WHERE kind = 2 AND reason = 84") == 1
    });
    asking.wait().unwrap();
    assert_eq!(world.number("SELECT count(*) FROM charge_aside WHERE open = 2 AND refunded_minor = 500"), 1);
    assert_eq!(world.number("SELECT count(*) FROM case_file"), 0);
    let again = refund(&world, &[&charge, "--yes"]).unwrap_err();
    assert!(again.contains("is not final yet"), "{again}");
}

#[test]
fn a_balance_chooses_the_step_of_the_ladder() {
    let options = WorldOptions {
        behaviour: r#"{"balance":{"classes":[{"share_ppm":1000000,"min_minor":150,"max_minor":150}]}}"#,
        ..WorldOptions::default()
    };
    let world = World::start("balance", &options);
    world.book.change("carriers/medina.toml", "when = \"after_refusal\"", "when = \"before\"");
    world.book.change(
        "plans/medina-kids-daily.toml",
        "restart = \"full\"",
        "restart = \"full\"\nchoose = \"balance\"\n\n[balance]\nwhen = \"always\"",
    );
    world.import_rows("medina-kids-daily", 0, 20, "2026-12-01");
    let engine = world.serve("engine");
    wait_until("20 reduced charges", SOON, || {
        world.number("SELECT count(*) FROM attempt_outcome WHERE class = 5 AND moved_minor = 100") == 20
            && idle(&engine)
    });
    assert_eq!(world.number("SELECT count(*) FROM attempt_intent"), 20, "no step was tried in vain");
    let metrics = engine.get("/metrics");
    assert!(metrics.contains("tollbook_balances_total{learned=\"true\"} 20"), "{metrics}");
    world.compare();
}

#[test]
fn tax_and_fee_follow_the_carriers_tariffs_and_go_back_with_refunds_and_reversals() {
    let world = World::start("tariffs", &WorldOptions::default());
    // 0.500 with 19 % in it: 0.080 tax, of the rest the carrier keeps 0.150 by its price list, and gives it up in refunds.
    let tariff = "[[tariffs]]\nprice = \"0.500\"\ntax_percent = \"19\"\ncarrier_fee = \"0.150\"\n\n[link]";
    world.book.change("carriers/medina.toml", "[link]", tariff);
    world.book.change("carriers/medina.toml", "amounts = \"full\"", "amounts = \"partial\"");
    world.book.change("carriers/medina.toml", "[limits]", "fee_on_refund = \"returned\"\n\n[limits]");
    // A plan that is free of tax says so itself.
    let plan = "merchant = \"demo\"\nservice = \"kids\"\ncarrier = \"medina\"\ntext = \"Free of tax\"\n\
                price = \"0.500 TND\"\ntax_percent = \"0\"\n[schedule]\nevery = \"day\"\nat = \"06:00\"\n\
                window = [\"06:00\", \"22:00\"]\n[lifecycle]\nlate_approved = \"past\"\n";
    world.book.write_plan("exempt", plan);
    world.import_rows("medina-kids-daily", 0, 1, "2026-12-01");
    world.import_rows("exempt", 100, 1, "2026-12-01");
    let engine = world.serve("engine");
    wait_until("2 charges", SOON, || {
        world.number("SELECT count(*) FROM attempt_outcome WHERE class = 5") == 2 && idle(&engine)
    });
    let posted = |purpose: i16| {
        world.block(async {
            sqlx::query_scalar::<_, i64>(
                "SELECT coalesce(sum(b.posted), 0)::int8 FROM account_balance b JOIN account a ON a.id = b.account_id
                  WHERE a.purpose = $1",
            )
            .bind(purpose)
            .fetch_one(&mut world.conn().await)
            .await
            .unwrap()
        })
    };
    let books = || [1, 2, 4, 5].map(posted);
    assert_eq!(books(), [1_000, -(270 + 350), -80, -300], "receivable, payable, tax, fee");
    let charge = world.block(async {
        let (id, period): (i64, i32) = sqlx::query_as(
            "SELECT o.subscription_id, o.period FROM attempt_outcome o JOIN subscription s ON s.id = o.subscription_id
               JOIN plan p USING (plan_no) WHERE p.id = 'medina-kids-daily'",
        )
        .fetch_one(&mut world.conn().await)
        .await
        .unwrap();
        let period = billing_core::period::Period::from_number(period).unwrap();
        let subscription = billing_core::ids::SubscriptionId(id);
        billing_core::ids::ChargeId { subscription, period }.to_string()
    });
    // Two fifths go back, and two fifths of tax and fee with them; what the carrier takes back by itself likewise.
    refund(&world, &[&charge, "--amount", "0.200", "--yes"]).unwrap();
    assert_eq!(books(), [800, -(270 - 108 + 350), -48, -240]);
    let back = ["charge", "reverse", &charge, "--amount", "0.100", "--reference", "S/9", "--yes"];
    assert!(world.run(&back).status.success());
    wait_until("it is booked", SOON, || posted(1) == 700);
    assert_eq!(books(), [700, -(270 - 162 + 350), -32, -210]);
    assert_eq!(world.number("SELECT sum(posted)::int8 FROM account_balance"), 0);
    let explained = world.run(&["explain", &charge]);
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&explained.stdout),
        String::from_utf8_lossy(&explained.stderr)
    );
    for line in [
        "1           tax               0.080 TND  carrier medina receivable   merchant demo tax",
        "reversal 1  carrier_fee_back  0.030 TND  carrier medina carrier_fee  carrier medina receivable",
    ] {
        assert!(text.contains(line), "{text}");
    }
    world.compare();
    assert!(engine.terminate().1);
    world.check();
}
