//! What is refused at start, and how it is told.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;
use tokio::time::timeout;
use weir_tests::port::free_address;
use weir_tests::{BatchId, Profile, Protocol, Sender, Shape, Verdict, wait_until};

use crate::run::{Said, command, deadline};

/// A core module, not a component: magic, version 1.
const CORE_MODULE: &[u8] = b"\0asm\x01\0\0\0";

/// A component that exports nothing.
const EMPTY_COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0";

/// A component that imports a function called `foreign`: magic, a type section with `func()`, an import section.
const FOREIGN_IMPORT: &[u8] = b"\0asm\x0d\0\x01\0\x07\x05\x01\x40\0\x01\0\x0a\x0c\x01\0\x07foreign\x01\0";

/// A configuration with an exporter of a plugin.
const WITH_PLUGIN: &str = "receivers:
  otlp: {protocols: {grpc: {endpoint: '127.0.0.1:0'}}}
exporters:
  acme: {plugin: acme, settings: {endpoint: 'http://127.0.0.1:9/'}}
service:
  data_dir: FOLDER/data
  plugin_dir: FOLDER/plugins
  telemetry: {metrics: {enabled: false}}
  health: {enabled: false}
  pipelines:
    traces: {receivers: [otlp], exporters: [acme]}
";

async fn binary() -> PathBuf {
    tokio::task::spawn_blocking(|| weir_tests::binary::weir(Profile::Same))
        .await
        .expect("the binary is built")
}

async fn run(folder: &Path, config: &str) -> Said {
    let file = folder.join("weir.yaml");
    std::fs::write(&file, config.replace("FOLDER", folder.to_str().expect("a path of ours")))
        .expect("our folder");
    command(&binary().await, &["run", "--config", file.to_str().expect("a path of ours")]).await
}

/// Scenario: a plugin file that is noise, cut off, empty, a core module, a component of nothing, one with a foreign import.
/// Guarantees: the start is refused, and the reason names the file and what is wrong with it.
#[tokio::test]
async fn a_file_that_is_no_plugin_is_refused_with_the_reason() {
    let cases: [(&str, &[u8], &[&str]); 5] = [
        ("noise", b"hello, this is not WebAssembly", &["not"]),
        ("empty", b"", &["acme.wasm"]),
        ("core module", CORE_MODULE, &["component"]),
        ("nothing exported", EMPTY_COMPONENT, &["export"]),
        ("foreign import", FOREIGN_IMPORT, &["foreign"]),
    ];
    for (case, bytes, parts) in cases {
        let folder = TempDir::with_prefix("weir-start-").expect("a folder");
        std::fs::create_dir(folder.path().join("plugins")).expect("our folder");
        std::fs::write(folder.path().join("plugins/acme.wasm"), bytes).expect("our folder");
        let said = run(folder.path(), WITH_PLUGIN).await;
        eprintln!("--- {case}: exit {:?}\n{}", said.code, said.err);
        assert_eq!(said.code, Some(78), "{case}: {said:?}");
        assert!(said.err.contains("acme.wasm"), "{case}: the file is not named: {}", said.err);
        for part in parts {
            assert!(said.err.contains(part), "{case}: no {part:?} in {}", said.err);
        }
        assert!(!said.err.contains("panicked"), "{case}: {}", said.err);
    }
}

/// Scenario: a plugin whose digest is not the one that the operator wrote.
/// Guarantees: the start is refused, both digests are told.
#[tokio::test]
async fn a_plugin_that_was_exchanged_is_refused() {
    let folder = TempDir::with_prefix("weir-start-").expect("a folder");
    std::fs::create_dir(folder.path().join("plugins")).expect("our folder");
    std::fs::write(folder.path().join("plugins/acme.wasm"), EMPTY_COMPONENT).expect("our folder");
    let digest = "0".repeat(64);
    let said = run(
        folder.path(),
        &WITH_PLUGIN.replace("plugin: acme,", &format!("plugin: acme, sha256: '{digest}',")),
    )
    .await;
    assert_eq!(said.code, Some(78), "{said:?}");
    assert!(said.err.contains(&digest) && said.err.contains("sha256"), "{}", said.err);
}

