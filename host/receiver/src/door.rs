//! What every door has: a name, pipelines behind it, a budget, counters, and addresses.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};

use futures_util::future::try_join_all;
use weir_model::count::ReceiverCounts;
use weir_model::{Consumer, Ledger, Signal};
use weir_net::listen::{self, Handler};
use weir_net::tls::{ServerTls, TlsError};
use weir_net::{Drain, datagrams};

use crate::plugin_udp::PluginDoor;

/// What the program adds to a receiver's configuration.
#[derive(Clone)]
pub struct Settings {
    /// The configured id (`otlp`, `zipkin/edge`).
    pub id: Arc<str>,
    /// Where each signal goes.
    pub pipelines: Behind,
    /// The budget of memory that requests are paid from.
    pub ledger: Arc<Ledger>,
    /// What the receiver counts.
    pub counts: ReceiverCounts,
}

/// Who takes what a receiver hands on.
#[derive(Clone, Default)]
pub struct Pipelines {
    /// Takes traces, if any pipeline does.
    pub traces: Option<Arc<dyn Consumer>>,
    /// Takes metrics, if any pipeline does.
    pub metrics: Option<Arc<dyn Consumer>>,
    /// Takes logs, if any pipeline does.
    pub logs: Option<Arc<dyn Consumer>>,
}

impl Pipelines {
    /// The same consumer for every signal.
    pub fn all(consumer: Arc<dyn Consumer>) -> Self {
        Self {
            traces: Some(Arc::clone(&consumer)),
            metrics: Some(Arc::clone(&consumer)),
            logs: Some(consumer),
        }
    }

    /// Who takes this signal.
    pub fn of(&self, signal: Signal) -> Option<&Arc<dyn Consumer>> {
        match signal {
            Signal::Traces => self.traces.as_ref(),
            Signal::Metrics => self.metrics.as_ref(),
            Signal::Logs => self.logs.as_ref(),
        }
    }
}

/// What is behind a door now. Clones are one: what is exchanged in one is exchanged in all, under doors that are open.
///
/// A request asks when it is handed on, and ends with what it was given then.
#[derive(Clone, Default)]
pub struct Behind(Arc<RwLock<Pipelines>>);

impl Behind {
    /// Who takes this signal now.
    pub fn of(&self, signal: Signal) -> Option<Arc<dyn Consumer>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).of(signal).cloned()
    }

    /// From now on requests are handed to these.
    pub fn exchange(&self, pipelines: Pipelines) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = pipelines;
    }
}

impl From<Pipelines> for Behind {
    fn from(pipelines: Pipelines) -> Self {
        Self(Arc::new(RwLock::new(pipelines)))
    }
}

/// Why a receiver does not start.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// An address is not ours.
    #[error("bind {protocol}")]
    Listen {
        /// The protocol that would have been spoken there.
        protocol: &'static str,
        /// The address and why not.
        #[source]
        cause: listen::BindError,
    },
    /// Its TLS is not usable.
    #[error("set up tls of {protocol}")]
    Tls {
        /// The protocol that would have been secured.
        protocol: &'static str,
        /// The file and why not.
        #[source]
        cause: Box<TlsError>,
    },
    /// The configuration asks for nothing.
    #[error("{0}")]
    Nothing(&'static str),
}

/// A receiver whose addresses are its own; nobody is served yet.
#[derive(Default)]
pub struct Bound {
    doors: Vec<Door>,
}

enum Door {
    /// Connections with requests.
    Requests {
        protocol: &'static str,
        bound: listen::Bound,
        handler: Arc<dyn Handler>,
        tls: Option<Arc<ServerTls>>,
    },
    /// Datagrams, which nobody answers.
    Datagrams { protocol: &'static str, bound: datagrams::Bound, door: Arc<PluginDoor> },
}

impl Door {
    fn local_addr(&self) -> (&'static str, SocketAddr) {
        match self {
            Self::Requests { protocol, bound, .. } => (protocol, bound.local_addr()),
            Self::Datagrams { protocol, bound, .. } => (protocol, bound.local_addr()),
        }
    }

    async fn serve(self, drain: Drain) -> io::Result<()> {
        match self {
            Self::Requests { bound, handler, .. } => bound.serve(handler, drain).await,
            Self::Datagrams { bound, door, .. } => door.serve(bound, drain).await,
        }
    }
}

impl Bound {
    /// A receiver without a door yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Binds one more address, which `handler` will answer.
    ///
    /// # Errors
    /// [`BindError::Listen`] with the protocol and the endpoint.
    pub fn add(
        &mut self,
        protocol: &'static str,
        endpoint: &str,
        settings: listen::Settings,
        handler: Arc<dyn Handler>,
    ) -> Result<SocketAddr, BindError> {
        let tls = settings.tls.clone();
        let bound =
            listen::Bound::bind(endpoint, settings).map_err(|cause| BindError::Listen { protocol, cause })?;
        let local_addr = bound.local_addr();
        self.doors.push(Door::Requests { protocol, bound, handler, tls });
        Ok(local_addr)
    }

    /// Binds one more address of datagrams, which `door` will take.
    ///
    /// # Errors
    /// [`BindError::Listen`] with the protocol and the endpoint.
    pub(crate) fn add_datagrams(
        &mut self,
        protocol: &'static str,
        endpoint: &str,
        door: Arc<PluginDoor>,
    ) -> Result<SocketAddr, BindError> {
        let bound =
            datagrams::Bound::bind(endpoint).map_err(|cause| BindError::Listen { protocol, cause })?;
        let local_addr = bound.local_addr();
        self.doors.push(Door::Datagrams { protocol, bound, door });
        Ok(local_addr)
    }

    /// Each protocol with its address.
    pub fn local_addrs(&self) -> Vec<(&'static str, SocketAddr)> {
        self.doors.iter().map(Door::local_addr).collect()
    }

    /// The TLS of each door that has one, for reading certificates again.
    pub fn tls(&self) -> Vec<Arc<ServerTls>> {
        let of = |door: &Door| match door {
            Door::Requests { tls, .. } => tls.clone(),
            Door::Datagrams { .. } => None,
        };
        self.doors.iter().filter_map(of).collect()
    }

    /// Serves until `drain` is signaled and everything under way has ended. The caller sets the deadline: dropping the
    /// future cuts what is still open.
    ///
    /// # Errors
    /// Where a socket cannot be handed to the runtime.
    pub async fn serve(self, drain: Drain) -> io::Result<()> {
        let doors = self.doors.into_iter().map(|door| door.serve(drain.clone()));
        try_join_all(doors).await.map(|_| ())
    }
}
