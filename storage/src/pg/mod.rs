//! Postgres: structured data. Two functions carry the hot path, each called as one autocommit `SELECT` per batch:
//! `begin_attempts` and `record_outcomes` (see `storage/db/procedures`).

/// A struct whose fields are read from columns of the same names.
macro_rules! row {
    ($(#[$doc:meta])* pub struct $name:ident { $($(#[$field_doc:meta])* pub $field:ident: $kind:ty,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct $name { $($(#[$field_doc])* pub $field: $kind),+ }

        impl<'r> sqlx::FromRow<'r, sqlx::postgres::PgRow> for $name {
            fn from_row(row: &'r sqlx::postgres::PgRow) -> sqlx::Result<Self> {
                use sqlx::Row;
                Ok(Self { $($field: row.try_get(stringify!($field))?),+ })
            }
        }
    };
}

mod adopt;
mod asides;
mod audit;
mod batch;
mod book;
mod callbacks;
mod cases;
mod clock;
mod connect;
mod failover;
mod files;
mod import;
mod inbox;
mod keys;
mod ledger;
mod load;
mod migrate;
mod more;
mod outbox;
mod proposals;
mod quarantines;
mod query;
mod refund;
mod resolution;
mod reversal;
mod stats;
mod usage;
mod verdict;
mod versions;
mod workers;

pub use adopt::{BeginAdopt, begin_adopt};
pub use asides::{AsideRow, asides_of, due_asides, load_asides, load_held, refill_asides};
pub use audit::{Actor, AuditRow, audit, audit_digest_at, audit_rows, verify_audit};
pub(crate) use batch::{AsideValues, BeginValues, RecordValues};
pub use batch::{BeginBatch, BeginRow, CarrierWords, LEGS_MAX, PostedLeg, RecordBatch, RecordRow, RowKind};
pub use book::{AccountKey, BookNames, CarrierName, Names, PlanName, sync_book};
pub use callbacks::{
    CallbackSettled, CallbackState, KeptCallback, NewCallback, attempt_of_txn, keep_callbacks, kept_callback,
    look_again, new_callbacks, settle_callback, trim_callbacks,
};
pub use cases::{LateEvidenceKey, open_case, own_open_attempts, quarantine};
pub use clock::{ClockRow, read_clock, set_clock};
pub use connect::{StoreError, connect};
pub use failover::{
    CapDay, Checked, HeldUp, LostAttempt, QuarantineTerms, Resumed, check_guard, end_doubt, hand_in_done,
    hand_in_lines, held_up, list_doubts, lost_attempts, restore_lost, resume_shard, touch_guard,
};
pub use files::{
    FileCounts, FileRead, FileRecord, FileRowRecord, FileRowState, FileState, KeyedAttempt, NewFile,
    SettledFileRow, attempts_of_keys, file_chunk, file_coverage, file_rows, files, keep_chunk, keep_file,
    lock_files, named_elsewhere, note_matched, read_file, settle_file_row,
};
pub use import::{
    ImportLookup, NewSubscriber, NewSubscription, allocate_ids, insert_subscriptions, lookup, msisdn_aad,
    reference_digest, zone_of_subscriber,
};
pub use inbox::{
    InboxKind, InboxRow, ask_move, drop_inbox, last_note_rule, post_evidence, post_top_up, post_wish,
    read_inbox, set_consent, stop_subscription,
};
pub use keys::check_keys;
pub use ledger::{
    AccountRow, Difference, SealState, close_month, seal_state, seal_until, trial_balance, verify_ledger,
};
pub(crate) use load::kind_charges;
pub use load::{DueRow, load, load_noted, open_intents, refill};
pub use load::{OpenIntent, WheelEntry};
pub use migrate::{ensure_partitions, migrate};
pub use more::{MoreRow, MovedRow, ReversalRow, ShiftRow, SuccessorRow};
pub use outbox::{EVENTS_MAX, EventRow, Taking, peek_events};
pub use proposals::{
    Approval, CaseLine, ProposalRow, Proposing, ReviewRow, approve_decision, attempts_to_review, case_lines,
    open_proposals, proposal, propose_decision,
};
pub use quarantines::{
    HeldShards, QuarantineLine, ServerMoved, adopt_server, force_quarantine, held_shards, is_held,
    quarantine_lines, server_moved,
};
pub use query::*;
pub use refund::{BeginRefund, ask_refund, begin_refund, carrier_txn_id, load_aside};
pub(crate) use resolution::ask_of;
pub use resolution::{
    AttemptKey, DueAsk, NewAsk, begin_resends, due_asks, postpone_asks, record_asks, review_attempts,
    unknown_counts, was_resent,
};
pub use reversal::{KeptReversal, ask_reversal, reversal_by_reference, reversals_of};
pub use stats::{MinuteRow, append_minutes, trim_minutes};
pub use usage::{CapRow, GiveBack, usage_of};
pub use verdict::Verdict;
pub use versions::{
    ApplyError, Applying, BookVersion, PlanCount, VersionLine, apply_book, book_history, book_names,
    book_version, current_book, current_version, plan_counts,
};
pub use workers::{Lease, WorkerIdentity, WorkerRow};
pub use workers::{
    claim_shards, fence_worker, hand_over, owned_shards, register_worker, renew_lease, set_low_water,
    worker_rows,
};
