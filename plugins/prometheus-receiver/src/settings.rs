//! What an operator writes: the scrape configurations of Prometheus, of which some keys are this plugin's and the others the host's.

use serde::Deserialize;
use serde_json::Value as Json;
use weir_guest::SettingsFault;
use weir_prometheus::protobuf::Wanted;

use crate::ask::{self, Escaping, Protocol};
use crate::relabel::{Rule, RuleSettings};

/// Seconds that a target has, unless a setting says otherwise (`prometheus/config`).
const TIMEOUT_DEFAULT: f64 = 10.0;

/// The settings.
#[derive(Clone, Debug, Deserialize)]
pub struct Settings {
    /// Prometheus' configuration.
    pub config: Config,
    /// Three more series for each target; the older name of `extra_scrape_metrics`.
    #[serde(default)]
    pub report_extra_scrape_metrics: Option<bool>,
    /// MiB of what is remembered of all targets, 1 to 2048; 32. To be raised with the host's `limits.memory_mib`, which must be
    /// twice that.
    #[serde(default)]
    pub state_mib: Option<usize>,
}

/// Prometheus' configuration, as far as a receiver has one.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Config {
    /// What scrape configurations have unless they say otherwise.
    pub global: Option<Global>,
    /// Whom to ask.
    pub scrape_configs: Option<Vec<ScrapeConfig>>,
}

/// What scrape configurations have unless they say otherwise. Keys that hold [`Json`] are the host's.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "the keys are Prometheus', and described where it describes them")]
pub struct Global {
    pub scrape_interval: Option<Json>,
    pub scrape_timeout: Option<String>,
    pub evaluation_interval: Option<Json>,
    pub external_labels: Option<std::collections::BTreeMap<String, String>>,
    pub body_size_limit: Option<Json>,
    pub target_limit: Option<Json>,
    pub keep_dropped_targets: Option<Json>,
    pub scrape_failure_log_file: Option<Json>,
    pub scrape_protocols: Option<Vec<String>>,
    pub scrape_native_histograms: Option<bool>,
    pub always_scrape_classic_histograms: Option<bool>,
    pub convert_classic_histograms_to_nhcb: Option<bool>,
    pub metric_name_validation_scheme: Option<String>,
    pub metric_name_escaping_scheme: Option<String>,
    pub extra_scrape_metrics: Option<bool>,
    pub sample_limit: Option<usize>,
    pub label_limit: Option<usize>,
    pub label_name_length_limit: Option<usize>,
    pub label_value_length_limit: Option<usize>,
}

/// A scrape configuration. Keys that hold [`Json`] are the host's.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "the keys are Prometheus', and described where it describes them")]
pub struct ScrapeConfig {
    pub job_name: String,
    pub scrape_timeout: Option<String>,
    pub honor_labels: Option<bool>,
    pub honor_timestamps: Option<bool>,
    pub track_timestamps_staleness: Option<bool>,
    pub metric_relabel_configs: Option<Vec<RuleSettings>>,
    pub scrape_protocols: Option<Vec<String>>,
    pub fallback_scrape_protocol: Option<String>,
    pub scrape_native_histograms: Option<bool>,
    pub always_scrape_classic_histograms: Option<bool>,
    pub scrape_classic_histograms: Option<bool>,
    pub convert_classic_histograms_to_nhcb: Option<bool>,
    pub native_histogram_bucket_limit: Option<usize>,
    pub native_histogram_min_bucket_factor: Option<f64>,
    pub metric_name_validation_scheme: Option<String>,
    pub metric_name_escaping_scheme: Option<String>,
    pub extra_scrape_metrics: Option<bool>,
    pub sample_limit: Option<usize>,
    pub label_limit: Option<usize>,
    pub label_name_length_limit: Option<usize>,
    pub label_value_length_limit: Option<usize>,
    // The host's.
    pub scrape_interval: Option<Json>,
    pub metrics_path: Option<Json>,
    pub scheme: Option<Json>,
    pub params: Option<Json>,
    pub body_size_limit: Option<Json>,
    pub target_limit: Option<Json>,
    pub keep_dropped_targets: Option<Json>,
    pub scrape_failure_log_file: Option<Json>,
    pub enable_compression: Option<Json>,
    pub enable_http2: Option<Json>,
    pub follow_redirects: Option<Json>,
    pub http_headers: Option<Json>,
    pub basic_auth: Option<Json>,
    pub authorization: Option<Json>,
    pub bearer_token: Option<Json>,
    pub bearer_token_file: Option<Json>,
    pub oauth2: Option<Json>,
    pub tls_config: Option<Json>,
    pub proxy_url: Option<Json>,
    pub no_proxy: Option<Json>,
    pub proxy_from_environment: Option<Json>,
    pub proxy_connect_header: Option<Json>,
    pub static_configs: Option<Json>,
    pub file_sd_configs: Option<Json>,
    pub http_sd_configs: Option<Json>,
    pub dns_sd_configs: Option<Json>,
    pub kubernetes_sd_configs: Option<Json>,
    pub relabel_configs: Option<Json>,
}

