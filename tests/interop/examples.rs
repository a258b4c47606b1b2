//! The exporters of `plugins/examples`: each is built as its README says, from the contract alone, and all do the same.
//!
//! ```text
//! OTLP ──▶ weir ──▶ spans-c, spans-go, spans-javascript, spans-python, spans-rust ──▶ a backend for lines
//! ```
//!
//! The expected lines are written from the batch, by no code that an example shares.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use http::StatusCode;
use prost::Message;
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;
use tokio::sync::MutexGuard;
use weir_proto::opentelemetry::proto::collector::trace::v1::ExportTraceServiceRequest;
use weir_proto::opentelemetry::proto::common::v1::{
    AnyValue, ArrayValue, InstrumentationScope, KeyValue, KeyValueList, any_value,
};
use weir_proto::opentelemetry::proto::resource::v1::Resource;
use weir_proto::opentelemetry::proto::trace::v1::{ResourceSpans, ScopeSpans, Span, Status, span};
use weir_tests::batch::hex;
use weir_tests::sink::LineAnswer;
use weir_tests::{BatchId, LineSink, Profile, Protocol, Sender, Shape, Verdict, Weir, wait_until};

use crate::install::example;
use crate::stage::TURN;

const LANGUAGES: [&str; 5] = ["c", "go", "javascript", "python", "rust"];

/// How long batches may be on their way; the first waits until five instances are made.
const DEADLINE: Duration = Duration::from_secs(60);

/// What a backend may wish for, in whole seconds.
const WISH: Duration = Duration::from_secs(2);

/// A daemon with an exporter for each language, all to one backend, told apart by the path.
struct Stage {
    weir: Weir,
    sink: LineSink,
    plugins: TempDir,
    _turn: MutexGuard<'static, ()>,
}

impl Stage {
    /// Builds what is not built yet and starts, when it is this test's turn.
    async fn set() -> Self {
        let turn = TURN.lock().await;
        let plugins = tokio::task::spawn_blocking(|| {
            let folder = TempDir::with_prefix("plugins-").expect("a folder for plugins");
            for language in LANGUAGES {
                let component = example(language);
                let copied = std::fs::copy(&component, folder.path().join(file(language)));
                copied.unwrap_or_else(|error| panic!("{}: {error}", component.display()));
            }
            folder
        });
        let plugins = plugins.await.expect("building does not panic otherwise");
        let sink = LineSink::start().await;
        let config = config(plugins.path(), "");
        let weir = Weir::start_as(Profile::Release, &config, &[("sink", sink.address())]).await;
        Self { weir, sink, plugins, _turn: turn }
    }

    async fn send(&self, protocol: Protocol, request: &ExportTraceServiceRequest) {
        let door = match protocol {
            Protocol::OtlpGrpc => "otlp-grpc",
            Protocol::OtlpHttp => "otlp-http",
            Protocol::OpenCensus | Protocol::Zipkin => panic!("{protocol:?} has no door here"),
        };
        let mut sender = Sender::new(protocol, self.weir.address(door));
        assert_eq!(sender.send_encoded(request.encode_to_vec().into()).await, Verdict::Taken);
    }

    /// Waits until the backend has taken these lines from each language, and no others, in whatever order.
    async fn lines(&self, expected: &[String]) {
        let mut expected = expected.to_vec();
        expected.sort_unstable();
        for language in LANGUAGES {
            let path = format!("/{language}");
            let what = format!("{} lines from {language}", expected.len());
            let mut found = wait_until(DEADLINE, &what, || {
                let lines = self.sink.lines(&path);
                (lines.len() >= expected.len()).then_some(lines)
            })
            .await;
            found.sort_unstable();
            for (found, expected) in found.iter().zip(&expected) {
                assert_eq!(found, expected, "of {language}");
            }
            assert_eq!(found.len(), expected.len(), "of {language}");
        }
    }

