//! The breaker: stops a lane when too many answers are unknown or missing. It counts unknowns, which no stock breaker
//! does: a carrier that swallows answers produces work for people, not only errors.

use billing_core::outcome::Outcome;

/// When to open, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BreakerSettings {
    /// Opens when this share of the answers in a window is unknown, missing or "not now".
    pub share_percent: u32,
    /// Counting window, machine milliseconds.
    pub window_ms: i64,
    /// At least so many answers before it judges.
    pub answers_min: u32,
    /// How long it stays open, machine milliseconds.
    pub open_for_ms: i64,
}

impl Default for BreakerSettings {
    fn default() -> Self {
        Self { share_percent: 50, window_ms: 10_000, answers_min: 20, open_for_ms: 15_000 }
    }
}

/// What the breaker allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BreakerState {
    /// Everything.
    Closed,
    /// Nothing.
    Open,
    /// A few, to see whether the carrier is back.
    Probing {
        /// So many at a time.
        room: usize,
    },
}

impl BreakerState {
    /// The word for people.
    #[must_use]
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::Probing { .. } => "probing",
        }
    }
}

const PROBES: u32 = 3;

/// Counts answers and decides.
#[derive(Debug)]
pub(crate) struct Breaker {
    settings: BreakerSettings,
    window_start_ms: i64,
    good: u32,
    bad: u32,
    opened_at_ms: Option<i64>,
    probes_good: u32,
}

impl Breaker {
    /// A closed breaker.
    #[must_use]
    pub(crate) fn new(settings: BreakerSettings) -> Self {
        Self { settings, window_start_ms: 0, good: 0, bad: 0, opened_at_ms: None, probes_good: 0 }
    }

    /// What is allowed at a machine instant.
    #[must_use]
    pub(crate) fn state(&self, now_ms: i64) -> BreakerState {
        match self.opened_at_ms {
            None => BreakerState::Closed,
            Some(opened) if now_ms - opened < self.settings.open_for_ms => BreakerState::Open,
            Some(_) => BreakerState::Probing { room: PROBES as usize },
        }
    }

    /// Counts an answer; `true` when it opens the breaker.
    pub(crate) fn observe(&mut self, outcome: Outcome, now_ms: i64) -> bool {
        let good = !matches!(
            outcome,
            Outcome::Unknown(_) | Outcome::NotSent(_) | Outcome::Temporary { .. } | Outcome::Fault { .. }
        );
        if let Some(opened) = self.opened_at_ms {
            if now_ms - opened < self.settings.open_for_ms {
                return false; // an answer to what was on its way when it opened
            }
            if !good {
                self.opened_at_ms = Some(now_ms);
                self.probes_good = 0;
                return false;
            }
            self.probes_good += 1;
            if self.probes_good >= PROBES {
                *self = Self { window_start_ms: now_ms, ..Self::new(self.settings) };
            }
            return false;
        }
        if now_ms - self.window_start_ms > self.settings.window_ms {
            (self.window_start_ms, self.good, self.bad) = (now_ms, 0, 0);
        }
        if good {
            self.good += 1;
        } else {
            self.bad += 1;
        }
        let answers = self.good + self.bad;
        let opens =
            answers >= self.settings.answers_min && self.bad * 100 > answers * self.settings.share_percent;
        if opens {
            self.opened_at_ms = Some(now_ms);
            self.probes_good = 0;
        }
        opens
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use billing_core::outcome::{Doubt, Refusal};

    const LOST: Outcome = Outcome::Unknown(Doubt::NoReply);
    const FINE: Outcome = Outcome::Declined(Refusal::NoFunds);

    #[test]
    fn unknowns_open_it_and_probes_close_it() {
        let mut breaker = Breaker::new(BreakerSettings::default());
        for _ in 0..19 {
            assert!(!breaker.observe(LOST, 1_000));
        }
        assert!(breaker.observe(LOST, 1_000));
        assert_eq!(breaker.state(2_000), BreakerState::Open);
        assert!(matches!(breaker.state(16_000), BreakerState::Probing { room: 3 }));
        breaker.observe(LOST, 16_000);
        assert_eq!(breaker.state(17_000), BreakerState::Open);
        for _ in 0..3 {
            breaker.observe(FINE, 40_000);
        }
        assert_eq!(breaker.state(40_000), BreakerState::Closed);
    }

    #[test]
    fn refusals_are_answers() {
        let mut breaker = Breaker::new(BreakerSettings::default());
        for _ in 0..1_000 {
            assert!(!breaker.observe(FINE, 5));
        }
    }

    #[test]
    fn old_trouble_is_forgotten() {
        let mut breaker = Breaker::new(BreakerSettings::default());
        for i in 0..100 {
            assert!(!breaker.observe(LOST, i * 11_000));
        }
    }
}
