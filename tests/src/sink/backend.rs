//! A server on a free port that can go away and come back.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

use super::answer::ReplyBody;

/// What answers a request.
pub(crate) type Handle =
    Arc<dyn Fn(Request<Incoming>) -> BoxFuture<'static, Response<ReplyBody>> + Send + Sync>;

/// Streams at once on one connection: more than any exporter has under way.
const STREAMS_MAX: u32 = 1024;

/// How long a port that was ours may take to become free again.
const PORT_DEADLINE: Duration = Duration::from_secs(10);

pub(crate) struct Backend {
    address: SocketAddr,
    handle: Handle,
    serving: Mutex<Option<JoinHandle<()>>>,
}

impl std::fmt::Debug for Backend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Backend").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        if let Some(serving) = self.serving.lock().unwrap_or_else(PoisonError::into_inner).take() {
            serving.abort();
        }
    }
}

impl Backend {
    /// Listens on a free port of this machine.
    pub(crate) async fn start(handle: Handle) -> Self {
        let listener = crate::port::listen().await;
        let address = listener.local_addr().expect("it is bound");
        let serving = tokio::spawn(serve(listener, Arc::clone(&handle)));
        Self { address, handle, serving: Mutex::new(Some(serving)) }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Goes away: the port is closed, and so is each connection, whatever is under way.
    pub(crate) async fn down(&self) {
        let serving = self.serving.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(serving) = serving {
            serving.abort();
            // It ends as aborted, which is no error here.
            serving.await.ok();
        }
    }

    /// Comes back under the same address.
    pub(crate) async fn up(&self) {
        let bound = crate::wait::until(PORT_DEADLINE, async || TcpListener::bind(self.address).await.ok());
        let listener = bound.await.expect("the port that was ours is free again");
        let serving = tokio::spawn(serve(listener, Arc::clone(&self.handle)));
        *self.serving.lock().unwrap_or_else(PoisonError::into_inner) = Some(serving);
    }
}

/// Accepts until it is aborted; its connections end with it.
async fn serve(listener: TcpListener, handle: Handle) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        stream.set_nodelay(true).ok();
        let handle = Arc::clone(&handle);
        connections.spawn(async move {
            let service = service_fn(move |request| {
                let answered = handle(request);
                async move { Ok::<_, Infallible>(answered.await) }
            });
            let mut builder = auto::Builder::new(TokioExecutor::new());
            let window = 4 << 20;
            builder.http2().max_concurrent_streams(STREAMS_MAX);
            builder.http2().initial_stream_window_size(window).initial_connection_window_size(window);
            // A client that goes away in the middle is no failure of the backend's.
            builder.serve_connection(TokioIo::new(stream), service).await.ok();
        });
        while connections.try_join_next().is_some() {}
    }
}
