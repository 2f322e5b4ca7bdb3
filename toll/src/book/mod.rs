//! `toll book`: the book from files to versions. Checked as a whole, planned against the version in force, applied in one
//! commit; every version is kept.

mod apply;
mod check;
mod plan;
mod stories;

use carriers::StandInSecrets;

use crate::book_files;
use crate::cli::Global;

/// What can be done with the book.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum BookCommand {
    /// Check every file of the book and its examples; secrets need not be at hand
    #[command(
        after_help = "Prints every problem as file:line:column: what; help, and exits with 1 when there is one.

Examples:
  toll book check
  toll --config /etc/tollbook book check
  toll book check --json | jq '.problems[] | .file'"
    )]
    Check,
    /// Run the stories of the book: what each plan is expected to do, line by line
    Test(stories::TestArgs),
    /// Show what applying the files would change, for how many subscriptions, and what it does to the money
    Plan(plan::PlanArgs),
    /// Put the files in force as the next version; shows the plan first
    Apply(apply::ApplyArgs),
    /// List the versions that were in force, the newest first
    History(apply::HistoryArgs),
    /// Put an earlier version in force again, as a new version
    Revert(apply::RevertArgs),
}

/// Runs a verb.
pub(crate) async fn run(global: &Global, command: BookCommand) -> anyhow::Result<()> {
    match command {
        BookCommand::Check => check::check(global),
        BookCommand::Test(args) => stories::test(global, &args),
        BookCommand::Plan(args) => plan::plan(global, &args).await,
        BookCommand::Apply(args) => apply::apply(global, &args).await,
        BookCommand::History(args) => apply::history(global, &args).await,
        BookCommand::Revert(args) => apply::revert(global, &args).await,
    }
}

/// The files on disk, checked; every problem is printed when there is one.
fn on_disk(global: &Global) -> anyhow::Result<book_files::LoadedBook> {
    book_files::load(&global.config, &StandInSecrets).map_err(|error| check::tell(global, error))
}
