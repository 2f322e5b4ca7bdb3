//! The rules that decide, by id and version. Every decision names one; the history keeps it; `toll explain`
//! says its sentence.

/// A rule of `triage` or `decide`. The number is what the database and the history keep: never reuse one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Rule(i16);

macro_rules! rules {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $id:literal v $version:literal: $sentence:literal;)+) => {
        impl Rule {
            $($(#[$doc])* pub const $name: Self = Self($number);)+

            /// Every rule of this version.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// The rule's id, `unlisted` for a number that this version does not know.
            #[must_use]
            pub fn id(self) -> &'static str {
                match self.0 { $($number => $id,)+ _ => "unlisted" }
            }

            /// The version of the rule's text and meaning.
            #[must_use]
            pub fn version(self) -> u16 {
                match self.0 { $($number => $version,)+ _ => 0 }
            }

            /// What the rule says, for a product manager.
            #[must_use]
            pub fn sentence(self) -> &'static str {
                match self.0 { $($number => $sentence,)+ _ => "decided by a rule that this version does not know" }
            }
        }
    };
}

rules! {
    /// A period fell due.
    DUE_SEND = 1, "due.send" v 1: "the period fell due inside its charging window, so it was charged";
    /// A round of the dunning schedule is due.
    RETRY_SEND = 2, "retry.send" v 1: "the dunning schedule asked for another round";
    /// The next step of the ladder is due.
    LADDER_SEND = 3, "ladder.send" v 1: "the amount before was refused for lack of funds, so the next step of the ladder was tried in the same round";
    /// The window is closed.
    WINDOW_DEFER = 4, "window.defer" v 1: "the charging window was closed, so the charge was moved to its next opening without using an attempt";
    /// The period's time passed.
    PERIOD_EXPIRE = 5, "period.expire" v 1: "the next period began before this charge could be tried again, so it expired";
    /// Someone said stop.
    STOP_CANCEL = 6, "stop.cancel" v 1: "the subscriber said stop, so nothing more is charged";
    /// The state does not collect.
    NOT_COLLECTING = 7, "state.not_collecting" v 1: "the subscription is in a state that does not collect";
    /// It is not yet time.
    NOT_DUE = 8, "due.not_yet" v 1: "nothing was due yet";
    /// An open attempt blocks.
    OPEN_BLOCKS = 9, "open.blocks" v 1: "the last attempt's result is not known, so nothing more is sent for this charge until there is evidence";
    /// The next period begins beside an open attempt.
    PERIOD_ROLL = 10, "period.roll" v 1: "the next period began while the last attempt was open; the unfinished charge was put aside and stays blocked";
    /// Missed periods are skipped.
    MISSED_SKIP = 11, "missed.skip" v 1: "periods were missed; the plan skips them and goes on with the next";
    /// One late charge for missed periods.
    MISSED_ONCE_LATE = 12, "missed.once_late" v 1: "periods were missed; the plan makes one late charge for the period that runs now";
    /// The attempt counter is used up.
    ATTEMPTS_EXHAUSTED = 13, "attempts.exhausted" v 1: "all attempt numbers of this charge are used up";
    /// A quarantined subscription.
    QUARANTINED = 14, "quarantine.holds" v 1: "the subscription is quarantined: people must look at its data first";
    /// The answer did not come in time.
    DEADLINE_PASSED = 15, "deadline.unknown" v 1: "the carrier accepted the request but its answer did not come in time, so the result is unknown";

    /// Collected in full.
    SETTLE_FULL = 30, "settle.full" v 1: "the carrier collected what was due, so the period is paid";
    /// A smaller price buys the period.
    SETTLE_PERIOD = 31, "settle.period" v 1: "a smaller amount was collected and buys the whole period, as the ladder says";
    /// A smaller price buys a share.
    SETTLE_SHARE = 32, "settle.share" v 1: "a smaller amount was collected and buys its share of the period, as the ladder says";
    /// Part collected, the rest is owed.
    PART_OWED = 33, "settle.amount" v 1: "part was collected; the rest of the same charge is tried again by the dunning schedule";
    /// The ladder has another step.
    LADDER_NEXT = 34, "ladder.next" v 1: "refused for lack of funds; the ladder's next step is tried at once";
    /// The dunning schedule has another round.
    ROUND_NEXT = 35, "dunning.round" v 1: "refused; the dunning schedule has another round";
    /// Rounds used up: on with the next period.
    GIVE_UP_NEXT = 36, "dunning.next_period" v 1: "refused and no round is left before the next period, so this charge was given up";
    /// Rounds used up: suspend.
    GIVE_UP_SUSPEND = 37, "dunning.suspend" v 1: "refused and all rounds are used up, so collecting was suspended";
    /// Rounds used up: cancel.
    GIVE_UP_CANCEL = 38, "dunning.cancel" v 1: "refused and all rounds are used up, so the subscription was cancelled";
    /// A refusal that asking again will not mend.
    REFUSAL_SUSPENDS = 39, "refusal.suspend" v 1: "the carrier does not allow this charge; asking again would not help, so collecting was suspended";
    /// A refusal that ends it.
    REFUSAL_CANCELS = 40, "refusal.cancel" v 1: "the line is unknown or the subscriber refused, so the subscription was cancelled";
    /// A refused first charge creates nothing.
    FIRST_FAILURE_CANCELS = 41, "first.cancel" v 1: "the first charge was refused, and the plan says that this creates nothing";
    /// Accepted.
    ACCEPTED_WAIT = 42, "answer.wait" v 1: "the carrier accepted the request; its answer comes later";
    /// Nobody knows.
    UNKNOWN_BLOCKS = 43, "answer.unknown" v 1: "the carrier's answer is lost, unreadable or contradicts the request, so the result is UNKNOWN and blocks this charge until there is evidence";
    /// A duplicate's first result is not known here.
    DUPLICATE_ASKS = 44, "answer.duplicate" v 1: "the carrier has seen this key before; its first result must be asked for, so the result is UNKNOWN until then";
    /// Not processed.
    NOT_APPLIED_LATER = 45, "answer.not_applied" v 1: "the carrier did not process the request, as its file declares; it is tried again under a new key and costs no round";
    /// Our mistake.
    FAULT_LATER = 46, "answer.fault" v 1: "the carrier refused our request before processing it; that is our mistake, so the lane is paused and the subscriber loses no round";
    /// Nothing was sent.
    NOT_SENT_AGAIN = 47, "answer.not_sent" v 1: "no byte left, with proof, so it is tried again under a new key and costs no round";
    /// Consent is missing.
    CONSENT_NEEDED = 48, "answer.consent" v 1: "the carrier wants the subscriber's consent first, so collecting was suspended";
    /// An answer of another operation.
    WRONG_OPERATION = 49, "answer.contradicts" v 1: "the answer belongs to another operation or amount than was asked for, so the result is UNKNOWN";
}

