//! Own metrics in the text format, under names that users of the OpenTelemetry Collector know.
//!
//! What the Collector counts too has its name (`otelcol_receiver_accepted_spans` …, with `_total` as its newer
//! versions write counters); what only we have begins with `weir_`.
//!
//! Every label value is a configured id, a name from an enum, or a node's id, of which at most [`NODES_SHOWN_MAX`]
//! are shown (CVE-2023-45142: labels that peers choose). Plugins choose labels in one family, and `meter.rs` of the plugin
//! host bounds how many.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use weir_exporter::ExporterCounts;
use weir_model::count::{BySignal, PageCounts, ReceiverCounts, TlsCounts};
use weir_model::durations::Durations;
use weir_model::{Counter, Ledger, NodeRegistry, Reason, Signal};
use weir_pipeline::PipelineCounts;
use weir_plugin::counts::Retirement;
use weir_plugin::{EndKind, Meter, PluginCounts};
use weir_queue::{Queue, QueueCounts, Status};
use weir_receiver::opencensus::TranslationCounts;
use weir_receiver::scrape::counts::ScrapeCounts;

use crate::assembly::{Current, Link};
use crate::fleet::Roster;

/// Nodes that `/metrics` shows: the ones heard most recently. All of them are counted in `weir_nodes`.
pub const NODES_SHOWN_MAX: usize = 100;

const SIGNALS: [Signal; 3] = [Signal::Traces, Signal::Metrics, Signal::Logs];

/// One exporter of one pipeline.
#[derive(Debug, Clone)]
pub struct ExporterSource {
    /// The configured id.
    pub exporter: String,
    /// The pipeline's name.
    pub pipeline: String,
    /// What it counts.
    pub counts: ExporterCounts,
}

/// One pipeline with its log.
#[derive(Clone)]
pub struct PipelineSource {
    /// The pipeline's name.
    pub pipeline: String,
    /// What it counts.
    pub counts: PipelineCounts,
    /// Its log.
    pub queue: Arc<dyn Queue>,
    /// What the log counts.
    pub queue_counts: QueueCounts,
}

/// One configured id that a plugin serves.
#[derive(Debug, Clone)]
pub struct PluginSource {
    /// `receiver` or `exporter`.
    pub kind: &'static str,
    /// The configured id.
    pub id: String,
    /// What the host counts of it.
    pub counts: PluginCounts,
    /// What the plugin counts itself.
    pub meter: Meter,
}

/// A family of a plugin's counters without a further label: name without `_total`, help, and which it is.
type PluginCounter = (&'static str, &'static str, fn(&PluginCounts) -> &Counter);

/// Each line makes a family.
const PLUGIN_COUNTERS: [PluginCounter; 9] = [
    ("weir_plugin_calls", "Calls into the plugin that returned or ended", |c| &c.calls),
    ("weir_plugin_instances", "Instances of the plugin that were made", |c| &c.instances),
    ("weir_plugin_requests", "HTTP requests that were sent for the plugin", |c| &c.requests),
    ("weir_plugin_egress_bytes", "Bytes of the bodies of those requests", |c| &c.egress_bytes),
    (
        "weir_plugin_denials",
        "Requests of the plugin that were denied: not granted by name or by address",
        |c| &c.denials,
    ),
    ("weir_plugin_log_lines_suppressed", "Log lines of the plugin over its rate, not written", |c| {
        &c.log_lines_suppressed
    }),
    ("weir_plugin_meter_suppressed", "Additions to the plugin's own counters that had no room", |c| {
        &c.meter_suppressed
    }),
    ("weir_plugin_quarantines", "Times that the plugin was put into quarantine", |c| &c.quarantines),
    ("weir_plugin_calls_moved", "Calls that computed for so long that they left the doors' threads", |c| {
        &c.moved
    }),
];

