//! The service through which programs of this machine take part in states: at an agent they report, at a collector they watch.
//!
//! A process has one, at one address. Whose states it serves follows from the configuration, and may change with it: it ends where
//! the agent or the store behind it does, and begins again with the next one, at a socket that stays open meanwhile.
//!
//! Invariant: nobody listens on the address unless it is in the configuration that runs, and somebody has states to serve.

use std::net::{SocketAddr, TcpListener as Socket};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use weir_link::state::Store;
use weir_link::state::events::{ServeError, serve_agent, serve_collector};
use weir_model::Ledger;

use super::Foundation;
use super::collector::is_used;
use super::link::Link;
use super::parts::{self, Parts};
use crate::config::{Config, ExporterKind, Id, Kind};

/// What the service is called in the log and on the health page.
pub(super) const NAME: &str = "events service";

/// How long a service may take to end, which gives programs a second of its own: a stop or a reload does not wait for one that fails
/// to.
const END_WITHIN: Duration = Duration::from_secs(5);

/// Its address, bound.
pub(crate) struct Door {
    /// As it is in the configuration.
    configured: SocketAddr,
    socket: Socket,
}

/// The service, where there is one.
#[derive(Default)]
pub(crate) struct Events {
    door: Option<Door>,
    running: Option<(Whose, Service)>,
}

/// Whose states are served.
#[derive(Clone)]
pub(super) enum Whose {
    /// An agent's: programs report.
    Agent(Arc<Link>),
    /// A collector's: programs watch, with memory of the budget.
    Collector(Arc<Store>, Arc<Ledger>),
}

impl Whose {
    /// As the configuration wants it, of the parts that there are now.
    pub(super) fn wanted(config: &Config, parts: &Parts, foundation: &Foundation) -> Option<Self> {
        if is_used(config) {
            let store = foundation.states.store()?;
            return Some(Self::Collector(store, Arc::clone(&foundation.ledger)));
        }
        let link = parts.exporters.get(reported_to(config)?)?.link()?;
        Some(Self::Agent(Arc::clone(link)))
    }

    fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Agent(one), Self::Agent(other)) => Arc::ptr_eq(one, other),
            (Self::Collector(one, _), Self::Collector(other, _)) => Arc::ptr_eq(one, other),
            (Self::Agent(_), Self::Collector(..)) | (Self::Collector(..), Self::Agent(_)) => false,
        }
    }
}

/// The link that programs report to: the first one, where the process is no collector, whose programs watch instead.
fn reported_to(config: &Config) -> Option<&Id> {
    let is_link = |id: &&Id| matches!(config.exporters[*id].value.kind, ExporterKind::Link(_));
    let first = parts::used(config, Kind::Exporter).into_iter().find(is_link);
    first.filter(|_| !is_used(config))
}

/// Where the service is to be; nowhere where nobody would serve.
pub(super) fn wanted_at(config: &Config) -> Option<SocketAddr> {
    let events = config.service.events.as_ref().map(|endpoint| endpoint.value);
    events.filter(|_| is_used(config) || reported_to(config).is_some())
}

impl Door {
    /// Binds the address; who connects waits for the service.
    ///
    /// # Errors
    /// An address that cannot be had.
    pub(super) fn bind(configured: SocketAddr) -> anyhow::Result<Self> {
        let bind = || {
            let socket = Socket::bind(configured)?;
            socket.set_nonblocking(true)?;
            Ok::<_, std::io::Error>(socket)
        };
        let socket = bind().with_context(|| format!("serve events: listen on {configured}"))?;
        Ok(Self { configured, socket })
    }

    fn listener(&self) -> std::io::Result<TcpListener> {
        TcpListener::from_std(self.socket.try_clone()?)
    }
}

