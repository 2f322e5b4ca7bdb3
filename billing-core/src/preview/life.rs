//! The loop: the next instant at which something happens, what it is, and what it changes.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::{Amounts, End, Event, Happens, Horizon, Preview, STEPS_MAX, Said, Setup, Step, StepKind};
use crate::decide::{AsideFacts, Facts, decide, decide_aside};
use crate::outcome::{Doubt, Outcome};
use crate::period::Period;
use crate::plan::Missed;
use crate::reason::{Inputs, Rule};
use crate::schedule::price_of;
use crate::states::{AttemptState, ChargeState};
use crate::subscription::{Aside, CoreError, Held, NextKind, OpenAttempt, Planned, Subscription};
use crate::triage::{
    AsideTriage, Balance, BalanceAnswer, Change, Conditions, Merged, MoveError, Note, NoteKind, Triage,
    change, pause, resume, top_up, triage_aside, triage_with,
};
use crate::zone::Zone;

/// Looks at the clock for each step, at most.
const LOOKS_PER_STEP: usize = 64;

/// An attempt without its result.
#[derive(Debug, Clone)]
struct Open {
    planned: Planned,
    state: AttemptState,
    /// The evidence that will come, and when.
    later: Option<(Said, Timestamp)>,
}

pub(super) struct Life<'a> {
    setup: &'a Setup<'a>,
    zone: Zone,
    sub: Subscription,
    now: Timestamp,
    asides: Vec<Aside>,
    open: BTreeMap<Period, Open>,
    /// What missed periods are part of the row's charge.
    merged: Merged,
    events: &'a [Event],
    requests: usize,
    balance_minor: Option<i64>,
    breaker_until: Option<Timestamp>,
    outage_until: Option<Timestamp>,
    collected_minor: i64,
    closed: u32,
    steps: Vec<Step>,
}

/// What happens next.
enum Turn {
    Event,
    Evidence(Period),
    Aside(usize),
    Row,
}

/// What a row that begins merged costs above its own price; of how many periods that is, it does not say.
fn merged_minor(setup: &Setup<'_>) -> i64 {
    let (rules, sub) = (setup.rules, &setup.sub);
    match price_of(rules, sub.anchor, sub.progress.period, setup.zone) {
        Ok(price) if matches!(rules.missed, Missed::Merge { .. }) && sub.progress.attempt_no == 0 => {
            sub.progress.due_minor.saturating_sub(price.minor).max(0)
        }
        _ => 0,
    }
}

impl<'a> Life<'a> {
    pub(super) fn of(setup: &'a Setup<'a>) -> Self {
        Self {
            setup,
            zone: setup.zone.clone(),
            sub: setup.sub.clone(),
            now: setup.now,
            asides: Vec::new(),
            open: setup
                .open
                .iter()
                .map(|(planned, state)| {
                    (planned.period, Open { planned: *planned, state: *state, later: None })
                })
                .collect(),
            merged: Merged { count: 0, minor: merged_minor(setup) },
            events: setup.events,
            requests: 0,
            balance_minor: None,
            breaker_until: None,
            outage_until: None,
            collected_minor: 0,
            closed: 0,
            steps: Vec::new(),
        }
    }

    pub(super) fn run(mut self) -> Preview {
        let end = self.live().unwrap_or_else(|error| End::Quarantined(error.to_string()));
        Preview { steps: self.steps, end, sub: self.sub, collected_minor: self.collected_minor }
    }

