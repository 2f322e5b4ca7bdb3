//! The seam between the engine and its database: the same calls against Postgres or against [`crate::memory`].
//!
//! One match per batch, never one per charge. Both sides are kept equal by the conformance suite in `tests/tests/store.rs`.

use std::collections::HashMap;
use std::sync::Arc;

use billing_core::ids::Shard;
use billing_core::period::Period;
use billing_core::plan::Usage;
use billing_core::subscription::{Aside, Held};
use sqlx::postgres::PgConnection;

use crate::guard::Seen;
use crate::memory::{MemoryConn, MemoryDb};
use crate::pg::{
    self, AsideRow, AttemptKey, AttemptRow, BeginBatch, BeginRefund, BookVersion, CapDay, Checked, ClockRow,
    DueAsk, DueRow, HeldUp, InboxRow, LateEvidenceKey, Lease, LostAttempt, MinuteRow, Names, NewAsk,
    OpenIntent, QuarantineTerms, RecordBatch, Resumed, StoreError, Verdict, WheelEntry, WorkerIdentity,
    WorkerRow,
};
use crate::spool::SentLine;

/// Where the structured data lies.
#[derive(Debug, Clone)]
pub enum Database {
    /// A Postgres server by its URL.
    Postgres(Arc<str>),
    /// This process' memory: for the simulation.
    Memory(MemoryDb),
}

impl Database {
    /// A Postgres server.
    #[must_use]
    pub fn postgres(url: &str) -> Self {
        Self::Postgres(Arc::from(url))
    }
}

/// One connection, of its own for each part of a worker.
#[derive(Debug)]
pub enum Conn {
    /// To Postgres.
    Postgres(PgConnection),
    /// To this process' memory.
    Memory(MemoryConn),
}

impl Conn {
    /// The connection to Postgres, for statements that the simulation does not have.
    ///
    /// # Errors
    /// [`StoreError::Broken`] in the simulation.
    pub fn postgres(&mut self) -> Result<&mut PgConnection, StoreError> {
        match self {
            Self::Postgres(conn) => Ok(conn),
            Self::Memory(_) => {
                Err(StoreError::Broken("the memory store does not have this statement".to_owned()))
            }
        }
    }
}

/// Opens a connection under a name that people see.
///
/// # Errors
/// [`StoreError`] when the database is away.
pub async fn connect(database: &Database, name: &str) -> Result<Conn, StoreError> {
    match database {
        Database::Postgres(url) => Ok(Conn::Postgres(pg::connect(url, name).await?)),
        Database::Memory(memory) => Ok(Conn::Memory(memory.connect().await?)),
    }
}

/// Makes a batch of intents durable: see [`BeginBatch::begin`].
///
/// # Errors
/// As there.
pub async fn begin(
    conn: &mut Conn,
    batch: &BeginBatch,
    lease: &Lease,
    business_at_ms: i64,
) -> Result<Vec<Verdict>, StoreError> {
    match conn {
        Conn::Postgres(conn) => batch.begin(conn, lease, business_at_ms).await,
        Conn::Memory(conn) => conn.begin(batch, lease, business_at_ms).await,
    }
}

/// Records a batch: see [`RecordBatch::record`].
///
/// # Errors
/// As there.
pub async fn record(
    conn: &mut Conn,
    batch: &RecordBatch<'_>,
    lease: &Lease,
    stripe: i16,
    business_at_ms: i64,
    business_date: i32,
) -> Result<Vec<Verdict>, StoreError> {
    match conn {
        Conn::Postgres(conn) => batch.record(conn, lease, stripe, business_at_ms, business_date).await,
        Conn::Memory(conn) => conn.record(batch, lease, stripe, business_at_ms, business_date).await,
    }
}

/// The same call on both sides.
macro_rules! calls {
    ($($name:ident($($arg:ident: $kind:ty),*) -> $result:ty;)+) => {$(
        #[doc = concat!("See [`pg::", stringify!($name), "`].\n\n# Errors\nAs there.")]
        pub async fn $name(conn: &mut Conn, $($arg: $kind),*) -> Result<$result, StoreError> {
            match conn {
                Conn::Postgres(conn) => pg::$name(conn, $($arg),*).await,
                Conn::Memory(conn) => conn.$name($($arg),*).await,
            }
        }
    )+};
}

type Loaded = (Vec<Box<DueRow>>, Vec<(i64, i32, String)>);
type Chunk = (Vec<WheelEntry>, Option<i64>);

