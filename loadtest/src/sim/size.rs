//! How large a world is, and how much of what may go wrong does. Most are small and rough; some are large and calmer, so that
//! long queues, full batches and large shards are seen too.

use super::book::Crowd;
use super::dice::Dice;

/// Worlds of smaller seeds are small, as they were before there were others: a seed that found something keeps its world.
pub(super) const SIZED_FROM: u64 = 10_000;

/// From here on leases run out while a request is about to leave.
pub(super) const LAST_MOMENTS_FROM: u64 = 20_000;

/// From here on in every world, and as long as is possible at all.
pub(super) const LONG_MOMENTS_FROM: u64 = 30_000;

/// What a world's size decides.
#[derive(Debug, Clone, Copy)]
pub(super) struct Size {
    /// Subscribers, where it is not the world's own dice that say so.
    subscribers: Option<u32>,
    /// A carrier's requests per second, times this.
    pub(super) rate_times: u32,
    /// Requests on their way from one worker to one carrier.
    pub(super) in_flight_max: u32,
    /// Of what may become of one request, only one fault in so many happens.
    pub(super) calmer: u64,
    /// People do one thing in so many.
    pub(super) quieter: u32,
    /// So long before a carrier forgets a key nothing is sent again under it: what is written then waits for its turn, is under
    /// way, and may be late; where processes are stopped before the first byte, that comes on top.
    pub(super) margin_s: u32,
}

impl Size {
    const SMALL: Self =
        Self { subscribers: None, rate_times: 1, in_flight_max: 16, calmer: 1, quieter: 1, margin_s: 55 };
    const STALLED: Self = Self { margin_s: 72, ..Self::SMALL };

    /// The size of a seed's world: a stream of its own, so that nothing else of it changes.
    pub(super) fn of(seed: u64) -> Self {
        if seed < SIZED_FROM {
            return Self::SMALL;
        }
        let dice = Dice::new(seed, 5);
        let of = |low, high| u32::try_from(dice.between(low, high)).unwrap_or(u32::MAX);
        let (low, high, size) = match dice.below(20) {
            0..13 => return Self::STALLED,
            13..17 => (400, 1_200, Self { in_flight_max: 32, calmer: 2, quieter: 5, ..Self::STALLED }),
            _ => (2_000, 5_000, Self { in_flight_max: 128, calmer: 4, quieter: 25, ..Self::STALLED }),
        };
        let subscribers = of(low, high);
        // The slowest carrier takes three of these a second: in half a business day what falls due in a whole one, or
        // what trouble left behind would not be through when the world ends.
        let rate_times = (subscribers / 90).max(4) + of(0, 20);
        Self { subscribers: Some(subscribers), rate_times, ..size }
    }

    /// How many there are, where a small world has so many.
    pub(super) fn crowd(self, small: u32, rush: bool) -> Crowd {
        let subscribers = self.subscribers.unwrap_or(if rush { 120 } else { small });
        Crowd { subscribers, boreal_permille: 300, at_once: rush }
    }

    /// Whether a fault of one request is left out in here.
    pub(super) fn spares(self, dice: &Dice) -> bool {
        self.calmer > 1 && dice.below(self.calmer) > 0
    }
}
