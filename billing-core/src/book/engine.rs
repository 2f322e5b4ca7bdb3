//! `engine.toml`: how the engine runs. Every key may be left out; so may the file.
//!
//! | key | default | range |
//! |---|---|---|
//! | `lease.ttl` | `"20s"` | 1s to 5m |
//! | `lease.renew` | `"5s"` | 100ms to a third of `lease.ttl` |
//! | `batch.max` | 1000 | 1 to 4000 |
//! | `batch.wait` | `"40ms"` | 0s to 1s |
//! | `batch.stripes` | 2 | 1 to 8 |
//! | `batch.send_max_age` | `"30s"` | 1s to 5m |
//! | `wheel.horizon` | `"2h"` | 1m to 1d |
//! | `wheel.inbox_poll` | `"100ms"` | 10ms to 10s |
//! | `wheel.low_water_every` | `"5s"` | 100ms to 5m |
//! | `wheel.slices` | 1 | a power of two, 1 to 4096 |
//! | `history.quota` | `"4GiB"` | 64MiB to 1TiB |
//! | `history.min_free` | `"1GiB"` | 0 to 1TiB |
//! | `api.listen` | `"127.0.0.1:0"` | an address and a port |
//! | `drain.deadline` | `"10s"` | 0s to 5m |
//! | `resolution.time_scale` | 1 | 1 to 10000; above 1 only under the scaled clock of a sandbox |
//! | `failover.spool_wait` | `"10m"` | 10s to 12h, and at least `lease.ttl` |

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::reader::{Problems, Source, Spanned, Table};
use super::values::{duration_text, excerpt, size_mib, size_text};

/// How the engine runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineSettings {
    /// `lease.ttl`: how long a worker owns its shards without renewing, in milliseconds.
    pub lease_ttl_ms: u64,
    /// `lease.renew`: how often it renews; at most a third of the time to live.
    pub lease_renew_ms: u64,
    /// `batch.max`: the most rows of one begin or record batch.
    pub batch_max: u32,
    /// `batch.wait`: how long a batch waits to fill.
    pub batch_wait_ms: u64,
    /// `batch.stripes`: pairs of database connections, each with balances of its own.
    pub stripes: u32,
    /// `batch.send_max_age`: an intent older than this is not sent any more.
    pub send_max_age_ms: u64,
    /// `wheel.horizon`: how far ahead due subscriptions are kept in memory, in seconds.
    pub wheel_horizon_s: u64,
    /// `wheel.inbox_poll`: how often each owned shard's inbox is looked at.
    pub inbox_poll_ms: u64,
    /// `wheel.low_water_every`: how often the progress of each owned shard is written.
    pub low_water_every_ms: u64,
    /// `wheel.slices`: shards of a carrier whose file does not say; a power of two.
    pub slices: u32,
    /// `history.quota`: the most disk that the spool of history may take, in MiB.
    pub history_quota_mib: u64,
    /// `history.min_free`: free disk below which the spool stops growing, in MiB.
    pub history_min_free_mib: u64,
    /// `api.listen`: where the admin interface listens; port 0 takes a free one.
    pub listen: SocketAddr,
    /// `drain.deadline`: how long a stopping worker waits for replies.
    pub drain_deadline_ms: u64,
    /// `resolution.time_scale`: by how much the intervals of the resolution of unknown attempts are divided. A worker
    /// refuses to start with more than 1 under a business clock that runs as time does.
    pub resolution_time_scale: u32,
    /// `failover.spool_wait`: how long the spools of those that lived then are waited for after a failover. Spools keep their
    /// lines for a day.
    pub spool_wait_ms: u64,
}

impl Default for EngineSettings {
    fn default() -> Self {
        Self {
            lease_ttl_ms: 20_000,
            lease_renew_ms: 5_000,
            batch_max: 1_000,
            batch_wait_ms: 40,
            stripes: 2,
            send_max_age_ms: 30_000,
            wheel_horizon_s: 7_200,
            inbox_poll_ms: 100,
            low_water_every_ms: 5_000,
            slices: 1,
            history_quota_mib: 4 * GIB_MIB,
            history_min_free_mib: GIB_MIB,
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0),
            drain_deadline_ms: 10_000,
            resolution_time_scale: 1,
            spool_wait_ms: 600_000,
        }
    }
}

