//! One conformance suite for the two stores: the same calls, by seed, on the memory store and on a real Postgres must give the
//! same verdicts, rows and errors; in the end the tables are equal. So the simulation's store can be believed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod store_calls;

use std::collections::BTreeMap;

use serde_json::Value;
use sqlx::postgres::PgConnection;
use storage::launcher::{LauncherOptions, PrivatePostgres};
use storage::memory::Dump;

use store_calls::failover::SENT_US;
use store_calls::{CALM_SEEDS, Pair};

/// Calls per seed.
const CALLS: usize = 260;
/// Seeds with failovers, behind the calm ones.
const FAILOVER_SEEDS: u64 = 16;

#[test]
fn both_stores_answer_alike_and_hold_the_same() {
    let dir = std::env::temp_dir().join(format!("tollbook-store-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).unwrap();
    let mut options = LauncherOptions::new(dir.join("postgres"), "tollbook");
    // Nothing of it outlives the test.
    options.settings = vec![("fsync".into(), "off".into())];
    let postgres = PrivatePostgres::start(options).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut verdicts = BTreeMap::new();
        for seed in 1..=CALM_SEEDS + FAILOVER_SEEDS {
            let mut pair = Pair::start(&postgres.url(), seed).await;
            for call in 0..CALLS {
                pair.call().await;
                if call % 40 == 39 {
                    same_tables(&mut pair, seed, call).await;
                }
            }
            same_tables(&mut pair, seed, CALLS).await;
            pair.low_water().await;
            for (verdict, count) in std::mem::take(&mut pair.verdicts) {
                *verdicts.entry(verdict).or_insert(0) += count;
            }
        }
        // The suite is worth something only if it met every verdict.
        for verdict in [
            "begin Ok",
            "begin ExistsSame",
            "begin ExistsDifferent",
            "begin ExistsMine",
            "begin StaleRev",
            "begin Stopped",
            "begin OutsideWindow",
            "begin NotOwner",
            "begin NoPartition",
            "begin NotFound",
            "begin OverCap",
            "begin RefundOpen",
            "record Ok",
            "record FinalSame",
            "record Conflict",
            "record StaleRev",
            "record NotOwner",
            "record NoPartition",
            "record NotFound",
            "refund Ok",
            "refund StaleRev",
            "resend true",
            "resend false",
            "ask true",
            "ask false",
            "review true",
            "review false",
            "due with asks",
            "low water true",
            "low water false",
            "open below the low water true",
            "open below the low water false",
            "guard opened true",
            "guard opened false",
            "lost true",
            "lost false",
            "doubts true",
            "doubts false",
            "resume NotYet",
            "resume ListAll",
            "resume Yes",
            "doubt ended Ok(true)",
            "restore Ok",
            "restore FinalSame",
            "restore StaleRev",
            "restore NotOwner",
            "restore NoPartition",
            "restore NotFound",
            "begin Quarantined",
            "begin Lost",
            "refund Quarantined",
            "refund Lost",
        ] {
            assert!(
                verdicts.get(verdict).is_some_and(|count| *count > 0),
                "never met {verdict}: {verdicts:?}"
            );
        }
    });
    drop(postgres);
    let _ = std::fs::remove_dir_all(&dir);
}

async fn same_tables(pair: &mut Pair, seed: u64, call: usize) {
    let mut memory = pair.memory_dump();
    let mut kept = postgres_dump(&mut pair.raw, &memory).await;
    // What was open is listed with its own instant, which is each server's.
    for dump in [&mut memory, &mut kept] {
        for lost in dump.get_mut("lost_attempt").into_iter().flatten() {
            if lost["intent_us"].as_i64().is_some_and(|us| us > SENT_US + 1_000) {
                lost["intent_us"] = Value::Null;
            }
        }
    }
    for (table, rows) in &memory {
        let sorted = |rows: &[Value]| {
            let mut lines: Vec<String> = rows.iter().map(ToString::to_string).collect();
            lines.sort();
            lines
        };
        let (ours, theirs) = (sorted(rows), sorted(&kept[table]));
        for (left, right) in ours.iter().zip(&theirs) {
            assert_eq!(left, right, "{table} differs, seed {seed}, call {call} (memory, then Postgres)");
        }
        assert_eq!(ours.len(), theirs.len(), "{table} has another number of rows, seed {seed}, call {call}");
    }
}

