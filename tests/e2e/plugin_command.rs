//! What an operator writes and reads about plugins: `weir plugin`, compiled code between starts, and secrets.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tempfile::TempDir;
use weir_tests::wait::until;
use weir_tests::{
    BatchId, OtlpSink, Profile, Protocol, Sender, Shape, Verdict, Weir, ZipkinSink, wait_until,
};

use crate::run::{Said, command, deadline};

const SHAPE: Shape = Shape { spans: 2, attributes: 1, value_bytes: 8 };

/// A component that imports a function called `foreign`: magic, a type section with `func()`, an import section.
const FOREIGN_IMPORT: &[u8] = b"\0asm\x0d\0\x01\0\x07\x05\x01\x40\0\x01\0\x0a\x0c\x01\0\x07foreign\x01\0";

/// One pipeline into the bundled Zipkin exporter.
const ZIPKIN: &str = "receivers:
  otlp: {protocols: {grpc: {endpoint: <otlp>}}}
exporters:
  zipkin: {endpoint: 'http://<zipkin>/api/v2/spans'}
service:
  pipelines:
    traces: {receivers: [otlp], exporters: [zipkin]}
";

async fn binary() -> PathBuf {
    tokio::task::spawn_blocking(|| weir_tests::binary::weir(Profile::Same))
        .await
        .expect("the binary is built")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of ours")
}

/// Sends one batch, which must be taken.
async fn send(weir: &Weir, number: u64) {
    let mut sender = Sender::new(Protocol::OtlpGrpc, weir.address("otlp"));
    assert_eq!(sender.send(BatchId { sender: 1, number }, SHAPE).await, Verdict::Taken);
}

/// How often the log says that a plugin was compiled.
fn compilations(weir: &Weir) -> usize {
    weir.log().lines().iter().filter(|line| line.contains("plugin compiled")).count()
}

/// The files of compiled code.
fn compiled(weir: &Weir) -> Vec<PathBuf> {
    let folder = weir.data_dir().join("plugin-cache");
    let entries = fs::read_dir(folder).expect("the daemon has made it");
    let paths = entries.map(|entry| entry.expect("a readable folder").path());
    paths.filter(|path| path.extension().is_some_and(|extension| extension == "cwasm")).collect()
}

/// Scenario: a first start; a second one; one after a byte of the compiled code was changed; one after `precompile` into an
/// emptied cache.
/// Guarantees: the first start compiles and says how long it took, a warm one does not, an altered file is told and compiled
/// anew, and spans arrive each time; nobody else can read any of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compiled_code_is_kept_between_starts_and_an_altered_file_is_told() {
    let sink = ZipkinSink::start().await;
    let mut weir = Weir::start(ZIPKIN, &[("zipkin", sink.address())]).await;
    let arrives = async |weir: &Weir, number: u64| {
        let before = sink.spans().len();
        send(weir, number).await;
        wait_until(deadline(Duration::from_secs(20)), "spans arrive", || {
            (sink.spans().len() > before).then_some(())
        })
        .await;
    };
    assert_eq!(compilations(&weir), 1, "{}", weir.log().tail());
    assert!(
        weir.log().find(&["plugin compiled", "zipkin-exporter", "took_ms"]).is_some(),
        "{}",
        weir.log().tail()
    );
    arrives(&weir, 1).await;
    let mode = |path: &Path| fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
    let path = compiled(&weir).pop().expect("compiled code");
    assert_eq!((mode(&path), mode(path.parent().expect("a folder"))), (0o600, 0o700));

    weir.terminate().await;
    weir.restart().await;
    assert_eq!(compilations(&weir), 1, "a warm start compiled: {}", weir.log().tail());
    arrives(&weir, 2).await;

    weir.terminate().await;
    let mut bytes = fs::read(&path).expect("it is there");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, bytes).expect("our folder");
    weir.log().announce("compiled plugin was altered, compiling it anew");
    weir.restart().await;
    assert!(weir.log().find(&["WARN", "was altered", text(&path)]).is_some(), "{}", weir.log().tail());
    assert_eq!(compilations(&weir), 2, "{}", weir.log().tail());
    arrives(&weir, 3).await;

    weir.terminate().await;
    fs::remove_dir_all(weir.data_dir().join("plugin-cache")).expect("our folder");
    let config = weir.config_path();
    let precompile = ["plugin", "precompile", "--config", text(&config)];
    let first = command(weir.binary(), &precompile).await.well().text();
    assert!(first.contains("zipkin-exporter") && first.contains("compiled in"), "{first}");
    let again = command(weir.binary(), &precompile).await.well().text();
    assert!(again.contains("was there"), "{again}");
    weir.restart().await;
    assert_eq!(compilations(&weir), 2, "a start after precompile compiled: {}", weir.log().tail());
    arrives(&weir, 4).await;
    weir.stop().await;
}

