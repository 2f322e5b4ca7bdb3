//! Postgres: structured data. Two functions carry the hot path, each called as one autocommit `SELECT` per batch:
//! `begin_attempts` and `record_outcomes` (see `storage/db/procedures`).

mod batch;
mod book;
mod cases;
mod clock;
mod connect;
mod import;
mod inbox;
mod keys;
mod load;
mod migrate;
mod query;
mod stats;
mod verdict;
mod workers;

pub use batch::{BeginBatch, BeginRow, CarrierWords, PostedLeg, RecordBatch, RecordRow, RowKind};
pub use book::{AccountKey, BookNames, CarrierName, Names, PlanName, sync_book};
pub use cases::{LateEvidenceKey, open_case, own_open_attempts, quarantine};
pub use clock::{ClockRow, read_clock, set_clock};
pub use connect::{StoreError, connect};
pub use import::{
    ImportLookup, NewSubscriber, NewSubscription, allocate_ids, insert_subscriptions, lookup, msisdn_aad,
};
pub use inbox::{InboxKind, InboxRow, drop_inbox, post_evidence, read_inbox, stop_subscription};
pub use keys::check_keys;
pub use load::{DueRow, load, open_intents, refill};
pub use load::{OpenIntent, WheelEntry};
pub use migrate::{ensure_partitions, migrate};
pub use query::*;
pub use stats::{MinuteRow, append_minutes};
pub use verdict::Verdict;
pub use workers::{Lease, WorkerIdentity, WorkerRow};
pub use workers::{
    claim_shards, fence_worker, hand_over, owned_shards, register_worker, renew_lease, set_low_water,
    worker_rows,
};
