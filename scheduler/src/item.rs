//! One piece of the recorder's batch: from what came back to the row that is recorded and the row that is kept.

mod aside;

use std::collections::HashMap;
use std::sync::Arc;

use billing_core::decide::{Decision, Event, Facts, Grant, LaneHint, decide};
use billing_core::ids::OurRef;
use billing_core::outcome::Op;
use billing_core::outcome::Outcome;
use billing_core::reason::{Inputs, Rule};
use billing_core::schedule::Anchor;
use billing_core::states::AttemptState;
use billing_core::subscription::{Aside, OpenAttempt, Planned, Progress};
use billing_core::triage::{Note, Passed};
use carriers::Reply;
use jiff::Timestamp;
use storage::history::seal::Sealer;
use storage::history::{HistoryKey, SealedRow};
use storage::pg::{CarrierWords, DueRow, LEGS_MAX, Lease, MoreRow, MovedRow, RecordRow, RowKind};
use storage::story::{STORY_VERSION, Story, StoryDecision, StoryExchange, StoryOutcome};
use storage::vault::{SubscriberKey, Vault};

use crate::catalog::Catalog;
use crate::stripe::{Found, Reversal, Shift, Stripe, Work};

mod money;

/// History rows of one attempt, told apart by `seq`: the exchange itself, ...
pub(crate) const SEQ_EXCHANGE: i64 = 0;
/// ... a decision on late evidence, ...
pub(crate) const SEQ_EVIDENCE: i64 = 1;
/// ... a decision on what a dead worker left behind.
pub(crate) const SEQ_TAKEOVER: i64 = 2;

/// What the recorder has to decide on.
#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) row: Box<DueRow>,
    /// The charge's own row: when it is not the subscription's current one, and for a refund.
    aside: Option<Box<Aside>>,
    /// The version of the book that decides.
    catalog: Arc<Catalog>,
    what: What,
    /// What a move changes besides.
    shift: Option<Box<Shift>>,
    key: Option<Box<SubscriberKey>>,
    pub(crate) floor: Option<u64>,
    inbox: Option<(i32, i64)>,
    pub(crate) tries: u8,
}

#[derive(Debug)]
enum What {
    Note(Box<Note>),
    /// A charge with a row of its own, as it shall be.
    Aside(Box<Aside>, Rule),
    /// The carrier took money back.
    Reversal(Box<Reversal>),
    Attempt(Box<AttemptFacts>),
}

#[derive(Debug)]
struct AttemptFacts {
    planned: Planned,
    from: AttemptState,
    outcome: Outcome,
    why: i16,
    seq: i64,
    business_at_ms: i64,
    carrier_code: Option<Box<str>>,
    carrier_txn_id: Option<Box<str>>,
    latency_us: i32,
    exchange: Option<(OurRef, Reply)>,
    /// The rule that is recorded, whatever follows from it: people decided.
    rule: Option<i16>,
}

/// The rows that an item becomes.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) record: Box<RecordRow>,
    pub(crate) history: Option<SealedRow>,
    pub(crate) lane: LaneHint,
    /// What people are asked to give back, minor units.
    pub(crate) propose_refund_minor: i64,
}

impl Item {
    /// The item of a piece of work; `None` for a reply whose flight is gone (it was answered before).
    pub(crate) fn of(stripe: &Stripe, work: Work) -> Option<Self> {
        match work {
            Work::Reply(mut reply) => {
                let Some(flight) = stripe.flights().remove(&(reply.ticket as i64)) else {
                    tracing::error!(ticket = reply.ticket, "a second reply for one attempt was ignored");
                    return None;
                };
                let facts = AttemptFacts {
                    planned: flight.planned,
                    from: AttemptState::Intent,
                    outcome: reply.outcome,
                    why: flight.rule,
                    seq: SEQ_EXCHANGE,
                    business_at_ms: flight.business_at_ms,
                    carrier_code: reply.carrier_code.take(),
                    carrier_txn_id: reply.carrier_txn_id.take(),
                    latency_us: i32::try_from(reply.latency_us).unwrap_or(i32::MAX),
                    exchange: Some((flight.our_ref, reply)),
                    rule: None,
                };
                Some(Self {
                    row: flight.row,
                    aside: flight.aside,
                    catalog: flight.catalog,
                    what: What::Attempt(Box::new(facts)),
                    shift: None,
                    key: Some(flight.key),
                    floor: Some(flight.floor),
                    inbox: None,
                    tries: 0,
                })
            }
            Work::Note { row, note, catalog, inbox } => {
                let what = What::Note(note);
                Some(Self::without_attempt(row, catalog, what, inbox, None))
            }
            Work::Move { row, note, catalog, inbox, shift } => {
                Some(Self::without_attempt(row, catalog, What::Note(note), Some(inbox), Some(shift)))
            }
            Work::Reversal { row, reversal, catalog, inbox } => {
                Some(Self::without_attempt(row, catalog, What::Reversal(reversal), Some(inbox), None))
            }
            Work::Aside { row, after, rule, catalog } => {
                Some(Self::without_attempt(row, catalog, What::Aside(after, rule), None, None))
            }
            Work::Found(found) => Some(Self::found(*found)),
            Work::AsideDoubt { .. } | Work::Poison { .. } => None,
        }
    }

