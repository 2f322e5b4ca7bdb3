#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::path::Path;

use billing_core::ids::Shard;
use storage::launcher::{LauncherOptions, PrivatePostgres};
use storage::pg::{connect, ensure_partitions, migrate};

use super::*;

const DAY: i32 = 9_872;
const PERIOD: i32 = DAY * 2_048;
const TND: i16 = 788;
/// Long before any snapshot of these tests, microseconds since 1970.
const EARLIER_US: i64 = 1_700_000_000_000_000;

struct World {
    _server: PrivatePostgres,
    conn: PgConnection,
    ledger: String,
    lines: u32,
    dir: PathBuf,
    _guard: Scratch,
}

struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl World {
    async fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("toll-compare-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let mut options = LauncherOptions::new(dir.join("postgres"), "tollbook");
        options.durable = false;
        let server = tokio::task::spawn_blocking(|| PrivatePostgres::start(options)).await.unwrap().unwrap();
        let mut conn = connect(&server.url(), "compare test").await.unwrap();
        migrate(&mut conn).await.unwrap();
        ensure_partitions(&mut conn, DAY - 7, DAY + 7).await.unwrap();
        let carriers =
            "INSERT INTO carrier (id, currency, slices) VALUES ('medina', 788, 1), ('alfa', 978, 1)";
        sqlx::query(carriers).execute(&mut conn).await.unwrap();
        let guard = Scratch(dir.clone());
        Self { _server: server, conn, ledger: String::new(), lines: 0, dir, _guard: guard }
    }

    /// A subscription at the first carrier, whose reference seed is its number.
    async fn subscription(&mut self, no: u32, period: i32, due_minor: i64) -> i64 {
        let id = Shard(1 << 12).id(no);
        sqlx::query(
            "INSERT INTO subscription (id, subscriber_id, ref_seed, due_minor, plan_no, merchant_no, book_version,
                                       anchor_day, period, zone_no, anchor_minute, currency, state, next_kind)
             VALUES ($1, $1, $2, $3, 1, 1, 1, $4, $5, 1, 0, $6, 4, 1)",
        )
        .bind(id)
        .bind(i64::from(no))
        .bind(due_minor)
        .bind(DAY)
        .bind(period)
        .bind(TND)
        .execute(&mut self.conn)
        .await
        .unwrap();
        id
    }

    async fn intent(&mut self, no: u32, attempt_no: i16, amount_minor: i64) {
        self.intent_op(no, attempt_no, amount_minor, Op::Charge).await;
    }

    async fn intent_op(&mut self, no: u32, attempt_no: i16, amount_minor: i64, op: Op) {
        sqlx::query(
            "INSERT INTO attempt_intent (subscription_id, amount_minor, digest_hi, digest_lo, not_before_ms, not_after_ms,
                 incarnation, intent_at, business_at_ms, period, book_version, attempt_no, op, round, step, currency, rule_id)
             VALUES ($1, $2, 0, 0, 0, 1, 1, now(), 0, $3, 1, $4, $6, 0, 0, $5, 1)",
        )
        .bind(Shard(1 << 12).id(no))
        .bind(amount_minor)
        .bind(PERIOD)
        .bind(attempt_no)
        .bind(TND)
        .bind(op as i16)
        .execute(&mut self.conn)
        .await
        .unwrap();
    }

    /// `class` 5 is approved, 6 declined.
    async fn outcome(&mut self, no: u32, attempt_no: i16, class: i16, moved_minor: i64) {
        sqlx::query(
            "INSERT INTO attempt_outcome (subscription_id, moved_minor, collected_after, incarnation, decided_at,
                 business_at_ms, period, latency_us, attempt_no, class, reason, charge_state, rule_id)
             VALUES ($1, $2, 0, 1, now(), 0, $3, 1, $4, $5, 1, 1, 1)",
        )
        .bind(Shard(1 << 12).id(no))
        .bind(moved_minor)
        .bind(PERIOD)
        .bind(attempt_no)
        .bind(class)
        .execute(&mut self.conn)
        .await
        .unwrap();
    }

    async fn unknown(&mut self, no: u32, attempt_no: i16, amount_minor: i64) {
        sqlx::query(
            "INSERT INTO attempt_open (subscription_id, amount_minor, period, attempt_no, kind, reason, rule_id, currency)
             VALUES ($1, $2, $3, $4, 2, 80, 1, $5)",
        )
        .bind(Shard(1 << 12).id(no))
        .bind(amount_minor)
        .bind(PERIOD)
        .bind(attempt_no)
        .bind(TND)
        .execute(&mut self.conn)
        .await
        .unwrap();
    }

    /// Subscription, attempt and an approval of it, all fine.
    async fn approved(&mut self, no: u32, amount_minor: i64) {
        self.subscription(no, PERIOD + 2_048, amount_minor).await;
        self.intent(no, 1, amount_minor).await;
        self.outcome(no, 1, 5, amount_minor).await;
    }

    fn line(&mut self, key: &str, amount_minor: i64, currency: &str, status: &str, at_us: i64) {
        self.line_op("charge", key, amount_minor, currency, status, at_us);
    }

    fn line_op(&mut self, op: &str, key: &str, amount_minor: i64, currency: &str, status: &str, at_us: i64) {
        self.lines += 1;
        let seq = self.lines;
        self.ledger.push_str(&format!(
            "{{\"seq\":{seq},\"at_us\":{at_us},\"key\":\"{key}\",\"msisdn\":\"21655501234\",\"op\":\"{op}\",\
             \"amount\":{amount_minor},\"currency\":\"{currency}\",\"status\":\"{status}\",\"reason\":\"\",\
             \"txn\":\"f-{seq:012}\",\"reply\":\"charged\",\"text\":\"Kids\"}}\n"
        ));
    }

    fn applied(&mut self, no: u32, attempt_no: i16, amount_minor: i64) {
        self.line(&key(no, attempt_no), amount_minor, "TND", "applied", EARLIER_US);
    }

    async fn compare(&mut self) -> Result<Comparison, CompareError> {
        let path = self.dir.join("medina.ndjson");
        std::fs::write(&path, &self.ledger).unwrap();
        compare(&mut self.conn, &[CarrierLedger { carrier: "medina".to_owned(), path }]).await
    }
}

