//! `toll query`: the ledger and the events.

mod events;
mod ledger;

use crate::cli::Global;

/// What can be asked.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum QueryCommand {
    /// Show the trial balance: every account, each currency summing to zero
    Ledger(ledger::LedgerArgs),
    /// Show the events that merchants are told, oldest first, as one JSON object a line; or take them for good
    Events(events::EventsArgs),
}

/// Runs a verb.
pub(crate) async fn run(global: &Global, command: &QueryCommand) -> anyhow::Result<()> {
    match command {
        QueryCommand::Ledger(args) => ledger::ledger(global, args).await,
        QueryCommand::Events(args) => events::events(global, args).await,
    }
}
