//! `toll book plan`: what changes, for whom, and what it does to the money. Nothing here writes.

use std::collections::HashMap;

use billing_core::book::diff::{Change, Entity, defaults, diff};
use billing_core::book::reader::Source;
use billing_core::plan::PlanRules;
use billing_core::schedule::Cadence;
use carriers::StandInSecrets;
use serde::Serialize;
use sqlx::postgres::PgConnection;
use storage::pg::{PlanCount, current_book, plan_counts, read_clock};

use super::on_disk;
use crate::book_files::{self, LoadedBook};
use crate::cli::Global;
use crate::exit::pending;
use crate::out::{self, Paint};
use crate::reading::Reading;
use crate::shown::one_line;
use crate::words::{Amount, count};

/// Keys of one entity that are shown as text; JSON has all.
const KEYS_SHOWN_MAX: usize = 40;

/// What `toll book plan` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = "With --exit-code it exits with 3 when there are changes, else with 0.

Examples:
  toll book plan
  toll book plan --exit-code || echo 'not applied yet'
  toll book plan --json | jq '.changes[] | {entity, id, subscriptions, money}'")]
pub(crate) struct PlanArgs {
    /// Exit with 3 when there are changes
    #[arg(long)]
    exit_code: bool,
}

/// What would change.
#[derive(Debug, Serialize)]
pub(super) struct Plan {
    /// The version in force; 0 before the first.
    pub(super) against: i32,
    pub(super) changes: Vec<Planned>,
    /// Combinations that fall to a default.
    defaults: Vec<Cell>,
    /// Why it cannot be applied.
    pub(super) refused: Vec<String>,
}

/// One entity that changes.
#[derive(Debug, Serialize)]
pub(super) struct Planned {
    entity: &'static str,
    id: String,
    change: &'static str,
    keys: Vec<Key>,
    /// Subscriptions that have not ended; plans only.
    subscriptions: Option<i64>,
    /// Those of them whose current charge goes on under the version that it was decided under.
    under_way: Option<i64>,
    money: Option<MoneyEffect>,
}

#[derive(Debug, Serialize)]
struct Key {
    key: String,
    old: Option<String>,
    new: Option<String>,
}

/// Subscriptions times the price's difference, in the plan's currency.
#[derive(Debug, Serialize)]
struct MoneyEffect {
    each: Amount,
    all: Amount,
    per: String,
}

#[derive(Debug, Serialize)]
struct Cell {
    plan: String,
    country: String,
    carrier: String,
    keys: Vec<DefaultKey>,
}

#[derive(Debug, Serialize)]
struct DefaultKey {
    key: &'static str,
    value: &'static str,
}

/// Shows what applying the files on disk would do.
pub(super) async fn plan(global: &Global, args: &PlanArgs) -> anyhow::Result<()> {
    let loaded = on_disk(global)?;
    let mut reading = Reading::open(global).await?;
    let planned = make(&mut reading.conn, &loaded).await;
    reading.close().await;
    let planned = planned?;
    show(global, &planned)?;
    if args.exit_code && !planned.changes.is_empty() {
        return Err(pending(format!("{} to apply", count(planned.changes.len(), "change"))));
    }
    Ok(())
}

/// Compares a checked book with the one in force.
pub(super) async fn make(conn: &mut PgConnection, new: &LoadedBook) -> anyhow::Result<Plan> {
    let current = current_book(conn).await?;
    let old_sources = match &current {
        Some(current) => book_files::kept_sources(&current.files_json)?,
        None => Vec::new(),
    };
    let counts = plan_counts(conn).await?;
    let mut plan = compare(current.map_or(0, |current| current.version), old_sources, new, counts);
    let time_scale = new.book.engine.resolution_time_scale;
    if time_scale > 1 && read_clock(conn).await?.scale == 1 {
        plan.refused.push(format!(
            "engine: resolution.time_scale is {time_scale}, and the business clock runs as time does: no worker would \
             start, because only sandboxes may shorten what carriers are given to settle"
        ));
    }
    Ok(plan)
}

fn compare(against: i32, old_sources: Vec<Source>, new: &LoadedBook, counts: Vec<PlanCount>) -> Plan {
    let changes = diff(&old_sources, &new.sources);
    // A version that this program cannot read any more has no prices to compare with.
    let old = book_files::check(old_sources, &StandInSecrets).ok();
    let counts: HashMap<&str, &PlanCount> = counts.iter().map(|count| (count.plan.as_str(), count)).collect();
    let refused = refusals(old.as_ref(), new, &counts);
    let planned = changes.into_iter().map(|change| planned(change, old.as_ref(), new, &counts)).collect();
    let carriers: Vec<_> = new.carriers.iter().map(|c| (c.summary(), c.country.to_string())).collect();
    let cells = defaults(&new.sources, &new.book.plans, &carriers).into_iter().map(|cell| Cell {
        plan: cell.plan,
        country: cell.country,
        carrier: cell.carrier,
        keys: cell.keys.into_iter().map(|(key, value)| DefaultKey { key, value }).collect(),
    });
    Plan { against, changes: planned, defaults: cells.collect(), refused }
}

