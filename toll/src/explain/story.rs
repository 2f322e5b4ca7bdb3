//! What is explained, as an object: `--json` prints it, [`super::render`] tells it.

use serde::Serialize;

use crate::words::{Amount, Moment, RuleWords};

/// A charge and everything that is known of it.
#[derive(Debug, Serialize)]
pub(crate) struct Explanation {
    pub(crate) charge: String,
    /// The story in one sentence.
    pub(crate) sentence: String,
    pub(crate) state: &'static str,
    pub(crate) due: Option<Amount>,
    pub(crate) collected: Amount,
    pub(crate) period: String,
    pub(crate) merchant: String,
    pub(crate) service: Option<String>,
    pub(crate) plan: String,
    pub(crate) carrier: String,
    pub(crate) subscription: String,
    pub(crate) subscription_state: &'static str,
    pub(crate) quarantined: bool,
    pub(crate) stop: Option<Moment>,
    /// Masked, unless revealing was asked for.
    pub(crate) msisdn: Option<String>,
    pub(crate) zone: String,
    /// Why it fell due when it did.
    pub(crate) schedule: Vec<String>,
    pub(crate) due_at: Option<Moment>,
    pub(crate) attempts: Vec<Attempt>,
    pub(crate) notes: Vec<Note>,
    pub(crate) transfers: Vec<Transfer>,
    pub(crate) grants: Vec<Grant>,
    /// The attempt that blocks the charge.
    pub(crate) open: Option<Open>,
    pub(crate) next: Next,
    pub(crate) cases: Vec<Case>,
    /// What could not be read.
    pub(crate) missing: Vec<String>,
}

/// One request and what became of it.
#[derive(Debug, Serialize)]
pub(crate) struct Attempt {
    pub(crate) id: String,
    pub(crate) number: i16,
    pub(crate) operation: String,
    pub(crate) amount: Amount,
    /// Round of the dunning schedule, from 1.
    pub(crate) round: i16,
    /// Step of the ladder; 0 is the full price.
    pub(crate) step: i16,
    pub(crate) state: &'static str,
    /// Why it was sent.
    pub(crate) why: RuleWords,
    pub(crate) decided_to_send_at: Moment,
    pub(crate) due_at: Option<Moment>,
    pub(crate) not_after: Moment,
    /// Machine time of the commit that made it durable, before a byte left.
    pub(crate) durable_at: String,
    pub(crate) book_version: i32,
    pub(crate) our_ref: String,
    pub(crate) sender: Sender,
    pub(crate) exchange: Option<Exchange>,
    /// What the carrier said, in one sentence.
    pub(crate) answer: String,
    pub(crate) reason: Option<&'static str>,
    pub(crate) moved: Option<Amount>,
    pub(crate) carrier_code: Option<String>,
    pub(crate) carrier_txn_id: Option<String>,
    /// What was asked about it while its result was unknown, oldest first.
    pub(crate) asked: Vec<Asked>,
    /// Business time of the decision on its final answer.
    pub(crate) decided_at: Option<Moment>,
    pub(crate) decisions: Vec<Decided>,
    #[serde(skip)]
    pub(crate) sort_ms: i64,
}

/// The same request again, or a question, about an attempt whose result was unknown.
#[derive(Debug, Serialize)]
pub(crate) struct Asked {
    /// Its number, from 1.
    pub(crate) number: i64,
    /// Why it was asked.
    pub(crate) why: RuleWords,
    pub(crate) exchange: Exchange,
    /// What the carrier said, in one sentence.
    pub(crate) answer: String,
    /// How much of that counts.
    pub(crate) rule: RuleWords,
}

/// The process that sent.
#[derive(Debug, Serialize)]
pub(crate) struct Sender {
    /// As text: it has 64 bits.
    pub(crate) incarnation: String,
    pub(crate) slot: Option<i32>,
    pub(crate) host: Option<String>,
    pub(crate) spool: Option<String>,
    /// When it was fenced or left; `None` while it lives.
    pub(crate) fenced_at: Option<String>,
}

/// What went over the wire.
#[derive(Debug, Serialize)]
pub(crate) struct Exchange {
    /// Whether a byte may have left.
    pub(crate) wrote: bool,
    pub(crate) sent_at: Option<String>,
    pub(crate) answered_at: String,
    pub(crate) latency_us: u32,
    pub(crate) request: Bytes,
    pub(crate) response: Bytes,
    pub(crate) alert: Option<String>,
}

/// Bytes as they went, the line's number masked.
#[derive(Debug, Serialize)]
pub(crate) struct Bytes {
    pub(crate) length: usize,
    pub(crate) text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) hex: Option<String>,
}

/// A decision and the states that it moved.
#[derive(Debug, Serialize)]
pub(crate) struct Decided {
    /// On what: `the answer`, `late evidence`, `takeover`.
    pub(crate) on: &'static str,
    /// Why that is evidence, where the resolution of the unknown attempt brought it.
    pub(crate) proof: Option<RuleWords>,
    pub(crate) rule: RuleWords,
    /// What the rule looked at, each as a phrase; empty where that was not kept.
    pub(crate) facts: Vec<String>,
    pub(crate) attempt_from: &'static str,
    pub(crate) attempt_to: &'static str,
    pub(crate) charge: &'static str,
    pub(crate) subscription: Option<&'static str>,
    pub(crate) next: Option<String>,
    /// `false`: it was kept, but another decision was recorded.
    pub(crate) recorded: bool,
    /// The carrier's own message, or what people wrote, that was decided on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) message: Option<Bytes>,
}

/// What happened without an attempt.
#[derive(Debug, Serialize)]
pub(crate) struct Note {
    pub(crate) kind: &'static str,
    pub(crate) at: Moment,
    pub(crate) rule: RuleWords,
    /// What the rule looked at, each as a phrase; empty where that was not kept.
    pub(crate) facts: Vec<String>,
    pub(crate) charge: &'static str,
    pub(crate) subscription: Option<&'static str>,
    pub(crate) until: Option<Moment>,
    pub(crate) next: Option<String>,
    #[serde(skip)]
    pub(crate) sort_ms: i64,
}

/// Money in the books.
#[derive(Debug, Serialize)]
pub(crate) struct Transfer {
    pub(crate) attempt: i16,
    pub(crate) kind: &'static str,
    pub(crate) debit: String,
    pub(crate) credit: String,
    pub(crate) amount: Amount,
    pub(crate) business_date: String,
}

/// What the subscriber may use because of it.
#[derive(Debug, Serialize)]
pub(crate) struct Grant {
    pub(crate) attempt: i16,
    pub(crate) from: Moment,
    /// `None` for good.
    pub(crate) until: Option<Moment>,
}

/// The attempt that blocks the charge.
#[derive(Debug, Serialize)]
pub(crate) struct Open {
    pub(crate) attempt: i16,
    pub(crate) state: &'static str,
    /// Machine time.
    pub(crate) since: String,
    pub(crate) for_how_long: String,
    pub(crate) amount: Amount,
    pub(crate) blocks: String,
    pub(crate) settled_by: String,
    pub(crate) deadline: Option<Moment>,
}

/// What comes next.
#[derive(Debug, Serialize)]
pub(crate) struct Next {
    pub(crate) words: String,
    pub(crate) at: Option<Moment>,
}

/// A case for people.
#[derive(Debug, Serialize)]
pub(crate) struct Case {
    pub(crate) number: i64,
    pub(crate) kind: String,
    pub(crate) opened_at: String,
    pub(crate) what: String,
}
