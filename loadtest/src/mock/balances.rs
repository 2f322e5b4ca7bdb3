//! What each line has: opening balance + top-ups so far − what was charged. Only the last is stored.

use super::behaviour::Behaviour;
use super::draw::{Draw, Purpose};
use super::shards::Shards;

/// Changes of the top-up rule in one life; a mock that needs more is driven by mistake.
const ERAS_MAX: usize = 1_024;

/// A phone line: 5 to 15 digits, packed with a leading 1 so that zeros in front count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Line(u64);

impl Line {
    pub(super) fn parse(digits: &str) -> Option<Self> {
        if !(5..=15).contains(&digits.len()) {
            return None;
        }
        digits
            .bytes()
            .try_fold(1_u64, |sum, b| b.is_ascii_digit().then(|| sum * 10 + u64::from(b - b'0')))
            .map(Self)
    }

    /// The packed digits, as a name to draw for.
    pub(super) fn name(self) -> u64 {
        self.0
    }
}

/// The balances of all lines.
pub(super) struct Balances {
    draw: Draw,
    spent: Shards<Line, u64>,
    /// Spans of one top-up rule each, the last one open. Empty until the books open with their first request.
    eras: Vec<Era>,
}

struct Era {
    from_us: u64,
    until_us: Option<u64>,
    topup_minor: u64,
    every_us: u64,
}

/// The rule changed too often.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooManyChanges;

impl Balances {
    pub(super) fn new(draw: Draw) -> Self {
        Self { draw, spent: Shards::new(), eras: Vec::new() }
    }

    /// The books open at their first request, so that a restart finds the same opening in the ledger.
    pub(super) fn open(&mut self, at_us: u64, behaviour: &Behaviour) {
        if self.eras.is_empty() {
            self.eras.push(Era::of(at_us, behaviour));
        }
    }

    /// From now on lines top up by another rule; what they got so far stays.
    pub(super) fn change_topups(&mut self, now_us: u64, to: &Behaviour) -> Result<(), TooManyChanges> {
        let next = Era::of(now_us, to);
        let count = self.eras.len();
        let Some(current) = self.eras.last_mut() else { return Ok(()) };
        if (current.topup_minor, current.every_us) == (next.topup_minor, next.every_us) {
            return Ok(());
        }
        if count >= ERAS_MAX {
            return Err(TooManyChanges);
        }
        current.until_us = Some(now_us);
        self.eras.push(next);
        Ok(())
    }

    /// What the line has now, in minor units. Below zero only when the rules were changed under it.
    pub(super) fn balance(&self, line: Line, now_us: u64, behaviour: &Behaviour) -> i128 {
        let topped_up: i128 = self.eras.iter().map(|era| era.sum(self.draw, line, now_us)).sum();
        let spent = self.spent.get(&line).copied().unwrap_or(0);
        i128::from(self.opening(line, behaviour)) + topped_up - i128::from(spent)
    }

    pub(super) fn spend(&mut self, line: Line, minor: u64) {
        match self.spent.get_mut(&line) {
            Some(spent) => *spent = spent.saturating_add(minor),
            None => self.spent.insert(line, minor),
        }
    }

    /// What was spent comes back.
    pub(super) fn give_back(&mut self, line: Line, minor: u64) {
        if let Some(spent) = self.spent.get_mut(&line) {
            *spent = spent.saturating_sub(minor);
        }
    }

    fn opening(&self, line: Line, behaviour: &Behaviour) -> u64 {
        let classes = &behaviour.balance.classes;
        let mut left = self.draw.ppm(Purpose::BalanceClass, line.name());
        let class = classes.iter().find(|class| {
            let hit = left < class.share_ppm;
            left = left.saturating_sub(class.share_ppm);
            hit
        });
        class.or(classes.last()).map_or(0, |class| {
            let roll = self.draw.roll(Purpose::Balance, line.name());
            match (class.max_minor - class.min_minor).checked_add(1) {
                Some(width) => class.min_minor + roll % width,
                None => roll,
            }
        })
    }
}

