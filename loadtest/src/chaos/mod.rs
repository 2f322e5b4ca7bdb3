//! Chaos on real processes: engines, Postgres, mock carriers and the sockets between them, and everything that can go wrong
//! with them. Afterwards the ledgers are compared and the independent checker looks at everything that was written.
//!
//! The simulation ([`crate::sim`]) goes through more worlds in less time; here nothing is simulated but the carriers.

mod disk;
mod fault;
mod hostile;
mod process;
mod proxy;
mod report;
mod rounds;
mod run;
mod scenes;
mod seat;
mod settle;
mod world;

use std::path::PathBuf;
use std::time::Duration;

pub use fault::{Crash, Fault};
pub use hostile::Hostile;
pub use proxy::{Mode, Proxy, Upstream, WirePoint};
pub use report::Report;

/// What a run is made of.
#[derive(Debug, Clone)]
pub struct Settings {
    /// A new or empty folder: everything is written there.
    pub dir: PathBuf,
    /// The program `toll`.
    pub toll: PathBuf,
    /// The program `mock-carrier`.
    pub mock: PathBuf,
    /// The shipped book: its carriers and plans are used.
    pub config: PathBuf,
    /// The independent checker.
    pub checker: PathBuf,
    /// Engines at a time, two at least.
    pub engines: usize,
    /// Subscribers; each is charged once a business day, which is a minute.
    pub subscribers: u64,
    /// Faults for so long at least.
    pub duration: Duration,
    /// And until the carriers applied so many charges.
    pub charges: u64,
    /// And until so many engines were killed.
    pub kills: u64,
    /// And until every kind of fault was there.
    pub every_fault: bool,
    /// And until every crash point was reached.
    pub every_point: bool,
    /// A fault lasts so long.
    pub fault_for: Duration,
    /// Kills at crash points go on for so long ...
    pub kills_for: Duration,
    /// ... before each of so many other faults.
    pub kills_every: u64,
    /// But no longer than this.
    pub at_most: Duration,
    /// After the faults everything is settled within this.
    pub settled_within: Duration,
    /// Only faults whose names contain one of these; none: all of them.
    pub only: Vec<String>,
    /// Decides which faults come when.
    pub seed: u64,
}

impl Settings {
    /// The kinds of faults of this run.
    #[must_use]
    pub fn faults(&self) -> Vec<Fault> {
        let wanted = |fault: &Fault| {
            let name = fault.name();
            self.only.is_empty() || self.only.iter().any(|part| name.contains(part.as_str()))
        };
        Fault::all().into_iter().filter(wanted).collect()
    }
}

/// Runs it; `say` is told what happens, a line each.
///
/// # Errors
/// When the world cannot be built or breaks down. A broken promise is no error: it stands in the report.
pub fn run(settings: &Settings, say: &mut dyn FnMut(&str)) -> anyhow::Result<Report> {
    run::Run::start(settings, say)?.finish()
}
