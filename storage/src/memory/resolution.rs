//! The resolution of UNKNOWN: `due_asks.sql`, `begin_resend.sql`, `record_ask.sql`, `postpone_asks.sql`,
//! `review_attempt.sql`.

use std::collections::BTreeMap;

use billing_core::outcome::Op;
use billing_core::period::Period;
use billing_core::resolve::AskKind;
use billing_core::subscription::Planned;
use jiff::Timestamp;

use super::MemoryConn;
use super::rows::{Ask, Intent, Open};
use super::state::State;
use crate::pg::{AttemptKey, DueAsk, InboxKind, Lease, NewAsk, StoreError, ask_of};
use crate::story::StoryOutcome;

type Key = (i64, i32, i16);

/// An open attempt that is unknown.
const UNKNOWN: i16 = 2;
/// One that people settle.
const IN_REVIEW: i16 = 3;

fn place(key: AttemptKey) -> Key {
    (key.subscription_id, key.period, key.attempt_no)
}

impl State {
    /// An unknown attempt, where its shard is this slot's.
    fn unknown_of(&mut self, slot: i32, key: Key) -> Option<&mut Open> {
        let owns = self.owns(slot, key.0);
        self.opens.get_mut(&key).filter(|open| owns && open.kind == UNKNOWN)
    }

    fn begin_resend(&mut self, lease: &Lease, key: AttemptKey, asked: i16, now_us: i64) -> bool {
        let shard = (key.subscription_id >> 32) as i32;
        if self.guarded.held(shard) == 1 || self.guarded.may_not_repeat(place(key)) {
            return false;
        }
        let open = self.unknown_of(lease.slot, place(key)).filter(|open| open.asks == asked);
        let Some(open) = open else { return false };
        (open.last_write_us, open.last_writer) = (Some(now_us), Some(lease.incarnation));
        open.asks += 1;
        true
    }

    fn record_ask(&mut self, lease: &Lease, key: AttemptKey, ask: NewAsk, now_us: i64) -> bool {
        let Some(open) = self.unknown_of(lease.slot, place(key)) else { return false };
        open.asks = open.asks.max(ask.ask_no);
        open.next_ask_us = now_us.saturating_add(ask.next_ms.saturating_mul(1_000));
        if ask.kind == AskKind::Resend {
            open.last_write_us = Some(now_us);
        }
        if open.carrier_txn_id.is_none() {
            open.carrier_txn_id = ask.carrier_txn_id;
        }
        let kept = (place(key), ask.ask_no);
        if self.asks.contains_key(&kept) {
            return true;
        }
        let told = StoryOutcome::of(ask.outcome);
        let new = Ask {
            subscription_id: key.subscription_id,
            moved_minor: told.moved_minor,
            incarnation: lease.incarnation,
            asked_us: ask.asked_at.as_microsecond(),
            answered_us: now_us,
            period: key.period,
            attempt_no: key.attempt_no,
            ask_no: ask.ask_no,
            kind: ask.kind as i16,
            finding: ask.finding.number(),
            reason: told.reason,
            rule_id: ask.rule,
        };
        self.asks.insert(kept, new);
        if let Some(payload) = ask.evidence {
            self.add_inbox(InboxKind::Evidence as i16, key.subscription_id, payload);
        }
        true
    }

    fn review_attempt(&mut self, lease: &Lease, key: AttemptKey, rule: i16) -> bool {
        let Some(open) = self.unknown_of(lease.slot, place(key)) else { return false };
        (open.kind, open.rule_id) = (IN_REVIEW, rule);
        open.assignee.get_or_insert_with(|| "operations".to_owned());
        let aside = self.asides.get_mut(&(key.subscription_id, key.period));
        if let Some(own) = aside.filter(|own| own.attempt_no == key.attempt_no && own.open == UNKNOWN) {
            (own.open, own.rev) = (IN_REVIEW, own.rev + 1);
            return true;
        }
        let sub = self.subscriptions.get_mut(&key.subscription_id);
        let blocked = sub.filter(|sub| {
            sub.period == key.period && sub.attempt_no == key.attempt_no && sub.open == UNKNOWN
        });
        if let Some(sub) = blocked {
            (sub.open, sub.rev) = (IN_REVIEW, sub.rev + 1);
        }
        true
    }