    fn live(&mut self) -> Result<End, CoreError> {
        for _ in 0..STEPS_MAX * LOOKS_PER_STEP {
            if self.steps.len() >= STEPS_MAX {
                return Ok(End::Bound);
            }
            let Some((at, turn)) = self.next_turn()? else { return Ok(End::AtRest) };
            match self.setup.horizon {
                Horizon::Charges(charges) if self.closed >= charges => return Ok(End::Horizon),
                Horizon::Until(until) if at > until => return Ok(End::Horizon),
                _ => {}
            }
            self.now = self.now.max(at);
            let steps = self.steps.len();
            let before = (self.sub.progress, self.asides.len());
            match turn {
                Turn::Event => self.event()?,
                Turn::Evidence(period) => self.evidence(period)?,
                Turn::Aside(index) => self.look_at_aside(index)?,
                Turn::Row => self.look()?,
            }
            let changed = self.steps.len() > steps || (self.sub.progress, self.asides.len()) != before;
            if !changed && matches!(turn, Turn::Row) {
                // Something fires, and nothing comes of it: the engine would look again for ever.
                return Ok(End::Bound);
            }
        }
        Ok(End::Bound)
    }

    /// The earliest of: what happens outside, evidence, a charge put aside, the row itself.
    fn next_turn(&self) -> Result<Option<(Timestamp, Turn)>, CoreError> {
        let mut best: Option<(Timestamp, Turn)> = None;
        let mut offer = |at: Timestamp, turn: Turn| {
            if best.as_ref().is_none_or(|(best_at, _)| at < *best_at) {
                best = Some((at, turn));
            }
        };
        if let Some(event) = self.events.first() {
            offer(self.zone.instant(event.date, event.minute)?, Turn::Event);
        }
        let up = |at: Timestamp| self.outage_until.map_or(at, |until| until.max(at));
        for (period, open) in &self.open {
            if let Some((_, at)) = open.later {
                offer(up(at), Turn::Evidence(*period));
            }
        }
        for (index, aside) in self.asides.iter().enumerate() {
            if let Some(at) = aside.next_at {
                offer(up(at.max(self.now)), Turn::Aside(index));
            }
        }
        if let Some(at) = self.sub.progress.next_at {
            offer(up(at), Turn::Row);
        }
        Ok(best)
    }

    fn conditions(&self) -> Conditions {
        Conditions {
            breaker_until: self.breaker_until.filter(|until| *until > self.now),
            held: self.held(None),
            merged: if self.sub.progress.attempt_no == 0 { self.merged } else { Merged::default() },
            ..Conditions::default()
        }
    }

    /// What is owed in arrears, one charge left out.
    fn held(&self, but: Option<Period>) -> Held {
        let owed = self.asides.iter().filter(|aside| aside.expires_at.is_some());
        owed.filter(|aside| Some(aside.charge.period) != but).fold(Held::default(), |held, aside| Held {
            count: held.count.saturating_add(1),
            owed_minor: held.owed_minor.saturating_add(aside.due_minor.saturating_sub(aside.collected_minor)),
        })
    }

    fn look(&mut self) -> Result<(), CoreError> {
        let rules = self.setup.rules;
        let mut conditions = self.conditions();
        let mut plan = triage_with(&self.sub, rules, &self.zone, self.now, &conditions)?;
        if matches!(plan, Triage::Probe { .. }) {
            let answer = self.balance_minor.map_or(BalanceAnswer::Unavailable, BalanceAnswer::Amount);
            conditions.balance = Some(Balance { answer, age_ms: 0 });
            plan = triage_with(&self.sub, rules, &self.zone, self.now, &conditions)?;
        }
        match plan {
            Triage::Send { planned, rule } => self.send(planned, rule),
            Triage::Note(note) => self.note(&note, StepKind::Note),
            Triage::Probe { .. } | Triage::Rest { .. } => Ok(()),
        }
    }

    fn next_answer(&mut self, planned: &Planned) -> (Said, Outcome) {
        let answer = self.setup.script.answer(self.requests);
        self.requests += 1;
        let later = answer.later.map(|(said, after_s)| (said, crate::entitlement::later(self.now, after_s)));
        let state = AttemptState::Intent;
        self.open.insert(planned.period, Open { planned: *planned, state, later });
        (answer.said, answer.said.outcome(planned.op, planned.amount_minor))
    }

