//! What programs report to an agent.

use std::pin::Pin;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _};
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};
use weir_net::grpc;
use weir_proto::weir::events::v1::report_request::Wait;
use weir_proto::weir::events::v1::report_service_server::{ReportService, ReportServiceServer};
use weir_proto::weir::events::v1::{ReportRequest, ReportResponse};

use crate::limits::{STATE_NAME_BYTES_MAX, STATE_VALUE_BYTES_MAX};
use crate::state::outbox::{Fate, OutboxHandle, ReportError};

use super::door::{serve, server};
use super::{RESERVED, ServeError};

/// Bytes of a request: the largest value, the names, and what stands between them.
const REQUEST_BYTES_MAX: usize = STATE_VALUE_BYTES_MAX + 2 * STATE_NAME_BYTES_MAX + 1024;
/// Reports of one stream that are under way.
const UNDER_WAY_MAX: usize = 32;
/// How long a report waits for the collector where the caller has no deadline, and at most.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// Serves programs until `stop`, then answers what waits and ends within moments, whatever programs do. States stay in the outbox.
/// Dropped, it cuts who is connected; either way it lets go of the outbox and of its address.
///
/// # Errors
/// [`ServeError`].
pub async fn serve_agent(
    listener: TcpListener,
    outbox: OutboxHandle,
    stop: CancellationToken,
) -> Result<(), ServeError> {
    let reporter = Reporter { outbox, stop: stop.clone() };
    let service = ReportServiceServer::new(reporter).max_decoding_message_size(REQUEST_BYTES_MAX);
    serve(server().add_service(service), listener, stop).await
}

#[derive(Debug, Clone)]
struct Reporter {
    outbox: OutboxHandle,
    stop: CancellationToken,
}

/// A report that was not taken, or not persisted where the caller wanted it: then it has a revision.
struct Refused {
    revision: u64,
    status: Status,
}

#[tonic::async_trait]
impl ReportService for Reporter {
    type ReportStreamStream = Pin<Box<dyn Stream<Item = Result<ReportResponse, Status>> + Send>>;

    async fn report(&self, request: Request<ReportRequest>) -> Result<Response<ReportResponse>, Status> {
        let wait = wait_at_most(request.metadata());
        match self.take(request.into_inner(), wait).await {
            Ok(revision) => Ok(Response::new(ReportResponse { revision, refused: String::new() })),
            Err(refused) => Err(refused.status),
        }
    }

    async fn report_stream(
        &self,
        request: Request<Streaming<ReportRequest>>,
    ) -> Result<Response<Self::ReportStreamStream>, Status> {
        let reporter = self.clone();
        let requests = request.into_inner().take_until(self.stop.clone().cancelled_owned());
        let answers = requests.map(move |request| {
            let reporter = reporter.clone();
            async move {
                let response = match reporter.take(request?, WAIT_MAX).await {
                    Ok(revision) => ReportResponse { revision, refused: String::new() },
                    Err(Refused { revision, status }) => {
                        ReportResponse { revision, refused: status.message().to_owned() }
                    }
                };
                Ok(response)
            }
        });
        Ok(Response::new(Box::pin(answers.buffered(UNDER_WAY_MAX))))
    }
}

impl Reporter {
    async fn take(&self, request: ReportRequest, wait: Duration) -> Result<u64, Refused> {
        let target = request.wait();
        let ReportRequest { kind, key, value, deleted, ttl_ms, wait: _ } = request;
        let refuse = |status| Refused { revision: 0, status };
        if kind.starts_with(RESERVED) {
            let why = format!("kinds that begin with {RESERVED:?} are the agent's own: name yours otherwise");
            return Err(refuse(Status::invalid_argument(why)));
        }
        if deleted && !value.is_empty() {
            let why = format!("{kind} {key} is said to be deleted and has a value: leave one of them out");
            return Err(refuse(Status::invalid_argument(why)));
        }
        let reported = if deleted {
            self.outbox.remove(&kind, &key).await
        } else {
            self.outbox.report(&kind, &key, value, Duration::from_millis(ttl_ms)).await
        };
        let reported = reported.map_err(|error| refuse(status_of(error)))?;
        let revision = reported.revision;
        match target {
            Wait::Agent | Wait::Unspecified => return Ok(revision),
            Wait::Collector => {}
        }
        let fate = tokio::select! {
            fate = timeout(wait, reported.persisted()) => fate.unwrap_or(Fate::Unknown),
            () = self.stop.cancelled() => Fate::Unknown,
        };
        let status = match fate {
            Fate::Persisted => return Ok(revision),
            Fate::Rejected(why) => {
                Status::failed_precondition(format!("the collector does not take it: {why}"))
            }
            Fate::Expired => Status::deadline_exceeded(
                "its time to live has run out before the collector had it: report it again, with more time",
            ),
            Fate::Unknown => Status::unavailable(format!(
                "the collector has not answered in time: the state is kept as revision {revision} and will be sent, do not report it again for this"
            )),
        };
        Err(Refused { revision, status })
    }
}

fn status_of(error: ReportError) -> Status {
    let text = error.to_string();
    match error {
        ReportError::Invalid(_) => Status::invalid_argument(text),
        ReportError::Full(_) => Status::resource_exhausted(text),
        ReportError::Disk(_) | ReportError::Closed => Status::unavailable(text),
    }
}

/// How long to wait for the collector: somewhat less than the caller does, so that it hears an answer and not its own
/// deadline.
fn wait_at_most(metadata: &MetadataMap) -> Duration {
    // One that is not written as it should is none: the caller waits as long as others that say nothing.
    let deadline = grpc::time_allowed(&metadata.clone().into_headers()).ok().flatten();
    deadline.map_or(WAIT_MAX, |deadline| (deadline / 10 * 9).min(WAIT_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: deadlines in each unit, none, and what is none.
    /// Guarantees: an answer comes before the caller gives up, and within the bound.
    #[test]
    fn the_wait_is_shorter_than_the_callers() {
        let wait = |text: Option<&str>| {
            let mut metadata = MetadataMap::new();
            if let Some(text) = text {
                metadata.insert("grpc-timeout", text.parse().unwrap());
            }
            wait_at_most(&metadata)
        };
        assert_eq!(wait(Some("1S")), Duration::from_millis(900));
        assert_eq!(wait(Some("100m")), Duration::from_millis(90));
        assert_eq!(wait(Some("20000u")), Duration::from_millis(18));
        assert_eq!(wait(Some("1000n")), Duration::from_nanos(900));
        for long in
            [None, Some("9H"), Some("99999999H"), Some("10M"), Some("S"), Some("1s"), Some("+1S"), Some("")]
        {
            assert_eq!(wait(long), WAIT_MAX, "{long:?}");
        }
    }
}
