//! What is different between two configurations, in parts to be started and ended.

use std::collections::{BTreeMap, BTreeSet};

use super::parts::{self, Route};
use crate::config::{
    BatchConfig, Config, ExporterConfig, ExporterKind, Id, Kind, LogsConfig, PipelineId, QueueConfig,
    ReceiverConfig, ResourceConfig, ServiceConfig, TelemetryConfig,
};

/// Parts of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Changes<K> {
    /// To be started.
    pub(crate) added: BTreeSet<K>,
    /// To be ended and started anew.
    pub(crate) changed: BTreeSet<K>,
    /// To be ended.
    pub(crate) removed: BTreeSet<K>,
    /// To be removed, and not there: it had failed.
    pub(crate) gone: BTreeSet<K>,
    /// To be left alone.
    pub(crate) kept: BTreeSet<K>,
}

impl<K> Default for Changes<K> {
    fn default() -> Self {
        let (added, changed, removed, gone, kept) = Default::default();
        Self { added, changed, removed, gone, kept }
    }
}

impl<K: Ord + Clone> Changes<K> {
    fn tell(&self, name: fn(&K) -> String, to: &mut Changes<String>) {
        to.added.extend(self.added.iter().map(name));
        to.changed.extend(self.changed.iter().map(name));
        to.removed.extend(self.removed.iter().map(name));
        to.kept.extend(self.kept.iter().map(name));
    }

    fn between<T: PartialEq>(old: &BTreeMap<K, T>, new: &BTreeMap<K, T>) -> Self {
        let both = |same: bool| {
            let of = move |(key, value): &(&K, &T)| old.get(key).is_some_and(|old| (old == *value) == same);
            new.iter().filter(of).map(|(key, _)| key.clone()).collect()
        };
        let missing = |from: &BTreeMap<K, T>, of: &BTreeMap<K, T>| {
            of.keys().filter(|key| !from.contains_key(key)).cloned().collect()
        };
        let (added, removed, gone) = (missing(old, new), missing(new, old), BTreeSet::new());
        Self { added, changed: both(false), removed, gone, kept: both(true) }
    }

    /// To be ended, for whatever reason.
    pub(crate) fn ending(&self) -> impl Iterator<Item = &K> {
        self.changed.iter().chain(&self.removed)
    }

    /// To be started, for whatever reason.
    pub(crate) fn starting(&self) -> impl Iterator<Item = &K> {
        self.added.iter().chain(&self.changed)
    }

    /// What an unchanged part was built with is another: it is ended and started anew.
    pub(crate) fn outdate(&mut self, is_outdated: impl Fn(&K) -> bool) {
        let (outdated, kept): (BTreeSet<K>, _) =
            std::mem::take(&mut self.kept).into_iter().partition(is_outdated);
        self.kept = kept;
        self.changed.extend(outdated);
    }

    /// What should run and does not is started: it had failed.
    pub(crate) fn mend(&mut self, is_there: impl Fn(&K) -> bool, runs: impl Fn(&K) -> bool) {
        let (kept, failed) = std::mem::take(&mut self.kept).into_iter().partition(|key| runs(key));
        self.kept = kept;
        let failed: BTreeSet<K> = failed;
        self.changed.extend(failed);
        let (changed, absent) = std::mem::take(&mut self.changed).into_iter().partition(|key| is_there(key));
        self.changed = changed;
        let absent: BTreeSet<K> = absent;
        self.added.extend(absent);
        let (removed, gone) = std::mem::take(&mut self.removed).into_iter().partition(|key| is_there(key));
        self.removed = removed;
        let gone: BTreeSet<K> = gone;
        self.gone.extend(gone);
    }
}

/// What a reload does.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Doors.
    pub(crate) receivers: Changes<Id>,
    /// Pipelines; a changed one keeps its log.
    pub(crate) pipelines: Changes<PipelineId>,
    /// Exporters, each built once for all pipelines.
    pub(crate) exporters: Changes<Id>,
    /// Exporters on their cursors.
    pub(crate) deliveries: Changes<Route>,
}