    fn send(&mut self, planned: Planned, sent_by: Rule) -> Result<(), CoreError> {
        let (said, outcome) = self.next_answer(&planned);
        let period = planned.period;
        let (rule, inputs, charge, attempt, collected) =
            self.decided(&planned, AttemptState::Intent, outcome)?;
        let kind = StepKind::Attempt {
            op: planned.op,
            attempt_no: planned.attempt_no,
            amount_minor: planned.amount_minor,
            answer: said,
            attempt,
            sent_by,
        };
        self.step(period, kind, (rule, inputs), charge, collected);
        Ok(())
    }

    /// The outcome of an attempt of the charge in the row; the row afterwards is taken in.
    fn decided(
        &mut self,
        planned: &Planned,
        from: AttemptState,
        outcome: Outcome,
    ) -> Result<(Rule, Inputs, ChargeState, AttemptState, (i64, i64)), CoreError> {
        let before = self.sub.progress;
        let decision = decide(&Facts {
            sub: &self.sub,
            rules: self.setup.rules,
            zone: &self.zone,
            attempt: planned,
            from,
            outcome,
            now: self.now,
            answer_within: self.setup.rules.answer_within(),
            held: self.held(None),
        })?;
        self.collected_minor = self.collected_minor.saturating_add(decision.moved_minor);
        self.asides.extend(decision.aside);
        self.sub.progress = decision.progress;
        if let Some(anchor) = decision.anchor {
            self.sub.anchor = anchor;
        }
        if decision.progress.period != before.period {
            self.merged = Merged::default();
        }
        self.moved_on(before.period, decision.charge);
        self.close_attempt(planned.period, decision.attempt);
        let rule = decision.stop.unwrap_or(decision.rule);
        let sums = (before.due_minor, decision.collected_after_minor);
        Ok((rule, decision.inputs, decision.charge, decision.attempt, sums))
    }

    fn close_attempt(&mut self, period: Period, state: AttemptState) {
        if state.is_final() {
            self.open.remove(&period);
        } else if let Some(open) = self.open.get_mut(&period) {
            open.state = state;
        }
    }

    /// Counts the charges that are behind us.
    fn moved_on(&mut self, before: Period, charge: ChargeState) {
        let over = self.sub.progress.state.is_over() && charge != ChargeState::Waiting;
        if self.sub.progress.period != before || over {
            self.closed = self.closed.saturating_add(1);
        }
    }

    fn note(&mut self, note: &Note, kind: StepKind) -> Result<(), CoreError> {
        let before = self.sub.progress;
        if note.kind == NoteKind::Doubt {
            return self.doubt(before.period);
        }
        self.asides.extend(note.aside);
        self.asides.extend(note.arrears.iter().copied());
        self.sub.progress = note.progress;
        if let Some(anchor) = note.anchor {
            self.sub.anchor = anchor;
        }
        if note.progress.period != before.period {
            self.merged = note.merged;
        }
        // A move speaks of the charge that the row is at afterwards, and passes none over.
        let period = match note.kind {
            NoteKind::Move => note.charge.period,
            _ => {
                self.moved_on(before.period, note.charge_state);
                before.period
            }
        };
        let sums = (before.due_minor, before.collected_minor);
        self.step(period, kind, (note.rule, note.inputs), note.charge_state, sums);
        Ok(())
    }

    /// The answer's deadline passed: the attempt is unknown now.
    fn doubt(&mut self, period: Period) -> Result<(), CoreError> {
        let Some(open) = self.open.get(&period).cloned() else {
            return Err(CoreError::Inconsistent(format!("no attempt of {period} is open")));
        };
        let outcome = Outcome::Unknown(Doubt::NoReply);
        let (_, inputs, charge, attempt, sums) = self.decided(&open.planned, open.state, outcome)?;
        let attempt_no = open.planned.attempt_no;
        let kind = StepKind::Evidence { attempt_no, answer: Said::Word("unknown"), attempt };
        self.step(period, kind, (Rule::DEADLINE_PASSED, inputs), charge, sums);
        Ok(())
    }

