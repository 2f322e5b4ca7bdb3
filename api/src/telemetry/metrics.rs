//! What the engine counts, said to Prometheus.

use std::time::Duration;

use metrics::Unit;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio::runtime::Handle;
use tokio::time::MissedTickBehavior;

use super::TelemetryError;

/// The exporter grows without bound unless it is tended (metrics-rs/metrics#467).
const UPKEEP_EVERY: Duration = Duration::from_secs(5);

/// Installs the process' recorder, describes all metrics, and tends it as long as the runtime lives. Once per process,
/// before anything is counted.
///
/// # Errors
/// [`TelemetryError::NoRuntime`] outside a tokio runtime, [`TelemetryError::Metrics`] the second time.
pub fn install_metrics() -> Result<PrometheusHandle, TelemetryError> {
    let runtime = Handle::try_current().map_err(|_| TelemetryError::NoRuntime)?;
    let handle = PrometheusBuilder::new().install_recorder()?;
    describe_metrics();
    let tended = handle.clone();
    runtime.spawn(async move {
        let mut ticks = tokio::time::interval(UPKEEP_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            tended.run_upkeep();
        }
    });
    Ok(handle)
}

/// Gives each metric its help text, at the recorder in place.
pub fn describe_metrics() {
    for (name, kind, unit, help) in DESCRIBED {
        match kind {
            Kind::Counter => metrics::describe_counter!(*name, *unit, *help),
            Kind::Gauge => metrics::describe_gauge!(*name, *unit, *help),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
}

#[rustfmt::skip]
const DESCRIBED: &[(&str, Kind, Unit, &str)] = &[
    ("tollbook_attempts_total", Kind::Counter, Unit::Count, "Attempts with a recorded outcome, by carrier, class and reason."),
    ("tollbook_recorded_total", Kind::Counter, Unit::Count, "Attempt outcomes made durable by this process."),
    ("tollbook_begin_verdicts_total", Kind::Counter, Unit::Count, "Intents that the database did not take, by its verdict."),
    ("tollbook_balances_total", Kind::Counter, Unit::Count, "Balance checks, by whether anything was learned."),
    ("tollbook_quarantined_total", Kind::Counter, Unit::Count, "Subscriptions put aside for a person because they could not be decided or recorded."),
    ("tollbook_taken_over_total", Kind::Counter, Unit::Count, "Open intents of dead workers taken over, by whether evidence of their outcome was found."),
    ("tollbook_asks_total", Kind::Counter, Unit::Count, "Questions and repeats about unknown attempts, by carrier, kind and what they brought."),
    ("tollbook_resolved_total", Kind::Counter, Unit::Count, "Unknown attempts settled or given to people by the resolution, by carrier and rule."),
    ("tollbook_failovers_total", Kind::Counter, Unit::Count, "Failovers of the database that this process found."),
    ("tollbook_lost_attempts_total", Kind::Counter, Unit::Count, "Attempts whose intent a failover lost and that are unknown again; assumed when no spool lists them."),
    ("tollbook_fenced_workers_total", Kind::Counter, Unit::Count, "Workers fenced by this process because their lease was not renewed."),
    ("tollbook_book_changes_total", Kind::Counter, Unit::Count, "Versions of the book taken in by this process without a restart."),
    ("tollbook_alerts_total", Kind::Counter, Unit::Count, "Answers of carriers that a person should see, by kind."),
    ("tollbook_breaker_opened_total", Kind::Counter, Unit::Count, "Times that a carrier's breaker opened, by carrier."),
    ("tollbook_trouble_total", Kind::Counter, Unit::Count, "Failures that are tried again, by what was being done."),
    ("tollbook_callbacks_total", Kind::Counter, Unit::Count, "Messages that came to the callback listener, by carrier and by what they were told."),
    ("tollbook_callback_copies_total", Kind::Counter, Unit::Count, "Acknowledged messages that were kept before."),
    ("tollbook_callbacks_matched_total", Kind::Counter, Unit::Count, "Kept messages that this process looked at, by what they came to."),
    ("tollbook_shards", Kind::Gauge, Unit::Count, "Shards owned by this process."),
    ("tollbook_quarantined_shards", Kind::Gauge, Unit::Count, "Shards of this process that do not charge, because a failover is being cleared up."),
    ("tollbook_wheel_entries", Kind::Gauge, Unit::Count, "Subscriptions waiting in memory to become due."),
    ("tollbook_due_entries", Kind::Gauge, Unit::Count, "Of these, those whose time has come and that wait for their turn."),
    ("tollbook_wheel_bytes", Kind::Gauge, Unit::Bytes, "Memory that the entries waiting in memory take, with what is reserved for more."),
    ("tollbook_clock_ahead_seconds", Kind::Gauge, Unit::Seconds, "How far this machine's wall clock is ahead of the database's; nothing goes by it."),
    ("tollbook_in_flight", Kind::Gauge, Unit::Count, "Subscriptions on their way between due and durable."),
    ("tollbook_lane_depth", Kind::Gauge, Unit::Count, "Attempts inside the lane of a carrier."),
    ("tollbook_unknown_attempts", Kind::Gauge, Unit::Count, "Unknown attempts of the shards owned by this process, by carrier."),
    ("tollbook_ready", Kind::Gauge, Unit::Count, "1 while this process claims and sends, else 0."),
    ("tollbook_due_to_durable_p99_seconds", Kind::Gauge, Unit::Seconds, "From due to durable, 99th percentile since the last reset."),
];

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeSet;
    use std::path::{Path, PathBuf};

    use super::*;

    fn sources(directory: &Path) -> Vec<PathBuf> {
        std::fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] })
            .collect()
    }

    /// The metrics that the scheduler's source emits, each with its kind.
    fn emitted() -> BTreeSet<(String, String)> {
        let scheduler = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scheduler/src");
        let mut found = BTreeSet::new();
        for path in sources(&scheduler) {
            let text = std::fs::read_to_string(path).unwrap();
            for (at, _) in text.match_indices("metrics::") {
                let rest = &text[at + "metrics::".len()..];
                let Some((kind, rest)) = rest.split_once("!(") else { continue };
                if !["counter", "gauge", "histogram"].contains(&kind) {
                    continue;
                }
                let name = rest.trim_start().trim_start_matches('"').split('"').next().unwrap();
                found.insert((name.to_owned(), kind.to_owned()));
            }
        }
        found
    }

    #[test]
    fn all_metrics_of_the_scheduler_are_described_and_no_others() {
        let described: BTreeSet<(String, String)> = DESCRIBED
            .iter()
            .map(|(name, kind, ..)| ((*name).to_owned(), format!("{kind:?}").to_lowercase()))
            .collect();
        assert_eq!(described.len(), DESCRIBED.len(), "one description each");
        assert_eq!(described, emitted());
    }
}
