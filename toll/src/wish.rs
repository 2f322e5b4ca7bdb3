//! `toll sub pause`, `resume`, `top-up` and `consent`: wishes for the owner of a subscription's shard, which alone writes its row.

use std::time::{Duration, Instant};

use anyhow::Context;
use billing_core::ids::SubscriptionId;
use billing_core::states::State;
use billing_core::subscription::OpenAttempt;
use billing_core::zone::Zone;
use jiff::Timestamp;
use jiff::civil::Date;
use serde::Serialize;
use sqlx::Connection;
use storage::pg::{self, InboxKind};

use crate::cli::Global;
use crate::exit::{failed, usage};
use crate::out::{self, Paint};
use crate::reading::{Loaded, Reading, subscription_id};
use crate::who;
use crate::words::Moment;

/// How long a command waits for a living worker to carry the wish out.
const CARRIED_OUT_MAX: Duration = Duration::from_secs(3);
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// The longest id of a notice, in characters.
const NOTICE_CHARS_MAX: usize = 64;

/// What `toll sub pause` takes.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Only an active subscription without an open attempt can be paused. Periods that pass meanwhile \
are not charged.

Examples:
  toll sub pause sub_0008000000003
  toll sub pause sub_0008000000003 --until 2027-01-15"
)]
pub(crate) struct PauseArgs {
    /// The subscription (sub_…)
    #[arg(value_parser = subscription_id)]
    subscription: SubscriptionId,
    /// Goes on by itself when this date begins in the subscriber's zone; without it, when it is resumed
    #[arg(long, value_name = "DATE")]
    until: Option<Date>,
}

/// What `toll sub resume` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = "Charging goes on with the period that runs now; what passed is not charged.

Example:
  toll sub resume sub_0008000000003")]
pub(crate) struct ResumeArgs {
    /// The subscription (sub_…)
    #[arg(value_parser = subscription_id)]
    subscription: SubscriptionId,
}

/// What `toll sub top-up` takes.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Where the plan says so ([lifecycle] top_up_due, top_up_resumes), a charge that waits for its \
next round is due at once, inside its charging window, and a suspended subscription goes on. A notice counts once.

Examples:
  toll sub top-up sub_0008000000003 --notice carrier-event-4711
  toll sub top-up sub_0008000000003 --at 2026-12-01T12:30:00Z"
)]
pub(crate) struct TopUpArgs {
    /// The subscription (sub_…)
    #[arg(value_parser = subscription_id)]
    subscription: SubscriptionId,
    #[command(flatten)]
    which: Notice,
}

/// Which notice it is.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Notice {
    /// The notice's own id, 1 to 64 characters: the same id again changes nothing
    #[arg(long, value_name = "ID")]
    notice: Option<String>,
    /// When the subscriber topped up, in business time: one that is not later than the last changes nothing
    #[arg(long, value_name = "INSTANT")]
    at: Option<Timestamp>,
}

/// What `toll sub consent` takes.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "From the end of consent on nothing is charged: it holds from the commit of this command, also while \
no worker runs. What falls due without consent is suspended; when consent is renewed it goes on with the period that \
runs then, and what passed is not charged.

Examples:
  toll sub consent sub_0008000000003 --until 2027-01-31
  toll sub consent sub_0008000000003 --until 2027-01-31T18:00:00Z
  toll sub consent sub_0008000000003 --none"
)]
pub(crate) struct ConsentArgs {
    /// The subscription (sub_…)
    #[arg(value_parser = subscription_id)]
    subscription: SubscriptionId,
    #[command(flatten)]
    end: ConsentEnd,
}

/// When consent ends.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct ConsentEnd {
    /// When this date begins in the subscriber's zone, or at an instant (RFC 3339)
    #[arg(long, value_name = "DATE")]
    until: Option<String>,
    /// Consent has no end
    #[arg(long)]
    none: bool,
}

