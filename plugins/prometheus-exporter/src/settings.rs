//! What an operator writes.

use std::collections::BTreeMap;

use serde::Deserialize;
use weir_guest::{SettingsFault, settings};
use weir_prometheus::labels::LABEL_VALUE_BYTES_MAX;
use weir_prometheus::names::{self, Strategy};
use weir_prometheus::series::Options;

use crate::page::Limits;

/// Series that a page has at most unless somebody says otherwise. With 512 bytes each they are 49 MiB, and a plugin has 64
/// unless somebody says otherwise; a node with its hundred containers exposes some ten thousand.
const SERIES_MAX: usize = 100_000;

/// Labels of every series: more are a mistake.
const CONST_LABELS_MAX: usize = 32;

/// The settings, by the Collector's names.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Where the host listens.
    #[serde(default)]
    pub endpoint: Option<String>,
    /// Stands before each metric's name.
    #[serde(default)]
    pub namespace: String,
    /// Labels of every series that has not got them.
    #[serde(default)]
    pub const_labels: BTreeMap<String, String>,
    /// Whether samples bear the time of their points.
    #[serde(default)]
    pub send_timestamps: bool,
    /// How long a series stays without a point.
    #[serde(default = "five_minutes")]
    pub metric_expiration: settings::Span,
    /// Whether OpenMetrics is served to those who ask for it.
    #[serde(default = "yes")]
    pub enable_open_metrics: bool,
    /// Whether unit and type are added to names; `translation_strategy` says the same and more.
    pub add_metric_suffixes: Option<bool>,
    /// How names are made.
    pub translation_strategy: Option<Spelling>,
    /// Whether attributes of resources become labels of their series.
    #[serde(default)]
    pub resource_to_telemetry_conversion: Conversion,
    /// Whether scopes stay away from labels.
    #[serde(default)]
    pub without_scope_info: bool,
    /// The path of the page.
    #[serde(default = "metrics")]
    pub metrics_path: String,
    /// Series that the page has at most.
    #[serde(default = "series_max")]
    pub series_max: usize,
}

/// Whether attributes of resources become labels of their series.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Conversion {
    /// They do.
    #[serde(default)]
    pub enabled: bool,
}

/// How names are made.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
pub enum Spelling {
    /// Letters, digits, `_` and `:` only; unit and type at the end.
    UnderscoreEscapingWithSuffixes,
    /// Letters, digits, `_` and `:` only.
    UnderscoreEscapingWithoutSuffixes,
    /// Any characters; unit and type at the end.
    #[serde(rename = "NoUTF8EscapingWithSuffixes")]
    NoUtf8EscapingWithSuffixes,
    /// As they are.
    NoTranslation,
}

fn five_minutes() -> settings::Span {
    settings::Span(std::time::Duration::from_secs(300))
}

fn yes() -> bool {
    true
}

fn metrics() -> String {
    "/metrics".to_owned()
}

fn series_max() -> usize {
    SERIES_MAX
}

impl Settings {
    /// What follows from the settings.
    ///
    /// # Errors
    /// Every fault that serde could not see.
    pub(crate) fn check(&self) -> Result<(Options, Limits), Vec<SettingsFault>> {
        let mut faults = Vec::new();
        let mut fault = |at: &str, message: String| faults.push(SettingsFault { at: at.to_owned(), message });
        if !self.metrics_path.starts_with('/') || self.metrics_path.contains(['?', '#', ' ']) {
            fault("/metrics_path", format!("{:?} is no path such as /metrics", self.metrics_path));
        }
        if self.series_max == 0 {
            fault("/series_max", "a page without series is none; write 1 or more".into());
        }
        if self.metric_expiration.as_millis() == 0 {
            fault("/metric_expiration", "nothing would ever be on the page; write a time such as 5m".into());
        }
        let strategy = self.strategy();
        if self.namespace.len() > 128 || (strategy.escapes() && !is_name(&self.namespace)) {
            fault("/namespace", format!("{:?} is no beginning of a name such as my_app", self.namespace));
        }
        if self.const_labels.len() > CONST_LABELS_MAX {
            fault("/const_labels", format!("more than {CONST_LABELS_MAX} labels"));
        }
        for (name, value) in &self.const_labels {
            let is_fit = names::is_legacy_label(name) && !name.starts_with("__") && name.len() <= 128;
            if !is_fit || value.len() > LABEL_VALUE_BYTES_MAX {
                fault(&format!("/const_labels/{name}"), "expected a label such as env: production".into());
            }
        }
        if self.add_metric_suffixes.is_some_and(|adds| adds != strategy.has_suffixes()) {
            let message = "`translation_strategy` says otherwise; leave one of the two out";
            fault("/add_metric_suffixes", message.into());
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        let options = Options {
            strategy,
            namespace: self.namespace.clone(),
            const_labels: self.const_labels.clone().into_iter().collect(),
            scope_labels: !self.without_scope_info,
            resource_labels: self.resource_to_telemetry_conversion.enabled,
            target_info: true,
        };
        let limits = Limits {
            series_max: self.series_max,
            expiration: u64::from(self.metric_expiration.as_millis()) * 1_000_000,
            has_exemplars: self.enable_open_metrics,
        };
        Ok((options, limits))
    }

    fn strategy(&self) -> Strategy {
        match (self.translation_strategy, self.add_metric_suffixes) {
            (Some(Spelling::UnderscoreEscapingWithSuffixes), _) | (None, None | Some(true)) => {
                Strategy::UnderscoreEscapingWithSuffixes
            }
            (Some(Spelling::UnderscoreEscapingWithoutSuffixes), _) | (None, Some(false)) => {
                Strategy::UnderscoreEscapingWithoutSuffixes
            }
            (Some(Spelling::NoUtf8EscapingWithSuffixes), _) => Strategy::NoUtf8EscapingWithSuffixes,
            (Some(Spelling::NoTranslation), _) => Strategy::NoTranslation,
        }
    }
}

/// Whether a namespace leaves something of itself in a name, or is none.
fn is_name(namespace: &str) -> bool {
    namespace.is_empty() || namespace.contains(|char: char| char.is_ascii_alphanumeric())
}
