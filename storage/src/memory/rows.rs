//! The tables as the memory store keeps them: columns of the same names as in `storage/db`, so that both can be compared.

use serde::Serialize;

/// A row of `worker`, with its lease.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Worker {
    pub(super) slot: i32,
    pub(super) incarnation: i64,
    pub(super) epoch: i32,
    pub(super) renewals: i64,
}

/// A row of `worker_incarnation`.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Incarnation {
    pub(super) incarnation: i64,
    pub(super) slot: i32,
    pub(super) epoch: i32,
    #[serde(skip)]
    pub(super) started_us: i64,
    pub(super) host: String,
    pub(super) boot_id: String,
    pub(super) spool: String,
    pub(super) endpoint: String,
    pub(super) fenced: bool,
    #[serde(skip)]
    pub(super) fenced_us: Option<i64>,
}

/// A row of `shard_inbox`.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Inbox {
    pub(super) id: i64,
    pub(super) shard: i32,
    pub(super) kind: i16,
    pub(super) subscription_id: i64,
    pub(super) payload: Vec<u8>,
}

/// A row of `subscriber`.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Subscriber {
    pub(super) id: i64,
    pub(super) zone_no: i16,
    pub(super) kek_version: i16,
    #[serde(skip)]
    pub(super) key_salt: Vec<u8>,
    #[serde(skip)]
    pub(super) msisdn_ct: Vec<u8>,
}

/// A row of `subscription`.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Subscription {
    pub(super) id: i64,
    pub(super) subscriber_id: i64,
    pub(super) ref_seed: i64,
    pub(super) due_minor: i64,
    pub(super) collected_minor: i64,
    pub(super) next_at_ms: Option<i64>,
    pub(super) retry_at_ms: Option<i64>,
    pub(super) paid_until_ms: Option<i64>,
    pub(super) state_until_ms: Option<i64>,
    pub(super) stop_at_ms: Option<i64>,
    pub(super) plan_no: i32,
    pub(super) merchant_no: i32,
    pub(super) book_version: i32,
    pub(super) anchor_day: i32,
    pub(super) period: i32,
    pub(super) rev: i32,
    pub(super) flags: i32,
    pub(super) zone_no: i16,
    pub(super) anchor_minute: i16,
    pub(super) currency: i16,
    pub(super) state: i16,
    pub(super) attempt_no: i16,
    pub(super) round: i16,
    pub(super) step: i16,
    pub(super) open: i16,
    pub(super) deferrals: i16,
    pub(super) next_kind: i16,
    pub(super) notice_at_ms: Option<i64>,
    pub(super) anchor_done: i32,
    pub(super) tries: i16,
    pub(super) try_day: i16,
    pub(super) day_tries: i16,
    pub(super) consent_until_ms: Option<i64>,
    pub(super) reserved_until_ms: Option<i64>,
    pub(super) reserved_minor: Option<i64>,
    pub(super) reserved_no: Option<i16>,
}

/// A row of `attempt_intent`.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Intent {
    pub(super) subscription_id: i64,
    pub(super) period: i32,
    pub(super) attempt_no: i16,
    pub(super) amount_minor: i64,
    pub(super) digest_hi: i64,
    pub(super) digest_lo: i64,
    pub(super) not_before_ms: i64,
    pub(super) not_after_ms: i64,
    pub(super) incarnation: i64,
    #[serde(skip)]
    pub(super) intent_at_us: i64,
    #[serde(skip)]
    pub(super) committed_us: i64,
    pub(super) business_at_ms: i64,
    pub(super) book_version: i32,
    pub(super) op: i16,
    pub(super) round: i16,
    pub(super) step: i16,
    pub(super) currency: i16,
    pub(super) rule_id: i16,
    pub(super) cap_day: i32,
    pub(super) parent_no: i16,
    /// The inbox row that it began with.
    #[serde(skip)]
    pub(super) wish: Option<i64>,
}

/// A row of `attempt_outcome`.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Outcome {
    pub(super) subscription_id: i64,
    pub(super) period: i32,
    pub(super) attempt_no: i16,
    pub(super) moved_minor: i64,
    pub(super) collected_after: i64,
    pub(super) incarnation: i64,
    pub(super) business_at_ms: i64,
    pub(super) latency_us: i32,
    pub(super) class: i16,
    pub(super) reason: i16,
    pub(super) charge_state: i16,
    pub(super) rule_id: i16,
    pub(super) carrier_code: Option<String>,
    pub(super) carrier_txn_id: Option<String>,
}