/// Scenario: `precompile` of a plugin by name in JSON, of all, of one that is not there; without a disk; into another user's folder.
/// Guarantees: each says what it did or what to do; another user's folder is not touched.
#[tokio::test]
async fn precompile_says_what_it_did_or_why_not() {
    let weir = binary().await;
    let folder = TempDir::with_prefix("weir-plugin-").expect("a folder");
    let data = folder.path().join("data");
    let file = folder.path().join("weir.yaml");
    let config = |storage: &str| {
        format!(
            "receivers: {{otlp: }}\nexporters: {{debug: }}\nservice:\n  data_dir: {}\n  queue: {{storage: {storage}}}\n  \
             pipelines: {{traces: {{receivers: [otlp], exporters: [debug]}}}}\n",
            data.display()
        )
    };
    fs::write(&file, config("disk")).expect("our folder");
    let run = async |arguments: &[&str]| {
        let head = ["plugin", "precompile", "--config", text(&file)];
        command(&weir, &[&head, arguments].concat()).await
    };
    let none = run(&[]).await.well();
    assert_eq!(none.text(), "", "the configuration uses no plugin");
    let one = run(&["zipkin-exporter", "--json"]).await.well().json();
    assert_eq!(
        (&one[0]["name"], &one[0]["compiled_now"]),
        (&"zipkin-exporter".into(), &true.into()),
        "{one}"
    );
    let all = run(&["--all"]).await.well().text();
    assert!(all.contains("zipkin-receiver") && all.contains("was there"), "{all}");
    let absent = run(&["absent"]).await;
    assert_eq!(absent.code, Some(1), "{absent:?}");
    assert!(absent.err.contains("absent") && absent.err.contains("zipkin-exporter"), "{}", absent.err);
    fs::write(&file, config("memory")).expect("our folder");
    let nowhere = run(&["zipkin-exporter"]).await;
    assert_eq!(nowhere.code, Some(1), "{nowhere:?}");
    assert!(nowhere.err.contains("storage: memory"), "{}", nowhere.err);

    fs::write(&file, config("disk")).expect("our folder");
    if chown(&data, Some(12_345), None).is_err() {
        eprintln!("not root: that another user's folder is refused is not shown here");
        return;
    }
    let foreign = run(&["zipkin-exporter"]).await;
    assert_eq!(foreign.code, Some(1), "{foreign:?}");
    for part in ["belongs to user 12345", "sudo -u '#12345'", text(&data)] {
        assert!(foreign.err.contains(part), "no {part:?} in {}", foreign.err);
    }
}

