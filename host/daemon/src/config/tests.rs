//! The cases in `tests/cases/config`: a file, and beside it what a person is told about it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use expect_test::{expect, expect_file};
use serde_json::{Value as Json, json};
use weir_model::Signal;
use weir_plugin::{Limits, ListenKind, Listener};

use super::*;
use crate::validate::{Checked, PluginCheck, PluginFacts, PluginProblem, SettingProblem, check};

/// Some plugins with the schemas that their settings would have.
struct Plugins;

const DIGEST: Digest = [0xab; 32];

impl PluginCheck for Plugins {
    fn names(&self) -> Vec<String> {
        let names = [
            "acme-exporter",
            "jaeger-receiver",
            "otlp-exporter",
            "prometheus-receiver",
            "zipkin-exporter",
            "zipkin-receiver",
        ];
        names.map(str::to_owned).to_vec()
    }

    fn find(
        &self,
        plugin: &str,
        kind: Kind,
        sha256: Option<&Digest>,
        _: &Limits,
    ) -> Result<PluginFacts, PluginProblem> {
        let origin = match plugin {
            "jaeger-receiver"
            | "otlp-exporter"
            | "prometheus-receiver"
            | "zipkin-receiver"
            | "zipkin-exporter" => "bundled".to_owned(),
            "acme-exporter" => "plugins/acme-exporter.wasm".to_owned(),
            _ => {
                let looked = vec![format!("plugins/{plugin}.wasm"), format!("bundled {plugin}")];
                return Err(PluginProblem::Absent { looked });
            }
        };
        if sha256.is_some_and(|wanted| *wanted != DIGEST) {
            return Err(PluginProblem::Digest { origin, found: DIGEST });
        }
        if !plugin.ends_with(kind.noun()) {
            let reason = format!("it exports no {kind} interface");
            return Err(PluginProblem::Unusable { origin, reason });
        }
        let signals = match plugin {
            "otlp-exporter" => Signal::ALL.to_vec(),
            "prometheus-receiver" => vec![Signal::Metrics],
            _ => vec![Signal::Traces],
        };
        let fetches = plugin == "prometheus-receiver";
        Ok(PluginFacts { origin, signals, listens: Vec::new(), egress: Vec::new(), fetches })
    }

    fn listeners(&self, plugin: &str, _: Kind, settings: &Json) -> Vec<Listener> {
        let of = |name: &str, kind, pointer: &str, default: &str| {
            let written = settings.pointer(pointer).and_then(Json::as_str);
            let address = written.unwrap_or(default).to_owned();
            Listener { name: name.into(), kind, address, pointer: pointer.into() }
        };
        match plugin {
            "zipkin-receiver" => vec![of("http", ListenKind::Http, "/endpoint", "127.0.0.1:9411")],
            "jaeger-receiver" => vec![
                of("compact", ListenKind::Udp, "/compact", "127.0.0.1:6831"),
                of("grpc", ListenKind::Grpc, "/grpc", "127.0.0.1:14250"),
            ],
            _ => Vec::new(),
        }
    }

    fn egress(&self, plugin: &str, _: &Json) -> Vec<String> {
        if plugin == "otlp-exporter" { vec!["/endpoint".to_owned()] } else { Vec::new() }
    }