    fn without_attempt(
        row: Box<DueRow>,
        catalog: Arc<Catalog>,
        what: What,
        inbox: Option<(i32, i64)>,
        shift: Option<Box<Shift>>,
    ) -> Self {
        Self { row, aside: None, catalog, what, shift, key: None, floor: None, inbox, tries: 0 }
    }

    fn found(mut found: Found) -> Self {
        if found.aside.is_none() {
            price_first_attempt(&mut found.row, &found.planned);
        }
        let late = found.from != AttemptState::Intent;
        let told = found.told.take();
        let exchange = told.as_ref().and_then(|told| {
            let our_ref = OurRef::new(found.row.sub.ref_seed, found.planned.period, found.planned.attempt_no);
            told.exchange(our_ref.ok()?, found.outcome)
        });
        let seq = if late { SEQ_EVIDENCE } else { SEQ_TAKEOVER };
        let facts = AttemptFacts {
            planned: found.planned,
            from: found.from,
            outcome: found.outcome,
            why: told.as_ref().map_or(found.why, |told| told.why),
            seq: told.as_ref().map_or(seq, |told| told.seq),
            business_at_ms: 0,
            carrier_code: found.carrier_code.map(String::into_boxed_str),
            carrier_txn_id: found.carrier_txn_id.map(String::into_boxed_str),
            latency_us: 0,
            exchange,
            rule: told.and_then(|told| told.rule),
        };
        Self {
            row: found.row,
            aside: found.aside,
            catalog: found.catalog,
            what: What::Attempt(Box::new(facts)),
            shift: None,
            key: None,
            floor: Some(found.floor),
            inbox: found.inbox,
            tries: 0,
        }
    }

    /// The row was loaded again, because it changed under us.
    pub(crate) fn reloaded(&mut self, row: Box<DueRow>, aside: Option<Box<Aside>>) {
        self.row = row;
        // Nobody but its holder changes what a refund holds.
        if !self.refunds() {
            self.aside = aside;
        }
        self.tries += 1;
        if let (What::Attempt(facts), None) = (&self.what, &self.aside) {
            price_first_attempt(&mut self.row, &facts.planned);
        }
    }

    /// Whether an inbox row asked for it, which goes with its record.
    pub(crate) fn is_from_inbox(&self) -> bool {
        self.inbox.is_some()
    }

    pub(crate) fn is_note(&self) -> bool {
        !matches!(self.what, What::Attempt(_))
    }

    /// The period of a charge with a row of its own that is loaded again when the subscription changed.
    pub(crate) fn aside_period(&self) -> Option<i32> {
        match &self.what {
            _ if self.refunds() => None,
            What::Aside(after, _) => Some(after.charge.period.number()),
            _ => self.aside.as_ref().map(|aside| aside.charge.period.number()),
        }
    }

    fn refunds(&self) -> bool {
        matches!(&self.what, What::Attempt(facts) if facts.planned.op == Op::Refund)
    }

    /// Whether it is an attempt at money, not one to give some back.
    pub(crate) fn collects(&self) -> bool {
        matches!(&self.what, What::Attempt(facts) if facts.planned.op != Op::Refund)
    }

    pub(crate) fn attempt_no(&self) -> Option<i16> {
        self.attempt_key().map(|(_, attempt_no)| attempt_no)
    }

