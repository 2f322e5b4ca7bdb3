//! Speaks: turns an attempt into a carrier's bytes and a carrier's bytes into an outcome.
//!
//! The walk of one attempt: [`adapter`] is the contract with the engine; `http` owns the connections and knows
//! whether a byte left; `dialect` writes the request and reads the answer by the rules of [`definition`], which is
//! one TOML file per carrier; [`callback`] reads what a carrier sends by itself, [`file`] its reconciliation
//! files. No carrier has Rust of its own.
//!
//! Absent on purpose: retries, rate limits, decisions. This crate says what happened, never what to do next, and
//! never guesses: what is not a complete answer out of the carrier's closed table is unknown.

pub mod adapter;
pub mod callback;
pub mod definition;
mod dialect;
pub mod file;
mod http;
pub mod msisdn;
pub mod secrets;
#[cfg(test)]
mod test_support;

pub use adapter::{
    Adapter, Alert, Attempt, Balance, BalanceCap, BalanceWhen, BoxFuture, Caps, Exchange, ExchangeKind,
    Finding, Inquired, LinkState, OutcomeSink, RefundCap, Reply, ReservationCap, SendGuard,
};
pub use callback::{Acknowledgement, Callback, CallbackError, read_callback, read_kept_callback};
pub use definition::{
    CallbackCap, CarrierDefinition, FileCap, InquiryCap, InquiryKey, Means, Proof, RepeatCap,
};
pub use dialect::template::{BuildError, TemplateError};
pub use file::{FILE_LINE_BYTES_MAX, FileFlaw, FileReader, FileRow, FileSummary};
pub use http::{HttpAdapter, SetupError, TargetError};
pub use msisdn::{Msisdn, MsisdnError, MsisdnRule};
pub use secrets::{FileSecrets, NoSecrets, SecretError, Secrets, StandInSecrets};
