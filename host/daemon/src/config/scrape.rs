//! `config:` of a receiver that fetches: Prometheus' `global` and `scrape_configs`, as the Collector's users write them.
//!
//! Who is fetched, when and how is the host's, and read here. How answers are read is the plugin's, which is told those keys and no
//! other: no credential, no file, no target.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value as Json;
use weir_receiver::scrape::job::{
    BODY_BYTES_MAX_DEFAULT, INTERVAL_DEFAULT, REFRESH_DEFAULT, TIMEOUT_DEFAULT,
};
use weir_receiver::scrape::relabel::{Action, Rule, Written};
use weir_receiver::scrape::target::{INTERVAL_MAX, INTERVAL_MIN, PARAM, check_address, parameter};
use weir_receiver::scrape::{Group, Job, TARGETS_MAX, TargetFiles, duration};

use super::exporter::{Auth, Kept, basic, path, token};
use super::location::Located;
use super::plugin::Settings;
use super::scalar::bytes;
use super::section::{Field, Hints, Section};
use super::tls::ClientTls;
use super::tree::{Node, Value};

/// Jobs of one receiver. Large configurations have some tens.
const JOBS_MAX: usize = 256;

/// Rules of one job.
const RULES_MAX: usize = 256;

/// Labels of a group, values of a parameter.
const LABELS_MAX: usize = 256;

/// Bytes of the shortest value of a parameter that is cut from what a plugin says, with the parameter's name: no secret is shorter.
const VALUE_BYTES_MIN: usize = 4;

/// The same of a value without the name. Most are words that any text has (`format: [prometheus]`), and these are shorter.
const BARE_BYTES_MIN: usize = 16;

/// The largest answer that can be asked for: it must fit into the plugin's memory, which `limits: {memory_mib: …}` makes larger.
const BODY_BYTES_MAX: u64 = 256 << 20;

/// Keys of a scrape configuration that are the plugin's, which checks them.
const PLUGIN_KEYS: [&str; 19] = [
    "honor_labels",
    "honor_timestamps",
    "track_timestamps_staleness",
    "metric_relabel_configs",
    "scrape_protocols",
    "fallback_scrape_protocol",
    "scrape_native_histograms",
    "always_scrape_classic_histograms",
    "scrape_classic_histograms",
    "convert_classic_histograms_to_nhcb",
    "native_histogram_bucket_limit",
    "native_histogram_min_bucket_factor",
    "metric_name_validation_scheme",
    "metric_name_escaping_scheme",
    "extra_scrape_metrics",
    "sample_limit",
    "label_limit",
    "label_name_length_limit",
    "label_value_length_limit",
];

/// Keys of `global` that are the plugin's.
const PLUGIN_GLOBAL_KEYS: [&str; 12] = [
    "external_labels",
    "scrape_protocols",
    "scrape_native_histograms",
    "always_scrape_classic_histograms",
    "convert_classic_histograms_to_nhcb",
    "metric_name_validation_scheme",
    "metric_name_escaping_scheme",
    "extra_scrape_metrics",
    "sample_limit",
    "label_limit",
    "label_name_length_limit",
    "label_value_length_limit",
];

/// Keys that the host reads and the plugin is told as well.
const SHARED_KEYS: [&str; 3] = ["job_name", "scrape_interval", "scrape_timeout"];

const ONLY_LISTED: &str = "targets stand under `static_configs`, or in files that `file_sd_configs` names";
const NO_PROXY: &str = "targets are reached without a proxy";

const JOB_HINTS: Hints = &[
    ("kubernetes_sd_configs", ONLY_LISTED),
    ("http_sd_configs", ONLY_LISTED),
    ("dns_sd_configs", ONLY_LISTED),
    ("consul_sd_configs", ONLY_LISTED),
    ("ec2_sd_configs", ONLY_LISTED),
    ("docker_sd_configs", ONLY_LISTED),
    ("proxy_url", NO_PROXY),
    ("no_proxy", NO_PROXY),
    ("proxy_from_environment", NO_PROXY),
    ("oauth2", "credentials are `basic_auth` or `authorization`"),
    ("http_headers", "credentials are `basic_auth` or `authorization`"),
    ("bearer", "this is `authorization: {credentials: …}`"),
    ("name", "this is `job_name`"),
    ("targets", "targets stand under `static_configs: [{targets: […]}]`"),
    ("target_limit", "a receiver has at most 100,000 targets; a job has no limit of its own"),
    ("enable_compression", "targets may always answer with gzip"),
];

