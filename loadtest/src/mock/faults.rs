//! What goes wrong, and for whom.

use serde::{Deserialize, Serialize};

use super::behaviour::Behaviour;
use super::draw::{Draw, Purpose};

/// Shapes of an unreadable answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GarbageKind {
    /// A web page with status 200.
    Html,
    /// The first half of the true answer.
    Truncated,
    /// Well formed, with a code that nobody documented.
    UnknownCode,
    /// The true status with an empty body.
    Empty,
    /// The true answer for another key.
    WrongKey,
    /// 64 MiB of text.
    Huge,
}

impl GarbageKind {
    /// Every kind.
    pub const ALL: [Self; 6] =
        [Self::Html, Self::Truncated, Self::UnknownCode, Self::Empty, Self::WrongKey, Self::Huge];
}

/// What chance has in store for a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Well,
    Silent { applied: bool },
    Reset { applied: bool },
    Throttle,
    Busy,
    WrongAmount,
    Garbage(GarbageKind),
}

impl Fate {
    /// The same key always has the same fate under the same seed and behaviour.
    pub(super) fn of(draw: Draw, name: u64, behaviour: &Behaviour) -> Self {
        let mut left = draw.ppm(Purpose::Fate, name);
        let met = behaviour.fault_shares_ppm().iter().position(|share| {
            let hit = left < *share;
            left = left.saturating_sub(*share);
            hit
        });
        match met {
            Some(0) => Self::Silent { applied: true },
            Some(1) => Self::Silent { applied: false },
            Some(2) => Self::Reset { applied: true },
            Some(3) => Self::Reset { applied: false },
            Some(4) => Self::Throttle,
            Some(5) => Self::Busy,
            Some(6) => Self::WrongAmount,
            Some(_) => {
                let kinds = &behaviour.garbage_kinds;
                let roll = draw.roll(Purpose::GarbageKind, name) as usize;
                kinds.get(roll % kinds.len().max(1)).map_or(Self::Well, |kind| Self::Garbage(*kind))
            }
            None => Self::Well,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_met_and_fates_repeat() {
        let behaviour = Behaviour {
            silent_applied_ppm: 100_000,
            busy_ppm: 200_000,
            garbage_ppm: 300_000,
            garbage_kinds: vec![GarbageKind::Html, GarbageKind::Huge],
            ..Behaviour::default()
        };
        let draw = Draw::new(3);
        let fates: Vec<Fate> =
            (0..20_000_u64).map(|n| Fate::of(draw, Draw::name(&n.to_string()), &behaviour)).collect();
        let count = |fate: Fate| fates.iter().filter(|met| **met == fate).count();
        for (fate, low, high) in [
            (Fate::Silent { applied: true }, 1_800, 2_200),
            (Fate::Busy, 3_700, 4_300),
            (Fate::Garbage(GarbageKind::Html), 2_700, 3_300),
            (Fate::Garbage(GarbageKind::Huge), 2_700, 3_300),
            (Fate::Well, 7_600, 8_400),
            (Fate::Throttle, 0, 0),
        ] {
            assert!((low..=high).contains(&count(fate)), "{fate:?}: {}", count(fate));
        }
        assert_eq!(fates.first().copied(), Some(Fate::of(draw, Draw::name("0"), &behaviour)));
    }
}