fn planned(
    change: Change,
    old: Option<&LoadedBook>,
    new: &LoadedBook,
    counts: &HashMap<&str, &PlanCount>,
) -> Planned {
    let count = (change.entity == Entity::Plan).then(|| counts.get(change.id.as_str()));
    let subscriptions = count.map(|count| count.map_or(0, |count| count.subscriptions));
    let prices = (old.and_then(|old| old.book.plan(&change.id)), new.book.plan(&change.id));
    let money = match (change.entity, prices) {
        (Entity::Plan, (Some(old), Some(new))) => money(old, new, subscriptions.unwrap_or(0)),
        _ => None,
    };
    Planned {
        entity: change.entity.name(),
        change: match (change.before, change.after) {
            (false, _) => "added",
            (true, false) => "removed",
            (true, true) => "changed",
        },
        keys: change.keys.into_iter().map(|key| Key { key: key.key, old: key.old, new: key.new }).collect(),
        id: change.id,
        subscriptions,
        under_way: count.map(|count| count.map_or(0, |count| count.under_way)),
        money,
    }
}

fn money(old: &PlanRules, new: &PlanRules, subscriptions: i64) -> Option<MoneyEffect> {
    let each = new.price.checked_sub(old.price).ok().filter(|difference| difference.minor != 0)?;
    let all_minor = each.minor.checked_mul(subscriptions)?;
    let currency = each.currency.numeric();
    Some(MoneyEffect {
        each: Amount::new(each.minor, currency),
        all: Amount::new(all_minor, currency),
        per: per(new.schedule.cadence),
    })
}

fn per(cadence: Cadence) -> String {
    let every = |n: u16, unit: &str| if n == 1 { unit.to_owned() } else { format!("{n} {unit}s") };
    match cadence {
        Cadence::Once => "sign-up".to_owned(),
        Cadence::Minutes(n) => every(n, "minute"),
        Cadence::Hours(n) => every(n, "hour"),
        Cadence::Days(n) => every(n, "day"),
        Cadence::Weeks { every: n, .. } => every(n, "week"),
        Cadence::Months(n) | Cadence::NthWeekday { every: n, .. } => every(n, "month"),
        Cadence::Years(n) => every(n, "year"),
    }
}

/// What a running system cannot follow: it would strand subscriptions or contradict their rows.
fn refusals(old: Option<&LoadedBook>, new: &LoadedBook, counts: &HashMap<&str, &PlanCount>) -> Vec<String> {
    let mut refused = Vec::new();
    let mut gone: Vec<_> = counts
        .values()
        .filter(|count| count.subscriptions > 0 && new.book.plan(&count.plan).is_none())
        .collect();
    gone.sort_by(|a, b| a.plan.cmp(&b.plan));
    for gone in gone {
        refused.push(format!(
            "plan {} has {} that have not ended: cancel or move them before it leaves the book",
            gone.plan,
            count(gone.subscriptions, "subscription")
        ));
    }
    let Some(old) = old else { return refused };
    for plan in &new.book.plans {
        let Some(before) = old.book.plan(&plan.id) else { continue };
        if (&before.merchant, &before.carrier) != (&plan.merchant, &plan.carrier) {
            refused.push(format!(
                "plan {} would move from merchant {} and carrier {} to {} and {}: both are fixed, give the new plan \
                 another id",
                plan.id, before.merchant, before.carrier, plan.merchant, plan.carrier
            ));
        }
    }
    for carrier in &new.carriers {
        let Some(before) = old.carriers.iter().find(|before| before.id == carrier.id) else { continue };
        if before.slices != carrier.slices || before.caps.currency != carrier.caps.currency {
            refused.push(format!(
                "carrier {} would change from {} slices in {} to {} in {}: both are fixed when a carrier is created",
                carrier.id,
                before.slices,
                before.caps.currency.code(),
                carrier.slices,
                carrier.caps.currency.code()
            ));
        }
    }
    refused
}

/// Prints a plan.
pub(super) fn show(global: &Global, plan: &Plan) -> anyhow::Result<()> {
    if global.json { out::json(plan) } else { out::print(&text(plan, Paint::of_stdout())) }
}

