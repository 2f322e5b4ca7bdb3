//! Words for decisions: why at this hour, what comes next, and the whole story in one sentence.

use billing_core::ids::{ChargeId, SubscriptionId};
use billing_core::outcome::{Hindrance, Moved, Outcome};
use billing_core::period::Period;
use billing_core::plan::PlanRules;
use billing_core::states::{AttemptState, ChargeState, State, SubscriptionState, from_number};
use billing_core::subscription::{NextKind, OpenAttempt, Subscription};
use billing_core::zone::Zone;
use jiff::Timestamp;

use super::story::Next;
use crate::words::{self, Amount, Moment};

/// The word for a kept state; `unlisted` for a number that this version does not know.
pub(crate) fn state_name<S: State>(number: i16) -> &'static str {
    from_number::<S>(number).map_or("unlisted", State::name)
}

/// Why a period's charge falls due when it does, line by line, and when that is.
pub(crate) fn schedule(
    rules: &PlanRules,
    zone: &Zone,
    sub: &Subscription,
    period: Period,
) -> (Vec<String>, Option<Timestamp>) {
    let schedule = &rules.schedule;
    let mut lines = Vec::new();
    let cadence = words::cadence(schedule.cadence, sub.anchor);
    let spread = match schedule.spread_minutes {
        0 | 1 => String::new(),
        minutes => format!(", new subscriptions spread over {minutes} minutes"),
    };
    lines.push(format!(
        "plan {} charges {cadence} at {} local time{spread}",
        rules.id,
        words::clock(schedule.at_minute)
    ));
    lines.push(format!(
        "this subscription's minute, fixed when it was created, is {} and its block of neighbours has second {}",
        words::clock(sub.anchor.minute),
        sub.id.due_offset_s()
    ));
    let window = schedule.window;
    lines.push(format!(
        "charging is allowed from {} to {} local time",
        words::clock(window.from_minute()),
        words::clock(window.to_minute())
    ));
    let due = schedule.explain_due(sub.anchor, period, zone, sub.id).ok();
    if let Some(due) = &due {
        lines.push(format!("in this zone that is {} = {}", zone.describe(due.at), due.at));
        if let Some(why) = &due.why {
            lines.push(format!(
                "by the schedule alone it would be {}; {}, so it moved",
                zone.describe(due.nominal),
                why.sentence()
            ));
        }
    }
    (lines, due.map(|due| due.at))
}

/// What a kept decision said would happen next.
pub(crate) fn next_of(
    next_kind: i16,
    next_at_ms: Option<i64>,
    same_period: bool,
    period: Period,
    zone: &Zone,
) -> Option<String> {
    let at = next_at_ms.map(|ms| zone.describe(words::timestamp(ms)));
    let kind = NextKind::from_number(next_kind)?;
    Some(match (kind, at) {
        (NextKind::Never, _) | (_, None) => "nothing more by itself".to_owned(),
        (NextKind::Due, Some(at)) if same_period => format!("first attempt at {at}"),
        (NextKind::Due, Some(at)) => format!("on with period {period}, due at {at}"),
        (NextKind::Retry, Some(at)) => format!("another attempt at {at}"),
        (NextKind::Deferred, Some(at)) => format!("the deferred attempt at {at}"),
        (NextKind::Deadline, Some(at)) => format!("the answer's deadline at {at}"),
        (NextKind::PeriodStart, Some(at)) => format!("the next period begins at {at}"),
        (NextKind::Reserved, Some(at)) => format!("what is set aside is collected or given back at {at}"),
        (NextKind::StateEnd, Some(at)) => format!("collecting begins, or goes on, at {at}"),
        (NextKind::Arrears, Some(at)) => format!("the arrears are tried at {at}"),
    })
}

