#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;
use std::str::FromStr;

use super::*;
use crate::scratch::ScratchDir;

const CHILD_DIR: &str = "TOLL_TEST_LAUNCHER_CHILD_DIR";

fn options(dir: &Path) -> LauncherOptions {
    LauncherOptions { durable: false, ..LauncherOptions::new(dir, "toll_test") }
}

/// Runs `statement` by way of the URL and returns its single text column.
fn ask(url: &str, statement: &'static str) -> Vec<String> {
    let target = PgConnectOptions::from_str(url).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut connection = target.connect().await.unwrap();
        let rows: Vec<(String,)> = sqlx::query_as(statement).fetch_all(&mut connection).await.unwrap();
        connection.close().await.unwrap();
        rows.into_iter().map(|(text,)| text).collect()
    })
}

fn setting(postgres: &PrivatePostgres, statement: &'static str) -> String {
    ask(&postgres.url(), statement).remove(0)
}

fn wait_until(what: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(POLL);
    }
}

const POLL: Duration = Duration::from_millis(5);

#[test]
fn starts_stops_and_starts_again_on_the_same_data() {
    let dir = ScratchDir::new("pg");
    let mut with_settings = options(dir.path());
    with_settings.settings = vec![("work_mem".to_owned(), "7MB".to_owned())];
    let postgres = PrivatePostgres::start(with_settings).unwrap();
    assert_eq!(setting(&postgres, "SELECT current_database()::text"), "toll_test");
    assert_eq!(setting(&postgres, "SELECT current_setting('fsync')"), "off");
    assert_eq!(setting(&postgres, "SELECT current_setting('work_mem')"), "7MB");
    assert_eq!(setting(&postgres, "SELECT current_setting('listen_addresses')"), "");
    assert_eq!(setting(&postgres, "SELECT current_setting('data_checksums')"), "on");
    assert_eq!(setting(&postgres, "SELECT current_setting('server_encoding')"), "UTF8");
    assert_eq!(setting(&postgres, "SELECT current_setting('timezone')"), "UTC");
    assert_eq!(fs::metadata(postgres.socket_dir()).unwrap().permissions().mode() & 0o777, 0o700);
    ask(&postgres.url(), "CREATE TABLE kept AS SELECT 'yes'::text AS word");
    let pid = postgres.pid().unwrap();
    let data = postgres.data_dir();
    postgres.stop();
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
    assert_eq!(processes_on(&data), [0; 0]);

    let mut postgres =
        PrivatePostgres::start(LauncherOptions { durable: true, ..options(dir.path()) }).unwrap();
    assert_eq!(setting(&postgres, "SELECT word FROM kept"), "yes");
    assert_eq!(setting(&postgres, "SELECT current_setting('fsync')"), "on");
    assert_eq!(setting(&postgres, "SELECT current_setting('synchronous_commit')"), "on");
    assert_eq!(setting(&postgres, "SELECT current_setting('full_page_writes')"), "on");
    let pid = postgres.pid();
    postgres.restart().unwrap();
    assert_ne!(postgres.pid(), pid);
    assert_eq!(setting(&postgres, "SELECT word FROM kept"), "yes");
}

#[test]
fn kill_9_leaves_no_process_and_what_was_committed_comes_back() {
    let dir = ScratchDir::new("pg-kill");
    let mut postgres =
        PrivatePostgres::start(LauncherOptions { durable: true, ..options(dir.path()) }).unwrap();
    let data = postgres.data_dir();
    ask(&postgres.url(), "CREATE TABLE kept (word text)");
    for round in 1..=2 {
        ask(&postgres.url(), "INSERT INTO kept VALUES ('yes') RETURNING word");
        // A backend in the middle of a statement does not notice by itself that the first process is gone.
        let url = postgres.url();
        let busy = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let mut connection = PgConnectOptions::from_str(&url).unwrap().connect().await.unwrap();
                sqlx::raw_sql("SELECT count(*) FROM generate_series(1, 100000000000)")
                    .execute(&mut connection)
                    .await
            })
        });
        wait_until("the statement runs", || {
            ask(&postgres.url(), "SELECT pid::text FROM pg_stat_activity WHERE query LIKE '%generate_series(1, 1%' AND pid <> pg_backend_pid() AND state = 'active'").len() == 1
        });
        assert!(processes_on(&data).len() > 3);
        postgres.kill9();
        assert_eq!(processes_on(&data), [0; 0]);
        assert_eq!(postgres.pid(), None);
        assert!(busy.join().unwrap().is_err());
        postgres.restart().unwrap();
        assert_eq!(ask(&postgres.url(), "SELECT word FROM kept").len(), round);
    }
}

