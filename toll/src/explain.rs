//! `toll explain`: the whole story of a charge, from what was kept. It only reads; nothing is decided again.

mod attempt;
mod gather;
mod render;
mod story;
mod why;

pub(crate) use gather::book_of;
pub(crate) use why::{next, state_name};

use crate::cli::Global;
use crate::out::{self, Paint};
use crate::reading::Reading;

/// What `toll explain` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  toll explain ch_0008000000003-20261201        the whole charge
  toll explain at_0008000000003-20261201-2      the same, from one of its attempts
  toll explain 3F0N…                            from our key on the wire, as a carrier's support quotes it
  toll explain --bytes ch_…                     requests and answers in hex, too
  toll explain --json ch_… | jq .attempts       for programs

It works for charges whose result is UNKNOWN, for those that were only skipped, and while no worker runs.")]
pub(crate) struct ExplainArgs {
    /// A charge (ch_…), an attempt (at_…) or our key on the wire
    charge: String,
    /// Show requests and answers in hex, too
    #[arg(long)]
    bytes: bool,
    /// Show the line's number in clear, where it is masked otherwise
    #[arg(long)]
    reveal: bool,
}

/// Explains one charge.
pub(crate) async fn explain(global: &Global, args: ExplainArgs) -> anyhow::Result<()> {
    let mut reading = Reading::open(global).await?;
    let explained = gather::explanation(&mut reading, &args.charge, args.bytes, args.reveal).await;
    reading.close().await;
    let explanation = explained?;
    if global.json {
        return out::json(&explanation);
    }
    out::print(&render::text(&explanation, Paint::of_stdout()))
}