/// Everything that is shown: what the living parts count.
#[derive(Clone, Default)]
pub struct Sources {
    /// Configured receivers.
    pub receivers: Vec<(String, ReceiverCounts)>,
    /// What translation has cost, by receiver.
    pub translations: Vec<(String, TranslationCounts)>,
    /// Pipelines.
    pub pipelines: Vec<PipelineSource>,
    /// Exporters.
    pub exporters: Vec<ExporterSource>,
    /// Receivers that fetch.
    pub scrapes: Vec<(String, ScrapeCounts)>,
    /// Pages of exporters that are fetched from.
    pub pages: Vec<(String, PageCounts)>,
    /// Doors with TLS: `receiver` or `exporter`, and the configured id.
    pub tls: Vec<(&'static str, String, TlsCounts)>,
    /// Plugins.
    pub plugins: Vec<PluginSource>,
    /// Receivers that agents come to.
    pub collectors: Vec<Arc<dyn Roster>>,
    /// Exporters that are links.
    pub(crate) links: Vec<Arc<Link>>,
}

/// The metrics page.
pub struct Metrics {
    registry: Registry,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

impl Metrics {
    /// The page over these sources, as they are when it is asked for.
    pub fn new(sources: Current<Sources>, ledger: Arc<Ledger>, nodes: Arc<NodeRegistry>) -> Self {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Pages { sources, ledger, nodes, started: Instant::now() }));
        Self { registry }
    }

    /// The page as text.
    ///
    /// # Errors
    /// Never in practice: a string takes all.
    pub fn render(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

/// The content type of the page, which Prometheus 3 insists on.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A page each time it is asked for.
struct Pages {
    sources: Current<Sources>,
    ledger: Arc<Ledger>,
    nodes: Arc<NodeRegistry>,
    started: Instant,
}

impl fmt::Debug for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pages")
    }
}

impl Collector for Pages {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let (ledger, nodes) = (Arc::clone(&self.ledger), Arc::clone(&self.nodes));
        Page { sources: self.sources.now(), ledger, nodes, started: self.started }.encode(encoder)
    }
}

struct Page {
    sources: Arc<Sources>,
    ledger: Arc<Ledger>,
    nodes: Arc<NodeRegistry>,
    started: Instant,
}

