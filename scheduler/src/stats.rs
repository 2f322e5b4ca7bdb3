//! Counts for people: per business minute, carrier, plan, zone and result; and how long from due to durable.

use std::collections::HashMap;
use std::sync::Mutex;

use hdrhistogram::Histogram;
use storage::pg::MinuteRow;

const MINUTE_MS: i64 = 60_000;
/// Latencies above this read as this, microseconds (an hour).
const LATENCY_MAX_US: u64 = 3_600_000_000;

/// Counts since the last flush, and latencies since the last reset.
#[derive(Debug)]
pub struct Stats {
    minutes: Mutex<HashMap<Key, (i64, i64)>>,
    latency: Mutex<Histogram<u64>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    minute_ms: i64,
    carrier_no: i32,
    plan_no: i32,
    zone_no: i16,
    class: i16,
    reason: i16,
    charge_state: i16,
}

/// One attempt for the counts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Counted {
    pub(crate) business_ms: i64,
    pub(crate) carrier_no: i32,
    pub(crate) plan_no: i32,
    pub(crate) zone_no: i16,
    pub(crate) class: i16,
    pub(crate) reason: i16,
    pub(crate) charge_state: i16,
    pub(crate) moved_minor: i64,
}

/// How long from due to durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct LatencyReport {
    /// Half were faster, microseconds.
    pub p50_us: u64,
    /// 99 of 100 were faster, microseconds.
    pub p99_us: u64,
    /// The slowest, microseconds.
    pub max_us: u64,
    /// How many were measured.
    pub count: u64,
}

impl Default for Stats {
    fn default() -> Self {
        let latency = Histogram::new_with_bounds(1, LATENCY_MAX_US, 3).unwrap_or_else(|_| {
            // The bounds above are constants that the library accepts; a growing histogram is its own fallback.
            Histogram::new(3).unwrap_or_else(|_| unreachable!("three digits are within the library's limits"))
        });
        Self { minutes: Mutex::default(), latency: Mutex::new(latency) }
    }
}

fn add(minutes: &mut HashMap<Key, (i64, i64)>, (key, count, moved_minor): (Key, i64, i64)) {
    let sum = minutes.entry(key).or_default();
    sum.0 += count;
    sum.1 = sum.1.saturating_add(moved_minor);
}

impl Stats {
    pub(crate) fn count(&self, rows: impl Iterator<Item = Counted>) {
        let Ok(mut minutes) = self.minutes.lock() else { return };
        let mut run: Option<(Key, i64, i64)> = None;
        for row in rows {
            let key = Key {
                minute_ms: row.business_ms.div_euclid(MINUTE_MS) * MINUTE_MS,
                carrier_no: row.carrier_no,
                plan_no: row.plan_no,
                zone_no: row.zone_no,
                class: row.class,
                reason: row.reason,
                charge_state: row.charge_state,
            };
            // Neighbours in a batch mostly count alike.
            match &mut run {
                Some((same, count, moved_minor)) if *same == key => {
                    *count += 1;
                    *moved_minor = moved_minor.saturating_add(row.moved_minor);
                }
                _ => {
                    if let Some(ended) = run.replace((key, 1, row.moved_minor)) {
                        add(&mut minutes, ended);
                    }
                }
            }
        }
        if let Some(ended) = run {
            add(&mut minutes, ended);
        }
    }

    pub(crate) fn due_to_durable(&self, latencies_us: impl Iterator<Item = u64>) {
        let Ok(mut histogram) = self.latency.lock() else { return };
        for latency in latencies_us {
            histogram.saturating_record(latency.clamp(1, LATENCY_MAX_US));
        }
    }

    /// Latencies since the last reset.
    #[must_use]
    pub fn latency(&self, reset: bool) -> LatencyReport {
        let Ok(mut histogram) = self.latency.lock() else {
            return LatencyReport { p50_us: 0, p99_us: 0, max_us: 0, count: 0 };
        };
        if histogram.is_empty() {
            return LatencyReport { p50_us: 0, p99_us: 0, max_us: 0, count: 0 };
        }
        let report = LatencyReport {
            p50_us: histogram.value_at_quantile(0.5),
            p99_us: histogram.value_at_quantile(0.99),
            max_us: histogram.max(),
            count: histogram.len(),
        };
        if reset {
            histogram.reset();
        }
        report
    }

    pub(crate) fn take(&self) -> Vec<MinuteRow> {
        let Ok(mut minutes) = self.minutes.lock() else { return Vec::new() };
        minutes
            .drain()
            .map(|(key, (count, amount_minor))| MinuteRow {
                minute_ms: key.minute_ms,
                carrier_no: key.carrier_no,
                plan_no: key.plan_no,
                zone_no: key.zone_no,
                class: key.class,
                reason: key.reason,
                charge_state: key.charge_state,
                count,
                amount_minor,
            })
            .collect()
    }
}