    /// Waits until each plugin has so many pushes of this outcome.
    async fn pushes(&self, outcome: &str, count: u32) {
        for language in LANGUAGES {
            let labels = [("kind", "exporter"), ("id", language), ("outcome", outcome)];
            self.weir.metric_becomes(DEADLINE, "weir_plugin_pushes_total", &labels, count.into()).await;
        }
    }

    /// Runs a command of the binary, and returns its exit code and what it said.
    async fn command(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        let mut command = Command::new(self.weir.binary());
        let output = command.args(arguments).env("NO_COLOR", "1").kill_on_drop(true).output();
        let output = output.await.expect("the binary starts");
        let [out, err] =
            [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        (output.status.code(), out, err)
    }
}

fn file(language: &str) -> String {
    format!("spans-{language}.wasm")
}

/// All five; `fragment` is added to each endpoint.
fn config(plugins: &Path, fragment: &str) -> String {
    let exporter = |language| {
        format!(
            "  {language}:\n    plugin: spans-{language}\n    settings: {{endpoint: 'http://<sink>/{language}{fragment}'}}\n    \
             retry: {{initial_interval: 50ms, max_interval: 1m}}\n"
        )
    };
    format!(
        "receivers:\n  otlp: {{protocols: {{grpc: {{endpoint: <otlp-grpc>}}, http: {{endpoint: <otlp-http>}}}}}}\nexporters:\n{}\
         service:\n  plugin_dir: {}\n  pipelines:\n    traces: {{receivers: [otlp], exporters: [{}]}}\n",
        LANGUAGES.map(exporter).concat(),
        plugins.display(),
        LANGUAGES.join(", "),
    )
}

// === batches ===

fn text(value: &str) -> AnyValue {
    AnyValue { value: Some(any_value::Value::StringValue(value.to_owned())) }
}

fn attribute(key: &str, value: any_value::Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }) }
}

fn group(attributes: Vec<KeyValue>, spans: Vec<Span>) -> ResourceSpans {
    let resource = Some(Resource { attributes, ..Resource::default() });
    let scope_spans = vec![ScopeSpans { spans, ..ScopeSpans::default() }];
    ResourceSpans { resource, scope_spans, ..ResourceSpans::default() }
}

fn of_service(name: &str, spans: Vec<Span>) -> ResourceSpans {
    group(vec![KeyValue { key: "service.name".to_owned(), value: Some(text(name)) }], spans)
}

/// A span with everything that a span can have, and that no line shows.
fn rich(name: &str, number: u8) -> Span {
    let list = ArrayValue { values: vec![text("a\tb"), text("\"")] };
    let map = KeyValueList { values: vec![attribute("service.name", any_value::Value::IntValue(-1))] };
    let attributes = vec![
        attribute("service.name", any_value::Value::StringValue("not the service".to_owned())),
        attribute("list", any_value::Value::ArrayValue(list)),
        attribute("map", any_value::Value::KvlistValue(map)),
        attribute("bytes", any_value::Value::BytesValue(vec![0, 255])),
        attribute("not a number", any_value::Value::DoubleValue(f64::NAN)),
        KeyValue { key: String::new(), value: None },
    ];
    Span {
        attributes: attributes.clone(),
        trace_state: "a=b".to_owned(),
        parent_span_id: vec![9; 8],
        flags: 0x101,
        kind: span::SpanKind::Consumer.into(),
        events: vec![span::Event {
            time_unix_nano: 7,
            name: "an event".to_owned(),
            attributes: attributes.clone(),
            ..span::Event::default()
        }],
        links: vec![span::Link {
            trace_id: vec![8; 16],
            span_id: vec![8; 8],
            attributes,
            ..span::Link::default()
        }],
        status: Some(Status { message: "no\nsuch row".to_owned(), code: 2 }),
        ..plain(name, number)
    }
}

fn plain(name: &str, number: u8) -> Span {
    Span {
        trace_id: [[0xab; 15].as_slice(), &[number]].concat(),
        span_id: [[0xcd; 7].as_slice(), &[number]].concat(),
        name: name.to_owned(),
        start_time_unix_nano: 1_700_000_000_123_456_789,
        end_time_unix_nano: 1_700_000_000_123_456_789 + u64::from(number),
        ..Span::default()
    }
}

