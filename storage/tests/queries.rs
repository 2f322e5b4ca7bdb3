//! The queries for people, against a private Postgres with rows as the engine leaves them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use billing_core::ids::{RefSeed, Shard};
use billing_core::period::Period;
use billing_core::states::ChargeState;
use sqlx::postgres::PgConnection;
use storage::launcher::{LauncherOptions, PrivatePostgres};
use storage::pg::*;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// 2026-12-01T08:00:00Z.
const BUSINESS_MS: i64 = 1_796_112_000_000;
const TND: i16 = 788;

struct Base {
    runtime: tokio::runtime::Runtime,
    conn: PgConnection,
    postgres: Option<PrivatePostgres>,
    dir: PathBuf,
}

impl Drop for Base {
    fn drop(&mut self) {
        drop(self.postgres.take());
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

impl Base {
    /// A database with a carrier, a plan and three subscriptions of two lines.
    fn start() -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("storage-queries-{}-{number}", std::process::id()));
        let options =
            LauncherOptions { durable: false, ..LauncherOptions::new(dir.join("postgres"), "toll_test") };
        let postgres = PrivatePostgres::start(options).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let conn = runtime.block_on(async {
            let mut conn = connect(&postgres.url(), "queries").await.unwrap();
            migrate(&mut conn).await.unwrap();
            let book = BookNames {
                digest: vec![7; 32],
                files_json: r#"{"config/plans/daily.toml": "x"}"#.into(),
                carriers: vec![CarrierName { id: "medina".into(), currency: TND, slices: 1 }],
                plans: vec![PlanName {
                    id: "daily".into(),
                    merchant: "demo".into(),
                    carrier: "medina".into(),
                }],
                zones: vec!["Africa/Tunis".into()],
            };
            sync_book(&mut conn, &book).await.unwrap();
            let day = period(1).number() / 2_048;
            ensure_partitions(&mut conn, day - 7, day + 7).await.unwrap();
            let subscribers: Vec<_> = [1_u32, 2].map(subscriber).into();
            let subscriptions: Vec<_> =
                [(1, 1), (2, 2), (3, 2)].map(|(no, line)| subscription(no, line)).into();
            insert_subscriptions(&mut conn, 1, &subscribers, &subscriptions).await.unwrap();
            conn
        });
        Self { runtime, conn, postgres: Some(postgres), dir }
    }

    fn run(&mut self, sql: &'static str) {
        self.runtime.block_on(async { sqlx::raw_sql(sql).execute(&mut self.conn).await.unwrap() });
    }

