//! A carrier to rehearse against: one process that plays one carrier over HTTP and keeps books of its own.
//!
//! The books are the point. The engine says what it believes was charged, the mock's ledger says what *was* charged, and a
//! checker compares the two; so nothing here shares code with the engine, not even the way an amount is read.
//!
//! The walk of one request: `server` reads the bytes, `dialects` turns them into an [`Asked`](dialects::Asked), `books`
//! decides and writes the ledger line, `dialects` writes the answer, `server` delivers it, or fails to on purpose (`faults`).
//!
//! On purpose absent: subscribers in a file (each line's balance and state follow from the seed), timers for top-ups
//! (computed when the line is next asked about), TLS. An expired reservation is noticed when somebody confirms or cancels it.

mod balances;
mod behaviour;
mod books;
mod callbacks;
mod control;
mod dialects;
mod draw;
mod faults;
mod further;
mod json;
mod ledger;
mod money;
mod options;
mod reconciliation;
mod server;
mod shards;
mod socket;

pub use behaviour::{BalanceClass, BalanceRules, Behaviour, BehaviourError};
pub use dialects::Dialect;
pub use faults::GarbageKind;
pub use options::{Options, Repeat};

use std::path::PathBuf;

/// Plays the carrier until SIGTERM, SIGINT or (with `--stdin-guard`) the end of stdin; the ledger is then fsynced.
///
/// Prints one JSON line on stdout when it is ready: `{"listening":"127.0.0.1:41234","pid":123,"dialect":"camara"}`.
///
/// # Errors
/// When the options contradict each other, the ledger or the behaviour file cannot be read, or the address is taken.
pub fn run(options: Options) -> Result<(), MockError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())
        .map_err(MockError::Runtime)?;
    runtime.block_on(server::serve(options))
}

/// Why a mock carrier could not start or could not close its books.
#[derive(Debug, thiserror::Error)]
pub enum MockError {
    /// The async runtime or a signal handler could not be set up.
    #[error("cannot start the runtime: {0}")]
    Runtime(std::io::Error),
    /// The address to listen on is taken or not ours.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address asked for.
        address: std::net::SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// `--callback-url` is not an address that messages can be sent to.
    #[error("callback url {0} is not http://host:port/path")]
    CallbackUrl(String),
    /// `--currency` is not an ISO 4217 code that has minor units.
    #[error("currency {0} is not an iso 4217 code with minor units")]
    Currency(String),
    /// The behaviour file cannot be read.
    #[error("cannot read the behaviour file {path}: {source}")]
    BehaviourFile {
        /// The file named by `--behaviour`.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The behaviour is not acceptable.
    #[error("{0}")]
    Behaviour(#[from] BehaviourError),
    /// The ledger cannot be opened, restored or synced.
    #[error("{0}")]
    Ledger(#[from] ledger::LedgerError),
}