const GIB_MIB: u64 = 1_024;
const TIB_MIB: i64 = 1_024 * 1_024;
const MINUTE_MS: i64 = 60_000;

/// The settings of `engine.toml`; with problems, the defaults stand in for what is wrong.
pub fn read_engine(source: &Source, problems: &mut Problems) -> EngineSettings {
    let mut settings = EngineSettings::default();
    let Some(mut root) = Table::parse(source, problems) else { return settings };
    let sections: [(&str, Section); 8] = [
        ("lease", lease),
        ("batch", batch),
        ("wheel", wheel),
        ("history", history),
        ("api", api),
        ("drain", drain),
        ("resolution", resolution),
        // Behind `lease`: it is compared with its time to live.
        ("failover", failover),
    ];
    for (name, read) in sections {
        if let Some(mut table) = root.opt_table(name, problems) {
            read(&mut table, &mut settings, problems);
            table.finish(problems);
        }
    }
    root.finish(problems);
    settings
}

type Section = fn(&mut Table<'_>, &mut EngineSettings, &mut Problems);

fn lease(table: &mut Table<'_>, settings: &mut EngineSettings, problems: &mut Problems) {
    set(&mut settings.lease_ttl_ms, table.opt_duration_ms("ttl", 1_000..=5 * MINUTE_MS, problems));
    set(&mut settings.lease_renew_ms, table.opt_duration_ms("renew", 100..=5 * MINUTE_MS, problems));
    let third_ms = settings.lease_ttl_ms / 3;
    if settings.lease_renew_ms > third_ms {
        // Whoever shortens only the time to live meets the default of the other key.
        let key = if table.has("renew") { "renew" } else { "ttl" };
        let text = |ms: u64| duration_text(i64::try_from(ms).unwrap_or(i64::MAX));
        let (renew, ttl) = (text(settings.lease_renew_ms), text(settings.lease_ttl_ms));
        let what = format!("`lease.renew` is \"{renew}\" with a `lease.ttl` of \"{ttl}\"");
        let help = format!("renew at least every {}, a third of it", text(third_ms));
        table.problem(key, what, help, problems);
    }
}

fn batch(table: &mut Table<'_>, settings: &mut EngineSettings, problems: &mut Problems) {
    set(&mut settings.batch_max, table.opt_int("max", 1..=4_000, problems));
    set(&mut settings.batch_wait_ms, table.opt_duration_ms("wait", 0..=1_000, problems));
    set(&mut settings.stripes, table.opt_int("stripes", 1..=8, problems));
    let send_max_age = table.opt_duration_ms("send_max_age", 1_000..=5 * MINUTE_MS, problems);
    set(&mut settings.send_max_age_ms, send_max_age);
}

fn wheel(table: &mut Table<'_>, settings: &mut EngineSettings, problems: &mut Problems) {
    set(&mut settings.wheel_horizon_s, table.opt_duration_s("horizon", 60..=86_400, problems));
    set(&mut settings.inbox_poll_ms, table.opt_duration_ms("inbox_poll", 10..=10_000, problems));
    let low_water_every = table.opt_duration_ms("low_water_every", 100..=5 * MINUTE_MS, problems);
    set(&mut settings.low_water_every_ms, low_water_every);
    let slices = table.opt_int("slices", 1..=4_096, problems);
    if let Some(odd) = slices.as_ref().filter(|slices| slices.value & (slices.value - 1) != 0) {
        let what = format!("`wheel.slices` is {}", odd.value);
        table.problem_at(odd.place, what, "write a power of two", problems);
    }
    set(&mut settings.slices, slices);
}

fn history(table: &mut Table<'_>, settings: &mut EngineSettings, problems: &mut Problems) {
    set(&mut settings.history_quota_mib, size(table, "quota", 64, problems));
    set(&mut settings.history_min_free_mib, size(table, "min_free", 0, problems));
}

fn api(table: &mut Table<'_>, settings: &mut EngineSettings, problems: &mut Problems) {
    let Some(listen) = table.opt_str("listen", problems) else { return };
    match listen.parse() {
        Ok(address) => settings.listen = address,
        Err(_) => {
            let what = format!("`api.listen` is \"{}\"", excerpt(&listen));
            let help = "write an address and a port, such as \"127.0.0.1:8080\"";
            table.problem_at(listen.place, what, help, problems);
        }
    }
}

fn drain(table: &mut Table<'_>, settings: &mut EngineSettings, problems: &mut Problems) {
    set(&mut settings.drain_deadline_ms, table.opt_duration_ms("deadline", 0..=5 * MINUTE_MS, problems));
}

fn resolution(table: &mut Table<'_>, settings: &mut EngineSettings, problems: &mut Problems) {
    set(&mut settings.resolution_time_scale, table.opt_int("time_scale", 1..=10_000, problems));
}

fn failover(table: &mut Table<'_>, settings: &mut EngineSettings, problems: &mut Problems) {
    let given = table.opt_duration_ms("spool_wait", 10_000..=12 * 60 * MINUTE_MS, problems);
    let was_given = given.is_some();
    set(&mut settings.spool_wait_ms, given);
    // Whoever lives may notice only when its lease is up for renewal: it would be given up before it can hand in anything.
    if was_given && settings.spool_wait_ms < settings.lease_ttl_ms {
        let text = |ms: u64| duration_text(i64::try_from(ms).unwrap_or(i64::MAX));
        let (wait, ttl) = (text(settings.spool_wait_ms), text(settings.lease_ttl_ms));
        let what = format!("`failover.spool_wait` is \"{wait}\" with a `lease.ttl` of \"{ttl}\"");
        let help = format!("wait at least {ttl}: a worker that lives may notice a failover that late");
        table.problem("spool_wait", what, help, problems);
    }
}

/// A size, `"4GiB"` or a number of MiB, up to 1 TiB.
fn size(table: &mut Table<'_>, key: &str, min_mib: i64, problems: &mut Problems) -> Option<Spanned<i64>> {
    if table.type_of(key) == Some("integer") {
        return table.opt_int(key, min_mib..=TIB_MIB, problems);
    }
    let text = table.opt_str(key, problems)?;
    let mib = size_mib(&text);
    if let Some(value) = mib.filter(|mib| (min_mib..=TIB_MIB).contains(mib)) {
        return Some(Spanned { value, place: text.place });
    }
    let what = format!("`history.{key}` is \"{}\"", excerpt(&text));
    let help = match mib {
        Some(_) => format!("write a size from {} to {}", size_text(min_mib), size_text(TIB_MIB)),
        None => "write a size such as \"512MiB\" or \"4GiB\"".to_owned(),
    };
    table.problem_at(text.place, what, help, problems);
    None
}

/// Sets what was given. The ranges above keep every value inside its type.
fn set<T: TryFrom<i64>>(setting: &mut T, given: Option<Spanned<i64>>) {
    if let Some(value) = given.and_then(|given| T::try_from(given.value).ok()) {
        *setting = value;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn read(text: &str) -> (EngineSettings, Vec<String>) {
        let source = Source { file: "config/engine.toml".to_owned(), text: text.to_owned() };
        let mut problems = Problems::default();
        let settings = read_engine(&source, &mut problems);
        (settings, problems.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn an_empty_file_gives_the_defaults() {
        assert_eq!(read(""), (EngineSettings::default(), vec![]));
        assert_eq!(EngineSettings::default().listen.to_string(), "127.0.0.1:0");
    }

    #[test]
    fn the_file_of_the_repository_shows_every_key_with_its_default() {
        let text = include_str!("../../../config/engine.toml");
        assert_eq!(read(text), (EngineSettings::default(), vec![]));
        let shown = text.lines().filter(|line| line.contains(" = ")).count();
        let documented = include_str!("engine.rs").lines().filter(|line| line.starts_with("//! | `")).count();
        assert_eq!((shown, documented), (16, 16));
    }

    #[test]
    fn every_key_is_read() {
        let text = "[lease]\nttl = \"30s\"\nrenew = \"10s\"\n[batch]\nmax = 4000\nwait = \"0ms\"\nstripes = 8\n\
                    send_max_age = \"1m\"\n[wheel]\nhorizon = \"4h\"\ninbox_poll = \"50ms\"\n\
                    low_water_every = \"1s\"\nslices = 64\n[history]\nquota = 512\nmin_free = \"2GiB\"\n[api]\n\
                    listen = \"[::1]:8080\"\n[drain]\ndeadline = \"1500ms\"\n[resolution]\ntime_scale = 60\n\
                    [failover]\nspool_wait = \"12h\"\n";
        let expected = EngineSettings {
            lease_ttl_ms: 30_000,
            lease_renew_ms: 10_000,
            batch_max: 4_000,
            batch_wait_ms: 0,
            stripes: 8,
            send_max_age_ms: 60_000,
            wheel_horizon_s: 14_400,
            inbox_poll_ms: 50,
            low_water_every_ms: 1_000,
            slices: 64,
            history_quota_mib: 512,
            history_min_free_mib: 2_048,
            listen: "[::1]:8080".parse().unwrap(),
            drain_deadline_ms: 1_500,
            resolution_time_scale: 60,
            spool_wait_ms: 12 * 3_600_000,
        };
        assert_eq!(read(text), (expected, vec![]));
    }

    #[test]
    fn every_problem_is_told_at_its_place() {
        let text = "[lease]\nttl = \"9s\"\n[batch]\nmax = 4001\nwaits = \"1ms\"\n[wheel]\nslices = 6\nhorizon = 2\n\
                    [history]\nquota = \"1MiB\"\nmin_free = \"4GB\"\n[api]\nlisten = \"localhost\"\n[drian]\n";
        let expected = [
            "config/engine.toml:2:7: `lease.renew` is \"5s\" with a `lease.ttl` of \"9s\"; renew at least every 3s, a \
             third of it",
            "config/engine.toml:4:7: `batch.max` is 4001; write a number from 1 to 4000",
            "config/engine.toml:5:1: unknown key `batch.waits`; did you mean `wait`? known keys: max, send_max_age, \
             stripes, wait",
            "config/engine.toml:7:10: `wheel.slices` is 6; write a power of two",
            "config/engine.toml:8:11: `wheel.horizon`: expected a duration such as \"15m\", found an integer; write it in quotes",
            "config/engine.toml:10:9: `history.quota` is \"1MiB\"; write a size from 64MiB to 1TiB",
            "config/engine.toml:11:12: `history.min_free` is \"4GB\"; write a size such as \"512MiB\" or \"4GiB\"",
            "config/engine.toml:13:10: `api.listen` is \"localhost\"; write an address and a port, such as \
             \"127.0.0.1:8080\"",
            "config/engine.toml:14:2: unknown key `drian`; did you mean `drain`? known keys: api, batch, drain, \
             failover, history, lease, resolution, wheel",
        ];
        assert_eq!(read(text).1, expected);
    }

    #[test]
    fn waiting_for_spools_too_briefly_or_beyond_what_they_keep_is_refused() {
        let refused = |text: &str| read(text).1.join("\n");
        for (given, told) in [
            (
                "9s",
                "config/engine.toml:2:14: `failover.spool_wait` is \"9s\"; write a duration from 10s to 12h",
            ),
            (
                "13h",
                "config/engine.toml:2:14: `failover.spool_wait` is \"13h\"; write a duration from 10s to 12h",
            ),
        ] {
            let found = refused(&format!("[failover]\nspool_wait = \"{given}\"\n"));
            assert!(found.starts_with(told), "{found}");
        }
        // Shorter than a lease: also where its key comes later in the file.
        let (settings, problems) =
            read("[failover]\nspool_wait = \"15s\"\n[lease]\nttl = \"20s\"\nrenew = \"5s\"\n");
        let expected = "config/engine.toml:2:14: `failover.spool_wait` is \"15s\" with a `lease.ttl` of \"20s\"; wait at \
                        least 20s: a worker that lives may notice a failover that late";
        assert_eq!((settings.spool_wait_ms, problems), (15_000, vec![expected.to_owned()]));
        assert_eq!(read("[failover]\nspool_wait = \"20s\"\n").1, Vec::<String>::new());
        assert!(!refused("[failover]\nspool_wait = 600\n").is_empty());
    }

    #[test]
    fn renewing_too_seldom_is_told_at_renew() {
        let (_, problems) = read("[lease]\nrenew = \"7s\"\n");
        let expected = "config/engine.toml:2:9: `lease.renew` is \"7s\" with a `lease.ttl` of \"20s\"; renew at least \
                        every 6666ms, a third of it";
        assert_eq!(problems, [expected]);
    }
}
