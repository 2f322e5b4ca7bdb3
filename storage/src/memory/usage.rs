//! `over_caps.sql`, `reserve_usage.sql`, `give_back_usage.sql`.

use billing_core::plan::{CapDays, Usage};

use super::MemoryConn;
use super::rows::Counters;
use super::state::State;
use crate::mutants::{Mutant, on};
use crate::pg::{BeginValues, RecordValues, StoreError};

impl MemoryConn {
    pub(crate) async fn usage_of(
        &mut self,
        subscriber_ids: &[i64],
    ) -> Result<Vec<((i64, i16), Usage)>, StoreError> {
        let ids = subscriber_ids.to_vec();
        self.call("usage_of", move |state, _| {
            let found = state.usage.iter().filter(|((id, _), _)| ids.contains(id));
            Ok(found
                .map(|(key, kept)| {
                    let usage =
                        Usage { days: CapDays(kept.days), minor: kept.minors, requests: kept.requests };
                    (*key, usage)
                })
                .collect())
        })
        .await
    }
}

impl State {
    /// Whether an intent would pass a cap: counters of an earlier stretch count nothing.
    pub(super) fn is_over(&self, row: &BeginValues) -> bool {
        let Some(cap) = row.cap.filter(|_| !on(Mutant::CapNotChecked)) else { return false };
        let kept = self.usage.get(&(cap.subscriber, row.currency));
        (0..3).any(|span| {
            let counted = kept.filter(|kept| kept.days[span] >= cap.days[span]);
            let minor = counted.map_or(0, |kept| kept.minors[span]);
            let too_much = cap.minors[span] > 0 && row.amount + minor > cap.minors[span];
            let too_often = cap.requests[span] > 0
                && counted.is_some_and(|kept| kept.requests[span] >= cap.requests[span]);
            too_much || too_often
        })
    }

    pub(super) fn reserve(&mut self, row: &BeginValues) {
        let Some(cap) = row.cap.filter(|_| !on(Mutant::CapNotReserved)) else { return };
        self.count_usage(cap.subscriber, row.currency, cap.days, row.amount);
    }

    pub(super) fn count_usage(&mut self, subscriber_id: i64, currency: i16, days: [i32; 3], amount: i64) {
        let fresh = Counters { subscriber_id, currency, days, minors: [0; 3], requests: [0; 3] };
        let kept = self.usage.entry((subscriber_id, currency)).or_insert(fresh);
        for (span, day) in days.into_iter().enumerate() {
            let counts = kept.days[span] >= day;
            kept.minors[span] = amount + if counts { kept.minors[span] } else { 0 };
            kept.requests[span] = 1 + if counts { kept.requests[span] } else { 0 };
            kept.days[span] = kept.days[span].max(day);
        }
    }

    /// What is proven not to be collected goes back, where a counter still counts the stretch of the intent. All rows of a
    /// batch are summed before, as the one statement does.
    pub(super) fn give_back<'a>(&mut self, rows: impl Iterator<Item = &'a RecordValues>) {
        let mut sums: std::collections::BTreeMap<(i64, i16), ([i64; 3], [i32; 3])> = Default::default();
        for row in rows {
            for back in &row.backs {
                let intent = self.intents.get(&(row.id, row.period, back.attempt_no));
                let Some(intent) = intent.filter(|intent| intent.cap_day != 0) else { continue };
                let Some(kept) = self.usage.get(&(back.subscriber, intent.currency)) else { continue };
                let sum = sums.entry((back.subscriber, intent.currency)).or_default();
                for span in (0..3).filter(|span| intent.cap_day >= kept.days[*span]) {
                    sum.0[span] += intent.amount_minor - back.kept;
                    sum.1[span] += back.requests;
                }
            }
        }
        for (key, (minors, requests)) in sums {
            let Some(kept) = self.usage.get_mut(&key) else { continue };
            for span in 0..3 {
                kept.minors[span] = (kept.minors[span] - minors[span]).max(0);
                kept.requests[span] = (kept.requests[span] - requests[span]).max(0);
            }
        }
    }
}
