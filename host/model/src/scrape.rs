//! A target that is fetched from, as a plugin sees it (`wit/plugin.wit`, `scraper`).

use crate::http::Response;

/// Where to fetch, and what is known of it. The host finds it, relabels it, and says when.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Target {
    /// Name of the scrape configuration that it comes from, which relabelling cannot change.
    pub job: String,
    /// Full URL with its query.
    pub url: String,
    /// After relabelling, sorted by name; `job` and `instance` among them, none that begins with `__`.
    pub labels: Vec<(String, String)>,
}

/// What came of one fetch.
#[derive(Debug, Clone)]
pub struct Fetched {
    /// When it was due to begin, nanoseconds since the Unix epoch.
    pub at: u64,
    /// How long it took, nanoseconds.
    pub took: u64,
    /// The answer, decompressed, whatever its status; or why there is none.
    pub answer: Result<Response, String>,
}
