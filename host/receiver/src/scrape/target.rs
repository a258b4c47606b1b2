//! From an address with labels to a target: defaults, relabelling, the URL (Prometheus' `scrape/target.go`).

use std::collections::hash_map::DefaultHasher;
use std::fmt::Write as _;
use std::hash::{Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::Duration;

use weir_model::scrape::Target;
use weir_net::address::Origin;

use super::duration;
use super::job::Job;
use super::relabel::{Labels, apply};

/// Bytes of a URL: what servers take.
const URL_BYTES_MAX: usize = 8 * 1024;

/// Labels of one target after relabelling: each goes with every batch of it.
const LABELS_MAX: usize = 128;

/// Bytes of a label's name.
const NAME_BYTES_MAX: usize = 512;

/// Bytes of a label's value.
const VALUE_BYTES_MAX: usize = 4 * 1024;

/// The shortest interval. Below it a target would be asked without pause.
pub const INTERVAL_MIN: Duration = Duration::from_millis(100);

/// The longest interval: what is not fetched in a day is a mistake.
pub const INTERVAL_MAX: Duration = Duration::from_secs(24 * 3600);

/// The prefix of labels that are parameters of the URL.
pub const PARAM: &str = "__param_";

/// A target with what the host alone knows of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) target: Arc<Target>,
    /// The index of its job.
    pub(super) job: usize,
    /// What may be dialled for it.
    pub(super) origin: Origin,
    pub(super) interval: Duration,
    pub(super) timeout: Duration,
}

impl Found {
    /// The same for the same target in every process of this version, so that a restart keeps its phase.
    pub(super) fn hash(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.target.hash(&mut hasher);
        hasher.finish()
    }
}

/// Makes a target of an address and its group's labels. `None`: a rule has let it go.
///
/// # Errors
/// Why it is none, for a person.
pub(super) fn resolve(
    index: usize,
    job: &Job,
    address: &str,
    group: &[(String, String)],
) -> Result<Option<Found>, String> {
    let mut labels: Labels = group.iter().filter(|(_, value)| !value.is_empty()).cloned().collect();
    labels.insert("__address__".to_owned(), address.to_owned());
    defaults(job, &mut labels);
    if !apply(&job.relabel_rules, &mut labels) {
        return Ok(None);
    }
    let address = labels.get("__address__").cloned().unwrap_or_default();
    if address.is_empty() {
        return Err("a rule has removed `__address__`: expected host:port".to_owned());
    }
    check_address(&address)?;
    let interval = time(&labels, "__scrape_interval__")?;
    let timeout = time(&labels, "__scrape_timeout__")?;
    if interval < INTERVAL_MIN || interval > INTERVAL_MAX {
        let (least, most) = (duration::show(INTERVAL_MIN), duration::show(INTERVAL_MAX));
        return Err(format!("`__scrape_interval__` is not from {least} to {most}"));
    }
    if timeout.is_zero() || timeout > interval {
        return Err("`__scrape_timeout__` is 0 or longer than the interval".to_owned());
    }
    let url = url(job, &labels, &address)?;
    let origin: Origin = url.parse().map_err(|error| format!("{error}"))?;
    labels.entry("instance".to_owned()).or_insert(address);
    let labels = public(labels)?;
    let target = Arc::new(Target { job: job.name.clone(), url, labels });
    Ok(Some(Found { target, job: index, origin, interval, timeout }))
}

/// Whether an address can be one: a URL or a path is the usual slip.
///
/// # Errors
/// What was expected.
pub fn check_address(address: &str) -> Result<(), String> {
    if address.is_empty() {
        return Err("expected host:port".to_owned());
    }
    if address.contains("://") {
        return Err("expected host:port; the scheme stands under `scheme`".to_owned());
    }
    if address.contains('/') {
        return Err("expected host:port; the path stands under `metrics_path`".to_owned());
    }
    Ok(())
}

