//! What the carrier does besides charging: it gives back, sets aside, and answers questions.

use std::collections::HashMap;
use std::time::Duration;

use super::balances::{Balances, Line};
use super::books::{Books, Delivery, delivery_of};
use super::dialects::{Follow, Said};
use super::draw::Draw;
use super::faults::Fate;
use super::ledger::{Entry, Op, Past, Status};
use super::options::Repeat;

/// What it remembers of these requests, by key.
#[derive(Default)]
pub(super) struct Further {
    records: HashMap<Box<str>, Record>,
    /// Requests that met the key's fate so far.
    seen: HashMap<Box<str>, u32>,
    /// Given back so far, by the key of the charge or the confirm.
    refunded: HashMap<Box<str>, u64>,
    /// Reservations that were confirmed or given back.
    ended: HashMap<Box<str>, Op>,
}

#[derive(Clone)]
struct Record {
    op: Op,
    parent: Box<str>,
    line: Line,
    amount_minor: u64,
    currency: [u8; 3],
    seq: u64,
    at_us: u64,
    /// Why it was refused; empty: it was done.
    refusal: &'static str,
}

const REFUSALS: [&str; 7] = ["no_funds", "barred", "unknown", "limit", "no_parent", "too_much", "expired"];

impl Record {
    fn said(&self) -> Said {
        if !self.refusal.is_empty() {
            return Said::plain("REFUSED", self.refusal);
        }
        Said {
            state: state_of(self.op),
            reason: "",
            txn: Some(self.seq),
            amount_minor: Some(self.amount_minor),
        }
    }
}

fn state_of(op: Op) -> &'static str {
    match op {
        Op::Charge | Op::Confirm => "CHARGED",
        Op::Reserve => "RESERVED",
        Op::Cancel => "RELEASED",
        Op::Refund => "REFUNDED",
    }
}

/// What to say, what stands in the ledger, and how the answer is delivered.
struct Judged {
    said: Said,
    status: Status,
    reason: &'static str,
    delivery: Delivery,
    decided: Option<Record>,
    meets_fate: bool,
}

impl Judged {
    fn plain(state: &'static str, status: Status, reason: &'static str) -> Self {
        let said = Said::plain(state, reason);
        Self { said, status, reason, delivery: Delivery::Sent, decided: None, meets_fate: false }
    }
}

impl Books {
    /// Decides a request that follows another one, and writes its ledger line; only then does the decision count.
    ///
    /// # Errors
    /// When the ledger cannot be written: nothing was decided.
    pub(super) fn follow(
        &mut self,
        op: Op,
        follow: &Follow<'_>,
        api_key_ok: bool,
        now_us: u64,
    ) -> std::io::Result<(Said, Delivery, Duration)> {
        self.balances.open(now_us, &self.behaviour);
        let name = Draw::name(&follow.asked.key);
        let judged = self.judge_follow(op, follow, api_key_ok, name, now_us);
        let delay = self.delay(name);
        if follow.asked.key.is_empty() {
            return Ok((judged.said, judged.delivery, delay));
        }
        self.txn.clear();
        if let Some(seq) = judged.said.txn {
            self.rules.dialect.push_txn(&mut self.txn, seq);
        }
        self.ledger.append(&Entry {
            at_us: now_us,
            op,
            key: &follow.asked.key,
            msisdn: &follow.asked.msisdn,
            parent: &follow.parent,
            amount_minor: follow.asked.amount_minor,
            asked_minor: None,
            currency: &follow.asked.currency,
            status: judged.status,
            reason: judged.reason,
            txn: &self.txn,
            reply: match judged.delivery {
                Delivery::Sent => "sent",
                Delivery::Silent => "silent",
                Delivery::Reset => "reset",
                Delivery::Garbage(_) => "garbage",
            },
            text: "",
        })?;
        if judged.meets_fate {
            *self.further.seen.entry((*follow.asked.key).into()).or_default() += 1;
        }
        if let Some(record) = judged.decided {
            self.further.take(&follow.asked.key, record, &mut self.balances);
        }
        Ok((judged.said, judged.delivery, delay))
    }

