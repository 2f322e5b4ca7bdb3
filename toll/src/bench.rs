//! `toll bench`: how fast, measured against Postgres' own ceiling in the same run.

use clap::Subcommand;
use loadtest::bench::{BacklogArgs, BenchArgs, run as run_bench, run_backlog};

use crate::cli::Global;
use crate::exit;

/// What can be measured.
#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Charge a population at full speed and compare with a bare driver of the same two SQL functions, interleaved
    Run(Box<BenchArgs>),
    /// Drain what fell due in an outage of six business hours, and check order, rate, resolution and policies
    Backlog(Box<BacklogArgs>),
}

/// Runs it; with --gate a missed floor or a broken promise is exit code 4.
pub(crate) async fn run(global: &Global, command: BenchCommand) -> anyhow::Result<()> {
    let toll = std::env::current_exe()?;
    let mock = toll.with_file_name("mock-carrier");
    let (missed, what) = match command {
        BenchCommand::Run(args) => {
            let gate = args.gate;
            let report = run_bench(*args, toll, mock).await?;
            print(global, &report)?;
            (gate.then(|| report.floors_missed()), "below the floor")
        }
        BenchCommand::Backlog(args) => {
            let gate = args.gate;
            let report = run_backlog(*args, toll, mock).await?;
            print(global, &report)?;
            (gate.then(|| report.broken()), "not kept")
        }
    };
    match missed.unwrap_or_default().as_slice() {
        [] => Ok(()),
        missed => Err(exit::missed(format!("{what}: {}", missed.join(", ")))),
    }
}

fn print(global: &Global, report: &(impl serde::Serialize + std::fmt::Display)) -> anyhow::Result<()> {
    if global.json {
        println!("{}", serde_json::to_string(report)?);
    } else {
        println!("{report}");
    }
    Ok(())
}
