//! The carrier's mind: what it remembers of each key, and the one place where a charge is decided.

use std::path::Path;
use std::time::Duration;

use bytes::BytesMut;
use serde::Serialize;

use super::balances::{Balances, Line};
use super::behaviour::{Behaviour, BehaviourError};
use super::dialects::{Answer, Asked, Dialect, Refusal};
use super::draw::{Draw, Purpose};
use super::faults::{Fate, GarbageKind};
use super::ledger::{Entry, Ledger, LedgerError, Op, Past, Status};
use super::options::Repeat;
use super::shards::Shards;

/// Everything the carrier knows. One owner, one thread.
pub(super) struct Books {
    rules: Rules,
    behaviour: Behaviour,
    draw: Draw,
    keys: Shards<Box<str>, KeyRecord>,
    balances: Balances,
    ledger: Ledger,
    stats: Stats,
    txn: BytesMut,
}

/// What does not change while the process lives.
pub(super) struct Rules {
    pub(super) dialect: Dialect,
    pub(super) currency: String,
    pub(super) repeat: Repeat,
    pub(super) seed: u64,
}

/// What to tell the caller, how, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) answer: Answer,
    pub(super) delivery: Delivery,
    pub(super) delay: Duration,
}

/// How the answer reaches the caller, if at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Delivery {
    Sent,
    Silent,
    Reset,
    Garbage(GarbageKind),
}

/// Counts over the whole ledger, earlier lives included.
#[derive(Debug, Default, Clone, Serialize)]
pub(super) struct Stats {
    /// Requests to the charge path; the unreadable ones only of this life.
    pub(super) requests: u64,
    pub(super) applied: u64,
    pub(super) applied_minor: u64,
    pub(super) refused: Refused,
    pub(super) replayed: u64,
    pub(super) mismatch: u64,
    pub(super) not_processed: u64,
    pub(super) rejected: u64,
    /// Requests without a readable key; they have no ledger line.
    pub(super) unreadable: u64,
}

#[derive(Debug, Default, Clone, Serialize)]
pub(super) struct Refused {
    pub(super) no_funds: u64,
    pub(super) barred: u64,
    pub(super) unknown: u64,
    pub(super) limit: u64,
}

struct KeyRecord {
    /// Requests that met the key's fate so far.
    seen: u32,
    decision: Option<Decision>,
}

/// The first answer under a key, and what it was an answer to.
#[derive(Clone, Copy)]
struct Decision {
    line: Line,
    amount_minor: u64,
    currency: [u8; 3],
    outcome: Outcome,
    seq: u64,
}

#[derive(Clone, Copy)]
enum Outcome {
    Charged,
    ChargedSayingOther,
    Refused(Refusal),
}

/// The decision about one request, before it is written down.
struct Judgement {
    answer: Answer,
    status: Status,
    reason: &'static str,
    /// The charge that the answer is about.
    txn: Option<u64>,
    delivery: Delivery,
    /// The request counts against `fault_times`.
    meets_fate: bool,
    decided: Option<Decision>,
}

impl Books {
    /// Opens the ledger and takes up what it says.
    ///
    /// # Errors
    /// When the ledger cannot be read or contradicts itself.
    pub(super) fn open(path: &Path, rules: Rules, behaviour: Behaviour) -> Result<Self, LedgerError> {
        let draw = Draw::new(rules.seed);
        let mut keys = Shards::new();
        let mut balances = Balances::new(draw);
        let mut stats = Stats::default();
        let ledger = Ledger::open(path, |past| {
            balances.open(past.at_us, &behaviour);
            restore(past, &mut keys, &mut balances, &mut stats)
        })?;
        Ok(Self { rules, behaviour, draw, keys, balances, ledger, stats, txn: BytesMut::new() })
    }

    pub(super) fn behaviour(&self) -> &Behaviour {
        &self.behaviour
    }

    pub(super) fn stats(&self) -> &Stats {
        &self.stats
    }

