//! `toll charge refund`: asks the shard's owner for it. The request is a row of its inbox; the owner plans, makes durable
//! and sends. What would be refused is refused here already, by the same rule.

use std::time::{Duration, Instant};

use anyhow::Context;
use billing_core::ids::{AttemptId, ChargeId};
use billing_core::money::{Currency, Money};
use billing_core::states::AttemptState;
use carriers::{RefundCap, StandInSecrets};
use scheduler::{RefundRequest, plan_refund_of};
use serde::Serialize;
use sqlx::Connection;
use storage::pg::{self, AttemptRow};

use crate::book_store;
use crate::cli::Global;
use crate::exit::{failed, usage};
use crate::explain::state_name;
use crate::out::{self, Paint};
use crate::reading::{Loaded, Reading};
use crate::who;
use crate::words::{Amount, timestamp};

/// How long the command waits for a living worker.
const ANSWERED_MAX: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Characters of a reason.
const REASON_MAX: usize = 500;

/// What `toll charge refund` takes.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Without --yes it only says what would happen. A refund is an attempt of its own: it has a key, may be \
UNKNOWN, and is never above what was collected. While the charge has an open or UNKNOWN attempt it is refused.

Examples:
  toll charge refund ch_0008000000003-20261201 --reason \"asked by the subscriber\"
  toll charge refund ch_0008000000003-20261201 --amount 0.300 --reason \"goodwill\" --yes"
)]
pub(crate) struct RefundArgs {
    /// A charge (ch_…), an attempt (at_…) or our key on the wire
    charge: String,
    /// The attempt to give back; needed where several attempts collected
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i16).range(1..=1023))]
    attempt: Option<i16>,
    /// How much, in the charge's currency; without it all that is left
    #[arg(long, value_name = "AMOUNT")]
    amount: Option<String>,
    /// Why: written to the worker's log
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Do it
    #[arg(long)]
    yes: bool,
}

#[derive(Debug, Serialize)]
struct Refund {
    charge: String,
    /// The refund's own attempt.
    attempt: String,
    /// The attempt that is given back.
    original: i16,
    amount: Amount,
    /// Whether it was asked for.
    asked: bool,
    /// `planned`, `waiting`, or where the attempt stands.
    state: &'static str,
}

/// Asks for a refund, or says what would happen.
pub(crate) async fn refund(global: &Global, reading: &mut Reading, args: &RefundArgs) -> anyhow::Result<()> {
    let refund = run(reading, args).await?;
    if global.json {
        return out::json(&refund);
    }
    let paint = Paint::of_stdout();
    let head = match refund.state {
        "planned" => format!("{} of attempt {} would be given back", refund.amount, refund.original),
        "approved" => format!("{} of attempt {} was given back", refund.amount, refund.original),
        state => format!("{} of attempt {}: the refund is {state}", refund.amount, refund.original),
    };
    out::print(&format!("{}\n  as attempt {}\n", paint.bold(&head), refund.attempt))?;
    if !refund.asked {
        eprintln!("nothing was done: add --yes to do it");
    }
    Ok(())
}

async fn run(reading: &mut Reading, args: &RefundArgs) -> anyhow::Result<Refund> {
    if args.reason.trim().is_empty() || args.reason.chars().count() > REASON_MAX {
        return Err(usage(format!("--reason takes 1 to {REASON_MAX} characters")));
    }
    let (charge, named) = reading.charge_id(&args.charge).await?;
    let loaded = reading.subscription(charge.subscription).await?;
    let amount_minor = match &args.amount {
        None => 0,
        Some(text) => amount(text, loaded.row.currency)?,
    };
    let request = RefundRequest {
        period: charge.period.number(),
        attempt_no: args.attempt.or(named).unwrap_or(0),
        amount_minor,
        reason: args.reason.clone(),
    };
    let offers = offers(reading, &loaded.place.carrier).await?;
    let rows = pg::attempts(&mut reading.conn, charge.subscription.0, charge.period.number()).await?;
    let kept = pg::load_aside(&mut reading.conn, charge.subscription.0, charge.period).await?;
    let now = timestamp(reading.now.business_ms);
    let at = &loaded.row.sub.progress;
    let carrier = (loaded.place.carrier.as_str(), offers);
    let (planned, _) = plan_refund_of(charge, at, &rows, kept.as_ref(), carrier, &request, now)
        .map_err(|problem| failed(format!("{charge}: {problem}")))?;
    let mut refund = Refund {
        charge: charge.to_string(),
        attempt: AttemptId { charge, attempt_no: planned.attempt_no }.to_string(),
        original: planned.parent_no,
        amount: Amount::new(planned.amount_minor, loaded.row.currency),
        asked: args.yes,
        state: "planned",
    };
    if !args.yes {
        return Ok(refund);
    }
    let payload = request.encode().context("the request cannot be encoded")?;
    let mut conn = reading.database.writing().await.context("cannot connect to the database")?;
    let mut tx = conn.begin().await?;
    pg::ask_refund(&mut tx, charge.subscription.0, &payload).await?;
    let details = serde_json::json!({
        "original": planned.parent_no, "amount_minor": planned.amount_minor, "reason": args.reason});
    who::audit(&mut tx, "refund.ask", &charge.to_string(), details).await?;
    tx.commit().await?;
    refund.state = answered(reading, &loaded, charge, planned.attempt_no).await?;
    Ok(refund)
}

/// Where the refund stands as soon as its worker has its answer, or the wait is over.
async fn answered(
    reading: &mut Reading,
    loaded: &Loaded,
    charge: ChargeId,
    attempt_no: i16,
) -> anyhow::Result<&'static str> {
    let deadline = Instant::now() + ANSWERED_MAX;
    while loaded.place.owner_slot.is_some() && Instant::now() < deadline {
        let rows = pg::attempts(&mut reading.conn, charge.subscription.0, charge.period.number()).await?;
        let answered = |row: &&AttemptRow| row.attempt_no == attempt_no && row.state > 1;
        if let Some(row) = rows.iter().find(answered) {
            return Ok(state_name::<AttemptState>(row.state));
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    Ok("waiting")
}

pub(crate) fn amount(text: &str, currency: i16) -> anyhow::Result<i64> {
    let currency = Currency::from_numeric(currency)?;
    let money = Money::from_text(text, currency).filter(|money| money.minor > 0);
    money.map(|money| money.minor).ok_or_else(|| {
        usage(format!(
            "--amount {text:?} is no amount of {}: write digits above 0 with at most {} decimals",
            currency.code(),
            currency.exponent()
        ))
    })
}

/// What the carrier gives back, as the book in force says.
async fn offers(reading: &mut Reading, carrier: &str) -> anyhow::Result<Option<RefundCap>> {
    let current = pg::current_book(&mut reading.conn).await?.context("no book is in force")?;
    let loaded = book_store::read(&current, &StandInSecrets)?;
    let found = loaded.carriers.iter().find(|definition| definition.id.as_ref() == carrier);
    Ok(found.and_then(|definition| definition.caps.refund))
}