/// Names that break what is careless: separators, quotes, escapes, controls, every width of UTF-8, none at all, a long one.
fn unusual() -> ExportTraceServiceRequest {
    let long = "größe ".repeat(5_000);
    let names = [
        "",
        " ",
        "a\tb\nc\rd\r\n",
        "\"quoted\" 'and' \\back\\\\slash\\n \\u0041 %41 </script>",
        "\0\u{1}\u{7f}\u{85}\u{2028}\u{feff}",
        "é ß ñ ‰ 日本語 😀 👩‍👩‍👧 \u{10ffff} e\u{301}",
        long.as_str(),
    ];
    let spans: Vec<_> = names.iter().zip(0..).map(|(name, number)| rich(name, number)).collect();
    let backwards = Span { start_time_unix_nano: 2, end_time_unix_nano: 1, ..plain("backwards", 100) };
    let endless = Span { start_time_unix_nano: 0, end_time_unix_nano: u64::MAX, ..plain("endless", 101) };
    let timeless = Span { start_time_unix_nano: 0, end_time_unix_nano: 0, ..plain("timeless", 102) };
    let mut scoped = of_service("shop \"größe\"\t日本\\😀", spans);
    scoped.scope_spans[0].scope =
        Some(InstrumentationScope { name: "scope".to_owned(), ..InstrumentationScope::default() });
    let second = ScopeSpans { spans: vec![backwards, endless, timeless], ..ScopeSpans::default() };
    scoped.scope_spans.extend([ScopeSpans::default(), second]);
    let number = attribute("service.name", any_value::Value::IntValue(7));
    let other = attribute("host.name", any_value::Value::StringValue("service.name".to_owned()));
    let named = attribute("service.name", any_value::Value::StringValue("second attribute".to_owned()));
    let nobody = ResourceSpans { resource: None, ..of_service("", vec![plain("no resource", 103)]) };
    let groups = vec![
        scoped,
        nobody,
        of_service("", vec![plain("empty service", 104)]),
        group(vec![number], vec![plain("service is a number", 105)]),
        group(vec![other, named], vec![plain("service comes second", 106)]),
        group(Vec::new(), vec![plain("no service", 107)]),
    ];
    ExportTraceServiceRequest { resource_spans: groups }
}

/// The line of each span.
fn expected(request: &ExportTraceServiceRequest) -> Vec<String> {
    let is_break = |c: char| matches!(c, '\t' | '\n' | '\r');
    let clean = |text: &str| text.chars().map(|c| if is_break(c) { ' ' } else { c }).collect::<String>();
    let mut lines = Vec::new();
    for group in &request.resource_spans {
        let attributes = group.resource.iter().flat_map(|resource| &resource.attributes);
        let value =
            attributes.filter(|a| a.key == "service.name").find_map(|a| a.value.as_ref()?.value.clone());
        let service = match value {
            Some(any_value::Value::StringValue(name)) => clean(&name),
            _ => "?".to_owned(), // a foreign enum, and only a text is a name
        };
        for span in group.scope_spans.iter().flat_map(|scope| &scope.spans) {
            let nanos = span.end_time_unix_nano.saturating_sub(span.start_time_unix_nano);
            let ids = [&span.trace_id, &span.span_id].map(|id| hex(id));
            lines.push(format!("{}\t{}\t{service}\t{}\t{nanos}", ids[0], ids[1], clean(&span.name)));
        }
    }
    lines
}

// === the same in each ===