    /// From now on the carrier behaves like this.
    pub(super) fn behave(&mut self, behaviour: Behaviour, now_us: u64) -> Result<(), BehaviourError> {
        self.balances
            .change_topups(now_us, &behaviour)
            .map_err(|_| BehaviourError::Value("the top-up rule changed too often".to_owned()))?;
        self.behaviour = behaviour;
        Ok(())
    }

    /// Puts the ledger on the disk.
    pub(super) fn sync(&self) -> std::io::Result<()> {
        self.ledger.sync()
    }

    /// Decides one request and writes its ledger line; only then does the decision count.
    ///
    /// # Errors
    /// When the ledger cannot be written: nothing was decided.
    pub(super) fn charge(
        &mut self,
        asked: &Asked<'_>,
        api_key_ok: bool,
        now_us: u64,
    ) -> std::io::Result<Verdict> {
        self.balances.open(now_us, &self.behaviour);
        let name = Draw::name(&asked.key);
        let judgement = self.judge(asked, api_key_ok, name, now_us);
        if asked.key.is_empty() {
            self.stats.requests += 1;
            self.stats.unreadable += 1;
            return Ok(self.verdict(&judgement, name));
        }
        self.txn.clear();
        if let Some(seq) = judgement.txn {
            self.rules.dialect.push_txn(&mut self.txn, seq);
        }
        self.ledger.append(&Entry {
            at_us: now_us,
            key: &asked.key,
            msisdn: &asked.msisdn,
            amount_minor: asked.amount_minor,
            currency: &asked.currency,
            status: judgement.status,
            reason: judgement.reason,
            txn: &self.txn,
            reply: reply_word(&judgement, asked.amount_minor),
            text: &asked.text,
        })?;
        self.stats.count(judgement.status, judgement.reason, asked.amount_minor.unwrap_or(0));
        if judgement.meets_fate {
            if let (Answer::Charged { .. }, Some(decision)) = (judgement.answer, judgement.decided) {
                self.balances.spend(decision.line, decision.amount_minor);
            }
            remember(&mut self.keys, &asked.key, judgement.decided);
        }
        Ok(self.verdict(&judgement, name))
    }

    fn judge(&self, asked: &Asked<'_>, api_key_ok: bool, name: u64, now_us: u64) -> Judgement {
        if self.behaviour.down {
            return Judgement::plain(Answer::Busy, Status::NotProcessed, "down");
        }
        if !api_key_ok {
            return Judgement::plain(Answer::BadApiKey, Status::Rejected, "api_key");
        }
        let (flaw, line, amount_minor, currency) =
            (asked.flaw, asked.line, asked.amount_minor, <[u8; 3]>::try_from(asked.currency.as_bytes()));
        let (None, Some(line), Some(amount_minor), Ok(currency)) = (flaw, line, amount_minor, currency)
        else {
            let flaw = flaw.unwrap_or("request");
            return Judgement::plain(Answer::BadRequest(flaw), Status::Rejected, flaw);
        };
        let record = self.keys.get(&*asked.key);
        let seen = record.map_or(0, |record| record.seen);
        let struck = self.behaviour.fault_times == 0 || seen < self.behaviour.fault_times;
        let fate = if struck { Fate::of(self.draw, name, &self.behaviour) } else { Fate::Well };
        if let Some(decision) = record.and_then(|record| record.decision) {
            return self.repeat(&decision, line, amount_minor, currency, fate);
        }
        if currency != self.rules.currency.as_bytes() {
            return Judgement::plain(Answer::BadRequest("currency"), Status::Rejected, "currency");
        }
        let lost = |answer, reason, delivery| Judgement {
            delivery,
            meets_fate: true,
            ..Judgement::plain(answer, Status::NotProcessed, reason)
        };
        match fate {
            Fate::Throttle => return lost(Answer::Throttled, "throttled", Delivery::Sent),
            Fate::Busy => return lost(Answer::Busy, "busy", Delivery::Sent),
            Fate::Silent { applied: false } => return lost(Answer::Busy, "lost", Delivery::Silent),
            Fate::Reset { applied: false } => return lost(Answer::Busy, "lost", Delivery::Reset),
            _ => {}
        }
        let refusal = self.refusal(line, amount_minor, now_us);
        let outcome = match (refusal, fate) {
            (Some(refusal), _) => Outcome::Refused(refusal),
            (None, Fate::WrongAmount) => Outcome::ChargedSayingOther,
            (None, _) => Outcome::Charged,
        };
        let decision = Decision { line, amount_minor, currency, outcome, seq: self.ledger.next_seq() };
        let status = if refusal.is_some() { Status::Refused } else { Status::Applied };
        Judgement {
            answer: decision.answer(),
            status,
            reason: refusal.map_or("", Refusal::name),
            txn: decision.txn(),
            delivery: delivery_of(fate),
            meets_fate: true,
            decided: Some(decision),
        }
    }

