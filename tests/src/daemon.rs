//! One daemon: its addresses, its life, its data folder.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::binary::{self, Profile};
use crate::client::HttpClient;
use crate::log::Log;
use crate::port::free_address;
use crate::scrape::Page;
use crate::usage::Usage;
use crate::wait::until;

/// How long a start may take; the first one of a build compiles plugins.
const START_DEADLINE: Duration = Duration::from_secs(60);

/// How long a stop may take: more than the daemon gives itself.
const STOP_DEADLINE: Duration = Duration::from_secs(40);

/// Starts with other ports when somebody was faster at one of them.
const STARTS_MAX: usize = 5;

/// A daemon on ports and a data folder of its own. Dropped, it is killed, and its log is looked at.
#[derive(Debug)]
pub struct Weir {
    binary: PathBuf,
    /// What the binary is started by; empty: nothing.
    around: Vec<String>,
    folder: TempDir,
    config: String,
    known: Vec<(String, SocketAddr)>,
    environment: Vec<(String, String)>,
    addresses: BTreeMap<String, SocketAddr>,
    running: Option<Running>,
    log: Log,
    http: HttpClient,
}

#[derive(Debug)]
struct Running {
    child: Child,
    follower: JoinHandle<()>,
}

impl Weir {
    /// Starts the daemon and waits until it is ready.
    ///
    /// In `config` each `<name>` stands for an address: one of `known`, else a free one. Under `service:` the data
    /// folder and the addresses of metrics and health are written where `config` does not.
    ///
    /// # Panics
    /// Where it does not become ready; its log is shown.
    pub async fn start(config: &str, known: &[(&str, SocketAddr)]) -> Self {
        Self::start_as(Profile::Same, config, known).await
    }

    /// As [`Weir::start`], compiled so.
    ///
    /// # Panics
    /// As [`Weir::start`].
    pub async fn start_as(profile: Profile, config: &str, known: &[(&str, SocketAddr)]) -> Self {
        Self::start_within(profile, &[], config, known).await
    }

    /// As [`Weir::start_as`], by a command that becomes the one that stands behind it (`unshare … weir run …`).
    ///
    /// # Panics
    /// As [`Weir::start`].
    pub async fn start_within(
        profile: Profile,
        around: &[String],
        config: &str,
        known: &[(&str, SocketAddr)],
    ) -> Self {
        let binary = tokio::task::spawn_blocking(move || binary::weir(profile));
        let mut weir = Self {
            binary: binary.await.expect("the binary is built"),
            around: around.to_vec(),
            folder: TempDir::with_prefix("weir-").expect("a folder for a daemon"),
            config: config.to_owned(),
            known: known.iter().map(|(name, address)| ((*name).to_owned(), *address)).collect(),
            environment: Vec::new(),
            addresses: BTreeMap::new(),
            running: None,
            log: Log::default(),
            http: HttpClient::of_fresh_connections(),
        };
        for _ in 0..STARTS_MAX {
            weir.configure();
            weir.spawn();
            if weir.is_ready().await {
                return weir;
            }
            weir.end_of_process().await;
            let clash = weir.log.find(&["in use"]);
            assert!(clash.is_some(), "the daemon ended before it was ready:\n{}", weir.log.tail());
            weir.log = Log::default();
        }
        panic!("{STARTS_MAX} times a port was taken meanwhile");
    }

    /// The address that `<name>` stands for.
    ///
    /// # Panics
    /// Where the configuration has no such name.
    pub fn address(&self, name: &str) -> SocketAddr {
        *self.addresses.get(name).unwrap_or_else(|| panic!("the configuration has no <{name}>"))
    }

    /// Its log, across restarts.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Its data folder.
    pub fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Its process.
    ///
    /// # Panics
    /// Where it does not run.
    pub fn pid(&self) -> u32 {
        let running = self.running.as_ref().expect("the daemon runs");
        running.child.id().expect("nobody has waited for it")
    }

    /// Whether it was started and neither killed nor told to end since.
    pub fn runs(&self) -> bool {
        self.running.is_some()
    }

    /// What its process uses now.
    ///
    /// # Panics
    /// Where it does not run.
    pub fn usage(&self) -> Usage {
        Usage::of(self.pid()).expect("the daemon runs")
    }

    /// The binary, for other commands on the same folder.
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// The configuration's file.
    pub fn config_path(&self) -> PathBuf {
        self.folder.path().join("weir.yaml")
    }

    /// Writes another configuration, for the next start; names keep their addresses.
    pub fn reconfigure(&mut self, config: &str) {
        config.clone_into(&mut self.config);
        let kept = std::mem::take(&mut self.addresses);
        self.known = kept.into_iter().collect();
        self.configure();
    }

