//! What is said of resources over links, and kept of those who say it: an agent's outbox, a collector's store, and the service
//! through which programs of this machine take part.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use weir_link::lanes::CollectorStates;
use weir_link::state::events::{ServeError, serve_agent, serve_collector};
use weir_link::state::{Keep, Outbox, OutboxHandle, Store, Volatile};
use weir_model::Ledger;
use weir_queue::{DurableMap, Opened, SystemDisk};

use super::collector::{is_used, link_folder};
use super::pipelines::folder_name;
use super::{Bench, diff};
use crate::config::{Config, ExporterKind, Id, Kind};

/// The collector's file in the folder of links.
const STORE: &str = "states.redb";

/// Opens the file of an outbox or a store, or a map in memory; false where what it held before is not there.
fn keep(folder: Option<&Path>, name: &str) -> anyhow::Result<(Arc<dyn Keep>, bool)> {
    let Some(folder) = folder else { return Ok((Arc::<Volatile>::default(), true)) };
    let path = folder.join(name);
    let (map, opened) = DurableMap::open(Arc::new(SystemDisk), &path)
        .with_context(|| format!("open the states in {}", path.display()))?;
    let is_whole = match opened {
        Opened::New | Opened::Kept => true,
        Opened::SetAside(aside) => {
            warn!(file = %path.display(), set_aside = %aside, "states could not be read, they are said again");
            false
        }
    };
    Ok((Arc::new(map), is_whole))
}

// === at an agent ===

/// An agent's outbox, and who reports into it.
pub(super) struct Reporting {
    handle: OutboxHandle,
    task: JoinHandle<()>,
    service: Option<Service>,
}

/// Opens the outbox of an exporter's agent; where it is the one that programs report to, the service too.
///
/// # Errors
/// A file or an address that cannot be used.
pub(super) fn of_agent(bench: &Bench<'_>, id: &Id) -> anyhow::Result<(Outbox, Reporting)> {
    let (name, folder) =
        (format!("outbox-{}.redb", folder_name(&id.to_string())), link_folder(bench.config)?);
    let (keep, is_whole) = keep(folder.as_deref(), &name)?;
    let events = bench.config.service.events.as_ref().filter(|_| is_reported_to(bench.config, id));
    let listener = events.map(|endpoint| listen(endpoint.value)).transpose()?;
    let (outbox, handle, task) = Outbox::open(keep, is_whole);
    let service = listener.map(|listener| {
        info!(exporter = %id, address = ?listener.local_addr().ok(), "programs may report states");
        let (stop, handle) = (CancellationToken::new(), handle.clone());
        Service::start(stop.clone(), serve_agent(listener, handle, stop))
    });
    Ok((outbox, Reporting { handle, task, service }))
}

/// Whether programs report to this link: the first one, where the process is no collector, whose programs watch instead.
fn is_reported_to(config: &Config, id: &Id) -> bool {
    let is_link = |other: &&Id| matches!(config.exporters[*other].value.kind, ExporterKind::Link(_));
    let first = super::parts::used(config, Kind::Exporter).into_iter().find(is_link);
    !is_used(config) && first == Some(id) && !diff::carried(config, id).is_empty()
}

impl Reporting {
    /// What the process reports its own states through.
    pub(super) fn handle(&self) -> OutboxHandle {
        self.handle.clone()
    }

    /// Ends the service. What becomes of the rest ends with the outbox and its handles.
    pub(super) async fn end(self) -> JoinHandle<()> {
        let Self { handle, task, service } = self;
        if let Some(service) = service {
            service.end().await;
        }
        drop(handle);
        task
    }
}

// === at a collector ===

/// The states of all agents that come to this process. Clones are one.
#[derive(Clone, Default)]
pub(crate) struct States(Arc<Mutex<Option<Kept>>>);

struct Kept {
    store: Arc<Store>,
    task: JoinHandle<()>,
    service: Option<Service>,
}

impl States {
    /// The store, opened when it is first asked for; then programs may watch it, with memory of `ledger`.
    ///
    /// # Errors
    /// A file or an address that cannot be used.
    pub(super) fn of_collector(
        &self,
        config: &Config,
        ledger: &Arc<Ledger>,
    ) -> anyhow::Result<Arc<dyn CollectorStates>> {
        let mut kept = self.kept();
        if let Some(kept) = &*kept {
            return Ok(Arc::clone(&kept.store) as Arc<dyn CollectorStates>);
        }
        let folder = link_folder(config)?;
        let (keep, _) = keep(folder.as_deref(), STORE)?;
        let listener = config.service.events.as_ref().map(|endpoint| listen(endpoint.value)).transpose()?;
        let (store, task) = Store::open(keep).context("open the store of states")?;
        let service = listener.map(|listener| {
            info!(address = ?listener.local_addr().ok(), "programs may watch states");
            let stop = CancellationToken::new();
            let (store, ledger) = (Arc::clone(&store), Arc::clone(ledger));
            Service::start(stop.clone(), serve_collector(listener, store, ledger, stop))
        });
        *kept = Some(Kept { store: Arc::clone(&store), task, service });
        Ok(store)
    }

    /// Ends the service, and writes what is taken. Everybody else has let go of the store.
    pub(crate) async fn close(&self) {
        let kept = self.kept().take();
        let Some(Kept { store, task, service }) = kept else { return };
        if let Some(service) = service {
            service.end().await;
        }
        drop(store);
        if let Err(error) = task.await {
            warn!(%error, "the store of states did not end by itself");
        }
    }

    fn kept(&self) -> MutexGuard<'_, Option<Kept>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === the service of either ===

/// A service of events that runs.
struct Service {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Service {
    fn start(
        stop: CancellationToken,
        serving: impl Future<Output = Result<(), ServeError>> + Send + 'static,
    ) -> Self {
        let task = tokio::spawn(async move {
            if let Err(error) = serving.await {
                let error = format!("{:#}", anyhow::Error::from(error));
                error!(error, "programs cannot report or watch states until weir is restarted");
            }
        });
        Self { stop, task }
    }

    async fn end(self) {
        self.stop.cancel();
        if let Err(error) = self.task.await {
            warn!(%error, "the service of events did not end by itself");
        }
    }
}

fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let bind = || {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener)
    };
    bind().with_context(|| format!("serve events: listen on {address}"))
}