fn key(no: u32, attempt_no: i16) -> String {
    OurRef::new(RefSeed(i64::from(no)), Period::from_number(PERIOD).unwrap(), attempt_no).unwrap().to_string()
}

fn kinds(found: &Comparison) -> BTreeSet<(DifferenceKind, String)> {
    found.differences.iter().map(|difference| (difference.kind, difference.key.clone())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn books_that_agree_agree_and_every_planted_difference_is_found() {
    let mut world = World::new("kinds").await;

    // What must not be a difference: approved and applied, declined and not, unknown either way, an intent alone.
    for no in 1..=3 {
        world.approved(no, 500).await;
        world.applied(no, 1, 500);
    }
    world.subscription(4, PERIOD, 500).await;
    world.intent(4, 1, 500).await;
    world.outcome(4, 1, 6, 0).await;
    world.line(&key(4, 1), 500, "TND", "refused", EARLIER_US);
    world.intent(4, 2, 300).await;
    world.unknown(4, 2, 300).await;
    world.applied(4, 2, 300);
    world.subscription(5, PERIOD, 500).await;
    world.intent(5, 1, 500).await;
    world.unknown(5, 1, 500).await;
    world.subscription(6, PERIOD, 500).await;
    world.intent(6, 1, 500).await;
    world.applied(6, 1, 500);
    world.line(&key(1, 1), 500, "TND", "replayed", EARLIER_US);
    // Younger than our snapshot, so its intent may be too; and a line that is still being written.
    world.line(&key(60, 1), 500, "TND", "applied", i64::MAX);
    world.ledger.push_str("{\"seq\":99,\"at_us\":1,\"key\":\"");
    let found = world.compare().await.unwrap();
    assert!(found.agrees(), "{found:?}");
    assert_eq!((found.applied_by_carrier, found.approved, found.equal), (5, 3, 3));
    assert_eq!((found.unknown_listed, found.unknown_applied), (3, 2));
    let sums = Sums { ours_minor: 1_500, theirs_minor: 2_300 };
    assert_eq!(found.collected, BTreeMap::from([("TND".to_owned(), sums)]));

    // One of each kind.
    world.ledger.truncate(world.ledger.rfind('\n').unwrap() + 1);
    world.applied(70, 1, 500);
    world.line("not-a-key-of-ours", 500, "TND", "applied", EARLIER_US);
    world.subscription(11, PERIOD, 500).await;
    world.intent(11, 1, 500).await;
    world.outcome(11, 1, 6, 0).await;
    world.applied(11, 1, 500);
    world.approved(12, 500).await;
    world.applied(12, 1, 499);
    world.approved(13, 500).await;
    world.line(&key(13, 1), 500, "EUR", "applied", EARLIER_US);
    world.approved(14, 500).await;
    world.applied(1, 1, 500);
    // Three steps of a ladder that all came through: 500 were due, 600 were collected, each equal by itself.
    world.subscription(15, PERIOD + 2_048, 500).await;
    for (attempt_no, amount) in [(1, 500), (2, 60), (3, 40)] {
        world.intent(15, attempt_no, amount).await;
        world.outcome(15, attempt_no, 5, amount).await;
        world.applied(15, attempt_no, amount);
    }
    world.subscription(16, PERIOD, 500).await;
    world.outcome(16, 1, 6, 0).await;
    let found = world.compare().await.unwrap();
    let expected = BTreeSet::from([
        (DifferenceKind::NotOurs, key(70, 1)),
        (DifferenceKind::NotOurs, "not-a-key-of-ours".to_owned()),
        (DifferenceKind::AppliedButRefused, key(11, 1)),
        (DifferenceKind::AmountDiffers, key(12, 1)),
        (DifferenceKind::AmountDiffers, key(13, 1)),
        (DifferenceKind::ApprovedNotApplied, key(14, 1)),
        (DifferenceKind::AppliedTwice, key(1, 1)),
        (DifferenceKind::OverCollected, String::new()),
        (DifferenceKind::OutcomeWithoutIntent, String::new()),
    ]);
    assert_eq!(kinds(&found), expected, "{:#?}", found.differences);
    assert_eq!(found.differences_total, 9);
    let over = found.differences.iter().find(|d| d.kind == DifferenceKind::OverCollected).unwrap();
    assert_eq!((&over.ours, &over.theirs), (&Some((600, "TND".to_owned())), &Some((600, "TND".to_owned()))));
    assert!(over.to_string().contains(", ours 600 TND minor"), "{over}");
    assert_eq!(found.not_compared, Vec::<String>::new());
    assert_eq!(compare(&mut world.conn, &[]).await.unwrap().not_compared, ["medina"]);

    // Many differences stay bounded, and the rows of many chunks are all seen.
    sqlx::query(
        "INSERT INTO subscription (id, subscriber_id, ref_seed, due_minor, plan_no, merchant_no, book_version,
                anchor_day, period, zone_no, anchor_minute, currency, state, next_kind)
         SELECT (4096::bigint << 32) + n, n, n, 500, 1, 1, 1, $1, $2, 1, 0, 788, 4, 1 FROM generate_series(1000, 50999) AS n",
    )
    .bind(DAY)
    .bind(PERIOD)
    .execute(&mut world.conn)
    .await
    .unwrap();
    sqlx::query(
        "INSERT INTO attempt_intent SELECT s.id, 500, 0, 0, 0, 1, 1, now(), 0, $1, 1, 1, 1, 0, 0, 788, 1
           FROM subscription s WHERE s.ref_seed >= 1000",
    )
    .bind(PERIOD)
    .execute(&mut world.conn)
    .await
    .unwrap();
    sqlx::query(
        "INSERT INTO attempt_outcome SELECT s.id, 500, 500, 1, now(), 0, $1, 1, 1, 5, 1, 4, 30, NULL, NULL
           FROM subscription s WHERE s.ref_seed >= 1000",
    )
    .bind(PERIOD)
    .execute(&mut world.conn)
    .await
    .unwrap();
    let found = world.compare().await.unwrap();
    assert_eq!((found.differences_total, found.differences.len()), (50_009, DIFFERENCES_MAX));
    for no in 1_000..51_000 {
        world.applied(no, 1, 500);
    }
    assert_eq!(world.compare().await.unwrap().differences_total, 9);

    let broken = world.ledger.replacen("\"seq\":2,", "\"seq\":2", 1);
    world.ledger = broken;
    let refused = world.compare().await.unwrap_err();
    assert!(matches!(&refused, CompareError::BadLine { line: 2, .. }), "{refused}");
    let nowhere = [CarrierLedger { carrier: "beta".to_owned(), path: Path::new("/").to_owned() }];
    assert!(matches!(compare(&mut world.conn, &nowhere).await, Err(CompareError::UnknownCarrier(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn refunds_count_against_what_was_collected_and_reservations_not_at_all() {
    let mut world = World::new("refunds").await;
    // Charged, and a part given back on both sides.
    world.approved(1, 500).await;
    world.applied(1, 1, 500);
    world.intent_op(1, 2, 200, Op::Refund).await;
    world.outcome(1, 2, 5, 200).await;
    world.line_op("refund", &key(1, 2), 200, "TND", "applied", EARLIER_US);
    // Two phases: only the confirm collects.
    world.subscription(2, PERIOD + 2_048, 300).await;
    for (no, op, name) in [(1, Op::Reserve, "reserve"), (2, Op::Confirm, "confirm")] {
        world.intent_op(2, no, 300, op).await;
        world.line_op(name, &key(2, no), 300, "TND", "applied", EARLIER_US);
    }
    world.outcome(2, 2, 5, 300).await;
    let found = world.compare().await.unwrap();
    assert!(found.agrees(), "{found:?}");
    let sums = Sums { ours_minor: 600, theirs_minor: 600 };
    assert_eq!(found.collected, BTreeMap::from([("TND".to_owned(), sums)]));
    assert_eq!((found.applied_by_carrier, found.approved, found.equal), (2, 2, 2));

    // Given back by them alone, by us alone, and with another amount.
    world.line_op("refund", &key(80, 1), 100, "TND", "applied", EARLIER_US);
    for (no, theirs) in [(3, None), (4, Some(90))] {
        world.approved(no, 500).await;
        world.applied(no, 1, 500);
        world.intent_op(no, 2, 100, Op::Refund).await;
        world.outcome(no, 2, 5, 100).await;
        if let Some(theirs) = theirs {
            world.line_op("refund", &key(no, 2), theirs, "TND", "applied", EARLIER_US);
        }
    }
    let found = world.compare().await.unwrap();
    let expected = BTreeSet::from([
        (DifferenceKind::NotOurs, key(80, 1)),
        (DifferenceKind::ApprovedNotApplied, key(3, 2)),
        (DifferenceKind::AmountDiffers, key(4, 2)),
    ]);
    assert_eq!((kinds(&found), found.differences_total), (expected, 3));
}
