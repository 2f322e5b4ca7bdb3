//! Answers to questions and repeats: into the history, then what they prove into the database, together with the evidence
//! where it settles. What came meanwhile is kept together: one sync of the history and one commit for all of it.

use billing_core::outcome::{Doubt, Outcome};
use billing_core::reason::Rule;
use billing_core::resolve::{Ask, AskKind, Finding, Heard, Step, Told, read_finding};
use carriers::{Inquired, Reply};
use jiff::{SignedDuration, Timestamp};
use storage::fail_point::{Point, reached};
use storage::history::{HistoryError, SealedRow};
use storage::mutants::{Mutant, on};
use storage::pg::{AttemptKey, NewAsk, StoreError};
use storage::store::{open_case, record_asks};
use storage::story::StoryOutcome;

use super::request::{self, Asking};
use super::{Resolver, SETTLED_AGAIN_MS};
use crate::link::RETRY_PAUSE;
use crate::takeover::Evidence;

/// An answer, what it proves, and what is to be kept of it.
struct Answer {
    asking: Asking,
    reply: Reply,
    finding: Finding,
    new: NewAsk,
    settled_by: Option<Rule>,
}

impl Resolver {
    /// Keeps what came, and lets the subscriptions go.
    pub(super) async fn answered(&mut self, replies: Vec<Reply>) -> Result<(), StoreError> {
        let mut answers = Vec::with_capacity(replies.len());
        for reply in replies {
            let id = reply.ticket as i64;
            let carrier_no = (id >> 44) as i32;
            self.guard.end(reply.ticket);
            if let Some(lane) = self.lanes.get_mut(&carrier_no) {
                lane.answered();
            }
            let Some(asking) = self.state.asking.remove(&id) else { continue };
            answers.push(self.read(asking, reply));
        }
        self.keep(&answers).await;
        let kept = self.record(&answers).await;
        answers.iter().for_each(|answer| self.let_go(answer.asking.due.key.subscription_id));
        kept
    }

    fn read(&self, asking: Asking, reply: Reply) -> Answer {
        let due = &asking.due;
        let finding = finding_of(&asking, &reply);
        let carrier = self.shared.carrier_name((due.key.subscription_id >> 44) as i32);
        metrics::counter!("tollbook_asks_total", "carrier" => carrier, "kind" => asking.kind.name(),
            "finding" => finding.name())
        .increment(1);
        if let Some(alert) = reply.alert {
            metrics::counter!("tollbook_alerts_total", "alert" => alert.name()).increment(1);
        }
        let passed_ms = self.shared.clock.machine_ms().saturating_sub(asking.begun_ms);
        let now = due.now.checked_add(SignedDuration::from_millis(passed_ms)).unwrap_or(due.now);
        let mut after = due.clone();
        after.now = now;
        after.asked = asking.ask_no;
        after.asks.push(Ask { kind: asking.kind, asked_at: due.now, answered_at: now, finding });
        if asking.kind == AskKind::Resend {
            after.last_write_at = Some(now);
        }
        if let Some(txn_id) = &reply.carrier_txn_id {
            after.carrier_txn_id.get_or_insert_with(|| txn_id.to_string());
        }
        let step = self.step(&after);
        let until_ms = |at: Timestamp| at.as_millisecond().saturating_sub(now.as_millisecond()).max(1);
        let (settled, next_ms) = match step {
            Some(Step::Settle { outcome, rule }) => (Some((outcome, rule)), SETTLED_AGAIN_MS),
            Some(Step::Resend { at } | Step::Inquire { at } | Step::WaitUntil(at)) => (None, until_ms(at)),
            Some(Step::Review(_)) | None => (None, 1),
        };
        let evidence = settled.map(|(outcome, rule)| Evidence {
            period: due.key.period,
            attempt_no: due.key.attempt_no,
            outcome: StoryOutcome::of(outcome),
            carrier_code: reply.carrier_code.as_deref().map(str::to_owned),
            carrier_txn_id: after.carrier_txn_id,
            why: rule.number(),
        });
        let new = NewAsk {
            ask_no: asking.ask_no,
            kind: asking.kind,
            asked_at: due.now,
            finding,
            outcome: match finding {
                Finding::Found(outcome) => outcome,
                _ => reply.outcome,
            },
            rule: finding.rule(asking.kind).number(),
            next_ms,
            carrier_txn_id: reply.carrier_txn_id.as_deref().map(str::to_owned),
            evidence: evidence.and_then(|evidence| evidence.encode().ok()),
        };
        Answer { settled_by: settled.map(|(_, rule)| rule), asking, reply, finding, new }
    }

