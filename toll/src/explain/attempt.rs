//! One attempt: its intent from the tables, its exchange and its decisions from the history.

use std::collections::HashMap;

use billing_core::ids::{AttemptId, ChargeId, OurRef};
use billing_core::outcome::{Doubt, Op, Outcome};
use billing_core::period::Period;
use billing_core::states::{AttemptState, ChargeState, SubscriptionState};
use billing_core::zone::Zone;
use scheduler::{SEQ_CALLBACK, SEQ_FILE, SEQ_PEOPLE};
use storage::pg::{AttemptRow, IncarnationRow};
use storage::story::{Story, StoryDecision, StoryExchange};

use super::gather::reason_name;
use super::story::{Asked, Attempt, Bytes, Decided, Exchange, Sender};
use super::why::{self, state_name};
use crate::reading::Loaded;
use crate::shown::{Mask, hex, one_line, printable};
use crate::words::{self, Amount, Moment, RuleWords};

/// Places of an attempt's rows in the history: the exchange, ...
const SEQ_EXCHANGE: i64 = 0;
/// ... a decision on late evidence, ...
const SEQ_EVIDENCE: i64 = 1;
/// ... a decision on what a dead worker left behind.
const SEQ_TAKEOVER: i64 = 2;
/// ... and what was asked while its result was unknown, from the next one on.
const SEQ_ASK: i64 = 1 << 33;
/// Text of a request or an answer that is shown at most, characters; `--bytes` shows all.
const TEXT_CHARS_MAX: usize = 16_384;

/// Where the parts of an attempt come from.
pub(super) struct Sources<'a> {
    pub(super) charge: ChargeId,
    pub(super) loaded: &'a Loaded,
    pub(super) stories: &'a HashMap<(i16, i64), Story>,
    pub(super) mask: &'a Mask,
    pub(super) lives: &'a HashMap<i64, IncarnationRow>,
    /// In hex, too.
    pub(super) bytes: bool,
}

impl Sources<'_> {
    fn story(&self, attempt_no: i16, seq: i64) -> Option<&Story> {
        self.stories.get(&(attempt_no, seq))
    }

    fn exchange(&self, attempt_no: i16) -> Option<&StoryExchange> {
        self.story(attempt_no, SEQ_EXCHANGE)?.exchange.as_ref()
    }

    /// Words of the carrier, on one line, masked.
    fn word(&self, text: &str) -> String {
        self.mask.text(text).replace('\n', "\\n")
    }
}

/// An attempt with everything that is known of it.
pub(super) fn of(row: &AttemptRow, sources: &Sources<'_>) -> Attempt {
    let no = row.attempt_no;
    let zone = &sources.loaded.zone;
    let story = sources.story(no, SEQ_EXCHANGE);
    let exchange = sources.exchange(no);
    let our_ref = OurRef::new(sources.loaded.row.sub.ref_seed, sources.charge.period, no);
    let kept_word = |word: Option<&String>, kept: fn(&StoryExchange) -> Option<&String>| {
        word.or(exchange.and_then(kept)).map(|word| sources.word(word))
    };
    Attempt {
        id: AttemptId { charge: sources.charge, attempt_no: no }.to_string(),
        number: no,
        operation: op_name(row.op).to_owned(),
        amount: Amount::new(row.amount_minor, row.currency),
        round: row.round.saturating_add(1),
        step: row.step,
        state: state_name::<AttemptState>(row.state),
        why: RuleWords::new(row.intent_rule),
        decided_to_send_at: Moment::new(row.intent_business_ms, zone),
        due_at: story.map(|story| Moment::new(story.due_at_ms, zone)),
        not_after: Moment::new(row.not_after_ms, zone),
        durable_at: words::machine(row.intent_at_us),
        book_version: row.book_version,
        our_ref: our_ref.map_or_else(|error| error.to_string(), |our_ref| our_ref.to_string()),
        sender: sender(row.incarnation, sources.lives),
        exchange: exchange.map(|exchange| wire(exchange, sources)),
        asked: asked(no, sources),
        answer: answer(row, exchange, sources),
        reason: row.reason.map(reason_name),
        moved: row.moved_minor.filter(|minor| *minor > 0).map(|minor| Amount::new(minor, row.currency)),
        carrier_code: kept_word(row.carrier_code.as_ref(), |exchange| exchange.carrier_code.as_ref()),
        carrier_txn_id: kept_word(row.carrier_txn_id.as_ref(), |exchange| exchange.carrier_txn_id.as_ref()),
        decided_at: row.decided_business_ms.map(|ms| Moment::new(ms, zone)),
        decisions: decisions(row, sources),
        sort_ms: row.intent_business_ms,
    }
}

