//! A daemon between two backends, and what must be true of it after every client.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard};
use weir_tests::sink::{SeenMetric, SeenSpan};
use weir_tests::{OtlpSink, Profile, Weir, ZipkinSink, wait_until};
use weir_wire::Signal;

use crate::mapping;

/// How long what a client sent may be on its way.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// Everything that clients speak, to everything that backends are. What a sender says of itself stays as it said.
const CONFIG: &str = "
receivers:
  opencensus:
    endpoint: <opencensus>
    cors: {allowed_origins: ['https://*.example']}
  otlp:
    protocols:
      grpc: {endpoint: <otlp-grpc>}
      http: {endpoint: <otlp-http>}
  zipkin: {endpoint: <zipkin>}
  jaeger:
    protocols:
      thrift_compact: {endpoint: <jaeger-compact>}
      thrift_binary: {endpoint: <jaeger-binary>}
      thrift_http: {endpoint: <jaeger-http>}
      grpc: {endpoint: <jaeger-grpc>}
processors:
  resource:
    attributes: {deployment.environment: interop, service.name: nobody}
    detect: [os.type]
exporters:
  otlp: {endpoint: http://<otlp-backend>}
  zipkin: {endpoint: http://<zipkin-backend>/api/v2/spans}
service:
  pipelines:
    traces: {receivers: [opencensus, otlp, zipkin, jaeger], processors: [resource], exporters: [otlp, zipkin]}
    metrics: {receivers: [opencensus, otlp], processors: [resource], exporters: [otlp]}
    logs: {receivers: [otlp], processors: [resource], exporters: [otlp]}
";

/// Clients run one after the other.
pub(crate) static TURN: Mutex<()> = Mutex::const_new(());

pub(crate) struct Stage {
    pub(crate) weir: Weir,
    pub(crate) otlp: Arc<OtlpSink>,
    pub(crate) zipkin: Arc<ZipkinSink>,
    _turn: MutexGuard<'static, ()>,
}

impl Stage {
    /// Starts all three, when it is this test's turn.
    pub(crate) async fn set() -> Self {
        let turn = TURN.lock().await;
        let (otlp, zipkin) = (OtlpSink::start().await, ZipkinSink::start().await);
        let known = [("otlp-backend", otlp.address()), ("zipkin-backend", zipkin.address())];
        let weir = Weir::start_as(Profile::Release, CONFIG, &known).await;
        Self { weir, otlp: otlp.into(), zipkin: zipkin.into(), _turn: turn }
    }

    /// An address of the daemon, as `host:port`.
    pub(crate) fn address(&self, name: &str) -> String {
        self.weir.address(name).to_string()
    }

    /// The same with a scheme.
    pub(crate) fn url(&self, name: &str) -> String {
        format!("http://{}", self.weir.address(name))
    }

    /// Waits until both backends have so many spans, and no more; returns the OTLP backend's. The Zipkin backend's are
    /// those that belong to them.
    pub(crate) async fn spans(&self, count: usize) -> Vec<SeenSpan> {
        let what = format!("{count} spans at both backends");
        wait_until(DEADLINE, &what, || {
            let complaints = self.zipkin.complaints();
            assert!(complaints.is_empty(), "what no Zipkin takes: {complaints:?}");
            let arrived = (self.otlp.spans().len(), self.zipkin.spans().len());
            (arrived.0 >= count && arrived.1 >= count).then_some(())
        })
        .await;
        let spans = self.otlp.spans();
        let zipkin = self.zipkin.spans();
        let names: Vec<_> = spans.iter().map(|seen| &seen.span.name).collect();
        assert_eq!((spans.len(), zipkin.len()), (count, count), "{names:?}");
        for seen in &spans {
            mapping::check(seen, &zipkin);
        }
        spans
    }

    /// Waits until the OTLP backend has metrics of all these names; returns the first of each, in this order.
    pub(crate) async fn metrics(&self, names: &[&str]) -> Vec<SeenMetric> {
        wait_until(DEADLINE, &format!("the metrics {names:?}"), || {
            let seen = self.otlp.metrics();
            names.iter().map(|name| seen.iter().find(|seen| seen.metric.name == *name).cloned()).collect()
        })
        .await
    }

    /// What stands under `/metrics` once everything is delivered: items that `receiver` accepted, and no loss anywhere.
    pub(crate) async fn counts(&self, receiver: &str, signal: Signal, items: usize) {
        let noun = noun(signal);
        // What is on its way to a backend is counted a moment later, when its sender has the answer.
        let accepted = format!("otelcol_receiver_accepted_{noun}_total");
        let from = [("receiver", receiver)];
        self.weir.metric_becomes(DEADLINE, &accepted, &from, items as f64).await;
        let exporters: &[&str] = if signal == Signal::Traces { &["otlp", "zipkin"] } else { &["otlp"] };
        for exporter in exporters {
            let sent = format!("otelcol_exporter_sent_{noun}_total");
            self.weir.metric_becomes(DEADLINE, &sent, &[("exporter", exporter)], items as f64).await;
        }
        self.no_loss().await;
    }

    /// Nothing was refused, dropped or dead-lettered.
    async fn no_loss(&self) {
        let page = self.weir.metrics().await;
        let is_loss = |name: &str| {
            let words = ["refused", "dropped", "dead_letter", "rejected", "skipped", "damaged", "failed"];
            words.iter().any(|word| name.contains(word))
        };
        let lost: Vec<_> = page.samples().iter().filter(|s| is_loss(&s.name) && s.value != 0.0).collect();
        assert!(lost.is_empty(), "{lost:?}");
    }

    /// Stops the daemon, which must end cleanly.
    pub(crate) async fn strike(self) {
        self.weir.stop().await;
    }
}

pub(crate) fn noun(signal: Signal) -> &'static str {
    match signal {
        Signal::Traces => "spans",
        Signal::Metrics => "metric_points",
        Signal::Logs => "log_records",
    }
}