impl Page {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        self.receivers(&mut encoder)?;
        self.pipelines(&mut encoder)?;
        self.exporters(&mut encoder)?;
        self.pages(&mut encoder)?;
        super::secured::encode(&mut encoder, &self.sources.tls)?;
        self.queues(&mut encoder)?;
        super::scraped::encode(&mut encoder, &self.sources.scrapes)?;
        super::linked::of_collectors(&mut encoder, &self.sources.collectors)?;
        super::linked::of_agents(&mut encoder, &self.sources.links)?;
        self.plugins(&mut encoder)?;
        self.memory(&mut encoder)?;
        self.node_rows(&mut encoder)?;
        self.process(&mut encoder)
    }

    fn receivers(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let all = &self.sources.receivers;
        for signal in SIGNALS {
            let noun = noun(signal);
            let rows = all
                .iter()
                .map(|(id, counts)| (vec![("receiver", id.clone())], counts.accepted.of(signal).get()));
            let name = format!("otelcol_receiver_accepted_{noun}");
            counter(encoder, &name, "Items for which success was answered", rows)?;
            let by_reason = |pick: fn(&ReceiverCounts, Signal, Reason) -> u64| {
                let mut rows = Vec::new();
                for (id, counts) in all {
                    for reason in Reason::ALL {
                        let value = pick(counts, signal, reason);
                        if value > 0 {
                            rows.push((
                                vec![("receiver", id.clone()), ("reason", reason.to_string())],
                                value,
                            ));
                        }
                    }
                }
                rows
            };
            let refused = by_reason(|counts, signal, reason| counts.refused.of(signal, reason).get());
            let name = format!("otelcol_receiver_refused_{noun}");
            counter(encoder, &name, "Items of requests that were refused", refused)?;
            let dropped = by_reason(|counts, signal, reason| counts.dropped.of(signal, reason).get());
            let name = format!("weir_receiver_dropped_{noun}");
            counter(
                encoder,
                &name,
                "Items that are gone: cut as invalid, or taken without an answer",
                dropped,
            )?;
        }
        let of = |pick: fn(&ReceiverCounts) -> &Counter| {
            all.iter()
                .map(|(id, counts)| (vec![("receiver", id.clone())], pick(counts).get()))
                .collect::<Vec<_>>()
        };
        let help = "Requests, stream messages and datagrams";
        counter(encoder, "weir_receiver_requests", help, of(|c| &c.requests))?;
        let help = "Requests refused whole before their items could be counted";
        counter(encoder, "weir_receiver_requests_refused", help, of(|c| &c.requests_refused))?;
        self.datagrams_dropped(encoder)?;
        let help = "Datagrams that the kernel dropped because they came faster than they were read";
        counter(encoder, "weir_receiver_datagrams_missed", help, of(|c| &c.datagrams_missed))?;
        gauge(encoder, "weir_receiver_streams", "Streams open now", of(|c| &c.streams))?;
        self.translations(encoder)
    }

    fn datagrams_dropped(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let of_receiver = |(id, counts): &(String, ReceiverCounts)| {
            let row = |reason: Reason| {
                let labels = vec![("receiver", id.clone()), ("reason", reason.to_string())];
                (labels, counts.datagrams_dropped.of(reason).get())
            };
            Reason::ALL.map(row).into_iter().filter(|(_, value)| *value > 0).collect::<Vec<_>>()
        };
        let rows: Vec<_> = self.sources.receivers.iter().flat_map(of_receiver).collect();
        let help = "Datagrams that are gone before their items were known; nobody was told";
        counter(encoder, "weir_receiver_datagrams_dropped", help, rows)
    }

    fn translations(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut rows = Vec::new();
        for (id, counts) in &self.sources.translations {
            for (kind, counter) in [
                ("metrics_untranslatable", &counts.metrics_untranslatable),
                ("points_unset", &counts.points_unset),
                ("buckets_cut", &counts.buckets_cut),
                ("attributes_cut", &counts.attributes_cut),
                ("texts_cut", &counts.texts_cut),
                ("texts_repaired", &counts.texts_repaired),
                ("stack_traces_cut", &counts.stack_traces_cut),
            ] {
                rows.push((vec![("receiver", id.clone()), ("kind", kind.to_owned())], counter.get()));
            }
        }
        counter(
            encoder,
            "weir_receiver_translation_losses",
            "What OTLP has no place for, or what was over a limit",
            rows,
        )
    }

    fn pipelines(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let rows = |pick: fn(&PipelineCounts) -> &BySignal| {
            let row = |source: &PipelineSource| {
                SIGNALS
                    .map(|signal| {
                        (vec![("pipeline", source.pipeline.clone())], pick(&source.counts).of(signal).get())
                    })
                    .into_iter()
                    .filter(|(_, value)| *value > 0)
                    .collect::<Vec<_>>()
            };
            self.sources.pipelines.iter().flat_map(row).collect::<Vec<_>>()
        };
        let help = "Items that doors handed to the pipeline";
        counter(encoder, "otelcol_processor_incoming_items", help, rows(|counts| &counts.incoming))?;
        let help = "Items that the pipeline's log admitted";
        counter(encoder, "otelcol_processor_outgoing_items", help, rows(|counts| &counts.outgoing))
    }

    fn exporters(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        type Pick = fn(&ExporterCounts) -> &BySignal;
        let families: [(&str, &str, Pick); 4] = [
            ("otelcol_exporter_sent", "Items that the backend took", |counts| &counts.sent),
            ("otelcol_exporter_send_failed", "Items of pushes that failed and are kept", |counts| {
                &counts.send_failed
            }),
            ("weir_exporter_rejected", "Items that the backend left out of a push that it took", |counts| {
                &counts.rejected
            }),
            ("weir_exporter_dead_lettered", "Items that went to the dead-letter log", |counts| {
                &counts.dead_lettered
            }),
        ];
        for (name, help, pick) in families {
            for signal in SIGNALS {
                let rows = self.sources.exporters.iter();
                let rows = rows.map(|source| (labels(source), pick(&source.counts).of(signal).get()));
                let rows = rows.filter(|(_, value)| *value > 0).collect::<Vec<_>>();
                counter(encoder, &format!("{name}_{}", noun(signal)), help, rows)?;
            }
        }
        let of = |pick: fn(&ExporterCounts) -> u64| {
            self.sources
                .exporters
                .iter()
                .map(|source| (labels(source), pick(&source.counts)))
                .collect::<Vec<_>>()
        };
        counter(encoder, "weir_exporter_pushes", "Pushes made", of(|counts| counts.pushes.get()))?;
        let name = "weir_exporter_push_duration_seconds";
        let help = "How long pushes took, until the backend had answered; of a link, until the collector had persisted";
        let rows = self.sources.exporters.iter();
        histogram(encoder, name, help, rows.map(|source| (labels(source), &source.counts.durations)))?;
        let help = "Pushes during which a plugin's instance ended";
        counter(encoder, "weir_exporter_ends", help, of(|counts| counts.ends.get()))?;
        gauge(encoder, "weir_exporter_in_flight", "Pushes under way", of(|counts| counts.in_flight.get()))?;
        let help = "1 while the exporter waits for an operator (see /health for why)";
        gauge(encoder, "weir_exporter_paused", help, of(|counts| u64::from(counts.state().paused.is_some())))
    }

    fn pages(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let of = |pick: fn(&PageCounts) -> &Counter| {
            let row =
                |(id, counts): &(String, PageCounts)| (vec![("exporter", id.clone())], pick(counts).get());
            self.sources.pages.iter().map(row).collect::<Vec<_>>()
        };
        counter(
            encoder,
            "weir_page_served",
            "Fetches that the plugin answered",
            of(|counts| &counts.served),
        )?;
        let help =
            "Fetches that the plugin did not answer: not GET, too many at once, no instance, no memory";
        counter(encoder, "weir_page_refused", help, of(|counts| &counts.refused))?;
        let help = "Pages that were not taken whole: the reader was too slow, or left";
        counter(encoder, "weir_page_cut", help, of(|counts| &counts.cut))?;
        counter(
            encoder,
            "weir_page_bytes",
            "Bytes of pages, packed where they were",
            of(|counts| &counts.bytes),
        )?;
        gauge(encoder, "weir_page_under_way", "Pages under way", of(|counts| &counts.under_way))
    }

    fn queues(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let stati: Vec<(&PipelineSource, Status)> =
            self.sources.pipelines.iter().map(|source| (source, source.queue.status())).collect();
        let of = |pick: fn(&Status) -> u64| {
            let row = |(source, status): &(&PipelineSource, Status)| {
                (vec![("pipeline", source.pipeline.clone())], pick(status))
            };
            stati.iter().map(row).collect::<Vec<_>>()
        };
        gauge(encoder, "weir_queue_records", "Records kept", of(|status| status.records))?;
        gauge(encoder, "weir_queue_items", "Items kept", of(|status| status.items))?;
        gauge(encoder, "weir_queue_bytes", "Bytes on disk, or in memory", of(|status| status.bytes))?;
        gauge(
            encoder,
            "otelcol_exporter_queue_capacity",
            "The budget for them, in bytes",
            of(|status| status.budget_bytes),
        )?;
        gauge(encoder, "weir_queue_segments", "Segment files", of(|status| status.segments))?;
        gauge(
            encoder,
            "weir_queue_segments_quarantined",
            "Segment files set aside as damaged",
            of(|s| s.quarantined),
        )?;
        gauge(
            encoder,
            "weir_queue_sources",
            "Logs of other Weirs whose newest record is known",
            of(|s| s.sources),
        )?;
        gauge(
            encoder,
            "weir_queue_degraded",
            "1 while the queue is not as it should be",
            of(|s| s.degraded.is_some().into()),
        )?;
        gauge(encoder, "weir_queue_dead_letters", "Dead letters", of(|status| status.dead_letters))?;
        gauge(
            encoder,
            "weir_queue_dead_letter_bytes",
            "Bytes of dead letters",
            of(|status| status.dead_letter_bytes),
        )?;
        let mut pending = Vec::new();
        for (source, status) in &stati {
            for cursor in &status.cursors {
                let labels =
                    vec![("exporter", cursor.exporter.clone()), ("pipeline", source.pipeline.clone())];
                pending.push((labels, cursor.pending_records));
            }
        }
        gauge(encoder, "otelcol_exporter_queue_size", "Records that the exporter has not settled", pending)?;
        self.queue_counts(encoder)
    }

    fn queue_counts(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let of = |pick: fn(&QueueCounts) -> &Counter| {
            let row = |source: &PipelineSource| {
                (vec![("pipeline", source.pipeline.clone())], pick(&source.queue_counts).get())
            };
            self.sources.pipelines.iter().map(row).collect::<Vec<_>>()
        };
        counter(
            encoder,
            "weir_queue_appended_records",
            "Records whose receipt was given",
            of(|c| &c.appended_records),
        )?;
        counter(encoder, "weir_queue_rounds", "Append rounds, one fdatasync each", of(|c| &c.rounds))?;
        let help =
            "Records of a round that a crash came into, dropped at the start; no receipt is known for them";
        counter(encoder, "weir_queue_torn_records", help, of(|c| &c.torn))?;
        counter(
            encoder,
            "weir_queue_sync_failures",
            "fdatasync calls that failed",
            of(|c| &c.sync_failures),
        )?;
        let lost = |pick: fn(&QueueCounts) -> &BySignal| {
            let row = |source: &PipelineSource| {
                let sum = SIGNALS.iter().map(|signal| pick(&source.queue_counts).of(*signal).get()).sum();
                (vec![("pipeline", source.pipeline.clone())], sum)
            };
            self.sources.pipelines.iter().map(row).collect::<Vec<_>>()
        };
        let help = "Items that another Weir has sent again, not stored twice";
        counter(encoder, "weir_queue_duplicate_items", help, lost(|counts| &counts.duplicates))?;
        let help = "Logs of other Weirs forgotten for want of room: what they send again is stored again";
        counter(encoder, "weir_queue_forgotten_sources", help, of(|counts| &counts.forgotten))?;
        let help = "Items lost because an exporter may skip the oldest";
        counter(encoder, "weir_queue_skipped_items", help, lost(|counts| &counts.skipped))?;
        let help = "Items lost from memory because their exporter was taken out of the configuration";
        counter(encoder, "weir_queue_removed_items", help, lost(|counts| &counts.removed))?;
        let help = "Items lost because they could not be read back";
        counter(encoder, "weir_queue_damaged_items", help, lost(|counts| &counts.damaged))
    }

    fn plugins(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let all = &self.sources.plugins;
        for (name, help, pick) in PLUGIN_COUNTERS {
            let rows = all.iter().map(|source| (plugin_labels(source), pick(&source.counts).get()));
            counter(encoder, name, help, rows)?;
        }
        let rows = all.iter().map(|source| (plugin_labels(source), source.counts.memory_peak_bytes.get()));
        let help = "The most memory that one instance of the plugin ever had";
        gauge(encoder, "weir_plugin_memory_peak_bytes", help, rows)?;
        let rows = all.iter().map(|source| (plugin_labels(source), source.counts.quarantined.get()));
        gauge(encoder, "weir_plugin_quarantined", "1 while the plugin is in quarantine, else 0", rows)?;
        let retired = all.iter().flat_map(|source| {
            Retirement::ALL.map(|why| {
                (with(plugin_labels(source), "reason", why.name()), source.counts.retired.of(why).get())
            })
        });
        let help = "Instances of the plugin that were dropped between calls, by reason";
        counter(encoder, "weir_plugin_retired", help, retired)?;
        self.plugin_durations(encoder)?;
        let of_outcomes = |items: bool| {
            let mut rows = Vec::new();
            for source in all.iter().filter(|source| source.kind == "exporter") {
                for (outcome, pushes, of_items) in source.counts.outcomes.iter() {
                    let value = if items { of_items.get() } else { pushes.get() };
                    rows.push((with(plugin_labels(source), "outcome", outcome), value));
                }
            }
            rows
        };
        counter(encoder, "weir_plugin_pushes", "Pushes to the plugin by what it said", of_outcomes(false))?;
        counter(encoder, "weir_plugin_items", "Items of those pushes", of_outcomes(true))?;
        let ends = all.iter().flat_map(|source| {
            EndKind::ALL.map(|kind| {
                (with(plugin_labels(source), "end", kind.name()), source.counts.ends.of(kind).get())
            })
        });
        counter(encoder, "weir_plugin_ends", "Instances of the plugin that ended in a call, by how", ends)?;
        self.plugin_meters(encoder)
    }

    fn plugin_durations(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let name = "weir_plugin_call_duration_seconds";
        let help = "How long calls into the plugin took, waiting included";
        let rows = self.sources.plugins.iter();
        histogram(encoder, name, help, rows.map(|source| (plugin_labels(source), &source.counts.durations)))
    }

    /// What plugins count themselves: one family, so that no plugin can choose the name of one.
    fn plugin_meters(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "What the plugin counts itself, by the counter's name";
        let mut family = encoder.encode_descriptor("weir_plugin_meter", help, None, MetricType::Counter)?;
        for source in &self.sources.plugins {
            for (series, value) in source.meter.read() {
                let own = [("kind", source.kind), ("id", &source.id), ("counter", &series.counter)];
                let mut labels: Vec<(Cow<'_, str>, &str)> =
                    own.into_iter().map(|(name, value)| (name.into(), value)).collect();
                labels.extend(series.labels.iter().map(|(name, value)| (guests(name), value.as_str())));
                let row = Row { kind: MetricType::Counter, value };
                row.encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }

    fn memory(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let one = |value: u64| [(Vec::new(), value)];
        gauge(encoder, "weir_memory_used_bytes", "Bytes claimed in the ledger", one(self.ledger.used()))?;
        gauge(
            encoder,
            "weir_memory_peak_bytes",
            "The most bytes ever claimed at once",
            one(self.ledger.peak()),
        )?;
        gauge(encoder, "weir_memory_limit_bytes", "The ledger's budget", one(self.ledger.limit()))?;
        counter(encoder, "weir_memory_denied", "Claims that found no room", one(self.ledger.denied()))
    }

    fn node_rows(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let rows = self.nodes.list(Instant::now());
        gauge(
            encoder,
            "weir_nodes",
            "Nodes heard in the last 15 minutes",
            [(Vec::new(), rows.len() as u64)],
        )?;
        let of = |pick: fn(&weir_model::registry::Row) -> u64| {
            let row = |row: &weir_model::registry::Row| {
                let labels = vec![
                    ("node", row.node.id.to_string()),
                    ("service", row.node.service.clone()),
                    ("host", row.node.host.clone()),
                ];
                (labels, pick(row))
            };
            rows.iter().take(NODES_SHOWN_MAX).map(row).collect::<Vec<_>>()
        };
        counter(encoder, "weir_node_items", "Items of the node that were taken", of(|row| row.items))?;
        counter(encoder, "weir_node_batches", "Batches of the node that were taken", of(|row| row.batches))?;
        counter(
            encoder,
            "weir_node_refusals",
            "Requests of the node that were refused",
            of(|row| row.refusals),
        )?;
        gauge(encoder, "weir_node_streams", "Streams of the node that are open", of(|row| row.streams.into()))
    }

    fn process(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let one = |value: u64| [(Vec::new(), value)];
        let up = self.started.elapsed().as_secs();
        gauge(encoder, "otelcol_process_uptime_seconds", "Seconds since the start", one(up))?;
        gauge(encoder, "otelcol_process_cpu_milliseconds", "Processor time used", one(cpu_millis()))?;
        gauge(encoder, "otelcol_process_memory_rss_bytes", "Resident memory", one(resident_bytes()))
    }
}

fn plugin_labels(source: &PluginSource) -> Labels {
    vec![("kind", source.kind.to_owned()), ("id", source.id.clone())]
}

fn with(mut labels: Labels, name: &'static str, value: &str) -> Labels {
    labels.push((name, value.to_owned()));
    labels
}

/// A guest's label beside ours: Prometheus's own word for one whose name is taken already. No two names become one.
fn guests(name: &str) -> Cow<'_, str> {
    const OURS: [&str; 6] = ["kind", "id", "counter", "le", "job", "instance"];
    if OURS.contains(&name) || name.starts_with("exported_") || name.starts_with("__") {
        return format!("exported_{name}").into();
    }
    name.into()
}

fn labels(source: &ExporterSource) -> Labels {
    vec![("exporter", source.exporter.clone()), ("pipeline", source.pipeline.clone())]
}

/// The Collector's word for the items of a signal.
fn noun(signal: Signal) -> &'static str {
    match signal {
        Signal::Traces => "spans",
        Signal::Metrics => "metric_points",
        Signal::Logs => "log_records",
    }
}