calls! {
    load(ids: &[i64]) -> Loaded;
    refill(shard: Shard, after_id: i64, horizon_ms: i64, limit: i32) -> Chunk;
    open_intents(shard: Shard, after: (i64, i32, i16), limit: i32) -> Vec<OpenIntent>;
    attempts(subscription_id: i64, period: i32) -> Vec<AttemptRow>;
    carrier_txn_id(subscription_id: i64, period: Period, attempt_no: i16) -> Option<String>;
    usage_of(subscriber_ids: &[i64]) -> Vec<((i64, i16), Usage)>;

    refill_asides(shard: Shard, after_id: i64, horizon_ms: i64, limit: i32) -> Chunk;
    due_asides(ids: &[i64], now_ms: i64) -> Vec<AsideRow>;
    load_asides(keys: &[(i64, i32)]) -> Vec<AsideRow>;
    load_aside(subscription_id: i64, period: Period) -> Option<Aside>;
    load_held(ids: &[i64]) -> HashMap<i64, Held>;
    begin_refund(lease: &Lease, business_at_ms: i64, row: &BeginRefund<'_>) -> Verdict;

    read_inbox(shards: &[i32], after: i64, limit: i32) -> Vec<InboxRow>;
    drop_inbox(shard: Shard, ids: &[i64]) -> ();
    post_evidence(subscription_id: i64, payload: &[u8]) -> ();

    due_asks(shards: &[i32], rooms: &[(i32, i32)]) -> Vec<DueAsk>;
    begin_resends(lease: &Lease, resends: &[(AttemptKey, i16)]) -> Vec<bool>;
    record_asks(lease: &Lease, asks: &[(AttemptKey, NewAsk)]) -> Vec<bool>;
    postpone_asks(lease: &Lease, asks: &[(AttemptKey, i64)]) -> ();
    review_attempts(lease: &Lease, attempts: &[(AttemptKey, i16)]) -> Vec<bool>;
    was_resent(subscription_id: i64, period: i32, attempt_no: i16, repeats: bool) -> bool;
    unknown_counts(shards: &[i32]) -> Vec<(i32, i64)>;

    open_case(subscription_id: i64, attempt: Option<(i32, i16)>, kind: &str, what: &str) -> ();
    quarantine(lease: &Lease, subscription_id: i64, rev: i32, attempt: Option<(i32, i16)>, why: &str) -> bool;
    own_open_attempts(host: &str, spool: &str, incarnation: i64, limit: i32) -> Vec<LateEvidenceKey>;

    register_worker(slot: Option<i32>, incarnation: i64, who: &WorkerIdentity) -> Lease;
    renew_lease(lease: &Lease) -> bool;
    fence_worker(lease: &Lease, renewals: Option<i64>) -> bool;
    worker_rows() -> Vec<WorkerRow>;
    owned_shards() -> (i64, i64, i64);
    claim_shards(lease: &Lease, want: i32) -> Vec<i32>;
    hand_over(lease: &Lease, shards: &[i32]) -> i32;
    set_low_water(lease: &Lease, shards: &[i32], low_water_us: Option<i64>) -> i64;

    check_guard(remembered: Option<Seen>, terms: QuarantineTerms) -> Checked;
    touch_guard() -> (i64, i64);
    held_up(who: &WorkerIdentity) -> HeldUp;
    hand_in_lines(who: &WorkerIdentity, lines: &[SentLine]) -> i64;
    hand_in_done(who: &WorkerIdentity, quarantines: &[i64], lines: i64, lost: i64) -> ();
    resume_shard(lease: &Lease, shard: i32, doubt_until_ms: Option<i64>) -> Resumed;
    lost_attempts(lease: &Lease, shard: i32, after: (i64, i32, i16), limit: i32) -> Vec<LostAttempt>;
    restore_lost(lease: &Lease, key: (i64, i32, i16), cap: Option<CapDay>) -> Verdict;
    list_doubts(lease: &Lease, chain: bool, lines: &[SentLine]) -> i64;
    end_doubt(lease: &Lease, key: (i64, i32, i16)) -> bool;

    read_clock() -> ClockRow;
    ensure_partitions(from_day: i32, to_day: i32) -> i32;
    append_minutes(incarnation: i64, rows: &[MinuteRow]) -> ();
    trim_minutes(before_ms: i64, limit: i32) -> i32;
    current_version() -> Option<(i32, Vec<u8>)>;
    book_version(version: i32) -> Option<BookVersion>;
    book_names(digest: &[u8]) -> Names;
    book_files(version: i32) -> Option<String>;
}