/// What one receiver fetches.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ScrapeConfig {
    /// `scrape_configs`.
    pub jobs: Vec<ScrapeJob>,
}

/// One of `scrape_configs`.
#[derive(Debug, Clone, PartialEq)]
pub struct ScrapeJob {
    /// Who is fetched, and when.
    pub job: Job,
    /// `basic_auth`, `authorization`, `bearer_token`: the plugin does not see it.
    pub auth: Option<Located<Auth>>,
    /// `tls_config`.
    pub tls: ClientTls,
}

impl ScrapeConfig {
    /// What nothing that the plugin says may show: parameters of URLs, in which a token may be, and credentials that stand in the
    /// file. Of credentials in files of their own nobody knows what they will be.
    pub fn unsaid(&self) -> BTreeSet<String> {
        let mut texts = BTreeSet::new();
        for ScrapeJob { job, auth, .. } in &self.jobs {
            let written =
                job.params.iter().flat_map(|(name, values)| values.iter().map(move |value| (name, value)));
            let labels = job.groups.iter().flat_map(|group| &group.labels);
            let of_labels = labels.filter_map(|(name, value)| Some((name.strip_prefix(PARAM)?, value)));
            for (name, value) in written.map(|(name, value)| (name.as_str(), value)).chain(of_labels) {
                if value.len() >= VALUE_BYTES_MIN {
                    texts.insert(parameter(name, value));
                }
                if value.len() >= BARE_BYTES_MIN {
                    texts.insert(value.clone());
                }
            }
            match auth.as_ref().map(|auth| &auth.value) {
                Some(Auth::Bearer(Kept::Here(secret)) | Auth::Basic { password: Kept::Here(secret), .. }) => {
                    texts.insert(secret.expose().to_owned());
                }
                Some(Auth::Bearer(Kept::File(_)) | Auth::Basic { password: Kept::File(_), .. }) | None => {}
            }
        }
        texts
    }

    /// Files that must be there, each with what is expected of it.
    pub fn files(&self) -> impl Iterator<Item = (&Located<PathBuf>, &'static str)> {
        self.jobs.iter().flat_map(|job| {
            let of_tls = job.tls.files().map(|file| (file, "expected a file in PEM form"));
            let of_auth = job.auth.as_ref().and_then(|auth| auth.value.file());
            of_tls.chain(of_auth.map(|(_, file)| (file, "expected a file with the credential alone in it")))
        })
    }
}

/// What a person reads of it: who is fetched.
impl fmt::Display for ScrapeConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |count: usize, noun: &str| format!("{count} {noun}{}", if count == 1 { "" } else { "s" });
        let groups = self.jobs.iter().flat_map(|job| &job.job.groups);
        let targets = groups.map(|group| group.targets.len()).sum();
        let files = self.jobs.iter().flat_map(|job| &job.job.files).map(|files| files.patterns.len()).sum();
        write!(f, "fetches {} of {}", count(targets, "target"), count(self.jobs.len(), "job"))?;
        match files {
            0 => Ok(()),
            files => write!(f, ", more from {}", count(files, "path")),
        }
    }
}

/// Reads what an id's section, or `settings` in it, has under `config`. `None`: it is no receiver that fetches.
pub(super) fn read(type_name: &str, section: &Section<'_>) -> Option<ScrapeConfig> {
    let settings = section.fields().find(|(key, _)| *key == "settings").map(|(_, field)| field);
    let config = match &settings {
        Some(field) if matches!(field.node.value, Value::Mapping(_)) => {
            field.section().fields().find(|(key, _)| *key == "config").map(|(_, field)| field)
        }
        Some(_) => None,
        None => section.fields().find(|(key, _)| *key == "config").map(|(_, field)| field),
    };
    match config {
        Some(field) if type_name == "prometheus" || fetches(field.node) => Some(of_config(&field)),
        None if type_name == "prometheus" => {
            let known = "expected `config: {scrape_configs: […]}`";
            let error = super::Diagnostic::error(section.at, section.path.clone(), "it fetches from nobody");
            section.problems.push(error.label(known));
            Some(ScrapeConfig::default())
        }
        Some(_) | None => None,
    }
}

fn fetches(node: &Node) -> bool {
    matches!(&node.value, Value::Mapping(entries) if entries.iter().any(|entry| entry.key == "scrape_configs"))
}

