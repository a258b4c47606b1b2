//! What a guest writes to stdout and stderr in one call: the end of it is kept, for its log or for the message that tells
//! how it ended.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};

use crate::grant::Secrets;
use crate::words::tame;

/// Bytes of output that are kept: a panic's message with a backtrace, behind which a long secret may be cut in two.
const TAIL_BYTES: usize = 16 * 1024;

/// Bytes of output that an error message shows.
const SHOWN_BYTES: usize = 1024;

/// The last [`TAIL_BYTES`] of what a guest wrote. Cloning shares it; writing never fails and never waits.
#[derive(Clone, Default)]
pub(crate) struct Tail(Arc<Mutex<VecDeque<u8>>>);

impl Tail {
    /// The end of the output as one harmless line, without secrets; empty where there was none.
    pub(crate) fn tail(&self, secrets: &Secrets) -> String {
        let text = self.end(secrets);
        let from = text.ceil_char_boundary(text.len().saturating_sub(SHOWN_BYTES));
        tame(text[from..].trim(), SHOWN_BYTES * 2)
    }

    /// The end of the output as harmless lines, without secrets and empty ones.
    pub(crate) fn lines(&self, secrets: &Secrets) -> Vec<String> {
        let text = if self.kept().is_empty() { String::new() } else { self.end(secrets) };
        let lines = text.lines().map(str::trim_end).filter(|line| !line.is_empty());
        lines.map(|line| tame(line, SHOWN_BYTES)).collect()
    }

    /// What is kept, without secrets and halves of them.
    fn end(&self, secrets: &Secrets) -> String {
        let bytes: Vec<u8> = self.kept().iter().copied().collect();
        let text = String::from_utf8_lossy(&bytes);
        let text = secrets.redact(&text);
        // Where output was forgotten, what is left may begin in the middle of a secret.
        let halved = if bytes.len() == TAIL_BYTES { secrets.longest().saturating_sub(1) } else { 0 };
        text[text.ceil_char_boundary(halved.min(text.len()))..].to_owned()
    }

    /// Forgets what was written in earlier calls.
    pub(crate) fn clear(&self) {
        self.kept().clear();
    }

    fn kept(&self) -> MutexGuard<'_, VecDeque<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, bytes: &[u8]) {
        let bytes = &bytes[bytes.len().saturating_sub(TAIL_BYTES)..];
        let mut kept = self.kept();
        let surplus = (kept.len() + bytes.len()).saturating_sub(TAIL_BYTES);
        kept.drain(..surplus);
        kept.extend(bytes);
    }
}

impl IsTerminal for Tail {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Tail {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }
}

impl AsyncWrite for Tail {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.write(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: a guest writes more than is kept, in one piece and in many.
    /// Guarantees: the end survives, memory stays bounded.
    #[test]
    fn the_end_of_the_output_is_kept() {
        let tail = Tail::default();
        tail.write(&vec![b'a'; 3 * TAIL_BYTES]);
        for _ in 0..TAIL_BYTES {
            tail.write(b"bc");
        }
        tail.write(b"\nthread panicked\n");
        assert_eq!(tail.0.lock().unwrap().len(), TAIL_BYTES);
        let none = Secrets::default();
        assert!(tail.tail(&none).ends_with("bcbc\\u{a}thread panicked"), "{}", tail.tail(&none));
        tail.clear();
        assert_eq!(tail.tail(&none), "");
        assert!(tail.lines(&none).is_empty());
    }

    /// Scenario: a guest prints lines, an empty one among them, a control character, a secret, and one without an end.
    /// Guarantees: each line is one harmless line, without the secret.
    #[test]
    fn what_is_printed_is_told_line_by_line() {
        let tail = Tail::default();
        tail.write(b"one \x1b[2J\r\n\nkey hunter2\nthree");
        let lines = tail.lines(&Secrets::known(&["hunter2"]));
        assert_eq!(lines, [r"one \u{1b}[2J", "key [secret]", "three"]);
    }

    /// Scenario: a guest writes a secret whole, at the edge of what is shown, and at the edge of what is kept.
    /// Guarantees: no piece of it is shown.
    #[test]
    fn the_end_of_the_output_has_no_secret_in_it() {
        let secret = "s3cr3t-".repeat(100);
        let secrets = Secrets::known(&[&secret]);
        for after in [0, SHOWN_BYTES - 10, TAIL_BYTES - 10] {
            let tail = Tail::default();
            tail.write(secret.as_bytes());
            tail.write(&vec![b'.'; after]);
            let shown = tail.tail(&secrets);
            assert!(!shown.contains("cr3"), "after {after}: {shown}");
            assert!(!shown.is_empty());
        }
    }
}