/// A row of `attempt_open`.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Open {
    pub(super) subscription_id: i64,
    pub(super) period: i32,
    pub(super) attempt_no: i16,
    pub(super) amount_minor: i64,
    pub(super) deadline_at_ms: Option<i64>,
    #[serde(skip)]
    pub(super) since_us: i64,
    pub(super) kind: i16,
    pub(super) reason: i16,
    pub(super) rule_id: i16,
    pub(super) currency: i16,
    pub(super) carrier_code: Option<String>,
    pub(super) carrier_txn_id: Option<String>,
    pub(super) assignee: Option<String>,
    #[serde(skip)]
    pub(super) next_ask_us: i64,
    #[serde(skip)]
    pub(super) last_write_us: Option<i64>,
    pub(super) last_writer: Option<i64>,
    pub(super) asks: i16,
}

/// A row of `attempt_ask`.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Ask {
    pub(super) subscription_id: i64,
    pub(super) moved_minor: i64,
    pub(super) incarnation: i64,
    #[serde(skip)]
    pub(super) asked_us: i64,
    #[serde(skip)]
    pub(super) answered_us: i64,
    pub(super) period: i32,
    pub(super) attempt_no: i16,
    pub(super) ask_no: i16,
    pub(super) kind: i16,
    pub(super) finding: i16,
    pub(super) reason: i16,
    pub(super) rule_id: i16,
}

/// A row of `charge_aside`.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Aside {
    pub(super) subscription_id: i64,
    pub(super) period: i32,
    pub(super) due_minor: i64,
    pub(super) collected_minor: i64,
    pub(super) refunded_minor: i64,
    pub(super) reversed_minor: i64,
    pub(super) next_at_ms: Option<i64>,
    pub(super) expires_at_ms: Option<i64>,
    pub(super) rev: i32,
    pub(super) attempt_no: i16,
    pub(super) round: i16,
    pub(super) step: i16,
    pub(super) open: i16,
    pub(super) state: i16,
    pub(super) next_kind: i16,
    pub(super) currency: i16,
}

/// A row of `charge_note`.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Note {
    pub(super) subscription_id: i64,
    pub(super) period: i32,
    pub(super) rev: i32,
    pub(super) until_ms: Option<i64>,
    pub(super) business_at_ms: i64,
    pub(super) kind: i16,
    pub(super) charge_state: i16,
    pub(super) rule_id: i16,
    pub(super) before_period: Option<i32>,
}

/// A row of `transfer`.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Transfer {
    pub(super) source_id: i64,
    pub(super) period: i32,
    pub(super) attempt_no: i16,
    pub(super) leg: i16,
    pub(super) amount: i64,
    pub(super) debit_account: i32,
    pub(super) credit_account: i32,
    pub(super) business_date: i32,
    pub(super) asset: i16,
}

/// A row of `entitlement_grant`.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Grant {
    pub(super) subscription_id: i64,
    pub(super) period: i32,
    pub(super) attempt_no: i16,
    pub(super) from_ms: i64,
    pub(super) until_ms: Option<i64>,
    pub(super) variant: i16,
}

/// One event of `outbox`, whose rows hold several.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Event {
    pub(super) business_at_ms: i64,
    pub(super) merchant_no: i32,
    pub(super) subscription_id: i64,
    pub(super) amount: i64,
    pub(super) period: i32,
    pub(super) rev: i32,
    pub(super) event: i16,
}

/// A row of `case_file`.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Case {
    pub(super) subscription_id: i64,
    pub(super) period: Option<i32>,
    pub(super) attempt_no: Option<i16>,
    pub(super) kind: String,
    pub(super) what: String,
}

/// A row of `subscriber_usage`: by day, week and month.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Counters {
    pub(super) subscriber_id: i64,
    pub(super) currency: i16,
    pub(super) days: [i32; 3],
    pub(super) minors: [i64; 3],
    pub(super) requests: [i32; 3],
}
