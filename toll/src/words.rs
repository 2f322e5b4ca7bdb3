//! Amounts, instants and periods as people read them and as JSON carries them.

use billing_core::money::{Currency, Money};
use billing_core::period::Period;
use billing_core::plan::PlanRules;
use billing_core::reason::{Input, Rule};
use billing_core::schedule::{Anchor, Cadence, Nth};
use billing_core::zone::Zone;
use jiff::Timestamp;
use jiff::civil::Weekday;
use serde::Serialize;

/// A digest in hexadecimal digits.
pub(crate) fn digest(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An amount: a decimal string and the currency.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Amount {
    pub(crate) amount: String,
    pub(crate) currency: String,
}

impl Amount {
    /// Of minor units and a numeric ISO code, as the database keeps them.
    pub(crate) fn new(minor: i64, currency: i16) -> Self {
        match Currency::from_numeric(currency) {
            Ok(currency) => Self {
                amount: Money::new(minor, currency).to_decimal().to_string(),
                currency: currency.code().to_owned(),
            },
            Err(_) => {
                Self { amount: minor.to_string(), currency: format!("minor units of currency {currency}") }
            }
        }
    }
}

impl std::fmt::Display for Amount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.amount, self.currency)
    }
}

/// An instant: RFC 3339, and on the clocks of a zone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Moment {
    pub(crate) at: String,
    pub(crate) local: String,
    pub(crate) zone: String,
}

impl Moment {
    /// Of milliseconds since 1970.
    pub(crate) fn new(ms: i64, zone: &Zone) -> Self {
        let at = timestamp(ms);
        Self { at: at.to_string(), local: zone.describe(at), zone: zone.name().to_owned() }
    }
}

/// Local first, then UTC.
impl std::fmt::Display for Moment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} = {}", self.local, self.at)
    }
}

/// An instant of milliseconds since 1970.
pub(crate) fn timestamp(ms: i64) -> Timestamp {
    Timestamp::from_millisecond(ms).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// Machine time of microseconds since 1970, in UTC.
pub(crate) fn machine(us: i64) -> String {
    Timestamp::from_microsecond(us).unwrap_or(Timestamp::UNIX_EPOCH).to_string()
}

/// A rule: id, version and sentence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct RuleWords {
    pub(crate) id: &'static str,
    pub(crate) version: u16,
    pub(crate) sentence: &'static str,
}

impl RuleWords {
    /// Of a kept number.
    pub(crate) fn new(number: i16) -> Self {
        let rule = Rule::from_number(number);
        Self { id: rule.id(), version: rule.version(), sentence: rule.sentence() }
    }
}

impl std::fmt::Display for RuleWords {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} [rule {} v{}]", self.sentence, self.id, self.version)
    }
}

/// A fact that a rule looked at, by its kept number, as a phrase.
pub(crate) fn fact(input: i16, value: i64, currency: i16, zone: &Zone) -> String {
    let amount = || Amount::new(value, currency).to_string();
    let local = || zone.describe(timestamp(value));
    match Input::from_number(input) {
        Some(Input::DueMinor) => format!("{} was due", amount()),
        Some(Input::CollectedMinor) => format!("{} had been collected before", amount()),
        Some(Input::AskedMinor) => format!("{} was asked for", amount()),
        Some(Input::Round) => format!("this was round {}", value.saturating_add(1)),
        Some(Input::Rounds) => format!("the plan has {} after the first", count(value, "more round")),
        Some(Input::Step) => format!("step {value} of the ladder"),
        Some(Input::Tries) => format!("{} had counted", count(value, "request")),
        Some(Input::Deferrals) => format!("moved {} before", count(value, "time")),
        Some(Input::BalanceMinor) => format!("the balance covers {}", amount()),
        Some(Input::NextDueMs) => format!("the next period falls due at {}", local()),
        Some(Input::ChosenMs) => format!("the moment chosen is {}", local()),
        Some(Input::StopMs) => format!("the stop came at {}", local()),
        Some(Input::OwedMinor) => format!("{} was owed in arrears", amount()),
        Some(Input::NoticeMs) => format!("the top-up was announced at {}", local()),
        Some(Input::Missed) => format!("{} joined", count(value, "missed period")),
        None => format!("fact {input}: {value}"),
    }
}

/// How long something took or lasts: `340 µs`, `41 ms`, `8.0 s`, `5 min`, `3 h 20 min`, `2 d 4 h`.
pub(crate) fn span_us(us: i64) -> String {
    const SECOND: i64 = 1_000_000;
    match us.unsigned_abs() as i64 {
        us @ 0..1_000 => format!("{us} µs"),
        us @ 1_000..SECOND => format!("{} ms", us / 1_000),
        us if us < 60 * SECOND => format!("{}.{} s", us / SECOND, us % SECOND / 100_000),
        us if us < 3_600 * SECOND => format!("{} min", us / SECOND / 60),
        us if us < 86_400 * SECOND => format!("{} h {} min", us / SECOND / 3_600, us / SECOND / 60 % 60),
        us => format!("{} d {} h", us / SECOND / 86_400, us / SECOND / 3_600 % 24),
    }
}

/// `07:05` of a minute of the day.
pub(crate) fn clock(minute: u16) -> String {
    format!("{:02}:{:02}", minute / 60, minute % 60)
}