/// What should be in the history and was not found.
pub(super) fn not_at_hand(row: &AttemptRow, sources: &Sources<'_>) -> Option<String> {
    let answered = row.state != AttemptState::Intent as i16;
    if !answered || sources.stories.keys().any(|(attempt_no, _)| *attempt_no == row.attempt_no) {
        return None;
    }
    let place = match sources.lives.get(&row.incarnation) {
        Some(life) => format!("the spool {} on {}", one_line(&life.spool), one_line(&life.host)),
        None => format!("the spool of incarnation {}", row.incarnation),
    };
    Some(format!("request and answer of attempt {} are not at hand: they lie in {place}", row.attempt_no))
}

/// Whether the history has this attempt's answer.
pub(super) fn answer_kept(row: &AttemptRow, sources: &Sources<'_>) -> bool {
    sources.exchange(row.attempt_no).is_some()
}

/// What the deciding rule looked at, each as a phrase.
pub(super) fn facts(story: &Story, loaded: &Loaded) -> Vec<String> {
    let inputs = story.inputs.iter();
    inputs.map(|(input, value)| words::fact(*input, *value, loaded.row.currency, &loaded.zone)).collect()
}

/// What a kept decision said would come next.
pub(super) fn next_words(decision: &StoryDecision, charge: ChargeId, zone: &Zone) -> Option<String> {
    let period = Period::from_number(decision.next_period).ok()?;
    why::next_of(decision.next_kind, decision.next_at_ms, period == charge.period, period, zone)
}

fn op_name(op: i16) -> &'static str {
    let all = [Op::Charge, Op::Reserve, Op::Confirm, Op::Cancel, Op::Refund, Op::Adopt];
    all.into_iter().find(|known| *known as i16 == op).map_or("unlisted", Op::name)
}

fn sender(incarnation: i64, lives: &HashMap<i64, IncarnationRow>) -> Sender {
    let life = lives.get(&incarnation);
    Sender {
        incarnation: incarnation.to_string(),
        slot: life.map(|life| life.slot),
        host: life.map(|life| one_line(&life.host)),
        spool: life.map(|life| one_line(&life.spool)),
        fenced_at: life.and_then(|life| life.fenced_at_us).map(words::machine),
    }
}

fn wire(exchange: &StoryExchange, sources: &Sources<'_>) -> Exchange {
    Exchange {
        wrote: exchange.wrote,
        sent_at: exchange.sent_at_us.map(words::machine),
        answered_at: words::machine(exchange.answered_at_us),
        latency_us: exchange.latency_us,
        request: shown_bytes(&exchange.request, sources),
        response: shown_bytes(&exchange.response, sources),
        alert: exchange.alert.as_deref().map(one_line),
    }
}

fn asked(attempt_no: i16, sources: &Sources<'_>) -> Vec<Asked> {
    let of_attempt = |((no, seq), story): (&(i16, i64), &'_ Story)| {
        let exchange = story
            .exchange
            .as_ref()
            .filter(|_| *no == attempt_no && (SEQ_ASK + 1..SEQ_CALLBACK).contains(seq))?;
        let outcome = exchange.outcome.outcome()?;
        Some(Asked {
            number: seq - SEQ_ASK,
            why: RuleWords::new(story.why),
            exchange: wire(exchange, sources),
            answer: why::answer(outcome, &sources.loaded.place.carrier),
            rule: RuleWords::new(story.decision.rule),
        })
    };
    let mut asked: Vec<Asked> = sources.stories.iter().filter_map(of_attempt).collect();
    asked.sort_by_key(|asked| asked.number);
    asked
}

fn shown_bytes(bytes: &[u8], sources: &Sources<'_>) -> Bytes {
    let masked = sources.mask.bytes(bytes);
    let mut text = printable(&masked);
    let chars = text.chars().count();
    if chars > TEXT_CHARS_MAX {
        text = text.chars().take(TEXT_CHARS_MAX).collect();
        text += &format!("\n[{} more characters; --bytes shows all]", chars - TEXT_CHARS_MAX);
    }
    Bytes { length: bytes.len(), text, hex: sources.bytes.then(|| hex(&masked)) }
}