/// Scenario: each plugin is looked at and given wrong settings; then come batches with unusual strings, times and resources
/// over gRPC, and two thousand ordinary spans over HTTP, all within the default limits.
/// Guarantees: each says the same of its settings, imports nothing that is denied, and posts the same lines, which are those
/// that the batches say; no instance ends.
#[tokio::test(flavor = "multi_thread")]
async fn each_language_posts_the_same_lines() {
    let stage = Stage::set().await;
    settings_are_checked(&stage).await;
    let unusual = unusual();
    stage.send(Protocol::OtlpGrpc, &unusual).await;
    let mut all = expected(&unusual);
    stage.lines(&all).await;
    let many = BatchId { sender: 1, number: 1 }.otlp(Shape { spans: 2000, attributes: 8, value_bytes: 20 });
    stage.send(Protocol::OtlpHttp, &many).await;
    all.extend(expected(&many));
    stage.lines(&all).await;
    stage.pushes("ended", 0).await;
    stage.pushes("retryable", 0).await;
    report_memory(&stage.weir).await;
    stage.weir.stop().await;
}

/// What an author wants to know, and the READMEs say.
async fn report_memory(weir: &Weir) {
    let page = weir.metrics().await;
    for language in LANGUAGES {
        let labels = [("kind", "exporter"), ("id", language)];
        let bytes = page.value("weir_plugin_memory_peak_bytes", &labels).expect("a figure of every plugin");
        eprintln!("{language}: {:.1} MiB at most", bytes / f64::from(1 << 20));
    }
}

/// Scenario: a backend that answers each language with 503 and a wish, 429, 500, 413 above one span, 400, 302, at last 401.
/// Guarantees: each language gives each status the same meaning: again after the wish, again, halved, dead letter, pause.
#[tokio::test(flavor = "multi_thread")]
async fn each_language_gives_a_status_the_same_meaning() {
    let stage = Stage::set().await;
    for part in
        ["backend refuses for now", "to the dead-letter log", "exporter paused until an operator acts"]
    {
        stage.weir.log().announce(part);
    }
    let mut taken = Vec::new();
    for (number, status, wish) in [(1, 503, Some(WISH)), (2, 429, None), (3, 500, None)] {
        let status = StatusCode::from_u16(status).expect("a status");
        let refused = stage.sink.arrivals().len();
        // The first try of each language is refused, and what comes again is taken.
        let seen = std::sync::Mutex::new(std::collections::HashSet::new());
        stage.sink.answer(move |arrival| {
            let is_first = seen.lock().expect("nobody panics here").insert(arrival.path.clone());
            if is_first { LineAnswer { status, retry_after: wish } } else { StatusCode::OK.into() }
        });
        let request =
            ExportTraceServiceRequest { resource_spans: vec![of_service("again", vec![plain("x", number)])] };
        stage.send(Protocol::OtlpGrpc, &request).await;
        taken.extend(expected(&request));
        stage.lines(&taken).await;
        stage.pushes("retryable", u32::from(number)).await;
        for language in LANGUAGES {
            let waited = waited(&stage.sink, refused, language);
            assert!(waited >= wish.unwrap_or_default(), "{language} came again after {waited:?}");
        }
    }
    halved(&stage, &mut taken).await;
    for (number, status) in [(20, 400), (21, 302)] {
        let status = StatusCode::from_u16(status).expect("a status");
        stage.sink.answer(move |_| status.into());
        let request =
            ExportTraceServiceRequest { resource_spans: vec![of_service("never", vec![plain("x", number)])] };
        stage.send(Protocol::OtlpGrpc, &request).await;
        stage.pushes("permanent", u32::from(number) - 19).await;
    }
    stage.sink.answer(|_| StatusCode::UNAUTHORIZED.into());
    let request =
        ExportTraceServiceRequest { resource_spans: vec![of_service("stop", vec![plain("x", 30)])] };
    stage.send(Protocol::OtlpGrpc, &request).await;
    stage.pushes("stopped", 1).await;
    for language in LANGUAGES {
        stage.weir.metric_becomes(DEADLINE, "weir_exporter_paused", &[("exporter", language)], 1.0).await;
    }
    stage.lines(&taken).await;
    stage.pushes("ended", 0).await;
    stage.weir.stop().await;
}

