//! The agent behind a link.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tracing::warn;
use weir_link::agent::{Agent, AgentSettings, Encoding, LogHandle, TlsProvider};
use weir_model::{BoxFuture, Exporter};
use weir_net::client_tls::ClientTls;

use super::collector::link_folder;
use super::exporters::trust;
use super::link::{Carrier, CarrierStatus, LinkLog};
use super::{Bench, states};
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
        states: states::of_agent(bench, id)?,
    };
    let exporter = id.to_string();
    let handle = |LinkLog { name, queue }| LogHandle { name, queue, exporter: exporter.clone() };
    let agent = Agent::start(settings, logs.into_iter().map(handle).collect())?;
    Ok(Arc::new(Carried { agent, seen: Mutex::default() }))
}

/// The machine's name.
pub(super) fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// What this program is called at the other end.
pub(super) fn program() -> String {
    format!("weir {}", env!("CARGO_PKG_VERSION"))
}

/// What is asked for certificates at each dial; nothing where the link is plaintext.
fn tls(link: &LinkExporter) -> anyhow::Result<Option<TlsProvider>> {
    if link.endpoint.value.scheme_str() != Some("https") {
        return Ok(None);
    }
    // A file that is wrong now is told now; one that is wrong later leaves what was read before.
    let files = ClientTls::load(trust(&link.tls)).context("set up tls")?;
    Ok(Some(Arc::new(move || Ok(files.current()))))
}

/// A running agent.
struct Carried {
    agent: Arc<Agent>,
    /// When it was seen to have a stream.
    seen: Mutex<Option<Instant>>,
}

impl Carrier for Carried {
    fn exporter(&self, log: &str) -> Arc<dyn Exporter> {
        self.agent.exporter(log)
    }

    fn status(&self) -> CarrierStatus {
        let status = self.agent.status();
        let now = Instant::now();
        let connected = status.connected.and_then(|connected| now.checked_sub(connected.since));
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if connected.is_some() {
            *seen = Some(now);
        }
        CarrierStatus {
            connected,
            away_since: *seen,
            why_not: status.why_away.or(status.last_goodbye).unwrap_or_else(|| "no try has ended yet".to_owned()),
            unacknowledged: status.unacknowledged.records,
            resent: status.resent,
            counts: status.counts,
        }
    }

    fn stop(&self) -> BoxFuture<'static, ()> {
        let agent = Arc::clone(&self.agent);
        Box::pin(async move { agent.stop(LEAVE_WITHIN).await })
    }
}
