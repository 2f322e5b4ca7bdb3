//! `[lifecycle]`, `[arrears]`, `[defer]`, `[balance]` and `[reserve]`: what surrounds the charges.

use super::super::CarrierSummary;
use super::super::reader::{Problems, Spanned, Table};
use super::{DAY_S, MINUTE_S, YEAR_S, dunning, ladder};
use crate::money::Money;
use crate::plan::{
    ARREARS_MAX, Arrears, BalanceCheck, BalanceWhen, Defer, Expired, FirstFailure, LateApproved, Lifecycle,
    Missed, Payday, RefundAccess, Reserve,
};

/// What `[lifecycle]` says.
pub(super) struct Life {
    pub(super) grace_s: i64,
    pub(super) first_failure: FirstFailure,
    pub(super) missed: Missed,
    pub(super) late_approved: LateApproved,
    pub(super) rest: Lifecycle,
    pub(super) refund_access: RefundAccess,
}

/// The word of `missed`; two of them need more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum MissedWord {
    OnceLate,
    Skip,
    Merge,
    CollectLate,
}

/// `highest` is what a period may cost at most.
pub(super) fn lifecycle(
    mut table: Table<'_>,
    highest: Option<Money>,
    carrier: Option<&CarrierSummary>,
    has_arrears: bool,
    problems: &mut Problems,
) -> Option<Life> {
    let grace = table.opt_duration_s("grace", 0..=YEAR_S, problems);
    let first_failure = [("retry", FirstFailure::Retry), ("cancel", FirstFailure::Cancel)];
    let first_failure = table.opt_one_of("first_failure", &first_failure, problems);
    let late =
        [("extend", LateApproved::Extend), ("past", LateApproved::Past), ("refund", LateApproved::Refund)];
    let late = table.one_of("late_approved", &late, problems);
    let missed = missed(&mut table, highest, carrier, has_arrears, problems);
    let mut flag = |key| table.opt_bool(key, problems).is_some_and(|flag| flag.value);
    let (pause_keeps_access, snap, top_up_resumes) =
        (flag("pause_keeps_access"), flag("top_up_due"), flag("top_up_resumes"));
    let reset = table.opt_int("reset_from_round", 0..=32, problems);
    let access = [("keep", RefundAccess::Keep), ("share", RefundAccess::Share), ("end", RefundAccess::End)];
    let access = table.opt_one_of("refund_access", &access, problems);
    table.finish(problems);
    Some(Life {
        grace_s: grace.map_or(0, |grace| grace.value),
        first_failure: first_failure.map_or(FirstFailure::Retry, |choice| choice.value),
        missed: missed?,
        late_approved: late?.value,
        rest: Lifecycle { pause_keeps_access, snap, top_up_resumes, reset_from_round: short(reset) },
        refund_access: access.map_or(RefundAccess::Keep, |access| access.value),
    })
}

fn missed(
    table: &mut Table<'_>,
    highest: Option<Money>,
    carrier: Option<&CarrierSummary>,
    has_arrears: bool,
    problems: &mut Problems,
) -> Option<Missed> {
    let words = [
        ("once_late", MissedWord::OnceLate),
        ("skip", MissedWord::Skip),
        ("merge", MissedWord::Merge),
        ("collect_late", MissedWord::CollectLate),
    ];
    let word = table.opt_one_of("missed", &words, problems);
    let periods = table.opt_int("merge_periods", 1..=31, problems);
    let place = table.place_of("missed");
    match word.map_or(MissedWord::OnceLate, |word| word.value) {
        MissedWord::Merge if !table.has("merge_periods") => {
            let help = "write how many missed periods one charge may hold: merge_periods = 3";
            table.problem_at(place, "`lifecycle.missed` is \"merge\"", help, problems);
            None
        }
        MissedWord::Merge => {
            let periods = periods?;
            let all = highest.and_then(|price| price.minor.checked_mul(periods.value + 1));
            if let (Some(price), Some(carrier)) = (highest, carrier)
                && all.is_none_or(|all| all > carrier.max_minor)
            {
                let most = Money::new(carrier.max_minor, carrier.currency);
                let what = format!("`lifecycle.merge_periods` is {}, at {price} each", periods.value);
                let help = format!("carrier {} takes at most {most} at once", carrier.id);
                table.problem_at(periods.place, what, help, problems);
            } else if let (Some(price), Some(carrier)) = (highest, carrier) {
                let sums = (2..=periods.value + 1).map(|count| price.minor.saturating_mul(count));
                let off = sums.filter_map(|sum| Some((sum, super::points_near(sum, carrier)?))).next();
                if let Some((sum, help)) = off {
                    let sum = Money::new(sum, price.currency);
                    let what =
                        format!("`lifecycle.merge_periods` is {}: {sum} may be asked for", periods.value);
                    table.problem_at(periods.place, what, help, problems);
                }
            }
            u16::try_from(periods.value).ok().map(|periods_max| Missed::Merge { periods_max })
        }
        other if table.has("merge_periods") => {
            let help = "write missed = \"merge\", or leave it out";
            table.problem("merge_periods", "`lifecycle.merge_periods` without merge", help, problems);
            let _ = other;
            None
        }
        MissedWord::CollectLate if !has_arrears => {
            let help = "write an [arrears] table with its bounds";
            table.problem_at(place, "`lifecycle.missed` is \"collect_late\"", help, problems);
            None
        }
        MissedWord::CollectLate => Some(Missed::CollectLate),
        MissedWord::OnceLate => Some(Missed::OnceLate),
        MissedWord::Skip => Some(Missed::Skip),
    }
}

