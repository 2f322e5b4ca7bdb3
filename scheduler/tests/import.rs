//! Importing subscribers from CSV, against a real Postgres of our own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "import_world/mod.rs"]
mod world;

use std::collections::HashMap;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use scheduler::import::{ImportError, ImportProgress, ImportReport, LINE_BYTES_MAX, RejectFile, Rejected};
use storage::pg::{connect, msisdn_aad};
use world::{NOW, World};

fn counts(report: &ImportReport) -> (u64, u64, u64, u64, u64) {
    (report.rows, report.created, report.existing, report.rejected, report.subscribers_created)
}

const SEVERAL: &str = "\
reference,msisdn,plan,zone,start
r-1,34600000001,alfa-news-daily,,
r-2,+34600000002,alfa-news-daily,Atlantic/Canary,2026-12-01
r-3,34600000001,alfa-games-monthly,,2026-11-30
\"r,\"\"4\"\"\",21620000001,medina-kids-daily,Africa/Tunis,2026-11-25
r-5,21620000001,medina-ringtone-once,,2026-10-01
名前-6,819012345678,hoshi-anime-monthly,,

r-7,34600000003,alfa-alerts-weekly,,2026-11-22
";

#[tokio::test]
async fn carriers_zones_and_starts() {
    let mut world = World::start("happy").await;
    let (report, rejects) = world.import(SEVERAL).await;
    assert_eq!(rejects, []);
    assert_eq!(counts(&report), (7, 7, 0, 0, 5));

    let rows: Vec<(String, String, i32, i64, i64, i16, i16, i64, i16, i16)> = sqlx::query_as(
        "SELECT p.id, z.name, s.anchor_day, s.period::bigint, s.next_at_ms, s.state, s.next_kind, s.due_minor, s.currency,
                s.anchor_minute
           FROM subscription s JOIN plan p USING (plan_no) JOIN zone z ON z.zone_no = s.zone_no
           JOIN subscriber r ON r.id = s.subscriber_id AND r.zone_no = s.zone_no",
    )
    .fetch_all(&mut world.conn)
    .await
    .unwrap();
    let by_plan = |plan: &str, zone: &str| {
        let found: Vec<_> = rows.iter().filter(|row| row.0 == plan && row.1 == zone).collect();
        assert_eq!(found.len(), 1, "{plan} {zone}");
        let (_, _, day, period, at, state, kind, due, currency, minute) = found[0];
        assert_eq!((*state, *kind), (1, 1), "{plan}");
        let start = jiff::civil::date(2000, 1, 1).saturating_add(jiff::Span::new().days(*day)).to_string();
        let first = jiff::civil::date(2000, 1, 1).saturating_add(jiff::Span::new().days(period / 2_048));
        let due_at = jiff::Timestamp::from_millisecond(*at).unwrap();
        (start, first.to_string(), due_at, *minute, *due, *currency)
    };
    // What the book says, in the subscriber's zone: start, first period, first minute (UTC), spread, price.
    for (plan, zone, start, first, opens, spread_min, price, currency) in [
        ("alfa-news-daily", "Europe/Madrid", "2026-11-21", "2026-11-21", "2026-11-21T06:00:00Z", 90, 50, 978),
        (
            "alfa-news-daily",
            "Atlantic/Canary",
            "2026-12-01",
            "2026-12-01",
            "2026-12-01T07:00:00Z",
            90,
            50,
            978,
        ),
        (
            "alfa-games-monthly",
            "Europe/Madrid",
            "2026-11-30",
            "2026-11-30",
            "2026-11-30T09:00:00Z",
            240,
            499,
            978,
        ),
        (
            "medina-kids-daily",
            "Africa/Tunis",
            "2026-11-25",
            "2026-11-25",
            "2026-11-25T05:00:00Z",
            120,
            500,
            788,
        ),
        (
            "medina-ringtone-once",
            "Africa/Tunis",
            "2026-10-01",
            "2026-10-01",
            "2026-09-30T23:00:00Z",
            1,
            1200,
            788,
        ),
        // Already the next day in Tokyo.
        (
            "hoshi-anime-monthly",
            "Asia/Tokyo",
            "2026-11-22",
            "2026-11-22",
            "2026-11-22T02:00:00Z",
            360,
            550,
            392,
        ),
        // A Sunday; the plan charges on Mondays and Thursdays.
        (
            "alfa-alerts-weekly",
            "Europe/Madrid",
            "2026-11-22",
            "2026-11-23",
            "2026-11-23T08:00:00Z",
            180,
            99,
            978,
        ),
    ] {
        let found = by_plan(plan, zone);
        assert_eq!(
            (found.0.as_str(), found.1.as_str(), found.4, found.5),
            (start, first, price, currency),
            "{plan}"
        );
        let opens: jiff::Timestamp = opens.parse().unwrap();
        let late_s = found.2.duration_since(opens).as_secs();
        assert!((0..(spread_min + 1) * 60).contains(&late_s), "{plan}: {late_s} s after {opens}");
        assert!((0..1_440).contains(&found.3));
    }
    // A charge of last month has its place, and so has every week since.
    let missing: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM generate_series(9770, 9821) AS day
          WHERE NOT EXISTS (SELECT FROM period_partition WHERE low_period <= day * 2048 AND day * 2048 < high_period)",
    )
    .fetch_one(&mut world.conn)
    .await
    .unwrap();
    assert_eq!(missing, 0, "days from 2026-10-01 to 2026-11-21 without partitions");
}

