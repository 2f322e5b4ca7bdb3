//! `toll sub show` and `toll sub cancel`.

use std::time::{Duration, Instant};

use anyhow::Context;
use billing_core::ids::{ChargeId, RefSeed, SubscriptionId};
use billing_core::period::Period;
use billing_core::states::{State, SubscriptionState};
use billing_core::subscription::{FLAG_QUARANTINED, OpenAttempt};
use carriers::Msisdn;
use serde::Serialize;
use sqlx::Connection;
use storage::pg::{self, AsideRow, GrantOf, KeyRange};
use storage::vault::mask_msisdn;

use crate::charge::{self, Line};
use crate::cli::Global;
use crate::exit::{failed, usage};
use crate::explain::next;
use crate::out::{self, Paint, Table};
use crate::reading::{Loaded, Reading, subscription_id};
use crate::shown::one_line;
use crate::who;
use crate::words::{Amount, Moment};

/// Subscriptions of one line that are shown at most.
const OF_LINE_MAX: i64 = 50;
/// Grants that are shown of each.
const GRANTS_MAX: i64 = 10;
/// Charges that are shown of each.
const CHARGES_MAX: i64 = 10;
/// How long `cancel` waits for a living worker to carry it out.
const CARRIED_OUT_MAX: Duration = Duration::from_secs(3);
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// What `toll sub show` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  toll sub show sub_0008000000003
  toll sub show --reference demo sign-up-4711    by the merchant's own reference
  toll sub show --msisdn +21620000001             by the line: all its subscriptions, at every carrier")]
#[group(required = true, multiple = false)]
pub(crate) struct ShowArgs {
    /// A subscription (sub_…)
    #[arg(value_parser = subscription_id)]
    subscription: Option<SubscriptionId>,
    /// The merchant's id and its own reference
    #[arg(long, num_args = 2, value_names = ["MERCHANT", "REF"])]
    reference: Option<Vec<String>>,
    /// The line's number in international form; only its keyed hash is looked up
    #[arg(long, value_name = "NUMBER", value_parser = msisdn)]
    msisdn: Option<Msisdn>,
}

/// What `toll sub cancel` takes.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Without --yes it only says what would happen. It works while no worker runs: from the moment of \
the stop on no new request is made durable; one that is durable already leaves within 30 seconds or not at all.

Example:
  toll sub cancel sub_0008000000003 --yes"
)]
pub(crate) struct CancelArgs {
    /// The subscription (sub_…)
    #[arg(value_parser = subscription_id)]
    subscription: SubscriptionId,
    /// Do it
    #[arg(long)]
    yes: bool,
}

fn msisdn(text: &str) -> Result<Msisdn, String> {
    Msisdn::parse(text).map_err(|error| error.to_string())
}

/// A subscription as it stands.
#[derive(Debug, Serialize)]
struct Shown {
    subscription: String,
    plan: String,
    merchant: String,
    carrier: String,
    /// Masked.
    msisdn: Option<String>,
    zone: String,
    state: &'static str,
    quarantined: bool,
    stop: Option<Moment>,
    /// From when on nobody has agreed any more.
    consent_until: Option<Moment>,
    access_until: Option<Moment>,
    state_until: Option<Moment>,
    charge: String,
    due: Amount,
    collected: Amount,
    attempts: i16,
    round: i16,
    step: i16,
    open: &'static str,
    next: String,
    next_at: Option<Moment>,
    anchor: String,
    book_version: i32,
    revision: i32,
    /// The worker that owns its shard.
    worker: Option<i32>,
    /// Rows about it in the shard's inbox.
    inbox: i64,
    charges: Vec<Line>,
    /// Charges with rows of their own: blocked by an open attempt, in arrears, or closed; the latest first.
    asides: Vec<Own>,
    /// The latest first.
    grants: Vec<Grant>,
}

