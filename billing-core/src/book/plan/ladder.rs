//! `[ladder]`: smaller amounts, fixed or as parts of the price.

use std::collections::BTreeSet;

use rust_decimal::Decimal;
use rust_decimal::prelude::ToPrimitive;

use super::super::CarrierSummary;
use super::super::reader::{Problems, Spanned, Table};
use super::super::values::excerpt;
use super::{decimal, in_carrier_range, money};
use crate::money::Money;
use crate::plan::{Choice, Delivers, LADDER_STEPS_MAX, Ladder, Restart, Settles};

/// Different rests that are looked at; a ladder of eight steps comes to a handful.
const RESTS_MAX: usize = 10_000;

pub(super) fn ladder(
    mut table: Table<'_>,
    price: Option<Money>,
    carrier: Option<&CarrierSummary>,
    problems: &mut Problems,
) -> Option<Ladder> {
    let native = table.opt_bool("native", problems).is_some_and(|native| native.value);
    let steps = match native {
        true => table.opt_str_list("steps", LADDER_STEPS_MAX, problems),
        false => table.str_list("steps", LADDER_STEPS_MAX, problems),
    };
    let settles = [("period", Settles::Period), ("share", Settles::Share), ("amount", Settles::Amount)];
    let settles = table.one_of("settles", &settles, problems);
    let restart = [("full", Restart::Full), ("last_step", Restart::LastStep)];
    let restart = table.opt_one_of("restart", &restart, problems);
    let choices = [("descending", Choice::Descending), ("balance", Choice::Balance)];
    let choice = table.opt_one_of("choose", &choices, problems);
    let delivers = [("time", Delivers::Time), ("tier", Delivers::Tier)];
    let delivers = table.opt_one_of("delivers", &delivers, problems);
    let points = amount(&mut table, "points", price, problems);
    let part_min = amount(&mut table, "min_part", price, problems);
    // A rest below what the carrier takes would be asked for in vain, round after round.
    let taken_min = carrier.zip(price).filter(|(carrier, price)| carrier.currency == price.currency);
    let taken_min = taken_min.map_or(0, |(carrier, _)| carrier.min_minor);
    let part_min_minor = part_min.as_ref().map_or(0, |part| part.value).max(taken_min);
    let point = points.map_or(1, |points| points.value);
    let steps_minor = match steps {
        Some(steps) => Some(ladder_steps(&table, &steps, (price, point), carrier, problems)),
        None if native && !table.has("steps") => Some(Vec::new()),
        None => None,
    };
    if let (Some(settles), Some(delivers)) = (&settles, &delivers)
        && delivers.value == Delivers::Tier
        && settles.value != Settles::Share
    {
        let help = "only a share is delivered as a tier: write settles = \"share\", or leave `delivers` out";
        table.problem_at(delivers.place, "`ladder.delivers` is \"tier\"", help, problems);
    }
    if let (Some(part_min), Some(price)) = (&part_min, price) {
        let least = steps_minor.iter().flatten().copied().min().unwrap_or(price.minor);
        if part_min.value > least {
            let what = format!("`ladder.min_part` is {}", Money::new(part_min.value, price.currency));
            let help = format!("write at most the smallest step, {}", Money::new(least, price.currency));
            table.problem_at(part_min.place, what, help, problems);
        }
    }
    if let (Some(settles), Some(price), Some(carrier), Some(steps)) = (&settles, price, carrier, &steps_minor)
        && settles.value == Settles::Amount
        && carrier.currency == price.currency
        && let Some(rest) = off_point(price.minor, steps, &carrier.price_points, part_min_minor)
    {
        let what = format!(
            "`ladder.settles` is \"amount\": {} may be asked for as the rest",
            Money::new(rest, price.currency)
        );
        let help = format!(
            "carrier {} takes its price points only: write \"period\" or \"share\", or steps whose rests are price points",
            carrier.id
        );
        table.problem_at(settles.place, what, help, problems);
    }
    table.finish(problems);
    Some(Ladder {
        steps_minor: steps_minor?,
        settles: settles?.value,
        restart: restart.map_or(Restart::Full, |restart| restart.value),
        choice: choice.map_or(Choice::Descending, |choice| choice.value),
        native,
        part_min_minor,
        delivers: delivers.map_or(Delivers::Time, |delivers| delivers.value),
    })
}