    fn judge_follow(&self, op: Op, follow: &Follow<'_>, api_key_ok: bool, name: u64, now_us: u64) -> Judged {
        let asked = &follow.asked;
        if self.behaviour.down {
            return Judged::plain("BUSY", Status::NotProcessed, "down");
        }
        if !api_key_ok {
            return Judged::plain("BAD_KEY", Status::Rejected, "api_key");
        }
        let currency = <[u8; 3]>::try_from(asked.currency.as_bytes());
        let (None, Some(line), Some(amount_minor), Ok(currency)) =
            (asked.flaw, asked.line, asked.amount_minor, currency)
        else {
            return Judged::plain("INVALID", Status::Rejected, asked.flaw.unwrap_or("request"));
        };
        let seen = self.further.seen.get(&*asked.key).copied().unwrap_or(0);
        let struck = self.behaviour.fault_times == 0 || seen < self.behaviour.fault_times;
        let fate = if struck { Fate::of(self.draw, name, &self.behaviour) } else { Fate::Well };
        if let Some(first) = self.further.records.get(&*asked.key) {
            let same = (first.op, &*first.parent, first.line, first.amount_minor, first.currency)
                == (op, &*follow.parent, line, amount_minor, currency);
            if !same {
                return Judged::plain("KEY_REUSED", Status::Mismatch, "fields");
            }
            let (said, reason) = match self.rules.repeat {
                Repeat::Replay => (first.said(), first.refusal),
                Repeat::Duplicate => (Said::plain("DUPLICATE", ""), "duplicate"),
            };
            let plain = Judged::plain("", Status::Replayed, reason);
            return Judged { said, delivery: delivery_of(fate), meets_fate: true, ..plain };
        }
        if self.decided(&asked.key).is_some() {
            return Judged::plain("KEY_REUSED", Status::Mismatch, "op");
        }
        if currency != self.rules.currency.as_bytes() {
            return Judged::plain("INVALID", Status::Rejected, "currency");
        }
        let lost = |state, reason, delivery| Judged {
            delivery,
            meets_fate: true,
            ..Judged::plain(state, Status::NotProcessed, reason)
        };
        match fate {
            Fate::Throttle => return lost("THROTTLED", "throttled", Delivery::Sent),
            Fate::Busy => return lost("BUSY", "busy", Delivery::Sent),
            Fate::Silent { applied: false } => return lost("BUSY", "lost", Delivery::Silent),
            Fate::Reset { applied: false } => return lost("BUSY", "lost", Delivery::Reset),
            _ => {}
        }
        let refusal = self.against(op, follow, (line, amount_minor, currency), now_us);
        let record = Record {
            op,
            parent: (*follow.parent).into(),
            line,
            amount_minor,
            currency,
            seq: self.ledger.next_seq(),
            at_us: now_us,
            refusal,
        };
        let status = if refusal.is_empty() { Status::Applied } else { Status::Refused };
        Judged {
            said: record.said(),
            status,
            reason: refusal,
            delivery: delivery_of(fate),
            decided: Some(record),
            meets_fate: true,
        }
    }

