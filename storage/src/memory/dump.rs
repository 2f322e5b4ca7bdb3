//! The whole content, table by table, as JSON rows with the columns of `storage/db`: to compare, and for the judge.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Value, json};

use super::MemoryDb;
use super::rows::Intent;
use super::state::State;

/// Tables by name; rows in the sequence of their keys, or in which they came.
pub type Dump = BTreeMap<&'static str, Vec<Value>>;

/// What a simulated server saw.
#[derive(Debug, Clone)]
pub struct Watched {
    /// Arrival and commit of each intent that somebody decided to make, not because the one before it is assumed, by
    /// subscription, period and attempt.
    pub intents: BTreeMap<(i64, i32, i16), (i64, i64)>,
    /// When each STOP was committed.
    pub stopped_us: BTreeMap<i64, i64>,
    /// Final outcomes that another one replaced.
    pub flipped: usize,
    /// Commits by fenced workers.
    pub stale_writes: usize,
    /// Intents that were committed while another attempt of their charge had no outcome.
    pub overlaps: usize,
}

fn rows<T: Serialize>(rows: impl IntoIterator<Item = T>) -> Vec<Value> {
    rows.into_iter().map(|row| serde_json::to_value(row).unwrap_or(Value::Null)).collect()
}

/// Intents, and whether each is dated within the life of who made it.
fn intents(state: &State) -> Vec<Value> {
    let lived = |intent: &Intent| {
        let at_us = intent.intent_at_us;
        let maker = state.incarnations.get(&intent.incarnation);
        maker.is_some_and(|maker| {
            maker.started_us <= at_us && maker.fenced_us.is_none_or(|fenced_us| at_us <= fenced_us)
        })
    };
    let mut told = rows(state.intents.values());
    for (row, intent) in told.iter_mut().zip(state.intents.values()) {
        if let Some(row) = row.as_object_mut() {
            row.insert("in_life".to_owned(), Value::from(lived(intent)));
        }
    }
    told
}

impl MemoryDb {
    /// What only a simulated server can tell: when intents arrived and were committed, when incarnations were fenced and
    /// subscriptions stopped (microseconds), how many writes broke what no write may break.
    #[must_use]
    pub fn watched(&self) -> Watched {
        let state = self.state();
        let times = state.intents.iter().filter(|(key, _)| !state.guarded.followed.contains(*key));
        let times = times.map(|(key, intent)| (*key, (intent.intent_at_us, intent.committed_us)));
        Watched {
            intents: times.collect(),
            stopped_us: state.stopped_us.clone(),
            flipped: state.flipped,
            stale_writes: state.stale_writes,
            overlaps: state.overlaps,
        }
    }

    /// Everything that is committed. Without bytes and machine instants.
    #[must_use]
    pub fn dump(&self) -> Dump {
        let state = self.state();
        let balances = state.balances.iter().map(
            |((account, stripe), posted)| json!({"account_id": account, "stripe": stripe, "posted": posted}),
        );
        let owners = state
            .owners
            .iter()
            .map(|(shard, slot)| json!({"shard": shard, "slot": slot, "held": state.guarded.held(*shard)}));
        let usage = state.usage.values().map(|kept| {
            json!({
                "subscriber_id": kept.subscriber_id, "currency": kept.currency,
                "day": kept.days[0], "week": kept.days[1], "month": kept.days[2],
                "day_minor": kept.minors[0], "week_minor": kept.minors[1], "month_minor": kept.minors[2],
                "day_requests": kept.requests[0], "week_requests": kept.requests[1],
                "month_requests": kept.requests[2],
            })
        });
        let inbox = state.inbox.values().map(|row| {
            json!({"shard": row.shard, "kind": row.kind, "subscription_id": row.subscription_id,
                   "bytes": row.payload.len()})
        });
        let mut dump = BTreeMap::from([
            ("worker", rows(state.workers.values())),
            ("worker_incarnation", rows(state.incarnations.values())),
            ("shard_owner", owners.collect()),
            ("shard_inbox", inbox.collect()),
            ("subscription", rows(state.subscriptions.values())),
            ("attempt_intent", intents(&state)),
            ("attempt_outcome", rows(state.outcomes.values())),
            ("attempt_open", rows(state.opens.values())),
            ("attempt_ask", rows(state.asks.values())),
            ("charge_aside", rows(state.asides.values())),
            ("charge_note", rows(state.notes.values())),
            ("transfer", rows(state.transfers.values())),
            ("account_balance", balances.collect()),
            ("entitlement_grant", rows(state.grants.values())),
            ("outbox", rows(&state.events)),
            ("case_file", rows(&state.cases)),
            ("subscriber_usage", usage.collect()),
        ]);
        dump.extend(state.guarded.dump());
        dump
    }
}
