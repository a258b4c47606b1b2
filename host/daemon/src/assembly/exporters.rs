//! Exporters and their deliveries.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::Context;
use weir_exporter::debug::{Debug, Verbosity as DebugVerbosity};
use weir_exporter::delivery::Settings;
use weir_exporter::otlp::{Compression as OtlpCompression, Config as OtlpConfig, Otlp, Protocol};
use weir_exporter::{Delivery, ExporterCounts, Retry};
use weir_model::{BoxFuture, Exporter, Outcome, Push};
use weir_net::credential::Credential;
use weir_net::roots::Trust;
use weir_queue::{WhenFull, Wish};

use super::{Bench, NamedQueue, plugins};
use crate::command::Failure;
use crate::config::{
    self, Auth, Compression, ExporterConfig, ExporterKind, Id, Kept, OtlpExporter, OtlpProtocol, PipelineId,
    Verbosity,
};
use crate::telemetry::metrics::ExporterSource;

/// Joins every exporter of every pipeline to its cursor.
pub(crate) async fn deliveries(
    bench: &mut Bench<'_>,
    queues: &[NamedQueue],
) -> Result<Vec<(String, Delivery)>, Failure> {
    let config = bench.config;
    let mut built: BTreeMap<Id, Arc<dyn Exporter>> = BTreeMap::new();
    let mut deliveries = Vec::new();
    for ((pipeline, wanted), named) in config.pipelines.iter().zip(queues) {
        for id in &wanted.exporters {
            let id = &id.value;
            let exporter = match built.get(id) {
                Some(exporter) => Arc::clone(exporter),
                None => {
                    let exporter = build(bench, id).await?;
                    built.insert(id.clone(), Arc::clone(&exporter));
                    exporter
                }
            };
            let name = format!("exporter {id} of pipeline {pipeline}");
            deliveries.push((name, delivery(bench, pipeline, id, exporter, named)?));
        }
        let names: Vec<String> = wanted.exporters.iter().map(|id| id.value.to_string()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        named.queue.configured(&names, SystemTime::now());
    }
    Ok(deliveries)
}

fn delivery(
    bench: &mut Bench<'_>,
    pipeline: &PipelineId,
    id: &Id,
    exporter: Arc<dyn Exporter>,
    named: &NamedQueue,
) -> Result<Delivery, Failure> {
    let of = &bench.config.exporters[id].value.delivery;
    let when_full = match of.when_full {
        config::WhenFull::Refuse => WhenFull::Refuse,
        config::WhenFull::SkipOldest => WhenFull::SkipOldest,
    };
    let name = id.to_string();
    let subscribed = named.queue.subscribe(&name, when_full);
    let cursor =
        subscribed.with_context(|| format!("subscribe exporter {id} to the queue of pipeline {pipeline}"))?;
    let batch = bench.config.batch(pipeline, id);
    let counts = ExporterCounts::default();
    bench.sources.exporters.push(ExporterSource {
        exporter: name.clone(),
        pipeline: named.pipeline.clone(),
        counts: counts.clone(),
    });
    let settings = Settings {
        id: name.into(),
        wish: Wish { items_max: batch.items.into(), bytes_max: batch.bytes, linger: batch.timeout },
        retry: Retry { initial: of.retry.initial_interval, max: of.retry.max_interval },
        record_ends_max: of.retry.record_ends,
        counts,
    };
    let exporter: Arc<dyn Exporter> = match of.pool.instances {
        Some(in_flight_max) => Arc::new(Pooled { exporter, in_flight_max }),
        None => exporter,
    };
    Ok(Delivery::new(settings, cursor, exporter))
}

async fn build(bench: &mut Bench<'_>, id: &Id) -> Result<Arc<dyn Exporter>, Failure> {
    let config = bench.config;
    let ExporterConfig { delivery, kind } = &config.exporters[id].value;
    match kind {
        ExporterKind::Otlp(otlp) => {
            let config = otlp_config(id, otlp, delivery.timeout)?;
            let built = Otlp::new(config, &bench.client).with_context(|| format!("build exporter {id}"))?;
            Ok(Arc::new(built))
        }
        ExporterKind::Debug(debug) => {
            let verbosity = match debug.verbosity {
                Verbosity::Basic => DebugVerbosity::Basic,
                Verbosity::Detailed => DebugVerbosity::Detailed,
            };
            Ok(Arc::new(Debug { id: id.to_string(), verbosity }))
        }
        ExporterKind::Plugin(plugin) => {
            // The guest's requests end with its call, so one deadline is enough for both.
            let mut plugin = plugin.clone();
            let deadline = &mut plugin.plugin.limits.call_deadline;
            *deadline = delivery.timeout.min(*deadline);
            plugins::exporter(bench, id, &plugin, delivery.pool).await
        }
    }
}

fn otlp_config(id: &Id, otlp: &OtlpExporter, timeout: std::time::Duration) -> anyhow::Result<OtlpConfig> {
    let headers =
        otlp.headers.iter().map(|(name, value)| (name.clone(), value.expose().to_owned())).collect();
    Ok(OtlpConfig {
        endpoint: otlp.endpoint.value.clone(),
        protocol: match otlp.protocol {
            OtlpProtocol::Grpc => Protocol::Grpc,
            OtlpProtocol::Http => Protocol::Http,
        },
        compression: match otlp.compression {
            Compression::None => OtlpCompression::None,
            Compression::Gzip => OtlpCompression::Gzip,
            Compression::Zstd => OtlpCompression::Zstd,
        },
        headers,
        credential: otlp.auth.as_ref().map(|auth| credential(id, auth)).transpose()?,
        trust: trust(&otlp.tls),
        timeout,
    })
}

/// Whom an exporter's requests trust, and what they show.
pub(crate) fn trust(tls: &config::ClientTls) -> Trust {
    let path =
        |file: &Option<config::Located<std::path::PathBuf>>| file.as_ref().map(|file| file.value.clone());
    Trust { ca_file: path(&tls.ca_file), identity: path(&tls.cert_file).zip(path(&tls.key_file)) }
}

/// The `authorization` header of an exporter's requests (`auth:`).
pub(crate) fn credential(id: &Id, auth: &Auth) -> anyhow::Result<Credential> {
    let made = match auth {
        Auth::Bearer(Kept::Here(token)) => Credential::bearer(token.expose()),
        Auth::Bearer(Kept::File(file)) => Credential::bearer_file(&file.value),
        Auth::Basic { username, password: Kept::Here(password) } => {
            Credential::basic(username, password.expose())
        }
        Auth::Basic { username, password: Kept::File(file) } => Credential::basic_file(username, &file.value),
    };
    made.with_context(|| format!("auth of exporter {id}"))
}

/// An exporter with fewer pushes at once than it could have.
struct Pooled {
    exporter: Arc<dyn Exporter>,
    in_flight_max: usize,
}

impl Exporter for Pooled {
    fn push(&self, push: Push) -> BoxFuture<'_, Outcome> {
        self.exporter.push(push)
    }

    fn in_flight_max(&self) -> usize {
        self.in_flight_max.min(self.exporter.in_flight_max())
    }

    fn generation(&self) -> u64 {
        self.exporter.generation()
    }
}
