//! What is only read: the wheel's refill, the rows of a batch, what was left behind; and how a population gets in.

use std::collections::HashMap;

use billing_core::ids::{RefSeed, Shard, SubscriptionId};
use billing_core::outcome::Op;
use billing_core::period::{Period, date_of_days};
use billing_core::schedule::Anchor;
use billing_core::states::{ChargeState, SubscriptionState, from_number};
use billing_core::subscription::{
    Aside, Held, NextKind, OpenAttempt, Planned, Progress, Reservation, Subscription as CoreSubscription,
};
use billing_core::triage::Merged;
use jiff::Timestamp;

use super::rows::{self, Subscriber, Subscription};
use super::state::State;
use super::{MemoryConn, refused};
use crate::pg::{
    AsideRow, AttemptRow, DueRow, NewSubscriber, NewSubscription, OpenIntent, StoreError, WheelEntry,
    kind_charges,
};

type Loaded = (Vec<Box<DueRow>>, Vec<(i64, i32, String)>);
type Chunk = (Vec<WheelEntry>, Option<i64>);

impl MemoryConn {
    pub(crate) async fn load(&mut self, ids: &[i64]) -> Result<Loaded, StoreError> {
        let ids: std::collections::BTreeSet<i64> = ids.iter().copied().collect();
        self.call("load", move |state, _| {
            let (mut due, mut poison) = (Vec::with_capacity(ids.len()), Vec::new());
            for id in ids {
                let Some(sub) = state.subscriptions.get(&id) else { continue };
                let Some(subscriber) = state.subscribers.get(&sub.subscriber_id) else { continue };
                match due_row(sub, subscriber) {
                    Ok(row) => due.push(Box::new(row)),
                    Err(why) => poison.push((id, sub.rev, why)),
                }
            }
            Ok((due, poison))
        })
        .await
    }

    pub(crate) async fn refill(
        &mut self,
        shard: Shard,
        after_id: i64,
        horizon_ms: i64,
        limit: i32,
    ) -> Result<Chunk, StoreError> {
        self.call("refill", move |state, _| {
            let limit = usize::try_from(limit).unwrap_or(0);
            let (_, last) = shard.id_range();
            let rows: Vec<_> = state.subscriptions.range(after_id + 1..=last).take(limit).collect();
            let next = rows.last().filter(|_| rows.len() == limit).map(|(id, _)| **id);
            let fires = rows.into_iter().filter_map(|(id, sub)| {
                let at_ms = sub.next_at_ms.filter(|at_ms| *at_ms < horizon_ms)?;
                let charges = kind_charges(sub.next_kind);
                Some(WheelEntry { id: *id, at_ms, plan_no: sub.plan_no, zone_no: sub.zone_no, charges })
            });
            Ok((fires.collect(), next))
        })
        .await
    }

    pub(crate) async fn open_intents(
        &mut self,
        shard: Shard,
        after: (i64, i32, i16),
        limit: i32,
    ) -> Result<Vec<OpenIntent>, StoreError> {
        self.call("open_intents", move |state, _| {
            let low_water = state.low_water.get(&shard.0).copied().unwrap_or(i64::MAX);
            let (first, last) = (i64::from(shard.0) << 32, (i64::from(shard.0) << 32) + 4_294_967_295);
            let left = state.bare.range((first, i32::MIN, i16::MIN)..=(last, i32::MAX, i16::MAX));
            let left = left.filter(|key| **key > after).filter_map(|key| state.intents.get(key));
            left.filter(|intent| intent.intent_at_us >= low_water)
                .take(usize::try_from(limit).unwrap_or(0))
                .map(|intent| open_intent(state, intent))
                .collect()
        })
        .await
    }

    pub(crate) async fn attempts(
        &mut self,
        subscription_id: i64,
        period: i32,
    ) -> Result<Vec<AttemptRow>, StoreError> {
        self.call("attempts", move |state, _| {
            Ok(state.attempts_of(subscription_id, period).map(|intent| attempt_row(state, intent)).collect())
        })
        .await
    }

    pub(crate) async fn carrier_txn_id(
        &mut self,
        subscription_id: i64,
        period: Period,
        attempt_no: i16,
    ) -> Result<Option<String>, StoreError> {
        self.call("carrier_txn_id", move |state, _| {
            let found = state.outcomes.get(&(subscription_id, period.number(), attempt_no));
            Ok(found.and_then(|outcome| outcome.carrier_txn_id.clone()))
        })
        .await
    }

