//! One run of a client: what it says that it sent.
//!
//! ```text
//! stdin    a command a line, for clients that stay
//! stdout   {"pid":…} · {"name":…,"trace":…,"span":…,"start":…,"end":…} · {"done":command}
//! ```

use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use weir_tests::wait_until;

/// How long a client may take for a command, or to end.
const DEADLINE: Duration = Duration::from_secs(60);

/// A span that a client says it sent.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct SaidSpan {
    pub(crate) name: String,
    pub(crate) trace: String,
    pub(crate) span: String,
    /// Nanoseconds, or RFC 3339; some libraries do not tell.
    start: Option<String>,
    end: Option<String>,
}

/// All that a client has said.
#[derive(Debug, Clone, Default)]
pub(crate) struct Said {
    pub(crate) pid: i64,
    pub(crate) spans: Vec<SaidSpan>,
    /// See [`Said::in_micros`].
    pub(crate) in_micros: bool,
    done: usize,
}

/// A client that runs.
pub(crate) struct Client {
    child: Child,
    input: Option<ChildStdin>,
    said: Arc<Mutex<Said>>,
    output: Arc<Mutex<String>>,
    readers: Vec<JoinHandle<()>>,
    commands: usize,
}

impl SaidSpan {
    /// Start and end in nanoseconds since the epoch, where the client told.
    pub(crate) fn times(&self) -> Option<(u64, u64)> {
        Some((nanos(self.start.as_deref()?), nanos(self.end.as_deref()?)))
    }
}

/// Runs a client that sends and ends.
pub(crate) async fn run(command: &mut Command) -> Said {
    Client::start(command).finish().await
}

impl Client {
    pub(crate) fn start(command: &mut Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        // Python would write its compiled files beside the sources.
        command.env("PYTHONDONTWRITEBYTECODE", "1");
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let (said, output) = (Arc::<Mutex<Said>>::default(), Arc::<Mutex<String>>::default());
        let stdout = child.stdout.take().expect("it is piped");
        let stderr = child.stderr.take().expect("it is piped");
        let readers = vec![
            tokio::spawn(read(stdout, Arc::clone(&output), Some(Arc::clone(&said)))),
            tokio::spawn(read(stderr, Arc::clone(&output), None)),
        ];
        Self { input: child.stdin.take(), child, said, output, readers, commands: 0 }
    }

    pub(crate) fn said(&self) -> Said {
        lock(&self.said).clone()
    }

    /// Gives a command and waits until the client says that it is done.
    pub(crate) async fn command(&mut self, command: &str) {
        self.commands += 1;
        let input = self.input.as_mut().expect("it was not finished");
        let written = input.write_all(format!("{command}\n").as_bytes()).await;
        assert!(written.is_ok(), "the client is gone:\n{}", lock(&self.output));
        let (commands, said, output) = (self.commands, &self.said, &self.output);
        wait_until(DEADLINE, &format!("{command}, of a client that says {}", lock(output)), || {
            (lock(said).done >= commands).then_some(())
        })
        .await;
    }

    /// Closes its input and waits for a good end.
    pub(crate) async fn finish(mut self) -> Said {
        drop(self.input.take());
        let ended = timeout(DEADLINE, self.child.wait()).await;
        let Ok(status) = ended else { panic!("the client does not end:\n{}", lock(&self.output)) };
        let status = status.expect("a child can be waited for");
        for reader in self.readers {
            reader.await.expect("reading does not panic");
        }
        assert!(status.success(), "the client ended with {status}:\n{}", lock(&self.output));
        lock(&self.said).clone()
    }
}

async fn read(source: impl AsyncRead + Unpin, output: Arc<Mutex<String>>, said: Option<Arc<Mutex<Said>>>) {
    let mut lines = BufReader::new(source).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        if let (Some(said), Ok(fact)) = (&said, serde_json::from_str::<Value>(&line)) {
            lock(said).hear(fact);
        }
        let mut output = lock(&output);
        output.push_str(&line);
        output.push('\n');
    }
}

impl Said {
    /// What it said went a way that has no finer times than microseconds.
    pub(crate) fn in_micros(self) -> Self {
        Self { in_micros: true, ..self }
    }

    /// What it said went through a library that rounds times in its own way: they are not held against what arrives.
    pub(crate) fn without_times(mut self) -> Self {
        self.spans.iter_mut().for_each(|span| (span.start, span.end) = (None, None));
        self
    }

    fn hear(&mut self, fact: Value) {
        if let Some(pid) = fact["pid"].as_i64() {
            self.pid = pid;
        } else if fact.get("done").is_some() {
            self.done += 1;
        } else if fact.get("span").is_some() {
            self.spans.push(serde_json::from_value(fact).expect("a client says its spans as it should"));
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `1700000000123456789`, or `2023-11-14T22:13:20.123456789Z` with any number of digits after the point.
pub(crate) fn nanos(text: &str) -> u64 {
    if let Ok(nanos) = text.parse() {
        return nanos;
    }
    let parse = || -> Option<u64> {
        let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
        let [year, month, day] = numbers::<3>(date, '-')?;
        let (clock, fraction) = time.split_once('.').unwrap_or((time, "0"));
        let [hours, minutes, seconds] = numbers::<3>(clock, ':')?;
        let fraction: u64 = format!("{fraction:0<9}").parse().ok()?;
        let seconds = ((days(year, month, day) * 24 + hours) * 60 + minutes) * 60 + seconds;
        Some(seconds * 1_000_000_000 + fraction)
    };
    parse().unwrap_or_else(|| panic!("no time: {text}"))
}

fn numbers<const N: usize>(text: &str, by: char) -> Option<[u64; N]> {
    let numbers: Vec<u64> = text.split(by).map(|part| part.parse().ok()).collect::<Option<_>>()?;
    numbers.try_into().ok()
}

/// Days from 1970-01-01 to a later date: years begin in March here, so that the odd day comes last.
fn days(year: u64, month: u64, day: u64) -> u64 {
    let (year, month) = if month <= 2 { (year - 1, month + 9) } else { (year, month - 3) };
    365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1 - 719_468
}

/// Scenario: times as the clients write them.
/// Guarantees: each is read to the nanosecond.
#[test]
fn times_are_read_as_they_are_written() {
    assert_eq!(nanos("1700000000123456789"), 1_700_000_000_123_456_789);
    assert_eq!(nanos("2023-11-14T22:13:20.123456Z"), 1_700_000_000_123_456_000);
    assert_eq!(nanos("2024-02-29T00:00:00Z"), 1_709_164_800_000_000_000);
}
