//! One subscription driven through `triage` and `decide` as the engine drives it, with the promises checked at
//! every step: a second opinion that keeps its own books.

use std::collections::{BTreeMap, BTreeSet};

use billing_core::decide::{Decision, Facts, decide};
use billing_core::ids::{ATTEMPT_NO_MAX, RefSeed, SubscriptionId};
use billing_core::ledger::{Leg, LegKind};
use billing_core::money::{Currency, Money};
use billing_core::outcome::{Doubt, Op, Outcome, Refusal};
use billing_core::period::Period;
use billing_core::plan::{
    Budget, Defer, Dunning, FirstFailure, GiveUp, Ladder, LateApproved, Lifecycle, Missed, PlanRules,
    RefundAccess, Restart, Rounds, RoundsOf, Settles,
};
use billing_core::reason::Rule;
use billing_core::schedule::{Anchor, Cadence, Schedule, Window};
use billing_core::split::Shares;
use billing_core::states::{AttemptState, ChargeState, State, SubscriptionState};
use billing_core::subscription::{
    Aside, CoreError, Held, NextKind, OpenAttempt, Planned, Progress, Subscription,
};
use billing_core::triage::{
    Conditions, MERGE_RULES, Merged, Note, NoteKind, Passed, Triage, merged_into, signed_up, triage_with,
};
use billing_core::zone::Zone;
use jiff::civil::Date;
use jiff::{SignedDuration, Timestamp};

pub(crate) const PRICE: i64 = 500;
pub(crate) const ANSWER_WITHIN: SignedDuration = SignedDuration::from_hours(2);
pub(crate) const NO_FUNDS: Outcome = Outcome::Declined(Refusal::NoFunds);
pub(crate) const LOST: Outcome = Outcome::Unknown(Doubt::NoReply);

/// Daily at 06:00, 5.00 EUR, no ladder, two more rounds after 4 and 8 hours, then on with the next period.
pub(crate) fn daily() -> PlanRules {
    let rounds = || Rounds::fixed(vec![4 * 3_600, 8 * 3_600], GiveUp::NextPeriod);
    PlanRules {
        id: "news-daily".into(),
        text: "News".into(),
        merchant: "acme".into(),
        service: "news".into(),
        carrier: "alfa".into(),
        schedule: Schedule::simple(Cadence::Days(1), 360, 1, Window::ALWAYS),
        price: Money::new(PRICE, Currency::from_code("EUR").unwrap()),
        shares: Shares::NONE,
        tariffs: Vec::new(),
        fee_returned: false,
        answer_within_s: 86_400,
        ladder: None,
        dunning: Dunning {
            no_funds: rounds(),
            limit: rounds(),
            limits: RoundsOf::default(),
            barred: rounds(),
            unknown_subscriber: Rounds::fixed(Vec::new(), GiveUp::Cancel),
            subscriber_refused: Rounds::fixed(Vec::new(), GiveUp::Cancel),
            not_allowed: Rounds::fixed(Vec::new(), GiveUp::Suspend),
            throttled_delay_s: 300,
            temporary_delay_s: 300,
            fault_delay_s: 1_800,
            budget: Budget::default(),
        },
        grace_s: 0,
        first_failure: FirstFailure::Retry,
        missed: Missed::OnceLate,
        late_approved: LateApproved::Past,
        arrears: None,
        defer: Defer::default(),
        balance: None,
        reserve: None,
        lifecycle: Lifecycle::default(),
        refund_access: RefundAccess::Keep,
        caps: billing_core::plan::Caps::NONE,
    }
}

/// The daily plan with the steps 3.00 and 1.00.
pub(crate) fn with_ladder(settles: Settles, restart: Restart) -> PlanRules {
    PlanRules { ladder: Some(Ladder::descending(vec![300, 100], settles, restart)), ..daily() }
}

/// A pending subscription whose first period starts on or after the anchor's date.
pub(crate) fn subscription(rules: &PlanRules, zone: &Zone, from: Date, id: SubscriptionId) -> Subscription {
    let anchor = Anchor::new(from, rules.schedule.anchor_minute(id));
    let period = rules.schedule.first_period(anchor, from, zone).unwrap().unwrap();
    let due_at = rules.schedule.due_at(anchor, period, zone, id).unwrap();
    Subscription {
        id,
        subscriber_id: 1,
        ref_seed: RefSeed(7),
        plan_no: 1,
        stop_at: None,
        rev: 0,
        flags: 0,
        anchor,
        progress: signed_up(rules, period, rules.price.minor, due_at),
    }
}