#[tokio::test]
async fn the_msisdn_is_kept_only_sealed_and_hashed() {
    let mut world = World::start("sealed").await;
    world.import(SEVERAL).await;
    let dump = world.dump().await;
    assert!(dump.contains("alfa-news-daily"), "the dump holds what is kept in the clear");
    for msisdn in ["34600000001", "34600000002", "21620000001", "819012345678", "34600000003"] {
        let hex: String = msisdn.bytes().map(|byte| format!("{byte:02x}")).collect();
        assert!(!dump.contains(msisdn) && !dump.contains(&hex), "{msisdn} stands in a table");
        let hmac = world.kit.vault.msisdn_hmac(msisdn).to_vec();
        let (id, salt, version, sealed): (i64, Vec<u8>, i16, Vec<u8>) = sqlx::query_as(
            "SELECT id, key_salt, kek_version, msisdn_ct FROM subscriber JOIN msisdn_directory d ON d.subscriber_id = id
              WHERE d.msisdn_hmac = $1 AND subscriber.msisdn_hmac = $1 AND d.carrier_no = (id >> 44)::int",
        )
        .bind(hmac)
        .fetch_one(&mut world.conn)
        .await
        .unwrap();
        let key = world.kit.vault.subscriber_key(&salt, version).unwrap();
        assert_eq!(key.open(&msisdn_aad(id), &sealed).unwrap(), msisdn.as_bytes());
        assert!(key.open(&msisdn_aad(id + 1), &sealed).is_err(), "opens under its own subscriber's id only");
    }
    let salts: i64 = sqlx::query_scalar("SELECT count(DISTINCT key_salt) FROM subscriber")
        .fetch_one(&mut world.conn)
        .await
        .unwrap();
    assert_eq!(salts, 5);
}

#[tokio::test]
async fn the_same_file_again_changes_nothing() {
    let mut world = World::start("again").await;
    world.import(SEVERAL).await;
    let before = world.dump().await;
    for batch_rows in [1, 3, 5_000] {
        world.kit.batch_rows = batch_rows;
        let (report, rejects) = world.import(SEVERAL).await;
        assert_eq!((counts(&report), rejects), ((7, 0, 7, 0, 0), vec![]));
        assert_eq!(world.dump().await, before, "in batches of {batch_rows}");
    }
    // The next day, lines without a start are still the same subscriptions.
    world.kit.now = NOW.checked_add(Duration::from_secs(86_400)).unwrap();
    assert_eq!(counts(&world.import(SEVERAL).await.0), (7, 0, 7, 0, 0));
    assert_eq!(world.dump().await, before);
}

