//! What an operator writes of targets, checked: one scrape configuration.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::relabel::Rule;

/// The interval of a job that says nothing (Prometheus' own).
pub const INTERVAL_DEFAULT: Duration = Duration::from_secs(60);

/// The timeout of a job that says nothing (Prometheus' own).
pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);

/// Bytes of an answer, decompressed. The largest pages that are seen (kube-state-metrics of a large cluster) have some tens of MB, and
/// say so in their configuration; a page of 100 series has 10 kB.
pub const BODY_BYTES_MAX_DEFAULT: usize = 16 * 1024 * 1024;

/// How often files of targets are read again without a reason (Prometheus' own).
pub const REFRESH_DEFAULT: Duration = Duration::from_secs(300);

/// One entry of `scrape_configs`.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// `job_name`.
    pub name: String,
    /// `scrape_interval`.
    pub interval: Duration,
    /// `scrape_timeout`, at most the interval.
    pub timeout: Duration,
    /// `metrics_path`.
    pub metrics_path: String,
    /// `scheme`: `http` or `https`.
    pub scheme: String,
    /// `params` of the URL.
    pub params: BTreeMap<String, Vec<String>>,
    /// `body_size_limit`, in bytes.
    pub body_bytes_max: usize,
    /// `relabel_configs`.
    pub relabel_rules: Vec<Rule>,
    /// `static_configs`.
    pub groups: Vec<Group>,
    /// `file_sd_configs`.
    pub files: Vec<TargetFiles>,
}

impl Job {
    /// A job without a target, with the defaults.
    pub fn named(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            interval: INTERVAL_DEFAULT,
            timeout: TIMEOUT_DEFAULT,
            metrics_path: "/metrics".to_owned(),
            scheme: "http".to_owned(),
            params: BTreeMap::new(),
            body_bytes_max: BODY_BYTES_MAX_DEFAULT,
            relabel_rules: Vec::new(),
            groups: Vec::new(),
            files: Vec::new(),
        }
    }
}

/// Targets with labels that all of them have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Group {
    /// `host:port` each.
    pub targets: Vec<String>,
    /// By name.
    pub labels: Vec<(String, String)>,
}

/// Files that name targets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetFiles {
    /// Paths; the last part of each may have one `*`.
    pub patterns: Vec<PathBuf>,
    /// When they are read again at the latest.
    pub refresh: Duration,
}
