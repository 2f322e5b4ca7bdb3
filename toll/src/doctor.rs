//! `toll doctor`: looks at what has to be right before money moves, and says what to do.

use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use billing_core::book::engine::EngineSettings;
use billing_core::book::reader::{Problems, Source, Table};
use billing_core::period::days_since_2000;
use billing_core::zone::Zone;
use carriers::FileSecrets;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Serialize;
use sqlx::postgres::PgConnection;
use storage::pg::{self, ServerFacts, StoreError};

use crate::book_files;
use crate::cli::Global;
use crate::database::Database;
use crate::exit::{failed, text_of};
use crate::held;
use crate::home::Home;
use crate::out::{self, Paint};
use crate::shown::one_line;
use crate::words::count;

/// The machine's clock and the database's may differ by so much.
const CLOCK_DIFFERENCE_MS_MAX: i64 = 2_000;
/// Partitions must exist this many business days ahead.
const PARTITION_DAYS_MIN: i32 = 7;
const VERSION_MIN: i32 = 150_000;
const MIB: u64 = 1_024 * 1_024;

/// What `toll doctor` takes.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exits with 1 when something must be mended before money may move (✗). A ! is a warning, and what has
a • was not looked at.

Examples:
  toll doctor
  toll --data /var/lib/tollbook --config /etc/tollbook doctor
  toll doctor --json | jq '.checks[] | select(.verdict == \"bad\")'"
)]
pub(crate) struct DoctorArgs {}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Good,
    Warning,
    Bad,
    NotLookedAt,
}

#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    verdict: Verdict,
    found: String,
    /// What to do.
    todo: Option<String>,
}

impl Check {
    fn good(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Good, found: found.into(), todo: None }
    }

    fn warning(name: &'static str, found: impl Into<String>, todo: &str) -> Self {
        Self { name, verdict: Verdict::Warning, found: found.into(), todo: Some(todo.to_owned()) }
    }

    fn bad(name: &'static str, found: impl Into<String>, todo: &str) -> Self {
        Self { name, verdict: Verdict::Bad, found: found.into(), todo: Some(todo.to_owned()) }
    }

    fn skipped(name: &'static str, why: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::NotLookedAt, found: why.into(), todo: None }
    }

    fn must(name: &'static str, holds: bool, found: impl Into<String>, todo: &str) -> Self {
        if holds { Self::good(name, found) } else { Self::bad(name, found, todo) }
    }
}

#[derive(Debug, Serialize)]
struct Examination {
    ok: bool,
    checks: Vec<Check>,
}

/// Examines this machine, its book and its database.
pub(crate) async fn doctor(global: &Global, _args: DoctorArgs) -> anyhow::Result<()> {
    let mut checks = vec![time_zones(), account()];
    let engine = book(global, &mut checks);
    secrets(&global.data.join("secrets"), &mut checks);
    checks.push(disk(&global.data, engine.history_min_free_mib));
    database(global, &mut checks).await;
    let bad = checks.iter().filter(|check| check.verdict == Verdict::Bad).count();
    let examination = Examination { ok: bad == 0, checks };
    if global.json {
        out::json(&examination)?;
    } else {
        out::print(&text(&examination, Paint::of_stdout()))?;
    }
    match bad {
        0 => Ok(()),
        bad => Err(failed(format!("{} must be mended", count(bad, "thing")))),
    }
}

