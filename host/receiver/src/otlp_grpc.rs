//! OTLP over gRPC: three unary methods whose requests stay bytes.

use std::sync::Arc;

use http::{Request, Response, Version};
use hyper::body::Incoming;
use weir_model::{BoxFuture, Signal};
use weir_net::ReplyBody;
use weir_net::grpc::{self, MessageReader};
use weir_net::limits::BodyLimits;
use weir_net::listen::{Handler, Peer};

use crate::intake::Intake;
use crate::reply;

/// Answers the three Export methods.
pub(crate) struct GrpcDoor {
    intake: Arc<Intake>,
    limits: BodyLimits,
}

impl GrpcDoor {
    pub(crate) fn new(intake: Arc<Intake>, limits: BodyLimits) -> Self {
        Self { intake, limits }
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<ReplyBody> {
        let (head, body) = request.into_parts();
        if head.version != Version::HTTP_2 || !grpc::is_grpc(&head.headers) {
            return grpc::not_grpc();
        }
        let Some(signal) = signal_of(head.uri.path()) else {
            return grpc::unimplemented(head.uri.path());
        };
        let settings = self.intake.settings();
        settings.counts.requests.add(1);
        let read = async {
            self.intake.admits(signal).map_err(|refusal| reply::status_of(&refusal))?;
            MessageReader::new(&head.headers, body, self.limits, &settings.ledger)?.only().await
        };
        match read.await {
            Ok((body, claim)) => reply::over_grpc(signal, self.intake.take(signal, body, claim).await),
            Err(status) => {
                settings.counts.requests_refused.add(1);
                grpc::refuse(&status)
            }
        }
    }
}

impl Handler for GrpcDoor {
    fn handle(
        self: Arc<Self>,
        request: Request<Incoming>,
        _peer: Arc<Peer>,
    ) -> BoxFuture<'static, Response<ReplyBody>> {
        Box::pin(async move { self.answer(request).await })
    }
}

/// The signal that a method takes.
fn signal_of(path: &str) -> Option<Signal> {
    match path {
        "/opentelemetry.proto.collector.trace.v1.TraceService/Export" => Some(Signal::Traces),
        "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export" => Some(Signal::Metrics),
        "/opentelemetry.proto.collector.logs.v1.LogsService/Export" => Some(Signal::Logs),
        _ => None,
    }
}
