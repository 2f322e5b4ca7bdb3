//! `toll sub move`: asks the owner of a subscription's shard to move it to another zone, day, hour, plan or carrier. What
//! would be refused is refused here already, by the same rule.

use anyhow::Context;
use billing_core::ids::SubscriptionId;
use billing_core::period::days_since_2000;
use billing_core::plan::PlanRules;
use billing_core::schedule::Cadence;
use billing_core::states::{State, SubscriptionState};
use billing_core::subscription::Subscription;
use billing_core::triage::{Change, MoveError, change, change_carrier};
use billing_core::zone::Zone;
use carriers::{CarrierDefinition, StandInSecrets};
use jiff::Timestamp;
use jiff::civil::Date;
use scheduler::{MoveRequest, successor_seed};
use serde::Serialize;
use storage::pg;

use crate::book_files::LoadedBook;
use crate::book_store;
use crate::cli::Global;
use crate::exit::{failed, usage};
use crate::explain::book_of;
use crate::out::{self, Paint};
use crate::reading::{Loaded, Reading, subscription_id};
use crate::wish::carried_out;
use crate::words::{self, Moment};

/// What `toll sub move` takes.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "What is paid stays paid: the next charge starts where that ends, or later by less than one period. \
Without --yes it only says what would happen. While the result of an attempt is not known it is refused. A zone is \
the subscriber's: all its subscriptions at the carrier move. A move to another carrier closes this subscription and \
opens the next; asking again opens nothing more.

Examples:
  toll sub move sub_0008000000003 --zone Atlantic/Canary --yes
  toll sub move sub_0008000000003 --anchor-day 5 --at 08:30 --yes
  toll sub move sub_0008000000003 --plan medina-kids-weekly --yes
  toll sub move sub_0008000000003 --to-carrier-plan sahel-kids-daily --yes"
)]
#[command(group = clap::ArgGroup::new("how").required(true).multiple(true))]
pub(crate) struct MoveArgs {
    /// The subscription (sub_…)
    #[arg(value_parser = subscription_id)]
    subscription: SubscriptionId,
    /// Another zone of the carrier; with --to-carrier-plan, of that carrier
    #[arg(long, group = "how", value_name = "ZONE", conflicts_with_all = ["plan", "anchor_day", "at"])]
    zone: Option<String>,
    /// Another plan of the same merchant at the same carrier
    #[arg(long, group = "how", value_name = "PLAN", conflicts_with_all = ["anchor_day", "at"])]
    plan: Option<String>,
    /// Another day: 1 to 31 for plans by the month, else a date that has the day
    #[arg(long, group = "how", value_name = "DAY")]
    anchor_day: Option<String>,
    /// Another local time of the day
    #[arg(long, group = "how", value_name = "HH:MM")]
    at: Option<String>,
    /// A plan of the same merchant at another carrier
    #[arg(long, group = "how", value_name = "PLAN", conflicts_with_all = ["plan", "anchor_day", "at"])]
    to_carrier_plan: Option<String>,
    /// Do it
    #[arg(long)]
    yes: bool,
}

/// What a move did, or would do.
#[derive(Debug, Serialize)]
struct Moved {
    subscription: String,
    /// Whether it was handed to the owner.
    asked: bool,
    /// Whether the owner has dealt with it.
    carried_out: bool,
    state: &'static str,
    plan: String,
    zone: String,
    charge_before: String,
    next_before: Option<Moment>,
    charge_after: String,
    next_after: Option<Moment>,
    /// The subscription that opened at another carrier.
    successor: Option<String>,
    what: Vec<String>,
}

/// What would change.
struct Ahead {
    request: MoveRequest,
    /// `None`: it stands so already.
    after: Option<After>,
}

struct After {
    charge: String,
    next_at: Option<Timestamp>,
    zone: Zone,
    what: Vec<String>,
}