/// Leaves of the settings what is the plugin's.
pub(super) fn trim(settings: &mut Settings) {
    let Some(Json::Object(config)) = settings.value.get_mut("config") else { return };
    config.retain(|key, _| matches!(key.as_str(), "global" | "scrape_configs"));
    let keep = |value: &mut Json, keys: &[&str]| {
        if let Json::Object(entries) = value {
            entries.retain(|key, _| keys.contains(&key.as_str()) || SHARED_KEYS.contains(&key.as_str()));
        }
    };
    if let Some(global) = config.get_mut("global") {
        keep(global, &PLUGIN_GLOBAL_KEYS);
    }
    if let Some(Json::Array(jobs)) = config.get_mut("scrape_configs") {
        jobs.iter_mut().for_each(|job| keep(job, &PLUGIN_KEYS));
    }
}

/// What jobs have unless they say otherwise.
struct Global {
    interval: Duration,
    timeout: Option<Duration>,
    body_bytes_max: usize,
}

fn of_config(field: &Field<'_>) -> ScrapeConfig {
    let mut config = field.section();
    let global = global(config.section("global"));
    let mut jobs: Vec<ScrapeJob> = Vec::new();
    match config.field("scrape_configs") {
        Some(list) => {
            let items = list.list("scrape configurations");
            if items.len() > JOBS_MAX {
                list.wrong(format!("expected at most {JOBS_MAX} scrape configurations"));
            }
            for item in items.iter().take(JOBS_MAX) {
                let read = job(item, &global);
                if !read.job.name.is_empty() && jobs.iter().any(|known| known.job.name == read.job.name) {
                    let error = item.error(format!("a second job of the name `{}`", read.job.name));
                    item.problems.push(error.label("expected another `job_name`"));
                }
                jobs.push(read);
            }
        }
        None => {
            let error = field.key_error("it fetches from nobody");
            field.problems.push(error.label("expected `scrape_configs: […]` in it"));
        }
    }
    config.finish(&[("rule_files", "there are no rules here"), ("remote_write", "this is an exporter's")]);
    ScrapeConfig { jobs }
}

fn global(mut section: Section<'_>) -> Global {
    let interval = section.field("scrape_interval").and_then(|field| interval(&field));
    let timeout = section.field("scrape_timeout").and_then(|field| Some((time(&field)?, field)));
    let body = section.field("body_size_limit").and_then(|field| body_bytes(&field));
    PLUGIN_GLOBAL_KEYS.into_iter().for_each(|key| drop(section.field(key)));
    // Rules are evaluated nowhere here; nearly every file that people bring along has the key.
    drop(section.field("evaluation_interval"));
    section.finish(&[("rule_files", "there are no rules here")]);
    let interval = interval.unwrap_or(INTERVAL_DEFAULT);
    let timeout = timeout.and_then(|(timeout, field)| within(timeout, interval, &field));
    Global { interval, timeout, body_bytes_max: body.unwrap_or(BODY_BYTES_MAX_DEFAULT) }
}

fn job(field: &Field<'_>, global: &Global) -> ScrapeJob {
    let mut section = field.section();
    let name = match section.field("job_name") {
        Some(field) => field.text("a name").unwrap_or_default().to_owned(),
        None => {
            let error = field.error("a scrape configuration without a name");
            field.problems.push(error.label("expected `job_name: NAME` in it"));
            String::new()
        }
    };
    let mut job = Job::named(name);
    job.interval =
        section.field("scrape_interval").and_then(|field| interval(&field)).unwrap_or(global.interval);
    let written =
        section.field("scrape_timeout").and_then(|field| within(time(&field)?, job.interval, &field));
    // As in Prometheus: what nobody wrote is never longer than the interval.
    job.timeout = written.unwrap_or_else(|| global.timeout.unwrap_or(TIMEOUT_DEFAULT).min(job.interval));
    let body = section.field("body_size_limit").and_then(|field| body_bytes(&field));
    job.body_bytes_max = body.unwrap_or(global.body_bytes_max);
    if let Some(path) =
        section.field("metrics_path").and_then(|field| field.text("a path").map(str::to_owned))
    {
        job.metrics_path = path;
    }
    let schemes = [("http", "http"), ("https", "https")];
    if let Some(scheme) = section.field("scheme").and_then(|field| field.choice(&schemes)) {
        scheme.clone_into(&mut job.scheme);
    }
    job.params = section.field("params").map(|field| params(&field)).unwrap_or_default();
    job.groups = section.field("static_configs").map(|field| groups(&field)).unwrap_or_default();
    job.files = section.field("file_sd_configs").map(|field| target_files(&field)).unwrap_or_default();
    job.relabel_rules = section.field("relabel_configs").map(|field| rules(&field)).unwrap_or_default();
    let auth = auth(&mut section);
    let tls = section.field("tls_config").map(|field| tls(&field)).unwrap_or_default();
    only(
        &mut section,
        "follow_redirects",
        false,
        "redirects are not followed: write the address that they lead to",
    );
    only(&mut section, "enable_http2", true, "a target chooses its protocol");
    PLUGIN_KEYS.into_iter().for_each(|key| drop(section.field(key)));
    section.finish(JOB_HINTS);
    ScrapeJob { job, auth, tls }
}

