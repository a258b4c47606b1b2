//! What the operating system says that a process uses.

use std::time::Duration;

/// Resident memory and processor time of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of memory that is resident now.
    pub rss_bytes: u64,
    /// The most that ever was.
    pub rss_peak_bytes: u64,
    /// Processor time of all its threads, in user and system mode.
    pub cpu: Duration,
}

impl Usage {
    /// Reads `/proc`; nothing where there is no such process.
    pub fn of(pid: u32) -> Option<Self> {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let kilobytes = |name: &str| -> Option<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().nth(1)?.parse().ok()
        };
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The second field is the program's name in brackets; user and system time are fields 14 and 15.
        let (_, fields) = stat.rsplit_once(')')?;
        let times = fields.split_whitespace().skip(11).take(2);
        let ticks: u64 = times.filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
        let per_second = rustix::param::clock_ticks_per_second();
        Some(Self {
            rss_bytes: kilobytes("VmRSS")? * 1024,
            rss_peak_bytes: kilobytes("VmHWM")? * 1024,
            cpu: Duration::from_millis(ticks * 1000 / per_second),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Usage;

    /// Scenario: this process, and a number that no process has.
    /// Guarantees: the one uses memory, the other nothing.
    #[test]
    fn a_process_uses_memory() {
        let usage = Usage::of(std::process::id()).expect("this process is there");
        assert!(usage.rss_bytes > 1 << 16 && usage.rss_peak_bytes >= usage.rss_bytes / 2, "{usage:?}");
        assert_eq!(Usage::of(u32::MAX), None);
    }
}
