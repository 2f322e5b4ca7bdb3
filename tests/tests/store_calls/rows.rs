//! The rows of those calls.

use billing_core::entitlement::Grant;
use billing_core::ids::{ChargeId, SubscriptionId};
use billing_core::ledger::LegKind;
use billing_core::outcome::Op;
use billing_core::period::Period;
use billing_core::reason::Rule;
use billing_core::states::ChargeState;
use billing_core::subscription::{Aside, NextKind, OpenAttempt, Planned, Reservation};
use billing_core::triage::Passed;
use storage::pg::{
    BeginRefund, DueRow, GiveBack, LEGS_MAX, MoreRow, MovedRow, PostedLeg, RecordRow, RowKind, Verdict,
};
use storage::store;

use super::{DAY, DateNumber, NOW_MS, Pair, alike, at};

impl Pair {
    pub(super) fn record_row(&mut self, row: &DueRow, known: Option<(i64, i32, i16)>) -> RecordRow {
        let kind = match (known, self.roll(5)) {
            (None, _) | (_, 0) => RowKind::Note,
            (_, 1) => RowKind::Open,
            _ => RowKind::Final,
        };
        let (_, mut period, attempt_no) = known.unwrap_or((0, row.sub.progress.period.number(), 1));
        if kind == RowKind::Note && self.once_in(6) {
            period = (DAY + 1_000) * 2_048;
        }
        let approved = kind == RowKind::Final && !self.once_in(3);
        let class = match kind {
            RowKind::Note => 0,
            RowKind::Open => 2 + self.roll(2) as i16,
            RowKind::Final if approved => 5,
            // Refused, not sent, not applied.
            RowKind::Final => 6 + self.roll(3) as i16,
        };
        let current = row.sub.progress.period.number() == period;
        let moved_minor = if approved { 300 } else { 0 };
        let mut progress = row.sub.progress;
        if current {
            progress.attempt_no = progress.attempt_no.max(attempt_no);
            progress.open = if kind == RowKind::Open { OpenAttempt::Unknown } else { OpenAttempt::None };
            progress.collected_minor = (progress.collected_minor + moved_minor).min(progress.due_minor);
        }
        if self.once_in(4) {
            // On to the next day.
            let next = if self.once_in(15) { DAY + 1_000 } else { progress.period.date_number() + 1 };
            progress.period = Period::from_number(next * 2_048).unwrap();
            (progress.attempt_no, progress.open, progress.collected_minor) = (0, OpenAttempt::None, 0);
        }
        progress.next_at = Some(at(NOW_MS + self.roll(10) as i64));
        progress.reserved =
            self.once_in(6).then(|| Reservation { attempt_no: 1, amount_minor: 100, until: at(NOW_MS + 9) });
        if self.once_in(40) {
            progress.due_minor = 0;
        }
        // A row of its own of the current charge: something of it was given back.
        let given_back = self.once_in(5) && progress.open == OpenAttempt::None;
        if given_back {
            progress.attempt_no = progress.attempt_no.max(2);
        }
        let of_own_row =
            if given_back { progress.period } else { Period::from_number((DAY - 1) * 2_048).unwrap() };
        let leg = |kind, debit, credit| PostedLeg { kind, debit, credit, amount_minor: 300, asset: 788 };
        let mut legs = [None; LEGS_MAX];
        if approved {
            legs[0] = Some(leg(LegKind::Collected, 1, 2));
        } else if kind == RowKind::Open {
            legs[0] = Some(leg(LegKind::EnterUnknown, 3, 4));
        }
        let aside = |no: i16, open, next: i64| Aside {
            charge: ChargeId { subscription: row.sub.id, period: of_own_row },
            due_minor: 500,
            collected_minor: 0,
            refunded_minor: 0,
            reversed_minor: 0,
            attempt_no: no,
            round: 0,
            step: 0,
            open,
            state: ChargeState::Arrears,
            next_at: Some(at(NOW_MS + next)),
            next_kind: NextKind::Arrears,
            expires_at: None,
        };
        let open = if self.once_in(2) { OpenAttempt::Unknown } else { OpenAttempt::None };
        let asides = match self.once_in(3) {
            true => vec![aside(self.roll(3) as i16, open, self.roll(900) as i64)],
            false => Vec::new(),
        };
        let moves = self.once_in(4).then(|| {
            let after = billing_core::subscription::Progress { day_tries: 3, try_day: 7, ..progress };
            MovedRow::of(&row.sub, None, &after)
        });
        let plain_grant = approved && self.once_in(2);
        let more = MoreRow {
            moves: moves.flatten(),
            grant: (approved && !plain_grant).then(|| Grant {
                from: at(NOW_MS + 5),
                until: None,
                variant: 1,
            }),
            event: if self.once_in(5) { 4 } else { 0 },
            passed: match self.once_in(5) {
                true => vec![Passed {
                    first: Period::from_number((DAY - 5) * 2_048 + i32::from(row.sub.rev as i16)).unwrap(),
                    before: None,
                    charge_state: ChargeState::Skipped,
                }],
                false => Vec::new(),
            },
            shift: None,
            opens: None,
            reversal: None,
        };
        let back = GiveBack {
            subscriber_id: row.sub.subscriber_id,
            attempt_no,
            kept_minor: moved_minor,
            request: self.once_in(2),
        };
        RecordRow {
            subscription_id: row.sub.id.0 + if self.once_in(40) { 10_000 } else { 0 },
            rev: row.sub.rev - i32::from(self.once_in(10)),
            kind,
            period,
            attempt_no: if kind == RowKind::Note { 0 } else { attempt_no },
            class,
            reason: 20,
            moved_minor,
            collected_after_minor: moved_minor,
            charge_state: 3,
            rule: if self.once_in(5) { Rule::PEOPLE_DECIDED.number() } else { 12 },
            latency_us: 7,
            until_ms: (kind == RowKind::Note).then_some(NOW_MS),
            progress,
            flags: row.sub.flags,
            book_version: 1,
            grant_until_ms: if plain_grant { -1 } else { 0 },
            event: if approved { 1 } else { 0 },
            merchant_no: 1,
            legs,
            currency: 788,
            asides,
            more: more.boxed(),
            inbox: None,
            give_back: [Some(back).filter(|_| kind == RowKind::Final && !approved), None],
            refunded: None,
        }
    }