/// A key that other programs let people choose, and that has one value here.
fn only(section: &mut Section<'_>, key: &'static str, value: bool, why: &str) {
    let Some(field) = section.field(key) else { return };
    if field.boolean().is_some_and(|found| found != value) {
        field.wrong(format!("expected `{value}`, or nothing: {why}"));
    }
}

fn time(field: &Field<'_>) -> Option<Duration> {
    let expected = "a time, as in `15s`, `1m30s` or `500ms`";
    let time = duration::parse(field.text(expected)?);
    if time.is_none() {
        field.wrong(format!("expected {expected}"));
    }
    time
}

fn interval(field: &Field<'_>) -> Option<Duration> {
    let interval = time(field)?;
    if interval < INTERVAL_MIN || interval > INTERVAL_MAX {
        let (least, most) = (duration::show(INTERVAL_MIN), duration::show(INTERVAL_MAX));
        field.wrong(format!("expected a time from {least} to {most}"));
        return None;
    }
    Some(interval)
}

fn within(timeout: Duration, interval: Duration, field: &Field<'_>) -> Option<Duration> {
    if timeout.is_zero() || timeout > interval {
        field
            .wrong(format!("expected more than 0, and at most the interval of {}", duration::show(interval)));
        return None;
    }
    Some(timeout)
}

/// A size as Prometheus writes it, whose `MB` is 1024 times 1024 bytes, or as we do.
fn body_bytes(field: &Field<'_>) -> Option<usize> {
    let expected = "a size from 1KB to 256MB, as in `16MB`";
    let text = field.text(expected)?;
    let units = [("KB", "KiB"), ("MB", "MiB"), ("GB", "GiB")];
    let unit = units.iter().find_map(|(theirs, ours)| Some((text.strip_suffix(theirs)?, ours)));
    let size = match unit {
        Some((number, unit)) => bytes(&format!("{number}{unit}")),
        None => bytes(text),
    };
    let size = size.filter(|size| (1 << 10..=BODY_BYTES_MAX).contains(size));
    if size.is_none() {
        field.wrong(format!("expected {expected}"));
    }
    size.and_then(|size| usize::try_from(size).ok())
}

fn params(field: &Field<'_>) -> BTreeMap<String, Vec<String>> {
    let mut params = BTreeMap::new();
    for (name, values) in field.section().fields().take(LABELS_MAX) {
        // A token in a URL is a secret.
        values.problems.hide(values.node);
        if !matches!(values.node.value, Value::List(_)) {
            let error = values.error(format!("wrong value for `{}` (not shown)", values.name));
            values.problems.push(error.label("expected a list of texts, as in `[a, b]`"));
            continue;
        }
        let texts = values.list("texts").into_iter().take(LABELS_MAX);
        let texts: Vec<String> = texts.filter_map(|value| value.text("a text").map(str::to_owned)).collect();
        params.insert(name.to_owned(), texts);
    }
    params
}

fn groups(field: &Field<'_>) -> Vec<Group> {
    let mut groups = Vec::new();
    for item in field.list("groups of targets") {
        let mut section = item.section();
        let targets = section.field("targets").map(|field| targets(&field));
        let labels = section.field("labels").map(|field| labels(&field)).unwrap_or_default();
        section.finish(&[]);
        match targets {
            Some(targets) => groups.push(Group { targets, labels }),
            None => item.wrong("expected `targets: [host:port]` in it"),
        }
    }
    groups
}

