//! Who is measured: Weir, and the OpenTelemetry Collector under the same load.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail};
use tempfile::TempDir;
use weir_tests::port::free_address;

use crate::process::Process;
use crate::send::Protocol;
use crate::sink::Backend;

/// How long a first start may take; it compiles plugins.
const START_DEADLINE: Duration = Duration::from_secs(60);

/// The Collector's builder, in the version of its manifest.
const BUILDER: &str = "go.opentelemetry.io/collector/cmd/builder@v0.159.0";

/// Where acknowledged batches are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Storage {
    /// In memory.
    Memory,
    /// On disk; acknowledged after `fdatasync`.
    Disk,
}

impl Storage {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Disk => "disk",
        }
    }
}

/// The way of a span through a daemon.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Way {
    pub(crate) protocol: Protocol,
    pub(crate) backend: Backend,
}

impl Way {
    fn signal(self) -> &'static str {
        match self.protocol {
            Protocol::OtlpMetrics | Protocol::RemoteWrite => "metrics",
            Protocol::Otlp | Protocol::OpenCensus | Protocol::Zipkin | Protocol::Jaeger => "traces",
        }
    }
}

/// The binaries.
#[derive(Debug)]
pub(crate) struct Binaries {
    pub(crate) weir: PathBuf,
    pub(crate) collector: Option<PathBuf>,
    /// Where runs have their folders: on the disk of the build, not on one that is memory.
    pub(crate) folder: PathBuf,
    root: PathBuf,
}

impl Binaries {
    /// Finds them: Weir is built in release, the Collector by its builder where it is asked for and not there yet.
    ///
    /// # Errors
    /// Where the Collector does not build.
    pub(crate) fn find(collector: bool) -> anyhow::Result<Self> {
        let root =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().context("find the repository")?;
        let weir = weir_tests::binary::weir(weir_tests::Profile::Release);
        let folder = root.join("target/load");
        fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        let collector = if collector { Some(collector_binary(&root)?) } else { None };
        Ok(Self { weir, collector, folder, root })
    }

    /// The version of each, for the report.
    pub(crate) fn versions(&self) -> Vec<String> {
        let binaries = [Some(&self.weir), self.collector.as_ref()];
        let version = |binary: &PathBuf| {
            let output = Command::new(binary).arg("--version").output().ok()?;
            Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        };
        binaries.into_iter().flatten().filter_map(version).collect()
    }

    /// The repository.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }
}

fn collector_binary(root: &Path) -> anyhow::Result<PathBuf> {
    let binary = root.join("target/collector/otelcol");
    if binary.is_file() {
        return Ok(binary);
    }
    let go = ["go", "/usr/local/go/bin/go"]
        .into_iter()
        .find(|go| Command::new(go).arg("version").output().is_ok());
    let go =
        go.context("--collector needs Go 1.26 or later: it is neither on PATH nor in /usr/local/go/bin")?;
    let mut command = Command::new(go);
    command.current_dir(root).args(["run", BUILDER, "--config", "tests/load/collector/builder.yaml"]);
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/local/go/bin"));
    eprintln!("building the Collector: {command:?}");
    let status = command.status().context("run Go")?;
    if !status.success() {
        bail!("the Collector's builder ended with {status}; it says why above");
    }
    Ok(binary)
}

/// A daemon that runs.
#[derive(Debug)]
pub(crate) struct Daemon {
    pub(crate) process: Process,
    /// Another one behind it, on the same core, whose work counts as well.
    behind: Option<Process>,
    /// Where the way begins.
    pub(crate) entry: SocketAddr,
    // Removed with the daemon.
    _folder: TempDir,
}

impl Daemon {
    /// One that runs, perhaps with another behind it.
    pub(crate) fn of(process: Process, entry: SocketAddr, behind: Option<Process>, folder: TempDir) -> Self {
        Self { process, behind, entry, _folder: folder }
    }

    /// CPU time of it, and of the one behind it.
    ///
    /// # Errors
    /// Where `/proc` does not say.
    pub(crate) fn cpu(&self) -> anyhow::Result<Duration> {
        let behind = self.behind.as_ref().map_or(Ok(Duration::ZERO), Process::cpu)?;
        Ok(self.process.cpu()? + behind)
    }

    /// SIGTERM to it, then to the one behind it, each waited for.
    ///
    /// # Errors
    /// Where one does not end, or not with success.
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        let Self { process, behind, entry: _, _folder } = self;
        process.stop().await?;
        match behind {
            Some(behind) => behind.stop().await,
            None => Ok(()),
        }
    }

    /// Starts Weir so that it has one way.
    ///
    /// # Errors
    /// Where it does not.
    pub(crate) async fn weir(
        binaries: &Binaries,
        way: Way,
        storage: Storage,
        sink: SocketAddr,
    ) -> anyhow::Result<Self> {
        let folder = TempDir::new_in(&binaries.folder).context("make a folder")?;
        let entry = free_address();
        let config = weir_config(way, storage, entry, sink, folder.path());
        Self::start(&binaries.weir, &["run", "--config"], &config, &[("WEIR_LOG", "warn")], entry, folder)
            .await
    }

    /// Starts the Collector so that it has one way. It answers when the sink has: `wait_for_result`.
    ///
    /// # Errors
    /// Where it does not.
    pub(crate) async fn collector(binaries: &Binaries, sink: SocketAddr) -> anyhow::Result<Self> {
        let folder = TempDir::new_in(&binaries.folder).context("make a folder")?;
        let entry = free_address();
        let binary = binaries.collector.as_ref().context("the Collector was not asked for")?;
        let config = collector_config(entry, sink);
        Self::start(binary, &["--config"], &config, &[("GOMAXPROCS", "1")], entry, folder).await
    }

    async fn start(
        binary: &Path,
        arguments: &[&str],
        config: &str,
        environment: &[(&str, &str)],
        entry: SocketAddr,
        folder: TempDir,
    ) -> anyhow::Result<Self> {
        let path = folder.path().join("config.yaml");
        fs::write(&path, config).context("write a configuration")?;
        let path = path.to_str().context("the build's folder has a name that is text")?;
        let arguments: Vec<_> = arguments.iter().copied().chain([path]).collect();
        let mut process = Process::start(binary, &arguments, environment, &folder.path().join("log"))?;
        process.listens(entry, START_DEADLINE).await?;
        Ok(Self::of(process, entry, None, folder))
    }
}