/// The same tables out of Postgres, with the columns that the memory store has.
async fn postgres_dump(conn: &mut PgConnection, memory: &Dump) -> BTreeMap<&'static str, Vec<Value>> {
    let mut kept = BTreeMap::new();
    for (table, sql) in [
        ("worker", "SELECT to_jsonb(t)::text FROM (SELECT w.*, l.renewals FROM worker w JOIN worker_lease l USING (slot)) t"),
        ("worker_incarnation", "SELECT (to_jsonb(t) || CASE WHEN slot = 0 THEN '{\"epoch\": 0}' ELSE '{}' END::jsonb)::text
               FROM (SELECT *, fenced_at IS NOT NULL AS fenced FROM worker_incarnation) t"),
        ("shard_owner", "SELECT to_jsonb(t)::text FROM shard_owner t"),
        ("shard_inbox", "SELECT to_jsonb(t)::text FROM (SELECT *, length(payload) AS bytes FROM shard_inbox) t"),
        ("subscription", "SELECT to_jsonb(t)::text FROM subscription t"),
        (
            "attempt_intent",
            "SELECT to_jsonb(t)::text FROM (SELECT a.*, EXISTS (SELECT FROM worker_incarnation w WHERE w.incarnation = a.incarnation
                    AND a.intent_at BETWEEN w.started_at AND coalesce(w.fenced_at, 'infinity')) AS in_life
               FROM attempt_intent a) t",
        ),
        ("attempt_outcome", "SELECT to_jsonb(t)::text FROM attempt_outcome t"),
        ("attempt_open", "SELECT to_jsonb(t)::text FROM attempt_open t"),
        ("attempt_ask", "SELECT to_jsonb(t)::text FROM attempt_ask t"),
        ("charge_aside", "SELECT to_jsonb(t)::text FROM charge_aside t"),
        ("charge_note", "SELECT to_jsonb(t)::text FROM charge_note t"),
        ("transfer", "SELECT to_jsonb(t)::text FROM transfer t"),
        ("account_balance", "SELECT to_jsonb(t)::text FROM account_balance t"),
        ("entitlement_grant", "SELECT to_jsonb(t)::text FROM entitlement_grant t"),
        (
            "outbox",
            "SELECT to_jsonb(t)::text FROM (SELECT business_at_ms, merchant_no, unnest(subscription_ids) AS subscription_id,
                    unnest(amounts) AS amount, unnest(periods) AS period, unnest(revs) AS rev, unnest(events) AS event
               FROM outbox) t",
        ),
        ("case_file", "SELECT to_jsonb(t)::text FROM case_file t"),
        ("subscriber_usage", "SELECT to_jsonb(t)::text FROM subscriber_usage t"),
        ("database_guard", "SELECT to_jsonb(t)::text FROM database_guard t"),
        ("quarantine", "SELECT to_jsonb(t)::text FROM quarantine t"),
        (
            "quarantine_spool",
            "SELECT to_jsonb(t)::text FROM (SELECT *, handed_in_at IS NOT NULL AS handed_in FROM quarantine_spool) t",
        ),
        ("shard_quarantine", "SELECT to_jsonb(t)::text FROM shard_quarantine t"),
        ("lost_attempt", "SELECT to_jsonb(t)::text FROM (SELECT *, us(intent_at) AS intent_us FROM lost_attempt) t"),
    ] {
        let texts: Vec<String> = sqlx::query_scalar(sql).fetch_all(&mut *conn).await.unwrap();
        let columns: Option<Vec<String>> =
            memory[table].first().and_then(Value::as_object).map(|row| row.keys().cloned().collect());
        let row = |text: String| {
            let mut row: serde_json::Map<String, Value> = serde_json::from_str(&text).unwrap();
            if let Some(columns) = &columns {
                row.retain(|name, _| columns.contains(name));
            }
            Value::Object(row)
        };
        kept.insert(table, texts.into_iter().map(row).collect());
    }
    kept
}
