//! `toll status`: who works, what is due, what is open, what was charged today.

use std::collections::BTreeMap;

use api::client::fetch_status;
use billing_core::states::{AttemptState, SubscriptionState};
use billing_core::zone::Zone;
use serde::Serialize;
use storage::pg;
use storage::pg::DayRow;

use crate::cli::Global;
use crate::explain::state_name;
use crate::held::{self, Held};
use crate::out::{self, Paint, Table};
use crate::reading::Reading;
use crate::shown::one_line;
use crate::words::{self, Amount, count};

/// Counting the subscriptions is given up after this.
const COUNT_TIMEOUT_MS: u32 = 3_000;
/// Intents without an answer are counted up to this.
const UNANSWERED_MAX: i64 = 1_000_000;

/// What `toll status` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = "Works while no worker runs. Counting the subscriptions is given up after 3 s.

Examples:
  toll status
  toll status --json | jq '.open[] | select(.kind == \"unknown\")'
  watch -n 5 toll status")]
pub(crate) struct StatusArgs {}

/// How everything is doing.
#[derive(Debug, Serialize)]
struct Status {
    business: Business,
    workers: Vec<Worker>,
    shards: i64,
    shards_without_owner: i64,
    /// What failovers of the database hold up; none: empty.
    failovers: Vec<Held>,
    /// `None`: there are too many to count in time.
    subscriptions: Option<Subscriptions>,
    /// Intents without an answer: on their way, or left behind by a dead worker.
    on_their_way: i64,
    open: Vec<Open>,
    cases: Vec<Cases>,
    today: Vec<Today>,
}

#[derive(Debug, Serialize)]
struct Business {
    at: String,
    /// Business milliseconds per machine millisecond.
    scale: i32,
    machine_at: String,
}