#[test]
fn a_directory_has_one_server() {
    let dir = ScratchDir::new("pg-twice");
    let first = PrivatePostgres::start(options(dir.path())).unwrap();
    match PrivatePostgres::start(options(dir.path())) {
        Err(LauncherError::InUse { pid, .. }) => assert_eq!(pid, std::process::id().to_string()),
        other => panic!("{other:?}"),
    }
    assert_eq!(setting(&first, "SELECT 'still there'"), "still there");
}

#[test]
fn a_foreign_server_on_the_data_is_named_and_left_alone() {
    let dir = ScratchDir::new("pg-foreign");
    let mut postgres = PrivatePostgres::start(options(dir.path())).unwrap();
    let foreign = postgres.server.take().unwrap();
    let pid = foreign.pid();
    // Its owner's lock is gone, and yet nobody has told the server to stop.
    drop(postgres);
    match PrivatePostgres::start(options(dir.path())) {
        Err(LauncherError::AlreadyRunning { pid: named, .. }) => assert_eq!(named, pid),
        other => panic!("{other:?}"),
    }
    // While it is shutting down a start waits for it.
    let data = dir.path().canonicalize().unwrap().join("data");
    let starting = std::thread::spawn({
        let options = options(dir.path());
        move || PrivatePostgres::start(options)
    });
    foreign.stop(FAST_STOP, &data);
    assert_eq!(setting(&starting.join().unwrap().unwrap(), "SELECT 'mine'"), "mine");
}

#[test]
fn the_server_dies_with_its_process_and_the_next_start_waits_for_that() {
    let dir = ScratchDir::new("pg-orphan");
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "launcher::tests::child_that_starts_a_server", "--nocapture"])
        .env(CHILD_DIR, dir.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let pid: u32 = lines.find_map(|line| line.strip_prefix("server ")?.parse().ok()).unwrap();
    assert!(process::is_postgres(pid));
    child.kill().unwrap();
    child.wait().unwrap();
    let postgres = PrivatePostgres::start(options(dir.path())).unwrap();
    assert_ne!(postgres.pid(), Some(pid));
    assert!(!process::is_postgres(pid), "the child's server is gone");
    assert_eq!(setting(&postgres, "SELECT word FROM kept"), "yes");
}

#[test]
fn works_without_root() {
    let Ok(Some(Account { uid, gid })) = Account::to_run_as() else {
        // We are not root, so all the other tests show it.
        return;
    };
    let dir = ScratchDir::new("pg-plain");
    std::os::unix::fs::chown(dir.path(), Some(uid), Some(gid)).unwrap();
    // The test program may lie where only root gets to.
    let program = dir.path().join("tests");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let output = Command::new("setpriv")
        .args([format!("--reuid={uid}"), format!("--regid={gid}"), "--clear-groups".to_owned()])
        .arg(&program)
        .args(["--exact", "launcher::tests::child_that_starts_a_server", "--nocapture"])
        .env(CHILD_DIR, dir.path().join("pg"))
        .env("TOLL_TEST_LAUNCHER_CHILD_STOPS", "1")
        .current_dir("/")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("server "),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(processes_on(&dir.path().join("pg/data")), [0; 0]);
}

