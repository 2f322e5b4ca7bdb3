//! The binary: arguments, settings, telemetry, wiring. Nothing else.

mod assemble;
mod bench;
mod book;
mod book_files;
mod book_store;
mod chaos;
mod charge;
mod cli;
mod database;
mod demo;
mod doctor;
mod exit;
mod explain;
mod held;
mod home;
mod import;
mod kept;
mod moving;
mod ops;
mod out;
mod preview;
mod query;
mod reading;
mod refund;
mod reversal;
mod serve;
mod shown;
mod sim;
mod status;
mod sub;
mod waits;
mod who;
mod wish;
mod words;

use std::process::ExitCode;

use clap::Parser;

use api::telemetry::{LogFormat, init_tracing};
use cli::{Cli, Command, SubCommand};

/// A charge makes some forty small allocations that travel between threads. Measured against the system's allocator: an
/// eighth less CPU per charge, memory per million subscriptions about the same (docs/measurements.md).
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        eprintln!("toll: another cryptography provider is installed already");
        return ExitCode::FAILURE;
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("toll: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(cli)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("toll: {}", exit::text_of(&error));
            ExitCode::from(exit::code_of(&error))
        }
    }
}

/// Logs of a process that serves: JSON when `TOLLBOOK_LOG=json`, what `RUST_LOG` says.
fn init_logs() -> anyhow::Result<()> {
    init_logs_at("info,fjall=warn,lsm_tree=warn")
}

fn init_logs_at(default: &str) -> anyhow::Result<()> {
    let json = std::env::var("TOLLBOOK_LOG").is_ok_and(|format| format == "json");
    let format = if json { LogFormat::Json } else { LogFormat::Human };
    let filter = std::env::var("RUST_LOG").unwrap_or_else(|_| default.to_owned());
    init_tracing(format, &filter)?;
    Ok(())
}

async fn run(cli: Cli) -> anyhow::Result<()> {
    let global = cli.global;
    match cli.command {
        Command::Serve(args) => {
            init_logs()?;
            serve::serve(&global, args).await
        }
        Command::Demo(args) => {
            init_logs_at("warn")?;
            demo::demo(&global, args).await
        }
        Command::Bench(command) => bench::run(&global, command).await,
        Command::Sim(args) => sim::sim(&global, args).await,
        Command::Chaos(args) => chaos::chaos(&global, args).await,
        Command::Explain(args) => explain::explain(&global, args).await,
        Command::Charge(command) => charge::run(&global, command).await,
        Command::Sub(SubCommand::Import(args)) => import::import(&global, args).await,
        Command::Sub(SubCommand::Show(args)) => sub::show(&global, args).await,
        Command::Sub(SubCommand::Cancel(args)) => sub::cancel(&global, args).await,
        Command::Sub(SubCommand::Preview(args)) => preview::run(&global, args).await,
        Command::Sub(SubCommand::Pause(args)) => wish::pause(&global, args).await,
        Command::Sub(SubCommand::Resume(args)) => wish::resume(&global, args).await,
        Command::Sub(SubCommand::TopUp(args)) => wish::top_up(&global, args).await,
        Command::Sub(SubCommand::Consent(args)) => wish::consent(&global, args).await,
        Command::Sub(SubCommand::Move(args)) => moving::run(&global, args).await,
        Command::Book(command) => book::run(&global, command).await,
        Command::Query(command) => query::run(&global, &command).await,
        Command::Ops(command) => ops::run(&global, &command).await,
        Command::Status(args) => status::status(&global, args).await,
        Command::Doctor(args) => doctor::doctor(&global, args).await,
    }
}