    pub(super) async fn refund(&mut self) {
        let (lease, begun) = (self.leases[0], self.begun.clone());
        if begun.is_empty() {
            return;
        }
        let (id, period, no) = self.pick(&begun);
        let Some(row) = self.rows(&[id]).await.into_iter().next() else { return };
        let highest = begun.iter().filter(|other| (other.0, other.1) == (id, period)).map(|other| other.2);
        let attempt_no = highest.max().unwrap_or(no) + 1;
        let charge =
            ChargeId { subscription: SubscriptionId(id), period: Period::from_number(period).unwrap() };
        let aside = Aside {
            charge,
            due_minor: 500,
            collected_minor: 300,
            refunded_minor: 0,
            reversed_minor: 0,
            attempt_no,
            round: 0,
            step: 0,
            open: OpenAttempt::None,
            state: ChargeState::Settled,
            next_at: None,
            next_kind: NextKind::Never,
            expires_at: None,
        };
        let planned = Planned {
            op: Op::Refund,
            period: charge.period,
            attempt_no,
            parent_no: no,
            amount_minor: 100 + 100 * self.roll(3) as i64,
            round: 0,
            step: 0,
            not_before: at(NOW_MS),
            not_after: at(NOW_MS + 300_000),
        };
        let asked = BeginRefund {
            rev: row.sub.rev - i32::from(self.once_in(10)),
            planned: &planned,
            aside: &aside,
            currency: 788,
            digest: [1; 16],
            rule: 40,
            book_version: 1,
            inbox_id: 1,
        };
        let verdict = store::begin_refund(&mut self.memory, &lease, NOW_MS, &asked).await;
        let right = store::begin_refund(&mut self.postgres, &lease, NOW_MS, &asked).await;
        alike("begin_refund", &verdict, &right);
        if let Ok(verdict) = verdict {
            self.count("refund", verdict);
            if verdict == Verdict::Ok {
                self.begun.push((id, period, attempt_no));
            }
        }
    }
}
