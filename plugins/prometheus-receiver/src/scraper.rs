//! The plugin: what to ask targets, what to make of their answers, and which series are gone.

use std::collections::HashMap;

use weir_guest::host::{self, Level};
use weir_guest::{
    Batch, Descriptor, Encoding, Fetched, Plugin, Request, Response, Scraper, SettingsFault, Signal, Target,
};
use weir_prometheus::otlp::Url;

use crate::ask;
use crate::intake::{Frame, Intake};
use crate::read::read;
use crate::room::{REPORTS_COST, Room, STATE_MIB_DEFAULT, STATE_MIB_MAX, TARGET_COST};
use crate::series::Series;
use crate::settings::{Job, Settings};

/// Targets whose series are remembered: as many as the host has. More are not scraped: what is forgotten can't be said to be gone.
const TARGETS_MAX: usize = 100_000;

/// Characters of a fault in the log.
const SHOWN_CHARS_MAX: usize = 200;

/// What the host says of a body beyond its limit, in the words of Prometheus.
const BODY_TOO_LARGE: &str = "body size limit exceeded";

/// What is said of each scrape: name, HELP and unit.
const REPORTS: [(&str, &str, &str); 5] = [
    ("up", "The scraping was successful", ""),
    ("scrape_duration_seconds", "Duration of the scrape", "seconds"),
    ("scrape_samples_scraped", "The number of samples the target exposed", ""),
    (
        "scrape_samples_post_metric_relabeling",
        "The number of samples remaining after metric relabeling was applied",
        "",
    ),
    ("scrape_series_added", "The approximate number of new series in this scrape", ""),
];

/// What is said beside, where it is asked for.
const EXTRA_REPORTS: [(&str, &str, &str); 3] = [
    ("scrape_timeout_seconds", "The configured scrape timeout for a target", "seconds"),
    ("scrape_sample_limit", "The configured sample limit for a target", ""),
    ("scrape_body_size_bytes", "The uncompressed size of the last scrape response, if successful", "bytes"),
];

/// The plugin.
pub struct PrometheusReceiver {
    jobs: HashMap<String, Job>,
    targets: HashMap<Key, State>,
    /// What all targets may cost, and what they do, in bytes.
    state_bytes_max: usize,
    state_bytes: usize,
}

/// What makes a target another one: its job, its URL, its labels.
type Key = (String, String, Vec<(String, String)>);

fn key(target: &Target) -> Key {
    (target.job.clone(), target.url.clone(), target.labels.clone())
}

/// What it costs to remember a target, without its series.
fn cost(target: &Target) -> usize {
    let labels: usize = target.labels.iter().map(|(name, value)| 48 + name.len() + value.len()).sum();
    TARGET_COST + target.job.len() + target.url.len() + labels
}

/// What is remembered of a target.
#[derive(Default)]
struct State {
    series: Series,
    /// Why the last scrape failed.
    fault: Option<String>,
}

/// A scrape that failed.
struct Failed {
    /// The label of its counter.
    reason: &'static str,
    text: String,
}

impl Plugin for PrometheusReceiver {
    type Settings = Settings;

    fn describe() -> Descriptor {
        Descriptor {
            name: "prometheus-receiver",
            version: env!("CARGO_PKG_VERSION"),
            description: env!("CARGO_PKG_DESCRIPTION"),
            signals: vec![Signal::Metrics],
            encoding: Encoding::Protobuf,
            settings_schema: include_str!("settings.schema.json"),
            extra: Vec::new(),
        }
    }

