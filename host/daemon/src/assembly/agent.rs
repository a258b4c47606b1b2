//! The agent behind a link.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tokio::time::timeout;
use tracing::warn;
use weir_link::agent::{Agent, AgentSettings, Encoding, LogHandle};
use weir_link::state::OutboxHandle;
use weir_model::{BoxFuture, Exporter};
use weir_net::client_tls::ClientTls;

use super::Bench;
use super::collector::link_folder;
use super::exporters::trust;
use super::link::{Carrier, CarrierStatus, LinkLog};
use super::states::{self, Reporting};
use crate::command::Failure;
use crate::config::{ExporterKind, Id, LinkEncoding, LinkExporter};

/// How long an agent that ends waits for answers. Its pushes were given back before, so there is nothing to wait for but the word
/// that it leaves.
const LEAVE_WITHIN: Duration = Duration::from_millis(500);

/// Starts the agent of an exporter, which dials at once.
///
/// # Errors
/// A folder or a certificate that cannot be used.
pub(super) fn start(bench: &Bench<'_>, id: &Id, logs: Vec<LinkLog>) -> Result<Arc<dyn Carrier>, Failure> {
    let started = try_start(bench, id, logs);
    Ok(started.with_context(|| format!("start exporter {id}"))?)
}

fn try_start(bench: &Bench<'_>, id: &Id, logs: Vec<LinkLog>) -> anyhow::Result<Arc<dyn Carrier>> {
    let ExporterKind::Link(link) = &bench.config.exporters[id].value.kind else {
        bail!("it is no link");
    };
    let LinkExporter { endpoint, encoding, identity, tls: _ } = link;
    let folder = link_folder(bench.config)?;
    if folder.is_none() {
        warn!(
            exporter = %id,
            "this agent keeps nothing on disk: each start is another agent's life, and what is not acknowledged is lost with the \
             process"
        );
    }
    let (outbox, reporting) = states::of_agent(bench, id)?;
    let settings = AgentSettings {
        id: id.to_string(),
        endpoint: endpoint.value.authority().map(ToString::to_string).unwrap_or_default(),
        folder,
        tls: tls(link)?,
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

/// By what the collector is judged at each dial and while a stream lives; nothing where the link is plaintext.
fn tls(link: &LinkExporter) -> anyhow::Result<Option<ClientTls>> {
    if link.endpoint.value.scheme_str() != Some("https") {
        return Ok(None);
    }
    // A file that is wrong now is told now; one that is wrong later leaves what was read before.
    Ok(Some(ClientTls::load(trust(&link.tls)).context("set up tls")?))
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
            let task = reporting.end().await;
            agent.stop(LEAVE_WITHIN).await;
            drop(agent);
            if timeout(OUTBOX_WITHIN, task).await.is_err() {
                warn!("the outbox of states is not let go in time");
            }
        })
    }
}