impl Rule {
    /// The number that the database and the history keep.
    #[must_use]
    pub fn number(self) -> i16 {
        self.0
    }

    /// The rule of a kept number.
    #[must_use]
    pub fn from_number(number: i16) -> Self {
        Self(number)
    }
}

/// The word for an event's kept number ([`crate::decide::Event`]), as merchants read it.
#[must_use]
pub fn event_name(number: i16) -> &'static str {
    match number {
        1 => "charge.settled",
        2 => "charge.reduced",
        3 => "charge.part",
        4 => "charge.refused",
        5 => "charge.unknown",
        6 => "charge.given_up",
        7 => "subscription.suspended",
        8 => "subscription.cancelled",
        _ => "unlisted",
    }
}

#[cfg(test)]
mod tests {
    use super::Rule;

    #[test]
    fn numbers_and_ids_are_unique() {
        let numbers: std::collections::BTreeSet<_> = Rule::ALL.iter().map(|r| r.number()).collect();
        let ids: std::collections::BTreeSet<_> = Rule::ALL.iter().map(|r| r.id()).collect();
        assert_eq!((numbers.len(), ids.len()), (Rule::ALL.len(), Rule::ALL.len()));
        assert_eq!(Rule::from_number(9_999).id(), "unlisted");
    }
}
