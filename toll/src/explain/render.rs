//! An explanation as text: the sentence first, then what, why, each attempt, the money, and what comes next.

use super::story::{Asked, Attempt, Bytes, Decided, Exchange, Explanation, Note};
use super::why::step_words;
use crate::out::{Paint, Table};
use crate::words;

/// The whole story.
pub(super) fn text(story: &Explanation, paint: Paint) -> String {
    let mut page = Page { text: String::new(), paint };
    page.text += &format!("{}\n{}\n\n", paint.bold(&story.charge), story.sentence);
    page.what(story);
    if !story.schedule.is_empty() {
        page.head("Why then");
        story.schedule.iter().for_each(|line| page.text += &format!("  {line}\n"));
    }
    page.timeline(story);
    page.money(story);
    page.rest(story);
    page.text
}

struct Page {
    text: String,
    paint: Paint,
}

impl Page {
    fn head(&mut self, words: &str) {
        self.text += &format!("\n{}\n", self.paint.bold(words));
    }

    fn field(&mut self, name: &str, value: &str) {
        let name = self.paint.dim(&format!("{name:<10}"));
        self.text += &format!("  {name} {value}\n");
    }

    fn what(&mut self, story: &Explanation) {
        let due = story.due.as_ref().map_or_else(|| "an unknown price".to_owned(), ToString::to_string);
        let service = story.service.as_ref().map_or(String::new(), |service| format!(", service {service}"));
        self.field("what", &format!("{due} for {}", story.period));
        self.field("plan", &format!("{} (merchant {}{service})", story.plan, story.merchant));
        self.field("carrier", &story.carrier);
        let line = story.msisdn.as_deref().unwrap_or("not readable here");
        self.field("who", &format!("{} ({}), line {line}", story.subscription, story.subscription_state));
        self.field("zone", &story.zone);
        self.field("state", &format!("{}, {} of {due} collected", story.state, story.collected));
        if let Some(due_at) = &story.due_at {
            self.field("due", &due_at.to_string());
        }
        if let Some(stop) = &story.stop {
            self.field("stop", &format!("since {stop}"));
        }
        if story.quarantined {
            self.field("quarantine", "people must look at this subscription's data; nothing is sent");
        }
    }

    fn timeline(&mut self, story: &Explanation) {
        let mut notes = story.notes.iter().peekable();
        for attempt in &story.attempts {
            while let Some(note) = notes.next_if(|note| note.sort_ms <= attempt.sort_ms) {
                self.note(note);
            }
            self.attempt(attempt);
        }
        notes.for_each(|note| self.note(note));
    }

    fn note(&mut self, note: &Note) {
        self.head(&format!("Noted: {}", note.kind));
        self.field("when", &note.at.to_string());
        self.field("why", &note.rule.to_string());
        self.facts(&note.facts);
        if let Some(until) = &note.until {
            self.field("until", &until.to_string());
        }
        let subscription = note.subscription.map_or(String::new(), |state| format!(", subscription {state}"));
        self.field("then", &format!("charge {}{subscription}", note.charge));
        if let Some(next) = &note.next {
            self.field("next", next);
        }
    }

    fn attempt(&mut self, attempt: &Attempt) {
        let reason = attempt.reason.map_or(String::new(), |reason| format!(" ({reason})"));
        self.head(&format!(
            "Attempt {}: {} {}, {}{reason}",
            attempt.number, attempt.operation, attempt.amount, attempt.state
        ));
        self.field("id", &format!("{}, round {}, {}", attempt.id, attempt.round, step_words(attempt.step)));
        self.field("why", &attempt.why.to_string());
        self.field("when", &attempt.decided_to_send_at.to_string());
        if let Some(due_at) = &attempt.due_at {
            self.field("was due", &due_at.to_string());
        }
        self.field(
            "durable",
            &format!("{} (machine time), book version {}", attempt.durable_at, attempt.book_version),
        );
        self.field("not after", &attempt.not_after.to_string());
        self.field("our key", &attempt.our_ref);
        let sender = &attempt.sender;
        let place = match (sender.slot, &sender.host, &sender.spool) {
            (Some(slot), Some(host), Some(spool)) => format!("worker {slot} on {host}, spool {spool}, "),
            _ => String::new(),
        };
        let fenced = sender.fenced_at.as_ref().map_or(String::new(), |at| format!(", over since {at}"));
        self.field("sent by", &format!("{place}incarnation {}{fenced}", sender.incarnation));
        if let Some(exchange) = &attempt.exchange {
            self.wire(exchange);
        }
        self.field("carrier", &attempt.answer);
        let code = attempt.carrier_code.as_ref().map(|code| format!("code {code}"));
        let id = attempt.carrier_txn_id.as_ref().map(|id| format!("its id {id}"));
        let own: Vec<String> = code.into_iter().chain(id).collect();
        if !own.is_empty() {
            self.field("", &own.join(", "));
        }
        if let Some(alert) = attempt.exchange.as_ref().and_then(|exchange| exchange.alert.as_ref()) {
            let alert = self.paint.warn(alert);
            self.field("alert", &alert);
        }
        attempt.asked.iter().for_each(|asked| self.asked(asked));
        if let Some(moved) = &attempt.moved {
            self.field("moved", &moved.to_string());
        }
        if let Some(decided_at) = &attempt.decided_at {
            self.field("decided at", &decided_at.to_string());
        }
        attempt.decisions.iter().for_each(|decided| self.decided(decided));
    }