#[tokio::test]
async fn bad_lines_are_rejected_with_line_and_reason() {
    let mut world = World::start("bad").await;
    let long_reference = "r".repeat(65);
    let good = |n: u32| format!("346000001{n:02},alfa-news-daily,good-{n},,");
    let bad: Vec<(String, &str)> = vec![
        ("34600000001,alfa-news-dialy,b,,".into(), "the book has no such plan, alfa-news-daily comes near"),
        ("34600000001,,b,,".into(), "the book has no such plan"),
        (",alfa-news-daily,b,,".into(), "7 to 15 digits"),
        ("0034600000001,alfa-news-daily,b,,".into(), "7 to 15 digits"),
        ("34 600000001,alfa-news-daily,b,,".into(), "7 to 15 digits"),
        ("21620000001,alfa-news-daily,b,,".into(), "prefix 34"),
        ("346000000011,alfa-news-daily,b,,".into(), "has 12 digits, the carrier's have 11"),
        ("34600000001,alfa-news-daily,,,".into(), "1 to 64 characters"),
        (format!("34600000001,alfa-news-daily,{long_reference},,"), "1 to 64 characters"),
        ("34600000001,alfa-news-daily, b,,".into(), "printable characters only"),
        ("34600000001,alfa-news-daily,a\u{202e}b,,".into(), "printable characters only"),
        ("34600000001,alfa-news-daily,4111111111111111,,".into(), "payment card"),
        ("34600000001,alfa-news-daily,4111-1111 1111-1111,,".into(), "payment card"),
        ("34600000001,alfa-news-daily,b,Africa/Tunis,".into(), "Europe/Madrid, Atlantic/Canary"),
        ("34600000001,alfa-news-daily,b,europe/madrid,".into(), "Europe/Madrid, Atlantic/Canary"),
        ("34600000001,alfa-news-daily,b,,21.11.2026".into(), "of the form 2026-11-21"),
        ("34600000001,alfa-news-daily,b,,2026-11-31".into(), "of the form 2026-11-21"),
        ("34600000001,alfa-news-daily,b,,20261121".into(), "of the form 2026-11-21"),
        ("34600000001,alfa-news-daily,b,,2025-10-16".into(), "more than 400 days from 2026-11-21"),
        ("34600000001,alfa-news-daily,b,,2027-12-27".into(), "more than 400 days from 2026-11-21"),
        ("34600000001,alfa-news-daily,b,".into(), "4 columns, the header has 5"),
        ("34600000001,alfa-news-daily,b,,,".into(), "6 columns, the header has 5"),
        ("34600000100,alfa-games-monthly,good-0,,".into(), "exists already, for another plan"),
        ("34600000002,alfa-news-daily,good-0,,".into(), "exists already, for another number"),
        ("34600000101,alfa-news-daily,good-0,,".into(), "exists already, for another number"),
        ("34600000100,alfa-news-daily,good-0,Atlantic/Canary,".into(), "exists already, in another zone"),
        (
            "34600000100,alfa-news-daily,good-0,,2026-11-22".into(),
            "exists already, with the start 2026-11-21",
        ),
        ("34600000100,alfa-games-monthly,b,Atlantic/Canary,".into(), "in the zone Europe/Madrid"),
    ];
    let mut file = "msisdn,plan,reference,zone,start\n".to_owned();
    for (n, (line, _)) in bad.iter().enumerate() {
        file += &format!("{}\n{line}\n", good(n as u32));
    }
    // Cut into batches in any way, the same lines are taken.
    let mut seen = Vec::new();
    for batch_rows in [7, 5_000, 1] {
        world.kit.batch_rows = batch_rows;
        let (report, rejects) = world.import(&file).await;
        assert_eq!((report.rejected, report.created + report.existing), (bad.len() as u64, bad.len() as u64));
        assert_eq!(report.created, if seen.is_empty() { bad.len() as u64 } else { 0 });
        for ((n, (line, reason)), rejected) in bad.iter().enumerate().zip(&rejects) {
            assert_eq!(rejected.line, 3 + 2 * n as u64, "{line}: {rejected:?}");
            assert!(rejected.reason.contains(reason), "{line}: {rejected:?}");
            assert!(!rejected.reason.contains("34600000"), "a reason shows no number: {rejected:?}");
            if !reason.contains("card") {
                assert_eq!(rejected.fields.join(","), *line);
            }
        }
        seen.push(rejects);
    }
    assert!(seen.iter().all(|rejects| *rejects == seen[0]));
    assert_eq!(seen[0][11].fields[2], "************1111", "a card's number is not kept");
    assert_eq!(seen[0][12].fields[2], "***************1111");
}

