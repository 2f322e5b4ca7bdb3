//! The states of a subscription, a charge and an attempt, and every legal move between them, in one place.
//!
//! All moves go through [`step`]: recovery and the simulation replay through the same tables.

use thiserror::Error;

/// A kind of state with its table of legal moves.
pub trait State: Copy + PartialEq + std::fmt::Debug + 'static {
    /// Every state, with the states that it may leave to. Terminal states have an empty list.
    const MOVES: &'static [(Self, &'static [Self])];

    /// The word that the CLI and the history use.
    fn name(self) -> &'static str;

    /// The number that the database keeps.
    fn number(self) -> i16;
}

/// A move that no table allows: a bug or a poisoned row, never to be carried out.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[error("{kind} may not go from {from} to {to}")]
pub struct IllegalMove {
    /// What kind of thing it is.
    pub kind: &'static str,
    /// The state that it is in.
    pub from: &'static str,
    /// The state that it should not go to.
    pub to: &'static str,
}

/// The new state, when the move is legal. Staying where one is, is always legal.
///
/// # Errors
/// [`IllegalMove`] when the table has no such move.
pub fn step<S: State>(from: S, to: S) -> Result<S, IllegalMove> {
    let legal = from == to || S::MOVES.iter().any(|(state, targets)| *state == from && targets.contains(&to));
    if legal {
        return Ok(to);
    }
    let kind = std::any::type_name::<S>().rsplit("::").next().unwrap_or("state");
    Err(IllegalMove { kind, from: from.name(), to: to.name() })
}

/// The state of a number that the database kept.
#[must_use]
pub fn from_number<S: State>(number: i16) -> Option<S> {
    S::MOVES.iter().map(|(state, _)| *state).find(|state| state.number() == number)
}