/// Resident memory from `/proc/self/statm`, in bytes; 0 where there is none.
fn resident_bytes() -> u64 {
    let Ok(text) = std::fs::read_to_string("/proc/self/statm") else { return 0 };
    let pages = text.split_ascii_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0);
    pages * rustix::param::page_size() as u64
}

/// Processor time of all threads from `/proc/self/stat`, in milliseconds; 0 where there is none.
fn cpu_millis() -> u64 {
    let Ok(text) = std::fs::read_to_string("/proc/self/stat") else { return 0 };
    // The second field is the program's name in brackets and may hold spaces; utime and stime are fields 14 and 15.
    let Some((_, fields)) = text.rsplit_once(')') else { return 0 };
    let ticks: u64 =
        fields.split_ascii_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    ticks.saturating_mul(1000) / rustix::param::clock_ticks_per_second().max(1)
}

// === families ===

type Labels = Vec<(&'static str, String)>;

pub(super) fn counter(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    rows: impl IntoIterator<Item = (Labels, u64)>,
) -> fmt::Result {
    family(encoder, name, help, MetricType::Counter, rows)
}

pub(super) fn gauge(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    rows: impl IntoIterator<Item = (Labels, u64)>,
) -> fmt::Result {
    family(encoder, name, help, MetricType::Gauge, rows)
}

fn family(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    kind: MetricType,
    rows: impl IntoIterator<Item = (Labels, u64)>,
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, kind)?;
    for (labels, value) in rows {
        let row = Row { kind, value };
        row.encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

fn histogram<'a>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    rows: impl IntoIterator<Item = (Labels, &'a Durations)>,
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
    let bound = |bound: Option<Duration>| bound.map_or(f64::INFINITY, |bound| bound.as_secs_f64());
    for (labels, durations) in rows {
        let buckets: Vec<(f64, u64)> =
            durations.buckets().map(|(least, count)| (bound(least), count)).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        let mut encoder = family.encode_family(&labels)?;
        encoder.encode_histogram::<NoLabelSet>(durations.sum().as_secs_f64(), count, &buckets, None)?;
    }
    Ok(())
}