/// What our second opinion knows of one charge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Book {
    pub(crate) due_minor: i64,
    pub(crate) moved_minor: i64,
    pub(crate) attempts: i16,
    pub(crate) state: ChargeState,
    /// The open attempt, where it stands, and what it asks for.
    pub(crate) open: Option<(Planned, AttemptState)>,
    in_suspense_minor: i64,
}

/// One subscription and its world.
#[derive(Debug, Clone)]
pub(crate) struct World {
    pub(crate) rules: PlanRules,
    pub(crate) zone: Zone,
    pub(crate) sub: Subscription,
    pub(crate) now: Timestamp,
    pub(crate) charges: BTreeMap<Period, Book>,
    pub(crate) asides: Vec<Aside>,
    pub(crate) moved_minor: i64,
    pub(crate) legs_minor: [i64; 3],
    pub(crate) notes: Vec<Note>,
    /// What triage is told besides the row.
    pub(crate) conditions: Conditions,
    /// Every rule that decided something here.
    pub(crate) seen: BTreeSet<Rule>,
}

impl World {
    pub(crate) fn new(rules: PlanRules, zone: &str, from: Date) -> Self {
        Self::of(rules, zone, from, SubscriptionId(0))
    }

    pub(crate) fn of(rules: PlanRules, zone: &str, from: Date, id: SubscriptionId) -> Self {
        let zone = Zone::named(zone).unwrap();
        let sub = subscription(&rules, &zone, from, id);
        let now = sub.progress.next_at.unwrap();
        let world = Self {
            rules,
            zone,
            sub,
            now,
            charges: BTreeMap::new(),
            asides: Vec::new(),
            moved_minor: 0,
            legs_minor: [0; 3],
            notes: Vec::new(),
            conditions: Conditions::default(),
            seen: BTreeSet::new(),
        };
        world.check_row();
        world
    }

    /// The same, paid once already.
    pub(crate) fn active(rules: PlanRules, zone: &str, from: Date) -> Self {
        let mut world = Self::new(rules, zone, from);
        world.charge(|asked| Outcome::Charged { amount_minor: asked });
        assert_eq!(world.at().state, SubscriptionState::Active);
        world
    }

    pub(crate) fn at(&self) -> &Progress {
        &self.sub.progress
    }

    pub(crate) fn local(&self) -> String {
        let (date, minute) = self.zone.local(self.now);
        format!("{date} {:02}:{:02}", minute / 60, minute % 60)
    }

    pub(crate) fn later(&mut self, by: SignedDuration) -> &mut Self {
        self.now += by;
        self
    }

    pub(crate) fn until_next(&mut self) -> &mut Self {
        let next = self.at().next_at.expect("something fires");
        self.now = self.now.max(next);
        self
    }

    pub(crate) fn book(&self, period: Period) -> &Book {
        &self.charges[&period]
    }

    /// One triage; a note is applied, a sending makes its intent durable.
    pub(crate) fn tick(&mut self) -> Triage {
        let conditions = Conditions { held: self.held(), merged: self.merged(), ..self.conditions };
        let plan = triage_with(&self.sub, &self.rules, &self.zone, self.now, &conditions);
        let plan = plan.expect("triage decides");
        let (sub, rules, zone) = (self.sub.clone(), self.rules.clone(), self.zone.clone());
        let replay = triage_with(&sub, &rules, &zone, self.now, &conditions);
        assert_eq!(replay.as_ref(), Ok(&plan), "the same input gives the same plan");
        if let Triage::Send { rule, .. } | Triage::Probe { rule, .. } | Triage::Rest { rule } = &plan {
            self.seen.insert(*rule);
        }
        match &plan {
            Triage::Send { planned, rule } => {
                assert!(Rule::ALL.contains(rule));
                self.begin(*planned);
            }
            Triage::Note(note) => self.apply_note(note),
            Triage::Probe { amount_minor, .. } => {
                assert!(self.rules.balance.is_some() && *amount_minor > 0);
            }
            Triage::Rest { rule } => {
                assert!(Rule::ALL.contains(rule));
                assert!(
                    self.at().next_at.is_none_or(|next| next > self.now),
                    "rests although something fires: {rule:?} {:?}",
                    self.at()
                );
            }
        }
        plan
    }

