//! Kills, lost databases, full disks: nothing twice, nothing lost, everything listed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::{Duration, Instant};

use tests::{World, WorldOptions, wait_until};

const LONG: Duration = Duration::from_secs(120);

/// A business day takes 20 seconds: due instants keep coming while things are killed.
fn busy() -> WorldOptions {
    WorldOptions {
        scale: 4_320,
        business_at: "2026-12-01T04:55:00Z",
        behaviour: r#"{"latency_ms":2,"latency_jitter_ms":6,"reset_applied_ppm":300}"#,
        ..WorldOptions::default()
    }
}

/// After everything: each row of the carrier is ours or listed, each listed one has its reason. A worker runs to the end,
/// since what the killed ones left behind is taken over by a living one.
fn settle(world: &World) {
    let last = world.serve("last");
    world.freeze();
    wait_until("the shards have an owner", LONG, || {
        world.number("SELECT count(*) FROM shard_owner WHERE slot IS NULL") == 0
    });
    wait_until("nothing is on its way", LONG, || last.status()["worker"]["in_flight"].as_u64() == Some(0));
    wait_until("every intent has its outcome or is listed", LONG, || {
        world.number(
            "SELECT count(*) FROM attempt_intent i
              WHERE NOT EXISTS (SELECT FROM attempt_outcome o WHERE (o.subscription_id, o.period, o.attempt_no) = (i.subscription_id, i.period, i.attempt_no))
                AND NOT EXISTS (SELECT FROM attempt_open o WHERE (o.subscription_id, o.period, o.attempt_no) = (i.subscription_id, i.period, i.attempt_no))",
        ) == 0
    });
    let comparison = world.compare();
    eprintln!(
        "applied {} approved {} unknown listed {}",
        comparison.applied_by_carrier, comparison.approved, comparison.unknown_listed
    );
    assert_eq!(world.number("SELECT sum(posted)::int8 FROM account_balance"), 0);
    assert_eq!(
        world.number(
            "SELECT count(*) FROM (SELECT subscription_id, period FROM attempt_outcome GROUP BY 1, 2 HAVING sum(moved_minor) > 500) x"
        ),
        0,
        "no charge may collect more than the 0.500 due"
    );
    // Answers of killed workers may still be on their way from the spool to the inbox.
    wait_until("the inbox is empty", LONG, || world.number("SELECT count(*) FROM shard_inbox") == 0);
    // What had fallen due before time stood still may be under way: after the drain everything is recorded.
    assert!(last.terminate().1);
    world.check();
}

#[test]
fn twenty_kills_of_engine_and_postgres_under_load() {
    let mut world = World::start("kills", &busy());
    world.import_rows("medina-kids-daily", 0, 4_000, "2026-12-01");
    let mut kills = 0;
    let mut engine = Some(world.serve("engine"));
    let mut recorded = 0;
    for round in 0..22 {
        // Under load means: outcomes are being recorded right now.
        wait_until("progress before the next kill", LONG, || {
            let now = world.number("SELECT count(*) FROM attempt_outcome");
            now > recorded + 40
        });
        recorded = world.number("SELECT count(*) FROM attempt_outcome");
        if round % 3 == 2 {
            world.postgres.kill9();
            world.postgres.restart().unwrap();
        } else {
            engine.take().unwrap().kill9();
            engine = Some(world.serve("engine"));
        }
        kills += 1;
    }
    assert!(kills >= 20);
    let (_, well) = engine.take().unwrap().terminate();
    assert!(well);
    settle(&world);
    assert!(world.number("SELECT count(*) FROM attempt_outcome WHERE class = 5") > 1_000);
}

