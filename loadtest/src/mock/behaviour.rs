//! How the carrier behaves: who has money, what fails and how often. Given at start, changeable while it runs.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::faults::GarbageKind;

const PPM: u32 = 1_000_000;
const CLASSES_MAX: usize = 64;
/// Lines with a script or a told balance, and words of a script.
const SCRIPTS_MAX: usize = 1_000;
const KINDS_MAX: usize = 64;
const LATENCY_MAX_MS: u64 = 3_600_000;
/// Enough for any charge: a million of major units.
const RICH_MINOR: u64 = 1_000_000_000;

/// The whole behaviour. A key that is left out has its default; an unknown key is refused. All `_ppm` are parts per million.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Behaviour {
    /// What subscribers have at the opening of the books.
    pub balance: BalanceRules,
    /// What one top-up adds to a line, in minor units.
    pub topup_minor: u64,
    /// How often each line tops up, in milliseconds of wall time, at its own phase; 0 is never.
    pub topup_every_ms: u64,
    /// Lines that are barred.
    pub barred_ppm: u32,
    /// Lines that the carrier does not know.
    pub unknown_ppm: u32,
    /// Every answer waits this long.
    pub latency_ms: u64,
    /// And up to this much longer, fixed per key.
    pub latency_jitter_ms: u64,
    /// Applied, then never answered; the socket stays open.
    pub silent_applied_ppm: u32,
    /// Not applied and never answered.
    pub silent_not_applied_ppm: u32,
    /// Applied, then the connection is reset.
    pub reset_applied_ppm: u32,
    /// Not applied, and the connection is reset.
    pub reset_not_applied_ppm: u32,
    /// Refused as too fast; not processed, not remembered.
    pub throttle_ppm: u32,
    /// Refused as busy; not processed, not remembered.
    pub busy_ppm: u32,
    /// Applied for the amount asked, answered (and remembered) with another amount.
    pub wrong_amount_ppm: u32,
    /// Applied, answered with something unreadable.
    pub garbage_ppm: u32,
    /// What the unreadable answers look like, in even shares.
    pub garbage_kinds: Vec<GarbageKind>,
    /// How many requests under one key meet the key's fate (silence, reset, throttle, busy, garbage) before the carrier
    /// handles that key well; 0 is every one.
    pub fault_times: u32,
    /// The whole carrier is down: every request is busy, none is processed.
    pub down: bool,
    /// Charges above this are refused by limit.
    pub max_amount_minor: Option<u64>,
    /// A charge above the balance takes what is there, if that is at least so much; without it: refused.
    pub partial_min_minor: Option<u64>,
    /// How long a reservation holds.
    pub reservation_ms: u64,
    /// An inquiry does not see what was decided so short a time ago: it says "not found".
    pub visible_after_ms: u64,
    /// An inquiry about what was decided so short a time ago says "working".
    pub working_ms: u64,
    /// Balance checks say yes or no instead of an amount.
    pub balance_yes_no: bool,
    /// Charges that are decided but answered "accepted"; the result then comes as a callback.
    pub pending_ppm: u32,
    /// How long after the decision the callback is sent.
    pub callback_delay_ms: u64,
    /// Callbacks that are never sent.
    pub callback_lost_ppm: u32,
    /// Callbacks that are sent twice.
    pub callback_twice_ppm: u32,
    /// Callbacks in front of which somebody else sends a contrary one with a wrong signature.
    pub callback_forged_ppm: u32,
    /// Callbacks that are followed by a signed one that says the contrary.
    pub callback_contrary_ppm: u32,
    /// Callbacks that arrive before the answer "accepted" does.
    pub callback_early_ppm: u32,
    /// What single lines get for their charges, by their digits: one word per key that the carrier has not decided
    /// before; after the last word such a line is as any other. At most 1,000 lines.
    pub scripts: BTreeMap<String, Vec<Scripted>>,
    /// What checks of single lines' balances are told, by their digits, whatever those lines have; charges do not look
    /// at it. At most 1,000 lines.
    pub told_balances: BTreeMap<String, u64>,
}