    /// Ticks, and lets time pass to the next instant, until something is sent.
    pub(crate) fn next_send(&mut self) -> (Planned, Rule) {
        for _ in 0..100 {
            match self.tick() {
                Triage::Send { planned, rule } => return (planned, rule),
                Triage::Note(_) => {}
                Triage::Probe { .. } => panic!("the balance is asked for"),
                Triage::Rest { rule } => {
                    assert!(self.at().next_at.is_some(), "nothing will ever be sent: {rule:?}");
                    self.until_next();
                }
            }
        }
        panic!("nothing was sent in 100 steps: {:?}", self.at());
    }

    /// The next attempt, answered at once.
    pub(crate) fn charge(&mut self, answer: impl FnOnce(i64) -> Outcome) -> Decision {
        let (planned, _) = self.next_send();
        self.answer(answer(planned.amount_minor))
    }

    /// What the carrier said to the attempt that is open in the row.
    pub(crate) fn answer(&mut self, outcome: Outcome) -> Decision {
        let decision = self.try_answer(outcome).expect("decide decides");
        self.sub.progress = decision.progress;
        self.seen.extend([Some(decision.rule), decision.stop].into_iter().flatten());
        if let Some(anchor) = decision.anchor {
            self.sub.anchor = anchor;
        }
        self.asides.extend(decision.aside);
        self.check_row();
        decision
    }

    /// What missed periods are part of the row's charge, out of what was noted.
    pub(crate) fn merged(&self) -> Merged {
        if self.at().attempt_no > 0 {
            return Merged::default();
        }
        let rows = |note: &Note| {
            let own = Passed { first: note.charge.period, before: None, charge_state: note.charge_state };
            let rows: Vec<Passed> = std::iter::once(own).chain(note.passed.iter().copied()).collect();
            let told = MERGE_RULES.contains(&note.rule);
            rows.into_iter().rev().filter(move |row| match row.charge_state {
                ChargeState::Merged => true,
                ChargeState::Skipped => told,
                _ => false,
            })
        };
        let noted: Vec<Passed> = self.notes.iter().rev().flat_map(rows).collect();
        merged_into(&self.sub, &self.rules, &self.zone, &noted).expect("it is priced")
    }

    /// What is owed in arrears.
    pub(crate) fn held(&self) -> Held {
        let owed = self.asides.iter().filter(|aside| aside.expires_at.is_some());
        owed.fold(Held::default(), |held, aside| Held {
            count: held.count + 1,
            owed_minor: held.owed_minor + aside.due_minor - aside.collected_minor,
        })
    }

    fn try_answer(&mut self, outcome: Outcome) -> Result<Decision, CoreError> {
        let sub = self.sub.clone();
        let (attempt, from) = self.book(sub.progress.period).open.expect("an attempt is open");
        let decision = self.decided(&sub, &attempt, from, outcome)?;
        check_subscription_move(sub.progress.state, decision.progress.state);
        self.check_after(&sub.progress, &attempt, &decision);
        self.settle_book(&attempt, &decision);
        Ok(decision)
    }

    /// People take over an attempt of which nobody knows.
    pub(crate) fn review(&mut self) {
        let period = self.at().period;
        let book = self.charges.get_mut(&period).unwrap();
        let (_, from) = book.open.as_mut().unwrap();
        check_move(*from, AttemptState::InReview);
        *from = AttemptState::InReview;
        self.sub.progress.open = OpenAttempt::InReview;
    }

    fn decided(
        &self,
        sub: &Subscription,
        attempt: &Planned,
        from: AttemptState,
        outcome: Outcome,
    ) -> Result<Decision, CoreError> {
        let facts = Facts {
            sub,
            rules: &self.rules,
            zone: &self.zone,
            attempt,
            from,
            outcome,
            now: self.now,
            answer_within: ANSWER_WITHIN,
            held: self.held(),
        };
        let decision = decide(&facts);
        assert_eq!(decide(&facts), decision, "the same input gives the same decision");
        if let Ok(decision) = &decision {
            check_money(&facts, decision);
        }
        decision
    }