/// What the configuration says where the group does not.
fn defaults(job: &Job, labels: &mut Labels) {
    let mut default = |name: &str, value: String| {
        if !value.is_empty() {
            labels.entry(name.to_owned()).or_insert(value);
        }
    };
    default("job", job.name.clone());
    default("__scrape_interval__", duration::show(job.interval));
    default("__scrape_timeout__", duration::show(job.timeout));
    default("__metrics_path__", job.metrics_path.clone());
    default("__scheme__", job.scheme.clone());
    for (name, values) in &job.params {
        if let Some(first) = values.first() {
            default(&format!("{PARAM}{name}"), first.clone());
        }
    }
}

fn time(labels: &Labels, name: &str) -> Result<Duration, String> {
    let text = labels.get(name).map_or("", String::as_str);
    duration::parse(text).ok_or_else(|| format!("`{name}` is no time, as in `15s`"))
}

/// Scheme, address, path, and the parameters by their names; the first value of each is the label's.
fn url(job: &Job, labels: &Labels, address: &str) -> Result<String, String> {
    let label = |name: &str| labels.get(name).map_or("", String::as_str);
    let scheme = label("__scheme__");
    if !matches!(scheme, "http" | "https") {
        return Err("`__scheme__` is neither `http` nor `https`".to_owned());
    }
    let mut params = job.params.clone();
    params.retain(|_, values| !values.is_empty());
    for (name, value) in labels {
        let Some(name) = name.strip_prefix(PARAM).filter(|name| !name.is_empty()) else { continue };
        let values = params.entry(name.to_owned()).or_default();
        match values.first_mut() {
            Some(first) => first.clone_from(value),
            None => values.push(value.clone()),
        }
    }
    let path = label("__metrics_path__");
    let slash = if path.starts_with('/') { "" } else { "/" };
    let mut url = format!("{scheme}://{address}{slash}");
    escape(&mut url, path, b"/-_.~!$&'()*+,;=:@%", "%20");
    let mut mark = '?';
    for (name, values) in &params {
        for value in values {
            url.push(mark);
            mark = '&';
            url.push_str(&parameter(name, value));
        }
    }
    if url.len() > URL_BYTES_MAX {
        return Err(format!("the URL has more than {URL_BYTES_MAX} bytes"));
    }
    Ok(url)
}

/// A parameter as it stands in a target's URL: `name=value`, escaped.
pub fn parameter(name: &str, value: &str) -> String {
    let mut text = String::with_capacity(name.len() + value.len() + 1);
    escape(&mut text, name, b"-_.~", "+");
    text.push('=');
    escape(&mut text, value, b"-_.~", "+");
    text
}

/// Writes a text with everything but letters, digits and `plain` as `%XX`.
fn escape(to: &mut String, text: &str, plain: &[u8], blank: &str) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || plain.contains(&byte) {
            to.push(char::from(byte));
        } else if byte == b' ' {
            to.push_str(blank);
        } else {
            write!(to, "%{byte:02X}").expect("a text takes all");
        }
    }
}

/// The labels that a plugin sees, within their bounds.
fn public(labels: Labels) -> Result<Vec<(String, String)>, String> {
    let kept: Vec<(String, String)> =
        labels.into_iter().filter(|(name, _)| !name.starts_with("__")).collect();
    if kept.len() > LABELS_MAX {
        return Err(format!("it has {} labels, at most {LABELS_MAX} are taken", kept.len()));
    }
    let long = kept.iter().find(|(name, value)| name.len() > NAME_BYTES_MAX || value.len() > VALUE_BYTES_MAX);
    match long {
        Some((name, _)) => {
            let name: String = name.chars().take(40).collect();
            Err(format!(
                "label `{name}` is longer than {NAME_BYTES_MAX} bytes of name or {VALUE_BYTES_MAX} of value"
            ))
        }
        None => Ok(kept),
    }
}

#[cfg(test)]
mod tests {
    use super::super::relabel::{Rule, Written};
    use super::*;

    type Pairs<'a> = &'a [(&'a str, &'a str)];

