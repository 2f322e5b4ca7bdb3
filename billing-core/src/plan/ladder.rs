//! The step-down: smaller amounts to try when the full one is refused for lack of funds.

/// The step-down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ladder {
    /// The smaller amounts, minor units, descending, each above 0 and below the price; at most 8. Percentages were
    /// made into price points when the book was read. Empty where the carrier itself collects what there is.
    pub steps_minor: Vec<i64>,
    /// What a smaller amount buys.
    pub settles: Settles,
    /// Where the next round begins.
    pub restart: Restart,
    /// How the step is chosen.
    pub choice: Choice,
    /// The carrier collects what there is of the amount by itself: no step is tried after a refusal.
    pub native: bool,
    /// The smallest part worth a request, minor units; a smaller rest is left alone.
    pub part_min_minor: i64,
    /// What a part delivers.
    pub delivers: Delivers,
}

/// The most steps a ladder may have.
pub const LADDER_STEPS_MAX: usize = 8;

/// What a smaller amount buys. Has no default: the product team decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settles {
    /// The whole period.
    Period,
    /// Access pro rata.
    Share,
    /// Nothing yet: the rest is still owed.
    Amount,
}

/// Where the round after a ladder begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restart {
    /// At the full price.
    Full,
    /// At the step that was tried last.
    LastStep,
}

/// How the step of a ladder is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// One after the other, downwards.
    Descending,
    /// The largest that the balance covers; downwards where nothing is known of it.
    Balance,
}

/// What a part delivers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivers {
    /// A part of the period's time, exact to the minor unit.
    Time,
    /// A smaller variant of the product, numbered like the ladder's steps, for the whole period.
    Tier,
}

impl Ladder {
    /// A ladder of steps without anything special about it.
    #[must_use]
    pub fn descending(steps_minor: Vec<i64>, settles: Settles, restart: Restart) -> Self {
        Self {
            steps_minor,
            settles,
            restart,
            choice: Choice::Descending,
            native: false,
            part_min_minor: 0,
            delivers: Delivers::Time,
        }
    }

    /// The variant that a collected amount pays for: the number of the largest step that it covers; `None` when it
    /// covers none.
    #[must_use]
    pub fn tier(&self, collected_minor: i64) -> Option<i16> {
        let index = self.steps_minor.iter().position(|step| *step <= collected_minor)?;
        i16::try_from(index + 1).ok()
    }
}
