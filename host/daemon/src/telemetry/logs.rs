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
/// `level` is `error`, `warn`, `info`, `debug` or `trace`, of our own lines, or a filter like `info,weir_queue=debug`; the variable
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

/// Libraries that tell at `debug` what went through them: the output of guests, which may hold secrets and knows no rate, and every
/// frame. A name stands for all that begin with it (`wasmtime_wasi_io`, `hyper_util`).
const TALKATIVE: [&str; 3] = ["wasmtime_wasi", "hyper", "h2"];

/// A level is meant for our own lines; whoever writes a filter gets what it says.
fn filter(wanted: &str) -> EnvFilter {
    let mut wanted = wanted.trim().to_owned();
    if ["debug", "trace"].iter().any(|level| wanted.eq_ignore_ascii_case(level)) {
        TALKATIVE.iter().for_each(|library| wanted.push_str(&format!(",{library}=info")));
    }
    EnvFilter::try_new(wanted).unwrap_or_else(|_| EnvFilter::new("info"))
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn lines(level: &str) -> String {
        let written = Written::default();
        let writer = written.clone();
        let log =
            tracing_subscriber::fmt().with_env_filter(filter(level)).with_writer(move || writer.clone());
        tracing::subscriber::with_default(log.finish(), || {
            tracing::debug!(target: "wasmtime_wasi::p2::write_stream", "worker writing: hunter2");
            tracing::debug!(target: "wasmtime_wasi_io::bindings", "call hunter2");
            tracing::debug!(target: "h2::codec::framed_read", "received hunter2");
            tracing::info!(target: "hyper_util::client", "of a library");
            tracing::debug!(target: "weir_queue::book", "of ours");
        });
        let written = written.0.lock().unwrap();
        String::from_utf8_lossy(&written).into_owned()
    }

    /// Scenario: the log at `debug` and `trace` while a guest writes to its output, then with filters that ask for more, and at `error`.
    /// Guarantees: a level shows no guest's output, but our lines; a filter shows what it says; no level shows more than it says.
    #[test]
    fn a_level_shows_no_output_of_guests() {
        for level in ["debug", "TRACE", " debug "] {
            let lines = lines(level);
            assert!(!lines.contains("hunter2") && lines.contains("of ours"), "{level}: {lines}");
            assert!(lines.contains("of a library"), "{level}: {lines}");
        }
        assert!(lines("info,wasmtime_wasi=debug").contains("worker writing"));
        assert_eq!(lines("error"), "");
    }
}