/// Moves a subscription, or says what would happen.
pub(crate) async fn run(global: &Global, args: MoveArgs) -> anyhow::Result<()> {
    let mut reading = Reading::open(global).await?;
    let moved = tell(&mut reading, &args).await;
    reading.close().await;
    let moved = moved?;
    if global.json {
        return out::json(&moved);
    }
    let at = |at: &Option<Moment>| at.as_ref().map_or("nothing".to_owned(), ToString::to_string);
    let head = match moved.carried_out {
        true => format!("{} is {}", moved.subscription, moved.state),
        false => format!("{} would move", moved.subscription),
    };
    let mut text = format!("{}\n", Paint::of_stdout().bold(&head));
    text += &format!("  next charge before  {} at {}\n", moved.charge_before, at(&moved.next_before));
    text += &format!("  next charge after   {} at {}\n", moved.charge_after, at(&moved.next_after));
    moved.what.iter().for_each(|line| text += &format!("  {line}\n"));
    out::print(&text)?;
    if !moved.asked && !moved.carried_out {
        eprintln!("nothing was done: add --yes to do it");
    }
    Ok(())
}

async fn tell(reading: &mut Reading, args: &MoveArgs) -> anyhow::Result<Moved> {
    let id = args.subscription;
    let before = reading.subscription(id).await?;
    let at = before.row.sub.progress;
    let charge = |sub: &Subscription| sub.progress.period.to_string();
    let moment = |at: Option<Timestamp>, zone: &Zone| at.map(|at| Moment::new(at.as_millisecond(), zone));
    let mut moved = Moved {
        subscription: id.to_string(),
        asked: false,
        carried_out: false,
        state: at.state.name(),
        plan: before.place.plan.clone(),
        zone: before.place.zone.clone(),
        charge_before: charge(&before.row.sub),
        next_before: moment(at.next_at, &before.zone),
        charge_after: charge(&before.row.sub),
        next_after: moment(at.next_at, &before.zone),
        successor: None,
        what: Vec::new(),
    };
    if let Some(successor) = successor(reading, &before).await?
        && args.to_carrier_plan.is_some()
    {
        let (opened, id) = (reading.subscription(successor).await?, successor.to_string());
        (moved.carried_out, moved.charge_after) = (true, charge(&opened.row.sub));
        moved.next_after = moment(opened.row.sub.progress.next_at, &opened.zone);
        moved.what.push(format!("it was moved before: {id} follows it on plan {}", opened.place.plan));
        moved.successor = Some(id);
        return Ok(moved);
    }
    let ahead = look_ahead(reading, &before, args).await?;
    let Some(after) = ahead.after else {
        moved.carried_out = true;
        moved.what.push("nothing changes: it stands so already".to_owned());
        return Ok(moved);
    };
    (moved.charge_after, moved.what) = (after.charge, after.what);
    moved.next_after = moment(after.next_at, &after.zone);
    if !args.yes {
        return Ok(moved);
    }
    let payload = ahead.request.encode().context("the request cannot be encoded")?;
    let mut conn = reading.database.conn().await.context("cannot connect to the database")?;
    let whole_line = matches!(ahead.request, MoveRequest::Zone(_));
    pg::ask_move(&mut conn, id.0, &payload, whole_line).await?;
    moved.asked = true;
    let (now, carried_out) = carried_out(reading, id).await?;
    if !carried_out {
        moved.what.push(match now.place.owner_slot {
            None => "no worker owns its shard just now: the first to come carries it out".to_owned(),
            Some(_) => "its worker has not dealt with it yet; it waits in the shard's inbox".to_owned(),
        });
        return Ok(moved);
    }
    if now.row.sub.rev == before.row.sub.rev {
        let case = pg::cases(&mut reading.conn, id.0, 1).await?.into_iter().next();
        let why = case.filter(|case| case.kind == "move_refused").map(|case| case.what);
        return Err(failed(format!("{id} was {}", why.unwrap_or_else(|| "not moved".to_owned()))));
    }
    moved.carried_out = true;
    moved.state = now.row.sub.progress.state.name();
    (moved.plan, moved.zone) = (now.place.plan.clone(), now.place.zone.clone());
    let opened = match successor(reading, &before).await? {
        Some(successor) => reading.subscription(successor).await?,
        None => now,
    };
    moved.charge_after = charge(&opened.row.sub);
    moved.next_after = moment(opened.row.sub.progress.next_at, &opened.zone);
    if opened.row.sub.id != id {
        moved.successor = Some(opened.row.sub.id.to_string());
        moved.what.push(format!("{} follows it on plan {}", opened.row.sub.id, opened.place.plan));
    }
    Ok(moved)
}

