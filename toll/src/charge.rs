//! `toll charge`: lists of charges, and one in short.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use billing_core::ids::{ChargeId, Shard, SubscriptionId};
use billing_core::outcome::ReasonCode;
use billing_core::period::{Period, days_since_2000};
use billing_core::states::{AttemptState, ChargeState};
use billing_core::zone::Zone;
use clap::ValueEnum;
use jiff::civil::Date;
use serde::Serialize;
use storage::pg::{self, Backwards, CHARGE_KEYS_MAX, ChargeKey, ChargeRow, KeyRange, OpenRow};

use crate::cli::Global;
use crate::exit::{failed, usage};
use crate::explain::state_name;
use crate::out::{self, Paint, Table};
use crate::reading::{Reading, subscription_id};
use crate::refund::{RefundArgs, refund};
use crate::reversal::{ReverseArgs, reverse};
use crate::shown::{Mask, Number, one_line};
use crate::words::{self, Amount, Moment};

/// Lines of a list unless said otherwise.
const LIMIT: u32 = 50;
/// Lines of a list at most.
const LIMIT_MAX: u32 = 100_000;
/// Looking back in time is given up after this.
const LOOK_BACK: Duration = Duration::from_secs(15);
/// Charges that one search remembers at most.
const SEEN_MAX: usize = 2_000_000;
const PERIODS_A_DAY: i32 = 2_048;

/// What can be done with charges.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum ChargeCommand {
    /// List charges that were tried, the latest first; or every UNKNOWN attempt
    List(ListArgs),
    /// Show one charge in short; `toll explain` tells the whole story
    Show(ShowArgs),
    /// Give money back: all of a charge or a part of it; says first what that does
    Refund(RefundArgs),
    /// Book money that the carrier took back by itself, as its statement says; says first what that does
    Reverse(ReverseArgs),
}

/// What `toll charge list` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  toll charge list                                          the latest charges
  toll charge list --subscription sub_0008000000003         those of one subscription, also what was never tried
  toll charge list --carrier medina --day 2026-12-01 --state open
  toll charge list --unknown                                every attempt whose result nobody knows, the oldest first
  toll charge list --unknown --json | jq -r '.attempts[].charge'")]
pub(crate) struct ListArgs {
    /// Only this subscription's
    #[arg(long, value_name = "SUB", value_parser = subscription_id)]
    subscription: Option<SubscriptionId>,
    /// Only charges that stand so
    #[arg(long)]
    state: Option<StateFilter>,
    /// Only this carrier's
    #[arg(long, value_name = "ID")]
    carrier: Option<String>,
    /// Only charges whose period begins on this local day
    #[arg(long, value_name = "YYYY-MM-DD")]
    day: Option<Date>,
    /// At most so many lines [default: 50; with --unknown all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(LIMIT_MAX)))]
    limit: Option<u32>,
    /// Every attempt whose result is UNKNOWN, with its age
    #[arg(long, conflicts_with_all = ["state", "subscription"])]
    unknown: bool,
}

/// What `toll charge show` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  toll charge show ch_0008000000003-20261201")]
pub(crate) struct ShowArgs {
    /// A charge (ch_…), an attempt (at_…) or our key on the wire
    charge: String,
}

/// Where a charge may stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum StateFilter {
    /// Nothing is on its way; more attempts may come
    Open,
    /// An attempt is open, for whatever reason
    Waiting,
    /// The last attempt is accepted; its answer comes later
    Accepted,
    /// Nobody knows the last attempt's result
    Unknown,
    /// Only people can settle the last attempt
    InReview,
    /// Collected in full
    Settled,
    /// Settled by a smaller price
    Reduced,
    /// Given up
    WrittenOff,
    /// Its time passed
    Expired,
    /// Never tried
    Skipped,
    /// Stopped
    Cancelled,
}

impl StateFilter {
    /// The kind of open attempt that it means.
    fn open_kind(self) -> Option<i16> {
        match self {
            Self::Accepted => Some(1),
            Self::Unknown => Some(2),
            Self::InReview => Some(3),
            _ => None,
        }
    }