    fn check(&self, plugin: &str, _: Kind, settings: &Json, _: &Limits) -> Result<(), Vec<SettingProblem>> {
        // What is left for it to check here, its own tests do.
        if plugin == "prometheus-receiver" {
            return Ok(());
        }
        let mut problems = Vec::new();
        let mut say = |pointer: &str, message: String| {
            let pointer = pointer.to_owned();
            problems.push(SettingProblem { pointer, message, expected: String::new(), known: Vec::new() });
        };
        // As the schema's checker says it.
        let object = settings.as_object().expect("settings are an object");
        if object
            .keys()
            .any(|key| !["endpoint", "format", "key", "nested", "compact", "grpc"].contains(&key.as_str()))
        {
            say("", "Additional properties are not allowed (…)".into());
        }
        for (key, value) in object {
            if key == "format" && !value.is_string() {
                say("/format", format!("{value} is not of type \"string\""));
            }
            if key == "nested" && value.pointer("/list/1") != Some(&json!(7)) {
                say("/nested", format!("{value} is not allowed here"));
            }
        }
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    fn schema(&self, plugin: &str, _: Kind) -> Option<Json> {
        if plugin == "prometheus-receiver" {
            return None;
        }
        let list = json!({"items": {"properties": {"a": true}, "additionalProperties": false}});
        let nested = json!({"properties": {"list": list}});
        let properties = json!({
            "endpoint": true, "format": true, "key": true, "nested": nested, "compact": true, "grpc": true
        });
        Some(json!({"properties": properties, "additionalProperties": false}))
    }

    fn secrets(&self, _: &str, settings: &Json) -> Vec<String> {
        settings.get("key").map(|_| "/key".to_owned()).into_iter().collect()
    }
}

fn env(name: &str) -> Option<String> {
    let value = match name {
        "PORT" => "5317",
        "BAD_PORT" => "not-a-port-and-a-secret",
        "TOKEN" => "s3cr3t",
        "BACKEND" => "in.example",
        "ITEMS" => "512",
        "LINES" => "two\nlines",
        _ => return None,
    };
    Some(value.to_owned())
}

fn read(name: &str, text: &str) -> Result<Checked, Report> {
    check(parse(name, text, &env)?, &Plugins)
}

/// What a person is told: the report, or the summary after the warnings.
fn told(name: &str, text: &str) -> String {
    match read(name, text) {
        Err(report) => format!("{report}\n"),
        Ok(checked) => {
            let warnings: String = checked.warnings.iter().map(|warning| format!("{warning}\n")).collect();
            format!("{warnings}{checked}\n")
        }
    }
}

fn cases() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/cases/config");
    let entries = fs::read_dir(&folder).expect("the cases are part of the repository");
    let mut cases: Vec<PathBuf> = entries.map(|entry| entry.expect("a readable folder").path()).collect();
    cases.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    cases.sort();
    cases
}

/// Scenario: every file in `tests/cases/config`, with the plugins and variables of this module.
/// Guarantees: what a person is told is what lies beside it, and only files named `ok-…` are taken.
#[test]
fn every_case_is_told_what_lies_beside_it() {
    let cases = cases();
    assert!(cases.len() > 30, "only {} cases", cases.len());
    for case in cases {
        let name = case.file_name().expect("a case has a name").to_string_lossy().into_owned();
        let text = fs::read_to_string(&case).expect("a case is text");
        assert_eq!(read(&name, &text).is_ok(), name.starts_with("ok-"), "{name}: {}", told(&name, &text));
        expect_file![case.with_extension("txt")].assert_eq(&told(&name, &text));
    }
}

/// Scenario: all cases, in which every secret is called hunter2, also where slips make something else of it.
/// Guarantees: no report repeats one, in a message or in the line that it shows.
#[test]
fn no_report_shows_a_secret() {
    let mut sought = 0;
    for case in cases() {
        let text = fs::read_to_string(&case).expect("a case is text");
        sought += text.matches("hunter2").count();
        let told = told("case", &text);
        assert!(!told.contains("hunter2"), "{}:\n{told}", case.display());
    }
    assert!(sought > 10, "only {sought} secrets");
}

/// Scenario: the errors of all cases together.
/// Guarantees: each has a place that lies in its file, and a line of its own to say what was expected.
#[test]
fn every_error_has_a_place_and_an_expectation() {
    for case in cases() {
        let text = fs::read_to_string(&case).expect("a case is text");
        let Err(report) = read("case", &text) else {
            continue;
        };
        for diagnostic in report.diagnostics() {
            let line = text.lines().nth(diagnostic.at.line.max(1) as usize - 1).unwrap_or_default();
            let columns = line.chars().count() as u32 + 1;
            assert!((1..=columns).contains(&diagnostic.at.column), "{}: {diagnostic:?}", case.display());
            assert!(!diagnostic.label.is_empty(), "{}: {diagnostic:?}", case.display());
        }
    }
}