    fn pairs(pairs: Pairs<'_>) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn set(target_label: &str, replacement: &str) -> Rule {
        let text = |text: &str| Some(text.to_owned());
        let (target_label, replacement) = (text(target_label), text(replacement));
        Rule::new(Written { target_label, replacement, ..Written::default() }).unwrap()
    }

    /// Scenario: an address with a group's labels, in a job with parameters.
    /// Guarantees: the URL has scheme, path and parameters; `job` and `instance` are there; nothing with two underscores is shown.
    #[test]
    fn an_address_becomes_a_target() {
        let mut job = Job::named("node");
        job.params.insert("collect[]".to_owned(), vec!["cpu load".to_owned(), "disk".to_owned()]);
        let group = pairs(&[("team", "a"), ("__meta_x", "y"), ("empty", "")]);
        let found = resolve(3, &job, "localhost:9100", &group).unwrap().unwrap();
        assert_eq!(
            found.target.url,
            "http://localhost:9100/metrics?collect%5B%5D=cpu+load&collect%5B%5D=disk"
        );
        let labels = pairs(&[("instance", "localhost:9100"), ("job", "node"), ("team", "a")]);
        assert_eq!(found.target.labels, labels);
        assert_eq!(
            (found.job, found.interval, found.timeout),
            (3, Duration::from_secs(60), Duration::from_secs(10))
        );
        assert_eq!(found.origin.to_string(), "http://localhost:9100");
    }

    /// Scenario: labels of the group, and rules, say scheme, path, parameter, interval, timeout, job and instance.
    /// Guarantees: they hold for this target; the job by which the plugin knows its settings stays the configuration's.
    #[test]
    fn labels_say_how_a_target_is_fetched() {
        let mut job = Job::named("probe");
        job.params.insert("module".to_owned(), vec!["a".to_owned()]);
        job.relabel_rules =
            vec![set("__param_module", "b"), set("__address__", "[::1]:1"), set("job", "other")];
        let group = pairs(&[
            ("__scheme__", "https"),
            ("__metrics_path__", "probe?x"),
            ("__scrape_interval__", "1m30s"),
            ("__scrape_timeout__", "500ms"),
            ("__param_target", "h:1/é"),
            ("instance", "me"),
        ]);
        let found = resolve(0, &job, "a:1", &group).unwrap().unwrap();
        assert_eq!(found.target.url, "https://[::1]:1/probe%3Fx?module=b&target=h%3A1%2F%C3%A9");
        assert_eq!(found.target.job, "probe");
        assert_eq!(found.target.labels, pairs(&[("instance", "me"), ("job", "other")]));
        assert_eq!((found.interval, found.timeout), (Duration::from_secs(90), Duration::from_millis(500)));
    }

    /// Scenario: addresses that are none, times that cannot be, labels over their bounds.
    /// Guarantees: each is refused in words, none is fetched.
    #[test]
    fn what_cannot_be_fetched_is_refused() {
        let long = "x".repeat(VALUE_BYTES_MAX + 1);
        let cases: [(&str, Pairs<'_>, &str); 10] = [
            ("", &[], "host:port"),
            ("http://a:1", &[], "scheme"),
            ("a:1/metrics", &[], "metrics_path"),
            ("u@a:1", &[], "credentials"),
            ("a b:1", &[], "URL"),
            ("a:99999", &[], "URL"),
            ("a:1", &[("__scheme__", "ftp")], "__scheme__"),
            ("a:1", &[("__scrape_interval__", "0s")], "__scrape_interval__"),
            ("a:1", &[("__scrape_interval__", "1s"), ("__scrape_timeout__", "2s")], "__scrape_timeout__"),
            ("a:1", &[("long", &long)], "label `long`"),
        ];
        for (address, group, word) in cases {
            let error = resolve(0, &Job::named("j"), address, &pairs(group)).expect_err(address);
            assert!(error.contains(word), "{address} {group:?}: {error}");
        }
        let mut job = Job::named("j");
        job.relabel_rules = vec![set("__address__", "")];
        assert!(resolve(0, &job, "a:1", &[]).is_err());
    }
}
