//! What a run came to.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;

use crate::compare::{Comparison, DifferenceKind};

/// The report of a run. Durations are milliseconds of the machine's time.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// The seed: with the same the same faults are chosen in the same sequence.
    pub seed: u64,
    /// Engines.
    pub engines: usize,
    /// Seconds under faults.
    pub under_faults_s: u64,
    /// Seconds until everything was settled after them.
    pub settling_s: u64,
    /// Business days that passed.
    pub business_days: i64,
    /// Zones whose clocks changed meanwhile.
    pub clock_changes: Vec<String>,
    /// Charges that were tried.
    pub charges: i64,
    /// Attempts under a key of their own.
    pub attempts: i64,
    /// Charges that the carriers applied, as they say.
    pub applied_by_carriers: u64,
    /// kill -9 of engines.
    pub kills: u64,
    /// The same by crash point, those that nobody reached among them; `random` where none was armed.
    pub kills_by_point: BTreeMap<String, u64>,
    /// Crash points that no engine died at.
    pub points_not_reached: Vec<String>,
    /// Scenes that ended without a kill at their point, by point.
    pub scenes_in_vain: BTreeMap<String, u64>,
    /// kill -9 of Postgres.
    pub postgres_kills: u64,
    /// Rounds by kind of fault.
    pub faults: BTreeMap<String, u64>,
    /// Requests and connections that met a proxy's fault.
    pub wire_faults: u64,
    /// How the disk was filled.
    pub disk: String,
    /// Recoveries that were measured: a kill that no other kill followed.
    pub recoveries: u64,
    /// From a kill to the first new charge on the dead engine's shards, at worst.
    pub worst_recovery_ms: u64,
    /// Recoveries that took longer than is promised: on a machine with more to do than processors they are told, and
    /// break nothing until they are late by as much as the machine is slow.
    pub late_recoveries: u64,
    /// What is promised: lease and 5 s.
    pub recovery_bound_ms: u64,
    /// Drains.
    pub drains: u64,
    /// From SIGTERM to the end, at worst.
    pub worst_drain_ms: u64,
    /// Attempts that a drain left unknown.
    pub unknown_by_drains: i64,
    /// The most memory that an engine held, in bytes.
    pub peak_memory_bytes: u64,
    /// By how much hostile answers raised it at most, in bytes.
    pub hostile_growth_bytes: u64,
    /// Keys or charges that collected twice.
    pub doubles: u64,
    /// Applied by a carrier, and neither approved nor listed here.
    pub lost: u64,
    /// Approved here, and not applied by the carrier.
    pub phantoms: u64,
    /// Other differences between the ledgers.
    pub other: u64,
    /// Intents made before the time of their charge.
    pub early: i64,
    /// Attempts that are neither final nor in review.
    pub unknown_left: i64,
    /// Attempts that wait for people, by the rule that says why.
    pub in_review: BTreeMap<String, i64>,
    /// Attempts in review without a reason.
    pub in_review_without_reason: i64,
    /// Whether the independent checker found nothing.
    pub checker_green: bool,
    /// What it said, when it found something.
    pub checker: String,
    /// Promises that did not hold; empty when all did.
    pub broken: Vec<String>,
}

impl Report {
    /// Whether every promise held.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.broken.is_empty() && self.checker_green
    }

    /// Sorts the differences of the ledgers.
    pub(super) fn count(&mut self, comparison: &Comparison) {
        self.applied_by_carriers = comparison.applied_by_carrier;
        for difference in &comparison.differences {
            match difference.kind {
                DifferenceKind::AppliedTwice | DifferenceKind::OverCollected => self.doubles += 1,
                DifferenceKind::NotOurs | DifferenceKind::AppliedButRefused => self.lost += 1,
                DifferenceKind::ApprovedNotApplied => self.phantoms += 1,
                DifferenceKind::AmountDiffers | DifferenceKind::OutcomeWithoutIntent => self.other += 1,
            }
        }
        // Beyond those that are described.
        self.other += comparison.differences_total.saturating_sub(comparison.differences.len() as u64);
        for difference in comparison.differences.iter().take(10) {
            self.broken.push(format!("the ledgers differ: {difference:?}"));
        }
    }

    /// For people.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut line = |name: &str, value: String| {
            let _ = writeln!(text, "{name:<22} {value}"); // a string takes everything
        };
        line("seed", self.seed.to_string());
        line("under faults", format!("{} s, then {} s to settle", self.under_faults_s, self.settling_s));
        line(
            "business days",
            format!("{}; clocks changed in {}", self.business_days, listed(&self.clock_changes)),
        );
        line("charges", format!("{} in {} attempts", self.charges, self.attempts));
        let a_second = self.applied_by_carriers / self.under_faults_s.max(1);
        line(
            "applied by carriers",
            format!("{} ({a_second} a second under faults)", self.applied_by_carriers),
        );
        line("kill -9 of engines", self.kills.to_string());
        for (point, kills) in &self.kills_by_point {
            line("", format!("{kills:>5}  {point}"));
        }
        line("points not reached", listed(&self.points_not_reached));
        for (point, scenes) in &self.scenes_in_vain {
            line("scenes in vain", format!("{scenes:>5}  {point}"));
        }
        line("kill -9 of Postgres", self.postgres_kills.to_string());
        line("faults", String::new());
        for (fault, rounds) in &self.faults {
            line("", format!("{rounds:>5}  {fault}"));
        }
        line("faults on the wire", self.wire_faults.to_string());
        line("disk filled by", self.disk.clone());
        line(
            "worst recovery",
            format!(
                "{} ms of {} measured (promised: {} ms; later: {})",
                self.worst_recovery_ms, self.recoveries, self.recovery_bound_ms, self.late_recoveries
            ),
        );
        line(
            "worst drain",
            format!(
                "{} ms of {}; unknown by it: {}",
                self.worst_drain_ms, self.drains, self.unknown_by_drains
            ),
        );
        line(
            "memory of an engine",
            format!(
                "{} MiB at most; hostile answers added {} MiB",
                self.peak_memory_bytes >> 20,
                self.hostile_growth_bytes >> 20
            ),
        );
        line("doubles", self.doubles.to_string());
        line("lost", self.lost.to_string());
        line("phantoms", self.phantoms.to_string());
        line("other differences", self.other.to_string());
        line("before their time", self.early.to_string());
        line("unknown left", self.unknown_left.to_string());
        line("in review", self.in_review.values().sum::<i64>().to_string());
        for (rule, attempts) in &self.in_review {
            line("", format!("{attempts:>5}  {rule}"));
        }
        line(
            "checker",
            if self.checker_green { "green".to_owned() } else { format!("NOT green\n{}", self.checker) },
        );
        for broken in &self.broken {
            line("BROKEN", broken.clone());
        }
        text
    }
}

fn listed(all: &[String]) -> String {
    if all.is_empty() { "none".to_owned() } else { all.join(", ") }
}
