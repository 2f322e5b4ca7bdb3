//! One story as the engine must live it: what the core says of a subscription with the engine's own id and seed, and
//! whether the tables hold exactly that.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use billing_core::ids::{RefSeed, SubscriptionId};
use billing_core::period::Period;
use billing_core::preview::{Event, Step, StepKind};
use billing_core::states::{AttemptState, State};
use billing_core::subscription::Subscription;
use jiff::Timestamp;
use sqlx::postgres::PgConnection;
use storage::pg::{self, AttemptRow, NoteRow};

use crate::book::{Book, Told};

/// A story that is being lived.
pub(crate) struct Life<'a> {
    pub(crate) told: &'a Told,
    pub(crate) line: String,
    pub(crate) id: SubscriptionId,
    /// What is still to come.
    steps: VecDeque<Step>,
    /// What has come.
    past: Vec<Step>,
    events: VecDeque<Event>,
    end: Subscription,
}

impl<'a> Life<'a> {
    /// A subscription that was just made: its own id and seed give its minute, its second and its jitter.
    pub(crate) async fn of(conn: &mut PgConnection, book: &Book, told: &'a Told, line: String) -> Self {
        let (seed, digest) = RefSeed::derive("demo", &told.story.id, 0);
        let id = pg::by_reference(conn, seed.0, &digest).await.unwrap().expect("it was imported");
        let id = SubscriptionId(id);
        let lived = told.lived(book, id, seed);
        let events = told.story.events.iter().cloned().collect();
        Self { told, line, id, steps: lived.steps.into(), past: Vec::new(), events, end: lived.sub }
    }

    /// When something happens next; `None` when the story is told.
    pub(crate) fn next_at(&self) -> Option<Timestamp> {
        self.steps.front().map(|step| step.at)
    }

    /// Moves on to an instant; gives the steps of it that come from outside, each with its event.
    pub(crate) fn move_on(&mut self, at: Timestamp) -> Vec<(Step, Option<Event>)> {
        let mut outside = Vec::new();
        while self.next_at().is_some_and(|next| next <= at) {
            let step = self.steps.pop_front().unwrap();
            match &step.kind {
                StepKind::Happened(_) => outside.push((step.clone(), self.events.pop_front())),
                // What a carrier's deadline says is no evidence from outside.
                StepKind::Evidence { attempt, .. } if *attempt != AttemptState::Unknown => {
                    outside.push((step.clone(), None));
                }
                _ => {}
            }
            self.past.push(step);
        }
        outside
    }

    /// Whether something of it falls on the instant.
    pub(crate) fn acts_at(&self, at: Timestamp) -> bool {
        self.past.last().is_some_and(|step| step.at == at)
    }

    /// What the tables say otherwise than the story does up to this instant; empty: nothing.
    pub(crate) async fn difference(&self, conn: &mut PgConnection, at: Timestamp) -> String {
        let mut wrong = String::new();
        let periods: BTreeSet<Period> =
            self.past.iter().filter(|step| step.at == at).map(|step| step.period).collect();
        for period in periods {
            let attempts = pg::attempts(conn, self.id.0, period.number()).await.unwrap();
            let notes = pg::notes(conn, self.id.0, period.number()).await.unwrap();
            wrong += &self.period_difference(period, at, &attempts, &notes);
        }
        wrong
    }

    fn period_difference(
        &self,
        period: Period,
        at: Timestamp,
        attempts: &[AttemptRow],
        notes: &[NoteRow],
    ) -> String {
        let mut wrong = String::new();
        let (mut sent, mut noted) = (0, 0);
        for step in self.past.iter().filter(|step| step.period == period) {
            let found = match &step.kind {
                StepKind::Attempt { attempt_no, .. } => {
                    sent += 1;
                    let row = attempts.iter().find(|row| row.attempt_no == *attempt_no);
                    (step.at == at).then(|| row.map_or(Some("nothing".into()), |row| attempt(step, row)))
                }
                StepKind::Evidence { attempt_no, .. } => {
                    let row = attempts.iter().find(|row| row.attempt_no == *attempt_no);
                    (step.at == at).then(|| row.map_or(Some("nothing".into()), |row| evidence(step, row)))
                }
                StepKind::Note | StepKind::Happened(_) if step.rule.is_some() => {
                    noted += 1;
                    let row = notes.get(noted - 1);
                    (step.at == at).then(|| row.map_or(Some("nothing".into()), |row| note(step, row)))
                }
                StepKind::Note | StepKind::Happened(_) => None,
            };
            if let Some(found) = found.flatten() {
                wrong += &format!("expected {step:?}\n   found {found}\n");
            }
        }
        if (sent, noted) < (attempts.len(), notes.len()) || sent < attempts.len() {
            wrong += &format!(
                "{period} has {} attempts and {} notes instead of {sent} and {noted}: {attempts:?} {notes:?}\n",
                attempts.len(),
                notes.len()
            );
        }
        wrong
    }

    /// How the subscription stands otherwise than at the story's end; empty: as it should.
    pub(crate) async fn end_difference(&self, conn: &mut PgConnection) -> String {
        let (rows, poison) = pg::load(conn, &[self.id.0]).await.unwrap();
        let Some(row) = rows.first().filter(|_| poison.is_empty()) else {
            return format!("its row cannot be read: {poison:?}\n");
        };
        let mut wrong = String::new();
        if row.sub.flags != 0 {
            wrong += "it was put aside for people\n";
        }
        if row.sub.anchor != self.end.anchor {
            wrong += &format!("its periods count from {:?}, not {:?}\n", row.sub.anchor, self.end.anchor);
        }
        if row.sub.progress != self.end.progress {
            wrong +=
                &format!("in the end expected {:?}\n   found {:?}\n", self.end.progress, row.sub.progress);
        }
        wrong
    }
}

fn unless(same: bool, text: impl FnOnce() -> String) -> Option<String> {
    (!same).then(text)
}

fn attempt(step: &Step, row: &AttemptRow) -> Option<String> {
    let StepKind::Attempt { op, amount_minor, sent_by, attempt, .. } = &step.kind else { return None };
    let open = *attempt == AttemptState::Accepted || *attempt == AttemptState::Unknown;
    let same = row.op == *op as i16
        && row.amount_minor == *amount_minor
        && row.intent_rule == sent_by.number()
        && row.intent_business_ms == step.at.as_millisecond()
        && row.state == attempt.number();
    unless(same && (open || closed(step, row)), || format!("{row:?}"))
}

fn evidence(step: &Step, row: &AttemptRow) -> Option<String> {
    let StepKind::Evidence { attempt, .. } = &step.kind else { return None };
    let open = *attempt == AttemptState::Unknown;
    unless(row.state == attempt.number() && (open || closed(step, row)), || format!("{row:?}"))
}

fn closed(step: &Step, row: &AttemptRow) -> bool {
    row.outcome_rule == step.rule.map(|rule| rule.number())
        && row.charge_state == Some(step.charge.number())
        && row.decided_business_ms == Some(step.at.as_millisecond())
}

fn note(step: &Step, row: &NoteRow) -> Option<String> {
    let same = Some(row.rule_id) == step.rule.map(|rule| rule.number())
        && row.charge_state == step.charge.number()
        && row.business_at_ms == step.at.as_millisecond();
    unless(same, || format!("{row:?}"))
}

/// What went wrong, by story.
pub(crate) fn told(wrong: &BTreeMap<String, String>) -> String {
    wrong.iter().map(|(story, text)| format!("{story}: {text}")).collect()
}
