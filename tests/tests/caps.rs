//! Spending caps, stops and the end of consent, end to end on real parts.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use tests::{Engine, World, WorldOptions, wait_until};

const SOON: Duration = Duration::from_secs(60);

fn second_plan(world: &World, id: &str) {
    let shipped = std::fs::read_to_string(world.book.dir.join("plans/medina-kids-daily.toml")).unwrap();
    world.book.write_plan(id, &shipped.replace("service = \"kids\"", "service = \"songs\""));
}

fn idle(engine: &Engine) -> bool {
    engine.status()["worker"]["in_flight"].as_u64() == Some(0)
}

#[test]
fn a_cap_holds_over_all_plans_of_a_subscriber_and_is_recorded_once() {
    let world = World::start("caps", &WorldOptions::default());
    // Room for one charge of 0.500 a day, not for two.
    world.book.write_tunisia("[[caps]]\nper = \"day\"\namount = \"0.900\"\nexample = true\n");
    second_plan(&world, "medina-songs-daily");
    world.import_rows("medina-kids-daily", 0, 40, "2026-12-01");
    world.import_rows("medina-songs-daily", 0, 40, "2026-12-01");
    assert_eq!(world.number("SELECT count(*) FROM subscriber"), 40);
    let engine = world.serve("engine");
    wait_until("40 charges and 40 deferrals", SOON, || {
        world.number("SELECT count(*) FROM attempt_outcome WHERE class = 5") == 40
            && world.number("SELECT count(*) FROM charge_note WHERE kind = 2 AND rule_id = 25") == 40
            && idle(&engine)
    });
    assert_eq!(world.number("SELECT count(*) FROM attempt_intent"), 40, "who has no room is not asked");
    assert_eq!(
        world.number("SELECT count(*) FROM (SELECT s.subscriber_id FROM attempt_intent i JOIN subscription s ON s.id = i.subscription_id GROUP BY 1 HAVING sum(i.amount_minor) > 900) AS over"),
        0
    );
    assert_eq!(
        world.number(
            "SELECT count(*) FROM subscriber_usage WHERE day_minor = 500 AND month_minor = 500 AND day_requests = 1"
        ),
        40
    );
    // They wait for their own midnight and the window after it: the other plan's charge expires with its period, or is
    // sent then, never on this day.
    assert_eq!(
        world.number("SELECT count(*) FROM charge_note WHERE kind = 2 AND until_ms IS NOT NULL AND until_ms <= business_at_ms"),
        0
    );
    world.compare();
}

