//! `resolve`: what to do next about an attempt whose result is UNKNOWN, by what its carrier can prove. Pure.
//!
//! The carrier's means are used in one sequence: send the same request again (A), wait for the carrier's message (C),
//! ask (B), wait for its file (D), give it to people (E). Every instant and interval is machine time; nothing in here
//! can make a new key, and nothing settles by silence.

use jiff::{SignedDuration, Timestamp};

use crate::outcome::Outcome;
use crate::reason::Rule;

mod absence;
mod covering;
mod plan;
mod reading;
#[cfg(test)]
mod tests;

pub use absence::counted_not_found;
pub use covering::{Covered, awaited_file, first_gap};
pub use plan::Plan;
pub use reading::{Finding, Heard, Told, read_finding};

/// What a carrier declares about attempts whose answer was lost. Left out, each has the worst value. Milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Proof {
    /// A: the same request may be sent again.
    pub repeat: Option<Repeat>,
    /// C: the carrier tells by itself; after so long without a message the next means is used.
    pub callback_ms: Option<i64>,
    /// B: the carrier can be asked.
    pub inquiry: Option<Inquiry>,
    /// D: absence from its complete files counts so long after the last write.
    pub file_settle_ms: Option<i64>,
}

/// The carrier remembers our keys for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Repeat {
    /// For how long.
    pub window_ms: i64,
    /// How long before the end of the window repeats stop.
    pub margin_ms: i64,
}

/// The carrier answers questions about attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inquiry {
    /// It is asked by its own id, which is known only where an answer brought it.
    pub by_txn_id: bool,
    /// From how long after the last write on "not found" counts.
    pub settle_ms: i64,
    /// How many equal answers it needs.
    pub agree: u8,
    /// How far apart they are.
    pub spacing_ms: i64,
}

/// What is known of an UNKNOWN attempt.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// Now, machine time.
    pub now: Timestamp,
    /// When the intent became durable: from then on the carrier may know the key.
    pub intent_at: Timestamp,
    /// No write under this key began later: that of the request, of its last repeat, or the end of the lease of who
    /// may have died over it.
    pub last_write_at: Timestamp,
    /// Who made that write is neither dead nor fenced nor done: its request may still leave.
    pub may_still_write: bool,
    /// From the first byte to giving up, milliseconds.
    pub reply_timeout_ms: i64,
    /// A repeat would have the same body: the book under which it was sent is the one in force.
    pub same_body: bool,
    /// An answer named the carrier's own id.
    pub txn_id_known: bool,
    /// The first answer was that the carrier has seen this key before.
    pub seen_before: bool,
    /// What the carrier's complete files cover.
    pub files: &'a [Covered],
    /// A file or a message of the carrier names the attempt, whatever it says, and however much that counts: then
    /// its absence from other files proves nothing.
    pub named_elsewhere: bool,
    /// A repeat of a request that never arrived would collect what may not be collected now: the subscriber has said STOP
    /// or agrees no more, or nobody checked the caps.
    pub withdrawn: bool,
    /// The subscription is quarantined: nothing about it can be decided.
    pub quarantined: bool,
    /// What was asked so far, oldest first.
    pub asks: &'a [Ask],
    /// For the jitter: the same seed gives the same plan.
    pub seed: u64,
}

/// A question or a repeat, with what it brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ask {
    /// Which.
    pub kind: AskKind,
    /// When it was decided; no byte of it left earlier.
    pub asked_at: Timestamp,
    /// When its answer was kept; nothing was on its way any more.
    pub answered_at: Timestamp,
    /// What it brought.
    pub finding: Finding,
}

/// How the carrier is asked. The number is what the database keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(i16)]
pub enum AskKind {
    /// The same request again, under the same key.
    Resend = 1,
    /// A question what became of it; moves nothing.
    Inquiry = 2,
}

impl AskKind {
    /// The kind of a kept number.
    #[must_use]
    pub fn from_number(number: i16) -> Option<Self> {
        [Self::Resend, Self::Inquiry].into_iter().find(|kind| *kind as i16 == number)
    }

