//! The calls about unknown attempts.

use billing_core::outcome::{Doubt, Outcome, Refusal};
use billing_core::resolve::{AskKind, Finding};
use jiff::Timestamp;
use storage::pg::{AttemptKey, DueAsk, NewAsk, StoreError};
use storage::store;

use super::{NOW_MS, Pair, alike, at};

/// Not looked at again within the suite.
const LATER_MS: i64 = 3_600_000;

impl Pair {
    pub(super) async fn ask(&mut self) {
        let (lease, begun) = (self.lease(), self.begun.clone());
        if begun.is_empty() {
            return;
        }
        // Mostly one that is unknown: about the others nothing is kept.
        let number = |row: &serde_json::Value, name: &str| row[name].as_i64().unwrap();
        let unknown: Vec<(i64, i32, i16)> = self.memory_dump()["attempt_open"]
            .iter()
            .filter(|row| number(row, "kind") == 2)
            .map(|row| {
                (
                    number(row, "subscription_id"),
                    number(row, "period") as i32,
                    number(row, "attempt_no") as i16,
                )
            })
            .collect();
        let (subscription_id, period, attempt_no) = match unknown.is_empty() || self.once_in(3) {
            true => self.pick(&begun[begun.len().saturating_sub(12)..]),
            false => self.pick(&unknown),
        };
        let key = AttemptKey { subscription_id, period, attempt_no };
        let done = match self.roll(8) {
            0 | 1 => {
                let asked = if self.once_in(2) { 0 } else { self.roll(3) as i16 };
                let resends = [(key, asked), (self.other(key), 0)];
                both!(self, begin_resends(&lease, &resends)).map(|done| ("resend", done[0]))
            }
            2..6 => {
                let kind = if self.once_in(2) { AskKind::Resend } else { AskKind::Inquiry };
                let (finding, outcome) = self.finding();
                let evidence = matches!(finding, Finding::Found(_)).then(|| b"found".to_vec());
                let ask = NewAsk {
                    ask_no: 1 + self.roll(3) as i16,
                    kind,
                    asked_at: at(NOW_MS),
                    finding,
                    outcome,
                    rule: finding.rule(kind).number(),
                    next_ms: if self.once_in(2) { LATER_MS } else { 0 },
                    carrier_txn_id: Some("theirs".to_owned()).filter(|_| self.once_in(3)),
                    evidence,
                };
                let other = (self.other(key), NewAsk { next_ms: LATER_MS, evidence: None, ..ask.clone() });
                let asks = [(key, ask), other];
                // Its answer may be lost, and the same call comes again.
                for _ in 0..self.roll(2) {
                    drop(both!(self, record_asks(&lease, &asks)));
                }
                both!(self, record_asks(&lease, &asks)).map(|done| ("ask", done[0]))
            }
            6 => {
                let next_ms = if self.once_in(3) { LATER_MS } else { 0 };
                both!(self, postpone_asks(&lease, &[(key, next_ms)])).map(|()| ("postponed", true))
            }
            _ => {
                let attempts = [(key, 120), (self.other(key), 121)];
                let count = 1 + self.roll(2);
                both!(self, review_attempts(&lease, &attempts[..count])).map(|done| ("review", done[0]))
            }
        };
        if let Ok((what, done)) = done {
            *self.verdicts.entry(format!("{what} {done}")).or_default() += 1;
        }
    }

    /// Another attempt, or the same: what goes together is told apart.
    fn other(&mut self, key: AttemptKey) -> AttemptKey {
        let begun = self.begun.clone();
        let (subscription_id, period, attempt_no) = self.pick(&begun[begun.len().saturating_sub(12)..]);
        match self.once_in(4) {
            true => key,
            false => AttemptKey { subscription_id, period, attempt_no },
        }
    }

    fn finding(&mut self) -> (Finding, Outcome) {
        let nothing = Outcome::Unknown(Doubt::NoReply);
        let found = |outcome| (Finding::Found(outcome), outcome);
        match self.roll(7) {
            0 => found(Outcome::Charged { amount_minor: 300 }),
            1 => found(Outcome::Declined(Refusal::NoFunds)),
            2 => (Finding::NotFound, nothing),
            3 => (Finding::StillWorking, nothing),
            4 => (Finding::Duplicate, Outcome::Duplicate),
            5 => (Finding::Contradicts, Outcome::Unknown(Doubt::Contradictory)),
            _ => (Finding::NoAnswer, nothing),
        }
    }

    /// What is due is the same; the instants are each server's own.
    pub(super) async fn look_at_unknown(&mut self) {
        let count = 1 + self.roll(4);
        let shards = self.shards[..count].to_vec();
        drop(both!(self, unknown_counts(&shards)));
        if let Some((id, period, attempt_no)) = self.begun.last().copied() {
            let repeats = self.once_in(2);
            drop(both!(self, was_resent(id, period, attempt_no, repeats)));
        }
        let rooms = [(1, 1_000), (2, 1_000)];
        let left = told(store::due_asks(&mut self.memory, &shards, &rooms).await);
        let right = told(store::due_asks(&mut self.postgres, &shards, &rooms).await);
        alike("due_asks", &left, &right);
        let seen = left.unwrap_or_default().iter().filter(|due| !due.asks.is_empty()).count();
        *self.verdicts.entry("due with asks".to_owned()).or_default() += seen;
    }
}

fn told(due: Result<Vec<DueAsk>, StoreError>) -> Result<Vec<DueAsk>, StoreError> {
    let zero = Timestamp::UNIX_EPOCH;
    let mut due = due?;
    for row in &mut due {
        (row.now, row.intent_at, row.since) = (zero, zero, zero);
        let instants = [
            &mut row.sender_fenced_at,
            &mut row.last_write_at,
            &mut row.writer_fenced_at,
            &mut row.failed_over_at,
        ];
        for instant in instants {
            *instant = instant.map(|_| zero);
        }
        row.asks.iter_mut().for_each(|ask| ask.answered_at = zero);
    }
    due.sort_by_key(|row| (row.key.subscription_id, row.key.period, row.key.attempt_no));
    Ok(due)
}