/// An answer out of a script. Balances, barred lines and limits are not looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scripted {
    /// Takes the amount.
    Charged,
    /// Takes so many minor units of it.
    Partial(u64),
    /// Refuses: no money.
    NoFunds,
    /// Refuses: barred.
    Barred,
    /// Refuses: no such line.
    UnknownSubscriber,
    /// Refuses: a limit.
    Limit,
    /// Busy; nothing processed, nothing remembered.
    Temporary,
    /// Takes the amount, and the connection is reset.
    Unknown,
    /// Takes nothing, remembers nothing, and the connection is reset.
    Lost,
    /// Takes the amount and says only "accepted"; no message follows.
    Accepted,
}

/// Opening balances.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BalanceRules {
    /// Shares of the subscribers; what the shares leave over belongs to the last class.
    pub classes: Vec<BalanceClass>,
}

/// A share of the subscribers and the range their opening balances are drawn from, evenly.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BalanceClass {
    /// Part of all lines.
    pub share_ppm: u32,
    /// Lowest opening balance.
    pub min_minor: u64,
    /// Highest opening balance.
    pub max_minor: u64,
}

/// Why a behaviour is refused.
#[derive(Debug, thiserror::Error)]
pub enum BehaviourError {
    /// Not JSON, an unknown key, or a value of the wrong type.
    #[error("the behaviour cannot be read: {0}")]
    Json(#[from] serde_json::Error),
    /// A value outside its range.
    #[error("behaviour: {0}")]
    Value(String),
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            balance: BalanceRules::default(),
            topup_minor: 0,
            topup_every_ms: 0,
            barred_ppm: 0,
            unknown_ppm: 0,
            latency_ms: 0,
            latency_jitter_ms: 0,
            silent_applied_ppm: 0,
            silent_not_applied_ppm: 0,
            reset_applied_ppm: 0,
            reset_not_applied_ppm: 0,
            throttle_ppm: 0,
            busy_ppm: 0,
            wrong_amount_ppm: 0,
            garbage_ppm: 0,
            garbage_kinds: GarbageKind::ALL.to_vec(),
            fault_times: 1,
            down: false,
            max_amount_minor: None,
            partial_min_minor: None,
            reservation_ms: 900_000,
            visible_after_ms: 0,
            working_ms: 0,
            balance_yes_no: false,
            pending_ppm: 0,
            callback_delay_ms: 0,
            callback_lost_ppm: 0,
            callback_twice_ppm: 0,
            callback_forged_ppm: 0,
            callback_contrary_ppm: 0,
            callback_early_ppm: 0,
            scripts: BTreeMap::new(),
            told_balances: BTreeMap::new(),
        }
    }
}

impl Default for BalanceRules {
    fn default() -> Self {
        Self { classes: vec![BalanceClass { share_ppm: PPM, min_minor: RICH_MINOR, max_minor: RICH_MINOR }] }
    }
}

impl Behaviour {
    /// Reads a whole behaviour.
    ///
    /// # Errors
    /// On bad JSON, unknown keys and values out of range.
    pub fn from_json(text: &[u8]) -> Result<Self, BehaviourError> {
        Self::default().with_changes(text)
    }

    /// This behaviour with the top-level keys of `text` replaced.
    ///
    /// # Errors
    /// On bad JSON, unknown keys and values out of range; `self` is not touched.
    pub fn with_changes(&self, text: &[u8]) -> Result<Self, BehaviourError> {
        let changes: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(text)?;
        let mut whole = serde_json::to_value(self)?;
        if let Some(members) = whole.as_object_mut() {
            members.extend(changes);
        }
        let behaviour: Self = serde_json::from_value(whole)?;
        behaviour.checked()
    }

    /// The shares of the fates, as they are laid out one after another on the draw.
    pub(super) fn fault_shares_ppm(&self) -> [u32; 8] {
        [
            self.silent_applied_ppm,
            self.silent_not_applied_ppm,
            self.reset_applied_ppm,
            self.reset_not_applied_ppm,
            self.throttle_ppm,
            self.busy_ppm,
            self.wrong_amount_ppm,
            self.garbage_ppm,
        ]
    }

