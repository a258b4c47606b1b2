//! The log: text for people, JSON for machines, on standard error.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::FmtSpan;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use super::flood::Flood;

/// How lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// A line that a person reads.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Starts the log; a second call changes nothing.
///
/// `level` is `error`, `warn`, `info`, `debug` or `trace`, or a filter like `info,weir_queue=debug`; the variable
/// `WEIR_LOG` wins over it.
pub fn start(level: &str, format: Format) {
    let wanted = std::env::var("WEIR_LOG").unwrap_or_else(|_| level.to_owned());
    let filter = EnvFilter::try_new(&wanted).unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // It would be told on the standard error that has just failed, with a panic where that fails again.
        .log_internal_errors(false)
        .with_ansi(std::io::stderr().is_terminal())
        .with_span_events(FmtSpan::NONE)
        .with_target(false);
    // An error here means that a log is running already, which is what was wanted.
    let started = match format {
        Format::Text => builder.finish().with(Flood::default()).try_init(),
        Format::Json => builder.json().flatten_event(true).finish().with(Flood::default()).try_init(),
    };
    if started.is_err() {
        tracing::debug!("the log runs already");
    }
}
