//! `toll sim`: runs the engine in a simulated world, seed by seed, and says whether every promise was kept.

use clap::Args;
use loadtest::sim::{Settings, Summary, run_seed, run_seeds};

use crate::cli::Global;
use crate::exit;
use crate::out;

/// What `toll sim` takes.
#[derive(Debug, Args)]
pub(crate) struct SimArgs {
    /// So many seeds, one run each
    #[arg(long, value_name = "N", default_value_t = 100)]
    seeds: u64,
    /// The first of them
    #[arg(long, value_name = "SEED", default_value_t = 1)]
    first: u64,
    /// Only this one, with the end of its event log
    #[arg(long, value_name = "SEED", conflicts_with_all = ["seeds", "first"])]
    seed: Option<u64>,
    /// So many lines of its event log, the last ones
    #[arg(long, value_name = "N", default_value_t = 200, requires = "seed")]
    lines: usize,
    /// Seeds at a time
    #[arg(long = "jobs", value_name = "N", default_value_t = 1)]
    at_a_time: usize,
    /// Business days on which things go wrong, per run
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=60))]
    days: u64,
    /// Leave a protection out, to see that it is noticed
    #[cfg(feature = "mutants")]
    #[arg(long, value_name = "NAME", requires = "seed")]
    mutant: Option<String>,
}

/// Runs it; a broken promise is a failure.
pub(crate) async fn sim(global: &Global, args: SimArgs) -> anyhow::Result<()> {
    let json = global.json;
    tokio::task::spawn_blocking(move || run(&args, json)).await?
}

fn run(args: &SimArgs, json: bool) -> anyhow::Result<()> {
    if let Some(seed) = args.seed {
        return one(args, seed, json);
    }
    let settings = Settings { days: args.days, lines: 0 };
    let summary = run_seeds(args.first, args.seeds, args.at_a_time, &settings)?;
    match json {
        true => out::json(&summary)?,
        false => out::print(&text_of(&summary))?,
    }
    verdict(summary.failed.len())
}

fn one(args: &SimArgs, seed: u64, json: bool) -> anyhow::Result<()> {
    #[cfg(feature = "mutants")]
    leave_out(args.mutant.as_deref())?;
    let outcome = run_seed(seed, &Settings { days: args.days, lines: args.lines })?;
    if json {
        out::json(&outcome)?;
    } else {
        let broken: Vec<&str> = outcome.broken().collect();
        let text = format!(
            "{}\n\nSEED={seed} digest={:016x} charges={} faults={}\n{}\n",
            outcome.lines.join("\n"),
            outcome.digest,
            outcome.charges,
            outcome.faults,
            if broken.is_empty() { "every promise was kept".to_owned() } else { broken.join("\n") }
        );
        out::print(&text)?;
    }
    verdict(usize::from(!outcome.holds()))
}

#[cfg(feature = "mutants")]
fn leave_out(name: Option<&str>) -> anyhow::Result<()> {
    use storage::mutants::{Mutant, leave_out};
    let Some(name) = name else { return Ok(()) };
    let found = Mutant::ALL.iter().copied().find(|mutant| mutant.name() == name);
    let known = || Mutant::ALL.iter().map(|mutant| mutant.name()).collect::<Vec<_>>().join(", ");
    let found = found.ok_or_else(|| anyhow::anyhow!("there is no mutant {name}: {}", known()))?;
    leave_out(Some(found));
    Ok(())
}

fn text_of(summary: &Summary) -> String {
    let mut text = format!(
        "seeds      {}\ncharges    {}\nattempts   {}\nfaults     {}\ndoubles    {}\nlost       {}\nforgotten  {}\nphantoms   {}\n\
         other      {}\nseeds/s    {:.2}\ncharges    {:.0} an hour of one core\n",
        summary.seeds,
        summary.charges,
        summary.attempts,
        summary.faults,
        summary.doubles,
        summary.lost,
        summary.forgotten,
        summary.phantoms,
        summary.other,
        summary.seeds_per_s,
        summary.charges_per_core_hour,
    );
    for (kind, count) in &summary.faults_by_kind {
        text.push_str(&format!("  {count:>9}  {kind}\n"));
    }
    for (seed, broken) in &summary.failed {
        text.push_str(&format!("\nSEED={seed}\n  {}\n", broken.join("\n  ")));
    }
    text
}

fn verdict(failed: usize) -> anyhow::Result<()> {
    match failed {
        0 => Ok(()),
        failed => Err(exit::missed(format!("promises were broken in {failed} seeds: see `toll sim --seed`"))),
    }
}