/// Scenario: `inspect` of a bundled plugin, with and without a configuration that grants it something; then of a file that cannot
/// be loaded.
/// Guarantees: people read what it is, wants and may do in short lines, machines the same as JSON; of the other its size,
/// digest, imports and the reason, with exit code 1.
#[tokio::test]
async fn inspect_tells_what_a_plugin_is_wants_and_may() {
    let weir = binary().await;
    let folder = TempDir::with_prefix("weir-plugin-").expect("a folder");
    let file = folder.path().join("weir.yaml");
    let config = "receivers: {otlp: }
exporters:
  zipkin/eu:
    settings: {endpoint: 'http://in.example:9411/api/v2/spans', headers: {x-key: hunter2}}
    grants: {egress: ['https://mirror.example'], private_networks: false}
    auth: {bearer: hunter2}
service: {pipelines: {traces: {receivers: [otlp], exporters: [zipkin/eu]}}}
";
    fs::write(&file, config).expect("our folder");
    let plain = command(&weir, &["plugin", "inspect", "zipkin-exporter"]).await.well().text();
    for part in [
        "zipkin-exporter 0.",
        "sha256",
        "exports",
        "imports",
        "harmless",
        "by grant",
        "asks for",
        "settings schema",
    ] {
        assert!(plain.contains(part), "no {part:?} in\n{plain}");
    }
    assert!(plain.lines().all(|line| line.chars().count() < 200), "{plain}");
    assert!(!plain.contains("granted in"), "{plain}");
    let arguments = ["plugin", "inspect", "zipkin-exporter", "--config", text(&file)];
    let granted = command(&weir, &arguments).await.well().text();
    for part in [
        "exporter zipkin/eu",
        "http://in.example:9411",
        "https://mirror.example:443",
        "networks are denied",
        "/headers/x-key is set",
        "bearer",
    ] {
        assert!(granted.contains(part), "no {part:?} in\n{granted}");
    }
    let json = command(&weir, &[&arguments[..], &["--json"]].concat()).await.well();
    let shown = json.json();
    assert_eq!(shown["configured"][0]["id"], "zipkin/eu", "{shown:#}");
    assert_eq!(shown["configured"][0]["private_networks"], false, "{shown:#}");
    assert!(!granted.contains("hunter2") && !json.text().contains("hunter2"));

    let broken = folder.path().join("foreign.wasm");
    fs::write(&broken, FOREIGN_IMPORT).expect("our folder");
    let said = command(&weir, &["plugin", "inspect", text(&broken)]).await;
    assert_eq!(said.code, Some(1), "{said:?}");
    for part in
        ["unusable", "it imports what no plugin gets: foreign", "sha256", "bytes", "refused:", "  foreign"]
    {
        assert!(said.text().contains(part), "no {part:?} in\n{}", said.text());
    }
    let said = command(&weir, &["plugin", "inspect", text(&broken), "--json"]).await;
    assert_eq!(said.code, Some(1), "{said:?}");
    assert_eq!(said.json()["scan"]["imports"][0]["class"], "refused", "{said:?}");
    assert_eq!(said.json()["bytes"], FOREIGN_IMPORT.len(), "{said:?}");
    assert!(said.err.contains("error: ") && said.err.contains("foreign"), "{said:?}");
    let said = command(&weir, &["plugin", "inspect", "nosuch"]).await;
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.err.contains("error: load plugin nosuch"), "{said:?}");
}

/// Scenario: `plugin list` while a daemon runs, after its end, for a folder that is none, and of nobody.
/// Guarantees: machines read one shape, which says whether a daemon answered; people are told where none did.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_says_whether_a_daemon_answered() {
    let sink = ZipkinSink::start().await;
    let mut weir = Weir::start(ZIPKIN, &[("zipkin", sink.address())]).await;
    let data = weir.data_dir();
    let of_daemon = ["plugin", "list", "--json", "--data-dir", text(&data)];
    let said = command(weir.binary(), &of_daemon).await.well();
    let listed = said.json();
    assert_eq!((&listed["running"], &said.err), (&true.into(), &String::new()), "{listed}");
    assert_eq!(listed["plugins"][0]["id"], "zipkin", "{listed}");
    weir.terminate().await;
    for (arguments, why) in [
        (&of_daemon[..], text(&data)),
        (&["plugin", "list", "--json", "--data-dir", "/none"], "/none"),
        (&["plugin", "list", "--json"], "no daemon was asked"),
    ] {
        let said = command(weir.binary(), arguments).await.well();
        let listed = said.json();
        assert_eq!(listed["running"], false, "{listed}");
        let plugins = listed["plugins"].as_array().expect("a list");
        assert!(plugins.iter().any(|plugin| plugin["name"] == "zipkin-exporter"), "{listed}");
        assert!(said.err.starts_with("note: ") && said.err.contains(why), "{said:?}");
    }
}

