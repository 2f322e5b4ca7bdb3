//! A seat: one place where a worker lives, dies and is started again; and everything that may go wrong around it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use scheduler::Hold;
use storage::history::{Digest, HistoryFuture, HistoryKey, HistoryStore, MemoryHistory, Room, SealedRow};
use storage::memory::{End, Fate, Faults};
use tokio::sync::Notify;

use super::clock::SimClock;
use super::dice::Dice;
use super::log::Log;

/// A step of a charge at which a process can die.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    BeforeBegin,
    AfterBegin,
    Guarded,
    Written,
    BeforeHistory,
    AfterHistory,
    BeforeRecord,
    AfterRecord,
    Answered,
    AnyStatement,
    AnyCommit,
}

impl Step {
    pub(super) const ALL: [Self; 11] = [
        Self::BeforeBegin,
        Self::AfterBegin,
        Self::Guarded,
        Self::Written,
        Self::BeforeHistory,
        Self::AfterHistory,
        Self::BeforeRecord,
        Self::AfterRecord,
        Self::Answered,
        Self::AnyStatement,
        Self::AnyCommit,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::BeforeBegin => "killed before the intent",
            Self::AfterBegin => "killed after the intent",
            Self::Guarded => "killed after the guard",
            Self::Written => "killed after the first byte",
            Self::BeforeHistory => "killed before the history",
            Self::AfterHistory => "killed after the history",
            Self::BeforeRecord => "killed before the record",
            Self::AfterRecord => "killed after the record",
            Self::Answered => "killed with the answer in hand",
            Self::AnyStatement => "killed before a statement",
            Self::AnyCommit => "killed after a statement",
        }
    }
}

/// How often a stopped request looks whether its process goes on.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// How much goes wrong, in thousandths.
#[derive(Debug, Clone, Copy)]
pub(super) struct Weather {
    pub(super) not_reached: u64,
    pub(super) answer_lost: u64,
    pub(super) slow: u64,
}

/// One place for a worker.
#[derive(Debug)]
pub(super) struct Seat {
    pub(super) no: i64,
    pub(super) log: Arc<Log>,
    pub(super) clock: Arc<SimClock>,
    pub(super) weather: Weather,
    pub(super) dice: Dice,
    /// Nothing goes wrong any more.
    pub(super) calm: Arc<AtomicBool>,
    /// The database cannot be reached from here.
    pub(super) cut_off: AtomicBool,
    /// Its lease is not renewed: everything else that it says gets through.
    pub(super) unrenewed: AtomicBool,
    pub(super) killed: Notify,
    dead: AtomicBool,
    hold: Mutex<Option<Arc<Hold>>>,
    /// At which step, after how many more passages.
    fuse: Mutex<Option<(Step, u64)>>,
    pub(super) lives: AtomicU64,
    /// The next request is stopped between the last look at the lease and its first byte, for so many milliseconds.
    stall_ms: AtomicU64,
}

impl Seat {
    pub(super) fn new(
        no: i64,
        log: Arc<Log>,
        clock: Arc<SimClock>,
        weather: Weather,
        dice: Dice,
        calm: Arc<AtomicBool>,
    ) -> Self {
        Self {
            no,
            log,
            clock,
            weather,
            dice,
            calm,
            cut_off: AtomicBool::new(false),
            unrenewed: AtomicBool::new(false),
            killed: Notify::new(),
            dead: AtomicBool::new(false),
            hold: Mutex::default(),
            fuse: Mutex::default(),
            lives: AtomicU64::new(0),
            stall_ms: AtomicU64::new(0),
        }
    }

