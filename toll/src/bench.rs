//! `toll bench`: how fast, measured against Postgres' own ceiling in the same run.

use clap::Subcommand;
use loadtest::bench::{BenchArgs, run as run_bench};

use crate::cli::Global;
use crate::exit;

/// What can be measured.
#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Charge a population at full speed and compare with a bare driver of the same two SQL functions, interleaved
    Run(Box<BenchArgs>),
}

/// Runs it; with --gate a missed floor is exit code 4.
pub(crate) async fn run(global: &Global, command: BenchCommand) -> anyhow::Result<()> {
    let BenchCommand::Run(args) = command;
    let gate = args.gate;
    let toll = std::env::current_exe()?;
    let mock = toll.with_file_name("mock-carrier");
    let report = run_bench(*args, toll, mock).await?;
    if global.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        println!("{report}");
    }
    let missed = report.floors_missed();
    if gate && !missed.is_empty() {
        return Err(exit::missed(format!("below the floor: {}", missed.join(", "))));
    }
    Ok(())
}
