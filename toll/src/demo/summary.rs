//! The end of a demo: our ledger beside the carriers' own, row by row.

use billing_core::money::{Currency, Money};
use loadtest::compare::{Comparison, compare};

use super::carriers::Simulators;
use super::live::grouped;
use crate::cli::Global;
use crate::database::Database;

/// Prints the comparison; fails when the books differ. With `--json` the last line is one object.
pub(crate) async fn summarize(
    global: &Global,
    database: &Database,
    simulators: &Simulators,
) -> anyhow::Result<()> {
    let mut conn = database.conn().await?;
    let charges: i64 = sqlx::query_scalar("SELECT count(*) FROM attempt_outcome WHERE class = 5")
        .fetch_one(&mut conn)
        .await?;
    let unknown: i64 =
        sqlx::query_scalar("SELECT count(*) FROM attempt_open WHERE kind = 2").fetch_one(&mut conn).await?;
    let reviewed: i64 =
        sqlx::query_scalar("SELECT count(*) FROM attempt_open WHERE kind = 3").fetch_one(&mut conn).await?;
    let resolved: i64 = sqlx::query_scalar(
        "SELECT count(DISTINCT (a.subscription_id, a.period, a.attempt_no)) FROM attempt_ask a
           JOIN attempt_outcome o USING (subscription_id, period, attempt_no)",
    )
    .fetch_one(&mut conn)
    .await?;
    let comparison = compare(&mut conn, &simulators.ledgers()).await?;
    println!("• stopped; data is kept in {}", global.data.display());
    println!(
        "✓ {} collections in our ledger, {} rows applied in the carriers' own; {} attempts UNKNOWN, each listed",
        grouped(charges),
        grouped(i64::try_from(comparison.applied_by_carrier).unwrap_or(0)),
        grouped(unknown),
    );
    if resolved + reviewed > 0 {
        println!(
            "✓ {} UNKNOWN settled by asking their carriers, {} given to people",
            grouped(resolved),
            grouped(reviewed),
        );
    }
    let mut collected = serde_json::Map::new();
    for (code, sums) in &comparison.collected {
        let text = |minor: i64| {
            Currency::from_code(code)
                .map_or_else(|_| minor.to_string(), |c| Money::new(minor, c).to_decimal().to_string())
        };
        println!("  {code}  ours {:>16}   theirs {:>16}", text(sums.ours_minor), text(sums.theirs_minor));
        collected.insert(code.clone(), text(sums.ours_minor).into());
    }
    print_differences(&comparison);
    if global.json {
        let object = serde_json::json!({
            "charges": charges,
            "collected": collected,
            "unknown": unknown,
            "in_review": reviewed,
            "resolved": resolved,
            "differences": comparison.differences_total,
        });
        println!("{object}");
    }
    anyhow::ensure!(
        comparison.agrees(),
        "our ledger and the carriers' own differ in {} rows",
        comparison.differences_total
    );
    Ok(())
}

fn print_differences(comparison: &Comparison) {
    if comparison.differences.is_empty() {
        println!("✓ no row differs");
    }
    for difference in &comparison.differences {
        println!("✗ {difference}");
    }
    for what in &comparison.not_compared {
        println!("• not compared: {what}");
    }
}
