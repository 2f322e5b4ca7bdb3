//! The batches' columns as rows again: for the memory store, which has no `unnest`.

use super::{BeginBatch, RecordBatch};

/// A row of a batch of intents.
#[derive(Debug, Clone)]
pub(crate) struct BeginValues {
    pub(crate) id: i64,
    pub(crate) rev: i32,
    pub(crate) period: i32,
    pub(crate) attempt_no: i16,
    pub(crate) op: i16,
    pub(crate) round: i16,
    pub(crate) step: i16,
    pub(crate) amount: i64,
    pub(crate) currency: i16,
    pub(crate) digest: (i64, i64),
    pub(crate) not_before: i64,
    pub(crate) not_after: i64,
    pub(crate) rule: i16,
    pub(crate) book_version: i32,
    pub(crate) parent: i16,
    pub(crate) cap_day: i32,
    pub(crate) cap: Option<CapValues>,
}

/// What an intent counts against.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CapValues {
    pub(crate) subscriber: i64,
    pub(crate) days: [i32; 3],
    pub(crate) minors: [i64; 3],
    pub(crate) requests: [i32; 3],
}

/// A row of a batch of outcomes.
#[derive(Debug, Clone)]
pub(crate) struct RecordValues {
    pub(crate) id: i64,
    pub(crate) rev: i32,
    pub(crate) kind: i16,
    pub(crate) period: i32,
    pub(crate) attempt_no: i16,
    pub(crate) class: i16,
    pub(crate) reason: i16,
    pub(crate) moved: i64,
    pub(crate) collected: i64,
    pub(crate) charge_state: i16,
    pub(crate) rule: i16,
    pub(crate) latency: i32,
    pub(crate) code: Option<String>,
    pub(crate) txn_id: Option<String>,
    pub(crate) until: Option<i64>,
    pub(crate) next: NextValues,
    pub(crate) grant_until: i64,
    pub(crate) event: i16,
    pub(crate) merchant: i32,
    pub(crate) legs: Vec<LegValues>,
    pub(crate) asides: Vec<AsideValues>,
    pub(crate) backs: Vec<BackValues>,
    pub(crate) refund: Option<RefundValues>,
}

/// The subscription afterwards.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NextValues {
    pub(crate) state: i16,
    pub(crate) period: i32,
    pub(crate) due: i64,
    pub(crate) collected: i64,
    pub(crate) attempt_no: i16,
    pub(crate) round: i16,
    pub(crate) step: i16,
    pub(crate) open: i16,
    pub(crate) deferrals: i16,
    pub(crate) paid_until: Option<i64>,
    pub(crate) state_until: Option<i64>,
    pub(crate) retry_at: Option<i64>,
    pub(crate) next_at: Option<i64>,
    pub(crate) next_kind: i16,
    pub(crate) flags: i32,
    pub(crate) book_version: i32,
    pub(crate) tries: i16,
    pub(crate) reserved_no: i16,
    pub(crate) reserved_minor: Option<i64>,
    pub(crate) reserved_until: Option<i64>,
}

/// A transfer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LegValues {
    pub(crate) leg: i16,
    pub(crate) debit: i32,
    pub(crate) credit: i32,
    pub(crate) amount: i64,
    pub(crate) asset: i16,
}

/// A charge with a row of its own as it shall be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AsideValues {
    pub(crate) due: i64,
    pub(crate) collected: i64,
    pub(crate) attempt_no: i16,
    pub(crate) round: i16,
    pub(crate) step: i16,
    pub(crate) open: i16,
    pub(crate) state: i16,
    pub(crate) currency: i16,
    pub(crate) period: i32,
    pub(crate) next_at: Option<i64>,
    pub(crate) next_kind: i16,
    pub(crate) expires: Option<i64>,
}

/// What goes back to a subscriber's caps.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BackValues {
    pub(crate) subscriber: i64,
    pub(crate) attempt_no: i16,
    pub(crate) kept: i64,
    pub(crate) requests: i32,
}

/// A refunded charge's own row afterwards.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RefundValues {
    pub(crate) refunded: i64,
    pub(crate) attempt_no: i16,
    pub(crate) open: i16,
    pub(crate) next_at: Option<i64>,
    pub(crate) next_kind: i16,
}

/// The index of a place of SQL, which counts from 1.
fn index(place: i32) -> usize {
    usize::try_from(place - 1).unwrap_or(usize::MAX)
}