    pub(crate) async fn refill_asides(
        &mut self,
        shard: Shard,
        after_id: i64,
        horizon_ms: i64,
        limit: i32,
    ) -> Result<Chunk, StoreError> {
        self.call("refill_asides", move |state, _| {
            let limit = usize::try_from(limit).unwrap_or(0);
            let (_, last) = shard.id_range();
            let range = state.asides.range((after_id + 1, i32::MIN)..=(last, i32::MAX));
            let mut fires: Vec<(i64, i64, i16)> = Vec::new();
            for ((id, _), aside) in range {
                let Some(at_ms) = aside.next_at_ms else { continue };
                let full = fires.len() == limit;
                match fires.last_mut().filter(|(same, ..)| same == id) {
                    Some((_, first, kind)) if at_ms < *first => (*first, *kind) = (at_ms, aside.next_kind),
                    Some(_) => {}
                    None if full => break,
                    None => fires.push((*id, at_ms, aside.next_kind)),
                }
            }
            let next = fires.last().filter(|_| fires.len() == limit).map(|(id, ..)| *id);
            let fires = fires.into_iter().filter(|(_, at_ms, _)| *at_ms < horizon_ms);
            let entries = fires.filter_map(|(id, at_ms, kind)| {
                let sub = state.subscriptions.get(&id)?;
                let charges = kind_charges(kind);
                Some(WheelEntry { id, at_ms, plan_no: sub.plan_no, zone_no: sub.zone_no, charges })
            });
            Ok((entries.collect(), next))
        })
        .await
    }

    pub(crate) async fn due_asides(&mut self, ids: &[i64], now_ms: i64) -> Result<Vec<AsideRow>, StoreError> {
        let ids: std::collections::BTreeSet<i64> = ids.iter().copied().collect();
        self.call("due_asides", move |state, _| {
            let own = ids.iter().flat_map(|id| state.asides.range((*id, i32::MIN)..=(*id, i32::MAX)));
            let due = own.filter(|(_, aside)| aside.next_at_ms.is_some_and(|at_ms| at_ms <= now_ms));
            Ok(due.map(|(_, aside)| aside_row(aside)).collect())
        })
        .await
    }

    pub(crate) async fn load_asides(&mut self, keys: &[(i64, i32)]) -> Result<Vec<AsideRow>, StoreError> {
        let keys = keys.to_vec();
        self.call("load_asides", move |state, _| {
            Ok(keys.iter().filter_map(|key| state.asides.get(key)).map(aside_row).collect())
        })
        .await
    }

    pub(crate) async fn load_aside(
        &mut self,
        subscription_id: i64,
        period: Period,
    ) -> Result<Option<Aside>, StoreError> {
        self.call("load_aside", move |state, _| {
            let found = state.asides.get(&(subscription_id, period.number()));
            found.map(|aside| aside_row(aside).aside().map_err(StoreError::Broken)).transpose()
        })
        .await
    }

    pub(crate) async fn load_held(&mut self, ids: &[i64]) -> Result<HashMap<i64, Held>, StoreError> {
        let ids = ids.to_vec();
        self.call("load_held", move |state, _| {
            let mut held: HashMap<i64, Held> = HashMap::new();
            let own = ids.iter().flat_map(|id| state.asides.range((*id, i32::MIN)..=(*id, i32::MAX)));
            for ((id, _), aside) in own.filter(|(_, aside)| aside.state == ChargeState::Arrears as i16) {
                let held = held.entry(*id).or_default();
                held.count += 1;
                held.owed_minor += aside.due_minor - aside.collected_minor;
            }
            Ok(held)
        })
        .await
    }

