//! The balance check: an exchange beside an attempt. It moves nothing, has no intent, and its answer is advice: kept in
//! memory for as long as it counts, and in the history as bytes.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use billing_core::outcome::Op;
use billing_core::reason::Rule;
use billing_core::subscription::{Planned, Progress};
use billing_core::triage::{Balance, BalanceAnswer};
use carriers::{BalanceCap, Finding, Reply};
use storage::history::seal::Sealer;
use storage::history::{HistoryKey, SealedRow};
use storage::pg::Lease;
use storage::story::{STORY_VERSION, Story, StoryDecision, StoryExchange, StoryOutcome};

use crate::stripe::Flight;

/// `seq` of a balance check's history row: this and the subscription's `rev`, so that it stands behind the attempt's own.
pub(crate) const SEQ_BALANCE: i64 = 1 << 32;

/// Answers that are held at once; when there are more, those of which nobody made use go first.
const ANSWERS_MAX: usize = 100_000;

/// What was said of a line, and when.
#[derive(Debug, Clone, Copy)]
struct Kept {
    answer: BalanceAnswer,
    at_ms: i64,
    /// The triage that asked has not seen it yet: for that one it is new, however short it counts.
    fresh: bool,
}

/// The last answers, by subscriber.
#[derive(Debug, Default)]
pub(crate) struct Balances {
    kept: Mutex<HashMap<i64, Kept>>,
}

impl Balances {
    /// What is known of a line that still counts; `valid_ms` as the carrier says it.
    pub(crate) fn of(&self, subscriber_id: i64, valid_ms: i64, now_ms: i64) -> Option<Balance> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let found = kept.get_mut(&subscriber_id)?;
        let fresh = std::mem::take(&mut found.fresh);
        let age_ms = if fresh { 0 } else { now_ms.saturating_sub(found.at_ms).max(0) };
        let balance = Balance { answer: found.answer, age_ms };
        let unavailable = balance.answer == BalanceAnswer::Unavailable;
        // That nothing was learned is known once, not for a while.
        if age_ms >= valid_ms || unavailable {
            kept.remove(&subscriber_id);
        }
        (fresh || age_ms < valid_ms || unavailable).then_some(balance)
    }

    /// Money was collected from these: what was said of them is no longer true.
    pub(crate) fn forget(&self, subscriber_ids: impl Iterator<Item = i64>) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if !kept.is_empty() {
            subscriber_ids.for_each(|id| {
                kept.remove(&id);
            });
        }
    }

    /// Keeps an answer.
    pub(crate) fn keep(&self, subscriber_id: i64, answer: BalanceAnswer, now_ms: i64) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= ANSWERS_MAX {
            kept.retain(|_, answer| answer.fresh);
        }
        if kept.len() < ANSWERS_MAX {
            kept.insert(subscriber_id, Kept { answer, at_ms: now_ms, fresh: true });
        }
    }
}

/// Whether the carrier's balance is asked for at this point of a charge, as the carrier declares.
pub(crate) fn may_ask(cap: Option<&BalanceCap>, at: &Progress) -> bool {
    let refused_before = at.round > 0 || at.step > 0;
    cap.is_some_and(|cap| match cap.when {
        carriers::BalanceWhen::Before => true,
        carriers::BalanceWhen::AfterRefusal => refused_before,
        carriers::BalanceWhen::Never => false,
    })
}

/// The next attempt as it would be: what the exchange is asked beside.
pub(crate) fn planned(at: &Progress, amount_minor: i64, now: jiff::Timestamp) -> Planned {
    Planned {
        op: Op::Charge,
        period: at.period,
        attempt_no: at.attempt_no.saturating_add(1),
        parent_no: 0,
        amount_minor,
        round: at.round,
        step: at.step,
        not_before: now,
        not_after: jiff::Timestamp::MAX,
    }
}

/// What a reply says of the balance. A lost answer says nothing: the charge goes on without advice.
pub(crate) fn answer_of(reply: &Reply, asked_minor: i64) -> BalanceAnswer {
    match reply.finding {
        Some(Finding::Balance(carriers::Balance::Enough)) => BalanceAnswer::Covers { asked_minor, yes: true },
        Some(Finding::Balance(carriers::Balance::TooLow)) => {
            BalanceAnswer::Covers { asked_minor, yes: false }
        }
        Some(Finding::Balance(carriers::Balance::Amount(minor))) => BalanceAnswer::Amount(minor),
        _ => BalanceAnswer::Unavailable,
    }
}

/// The exchange as the history keeps it.
pub(crate) fn history_row(
    flight: &Flight,
    reply: &Reply,
    sealer: &mut Sealer,
    lease: &Lease,
) -> Result<SealedRow, String> {
    let (row, planned) = (&flight.row, &flight.planned);
    let at = &row.sub.progress;
    let key = HistoryKey {
        subscription_id: row.sub.id.0,
        month: planned.period.month(),
        period: planned.period.number(),
        attempt_no: planned.attempt_no,
        seq: SEQ_BALANCE + i64::from(row.sub.rev),
    };
    let story: Story<&[u8], &str> = Story {
        version: STORY_VERSION,
        incarnation: lease.incarnation,
        book_version: flight.catalog.names.book_version,
        business_at_ms: flight.business_at_ms,
        due_at_ms: at.next_at.map_or(flight.business_at_ms, jiff::Timestamp::as_millisecond),
        why: Rule::BALANCE_PROBE.number(),
        exchange: Some(StoryExchange {
            our_ref: flight.our_ref.to_string(),
            amount_minor: planned.amount_minor,
            currency: row.currency,
            wrote: reply.wrote,
            sent_at_us: reply.sent_at.map(jiff::Timestamp::as_microsecond),
            answered_at_us: reply.answered_at.as_microsecond(),
            latency_us: reply.latency_us,
            request: &reply.request,
            response: &reply.response,
            outcome: StoryOutcome::of(reply.outcome),
            carrier_code: reply.carrier_code.as_deref(),
            carrier_txn_id: None,
            alert: reply.alert.map(|alert| alert.name()),
        }),
        decision: StoryDecision {
            rule: Rule::BALANCE_PROBE.number(),
            attempt_state: 0,
            charge_state: 1,
            subscription_state: at.state as i16,
            next_at_ms: at.next_at.map(jiff::Timestamp::as_millisecond),
            next_kind: at.next_kind as i16,
            next_period: at.period.number(),
        },
        inputs: Vec::new(),
    };
    let plain = story.encode().map_err(|error| error.to_string())?;
    let bytes = sealer.seal(&flight.key, &key, &plain).map_err(|error| error.to_string())?;
    Ok(SealedRow { key, bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_asked_sees_the_answer_once_however_short_it_counts() {
        let balances = Balances::default();
        let answer = BalanceAnswer::Amount(5);
        balances.keep(1, answer, 1_000);
        assert_eq!(balances.of(1, 0, 1_400), Some(Balance { answer, age_ms: 0 }));
        assert_eq!(balances.of(1, 0, 1_400), None, "asked anew, and never without end");
        balances.keep(1, answer, 1_000);
        assert_eq!(balances.of(1, 300, 1_400), Some(Balance { answer, age_ms: 0 }));
        assert_eq!(balances.of(1, 500, 1_400), Some(Balance { answer, age_ms: 400 }));
        assert_eq!(balances.of(1, 300, 1_400), None, "too old for anybody else");
        balances.keep(1, BalanceAnswer::Unavailable, 1_000);
        assert!(balances.of(1, 300, 1_000).is_some() && balances.of(1, 300, 1_000).is_none());
    }
}