#[test]
fn caps_hold_under_every_mixture_of_outcomes_and_the_counters_say_the_truth() {
    let options = WorldOptions {
        behaviour: r#"{"balance":{"classes":[{"share_ppm":600000,"min_minor":200,"max_minor":900}]},"topup_minor":400,"topup_every_ms":5000,
            "busy_ppm":150000,"reset_applied_ppm":30000,"reset_not_applied_ppm":30000,"fault_times":0}"#,
        scale: 4_320,
        business_at: "2026-12-01T04:50:00Z",
        ..WorldOptions::default()
    };
    let world = World::start("capsmix", &options);
    world.book.write_tunisia("[[caps]]\nper = \"day\"\namount = \"0.700\"\nexample = true\n\n[[caps]]\nper = \"week\"\namount = \"1.500\"\nexample = true\n\n\
         [[attempts]]\nper = \"day\"\nmax = 6\nexample = true\n",
    );
    second_plan(&world, "medina-songs-daily");
    world.import_rows("medina-kids-daily", 0, 150, "2026-12-01");
    world.import_rows("medina-songs-daily", 0, 150, "2026-12-01");
    let engine = world.serve("engine");
    wait_until("three days of charges", Duration::from_secs(150), || {
        world.number("SELECT count(DISTINCT cap_day) FROM attempt_intent") >= 3
            && world.number("SELECT count(*) FROM attempt_outcome WHERE class = 5") > 150
    });
    world.freeze();
    wait_until("nothing is on its way", SOON, || {
        idle(&engine)
            && world.number("SELECT count(*) FROM attempt_intent i WHERE NOT EXISTS (SELECT FROM attempt_outcome o WHERE (o.subscription_id, o.period, o.attempt_no) = (i.subscription_id, i.period, i.attempt_no)) AND NOT EXISTS (SELECT FROM attempt_open o WHERE (o.subscription_id, o.period, o.attempt_no) = (i.subscription_id, i.period, i.attempt_no))") == 0
    });
    // What is collected or may have been, by subscriber and day.
    world.block(async {
        sqlx::query(
            "CREATE VIEW held AS
             SELECT s.subscriber_id, i.cap_day, coalesce(o.moved_minor, i.amount_minor) AS minor,
                    (o.class IS DISTINCT FROM 7)::int AS request
               FROM attempt_intent i
               JOIN subscription s ON s.id = i.subscription_id
               LEFT JOIN attempt_outcome o
                      ON (o.subscription_id, o.period, o.attempt_no) = (i.subscription_id, i.period, i.attempt_no)",
        )
        .execute(&mut world.conn().await)
        .await
        .unwrap();
    });
    let over = |sql| assert_eq!(world.number(sql), 0, "{sql}");
    over(
        "SELECT count(*) FROM (SELECT FROM held GROUP BY subscriber_id, cap_day HAVING sum(minor) > 700 OR sum(request) > 6) AS o",
    );
    over(
        "SELECT count(*) FROM (SELECT FROM held GROUP BY subscriber_id, (cap_day + 5) / 7 HAVING sum(minor) > 1500) AS o",
    );
    over(
        "SELECT count(*) FROM subscriber_usage u
          WHERE u.day_minor <> (SELECT coalesce(sum(minor), 0) FROM held h WHERE h.subscriber_id = u.subscriber_id AND h.cap_day = u.day)
             OR u.day_requests <> (SELECT coalesce(sum(request), 0) FROM held h WHERE h.subscriber_id = u.subscriber_id AND h.cap_day = u.day)
             OR u.week_minor <> (SELECT coalesce(sum(minor), 0) FROM held h WHERE h.subscriber_id = u.subscriber_id AND h.cap_day >= u.week)
             OR u.month_minor <> (SELECT coalesce(sum(minor), 0) FROM held h WHERE h.subscriber_id = u.subscriber_id AND h.cap_day >= u.month)",
    );
    // The test saw what it is about.
    assert!(world.number("SELECT count(*) FROM charge_note WHERE rule_id = 25") > 0);
    assert!(world.number("SELECT count(*) FROM attempt_open WHERE kind = 2") > 0);
    assert!(world.number("SELECT count(*) FROM attempt_outcome WHERE class = 6") > 0);
    assert!(world.number("SELECT count(*) FROM attempt_outcome WHERE class = 8") > 0);
    world.compare();
    let report = world.check();
    assert!(report.lines().any(|line| line.starts_with("I18  holds")), "{report}");
}