#[tokio::test]
async fn two_plans_of_a_line_share_the_subscriber() {
    let mut world = World::start("share").await;
    // In one batch, then against what is kept; the second plan follows the subscriber's zone.
    let first = "msisdn,plan,reference,zone\n\
                 34600000001,alfa-news-daily,a,Atlantic/Canary\n\
                 34600000001,alfa-games-monthly,b,\n";
    assert_eq!(counts(&world.import(first).await.0), (2, 2, 0, 0, 1));
    let later = "msisdn,plan,reference\n34600000001,alfa-alerts-weekly,c\n34600000001,alfa-alerts-weekly,d\n";
    assert_eq!(counts(&world.import(later).await.0), (2, 2, 0, 0, 0));
    let all: (i64, i64, i64, i64) = sqlx::query_as(
        "SELECT count(*), count(DISTINCT s.subscriber_id), count(DISTINCT s.zone_no), (SELECT count(*) FROM subscriber)
           FROM subscription s JOIN zone z ON z.zone_no = s.zone_no AND z.name = 'Atlantic/Canary'",
    )
    .fetch_one(&mut world.conn)
    .await
    .unwrap();
    assert_eq!(all, (4, 1, 1, 1));

    // A person who said stop is not charged on a new plan either.
    sqlx::query("UPDATE subscriber SET stop_at_ms = 5").execute(&mut world.conn).await.unwrap();
    world.import("msisdn,plan,reference\n34600000001,alfa-news-daily,e\n").await;
    let stops: i64 = sqlx::query_scalar("SELECT count(*) FROM subscription WHERE stop_at_ms = 5")
        .fetch_one(&mut world.conn)
        .await
        .unwrap();
    assert_eq!(stops, 1);
}

#[tokio::test]
async fn ids_are_dense_per_shard_and_follow_the_file() {
    let mut world = World::start("dense").await;
    world.kit.batch_rows = 100;
    let mut file = "msisdn,plan,reference\n".to_owned();
    for n in 0..1_000 {
        // Every third line has a second plan; every tenth is bad.
        file += &format!("8190{:08},hoshi-anime-monthly,a-{n}\n", n);
        if n % 3 == 0 {
            file += &format!("8190{:08},hoshi-manga-daily,b-{n}\n", n);
        }
        if n % 10 == 0 {
            file += &format!("8190{:08},hoshi-manga-daily,4111111111111111\n", n);
        }
    }
    let (report, _) = world.import(&file).await;
    assert_eq!(counts(&report), (1_434, 1_334, 0, 100, 1_000));
    for (table, counter, rows) in
        [("subscriber", "next_subscriber", 1_000), ("subscription", "next_subscription", 1_334)]
    {
        let shards: Vec<(i64, i64, i64, i64)> = sqlx::query_as(sqlx::AssertSqlSafe(format!(
            "SELECT count(*), min(id & 4294967295), max(id & 4294967295), c.{counter}
               FROM {table} JOIN shard_counter c ON c.shard = (id >> 32)::int GROUP BY c.shard, c.{counter}"
        )))
        .fetch_all(&mut world.conn)
        .await
        .unwrap();
        assert_eq!(shards.len(), 4, "hoshi's lines are cut into four shards");
        assert_eq!(shards.iter().map(|shard| shard.0).sum::<i64>(), rows);
        for (count, min, max, next) in shards {
            assert_eq!((min, max, next), (1, count, count + 1), "{table}");
            assert!(count > rows / 8, "slices are about equal: {count} of {rows}");
        }
    }
    // In the sequence of the file: its ids rise within each shard.
    let ids: Vec<(i64, i64)> = sqlx::query_as("SELECT ref_seed, subscription_id FROM subscription_ref")
        .fetch_all(&mut world.conn)
        .await
        .unwrap();
    let ids: HashMap<i64, i64> = ids.into_iter().collect();
    let mut last: HashMap<i64, i64> = HashMap::new();
    for line in file.lines().skip(1).filter(|line| !line.contains("4111")) {
        let reference = line.rsplit(',').next().unwrap();
        let id = ids[&billing_core::ids::RefSeed::derive("demo", reference, 0).0.0];
        let before = last.insert(id >> 32, id);
        assert!(before.is_none_or(|before| id == before + 1), "{reference}");
    }
    // The owners learn of every id.
    let told: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM subscription s WHERE EXISTS (
             SELECT FROM shard_inbox i WHERE i.kind = 1 AND i.shard = (s.id >> 32)::int
                AND substring(i.payload FOR 8) <= int8send(s.id) AND int8send(s.id) <= substring(i.payload FROM 9))",
    )
    .fetch_one(&mut world.conn)
    .await
    .unwrap();
    assert_eq!(told, 1_334);
}