    /// What speaks against it; empty: nothing.
    fn against(
        &self,
        op: Op,
        follow: &Follow<'_>,
        (line, amount_minor, currency): (Line, u64, [u8; 3]),
        now_us: u64,
    ) -> &'static str {
        if op == Op::Reserve {
            return self.refusal(line, amount_minor, now_us).map_or("", |refusal| refusal.name());
        }
        let parent = self.further.records.get(&*follow.parent).filter(|parent| parent.refusal.is_empty());
        let reserved = parent.filter(|parent| parent.op == Op::Reserve);
        if matches!(op, Op::Confirm | Op::Cancel) {
            let Some(reserved) = reserved.filter(|parent| (parent.line, parent.currency) == (line, currency))
            else {
                return "no_parent";
            };
            return match () {
                () if self.further.ended.contains_key(&*follow.parent) => "no_parent",
                () if now_us >= reserved.at_us + self.behaviour.reservation_ms * 1_000 => "expired",
                () if amount_minor != reserved.amount_minor => "too_much",
                () => "",
            };
        }
        let confirmed = parent.filter(|parent| parent.op == Op::Confirm);
        let charged = self.decided(&follow.parent).filter(|charge| charge.refusal.is_none());
        let taken = confirmed.map(|record| (record.line, record.currency, record.amount_minor, record.seq));
        let taken =
            taken.or(charged.map(|charge| (charge.line, charge.currency, charge.took_minor, charge.seq)));
        let Some((its_line, its_currency, took_minor, seq)) = taken else { return "no_parent" };
        let named = follow.parent_id.as_ref().is_none_or(|id| {
            let mut own = bytes::BytesMut::new();
            self.rules.dialect.push_txn(&mut own, seq);
            id.as_bytes() == &own[..]
        });
        let refunded = self.further.refunded.get(&*follow.parent).copied().unwrap_or(0);
        match () {
            () if (its_line, its_currency) != (line, currency) || !named => "no_parent",
            () if refunded.saturating_add(amount_minor) > took_minor => "too_much",
            () => "",
        }
    }

    /// What an inquiry by our key is told.
    pub(super) fn status_of(&self, key: &str, now_us: u64) -> Said {
        let of_further = self.further.records.get(key).map(|record| (record.said(), record.at_us));
        let of_charge = || {
            let charge = self.decided(key)?;
            let said = match charge.refusal {
                Some(refusal) => Said::plain("REFUSED", refusal.name()),
                None => Said {
                    state: "CHARGED",
                    reason: "",
                    txn: Some(charge.seq),
                    amount_minor: Some(charge.took_minor),
                },
            };
            Some((said, charge.at_us))
        };
        let not_found = Said::plain("NOT_FOUND", "");
        let Some((said, at_us)) = of_further.or_else(of_charge) else { return not_found };
        let age_ms = now_us.saturating_sub(at_us) / 1_000;
        match () {
            () if age_ms < self.behaviour.visible_after_ms => not_found,
            () if age_ms < self.behaviour.working_ms => Said::plain("WORKING", ""),
            () => said,
        }
    }

    /// What a line has, and whether that is enough, where the carrier says only that.
    pub(super) fn balance_of(
        &self,
        line: Line,
        asked_minor: Option<u64>,
        now_us: u64,
    ) -> (u64, Option<bool>) {
        let told = &self.behaviour.told_balances;
        let told = told.iter().find(|(digits, _)| Line::parse(digits) == Some(line)).map(|(_, minor)| *minor);
        let there = told.unwrap_or_else(|| {
            u64::try_from(self.balances.balance(line, now_us, &self.behaviour)).unwrap_or(0)
        });
        let enough = there >= asked_minor.unwrap_or(1);
        (there, self.behaviour.balance_yes_no.then_some(enough))
    }
}

impl Further {
    /// Takes up a decision, old or new.
    fn take(&mut self, key: &str, record: Record, balances: &mut Balances) {
        if record.refusal.is_empty() {
            match record.op {
                Op::Reserve => balances.spend(record.line, record.amount_minor),
                // What was set aside is spent now: nothing changes for the line.
                Op::Confirm => drop(self.ended.insert(record.parent.clone(), record.op)),
                Op::Cancel => {
                    self.ended.insert(record.parent.clone(), record.op);
                    balances.give_back(record.line, record.amount_minor);
                }
                Op::Refund => {
                    *self.refunded.entry(record.parent.clone()).or_default() += record.amount_minor;
                    balances.give_back(record.line, record.amount_minor);
                }
                Op::Charge => {}
            }
        } else if record.refusal == "expired" && !self.ended.contains_key(&record.parent) {
            // It is noticed when somebody asks: the line has its money again.
            self.ended.insert(record.parent.clone(), record.op);
            balances.give_back(record.line, record.amount_minor);
        }
        self.records.insert(key.into(), record);
    }
}

/// Takes up one line of an earlier life.
pub(super) fn restore_further(
    past: &Past<'_>,
    further: &mut Further,
    balances: &mut Balances,
) -> Result<(), String> {
    match past.status {
        Status::Mismatch | Status::Rejected => return Ok(()),
        Status::NotProcessed if past.reason == "down" => return Ok(()),
        _ => *further.seen.entry((*past.key).into()).or_default() += 1,
    }
    let refusal = match past.status {
        Status::Applied => "",
        Status::Refused => REFUSALS
            .into_iter()
            .find(|known| *known == past.reason)
            .ok_or_else(|| format!("reason {:?} is not a refusal", past.reason))?,
        _ => return Ok(()),
    };
    let record = Record {
        op: past.op,
        parent: (*past.parent).into(),
        line: Line::parse(&past.msisdn).ok_or_else(|| format!("msisdn {:?} is not a line", past.msisdn))?,
        amount_minor: past.amount.ok_or("a decided request has no amount")?,
        currency: <[u8; 3]>::try_from(past.currency.as_bytes()).map_err(|error| error.to_string())?,
        seq: past.seq,
        at_us: past.at_us,
        refusal,
    };
    further.take(&past.key, record, balances);
    Ok(())
}
