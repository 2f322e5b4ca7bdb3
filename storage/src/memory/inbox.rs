//! The shard inbox, STOP, cases and quarantine.

use billing_core::ids::Shard;

use super::rows::{Case, Open};
use super::{MemoryConn, MemoryDb};
use crate::pg::{InboxKind, InboxRow, LateEvidenceKey, Lease, StoreError};

impl MemoryConn {
    pub(crate) async fn read_inbox(
        &mut self,
        shards: &[i32],
        after: i64,
        limit: i32,
    ) -> Result<Vec<InboxRow>, StoreError> {
        let shards = shards.to_vec();
        self.call("read_inbox", move |state, _| {
            let mut rows: Vec<InboxRow> = state
                .inbox
                .values()
                .filter(|row| row.id > after && shards.contains(&row.shard))
                .map(|row| InboxRow {
                    id: row.id,
                    shard: Shard(row.shard),
                    kind: InboxKind::ALL.into_iter().find(|kind| *kind as i16 == row.kind),
                    subscription_id: row.subscription_id,
                    payload: row.payload.clone(),
                })
                .collect();
            rows.sort_by_key(|row| row.id);
            rows.truncate(usize::try_from(limit).unwrap_or(0));
            Ok(rows)
        })
        .await
    }

    pub(crate) async fn drop_inbox(&mut self, shard: Shard, ids: &[i64]) -> Result<(), StoreError> {
        let ids = ids.to_vec();
        self.call("drop_inbox", move |state, _| {
            ids.iter().for_each(|id| drop(state.inbox.remove(&(shard.0, *id))));
            Ok(())
        })
        .await
    }

    pub(crate) async fn post_evidence(
        &mut self,
        subscription_id: i64,
        payload: &[u8],
    ) -> Result<(), StoreError> {
        let payload = payload.to_vec();
        self.call("post_evidence", move |state, _| {
            state.add_inbox(InboxKind::Evidence as i16, subscription_id, payload);
            Ok(())
        })
        .await
    }

    pub(crate) async fn open_case(
        &mut self,
        subscription_id: i64,
        attempt: Option<(i32, i16)>,
        kind: &str,
        what: &str,
    ) -> Result<(), StoreError> {
        let case = Case {
            subscription_id,
            period: attempt.map(|a| a.0),
            attempt_no: attempt.map(|a| a.1),
            kind: kind.to_owned(),
            what: what.chars().take(1_000).collect(),
        };
        self.call("open_case", move |state, _| {
            state.cases.push(case);
            Ok(())
        })
        .await
    }

    pub(crate) async fn quarantine(
        &mut self,
        lease: &Lease,
        subscription_id: i64,
        rev: i32,
        attempt: Option<(i32, i16)>,
        why: &str,
    ) -> Result<bool, StoreError> {
        let (lease, what) = (*lease, why.chars().take(1_000).collect());
        self.call("quarantine", move |state, arrival| {
            state.check_fence(&lease)?;
            let owns = state.owns(lease.slot, subscription_id);
            let sub = state.subscriptions.get_mut(&subscription_id).filter(|sub| sub.rev == rev);
            let Some(sub) = sub else { return Ok(false) };
            let before = sub.flags & 1 == 1;
            if !before {
                if !owns {
                    return Ok(false);
                }
                (sub.flags, sub.rev) = (sub.flags | 1, sub.rev + 1);
                (sub.next_at_ms, sub.next_kind) = (None, 0);
            }
            if let Some((period, attempt_no)) = attempt.filter(|(_, no)| *no > 0) {
                let key = (subscription_id, period, attempt_no);
                if let Some(intent) = state.intents.get(&key) {
                    state.bare.remove(&key);
                    state.opens.entry(key).or_insert(Open {
                        subscription_id,
                        period,
                        attempt_no,
                        amount_minor: intent.amount_minor,
                        deadline_at_ms: None,
                        since_us: arrival.now_us,
                        kind: 2,
                        reason: 84,
                        rule_id: 14,
                        currency: intent.currency,
                        carrier_code: None,
                        carrier_txn_id: None,
                        assignee: None,
                        next_ask_us: arrival.now_us,
                        last_write_us: None,
                        last_writer: None,
                        asks: 0,
                    });
                }
            }
            if !before {
                state.cases.push(Case {
                    subscription_id,
                    period: attempt.map(|a| a.0),
                    attempt_no: attempt.map(|a| a.1).filter(|no| *no != 0),
                    kind: "quarantine".to_owned(),
                    what,
                });
            }
            Ok(true)
        })
        .await
    }

    pub(crate) async fn own_open_attempts(
        &mut self,
        host: &str,
        spool: &str,
        incarnation: i64,
        limit: i32,
    ) -> Result<Vec<LateEvidenceKey>, StoreError> {
        let (host, spool) = (host.to_owned(), spool.to_owned());
        self.call("own_open_attempts", move |state, _| {
            let left = state.opens.iter().filter(|(_, open)| matches!(open.kind, 2 | 3) && open.reason == 84);
            let own = left.filter_map(|(key, open)| {
                let sender = state.incarnations.get(&state.intents.get(key)?.incarnation)?;
                let ours = sender.host == host && sender.spool == spool && sender.incarnation != incarnation;
                let sub = state.subscriptions.get(&open.subscription_id).filter(|_| ours)?;
                let subscriber = state.subscribers.get(&sub.subscriber_id)?;
                Some(LateEvidenceKey {
                    subscription_id: open.subscription_id,
                    period: open.period,
                    attempt_no: open.attempt_no,
                    key_salt: subscriber.key_salt.clone(),
                    kek_version: subscriber.kek_version,
                })
            });
            Ok(own.take(usize::try_from(limit).unwrap_or(0)).collect())
        })
        .await
    }
}

/// What people and merchants do, whatever becomes of the workers' connections.
impl MemoryDb {
    /// STOP: see [`crate::pg::stop_subscription`].
    #[must_use]
    pub fn stop_subscription(&self, subscription_id: i64, business_at_ms: i64) -> Option<i64> {
        let now_us = self.now_us();
        let mut state = self.state();
        let sub = state.subscriptions.get_mut(&subscription_id)?;
        let stopped = *sub.stop_at_ms.get_or_insert(business_at_ms);
        state.stopped_us.entry(subscription_id).or_insert(now_us);
        state.add_inbox(InboxKind::Stop as i16, subscription_id, Vec::new());
        Some(stopped)
    }

    /// A pause, a resumption or a top-up: see [`crate::pg::post_wish`].
    pub fn post_wish(&self, subscription_id: i64, kind: InboxKind, at_ms: Option<i64>) {
        let payload = at_ms.map_or_else(Vec::new, |at_ms| at_ms.to_be_bytes().to_vec());
        self.state().add_inbox(kind as i16, subscription_id, payload);
    }

    /// A refund is wanted: see [`crate::pg::ask_refund`].
    pub fn ask_refund(&self, subscription_id: i64, payload: &[u8]) {
        self.state().add_inbox(InboxKind::Refund as i16, subscription_id, payload.to_vec());
    }
}