/// Scenario: a variable that holds what is no address, and one that is a header's value.
/// Guarantees: neither the report nor the debug form of the configuration shows what they hold.
#[test]
fn what_a_variable_holds_is_never_shown() {
    let text = "receivers: {otlp: {protocols: {grpc: {endpoint: '${env:BAD_PORT}'}}}}\n";
    assert!(!told("weir.yaml", text).contains("a-secret"));
    let text = "exporters: {zipkin: {nested: {list: ['${env:TOKEN}']}}}\n";
    let told_of_plugin = told("weir.yaml", text);
    assert!(
        told_of_plugin.contains("${env:TOKEN}") && !told_of_plugin.contains("s3cr3t"),
        "{told_of_plugin}"
    );
    let text = "exporters: {otlp: {endpoint: 'a:1', headers: {x: '${env:TOKEN}'}, auth: {bearer: '${env:TOKEN}'}}, \
                acme: {plugin: acme-exporter, settings: {endpoint: '${env:TOKEN}'}}}\n";
    let draft = parse("weir.yaml", text, &env).expect("YAML");
    let shown = format!("{:?}", draft.config().exporters);
    assert!(shown.contains("not shown") && !shown.contains("s3cr3t"), "{shown}");
}

/// Scenario: a receiver that fetches, with credentials of two kinds, parameters, rules, targets and files.
/// Guarantees: the plugin is told how to read answers, and no credential, target or file.
#[test]
fn a_plugin_that_reads_answers_is_told_nothing_else() {
    let text = fs::read_to_string(
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/cases/config/ok-prometheus.yaml"),
    );
    let checked = read("weir.yaml", &text.expect("a case is text")).expect("a case that is taken");
    let receiver = checked.config.receivers.values().next().expect("one receiver");
    let plugin = receiver.value.plugin().expect("a plugin");
    expect![[r#"
        {
          "config": {
            "global": {
              "external_labels": {
                "cluster": "north"
              },
              "scrape_interval": "30s",
              "scrape_timeout": "5s"
            },
            "scrape_configs": [
              {
                "honor_labels": true,
                "job_name": "node",
                "metric_relabel_configs": [
                  {
                    "action": "drop",
                    "regex": "go_.*",
                    "source_labels": [
                      "__name__"
                    ]
                  }
                ],
                "sample_limit": 5000,
                "scrape_interval": "15s"
              },
              {
                "job_name": "probes"
              }
            ]
          }
        }"#]]
    .assert_eq(&serde_json::to_string_pretty(&plugin.settings.value).expect("JSON"));
    let shown = format!("{receiver:?}");
    assert!(!shown.contains("s3cr3t"), "{shown}");
}

/// Remembers the limits that plugins are asked within.
#[derive(Default)]
struct Recorded(Mutex<Vec<(&'static str, Limits)>>);

impl PluginCheck for Recorded {
    fn names(&self) -> Vec<String> {
        Plugins.names()
    }

    fn find(
        &self,
        plugin: &str,
        kind: Kind,
        sha256: Option<&Digest>,
        limits: &Limits,
    ) -> Result<PluginFacts, PluginProblem> {
        self.0.lock().expect("no test panics here").push(("find", limits.clone()));
        Plugins.find(plugin, kind, sha256, limits)
    }

    fn check(
        &self,
        plugin: &str,
        kind: Kind,
        settings: &Json,
        limits: &Limits,
    ) -> Result<(), Vec<SettingProblem>> {
        self.0.lock().expect("no test panics here").push(("check", limits.clone()));
        Plugins.check(plugin, kind, settings, limits)
    }
}

/// Scenario: two exporters of one plugin, one with more memory, one with more time.
/// Guarantees: the plugin says what it is within the larger of both, and each one's settings are checked within its own.
#[test]
fn plugins_are_asked_within_the_limits_of_their_ids() {
    let text = "receivers: {otlp: {protocols: {grpc: {endpoint: '127.0.0.1:4317'}}}}
exporters:
  acme/a: {plugin: acme-exporter, limits: {memory_mib: 128}, settings: {endpoint: 'http://a.example/'}}
  acme/b: {plugin: acme-exporter, limits: {cpu_deadline: 9s}, settings: {endpoint: 'http://b.example/'}}
service: {pipelines: {traces: {receivers: [otlp], exporters: [acme/a, acme/b]}}}
";
    let asked = Recorded::default();
    let checked = check(parse("weir.yaml", text, &env).expect("YAML"), &asked);
    assert!(checked.is_ok(), "{checked:?}");
    let memory = Limits { memory_bytes: 128 << 20, ..Limits::default() };
    let time = Limits { cpu_deadline: Duration::from_secs(9), ..Limits::default() };
    let both = memory.or_larger(&time);
    let expected = [("find", both.clone()), ("check", memory), ("find", both), ("check", time)];
    assert_eq!(asked.0.into_inner().expect("no test panics here"), expected);
}

fn told_of_file(path: &Path) -> String {
    load(path).expect_err("no configuration").to_string()
}

/// Scenario: no file, a folder, bytes that are not UTF-8, a file of more than a MiB.
/// Guarantees: each is told for what it is.
#[test]
fn what_is_no_file_of_ours_is_told_for_what_it_is() {
    let folder = tempfile::tempdir().expect("a folder");
    let tell = |name: &str| {
        let told = told_of_file(&folder.path().join(name));
        told.replace(&folder.path().display().to_string(), "DIR")
    };
    fs::write(folder.path().join("latin.yaml"), b"receivers:\n  # gr\xfc\xdfe\n").expect("written");
    fs::write(folder.path().join("huge.yaml"), vec![b'#'; (1 << 20) + 1]).expect("written");
    let all = [tell("absent.yaml"), tell(""), tell("latin.yaml"), tell("huge.yaml")].join("\n---\n");
    expect![[r#"
        error: there is no such file
          --> DIR/absent.yaml
           = expected the path of a configuration file

        1 error in DIR/absent.yaml
        ---
        error: this is a folder
          --> DIR/
           = expected a file, such as weir.yaml in it

        1 error in DIR/
        ---
        error: the byte 0xfc here is not UTF-8
          --> DIR/latin.yaml:2:7
           |
         2 |   # ••
           |       ^ expected text in UTF-8
           |

        1 error in DIR/latin.yaml
        ---
        error: the file is larger than 1 MiB
          --> DIR/huge.yaml
           = expected a configuration file

        1 error in DIR/huge.yaml"#]]
    .assert_eq(&all);
}

/// Scenario: no file at all, with and without the Zipkin plugin.
/// Guarantees: standard ports, all signals, everything to `debug`, and memory is named as what it is.
#[test]
fn without_a_file_the_standard_ports_are_served_from_memory() {
    let draft = Draft { config: Config::default_run(true), found: Vec::new(), hidden: Vec::new() };
    let checked = check(draft, &Plugins).expect("our own defaults are sound");
    assert!(checked.warnings.is_empty());
    expect![[r#"
        (no file) is valid

        pipeline traces
          from  opencensus 127.0.0.1:55678
                otlp grpc 127.0.0.1:4317, http 127.0.0.1:4318
                zipkin 127.0.0.1:9411 (plugin zipkin-receiver, bundled)
          to    debug to the log
          acknowledges from memory: what was acknowledged is lost with the process

        pipeline metrics
          from  opencensus 127.0.0.1:55678
                otlp grpc 127.0.0.1:4317, http 127.0.0.1:4318
          to    debug to the log
          acknowledges from memory: what was acknowledged is lost with the process

        pipeline logs
          from  otlp grpc 127.0.0.1:4317, http 127.0.0.1:4318
          to    debug to the log
          acknowledges from memory: what was acknowledged is lost with the process

        metrics 127.0.0.1:8888, health 127.0.0.1:13133
        memory at most 192 MiB, queues at most 64 MiB
    "#]]
    .assert_eq(&format!("{checked}\n"));
    assert_eq!(Config::default_run(false).receivers.len(), 2);
}

/// Scenario: a processor `batch`, an exporter with its own, an exporter in a pipeline without either.
/// Guarantees: the exporter's own comes first, then the pipeline's, then what waits for nothing.
#[test]
fn an_exporters_own_batch_comes_before_the_pipelines() {
    let text = "
receivers: {otlp: }
processors: {batch: {items: 10}}
exporters: {debug: , debug/own: {batch: {items: 20}}}
service:
  pipelines:
    traces: {receivers: [otlp], processors: [batch], exporters: [debug, debug/own]}
    logs: {receivers: [otlp], exporters: [debug]}
";
    let checked = read("weir.yaml", text).expect("a sound configuration");
    let batch = |signal, exporter: &str| {
        let pipeline = PipelineId { signal, name: None };
        let batch = checked.config.batch(&pipeline, &Id::lenient(exporter));
        (batch.items, batch.timeout.as_millis())
    };
    assert_eq!(batch(Signal::Traces, "debug"), (10, 200));
    assert_eq!(batch(Signal::Traces, "debug/own"), (20, 200));
    assert_eq!(batch(Signal::Logs, "debug"), (8_192, 0));
}

fn config_of(case: &str) -> Config {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/cases/config");
    let text = fs::read_to_string(folder.join(case)).expect("a case is text");
    read(case, &text).unwrap_or_else(|report| panic!("{report}")).config
}

/// Scenario: every key that says how a plugin lives and what it may do.
/// Guarantees: what was written is what is read, in the units of the code; the short forms mean the same.
#[test]
fn what_is_written_of_plugins_is_what_is_read() {
    let config = config_of("ok-plugin-keys.yaml");
    let exporter = |id: &str| &config.exporters[&Id::of(id)].value;
    let acme = exporter("acme");
    let plugin = acme.plugin().expect("a plugin");
    let second = Duration::from_secs;
    let GuestLimits { memory_bytes, cpu_deadline, call_deadline, response_bytes, host_calls } = plugin.limits;
    assert_eq!((memory_bytes, response_bytes, host_calls), (128 << 20, 8 << 20, 200_000));
    assert_eq!((cpu_deadline, call_deadline), (second(2), second(30)));
    let pool = PoolConfig { instances: Some(4), calls: Some(50_000), age: Some(second(7200)) };
    assert_eq!(acme.delivery.pool, pool);
    let quarantine =
        QuarantineConfig { ends: 3, window: second(30), first: second(10), longest: second(600) };
    assert_eq!(plugin.quarantine, quarantine);
    assert_eq!((acme.delivery.retry.record_ends, exporter("zipkin").delivery.retry.record_ends), (2, 3));
    let grants = |id: &str| {
        let GrantsConfig { egress, private_networks } = &exporter(id).plugin().expect("a plugin").grants;
        (egress.iter().map(|origin| origin.value.clone()).collect::<Vec<_>>(), *private_networks)
    };
    assert_eq!(grants("acme"), (vec!["https://mirror.acme.example:8443".to_owned()], false));
    assert_eq!(grants("zipkin"), (vec!["http://localhost:9413".to_owned()], true));
    assert_eq!(exporter("zipkin").delivery.pool.instances, Some(3));
    assert_eq!(exporter("debug").delivery.pool.instances, Some(1));
    assert_eq!(acme.auth().map(Auth::words), Some("basic, password from a file"));
    assert_eq!(exporter("zipkin").auth().map(Auth::words), Some("bearer, from a file"));
    let ReceiverConfig::Plugin(zipkin) = &config.receivers[&Id::of("zipkin")].value else {
        panic!("a plugin")
    };
    assert_eq!(zipkin.pool, PoolConfig { instances: Some(2), calls: Some(1_000), age: Some(second(600)) });
    assert_eq!(zipkin.plugin.limits.host_calls, 5_000);
}

fn otlp_exporter<'c>(config: &'c Config, id: &str) -> (&'c Delivery, &'c OtlpExporter) {
    match &config.exporters[&Id::lenient(id)].value {
        ExporterConfig { delivery, kind: ExporterKind::Otlp(otlp) } => (delivery, otlp),
        other => panic!("{id} is {other:?}"),
    }
}

/// Scenario: the receivers of the example in which everything is said once.
/// Guarantees: what was written is what is read, in the units of the code.
#[test]
fn what_is_written_of_receivers_is_what_is_read() {
    let config = config_of("ok-gateway.yaml");
    let ReceiverConfig::Otlp(OtlpReceiver { grpc: Some(grpc), http: Some(http) }) =
        &config.receivers[&Id::of("otlp")].value
    else {
        panic!("both protocols are written")
    };
    assert_eq!(
        (grpc.limits.items_max, http.limits.items_max, http.limits.attributes_max),
        (20_000, 20_000, 128)
    );
    assert_eq!((grpc.limits.connections_max, grpc.limits.age_max.as_secs()), (100, 600));
    assert_eq!((http.limits.ratio_max, http.limits.request_bytes_max), (50, 20 << 20));
    assert!(matches!(&grpc.listen.tls, ServerTls::Files(files) if files.client_ca_file.is_some()));
    let ReceiverConfig::Plugin(zipkin) = &config.receivers[&Id::lenient("zipkin/edge")].value else {
        panic!("zipkin is a plugin")
    };
    assert_eq!(
        (zipkin.pool, zipkin.limits.request_bytes_max, &zipkin.tls),
        (PoolConfig { instances: Some(4), ..PoolConfig::default() }, 5 << 20, &ServerTls::Insecure)
    );
    assert_eq!(
        (zipkin.plugin.limits.memory_bytes, zipkin.plugin.limits.cpu_deadline.as_secs()),
        (32 << 20, 1)
    );
    assert_eq!(zipkin.plugin.settings.value, json!({"endpoint": "0.0.0.0:9411"}));
}

/// Scenario: the processors of the same example.
/// Guarantees: attributes have the types that YAML gives them; what stands in quotes is a text.
#[test]
fn what_is_written_of_processors_is_what_is_read() {
    let config = config_of("ok-gateway.yaml");
    let resource = config.resources(&PipelineId { signal: Signal::Traces, name: None })[0];
    let attributes: Vec<&AttributeValue> = resource.attributes.values().collect();
    let text = |text: &str| AttributeValue::Text(text.to_owned());
    let expected =
        [&text("prod"), &AttributeValue::Int(7), &AttributeValue::Bool(false), &AttributeValue::Double(0.5)];
    assert_eq!(attributes[..4], expected);
    assert_eq!(attributes[4], &text("7"), "in quotes");
    assert_eq!(resource.detect, [Detect::HostName, Detect::OsType]);
}

/// Scenario: the exporters of the same example.
/// Guarantees: what was written is what is read, in the units of the code.
#[test]
fn what_is_written_of_exporters_is_what_is_read() {
    let config = config_of("ok-gateway.yaml");
    let (delivery, otlp) = otlp_exporter(&config, "otlp");
    assert_eq!(
        (delivery.timeout.as_secs(), delivery.when_full, delivery.pool),
        (5, WhenFull::SkipOldest, PoolConfig { instances: Some(8), ..PoolConfig::default() })
    );
    assert_eq!((delivery.retry.initial_interval.as_secs(), delivery.retry.max_interval.as_secs()), (1, 60));
    let batch = delivery.batch.as_ref().expect("written");
    assert_eq!((batch.items, batch.bytes, batch.timeout.as_nanos()), (1_000, 512 << 10, 0));
    assert_eq!(
        (otlp.compression, otlp.auth.is_some(), otlp.tls.files().count()),
        (Compression::Zstd, true, 3)
    );
    let endpoint = |id: &str| {
        let (_, otlp) = otlp_exporter(&config, id);
        (otlp.protocol, otlp.endpoint.value.to_string())
    };
    assert_eq!(endpoint("otlp/plain"), (OtlpProtocol::Grpc, "http://in.example:4317/".to_owned()));
    assert_eq!(endpoint("otlp/http"), (OtlpProtocol::Http, "http://in.example:4318/base".to_owned()));
    let plugin = config.exporters[&Id::of("otlphttp")].value.plugin().expect("it is a plugin");
    assert_eq!((plugin.plugin.value.as_str(), plugin.is_named), ("otlp-exporter", false));
}

/// Scenario: `service` of the same example.
/// Guarantees: what was written is what is read, in the units of the code.
#[test]
fn what_is_written_of_the_service_is_what_is_read() {
    let config = config_of("ok-gateway.yaml");
    let ServiceConfig { data_dir, plugin_dir, telemetry, health: _, events: _, memory, queue, drain_timeout } =
        &config.service;
    assert_eq!(
        (data_dir.as_path(), plugin_dir.as_ref().map(|folder| folder.value.as_path())),
        (Path::new("./data"), Some(Path::new("./plugins")))
    );
    assert_eq!(telemetry.logs, LogsConfig { level: LogLevel::Debug, format: LogFormat::Json });
    assert_eq!((memory.limit_bytes, drain_timeout.as_secs()), (512 << 20, 30));
    let sizes = (queue.budget_bytes, queue.segment_bytes, queue.dead_letter_bytes);
    assert_eq!((queue.storage, sizes), (Storage::Disk, (2 << 30, 16 << 20, 64 << 20)));
}

/// Scenario: the examples with variables, and with anchors and merge keys.
/// Guarantees: values are those of the variables; what a mapping says itself comes before what it merges.
#[test]
fn variables_and_anchors_give_their_values() {
    let config = config_of("ok-variables.yaml");
    let (_, otlp) = otlp_exporter(&config, "otlp");
    let headers: Vec<(&str, &str)> =
        otlp.headers.iter().map(|(name, value)| (name.as_str(), value.expose())).collect();
    assert_eq!(headers, [("authorization", "Bearer s3cr3t"), ("path", "$HOME"), ("price", "$5")]);
    let config = config_of("ok-anchors.yaml");
    for (id, port) in [("otlp/a", 14_317), ("otlp/b", 24_317), ("otlp/c", 34_317)] {
        let (delivery, otlp) = otlp_exporter(&config, id);
        assert_eq!(otlp.endpoint.value.port_u16(), Some(port));
        assert_eq!(delivery.retry.initial_interval.as_secs(), 2, "{id}");
    }
}

/// Scenario: endpoints of OTLP exporters without a scheme.
/// Guarantees: plaintext on the machine itself, TLS elsewhere, unless `tls` says otherwise.
#[test]
fn an_endpoint_without_a_scheme_is_plaintext_on_loopback_only() {
    let scheme = |endpoint: &str, tls: &str| {
        let text = format!("exporters: {{otlp: {{endpoint: '{endpoint}', tls: {tls}}}}}");
        let draft = parse("weir.yaml", &text, &env).expect("YAML");
        otlp_exporter(draft.config(), "otlp").1.endpoint.value.scheme_str().unwrap_or("none").to_owned()
    };
    assert_eq!(scheme("127.0.0.1:1", "{}"), "http");
    assert_eq!(scheme("[::1]:1", "{}"), "http");
    assert_eq!(scheme("localhost:1", "{insecure: false}"), "https");
    assert_eq!(scheme("localhost:1", "{ca_file: a}"), "https");
    assert_eq!(scheme("10.0.0.1:1", "{}"), "https");
    assert_eq!(scheme("localhost.example:1", "{}"), "https");
    assert_eq!(scheme("10.0.0.1:1", "{insecure: true}"), "http");
    assert_eq!(scheme("http://10.0.0.1:1", "{}"), "http");
}

/// Scenario: settings directly under an id and under `settings`, with keys that a JSON pointer must escape.
/// Guarantees: every value has its place and its type, and what is not there has the place around it.
#[test]
fn settings_keep_their_places_and_types() {
    let text = "\
exporters:
  zipkin:
    endpoint: http://127.0.0.1:9412
    nested:
      a/b~c: [1, '1', 1.5, true, ~, 0755, .inf]
    timeout: 3s
";
    let draft = parse("weir.yaml", text, &env).expect("YAML");
    let config = draft.config();
    let id = Id::of("zipkin");
    let settings = &config.plugin(Kind::Exporter, &id).expect("a plugin").settings;
    let expected = json!({
        "endpoint": "http://127.0.0.1:9412",
        "nested": { "a/b~c": [1, "1", 1.5, true, null, "0755", ".inf"] },
    });
    assert_eq!(settings.value, expected);
    let place = |pointer: &str| {
        let at = config.locate(Kind::Exporter, &id, pointer);
        (at.line, at.column)
    };
    assert_eq!(place("/endpoint"), (3, 15));
    assert_eq!(place("/nested/a~1b~0c/1"), (5, 18));
    assert_eq!(place("/nested/a~1b~0c/99"), (5, 14), "the list");
    assert_eq!(place("/absent"), (2, 3), "the id");
    assert_eq!(settings.path("/nested/a~1b~0c/1"), "exporters.zipkin.nested.a/b~c[1]");
    let ExporterConfig { delivery, .. } = &config.exporters[&id].value;
    assert_eq!(delivery.timeout.as_secs(), 3, "a key of the host");
}

/// Scenario: aliases of aliases that stand for a billion values, and ten thousand brackets.
/// Guarantees: both are refused, soon and without a stack that overflows.
#[test]
fn bombs_are_refused() {
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..10 {
        let aliases = vec![format!("*a{}", level - 1); 10].join(", ");
        bomb.push_str(&format!("a{level}: &a{level} [{aliases}]\n"));
    }
    let first =
        |text: &str| parse("bomb.yaml", text, &env).expect_err("a bomb").diagnostics()[0].message.clone();
    assert_eq!(first(&bomb), "the file is too large once its aliases are replaced");
    let megabyte = format!("a: &a {}\nb: [{}]\n", "x".repeat(100_000), vec!["*a"; 1_000].join(", "));
    assert_eq!(first(&megabyte), "the file is too large once its aliases are replaced");
    first(&"[".repeat(10_000));
    first(&"- ".repeat(10_000));
    first(&(0..10_000).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect::<String>());
}

/// Scenario: a mapping of fifty thousand keys, unknown ones and settings of a plugin.
/// Guarantees: a bounded number of errors is remembered, and the last key has its place.
#[test]
fn a_mapping_of_very_many_keys_is_read_with_bounded_errors() {
    let keys: String = (0..45_000).map(|n| format!("  k{n}: 1\n")).collect();
    let report = read("weir.yaml", &format!("service:\n{keys}")).expect_err("unknown keys");
    assert_eq!(report.diagnostics().len(), 10_000);
    let draft = parse("weir.yaml", &format!("exporters:\n zipkin:\n{keys}"), &env).expect("YAML");
    assert_eq!(draft.config().locate(Kind::Exporter, &Id::of("zipkin"), "/k44999").line, 45_002);
}

/// Scenario: a file with a thousand errors.
/// Guarantees: a screen or two of them are shown, and how many more there are.
#[test]
fn a_report_of_a_thousand_errors_is_cut_short() {
    let text: String = (0..1_000).map(|n| format!("k{n}: 1\n")).collect();
    let told = told("weir.yaml", &text);
    assert!(told.lines().count() < 1_000, "{} lines", told.lines().count());
    assert!(told.contains("and 951 more"), "{}", &told[told.len() - 200..]);
    assert!(told.ends_with("1001 errors in weir.yaml\n"), "{}", &told[told.len() - 200..]);
}

/// Scenario: bytes of the cases cut, doubled, swapped and replaced at random, for a second at most.
/// Guarantees: reading and reporting end without a panic, and an error's place lies in the file.
#[test]
fn no_text_makes_reading_panic() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let texts: Vec<String> =
        cases().iter().map(|case| fs::read_to_string(case).expect("a case is text")).collect();
    let pieces =
        ["\t", "\n", "${env:", "}", "$$", "&a ", "*a", "<<: ", "[", "{", "!!x ", "|\n", "\u{0}", "…", "- "];
    let begun = std::time::Instant::now();
    let mut rounds = 0;
    while begun.elapsed().as_millis() < 700 || rounds < 100 {
        let mut text: Vec<char> = texts[random.usize(..texts.len())].chars().collect();
        for _ in 0..random.usize(1..6) {
            let at = random.usize(..=text.len());
            let piece = pieces[random.usize(..pieces.len())].chars();
            let to = (at + random.usize(..4)).min(text.len());
            text.splice(at..to, piece.take(random.usize(..8)));
        }
        let text: String = text.into_iter().collect();
        let lines = text.lines().count().max(1) as u32 + 1;
        if let Err(report) = read("random.yaml", &text) {
            assert!(
                report.diagnostics().iter().all(|d| d.at.line <= lines),
                "seed {seed}: {report}\nin {text}"
            );
            assert!(!report.to_string().is_empty());
        }
        rounds += 1;
    }
}

/// Scenario: all keys of the cases that are taken.
/// Guarantees: the examples use every part of the file at least once, so that none is there in name only.
#[test]
fn the_examples_use_every_part_of_the_file() {
    let mut seen = BTreeSet::new();
    for case in cases() {
        let text = fs::read_to_string(&case).expect("a case is text");
        let name = case.file_name().expect("a case has a name").to_string_lossy().into_owned();
        if name.starts_with("ok-") {
            let keys = text.split([' ', '{', ',', '\n']).filter_map(|word| word.strip_suffix(':'));
            seen.extend(keys.map(|key| key.split('/').next().unwrap_or(key).to_owned()));
        }
    }
    for key in [
        "opencensus",
        "otlp",
        "protocols",
        "grpc",
        "http",
        "cors",
        "limits",
        "tls",
        "cert_file",
        "insecure",
        "batch",
        "resource",
        "detect",
        "overwrite",
        "otlphttp",
        "compression",
        "headers",
        "auth",
        "retry",
        "queue",
        "when_full",
        "pool",
        "plugin",
        "sha256",
        "grants",
        "settings",
        "verbosity",
        "data_dir",
        "plugin_dir",
        "telemetry",
        "logs",
        "metrics",
        "health",
        "memory",
        "storage",
        "segment_mib",
        "dead_letter_mib",
        "drain_timeout",
    ] {
        assert!(seen.contains(key), "no example uses `{key}`");
    }
}