impl Plan {
    /// What leads from one configuration to the other.
    pub(crate) fn between(old: &Config, new: &Config) -> Self {
        Self {
            receivers: Changes::between(&receivers(old), &receivers(new)),
            pipelines: Changes::between(&pipelines(old), &pipelines(new)),
            exporters: Changes::between(&exporters(old), &exporters(new)),
            deliveries: Changes::between(&deliveries(old), &deliveries(new)),
        }
    }

    /// What an unchanged exporter was built with is another: it is built anew, and goes on where it was.
    pub(crate) fn rebuild(&mut self, is_outdated: impl Fn(&Id) -> bool) {
        let (outdated, kept): (BTreeSet<Id>, _) =
            std::mem::take(&mut self.exporters.kept).into_iter().partition(is_outdated);
        self.exporters.kept = kept;
        let (changed, kept): (BTreeSet<Route>, _) =
            std::mem::take(&mut self.deliveries.kept).into_iter().partition(|(_, id)| outdated.contains(id));
        self.deliveries.kept = kept;
        self.exporters.changed.extend(outdated);
        self.deliveries.changed.extend(changed);
    }

    /// The parts by their names in the log.
    pub(crate) fn told(&self) -> Changes<String> {
        let mut told = Changes::default();
        self.receivers.tell(parts::name_of_door, &mut told);
        self.pipelines.tell(parts::name_of_pipeline, &mut told);
        self.deliveries.tell(parts::name_of_route, &mut told);
        told
    }
}

/// Receivers in use, without the places of what is written.
fn receivers(config: &Config) -> BTreeMap<Id, ReceiverConfig> {
    let without_places = |id: &Id| {
        let mut receiver = config.receivers[id].value.clone();
        receiver.limits_mut().into_iter().for_each(|(_, limits)| limits.request_at = None);
        (id.clone(), receiver)
    };
    parts::used(config, Kind::Receiver).into_iter().map(without_places).collect()
}

fn pipelines(config: &Config) -> BTreeMap<PipelineId, Vec<ResourceConfig>> {
    let resources = |id: &PipelineId| config.resources(id).into_iter().cloned().collect();
    config.pipelines.keys().map(|id| (id.clone(), resources(id))).collect()
}

fn exporters(config: &Config) -> BTreeMap<Id, (ExporterConfig, Vec<PipelineId>)> {
    let of = |id: &Id| (id.clone(), (config.exporters[id].value.clone(), carried(config, id)));
    parts::used(config, Kind::Exporter).into_iter().map(of).collect()
}

/// The pipelines whose logs go over a link: it names them when it begins, so another one makes another link of it.
pub(crate) fn carried(config: &Config, id: &Id) -> Vec<PipelineId> {
    let ExporterKind::Link(_) = config.exporters[id].value.kind else { return Vec::new() };
    parts::routes(config).into_iter().filter(|(_, used)| used == id).map(|(pipeline, _)| pipeline).collect()
}

fn deliveries(config: &Config) -> BTreeMap<Route, (BatchConfig, ExporterConfig, Vec<PipelineId>)> {
    let of = |route: Route| {
        let batch = config.batch(&route.0, &route.1);
        let exporter = config.exporters[&route.1].value.clone();
        let carried = carried(config, &route.1);
        (route, (batch, exporter, carried))
    };
    parts::routes(config).into_iter().map(of).collect()
}