    /// A key that was decided before.
    fn repeat(
        &self,
        first: &Decision,
        line: Line,
        amount_minor: u64,
        currency: [u8; 3],
        fate: Fate,
    ) -> Judgement {
        let differs = match () {
            () if line != first.line => Some("line"),
            () if amount_minor != first.amount_minor => Some("amount"),
            () if currency != first.currency => Some("currency"),
            () => None,
        };
        if let Some(differs) = differs {
            let plain = Judgement::plain(Answer::KeyReused, Status::Mismatch, differs);
            return Judgement { txn: first.txn(), ..plain };
        }
        let (answer, reason) = match self.rules.repeat {
            Repeat::Replay => (first.answer(), first.reason()),
            Repeat::Duplicate => (Answer::Duplicate, "duplicate"),
        };
        Judgement {
            txn: first.txn(),
            delivery: delivery_of(fate),
            meets_fate: true,
            ..Judgement::plain(answer, Status::Replayed, reason)
        }
    }

    fn refusal(&self, line: Line, amount_minor: u64, now_us: u64) -> Option<Refusal> {
        let unknown = self.behaviour.unknown_ppm;
        if unknown > 0 && self.draw.ppm(Purpose::Unknown, line.name()) < unknown {
            return Some(Refusal::Unknown);
        }
        let barred = self.behaviour.barred_ppm;
        if barred > 0 && self.draw.ppm(Purpose::Barred, line.name()) < barred {
            return Some(Refusal::Barred);
        }
        if self.behaviour.max_amount_minor.is_some_and(|max| amount_minor > max) {
            return Some(Refusal::Limit);
        }
        let balance = self.balances.balance(line, now_us, &self.behaviour);
        (balance < i128::from(amount_minor)).then_some(Refusal::NoFunds)
    }

    fn verdict(&self, judgement: &Judgement, name: u64) -> Verdict {
        let Behaviour { latency_ms, latency_jitter_ms, .. } = self.behaviour;
        let jitter_ms = match latency_jitter_ms {
            0 => 0,
            most => self.draw.roll(Purpose::Jitter, name) % (most + 1),
        };
        let delay = Duration::from_millis(latency_ms + jitter_ms);
        Verdict { answer: judgement.answer, delivery: judgement.delivery, delay }
    }
}

impl Judgement {
    fn plain(answer: Answer, status: Status, reason: &'static str) -> Self {
        Self { answer, status, reason, txn: None, delivery: Delivery::Sent, meets_fate: false, decided: None }
    }
}

impl Decision {
    fn answer(&self) -> Answer {
        match self.outcome {
            Outcome::Charged => Answer::Charged { txn: self.seq, said_minor: self.amount_minor },
            Outcome::ChargedSayingOther => {
                Answer::Charged { txn: self.seq, said_minor: self.amount_minor + 1 }
            }
            Outcome::Refused(refusal) => Answer::Refused(refusal),
        }
    }

    fn txn(&self) -> Option<u64> {
        (!matches!(self.outcome, Outcome::Refused(_))).then_some(self.seq)
    }

    fn reason(&self) -> &'static str {
        match self.outcome {
            Outcome::Refused(refusal) => refusal.name(),
            Outcome::Charged | Outcome::ChargedSayingOther => "",
        }
    }
}