/// A plan for people.
pub(super) fn text(plan: &Plan, paint: Paint) -> String {
    let mut text = match plan.against {
        0 => "no version of the book is in force yet\n".to_owned(),
        version => format!("against version {version} of the book, which is in force\n"),
    };
    for change in &plan.changes {
        let (mark, of) = match change.change {
            "added" => (paint.good("+"), String::new()),
            "removed" => (paint.bad("-"), of(change)),
            _ => (paint.warn("~"), of(change)),
        };
        text += &format!("{mark} {} {}{of}\n", change.entity, paint.bold(&change.id));
        if change.change == "changed" {
            text += &keys(change);
        }
        if let Some(money) = &change.money {
            let sign = |amount: &Amount| if amount.amount.starts_with('-') { "" } else { "+" };
            text += &format!(
                "    money: {}{} each, {}{} in all per {}\n",
                sign(&money.each),
                money.each,
                sign(&money.all),
                money.all,
                money.per
            );
        }
    }
    if plan.changes.is_empty() {
        text += "nothing changes\n";
    }
    if !plan.defaults.is_empty() {
        text += "falls to a default (plan × country × carrier):\n";
        for cell in &plan.defaults {
            let keys: Vec<String> =
                cell.keys.iter().map(|key| format!("{} = {}", key.key, key.value)).collect();
            text += &format!("  {} × {} × {}: {}\n", cell.plan, cell.country, cell.carrier, keys.join("; "));
        }
    }
    for refused in &plan.refused {
        text += &format!("{} {refused}\n", paint.bad("✗"));
    }
    text
}

fn of(change: &Planned) -> String {
    match (change.subscriptions, change.under_way) {
        (Some(all), Some(0)) => format!("   {}", count(all, "subscription")),
        (Some(all), Some(under_way)) => format!(
            "   {}, {under_way} of them with a charge under way that keeps its version",
            count(all, "subscription")
        ),
        _ => String::new(),
    }
}

fn keys(change: &Planned) -> String {
    if change.keys.is_empty() {
        return "    only comments or spaces\n".to_owned();
    }
    let value = |value: &Option<String>| value.as_deref().map_or_else(|| "(not given)".to_owned(), one_line);
    let mut text = String::new();
    for key in change.keys.iter().take(KEYS_SHOWN_MAX) {
        text += &format!("    {}: {} → {}\n", one_line(&key.key), value(&key.old), value(&key.new));
    }
    if let Some(more) = change.keys.len().checked_sub(KEYS_SHOWN_MAX).filter(|more| *more > 0) {
        text += &format!("    and {}\n", count(more, "more key"));
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::path::Path;

    use super::*;

    fn shipped() -> Vec<Source> {
        book_files::read_sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../config")).unwrap()
    }

    fn changed(file: &str, from: &str, to: &str) -> LoadedBook {
        let mut sources = shipped();
        let source = sources.iter_mut().find(|source| source.file.ends_with(file)).unwrap();
        assert!(source.text.contains(from), "{from}");
        source.text = source.text.replace(from, to);
        book_files::check(sources, &StandInSecrets).unwrap()
    }

    fn counts(plan: &str, subscriptions: i64, under_way: i64) -> Vec<PlanCount> {
        vec![PlanCount { plan: plan.to_owned(), subscriptions, under_way }]
    }

    #[test]
    fn a_price_change_names_whom_and_how_much() {
        let new = changed("medina-kids-daily.toml", "price = \"0.500 TND\"", "price = \"0.450 TND\"");
        let plan = compare(3, shipped(), &new, counts("medina-kids-daily", 1_200, 1));
        let text = text(&plan, Paint::never());
        for part in [
            "against version 3 of the book",
            "~ plan medina-kids-daily   1200 subscriptions, 1 of them with a charge under way that keeps its version",
            "price: \"0.500 TND\" → \"0.450 TND\"",
            "money: -0.050 TND each, -60.000 TND in all per day",
            "medina-kids-daily × TN × medina: tax_percent = 0; carrier_fee_percent = 0",
        ] {
            assert!(text.contains(part), "{part} is missing in:\n{text}");
        }
        assert_eq!((plan.changes.len(), plan.refused.len()), (1, 0));
    }

    #[test]
    fn what_would_strand_subscriptions_is_refused() {
        let moved = changed("medina-kids-daily.toml", "merchant = \"demo\"", "merchant = \"other\"");
        let plan = compare(1, shipped(), &moved, Vec::new());
        assert!(
            plan.refused[0].contains("from merchant demo and carrier medina to other"),
            "{:?}",
            plan.refused
        );
        let mut sources = shipped();
        sources.retain(|source| !source.file.ends_with("hoshi-manga-daily.toml"));
        let without = book_files::check(sources, &StandInSecrets).unwrap();
        let plan = compare(1, shipped(), &without, counts("hoshi-manga-daily", 5, 0));
        assert!(
            plan.refused[0].starts_with("plan hoshi-manga-daily has 5 subscriptions"),
            "{:?}",
            plan.refused
        );
        assert!(text(&plan, Paint::never()).contains("- plan hoshi-manga-daily   5 subscriptions"));
        assert!(compare(1, shipped(), &without, Vec::new()).refused.is_empty(), "nobody is on it");
    }

    #[test]
    fn nothing_changes_and_the_first_version() {
        let same = book_files::check(shipped(), &StandInSecrets).unwrap();
        assert!(text(&compare(1, shipped(), &same, Vec::new()), Paint::never()).contains("nothing changes"));
        let first = compare(0, Vec::new(), &same, Vec::new());
        assert!(text(&first, Paint::never()).contains("no version of the book is in force yet\n+ plan "));
        assert_eq!(first.changes.len(), same.sources.len());
    }
}