    fn evidence(&mut self, period: Period) -> Result<(), CoreError> {
        let Some(open) = self.open.get_mut(&period) else { return Ok(()) };
        let Some((said, _)) = open.later.take() else { return Ok(()) };
        let open = open.clone();
        let outcome = said.outcome(open.planned.op, open.planned.amount_minor);
        if let Some(index) = self.asides.iter().position(|aside| aside.charge.period == period) {
            return self.aside_outcome(index, &open, said, outcome, None);
        }
        let (rule, inputs, charge, attempt, sums) = self.decided(&open.planned, open.state, outcome)?;
        let attempt_no = open.planned.attempt_no;
        let kind = StepKind::Evidence { attempt_no, answer: said, attempt };
        self.step(period, kind, (rule, inputs), charge, sums);
        Ok(())
    }

    fn look_at_aside(&mut self, index: usize) -> Result<(), CoreError> {
        let Some(aside) = self.asides.get(index).copied() else { return Ok(()) };
        let conditions = self.conditions();
        let plan = triage_aside(&self.sub, &aside, self.setup.rules, &self.zone, self.now, &conditions)?;
        let period = aside.charge.period;
        match plan {
            AsideTriage::Send { planned, rule } => {
                let (said, outcome) = self.next_answer(&planned);
                let Some(open) = self.open.get(&period).cloned() else { return Ok(()) };
                self.aside_outcome(index, &open, said, outcome, Some(rule))
            }
            AsideTriage::Doubt { .. } => {
                let Some(open) = self.open.get(&period).cloned() else {
                    return Err(CoreError::Inconsistent(format!("no attempt of {period} is open")));
                };
                let outcome = Outcome::Unknown(Doubt::NoReply);
                self.aside_outcome(index, &open, Said::Word("unknown"), outcome, None)
            }
            AsideTriage::Change { aside: after, rule } => {
                self.keep(index, after);
                let moved_only = after.state == ChargeState::Arrears;
                if !moved_only {
                    let sums = (after.due_minor, after.collected_minor);
                    self.step(period, StepKind::Note, (rule, Inputs::default()), after.state, sums);
                }
                Ok(())
            }
            AsideTriage::Rest { .. } => {
                // It is in nobody's hands any more.
                self.keep(index, Aside { next_at: None, next_kind: NextKind::Never, ..aside });
                Ok(())
            }
        }
    }

    fn keep(&mut self, index: usize, after: Aside) {
        if matches!(after.state, ChargeState::Waiting | ChargeState::Arrears) {
            if let Some(aside) = self.asides.get_mut(index) {
                *aside = after;
            }
        } else if index < self.asides.len() {
            self.asides.remove(index);
        }
    }

    fn aside_outcome(
        &mut self,
        index: usize,
        open: &Open,
        said: Said,
        outcome: Outcome,
        sent_by: Option<Rule>,
    ) -> Result<(), CoreError> {
        let Some(aside) = self.asides.get(index).copied() else { return Ok(()) };
        let period = aside.charge.period;
        let decision = decide_aside(&AsideFacts {
            sub: &self.sub,
            aside: &aside,
            rules: self.setup.rules,
            zone: &self.zone,
            attempt: &open.planned,
            from: open.state,
            outcome,
            now: self.now,
            answer_within: self.setup.rules.answer_within(),
            held: self.held(Some(period)),
        })?;
        self.collected_minor = self.collected_minor.saturating_add(decision.moved_minor);
        self.sub.progress.paid_until = decision.paid_until;
        self.close_attempt(period, decision.attempt);
        self.keep(index, decision.aside);
        let (attempt_no, attempt) = (open.planned.attempt_no, decision.attempt);
        let kind = match sent_by {
            Some(sent_by) => StepKind::Attempt {
                op: open.planned.op,
                attempt_no,
                amount_minor: open.planned.amount_minor,
                answer: said,
                attempt,
                sent_by,
            },
            None => StepKind::Evidence { attempt_no, answer: said, attempt },
        };
        let sums = (aside.due_minor, decision.aside.collected_minor);
        self.step(period, kind, (decision.rule, decision.inputs), decision.aside.state, sums);
        Ok(())
    }

