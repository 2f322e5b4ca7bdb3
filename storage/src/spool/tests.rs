#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Instant;

use proptest::prelude::*;

use super::line::crc32;
use super::*;
use crate::scratch::{ScratchDir, SmallDisk};

const CHILD_DIR: &str = "TOLL_TEST_SPOOL_CHILD_DIR";

fn line(n: i64) -> SentLine {
    SentLine {
        subscription_id: n,
        period: (n as i32).wrapping_neg(),
        attempt_no: (n % 1000) as i16,
        op: n as u8,
        carrier_no: 7,
        amount_minor: i64::MAX.wrapping_sub(n),
        currency: 978,
        digest: [n as u8; 16],
        incarnation: i64::MIN.wrapping_add(n),
        intent_at_us: 1_795_000_000_000_000_i64.wrapping_add(n),
        business_at_ms: n.wrapping_mul(7),
        not_before_ms: n.wrapping_sub(1),
        not_after_ms: n.wrapping_add(1),
        book_version: (n as i32).wrapping_add(3),
        round: (n % 32) as i16,
        step: (n % 8) as i16,
        parent_no: (n % 9) as i16,
        rule: (n % 130) as i16,
        wish: n.wrapping_add(11),
    }
}

fn lines(dir: &Path) -> Vec<SentLine> {
    read_all(dir).unwrap().map(|stored| stored.unwrap().line).collect()
}

fn segment_paths(dir: &Path) -> Vec<PathBuf> {
    reader::segments(dir).unwrap().into_iter().map(|(_, path)| path).collect()
}

#[test]
fn checksum_is_the_usual_one() {
    assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
}

proptest! {
    #[test]
    fn every_line_comes_back_and_no_changed_one_does(
        fields in (any::<i64>(), any::<i32>(), any::<i16>(), any::<u8>(), any::<i32>(), any::<i64>()),
        more in (any::<i16>(), any::<[u8; 16]>(), any::<i64>(), any::<i64>()),
        flip in 0..LINE_BYTES * 8,
    ) {
        let (subscription_id, period, attempt_no, op, carrier_no, amount_minor) = fields;
        let (currency, digest, incarnation, intent_at_us) = more;
        let line = SentLine {
            subscription_id, period, attempt_no, op, carrier_no, amount_minor, currency, digest, incarnation,
            intent_at_us, ..self::line(intent_at_us % 1_000)
        };
        let mut bytes = Vec::new();
        line.encode_to(&mut bytes);
        let mut bytes: [u8; LINE_BYTES] = bytes.try_into().unwrap();
        prop_assert_eq!(SentLine::decode(&bytes), Some(line));
        bytes[flip / 8] ^= 1 << (flip % 8);
        prop_assert_eq!(SentLine::decode(&bytes), None);
    }
}

#[test]
fn an_empty_or_missing_log_has_no_lines_and_zeros_are_none() {
    let dir = ScratchDir::new("spool-empty");
    assert_eq!(lines(&dir.path().join("missing")), []);
    drop(SentLog::open(dir.path(), SentLogOptions::default()).unwrap());
    assert_eq!(lines(dir.path()), []);
    // What a file system may leave after power was lost.
    let path = segment_paths(dir.path()).remove(0);
    fs::OpenOptions::new().append(true).open(path).unwrap().write_all(&[0; 10 * LINE_BYTES]).unwrap();
    assert_eq!(lines(dir.path()), []);
}

#[test]
fn lines_are_readable_at_once_and_over_openings_with_their_boot() {
    let dir = ScratchDir::new("spool");
    for round in 0..3 {
        let log = SentLog::open(dir.path(), SentLogOptions::default()).unwrap();
        log.append(&[]).unwrap();
        log.append(&[line(round * 3), line(round * 3 + 1)]).unwrap();
        log.append(&[line(round * 3 + 2)]).unwrap();
        assert_eq!(lines(dir.path()), (0..(round + 1) * 3).map(line).collect::<Vec<_>>());
    }
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap().trim().replace('-', "");
    for stored in read_all(dir.path()).unwrap() {
        assert_eq!(format!("{:032x}", u128::from_be_bytes(stored.unwrap().boot_id)), boot);
    }
}