#[derive(Debug, Serialize)]
struct Worker {
    slot: i32,
    epoch: i32,
    /// As text: it has 64 bits.
    incarnation: String,
    host: String,
    endpoint: String,
    shards: i64,
    /// Whether its endpoint answered.
    reachable: bool,
    ready: bool,
    why_not: Option<String>,
    in_flight: Option<usize>,
    wheel: Option<usize>,
    /// Lanes whose breaker is not closed: carrier and breaker.
    lanes_held: Vec<(String, String)>,
    p99_us: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Subscriptions {
    total: i64,
    /// How many are due now.
    due: i64,
    quarantined: i64,
    by_state: BTreeMap<&'static str, i64>,
}

#[derive(Debug, Serialize)]
struct Open {
    kind: &'static str,
    count: i64,
    amount: Amount,
    oldest: String,
    oldest_age_s: i64,
}

#[derive(Debug, Serialize)]
struct Cases {
    kind: String,
    count: i64,
}

/// Attempts of a carrier since local midnight, by business time.
#[derive(Debug, Serialize)]
struct Today {
    carrier: String,
    attempts: i64,
    approved: i64,
    declined: i64,
    unknown: i64,
    other: i64,
    collected: Amount,
}

/// Shows how everything is doing.
pub(crate) async fn status(global: &Global, _args: StatusArgs) -> anyhow::Result<()> {
    let mut reading = Reading::open(global).await?;
    let gathered = gather(&mut reading).await;
    reading.close().await;
    let status = gathered?;
    if global.json {
        return out::json(&status);
    }
    out::print(&text(&status, Paint::of_stdout()))
}

async fn gather(reading: &mut Reading) -> anyhow::Result<Status> {
    let workers = workers(reading).await?;
    let now = reading.now;
    let conn = &mut reading.conn;
    let (shards, _, shards_without_owner) = pg::owned_shards(conn).await?;
    let failovers = held::held(conn).await?;
    let counts = pg::subscription_counts(conn, now.business_ms, COUNT_TIMEOUT_MS).await?;
    let subscriptions = counts.map(|counts| Subscriptions {
        total: counts.iter().map(|count| count.count).sum(),
        due: counts.iter().map(|count| count.due).sum(),
        quarantined: counts.iter().map(|count| count.quarantined).sum(),
        by_state: counts
            .iter()
            .map(|count| (state_name::<SubscriptionState>(count.state), count.count))
            .collect(),
    });
    let open = pg::open_sums(conn).await?.into_iter().map(|sum| Open {
        kind: state_name::<AttemptState>(sum.kind + 1),
        count: sum.count,
        amount: Amount::new(sum.amount_minor, sum.currency),
        oldest: words::machine(sum.oldest_us),
        oldest_age_s: (now.machine_ms.saturating_mul(1_000) - sum.oldest_us).max(0) / 1_000_000,
    });
    let open = open.collect();
    let on_their_way = pg::intents_without_answer(conn, UNANSWERED_MAX).await?;
    let cases = pg::case_counts(conn).await?;
    let cases =
        cases.into_iter().map(|case| Cases { kind: one_line(&case.kind), count: case.count }).collect();
    let midnights = pg::zones(conn).await?.into_iter().filter_map(|(zone_no, name)| {
        let zone = Zone::named(&name).ok()?;
        Some((zone_no, midnight_ms(&zone, now.business_ms)?))
    });
    let midnights: Vec<(i16, i64)> = midnights.collect();
    let today = today(&pg::charges_since(conn, &midnights).await?);
    let business = Business {
        at: words::timestamp(now.business_ms).to_string(),
        scale: now.clock.scale,
        machine_at: words::timestamp(now.machine_ms).to_string(),
    };
    Ok(Status {
        business,
        workers,
        shards,
        shards_without_owner,
        failovers,
        subscriptions,
        on_their_way,
        open,
        cases,
        today,
    })
}

/// The instant at which the local day began.
fn midnight_ms(zone: &Zone, business_ms: i64) -> Option<i64> {
    let (day, _) = zone.local(words::timestamp(business_ms));
    Some(zone.instant(day, 0).ok()?.as_millisecond())
}

async fn workers(reading: &mut Reading) -> anyhow::Result<Vec<Worker>> {
    let mut workers = Vec::new();
    for row in pg::worker_rows(&mut reading.conn).await? {
        let asked = fetch_status(&row.endpoint).await;
        let mut worker = Worker {
            slot: row.lease.slot,
            epoch: row.lease.epoch,
            incarnation: row.lease.incarnation.to_string(),
            host: one_line(&row.host),
            endpoint: one_line(&row.endpoint),
            shards: row.shards,
            reachable: asked.is_ok(),
            ready: false,
            why_not: None,
            in_flight: None,
            wheel: None,
            lanes_held: Vec::new(),
            p99_us: None,
        };
        match asked {
            Err(error) => worker.why_not = Some(error.to_string()),
            Ok(status) => {
                worker.ready = status.ready;
                worker.why_not = status.why;
                worker.p99_us = status.due_to_durable.map(|latency| latency.p99_us);
                if let Some(inner) = status.worker {
                    worker.in_flight = Some(inner.in_flight);
                    worker.wheel = Some(inner.wheel);
                    let held = inner.lanes.into_iter().filter(|lane| lane.breaker != "closed");
                    worker.lanes_held =
                        held.map(|lane| (one_line(&lane.carrier), one_line(&lane.breaker))).collect();
                }
            }
        }
        workers.push(worker);
    }
    Ok(workers)
}

fn today(rows: &[DayRow]) -> Vec<Today> {
    let mut sums: BTreeMap<(&str, i16), ([i64; 4], i64)> = BTreeMap::new();
    for row in rows {
        let place = match state_name::<AttemptState>(row.class) {
            "approved" => 0,
            "declined" => 1,
            "unknown" => 2,
            _ => 3,
        };
        let (counts, amount) = sums.entry((&row.carrier, row.currency)).or_default();
        counts[place] += row.count;
        *amount += row.amount_minor;
    }
    let days = sums.into_iter().map(|((carrier, currency), (counts, amount))| Today {
        carrier: carrier.to_owned(),
        attempts: counts.iter().sum(),
        approved: counts[0],
        declined: counts[1],
        unknown: counts[2],
        other: counts[3],
        collected: Amount::new(amount, currency),
    });
    days.collect()
}

fn text(status: &Status, paint: Paint) -> String {
    let speed = match status.business.scale {
        0 => ", the clock stands".to_owned(),
        1 => String::new(),
        scale => format!(", {scale} times as fast as the machine's"),
    };
    let mut text = format!("business time {}{speed}\n", status.business.at);
    text += &workers_text(status, paint);
    text += &held::text(&status.failovers, paint);
    text += &match &status.subscriptions {
        None => "subscriptions   too many to count within 3 s\n".to_owned(),
        Some(counts) => {
            let states: Vec<String> =
                counts.by_state.iter().map(|(state, count)| format!("{count} {state}")).collect();
            let quarantined = match counts.quarantined {
                0 => String::new(),
                n => format!(", {}", paint.warn(&format!("{n} quarantined"))),
            };
            let states = if states.is_empty() { String::new() } else { format!(": {}", states.join(", ")) };
            format!("subscriptions   {}{states}{quarantined}\ndue now         {}\n", counts.total, counts.due)
        }
    };
    text += &format!("on their way    {}\n", status.on_their_way);
    if status.open.is_empty() {
        text += "open attempts   none\n";
    }
    for open in &status.open {
        let age = words::span_us(open.oldest_age_s.saturating_mul(1_000_000));
        let kind = if open.kind == "unknown" { paint.warn("UNKNOWN") } else { open.kind.to_owned() };
        text += &format!(
            "open attempts   {} {kind} over {}, the oldest since {} ({age})\n",
            open.count, open.amount, open.oldest
        );
    }
    let cases: Vec<String> =
        status.cases.iter().map(|case| format!("{} {}", case.count, case.kind)).collect();
    text +=
        &format!("cases           {}\n", if cases.is_empty() { "none".to_owned() } else { cases.join(", ") });
    if status.today.is_empty() {
        return text + "today           nothing was charged yet\n";
    }
    let mut table =
        Table::new(&["TODAY", ">ATTEMPTS", ">APPROVED", ">DECLINED", ">UNKNOWN", ">OTHER", ">COLLECTED"]);
    for day in &status.today {
        table.row(vec![
            day.carrier.clone(),
            day.attempts.to_string(),
            day.approved.to_string(),
            day.declined.to_string(),
            day.unknown.to_string(),
            day.other.to_string(),
            day.collected.to_string(),
        ]);
    }
    text + "\n" + &table.render(0, paint)
}

fn workers_text(status: &Status, paint: Paint) -> String {
    let mut text = String::new();
    if status.workers.is_empty() {
        text +=
            &format!("workers         {}\n", paint.bad("none: nothing is charged; `toll serve` starts one"));
    } else {
        let mut table =
            Table::new(&["WORKER", ">EPOCH", ">SHARDS", ">IN FLIGHT", ">P99", "ENDPOINT", "HOST", "STATE"]);
        for worker in &status.workers {
            let number = |n: Option<usize>| n.map_or_else(|| "?".to_owned(), |n| n.to_string());
            let held =
                worker.lanes_held.iter().map(|(carrier, breaker)| format!("; lane {carrier} {breaker}"));
            let state = match (worker.reachable, worker.ready) {
                (true, true) => format!("ready{}", held.collect::<String>()),
                (true, false) => {
                    format!("not ready: {}", worker.why_not.as_deref().map_or_else(String::new, one_line))
                }
                (false, _) => {
                    format!("UNREACHABLE: {}", worker.why_not.as_deref().map_or_else(String::new, one_line))
                }
            };
            table.row(vec![
                worker.slot.to_string(),
                worker.epoch.to_string(),
                worker.shards.to_string(),
                number(worker.in_flight),
                worker.p99_us.map_or_else(|| "?".to_owned(), |us| words::span_us(us.min(1 << 60) as i64)),
                worker.endpoint.clone(),
                worker.host.clone(),
                state,
            ]);
        }
        text += &format!("\n{}\n", table.render(0, paint));
    }
    let without = match status.shards_without_owner {
        0 => String::new(),
        n => format!(", {}", paint.bad(&format!("{} without a worker", count(n, "shard")))),
    };
    text + &format!("shards          {}{without}\n", status.shards)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_day_begins_at_local_midnight() {
        // 2026-12-01T23:30:00Z is 00:30 of the 2nd in Tunis.
        let tunis = Zone::named("Africa/Tunis").unwrap();
        let at = "2026-12-01T23:30:00Z".parse::<jiff::Timestamp>().unwrap().as_millisecond();
        let midnight = words::timestamp(midnight_ms(&tunis, at).unwrap());
        assert_eq!(midnight.to_string(), "2026-12-01T23:00:00Z");
    }

    #[test]
    fn results_are_summed_per_carrier() {
        let row = |class, count, amount_minor| DayRow {
            carrier: "medina".into(),
            currency: 788,
            class,
            reason: 1,
            count,
            amount_minor,
        };
        let days = today(&[row(5, 3, 4_500), row(6, 2, 0), row(3, 1, 0), row(8, 4, 0), row(5, 1, 500)]);
        assert_eq!(days.len(), 1);
        let day = &days[0];
        assert_eq!((day.attempts, day.approved, day.declined, day.unknown, day.other), (11, 4, 2, 1, 4));
        assert_eq!(day.collected.to_string(), "5.000 TND");
    }

    #[test]
    fn nobody_at_work_is_said_first() {
        let status = Status {
            business: Business { at: "2026-12-01T00:00:00Z".into(), scale: 1_440, machine_at: String::new() },
            workers: Vec::new(),
            shards: 8,
            shards_without_owner: 8,
            failovers: Vec::new(),
            subscriptions: None,
            on_their_way: 0,
            open: Vec::new(),
            cases: Vec::new(),
            today: Vec::new(),
        };
        let text = text(&status, Paint::never());
        assert!(text.contains("1440 times as fast") && text.contains("none: nothing is charged"), "{text}");
        assert!(
            text.contains("8, 8 shards without a worker") && text.contains("too many to count"),
            "{text}"
        );
    }
}
