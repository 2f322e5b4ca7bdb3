//! What a failover of the database holds up, as `toll status` and `toll doctor` tell it.

use billing_core::book::engine::EngineSettings;
use carriers::StandInSecrets;
use serde::Serialize;
use sqlx::postgres::PgConnection;
use storage::pg::{self, HeldShards, QuarantineLine, QuarantineTerms, ServerMoved, StoreError};

use crate::book_store;
use crate::out::Paint;
use crate::shown::one_line;
use crate::words::{self, count};

/// Quarantines that are told; there is one per failover that is not cleared up.
const TOLD_MAX: i64 = 20;
/// Spools that the text names; `--json` and `toll ops quarantine` name all.
const NAMED_MAX: usize = 8;

/// One failover that holds something up.
#[derive(Debug, Serialize)]
pub(crate) struct Held {
    quarantine: i64,
    why: String,
    since: String,
    age_s: i64,
    shards: i64,
    shards_held: i64,
    held: Vec<HeldOf>,
    /// Requests that may have been sent and are not settled; nothing else of their charges is begun.
    open: i64,
    waits_until: String,
    wait_is_over: bool,
    forced_by: Option<String>,
    missing_spools: Vec<String>,
    todo: String,
}

/// The shards of a carrier that are held.
#[derive(Debug, Serialize)]
struct HeldOf {
    carrier: String,
    slices: Vec<i32>,
}

/// What is held up now, the latest failover first.
///
/// # Errors
/// [`StoreError`] when the database is away.
pub(crate) async fn held(conn: &mut PgConnection) -> Result<Vec<Held>, StoreError> {
    let lines = pg::quarantine_lines(conn, false, TOLD_MAX).await?;
    let shards =
        if lines.iter().any(|line| line.held > 0) { pg::held_shards(conn).await? } else { Vec::new() };
    Ok(lines.into_iter().map(|line| Held::new(line, &shards)).collect())
}

/// How a quarantine is opened: as the workers do it, by the book in force, not by the files on disk.
///
/// # Errors
/// When the database is away, or the book in force cannot be read.
pub(crate) async fn terms_in_force(conn: &mut PgConnection) -> anyhow::Result<QuarantineTerms> {
    let settings = match pg::current_book(conn).await? {
        Some(version) => book_store::read(&version, &StandInSecrets)?.book.engine,
        None => EngineSettings::default(),
    };
    Ok(QuarantineTerms::waiting(i64::try_from(settings.spool_wait_ms)?))
}

impl Held {
    fn new(line: QuarantineLine, shards: &[HeldShards]) -> Self {
        let wait_is_over = line.forced_by.is_some() || line.deadline_us <= line.now_us;
        let at = |us: i64| words::timestamp(us / 1_000).to_string();
        let todo = todo(&line, wait_is_over);
        let own = shards.iter().filter(|shards| shards.quarantine_id == line.id);
        Self {
            quarantine: line.id,
            why: one_line(&line.why),
            since: at(line.found_us),
            age_s: (line.now_us - line.found_us).max(0) / 1_000_000,
            shards: line.shards,
            shards_held: line.held,
            held: own
                .map(|own| HeldOf { carrier: one_line(&own.carrier), slices: own.slices.clone() })
                .collect(),
            open: line.open,
            waits_until: at(line.deadline_us),
            wait_is_over,
            forced_by: line.forced_by.as_deref().map(one_line),
            missing_spools: line.missing.iter().map(|spool| one_line(spool)).collect(),
            todo,
        }
    }

    /// Whether whole shards are held: nothing of them is charged.
    pub(crate) fn holds_shards(&self) -> bool {
        self.shards_held > 0
    }

    /// What to do.
    pub(crate) fn todo(&self) -> &str {
        &self.todo
    }

    /// Which shards are held since when, and what for; for people, in one line.
    pub(crate) fn told(&self) -> String {
        let age = words::span_us(self.age_s.saturating_mul(1_000_000));
        let since = format!("since {} ({age})", self.since);
        if !self.holds_shards() {
            return format!("every shard charges again; {} asked about, {since}", open_text(self.open));
        }
        let which: Vec<String> =
            self.held.iter().map(|of| format!("{} {}", of.carrier, ranges(&of.slices))).collect();
        let which = if which.is_empty() { String::new() } else { format!(" ({})", which.join(", ")) };
        let held =
            format!("{} of {} shards held{which} {since}: {}", self.shards_held, self.shards, self.why);
        format!("{held}; {}", self.waits())
    }

    fn waits(&self) -> String {
        if self.missing_spools.is_empty() {
            return "every spool was handed in: each shard waits until its worker has taken up what is listed"
                .to_owned();
        }
        let mut named = self.missing_spools.iter().take(NAMED_MAX).cloned().collect::<Vec<_>>().join(", ");
        if self.missing_spools.len() > NAMED_MAX {
            named += &format!(" and {} more", self.missing_spools.len() - NAMED_MAX);
        }
        let spools = count(self.missing_spools.len(), "spool");
        match (&self.forced_by, self.wait_is_over) {
            (Some(who), _) => format!("{who} said not to wait for {spools}: {named}"),
            (None, true) => format!("{spools} did not come until {}: {named}", self.waits_until),
            (None, false) => format!("waits until {} for {spools}: {named}", self.waits_until),
        }
    }
}