/// Scenario: a plugin that is not there, an unknown key, a wrong type, an unknown exporter in a pipeline, broken YAML.
/// Guarantees: exit code 78; each error has file, line, column and what was expected; several are told at once.
#[tokio::test]
async fn a_wrong_configuration_is_told_with_its_place() {
    let folder = TempDir::with_prefix("weir-start-").expect("a folder");
    let missing = run(folder.path(), WITH_PLUGIN).await;
    assert_eq!(missing.code, Some(78), "{missing:?}");
    assert!(missing.err.contains("weir.yaml:4:"), "{}", missing.err);

    let wrong = "receivers:
  otlp: {protocols: {grpc: {endpiont: '127.0.0.1:0'}}}
exporters:
  debug: {verbosity: 7}
service:
  drain_timeout: soon
  pipelines:
    traces: {receivers: [otlp], exporters: [debog]}
";
    let said = run(folder.path(), wrong).await;
    assert_eq!(said.code, Some(78), "{said:?}");
    for part in ["weir.yaml:2:29", "endpoint", "weir.yaml:4:22", "weir.yaml:6:18", "weir.yaml:8:", "debug"] {
        assert!(said.err.contains(part), "no {part:?} in\n{}", said.err);
    }

    let said = run(folder.path(), "receivers: [\n").await;
    assert_eq!(said.code, Some(78), "{said:?}");
    assert!(said.err.contains("weir.yaml:"), "{}", said.err);
}

/// Scenario: command lines that nobody can mean.
/// Guarantees: exit code 64; help is an answer, and tells the exit codes.
#[tokio::test]
async fn a_wrong_command_line_is_64() {
    let weir = binary().await;
    let wrong: [&[&str]; 5] = [
        &["run", "--bogus"],
        &["fly"],
        &[],
        &["queue", "ls"],
        &["queue", "--data-dir", "/x", "drop", "traces", "one"],
    ];
    for arguments in wrong {
        let said = command(&weir, arguments).await;
        assert_eq!(said.code, Some(64), "{arguments:?}: {said:?}");
        assert!(!said.err.is_empty(), "{arguments:?} is told nothing");
    }
    let help = command(&weir, &["--help"]).await.well().text();
    assert!(help.contains("64") && help.contains("78"), "{help}");
}

/// Scenario: a port that another process has; a configuration that is not there.
/// Guarantees: exit code 1 and 78, and the message names the address, the file.
#[tokio::test]
async fn what_cannot_be_had_is_named() {
    let folder = TempDir::with_prefix("weir-start-").expect("a folder");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("it is bound").to_string();
    let config = "receivers:
  otlp: {protocols: {grpc: {endpoint: 'ADDRESS'}}}
exporters:
  debug:
service:
  data_dir: FOLDER/data
  telemetry: {metrics: {enabled: false}}
  health: {enabled: false}
  pipelines:
    traces: {receivers: [otlp], exporters: [debug]}
";
    let said = run(folder.path(), &config.replace("ADDRESS", &address)).await;
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.err.contains(&address) && said.err.contains("in use"), "{}", said.err);
    assert!(said.err.trim_end().ends_with("set another `endpoint`"), "{}", said.err);

    let said = command(&binary().await, &["run", "--config", "/nowhere/weir.yaml"]).await;
    assert_eq!(said.code, Some(78), "{said:?}");
    assert!(said.err.contains("/nowhere/weir.yaml"), "{}", said.err);
}

/// Scenario: a second daemon on the same data folder.
/// Guarantees: it is refused and says who has the folder; the first is not disturbed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_data_folder_has_one_daemon() {
    let config = "receivers:
  otlp: {protocols: {grpc: {endpoint: <otlp>}}}
exporters:
  debug:
service:
  pipelines:
    traces: {receivers: [otlp], exporters: [debug]}