/// The configuration that can run now, and the keys of `wanted` that hold only from the next start.
pub(crate) fn applicable(running: &Config, mut wanted: Config) -> (Config, Vec<&'static str>) {
    let mut later = Vec::new();
    let ServiceConfig { data_dir, plugin_dir, telemetry, health, events: _, memory, queue, drain_timeout: _ } =
        running.service.clone();
    let TelemetryConfig { logs: LogsConfig { level: _, format }, metrics } = telemetry;
    let QueueConfig { storage, budget_bytes, budget_at: _, segment_bytes, dead_letter_bytes } = queue;
    let to = &mut wanted.service;
    let mut hold = |key: &'static str, is_same: bool| {
        if !is_same {
            later.push(key);
        }
    };
    hold("service.data_dir", to.data_dir == data_dir);
    hold("service.plugin_dir", to.plugin_dir == plugin_dir);
    hold("service.telemetry.logs.format", to.telemetry.logs.format == format);
    hold("service.telemetry.metrics", to.telemetry.metrics == metrics);
    hold("service.health", to.health == health);
    hold("service.memory", to.memory == memory);
    hold("service.queue.storage", to.queue.storage == storage);
    hold("service.queue.budget_mib", to.queue.budget_bytes == budget_bytes);
    hold("service.queue.segment_mib", to.queue.segment_bytes == segment_bytes);
    hold("service.queue.dead_letter_mib", to.queue.dead_letter_bytes == dead_letter_bytes);
    // These hold at once.
    let (level, drain_timeout, events) = (to.telemetry.logs.level, to.drain_timeout, to.events.take());
    let telemetry = TelemetryConfig { logs: LogsConfig { level, format }, metrics };
    *to = ServiceConfig { data_dir, plugin_dir, telemetry, health, events, memory, queue, drain_timeout };
    (wanted, later)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "receivers:
  otlp/a: {protocols: {grpc: {endpoint: '127.0.0.1:1', limits: {request_mib: 4}}}}
  otlp/b: {protocols: {grpc: {endpoint: '127.0.0.1:2'}}}
processors:
  batch: {items: 100, timeout: 200ms}
  resource: {attributes: {edge: north}}
exporters:
  otlp/x: {endpoint: 'http://127.0.0.1:3', headers: {key: value}}
  otlp/y: {endpoint: 'http://127.0.0.1:4'}
service:
  drain_timeout: 5s
  pipelines:
    traces/a: {receivers: [otlp/a], processors: [batch, resource], exporters: [otlp/x, otlp/y]}
    traces/b: {receivers: [otlp/b], exporters: [otlp/y]}