impl BeginBatch {
    pub(crate) fn rows(&self) -> Vec<BeginValues> {
        let row = |at: usize| BeginValues {
            id: self.ids[at],
            rev: self.revs[at],
            period: self.periods[at],
            attempt_no: self.attempt_nos[at],
            op: self.ops[at],
            round: self.rounds[at],
            step: self.steps[at],
            amount: self.amounts[at],
            currency: self.currencies[at],
            digest: (self.digest_his[at], self.digest_los[at]),
            not_before: self.not_befores[at],
            not_after: self.not_afters[at],
            rule: self.rules[at],
            book_version: self.book_versions[at],
            parent: self.parents[at],
            cap_day: self.cap_days[at],
            cap: None,
        };
        let mut rows: Vec<BeginValues> = (0..self.ids.len()).map(row).collect();
        let caps = &self.caps;
        for (at, place) in caps.places.iter().enumerate() {
            if let Some(row) = rows.get_mut(index(*place)) {
                row.cap = Some(CapValues {
                    subscriber: caps.subscribers[at],
                    days: [row.cap_day, caps.weeks[at], caps.months[at]],
                    minors: [0, 1, 2].map(|span| caps.minors[span][at]),
                    requests: [0, 1, 2].map(|span| caps.requests[span][at]),
                });
            }
        }
        rows
    }
}

impl RecordBatch<'_> {
    pub(crate) fn rows(&self) -> Vec<RecordValues> {
        let mut rows: Vec<RecordValues> = (0..self.ids.len()).map(|at| self.row(at)).collect();
        for (at, place) in self.t_places.iter().enumerate() {
            rows[index(*place)].legs.push(LegValues {
                leg: self.t_legs[at],
                debit: self.t_debits[at],
                credit: self.t_credits[at],
                amount: self.t_amounts[at],
                asset: self.t_assets[at],
            });
        }
        for (at, place) in self.a_places.iter().enumerate() {
            rows[index(*place)].asides.push(AsideValues {
                due: self.a_dues[at],
                collected: self.a_collecteds[at],
                attempt_no: self.a_attempt_nos[at],
                round: self.a_rounds[at],
                step: self.a_steps[at],
                open: self.a_opens[at],
                state: self.a_states[at],
                currency: self.a_currencies[at],
                period: self.a_periods[at],
                next_at: self.a_next_ats[at],
                next_kind: self.a_next_kinds[at],
                expires: self.a_expires[at],
            });
        }
        let backs = &self.give_backs;
        for (at, place) in backs.places.iter().enumerate() {
            rows[index(*place)].backs.push(BackValues {
                subscriber: backs.subscribers[at],
                attempt_no: backs.attempt_nos[at],
                kept: backs.kept[at],
                requests: backs.requests[at],
            });
        }
        let refunds = &self.refunds;
        for (at, place) in refunds.places.iter().enumerate() {
            rows[index(*place)].refund = Some(RefundValues {
                refunded: refunds.refundeds[at],
                attempt_no: refunds.attempt_nos[at],
                open: refunds.opens[at],
                next_at: refunds.next_ats[at],
                next_kind: refunds.next_kinds[at],
            });
        }
        rows
    }

    fn row(&self, at: usize) -> RecordValues {
        let owned = |word: &Option<std::borrow::Cow<'_, str>>| word.as_deref().map(str::to_owned);
        RecordValues {
            id: self.ids[at],
            rev: self.revs[at],
            kind: self.kinds[at],
            period: self.periods[at],
            attempt_no: self.attempt_nos[at],
            class: self.classes[at],
            reason: self.reasons[at],
            moved: self.moveds[at],
            collected: self.collecteds[at],
            charge_state: self.charge_states[at],
            rule: self.rules[at],
            latency: self.latencies[at],
            code: owned(&self.codes[at]),
            txn_id: owned(&self.txn_ids[at]),
            until: self.untils[at],
            next: NextValues {
                state: self.n_states[at],
                period: self.n_periods[at],
                due: self.n_dues[at],
                collected: self.n_collecteds[at],
                attempt_no: self.n_attempt_nos[at],
                round: self.n_rounds[at],
                step: self.n_steps[at],
                open: self.n_opens[at],
                deferrals: self.n_deferrals[at],
                paid_until: self.n_paid_untils[at],
                state_until: self.n_state_untils[at],
                retry_at: self.n_retry_ats[at],
                next_at: self.n_next_ats[at],
                next_kind: self.n_next_kinds[at],
                flags: self.n_flags[at],
                book_version: self.n_book_versions[at],
                tries: self.n_tries[at],
                reserved_no: self.n_reserved_nos[at],
                reserved_minor: self.n_reserved_minors[at],
                reserved_until: self.n_reserved_untils[at],
            },
            grant_until: self.g_untils[at],
            event: self.e_events[at],
            merchant: self.e_merchants[at],
            legs: Vec::new(),
            asides: Vec::new(),
            backs: Vec::new(),
            refund: None,
        }
    }

    /// Shard and id of the inbox rows that it consumes.
    pub(crate) fn inbox_rows(&self) -> Vec<(i32, i64)> {
        self.i_shards.iter().copied().zip(self.i_ids.iter().copied()).collect()
    }

    /// What is rarer still, as the database gets it.
    pub(crate) fn more_document(&self) -> Option<String> {
        self.more.document()
    }
}
