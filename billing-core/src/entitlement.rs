//! What money buys: windows of access and variants of the product, exact to the minor unit.

use jiff::{SignedDuration, Timestamp};

use crate::plan::PlanRules;
use crate::states::SubscriptionState;
use crate::subscription::Progress;

/// A window of access.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    /// From when.
    pub from: Timestamp,
    /// Until when; `None` for good.
    pub until: Option<Timestamp>,
    /// Which variant of the product: 0 the full one, n the one of the ladder's n-th step.
    pub variant: i16,
}

/// The seconds of a period of `length_s` that are bought when what is collected of `due_minor` grows from
/// `before_minor` to `after_minor`. Rounded down at each sum, not at each part: the parts of a fully collected charge
/// add up to the whole period exactly, however it was split.
#[must_use]
pub fn seconds_bought(length_s: i64, due_minor: i64, before_minor: i64, after_minor: i64) -> i64 {
    let upto = |collected: i64| {
        let due = i128::from(due_minor.max(1));
        let collected = i128::from(collected).clamp(0, due);
        i128::from(length_s.max(0)) * collected / due
    };
    i64::try_from((upto(after_minor) - upto(before_minor)).max(0)).unwrap_or(0)
}

/// `at` and so many seconds more, at most the end of time.
pub(crate) fn later(at: Timestamp, seconds: i64) -> Timestamp {
    at.checked_add(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX)
}

/// Whether the subscriber may use the product at `now`: the access column of the table of states.
#[must_use]
pub fn has_access(at: &Progress, rules: &PlanRules, now: Timestamp) -> bool {
    let paid = at.paid_until.is_some_and(|until| now < until);
    let in_state = at.state_until.is_some_and(|until| now < until);
    match at.state {
        SubscriptionState::Trial | SubscriptionState::Grace => paid || in_state,
        // Bought for good: it ended because there is nothing more to collect.
        SubscriptionState::Ended => paid || (at.paid_until.is_none() && at.collected_minor == at.due_minor),
        SubscriptionState::Active | SubscriptionState::Cancelled => paid,
        SubscriptionState::Paused => rules.lifecycle.pause_keeps_access && paid,
        SubscriptionState::Pending
        | SubscriptionState::Parked
        | SubscriptionState::Hold
        | SubscriptionState::Suspended => false,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn parts_add_up_to_the_whole_however_it_was_split(
            length_s in 1..40_000_000_i64, parts in prop::collection::vec(1..100_000_i64, 1..40),
        ) {
            let due: i64 = parts.iter().sum();
            let mut collected = 0;
            let mut delivered = 0;
            for part in parts {
                let seconds = seconds_bought(length_s, due, collected, collected + part);
                collected += part;
                delivered += seconds;
                let exact = i128::from(length_s) * i128::from(collected);
                let off = exact - i128::from(delivered) * i128::from(due);
                prop_assert!((0..i128::from(due)).contains(&off), "less than a second is carried on");
            }
            prop_assert_eq!(delivered, length_s);
        }

        #[test]
        fn no_amount_makes_it_panic_or_deliver_more(
            length_s in any::<i64>(), due in any::<i64>(), before in any::<i64>(), after in any::<i64>(),
        ) {
            let seconds = seconds_bought(length_s, due, before, after);
            prop_assert!((0..=length_s.max(0)).contains(&seconds));
        }
    }

    #[test]
    fn the_end_of_time_is_no_panic() {
        assert_eq!(later(Timestamp::MAX, i64::MAX), Timestamp::MAX);
    }
}
