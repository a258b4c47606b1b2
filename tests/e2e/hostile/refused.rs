//! Plugins that do not get as far as running: refused by `weir validate` and by `weir run`, with the reason.

use std::path::Path;

use tempfile::TempDir;
use weir_tests::{BatchId, Profile, Protocol, Sender, Shape, Verdict, Weir};

use super::counted;
use super::stage::{Stage, wasm};
use crate::run::{command, deadline};

const CONFIG: &str = "receivers:
  otlp: {protocols: {grpc: {endpoint: '127.0.0.1:0'}}}
exporters:
  acme: {plugin: acme, PART}
service:
  data_dir: FOLDER/data
  plugin_dir: FOLDER/plugins
  telemetry: {metrics: {enabled: false}}
  health: {enabled: false}
  pipelines:
    traces: {receivers: [otlp], exporters: [acme]}
";

/// A digest that no file has.
const PIN: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// Checks and starts a daemon with this file and this part; both must be refused, in these words.
async fn assert_refused(case: &str, file: &[u8], part: &str, words: &[&str]) -> String {
    let folder = TempDir::with_prefix("weir-refused-").expect("a folder");
    let file_name = folder.path().join("plugins/acme.wasm");
    std::fs::create_dir(folder.path().join("plugins")).expect("our folder");
    std::fs::write(&file_name, file).expect("our folder");
    let path = |path: &Path| path.to_str().expect("a path of ours").to_owned();
    let config = CONFIG.replace("FOLDER", &path(folder.path())).replace("PART", part);
    let config_file = folder.path().join("weir.yaml");
    std::fs::write(&config_file, config).expect("our folder");
    let binary = tokio::task::spawn_blocking(|| weir_tests::binary::weir(Profile::Same));
    let binary = binary.await.expect("the binary is built");
    let config_file = path(&config_file);
    let validated = command(&binary, &["validate", &config_file]).await;
    let run = command(&binary, &["run", "--config", &config_file]).await;
    let validated_words = format!("{}{}", validated.text(), validated.err);
    eprintln!("--- {case}: exit {:?}\n{}", run.code, run.err);
    assert_eq!((validated.code, run.code), (Some(78), Some(78)), "{case}: {validated_words}\n{}", run.err);
    for said in [&validated_words, &run.err] {
        for word in words.iter().copied().chain(["weir.yaml:4:"]) {
            assert!(said.contains(word), "{case}: no {word:?} in {said}");
        }
        assert!(!said.contains("panicked at") && !said.contains('\u{1b}'), "{case}: {said}");
    }
    run.err
}

/// The component with one name replaced by another of the same length, wherever it stands.
fn renamed(wasm: &[u8], from: &str, to: &str) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let mut wasm = wasm.to_vec();
    let found: Vec<usize> =
        (0..wasm.len() - from.len()).filter(|at| wasm[*at..].starts_with(from.as_bytes())).collect();
    assert!(!found.is_empty(), "{from} is not in the component");
    for at in found {
        wasm[at..at + to.len()].copy_from_slice(to.as_bytes());
    }
    wasm
}

/// Scenario: a plugin traps when it is asked what it is; another when it is given its settings.
/// Guarantees: the start is refused, and the reason names plugin, call, trap and the guest's frames.
#[tokio::test]
async fn a_plugin_that_traps_at_load_is_refused() {
    let words = ["acme.wasm", "plugin.describe", "unreachable", "silence"];
    assert_refused("trap in describe", wasm("mute").await, "settings: {}", &words).await;
    let words = ["plugin.configure", "unreachable", "unreachable_by_design"];
    let part = "settings: {mode: trap-in-configure}";
    assert_refused("trap in configure", wasm("hostile").await, part, &words).await;
}