fn targets(field: &Field<'_>) -> Vec<String> {
    let items = field.list("targets");
    if items.len() > TARGETS_MAX {
        field.wrong(format!("expected at most {TARGETS_MAX} targets"));
    }
    let target = |item: &Field<'_>| {
        let text = item.text("host:port")?;
        if let Err(expected) = check_address(text) {
            item.wrong(expected);
            return None;
        }
        Some(text.to_owned())
    };
    items.iter().take(TARGETS_MAX).filter_map(target).collect()
}

fn labels(field: &Field<'_>) -> Vec<(String, String)> {
    let section = field.section();
    let fields: Vec<_> = section.fields().collect();
    if fields.len() > LABELS_MAX {
        field.wrong(format!("expected at most {LABELS_MAX} labels"));
    }
    let label =
        |(name, value): &(&str, Field<'_>)| Some(((*name).to_owned(), value.text("a text")?.to_owned()));
    fields.iter().take(LABELS_MAX).filter_map(label).collect()
}

fn target_files(field: &Field<'_>) -> Vec<TargetFiles> {
    let mut all = Vec::new();
    for item in field.list("lists of files") {
        let mut section = item.section();
        let patterns = section.field("files").map(|field| {
            let items = field.list("paths");
            items.iter().take(LABELS_MAX).filter_map(pattern).collect()
        });
        let refresh = section.field("refresh_interval").and_then(|field| interval(&field));
        section.finish(&[("path", "this is `files: [PATH]`")]);
        match patterns {
            Some(patterns) => all.push(TargetFiles { patterns, refresh: refresh.unwrap_or(REFRESH_DEFAULT) }),
            None => item.wrong("expected `files: [PATH]` in it"),
        }
    }
    all
}

fn pattern(item: &Field<'_>) -> Option<PathBuf> {
    let expected =
        "expected a path that ends with `.json`, `.yml` or `.yaml`, with at most one `*`, in its last part";
    let text = item.text("a path")?;
    let (folder, name) = text.rsplit_once('/').unwrap_or(("", text));
    let ending = name.rsplit_once('.').map_or("", |(_, ending)| ending).to_ascii_lowercase();
    let known = matches!(ending.as_str(), "json" | "yml" | "yaml");
    if !known || folder.contains('*') || name.matches('*').count() > 1 {
        item.wrong(expected);
        return None;
    }
    Some(PathBuf::from(text))
}

fn rules(field: &Field<'_>) -> Vec<Rule> {
    let items = field.list("rules");
    if items.len() > RULES_MAX {
        field.wrong(format!("expected at most {RULES_MAX} rules"));
    }
    items.iter().take(RULES_MAX).filter_map(rule).collect()
}

fn rule(item: &Field<'_>) -> Option<Rule> {
    let mut section = item.section();
    let source_labels = section.field("source_labels").map(|field| {
        let names = field.list("labels");
        names.iter().filter_map(|name| name.text("a label").map(str::to_owned)).collect()
    });
    // An empty text is one here: it removes labels, and joins without a separator.
    let any = |field: Field<'_>| match &field.node.value {
        Value::Scalar(scalar) => Some(scalar.text.clone()),
        Value::List(_) | Value::Mapping(_) => {
            field.wrong("expected a text");
            None
        }
    };
    let target = section.field("target_label");
    let separator = section.field("separator").and_then(any);
    let regex = section.field("regex").and_then(any);
    let modulus = section.field("modulus").and_then(|field| field.integer(1..=u64::MAX));
    let replacement = section.field("replacement").and_then(any);
    let action = section.field("action");
    let known = section.rest().is_empty();
    let written = Written {
        source_labels: source_labels.unwrap_or_default(),
        separator,
        target_label: target.and_then(any),
        regex,
        modulus,
        replacement,
        action: match action {
            Some(field) => field.choice(&Action::NAMES)?,
            None => Action::Replace,
        },
    };
    let entries: Vec<(&str, Field<'_>)> = section.fields().collect();
    section.finish(&[]);
    match Rule::new(written) {
        Ok(rule) => Some(rule),
        Err(error) => {
            match entries.iter().find(|(key, _)| *key == error.key) {
                Some((_, field)) => field.wrong(error.expected),
                None if known => {
                    let missing = item.error(format!("a rule without `{}`", error.key));
                    item.problems.push(missing.label(error.expected));
                }
                // A slip in the key has been spoken of.
                None => {}
            }
            None
        }
    }
}

fn auth(section: &mut Section<'_>) -> Option<Located<Auth>> {
    let of_basic = section.field("basic_auth").map(|field| (field.at(), basic(&field), field));
    let of_bearer = section.field("authorization").map(|field| (field.at(), authorization(&field), field));
    let of_token = section.field("bearer_token").map(|field| {
        field.problems.hide(field.node);
        (field.at(), token(&field).map(Auth::Bearer), field)
    });
    let of_file =
        section.field("bearer_token_file").map(|field| (field.at(), path(&field).map(Auth::Bearer), field));
    let written: Vec<_> = [of_basic, of_bearer, of_token, of_file].into_iter().flatten().collect();
    if let [_, (_, _, second), ..] = written.as_slice() {
        let error = second.key_error("credentials of more than one kind");
        let label = "expected one of `basic_auth`, `authorization`, `bearer_token` and `bearer_token_file`";
        second.problems.push(error.label(label));
        return None;
    }
    let (at, auth, _) = written.into_iter().next()?;
    auth.map(|auth| Located::new(auth, at))
}

fn authorization(field: &Field<'_>) -> Option<Auth> {
    let mut keys = field.secret_section();
    if let Some(kind) = keys.field("type")
        && kind.text("`Bearer`").is_some_and(|text| !text.eq_ignore_ascii_case("bearer"))
    {
        let error = kind.error("a kind of credentials that is not known here");
        kind.problems.push(error.label("expected `Bearer`, or `basic_auth` in place of `authorization`"));
    }
    let here = keys.field("credentials").and_then(|field| token(&field));
    let kept = keys.field("credentials_file").and_then(|field| path(&field));
    let count = [keys.has("credentials"), keys.has("credentials_file")].into_iter().filter(|is| *is).count();
    let unknown = keys.rest().len();
    keys.finish(&[]);
    if count != 1 && unknown == 0 && matches!(field.node.value, Value::Mapping(_)) {
        let error = field.key_error("credentials in no place, or in two");
        field.problems.push(error.label("expected one of `credentials` and `credentials_file`"));
    }
    here.or(kept).map(Auth::Bearer)
}

const NO_NAME: &str = "the certificate must bear the target's host";

fn tls(field: &Field<'_>) -> ClientTls {
    let mut keys = field.section();
    let ca_file = keys.field("ca_file").and_then(|field| field.path());
    let cert_file = keys.field("cert_file").and_then(|field| field.path());
    let key_file = keys.field("key_file").and_then(|field| field.path());
    if keys.has("cert_file") != keys.has("key_file") {
        let error = field.key_error("a certificate without its key, or a key without its certificate");
        field.problems.push(error.label("expected `cert_file` and `key_file`"));
    }
    only(
        &mut keys,
        "insecure_skip_verify",
        false,
        "a certificate that nobody looks at protects nothing; trust it by `ca_file`",
    );
    keys.finish(&[("server_name", NO_NAME)]);
    ClientTls { insecure: None, ca_file, cert_file, key_file, crl_file: None }
}

#[cfg(test)]
mod tests {
    use super::super::Secret;
    use super::*;

    /// Scenario: a job with parameters that are a word, a token, a password with characters that URLs escape, one in a group's label;
    /// and a credential in the file.
    /// Guarantees: each is known with its name, as it stands in the URL; a long one and the credential alone too; a usual word alone is not.
    #[test]
    fn what_a_plugin_must_not_say_is_known() {
        let mut job = Job::named("j");
        let params = [("format", "prometheus"), ("token", "abcdefghijklmnop"), ("key", "a b/c"), ("n", "1")];
        job.params.extend(params.map(|(name, value)| (name.to_owned(), vec![value.to_owned()])));
        let labels = [("__param_pass", "hunter2"), ("shelf", "upper one")];
        let labels = labels.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        job.groups.push(Group { targets: Vec::new(), labels });
        let auth =
            Auth::Basic { username: "weir".to_owned(), password: Kept::Here(Secret::new("open sesame")) };
        let auth = Some(Located::new(auth, super::super::Location::NONE));
        let config = ScrapeConfig { jobs: vec![ScrapeJob { job, auth, tls: ClientTls::default() }] };
        let known: Vec<String> = config.unsaid().into_iter().collect();
        let wanted = [
            "abcdefghijklmnop",
            "format=prometheus",
            "key=a+b%2Fc",
            "open sesame",
            "pass=hunter2",
            "token=abcdefghijklmnop",
        ];
        assert_eq!(known, wanted);
    }
}
