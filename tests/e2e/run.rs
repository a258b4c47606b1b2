//! What every story needs: figures, a seed, a machine for itself, commands of the binary.

use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use tokio::process::Command;
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::timeout;

/// How long a command may take that looks and ends.
const COMMAND_DEADLINE: Duration = Duration::from_secs(60);

/// How long what was queued may take to reach a backend that takes.
pub(crate) const DELIVERY_DEADLINE: Duration = Duration::from_secs(120);

/// Records that exporters have not settled; those that are settled may still lie in a segment that is not full.
pub(crate) const PENDING: &str = "otelcol_exporter_queue_size";

/// A deadline of users' builds, ten times as long where daemon and test are not optimised.
pub(crate) fn deadline(of_release: Duration) -> Duration {
    if cfg!(debug_assertions) { of_release * 10 } else { of_release }
}

/// What the environment says, else `usual`.
pub(crate) fn figure<T: FromStr>(variable: &str, usual: T) -> T {
    match std::env::var(variable) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{variable}={text}: expected a number")),
        Err(_) => usual,
    }
}

/// Random choices of one story; the seed is printed and can be given back by `WEIR_SEED`.
pub(crate) fn random(story: &str) -> fastrand::Rng {
    let seed = figure("WEIR_SEED", fastrand::u64(..));
    eprintln!("{story}: WEIR_SEED={seed}");
    fastrand::Rng::with_seed(seed)
}

/// The machine, for a story that measures or that loads it.
pub(crate) async fn alone() -> MutexGuard<'static, ()> {
    static MACHINE: Mutex<()> = Mutex::const_new(());
    MACHINE.lock().await
}

/// What a command said.
#[derive(Debug)]
pub(crate) struct Said {
    /// Its exit code.
    pub(crate) code: Option<i32>,
    /// On standard output.
    pub(crate) out: Vec<u8>,
    /// On standard error.
    pub(crate) err: String,
}

impl Said {
    /// Standard output as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.out).into_owned()
    }

    /// Standard output as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.out).unwrap_or_else(|error| panic!("no JSON: {error}: {self:?}"))
    }

    /// It must have gone well.
    #[track_caller]
    pub(crate) fn well(self) -> Self {
        assert_eq!(self.code, Some(0), "{self:?}");
        self
    }
}

/// Runs a command of the binary to its end.
pub(crate) async fn command(binary: &Path, arguments: &[&str]) -> Said {
    let mut command = Command::new(binary);
    command.args(arguments).env("NO_COLOR", "1").env_remove("WEIR_LOG").kill_on_drop(true);
    let output = timeout(COMMAND_DEADLINE, command.output()).await;
    let output = output.unwrap_or_else(|_| panic!("{arguments:?} does not end")).expect("the binary starts");
    Said {
        code: output.status.code(),
        out: output.stdout,
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