    fn due_ask(&self, key: Key, open: &Open, now_us: i64) -> Result<Option<DueAsk>, StoreError> {
        let broken = |what: &dyn std::fmt::Display| StoreError::Broken(format!("unknown attempt: {what}"));
        let at = |us: i64| Timestamp::from_microsecond(us).map_err(|error| broken(&error));
        let Some((intent, sub)) = self.intents.get(&key).zip(self.subscriptions.get(&key.0)) else {
            return Ok(None);
        };
        let fenced = |incarnation: i64| self.incarnations.get(&incarnation).and_then(|row| row.fenced_us);
        let own = self.asks.range((key, i16::MIN)..=(key, i16::MAX)).map(|(_, ask)| ask);
        let digest = u128::from(intent.digest_hi as u64) << 64 | u128::from(intent.digest_lo as u64);
        Ok(Some(DueAsk {
            now: at(now_us)?,
            key: AttemptKey { subscription_id: key.0, period: key.1, attempt_no: key.2 },
            planned: planned(intent)?,
            currency: intent.currency,
            book_version: intent.book_version,
            business_at: Timestamp::from_millisecond(intent.business_at_ms)
                .map_err(|error| broken(&error))?,
            digest: digest.to_be_bytes(),
            intent_at: at(intent.intent_at_us)?,
            since: at(open.since_us)?,
            reason: open.reason,
            carrier_txn_id: open.carrier_txn_id.clone(),
            sender: intent.incarnation,
            sender_fenced_at: fenced(intent.incarnation).map(at).transpose()?,
            last_write_at: open.last_write_us.map(at).transpose()?,
            last_writer: open.last_writer,
            writer_fenced_at: open.last_writer.and_then(fenced).map(at).transpose()?,
            failed_over_at: self.guarded.failed_over_us(intent.intent_at_us).map(at).transpose()?,
            asked: open.asks,
            flags: sub.flags,
            no_repeat: self.guarded.may_not_repeat(key),
            agreed_until_ms: [sub.stop_at_ms, sub.consent_until_ms].into_iter().flatten().min(),
            asks: own
                .map(|ask| {
                    ask_of(
                        ask.kind,
                        [ask.asked_us, ask.answered_us],
                        ask.finding,
                        ask.reason,
                        ask.moved_minor,
                    )
                })
                .collect::<Result<_, _>>()?,
        }))
    }
}

fn planned(intent: &Intent) -> Result<Planned, StoreError> {
    let broken = |what: &dyn std::fmt::Display| StoreError::Broken(format!("unknown attempt: {what}"));
    let business = |ms: i64| Timestamp::from_millisecond(ms).map_err(|error| broken(&error));
    Ok(Planned {
        op: Op::from_number(intent.op)
            .ok_or_else(|| broken(&format!("operation {} is not one of this version", intent.op)))?,
        period: Period::from_number(intent.period).map_err(|error| broken(&error))?,
        attempt_no: intent.attempt_no,
        parent_no: intent.parent_no,
        amount_minor: intent.amount_minor,
        round: intent.round,
        step: intent.step,
        not_before: business(intent.not_before_ms)?,
        not_after: business(intent.not_after_ms)?,
    })
}

impl MemoryConn {
    pub(crate) async fn due_asks(
        &mut self,
        shards: &[i32],
        rooms: &[(i32, i32)],
    ) -> Result<Vec<DueAsk>, StoreError> {
        let (shards, rooms) = (shards.to_vec(), rooms.to_vec());
        self.call("due_asks", move |state, arrival| {
            let mut due = Vec::new();
            for (carrier_no, places) in rooms {
                let own = |(key, open): &(&Key, &Open)| {
                    open.kind == UNKNOWN
                        && key.0 >> 44 == i64::from(carrier_no)
                        && open.next_ask_us <= arrival.now_us
                        && shards.contains(&((key.0 >> 32) as i32))
                };
                let mut rows: Vec<(&Key, &Open)> = state.opens.iter().filter(own).collect();
                // After a failover thousands are due: only the first few are put in sequence.
                let places = usize::try_from(places).unwrap_or(0);
                let longest_overdue = |(key, open): &(&Key, &Open)| (open.next_ask_us, **key);
                if places < rows.len() {
                    rows.select_nth_unstable_by_key(places, longest_overdue);
                    rows.truncate(places);
                }
                rows.sort_unstable_by_key(longest_overdue);
                for (key, open) in rows {
                    due.extend(state.due_ask(*key, open, arrival.now_us)?);
                }
            }
            Ok(due)
        })
        .await
    }