    /// An intent of (subscription, day of December, attempt), made so many seconds ago.
    fn intent(&mut self, no: u32, day: i8, attempt_no: i16, seconds_ago: i32) {
        self.runtime.block_on(async {
            sqlx::query(
                "INSERT INTO attempt_intent VALUES ($1, 1500, 0, 0, $5, $5 + 1000, 99, now() - $4 * interval '1 second',
                                                    $5, $2, 1, $3, 1, 0, 0, 788, 1)",
            )
            .bind(id(no))
            .bind(period(day).number())
            .bind(attempt_no)
            .bind(seconds_ago)
            .bind(BUSINESS_MS)
            .execute(&mut self.conn)
            .await
            .unwrap();
        });
    }

    /// Its outcome: class, what moved, the charge's state afterwards.
    fn outcome(&mut self, no: u32, day: i8, attempt_no: i16, class: i16, moved: i64, charge: ChargeState) {
        self.runtime.block_on(async {
            sqlx::query(
                "INSERT INTO attempt_outcome VALUES ($1, $5, $5, 99, now(), $7, $2, 1200, $3, $4, $6, $8, 30, 'OK', 'T-1')",
            )
            .bind(id(no))
            .bind(period(day).number())
            .bind(attempt_no)
            .bind(class)
            .bind(moved)
            .bind(if moved > 0 { 1_i16 } else { 20 })
            .bind(BUSINESS_MS + 5)
            .bind(charge as i16)
            .execute(&mut self.conn)
            .await
            .unwrap();
        });
    }

    /// Its open row of a kind.
    fn open(&mut self, no: u32, day: i8, attempt_no: i16, kind: i16, minutes_ago: i32) {
        self.runtime.block_on(async {
            sqlx::query(
                "INSERT INTO attempt_open VALUES ($1, 1500, NULL, now() - $5 * interval '1 minute', $2, $3, $4, 80, 43, 788)",
            )
            .bind(id(no))
            .bind(period(day).number())
            .bind(attempt_no)
            .bind(kind)
            .bind(minutes_ago)
            .execute(&mut self.conn)
            .await
            .unwrap();
        });
    }

    /// Records what an attempt (0 for none) leaves of a charge with a row of its own: its last attempt, none open. The
    /// row afterwards: last attempt, what is open, what is given back.
    fn charge_aside(&mut self, attempt_no: i16, last_no: i16) -> (i16, i16, i64) {
        self.runtime.block_on(async {
            sqlx::query(
                "SELECT record_rare($1, NULL, ARRAY[$2], ARRAY[1], ARRAY[1::int2], ARRAY[$3], ARRAY[$4], ARRAY[6::int2],
                     ARRAY[0::int2], ARRAY[6::int2], ARRAY[30::int2], ARRAY[NULL], ARRAY[NULL], ARRAY[NULL]::bigint[],
                     ARRAY[1], ARRAY[1500::bigint], ARRAY[1000::bigint], ARRAY[$5], ARRAY[0::int2], ARRAY[0::int2],
                     ARRAY[0::int2], ARRAY[6::int2], ARRAY[788::int2], ARRAY[$3], ARRAY[NULL]::bigint[],
                     ARRAY[0::int2], ARRAY[NULL]::bigint[])",
            )
            .bind(BUSINESS_MS)
            .bind(id(1))
            .bind(period(1).number())
            .bind(attempt_no)
            .bind(last_no)
            .execute(&mut self.conn)
            .await
            .unwrap();
            let row = sqlx::query_as("SELECT attempt_no, open, refunded_minor FROM charge_aside");
            row.fetch_one(&mut self.conn).await.unwrap()
        })
    }
}

fn id(no: u32) -> i64 {
    Shard::new(1, 0).unwrap().id(no)
}

fn key(no: u32, day: i8) -> ChargeKey {
    ChargeKey { subscription_id: id(no), period: period(day).number() }
}

fn period(day: i8) -> Period {
    Period::starting(jiff::civil::date(2026, 12, day), 0).unwrap()
}

fn subscriber(no: u32) -> NewSubscriber {
    NewSubscriber {
        id: id(no),
        zone_no: 1,
        kek_version: 1,
        msisdn_hmac: vec![no as u8; 32],
        key_salt: vec![no as u8; 16],
        msisdn_ct: vec![1; 40],
    }
}

fn subscription(no: u32, line: u32) -> NewSubscription {
    let (seed, digest) = RefSeed::derive("demo", &format!("ref-{no}"), 0);
    NewSubscription {
        consent_until_ms: None,
        id: id(no),
        subscriber_id: id(line),
        ref_seed: seed.0,
        digest: digest.to_vec(),
        due_minor: 1_500,
        next_at_ms: Some(BUSINESS_MS + i64::from(no) - 2),
        plan_no: 1,
        merchant_no: 1,
        anchor_day: period(3).number() / 2_048,
        period: period(3).number(),
        zone_no: 1,
        anchor_minute: 420,
        currency: TND,
        state: 4,
        next_kind: 1,
        state_until_ms: None,
    }
}

