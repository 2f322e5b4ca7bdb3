//! A scripted carrier with its own ledger, and what it can prove.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use billing_core::money::Money;
use billing_core::outcome::{Doubt, Hindrance, Op, Outcome, Refusal};
use carriers::{Attempt, ExchangeKind, Inquired, InquiryCap, InquiryKey, Msisdn, Proof, RepeatCap};
use jiff::Timestamp;
use storage::memory::MemoryDb;
use tokio::time::Instant;

use super::clock::{SCALE, START_MS};
use super::dice::Dice;
use super::link::Link;
use super::log::Log;
use super::size::Size;

/// By how much the resolution's intervals are divided in here: a business day is a minute.
pub(super) const HURRY: u32 = 10;
/// A request that is late is applied at most so long after it was written.
const LATE_MAX_MS: u64 = 40_000;
/// From when on a carrier that can be asked knows whatever was written: its slowest way, and what is late.
const SETTLE_S: u32 = 42;
/// How far apart two answers "not found" have to be.
const SPACING_S: u32 = 2;
/// For so long a carrier remembers keys.
const WINDOW_S: u32 = 120;
/// One answer about a key may come out of a copy that knows nothing yet: one of the first so many.
const STALE_ASKS: u64 = 5;

/// What a carrier does with a key that it has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manners {
    /// Gives the first result again.
    Repeats,
    /// Says "seen before".
    Refuses,
    /// Does it again.
    Forgets,
}

/// What a carrier can prove about requests whose answer was lost. What it cannot, people settle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ways {
    /// It remembers keys for a while: the same request may come again.
    pub(super) repeat: bool,
    /// It can be asked.
    pub(super) inquiry: bool,
}

impl Ways {
    /// As its file would declare it.
    pub(super) fn declared(self, size: Size) -> Proof {
        Proof {
            repeat: self.repeat.then(|| RepeatCap {
                key: "key".into(),
                window_s: WINDOW_S * HURRY,
                margin_s: size.margin_s * HURRY,
            }),
            inquiry: self.inquiry.then_some(InquiryCap {
                by: InquiryKey::OurRef,
                settle_s: SETTLE_S * HURRY,
                agree: 2,
                spacing_s: SPACING_S * HURRY,
            }),
            ..Proof::default()
        }
    }
}

/// A row of the carrier's own ledger.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) op: Op,
    pub(super) our_ref: String,
    pub(super) parent_ref: Option<String>,
    pub(super) subscription_id: i64,
    pub(super) period: i32,
    pub(super) attempt_no: i16,
    pub(super) amount_minor: i64,
}

/// A request as the carrier got it.
#[derive(Debug, Clone)]
pub(super) struct Received {
    pub(super) at_us: i64,
    pub(super) kind: ExchangeKind,
    pub(super) op: Op,
    pub(super) subscription_id: i64,
    /// Business time as the sender told it, now and before its clock jumped, milliseconds.
    pub(super) business_ms: [i64; 2],
}

/// A carrier.
pub(super) struct Carrier {
    pub(super) no: i32,
    pub(super) manners: Manners,
    pub(super) ways: Ways,
    /// Requests per second.
    pub(super) rate: u32,
    pub(super) size: Size,
    start: Instant,
    log: Arc<Log>,
    db: MemoryDb,
    /// Until then every answer is lost (microseconds since the start).
    silent_until_us: AtomicI64,
    pub(super) dice: Dice,
    books: Mutex<Books>,
}

#[derive(Default)]
struct Books {
    ledger: Vec<Row>,
    received: Vec<Received>,
    /// What became of each key, and when it was first heard of.
    results: BTreeMap<String, (i64, Outcome)>,
    /// Each key's first request.
    bodies: BTreeMap<String, Body>,
    /// How often each key was asked about, and which of these answers is stale.
    asked: BTreeMap<String, (u64, u64)>,
}

/// What a request says besides its key: all of it is the same when it is sent again.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Body {
    op: Op,
    msisdn: Msisdn,
    amount: Money,
    text: Arc<str>,
    intent_at: Timestamp,
    parent: [Option<String>; 2],
}

impl Body {
    fn of(attempt: &Attempt) -> Self {
        Self {
            op: attempt.op,
            msisdn: attempt.msisdn,
            amount: attempt.amount,
            text: Arc::clone(&attempt.text),
            intent_at: attempt.intent_at,
            parent: [
                attempt.parent_ref.map(|parent| parent.to_string()),
                attempt.parent_txn_id.as_deref().map(str::to_owned),
            ],
        }
    }
}

/// What becomes of one request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Script {
    pub(super) out: Duration,
    pub(super) back: Duration,
    /// The request comes so much later than it should; `None`: never.
    pub(super) late: Option<Duration>,
    pub(super) answered: bool,
    /// It arrives twice.
    pub(super) twice: bool,
    /// Its process is stopped before the first byte: it leaves when that goes on.
    pub(super) stalled: bool,
    pub(super) result: Does,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Does {
    Collects,
    Says(Outcome),
    /// Says so without having looked for the key.
    Refuses(Outcome),
    /// Accepted; what follows is done later, and nobody is told.
    Accepts {
        collects: bool,
    },
}

