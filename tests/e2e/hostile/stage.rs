//! Guests from source, the folder they lie in, names that lead astray, backends, and a daemon with all of that.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};
use weir_tests::client::HttpClient;
use weir_tests::{Answer, BatchId, OtlpSink, Profile, Protocol, Sender, Shape, Weir};

use super::cases::{Case, Role};
use super::neighbour::Neighbour;
use crate::guests::Workspace;

/// How long the slow backend takes: many answers in one call, and none is a timeout.
const SLOW: Duration = Duration::from_millis(300);

/// What a plugin is fed: small, so that it is the plugin that does the harm.
const MORSEL: Shape = Shape { spans: 1, attributes: 1, value_bytes: 10 };

/// Nodes whose batches a plugin is fed, so that several of its instances have work.
const FED_NODES: u32 = 8;

/// The first of them, apart from those of the innocent.
const FED_FIRST: u32 = 500;

/// Requests under way at the doors of plugins: more than any has instances.
const UNDER_WAY_MAX: usize = 64;

/// What else stands under each id of a plugin: no quarantine, so that it goes on doing harm while its neighbour is
/// measured.
const AT_WORK: &str = ", quarantine: {ends: 1000}";

/// A guest, built at its first use.
pub(crate) async fn wasm(package: &'static str) -> &'static [u8] {
    static BUILT: [OnceLock<Vec<u8>>; 4] = [const { OnceLock::new() }; 4];
    let at = ["hostile", "errand", "mute", "board"].iter().position(|name| *name == package);
    let cell = &BUILT[at.unwrap_or_else(|| panic!("there is no guest {package}"))];
    let build = move || {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let workspace = Workspace::new(root.join("host/plugin/tests/guests"), root.join("plugins/target"));
        cell.get_or_init(|| workspace.build(package).unwrap_or_else(|error| panic!("{error}")))
    };
    tokio::task::spawn_blocking(build).await.expect("the guest is built")
}

/// What all daemons of the story share.
pub(crate) struct Stage {
    folder: TempDir,
    /// The command that gives a daemon names of its own; none where this user may not.
    around: Vec<String>,
    slow: OtlpSink,
    granted: SocketAddr,
    elsewhere: SocketAddr,
    visitors: Arc<AtomicU64>,
    _backends: JoinSet<()>,
}

impl Stage {
    /// Guests in a folder, backends that listen, names that lead astray.
    pub(crate) async fn set() -> Self {
        let folder = TempDir::with_prefix("weir-hostile-").expect("a folder for plugins");
        for package in ["hostile", "errand"] {
            let path = folder.path().join(format!("{package}.wasm"));
            std::fs::write(path, wasm(package).await).expect("the folder is ours");
        }
        let slow = OtlpSink::start().await;
        slow.answer(|_| Answer::After(SLOW, Box::new(Answer::Take)));
        let mut backends = JoinSet::new();
        let visitors = Arc::new(AtomicU64::new(0));
        let elsewhere = count_visitors(&mut backends, Arc::clone(&visitors)).await;
        let granted = redirect(&mut backends, elsewhere).await;
        let around = around(folder.path());
        Self { folder, around, slow, granted, elsewhere, visitors, _backends: backends }
    }

    /// Whether names lead where this story wants them to.
    pub(crate) fn has_names(&self) -> bool {
        !self.around.is_empty()
    }

    /// A backend that takes anything.
    pub(crate) fn granted(&self) -> SocketAddr {
        self.granted
    }

    /// The folder of the plugins.
    pub(crate) fn plugins(&self) -> &Path {
        self.folder.path()
    }

    /// Nobody came to where nobody was granted to go.
    pub(crate) fn assert_nobody_came(&self) {
        assert_eq!(
            self.visitors.load(Ordering::Relaxed),
            0,
            "connections to an address that was not granted"
        );
    }

    /// A daemon with these plugins and an innocent pipeline.
    pub(crate) async fn daemon(&self, cases: &[&Case]) -> Neighbour {
        let sink = OtlpSink::start().await;
        let known = [
            ("sink", sink.address()),
            ("slow", self.slow.address()),
            ("granted", self.granted),
            ("elsewhere", self.elsewhere),
        ];
        let weir = Weir::start_within(Profile::Same, &self.around, &self.config(cases), &known).await;
        // Lines about the plugins are looked at one by one; every other warning fails the story.
        for announced in [
            "hostile/",
            "errand/",
            "id=hostile reason",
            "lines like the next one were held back",
            "that plugins together have",
        ] {
            weir.log().announce(announced);
        }
        Neighbour::new(weir, sink)
    }

    fn config(&self, cases: &[&Case]) -> String {
        let mut receivers = String::from("  otlp/door: {protocols: {grpc: {endpoint: <door>}}}\n");
        let mut exporters = String::from("  debug:\n  otlp: {endpoint: 'http://<sink>'}\n");
        let mut pipelines = String::from("    traces: {receivers: [otlp/door], exporters: [otlp]}\n");
        let (mut fed, mut doors) = (Vec::new(), Vec::new());
        for case in cases {
            let (id, limits) = (case.id(), case.limits);
            let settings = case.settings.replace("ELSEWHERE", &self.elsewhere.port().to_string());
            let part =
                |plugin| format!("plugin: {plugin}, settings: {{{settings}}}, limits: {{{limits}}}{AT_WORK}");
            let retry = "retry: {initial_interval: 100ms, max_interval: 500ms}";
            let (section, part) = match case.role {
                Role::Exporter => (&mut exporters, format!("{}, {retry}", part("hostile"))),
                Role::Errand => (&mut exporters, format!("{}, {retry}", part("errand"))),
                Role::Receiver => (&mut receivers, part("hostile")),
            };
            writeln!(section, "  {id}: {{{part}}}").expect("a string grows");
            if case.role == Role::Receiver { doors.push(id) } else { fed.push(id) }
        }
        if !fed.is_empty() {
            receivers.push_str("  otlp/feed: {protocols: {grpc: {endpoint: <feed>}}}\n");
            let fed = fed.join(", ");
            writeln!(pipelines, "    traces/fed: {{receivers: [otlp/feed], exporters: [{fed}]}}")
                .expect("it grows");
        }
        if !doors.is_empty() {
            let doors = doors.join(", ");
            writeln!(pipelines, "    traces/doors: {{receivers: [{doors}], exporters: [debug]}}")
                .expect("it grows");
        } else {
            exporters = exporters.replace("  debug:\n", "");
        }
        let folder = self.folder.path().display();
        format!(
            "receivers:\n{receivers}exporters:\n{exporters}service:\n  plugin_dir: {folder}\n  pipelines:\n{pipelines}"
        )
    }
}

/// `unshare` with a file of hosts in front of the system's.
fn around(folder: &Path) -> Vec<String> {
    let hosts = folder.join("hosts");
    let text = "127.0.0.1 localhost\n169.254.169.254 metadata.test\n127.0.0.1 inside.test\n";
    std::fs::write(&hosts, text).expect("the folder is ours");
    let mount = format!("mount --bind '{}' /etc/hosts", hosts.display());
    let unshare = ["unshare", "--mount", "--propagation", "private", "sh", "-c"];
    let tried = Command::new(unshare[0]).args(&unshare[1..]).arg(&mount).output();
    if !tried.is_ok_and(|output| output.status.success()) {
        eprintln!(
            "NOT RUN: hosts by resolution: names of one's own need root. Run this test as root to see it hold."
        );
        return Vec::new();
    }
    let unshare = unshare.map(str::to_owned).into_iter();
    unshare.chain([format!("{mount} && exec \"$0\" \"$@\"")]).collect()
}

/// An address that counts who comes.
async fn count_visitors(tasks: &mut JoinSet<()>, visitors: Arc<AtomicU64>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    tasks.spawn(async move {
        while listener.accept().await.is_ok() {
            visitors.fetch_add(1, Ordering::Relaxed);
        }
    });
    address
}

/// A backend that takes everything, and sends those who ask for `/moved` to `elsewhere`.
async fn redirect(tasks: &mut JoinSet<()>, elsewhere: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            connections.spawn(async move {
                let service = service_fn(move |request| answer(request, elsewhere));
                let builder = hyper::server::conn::http1::Builder::new();
                // A daemon that goes away in the middle is no failure of the backend's.
                builder.serve_connection(TokioIo::new(stream), service).await.ok();
            });
            while connections.try_join_next().is_some() {}
        }
    });
    address
}

