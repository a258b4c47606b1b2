//! What the host offers to a plugin.
//!
//! Off WebAssembly, where an author's tests run, there is no host: the log goes to standard error, the clock
//! is the system's, counters are the thread's ([`counted`]), and nothing can be reached.

pub use crate::bindings::imports::weir::plugin::log::Level;
use crate::{HttpError, Request, Response};

/// Writes to the host's log. Facts belong into `fields`, not into the message.
pub fn log(level: Level, message: &str, fields: &[(&str, &str)]) {
    #[cfg(target_family = "wasm")]
    {
        let fields: Vec<_> = fields.iter().map(|&(name, value)| (name.into(), value.into())).collect();
        crate::bindings::imports::weir::plugin::log::write(level, message, &fields);
    }
    #[cfg(not(target_family = "wasm"))]
    eprintln!("{level:?} {message} {fields:?}");
}

/// Nanoseconds since the Unix epoch.
#[must_use]
pub fn now() -> u64 {
    #[cfg(target_family = "wasm")]
    return crate::bindings::imports::weir::plugin::clock::now();
    #[cfg(not(target_family = "wasm"))]
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

/// Adds to a counter of the plugin; the host prefixes its name and bounds the label sets.
pub fn count(counter: &str, value: u64, labels: &[(&str, &str)]) {
    #[cfg(target_family = "wasm")]
    {
        let labels: Vec<_> = labels.iter().map(|&(name, value)| (name.into(), value.into())).collect();
        crate::bindings::imports::weir::plugin::meter::add(counter, value, &labels);
    }
    #[cfg(not(target_family = "wasm"))]
    COUNTED.with_borrow_mut(|counted| {
        let key = key(counter, labels);
        if counted.len() < COUNTED_MAX || counted.contains_key(&key) {
            let sum = counted.entry(key).or_default();
            *sum = sum.saturating_add(value);
        }
    });
}

/// Counters with their labels that a thread of a test keeps; a plugin has some dozens.
#[cfg(not(target_family = "wasm"))]
const COUNTED_MAX: usize = 1_024;

/// A counter with its labels, in the order of their names.
#[cfg(not(target_family = "wasm"))]
type Counter = (String, Vec<(String, String)>);

#[cfg(not(target_family = "wasm"))]
std::thread_local! {
    static COUNTED: std::cell::RefCell<std::collections::BTreeMap<Counter, u64>> =
        const { std::cell::RefCell::new(std::collections::BTreeMap::new()) };
}

#[cfg(not(target_family = "wasm"))]
fn key(counter: &str, labels: &[(&str, &str)]) -> Counter {
    let mut labels: Vec<_> =
        labels.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
    labels.sort_unstable();
    (counter.to_owned(), labels)
}

/// What this thread has added to a counter with these labels: for an author's tests, off WebAssembly only. Tests may share a thread,
/// so that a test looks before and after.
#[cfg(not(target_family = "wasm"))]
#[must_use]
pub fn counted(counter: &str, labels: &[(&str, &str)]) -> u64 {
    COUNTED.with_borrow(|counted| counted.get(&key(counter, labels)).copied().unwrap_or(0))
}

/// Sends a request through the host's client. TLS, proxy and credentials are the host's; `timeout_ms` is in
/// milliseconds and none leaves it to the host.
///
/// # Errors
/// Why there is no answer. An answer with an error status is an answer.
pub fn send(request: &Request, timeout_ms: Option<u32>) -> Result<Response, HttpError> {
    #[cfg(target_family = "wasm")]
    return crate::bindings::imports::weir::plugin::http_client::send(request, timeout_ms);
    #[cfg(not(target_family = "wasm"))]
    {
        let _ = timeout_ms;
        Err(HttpError::Other(format!("no host to send {} {} through", request.method, request.target)))
    }
}