    fn admits(self, row: &ChargeRow) -> bool {
        let state = match self {
            Self::Open => ChargeState::Open,
            Self::Waiting => ChargeState::Waiting,
            Self::Settled => ChargeState::Settled,
            Self::Reduced => ChargeState::Reduced,
            Self::WrittenOff => ChargeState::WrittenOff,
            Self::Expired => ChargeState::Expired,
            Self::Skipped => ChargeState::Skipped,
            Self::Cancelled => ChargeState::Cancelled,
            Self::Accepted | Self::Unknown | Self::InReview => {
                return self
                    .open_kind()
                    .is_some_and(|kind| row.last.is_some_and(|last| last.state == kind + 1));
            }
        };
        row.state() == state as i16
    }

    /// Whether charges that were never tried can stand so.
    fn of_untried(self) -> bool {
        matches!(self, Self::Expired | Self::Skipped | Self::Cancelled)
    }
}

/// Runs a verb.
pub(crate) async fn run(global: &Global, command: ChargeCommand) -> anyhow::Result<()> {
    let mut reading = Reading::open(global).await?;
    let done = match command {
        ChargeCommand::List(args) if args.unknown => list_unknown(global, &mut reading, &args).await,
        ChargeCommand::List(args) => list(global, &mut reading, &args).await,
        ChargeCommand::Show(args) => show(global, &mut reading, &args).await,
        ChargeCommand::Refund(args) => refund(global, &mut reading, &args).await,
        ChargeCommand::Reverse(args) => reverse(global, &mut reading, &args).await,
    };
    reading.close().await;
    done
}

/// A charge on one line.
#[derive(Debug, Serialize)]
pub(crate) struct Line {
    charge: String,
    subscription: String,
    plan: String,
    merchant: String,
    carrier: String,
    period: String,
    state: &'static str,
    collected: Amount,
    due: Option<Amount>,
    attempts: i16,
    last: String,
    last_at: Option<Moment>,
}

impl Line {
    /// The line of a charge.
    pub(crate) fn of(row: &ChargeRow) -> anyhow::Result<Self> {
        let period = Period::from_number(row.key.period)?;
        let zone = Zone::named(&row.zone)?;
        let charge = ChargeId { subscription: SubscriptionId(row.key.subscription_id), period };
        let note = row.note.filter(|_| row.last.is_none());
        let at_ms = row.last.map(|last| last.business_at_ms).or(note.map(|note| note.business_at_ms));
        Ok(Self {
            charge: charge.to_string(),
            subscription: charge.subscription.to_string(),
            plan: row.plan.clone(),
            merchant: row.merchant.clone(),
            carrier: row.carrier.clone(),
            period: period.to_string(),
            state: state_name::<ChargeState>(row.state()),
            collected: Amount::new(row.collected_minor, row.currency),
            due: row.due_minor.map(|minor| Amount::new(minor, row.currency)),
            attempts: row.last.map_or(0, |last| last.attempt_no),
            last: last_words(row),
            last_at: at_ms.map(|ms| Moment::new(ms, &zone)),
        })
    }
}

/// `declined no_funds`, `UNKNOWN no_reply`, `no answer yet`, `not tried`.
fn last_words(row: &ChargeRow) -> String {
    let Some(last) = row.last else {
        let note = row.note.map(|note| billing_core::triage::NoteKind::name_of(note.kind));
        return note.map_or_else(|| "not tried".to_owned(), |note| format!("not tried, {note}"));
    };
    let reason = last.reason.map(|reason| ReasonCode(reason).name());
    let state = match state_name::<AttemptState>(last.state) {
        "intent" => "no answer yet",
        "unknown" => "UNKNOWN",
        other => other,
    };
    match reason.filter(|reason| *reason != "charged") {
        Some(reason) => format!("{state} {reason}"),
        None => state.to_owned(),
    }
}

/// Lines as a table.
pub(crate) fn table(lines: &[Line], paint: Paint) -> String {
    let mut table = Table::new(&["CHARGE", "PLAN", "STATE", ">COLLECTED", ">OF", ">TRIES", "LAST", "WHEN"]);
    for line in lines {
        table.row(vec![
            line.charge.clone(),
            line.plan.clone(),
            line.state.to_owned(),
            line.collected.amount.clone(),
            line.due.as_ref().map_or_else(|| "?".to_owned(), ToString::to_string),
            line.attempts.to_string(),
            line.last.clone(),
            line.last_at.as_ref().map_or_else(String::new, |at| at.local.clone()),
        ]);
    }
    table.render(0, paint)
}

#[derive(Serialize)]
struct List {
    charges: Vec<Line>,
    /// Machine time down to which was searched, when not to the beginning.
    searched_back_to: Option<String>,
}

