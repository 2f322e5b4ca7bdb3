//! Metrics and logs of a process. Neither ever holds a telephone number: numbers are masked where they are made
//! printable, and labels come from closed lists.

mod log;
mod metrics;

use thiserror::Error;

pub use self::log::{LogFormat, init_tracing, log_to};
pub use self::metrics::{describe_metrics, install_metrics};
pub use metrics_exporter_prometheus::PrometheusHandle;

/// Why metrics or logs could not be set up.
#[derive(Debug, Error)]
pub enum TelemetryError {
    /// Another recorder of metrics is in place.
    #[error("metrics cannot be installed: {0}")]
    Metrics(#[from] metrics_exporter_prometheus::BuildError),
    /// Upkeep needs a runtime.
    #[error("metrics must be installed inside a tokio runtime")]
    NoRuntime,
    /// The filter cannot be read.
    #[error("log filter {filter:?} is not usable: {why}")]
    Filter {
        /// What was given.
        filter: String,
        /// Why not.
        why: String,
    },
    /// Logs go elsewhere already.
    #[error("logs cannot be set up: {0}")]
    Log(String),
}
