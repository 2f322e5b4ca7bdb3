//! What a drained backlog says.

use std::fmt;

use serde::Serialize;

use crate::bench::machine::Machine;
use crate::bench::report::Books;

/// So many percent more than the rate may arrive within one second: the network bunches what was sent evenly.
const BUNCHED_PERCENT: u64 = 10;
/// The least part that has to be in order.
const IN_SEQUENCE_MIN: f64 = 0.999;
/// The least part of updates that touch no index.
const HOT_MIN: f64 = 0.95;

/// What `toll bench backlog` found.
#[derive(Debug, Clone, Serialize)]
pub struct BacklogReport {
    /// What the binary says of itself.
    pub toll_version: String,
    /// The database.
    pub postgres_version: String,
    /// On what.
    pub machine: Machine,
    /// Subscriptions that fell due during the outage.
    pub due: u64,
    /// The carrier's rate, requests a second.
    pub carrier_rate_per_s: u32,
    /// Charges that were sent for them; those whose periods are skipped are not.
    pub sent: u64,
    /// From the restart to the last intent, seconds.
    pub seconds: f64,
    /// From the restart until everything was read into the wheel.
    pub until_read_s: f64,
    /// From the restart to the first intent.
    pub until_first_s: f64,
    /// Charges a second over all of it.
    pub charges_per_s: f64,
    /// How many charges may be on their way out of sight: what the lane holds, for each stripe.
    pub grain: u64,
    /// Part of the charges before which no more than the grain went of those that close later, once all were read; 0 to 1.
    pub in_sequence_share: f64,
    /// The same of those that close together with it and fell due more than a minute later.
    pub in_due_sequence_share: f64,
    /// The most that went before one charge although they close later, once all were read.
    pub overtaken_max: u64,
    /// As `in_sequence_share`, but also while the wheel was read.
    pub in_sequence_share_from_the_start: f64,
    /// The most bytes that the wheels took.
    pub wheel_peak_bytes: u64,
    /// The most entries that they held.
    pub wheel_peak_entries: u64,
    /// The most memory that the worker process had.
    pub worker_peak_rss_bytes: u64,
    /// The most requests that arrived at the carrier within one second.
    pub busiest_second: u64,
    /// Attempts whose answers were lost.
    pub unknown: Unknown,
    /// What was done with the missed periods.
    pub policies: Policies,
    /// Updates of subscriptions that touched no index, 0 to 1.
    pub hot_share: f64,
    /// Whether the engine's books and the mock carrier's agree.
    pub books: Books,
}

/// Attempts whose answers were lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Unknown {
    /// Before the outage, and settled by now.
    pub before: u64,
    /// Of these, settled before the last charge of the backlog was sent.
    pub before_settled_while_draining: u64,
    /// While it drained.
    pub lost_while_draining: u64,
    /// Not settled at the end.
    pub open_at_the_end: u64,
}

/// Subscriptions by what was done with their missed periods, beside how many there are on such plans.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Policies {
    /// One late charge for the running period.
    pub once_late: u64,
    /// On such plans.
    pub once_late_lines: u64,
    /// Passed over.
    pub skipped: u64,
    /// On such plans.
    pub skipped_lines: u64,
    /// Part of the running period's charge.
    pub merged: u64,
    /// On such plans.
    pub merged_lines: u64,
    /// Charges of the merged amount.
    pub merged_charges: u64,
}

impl BacklogReport {
    /// What was promised and not kept.
    #[must_use]
    pub fn broken(&self) -> Vec<&'static str> {
        let (unknown, policies, books) = (&self.unknown, &self.policies, &self.books);
        [
            (self.sent + policies.skipped_lines == self.due, "every charge once"),
            (self.in_sequence_share >= IN_SEQUENCE_MIN, "by closing window"),
            (self.in_due_sequence_share >= IN_SEQUENCE_MIN, "by due instant"),
            (self.rate_kept(), "the carrier's rate"),
            (unknown.before_settled_while_draining > 0, "resolution alive while it drains"),
            (unknown.open_at_the_end == 0, "every unknown attempt settled"),
            (policies.once_late == policies.once_late_lines, "missed periods once late"),
            (policies.skipped == policies.skipped_lines, "missed periods skipped"),
            (policies.merged == policies.merged_lines, "missed periods merged"),
            (policies.merged_charges == policies.merged_lines, "merged periods in one charge"),
            (self.hot_share >= HOT_MIN, "updates touch no index"),
            (books.differences == 0 && books.applied == books.approved, "both books agree"),
        ]
        .into_iter()
        .filter_map(|(kept, what)| (!kept).then_some(what))
        .collect()
    }

    fn rate_kept(&self) -> bool {
        self.busiest_second * 100 <= u64::from(self.carrier_rate_per_s) * (100 + BUNCHED_PERCENT)
    }
}

impl fmt::Display for BacklogReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { machine, unknown, policies, books, .. } = self;
        let percent = |share: f64| share * 100.0;
        writeln!(
            f,
            "{} due after six hours; {}, PostgreSQL {}; {} cores, {}{}",
            self.due,
            self.toll_version,
            self.postgres_version,
            machine.cores,
            machine.cpu,
            if machine.data_in_memory {
                "; THE DATA LAY IN MEMORY: these are no durable figures"
            } else {
                ""
            }
        )?;
        writeln!(
            f,
            "drained   {} sent in {:.1} s, {:.0}/s; the first after {:.1} s, all read after {:.1} s",
            self.sent, self.seconds, self.charges_per_s, self.until_first_s, self.until_read_s
        )?;
        writeln!(
            f,
            "sequence  {:.3} % by closing window, {:.3} % by due instant; at most {} overtook one ({} may be on their way); {:.3} % from the start",
            percent(self.in_sequence_share),
            percent(self.in_due_sequence_share),
            self.overtaken_max,
            self.grain,
            percent(self.in_sequence_share_from_the_start)
        )?;
        writeln!(
            f,
            "rate      {}/s allowed, {} in the busiest second: {}",
            self.carrier_rate_per_s,
            self.busiest_second,
            if self.rate_kept() { "kept" } else { "NOT KEPT" }
        )?;
        writeln!(
            f,
            "unknown   {} of {} from before settled while it drained, {} more lost meanwhile, {} open at the end",
            unknown.before_settled_while_draining,
            unknown.before,
            unknown.lost_while_draining,
            unknown.open_at_the_end
        )?;
        writeln!(
            f,
            "policies  once late {} of {}, skipped {} of {}, merged {} of {} (in {} charges)",
            policies.once_late,
            policies.once_late_lines,
            policies.skipped,
            policies.skipped_lines,
            policies.merged,
            policies.merged_lines,
            policies.merged_charges
        )?;
        writeln!(
            f,
            "memory    wheel {:.1} MB for {} entries, worker {:.0} MB; {:.2} % of the updates touched no index",
            self.wheel_peak_bytes as f64 / 1e6,
            self.wheel_peak_entries,
            self.worker_peak_rss_bytes as f64 / 1e6,
            percent(self.hot_share)
        )?;
        writeln!(
            f,
            "books     {} applied by the carrier, {} approved, {} equal, {} differences",
            books.applied, books.approved, books.equal, books.differences
        )?;
        match self.broken().as_slice() {
            [] => write!(f, "every promise was kept"),
            broken => write!(f, "NOT KEPT: {}", broken.join(", ")),
        }
    }
}