fn open_text(open: i64) -> String {
    let verb = if open == 1 { "is" } else { "are" };
    format!("{} that may have been sent {verb} still", count(open, "request"))
}

fn todo(line: &QuarantineLine, wait_is_over: bool) -> String {
    if line.held == 0 {
        return "`toll ops quarantine` shows how many; what carriers cannot prove goes to people".to_owned();
    }
    if line.missing.is_empty() || wait_is_over {
        return "have a worker run for every shard; `toll ops quarantine` shows how it goes".to_owned();
    }
    format!(
        "start the workers of these spools; one that is lost for good needs no waiting: `toll ops quarantine`, then `toll ops \
         quarantine force {} --as NAME`",
        line.id
    )
}

/// `0-3, 7`
fn ranges(slices: &[i32]) -> String {
    let mut runs: Vec<(i32, i32)> = Vec::new();
    for slice in slices {
        match runs.last_mut() {
            Some((_, last)) if last.saturating_add(1) == *slice => *last = *slice,
            _ => runs.push((*slice, *slice)),
        }
    }
    let run = |(first, last): &(i32, i32)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    };
    runs.iter().map(run).collect::<Vec<_>>().join(", ")
}

/// For `toll status`; empty where nothing is held up.
pub(crate) fn text(held: &[Held], paint: Paint) -> String {
    let line = |one: &Held| {
        let told = one.told();
        let told = if one.holds_shards() { paint.bad(&told) } else { paint.warn(&told) };
        format!("failover {:<6} {told}\n                → {}\n", one.quarantine, one.todo())
    };
    held.iter().map(line).collect()
}

/// A failover that no worker has met yet: what was found, and what to do.
pub(crate) fn unmet(moved: &ServerMoved) -> (String, &'static str) {
    match moved {
        ServerMoved::Cluster { known, here } => (
            format!("this is the server {here}, and the database was kept on {known}: workers refuse it"),
            "if it was moved on purpose (dump and restore, pg_upgrade): `toll ops quarantine adopt --as NAME`",
        ),
        ServerMoved::Timeline { known, here } => (
            format!(
                "the server is on timeline {here}, and was on {known} when a worker last wrote: no worker has met it yet"
            ),
            "make sure that the old primary is dead, then start every worker: they find out what was sent before",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line() -> QuarantineLine {
        QuarantineLine {
            id: 3,
            found_us: 1_800_000_000_000_000,
            window_from_us: 1_799_999_000_000_000,
            deadline_us: 1_800_000_600_000_000,
            now_us: 1_800_000_090_000_000,
            why: "a standby was promoted".into(),
            from_timeline: 1,
            to_timeline: 2,
            forced_by: None,
            shards: 8,
            held: 5,
            doubted: 0,
            lost: 2,
            open: 2,
            missing: vec!["alpha:/spool/1".into()],
        }
    }

    fn shards() -> [HeldShards; 2] {
        let of = |quarantine_id, slices: &[i32]| HeldShards {
            quarantine_id,
            carrier: "medina".into(),
            slices: slices.to_vec(),
        };
        [of(3, &[0, 1, 2, 5, 7]), of(2, &[6])]
    }

    #[test]
    fn it_says_which_shards_since_when_for_what_and_what_to_do() {
        let held = Held::new(line(), &shards());
        let told = held.told();
        for part in [
            "5 of 8 shards held (medina 0-2, 5, 7)",
            "since 2027-01-15T08:00:00Z",
            "until 2027-01-15T08:10:00Z for 1 spool: alpha:/spool/1",
        ] {
            assert!(told.contains(part), "{told}");
        }
        assert!(held.holds_shards() && held.todo().contains("quarantine force 3"), "{}", held.todo());
    }

    #[test]
    fn a_wait_that_is_over_is_not_one_for_people() {
        let forced = Held::new(QuarantineLine { forced_by: Some("amal".into()), ..line() }, &shards());
        assert!(forced.told().contains("amal said not to wait for 1 spool"), "{}", forced.told());
        let late = Held::new(QuarantineLine { now_us: 1_800_000_600_000_000, ..line() }, &shards());
        assert!(late.told().contains("did not come until"), "{}", late.told());
        for held in [forced, late] {
            assert!(
                held.todo().contains("a worker run") && !held.todo().contains("force"),
                "{}",
                held.todo()
            );
        }
        let done = Held::new(QuarantineLine { held: 0, open: 1, ..line() }, &[]);
        assert!(
            !done.holds_shards() && done.told().contains("1 request that may have been sent is"),
            "{}",
            done.told()
        );
    }

    #[test]
    fn many_spools_are_counted() {
        let missing = (0..30).map(|no| format!("alpha:/spool/{no}")).collect();
        let told = Held::new(QuarantineLine { missing, ..line() }, &shards()).told();
        assert!(told.contains("30 spools") && told.contains("and 22 more") && told.len() < 500, "{told}");
    }
}