";

    fn read(text: &str) -> Config {
        let draft = crate::config::parse("weir.yaml", text, &|_| None).expect("it is YAML");
        let is_wrong = |found: &crate::config::Diagnostic| found.severity == crate::config::Severity::Error;
        assert!(!draft.found.iter().any(is_wrong), "{:?}", draft.found);
        draft.config().clone()
    }

    /// What an edit starts, ends and changes, by name.
    #[track_caller]
    fn check(edit: impl Fn(&str) -> String, changed: &[&str], added: &[&str], removed: &[&str]) {
        let text = edit(FILE);
        assert_ne!(text, FILE, "the edit changes nothing");
        let told = Plan::between(&read(FILE), &read(&text)).told();
        let names = |names: &BTreeSet<String>| names.iter().cloned().collect::<Vec<_>>();
        assert_eq!(names(&told.changed), changed, "changed");
        assert_eq!(names(&told.added), added, "added");
        assert_eq!(names(&told.removed), removed, "removed");
    }

    /// Scenario: lines are added above, a value is written otherwise, keys change their order.
    /// Guarantees: nothing is restarted.
    #[test]
    fn a_place_in_the_file_is_no_setting() {
        check(|text| format!("# a comment\n\n{text}"), &[], &[], &[]);
        check(|text| text.replace("timeout: 200ms", "timeout: 0.2s"), &[], &[], &[]);
        check(
            |text| text.replace("{items: 100, timeout: 200ms}", "{timeout: 200ms, items: 100}"),
            &[],
            &[],
            &[],
        );
    }

    /// Scenario: one setting at a time changes: of an exporter, a batch, a processor, a receiver, a pipeline.
    /// Guarantees: only the parts that it is a setting of are restarted, started or ended.
    #[test]
    fn a_setting_restarts_what_it_is_a_setting_of() {
        let both = ["exporter otlp/y of pipeline traces/a", "exporter otlp/y of pipeline traces/b"];
        check(|text| text.replace("127.0.0.1:4", "127.0.0.1:5"), &both, &[], &[]);
        check(
            |text| text.replace("key: value", "key: other"),
            &["exporter otlp/x of pipeline traces/a"],
            &[],
            &[],
        );
        let of_a = ["exporter otlp/x of pipeline traces/a", "exporter otlp/y of pipeline traces/a"];
        check(|text| text.replace("items: 100", "items: 200"), &of_a, &[], &[]);
        check(|text| text.replace("edge: north", "edge: south"), &["pipeline traces/a"], &[], &[]);
        check(|text| text.replace("request_mib: 4", "request_mib: 5"), &["receiver otlp/a"], &[], &[]);
        check(|text| text.replace("127.0.0.1:2", "127.0.0.1:6"), &["receiver otlp/b"], &[], &[]);
        check(
            |text| text.replace("exporters: [otlp/y]}", "exporters: [otlp/x]}"),
            &[],
            &["exporter otlp/x of pipeline traces/b"],
            &["exporter otlp/y of pipeline traces/b"],
        );
        check(
            |text| text.replace("traces/b:", "traces/c:"),
            &[],
            &["exporter otlp/y of pipeline traces/c", "pipeline traces/c"],
            &["exporter otlp/y of pipeline traces/b", "pipeline traces/b"],
        );
        check(
            |text| text.replace("receivers: [otlp/b]", "receivers: [otlp/a]"),
            &[],
            &[],
            &["receiver otlp/b"],
        );
    }

    /// Scenario: a pipeline is added that sends over a link which two others use; one that does not use it.
    /// Guarantees: the first restarts the link for both, for it says at its beginning whose records follow; the second touches
    /// nothing of it.
    #[test]
    fn a_link_is_restarted_for_another_log_and_for_nothing_else() {
        let link =
            FILE.replace("otlp/y: {endpoint: 'http://127.0.0.1:4'}", "weir: {endpoint: '127.0.0.1:4'}");
        let link = link.replace("otlp/y", "weir");
        let plan = |line: &str| Plan::between(&read(&link), &read(&format!("{link}    {line}\n"))).told();
        let names = |names: BTreeSet<String>| names.into_iter().collect::<Vec<_>>();
        let told = plan("logs: {receivers: [otlp/a], exporters: [weir]}");
        assert_eq!(
            names(told.changed),
            ["exporter weir of pipeline traces/a", "exporter weir of pipeline traces/b"]
        );
        assert_eq!(names(told.added), ["exporter weir of pipeline logs", "pipeline logs"]);
        let told = plan("logs: {receivers: [otlp/a], exporters: [otlp/x]}");
        assert_eq!(names(told.changed), [""; 0]);
    }

    /// Scenario: a file changes what holds only from the next start, beside what holds at once.
    /// Guarantees: the first is told by its keys and does not run; the second runs; it is told until the file is as before.
    #[test]
    fn what_takes_a_start_is_told_and_held_back() {
        let running = read(FILE);
        let text = FILE.replace(
            "  drain_timeout: 5s\n",
            "  drain_timeout: 9s\n  data_dir: /elsewhere\n  queue: {budget_mib: 77}\n  telemetry: {logs: {level: debug}}\n",
        );
        let (config, later) = applicable(&running, read(&text));
        assert_eq!(later, ["service.data_dir", "service.queue.budget_mib"]);
        assert_eq!(config.service.data_dir, running.service.data_dir);
        assert_eq!(config.service.queue, running.service.queue);
        assert_eq!(config.service.drain_timeout, std::time::Duration::from_secs(9));
        assert_eq!(config.service.telemetry.logs.level.name(), "debug");
        assert_eq!(applicable(&config, read(&text)).1, later);
        assert!(applicable(&config, read(FILE)).1.is_empty());
    }

    /// Scenario: a door could not be bound, a delivery has panicked, and the file has not changed.
    /// Guarantees: both are started by the next reload.
    #[test]
    fn what_failed_is_started_again() {
        let config = read(FILE);
        let mut plan = Plan::between(&config, &config);
        plan.receivers.mend(|id| id.to_string() != "otlp/a", |id| id.to_string() != "otlp/a");
        let route = parts::routes(&config).remove(0);
        plan.deliveries.mend(|_| true, |running| *running != route);
        let told = plan.told();
        assert_eq!(told.added.into_iter().collect::<Vec<_>>(), ["receiver otlp/a"]);
        assert_eq!(told.changed.into_iter().collect::<Vec<_>>(), [parts::name_of_route(&route)]);
    }
}