    fn event(&mut self) -> Result<(), CoreError> {
        let Some((event, rest)) = self.events.split_first() else { return Ok(()) };
        self.events = rest;
        let rules = self.setup.rules;
        let note = match &event.what {
            Happens::Stop => {
                self.sub.stop_at = Some(self.now);
                match triage_with(&self.sub, rules, &self.zone, self.now, &self.conditions())? {
                    Triage::Note(note) => Some(*note),
                    _ => None,
                }
            }
            Happens::TopUp => top_up(&self.sub, rules, &self.zone, self.now, self.now)?,
            Happens::Pause(until) => {
                // When that date begins, as the command has it.
                let until = until.map(|day| self.zone.instant(day, 0)).transpose()?;
                pause(&self.sub, until)?
            }
            Happens::Resume => resume(&self.sub, rules, &self.zone, self.now)?,
            Happens::Zone(zone) => self.move_to(zone)?,
            Happens::Balance(minor) => {
                self.balance_minor = Some(*minor);
                None
            }
            Happens::Outage(date, minute) => {
                self.outage_until = Some(self.zone.instant(*date, *minute)?);
                None
            }
            Happens::Breaker(date, minute) => {
                self.breaker_until = Some(self.zone.instant(*date, *minute)?);
                None
            }
        };
        let what = match &event.what {
            Happens::Balance(minor) => {
                format!("the balance becomes {}", Amounts(rules.price.currency).text(*minor))
            }
            other => other.to_string(),
        };
        let kind = StepKind::Happened(what);
        match note {
            Some(note) => self.note(&note, kind),
            None => {
                let at = self.sub.progress;
                let charge = match at.open {
                    OpenAttempt::None => ChargeState::Open,
                    _ => ChargeState::Waiting,
                };
                let sums = (at.due_minor, at.collected_minor);
                self.push(at.period, kind, (None, Inputs::default()), charge, sums);
                Ok(())
            }
        }
    }

    /// The periods keep their local dates; a charge that was not tried yet falls due by the new clock.
    /// The same function as `toll sub move` and the owner of the shard; what they would refuse ends the preview.
    fn move_to(&mut self, zone: &Zone) -> Result<Option<Note>, CoreError> {
        let note = change(&self.sub, self.setup.rules, &self.zone, &Change::Zone(zone));
        let note = note.map_err(|error| match error {
            MoveError::Core(error) => error,
            MoveError::Refused(why) => CoreError::Inconsistent(format!("the move to {}: {why}", zone.name())),
        })?;
        self.zone = zone.clone();
        Ok(note)
    }

    fn step(
        &mut self,
        period: Period,
        kind: StepKind,
        (rule, inputs): (Rule, Inputs),
        charge: ChargeState,
        sums: (i64, i64),
    ) {
        self.push(period, kind, (Some(rule), inputs), charge, sums);
    }

    fn push(
        &mut self,
        period: Period,
        kind: StepKind,
        (rule, inputs): (Option<Rule>, Inputs),
        charge: ChargeState,
        (due_minor, charge_collected_minor): (i64, i64),
    ) {
        let at = &self.sub.progress;
        let row = at.next_at.map(|next| (next, at.next_kind));
        let asides = self.asides.iter().filter_map(|aside| Some((aside.next_at?, aside.next_kind)));
        let next = row.into_iter().chain(asides).min_by_key(|(next, _)| *next);
        self.steps.push(Step {
            at: self.now,
            zone: self.zone.clone(),
            period,
            kind,
            rule,
            inputs,
            charge,
            due_minor,
            charge_collected_minor,
            state: at.state,
            access_until: at.paid_until,
            collected_minor: self.collected_minor,
            next,
        });
    }
}
