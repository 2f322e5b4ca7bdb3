//! What the command line takes. `toll <noun> <verb>`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::bench::BenchCommand;
use crate::book::BookCommand;
use crate::chaos::ChaosArgs;
use crate::charge::ChargeCommand;
use crate::demo::DemoArgs;
use crate::doctor::DoctorArgs;
use crate::explain::ExplainArgs;
use crate::import::ImportArgs;
use crate::moving;
use crate::ops::OpsCommand;
use crate::preview::PreviewArgs;
use crate::query::QueryCommand;
use crate::serve::ServeArgs;
use crate::sim::SimArgs;
use crate::status::StatusArgs;
use crate::sub;
use crate::wish;

/// Carrier billing: charges mobile subscribers through their carriers, on time in their own time zone, never twice, and
/// can say why.
#[derive(Debug, Parser)]
#[command(name = "toll", version, arg_required_else_help = true, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options that every command takes.
#[derive(Debug, Clone, Args)]
pub(crate) struct Global {
    /// Where this machine's data lies: private Postgres, spools, secrets
    #[arg(long, global = true, env = "TOLLBOOK_DATA", value_name = "DIR", default_value = "data")]
    pub(crate) data: PathBuf,
    /// The book: carriers/, plans/, engine.toml
    #[arg(long, global = true, env = "TOLLBOOK_CONFIG", value_name = "DIR", default_value = "config")]
    pub(crate) config: PathBuf,
    /// Your own Postgres (postgres://…); without it a private one on a Unix socket is used
    #[arg(long, global = true, env = "TOLLBOOK_DATABASE", value_name = "URL", hide_env_values = true)]
    pub(crate) database: Option<String>,
    /// Print JSON instead of tables
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

/// The nouns.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run one worker process: claims shards, charges what is due, drains on SIGTERM
    Serve(ServeArgs),
    /// Show the main job on embedded defaults: simulated carriers, 20,000 subscribers, a day a minute
    Demo(DemoArgs),
    /// Measure: charges per second, CPU and bytes per charge, against Postgres' own ceiling
    #[command(subcommand)]
    Bench(BenchCommand),
    /// Rehearse: the engine in a simulated world where everything goes wrong, seed by seed
    Sim(SimArgs),
    /// Break things: real processes, killed, paused, cut off and lied to, then every book compared
    Chaos(ChaosArgs),
    /// Tell the whole story of a charge: what was due, what was sent, what came back, who decided what and why
    Explain(ExplainArgs),
    /// Charges
    #[command(subcommand)]
    Charge(ChargeCommand),
    /// Subscriptions
    #[command(subcommand)]
    Sub(SubCommand),
    /// The book: what is sold, when it is charged, how carriers are spoken to
    #[command(subcommand)]
    Book(BookCommand),
    /// Ask: the ledger's balances, the events that merchants are told
    #[command(subcommand)]
    Query(QueryCommand),
    /// Operate: close business days and months, settle what waits for people, see who did what
    #[command(subcommand)]
    Ops(OpsCommand),
    /// Show who works, what is due, what is open, what was charged today
    Status(StatusArgs),
    /// Check this machine, its book and its database, and say what to do
    Doctor(DoctorArgs),
}

/// What can be done with subscriptions.
#[derive(Debug, Subcommand)]
pub(crate) enum SubCommand {
    /// Import subscribers from a CSV file (columns msisdn, plan, reference; optional zone, start, consent_until)
    Import(ImportArgs),
    /// Show a subscription and its latest charges
    Show(sub::ShowArgs),
    /// Show the next charges of a subscription, or of a made-up one, if the carrier answered like this
    Preview(PreviewArgs),
    /// Stop a subscription for good; says first what that does
    Cancel(sub::CancelArgs),
    /// Rest an active subscription, until a date or until it is resumed
    Pause(wish::PauseArgs),
    /// Go on with a paused or suspended subscription
    Resume(wish::ResumeArgs),
    /// Tell that the subscriber topped up: what the plan says follows, once per notice
    TopUp(wish::TopUpArgs),
    /// Say until when the subscriber has agreed; holds at once, also while no worker runs
    Consent(wish::ConsentArgs),
    /// Move it to another zone, day, hour, plan or carrier; says first what that does
    Move(moving::MoveArgs),
}
