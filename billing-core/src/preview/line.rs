//! A step as one line that people read, and that a story keeps.

use jiff::Timestamp;

use super::{Said, Step, StepKind};
use crate::book::values::minute_text;
use crate::money::{Currency, Money};
use crate::reason::Rule;
use crate::states::{ChargeState, State};
use crate::subscription::NextKind;
use crate::zone::Zone;

/// How amounts are written.
#[derive(Debug, Clone, Copy)]
pub struct Amounts(pub Currency);

impl Amounts {
    /// `0.500 TND` of minor units.
    #[must_use]
    pub fn text(self, minor: i64) -> String {
        format!("{} {}", self.bare(minor), self.0.code())
    }

    /// `0.500` of minor units.
    #[must_use]
    pub fn bare(self, minor: i64) -> String {
        Money::new(minor, self.0).to_decimal().to_string()
    }
}

/// The step as one line: local time, what happened to which charge, where everything stands, the rules.
///
/// `2026-12-01 06:31  charge 20261201 attempt 1, 0.500 TND: no_funds -> charge open, pending; next 2026-12-01 10:31
/// (retry)  [due.send, dunning.round]`
#[must_use]
pub fn line(step: &Step, before: Option<&Step>, amounts: Amounts) -> String {
    let zone = &step.zone;
    let mut line = format!("{}  {}", local(step.at, zone), what(step, amounts));
    line += &format!(" -> charge {}", step.charge.name());
    if step.charge_collected_minor > 0 && step.charge != ChargeState::Settled {
        let (paid, due) = (amounts.bare(step.charge_collected_minor), amounts.bare(step.due_minor));
        line += &format!(" with {paid} of {due} paid");
    }
    line += &format!(", {}", step.state.name());
    if step.access_until != before.and_then(|before| before.access_until)
        && let Some(until) = step.access_until
    {
        line += &format!("; access until {}", local(until, zone));
    }
    if let Some((at, kind)) = step.next {
        line += &format!("; next {} ({})", local(at, zone), kind_word(kind));
    }
    let sent_by = match &step.kind {
        StepKind::Attempt { sent_by, .. } => Some(*sent_by),
        _ => None,
    };
    let rules: Vec<&str> = sent_by.into_iter().chain(step.rule).map(Rule::id).collect();
    if rules.is_empty() { line } else { line + &format!("  [{}]", rules.join(", ")) }
}

fn what(step: &Step, amounts: Amounts) -> String {
    let period = step.period;
    match &step.kind {
        StepKind::Attempt { op, attempt_no, amount_minor, answer, .. } => {
            let amount = amounts.text(*amount_minor);
            format!("{} {period} attempt {attempt_no}, {amount}: {}", op.name(), said(*answer, amounts))
        }
        StepKind::Evidence { attempt_no, answer, .. } => {
            format!("evidence on {period} attempt {attempt_no}: {}", said(*answer, amounts))
        }
        StepKind::Note => format!("nothing sent for {period}"),
        StepKind::Happened(what) => format!("{what}, at {period}"),
    }
}

fn said(said: Said, amounts: Amounts) -> String {
    match said {
        Said::Part(minor) => format!("partial {}", amounts.bare(minor)),
        other => other.word().to_owned(),
    }
}

fn local(at: Timestamp, zone: &Zone) -> String {
    let (date, minute) = zone.local(at);
    format!("{date} {}", minute_text(minute))
}

fn kind_word(kind: NextKind) -> &'static str {
    match kind {
        NextKind::Never => "never",
        NextKind::Due => "due",
        NextKind::Retry => "retry",
        NextKind::Deferred => "deferred",
        NextKind::Deadline => "deadline",
        NextKind::PeriodStart => "next period",
        NextKind::Reserved => "reserved",
        NextKind::StateEnd => "state ends",
        NextKind::Arrears => "arrears",
    }
}