    /// How a population gets in: see [`crate::pg::insert_subscriptions`].
    ///
    /// # Errors
    /// [`StoreError::Refused`] when one of them is there already.
    pub async fn insert_subscriptions(
        &mut self,
        book_version: i32,
        subscribers: &[NewSubscriber],
        subscriptions: &[NewSubscription],
    ) -> Result<(), StoreError> {
        let (subscribers, subscriptions) = (subscribers.to_vec(), subscriptions.to_vec());
        self.call("insert_subscriptions", move |state, _| {
            let known = subscribers.iter().any(|new| state.subscribers.contains_key(&new.id))
                || subscriptions.iter().any(|new| state.subscriptions.contains_key(&new.id));
            if known {
                return Err(refused("subscription: a unique constraint"));
            }
            for new in subscribers {
                let NewSubscriber { id, zone_no, kek_version, key_salt, msisdn_ct, .. } = new;
                state.subscribers.insert(id, Subscriber { id, zone_no, kek_version, key_salt, msisdn_ct });
            }
            let mut ranges: std::collections::BTreeMap<i32, (i64, i64)> = Default::default();
            for new in subscriptions {
                let range = ranges.entry((new.id >> 32) as i32).or_insert((new.id, new.id));
                *range = (range.0.min(new.id), range.1.max(new.id));
                state.subscriptions.insert(new.id, fresh(&new, book_version));
            }
            for (from, to) in ranges.into_values() {
                let payload = [from.to_be_bytes(), to.to_be_bytes()].concat();
                state.add_inbox(crate::pg::InboxKind::Created as i16, from, payload);
            }
            Ok(())
        })
        .await
    }
}

fn fresh(new: &NewSubscription, book_version: i32) -> Subscription {
    Subscription {
        id: new.id,
        subscriber_id: new.subscriber_id,
        ref_seed: new.ref_seed,
        due_minor: new.due_minor,
        collected_minor: 0,
        next_at_ms: new.next_at_ms,
        retry_at_ms: None,
        paid_until_ms: None,
        state_until_ms: new.state_until_ms,
        stop_at_ms: None,
        plan_no: new.plan_no,
        merchant_no: new.merchant_no,
        book_version,
        anchor_day: new.anchor_day,
        period: new.period,
        rev: 0,
        flags: 0,
        zone_no: new.zone_no,
        anchor_minute: new.anchor_minute,
        currency: new.currency,
        state: new.state,
        attempt_no: 0,
        round: 0,
        step: 0,
        open: 0,
        deferrals: 0,
        next_kind: new.next_kind,
        notice_at_ms: None,
        anchor_done: 0,
        tries: 0,
        try_day: 0,
        day_tries: 0,
        consent_until_ms: None,
        reserved_until_ms: None,
        reserved_minor: None,
        reserved_no: None,
    }
}

fn due_row(sub: &Subscription, subscriber: &Subscriber) -> Result<DueRow, String> {
    let instant =
        |ms: Option<i64>| ms.map(Timestamp::from_millisecond).transpose().map_err(|error| error.to_string());
    let reserved = match (sub.reserved_no, sub.reserved_minor, instant(sub.reserved_until_ms)?) {
        (Some(attempt_no), Some(amount_minor), Some(until)) => {
            Some(Reservation { attempt_no, amount_minor, until })
        }
        _ => None,
    };
    Ok(DueRow {
        sub: CoreSubscription {
            id: SubscriptionId(sub.id),
            subscriber_id: sub.subscriber_id,
            ref_seed: RefSeed(sub.ref_seed),
            plan_no: sub.plan_no,
            stop_at: instant(sub.stop_at_ms)?,
            rev: sub.rev,
            flags: sub.flags,
            anchor: Anchor {
                date: date_of_days(sub.anchor_day),
                minute: u16::try_from(sub.anchor_minute).map_err(|e| e.to_string())?,
                done: sub.anchor_done,
            },
            progress: Progress {
                state: from_number::<SubscriptionState>(sub.state)
                    .ok_or_else(|| format!("no state {}", sub.state))?,
                period: Period::from_number(sub.period).map_err(|e| e.to_string())?,
                due_minor: sub.due_minor,
                collected_minor: sub.collected_minor,
                attempt_no: sub.attempt_no,
                round: sub.round,
                step: sub.step,
                open: OpenAttempt::from_number(sub.open)
                    .ok_or_else(|| format!("no open attempt kind {}", sub.open))?,
                deferrals: sub.deferrals,
                paid_until: instant(sub.paid_until_ms)?,
                state_until: instant(sub.state_until_ms)?,
                retry_at: instant(sub.retry_at_ms)?,
                next_at: instant(sub.next_at_ms)?,
                next_kind: NextKind::from_number(sub.next_kind)
                    .ok_or_else(|| format!("no kind of next instant {}", sub.next_kind))?,
                tries: sub.tries,
                try_day: sub.try_day,
                day_tries: sub.day_tries,
                reserved,
                notice_at: instant(sub.notice_at_ms)?,
            },
        },
        merchant_no: sub.merchant_no,
        zone_no: sub.zone_no,
        currency: sub.currency,
        book_version: sub.book_version,
        held: Held::default(),
        noted: Vec::new(),
        merged: Merged::default(),
        msisdn_ct: subscriber.msisdn_ct.clone(),
        key_salt: subscriber
            .key_salt
            .as_slice()
            .try_into()
            .map_err(|_| "key salt is not 16 bytes".to_owned())?,
        kek_version: subscriber.kek_version,
        consent_until: instant(sub.consent_until_ms)?,
    })
}

