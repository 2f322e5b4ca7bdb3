//! `toll charge reverse`: books what a carrier took back by itself. A row of the shard's inbox asks the owner for it; what
//! would be refused is refused here already, by the same rule.

use anyhow::Context;
use billing_core::ids::ChargeId;
use scheduler::{REVERSAL_REFERENCE_CHARS_MAX, ReversalRequest, plan_reversal_of};
use serde::Serialize;
use storage::pg::{self, KeptReversal};

use crate::cli::Global;
use crate::exit::{failed, usage};
use crate::out::{self, Paint};
use crate::reading::Reading;
use crate::refund::amount;
use crate::wish::carried_out;
use crate::words::Amount;

/// What `toll charge reverse` takes.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "For money that is gone already: a dispute, a regulator, the carrier's own correction. Nothing is sent. \
The reference is the carrier's own and counts once: the same again changes nothing. Never above what was collected and \
not given back. Access follows as after a refund (refund_access of the plan). Without --yes it only says what would happen.

Example:
  toll charge reverse ch_0008000000003-20261201 --amount 0.300 --reference ST-2026-12/77 --yes"
)]
pub(crate) struct ReverseArgs {
    /// A charge (ch_…), an attempt (at_…) or our key on the wire
    charge: String,
    /// How much was taken back, in the charge's currency
    #[arg(long, value_name = "AMOUNT")]
    amount: String,
    /// What the carrier's statement calls it, 1 to 64 characters
    #[arg(long, value_name = "REFERENCE")]
    reference: String,
    /// Do it
    #[arg(long)]
    yes: bool,
}

#[derive(Debug, Serialize)]
struct Reversed {
    charge: String,
    reference: String,
    amount: Amount,
    /// What of the charge is neither given back nor taken back afterwards.
    left: Amount,
    /// Whether it was asked for.
    asked: bool,
    /// Whether it is booked.
    booked: bool,
    what: Vec<&'static str>,
}

/// Books a reversal, or says what would happen.
pub(crate) async fn reverse(
    global: &Global,
    reading: &mut Reading,
    args: &ReverseArgs,
) -> anyhow::Result<()> {
    let reversed = run(reading, args).await?;
    if global.json {
        return out::json(&reversed);
    }
    let verb = if reversed.booked { "is booked as taken back" } else { "would be booked as taken back" };
    let paint = Paint::of_stdout();
    let head = format!("{} of {} {verb}", reversed.amount, reversed.charge);
    let mut text = format!("{}\n  {} are left of it\n", paint.bold(&head), reversed.left);
    reversed.what.iter().for_each(|line| text += &format!("  {line}\n"));
    out::print(&text)?;
    if !reversed.asked && !reversed.booked {
        eprintln!("nothing was done: add --yes to do it");
    }
    Ok(())
}

async fn run(reading: &mut Reading, args: &ReverseArgs) -> anyhow::Result<Reversed> {
    let reference = args.reference.trim();
    let printable = !reference.chars().any(char::is_control);
    if !(1..=REVERSAL_REFERENCE_CHARS_MAX).contains(&reference.chars().count()) || !printable {
        let most = REVERSAL_REFERENCE_CHARS_MAX;
        return Err(usage(format!("--reference takes 1 to {most} printable characters")));
    }
    let (charge, _) = reading.charge_id(&args.charge).await?;
    let loaded = reading.subscription(charge.subscription).await?;
    let (id, currency) = (charge.subscription.0, loaded.row.currency);
    let amount_minor = amount(&args.amount, currency)?;
    let rows = pg::attempts(&mut reading.conn, id, charge.period.number()).await?;
    let kept = pg::load_aside(&mut reading.conn, id, charge.period).await?;
    let mut reversed = Reversed {
        charge: charge.to_string(),
        reference: reference.to_owned(),
        amount: Amount::new(amount_minor, currency),
        left: Amount::new(0, currency),
        asked: false,
        booked: false,
        what: Vec::new(),
    };
    let left = |aside: billing_core::subscription::Aside| {
        aside.collected_minor - aside.refunded_minor - aside.reversed_minor
    };
    if let Some(known) = booked(reading, charge, reference).await? {
        if (known.subscription_id, known.period, known.amount_minor)
            != (id, charge.period.number(), amount_minor)
        {
            let of = ChargeId {
                subscription: billing_core::ids::SubscriptionId(known.subscription_id),
                period: billing_core::period::Period::from_number(known.period)?,
            };
            let was = Amount::new(known.amount_minor, currency);
            return Err(failed(format!("{reference:?} is booked already, as {was} of {of}")));
        }
        reversed.left = Amount::new(kept.map_or(0, left), currency);
        reversed.booked = true;
        reversed.what.push("it was booked before: a reference counts once");
        return Ok(reversed);
    }
    let at = &loaded.row.sub.progress;
    let before = plan_reversal_of(charge, at, &rows, kept.as_ref(), amount_minor)
        .map_err(|problem| failed(format!("{charge}: {problem}")))?;
    reversed.left = Amount::new(left(before) - amount_minor, currency);
    if !args.yes {
        return Ok(reversed);
    }
    let request =
        ReversalRequest { period: charge.period.number(), amount_minor, reference: reference.to_owned() };
    let payload = request.encode().context("the request cannot be encoded")?;
    let mut conn = reading.database.conn().await.context("cannot connect to the database")?;
    pg::ask_reversal(&mut conn, id, &payload).await?;
    reversed.asked = true;
    let (now, _) = carried_out(reading, charge.subscription).await?;
    reversed.booked = booked(reading, charge, reference).await?.is_some();
    if !reversed.booked {
        reversed.what.push(match now.place.owner_slot {
            None => "no worker owns its shard just now: the first to come books it",
            Some(_) => "its worker has not booked it yet: it waits in the inbox, or a case says why not",
        });
    }
    Ok(reversed)
}

async fn booked(
    reading: &mut Reading,
    charge: ChargeId,
    reference: &str,
) -> anyhow::Result<Option<KeptReversal>> {
    let carrier_no = charge.subscription.shard().carrier_no();
    Ok(pg::reversal_by_reference(&mut reading.conn, carrier_no, reference).await?)
}