/// A charge with a row of its own.
#[derive(Debug, Serialize)]
struct Own {
    charge: String,
    state: &'static str,
    due: Amount,
    collected: Amount,
    attempts: i16,
    open: &'static str,
    next_at: Option<Moment>,
    expires_at: Option<Moment>,
}

/// Access that was granted.
#[derive(Debug, Serialize)]
struct Grant {
    charge: String,
    attempt: i16,
    from: Moment,
    /// `None` for good.
    until: Option<Moment>,
    paid: Amount,
    /// `full`, or the step of the ladder that was paid.
    variant: String,
}

#[derive(Serialize)]
struct ShownAll {
    subscriptions: Vec<Shown>,
}

/// Shows one subscription, or all of a line.
pub(crate) async fn show(global: &Global, args: ShowArgs) -> anyhow::Result<()> {
    let mut reading = Reading::open(global).await?;
    let found = find_and_show(&mut reading, &args).await;
    reading.close().await;
    let all = ShownAll { subscriptions: found? };
    if global.json {
        return out::json(&all);
    }
    let paint = Paint::of_stdout();
    let texts: Vec<String> = all.subscriptions.iter().map(|shown| text(shown, paint)).collect();
    out::print(&texts.join("\n"))
}

async fn find_and_show(reading: &mut Reading, args: &ShowArgs) -> anyhow::Result<Vec<Shown>> {
    let mut shown = Vec::new();
    for id in find(reading, args).await? {
        let loaded = reading.subscription(id).await?;
        let keys = pg::charges_of(&mut reading.conn, id.0, &KeyRange::ALL, CHARGES_MAX).await?;
        let rows = pg::charges_by_key(&mut reading.conn, &keys).await?;
        let charges = rows.iter().map(Line::of).collect::<anyhow::Result<_>>()?;
        let grants = pg::grants_of(&mut reading.conn, id.0, GRANTS_MAX).await?;
        let grants = grants.iter().map(|row| grant(row, &loaded)).collect::<anyhow::Result<_>>()?;
        let number = reading.vault().and_then(|vault| loaded.msisdn(&loaded.key(&vault)?));
        let masked = number.ok().map(|number| mask_msisdn(&number));
        let asides = pg::asides_of(&mut reading.conn, id.0, CHARGES_MAX).await?;
        let asides = asides.iter().map(|row| own(row, &loaded)).collect::<anyhow::Result<_>>()?;
        shown.push(Shown { charges, asides, grants, ..of(&loaded, masked) });
    }
    Ok(shown)
}

async fn find(reading: &mut Reading, args: &ShowArgs) -> anyhow::Result<Vec<SubscriptionId>> {
    if let Some(id) = args.subscription {
        return Ok(vec![id]);
    }
    if let Some([merchant, reference]) = args.reference.as_deref() {
        let (seed, digest) = RefSeed::derive(merchant, reference, 0);
        let found = pg::by_reference(&mut reading.conn, seed.0, &digest).await?;
        let none = || {
            failed(format!(
                "merchant {} has no subscription under the reference {:?} (both are taken exactly as imported)",
                one_line(merchant),
                one_line(reference)
            ))
        };
        return Ok(vec![SubscriptionId(found.ok_or_else(none)?)]);
    }
    let Some(number) = args.msisdn else { return Err(usage("name a subscription, --reference or --msisdn")) };
    let hmac = reading.vault()?.msisdn_hmac(number.digits());
    let found = pg::by_msisdn_hmac(&mut reading.conn, &hmac, OF_LINE_MAX).await?;
    if found.is_empty() {
        return Err(failed(format!("no subscription belongs to {}", mask_msisdn(number.digits()))));
    }
    Ok(found.into_iter().map(SubscriptionId).collect())
}

