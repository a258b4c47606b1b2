//! What programs watch at a collector.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::Stream;
use futures_util::stream::unfold;
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use weir_model::Ledger;
use weir_proto::weir::events::v1 as wire;
use wire::watch_response::Event as WireEvent;
use wire::watch_service_server::{WatchService, WatchServiceServer};

use crate::names::to_wire;
use crate::state::store::{
    Cursor, Event, FACT_BYTES_MAX, Fact, Filter, Standing, Store, WATCHER_BYTES_MAX, Watching,
};

use super::ServeError;
use super::door::{serve, server};
use super::purse::{Paid, Paying, Purse, With};

/// Bytes of a request: names, and a page's or a cursor's few bytes.
const REQUEST_BYTES_MAX: usize = 8 << 10;
/// Watches at once: 13 MiB where nobody reads.
const WATCHES_MAX: usize = 32;
/// Bytes that an answer takes in memory beside what it is made of: it is written once more, as it is sent.
const COPIES: usize = 2;
/// What a watch may take.
const WATCH_BYTES: u64 = (COPIES * WATCHER_BYTES_MAX) as u64;
/// What a page of a list may take before it is known how long it is.
const LIST_BYTES_MAX: u64 = (COPIES * (PAGE_BYTES_MAX + FACT_BYTES_MAX)) as u64;
/// States of one page of a list.
const PAGE_STATES_MAX: usize = 1_000;
/// Bytes of a page before the state that goes beyond: below what gRPC clients take unless told otherwise, 4 MiB, and little enough
/// for some to wait unread.
const PAGE_BYTES_MAX: usize = 512 << 10;

/// Serves programs until `stop`, which ends their watches within moments, read or not: they go on with their cursors when the
/// collector is back. Dropped, it cuts who is connected; either way it lets go of the store and of its address. What they do not read is paid for
/// from `ledger`.
///
/// # Errors
/// [`ServeError`].
pub async fn serve_collector(
    listener: TcpListener,
    store: Arc<Store>,
    ledger: Arc<Ledger>,
    stop: CancellationToken,
) -> Result<(), ServeError> {
    let (watches, purse) = (Arc::new(Semaphore::new(WATCHES_MAX)), Purse::new(ledger));
    let watcher = Watcher { store, stop: stop.clone(), watches, purse };
    let service = WatchServiceServer::new(watcher).max_decoding_message_size(REQUEST_BYTES_MAX);
    serve(server().add_service(Paying(service)), listener, stop).await
}

#[derive(Debug)]
struct Watcher {
    store: Arc<Store>,
    stop: CancellationToken,
    watches: Arc<Semaphore>,
    purse: Arc<Purse>,
}

#[tonic::async_trait]
impl WatchService for Watcher {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<wire::WatchResponse, Status>> + Send>>;

    async fn list(
        &self,
        request: Request<wire::ListRequest>,
    ) -> Result<Response<wire::ListResponse>, Status> {
        let wire::ListRequest { filter, page_size, page } = request.into_inner();
        let size = usize::try_from(page_size).unwrap_or(usize::MAX);
        let states_max = if size == 0 { PAGE_STATES_MAX } else { size.min(PAGE_STATES_MAX) };
        let after = (!page.is_empty()).then_some(&*page);
        let mut paid = self.purse.pay(LIST_BYTES_MAX)?;
        let (facts, next) = self.store.list(&filter_of(filter), after, (states_max, PAGE_BYTES_MAX));
        paid.shrink_to((COPIES * facts.iter().map(Fact::bytes).sum::<usize>()) as u64);
        let states = facts.into_iter().map(state_of).collect();
        let mut answer = Response::new(wire::ListResponse { states, next_page: next.unwrap_or_default() });
        answer.extensions_mut().insert(With::new(paid));
        Ok(answer)
    }

    async fn watch(
        &self,
        request: Request<wire::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let wire::WatchRequest { filter, cursor } = request.into_inner();
        let place = Arc::clone(&self.watches).try_acquire_owned().map_err(|_| {
            Status::resource_exhausted(format!("{WATCHES_MAX} programs watch already: end one of them"))
        })?;
        let cursor = match &*cursor {
            [] => None,
            bytes => Some(Cursor::from_bytes(bytes).ok_or_else(|| {
                Status::invalid_argument(
                    "the cursor is none of this service: give back the last one, or none",
                )
            })?),
        };
        let paid = self.purse.pay(WATCH_BYTES)?;
        let watching = self.store.watch(filter_of(filter), cursor);
        let following = Following { watching, stop: self.stop.clone(), _place: place, _paid: paid };
        // None after the end was said.
        Ok(Response::new(Box::pin(unfold(Some(following), |following| async move {
            let mut following = following?;
            let next = following.next().await;
            let rest = next.is_ok().then_some(following);
            Some((next, rest))
        }))))
    }
}

struct Following {
    watching: Watching,
    stop: CancellationToken,
    _place: OwnedSemaphorePermit,
    _paid: Paid,
}

impl Following {
    async fn next(&mut self) -> Result<wire::WatchResponse, Status> {
        let next = tokio::select! {
            biased;
            () = self.stop.cancelled() => {
                return Err(Status::unavailable("the collector stops: watch again with the last cursor when it is back"));
            }
            next = self.watching.next() => next,
        };
        let (event, cursor) = next.map_err(|cut| Status::aborted(cut.to_string()))?;
        let event = match event {
            Event::Started { resumed } => WireEvent::Started(wire::Started { resumed }),
            Event::Fact(fact) => WireEvent::State(state_of(fact)),
            Event::Complete => WireEvent::SnapshotComplete(wire::SnapshotComplete {}),
        };
        Ok(wire::WatchResponse { event: Some(event), cursor: cursor.to_bytes() })
    }
}

fn filter_of(filter: Option<wire::Filter>) -> Filter {
    let wire::Filter { agent, kind, key_prefix } = filter.unwrap_or_default();
    Filter { agent, kind, key_prefix }
}

fn state_of(fact: Fact) -> wire::State {
    let Fact { agent, kind, key, value, standing, incarnation, revision, version: _ } = fact;
    let standing = match standing {
        Standing::Live => wire::state::Standing::Live,
        Standing::Deleted => wire::state::Standing::Deleted,
        Standing::Expired => wire::state::Standing::Expired,
    };
    let incarnation = to_wire(incarnation);
    wire::State { agent, kind, key, value, standing: standing.into(), incarnation, revision }
}
