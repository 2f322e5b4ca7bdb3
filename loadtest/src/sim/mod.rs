//! Deterministic simulation: the real core, engine loop, lanes, resolver and recorder over the memory store, with scripted
//! carriers that keep their own ledgers. One seed is one run, bit for bit.
//!
//! [`world`] builds a run and lets things go wrong, [`seat`] is where a worker lives and dies, [`carrier`] what it talks to, [`link`] how,
//! [`judge`] compares the books in the end. Everything runs on one thread and on paused time, so hours pass in
//! milliseconds.
//!
//! One world in eight knows no other fault than failovers that lose the last two seconds; in the others they happen among
//! everything else.
//!
//! Absent on purpose: sockets, disks, Postgres. What they do is rehearsed elsewhere, with real ones.

mod book;
mod carrier;
mod clock;
pub(crate) mod dice;
mod forgotten;
mod judge;
mod link;
mod log;
mod seat;
mod size;
mod world;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use serde::Serialize;

/// How a run is made, besides its seed.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// For so many business days things go wrong.
    pub days: u64,
    /// So many lines of the event log are kept in words.
    pub lines: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { days: 3, lines: 0 }
    }
}

/// What one run came to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// Its seed.
    pub seed: u64,
    /// The event log as one number: the same seed gives the same.
    pub digest: u64,
    /// How much happened.
    pub events: u64,
    /// Charges that carriers applied.
    pub charges: u64,
    /// Intents.
    pub attempts: u64,
    /// Faults that were injected.
    pub faults: u64,
    /// The same by kind.
    pub faults_by_kind: BTreeMap<String, u64>,
    /// Collected above what was due.
    pub doubles: Vec<String>,
    /// Applied at a carrier and neither approved nor open here; due and without charge or reason.
    pub lost: Vec<String>,
    /// Applied at a carrier, and known to nobody here because a failover destroyed the wish and the intent and a machine was
    /// lost with its spool: what is not promised. No broken promise.
    pub forgotten: Vec<String>,
    /// Approved here and not applied there.
    pub phantoms: Vec<String>,
    /// Every other promise that was broken.
    pub other: Vec<String>,
    /// The last lines of the event log, where they were asked for.
    #[serde(skip)]
    pub lines: Vec<String>,
}

impl Outcome {
    /// Whether every promise was kept.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.broken().next().is_none()
    }

    /// Every promise that was broken, in words.
    pub fn broken(&self) -> impl Iterator<Item = &str> {
        self.doubles.iter().chain(&self.lost).chain(&self.phantoms).chain(&self.other).map(String::as_str)
    }
}

/// What many runs came to.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Summary {
    /// Runs.
    pub seeds: u64,
    /// Charges that carriers applied.
    pub charges: u64,
    /// Intents.
    pub attempts: u64,
    /// Faults that were injected.
    pub faults: u64,
    /// The same by kind.
    pub faults_by_kind: BTreeMap<String, u64>,
    /// Collected above what was due.
    pub doubles: u64,
    /// Applied and unknown to us, or due and forgotten.
    pub lost: u64,
    /// Wish, intent and spool destroyed together: not promised, so not lost.
    pub forgotten: u64,
    /// Approved here only.
    pub phantoms: u64,
    /// Every other promise that was broken.
    pub other: u64,
    /// Runs per second.
    pub seeds_per_s: f64,
    /// Charges an hour of one core.
    pub charges_per_core_hour: f64,
    /// Seeds with a broken promise, and the first few words of each.
    pub failed: Vec<(u64, Vec<String>)>,
}

/// Runs one seed.
///
/// # Errors
/// When the world could not be built: a fault of the simulation, not of the engine.
pub fn run_seed(seed: u64, settings: &Settings) -> anyhow::Result<Outcome> {
    world::run(seed, settings)
}

/// Runs the seeds `first` to `first + seeds - 1` on so many threads, each seed on one of them.
///
/// # Errors
/// As [`run_seed`].
pub fn run_seeds(first: u64, seeds: u64, threads: usize, settings: &Settings) -> anyhow::Result<Summary> {
    let began = Instant::now();
    let next = AtomicU64::new(first);
    let summary = Mutex::new(Summary::default());
    let failure: Mutex<Option<anyhow::Error>> = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::SeqCst);
                    if seed - first >= seeds {
                        return;
                    }
                    match run_seed(seed, settings) {
                        Ok(outcome) => summary.lock().unwrap_or_else(PoisonError::into_inner).add(&outcome),
                        Err(error) => {
                            *failure.lock().unwrap_or_else(PoisonError::into_inner) =
                                Some(error.context(format!("seed {seed}")));
                            return;
                        }
                    }
                }
            });
        }
    });
    if let Some(error) = failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(error);
    }
    let mut summary = summary.into_inner().unwrap_or_else(PoisonError::into_inner);
    let took_s = began.elapsed().as_secs_f64().max(1e-9);
    summary.seeds_per_s = summary.seeds as f64 / took_s;
    summary.charges_per_core_hour = summary.charges as f64 * 3_600.0 / took_s / threads.max(1) as f64;
    summary.failed.sort();
    Ok(summary)
}

impl Summary {
    fn add(&mut self, outcome: &Outcome) {
        self.seeds += 1;
        self.charges += outcome.charges;
        self.attempts += outcome.attempts;
        self.faults += outcome.faults;
        for (kind, count) in &outcome.faults_by_kind {
            *self.faults_by_kind.entry(kind.clone()).or_default() += count;
        }
        self.doubles += outcome.doubles.len() as u64;
        self.lost += outcome.lost.len() as u64;
        self.forgotten += outcome.forgotten.len() as u64;
        self.phantoms += outcome.phantoms.len() as u64;
        self.other += outcome.other.len() as u64;
        if !outcome.holds() {
            let words = outcome.broken().take(5).map(str::to_owned).collect();
            self.failed.push((outcome.seed, words));
        }
    }
}
