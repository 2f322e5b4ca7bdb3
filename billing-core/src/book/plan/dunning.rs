//! `[dunning]`: when to try again, per class of failure, and with what budget.

use std::ops::RangeInclusive;

use rust_decimal::prelude::ToPrimitive;

use super::super::reader::{Problems, Spanned, Table};
use super::super::values::excerpt;
use super::{DAY_S, HOUR_S, MINUTE_S, YEAR_S, ladder, weekdays};
use crate::money::Money;
use crate::plan::{Budget, Dunning, GiveUp, Growth, ROUNDS_MAX, Rounds, RoundsOf};
use crate::schedule::Window;

pub(super) fn dunning(table: Option<Table<'_>>, price: Option<Money>, problems: &mut Problems) -> Dunning {
    let default = |rounds_s: &[i64]| Rounds::fixed(rounds_s.to_vec(), GiveUp::NextPeriod);
    let mut dunning = Dunning {
        no_funds: default(&[4 * HOUR_S, 8 * HOUR_S, DAY_S, 3 * DAY_S, 7 * DAY_S]),
        limit: default(&[DAY_S, 3 * DAY_S, 7 * DAY_S]),
        limits: RoundsOf::default(),
        barred: default(&[DAY_S, 7 * DAY_S]),
        unknown_subscriber: Rounds::fixed(Vec::new(), GiveUp::Cancel),
        subscriber_refused: Rounds::fixed(Vec::new(), GiveUp::Cancel),
        not_allowed: Rounds::fixed(Vec::new(), GiveUp::Suspend),
        throttled_delay_s: 5 * MINUTE_S,
        temporary_delay_s: 5 * MINUTE_S,
        fault_delay_s: 15 * MINUTE_S,
        budget: Budget::default(),
    };
    let Some(mut table) = table else { return dunning };
    let classes = [
        ("no_funds", &mut dunning.no_funds),
        ("limit", &mut dunning.limit),
        ("barred", &mut dunning.barred),
        ("unknown_subscriber", &mut dunning.unknown_subscriber),
        ("subscriber_refused", &mut dunning.subscriber_refused),
        ("not_allowed", &mut dunning.not_allowed),
    ];
    for (key, class) in classes {
        let given = table.opt_table(key, problems).and_then(|rounds_table| rounds(rounds_table, problems));
        if let Some(given) = given {
            *class = given;
        }
    }
    let limits = [
        ("limit_day", &mut dunning.limits.day),
        ("limit_week", &mut dunning.limits.week),
        ("limit_month", &mut dunning.limits.month),
        ("limit_too_soon", &mut dunning.limits.too_soon),
    ];
    for (key, limit) in limits {
        *limit = table.opt_table(key, problems).and_then(|rounds_table| rounds(rounds_table, problems));
    }
    let temporary = table.opt_duration_s("temporary", 1..=DAY_S, problems);
    if let Some(given) = temporary {
        // Where throttling has no delay of its own it is one of the carrier's troubles.
        (dunning.temporary_delay_s, dunning.throttled_delay_s) = (given.value, given.value);
    }
    for (key, delay_s) in
        [("throttled", &mut dunning.throttled_delay_s), ("fault", &mut dunning.fault_delay_s)]
    {
        if let Some(given) = table.opt_duration_s(key, 1..=DAY_S, problems) {
            *delay_s = given.value;
        }
    }
    if let Some(given) = table.opt_table("budget", problems) {
        dunning.budget = budget(given, price, problems);
    }
    table.finish(problems);
    dunning
}

fn budget(mut table: Table<'_>, price: Option<Money>, problems: &mut Problems) -> Budget {
    let day = table.opt_int("day", 1..=100, problems);
    let period = table.opt_int("period", 1..=1_000, problems);
    let fee = ladder::amount(&mut table, "fee", price, problems);
    let fees = ladder::amount(&mut table, "fees", price, problems);
    match (&fee, &fees) {
        (None, Some(fees)) if !table.has("fee") => {
            let help = "write what a request costs: fee = \"0.005\"";
            table.problem_at(fees.place, "`dunning.budget.fees` without `fee`", help, problems);
        }
        (Some(fee), Some(fees)) if fees.value < fee.value => {
            let what = "`dunning.budget.fees` is less than one `fee`";
            table.problem_at(fees.place, what, "no request would ever be made: write more", problems);
        }
        _ => {}
    }
    table.finish(problems);
    let count = |given: Option<Spanned<i64>>| given.and_then(|n| i16::try_from(n.value).ok()).unwrap_or(0);
    Budget {
        day_max: count(day),
        period_max: count(period),
        fee_minor: fee.map_or(0, |fee| fee.value),
        fees_max_minor: fees.map_or(0, |fees| fees.value),
    }
}

