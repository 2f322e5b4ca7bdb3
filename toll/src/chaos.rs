//! `toll chaos`: real engines, a real Postgres, mock carriers over real sockets, and everything that can go wrong with them.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use loadtest::chaos::{Report, Settings, run};

use crate::cli::Global;
use crate::exit;
use crate::out;

/// Past its time a run that still misses something goes on for so much longer at most.
const OVERTIME_MAX: u32 = 4;
/// A fault lasts so long.
const FAULT: Duration = Duration::from_secs(5);
/// Kills at crash points go on for so long, before each other fault.
const KILLS: Duration = Duration::from_secs(15);
/// Subscribers of a run that names no number of charges, and the most of any.
const SUBSCRIBERS_MIN: u64 = 12_000;
const SUBSCRIBERS_MAX: u64 = 1_000_000;
/// A run as short as this may still need so long.
const AT_LEAST: Duration = Duration::from_secs(600);

/// What `toll chaos` takes.
#[derive(Debug, Args)]
#[command(
    after_help = "Run it in the source tree: it uses the shipped book and the independent checker. A debug build has the \
crash points by name; a release build has them with --features fail-points, else kills are at random only.

Examples:
  toll chaos --for 180s --seed 4
  toll chaos --for 33m --charges 1000000 --kills 200 --kills-every 3 --everything"
)]
pub(crate) struct ChaosArgs {
    /// Faults for so long at least (such as 180s or 1h)
    #[arg(long = "for", value_name = "TIME", default_value = "180s", value_parser = crate::demo::parse_duration)]
    duration: Duration,
    /// And until the carriers applied so many charges
    #[arg(long, value_name = "N", default_value_t = 0)]
    charges: u64,
    /// And until so many engines were killed
    #[arg(long, value_name = "N", default_value_t = 0)]
    kills: u64,
    /// Kills at crash points come before each of so many other faults: hardly anything is charged meanwhile
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=100))]
    kills_every: u64,
    /// And until every kind of fault was there and every crash point was reached
    #[arg(long)]
    everything: bool,
    /// But no longer than this; without it four times --for, and ten minutes at least
    #[arg(long, value_name = "TIME", value_parser = crate::demo::parse_duration)]
    at_most: Option<Duration>,
    /// After the faults everything has to be settled within this
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = crate::demo::parse_duration)]
    settled_within: Duration,
    /// Only faults whose names contain this; may be repeated
    #[arg(long, value_name = "TEXT")]
    only: Vec<String>,
    /// Decides which faults come when
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Engines at a time
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u64).range(2..=8))]
    engines: u64,
    /// Subscribers; each is charged once a business day, which is a minute. Without it half as many again as --charges
    /// needs within --for, and 12,000 at least
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(100..=SUBSCRIBERS_MAX))]
    subscribers: Option<u64>,
    /// A new folder for everything that the run writes; without it a temporary one, removed when every promise held
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// The independent checker
    #[arg(long, value_name = "FILE", default_value = "tests/checker/check.py")]
    checker: PathBuf,
}

/// Runs it; a broken promise is a failure.
pub(crate) async fn chaos(global: &Global, args: ChaosArgs) -> anyhow::Result<()> {
    let global = global.clone();
    tokio::task::spawn_blocking(move || go(&global, args)).await?
}

fn go(global: &Global, args: ChaosArgs) -> anyhow::Result<()> {
    let toll = std::env::current_exe().context("cannot find this program")?;
    let mock = toll.with_file_name("mock-carrier");
    anyhow::ensure!(mock.exists(), "{} is missing: build it with cargo build -p loadtest", mock.display());
    let own = args.dir.is_none();
    let dir = args
        .dir
        .unwrap_or_else(|| std::env::temp_dir().join(format!("tollbook-chaos-{}", std::process::id())));
    let settings = Settings {
        dir: dir.clone(),
        toll,
        mock,
        config: global.config.clone(),
        checker: args.checker,
        engines: usize::try_from(args.engines)?,
        subscribers: args.subscribers.unwrap_or_else(|| subscribers_for(args.charges, args.duration)),
        duration: args.duration,
        charges: args.charges,
        kills: args.kills,
        every_fault: args.everything,
        every_point: args.everything,
        fault_for: FAULT,
        kills_for: KILLS,
        kills_every: args.kills_every,
        at_most: args.at_most.unwrap_or_else(|| (OVERTIME_MAX * args.duration).max(AT_LEAST)),
        settled_within: args.settled_within,
        only: args.only,
        seed: args.seed,
    };
    let report = run(&settings, &mut |line| {
        let _ = writeln!(std::io::stderr(), "{line}"); // who does not listen may go
    })
    .with_context(|| format!("the run broke down; what it wrote is in {}", dir.display()))?;
    match global.json {
        true => out::json(&report)?,
        false => out::print(&report.text())?,
    }
    verdict(&report, &settings, own)
}

/// So many that the charges fall due within the time although some are refused, some lost in review, and the engines dead
/// now and then: then what is due bounds a run, not the machine.
fn subscribers_for(charges: u64, duration: Duration) -> u64 {
    let minutes = (duration.as_secs() / 60).max(1);
    (charges / minutes).saturating_mul(3).div_euclid(2).clamp(SUBSCRIBERS_MIN, SUBSCRIBERS_MAX)
}

fn verdict(report: &Report, settings: &Settings, own: bool) -> anyhow::Result<()> {
    let dir = settings.dir.display();
    if !report.holds() {
        return Err(exit::missed(format!("promises were broken: everything is kept in {dir}")));
    }
    if report.kills < settings.kills || report.applied_by_carriers < settings.charges {
        return Err(exit::missed(format!(
            "every promise held, but there were {} charges and {} kills only; everything is kept in {dir}",
            report.applied_by_carriers, report.kills
        )));
    }
    if own {
        std::fs::remove_dir_all(&settings.dir).with_context(|| format!("cannot remove {dir}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_has_enough_subscribers_for_its_charges() {
        assert_eq!(subscribers_for(0, Duration::from_secs(180)), 12_000);
        assert_eq!(subscribers_for(1_000_000, Duration::from_secs(33 * 60)), 45_454);
        assert_eq!(subscribers_for(u64::MAX, Duration::ZERO), 1_000_000);
    }
}
