//! The link through which one worker reaches one carrier.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use billing_core::money::{Currency, MoneyError};
use billing_core::outcome::{Doubt, NotSentProof, Op, Outcome};
use carriers::{
    Adapter, Attempt, BoxFuture, Caps, Exchange, ExchangeKind, Finding, Inquired, LinkState, OutcomeSink,
    RefundCap, Reply, SendGuard,
};
use jiff::Timestamp;
use scheduler::Clock;
use tokio::sync::Semaphore;

use super::carrier::{Carrier, Script};
use super::seat::{Seat, Step};

const REPLY_TIMEOUT: Duration = Duration::from_secs(3);

/// One worker's link to one carrier.
pub(super) struct Link {
    pub(super) carrier: Arc<Carrier>,
    pub(super) seat: Arc<Seat>,
    pub(super) incarnation: i64,
    /// The life of the seat that it belongs to.
    life: u64,
    /// Otherwise nothing new leaves: every request is refused with proof.
    sends: bool,
    caps: Caps,
    /// Requests so far, and the last of them that was answered.
    sequence: [AtomicU64; 2],
}

impl Link {
    pub(super) fn new(
        carrier: Arc<Carrier>,
        seat: Arc<Seat>,
        incarnation: i64,
        sends: bool,
    ) -> Result<Self, MoneyError> {
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
            // What is refused here takes nothing of the carrier's rate.
            rate_n: if sends { carrier.rate } else { 10_000 },
            rate_per_ms: 1_000,
            in_flight_max: carrier.size.in_flight_max,
            connect_timeout_ms: 1_000,
            reply_timeout_ms: u32::try_from(REPLY_TIMEOUT.as_millis()).unwrap_or(u32::MAX),
            idle_timeout_ms: 10_000,
            final_deadline_s: 86_400,
        };
        let life = seat.lives.load(Ordering::SeqCst);
        Ok(Self { carrier, seat, incarnation, life, sends, caps, sequence: Default::default() })
    }

    /// Proof that no byte left.
    fn unsent(&self, attempt: &Attempt, proof: NotSentProof) -> Reply {
        let told = (attempt.kind == ExchangeKind::Inquiry).then_some(Inquired::NoAnswer);
        self.reply(attempt, Outcome::NotSent(proof), told, None)
    }

    fn reply(
        &self,
        attempt: &Attempt,
        outcome: Outcome,
        told: Option<Inquired>,
        sent_at: Option<Timestamp>,
    ) -> Reply {
        let moved = matches!(outcome, Outcome::Charged { .. } | Outcome::Refunded { .. });
        Reply {
            ticket: attempt.ticket,
            kind: attempt.kind,
            outcome,
            finding: told.map(Finding::Inquiry),
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
            let room = Arc::new(Semaphore::new(self.carrier.size.in_flight_max as usize));
            while let Ok(attempt) = queue.recv().await {
                let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
                let unsent = |proof| self.unsent(&attempt, proof);
                if !self.sends && attempt.kind == ExchangeKind::Send {
                    sink.deliver(unsent(NotSentProof::Connect));
                    continue;
                }
                let calm = self.seat.calm.load(std::sync::atomic::Ordering::SeqCst);
                if !calm && self.carrier.dice.permille(15) && !self.carrier.size.spares(&self.carrier.dice) {
                    self.seat.log.fault("a connection was refused", &[self.seat.no]);
                    tokio::time::sleep(self.carrier.dice.millis(1, 900)).await;
                    sink.deliver(unsent(NotSentProof::Connect));
                    continue;
                }
                if !guard.may_send(&attempt) {
                    sink.deliver(unsent(NotSentProof::Guard));
                    continue;
                }
                if self.seat.dies_at(Step::Guarded) {
                    return std::future::pending().await;
                }
                self.carrier.receive(&attempt, &self);
                let script = self.carrier.script(calm, attempt.kind, attempt.op);
                let stalls = attempt.kind != ExchangeKind::Inquiry && self.sends;
                let script = match stalls.then(|| self.seat.stalls_here()).flatten() {
                    Some(span) => {
                        let ms = i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
                        self.seat.log.fault("stopped before the first byte", &[self.seat.no, ms]);
                        self.carrier.script_of_stalled(script)
                    }
                    None => script,
                };
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
        let [sent, answered] = &self.sequence;
        let place = sent.fetch_add(1, Ordering::Relaxed);
        if script.stalled && !self.seat.goes_on(self.life).await {
            return;
        }
        tokio::time::sleep(script.out).await;
        if attempt.kind == ExchangeKind::Inquiry {
            let told = match script.answered {
                true => {
                    let told = self.carrier.told(attempt);
                    tokio::time::sleep(script.back).await;
                    told
                }
                false => {
                    tokio::time::sleep(REPLY_TIMEOUT.saturating_sub(script.out)).await;
                    Inquired::NoAnswer
                }
            };
            let outcome = match told {
                Inquired::Found(outcome) => outcome,
                _ => Outcome::Unknown(Doubt::NoReply),
            };
            self.seat.log.event("told", &[attempt.ticket as i64, i64::from(outcome.reason().0)]);
            return sink.deliver(self.reply(attempt, outcome, Some(told), sent_at));
        }
        let outcome = match script.late {
            Some(Duration::ZERO) if script.twice => {
                // The answer is the second one's.
                self.carrier.apply(attempt, script.result);
                tokio::time::sleep(script.back).await;
                Some(self.carrier.apply(attempt, script.result))
            }
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
        if answered.fetch_max(place, Ordering::Relaxed) > place {
            self.seat.log.count("an answer comes after a later one's");
        }
        if self.seat.dies_at(Step::Answered) {
            return;
        }
        self.seat.log.event("answered", &[attempt.ticket as i64, i64::from(outcome.reason().0)]);
        sink.deliver(self.reply(attempt, outcome, None, sent_at));
    }
}