async fn answer(
    request: Request<Incoming>,
    elsewhere: SocketAddr,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let has_moved = request.uri().path() == "/moved";
    request.into_body().collect().await.ok();
    let mut response = Response::new(Full::default());
    if has_moved {
        *response.status_mut() = StatusCode::FOUND;
        let location = format!("http://{elsewhere}/stolen").parse().expect("an address is a header's value");
        response.headers_mut().insert("location", location);
    }
    Ok(response)
}

// === Feed ===

/// What the senders of receivers were answered last, by the case's name.
type Answers = Arc<Mutex<BTreeMap<&'static str, (u16, String)>>>;

/// Batches for plugins that export, requests for plugins that receive, at a steady pace.
pub(crate) struct Feed {
    feeding: JoinHandle<()>,
    stop: Arc<AtomicBool>,
    answers: Answers,
}

impl Feed {
    /// Feeds the plugins of these cases.
    pub(crate) fn start(weir: &Weir, cases: &[&Case], pace: Duration) -> Self {
        let (stop, answers) = (Arc::new(AtomicBool::new(false)), Answers::default());
        let is_door = |case: &&&Case| case.role == Role::Receiver;
        let doors: Vec<_> =
            cases.iter().filter(is_door).map(|case| (case.name, weir.address(case.name))).collect();
        let feed = (doors.len() < cases.len()).then(|| weir.address("feed"));
        let feeding = feed_at(feed, doors, pace, Arc::clone(&stop), Arc::clone(&answers));
        Self { feeding: tokio::spawn(feeding), stop, answers }
    }