/// What comes next for a charge, from its subscription's row as it is now.
pub(crate) fn next(charge: ChargeId, sub: &Subscription, aside: bool, zone: &Zone) -> Next {
    let at = &sub.progress;
    let moment = at.next_at.map(|at| Moment::new(at.as_millisecond(), zone));
    let only = |words: &str| Next { words: words.to_owned(), at: None };
    if charge.period > at.period {
        return only("this period lies ahead: nothing is done for it yet");
    }
    if aside {
        return only(
            "this charge is put aside and stays blocked until there is evidence; later periods go on",
        );
    }
    if charge.period < at.period {
        let id = ChargeId { subscription: SubscriptionId(sub.id.0), period: at.period };
        let words = format!("this charge is closed; the subscription is at {id}");
        return Next { words, at: moment };
    }
    if sub.flags & billing_core::subscription::FLAG_QUARANTINED != 0 {
        return only("nothing: the subscription is quarantined until people have looked at its data");
    }
    let over = matches!(at.state, SubscriptionState::Cancelled | SubscriptionState::Ended);
    if sub.stop_at.is_some() && !over {
        return only("nothing is sent any more: the subscriber said stop; its worker will mark it cancelled");
    }
    let words = match at.next_kind {
        NextKind::Never if at.open == OpenAttempt::None => {
            format!("nothing by itself: the subscription is {}", at.state.name())
        }
        NextKind::Never => "nothing until there is evidence on the open attempt".to_owned(),
        NextKind::Due => "its first attempt is due".to_owned(),
        NextKind::Retry => {
            let round = at.round + 1;
            format!("attempt {} is due (round {round}, {})", at.attempt_no + 1, step_words(at.step))
        }
        NextKind::Deferred => "the deferred attempt is due".to_owned(),
        NextKind::Reserved => "what is set aside is collected, or given back".to_owned(),
        NextKind::StateEnd => format!("the subscription is {} until then", at.state.name()),
        NextKind::Arrears => "its arrears are tried again".to_owned(),
        NextKind::Deadline => {
            "the carrier's answer is waited for; after its deadline the result is UNKNOWN".to_owned()
        }
        NextKind::PeriodStart if at.open == OpenAttempt::None => {
            "the next period begins before this charge could be tried again".to_owned()
        }
        NextKind::PeriodStart => {
            "nothing for this charge until there is evidence; when the next period begins it is put aside"
                .to_owned()
        }
    };
    Next { words, at: moment }
}

/// `full price`, `step 2 of the ladder`.
pub(crate) fn step_words(step: i16) -> String {
    if step == 0 { "full price".to_owned() } else { format!("step {step} of the ladder") }
}

/// What an outcome says, in one sentence.
pub(crate) fn answer(outcome: Outcome, carrier: &str) -> String {
    let reason = outcome.reason().name();
    let what = match outcome {
        Outcome::Charged { .. } => format!("{carrier} collected the amount"),
        Outcome::Partial { .. } => format!("{carrier} collected a part of the amount"),
        Outcome::Refunded { .. } => format!("{carrier} gave the amount back"),
        Outcome::Reserved => format!("{carrier} set the amount aside"),
        Outcome::Released => format!("{carrier} released the amount"),
        Outcome::Pending => format!("{carrier} accepted the request; its answer comes later"),
        Outcome::NeedsConsent => format!("{carrier} wants the subscriber's consent first"),
        Outcome::Declined(_) => format!("{carrier} refused: {reason}"),
        Outcome::Temporary { why, listed, after_ms } => {
            let how = match why {
                Hindrance::Throttled => "had too many requests",
                Hindrance::Busy => "was overloaded",
                Hindrance::Down => "was under maintenance",
            };
            let after = after_ms.map_or(String::new(), |ms| format!(", come back after {ms} ms"));
            let listed = if listed { "" } else { "; it does not declare that this processes nothing" };
            format!("{carrier} {how}{after}{listed}")
        }
        Outcome::Fault { listed, .. } => {
            let listed = if listed {
                " before processing it"
            } else {
                "; it does not declare that this processes nothing"
            };
            format!("{carrier} refused our request{listed}: {reason}")
        }
        Outcome::Duplicate => {
            format!("{carrier} has seen this key before and does not repeat its first answer")
        }
        Outcome::Absent => format!("it is proven that {carrier} never took the request into its books"),
        Outcome::NotSent(_) => format!("no byte left, with proof: {reason}"),
        Outcome::Unknown(_) => format!("nobody can say what {carrier} did: {reason}"),
    };
    let moved = match outcome.moved() {
        Moved::Yes(_) => "money moved",
        Moved::No => "money did not move",
        Moved::Unknown => "whether money moved is not known",
    };
    format!("{what}; {moved}")
}