#[tokio::test]
async fn hostile_files() {
    let mut world = World::start("hostile").await;
    let before = world.dump().await;
    for (header, why) in [
        (&b""[..], "the file is empty"),
        (b"\n\n\n", "column 1 has no known name"),
        (b"34600000001,alfa-news-daily,r\n", "column 1 has no known name"),
        (b"msisdn,plan\n34600000001,alfa-news-daily\n", "column reference is missing"),
        (b"msisdn,plan,reference,colour\n", "column 4 has no known name"),
        (b"msisdn,plan,reference,msisdn\n", "column 4 has a name that came before"),
        (b"msisdn,plan,\"reference\n", "not closed"),
        (b"msisdn,plan,refer\xffence\n", "not UTF-8"),
        (b"msisdn\0,plan,reference\n", "column 1 has no known name"),
        (&[b'a'; 1 << 20], "longer than 4096 bytes"),
    ] {
        match world.try_import(header).await {
            Err(ImportError::Header(text)) => assert!(text.contains(why), "{text}"),
            other => panic!("{why}: {other:?}"),
        }
    }
    assert_eq!(world.dump().await, before);

    let mut file = b"\xef\xbb\xbfmsisdn,plan,reference\r\n".to_vec();
    let mut expected = Vec::new();
    let huge = vec![b'9'; 3 << 20];
    let wide = vec![b','; LINE_BYTES_MAX];
    for (n, (line, why)) in [
        (&b"34600000001,alfa-news-daily,a\0b"[..], "control character"),
        (b"34600000001,alfa-news-daily,a\tb", "control character"),
        (b"34600000001,alfa-news-daily,a\rb", "control character"),
        (b"34600000001,alfa-news-daily,\xc3\x28", "not UTF-8"),
        (b"34600000001,alfa-news-daily,\"open", "not closed on its line"),
        (b"34600000001,alfa-news-daily,\"a\"b", "after a closing quote"),
        (b"34600000001,alfa-news-daily,a\"b", "inside a field"),
        (b"\"34600000001,alfa-news-daily,a\"", "1 columns, the header has 3"),
        (&huge, "longer than 4096 bytes"),
        (&wide, "4097 columns, the header has 3"),
        (b"\xef\xbb\xbf34600000001,alfa-news-daily,b", "7 to 15 digits"),
        (b"34600000001,alfa-news-daily,'); DROP TABLE subscriber; --\x7f", "control character"),
    ]
    .into_iter()
    .enumerate()
    {
        file.extend_from_slice(line);
        file.extend_from_slice(
            format!("\r\n346000001{n:02},\"alfa-news-daily\",good '); -- {n}\r\n").as_bytes(),
        );
        expected.push((2 + 2 * n as u64, why));
    }
    let (report, rejects) = world.try_import(&file).await.unwrap();
    assert_eq!(counts(&report), (24, 12, 0, 12, 12));
    for ((line, why), rejected) in expected.iter().zip(&rejects) {
        assert!(rejected.line == *line && rejected.reason.contains(why), "{line} {why}: {rejected:?}");
        assert!(rejected.fields.iter().all(|f| !f.contains(char::is_control)), "{rejected:?}");
    }
    let kept: usize =
        rejects.iter().map(|rejected| rejected.fields.iter().map(String::len).max().unwrap()).max().unwrap();
    assert!(kept <= 256, "of a long line only the beginning is kept: {kept}");
}

/// A file of many lines that is never in memory as a whole, and that may break off.
struct Generated {
    next: u32,
    rows: u32,
    breaks_at: u32,
    buffer: Vec<u8>,
}

impl Generated {
    fn new(rows: u32) -> Self {
        Self { next: 0, rows, breaks_at: u32::MAX, buffer: b"msisdn,plan,reference\n".to_vec() }
    }
}