    /// A process starts here.
    pub(super) fn born(&self) -> Arc<Hold> {
        let hold = Arc::new(Hold::default());
        *self.hold.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&hold));
        self.dead.store(false, Ordering::SeqCst);
        self.clock.forget();
        self.lives.fetch_add(1, Ordering::SeqCst);
        hold
    }

    /// The process ends without a word: nothing of it runs any more from this instant on.
    pub(super) fn die(&self) {
        if self.dead.swap(true, Ordering::SeqCst) {
            return;
        }
        self.stop();
        self.killed.notify_one();
    }

    pub(super) fn stop(&self) {
        if let Some(hold) = &*self.hold.lock().unwrap_or_else(PoisonError::into_inner) {
            hold.stop();
        }
    }

    pub(super) fn go_on(&self) {
        let hold = self.hold.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(hold) = hold.filter(|_| !self.dead.load(Ordering::SeqCst)) {
            hold.go_on();
        }
    }

    /// The next request that is about to leave is stopped there, and its whole process with it.
    pub(super) fn stall(&self, span: Duration) {
        self.stall_ms.store(u64::try_from(span.as_millis()).unwrap_or(0), Ordering::SeqCst);
    }

    /// Stops the process where it is, if that was planned: for how long.
    pub(super) fn stalls_here(self: &Arc<Self>) -> Option<Duration> {
        let span = Duration::from_millis(self.stall_ms.swap(0, Ordering::SeqCst));
        if span.is_zero() || self.calm.load(Ordering::SeqCst) || self.is_dead() {
            return None;
        }
        self.stop();
        let seat = Arc::clone(self);
        tokio::spawn(async move {
            tokio::time::sleep(span).await;
            seat.go_on();
        });
        Some(span)
    }

    /// Until the process of this life goes on; `false`: it never did.
    pub(super) async fn goes_on(&self, life: u64) -> bool {
        loop {
            let alive = !self.is_dead() && self.lives.load(Ordering::SeqCst) == life;
            if !alive || !self.is_stopped() {
                return alive;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    fn is_stopped(&self) -> bool {
        let hold = self.hold.lock().unwrap_or_else(PoisonError::into_inner);
        hold.as_ref().is_some_and(|hold| hold.is_stopped())
    }

    pub(super) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::SeqCst)
    }

    /// The process that passes this step for the n-th time from now on dies there.
    pub(super) fn light(&self, step: Step, passages: u64) {
        *self.fuse.lock().unwrap_or_else(PoisonError::into_inner) = Some((step, passages));
    }

    /// Whether the process dies at this step.
    pub(super) fn dies_at(&self, step: Step) -> bool {
        let burnt = {
            let mut fuse = self.fuse.lock().unwrap_or_else(PoisonError::into_inner);
            match &mut *fuse {
                Some((at, left)) if *at == step && *left > 0 => {
                    *left -= 1;
                    false
                }
                Some((at, _)) if *at == step => fuse.take().is_some(),
                _ => false,
            }
        };
        if burnt && !self.calm.load(Ordering::SeqCst) {
            self.log.fault_of(step.name(), "killed at a step", &[self.no, step as i64]);
            self.die();
            return true;
        }
        self.is_dead()
    }

    fn latency(&self) -> (Duration, Duration) {
        let slow = !self.calm.load(Ordering::SeqCst) && self.dice.permille(self.weather.slow);
        if slow {
            self.log.fault("a statement is slow", &[self.no]);
        }
        let max = if slow { 3_000 } else { 3 };
        (self.dice.millis(0, max), self.dice.millis(0, max))
    }
}

/// In the log a statement is named with 1 when it did not reach the server, with 2 when its answer was lost.
impl Faults for Seat {
    fn fate(&self, statement: &'static str) -> Fate {
        let (before, after) = self.latency();
        let fate = |end| Fate { before, after, end };
        let (at_first, at_last) = match statement {
            "begin_attempts" | "begin_refund" => (Step::BeforeBegin, Step::AfterBegin),
            "record_outcomes" => (Step::BeforeRecord, Step::AfterRecord),
            _ => (Step::AnyStatement, Step::AnyCommit),
        };
        if self.dies_at(at_first) {
            return fate(End::Silent { committed: false });
        }
        if self.dies_at(at_last) {
            return fate(End::Silent { committed: true });
        }
        if self.calm.load(Ordering::SeqCst) {
            return fate(End::Answered);
        }
        let unrenewed = statement == "renew_lease" && self.unrenewed.load(Ordering::SeqCst);
        if unrenewed || self.cut_off.load(Ordering::SeqCst) || self.dice.permille(self.weather.not_reached) {
            self.log.fault_of("a statement is lost", statement, &[self.no, 1]);
            return fate(End::NotReached);
        }
        if self.dice.permille(self.weather.answer_lost) {
            self.log.fault_of("the answer of a statement is lost", statement, &[self.no, 2]);
            return fate(End::AnswerLost);
        }
        fate(End::Answered)
    }
}

/// The history of one seat, as its process reaches it.
#[derive(Debug)]
pub(super) struct SeatHistory {
    pub(super) kept: Arc<MemoryHistory>,
    pub(super) seat: Arc<Seat>,
}

impl HistoryStore for SeatHistory {
    fn append(&self, rows: Vec<SealedRow>) -> HistoryFuture<'_, ()> {
        Box::pin(async move {
            if self.seat.dies_at(Step::BeforeHistory) {
                return std::future::pending().await;
            }
            tokio::time::sleep(self.seat.dice.millis(0, 4)).await;
            self.kept.append(rows).await?;
            if self.seat.dies_at(Step::AfterHistory) {
                return std::future::pending().await;
            }
            Ok(())
        })
    }

    fn timeline(
        &self,
        subscription_id: i64,
        month_from: i32,
        month_to: i32,
        max_rows: usize,
    ) -> HistoryFuture<'_, Vec<SealedRow>> {
        self.kept.timeline(subscription_id, month_from, month_to, max_rows)
    }

    fn get(&self, key: HistoryKey) -> HistoryFuture<'_, Option<SealedRow>> {
        self.kept.get(key)
    }

    fn count(&self) -> HistoryFuture<'_, u64> {
        self.kept.count()
    }

    fn put_dictionary(&self, digest: Digest, bytes: Vec<u8>) -> HistoryFuture<'_, ()> {
        self.kept.put_dictionary(digest, bytes)
    }

    fn dictionary(&self, digest: Digest) -> HistoryFuture<'_, Option<Vec<u8>>> {
        self.kept.dictionary(digest)
    }

    fn room(&self) -> Room {
        self.kept.room()
    }
}
