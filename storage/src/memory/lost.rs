//! `restore_lost.sql`, and what `lost_attempts.sql` and `resume_shard.sql` do to the rows of `lost_attempt`.

use billing_core::outcome::Op;
use billing_core::period::Period;
use billing_core::reason::Rule;
use billing_core::subscription::Planned;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::failover::{DAY_US, Lost, shard_of};
use super::rows::{Aside, Intent};
use super::state::{AttemptKey, State};
use crate::pg::{CapDay, LostAttempt, StoreError, Verdict};
use crate::spool::SentLine;

const PEOPLE_DECIDED: i16 = Rule::PEOPLE_DECIDED.number();

/// What is open since the window may have been settled and followed by the next attempt, which only a missing spool knows.
pub(super) fn mark_open(state: &mut State, shard: i32, from_us: i64, now_us: i64) {
    let open: Vec<(AttemptKey, SentLine)> = state
        .intents
        .iter()
        .filter(|(key, intent)| {
            (key.0 >> 32) as i32 == shard
                && intent.intent_at_us >= from_us
                && intent.amount_minor > 0
                && !state.outcomes.contains_key(*key)
        })
        .map(|(key, intent)| (*key, line_of(intent)))
        .collect();
    for (key, line) in open {
        let mark = Lost { line, state: 2, chain: true, follows: false, listed_us: now_us };
        let kept = state.guarded.lost.entry(key).or_insert(mark);
        if kept.state == 1 {
            (kept.state, kept.chain) = (2, true);
        }
    }
}

fn line_of(intent: &Intent) -> SentLine {
    let digest = u128::from(intent.digest_hi as u64) << 64 | u128::from(intent.digest_lo as u64);
    SentLine {
        subscription_id: intent.subscription_id,
        period: intent.period,
        attempt_no: intent.attempt_no,
        op: intent.op as u8,
        carrier_no: (intent.subscription_id >> 44) as i32,
        amount_minor: intent.amount_minor,
        currency: intent.currency,
        digest: digest.to_be_bytes(),
        incarnation: intent.incarnation,
        intent_at_us: intent.intent_at_us,
        business_at_ms: intent.business_at_ms,
        not_before_ms: intent.not_before_ms,
        not_after_ms: intent.not_after_ms,
        book_version: intent.book_version,
        round: intent.round,
        step: intent.step,
        parent_no: intent.parent_no,
        rule: intent.rule_id,
        wish: 0,
    }
}

/// What `lost_attempts.sql` drops first.
pub(super) fn clear(state: &mut State, shard: i32, now_us: i64) {
    let keys: Vec<AttemptKey> = state.guarded.of_shard(shard).map(|(key, _)| *key).collect();
    for key in keys {
        let class = state.outcomes.get(&key).map(|outcome| outcome.class);
        let by_people = state.outcomes.get(&key).is_some_and(|outcome| outcome.rule_id == PEOPLE_DECIDED);
        let open = state.opens.contains_key(&key);
        let goes_on = state.subscriptions.get(&key.0).is_some_and(|sub| sub.period == key.1)
            || state.asides.get(&(key.0, key.1)).is_some_and(|own| own.next_at_ms.is_some());
        let Some(lost) = state.guarded.lost.get_mut(&key) else { continue };
        let tried_again = lost.line.op != Op::Refund as u8 && !by_people;
        let not_applied = class.is_some_and(|class| matches!(class, 7 | 8));
        if lost.state == 1 && lost.chain && class.is_some() && (!not_applied || tried_again) {
            lost.state = 2;
        }
        let settled = lost.state == 1 && (class.is_some() || !lost.chain && open);
        // While it is open the mark says that it is not repeated.
        let long_ago = lost.listed_us < now_us - DAY_US;
        let followed = not_applied && tried_again;
        if settled || lost.state == 2 && !open && (long_ago || !followed && !goes_on) {
            state.guarded.lost.remove(&key);
        }
    }
    if state.guarded.held(shard) == 2 && !state.guarded.has_lost(shard) {
        state.guarded.set_held(shard, 0);
    }
}

