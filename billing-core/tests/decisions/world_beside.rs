//! What happens beside the running charge: charges with a row of their own, pauses and top-ups.

use billing_core::decide::{AsideDecision, AsideFacts, decide_aside};
use billing_core::outcome::Outcome;
use billing_core::states::{AttemptState, ChargeState};
use billing_core::subscription::{Aside, NextKind, OpenAttempt, Planned};
use billing_core::triage::{AsideTriage, pause, resume, top_up, triage_aside};
use jiff::Timestamp;

use crate::world::{ANSWER_WITHIN, LOST, World, check_move};

impl World {
    /// An outcome for a charge that left the row: decided with its own columns. The subscription's row stays.
    pub(crate) fn answer_aside(&mut self, index: usize, outcome: Outcome) -> AsideDecision {
        let aside = self.asides[index];
        let (attempt, from) = self.book(aside.charge.period).open.expect("an attempt is open");
        let mut others = self.clone();
        others.asides.swap_remove(index);
        let facts = AsideFacts {
            sub: &self.sub,
            aside: &aside,
            rules: &self.rules,
            zone: &self.zone,
            attempt: &attempt,
            from,
            outcome,
            now: self.now,
            answer_within: ANSWER_WITHIN,
            held: others.held(),
        };
        let decision = decide_aside(&facts).expect("decide decides");
        assert_eq!(decide_aside(&facts).as_ref(), Ok(&decision), "the same input gives the same decision");
        assert!(decision.paid_until >= self.at().paid_until, "paid access was taken away");
        assert_eq!(decision.aside.charge, aside.charge);
        self.sub.progress.paid_until = decision.paid_until;
        self.seen.insert(decision.rule);
        let after = decision.aside;
        assert_eq!(after.collected_minor, aside.collected_minor + decision.moved_minor);
        let (moved, state) = (decision.moved_minor, decision.attempt);
        self.settle(&attempt, &decision.legs, (state, after.state), (moved, after.collected_minor));
        self.asides[index] = after;
        if matches!(after.state, ChargeState::Waiting | ChargeState::Arrears) {
            self.check_aside(&after);
        } else {
            assert_eq!((after.open, after.next_at), (OpenAttempt::None, None), "{after:?}");
            self.asides.swap_remove(index);
        }
        decision
    }

    pub(crate) fn check_aside(&self, aside: &Aside) {
        assert_eq!(aside.next_at.is_none(), aside.next_kind == NextKind::Never, "{aside:?}");
        assert!((0..aside.due_minor).contains(&aside.collected_minor), "{aside:?}");
        if let (ChargeState::Arrears, Some(rules)) = (aside.state, &self.rules.arrears) {
            let held = self.held();
            assert!(held.count <= rules.count_max && held.owed_minor <= rules.amount_max_minor, "{held:?}");
            assert!(aside.expires_at >= aside.next_at && aside.next_at.is_some());
        }
    }

    /// One look at a charge that left the row; what was sent, if anything was.
    pub(crate) fn tick_aside(&mut self, index: usize) -> Option<Planned> {
        let aside = self.asides[index];
        let (sub, rules) = (&self.sub, &self.rules);
        let plan = triage_aside(sub, &aside, rules, &self.zone, self.now, &self.conditions);
        match plan.expect("triage decides") {
            AsideTriage::Send { planned, rule } => {
                self.seen.insert(rule);
                assert!(self.at().state.collects() && self.sub.stop_at.is_none());
                assert_eq!((planned.period, planned.attempt_no), (aside.charge.period, aside.attempt_no + 1));
                assert!(aside.expires_at.is_some_and(|expires| self.now < expires));
                let (_, minute) = self.zone.local(self.now);
                assert!(self.rules.schedule.window.contains(minute), "sent at {}", self.local());
                let book = self.charges.get_mut(&planned.period).unwrap();
                assert_eq!((book.open, planned.attempt_no), (None, book.attempts + 1));
                assert!(book.moved_minor + planned.amount_minor <= book.due_minor);
                check_move(book.state, ChargeState::Waiting);
                book.state = ChargeState::Waiting;
                book.attempts = planned.attempt_no;
                book.open = Some((planned, AttemptState::Intent));
                Some(planned)
            }
            AsideTriage::Change { aside: after, rule } => {
                self.seen.insert(rule);
                let book = self.charges.get_mut(&aside.charge.period).unwrap();
                check_move(book.state, after.state);
                book.state = after.state;
                self.asides[index] = after;
                if after.state != ChargeState::Arrears {
                    self.asides.swap_remove(index);
                }
                None
            }
            AsideTriage::Doubt { .. } => {
                assert_eq!(aside.open, OpenAttempt::Accepted);
                self.answer_aside(index, LOST);
                None
            }
            AsideTriage::Rest { .. } => None,
        }
    }

    pub(crate) fn pause(&mut self, until: Option<Timestamp>) {
        if let Some(note) = pause(&self.sub, until).unwrap() {
            self.apply_note(&note);
        }
    }

    pub(crate) fn resume(&mut self) {
        if let Some(note) = resume(&self.sub, &self.rules, &self.zone, self.now).unwrap() {
            self.apply_note(&note);
        }
    }

    /// A top-up is announced, and announced again.
    pub(crate) fn top_up(&mut self) {
        let notice = self.now;
        if let Some(note) = top_up(&self.sub, &self.rules, &self.zone, self.now, notice).unwrap() {
            assert!(self.at().next_at.is_none_or(|next| note.progress.next_at <= Some(next)));
            self.apply_note(&note);
            let again = top_up(&self.sub, &self.rules, &self.zone, self.now, notice);
            assert_eq!(again, Ok(None), "once per notice");
        }
    }
}