/// The name of a weekday.
pub(crate) fn weekday(day: Weekday) -> &'static str {
    match day {
        Weekday::Monday => "Monday",
        Weekday::Tuesday => "Tuesday",
        Weekday::Wednesday => "Wednesday",
        Weekday::Thursday => "Thursday",
        Weekday::Friday => "Friday",
        Weekday::Saturday => "Saturday",
        Weekday::Sunday => "Sunday",
    }
}

/// What a period pays for, in words: `Tuesday 2026-12-01`, `Tuesday 2026-12-01 to Thursday 2026-12-31`.
pub(crate) fn period(period: Period, rules: Option<&PlanRules>, anchor: Anchor) -> String {
    let start = period.date();
    let mut words = format!("{} {start}", weekday(start.weekday()));
    if period.minute() > 0 {
        words += &format!(" {}", clock(period.minute()));
    }
    let Some(rules) = rules else { return words };
    // The dates of a period are the same in every zone, unless it counts elapsed time.
    let Ok(zone) = Zone::named("UTC") else { return words };
    if rules.schedule.cadence.elapsed_minutes().is_some() {
        return words;
    }
    match rules.schedule.next_period(anchor, period, &zone) {
        Ok(None) => words += ", once and for good",
        Ok(Some(next)) => {
            let last = next.date().yesterday().unwrap_or(start);
            if last > start {
                words += &format!(" to {} {last}", weekday(last.weekday()));
            }
        }
        Err(_) => {}
    }
    words
}

/// When a plan charges: `every day`, `every week on Monday and Thursday`, `once`.
pub(crate) fn cadence(cadence: Cadence, anchor: Anchor) -> String {
    let every =
        |n: u16, unit: &str| if n == 1 { format!("every {unit}") } else { format!("every {n} {unit}s") };
    match cadence {
        Cadence::Once => "once".to_owned(),
        Cadence::Minutes(n) => every(n, "minute"),
        Cadence::Hours(n) => every(n, "hour"),
        Cadence::Days(n) => every(n, "day"),
        Cadence::Weeks { every: n, on } => {
            let days: Vec<_> =
                Weekday::Monday.cycle_forward().take(7).filter(|day| on.contains(*day)).collect();
            let days = if days.is_empty() { vec![anchor.date.weekday()] } else { days };
            format!("{} on {}", every(n, "week"), list(&days.into_iter().map(weekday).collect::<Vec<_>>()))
        }
        Cadence::Months(n) => {
            format!("{} on day {} (or the month's last)", every(n, "month"), anchor.date.day())
        }
        Cadence::NthWeekday { every: n, nth, weekday: day } => {
            let nth = match nth {
                Nth::First => "first",
                Nth::Second => "second",
                Nth::Third => "third",
                Nth::Fourth => "fourth",
                Nth::Last => "last",
            };
            format!("{} on the {nth} {}", every(n, "month"), weekday(day))
        }
        Cadence::Years(n) => {
            format!("{} on {:02}-{:02}", every(n, "year"), anchor.date.month(), anchor.date.day())
        }
    }
}

/// `a`, `a and b`, `a, b and c`.
pub(crate) fn list(words: &[&str]) -> String {
    match words {
        [] => String::new(),
        [only] => (*only).to_owned(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

/// `1 attempt`, `2 attempts`.
pub(crate) fn count(n: impl TryInto<u64> + std::fmt::Display + Copy, noun: &str) -> String {
    let one = n.try_into().is_ok_and(|n| n == 1);
    format!("{n} {noun}{}", if one { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use billing_core::schedule::Weekdays;
    use jiff::civil::date;

    use super::*;

    #[test]
    fn amounts_have_their_currencys_decimals() {
        assert_eq!(Amount::new(1_500, 788).to_string(), "1.500 TND");
        assert_eq!(Amount::new(55, 392).to_string(), "55 JPY");
        assert_eq!(Amount::new(5, 7).to_string(), "5 minor units of currency 7");
    }

    #[test]
    fn instants_show_the_zone_and_utc() {
        let moment = Moment::new(1_796_112_000_000, &Zone::named("Africa/Tunis").unwrap());
        assert_eq!(moment.to_string(), "2026-12-01 09:00:00 Africa/Tunis (+01) = 2026-12-01T08:00:00Z");
    }

    #[test]
    fn spans_use_two_units_at_most() {
        let all = [340, 41_200, 8_049_000, 300_000_000, 12_000_000_000, 187_200_000_000].map(span_us);
        assert_eq!(all, ["340 µs", "41 ms", "8.0 s", "5 min", "3 h 20 min", "2 d 4 h"]);
    }

    #[test]
    fn cadences_are_words() {
        let anchor = Anchor::new(date(2026, 11, 21), 420);
        let on = Weekdays::default().with(Weekday::Monday).with(Weekday::Thursday);
        assert_eq!(cadence(Cadence::Days(1), anchor), "every day");
        assert_eq!(cadence(Cadence::Weeks { every: 2, on }, anchor), "every 2 weeks on Monday and Thursday");
        let own = Cadence::Weeks { every: 1, on: Weekdays::default() };
        assert_eq!(cadence(own, anchor), "every week on Saturday");
        assert_eq!(cadence(Cadence::Months(1), anchor), "every month on day 21 (or the month's last)");
        assert_eq!(cadence(Cadence::Once, anchor), "once");
        assert_eq!((count(1, "plan"), count(7, "plan")), ("1 plan".into(), "7 plans".into()));
    }
}
