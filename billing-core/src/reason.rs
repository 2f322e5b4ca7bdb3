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
    /// The balance is asked for first.
    BALANCE_PROBE = 16, "balance.probe" v 1: "the plan asks for the balance before this charge";
    /// The balance is too low.
    BALANCE_DEFER = 17, "balance.defer" v 1: "the balance is known to be too low, so the charge was moved without using an attempt";
    /// The balance chose the step.
    BALANCE_SEND = 18, "balance.send" v 1: "the largest price point that the balance covers was charged";
    /// The carrier is out of reach.
    BREAKER_DEFER = 19, "breaker.defer" v 1: "the carrier does not answer at present, so the charge was moved without using an attempt";
    /// The carrier's quota is used up.
    QUOTA_DEFER = 20, "quota.defer" v 1: "the carrier's quota is used up, so the charge was moved without using an attempt";
    /// A payday is near.
    PAYDAY_DEFER = 21, "payday.defer" v 1: "it was refused for lack of funds and a payday is near, so the charge waits for it without using an attempt";
    /// Deferred too often.
    DEFERRALS_EXHAUSTED = 22, "defer.exhausted" v 1: "the charge was moved as often as the plan allows, so it expired";
    /// Its shelf life is over.
    SHELF_EXPIRE = 23, "shelf.expire" v 1: "the charge is older than the plan lets it become, so it expired";
    /// Today's requests are used up.
    DAY_DEFER = 24, "budget.day" v 1: "the requests that the plan allows for a day are used up, so the charge was moved to the next day";
    /// The subscriber's cap is reached.
    CAP_DEFER = 25, "cap.defer" v 1: "the subscriber's spending cap has no room for this charge, so it was moved without using an attempt";
    /// Missed periods are merged.
    MISSED_MERGE = 26, "missed.merge" v 1: "periods were missed; the plan makes one charge of them and the period that runs now";
    /// Missed periods become arrears.
    MISSED_LATE = 27, "missed.collect_late" v 1: "periods were missed; the plan collects them later, within its bounds for arrears";
    /// A reservation is confirmed.
    CONFIRM_SEND = 28, "reserve.confirm" v 1: "the amount was set aside and the service was delivered, so it is collected";
    /// A reservation is given back.
    CANCEL_SEND = 29, "reserve.cancel" v 1: "the amount was set aside and is not wanted any more, so it is given back";

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
    /// Proven absent.
    ABSENT_AGAIN = 50, "answer.absent" v 1: "the carrier's declared proof says that the request never reached its books, so it is tried again under a new key and costs no round";
    /// Absence without proof.
    ABSENT_UNPROVEN = 51, "answer.absent_unproven" v 1: "only the resolution of an unknown attempt can prove absence, so the result is UNKNOWN";
    /// Stop takes effect with an outcome.
    STOP_WITH_OUTCOME = 52, "stop.with_outcome" v 1: "the subscriber had said stop while the request was on its way, so collecting ended with its outcome";
    /// Given up into arrears.
    GIVE_UP_ARREARS = 53, "dunning.arrears" v 1: "refused and no round is left before the next period, so what remains is owed in arrears";
    /// The budget of requests is used up.
    BUDGET_EXHAUSTED = 54, "budget.period" v 1: "the requests or fees that the plan allows for a period are used up";
    /// The rest is too small.
    REST_TOO_SMALL = 55, "ladder.rest_too_small" v 1: "part was collected and the rest is smaller than what is worth a request, so it is left alone";
    /// Set aside.
    RESERVED_WAIT = 56, "reserve.held" v 1: "the carrier set the amount aside; it is collected after delivery";
    /// Given back.
    RESERVATION_RELEASED = 57, "reserve.released" v 1: "the amount that was set aside was given back";
    /// A reservation ran out.
    RESERVATION_EXPIRED = 58, "reserve.expired" v 1: "the reservation ran out and the carrier gave it back by itself, so the charge is tried again";
    /// A confirm was refused.
    CONFIRM_REFUSED = 59, "reserve.confirm_refused" v 1: "the carrier refused to collect what it had set aside, so the reservation is gone";
    /// A cancel was refused.
    CANCEL_REFUSED = 60, "reserve.cancel_refused" v 1: "the carrier refused to give back what it had set aside; it is asked again until the reservation runs out";
    /// Late money extends.
    LATE_EXTEND = 61, "late.extend" v 1: "money turned out to have moved for an earlier period; it buys access after what is paid already, as the plan says";
    /// Late money buys nothing.
    LATE_PAST = 62, "late.past" v 1: "money turned out to have moved for an earlier period; that period is past, as the plan says";
    /// Late money is to be given back.
    LATE_REFUND = 63, "late.refund" v 1: "money turned out to have moved for an earlier period; it is proposed to be given back, as the plan says";
    /// Arrears were collected.
    ARREARS_SETTLE = 64, "arrears.settle" v 1: "arrears of an earlier period were collected";
    /// Arrears were refused, another round.
    ARREARS_NEXT = 65, "arrears.round" v 1: "arrears were refused; they are tried again later";
    /// Arrears are given up.
    ARREARS_GIVE_UP = 66, "arrears.give_up" v 1: "arrears were refused and no round is left within their bounds, so they were written off";
    /// A charge put aside was refused.
    ASIDE_CLOSED = 67, "aside.closed" v 1: "the unfinished charge of an earlier period turned out not to be paid and nothing more is tried for it";
    /// Given back.
    REFUND_DONE = 68, "refund.done" v 1: "the carrier gave the money back";
    /// Not given back.
    REFUND_REFUSED = 69, "refund.refused" v 1: "the carrier did not give the money back; it may be asked again";
    /// Nobody knows.
    REFUND_UNKNOWN = 70, "refund.unknown" v 1: "whether the carrier gave the money back is UNKNOWN; the amount stays held until there is evidence";
    /// Two people settled it.
    ADOPTED = 71, "adopt.settled" v 1: "two people took late evidence of money into the books";
    /// The billing cycle moved.
    CYCLE_RESET = 72, "cycle.reset" v 1: "it was paid so late that the plan counts the next period from the day of payment";
    /// The carrier took it back.
    REVERSED = 73, "reversal.booked" v 1: "the carrier took the money back by itself";

    /// A trial ends.
    TRIAL_END = 81, "trial.end" v 1: "the trial is over, so the first charge falls due";
    /// Parking ends.
    PARKED_END = 82, "parked.end" v 1: "the subscription was parked until now, so its first charge falls due";
    /// Paused by wish.
    PAUSED = 83, "pause.begin" v 1: "the subscription was paused by wish; nothing is collected until it is resumed";
    /// Resumed.
    RESUMED = 84, "pause.end" v 1: "the subscription was resumed; periods that passed meanwhile are not charged";
    /// A top-up.
    TOP_UP_SNAP = 85, "top_up.due" v 1: "a top-up was announced, so the overdue charge is due at once";
    /// A top-up resumes.
    TOP_UP_RESUME = 86, "top_up.resume" v 1: "a top-up was announced, so collecting is resumed as the plan says";
    /// Arrears are tried.
    ARREARS_SEND = 87, "arrears.send" v 1: "what an earlier period left owed was tried again";
    /// Arrears ran out of time.
    ARREARS_EXPIRE = 88, "arrears.expire" v 1: "arrears are older than the plan lets them become, so they expired";
    /// Arrears end with their subscription.
    ARREARS_STOP = 89, "arrears.stop" v 1: "the subscription is over, so its arrears are not collected any more";
    /// People asked for a refund.
    REFUND_SEND = 90, "refund.send" v 1: "a refund was asked for and stays within what was collected";

    /// The subscriber lives in another zone.
    ZONE_MOVED = 101, "move.zone" v 1: "the subscriber moved to another time zone; what is paid stays paid, and the next charge falls due by the new clock";
    /// Charges fall due on another day or hour.
    ANCHOR_MOVED = 102, "move.anchor" v 1: "the day or hour of charging was moved; the next period starts where the last one ends, or later by less than one period";
    /// Another plan.
    PLAN_MOVED = 103, "move.plan" v 1: "the subscription was moved to another plan; its first period there starts where the last paid one ends";
    /// Another carrier.
    CARRIER_MOVED = 104, "move.carrier" v 1: "the line moved to another carrier: this subscription is closed, and the next one's first period starts where the last paid one here ends";
    /// Nobody agrees any more.
    CONSENT_ENDED = 105, "consent.end" v 1: "the subscriber's consent has ended, so collecting rests until it is renewed";
    /// Consent was renewed.
    CONSENT_RENEWED = 106, "consent.renew" v 1: "consent was renewed; periods that passed without it are not charged";
    /// The carrier's own message.
    CALLBACK_TOLD = 107, "callback.told" v 1: "the carrier sent by itself what became of the attempt, signed, and it agreed with what was asked";
    /// Two people settled it.
    PEOPLE_DECIDED = 108, "people.decided" v 1: "one person proposed what became of the attempt and another approved it, with evidence that nothing else could read";

    /// The same request again.
    RESOLVE_RESEND = 110, "resolve.resend" v 1: "the result is UNKNOWN and the carrier remembers our key, so the same request was sent again under it";
    /// The carrier was asked.
    RESOLVE_INQUIRE = 111, "resolve.inquire" v 1: "the result is UNKNOWN, so the carrier was asked what became of it";
    /// A question found it.
    RESOLVE_FOUND = 112, "resolve.found" v 1: "the carrier was asked and said what became of it, which counts at once";
    /// A repeat brought the result.
    RESOLVE_REPEATED = 113, "resolve.repeated" v 1: "the carrier answered the repeated request under the same key with its result";
    /// Not found, often enough.
    RESOLVE_ABSENT = 114, "resolve.absent" v 1: "the carrier did not know it, asked late enough, often enough and far enough apart, while no request could still be on its way";
    /// Not in the files.
    RESOLVE_FILE_ABSENT = 115, "resolve.file_absent" v 1: "the carrier's complete files do not have it, and it had the time to get into them";
    /// Not found, which alone proves nothing.
    RESOLVE_NOT_FOUND = 116, "resolve.not_found" v 1: "the carrier does not know it; one such answer, or an early one, proves nothing, so it stays UNKNOWN";
    /// The carrier is not done.
    RESOLVE_WORKING = 117, "resolve.working" v 1: "the carrier knows it and is not done with it, so it stays UNKNOWN";
    /// Nothing was learned.
    RESOLVE_NOTHING = 118, "resolve.nothing" v 1: "nothing was learned that says something about the first request, so it stays UNKNOWN";
    /// Another amount, line or operation.
    RESOLVE_CONTRADICTS = 119, "resolve.contradicts" v 1: "the answer speaks of another amount, currency, line, key or operation, so it stays UNKNOWN";
    /// No proof at all.
    REVIEW_NO_PROOF = 120, "review.no_proof" v 1: "the carrier declares no way to prove what became of it, so people settle it";
    /// All means are used up.
    REVIEW_EXHAUSTED = 121, "review.exhausted" v 1: "every way that the carrier declares was tried and none brought proof, so people settle it";
    /// Contradictory evidence.
    REVIEW_CONTRADICTION = 122, "review.contradiction" v 1: "the carrier's answers contradict each other or the request, so people settle it";
    /// The data are set aside.
    REVIEW_QUARANTINED = 123, "review.quarantined" v 1: "its subscription is quarantined, so people settle it";
    /// The key of the question is not known.
    REVIEW_NO_KEY = 124, "review.no_key" v 1: "the carrier is asked by its own id, and no answer brought one, so people settle it";
    /// The file did not come.
    REVIEW_FILE_MISSING = 125, "review.file_missing" v 1: "the carrier's file that would prove it was not taken in, so people settle it";
    /// A duplicate that nobody explains.
    REVIEW_DUPLICATE = 126, "review.duplicate" v 1: "the carrier has seen the key before and cannot be asked with which result, so people settle it";
    /// A failover lost its intent.
    FAILOVER_LISTED = 130, "failover.listed" v 1: "the database lost its last commits, this request among them; the log of what was sent lists it, so it counts as sent until there is proof";
    /// A failover may have lost it.
    FAILOVER_DOUBTED = 131, "failover.doubted" v 1: "the database lost its last commits, and a log of what was sent is missing; it may have been sent, so it counts as sent until there is proof";

    /// The carrier's file.
    FILE_TOLD = 140, "file.told" v 1: "the carrier's complete file says what became of the attempt, and it agreed with what was asked";
    /// Evidence against the record.
    ADOPT_FOUND = 141, "adopt.found" v 1: "evidence says that an attempt moved money which is recorded as not moved; nothing is flipped, and it blocks the charge until two people settle it";
    /// People settle it.
    REVIEW_ADOPT = 142, "review.adopt" v 1: "evidence of money stands against what is recorded, so two people settle it";
    /// A repeat might collect after STOP.
    REVIEW_WITHDRAWN = 143, "review.withdrawn" v 1: "the subscriber has said STOP or agrees no more, or nobody knows whether it was ever sent within the caps, so the request is not sent again, and the carrier cannot be asked otherwise; people settle it";
}

