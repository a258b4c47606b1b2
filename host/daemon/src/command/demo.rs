//! `weir demo`: the whole way of a span, in one process, with nothing faked on the way.
//!
//! ```text
//! gRPC sender ─┐                                                    ┌─▶ Zipkin backend (in this process)
//! HTTP sender ─┴─▶ OTLP receiver ─▶ queue on disk ─▶ zipkin-exporter.wasm
//!      ▲                                 │ fdatasync
//!      └────────── acknowledged ◀────────┘
//! ```

mod backend;
mod sender;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tokio::time::timeout;
use weir_net::listen;

use self::backend::Backend;
use self::sender::{Acknowledged, Senders, SpanName};
use super::run::Prepared;
use super::{Failure, say};
use crate::assembly::{Daemon, Triggers};
use crate::config;
use crate::shutdown::{Ended, Signals, Stop};

/// How long anything in the demo may take before it is a failure.
const DEADLINE: Duration = Duration::from_secs(30);

/// Requests of the throughput part, and spans in each.
const BURST_REQUESTS: usize = 100;
const BURST_SPANS: usize = 1000;

/// Requests of the throughput part that are under way at once.
const BURST_IN_FLIGHT: usize = 4;

/// Runs it.
pub(super) fn demo(once: bool) -> Result<ExitCode, Failure> {
    crate::telemetry::logs::start("warn", crate::telemetry::logs::Format::Text);
    let runtime = tokio::runtime::Runtime::new().context("start the runtime")?;
    let folder = tempfile::tempdir().context("make a folder for the demo")?;
    let bound =
        listen::Bound::bind("127.0.0.1:0", listen::Settings::default()).context("bind the Zipkin backend")?;
    let text = configuration(folder.path(), &bound.local_addr().to_string());
    say(&format!("The configuration of this demo:\n{}", indent(&text)));
    let draft = config::parse("demo.yaml", &text, &|name| std::env::var(name).ok());
    let prepared = super::run::prepare(draft, runtime.handle())?;
    runtime.block_on(show(once, bound, prepared))
}

async fn show(once: bool, bound: listen::Bound, prepared: Prepared) -> Result<ExitCode, Failure> {
    let backend = Arc::new(Backend::default());
    let backend_drain = weir_net::Drain::new();
    let serving =
        tokio::spawn(bound.serve(Arc::clone(&backend) as Arc<dyn listen::Handler>, backend_drain.clone()));
    let daemon = Daemon::assemble(prepared.config, prepared.foundation).await?;
    let addresses = daemon.addresses();
    let address = |protocol: &str| {
        let found = addresses.iter().find(|(_, known, _)| *known == protocol);
        found
            .map(|(_, _, address)| *address)
            .with_context(|| format!("the otlp receiver has no {protocol} address"))
    };
    let senders = Senders::new(address("otlp/grpc")?, address("otlp/http")?)?;
    let stop = Stop::default();
    let running = tokio::spawn(daemon.run(stop.clone(), Triggers::default()));

    let shown = tour(&senders, &backend).await;
    if shown.is_ok() && !once {
        say("\nThe daemon goes on; send to it, or end it with Ctrl-C:");
        for (receiver, protocol, address) in &addresses {
            say(&format!("  {receiver} {protocol:5} {address}"));
        }
        Signals::listen().context("listen for signals")?.end().await;
    }
    stop.begin.signal();
    let ended = running.await.context("the daemon panicked")?;
    backend_drain.signal();
    serving.await.context("the backend panicked")?.context("serve the backend")?;
    shown?;
    match ended {
        Ended::Clean { .. } => {
            say("\nDrained cleanly.");
            Ok(ExitCode::SUCCESS)
        }
        Ended::Cut { what } => Err(Failure::Other(anyhow::anyhow!("the drain was cut: {what}"))),
    }
}

/// Shows a few spans one by one, then many at once.
async fn tour(senders: &Senders, backend: &Backend) -> anyhow::Result<()> {
    say("\nEach span's way (times since it was sent):");
    for (number, over_http) in [(1, false), (2, true), (3, false), (4, true)] {
        let name = SpanName::of_demo(number);
        let sent = Instant::now();
        let Acknowledged { protocol, spans } = senders.one(&name, over_http).await?;
        let acknowledged = sent.elapsed();
        let arrived = timeout(DEADLINE, backend.wait_for(&name.to_string()))
            .await
            .with_context(|| format!("span {name} did not reach the backend within {DEADLINE:?}"))?;
        let exported = arrived.at.saturating_duration_since(sent);
        say(&format!(
            "  {name}  sent over {protocol}  ─▶ acknowledged after {} (persisted: fdatasync had returned)  ─▶ at the \
             backend after {}, {spans} span as Zipkin JSON",
            millis(acknowledged),
            millis(exported),
        ));
        if number == 1 {
            say(&format!("      {}", arrived.json));
        }
    }
    burst(senders, backend).await
}

async fn burst(senders: &Senders, backend: &Backend) -> anyhow::Result<()> {
    let total = (BURST_REQUESTS * BURST_SPANS) as u64;
    let before = backend.spans();
    let started = Instant::now();
    senders.burst(BURST_REQUESTS, BURST_SPANS, BURST_IN_FLIGHT).await?;
    let acknowledged = started.elapsed();
    let arrived = timeout(DEADLINE, backend.wait_for_count(before + total)).await;
    let seen = backend.spans() - before;
    if arrived.is_err() {
        bail!("{seen} of {total} acknowledged spans reached the backend within {DEADLINE:?}");
    }
    let exported = started.elapsed();
    let rate = |took: Duration| total as f64 / took.as_secs_f64();
    say(&format!(
        "\nThroughput: {total} spans in requests of {BURST_SPANS}: all acknowledged from disk after {} ({:.0} spans/s), \
         all at the backend after {} ({:.0} spans/s); acknowledged and missing: {}",
        millis(acknowledged),
        rate(acknowledged),
        millis(exported),
        rate(exported),
        total.saturating_sub(seen),
    ));
    Ok(())
}

fn configuration(folder: &std::path::Path, backend: &str) -> String {
    format!(
        "\
receivers:
  otlp: {{protocols: {{grpc: {{endpoint: 127.0.0.1:0}}, http: {{endpoint: 127.0.0.1:0}}}}}}
exporters:
  zipkin: {{endpoint: http://{backend}/api/v2/spans}}
service:
  data_dir: {}
  queue: {{storage: disk}}
  telemetry: {{metrics: {{endpoint: 127.0.0.1:0}}}}
  health: {{endpoint: 127.0.0.1:0}}
  pipelines:
    traces: {{receivers: [otlp], exporters: [zipkin]}}
",
        folder.display()
    )
}

fn indent(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}

fn millis(took: Duration) -> String {
    format!("{:.1} ms", took.as_secs_f64() * 1e3)
}