    pub(crate) fn attempt_key(&self) -> Option<(i32, i16)> {
        match &self.what {
            What::Note(_) | What::Aside(..) | What::Reversal(_) => None,
            What::Attempt(facts) => Some((facts.planned.period.number(), facts.planned.attempt_no)),
        }
    }

    /// The carrier's words, for the batch.
    pub(crate) fn words(&self) -> CarrierWords<'_> {
        match &self.what {
            What::Note(_) | What::Aside(..) | What::Reversal(_) => [None, None],
            What::Attempt(facts) => [&facts.carrier_code, &facts.carrier_txn_id]
                .map(|word| word.as_deref().map(std::borrow::Cow::Borrowed)),
        }
    }

    /// What is known of the attempt, for whoever owns its shard now.
    pub(crate) fn outcome(&self) -> Option<(Outcome, Option<String>, Option<String>)> {
        match &self.what {
            What::Note(_) | What::Aside(..) | What::Reversal(_) => None,
            What::Attempt(facts) => {
                let owned = |word: &Option<Box<str>>| word.as_deref().map(str::to_owned);
                Some((facts.outcome, owned(&facts.carrier_code), owned(&facts.carrier_txn_id)))
            }
        }
    }

    /// Decides, and makes the rows. An error means that the row cannot be decided: quarantine.
    pub(crate) fn prepare(
        &self,
        vault: &Vault,
        sealers: &mut HashMap<i32, Sealer>,
        lease: &Lease,
        now: Timestamp,
    ) -> Result<Prepared, String> {
        let mut propose_refund_minor = 0;
        let (record, story, history_key, lane) = match &self.what {
            What::Note(note) => {
                let record = self.note_record(note);
                let why = note.rule.number();
                let story = self.story(lease, now.as_millisecond(), why, None, (&record, note.inputs));
                let key = self.history_key(note.charge.period, 0, i64::from(self.row.sub.rev));
                (record, story, key, LaneHint::None)
            }
            What::Aside(after, rule) => {
                let record = self.aside_note_record(after, *rule);
                let story = self.story(
                    lease,
                    now.as_millisecond(),
                    rule.number(),
                    None,
                    (&record, Inputs::default()),
                );
                let key = self.history_key(after.charge.period, 0, i64::from(self.row.sub.rev));
                (record, story, key, LaneHint::None)
            }
            What::Reversal(reversal) => {
                let (record, inputs) = self.reversal_record(reversal, now)?;
                let why = record.rule;
                let story = self.story(lease, now.as_millisecond(), why, None, (&record, inputs));
                let key = self.history_key(reversal.aside.charge.period, 0, i64::from(self.row.sub.rev));
                (record, story, key, LaneHint::None)
            }
            What::Attempt(facts) => {
                let (mut record, lane, inputs) = match &self.aside {
                    _ if facts.planned.op == Op::Refund => {
                        let (record, lane) = self.refund_record(facts, now)?;
                        (record, lane, Inputs::default())
                    }
                    Some(aside) => {
                        let decision = self.decide_aside(facts, aside, now)?;
                        propose_refund_minor = decision.propose_refund_minor;
                        (self.aside_record(facts, &decision, now)?, decision.lane, decision.inputs)
                    }
                    None => {
                        let decision = self.decide(facts, now)?;
                        (self.attempt_record(facts, &decision, now)?, decision.lane, decision.inputs)
                    }
                };
                // What people take into the books has a rule of its own.
                let adopted = facts.planned.op == Op::Adopt && record.moved_minor > 0;
                record.rule = facts.rule.filter(|_| !adopted).unwrap_or(record.rule);
                let exchange =
                    facts.exchange.as_ref().map(|(our_ref, reply)| self.exchange(facts, *our_ref, reply));
                let at_ms =
                    if facts.business_at_ms == 0 { now.as_millisecond() } else { facts.business_at_ms };
                let looked_at = (&record, inputs);
                let story = self.story(lease, at_ms, facts.why, exchange, looked_at);
                let key = self.history_key(facts.planned.period, facts.planned.attempt_no, facts.seq);
                (record, story, key, lane)
            }
        };
        let history = self.seal(vault, sealers, &history_key, &story)?;
        Ok(Prepared { record: Box::new(record), history: Some(history), lane, propose_refund_minor })
    }

    fn decide(&self, facts: &AttemptFacts, now: Timestamp) -> Result<Decision, String> {
        let plan = self.catalog.plan(self.row.sub.plan_no).ok_or("the plan is not in the book")?;
        let zone = self.catalog.zone(self.row.zone_no).ok_or("the zone is not known")?;
        if self.row.sub.progress.period != facts.planned.period {
            return Err(format!(
                "an outcome for period {} found the subscription at {}",
                facts.planned.period, self.row.sub.progress.period
            ));
        }
        let core = Facts {
            sub: &self.row.sub,
            rules: &plan.rules,
            zone,
            attempt: &facts.planned,
            from: facts.from,
            outcome: facts.outcome,
            now,
            answer_within: plan.rules.answer_within(),
            held: self.row.held,
        };
        decide(&core).map_err(|error| error.to_string())
    }

    fn note_record(&self, note: &Note) -> RecordRow {
        let before = &self.row.sub.progress;
        RecordRow {
            subscription_id: self.row.sub.id.0,
            rev: self.row.sub.rev,
            kind: RowKind::Note,
            period: note.charge.period.number(),
            attempt_no: 0,
            class: 0,
            reason: note.kind as i16,
            moved_minor: 0,
            collected_after_minor: before.collected_minor,
            charge_state: note.charge_state as i16,
            rule: note.rule.number(),
            latency_us: 0,
            until_ms: note.until.map(Timestamp::as_millisecond),
            progress: note.progress,
            flags: self.row.sub.flags,
            book_version: self.catalog.names.book_version,
            grant_until_ms: 0,
            event: note.event.or(note.state_event).map_or(0, |event| event as i16),
            merchant_no: self.row.merchant_no,
            legs: [None; LEGS_MAX],
            currency: self.row.currency,
            asides: note.aside.iter().chain(&note.arrears).copied().collect(),
            more: self.more(
                &note.progress,
                note.anchor,
                None,
                second(note.event, note.state_event),
                &note.passed,
            ),
            inbox: self.inbox,
            give_back: match note.aside.is_some_and(|aside| aside.open != OpenAttempt::None) {
                // Its confirm may still collect it.
                true => [None; 2],
                false => [None, self.reservation_back(note.progress.reserved, 0)],
            },
            refunded: None,
        }
    }

    /// What few rows have.
    fn more(
        &self,
        after: &Progress,
        anchor: Option<Anchor>,
        grant: Option<Grant>,
        event: Option<Event>,
        passed: &[Passed],
    ) -> Option<Box<MoreRow>> {
        let moves = MovedRow::of(&self.row.sub, anchor, after);
        let event = event.map_or(0, |event| event as i16);
        let shift = self.shift.as_deref().cloned().unwrap_or_default();
        let passed = passed.to_vec();
        MoreRow { moves, grant, event, passed, shift: shift.row, opens: shift.opens, reversal: None }.boxed()
    }

    fn attempt_record(
        &self,
        facts: &AttemptFacts,
        decision: &Decision,
        now: Timestamp,
    ) -> Result<RecordRow, String> {
        let legs = self.posted(&decision.legs, None)?;
        let open = !decision.attempt.is_final();
        let (plain, rare) = grant_of(decision.grant, now);
        Ok(RecordRow {
            subscription_id: self.row.sub.id.0,
            rev: self.row.sub.rev,
            kind: if open { RowKind::Open } else { RowKind::Final },
            period: facts.planned.period.number(),
            attempt_no: facts.planned.attempt_no,
            class: decision.attempt as i16,
            reason: facts.outcome.reason().0,
            moved_minor: decision.moved_minor,
            collected_after_minor: decision.collected_after_minor,
            charge_state: decision.charge as i16,
            rule: decision.rule.number(),
            latency_us: facts.latency_us,
            until_ms: deadline_ms(decision.attempt, &decision.progress),
            progress: decision.progress,
            flags: self.row.sub.flags,
            book_version: self.catalog.names.book_version,
            grant_until_ms: plain,
            event: decision.event.or(decision.state_event).map_or(0, |event| event as i16),
            merchant_no: self.row.merchant_no,
            legs,
            currency: self.row.currency,
            asides: decision.aside.into_iter().collect(),
            more: self.more(
                &decision.progress,
                decision.anchor,
                rare,
                second(decision.event, decision.state_event),
                &[],
            ),
            inbox: self.inbox,
            give_back: self.give_back(&facts.planned, decision),
            refunded: None,
        })
    }

    fn exchange<'a>(
        &self,
        facts: &'a AttemptFacts,
        our_ref: OurRef,
        reply: &'a Reply,
    ) -> StoryExchange<&'a [u8], &'a str> {
        StoryExchange {
            our_ref: our_ref.to_string(),
            amount_minor: facts.planned.amount_minor,
            currency: self.row.currency,
            wrote: reply.wrote,
            sent_at_us: reply.sent_at.map(Timestamp::as_microsecond),
            answered_at_us: reply.answered_at.as_microsecond(),
            latency_us: reply.latency_us,
            request: &reply.request,
            response: &reply.response,
            outcome: StoryOutcome::of(reply.outcome),
            carrier_code: facts.carrier_code.as_deref(),
            carrier_txn_id: facts.carrier_txn_id.as_deref(),
            alert: reply.alert.map(|alert| alert.name()),
        }
    }

    fn story<'a>(
        &self,
        lease: &Lease,
        business_at_ms: i64,
        why: i16,
        exchange: Option<StoryExchange<&'a [u8], &'a str>>,
        (record, inputs): (&RecordRow, Inputs),
    ) -> Story<&'a [u8], &'a str> {
        Story {
            version: STORY_VERSION,
            incarnation: lease.incarnation,
            book_version: self.catalog.names.book_version,
            business_at_ms,
            due_at_ms: self.row.sub.progress.next_at.map_or(business_at_ms, Timestamp::as_millisecond),
            why,
            exchange,
            decision: StoryDecision {
                rule: record.rule,
                attempt_state: record.class,
                charge_state: record.charge_state,
                subscription_state: record.progress.state as i16,
                next_at_ms: record.progress.next_at.map(Timestamp::as_millisecond),
                next_kind: record.progress.next_kind as i16,
                next_period: record.progress.period.number(),
            },
            inputs: inputs.iter().map(|(input, value)| (input as i16, value)).collect(),
        }
    }

    fn history_key(&self, period: billing_core::period::Period, attempt_no: i16, seq: i64) -> HistoryKey {
        HistoryKey {
            subscription_id: self.row.sub.id.0,
            month: period.month(),
            period: period.number(),
            attempt_no,
            seq,
        }
    }

    fn seal(
        &self,
        vault: &Vault,
        sealers: &mut HashMap<i32, Sealer>,
        key: &HistoryKey,
        story: &Story<&[u8], &str>,
    ) -> Result<SealedRow, String> {
        let plain = story.encode().map_err(|error| error.to_string())?;
        let carrier_no = self.row.sub.id.shard().carrier_no();
        let sealer = sealers.get_mut(&carrier_no).ok_or("no sealer for its carrier")?;
        let derived;
        let subscriber_key = match &self.key {
            Some(kept) => kept,
            None => {
                derived = vault
                    .subscriber_key(&self.row.key_salt, self.row.kek_version)
                    .map_err(|e| e.to_string())?;
                &derived
            }
        };
        let bytes = sealer.seal(subscriber_key, key, &plain).map_err(|error| error.to_string())?;
        Ok(SealedRow { key: *key, bytes })
    }
}

/// A charge's first attempt asks for all that is due under the version that it was decided under; the row learns of that
/// with the attempt's record.
fn price_first_attempt(row: &mut DueRow, planned: &Planned) {
    let at = &mut row.sub.progress;
    if planned.attempt_no == 1 && planned.step == 0 && at.period == planned.period && at.collected_minor == 0
    {
        at.due_minor = planned.amount_minor;
    }
}

/// What is told besides the event of the charge.
fn second(event: Option<Event>, state_event: Option<Event>) -> Option<Event> {
    event.and(state_event)
}

/// A grant of everything from the decision's instant on is a column of the row (0 for none, -1 for good); any other is
/// rare, and told apart.
fn grant_of(grant: Option<Grant>, now: Timestamp) -> (i64, Option<Grant>) {
    match grant {
        Some(grant) if grant.from == now && grant.variant == 0 => {
            (grant.until.map_or(-1, Timestamp::as_millisecond), None)
        }
        other => (0, other),
    }
}

fn deadline_ms(attempt: AttemptState, progress: &Progress) -> Option<i64> {
    let due = progress.answer_due().filter(|_| attempt == AttemptState::Accepted);
    due.map(Timestamp::as_millisecond)
}