async fn list(global: &Global, reading: &mut Reading, args: &ListArgs) -> anyhow::Result<()> {
    let range = range(reading, args).await?;
    let limit = usize::try_from(args.limit.unwrap_or(LIMIT)).unwrap_or(usize::MAX);
    let (rows, reached_us) = match (args.subscription, args.state.and_then(StateFilter::open_kind)) {
        (Some(subscription), _) => {
            let keys =
                pg::charges_of(&mut reading.conn, subscription.0, &range, i64::from(LIMIT_MAX)).await?;
            if keys.is_empty() {
                // Says how to find one.
                reading.subscription(subscription).await?;
            }
            (filtered(reading, &keys, args.state, limit).await?, None)
        }
        (None, Some(kind)) => {
            let limit = i64::try_from(limit).unwrap_or(i64::MAX);
            let open = pg::open_attempts(&mut reading.conn, kind, &range, limit).await?;
            let key = |row: &OpenRow| ChargeKey { subscription_id: row.subscription_id, period: row.period };
            let keys: Vec<_> = open.iter().map(key).collect();
            (filtered(reading, &keys, args.state, keys.len()).await?, None)
        }
        (None, None) => look_back(reading, range, args.state, limit).await?,
    };
    let charges = rows.iter().map(Line::of).collect::<anyhow::Result<Vec<_>>>()?;
    let list = List { charges, searched_back_to: reached_us.map(words::machine) };
    if global.json {
        return out::json(&list);
    }
    if let Some(at) = &list.searched_back_to {
        eprintln!("searched back to {at} only: --day or --subscription looks further");
    }
    if list.charges.is_empty() {
        eprintln!("no such charge was found");
        return Ok(());
    }
    out::print(&table(&list.charges, Paint::of_stdout()))
}

async fn range(reading: &mut Reading, args: &ListArgs) -> anyhow::Result<KeyRange> {
    let mut range = KeyRange::ALL;
    if let Some(id) = &args.carrier {
        let carriers = pg::carrier_numbers(&mut reading.conn).await?;
        let Some((_, number)) = carriers.iter().find(|(known, _)| known == id) else {
            let known: Vec<&str> = carriers.iter().map(|(known, _)| known.as_str()).collect();
            return Err(usage(format!(
                "there is no carrier {}; there are {}",
                one_line(id),
                words::list(&known)
            )));
        };
        (range.id_from, range.id_to) =
            (Shard(number << 12).id_range().0, Shard((number + 1) << 12).id_range().0 - 1);
    }
    if let Some(day) = args.day {
        let days = days_since_2000(day);
        Period::starting(day, 0).map_err(|error| usage(error.to_string()))?;
        (range.period_from, range.period_to) = (days * PERIODS_A_DAY, (days + 1) * PERIODS_A_DAY);
    }
    Ok(range)
}

async fn filtered(
    reading: &mut Reading,
    keys: &[ChargeKey],
    state: Option<StateFilter>,
    limit: usize,
) -> anyhow::Result<Vec<ChargeRow>> {
    let mut found = Vec::new();
    for chunk in keys.chunks(CHARGE_KEYS_MAX) {
        let rows = pg::charges_by_key(&mut reading.conn, chunk).await?;
        found.extend(rows.into_iter().filter(|row| state.is_none_or(|state| state.admits(row))));
        if found.len() >= limit {
            break;
        }
    }
    found.truncate(limit);
    Ok(found)
}

/// The latest charges, and down to when the search came if not to the beginning.
async fn look_back(
    reading: &mut Reading,
    range: KeyRange,
    state: Option<StateFilter>,
    limit: usize,
) -> anyhow::Result<(Vec<ChargeRow>, Option<i64>)> {
    let deadline = Instant::now() + LOOK_BACK;
    let mut search = Backwards::new(range, state.is_some_and(StateFilter::of_untried));
    let mut seen = HashSet::new();
    let mut found = Vec::new();
    while let Some(step) = search.step(&mut reading.conn).await? {
        let keys: Vec<ChargeKey> =
            step.into_iter().map(|(key, _)| key).filter(|key| seen.insert(*key)).collect();
        found.extend(filtered(reading, &keys, state, limit - found.len()).await?);
        if found.len() >= limit {
            return Ok((found, None));
        }
        if Instant::now() > deadline || seen.len() > SEEN_MAX {
            return Ok((found, Some(search.reached_us())));
        }
    }
    Ok((found, None))
}

