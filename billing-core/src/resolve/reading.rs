//! What an exchange of the resolution proves. Less than the first answer does: the first request may have been
//! applied whatever a later one meets.

use super::AskKind;
use crate::outcome::{Doubt, Op, Outcome, Refusal};
use crate::reason::Rule;

/// What a question or a repeat brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finding {
    /// What became of the attempt; counts at once.
    Found(Outcome),
    /// The carrier does not know it; counts only as [`super::counted_not_found`] says.
    NotFound,
    /// The carrier knows it and is not done.
    StillWorking,
    /// The carrier has seen the key and does not say what became of it: never a refusal.
    Duplicate,
    /// It names another amount, currency, line, key or operation: believed in nothing.
    Contradicts,
    /// Nothing was learned.
    NoAnswer,
    /// No byte left.
    NotSent,
}

impl Finding {
    /// The number that the database keeps.
    #[must_use]
    pub fn number(self) -> i16 {
        match self {
            Self::Found(_) => 1,
            Self::NotFound => 2,
            Self::StillWorking => 3,
            Self::Duplicate => 4,
            Self::Contradicts => 5,
            Self::NoAnswer => 6,
            Self::NotSent => 7,
        }
    }

    /// The finding of a kept number; `outcome` is what was found, where something was.
    #[must_use]
    pub fn from_number(number: i16, outcome: Option<Outcome>) -> Option<Self> {
        Some(match number {
            1 => Self::Found(outcome?),
            2 => Self::NotFound,
            3 => Self::StillWorking,
            4 => Self::Duplicate,
            5 => Self::Contradicts,
            6 => Self::NoAnswer,
            7 => Self::NotSent,
            _ => return None,
        })
    }

    /// The word for metrics and for people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Found(_) => "found",
            Self::NotFound => "not_found",
            Self::StillWorking => "still_working",
            Self::Duplicate => "duplicate",
            Self::Contradicts => "contradicts",
            Self::NoAnswer => "no_answer",
            Self::NotSent => "not_sent",
        }
    }

    /// The rule that says how much of it counts.
    #[must_use]
    pub fn rule(self, kind: AskKind) -> Rule {
        match (self, kind) {
            (Self::Found(_), AskKind::Resend) => Rule::RESOLVE_REPEATED,
            (Self::Found(_), AskKind::Inquiry) => Rule::RESOLVE_FOUND,
            (Self::NotFound, _) => Rule::RESOLVE_NOT_FOUND,
            (Self::StillWorking, _) => Rule::RESOLVE_WORKING,
            (Self::Duplicate, _) => Rule::DUPLICATE_ASKS,
            (Self::Contradicts, _) => Rule::RESOLVE_CONTRADICTS,
            (Self::NoAnswer | Self::NotSent, _) => Rule::RESOLVE_NOTHING,
        }
    }
}

/// What came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// The answer to a repeat.
    Repeated(Outcome),
    /// The answer to a question.
    Inquired(Told),
}

/// What a question came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// The carrier knows the attempt, and says what became of it.
    Found(Outcome),
    /// The carrier does not know it.
    NotFound,
    /// The carrier is not done with it.
    StillWorking,
    /// Nothing that can be read; why.
    NoAnswer(Doubt),
}

/// What an exchange about an attempt proves. `wrote`: a byte of it may have left.
#[must_use]
pub fn read_finding(op: Op, asked_minor: i64, wrote: bool, heard: Heard) -> Finding {
    if !wrote {
        return Finding::NotSent;
    }
    match heard {
        Heard::Repeated(Outcome::Duplicate) => Finding::Duplicate,
        Heard::Repeated(Outcome::Pending) => Finding::StillWorking,
        // What it did not process now it may have processed before, and a mistake of ours says nothing about the first.
        Heard::Repeated(
            Outcome::Temporary { .. } | Outcome::Fault { .. } | Outcome::NotSent(_) | Outcome::NeedsConsent,
        )
        | Heard::Repeated(Outcome::Absent) => Finding::NoAnswer,
        Heard::Repeated(Outcome::Unknown(doubt)) | Heard::Inquired(Told::NoAnswer(doubt)) => doubtful(doubt),
        Heard::Inquired(Told::NotFound) => Finding::NotFound,
        Heard::Inquired(Told::StillWorking) => Finding::StillWorking,
        Heard::Repeated(outcome) | Heard::Inquired(Told::Found(outcome)) => found(op, asked_minor, outcome),
    }
}

fn doubtful(doubt: Doubt) -> Finding {
    match doubt {
        Doubt::Contradictory => Finding::Contradicts,
        Doubt::NoReply | Doubt::Unreadable | Doubt::Unlisted | Doubt::SenderDied => Finding::NoAnswer,
    }
}

/// Only what can be the result of this very request.
fn found(op: Op, asked_minor: i64, outcome: Outcome) -> Finding {
    let fits = match outcome {
        Outcome::Charged { amount_minor } => op.collects() && amount_minor == asked_minor,
        Outcome::Partial { amount_minor } => {
            matches!(op, Op::Charge | Op::Confirm) && (1..asked_minor).contains(&amount_minor)
        }
        Outcome::Refunded { amount_minor } => op == Op::Refund && amount_minor == asked_minor,
        Outcome::Reserved => op == Op::Reserve,
        Outcome::Released => op == Op::Cancel,
        Outcome::Declined(
            Refusal::NoFunds
            | Refusal::Barred
            | Refusal::UnknownSubscriber
            | Refusal::Limit(_)
            | Refusal::SubscriberRefused
            | Refusal::NotAllowed
            | Refusal::Expired,
        ) => true,
        _ => false,
    };
    if fits { Finding::Found(outcome) } else { Finding::Contradicts }
}
