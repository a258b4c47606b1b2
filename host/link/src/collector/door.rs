//! The address of a collector.

use std::future::ready;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use http::{Request, Response, Version};
use hyper::body::Incoming;
use tracing::{Instrument, debug_span};
use weir_model::{BoxFuture, Counter};
use weir_net::grpc::{self, MessageReader, Status};
use weir_net::listen::{self, BindError, Handler, Peer};
use weir_net::open_stream::OpenStream;
use weir_net::tls::ServerTls;
use weir_net::{Drain, ReplyBody};

use super::{Collector, serve};
use crate::limits::{DATA_MESSAGE_BYTES_MAX, MEMORY_PATIENCE};

/// The one method.
const OPEN: &str = "/weir.link.v1.LinkService/Open";

/// A collector with its address; nobody is served yet.
#[derive(Debug)]
pub struct Bound {
    collector: Arc<Collector>,
    bound: listen::Bound,
    tls: Option<Arc<ServerTls>>,
}

impl Bound {
    /// The address.
    pub fn local_addr(&self) -> SocketAddr {
        self.bound.local_addr()
    }

    /// The TLS of the door, where it has one, for reading certificates again.
    pub fn tls(&self) -> Option<Arc<ServerTls>> {
        self.tls.clone()
    }

    /// Serves until `drain` is signaled, every agent has had its Goodbye, and what is known of them is written. The caller
    /// sets the deadline: dropping the future cuts what is still open.
    ///
    /// # Errors
    /// Where the socket cannot be handed to the runtime.
    pub async fn serve(self, drain: Drain) -> io::Result<()> {
        let Self { collector, bound, .. } = self;
        let _cut_when_dropped = collector.cut.clone().drop_guard();
        bound.serve(Arc::clone(&collector) as Arc<dyn Handler>, drain).await?;
        collector.tasks.close();
        collector.tasks.wait().await;
        collector.sweep().await;
        Ok(())
    }
}

impl Collector {
    /// Reserves the address now, so that a clash is an error at start; serving begins with [`Bound::serve`].
    ///
    /// # Errors
    /// [`BindError`], with the endpoint.
    pub fn bind(self: &Arc<Self>, endpoint: &str, tls: Option<Arc<ServerTls>>) -> Result<Bound, BindError> {
        let limits = self.settings.limits.clone();
        let settings = listen::Settings { limits, tls: tls.clone(), connections: Counter::default() };
        Ok(Bound { collector: Arc::clone(self), bound: listen::Bound::bind(endpoint, settings)?, tls })
    }

    /// Answers one request: a stream, or what is none.
    pub fn serve(self: Arc<Self>, request: Request<Incoming>, peer: Arc<Peer>) -> Response<ReplyBody> {
        let (head, body) = request.into_parts();
        if !grpc::is_grpc(&head.headers) || head.version != Version::HTTP_2 {
            return grpc::not_grpc();
        }
        if head.uri.path() != OPEN {
            return grpc::unimplemented(head.uri.path());
        }
        let limits = self.settings.limits.of_body(DATA_MESSAGE_BYTES_MAX);
        let reader = match MessageReader::new(&head.headers, body, limits, &self.settings.ledger) {
            Ok(reader) => reader.with_patience(MEMORY_PATIENCE),
            Err(status) => return grpc::refuse(&status),
        };
        let open = match OpenStream::open(&self.settings.ledger, self.settings.counts.streams.clone()) {
            Ok(open) => open,
            Err(status) => return grpc::refuse(&status),
        };
        let cut = self.cut.child_token();
        let span = debug_span!("link", peer.addr = %peer.addr);
        grpc::conversation(move |replies| {
            let ends = cut.clone();
            let tasks = self.tasks.clone();
            let stream = async move {
                let _open = open;
                ends.run_until_cancelled(serve::run(self, peer, reader, replies)).await
            };
            let task = tasks.spawn(stream.instrument(span.or_current()));
            // The stream runs beside its connection, whose windows do not hold it up, and ends with it.
            let with_the_connection = cut.drop_guard();
            async move {
                let ended = task.await;
                drop(with_the_connection);
                match ended {
                    Ok(Some(ended)) => ended,
                    Ok(None) => Err(Status::unavailable("this collector has ended; connect again")),
                    Err(error) => Err(Status::internal(format!("the stream's task ended: {error}"))),
                }
            }
        })
    }
}

impl Handler for Collector {
    fn handle(
        self: Arc<Self>,
        request: Request<Incoming>,
        peer: Arc<Peer>,
    ) -> BoxFuture<'static, Response<ReplyBody>> {
        Box::pin(ready(self.serve(request, peer)))
    }
}
