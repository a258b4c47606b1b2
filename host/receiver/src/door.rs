//! What every door has: a name, pipelines behind it, a budget, counters, and addresses.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};

use futures_util::future::try_join_all;
use weir_model::count::ReceiverCounts;
use weir_model::{Consumer, Ledger, Signal};
use weir_net::Drain;
use weir_net::listen::{self, Handler};
use weir_net::tls::{ServerTls, TlsError};

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

struct Door {
    protocol: &'static str,
    bound: listen::Bound,
    handler: Arc<dyn Handler>,
    tls: Option<Arc<ServerTls>>,
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
        self.doors.push(Door { protocol, bound, handler, tls });
        Ok(local_addr)
    }

    /// Each protocol with its address.
    pub fn local_addrs(&self) -> Vec<(&'static str, SocketAddr)> {
        self.doors.iter().map(|door| (door.protocol, door.bound.local_addr())).collect()
    }

    /// The TLS of each door that has one, for reading certificates again.
    pub fn tls(&self) -> Vec<Arc<ServerTls>> {
        self.doors.iter().filter_map(|door| door.tls.clone()).collect()
    }

    /// Serves until `drain` is signaled and every connection has ended. The caller sets the deadline: dropping the
    /// future cuts what is still open.
    ///
    /// # Errors
    /// Where a socket cannot be handed to the runtime.
    pub async fn serve(self, drain: Drain) -> io::Result<()> {
        let doors = self.doors.into_iter().map(|door| door.bound.serve(door.handler, drain.clone()));
        try_join_all(doors).await.map(|_| ())
    }
}