/// Scenario: a plugin imports an interface that no plugin gets.
/// Guarantees: the start is refused, and the reason names the import and the file.
#[tokio::test]
async fn a_plugin_that_imports_something_unknown_is_refused() {
    let file = renamed(wasm("hostile").await, "weir:plugin/log@1.0.0", "weir:plugin/lag@1.0.0");
    let words = ["acme.wasm", "it imports what no plugin gets: weir:plugin/lag@1.0.0"];
    assert_refused("unknown import", &file, "settings: {mode: accept}", &words).await;
}

/// Scenario: a plugin that was built for the next major version of the contract.
/// Guarantees: the start is refused, and the reason names both versions, the file, and what to do.
#[tokio::test]
async fn a_plugin_of_another_major_is_refused_naming_both() {
    let file = renamed(wasm("hostile").await, "@1.0.0", "@2.0.0");
    let words = ["acme.wasm", "@2.0.0", "this host serves weir:plugin 1.x", "rebuild it"];
    assert_refused("another major", &file, "settings: {mode: accept}", &words).await;
}

/// Scenario: the operator pinned a digest, and the file has another one.
/// Guarantees: the start is refused, and the reason names the file and both digests.
#[tokio::test]
async fn a_pin_that_does_not_match_is_refused_naming_both() {
    let part = format!("sha256: {PIN}, settings: {{mode: accept}}");
    let said = assert_refused("pin", wasm("hostile").await, &part, &["acme.wasm", PIN, "it has "]).await;
    let (_, after) = said.split_once("it has ").expect("it was found above");
    let found: String = after.chars().take_while(char::is_ascii_hexdigit).collect();
    assert!(found.len() == 64 && found != PIN, "{said}");
}

/// Scenario: two ids of one plugin, of which one gets a batch.
/// Guarantees: that id's figures tell what the plugin did; the other's stay as they were.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_counts_what_its_plugin_did() {
    let stage = Stage::set().await;
    let config = format!(
        "receivers:
  otlp/one: {{protocols: {{grpc: {{endpoint: <one>}}}}}}
  otlp/other: {{protocols: {{grpc: {{endpoint: <other>}}}}}}
exporters:
  hostile/one: {{plugin: hostile, settings: {{mode: send, endpoint: 'http://<granted>/'}}}}
  hostile/other: {{plugin: hostile, settings: {{mode: accept}}}}
service:
  plugin_dir: {}
  pipelines:
    traces/one: {{receivers: [otlp/one], exporters: [hostile/one]}}
    traces/other: {{receivers: [otlp/other], exporters: [hostile/other]}}
",
        stage.plugins().display()
    );
    let weir = Weir::start(&config, &[("granted", stage.granted())]).await;
    const FIGURES: [(&str, &str); 7] = [
        ("calls", ""),
        ("instances", ""),
        ("pushes", "accepted"),
        ("items", "accepted"),
        ("requests", ""),
        ("egress_bytes", ""),
        ("memory_peak_bytes", ""),
    ];
    let before = weir.metrics().await;
    let mut sender = Sender::new(Protocol::OtlpGrpc, weir.address("one"));
    let (id, shape) = (BatchId { sender: 1, number: 1 }, Shape { spans: 7, attributes: 1, value_bytes: 1 });
    assert_eq!(sender.send(id, shape).await, Verdict::Taken);
    weir.metric_becomes(deadline(std::time::Duration::from_secs(10)), crate::run::PENDING, &[], 0.0).await;
    let after = weir.metrics().await;
    for (figure, kind) in FIGURES {
        let value = |page, id: &str| counted(page, &format!("exporters/hostile/{id}"), figure, kind);
        let (was, is) = (value(&before, "one"), value(&after, "one"));
        eprintln!("--- {figure} {kind}: {was} before, {is} after");
        assert!(was == 0.0 && is > 0.0, "{figure} {kind}: {was} before, {is} after");
        assert_eq!(
            (value(&before, "other"), value(&after, "other")),
            (0.0, 0.0),
            "{figure} {kind} of the other"
        );
    }
    assert_eq!(counted(&after, "exporters/hostile/one", "items", "accepted"), 7.0);
    weir.stop().await;
}