impl Carrier {
    #[allow(clippy::too_many_arguments)] // The parts of a world, each once.
    pub(super) fn new(
        no: i32,
        manners: Manners,
        ways: Ways,
        rate: u32,
        size: Size,
        start: Instant,
        dice: Dice,
        log: Arc<Log>,
        db: MemoryDb,
    ) -> Self {
        let silent_until_us = AtomicI64::new(0);
        Self { no, manners, ways, rate, size, start, log, db, silent_until_us, dice, books: Mutex::default() }
    }

    /// Every answer of the next while is lost.
    pub(super) fn fall_silent(&self, span: Duration) {
        let until_us = self.now_us() + i64::try_from(span.as_micros()).unwrap_or(0);
        self.silent_until_us.store(until_us, Ordering::SeqCst);
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn ledger(&self) -> Vec<Row> {
        self.books().ledger.clone()
    }

    /// Any of its rows.
    pub(super) fn some_row(&self, dice: &Dice) -> Option<Row> {
        let books = self.books();
        books.ledger.get(dice.below(books.ledger.len() as u64) as usize).cloned()
    }

    pub(super) fn received(&self) -> Vec<Received> {
        self.books().received.clone()
    }

    fn now_us(&self) -> i64 {
        i64::try_from(self.start.elapsed().as_micros()).unwrap_or(i64::MAX)
    }

    pub(super) fn script(&self, calm: bool, kind: ExchangeKind, op: Op) -> Script {
        let dice = &self.dice;
        let slow = if dice.permille(100) { 1_500 } else { 60 };
        let plain = Script {
            out: dice.millis(1, slow),
            back: dice.millis(1, slow),
            late: Some(Duration::ZERO),
            answered: true,
            twice: false,
            stalled: false,
            result: Does::Collects,
        };
        let fault = |what: &'static str| self.log.fault(what, &[i64::from(self.no)]);
        let chance = dice.below(1_000);
        if calm {
            return plain;
        }
        if self.now_us() < self.silent_until_us.load(Ordering::SeqCst) {
            fault("a carrier is silent");
            let late = plain.late.filter(|_| chance.is_multiple_of(2));
            return Script { late, answered: false, ..plain };
        }
        let is_fault = matches!(chance, 0..110 | 220..260);
        if is_fault && self.size.spares(dice) {
            return plain;
        }
        if kind == ExchangeKind::Resend && chance >= 850 {
            fault("what was sent again is not processed");
            let (why, after_ms) = (Hindrance::Busy, None);
            return Script {
                result: Does::Refuses(Outcome::Temporary { why, listed: true, after_ms }),
                ..plain
            };
        }
        match chance {
            0..30 => {
                fault("a request is lost");
                Script { late: None, answered: false, ..plain }
            }
            30..80 => {
                fault("an answer is lost");
                Script { answered: false, ..plain }
            }
            80..110 => {
                fault("a request is applied late");
                // Some take as long as is possible at all.
                let least_ms = if chance.is_multiple_of(2) { 4_000 } else { LATE_MAX_MS - 1_000 };
                Script { late: Some(dice.millis(least_ms, LATE_MAX_MS)), answered: false, ..plain }
            }
            110..200 if op != Op::Refund => {
                Script { result: Does::Says(Outcome::Declined(Refusal::NoFunds)), ..plain }
            }
            200..220 => {
                let why = Hindrance::Busy;
                let after_ms = None;
                Script { result: Does::Says(Outcome::Temporary { why, listed: true, after_ms }), ..plain }
            }
            220..230 => {
                fault("an answer cannot be read");
                Script { result: Does::Says(Outcome::Unknown(Doubt::Unreadable)), ..plain }
            }
            230..240 if op == Op::Charge => {
                fault("accepted, and never answered");
                Script { result: Does::Accepts { collects: dice.permille(500) }, ..plain }
            }
            // Nobody can help a carrier that forgets keys.
            240..260 if self.manners != Manners::Forgets => {
                fault("a request arrives twice");
                Script { twice: true, ..plain }
            }
            _ => plain,
        }
    }

    /// What becomes of a request whose process is stopped with it: it takes as long as is possible at all, and its answer is
    /// lost.
    pub(super) fn script_of_stalled(&self, script: Script) -> Script {
        let late = self.dice.millis(LATE_MAX_MS - 1_000, LATE_MAX_MS);
        Script { late: Some(late), answered: false, twice: false, stalled: true, ..script }
    }

    /// The first byte of a request arrives: whatever becomes of it, its intent must be durable by now.
    pub(super) fn receive(&self, attempt: &Attempt, link: &Link) {
        let seat = &link.seat;
        let charge = attempt.id.charge;
        let (id, period, no) = (charge.subscription.0, charge.period.number(), attempt.id.attempt_no);
        let kind = attempt.kind;
        self.log.event(kind.name(), &[i64::from(self.no), id, i64::from(period), i64::from(no)]);
        // After a failover intents and workers may be gone that were durable.
        let lost = self.db.failovers() > 0;
        if !lost && self.db.is_fenced(link.incarnation) {
            self.log.broken(format!("{} by a fenced worker: {id} {period} {no}", kind.name()));
        } else if !lost && !self.db.is_owner(link.incarnation, id) {
            self.log.broken(format!(
                "{} by a worker that does not own the shard: {id} {period} {no}",
                kind.name()
            ));
        }
        if kind == ExchangeKind::Resend && !self.ways.repeat {
            self.log.broken(format!("sent again to a carrier that forgets: {id} {period} {no}"));
        }
        match self.db.intent(id, period, no) {
            None if lost => {}
            None => self.log.broken(format!("request without an intent: {id} {period} {no}")),
            Some(kept) if kept != (attempt.amount.minor, attempt.op as i16) => {
                self.log.broken(format!("request that differs from its intent: {id} {period} {no}"));
            }
            Some(_) => {}
        }
        // An intent that a failover destroyed says nothing about what is open now.
        let known = self.db.intent(id, period, no).is_some();
        if attempt.op == Op::Refund && known && self.db.has_other_open(id, period, no) {
            self.log.broken(format!("refund beside an open attempt: {id} {period} {no}"));
        }
        let business_ms = START_MS + self.now_us() / 1_000 * i64::from(SCALE);
        let skews = [seat.clock.business_skew_ms(), seat.clock.former_business_skew_ms()];
        let received = Received {
            at_us: self.now_us(),
            kind,
            op: attempt.op,
            subscription_id: id,
            business_ms: skews.map(|skew_ms| business_ms + skew_ms),
        };
        let mut books = self.books();
        books.received.push(received);
        if kind != ExchangeKind::Inquiry {
            let body = Body::of(attempt);
            let first = books.bodies.entry(attempt.our_ref.to_string()).or_insert_with(|| body.clone());
            if self.db.failovers() == 0 && *first != body {
                self.log
                    .broken(format!("another body under one key: {id} {period} {no}: {first:?} {body:?}"));
            }
        }
    }

    /// What it says about a request that it knows, or does not know, or not yet.
    pub(super) fn told(&self, attempt: &Attempt) -> Inquired {
        let our_ref = attempt.our_ref.to_string();
        let mut books = self.books();
        let stale = match books.asked.get_mut(&our_ref) {
            Some((asked, stale)) => {
                *asked += 1;
                *asked == *stale
            }
            None => {
                let stale = 1 + self.dice.below(2 * STALE_ASKS);
                books.asked.insert(our_ref.clone(), (1, stale));
                stale == 1
            }
        };
        let Some((_, result)) = books.results.get(&our_ref).copied() else { return Inquired::NotFound };
        if stale {
            self.log.fault("an answer out of a stale copy", &[i64::from(self.no)]);
            return Inquired::NotFound;
        }
        let amount_minor = attempt.amount.minor;
        Inquired::Found(match result {
            Outcome::Pending if books.ledger.iter().any(|row| row.our_ref == our_ref) => {
                Outcome::Charged { amount_minor }
            }
            Outcome::Pending => Outcome::Declined(Refusal::NoFunds),
            known => known,
        })
    }

    /// Does what a request asks for, or not.
    pub(super) fn apply(&self, attempt: &Attempt, result: Does) -> Outcome {
        let our_ref = attempt.our_ref.to_string();
        if let Does::Refuses(outcome) = result {
            return outcome;
        }
        let now_us = self.now_us();
        let mut books = self.books();
        let first = books.results.get(&our_ref).copied();
        // After its window a carrier that repeats knows nothing of the key any more. Its books still do.
        let remembers =
            |first_us: i64| !self.ways.repeat || now_us - first_us < i64::from(WINDOW_S) * 1_000_000;
        if let Some((_, first)) = first.filter(|(first_us, _)| remembers(*first_us)) {
            match self.manners {
                Manners::Repeats => return first,
                Manners::Refuses => return Outcome::Duplicate,
                Manners::Forgets => {}
            }
        }
        let moves = matches!(result, Does::Collects | Does::Accepts { collects: true });
        let amount_minor = attempt.amount.minor;
        let outcome = match result {
            Does::Says(outcome) | Does::Refuses(outcome) => outcome,
            Does::Accepts { .. } => Outcome::Pending,
            Does::Collects if attempt.op == Op::Refund => Outcome::Refunded { amount_minor },
            Does::Collects => Outcome::Charged { amount_minor },
        };
        // What is not processed is not kept, so that the same key may come again.
        if !matches!(outcome, Outcome::Temporary { .. } | Outcome::Unknown(_)) {
            books.results.insert(our_ref.clone(), (now_us, outcome));
        }
        if moves {
            let charge = attempt.id.charge;
            books.ledger.push(Row {
                op: attempt.op,
                our_ref,
                parent_ref: attempt.parent_ref.map(|parent| parent.to_string()),
                subscription_id: charge.subscription.0,
                period: charge.period.number(),
                attempt_no: attempt.id.attempt_no,
                amount_minor,
            });
            drop(books);
            let numbers = [charge.subscription.0, i64::from(charge.period.number()), amount_minor];
            self.log.event("applied", &numbers);
        }
        outcome
    }
}