fn own(row: &AsideRow, loaded: &Loaded) -> anyhow::Result<Own> {
    let aside = row.aside().map_err(failed)?;
    let moment = |at: Option<jiff::Timestamp>| at.map(|at| Moment::new(at.as_millisecond(), &loaded.zone));
    Ok(Own {
        charge: aside.charge.to_string(),
        state: aside.state.name(),
        due: Amount::new(aside.due_minor, row.currency),
        collected: Amount::new(aside.collected_minor, row.currency),
        attempts: aside.attempt_no,
        open: open_words(aside.open),
        next_at: moment(aside.next_at),
        expires_at: moment(aside.expires_at),
    })
}

fn grant(row: &GrantOf, loaded: &Loaded) -> anyhow::Result<Grant> {
    let charge = ChargeId { subscription: loaded.row.sub.id, period: Period::from_number(row.period)? };
    Ok(Grant {
        charge: charge.to_string(),
        attempt: row.attempt_no,
        from: Moment::new(row.from_ms, &loaded.zone),
        until: row.until_ms.map(|until_ms| Moment::new(until_ms, &loaded.zone)),
        paid: Amount::new(row.moved_minor, loaded.row.currency),
        variant: if row.step == 0 { "full".to_owned() } else { format!("step {}", row.step) },
    })
}

fn of(loaded: &Loaded, msisdn: Option<String>) -> Shown {
    let (sub, place, zone) = (&loaded.row.sub, &loaded.place, &loaded.zone);
    let at = &sub.progress;
    let moment = |at: Option<jiff::Timestamp>| at.map(|at| Moment::new(at.as_millisecond(), zone));
    let charge = ChargeId { subscription: sub.id, period: at.period };
    let next = next(charge, sub, false, zone);
    Shown {
        subscription: sub.id.to_string(),
        plan: place.plan.clone(),
        merchant: place.merchant.clone(),
        carrier: place.carrier.clone(),
        msisdn,
        zone: zone.name().to_owned(),
        state: at.state.name(),
        quarantined: sub.flags & FLAG_QUARANTINED != 0,
        stop: moment(sub.stop_at),
        consent_until: moment(loaded.row.consent_until),
        access_until: moment(at.paid_until),
        state_until: moment(at.state_until),
        charge: charge.to_string(),
        due: Amount::new(at.due_minor, loaded.row.currency),
        collected: Amount::new(at.collected_minor, loaded.row.currency),
        attempts: at.attempt_no,
        round: at.round,
        step: at.step,
        open: open_words(at.open),
        next: next.words,
        next_at: next.at,
        anchor: format!("{} {}", sub.anchor.date, crate::words::clock(sub.anchor.minute)),
        book_version: place.book_version,
        revision: sub.rev,
        worker: place.owner_slot,
        inbox: place.waiting,
        charges: Vec::new(),
        asides: Vec::new(),
        grants: Vec::new(),
    }
}

fn open_words(open: OpenAttempt) -> &'static str {
    match open {
        OpenAttempt::None => "none",
        OpenAttempt::Accepted => "accepted",
        OpenAttempt::Unknown => "unknown",
        OpenAttempt::InReview => "in_review",
    }
}