impl Read for Generated {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.buffer.is_empty() && self.next < self.rows {
            if self.next >= self.breaks_at {
                return Err(io::Error::other("the disk is gone"));
            }
            self.buffer = format!("346{:08},alfa-news-daily,g-{}\n", self.next, self.next).into_bytes();
            self.next += 1;
        }
        let taken = out.len().min(self.buffer.len());
        out[..taken].copy_from_slice(&self.buffer[..taken]);
        self.buffer.drain(..taken);
        Ok(taken)
    }
}

#[tokio::test]
async fn many_lines_go_through_in_bounded_batches() {
    let mut world = World::start("many").await;
    let line_bytes = |n: u32| format!("346{n:08},alfa-news-daily,g-{n}\n").len() as u64;
    let total = 22 + (0..20_000).map(line_bytes).sum::<u64>();
    let mut seen: Vec<ImportProgress> = Vec::new();
    let mut broken = Generated { breaks_at: 12_345, ..Generated::new(20_000) };
    match world.run(&mut broken, Some(total), &mut seen).await {
        Err(ImportError::Read { line, .. }) => assert_eq!(line, 12_347),
        other => panic!("{other:?}"),
    }
    let done: Vec<u64> = seen.iter().map(|progress| progress.report.rows).collect();
    assert_eq!(done, [5_000, 10_000], "whole batches only");
    seen.clear();
    let (report, _) = world.run(&mut Generated::new(20_000), Some(total), &mut seen).await.unwrap();
    assert_eq!(counts(&report), (20_000, 10_000, 10_000, 0, 10_000), "goes on where it broke off");
    let done: Vec<u64> = seen.iter().map(|progress| progress.report.rows).collect();
    assert_eq!(done, [5_000, 10_000, 15_000, 20_000]);
    for pair in seen.windows(2) {
        assert!(pair[0].bytes_read < pair[1].bytes_read && pair[1].bytes_read <= total);
        assert!(pair[1].rows_per_s > 0 && pair[1].eta_ms.is_some());
    }
    assert_eq!(seen.last().map(|last| (last.bytes_read, last.eta_ms)), Some((total, Some(0))));
    // No batch read further than its own lines.
    assert!(seen[0].bytes_read < 5_000 * 36, "{}", seen[0].bytes_read);
    let kept: (i64, i64) = sqlx::query_as(
        "SELECT (SELECT count(*) FROM subscription), (SELECT max(id) & 4294967295 FROM subscription)",
    )
    .fetch_one(&mut world.conn)
    .await
    .unwrap();
    assert_eq!(kept, (20_000, 20_000));
}

#[tokio::test]
async fn imports_at_the_same_time_make_everything_once() {
    let mut world = World::start("race").await;
    world.kit.batch_rows = 50;
    let lines: Vec<String> = (0..600).map(|n| format!("8190{n:08},hoshi-manga-daily,x-{n}\n")).collect();
    let forth = format!("msisdn,plan,reference\n{}", lines.concat());
    let back = format!("msisdn,plan,reference\n{}", lines.iter().rev().cloned().collect::<String>());
    let mut other = connect(&world.url(), "import-test").await.unwrap();
    let importer = world.kit.importer();
    let mut reject_a = |_: &Rejected<'_>| Ok(());
    let mut reject_b = |_: &Rejected<'_>| Ok(());
    let (mut progress_a, mut progress_b) = (|_: &ImportProgress| (), |_: &ImportProgress| ());
    let (a, b) = tokio::join!(
        importer.run(&mut world.conn, forth.as_bytes(), None, &mut reject_a, &mut progress_a),
        importer.run(&mut other, back.as_bytes(), None, &mut reject_b, &mut progress_b),
    );
    let (a, b) = (a.unwrap(), b.unwrap());
    assert_eq!((a.created + b.created, a.existing + b.existing, a.rejected + b.rejected), (600, 600, 0));
    assert_eq!(a.subscribers_created + b.subscribers_created, 600);
    let kept: (i64, i64, i64) = sqlx::query_as(
        "SELECT (SELECT count(*) FROM subscription), (SELECT count(*) FROM subscriber), (SELECT sum(next_subscription - 1)::bigint FROM shard_counter)",
    )
    .fetch_one(&mut world.conn)
    .await
    .unwrap();
    assert_eq!(kept, (600, 600, 600));
}

