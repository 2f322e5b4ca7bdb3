//! What of a recorded batch is counted: minutes, balances that are no longer known, how long it took.

use storage::pg::Verdict;

use super::Recorder;
use crate::item::{Item, Prepared};
use crate::stats::Counted;

impl Recorder {
    pub(super) fn count(
        &self,
        prepared: &[(Item, Prepared)],
        verdicts: &[Option<Verdict>],
        now: jiff::Timestamp,
        durable_at: jiff::Timestamp,
    ) {
        let recorded = || {
            let pairs = prepared.iter().zip(verdicts);
            pairs
                .filter(|((item, _), verdict)| **verdict == Some(Verdict::Ok) && item.collects())
                .map(|(pair, _)| pair)
        };
        self.shared.stats.count(recorded().map(|(item, ready)| Counted {
            business_ms: now.as_millisecond(),
            carrier_no: item.row.sub.id.shard().carrier_no(),
            plan_no: item.row.sub.plan_no,
            zone_no: item.row.zone_no,
            class: ready.record.class,
            reason: ready.record.reason,
            charge_state: ready.record.charge_state,
            moved_minor: ready.record.moved_minor,
        }));
        let moved = recorded().filter(|(_, ready)| ready.record.moved_minor > 0);
        self.shared.balances.forget(moved.map(|(item, _)| item.row.sub.subscriber_id));
        let scale = i64::from(self.shared.clock.scale().max(1));
        self.shared.stats.due_to_durable(recorded().filter_map(|(item, _)| {
            let due_ms = item.row.sub.progress.next_at?.as_millisecond();
            let late_us = (durable_at.as_millisecond() - due_ms).saturating_mul(1_000) / scale;
            u64::try_from(late_us).ok()
        }));
        metrics::counter!("tollbook_recorded_total").increment(recorded().count() as u64);
    }
}