fn rounds(mut table: Table<'_>, problems: &mut Problems) -> Option<Rounds> {
    let then =
        [("next_period", GiveUp::NextPeriod), ("suspend", GiveUp::Suspend), ("cancel", GiveUp::Cancel)];
    let read = visits(&mut table, problems);
    let then = table.one_of("then", &then, problems);
    table.finish(problems);
    Some(Rounds { then: then?.value, ..read? })
}

/// The rounds of a table without what comes after the last.
pub(super) fn visits(table: &mut Table<'_>, problems: &mut Problems) -> Option<Rounds> {
    let delays = table.duration_s_list("rounds", MINUTE_S..=YEAR_S, ROUNDS_MAX, problems);
    let listed = delays.as_ref().map_or(0, |delays| delays.value.len());
    let grow = table.opt_table("grow", problems);
    let growth = grow.map(|grow| growth(grow, listed, problems));
    let jitter = percent(table, "jitter", 0..=50, problems);
    let on = weekdays(table, "on", problems);
    let hours = table.opt_local_minutes("hours", problems).map(|(from, to)| {
        let window = Window::new(from.value, to.value).ok();
        if window.is_none() {
            let what = format!("`{}` ends before it begins", table.path_of("hours"));
            table.problem_at(to.place, what, "write an end after the beginning, of the same day", problems);
        }
        window
    });
    let delays_s = delays?.value.into_iter().map(|delay| delay.value).collect();
    Some(Rounds {
        growth: super::whole(growth)?,
        jitter_permille: u16::try_from(jitter.unwrap_or(0) * 10).unwrap_or(0),
        hours: super::whole(hours)?,
        on: on.map(|on| on.value).unwrap_or_default(),
        ..Rounds::fixed(delays_s, GiveUp::NextPeriod)
    })
}

fn growth(mut table: Table<'_>, listed: usize, problems: &mut Problems) -> Option<Growth> {
    let first = table.duration_s("first", MINUTE_S..=YEAR_S, problems);
    let max = table.duration_s("max", MINUTE_S..=YEAR_S, problems);
    let left = i64::try_from(ROUNDS_MAX.saturating_sub(listed)).unwrap_or(0);
    let rounds = table.int("rounds", 1..=left.max(1), problems);
    let factor = percent(&mut table, "factor", 100..=1_000, problems);
    if let (Some(first), Some(max)) = (&first, &max)
        && max.value < first.value
    {
        let what = format!("`{}` is shorter than `first`", table.path_of("max"));
        table.problem_at(max.place, what, "write a longer one", problems);
    }
    if listed >= ROUNDS_MAX {
        let what = format!("`{}`: {listed} rounds are listed already", table.path_of("rounds"));
        table.problem("rounds", what, format!("at most {ROUNDS_MAX} are allowed in all"), problems);
    }
    table.finish(problems);
    Some(Growth {
        first_s: first?.value,
        factor_permille: factor.unwrap_or(200) * 10,
        max_s: max?.value,
        rounds: i16::try_from(rounds?.value).ok()?,
    })
}

/// Whole percent inside a range, if the key is there: `"10%"`.
fn percent(
    table: &mut Table<'_>,
    key: &str,
    range: RangeInclusive<i64>,
    problems: &mut Problems,
) -> Option<i64> {
    let text = table.opt_str(key, problems)?;
    let whole = ladder::percent(&text).filter(|percent| percent.fract().is_zero());
    let found = whole.and_then(|percent| percent.to_i64()).filter(|percent| range.contains(percent));
    if found.is_none() {
        let what = format!("`{}` is \"{}\"", table.path_of(key), excerpt(&text));
        let help = format!("write whole percent from \"{}%\" to \"{}%\"", range.start(), range.end());
        table.problem_at(text.place, what, help, problems);
    }
    found
}