    /// When the next period's charge falls due.
    fn next_due(&self) -> Option<Timestamp> {
        let schedule = &self.rules.schedule;
        let next = schedule.next_period(self.sub.anchor, self.at().period, &self.zone).unwrap()?;
        Some(schedule.due_at(self.sub.anchor, next, &self.zone, self.sub.id).unwrap())
    }

    fn begin(&mut self, planned: Planned) {
        let at = self.sub.progress;
        assert_eq!(planned.period, at.period);
        if matches!(planned.op, Op::Confirm | Op::Cancel) {
            return self.begin_second_phase(planned);
        }
        assert!(at.state.collects() && self.sub.stop_at.is_none(), "nothing is sent in {:?}", at.state);
        assert_eq!(planned.op, if self.rules.reserve.is_some() { Op::Reserve } else { Op::Charge });
        assert_eq!(at.reserved, None, "two reservations of one charge");
        assert!(
            planned.not_before <= self.now && self.now < planned.not_after,
            "{planned:?} at {}",
            self.now
        );
        let (_, minute) = self.zone.local(self.now);
        assert!(self.rules.schedule.window.contains(minute), "sent at {}", self.local());
        let due =
            self.rules.schedule.due_at(self.sub.anchor, planned.period, &self.zone, self.sub.id).unwrap();
        assert!(self.now >= due, "sent before it was due");
        let last = planned.not_after - SignedDuration::from_secs(1);
        assert!(self.rules.schedule.window.contains(self.zone.local(last).1), "may be sent at {last}");
        assert!(self.next_due().is_none_or(|due| planned.not_after <= due), "outlives its period");
        let later: Vec<_> = self.charges.range(planned.period..).map(|(period, _)| *period).collect();
        assert!(later.iter().all(|period| *period == planned.period), "went back to {}", planned.period);
        self.open_attempt(planned);
    }

    fn begin_second_phase(&mut self, planned: Planned) {
        let reserved = self.at().reserved.expect("something is set aside");
        assert_eq!((planned.parent_no, planned.amount_minor), (reserved.attempt_no, reserved.amount_minor));
        if planned.op == Op::Confirm {
            assert!(self.sub.stop_at.is_none() && self.at().state.collects());
            assert!(self.now < reserved.until && planned.not_after <= reserved.until);
        }
        self.open_attempt(planned);
    }

    fn open_attempt(&mut self, planned: Planned) {
        let at = self.sub.progress;
        let book = self.charges.entry(planned.period).or_insert(Book {
            due_minor: at.due_minor,
            moved_minor: 0,
            attempts: 0,
            state: ChargeState::Open,
            open: None,
            in_suspense_minor: 0,
        });
        assert_eq!(book.open, None, "two attempts of one charge are open");
        assert_eq!(planned.attempt_no, book.attempts + 1, "numbers grow by one");
        assert!(planned.attempt_no <= ATTEMPT_NO_MAX);
        assert!(planned.amount_minor > 0 && book.moved_minor + planned.amount_minor <= book.due_minor);
        check_move(book.state, ChargeState::Waiting);
        book.state = ChargeState::Waiting;
        book.attempts = planned.attempt_no;
        book.open = Some((planned, AttemptState::Intent));
    }