#[tokio::test]
async fn a_reference_that_another_commits_first_is_looked_up_again() {
    let mut world = World::start("unique").await;
    let (seed, digest) = billing_core::ids::RefSeed::derive("demo", "taken", 0);
    let mut other = connect(&world.url(), "import-test-other").await.unwrap();
    let mut watch = connect(&world.url(), "import-test-watch").await.unwrap();
    sqlx::query("BEGIN").execute(&mut other).await.unwrap();
    let taken =
        "INSERT INTO subscription_ref (ref_seed, subscription_id, merchant_no, digest) VALUES ($1, 1, 1, $2)";
    sqlx::query(taken).bind(seed.0).bind(digest.to_vec()).execute(&mut other).await.unwrap();

    let file = "msisdn,plan,reference\n34600000001,alfa-news-daily,free\n34600000002,alfa-news-daily,taken\n";
    let importer = world.kit.importer();
    let mut rejected = Vec::new();
    let mut rejects = |row: &Rejected<'_>| {
        rejected.push((row.line, row.reason.to_owned()));
        Ok(())
    };
    let mut progress = |_: &ImportProgress| ();
    let commit_once_it_waits = async {
        let deadline = Instant::now() + Duration::from_secs(20);
        let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()";
        while sqlx::query_scalar::<_, i64>(waits).fetch_one(&mut watch).await.unwrap() == 0 {
            assert!(Instant::now() < deadline, "the import never waited for the reference");
        }
        sqlx::query("COMMIT").execute(&mut other).await.unwrap();
    };
    let (report, ()) = tokio::join!(
        importer.run(&mut world.conn, file.as_bytes(), None, &mut rejects, &mut progress),
        commit_once_it_waits
    );
    assert_eq!(counts(&report.unwrap()), (2, 1, 0, 1, 1));
    assert_eq!(rejected, [(3, "the reference exists already, without a subscription".to_owned())]);
    let next: (i64, i64) =
        sqlx::query_as("SELECT max(next_subscriber), max(next_subscription) FROM shard_counter")
            .fetch_one(&mut world.conn)
            .await
            .unwrap();
    assert_eq!(next, (2, 2), "what was rolled back used no ids");
}

#[tokio::test]
async fn a_mended_reject_file_is_imported_as_it_is() {
    let mut world = World::start("mend").await;
    let path = world.path().join("rejects.csv");
    let file = "reference,plan,msisdn\n\
                one,alfa-news-daily,34600000001\n\
                \"two, \"\"quoted\"\"\",alfa-news-daily,3460000000\n\
                three,alfa-news-daily,\"34600000003\n\
                4111111111111111,alfa-news-daily,34600000004\n";
    let mut rejects = RejectFile::create(&path).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let importer = world.kit.importer();
    let mut write = |row: &Rejected<'_>| rejects.write(row);
    let report = importer.run(&mut world.conn, file.as_bytes(), None, &mut write, &mut |_| ()).await.unwrap();
    assert_eq!(counts(&report), (4, 1, 0, 3, 1));
    assert_eq!(rejects.finish().unwrap(), 3);
    assert_eq!(RejectFile::create(&path).err().unwrap().kind(), io::ErrorKind::AlreadyExists);

    // An independent reader agrees with what was written.
    let mut reader = csv::ReaderBuilder::new().flexible(true).from_path(&path).unwrap();
    assert_eq!(reader.headers().unwrap(), vec!["line", "reason", "reference", "plan", "msisdn"]);
    let rows: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
    assert_eq!((&rows[0][0], &rows[0][2], &rows[0][4]), ("3", "two, \"quoted\"", "3460000000"));
    assert_eq!((&rows[1][0], &rows[1][2]), ("4", "three,alfa-news-daily,\"34600000003"));
    assert_eq!((&rows[2][0], &rows[2][2]), ("5", "************1111"));

    let text = std::fs::read_to_string(&path).unwrap();
    let mended = text.replace(",3460000000\n", ",34600000002\n").replace("************1111", "four");
    let (report, rejects) = world.import(&mended).await;
    assert_eq!(counts(&report), (3, 2, 0, 1, 2));
    assert_eq!((rejects[0].line, rejects[0].fields.len()), (3, 1), "still not mended");

    let empty = world.path().join("none.csv");
    assert_eq!(RejectFile::create(&empty).unwrap().finish().unwrap(), 0);
    assert!(!empty.exists(), "no rejects, no file");
}
