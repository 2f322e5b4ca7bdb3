//! The binary: arguments, settings, telemetry, wiring. Nothing else.

mod assemble;
mod book_files;
mod cli;
mod database;
mod home;
mod import;
mod serve;

use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Command, SubCommand};

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
            eprintln!("toll: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> anyhow::Result<()> {
    let global = cli.global;
    match cli.command {
        Command::Serve(args) => {
            api::telemetry::init_tracing(api::telemetry::LogFormat::from_env())?;
            serve::serve(&global, args).await
        }
        Command::Sub(SubCommand::Import(args)) => import::import(&global, args).await,
    }
}
