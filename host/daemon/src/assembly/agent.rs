//! The agent behind a link.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tracing::warn;
use weir_link::agent::{Agent, AgentSettings, Encoding, LogHandle};
use weir_link::state::OutboxHandle;
use weir_model::{BoxFuture, Exporter};
use weir_net::client_tls::ClientTls;

use super::collector::link_folder;
use super::exporters::trust;
use super::link::{Carrier, CarrierStatus, LinkLog};
use super::states::{self, Reporting};
use crate::command::Failure;
use crate::config::{Config, ExporterKind, Id, LinkEncoding, LinkExporter};

/// How long an agent that ends waits for answers. Its pushes were given back before, so there is nothing to wait for but the word
/// that it leaves.
const LEAVE_WITHIN: Duration = Duration::from_millis(500);

/// Starts the agent of an exporter, which dials at once.
///
/// # Errors
/// A folder that cannot be used; what was opened before is free again.
pub(super) async fn start(
    config: &Config,
    id: &Id,
    tls: Option<ClientTls>,
    logs: Vec<LinkLog>,
) -> Result<Arc<dyn Carrier>, Failure> {
    let (config, its) = (config.clone(), id.clone());
    // Files are opened and made durable.
    let started = spawn_blocking(move || try_start(&config, &its, tls, logs)).await;
    let started = started.context("the start panicked").flatten();
    Ok(started.with_context(|| format!("start exporter {id}"))?)
}

fn try_start(
    config: &Config,
    id: &Id,
    tls: Option<ClientTls>,
    logs: Vec<LinkLog>,
) -> anyhow::Result<Arc<dyn Carrier>> {
    let ExporterKind::Link(link) = &config.exporters[id].value.kind else {
        bail!("it is no link");
    };
    let LinkExporter { endpoint, encoding, identity, tls: _ } = link;
    let folder = link_folder(config)?;
    if folder.is_none() {
        warn!(
            exporter = %id,
            "this agent keeps nothing on disk: each start is another agent's life, and what is not acknowledged is lost with the \
             process"
        );
    }
    let (outbox, reporting) = states::of_agent(config, id)?;
    let settings = AgentSettings {
        id: id.to_string(),
        endpoint: endpoint.value.authority().map(ToString::to_string).unwrap_or_default(),
        folder,
        tls,
        identity: identity.as_ref().map(|identity| identity.value.clone()),
        encodings: match encoding {
            LinkEncoding::Zstd => vec![Encoding::Zstd],
            LinkEncoding::None => Vec::new(),
        },
        host: host(),
        program: program(),
        states: Box::new(outbox),
    };
    let exporter = id.to_string();
    let handle = |LinkLog { name, queue }| LogHandle { name, queue, exporter: exporter.clone() };
    let agent = Agent::start(settings, logs.into_iter().map(handle).collect())?;
    let running = Mutex::new(Some((agent, reporting)));
    Ok(Arc::new(Carried { running, seen: Mutex::default() }))
}

/// The machine's name.
pub(super) fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// What this program is called at the other end.
pub(super) fn program() -> String {
    format!("weir {}", env!("CARGO_PKG_VERSION"))
}

/// By what the collector is judged at each dial and while a stream lives; nothing where the link is plaintext. Reads the files, so that one that is wrong now is
/// told before anything begins with it, or ends for it; one that is wrong later leaves what was read before.
///
/// # Errors
/// A file that cannot serve, with its place in the configuration.
pub(super) async fn tls(config: &Config, id: &Id, link: &LinkExporter) -> anyhow::Result<Option<ClientTls>> {
    if link.endpoint.value.scheme_str() != Some("https") {
        return Ok(None);
    }
    let files = trust(&link.tls);
    let read =
        spawn_blocking(move || ClientTls::load(files)).await.context("reading certificates panicked")?;
    let files = read.map_err(|error| {
        let file = link.tls.files().find(|file| file.value == error.path());
        let at = file.map_or(link.endpoint.at, |file| file.at);
        let place = format!("{}:{}:{}", config.source.name, at.line, at.column);
        anyhow::Error::from(error).context(format!("{place}: set up tls of exporter {id}"))
    })?;
    Ok(Some(files))
}

/// An agent with its outbox, until it is stopped.
struct Carried {
    running: Mutex<Option<(Arc<Agent>, Reporting)>>,
    /// When it was seen to have a stream.
    seen: Mutex<Option<Instant>>,
}

/// How long the file of an outbox may take to be let go by those who are just reporting.
const OUTBOX_WITHIN: Duration = Duration::from_secs(5);

impl Carried {
    fn agent(&self) -> Option<Arc<Agent>> {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.as_ref().map(|(agent, _)| Arc::clone(agent))
    }
}

impl Carrier for Carried {
    fn exporter(&self, log: &str) -> Option<Arc<dyn Exporter>> {
        Some(self.agent()?.exporter(log))
    }

    fn outbox(&self) -> Option<OutboxHandle> {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.as_ref().map(|(_, reporting)| reporting.handle())
    }

    fn status(&self) -> CarrierStatus {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(agent) = self.agent() else {
            return CarrierStatus {
                away_since: *seen,
                why_not: "the agent has ended".to_owned(),
                ..CarrierStatus::default()
            };
        };
        let status = agent.status();
        let now = Instant::now();
        let connected = status.connected.and_then(|connected| now.checked_sub(connected.since));
        if connected.is_some() {
            *seen = Some(now);
        }
        CarrierStatus {
            connected,
            away_since: *seen,
            why_not: status
                .why_away
                .or(status.last_goodbye)
                .unwrap_or_else(|| "no try has ended yet".to_owned()),
            unacknowledged: status.unacknowledged.records,
            resent: status.resent,
            counts: status.counts,
        }
    }

    fn stop(&self) -> BoxFuture<'static, ()> {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner).take();
        Box::pin(async move {
            let Some((agent, reporting)) = running else { return };
            let task = reporting.end();
            agent.stop(LEAVE_WITHIN).await;
            drop(agent);
            if timeout(OUTBOX_WITHIN, task).await.is_err() {
                warn!("the outbox of states is not let go in time");
            }
        })
    }
}