/// A scrape configuration, ready.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) honor_labels: bool,
    pub(crate) honor_timestamps: bool,
    pub(crate) tracks_timestamps: bool,
    pub(crate) rules: Vec<Rule>,
    pub(crate) limits: Limits,
    pub(crate) accept: String,
    /// Seconds.
    pub(crate) timeout: f64,
    pub(crate) fallback: Option<Protocol>,
    pub(crate) wanted: Wanted,
    pub(crate) buckets_max: Option<usize>,
    pub(crate) bucket_factor_min: f64,
    /// Labels that every point gets.
    pub(crate) external: Vec<(String, String)>,
    /// Names are letters, digits, underscores and colons only.
    pub(crate) has_plain_names: bool,
    pub(crate) has_extra: bool,
}

/// What a scrape may have; 0 for no limit.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Limits {
    pub(crate) samples: usize,
    pub(crate) labels: usize,
    pub(crate) name_bytes: usize,
    pub(crate) value_bytes: usize,
}

/// Faults at places behind one.
struct Faults {
    at: String,
    list: Vec<SettingsFault>,
}

impl Faults {
    fn add(&mut self, key: &str, message: impl Into<String>) {
        self.list.push(SettingsFault { at: format!("{}/{key}", self.at), message: message.into() });
    }
}

impl Job {
    /// Makes a job of its settings.
    ///
    /// # Errors
    /// Every fault in them.
    pub(crate) fn of(
        scrape: &ScrapeConfig,
        global: &Global,
        has_extra: bool,
        at: String,
    ) -> Result<Self, Vec<SettingsFault>> {
        let mut faults = Faults { at, list: Vec::new() };
        let mut rules = Vec::new();
        for (place, rule) in scrape.metric_relabel_configs.iter().flatten().enumerate() {
            match Rule::of(rule) {
                Ok(rule) => rules.push(rule),
                Err((key, message)) => {
                    faults.add(&format!("metric_relabel_configs/{place}/{key}"), message);
                }
            }
        }
        let wants_native = scrape.scrape_native_histograms.or(global.scrape_native_histograms);
        let classic = scrape.always_scrape_classic_histograms.or(scrape.scrape_classic_histograms);
        let wanted = Wanted {
            native: wants_native.unwrap_or(false),
            classic_too: classic.or(global.always_scrape_classic_histograms).unwrap_or(false),
        };
        let protocols = protocols(scrape, global, wanted.native, &mut faults);
        let fallback = scrape.fallback_scrape_protocol.as_deref().and_then(|word| {
            let protocol = Protocol::named(word);
            if protocol.is_none() {
                faults.add("fallback_scrape_protocol", Protocol::unknown(word));
            }
            protocol
        });
        let has_plain_names = has_plain_names(scrape, global, &mut faults);
        let escaping = escaping(scrape, global, has_plain_names, &mut faults);
        let timeout = scrape.scrape_timeout.as_ref().or(global.scrape_timeout.as_ref());
        let timeout = timeout.map_or(Some(TIMEOUT_DEFAULT), |written| seconds(written));
        if timeout.is_none() {
            faults.add("scrape_timeout", "no duration such as 500ms, 10s or 1m30s");
        }
        if !faults.list.is_empty() {
            return Err(faults.list);
        }
        let extra = scrape.extra_scrape_metrics.or(global.extra_scrape_metrics).unwrap_or(has_extra);
        Ok(Self {
            honor_labels: scrape.honor_labels.unwrap_or(false),
            honor_timestamps: scrape.honor_timestamps.unwrap_or(true),
            tracks_timestamps: scrape.track_timestamps_staleness.unwrap_or(false),
            rules,
            limits: limits(scrape, global),
            accept: ask::accept(&protocols, escaping),
            timeout: timeout.unwrap_or(TIMEOUT_DEFAULT),
            fallback,
            wanted,
            buckets_max: scrape.native_histogram_bucket_limit.filter(|limit| *limit > 0),
            bucket_factor_min: scrape.native_histogram_min_bucket_factor.unwrap_or(0.0),
            external: global.external_labels.iter().flatten().map(|(n, v)| (n.clone(), v.clone())).collect(),
            has_plain_names,
            has_extra: extra,
        })
    }
}