#[test]
fn subscriptions_are_found_by_reference_and_line() {
    let mut base = Base::start();
    let (runtime, conn) = (&base.runtime, &mut base.conn);
    runtime.block_on(async {
        let place = subscription_place(conn, id(2)).await.unwrap().unwrap();
        assert_eq!(
            (&*place.plan, &*place.merchant, &*place.carrier, &*place.zone),
            ("daily", "demo", "medina", "Africa/Tunis")
        );
        assert_eq!((place.owner_slot, place.book_version, place.newest_book_version), (None, 1, 1));
        assert_eq!(subscription_place(conn, id(9)).await.unwrap(), None);
        let (seed, digest) = RefSeed::derive("demo", "ref-3", 0);
        assert_eq!(by_reference(conn, seed.0, &digest).await.unwrap(), Some(id(3)));
        assert_eq!(by_reference(conn, seed.0, &[0; 32]).await.unwrap(), None, "the seed alone is not enough");
        assert_eq!(by_ref_seed(conn, seed.0).await.unwrap(), Some(id(3)));
        assert_eq!(carrier_numbers(conn).await.unwrap(), [("medina".to_owned(), 1)]);
        assert_eq!(by_msisdn_hmac(conn, &[2; 32], 10).await.unwrap(), [id(2), id(3)]);
        assert_eq!(by_msisdn_hmac(conn, &[2; 32], 1).await.unwrap(), [id(2)]);
        assert!(by_msisdn_hmac(conn, &[9; 32], 10).await.unwrap().is_empty());
        let stopped = stop_subscription(conn, id(3), BUSINESS_MS).await.unwrap();
        assert_eq!(stopped, Some(BUSINESS_MS));
        assert_eq!(subscription_place(conn, id(3)).await.unwrap().unwrap().waiting, 1);
        assert!(book_files(conn, 1).await.unwrap().unwrap().contains("daily.toml"));
        assert_eq!(book_files(conn, 2).await.unwrap(), None);
    });
}

#[test]
fn a_charge_is_listed_with_its_last_attempt_its_note_and_its_money() {
    let mut base = Base::start();
    base.intent(1, 1, 1, 50);
    base.outcome(1, 1, 1, 6, 0, ChargeState::Open);
    base.intent(1, 1, 2, 40);
    base.outcome(1, 1, 2, 5, 1_500, ChargeState::Settled);
    base.intent(1, 2, 1, 30);
    base.open(1, 2, 1, 2, 5);
    base.intent(2, 3, 1, 1);
    base.run(
        "INSERT INTO charge_note (subscription_id, until_ms, at, business_at_ms, period, rev, kind, charge_state, rule_id)
         SELECT s.id, NULL, now(), 5, s.period - 2048, 4, 1, 10, 11 FROM subscription s WHERE s.id & 15 = 3",
    );
    let (runtime, conn) = (&base.runtime, &mut base.conn);
    runtime.block_on(async {
        let keys = [key(1, 1), key(1, 2), key(1, 3), key(2, 3), key(3, 2), key(3, 1), key(9, 1)];
        let rows = charges_by_key(conn, &keys).await.unwrap();
        let seen: Vec<_> = rows
            .iter()
            .map(|row| {
                let last = row.last.map(|last| (last.attempt_no, last.state));
                (row.key, row.state(), row.exists(), row.due_minor, row.collected_minor, last)
            })
            .collect();
        let state = |state: ChargeState| state as i16;
        assert_eq!(
            seen,
            [
                (key(1, 1), state(ChargeState::Settled), true, Some(1_500), 1_500, Some((2, 5))),
                (key(1, 2), state(ChargeState::Waiting), true, Some(1_500), 0, Some((1, 3))),
                (key(1, 3), state(ChargeState::Open), true, Some(1_500), 0, None),
                (key(2, 3), state(ChargeState::Waiting), true, Some(1_500), 0, Some((1, 1))),
                (key(3, 2), state(ChargeState::Skipped), true, None, 0, None),
                (key(3, 1), state(ChargeState::Open), false, None, 0, None),
            ],
            "a subscription that does not exist has no charges"
        );
        let of = charges_of(conn, id(1), &KeyRange::ALL, 10).await.unwrap();
        assert_eq!(of, [key(1, 3), key(1, 2), key(1, 1)]);
        let day_2 =
            KeyRange { period_from: period(2).number(), period_to: period(3).number(), ..KeyRange::ALL };
        assert_eq!(charges_of(conn, id(1), &day_2, 10).await.unwrap(), [key(1, 2)]);
        let attempts = attempts(conn, id(1), period(2).number()).await.unwrap();
        assert_eq!((attempts.len(), attempts[0].state, attempts[0].reason), (1, 3, Some(80)));
        assert!(attempts[0].open_since_us.is_some());
        let notes = notes(conn, id(3), period(2).number()).await.unwrap();
        assert_eq!((notes.len(), notes[0].rev, notes[0].rule_id), (1, 4, 11));
    });
}