impl Stats {
    fn count(&mut self, status: Status, reason: &str, amount_minor: u64) {
        self.requests += 1;
        match status {
            Status::Applied => {
                self.applied += 1;
                self.applied_minor = self.applied_minor.saturating_add(amount_minor);
            }
            Status::Refused => match Refusal::ALL.into_iter().find(|refusal| refusal.name() == reason) {
                Some(Refusal::NoFunds) => self.refused.no_funds += 1,
                Some(Refusal::Barred) => self.refused.barred += 1,
                Some(Refusal::Unknown) => self.refused.unknown += 1,
                Some(Refusal::Limit) => self.refused.limit += 1,
                None => {}
            },
            Status::Replayed => self.replayed += 1,
            Status::Mismatch => self.mismatch += 1,
            Status::NotProcessed => self.not_processed += 1,
            Status::Rejected => self.rejected += 1,
        }
    }
}

fn delivery_of(fate: Fate) -> Delivery {
    match fate {
        Fate::Silent { .. } => Delivery::Silent,
        Fate::Reset { .. } => Delivery::Reset,
        Fate::Garbage(kind) => Delivery::Garbage(kind),
        // Throttle and busy strike only what is not decided yet; a wrong amount is part of the answer.
        Fate::Well | Fate::Throttle | Fate::Busy | Fate::WrongAmount => Delivery::Sent,
    }
}

fn reply_word(judgement: &Judgement, asked_minor: Option<u64>) -> &'static str {
    match (judgement.delivery, judgement.answer) {
        (Delivery::Silent, _) => "silent",
        (Delivery::Reset, _) => "reset",
        (Delivery::Garbage(_), _) => "garbage",
        (Delivery::Sent, Answer::Charged { said_minor, .. }) if Some(said_minor) != asked_minor => {
            "wrong_amount"
        }
        (Delivery::Sent, _) => "sent",
    }
}

fn remember(keys: &mut Shards<Box<str>, KeyRecord>, key: &str, decided: Option<Decision>) {
    match keys.get_mut(key) {
        Some(record) => {
            record.seen = record.seen.saturating_add(1);
            record.decision = record.decision.or(decided);
        }
        None => keys.insert(key.into(), KeyRecord { seen: 1, decision: decided }),
    }
}

/// Takes up one line of an earlier life.
fn restore(
    past: &Past<'_>,
    keys: &mut Shards<Box<str>, KeyRecord>,
    balances: &mut Balances,
    stats: &mut Stats,
) -> Result<(), String> {
    let Op::Charge = past.op;
    stats.count(past.status, &past.reason, past.amount.unwrap_or(0));
    let decided = match past.status {
        Status::Applied | Status::Refused => Some(decision_of(past)?),
        Status::Replayed => None,
        Status::NotProcessed if past.reason != "down" => None,
        Status::NotProcessed | Status::Mismatch | Status::Rejected => return Ok(()),
    };
    if let (Some(decision), Status::Applied) = (decided, past.status) {
        balances.spend(decision.line, decision.amount_minor);
    }
    remember(keys, &past.key, decided);
    Ok(())
}

fn decision_of(past: &Past<'_>) -> Result<Decision, String> {
    let line = Line::parse(&past.msisdn).ok_or_else(|| format!("msisdn {:?} is not a line", past.msisdn))?;
    let amount_minor = past.amount.ok_or("a decided charge has no amount")?;
    let currency = <[u8; 3]>::try_from(past.currency.as_bytes()).map_err(|error| error.to_string())?;
    let outcome = match past.status {
        Status::Refused => Refusal::ALL
            .into_iter()
            .find(|refusal| refusal.name() == past.reason)
            .map(Outcome::Refused)
            .ok_or_else(|| format!("reason {:?} is not a refusal", past.reason))?,
        _ if past.reply == "wrong_amount" => Outcome::ChargedSayingOther,
        _ => Outcome::Charged,
    };
    Ok(Decision { line, amount_minor, currency, outcome, seq: past.seq })
}

#[cfg(test)]
#[path = "books_tests.rs"]
mod tests;
