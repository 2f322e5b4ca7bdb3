//! Legs with spending caps in force: what a charge costs while the engine reserves and counts for every subscriber.

use std::path::Path;
use std::time::Duration;

use anyhow::ensure;
use jiff::civil::Date;

use super::book::BenchBook;
use super::program::{run_to_end, toll as toll_command};
use super::report::Pair;
use super::{Legs, one_pair, say};

/// Pairs that count; one more makes the subscribers' rows.
const PAIRS: i32 = 2;
/// Business days that the legs take.
pub(super) const DAYS: i32 = PAIRS + 1;
const APPLY_WITHIN: Duration = Duration::from_secs(60);

/// Applies a book with caps that nobody reaches, and charges everybody again; the ceiling stays the plain one.
pub(super) async fn measure(
    legs: Legs<'_>,
    dir: &Path,
    toll: &Path,
    today: &mut Date,
) -> anyhow::Result<Vec<Pair>> {
    legs.engine.stop().await?;
    BenchBook::add_caps(&dir.join("config"))?;
    let mut apply = toll_command(toll, dir, &legs.cluster.engine_url());
    apply.args(["book", "apply", "--yes"]);
    run_to_end(apply, "toll book apply", &dir.join("apply.log"), APPLY_WITHIN).await?;
    legs.engine.resume(legs.cluster).await?;
    let mut pairs = Vec::new();
    for number in 0..=PAIRS {
        let pair = one_pair(legs.engine, legs.ceiling, legs.cluster, *today).await?;
        *today = today.tomorrow()?;
        say(&if number == 0 {
            format!("warm-up with caps: {pair}")
        } else {
            format!("pair {number} with caps: {pair}")
        });
        if number > 0 {
            pairs.push(pair);
        }
    }
    let counted = legs.cluster.counted_usage().await?;
    ensure!(counted > 0, "no usage was counted: the caps were not in force");
    Ok(pairs)
}