/// What became of a wish.
#[derive(Debug, Serialize)]
struct Wished {
    subscription: String,
    /// Whether it was handed to the owner: `false` for a notice that was told before.
    told: bool,
    /// Whether the owner has dealt with it.
    carried_out: bool,
    state: &'static str,
    state_until: Option<Moment>,
    next_at: Option<Moment>,
    what: Vec<String>,
}

/// Pauses a subscription.
pub(crate) async fn pause(global: &Global, args: PauseArgs) -> anyhow::Result<()> {
    let wish = |loaded: &Loaded, now_ms: i64| -> anyhow::Result<Wish> {
        let until = args.until.map(|date| loaded.zone.instant(date, 0)).transpose()?;
        let until_ms = until.map(Timestamp::as_millisecond);
        if until_ms.is_some_and(|until_ms| until_ms <= now_ms) {
            return Err(usage("--until must be a date that has not begun yet in the subscriber's zone"));
        }
        Ok(Wish::Row(InboxKind::Pause, until_ms))
    };
    run(global, args.subscription, &wish).await
}

/// Resumes a subscription.
pub(crate) async fn resume(global: &Global, args: ResumeArgs) -> anyhow::Result<()> {
    run(global, args.subscription, &|_, _| Ok(Wish::Row(InboxKind::Resume, None))).await
}

/// Tells of a top-up.
pub(crate) async fn top_up(global: &Global, args: TopUpArgs) -> anyhow::Result<()> {
    let Notice { notice, at } = args.which;
    if let Some(notice) = &notice
        && !(1..=NOTICE_CHARS_MAX).contains(&notice.chars().count())
    {
        return Err(usage("a notice's id has 1 to 64 characters"));
    }
    let wish = |_: &Loaded, now_ms: i64| -> anyhow::Result<Wish> {
        Ok(Wish::TopUp(notice.clone(), at.map_or(now_ms, Timestamp::as_millisecond)))
    };
    run(global, args.subscription, &wish).await
}

/// Says until when somebody has agreed.
pub(crate) async fn consent(global: &Global, args: ConsentArgs) -> anyhow::Result<()> {
    let wish = |loaded: &Loaded, _: i64| -> anyhow::Result<Wish> {
        let until = args.end.until.as_deref().map(|text| instant_of(text, &loaded.zone)).transpose()?;
        Ok(Wish::Consent(until.map(Timestamp::as_millisecond)))
    };
    run(global, args.subscription, &wish).await
}

/// A date as it begins in a zone, or an instant.
fn instant_of(text: &str, zone: &Zone) -> anyhow::Result<Timestamp> {
    if let Ok(at) = text.parse::<Timestamp>() {
        return Ok(at);
    }
    let wrong = || {
        usage(format!(
            "--until {text:?} is neither a date like 2027-01-31 nor an instant like 2027-01-31T18:00:00Z"
        ))
    };
    let date = Some(text).filter(|text| text.len() == 10).and_then(|text| text.parse::<Date>().ok());
    Ok(zone.instant(date.ok_or_else(wrong)?, 0)?)
}

/// What is handed to the owner.
enum Wish {
    Consent(Option<i64>),
    Row(InboxKind, Option<i64>),
    TopUp(Option<String>, i64),
}

type MakeWish<'a> = &'a dyn Fn(&Loaded, i64) -> anyhow::Result<Wish>;

async fn run(global: &Global, id: SubscriptionId, make: MakeWish<'_>) -> anyhow::Result<()> {
    let mut reading = Reading::open(global).await?;
    let wished = tell(&mut reading, id, make).await;
    reading.close().await;
    let wished = wished?;
    if global.json {
        return out::json(&wished);
    }
    let until = wished.state_until.as_ref().map_or(String::new(), |at| format!(" until {at}"));
    let head = format!("{} is {}{until}", wished.subscription, wished.state);
    let mut text = format!("{}\n", Paint::of_stdout().bold(&head));
    wished.what.iter().for_each(|line| text += &format!("  {line}\n"));
    out::print(&text)
}