fn text(shown: &Shown, paint: Paint) -> String {
    let mut text = format!("{}\n", paint.bold(&shown.subscription));
    let mut field = |name: &str, value: String| {
        text += &format!("  {} {value}\n", paint.dim(&format!("{name:<10}")));
    };
    let until =
        |name: &str, at: &Option<Moment>| at.as_ref().map_or(String::new(), |at| format!(", {name} {at}"));
    field("plan", format!("{} (merchant {}, carrier {})", shown.plan, shown.merchant, shown.carrier));
    field("line", shown.msisdn.clone().unwrap_or_else(|| "not readable here".to_owned()));
    field("zone", shown.zone.clone());
    field("state", format!("{}{}", shown.state, until("until", &shown.state_until)));
    if shown.quarantined {
        field("quarantine", paint.warn("people must look at its data; nothing is sent"));
    }
    if let Some(stop) = &shown.stop {
        field("stop", format!("since {stop}"));
    }
    if let Some(until) = &shown.consent_until {
        field("consent", format!("until {until}"));
    }
    let access = match &shown.access_until {
        Some(until) => until.to_string(),
        None if shown.collected == shown.due => "for good".to_owned(),
        None => "nothing is paid yet".to_owned(),
    };
    field("paid until", access);
    field("charge", format!("{}: {} of {} collected", shown.charge, shown.collected, shown.due));
    let open = if shown.open == "none" {
        "none open".to_owned()
    } else {
        paint.warn(&format!("the last is {}", shown.open))
    };
    field("attempts", format!("{}, {open}, round {}, step {}", shown.attempts, shown.round + 1, shown.step));
    field("next", format!("{}{}", shown.next, until("at", &shown.next_at)));
    field(
        "anchor",
        format!("{} local, book version {}, revision {}", shown.anchor, shown.book_version, shown.revision),
    );
    let worker =
        shown.worker.map_or_else(|| "no worker owns its shard".to_owned(), |slot| format!("worker {slot}"));
    let inbox = if shown.inbox == 0 { String::new() } else { format!(", {} in its inbox", shown.inbox) };
    field("worker", worker + &inbox);
    if !shown.charges.is_empty() {
        text += &format!("\n{}", charge::table(&shown.charges, paint));
    }
    if !shown.asides.is_empty() {
        let mut table =
            Table::new(&["PUT ASIDE", "STATE", ">DUE", ">COLLECTED", ">ATTEMPTS", "OPEN", "NEXT", "UNTIL"]);
        for own in &shown.asides {
            let at = |at: &Option<Moment>| at.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string);
            let (due, collected) = (own.due.to_string(), own.collected.to_string());
            let (state, open) = (own.state.to_owned(), own.open.to_owned());
            let attempts = own.attempts.to_string();
            let cells = vec![own.charge.clone(), state, due, collected, attempts, open];
            table.row([cells, vec![at(&own.next_at), at(&own.expires_at)]].concat());
        }
        text += &format!("\n{}", table.render(2, paint));
    }
    if !shown.grants.is_empty() {
        let mut table = Table::new(&["ACCESS FROM", "UNTIL", ">PAID", "VARIANT", "FOR"]);
        for grant in &shown.grants {
            let until = grant.until.as_ref().map_or_else(|| "for good".to_owned(), ToString::to_string);
            let (paid, variant) = (grant.paid.to_string(), grant.variant.clone());
            table.row(vec![grant.from.to_string(), until, paid, variant, grant.charge.clone()]);
        }
        text += &format!("\n{}", table.render(2, paint));
    }
    text
}

/// What a stop did, or would do.
#[derive(Debug, Serialize)]
struct Cancelled {
    subscription: String,
    /// Whether the stop is stored.
    done: bool,
    state: &'static str,
    stop: Option<Moment>,
    what: Vec<String>,
}

/// Stops a subscription for good.
pub(crate) async fn cancel(global: &Global, args: CancelArgs) -> anyhow::Result<()> {
    let mut reading = Reading::open(global).await?;
    let cancelled = run_cancel(&mut reading, &args).await;
    reading.close().await;
    let cancelled = cancelled?;
    if global.json {
        return out::json(&cancelled);
    }
    let paint = Paint::of_stdout();
    let head = match (&cancelled.stop, cancelled.done) {
        (Some(at), true) => format!("{} is stopped since {at}", cancelled.subscription),
        _ => format!("{} would be stopped now", cancelled.subscription),
    };
    let mut text = format!("{}\n", paint.bold(&head));
    cancelled.what.iter().for_each(|line| text += &format!("  {line}\n"));
    out::print(&text)?;
    if !cancelled.done {
        eprintln!("nothing was done: add --yes to do it");
    }
    Ok(())
}

