//! The mock carrier as a process: what it says, what it writes down, and how it fails.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, unreachable_pub, missing_docs)]

mod dialects;
mod exchanges;
mod faults;
mod hostile;
mod lifetime;
mod support;