    pub(crate) fn apply_note(&mut self, note: &Note) {
        let before = self.sub.progress;
        let after = note.progress;
        self.seen.insert(note.rule);
        assert!(Rule::ALL.contains(&note.rule));
        assert_eq!(note.charge.period, before.period);
        check_subscription_move(before.state, after.state);
        assert!(after.period >= before.period, "periods grow");
        let trial = note.rule == Rule::TRIAL_END;
        assert!(trial || after.paid_until == before.paid_until, "a note neither gives nor takes access");
        assert_eq!(note.state_event.is_some(), before.state != after.state, "one event per change");
        if let Some(book) = self.charges.get_mut(&before.period)
            && before.state.collects()
        {
            check_move(book.state, note.charge_state);
            book.state = note.charge_state;
        }
        for passed in &note.passed {
            assert!(passed.first > before.period && passed.before.is_none_or(|end| passed.first < end));
            assert!(passed.before.is_none_or(|end| end <= after.period), "{passed:?}");
            let mut inside = self.charges.range(passed.first..).map(|(period, _)| *period);
            assert!(inside.all(|period| passed.before.is_some_and(|end| period >= end)), "{passed:?}");
        }
        if let Some(anchor) = note.anchor {
            self.sub.anchor = anchor;
        }
        let owed = note.aside.filter(|aside| aside.state == ChargeState::Arrears);
        for aside in owed.iter().chain(&note.arrears) {
            assert_eq!(aside.state, ChargeState::Arrears);
            let new = Book {
                due_minor: aside.due_minor,
                moved_minor: 0,
                attempts: 0,
                state: ChargeState::Arrears,
                open: None,
                in_suspense_minor: 0,
            };
            let book = self.charges.entry(aside.charge.period).or_insert(new);
            assert_eq!((book.attempts, book.moved_minor), (aside.attempt_no, aside.collected_minor));
        }
        for aside in &note.arrears {
            assert!(before.period < aside.charge.period && aside.charge.period < after.period);
            self.asides.push(*aside);
            self.check_aside(aside);
        }
        assert!(note.aside.is_some() || note.kind != NoteKind::Roll);
        if let Some(aside) = note.aside {
            assert_eq!(aside.open != OpenAttempt::None, note.kind == NoteKind::Roll);
            assert_eq!(
                (aside.attempt_no, aside.collected_minor),
                (before.attempt_no, before.collected_minor)
            );
            self.asides.push(aside);
        }
        if note.kind == NoteKind::Doubt {
            // The note carries no transfer; the same step as a decision does, and must agree with it.
            let decision = self.try_answer(LOST).unwrap();
            assert_eq!(decision.progress, after);
        }
        if note.kind == NoteKind::Defer {
            assert!(note.until.is_some_and(|until| until > self.now));
        }
        self.notes.push(note.clone());
        self.sub.progress = after;
        if after.period != before.period {
            assert_eq!(self.merged(), note.merged, "what was noted says what was merged");
        }
        self.check_row();
    }

    fn settle_book(&mut self, attempt: &Planned, decision: &Decision) {
        let moved = (decision.moved_minor, decision.collected_after_minor);
        self.settle(attempt, &decision.legs, (decision.attempt, decision.charge), moved);
    }

    pub(crate) fn settle(
        &mut self,
        attempt: &Planned,
        legs: &[Option<Leg>; 2],
        (state, charge): (AttemptState, ChargeState),
        (moved_minor, collected_after_minor): (i64, i64),
    ) {
        for leg in legs.iter().flatten() {
            assert!(leg.amount_minor > 0);
            self.legs_minor[leg.kind as usize - 1] += leg.amount_minor;
        }
        self.moved_minor += moved_minor;
        assert_eq!(self.legs_minor[0], self.moved_minor, "what is booked is what moved");
        let book = self.charges.get_mut(&attempt.period).unwrap();
        let (_, from) = book.open.unwrap();
        check_move(from, state);
        check_move(book.state, charge);
        book.state = charge;
        book.moved_minor += moved_minor;
        assert_eq!(book.moved_minor, collected_after_minor);
        assert!(book.moved_minor <= book.due_minor, "collected above what is due");
        book.open = (!state.is_final()).then_some((*attempt, state));
        let doubtful = matches!(state, AttemptState::Unknown | AttemptState::InReview)
            && !matches!(attempt.op, Op::Reserve | Op::Cancel);
        book.in_suspense_minor = if doubtful { attempt.amount_minor } else { 0 };
        let in_suspense: i64 = self.charges.values().map(|book| book.in_suspense_minor).sum();
        assert_eq!(self.legs_minor[1] - self.legs_minor[2], in_suspense, "suspense holds what is unknown");
    }