#[test]
fn a_search_goes_back_in_time_without_missing_or_repeating_a_window() {
    let mut base = Base::start();
    for (no, seconds_ago) in [(1, 2), (2, 400), (3, 90_000)] {
        base.intent(no, 1, 1, seconds_ago);
    }
    base.run("ALTER TABLE book_version DISABLE TRIGGER append_only");
    base.run("UPDATE book_version SET applied_at = now() - interval '30 days'");
    // More than one window may read, at one instant and spread out.
    base.run(
        "INSERT INTO attempt_intent
         SELECT (4096::bigint << 32) + 1000 + n, 1500, 0, 0, 0, 1, 99,
                now() - interval '5000 seconds' - n * interval '1 millisecond', 0, s.period, 1, 1, 1, 0, 0, 788, 1
           FROM subscription s, generate_series(1, 9000) AS n WHERE s.id & 15 = 1",
    );
    let found = |base: &mut Base, range: KeyRange| {
        base.runtime.block_on(async {
            let mut search = Backwards::new(range, false);
            let mut all = Vec::new();
            let mut steps = 0;
            while let Some(step) = search.step(&mut base.conn).await.unwrap() {
                assert!(step.len() <= 4_001);
                all.extend(step);
                steps += 1;
                assert!(steps < 200, "windows grow");
            }
            all
        })
    };
    let all = found(&mut base, KeyRange::ALL);
    assert_eq!(all.len(), 9_003);
    assert!(all.windows(2).all(|pair| pair[0].1 >= pair[1].1), "the latest first");
    assert_eq!((all[0].0, all[1].0, all[9_002].0), (key(1, 1), key(2, 1), key(3, 1)));
    let distinct: std::collections::HashSet<_> = all.iter().map(|(key, _)| *key).collect();
    assert_eq!(distinct.len(), all.len());
    let one = found(&mut base, KeyRange { id_from: id(3), id_to: id(3), ..KeyRange::ALL });
    assert_eq!(one.iter().map(|(key, _)| *key).collect::<Vec<_>>(), [key(3, 1)]);
}