// === secrets ===

/// What every secret has in it, so that one search finds all of them.
const NEEDLE: &str = "hunter2";

/// Each way in which a secret is written.
const WITH_SECRETS: &str = "receivers:
  otlp: {protocols: {grpc: {endpoint: <otlp>}}}
exporters:
  zipkin/bearer:
    settings: {endpoint: 'http://<zipkin>/api/v2/spans', headers: {x-key: hunter2-setting}}
    auth: {bearer: hunter2-bearer}
  zipkin/basic:
    settings: {endpoint: 'http://<zipkin>/api/v2/spans', headers: {x-id: basic}}
    auth: {basic: {username: weir, password: hunter2-password}}
  zipkin/file:
    settings: {endpoint: 'http://<zipkin>/api/v2/spans', headers: {x-id: file}}
    auth: {bearer_file: FOLDER/token}
  otlp/grpc:
    endpoint: http://<backend>
    headers: {x-key: hunter2-header}
    auth: {basic: {username: weir, password_file: FOLDER/password}}
  otlp/http:
    endpoint: http://<backend>
    protocol: http
    auth: {bearer: hunter2-native}
  otlp/down:
    endpoint: http://<nobody>
    headers: {x-key: hunter2-down}
    auth: {bearer: hunter2-down}
service:
  telemetry: {logs: {level: debug}, metrics: {endpoint: <metrics>}}
  drain_timeout: 1s
  pipelines:
    traces:
      receivers: [otlp]
      exporters: [zipkin/bearer, zipkin/basic, zipkin/file, otlp/grpc, otlp/http, otlp/down]
";

/// Texts of which none may stand in any output: the secrets, and what becomes of them in headers.
fn sought() -> Vec<String> {
    let pairs = ["weir:hunter2-password", "weir:hunter2-in-a-file"].map(|pair| STANDARD.encode(pair));
    pairs.into_iter().chain([NEEDLE.to_owned()]).collect()
}

#[track_caller]
fn holds_no_secret(what: &str, output: &str) {
    for secret in sought() {
        if let Some(at) = output.find(&secret) {
            let from = output.floor_char_boundary(at.saturating_sub(300));
            let to = output.ceil_char_boundary((at + 100).min(output.len()));
            panic!("{what} shows a secret: …{}…", &output[from..to]);
        }
    }
}

fn said(said: &Said) -> String {
    format!("{}{}", said.text(), said.err)
}

/// Scenario: secrets in a plugin's settings, in `auth:` of plugins and native exporters, in files, and in `headers:`; spans flow, one
/// backend is down, everything is logged; then one file is rotated; then each place is given an error and checked.
/// Guarantees: backends get the secrets, of the rotated file the new one without a restart; no log, page, command or report shows one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_is_seen_by_its_backend_and_by_nobody_else() {
    let folder = TempDir::with_prefix("weir-secrets-").expect("a folder");
    let token = folder.path().join("token");
    write_private(&token, "hunter2-token\n");
    write_private(&folder.path().join("password"), "hunter2-in-a-file");
    let (zipkin, backend) = (ZipkinSink::start().await, OtlpSink::start().await);
    let config = WITH_SECRETS.replace("FOLDER", text(folder.path()));
    let known = [("zipkin", zipkin.address()), ("backend", backend.address())];
    // The first start compiles, and the compiler alone would fill gigabytes at the level of the second one.
    let mut weir = Weir::start(&config, &known).await;
    // At that level other libraries speak too, and one backend is down.
    weir.log().announce("");
    weir.terminate().await;
    weir.reconfigure(&config.replace("level: debug", "level: trace"));
    weir.restart().await;
    send(&weir, 1).await;
    backends_see_the_secrets(&zipkin, &backend).await;

    let rotated = folder.path().join("rotated");
    write_private(&rotated, "hunter2-rotated\n");
    fs::rename(&rotated, &token).expect("our folder");
    let mut number = 1;
    let of_file = |zipkin: &ZipkinSink| {
        zipkin
            .arrivals()
            .iter()
            .filter(|seen| seen.headers.get("x-id").is_some_and(|id| id == "file"))
            .count()
    };
    let followed = until(deadline(Duration::from_secs(20)), async || {
        number += 1;
        let before = of_file(&zipkin);
        send(&weir, number).await;
        wait_until(deadline(Duration::from_secs(20)), "it is delivered", || {
            (of_file(&zipkin) > before).then_some(())
        })
        .await;
        saw(&zipkin, "authorization", "Bearer hunter2-rotated").then_some(())
    });
    followed.await.expect("a rotated file is read again");

    holds_no_secret("the metrics page", &format!("{:?}", weir.metrics().await));
    holds_no_secret("the health page", &weir.health().await.1.to_string());
    commands_show_no_secret(&weir).await;
    weir.terminate().await;
    let log = weir.log().lines().join("\n");
    for chatty in ["TRACE", "credential read again"] {
        assert!(log.contains(chatty), "the log is not as chatty as it was asked to be: no {chatty}");
    }
    holds_no_secret("the log", &log);
    errors_show_no_secret(weir.binary(), folder.path(), &config).await;
}