#[test]
fn lines_of_a_window_are_read_over_openings_and_deleted_ones_are_not_passed_over_in_silence() {
    let dir = ScratchDir::new("spool-since");
    let options = SentLogOptions { segment_bytes: 2 * LINE_BYTES as u64, ..SentLogOptions::default() };
    let at = line(0).intent_at_us;
    for round in 0..2 {
        let log = SentLog::open(dir.path(), options).unwrap();
        for n in 0..10 {
            log.append(&[line(round * 10 + n)]).unwrap();
        }
    }
    let log = SentLog::open(dir.path(), options).unwrap();
    let since = |from_us| -> Option<Vec<SentLine>> {
        Some(log.lines_since(from_us).unwrap()?.map(|line| line.unwrap()).collect())
    };
    assert_eq!(since(at + 7), Some((7..20).map(line).collect()));
    assert_eq!(since(at + 20), Some(Vec::new()));
    fs::remove_file(&segment_paths(dir.path())[0]).unwrap();
    assert_eq!(since(at + 7), None, "the oldest line that is left is younger than the window");
}

#[test]
fn one_process_writes() {
    let dir = ScratchDir::new("spool-lock");
    let first = SentLog::open(dir.path(), SentLogOptions::default()).unwrap();
    let second = SentLog::open(dir.path(), SentLogOptions::default());
    assert_eq!(second.unwrap_err().kind(), io::ErrorKind::WouldBlock);
    drop(first);
    SentLog::open(dir.path(), SentLogOptions::default()).unwrap();
}

#[test]
fn a_torn_tail_ends_its_segment_only() {
    let dir = ScratchDir::new("spool-torn");
    SentLog::open(dir.path(), SentLogOptions::default()).unwrap().append(&[line(0), line(1)]).unwrap();
    SentLog::open(dir.path(), SentLogOptions::default()).unwrap().append(&[line(2)]).unwrap();
    let first = segment_paths(dir.path()).remove(0);
    let whole = fs::read(&first).unwrap();
    for torn in 1..LINE_BYTES {
        fs::write(&first, &whole[..whole.len() - torn]).unwrap();
        assert_eq!(lines(dir.path()), [line(0), line(2)], "{torn} bytes missing");
    }
    // The right length, wrong bytes.
    let mut half = whole.clone();
    half[whole.len() - LINE_BYTES / 2..].fill(0);
    fs::write(&first, half).unwrap();
    assert_eq!(lines(dir.path()), [line(0), line(2)]);
}

#[test]
fn damage_before_good_lines_is_an_error_not_an_end() {
    let dir = ScratchDir::new("spool-damaged");
    SentLog::open(dir.path(), SentLogOptions::default())
        .unwrap()
        .append(&[line(0), line(1), line(2)])
        .unwrap();
    SentLog::open(dir.path(), SentLogOptions::default()).unwrap().append(&[line(3)]).unwrap();
    let first = segment_paths(dir.path()).remove(0);
    let whole = fs::read(&first).unwrap();
    let read =
        || read_all(dir.path()).unwrap().map(|l| l.map(|l| l.line).map_err(|e| e.kind())).collect::<Vec<_>>();
    let mut damaged = whole.clone();
    damaged[HEADER_BYTES + LINE_BYTES + 5] ^= 1;
    fs::write(&first, damaged).unwrap();
    assert_eq!(read(), [Ok(line(0)), Err(io::ErrorKind::InvalidData), Ok(line(3))]);
    let mut damaged = whole;
    damaged[3] ^= 1;
    fs::write(&first, damaged).unwrap();
    assert_eq!(read(), [Err(io::ErrorKind::InvalidData), Ok(line(3))]);
}

#[test]
fn segments_are_closed_by_size_and_deleted_by_age() {
    let dir = ScratchDir::new("spool-segments");
    let options = SentLogOptions { segment_bytes: 10 * LINE_BYTES as u64, ..SentLogOptions::default() };
    let log = SentLog::open(dir.path(), options).unwrap();
    for n in 0..100 {
        log.append(&[line(n)]).unwrap();
    }
    drop(log);
    let paths = segment_paths(dir.path());
    assert_eq!(paths.len(), 10);
    assert!(
        paths
            .iter()
            .all(|path| fs::metadata(path).unwrap().len() <= options.segment_bytes + LINE_BYTES as u64)
    );
    assert_eq!(lines(dir.path()), (0..100).map(line).collect::<Vec<_>>());

    let age = |path: &Path, hours: u64| {
        let then = SystemTime::now() - Duration::from_secs(hours * 3600);
        File::options().append(true).open(path).unwrap().set_modified(then).unwrap();
    };
    age(&paths[0], 25);
    age(&paths[1], 25);
    age(&paths[2], 23);
    SentLog::open(dir.path(), options).unwrap();
    assert_eq!(segment_paths(dir.path())[..8], paths[2..]);
    assert_eq!(lines(dir.path()), (20..100).map(line).collect::<Vec<_>>());
}

