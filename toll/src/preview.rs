//! `toll sub preview`: what will happen to a subscription, or would to one that does not exist, if the carrier answered
//! like this. The engine's own functions decide; nothing is sent and nothing is recorded.

use anyhow::Context;
use billing_core::book::story::CHARGES_MAX;
use billing_core::ids::{RefSeed, SubscriptionId};
use billing_core::money::Currency;
use billing_core::outcome::Op;
use billing_core::plan::PlanRules;
use billing_core::preview::{
    Amounts, End, Event, Horizon, Preview, Said, Script, Setup, Step, StepKind, preview, signed_up,
};
use billing_core::reason::Rule;
use billing_core::states::{AttemptState, ChargeState, State, from_number};
use billing_core::subscription::{NextKind, OpenAttempt, Planned, Subscription};
use billing_core::zone::Zone;
use carriers::StandInSecrets;
use jiff::Timestamp;
use jiff::civil::Date;
use serde::Serialize;
use storage::pg;

use crate::book_files;
use crate::cli::Global;
use crate::exit::{failed, usage};
use crate::explain::book_of;
use crate::out::{self, Paint, Table};
use crate::reading::{Reading, subscription_id};
use crate::words::{Amount, Moment, RuleWords, clock, fact};

/// What `toll sub preview` takes.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Answers, one per request, with commas between them; after the last one everything is collected:
  charged · partial 0.200 · no_funds · barred · limit (limit_day, limit_week, limit_month, limit_too_soon)
  unknown_subscriber · subscriber_refused · not_allowed · needs_consent · expired
  temporary · throttled · fault · not_sent (these cost no round)
  unknown · accepted, and what becomes known later: 'unknown then charged after 3h'
  'x3' repeats: 'no_funds x3, charged'

Events: stop · top_up · pause · pause until 2026-12-20 · resume · zone Europe/Madrid · balance 0.350
  outage until 2026-12-08 10:00 (ours) · breaker until 2026-12-05 12:00 (the carrier's)

Examples:
  toll sub preview --plan medina-kids-daily --outcomes 'no_funds x3, charged' --charges 3
  toll sub preview --plan alfa-club-payday --zone Europe/Madrid --start 2026-11-20 --charges 6
  toll sub preview sub_0008000000003 --outcomes 'no_funds' --event '2026-12-03 10:00 top_up'
  toll sub preview --plan medina-kids-daily --json | jq '.steps[] | .what'"
)]
pub(crate) struct PreviewArgs {
    /// A subscription (sub_…) as it stands in the database
    #[arg(value_parser = subscription_id, required_unless_present = "plan")]
    subscription: Option<SubscriptionId>,
    /// A made-up subscription on this plan of the book; needs no database
    #[arg(long, value_name = "PLAN", conflicts_with = "subscription")]
    plan: Option<String>,
    /// Where the made-up subscriber lives [default: the carrier's first zone]
    #[arg(long, requires = "plan", value_name = "ZONE")]
    zone: Option<String>,
    /// The local date on which it is signed up [default: today]
    #[arg(long, requires = "plan", value_name = "DATE")]
    start: Option<Date>,
    /// What the carrier answers
    #[arg(long, default_value = "", value_name = "LIST", hide_default_value = true)]
    outcomes: String,
    /// Something that happens at a local time; may be repeated
    #[arg(long = "event", value_name = "WHEN WHAT")]
    events: Vec<String>,
    /// How many charges to look at
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=CHARGES_MAX))]
    charges: u32,
    /// Look at everything up to the end of this local date instead
    #[arg(long, value_name = "DATE", conflicts_with = "charges")]
    until: Option<Date>,
}

/// Whose life is previewed.
struct Whose {
    rules: PlanRules,
    zone: Zone,
    sub: Subscription,
    open: Option<(Planned, AttemptState)>,
    now: Timestamp,
}

/// What came out, for people and programs.
#[derive(Debug, Serialize)]
struct Shown {
    plan: String,
    /// `None` for a made-up one.
    subscription: Option<String>,
    zone: String,
    steps: Vec<ShownStep>,
    collected: Amount,
    /// Why it ends here.
    end: String,
}

#[derive(Debug, Serialize)]
struct ShownStep {
    at: Moment,
    period: String,
    /// `charge`, `reserve`, `confirm`, `cancel`, `evidence`, `note`, `event`.
    what: String,
    attempt: Option<i16>,
    amount: Option<Amount>,
    answer: Option<String>,
    /// Why it was sent.
    sent_by: Option<RuleWords>,
    /// Why it was decided as it was; `None` for what changes nothing here.
    rule: Option<RuleWords>,
    /// What the rule looked at.
    facts: Vec<String>,
    attempt_state: Option<&'static str>,
    charge: &'static str,
    charge_collected: Amount,
    subscription: &'static str,
    access_until: Option<Moment>,
    collected: Amount,
    next: Option<&'static str>,
    next_at: Option<Moment>,
}