fn protocols(
    scrape: &ScrapeConfig,
    global: &Global,
    wants_native: bool,
    faults: &mut Faults,
) -> Vec<Protocol> {
    let Some(words) = scrape.scrape_protocols.as_ref().or(global.scrape_protocols.as_ref()) else {
        return ask::usual(wants_native);
    };
    let mut protocols = Vec::new();
    for (place, word) in words.iter().enumerate() {
        let at = format!("scrape_protocols/{place}");
        match Protocol::named(word) {
            Some(protocol) if protocols.contains(&protocol) => {
                faults.add(&at, format!("{word} stands twice"))
            }
            Some(protocol) => protocols.push(protocol),
            None => faults.add(&at, Protocol::unknown(word)),
        }
    }
    if words.is_empty() {
        faults.add("scrape_protocols", "an empty list; leave the key out for the usual ones");
    }
    protocols
}

fn has_plain_names(scrape: &ScrapeConfig, global: &Global, faults: &mut Faults) -> bool {
    let word =
        scrape.metric_name_validation_scheme.as_ref().or(global.metric_name_validation_scheme.as_ref());
    match word.map_or("", String::as_str) {
        "" | "utf8" => false,
        "legacy" => true,
        other => {
            faults.add("metric_name_validation_scheme", format!("{other:?}: there are utf8 and legacy"));
            false
        }
    }
}

fn escaping(scrape: &ScrapeConfig, global: &Global, is_plain: bool, faults: &mut Faults) -> Escaping {
    let word = scrape.metric_name_escaping_scheme.as_ref().or(global.metric_name_escaping_scheme.as_ref());
    match word.map_or("", String::as_str) {
        "" if is_plain => Escaping::Underscores,
        "" => Escaping::AllowUtf8,
        "allow-utf-8" if is_plain => {
            faults.add("metric_name_escaping_scheme", "allow-utf-8 asks for names that `legacy` refuses");
            Escaping::Underscores
        }
        "allow-utf-8" => Escaping::AllowUtf8,
        "underscores" => Escaping::Underscores,
        "dots" => Escaping::Dots,
        "values" => Escaping::Values,
        other => {
            let known = "allow-utf-8, underscores, dots and values";
            faults.add("metric_name_escaping_scheme", format!("{other:?}: there are {known}"));
            Escaping::Underscores
        }
    }
}

fn limits(scrape: &ScrapeConfig, global: &Global) -> Limits {
    Limits {
        samples: scrape.sample_limit.or(global.sample_limit).unwrap_or(0),
        labels: scrape.label_limit.or(global.label_limit).unwrap_or(0),
        name_bytes: scrape.label_name_length_limit.or(global.label_name_length_limit).unwrap_or(0),
        value_bytes: scrape.label_value_length_limit.or(global.label_value_length_limit).unwrap_or(0),
    }
}

/// A duration as Prometheus writes it, in seconds: `1m30s`, `500ms`, `2h`, `1d`.
fn seconds(text: &str) -> Option<f64> {
    let (mut total, mut rest) = (0.0, text);
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: u32 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let letters = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
        let unit = match &rest[..letters] {
            "ms" => 0.001,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3_600.0,
            "d" => 86_400.0,
            "w" => 604_800.0,
            "y" => 31_536_000.0,
            _ => return None,
        };
        rest = &rest[letters..];
        total += f64::from(number) * unit;
    }
    (total > 0.0).then_some(total)
}