/// How long after its refusal a batch came again.
fn waited(sink: &LineSink, since: usize, language: &str) -> Duration {
    let path = format!("/{language}");
    let arrivals = sink.arrivals().split_off(since);
    let times: Vec<Instant> = arrivals.iter().filter(|a| a.path == path).map(|a| a.at).collect();
    assert_eq!(times.len(), 2, "{language} comes twice");
    times[1] - times[0]
}

/// 413 for more than one span at a time.
async fn halved(stage: &Stage, taken: &mut Vec<String>) {
    stage.sink.answer(|arrival| match arrival.lines.len() {
        1 => StatusCode::OK.into(),
        _ => StatusCode::PAYLOAD_TOO_LARGE.into(),
    });
    let spans = (10..14).map(|number| plain("x", number)).collect();
    let request = ExportTraceServiceRequest { resource_spans: vec![of_service("halves", spans)] };
    stage.send(Protocol::OtlpGrpc, &request).await;
    taken.extend(expected(&request));
    stage.lines(taken).await;
    // Four, two and two; then one at a time.
    stage.pushes("too_large", 3).await;
}

/// What `configure` and what the schema say of a setting is shown at its place, the same for each language; each asks for its
/// endpoint, and imports nothing but the contract and WASI.
async fn settings_are_checked(stage: &Stage) {
    let wrong = beside(stage, "wrong.yaml", &config(stage.plugins.path(), "#fragment"));
    let (code, _, said) = stage.command(&["validate", wrong.to_str().expect("a path of ours")]).await;
    assert_ne!(code, Some(0), "{said}");
    let faults = said.matches("what follows a # is never sent; leave it out").count();
    assert_eq!(faults, LANGUAGES.len(), "{said}");
    let no_url = config(stage.plugins.path(), "").replace("http://<sink>", "gopher://<sink>");
    let wrong = beside(stage, "no-url.yaml", &no_url);
    let (code, _, said) = stage.command(&["validate", wrong.to_str().expect("a path of ours")]).await;
    assert_ne!(code, Some(0), "{said}");
    for language in LANGUAGES {
        assert!(said.contains(&format!("exporters.{language}.settings.endpoint")), "{language}: {said}");
        let config = stage.weir.config_path();
        let arguments = ["plugin", "inspect", "--json", "--config", config.to_str().expect("a path of ours")];
        let name = format!("spans-{language}");
        let (code, shown, said) = stage.command(&[&arguments[..], &[&*name]].concat()).await;
        assert_eq!(code, Some(0), "{said}");
        inspected(language, &serde_json::from_str(&shown).expect("JSON was asked for"));
    }
}

/// A configuration on the daemon's own folder, where the compiled code lies.
fn beside(stage: &Stage, name: &str, config: &str) -> PathBuf {
    let service = format!("service:\n  data_dir: {}\n", stage.weir.data_dir().display());
    let mut text = config.replace("service:\n", &service);
    for (name, address) in [("sink", stage.sink.address())]
        .into_iter()
        .chain(["otlp-grpc", "otlp-http"].map(|name| (name, stage.weir.address(name))))
    {
        text = text.replace(&format!("<{name}>"), &address.to_string());
    }
    let path = stage.weir.config_path().with_file_name(name);
    std::fs::write(&path, text).expect("the folder is ours");
    path
}

fn inspected(language: &str, shown: &Value) {
    assert_eq!(shown["descriptor"]["name"], format!("spans-{language}"), "{shown}");
    assert_eq!(shown["marks"]["egress"], serde_json::json!([["endpoint"]]), "{shown}");
    let imports = shown["scan"]["imports"].as_array().expect("imports");
    let mut classes: Vec<_> = imports.iter().filter_map(|import| import["class"].as_str()).collect();
    classes.dedup();
    let is_known = |class: &&str| matches!(*class, "harmless" | "granted" | "denied");
    assert!(!classes.is_empty() && classes.iter().all(is_known), "{language}: {imports:?}");
}
