//! The log: text for people, JSON for machines, on standard error.

use std::io::IsTerminal as _;
use std::sync::OnceLock;

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

/// The variable that wins over what the configuration says.
const VARIABLE: &str = "WEIR_LOG";

/// Changes the filter of the log that runs.
type SetFilter = Box<dyn Fn(EnvFilter) + Send + Sync>;

/// Of the log that runs, if one does.
static SET_FILTER: OnceLock<SetFilter> = OnceLock::new();

/// Starts the log; a second call changes nothing.
///
/// `level` is `error`, `warn`, `info`, `debug` or `trace`, or a filter like `info,weir_queue=debug`; the variable
/// `WEIR_LOG` wins over it.
pub fn start(level: &str, format: Format) {
    let wanted = std::env::var(VARIABLE).unwrap_or_else(|_| level.to_owned());
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter(&wanted))
        .with_writer(std::io::stderr)
        // It would be told on the standard error that has just failed, with a panic where that fails again.
        .log_internal_errors(false)
        .with_ansi(std::io::stderr().is_terminal())
        .with_span_events(FmtSpan::NONE)
        .with_target(false);
    // An error here means that a log is running already, which is what was wanted.
    let (started, set_filter): (_, SetFilter) = match format {
        Format::Text => {
            let builder = builder.with_filter_reloading();
            let handle = builder.reload_handle();
            (
                builder.finish().with(Flood::default()).try_init(),
                Box::new(move |new| drop(handle.reload(new))),
            )
        }
        Format::Json => {
            let builder = builder.json().flatten_event(true).with_filter_reloading();
            let handle = builder.reload_handle();
            (
                builder.finish().with(Flood::default()).try_init(),
                Box::new(move |new| drop(handle.reload(new))),
            )
        }
    };
    if started.is_err() || SET_FILTER.set(set_filter).is_err() {
        tracing::debug!("the log runs already");
    }
}

/// From now on lines of this level are written; where `WEIR_LOG` is set, it still wins.
pub fn set_level(level: &str) {
    if std::env::var_os(VARIABLE).is_some() {
        tracing::info!(level, "the log's level is not changed: the variable {VARIABLE} says it");
    } else if let Some(set_filter) = SET_FILTER.get() {
        set_filter(filter(level));
    }
}

fn filter(wanted: &str) -> EnvFilter {
    EnvFilter::try_new(wanted).unwrap_or_else(|_| EnvFilter::new("info"))
}