fn open_intent(state: &State, intent: &rows::Intent) -> Result<OpenIntent, StoreError> {
    let broken = |what: &dyn std::fmt::Display| StoreError::Broken(format!("intent: {what}"));
    let op = Op::from_number(intent.op)
        .ok_or_else(|| broken(&format!("operation {} is not one of this version", intent.op)))?;
    Ok(OpenIntent {
        subscription_id: intent.subscription_id,
        planned: Planned {
            op,
            period: Period::from_number(intent.period).map_err(|e| broken(&e))?,
            attempt_no: intent.attempt_no,
            parent_no: intent.parent_no,
            amount_minor: intent.amount_minor,
            round: intent.round,
            step: intent.step,
            not_before: Timestamp::from_millisecond(intent.not_before_ms).map_err(|e| broken(&e))?,
            not_after: Timestamp::from_millisecond(intent.not_after_ms).map_err(|e| broken(&e))?,
        },
        currency: intent.currency,
        incarnation: intent.incarnation,
        book_version: intent.book_version,
        failed_over: state.guarded.failed_over_us(intent.intent_at_us).is_some(),
    })
}

fn attempt_row(state: &State, intent: &rows::Intent) -> AttemptRow {
    let key = (intent.subscription_id, intent.period, intent.attempt_no);
    let (outcome, open) = (state.outcomes.get(&key), state.opens.get(&key));
    let still_open = open.filter(|_| outcome.is_none());
    let word = |ours: Option<&Option<String>>, theirs: Option<&Option<String>>| {
        ours.cloned().flatten().or_else(|| theirs.cloned().flatten())
    };
    AttemptRow {
        attempt_no: intent.attempt_no,
        amount_minor: intent.amount_minor,
        currency: intent.currency,
        round: intent.round,
        step: intent.step,
        intent_business_ms: intent.business_at_ms,
        intent_at_us: intent.intent_at_us,
        intent_rule: intent.rule_id,
        book_version: intent.book_version,
        incarnation: intent.incarnation,
        state: outcome.map(|o| o.class).or(open.map(|o| o.kind + 1)).unwrap_or(1),
        reason: outcome.map(|o| o.reason).or(open.map(|o| o.reason)),
        moved_minor: outcome.map(|o| o.moved_minor),
        decided_business_ms: outcome.map(|o| o.business_at_ms),
        latency_us: outcome.map(|o| o.latency_us),
        outcome_rule: outcome.map(|o| o.rule_id).or(open.map(|o| o.rule_id)),
        charge_state: outcome.map(|o| o.charge_state),
        carrier_code: word(outcome.map(|o| &o.carrier_code), open.map(|o| &o.carrier_code)),
        carrier_txn_id: word(outcome.map(|o| &o.carrier_txn_id), open.map(|o| &o.carrier_txn_id)),
        op: intent.op,
        not_before_ms: intent.not_before_ms,
        not_after_ms: intent.not_after_ms,
        open_since_us: still_open.map(|o| o.since_us),
        deadline_ms: still_open.and_then(|o| o.deadline_at_ms),
        parent_no: intent.parent_no,
    }
}

pub(super) fn aside_row(aside: &rows::Aside) -> AsideRow {
    AsideRow {
        subscription_id: aside.subscription_id,
        period: aside.period,
        due_minor: aside.due_minor,
        collected_minor: aside.collected_minor,
        refunded_minor: aside.refunded_minor,
        reversed_minor: aside.reversed_minor,
        attempt_no: aside.attempt_no,
        round: aside.round,
        step: aside.step,
        open: aside.open,
        state: aside.state,
        next_at_ms: aside.next_at_ms,
        next_kind: aside.next_kind,
        expires_at_ms: aside.expires_at_ms,
        currency: aside.currency,
    }
}