/// Shows what would happen.
pub(crate) async fn run(global: &Global, args: PreviewArgs) -> anyhow::Result<()> {
    let whose = match (&args.subscription, &args.plan) {
        (Some(id), _) => existing(global, *id).await?,
        (None, Some(plan)) => made_up(global, plan, &args)?,
        (None, None) => return Err(usage("name a subscription or --plan")),
    };
    let currency = whose.rules.price.currency;
    let script =
        Script::parse(&args.outcomes, currency).map_err(|error| usage(format!("--outcomes: {error}")))?;
    let events = Event::parse_all(args.events.iter().map(String::as_str), currency)
        .map_err(|(_, error)| usage(format!("--event: {error}")))?;
    let horizon = match args.until {
        Some(date) => Horizon::Until(whose.zone.instant(date, billing_core::zone::DAY_MINUTES)?),
        None => Horizon::Charges(args.charges),
    };
    let lived = preview(&Setup {
        rules: &whose.rules,
        zone: &whose.zone,
        sub: whose.sub.clone(),
        open: whose.open,
        script: &script,
        events: &events,
        now: whose.now,
        horizon,
    });
    let shown = Shown {
        plan: whose.rules.id.clone(),
        subscription: args.subscription.map(|id| id.to_string()),
        zone: whose.zone.name().to_owned(),
        steps: lived.steps.iter().map(|step| shown_step(step, currency)).collect(),
        collected: Amount::new(lived.collected_minor, currency.numeric()),
        end: end_words(&lived),
    };
    if global.json {
        return out::json(&shown);
    }
    out::print(&text(&shown, &lived, Paint::of_stdout()))
}

fn made_up(global: &Global, plan: &str, args: &PreviewArgs) -> anyhow::Result<Whose> {
    let loaded = book_files::load(&global.config, &StandInSecrets)?;
    let rules = loaded.book.plan(plan).cloned().ok_or_else(|| {
        let ids: Vec<&str> = loaded.book.plans.iter().map(|plan| plan.id.as_str()).collect();
        usage(format!("the book has no plan {:?}; it has {}", crate::shown::one_line(plan), ids.join(", ")))
    })?;
    let carrier = loaded.carriers.iter().find(|carrier| *carrier.id == *rules.carrier);
    let zone = match &args.zone {
        Some(name) => Zone::named(name).map_err(|error| usage(error.to_string()))?,
        None => {
            let first = carrier.and_then(|carrier| carrier.zones.first().cloned());
            first.ok_or_else(|| usage("--zone is needed: the carrier has none"))?
        }
    };
    let start = args.start.unwrap_or_else(|| zone.local(Timestamp::now()).0);
    let sub = signed_up(&rules, &zone, start, SubscriptionId(0), RefSeed(0))
        .map_err(|error| failed(error.to_string()))?;
    let now = zone.instant(start, 0)?;
    Ok(Whose { rules, zone, sub, open: None, now })
}

async fn existing(global: &Global, id: SubscriptionId) -> anyhow::Result<Whose> {
    let mut reading = Reading::open(global).await?;
    let found = load(&mut reading, id).await;
    reading.close().await;
    found
}

async fn load(reading: &mut Reading, id: SubscriptionId) -> anyhow::Result<Whose> {
    let loaded = reading.subscription(id).await?;
    let (rules, _) = book_of(reading, loaded.place.newest_book_version, &loaded.place.plan)
        .await
        .with_context(|| format!("the plan {} cannot be read", loaded.place.plan))?;
    let sub = loaded.row.sub.clone();
    let at = &sub.progress;
    let open = match at.open {
        OpenAttempt::None => None,
        _ => {
            let attempts = pg::attempts(&mut reading.conn, id.0, at.period.number()).await?;
            attempts.into_iter().find(|attempt| attempt.attempt_no == at.attempt_no).and_then(|attempt| {
                let planned = Planned {
                    op: Op::from_number(attempt.op)?,
                    period: at.period,
                    attempt_no: attempt.attempt_no,
                    parent_no: 0,
                    amount_minor: attempt.amount_minor,
                    round: attempt.round,
                    step: attempt.step,
                    not_before: crate::words::timestamp(attempt.intent_business_ms),
                    not_after: crate::words::timestamp(attempt.not_after_ms),
                };
                Some((planned, from_number::<AttemptState>(attempt.state)?))
            })
        }
    };
    let now = crate::words::timestamp(reading.now.business_ms);
    Ok(Whose { rules, zone: loaded.zone, sub, open, now })
}