async fn run_cancel(reading: &mut Reading, args: &CancelArgs) -> anyhow::Result<Cancelled> {
    let id = args.subscription;
    let loaded = reading.subscription(id).await?;
    let sub = &loaded.row.sub;
    let mut what = effects(&loaded);
    let over = matches!(sub.progress.state, SubscriptionState::Cancelled | SubscriptionState::Ended);
    let moment = |ms: i64| Moment::new(ms, &loaded.zone);
    if !args.yes || over || sub.stop_at.is_some() {
        let stop = sub.stop_at.map(|at| moment(at.as_millisecond()));
        let done = stop.is_some() || over;
        return Ok(Cancelled {
            subscription: id.to_string(),
            done,
            state: sub.progress.state.name(),
            stop,
            what,
        });
    }
    let mut conn = reading.database.conn().await.context("cannot connect to the database")?;
    // Business time as the database tells it, taken as late as possible.
    let now = pg::business_now(&mut conn).await?;
    let mut tx = conn.begin().await?;
    let stopped = pg::stop_subscription(&mut tx, id.0, now.business_ms).await?;
    // A stop holds whatever else is broken.
    let mut noted = tx.begin().await?;
    match who::audit(&mut noted, "subscription.stop", &id.to_string(), serde_json::json!({})).await {
        Ok(()) => noted.commit().await?,
        Err(error) => {
            noted.rollback().await?;
            eprintln!("the audit log does not have this stop: {error:#}");
        }
    }
    tx.commit().await?;
    let stopped_ms = stopped.ok_or_else(|| failed(format!("{id} is gone")))?;
    let state = carried_out(reading, id).await?;
    what.push(match state {
        SubscriptionState::Cancelled => {
            "its worker has carried it out: the subscription is cancelled".to_owned()
        }
        _ if loaded.place.owner_slot.is_none() => {
            "no worker owns its shard just now: the stop holds already, the first to come marks it cancelled"
                .to_owned()
        }
        _ => "its worker has not marked it cancelled yet; the stop holds already".to_owned(),
    });
    Ok(Cancelled {
        subscription: id.to_string(),
        done: true,
        state: state.name(),
        stop: Some(moment(stopped_ms)),
        what,
    })
}

/// The subscription's state, as soon as its worker has carried the stop out or the wait is over.
async fn carried_out(reading: &mut Reading, id: SubscriptionId) -> anyhow::Result<SubscriptionState> {
    let deadline = Instant::now() + CARRIED_OUT_MAX;
    loop {
        let loaded = reading.subscription(id).await?;
        let state = loaded.row.sub.progress.state;
        let waits = state != SubscriptionState::Cancelled && loaded.place.owner_slot.is_some();
        if !waits || Instant::now() > deadline {
            return Ok(state);
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// When a stop takes effect, and on what.
fn effects(loaded: &Loaded) -> Vec<String> {
    let (sub, zone) = (&loaded.row.sub, &loaded.zone);
    let at = &sub.progress;
    let mut what = Vec::new();
    if matches!(at.state, SubscriptionState::Cancelled | SubscriptionState::Ended) {
        what.push(format!("it is {} already: nothing is charged any more", at.state.name()));
        return what;
    }
    if sub.stop_at.is_some() {
        what.push("it was stopped before; the first stop counts".to_owned());
    }
    what.push("takes effect at once: no new request is made durable; one that is durable already leaves within 30 seconds or not at all".to_owned());
    what.push(match at.open {
        OpenAttempt::None => {
            "a request whose intent is durable already is carried through, and its answer is recorded"
                .to_owned()
        }
        open => format!(
            "attempt {} is {}: it stays so until there is evidence, and money that moved is recorded",
            at.attempt_no,
            open_words(open)
        ),
    });
    what.push(match at.paid_until {
        Some(until) => {
            format!("what is paid stays usable until {}", Moment::new(until.as_millisecond(), zone))
        }
        None => "nothing is paid that would stay usable, unless it was bought once and for good".to_owned(),
    });
    what.push("it is final: a new subscription needs a new sign-up".to_owned());
    what
}