";
    let first = weir_tests::Weir::start(config, &[]).await;
    let folder = TempDir::with_prefix("weir-start-").expect("a folder");
    let second = format!(
        "{}  data_dir: {}\n  telemetry: {{metrics: {{enabled: false}}}}\n  health: {{enabled: false}}\n",
        config.replace("<otlp>", "'127.0.0.1:0'"),
        first.data_dir().display(),
    );
    let said = run(folder.path(), &second).await;
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.err.contains("error: another weir has the data folder"), "{}", said.err);
    assert!(said.err.contains(first.data_dir().to_str().expect("a path of ours")), "{}", said.err);

    let said = run(folder.path(), &second.replace("traces: {", "metrics: {")).await;
    assert_eq!(said.code, Some(1), "other pipelines make no other folder: {said:?}");
    assert!(said.err.contains("another weir has the data folder"), "{}", said.err);
    assert_eq!(first.health().await.0, 200);
    let data = first.data_dir();
    let head = ["queue", "--data-dir", data.to_str().expect("a path of ours"), "ls"];
    let listed = command(first.binary(), &head).await.well().text();
    assert!(listed.contains("traces"), "the first has its socket still: {listed}");
    first.stop().await;
}

/// Scenario: a configuration with a plugin is checked before its daemon has ever run.
/// Guarantees: nothing is made on disk; a folder that root made would keep the daemon's own user out.
#[tokio::test]
async fn validate_makes_no_folder() {
    let folder = TempDir::with_prefix("weir-start-").expect("a folder");
    let file = folder.path().join("weir.yaml");
    let data = folder.path().join("data");
    let config = format!(
        "receivers:
  zipkin: {{endpoint: 127.0.0.1:9411}}
exporters:
  debug:
service:
  data_dir: {}
  pipelines:
    traces: {{receivers: [zipkin], exporters: [debug]}}
",
        data.display()
    );
    std::fs::write(&file, config).expect("our folder");
    let file = file.to_str().expect("a path of ours");
    command(&binary().await, &["validate", file]).await.well();
    assert!(!data.exists(), "validate made {}", data.display());
}

/// Scenario: a daemon whose standard error cannot be written to.
/// Guarantees: it starts, serves and ends as ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_cannot_be_written_stops_nothing() {
    let folder = TempDir::with_prefix("weir-start-").expect("a folder");
    let address = free_address();
    let config = format!(
        "receivers:
  otlp: {{protocols: {{grpc: {{endpoint: '{address}'}}}}}}
exporters:
  debug:
service:
  queue: {{storage: memory}}
  telemetry: {{logs: {{level: debug}}, metrics: {{enabled: false}}}}
  health: {{enabled: false}}
  pipelines:
    traces: {{receivers: [otlp], exporters: [debug]}}
"
    );
    let file = folder.path().join("weir.yaml");
    std::fs::write(&file, config).expect("our folder");
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("every Linux has it");
    let (reader, closed) = std::io::pipe().expect("a pipe");
    drop(reader);
    for broken in [Stdio::from(full), Stdio::from(closed)] {
        let mut weir = Command::new(binary().await)
            .args(["run", "--config"])
            .arg(&file)
            .env_remove("WEIR_LOG")
            .stderr(broken)
            .kill_on_drop(true)
            .spawn()
            .expect("the binary starts");
        let mut taken = 0;
        wait_until(deadline(Duration::from_secs(10)), "the daemon listens", || {
            std::net::TcpStream::connect(address).ok()
        })
        .await;
        let mut sender = Sender::new(Protocol::OtlpGrpc, address);
        for number in 0..20 {
            let shape = Shape { spans: 2, attributes: 1, value_bytes: 8 };
            let verdict = sender.send(BatchId { sender: 1, number }, shape).await;
            taken += u64::from(verdict == Verdict::Taken);
        }
        assert_eq!(taken, 20);
        let pid = weir.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
        kill_process(pid.expect("it runs"), Signal::TERM).expect("our own process may be told");
        let status = timeout(deadline(Duration::from_secs(10)), weir.wait()).await.expect("it ends");
        assert_eq!(status.expect("a child can be waited for").code(), Some(0));
    }
}

/// A daemon of which nothing is kept.
const QUIET: &str = "receivers:
  otlp: {protocols: {grpc: {endpoint: '127.0.0.1:0'}}}
exporters:
  debug:
service:
  queue: {storage: memory}
  telemetry: {metrics: {enabled: false}}
  health: {enabled: false}
  pipelines:
    traces: {receivers: [otlp], exporters: [debug]}
";

/// Whether SIGHUP is caught, and the number of threads, as `/proc/PID/status` says.
fn hangup_and_threads(pid: u32) -> Option<(bool, u32)> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let of = |word: &str| status.lines().find_map(|line| line.strip_prefix(word)).map(str::trim);
    let caught = u64::from_str_radix(of("SigCgt:")?, 16).ok()?;
    Some((caught & 1 == 1, of("Threads:")?.parse().ok()?))
}

