//! The carrier's mind: what it remembers of each key, and the one place where a charge is decided.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::BytesMut;
use serde::Serialize;

use super::balances::{Balances, Line};
use super::behaviour::{Behaviour, BehaviourError, Scripted};
use super::dialects::{Answer, Asked, Dialect, Refusal};
use super::draw::{Draw, Purpose};
use super::faults::{Fate, GarbageKind};
use super::further::{Further, restore_further};
use super::ledger::{Entry, Ledger, LedgerError, Op, Past, Status};
use super::options::Repeat;
use super::reconciliation;
use super::shards::Shards;

/// Everything the carrier knows. One owner, one thread.
pub(super) struct Books {
    pub(super) rules: Rules,
    pub(super) behaviour: Behaviour,
    pub(super) draw: Draw,
    keys: Shards<Box<str>, KeyRecord>,
    pub(super) balances: Balances,
    pub(super) ledger: Ledger,
    pub(super) stats: Stats,
    pub(super) txn: BytesMut,
    pub(super) further: Further,
    /// How many words of its script each line has had, in this life.
    scripted: HashMap<Line, usize>,
    path: PathBuf,
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
    /// What the message says that follows an answer "accepted".
    pub(super) message: Option<Answer>,
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
    /// Less than the amount only where the carrier took what was there.
    took_minor: u64,
    currency: [u8; 3],
    outcome: Outcome,
    seq: u64,
    at_us: u64,
}