impl Era {
    fn of(from_us: u64, behaviour: &Behaviour) -> Self {
        let every_us = behaviour.topup_every_ms.saturating_mul(1_000);
        Self { from_us, until_us: None, topup_minor: behaviour.topup_minor, every_us }
    }

    /// The line's top-ups in this era: the instants `phase + k × every` in `(from, min(until, now)]`.
    fn sum(&self, draw: Draw, line: Line, now_us: u64) -> i128 {
        if self.every_us == 0 || self.topup_minor == 0 {
            return 0;
        }
        let phase_us = draw.roll(Purpose::TopUpPhase, line.name()) % self.every_us;
        let instants = |at_us: u64| (at_us.saturating_add(self.every_us - phase_us)) / self.every_us;
        let until_us = self.until_us.unwrap_or(now_us).min(now_us);
        let times = instants(until_us).saturating_sub(instants(self.from_us));
        i128::from(times) * i128::from(self.topup_minor)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::mock::behaviour::{BalanceClass, BalanceRules};

    fn poor(topup_minor: u64, topup_every_ms: u64) -> Behaviour {
        let class = |share_ppm, min_minor, max_minor| BalanceClass { share_ppm, min_minor, max_minor };
        let balance = BalanceRules { classes: vec![class(250_000, 0, 9), class(750_000, 1_000, 1_000)] };
        Behaviour { balance, topup_minor, topup_every_ms, ..Behaviour::default() }
    }

    #[test]
    fn lines_are_digits_and_zeros_in_front_count() {
        assert_eq!(["1234", "1234567890123456", "12a45", "+12345", ""].map(Line::parse), [None; 5]);
        assert_ne!(Line::parse("012345"), Line::parse("12345"));
        assert_eq!(Line::parse("999999999999999").unwrap().name(), 1_999_999_999_999_999);
    }

    #[test]
    fn opening_balances_follow_the_shares() {
        let balances = Balances::new(Draw::new(1));
        let openings: Vec<i128> = (0..10_000)
            .map(|n| balances.balance(Line::parse(&format!("346{n:08}")).unwrap(), 0, &poor(0, 0)))
            .collect();
        let low = openings.iter().filter(|minor| **minor < 10).count();
        assert!((2_350..2_650).contains(&low), "{low}");
        assert!(openings.iter().all(|minor| *minor < 10 || *minor == 1_000));
        assert!((0..10).all(|minor| openings.contains(&minor)), "the range is drawn from evenly");
    }

    #[test]
    fn each_line_tops_up_once_per_period_at_its_own_phase() {
        let rules = poor(100, 1_000);
        let mut balances = Balances::new(Draw::new(1));
        balances.open(10_000_000, &rules);
        let lines: Vec<Line> = (0..100).map(|n| Line::parse(&format!("34600{n:06}")).unwrap()).collect();
        let after = |us: u64| -> Vec<i128> {
            let gain = |line: &Line| {
                balances.balance(*line, us, &rules) - balances.balance(*line, 10_000_000, &rules)
            };
            lines.iter().map(gain).collect()
        };
        assert!(after(13_000_000).iter().all(|gain| *gain == 300));
        let halfway = after(10_500_000);
        assert!(halfway.contains(&0) && halfway.contains(&100), "phases differ");
    }

    #[test]
    fn spending_lowers_and_a_new_rule_keeps_what_was_topped_up() {
        let (old, new) = (poor(100, 1_000), poor(0, 0));
        let mut balances = Balances::new(Draw::new(1));
        balances.open(0, &old);
        let line = Line::parse("34600000001").unwrap();
        let opening = balances.balance(line, 0, &old);
        balances.spend(line, 40);
        balances.spend(line, 50);
        balances.change_topups(2_000_000, &new).unwrap();
        assert_eq!(balances.balance(line, 9_000_000, &new), opening + 200 - 90);
        let outcomes: Vec<_> =
            (0..2_000).map(|n| balances.change_topups(n, if n % 2 == 0 { &old } else { &new })).collect();
        assert!(
            outcomes[..1_000].iter().all(Result::is_ok) && outcomes[1_500..].contains(&Err(TooManyChanges))
        );
    }
}