fn write_private(path: &Path, secret: &str) {
    fs::write(path, secret).expect("our folder");
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("our file");
}

fn saw(zipkin: &ZipkinSink, name: &str, value: &str) -> bool {
    zipkin.arrivals().iter().any(|arrival| arrival.headers.get(name).is_some_and(|seen| seen == value))
}

async fn backends_see_the_secrets(zipkin: &ZipkinSink, backend: &OtlpSink) {
    let basic = |pair: &str| format!("Basic {}", STANDARD.encode(pair));
    let long = deadline(Duration::from_secs(20));
    for (name, value) in [
        ("x-key", "hunter2-setting".to_owned()),
        ("authorization", "Bearer hunter2-bearer".to_owned()),
        ("authorization", basic("weir:hunter2-password")),
        ("authorization", "Bearer hunter2-token".to_owned()),
    ] {
        wait_until(long, &format!("Zipkin sees {value}"), || saw(zipkin, name, &value).then_some(())).await;
    }
    for (name, value) in [
        ("x-key", "hunter2-header".to_owned()),
        ("authorization", basic("weir:hunter2-in-a-file")),
        ("authorization", "Bearer hunter2-native".to_owned()),
    ] {
        let sees = || {
            backend.arrivals().iter().any(|seen| seen.headers.get(name).is_some_and(|seen| *seen == value))
        };
        wait_until(long, &format!("the backend sees {value}"), || sees().then_some(())).await;
    }
}

async fn commands_show_no_secret(weir: &Weir) {
    let (file, data) = (weir.config_path(), weir.data_dir());
    let (file, data) = (text(&file), text(&data));
    let commands: [&[&str]; 7] = [
        &["validate", file],
        &["plugin", "list", "--config", file],
        &["plugin", "list", "--config", file, "--json"],
        &["plugin", "inspect", "zipkin-exporter", "--config", file],
        &["plugin", "inspect", "zipkin-exporter", "--config", file, "--json"],
        &["queue", "--data-dir", data, "ls"],
        &["plugin", "precompile", "--config", file],
    ];
    for arguments in commands {
        holds_no_secret(&arguments.join(" "), &said(&command(weir.binary(), arguments).await.well()));
    }
}