/// A configuration with one pipeline.
pub(crate) fn weir_config(
    way: Way,
    storage: Storage,
    entry: SocketAddr,
    sink: SocketAddr,
    folder: &Path,
) -> String {
    let (receiver, receiver_config) = match way.protocol {
        Protocol::Otlp | Protocol::OtlpMetrics => {
            ("otlp", format!("{{protocols: {{grpc: {{endpoint: {entry}}}}}}}"))
        }
        Protocol::OpenCensus => ("opencensus", format!("{{endpoint: {entry}}}")),
        Protocol::Zipkin => ("zipkin", format!("{{endpoint: {entry}}}")),
        Protocol::Jaeger => ("jaeger", format!("{{protocols: {{thrift_http: {{endpoint: {entry}}}}}}}")),
        Protocol::RemoteWrite => ("prometheusremotewrite", format!("{{endpoint: {entry}}}")),
    };
    let (exporter, exporter_config) = match way.backend {
        Backend::Otlp => ("otlp", format!("{{endpoint: 'http://{sink}', compression: none}}")),
        Backend::Zipkin => ("zipkin", format!("{{endpoint: 'http://{sink}/api/v2/spans'}}")),
        Backend::OtlpHttp => ("otlp_http", format!("{{endpoint: 'http://{sink}', compression: none}}")),
        Backend::Jaeger => ("jaeger", format!("{{endpoint: 'http://{sink}/v1/traces'}}")),
        Backend::RemoteWrite => {
            ("prometheusremotewrite", format!("{{endpoint: 'http://{sink}/api/v1/write'}}"))
        }
    };
    let signal = way.signal();
    format!(
        "receivers:\n  {receiver}: {receiver_config}\nexporters:\n  {exporter}: {exporter_config}\n{}  pipelines:\n    \
         {signal}: {{receivers: [{receiver}], exporters: [{exporter}]}}\n",
        service(storage, folder),
    )
}

/// A configuration with everything that an agent may have, six bundled plugins among it: what it holds in memory while idle.
pub(crate) fn everything_config(entry: SocketAddr, sink: SocketAddr, folder: &Path) -> String {
    let [http, census, zipkin, jaeger, page] = std::array::from_fn(|_| free_address());
    format!(
        "receivers:
  otlp: {{protocols: {{grpc: {{endpoint: {entry}}}, http: {{endpoint: {http}}}}}}}
  opencensus: {{endpoint: {census}}}
  zipkin: {{endpoint: {zipkin}}}
  jaeger: {{protocols: {{thrift_http: {{endpoint: {jaeger}}}}}}}
  prometheus: {{config: {{scrape_configs: [{{job_name: idle, scrape_interval: 1h, static_configs: [{{targets: ['{sink}']}}]}}]}}}}
exporters:
  otlp: {{endpoint: 'http://{sink}'}}
  otlp_http: {{endpoint: 'http://{sink}'}}
  zipkin: {{endpoint: 'http://{sink}/api/v2/spans'}}
  prometheus: {{endpoint: {page}}}
{}  pipelines:
    traces: {{receivers: [otlp, opencensus, zipkin, jaeger], exporters: [otlp, otlp_http, zipkin]}}
    metrics: {{receivers: [otlp, prometheus], exporters: [prometheus]}}
",
        service(Storage::Disk, folder),
    )
}

pub(crate) fn service(storage: Storage, folder: &Path) -> String {
    service_seen(storage, folder, free_address())
}

/// The same, with the page of metrics at an address that is known.
pub(crate) fn service_seen(storage: Storage, folder: &Path, metrics: SocketAddr) -> String {
    format!(
        "service:\n  data_dir: {}\n  queue: {{storage: {}}}\n  telemetry: {{metrics: {{endpoint: {}}}}}\n  health: {{endpoint: {}}}\n",
        folder.join("data").display(),
        storage.name(),
        metrics,
        free_address(),
    )
}

fn collector_config(entry: SocketAddr, sink: SocketAddr) -> String {
    format!(
        "receivers:\n  otlp: {{protocols: {{grpc: {{endpoint: '{entry}', max_recv_msg_size_mib: 64}}}}}}\nexporters:\n  \
         otlp:\n    endpoint: '{sink}'\n    compression: none\n    tls: {{insecure: true}}\n    \
         sending_queue: {{wait_for_result: true, block_on_overflow: true, sizer: requests, queue_size: 100}}\n\
         service:\n  telemetry: {{metrics: {{level: none}}, logs: {{level: error}}}}\n  pipelines:\n    \
         traces: {{receivers: [otlp], exporters: [otlp]}}\n"
    )
}