fn answer(row: &AttemptRow, exchange: Option<&StoryExchange>, sources: &Sources<'_>) -> String {
    let carrier = &sources.loaded.place.carrier;
    if let Some(outcome) = exchange.and_then(|exchange| exchange.outcome.outcome()) {
        return why::answer(outcome, carrier);
    }
    let sender = match sources.lives.get(&row.incarnation) {
        Some(life) => {
            format!("worker {} on {}, incarnation {}", life.slot, one_line(&life.host), row.incarnation)
        }
        None => format!("incarnation {}", row.incarnation),
    };
    let reason = row.reason.map_or("no reason", reason_name);
    match row.state {
        state if state == AttemptState::Intent as i16 => {
            format!("its answer is not known, nor whether a byte left; it was handed out by {sender}")
        }
        _ if row.reason == Some(Outcome::Unknown(Doubt::SenderDied).reason().0) => format!(
            "its sender, {sender}, died before an answer was recorded; whether a byte left and whether money moved \
             is not known"
        ),
        state => format!(
            "{} ({reason}); the exchange itself is not at hand, it was made by {sender}",
            state_name::<AttemptState>(state)
        ),
    }
}

/// Who told what a decision went by.
fn on_message(seq: i64) -> &'static str {
    match seq {
        SEQ_FILE.. => "the carrier's file",
        SEQ_PEOPLE.. => "the decision of two people",
        _ => "the carrier's message",
    }
}

/// Each decision with the states that it moved, as kept; what only the tables know comes last.
fn decisions(row: &AttemptRow, sources: &Sources<'_>) -> Vec<Decided> {
    let no = row.attempt_no;
    let mut from = state_name::<AttemptState>(AttemptState::Intent as i16);
    let mut decided = Vec::new();
    let taken_over = sources.story(no, SEQ_TAKEOVER).is_some();
    let own = [(SEQ_EXCHANGE, "the answer"), (SEQ_TAKEOVER, "takeover"), (SEQ_EVIDENCE, "late evidence")];
    let mut told: Vec<i64> = sources
        .stories
        .keys()
        .filter(|(at, seq)| *at == no && *seq >= SEQ_CALLBACK)
        .map(|(_, seq)| *seq)
        .collect();
    // Who tells has a range of numbers each: what came first is told first.
    told.sort_unstable_by_key(|seq| (sources.story(no, *seq).map(|story| story.business_at_ms), *seq));
    for (seq, on) in own.into_iter().chain(told.into_iter().map(|seq| (seq, on_message(seq)))) {
        let Some(story) = sources.story(no, seq) else { continue };
        let decision = &story.decision;
        let to = state_name::<AttemptState>(decision.attempt_state);
        // The history is written before the tables: a worker that was fenced in between kept what it did not record.
        let recorded = row.state != AttemptState::Intent as i16 && !(seq == SEQ_EXCHANGE && taken_over);
        decided.push(Decided {
            on,
            proof: (story.why != 0 && (seq == SEQ_EVIDENCE || seq >= SEQ_FILE))
                .then(|| RuleWords::new(story.why)),
            rule: RuleWords::new(decision.rule),
            facts: facts(story, sources.loaded),
            attempt_from: from,
            attempt_to: to,
            charge: state_name::<ChargeState>(decision.charge_state),
            subscription: Some(state_name::<SubscriptionState>(decision.subscription_state)),
            next: next_words(decision, sources.charge, &sources.loaded.zone),
            recorded,
            message: story
                .exchange
                .as_ref()
                .filter(|_| seq >= SEQ_CALLBACK)
                .map(|exchange| shown_bytes(&exchange.response, sources)),
        });
        if recorded {
            from = to;
        }
    }
    let now = state_name::<AttemptState>(row.state);
    if from != now {
        decided.push(Decided {
            on: if decided.is_empty() { "the answer" } else { "what followed" },
            proof: None,
            rule: RuleWords::new(row.outcome_rule.unwrap_or(0)),
            facts: Vec::new(),
            attempt_from: from,
            attempt_to: now,
            charge: row.charge_state.map_or("waiting", state_name::<ChargeState>),
            subscription: None,
            next: None,
            recorded: true,
            message: None,
        });
    }
    decided
}
