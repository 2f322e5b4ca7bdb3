//! The live lines: per zone, what was charged since the last line, from the engine's minute counts.

use std::path::PathBuf;
use std::time::Duration;

use billing_core::money::{Currency, Money};
use billing_core::states::{AttemptState, ChargeState};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use sqlx::postgres::PgConnection;
use storage::pg::{StoreError, connect, read_clock};
use tokio_util::sync::CancellationToken;

const NOTE_EVERY: Duration = Duration::from_secs(1);
/// The demo's calendar starts here.
pub(super) const FIRST_DAY: jiff::civil::Date = jiff::civil::date(2026, 12, 1);
/// A line per zone every so many seconds.
const LINES_EVERY: u32 = 5;

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Sums {
    attempts: i64,
    collected: i64,
    part: i64,
    refused: i64,
    unknown: i64,
    again: i64,
    minor: i64,
}

/// Prints until `stop`; notes the business clock every second.
pub(crate) async fn watch(url: String, clock_note: PathBuf, data: String, stop: CancellationToken) {
    let Ok(mut conn) = connect(&url, "tollbook demo").await else { return };
    // What an earlier run charged is not news.
    let mut before: std::collections::HashMap<_, _> =
        sums(&mut conn).await.unwrap_or_default().into_iter().collect();
    let mut seconds = 0;
    let mut hinted = false;
    while !stop.is_cancelled() {
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(NOTE_EVERY) => {}
        }
        seconds += 1;
        let Ok(clock) = read_clock(&mut conn).await else { continue };
        let business_ms = clock.business_ms(Timestamp::now().as_millisecond());
        let _ = std::fs::write(&clock_note, business_ms.to_string());
        if seconds % LINES_EVERY != 0 {
            continue;
        }
        let Ok(now) = Timestamp::from_millisecond(business_ms) else { continue };
        let Ok(zones) = sums(&mut conn).await else { continue };
        for ((zone, currency), total) in zones {
            let last = before.insert((zone.clone(), currency), total).unwrap_or_default();
            let since = minus(total, last);
            if since.attempts > 0 {
                println!("{}", line(&zone, currency, since, now));
            }
        }
        if !hinted {
            hinted = hint(&mut conn, &data).await;
        }
    }
}

fn line(zone: &str, currency: i16, since: Sums, now: Timestamp) -> String {
    let rules = billing_core::zone::Zone::named(zone);
    let (day, minute) =
        rules.map_or_else(|_| (now.to_zoned(TimeZone::UTC).date(), 0), |rules| rules.local(now));
    let number = day.since((jiff::Unit::Day, FIRST_DAY)).map_or(0, |span| span.get_days()) + 1;
    let money = Currency::from_numeric(currency)
        .map_or_else(|_| since.minor.to_string(), |currency| Money::new(since.minor, currency).to_string());
    format!(
        "day {number:>3}  {:02}:{:02} {zone:<16} attempts {:>6}  collected {:>6}  part {:>5}  refused {:>6}  again {:>4}  unknown {:>3}  {money:>16}",
        minute / 60,
        minute % 60,
        grouped(since.attempts),
        grouped(since.collected),
        grouped(since.part),
        grouped(since.refused),
        grouped(since.again),
        grouped(since.unknown),
    )
}

/// Tells how to explain a charge, once there is one worth explaining.
async fn hint(conn: &mut PgConnection, data: &str) -> bool {
    let found: Result<Option<(i64, i32, i16)>, _> = sqlx::query_as(
        "SELECT subscription_id, period, charge_state FROM attempt_outcome
          ORDER BY charge_state = 5 DESC, attempt_no DESC LIMIT 1",
    )
    .fetch_optional(conn)
    .await;
    let Ok(Some((id, period, state))) = found else { return false };
    let Ok(period) = billing_core::period::Period::from_number(period) else { return false };
    let charge = billing_core::ids::ChargeId { subscription: billing_core::ids::SubscriptionId(id), period };
    let what = if state == ChargeState::Reduced as i16 { "a part-paid charge" } else { "a charge" };
    println!(
        "        target/release/toll --data {data} explain {charge}      ({what})      Ctrl-C stops, data kept"
    );
    true
}

type ByZone = Vec<((String, i16), Sums)>;

async fn sums(conn: &mut PgConnection) -> Result<ByZone, StoreError> {
    let rows: Vec<(String, i16, i16, i16, i64, i64)> = sqlx::query_as(
        "SELECT z.name, c.currency, m.class, m.charge_state, sum(m.count)::int8, sum(m.amount_minor)::int8
           FROM charge_minute m JOIN zone z USING (zone_no) JOIN carrier c USING (carrier_no)
          GROUP BY 1, 2, 3, 4 ORDER BY 1",
    )
    .fetch_all(conn)
    .await?;
    let mut zones: ByZone = Vec::new();
    for (zone, currency, class, charge_state, count, minor) in rows {
        let key = (zone, currency);
        if zones.last().is_none_or(|(last, _)| *last != key) {
            zones.push((key, Sums::default()));
        }
        let Some((_, sums)) = zones.last_mut() else { continue };
        sums.attempts += count;
        sums.minor += minor;
        match class {
            c if c == AttemptState::Approved as i16 => {
                sums.collected += count;
                let in_full = charge_state == ChargeState::Settled as i16;
                sums.part += if in_full { 0 } else { count };
            }
            c if c == AttemptState::Declined as i16 => sums.refused += count,
            c if c == AttemptState::Unknown as i16 => sums.unknown += count,
            _ => sums.again += count,
        }
    }
    Ok(zones)
}

fn minus(a: Sums, b: Sums) -> Sums {
    Sums {
        attempts: a.attempts - b.attempts,
        collected: a.collected - b.collected,
        part: a.part - b.part,
        refused: a.refused - b.refused,
        unknown: a.unknown - b.unknown,
        again: a.again - b.again,
        minor: a.minor - b.minor,
    }
}

/// `1,234,567`.
pub(crate) fn grouped(number: i64) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if number < 0 { format!("-{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use super::grouped;

    #[test]
    fn thousands_are_grouped() {
        assert_eq!([0, 999, 1_000, -1_234_567].map(grouped), ["0", "999", "1,000", "-1,234,567"]);
    }
}