    /// The word for metrics and for people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Resend => "resend",
            Self::Inquiry => "inquiry",
        }
    }
}

/// What to do about an UNKNOWN attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Send the same request again, under the same key, not before this instant.
    Resend {
        /// Machine time.
        at: Timestamp,
    },
    /// Ask the carrier, not before this instant.
    Inquire {
        /// Machine time.
        at: Timestamp,
    },
    /// Nothing until then: the carrier may tell by itself.
    WaitUntil(Timestamp),
    /// It is proven.
    Settle {
        /// What became of it.
        outcome: Outcome,
        /// Why that counts.
        rule: Rule,
    },
    /// Only people can settle it; why.
    Review(Rule),
}

/// The next step of the resolution. Not earlier than the instant that it names; asked again when that has come.
#[must_use]
pub fn next_step(proof: &Proof, plan: &Plan, facts: &Facts<'_>) -> Step {
    let mut found = facts.asks.iter().filter_map(|ask| match ask.finding {
        Finding::Found(outcome) => Some((outcome, ask.kind)),
        _ => None,
    });
    if let Some((outcome, kind)) = found.next() {
        if found.any(|(other, _)| other != outcome) {
            return Step::Review(Rule::REVIEW_CONTRADICTION);
        }
        let rule = match kind {
            AskKind::Resend => Rule::RESOLVE_REPEATED,
            AskKind::Inquiry => Rule::RESOLVE_FOUND,
        };
        return Step::Settle { outcome, rule };
    }
    if facts.quarantined {
        return Step::Review(Rule::REVIEW_QUARANTINED);
    }
    let contradictions = facts.asks.iter().filter(|ask| ask.finding == Finding::Contradicts).count();
    if contradictions >= plan.contradictions_max {
        return Step::Review(Rule::REVIEW_CONTRADICTION);
    }
    if let Some(proven) = absent(proof, plan, facts) {
        return proven;
    }
    resend(proof, plan, facts)
        .or_else(|| wait_for_message(proof, facts))
        .or_else(|| inquire(proof, plan, facts))
        .or_else(|| wait_for_file(proof, plan, facts))
        .unwrap_or_else(|| people(proof, plan, facts))
}

/// Absence, where the carrier's declared proof is complete.
fn absent(proof: &Proof, plan: &Plan, facts: &Facts<'_>) -> Option<Step> {
    let by_inquiry = proof.inquiry.is_some_and(|inquiry| {
        counted_not_found(&inquiry, facts) >= usize::from(inquiry.agree) && !facts.may_still_write
    });
    let by_file = covering::absent_from_files(proof, plan, facts);
    if !by_inquiry && !by_file {
        return None;
    }
    // It said that it knows the key, and that it does not.
    if was_seen(facts) {
        return Some(Step::Review(Rule::REVIEW_CONTRADICTION));
    }
    let rule = if by_inquiry { Rule::RESOLVE_ABSENT } else { Rule::RESOLVE_FILE_ABSENT };
    Some(Step::Settle { outcome: Outcome::Absent, rule })
}

/// A: while the carrier remembers the key. A duplicate says that it does, and that nothing new comes of more repeats.
fn resend(proof: &Proof, plan: &Plan, facts: &Facts<'_>) -> Option<Step> {
    let repeat = proof.repeat?;
    if !facts.same_body || facts.withdrawn || was_seen(facts) {
        return None;
    }
    let done = facts.asks.iter().filter(|ask| ask.kind == AskKind::Resend).count();
    let alone = proof.inquiry.is_none() && proof.callback_ms.is_none() && proof.file_settle_ms.is_none();
    let gap_ms = plan.resend_gap_ms(done, alone)?;
    let at = after(
        last_ask(facts).unwrap_or(facts.intent_at),
        plan.jittered(gap_ms, facts.seed, facts.asks.len()),
    );
    let ends_at = after(facts.intent_at, repeat.window_ms.saturating_sub(repeat.margin_ms));
    (at.max(facts.now) < ends_at).then_some(Step::Resend { at })
}

