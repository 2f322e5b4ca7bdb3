//! A scripted carrier with its own ledger, and the link through which one worker reaches it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use billing_core::money::{Currency, MoneyError};
use billing_core::outcome::{Doubt, Hindrance, NotSentProof, Op, Outcome, Refusal};
use carriers::{
    Adapter, Attempt, BoxFuture, Caps, Exchange, ExchangeKind, LinkState, OutcomeSink, RefundCap, Reply,
    SendGuard,
};
use jiff::Timestamp;
use scheduler::Clock;
use storage::memory::MemoryDb;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::clock::{SCALE, START_MS};
use super::dice::Dice;
use super::log::Log;
use super::seat::{Seat, Step};

const REPLY_TIMEOUT: Duration = Duration::from_secs(3);
const IN_FLIGHT_MAX: u32 = 16;

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
    pub(super) op: Op,
    pub(super) subscription_id: i64,
    /// Business time as the sender told it, now and before its clock jumped, milliseconds.
    pub(super) business_ms: [i64; 2],
}

/// A carrier.
pub(super) struct Carrier {
    pub(super) no: i32,
    pub(super) manners: Manners,
    /// Requests per second.
    pub(super) rate: u32,
    start: Instant,
    dice: Dice,
    log: Arc<Log>,
    db: MemoryDb,
    books: Mutex<Books>,
}

#[derive(Default)]
struct Books {
    ledger: Vec<Row>,
    received: Vec<Received>,
    results: BTreeMap<String, Outcome>,
}

/// What becomes of one request.
#[derive(Debug, Clone, Copy)]
struct Script {
    out: Duration,
    back: Duration,
    /// The request comes so much later than it should; `None`: never.
    late: Option<Duration>,
    answered: bool,
    result: Does,
}