    fn configure(settings: Settings) -> Result<Self, Vec<SettingsFault>> {
        let mut jobs = HashMap::new();
        let mut faults = Vec::new();
        let global = settings.config.global.unwrap_or_default();
        let has_extra = settings.report_extra_scrape_metrics.unwrap_or(false);
        for (place, scrape) in settings.config.scrape_configs.iter().flatten().enumerate() {
            let at = format!("/config/scrape_configs/{place}");
            if scrape.job_name.is_empty() || jobs.contains_key(&scrape.job_name) {
                let message = "a name that no other scrape configuration has is needed".to_owned();
                faults.push(SettingsFault { at: format!("{at}/job_name"), message });
                continue;
            }
            match Job::of(scrape, &global, has_extra, at) {
                Ok(job) => drop(jobs.insert(scrape.job_name.clone(), job)),
                Err(more) => faults.extend(more),
            }
        }
        let state_mib = settings.state_mib.unwrap_or(STATE_MIB_DEFAULT);
        if !(1..=STATE_MIB_MAX).contains(&state_mib) {
            let message = format!("expected 1 to {STATE_MIB_MAX} MiB, and limits.memory_mib twice that");
            faults.push(SettingsFault { at: "/state_mib".to_owned(), message });
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        Ok(Self { jobs, targets: HashMap::new(), state_bytes_max: state_mib << 20, state_bytes: 0 })
    }
}

impl Scraper for PrometheusReceiver {
    fn prepare(&mut self, target: Target) -> Request {
        match self.jobs.get(&target.job) {
            Some(job) => ask::request(target.url, &job.accept, job.timeout),
            // The host knows the same settings; what it fetches is refused below.
            None => ask::request(target.url, "*/*", 1.0),
        }
    }

    fn digest(&mut self, target: Target, mut fetched: Fetched) -> Vec<Batch> {
        let Some(job) = self.jobs.get(&target.job) else {
            host::count("failed_scrapes", 1, &[("reason", "job")]);
            host::log(Level::Error, "no scrape configuration has this name", &[("job", &target.job)]);
            return Vec::new();
        };
        let known = self.targets.remove(&key(&target));
        let own = cost(&target);
        let others = self.state_bytes - known.as_ref().map_or(0, |state| own + state.series.cost());
        let room = Room::of(self.state_bytes_max, others + own);
        let has_room = known.is_some() || (self.targets.len() < TARGETS_MAX && room.state >= REPORTS_COST);
        let mut state = known.unwrap_or_default();
        let batches = digest(job, &target, &mut fetched, &mut state, room, has_room);
        self.state_bytes = others;
        if has_room {
            self.state_bytes += own + state.series.cost();
            self.targets.insert(key(&target), state);
        }
        batches
    }

    fn forget(&mut self, target: Target, at: u64) -> Vec<Batch> {
        let (Some(job), Some(mut state)) = (self.jobs.get(&target.job), self.targets.remove(&key(&target)))
        else {
            return Vec::new();
        };
        let own = cost(&target);
        self.state_bytes -= own + state.series.cost();
        let room = Room::of(self.state_bytes_max, self.state_bytes + own);
        let frame = Frame::of(&target.labels);
        let mut intake = Intake::new(job, &frame, &mut state.series, room, at, false);
        mark_all(&mut intake);
        reports(job).for_each(|(name, help, unit)| intake.report_gone(name, help, unit));
        let left = intake.series.count() as u64;
        if left > 0 {
            host::count("dropped_points", left, &[("reason", "a marker for which there was no room")]);
        }
        count_dropped(&intake);
        finish(intake, &target.url)
    }
}

/// Makes batches of one fetch.
fn digest(
    job: &Job,
    target: &Target,
    fetched: &mut Fetched,
    state: &mut State,
    room: Room,
    has_room: bool,
) -> Vec<Batch> {
    let frame = Frame::of(&target.labels);
    let answer = if has_room {
        answer(fetched, job)
    } else {
        let text = format!(
            "more than {TARGETS_MAX} targets, or than there is room for in state_mib: give some to another receiver"
        );
        Err(Failed { reason: "targets", text })
    };
    let has_starts = answer.as_ref().is_ok_and(|(_, format)| *format == ask::WITH_STARTS);
    let mut intake = Intake::new(job, &frame, &mut state.series, room, fetched.at, has_starts);
    let mut body_bytes = 0.0;
    let failed = match answer {
        Err(failed) => Some(failed),
        Ok((response, format)) => {
            body_bytes = response.body.len() as f64;
            intake.body_bytes = response.body.len();
            let read = read(&response.body, format, &mut intake);
            read.err().map(|text| Failed { reason: "body", text })
        }
    };
    // What was read makes room for what is written.
    fetched.answer = Err(String::new());
    match &failed {
        None => sweep(&mut intake),
        Some(Failed { reason, text }) => {
            host::count("failed_scrapes", 1, &[("reason", reason)]);
            if *text == BODY_TOO_LARGE {
                body_bytes = -1.0;
            }
            mark_all(&mut intake);
        }
    }
    report(&mut intake, fetched, failed.is_none(), body_bytes);
    count_dropped(&intake);
    let batches = finish(intake, &target.url);
    state.series.compact();
    tell(target, state, failed);
    batches
}

/// The answer that a target gave, and how it is spelled.
fn answer<'f>(fetched: &'f Fetched, job: &Job) -> Result<(&'f Response, weir_prometheus::Format), Failed> {
    let failed = |reason| move |text| Failed { reason, text };
    let response = fetched.answer.as_ref().map_err(|text| Failed { reason: "fetch", text: text.clone() })?;
    if response.status != 200 {
        let text = format!("server returned HTTP status {}", response.status);
        return Err(Failed { reason: "status", text });
    }
    let format = ask::format(response, job.fallback).map_err(failed("content_type"))?;
    Ok((response, format))
}