#[test]
fn three_processes_share_the_shards_and_a_killed_one_is_replaced_in_time() {
    let world = World::start("share", &WorldOptions { slices: 16, ..busy() });
    world.import_rows("medina-kids-daily", 0, 3_000, "2026-12-01");
    let shares = || {
        world.block(async {
            let rows: Vec<i64> = sqlx::query_scalar(
                "SELECT count(*) FROM shard_owner WHERE slot IS NOT NULL GROUP BY slot ORDER BY 1",
            )
            .fetch_all(&mut world.conn().await)
            .await
            .unwrap();
            rows
        })
    };
    let first = world.serve("first");
    let second = world.serve("second");
    wait_until("two equal shares", LONG, || shares() == [8, 8]);
    let third = world.serve("third");
    wait_until("three shares", LONG, || shares() == [4, 6, 6] || shares() == [5, 5, 6]);
    let slot = third.status()["worker"]["slot"].as_i64().unwrap();
    let killed = Instant::now();
    third.kill9();
    wait_until("the others take its shards", LONG, || shares() == [8, 8]);
    let took = killed.elapsed();
    // Lease of 4 s + 5 s.
    assert!(took < Duration::from_secs(9), "took {took:?}");
    assert!(slot > 0);
    let fenced = world.number("SELECT count(*) FROM worker_incarnation WHERE fenced_at IS NOT NULL");
    assert_eq!(fenced, 1);
    wait_until("charges go on", LONG, || {
        world.number("SELECT count(*) FROM attempt_outcome WHERE class = 5") > 4_000
    });
    assert!(first.terminate().1 && second.terminate().1);
    settle(&world);
}

