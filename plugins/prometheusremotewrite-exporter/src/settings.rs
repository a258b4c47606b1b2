//! What an operator writes.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, de};
use weir_guest::{SettingsFault, settings};
use weir_prometheus::names::{self, Strategy};
use weir_prometheus::series::Options;
use weir_remote_write::Version;

/// Headers that are the protocol's.
const OWN_HEADERS: [&str; 4] =
    ["content-type", "content-encoding", "x-prometheus-remote-write-version", "retry-attempt"];

/// What an operator writes.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Full URL that is written to.
    pub endpoint: String,
    /// Which message is written.
    #[serde(default)]
    pub protobuf_message: Message,
    /// Headers of every request, beside the protocol's.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// How long to wait for an answer; without it the host decides.
    pub timeout: Option<settings::Span>,
    /// Stands before each name.
    #[serde(default)]
    pub namespace: String,
    /// Labels of every series that has not got them.
    #[serde(default)]
    pub external_labels: BTreeMap<String, String>,
    /// Whether attributes of a resource become labels of its series.
    #[serde(default)]
    pub resource_to_telemetry_conversion: Toggle<false>,
    /// Whether they become labels of its `target_info`.
    #[serde(default)]
    pub target_info: Toggle<true>,
    /// Leaves out the labels of scopes.
    #[serde(default)]
    pub disable_scope_info: bool,
    /// Whether unit and type stand at the end of names.
    #[serde(default = "yes")]
    pub add_metric_suffixes: bool,
    /// How names are made.
    #[serde(default, deserialize_with = "strategy")]
    pub translation_strategy: Option<Strategy>,
    /// Whether 1.0 says what metrics are.
    #[serde(default)]
    pub send_metadata: bool,
}

/// A message by its full name.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
pub enum Message {
    /// Remote write 1.0.
    #[default]
    #[serde(rename = "prometheus.WriteRequest")]
    V1,
    /// Remote write 2.0.
    #[serde(rename = "io.prometheus.write.v2.Request")]
    V2,
}

/// Something that is on or off.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Toggle<const DEFAULT: bool> {
    /// Whether it is on.
    #[serde(default = "itself::<DEFAULT>")]
    pub enabled: bool,
}

impl<const DEFAULT: bool> Default for Toggle<DEFAULT> {
    fn default() -> Self {
        Self { enabled: DEFAULT }
    }
}

const fn itself<const VALUE: bool>() -> bool {
    VALUE
}

const fn yes() -> bool {
    true
}

fn strategy<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Strategy>, D::Error> {
    let Some(name) = Option::<String>::deserialize(deserializer)? else { return Ok(None) };
    let unknown = || {
        de::Error::custom(format!(
            "{name:?} is unknown; expected UnderscoreEscapingWithSuffixes, UnderscoreEscapingWithoutSuffixes, \
             NoUTF8EscapingWithSuffixes or NoTranslation"
        ))
    };
    Strategy::named(&name).ok_or_else(unknown).map(Some)
}

impl Settings {
    /// What serde could not see.
    #[must_use]
    pub fn faults(&self) -> Vec<SettingsFault> {
        let mut faults = Vec::new();
        if let Some(name) =
            self.headers.keys().find(|name| OWN_HEADERS.iter().any(|own| name.eq_ignore_ascii_case(own)))
        {
            let message = format!("{name} is the protocol's; leave the header out");
            faults.push(SettingsFault { at: "/headers".into(), message });
        }
        if let Some(name) = self.external_labels.keys().find(|name| matches!(name.as_str(), "" | "__name__"))
        {
            let message = format!("{name:?} can't be the name of a label of every series");
            faults.push(SettingsFault { at: "/external_labels".into(), message });
        }
        if self.translation_strategy.is_some_and(Strategy::has_suffixes) && !self.add_metric_suffixes {
            let message =
                "is false, and `translation_strategy` says the opposite; leave one of them out".into();
            faults.push(SettingsFault { at: "/add_metric_suffixes".into(), message });
        }
        faults
    }

    /// Which remote write is spoken.
    #[must_use]
    pub const fn version(&self) -> Version {
        match self.protobuf_message {
            Message::V1 => Version::V1,
            Message::V2 => Version::V2,
        }
    }

    /// How names are made.
    #[must_use]
    pub fn strategy(&self) -> Strategy {
        let otherwise = match self.add_metric_suffixes {
            true => Strategy::UnderscoreEscapingWithSuffixes,
            false => Strategy::UnderscoreEscapingWithoutSuffixes,
        };
        self.translation_strategy.unwrap_or(otherwise)
    }

    /// How metrics become series.
    #[must_use]
    pub fn options(&self) -> Options {
        let strategy = self.strategy();
        let labels = self.external_labels.iter().map(|(name, value)| {
            let mut label = String::new();
            names::label(strategy, name, &mut label);
            (label, value.clone())
        });
        Options {
            strategy,
            namespace: self.namespace.clone(),
            const_labels: labels.collect(),
            scope_labels: !self.disable_scope_info,
            resource_labels: self.resource_to_telemetry_conversion.enabled,
            target_info: self.target_info.enabled,
        }
    }
}