    /// A variable of the next start's environment.
    pub fn environment(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// What it says under `/metrics`.
    ///
    /// # Panics
    /// Where it does not answer.
    pub async fn metrics(&self) -> Page {
        let answer = self.http.get(self.address("metrics"), "/metrics").await.expect("the daemon answers");
        assert_eq!(answer.status(), 200, "{:?}", answer.body());
        Page::parse(&String::from_utf8(answer.into_body().into()).expect("metrics are text"))
    }

    /// Waits until the sum of the samples of this name and these labels is `value`.
    ///
    /// # Panics
    /// When the deadline has passed; the samples of this name are shown.
    pub async fn metric_becomes(&self, deadline: Duration, name: &str, labels: &[(&str, &str)], value: f64) {
        let reached =
            until(deadline, async || (self.metrics().await.value(name, labels) == Some(value)).then_some(()))
                .await;
        if reached.is_none() {
            let page = self.metrics().await;
            let samples: Vec<_> = page.samples().iter().filter(|sample| sample.name == name).collect();
            panic!("{name}{labels:?} is not {value} within {deadline:?}, there is {samples:?}");
        }
    }

    /// What the health page says: status and body.
    ///
    /// # Panics
    /// Where it does not answer.
    pub async fn health(&self) -> (u16, serde_json::Value) {
        let answer = self.http.get(self.address("health"), "/health").await.expect("the daemon answers");
        let body = serde_json::from_slice(answer.body()).expect("health is JSON");
        (answer.status().as_u16(), body)
    }

    /// `kill -9`.
    pub async fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.end_of_process().await;
    }

    /// SIGTERM, and waits for the end.
    ///
    /// # Panics
    /// Where it takes too long.
    pub async fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.end_of_process().await
    }

    /// SIGTERM; it must end cleanly, and nothing that nobody announced may stand in its log.
    ///
    /// # Panics
    /// Otherwise.
    pub async fn stop(mut self) {
        let status = self.terminate().await;
        assert!(status.success(), "the daemon ended with {status}:\n{}", self.log.tail());
    }

    /// Starts again on the same folder, under the same addresses, and waits until it is ready.
    ///
    /// # Panics
    /// Where it does not become ready; its log is shown.
    pub async fn restart(&mut self) {
        assert!(self.running.is_none(), "the daemon runs still");
        self.spawn();
        assert!(self.is_ready().await, "the daemon does not become ready again:\n{}", self.log.tail());
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw).expect("a process has a number");
        kill_process(pid, signal).expect("our own process may be told");
    }

    async fn end_of_process(&mut self) -> ExitStatus {
        let mut running = self.running.take().expect("the daemon runs");
        let Ok(status) = timeout(STOP_DEADLINE, running.child.wait()).await else {
            panic!("the daemon does not end within {STOP_DEADLINE:?}:\n{}", self.log.tail());
        };
        // What it wrote last is read to its end.
        running.follower.await.expect("following a log does not panic");
        status.expect("a child can be waited for")
    }

    /// Writes the configuration with addresses in place of names.
    fn configure(&mut self) {
        let service = format!(
            "service:\n  data_dir: {}\n  telemetry: {{metrics: {{endpoint: <metrics>}}}}\n  health: {{endpoint: <health>}}\n",
            self.data_dir().display(),
        );
        let has = |key: &str| self.config.lines().any(|line| line.trim_start().starts_with(key));
        let added =
            service.lines().filter(|line| !has(line.trim_start().split(':').next().unwrap_or_default()));
        let added: String = added.map(|line| format!("{line}\n")).collect();
        let head = "service:\n";
        let mut text = match self.config.split_once(head) {
            Some((before, after)) => format!("{before}{head}{added}{after}"),
            None => format!("{}\n{service}", self.config),
        };
        self.addresses = self.known.iter().cloned().collect();
        while let Some(name) = first_name(&text) {
            let address = *self.addresses.entry(name.clone()).or_insert_with(free_address);
            text = text.replace(&format!("<{name}>"), &address.to_string());
        }
        std::fs::write(self.config_path(), text).expect("the folder is ours");
    }

    fn spawn(&mut self) {
        let mut command = match self.around.split_first() {
            Some((program, arguments)) => {
                let mut command = Command::new(program);
                command.args(arguments).arg(&self.binary);
                command
            }
            None => Command::new(&self.binary),
        };
        command.arg("run").arg("--config").arg(self.config_path());
        command.env("NO_COLOR", "1").env_remove("WEIR_LOG");
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().expect("the binary starts");
        let stderr = child.stderr.take().expect("it is piped");
        let follower = tokio::spawn(self.log.clone().follow(stderr));
        self.running = Some(Running { child, follower });
    }

    /// Whether it becomes ready; false where it ends before.
    async fn is_ready(&mut self) -> bool {
        let health = self.address("health");
        let running = self.running.as_mut().expect("it was just started");
        let http = &self.http;
        let ready = until(START_DEADLINE, async || {
            if running.child.try_wait().expect("a child can be looked at").is_some() {
                return Some(false);
            }
            let answer = http.get(health, "/readyz").await.ok()?;
            (answer.status() == 200).then_some(true)
        });
        ready.await.unwrap_or_else(|| panic!("not ready within {START_DEADLINE:?}:\n{}", self.log.tail()))
    }
}

impl Drop for Weir {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("=== the daemon's log\n{}\n===", self.log.tail());
            return;
        }
        let surprises = self.log.surprises();
        assert!(surprises.is_empty(), "the daemon wrote what nobody announced:\n{}", surprises.join("\n"));
    }
}

/// The first `<name>` of a configuration.
fn first_name(text: &str) -> Option<String> {
    let is_name =
        |name: &str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let inside = text.split('<').skip(1).filter_map(|after| after.split_once('>'));
    inside.map(|(name, _)| name).find(|name| is_name(name)).map(str::to_owned)
}