/// Not a test of its own: what the child processes above run. Without its variable it does nothing.
#[test]
fn child_that_starts_a_server() {
    let Some(dir) = std::env::var_os(CHILD_DIR) else { return };
    let postgres =
        PrivatePostgres::start(LauncherOptions { durable: true, ..options(Path::new(&dir)) }).unwrap();
    ask(&postgres.url(), "CREATE TABLE kept AS SELECT 'yes'::text AS word");
    println!("server {}", postgres.pid().unwrap());
    if std::env::var_os("TOLL_TEST_LAUNCHER_CHILD_STOPS").is_none() {
        std::thread::sleep(Duration::from_secs(60));
    }
}

#[test]
fn a_long_path_gets_a_short_private_socket_directory() {
    let dir = ScratchDir::new("pg-long");
    // With characters that a URL must escape, too.
    let long = dir.path().join("a b%+&ü".repeat(20));
    let postgres = PrivatePostgres::start(options(&long)).unwrap();
    let socket_dir = postgres.socket_dir().to_owned();
    assert!(socket_dir.as_os_str().len() < 80);
    assert_eq!(fs::metadata(&socket_dir).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(setting(&postgres, "SELECT 'short'"), "short");
    drop(postgres);
    assert!(!socket_dir.exists());
}

#[test]
fn a_url_escapes_what_the_path_holds() {
    let dir = ScratchDir::new("pg-url");
    let odd = dir.path().join("a b%+&#?ü");
    let postgres = PrivatePostgres::start(options(&odd)).unwrap();
    assert!(postgres.socket_dir().ends_with("a b%+&#?ü/run"), "{:?}", postgres.socket_dir());
    assert_eq!(setting(&postgres, "SELECT 'found'"), "found");
}

#[test]
fn a_start_that_fails_shows_the_servers_own_words_and_leaves_nothing() {
    let dir = ScratchDir::new("pg-bad");
    let mut bad = options(dir.path());
    bad.settings = vec![("shared_buffers".to_owned(), "nonsense".to_owned())];
    match PrivatePostgres::start(bad) {
        Err(LauncherError::Failed { program: "postgres", log_tail, .. }) => {
            assert!(log_tail.contains("shared_buffers"), "{log_tail}");
        }
        other => panic!("{other:?}"),
    }
    let data = dir.path().canonicalize().unwrap().join("data");
    assert_eq!(processes_on(&data), [0; 0]);
    let mut slow = options(dir.path());
    slow.start_timeout_ms = 0;
    assert!(matches!(PrivatePostgres::start(slow), Err(LauncherError::Failed { .. })));
    assert_eq!(processes_on(&data), [0; 0]);
    PrivatePostgres::start(options(dir.path())).unwrap();
}

#[test]
fn a_directory_that_the_server_cannot_reach_is_named() {
    if Account::to_run_as().unwrap().is_none() {
        return;
    }
    let dir = ScratchDir::new("pg-closed");
    let closed = dir.path().join("closed");
    fs::create_dir_all(closed.join("inner")).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
    match PrivatePostgres::start(options(&closed.join("inner/pg"))) {
        Err(LauncherError::NotReachable { culprit, .. }) => {
            assert_eq!(culprit, closed.canonicalize().unwrap())
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn odd_names_are_refused() {
    for database in ["", "1a", "a-b", "A", "a\"; DROP DATABASE x", &"a".repeat(64)] {
        let refused = PrivatePostgres::start(LauncherOptions::new("/nonexistent", database));
        assert!(matches!(refused, Err(LauncherError::DatabaseName(_))), "{database}");
    }
    for (name, value) in [("", "x"), ("a b", "x"), ("a=b", "x"), ("a", "x\ny")] {
        let mut odd = LauncherOptions::new("/nonexistent", "toll");
        odd.settings = vec![(name.to_owned(), value.to_owned())];
        assert!(matches!(PrivatePostgres::start(odd), Err(LauncherError::Setting(_))), "{name}");
    }
}