    fn check_after(&self, before: &Progress, attempt: &Planned, decision: &Decision) {
        let after = &decision.progress;
        assert!(after.period >= before.period, "periods grow");
        if after.period == before.period {
            assert_eq!(after.attempt_no, attempt.attempt_no);
            assert_eq!(after.collected_minor, decision.collected_after_minor);
        } else {
            assert_eq!((after.attempt_no, after.collected_minor, after.round, after.step), (0, 0, 0, 0));
            assert_ne!(decision.charge, ChargeState::Open, "a charge is not left open behind");
            assert!(decision.attempt.is_final());
        }
        assert_eq!(decision.state_event.is_some(), before.state != after.state, "one event per change");
        let stopped = self.sub.stop_at.is_some() && before.state.collects() && after.state != before.state;
        if decision.stop.is_some() {
            assert!(stopped && after.state == SubscriptionState::Cancelled);
        }
        assert_eq!(decision.aside.is_some(), decision.charge == ChargeState::Arrears);
        let over = matches!(after.state, SubscriptionState::Cancelled | SubscriptionState::Ended);
        assert!(!(over && decision.charge == ChargeState::Open), "a charge is open on what is over");
        let lowered = after.paid_until < before.paid_until && after.paid_until.is_some();
        assert!(!lowered, "paid access was taken away");
        if let Some(grant) = decision.grant {
            assert!(decision.moved_minor > 0);
            assert!(grant.until.is_none_or(|until| until > grant.from), "access in the past: {grant:?}");
        }
    }

    /// What must hold of every row that is kept.
    fn check_row(&self) {
        let at = self.at();
        assert_eq!(at.next_at.is_none(), at.next_kind == NextKind::Never, "{at:?}");
        assert!((0..=at.due_minor).contains(&at.collected_minor), "{at:?}");
        let held_back = at.reserved.is_none() && at.next_kind != NextKind::Reserved;
        if let (true, Some(next), Some(due)) = (at.state.collects() && held_back, at.next_at, self.next_due())
        {
            assert!(next <= due.max(self.now), "the next period is held up: {at:?}");
        }
        if at.state.collects() && at.open == OpenAttempt::None {
            assert!(at.next_at.is_some(), "a charge is forgotten: {at:?}");
            assert!(at.collected_minor < at.due_minor, "collected in full and still in the row: {at:?}");
        }
        if matches!(at.state, SubscriptionState::Cancelled | SubscriptionState::Ended)
            && at.open != OpenAttempt::Accepted
            && at.reserved.is_none()
        {
            assert_eq!(at.next_at, None, "{at:?}");
        }
    }
}

/// Money fields of a decision: moved exactly when approved, booked exactly when moved.
pub(crate) fn check_money(facts: &Facts<'_>, decision: &Decision) {
    let moved = decision.moved_minor;
    assert!(Rule::ALL.contains(&decision.rule), "{:?}", facts.outcome);
    assert_eq!(moved > 0, decision.attempt == AttemptState::Approved, "{:?}", facts.outcome);
    assert!((0..=facts.attempt.amount_minor).contains(&moved), "{:?}", facts.outcome);
    let before = facts.sub.progress.collected_minor;
    assert_eq!(decision.collected_after_minor, before + moved);
    let legs: Vec<_> = decision.legs.iter().flatten().collect();
    let booked = |kind| legs.iter().filter(|leg| leg.kind == kind).map(|leg| leg.amount_minor).sum::<i64>();
    assert_eq!(booked(LegKind::Collected), moved);
    let money = !matches!(facts.attempt.op, Op::Reserve | Op::Cancel);
    let doubtful = |state| money && matches!(state, AttemptState::Unknown | AttemptState::InReview);
    let asked = facts.attempt.amount_minor;
    let (was, is) = (doubtful(facts.from), doubtful(decision.attempt));
    assert_eq!(booked(LegKind::EnterUnknown), if is && !was { asked } else { 0 }, "{:?}", facts.outcome);
    assert_eq!(booked(LegKind::LeaveUnknown), if was && !is { asked } else { 0 }, "{:?}", facts.outcome);
    let settled = decision.charge == ChargeState::Settled;
    assert_eq!(settled, moved > 0 && decision.collected_after_minor == facts.sub.progress.due_minor);
    if decision.grant.is_some() {
        assert!(moved > 0, "access without money");
    }
}

/// Reads the tables themselves, not `step`.
pub(crate) fn check_move<S: State>(from: S, to: S) {
    let legal = from == to || S::MOVES.iter().any(|(state, targets)| *state == from && targets.contains(&to));
    assert!(legal, "no table allows {} to {}", from.name(), to.name());
}

fn check_subscription_move(from: SubscriptionState, to: SubscriptionState) {
    // A decision may go through Active on its way (money came, and with it the last period ended).
    if from == SubscriptionState::Pending && to == SubscriptionState::Grace {
        panic!("grace is for those who paid once");
    }
    check_move(from, to);
}
