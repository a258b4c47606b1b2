//! `weir run`.

use std::io;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use tokio::runtime::{Builder, Handle};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{debug, info, warn};

use super::shorthand::{Meant, Shorthand};
use super::supervisor::{READY, STOPPING, Supervisor};
use super::{Failure, complain, open_files, say};
use crate::allocator::{give_back, keep_pages_small};
use crate::assembly::{CompiledCode, Daemon, Foundation, Triggers};
use crate::bundled::BUNDLED;
use crate::config::{self, Config, Draft, LogFormat, Report};
use crate::program;
use crate::shutdown::{Ended, Signals, Stop};
use crate::telemetry::logs;
use crate::validate;

/// A configuration that can be started, and what it was checked with.
pub(super) struct Prepared {
    pub(super) config: Config,
    pub(super) foundation: Foundation,
}

/// SIGHUP, which from now on does not end the process: a signal that asks for a look at the file is no reason to die.
///
/// Takes no thread, so that it can be had before all else; what comes is kept for the runtime that is built later.
///
/// # Errors
/// Where it cannot be listened for.
pub(super) fn listen_for_hangup() -> io::Result<Signal> {
    let first = Builder::new_current_thread().enable_io().build()?;
    let _entered = first.enter();
    signal(SignalKind::hangup())
}

/// Runs until SIGTERM or Ctrl-C.
pub(super) fn run(
    file: Option<&Path>,
    shorthand: Shorthand,
    hangup: io::Result<Signal>,
) -> Result<ExitCode, Failure> {
    let meant = shorthand.meant()?;
    if let Some(meant) = meant.as_ref().filter(|meant| meant.is_printed) {
        say(meant.text.trim_end());
        return Ok(ExitCode::SUCCESS);
    }
    let hangup = hangup.context("listen for signals")?;
    keep_pages_small(true);
    let mut runtime = Builder::new_multi_thread();
    let runtime = runtime.enable_all().on_thread_park(give_back).build().context("start the runtime")?;
    let triggers = Triggers::listen(hangup, file);
    let prepared = match (file, &meant) {
        (Some(path), _) => logged(config::load(path), runtime.handle())?,
        (None, Some(meant)) => {
            let prepared = logged(config::parse(meant.name, &meant.text, &|_| None), runtime.handle())?;
            debug!("the configuration that {} stands for:\n{}", meant.name, meant.text);
            prepared
        }
        (None, None) => by_default(runtime.handle())?,
    };
    open_files::raise();
    let next = meant.map(|Meant { next, .. }| next);
    let ended = runtime.block_on(serve(prepared, triggers, next));
    // A check of a file that the end came into has nobody to report to.
    runtime.shutdown_background();
    ended
}

/// Starts the log as a draft wants it, and completes the draft.
fn logged(draft: Result<Draft, Report>, runtime: &Handle) -> Result<Prepared, Failure> {
    if let Ok(draft) = &draft {
        start_log(draft.config());
    }
    prepare(draft, runtime)
}

/// Completes a draft: everything that is wrong with it is told at once.
pub(super) fn prepare(draft: Result<Draft, Report>, runtime: &Handle) -> Result<Prepared, Failure> {
    let wrong = |report: Report| Failure::Config(report.to_string());
    let draft = draft.map_err(wrong)?;
    let foundation = Foundation::lay(draft.config(), runtime.clone(), CompiledCode::Kept)?;
    let checked = validate::check(draft, &foundation.plugins).map_err(wrong)?;
    for warning in &checked.warnings {
        warn!("{}", warning.line());
    }
    Ok(Prepared { config: checked.config, foundation })
}

fn by_default(runtime: &Handle) -> Result<Prepared, Failure> {
    let zipkin = BUNDLED.iter().any(|plugin| plugin.name == "zipkin-receiver");
    let config = Config::default_run(zipkin);
    start_log(&config);
    info!("no configuration: standard ports on localhost, queue in memory, exporter debug");
    let foundation = Foundation::lay(&config, runtime.clone(), CompiledCode::Kept)?;
    Ok(Prepared { config, foundation })
}

fn start_log(config: &Config) {
    let of = &config.service.telemetry.logs;
    let format = match of.format {
        LogFormat::Text => logs::Format::Text,
        LogFormat::Json => logs::Format::Json,
    };
    logs::start(of.level.name(), format);
}

/// `next` is said once everything is bound.
async fn serve(prepared: Prepared, triggers: Triggers, next: Option<String>) -> Result<ExitCode, Failure> {
    let started = std::time::Instant::now();
    let daemon = Daemon::assemble(prepared.config, prepared.foundation).await?;
    let stop = Stop::default();
    let supervisor = Supervisor::of_environment();
    let mut signals = Signals::listen().context("listen for signals")?;
    let mut running = tokio::spawn(daemon.run(stop.clone(), triggers));
    info!(version = env!("CARGO_PKG_VERSION"), took = ?started.elapsed(), "weir runs");
    if let Some(next) = next {
        info!("{next}");
    }
    match program::give_back() {
        Ok(bytes) => debug!(bytes, "pages of the program that the start has read are given back"),
        Err(error) => debug!(%error, "pages of the program stay in memory"),
    }
    keep_pages_small(false);
    supervisor.tell(READY);
    let ended = loop {
        tokio::select! {
            ended = &mut running => break ended.context("the daemon panicked")?,
            signal = signals.end() => {
                if stop.begin.is_signaled() {
                    warn!(signal, "a second signal cuts the drain: what is left stays in queues on disk");
                    stop.cut.signal();
                } else {
                    info!(signal, "draining");
                    supervisor.tell(STOPPING);
                    stop.begin.signal();
                }
            }
        }
    };
    match ended {
        Ended::Clean { took } => {
            info!(?took, "drained cleanly");
            Ok(ExitCode::SUCCESS)
        }
        Ended::Cut { what } => {
            warn!(what, "the drain was cut");
            complain(&format!("error: the drain was cut at its deadline: {what}"));
            Ok(ExitCode::FAILURE)
        }
    }
}