    fn asked(&mut self, asked: &Asked) {
        self.field("asked", &format!("{}: {}", asked.number, asked.why));
        self.wire(&asked.exchange);
        self.field("carrier", &asked.answer);
        if let Some(alert) = &asked.exchange.alert {
            let alert = self.paint.warn(alert);
            self.field("alert", &alert);
        }
        self.field("counts as", &asked.rule.to_string());
    }

    fn wire(&mut self, exchange: &Exchange) {
        match (&exchange.sent_at, exchange.wrote) {
            (Some(at), true) => {
                let after = words::span_us(i64::from(exchange.latency_us));
                self.field("wire", &format!("first byte {at}, answered or given up after {after}"));
            }
            (None, true) => self.field("wire", "a byte may have left"),
            (_, false) => self.field("wire", "no byte left"),
        }
        self.bytes("request", &exchange.request);
        self.bytes("answer", &exchange.response);
    }

    fn bytes(&mut self, name: &str, bytes: &Bytes) {
        if bytes.length == 0 {
            self.field(name, "empty");
            return;
        }
        self.field(name, &words::count(bytes.length, "byte"));
        let bar = self.paint.dim("|");
        for line in bytes.text.lines().chain(bytes.hex.iter().flat_map(|hex| hex.lines())) {
            self.text += &format!("    {bar} {line}\n");
        }
    }

    fn facts(&mut self, facts: &[String]) {
        if !facts.is_empty() {
            self.field("", &format!("looked at: {}", facts.join("; ")));
        }
    }

    fn decided(&mut self, decided: &Decided) {
        let subscription =
            decided.subscription.map_or(String::new(), |state| format!(", subscription {state}"));
        let recorded = if decided.recorded { "" } else { " (kept, but not recorded)" };
        if let Some(message) = &decided.message {
            self.bytes("message", message);
        }
        self.field(
            "decided",
            &format!(
                "on {}: {} → {}, charge {}{subscription}{recorded}",
                decided.on, decided.attempt_from, decided.attempt_to, decided.charge
            ),
        );
        if let Some(proof) = &decided.proof {
            self.field("", &proof.to_string());
        }
        self.field("", &decided.rule.to_string());
        self.facts(&decided.facts);
        if let Some(next) = &decided.next {
            self.field("then", next);
        }
    }

    fn money(&mut self, story: &Explanation) {
        if !story.transfers.is_empty() {
            self.head("Money");
            let mut table = Table::new(&["ATTEMPT", "KIND", ">AMOUNT", "DEBIT", "CREDIT", "BUSINESS DATE"]);
            for transfer in &story.transfers {
                table.row(vec![
                    moved_by(transfer.attempt),
                    transfer.kind.to_owned(),
                    transfer.amount.to_string(),
                    transfer.debit.clone(),
                    transfer.credit.clone(),
                    transfer.business_date.clone(),
                ]);
            }
            self.text += &table.render(2, self.paint);
        }
        if !story.grants.is_empty() {
            self.head("Access");
            for grant in &story.grants {
                let until = grant
                    .until
                    .as_ref()
                    .map_or_else(|| "for good".to_owned(), |until| format!("until {until}"));
                self.text += &format!("  from {} {until} ({})\n", grant.from, attempt_words(grant.attempt));
            }
        }
    }

    fn rest(&mut self, story: &Explanation) {
        if let Some(open) = &story.open {
            self.head("Open");
            let state = self.paint.warn(&open.state.to_uppercase());
            self.field("attempt", &format!("{} over {}, {state}", open.attempt, open.amount));
            self.field("since", &format!("{} ({})", open.since, open.for_how_long));
            self.field("blocks", &open.blocks);
            self.field("settled by", &open.settled_by);
            if let Some(deadline) = &open.deadline {
                self.field("deadline", &deadline.to_string());
            }
        }
        self.head("Next");
        self.text += &format!("  {}\n", story.next.words);
        if let Some(at) = &story.next.at {
            self.text += &format!("  {at}\n");
        }
        if !story.cases.is_empty() {
            self.head("Cases for people");
            for case in &story.cases {
                self.text +=
                    &format!("  {} {} ({}): {}\n", case.number, case.kind, case.opened_at, case.what);
            }
        }
        if !story.missing.is_empty() {
            self.head("Not at hand");
            story.missing.iter().for_each(|what| self.text += &format!("  {what}\n"));
        }
    }
}
/// Whose transfer it is: an attempt by its number; what a carrier took back by itself has one below 0.
fn moved_by(attempt_no: i16) -> String {
    if attempt_no < 0 { format!("reversal {}", attempt_no.unsigned_abs()) } else { attempt_no.to_string() }
}

fn attempt_words(attempt_no: i16) -> String {
    if attempt_no < 0 { moved_by(attempt_no) } else { format!("attempt {attempt_no}") }
}