fn shown_step(step: &Step, currency: Currency) -> ShownStep {
    let amount = |minor| Amount::new(minor, currency.numeric());
    let moment = |at: Timestamp| Moment::new(at.as_millisecond(), &step.zone);
    let (what, attempt, asked, answer, sent_by, state) = match &step.kind {
        StepKind::Attempt { op, attempt_no, amount_minor, answer, attempt, sent_by } => (
            op.name().to_owned(),
            Some(*attempt_no),
            Some(amount(*amount_minor)),
            Some(said(*answer, currency)),
            Some(RuleWords::new(sent_by.number())),
            Some(attempt.name()),
        ),
        StepKind::Evidence { attempt_no, answer, attempt } => {
            let answer = Some(said(*answer, currency));
            ("evidence".to_owned(), Some(*attempt_no), None, answer, None, Some(attempt.name()))
        }
        StepKind::Note => ("note".to_owned(), None, None, None, None, None),
        StepKind::Happened(what) => (what.clone(), None, None, None, None, None),
    };
    ShownStep {
        at: moment(step.at),
        period: step.period.to_string(),
        what,
        attempt,
        amount: asked,
        answer,
        sent_by,
        rule: step.rule.map(|rule| RuleWords::new(rule.number())),
        facts: step
            .inputs
            .iter()
            .map(|(input, value)| fact(input as i16, value, currency.numeric(), &step.zone))
            .collect(),
        attempt_state: state,
        charge: step.charge.name(),
        charge_collected: amount(step.charge_collected_minor),
        subscription: step.state.name(),
        access_until: step.access_until.map(moment),
        collected: amount(step.collected_minor),
        next: step.next.map(|(_, kind)| next_words(kind)),
        next_at: step.next.map(|(at, _)| moment(at)),
    }
}

fn said(said: Said, currency: Currency) -> String {
    match said {
        Said::Part(minor) => format!("{} {}", said.word(), Amounts(currency).bare(minor)),
        other => other.word().to_owned(),
    }
}

fn next_words(kind: NextKind) -> &'static str {
    match kind {
        NextKind::Never => "nothing",
        NextKind::Due => "falls due",
        NextKind::Retry => "tried again",
        NextKind::Deferred => "tried then, deferred",
        NextKind::Deadline => "the answer's deadline",
        NextKind::PeriodStart => "the next period begins",
        NextKind::Reserved => "collected, or given back",
        NextKind::StateEnd => "the state ends",
        NextKind::Arrears => "arrears are tried",
    }
}

fn end_words(lived: &Preview) -> String {
    match &lived.end {
        End::Horizon => "that is as far as was asked for".to_owned(),
        End::AtRest => format!("nothing more happens by itself: it is {}", lived.sub.progress.state.name()),
        End::Bound => "cut off here".to_owned(),
        End::Quarantined(why) => format!("it would be put aside for people: {why}"),
    }
}

fn text(shown: &Shown, lived: &Preview, paint: Paint) -> String {
    let whose = shown.subscription.clone().unwrap_or_else(|| "a made-up subscription".to_owned());
    let mut text =
        format!("{}\n\n", paint.bold(&format!("{whose} on {}, local times of {}", shown.plan, shown.zone)));
    let mut table = Table::new(&[
        "WHEN",
        "PERIOD",
        "WHAT",
        ">AMOUNT",
        "ANSWER",
        "CHARGE",
        "SUBSCRIPTION",
        ">COLLECTED",
        "NEXT",
        "RULE",
    ]);
    let mut rules: Vec<Rule> = Vec::new();
    for (step, cells) in lived.steps.iter().zip(&shown.steps) {
        let sent_by = match &step.kind {
            StepKind::Attempt { sent_by, .. } => Some(*sent_by),
            _ => None,
        };
        for rule in sent_by.into_iter().chain(step.rule) {
            if !rules.contains(&rule) {
                rules.push(rule);
            }
        }
        let what = cells.attempt.map_or_else(|| cells.what.clone(), |no| format!("{} {no}", cells.what));
        let local = |at: Timestamp| {
            let (date, minute) = step.zone.local(at);
            format!("{date} {}", clock(minute))
        };
        table.row(vec![
            local(step.at),
            cells.period.clone(),
            what,
            cells.amount.as_ref().map_or(String::new(), |amount| amount.amount.clone()),
            cells.answer.clone().unwrap_or_default(),
            if step.charge == ChargeState::Open { "open".into() } else { cells.charge.to_owned() },
            cells.subscription.to_owned(),
            cells.collected.amount.clone(),
            step.next
                .map_or("nothing".to_owned(), |(at, kind)| format!("{} {}", local(at), next_words(kind))),
            cells.rule.as_ref().map_or(String::new(), |rule| rule.id.to_owned()),
        ]);
    }
    text += &table.render(0, paint);
    text += &format!("\n{} collected; {}.\n", shown.collected, shown.end);
    if !rules.is_empty() {
        text += &format!("\n{}\n", paint.dim("Why, rule by rule:"));
        for rule in rules {
            text += &format!("  {} v{}: {}\n", rule.id(), rule.version(), rule.sentence());
        }
    }
    text
}