/// An amount of the price's currency, above 0 and not above the price, if the key is there.
pub(super) fn amount(
    table: &mut Table<'_>,
    key: &str,
    price: Option<Money>,
    problems: &mut Problems,
) -> Option<Spanned<i64>> {
    let text = table.opt_str(key, problems)?;
    let path = table.path_of(key);
    let Some(amount) = decimal(&text) else {
        let what = format!("`{path}` is \"{}\"", excerpt(&text));
        let help = "write an amount of the price's currency, such as \"0.300\"";
        table.problem_at(text.place, what, help, problems);
        return None;
    };
    let amount = money(table, &path, amount, price?.currency, text.place, problems)?;
    Some(Spanned { value: amount.minor, place: text.place })
}

fn ladder_steps(
    table: &Table<'_>,
    steps: &Spanned<Vec<Spanned<String>>>,
    (price, point): (Option<Money>, i64),
    carrier: Option<&CarrierSummary>,
    problems: &mut Problems,
) -> Vec<i64> {
    if steps.value.is_empty() {
        let help = "write at least one amount, or leave [ladder] out";
        table.problem_at(steps.place, "`ladder.steps` is empty", help, problems);
    }
    let mut amounts = Vec::new();
    let mut above = price.map(|price| (price, "the price"));
    for (index, step) in steps.value.iter().enumerate() {
        let path = format!("ladder.steps[{index}]");
        let percent = percent(step);
        let Some(amount) = percent.or_else(|| decimal(step)) else {
            let what = format!("`{path}` is \"{}\"", excerpt(step));
            let help = "write an amount of the price's currency, such as \"0.300\"";
            table.problem_at(step.place, what, help, problems);
            continue;
        };
        // Without a price there is no currency to count in.
        let Some(price) = price else { continue };
        let amount = match percent {
            Some(percent) => part_of(price, percent, point, points_of(carrier, price)),
            None => money(table, &path, amount, price.currency, step.place, problems),
        };
        let Some(amount) = amount else {
            if percent.is_some() {
                let what = format!("`{path}` is \"{}\"", excerpt(step));
                let help = "write a part of the price that is at least one price point";
                table.problem_at(step.place, what, help, problems);
            }
            continue;
        };
        if let Some((limit, name)) = above
            && amount.minor >= limit.minor
        {
            let help = format!("write less than {name}, {limit}");
            table.problem_at(step.place, format!("`{path}` is {amount}"), help, problems);
        }
        if let Some(carrier) = carrier.filter(|carrier| carrier.currency == price.currency) {
            in_carrier_range(table, &path, amount, carrier, step.place, problems);
        }
        above = Some((amount, "the step before"));
        amounts.push(amount.minor);
    }
    amounts
}

/// `60%`, `12.5%`.
pub(super) fn percent(text: &str) -> Option<Decimal> {
    decimal(text.strip_suffix('%')?).filter(|percent| *percent <= Decimal::from(1_000))
}

/// The carrier's price points, when it has some and counts in the price's currency.
fn points_of(carrier: Option<&CarrierSummary>, price: Money) -> &[i64] {
    carrier.filter(|carrier| carrier.currency == price.currency).map_or(&[], |carrier| &carrier.price_points)
}

/// An amount beyond the price points that the parts of a price may come to, when what is left is asked for later; what is
/// smaller than `least` is left alone.
fn off_point(price_minor: i64, steps: &[i64], points: &[i64], least: i64) -> Option<i64> {
    if points.is_empty() {
        return None;
    }
    let (mut seen, mut open) = (BTreeSet::new(), vec![price_minor]);
    while let Some(rest) = open.pop() {
        for ask in steps.iter().map(|step| *step.min(&rest)).chain([rest]) {
            if points.binary_search(&ask).is_err() || seen.len() > RESTS_MAX {
                return Some(ask);
            }
            let left = rest - ask;
            if left > 0 && left >= least && seen.insert(left) {
                open.push(left);
            }
        }
    }
    None
}

/// A part of the price, rounded down to a price point: of the carrier's where it has some, and a multiple of the plan's
/// own. Never above what was meant. `None` when that is nothing.
fn part_of(price: Money, percent: Decimal, point: i64, points: &[i64]) -> Option<Money> {
    let exact = Decimal::from(price.minor).checked_mul(percent)?.checked_div(Decimal::ONE_HUNDRED)?;
    let whole = exact.trunc().to_i64()?;
    let minor = match points {
        [] => whole / point * point,
        points => points.iter().rev().copied().find(|minor| *minor <= whole && minor % point == 0)?,
    };
    (minor > 0).then(|| Money::new(minor, price.currency))
}
