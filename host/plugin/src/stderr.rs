//! What a guest writes to stdout and stderr: the end of it is kept for error messages, nothing else.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};

use crate::grant::Secrets;

/// Bytes of output that are kept: a panic's message with a backtrace.
const TAIL_BYTES: usize = 4 * 1024;

/// Bytes of output that an error message shows.
const SHOWN_BYTES: usize = 1024;

/// The last [`TAIL_BYTES`] of what a guest wrote. Cloning shares it; writing never fails and never waits.
#[derive(Clone, Default)]
pub(crate) struct Tail(Arc<Mutex<VecDeque<u8>>>);

impl Tail {
    /// The end of the output as one harmless line, without secrets; empty where there was none.
    pub(crate) fn tail(&self, secrets: &Secrets) -> String {
        let bytes: Vec<u8> = self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect();
        let text = String::from_utf8_lossy(&bytes);
        let text = secrets.redact(&text);
        // Where output was forgotten, what is left may begin in the middle of a secret.
        let halved = if bytes.len() == TAIL_BYTES { secrets.longest().saturating_sub(1) } else { 0 };
        let from = text.len().saturating_sub(SHOWN_BYTES).max(halved.min(text.len()));
        crate::words::tame(text[text.ceil_char_boundary(from)..].trim(), SHOWN_BYTES * 2)
    }

    /// Forgets what was written in earlier calls.
    pub(crate) fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn write(&self, bytes: &[u8]) {
        let bytes = &bytes[bytes.len().saturating_sub(TAIL_BYTES)..];
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
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