macro_rules! states {
    ($(#[$doc:meta])* $kind:ident { $($(#[$line:meta])* $state:ident = $number:literal $name:literal => [$($target:ident),*]),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(i16)]
        pub enum $kind { $($(#[$line])* $state = $number),+ }

        impl State for $kind {
            const MOVES: &'static [(Self, &'static [Self])] = &[$((Self::$state, &[$(Self::$target),*])),+];

            fn name(self) -> &'static str {
                match self { $(Self::$state => $name),+ }
            }

            fn number(self) -> i16 {
                self as i16
            }
        }
    };
}

states! {
    /// Where a subscription stands. (Quarantine is a flag, not a state.)
    SubscriptionState {
        /// No access; the first charge only.
        Pending = 1 "pending" => [Trial, Active, Hold, Suspended, Cancelled, Ended],
        /// Access; nothing is collected until `state_until`.
        Trial = 2 "trial" => [Active, Cancelled],
        /// No access; nothing is collected until `state_until`.
        Parked = 3 "parked" => [Active, Cancelled],
        /// Access to `paid_until`; collects.
        Active = 4 "active" => [Grace, Hold, Suspended, Paused, Cancelled, Ended],
        /// Access to `state_until`; collects.
        Grace = 5 "grace" => [Active, Hold, Suspended, Cancelled, Ended],
        /// No access; collects.
        Hold = 6 "hold" => [Active, Suspended, Cancelled, Ended],
        /// No access; collecting stopped.
        Suspended = 7 "suspended" => [Active, Cancelled, Ended],
        /// Collecting stopped by wish.
        Paused = 8 "paused" => [Active, Cancelled, Ended],
        /// Stopped for good; access to `paid_until`.
        Cancelled = 9 "cancelled" => [],
        /// Ran its course; access to `paid_until`.
        Ended = 10 "ended" => [],
    }
}

states! {
    /// Where a charge stands. Collected, refunded and reversed are amounts, not states.
    ChargeState {
        /// Nothing is on its way; more attempts may come.
        Open = 1 "open" => [Waiting, Settled, Reduced, Arrears, WrittenOff, Expired, Merged, Skipped, Cancelled],
        /// An attempt is open.
        Waiting = 2 "waiting" => [Open, Reserved, Settled, Reduced, Arrears, WrittenOff, Expired, Cancelled],
        /// Set aside at the carrier, not yet confirmed.
        Reserved = 3 "reserved" => [Open, Waiting, Settled, Reduced, Expired, Cancelled],
        /// Collected in full.
        Settled = 4 "settled" => [],
        /// Settled by a smaller price.
        Reduced = 5 "reduced" => [],
        /// Of an earlier period; may still be collected.
        Arrears = 6 "arrears" => [Waiting, Settled, Reduced, WrittenOff, Expired, Cancelled],
        /// Given up.
        WrittenOff = 7 "written_off" => [],
        /// Its time passed.
        Expired = 8 "expired" => [],
        /// Became part of another charge.
        Merged = 9 "merged" => [],
        /// Never tried.
        Skipped = 10 "skipped" => [],
        /// Stopped.
        Cancelled = 11 "cancelled" => [],
    }
}

states! {
    /// Where an attempt stands. Finals are absorbing.
    AttemptState {
        /// Durable, perhaps sent.
        Intent = 1 "intent" => [Accepted, Approved, Declined, NotSent, NotApplied, Reserved, Released, Unknown],
        /// The carrier has it; the answer comes later.
        Accepted = 2 "accepted" => [Approved, Declined, NotApplied, Reserved, Released, Unknown],
        /// Nobody knows; blocks until there is evidence.
        Unknown = 3 "unknown" => [Approved, Declined, NotSent, NotApplied, Reserved, Released, InReview],
        /// Only people can settle it.
        InReview = 4 "in_review" => [Approved, Declined, NotApplied, Reserved, Released],
        /// Money moved.
        Approved = 5 "approved" => [],
        /// Refused; money did not move.
        Declined = 6 "declined" => [],
        /// No byte left, with proof.
        NotSent = 7 "not_sent" => [],
        /// Not processed by the carrier, as it declares.
        NotApplied = 8 "not_applied" => [],
        /// Set aside.
        Reserved = 9 "reserved" => [],
        /// Reservation given back.
        Released = 10 "released" => [],
    }
}

impl SubscriptionState {
    /// Whether it is over: nothing leaves it.
    #[must_use]
    pub fn is_over(self) -> bool {
        matches!(self, Self::Cancelled | Self::Ended)
    }

    /// Whether charges may be sent in this state.
    #[must_use]
    pub fn collects(self) -> bool {
        matches!(self, Self::Pending | Self::Active | Self::Grace | Self::Hold)
    }
}

impl AttemptState {
    /// Whether nothing can change it any more.
    #[must_use]
    pub fn is_final(self) -> bool {
        Self::MOVES.iter().any(|(state, targets)| *state == self && targets.is_empty())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn check_table<S: State>() {
        for (state, targets) in S::MOVES {
            assert_eq!(from_number::<S>(state.number()), Some(*state));
            assert_eq!(step(*state, *state), Ok(*state));
            for (other, _) in S::MOVES {
                let legal = other == state || targets.contains(other);
                assert_eq!(step(*state, *other).is_ok(), legal, "{state:?} to {other:?}");
            }
        }
        assert_eq!(from_number::<S>(0), None);
    }

    #[test]
    fn moves_are_exactly_those_of_the_tables() {
        check_table::<SubscriptionState>();
        check_table::<ChargeState>();
        check_table::<AttemptState>();
    }

    #[test]
    fn finals_are_absorbing_and_unknown_is_not_one() {
        let finals: Vec<_> =
            AttemptState::MOVES.iter().map(|(s, _)| *s).filter(|s| s.is_final()).map(State::name).collect();
        assert_eq!(finals, ["approved", "declined", "not_sent", "not_applied", "reserved", "released"]);
        let error = step(SubscriptionState::Cancelled, SubscriptionState::Active).unwrap_err();
        assert_eq!(error.to_string(), "SubscriptionState may not go from cancelled to active");
    }
}