/// Writes markers of the series that this scrape has not seen.
fn sweep(intake: &mut Intake<'_>) {
    intake.release();
    let (most, sheet, at) = (intake.points_bytes_max(), &mut intake.sheet, intake.at);
    intake.series.sweep(|gone| sheet.marker(gone, at, most));
}

/// Writes markers of all series that there were before this scrape, and nothing that it brought.
fn mark_all(intake: &mut Intake<'_>) {
    intake.release();
    intake.sheet.clear();
    let (most, sheet, at) = (intake.points_bytes_max(), &mut intake.sheet, intake.at);
    intake.series.sweep_all(|gone| sheet.marker(gone, at, most));
}

/// Writes what is known of the scrape itself.
fn report(intake: &mut Intake<'_>, fetched: &Fetched, is_good: bool, body_bytes: f64) {
    let new = if is_good { intake.new } else { 0 };
    let job = intake.job;
    let values = [
        f64::from(u8::from(is_good)),
        fetched.took as f64 / 1e9,
        intake.scraped as f64,
        intake.added as f64,
        new as f64,
        job.timeout,
        job.limits.samples as f64,
        if is_good || body_bytes < 0.0 { body_bytes } else { 0.0 },
    ];
    for ((name, help, unit), value) in reports(job).zip(values) {
        intake.report(name, help, unit, value);
    }
}

/// What is said of each scrape of a job.
fn reports(job: &Job) -> impl Iterator<Item = (&'static str, &'static str, &'static str)> + use<> {
    let extra = if job.has_extra { &EXTRA_REPORTS[..] } else { &[] };
    REPORTS.iter().chain(extra).copied()
}

fn count_dropped(intake: &Intake<'_>) {
    for (reason, count) in &intake.dropped {
        host::count("dropped_points", *count, &[("reason", reason)]);
    }
}

fn finish(intake: Intake<'_>, url: &str) -> Vec<Batch> {
    let own = intake.own_resource();
    let Intake { sheet, series, .. } = intake;
    sheet.finish(series, own, Url::of(url).as_ref())
}

/// A URL as far as it may be told: parameters may be secrets.
fn without_query(url: &str) -> &str {
    url.split(['?', '#']).next().unwrap_or_default()
}

/// Says when a target begins to fail, in another way than before, and when it is well again.
fn tell(target: &Target, state: &mut State, failed: Option<Failed>) {
    let fault = failed.map(|failed| failed.text.chars().take(SHOWN_CHARS_MAX).collect::<String>());
    if fault == state.fault {
        return;
    }
    let about = [("job", &*target.job), ("target", without_query(&target.url))];
    match &fault {
        Some(fault) => host::log(
            Level::Warn,
            "scrape failed, nothing of it is taken",
            &[about[0], about[1], ("error", fault)],
        ),
        None => host::log(Level::Info, "scrape succeeds again", &about),
    }
    state.fault = fault;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: URLs with and without parameters.
    /// Guarantees: what is told of them has none, which may be secrets.
    #[test]
    fn parameters_are_not_told() {
        for url in
            ["http://h:1/m", "http://h:1/m?token=secret", "http://h:1/m#secret", "http://h:1/m?a=1#b?c"]
        {
            assert_eq!(without_query(url), "http://h:1/m");
        }
    }
}