#[derive(Debug, Clone, Copy)]
enum Does {
    Collects,
    Says(Outcome),
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
        rate: u32,
        start: Instant,
        dice: Dice,
        log: Arc<Log>,
        db: MemoryDb,
    ) -> Self {
        Self { no, manners, rate, start, dice, log, db, books: Mutex::default() }
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn ledger(&self) -> Vec<Row> {
        self.books().ledger.clone()
    }

    pub(super) fn received(&self) -> Vec<Received> {
        self.books().received.clone()
    }

    fn now_us(&self) -> i64 {
        i64::try_from(self.start.elapsed().as_micros()).unwrap_or(i64::MAX)
    }

    fn script(&self, calm: bool, op: Op) -> Script {
        let dice = &self.dice;
        let slow = if dice.permille(100) { 1_500 } else { 60 };
        let plain = Script {
            out: dice.millis(1, slow),
            back: dice.millis(1, slow),
            late: Some(Duration::ZERO),
            answered: true,
            result: Does::Collects,
        };
        let fault = |what: &'static str| self.log.fault(what, &[i64::from(self.no)]);
        let chance = dice.below(1_000);
        if calm {
            return plain;
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
                Script { late: Some(dice.millis(4_000, 40_000)), answered: false, ..plain }
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
            _ => plain,
        }
    }

    /// The first byte of a request arrives: whatever becomes of it, its intent must be durable by now.
    fn receive(&self, attempt: &Attempt, link: &Link) {
        let seat = &link.seat;
        let charge = attempt.id.charge;
        let (id, period, no) = (charge.subscription.0, charge.period.number(), attempt.id.attempt_no);
        self.log.event("received", &[i64::from(self.no), id, i64::from(period), i64::from(no)]);
        // After a failover intents and workers may be gone that were durable.
        let lost = self.db.failovers() > 0;
        if !lost && self.db.is_fenced(link.incarnation) {
            self.log.broken(format!("sent by a fenced worker: {id} {period} {no}"));
        }
        match self.db.intent(id, period, no) {
            None if lost => {}
            None => self.log.broken(format!("request without an intent: {id} {period} {no}")),
            Some(kept) if kept != (attempt.amount.minor, attempt.op as i16) => {
                self.log.broken(format!("request that differs from its intent: {id} {period} {no}"));
            }
            Some(_) => {}
        }
        if attempt.op == Op::Refund && self.db.has_other_open(id, period, no) {
            self.log.broken(format!("refund beside an open attempt: {id} {period} {no}"));
        }
        let business_ms = START_MS + self.now_us() / 1_000 * i64::from(SCALE);
        let skews = [seat.clock.business_skew_ms(), seat.clock.former_business_skew_ms()];
        let received = Received {
            at_us: self.now_us(),
            op: attempt.op,
            subscription_id: id,
            business_ms: skews.map(|skew_ms| business_ms + skew_ms),
        };
        self.books().received.push(received);
    }

    /// Does what a request asks for, or not.
    fn apply(&self, attempt: &Attempt, result: Does) -> Outcome {
        let our_ref = attempt.our_ref.to_string();
        let mut books = self.books();
        if let Some(first) = books.results.get(&our_ref).copied() {
            match self.manners {
                Manners::Repeats => return first,
                Manners::Refuses => return Outcome::Duplicate,
                Manners::Forgets => {}
            }
        }
        let moves = matches!(result, Does::Collects | Does::Accepts { collects: true });
        let amount_minor = attempt.amount.minor;
        let outcome = match result {
            Does::Says(outcome) => outcome,
            Does::Accepts { .. } => Outcome::Pending,
            Does::Collects if attempt.op == Op::Refund => Outcome::Refunded { amount_minor },
            Does::Collects => Outcome::Charged { amount_minor },
        };
        // What is not processed is not kept, so that the same key may come again.
        if !matches!(outcome, Outcome::Temporary { .. } | Outcome::Unknown(_)) {
            books.results.insert(our_ref.clone(), outcome);
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

/// One worker's link to one carrier.
pub(super) struct Link {
    pub(super) carrier: Arc<Carrier>,
    pub(super) seat: Arc<Seat>,
    incarnation: i64,
    caps: Caps,
}

impl Link {
    pub(super) fn new(carrier: Arc<Carrier>, seat: Arc<Seat>, incarnation: i64) -> Result<Self, MoneyError> {
        let caps = Caps {
            ops: vec![Op::Charge, Op::Refund],
            currency: Currency::from_code("TND")?,
            min_minor: 1,
            max_minor: 1_000_000,
            partial: false,
            refund: Some(RefundCap::Partial),
            reservation: None,
            balance: None,
            exchange: Exchange::Reply,
            rate_n: carrier.rate,
            rate_per_ms: 1_000,
            in_flight_max: IN_FLIGHT_MAX,
            connect_timeout_ms: 1_000,
            reply_timeout_ms: u32::try_from(REPLY_TIMEOUT.as_millis()).unwrap_or(u32::MAX),
            idle_timeout_ms: 10_000,
            final_deadline_s: 86_400,
        };
        Ok(Self { carrier, seat, incarnation, caps })
    }

    fn reply(&self, attempt: &Attempt, outcome: Outcome, sent_at: Option<Timestamp>) -> Reply {
        let moved = matches!(outcome, Outcome::Charged { .. } | Outcome::Refunded { .. });
        Reply {
            ticket: attempt.ticket,
            kind: ExchangeKind::Send,
            outcome,
            finding: None,
            carrier_code: None,
            carrier_txn_id: moved.then(|| format!("t{}", attempt.our_ref).into_boxed_str()),
            wrote: sent_at.is_some(),
            request: Vec::new(),
            response: Vec::new(),
            sent_at,
            answered_at: self.seat.clock.wall(),
            latency_us: 0,
            alert: None,
        }
    }
}

impl Adapter for Link {
    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn run(
        self: Arc<Self>,
        queue: async_channel::Receiver<Attempt>,
        guard: Arc<dyn SendGuard>,
        sink: Arc<dyn OutcomeSink>,
    ) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let room = Arc::new(Semaphore::new(IN_FLIGHT_MAX as usize));
            while let Ok(attempt) = queue.recv().await {
                let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
                let calm = self.seat.calm.load(std::sync::atomic::Ordering::SeqCst);
                if !calm && self.carrier.dice.permille(15) {
                    self.seat.log.fault("a connection was refused", &[self.seat.no]);
                    tokio::time::sleep(self.carrier.dice.millis(1, 900)).await;
                    sink.deliver(self.reply(&attempt, Outcome::NotSent(NotSentProof::Connect), None));
                    continue;
                }
                if !guard.may_send(&attempt) {
                    sink.deliver(self.reply(&attempt, Outcome::NotSent(NotSentProof::Guard), None));
                    continue;
                }
                if self.seat.dies_at(Step::Guarded) {
                    return std::future::pending().await;
                }
                self.carrier.receive(&attempt, &self);
                let script = self.carrier.script(calm, attempt.op);
                let (link, sink) = (Arc::clone(&self), Arc::clone(&sink));
                // On the wire: what the sender's death does not stop.
                tokio::spawn(async move {
                    link.exchange(&attempt, script, &*sink).await;
                    drop(place);
                });
                if self.seat.dies_at(Step::Written) {
                    return std::future::pending().await;
                }
            }
        })
    }

    fn limit_in_flight(&self, _: u32) {}

    fn link_state(&self) -> LinkState {
        LinkState::default()
    }
}

impl Link {
    async fn exchange(&self, attempt: &Attempt, script: Script, sink: &dyn OutcomeSink) {
        let sent_at = Some(self.seat.clock.wall());
        tokio::time::sleep(script.out).await;
        let outcome = match script.late {
            Some(Duration::ZERO) => Some(self.carrier.apply(attempt, script.result)),
            Some(late) => {
                let (carrier, attempt) = (Arc::clone(&self.carrier), attempt.clone());
                tokio::spawn(async move {
                    tokio::time::sleep(late).await;
                    carrier.apply(&attempt, script.result);
                });
                None
            }
            None => None,
        };
        let outcome = match outcome.filter(|_| script.answered) {
            Some(outcome) => {
                tokio::time::sleep(script.back).await;
                outcome
            }
            None => {
                tokio::time::sleep(REPLY_TIMEOUT.saturating_sub(script.out)).await;
                Outcome::Unknown(Doubt::NoReply)
            }
        };
        self.seat.log.event("answered", &[attempt.ticket as i64, i64::from(outcome.reason().0)]);
        sink.deliver(self.reply(attempt, outcome, sent_at));
    }
}