/// Gives each place where a secret stands an error of its own.
async fn errors_show_no_secret(binary: &Path, folder: &Path, config: &str) {
    let slips: [(&str, &str); 12] = [
        ("x-key: hunter2-setting", "x-key: [hunter2-setting]"),
        ("headers: {x-key: hunter2-setting}", "headers: hunter2-setting"),
        ("headers: {x-key: hunter2-setting}}", "headers: {x-key: hunter2-setting}, bogus: 1}"),
        ("headers: {x-key: hunter2-setting}}", "headers: {x-key: \"hunter2-setting\\n\"}, format: 7}"),
        ("{bearer: hunter2-bearer}", "{bearer: \"hunter2-bearer\\n\"}"),
        ("{bearer: hunter2-bearer}", "hunter2-bearer"),
        ("{bearer: hunter2-bearer}", "{bearer:hunter2-bearer}"),
        ("{bearer: hunter2-bearer}", "{bearer: \"hunter2-bearer}"),
        ("password: hunter2-password", "pasword: hunter2-password"),
        ("password: hunter2-password", "password: {a: hunter2-password}"),
        ("headers: {x-key: hunter2-header}", "headers: {x-key: \"hunter2\\u0001header\"}"),
        ("password_file: ", "password_file: /nowhere"),
    ];
    let file = folder.join("slip.yaml");
    let here = format!("service:\n  data_dir: {}\n", folder.join("data").display());
    let mut config = config.replace("service:\n", &here);
    for (name, address) in [("otlp", 0), ("metrics", 0), ("zipkin", 9), ("backend", 9), ("nobody", 9)] {
        config = config.replace(&format!("<{name}>"), &format!("127.0.0.1:{address}"));
    }
    fs::write(&file, &config).expect("our folder");
    command(binary, &["validate", text(&file)]).await.well();
    for (right, wrong) in slips {
        assert!(config.contains(right), "there is no {right}");
        fs::write(&file, config.replacen(right, wrong, 1)).expect("our folder");
        for arguments in [&["validate", text(&file)][..], &["run", "--config", text(&file)]] {
            let told = command(binary, arguments).await;
            assert_eq!(told.code, Some(78), "{wrong}: {}", told.err);
            holds_no_secret(wrong, &said(&told));
        }
    }
}

/// Scenario: the Zipkin exporter sends over TLS, with an authority of its own and a certificate, to a receiver that asks for one; another
/// exporter shows none.
/// Guarantees: spans of the former arrive; the latter says why it cannot send, and loses nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plugins_requests_go_over_tls_as_configured() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../host/net/tests/data");
    let config = "receivers:
  otlp: {protocols: {grpc: {endpoint: <otlp>}}}
  zipkin:
    endpoint: <tls>
    tls: {cert_file: DATA/server.pem, key_file: DATA/server.key, client_ca_file: DATA/ca.pem}
exporters:
  zipkin/known:
    settings: {endpoint: 'https://<tls>/api/v2/spans'}
    tls: {ca_file: DATA/ca.pem, cert_file: DATA/client.pem, key_file: DATA/client.key}
  zipkin/unknown:
    settings: {endpoint: 'https://<tls>/api/v2/spans'}
    tls: {ca_file: DATA/ca.pem}
  otlp: {endpoint: 'http://<backend>'}
service:
  drain_timeout: 1s
  pipelines:
    traces/in: {receivers: [otlp], exporters: [zipkin/known, zipkin/unknown]}
    traces/out: {receivers: [zipkin], exporters: [otlp]}
";
    let backend = OtlpSink::start().await;
    let config = config.replace("DATA", text(&data));
    let mut weir = Weir::start(&config, &[("backend", backend.address())]).await;
    // The one without a certificate is complained about on both sides.
    weir.log().announce("");
    send(&weir, 1).await;
    let long = deadline(Duration::from_secs(20));
    wait_until(long, "spans arrive over TLS", || (backend.spans().len() == 2).then_some(())).await;
    let counted = until(long, async || {
        let page = weir.metrics().await;
        let pushes = |id: &str, outcome: &str| {
            let labels = [("kind", "exporter"), ("id", id), ("outcome", outcome)];
            page.value("weir_plugin_pushes_total", &labels).unwrap_or_default()
        };
        (pushes("zipkin/known", "accepted") == 1.0 && pushes("zipkin/unknown", "retryable") >= 1.0)
            .then_some(())
    });
    counted.await.expect("one is taken, the other is tried again");
    assert_eq!(backend.spans().len(), 2, "without a certificate nothing arrives");
    weir.terminate().await;
}