#[test]
fn status_counts_what_is_open_due_and_done() {
    let mut base = Base::start();
    base.intent(1, 1, 1, 0);
    base.open(1, 1, 1, 2, 60);
    base.intent(2, 1, 1, 0);
    base.open(2, 1, 1, 2, 5);
    base.intent(3, 1, 1, 0);
    base.intent(3, 2, 1, 0);
    base.outcome(3, 2, 1, 5, 1_500, ChargeState::Settled);
    base.run("UPDATE subscription SET flags = 1 WHERE id & 15 = 3");
    base.run("UPDATE shard_progress SET low_water = now() - interval '1 minute'");
    base.run("INSERT INTO case_file (subscription_id, kind, what) VALUES (1, 'quarantine', 'x'), (2, 'quarantine', 'y')");
    let (runtime, conn) = (&base.runtime, &mut base.conn);
    runtime.block_on(async {
        let minute = |minute_ms, count, amount_minor| MinuteRow {
            minute_ms,
            carrier_no: 1,
            plan_no: 1,
            zone_no: 1,
            class: 5,
            reason: 1,
            charge_state: 4,
            count,
            amount_minor,
        };
        let minutes = [
            minute(BUSINESS_MS - 60_000, 7, 700),
            minute(BUSINESS_MS, 2, 3_000),
            minute(BUSINESS_MS + 60_000, 1, 1_500),
        ];
        append_minutes(conn, 99, &minutes).await.unwrap();
        reading(conn, 5_000).await.unwrap();
        let counts = subscription_counts(conn, BUSINESS_MS, 5_000).await.unwrap().unwrap();
        assert_eq!(counts, [StateCount { state: 4, count: 3, due: 2, quarantined: 1 }]);
        let sums = open_sums(conn).await.unwrap();
        assert_eq!((sums.len(), sums[0].kind, sums[0].count, sums[0].amount_minor), (1, 2, 2, 3_000));
        assert_eq!(intents_without_answer(conn, 100).await.unwrap(), 1);
        let unknown = open_attempts(conn, 2, &KeyRange::ALL, 10).await.unwrap();
        assert_eq!(
            unknown.iter().map(|row| row.subscription_id).collect::<Vec<_>>(),
            [id(1), id(2)],
            "oldest first"
        );
        assert_eq!(unknown[0].since_us, sums[0].oldest_us);
        assert_eq!(case_counts(conn).await.unwrap(), [CaseCount { kind: "quarantine".into(), count: 2 }]);
        assert_eq!(zones(conn).await.unwrap(), [(1, "Africa/Tunis".into())]);
        let today = charges_since(conn, &[(1, BUSINESS_MS)]).await.unwrap();
        assert_eq!(today.len(), 1);
        assert_eq!((&*today[0].carrier, today[0].count, today[0].amount_minor), ("medina", 3, 4_500));
        assert!(charges_since(conn, &[]).await.unwrap().is_empty());
        let facts = server_facts(conn).await.unwrap();
        assert!(facts.version_num >= 150_000 && facts.has_tables && facts.data_checksums == "on");
        assert!(facts.partitions_until.is_some_and(|until| until > period(1).number()));
        let now = business_now(conn).await.unwrap();
        assert!((now.machine_ms - jiff::Timestamp::now().as_millisecond()).abs() < 10_000);
        // A reading connection cannot write, not even a stop.
        let stopped = stop_subscription(conn, id(1), 1).await;
        // As a standby refuses it: another server may take it.
        assert!(stopped.is_err_and(|error| error.is_transient() && error.to_string().contains("read-only")));
    });
}

#[test]
fn counting_is_given_up_in_time() {
    let mut base = Base::start();
    base.run(
        "INSERT INTO subscription
         SELECT s.id + (n << 8), s.subscriber_id, s.ref_seed, 1500, 0, 0, NULL, NULL, NULL, NULL, 1, 1, 1, 1, 1, 0, 0, 1,
                1, 788, 4, 0, 0, 0, 0, 0, 1
           FROM subscription s, generate_series(1::bigint, 300000) AS n WHERE s.id & 15 = 1",
    );
    let (runtime, conn) = (&base.runtime, &mut base.conn);
    runtime.block_on(async {
        assert_eq!(subscription_counts(conn, 0, 1).await.unwrap(), None);
        let counts = subscription_counts(conn, 0, 60_000).await.unwrap().unwrap();
        assert_eq!(counts.iter().map(|count| count.count).sum::<i64>(), 300_003, "the connection goes on");
    });
}

#[test]
fn an_open_refund_stays_open_whatever_its_charge_does_until_its_own_outcome() {
    let mut base = Base::start();
    assert_eq!(base.charge_aside(0, 1), (1, 0, 0), "it left the subscription's row");
    base.run("UPDATE charge_aside SET attempt_no = 2, open = 2, refunded_minor = 700");
    assert_eq!(base.charge_aside(0, 1), (2, 2, 700), "a change without an attempt");
    assert_eq!(base.charge_aside(1, 1), (2, 2, 700), "an earlier attempt's outcome");
    assert_eq!(base.charge_aside(2, 2), (2, 0, 700), "its own");
}
