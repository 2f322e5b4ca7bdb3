//! Evidence of money that is recorded as not moved: nothing is flipped. It becomes an attempt of operation adopt that points
//! at the one which took the money, counts as unknown, and blocks its charge until two people settle it. No byte is sent.

use billing_core::ids::{ATTEMPT_NO_MAX, AttemptId, ChargeId, money_digest};
use billing_core::outcome::{Doubt, Moved, Op, Outcome};
use billing_core::period::Period;
use billing_core::reason::Rule;
use billing_core::states::{AttemptState, from_number};
use billing_core::subscription::{Aside, OpenAttempt, Planned};
use storage::pg::{AttemptRow, BeginAdopt, DueRow, InboxRow, StoreError, Verdict, begin_adopt};

use super::InboxReader;
use crate::link::RETRY_PAUSE;
use crate::refund::row_of;
use crate::stripe::{Found, Stripe, Work};
use crate::takeover::Evidence;
use crate::told::{Origin, Told};

/// What is to be done about it.
enum Plan {
    Begin(Box<Planned>, Box<Aside>),
    /// An attempt of the charge is on its way or unknown: it is blocked by that one. The next pass looks again.
    Wait,
    /// People adopted it, for this amount: it says what is recorded.
    Adopted,
    /// It cannot be adopted: a case alone, with this besides.
    Case(&'static str),
}

/// Whether evidence speaks of money that the record of this final attempt says did not move.
pub(crate) fn is_contrary_money(op: i16, state: AttemptState, outcome: Outcome) -> bool {
    let refused = matches!(state, AttemptState::Declined | AttemptState::NotSent | AttemptState::NotApplied);
    let collects = Op::from_number(op).is_some_and(Op::collects);
    refused && collects && matches!(outcome.moved(), Moved::Yes(_))
}

impl InboxReader {
    /// Blocks the charge with what the evidence says, or leaves a case. `what`: for people.
    pub(super) async fn contrary_money(
        &mut self,
        stripe: &Stripe,
        row: &InboxRow,
        evidence: &Evidence,
        outcome: Outcome,
        what: &str,
    ) -> Result<(), StoreError> {
        let id = row.subscription_id;
        let parent = Some((evidence.period, evidence.attempt_no));
        let Ok(period) = Period::from_number(evidence.period) else {
            return self.make_case(row, parent, "conflict", what).await;
        };
        // The simulation has no people: there it stays a case.
        if self.db.conn().await?.postgres().is_err() {
            return self.make_case(row, parent, "conflict", what).await;
        }
        if !self.shared.may_claim() || !stripe.hold(id) {
            return Ok(()); // on its way: the next pass
        }
        let Some(due) = self.load_one(stripe, id).await? else {
            return self.drop_row(row).await;
        };
        let next = due.next_entry();
        let planned = match self.refund_rows(id, period).await {
            Ok((rows, kept)) => plan(&due, period, evidence, outcome, &rows, kept.as_ref()),
            Err(error) => {
                self.let_go(stripe, id);
                return Err(error);
            }
        };
        let release = |reader: &Self| {
            stripe.release(id);
            reader.fires_again(stripe, next);
        };
        match planned {
            Plan::Begin(planned, aside) => {
                let begun = self.adopt(stripe, row, due, (*planned, *aside), what).await;
                begun.inspect_err(|_| self.let_go(stripe, id))
            }
            Plan::Wait => {
                release(self);
                Ok(())
            }
            Plan::Adopted => {
                release(self);
                self.drop_row(row).await
            }
            Plan::Case(besides) => {
                release(self);
                self.make_case(row, parent, "conflict", &format!("{what}; {besides}")).await
            }
        }
    }