    pub(super) fn checked(self) -> Result<Self, BehaviourError> {
        let wrong = |text: String| Err(BehaviourError::Value(text));
        let classes = &self.balance.classes;
        if classes.is_empty() || classes.len() > CLASSES_MAX {
            return wrong(format!("{} balance classes, 1 to {CLASSES_MAX} are allowed", classes.len()));
        }
        if let Some(class) = classes.iter().find(|class| class.min_minor > class.max_minor) {
            return wrong(format!(
                "a class has min_minor {} above max_minor {}",
                class.min_minor, class.max_minor
            ));
        }
        for (name, shares) in [
            ("the shares of the balance classes", classes.iter().map(|class| class.share_ppm).collect()),
            ("the fault shares", self.fault_shares_ppm().to_vec()),
            ("barred_ppm and unknown_ppm", vec![self.barred_ppm, self.unknown_ppm]),
        ] {
            let sum: u64 = shares.into_iter().map(u64::from).sum();
            if sum > u64::from(PPM) {
                return wrong(format!("{name} sum to {sum} ppm, above {PPM}"));
            }
        }
        let shares = [
            self.pending_ppm,
            self.callback_lost_ppm,
            self.callback_twice_ppm,
            self.callback_forged_ppm,
            self.callback_contrary_ppm,
            self.callback_early_ppm,
        ];
        if let Some(share) = shares.into_iter().find(|share| *share > PPM) {
            return wrong(format!("a share of callbacks is {share} ppm, above {PPM}"));
        }
        if self.callback_delay_ms > LATENCY_MAX_MS {
            return wrong(format!("callback_delay_ms is above {LATENCY_MAX_MS}"));
        }
        if self.latency_ms.max(self.latency_jitter_ms) > LATENCY_MAX_MS {
            return wrong(format!("a latency is above {LATENCY_MAX_MS} ms"));
        }
        let longest = self.scripts.values().map(Vec::len).max().unwrap_or(0);
        if self.scripts.len().max(longest) > SCRIPTS_MAX {
            return wrong(format!(
                "{} scripts of up to {longest} words, {SCRIPTS_MAX} of each are allowed",
                self.scripts.len()
            ));
        }
        if self.told_balances.len() > SCRIPTS_MAX {
            return wrong(format!("{} told_balances, {SCRIPTS_MAX} are allowed", self.told_balances.len()));
        }
        let kinds = self.garbage_kinds.len();
        if kinds > KINDS_MAX || (kinds == 0 && self.garbage_ppm > 0) {
            return wrong(format!("{kinds} garbage_kinds, 1 to {KINDS_MAX} are allowed"));
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn unknown_keys_and_values_out_of_range_are_refused() {
        for text in [
            "{\"dwon\":true}",
            "{\"balance\":{\"classes\":[]}}",
            "{\"balance\":{\"classes\":[{\"share_ppm\":1,\"min_minor\":2,\"max_minor\":1}]}}",
            "{\"silent_applied_ppm\":600000,\"busy_ppm\":600000}",
            "{\"garbage_ppm\":1,\"garbage_kinds\":[]}",
            "{\"latency_ms\":3600001}",
            "{\"topup_minor\":-1}",
            "{\"callback_twice_ppm\":1000001}",
            "[]",
            "",
        ] {
            assert!(Behaviour::from_json(text.as_bytes()).is_err(), "{text}");
            assert!(Behaviour::default().with_changes(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn a_change_leaves_the_other_keys_alone() {
        let before = Behaviour { busy_ppm: 5, ..Behaviour::default() };
        let after = before.with_changes(br#"{"down":true}"#).unwrap();
        assert_eq!(after, Behaviour { down: true, ..before });
        let written = serde_json::to_vec(&after).unwrap();
        assert_eq!(Behaviour::from_json(&written).unwrap(), after);
    }
}