/// A decided charge, as the other requests see it.
pub(super) struct Decided {
    pub(super) line: Line,
    pub(super) took_minor: u64,
    pub(super) currency: [u8; 3],
    pub(super) seq: u64,
    pub(super) at_us: u64,
    pub(super) refusal: Option<Refusal>,
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
    took_minor: Option<u64>,
    message: Option<Answer>,
    /// It is a word of the line's script.
    scripted: bool,
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
        let mut further = Further::default();
        let ledger = Ledger::open(path, |past| {
            balances.open(past.at_us, &behaviour);
            match past.op {
                Op::Charge => restore(past, &mut keys, &mut balances, &mut stats),
                _ => restore_further(past, &mut further, &mut balances),
            }
        })?;
        Ok(Self {
            rules,
            behaviour,
            draw,
            keys,
            balances,
            ledger,
            stats,
            txn: BytesMut::new(),
            further,
            scripted: HashMap::new(),
            path: path.to_owned(),
        })
    }

    pub(super) fn behaviour(&self) -> &Behaviour {
        &self.behaviour
    }

    /// The one currency.
    pub(super) fn currency(&self) -> &str {
        &self.rules.currency
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

    /// Writes a reconciliation file.
    pub(super) fn reconcile(
        &self,
        wanted: &reconciliation::Wanted,
        now_us: u64,
    ) -> std::io::Result<reconciliation::Totals> {
        reconciliation::write(&self.path, &self.rules.currency, wanted, now_us)
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
        let took = judgement.took_minor.or(asked.amount_minor);
        self.ledger.append(&Entry {
            at_us: now_us,
            op: Op::Charge,
            key: &asked.key,
            msisdn: &asked.msisdn,
            parent: "",
            amount_minor: took,
            asked_minor: asked.amount_minor.filter(|asked| took.is_some_and(|took| took < *asked)),
            currency: &asked.currency,
            status: judgement.status,
            reason: judgement.reason,
            txn: &self.txn,
            reply: reply_word(&judgement, took),
            text: &asked.text,
        })?;
        self.stats.count(judgement.status, judgement.reason, took.unwrap_or(0));
        if judgement.meets_fate {
            if let (Status::Applied, Some(decision)) = (judgement.status, judgement.decided) {
                self.balances.spend(decision.line, decision.took_minor);
            }
            remember(&mut self.keys, &asked.key, judgement.decided);
        }
        if judgement.scripted
            && let Some(line) = asked.line
        {
            *self.scripted.entry(line).or_default() += 1;
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
        let script = self.behaviour.scripts.get(&*asked.msisdn);
        let heard = self.scripted.get(&line).copied().unwrap_or(0);
        let said = script.and_then(|words| words.get(heard)).copied();
        let fate = if said.is_some() { Fate::Well } else { fate };
        if said == Some(Scripted::Temporary) {
            return Judgement { scripted: true, ..lost(Answer::Busy, "busy", Delivery::Sent) };
        }
        if said == Some(Scripted::Lost) {
            return Judgement { scripted: true, ..lost(Answer::Busy, "lost", Delivery::Reset) };
        }
        match fate {
            Fate::Throttle => return lost(Answer::Throttled, "throttled", Delivery::Sent),
            Fate::Busy => return lost(Answer::Busy, "busy", Delivery::Sent),
            Fate::Silent { applied: false } => return lost(Answer::Busy, "lost", Delivery::Silent),
            Fate::Reset { applied: false } => return lost(Answer::Busy, "lost", Delivery::Reset),
            _ => {}
        }
        let mut refusal = self.refusal(line, amount_minor, now_us);
        let mut took_minor = amount_minor;
        if let (Some(Refusal::NoFunds), Some(least)) = (refusal, self.behaviour.partial_min_minor) {
            let there = u64::try_from(self.balances.balance(line, now_us, &self.behaviour)).unwrap_or(0);
            if there >= least.max(1) {
                (refusal, took_minor) = (None, there);
            }
        }
        match said {
            None | Some(Scripted::Temporary | Scripted::Lost) => {}
            Some(Scripted::NoFunds) => refusal = Some(Refusal::NoFunds),
            Some(Scripted::Barred) => refusal = Some(Refusal::Barred),
            Some(Scripted::UnknownSubscriber) => refusal = Some(Refusal::Unknown),
            Some(Scripted::Limit) => refusal = Some(Refusal::Limit),
            Some(Scripted::Charged | Scripted::Unknown | Scripted::Accepted) => {
                (refusal, took_minor) = (None, amount_minor);
            }
            Some(Scripted::Partial(part)) => (refusal, took_minor) = (None, part.min(amount_minor)),
        }
        let outcome = match (refusal, fate) {
            (Some(refusal), _) => Outcome::Refused(refusal),
            (None, Fate::WrongAmount) => Outcome::ChargedSayingOther,
            (None, _) => Outcome::Charged,
        };
        let seq = self.ledger.next_seq();
        let decision = Decision { line, amount_minor, took_minor, currency, outcome, seq, at_us: now_us };
        let status = if refusal.is_some() { Status::Refused } else { Status::Applied };
        let drawn = self.behaviour.pending_ppm > self.draw.ppm(Purpose::Pending, name) && fate == Fate::Well;
        let silent = said == Some(Scripted::Accepted);
        let pending = drawn || silent;
        let answer = decision.answer();
        Judgement {
            answer: if pending { Answer::Pending { txn: seq } } else { answer },
            message: (pending && !silent).then_some(answer),
            took_minor: Some(took_minor),
            status,
            reason: refusal.map_or("", Refusal::name),
            txn: decision.txn(),
            delivery: if said == Some(Scripted::Unknown) { Delivery::Reset } else { delivery_of(fate) },
            meets_fate: true,
            scripted: said.is_some(),
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
            took_minor: Some(first.took_minor),
            delivery: delivery_of(fate),
            meets_fate: true,
            ..Judgement::plain(answer, Status::Replayed, reason)
        }
    }

    /// What became of a charge.
    pub(super) fn decided(&self, key: &str) -> Option<Decided> {
        let Decision { line, took_minor, currency, seq, at_us, outcome, .. } = self.keys.get(key)?.decision?;
        let refusal = match outcome {
            Outcome::Refused(refusal) => Some(refusal),
            Outcome::Charged | Outcome::ChargedSayingOther => None,
        };
        Some(Decided { line, took_minor, currency, seq, at_us, refusal })
    }

    pub(super) fn refusal(&self, line: Line, amount_minor: u64, now_us: u64) -> Option<Refusal> {
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
        let delay = self.delay(name);
        Verdict { answer: judgement.answer, delivery: judgement.delivery, delay, message: judgement.message }
    }

    /// How long the answer to this key waits.
    pub(super) fn delay(&self, name: u64) -> Duration {
        let Behaviour { latency_ms, latency_jitter_ms, .. } = self.behaviour;
        let jitter_ms = match latency_jitter_ms {
            0 => 0,
            most => self.draw.roll(Purpose::Jitter, name) % (most + 1),
        };
        Duration::from_millis(latency_ms + jitter_ms)
    }
}

impl Judgement {
    fn plain(answer: Answer, status: Status, reason: &'static str) -> Self {
        Self {
            answer,
            status,
            reason,
            txn: None,
            delivery: Delivery::Sent,
            meets_fate: false,
            decided: None,
            took_minor: None,
            message: None,
            scripted: false,
        }
    }
}

impl Decision {
    fn answer(&self) -> Answer {
        match self.outcome {
            Outcome::Charged => Answer::Charged { txn: self.seq, said_minor: self.took_minor },
            Outcome::ChargedSayingOther => Answer::Charged { txn: self.seq, said_minor: self.took_minor + 1 },
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

pub(super) fn delivery_of(fate: Fate) -> Delivery {
    match fate {
        Fate::Silent { .. } => Delivery::Silent,
        Fate::Reset { .. } => Delivery::Reset,
        Fate::Garbage(kind) => Delivery::Garbage(kind),
        // Throttle and busy strike only what is not decided yet; a wrong amount is part of the answer.
        Fate::Well | Fate::Throttle | Fate::Busy | Fate::WrongAmount => Delivery::Sent,
    }
}

fn reply_word(judgement: &Judgement, took_minor: Option<u64>) -> &'static str {
    match (judgement.delivery, judgement.answer) {
        (Delivery::Silent, _) => "silent",
        (Delivery::Reset, _) => "reset",
        (Delivery::Garbage(_), _) => "garbage",
        (Delivery::Sent, Answer::Charged { said_minor, .. }) if Some(said_minor) != took_minor => {
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
    stats.count(past.status, &past.reason, past.amount.unwrap_or(0));
    let decided = match past.status {
        Status::Applied | Status::Refused => Some(decision_of(past)?),
        Status::Replayed => None,
        Status::NotProcessed if past.reason != "down" => None,
        Status::NotProcessed | Status::Mismatch | Status::Rejected => return Ok(()),
    };
    if let (Some(decision), Status::Applied) = (decided, past.status) {
        balances.spend(decision.line, decision.took_minor);
    }
    remember(keys, &past.key, decided);
    Ok(())
}

fn decision_of(past: &Past<'_>) -> Result<Decision, String> {
    let line = Line::parse(&past.msisdn).ok_or_else(|| format!("msisdn {:?} is not a line", past.msisdn))?;
    let took_minor = past.amount.ok_or("a decided charge has no amount")?;
    let amount_minor = past.asked.unwrap_or(took_minor);
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
    Ok(Decision { line, amount_minor, took_minor, currency, outcome, seq: past.seq, at_us: past.at_us })
}

#[cfg(test)]
#[path = "books_tests.rs"]
mod tests;
