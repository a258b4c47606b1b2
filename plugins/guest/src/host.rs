//! What the host offers to a plugin.
//!
//! Off WebAssembly, where an author's tests run, there is no host: the log goes to standard error, the clock
//! is the system's, counters go nowhere, and nothing can be reached.

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
    let _ = (counter, value, labels);
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
