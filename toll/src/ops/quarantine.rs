//! `toll ops quarantine`: what a failover holds up, and the two things about it that only people know.

use serde::Serialize;
use sqlx::Connection;
use storage::pg::{self, QuarantineLine};

use crate::cli::Global;
use crate::database::Database;
use crate::exit::failed;
use crate::held;
use crate::home::Home;
use crate::out::{self, Paint, Table};
use crate::reading::Reading;
use crate::who;
use crate::words;

const SHOWN_MAX: i64 = 200;

/// What `toll ops quarantine` takes.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "After a failover every shard waits until each worker that lived then has handed in what its spool says was sent,
`failover.spool_wait` of engine.toml (10m) at most. A spool that is lost for good needs no waiting: then every charge that was due is asked about first.

Examples:
  toll ops quarantine
  toll ops quarantine force 1 --as amal
  toll ops quarantine adopt --as amal"
)]
pub(crate) struct QuarantineArgs {
    /// What to do; without it, what is held up is listed
    #[command(subcommand)]
    verb: Option<QuarantineVerb>,
    /// Also those that hold up nothing more
    #[arg(long)]
    all: bool,
}

#[derive(Debug, clap::Subcommand)]
enum QuarantineVerb {
    /// Wait no longer for the spools that are missing: every charge that was due is asked about before it is sent
    Force {
        /// Which quarantine
        id: i64,
        /// Who says so
        #[arg(long = "as", value_name = "NAME")]
        name: Option<String>,
    },
    /// The database was moved to this server on purpose (dump and restore, pg_upgrade)
    Adopt {
        /// Who says so
        #[arg(long = "as", value_name = "NAME")]
        name: Option<String>,
    },
}

#[derive(Debug, Serialize)]
struct Shown {
    quarantine: i64,
    why: String,
    found_at: String,
    age_s: i64,
    window_from: String,
    from_timeline: i32,
    to_timeline: i32,
    waits_until: String,
    forced_by: Option<String>,
    shards: i64,
    shards_held: i64,
    shards_in_doubt: i64,
    lost: i64,
    open: i64,
    missing_spools: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Done {
    done: bool,
    what: String,
}

/// Lists, or does what was decided.
pub(super) async fn run(global: &Global, args: &QuarantineArgs) -> anyhow::Result<()> {
    match &args.verb {
        None => {
            let mut reading = Reading::open(global).await?;
            let lines = pg::quarantine_lines(&mut reading.conn, args.all, SHOWN_MAX).await;
            reading.close().await;
            show(global, &lines?)
        }
        Some(verb) => {
            let home = Home::open(&global.data)?;
            let database = Database::open(&home, global.database.as_deref()).await?;
            let done = decide(&database, verb).await;
            database.close().await;
            let done = done?;
            match global.json {
                true => out::json(&done),
                false => out::print(&format!("{}\n", done.what)),
            }
        }
    }
}

async fn decide(database: &Database, verb: &QuarantineVerb) -> anyhow::Result<Done> {
    let mut conn = database.migrated().await?;
    let mut tx = conn.begin().await?;
    let what = match verb {
        QuarantineVerb::Force { id, name } => {
            let actor = who::actor(name.as_deref())?;
            if !pg::force_quarantine(&mut tx, *id, &actor.who).await? {
                return Err(failed(format!(
                    "quarantine {id} waits for no spool: toll ops quarantine lists them"
                )));
            }
            pg::audit(&mut tx, &actor, "quarantine.force", &id.to_string(), "{}").await?;
            format!(
                "quarantine {id} waits no longer: every charge that was due is asked about before it is sent"
            )
        }
        QuarantineVerb::Adopt { name } => {
            let actor = who::actor(name.as_deref())?;
            let terms = held::terms_in_force(&mut tx).await?;
            let Some(id) = pg::adopt_server(&mut tx, &actor.who, terms).await? else {
                return Err(failed("this server is the one that the database is kept on".to_owned()));
            };
            pg::audit(&mut tx, &actor, "quarantine.adopt", &id.to_string(), "{}").await?;
            format!("the database is kept on this server from now on; quarantine {id} waits for the spools")
        }
    };
    tx.commit().await?;
    Ok(Done { done: true, what })
}

fn show(global: &Global, lines: &[QuarantineLine]) -> anyhow::Result<()> {
    let at = |us: i64| words::timestamp(us / 1_000).to_string();
    let shown: Vec<Shown> = lines
        .iter()
        .map(|line| Shown {
            quarantine: line.id,
            why: line.why.clone(),
            found_at: at(line.found_us),
            age_s: (line.now_us - line.found_us) / 1_000_000,
            window_from: at(line.window_from_us),
            from_timeline: line.from_timeline,
            to_timeline: line.to_timeline,
            waits_until: at(line.deadline_us),
            forced_by: line.forced_by.clone(),
            shards: line.shards,
            shards_held: line.held,
            shards_in_doubt: line.doubted,
            lost: line.lost,
            open: line.open,
            missing_spools: line.missing.clone(),
        })
        .collect();
    if global.json {
        return out::json(&shown);
    }
    if shown.is_empty() {
        eprintln!("nothing is held up by a failover");
        return Ok(());
    }
    let mut table =
        Table::new(&["ID", ">AGE", ">HELD", ">SHARDS", ">LOST", ">OPEN", "WAITS UNTIL", "FOR", "WHY"]);
    for one in shown {
        let missing =
            if one.missing_spools.is_empty() { "-".to_owned() } else { one.missing_spools.join(" ") };
        table.row(vec![
            one.quarantine.to_string(),
            words::span_us(one.age_s.saturating_mul(1_000_000)),
            one.shards_held.to_string(),
            one.shards.to_string(),
            one.lost.to_string(),
            one.open.to_string(),
            one.forced_by.map_or(one.waits_until, |who| format!("{who} said not to wait")),
            missing,
            one.why,
        ]);
    }
    out::print(&table.render(0, Paint::of_stdout()))
}
