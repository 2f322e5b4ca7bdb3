//! The database in memory: what the simulation runs the engine on. The same verdicts, rows and errors as Postgres, proven by
//! one conformance suite (`tests/tests/store.rs`), and statements that the simulation may delay, lose or cut short.
//!
//! A statement is one atomic step, as a single autocommit statement is under the locks of `storage/db/procedures`: between
//! its arrival and its commit others may run, and what it checks is true when it commits.

mod begin;
mod dump;
mod failover;
mod inbox;
mod losses;
mod lost;
mod read;
mod record;
mod refund;
mod resolution;
mod rows;
mod state;
mod usage;
mod workers;

use std::fmt;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::pg::{ClockRow, Names, StoreError};
use state::State;

pub use dump::{Dump, Watched};
pub use losses::Destroyed;

/// What becomes of one statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fate {
    /// From the client to the server, and until it runs.
    pub before: Duration,
    /// From its commit to the client.
    pub after: Duration,
    /// How it ends for the client.
    pub end: End,
}

/// How a statement ends for its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// With its answer.
    Answered,
    /// The connection broke before the server got it.
    NotReached,
    /// It was committed, and the connection broke before its answer came.
    AnswerLost,
    /// The client is dead by then; the server may have got it, or not.
    Silent {
        /// Whether it was committed.
        committed: bool,
    },
}

impl Fate {
    /// Answered at once.
    pub const PLAIN: Self = Self { before: Duration::ZERO, after: Duration::ZERO, end: End::Answered };
}

/// Decides what becomes of each statement of one client.
pub trait Faults: Send + Sync + fmt::Debug {
    /// The fate of the statement that is sent now.
    fn fate(&self, statement: &'static str) -> Fate;
}

/// Everything works at once.
#[derive(Debug, Clone, Copy)]
pub struct NoFaults;

impl Faults for NoFaults {
    fn fate(&self, _: &'static str) -> Fate {
        Fate::PLAIN
    }
}

/// Tells the server's clock, microseconds since 1970.
pub type ServerClock = dyn Fn() -> i64 + Send + Sync;

struct Server {
    state: Mutex<State>,
    now_us: Box<ServerClock>,
    /// Rises with each failover: connections end with theirs.
    timeline: AtomicI32,
    losses: Mutex<losses::Losses>,
}

/// A database in memory, as one client sees it.
#[derive(Clone)]
pub struct MemoryDb {
    server: Arc<Server>,
    faults: Arc<dyn Faults>,
}

impl fmt::Debug for MemoryDb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryDb").field("faults", &self.faults).finish_non_exhaustive()
    }
}

/// Everything that was committed until some instant.
#[derive(Clone)]
pub struct Snapshot {
    state: State,
    /// Of which it is.
    timeline: i32,
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot").finish_non_exhaustive()
    }
}

impl MemoryDb {
    /// An empty database for a book: its names, the digest of its only version, a business clock.
    #[must_use]
    pub fn new(names: Names, digest: Vec<u8>, clock: ClockRow, now_us: Box<ServerClock>) -> Self {
        let state = State::new(names, digest, clock, now_us());
        Self {
            server: Arc::new(Server {
                state: Mutex::new(state),
                now_us,
                timeline: AtomicI32::new(1),
                losses: Mutex::default(),
            }),
            faults: Arc::new(NoFaults),
        }
    }

    /// The same database as a client sees it to whom all this happens.
    #[must_use]
    pub fn seen_by(&self, faults: Arc<dyn Faults>) -> Self {
        Self { server: Arc::clone(&self.server), faults }
    }

    /// How often it failed over.
    #[must_use]
    pub fn failovers(&self) -> i32 {
        self.timeline() - 1
    }

    /// Attempts whose intents a failover lost and that wait until the one before them is settled: subscription, period, number.
    #[must_use]
    pub fn waiting_lost(&self) -> Vec<(i64, i32, i16)> {
        self.state().guarded.waiting()
    }

    /// Open attempts of which nobody knows whether they were ever sent, because a spool is missing: subscription, period, number.
    #[must_use]
    pub fn assumed(&self) -> Vec<(i64, i32, i16)> {
        let state = self.state();
        state.opens.keys().filter(|key| state.guarded.is_assumed(key)).copied().collect()
    }

    /// Attempts whose intents a failover lost or may have lost, and that were made again: subscription, period, number.
    #[must_use]
    pub fn restored(&self) -> Vec<(i64, i32, i16)> {
        self.state().guarded.restored.iter().copied().collect()
    }

    /// Makes `database_guard` say another timeline than the server is on, as a promoted standby's row does.
    pub fn set_guard_timeline(&self, timeline: i32) {
        self.state().guarded.set_timeline(timeline);
    }

    fn timeline(&self) -> i32 {
        self.server.timeline.load(Ordering::SeqCst)
    }

    fn begin_timeline(&self) {
        self.server.timeline.fetch_add(1, Ordering::SeqCst);
    }