/// Scenario: SIGHUP as soon as the process does not end at it, long before it is ready.
/// Guarantees: that is before its first thread; it starts, then reads its file again as it was told, and ends well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hangup_before_it_is_ready_ends_nothing() {
    let folder = TempDir::with_prefix("weir-start-").expect("a folder");
    let file = folder.path().join("weir.yaml");
    std::fs::write(&file, QUIET).expect("our folder");
    for _ in 0..5 {
        let mut weir = Command::new(binary().await)
            .args(["run", "--config"])
            .arg(&file)
            .env_remove("WEIR_LOG")
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the binary starts");
        let number = weir.id().expect("it runs");
        let pid = i32::try_from(number).ok().and_then(Pid::from_raw).expect("a process has a number");
        let caught = tokio::task::spawn_blocking(move || {
            // As fast as it can be looked: what is sought is a moment.
            while let Some((caught, threads)) = hangup_and_threads(number) {
                if caught || threads > 1 {
                    return caught;
                }
            }
            false
        });
        let caught = timeout(deadline(Duration::from_secs(10)), caught).await.expect("it starts");
        assert!(caught.expect("a look is a look"), "it has threads, and a hangup would end it");
        kill_process(pid, Signal::HUP).expect("our own process may be told");
        let mut lines = BufReader::new(weir.stderr.take().expect("it is piped")).lines();
        let long = deadline(Duration::from_secs(20));
        let reloads = async {
            while let Some(line) = lines.next_line().await.expect("lines of text") {
                if line.contains("configuration reloaded") {
                    return;
                }
            }
            panic!("it ended before it had read its file again");
        };
        timeout(long, reloads).await.expect("it reads its file again");
        kill_process(pid, Signal::TERM).expect("our own process may be told");
        let end = async { while let Ok(Some(_)) = lines.next_line().await {} };
        let (status, ()) = timeout(long, async { tokio::join!(weir.wait(), end) }).await.expect("it ends");
        assert_eq!(status.expect("a child can be waited for").code(), Some(0));
    }
}

/// Scenario: supervisors that listen on a path and under an abstract name, and one that is not there.
/// Guarantees: they are told when senders are let in and when the drain begins; without one the daemon serves as ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_supervisor_is_told_of_start_and_end() {
    let folder = TempDir::with_prefix("weir-start-").expect("a folder");
    let path = folder.path().join("notify");
    let name = format!("weir-{}-{}", std::process::id(), fastrand::u64(..));
    let named = SocketAddr::from_abstract_name(&name).expect("a name");
    let of_path = UnixDatagram::bind(&path).expect("our folder");
    let of_name = UnixDatagram::bind_addr(&named).expect("nobody else has it");
    let path = path.to_str().expect("a path of ours").to_owned();
    let mut weir = weir_tests::Weir::start(QUIET_BUT_HEALTH, &[]).await;
    weir.terminate().await;
    for (variable, socket) in [(path, &of_path), (format!("@{name}"), &of_name)] {
        weir.environment("NOTIFY_SOCKET", &variable);
        weir.restart().await;
        assert_eq!(told(socket), "READY=1");
        weir.terminate().await;
        assert_eq!(told(socket), "STOPPING=1");
    }
    weir.environment("NOTIFY_SOCKET", "/nowhere/notify");
    weir.log().announce("the supervisor was not told");
    weir.restart().await;
    weir.stop().await;
}

/// A daemon of which only health can be looked at.
const QUIET_BUT_HEALTH: &str = "receivers:
  otlp: {protocols: {grpc: {endpoint: '127.0.0.1:0'}}}
exporters:
  debug:
service:
  pipelines:
    traces: {receivers: [otlp], exporters: [debug]}
";

/// The next thing that a supervisor is told.
fn told(supervisor: &UnixDatagram) -> String {
    let long = deadline(Duration::from_secs(10));
    supervisor.set_read_timeout(Some(long)).expect("a time that is none is refused");
    let mut text = [0; 64];
    let length = supervisor.recv(&mut text).expect("it is told within its time");
    String::from_utf8_lossy(&text[..length]).into_owned()
}