/// C: until the deadline.
fn wait_for_message(proof: &Proof, facts: &Facts<'_>) -> Option<Step> {
    let deadline_at = after(facts.last_write_at, proof.callback_ms?);
    (facts.now < deadline_at).then_some(Step::WaitUntil(deadline_at))
}

/// B: soon, because what is found counts at once; then when "not found" begins to count; then ever more seldom.
fn inquire(proof: &Proof, plan: &Plan, facts: &Facts<'_>) -> Option<Step> {
    let inquiry = proof.inquiry?;
    let asked = facts.asks.iter().filter(|ask| ask.kind == AskKind::Inquiry).count();
    let settled_at = settles(facts, inquiry.settle_ms);
    let given_up_at = after(settled_at, plan.patience_ms);
    if (inquiry.by_txn_id && !facts.txn_id_known) || asked >= plan.inquiries_max || facts.now >= given_up_at {
        return None;
    }
    let from = last_ask(facts).unwrap_or(facts.last_write_at).max(facts.last_write_at);
    let planned = after(from, plan.jittered(plan.inquiry_gap_ms(asked), facts.seed, facts.asks.len()));
    let late_ms = plan.late_ms(inquiry.spacing_ms, facts.seed, facts.asks.len());
    let at = match from <= settled_at {
        // The first answer that counts is worth having as soon as it counts.
        true => planned.min(after(settled_at, late_ms)),
        false if counted_not_found(&inquiry, facts) > 0 => {
            after(from, inquiry.spacing_ms.saturating_add(late_ms))
        }
        false => planned,
    };
    Some(Step::Inquire { at })
}

/// D: until the files have come, for as long as files may take.
fn wait_for_file(proof: &Proof, plan: &Plan, facts: &Facts<'_>) -> Option<Step> {
    let settled_at = settles(facts, proof.file_settle_ms?);
    let given_up_at = after(settled_at, plan.file_patience_ms);
    match facts.now {
        now if now <= settled_at => Some(Step::WaitUntil(after(settled_at, 1))),
        now if now < given_up_at => Some(Step::WaitUntil(after(now, plan.file_look_ms).min(given_up_at))),
        _ => None,
    }
}

/// E. Late answers of a restarted worker get a moment first.
fn people(proof: &Proof, plan: &Plan, facts: &Facts<'_>) -> Step {
    let at = after(facts.last_write_at, plan.review_after_ms);
    if facts.now < at {
        return Step::WaitUntil(at);
    }
    let unkeyed = proof.inquiry.is_some_and(|inquiry| inquiry.by_txn_id && !facts.txn_id_known);
    Step::Review(match () {
        () if proof.file_settle_ms.is_some() && facts.named_elsewhere => Rule::REVIEW_CONTRADICTION,
        () if proof.file_settle_ms.is_some() => Rule::REVIEW_FILE_MISSING,
        () if was_seen(facts) => Rule::REVIEW_DUPLICATE,
        () if facts.withdrawn && proof.repeat.is_some() => Rule::REVIEW_WITHDRAWN,
        () if unkeyed && proof.repeat.is_none() => Rule::REVIEW_NO_KEY,
        () if *proof == Proof::default() => Rule::REVIEW_NO_PROOF,
        () => Rule::REVIEW_EXHAUSTED,
    })
}

/// From when on absence counts: no request can be on its way, and the carrier had the time that it declares.
fn settles(facts: &Facts<'_>, settle_ms: i64) -> Timestamp {
    after(facts.last_write_at, settle_ms.saturating_add(facts.reply_timeout_ms))
}

/// The carrier said that it has seen the key before.
fn was_seen(facts: &Facts<'_>) -> bool {
    facts.seen_before || facts.asks.iter().any(|ask| ask.finding == Finding::Duplicate)
}

fn last_ask(facts: &Facts<'_>) -> Option<Timestamp> {
    facts.asks.iter().map(|ask| ask.answered_at).max()
}

fn after(at: Timestamp, ms: i64) -> Timestamp {
    at.checked_add(SignedDuration::from_millis(ms.max(0))).unwrap_or(Timestamp::MAX)
}