    /// The history first: what cannot be explained must not count.
    async fn keep(&mut self, answers: &[Answer]) {
        let mut rows: Vec<SealedRow> = Vec::with_capacity(answers.len());
        for Answer { asking, reply, finding, .. } in answers {
            let carrier_no = (asking.due.key.subscription_id >> 44) as i32;
            let Some(sealer) = self.sealers.get_mut(&carrier_no) else { continue };
            match request::history_row(asking, reply, *finding, sealer, &self.shared.lease) {
                Ok(row) => rows.push(row),
                Err(error) => self.shared.trouble("sealing what was asked", &error),
            }
        }
        while !rows.is_empty() {
            match self.shared.history.append(rows.clone()).await {
                Ok(()) => return,
                Err(HistoryError::Closed) if self.shared.is_halted() => return,
                Err(error) => self.shared.trouble("writing the history", &error),
            }
            if self.shared.is_halted() {
                return;
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    async fn record(&mut self, answers: &[Answer]) -> Result<(), StoreError> {
        let new: Vec<_> = answers.iter().map(|answer| (answer.asking.due.key, answer.new.clone())).collect();
        let together = self.record_together(&new).await;
        let kept = match self.alone(together)? {
            Some(kept) => kept,
            None => {
                let mut kept = Vec::new();
                for one in &new {
                    let one = self.record_together(std::slice::from_ref(one)).await;
                    kept.push(self.alone(one)?.is_some_and(|one| one.contains(&true)));
                }
                kept
            }
        };
        for (answer, _) in answers.iter().zip(kept).filter(|(_, kept)| *kept) {
            let due = &answer.asking.due;
            if let Some(rule) = answer.settled_by {
                resolved(&self.shared.carrier_name((due.key.subscription_id >> 44) as i32), rule);
            }
            let before = due.asks.iter().any(|ask| ask.finding == Finding::Contradicts);
            if answer.finding == Finding::Contradicts && !before {
                self.contradicted(due.key).await?;
            }
        }
        Ok(())
    }

    /// Until it is kept: an answer that the carrier gave is not asked for twice because the database was away.
    async fn record_together(&mut self, new: &[(AttemptKey, NewAsk)]) -> Result<Vec<bool>, StoreError> {
        if new.is_empty() {
            return Ok(Vec::new());
        }
        let lease = self.shared.lease;
        loop {
            let kept = match self.db.conn().await {
                Ok(conn) => {
                    reached(Point::BeforeAskKept);
                    let kept = record_asks(conn, &lease, new).await;
                    reached(Point::AfterAskKept);
                    self.db.checked(kept)
                }
                Err(error) => Err(error),
            };
            match kept {
                Err(error) if error.is_transient() && !self.shared.is_halted() => {
                    self.shared.trouble("keeping what was asked", &error);
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
                done => return done,
            }
        }
    }

    async fn contradicted(&mut self, key: AttemptKey) -> Result<(), StoreError> {
        let conn = self.db.conn().await?;
        let attempt = Some((key.period, key.attempt_no));
        let what = "the carrier's answer speaks of another request";
        let opened = open_case(conn, key.subscription_id, attempt, "inquiry_contradicts", what).await;
        self.db.checked(opened)
    }
}

pub(super) fn resolved(carrier: &str, rule: Rule) {
    metrics::counter!("tollbook_resolved_total", "carrier" => carrier.to_owned(), "rule" => rule.id())
        .increment(1);
}

/// What an answer proves.
fn finding_of(asking: &Asking, reply: &Reply) -> Finding {
    let planned = &asking.due.planned;
    let doubt = match reply.outcome {
        Outcome::Unknown(doubt) => doubt,
        _ => Doubt::NoReply,
    };
    if asking.kind == AskKind::Resend && on(Mutant::ResendReadLikeFirst) {
        return match reply.outcome {
            Outcome::Unknown(_) | Outcome::Duplicate | Outcome::Pending => Finding::NoAnswer,
            read => Finding::Found(read),
        };
    }
    let heard = match (asking.kind, reply.finding) {
        (AskKind::Resend, _) => Heard::Repeated(reply.outcome),
        (AskKind::Inquiry, Some(carriers::Finding::Inquiry(inquired))) => Heard::Inquired(match inquired {
            Inquired::Found(outcome) => Told::Found(outcome),
            Inquired::NotFound => Told::NotFound,
            Inquired::StillWorking => Told::StillWorking,
            Inquired::NoAnswer => Told::NoAnswer(doubt),
        }),
        (AskKind::Inquiry, _) => Heard::Inquired(Told::NoAnswer(doubt)),
    };
    read_finding(planned.op, planned.amount_minor, reply.wrote, heard)
}
