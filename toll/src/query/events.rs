//! `toll query events`: what merchants are told. Looking takes nothing; `--take` gives each event once it was written out.

use anyhow::Context;
use billing_core::ids::{ChargeId, SubscriptionId};
use billing_core::period::Period;
use billing_core::reason::event_name;
use serde::Serialize;
use storage::pg::{EVENTS_MAX, EventRow, Taking, peek_events};

use crate::cli::Global;
use crate::exit::{failed, stale};
use crate::out;
use crate::reading::Reading;
use crate::words::{Amount, timestamp};

/// What `toll query events` takes.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "One JSON object a line. Every change of a subscription is one event; `revision` tells their sequence within a
subscription. With --take they are gone once they were written out: a reader that dies before may see some of
them again (by subscription and revision it knows which), none is lost. One process takes at a time; another
one ends with 6.

Examples:
  toll query events --limit 20
  toll query events --merchant demo --take --limit 1000 >> events.ndjson
  toll query events | jq -r 'select(.event == \"charge.unknown\") | .charge'"
)]
pub(crate) struct EventsArgs {
    /// Only this merchant's
    #[arg(long, value_name = "ID")]
    merchant: Option<String>,
    /// How many at most
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(i32).range(1..=i64::from(EVENTS_MAX)))]
    limit: i32,
    /// Take them: they are not given again
    #[arg(long)]
    take: bool,
}

/// One event as merchants read it.
#[derive(Debug, Serialize)]
struct Told {
    event: &'static str,
    merchant: String,
    subscription: String,
    revision: i32,
    charge: String,
    /// What moved.
    moved: Amount,
    /// Business time.
    at: String,
}

/// Shows or takes events.
pub(super) async fn events(global: &Global, args: &EventsArgs) -> anyhow::Result<()> {
    let mut reading = Reading::open(global).await?;
    let told = run(&mut reading, args).await;
    reading.close().await;
    told
}

async fn run(reading: &mut Reading, args: &EventsArgs) -> anyhow::Result<()> {
    let merchant = args.merchant.as_deref();
    if !args.take {
        return out::print(&lines(&peek_events(&mut reading.conn, merchant, args.limit).await?)?);
    }
    let mut conn = reading.database.conn().await.context("cannot connect to the database")?;
    let taking = Taking::begin(&mut conn, merchant, args.limit).await?;
    let taking = taking.ok_or_else(|| stale("another process takes events just now: try again"))?;
    out::deliver(&lines(&taking.events)?)
        .context("the events could not be written out, none of them was taken")?;
    taking.acknowledge().await.context("the events may come again")?;
    Ok(())
}

fn lines(events: &[EventRow]) -> anyhow::Result<String> {
    let mut text = String::new();
    for event in events {
        text += &serde_json::to_string(&told(event)?)?;
        text.push('\n');
    }
    Ok(text)
}

fn told(row: &EventRow) -> anyhow::Result<Told> {
    let subscription = SubscriptionId(row.subscription_id);
    let period = Period::from_number(row.period)
        .map_err(|error| failed(format!("an event of {subscription} cannot be read: {error}")))?;
    Ok(Told {
        event: event_name(row.event),
        merchant: row.merchant.clone(),
        subscription: subscription.to_string(),
        revision: row.rev,
        charge: ChargeId { subscription, period }.to_string(),
        moved: Amount::new(row.amount_minor, row.currency),
        at: timestamp(row.business_at_ms).to_string(),
    })
}
