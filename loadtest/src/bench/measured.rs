//! A measured value beside its floor and its target.

use serde::Serialize;

/// A value with what is expected of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Measured {
    /// The value.
    pub value: f64,
    /// What it counts.
    pub unit: &'static str,
    /// At least (or at most) this; `None` where nothing is expected.
    pub floor: Option<f64>,
    /// What it should be.
    pub target: Option<f64>,
    /// Whether the floor is met.
    pub floor_met: Option<bool>,
    /// Whether the target is met.
    pub target_met: Option<bool>,
}

impl Measured {
    pub(super) fn plain(value: f64, unit: &'static str) -> Self {
        Self { value, unit, floor: None, target: None, floor_met: None, target_met: None }
    }

    pub(super) fn at_least(value: f64, unit: &'static str, floor: f64, target: f64) -> Self {
        let met = |bound| Some(value >= bound);
        Self {
            value,
            unit,
            floor: Some(floor),
            target: Some(target),
            floor_met: met(floor),
            target_met: met(target),
        }
    }

    pub(super) fn at_most(value: f64, unit: &'static str, floor: f64, target: f64) -> Self {
        let met = |bound| Some(value <= bound);
        Self {
            value,
            unit,
            floor: Some(floor),
            target: Some(target),
            floor_met: met(floor),
            target_met: met(target),
        }
    }

    /// The goal speaks of other circumstances: the value stands alone.
    pub(super) fn only_if(self, applies: bool) -> Self {
        if applies { self } else { Self::plain(self.value, self.unit) }
    }
}