fn short(given: Option<Spanned<i64>>) -> i16 {
    given.and_then(|number| i16::try_from(number.value).ok()).unwrap_or(0)
}

pub(super) fn arrears(
    mut table: Table<'_>,
    price: Option<Money>,
    problems: &mut Problems,
) -> Option<Arrears> {
    let count = table.int("count", 1..=i64::from(ARREARS_MAX), problems);
    let age = table.duration_s("age", DAY_S..=YEAR_S, problems);
    if !table.has("amount") {
        let help = "the most that may be owed is required, such as \"5.000\"";
        table.problem("amount", "missing key `arrears.amount`", help, problems);
    }
    let amount = ladder::amount(&mut table, "amount", price, problems);
    let rounds = dunning::visits(&mut table, problems);
    if let Some(rounds) = &rounds
        && rounds.count() == 0
    {
        let help = "write when arrears are tried, or leave [arrears] out";
        table.problem("rounds", "`arrears.rounds` is empty", help, problems);
    }
    table.finish(problems);
    Some(Arrears {
        count_max: i16::try_from(count?.value).ok()?,
        age_max_s: age?.value,
        amount_max_minor: amount?.value,
        rounds: rounds?,
    })
}

pub(super) fn defer(table: Option<Table<'_>>, problems: &mut Problems) -> Defer {
    let Some(mut table) = table else { return Defer::default() };
    let max = table.opt_int("max", 0..=1_000, problems);
    let shelf_life = table.opt_duration_s("shelf_life", 0..=YEAR_S, problems);
    let payday = table.opt_table("payday", problems).and_then(|payday_table| payday(payday_table, problems));
    table.finish(problems);
    Defer { max: short(max), shelf_life_s: shelf_life.map_or(0, |life| life.value), payday }
}

fn payday(mut table: Table<'_>, problems: &mut Problems) -> Option<Payday> {
    let days = table.opt_int_list("days", 1..=31, 31, problems);
    let last = table.opt_bool("last", problems).is_some_and(|last| last.value);
    let within = table.int("within", 1..=31, problems);
    let days = days.map_or_else(Vec::new, |days| days.value);
    let bits = days.iter().fold(u32::from(last), |bits, day| bits | 1 << day.value.clamp(1, 31));
    if bits == 0 && !table.has("days") {
        let help = "write days = [1, 15], or last = true";
        table.problem("days", "`defer.payday` names no day", help, problems);
    }
    table.finish(problems);
    Some(Payday { days: bits, within_days: u8::try_from(within?.value).ok()? })
}

pub(super) fn balance(mut table: Table<'_>, problems: &mut Problems) -> Option<BalanceCheck> {
    let when = [("always", BalanceWhen::Always), ("after_refusal", BalanceWhen::AfterRefusal)];
    let when = table.one_of("when", &when, problems);
    let valid = table.opt_duration_s("valid", 1..=600, problems);
    let recheck = table.opt_duration_s("recheck", MINUTE_S..=31 * DAY_S, problems);
    table.finish(problems);
    Some(BalanceCheck {
        when: when?.value,
        valid_ms: valid.map_or(60, |valid| valid.value) * 1_000,
        recheck_s: recheck.map_or(6 * 60 * MINUTE_S, |recheck| recheck.value),
    })
}

pub(super) fn reserve(mut table: Table<'_>, problems: &mut Problems) -> Option<Reserve> {
    let valid = table.duration_s("valid", MINUTE_S..=31 * DAY_S, problems);
    let confirm_after = table.opt_duration_s("confirm_after", 0..=31 * DAY_S, problems);
    let expired = [("released", Expired::Released), ("cancel", Expired::Cancel)];
    let expired = table.one_of("expired", &expired, problems);
    if let (Some(valid), Some(after)) = (&valid, &confirm_after)
        && after.value >= valid.value
    {
        let what = "`reserve.confirm_after` is not before the reservation's end";
        table.problem_at(after.place, what, "write less than `valid`", problems);
    }
    table.finish(problems);
    Some(Reserve {
        valid_s: valid?.value,
        confirm_after_s: confirm_after.map_or(0, |after| after.value),
        expired: expired?.value,
    })
}
