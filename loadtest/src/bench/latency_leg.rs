//! The latency's leg: from due to durable, at half the rate.

use std::fmt;

use anyhow::{Context, ensure};
use jiff::SignedDuration;
use jiff::civil::Date;
use serde::Serialize;

use super::BenchArgs;
use super::book::{SLICES, at_minute};
use super::database::Cluster;
use super::engine_leg::Engine;

/// How long charges keep falling due, at most.
const SPAN_S: f64 = 15.0;
const NOON_MINUTE: u16 = 720;
/// The clock jumps to so much before the first of them.
const RUN_UP_MS: i64 = 2_000;

/// What the latency's leg found.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct LatencyLeg {
    /// Charges, evenly spread.
    pub charges: u64,
    /// How many fell due each second.
    pub charges_per_s: f64,
    /// From due to durable: half were faster, milliseconds.
    pub p50_ms: f64,
    /// 99 of 100 were faster, milliseconds.
    pub p99_ms: f64,
    /// The slowest, milliseconds.
    pub max_ms: f64,
}

impl fmt::Display for LatencyLeg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { charges, charges_per_s, p50_ms, p99_ms, max_ms } = self;
        write!(
            f,
            "{charges} charges at {charges_per_s:.0}/s, due to durable p50 {p50_ms:.1} ms, p99 {p99_ms:.1} ms, max {max_ms:.1} ms"
        )
    }
}

/// How many fall due, and over how long.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Offer {
    charges: u64,
    span_ms: i64,
}

impl Offer {
    /// Half the rate for up to [`SPAN_S`]; a small population is over sooner.
    fn at_half(rate: f64, population: u64) -> Self {
        let half = (rate / 2.0).max(1.0);
        let charges = ((half * SPAN_S) as u64).clamp(1, population.max(1));
        Self { charges, span_ms: (charges as f64 / half * 1_000.0).ceil() as i64 }
    }
}

/// Spreads charges of `today` from noon on, at half of `rate` (charges a second), and reads what the engine measures.
pub(super) async fn measure(
    engine: &mut Engine,
    cluster: &mut Cluster,
    args: &BenchArgs,
    rate: f64,
    today: Date,
) -> anyhow::Result<LatencyLeg> {
    engine.stop().await?;
    let offer = Offer::at_half(rate, args.charges);
    let noon = at_minute(today, NOON_MINUTE)?;
    let spread = spread(cluster, noon.as_millisecond(), offer).await?;
    cluster.checkpoint().await?;
    // Eleven: the wheel reaches two hours ahead.
    cluster.set_clock(noon - SignedDuration::from_hours(1)).await?;
    engine.resume(cluster).await?;
    engine.until_wheel(spread).await?;
    let recorded = engine.recorded().await?;
    engine.reset_latency().await?;
    cluster.set_clock(noon - SignedDuration::from_millis(RUN_UP_MS)).await?;
    engine.until_recorded(recorded + spread).await?;
    let latency = engine.status().await?.due_to_durable.context("the engine tells no latency")?;
    ensure!(latency.count == spread, "{} latencies were measured, {spread} were expected", latency.count);
    let ms = |us: u64| us as f64 / 1_000.0;
    Ok(LatencyLeg {
        charges: spread,
        charges_per_s: spread as f64 * 1_000.0 / offer.span_ms as f64,
        p50_ms: ms(latency.p50_us),
        p99_ms: ms(latency.p99_us),
        max_ms: ms(latency.max_us),
    })
}

/// Moves due instants: blocks of 64 neighbours one after the other, the shards taking turns; the rest a day later. Gives
/// how many are due. The engine must not run.
async fn spread(cluster: &mut Cluster, first_ms: i64, offer: Offer) -> anyhow::Result<u64> {
    let slices = i64::try_from(SLICES)?;
    let wanted = i64::try_from(offer.charges)?;
    let mut due = 0_i64;
    let shards: Vec<i32> = sqlx::query_scalar("SELECT shard FROM shard_owner ORDER BY shard")
        .fetch_all(cluster.engine_conn())
        .await?;
    for (turn, shard) in (0_i64..).zip(shards) {
        // Sequence numbers begin at 1.
        let moved: i64 = sqlx::query_scalar(
            "WITH ranked AS (
                 SELECT id, ((((id & 4294967295) - 1) >> 6) * $2 + $3) * 64 + (((id & 4294967295) - 1) & 63) AS rank
                   FROM subscription WHERE id BETWEEN $1::bigint << 32 AND ($1::bigint << 32) + 4294967295),
             moved AS (
                 UPDATE subscription s
                    SET next_at_ms = CASE WHEN r.rank < $4 THEN $5 + r.rank * $6 / $4 ELSE s.next_at_ms + 86400000 END
                   FROM ranked r WHERE s.id = r.id RETURNING r.rank)
             SELECT count(*) FROM moved WHERE rank < $4",
        )
        .bind(shard)
        .bind(slices)
        .bind(turn)
        .bind(wanted)
        .bind(first_ms)
        .bind(offer.span_ms)
        .fetch_one(cluster.engine_conn())
        .await?;
        due += moved;
    }
    ensure!(due > 0, "no charge falls due");
    Ok(u64::try_from(due)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_offer_is_half_the_rate_for_as_long_as_the_population_lasts() {
        assert_eq!(Offer::at_half(2_000.0, 100_000), Offer { charges: 15_000, span_ms: 15_000 });
        assert_eq!(Offer::at_half(40_000.0, 100_000), Offer { charges: 100_000, span_ms: 5_000 });
        assert_eq!(Offer::at_half(0.0, 0), Offer { charges: 1, span_ms: 1_000 });
    }
}
