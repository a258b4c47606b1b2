//! Metrics to Prometheus, and to everything else that speaks its remote write.
//!
//! | setting | what it does |
//! |---|---|
//! | `endpoint` | full URL that is written to |
//! | `protobuf_message` | `prometheus.WriteRequest` (1.0) or `io.prometheus.write.v2.Request` (2.0) |
//! | `translation_strategy`, `add_metric_suffixes`, `namespace`, `external_labels` | names and labels |
//! | `resource_to_telemetry_conversion`, `target_info`, `disable_scope_info` | where resource and scope go |
//! | `send_metadata` | whether 1.0 says what metrics are |
//!
//! `LOSSY.md` lists what Prometheus can't carry.
//!
//! Invariant: a point that is not in a request is counted, and nothing of a batch outlives its call.
//!
//! | file | what it is |
//! |---|---|
//! | `settings.rs` | what an operator writes |
//! | `sheet.rs` | the series of a batch, each once, its samples in order |
//! | `native.rs` | exponential histograms as native ones |
//! | `answer.rs` | what an answer means |

mod answer;
mod native;
mod settings;
mod sheet;

use weir_guest::wire::Malformed;
use weir_guest::{
    Batch, Delivery, Descriptor, Encoding, Exporter, Outcome, PartialSuccess, Plugin, Request, SettingsFault,
    Signal, host,
};
use weir_prometheus::series::{Read, Translator};
use weir_remote_write::Version;

pub use settings::Settings;
pub use sheet::Sheet;

const USER_AGENT: &str = concat!("weir-", env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION"));

/// The exporter, configured.
pub struct PrometheusRemoteWriteExporter {
    settings: Settings,
    translator: Translator,
}

impl Plugin for PrometheusRemoteWriteExporter {
    type Settings = Settings;

    fn describe() -> Descriptor {
        Descriptor {
            name: env!("CARGO_PKG_NAME"),
            version: env!("CARGO_PKG_VERSION"),
            description: env!("CARGO_PKG_DESCRIPTION"),
            signals: vec![Signal::Metrics],
            encoding: Encoding::Protobuf,
            settings_schema: include_str!("settings.schema.json"),
            extra: Vec::new(),
        }
    }

    fn configure(settings: Settings) -> Result<Self, Vec<SettingsFault>> {
        let faults = settings.faults();
        if !faults.is_empty() {
            return Err(faults);
        }
        let translator = Translator::new(settings.options());
        Ok(Self { settings, translator })
    }
}

impl Exporter for PrometheusRemoteWriteExporter {
    fn push(&mut self, batch: Batch, delivery: Delivery) -> Outcome {
        if batch.signal != Signal::Metrics {
            return Outcome::Permanent("Prometheus takes metrics only".into());
        }
        let (sheet, read) = match self.sheet(&batch.body, host::now()) {
            Ok(sheet) => sheet,
            Err(malformed) => return Outcome::Permanent(malformed.to_string()),
        };
        drop(batch);
        if sheet.is_full() {
            return Outcome::TooLarge;
        }
        if !sheet.is_empty() {
            let version = self.settings.version();
            let Some(body) = sheet.write(version, self.settings.send_metadata).into_body() else {
                return Outcome::TooLarge;
            };
            let request = self.request(body, version, delivery.attempt);
            let timeout = self.settings.timeout.map(weir_guest::settings::Span::as_millis);
            let outcome = answer::outcome(host::send(&request, timeout), version);
            if outcome != Outcome::Accepted {
                return outcome;
            }
        }
        outcome_of(&read)
    }
}

impl PrometheusRemoteWriteExporter {
    /// The series of a batch, and how many of its points are not in them. `now` is nanoseconds since the Unix epoch.
    ///
    /// # Errors
    /// [`Malformed`] for what is no `ExportMetricsServiceRequest`.
    pub fn sheet(&mut self, body: &[u8], now: u64) -> Result<(Sheet, Read), Malformed> {
        let mut sheet = Sheet::new(self.settings.strategy());
        let read = self.translator.read(body, now, &mut sheet)?;
        Ok((sheet, read))
    }

    fn request(&self, body: Vec<u8>, version: Version, attempt: u32) -> Request {
        let Settings { endpoint, headers, .. } = &self.settings;
        let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let mut all = vec![
            header("content-type", version.content_type()),
            header("content-encoding", "snappy"),
            header("x-prometheus-remote-write-version", version.header()),
        ];
        if !headers.keys().any(|name| name.eq_ignore_ascii_case("user-agent")) {
            all.push(header("user-agent", USER_AGENT));
        }
        // The first attempt is number one here, and none there.
        if attempt > 1 {
            all.push(header("retry-attempt", &(attempt - 1).to_string()));
        }
        all.extend(headers.iter().map(|(name, value)| header(name, value)));
        Request { method: "POST".into(), target: endpoint.clone(), headers: all, body }
    }
}

/// What becomes of a batch whose series were taken.
fn outcome_of(read: &Read) -> Outcome {
    for (reason, points) in &read.dropped {
        host::count("dropped_points", u64::from(*points), &[("reason", reason)]);
    }
    let rejected = read.rejected();
    if rejected == 0 {
        return Outcome::Accepted;
    }
    let reasons: Vec<String> =
        read.dropped.iter().map(|(reason, points)| format!("{reason}: {points}")).collect();
    let message = format!("points that Prometheus can't have ({})", reasons.join(", "));
    Outcome::Partial(PartialSuccess { rejected, message })
}

weir_guest::export!(PrometheusRemoteWriteExporter: exporter);

#[cfg(test)]
mod tests;