fn text(examination: &Examination, paint: Paint) -> String {
    let width = examination.checks.iter().map(|check| check.name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for check in &examination.checks {
        let mark = match check.verdict {
            Verdict::Good => paint.good("✓"),
            Verdict::Warning => paint.warn("!"),
            Verdict::Bad => paint.bad("✗"),
            Verdict::NotLookedAt => "•".to_owned(),
        };
        text += &format!("{mark} {:width$}  {}\n", check.name, check.found);
        if let Some(todo) = &check.todo {
            text += &format!("  {:width$}  → {todo}\n", "");
        }
    }
    text
}

fn time_zones() -> Check {
    match Zone::check_rules() {
        Ok(()) => Check::good("time zones", "the rules built in know the changes of 2026"),
        Err(error) => Check::bad(
            "time zones",
            error.to_string(),
            "install a newer toll: renewals would run an hour off",
        ),
    }
}

fn account() -> Check {
    if rustix::process::geteuid().is_root() {
        return Check::warning(
            "account",
            "runs as root",
            "run it under an account of its own: it needs no privilege",
        );
    }
    Check::good("account", "not root")
}

fn book(global: &Global, checks: &mut Vec<Check>) -> EngineSettings {
    let secrets = FileSecrets { dir: global.data.join("secrets") };
    let loaded = match book_files::load(&global.config, &secrets) {
        Ok(loaded) => loaded,
        Err(error) => {
            let first = format!("{error:#}");
            let more = first.lines().count().saturating_sub(1);
            let more = if more > 1 { format!(" ({more} lines in all)") } else { String::new() };
            let found = format!("{}{more}", one_line(first.lines().next().unwrap_or_default()));
            checks.push(Check::bad("book", found, "`toll book check` shows every problem at its place"));
            checks.push(Check::skipped("carriers' addresses", "the book cannot be read"));
            return EngineSettings::default();
        }
    };
    let found =
        format!("{}, {}", count(loaded.carriers.len(), "carrier"), count(loaded.book.plans.len(), "plan"));
    checks.push(Check::good("book", found));
    checks.push(addresses(&loaded.sources));
    loaded.book.engine
}

/// Every carrier is reached by https, or on this machine.
fn addresses(sources: &[Source]) -> Check {
    let bases = sources.iter().filter_map(|source| Some((source.file.as_str(), base_of(source)?)));
    let open: Vec<String> = bases
        .filter(|(_, base)| !is_protected(base))
        .map(|(file, base)| format!("{file}: {}", one_line(&base)))
        .collect();
    if open.is_empty() {
        return Check::good("carriers' addresses", "https, or on this machine");
    }
    Check::bad(
        "carriers' addresses",
        format!("unprotected: {}", open.join(", ")),
        "use https: requests hold telephone numbers and credentials",
    )
}

fn base_of(source: &Source) -> Option<String> {
    let mut problems = Problems::default();
    let mut root = Table::parse(source, &mut problems)?;
    let mut link = root.opt_table("link", &mut problems)?;
    Some(link.opt_str("base", &mut problems)?.value)
}

fn is_protected(base: &str) -> bool {
    let Some(rest) = base.strip_prefix("http://") else { return base.starts_with("https://") };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Only the owner may reach the secrets.
fn secrets(dir: &Path, checks: &mut Vec<Check>) {
    const NAME: &str = "secrets";
    let Ok(entries) = std::fs::read_dir(dir) else {
        checks.push(Check::skipped(NAME, format!("there are none in {} yet", dir.display())));
        return;
    };
    let mut open = Vec::new();
    let mut files = 0;
    for path in entries.flatten().map(|entry| entry.path()).chain([dir.to_owned()]) {
        let Ok(meta) = std::fs::metadata(&path) else { continue };
        files += usize::from(meta.is_file());
        let mode = meta.mode() & 0o777;
        // That others can list the folder harms nothing; that they could swap a file would.
        let others = if meta.is_dir() { 0o022 } else { 0o077 };
        if mode & others != 0 {
            open.push(format!("{} has mode {mode:03o}", path.display()));
        }
    }
    let found = if open.is_empty() {
        format!("{}, only for their owner", count(files, "file"))
    } else {
        open.join(", ")
    };
    let todo = "chmod 600 the files and 700 the folder, and consider what they hold as known";
    checks.push(Check::must(NAME, open.is_empty(), found, todo));
}

fn disk(data: &Path, min_free_mib: u64) -> Check {
    const NAME: &str = "free disk";
    let place = data.ancestors().find(|place| place.is_dir()).unwrap_or_else(|| Path::new("."));
    match rustix::fs::statvfs(place) {
        Ok(found) => {
            let free_mib = found.f_bavail.saturating_mul(found.f_frsize) / MIB;
            let words = format!("{free_mib} MiB, history.min_free is {min_free_mib} MiB");
            Check::must(NAME, free_mib >= min_free_mib, words, "free some: below min_free nothing is sent")
        }
        Err(error) => Check::bad(NAME, format!("cannot be measured: {error}"), "see to the data folder"),
    }
}

async fn database(global: &Global, checks: &mut Vec<Check>) {
    const NAME: &str = "database";
    if global.database.is_none() && !global.data.join("postgres").is_dir() {
        let found =
            format!("there is none in {} yet: `toll serve` makes a private one", global.data.display());
        checks.push(Check::skipped(NAME, found));
        return;
    }
    let opened = match Home::open(&global.data) {
        Ok(home) => Database::open(&home, global.database.as_deref()).await,
        Err(error) => Err(error),
    };
    let database = match opened {
        Ok(database) => database,
        Err(error) => {
            checks.push(Check::bad(
                NAME,
                one_line(&text_of(&error)),
                "see to it: without it nothing is charged",
            ));
            return;
        }
    };
    match database.conn().await {
        Ok(mut conn) => {
            if let Err(error) = server(&mut conn, checks).await {
                checks.push(Check::bad(
                    NAME,
                    one_line(&text_of(&error)),
                    "see to it: without it nothing is charged",
                ));
            }
        }
        Err(error) => {
            checks.push(Check::bad(NAME, one_line(&error.to_string()), "start it, or see to --database"));
        }
    }
    database.close().await;
}

async fn server(conn: &mut PgConnection, checks: &mut Vec<Check>) -> anyhow::Result<()> {
    let asked_ms = Timestamp::now().as_millisecond();
    let facts = pg::server_facts(conn).await?;
    let answered_ms = Timestamp::now().as_millisecond();
    // The half of the round trip is the best guess of when the server looked at its clock.
    let difference_ms = facts.machine_ms - (asked_ms + answered_ms) / 2;
    checks.extend(server_checks(&facts, difference_ms));
    if facts.has_tables {
        let now = pg::business_now(conn).await?;
        checks.push(partitions(&facts, now.business_ms));
        failover(&facts, conn, checks).await?;
    } else {
        checks.push(Check::skipped("partitions", "the database has no tables yet: `toll serve` makes them"));
    }
    Ok(())
}

/// Nothing may be held up by a failover, and none may have gone unnoticed.
async fn failover(
    facts: &ServerFacts,
    conn: &mut PgConnection,
    checks: &mut Vec<Check>,
) -> anyhow::Result<()> {
    const NAME: &str = "failover";
    if facts.in_recovery {
        checks.push(Check::skipped(NAME, "a standby cannot tell"));
        return Ok(());
    }
    match pg::server_moved(conn).await {
        Ok(None) => {}
        Ok(Some(moved)) => {
            let (found, todo) = held::unmet(&moved);
            checks.push(Check::bad(NAME, found, todo));
        }
        Err(StoreError::Forbidden(why)) => {
            checks.push(Check::bad(NAME, one_line(&why), "as it says: without it no worker starts"));
        }
        Err(error) => return Err(error.into()),
    }
    let held = held::held(conn).await?;
    for one in &held {
        let check = if one.holds_shards() { Check::bad } else { Check::warning };
        checks.push(check(NAME, one.told(), one.todo()));
    }
    if !checks.iter().any(|check| check.name == NAME) {
        checks.push(Check::good(NAME, "none holds anything up"));
    }
    Ok(())
}

fn server_checks(facts: &ServerFacts, difference_ms: i64) -> Vec<Check> {
    let version = format!("{}.{}", facts.version_num / 10_000, facts.version_num % 10_000);
    let mut checks = vec![
        Check::must(
            "database",
            facts.version_num >= VERSION_MIN,
            format!("PostgreSQL {version}"),
            "use 15 or newer",
        ),
        Check::must(
            "fsync",
            facts.fsync == "on",
            facts.fsync.as_str(),
            "set fsync = on: a crash would forget what was sent",
        ),
        Check::must(
            "synchronous_commit",
            !matches!(facts.synchronous_commit.as_str(), "off" | "local"),
            facts.synchronous_commit.as_str(),
            "set synchronous_commit = on: an intent must be durable before a byte leaves",
        ),
        Check::must(
            "full_page_writes",
            facts.full_page_writes == "on",
            facts.full_page_writes.as_str(),
            "set full_page_writes = on, unless the file system writes whole pages",
        ),
    ];
    checks.push(match facts.data_checksums.as_str() {
        "on" => Check::good("data_checksums", "on"),
        other => {
            Check::warning("data_checksums", other, "pg_checksums --enable, so that a broken disk is noticed")
        }
    });
    checks.push(Check::must(
        "clocks",
        difference_ms.abs() <= CLOCK_DIFFERENCE_MS_MAX,
        format!("the database's clock is {difference_ms} ms from this machine's"),
        "run a time service on both: charging windows and days depend on it",
    ));
    checks.push(match (facts.in_recovery, facts.standbys, facts.synchronous_standby_names.is_empty()) {
        (true, ..) => {
            Check::bad("standby", "this server is a standby itself", "name the primary with --database")
        }
        (_, 0, true) => Check::good("standby", "none"),
        (_, standbys, true) => Check::warning(
            "standby",
            format!("{}, but no commit waits for one", count(standbys, "standby connection")),
            "set synchronous_standby_names: a failover would forget what was sent",
        ),
        (_, standbys, false) => {
            Check::good("standby", format!("{}, commits wait", count(standbys, "standby connection")))
        }
    });
    checks
}

fn partitions(facts: &ServerFacts, business_ms: i64) -> Check {
    const NAME: &str = "partitions";
    let today = days_since_2000(crate::words::timestamp(business_ms).to_zoned(TimeZone::UTC).date());
    match facts.partitions_until.map(|until| until / 2_048 - today) {
        None => Check::warning(NAME, "there are none yet", "start a worker: it makes them ahead of time"),
        Some(days) if days >= PARTITION_DAYS_MIN => {
            Check::good(NAME, format!("for {days} business days ahead"))
        }
        Some(days) => Check::bad(
            NAME,
            format!("for {days} business days ahead only"),
            "start a worker: it makes them ahead of time; without one nothing is charged",
        ),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn facts() -> ServerFacts {
        ServerFacts {
            version_num: 150_004,
            fsync: "on".into(),
            synchronous_commit: "on".into(),
            full_page_writes: "on".into(),
            data_checksums: "on".into(),
            synchronous_standby_names: String::new(),
            standbys: 0,
            in_recovery: false,
            max_connections: 100,
            machine_ms: 0,
            has_tables: true,
            partitions_until: Some((9_832 + 60) * 2_048),
        }
    }

    fn verdict(facts: &ServerFacts, difference_ms: i64, name: &str) -> Verdict {
        let checks = server_checks(facts, difference_ms);
        checks.into_iter().find(|check| check.name == name).unwrap().verdict
    }

    #[test]
    fn a_good_server_passes_and_each_fault_is_found() {
        assert!(server_checks(&facts(), 0).iter().all(|check| check.verdict == Verdict::Good));
        let old = ServerFacts { version_num: 140_011, ..facts() };
        assert_eq!(verdict(&old, 0, "database"), Verdict::Bad);
        assert_eq!(verdict(&ServerFacts { fsync: "off".into(), ..facts() }, 0, "fsync"), Verdict::Bad);
        for (value, expected) in
            [("local", Verdict::Bad), ("off", Verdict::Bad), ("remote_apply", Verdict::Good)]
        {
            let facts = ServerFacts { synchronous_commit: value.into(), ..facts() };
            assert_eq!(verdict(&facts, 0, "synchronous_commit"), expected, "{value}");
        }
        let unchecked = ServerFacts { data_checksums: "off".into(), ..facts() };
        assert_eq!(verdict(&unchecked, 0, "data_checksums"), Verdict::Warning);
        assert_eq!(verdict(&facts(), 2_000, "clocks"), Verdict::Good);
        assert_eq!(verdict(&facts(), -2_001, "clocks"), Verdict::Bad);
        let standby = ServerFacts { standbys: 1, ..facts() };
        assert_eq!(verdict(&standby, 0, "standby"), Verdict::Warning);
        let waits = ServerFacts { synchronous_standby_names: "*".into(), ..standby };
        assert_eq!(verdict(&waits, 0, "standby"), Verdict::Good);
        assert_eq!(verdict(&ServerFacts { in_recovery: true, ..facts() }, 0, "standby"), Verdict::Bad);
    }

    #[test]
    fn partitions_must_reach_ahead() {
        let at = |day: &str| day.parse::<Timestamp>().unwrap().as_millisecond();
        // Day 9832 is 2026-12-02.
        assert_eq!(partitions(&facts(), at("2026-12-02T12:00:00Z")).verdict, Verdict::Good);
        assert_eq!(partitions(&facts(), at("2027-01-28T12:00:00Z")).verdict, Verdict::Bad);
        let none = ServerFacts { partitions_until: None, ..facts() };
        assert_eq!(partitions(&none, 0).verdict, Verdict::Warning);
    }

    #[test]
    fn only_https_and_this_machine_protect() {
        for base in ["https://pay.example", "http://127.0.0.1:4010", "http://[::1]:80/x", "http://localhost/"]
        {
            assert!(is_protected(base), "{base}");
        }
        for base in
            ["http://10.0.0.1", "http://localhost.example", "http://127.0.0.1.example/", "ftp://x", ""]
        {
            assert!(!is_protected(base), "{base}");
        }
        let source = |base: &str| Source {
            file: "config/carriers/a.toml".into(),
            text: format!("[link]\nkind = \"http\"\nbase = \"{base}\"\n"),
        };
        assert_eq!(addresses(&[source("https://pay.example")]).verdict, Verdict::Good);
        let check = addresses(&[source("http://pay.example")]);
        assert_eq!(check.verdict, Verdict::Bad);
        assert!(check.found.contains("config/carriers/a.toml"), "{}", check.found);
    }

    #[test]
    fn secrets_that_others_can_read_are_found() {
        let dir = std::env::temp_dir().join(format!("toll-doctor-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let set = |path: &Path, mode| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap()
        };
        set(&dir, 0o700);
        let file = dir.join("kek.v1");
        std::fs::write(&file, "x").unwrap();
        let (good, bad) = (Verdict::Good, Verdict::Bad);
        for (of_dir, of_file, expected) in
            [(0o700, 0o600, good), (0o755, 0o400, good), (0o700, 0o640, bad), (0o770, 0o600, bad)]
        {
            set(&dir, of_dir);
            set(&file, of_file);
            let mut checks = Vec::new();
            secrets(&dir, &mut checks);
            assert_eq!(checks[0].verdict, expected, "{of_dir:o} {of_file:o}");
        }
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_bad_thing_says_what_to_do() {
        let checks = vec![Check::good("a", "fine"), Check::bad("longer", "broken", "mend it")];
        let text = text(&Examination { ok: false, checks }, Paint::never());
        assert_eq!(text, "✓ a       fine\n✗ longer  broken\n          → mend it\n");
    }
}