    /// Makes the intent durable and gives it to the recorder as unknown. The subscription stays held until that is recorded.
    async fn adopt(
        &mut self,
        stripe: &Stripe,
        row: &InboxRow,
        due: Box<DueRow>,
        (planned, aside): (Planned, Aside),
        what: &str,
    ) -> Result<(), StoreError> {
        let id = row.subscription_id;
        let told = Origin::of(&row.payload).told(&self.shared.vault, &mut self.db).await?;
        let catalog = self.shared.books.current();
        let charge = ChargeId { subscription: due.sub.id, period: planned.period };
        let digest = money_digest(
            AttemptId { charge, attempt_no: planned.attempt_no },
            Op::Adopt,
            due.sub.subscriber_id,
            due.sub.plan_no,
            planned.amount_minor,
            due.currency,
        );
        let intent = BeginAdopt {
            rev: due.sub.rev,
            planned: &planned,
            aside: &aside,
            currency: due.currency,
            digest,
            rule: Rule::ADOPT_FOUND.number(),
            book_version: catalog.names.book_version,
            inbox_id: row.id,
            what,
        };
        let floor = stripe.open_floor(self.shared.database_us.load(std::sync::atomic::Ordering::SeqCst), 1);
        let at_ms = self.shared.clock.business().as_millisecond();
        let begun = loop {
            let begun = match self.db.conn().await.and_then(|conn| conn.postgres()) {
                Ok(conn) => {
                    let begun = begin_adopt(conn, &self.shared.lease, at_ms, &intent).await;
                    self.db.checked(begun)
                }
                Err(error) => Err(error),
            };
            match begun {
                // Whether it was committed is unknown: asking again tells.
                Err(error) if error.is_transient() && !self.shared.is_halted() => {
                    self.shared.trouble("making an adoption durable", &error);
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
                other => break other,
            }
        };
        match begun {
            Ok(Verdict::Ok | Verdict::ExistsMine) => {}
            other => {
                // Where its commit is unknown the next owner finds the intent, and records it.
                if other.is_ok() {
                    stripe.close_floor(floor, 1);
                }
                self.let_go(stripe, id);
                return other.map(|_| ());
            }
        }
        tracing::warn!(charge = %charge, amount_minor = planned.amount_minor,
            "evidence of money that is recorded as not moved blocks its charge: two people settle it");
        let current = due.sub.progress.period == planned.period;
        stripe.put(Work::Found(Box::new(Found {
            catalog: self.shared.books.for_answer(catalog.names.book_version),
            row: due,
            aside: (!current).then(|| Box::new(aside)),
            planned,
            from: AttemptState::Intent,
            why: Rule::ADOPT_FOUND.number(),
            outcome: Outcome::Unknown(Doubt::Contradictory),
            carrier_code: None,
            carrier_txn_id: None,
            floor,
            inbox: None,
            told: told.map(|told| Told { why: Rule::ADOPT_FOUND.number(), rule: None, ..told }),
        })));
        Ok(())
    }
}

fn plan(
    due: &DueRow,
    period: Period,
    evidence: &Evidence,
    outcome: Outcome,
    rows: &[AttemptRow],
    kept: Option<&Aside>,
) -> Plan {
    let Moved::Yes(amount_minor) = outcome.moved() else { return Plan::Case("it says of no money") };
    let at = &due.sub.progress;
    let charge = ChargeId { subscription: due.sub.id, period };
    let state = |row: &AttemptRow| from_number::<AttemptState>(row.state).unwrap_or(AttemptState::Intent);
    let adoption = rows.iter().find(|row| row.op == Op::Adopt as i16 && row.parent_no == evidence.attempt_no);
    match adoption.map(|row| (state(row), row.moved_minor)) {
        Some((AttemptState::Approved, Some(moved))) if moved == amount_minor => return Plan::Adopted,
        Some((state, _)) if state.is_final() => {
            return Plan::Case("two people decided about such evidence before");
        }
        Some(_) => return Plan::Case("such evidence blocks the charge already"),
        None => {}
    }
    if rows.iter().any(|row| !state(row).is_final()) {
        return Plan::Wait;
    }
    let parent = rows.iter().find(|row| row.attempt_no == evidence.attempt_no);
    let (Some(parent), Some(last), Some(aside)) = (parent, rows.last(), row_of(charge, at, rows, kept))
    else {
        return Plan::Case("its attempts cannot be read");
    };
    if due.sub.flags != 0 {
        return Plan::Case("its subscription is quarantined");
    }
    if aside.collected_minor.saturating_add(amount_minor) > aside.due_minor {
        return Plan::Case(
            "the charge has collected what was due: it is too much, and the carrier has to give it back",
        );
    }
    let current = at.period == period;
    if aside.open != OpenAttempt::None || current && (at.open != OpenAttempt::None || at.reserved.is_some()) {
        return Plan::Wait;
    }
    if aside.attempt_no >= ATTEMPT_NO_MAX {
        return Plan::Case("the charge has no attempt number left");
    }
    let planned = Planned {
        op: Op::Adopt,
        period,
        attempt_no: aside.attempt_no + 1,
        parent_no: parent.attempt_no,
        amount_minor,
        round: last.round,
        step: last.step,
        not_before: jiff::Timestamp::UNIX_EPOCH,
        not_after: jiff::Timestamp::UNIX_EPOCH,
    };
    Plan::Begin(Box::new(planned), Box::new(aside))
}