#[derive(Serialize)]
struct UnknownLine {
    attempt: String,
    charge: String,
    plan: String,
    carrier: String,
    amount: Amount,
    reason: &'static str,
    since: String,
    age_s: i64,
}

#[derive(Serialize)]
struct UnknownList {
    attempts: Vec<UnknownLine>,
}

async fn list_unknown(global: &Global, reading: &mut Reading, args: &ListArgs) -> anyhow::Result<()> {
    let range = range(reading, args).await?;
    let limit = args.limit.unwrap_or(LIMIT_MAX);
    let rows =
        pg::open_attempts(&mut reading.conn, AttemptState::Unknown as i16 - 1, &range, i64::from(limit))
            .await?;
    let now_us = reading.now.machine_ms.saturating_mul(1_000);
    let lines = rows.iter().map(|row| {
        let period = Period::from_number(row.period)?;
        let charge = ChargeId { subscription: SubscriptionId(row.subscription_id), period };
        Ok(UnknownLine {
            attempt: billing_core::ids::AttemptId { charge, attempt_no: row.attempt_no }.to_string(),
            charge: charge.to_string(),
            plan: row.plan.clone(),
            carrier: row.carrier.clone(),
            amount: Amount::new(row.amount_minor, row.currency),
            reason: ReasonCode(row.reason).name(),
            since: words::machine(row.since_us),
            age_s: now_us.saturating_sub(row.since_us).max(0) / 1_000_000,
        })
    });
    let list = UnknownList { attempts: lines.collect::<anyhow::Result<_>>()? };
    if global.json {
        return out::json(&list);
    }
    if list.attempts.is_empty() {
        eprintln!("no attempt is UNKNOWN");
        return Ok(());
    }
    let mut table = Table::new(&["ATTEMPT", "PLAN", "CARRIER", ">AMOUNT", "WHY", ">AGE", "SINCE"]);
    for line in &list.attempts {
        table.row(vec![
            line.attempt.clone(),
            line.plan.clone(),
            line.carrier.clone(),
            line.amount.to_string(),
            line.reason.to_owned(),
            words::span_us(line.age_s.saturating_mul(1_000_000)),
            line.since.clone(),
        ]);
    }
    out::print(&table.render(0, Paint::of_stdout()))?;
    if list.attempts.len() == usize::try_from(limit).unwrap_or(usize::MAX) {
        eprintln!("there may be more than these {limit}");
    }
    Ok(())
}

#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    line: Line,
    attempts_made: Vec<ShownAttempt>,
}

#[derive(Serialize)]
struct ShownAttempt {
    number: i16,
    amount: Amount,
    state: &'static str,
    reason: Option<&'static str>,
    at: Moment,
    moved: Amount,
    latency_us: Option<i32>,
    carrier_code: Option<String>,
    carrier_txn_id: Option<String>,
}