/// What a rule looked at. The number is what the history keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(i16)]
pub enum Input {
    /// What is due, minor units.
    DueMinor = 1,
    /// What was collected before, minor units.
    CollectedMinor = 2,
    /// What was asked for, minor units.
    AskedMinor = 3,
    /// The round.
    Round = 4,
    /// How many rounds there are.
    Rounds = 5,
    /// The ladder's step.
    Step = 6,
    /// Requests that counted.
    Tries = 7,
    /// Deferrals.
    Deferrals = 8,
    /// The balance, minor units.
    BalanceMinor = 9,
    /// When the next period falls due, business milliseconds.
    NextDueMs = 10,
    /// The instant that the rule chose, business milliseconds.
    ChosenMs = 11,
    /// When someone said stop, business milliseconds.
    StopMs = 12,
    /// How much is owed in arrears, minor units.
    OwedMinor = 13,
    /// The instant of a notice, business milliseconds.
    NoticeMs = 14,
    /// Periods that were missed.
    Missed = 15,
}

impl Input {
    /// The input of a kept number.
    #[must_use]
    pub fn from_number(number: i16) -> Option<Self> {
        [
            Self::DueMinor,
            Self::CollectedMinor,
            Self::AskedMinor,
            Self::Round,
            Self::Rounds,
            Self::Step,
            Self::Tries,
            Self::Deferrals,
            Self::BalanceMinor,
            Self::NextDueMs,
            Self::ChosenMs,
            Self::StopMs,
            Self::OwedMinor,
            Self::NoticeMs,
            Self::Missed,
        ]
        .into_iter()
        .find(|input| *input as i16 == number)
    }
}

/// What a rule looked at when it decided: at most four facts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Inputs([Option<(Input, i64)>; 4]);

impl Inputs {
    /// The same with one more fact; a fifth is dropped.
    #[must_use]
    pub fn with(mut self, input: Input, value: i64) -> Self {
        if let Some(free) = self.0.iter_mut().find(|slot| slot.is_none()) {
            *free = Some((input, value));
        }
        self
    }

    /// The same with one more instant, if there is one.
    #[must_use]
    pub fn with_at(self, input: Input, at: Option<jiff::Timestamp>) -> Self {
        at.map_or(self, |at| self.with(input, at.as_millisecond()))
    }

    /// The facts.
    pub fn iter(&self) -> impl Iterator<Item = (Input, i64)> + '_ {
        self.0.iter().flatten().copied()
    }

    /// The value of a fact.
    #[must_use]
    pub fn get(&self, input: Input) -> Option<i64> {
        self.iter().find(|(kind, _)| *kind == input).map(|(_, value)| value)
    }
}

impl Rule {
    /// The number that the database and the history keep.
    #[must_use]
    pub const fn number(self) -> i16 {
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