    fn losses(&self) -> MutexGuard<'_, losses::Losses> {
        self.server.losses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The amount and operation of an intent that is committed now.
    #[must_use]
    pub fn intent(&self, subscription_id: i64, period: i32, attempt_no: i16) -> Option<(i64, i16)> {
        let state = self.state();
        let intent = state.intents.get(&(subscription_id, period, attempt_no))?;
        Some((intent.amount_minor, intent.op))
    }

    /// Subscriptions that fire between two business instants (milliseconds).
    #[must_use]
    pub fn fires_between(&self, from_ms: i64, to_ms: i64) -> Vec<i64> {
        let state = self.state();
        let due = |sub: &&rows::Subscription| sub.next_at_ms.is_some_and(|at| (from_ms..to_ms).contains(&at));
        state.subscriptions.values().filter(due).map(|sub| sub.id).collect()
    }

    /// Whether an incarnation was fenced.
    #[must_use]
    pub fn is_fenced(&self, incarnation: i64) -> bool {
        self.state().incarnations.get(&incarnation).is_none_or(|row| row.fenced)
    }

    /// Attempts that are on their way, accepted or unknown: neither final nor in review.
    #[must_use]
    pub fn undecided(&self) -> usize {
        let state = self.state();
        state.bare.len() + state.opens.values().filter(|open| open.kind < 3).count()
    }

    /// Whether the shard of a subscription belongs to the slot of an incarnation.
    #[must_use]
    pub fn is_owner(&self, incarnation: i64, subscription_id: i64) -> bool {
        let state = self.state();
        let slot = state.incarnations.get(&incarnation).map(|row| row.slot);
        slot.is_some_and(|slot| state.owns(slot, subscription_id))
    }

    /// Whether an attempt of a charge, other than this one, has neither an outcome nor proof that there is none.
    #[must_use]
    pub fn has_other_open(&self, subscription_id: i64, period: i32, attempt_no: i16) -> bool {
        let state = self.state();
        let mut others =
            state.attempts_of(subscription_id, period).filter(|intent| intent.attempt_no != attempt_no);
        others.any(|intent| !state.outcomes.contains_key(&(subscription_id, period, intent.attempt_no)))
    }

    /// Opens a connection.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when the faults say so.
    pub async fn connect(&self) -> Result<MemoryConn, StoreError> {
        let mut conn = MemoryConn { db: self.clone(), timeline: self.timeline() };
        conn.call("connect", |_, _| Ok(())).await?;
        Ok(conn)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A statement that panics leaves what it did until then; the simulation ends with the panic.
        self.server.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now_us(&self) -> i64 {
        (self.server.now_us)()
    }
}

/// One connection.
#[derive(Debug)]
pub struct MemoryConn {
    db: MemoryDb,
    timeline: i32,
}

/// What the server knows when a statement arrives.
#[derive(Debug, Clone, Copy)]
struct Arrival {
    /// The statement's `now()`.
    now_us: i64,
    /// When it commits.
    commit_us: i64,
}

impl MemoryConn {
    /// Runs a statement as the server does: it commits even when its client has gone meanwhile.
    async fn call<T: Send + 'static>(
        &mut self,
        statement: &'static str,
        work: impl FnOnce(&mut State, Arrival) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let fate = self.db.faults.fate(statement);
        match fate.end {
            End::NotReached => {
                tokio::time::sleep(fate.before).await;
                return Err(broken());
            }
            End::Silent { committed: false } => return std::future::pending().await,
            _ => {}
        }
        let answer = if fate.before.is_zero() && fate.after.is_zero() {
            let now_us = self.db.now_us();
            let arrival = Arrival { now_us, commit_us: now_us };
            let mut state = self.db.state();
            if self.timeline != self.db.timeline() {
                return Err(broken());
            }
            work(&mut state, arrival)
        } else {
            let (tell, told) = oneshot::channel();
            let (db, timeline) = (self.db.clone(), self.timeline);
            tokio::spawn(async move {
                let now_us = db.now_us();
                tokio::time::sleep(fate.before).await;
                let answer = {
                    let mut state = db.state();
                    match timeline == db.timeline() {
                        true => work(&mut state, Arrival { now_us, commit_us: db.now_us() }),
                        false => Err(broken()),
                    }
                };
                tokio::time::sleep(fate.after).await;
                let _ = tell.send(answer);
            });
            told.await.map_err(|_| broken())?
        };
        match fate.end {
            End::AnswerLost => Err(broken()),
            End::Silent { .. } => std::future::pending().await,
            _ => answer,
        }
    }
}

fn broken() -> StoreError {
    StoreError::Unavailable(sqlx::Error::Protocol("the simulated connection broke".to_owned()))
}

/// As a constraint refuses a whole statement.
fn refused(what: &str) -> StoreError {
    StoreError::Refused(sqlx::Error::Protocol(what.to_owned()))
}
