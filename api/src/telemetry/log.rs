//! Logs: to stderr, for people or for machines.

use std::io::IsTerminal;

use tracing::Dispatch;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::{MakeWriter, SubscriberBuilder, format};
use tracing_subscriber::util::SubscriberInitExt;

use super::TelemetryError;

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For a person at a terminal: coloured there unless `NO_COLOR` is set.
    Human,
    /// One JSON object a line.
    Json,
}

/// Sends the process' logs to stderr. `filter` is what `RUST_LOG` would hold (`info`, `info,scheduler=debug`); where
/// it comes from is the caller's choice. Once per process.
///
/// # Errors
/// [`TelemetryError::Filter`] for a filter that cannot be read, [`TelemetryError::Log`] the second time.
pub fn init_tracing(format: LogFormat, filter: &str) -> Result<(), TelemetryError> {
    let coloured =
        std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty());
    log_to(format, filter, std::io::stderr, coloured)?
        .try_init()
        .map_err(|error| TelemetryError::Log(error.to_string()))
}

/// A place for logs that writes to `writer`, with colours if `coloured` (people's format only).
///
/// # Errors
/// [`TelemetryError::Filter`].
pub fn log_to<W>(
    format: LogFormat,
    filter: &str,
    writer: W,
    coloured: bool,
) -> Result<Dispatch, TelemetryError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let unusable = |why: String| TelemetryError::Filter { filter: filter.to_owned(), why };
    let filter = EnvFilter::try_new(filter).map_err(|error| unusable(error.to_string()))?;
    let builder: SubscriberBuilder<format::DefaultFields, format::Format, EnvFilter, W> =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    Ok(match format {
        LogFormat::Human => Dispatch::new(builder.with_ansi(coloured).finish()),
        LogFormat::Json => Dispatch::new(builder.json().flatten_event(true).finish()),
    })
}