/// `restore_lost.sql`, once the owner is known; `now`: its incarnation, and the instant.
pub(super) fn restore(
    state: &mut State,
    key: AttemptKey,
    cap: Option<CapDay>,
    now: (i64, i64),
) -> Result<Verdict, StoreError> {
    let Some(lost) = state.guarded.lost.get_mut(&key).filter(|lost| lost.state < 2) else {
        return Ok(Verdict::NotFound);
    };
    if state.intents.contains_key(&key) {
        lost.state = 1;
        let told = state.outcomes.contains_key(&key) || state.opens.contains_key(&key);
        return Ok(if told { Verdict::FinalSame } else { Verdict::Ok });
    }
    let (line, follows) = (lost.line, lost.follows);
    let mut made = if follows { now } else { (line.incarnation, line.intent_at_us) };
    // What is assumed of somebody is dated within its life, and before the failover was found.
    if lost.chain
        && !follows
        && let Some(sender) = state.incarnations.get(&line.incarnation)
    {
        let ends = [sender.fenced_us, state.guarded.found_us(shard_of(&line))];
        made.1 = ends.into_iter().flatten().fold(made.1, i64::min).max(sender.started_us);
    }
    if !state.has_partition(key.1) {
        return Ok(Verdict::NoPartition);
    }
    let Some(sub) = state.subscriptions.get(&key.0) else { return Ok(Verdict::NotFound) };
    let refund = line.op == Op::Refund as u8;
    if sub.period == key.1 && !refund {
        if sub.open != 0 || sub.attempt_no + 1 != key.2 {
            return Ok(Verdict::StaleRev);
        }
    } else if let Some(own) = state.asides.get(&(key.0, key.1)) {
        let gap = own.attempt_no + 1 < key.2;
        if own.open != 0 || own.attempt_no + 1 > key.2 || gap && !refund {
            return Ok(Verdict::StaleRev);
        }
    } else if key.1 > sub.period && sub.next_at_ms.is_some() {
        return Ok(Verdict::StaleRev);
    } else {
        let outcomes = state.outcomes.range((key.0, key.1, i16::MIN)..=(key.0, key.1, i16::MAX));
        let collects = |key: &AttemptKey| state.intents.get(key).is_some_and(|i| matches!(i.op, 1 | 3 | 6));
        let collected: i64 =
            outcomes.filter(|(key, o)| o.class == 5 && collects(key)).map(|(_, o)| o.moved_minor).sum();
        state.asides.insert(
            (key.0, key.1),
            Aside {
                subscription_id: key.0,
                period: key.1,
                due_minor: collected.max(line.amount_minor),
                collected_minor: collected,
                refunded_minor: 0,
                reversed_minor: 0,
                next_at_ms: None,
                expires_at_ms: None,
                rev: 0,
                attempt_no: key.2 - 1,
                round: line.round,
                step: line.step,
                open: 0,
                state: if refund { 4 } else { 1 },
                next_kind: 0,
                currency: line.currency,
            },
        );
    }
    if refund && let Some(own) = state.asides.get_mut(&(key.0, key.1)) {
        own.refunded_minor += line.amount_minor;
        own.rev += 1;
    }
    let digest = u128::from_be_bytes(line.digest);
    state.bare.insert(key);
    state.guarded.restored.insert(key);
    if follows {
        state.guarded.followed.insert(key);
    }
    state.intents.insert(
        key,
        Intent {
            subscription_id: key.0,
            period: key.1,
            attempt_no: key.2,
            amount_minor: line.amount_minor,
            digest_hi: (digest >> 64) as i64,
            digest_lo: digest as i64,
            not_before_ms: line.not_before_ms,
            not_after_ms: line.not_after_ms,
            incarnation: made.0,
            intent_at_us: made.1,
            // What is compared with a STOP is what was assumed, or told.
            committed_us: if follows { made.1 } else { line.intent_at_us },
            business_at_ms: line.business_at_ms,
            book_version: line.book_version,
            op: i16::from(line.op),
            round: line.round,
            step: line.step,
            currency: line.currency,
            rule_id: line.rule,
            cap_day: cap.map_or(0, |(_, [day, ..])| day),
            parent_no: line.parent_no,
            wish: None,
        },
    );
    if let Some((subscriber_id, days)) = cap {
        state.count_usage(subscriber_id, line.currency, days, line.amount_minor);
    }
    if let Some(lost) = state.guarded.lost.get_mut(&key) {
        lost.state = 1;
    }
    Ok(Verdict::Ok)
}

/// Whether an assumed attempt was proven not to have been applied, so that the next one may have been sent.
pub(super) fn is_followed(state: &State, key: &AttemptKey, lost: &Lost) -> bool {
    lost.state == 2
        && lost.line.op != Op::Refund as u8
        && state
            .outcomes
            .get(key)
            .is_some_and(|outcome| matches!(outcome.class, 7 | 8) && outcome.rule_id != PEOPLE_DECIDED)
}

/// As `lost_attempts.sql` returns it.
pub(super) fn told(lost: &Lost, until_us: Option<i64>) -> Result<LostAttempt, StoreError> {
    fn broken(error: impl std::fmt::Display) -> StoreError {
        StoreError::Broken(format!("a lost attempt: {error}"))
    }
    let line = &lost.line;
    let instant = |ms| Timestamp::from_millisecond(ms).map_err(broken);
    let micros = |us| Timestamp::from_microsecond(us).map_err(broken);
    let op = Op::from_number(i16::from(line.op)).ok_or_else(|| broken(format!("operation {}", line.op)))?;
    Ok(LostAttempt {
        subscription_id: line.subscription_id,
        planned: Planned {
            op,
            period: Period::from_number(line.period).map_err(broken)?,
            attempt_no: line.attempt_no,
            parent_no: line.parent_no,
            amount_minor: line.amount_minor,
            round: line.round,
            step: line.step,
            not_before: instant(line.not_before_ms)?,
            not_after: instant(line.not_after_ms)?,
        },
        currency: line.currency,
        incarnation: line.incarnation,
        book_version: line.book_version,
        business_at: instant(line.business_at_ms)?,
        restored: lost.state == 1,
        assumed: lost.chain,
        rule: line.rule,
        intent_at: micros(line.intent_at_us)?,
        followed_until: (lost.state == 2).then(|| micros(until_us.unwrap_or(0))).transpose()?,
    })
}

impl Lost {
    /// With the columns of `lost_attempt`, but for when it was listed.
    pub(super) fn dump(&self) -> Value {
        let line = &self.line;
        let digest = u128::from_be_bytes(line.digest);
        json!({
            "subscription_id": line.subscription_id, "period": line.period, "attempt_no": line.attempt_no,
            "amount_minor": line.amount_minor, "digest_hi": (digest >> 64) as i64, "digest_lo": digest as i64,
            "not_before_ms": line.not_before_ms, "not_after_ms": line.not_after_ms,
            "business_at_ms": line.business_at_ms, "incarnation": line.incarnation,
            "intent_us": line.intent_at_us, "book_version": line.book_version, "op": line.op,
            "round": line.round, "step": line.step, "currency": line.currency, "rule_id": line.rule,
            "parent_no": line.parent_no, "state": self.state, "chain": self.chain, "follows": self.follows,
        })
    }
}
