//! Answers: metrics, health, and what a running engine knows.
//!
//! Read in this order: [`State`] (what is answered from), `routes.rs` (what is answered), [`serve()`] (over which
//! connections), [`client`] (who asks). [`serve_callbacks`] is a listener of its own: carriers reach it, and nothing else
//! is answered there. [`telemetry`] sets up metrics and logs of a process.
//!
//! **There is no authentication yet.** Who reaches the listener may read everything here and reset the latencies. So the
//! listener belongs on loopback ([`require_loopback`]), where browsers are turned away, and nothing answered here needs
//! a key: rows of the history stay sealed, telephone numbers never appear.

mod state;

mod callbacks;
mod problem;
mod routes;
mod serve;

pub mod client;
mod rows;
mod status;

pub mod telemetry;

pub use callbacks::{Receiving, serve_callbacks};
pub use routes::{BODY_BYTES_MAX, HISTORY_ANSWERS_MAX};
pub use rows::{HISTORY_BYTES_MAX, HISTORY_ROWS_MAX, HistoryAnswer};
pub use serve::{NotLoopback, ServeOptions, require_loopback, serve, serve_with};
pub use state::{Running, State};
pub use status::{LaneStatus, LatencyStatus, Status, WorkerStatus};