    /// What the senders of this receiver were answered last.
    pub(crate) fn answer(&self, name: &str) -> Option<(u16, String)> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// No more.
    pub(crate) async fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.feeding.await.expect("feeding does not panic");
    }
}

async fn feed_at(
    feed: Option<SocketAddr>,
    doors: Vec<(&'static str, SocketAddr)>,
    pace: Duration,
    stop: Arc<AtomicBool>,
    answers: Answers,
) {
    let mut sender = feed.map(|address| Sender::new(Protocol::OtlpGrpc, address));
    let http = HttpClient::of_fresh_connections();
    let mut asking = JoinSet::new();
    let mut beat = tokio::time::interval(pace);
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for number in 0.. {
        beat.tick().await;
        if stop.load(Ordering::Relaxed) {
            break;
        }
        if let Some(sender) = &mut sender {
            let node = u32::try_from(number % u64::from(FED_NODES)).expect("it is less than that");
            // A queue that is full of what no plugin takes may refuse; the plugins have enough then.
            sender.send(BatchId { sender: FED_FIRST + node, number }, MORSEL).await;
        }
        let room = UNDER_WAY_MAX.saturating_sub(asking.len());
        for (name, address) in doors.iter().copied().take(room) {
            let (http, answers) = (http.clone(), Arc::clone(&answers));
            asking.spawn(async move {
                if let Ok(answer) = http.post(address, "/", "text/plain", "telemetry").await {
                    let text = String::from_utf8_lossy(answer.body()).into_owned();
                    let mut answers = answers.lock().unwrap_or_else(PoisonError::into_inner);
                    answers.insert(name, (answer.status().as_u16(), text));
                }
            });
        }
        while asking.try_join_next().is_some() {}
    }
}
