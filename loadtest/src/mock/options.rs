//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Parser, ValueEnum};

use super::dialects::Dialect;

/// What the command line says.
#[derive(Debug, Clone, Parser)]
#[command(
    name = "mock-carrier",
    about = "Plays one carrier over HTTP and keeps its own ledger of what was really charged."
)]
pub struct Options {
    /// Address to listen on; port 0 takes a free one (the ready line names it).
    #[arg(long, default_value = "127.0.0.1:0")]
    pub listen: SocketAddr,
    /// Which wire format to speak.
    #[arg(long, value_enum)]
    pub dialect: Dialect,
    /// The one ISO 4217 currency this carrier charges in.
    #[arg(long)]
    pub currency: String,
    /// Ledger file, one JSON line per request; continued when it exists, locked while the process lives.
    #[arg(long)]
    pub ledger: PathBuf,
    /// Decides every line's balance and every key's fate; the same seed gives the same carrier.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// What a repeat of a decided key with the same money fields gets.
    #[arg(long, value_enum, default_value_t = Repeat::Replay)]
    pub repeat: Repeat,
    /// Delay before an answer in milliseconds; overrides the behaviour file.
    #[arg(long)]
    pub latency_ms: Option<u64>,
    /// Extra delay of 0 to this many milliseconds, fixed per key; overrides the behaviour file.
    #[arg(long)]
    pub latency_jitter_ms: Option<u64>,
    /// Behaviour at start (JSON); without it everybody is rich and nothing fails.
    #[arg(long)]
    pub behaviour: Option<PathBuf>,
    /// The value `x-api-key` must have (dialect `priced` only); without it any non-empty value will do.
    #[arg(long)]
    pub api_key: Option<String>,
    /// Where messages about accepted charges go, `http://host:port/path`; without it none are sent.
    #[arg(long)]
    pub callback_url: Option<String>,
    /// Signs them.
    #[arg(long, default_value = "callback-secret")]
    pub callback_secret: String,
    /// Stop when stdin ends, so that the mock never outlives the process that started it.
    #[arg(long)]
    pub stdin_guard: bool,
}

/// What the carrier does with a key that it has decided before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Repeat {
    /// Gives the first answer again.
    Replay,
    /// Says that the key is taken, and nothing about the outcome.
    Duplicate,
}