async fn show(global: &Global, reading: &mut Reading, args: &ShowArgs) -> anyhow::Result<()> {
    let (charge, _) = reading.charge_id(&args.charge).await?;
    let loaded = reading.subscription(charge.subscription).await?;
    let key = ChargeKey { subscription_id: charge.subscription.0, period: charge.period.number() };
    let rows = pg::charges_by_key(&mut reading.conn, &[key]).await?;
    let row = rows.into_iter().find(ChargeRow::exists).ok_or_else(|| {
        let list = format!("toll charge list --subscription {}", charge.subscription);
        failed(format!("there is no charge {charge}; its subscription's charges: {list}"))
    })?;
    let number = reading.vault().and_then(|vault| loaded.msisdn(&loaded.key(&vault)?));
    let mask = number.map_or(Mask::Unknown, |number| Mask::Number(Number::new(&number, None)));
    let word = |word: Option<String>| word.map(|word| mask.text(&word).replace('\n', "\\n"));
    let attempts = pg::attempts(&mut reading.conn, key.subscription_id, key.period).await?;
    let attempts = attempts.into_iter().map(|attempt| ShownAttempt {
        number: attempt.attempt_no,
        amount: Amount::new(attempt.amount_minor, attempt.currency),
        state: state_name::<AttemptState>(attempt.state),
        reason: attempt.reason.map(|reason| ReasonCode(reason).name()),
        at: Moment::new(attempt.intent_business_ms, &loaded.zone),
        moved: Amount::new(attempt.moved_minor.unwrap_or(0), attempt.currency),
        latency_us: attempt.latency_us,
        carrier_code: word(attempt.carrier_code),
        carrier_txn_id: word(attempt.carrier_txn_id),
    });
    let shown = Shown { line: Line::of(&row)?, attempts_made: attempts.collect() };
    if global.json {
        return out::json(&shown);
    }
    let paint = Paint::of_stdout();
    let mut text = table(std::slice::from_ref(&shown.line), paint);
    if !shown.attempts_made.is_empty() {
        let mut table = Table::new(&[
            ">TRY",
            ">ASKED",
            "STATE",
            "WHY",
            ">MOVED",
            ">TOOK",
            "CODE",
            "CARRIER'S ID",
            "WHEN",
        ]);
        for attempt in &shown.attempts_made {
            table.row(vec![
                attempt.number.to_string(),
                attempt.amount.amount.clone(),
                attempt.state.to_owned(),
                attempt.reason.unwrap_or("").to_owned(),
                attempt.moved.amount.clone(),
                attempt.latency_us.map_or_else(String::new, |us| words::span_us(i64::from(us))),
                attempt.carrier_code.clone().unwrap_or_default(),
                attempt.carrier_txn_id.clone().unwrap_or_default(),
                attempt.at.local.clone(),
            ]);
        }
        text += &format!("\n{}", table.render(0, paint));
    }
    out::print(&text)?;
    eprintln!("the whole story: toll explain {charge}");
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use billing_core::states::State;
    use storage::pg::{LastAttempt, LastNote};

    use super::*;

    fn row(last: Option<(i16, Option<i16>, Option<ChargeState>)>) -> ChargeRow {
        ChargeRow {
            key: ChargeKey { subscription_id: Shard::new(1, 0).unwrap().id(3), period: 9_832 * 2_048 },
            plan: "daily".into(),
            merchant: "demo".into(),
            carrier: "medina".into(),
            zone: "Africa/Tunis".into(),
            currency: 788,
            due_minor: Some(1_500),
            collected_minor: 0,
            current: true,
            aside: false,
            subscription_state: 4,
            subscription_period: 9_832 * 2_048,
            next_at_ms: None,
            next_kind: 0,
            last: last.map(|(state, reason, charge)| LastAttempt {
                attempt_no: 2,
                state,
                reason,
                charge_state: charge.map(|charge| charge as i16),
                business_at_ms: 0,
                decided_at_us: charge.map(|_| 5),
            }),
            note: None,
        }
    }

    #[test]
    fn lines_say_what_happened_last() {
        assert_eq!(last_words(&row(None)), "not tried");
        assert_eq!(last_words(&row(Some((1, None, None)))), "no answer yet");
        assert_eq!(last_words(&row(Some((3, Some(80), None)))), "UNKNOWN no_reply");
        assert_eq!(last_words(&row(Some((6, Some(20), Some(ChargeState::Open))))), "declined no_funds");
        assert_eq!(last_words(&row(Some((5, Some(1), Some(ChargeState::Settled))))), "approved");
        let noted = LastNote { kind: 1, charge_state: 10, rule: 11, business_at_ms: 5, at_us: 5 };
        assert_eq!(last_words(&ChargeRow { note: Some(noted), ..row(None) }), "not tried, skip");
        let text = table(&[Line::of(&row(None)).unwrap()], Paint::never());
        assert!(text.lines().nth(1).unwrap().starts_with("ch_0000g00000003-20261202  daily  open"), "{text}");
    }

    #[test]
    fn filters_admit_their_state_only() {
        let unknown = row(Some((3, Some(80), None)));
        let settled = row(Some((5, Some(1), Some(ChargeState::Settled))));
        for (filter, of_unknown, of_settled) in [
            (StateFilter::Unknown, true, false),
            (StateFilter::Waiting, true, false),
            (StateFilter::Accepted, false, false),
            (StateFilter::Settled, false, true),
            (StateFilter::Open, false, false),
        ] {
            assert_eq!(
                (filter.admits(&unknown), filter.admits(&settled)),
                (of_unknown, of_settled),
                "{filter:?}"
            );
        }
        for (state, _) in ChargeState::MOVES {
            let word = state.name().replace('_', "-");
            let rare = matches!(state, ChargeState::Reserved | ChargeState::Arrears | ChargeState::Merged);
            assert_eq!(StateFilter::from_str(&word, false).is_err(), rare, "{word}");
        }
    }
}
