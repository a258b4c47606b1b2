//! What a push through a sandbox costs: the call alone, the copy of a batch, and the Zipkin exporter with its backend.
//!
//! The backend is a thread of the same process that reads and answers, so its share is in the last figure.

#![expect(clippy::unwrap_used, reason = "a bench may panic")]

#[path = "../build/guests.rs"]
mod guests;

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::thread;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use weir_model::{Exporter as _, Ledger, Outcome, Push, Signal};
use weir_net::client::{Client, ClientSettings};
use weir_plugin::{Host, HostSettings, Part, PluginExporter};
use weir_wire::json::{JsonLimits, to_protobuf};

const SPANS: u32 = 1000;

/// A span of some 390 bytes: 8 attributes, one event.
fn span(n: u32) -> String {
    let mut attributes = String::new();
    for (key, value) in [
        ("http.method", "GET".to_owned()),
        ("http.url", format!("https://shop.example.com/api/v1/products?page={n}")),
        ("http.status_code", "200".to_owned()),
        ("net.peer.ip", "10.1.2.3".to_owned()),
        ("net.peer.port", "443".to_owned()),
        ("http.user_agent", "Mozilla/5.0 (X11; Linux)".to_owned()),
        ("component", "frontend".to_owned()),
        ("thread.name", format!("worker-{}", n % 8)),
    ] {
        write!(attributes, r#"{{"key":"{key}","value":{{"stringValue":"{value}"}}}},"#).unwrap();
    }
    let attributes = attributes.trim_end_matches(',');
    format!(
        r#"{{"traceId":"5b8efff798038103d269b633813fc{n:03x}","spanId":"eee19b7ec3c1b{n:03x}","parentSpanId":"eee19b7ec3c1b173",
        "name":"GET /api/v1/products","kind":2,"startTimeUnixNano":"1544712660000000000","endTimeUnixNano":"1544712661000000000",
        "attributes":[{attributes}],"events":[{{"timeUnixNano":"1544712660500000000","name":"cache miss"}}],"status":{{}}}}"#
    )
}

fn batch() -> Bytes {
    let spans: Vec<String> = (0..SPANS).map(span).collect();
    let resource = r#"{"attributes":[{"key":"service.name","value":{"stringValue":"shop"}}]}"#;
    let spans = spans.join(",");
    let json =
        format!(r#"{{"resourceSpans":[{{"resource":{resource},"scopeSpans":[{{"spans":[{spans}]}}]}}]}}"#);
    to_protobuf(Signal::Traces, json.as_bytes(), &JsonLimits::default()).unwrap().into()
}

/// A backend that reads requests and says 202; returns its URL.
fn backend() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/api/v2/spans", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming() {
            thread::spawn(move || answer(stream.unwrap()));
        }
    });
    url
}

fn answer(mut stream: TcpStream) {
    let mut buffer = vec![0; 1 << 20];
    while let Ok(first) = stream.read(&mut buffer) {
        let Some(end) = buffer[..first].windows(4).position(|window| window == b"\r\n\r\n") else {
            return;
        };
        let head = String::from_utf8_lossy(&buffer[..end]).to_lowercase();
        let length = head.split("content-length: ").nth(1).unwrap().split('\r').next().unwrap();
        let mut left = length.parse::<usize>().unwrap() - (first - end - 4);
        while left > 0 {
            left -= stream.read(&mut buffer).unwrap();
        }
        stream.write_all(b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n").unwrap();
    }
}

fn push(runtime: &Runtime, exporter: &Arc<PluginExporter>, body: &Bytes) {
    let push = Push {
        signal: Signal::Traces,
        body: body.clone(),
        id: "bench".into(),
        attempt: 1,
        items: SPANS,
        places: None,
        searching: false,
    };
    assert_eq!(runtime.block_on(exporter.push(push)), Outcome::Accepted);
}

fn pushes(criterion: &mut Criterion) {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target = here.join("../../plugins/target");
    let folder = tempfile::tempdir().unwrap();
    for (workspace, package) in [("tests/guests", "hostile"), ("../../plugins", "zipkin-exporter")] {
        let wasm = guests::Workspace::new(here.join(workspace), target.clone()).build(package).unwrap();
        std::fs::write(folder.path().join(format!("{package}.wasm")), wasm).unwrap();
    }
    let ledger = Ledger::new(192 << 20);
    let settings = HostSettings {
        client: Client::new(ClientSettings::new(Arc::clone(&ledger))),
        ledger,
        cache_dir: None,
        plugin_dir: Some(folder.path().to_owned()),
        bundled: &[],
    };
    let host = Host::new(settings).unwrap();
    let runtime = Runtime::new().unwrap();
    let exporter = |name: &str, settings: Value| {
        runtime.block_on(host.load(name, None)).unwrap().exporter(Part::new(name, settings)).unwrap()
    };
    let nothing = exporter("hostile", json!({"mode": "accept"}));
    let zipkin = exporter("zipkin-exporter", json!({"endpoint": backend()}));
    let body = batch();
    criterion.bench_function("push of nothing", |b| b.iter(|| push(&runtime, &nothing, &Bytes::new())));
    let mut group = criterion.benchmark_group(format!("push of {SPANS} spans, {} bytes", body.len()));
    group.throughput(Throughput::Elements(SPANS.into()));
    group.bench_function("copied only", |b| b.iter(|| push(&runtime, &nothing, &body)));
    group.bench_function("to Zipkin JSON and sent", |b| b.iter(|| push(&runtime, &zipkin, &body)));
    group.finish();
}

criterion_group!(benches, pushes);
criterion_main!(benches);