    pub(crate) async fn begin_resends(
        &mut self,
        lease: &Lease,
        resends: &[(AttemptKey, i16)],
    ) -> Result<Vec<bool>, StoreError> {
        let (lease, resends) = (*lease, resends.to_vec());
        self.call("begin_resends", move |state, arrival| {
            state.check_fence(&lease)?;
            let begun = resends.into_iter();
            Ok(begun.map(|(key, asked)| state.begin_resend(&lease, key, asked, arrival.now_us)).collect())
        })
        .await
    }

    pub(crate) async fn record_asks(
        &mut self,
        lease: &Lease,
        asks: &[(AttemptKey, NewAsk)],
    ) -> Result<Vec<bool>, StoreError> {
        let (lease, asks) = (*lease, asks.to_vec());
        self.call("record_asks", move |state, arrival| {
            state.check_fence(&lease)?;
            let kept = asks.into_iter();
            Ok(kept.map(|(key, ask)| state.record_ask(&lease, key, ask, arrival.now_us)).collect())
        })
        .await
    }

    pub(crate) async fn postpone_asks(
        &mut self,
        lease: &Lease,
        asks: &[(AttemptKey, i64)],
    ) -> Result<(), StoreError> {
        let (lease, asks) = (*lease, asks.to_vec());
        self.call("postpone_asks", move |state, arrival| {
            state.check_fence(&lease)?;
            for (key, next_ms) in asks {
                if let Some(open) = state.unknown_of(lease.slot, place(key)) {
                    open.next_ask_us = arrival.now_us.saturating_add(next_ms.saturating_mul(1_000));
                }
            }
            Ok(())
        })
        .await
    }

    pub(crate) async fn review_attempts(
        &mut self,
        lease: &Lease,
        attempts: &[(AttemptKey, i16)],
    ) -> Result<Vec<bool>, StoreError> {
        let (lease, attempts) = (*lease, attempts.to_vec());
        self.call("review_attempts", move |state, _| {
            state.check_fence(&lease)?;
            Ok(attempts.into_iter().map(|(key, rule)| state.review_attempt(&lease, key, rule)).collect())
        })
        .await
    }

    pub(crate) async fn was_resent(
        &mut self,
        subscription_id: i64,
        period: i32,
        attempt_no: i16,
        repeats: bool,
    ) -> Result<bool, StoreError> {
        let key = (subscription_id, period, attempt_no);
        self.call("was_resent", move |state, _| {
            let begun = state.opens.get(&key).is_some_and(|open| open.last_writer.is_some());
            let own = state.asks.range((key, i16::MIN)..=(key, i16::MAX));
            let last = own.clone().next_back().map_or(0, |((_, ask_no), _)| *ask_no);
            let missing = usize::try_from(last).unwrap_or(0) > own.clone().count();
            let since_us = state.intents.get(&key).map(|intent| intent.intent_at_us);
            let lost = repeats && since_us.is_some_and(|us| state.guarded.failed_over_us(us).is_some());
            Ok(begun || missing || lost || own.into_iter().any(|(_, ask)| ask.kind == AskKind::Resend as i16))
        })
        .await
    }

    pub(crate) async fn unknown_counts(&mut self, shards: &[i32]) -> Result<Vec<(i32, i64)>, StoreError> {
        let shards = shards.to_vec();
        self.call("unknown_counts", move |state, _| {
            let mut counts: BTreeMap<i32, i64> = BTreeMap::new();
            let unknown = state.opens.iter().filter(|(_, open)| open.kind == UNKNOWN);
            for ((id, ..), _) in unknown.filter(|(key, _)| shards.contains(&((key.0 >> 32) as i32))) {
                *counts.entry((id >> 44) as i32).or_default() += 1;
            }
            Ok(counts.into_iter().collect())
        })
        .await
    }

    /// The one version's files are not kept: nothing was sent under another.
    pub(crate) async fn book_files(&mut self, version: i32) -> Result<Option<String>, StoreError> {
        self.call("book_files", move |state, _| {
            Ok((version == state.names.book_version).then(|| "{}".to_owned()))
        })
        .await
    }
}
