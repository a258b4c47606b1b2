//! OTLP metrics on a page that Prometheus scrapes: text 0.0.4, 1.0.0 and OpenMetrics.
//!
//! The mapping is OpenTelemetry's (`compatibility/prometheus_and_openmetrics.md`, `metrics/sdk_exporters/prometheus.md`), the
//! settings are those of the Collector's exporter of this name; `LOSSY.md` lists what a page can't carry.
//!
//! Invariant: state is bounded by `series_max`, and a point that is not on the page is counted.
//!
//! | file | what it is |
//! |---|---|
//! | `settings.rs` | what an operator writes |
//! | `page.rs` | families and their series: what a batch does to them |
//! | `held.rs` | what is held of a series |
//! | `accept.rs` | which text a scraper gets |
//! | `cursor.rs` | the page, piece by piece |
//! | `write.rs`, `number.rs` | families, series and numbers as lines |
//! | `escape.rs` | names for scrapers that do not take all of UTF-8, and texts of labels |

mod accept;
mod cursor;
mod escape;
mod held;
mod number;
mod page;
mod settings;
mod write;

use weir_guest::{
    Batch, Delivery, Descriptor, Encoding, Outcome, PartialSuccess, Plugin, Request, Response, SettingsFault,
    Signal, delivery, host,
};
use weir_prometheus::series::Read;

use accept::negotiate;
use cursor::Cursor;
use page::Page;
pub use settings::Settings;
use write::Style;

/// The exporter, configured.
#[derive(Debug)]
pub struct PrometheusExporter {
    settings: Settings,
    page: Page,
    /// The page that is on its way; a new request ends it.
    cursor: Option<Cursor>,
}

impl Plugin for PrometheusExporter {
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
        Self::begin(settings, host::now())
    }
}

impl weir_guest::Page for PrometheusExporter {
    fn absorb(&mut self, batch: Batch, _delivery: Delivery) -> Outcome {
        self.absorb_at(&batch, host::now())
    }

    fn serve(&mut self, request: Request) -> Response {
        self.serve_at(&request, host::now())
    }

    fn more(&mut self) -> Vec<u8> {
        self.more_at(host::now())
    }
}

impl PrometheusExporter {
    /// An empty page that begins at a time, in nanoseconds since the Unix epoch.
    ///
    /// # Errors
    /// As [`Plugin::configure`].
    pub fn begin(settings: Settings, now: u64) -> Result<Self, Vec<SettingsFault>> {
        let (options, limits) = settings.check()?;
        Ok(Self { settings, page: Page::new(options, limits, now), cursor: None })
    }

    /// Takes a batch at a time, in nanoseconds since the Unix epoch.
    pub fn absorb_at(&mut self, batch: &Batch, now: u64) -> Outcome {
        if batch.signal != Signal::Metrics {
            return Outcome::Permanent("Prometheus takes metrics only".into());
        }
        let (read, old) = match self.page.absorb(&batch.body, now) {
            Ok(absorbed) => absorbed,
            Err(malformed) => return Outcome::Permanent(malformed.to_string()),
        };
        for (reason, count) in &read.dropped {
            host::count("page_dropped_points", u64::from(*count), &[("reason", reason)]);
        }
        if old > 0 {
            host::count("page_dropped_points", old, &[("reason", page::OLD)]);
        }
        if read.targets_dropped > 0 {
            host::count("page_dropped_targets", u64::from(read.targets_dropped), &[]);
        }
        match read.rejected() {
            0 => Outcome::Accepted,
            rejected => Outcome::Partial(PartialSuccess { rejected, message: message(&read) }),
        }
    }

    /// Answers a request at a time, in nanoseconds since the Unix epoch.
    pub fn serve_at(&mut self, request: &Request, now: u64) -> Response {
        self.cursor = None;
        let path = request.target.split(['?', '#']).next().unwrap_or_default();
        if path != self.settings.metrics_path {
            return plain(404, format!("metrics are on {}\n", self.settings.metrics_path), &[]);
        }
        if !matches!(&*request.method, "GET" | "HEAD") {
            return plain(405, "a page is read by GET\n".into(), &[("allow", "GET, HEAD")]);
        }
        let accept = delivery::header(&request.headers, "accept").unwrap_or_default();
        let format = negotiate(accept, self.settings.enable_open_metrics);
        let content_type = ("content-type".to_owned(), format.content_type());
        let headers = vec![content_type, ("cache-control".to_owned(), "no-store".to_owned())];
        if request.method == "HEAD" {
            return Response { status: 200, headers, body: Vec::new() };
        }
        let has_times = self.settings.send_timestamps;
        let style = Style { format, has_times, has_all_of_utf8: self.page.has_all_of_utf8() };
        self.cursor = Some(Cursor::new(style));
        Response { status: 200, headers, body: self.more_at(now) }
    }

    /// The next piece of the page that is on its way; empty at its end.
    pub fn more_at(&mut self, now: u64) -> Vec<u8> {
        let Some(cursor) = &mut self.cursor else { return Vec::new() };
        let piece = cursor.piece(&self.page, now);
        if piece.is_empty() {
            if cursor.left_out() > 0 {
                host::count("page_openmetrics_left_out", cursor.left_out(), &[]);
            }
            self.cursor = None;
        }
        piece
    }
}

fn plain(status: u16, body: String, headers: &[(&str, &str)]) -> Response {
    let own = [("content-type", "text/plain; charset=utf-8")];
    let headers = own.iter().chain(headers).map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Response { status, headers: headers.collect(), body: body.into_bytes() }
}

/// Why points are not on the page: `2 full, 1 conflict`.
fn message(read: &Read) -> String {
    let all: Vec<String> = read.dropped.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    format!("not on the page: {} (README of prometheus-exporter)", all.join(", "))
}

weir_guest::export!(PrometheusExporter: page);

#[cfg(test)]
mod tests;
