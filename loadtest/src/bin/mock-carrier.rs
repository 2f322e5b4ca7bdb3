//! One mock carrier as a process of its own: `mock-carrier --dialect flat --ledger flat.ndjson`.

use clap::Parser;
use loadtest::mock::{self, Options};

fn main() -> std::process::ExitCode {
    match mock::run(Options::parse()) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mock-carrier: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}