struct Row {
    kind: MetricType,
    value: u64,
}

impl EncodeMetric for Row {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        match self.kind {
            MetricType::Counter => encoder.encode_counter::<NoLabelSet, _, u64>(&self.value, None),
            // Foreign: the other kinds are not made here.
            _ => encoder.encode_gauge(&i64::try_from(self.value).unwrap_or(i64::MAX)),
        }
    }

    fn metric_type(&self) -> MetricType {
        self.kind
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(plugins: Vec<PluginSource>) -> String {
        let sources = Sources { plugins, ..Sources::default() };
        Metrics::new(sources.into(), Ledger::new(1 << 20), Arc::default()).render().unwrap()
    }

    fn source(id: &str) -> PluginSource {
        let (counts, meter) = (PluginCounts::default(), Meter::default());
        PluginSource { kind: "exporter", id: id.to_owned(), counts, meter }
    }

    /// Scenario: counters of a plugin, one of which it keeps itself with labels that are named like ours, hold quotes and
    /// line breaks, and would be one name if ours were only put in front.
    /// Guarantees: each has its family and its labels, values are escaped, no series is there twice.
    #[test]
    fn a_plugin_is_shown_in_families_of_its_own() {
        let zipkin = source("zipkin/eu");
        zipkin.counts.calls.add(3);
        zipkin.counts.ends.of(EndKind::Trap).add(2);
        let labels = [("id", "a\"b"), ("exported_id", "c\\"), ("le", "1"), ("code", "x\ny")];
        assert!(zipkin.meter.add("spans", 7, &labels));
        assert!(zipkin.meter.add("spans_total", 8, &[]));
        let page = page(vec![zipkin, source("b")]);
        for line in [
            r#"weir_plugin_calls_total{kind="exporter",id="zipkin/eu"} 3"#,
            r#"weir_plugin_calls_total{kind="exporter",id="b"} 0"#,
            r#"weir_plugin_ends_total{kind="exporter",id="zipkin/eu",end="trap"} 2"#,
            r#"weir_plugin_pushes_total{kind="exporter",id="b",outcome="accepted"} 0"#,
            r#"weir_plugin_memory_peak_bytes{kind="exporter",id="b"} 0"#,
            r#"weir_plugin_call_duration_seconds_bucket{le="0.0001",kind="exporter",id="b"} 0"#,
            r#"weir_plugin_call_duration_seconds_bucket{le="+Inf",kind="exporter",id="b"} 0"#,
            r#"weir_plugin_meter_total{kind="exporter",id="zipkin/eu",counter="spans_total"} 8"#,
        ] {
            assert!(page.lines().any(|shown| shown == line), "no {line} in\n{page}");
        }
        let spans = page.lines().find(|line| line.contains(r#"counter="spans","#)).unwrap();
        for part in
            [r#"exported_id="a\"b""#, r#"exported_exported_id="c\\""#, r#"exported_le="1""#, r#"code="x"#]
        {
            assert!(spans.contains(part), "no {part} in {spans}");
        }
        let mut names: Vec<&str> = page
            .lines()
            .filter(|line| !line.starts_with('#'))
            .map(|line| line.rsplit_once(' ').unwrap().0)
            .collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all, "a series is there twice");
    }
}