#[test]
fn what_was_refused_is_given_back_and_what_is_unknown_is_not() {
    let options = WorldOptions {
        behaviour: r#"{"balance":{"classes":[{"share_ppm":1000000,"min_minor":350,"max_minor":350}]}}"#,
        ..WorldOptions::default()
    };
    let world = World::start("giveback", &options);
    // 0.500 is refused and given back, so that 0.300 fits under the same cap.
    world.book.write_tunisia("[[caps]]\nper = \"week\"\namount = \"0.600\"\nexample = true\n");
    world.import_rows("medina-kids-daily", 0, 20, "2026-12-01");
    let engine = world.serve("engine");
    wait_until("20 reduced charges", SOON, || {
        world.number("SELECT count(*) FROM attempt_outcome WHERE class = 5 AND moved_minor = 300") == 20
            && idle(&engine)
    });
    assert_eq!(
        world.number("SELECT count(*) FROM subscriber_usage WHERE week_minor = 300 AND week_requests = 2"),
        20
    );
    assert_eq!(world.number("SELECT count(*) FROM attempt_intent WHERE cap_day > 0"), 40);
    world.compare();

    let options = WorldOptions {
        behaviour: r#"{"reset_applied_ppm":1000000,"fault_times":0}"#,
        ..WorldOptions::default()
    };
    let world = World::start("kept", &options);
    world.book.write_tunisia("[[caps]]\nper = \"month\"\namount = \"0.600\"\nexample = true\n");
    second_plan(&world, "medina-songs-daily");
    world.import_rows("medina-kids-daily", 0, 5, "2026-12-01");
    let _engine = world.serve("engine");
    wait_until("5 unknown", SOON, || world.number("SELECT count(*) FROM attempt_open WHERE kind = 2") == 5);
    world.import_rows("medina-songs-daily", 0, 5, "2026-12-01");
    wait_until("nothing else is asked of them", SOON, || {
        world.number("SELECT count(*) FROM charge_note WHERE rule_id IN (20, 25, 26, 27)") >= 5
            || world.number("SELECT count(*) FROM charge_note") >= 5
    });
    assert_eq!(world.number("SELECT count(*) FROM attempt_intent"), 5);
    assert_eq!(world.number("SELECT count(*) FROM subscriber_usage WHERE month_minor = 500"), 5);
}

#[test]
fn a_stop_and_the_end_of_consent_refuse_the_intent_in_its_own_commit() {
    use billing_core::outcome::Op;
    use billing_core::subscription::Planned;
    use storage::pg::{BeginBatch, BeginRow, Lease, Verdict};
    let world = World::start("consent", &WorldOptions::default());
    world.import_rows("medina-kids-daily", 0, 3, "2026-12-01");
    world.block(async {
        let mut conn = world.conn().await;
        let now_ms = "2026-12-01T09:00:00Z".parse::<jiff::Timestamp>().unwrap().as_millisecond();
        let lease = Lease { slot: 1, incarnation: 7, epoch: 1 };
        for sql in [
            "INSERT INTO worker (slot, incarnation, epoch) VALUES (1, 7, 1)",
            "UPDATE shard_owner SET slot = 1",
            "SELECT ensure_partitions(9800, 9900)",
        ] {
            sqlx::query(sql).execute(&mut conn).await.unwrap();
        }
        let ids: Vec<i64> =
            sqlx::query_scalar("SELECT id FROM subscription ORDER BY id").fetch_all(&mut conn).await.unwrap();
        let (rows, _) = storage::pg::load(&mut conn, &ids).await.unwrap();
        // Both happen after the rows were loaded.
        storage::pg::stop_subscription(&mut conn, ids[0], now_ms).await.unwrap().unwrap();
        sqlx::query("UPDATE subscription SET consent_until_ms = $1 WHERE id = $2")
            .bind(now_ms)
            .bind(ids[1])
            .execute(&mut conn)
            .await
            .unwrap();
        let at = |ms| jiff::Timestamp::from_millisecond(ms).unwrap();
        let planned: Vec<Planned> = rows
            .iter()
            .map(|row| Planned {
                op: Op::Charge,
                period: row.sub.progress.period,
                attempt_no: 1,
                parent_no: 0,
                amount_minor: 500,
                round: 0,
                step: 0,
                not_before: at(now_ms - 1),
                not_after: at(now_ms + 1_000),
            })
            .collect();
        let mut batch = BeginBatch::default();
        for (row, planned) in rows.iter().zip(&planned) {
            batch.push(&BeginRow {
                subscription_id: row.sub.id.0,
                rev: row.sub.rev,
                planned,
                currency: row.currency,
                digest: [1; 16],
                rule: 1,
                book_version: 1,
                cap: None,
            });
        }
        let verdicts = batch.begin(&mut conn, &lease, now_ms).await.unwrap();
        assert_eq!(verdicts, [Verdict::Stopped, Verdict::Stopped, Verdict::Ok]);
    });
    assert_eq!(world.number("SELECT count(*) FROM attempt_intent"), 1);
}