/// What is known of a charge, for its sentence.
#[derive(Debug)]
pub(crate) struct Facts<'a> {
    pub(crate) state: ChargeState,
    pub(crate) due: Option<&'a Amount>,
    pub(crate) collected: &'a Amount,
    pub(crate) nothing_collected: bool,
    pub(crate) carrier: &'a str,
    pub(crate) period: &'a str,
    /// Its last attempt: number, state, reason, when it was decided on (local).
    pub(crate) last: Option<(i16, AttemptState, Option<&'static str>, String)>,
    /// What the last rule says.
    pub(crate) rule: Option<&'static str>,
    pub(crate) next_at: Option<String>,
    /// Whether the row says that something comes next for this very charge.
    pub(crate) goes_on: bool,
    /// Whether the history has an answer that the tables do not have.
    pub(crate) answer_kept: bool,
}

/// The story in one sentence.
pub(crate) fn sentence(facts: &Facts<'_>) -> String {
    let period = facts.period;
    let due = facts.due.map_or_else(|| "the price".to_owned(), ToString::to_string);
    let carrier = facts.carrier;
    let next = facts.next_at.as_deref().filter(|_| facts.goes_on);
    let because = facts.rule.map_or(String::new(), |rule| format!(": {rule}"));
    match (facts.state, &facts.last) {
        (_, Some((no, AttemptState::Intent, _, at))) if facts.answer_kept => format!(
            "Its answer is kept, but not recorded yet: attempt {no} for {period} was decided at {at}; its worker, or \
             the next one with its spool, records it."
        ),
        (_, Some((no, AttemptState::Intent, _, at))) => format!(
            "Its answer is not known: attempt {no} for {period} was decided at {at}, its intent is durable, and \
             there is neither an answer nor a decision yet; nothing more is sent for this charge before there is one."
        ),
        (_, Some((no, AttemptState::Unknown, reason, at))) => format!(
            "UNKNOWN: nobody can say whether {carrier} collected {due} for {period}; attempt {no}, sent at {at}, has \
             no usable answer ({}), and nothing more is sent for this charge until there is evidence.",
            reason.unwrap_or("no reason")
        ),
        (_, Some((no, AttemptState::InReview, ..))) => format!(
            "In review: only people can say whether {carrier} collected {due} for {period} with attempt {no}; \
             nothing more is sent for this charge."
        ),
        (_, Some((no, AttemptState::Accepted, _, at))) => format!(
            "Waiting: {carrier} accepted attempt {no} for {period} at {at}, and its answer comes later."
        ),
        (ChargeState::Settled, Some((no, _, _, at))) => {
            format!(
                "Paid: {} for {period} were collected by {carrier} with attempt {no} at {at}.",
                facts.collected
            )
        }
        (ChargeState::Reduced, Some((no, _, _, at))) => format!(
            "Paid by a smaller price: {} instead of {due} for {period} were collected by {carrier} with attempt {no} \
             at {at}{because}.",
            facts.collected
        ),
        (ChargeState::Open, Some((no, state, reason, at))) => {
            let so_far = if facts.nothing_collected {
                format!("Not paid yet: attempt {no} for {period} was {} at {at}", tried(*state, *reason))
            } else {
                format!("Part paid: {} of {due} for {period} are collected", facts.collected)
            };
            match next {
                Some(next) => format!("{so_far}; the next attempt is due at {next}."),
                None => format!("{so_far}{because}."),
            }
        }
        (ChargeState::Open, None) => match next {
            Some(next) => format!("Not tried yet: {due} for {period} fall due at {next}."),
            None => format!("Not tried: nothing is due for {period} any more{because}."),
        },
        (state, last) => {
            let tried = last.as_ref().map_or_else(
                || "it was never tried".to_owned(),
                |(no, state, reason, at)| format!("attempt {no} was {} at {at}", tried(*state, *reason)),
            );
            let got = if facts.nothing_collected {
                "nothing was collected".to_owned()
            } else {
                format!("{} of {due} were collected", facts.collected)
            };
            format!("{}: {got} for {period}; {tried}{because}.", headline(state))
        }
    }
}

