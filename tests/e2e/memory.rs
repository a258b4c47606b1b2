//! The daemon's resident memory, followed from outside.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;

/// Bytes of a mebibyte.
pub(crate) const MIB: u64 = 1 << 20;

/// How often the kernel is asked: often enough for a burst of one append round.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// The largest resident set of a process since it was last asked for.
#[derive(Debug)]
pub(crate) struct Resident {
    peak: Arc<AtomicU64>,
    looking: JoinHandle<()>,
}

impl Drop for Resident {
    fn drop(&mut self) {
        self.looking.abort();
    }
}

impl Resident {
    /// Follows this process until it ends.
    pub(crate) fn follow(pid: u32) -> Self {
        let peak = Arc::new(AtomicU64::new(0));
        let shared = Arc::clone(&peak);
        let looking = tokio::spawn(async move {
            let mut looks = tokio::time::interval(LOOK_INTERVAL);
            while let Some(bytes) = resident_bytes(pid) {
                shared.fetch_max(bytes, Ordering::Relaxed);
                looks.tick().await;
            }
        });
        Self { peak, looking }
    }

    /// The largest since the last call, in bytes.
    pub(crate) fn peak(&self) -> u64 {
        self.peak.swap(0, Ordering::Relaxed)
    }
}

/// `VmRSS` of a process.
fn resident_bytes(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}