async fn tell(reading: &mut Reading, id: SubscriptionId, make: MakeWish<'_>) -> anyhow::Result<Wished> {
    let before = reading.subscription(id).await?;
    let mut conn = reading.database.writing().await.context("cannot connect to the database")?;
    let now = pg::business_now(&mut conn).await?;
    let wish = make(&before, now.business_ms)?;
    let consents = matches!(wish, Wish::Consent(_));
    let mut tx = conn.begin().await?;
    let (told, act, details) = match wish {
        Wish::Consent(until_ms) => {
            let set = pg::set_consent(&mut tx, id.0, until_ms).await?;
            let set = set.ok_or_else(|| failed(format!("{id} is gone")))?;
            if !set {
                let over =
                    "is stopped or over: nothing is charged any more, a new subscription needs a new sign-up";
                return Err(failed(format!("{id} {over}")));
            }
            (true, "subscription.consent".to_owned(), serde_json::json!({"until_ms": until_ms}))
        }
        Wish::Row(kind, at_ms) => {
            pg::post_wish(&mut tx, id.0, kind, at_ms).await?;
            (true, format!("subscription.{}", name_of(kind)), serde_json::json!({"at_ms": at_ms}))
        }
        Wish::TopUp(notice, at_ms) => {
            let told = pg::post_top_up(&mut tx, id.0, notice.as_deref(), at_ms).await?;
            let told = told.ok_or_else(|| failed(format!("{id} is gone")))?;
            let details = serde_json::json!({"notice": notice, "at_ms": at_ms, "new": told});
            (told, "subscription.top_up".to_owned(), details)
        }
    };
    who::audit(&mut tx, &act, &id.to_string(), details).await?;
    tx.commit().await?;
    let (after, carried_out) = carried_out(reading, id).await?;
    let (was, is) = (&before.row.sub.progress, &after.row.sub.progress);
    let mut what = Vec::new();
    if !told {
        what.push("this notice was told before: it counts once".to_owned());
    } else if !carried_out && after.place.owner_slot.is_none() {
        what.push("no worker owns its shard just now: the first to come carries it out".to_owned());
    } else if !carried_out {
        what.push("its worker has not dealt with it yet; it waits in the shard's inbox".to_owned());
    } else if !consents && (was.state, was.next_at) == (is.state, is.next_at) {
        what.push(match was.open {
            OpenAttempt::None => "nothing changed: there was nothing to do".to_owned(),
            _ => "nothing changed: an attempt is open; ask again when its result is known".to_owned(),
        });
    }
    let moment = |at: Option<Timestamp>| at.map(|at| Moment::new(at.as_millisecond(), &after.zone));
    if consents {
        what.push(match moment(after.row.consent_until) {
            Some(until) => format!("nothing is charged from {until} on"),
            None => "consent has no end".to_owned(),
        });
    }
    if let Some(next_at) = moment(is.next_at) {
        what.push(format!("it fires next at {next_at}"));
    }
    Ok(Wished {
        subscription: id.to_string(),
        told,
        carried_out,
        state: is.state.name(),
        state_until: moment(is.state_until),
        next_at: moment(is.next_at),
        what,
    })
}

fn name_of(kind: InboxKind) -> &'static str {
    match kind {
        InboxKind::Pause => "pause",
        InboxKind::Resume => "resume",
        _ => "wish",
    }
}

/// The subscription, as soon as its worker has dealt with what is in its inbox or the wait is over.
pub(crate) async fn carried_out(reading: &mut Reading, id: SubscriptionId) -> anyhow::Result<(Loaded, bool)> {
    let deadline = Instant::now() + CARRIED_OUT_MAX;
    loop {
        let loaded = reading.subscription(id).await?;
        let waits = loaded.place.waiting > 0;
        if !waits || loaded.place.owner_slot.is_none() || Instant::now() > deadline {
            return Ok((loaded, !waits));
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}
