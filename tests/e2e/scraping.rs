//! Targets that are fetched from: pages become metrics, and what goes away is told of.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;

use prost::Message;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use weir_proto::opentelemetry::proto::collector::metrics::v1::ExportMetricsServiceRequest;
use weir_proto::opentelemetry::proto::common::v1::any_value::Value;
use weir_proto::opentelemetry::proto::metrics::v1::metric::Data;
use weir_proto::opentelemetry::proto::metrics::v1::number_data_point;
use weir_tests::{OtlpSink, Weir, wait_until};

use crate::reload::becomes;
use crate::run::DELIVERY_DEADLINE;

/// One static target, and others in files.
const CONFIG: &str = "receivers:
  prometheus:
    config:
      global: {scrape_interval: 500ms, scrape_timeout: 400ms}
      scrape_configs:
        - job_name: pages
          basic_auth: {username: weir, password: hunter2}
          static_configs: [{targets: ['<target>'], labels: {shelf: top}}]
          metric_relabel_configs: [{source_labels: [__name__], regex: noise_total, action: drop}]
        - job_name: files
          file_sd_configs: [{files: ['FOLDER/*.json']}]
exporters:
  otlp: {endpoint: 'http://<sink>', retry: {initial_interval: 10ms, max_interval: 100ms}}
service:
  pipelines:
    metrics: {receivers: [prometheus], exporters: [otlp]}
";

const PAGE: &str = "# TYPE jobs_total counter\njobs_total{kind=\"a\"} 3\nnoise_total 1\n";

/// Serves [`PAGE`] to whoever knows the password.
async fn target(tasks: &mut JoinSet<()>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    tasks.spawn(async move {
        let mut served = JoinSet::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            served.spawn(async move {
                let mut asked = Vec::new();
                while !asked.ends_with(b"\r\n\r\n") {
                    let mut some = [0; 1024];
                    match stream.read(&mut some).await {
                        Ok(count) if count > 0 => asked.extend_from_slice(&some[..count]),
                        Ok(_) | Err(_) => return,
                    }
                }
                let asked = String::from_utf8_lossy(&asked).to_lowercase();
                let knows = asked.contains("authorization: basic d2vpcjpodw50zxiy");
                let status = if knows { "200 OK" } else { "401 Unauthorized" };
                let answer = format!(
                    "HTTP/1.1 {status}\r\ncontent-type: text/plain; version=0.0.4\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{PAGE}",
                    PAGE.len()
                );
                drop(stream.write_all(answer.as_bytes()).await);
            });
        }
    });
    address
}

/// Every point that has arrived, as `INSTANCE NAME VALUE`; `gone` where it is a staleness marker.
fn seen(sink: &OtlpSink, into: &mut BTreeSet<String>) {
    for arrival in sink.drain() {
        let request = ExportMetricsServiceRequest::decode(arrival.body).expect("a request of metrics");
        for of_resource in request.resource_metrics {
            let attributes = of_resource.resource.unwrap_or_default().attributes;
            let instance = attributes.into_iter().find(|attribute| attribute.key == "service.instance.id");
            let instance = match instance.and_then(|found| found.value).and_then(|value| value.value) {
                Some(Value::StringValue(text)) => text,
                other => panic!("no instance: {other:?}"),
            };
            let metrics = of_resource.scope_metrics.into_iter().flat_map(|scope| scope.metrics);
            for metric in metrics {
                let points = match metric.data {
                    Some(Data::Gauge(gauge)) => gauge.data_points,
                    Some(Data::Sum(sum)) => sum.data_points,
                    other => panic!("{}: {other:?}", metric.name),
                };
                for point in points {
                    let value = match point.value {
                        _ if point.flags & 1 == 1 => "gone".to_owned(),
                        Some(number_data_point::Value::AsDouble(value)) => value.to_string(),
                        other => format!("{other:?}"),
                    };
                    into.insert(format!("{instance} {} {value}", metric.name));
                }
            }
        }
    }
}

async fn come(sink: &OtlpSink, points: &mut BTreeSet<String>, wanted: &[String]) {
    let what = format!("points {wanted:?}");
    wait_until(DELIVERY_DEADLINE, &what, || {
        seen(sink, points);
        wanted.iter().all(|wanted| points.contains(wanted)).then_some(())
    })
    .await;
}

fn write(folder: &Path, text: &str) {
    std::fs::write(folder.join("new"), text).expect("written");
    std::fs::rename(folder.join("new"), folder.join("targets.json")).expect("renamed");
}

/// Scenario: a target behind a password, and one of a file where nobody listens; the file breaks, then names nobody; a reload takes
/// the first target away; the process ends.
/// Guarantees: the page's series and `up` arrive, without what a rule drops; a dead target is down; a broken file is told and
/// changes nothing; each target that goes is told of, series by series, and no end of the process is taken for one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_of_targets_arrive_and_their_ends_are_told() {
    let (mut tasks, folder) = (JoinSet::new(), tempfile::tempdir().expect("a folder"));
    let (sink, target) = (OtlpSink::start().await, target(&mut tasks).await);
    let closed = TcpListener::bind("127.0.0.1:0").await.expect("a free port").local_addr().expect("bound");
    write(folder.path(), &format!(r#"[{{"targets": ["{closed}"]}}]"#));
    let config = CONFIG.replace("FOLDER", &folder.path().display().to_string());
    let mut weir = Weir::start(&config, &[("sink", sink.address()), ("target", target)]).await;
    weir.log().announce("scrape failed, nothing of it is taken");
    weir.log().announce("file of targets cannot be used");
    let mut points = BTreeSet::new();
    let live = [format!("{target} up 1"), format!("{target} jobs_total 3"), format!("{closed} up 0")];
    come(&sink, &mut points, &live).await;
    assert!(!points.iter().any(|point| point.contains("noise") || point.contains("gone")), "{points:?}");
    weir.metric_becomes(DELIVERY_DEADLINE, "weir_scrape_targets", &[("receiver", "prometheus")], 2.0).await;

    write(folder.path(), "[{");
    weir.metric_becomes(DELIVERY_DEADLINE, "weir_scrape_files_broken", &[("receiver", "prometheus")], 1.0)
        .await;
    let (_, health) = weir.health().await;
    assert!(health.to_string().contains("targets.json"), "{health}");
    write(folder.path(), "[]");
    come(&sink, &mut points, &[format!("{closed} up gone")]).await;
    assert!(!points.contains(&format!("{target} up gone")), "{points:?}");

    let without = config.replace("['<target>']", "[]");
    becomes(&mut weir, &without, true).await;
    come(&sink, &mut points, &[format!("{target} up gone"), format!("{target} jobs_total gone")]).await;

    becomes(&mut weir, &config, true).await;
    sink.drain();
    points.clear();
    come(&sink, &mut points, &live[..2]).await;
    weir.stop().await;
    seen(&sink, &mut points);
    assert!(!points.iter().any(|point| point.contains("gone")), "{points:?}");
}