/// What opened at another carrier when this one was moved there.
async fn successor(reading: &mut Reading, of: &Loaded) -> anyhow::Result<Option<SubscriptionId>> {
    if of.row.sub.progress.state != SubscriptionState::Cancelled
        && reading.subscription(of.row.sub.id).await?.row.sub.progress.state != SubscriptionState::Cancelled
    {
        return Ok(None);
    }
    let digest = pg::reference_digest(&mut reading.conn, of.row.sub.ref_seed.0).await?;
    let Some(digest) = digest else { return Ok(None) };
    let (seed, _) = successor_seed(&of.place.merchant, &digest);
    Ok(pg::by_ref_seed(&mut reading.conn, seed.0).await?.map(SubscriptionId))
}

async fn look_ahead(reading: &mut Reading, loaded: &Loaded, args: &MoveArgs) -> anyhow::Result<Ahead> {
    let sub = &loaded.row.sub;
    let current = pg::current_book(&mut reading.conn).await?.context("no book is in force")?;
    let book = book_store::read(&current, &StandInSecrets)?;
    // A charge that has an attempt is decided under its own version of the book.
    let version = if sub.progress.attempt_no == 0 { current.version } else { loaded.row.book_version };
    let (rules, _) = book_of(reading, version, &loaded.place.plan).await?;
    let refused = |error: MoveError| failed(format!("{} is not moved: {error}", sub.id));
    if let Some(id) = &args.to_carrier_plan {
        return to_carrier(reading, loaded, (&book, &rules), (id, args.zone.as_deref())).map_err(|error| {
            match error.downcast::<MoveError>() {
                Ok(error) => refused(error),
                Err(other) => other,
            }
        });
    }
    let (request, there, plan);
    let to = if let Some(name) = &args.zone {
        there = zone_of(carrier_of(&book, &rules.carrier)?, name)?;
        request = MoveRequest::Zone(name.clone());
        Change::Zone(&there)
    } else if let Some(id) = &args.plan {
        plan = plan_of(&book, id)?;
        request = MoveRequest::Plan(id.clone());
        Change::Plan(plan)
    } else {
        let day = args.anchor_day.as_deref().map(|text| day_of(text, rules.schedule.cadence)).transpose()?;
        let minute = args.at.as_deref().map(minute_of).transpose()?;
        request = MoveRequest::Anchor { day: day.map(days_since_2000), minute };
        Change::Anchor { day, minute }
    };
    let note = change(sub, &rules, &loaded.zone, &to).map_err(refused)?;
    let zone = if let Change::Zone(zone) = to { zone } else { &loaded.zone };
    let after = note.map(|note| {
        let closed = (note.charge.period == sub.progress.period
            && note.progress.period != note.charge.period)
            .then(|| format!("the charge of {} was tried in vain and is closed", note.charge.period));
        After {
            charge: note.progress.period.to_string(),
            next_at: note.progress.next_at,
            zone: zone.clone(),
            what: closed.into_iter().collect(),
        }
    });
    Ok(Ahead { request, after })
}

