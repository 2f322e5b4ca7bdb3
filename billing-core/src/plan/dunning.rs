//! When to try again, per class of failure, and with what budget.

use crate::outcome::{LimitKind, Refusal};
use crate::schedule::{Weekdays, Window};

/// When to try again, per class of failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dunning {
    /// The balance is too small.
    pub no_funds: Rounds,
    /// A carrier's limit stands in the way; also refusals as too late.
    pub limit: Rounds,
    /// Limits with a schedule of their own.
    pub limits: RoundsOf<Option<Rounds>>,
    /// The line is barred.
    pub barred: Rounds,
    /// The carrier does not know the line. Usually no rounds, then cancel.
    pub unknown_subscriber: Rounds,
    /// The subscriber said no. Usually no rounds, then cancel.
    pub subscriber_refused: Rounds,
    /// The service may not be sold to this line. Usually no rounds, then suspend.
    pub not_allowed: Rounds,
    /// Too many requests (costs no attempt of a budget, only time), seconds.
    pub throttled_delay_s: i64,
    /// The carrier could not work (costs no round, only time), seconds.
    pub temporary_delay_s: i64,
    /// Our own mistake (never counts against the subscriber), seconds.
    pub fault_delay_s: i64,
    /// What a period's charge may cost in requests.
    pub budget: Budget,
}

/// One value per kind of limit that has a schedule of its own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RoundsOf<T> {
    /// Per day.
    pub day: T,
    /// Per week.
    pub week: T,
    /// Per month.
    pub month: T,
    /// Too soon after the one before.
    pub too_soon: T,
}

/// What the charge of one period may cost. 0 is no bound.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Budget {
    /// Requests that count, per local day.
    pub day_max: i16,
    /// Requests that count, per period.
    pub period_max: i16,
    /// What a request costs us, minor units of the price's currency.
    pub fee_minor: i64,
    /// What all requests of a period may cost us, minor units.
    pub fees_max_minor: i64,
}

/// The rounds after the first refusal, and what comes after the last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rounds {
    /// Seconds from one round to the next; at most 32.
    pub delays_s: Vec<i64>,
    /// More rounds after the listed ones, each later than the one before.
    pub growth: Option<Growth>,
    /// Each delay is lengthened by up to this many thousandths, derived from the charge's key; at most 500.
    pub jitter_permille: u16,
    /// Local hours in which a round may begin.
    pub hours: Option<Window>,
    /// Local weekdays on which a round may begin; none given: all.
    pub on: Weekdays,
    /// When all are used up.
    pub then: GiveUp,
}

/// Growing intervals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Growth {
    /// The first interval, seconds, above 0.
    pub first_s: i64,
    /// Each is so many thousandths of the one before; 1000 to 10000.
    pub factor_permille: i64,
    /// None is longer, seconds.
    pub max_s: i64,
    /// How many there are; with the listed ones at most 32.
    pub rounds: i16,
}

/// The most rounds a dunning schedule may have.
pub const ROUNDS_MAX: usize = 32;

/// When all rounds are used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GiveUp {
    /// Give this period up, go on with the next.
    NextPeriod,
    /// Stop collecting until someone resumes it.
    Suspend,
    /// End the subscription.
    Cancel,
}

impl Rounds {
    /// Rounds of fixed intervals at any hour.
    #[must_use]
    pub fn fixed(delays_s: Vec<i64>, then: GiveUp) -> Self {
        Self { delays_s, growth: None, jitter_permille: 0, hours: None, on: Weekdays::default(), then }
    }

    /// How many rounds there are after the first refusal.
    #[must_use]
    pub fn count(&self) -> usize {
        self.delays_s.len() + self.growth.map_or(0, |growth| usize::try_from(growth.rounds).unwrap_or(0))
    }

    /// Seconds from round `round` (0 is the first visit) to the next, without jitter; `None` after the last.
    #[must_use]
    pub fn delay_s(&self, round: i16) -> Option<i64> {
        let index = usize::try_from(round).ok()?;
        if let Some(delay_s) = self.delays_s.get(index) {
            return Some(*delay_s);
        }
        let growth = self.growth.filter(|_| index < self.count().min(ROUNDS_MAX))?;
        let mut delay_s = growth.first_s.min(growth.max_s);
        for _ in self.delays_s.len()..index {
            delay_s = delay_s.saturating_mul(growth.factor_permille.max(1_000)) / 1_000;
            delay_s = delay_s.min(growth.max_s);
        }
        Some(delay_s)
    }
}

impl Dunning {
    /// The schedule of a refusal.
    #[must_use]
    pub fn rounds(&self, refusal: Refusal) -> &Rounds {
        match refusal {
            Refusal::NoFunds => &self.no_funds,
            Refusal::Barred => &self.barred,
            Refusal::UnknownSubscriber => &self.unknown_subscriber,
            Refusal::SubscriberRefused => &self.subscriber_refused,
            Refusal::NotAllowed => &self.not_allowed,
            Refusal::Limit(kind) => self.of_limit(kind).unwrap_or(&self.limit),
            Refusal::Expired => &self.limit,
        }
    }

    fn of_limit(&self, kind: LimitKind) -> Option<&Rounds> {
        match kind {
            LimitKind::PerCharge => None,
            LimitKind::Day => self.limits.day.as_ref(),
            LimitKind::Week => self.limits.week.as_ref(),
            LimitKind::Month => self.limits.month.as_ref(),
            LimitKind::TooSoon => self.limits.too_soon.as_ref(),
        }
    }
}

impl Budget {
    /// Whether another request fits into what a period may cost, after `tries` that counted.
    #[must_use]
    pub fn allows(&self, tries: i16) -> bool {
        let fees = self.fee_minor.saturating_mul(i64::from(tries).saturating_add(1));
        (self.period_max == 0 || tries < self.period_max)
            && (self.fees_max_minor == 0 || fees <= self.fees_max_minor)
    }

    /// Whether another request fits into the day, after `tries` of that day that counted.
    #[must_use]
    pub fn allows_today(&self, tries: i16) -> bool {
        self.day_max == 0 || tries < self.day_max
    }
}