#[test]
fn a_slow_log_is_closed_by_age() {
    let dir = ScratchDir::new("spool-slow");
    let log = SentLog::open(dir.path(), SentLogOptions { keep_ms: 80, ..SentLogOptions::default() }).unwrap();
    let mut n = 0;
    let deadline = Instant::now() + Duration::from_secs(10);
    // The first segment's number leaves the directory once its lines are too old.
    while reader::segments(dir.path()).unwrap()[0].0 == 0 {
        log.append(&[line(n)]).unwrap();
        n += 1;
        assert!(Instant::now() < deadline);
        std::thread::yield_now();
    }
    assert_eq!(lines(dir.path()).last(), Some(&line(n - 1)));
}

#[test]
fn the_background_sync_follows_within_milliseconds() {
    let dir = ScratchDir::new("spool-sync");
    let log = SentLog::open(dir.path(), SentLogOptions::default()).unwrap();
    for n in 0..5 {
        log.append(&[line(n)]).unwrap();
        let written = Instant::now();
        let Place::Disk(shared) = &log.place else { panic!("opened on disk") };
        while shared.writing().dirty {
            assert!(written.elapsed() < Duration::from_secs(5));
            std::thread::yield_now();
        }
    }
}

#[test]
fn appends_of_many_threads_do_not_mix() {
    let dir = ScratchDir::new("spool-threads");
    let options = SentLogOptions { segment_bytes: 500 * LINE_BYTES as u64, ..SentLogOptions::default() };
    let log = SentLog::open(dir.path(), options).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let log = &log;
            scope.spawn(move || {
                for n in 0..100 {
                    let from = thread * 1_000_000 + n * 10;
                    log.append(&(from..from + 10).map(line).collect::<Vec<_>>()).unwrap();
                }
            });
        }
    });
    let found = lines(dir.path());
    assert_eq!(found.len(), 4000);
    assert!(
        found.chunks(10).all(|ten| ten.iter().zip(0..).all(|(l, n)| *l == line(ten[0].subscription_id + n)))
    );
    assert!(segment_paths(dir.path()).len() >= 8);
    let too_many = vec![line(0); APPEND_LINES_MAX + 1];
    assert_eq!(log.append(&too_many).unwrap_err().kind(), io::ErrorKind::InvalidInput);
}

#[test]
fn a_full_disk_fails_an_append_whole_and_the_log_goes_on_when_there_is_space() {
    let Some(disk) = SmallDisk::mount(1) else { return };
    let ballast = disk.path().join("ballast");
    fs::write(&ballast, vec![1; 200_000]).unwrap();
    let log = SentLog::open(&disk.path().join("spool"), SentLogOptions::default()).unwrap();
    let mut appended = 0;
    let failure = loop {
        match log.append(&(appended..appended + 100).map(line).collect::<Vec<_>>()) {
            Ok(()) => appended += 100,
            Err(failure) => break failure,
        }
        assert!(appended < 20_000, "more lines than fit");
    };
    assert_eq!(failure.kind(), io::ErrorKind::StorageFull);
    assert!(appended > 5000, "{appended}");
    assert_eq!(lines(&disk.path().join("spool")), (0..appended).map(line).collect::<Vec<_>>());
    fs::remove_file(&ballast).unwrap();
    log.append(&(appended..appended + 100).map(line).collect::<Vec<_>>()).unwrap();
    assert_eq!(lines(&disk.path().join("spool")), (0..appended + 100).map(line).collect::<Vec<_>>());
}

#[test]
fn kill_9_loses_no_line_that_was_appended() {
    let dir = ScratchDir::new("spool-kill");
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "spool::tests::child_that_appends_until_killed", "--nocapture"])
        .env(CHILD_DIR, dir.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let mut parsed = output.by_ref().filter_map(|l| l.strip_prefix("appended ")?.parse::<i64>().ok());
    let seen = parsed.by_ref().take(300).last().unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let appended = parsed.last().unwrap_or(seen);
    let found = lines(dir.path());
    assert!(found.len() as i64 >= appended && appended >= 300, "{} of {appended}", found.len());
    assert!(found.iter().zip(0..).all(|(l, n)| *l == line(n)));
}

/// Not a test of its own: what the child process above runs. Without its variable it does nothing.
#[test]
fn child_that_appends_until_killed() {
    let Some(dir) = std::env::var_os(CHILD_DIR) else { return };
    let log = SentLog::open(Path::new(&dir), SentLogOptions::default()).unwrap();
    for n in 0..1_000_000 {
        log.append(&[line(n)]).unwrap();
        writeln!(io::stdout().lock(), "appended {}", n + 1).unwrap();
    }
}