#[test]
fn a_drain_under_load_causes_no_unknown() {
    let world = World::start("drain", &WorldOptions { behaviour: r#"{"latency_ms":20}"#, ..busy() });
    world.import_rows("medina-kids-daily", 0, 3_000, "2026-12-01");
    for round in 0..3 {
        let engine = world.serve("engine");
        let before = world.number("SELECT count(*) FROM attempt_outcome");
        wait_until("load", LONG, || world.number("SELECT count(*) FROM attempt_outcome") > before + 200);
        let (took, well) = engine.terminate();
        assert!(well && took <= Duration::from_secs(10), "round {round}: {took:?}");
        assert_eq!(world.number("SELECT count(*) FROM attempt_open"), 0, "round {round}");
    }
    settle(&world);
}

#[test]
fn a_restarted_worker_finds_answers_in_its_own_spool() {
    // The engine is killed while Postgres is away: answers are in the spool, outcomes are not recorded. So few that each
    // may be a batch of its own: at most six batches of a stripe wait for the database, and what comes behind them is not
    // decided yet.
    let mut world = World::start(
        "spool",
        &WorldOptions { behaviour: r#"{"latency_ms":500}"#, ..WorldOptions::default() },
    );
    world.import_rows("medina-kids-daily", 0, 5, "2026-12-01");
    let subscriptions = world.subscriptions();
    let engine = world.serve("engine");
    wait_until("requests are on their way", LONG, || world.mock.stats()["requests"].as_u64().unwrap() == 5);
    world.postgres.kill9();
    wait_until("their answers arrived", LONG, || {
        engine.status()["worker"]["lanes"][0]["in_lane"].as_u64() == Some(0)
    });
    wait_until("the answers are durable in the spool before anything is recorded", LONG, || {
        engine.answers_kept(&subscriptions, 202_612) == 5
    });
    engine.kill9();
    world.postgres.restart().unwrap();
    let left = world.number(
        "SELECT count(*) FROM attempt_intent i WHERE NOT EXISTS (SELECT FROM attempt_outcome o WHERE (o.subscription_id, o.period, o.attempt_no) = (i.subscription_id, i.period, i.attempt_no))",
    );
    assert!(left > 0, "nothing was left behind");
    let _engine = world.serve("engine");
    wait_until("all charges", LONG, || {
        world.number("SELECT count(*) FROM attempt_outcome WHERE class = 5") == 5
    });
    assert_eq!(world.number("SELECT count(*) FROM attempt_open"), 0, "no answer was lost");
    assert_eq!(world.mock.applied(), 5);
    settle(&world);
}

#[test]
fn a_full_history_stops_sending_and_loses_nothing() {
    let world = World::start("full", &busy());
    world.import_rows("medina-kids-daily", 0, 500, "2026-12-01");
    // The disk has less room than the book demands.
    let engine_toml = world.book.dir.join("engine.toml");
    let text = std::fs::read_to_string(&engine_toml).unwrap();
    std::fs::write(&engine_toml, text.replace("min_free = \"64MiB\"", "min_free = \"1TiB\"")).unwrap();
    world.apply_book();
    let engine = world.serve("engine");
    wait_until("it says why it is not ready", LONG, || {
        engine.status()["why"].as_str().is_some_and(|why| why.contains("history"))
    });
    assert_eq!(world.mock.stats()["requests"].as_u64(), Some(0));
    assert!(engine.get("/readyz").starts_with("HTTP/1.1 503"));
    assert!(engine.terminate().1);
    std::fs::write(&engine_toml, text).unwrap();
    world.apply_book();
    let _engine = world.serve("engine");
    wait_until("charges", LONG, || {
        world.number("SELECT count(*) FROM attempt_outcome WHERE class = 5") >= 500
    });
}

#[test]
fn without_postgres_nothing_is_sent_and_it_goes_on_by_itself() {
    let mut world = World::start("away", &busy());
    world.import_rows("medina-kids-daily", 0, 2_000, "2026-12-01");
    let engine = world.serve("engine");
    wait_until("charges", LONG, || world.number("SELECT count(*) FROM attempt_outcome") > 100);
    world.postgres.kill9();
    wait_until("it says so", LONG, || engine.get("/readyz").starts_with("HTTP/1.1 503"));
    // What was durable before may still leave within the lease; then there is silence.
    // (A batch whose intents wait for the database keeps its places in the lane: they say nothing.)
    let mut before = 0;
    wait_until("nothing is on its way", LONG, || {
        let last = std::mem::replace(&mut before, world.mock.stats()["requests"].as_u64().unwrap());
        std::thread::sleep(Duration::from_millis(500)); // so long that an answer would have come
        last == before && last > 0
    });
    std::thread::sleep(Duration::from_secs(2)); // the silence itself is what is watched
    assert_eq!(world.mock.stats()["requests"].as_u64().unwrap(), before);
    assert!(engine.log_text().contains("cannot be reached"));
    let recorded_before = before;
    world.postgres.restart().unwrap();
    wait_until("it goes on", LONG, || {
        world.mock.stats()["requests"].as_u64().unwrap() > recorded_before + 100
    });
    assert!(engine.terminate().1);
    settle(&world);
}

#[test]
fn a_full_disk_stops_sending_before_anything_is_lost() {
    let world = World::start("disk", &busy());
    world.import_rows("medina-kids-daily", 0, 2_000, "2026-12-01");
    let spool = world.dir.join("data/spool");
    std::fs::create_dir_all(&spool).unwrap();
    let Some(disk) = SmallDisk::mount(&spool, 320) else {
        // Without the right to mount, the same is shown by the room that the book demands (the test above).
        return;
    };
    let engine = world.serve("engine");
    wait_until("charges", LONG, || world.number("SELECT count(*) FROM attempt_outcome") > 100);
    let filler = spool.join("filler");
    std::fs::write(&filler, vec![0; 270 << 20]).or_else(|_| std::fs::metadata(&filler).map(|_| ())).unwrap();
    wait_until("it says why it stopped", LONG, || {
        engine.status()["why"].as_str().is_some_and(|why| why.contains("history"))
    });
    wait_until("nothing is on its way", LONG, || engine.status()["worker"]["in_flight"].as_u64() == Some(0));
    let requests = world.mock.stats()["requests"].as_u64().unwrap();
    let recorded = world.number("SELECT count(*) FROM attempt_outcome")
        + world.number("SELECT count(*) FROM attempt_open");
    assert_eq!(i64::try_from(requests).unwrap(), recorded, "every answer was recorded");
    std::fs::remove_file(&filler).unwrap();
    wait_until("it goes on by itself", LONG, || {
        world.mock.stats()["requests"].as_u64().unwrap() > requests + 100
    });
    assert!(engine.terminate().1);
    settle(&world);
    drop(disk);
}

/// A small tmpfs over a folder.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    fn mount(dir: &std::path::Path, mib: u32) -> Option<Self> {
        let status = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={mib}m"), "tmpfs"])
            .arg(dir)
            .stderr(std::process::Stdio::null())
            .status()
            .ok()?;
        status.success().then(|| Self(dir.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