fn tried(state: AttemptState, reason: Option<&'static str>) -> String {
    let state = match state {
        AttemptState::NotSent => "not sent",
        AttemptState::NotApplied => "not processed",
        other => other.name(),
    };
    reason
        .filter(|reason| *reason != "charged")
        .map_or_else(|| state.to_owned(), |why| format!("{state} ({why})"))
}

fn headline(state: ChargeState) -> &'static str {
    match state {
        ChargeState::WrittenOff => "Given up",
        ChargeState::Expired => "Expired",
        ChargeState::Skipped => "Skipped",
        ChargeState::Cancelled => "Cancelled",
        ChargeState::Merged => "Merged into another charge",
        ChargeState::Arrears => "In arrears",
        ChargeState::Reserved => "Reserved",
        ChargeState::Waiting => "Waiting",
        ChargeState::Settled => "Paid",
        ChargeState::Reduced => "Paid by a smaller price",
        ChargeState::Open => "Not paid yet",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts<'a>(state: ChargeState, amounts: &'a [Amount; 2]) -> Facts<'a> {
        Facts {
            state,
            due: Some(&amounts[0]),
            collected: &amounts[1],
            nothing_collected: amounts[1].amount == "0.000",
            carrier: "medina",
            period: "Tuesday 2026-12-01",
            last: None,
            rule: Some("why"),
            next_at: None,
            goes_on: true,
            answer_kept: false,
        }
    }

    #[test]
    fn every_state_has_a_sentence_that_does_not_claim_too_much() {
        let amounts = [Amount::new(1_500, 788), Amount::new(0, 788)];
        let last = |state, reason| Some((2, state, Some(reason), "09:00".to_owned()));
        let unknown =
            Facts { last: last(AttemptState::Unknown, "no_reply"), ..facts(ChargeState::Waiting, &amounts) };
        let text = sentence(&unknown);
        assert!(text.starts_with("UNKNOWN: nobody can say whether medina collected 1.500 TND"), "{text}");
        assert!(text.contains("until there is evidence"));
        let intent = Facts { last: last(AttemptState::Intent, ""), ..facts(ChargeState::Waiting, &amounts) };
        assert!(sentence(&intent).starts_with("Its answer is not known: attempt 2"));
        assert!(
            sentence(&Facts { answer_kept: true, ..intent })
                .starts_with("Its answer is kept, but not recorded")
        );
        let refused = Facts {
            last: last(AttemptState::Declined, "no_funds"),
            next_at: Some("12:00".into()),
            ..facts(ChargeState::Open, &amounts)
        };
        assert_eq!(
            sentence(&refused),
            "Not paid yet: attempt 2 for Tuesday 2026-12-01 was declined (no_funds) at 09:00; \
             the next attempt is due at 12:00."
        );
        let given_up = Facts {
            last: last(AttemptState::Declined, "no_funds"),
            ..facts(ChargeState::WrittenOff, &amounts)
        };
        assert!(sentence(&given_up).starts_with("Given up: nothing was collected"));
        assert!(sentence(&facts(ChargeState::Skipped, &amounts)).contains("it was never tried: why"));
        let part = [Amount::new(1_500, 788), Amount::new(500, 788)];
        let part = Facts { last: last(AttemptState::Approved, "charged"), ..facts(ChargeState::Open, &part) };
        assert_eq!(
            sentence(&part),
            "Part paid: 0.500 TND of 1.500 TND for Tuesday 2026-12-01 are collected: why."
        );
        for (state, _) in ChargeState::MOVES {
            assert!(!sentence(&facts(*state, &amounts)).is_empty());
        }
    }

    #[test]
    fn every_outcome_says_whether_money_moved() {
        for outcome in Outcome::all(5) {
            let text = answer(outcome, "medina");
            let doubtful = outcome.moved() == Moved::Unknown;
            assert_eq!(text.ends_with("whether money moved is not known"), doubtful, "{text}");
            assert_eq!(text.ends_with("; money moved"), matches!(outcome.moved(), Moved::Yes(_)), "{text}");
        }
    }
}
