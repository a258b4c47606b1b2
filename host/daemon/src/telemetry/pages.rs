//! The pages for machines: `/metrics` on 8888, `/health` on 13133.

use std::sync::Arc;

use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use serde::Serialize;
use weir_exporter::ExporterCounts;
use weir_model::BoxFuture;
use weir_net::ReplyBody;
use weir_net::listen::{Handler, Peer};
use weir_net::reply::{text, typed};
use weir_queue::Queue;

use crate::telemetry::metrics::{CONTENT_TYPE, Metrics};

/// Serves `/metrics`.
#[derive(Debug)]
pub struct MetricsPage(pub Arc<Metrics>);

impl Handler for MetricsPage {
    fn handle(
        self: Arc<Self>,
        request: Request<Incoming>,
        _: Arc<Peer>,
    ) -> BoxFuture<'static, Response<ReplyBody>> {
        let response = match (request.method(), request.uri().path()) {
            (&Method::GET | &Method::HEAD, "/metrics") => match self.0.render() {
                Ok(page) => typed(StatusCode::OK, CONTENT_TYPE, page),
                Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
            },
            (_, "/metrics") => text(StatusCode::METHOD_NOT_ALLOWED, "expected GET /metrics\n"),
            _ => text(StatusCode::NOT_FOUND, "expected GET /metrics\n"),
        };
        Box::pin(std::future::ready(response))
    }
}

/// What the health page looks at.
#[derive(Default)]
pub struct Health {
    /// Pipelines with their logs.
    pub queues: Vec<(String, Arc<dyn Queue>)>,
    /// Exporters: pipeline, id, what they count.
    pub exporters: Vec<(String, String, ExporterCounts)>,
    /// Signaled when the process drains.
    pub drain: weir_net::Drain,
}

#[derive(Serialize)]
struct Report {
    status: &'static str,
    problems: Vec<Problem>,
}

#[derive(Serialize)]
struct Problem {
    part: String,
    what: String,
}

impl Health {
    /// What is wrong now.
    ///
    /// A paused exporter or a degraded queue is told, but the process is healthy as long as it takes and keeps data:
    /// a restart by a supervisor would mend neither.
    fn report(&self) -> (StatusCode, Report) {
        let mut problems = Vec::new();
        for (pipeline, queue) in &self.queues {
            if let Some(why) = queue.status().degraded {
                problems.push(Problem { part: format!("pipeline {pipeline}"), what: why });
            }
        }
        for (pipeline, id, counts) in &self.exporters {
            if let Some(why) = counts.state().paused {
                let part = format!("exporter {id} of pipeline {pipeline}");
                problems.push(Problem { part, what: format!("paused until an operator acts: {why}") });
            }
        }
        if self.drain.is_signaled() {
            return (StatusCode::SERVICE_UNAVAILABLE, Report { status: "draining", problems });
        }
        let status = if problems.is_empty() { "ok" } else { "degraded" };
        (StatusCode::OK, Report { status, problems })
    }
}

impl Handler for Health {
    fn handle(
        self: Arc<Self>,
        request: Request<Incoming>,
        _: Arc<Peer>,
    ) -> BoxFuture<'static, Response<ReplyBody>> {
        let response = match request.uri().path() {
            "/" | "/health" | "/livez" | "/readyz" => {
                let (status, report) = self.report();
                let body = serde_json::to_vec_pretty(&report).unwrap_or_default();
                typed(status, "application/json", body)
            }
            _ => text(StatusCode::NOT_FOUND, "expected GET /health\n"),
        };
        Box::pin(std::future::ready(response))
    }
}