fn to_carrier(
    reading: &Reading,
    loaded: &Loaded,
    (book, rules): (&LoadedBook, &PlanRules),
    (id, zone): (&str, Option<&str>),
) -> anyhow::Result<Ahead> {
    let plan = plan_of(book, id)?;
    let carrier = carrier_of(book, &plan.carrier)?;
    let vault = reading.vault()?;
    let number = loaded.msisdn(&loaded.key(&vault)?)?;
    carrier.msisdn.check(&number).map_err(|error| failed(format!("carrier {}: {error}", carrier.id)))?;
    let name = zone.unwrap_or(loaded.zone.name());
    let there = match (zone_of(carrier, name), carrier.zones.first(), zone) {
        (Ok(there), ..) => there,
        // Where the carrier has one zone only there is nothing to ask.
        (Err(_), Some(only), None) if carrier.zones.len() == 1 => only.clone(),
        (Err(error), ..) => return Err(error),
    };
    let next_id = SubscriptionId(1 << 44);
    let (_, opening) = change_carrier(&loaded.row.sub, rules, &loaded.zone, (plan, &there, next_id))?;
    let request = MoveRequest::Carrier { plan: id.to_owned(), zone: there.name().to_owned() };
    let what = vec![
        format!("this subscription is closed; what is paid stays usable; the next one opens on plan {id}"),
        "its minute of the day is fixed when it opens".to_owned(),
    ];
    let (charge, next_at) = (opening.progress.period.to_string(), opening.progress.next_at);
    Ok(Ahead { request, after: Some(After { charge, next_at, zone: there, what }) })
}

fn plan_of<'a>(book: &'a LoadedBook, id: &str) -> anyhow::Result<&'a PlanRules> {
    book.book.plan(id).ok_or_else(|| {
        let known = book.book.plans.iter().map(|plan| plan.id.as_str());
        match billing_core::book::values::nearest(id, known) {
            Some(near) => failed(format!("the book in force has no plan {id:?}; {near} comes near")),
            None => failed(format!("the book in force has no plan {id:?}")),
        }
    })
}

fn carrier_of<'a>(book: &'a LoadedBook, id: &str) -> anyhow::Result<&'a CarrierDefinition> {
    let found = book.carriers.iter().find(|carrier| *carrier.id == *id);
    found.ok_or_else(|| failed(format!("the book in force has no carrier {id}")))
}

fn zone_of(carrier: &CarrierDefinition, name: &str) -> anyhow::Result<Zone> {
    let found = carrier.zones.iter().find(|zone| zone.name() == name);
    found.cloned().ok_or_else(|| {
        let known: Vec<&str> = carrier.zones.iter().map(Zone::name).collect();
        failed(format!("carrier {} has no zone {name:?}; it has {}", carrier.id, words::list(&known)))
    })
}

/// A date that has the wanted day.
fn day_of(text: &str, cadence: Cadence) -> anyhow::Result<Date> {
    if let Ok(day) = text.parse::<i8>() {
        let by_month = matches!(cadence, Cadence::Months(_));
        let date = Date::new(2028, 1, day).ok().filter(|_| by_month);
        return date.ok_or_else(|| {
            usage(
                "--anchor-day takes 1 to 31 for plans by the month; for others write a date that has the day",
            )
        });
    }
    text.parse().map_err(|_| usage(format!("--anchor-day {text:?} is neither a day of the month nor a date")))
}

fn minute_of(text: &str) -> anyhow::Result<u16> {
    let wrong = || usage(format!("--at {text:?} is no local time of the form 08:30"));
    let (hour, minute) = text.split_once(':').filter(|_| text.len() == 5).ok_or_else(wrong)?;
    let number =
        |part: &str| part.bytes().all(|b| b.is_ascii_digit()).then(|| part.parse::<u16>().ok()).flatten();
    let (Some(hour @ 0..24), Some(minute @ 0..60)) = (number(hour), number(minute)) else {
        return Err(wrong());
    };
    Ok(hour * 60 + minute)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn times_and_days_are_read() {
        assert_eq!(minute_of("08:30").unwrap(), 510);
        for bad in ["8:30", "24:00", "08:60", "08-30", "+8:30", "é8:3"] {
            assert!(minute_of(bad).is_err(), "{bad}");
        }
        assert_eq!(day_of("31", Cadence::Months(1)).unwrap().day(), 31);
        assert!(day_of("32", Cadence::Months(1)).is_err() && day_of("3", Cadence::Years(1)).is_err());
        assert_eq!(day_of("2026-12-15", Cadence::Years(1)).unwrap().to_string(), "2026-12-15");
    }
}