impl Events {
    /// Where it listens.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        self.door.as_ref()?.socket.local_addr().ok()
    }

    /// Whether it listens where it is to.
    pub(super) fn is_at(&self, wanted: Option<SocketAddr>) -> bool {
        self.door.as_ref().map(|door| door.configured) == wanted
    }

    /// Ends it and lets its address go, unless it is to be there.
    pub(super) async fn leave(&mut self, wanted: Option<SocketAddr>) {
        if !self.is_at(wanted) {
            self.end().await;
        }
    }

    /// Ends it where it serves somebody else's states, or has failed. The address stays taken.
    pub(super) async fn let_go(&mut self, wanted: Option<&Whose>) {
        let is_kept = |(whose, service): &(Whose, Service)| {
            wanted.is_some_and(|wanted| wanted.is(whose)) && !service.has_ended()
        };
        if !self.running.as_ref().is_some_and(is_kept)
            && let Some((_, service)) = self.running.take()
        {
            service.end().await;
        }
    }

    /// Takes an address instead of the one it has.
    pub(super) fn take(&mut self, door: Door) {
        self.door = Some(door);
    }

    /// Serves these states at the address that it has, where it does not yet. Where an agent has not begun, it lets its address go:
    /// nobody would answer there.
    ///
    /// # Errors
    /// A socket that cannot be handed to the runtime.
    pub(super) fn serve(&mut self, whose: Option<Whose>) -> anyhow::Result<()> {
        if self.running.is_some() {
            return Ok(());
        }
        let (Some(door), Some(whose)) = (self.door.take(), whose) else { return Ok(()) };
        let (address, listener) = (door.socket.local_addr(), door.listener());
        let (address, listener) = address
            .and_then(|address| Ok((address, listener?)))
            .with_context(|| format!("serve events on {}", door.configured))?;
        let stop = CancellationToken::new();
        let service = match &whose {
            Whose::Agent(link) => {
                let Some(outbox) = link.outbox() else { return Ok(()) };
                info!(exporter = link.id, %address, "programs may report states");
                Service::start(stop.clone(), serve_agent(listener, outbox, stop))
            }
            Whose::Collector(store, ledger) => {
                info!(%address, "programs may watch states");
                Service::start(
                    stop.clone(),
                    serve_collector(listener, Arc::clone(store), Arc::clone(ledger), stop),
                )
            }
        };
        (self.door, self.running) = (Some(door), Some((whose, service)));
        Ok(())
    }

    /// Ends it, and lets its address and what it served go.
    pub(crate) async fn end(&mut self) {
        self.door = None;
        if let Some((_, service)) = self.running.take() {
            service.end().await;
        }
    }
}

/// A service that runs. Dropped, it ends at once.
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
                error!(error, "programs cannot report or watch states until the configuration is read again");
            }
        });
        Self { stop, task }
    }

    fn has_ended(&self) -> bool {
        self.task.is_finished()
    }

    async fn end(mut self) {
        self.stop.cancel();
        match timeout(END_WITHIN, &mut self.task).await {
            Ok(Ok(())) => (),
            Ok(Err(error)) => warn!(%error, "the events service did not end by itself"),
            Err(_) => warn!(within = ?END_WITHIN, "the events service did not end in time, and is cut"),
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.stop.cancel();
        self.task.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: a service that does not end when it is told to.
    /// Guarantees: whoever ends it goes on after a bound, and what it served is let go.
    #[tokio::test(start_paused = true)]
    async fn a_service_that_does_not_end_is_cut() {
        let held = Arc::new(());
        let its = Arc::clone(&held);
        let serving = async move {
            std::future::pending::<()>().await;
            drop(its);
            Ok(())
        };
        let service = Service::start(CancellationToken::new(), serving);
        tokio::task::yield_now().await;
        let began = tokio::time::Instant::now();
        service.end().await;
        assert_eq!(began.elapsed().as_secs(), END_WITHIN.as_secs());
        while Arc::strong_count(&held) > 1 {
            tokio::task::yield_now().await;
        }
    }
}
