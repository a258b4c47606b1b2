//! A daemon pinned to its core, and what the operating system says about it.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};

/// The core of the daemon.
const DAEMON_CORE: &str = "1";

/// The core of senders and sinks.
const OUR_CORE: &str = "0";

/// How long a daemon may take to end when it is told to.
const STOP_DEADLINE: Duration = Duration::from_secs(40);

/// Ticks of the process times in `/proc`, which Linux fixes for user space.
const TICKS_PER_SECOND: f64 = 100.0;

/// Pins this process, with all its threads, to its core.
///
/// # Errors
/// Where `taskset` cannot, as on a machine with one core.
pub(crate) fn pin_ourselves() -> anyhow::Result<()> {
    let pid = std::process::id().to_string();
    let output =
        Command::new("taskset").args(["-a", "-c", "-p", OUR_CORE, &pid]).output().context("run taskset")?;
    if !output.status.success() {
        bail!("taskset: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// A process under test. Dropped, it is killed.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    log: std::path::PathBuf,
}

impl Process {
    /// Starts a program on the daemon's core; what it writes goes to `log`.
    ///
    /// # Errors
    /// Where it does not start.
    pub(crate) fn start(
        program: &Path,
        arguments: &[&str],
        environment: &[(&str, &str)],
        log: &Path,
    ) -> anyhow::Result<Self> {
        let file = fs::File::create(log).with_context(|| format!("create {}", log.display()))?;
        let mut command = Command::new("taskset");
        command.args(["-c", DAEMON_CORE]).arg(program).args(arguments).envs(environment.iter().copied());
        command.stdin(Stdio::null()).stdout(file.try_clone().context("share the log")?).stderr(file);
        let child = command.spawn().with_context(|| format!("start {} by taskset", program.display()))?;
        Ok(Self { child, log: log.to_owned() })
    }

    /// An error with the end of the daemon's log.
    pub(crate) fn complaint(&self, what: &str) -> anyhow::Error {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let tail: Vec<_> = text.lines().rev().take(20).collect();
        let tail: Vec<_> = tail.into_iter().rev().collect();
        anyhow::anyhow!("{what}; the daemon wrote last:\n{}", tail.join("\n"))
    }

    /// Waits until somebody accepts connections at `address`.
    ///
    /// # Errors
    /// Where the daemon ends before, or the deadline passes.
    pub(crate) async fn listens(&mut self, address: SocketAddr, deadline: Duration) -> anyhow::Result<()> {
        let until = Instant::now() + deadline;
        while tokio::net::TcpStream::connect(address).await.is_err() {
            if let Some(status) = self.child.try_wait().context("look at the daemon")? {
                return Err(self.complaint(&format!("the daemon ended with {status}")));
            }
            if Instant::now() > until {
                return Err(self.complaint(&format!("nobody listens at {address} within {deadline:?}")));
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }

    /// SIGTERM, and waits for the end.
    ///
    /// # Errors
    /// Where it does not end, or not with success.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        let pid =
            i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("a process has a number")?;
        kill_process(pid, Signal::TERM).context("tell the daemon to end")?;
        let until = Instant::now() + STOP_DEADLINE;
        let status: ExitStatus = loop {
            if let Some(status) = self.child.try_wait().context("wait for the daemon")? {
                break status;
            }
            if Instant::now() > until {
                return Err(self.complaint("the daemon does not end"));
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        };
        if status.success() {
            Ok(())
        } else {
            Err(self.complaint(&format!("the daemon ended with {status}")))
        }
    }

    /// CPU time of all its threads since it began.
    ///
    /// # Errors
    /// Where `/proc` does not say.
    pub(crate) fn cpu(&self) -> anyhow::Result<Duration> {
        let folder = format!("/proc/{}", self.child.id());
        let mut nanos = 0;
        for task in fs::read_dir(format!("{folder}/task")).context("list the daemon's threads")? {
            // A thread may end between the listing and the look.
            let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) else { continue };
            nanos += text.split(' ').next().and_then(|n| n.parse::<u64>().ok()).context("read schedstat")?;
        }
        // Of threads that have ended only the process's own sum knows, in ticks.
        let stat = fs::read_to_string(format!("{folder}/stat")).context("read stat")?;
        let fields: Vec<_> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks =
            |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).context("read stat");
        let ticked = (ticks(11)? + ticks(12)?) / TICKS_PER_SECOND;
        Ok(Duration::from_nanos(nanos).max(Duration::from_secs_f64(ticked)))
    }

    /// Resident memory now, in MiB.
    ///
    /// # Errors
    /// Where `/proc` does not say.
    pub(crate) fn rss_mib(&self) -> anyhow::Result<f64> {
        self.status_mib("VmRSS:")
    }

    /// Resident memory at its highest, in MiB.
    ///
    /// # Errors
    /// Where `/proc` does not say.
    pub(crate) fn peak_mib(&self) -> anyhow::Result<f64> {
        self.status_mib("VmHWM:")
    }

    fn status_mib(&self, key: &str) -> anyhow::Result<f64> {
        let text = fs::read_to_string(format!("/proc/{}/status", self.child.id())).context("read status")?;
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(key))
            .with_context(|| format!("no {key} in status"))?;
        let kib: f64 = line.trim().trim_end_matches(" kB").parse().with_context(|| format!("read {key}"))?;
        Ok(kib / 1024.0)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only where it has ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Processor time that the whole machine has given away since it started, and what was stolen from it.
///
/// # Errors
/// Where `/proc` does not say.
pub(crate) fn machine_busy() -> anyhow::Result<Duration> {
    let text = fs::read_to_string("/proc/stat").context("read /proc/stat")?;
    let line = text.lines().next().context("read /proc/stat")?;
    let ticks: Vec<f64> = line.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
    let busy = [0, 1, 2, 5, 6, 7].iter().filter_map(|at| ticks.get(*at)).sum::<f64>();
    Ok(Duration::from_secs_f64(busy / TICKS_PER_SECOND))
}

/// Processor time of this process.
///
/// # Errors
/// Where `/proc` does not say.
pub(crate) fn our_cpu() -> anyhow::Result<Duration> {
    let stat = fs::read_to_string("/proc/self/stat").context("read stat")?;
    let fields: Vec<_> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).context("read stat");
    Ok(Duration::from_secs_f64((ticks(11)? + ticks(12)?) / TICKS_PER_SECOND))
}
