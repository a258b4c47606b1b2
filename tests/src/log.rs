//! What a daemon wrote on standard error.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};

/// Lines that a failed test shows.
const SHOWN_LINES_MAX: usize = 200;

/// The lines of a daemon and of those that were started on the same data folder after it.
#[derive(Debug, Clone, Default)]
pub struct Log {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    lines: Vec<String>,
    announced: Vec<String>,
}

impl Log {
    /// A test announces that lines with this in them will come and are no failure.
    pub fn announce(&self, part: impl Into<String>) {
        self.lock().announced.push(part.into());
    }

    /// All lines.
    pub fn lines(&self) -> Vec<String> {
        self.lock().lines.clone()
    }

    /// The first line that has all of these in it.
    pub fn find(&self, parts: &[&str]) -> Option<String> {
        let inner = self.lock();
        inner.lines.iter().find(|line| parts.iter().all(|part| line.contains(part))).cloned()
    }

    /// Lines of level WARN or ERROR, and panics, that nobody announced.
    pub fn surprises(&self) -> Vec<String> {
        let inner = self.lock();
        let is_surprise = |line: &&String| {
            is_loud(line) && !inner.announced.iter().any(|part| line.contains(part.as_str()))
        };
        inner.lines.iter().filter(is_surprise).cloned().collect()
    }

    /// The end of it, for a person.
    pub fn tail(&self) -> String {
        let inner = self.lock();
        let from = inner.lines.len().saturating_sub(SHOWN_LINES_MAX);
        inner.lines[from..].join("\n")
    }

    /// Keeps what comes until the other side closes.
    pub(crate) async fn follow(self, source: impl AsyncRead + Unpin) {
        let mut lines = BufReader::new(source).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            self.lock().lines.push(line);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a person would be told by this line that something is odd. The level is the second word of a line of text,
/// or the level of one of JSON.
fn is_loud(line: &str) -> bool {
    let level = line.split_whitespace().nth(1).unwrap_or_default();
    let of_text = matches!(level, "WARN" | "ERROR");
    let of_json = line.contains("\"level\":\"WARN\"") || line.contains("\"level\":\"ERROR\"");
    of_text || of_json || line.contains("panicked at") || line.starts_with("error: ")
}

#[cfg(test)]
mod tests {
    use super::Log;

    /// Scenario: lines of each level in text and JSON, a panic, and a test that announced one.
    /// Guarantees: what was not announced is a surprise; quiet lines and words inside messages are none.
    #[tokio::test]
    async fn a_loud_line_that_nobody_announced_is_a_surprise() {
        let log = Log::default();
        log.announce("plugin trapped");
        let text = "2026-01-01T00:00:00Z  INFO a WARN inside\n2026-01-01T00:00:00Z  WARN plugin trapped id=1\n\
            2026-01-01T00:00:00Z ERROR disk\n{\"level\":\"WARN\",\"message\":\"x\"}\nthread 'main' panicked at a.rs\n";
        log.clone().follow(text.as_bytes()).await;
        let surprises = log.surprises();
        assert_eq!(surprises.len(), 3, "{surprises:?}");
        assert!(surprises[0].ends_with("ERROR disk"));
        assert!(log.find(&["WARN", "id=1"]).is_some());
    }
}
