//! The process's allocator, and how what it keeps goes back to the system.
//!
//! A thread of mimalloc keeps pages whose blocks other threads have freed until it next looks at them. Bodies are
//! allocated where they arrive and freed where they are written or sent, so after a burst a worker that has nothing to
//! do would hold what the burst took.

use std::cell::Cell;
use std::time::{Duration, Instant};

use mimalloc::MiMalloc;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// How often a thread looks through its pages at most: a look costs microseconds, a burst's end is worth one.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

thread_local! {
    static LOOKED: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Gives back what this thread's part of the heap no longer needs. For threads that are about to wait.
pub(crate) fn give_back() {
    let now = Instant::now();
    if LOOKED.get().is_some_and(|looked| now.duration_since(looked) < LOOK_INTERVAL) {
        return;
    }
    LOOKED.set(Some(now));
    collect();
}

/// Whether memory that is touched from now on comes in small pages even where the heap would have huge ones, of 2 MiB each. What
/// a start allocates is spread over the heap, and would keep many of them resident for as long as the process lives; under
/// load they are worth having. A system that does not know the request has no huge pages either.
pub(crate) fn keep_pages_small(small: bool) {
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(small) {
        tracing::debug!(%error, small, "huge pages stay as they are");
    }
}

#[expect(unsafe_code, reason = "the allocator's crate has no safe way to say it")]
fn collect() {
    // SAFETY: it takes no pointer and may be called on any thread at any time (mimalloc, extended functions).
    unsafe { libmimalloc_sys::mi_collect(false) }
}
