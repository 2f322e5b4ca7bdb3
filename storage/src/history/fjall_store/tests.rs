#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

use super::super::conformance;
use super::*;
use crate::scratch::{ScratchDir, SmallDisk};

const CHILD_DIR: &str = "TOLL_TEST_HISTORY_CHILD_DIR";

fn small() -> FjallHistoryOptions {
    FjallHistoryOptions { min_free_bytes: 1 << 20, memtable_bytes: 1 << 20, ..FjallHistoryOptions::default() }
}

fn row(writer: i64, seq: i64, bytes: usize) -> SealedRow {
    let key = HistoryKey { subscription_id: writer, month: 202_611, period: 1, attempt_no: 1, seq };
    // Different in every row, so that neither rows nor parts of them can be taken for each other.
    let bytes = (0..bytes).map(|n| (seq as usize * 31 + n * 7 + n / 251) as u8).collect();
    SealedRow { key, bytes }
}

/// Polls `done` until it holds.
async fn eventually(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !done().await {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn conforms() {
    let dir = ScratchDir::new("history");
    conformance::exercise(&FjallHistory::open(dir.path(), small()).unwrap()).await;
}

#[tokio::test]
async fn conforms_over_reopenings() {
    let dir = ScratchDir::new("history-reopen");
    conformance::exercise_reopening(async || FjallHistory::open(dir.path(), small()).unwrap()).await;
}

#[tokio::test]
async fn rows_survive_flushes_compactions_and_reopening() {
    let dir = ScratchDir::new("history-flush");
    let store = FjallHistory::open(dir.path(), small()).unwrap();
    for from in (0..4000).step_by(100) {
        store.append((from..from + 100).rev().map(|n| row(n % 7, n, 4000)).collect()).await.unwrap();
    }
    assert!(store.used_bytes() > 4000 * 4000, "{}", store.used_bytes());
    drop(store);
    let store = FjallHistory::open(dir.path(), small()).unwrap();
    for writer in 0..7 {
        let found = store.timeline(writer, 202_611, 202_611, 10_000).await.unwrap();
        let expected: Vec<_> = (0..4000).filter(|n| n % 7 == writer).map(|n| row(writer, n, 4000)).collect();
        assert!(found == expected, "writer {writer}: {} rows of {}", found.len(), expected.len());
    }
}

#[tokio::test]
async fn a_store_is_open_once() {
    let dir = ScratchDir::new("history-lock");
    let first = FjallHistory::open(dir.path(), small()).unwrap();
    first.append(vec![row(1, 1, 10)]).await.unwrap();
    let locked = HistoryError::Locked(dir.path().canonicalize().unwrap());
    assert_eq!(FjallHistory::open(dir.path(), small()).err(), Some(locked.clone()));
    drop(first);
    assert_eq!(FjallHistory::open(dir.path(), small()).unwrap().count().await.unwrap(), 1);

    // The same against another process.
    let mut child = AppendingChild::start(dir.path());
    child.wait_for_ack();
    assert_eq!(FjallHistory::open(dir.path(), small()).err(), Some(locked));
    child.kill9();
    FjallHistory::open(dir.path(), small()).unwrap();
}

#[tokio::test]
async fn a_database_without_its_version_file_is_refused_not_emptied() {
    let dir = ScratchDir::new("history-damaged");
    FjallHistory::open(dir.path(), small()).unwrap().append(vec![row(1, 1, 10)]).await.unwrap();
    let version = dir.path().join("db/version");
    let kept = fs::read(&version).unwrap();
    fs::remove_file(&version).unwrap();
    assert!(matches!(FjallHistory::open(dir.path(), small()), Err(HistoryError::Damaged(_))));
    fs::write(&version, kept).unwrap();
    assert_eq!(FjallHistory::open(dir.path(), small()).unwrap().count().await.unwrap(), 1);
}

#[tokio::test]
async fn a_draft_left_by_a_kill_is_no_obstacle() {
    let dir = ScratchDir::new("history-draft");
    fs::create_dir_all(dir.path().join("db.creating/keyspaces")).unwrap();
    fs::write(dir.path().join("db.creating/0.jnl"), b"half").unwrap();
    let store = FjallHistory::open(dir.path(), small()).unwrap();
    store.append(vec![row(1, 1, 10)]).await.unwrap();
    assert!(!dir.path().join("db.creating").exists());
}

#[tokio::test]
async fn the_quota_turns_room_to_nearly_full_and_full() {
    let dir = ScratchDir::new("history-quota");
    // A large memtable keeps everything in the journal, so that the space grows evenly.
    let options = FjallHistoryOptions { quota_bytes: 20 << 20, memtable_bytes: 64 << 20, ..small() };
    let store = FjallHistory::open(dir.path(), options).unwrap();
    let mut seen = vec![store.room()];
    let mut seq = 0;
    while *seen.last().unwrap() != Room::Full {
        store.append(vec![row(1, seq, 16 << 10)]).await.unwrap();
        seq += 1;
        assert!(seq < 4096, "64 MiB stored under a quota of 20 MiB");
        store.shared.gauge.forget();
        if store.room() != *seen.last().unwrap() {
            seen.push(store.room());
        }
    }
    assert_eq!(seen, [Room::Ok, Room::NearlyFull, Room::Full]);
    // Answers to what was sent before are still taken.
    store.append(vec![row(1, seq, 100)]).await.unwrap();
    assert_eq!(store.count().await.unwrap(), seq as u64 + 1);
}

#[test]
fn room_is_measured_once_in_100_ms() {
    let gauge = Gauge::new();
    let mut measured = 0;
    let started = Instant::now();
    while measured < 4 {
        gauge.room(|| {
            measured += 1;
            Room::Ok
        });
        assert!(started.elapsed() < Duration::from_secs(30), "measured {measured} times only");
    }
    assert!(started.elapsed() >= Duration::from_millis(300), "{:?}", started.elapsed());
}

#[test]
fn too_little_free_space_is_full() {
    let dir = ScratchDir::new("history-free");
    let free = room::free_bytes(dir.path()).unwrap();
    let room = |min_free_bytes| {
        room::measure(
            dir.path(),
            0,
            &FjallHistoryOptions { min_free_bytes, ..FjallHistoryOptions::default() },
        )
    };
    assert_eq!([room(free * 2), room(free / 4 * 3), room(0)], [Room::Full, Room::NearlyFull, Room::Ok]);
}

#[tokio::test]
async fn a_full_disk_fails_appends_and_heals_when_space_is_back() {
    // Without root the tests of the quota and of the poison show what can be shown.
    let Some(disk) = SmallDisk::mount(48) else { return };
    let ballast = disk.path().join("ballast");
    fs::write(&ballast, vec![1; 20 << 20]).unwrap();
    let dir = disk.path().join("history");
    let options = FjallHistoryOptions { min_free_bytes: 6 << 20, ..small() };
    let store = FjallHistory::open(&dir, options.clone()).unwrap();
    assert_eq!(store.room(), Room::Ok);

    let mut acknowledged = 0;
    let mut full_before_failure = false;
    let failure = loop {
        full_before_failure |= store.room() == Room::Full;
        let rows = (acknowledged..acknowledged + 4).map(|n| row(1, n, 16 << 10)).collect();
        match store.append(rows).await {
            Ok(()) => acknowledged += 4,
            Err(failure) => break failure,
        }
        assert!(acknowledged * (16 << 10) < 48 << 20, "more stored than the disk holds");
        tokio::time::sleep(Duration::from_millis(2)).await;
    };
    assert!(matches!(failure, HistoryError::Full(_)), "{failure:?}");
    assert!(acknowledged > 100, "{acknowledged}");
    assert!(full_before_failure, "room() warned before the disk was full");
    assert!(store.is_poisoned());
    assert_eq!(store.room(), Room::Full);
    assert!(matches!(store.append(vec![row(2, 0, 100)]).await, Err(HistoryError::Full(_))), "fails at once");
    assert!(store.get(row(1, 0, 0).key).await.unwrap().is_some(), "still readable while full");

    fs::remove_file(&ballast).unwrap();
    eventually("an append succeeds again", async || store.append(vec![row(3, 0, 100)]).await.is_ok()).await;
    assert!(!store.is_poisoned());
    assert_eq!(store.room(), Room::Ok);
    let check = async |store: &FjallHistory| {
        let found = store.timeline(1, 202_611, 202_611, 10_000).await.unwrap();
        for (n, found) in found.iter().take(acknowledged as usize).enumerate() {
            assert!(*found == row(1, n as i64, 16 << 10), "acknowledged row {n}");
        }
        assert!(found.len() >= acknowledged as usize, "{} of {acknowledged}", found.len());
        assert_eq!(store.get(row(3, 0, 0).key).await.unwrap(), Some(row(3, 0, 100)));
    };
    check(&store).await;
    drop(store);
    check(&FjallHistory::open(&dir, options).unwrap()).await;
}

#[tokio::test]
async fn a_poisoned_store_fails_appends_and_reopens_itself() {
    let dir = ScratchDir::new("history-poison");
    let store = FjallHistory::open(dir.path(), small()).unwrap();
    for n in 0..50 {
        store.append(vec![row(1, n, 1000)]).await.unwrap();
    }
    for round in 0..3 {
        // A background worker that meets an unwritable file poisons the database: take the table's folder away
        // while a flush is due, and put it back.
        let keyspaces = dir.path().join("db/keyspaces");
        let hidden = dir.path().join("hidden");
        fs::rename(&keyspaces, &hidden).unwrap();
        let mut acknowledged = 0;
        while store.append(vec![row(10 + round, acknowledged, 4000)]).await.is_ok() {
            acknowledged += 1;
            assert!(acknowledged < 4000, "the flush must fail");
        }
        assert_eq!(store.room(), Room::Full);
        fs::rename(&hidden, &keyspaces).unwrap();
        eventually("an append succeeds again", async || store.append(vec![row(2, round, 9)]).await.is_ok())
            .await;
        let found = store.timeline(1, 202_611, 202_611, 100).await.unwrap();
        assert!(found == (0..50).map(|n| row(1, n, 1000)).collect::<Vec<_>>());
        let found = store.timeline(10 + round, 202_611, 202_611, 4000).await.unwrap();
        assert!(found.len() as i64 >= acknowledged, "{} of {acknowledged}", found.len());
        assert!(found.iter().zip(0..).all(|(found, n)| *found == row(10 + round, n, 4000)));
    }
}

#[tokio::test]
async fn what_is_queued_is_written_before_the_store_closes() {
    let dir = ScratchDir::new("history-close");
    let store = FjallHistory::open(dir.path(), small()).unwrap();
    let mut outcomes = Vec::new();
    for n in 0..200 {
        outcomes.push(store.shared.queue.push(Work::Rows(vec![row(1, n, 500)]), 500).await.unwrap());
    }
    drop(store);
    for outcome in outcomes {
        assert_eq!(outcome.await.unwrap(), Ok(()));
    }
    assert_eq!(FjallHistory::open(dir.path(), small()).unwrap().count().await.unwrap(), 200);
}

#[tokio::test]
async fn kill_9_loses_nothing_acknowledged() {
    let dir = ScratchDir::new("history-kill");
    let mut next = 0;
    for round in 0..3 {
        let mut child = AppendingChild::start(dir.path());
        // Killed at different depths: in the journal only, and after flushes of the 1 MiB memtable.
        let mut acknowledged = next;
        for _ in 0..[3, 40, 160][round] {
            acknowledged = child.wait_for_ack();
        }
        child.kill9();
        // Acknowledgements that were on their way count, too.
        acknowledged = child.remaining_acks().unwrap_or(acknowledged);
        assert!(acknowledged > next);
        let store = FjallHistory::open(dir.path(), small()).unwrap();
        let found = store.timeline(77, 202_611, 202_611, 10_000).await.unwrap();
        assert!(found.len() as i64 >= acknowledged, "{} of {acknowledged}", found.len());
        for (n, found) in found.iter().enumerate() {
            assert!(*found == row(77, n as i64, 2000), "round {round}, row {n}");
        }
        next = found.len() as i64;
    }
    assert!(next > 1000, "{next}");
}

/// Not a test of its own: what the child process of the tests above runs. Without its variable it does nothing.
#[tokio::test]
async fn child_that_appends_until_killed() {
    let Some(dir) = std::env::var_os(CHILD_DIR) else { return };
    let store = FjallHistory::open(Path::new(&dir), small()).unwrap();
    let mut next = store.timeline(77, 202_611, 202_611, 10_000).await.unwrap().len() as i64;
    while next < 9000 {
        store.append((next..next + 10).map(|n| row(77, n, 2000)).collect()).await.unwrap();
        next += 10;
        let mut out = std::io::stdout().lock();
        writeln!(out, "acknowledged {next}").unwrap();
        out.flush().unwrap();
    }
}

/// Another process that appends rows of writer 77 and prints how many are acknowledged.
struct AppendingChild {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl AppendingChild {
    fn start(dir: &Path) -> AppendingChild {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "history::fjall_store::tests::child_that_appends_until_killed", "--nocapture"])
            .env(CHILD_DIR, dir)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        AppendingChild { child, lines }
    }

    fn wait_for_ack(&mut self) -> i64 {
        self.next_ack().expect("the child ended early")
    }

    fn next_ack(&mut self) -> Option<i64> {
        self.lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| line.strip_prefix("acknowledged ")?.parse().ok())
    }

    fn kill9(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn remaining_acks(&mut self) -> Option<i64> {
        std::iter::from_fn(|| self.next_ack()).last()
    }
}

impl Drop for AppendingChild {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
